"""Training by two processes on a CPU, with gloo."""

import csv
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch
from common import SHORT, files, one_line, wait_for
from omegaconf import OmegaConf
from processes import finish, start
from torch import nn

from bench import machine
from bench.assemble import build, make_model
from bench.distributed import BatchNormSync
from bench.store import Store

# in 32 bits, without dropout, with a last batch of 5 that two processes cannot share out evenly
CELL = ("model=lenet", *SHORT, "trainer.precision=32-true", "trainer.max_epochs=3")


def run(root, *settings, spawns=False):
    """The record, rows, predictions and weights of a cell that is trained in a process of its own."""
    log = root.with_suffix(".log")
    assert finish(start(*CELL, *settings, f"paths.results={root}", log=log, spawns=spawns)) == 0, log.read_text()
    (record,) = Store(root).load_all()
    folder = Store(root).path(record.run_id)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    weights = torch.load(folder / "checkpoints/selected.ckpt", weights_only=True)["state_dict"]
    return record, rows, dict(np.load(folder / "predictions.npz")), weights


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_same_batch_and_test_every_image_once(tmp_path):
    alone, alone_rows, alone_predicted, alone_weights = run(tmp_path / "alone")
    both, rows, predicted, weights = run(tmp_path / "both", "trainer=ddp", "trainer.accelerator=cpu")
    assert (alone.device, both.device) == ("cpu", "2 × cpu")
    assert alone.run_id != both.run_id
    assert both.peak_memory_bytes > 1.4 * alone.peak_memory_bytes  # that of both processes
    for one, other in zip(alone_rows, rows, strict=True):
        for key in ("train_loss", "val_loss", "train_top1", "val_top1", "lr"):
            assert float(one[key]) == pytest.approx(float(other[key]), rel=1e-5), key
    for name, weight in alone_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    # the test set: every image once, in order, with the same answers
    assert len(predicted["ids"]) == len(set(predicted["ids"])) == both.test_size == 1500
    for key in ("ids", "labels"):
        assert np.array_equal(predicted[key], alone_predicted[key])
    # stored in 16 bits, whose neighbours are 2⁻¹⁰ of the value apart: rounding may send equal logits to either of two
    logits, alone_logits = (p["logits"].astype(float) for p in (predicted, alone_predicted))
    np.testing.assert_allclose(logits, alone_logits, rtol=2**-10, atol=5e-3)
    assert both.metrics["test"]["loss"] == pytest.approx(alone.metrics["test"]["loss"], rel=1e-5)
    assert both.metrics["test"]["top1"] == alone.metrics["test"]["top1"]


@pytest.mark.slow
@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_what_two_processes_validate_is_what_is_kept(tmp_path, ema):
    # each has seen its own half of every batch, from which batch norm's statistics come
    network = ("model=nin_bn", "data.image_size=20", "trainer.max_epochs=1", f"trainer.ema={ema}")
    record, *_, weights = run(tmp_path / "both", *network, "trainer=ddp", "trainer.accelerator=cpu")
    cfg = OmegaConf.create(record.config)
    data, module = build(cfg, record.config, torch.device("cpu"))
    module.load_state_dict(weights)
    module.eval()
    with torch.inference_mode():
        for batch in data.val_dataloader():
            module.validation_step(batch, 0)
    assert module.val_metrics.compute() == pytest.approx(record.metrics["val"], rel=1e-4)


