"""The Oxford Flowers data sets."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from bench.data.dataset import TEST, TRAIN, VAL, Dataset, assemble
from bench.data.decode import Decoder, listing
from bench.data.sources.fetch import fetched
from bench.rules import check_argument, choice

PROTOCOLS = {
    "official": {"trnid": TRAIN, "valid": VAL, "tstid": TEST},  # 1,020 / 1,020 / 6,149
    "trainval": {"trnid": TRAIN, "valid": TRAIN, "tstid": TEST},  # 2,040 / – / 6,149
    "paddle": {"tstid": TRAIN, "valid": VAL, "trnid": TEST},  # 6,149 / 1,020 / 1,020, the old PaddlePaddle demo's
}

FLOWERS17 = "https://www.robots.ox.ac.uk/~vgg/data/flowers/17/"
FLOWERS17_FILES = {
    "17flowers.tgz": "b59a65d8d1a99cd66944d474e1289eab",  # md5
    "datasplits.mat": "4828cddfd0d803c5abbdebcb1e148a1e",
}
FLOWERS17_CLASSES = (  # 80 images each, in the order of the images
    "daffodil", "snowdrop", "lily of the valley", "bluebell", "crocus", "iris", "tigerlily", "tulip", "fritillary",
    "sunflower", "daisy", "colt's foot", "dandelion", "cowslip", "buttercup", "windflower", "pansy",
)  # fmt: skip


def flowers102(decoder: Decoder, root: str, split: str = "official", download: bool = True) -> Dataset:
    """Oxford Flowers-102: 8,189 photographs of 102 kinds, 40 to 258 per kind.

    Nilsback, Zisserman, "Automated flower classification over a large number of classes", ICVGIP 2008. torchvision's
    files in ``root/flowers-102``, downloaded first if ``download`` is set. ``split``: ``official``, 1,020 training,
    1,020 validation and 6,149 test images; ``trainval``, the first two combined for training; ``paddle``, the official
    test images for training and the training images for testing.

    Raises:
        FileNotFoundError: the files are missing, and downloading is disabled or fails.
        ValueError: ``split`` is invalid, or an image cannot be read.
    """
    if split not in PROTOCOLS:
        raise ValueError(f"data.source.split={split}: must be one of {', '.join(PROTOCOLS)}")
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102

    where = Path(root).expanduser()
    fetched("Flowers-102", where, lambda fetch: Flowers102(where, download=fetch), download)
    base = where / "flowers-102"
    labels = loadmat(base / "imagelabels.mat", squeeze_me=True)["labels"].astype(np.int64) - 1
    numbers = loadmat(base / "setid.mat", squeeze_me=True)
    parts = np.full(len(labels), -1)
    for key, part in PROTOCOLS[split].items():
        parts[numbers[key].astype(np.int64) - 1] = part
    files = [base / "jpg" / f"image_{i + 1:05d}.jpg" for i in range(len(labels))]
    return _assemble(decoder, "flowers102", files, labels, parts, tuple(Flowers102.classes))


def flowers17(decoder: Decoder, root: str, split: int = 1, download: bool = True) -> Dataset:
    """Oxford Flowers-17: 1,360 photographs of 17 kinds, 80 per kind; three official splits into 680 / 340 / 340.

    Nilsback, Zisserman, "A visual vocabulary for flower classification", CVPR 2006. The files ``17flowers.tgz`` and
    ``datasplits.mat`` of the authors' page in ``root/flowers-17``, downloaded first if ``download`` is set.

    Raises:
        FileNotFoundError: the files are missing or damaged, and downloading is disabled or fails.
        ValueError: ``split`` is not 1, 2 or 3, or an image cannot be read.
    """
    check_argument("data.source.split", split, choice(1, 2, 3))
    from scipy.io import loadmat

    base = Path(root).expanduser() / "flowers-17"
    fetched("Flowers-17", base.parent, lambda fetch: _flowers17_files(base, fetch), download)
    numbers = loadmat(base / "datasplits.mat", squeeze_me=True)
    labels = np.repeat(np.arange(len(FLOWERS17_CLASSES)), 80)
    parts = np.full(len(labels), -1)
    for key, part in {"trn": TRAIN, "val": VAL, "tst": TEST}.items():
        parts[numbers[f"{key}{split}"].astype(np.int64) - 1] = part
    files = [base / "jpg" / f"image_{i + 1:04d}.jpg" for i in range(len(labels))]
    return _assemble(decoder, "flowers17", files, labels, parts, FLOWERS17_CLASSES)


def _flowers17_files(base: Path, download: bool) -> None:
    """Like torchvision's class for Flowers-102: the archive is verified before it is unpacked."""
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    images, (archive, splits) = base / "jpg", FLOWERS17_FILES
    for name in (splits,) if images.is_dir() else (splits, archive):
        if download:
            download_url(FLOWERS17 + name, base, md5=FLOWERS17_FILES[name])
        elif not check_integrity(base / name, FLOWERS17_FILES[name]):
            raise FileNotFoundError(f"{base / name} is missing or has the wrong checksum")
    if images.is_dir():
        return
    with FileLock(base / ".unpack.lock"):
        if images.is_dir():  # another process has unpacked it while we waited
            return
        with tempfile.TemporaryDirectory(dir=base) as part:  # renamed when complete
            extract_archive(str(base / archive), part)
            (Path(part) / "jpg").rename(images)


def _assemble(
    decoder: Decoder, name: str, files: list[Path], labels: np.ndarray, parts: np.ndarray, classes: tuple[str, ...]
) -> Dataset:
    names = [str(file.absolute()) for file in files]
    return assemble(
        decoder,
        name,
        ids=[file.stem for file in files],
        labels=labels,
        parts=parts,
        classes=classes,
        content=listing(names),
        read=lambda i: Image.open(files[i]),
        names=names,
    )
