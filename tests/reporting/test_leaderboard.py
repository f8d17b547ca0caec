import csv
import io
import statistics

import numpy as np
import pytest
from rich.console import Console

from bench.reporting import leaderboard, render, stats
from bench.reporting.predictions import Predictions


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(render.to_rich(table))
    return console.file.getvalue()


def test_seeds_are_grouped_with_mean_and_sample_deviation(make_record):
    tests = [0.90, 0.92, 0.97]
    (table,) = leaderboard.tables([make_record(seed=seed, test=test) for seed, test in enumerate(tests)])
    (row,) = table.rows
    assert (row.n, row.variant) == (3, "")
    assert row.stats["test_top1"].mean == pytest.approx(statistics.fmean(tests))
    assert row.stats["test_top1"].std == pytest.approx(statistics.stdev(tests))
    assert "93.0±3.6" in printed(table)


def names(make_record, *cells):
    """Of the rows, in their order, what figures call them; a cell is a network and its settings."""
    records = [
        make_record(
            model,
            val=0.9 - i / 100,
            config={"model": {"name": model}, "seed": 0} | config,
            run_id=f"digits-{model}-s0-{i:010d}",
        )
        for i, (model, config) in enumerate(cells)
    ]
    (table,) = leaderboard.tables(records)
    return [row.name for row in table.rows]


def test_figures_call_a_network_of_one_row_by_its_name_alone(make_record):
    fast, slow = {"optimizer": {"lr": 1}}, {"optimizer": {"lr": 2}}
    assert names(make_record, ("nin", fast), ("lenet", slow)) == ["nin", "lenet"]
    told = ["nin optimizer.lr=1", "nin optimizer.lr=2", "lenet"]
    assert names(make_record, ("nin", fast), ("nin", slow), ("lenet", slow)) == told


def test_figures_tell_of_a_network_that_it_did_not_start_from_random_weights(make_record):
    tuned = {"name": "vgg16", "pretrained": "imagenet"}
    lenet = ("lenet", {"optimizer": {"lr": 1}})
    cells = ("vgg16", {"model": tuned, "optimizer": {"lr": 2}, "trainer": {"max_epochs": 5}}), lenet
    assert names(make_record, *cells) == ["vgg16 model.pretrained=imagenet", "lenet"]
    cells = lenet, ("vgg16", {"model": tuned | {"freeze": "backbone"}})
    assert names(make_record, *cells) == ["lenet", "vgg16 #2"]


@pytest.mark.parametrize(("length", "told"), [(leaderboard.ROOM, True), (leaderboard.ROOM + 1, False)])
def test_figures_call_rows_with_long_settings_by_their_number(make_record, length, told):
    of = "optimizer.name="
    values = [letter * (length - len(of)) for letter in "ab"]
    expected = [f"nin {of}{value}" for value in values] if told else ["nin #1", "nin #2"]
    assert names(make_record, *(("nin", {"optimizer": {"name": value}}) for value in values)) == expected


def test_rows_of_one_rank_have_names_of_their_own(make_record):
    long = [{"model": {"name": "nin"}, "seed": 0, "optimizer": {"some_setting": f"{'x' * 40}{i}"}} for i in (1, 2)]
    records = [make_record("nin", config=one, run_id=f"digits-nin-s0-{i:010d}") for i, one in enumerate(long)]
    (table,) = leaderboard.tables(records)
    assert [(row.rank, row.name) for row in table.rows] == [(1, "nin #1a"), (1, "nin #1b")]


def test_one_seed_has_no_deviation(make_record):
    (table,) = leaderboard.tables([make_record(test=0.9)])
    assert table.rows[0].stats["test_top1"].std is None
    assert "±" not in printed(table)


def test_rows_are_ranked_by_validation_and_not_by_test(make_record):
    records = [make_record("nin", val=0.8, test=0.99), make_record("lenet", val=0.9, test=0.7)]
    (table,) = leaderboard.tables(records)
    assert [(row.rank, row.model) for row in table.rows] == [(1, "lenet"), (2, "nin")]
    assert "ranked by validation" in printed(table)


