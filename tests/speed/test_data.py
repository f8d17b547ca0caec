"""The comparison of input pipelines, made small: what is compared, not how fast it is."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.speed import data
from bench.speed.__main__ import main


@pytest.fixture
def bench_speed(call, tmp_path):
    """Call the command: arguments → exit code, standard output, standard error."""
    return lambda *arguments: call(main, *arguments, f"paths.results={tmp_path}/results")


def test_both_sides_give_the_same_images(monkeypatch):
    """Crops and flips that change nothing leave the same normalised pixels on both sides."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    seen = {}

    def collect(contestants, rounds):
        seen.update(contestants)
        return dict.fromkeys(contestants, 1.0)

    monkeypatch.setattr(data, "interleaved", collect)
    monkeypatch.setattr(data, "WORKERS", (0,))
    data.small_images()
    assert [name.split(",")[0] for name in seen] == ["this pipeline", "PIL", "tensors"]
    assert [run() for run in list(seen.values())[1:]] == [6_400, 6_400]
    assert data.ours(pixels, 32, [])() == 300


def test_photographs_are_jpeg_files_of_a_cameras_size(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "PHOTOS", 3)
    files = data.photographs(tmp_path)
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == data.PHOTO_SIZE
    assert all(15_000 < file.stat().st_size < 120_000 for file in files)


@pytest.mark.slow
def test_the_command_writes_a_table_of_all_contestants(bench_speed, tmp_path, monkeypatch):
    for name, value in (("ROUNDS", 1), ("WORKERS", (0, 1)), ("PHOTOS", 4)):
        monkeypatch.setattr(data, name, value)
    code, out, err = bench_speed("data", f"paths.data={tmp_path}")
    assert (code, err) == (0, "")
    results = json.loads((tmp_path / "results/speed/data.json").read_text())["results"]
    small, large, cifar10 = results.values()
    assert list(small) == ["this pipeline", "PIL, torchvision, 0 workers", "PIL, torchvision, 1 worker",
                           "tensors, torchvision v2, 0 workers", "tensors, torchvision v2, 1 worker"]  # fmt: skip
    assert list(large) == ["this pipeline", "JPEG, PIL, torchvision, 0 workers", "JPEG, PIL, torchvision, 1 worker"]
    assert all(rate > 0 for rate in [*small.values(), *large.values()])
    assert cifar10 is None
    assert f"paths.data={tmp_path}: has no folder cifar10" in out
    assert "this pipeline / best of the others" in (tmp_path / "results/speed/data.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one of data first"),
        (["models"], "models: name one of data first"),
        (["data", "x=1"], "x: no such setting"),
    ],
)
def test_a_mistake_is_told_in_a_line(bench_speed, arguments, said):
    code, _, err = bench_speed(*arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
