"""The machine a run uses: memory allocator, precision, peak memory, description."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

import bench
from bench.cores import cores
from bench.errors import ConfigError
from bench.explain import located
from bench.rules import walk


def prepare_cpu() -> None:
    """Set up the allocator and threads; call before the first large tensor."""
    keep_freed_pages()
    fit_threads()


def keep_freed_pages() -> bool:
    """Tell glibc's allocator to keep the pages of freed tensors; True if the C library supports it.

    By default glibc maps and unmaps memory for every large activation; the page faults cost a third of a training step
    on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


def release_freed_pages() -> None:
    """Release the pages of an earlier cell, so that its memory does not count towards the next one."""
    gc.unfreeze()  # what the last run left is in reference cycles with objects that were frozen
    gc.collect()
    gc.freeze()  # collections during the cell then skip the modules, which take a fifth of a second
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


CGROUPS = Path("/sys/fs/cgroup")


def fit_threads() -> None:
    """Limit PyTorch's threads to the CPUs that the process may use at once.

    PyTorch counts all visible cores, which in a container with a quota are all of the machine's; threads beyond the
    quota are throttled most of the time. ``OMP_NUM_THREADS`` overrides this.
    """
    quota = cpu_quota()
    if quota is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, int(quota))))


def cpu_quota() -> float | None:
    """CPUs that control groups (Linux, version 2) allow this process to use at once; None for no limit."""
    own = re.search(r"^0::/(.*)$", _text("/proc/self/cgroup"), re.MULTILINE)
    if own is None:
        return None
    group = CGROUPS / own[1]
    told = [
        _text(folder / "cpu.max").split() for folder in (group, *group.parents) if CGROUPS in (folder, *folder.parents)
    ]
    return min((int(limit[0]) / int(limit[1]) for limit in told if limit and limit[0] != "max"), default=None)


def device(accelerator: str) -> torch.device:
    """The device to train on: ``gpu``, ``mps``, ``cpu``, or with ``auto`` the first of these that is available.

    Raises:
        ConfigError: ``accelerator`` is not available on this machine.
    """
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(name for name in there if there[name]) if accelerator == "auto" else accelerator
    if not there.get(chosen, False):
        has = ", ".join(name for name in there if there[name])
        raise ConfigError(f"trainer.accelerator={accelerator}: this machine has {has}")
    if not there["gpu"]:
        # Lightning makes PyTorch look for GPUs by loading an NVIDIA library, so that processes can be forked; PyTorch
        # looks in every optimizer step, and without a GPU it loads the library again each time: 4 % of LeNet's step
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return torch.device("cuda" if chosen == "gpu" else chosen)


def precision(wanted: str, device: torch.device) -> str:
    """Lightning's name for the training precision; ``auto`` is bf16 autocast if the hardware multiplies bf16."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        # 8.0 (Ampere) is the first generation with bf16 tensor cores; older ones only emulate it
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = device.type == "cpu" and cpu_multiplies_bf16()
    return "bf16-mixed" if native else "32-true"


def cpu_multiplies_bf16() -> bool:
    """Whether the processor is an x86 one that multiplies bf16 (avx512_bf16); without, bf16 is slower than 32 bits."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def compile_mode(wanted: str, device: torch.device) -> str | None:
    """The ``torch.compile`` mode for the network; None for no compilation.

    ``auto`` is ``default`` on GPUs that Triton supports, and none elsewhere: on CPUs compiled steps are slower than
    eager ones in bf16 and channels_last, and the first takes a minute.
    ``reduce-overhead`` and ``max-autotune`` record the step as a CUDA graph.
    """
    if wanted != "auto":
        return None if wanted == "none" else wanted
    triton = importlib.util.find_spec("triton") is not None
    # 7.0 (Volta) is the first generation that Triton supports
    able = device.type == "cuda" and triton and torch.cuda.get_device_capability(device) >= (7, 0)
    return "default" if able else None


def allow_tf32(allowed: bool) -> None:
    """Set whether GPUs may multiply 32-bit numbers in TF32, with 10 bits of mantissa, which is faster."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


class PeakMemory:
    """Peak memory since construction, in bytes: of the GPU's allocator on CUDA, else resident memory of the process.

    On Linux the kernel's high-water mark is reset first, so that each cell of a sweep has its own peak; elsewhere, or
    if the kernel does not permit it, it is the peak of the process so far.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with contextlib.suppress(OSError):  # not allowed in some containers
                Path("/proc/self/clear_refs").write_text("5")  # 5: reset VmHWM, proc(5)

    def read(self) -> int:
        """Peak in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        mark = re.search(r"VmHWM:\s*(\d+) kB", _text("/proc/self/status"))
        if mark is not None:
            return int(mark[1]) * 1024
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _text(path: str | Path) -> str:
    """A file's text; empty if it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work; GPU calls return before that."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def hardware() -> dict[str, Any]:
    """Processor, cores, threads, vector instructions, memory (bytes), GPUs, host, operating system."""
    return _hardware() | {"threads": torch.get_num_threads()}  # may change: a quota, a share of the cores


@functools.cache
def _hardware() -> dict[str, Any]:
    names = re.findall(r"model name\s*: (.+)", _text("/proc/cpuinfo"))
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        # names such as AMD EPYC are those of several generations, of which one trains several times faster
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # AVX2, AVX512, … as PyTorch's kernels use them
        "cpu_avx512_bf16": cpu_multiplies_bf16(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),  # those of the machine's that a launcher has chosen
        "host": platform.node(),
        "os": platform.platform(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow", "scipy")
    found = {"python": platform.python_version(), "convbench": bench.__version__}
    found |= {name: importlib.metadata.version(name) for name in (*packages, "scikit-learn")}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an extra
        found["timm"] = importlib.metadata.version("timm")
    if torch.version.cuda and torch.cuda.is_available():
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        if driver := _text("/sys/module/nvidia/version").strip():  # Linux, also in containers
            found["gpu_driver"] = driver
    return found


def own_code(config: Mapping[str, Any]) -> dict[str, str]:
    """The start of the hash of each module that a configuration names, but for ours and installed ones, by its name."""
    found = {}
    for _, key, target in walk(config):
        with contextlib.suppress(Exception):  # it may not be there, which is told elsewhere
            if key == "_target_" and (told := _hash(name := located(str(target)).__module__)):
                found[name] = told
    return found


@functools.cache  # as it was when it was imported
def _hash(module: str) -> str | None:
    file = Path(str(sys.modules[module].__file__))
    ours = Path(__file__).parent in file.parents or module.partition(".")[0] in sys.stdlib_module_names
    if ours or {"site-packages", "dist-packages"} & {*file.parts}:
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:10]


CODE = ("bench", "conf", "hydra_plugins")
"""What a run is made of."""


@functools.cache
def git_sha() -> str | None:
    """Commit of the checkout the package runs from, with suffix ``-dirty`` if it has changes or new files among CODE;
    None outside one.
    """
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False)
        if tracked.returncode != 0:
            return None
        sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = [["status", "--porcelain", "-uno"], ["ls-files", "--others", "--exclude-standard", *CODE]]
        dirty = any(subprocess.run([*git, *each], capture_output=True, check=True).stdout.strip() for each in changed)
    except (OSError, subprocess.CalledProcessError):
        return None
    return sha + "-dirty" * dirty
