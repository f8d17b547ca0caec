"""The composed configuration: where it lies, what is allowed in it."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import resolvers
from bench.record import RUN_ID
from bench.store import StoreError, check_writable

PACKAGE = Path(__file__).parent
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
"""The configuration folder: inside an installed package, beside it in a checkout."""

DEFAULT_DATA = "data"


class ConfigError(Exception):
    """A mistake in what the user asked for; its text is one line that names the value and what is allowed."""


resolvers.register()


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, all interpolations resolved."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]


Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is allowed, and what is, in words."""


def _whole(least: int, most: float = math.inf) -> Rule:
    text = f"a whole number, {least} or more" if most == math.inf else f"a whole number from {least} to {most}"
    return lambda v: type(v) is int and least <= v <= most, text


def _number(text: str, allowed: Callable[[float], bool]) -> Rule:
    return lambda v: type(v) in (int, float) and math.isfinite(v) and allowed(v), text


def _choice(*options: Any) -> Rule:
    words = ", ".join(str(option).lower() for option in options)
    return lambda v: any(type(v) is type(option) and v == option for option in options), f"one of {words}"


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"null or {rule[1]}"


RULES: dict[str, Rule] = {
    "seed": _whole(0, 2**32 - 1),
    "force": _choice(True, False),
    "progress": _choice("auto", "bar", "lines", "none"),
    "data.image_size": _whole(8),
    "data.in_channels": _choice(1, 3),
    "data.num_classes": _whole(2),
    "data.decode_size": _whole(8),
    "data.val_size": _or_null(_whole(0)),
    "data.on_error": _choice("raise", "skip"),
    "data.device": _choice("auto", "cpu", "cuda"),
    "data.batch_size": _whole(1),
    "loss.aux_weight": _number("a number, 0 or more", lambda v: v >= 0),
    "loss.label_smoothing": _number("a number in [0, 1)", lambda v: 0 <= v < 1),
    "optimizer.lr": _number("a number above 0", lambda v: v > 0),
    "optimizer.weight_decay": _number("a number, 0 or more", lambda v: v >= 0),
    "trainer.max_epochs": _whole(1),
    "trainer.clip_norm": _or_null(_number("a number above 0", lambda v: v > 0)),
    "trainer.accelerator": _choice("auto", "gpu", "mps", "cpu"),
    "trainer.devices": _choice(1),  # the predictions of several processes are not gathered
    "trainer.precision": _choice("auto", "32-true", "bf16-mixed"),
    "trainer.channels_last": _choice(True, False),
    "trainer.deterministic": _choice(True, False),
    "trainer.num_sanity_val_steps": _whole(-1),
}

SHAPES = ("num_classes", "in_channels", "image_size")
"""What a network is told by ``data``, and is not to be told otherwise."""


def check(cfg: DictConfig) -> dict[str, Any]:
    """Check a composed configuration; returns it resolved.

    Raises:
        ConfigError: a value is not allowed, the data folder is missing, or the folder of the results or of the cache
            cannot be written.
    """
    try:
        config = resolved(cfg)
        unset = sorted(OmegaConf.missing_keys(cfg))
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    if unset:
        raise ConfigError(_unset(unset[0]))
    for key, (allowed, text) in RULES.items():
        value = _select(config, key)
        if not allowed(value):
            raise ConfigError(f"{key}={value}: must be {text}")
    for name in SHAPES:
        told, wanted = _select(config, f"model.net.{name}"), config["data"][name]
        if told != wanted:
            raise ConfigError(f"model.net.{name}={told}: is data.{name}, which is {wanted}; set that instead")
    stored, wanted = config["data"]["decode_size"], config["data"]["image_size"]
    if stored < wanted:
        raise ConfigError(f"data.decode_size={stored}: must be data.image_size, which is {wanted}, or more")
    for key in ("model.name", "data.name"):
        if not RUN_ID.fullmatch(str(_select(config, key)).replace("/", "-")):
            raise ConfigError(
                f"{key}={_select(config, key)}: must be letters, digits, . _ - and /, a letter or digit first"
            )
    _check_folders(config)
    try:
        json.dumps(config, allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"a setting is not a finite number ({error})") from error
    return config


def _select(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"{key}: missing from the configuration")
        value = value[part]
    return value


