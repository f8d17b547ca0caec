"""The moving average of the weights: what it is, and that it is what a run validates, selects and tests."""

import lightning as L
import pytest
import torch
from common import NOISE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from bench import train
from bench.assemble import build, prepare_machine
from bench.averaging import MovingAverage
from bench.callbacks import quiet
from bench.checkpoint import is_head, loader_of
from bench.config import check
from bench.errors import ConfigError
from bench.store import Store


class Given(L.LightningModule):
    """Its one weight and one buffer take the given values, a step each."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(0))

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        closure()
        self.weight.data.fill_(self.values[batch_idx])
        self.steps += 1
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@settings(max_examples=20)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(0.01, 0.999))
def test_it_is_the_exponential_moving_average(values, decay):
    average = MovingAverage(decay)
    module = Given(values)
    with quiet():
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[average],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(range(len(values)), batch_size=1))
    wanted = 0.0
    for t, value in enumerate(values, start=1):
        d = min(decay, (t - 1) / (t + 9))
        wanted = d * wanted + (1 - d) * value
    assert average.average().weight.item() == pytest.approx(wanted, abs=1e-9)
    assert average.average().steps.item() == len(values)


def test_the_average_goes_where_the_weights_go():
    average, module = MovingAverage(0.9), Given([])
    average.setup(L.Trainer(logger=False, accelerator="cpu"), module, "fit")
    module.to("meta")  # after that hook Lightning moves the module to the GPU
    average.on_fit_start(L.Trainer(logger=False, accelerator="cpu"), module)
    assert {tensor.device.type for tensor in average.average().state_dict().values()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_averages_as_a_cpu_does(composed, tmp_path):
    cells = ("model=lenet", "data=digits", "trainer.ema=0.9", "trainer.precision=32-true", "trainer.max_epochs=1")
    cpu, gpu = (
        train.run(composed(*cells, "progress=none", f"trainer.accelerator={name}", f"paths.results={tmp_path / name}"))
        for name in ("cpu", "gpu")
    )
    assert (gpu.status, gpu.metrics["val"]["loss"]) == ("ok", pytest.approx(cpu.metrics["val"]["loss"], rel=1e-2))


class Watch(L.Callback):
    """Averages the module's state itself, after each step; keeps it, and the weights, of each epoch."""

    def __init__(self, decay):
        self.decay, self.steps, self.state, self.epochs, self.raw = decay, 0, {}, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1
        d = min(self.decay, (self.steps - 1) / (self.steps + 9))
        now = {name: value.double().clone() for name, value in pl_module.state_dict().items()}
        counts = [name for name in now if name.endswith("num_batches_tracked")]
        self.state = {name: d * self.state.get(name, 0) + (1 - d) * value for name, value in now.items()}
        self.state |= {name: now[name] for name in counts}
        if batch_idx + 1 == len(loader_of(trainer)):
            self.epochs.append(self.state)
            self.raw.append(now)


@pytest.mark.parametrize("model", ["lenet", "nin_bn", "googlenet"])
def test_a_run_selects_validates_and_tests_the_average(composed, noise, tmp_path, model):
    images = ["data=digits", "trainer.max_epochs=2"] if model == "lenet" else [*NOISE, noise]
    cfg = composed(f"model={model}", "trainer.ema=0.9", "trainer.precision=32-true", "progress=none", *images)
    watch = Watch(0.9)
    record = train.run(cfg, watchers=[watch])
    folder = Store(tmp_path / "results").path(record.run_id)
    state = torch.load(folder / "checkpoints/selected.ckpt", weights_only=True)["state_dict"]
    average = {n: v for n, v in watch.epochs[record.selected_epoch - 1].items() if not is_head(n)}
    assert state.keys() == average.keys()
    for name, value in average.items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-4, atol=1e-5)
    measured = by_hand(cfg, state)
    assert measured["loss"] == pytest.approx(record.metrics["val"]["loss"], rel=1e-4)
    assert measured["test"] == record.metrics["test"]["top1"]
    raw = by_hand(cfg, watch.raw[record.selected_epoch - 1])
    assert raw["loss"] != pytest.approx(measured["loss"], rel=1e-3)


def by_hand(cfg, state):
    """Validation loss and test top-1 of a state."""
    resolved = check(cfg)
    data, module = build(cfg, resolved, prepare_machine(resolved))
    module.load_state_dict(state, strict=False)
    module.eval()
    with torch.inference_mode():
        for batch in data.val_dataloader():
            module.validation_step(batch, 0)
        for batch in data.test_dataloader():
            module.test_step(batch, 0)
    return {"loss": module.val_metrics.compute()["loss"], "test": module.test_metrics.compute()["top1"]}


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "yes"])
def test_a_decay_that_is_none_is_refused(composed, value):
    with pytest.raises(ConfigError, match=r"^trainer\.ema=.*: must be null or a number between 0 and 1$"):
        check(composed(f"trainer.ema={value}"))
