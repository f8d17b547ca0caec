"""What a configuration may ask of a folder of images."""

import os
import shutil
from pathlib import Path

import pytest

from bench.resolvers import class_folders, content, official, remembering


@pytest.fixture
def pets(tmp_path) -> Path:
    for name, text in (
        ("train/cat/a.png", "1"),
        ("train/cat/b.png", "22"),
        ("train/dog/a.png", "1"),
        ("test/cat/c.png", "333"),
    ):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_text(text)
    (tmp_path / "pets/train/.hidden").mkdir()
    return tmp_path / "pets"


def test_class_folders_are_counted(pets):
    (pets / "train/notes.txt").touch()
    assert class_folders(str(pets)) == 2


def test_a_copy_has_the_same_content_and_the_time_of_change_does_not_count(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "copy")
    os.utime(tmp_path / "copy/train/cat/a.png", (1, 1))
    assert content(str(pets)) == content(str(tmp_path / "copy"))
    assert len(content(str(pets))) == 10


def test_what_is_no_image_does_not_count_and_linked_folders_do(pets, tmp_path):
    before = content(str(pets))
    (pets / "train/cat/.DS_Store").touch()
    (pets / "train/cat/Thumbs.db").touch()
    (pets / "train/cat/more").mkdir()
    (pets / "train/.hidden/a").touch()
    assert content(str(pets)) == before
    (pets / "train/dog").rename(tmp_path / "elsewhere")
    (pets / "train/dog").symlink_to(tmp_path / "elsewhere")
    assert content(str(pets)) == before
    (tmp_path / "elsewhere/b.png").touch()
    assert content(str(pets)) != before


def test_a_folder_is_looked_at_once_if_asked_to(pets):
    before = content(str(pets))
    with remembering():
        assert content(str(pets)) == before
        (pets / "train/cat/d.png").touch()
        assert content(str(pets)) == before
    assert content(str(pets)) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda pets: (pets / "train/cat/a.png").write_text("12"),
        lambda pets: (pets / "train/cat/d.png").touch(),
        lambda pets: (pets / "train/cat/a.png").rename(pets / "train/cat/e.png"),
        lambda pets: (pets / "test/cat/c.png").unlink(),
        lambda pets: (pets / "test/cat").rename(pets / "test/dog"),
    ],
    ids=["size", "added", "renamed", "removed", "moved"],
)
def test_other_files_are_another_content(pets, change):
    before = content(str(pets))
    change(pets)
    assert content(str(pets)) != before


def test_fewer_than_two_classes_are_refused(pets):
    shutil.rmtree(pets / "train/dog")
    with pytest.raises(ValueError, match=f"{pets}/train: at least 2 class folders are needed, found 1"):
        class_folders(str(pets))


@pytest.mark.parametrize("resolver", [class_folders, content])
def test_a_missing_folder_is_named(tmp_path, resolver):
    with pytest.raises(ValueError, match=f"{tmp_path}/nix/train: no such folder"):
        resolver(f"{tmp_path}/nix")


@pytest.mark.parametrize(
    ("sizes", "protocol"), [([50_000, 10_000], "official"), ([10_000, 2_000], "own-10000-2000"), (None, "own")]
)
def test_a_part_of_a_data_set_is_another_protocol(sizes, protocol):
    assert official(sizes, [50_000, 10_000]) == protocol
