"""The ``bench-profile`` command."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import profile
from bench.errors import MeasureError
from bench.explain import options
from bench.models.lenet import LeNet
from bench.profile import main
from bench.speed import batches

IMAGENET = ("data.image_size=224", "data.num_classes=1000")


@pytest.fixture
def bench_profile(call, monkeypatch, tmp_path):
    """Call the command in a folder of the test's own, where there are no images: arguments → code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nowhere"))
    return lambda *arguments: call(main, *arguments)


def markdown_rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table; its title and notes aside."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]


def test_googlenet_as_a_table_of_80_columns(bench_profile):
    code, out, err = bench_profile("model=googlenet", *IMAGENET)
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "…" not in out
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("googlenet, 224×224×3, 1,000 classes")
    assert ["stem.0", "conv", "7×7/2", "112×112×64", "9,472", "118,013,952"] in lines
    assert ["stem.3", "LRN", "5", "56×56×64", "0", "0"] in lines
    assert ["inception.3a.branch5.2", "conv", "5×5/1", "28×28×32", "12,832", "10,035,200"] in lines
    assert ["classifier.2", "linear", "1000", "1,025,000", "1,024,000"] in lines
    assert lines[-1] == ["total", "6,998,552", "1,582,671,872"]


def test_the_largest_numbers_fit_too(bench_profile):
    _, out, _ = bench_profile("model=vgg19_bn", *IMAGENET)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert out.splitlines()[-1].split() == ["total", "143,672,744", "19,632,062,464"]


