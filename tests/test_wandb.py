"""What W&B gets of a run, offline."""

import base64
import hashlib
import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from common import record_of
from logged import QUIET

from bench import train, weights_biases
from bench.reporting import predictions, stats
from bench.saved import open_run


@pytest.fixture(autouse=True)
def own_wandb_folder(tmp_path, monkeypatch):
    """W&B copies artifacts to a folder of the user's."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))


def wandb_records(file):
    """The records of an offline W&B run file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    block_size, header_size = 32768, 7
    data, at, whole = file.read_bytes(), 7, b""
    while at + header_size <= len(data):
        left_in_block = block_size - at % block_size
        if left_in_block < header_size:  # padding
            at += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + header_size])
        whole += data[at + header_size : at + header_size + length]
        at += header_size + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.mark.slow
def test_an_offline_wandb_run_holds_configuration_metrics_and_summary(composed, tmp_path):
    pytest.importorskip("wandb")
    cfg = composed(*QUIET, "logger=wandb", "logger.mode=offline")
    record = train.run(cfg, sweep="my-sweep")
    assert record.status == "ok", record.error
    (file,) = (tmp_path / "results/runs" / record.run_id).rglob("run-*.wandb")
    history, summary, run = [], {}, None
    for entry in wandb_records(file):
        kind = entry.WhichOneof("record_type")
        if kind == "run":
            run = entry.run
        elif kind == "history":
            history.append({item.key or "/".join(item.nested_key): item.value_json for item in entry.history.item})
        elif kind == "summary":
            summary |= {item.key or "/".join(item.nested_key): item.value_json for item in entry.summary.update}
    assert (run.run_group, run.display_name, run.project) == ("my-sweep", record.run_id, "convbench")
    assert run.resume  # or a part that is sent after another would replace it
    assert set(run.tags) == {"lenet", "digits"}
    sent = {item.key: item.value_json for item in run.config.update}
    assert '"lenet"' in sent["model"]
    assert sent["seed"] == "0"
    for split, metrics in record.metrics.items():
        for name, value in metrics.items():
            assert float(summary[f"{split}/{name}"]) == pytest.approx(value)
    assert float(summary["params"]) == record.params
    logged = {key for row in history for key in row}
    assert {"train/top1", "val/top1", "test/top1", "lr", "train_images_per_s"} <= logged
    assert sys.modules["wandb"].run is None


@pytest.mark.slow
def test_wandb_gets_confusion_mistakes_gradients_and_the_record(composed, tmp_path):
    pytest.importorskip("wandb")
    cfg = composed(*QUIET, "logger=wandb", "logger.mode=offline", "logger.gradients=true", "logger.images=5")
    record = train.run(cfg)
    assert record.status == "ok", record.error
    folder = tmp_path / "results/runs" / record.run_id
    told = predictions.load(folder)
    (file,) = folder.rglob("run-*.wandb")
    history, validated, artifacts = {}, [], []
    for entry in wandb_records(file):
        if entry.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): item.value_json for item in entry.history.item}
            validated += [float(row["epoch"])] if "val/top1" in row else []
            history |= row
        elif entry.WhichOneof("record_type") == "request" and entry.request.HasField("log_artifact"):
            artifacts.append(entry.request.log_artifact.artifact)
        elif entry.WhichOneof("record_type") == "artifact":
            artifacts.append(entry.artifact)
    assert validated == list(range(1, record.epochs + 1))  # as everywhere else
    tables = {}
    for table in folder.rglob("*.table.json"):
        content = json.loads(table.read_text())
        tables[tuple(content["columns"])] = content["data"]
    cells = tables["Actual", "Predicted", "nPredictions"]
    matrix = stats.confusion(told.labels, told.predicted, 10)
    assert [cell[2] for cell in cells] == matrix.flatten().tolist()
    mistakes = tables["id", "image", "class", "predicted", "confidence"]
    hardest = told.hardest(5)
    assert [row[0] for row in mistakes] == told.ids[hardest].tolist()
    assert [row[2:4] for row in mistakes] == [[str(told.labels[i]), str(told.predicted[i])] for i in hardest]
    sent = [entry.path for one in artifacts for entry in one.manifest.contents]
    assert sum(path.endswith(".png") for path in sent) == 5
    gradients = [name for name in history if name.startswith("gradients/") and name.endswith("/values")]
    assert len(gradients) == len(list(open_run(folder).model.parameters()))
    (artifact,) = [one for one in artifacts if one.type == "record"]
    assert artifact.name == record.run_id
    held = {entry.path: entry for entry in artifact.manifest.contents}
    assert set(held) == {"record.json", "config.yaml", "metrics.csv", "predictions.npz", "mistakes.webp"}
    for name, entry in held.items():
        digest = hashlib.md5((folder / name).read_bytes()).digest()
        assert base64.b64decode(entry.digest) == digest, name


def test_a_confusion_matrix_of_many_classes_keeps_within_what_a_chart_shows(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    labels = np.arange(102)
    content = {"logits": np.eye(102), "predicted": labels, "labels": labels, "ids": labels.astype(str)}
    np.savez(tmp_path / "predictions.npz", classes=labels.astype(str), **content)
    logged = {}
    run = SimpleNamespace(summary={}, log=logged.update, log_artifact=lambda artifact: None)
    pixels = np.zeros((102, 8, 8, 1), np.uint8)
    weights_biases.conclude(run, record_of(), {"params": 1}, [tmp_path / "predictions.npz"], 3, pixels, labels)
    assert run.summary == {"params": 1}
    assert len(logged["test/confusion"].table.data) == 102
    assert logged["test/mistakes"].data == []


@pytest.mark.slow
def test_each_cell_of_a_sweep_is_a_wandb_run_of_its_own(bench, tmp_path):
    pytest.importorskip("wandb")
    code, out, err = bench("-m", "seed=0,1", *QUIET, "logger=wandb", "logger.mode=offline")
    assert code == 0, out + err
    files = list((tmp_path / "results/runs").rglob("run-*.wandb"))
    assert len(files) == 2
    (sweep,) = (tmp_path / "results/sweeps").iterdir()
    groups = {entry.run.run_group for file in files for entry in wandb_records(file) if entry.HasField("run")}
    assert groups == {sweep.name}


def test_wandb_disabled_writes_nothing(composed, tmp_path):
    pytest.importorskip("wandb")
    record = train.run(composed(*QUIET, "logger=wandb", "logger.mode=disabled"))
    assert record.status == "ok", record.error
    assert not list(tmp_path.rglob("*.wandb"))


@pytest.mark.slow
def test_the_wandb_key_reaches_no_file(bench, tmp_path, monkeypatch):
    api = pytest.importorskip("wandb")
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    api.teardown()  # W&B reads the environment once per process
    try:
        assert bench("-m", "seed=0", *QUIET, "logger=wandb", "logger.mode=offline")[0] == 0
    finally:
        api.teardown()  # the key is not for later tests
    written = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in written)
    assert not [file for file in written if key.encode() in file.read_bytes()]
