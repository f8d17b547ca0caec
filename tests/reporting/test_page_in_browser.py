"""report.html in a headless browser."""

import json
import re
import shutil

import pytest
from common import record_of

pytest.importorskip("plotly")

from pages import CLASSES, built

from bench import report
from bench.reporting import page, stats
from bench.reporting.leaderboard import tables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(store):
    """The page opened from disk in a headless browser, which keeps a log of its console and of its requests."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    file = store.root / "report.html"
    file.write_text(built(store))
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.get(file.as_uri())
    yield opened
    opened.quit()


def until(browser, true):
    """Wait for what the page does in an event of its own, which may come after the click returns."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda _: true())


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def choose(browser, name, text):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_visible_text(text)


def models(browser):
    return [row.text.split()[1] for row in all_of(browser, "#rows tbody tr")]


def test_in_a_browser_the_leaderboard_is_sorted_and_filtered(browser):
    choose(browser, "table", "digits (stratified)")
    assert models(browser) == ["vgg16", "nin", "lenet"]
    (button,) = all_of(browser, "#rows button[data-key=params]")
    button.send_keys("\n")  # by keyboard
    assert models(browser) == ["vgg16", "nin", "lenet"]
    all_of(browser, "#rows button[data-key=params]")[0].click()
    assert models(browser) == ["lenet", "nin", "vgg16"]
    assert all_of(browser, "#rows th[aria-sort=descending]")[0].text == "params ▼"
    field = browser.find_element("id", "filter")
    field.send_keys("NIN")
    assert models(browser) == ["nin"]
    assert "1 of 3 rows shown" in browser.find_element("id", "caption").text
    field.clear()
    field.send_keys(" ")
    assert len(models(browser)) == 3


def test_in_a_browser_the_mean_over_classes_is_told_where_they_differ_in_size(browser):
    choose(browser, "table", "digits (stratified)")
    all_of(browser, "#rows button[data-key=test_class_mean]")[0].click()
    assert all_of(browser, "#rows th[aria-sort=descending]")[0].text == "test class mean ▼"
    choose(browser, "table", "digits (other)")
    assert not all_of(browser, "#rows button[data-key=test_class_mean]")
    assert all_of(browser, "#rows th[aria-sort=ascending]")[0].text == "# ▲"


def test_in_a_browser_curves_go_over_epochs_that_were_not_validated(browser):
    choose(browser, "table", "digits (other)")
    (trace,) = browser.execute_script("return document.getElementById('curve-chart').data")
    assert (trace["x"], trace["y"], trace["connectgaps"]) == ([1, 2, 3], [60, None, 80], True)


def test_in_a_browser_curves_of_very_different_lengths_go_over_the_share_of_the_run(browser, store, tmp_path):
    records = [record_of("lenet", run_id="long"), record_of("nin", run_id="short")]
    for record, epochs in zip(records, (10, 2), strict=True):
        lines = [f"{epoch},0.5,0.1" for epoch in range(1, epochs + 1)]
        (tmp_path / record.run_id).mkdir()
        (tmp_path / record.run_id / "metrics.csv").write_text("\n".join(["epoch,val_top1,train_loss", *lines]))
    file = tmp_path / "report.html"
    file.write_text(page.build(tables(records), records, {}, tmp_path))
    before = browser.current_url
    browser.get(file.as_uri())
    chart = browser.execute_script(
        "const c = document.getElementById('curve-chart');"
        "return [c.data.map((line) => [line.x, line.text]), c.layout.xaxis.title.text]"
    )
    browser.get(before)
    longer, shorter = ([list(range(10, 101, 10)), list(range(1, 11))], [[50, 100], [1, 2]])
    assert sorted(chart[0]) == sorted([longer, shorter])
    assert chart[1] == "% of the run's epochs"


