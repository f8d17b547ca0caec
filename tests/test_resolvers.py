"""What a configuration may ask of a folder of images."""

import os
import shutil
from pathlib import Path

import pytest

from bench.resolvers import class_folders, content, remembering


@pytest.fixture
def pets(tmp_path) -> Path:
    for name, text in (("train/cat/a", "1"), ("train/cat/b", "22"), ("train/dog/a", "1"), ("test/cat/c", "333")):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_text(text)
    (tmp_path / "pets/train/.hidden").mkdir()
    return tmp_path / "pets"


def test_class_folders_are_counted(pets):
    (pets / "train/notes.txt").touch()
    assert class_folders(str(pets)) == 2


def test_a_copy_has_the_same_content_and_the_time_of_change_does_not_count(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "copy")
    os.utime(tmp_path / "copy/train/cat/a", (1, 1))
    assert content(str(pets)) == content(str(tmp_path / "copy"))
    assert len(content(str(pets))) == 10


def test_hidden_files_do_not_count_and_linked_folders_do(pets, tmp_path):
    before = content(str(pets))
    (pets / "train/cat/.DS_Store").touch()
    (pets / "train/.hidden/a").touch()
    assert content(str(pets)) == before
    (pets / "train/dog").rename(tmp_path / "elsewhere")
    (pets / "train/dog").symlink_to(tmp_path / "elsewhere")
    assert content(str(pets)) == before
    (tmp_path / "elsewhere/b").touch()
    assert content(str(pets)) != before


def test_a_folder_is_looked_at_once_if_asked_to(pets):
    before = content(str(pets))
    with remembering():
        assert content(str(pets)) == before
        (pets / "train/cat/d").touch()
        assert content(str(pets)) == before
    assert content(str(pets)) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda pets: (pets / "train/cat/a").write_text("12"),
        lambda pets: (pets / "train/cat/d").touch(),
        lambda pets: (pets / "train/cat/a").rename(pets / "train/cat/e"),
        lambda pets: (pets / "test/cat/c").unlink(),
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
