"""The ``bench-export`` command: export a trained network to ONNX and torch.export files.

    bench-export checkpoint=RUN [out=FILE.onnx] [out=FILE.pt2]

checkpoint: a run's directory or its checkpoints/selected.ckpt. Without out, both files are written to export/ in the
run's directory. ONNX (.onnx) is read by ONNX Runtime and many others, .pt2 by torch.export.load. Each is one function,
images → logits: (N, C, S, S) float32 in [0, 1], any N, as returned by torchvision's ToTensor. Normalisation is
included, batch norm is folded into the convolutions, auxiliary heads are removed; the class names are in the file's
metadata.

Each file is loaded again and compared with the network on 64 images: if its logits differ by more than 1e-4 of the
largest one, or of 1 if the largest is below 1, it is not kept and the exit code is 1. Then both are timed against
PyTorch, in 32 bits, in turns, on the CPU.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bench import cli, console
from bench.errors import ConfigError
from bench.evaluate import opened
from bench.files import check_writable, write_atomically

if TYPE_CHECKING:
    from bench.deploy import Deployed, Runner
    from bench.saved import Saved

SETTINGS = ("checkpoint", "out")
SUFFIXES = (".onnx", ".pt2")
MOST = 1e-4
"""Largest allowed difference of a file's logits from the network's, relative to the largest, at least to 1."""
BATCHES = (1, 64)
ROUNDS = 7
TURN_IMAGES = 64


def main() -> None:
    """Run the command line."""
    cli.run("bench-export", __doc__ or "", export)


def export(arguments: list[str]) -> None:
    """Write, check and time the requested files."""
    own = cli.settings(arguments, SETTINGS)
    files = [cli.out_file(name, *SUFFIXES) for name in own.get("out", [])]
    networks = opened(own | {"trainer.accelerator": ["cpu"]})
    if len(networks) > 1:
        raise ConfigError(f"checkpoint={networks[1].path}: bench-export takes one network")
    (saved,) = networks

    import torch  # only now: importing PyTorch takes seconds

    from bench.deploy import WRITERS, Deployed, batch_norms, deviation

    if not files:
        files = [saved.folder / "export" / f"{saved.run_id}{suffix}" for suffix in SUFFIXES]
        check_writable(saved.folder / "export", "out")
    network = Deployed(saved)
    before, left = batch_norms(saved.model), batch_norms(network)
    side = network.side
    console.say(
        f"{saved.name}: images (N, {saved.in_channels}, {side}, {side}) in [0, 1] → logits (N, {len(saved.classes)})"
        + (f"; {before - left} of {before} batch norms folded" if before else "")
    )
    runners: dict[str, Runner] = {}
    for file in files:
        with tempfile.TemporaryDirectory() as scratch:
            draft = Path(scratch) / f"network{file.suffix.lower()}"
            try:
                run = WRITERS[file.suffix.lower()](network, saved, draft)
            except ImportError as error:
                raise ConfigError(f"{file.suffix}: {error}; pip install 'convbench[export]'") from error
            with torch.inference_mode():
                apart = deviation(run, saved, side)
            if not apart <= MOST:  # also if it is NaN
                cli.stop("bench-export", f"{file}: differs from the network by {apart:.1e}; not kept", cli.FAILED)
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, draft.read_bytes())
        console.say(f"written: {file} ({file.stat().st_size / 2**20:.1f} MiB), logits to {apart:.0e} of the largest")
        runners[{".onnx": "ONNX Runtime", ".pt2": "torch.export"}[file.suffix.lower()]] = run
    console.out.print(timed(saved, network, runners))


def timed(saved: Saved, network: Deployed, runners: dict[str, Runner]) -> Table:
    """Milliseconds per call for each, medians over rounds."""
    import torch

    from bench.models.layers import Output
    from bench.speed.timing import interleaved

    def plain(images: torch.Tensor) -> torch.Tensor:
        x = network.middle(network.normalize(images))
        out: Output = saved.model(x.contiguous(memory_format=torch.channels_last))
        return out.logits

    everyone: dict[str, Runner] = {"PyTorch, as trained": plain, "PyTorch, folded": network, **runners}
    table = Table("milliseconds", *(f"{n} image{'s' * (n > 1)}" for n in BATCHES), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    columns = []
    for n in BATCHES:
        images = torch.rand(n, saved.in_channels, network.side, network.side)
        calls = max(1, TURN_IMAGES // n)

        def turn(run: Runner, images: torch.Tensor = images, calls: int = calls) -> int:
            with torch.inference_mode():
                for _ in range(calls):
                    run(images)
            return calls * len(images)

        rates = interleaved({name: functools.partial(turn, run) for name, run in everyone.items()}, ROUNDS)
        columns.append({name: 1000 * n / statistics.median(each) for name, each in rates.items()})
    for name in everyone:
        table.add_row(name, *(f"{column[name]:.2f}" for column in columns))
    return table


if __name__ == "__main__":
    main()
