"""The bench-evaluate command."""

import csv
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import top_k_accuracy_score

from bench import evaluate, inference, predict
from bench.inference import Answers, Pictures
from bench.reporting import stats
from bench.saved import open_run


@pytest.fixture
def command(call):
    return lambda *arguments: call(evaluate.main, *arguments)


def rows(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


def test_the_papers_table_from_one_command(command, runs, tmp_path):
    two = [runs("model=lenet"), runs("model=lenet", "seed=1")]
    file = tmp_path / "table.csv"
    code, out, err = command(f"checkpoint={two[0]},{two[1]}", "split=test", "crops=1,2", f"out={file}")
    assert (code, err) == (0, "")
    assert "digits test, 1,500 images" in out
    assert max(map(len, out.splitlines())) <= max(80, len(f"written: {file}"))
    made = rows(file)
    assert [(row["network"], row["networks"], row["crops"]) for row in made] == [
        (name, count, crops)
        for name, count in (("lenet s0", "1"), ("lenet s1", "1"), ("all 2", "2"))
        for crops in ("1", "2")
    ]
    for row, folder in zip(made[::2], two, strict=False):
        record = json.loads((folder / "record.json").read_text())
        for name in ("top1", "top5"):
            assert float(row[name]) == pytest.approx(record["metrics"]["test"][name], abs=1e-6)
        assert float(row["macs"]) == record["macs"]
    assert float(made[1]["macs"]) == 2 * float(made[0]["macs"])
    assert float(made[5]["macs"]) == 4 * float(made[0]["macs"])
    assert float(made[5]["passes"]) == 4


def test_an_ensemble_is_the_average_by_hand(runs, tmp_path):
    networks = [open_run(runs("model=lenet")), open_run(runs("model=lenet", "seed=1"))]
    pictures = inference.of_split(networks[0], "test")
    table = evaluate.compare(networks, pictures, [2])
    softmax = [inference.answers(network, pictures, 2).probabilities for network in networks]
    mean = (softmax[0] + softmax[1]) / 2
    line = table.rows[2]
    assert line.top1 == (mean.argmax(axis=1) == pictures.labels).mean()
    assert line.top5 == pytest.approx(top_k_accuracy_score(pictures.labels, mean, k=5))
    assert line.interval.low < line.top1 < line.interval.high
    assert [line.passes, line.macs] == [table.rows[0].passes + table.rows[1].passes, 4 * 651_720]


def test_two_runs_of_one_name_are_told_apart_by_their_run_ids(command, runs):
    folders = [runs("model=lenet"), runs("model=lenet", "loss.label_smoothing=0.1")]
    code, out, _ = command(*(f"checkpoint={folder}" for folder in folders))
    assert code == 0
    for folder in folders:
        assert folder.name[-10:] in out.replace("\n", "")


def test_a_run_may_be_the_current_folder(runs, monkeypatch):
    monkeypatch.chdir(runs("model=lenet"))
    (network,) = evaluate.opened({"checkpoint": ["."]})
    assert network.name == "lenet s0"


def test_markdown_says_what_was_evaluated(command, runs, tmp_path):
    folder, file = runs("model=lenet"), tmp_path / "table.md"
    assert command(f"checkpoint={folder.parent}/digits-lenet-s0-{folder.name[-10:-2]}*", f"out={file}")[0] == 0
    text = file.read_text()
    assert text.startswith(f"digits val, 100 images: {folder.name}.\n\n| network | crops | top-1 |")
    assert "| lenet s0 | 1 | " in text


def test_images_that_cannot_be_read_count_where_the_run_skipped_them_and_stop_it_where_not():
    pictures = Pictures("two", ["a", "b"], np.array([0, 1]), lambda i: Image.new("RGB", (1, 1)))
    told = Answers(np.array([[np.nan, np.nan], [0.1, 0.9]]), {0: "broken"}, 1.0)
    line = evaluate.row("net", 1, [evaluate.readable(told, pictures, skip=True)], [7], pictures)
    assert (line.top1, line.macs) == (1.0, 7)
    with pytest.raises(evaluate.ConfigError, match=r"a: not a readable image \(broken\)"):
        evaluate.readable(told, pictures, skip=False)
    none = Answers(np.full((2, 2), np.nan), {0: "broken", 1: "broken"}, 0.0)
    with pytest.raises(evaluate.ConfigError, match="two: none of the images can be read"):
        evaluate.readable(none, pictures, skip=True)


def test_runs_of_a_pattern_that_have_not_finished_are_left_out_and_named(command, runs, tmp_path):
    (tmp_path / "lenet-s0").symlink_to(runs("model=lenet"))
    (tmp_path / ".lenet-s0.again").symlink_to(runs("model=lenet"))
    (tmp_path / "lenet-s1/checkpoints").mkdir(parents=True)
    code, out, err = command(f"checkpoint={tmp_path}/*")
    assert (code, err) == (0, "")
    assert "left out, as their runs have not finished: lenet-s1\n" in out
    code, _, err = command(f"checkpoint={tmp_path}/lenet-s1*")
    assert code == 2
    assert "lenet-s1: has no checkpoints/selected.ckpt, which a run has when it is finished" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "checkpoint: must name a run's directory"),
        (["checkpoint=no-such"], "checkpoint=no-such: no such file"),
        (["checkpoint=~nobody-here/x"], "checkpoint=~nobody-here/x: no such user's home"),
        (["checkpoint={run}", "images=~nobody-here/x"], "images=~nobody-here/x: no such user's home"),
        (["checkpoint={run}", "out=~nobody-here/x.md"], "out=~nobody-here/x.md: no such user's home"),
        (["checkpoint={run}", "split=train"], "split=train: must be one of val, test"),
        (["checkpoint={run}", "crops=3"], "crops=3: must be one of 1, 2, 5, 10, 144"),
        (["checkpoint={run}", "crops=1", "crops=2"], "crops=2: is given twice"),
        (["checkpoint={run}", "crop=1"], "crop=1: no such setting; write one of checkpoint=…"),
        (["checkpoint={run}", "out=x.png"], "out=x.png: must end in .md or .csv"),
        (["checkpoint={run}", "images=x", "split=val"], "split=val: images=x takes the place of a split"),
        (["checkpoint={run}", "images=no-such"], "images=no-such: no such folder"),
        (["checkpoint={run},{run}"], "is named twice"),
        (["checkpoint={run},{run}/checkpoints/selected.ckpt"], "selected.ckpt: is named twice"),
        (["checkpoint={run},{again}"], "has the run id of"),
        (["checkpoint={run}", "trainer.accelerator=tpu"], "trainer.accelerator=tpu: this machine has"),
        (["checkpoint={run},{other}"], "digits (stratified-test1400-val100) and digits (stratified-test1500-val100)"),
    ],
)
def test_mistakes_are_told_in_a_line(command, runs, tmp_path, arguments, told):
    places = {"run": runs("model=lenet"), "other": runs("model=lenet", "data.source.test_size=1400")}
    places["again"] = shutil.copytree(places["run"], tmp_path / "again")
    code, out, err = command(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("passes", "shown"), [(4.0, "4"), (145.6666, "145.7"), (1008.0, "1,008")])
