"""The ``bench-evaluate`` command: evaluate saved networks on validation, test or other images, alone and together.

    bench-evaluate checkpoint=RUN [checkpoint=…] [split=val] [images=FOLDER] [crops=1] [out=FILE.md|.csv]
                   [paths.data=…] [trainer.accelerator=auto]

checkpoint: a run's directory or its checkpoints/selected.ckpt, several separated by commas or matched by a pattern,
checkpoint='results/local/runs/cifar10-nin-*', of which those that have not finished are left out; several networks are
also evaluated together, with their softmax averaged. split: val or test, the images that the run held out. images:
FOLDER/<class>/* instead. crops: 1 (as in the run's own test), 2 (mirrored), 5, 10 (Krizhevsky et al. 2012) or 144
(Szegedy et al. 2015), several separated by commas. paths.data: the folder of the data sets, if not where the run found
them; that of this data set alone, if the run had it apart from the others (data.source.root).

Prints one row per network and number of crops: top-1 with its 95 % interval (Wilson's, over images), top-5, expected
calibration error (ECE), forward passes and multiply-accumulates (MACs) per image. Networks trained on different data
sets or protocols are rejected, as their numbers never share a table; with images=, those with other classes are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.markup import escape
from rich.table import Table as RichTable

from bench import cli, console
from bench.errors import ConfigError
from bench.files import expanded, write_atomically
from bench.record import protocol
from bench.reporting import markdown, render, stats
from bench.reporting.stats import Interval

if TYPE_CHECKING:
    from bench.inference import Answers, Pictures
    from bench.saved import Saved

SETTINGS = ("checkpoint", "split", "images", "crops", "out", "paths.data", "trainer.accelerator")


class Row(NamedTuple):
    """A network, or several averaged, with so many crops. ``top1``, ``top5`` and ``ece`` are fractions, ``passes`` and
    ``macs`` for an image.
    """

    name: str
    networks: int
    crops: int
    top1: float
    interval: Interval
    top5: float
    ece: float
    passes: float
    macs: float


class Table(NamedTuple):
    title: str
    rows: list[Row]
    run_ids: tuple[str, ...]


def main() -> None:
    """Run the command line."""
    cli.run("bench-evaluate", __doc__ or "", evaluate)


def evaluate(arguments: list[str]) -> None:
    """Print, and write, the table that the arguments ask for."""
    own = cli.settings(arguments, SETTINGS)
    split, images = cli.single(own, "split", "val"), cli.single(own, "images")
    if split not in ("val", "test"):
        raise ConfigError(f"split={split}: must be one of val, test")
    if images and "split" in own:
        raise ConfigError(f"split={split}: images={images} takes the place of a split; leave out one of them")
    file = cli.out_file(cli.single(own, "out"), ".md", ".csv") if "out" in own else None
    crops = crops_of(own)
    networks = opened(own)
    check_alike(networks, by_protocol=not images)

    from bench import inference

    if images:
        pictures = inference.of_folder(expanded(images, "images"), networks[0].classes)
    else:
        pictures = inference.of_split(networks[0], split, cli.single(own, "paths.data") or None)
    table = compare(networks, pictures, crops)
    console.out.print(to_rich(table))
    if file:
        write_atomically(file, to_csv(table) if file.suffix.lower() == ".csv" else to_markdown(table))
        console.say(f"written: {file}")


def compare(networks: Sequence[Saved], pictures: Pictures, crops: Sequence[int]) -> Table:
    """Each network with each number of crops, then all of them averaged.

    Raises:
        ConfigError: an image cannot be read, and the runs did not skip such images.
    """
    from bench import costs, inference

    macs = [costs.macs(one.model, one.in_channels, one.image_size) for one in networks]
    names = [one.name for one in networks]
    names = [one.run_id if names.count(one.name) > 1 else one.name for one in networks]
    told = {
        (i, k): readable(inference.answers(one, pictures, k), pictures, skip=one.config["data"]["on_error"] == "skip")
        for i, one in enumerate(networks)
        for k in crops
    }
    rows = [row(names[i], k, [told[i, k]], [macs[i]], pictures) for i in range(len(networks)) for k in crops]
    if len(networks) > 1:
        every = range(len(networks))
        rows += [row(f"all {len(networks)}", k, [told[i, k] for i in every], macs, pictures) for k in crops]
    first = next(iter(told.values()))
    skipped = f", {len(first.unreadable):,} of which cannot be read" if first.unreadable else ""
    return Table(pictures.title + skipped, rows, tuple(one.run_id for one in networks))


def readable(answers: Answers, pictures: Pictures, skip: bool) -> Answers:
    if answers.unreadable and not skip:
        i, reason = next(iter(answers.unreadable.items()))
        raise ConfigError(f"{pictures.names[i]}: not a readable image ({reason})")
    if len(answers.unreadable) == len(pictures.names):
        raise ConfigError(f"{pictures.title}: none of the images can be read")
    return answers


def row(name: str, crops: int, told: Sequence[Answers], macs: Sequence[int], pictures: Pictures) -> Row:
    """What several networks, or one, reach together."""
    assert pictures.labels is not None
    seen = np.setdiff1d(np.arange(len(pictures.names)), list(told[0].unreadable))
    probabilities, labels = np.mean([one.probabilities[seen] for one in told], axis=0), pictures.labels[seen]
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    hits = best == labels[:, None]
    return Row(
        name,
        len(told),
        crops,
        float(hits[:, 0].mean()),
        stats.interval(hits[None, :, 0]),
        float(hits.any(axis=1).mean()),
        stats.calibration(probabilities.max(axis=1), hits[:, 0]).ece,
        sum(one.passes for one in told),
        sum(one.passes * cost for one, cost in zip(told, macs, strict=True)),
    )


def crops_of(own: dict[str, list[str]]) -> list[int]:
    """The numbers of ``crops=1,10``, each once."""
    from bench.views import CROPS

    words = cli.single(own, "crops", "1").split(",")
    for word in words:
        if word not in map(str, CROPS):
            raise ConfigError(f"crops={word}: must be one of {', '.join(map(str, CROPS))}")
    return list(dict.fromkeys(map(int, words)))


def opened(own: dict[str, list[str]]) -> list[Saved]:
    """The networks that ``checkpoint=`` names."""
    from bench import machine
    from bench.saved import open_run, weights_of

    places: list[str] = []
    for pattern in filter(None, ",".join(own.get("checkpoint", [])).split(",")):
        path = expanded(pattern, "checkpoint")
        try:
            found = [path] if path.exists() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            found = [place for place in found if hidden(place) <= hidden(path)]
        except ValueError as error:
            raise ConfigError(f"checkpoint={pattern}: {error}") from error
        if not found:
            raise ConfigError(f"checkpoint={pattern}: no such file or folder")
        finished = [place for place in found if weights_of(place).is_file()]
        if 0 < len(finished) < len(found):  # of a pattern
            left = ", ".join(place.name for place in found if place not in finished)
            console.say(f"left out, as their runs have not finished: {left}")
            found = finished
        places += map(str, found)
    if not places:
        raise ConfigError("checkpoint: must name a run's directory or its checkpoints/selected.ckpt")
    machine.prepare_cpu()
    device = machine.device(cli.single(own, "trainer.accelerator", "auto"))
    networks = [open_run(place, device) for place in places]
    for place, network in zip(places, networks, strict=True):
        first = next(other for other in networks if other.run_id == network.run_id)  # tables are made by run id
        if first is not network:
            twice = first.path.samefile(network.path)
            why = "is named twice" if twice else f"has the run id of {first.path}; name one of them"
            raise ConfigError(f"checkpoint={place}: {why}")
    return networks


def hidden(path: Path) -> int:
    """How many of its parts are hidden: in runs/, what no record belongs to yet or any more."""
    return sum(part.startswith(".") for part in path.parts)


def check_alike(networks: Sequence[Saved], by_protocol: bool) -> None:
    """Refuse networks that cannot be compared or averaged: of other classes, or of another data set or protocol."""
    first = networks[0]
    for other in networks[1:]:
        if other.classes != first.classes:
            raise ConfigError(f"checkpoint={other.path}: {other.name} knows other classes than {first.name}")
        if not by_protocol:
            continue
        names = [f"{one.config['data']['name']} ({protocol(one.config)})" for one in (other, first)]
        if names[0] != names[1]:
            raise ConfigError(f"checkpoint={other.path}: {names[0]} and {names[1]} share no table")
        if other.config["data"].get("content") != first.config["data"].get("content"):
            raise ConfigError(f"checkpoint={other.path}: was trained with other images than {first.name}")


COLUMNS = ("network", "crops", "top-1", "95 % interval", "top-5", "ECE", "passes", "MACs")
CAPTION = "accuracies in %; softmax averaged over crops and networks; passes and MACs of an image"


def to_rich(table: Table) -> RichTable:
    """For the terminal; fits 80 columns."""
    out = RichTable(title=escape(table.title), caption=caption(table), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        heading = name.replace("95 %", "95%").replace("% ", "%\n")
        out.add_column(heading, justify="left" if name == "network" else "right", overflow="fold")
    for line in table.rows:
        out.add_row(*map(escape, texts(line)))
    return out


def texts(line: Row) -> list[str]:
    low, high = line.interval
    numbers = [f"{100 * line.top1:.2f}", f"{100 * low:.1f}–{100 * high:.1f}"]
    numbers += [f"{100 * line.top5:.2f}", f"{100 * line.ece:.1f}"]
    return [line.name, str(line.crops), *numbers, f"{line.passes:,.1f}".removesuffix(".0"), render.count(line.macs)]


def caption(table: Table) -> str:
    """What the numbers are."""
    fewer = any(line.crops == 144 and line.passes < 144 * line.networks for line in table.rows)
    return CAPTION + ("; of a square image 48 of the 144 crops differ, and are run once" if fewer else "")


def to_markdown(table: Table) -> str:
    """With a title line, and what the numbers are."""
    text, title = caption(table), f"{table.title}: {', '.join(table.run_ids)}."
    lines = markdown.table(COLUMNS, map(texts, table.rows), left=["network"])
    return "\n".join([title, "", *lines, "", f"{text[0].upper()}{text[1:]}.", ""])


def to_csv(table: Table) -> str:
    """Numbers in full; accuracies as fractions."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["network", "networks", "crops", "top1", "top1_low", "top1_high", "top5", "ece", "passes", "macs"])
    for line in table.rows:
        out.writerow([*line[:4], *line.interval, *line[5:]])
    return text.getvalue()


if __name__ == "__main__":
    main()
