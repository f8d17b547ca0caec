"""Signals, and how they end processes; what they do to runs is in test_resume.py."""

import signal
import subprocess
import sys

import pytest

from bench.interrupt import how_ended


@pytest.mark.parametrize(
    ("last", "told"),
    [("sys.exit(3)", "exit code 3"), (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "SIGKILL")],
)
def test_how_a_process_ended_is_told(last, told):
    done = subprocess.run([sys.executable, "-c", f"import os, sys; {last}"], check=False)
    assert how_ended(done.returncode) == told
