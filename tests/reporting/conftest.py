"""What the tests of reports share."""

import pytest
from cells import ablated, answers

from bench.reporting import leaderboard


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """See :func:`pages.made_store`."""
    pytest.importorskip("plotly")
    from pages import made_store

    return made_store(tmp_path_factory.mktemp("results"))


@pytest.fixture
def told(tmp_path):
    """Tables, records, predictions and runs of NiN and GoogLeNet, two seeds, with and without what ablations need."""
    records = ablated()
    predictions = {record.run_id: answers(record.metrics["test"]["top1"], i) for i, record in enumerate(records)}
    for record in records:
        (tmp_path / record.run_id).mkdir()
        top1 = record.metrics["val"]["top1"]
        rows = [f"{epoch},{top1 - 0.1 / epoch + record.seed / 100},{1 / epoch}" for epoch in (1, 2, 3)]
        if record.run_id == "digits-nin-s1-0123456789":
            rows.pop()
        (tmp_path / record.run_id / "metrics.csv").write_text("\n".join(["epoch,val_top1,train_loss", *rows]) + "\n")
    return leaderboard.tables(records, predictions), records, predictions, tmp_path
