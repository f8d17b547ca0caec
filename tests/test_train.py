import csv
import json
import signal
import weakref

import lightning as L
import numpy as np
import pytest
import torch
from common import NOISE, SHORT, publish
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import OmegaConf
from torch.nn import functional as F

from bench import machine, train
from bench.assemble import build
from bench.claim import Claim
from bench.config import resolved
from bench.data.module import ImageData
from bench.errors import ConfigError
from bench.interrupt import Interrupted, Interrupts
from bench.models.googlenet import GoogLeNet
from bench.models.lenet import LeNet
from bench.module import Classifier
from bench.record import run_id
from bench.store import DoneError, Store

QUIET = (*SHORT, "progress=none")


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_cell_writes_what_its_record_says(composed, tmp_path):
    record = train.run(composed("model=lenet", *QUIET, "trainer.max_epochs=2"))
    folder = tmp_path / "results/runs" / record.run_id
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.csv", "mistakes.webp", "predictions.npz", "record.json",
    ]  # fmt: skip
    assert Store(tmp_path / "results").ok(record.run_id) == record
    assert record.status == "ok"
    assert (record.train_size, record.val_size, record.test_size) == (197, 100, 1500)
    assert (record.epochs, record.params, record.device) == (2, 62006, "cpu")
    assert record.macs == 651720  # 28²·6·75 + 10²·16·150 + 400·120 + 120·84 + 84·10
    assert record.train_images_per_s > 0
    assert record.fit_seconds > 0
    assert record.peak_memory_bytes > 50 * 2**20
    assert record.precision in ("bf16-mixed", "32-true")
    assert {"top1", "top5", "loss"} == set(record.metrics["train"]) == set(record.metrics["val"])
    assert OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")) == record.config
    assert json.loads((folder / "record.json").read_text())["hardware"]["cores"] >= 1
    assert [row["epoch"] for row in rows_of(folder)] == ["1", "2"]


def test_test_metrics_are_those_of_the_predictions(composed, tmp_path):
    record = train.run(composed("model=lenet", *QUIET))
    saved = np.load(tmp_path / "results/runs" / record.run_id / "predictions.npz")
    assert saved["classes"].tolist() == list("0123456789")
    logits, labels = torch.tensor(saved["logits"]).float(), torch.tensor(saved["labels"])
    assert saved["logits"].dtype == np.float16
    assert logits.shape == (1500, 10)
    assert len(set(saved["ids"])) == 1500
    ranked = logits.argsort(dim=1, descending=True)
    # float16 may tie what float32 told apart
    assert record.metrics["test"]["top1"] == pytest.approx((ranked[:, 0] == labels).float().mean().item(), abs=2e-3)
    top5 = (ranked[:, :5] == labels[:, None]).any(dim=1).float().mean().item()
    assert record.metrics["test"]["top5"] == pytest.approx(top5, abs=2e-3)
    assert record.metrics["test"]["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), abs=2e-3)


def test_the_tested_weights_are_those_of_the_best_validation_epoch(composed, tmp_path):
    cfg = composed("model=lenet", *QUIET, "trainer.max_epochs=4", "scheduler=constant", "optimizer.lr=0.01")
    record = train.run(cfg)
    folder = tmp_path / "results/runs" / record.run_id
    val = [float(row["val_top1"]) for row in rows_of(folder)]
    assert record.selected_epoch == 1 + val.index(max(val))
    assert record.metrics["val"]["top1"] == max(val)
    saved = torch.load(folder / "checkpoints/selected.ckpt", weights_only=True)
    assert saved["epoch"] == record.selected_epoch
    model = LeNet(10, 3)
    model.load_state_dict({key.removeprefix("model."): value for key, value in saved["state_dict"].items()})
    data, _ = train.build(cfg, record.config, torch.device("cpu"))
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(batch.images).logits.argmax(1) for batch in data.test_dataloader()])
    labels = torch.as_tensor(data.dataset.labels[data.test])
    assert (predicted == labels).float().mean().item() == pytest.approx(record.metrics["test"]["top1"], abs=1e-6)


def test_of_equally_good_epochs_the_first_is_selected(composed, tmp_path):
    record = train.run(composed("model=lenet", *QUIET, "trainer.max_epochs=3", "optimizer.lr=1e-30"))
    rows = rows_of(tmp_path / "results/runs" / record.run_id)
    assert len({row["val_top1"] for row in rows}) == 1  # the steps are too small to change a weight
    assert (record.epochs, record.selected_epoch) == (3, 1)


