"""Scanned digits, which come with scikit-learn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bench.data import splits
from bench.data.dataset import TEST, TRAIN, Dataset, assemble
from bench.data.decode import Decoder
from bench.rules import check_argument, whole


def digits(decoder: Decoder, test_size: int) -> Dataset:
    """1,797 scans of handwritten digits in 10 classes, 8×8 with 17 grey levels; shipped with scikit-learn.

    Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository, 1998. Enlarged
    bilinearly; ``test_size`` of them are drawn as test images, stratified, always the same.

    Raises:
        ValueError: ``test_size`` leaves a class without a sample.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    scans = (source.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8)
    least = len(source.target_names)
    check_argument("data.source.test_size", test_size, whole(least, len(scans) - least))
    parts = np.full(len(scans), TRAIN)
    parts[splits.hold_out(source.target, test_size)[1]] = TEST
    return assemble(
        decoder,
        "digits",
        ids=[f"digit-{i:04d}" for i in range(len(scans))],
        labels=source.target,
        parts=parts,
        classes=tuple(map(str, source.target_names)),
        content="scikit-learn",
        read=lambda i: Image.fromarray(scans[i]),
    )
