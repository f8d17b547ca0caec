"""The composed configuration: where it is and which values are allowed."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import resolvers
from bench.errors import ConfigError
from bench.files import check_writable, expanded, is_folder
from bench.record import RUN_ID
from bench.rules import (
    NOT_NEGATIVE,
    POSITIVE,
    SWITCH,
    Rule,
    check_keys,
    check_public,
    check_value,
    choice,
    number,
    or_null,
    pair_of,
    walk,
    whole,
)

PACKAGE = Path(__file__).parent
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
"""The configuration folder: inside the package if installed, beside it in a checkout."""

DEFAULT_DATA = "data"


resolvers.register()


def need(what: str, extra: str, *packages: str) -> None:
    """Raise ConfigError unless the ``packages`` of an ``extra`` that ``what`` needs are installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{what}: needs {package}; pip install 'convbench[{extra}]'")


SHARE = number("a number in [0, 1)", lambda v: 0 <= v < 1)
RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "force": SWITCH,
    "sweep.retries": whole(0),
    "sweep.fail_fast": SWITCH,
    "progress": choice("auto", "bar", "lines", "none"),
    "data.image_size": whole(8),
    "data.train_image_size": whole(8),
    "data.in_channels": choice(1, 3),
    "data.num_classes": whole(2),
    "data.decode_size": whole(8),
    "data.val_size": or_null(whole(0)),
    "data.on_error": choice("raise", "skip"),
    "data.device": choice("auto", "cpu", "cuda"),
    "data.batch_size": whole(1),
    "loss.aux_weight": NOT_NEGATIVE,
    "loss.label_smoothing": SHARE,
    "optimizer.lr": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "trainer.max_epochs": whole(1),
    "trainer.check_val_every_n_epoch": whole(1),
    "trainer.checkpoint_minutes": POSITIVE,
    "trainer.clip_norm": or_null(POSITIVE),
    "trainer.ema": or_null(number("a number between 0 and 1", lambda v: 0 < v < 1)),
    "trainer.accelerator": choice("auto", "gpu", "mps", "cpu"),
    "trainer.devices": whole(1),
    "trainer.precision": choice("auto", "32-true", "bf16-mixed"),
    "trainer.compile": choice("auto", "none", "default", "reduce-overhead", "max-autotune"),
    "trainer.channels_last": SWITCH,
    "trainer.deterministic": SWITCH,
    "trainer.num_sanity_val_steps": whole(-1),
}

PYTORCHS: dict[str, Rule] = {
    "optimizer.momentum": SHARE,
    "optimizer.betas": pair_of(SHARE, "two numbers in [0, 1)"),
    "optimizer.nesterov": SWITCH,
    "optimizer.fused": or_null(SWITCH),
}
"""Rules for the settings of PyTorch's optimizers; those of others may be called the same."""

REALS = (
    *(key for key, rule in RULES.items() if rule.real),
    *("model.net.dropout", "model.net.aux_dropout", "model.lr.adamw", "model.lr.sgd", "optimizer.momentum"),
    *(f"scheduler.{name}" for name in ("warmup", "gamma", "power", "every")),
)
"""Settings that are real numbers, of which 1 and 1.0 are the same."""


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, with all interpolations resolved and real numbers as floats."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    for key in REALS:
        *path, name = key.split(".")
        node = values
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and type(node.get(name)) is int:
            node[name] = float(node[name])
    return values


SHAPES = ("num_classes", "in_channels", "image_size")
"""Arguments that a network gets from ``data`` and that must not be overridden."""


def under(group: str) -> tuple[str, ...]:
    """The names of the settings of a group that have rules."""
    return tuple(key.removeprefix(f"{group}.") for key in RULES if key.startswith(f"{group}."))


GROUPS = ("model", "data", "augment", "optimizer", "scheduler", "trainer", "logger", "loss", "sweep", "paths")
FOLDERS = ("data", "results", "cache")
MODEL = ("name", "net", "lr", "twin", "pretrained", "freeze")
KEYS = {
    "": ("seed", "force", "progress", "vars", *GROUPS),
    "data": ("name", "protocol", "source", "content", "epochs", *under("data")),
    "trainer": under("trainer"),
    "loss": under("loss"),
    "sweep": under("sweep"),
    "paths": FOLDERS,
}
"""The settings there are, of all and of each group; augmentations and what is instantiated have their own, ``vars`` is
free, for what other settings refer to.
"""

PRETRAINED_FROM = 96
"""The smallest images, in pixels, with the papers' geometry: models.layers.SMALL_BELOW, without its imports."""


