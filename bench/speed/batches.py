"""What a network costs in use: time, memory and energy of inference and training by size of batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from bench import config, console, machine
from bench.assemble import build, prepare_machine
from bench.config import need
from bench.data.loader import Batch
from bench.energy import Energy
from bench.errors import ConfigError, MeasureError
from bench.files import write_atomically
from bench.module import Classifier
from bench.optim import parameter_groups
from bench.profile import profiled
from bench.speed import synthetic
from bench.speed.batch_tables import MODES, Point, as_csv, draw, note, table
from bench.speed.contestants import losses, step
from bench.speed.timing import publish
from bench.speed.turns import Contestant, Done, Turns

MODELS = (
    "lenet", "alexnet", "alexnet_bn", "nin", "nin_bn", "vgg16", "vgg16_bn", "googlenet", "googlenet_bn",
)  # fmt: skip
BATCHES = (1, 4, 16, 64, 256)
ROUNDS, SECONDS, CALLS = 3, 0.3, 3
"""In each round a point is measured for at least so long and so many calls."""
OWN = ("model", "batches")
"""Settings that take lists here."""


def measure(arguments: Sequence[str]) -> list[str]:
    """Measure the networks that the arguments name, print, draw and write; returns one line per failure."""
    need("bench-profile --measure", "report", "matplotlib")
    names, batches, settings = wanted(arguments)
    cfgs = {name: synthetic.composed([f"model={name}", *settings], 1) for name in names}
    resolved = [config.check(cfg) for cfg in cfgs.values()][-1]  # alike in all that is used here
    data, trainer = resolved["data"], resolved["trainer"]
    device = machine.device(trainer["accelerator"])
    layers = {name: profiled(cfg) for name, cfg in cfgs.items()}  # fails before anything is measured
    sums = {name: (sum(la.params for la in own), sum(la.macs for la in own)) for name, own in layers.items()}
    points: list[Point] = []
    failed: list[str] = []
    for name in names:
        console.say(f"{name}: batches of {', '.join(map(str, batches))}")
        try:
            # a process a model: its memory is its own
            with Contestant(work, (f"model={name}", *settings), tuple(batches)) as contestant:
                measured, mistakes = rounds(name, contestant, batches)
        except MeasureError as error:  # the kernel's out-of-memory killer, for one
            failed.append(f"{name}: {error}")
            continue
        points += measured
        failed += mistakes
    if not points:
        return failed
    how = [machine.precision(trainer["precision"], device), machine.compile_mode(trainer["compile"], device)]
    title = f"{data['image_size']}×{data['image_size']}×{data['in_channels']}, {data['num_classes']:,} classes, "
    title += ", ".join(word for word in how if word)
    values = [each._asdict() for each in points]
    shown = [table(title, sums, points)]
    folder = publish(resolved, "profile", shown, values, note(points), failed, command="bench-profile --measure")
    write_atomically(folder / "profile.csv", as_csv(points))
    for kind in ("svg", "png"):
        write_atomically(folder / f"profile.{kind}", draw(points, kind))
    console.say(f"written: {folder}/profile.csv, {folder}/profile.svg, {folder}/profile.png")
    if all(each.joules is None for each in points):
        console.say("energy: not reported by this machine (for GPUs: pip install 'convbench[energy]')")
    return failed


def wanted(arguments: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    """Models, batch sizes, other settings."""
    if "data=folder" in arguments:
        raise ConfigError("data=folder: random images are used; set their size with data.image_size and the like")
    own = dict(a.split("=", 1) for a in arguments if a.partition("=")[0] in OWN)
    names = own.get("model", ",".join(MODELS)).split(",")
    sizes = own.get("batches", ",".join(map(str, BATCHES))).split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ConfigError(f"batches={own['batches']}: must be whole numbers above 0 with commas between them")
    batches = sorted({int(size) for size in sizes})
    return list(dict.fromkeys(names)), batches, [a for a in arguments if a.partition("=")[0] not in OWN]


def rounds(name: str, contestant: Contestant, batches: Sequence[int]) -> tuple[list[Point], list[str]]:
    """A model's points, in as many rounds over all of them, and a line for each that failed."""
    order = [(mode, batch) for mode in MODES for batch in batches]
    told: dict[tuple[str, int], list[Done]] = {each: [] for each in order}
    for _ in range(ROUNDS):
        for each in order:
            contestant()
            told[each].append(contestant.last)
    points, failed = [], []
    for (mode, batch), turns in told.items():
        reasons = [turn.failed for turn in turns if turn.failed]
        if reasons:
            failed.append(f"{name}, {mode}, batch of {batch}: {reasons[0]}")
        else:
            points.append(point(name, mode, batch, turns))
    return points, failed