def test_csv_has_the_numbers_in_full(bench_profile):
    code, out, _ = bench_profile("model=alexnet", *IMAGENET, "format=csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["layer", "kind", "kernel/stride", "output", "params", "MACs"]
    assert [row["output"] for row in rows if row["kind"] == "conv"] == [
        "55×55×96", "27×27×256", "13×13×384", "13×13×384", "13×13×256",
    ]  # fmt: skip
    assert sum(int(row["params"]) for row in rows) == 60_965_224
    assert sum(int(row["MACs"]) for row in rows) == 724_406_816


def test_markdown_has_as_many_cells_in_every_row(bench_profile):
    code, out, _ = bench_profile("model=vgg16", *IMAGENET, "format=markdown")
    assert code == 0
    header, bar, *rows = markdown_rows(out)
    assert header == ["layer", "kind", "kernel/stride", "output", "params", "MACs"]
    assert bar == ["---", "---", "---", "---", "--:", "--:"]
    assert {len(row) for row in rows} == {6}
    assert rows[0] == ["features.0", "conv", "3×3/1", "224×224×64", "1,792", "86,704,128"]
    assert rows[-1] == ["total", "", "", "", "138,357,544", "15,470,264,320"]


@pytest.mark.parametrize(
    ("arguments", "file", "begins"),
    [
        ([], "layers.csv", "layer,kind,"),
        ([], "layers.MD", "lenet, 32×32×3, 10 classes:\n\n| layer | kind |"),
        ([], "layers.txt", "lenet, 32×32×3, 10 classes  "),
        (["format=csv"], "layers.csv", "layer,kind,"),
    ],
)
def test_a_file_is_in_the_format_of_its_suffix(bench_profile, arguments, file, begins):
    code, out, _ = bench_profile(*arguments, f"out={file}")
    assert (code, out) == (0, f"written: {file}\n")
    assert Path(file).read_text(encoding="utf-8").startswith(begins)


@pytest.mark.parametrize("data", ["cifar10", "flowers102", "flowers17"])
def test_no_images_are_needed(bench_profile, data):
    code, _, err = bench_profile(f"data={data}")
    assert (code, err) == (0, "")
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_is_not_there_needs_a_number_of_classes(bench_profile):
    code, out, _ = bench_profile("data=folder", "data.num_classes=7")
    assert code == 0
    assert out.startswith("lenet, 64×64×3, 7 classes")
    code, _, err = bench_profile("data=folder", "data.name=pets")
    assert code == 2
    assert err.startswith("bench-profile: data.num_classes: must be set where there are no images (")
    assert len(err.splitlines()) == 1


class Reading(LeNet):
    """A network that reads values as it is made, as those with a probability for each layer do."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]


@pytest.mark.parametrize("more", [(), ("--measure", "batches=1", "trainer.accelerator=cpu")])
def test_a_network_that_reads_values_is_counted_too(bench_profile, monkeypatch, more):
    def nobody(*_):
        raise MeasureError("nobody")

    monkeypatch.setattr(batches, "Contestant", nobody)
    settings = ("data=cifar10", "model=lenet", f"model.net._target_={__name__}.Reading")
    code, out, err = bench_profile(*settings, *more)
    assert (code, err) == ((1, "bench-profile: lenet: nobody\n") if more else (0, ""))
    assert more or "62,006" in out


def test_a_mistake_in_a_models_configuration_is_laid_to_it(bench_profile):
    code, _, err = bench_profile("model.net.image_size=${data.imagesize}")
    assert code == 2
    assert "data.imagesize" in err
    assert "num_classes" not in err


@pytest.mark.parametrize("style", ["table", "csv", "markdown"])
def test_all_models_are_in_one_table_with_the_reason_where_there_are_no_numbers(bench_profile, monkeypatch, style):
    monkeypatch.setitem(sys.modules, "timm", None)  # not installed
    names = options("model")
    if style != "csv":  # once is enough for all of them
        names = [name for name in names if name in ("lenet", "vgg16") or name.startswith("timm/resnet")]
        monkeypatch.setattr(profile, "options", lambda group: names)
    code, out, err = bench_profile("--all", "data.image_size=28", f"format={style}")
    assert (code, err) == (0, "")
    if style == "csv":
        rows = {row["model"]: list(row.values()) for row in csv.DictReader(io.StringIO(out))}
        assert rows["lenet"] == ["lenet", "5", "44726", "454440", ""]
        assert rows["vgg16"] == ["vgg16", "", "", "", "image_size=28: VGG needs at least 32 pixels"]
        assert all("timm" in row[-1] for name, row in rows.items() if name.startswith("timm/"))
    elif style == "markdown":
        header, _, *cells = markdown_rows(out)
        assert header == ["model", "layers", "params", "MACs"]
        rows = {row[0]: row for row in cells}
        assert rows["lenet"] == ["lenet", "5", "44,726", "454,440"]
        assert rows["vgg16"] == ["vgg16", "–", "–", "–"]
        assert "\n- vgg16: image_size=28: VGG needs at least 32 pixels\n" in out
    else:
        assert all(len(line) <= 80 for line in out.splitlines())
        lines = [line.split() for line in out.splitlines()]
        rows = {line[0]: line for line in lines[2 : 2 + len(names)]}
        assert rows["lenet"] == ["lenet", "5", "44,726", "454,440"]
        assert rows["vgg16"] == ["vgg16", "–", "–", "–"]
        assert ["vgg16:", "image_size=28:", "VGG", "needs", "at", "least", "32", "pixels"] in lines
    assert list(rows) == names


def test_all_models_that_can_be_built_need_no_notes(bench_profile, monkeypatch):
    monkeypatch.setattr(profile, "options", lambda group: ["alexnet", "googlenet", "vgg16"])
    code, out, _ = bench_profile("--all", *IMAGENET, "format=csv")
    assert code == 0
    assert out.splitlines() == [
        "model,layers,params,MACs",
        "alexnet,8,60965224,724406816",
        "googlenet,58,6998552,1582671872",
        "vgg16,16,138357544,15470264320",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["format=xml"], "format=xml: choose one of table, csv, markdown"),
        (["out=nowhere/layers.csv"], "must end in .csv or .md or .txt, in a folder that exists"),
        (["out="], "out=: has no value"),
        (["out=layers"], "out=layers: must end in .csv or .md or .txt"),
        (["format=markdown", "out=layers.csv"], "format=markdown: out=layers.csv says csv; leave out one of them"),
        (["format="], "format=: has no value"),
        (["model=vgg16", "model.pretrained=bogus"], "model.pretrained=bogus: must be null or imagenet"),
        (["model=alexnet", "model.net.towers=true"], "towers=True: must be one of 1, 2"),
        (["model=nix"], "model=nix: no such option"),
        (["model=lenet,nin"], "model=lenet,nin: only works with --measure"),
        (["batches=4"], "batches=4: only works with --measure"),
        (["~model"], "model.net.num_classes=None"),
        (["lenet"], "lenet: write it as setting=value"),
        (["--nix"], "--nix: no such flag; see --help"),
        (["data.image_size=4"], "data.image_size=4: must be a whole number, 8 or more"),
        (["data.num_classes=many"], "data.num_classes=many: must be"),
        (["model.net.image_size=64"], "model.net.image_size=64: must be data.image_size, which is 32"),
        (["model=vgg16", "data.image_size=28"], "image_size=28: VGG needs at least 32 pixels"),
        (["model=vgg16", "model.net.depth=12"], "depth=12: must be one of"),
        (["--all", "model=vgg16"], "model=vgg16: --all has every model"),
        (["--all", "data.image_size=4"], "data.image_size=4: must be"),
    ],
)
def test_a_mistake_is_told_in_a_line(bench_profile, arguments, said):
    code, out, err = bench_profile(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("bench-profile: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_network_that_cannot_take_the_images_is_told_in_a_line(bench_profile, monkeypatch):
    from bench.models.lenet import LeNet

    def forward(self, images):
        raise RuntimeError("Output size is too small\nand more")

    monkeypatch.setattr(LeNet, "forward", forward)
    code, _, err = bench_profile("model=lenet")
    assert (code, err) == (2, "bench-profile: lenet, 32×32×3, 10 classes: RuntimeError: Output size is too small\n")


def test_help_and_mistakes_do_not_wait_for_pytorch():
    program = """
import sys
from bench.profile import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 2
assert "torch" not in sys.modules
"""
    for argument, said in (("--help", "bench-profile --all"), ("model=nix", "no such option")):
        done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout + done.stderr
