"""Loggers beside metrics.csv: TensorBoard, MLflow; W&B is in test_wandb.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from common import one_line, record_of
from lightning.pytorch.loggers import Logger, WandbLogger
from logged import QUIET, run_info

from bench import loggers, train
from bench.errors import ConfigError


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_logger_that_is_not_installed_names_what_to_install(composed, monkeypatch, name):
    cfg = composed(f"logger={name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'convbench\[{name}\]'"):
        loggers.check(cfg.logger)


def test_a_logger_is_checked_before_a_sweep_starts(bench, tmp_path):
    code, _, err = bench("-m", "model=lenet", "seed=0,1", *QUIET[1:], "+logger.foo=1")
    assert (code, err) == (2, "bench: logger.foo: no such setting; available: none\n")
    assert not (tmp_path / "results").exists()


def test_a_logger_that_is_not_there_is_named_before_a_sweep_starts(bench, tmp_path):
    code, _, err = bench("-m", "model=lenet", "seed=0,1", *QUIET[1:], "logger._target_=bench.loggers.tensorbord")
    assert code == 2
    assert "tensorbord" in one_line(err)
    assert not (tmp_path / "results").exists()


def of_ones_own(run, *, name):
    """A logger that anyone might write."""


def test_a_logger_of_ones_own_is_made_of_a_run_and_settings_of_its_own():
    own = {"_target_": f"{__name__}.of_ones_own", "_partial_": True, "name": "x"}
    loggers.check(own)
    for wrong, said in (
        (own | {"nam": "y"}, "unexpected keyword argument 'nam'"),
        ({**own, "_partial_": False}, r"^logger\._partial_: must be true"),
        (own | {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "x"}, "multiple values for argument"),
    ):
        with pytest.raises(ConfigError, match=said):
            loggers.check(wrong)


class Faulty(Logger):
    """One whose server is gone."""

    name, version = "faulty", "0"

    def __init__(self):
        self.asked: list[str] = []

    def log_metrics(self, metrics, step=None):
        self.asked.append("metrics")
        raise ConnectionError("no route")

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def finalize(self, status):
        self.asked.append(status)
        raise ConnectionError("no route")


made: list[Faulty] = []


def faulty(run, *, gradients):
    made.append(Faulty())
    return made[-1]


def test_a_logger_that_fails_within_a_run_is_told_and_leaves_it_ok(composed, capsys):
    made.clear()
    own = (f"logger._target_={__name__}.faulty", "logger._partial_=true", "+logger.gradients=true")
    record = train.run(composed(*QUIET, *own, "trainer.max_epochs=2"))
    assert record.status == "ok", record.error
    assert made[0].asked == ["metrics", "success", "success"]  # of the training and of the test
    assert capsys.readouterr().out.count("Faulty has not got all of the run: ConnectionError: no route") == 3


def test_a_wandb_logger_of_ones_own_gets_the_summary(tmp_path, monkeypatch):
    class Mine(WandbLogger):
        experiment = None

        def __init__(self):
            pass

    told = []
    monkeypatch.setattr(loggers.weights_biases, "conclude", lambda *given: told.append(given))
    settings = {"logger": {"_target_": "team.wandb"}}
    loggers.conclude(Mine(), record_of(), tmp_path, settings, np.zeros(0), np.zeros(0))
    assert [(given[2]["test/top1"], given[4]) for given in told] == [(0.8, 0)]


def test_a_logger_that_fails_when_all_is_done_is_told_and_leaves_the_run_ok(composed, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    log = TensorBoardLogger.log_metrics

    def failing(self, metrics, step=None):
        if any(name.startswith("summary/") for name in metrics):
            raise ConnectionError("no route")
        log(self, metrics, step)

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", failing)
    record = train.run(composed(*QUIET, "logger=tensorboard"))
    assert record.status == "ok", record.error
    assert "TensorBoard has not got all of the run: ConnectionError: no route" in capsys.readouterr().out


def test_another_server_of_mlflow_gets_a_run_of_its_own_and_its_password_is_not_kept(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    made = []

    class Server:
        def __init__(self, **arguments):
            made.append((arguments["tracking_uri"], arguments["run_id"]))
            self.run_id = f"run {len(made)}"

        def log_hyperparams(self, config):
            pass

    monkeypatch.setattr(loggers, "MLFlowLogger", Server)
    monkeypatch.setattr(loggers, "_goes_on", lambda client, run_id: True)
    for uri in ("https://me:word@one", "https://me:word@one", "https://two"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        loggers.mlflow(run_info(tmp_path), "convbench", None, str(tmp_path))
    assert made == [("https://me:word@one", None), ("https://me:word@one", "run 1"), ("https://two", None)]
    assert not any("word" in file.name or "word" in file.read_text() for file in tmp_path.iterdir())


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
@pytest.mark.filterwarnings("ignore:.*deprecated")  # inside MLflow
def test_mlflow_gets_the_same_numbers_and_the_record(composed, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record = train.run(composed(*QUIET, "logger=mlflow"), sweep="my-sweep")
    assert record.status == "ok", record.error
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/results/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("convbench").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == record.run_id
    assert {name: run.data.tags[name] for name in ("sweep", "model", "data")} == {
        "sweep": "my-sweep", "model": "lenet", "data": "digits",
    }  # fmt: skip
    assert run.data.params["model/name"] == "lenet"
    for split, metrics in record.metrics.items():
        for name, value in metrics.items():
            for key in (f"{split}/{name}", f"summary/{split}/{name}"):
                assert run.data.metrics[key] == pytest.approx(value)
    held = Path(run.info.artifact_uri.removeprefix("file://"))
    assert held.is_relative_to(tmp_path / "results/mlflow")
    assert json.loads((held / "record.json").read_text())["run_id"] == record.run_id
    assert {file.name for file in held.iterdir()} >= {"config.yaml", "metrics.csv", "predictions.npz"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_folder_of_mlflow_that_cannot_be_is_told_and_recorded_in_a_sweep(composed, tmp_path):
    pytest.importorskip("mlflow")
    cfg = composed(*QUIET, "logger=mlflow", "logger.folder='~nobody-here/x'")
    told = "logger.folder=~nobody-here/x: no such user's home"
    with pytest.raises(ConfigError, match=told):
        train.run(cfg)
    assert not (tmp_path / "results").exists()
    record = train.run(cfg, sweep="my-sweep")
    assert (record.status, record.error) == ("failed", told)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_cell_that_is_gone_on_with_is_one_mlflow_run(tmp_path):
    pytest.importorskip("mlflow")
    client = loggers.mlflow(run_info(tmp_path), "convbench", None, str(tmp_path)).experiment
    kept = next(tmp_path.glob("mlflow_id-*"))
    first = kept.read_text()
    client.set_terminated(first, "KILLED")
    assert loggers.mlflow(run_info(tmp_path), "convbench", None, str(tmp_path)).run_id == first == kept.read_text()
    assert client.get_run(first).info.status == "RUNNING"
    client.delete_run(first)  # by its owner, before the cell is resumed
    second = loggers.mlflow(run_info(tmp_path), "convbench", None, str(tmp_path)).run_id
    assert second == kept.read_text() != first
    kept.write_text("0" * 32)  # of a database that is gone
    third = loggers.mlflow(run_info(tmp_path), "convbench", None, str(tmp_path)).run_id
    assert client.get_run(third).data.params["seed"] == "0"
