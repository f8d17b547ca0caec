"""The figure of accuracy against cost: its points, fronts and labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from cells import answers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bench.reporting import drawing, leaderboard, tradeoff


def fronts_of(panel):
    """The costs of the points on each of its fronts."""
    return sorted(
        sorted(map(float, line.get_xdata())) for line in panel.get_lines() if line.get_color() == drawing.GREY
    )


@given(st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12))
def test_the_pareto_front_is_what_nothing_beats(points):
    front = tradeoff.pareto(points)
    kept = {points[i] for i in front}
    beaten = {
        (x, y) for x, y in points if any(a <= x and b >= y and (a < x or b > y) for a, b in points)
    }  # fmt: skip
    assert kept == set(points) - beaten
    assert [points[i] for i in front] == sorted(kept)


def test_costs_and_accuracies_are_those_of_the_rows(told):
    (table,) = told[0]
    figure = tradeoff.cost(table)
    for panel, name in zip(figure.axes, tradeoff.COSTS, strict=True):
        drawn = {}
        for bars in panel.containers:
            line, _, (segments,) = bars.lines
            (segment,) = segments.get_segments()
            drawn[float(line.get_xdata()[0]), float(line.get_ydata()[0])] = segment[:, 1].tolist()
        wanted = {}
        for row in table.rows:
            value = row.stats[name].mean if name in row.stats else getattr(row, name)
            place = value * tradeoff.COSTS[name][1], 100 * row.stats["test_top1"].mean
            mean = place[1]
            wanted[place] = [min(mean, 100 * row.interval.low), max(mean, 100 * row.interval.high)]
        assert np.array(sorted(drawn)) == pytest.approx(np.array(sorted(wanted)))
        for place, ends in drawn.items():
            (near,) = [value for key, value in wanted.items() if np.allclose(key, place)]
            assert ends == pytest.approx(near)
        assert {text.get_text() for text in panel.texts} == {row.name for row in table.rows}


def test_without_intervals_the_bar_is_the_deviation_over_seeds(told):
    table = leaderboard.tables(told[1])[0]
    row = table.rows[0]
    assert tradeoff.spread(row) == (100 * row.stats["test_top1"].std,) * 2


def test_of_many_rows_the_front_has_names_and_a_key_all(make_record):
    records = [make_record(f"net{i}", test=i / 20, params=1000 + i % 3) for i in range(1, 15)]
    (table,) = leaderboard.tables(records)
    figure = tradeoff.cost(table)
    panel = figure.axes[0]
    front = tradeoff.pareto([(row.params, row.stats["test_top1"].mean) for row in table.rows])
    assert {text.get_text() for text in panel.texts} == {table.rows[i].model for i in front}
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == [row.model for row in table.rows]


def test_fronts_of_time_and_memory_are_of_one_machine_each(make_record):
    about = {"hardware": {"cpu": "A", "cores": 2}, "versions": {"torch": "2.0"}}
    records = [
        make_record(
            f"net{i}", test=i / 10, params=i, macs=i, fit_seconds=float(i), peak_memory_bytes=i << 20,
            precision="32-true" if i % 2 else "bf16-mixed", **about,
        )
        for i in range(1, 5)
    ]  # fmt: skip
    (table,) = leaderboard.tables(records)
    fronts = [fronts_of(panel) for panel in tradeoff.cost(table).axes]
    assert fronts == [[[1, 2, 3, 4]]] * 2 + [[[1, 3], [2, 4]]] * 2


@pytest.mark.parametrize("all_rows", [False, True])
def test_a_row_from_several_machines_is_on_no_front_of_time_and_memory(make_record, all_rows):
    records = [
        make_record(
            f"net{i}", seed, test=i / 10, params=i, macs=i, fit_seconds=float(i), peak_memory_bytes=i << 20,
            hardware={"cpu": "AB"[seed and (all_rows or i == 3)], "cores": 2}, versions={"torch": "2.0"},
            precision="32-true", run_id=f"digits-net{i}-s{seed}-0123456789",
        )
        for i in range(1, 5) for seed in (0, 1)
    ]  # fmt: skip
    (table,) = leaderboard.tables(records)
    panels = tradeoff.cost(table).axes
    assert [fronts_of(panel) for panel in panels] == [[[1, 2, 3, 4]]] * 2 + (
        [[], []] if all_rows else [[[1, 2, 4]]] * 2
    )
    assert [panel.get_xlabel().endswith(", a front per machine") for panel in panels] == [False, False, True, True]


def test_a_label_far_from_its_point_has_a_line_to_it():
    figure = drawing.Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set(xlim=(0, 2), ylim=(0, 2))
    names = [f"a network's name {i}" for i in range(4)]
    tradeoff.place_labels(panel, [(1, 1, 0.9, 1.1)], dict.fromkeys(names, (1, 1)))
    far = {text.get_text(): abs(text.xyann[1]) > tradeoff.NEAR for text in panel.texts}
    assert set(far) == set(names)
    assert set(far.values()) == {True, False}
    assert {text.get_text(): text.arrow_patch is not None for text in panel.texts} == far


@pytest.mark.parametrize("values", [[9.4e9, 14e9], [5.727e6, 5.734e6], [968e3], [62e3, 9.75e6]])
def test_a_logarithmic_axis_has_ticks_on_both_sides_of_the_values_none_of_them_twice(values):
    axes = drawing.Figure().subplots()
    low, high = tradeoff.around(values, "log")
    axes.set(yscale="log", ylim=(low, high))
    drawing.plain_log(axes.yaxis)
    there = [value for value in axes.get_yticks() if low <= value <= high]
    assert there[0] <= max(values)
    assert there[-1] >= min(values)
    labels = axes.yaxis.get_major_formatter().format_ticks(there)
    assert len(set(labels)) == len(labels) >= 2


def boxes(figure, panel):
    renderer = figure.canvas.get_renderer()
    return {text.get_text(): (text, Text.get_window_extent(text, renderer)) for text in panel.texts}


def test_a_label_that_could_be_anothers_has_a_line_to_its_point():
    figure = drawing.Figure(figsize=(4, 4))
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set(xlim=(0, 10), ylim=(0, 10))
    points = {f"a network with a long name {i}": (5, 5 + i / 5) for i in range(3)}
    tradeoff.place_labels(panel, [(x, y, y, y) for x, y in points.values()], points)
    own = {name: panel.transData.transform(point) for name, point in points.items()}
    for name, (text, box) in boxes(figure, panel).items():
        near = min(tradeoff.distance(box, point) for other, point in own.items() if other != name)
        assert text.arrow_patch is not None or tradeoff.distance(box, own[name]) < near


def test_a_label_at_its_point_has_no_line_however_the_error_bar_lies():
    figure = drawing.Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set(xlim=(0, 2), ylim=(80, 101))
    tradeoff.place_labels(panel, [(1, 98.06, 96.0, 99.1)], {"lenet": (1, 98.06)})
    (label,) = panel.texts
    assert label.arrow_patch is None


def test_labels_are_placed_in_panels_of_their_final_size(make_record, monkeypatch):
    placed, place = [], tradeoff.place_labels

    def seen(panel, *arguments):
        placed.append((panel, panel.get_window_extent().bounds))
        place(panel, *arguments)

    monkeypatch.setattr(tradeoff, "place_labels", seen)
    records = [make_record(f"net{i}", test=i / 20, params=1000 + i % 3) for i in range(1, 15)]
    (table,) = leaderboard.tables(records)
    figure = tradeoff.cost(table)
    figure.draw_without_rendering()
    assert placed
    assert all(panel.get_window_extent().bounds == pytest.approx(bounds) for panel, bounds in placed)


@pytest.mark.parametrize(("rows", "longer"), [(40, 30), (200, 0)])
def test_the_key_of_many_rows_covers_no_panel_and_ends(make_record, rows, longer):
    records = [
        make_record(f"net{i}{'x' * longer}", test=i / 400, params=1000 + i * 13 % 77, macs=i + 1) for i in range(rows)
    ]
    (table,) = leaderboard.tables(records)
    figure = tradeoff.cost(table)  # a layout without room warns
    figure.draw_without_rendering()
    (key,) = figure.legends
    names = [text.get_text() for text in key.get_texts()]
    assert (len(names), names[-1]) == (tradeoff.KEYED + 1, f"the other {rows - tradeoff.KEYED}")
    top = key.get_window_extent().y1
    assert all(panel.get_tightbbox().y0 >= top for panel in figure.axes[:2])
    assert all(len(panel.texts) <= tradeoff.LABELLED for panel in figure.axes)


def test_the_figure_tells_what_its_bars_are(make_record):
    records = [make_record("lenet"), *(make_record("nin", seed) for seed in (0, 1))]
    told = {record.run_id: answers(0.9, seed) for seed, record in enumerate(records)}
    alone, both = [records[0]], records[1:]
    for some, predictions, note in (
        (records, {}, "bars: standard deviations over seeds"),
        (alone, {}, ""),
        (alone, told, "bars: 95 % intervals; with n = 1 of the test images alone, not of seeds"),
        (both, told, "bars: 95 % intervals"),
        (
            records,
            {alone[0].run_id: told[alone[0].run_id]},
            "bars: 95 % intervals; with n = 1 of the test images alone, not of seeds; standard deviations over seeds "
            "where there are no predictions",
        ),
    ):
        (table,) = leaderboard.tables(some, predictions)
        assert tradeoff.meaning(table.rows) == note
