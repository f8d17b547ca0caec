"""Rules for the values of settings, and what is said of a setting that breaks one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.errors import ConfigError


class Rule(NamedTuple):
    """A check of a value, a description of what is allowed, and whether that are real numbers."""

    allows: Callable[[Any], bool]
    text: str
    real: bool = False


def whole(least: int, most: float = math.inf) -> Rule:
    """A whole number from ``least`` to ``most``, both included."""
    text = f"a whole number, {least} or more" if most == math.inf else f"a whole number from {least} to {most}"
    return Rule(lambda v: type(v) is int and least <= v <= most, text)


def number(text: str, allowed: Callable[[float], bool]) -> Rule:
    """A finite number that is ``allowed``, as ``text`` says."""
    return Rule(lambda v: type(v) in (int, float) and math.isfinite(v) and allowed(v), text, real=True)


def choice(*options: Any) -> Rule:
    """One of the options, in value and type."""
    words = ", ".join(str(option).lower() for option in options)
    return Rule(lambda v: any(type(v) is type(option) and v == option for option in options), f"one of {words}")


def or_null(rule: Rule) -> Rule:
    """None, or what the rule allows."""
    return Rule(lambda v: v is None or rule.allows(v), f"null or {rule.text}", rule.real)


def ascending(text: str, allowed: Callable[[float, float], bool]) -> Rule:
    """Two ascending numbers that are ``allowed``, as ``text`` says."""
    two = pair_of(NUMBER, "")
    return Rule(lambda v: two.allows(v) and v[0] <= v[1] and allowed(*v), f"two ascending numbers {text}")


def pair_of(rule: Rule, text: str) -> Rule:
    """A list of two that the rule allows, as ``text`` says."""
    return Rule(lambda v: _listed(v) and len(v) == 2 and all(map(rule.allows, v)), text)


def list_of(rule: Rule, text: str) -> Rule:
    """A list, not empty, of what the rule allows, as ``text`` says."""
    return Rule(lambda v: _listed(v) and len(v) > 0 and all(map(rule.allows, v)), f"a list of {text}")


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def check_value(key: str, value: Any, rule: Rule) -> None:
    """Raise ConfigError unless the rule allows the value of the setting ``key``."""
    if not rule.allows(value):
        raise ConfigError(f"{key}={value}: must be {rule.text}")


def check_argument(name: str, value: Any, rule: Rule) -> None:
    """Raise ValueError unless the rule allows the value of a constructor's argument."""
    if not rule.allows(value):
        raise ValueError(f"{name}={value}: must be {rule.text}")


def check_arguments(rule: Rule, **values: Any) -> None:
    """Raise ValueError unless the rule allows the value of each argument."""
    for name, value in values.items():
        check_argument(name, value, rule)


SWITCH = choice(True, False)
NUMBER = number("a number", lambda v: True)
PROBABILITY = number("a probability, in [0, 1]", lambda v: 0 <= v <= 1)
POSITIVE = number("a number above 0", lambda v: v > 0)
NOT_NEGATIVE = number("a number, 0 or more", lambda v: v >= 0)


def check_keys(group: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ConfigError for a setting that nothing would read, such as +trainer.max_steps or +model/timm=resnet18."""
    for key in settings:
        if key not in known:
            place = f"{group}.{key}" if group else key
            raise ConfigError(f"{place}: no such setting; available: {', '.join(known)}")


CREDENTIALS = re.compile(r"\w+://[^/@\s]+:[^/@\s]+@")
"""A user and a password in an address."""
SECRET = re.compile(r"(api_?key|access_?key|private_?key|token|secret|passw|passphrase|credential)", re.IGNORECASE)


def check_public(place: str, key: str, value: Any) -> None:
    """Check that a setting, the last part of whose name is ``key``, is none that must not be recorded.

    Raises:
        ConfigError: it is a password, a key or the like.
    """
    if SECRET.search(key) or (isinstance(value, str) and CREDENTIALS.search(value)):
        raise ConfigError(
            f"{place}: secrets do not belong in a configuration, which is recorded; "
            "they are read from the environment, such as WANDB_API_KEY or MLFLOW_TRACKING_URI"
        )


def walk(node: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted name, last part of it, and value of everything in a configuration, groups and lists included."""
    if isinstance(node, Mapping | list | tuple):
        for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            inner = f"{place}.{name}" if place else str(name)
            yield inner, str(name), value
            yield from walk(value, inner)
