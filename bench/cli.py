"""What the commands beside ``bench`` share: settings composed by Hydra, mistakes told in a line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench import config
from bench.config import ConfigError

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def composed(settings: Sequence[str]) -> DictConfig:
    """The configuration with ``settings`` such as ``data=cifar10``, as ``bench`` would have it.

    Raises:
        HydraException, OmegaConfBaseException: a setting is wrong.
    """
    for setting in settings:
        if "=" not in setting and not setting.startswith("~"):
            raise ConfigError(f"{setting}: write it as setting=value")
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose("config", list(settings))


def run(name: str, usage: str, command: Callable[[list[str]], None]) -> None:
    """Run ``command`` with the program's arguments; ends the program with 2 for a mistake in the call.

    Args:
        name: of the command, for messages.
        usage: shown for ``--help``.
        command: raises ConfigError for a mistake of the user's.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage)
        return
    try:
        command(arguments)
    except ConfigError as error:
        _stop(name, str(error), USAGE_ERROR)
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error, InstantiationException):
            raise
        _stop(name, config.explain(error), USAGE_ERROR)
    except BrokenPipeError:  # output into head, less and the like, which have seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
    except KeyboardInterrupt:
        _stop(name, "stopped", INTERRUPTED)


def _stop(name: str, text: str, code: int) -> NoReturn:
    print(f"{name}: {text}", file=sys.stderr)
    sys.exit(code)
