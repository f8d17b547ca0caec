"""The bench-look command; what it draws is tested in test_attention.py."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("captum")
pytest.importorskip("matplotlib")

from bench import inference, look
from bench.errors import ConfigError
from bench.saved import open_run


def test_the_command_draws_images_of_a_split_and_the_same_bytes_again(runs, call, tmp_path):
    folder = runs("model=lenet")
    arguments = [f"checkpoint={folder}", "samples=2", "class=7", f"out={tmp_path / 'a'}"]
    code, _, err = call(look.main, *arguments)
    assert (code, err) == (0, "")
    stems = ("filters", "attention", "features-1", "features-2")
    names = {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert {file.name for file in (tmp_path / "a").iterdir()} == names
    assert call(look.main, *arguments[:-1], f"out={tmp_path / 'b'}")[0] == 0
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "attention.svg").read_text()
    assert text.count("Grad-CAM, 7") == 2
    assert "lenet s0: where it looks" in text


def test_images_come_from_all_over_a_split(runs, call, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        look, "draw", lambda saved, pictures, chosen, label: drawn.append((len(pictures.names), chosen)) or {}
    )
    for samples in (1, 3, 100):
        call(
            look.main, f"checkpoint={runs('model=lenet', 'data.val_size=50')}", f"samples={samples}", f"out={tmp_path}"
        )
    assert drawn == [(50, [0]), (50, [0, 24, 49]), (50, list(range(50)))]


def test_images_of_ones_own_are_drawn_into_the_runs_folder(runs, call, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    folder = runs("model=lenet", "seed=1")
    (folder / "look").mkdir()
    for name in ("features-2.png", "features-2.svg", "features-mine.png"):  # of more images, earlier, and the user's
        (folder / "look" / name).touch()
    code, _, err = call(look.main, f"checkpoint={folder}", str(tmp_path / "a.png"))
    assert (code, err) == (0, "")
    shown = {file.name for file in (folder / "look").glob("features-*")}
    assert shown == {"features-1.svg", "features-1.png", "features-mine.png"}


def test_images_that_the_run_left_out_are_left_out(runs):
    saved = open_run(runs("model=lenet", "data.on_error=skip"))

    def read(i):
        if i == 0:
            raise ValueError("no image")
        return Image.new("L", (8, 8))

    files = look.draw(saved, inference.Pictures("two", ["a", "b"], np.array([0, 1]), read), [0, 1], "")
    assert {"features-1.png", "features-2.png"} & {*files} == {"features-1.png"}
    with pytest.raises(ConfigError, match=r"^two: none of the 1 that were chosen can be read$"):
        look.draw(saved, inference.Pictures("two", ["a"], np.array([0]), read), [0], "")
    own = inference.Pictures("two", ["a", "b"], None, read)  # named on the command line
    with pytest.raises(ConfigError, match=r"^a: not a readable image \(no image\)"):
        look.draw(saved, own, [0, 1], "")


def test_more_images_than_fit_into_a_figure_are_refused(runs, call, tmp_path):
    for i in range(101):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
    code, _, err = call(look.main, f"checkpoint={runs('model=lenet')}", str(tmp_path))
    assert (code, err) == (2, f"bench-look: {tmp_path}: has 101 images; at most 100 are looked at\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "checkpoint: must name a run's directory"),
        (["checkpoint={run}", "class=rose"], "class=rose: the network knows 0, 1, 2"),
        (["checkpoint={run}", "samples=0"], "samples=0: must be a number from 1 to 100"),
        (["checkpoint={run}", "split=train"], "split=train: must be one of val, test"),
        (["checkpoint={run}", "split=test", "{run}"], "split=test: name either images or a split"),
        (["checkpoint={run}", "samples=2", "{run}"], "samples=2: name either images or a split"),
        (["checkpoint={run}", "no-such.png"], "no-such.png: no such file or folder"),
        (["checkpoint={run}", "~nobody-here/x.png"], "~nobody-here/x.png: no such user's home"),
        (["checkpoint={run}", "out={run}/record.json"], "record.json is not a folder"),
        (["checkpoint={run}", "{run}/record.json"], "record.json: not a readable image"),
        (["checkpoint={run},{other}"], "bench-look takes one network"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(runs, call, arguments, told):
    places = {"run": runs("model=lenet"), "other": runs("model=lenet", "seed=1")}
    code, _, err = call(look.main, *(argument.format(**places) for argument in arguments))
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (places["run"] / "look").exists()


def test_without_captum_it_says_what_to_install(runs, call, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = call(look.main, f"checkpoint={runs('model=lenet')}")
    assert code == 2
    assert "needs captum; pip install 'convbench[look]'" in err
