"""The ``bench-profile`` command: what a network is made of, layer by layer, and what it costs.

    bench-profile model=googlenet data.image_size=224 data.num_classes=1000 [format=table] [out=FILE]
    bench-profile --all [data.image_size=224]
    bench-profile --measure [model=lenet,nin_bn] [batches=1,16,256] [data=cifar10] [paths.results=results/local]

Prints each layer's kernel, stride, output (height×width×channels), parameters and multiply-accumulates (MACs) of one
image in evaluation: auxiliary heads are not run. Activations, dropout and the like, without kernel or sums, are left
out. A layer that is called twice has two rows, with its parameters in the first. --all prints one row per model of this
project: the number of layers with multiplications, and the sums, or why it cannot be built.

--measure runs the models, each in its own process, on random images in batches of 1 to 256: time, images/s, peak
memory, what the forward pass keeps for the backward pass, and, where the machine reports it, energy (powercap's RAPL
zones; NVML with nvidia-ml-py), in inference and in training, in the precision used for training. It writes profile.md,
.csv, .json, .svg and .png to <paths.results>/speed, replacing earlier ones. Run nothing else meanwhile.

format: table, markdown or csv, which has no row of sums; out=FILE is written in the format of its suffix, .txt, .md or
.csv. All settings of bench are accepted, but only model and the data's image_size, in_channels and num_classes matter;
no images are needed. bench --help lists them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table as RichTable

from bench import cli, config, console
from bench.errors import ConfigError
from bench.explain import options
from bench.files import write_atomically
from bench.reporting import markdown

if TYPE_CHECKING:  # importing PyTorch takes seconds
    from torch import nn

    from bench.costs import Layer

ALL, MEASURE = "--all", "--measure"
FORMATS = ("table", "csv", "markdown")
BY_SUFFIX = {".csv": "csv", ".md": "markdown", ".txt": "table"}
NUMBERS = ("layers", "params", "MACs")
"""The columns that hold numbers."""

Row = tuple[str | int | None, ...]


class Table(NamedTuple):
    """``total``: a last row, of sums. ``notes``: of rows without numbers, the reason by the row's name."""

    title: str
    header: tuple[str, ...]
    rows: list[Row]
    total: Row | None
    notes: dict[str, str]


def main() -> None:
    """Run the command line."""
    cli.run("bench-profile", __doc__ or "", profile)


def profile(arguments: list[str]) -> None:
    """Print or write the table that the arguments ask for, or measure."""
    if MEASURE in arguments:
        measure([a for a in arguments if a != MEASURE])
        return
    for argument in arguments:
        if argument.startswith("batches=") or (argument.startswith("model=") and "," in argument):
            raise ConfigError(f"{argument}: only works with {MEASURE}; otherwise name one model, or give {ALL}")
    settings = [a for a in arguments if a != ALL and not a.startswith(("format=", "out="))]
    own = cli.settings([a for a in arguments if a.startswith(("format=", "out="))], ("format", "out"))
    file = cli.out_file(out := cli.single(own, "out"), *BY_SUFFIX) if "out" in own else None
    suffix = file.suffix.lower() if file else ".txt"
    style = cli.single(own, "format", BY_SUFFIX[suffix])
    if style not in FORMATS:
        raise ConfigError(f"format={style}: choose one of {', '.join(FORMATS)}")
    if file and style != BY_SUFFIX[suffix]:
        raise ConfigError(f"format={style}: out={out} says {BY_SUFFIX[suffix]}; leave out one of them")
    table = of_all_models(settings) if ALL in arguments else of_layers(settings)
    if file:
        write_atomically(file, render(table, style))
        console.say(f"written: {file}")
    elif style == "table":
        console.out.print(to_rich(table))
    else:
        print(render(table, style), end="")


def measure(arguments: list[str]) -> None:
    """Measure; failures are listed at the end, with exit code 1."""
    for argument in arguments:
        if argument == ALL or argument.startswith(("format=", "out=")):
            raise ConfigError(f"{argument}: does not work with {MEASURE}, which writes to <paths.results>/speed")
    from bench.speed import batches  # only now: importing PyTorch takes seconds

    if failed := batches.measure(arguments):
        cli.stop("bench-profile", "\n".join(failed), cli.FAILED)


def of_layers(settings: Sequence[str]) -> Table:
    """One network, a row a layer."""
    cfg = composed(settings)
    layers = profiled(cfg)
    header = ("layer", "kind", "kernel/stride", "output", "params", "MACs")
    rows: list[Row] = [(la.name, la.kind, kernel(la), output(la), la.params, la.macs) for la in layers]
    total = ("total", "", "", "", sum(la.params for la in layers), sum(la.macs for la in layers))
    return Table(f"{cfg.model.name}, {images(cfg)}", header, rows, total, {})


