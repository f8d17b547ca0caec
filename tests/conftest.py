"""What the tests share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from common import SHORT, images_of_noise, record_of
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from processes import kill_all

from bench import config
from bench.cores import cores
from bench.record import RunRecord

hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine is slow
hypothesis.settings.load_profile("ours")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 # else its workers hardly run while other tests do


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests that wait for processes and browsers leave theirs idle."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or cores() + 1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache, nor does a process that one starts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patched.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch"))
        yield


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """Compose a configuration from overrides; results go to a folder of the test's own."""
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        yield lambda *overrides: compose("config", [f"paths.results={tmp_path / 'results'}", *overrides])


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call a command's ``main`` in this process: main, arguments → exit code, standard output, standard error."""

    def call(main: Callable[[], None], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        capsys.readouterr()  # what was printed before, by a run that others share and that is made here first
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> Callable[..., tuple[int, str, str]]:
    """Call the ``bench`` command: arguments → exit code, standard output, standard error."""
    from bench.__main__ import main

    def run(*arguments: str, results: Path | str = tmp_path / "results") -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        GlobalHydra.instance().clear()
        return call(main, *arguments, f"paths.results={results}")

    return run


@pytest.fixture
def search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> Callable[..., tuple[int, str, str]]:
    """Call ``bench-tune``: arguments → exit code, standard output, standard error."""
    from bench import tune

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return lambda *arguments: call(tune.main, *arguments, f"paths.results={tmp_path / 'results'}")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Cells are not trained: the nearer their learning rate is to 0.01, the better. Returns the rates."""
    from bench import train

    rates: list[float] = []

    def run(cfg: DictConfig, sweep: str, watchers: object) -> RunRecord:
        rates.append(cfg.optimizer.lr)
        return record_of(val=1 / (1 + abs(cfg.optimizer.lr - 0.01)), test=0.123)

    monkeypatch.setattr(train, "run", run)
    return rates


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    """See :func:`record_of`."""
    return record_of


@pytest.fixture(autouse=True)
def warnings_stay_errors() -> Iterator[None]:
    """Libraries that change warning filters at import change them for their own test only."""
    with warnings.catch_warnings():
        yield


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """Nor does pytest wait for it."""
    yield
    kill_all()


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a folder with images of noise of two kinds: 32 to train on, 16 to validate, 16 to test."""
    return images_of_noise(tmp_path_factory.mktemp("images"), 16, 8, 8)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of a run with these overrides, trained once for all tests; by default a short epoch on digits."""
    from bench import train

    results = tmp_path_factory.mktemp("runs")
    made: dict[tuple[str, ...], Path] = {}

    def of(*overrides: str, base: tuple[str, ...] = SHORT) -> Path:
        if (asked := (*base, *overrides)) not in made:
            settings = [*asked, "progress=none", "trainer.precision=32-true", f"paths.results={results}"]
            with initialize_config_dir(str(config.CONF), version_base="1.3"):
                record = train.run(compose("config", settings))
            assert record.status == "ok", record.error
            made[asked] = results / "runs" / record.run_id
        return made[asked]

    return of
