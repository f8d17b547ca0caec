"""Trained networks: what is saved with the selected weights, and loading a network from it without its data set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from bench import cli, machine
from bench.checkpoint import SELECTED, CheckpointError, is_head, load
from bench.data import sources
from bench.data.module import ImageData
from bench.data.normalize import Normalize
from bench.data.pipeline import Pipeline
from bench.errors import ConfigError
from bench.explain import located
from bench.files import expanded
from bench.record import run_id


@dataclass(frozen=True)
class Saved:
    """A trained network, in evaluation mode, in 32 bits.

    ``model``: (N, C, S, S) normalised → Output. ``normalize``: the normalisation used in training. ``classes``: their
    names, in the order of the logits. ``config``: of the run that trained it.
    """

    run_id: str
    path: Path
    config: dict[str, Any]
    model: nn.Module
    normalize: Normalize
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The network's configuration and seed, such as ``nin s0``."""
        return f"{self.config['model']['name']} s{self.config['seed']}"

    @property
    def folder(self) -> Path:
        """The run's directory, or the folder of a standalone weights file."""
        return self.path.parent.parent if self.path.parent.name == "checkpoints" else self.path.parent

    @property
    def image_size(self) -> int:
        """Side of the images the network takes, in pixels."""
        return int(self.config["data"]["image_size"])

    @property
    def decode_size(self) -> int:
        """Side of the images the normalisation was fitted to, in pixels."""
        return int(self.config["data"]["decode_size"])

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.config["data"]["in_channels"])

    def prepare(self, images: Tensor) -> Tensor:
        """Images (B, D, D, C) uint8, D = ``decode_size`` → (B, S, S, C) float32, S = ``image_size``: cropped and
        normalised as in the run's own test.
        """
        return Pipeline(self.image_size, self.normalize)(images, ())

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Normalised images (B, S, S, C) → (B, num_classes) float32, on the network's device."""
        device = next(self.model.parameters()).device
        return self.model(images.to(device).permute(0, 3, 1, 2)).logits.float()


def use(resolved: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """What a checkpoint stores to make its weights usable: numbers, text and tensors."""
    return {
        "config": dict(resolved),
        "classes": list(data.dataset.classes),
        "normalize": data.plain.normalize.state(),
    }


def load_weights(model: nn.Module, path: Path) -> int:
    """Load the selected weights, which have no auxiliary heads; returns their epoch, counted from 1."""
    content = load(path)
    _load(model, content["state_dict"])
    return int(content["epoch"])


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not is_head(f"model.{name}")]
    if missing or unexpected:
        raise RuntimeError(f"weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")


def weights_of(path: Path) -> Path:
    """The file of the selected weights of a run's directory, or the file that it is."""
    return path / "checkpoints" / SELECTED if path.is_dir() else path


def open_run(place: Path | str, device: torch.device | str = "cpu") -> Saved:
    """Load the network from a run's directory or a file of selected weights, on ``device``, for use in 32 bits.

    Raises:
        ConfigError: there is none, another program wrote it, or it names code outside this project.
    """
    path = expanded(place, "checkpoint")
    file = weights_of(path)
    if not file.is_file():
        if path.is_dir():
            raise ConfigError(f"checkpoint={place}: has no checkpoints/{SELECTED}, which a run has when it is finished")
        raise ConfigError(f"checkpoint={place}: no such file; name a run's directory or its checkpoints/{SELECTED}")
    try:
        content = load(file)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    with _reading(place):
        state, use = content["state_dict"], content["use"]
        config, classes = use["config"], tuple(use["classes"])
        name, channels_last = run_id(config), config["trainer"]["channels_last"]
        settings = {"net": config["model"]["net"], "normalize": config["augment"]["normalize"]}
    with cli.mistakes():
        check_targets(settings, place)
        model = hydra.utils.instantiate(OmegaConf.create(settings["net"]))
        normalize = hydra.utils.instantiate(OmegaConf.create(settings["normalize"]))
    with _reading(place):
        _load(model, state)
        normalize.restore(use["normalize"])
    machine.allow_tf32(False)
    model = model.to(device).eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return Saved(name, file, config, model, normalize, classes)


@contextlib.contextmanager
def _reading(place: Path | str) -> Iterator[None]:
    """Lay errors to the checkpoint: another program, or another version, may have written it."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(f"checkpoint={place}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        told = f"contains no selected weights ({reason}); name a run's checkpoints/{SELECTED}"
        raise ConfigError(f"checkpoint={place}: {told}") from error


TRUSTED = "BENCH_TRUST"
"""Environment variable: packages, separated by commas, whose networks and sources a checkpoint may name."""


def check_targets(node: Any, place: Path | str) -> None:
    """Reject a configuration that would call anything but this project's networks, normalisations and sources, or what
    the TRUSTED packages define: a checkpoint may come from a stranger.

    Raises:
        ConfigError: it names something else, or what is not there, or has an interpolation.
    """
    if isinstance(node, str) and "${" in node:  # what it stands for would be looked up, or made, unchecked
        raise ConfigError(f"checkpoint={place}: contains {node}, which a run's settings do not; not loaded")
    if isinstance(node, list | tuple):
        for value in node:
            check_targets(value, place)
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        target = str(node["_target_"])
        package = target.partition(".")[0]
        trusted = [name for name in os.environ.get(TRUSTED, "").replace(" ", "").split(",") if name]
        if package not in ("bench", *trusted) or not _harmless(_imported(target, place), trusted):
            raise ConfigError(
                f"checkpoint={place}: wants to call {target}, not a network or data source of this project; not loaded"
                + (f"; {TRUSTED}={package} in the environment allows networks of it" if package != "bench" else "")
            )
    for value in node.values():
        check_targets(value, place)


def _imported(target: str, place: Path | str) -> Any:
    """What a dotted name stands for.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return located(target)
    except Exception as error:  # of anyone's module
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"checkpoint={place}: needs {target}, which cannot be imported ({reason})") from error


def _harmless(target: Any, trusted: Sequence[str]) -> bool:
    """Whether it is a network, normalisation or source of this project, or one that is defined in a trusted package;
    what those import from elsewhere is not.
    """
    module = str(getattr(target, "__module__", ""))
    of_trusted = module.partition(".")[0] in trusted
    if not isinstance(target, type):
        return of_trusted or any(target is getattr(sources, name) for name in sources.__all__)
    return issubclass(target, nn.Module | Normalize) and (
        of_trusted or module.startswith(("bench.models.", "bench.data."))
    )
