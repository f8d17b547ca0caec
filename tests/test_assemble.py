"""What settings make of the objects that train: clipping, compilation, precision, rates and decay."""

import csv
import io
import itertools
import math
import shutil

import lightning as L
import pytest
import torch
from common import NOISE, SHORT
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from bench import assemble, train
from bench.assemble import build, make_data
from bench.errors import ConfigError
from bench.models import Output
from bench.module import Classifier

QUIET = (*SHORT, "progress=none")


@pytest.mark.parametrize("norm", [None, 0.5])
def test_the_norm_to_clip_to_reaches_the_module(composed, norm):
    cfg = composed("model=lenet", *SHORT, f"trainer.clip_norm={'null' if norm is None else norm}")
    _, module = build(cfg, train.config.check(cfg), torch.device("cpu"))
    assert module.clip_norm == norm


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("~augment/normalize", "augment.normalize=None: is not a normalisation; write augment/normalize=channel"),
        (
            "trainer.devices=16 data.batch_size=32 data.val_size=10",
            "trainer.devices=16: there are only 10 validation images to share",
        ),
    ],
)
def test_data_that_cannot_be_made_are_refused(composed, setting, said):
    cfg = composed("model=lenet", *(one for one in SHORT if "val_size" not in one), *setting.split())
    with pytest.raises(ValueError, match=said):
        make_data(cfg, train.config.check(cfg), torch.device("cpu"))


class Flawed(nn.Module):
    """A network that anyone might have written."""

    def __init__(self, flaw: str):
        super().__init__()
        self.flaw, self.layer = flaw, nn.Linear(3 * 32 * 32, 10)

    def forward(self, images):
        assert self.flaw != "refuses", "of another size"
        if self.flaw == "width":
            images = images[..., 1:]
        if self.flaw == "draws" and float(images.sum()) == 0:  # reads values, so that it is tried on the CPU
            images = nn.functional.dropout(images)
        logits = self.layer(images.flatten(1))
        return logits if self.flaw == "tensor" else Output(logits[:, :9] if self.flaw == "classes" else logits)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("width", r"data\.image_size=32: lenet fails on such images: .*2976"),
        ("refuses", "lenet fails on such images: AssertionError: of another size"),
        ("tensor", r"^model\.net: lenet must return bench\.models\.Output with logits \(N, 10\), not Tensor"),
        ("classes", r"Output with logits \(N, 10\), not logits \(2, 9\)"),
    ],
)
def test_networks_are_tried_out_before_images_are_decoded(composed, flaw, said, monkeypatch):
    cfg = composed("model=lenet", *SHORT)
    monkeypatch.setattr(assemble, "make_model", lambda *_: Flawed(flaw))
    monkeypatch.setattr(assemble, "make_data", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ConfigError, match=said):
        build(cfg, train.config.check(cfg), torch.device("cpu"))


class Unmade(nn.Module):
    """Another."""

    def __init__(self, error: str, **_):
        super().__init__()
        raise {"name": NameError, "memory": torch.OutOfMemoryError}[error](error)


def test_a_mistake_in_the_constructor_of_a_network_is_told_in_a_line_but_no_lack_of_memory(composed):
    def built(error):
        cfg = composed(*SHORT, f"model.net._target_={__name__}.Unmade", f"+model.net.error={error}")
        build(cfg, train.config.check(cfg), torch.device("cpu"))

    with pytest.raises(ConfigError, match=r"^model\.net: NameError: name \(HYDRA_FULL_ERROR=1 shows where\)$"):
        built("name")
    with pytest.raises(InstantiationException):
        built("memory")


