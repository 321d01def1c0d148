"""The benchmark suite: what a result holds, that nothing wrong is timed, that bad input costs one line."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.bench.suite_runs import SMALL, one_bit, run, spoiled
from tritoninit import registry
from tritoninit.bench import contenders, device, rows, suite
from tritoninit.bench.contenders import FILLS, contender
from tritoninit.outputs import UsageError
from tritoninit.presets import PRESETS

TASK = ("kind", "subject", "dtype", "elements", "threads")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A result file, the document in it, and what the run printed."""
    out = tmp_path_factory.mktemp("results") / "small.json"
    code, printed = run(SMALL, out)
    assert code == 0, printed
    return out, json.loads(out.read_text()), printed


def test_machine_info_is_the_contract(result):
    _, document, _ = result
    machine = document["machine_info"]
    assert set(machine) == {
        *("python_version", "system", "cpu", "threads", "device", "accelerator"),
        *("torch", "triton", "numpy", "numba", "cupy", "jax", "flag_gems", "tritoninit"),
        *("stream_version", "gate", "protocol", "cores_busy_elsewhere"),
        *("last_level_cache_bytes", "conditions"),
    }
    assert set(machine["cpu"]) == {"brand_raw", "count"}
    assert machine["threads"] == device.ALL_THREADS
    assert machine["numpy"] == np.__version__
    assert machine["gate"] == "bits"
    if device.Path("/proc/stat").exists():
        assert 0 <= machine["cores_busy_elsewhere"] <= os.cpu_count()
    assert machine["protocol"] == device.PROTOCOL
    assert machine["stream_version"] == ti.STREAM_VERSION
    if device.DEVICE == "cpu":
        assert machine["accelerator"] is None
    assert machine["last_level_cache_bytes"] == device.last_level_cache()
    assert set(machine["conditions"]) == {"begin", "end"}
    assert all(set(each) == {"gpu", "cpu"} for each in machine["conditions"].values())


def test_rows_are_the_contract(result):
    _, document, _ = result
    found = {row["extra_info"]["contender"]: row for row in document["benchmarks"] if is_fill(row)}
    assert set(found) == {each.name for each in contenders.contenders(True) if each.unavailable() is None}
    for name, row in found.items():
        info = row["extra_info"]
        assert set(info) == {
            *("kind", "contender", "ours", "default", "subject", "dtype", "elements", "bytes", "threads"),
            *("device", "gb_per_s", "gs_per_s", "memset_fraction", "torch_ratio"),
            *("median_low", "median_high"),
        }
        assert info["subject"] == "uniform"
        assert (info["dtype"], info["elements"], info["bytes"]) == ("float32", 256, 1024)
        assert info["ours"] == info["default"] == (name == ti.registry.resolve(device.DEVICE).name)
        assert info["device"] == device.DEVICE
        stats = row["stats"]
        assert {"median", "iqr", "q1", "q3", "min", "max", "mean", "stddev", "rounds", "iterations"} <= set(
            stats
        )
        assert "data" not in stats
        assert 0 < stats["min"] <= stats["q1"] <= stats["median"] <= stats["q3"] <= stats["max"]
        assert stats["rounds"] >= device.FEWEST_ROUNDS
        if stats["rounds"] < 6:
            assert info["median_low"] is info["median_high"] is None
        else:
            assert (
                stats["min"] <= info["median_low"] <= stats["median"] <= info["median_high"] <= stats["max"]
            )
        assert row["params"]["contender"] == name


def is_fill(row):
    return row["extra_info"]["kind"] == "fill"


