"""Files that are there, or are downloaded once."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from urllib.error import URLError

import pytest

from bench.data.sources.fetch import fetched


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder that is made on demand."""
    return tmp_path / "made" / "on" / "demand"


@pytest.mark.parametrize("download", [False, True])
def test_what_is_there_is_loaded_without_lock_or_folder(root, download):
    asked = []
    assert fetched("Things", root, lambda fetch: asked.append(fetch) or "loaded", download) == "loaded"
    assert asked == [False]
    assert not root.exists()


@pytest.mark.parametrize("error", [RuntimeError("corrupted"), FileNotFoundError("a.tgz")], ids=["runtime", "os"])
def test_what_is_missing_is_not_asked_for_again_where_downloading_is_forbidden(root, error):
    asked = []

    def load(fetch):
        asked.append(fetch)
        raise error

    with pytest.raises(FileNotFoundError) as caught:
        fetched("Things", root, load, download=False)
    reason = f"Things not found, and data.source.download is false ({error})"
    assert str(caught.value) == f"paths.data={root}: {reason}"
    assert caught.value.__cause__ is error
    assert asked == [False]
    assert not root.exists()


def test_what_is_missing_is_downloaded_under_a_lock(root):
    asked = []

    def load(fetch):
        asked.append(fetch)
        if not fetch:
            raise RuntimeError("nothing there")
        with (root / ".download.lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "loaded"

    assert fetched("Things", root, load, download=True) == "loaded"
    assert asked == [False, True]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("wrong checksum"), URLError("no route"), PermissionError("read-only"), TimeoutError("too slow")],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_download_is_told(root, error):
    def load(fetch):
        raise error if fetch else RuntimeError("nothing there")

    with pytest.raises(FileNotFoundError) as caught:
        fetched("Things", root, load, download=True)
    assert str(caught.value) == f"paths.data={root}: Things not found and cannot be downloaded ({error})"
    assert caught.value.__cause__ is error


def test_a_root_that_cannot_be_made_is_told(root):
    root.parent.parent.mkdir()
    root.parent.write_text("a file")
    with pytest.raises(FileNotFoundError, match="Things not found and cannot be downloaded") as caught:
        fetched("Things", root, lambda _: Path(root / "nothing").read_text(), download=True)
    assert str(root) in str(caught.value)


def test_other_errors_come_through(root):
    with pytest.raises(ZeroDivisionError):
        fetched("Things", root, lambda _: 1 // 0, download=True)


def test_of_two_that_ask_at_once_one_downloads(root):
    downloads, together = [], Barrier(2, timeout=10)

    def load(fetch):
        if not fetch:
            together.wait()  # both have found nothing
            raise RuntimeError("nothing there")
        if not (root / "thing").exists():
            downloads.append(fetch)
            (root / "thing").write_text("downloaded")
        return (root / "thing").read_text()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: fetched("Things", root, load, download=True), range(2)))
    assert results == ["downloaded"] * 2
    assert downloads == [True]