def test_trying_networks_out_leaves_the_random_numbers_alone(composed):
    resolved = train.config.check(composed("model=lenet", *SHORT))
    network = Flawed("draws")
    torch.manual_seed(0)
    assemble.try_sizes(network, resolved)
    drawn = torch.rand(3)
    assert drawn == pytest.approx(torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_pretrained_weights_that_do_not_fit_are_refused_before_a_sweep(composed):
    cfg = composed("model=vgg16", "model.net.depth=11", "model.pretrained=imagenet", "data.image_size=224")
    with pytest.raises(ConfigError, match="pretrained weights do not fit VGG"):
        assemble.try_out(cfg, train.config.resolved(cfg), set())


def test_the_state_of_anyones_optimizer_and_schedule_holds_plain_lists(composed):
    cfg = composed(
        "model=lenet", *SHORT, "optimizer._target_=torch.optim.NAdam", "~optimizer.fused", "scheduler=step"
    )  # fmt: skip
    optimizer, scheduler = assemble.make_optimizer(cfg)
    made = optimizer([nn.Parameter(torch.zeros(1))])
    content = io.BytesIO()
    torch.save([made.state_dict(), scheduler(made, 10).state_dict()], content)
    content.seek(0)
    state, _ = torch.load(content, weights_only=True)  # as checkpoints are loaded
    assert list(state["param_groups"][0]["betas"]) == [0.9, 0.95]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same_and_its_weights_keep_their_names(composed, noise, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    settings = ["model=lenet", *NOISE, noise, "progress=none", "trainer.precision=32-true"]
    plain, compiled = (train.run(composed(*settings, f"trainer.compile={mode}")) for mode in ("none", "default"))
    assert (tmp_path / "compiled").is_dir()
    assert compiled.status == "ok", compiled.error
    assert compiled.run_id != plain.run_id
    assert compiled.macs == plain.macs
    for split in ("train", "val", "test"):
        assert compiled.metrics[split]["loss"] == pytest.approx(plain.metrics[split]["loss"], abs=1e-3)
    file = tmp_path / "results/runs" / compiled.run_id / "checkpoints/selected.ckpt"
    weights = torch.load(file, weights_only=True)["state_dict"]
    assert "model.features.0.weight" in weights


def test_each_cell_of_a_process_compiles_all_of_its_network(composed, monkeypatch):
    graphs, compiling = [], torch.nn.Module.compile

    def counting(graph, inputs):
        graphs[-1] += 1
        return graph

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: compiling(self, backend=counting))
    for model in ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn"):  # whose code is the same
        cfg = composed(f"model={model}", *QUIET, "trainer.compile=default")
        _, module = train.build(cfg, train.config.check(cfg), torch.device("cpu"))
        graphs.append(0)
        for images, training in itertools.product((2, 3), (True, False)):
            module.model.train(training)
            with torch.set_grad_enabled(training):
                module.model(torch.zeros(images, 3, 32, 32))
    assert graphs[0] >= 2
    assert len(set(graphs)) == 1


@pytest.mark.parametrize(("precision", "products"), [("auto", "high"), ("bf16-mixed", "high"), ("32-true", "highest")])
def test_products_may_be_tf32_in_training_unless_32_bits_are_asked_for_and_never_in_the_test(
    composed, precision, products, monkeypatch
):
    seen = {}

    def watch(name):
        plain = getattr(Classifier, name)

        def step(self, *args):
            seen[name] = torch.get_float32_matmul_precision()
            return plain(self, *args)

        monkeypatch.setattr(Classifier, name, step)

    watch("training_step")
    watch("test_step")
    record = train.run(composed("model=lenet", *QUIET, f"trainer.precision={precision}"))
    assert record.status == "ok", record.error
    assert seen == {"training_step": products, "test_step": "highest"}


@pytest.mark.parametrize("asked", [True, False])
def test_deterministic_operations_are_used_if_asked_for(composed, asked):
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *_):
            seen.append(torch.are_deterministic_algorithms_enabled())

    try:
        record = train.run(composed("model=lenet", *QUIET, f"trainer.deterministic={asked}"), watchers=[Watch()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert record.status == "ok", record.error
    assert set(seen) == {asked}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("scheduler", ["one_cycle", "cosine", "step", "constant"])
def test_every_optimizer_and_scheduler_trains_at_its_rates_and_weights_alone_decay(
    composed, tmp_path, optimizer, scheduler
):
    cfg = composed("model=lenet", *QUIET, f"optimizer={optimizer}", f"scheduler={scheduler}")
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            (used,) = trainer.optimizers
            seen.append([(group["lr"], group["weight_decay"]) for group in used.param_groups])

    record = train.run(cfg, watchers=[Watch()])
    assert record.status == "ok", record.error
    assert math.isfinite(record.metrics["train"]["loss"])
    alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optimizer.lr)
    schedule = instantiate(cfg.scheduler)(alone, len(seen))
    for groups in seen:
        rate = pytest.approx(alone.param_groups[0]["lr"])
        assert groups == [(rate, cfg.optimizer.weight_decay), (rate, 0.0)]
        alone.step()
        schedule.step()
    assert len(seen) > 2
    with (tmp_path / "results/runs" / record.run_id / "metrics.csv").open() as file:
        told = [float(row["lr"]) for row in csv.DictReader(file)]
    steps = len(seen) // record.epochs
    assert told == pytest.approx([seen[steps * (i + 1) - 1][0][0] for i in range(record.epochs)])  # of its last step
