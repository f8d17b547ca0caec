"""The ``bench-data`` command."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.__main__ import main


@pytest.fixture
def bench_data(call, monkeypatch, tmp_path):
    """Call the command in a folder of the test's own: arguments → exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: call(main, *arguments)


@pytest.fixture
def pets(tmp_path) -> Path:
    """Six cats and four dogs of 48×48 random pixels; two cats and one dog to validate, three and one to test."""
    rng = np.random.default_rng(0)
    for part, counts in (("train", (6, 4)), ("val", (2, 1)), ("test", (3, 1))):
        for kind, count in zip(("cat", "dog"), counts, strict=True):
            folder = tmp_path / "images/pets" / part / kind
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


PETS = ("data=folder", "data.name=pets", "data.image_size=48", "model=nin")


def test_sizes_classes_and_statistics_are_printed(bench_data, pets):
    code, out, err = bench_data(*PETS, f"paths.data={pets}")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert rows[:3] == [["train", "10", "4 … 6"], ["val", "3", "1 … 2"], ["test", "4", "1 … 3"]]
    assert rows[-2:] == [["cat", "6", "2", "3"], ["dog", "4", "1", "1"]]
    pixels = np.stack([np.asarray(Image.open(file)) for file in (pets / "pets/train").glob("*/*")]) / 255
    assert rows[3] == ["mean", *(f"{value:.4f}" for value in pixels.mean((0, 1, 2)))]
    assert rows[4] == ["std", *(f"{value:.4f}" for value in pixels.std((0, 1, 2)))]
    assert "2 classes, 48×48×3" in out


def test_class_names_with_brackets_are_shown_whole(bench_data, pets):
    for part in (pets / "pets").iterdir():
        (part / "cat").rename(part / "cat [red]")
    code, out, _ = bench_data(*PETS, f"paths.data={pets}")
    assert code == 0
    assert "│ cat [red] │" in out


def cells(file: Path, side: int, scale: int, columns: int) -> np.ndarray:
    """The pictures of a contact sheet, (rows, columns, side, side, 3), without their gaps and enlargement."""
    sheet = np.asarray(Image.open(file))
    step = side * scale + 4
    rows = (sheet.shape[0] - 4) // step
    assert sheet.shape == (rows * step + 4, columns * step + 4, 3)
    tiles = sheet[4:, 4:].reshape(rows, step, columns, step, 3).swapaxes(1, 2)
    return tiles[:, :, : side * scale : scale, : side * scale : scale]


def test_the_sheet_shows_training_images_as_stored_and_as_augmented(bench_data, pets):
    code, out, _ = bench_data(*PETS, f"paths.data={pets}", "augment=alternating_flip", "trainer.precision=32-true")
    assert code == 0
    assert "written: pets-alternating_flip.png" in out
    shown = cells(Path("pets-alternating_flip.png"), 48, 2, 10)
    stored = {np.asarray(Image.open(file)).tobytes() for file in (pets / "pets/train").glob("*/*")}
    assert {image.tobytes() for image in shown[0]} == stored
    assert len(shown) == 4
    for original, *epochs in shown.swapaxes(0, 1):
        flipped = [np.array_equal(image, original[:, ::-1]) for image in epochs]
        assert flipped in ([True, False, True], [False, True, False])
        assert all(np.array_equal(image, original) for image, turned in zip(epochs, flipped, strict=True) if not turned)


def test_classes_whose_names_are_no_text_are_shown(bench_data, pets, tmp_path):
    for part in ("train", "val", "test"):
        cat = next((pets / "pets" / part).iterdir())
        cat.rename(cat.with_name(os.fsdecode(b"caf\xe9")))
    code, out, err = bench_data(*PETS, f"paths.data={pets}", "augment=none")
    assert (code, err) == (0, "")
    assert "caf\\udce9" in out


@pytest.mark.parametrize("normalize", ["pixel_mean", "zca"])
def test_the_sheet_shows_dark_and_bright_whatever_the_normalisation(bench_data, normalize):
    settings = ("data.image_size=28", "model=lenet", "augment=none", "trainer.precision=32-true")
    code, *_ = bench_data(f"augment/normalize={normalize}", *settings, "out=sheet.png")
    assert code == 0
    stored, *epochs = cells(Path("sheet.png"), 28, 4, 12).astype(float)
    for shown in epochs:
        assert (shown.min(), shown.max()) == (0, 255)
        alike = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(shown, stored, strict=True)]
        assert min(alike) > 0.2  # no negatives


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data=nix"], "data=nix: no such option"),
        (["cifar10"], "cifar10: write it as setting=value"),
        (["out=sheet.jpg"], "out=sheet.jpg: must end in .png"),
        (["out=nowhere/sheet.png"], "out=nowhere/sheet.png: must end in .png, in a folder that exists"),
        (["model=null"], "must be a name"),
        (["augment=[[crop,flip]]"], "a list within a list"),
        (["augment=[crop, flip"], "a list needs quotes"),
        (["augment.normalize=zca"], "augment.normalize=zca: is not a normalisation; write augment/normalize="),
        (["augment/normalize=null"], "must be a name"),
        (["data.image_size=4"], "data.image_size=4: must be"),
        (["augment=[mixup,cutmix]"], "exclude each other"),
        (["augment=[random_crop,flip]"], "augment.random_crop: leaves all of images stored at data.decode_size="),
        (["data=cifar10", "data.source.download=false", "paths.data=."], "CIFAR-10 not found"),
        (["data=cifar10", "data.source.download=no", "paths.data=."], "data.source.download=no: must be one of true, "),
        (["data=cifar10", "data.source.sizes=[5]", "paths.data=."], "data.source.sizes=[5]: must be null or a list of"),
        (
            ["data=cifar10", "data.source.sizes=60000", "paths.data=."],
            "data.source.sizes=60000: must be null or a list",
        ),
        (["data=flowers102", "data.source.split=7", "paths.data=."], "data.source.split=7: must be text"),
        (["augment.normalize=pixel_mean"], "is not a normalisation"),
        (["augment/normalize=pixel_mean", "augment.normalize.unit_variance=no"], "unit_variance=no: must be one of"),
        (["data.source.test_size=-3"], "data.source.test_size=-3: must be a whole number from 10 to 1787"),
        (["data.val_size=3"], "data.val_size=3: cannot hold out 3 of"),
    ],
)
def test_a_mistake_is_told_in_a_line(bench_data, arguments, said):
    code, _, err = bench_data(*arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(Path.cwd().glob("*.png")) == []


def test_help_names_the_settings(bench_data):
    code, out, _ = bench_data("--help")
    assert code == 0
    assert "bench-data data=cifar10 'augment=" in out