def test_equal_rows_share_a_rank(make_record):
    records = [make_record("nin", val=0.9), make_record("lenet", val=0.9), make_record("vgg16", val=0.8)]
    (table,) = leaderboard.tables(records)
    assert [(row.rank, row.model) for row in table.rows] == [(1, "lenet"), (1, "nin"), (3, "vgg16")]


def test_without_validation_the_ranking_says_that_it_is_by_test(make_record):
    (table,) = leaderboard.tables([make_record("nin", val=None, test=0.7), make_record("lenet", val=None, test=0.8)])
    assert [row.model for row in table.rows] == ["lenet", "nin"]
    assert "ranked by test" in printed(table)
    assert "–" in printed(table)


def test_protocols_and_data_sets_never_share_a_table(make_record):
    records = [make_record(), make_record(protocol="other"), make_record(dataset="cifar10")]
    assert [(table.dataset, table.protocol) for table in leaderboard.tables(records)] == [
        ("cifar10", "stratified"), ("digits", "other"), ("digits", "stratified"),
    ]  # fmt: skip


def test_the_terminal_shows_brackets(make_record):
    flipped = {"model": {"name": "lenet"}, "seed": 0, "augment": {"flip": {"p": 0.5}}}
    (table,) = leaderboard.tables([make_record(config=flipped), make_record(config=flipped | {"augment": {}})])
    assert "augment=[flip]" in printed(table, width=200)


def test_a_seed_counts_once(make_record):
    def record(seed, name, **settings):
        config = {"model": {"name": "lenet"}, "data": {}, "seed": seed} | settings
        return make_record(seed=seed, config=config, run_id=f"digits-lenet-s{seed}-{name:010d}", precision="32-true")

    same = [{"trainer": {"max_epochs": 2}}, {"trainer": {"max_epochs": 2}, "data": {"epochs": 2}}]
    (table,) = leaderboard.tables([record(seed, i, **one) for i, one in enumerate(same) for seed in (0, 1)])
    (row,) = table.rows
    assert (row.n, row.variant, len(set(row.run_ids))) == (2, "", 2)
    asked = [record(0, i, trainer={"precision": precision}) for i, precision in enumerate(("auto", "32-true"))]
    (table,) = leaderboard.tables(asked)  # on a GPU the first may use TF32
    assert {row.variant for row in table.rows} == {"precision=auto", "precision=32-true"}


def test_the_machine_is_told_where_it_is_one(make_record):
    def table(*cpus):
        versions = {"torch": "2.0"}
        records = [
            make_record("lenet", i, hardware={"cpu": cpu, "cores": 2, "gpus": ["X", "X"]}, versions=versions,
                        run_id=f"digits-lenet-s{i}-0123456789", precision="bf16-mixed")
            for i, cpu in enumerate(cpus)
        ]  # fmt: skip
        (made,) = leaderboard.tables(records)
        return made

    assert table("A", "A").machine == "2 cores of A, 2 × X, PyTorch 2.0, bf16-mixed"
    assert table("A", "B").machine == ""
    assert "; on 2 cores of A, 2 × X, PyTorch 2.0, bf16-mixed" in render.caption(table("A"))


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_cells_that_are_not_ok_are_left_out(make_record, status):
    assert leaderboard.tables([make_record(status=status, metrics={})]) == []


def test_the_table_fits_80_columns(make_record):
    records = [
        make_record("googlenet_bn", seed, val=0.9 + seed / 100, test=0.9 + seed / 50, params=143_667_240,
                    macs=19_632_000_000, train_images_per_s=12345.6, fit_seconds=86400, peak_memory_bytes=12 * 2**30)
        for seed in range(3)
    ]  # fmt: skip
    text = printed(leaderboard.tables(records)[0])
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("googlenet_bn", "91.0±1.0", "92.0±2.0", "144M", "19.6G", "12,346", "86,400", "12,288"):
        assert shown in text


