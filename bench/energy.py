"""Energy, where the machine tells: of processors by the kernel's powercap (RAPL), of NVIDIA's GPUs by NVML."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Joules since construction, of all processors of the machine, or of the GPU alone on CUDA.

    The processors' counters are those of whole packages: of everything that ran meanwhile. On many machines only root
    may read them.
    """

    def __init__(self, device: torch.device):
        self._counters = _gpu(device) if device.type == "cuda" else _packages()
        self._begun = [read() for read, _ in self._counters]

    def read(self) -> float | None:
        """Joules; None where the machine does not tell."""
        if not self._counters:
            return None
        total = 0.0
        for (read, wraps), begun in zip(self._counters, self._begun, strict=True):
            spent = read() - begun
            total += spent if spent >= 0 else spent + wraps  # counters begin anew after an hour or so
        return total


Counter = tuple[Callable[[], float], float]
"""Gives joules; at so many it begins anew."""


def _packages() -> list[Counter]:
    counters: list[Counter] = []
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):  # AMD's processors have the same name
        with contextlib.suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):  # others are parts of it
                file = zone / "energy_uj"
                file.read_text()  # refuses whoever may not
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
