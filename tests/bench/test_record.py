"""Rows on disk as they come, and runs that are continued."""

import json
import subprocess
import sys

import pytest
from torch import nn

import tritoninit as ti
from tests.bench.suite_runs import CALLS, SMALL, interrupted, one_bit, run, spoiled
from tritoninit.bench import device, result_files
from tritoninit.outputs import UsageError


def names_in(path):
    return [row["params"]["contender"] for row in json.loads(path.read_text())["benchmarks"]]


@pytest.fixture(scope="module")
def half_text(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "half.json"
    assert run(CALLS + "*torch", out)[0] == 0
    return out.read_text()


@pytest.fixture
def half(half_text, tmp_path):
    """A result file with one of two rows."""
    out = tmp_path / "half.json"
    out.write_text(half_text)
    return out


HANGING = """
import sys, time
import torch
from pathlib import Path
from tritoninit.bench import suite
torch.nn.init.uniform_ = lambda *_: time.sleep(1000)
suite.run(True, [sys.argv[2]], Path(sys.argv[1]), limit=0.5, resume=True)
"""


def test_a_run_of_failures_leaves_the_old_result(monkeypatch, tmp_path):
    spoiled(monkeypatch, one_bit)
    out = tmp_path / "out.json"
    out.write_text("old")
    code, _ = run(f"fill{SMALL}*{ti.registry.resolve(device.DEVICE).name}", out)
    assert code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert out.read_text() == "old"


def test_an_interrupt_before_the_first_row_leaves_the_old_result(monkeypatch, tmp_path):
    monkeypatch.setattr(nn.init, "uniform_", interrupted)
    out = tmp_path / "out.json"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run("fill" + SMALL + "*torch", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert out.read_text() == "old"


def test_rows_are_written_as_they_come(monkeypatch, tmp_path):
    monkeypatch.setattr(nn.init, "uniform_", interrupted)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(CALLS, out)
    ours = ti.registry.resolve(device.DEVICE).name
    assert names_in(out) == [ours]
    assert [row.contender for row in result_files.read(out).rows] == [ours]
    assert "unfinished" not in json.loads(out.read_text())  # who interrupts may want the row next time
    before = out.read_text()
    monkeypatch.undo()
    assert run(CALLS, out, resume=True)[0] == 0
    assert sorted(names_in(out)) == sorted([ours, "torch"])
    kept, again = (
        next(row for row in json.loads(text)["benchmarks"] if row["params"]["contender"] == ours)
        for text in (before, out.read_text())
    )
    assert again["stats"] == kept["stats"]  # not measured again
    assert kept["extra_info"]["torch_ratio"] is None
    torch_median = next(row for row in result_files.read(out).rows if row.contender == "torch").median
    assert again["extra_info"]["torch_ratio"] == torch_median / again["stats"]["median"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    done = out.read_text()
    code, printed = run(CALLS, out, resume=True)  # with nothing left to do
    assert code == 0
    assert "torch" in printed
    assert json.loads(out.read_text())["benchmarks"] == json.loads(done)["benchmarks"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("machine_info", {"torch": "2.6.0"}, "torch was 2.6.0, and is"),
        ("machine_info", {"protocol": 2}, "protocol 2"),
        ("commit_info", {"id": "0123"}, "commit was"),
    ],
)
def test_what_was_measured_elsewhere_is_not_continued(half, part, change, message):
    document = json.loads(half.read_text())
    document[part].update(change)
    half.write_text(json.dumps(document))
    before = half.read_text()
    with pytest.raises(UsageError, match=message):
        run(CALLS, half, resume=True)
    assert half.read_text() == before


@pytest.mark.parametrize("name", ["cpu", "threads", "accelerator", "triton", "stream_version", "gate"])
def test_every_fact_of_a_machine_is_compared(half_text, name):
    from tritoninit.bench import record

    machine = json.loads(half_text)["machine_info"]
    assert record._difference(machine, dict(machine)) is None
    assert record._difference({**machine, name: "another"}, machine).startswith(f"{name} was another, and is")


def test_other_processes_are_no_other_machine(half):
    document = json.loads(half.read_text())
    document["machine_info"]["cores_busy_elsewhere"] = 99.0
    half.write_text(json.dumps(document))
    assert run(CALLS, half, resume=True)[0] == 0
    found = json.loads(half.read_text())
    assert found["machine_info"]["cores_busy_elsewhere"] == 99.0
    assert len(found["benchmarks"]) == 2


def test_only_a_result_file_can_be_continued(tmp_path):
    out = tmp_path / "out.json"
    with pytest.raises(UsageError, match="--out"):
        run(CALLS, resume=True)
    out.write_text("{}")
    with pytest.raises(UsageError, match="not a file of pytest-benchmark's"):
        run(CALLS, out, resume=True)
    out.unlink()
    assert run(CALLS, out, resume=True)[0] == 0
    document = json.loads(out.read_text())
    for name in ("unfinished", "failed"):
        out.write_text(json.dumps({**document, name: 5}))
        with pytest.raises(UsageError, match=f"{name} is 5"):
            run(CALLS, out, resume=True)


def test_a_row_that_hangs_ends_the_run_and_is_left_out_of_the_next(tmp_path):
    """The limit has to be met by the row that hangs alone, which is the only one that has it."""
    out = tmp_path / "out.json"
    command = [sys.executable, "-c", HANGING, str(out), CALLS + "*torch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    (row,) = json.loads(out.read_text())["unfinished"]
    assert row.startswith("bench_call[uniform-float32")
    code, printed = run(CALLS, out, resume=True)
    assert code == 0
    assert f"Left out, since a run did not survive them: {row}" in printed
    assert names_in(out) == [ti.registry.resolve(device.DEVICE).name]
    assert json.loads(out.read_text())["unfinished"] == [row]


def test_a_row_that_loses_the_gpu_is_the_last(monkeypatch, tmp_path):
    from tritoninit.bench import record

    spoiled(monkeypatch, one_bit)
    monkeypatch.setattr(record, "_context_is_lost", lambda: True)
    out = tmp_path / "out.json"
    code, printed = run(CALLS, out, resume=True)
    assert code == 1
    assert "took the GPU's context with it: --resume goes on after it" in printed
    assert names_in(out) == []
    monkeypatch.undo()
    assert run(CALLS, out, resume=True)[0] == 0
    assert names_in(out) == ["torch"]


def test_why_a_row_failed_is_in_the_file_until_it_does_not(monkeypatch, tmp_path):
    spoiled(monkeypatch, one_bit)
    out = tmp_path / "out.json"
    assert run(CALLS, out, resume=True)[0] == 1
    ((name, why),) = json.loads(out.read_text())["failed"].items()
    assert name.startswith("bench_call[uniform-float32")
    assert "WrongValues: Uniform" in why
    monkeypatch.undo()
    assert run(CALLS + "*torch", out, resume=True)[0] == 0
    assert json.loads(out.read_text())["failed"] == {name: why}  # which this run did not try
    assert run(CALLS, out, resume=True)[0] == 0
    assert "failed" not in json.loads(out.read_text())
