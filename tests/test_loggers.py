import struct
import sys
from types import SimpleNamespace

import pytest
from common import SHORT

from bench import loggers, train
from bench.config import ConfigError

QUIET = ("model=lenet", *SHORT, "progress=none")


def run_info(tmp_path, group=None):
    return loggers.RunInfo("digits-lenet-s0-0123456789", group, ("lenet", "digits"), {"seed": 0}, tmp_path)


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


def test_a_logger_that_is_not_installed_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'convbench\[wandb\]'"):
        loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="offline")
    with pytest.raises(ConfigError, match=r"pip install 'convbench\[tensorboard\]'"):
        loggers.tensorboard(run_info(tmp_path))


def test_an_unknown_wandb_mode_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"logger.mode=loud: choose one of online, offline, disabled"):
        loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="loud")


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_wandb_run_is_finished_however_the_cell_ends(monkeypatch, error):
    codes = []
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(run=object(), finish=lambda exit_code: codes.append(exit_code))
    )
    try:
        with loggers.finishing():
            if error:
                raise error
    except RuntimeError:
        pass
    assert codes == [1 if error else 0]


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
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"logger=wandb.*logger\.mode=offline"):
        train.run(composed(*QUIET, "logger=wandb", "logger.mode=online"))


@pytest.mark.slow
def test_tensorboard_gets_the_same_numbers(composed, tmp_path):
    pytest.importorskip("tensorboard")
    record = train.run(composed(*QUIET, "logger=tensorboard"))
    assert record.status == "ok", record.error
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "results/runs" / record.run_id / "tensorboard")).Reload()
    for split, metrics in record.metrics.items():
        for name, value in metrics.items():
            for tag in (f"{split}/{name}", f"summary/{split}/{name}"):
                assert events.Scalars(tag)[-1].value == pytest.approx(value)


@pytest.mark.slow
def test_the_wandb_key_reaches_no_file(bench, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert bench("-m", "seed=0", *QUIET, "logger=wandb", "logger.mode=offline")[0] == 0
    written = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in written)
    assert not [file for file in written if key.encode() in file.read_bytes()]


def test_a_cell_that_is_gone_on_with_is_one_wandb_run(tmp_path, monkeypatch):
    api = pytest.importorskip("wandb")
    ids = []
    monkeypatch.setattr(api, "init", lambda **given: ids.append(given["id"]) or SimpleNamespace())
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda experiment: experiment)
    for _ in range(2):
        loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="offline")
    (tmp_path / "wandb_id").unlink()
    loggers.wandb(run_info(tmp_path), project="p", entity=None, mode="offline")
    assert ids[0] == ids[1] != ids[2]
