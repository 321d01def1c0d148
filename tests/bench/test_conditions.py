"""Power and clocks, as they are read where they can be."""

import shutil
import subprocess
import types

import pytest
import torch

from tritoninit.bench import conditions

ANSWER = "700.00, 512.25, 1980, 3201, 54, 0x0000000000000004\n"


@pytest.fixture
def asked(monkeypatch):
    """What nvidia-smi was asked; a driver that knows the second name of what holds clocks only."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if any("clocks_event_reasons" in part for part in command):
            raise subprocess.CalledProcessError(2, command)
        return types.SimpleNamespace(stdout=ANSWER)

    monkeypatch.setattr(conditions, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: types.SimpleNamespace(uuid="1-2-3"))
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_gpu(asked):
    assert conditions.read()["gpu"] == {
        "power_limit_w": 700.0,
        "power_w": 512.25,
        "clock_mhz": 1980.0,
        "memory_clock_mhz": 3201.0,
        "temperature_c": 54.0,
        "held_by": ["power cap"],
    }
    assert all("--id=GPU-1-2-3" in command for command in asked)  # that of PyTorch, where there are several
    assert len(asked) == 2


@pytest.mark.parametrize("answer", ["", "[N/A], [N/A], [N/A], [N/A], [N/A], [N/A]\n", "one, two\n"])
def test_a_driver_that_does_not_tell(asked, monkeypatch, answer):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(stdout=answer))
    found = conditions.read()["gpu"]
    assert found is None or set(found.values()) == {None}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: 1 // 0)
    monkeypatch.setattr(conditions, "DEVICE", "cpu")
    assert conditions.read()["gpu"] is None


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="nvidia-smi tells of NVIDIA's GPUs")
def test_this_gpu():
    found = conditions.read()["gpu"]
    assert found is not None
    assert found["power_limit_w"] is None or found["power_limit_w"] > 0
    assert found["clock_mhz"] > 0
    assert isinstance(found["held_by"], list)


def test_a_driver_that_knows_the_gpu_by_no_name(asked, monkeypatch):
    """It is asked of the only one then, and of several none is told: which one is it?"""
    answers = [ANSWER]

    def run(command, **_):
        if any(part.startswith("--id=") for part in command):
            raise subprocess.CalledProcessError(6, command)
        return types.SimpleNamespace(stdout="".join(answers))

    monkeypatch.setattr(subprocess, "run", run)
    assert conditions.read()["gpu"]["clock_mhz"] == 1980
    answers.append(ANSWER)
    assert conditions.read()["gpu"] is None


@pytest.mark.parametrize(
    ("files", "boost"),
    [({"cpufreq/boost": "0\n"}, False), ({"intel_pstate/no_turbo": "0\n"}, True), ({}, None)],
)
def test_cpus(monkeypatch, tmp_path, files, boost):
    for cpu, governor in enumerate(("performance", "powersave", "performance")):
        files = {**files, f"cpu{cpu}/cpufreq/scaling_governor": f"{governor}\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("cpu MHz\t\t: 2000.000\nmodel name\t: x\ncpu MHz\t\t: 3000.500\n")
    monkeypatch.setattr(conditions, "CPUS", tmp_path)
    monkeypatch.setattr(conditions, "_CPUINFO", cpuinfo)
    found = conditions.read()["cpu"]
    assert found == {"governor": "performance, powersave", "boost": boost, "clock_mhz": 2500.2}
    monkeypatch.setattr(conditions, "CPUS", tmp_path / "none")
    monkeypatch.setattr(conditions, "_CPUINFO", tmp_path / "none")
    assert set(conditions.read()["cpu"].values()) == {None}