@pytest.mark.parametrize("left", ["1", "3"])
def test_a_rank_that_a_job_script_has_left_changes_nothing(composed, tmp_path, monkeypatch, left):
    reference = train.run(composed("model=nin", "data.image_size=16", *QUIET, f"paths.results={tmp_path}/a"))
    monkeypatch.setenv("LOCAL_RANK", left)
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", int(left))
    record = train.run(composed("model=nin", "data.image_size=16", *QUIET, f"paths.results={tmp_path}/b"))
    assert record.metrics == reference.metrics  # of a network with dropout
    assert (tmp_path / "b/runs" / record.run_id / "config.yaml").exists()


def test_another_projects_checkpoint_in_the_current_folder_of_a_slurm_job_is_left_alone(
    composed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"another project's")
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    record = train.run(composed("model=lenet", *QUIET))
    assert record.status == "ok", record.error


def test_only_epochs_that_were_validated_are_selected(composed, tmp_path, monkeypatch):
    epochs, begin = [], Classifier.on_validation_epoch_start

    def noting(self):
        epochs.append(self.current_epoch)
        begin(self)

    monkeypatch.setattr(Classifier, "on_validation_epoch_start", noting)
    settings = ("trainer.max_epochs=6", "trainer.check_val_every_n_epoch=2", "scheduler=constant")
    record = train.run(composed("model=lenet", *QUIET, *settings))
    assert epochs == [1, 3, 5]
    rows = rows_of(tmp_path / "results/runs" / record.run_id)
    val = {int(row["epoch"]): float(row["val_top1"]) for row in rows if row["val_top1"]}
    assert set(val) == {2, 4, 6}
    assert record.metrics["val"]["top1"] == val[record.selected_epoch] == max(val.values())
    assert all(row["train_top1"] for row in rows)


