"""The ``bench-speed`` command: how fast the parts are, side by side with what one would use instead.

    bench-speed train [trainer.accelerator=auto] [trainer.precision=auto] [trainer.compile=auto]
    bench-speed growth [trainer.accelerator=auto] [trainer.precision=auto] [trainer.compile=auto]
    bench-speed data [paths.data=FOLDER]
    bench-speed models [trainer.accelerator=auto] [trainer.precision=auto]
    bench-speed sweep [data=cifar10] [trainer.max_epochs=6] [trainer.accelerator=auto]

Settings have the values shown if they are not given; trainer.accelerator may be auto, gpu, mps or cpu,
trainer.precision auto, 32-true or bf16-mixed, trainer.compile as for bench.

train: images/s of training at 32×32 on random images: this project's Trainer with augmentation and metrics; a bare
loop on batches made before; the reference stack, a plain LightningModule in 32 bits with torchmetrics and torchvision's
transforms of PIL images in a DataLoader, with the best of 0, 1, 2, 4, 8 and 16 workers, as far as there are cores; one
large convolution, the machine's ceiling, in bf16 or 32 bits, whichever is faster (networks may pass it in 32 bits,
where they take fewer multiplications than are counted). The faster the machine, the more images an epoch has, up to a
limit. The quotients are medians over rounds. Each is a process of its own, and they take turns.

growth: images/s and peak memory of this project's training against the size of the batch, of the images and of the data
set, of LeNet and NiN with batch norm; also as a figure.

data: images/s of the input pipeline against torchvision's transforms in a DataLoader with 0, 1, 2, … workers; memory;
the time to build the cache of decoded images (on CIFAR-10, where paths.data has it as image files).

models: images/s, forward and backward, of AlexNet, VGG and GoogLeNet in the papers' geometry against torchvision's of
the same weights; of local response normalisation (LRN), dropout, 2×2 max pooling and, in float32, 3×3 and 5×5
convolutions against PyTorch's, whose LRN has no bf16 on a CPU and gets float32 there; the share of LRN in GoogLeNet's
time. Ratios are medians over pairs of turns. In bf16 where the hardware multiplies it.

sweep: the wall time of ten cells of LeNet, one after another, over the sum of their fit times; what a cell takes
beside its fit: composing, building, testing, recording.

Prints tables and writes them, with the hardware and versions, to <paths.results>/speed/<subject>.md and .json
(paths.results=results/local). What fails, for lack of memory, say, is told there, and ends the command with exit code
1 after the rest. Let nothing else run meanwhile.
"""

from __future__ import annotations

import importlib

from bench import cli, config
from bench.errors import ConfigError
from bench.speed import MACHINE

SUBJECTS = {
    "train": MACHINE,
    "growth": MACHINE,
    "data": (),
    "models": MACHINE[:2],
    "sweep": ("data", "trainer.accelerator", "trainer.max_epochs"),
}
"""With the settings that each takes, besides those of paths."""


def main() -> None:
    """Run the command line."""
    cli.run("bench-speed", __doc__ or "", measure)


def measure(arguments: list[str]) -> None:
    """Measure the subject that comes first among the arguments; the others are settings."""
    subject = arguments[0] if arguments else ""
    if subject not in SUBJECTS:
        raise ConfigError(f"{subject or 'what to measure'}: name one of {', '.join(SUBJECTS)} first")
    for setting in arguments[1:]:
        name = setting.partition("=")[0]
        if "=" in setting and name not in SUBJECTS[subject] and not name.startswith("paths."):
            raise ConfigError(f"{setting}: {subject} takes {', '.join((*SUBJECTS[subject], 'paths.…'))}")
    cifar10 = {"data": ["data=cifar10"], "sweep": ["data=cifar10", "trainer.max_epochs=6"]}  # others: random images
    resolved = config.check(cli.composed([*cifar10.get(subject, []), *arguments[1:]]))

    module = importlib.import_module(f"bench.speed.{subject}")  # only now: importing PyTorch takes seconds
    if failed := module.measure(resolved):
        cli.stop("bench-speed", "\n".join(failed), cli.FAILED)


if __name__ == "__main__":
    main()
