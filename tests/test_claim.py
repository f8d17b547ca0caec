import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from bench import claim
from bench.claim import CLAIM, Claim, ClaimedError, holder


def owned_by(folder, **changes):
    """A claim of this process, or as ``changes`` have it, that nobody keeps alive."""
    (folder / CLAIM).write_text(json.dumps(asdict(claim.this_process()) | changes))
    return folder / CLAIM


def test_of_many_who_want_a_folder_one_gets_it(tmp_path):
    for dead in (False, True):
        if dead:
            owned_by(tmp_path, born="1")
        start, taken, refused = threading.Barrier(8), [], []

        def want(start=start, taken=taken, refused=refused):
            start.wait()
            try:
                taken.append(Claim.take(tmp_path))
            except ClaimedError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=want) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (1, 7)
        assert taken[0].held()
        taken[0].release()
        assert list(tmp_path.iterdir()) == []


def test_a_live_process_of_this_machine_keeps_its_claim_however_long_it_is_silent(tmp_path):
    os.utime(owned_by(tmp_path), (1, 1))
    with pytest.raises(ClaimedError, match=f"process {os.getpid()} on this machine is working on it"):
        Claim.take(tmp_path)


def test_a_dead_process_of_this_machine_loses_it_at_once_even_where_its_number_was_given_again(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while sys.platform == "linux" and psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    if sys.platform == "linux":
        born = Path(f"/proc/{ended.pid}/stat").read_text().split()[21]
        owned_by(tmp_path, pid=ended.pid, born=born)
        assert holder(tmp_path) is None  # nobody has asked yet how it ended
    ended.wait()
    for dead in ({"pid": ended.pid}, {"born": "1"}):
        owned_by(tmp_path, **dead)
        assert holder(tmp_path) is None
        Claim.take(tmp_path).release()


def test_without_a_clock_that_cannot_be_set_a_number_given_again_is_judged_by_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    os.utime(owned_by(tmp_path), (1, 1))
    assert "on this machine is working on it" in holder(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    file = owned_by(tmp_path, pid=other.pid)  # this process's birth
    assert f"process {other.pid} on" in holder(tmp_path)
    os.utime(file, (1, 1))
    assert holder(tmp_path) is None
    other.communicate(b"\n")
    owned_by(tmp_path, pid=other.pid)
    assert holder(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="hides processes as Linux does")
def test_a_process_that_the_system_hides_is_judged_by_its_signs_of_life(tmp_path, monkeypatch):
    def hidden(*_):
        raise FileNotFoundError(2, "No such file or directory")  # as with hidepid=2, proc(5)

    file = owned_by(tmp_path)
    machine, read = claim._machine(), Path.read_text
    monkeypatch.setattr(claim, "_machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda path, *a: hidden() if str(path).startswith("/proc/") else read(path))
    assert f"process {os.getpid()} on" in holder(tmp_path)
    long_ago = time.time() - claim.EXPIRY - 1
    os.utime(file, (long_ago, long_ago))
    assert holder(tmp_path) is None


@pytest.mark.parametrize("answer", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_without_hard_links_is_claimed_too(tmp_path, monkeypatch, answer):
    def link(*_):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, "link", link)
    mine = Claim.take(tmp_path)
    assert mine.held()
    with pytest.raises(ClaimedError, match="on this machine is working on it"):
        Claim.take(tmp_path)
    assert not claim._create(tmp_path / CLAIM, claim.this_process())
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_disk_is_not_taken_for_a_folder_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="Input/output error"):
        Claim.take(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_ours_when_the_file_servers_answer_was_lost(tmp_path, monkeypatch):
    real = os.link

    def twice(*files):  # NFS asks again and is told of the link that it made
        real(*files)
        real(*files)

    monkeypatch.setattr(os, "link", twice)
    mine = Claim.take(tmp_path)
    assert mine.held()
    mine.release()


def test_another_machine_loses_it_when_it_has_been_silent_for_long(tmp_path):
    file = owned_by(tmp_path, host="elsewhere", machine="another")
    with pytest.raises(ClaimedError, match=r"process \d+ on elsewhere is working on it, seen 0 s ago"):
        Claim.take(tmp_path)
    long_ago = time.time() - claim.EXPIRY - 1
    os.utime(file, (long_ago, long_ago))
    assert holder(tmp_path) is None
    Claim.take(tmp_path).release()


@pytest.mark.parametrize("touch", ["refused", "removed"])
def test_another_machine_keeps_it_where_the_clock_cannot_be_asked(tmp_path, monkeypatch, touch):
    def probe(*_):
        if touch == "refused":
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", probe)  # as in a folder that may only be read, or is cleared at this moment
    file = owned_by(tmp_path, host="elsewhere", machine="another")
    assert "on elsewhere is working on it" in holder(tmp_path)
    with pytest.raises(ClaimedError):
        Claim.take(tmp_path)
    long_ago = time.time() - claim.EXPIRY - 1
    os.utime(file, (long_ago, long_ago))
    assert holder(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": "x"}'])
def test_a_torn_claim_is_nobodys(tmp_path, text):
    (tmp_path / CLAIM).write_text(text)
    Claim.take(tmp_path).release()


def test_a_held_claim_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "BEAT", 0.02)
    mine = Claim.take(tmp_path)
    os.utime(tmp_path / CLAIM, (1, 1))
    until = time.monotonic() + 10
    while (tmp_path / CLAIM).stat().st_mtime < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert (tmp_path / CLAIM).stat().st_mtime > 2
    mine.release()
    assert not (tmp_path / CLAIM).exists()


def test_a_claim_that_was_taken_over_is_not_held_nor_kept_alive_nor_released(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "BEAT", 0.02)
    mine = Claim.take(tmp_path)
    os.utime(owned_by(tmp_path, id="theirs"), (1, 1))
    time.sleep(0.2)
    assert not mine.held()
    assert (tmp_path / CLAIM).stat().st_mtime == 1
    mine.release()
    assert (tmp_path / CLAIM).exists()
