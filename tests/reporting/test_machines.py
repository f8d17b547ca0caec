"""What a table tells of the machines its rows were trained on."""

import pytest

from bench.reporting import leaderboard, machines, render


def test_the_machine_is_told_or_that_there_are_several(make_record):
    def table(*cpus, **more):
        versions = {"torch": "2.0"}
        records = [
            make_record("lenet", i, hardware={"cpu": cpu, "cores": 2, "gpus": ["X", "X", "Y"]} | own, versions=versions,
                        run_id=f"digits-lenet-s{i}-0123456789", precision="bf16-mixed", device="2 × cuda",
                        config={"model": {"name": "lenet"}, "seed": i, "trainer": {"devices": 2}})
            for i, (cpu, own) in enumerate(zip(cpus, more.get("own", [{}] * len(cpus)), strict=True))
        ]  # fmt: skip
        (made,) = leaderboard.tables(records)
        return made

    assert table("A", "A").machine == "2 cores of A, 2 × X, PyTorch 2.0, bf16-mixed"
    assert f"; on {machines.OTHER_MACHINES}" in render.caption(table("A", "B"))
    vectors = [{"cpu_capability": name} for name in ("AVX2", "AVX512")]
    assert table("A", "A", own=vectors).machine == machines.OTHER_MACHINES  # of one name, in a row
    assert table("A", "A", own=vectors[:1] * 2).machine == "2 cores of A (AVX2), 2 × X, PyTorch 2.0, bf16-mixed"
    assert table("A", "A", "A", own=[*vectors, {}]).machine == machines.OTHER_MACHINES
    assert table("A", "A", own=[vectors[0], {}]).machine == "2 cores of A, 2 × X, PyTorch 2.0, bf16-mixed"
    assert "; on 2 cores of A, 2 × X, PyTorch 2.0, bf16-mixed" in render.caption(table("A"))


@pytest.mark.parametrize(("device", "devices", "told"), [("cuda", 1, ", 1 × X"), ("cpu", 1, ""), ("2 × cpu", 2, "")])
def test_gpus_that_a_run_has_not_used_are_not_told(make_record, device, devices, told):
    hardware = {"cpu": "A", "cores": 2, "gpus": ["X", "X"]}
    config = {"model": {"name": "lenet"}, "seed": 0, "trainer": {"devices": devices}}
    record = make_record(hardware=hardware, versions={"torch": "2.0"}, device=device, precision="32", config=config)
    (table,) = leaderboard.tables([record])
    assert table.machine == f"2 cores of A{told}, PyTorch 2.0, 32"


def test_rows_from_another_machine_are_told(make_record):
    def machine(*precisions):
        own = {"hardware": {"cpu": "A", "cores": 2}, "versions": {"torch": "2.0"}}
        records = [
            make_record(f"net{i}", val=0.9 - i / 100, run_id=f"digits-net{i}-s0-0123456789", precision=precision,
                        config={"model": {"name": f"net{i}"}, "seed": 0}, **own)
            for i, precision in enumerate(precisions)
        ]  # fmt: skip
        (table,) = leaderboard.tables(records)
        assert [row.machine for row in table.rows] == [f"2 cores of A, PyTorch 2.0, {each}" for each in precisions]
        return table.machine

    usual, odd, third = (f"2 cores of A, PyTorch 2.0, {precision}" for precision in ("bf16", "32", "16"))
    assert machine("bf16", "bf16", "bf16") == usual
    assert machine("bf16", "32", "bf16") == f"{usual}; row 2 on {odd}, whose {machines.COSTS}"
    assert machine("32", "bf16", "32", *["bf16"] * 2) == f"{usual}; rows 1, 3 on {odd}, whose {machines.COSTS}"
    assert (
        machine("32", "16", "bf16", "32", "bf16", "bf16")
        == f"{usual}; rows 1, 4 on {odd}; row 2 on {third}, whose {machines.COSTS}"
    )
    assert machine("32", "16", "bf16", "64", "bf16") == machines.OTHER_MACHINES


def test_a_run_that_was_resumed_elsewhere_has_no_machine(make_record):
    def record(model, *earlier):
        hardware = {"cpu": "A", "cores": 2, "host": "here"}
        own = {"hardware": hardware, "versions": {"torch": "2.0"}, "git_sha": "a", "device": "cpu"}
        own["precision"] = "bf16-mixed"
        config = {"model": {"name": model}, "seed": 0}
        return make_record(
            model, run_id=f"digits-{model}-s0-0123456789", config=config, **own,
            earlier=[own | {key: value} for key, value in earlier],
        )  # fmt: skip

    elsewhere = ("hardware", {"cpu": "B", "cores": 2, "host": "there"})
    cells = [
        record("alexnet", ("git_sha", "b"), ("hardware", {"cpu": "A", "cores": 2, "host": "there"})),
        record("lenet", elsewhere),
        record("nin", ("precision", "32-true")),
    ]
    (table,) = leaderboard.tables(cells)
    assert {row.model: row.machine for row in table.rows} == {
        "alexnet": "2 cores of A, PyTorch 2.0, bf16-mixed", "lenet": "", "nin": "",
    }  # fmt: skip
    assert table.machine == machines.OTHER_MACHINES
    (nin,) = (row for row in table.rows if row.model == "nin")
    assert "precision=32-true, then bf16-mixed" in str(nin)


def test_a_row_of_several_machines_has_none_and_the_others_keep_theirs(make_record):
    def record(model, seed, vectors):
        hardware = {"cpu": "A", "cores": 2} | ({"cpu_capability": vectors} if vectors else {})
        own = {"hardware": hardware, "versions": {"torch": "2.0"}, "precision": "bf16-mixed"}
        config = {"model": {"name": model}, "seed": seed}
        return make_record(model, seed, run_id=f"digits-{model}-s{seed}-0123456789", config=config, **own)

    cells = [("alexnet", 0, "AVX2"), ("lenet", 0, "AVX2"), ("lenet", 1, "AVX512"), ("nin", 0, None)]
    (table,) = leaderboard.tables([record(*cell) for cell in cells])
    told = {row.model: row.machine for row in table.rows}
    assert told == {"alexnet": "2 cores of A (AVX2), PyTorch 2.0, bf16-mixed", "lenet": "", "nin": ""}
    assert table.machine == machines.OTHER_MACHINES
