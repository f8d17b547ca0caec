"""Processes and threads that ask for an entry of the cache at once, and builds that are cut off."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from filelock import FileLock

from bench.data import cache

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("damaged", [False, True])
def test_what_another_process_built_is_verified_without_the_lock(damaged, things, monkeypatch):
    if damaged:
        things.decode()
        os.truncate(things.entries()[0] / "pixels.npy", 300)
    locked, verify, held = cache._locked, cache._about, []

    @contextlib.contextmanager
    def waits(place):
        with monkeypatch.context() as other:  # the other process
            other.setattr(cache, "_locked", locked)
            things.decode()
        held.append(place)
        yield
        held.clear()

    def about(place):
        assert not held
        return verify(place)

    monkeypatch.setattr(cache, "_locked", waits)
    monkeypatch.setattr(cache, "_about", about)
    assert np.array_equal(things.decode().pixels, things.pixels)
    assert len(things.opened) == len(things.pixels) * (1 + damaged)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from PIL import Image
from bench.data.decode import Decoder
assert "torch" not in sys.modules
folder, log, ready = map(Path, sys.argv[1:4])
name, kill = sys.argv[4], int(sys.argv[5])
def read(i):
    if i == kill:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    with log.open("a") as file:
        file.write(f"{i}\\n")
    time.sleep(0.02)
    return Image.new("L", (2, 2), i)
ready.touch()
while kill < 0 and not (ready.parent / "go").exists():
    time.sleep(0.002)
decoded = Decoder(folder, 2, 1).decode(name, [str(i) for i in range(10)], "content", read)
print(decoded.pixels[:, 0, 0, 0].tolist())
"""


def start(folder: Path, number: int, name: str = "things", kill: int = -1) -> subprocess.Popen:
    arguments = [folder / "cache", folder / "log", folder / f"ready{number}", name, kill]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, list[str]]:
    out, _ = process.communicate(timeout=60)
    return process.returncode, out.splitlines()[-1:]


def test_processes_that_ask_at_once_decode_once(tmp_path):
    processes = [start(tmp_path, number) for number in range(4)]
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("ready*"))) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [finish(process) for process in processes] == [(0, [str(list(range(10)))])] * 4
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(10))


@pytest.mark.parametrize("name", ["things", "things[1]"])
def test_a_killed_build_leaves_no_entry_and_the_next_one_clears_up(name, tmp_path):
    assert finish(start(tmp_path, 0, name, kill=6))[0] == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert len(left) == 1
    assert left[0].startswith(".")
    (tmp_path / "go").touch()
    assert finish(start(tmp_path, 1, name)) == (0, [str(list(range(10)))])
    after = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert [entry.startswith(f"{name}-2x2x1-") for entry in after] == [True]


def test_threads_that_ask_at_once_decode_once(things, monkeypatch):
    monkeypatch.setattr("bench.console.live", lambda: False)  # one process draws one bar
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: things.decode(), range(4)))
    assert sorted(things.opened) == [0, 1, 2, 3, 4]
    assert all(np.array_equal(result.pixels, things.pixels) for result in results)


def test_one_who_waits_for_another_says_so(things, monkeypatch):
    things.decode()
    (entry,) = things.entries()
    shutil.rmtree(entry)
    said, waits = [], Event()
    monkeypatch.setattr("bench.console.say", lambda text: (said.append(text), waits.set()))
    with ThreadPoolExecutor(1) as pool:
        with FileLock(f"{entry}.lock"):
            decoded = pool.submit(things.decode)
            assert waits.wait(timeout=30)
            assert said == [f"waiting for another process, which is building {entry.name}"]
        assert np.array_equal(decoded.result().pixels, things.pixels)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="blocks cannot be reserved here")
def test_a_full_disk_raises_before_anything_is_decoded_and_leaves_nothing(things, monkeypatch):
    wanted: list[int] = []

    def full(_, offset, length):
        wanted.append(offset + length)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device"):
        things.decode()
    assert wanted == [128 + things.pixels.size]  # header and pixels
    assert things.opened == things.entries() == []


def test_an_interrupted_build_leaves_nothing(things):
    def interrupt(_):
        raise KeyboardInterrupt

    things.open = interrupt
    with pytest.raises(KeyboardInterrupt):
        things.decode()
    assert things.entries() == []
