"""What settings make of the objects that train: clipping, compilation, precision, rates and decay."""

import csv
import itertools
import math
import shutil

import lightning as L
import pytest
import torch
from common import NOISE, SHORT
from hydra.utils import instantiate

from bench import train
from bench.assemble import build
from bench.module import Classifier

QUIET = (*SHORT, "progress=none")


@pytest.mark.parametrize("norm", [None, 0.5])
def test_the_norm_to_clip_to_reaches_the_module(composed, norm):
    cfg = composed("model=lenet", *SHORT, f"trainer.clip_norm={'null' if norm is None else norm}")
    _, module = build(cfg, train.config.check(cfg), torch.device("cpu"))
    assert module.clip_norm == norm


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


@pytest.mark.parametrize(("precision", "products"), [("auto", "high"), ("32-true", "highest")])
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
