"""Trained networks made again from their checkpoints, without their data."""

import numpy as np
import pytest
import torch
from common import NOISE, SHORT

from bench import saved, train
from bench.assemble import build
from bench.checkpoint import load
from bench.errors import ConfigError
from bench.reporting import predictions
from bench.saved import open_run
from bench.store import Store

QUIET = (*SHORT, "progress=none", "trainer.precision=32-true")


@pytest.mark.parametrize(("model", "normalize"), [("googlenet", "channel"), ("lenet", "pixel_mean"), ("lenet", "zca")])
def test_a_saved_network_answers_as_it_did_in_the_test(composed, noise, model, normalize):
    side = 20 if normalize == "zca" else 32  # whose decomposition of 3,072 values would take seconds
    cells = (*NOISE, noise, "progress=none", "trainer.precision=32-true", f"data.image_size={side}")
    cfg = composed(f"model={model}", *cells, f"augment/normalize={normalize}")
    record = train.run(cfg)
    assert record.status == "ok", record.error
    folder = Store(cfg.paths.results).path(record.run_id)
    made = open_run(folder)
    assert (made.run_id, made.name, made.image_size, made.in_channels) == (record.run_id, f"{model} s0", side, 3)
    assert not made.model.training
    data, _ = build(cfg, record.config, torch.device("cpu"))
    logits = made.logits(made.normalize(torch.from_numpy(data.dataset.pixels[data.test[:128]])))
    told = predictions.load(folder)
    assert made.classes == tuple(told.classes)
    assert np.abs(logits.numpy() - told.logits[:128]).max() < 2e-2  # they were rounded to 16 bits
    assert open_run(folder / "checkpoints/selected.ckpt").run_id == record.run_id


@pytest.fixture
def checkpoint(tmp_path, composed):
    """What a file of selected weights holds, and a place to write it to."""
    cfg = composed("model=lenet", *QUIET)
    resolved = train.config.check(cfg)
    data, module = build(cfg, resolved, torch.device("cpu"))
    content = {"epoch": 1, "state_dict": module.state_dict(), "use": saved.use(resolved, data)}
    return content, tmp_path / "selected.ckpt"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "bench.models.kernels.torch.load",
        "bench.config.check",
        "bench.data.decode._array",
        "bench.data.module.ImageData",
    ],
)
@pytest.mark.parametrize("place", ["model.net", "augment.normalize"])
def test_a_checkpoint_that_would_call_something_else_is_refused(checkpoint, target, place):
    content, file = checkpoint
    group, name = place.split(".")
    content["use"]["config"][group][name] = {"_target_": "bench.models.lenet.LeNet", "deeper": [{"_target_": target}]}
    torch.save(content, file)
    with pytest.raises(ConfigError, match=f"wants to call {target}"):
        open_run(file)


@pytest.mark.parametrize("place", ["model.net", "augment.normalize"])
def test_a_checkpoint_that_would_have_something_looked_up_is_refused(checkpoint, place):
    content, file = checkpoint
    group, name = place.split(".")
    hidden = "${oc.create:{_target_:pathlib.Path.touch}}"  # a mapping only once it is resolved
    content["use"]["config"][group][name] |= {"more": [{"deeper": hidden}]}
    torch.save(content, file)
    with pytest.raises(ConfigError, match=r"contains \$\{oc.create:.*; not loaded$"):
        open_run(file)


def test_a_network_of_a_package_that_is_trusted_is_loaded(checkpoint, tmp_path, monkeypatch, capfd):
    content, file = checkpoint
    (tmp_path / "team").mkdir()
    (tmp_path / "team/nets.py").write_text(
        "import os, torch\nfrom bench.models.lenet import LeNet\n\nclass Mine(LeNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    content["use"]["config"]["model"]["net"]["_target_"] = "team.nets.Mine"
    torch.save(content, file)
    monkeypatch.setenv("BENCH_TRUST", "teams, other")
    with pytest.raises(ConfigError, match=r"wants to call team.nets.Mine, .*; BENCH_TRUST=team in the environment"):
        open_run(file)
    monkeypatch.setenv("BENCH_TRUST", "other, team")
    content["use"]["config"]["model"]["net"]["_target_"] = "team.nots.Mine"
    torch.save(content, file)
    with pytest.raises(ConfigError, match=r"needs team\.nots\.Mine, which cannot be imported \(\w+: .*nots") as told:
        open_run(file)
    assert len(str(told.value).splitlines()) == 1
    assert capfd.readouterr().err == ""
    content["use"]["config"]["model"]["net"]["_target_"] = "team.nets.Mine"
    torch.save(content, file)
    assert type(open_run(file).model).__name__ == "Mine"
    for name in ("os.system", "torch.load"):  # imported there, not defined
        content["use"]["config"]["model"]["net"]["_target_"] = f"team.nets.{name}"
        torch.save(content, file)
        with pytest.raises(ConfigError, match=f"wants to call team.nets.{name}"):
            open_run(file)


def test_what_is_no_checkpoint_is_named(checkpoint, tmp_path):
    content, file = checkpoint
    with pytest.raises(ConfigError, match=r"no-such: no such file; name a run's directory"):
        open_run("no-such")
    with pytest.raises(IsADirectoryError):  # of which the file is not to blame
        load(tmp_path)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"selected.ckpt: contains code or is damaged"):
        open_run(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ConfigError, match="contains no selected weights"):
        open_run(file)
    for change in (
        {"use": 5}, {"use": {**content["use"], "config": {"model": {}}}}, {"state_dict": [1]}, {"use": None},
        {"use": {**content["use"], "normalize": {}}},
    ):  # fmt: skip
        torch.save(content | change, file)
        with pytest.raises(ConfigError, match=r"contains no selected weights \(\w+Error: .*\); name a run"):
            open_run(file)
    del content["state_dict"][min(content["state_dict"])]
    torch.save(content, file)
    with pytest.raises(ConfigError, match="weights do not fit"):
        open_run(file)