def test_ratios_follow_from_the_medians(result):
    _, document, _ = result
    medians = {tuple(row["params"].values()): row["stats"]["median"] for row in document["benchmarks"]}
    for row in document["benchmarks"]:
        info, seconds = row["extra_info"], row["stats"]["median"]
        task = tuple(info[name] for name in TASK)
        assert info["gb_per_s"] == info["bytes"] / seconds / 1e9
        assert info["gs_per_s"] == info["elements"] / seconds / 1e9
        assert info["torch_ratio"] == medians[(*task, "torch")] / seconds
        memset = medians.get((*task, "memset"))
        assert (memset is None) == (info["kind"] == "call")
        assert info["memset_fraction"] == (memset and memset / seconds)


def test_rows_are_sorted(result):
    _, document, _ = result
    names = [tuple(row["params"].values()) for row in document["benchmarks"]]
    assert len({name[0] for name in names}) == 2
    assert names == sorted(names)


def test_what_complete_makes_does_not_depend_on_the_order(result):
    _, document, _ = result
    reverse = {**document, "benchmarks": json.loads(json.dumps(document["benchmarks"][::-1]))}
    rows.complete(reverse)
    assert reverse == document


def test_the_commit_is_this_checkout_s(result):
    _, document, _ = result
    folder = os.path.dirname(os.path.realpath(suite.__file__))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    assert document["commit_info"]["id"] == (head.stdout.strip() if head.returncode == 0 else None)