def test_csv_holds_the_numbers_in_full(make_record):
    tables = leaderboard.tables([make_record(val=0.123456789, test=1 / 3), make_record("nin")])
    rows = list(csv.DictReader(io.StringIO(render.to_csv(tables))))
    lenet = next(row for row in rows if row["model"] == "lenet")
    assert float(lenet["test_top1"]) == 1 / 3
    assert float(lenet["val_top1"]) == 0.123456789
    assert (lenet["params"], lenet["n"], lenet["test_top1_std"]) == ("61706", "1", "")
    assert float(lenet["peak_memory_bytes"]) == 2**30


def test_markdown_has_a_section_and_a_full_row_for_each(make_record):
    text = render.to_markdown(leaderboard.tables([make_record(), make_record("nin")]), [[]])
    assert "## digits (stratified)" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {14}


def test_the_same_records_in_any_order_give_the_same_bytes(make_record):
    records = [make_record(model, seed) for model in ("nin", "lenet") for seed in range(3)]
    for written in (lambda tables: render.to_markdown(tables, [[]]), render.to_csv):
        assert written(leaderboard.tables(records)) == written(leaderboard.tables(records[::-1]))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (7, "7"),
        (999, "999"),
        (61706, "61.7k"),
        (416520, "417k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (6998552, "7M"),
        (15.47e9, "15.5G"),
    ],
)
def test_counts_are_shown_with_three_digits(value, shown):
    assert render.count(value) == shown


def answered(record, accuracy, n=400, seed=0):
    """Predictions of a record with about that accuracy on samples that all share."""
    labels = np.random.default_rng(0).integers(0, 10, n)
    right = np.random.default_rng([seed, record.seed]).random(n) < accuracy
    predicted = np.where(right, labels, (labels + 1) % 10)
    logits = np.eye(10, dtype=np.float32)[predicted]
    return Predictions(logits, predicted, labels, np.arange(n).astype(str), np.arange(10).astype(str))


def test_rows_that_cannot_be_told_from_the_first_are_marked(make_record):
    wanted = {"nin": (0.93, 0.90), "vgg16": (0.92, 0.89), "lenet": (0.8, 0.6)}  # validation, test
    records = [make_record(model, seed, val=val) for model, (val, _) in wanted.items() for seed in range(2)]
    predictions = {
        record.run_id: answered(record, wanted[record.model][1], seed=len(record.model)) for record in records
    }
    (table,) = leaderboard.tables(records, predictions)
    first, second, third = table.rows
    assert (first.p, first.like_best) == (None, False)
    correct = [np.stack([predictions[name].correct for name in row.run_ids]) for row in table.rows]
    p_values = stats.holm([stats.compare(correct[0], correct[1]), stats.compare(correct[0], correct[2])])
    assert [second.p, third.p] == p_values
    assert (second.like_best, third.like_best) == (True, False)
    assert first.interval == stats.interval(correct[0])
    assert "vgg16 ≈" in printed(table)
    assert "lenet ≈" not in printed(table)
    assert f"{100 * first.interval.low:.1f}–{100 * first.interval.high:.1f}" in printed(table)
    assert "not distinguishable" in render.section(table)
    (row,) = (row for row in csv.DictReader(io.StringIO(render.to_csv([table]))) if row["model"] == "lenet")
    assert float(row["p_like_first"]) == third.p
    assert float(row["test_top1_low"]) == third.interval.low


def test_predictions_on_other_samples_are_not_compared(make_record):
    one, other = make_record("nin", val=0.9), make_record("lenet", val=0.8)
    (table,) = leaderboard.tables(
        [one, other], {one.run_id: answered(one, 0.9), other.run_id: answered(other, 0.9, 50)}
    )
    assert table.rows[1].p is None
    assert table.rows[1].interval is not None


