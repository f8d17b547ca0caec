"""Training one cell in several processes on this machine, one per GPU, or each with a share of the CPU cores.

The processes are started here, from nothing but the resolved configuration, rather than by Lightning, which reruns the
command line: that is wrong in a sweep (lightning-hydra-template #393). They train with Lightning's DDP; a batch of
``data.batch_size`` is split among them, so the recipe is the same for any number of processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.layer_sync import LayerSync
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from torch import multiprocessing, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from bench import machine
from bench.errors import ConfigError
from bench.files import write_atomically
from bench.interrupt import SIGNALS, Interrupted, Interrupts, how_ended
from bench.record import RunRecord


class ProcessError(Exception):
    """One of the processes failed or was lost; the message is one line that says why."""


def rank() -> int:
    """The rank of this process, counted from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def alone() -> None:
    """Be the only process of a run, even if a job script or torchrun has left a rank in the environment."""
    os.environ.pop("LOCAL_RANK", None)
    rank_zero_only.rank = 0  # type: ignore[attr-defined] # Lightning has looked when it was imported


class BatchNormSync(LayerSync):
    """Batch norm with the statistics of the batches of all processes.

    Unlike Lightning's own, it keeps the activations that timm's networks have in their batch norm layers, and which
    PyTorch's conversion drops. The layers stay as they are: in evaluation they need no other process.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """The network with its batch norm layers replaced; same parameters and names."""
        if "timm" not in sys.modules:  # nor in the network
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """The network as it is."""
        return model


def train(
    resolved: Mapping[str, Any],
    about: Mapping[str, Any],
    work: Path,
    check: Callable[[], None],
    sweep: str | None,
    interrupts: Interrupts,
) -> RunRecord:
    """``bench.train.train`` in ``trainer.devices`` processes; returns the result of the first one.

    Raises:
        ConfigError: bench.train.train rejects the configuration.
        ProcessError: a process failed or was lost; the others have been killed.
        Interrupted: a signal stopped the run.
    """
    processes = resolved["trainer"]["devices"]
    device = machine.device(resolved["trainer"]["accelerator"])
    if device.type == "cuda" and processes > (there := torch.cuda.device_count()):
        raise ConfigError(f"trainer.devices={processes}: this machine has {there} GPU{'s' * (there != 1)}")
    if device.type == "mps":
        raise ConfigError(
            f"trainer.devices={processes}: an Apple GPU trains in one process; add trainer.accelerator=cpu for more"
        )
    context = multiprocessing.get_context("spawn")
    stop = context.Value("i", 0)  # the signal that asks them to stop; they ignore signals of their own
    begun = context.Value("i", 0)  # whether they train, and so ask whether to stop
    threads = max(1, torch.get_num_threads() // processes)  # they share this process's threads
    place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # not ``work``, which others may take over
    outcome = Path(place.name) / "outcome.json"
    run = (dict(resolved), dict(about), work, check, sweep)
    arguments = (os.getpid(), threads, free_port(), outcome, *run, stop, begun)
    group = None
    try:
        with interrupts.deferring():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited from the start
            try:
                group = multiprocessing.spawn(_process, arguments, nprocs=processes, join=False)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            while not group.join(timeout=0.5, grace_period=2):
                stop.value = interrupts.pending or 0
                if interrupts.pending is not None and not begun.value:  # as of one process that decodes images
                    raise Interrupted(interrupts.pending)
                if "refused" in _told(outcome):  # by one process; the others would wait for it
                    break
    except (ProcessRaisedException, ProcessExitedException) as error:
        if interrupts.pending is not None:
            raise Interrupted(interrupts.pending) from error
        if isinstance(error, ProcessRaisedException):
            raise ProcessError(_told(outcome).get("failed") or str(error).strip().splitlines()[-1]) from error
        lost = f"process {error.error_index + 1} of {processes} was lost"
        raise ProcessError(f"{lost}: {how_ended(error.exit_code)}") from error
    finally:
        for process in group.processes if group is not None else ():
            process.kill()
            process.join()  # it may write until then
        told = _told(outcome)
        place.cleanup()
    if "interrupted" in told:
        raise Interrupted(told["interrupted"])
    if "refused" in told:
        raise ConfigError(told["refused"])
    return RunRecord.from_json(told["record"])


def _told(file: Path) -> dict[str, Any]:
    """The outcome left by the first process, or by the first to fail; empty until then."""
    return json.loads(file.read_text()) if file.exists() else {}


class _FromParent(Interrupts):
    """Interrupts of a process that its parent asks to stop."""

    def __init__(self, stop: Any, begun: Any):
        super().__init__()
        self.stop, self.begun = stop, begun

    @property
    def pending(self) -> int | None:
        return self.stop.value or None

    @pending.setter
    def pending(self, value: int | None) -> None:
        assert value is None

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        self.begun.value = 1
        with super().deferring():
            yield

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _process(
    rank: int,
    parent: int,
    threads: int,
    port: int,
    file: Path,
    resolved: dict[str, Any],
    about: dict[str, Any],
    work: Path,
    check: Callable[[], None],
    sweep: str | None,
    stop: Any,
    begun: Any,
) -> None:
    """The main function of each process. The first one writes its outcome to ``file``; if any fails or refuses what it
    is to do, the first to do so writes why there.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # sys/prctl.h: do not outlive the parent
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has already died
        os._exit(1)
    from bench import train  # imported again in this process, which takes seconds

    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # type: ignore[attr-defined] # loggers are made before a Trainer says so
    if machine.device(resolved["trainer"]["accelerator"]).type == "cuda":
        torch.cuda.set_device(rank)
    torch.set_num_threads(threads)
    outcome: dict[str, Any]
    try:
        with _FromParent(stop, begun) as interrupts:
            record = train.train(OmegaConf.create(resolved), resolved, about, work, check, sweep, interrupts)
        outcome = {"record": record.to_json()}
    except Interrupted as stopped:
        outcome = {"interrupted": stopped.signum}
    except ConfigError as error:
        outcome = {"refused": str(error)}
    except Exception as error:
        if not _told(file):
            write_atomically(file, json.dumps({"failed": train.reason_of(error)}))
        raise
    if rank == 0 or ("refused" in outcome and not _told(file)):
        write_atomically(file, json.dumps(outcome))


def part() -> None:
    """End the process group: from here on each process is on its own."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
