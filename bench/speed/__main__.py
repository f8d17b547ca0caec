"""The ``bench-speed`` command: how fast the parts are, side by side with what one would use instead.

    bench-speed data [paths.data=FOLDER] [paths.results=results/local]

data: images/s of the input pipeline against torchvision's transforms in a DataLoader with 0, 1 and 2 workers; memory;
the time to build the cache of decoded images (on CIFAR-10, where paths.data has it as image files).

Prints tables and writes them, with the hardware and versions, to <paths.results>/speed/data.md and data.json. Let
nothing else run meanwhile.
"""

from __future__ import annotations

from bench import cli, config
from bench.config import ConfigError

SUBJECTS = ("data",)


def main() -> None:
    """Run the command line."""
    cli.run("bench-speed", __doc__ or "", measure)


def measure(arguments: list[str]) -> None:
    """Measure the subject that comes first among the arguments; the others are settings."""
    subject = arguments[0] if arguments else ""
    if subject not in SUBJECTS:
        raise ConfigError(f"{subject or 'what to measure'}: name one of {', '.join(SUBJECTS)} first")
    resolved = config.check(cli.composed(["data=cifar10", *arguments[1:]]))

    from bench.speed import data  # only now: importing PyTorch takes seconds

    data.measure(resolved)


if __name__ == "__main__":
    main()
