"""report.html as text; what it does in a browser is tested in ``test_page_in_browser.py``."""

import base64
import json
import re

import numpy as np
import pytest

pytest.importorskip("plotly")

from pages import CLASSES, OTHER, built

from bench import report
from bench.reporting import stats
from bench.reporting.leaderboard import tables


def data_of(text):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_every_run_and_equal_records_give_equal_bytes(store):
    text = built(store)
    assert text == built(store)
    data = data_of(text)
    assert set(data["runs"]) == {record.run_id for record in store.load_all()}
    assert [(table["dataset"], table["protocol"], len(table["rows"])) for table in data["tables"]] == [
        ("digits", "other", 1), ("digits", "stratified", 3),
    ]  # fmt: skip
    names = [[row["name"] for row in table["rows"]] for table in data["tables"]]  # of curves and marks
    assert names == [[row.name for row in table.rows] for table in tables(store.load_all())]
    assert "https://" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_the_pages_numbers_are_the_tables_to_the_last_digit(store):
    records = store.load_all()
    made = tables(records, report.predictions_of(store, records))
    for table, told in zip(made, data_of(built(store))["tables"], strict=True):
        for row, shown in zip(table.rows, told["rows"], strict=True):  # else they would be rounded twice
            assert tuple(shown["interval"]) == row.interval
            assert {name: tuple(shown[name]) for name in row.stats} == {n: stat[:2] for n, stat in row.stats.items()}


def test_what_the_page_says_of_a_run_are_its_predictions(store):
    data = data_of(built(store))
    predictions = report.predictions_of(store, store.load_all())
    assert data["classes"] == {"digits stratified": CLASSES, "digits other": OTHER}
    for name, one in predictions.items():
        run = data["runs"][name]
        packed = np.frombuffer(base64.b64decode(run["correct"]), np.uint8)
        assert np.array_equal(np.unpackbits(packed, bitorder="little")[: len(one.labels)].astype(bool), one.correct)
        matrix = np.zeros((3, 3), int)
        for i, j, images in run["confusion"]:
            matrix[i, j] = images
        assert np.array_equal(matrix, stats.confusion(one.labels, one.predicted, 3))
        assert run["per_class"] == pytest.approx(np.diag(matrix) / matrix.sum(axis=1), abs=1e-4)
        assert run["ece"] == pytest.approx(stats.calibration(one.confidence, one.correct).ece, abs=1e-4)
        assert len(run["mistakes"]["told"]) == min(16, (~one.correct).sum())
        assert run["curves"]["val_top1"] == [0.6, None, 0.8]