def test_a_record_tells_the_threads_that_a_quota_leaves(composed, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.0)
    torch.set_num_threads(2)
    try:
        assert train.run(composed("model=lenet", *SHORT, "progress=none")).hardware["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_test_images_are_read_once_and_after_training(composed, monkeypatch):
    calls = []
    fit, test_dataloader = L.Trainer.fit, ImageData.test_dataloader
    monkeypatch.setattr(L.Trainer, "fit", lambda *a, **k: (fit(*a, **k), calls.append("fitted"))[0])
    monkeypatch.setattr(ImageData, "test_dataloader", lambda self: (calls.append("test"), test_dataloader(self))[1])
    train.run(composed("model=lenet", *QUIET))
    assert calls == ["fitted", "test"]


def test_without_validation_images_the_last_epoch_is_tested_and_no_number_reported(composed, tmp_path):
    record = train.run(composed("model=lenet", *QUIET, "data.val_size=0", "trainer.max_epochs=2"))
    assert (record.status, record.val_size, record.selected_epoch, record.train_size) == ("ok", 0, 2, 297)
    assert set(record.metrics) == {"train", "test"}
    assert not any(name.startswith("val") for name in rows_of(tmp_path / "results/runs" / record.run_id)[0])


def test_a_signal_while_an_ok_record_is_published_leaves_it(composed, tmp_path, monkeypatch):
    release, late = Claim.release, [signal.SIGTERM]

    def interrupted(self):
        if late and (self.file.parent / "record.json").exists():
            raise Interrupted(late.pop())
        release(self)

    monkeypatch.setattr(Claim, "release", interrupted)
    cfg = composed("model=lenet", *QUIET)
    with pytest.raises(Interrupted):
        train.run(cfg)
    (record,) = Store(tmp_path / "results").load_all()
    assert record.status == "ok"
    assert Store(tmp_path / "results").holder(record.run_id) is None


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(composed, tmp_path):
    def metrics(*overrides):
        return train.run(composed("model=lenet", *QUIET, *overrides)).metrics

    first = metrics(f"paths.results={tmp_path / 'a'}")
    assert metrics(f"paths.results={tmp_path / 'b'}") == first
    assert metrics(f"paths.results={tmp_path / 'c'}", "seed=1") != first


def test_a_loss_that_is_no_number_fails_the_cell(composed, tmp_path):
    cfg = composed("model=lenet", *QUIET, "optimizer=sgd", "optimizer.lr=1e20", "trainer.clip_norm=null")
    record = train.run(cfg)
    assert record.status == "failed"
    assert "FloatingPointError: the training loss is" in record.error
    assert record.metrics == {}
    assert (tmp_path / "results/runs" / record.run_id / "error.txt").exists()


def test_a_last_step_that_breaks_the_weights_fails_the_cell(composed, tmp_path):
    # one step: its own loss, and so the epoch's, is still finite
    steps = ("data.batch_size=500", "optimizer=sgd", "optimizer.lr=1e20", "trainer.clip_norm=null")
    record = train.run(composed("model=lenet", *QUIET, *steps))
    assert record.status == "failed"
    assert "FloatingPointError: the val loss is" in record.error
    assert Store(tmp_path / "results").load_all() == [record]


def test_a_cell_with_an_ok_record_is_refused_before_it_trains(composed, monkeypatch):
    train.run(composed("model=lenet", *QUIET))
    monkeypatch.setattr(train, "build", lambda *_: pytest.fail("was built"))
    with pytest.raises(DoneError, match="force=true"):
        train.run(composed("model=lenet", *QUIET))


def test_test_images_are_judged_in_32_bits(composed, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.reporting.predictions.STEPS", 2**12)  # more than bf16 has
    record = train.run(composed("model=lenet", *QUIET, "trainer.precision=bf16-mixed"))
    logits = np.load(tmp_path / "results/runs" / record.run_id / "predictions.npz")["logits"].astype(np.float32)
    as_bf16 = torch.from_numpy(logits).bfloat16().float().numpy()
    assert record.precision == "bf16-mixed"
    assert (logits != as_bf16).mean() > 0.5


def test_a_signal_before_a_failure_is_not_forgotten(composed, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        interrupts = next(one for one in arguments if isinstance(one, Interrupts))
        interrupts.pending = signal.SIGTERM
        raise FloatingPointError("the training loss is nan")

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(Interrupted) as stop:
        train.run(composed("model=lenet", *QUIET))
    assert stop.value.signum == signal.SIGTERM
    assert ": failed, FloatingPointError: the training loss is nan\n" in capsys.readouterr().out
    (record,) = Store(tmp_path / "results").load_all()
    assert (record.status, record.error) == ("failed", "FloatingPointError: the training loss is nan")


def test_an_interrupted_cell_is_recorded_as_such(composed, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "build", interrupt)
    with pytest.raises(Interrupted):
        train.run(composed("model=lenet", *QUIET))
    (record,) = Store(tmp_path / "results").load_all()
    assert (record.status, record.error) == ("interrupted", "stopped by Ctrl-C")


def test_a_run_leaves_no_images_in_memory_for_the_next_one(composed, monkeypatch):
    made = []

    def noted(*arguments):
        data, module = build(*arguments)
        made.append(weakref.ref(data))
        return data, module

    monkeypatch.setattr(train, "build", noted)
    for seed in (0, 1):
        train.run(composed("model=lenet", *QUIET, f"seed={seed}"))
    assert [data() is None for data in made] == [True, False]


def test_a_refused_configuration_leaves_nothing(composed, tmp_path):
    with pytest.raises(ConfigError, match="image_size=12"):
        train.run(composed("model=lenet", *QUIET, "data.image_size=12"))
    assert not (tmp_path / "results").exists()


def test_a_refused_command_leaves_the_record_of_an_earlier_failure(composed, make_record, tmp_path):
    (tmp_path / "empty").mkdir()
    cfg = composed("model=lenet", "data=cifar10", "data.source.download=false", f"paths.data={tmp_path / 'empty'}")
    store, name = Store(tmp_path / "results"), run_id(resolved(cfg))
    failed = make_record(status="failed", error="out of memory", run_id=name)
    publish(store, failed)
    with pytest.raises(ConfigError, match="CIFAR-10 not found"):
        train.run(cfg)
    assert store.load_all() == [failed]


def test_auxiliary_heads_are_trained_and_logged_but_not_kept(composed, noise, tmp_path):
    record = train.run(composed("model=googlenet", *NOISE, noise, "progress=none"))
    assert record.status == "ok", record.error
    folder = tmp_path / "results/runs" / record.run_id
    (row,) = rows_of(folder)
    for name in ("train_aux1_top1", "train_aux2_top1"):
        assert 0 <= float(row[name]) <= 1
    assert record.params == 5_976_122 - 8 * 1025  # tests/golden: without the heads; two classes in place of ten
    saved = torch.load(folder / "checkpoints/selected.ckpt", weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
    GoogLeNet(2, image_size=32, aux_heads=False).load_state_dict(weights)
    assert sum(value.numel() for value in weights.values()) == record.params
