"""The error for what a user has to mend, and what its messages share."""

from collections.abc import Sequence


class ConfigError(Exception):
    """A user error; the message is one line that names the value and what is allowed."""


def first(names: Sequence[str], most: int = 10) -> str:
    """The names, or the first of them, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
