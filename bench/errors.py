"""The error for what a user has to mend."""


class ConfigError(Exception):
    """A user error; the message is one line that names the value and what is allowed."""
