"""The ``bench-look`` command: what a saved network looks at.

    bench-look checkpoint=RUN [IMAGE…] [split=val] [samples=8] [class=NAME] [out=FOLDER] [paths.data=…]
               [trainer.accelerator=auto]

checkpoint= is one run or its selected weights. IMAGE: image files and folders, up to 100 images; by default samples=,
up to 100, from all over split=, the run's val or test images, in paths.data as in bench-evaluate. Writes SVG and PNG
files to out= (by default look/ in the run's folder):

filters      the filters of the first convolution (Krizhevsky et al. 2012, figure 3)
attention    where the network looks in each image for the predicted class, or class=NAME: by occlusion (Zeiler, Fergus
             2014, section 4.2), the drop in the class's probability when a square of the mean colour covers a location;
             and by Grad-CAM (Selvaraju et al. 2017)
features-N   the strongest feature maps of image N at each resolution, and what they respond to, projected back to the
             image (Zeiler, Fergus 2014, section 2.1)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench import cli, console
from bench.config import need
from bench.errors import ConfigError, first
from bench.evaluate import opened
from bench.files import check_writable, expanded, write_atomically

if TYPE_CHECKING:
    from bench.inference import Pictures
    from bench.saved import Saved

MOST = 100
"""Images that fit into a figure."""
FEATURES = re.compile(r"features-\d+\.(png|svg)")
SETTINGS = ("checkpoint", "split", "samples", "class", "out", "paths.data", "trainer.accelerator")


def main() -> None:
    """Run the command line."""
    cli.run("bench-look", __doc__ or "", look)


def look(arguments: list[str]) -> None:
    """Draw what the arguments ask for and print the file names."""
    own, places = cli.apart(arguments, SETTINGS)
    if (split := cli.single(own, "split", "val")) not in ("val", "test"):
        raise ConfigError(f"split={split}: must be one of val, test")
    if (samples := cli.single(own, "samples", "8")) not in map(str, range(1, MOST + 1)):
        raise ConfigError(f"samples={samples}: must be a number from 1 to {MOST}")
    for name in ("split", "samples"):
        if places and name in own:
            raise ConfigError(f"{name}={own[name][0]}: name either images or a split, whose images are taken")
    need("bench-look", "look", "captum", "matplotlib")
    networks = opened(own)
    if len(networks) > 1:
        raise ConfigError(f"checkpoint={networks[1].path}: bench-look takes one network")
    (saved,) = networks
    label = cli.single(own, "class")
    if label and label not in saved.classes:
        raise ConfigError(f"class={label}: the network knows {first(saved.classes)}")
    folder = expanded(cli.single(own, "out", str(saved.folder / "look")), "out")
    check_writable(folder, "out")

    from bench import inference

    if places:
        pictures = inference.of_files(places)
    else:
        pictures = inference.of_split(saved, split, cli.single(own, "paths.data") or None)
    if places and len(pictures.names) > MOST:
        raise ConfigError(f"{' '.join(places)}: has {len(pictures.names):,} images; at most {MOST} are looked at")
    n = len(pictures.names)
    # many splits are in the order of classes, of which the first images would show one
    chosen = range(n) if places else sorted({round(i) for i in np.linspace(0, n - 1, int(samples))})
    files = draw(saved, pictures, chosen, label)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for left in folder.iterdir() if "out" not in own else ():  # of more images, looked at earlier
        if FEATURES.fullmatch(left.name) and left.name not in files:
            left.unlink()
    console.say(f"written: {folder}/{', '.join(files)}")


def draw(saved: Saved, pictures: Pictures, chosen: Sequence[int], label: str) -> dict[str, bytes]:
    """File name → SVG or PNG for the ``chosen`` pictures; ``label``: a class, or empty for the predicted one.

    Raises:
        ConfigError: an image cannot be read, and the run did not leave such images out.
    """
    from rich.progress import track

    from bench import attention, inference
    from bench.data.decode import UnreadableError
    from bench.reporting import looks

    seen, network = [], attention.Logits(saved.model)
    note = f"{saved.name}: {len(chosen)} images"
    if not console.live():
        console.say(note)
    for i in track(chosen, note, console=console.out, disable=not console.live(), transient=True):
        try:
            picture = inference.decoded(saved, pictures, i)
        except UnreadableError as error:
            if pictures.labels is not None and saved.config["data"]["on_error"] == "skip":  # as the run did
                continue
            raise ConfigError(f"{error.name}: not a readable image ({error.reason})") from error
        true = None if pictures.labels is None else saved.classes[pictures.labels[i]]
        seen.append(attention.attend(saved, network, picture, saved.classes.index(label) if label else None, true))
    if not seen:
        raise ConfigError(f"{pictures.title}: none of the {len(chosen)} that were chosen can be read")
    if len(seen) < len(chosen):
        console.say(f"{len(chosen) - len(seen)} of {len(chosen)} images cannot be read, and are left out")
    return looks.draw(attention.first_filters(saved.model), seen, saved.classes, saved.name)


if __name__ == "__main__":
    main()
