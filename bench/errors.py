"""Errors that end a command with a line, and what their messages share."""

from collections.abc import Sequence


class ConfigError(Exception):
    """A user error; the message is one line that names the value and what is allowed."""


class MeasureError(Exception):
    """Something that was started to be measured has failed; the message is one line."""


def first(names: Sequence[str], most: int = 10) -> str:
    """The names, or the first of them, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
