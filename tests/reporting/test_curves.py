"""Learning curves from metrics.csv."""

import math

import pytest

from bench.reporting.curves import curves


def test_epochs_without_validation_are_nan_and_columns_that_are_not_there_are_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_top1,val_top1\n1,0.5,\n2,0.75,0.25\n")
    told = curves(tmp_path)
    assert told["train_top1"] == [0.5, 0.75]
    assert math.isnan(told["val_top1"][0])
    assert told["val_top1"][1] == 0.25
    assert set(told) == {"train_top1", "val_top1"}


def test_a_run_without_a_table_has_none(tmp_path):
    assert curves(tmp_path) == {}


@pytest.mark.parametrize("line", ["2,1e", "2,\x00", "x,y"])
def test_a_damaged_table_is_named(tmp_path, line):
    (tmp_path / "metrics.csv").write_text(f"epoch,train_top1\n1,0.5\n{line}\n")
    with pytest.warns(UserWarning, match="metrics.csv: is damaged"):
        assert curves(tmp_path) == {}
