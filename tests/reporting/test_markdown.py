"""Tables in Markdown."""

from bench.reporting import markdown


def test_a_table_has_a_line_a_row_and_numbers_on_the_right():
    lines = markdown.table(["#", "model", "top-1"], [["1", "lenet\nseed=0", "77.6"], ["2", "a|b", "10.0"]], ["model"])
    assert lines == [
        "| # | model | top-1 |",
        "|--:|---|--:|",
        "| 1 | lenet<br>seed=0 | 77.6 |",
        r"| 2 | a\|b | 10.0 |",
    ]
