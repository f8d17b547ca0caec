"""Energy: from files as the kernel's, and from an NVML that answers as NVIDIA's."""

import sys
import types

import pytest
import torch

from bench import energy
from bench.energy import Energy

CPU = torch.device("cpu")


def zone(folder, name, microjoules, wraps=10_000_000):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def test_all_packages_are_summed_and_their_parts_are_not(powercap):
    first = zone(powercap / "intel-rapl:0", "package-0", 1_000_000)
    second = zone(powercap / "intel-rapl:1", "package-1", 5_000_000)
    core = zone(powercap / "intel-rapl:0:0", "core", 1_000_000)
    meter = Energy(CPU)
    for file, microjoules in ((first, 3_500_000), (second, 5_250_000), (core, 2_000_000)):
        file.write_text(f"{microjoules}\n")
    assert meter.read() == pytest.approx(2.75)


def test_a_counter_that_begins_anew_is_followed(powercap):
    file = zone(powercap / "intel-rapl:0", "package-0", 9_000_000)
    meter = Energy(CPU)
    file.write_text("500000\n")
    assert meter.read() == pytest.approx(1.5)


def test_a_machine_that_does_not_tell_has_no_energy(powercap):
    assert Energy(CPU).read() is None
    zone(powercap / "intel-rapl:0", "psys", 1)
    (powercap / "intel-rapl:1").mkdir()  # without files
    assert Energy(CPU).read() is None


def test_a_gpu_is_asked_for_the_millijoules_of_its_own_uuid(monkeypatch):
    told = {"GPU-abc": 1000.0}
    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=told.__getitem__,
        NVMLError=KeyError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="abc"))
    meter = Energy(torch.device("cuda"))
    told["GPU-abc"] = 3500.0
    assert meter.read() == pytest.approx(2.5)
    del told["GPU-abc"]  # as of a GPU that does not count
    assert Energy(torch.device("cuda")).read() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Energy(torch.device("cuda")).read() is None
