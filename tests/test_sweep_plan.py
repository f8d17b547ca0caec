"""A sweep before its first cell: composed, checked, and refused if it cannot be."""

import shlex

import pytest
from common import SHORT, files, one_line

from bench import resolvers, train
from bench.config import CONF
from bench.store import Store


def test_a_sweep_looks_at_a_folder_of_images_a_few_times_only(bench, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "data/pets/train" / name).mkdir(parents=True)
    looked = []
    monkeypatch.setattr(resolvers, "_content", lambda root: looked.append(root) or "0123456789")
    settings = ("-m", "model=lenet", "seed=0,1,2,3,4,5", "data=folder", "data.name=pets", f"paths.data={tmp_path}/data")
    code, out, _ = bench(*settings, "progress=none")  # there are no images
    assert (code, out.count("failed: ")) == (1, 6)
    assert len(looked) == 2  # the plan's, and the launcher's


def test_a_run_looks_at_a_folder_of_images_once(bench, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "data/pets/train" / name).mkdir(parents=True)
    looked = []
    monkeypatch.setattr(resolvers, "_content", lambda root: looked.append(root) or "0123456789")
    code, _, err = bench("model=lenet", "data=folder", "data.name=pets", f"paths.data={tmp_path}/data", "progress=none")
    assert (code, len(looked)) == (2, 1)
    assert "has no images" in err


def test_a_sweeps_folder_is_new(bench, tmp_path):
    place = tmp_path / "results/sweeps/mine"
    place.mkdir(parents=True)
    code, _, err = bench("-m", "model=lenet", f"hydra.sweep.dir={place}", "progress=none")
    assert (code, err) == (2, f"bench: hydra.sweep.dir={place}: exists already; name a new folder\n")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["hydra.sweep.dir=elsewhere"], "hydra.sweep.dir=elsewhere: must be a new folder in "),
        (["hydra.sweeper._target_=their.Sweeper"], "hydra/sweeper: their.Sweeper has cells that are not known"),
        (["hydra.sweeper.max_batch_size=1"], "hydra.sweeper.max_batch_size=1: must be null"),
        (
            ["hydra/launcher=basic"],
            "hydra/launcher: hydra._internal.core_plugins.basic_launcher.",
        ),
        (
            ["hydra/launcher=ray", "+hydra.launcher.gpus=1"],
            "hydra.launcher.gpus: no such setting; available: ",
        ),
        (["hydra/launcher=slurm", "hydra.launcher.additional_parameters=null"], "must be a mapping, such as {account"),
        (
            ["trainer.accelerator=cpu,auto"],
            "bench: trainer.accelerator=auto: the same run as trainer.accelerator=cpu, as results do not depend on it",
        ),
        (
            ["optimizer.lr=0.1,0.1"],
            "model=lenet seed=0 optimizer.lr=0.1 paths.results=results: the sweep has this run twice",
        ),
        (["seed=range(3,3)"], "seed=range(3,3): has no values, so that there would be no cells"),
        (["model=glob(goglenet*)"], "model=glob(goglenet*): has no values"),
        (["+vars={1:a,b:c}"], "a setting cannot be recorded, such as keys that are partly text"),
    ],
)
def test_what_no_sweep_can_do_is_refused_and_nothing_written(bench, tmp_path, monkeypatch, settings, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = bench("-m", "model=lenet", "seed=0,1", *settings, results="results")
    assert code == 2
    assert said in one_line(err)
    assert files(tmp_path) == []


def test_a_sweep_has_one_folder(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = bench("-m", "model=lenet", results="a,b")
    assert code == 2
    assert "paths.results=a: a sweep has one folder, not one for each cell" in one_line(err)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("no cluster"), "no cluster"),
        (RuntimeError("Version mismatch:\n    Ray: 2.9\n"), "Version mismatch: Ray: 2.9"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_told_and_leaves_no_sweep(bench, tmp_path, monkeypatch, error, said):
    ray = pytest.importorskip("ray")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    code, _, err = bench("-m", "model=lenet", "hydra/launcher=ray", "hydra.launcher.address=auto")
    assert code == 2
    assert err == f"bench: hydra.launcher: {said}\n"
    assert not list((tmp_path / "results/sweeps").iterdir())


def test_cells_are_composed_of_ones_own_configurations_too(bench, tmp_path, monkeypatch):
    (tmp_path / "conf/model").mkdir(parents=True)
    own = (CONF / "model/lenet.yaml").read_text().replace("name: lenet", "name: mine")
    (tmp_path / "conf/model/mine.yaml").write_text(own)
    where = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    code, out, err = bench("-m", where, "model=mine,lenet", *SHORT, "progress=none")
    assert code == 0, out + err
    assert {record.model for record in Store(tmp_path / "results").load_all()} == {"mine", "lenet"}

    def broken(*_):
        raise RuntimeError("broken since")

    with monkeypatch.context() as once:
        once.setattr(train, "build", broken)
        code, out, _ = bench("-m", where, "model=mine,lenet", "seed=1", *SHORT, "progress=none")
    assert code == 1
    again = next(line for line in out.splitlines() if "again: bench" in line and "model=mine" in line)
    code, out, err = bench(*shlex.split(again)[2:])
    assert code == 0, out + err


def test_a_wrong_cell_is_refused_before_any_cell_runs(bench, tmp_path):
    for wrong in (
        ["model=lenet,letnet"], ["model=lenet", "trainer.max_epochs=1,-1"], ["model=lenet", "sed=1,2"],
        ["scheduler.warmup=0.3,5"], ["data.image_size=32,12"], ["model=nin", "model.net.dropout=0.5,2"],
        ["augment=[mixup,cutmix],crop"], ["augment=cutout", "augment.cutout.length=4,2.5"],
        ["model=lenet", "data.train_image_size=32,24"],
    ):  # fmt: skip
        code, _, err = bench("-m", *wrong)
        assert code == 2
        one_line(err)
    assert not (tmp_path / "results").exists()
