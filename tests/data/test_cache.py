"""The cache of decoded images: built once and whole, checked, never written back to."""

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.decode import Decoder, listing

SIDE = 8
ROOT = Path(__file__).parents[2]


def test_images_come_in_the_order_of_the_names_with_their_pixels(things, monkeypatch):
    parallel = things.decode()
    assert np.array_equal(parallel.pixels, things.pixels)
    assert parallel.readable.all()
    assert parallel.skipped == ()
    monkeypatch.setattr("bench.data.decode.ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    things.files.reverse()
    assert np.array_equal(things.decode().pixels, things.pixels[::-1])
    assert things.opened[5:] == [0, 1, 2, 3, 4]


def test_images_are_decoded_once_and_mapped_from_one_file(things):
    first, second = things.decode(), things.decode()
    assert sorted(things.opened) == [0, 1, 2, 3, 4]
    assert np.array_equal(first.pixels, second.pixels)
    assert isinstance(second.pixels, np.memmap)
    assert [Path(second.pixels.filename).parent] == things.entries()


def touch(things) -> None:
    stat = things.files[0].stat()
    os.utime(things.files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def change(things) -> None:
    things.pixels = things.pixels.copy()
    things.pixels[2] = 255 - things.pixels[2]
    things.write(2, things.pixels[2])


def add(things) -> None:
    things.pixels = np.concatenate([things.pixels, things.pixels[:1] // 2])
    things.files.append(things.files[0].with_stem("new"))
    things.write(-1, things.pixels[-1])


def remove(things) -> None:
    things.pixels = things.pixels[:-1]
    things.files.pop().unlink()


@pytest.mark.parametrize("event", [touch, change, add, remove])
def test_a_source_whose_files_differ_is_decoded_anew(things, event):
    before, old = things.decode(), things.pixels.copy()
    event(things)
    assert np.array_equal(things.decode().pixels, things.pixels)
    assert len(things.opened) == len(old) + len(things.pixels)
    assert np.array_equal(before.pixels, old)


def test_a_listing_tells_a_changed_and_a_missing_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    stat = (tmp_path / "a").stat()
    assert listing([tmp_path / "a", tmp_path / "b"]) == [[3, stat.st_mtime_ns, stat.st_ctime_ns], None]


@pytest.mark.parametrize(
    "other",
    [{"name": "n"}, {"names": ["a", "c"]}, {"side": 4}, {"channels": 3}, {"content": [2]}],
    ids=lambda other: next(iter(other)),
)
def test_an_entry_belongs_to_name_names_size_channels_and_content(other, tmp_path):
    opened: list[int] = []

    def decode(name="m", names=("a", "b"), content=(1,), side=2, channels=1):
        decoder = Decoder(tmp_path, side, channels)
        return decoder.decode(name, names, content, lambda i: opened.append(i) or Image.new("L", (2, 2), i))

    one, two = decode(), decode(**other)
    assert sorted(opened) == [0, 0, 1, 1]
    assert Path(one.pixels.filename).parent != Path(two.pixels.filename).parent
    assert two.pixels.shape == (2, other.get("side", 2), other.get("side", 2), other.get("channels", 1))
    assert two.pixels[:, 0, 0, 0].tolist() == [0, 1]


def test_nothing_can_write_into_the_array_and_it_may_be_larger_than_memory(things):
    array = things.decode().pixels
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 0
    assert array.mode == "r"  # of what could be written, Linux maps no more than memory and swap


def test_an_entry_holds_one_array_and_json_and_no_pickle_and_has_the_usual_permissions(things):
    old = os.umask(0o027)
    try:
        things.decode()
    finally:
        os.umask(old)
    (entry,) = things.entries()
    assert {file.name for file in entry.iterdir()} == {"pixels.npy", "entry.json"}
    assert np.array_equal(np.load(entry / "pixels.npy", allow_pickle=False), things.pixels)
    assert json.loads((entry / "entry.json").read_text())["content"]["about"] == {"skipped": {}}
    assert entry.stat().st_mode & 0o777 == 0o750
    assert entry.with_name(f"{entry.name}.lock").stat().st_mode & 0o777 == 0o666  # for all who may write to the folder


def test_an_entry_is_not_there_before_it_is_whole(things):
    seen: list[str] = []
    things.open = lambda i: seen.extend(p.name for p in things.entries()) or Image.open(things.files[i])
    things.decode()
    assert len(seen) >= 5
    assert all(name.startswith(".") for name in seen)
    assert [entry.name.startswith(".") for entry in things.entries()] == [False]


def test_entries_of_another_format_are_not_read(things, monkeypatch):
    one = things.decode()
    monkeypatch.setattr("bench.data.cache.FORMAT", 99)
    other = things.decode()
    monkeypatch.setattr("PIL.__version__", "0.1")  # another Pillow may scale otherwise
    third = things.decode()
    assert len({array.pixels.filename for array in (one, other, third)}) == 3


def flip(file: Path) -> None:
    """Change one bit; size and time of change stay."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[-7] ^= 1
    time.sleep(0.02)  # the clock of status changes is coarse
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda entry: flip(entry / "pixels.npy"),
    "truncated": lambda entry: os.truncate(entry / "pixels.npy", 300),
    "empty": lambda entry: os.truncate(entry / "pixels.npy", 0),
    "no pixels": lambda entry: (entry / "pixels.npy").unlink(),
    "no json": lambda entry: (entry / "entry.json").unlink(),
    "nothing": lambda entry: [file.unlink() for file in entry.iterdir()],
} | {
    f"json {text!r}": lambda entry, text=text: (entry / "entry.json").write_bytes(text)
    for text in (
        b"",
        b"\xff\x00",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"content": {"files": {}, "about": {}}, "sha256": "0"}',
    )
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_told_and_made_anew(damage, things, capsys):
    things.decode()
    things.decode()  # by now the checksum is remembered
    (entry,) = things.entries()
    assert "damaged" not in capsys.readouterr().out
    damage(entry)
    assert np.array_equal(things.decode().pixels, things.pixels)
    assert f"{entry}: damaged (" in capsys.readouterr().out
    assert np.array_equal(things.decode().pixels, things.pixels)
    assert capsys.readouterr().out == ""
    assert sorted(things.opened) == sorted(2 * [0, 1, 2, 3, 4])
    assert things.entries() == [entry]


def test_a_damaged_entry_is_told_once(things, capsys):
    things.decode()
    (things.entries()[0] / "entry.json").unlink()
    things.decode()
    assert capsys.readouterr().out.count("damaged (") == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_entry_that_the_machine_cannot_read_is_kept(number, things, monkeypatch, capsys):
    things.decode()
    (entry,) = things.entries()
    before = {file.name: file.stat().st_ino for file in entry.iterdir()}

    def read_text(path):
        raise OSError(number, "cannot be read", str(path))

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(OSError, match="cannot be read"):
        things.decode()
    assert "damaged" not in capsys.readouterr().out
    assert {file.name: file.stat().st_ino for file in entry.iterdir()} == before
