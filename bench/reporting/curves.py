"""Learning curves, from a run's ``metrics.csv``."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

CURVES = ("train_top1", "val_top1", "train_loss", "val_loss")


def curves(run: Path) -> dict[str, list[float]]:
    """Those of CURVES that the run in this directory has, one value per epoch, NaN in epochs without validation;
    empty where it has no table, or (with a warning) a damaged one.
    """
    file = run / "metrics.csv"
    if not file.exists():
        return {}
    try:
        with file.open() as lines:
            rows = list(csv.DictReader(lines))
        return {name: [float(row[name] or "nan") for row in rows] for name in CURVES if rows and name in rows[0]}
    except (ValueError, csv.Error) as error:
        warnings.warn(f"{file}: is damaged ({error})", stacklevel=2)
        return {}