def test_pytest_benchmark_reads_the_file(result, tmp_path):
    out, *_ = result
    command = [sys.executable, "-m", "pytest_benchmark", f"--storage={tmp_path}", "compare", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bench_fill[uniform-float32-2^8" in done.stdout


def test_tables_fit_100_columns_and_say_the_speeds(result):
    _, document, printed = result
    assert max(map(len, printed.splitlines())) <= 100
    (line,) = (line for line in printed.splitlines() if line.startswith("uniform") and "%" in line)
    ours = next(
        row["extra_info"] for row in document["benchmarks"] if is_fill(row) and row["extra_info"]["ours"]
    )
    assert f"{ours['memset_fraction']:.0%}" in line
    assert f"{ours['torch_ratio']:.2f}" in line


def test_no_file_is_left_but_the_result(result):
    out, *_ = result
    assert [path.name for path in out.parent.iterdir()] == ["small.json"]


def test_the_user_s_settings_of_pytest_do_not_apply(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    code, _ = run("call[uniform*torch")
    assert code == 0
    assert os.environ["PYTEST_ADDOPTS"] == "--no-such-option"
    assert [path.name for path in tmp_path.iterdir()] == ["pytest.ini"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_how_far_it_is(monkeypatch):
    terminal, printed = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(terminal):
        assert suite.run(True, ["call[uniform-"], None) == 0
    assert "2/2" in terminal.getvalue()
    assert "bench_call[uniform-float32-2^8" in terminal.getvalue()
    assert "2/2" not in printed.getvalue()


def not_written(target):
    target.view(-1)[-1] = math.nan


@pytest.mark.parametrize("spoil", [one_bit, not_written])
def test_nothing_wrong_is_timed(monkeypatch, tmp_path, spoil):
    spoiled(monkeypatch, spoil)
    out = tmp_path / "out.json"
    code, printed = run("fill" + SMALL, out)
    assert code == 1
    assert "WrongValues" in printed
    assert "1 failed, and were not timed" in printed
    names = {row["params"]["contender"] for row in json.loads(out.read_text())["benchmarks"]}
    assert names == set(contenders.QUICK)


def test_memory_that_was_right_before_does_not_pass_for_written(monkeypatch):
    right = FILLS["uniform"](torch.empty(256, device=device.DEVICE), key=contenders.KEY)
    backend = ti.registry.resolve(device.DEVICE)
    idle = replace(backend, load=lambda: lambda items: None, short=None)
    monkeypatch.setitem(registry._REGISTRY, backend.name, idle)
    monkeypatch.setattr(device.Memory, "ring", lambda self, elements, dtype: [right])
    code, _ = run(f"fill{SMALL}*{backend.name}")
    assert code == 1


def test_no_library_is_imported_whose_rows_are_not_asked_for(monkeypatch):
    """It may hang at that, or take the process with it."""
    imported = []
    torch_s = contender("torch")
    theirs = replace(torch_s, name="theirs", unavailable=lambda: imported.append("theirs"))
    monkeypatch.setattr(contenders, "PEERS", (torch_s, theirs))
    monkeypatch.setattr(contenders, "QUICK", ("torch", "theirs"))
    assert run("fill[uniform-float32-2^8-*-torch]")[0] == 0
    assert not imported
    assert "theirs" in run("fill[uniform-float32-2^8-*-theirs]")[1]
    assert imported


def test_rows_come_in_the_order_of_the_patterns(monkeypatch):
    order, times = [], []

    def theirs(x, *_):
        order.append("torch")
        return x.uniform_(-0.1, 0.1)

    def rounds_within(seconds, each):
        times.append(seconds)
        return device.FEWEST_ROUNDS

    monkeypatch.setattr(nn.init, "uniform_", theirs)
    spoiled(monkeypatch, lambda target: order.append("ours"))
    monkeypatch.setattr(device, "rounds_within", rounds_within)
    patterns = ["call[uniform-*torch]", "no such row", "call[uniform-"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert suite.run(True, patterns, None, seconds=0.05) == 0
    assert [name for name, before in zip(order, [None, *order], strict=False) if name != before] == [
        *("torch", "ours")
    ]
    assert times == [0.05, 0.05]


def test_calls_that_would_take_too_long_are_left_out(monkeypatch, tmp_path):
    largest = 0

    def slow(x, *_):
        nonlocal largest
        largest = max(largest, x.numel())
        time.sleep(x.numel() * 2e-7)  # 2**24 elements: 3.4 s
        return x.uniform_(-0.1, 0.1)

    monkeypatch.setattr(nn.init, "uniform_", slow)
    out = tmp_path / "out.json"
    code, printed = run("fill[uniform-float32*torch", out)
    assert code == 0
    assert "1 rows, bench_fill[uniform" in printed
    assert largest == 2**16
    assert [row["params"]["elements"] for row in json.loads(out.read_text())["benchmarks"]] == [2**8, 2**16]


def test_bad_input_is_one_line(monkeypatch):
    with pytest.raises(UsageError, match=r"no row has 'no such row' in its name"):
        run("no such row")
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install pytest-benchmark"):
        run(SMALL)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("normal", True),
        ("[normal-float32", True),
        ("fill*2^24*torch", True),
        ("[normal-float3?", True),
        ("call", False),
        ("[truncated", False),
        ("torch*fill", False),
    ],
)
def test_patterns(pattern, found):
    assert suite.matches("bench_fill[normal-float32-2^24-threads=2-torch]", pattern) is found


@pytest.mark.parametrize(("threads", "busy", "told"), [(2, 0.05, False), (2, 0.2, True), (1, 1.0, False)])
def test_disturbed_measurements_are_told(monkeypatch, threads, busy, told):
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 2)
    said = "\n".join(suite._disturbed({"threads": threads, "cores_busy_elsewhere": busy}))
    assert (f"kept {busy:.1f} CPUs busy" in said) == told
    assert not suite._disturbed({"threads": threads, "cores_busy_elsewhere": None})
    assert not suite._disturbed({})


def test_what_fails_while_rows_are_collected_is_told(monkeypatch):
    broken = replace(PRESETS["gpt2"], build=lambda: nn.Linear(1 // 0, 1))
    monkeypatch.setitem(PRESETS, "gpt2", broken)
    code, printed = run("no such row")
    assert code == 1
    assert "ZeroDivisionError" in printed
    assert "1 failed, and were not timed" in printed


def test_a_backend_that_is_not_here_costs_one_line():
    with ti.use_backend("triton"), pytest.raises(UsageError, match="'triton' cannot serve 'cpu'"):
        run(SMALL)