def _check_folders(config: Mapping[str, Any]) -> None:
    for name in ("data", "results", "cache"):
        if not isinstance(_select(config, f"paths.{name}"), str) or not config["paths"][name].strip():
            raise ConfigError(f"paths.{name}={config['paths'][name]}: must be a folder")
    data, results, cache = (Path(config["paths"][name]).expanduser() for name in ("data", "results", "cache"))
    # the default folder is made by the first download; one that was named must be there
    if "root" in _select(config, "data.source") and str(data) != DEFAULT_DATA and not data.is_dir():
        raise ConfigError(f"paths.data={data}: no such folder")
    try:
        check_writable(results, "paths.results")
        if not cache.is_dir():  # one that is there may be read alone
            check_writable(cache, "paths.cache")
    except StoreError as error:
        raise ConfigError(str(error)) from error


def explain(error: Exception) -> str:
    """One or two lines for an error that Hydra or OmegaConf raised while composing: what was wrong, what is allowed."""
    options = getattr(error, "options", None)
    if options is not None:  # a group's option that does not exist
        file = str(getattr(error, "missing_cfg_file", ""))
        group = max((group for group in groups() if file.startswith(f"{group}/")), key=len, default="")
        name = file.removeprefix(f"{group}/")
        return f"{group}={name}: no such option{_near(name, options)}; choose one of {', '.join(options)}"
    text = str(error) or str(error.__cause__)
    if match := re.search(r"Could not load '([^']+)/([^'/]+)'", text):  # one of several, as in augment=[crop,flip]
        options = sorted(file.stem for file in (CONF / match[1]).glob("*.yaml"))
        return f"{match[1]}={match[2]}: no such option{_near(match[2], options)}; choose of {', '.join(options)}"
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text):
        if options := _options_with(match[1]):
            return f"{match[1]}: only there with {' or '.join(options)}"
        near = _near(match[1], [*groups(), *_settings()])
        return f"{match[1]}: no such setting{near}; groups are {', '.join(groups())}"
    if "viable alternative" in text or "extraneous input" in text or "mismatched input" in text:
        line = text.splitlines()[0]
        if "[" in line:
            return f"{line}; a list goes in quotes and without spaces: 'augment=[crop_flip,cutout]'"
        return f"{line}; a value with signs such as = and ( needs quotes of its own: \"paths.results='/a=b'\""
    if "can only concatenate str (not" in text:
        return "a list inside a list is no choice of options; write 'augment=[crop_flip,cutout]'"
    if "Config group override must be a string or a list" in text:
        return f"a group's option must be named, and not be null; groups are {', '.join(groups())}"
    if "Ambiguous value for argument" in text:
        return f"{text.split(chr(39))[1]}: several values make a sweep, which needs -m: bench -m …"
    if match := re.search(r"Error parsing override '([^']+)'\s+missing EQUAL", text):
        return f"{match[1]}: write it as setting=value; bench --help lists the settings"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])


def groups() -> list[str]:
    """The configuration groups, such as ``model`` and ``augment/normalize``."""
    folders = {file.parent.relative_to(CONF).as_posix() for file in CONF.glob("*/**/*.yaml")}
    return sorted(folder for folder in folders if not folder.startswith("hydra/"))


def _settings() -> Iterator[str]:
    """Dotted names of all settings in the configuration files."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, Mapping) else ():
            yield f"{prefix}{key}"
            yield from walk(value, f"{prefix}{key}.")

    yield from walk(OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml")), "")
    for group in groups():
        for file in sorted((CONF / group).glob("*.yaml")):
            yield from walk(OmegaConf.to_container(OmegaConf.load(file)), group.replace("/", ".") + ".")


def _options_with(key: str) -> list[str]:
    """The options, such as ``optimizer=sgd``, that bring the setting ``key`` along."""
    found = []
    for group in groups():
        name = key.removeprefix(group.replace("/", ".") + ".")
        for file in sorted((CONF / group).glob("*.yaml")) if name != key else ():
            if OmegaConf.select(OmegaConf.load(file), name, throw_on_missing=False) is not None:
                found.append(f"{group}={file.stem}")
    return found


def _near(word: str, words: Any) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _unset(key: str) -> str:
    return f"{key}: must be set, as {key}=…"


def _first_line(error: Exception) -> str:
    if match := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return _unset(match[1])
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])
