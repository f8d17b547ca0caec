"""Predictions of trained networks for images, averaged over one view or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.progress import track
from torch import Tensor

from bench import cli, console, resolvers
from bench.data.decode import Decoded, Decoder, UnreadableError, fit, in_channels, naming
from bench.data.module import parts
from bench.data.sources.folder import images_in, upright
from bench.errors import ConfigError, first
from bench.files import expanded
from bench.resolvers import is_class
from bench.saved import Saved, check_targets
from bench.views import views

SPLITS = ("val", "test")
BATCH = 256
"""Minimum number of views computed together."""


@dataclass(frozen=True)
class Pictures:
    """Images as stored by their source. ``names`` (n,); ``labels`` (n,) int64, None if unknown; ``read`` opens image
    number i.
    """

    title: str
    names: Sequence[str]
    labels: np.ndarray | None
    read: Callable[[int], Image.Image]


@dataclass(frozen=True)
class Answers:
    """``probabilities`` (n, K) float64, rows of NaN for unreadable images; ``unreadable``: their positions and the
    reasons; ``passes``: average number of forward passes per image.
    """

    probabilities: np.ndarray
    unreadable: dict[int, str]
    passes: float


@dataclass(frozen=True)
class _Originals(Decoder):
    """Decodes nothing; keeps the function that opens a source's images."""

    readers: list[Callable[[int], Image.Image]] = field(default_factory=list)

    def decode(self, name: str, names: Sequence[str], content: Any, read: Callable[[int], Image.Image]) -> Decoded:
        self.readers.append(read)
        return Decoded(np.empty((len(names), 0, 0, self.channels), np.uint8), np.ones(len(names), bool), ())


def of_split(saved: Saved, split: str, root: str | None = None) -> Pictures:
    """The validation or test images of a run, in order.

    ``root`` is where the data sets are now (``paths.data``), or this one, if the run had it somewhere else than the
    others; None for where they were during the run.

    Raises:
        ConfigError: the images are missing or differ from the run's, or the run had none.
    """
    settings = saved.config["data"]
    source = dict(settings["source"])
    check_targets(source, saved.path)
    if root is not None and "root" in source:
        then, place = Path(saved.config["paths"]["data"]), Path(source["root"])
        below = place.relative_to(then) if place.is_relative_to(then) else ""
        source["root"] = str(expanded(root, "paths.data") / below)
    decoder = _Originals(cli.composed([]).paths.cache, saved.decode_size, saved.in_channels)
    with cli.mistakes():
        if "content" in settings and resolvers.content(source["root"]) != settings["content"]:
            raise ConfigError(f"{source['root']}: contains other images than {saved.name} was trained on")
        dataset = hydra.utils.instantiate(OmegaConf.create(source))(decoder)
        index = dict(zip(("train", *SPLITS), parts(dataset, settings["val_size"]), strict=True))[split]
    if not len(index):
        raise ConfigError(f"split={split}: {saved.name} was trained without {split} images")
    (read,) = decoder.readers
    return Pictures(
        f"{settings['name']} {split}, {len(index):,} images",
        dataset.ids[index].tolist(),
        dataset.labels[index],
        lambda i: read(int(index[i])),
    )


def of_folder(folder: Path, classes: Sequence[str]) -> Pictures:
    """Labelled images, ``folder/<class>/*``.

    Raises:
        ConfigError: there are none, or a class is not one of ``classes``.
    """
    if not folder.is_dir():
        raise ConfigError(f"images={folder}: no such folder")
    names: list[str] = []
    labels: list[int] = []
    for entry in sorted(filter(is_class, folder.iterdir())):
        if entry.name not in classes:
            known = first(classes)
            raise ConfigError(f"images={folder}: {entry.name} is not a class of the network, which knows {known}")
        found = images_in(entry)
        names += [str(entry / name) for name in found]
        labels += [classes.index(entry.name)] * len(found)
    if not names:
        raise ConfigError(f"images={folder}: has no images in folders named after classes; bench-predict needs none")
    return Pictures(f"{folder}, {len(names):,} images", names, np.array(labels), lambda i: upright(names[i]))


