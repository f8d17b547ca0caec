"""A results folder for the tests of report.html, and the page of it."""

import numpy as np
from common import record_of

from bench import report
from bench.files import write_atomically
from bench.reporting import page, predictions
from bench.reporting.leaderboard import tables
from bench.reporting.predictions import Predictions
from bench.store import Store

CLASSES = ["<b>cat</b>", "dog", "horse"]  # names are text, not markup
OTHER = ["ant", "bee", "cow"]  # the same folder with other images in it
ACCURACY = {"lenet": 0.7, "nin": 0.8, "vgg16": 0.9}

METRICS = """epoch,seconds,train_loss,train_top1,val_loss,val_top1
1,2.0,0.9,0.5,0.8,0.6
2,4.0,0.8,0.6,,
3,6.0,0.7,0.7,0.6,0.8
"""


def save_predictions(folder, accuracy, seed, samples, names):
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3  # classes of one size where 3 divides their number
    predicted = np.where(rng.random(samples) < accuracy, labels, (labels + 1) % 3)
    logits = rng.normal(size=(samples, 3))
    logits[np.arange(samples), predicted] += 8
    ids, classes = np.arange(samples).astype(str), np.array(names)
    predictions.save(folder, Predictions(logits, logits.argmax(axis=1), labels, ids, classes))
    (folder / "mistakes.webp").write_bytes(predictions.strip(np.full((16, 32, 32, 3), [255, 0, 0], np.uint8)))


def made_records():
    """Three networks with two seeds each, one run of another protocol, and one that failed."""
    records = [
        record_of(model, seed, val=value - seed / 100, params=5 - i, test_size=400)
        for i, (model, value) in enumerate(ACCURACY.items())
        for seed in (0, 1)
    ]
    place = {"hardware": {"cpu": "Zen", "cpu_capability": "AVX2", "host": "node7"}, "versions": {"torch": "2.7.0"}}
    place |= {"git_sha": "abc", "precision": "32-true", "device": "cpu"}
    other = record_of("lenet", protocol="other", run_id="digits-lenet-s0-fedcba9876", test_size=201)
    failed = record_of(
        "nin", 7, status="failed", error="ValueError: </script> no", metrics={}, test_size=None, earlier=[place]
    )
    return [*records, other, failed]


def made_store(root):
    """Their folder."""
    store = Store(root)
    for record in made_records():
        folder = store.path(record.run_id)
        folder.mkdir(parents=True)
        if record.status == "ok":
            seed, names = [record.seed, len(record.model)], OTHER if record.protocol == "other" else CLASSES
            save_predictions(folder, ACCURACY[record.model], seed, record.test_size, names)
            write_atomically(folder / "metrics.csv", METRICS)
        write_atomically(folder / "record.json", record.to_json())
    return store


def built(store):
    records = store.load_all()
    predictions = report.predictions_of(store, records)
    return page.build(tables(records, predictions), records, predictions, store.root / "runs")