@pytest.mark.slow
def test_a_process_that_is_lost_fails_the_cell_and_the_next_try_goes_on_within_the_epoch(tmp_path):
    # each process draws dropout of its own; checkpoints after every tenth batch of 25
    settings = (
        "model=nin", "data.image_size=16", *SHORT, "trainer.max_epochs=3", "trainer.precision=32-true",
        "data.batch_size=8", "trainer.checkpoint_minutes=1e-9", "trainer=ddp",
    )  # fmt: skip
    log, root = tmp_path / "log", tmp_path / "lost"
    assert finish(start(*settings, f"paths.results={tmp_path / 'reference'}", log=log)) == 0, log.read_text()
    (reference,) = Store(tmp_path / "reference").load_all()
    process = start(*settings, f"paths.results={root}", log=log)
    wait_for(lambda: any(root.glob("runs/*/checkpoints/last.ckpt")))
    (child, _) = sorted(psutil.Process(process.pid).children(), key=lambda child: child.create_time())[-2:]
    child.kill()
    assert finish(process) == 1, log.read_text()
    (record,) = Store(root).load_all()
    assert record.status == "failed"
    assert record.error.endswith("of 2 was lost: SIGKILL")
    (last,) = root.glob("runs/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] % 25
    assert finish(start(*settings, f"paths.results={root}", log=log)) == 0, log.read_text()
    assert "resumes from its last checkpoint" in log.read_text()
    (record,) = Store(root).load_all()
    assert record.metrics == reference.metrics


@pytest.mark.slow
def test_a_run_that_another_process_has_taken_over_leaves_its_folder_alone(tmp_path):
    settings = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=200", f"paths.results={tmp_path}")
    process = start(*CELL, *settings, log=tmp_path / "log")
    wait_for(lambda: any(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    (claim,) = tmp_path.glob("runs/*/claim.json")
    others = claim.read_text().replace('"id": "', '"id": "another')
    claim.write_text(others)
    assert finish(process) == 1
    assert "LostError: " in (tmp_path / "log").read_text()
    assert claim.read_text() == others
    assert sorted(path.name for path in claim.parent.iterdir()) == [
        "checkpoints", "claim.json", "config.yaml", "metrics.csv",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_stop_reaches_all_processes_and_what_they_did_is_kept(tmp_path):
    settings = (*CELL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=40", f"paths.results={tmp_path}")
    process = start(*settings, log=tmp_path / "log", spawns=True)
    wait_for(lambda: any(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 128 + signal.SIGTERM
    (record,) = Store(tmp_path).load_all()
    assert (record.status, record.error) == ("interrupted", "stopped by SIGTERM")
    assert Store(tmp_path).holder(record.run_id) is None
    (last,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
    first, second = torch.load(last, weights_only=True)["random"]
    assert not torch.equal(first["torch"], second["torch"])  # dropout of its own


@pytest.mark.parametrize("model", ["vgg11_bn", "timm/mobilenet_v1", "timm/densenet121"])
def test_synchronised_batch_norm_is_the_same_network(composed, model):
    if model.startswith("timm"):
        pytest.importorskip("timm")  # whose batch norm has activations
    cfg = composed(f"model={model}", "data=cifar10", "data.image_size=64")
    torch.manual_seed(0)
    network = make_model(cfg, OmegaConf.to_container(cfg, resolve=True)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits, names = network(images).logits, [*network.state_dict()]
        sync = BatchNormSync()
        network = sync.apply(network)
        assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in network.modules()) > 5
        for made in (network, sync.revert(network)):
            assert torch.equal(made(images).logits, logits)
            assert [*made.state_dict()] == names


def test_a_batch_that_cannot_be_shared_out_is_refused(bench):
    code, _, err = bench("trainer=ddp", "trainer.devices=3", "data.batch_size=16")
    assert code == 2
    assert "data.batch_size=16: must be a multiple of trainer.devices, which is 3" in one_line(err)


def test_more_processes_than_gpus_are_refused(bench, tmp_path, monkeypatch):
    machine.hardware(), machine.versions()  # kept from here on: they would ask the GPU that is not there
    monkeypatch.setattr(machine, "device", lambda accelerator: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, _, err = bench("trainer=ddp")
    assert code == 2
    assert "trainer.devices=2: this machine has 1 GPU\n" in one_line(err)
    assert files(tmp_path) == []


def test_more_than_one_process_is_refused_on_an_apple_gpu(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "device", lambda accelerator: torch.device("mps"))
    code, _, err = bench("trainer=ddp")
    assert code == 2
    assert "trainer.devices=2: an Apple GPU trains in one process; add trainer.accelerator=cpu" in one_line(err)
    assert files(tmp_path) == []


@pytest.mark.slow
def test_a_process_that_fails_tells_why_in_a_line(tmp_path):
    diverging = ("optimizer=sgd", "optimizer.lr=1e20", "trainer.clip_norm=null", "trainer=ddp", *SHORT)
    assert finish(start(*diverging, f"paths.results={tmp_path}", log=tmp_path / "log")) == 1
    (record,) = Store(tmp_path).load_all()
    assert record.error.startswith("FloatingPointError: the training loss is")
    assert "Traceback" in (Store(tmp_path).path(record.run_id) / "error.txt").read_text()


@pytest.mark.slow
def test_a_place_that_cannot_be_used_is_refused_and_nothing_written(tmp_path):
    pytest.importorskip("mlflow")
    place = ("logger=mlflow", "logger.folder='~nobody-here/x'", f"paths.results={tmp_path / 'results'}")
    assert finish(start(*CELL, "trainer=ddp", *place, log=tmp_path / "log")) == 1
    assert "ConfigError: logger.folder=~nobody-here/x: no such user's home" in (tmp_path / "log").read_text()
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_stop_while_images_are_decoded_does_not_wait(tmp_path):
    data = ("data.source._target_=own.endless", f"+data.source.began={tmp_path / 'began'}")
    settings = ("model=lenet", *SHORT, "trainer=ddp", *data, f"paths.results={tmp_path / 'results'}")
    process = start(*settings, log=tmp_path / "log")
    wait_for((tmp_path / "began").exists)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 128 + signal.SIGTERM
    (record,) = Store(tmp_path / "results").load_all()
    assert (record.status, record.error) == ("interrupted", "stopped by SIGTERM")


@pytest.mark.slow
def test_what_any_process_refuses_is_told(tmp_path):
    data = (f"paths.results={tmp_path / 'results'}", "data.source._target_=own.lost_on_the_second")
    assert finish(start("model=lenet", *SHORT, "trainer=ddp", *data, log=tmp_path / "log")) == 1
    assert "ConfigError: no digits here" in (tmp_path / "log").read_text()
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_sweep_from_the_command_line_starts_processes_that_do_not_run_it_again(tmp_path):
    sweep = ("-m", "model=lenet", "trainer=ddp", *SHORT, "progress=none", f"paths.results={tmp_path}")
    pytest.importorskip("mlflow")
    sweep = (*sweep, "logger=mlflow", f"logger.folder={tmp_path}")  # which logs on rank 0 alone
    left = os.environ | {"LOCAL_RANK": "1", "RANK": "1"}  # by a job script
    done = subprocess.run(
        [sys.executable, "-m", "bench", *sweep], capture_output=True, text=True, timeout=300, check=False, env=left
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 cells ok" in done.stdout
    assert len(list(tmp_path.glob("sweeps/*"))) == 1
    (record,) = Store(tmp_path).load_all()
    assert record.device == "2 × cpu"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one_does(tmp_path):
    alone, *_ = run(tmp_path / "alone", "trainer.accelerator=gpu")
    both, *_ = run(tmp_path / "both", "trainer=ddp", "trainer.accelerator=gpu", spawns=True)
    assert both.device == "2 × cuda"
    assert both.metrics["test"]["loss"] == pytest.approx(alone.metrics["test"]["loss"], rel=1e-2)
