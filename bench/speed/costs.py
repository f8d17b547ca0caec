"""What a network costs in use: time, memory and energy of inference and training against the size of the batch."""

from __future__ import annotations

import csv
import functools
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from torch import Tensor

from bench import cli, config, console, costs, machine
from bench.assemble import build, prepare_machine
from bench.config import ConfigError
from bench.data.loader import Batch
from bench.energy import Energy
from bench.module import Classifier
from bench.optim import parameter_groups
from bench.reporting.render import count
from bench.speed import synthetic
from bench.speed.timing import publish
from bench.speed.train import losses
from bench.speed.turns import Contestant, Turns
from bench.store import write_atomically

MODELS = (
    "lenet", "alexnet", "alexnet_bn", "nin", "nin_bn", "vgg16", "vgg16_bn", "googlenet", "googlenet_bn",
)  # fmt: skip
BATCHES = (1, 4, 16, 64, 256)
MODES = ("inference", "training")
SECONDS, CALLS = 0.5, 5
"""Each point is measured for at least so long and so many calls."""
OWN = ("model", "batches")
"""Settings that take lists here."""


class Point(NamedTuple):
    """A network in one mode with one size of batch.

    ``milliseconds`` a call, the median. ``peak_bytes``: of the GPU's allocator, or of the whole process on a CPU.
    ``activation_bytes``: of an image, what the forward pass keeps for the backward pass; ``joules`` of an image.
    """

    model: str
    mode: str
    batch: int
    milliseconds: float
    images_per_s: float
    peak_bytes: int
    activation_bytes: float | None
    joules: float | None


def measure(arguments: Sequence[str]) -> list[str]:
    """Measure the networks that the arguments name, print, draw and write; returns what failed, a line each."""
    try:
        from matplotlib.figure import Figure  # noqa: F401 - before minutes of measuring
    except ImportError as error:
        raise ConfigError("bench-profile --measure: needs matplotlib; pip install 'convbench[report]'") from error
    names, batches, settings = wanted(arguments)
    cfgs = {name: synthetic.composed([f"model={name}", *settings], 1) for name in names}
    resolved = [config.check(cfg) for cfg in cfgs.values()][-1]  # alike in all that is used here
    data = resolved["data"]
    with cli.mistakes():
        device = machine.device(resolved["trainer"]["accelerator"])
        with torch.device("meta"):  # what cannot be built is told before anything is measured
            models = {name: instantiate(cfg.model.net) for name, cfg in cfgs.items()}
    sums, points, failed = {}, [], []
    for name in names:
        console.say(f"{name}: batches of {', '.join(map(str, batches))}")
        sums[name] = (costs.parameters(models[name]), costs.macs(models[name], data["in_channels"], data["image_size"]))
        try:
            # a process a model: its memory is its own
            with Contestant(work, (f"model={name}", *settings), tuple(batches)) as contestant:
                for mode in MODES:
                    for batch in batches:
                        contestant()
                        points.append(point(name, mode, batch, contestant.last.peak_bytes, contestant.last.more))
        except RuntimeError as error:  # out of memory, for one
            failed.append(f"{name}: {error}")
    if not points:
        return failed
    folder = Path(resolved["paths"]["results"]).expanduser() / "speed"
    precision = machine.precision(resolved["trainer"]["precision"], device)
    images = f"{data['image_size']}×{data['image_size']}×{data['in_channels']}, {data['num_classes']:,} classes"
    publish(folder, "profile", [table(f"{images}, {precision}", sums, points)], [each._asdict() for each in points])
    write_atomically(folder / "profile.csv", as_csv(points))
    for kind in ("svg", "png"):
        write_atomically(folder / f"profile.{kind}", draw(points, kind))
    console.say(f"written: {folder}/profile.csv, {folder}/profile.svg, {folder}/profile.png")
    return failed


