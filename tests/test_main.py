"""The ``bench`` command: what it does, and how soon it answers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from common import SHORT

from bench import config, train
from bench.interrupt import Interrupted

MODELS = sorted(file.stem for file in (config.CONF / "model").glob("*.yaml"))


def test_a_cell_is_trained_recorded_and_then_left_alone(bench, tmp_path):
    code, out, err = bench("model=lenet", *SHORT)
    assert (code, err) == (0, "")
    assert "lenet on digits, seed 0: val" in out
    (folder,) = (tmp_path / "results/runs").iterdir()
    before = (folder / "record.json").stat().st_mtime_ns
    code, out, _ = bench("model=lenet", *SHORT)
    assert code == 0
    assert out == f"{folder.name}: already done, skipped (force=true runs it again)\n"
    assert (folder / "record.json").stat().st_mtime_ns == before
    code, out, _ = bench("model=lenet", *SHORT, "force=true")
    assert code == 0
    assert (folder / "record.json").stat().st_mtime_ns > before


def test_who_stops_a_cell_gets_the_signals_number_and_is_told_how_it_goes_on(bench, monkeypatch):
    def stopped(*arguments):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(train, "build", stopped)
    code, _, err = bench("model=lenet", *SHORT)
    assert code == 128 + signal.SIGTERM
    assert err == "bench: stopped by SIGTERM; the same command resumes from there\n"
    monkeypatch.setattr(config, "check", lambda cfg: (_ for _ in ()).throw(KeyboardInterrupt))
    assert bench("model=lenet", *SHORT)[0] == 128 + signal.SIGINT


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model=letnet"], ["trainer.max_epochs=-1"]])
def test_help_and_mistakes_are_answered_without_importing_anything_heavy(arguments):
    program = f"""
import sys
sys.argv = ["bench", *{arguments!r}]
from bench.__main__ import main
try:
    main()
except SystemExit:
    pass
heavy = sorted({{"torch", "lightning", "torchvision", "sklearn", "wandb", "numpy"}} & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr


def test_augmentations_are_composed_from_a_list(bench):
    overrides = ("augment=[crop_flip,cutout]", "augment/normalize=pixel_mean")
    code, out, _ = bench("--cfg", "job", "-p", "augment", *overrides)
    assert code == 0
    names = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert names == ["crop:", "flip:", "cutout:", "normalize:"]
    assert "PixelMeanNormalize" in out


def test_help_lists_groups_and_settings(bench):
    code, out, _ = bench("--help")
    assert code == 0
    for text in (
        "model: " + ", ".join(MODELS),
        "data: cifar10, cifar100, digits, flowers102",
        "max_epochs",
        "label_smoothing",
    ):
        assert text in out


def test_the_configuration_is_shown(bench):
    code, out, _ = bench("--cfg", "job", "--resolve", "model=googlenet", "data=cifar10")
    assert code == 0
    assert "_target_: bench.models.googlenet.GoogLeNet" in out
    assert "_target_: bench.data.augment.RandomCrop" in out  # CIFAR-10's usual augmentation
    assert "hydra:" not in out


def test_tab_completion_offers_the_options(monkeypatch, bench):
    monkeypatch.setenv("COMP_LINE", "bench model=vgg1")
    monkeypatch.setenv("COMP_POINT", "16")
    code, out, _ = bench("-sc", "query=bash", results="unused")
    assert code == 0
    assert {"model=vgg11", "model=vgg16_bn"} <= set(out.split())


def test_the_command_runs_as_a_module_from_any_folder(tmp_path):
    package = str(Path(config.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "seed=x"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": package}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "seed=x" in done.stderr
