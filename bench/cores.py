"""The processors that this process may use; without PyTorch."""

from __future__ import annotations

import os


def cores() -> int:
    """Their number."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
