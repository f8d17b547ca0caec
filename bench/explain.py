"""Short explanations of Hydra's configuration errors; and the available groups and options."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bench.config import CONF

QUOTES = "a value with characters such as = ( or ~ needs its own quotes: \"paths.results='~/a=b'\""

ADDED = ("sweep",)
"""Groups without a default, whose options are added with a plus sign: ``+sweep=five``."""

HYDRA_OWN = ("hydra/launcher",)
"""Hydra's own groups for which this project has options."""


def located(target: str) -> Any:
    """What a dotted name stands for; raises what importing it raises."""
    log = logging.getLogger("hydra.utils")  # which would say the same, in several lines
    before, log.disabled = log.disabled, True
    try:
        return get_object(target)
    finally:
        log.disabled = before


def explain(error: Exception) -> str:
    """A line for an error raised by Hydra or OmegaConf while composing: what is wrong, what is allowed."""
    if (known_to_hydra := getattr(error, "options", None)) is not None:  # a group's option that does not exist
        group, name = _option(str(getattr(error, "missing_cfg_file", "")))
        known = options(group)
        if group not in HYDRA_OWN:  # Hydra knows those of the user's folders; of model/timm, if that was asked for
            asked = re.search(r"Available options in '([^']+)'", str(error))
            place = f"{asked[1]}/".removeprefix(f"{group}/") if asked else ""
            known = sorted({*known, *(f"{place}{option}" for option in known_to_hydra)}, key=_by_depth)
        return f"{group}={name}: no such option{_near(name, known)}; choose one of {', '.join(known) or 'none'}"
    text = str(error) or str(error.__cause__)
    if match := re.search(r"Could not load '([^']+)'", text):  # one of several, as in augment=[crop,flip]
        group, name = _option(match[1])
        known = options(group)
        choices = f"{_near(name, known)}; choose from {', '.join(known)}" if known else ""  # none of Hydra's own groups
        return f"{group}={name}: no such option{choices}"
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text):
        if match[1] in ADDED:
            return f"{match[1]}: must be added as +{match[1]}=…; available: {', '.join(options(match[1]))}"
        group, folder = _option(match[1])
        if group and any(option.startswith(f"{folder}/") for option in options(group)):
            return f"{match[1]}: is not a group; write {group}={folder}/…"
        if found := _options_with(match[1]):
            return f"{match[1]}: only available with {_joined(found)}"
        near = _near(match[1], [*groups(), *_settings()])
        return f"{match[1]}: no such setting{near}; groups are {', '.join(groups())}"
    if "viable alternative" in text or "extraneous input" in text or "mismatched input" in text:
        line = text.splitlines()[0]
        if "[" in line:
            return f"{line}; a list needs quotes and no spaces: 'augment=[crop_flip,cutout]'"
        return f"{line}; {QUOTES}"
    if "LexerNoViableAlt" in text:  # characters without a meaning, such as those of other alphabets
        return f"{text.partition(': ')[2].splitlines()[0]}: {QUOTES}"
    if "can only concatenate str (not" in text:
        return "a list within a list is not allowed; write 'augment=[crop_flip,cutout]'"
    if "Config group override must be a string or a list" in text:
        return f"a group's option must be a name, not null; groups are {', '.join(groups())}"
    if "Ambiguous value for argument" in text:
        return f"{text.split(chr(39))[1]}: several values make a sweep, which bench -m runs; name one"
    if match := re.search(r"Error parsing override '([^']+)'\s+missing EQUAL", text):
        return f"{match[1]}: write it as setting=value; bench --help lists the settings"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])


@cache
def groups() -> tuple[str, ...]:
    """The groups with defaults in config.yaml, such as ``augment/normalize``, plus ADDED and HYDRA_OWN."""
    entries = OmegaConf.load(CONF / "config.yaml").defaults
    names = [str(name) for entry in entries if isinstance(entry, DictConfig) for name in entry]
    return tuple(sorted([*(name for name in names if not name.startswith("override ")), *ADDED, *HYDRA_OWN]))


def options(group: str) -> list[str]:
    """A group's options: ``lenet`` and the like, then those in subfolders, such as ``timm/resnet18``."""
    files = (file.relative_to(CONF).with_suffix("").as_posix() for file in CONF.glob(f"{group}/**/*.yaml"))
    names = [name for its_group, name in map(_option, files) if its_group == group]
    return sorted(names, key=_by_depth)


def _by_depth(option: str) -> tuple[int, str]:
    return option.count("/"), option


def _option(path: str) -> tuple[str, str]:
    """The innermost group and its option: ``model/timm/resnet18`` → ``("model", "timm/resnet18")``. Of groups that
    this project does not have, such as ``hydra/sweeper``, the folder.
    """
    group = max((group for group in groups() if path.startswith(f"{group}/")), key=len, default="")
    group = group or path.rpartition("/")[0]
    return group, path.removeprefix(f"{group}/")


def _settings() -> Iterator[str]:
    """Dotted names of all settings in the configuration files."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, Mapping) else ():
            if key == "defaults":  # Hydra's
                continue
            yield f"{prefix}{key}"
            yield from walk(value, f"{prefix}{key}.")

    yield from walk(OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml")), "")
    for group in groups():
        # recipes set others'
        for option in options(group) if group not in (*ADDED, *HYDRA_OWN, "experiment") else ():
            settings = OmegaConf.load(CONF / group / f"{option}.yaml")
            yield from walk(OmegaConf.to_container(settings), group.replace("/", ".") + ".")


def _options_with(key: str) -> list[str]:
    """The options, such as ``optimizer=sgd``, that define the setting ``key``."""
    found = []
    for group in groups():
        name = key.removeprefix(group.replace("/", ".") + ".")
        for option in options(group) if name != key else ():
            settings = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
            if _has(settings, name.split(".")):
                found.append(f"{group}={option}")
    return found


def _has(settings: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(settings, Mapping) or key not in settings:
            return False
        settings = settings[key]
    return True


def _joined(choices: list[str]) -> str:
    """``model=vgg11, vgg13 or augment=flip``: each group's name once."""
    by_group: dict[str, list[str]] = {}
    for choice in choices:
        group, _, option = choice.partition("=")
        by_group.setdefault(group, []).append(option)
    return " or ".join(f"{group}={', '.join(named)}" for group, named in by_group.items())


def _near(word: str, words: Any) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
