import pytest

from bench import report
from bench.store import Store


@pytest.fixture
def store(tmp_path, make_record):
    store = Store(tmp_path)
    for record in (make_record("lenet"), make_record("nin", dataset="cifar10", run_id="cifar10-nin-s0-0123456789")):
        store.publish(record, store.workspace(record.run_id))
    return store


def test_all_tables_are_printed_and_written(store, call):
    code, out, _ = call(report.main, f"paths.results={store.root}")
    assert code == 0
    assert "digits (stratified)" in out
    assert "cifar10 (stratified)" in out
    assert "## cifar10" in (store.root / "leaderboard.md").read_text()
    assert (store.root / "leaderboard.csv").read_text().count("\n") == 3


def test_one_data_set_is_printed_and_all_are_written(store, call):
    code, out, _ = call(report.main, f"paths.results={store.root}", "data=cifar10")
    assert code == 0
    assert "digits" not in out
    assert "## digits" in (store.root / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["dta=cifar10"], "dta=cifar10"), (["data=mnist"], "data=cifar10"), (["protocol=x"], "stratified")],
)
def test_a_mistake_is_told_in_one_line(store, call, arguments, said):
    code, _, err = call(report.main, f"paths.results={store.root}", *arguments)
    assert code == 2
    assert said in err
    assert err.startswith("bench-report: ")
    assert len(err.splitlines()) == 1


def test_a_folder_without_records_is_named(tmp_path, call):
    code, _, err = call(report.main, f"paths.results={tmp_path}")
    assert (code, err) == (2, f"bench-report: paths.results={tmp_path}: holds no finished runs\n")


def test_help_is_printed(call):
    code, out, _ = call(report.main, "--help")
    assert code == 0
    assert "paths.results" in out
