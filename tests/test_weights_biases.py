"""How W&B's runs are started, and finished; what it gets of them is in test_wandb.py."""

import os
import sys
from types import SimpleNamespace

import pytest
from logged import QUIET, run_info

from bench import loggers, train, weights_biases
from bench.errors import ConfigError


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
        with weights_biases.finishing():
            api.run = SimpleNamespace(finish=lambda exit_code: codes.append(exit_code))
            if error:
                raise error
    except RuntimeError:
        pass
    assert codes == [1 if error else 0]


def test_a_wandb_run_of_the_callers_stays_open(monkeypatch):
    finished: list[int] = []
    theirs = SimpleNamespace(finish=lambda exit_code: finished.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=theirs))
    with weights_biases.finishing():
        pass
    assert finished == []


def test_wandb_online_without_a_key_says_what_to_do(composed, tmp_path, monkeypatch):
    api = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    api.teardown()  # W&B reads the environment once per process
    cfg = composed(*QUIET, "logger=wandb", "logger.mode=online")
    for start in (lambda: weights_biases.log_in(cfg.logger), lambda: train.run(cfg)):
        with pytest.raises(ConfigError, match=r"logger=wandb.*logger\.mode=offline"):
            start()


def test_a_cell_that_is_gone_on_with_is_one_wandb_run(tmp_path, monkeypatch):
    api = pytest.importorskip("wandb")
    ids = []
    monkeypatch.setattr(api, "init", lambda **given: ids.append(given["id"]) or SimpleNamespace())
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda experiment: experiment)
    for _ in range(2):
        weights_biases.wandb(run_info(tmp_path), project="p", entity=None, mode="offline", gradients=False, images=0)
    (tmp_path / "wandb_id").unlink()
    weights_biases.wandb(run_info(tmp_path), project="p", entity=None, mode="offline", gradients=False, images=0)
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
    weights_biases.wandb(run_info(tmp_path), project="p", entity=None, mode="online", gradients=False, images=0)
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
        weights_biases.wandb(run_info(tmp_path), project="p", entity=None, mode="online", gradients=False, images=0)


@pytest.mark.slow
def test_looking_for_a_key_needs_no_server_and_leaves_no_service(composed, monkeypatch):
    api = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    api.teardown()  # W&B reads the environment once per process
    try:
        weights_biases.log_in(composed(*QUIET, "logger=wandb", "logger.mode=online").logger)
        assert weights_biases.SERVICE not in os.environ
    finally:
        api.teardown()


def test_a_setting_that_is_missing_is_named(composed):
    pytest.importorskip("wandb")
    with pytest.raises(ConfigError, match=r"^logger.mode: must be set, as logger.mode=…$"):
        loggers.check(composed("logger=wandb", "~logger.mode").logger)
