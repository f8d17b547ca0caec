"""The ``bench-predict`` command: what saved networks take images for.

    bench-predict checkpoint=RUN [checkpoint=…] IMAGE… [crops=1] [top=5] [out=FILE.csv] [trainer.accelerator=auto]

IMAGE: image files, and folders, of which all images are taken, also those of the folders in them. checkpoint and crops
as for bench-evaluate; several networks answer together, their softmax averaged. Prints the most probable classes of
each image. A file that cannot be read is named, the others are answered for, and the exit code is 1.
"""

from __future__ import annotations

import csv
import io
import sys

import numpy as np

from bench import cli, console
from bench.errors import ConfigError
from bench.evaluate import check_alike, crops_of, opened
from bench.files import write_atomically

SETTINGS = ("checkpoint", "crops", "top", "out", "trainer.accelerator")


def main() -> None:
    """Run the command line."""
    cli.run("bench-predict", __doc__ or "", predict)


def predict(arguments: list[str]) -> None:
    """Print what the networks answer; exit code 1 if an image cannot be read."""
    own, places = cli.apart(arguments, SETTINGS)
    if (top := cli.single(own, "top", "5")) not in map(str, range(1, 1001)):
        raise ConfigError(f"top={top}: must be a number from 1 to 1000")
    file = cli.out_file(cli.single(own, "out"), ".csv") if "out" in own else None
    crops = crops_of(own)
    if len(crops) > 1:
        raise ConfigError(f"crops={own['crops'][0]}: must be one number")

    from bench import inference

    pictures = inference.of_files(places)
    if not pictures.names:
        raise ConfigError("no images: name files or folders")
    networks = opened(own)
    check_alike(networks, by_protocol=False)
    told = [inference.answers(network, pictures, crops[0]) for network in networks]
    probabilities = np.mean([one.probabilities for one in told], axis=0)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : int(top)]
    rows: list[tuple[str, int, str, float]] = []
    for i, name in enumerate(pictures.names):
        if i in told[0].unreadable:
            continue
        console.say(name)
        for rank, label in enumerate(order[i], start=1):
            rows.append((name, rank, networks[0].classes[label], float(probabilities[i, label])))
            console.say(f"  {rows[-1][3]:6.1%}  {rows[-1][2]}")
    if file:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("image", "rank", "class", "probability"), *rows])
        write_atomically(file, text.getvalue().encode(errors="backslashreplace"))  # file names may be no text
        console.say(f"written: {file}")
    for i, reason in told[0].unreadable.items():
        print(f"bench-predict: {pictures.names[i]}: not a readable image ({reason})", file=sys.stderr)
    if told[0].unreadable:
        sys.exit(cli.FAILED)


if __name__ == "__main__":
    main()
