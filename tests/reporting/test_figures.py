"""Figures: what they show is what the records say."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from cells import answers
from matplotlib.colors import to_hex

from bench.reporting import ablations, drawing, figures, leaderboard, stats
from bench.reporting.predictions import Predictions


def drawn(tables, records, predictions, runs):
    effects = [ablations.effects(table, records, predictions) for table in tables]
    return figures.draw(tables, effects, predictions, runs)


def test_equal_records_give_equal_bytes_and_names_that_are_safe(told):
    made = drawn(*told)
    assert made == drawn(*told)
    assert set(made) == {
        f"digits-stratified-{name}.{kind}"
        for name in ("cost", "curves", "confusion", "reliability", "ablation")
        for kind in ("svg", "png")
    }
    for name, content in made.items():
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
        else:
            text = " ".join(ET.fromstring(content).itertext())
            assert "digits (stratified)" in text
            assert "nin_bn" in text or "ablation" in name


def test_predictions_are_drawn_of_rows_of_which_all_seeds_have_them(told):
    tables, _, predictions, _ = told
    row = next(row for row in tables[0].rows if row.n > 1)
    drawn = [one for one, _ in figures.told_of(tables[0], predictions, most=99)]
    assert row in drawn
    less = {name: one for name, one in predictions.items() if name != row.run_ids[0]}
    assert [one for one, _ in figures.told_of(tables[0], less, most=99)] == [one for one in drawn if one != row]


def test_curves_are_mean_and_range_over_the_seeds_that_have_the_epoch(told):
    tables, _, _, runs = told
    figure = figures.learning(tables[0], runs)
    left = figure.axes[0]
    (line,) = [line for line in left.get_lines() if line.get_label() == "nin"]
    first, second = 80 - 10 / np.array([1, 2, 3]), 80 - 10 / np.array([1, 2]) + 1
    mean = [(first[0] + second[0]) / 2, (first[1] + second[1]) / 2, first[2]]
    assert line.get_ydata() == pytest.approx(mean)
    assert line.get_xdata().tolist() == [1, 2, 3]
    low, middle, high = figures.band([first, second])
    assert low == pytest.approx(first)
    assert middle == pytest.approx(mean)
    assert high == pytest.approx([second[0], second[1], first[2]])
    assert left.get_ylabel() == "validation top-1 in %"
    assert len(left.collections) == len(tables[0].rows)


def test_curves_leave_out_epochs_that_were_not_validated(told):
    tables, records, _, runs = told
    for record in records:
        rows = "epoch,val_top1,train_loss\n1,,1\n2,0.5,0.9\n3,,0.8\n4,0.75,0.7\n"
        (runs / record.run_id / "metrics.csv").write_text(rows)
    left, right = figures.learning(tables[0], runs).axes
    assert {tuple(line.get_xdata()) for line in left.get_lines()} == {(2, 4)}
    assert {tuple(line.get_ydata()) for line in left.get_lines()} == {(50, 75)}
    assert {tuple(line.get_xdata()) for line in right.get_lines()} == {(1, 2, 3, 4)}


def test_curves_of_very_different_lengths_are_drawn_over_the_share_of_the_run(told):
    tables, records, _, runs = told
    left = figures.learning(tables[0], runs).axes[0]
    assert (left.get_xlabel(), max(line.get_xdata().max() for line in left.get_lines())) == ("epoch", 3)
    rows = [f"{epoch},0.5,0.1" for epoch in range(1, 2 * figures.LONGER)] + [f"{2 * figures.LONGER},,0.1"]
    folder = next(runs / record.run_id for record in records if record.model == "lenet")
    (folder / "metrics.csv").write_text("\n".join(["epoch,val_top1,train_loss", *rows]) + "\n")
    left, right = figures.learning(tables[0], runs).axes  # 2 epochs of one NiN, 10 of a LeNet, the last not validated
    assert left.get_xlabel() == right.get_xlabel() == "% of the run's epochs"
    lenet = {panel: next(line for line in panel.get_lines() if line.get_label() == "lenet") for panel in (left, right)}
    assert lenet[left].get_xdata() == pytest.approx(np.arange(10, 91, 10))
    assert lenet[right].get_xdata() == pytest.approx(np.arange(10, 101, 10))


@given(st.lists(st.sampled_from([f"net{i}{bn}" for i in range(10) for bn in ("", "_bn")]), max_size=32))
def test_rows_look_different_and_a_network_with_batch_norm_has_the_colour_of_that_without(models):
    made = drawing.looks(models)
    assert len(made) == len(models)
    families = [model.removesuffix("_bn") for model in models]
    assert len({look[:3] for look in made}) == len(models)  # of markers
    assert len({(look.color, look.line) for look in made}) == len(models)  # of curves
    if len(set(families)) <= 8 and all(families.count(family) <= 4 for family in families):
        for one, family in zip(made, families, strict=True):
            assert {look.color for look, other in zip(made, families, strict=True) if other == family} == {one.color}


def test_confusion_is_that_of_all_seeds(told):
    (table,), _, predictions, _ = told
    figure = figures.confusions(table, predictions)
    panel = figure.axes[0]
    row = table.rows[0]
    matrix = sum(stats.confusion(predictions[name].labels, predictions[name].predicted, 4) for name in row.run_ids)
    shown = panel.get_images()[0].get_array()
    assert np.asarray(shown) == pytest.approx(100 * matrix / matrix.sum(axis=1, keepdims=True))
    assert panel.get_title() == row.model
    assert [text.get_text() for text in panel.get_yticklabels()] == ["ant", "bee", "cat", "dog"]


def test_reliability_is_the_calibration_of_all_seeds(told):
    (table,), _, predictions, _ = told
    panel = figures.reliabilities(table, predictions).axes[0]
    several = [predictions[name] for name in table.rows[0].run_ids]
    made = stats.calibration(
        np.concatenate([one.confidence for one in several]), np.concatenate([one.correct for one in several])
    )
    assert [bar.get_height() for bar in panel.patches] == pytest.approx(np.nan_to_num(made.accuracy))
    title = figures.reliabilities(table, predictions).get_suptitle()
    assert title.endswith("; grey: bins of fewer than 20 images" + " a seed" * (len(several) > 1))
    few = made.count < figures.FEW * len(several)
    assert few.any()
    assert not few.all()
    assert [to_hex(bar.get_facecolor()).upper() == drawing.GREY for bar in panel.patches] == few.tolist()
    each = [stats.calibration(one.confidence, one.correct).ece for one in several]
    assert f"ECE {100 * np.mean(each):.1f} %" in panel.get_title()


def test_figures_of_some_rows_say_so(make_record):
    records = [make_record(f"net{i}") for i in range(8)]
    predictions = {record.run_id: answers(0.5, i) for i, record in enumerate(records)}
    (table,) = leaderboard.tables(records, predictions)
    titles = [make(table, predictions).get_suptitle() for make in (figures.confusions, figures.reliabilities)]
    assert titles[0] == "digits (stratified), 6 of 8 rows"
    assert titles[1] == "digits (stratified); grey: bins of fewer than 20 images"


def test_runs_of_other_numbers_of_classes_are_drawn_each_with_its_own(told):
    (table,), records, predictions, _ = told
    names = {record.run_id for record in records if record.model == "lenet"}
    few = np.arange(60) % 3
    logits = np.eye(3, dtype=np.float16)[few]
    other = Predictions(logits, few, few, few.astype(str), np.array(["$a_$", "b", "caf\udce9"]))
    with figures.mpl.rc_context(drawing.STYLE):
        figure = figures.confusions(table, {**predictions, **dict.fromkeys(names, other)})
        assert drawing.rendered(figure, "svg")
    assert sorted(len(panel.get_xticks()) for panel in figure.axes if panel.get_xlabel()) == [3, 4, 4, 4, 4, 4]


def test_what_is_bought_is_drawn_with_its_interval(told):
    (table,), records, predictions, _ = told
    found = ablations.effects(table, records, predictions)
    panel = figures.ablation(table, found).axes[0]
    pair, middle, (low, high), p = found[0]
    both = [np.stack([predictions[name].correct for name in row.run_ids]) for row in (pair.with_it, pair.without)]
    assert (low, high) == stats.difference(*both)
    assert p == pytest.approx(min(1, 3 * stats.compare(*both)))  # the least of three
    assert low < middle < high
    line, _, (segments,) = panel.containers[0].lines
    assert line.get_xdata()[0] == pytest.approx(100 * middle)
    assert segments.get_segments()[0][:, 0] == pytest.approx([100 * low, 100 * high])
    assert ablations.effects(table, records, {})[0][1:] == (middle, None, None)


def test_what_is_missing_is_left_out(make_record, tmp_path):
    records = [make_record(params=None, macs=None, peak_memory_bytes=None, fit_seconds=None)]
    assert drawn(leaderboard.tables(records), records, {}, tmp_path) == {}
    records = [make_record(params=None)]
    made = drawn(leaderboard.tables(records), records, {}, Path("/no-such"))
    assert set(made) == {"digits-stratified-cost.svg", "digits-stratified-cost.png"}
    assert b"mathdefault" not in made["digits-stratified-cost.svg"]  # formulas are not set, as a class may be $a_$


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (900, 30_000, ["1k", "2k", "5k", "10k", "20k"]),
        (0.15, 3, ["0.2", "0.5", "1", "2"]),
        (1, 1e6, ["1", "100", "10k", "1M"]),
        (0.53e9, 1.8e9, ["700M", "1G", "1.5G"]),
    ],
)
def test_ticks_of_logarithmic_axes_are_plain_numbers(low, high, expected):
    axes = drawing.Figure().subplots()
    axes.set(yscale="log", ylim=(low, high))
    drawing.plain_log(axes.yaxis)
    labels = {tick.get_text() for tick in axes.get_yticklabels()}
    assert set(expected) <= labels
    assert {tick.get_text() for tick in axes.get_yticklabels(minor=True)} <= {""}