def wanted(arguments: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    """Models, sizes of batches, other settings."""
    own = dict(a.split("=", 1) for a in arguments if a.partition("=")[0] in OWN)
    names = own.get("model", ",".join(MODELS)).split(",")
    sizes = own.get("batches", ",".join(map(str, BATCHES))).split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ConfigError(f"batches={own['batches']}: must be whole numbers above 0 with commas between them")
    batches = sorted({int(size) for size in sizes})
    return list(dict.fromkeys(names)), batches, [a for a in arguments if a.partition("=")[0] not in OWN]


def point(name: str, mode: str, batch: int, peak: int, told: Mapping[str, float]) -> Point:
    """What a turn told."""
    seconds = told["seconds"]
    kept, joules = told.get("activation_bytes"), told.get("joules")
    return Point(name, mode, batch, 1e3 * seconds, batch / seconds, peak, kept, joules)


def work(line: Connection, settings: Sequence[str], batches: Sequence[int]) -> None:
    """In the process of a model: a turn a mode and size of batch, in this order."""
    cfg = synthetic.composed(settings, 1)
    resolved = config.check(cfg)
    device = prepare_machine(resolved)
    data, module = build(cfg, resolved, device)
    module.to(device)
    optimizer = module.make_optimizer(parameter_groups(module.model))
    turns = Turns(line, device)
    for mode in MODES:
        for size in batches:
            turns.wait()
            machine.release_freed_pages()
            turns.peak = machine.PeakMemory(device)
            batch = random_batch(size, resolved["data"], data.dtype, device)
            told: dict[str, float] = {}
            if mode == "training":
                told["activation_bytes"] = activation_bytes(module, batch, data.dtype) / size
            module.train(mode == "training")
            if mode == "training":
                call = functools.partial(train, module, optimizer, batch, data.dtype)
            else:
                call = functools.partial(infer, module, batch, data.dtype)
            told |= timed(call, size, device)
            turns.done(size, **told)


def random_batch(size: int, data: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Batch:
    """Normal images in channels last, as the loader gives them."""
    side = data["image_size"]
    images = torch.randn(size, side, side, data["in_channels"], dtype=dtype, device=device).permute(0, 3, 1, 2)
    return Batch(images, torch.arange(size, device=device) % data["num_classes"])


def infer(module: Classifier, batch: Batch, dtype: torch.dtype) -> None:
    with torch.inference_mode(), torch.autocast(batch.images.device.type, dtype, enabled=dtype != torch.float32):
        module.model(batch.images)


def train(module: Classifier, optimizer: torch.optim.Optimizer, batch: Batch, dtype: torch.dtype) -> None:
    """A whole step; at a rate of 0, so that it can be repeated."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    with torch.autocast(batch.images.device.type, dtype, enabled=dtype != torch.float32):
        loss = losses(module, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def activation_bytes(module: Classifier, batch: Batch, dtype: torch.dtype) -> int:
    """What a training step's forward pass keeps for the backward pass, without weights and the batch itself."""
    own = [*module.model.parameters(), *module.model.buffers(), batch.images, batch.labels]
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, Tensor] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor
        return tensor

    module.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(batch.images.device.type, dtype, enabled=dtype != torch.float32),
    ):
        loss = losses(module, batch)
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def timed(call: Callable[[], None], images: int, device: torch.device) -> dict[str, float]:
    """``seconds`` a call, the median, and ``joules`` an image, where the machine tells."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    call()
    wait()
    seconds: list[float] = []
    energy, begun = Energy(device), time.perf_counter()
    while len(seconds) < CALLS or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - start)
    joules = energy.read()
    told = {"seconds": statistics.median(seconds)}
    return told if joules is None else told | {"joules": joules / (images * len(seconds))}


def table(
    title: str, sums: Mapping[str, tuple[int, int]], points: Sequence[Point]
) -> tuple[str, list[str], list[list[str]]]:
    """A row a model: the smallest batch's latency, the best rates, memory with the largest batch that there is."""
    told = any(each.joules is not None for each in points)
    header = ["", "params", "MACs", "KiB kept", "ms", "images/s", "training", "MiB", *(["mJ", "training"] * told)]
    rows = []
    for name in dict.fromkeys(each.model for each in points):
        use, learn = ([each for each in points if each.model == name and each.mode == mode] for mode in MODES)
        row = [name, *(count(number) for number in sums[name])]
        row.append(f"{learn[-1].activation_bytes / 1024:,.0f}" if learn and learn[-1].activation_bytes else "–")
        row.append(f"{use[0].milliseconds:.1f}" if use else "–")
        row += [f"{max(each.images_per_s for each in mode):,.0f}" if mode else "–" for mode in (use, learn)]
        row.append(f"{learn[-1].peak_bytes / 2**20:,.0f}" if learn else "–")
        if told:
            best = [min((each.joules for each in mode if each.joules), default=None) for mode in (use, learn)]
            row += ["–" if joules is None else f"{1e3 * joules:,.1f}" for joules in best]
        rows.append(row)
    return title, header, rows


def as_csv(points: Sequence[Point]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(Point._fields)
    rows.writerows(points)
    return text.getvalue()


def draw(points: Sequence[Point], kind: str) -> bytes:
    """Rates and latency of inference, rates and memory of training, against the size of the batch."""
    import matplotlib
    from matplotlib.figure import Figure

    from bench.reporting.drawing import COLORS, MARKERS, STYLE, rendered

    names = list(dict.fromkeys(each.model for each in points))
    families = list(dict.fromkeys(name.removesuffix("_bn") for name in names))
    panels = (
        ("inference, images/s", "inference", lambda each: each.images_per_s),
        ("training, images/s", "training", lambda each: each.images_per_s),
        ("inference, ms a batch", "inference", lambda each: each.milliseconds),
        ("training, peak memory, GiB", "training", lambda each: each.peak_bytes / 2**30),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        for axes, (title, mode, value) in zip(figure.subplots(2, 2).flatten(), panels, strict=True):
            for name in names:
                those = [each for each in points if each.model == name and each.mode == mode]
                i = families.index(name.removesuffix("_bn"))
                axes.plot(
                    [each.batch for each in those],
                    [value(each) for each in those],
                    color=COLORS[i % len(COLORS)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=3.5,
                    linewidth=1.2,
                    linestyle="--" if name.endswith("_bn") else "-",
                    label=name,
                )
            axes.set_title(title)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted({each.batch for each in points}))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.minorticks_off()
            if mode == "training" and "memory" in title:
                axes.set_ylim(bottom=0)
            else:
                axes.set_yscale("log")
        figure.supxlabel("images in a batch", fontsize=8)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        return rendered(figure, kind)
