"""report.html: the leaderboard, charts, all runs and comparisons in one file that works offline."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from bench.record import RunRecord
from bench.reporting import stats
from bench.reporting.curves import curves
from bench.reporting.leaderboard import Table
from bench.reporting.predictions import MISTAKES, Predictions
from bench.reporting.render import caption

AS_IS = ("rank", "number", "model", "variant", "name", "n", "params", "macs", "p")
"""The fields of a row that are copied into the page unchanged."""
DIGITS = 4
"""Digits of fractions in the page: a hundredth of a percent."""


def build(
    tables: Sequence[Table], records: Sequence[RunRecord], predictions: Mapping[str, Predictions], folder: Path
) -> str:
    """The page; ``folder`` contains the runs' directories. Equal records give equal bytes."""
    data = {
        "tables": [_table(table) for table in tables],
        "runs": {record.run_id: _run(record, predictions.get(record.run_id), folder) for record in records},
        "classes": {
            f"{record.dataset} {record.protocol}": predictions[record.run_id].classes.tolist()
            for record in records
            if record.run_id in predictions
        },
        "samples": _samples(predictions),
    }
    assets = files("bench.reporting") / "assets"
    page = (assets / "page.html").read_text()
    # what a script element may contain: no "</script>", no "<!--"
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "css": (assets / "page.css").read_text(),
        "plotly": get_plotlyjs(),
        "data": text,
        "js": (assets / "page.js").read_text(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)  # once: data may look like placeholders


def _table(table: Table) -> dict[str, Any]:
    rows = [
        {
            **{name: getattr(row, name) for name in AS_IS},
            "runs": row.run_ids,
            "interval": row.interval,
            "like_best": row.like_best,
            # in full, as they are rounded once more where they are shown
            **{name: [_finite(stat.mean), _finite(stat.std)] for name, stat in row.stats.items()},
        }
        for row in table.rows
    ]
    return {"dataset": table.dataset, "protocol": table.protocol, "caption": caption(table), "rows": rows}


def _finite(value: float | None) -> float | None:
    """The number; None if there is none."""
    return None if value is None or not math.isfinite(value) else value


def _short(value: float | None) -> float | None:
    """A number rounded for a chart; None if there is none."""
    return None if _finite(value) is None else float(f"{value:.6g}")


def _run(record: RunRecord, predictions: Predictions | None, folder: Path) -> dict[str, Any]:
    told = {name: value for name, value in asdict(record).items() if name not in ("run_id", "schema_version")}
    lines = {name: [_short(value) for value in values] for name, values in curves(folder / record.run_id).items()}
    run = told | {"curves": lines}
    if predictions is None or record.status != "ok":
        return run
    matrix = stats.confusion(predictions.labels, predictions.predicted, len(predictions.classes))
    places = np.argwhere(matrix)
    calibration = stats.calibration(predictions.confidence, predictions.correct)
    filled = calibration.count > 0
    return run | {
        # one bit per sample, whether it was correct, the first sample in the lowest bit
        "correct": base64.b64encode(np.packbits(predictions.correct, bitorder="little").tobytes()).decode(),
        "per_class": [None if np.isnan(value) else round(float(value), DIGITS) for value in stats.per_class(matrix)],
        "confusion": [[int(i), int(j), int(matrix[i, j])] for i, j in places],
        "ece": round(calibration.ece, DIGITS),
        "reliability": [
            [round(float(confidence), DIGITS), round(float(accuracy), DIGITS), int(count)]
            for confidence, accuracy, count in zip(
                calibration.confidence[filled], calibration.accuracy[filled], calibration.count[filled], strict=True
            )
        ],
        "mistakes": _mistakes(predictions, folder / record.run_id / MISTAKES),
    }


def _samples(predictions: Mapping[str, Predictions]) -> dict[str, int]:
    """Run id → a number shared by runs that were tested on the same samples."""
    numbers: dict[bytes, int] = {}
    return {
        name: numbers.setdefault(one.ids.tobytes() + one.labels.tobytes(), len(numbers))
        for name, one in sorted(predictions.items())
    }


def _mistakes(predictions: Predictions, picture: Path) -> dict[str, Any] | None:
    """The hardest mistakes: a strip of images, and for each its class, the predicted one, and the confidence."""
    if not picture.exists():
        return None
    hardest = predictions.hardest()
    told = [
        [
            str(predictions.ids[i]),
            int(predictions.labels[i]),
            int(predictions.predicted[i]),
            round(float(predictions.confidence[i]), DIGITS),
        ]
        for i in hardest
    ]
    return {"strip": "data:image/webp;base64," + base64.b64encode(picture.read_bytes()).decode(), "told": told}
