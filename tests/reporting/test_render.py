"""The leaderboard as text: terminal, Markdown, CSV, between markers."""

import csv
import io

import pytest
from cells import answers, cell
from common import printed

from bench.reporting import ablations, leaderboard, render


def test_settings_stand_below_the_terminals_table_in_whole_words(make_record):
    def record(model, ema, seed=0):
        settings = {"max_epochs": 2, "ema": ema, "a_name_that_would_be_cut_in_a_column": ema}
        return make_record(model, seed, config={"model": {"name": model}, "seed": seed, "trainer": settings})

    (table,) = leaderboard.tables([record("lenet", 0.5), record("lenet", 0.75), record("nin", 0.5)])
    lines = [line.rstrip() for line in printed(table).splitlines()]
    (second,) = [row for row in table.rows if "0.75" in row.variant]
    settings = "trainer.a_name_that_would_be_cut_in_a_column=0.75 trainer.ema=0.75"
    assert f"#{second.number} {settings}" in lines
    assert not any("=" in line for line in lines[: lines.index(f"#{second.number} {settings}")] if "#" not in line)


@pytest.mark.parametrize(("top5", "shown"), [((1.0, 1.0), False), ((1.0, 0.99), True)])
def test_top_5_that_is_never_wrong_is_not_shown(make_record, top5, shown):
    records = [make_record(model) for model in ("lenet", "nin")]
    for record, value in zip(records, top5, strict=True):
        record.metrics["test"]["top5"] = value
    text = render.section(leaderboard.tables(records)[0])
    assert ("| test top-5 |" in text) == ("| val top-5 |" in text) == shown


def test_the_terminal_shows_brackets(make_record):
    flipped = {"model": {"name": "lenet"}, "seed": 0, "augment": {"flip": {"p": 0.5}}}
    (table,) = leaderboard.tables([make_record(config=flipped), make_record(config=flipped | {"augment": {}})])
    assert "augment=[flip]" in printed(table, width=200)


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


@pytest.mark.parametrize(
    ("seeds", "covers"),
    [
        (1, "; with n = 1, interval and test reflect the test images only, not the seed"),
        (
            2,
            "; with n = 1, intervals reflect the test images only, not the seed, and the test takes seeds to vary",
        ),
    ],
)
def test_what_the_test_of_a_single_run_covers_depends_on_the_first_row(seeds, covers):
    records = [cell("nin", seed, 0.9) for seed in range(seeds)] + [cell("lenet", 0, 0.8)]
    told_of = {record.run_id: answers(record.metrics["test"]["top1"], record.seed) for record in records}
    (table,) = leaderboard.tables(records, told_of)
    assert covers in render.caption(table)


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


def test_tables_go_between_the_markers_that_name_them(make_record):
    tables = leaderboard.tables([make_record()])
    made = render.sections(tables, [[]])
    text = "# Mine\n\n<!-- leaderboard: digits stratified -->\nold\n<!-- end -->\nafter\n"
    text += "<!-- ablations: digits stratified -->\nold\n<!-- end -->\n"
    text += "<!-- leaderboard: cifar10 standard -->\nkept\n<!-- end -->\n"
    once = render.inject(text, made)
    assert "old" not in once
    assert "| lenet |" in once
    assert "\nNo two rows differ in exactly one choice.\n" in once
    assert once.startswith("# Mine\n")
    assert once.endswith("<!-- end -->\n<!-- leaderboard: cifar10 standard -->\nkept\n<!-- end -->\n")
    assert render.inject(once, made) == once
    assert render.marked(text, made)
    assert not render.marked("no marker", made)


def test_a_marker_without_an_end_takes_nothing_with_it(make_record):
    made = render.sections(leaderboard.tables([make_record()]), [[]])
    second = "<!-- ablations: digits stratified -->\n<!-- end -->\n"
    text = f"<!-- leaderboard: digits stratified -->\nmine\n{second}"
    assert render.inject(text, made).startswith(f"<!-- leaderboard: digits stratified -->\nmine\n{second[:37]}")
    with pytest.raises(ValueError, match="^<!-- leaderboard: digits stratified --> has no <!-- end --> of its own$"):
        render.marked(text, made)


def test_an_ablations_numbers_of_seeds_are_in_the_order_of_before_and_after():
    records = [cell("nin", seed, 0.8) for seed in range(3)] + [cell("nin_bn", 0, 0.9)]
    (table,) = leaderboard.tables(records)
    assert "| nin | batch norm, optimizer.lr=0.01 → 0.1 | 3, 1 |" in render.effects_section(
        table, ablations.effects(table, records, {})
    )