def point(name: str, mode: str, batch: int, turns: Sequence[Done]) -> Point:
    """What the turns told."""

    middle = {key: statistics.median(turn.more[key] for turn in turns) for key in turns[0].more}
    return Point(
        name,
        mode,
        batch,
        milliseconds=1e3 * middle["seconds"],
        images_per_s=middle["images_per_s"],
        peak_bytes=max(turn.peak_bytes for turn in turns),
        activation_bytes=middle.get("activation_bytes"),
        joules=middle.get("joules"),
    )


def work(line: Connection, settings: Sequence[str], batches: Sequence[int]) -> None:
    """In the process of a model: a turn for each point, in rounds, in the order of ``rounds``."""
    cfg = synthetic.composed(settings, 1)
    resolved = config.check(cfg)
    device = prepare_machine(resolved)
    data, module = build(cfg, resolved, device)
    module.to(device)
    optimizer = module.make_optimizer(parameter_groups(module.model))
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # so that steps can be repeated
    scheduler = module.make_scheduler(optimizer, 1000)

    turns = Turns(line, device)

    def take(mode: str, size: int) -> dict[str, float]:
        batch = random_batch(size, resolved["data"], data.dtype, device)
        if mode == "inference":
            return inference(module, batch, data.dtype)
        return training(module, optimizer, scheduler, batch, data.dtype, begin)

    def begin() -> None:
        machine.release_freed_pages()
        torch.compiler.reset()  # or a second size is compiled as one of any size
        turns.peak = machine.PeakMemory(device)

    while True:
        for mode in MODES:
            for size in batches:
                turns.wait()
                begin()
                try:
                    told = take(mode, size)  # whose images are gone with it, or they would count in the next peak
                except (RuntimeError, ValueError) as error:  # out of memory; batch norm of a single value
                    turns.failed(f"{type(error).__name__}: {error}".splitlines()[0])
                else:
                    turns.done(size, **told)


def random_batch(size: int, data: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Batch:
    """Normal images in channels last, as the loader gives them."""
    side = data["image_size"]
    images = torch.randn(size, side, side, data["in_channels"], dtype=dtype, device=device).permute(0, 3, 1, 2)
    return Batch(images, torch.arange(size, device=device) % data["num_classes"])


def inference(module: Classifier, batch: Batch, dtype: torch.dtype) -> dict[str, float]:
    """What :func:`timed` tells of forward passes, in the precision of training."""
    module.eval()
    device = batch.images.device
    # within one block autocast casts the weights once
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return timed(lambda: module.model(batch.images), len(batch.labels), device)


def training(
    module: Classifier,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    batch: Batch,
    dtype: torch.dtype,
    begin: Callable[[], None],
) -> dict[str, float]:
    """What :func:`timed` tells of whole steps, and ``activation_bytes``, of an image; between the two it calls
    ``begin``, as the latter takes batches of other sizes.
    """
    module.train()
    kept = {"activation_bytes": activation_bytes(module, batch, dtype)}
    begin()
    return kept | timed(
        lambda: step(module, optimizer, scheduler, batch, dtype), len(batch.labels), batch.images.device
    )


def activation_bytes(module: Classifier, like: Batch, dtype: torch.dtype) -> float:
    """What a training step keeps of each image ``like`` those, from its forward to its backward pass: how much more it
    is with four than with two, as weights in another precision are kept, too.
    """

    def kept(n: int) -> int:
        storages: dict[int, Tensor] = {}  # held, so that no address is used twice
        images = like.images[:1].repeat(n, 1, 1, 1).contiguous(memory_format=torch.channels_last)

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32),
        ):
            loss = losses(module, Batch(images, like.labels[:1].repeat(n)))
        del loss
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    return (kept(4) - kept(2)) / 2


def timed(call: Callable[[], Any], images: int, device: torch.device) -> dict[str, float]:
    """``seconds`` a call that is waited for, the median; ``images_per_s`` where none is waited for but the last; and
    ``joules`` an image, where the machine tells.
    """

    call()
    machine.wait(device)
    energy, begun = Energy(device), time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < CALLS or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        call()
        machine.wait(device)
        seconds.append(time.perf_counter() - start)
    joules, rate = energy.read(), images * len(seconds) / sum(seconds)
    if device.type != "cpu":
        start = time.perf_counter()
        for _ in seconds:
            call()
        machine.wait(device)
        rate = images * len(seconds) / (time.perf_counter() - start)
    told = {"seconds": statistics.median(seconds), "images_per_s": rate}
    return told if joules is None else told | {"joules": joules / (images * len(seconds))}