def of_files(places: Iterable[str]) -> Pictures:
    """Image files, and those in folders and their subfolders, sorted; their classes are unknown.

    Raises:
        ConfigError: a file or folder is missing, or a folder contains no images.
    """
    names: list[str] = []
    for place in places:
        path = expanded(place, "")
        if path.is_dir():
            found = [str(inner / name) for inner in _folders(path) for name in images_in(inner)]
            if not found:
                raise ConfigError(f"{place}: contains no images")
            names += found
        elif path.is_file():
            names.append(str(path))
        else:
            raise ConfigError(f"{place}: no such file or folder")
    return Pictures(f"{len(names):,} images", names, None, lambda i: upright(Path(names[i])))


def _folders(path: Path) -> list[Path]:
    """A folder and all below it, sorted, also those that links lead to, each once; hidden ones are left out."""
    found: dict[str, str] = {}  # where it is → how it was reached
    for inner, below, _ in os.walk(path, followlinks=True):
        if found.setdefault(os.path.realpath(inner), inner) != inner:  # reached before: links may form a circle
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
    return sorted(map(Path, found.values()))


def answers(saved: Saved, pictures: Pictures, crops: int = 1) -> Answers:
    """A network's softmax averaged over the ``crops`` views of each image, see :func:`bench.views.views`."""
    n = len(pictures.names)
    probabilities = np.full((n, len(saved.classes)), np.nan)
    unreadable: dict[int, str] = {}
    note = f"{saved.name}: {pictures.title}, {crops} crop{'s' if crops > 1 else ''}"
    if not console.live():
        console.say(note)
    shown = track(range(n), note, n, console=console.out, disable=not console.live(), transient=True)
    passes, most = 0, int(saved.config["data"]["batch_size"])  # known to fit into memory from training
    for batch in _batches(saved, pictures, crops, shown, unreadable):
        looks = torch.cat([looks for _, looks in batch])
        passes += len(looks)
        logits = [saved.logits(part) for part in looks.split(most)]
        softmax = torch.cat(logits).cpu().double().softmax(dim=1)  # Apple GPUs have no 64 bits
        for (i, _), own in zip(batch, softmax.split([len(looks) for _, looks in batch]), strict=True):
            probabilities[i] = own.mean(dim=0).numpy()
    return Answers(probabilities, unreadable, passes / max(1, n - len(unreadable)))


def _batches(
    saved: Saved, pictures: Pictures, crops: int, order: Iterable[int], unreadable: dict[int, str]
) -> Iterator[list[tuple[int, Tensor]]]:
    """Positions and views of images, grouped into at least BATCH views; records the ``unreadable`` ones."""
    batch: list[tuple[int, Tensor]] = []
    for i in order:
        try:
            picture = decoded(saved, pictures, i)
        except UnreadableError as error:
            unreadable[i] = error.reason
        else:
            batch.append((i, look(saved, picture, crops)))
        if sum(len(looks) for _, looks in batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def decoded(saved: Saved, pictures: Pictures, i: int) -> Image.Image:
    """Image number i, with the network's number of channels.

    Raises:
        UnreadableError: it cannot be decoded.
    """
    with naming(pictures.names[i]), pictures.read(i) as picture:
        return in_channels(picture, saved.in_channels)


def look(saved: Saved, picture: Image.Image, crops: int) -> Tensor:
    """The views of a :func:`decoded` image as input to the network: (K, S, S, C) float32, normalised.

    1 is the view of the run's own test, 2 adds its mirror image. The others are taken from the whole image, or, if the
    normalisation depends on the position, from the square it was fitted to.
    """
    size, normalize = saved.image_size, saved.normalize
    if crops > 2 and not normalize.first:
        whole = np.array(picture)
        image = torch.from_numpy(whole.reshape(1, *whole.shape[:2], saved.in_channels))
        return normalize(torch.cat(list(views(image, size, crops))))
    stored = torch.from_numpy(fit(picture, saved.decode_size, saved.in_channels).copy())[None]
    if crops > 2:
        return torch.cat(list(views(normalize(stored), size, crops)))
    return torch.cat(list(views(saved.prepare(stored), size, crops)))
