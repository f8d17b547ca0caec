"""Energy, if the machine reports it: of CPUs by the kernel's powercap (RAPL), of NVIDIA GPUs by NVML."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Joules since construction, of all CPUs of the machine, or of the GPU alone on CUDA.

    CPU counters cover whole packages, and so everything that ran meanwhile. On many machines only root may read them.
    """

    def __init__(self, device: torch.device):
        self._counters = _gpu(device) if device.type == "cuda" else _packages()
        self._begun = [read() for read, _ in self._counters]

    def read(self) -> float | None:
        """Joules; None if the machine does not report them."""
        if not self._counters:
            return None
        total = 0.0
        for (read, wraps), begun in zip(self._counters, self._begun, strict=True):
            spent = read() - begun
            total += spent if spent >= 0 else spent + wraps  # counters wrap around after an hour or so
        return total


Counter = tuple[Callable[[], float], float]
"""A function that returns joules, and the value at which it wraps around."""


def _packages() -> list[Counter]:
    counters: list[Counter] = []
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):  # the same name on AMD CPUs
        with contextlib.suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):  # others are parts of it
                file = zone / "energy_uj"
                file.read_text()  # raises if not permitted
                wraps = int((zone / "max_energy_range_uj").read_text()) / 1e6
                counters.append((lambda file=file: int(file.read_text()) / 1e6, wraps))  # type: ignore[misc]
    return counters


def _gpu(device: torch.device) -> list[Counter]:
    try:
        import pynvml
    except ImportError:  # nvidia-ml-py is not installed
        return []
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # from Volta on
    except pynvml.NVMLError:
        return []
    return [(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, float("inf"))]