def test_in_a_browser_a_run_opens_with_its_charts_and_mistakes(browser, store):
    name = "digits-lenet-s1-0123456789"
    choose(browser, "table", "digits (stratified)")
    browser.find_element("css selector", f'a[href="#{name}"]').click()
    body = browser.find_element("id", name)
    until(browser, lambda: body.get_attribute("open"))
    until(browser, lambda: len(body.find_elements("css selector", ".js-plotly-plot")) == 4)
    one = report.predictions_of(store, store.load_all())[name]
    matrix = stats.confusion(one.labels, one.predicted, 3)
    body.find_element("css selector", ".classes summary").click()
    lines = [row.text for row in body.find_elements("css selector", ".classes tbody tr")]
    assert lines[0] == f"{CLASSES[0]} {matrix[0].sum()} {100 * matrix[0, 0] / matrix[0].sum():.1f} dog ({matrix[0, 1]})"
    assert len(lines) == 3
    tiles = body.find_elements("css selector", ".tiles li")
    assert len(tiles) == 16
    assert any("<b>cat</b>" in tile.text for tile in tiles)
    failed = browser.find_element("id", "digits-nin-s7-0123456789")
    failed.find_element("css selector", "summary").click()
    until(browser, lambda: "failed: ValueError: </script> no" in failed.text)
    assert "resumed from cpu, 32-true, Zen (AVX2) of node7, PyTorch 2.7.0, git abc" in failed.text


def test_in_a_browser_two_runs_are_compared_by_scipys_p_value(browser, store):
    one, other = "digits-lenet-s0-0123456789", "digits-nin-s0-0123456789"
    choose(browser, "first", one)
    choose(browser, "second", other)
    predictions = report.predictions_of(store, store.load_all())
    result = stats.mcnemar(predictions[one].correct, predictions[other].correct)
    told = browser.find_element("id", "verdict").text
    p = re.search(r"p = ([0-9.e-]+),", told)[1]
    assert float(p) == pytest.approx(result.p, rel=0.06 if "e" in p else 0, abs=5.1e-5)
    rows = [row.text for row in all_of(browser, "#comparison tr")]
    assert f"only the first right {result.only_first}" in rows
    assert f"only the second right {result.only_second}" in rows
    choose(browser, "second", "digits-lenet-s0-fedcba9876")
    assert "different protocols" in browser.find_element("id", "verdict").text
    choose(browser, "second", one)
    assert browser.find_element("id", "comparison").text == "Choose two different runs."


def test_in_a_browser_a_row_keeps_its_colour_whatever_is_shown(browser):
    def colours(chart, of):
        traces = browser.execute_script(f"return document.getElementById('{chart}').data")
        return {trace["name"]: trace[of]["color"] for trace in traces}

    choose(browser, "table", "digits (stratified)")
    before = colours("cost-chart", "marker")
    assert len(set(before.values())) == len(before) == 3
    assert colours("curve-chart", "line").items() <= before.items()
    field = browser.find_element("id", "filter")
    field.send_keys("nin")
    assert colours("cost-chart", "marker") == {"nin": before["nin"]}
    field.clear()
    field.send_keys(" ")


def test_in_a_browser_the_meaning_of_bars_is_told(browser):
    choose(browser, "table", "digits (stratified)")
    assert browser.find_element("id", "bars").text == "Bars: 95 % intervals."
    choose(browser, "table", "digits (other)")
    alone = "Bars: 95 % intervals, with n = 1 of the test images alone, not of seeds."
    assert browser.find_element("id", "bars").text == alone


def test_in_a_browser_the_charts_of_many_rows_have_room(browser, store, tmp_path):
    records = [record_of(f"net{i}", test=i / 100, params=i) for i in range(1, 101)]
    file = tmp_path / "report.html"
    file.write_text(page.build(tables(records), records, {}, store.root / "runs"))
    before = browser.current_url
    browser.get(file.as_uri())
    height = browser.execute_script(
        "const c = document.getElementById('cost-chart'); return c._fullLayout._size.h / c.clientHeight"
    )
    one, bars = (browser.find_element("id", name).text for name in ("comparison", "bars"))
    browser.get(before)
    assert height > 0.5
    assert one == "There are no two runs with predictions."
    assert bars == ""


def test_in_a_browser_both_themes_and_a_phones_width_work_without_errors_or_network(browser, store):
    def background():
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    before = background()
    browser.find_element("id", "theme").click()
    assert background() != before
    device = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    width = "return document.documentElement.scrollWidth"
    until(browser, lambda: browser.execute_script(width) <= 390)  # charts follow in a moment
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert (store.root / "report.html").as_uri() in asked  # the log works
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
