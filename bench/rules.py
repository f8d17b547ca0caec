"""Rules for the values of settings, and what is said of a setting that breaks one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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


def check_value(key: str, value: Any, rule: Rule) -> None:
    """Raise ConfigError unless the rule allows the value of the setting ``key``."""
    if not rule.allows(value):
        raise ConfigError(f"{key}={value}: must be {rule.text}")


def check_keys(group: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ConfigError for a setting that nothing would read, such as +trainer.max_steps or +model/timm=resnet18."""
    for key in settings:
        if key not in known:
            place = f"{group}.{key}" if group else key
            raise ConfigError(f"{place}: no such setting; available: {', '.join(known)}")
