import importlib.util

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
    [
        (["dta=cifar10"], "dta=cifar10"),
        (["data=mnist"], "available: cifar10, digits"),
        (["protocol=x"], "stratified"),
        (["sort=size"], "params"),
        (["readme=no.md"], "no.md"),
        (["readme=~nobody-here/x.md"], "readme=~nobody-here/x.md: no such user's home"),
    ],
)
def test_a_mistake_is_told_in_one_line(store, call, arguments, said):
    code, _, err = call(report.main, f"paths.results={store.root}", *arguments)
    assert code == 2
    assert said in err
    assert err.startswith("bench-report: ")
    assert len(err.splitlines()) == 1


def test_filters_and_sorting_choose_what_is_printed(tmp_path, make_record, call):
    store = Store(tmp_path)
    for model, params in (("lenet", 3), ("nin", 2), ("vgg16", 1)):
        record = make_record(model, params=params)
        store.publish(record, store.workspace(record.run_id))
    code, out, _ = call(report.main, f"paths.results={tmp_path}", "model=lenet,nin", "sort=params")
    assert code == 0
    assert out.index("nin") < out.index("lenet")
    assert "vgg16" not in out
    assert "vgg16" in (tmp_path / "leaderboard.md").read_text()


def test_the_table_goes_into_a_readme_and_the_same_records_give_the_same_bytes(store, call):
    readme = store.root / "README.md"
    readme.write_text("before\n<!-- leaderboard: digits stratified -->\n<!-- end -->\nafter\n")
    contents = []
    for _ in range(2):
        code, _, _ = call(report.main, f"paths.results={store.root}", f"readme={readme}")
        assert code == 0
        contents.append(
            [(store.root / name).read_bytes() for name in ("README.md", "leaderboard.md", "leaderboard.csv")]
        )
    assert contents[0] == contents[1]
    assert b"| lenet |" in contents[0][0]


def test_a_readme_that_is_no_text_or_cannot_be_written_is_told_in_a_line(store, call, monkeypatch):
    readme = store.root / "README.md"
    readme.write_bytes(b"caf\xe9")
    code, _, err = call(report.main, f"paths.results={store.root}", f"readme={readme}")
    assert (code, err) == (2, f"bench-report: readme={readme}: is not UTF-8 text\n")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "figures")

    monkeypatch.setattr(report, "write_figures", refuse)
    code, _, err = call(report.main, f"paths.results={store.root}")
    assert (code, err) == (1, "bench-report: [Errno 13] Permission denied: 'figures'\n")


def test_a_readme_without_markers_is_left_alone_and_told_what_to_write(store, call):
    readme = store.root / "README.md"
    readme.write_text("mine\n")
    code, _, err = call(report.main, f"paths.results={store.root}", f"readme={readme}")
    assert code == 2
    assert "<!-- leaderboard: digits stratified -->" in err
    assert readme.read_text() == "mine\n"


def test_a_readme_keeps_its_line_ends_its_mode_and_its_link(store, call, tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes(b"before\r\n<!-- leaderboard: digits stratified -->\r\n<!-- end -->\r\n")
    page.chmod(0o640)
    (tmp_path / "README.md").symlink_to(page)
    assert call(report.main, f"paths.results={store.root}", f"readme={tmp_path / 'README.md'}")[0] == 0
    assert (tmp_path / "README.md").is_symlink()
    assert page.stat().st_mode & 0o777 == 0o640
    lines = page.read_bytes().split(b"\n")
    assert len(lines) > 8
    assert all(line.endswith(b"\r") for line in lines[:-1])


def test_a_marker_without_an_end_is_named_and_nothing_written(store, call):
    readme = store.root / "README.md"
    text = "<!-- leaderboard: digits stratified -->\nmine\n<!-- ablations: digits stratified -->\n<!-- end -->\n"
    readme.write_text(text)
    code, _, err = call(report.main, f"paths.results={store.root}", f"readme={readme}")
    assert code == 2
    assert err.endswith("<!-- leaderboard: digits stratified --> has no <!-- end --> of its own\n")
    assert readme.read_text() == text


def test_damaged_predictions_are_named_and_the_leaderboard_is_made_without_them(store, call):
    (record,) = (record for record in store.load_all() if record.dataset == "digits")
    (store.path(record.run_id) / "predictions.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match="predictions.npz: is damaged"):
        code, out, _ = call(report.main, f"paths.results={store.root}")
    assert code == 0
    assert "lenet" in out


def test_a_folder_without_records_is_named(tmp_path, call):
    code, _, err = call(report.main, f"paths.results={tmp_path}")
    assert (code, err) == (2, f"bench-report: paths.results={tmp_path}: contains no finished runs\n")


def test_help_is_printed(call):
    code, out, _ = call(report.main, "--help")
    assert code == 0
    assert "paths.results" in out


def test_the_page_is_written_and_without_plotly_it_is_told_what_to_install(store, call, monkeypatch):
    pytest.importorskip("plotly")
    code, out, _ = call(report.main, f"paths.results={store.root}")
    assert (code, (store.root / "report.html").exists()) == (0, True)
    assert str(store.root / "report.html") in out.replace("\n", "")
    (store.root / "report.html").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, _ = call(report.main, f"paths.results={store.root}")
    assert code == 0
    assert "no report.html: needs plotly; pip install 'convbench[report]'" in out
    assert not (store.root / "report.html").exists()


def test_figures_are_written_and_without_matplotlib_it_is_told_what_to_install(store, call, monkeypatch):
    pytest.importorskip("matplotlib")
    (store.root / "figures").mkdir()
    for name in ("digits-official-curves.png", "mine.png"):  # one of runs that are gone; one of the user's own
        (store.root / "figures" / name).touch()
    code, out, _ = call(report.main, f"paths.results={store.root}")
    assert code == 0
    assert str(store.root / "figures") in out.replace("\n", "")
    assert {file.name for file in (store.root / "figures").iterdir()} == {
        "mine.png",
        *(f"{data}-stratified-cost.{kind}" for data in ("digits", "cifar10") for kind in ("svg", "png")),
    }
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else there(name))
    code, out, _ = call(report.main, f"paths.results={store.root}")
    assert code == 0
    assert "no new figures: needs matplotlib; pip install 'convbench[report]'" in out
