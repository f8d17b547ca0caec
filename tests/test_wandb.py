"""What W&B gets of a run, offline."""

import base64
import hashlib
import json
import os
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from common import record_of
from logged import QUIET, run_info

from bench import loggers, train
from bench.errors import ConfigError
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


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("mode=loud", "logger.mode=loud: must be one of online, offline, disabled"),
        ("gradients=1", "logger.gradients=1: must be one of true, false"),
        ("images=-1", "logger.images=-1: must be a whole number, 0 or more"),
        ("images=true", "logger.images=True: must be a whole number, 0 or more"),
        ("images=many", "logger.images=many: must be a whole number, 0 or more"),
    ],
)
def test_a_wrong_setting_is_named_before_a_sweep_starts(bench, tmp_path, setting, said):
    pytest.importorskip("wandb")
    code, _, err = bench("-m", "seed=0,1", *QUIET, "logger=wandb", f"logger.{setting}")
    assert (code, err) == (2, f"bench: {said}\n")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_wandb_run_is_finished_however_the_cell_ends(monkeypatch, error):
    codes = []
    api = SimpleNamespace(run=None)
    monkeypatch.setitem(sys.modules, "wandb", api)
    try:
        with loggers.finishing():
            api.run = SimpleNamespace(finish=lambda exit_code: codes.append(exit_code))
            if error:
                raise error
    except RuntimeError:
        pass
    assert codes == [1 if error else 0]


def test_a_wandb_run_of_the_callers_stays_open(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace()))  # without a way to finish
    with loggers.finishing():
        pass


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
    loggers._conclude_wandb(run, record_of(), {"params": 1}, [tmp_path / "predictions.npz"], 3, pixels, labels)
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


def test_wandb_online_without_a_key_says_what_to_do(composed, tmp_path, monkeypatch):
    api = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    api.teardown()  # W&B reads the environment once per process
    cfg = composed(*QUIET, "logger=wandb", "logger.mode=online")
    for start in (lambda: loggers.log_in(cfg.logger), lambda: train.run(cfg)):
        with pytest.raises(ConfigError, match=r"logger=wandb.*logger\.mode=offline"):
            start()


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


def test_a_cell_that_is_gone_on_with_is_one_wandb_run(tmp_path, monkeypatch):
    api = pytest.importorskip("wandb")
    ids = []
    monkeypatch.setattr(api, "init", lambda **given: ids.append(given["id"]) or SimpleNamespace())
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda experiment: experiment)
    for _ in range(2):
        loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="offline", gradients=False, images=0)
    (tmp_path / "wandb_id").unlink()
    loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="offline", gradients=False, images=0)
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("said", "deleted"),
    [
        ("run me/p/abcdefgh was previously created and deleted; try a new run name (<Response [409]>)", True),
        ("Run initialization has timed out after 90.0 sec", False),
        ("Failed to get resume status for run abcdefgh: context deadline exceeded\nPost: dial tcp: refused", False),
        ("failed to upsert bucket: returned error 503: Service Unavailable", False),
        ("failed to upsert bucket: returned error 429: Too Many Requests", False),
        ("failed to upsert bucket: net/http: TLS handshake timeout", False),
    ],
)
def test_a_deleted_run_gets_a_new_one_and_an_unreachable_wandb_an_offline_one(
    tmp_path, monkeypatch, capsys, said, deleted
):
    api = pytest.importorskip("wandb")
    (tmp_path / "wandb_id").write_text("abcdefgh")
    asked = []

    def init(**given):
        asked.append((given["id"], given["mode"]))
        if len(asked) == 1:
            raise api.errors.CommError(said)
        return SimpleNamespace()

    monkeypatch.setattr(api, "init", init)
    monkeypatch.setattr(api, "teardown", lambda: asked.append("teardown"))
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda experiment: experiment)
    loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="online", gradients=False, images=0)
    assert asked[1:-1] == ([] if deleted else ["teardown"])
    first, second = asked[0], asked[-1]
    assert first == ("abcdefgh", "online")
    kept = (tmp_path / "wandb_id").read_text()
    told = capsys.readouterr().out
    if deleted:
        assert second == (kept, "online")
        assert kept != "abcdefgh"
        assert "was deleted from W&B, which gets a new one" in told
    else:
        assert second == ("abcdefgh", "offline")
        assert f"W&B: {said.splitlines()[0]}; digits-lenet-s0-0123456789 is logged offline" in told


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("AuthenticationError", "The API key is not valid"), ("CommError", "returned error 404: entity tpyo not found")],
)
def test_what_wandb_refuses_is_no_outage(tmp_path, monkeypatch, kind, reason):
    api = pytest.importorskip("wandb")

    def init(**given):
        raise getattr(api.errors, kind)(f"{reason}.")

    monkeypatch.setattr(api, "init", init)
    with pytest.raises(ConfigError, match=rf"^logger=wandb: {reason}, or use logger.mode=offline$"):
        loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="online", gradients=False, images=0)


@pytest.mark.slow
def test_looking_for_a_key_needs_no_server_and_leaves_no_service(composed, monkeypatch):
    api = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    api.teardown()  # W&B reads the environment once per process
    try:
        loggers.log_in(composed(*QUIET, "logger=wandb", "logger.mode=online").logger)
        assert loggers.SERVICE not in os.environ
    finally:
        api.teardown()


def test_a_setting_that_is_missing_is_named(composed):
    pytest.importorskip("wandb")
    with pytest.raises(ConfigError, match=r"^logger.mode: must be set, as logger.mode=…$"):
        loggers.check(composed("logger=wandb", "~logger.mode").logger)
