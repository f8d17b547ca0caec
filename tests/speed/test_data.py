"""The comparison of input pipelines, made small: what is compared, not how fast it is."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from bench.speed import cache_build, data, reference
from bench.speed.__main__ import main


@pytest.fixture
def bench_speed(call, tmp_path):
    """Call the command: arguments → exit code, standard output, standard error."""
    return lambda *arguments: call(main, *arguments, f"paths.results={tmp_path}/results")


def images(batches) -> torch.Tensor:
    return torch.cat([batch[0] for batch in batches])


def alike(contestants: dict, n: int, side: int, within: float) -> None:
    """All give ``n`` float32 images whose channels have, to some accuracy, the same mean and standard deviation."""
    first, *others = (images(batches) for batches in contestants.values())
    assert first.shape == (n, 3, side, side)
    for other in others:
        assert other.shape == first.shape
        assert other.dtype == first.dtype == torch.float32
        assert other.mean((0, 2, 3)).tolist() == pytest.approx(first.mean((0, 2, 3)).tolist(), abs=within)
        assert other.std((0, 2, 3)).tolist() == pytest.approx(first.std((0, 2, 3)).tolist(), abs=within)


def test_small_contestants_give_images_alike(monkeypatch):
    monkeypatch.setattr(reference, "WORKERS", (0, 1))
    for name, value in (("SMALL", 1_000), ("SMALL_THEIRS", 1_000)):
        monkeypatch.setattr(data, name, value)
    contestants = data.small_images()
    assert list(contestants) == ["this pipeline", "PIL, torchvision, 0 workers", "PIL, torchvision, 1 worker",
                                 "tensors, torchvision v2, 0 workers", "tensors, torchvision v2, 1 worker"]  # fmt: skip
    alike(contestants, 1_000, 32, 0.02)
    assert images(contestants["this pipeline"]).mean() < -0.1  # black corners: the padding is zero on all sides


def test_large_contestants_give_images_alike(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "WORKERS", (0,))
    monkeypatch.setattr(data, "PHOTOS", 48)
    torch.manual_seed(0)  # of torchvision's crops: the means of few images differ by chance
    contestants = data.large_images(tmp_path)
    assert list(contestants) == ["this pipeline", "JPEG, torchvision, 0 workers"]
    alike(contestants, 48, 224, 0.12)


def test_samples_can_be_sent_to_workers_that_are_not_forked(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "WORKERS", (0,))
    monkeypatch.setattr(data, "PHOTOS", 3)
    for contestants in (data.small_images(), data.large_images(tmp_path)):
        loaders = [each for each in contestants.values() if isinstance(each, DataLoader)]
        assert loaders
        for each in loaders:
            torch.manual_seed(0)
            image, _ = each.dataset[2]
            torch.manual_seed(0)
            assert torch.equal(pickle.loads(pickle.dumps(each.dataset))[2][0], image)


def test_photographs_are_jpeg_files_of_a_cameras_size(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "PHOTOS", 3)
    files = data.photographs(tmp_path)
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == data.PHOTO_SIZE
    assert all(15_000 < file.stat().st_size < 120_000 for file in files)


@pytest.mark.slow
def test_the_command_writes_a_table_of_all_contestants(bench_speed, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "WORKERS", (0, 1))
    for name, value in (("ROUNDS", 1), ("PHOTOS", 4), ("SMALL", 500), ("SMALL_THEIRS", 500)):
        monkeypatch.setattr(data, name, value)
    code, out, err = bench_speed("data", f"paths.data={tmp_path}")
    assert (code, err) == (0, "")
    results = json.loads((tmp_path / "results/speed/data.json").read_text())["results"]
    assert [len(rates) for rates in results["images_per_s"].values()] == [5, 3]
    assert all(
        len(rounds) == 1 and rounds[0] > 0 for rates in results["images_per_s"].values() for rounds in rates.values()
    )
    assert results["cifar10"] is None
    assert f"paths.data={tmp_path}: has no folder cifar10" in out
    assert "than the best of the others" in (tmp_path / "results/speed/data.md").read_text()


def test_a_cache_that_cannot_be_built_is_told_and_the_rest_is_published(bench_speed, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "small_images", dict)
    monkeypatch.setattr(data, "large_images", lambda folder: {})
    monkeypatch.setattr(data, "rounds", lambda contestants: {data.OURS: [2.0], "other": [1.0]})
    (tmp_path / "cifar10/train/0").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "cifar10/train/0/0.png")
    code, _, err = bench_speed("data", f"paths.data={tmp_path}")
    assert code == 1
    assert err.startswith(f"bench-speed: building the cache of {tmp_path}/cifar10 has failed: ")
    assert len(err.splitlines()) == 1
    assert "| other |" in (tmp_path / "results/speed/data.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one of train, growth, data, models, sweep first"),
        (["nets"], "nets: name one of train, growth, data, models, sweep first"),
        (["data", "x=1"], "x=1: data takes paths.…"),
        (["growth", "model=nin"], "model=nin: growth takes trainer.accelerator, trainer.precision, trainer.compile"),
        (["models", "trainer.accelerator=mps"], "trainer.accelerator=mps: this machine has"),
    ],
)
def test_a_mistake_is_told_in_a_line(bench_speed, arguments, said, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    code, _, err = bench_speed(*arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_building_the_cache_is_timed_and_its_memory_told(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 1)):
        for label in range(10):
            folder = tmp_path / "cifar10" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    measured = cache_build.measure(str(tmp_path), str(tmp_path / "cache"), sizes=(40, 10))
    assert measured["build_seconds"] > 0
    assert measured.keys() == {"build_seconds", "build_bytes", "epoch_bytes"}
    assert len(list((tmp_path / "cache").glob("cifar10-32x32x3-*/pixels.npy"))) == 1