def of_classes(right, sizes):
    """Predictions of classes with so many samples each, of which so many are right; the last class has none."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    correct = np.concatenate([np.arange(size) < known for known, size in zip(right, sizes, strict=True)])
    predicted = np.where(correct, labels, (labels + 1) % len(sizes))
    logits = np.eye(len(sizes) + 1, dtype=np.float32)[predicted]
    return Predictions(logits, predicted, labels, np.arange(len(labels)).astype(str), np.arange(len(sizes) + 1))


def test_of_classes_that_differ_in_size_the_mean_over_classes_is_told(make_record):
    records = [make_record("nin", 0, val=0.9), make_record("nin", 1, val=0.9), make_record("lenet", val=0.8)]
    told = [of_classes([10, 10], [10, 40]), of_classes([5, 40], [10, 40]), of_classes([10, 36], [10, 40])]
    predictions = {record.run_id: one for record, one in zip(records, told, strict=True)}
    (table,) = leaderboard.tables(records, predictions)
    assert [row.stats["test_class_mean"].mean for row in table.rows] == pytest.approx([(0.625 + 0.75) / 2, 0.95])
    heading, _, first, second = (
        [cell.strip() for cell in line.split("|")] for line in render.section(table).splitlines()[2:6]
    )
    place = heading.index("test class mean")
    assert (heading[place - 1], first[place], second[place]) == ("95 % interval", "68.8±8.8", "95.0")
    assert "class" not in printed(table)  # it would not fit
    line, _ = csv.DictReader(io.StringIO(render.to_csv([table])))
    assert float(line["test_class_mean"]) == pytest.approx(0.6875)
    assert [row.model for row in leaderboard.in_order(table, "test_class_mean").rows] == ["lenet", "nin"]


@pytest.mark.parametrize("sizes", [[20, 20, 20], [10, 40, 10]])
def test_without_such_classes_or_without_all_predictions_it_is_not(make_record, sizes):
    records = [make_record("nin", seed) for seed in (0, 1)]
    told = {records[0].run_id: of_classes([5, 5, 5], sizes)}
    if sizes[0] == sizes[1]:
        told[records[1].run_id] = told[records[0].run_id]
    (table,) = leaderboard.tables(records, told)
    assert "test_class_mean" not in table.rows[0].stats
    assert "class mean" not in render.section(table)
    (line,) = csv.DictReader(io.StringIO(render.to_csv([table])))
    assert line["test_class_mean"] == ""


def test_rows_are_sorted_by_a_key_and_keep_their_ranks(make_record):
    records = [make_record("nin", val=0.9, params=3), make_record("lenet", val=0.8, params=None),
               make_record("vgg16", val=0.7, params=1, test=0.99)]  # fmt: skip
    (table,) = leaderboard.tables(records)
    for key, models in (
        ("rank", "nin lenet vgg16"), ("params", "vgg16 nin lenet"), ("model", "lenet nin vgg16"),
        ("test_top1", "vgg16 nin lenet"),
    ):  # fmt: skip
        ordered = leaderboard.in_order(table, key)
        assert [row.model for row in ordered.rows] == models.split(), key
        assert {row.model: row.rank for row in ordered.rows} == {"nin": 1, "lenet": 2, "vgg16": 3}
    for key in leaderboard.SORT_KEYS:
        assert len(leaderboard.in_order(table, key).rows) == 3


def test_tables_go_between_the_markers_that_name_them(make_record):
    tables = leaderboard.tables([make_record()])
    made = render.sections(tables, [[]])
    text = "# Mine\n\n<!-- leaderboard: digits stratified -->\nold\n<!-- end -->\nafter\n"
    text += "<!-- ablations: digits stratified -->\nold\n<!-- end -->\n"
    text += "<!-- leaderboard: cifar10 standard -->\nkept\n<!-- end -->\n"
    once = render.inject(text, made)
    assert "old" not in once
    assert "| lenet |" in once
    assert "\nNo two rows differ in one choice alone.\n" in once
    assert once.startswith("# Mine\n")
    assert once.endswith("<!-- end -->\n<!-- leaderboard: cifar10 standard -->\nkept\n<!-- end -->\n")
    assert render.inject(once, made) == once
    assert render.marked(text, made)
    assert not render.marked("no marker", made)
