"""Growth, measured on a few images: what is told, not how fast it is."""

import json

import pytest

pytest.importorskip("matplotlib")

from bench.speed import growth
from bench.speed.__main__ import main


def test_megapixels_are_told_where_images_grow():
    point = {"images_per_s": 1000.0, "peak_bytes": 2**30}
    assert growth.row(growth.AXES[0], 128, point) == ["128", "1,000", "1,024"]
    assert growth.row(growth.AXES[1], 64, point) == ["64", "1,000", "4.10", "1,024"]


def test_every_point_of_an_axis_trains_on_the_settings_it_names():
    for axis in growth.AXES:
        for at, settings, images in axis.points:
            assert images == at if axis is growth.AXES[-1] else settings[0].endswith(f"={at}")


@pytest.mark.slow
def test_a_table_and_a_figure_are_written(call, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "ROUNDS", 1)
    monkeypatch.setattr(growth, "MODELS", ("lenet",))
    sizes = growth.Axis("images of the data set", "images", ((300, (), 300), (600, (), 600)))
    sides = growth.Axis("image side, pixels", "pixels", ((32, ("data.image_size=32",), 256),))
    monkeypatch.setattr(growth, "AXES", (sides, sizes))
    code, out, err = call(main, "growth", "trainer.accelerator=cpu", f"paths.results={tmp_path}")
    assert (code, err) == (0, "")
    assert "written: " in out
    measured = json.loads((tmp_path / "speed/growth.json").read_text())["results"]
    assert list(measured["images of the data set"]["lenet"]) == ["300", "600"]
    point = measured["image side, pixels"]["lenet"]["32"]
    assert point["images_per_s"] > 0
    assert point["peak_bytes"] > 100 * 2**20
    assert "image side, pixels" in (tmp_path / "speed/growth.svg").read_text()
    assert (tmp_path / "speed/growth.png").stat().st_size > 5000
