"""The ``bench-data`` command: inspect a data set as a network sees it.

    bench-data data=cifar10 'augment=[crop_flip,cutout]' [augment/normalize=channel] [seed=0] [out=FILE.png]

Prints sizes, splits, class balance, mean and standard deviation, and writes a contact sheet of training images: as
stored in the top row, as augmented in three epochs below; by default to <data>-<augment>.png.
Accepts all settings of bench; bench --help lists them.
"""

from __future__ import annotations

from bench import cli, config, console


def main() -> None:
    """Run the command line."""
    cli.run("bench-data", __doc__ or "", look)


def look(arguments: list[str]) -> None:
    """Print the tables and write the sheet."""
    own, settings = cli.apart(arguments, ("out",))
    cfg = cli.composed(settings)
    resolved = config.check(cfg)
    choices = {word.partition("=")[0]: word.partition("=")[2].strip("[]").replace(",", "+") for word in settings}
    chosen = [choices[group] for group in ("augment", "augment/normalize") if group in choices]
    name = "-".join([resolved["data"]["name"], *chosen]).replace("/", "-")
    file = cli.out_file(cli.single(own, "out", f"{name}.png"), ".png")

    from bench.assemble import make_data, prepare_machine  # only now: importing PyTorch takes seconds
    from bench.data import sheet

    device = prepare_machine(resolved)
    with cli.mistakes():
        data = make_data(cfg, resolved, device)
    for table in sheet.tables(data):
        console.out.print(table)
    sheet.contact_sheet(data).save(file)
    console.say(f"written: {file}")


if __name__ == "__main__":
    main()
