"""Named sweeps: the cells that each is composed of."""

import json

import pytest
from common import files, one_line
from hydra import compose
from omegaconf import OmegaConf

from bench import sweep, train
from bench.config import CONF
from bench.explain import options

FAMILY = [name for name in options("model") if "/" not in name and not name.endswith("_torchvision")]


@pytest.fixture
def planned(bench, tmp_path, monkeypatch):
    """The run ids of the cells of a call with ``-m``, none of which is run; and its exit code, output and errors."""

    def refuse(*_):
        raise RuntimeError("not in this test")

    def call(*arguments):
        monkeypatch.setattr(train, "build", refuse)
        answer = bench("-m", *arguments, "progress=none")
        plans = sorted((tmp_path / "results/sweeps").glob("*/plan.json"))
        return (json.loads(plans[-1].read_text())["cells"] if plans else []), answer

    return call


@pytest.mark.parametrize("name", options("sweep"))
def test_every_named_sweep_is_composed_of_cells_that_differ(name, composed):
    assert composed(f"+sweep={name}") == composed()  # it chooses cells, and leaves each as it is
    master = compose("config", [f"+sweep={name}", "data=digits"], return_hydra_config=True)
    assert master.hydra.sweeper.params.seed == "0,1,2"
    master.hydra.sweeper.params.seed = "7"
    cells = sweep.plan(master)
    assert {cell.rpartition("-s")[2][0] for cell in cells} == {"7"}
    assert len(set(cells)) == len(cells)
    sizes = {"five": 5, "family": len(FAMILY), "ablation_aux": 4, "ablation_bn": 8, "optimizers": 10}
    assert len(cells) == sizes[name]


def test_the_family_is_every_network_but_torchvisions_forms_and_those_of_timm():
    family = OmegaConf.load(CONF / "sweep/family.yaml").hydra.sweeper.params.model.split(",")
    assert sorted(family) == FAMILY


def test_a_named_sweep_is_narrowed_by_settings(planned):
    cells, (code, out, _) = planned("+sweep=five", "model=lenet,nin", "seed=7", "trainer.max_epochs=1")
    assert [cell.rpartition("-")[0] for cell in cells] == ["digits-lenet-s7", "digits-nin-s7"]
    assert code == 1
    assert "2 cells, records in" in out


def test_a_named_sweep_leaves_each_cell_as_it_is_without_it(bench, tmp_path):
    file = tmp_path / "conf/sweep/mine.yaml"
    file.parent.mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\ntrainer:\n  max_epochs: 3\n"
    file.write_text(text)
    code, _, err = bench("-m", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "+sweep=mine", "model=lenet")
    assert code == 2
    assert "+sweep=mine: may set hydra.sweeper.params alone" in one_line(err)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+sweep=five"], "+sweep=five: a sweep needs -m: bench -m …"),
        (["-m", "+sweep=nope"], "sweep=nope: no such option; choose one of ablation_aux, ablation_bn, family, five"),
        (["-m", "sweep=five"], "sweep: must be added as +sweep=…; available: ablation_aux"),
    ],
)
def test_a_mistake_with_a_named_sweep_is_told_in_a_line(bench, tmp_path, arguments, said):
    code, _, err = bench(*arguments)
    assert code == 2
    assert said in one_line(err)
    assert files(tmp_path) == []