def test_passes_are_shown_in_full(passes, shown):
    line = evaluate.Row("lenet", 1, 144, 0.5, stats.Interval(0.4, 0.6), 0.9, 0.1, passes, 651_720)
    assert evaluate.texts(line)[-2] == shown


def test_networks_of_other_classes_are_not_averaged(runs, monkeypatch):
    one, other = open_run(runs("model=lenet")), open_run(runs("model=lenet", "seed=1"))
    object.__setattr__(other, "classes", ("cat", "dog"))
    with pytest.raises(evaluate.ConfigError, match="lenet s1 knows other classes than lenet s0"):
        evaluate.check_alike([one, other], by_protocol=False)


def test_predictions_for_files(call, runs, tmp_path):
    Image.new("L", (8, 8), 200).save(tmp_path / "a=b.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    networks = [runs("model=lenet"), runs("model=lenet", "seed=1")]
    file = tmp_path / "out.csv"
    arguments = [*(f"checkpoint={network}" for network in networks), str(tmp_path), "crops=2", "top=3", f"out={file}"]
    code, out, err = call(predict.main, *arguments)
    assert code == 1
    assert err == f"bench-predict: {tmp_path}/broken.png: not a readable image (cannot identify image file " \
        f"'{tmp_path}/broken.png')\n"  # fmt: skip
    made = rows(file)
    image = inference.of_files([str(tmp_path / "a=b.png")])
    by_hand = np.mean([inference.answers(open_run(one), image, 2).probabilities[0] for one in networks], axis=0)
    assert [row["class"] for row in made] == [str(label) for label in np.argsort(-by_hand)[:3]]
    assert [float(row["probability"]) for row in made] == pytest.approx(sorted(by_hand)[:-4:-1])
    assert f"{tmp_path}/a=b.png\n  {max(by_hand):6.1%}  {by_hand.argmax()}\n" in out


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are no text")
def test_names_that_are_no_text_are_shown_escaped(call, runs, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / os.fsdecode(b"caf\xe9.png"))
    code, out, err = call(predict.main, f"checkpoint={runs('model=lenet')}", str(tmp_path), f"out={tmp_path / 'a.csv'}")
    assert (code, err) == (0, "")
    assert f"{tmp_path}/caf\\udce9.png\n" in out
    assert rows(tmp_path / "a.csv")[0]["image"] == f"{tmp_path}/caf\\udce9.png"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["checkpoint={run}"], "no images: name files or folders"),
        (["checkpoint={run}", "no-such.png"], "no-such.png: no such file or folder"),
        (["checkpoint={run}", "crop=3"], "crop=3: no such file or folder"),
        (["x.png"], "x.png: no such file or folder"),
        (["checkpoint={run}", "crops=1,10", "{run}/mistakes.webp"], "crops=1,10: must be one number"),
        (["checkpoint={run}", "top=0", "{run}/mistakes.webp"], "top=0: must be a number from 1 to 1000"),
        (["checkpoint={run}", "out=x.md", "{run}/mistakes.webp"], "out=x.md: must end in .csv"),
    ],
)
def test_mistakes_in_predictions_are_told_in_a_line(call, runs, arguments, told):
    code, out, err = call(predict.main, *(argument.format(run=runs("model=lenet")) for argument in arguments))
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