def of_all_models(settings: Sequence[str]) -> Table:
    """A row a model configuration."""
    if chosen := [setting for setting in settings if setting.startswith("model=")]:
        raise ConfigError(f"{chosen[0]}: {ALL} has every model; leave one of them out")
    # all are composed before the first is built: what is wrong there is a mistake in the call
    cfgs = {name: composed([*settings, f"model={name}"]) for name in options("model")}
    rows: list[Row] = []
    notes = {}
    for name, cfg in cfgs.items():
        try:
            layers = profiled(cfg)
        except ConfigError as error:
            notes[name] = " ".join(str(error).removeprefix("model.net: ").split())
            rows.append((name, None, None, None))
            continue
        weighted = sum(la.params > 0 and la.macs > 0 for la in layers)
        rows.append((name, weighted, sum(la.params for la in layers), sum(la.macs for la in layers)))
    return Table(f"all models, {images(next(iter(cfgs.values())))}", ("model", *NUMBERS), rows, None, notes)


def composed(settings: Sequence[str]) -> DictConfig:
    """The configuration, of which only what shapes a network is checked, and no folder.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a setting is wrong.
    """
    cfg = cli.composed(settings)
    try:
        OmegaConf.select(cfg, "data.num_classes")
    except OmegaConfBaseException as error:  # data=folder counts its classes
        reason = str(error).splitlines()[0].split(" interpolation: ")[-1]
        raise ConfigError(f"data.num_classes: must be set where there are no images ({reason})") from error
    config.check_shapes(lambda key: OmegaConf.select(cfg, key))
    model = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(model, dict)
    config.check_model({str(key): value for key, value in model.items()})
    return cfg


def profiled(cfg: DictConfig) -> list[Layer]:
    """The layers of the configured network.

    Raises:
        ConfigError: it cannot be built, or cannot take images of this size.
    """
    from bench import costs  # only now: importing PyTorch takes seconds

    def made() -> nn.Module:
        with cli.mistakes():
            model: nn.Module = instantiate(cfg.model.net)
        return model

    try:
        return costs.unallocated(made, lambda model: costs.layers(model, cfg.data.in_channels, cfg.data.image_size))
    except ConfigError:
        raise
    except Exception as error:  # whatever layers of all kinds say of images that do not fit
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        raise ConfigError(f"{cfg.model.name}, {images(cfg)}: {reason}") from error


def images(cfg: DictConfig) -> str:
    data = cfg.data
    return f"{data.image_size}×{data.image_size}×{data.in_channels}, {data.num_classes:,} classes"


def kernel(layer: Layer) -> str:
    """As the papers write it: ``7×7/2``; ``5`` for a window of channels."""
    stride = layer.stride[:1] if len(set(layer.stride)) == 1 else layer.stride
    return "/".join("×".join(map(str, sides)) for sides in (layer.kernel, stride) if layer.kernel and sides)


def output(layer: Layer) -> str:
    """Channels last, as the papers write it: ``112×112×64``; ``not run`` in evaluation."""
    return "×".join(map(str, (*layer.output[1:], *layer.output[:1]))) or "not run"


def to_rich(table: Table) -> Group:
    """For the terminal; fits 80 columns."""
    out = RichTable(title=table.title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in table.header:
        out.add_column(name.replace("/", "\n/"), justify="right" if name in NUMBERS else "left", overflow="fold")
        out.columns[-1].no_wrap = name not in ("layer", "kind", "model")
    for row in table.rows:
        out.add_row(*map(escape, _texts(row)))
    if table.total:
        out.add_row(*_texts(table.total), style="bold")
    return Group(out, *map(escape, _notes(table)))


def render(table: Table, style: str) -> str:
    """The table in one of the formats; CSV has the numbers in full, without sums, and notes as a column."""
    text = io.StringIO()
    if style == "table":
        Console(file=text, width=80, highlight=False).print(to_rich(table))
    elif style == "csv":
        more = bool(table.notes)
        lines = [(*row, table.notes.get(str(row[0]))) if more else row for row in table.rows]
        csv.writer(text, lineterminator="\n").writerows([(*table.header, "note") if more else table.header, *lines])
    else:
        rows = [*table.rows, *([table.total] if table.total else [])]
        shown = markdown.table(table.header, map(_texts, rows), left=set(table.header) - set(NUMBERS))
        notes = ["", *(f"- {note}" for note in _notes(table))] if table.notes else []
        text.write("\n".join([f"{table.title}:", "", *shown, *notes, ""]))
    return text.getvalue()


def _texts(row: Row) -> list[str]:
    return ["–" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell for cell in row]


def _notes(table: Table) -> list[str]:
    """One line per distinct reason."""
    names = {reason: [name for name in table.notes if table.notes[name] == reason] for reason in table.notes.values()}
    return [f"{', '.join(those)}: {reason}" for reason, those in names.items()]


if __name__ == "__main__":
    main()
