"""What the tests of loggers share."""

from common import SHORT

from bench import loggers

QUIET = ("model=lenet", *SHORT, "progress=none")


def run_info(tmp_path, group=None):
    return loggers.RunInfo("digits-lenet-s0-0123456789", group, ("lenet", "digits"), {"seed": 0}, tmp_path)
