"""Growth, measured on a few images: what is told, not how fast it is."""

import json

import pytest

pytest.importorskip("matplotlib")

from hydra.utils import instantiate

from bench import cli
from bench.errors import MeasureError
from bench.reporting.drawing import COLORS
from bench.speed import growth
from bench.speed.__main__ import main


def test_megapixels_are_told_where_images_grow():
    point = {"images_per_s": 1000.0, "peak_bytes": 2**30}
    assert growth.row(growth.AXES[0], 128, point) == ["128", "1,000", "1,024"]
    assert growth.row(growth.AXES[1], 64, point) == ["64", "1,000", "4.10", "1,024"]


def test_every_point_trains_as_large_as_it_says_in_whole_batches():
    for axis in growth.AXES:
        for point in axis.points:
            for name in growth.MODELS:
                images = growth.epoch(axis, name, point, faster=1)
                job = growth.Job((f"model={name}", *point.settings), images, 1)
                _, resolved = job.configured()
                data = resolved["data"]
                told = {"batch size": data["batch_size"], "image side, pixels": data["image_size"]}
                assert point.at == told.get(axis.title, images)
                assert data["batch_size"] == point.batch
                assert axis is growth.AXES[-1] or images % point.batch == 0


def test_epochs_are_as_much_longer_as_the_machine_is_faster():
    assert [growth.times_faster(flops) for flops in (2e11, 1e12, 4.2e12, 3e14)] == [1, 1, 4, growth.MOST]
    sizes, *_, images = growth.AXES
    point = sizes.points[2]
    assert growth.epoch(sizes, "lenet", point, faster=4) == 4 * growth.epoch(sizes, "lenet", point, faster=1)
    assert growth.epoch(images, "lenet", images.points[0], faster=4) == images.points[0].at


def test_a_network_is_the_same_on_all_images_it_is_shown():
    for name, largest in growth.MODELS.items():
        small, large = (
            instantiate(cli.composed([f"model={name}", "data=cifar10", f"data.image_size={side}"]).model.net)
            for side in (32, largest)
        )
        assert [p.shape for p in small.features.parameters()] == [p.shape for p in large.features.parameters()]


def test_what_cannot_be_measured_is_told_and_the_rest_is_published(call, tmp_path, monkeypatch):
    def grow(name, axis, shared, faster):
        if axis is growth.AXES[-1] or name == ("nin_bn" if axis is growth.AXES[0] else "lenet"):
            raise MeasureError("killed")
        return {point.at: {"images_per_s": 1000.0, "peak_bytes": 2**30} for point in axis.points}

    monkeypatch.setattr(growth, "grow", grow)
    monkeypatch.setattr(growth, "ceiling", lambda device: 1e12)
    code, _, err = call(main, "growth", "trainer.accelerator=cpu", f"paths.results={tmp_path}")
    assert code == 1
    assert err.splitlines() == [
        "bench-speed: nin_bn, batch size: killed",
        "lenet, image side, pixels: killed",
        "lenet, images of the data set: killed",
    ]
    assert list(json.loads((tmp_path / "speed/growth.json").read_text())["results"]) == [
        "batch size", "image side, pixels",
    ]  # fmt: skip
    told = (tmp_path / "speed/growth.md").read_text()
    assert "\nNot measured: lenet, image side, pixels: killed.\n" in told
    figure = (tmp_path / "speed/growth.svg").read_text()
    assert "image side, pixels" in figure
    assert "images of the data set" not in figure
    assert all(figure.count(f"stroke: {color.lower()}") > 2 for color in COLORS[:2])  # one is alone in a panel
    assert all(f">{name}</text>" in figure for name in growth.MODELS)  # in the legend


@pytest.mark.slow
def test_a_table_and_a_figure_are_written(forked, call, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "ROUNDS", 1)
    monkeypatch.setattr(growth, "MODELS", {"lenet": 224})
    sizes = growth.Axis("images of the data set", "images", tuple(growth.Point(n, (), 128, n) for n in (300, 600)))
    sides = growth.Axis("image side, pixels", "pixels", (growth.Point(32, ("data.image_size=32",), 128, 256),))
    monkeypatch.setattr(growth, "AXES", (sides, sizes))
    monkeypatch.setattr(growth, "ceiling", lambda device: 1e12)
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