def check(cfg: DictConfig) -> dict[str, Any]:
    """Check a composed configuration; returns it resolved.

    Raises:
        ConfigError: a value is not allowed, the data folder is missing, or the results or cache folder is not
            writable.
    """
    try:
        config = resolved(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    for place, key, value in walk(config):
        if value == "???":  # OmegaConf's mark
            raise ConfigError(_unset(place))
        check_public(place, key, value)
    for group in GROUPS:
        if not isinstance(_select(config, group), Mapping):
            raise ConfigError(f"{group}={json.dumps(config[group])}: must be one of the options in conf/{group}")
    for group, known in KEYS.items():
        check_keys(group, config[group] if group else config, known)
    for key, rule in RULES.items():
        check_value(key, _select(config, key), rule)
    for key, rule in PYTORCHS.items():
        group, _, name = key.partition(".")
        if name in config[group] and str(config[group].get("_target_")).startswith("torch.optim."):
            check_value(key, config[group][name], rule)
    check_shapes(lambda key: _select(config, key))
    check_model(config["model"])
    if config["model"].get("pretrained"):
        _check_pretrained(config)
    if (batch := config["data"]["batch_size"]) % (devices := config["trainer"]["devices"]):
        raise ConfigError(f"data.batch_size={batch}: must be a multiple of trainer.devices, which is {devices}")
    every, epochs = (config["trainer"][name] for name in ("check_val_every_n_epoch", "max_epochs"))
    if epochs % every:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: must divide trainer.max_epochs, which is {epochs}, "
            "so that the last epoch is validated; 1 always does"
        )
    stored, wanted = config["data"]["decode_size"], config["data"]["image_size"]
    if stored < wanted:
        raise ConfigError(f"data.decode_size={stored}: must be data.image_size, which is {wanted}, or more")
    for key in ("model.name", "data.name", "data.protocol"):
        if not isinstance(name := _select(config, key), str):
            # the protocol may be the split of a source: data.source.split
            told = re.fullmatch(r"\$\{([\w.]+)\}", str(_select(OmegaConf.to_container(cfg), key)))  # type: ignore[arg-type]
            key = told[1] if told else key
            quotes = f"; a number needs quotes, {key}=\"'{name}'\"" if type(name) in (int, float) else ""
            raise ConfigError(f"{key}={json.dumps(name)}: must be text{quotes}")
    for key in ("model.name", "data.name", "data.protocol"):
        if not RUN_ID.fullmatch(str(_select(config, key)).replace("/", "-")):
            raise ConfigError(
                f"{key}={_select(config, key)}: must be letters, digits and . _ - /, starting with a letter or digit"
            )
    _check_folders(config)
    for place, _, value in walk(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{place}={value}: must be a finite number")
    try:
        json.dumps(config, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"a setting cannot be recorded, such as keys that are partly text ({error})") from error
    return config


def check_shapes(select: Callable[[str], Any]) -> None:
    """Check the settings that shape a network, read with ``select(dotted name)``.

    Raises:
        ConfigError: a value is not allowed, or differs between the network and the data.
    """
    for name in SHAPES:
        wanted, told = select(f"data.{name}"), select(f"model.net.{name}")
        check_value(f"data.{name}", wanted, RULES[f"data.{name}"])
        if told != wanted:
            raise ConfigError(f"model.net.{name}={told}: must be data.{name}, which is {wanted}; set that instead")


def check_model(model: Mapping[str, Any]) -> None:
    """Check a model's configuration; ``pretrained`` and ``freeze`` need torchvision weights.

    Raises:
        ConfigError: a key is unknown or its value is not allowed.
    """
    check_keys("model", model, MODEL)
    for key, allowed in (("pretrained", "imagenet"), ("freeze", "backbone")):
        if model.get(key) not in (None, allowed):
            raise ConfigError(f"model.{key}={model[key]}: must be null or {allowed}")
    if model.get("pretrained") and not isinstance(model.get("twin"), str):
        raise ConfigError(f"model.pretrained={model['pretrained']}: torchvision has no weights for this network")
    if model.get("freeze") and not model.get("pretrained"):
        raise ConfigError(f"model.freeze={model['freeze']}: needs model.pretrained=imagenet, otherwise it stays random")


def _check_pretrained(config: Mapping[str, Any]) -> None:
    """Check that the images suit weights trained on ImageNet."""
    data, normalize = config["data"], _select(config, "augment.normalize")
    if data["in_channels"] != 3:
        raise ConfigError(f"data.in_channels={data['in_channels']}: pretrained weights need 3")
    if data["image_size"] < PRETRAINED_FROM:
        raise ConfigError(f"data.image_size={data['image_size']}: pretrained weights need {PRETRAINED_FROM} or more")
    if normalize != {"_target_": "bench.data.normalize.ChannelNormalize"}:
        raise ConfigError(
            "model.pretrained=imagenet: brings its own mean and std; leave augment/normalize=channel as it is"
        )


def _select(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"{key}: missing from the configuration")
        value = value[part]
    return value


def _check_folders(config: Mapping[str, Any]) -> None:
    for name in FOLDERS:
        if not isinstance(_select(config, f"paths.{name}"), str) or not config["paths"][name].strip():
            raise ConfigError(f"paths.{name}={config['paths'][name]}: must be a folder")
    if not isinstance(source := _select(config, "data.source"), Mapping):
        raise ConfigError(f"data.source={json.dumps(source)}: must describe a data set, as in conf/data")
    data, results, cache = (expanded(config["paths"][name], f"paths.{name}") for name in FOLDERS)
    # the default folder is created by the first download; one given explicitly must exist
    if "root" in source and str(data) != DEFAULT_DATA and not is_folder(data):
        raise ConfigError(f"paths.data={data}: no such folder")
    ours = str(source.get("_target_")).startswith("bench.")  # of others, the root may be no path
    if ours and isinstance(source.get("root"), str):
        root = expanded(source["root"], "data.source.root")
        if data not in (root, *root.parents) and not is_folder(root):
            raise ConfigError(f"data.source.root={root}: no such folder")
    check_writable(results, "paths.results")
    if not is_folder(cache):  # an existing cache may be read-only
        check_writable(cache, "paths.cache")


def _unset(key: str) -> str:
    return f"{key}: must be set, as {key}=…"


def _first_line(error: Exception) -> str:
    if match := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return _unset(match[1])
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])
