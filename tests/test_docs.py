"""The manual: links lead somewhere, commands compose."""

import re
import shlex
from collections import Counter

import pytest
from common import SHORT

import bench as package
from bench import cli, config
from bench.store import Store

ROOT = config.PACKAGE.parent
PAGES = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "results/README.md") if page.exists()]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LIKE_BENCH = ("bench", "bench-data", "bench-profile")
"""Commands whose arguments are settings of a run, except OWN."""
OWN = ("out", "format", "batches")

pytestmark = pytest.mark.skipif(not PAGES, reason="an installed package comes without")


def anchors(page):
    """The headings of a page, as links name them; those that are there again with a number."""
    seen = Counter()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        yield f"{name}-{seen[name]}" if seen[name] else name
        seen[name] += 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        to = page.parent / path if path else page
        if "results/" in path and not (ROOT / "results").exists():
            continue  # a source distribution comes without
        assert to.exists(), link
        assert not anchor or anchor in anchors(to), link


def choices(setting):
    """The settings that one of a sweep stands for."""
    name, _, values = setting.partition("=")
    return [setting] if "[" in values else [f"{name}={value}" for value in values.split(",")]


def commands():
    """The settings of each command that takes those of a run, without flags; of a sweep, of cells that have all."""
    for page in PAGES:
        for line in "\n".join(BLOCK.findall(page.read_text())).splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program in LIKE_BENCH and "--config-dir" not in line:
                settings = [one for one in arguments if "=" in one and one.partition("=")[0] not in OWN]
                each = [choices(one) for one in settings]
                yield from ([c[min(i, len(c) - 1)] for c in each] for i in range(max(map(len, each), default=1)))


def test_the_commands_are_found():
    assert len(list(commands())) > 25


@pytest.mark.parametrize("settings", list(commands()), ids=" ".join)
def test_commands_compose_and_are_of_settings_that_are_allowed(settings):
    cfg = cli.composed(settings)
    assert cfg.model.net
    if "data=folder" not in settings:  # whose images are the reader's
        config.check(cfg)


def test_the_readmes_network_of_ones_own_trains(bench, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    (code,), (settings,) = (re.findall(rf"^```{kind}\n(.*?)^```", readme, re.M | re.S) for kind in ("python", "yaml"))
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mynet.yaml").write_text(settings.replace("bench.models.mynet.", "mynet."))
    (tmp_path / "mynet.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    status, *_ = bench(f"--config-dir={tmp_path / 'conf'}", "model=mynet", *SHORT, "trainer.max_epochs=5")
    assert status == 0
    (record,) = Store(tmp_path / "results").load_all()
    assert record.metrics["val"]["top1"] > 0.5  # a tenth is chance


def test_one_can_cite_the_version_there_is():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {package.__version__}" in citation.splitlines()
