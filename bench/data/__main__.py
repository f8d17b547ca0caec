"""The ``bench-data`` command: a look at a data set as a network gets to see it.

    bench-data data=cifar10 'augment=[crop_flip,cutout]' [augment/normalize=channel] [seed=0] [out=FILE.png]

Prints sizes, splits, class balance, mean and standard deviation, and writes a contact sheet of training images, above
as they are stored, below as augmented in three epochs; to <data>-<augment>.png if out= does not say otherwise.
All settings of bench are understood; bench --help lists them.
"""

from __future__ import annotations

from pathlib import Path

from bench import cli, config, console
from bench.config import ConfigError


def main() -> None:
    """Run the command line."""
    cli.run("bench-data", __doc__ or "", look)


def look(arguments: list[str]) -> None:
    """Print the tables and write the sheet."""
    settings = [argument for argument in arguments if not argument.startswith("out=")]
    out = [argument.removeprefix("out=") for argument in arguments if argument.startswith("out=")]
    cfg = cli.composed(settings)
    resolved = config.check(cfg)
    choices = {word.partition("=")[0]: word.partition("=")[2].strip("[]").replace(",", "+") for word in settings}
    chosen = [choices[group] for group in ("augment", "augment/normalize") if group in choices]
    name = "-".join([resolved["data"]["name"], *chosen])
    file = Path(out[-1] if out else f"{name}.png").expanduser()
    if file.suffix.lower() != ".png" or not file.parent.is_dir():
        raise ConfigError(f"out={file}: must be a .png file in a folder that exists")

    from bench.assemble import make_data, prepare_machine  # only now: importing PyTorch takes seconds
    from bench.data import sheet

    device = prepare_machine(resolved)
    with cli.mistakes():
        data = make_data(cfg, resolved, device)
    for table in sheet.tables(data):
        console.out.print(table)
    try:
        sheet.contact_sheet(data).save(file)
    except OSError as error:
        raise ConfigError(f"out={file}: cannot be written ({error})") from error
    console.say(f"written: {file}")


if __name__ == "__main__":
    main()
