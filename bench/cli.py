"""What all commands share: exit codes, and mistakes told in a line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench import config
from bench.errors import ConfigError, MeasureError
from bench.explain import explain
from bench.files import check_writable, expanded, is_folder
from bench.store import StoreError

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


def stop(name: str, text: str, code: int) -> NoReturn:
    """End the program ``name`` with a line on standard error."""
    print(f"{name}: {text}", file=sys.stderr)
    sys.exit(code)


OURS = (ConfigError, StoreError)
HYDRAS = (HydraException, OmegaConfBaseException)


@contextlib.contextmanager
def answering(name: str) -> Iterator[None]:
    """Turn what the user did wrong into a line and exit code 2, Ctrl-C into 130, a full disk and its like, or what
    could not be measured, into 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that is not in its encoding must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except OURS as error:
        if SHOW_TRACEBACKS:
            raise
        stop(name, str(error), USAGE_ERROR)
    except (*HYDRAS, ValueError, TypeError) as error:
        # Hydra refuses model=null by ValueError and model=[[lenet]] by TypeError
        refusal = isinstance(error, HYDRAS) or from_hydra(error)
        if SHOW_TRACEBACKS or not refusal or isinstance(error, InstantiationException):
            raise
        stop(name, explain(error), USAGE_ERROR)
    except yaml.YAMLError as error:  # in a configuration file of the user's
        if SHOW_TRACEBACKS:
            raise
        stop(name, _line(error), USAGE_ERROR)
    except BrokenPipeError:  # output into head, less and the like, which have seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
    except (OSError, MeasureError) as error:
        if SHOW_TRACEBACKS:
            raise
        stop(name, str(error), FAILED)
    except KeyboardInterrupt:
        stop(name, "stopped", INTERRUPTED)


MISTAKES = (ValueError, TypeError, FileNotFoundError, NotADirectoryError, PermissionError, ImportError)
"""What constructors raise for arguments they refuse."""
FLAWS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)
"""What they raise for mistakes in their own code; what else they raise, such as lack of memory, is no mistake."""


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turn what constructors say of their arguments, and mistakes in a user's constructors, into ConfigError."""
    try:
        yield
    except MISTAKES as error:
        raise ConfigError(_line(error)) from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, FLAWS):
            said = f"{type(cause).__name__}: {_line(cause)} (HYDRA_FULL_ERROR=1 shows where)"
        elif isinstance(cause, MISTAKES):
            said = _line(cause)
        else:
            raise
        place = re.search(r"full_key: (\S+)", str(error))
        raise ConfigError(f"{place[1]}: {said}" if place else said) from error


def _line(error: BaseException) -> str:
    """Its message, without the line breaks of Hydra's."""
    return " ".join(str(error).split())


def from_hydra(error: BaseException) -> bool:
    """Whether it was raised in Hydra's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("hydra.")


def composed(settings: Sequence[str]) -> DictConfig:
    """The configuration with ``settings`` such as ``data=cifar10``, as ``bench`` would have it.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a setting is wrong.
    """
    for setting in settings:
        if setting.startswith("-"):
            raise ConfigError(f"{setting}: no such flag; see --help")
        if "=" not in setting and not setting.startswith("~"):
            raise ConfigError(f"{setting}: write it as setting=value")
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose("config", list(settings))


def run(name: str, usage: str, command: Callable[[list[str]], None]) -> None:
    """Run ``command`` with the arguments of the program ``name``, or show its ``usage`` for ``--help``."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage)
        return
    with answering(name):
        command(arguments)


def settings(arguments: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """``key=value`` arguments, by key; a key may come more than once."""
    found: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in known and equals and not value:
            raise ConfigError(f"{key}=: has no value")
        if key not in known or not equals:
            raise ConfigError(f"{argument}: no such setting; write one of {', '.join(f'{name}=…' for name in known)}")
        found.setdefault(key, []).append(value)
    return found


def apart(arguments: Sequence[str], known: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The ``known`` settings among the arguments, by key, and the other arguments."""
    named = [argument for argument in arguments if "=" in argument and argument.partition("=")[0] in known]
    return settings(named, known), [argument for argument in arguments if argument not in named]


def single(own: dict[str, list[str]], key: str, default: str = "") -> str:
    """The value of a key that may come once."""
    values = own.get(key, [default])
    if len(values) > 1:
        raise ConfigError(f"{key}={values[1]}: is given twice")
    return values[0]


def out_file(text: str, *suffixes: str) -> Path:
    """The file that ``out=`` names.

    Raises:
        ConfigError: it has none of the suffixes, is a folder, or is not in a writable folder.
    """
    file = expanded(text, "out")
    if file.suffix.lower() not in suffixes or not is_folder(file.parent) or is_folder(file):
        raise ConfigError(f"out={text}: must end in {' or '.join(suffixes)}, in a folder that exists")
    try:
        check_writable(file.parent)
    except ConfigError as error:
        raise ConfigError(f"out={text}: {file.parent.absolute()} is not writable") from error
    return file
