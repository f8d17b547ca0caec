"""Timing in turns, and what is written of it."""

import datetime
import itertools
import json

import torch

from bench import machine
from bench.speed import timing


def test_contestants_are_measured_in_turns_after_a_first_unmeasured_call(monkeypatch):
    calls, clock = [], itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    images = iter([999, 10, 30, 20])
    contestants = {"a": lambda: calls.append("a") or next(images), "b": lambda: calls.append("b") or 5}
    assert timing.interleaved(contestants, rounds=3) == {"a": [10, 30, 20], "b": [5, 5, 5]}
    assert "".join(calls) == "ab" + "ababab"


def test_threads_that_a_quota_leaves_are_told(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    found = machine._hardware() | {"cores": 64}
    monkeypatch.setattr(machine, "_hardware", lambda: found)
    before = torch.get_num_threads()
    try:
        timing.publish({"paths": {"results": tmp_path}}, "data", [], {})
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "speed/data.json").read_text())["hardware"]["threads"] == 1
    assert "64 cores (" in (text := (tmp_path / "speed/data.md").read_text())
    assert "), 1 thread, GPUs: " in text


def test_tables_are_printed_and_written_with_the_machine(tmp_path, capsys):
    tables = [("first", ["what", "images/s"], [["ours", "1,000"], ["theirs", "10"]])]
    timing.publish({"paths": {"results": tmp_path}}, "data", tables, {"first": {"ours": 1000.0}})
    out = capsys.readouterr().out
    assert "ours" in out
    assert "1,000" in out
    text = (tmp_path / "speed/data.md").read_text()
    assert "| what | images/s |\n|---|--:|\n| ours | 1,000 |\n| theirs | 10 |\n" in text
    assert f"cores ({machine.hardware()['cpu_capability']}" in text
    values = json.loads((tmp_path / "speed/data.json").read_text())
    assert values["results"] == {"first": {"ours": 1000.0}}
    assert values["hardware"]["cores"] >= 1
    assert {"torch", "torchvision"} <= values["versions"].keys()
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(values["measured_at"])
    assert 0 <= age.total_seconds() < 600
