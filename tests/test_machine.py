import hashlib
import platform
import subprocess
import sys
from pathlib import Path

import PIL
import pytest
import torch

from bench import machine
from bench.errors import ConfigError

linux = pytest.mark.skipif(sys.platform != "linux", reason="resets the kernel's high-water mark")


@linux
def test_peak_memory_is_that_since_construction():
    size = 300 * 2**20
    block = torch.ones(size, dtype=torch.uint8)
    del block
    machine.release_freed_pages()
    peak = machine.PeakMemory(torch.device("cpu"))
    before = peak.read()
    block = torch.ones(size, dtype=torch.uint8)
    del block
    assert before + 0.9 * size < peak.read() < before + 1.2 * size


@linux
def test_pages_of_a_freed_tensor_are_kept_until_they_are_given_back():
    machine.keep_freed_pages()
    block = torch.ones(300 * 2**20, dtype=torch.uint8)
    held = machine.PeakMemory(torch.device("cpu")).read()
    del block
    if platform.libc_ver()[0] == "glibc":  # which alone can be told to keep them until then
        assert machine.PeakMemory(torch.device("cpu")).read() > held - 100 * 2**20
    machine.release_freed_pages()
    assert machine.PeakMemory(torch.device("cpu")).read() < held - 200 * 2**20


@pytest.mark.parametrize(
    ("own", "root", "expected"),
    [
        ("max 100000", "max 100000", None),
        ("150000 100000", "max 100000", 1.5),
        ("400000 100000", "200000 100000", 2.0),
        ("", "50000 100000", 0.5),
    ],
)
def test_the_quota_is_the_least_of_the_groups(monkeypatch, tmp_path, own, root, expected):
    files = {"/proc/self/cgroup": "0::/a/b\n", f"{tmp_path}/a/b/cpu.max": own, f"{tmp_path}/cpu.max": root}
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_text", lambda path: files.get(str(path), ""))
    assert machine.cpu_quota() == expected


def test_where_there_are_no_groups_there_is_no_quota(monkeypatch):
    monkeypatch.setattr(machine, "_text", lambda path: "")
    assert machine.cpu_quota() is None


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (0.5, 1), (1.9, 1), (2.0, 2), (16.0, 4)])
def test_threads_are_no_more_than_the_quota(monkeypatch, quota, threads):
    now = [4]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: now.__setitem__(0, n))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    machine.fit_threads()
    assert now == [threads]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    now[0] = 4
    machine.fit_threads()
    assert now == [4]


def test_the_wanted_precision_is_taken_and_auto_is_one_of_two():
    cpu = torch.device("cpu")
    assert machine.precision("32-true", cpu) == "32-true"
    assert machine.precision("bf16-mixed", cpu) == "bf16-mixed"
    assert machine.precision("auto", cpu) in ("bf16-mixed", "32-true")


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_follows_the_processor(monkeypatch, bf16, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert machine.precision("auto", torch.device("cpu")) == precision


@pytest.mark.parametrize(
    ("capability", "precision"), [((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed"), ((7, 5), "32-true")]
)
def test_auto_precision_follows_the_gpu(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert machine.precision("auto", torch.device("cuda:0")) == precision


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_the_wanted_compilation_is_taken(mode):
    assert machine.compile_mode(mode, torch.device("cpu")) == mode
    assert machine.compile_mode("none", torch.device("cuda:0")) is None


@pytest.mark.parametrize(("capability", "mode"), [((6, 1), None), ((7, 0), "default"), ((9, 0), "default")])
def test_auto_compiles_on_gpus_alone(monkeypatch, capability, mode):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert machine.compile_mode("auto", torch.device("cuda:0")) == mode
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no Triton
    assert machine.compile_mode("auto", torch.device("cuda:0")) is None
    assert machine.compile_mode("auto", torch.device("cpu")) is None


def test_devices_are_chosen_by_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.device("auto") == torch.device("cuda")
    assert machine.device("gpu") == torch.device("cuda")
    assert machine.device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine.device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="trainer.accelerator=gpu"):
        machine.device("gpu")
    with pytest.raises(ConfigError, match="abacus.*has cpu"):
        machine.device("abacus")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_of_a_gpu_is_its_allocators():
    device = torch.device("cuda")
    peak = machine.PeakMemory(device)
    block = torch.ones(2**20, device=device)
    assert peak.read() >= block.numel() * 4


def test_the_machine_is_described():
    hardware, versions = machine.hardware(), machine.versions()
    assert hardware["cpu"]
    assert hardware["cores"] >= 1
    assert hardware["memory_bytes"] > 2**28
    assert hardware["cpu_capability"]
    if (kernel := Path("/proc/cpuinfo")).exists():
        assert hardware["cpu_avx512_bf16"] == ("avx512_bf16" in kernel.read_text())
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions["pillow"] == PIL.__version__
    assert ("cudnn" in versions) == bool(torch.version.cuda and torch.cuda.is_available())


def test_on_a_gpu_its_driver_is_described(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(machine, "_text", {"/sys/module/nvidia/version": "580.65.06\n"}.get)
    versions = machine.versions.__wrapped__()
    assert (versions["cuda"], versions["gpu_driver"]) == ("13.0", "580.65.06")
    monkeypatch.setattr(machine, "_text", lambda path: "")  # Windows
    assert "gpu_driver" not in machine.versions.__wrapped__()


def test_the_commit_is_that_of_the_checkout():
    root = Path(machine.__file__).parent.parent
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode != 0:
        pytest.skip("not a checkout")
    assert machine.git_sha().removesuffix("-dirty") == head.stdout.strip()


def test_code_of_ones_own_is_told_by_its_hash(caplog):
    names = (f"{__name__}.linux", "torch.optim.SGD", "bench.models.lenet.LeNet", "pathlib.Path", "nowhere.Net")
    made = {"net": {"_target_": f"{__name__}.Own"}, "others": [{"_target_": name} for name in names]}
    assert machine.own_code(made) == {__name__: hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]}
    assert not caplog.records  # Hydra's, of what is not there


class Own:
    """Code of one's own."""


def test_new_files_of_code_make_a_checkout_another_than_its_commit(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@y"]
        return subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, check=True)

    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/machine.py").write_text("")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "x")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench/machine.py"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results/new").write_text("")
    clean = machine.git_sha.__wrapped__()
    assert clean == git("rev-parse", "HEAD").stdout.decode().strip()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/mine.yaml").write_text("")
    assert machine.git_sha.__wrapped__() == f"{clean}-dirty"
    git("add", "conf")
    git("commit", "-qm", "y")
    assert not machine.git_sha.__wrapped__().endswith("-dirty")
    (tmp_path / "bench/machine.py").write_text("changed")
    assert machine.git_sha.__wrapped__().endswith("-dirty")


def test_memory_is_measured_where_the_mark_cannot_be_reset(monkeypatch):
    def denied(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", denied)
    assert machine.PeakMemory(torch.device("cpu")).read() > 2**20
