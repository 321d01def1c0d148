"""The benchmark suite: what a result holds, that nothing wrong is timed, that bad input costs one line."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
import types
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import registry
from tritoninit.bench import (
    bench_models,
    bench_start,
    bench_structured,
    contenders,
    device,
    result_files,
    suite,
)
from tritoninit.bench.contenders import FILLS, Row, WrongValues, check, check_distribution, contender
from tritoninit.kernels.stream import Draw
from tritoninit.models.rules import RuleSet
from tritoninit.outputs import UsageError
from tritoninit.presets import PRESETS

TASK = ("kind", "subject", "dtype", "elements", "threads")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALL = "[uniform-float32-2^8"  # one size of one distribution: a fill by each contender, and a call


def run(pattern, out=None, **options):
    """The exit code and what was printed; on standard error nothing is, where it is no terminal."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        code = suite.run(True, [pattern], out, **options)
    assert errors.getvalue() == ""
    return code, printed.getvalue()


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
        *("torch", "triton", "numpy", "numba", "cupy", "jax", "tritoninit"),
        *("stream_version", "gate", "protocol", "cores_busy_elsewhere"),
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


def test_rows_are_the_contract(result):
    _, document, _ = result
    found = {row["extra_info"]["contender"]: row for row in document["benchmarks"] if is_fill(row)}
    assert set(found) == {each.name for each in contenders.contenders(True) if each.unavailable() is None}
    for name, row in found.items():
        info = row["extra_info"]
        assert set(info) == {
            *("kind", "contender", "ours", "default", "subject", "dtype", "elements", "bytes", "threads"),
            *("device", "gb_per_s", "gs_per_s", "memset_fraction", "torch_ratio"),
        }
        assert info["subject"] == "uniform"
        assert (info["dtype"], info["elements"], info["bytes"]) == ("float32", 256, 1024)
        assert info["ours"] == info["default"] == (name == ti.resolve(device.DEVICE).name)
        assert info["device"] == device.DEVICE
        stats = row["stats"]
        assert {"median", "iqr", "q1", "q3", "min", "max", "mean", "stddev", "rounds", "iterations"} <= set(
            stats
        )
        assert "data" not in stats
        assert 0 < stats["min"] <= stats["q1"] <= stats["median"] <= stats["q3"] <= stats["max"]
        assert stats["rounds"] >= device.FEWEST_ROUNDS
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
    suite.complete(reverse)
    assert reverse == document


def test_the_start_of_a_process_has_no_throughput():
    info = {"kind": "start", "subject": "import torch", "dtype": "float32", "elements": 0, "threads": 1}
    row = {"extra_info": {**info, "contender": "torch", "bytes": 0}, "stats": {"median": 2.0, "data": [2.0]}}
    suite.complete({"benchmarks": [row]})
    assert row["extra_info"]["gb_per_s"] is row["extra_info"]["gs_per_s"] is None
    assert row["extra_info"]["torch_ratio"] == 1.0


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


def spoiled(monkeypatch, spoil):
    """The default backend, which spoils the last target that it wrote."""
    backend = ti.resolve(device.DEVICE)
    fill = backend.load()

    def write(items):
        fill(items)
        spoil(items[-1][0])

    monkeypatch.setitem(registry._REGISTRY, backend.name, replace(backend, load=lambda: write))


def one_bit(target):
    flat = target.view(-1).view(torch.int32)
    flat[5] ^= 1


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
    backend = ti.resolve(device.DEVICE)
    idle = replace(backend, load=lambda: lambda items: None)
    monkeypatch.setitem(registry._REGISTRY, backend.name, idle)
    monkeypatch.setattr(device.Memory, "ring", lambda self, elements, dtype: [right])
    code, _ = run(f"fill{SMALL}*{backend.name}")
    assert code == 1


def test_a_run_of_failures_leaves_the_old_result(monkeypatch, tmp_path):
    spoiled(monkeypatch, one_bit)
    out = tmp_path / "out.json"
    out.write_text("old")
    code, _ = run(f"fill{SMALL}*{ti.resolve(device.DEVICE).name}", out)
    assert code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert out.read_text() == "old"


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_interrupt_before_the_first_row_leaves_the_old_result(monkeypatch, tmp_path):
    monkeypatch.setattr(nn.init, "uniform_", interrupted)
    out = tmp_path / "out.json"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run("fill" + SMALL + "*torch", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert out.read_text() == "old"


def names_in(path):
    return [row["params"]["contender"] for row in json.loads(path.read_text())["benchmarks"]]


CALLS = "call[uniform-float32"  # two rows: ours, then torch's


def test_rows_are_written_as_they_come(monkeypatch, tmp_path):
    monkeypatch.setattr(nn.init, "uniform_", interrupted)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(CALLS, out)
    ours = ti.resolve(device.DEVICE).name
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


HANGING = """
import sys, time
import torch
from pathlib import Path
from tritoninit.bench import suite
torch.nn.init.uniform_ = lambda *_: time.sleep(1000)
suite.run(True, [sys.argv[2]], Path(sys.argv[1]), limit=0.5, resume=True)
"""


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
    assert names_in(out) == [ti.resolve(device.DEVICE).name]
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
    with pytest.raises(UsageError, match=r"pip install tritoninit\[bench\]"):
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


@pytest.mark.parametrize(
    "name", [each.name for each in contenders.contenders(False) if each.unavailable() is None]
)
@pytest.mark.parametrize("subject", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_contenders_pass_their_check(name, subject, dtype):
    """In every row of a full run, here at a size that shows a mean or a std that is 1% off."""
    filler, fill = contender(name), FILLS[subject]
    if not filler.serves(fill, dtype):
        return
    buffers = list(torch.full((2, 2**18), math.nan, dtype=dtype, device=device.DEVICE))
    row = Row("fill", subject, str(dtype).removeprefix("torch."), 2**18, device.ALL_THREADS, name)
    with row.serving():
        prepared = filler.prepare(fill, buffers)
        for _ in buffers:
            written = prepared.call()
            prepared.wait()
            check(filler, fill, written)


WRONG = {
    "mean": lambda x: x + 0.06 * x.std(),
    "standard deviation": lambda x: x * 0.94,
    "nan": lambda x: x.index_fill(0, torch.tensor([7]), math.nan),
    "infinity": lambda x: x.index_fill(0, torch.tensor([len(x) - 1]), math.inf),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("subject", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_distribution_is_refused(wrong, subject, dtype):
    fill = FILLS[subject]
    x = fill(torch.empty(2**17, dtype=dtype), key=ti.Key(1))
    check_distribution(x, fill)
    with pytest.raises(WrongValues):
        check_distribution(WRONG[wrong](x), fill)


@pytest.mark.parametrize("subject", ["uniform", "truncated_normal"])
def test_values_out_of_bounds_are_refused(subject):
    fill = FILLS[subject]
    x = fill(torch.empty(2**17), key=ti.Key(1))
    x[3] = 0.101
    with pytest.raises(WrongValues, match="values from"):
        check_distribution(x, fill)


def test_what_has_no_distribution_is_refused():
    with pytest.raises(WrongValues, match="the reference has 0"):
        check(contender("memset"), FILLS["normal"], torch.full((8,), 1e-30))


def test_the_end_of_a_large_tensor_is_looked_at(monkeypatch):
    monkeypatch.setattr(contenders, "CHECKED", 1024)
    x = FILLS["normal"](torch.empty(10_000), key=contenders.KEY)
    backend = contender(ti.resolve("cpu").name)
    check(backend, FILLS["normal"], x)
    x[-1024] += 1e-9
    with pytest.raises(WrongValues, match="element 8976"):
        check(backend, FILLS["normal"], x)


class Curand:
    """What the contender asks of CuPy, by NumPy; CuPy itself needs a GPU."""

    def __init__(self, seed, method):
        assert method == 161
        np.asarray(seed).astype(np.uint64, casting="safe")  # as CuPy does, which refuses Python's ints for it
        self.generator = np.random.default_rng(seed)

    def uniform(self, low, high, size, dtype):
        return self.generator.uniform(low, high, size).astype(dtype)

    def normal(self, loc, scale, size, dtype):
        return self.generator.normal(loc, scale, size).astype(dtype)


class TorchFunc(types.ModuleType):
    """What the contender asks of torch.func._random, by PyTorch's generator; itself it needs a GPU."""

    def key(self, seed, device):
        return torch.tensor([seed, 0], dtype=torch.uint64, device=device)

    def uniform_(self, key, result, *, low, high):
        assert key.dtype == torch.uint64
        if result.dtype == torch.float16:
            raise NotImplementedError("not in float16")
        return result.uniform_(low, high)

    def normal_(self, key, result, *, mean, std):
        return result.normal_(mean, std)


def test_torch_s_fills_by_a_key_take_part_where_they_run(monkeypatch):
    theirs = contender("torch-func")
    unavailable = contenders._torch_func_unavailable
    unavailable.cache_clear()
    if device.DEVICE == "cpu":
        assert "torch.func._random cannot run" in theirs.unavailable()
    monkeypatch.setitem(sys.modules, "torch.func._random", TorchFunc("torch.func._random"))
    unavailable.cache_clear()
    try:
        assert theirs.unavailable() is None
        assert [theirs.serves(FILLS["normal"], dtype) for dtype in DTYPES] == [True, True, False]
        assert not theirs.serves(FILLS["truncated_normal"], torch.float32)
        for subject in ("uniform", "normal"):
            buffers = list(torch.empty(2, 2**14, device=device.DEVICE))
            prepared = theirs.prepare(FILLS[subject], buffers)
            for buffer in buffers:
                written = prepared.call()
                assert written is buffer
                check(theirs, FILLS[subject], written)
    finally:
        unavailable.cache_clear()


@pytest.mark.parametrize("subject", ["uniform", "normal"])
def test_cupy_draws_into_a_ring_of_its_own(monkeypatch, subject):
    cuda = types.SimpleNamespace(curand=types.SimpleNamespace(CURAND_RNG_PSEUDO_PHILOX4_32_10=161))
    random = types.SimpleNamespace(RandomState=Curand)
    fake = types.SimpleNamespace(cuda=cuda, random=random, zeros=np.zeros)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    buffers = list(torch.empty(3, 2**14))
    prepared = contender("cupy-philox").prepare(FILLS[subject], buffers)
    arrays = [prepared.call() for _ in range(5)]
    assert len({array.ctypes.data for array in arrays[:3]}) == 3
    check(contender("cupy-philox"), FILLS[subject], arrays[-1])


def test_the_ring_exceeds_the_cache_twice(monkeypatch):
    monkeypatch.setattr(device, "last_level_cache", lambda: 2**20)
    memory = device.Memory()
    ring = memory.ring(4000, torch.bfloat16)
    assert sum(x.nbytes for x in ring) > 2 * 2**20
    begins = sorted(x.data_ptr() for x in ring)
    assert all(b - a >= 8000 for a, b in pairwise(begins))
    assert len(memory.ring(2**22, torch.float32)) == 1  # by itself beyond it
    assert len(memory.ring(256, torch.float32)) == device.MOST_BUFFERS
    assert len({x.data_ptr() for x in memory.ring(2**16, torch.float32)}) == 9


def test_the_last_level_cache_is_that_of_all_cores(monkeypatch, tmp_path):
    caches = [("0", "1", "0", "48K"), ("0", "3", "0-1", "32768K"), ("1", "3", "0-1", "32768K")]
    caches += [("2", "3", "2-3", "16384K")]
    for index, (cpu, level, shared, size) in enumerate(caches):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in {"level": level, "shared_cpu_list": shared, "size": size}.items():
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(device, "DEVICE", "cpu")
    monkeypatch.setattr(device, "_CPUS", tmp_path)
    assert device.last_level_cache.__wrapped__() == 48 << 20
    monkeypatch.setattr(device, "_CPUS", tmp_path / "none")
    assert device.last_level_cache.__wrapped__() == device._UNKNOWN_CACHE


class Pedantic:
    """What pytest-benchmark is told."""

    def pedantic(self, call, *, rounds, iterations):
        self.rounds, self.iterations = rounds, iterations


@pytest.mark.parametrize(
    ("each", "seconds", "rounds", "iterations"),
    [
        (0.125, 1.0, 8, 1),  # as many as fit
        (0.125, 0.25, 3, 1),  # but 3 at least
        (2.0**-14, 10.0, 50, 40),  # calls shorter than a round share one; 50 rounds at most
        (2.0**-14, 0.025, 10, 40),
    ],
)
def test_rounds_follow_from_the_time_a_row_has(monkeypatch, each, seconds, rounds, iterations):
    clock = 0.0

    def call():
        nonlocal clock
        clock += each

    monkeypatch.setattr(device, "timer", lambda: clock)
    benchmark = Pedantic()
    device.measure(benchmark, call, seconds)
    assert (benchmark.rounds, benchmark.iterations) == (rounds, iterations)


def test_the_timer_waits():
    waited = []
    with device.waiting(lambda: waited.append(1)):
        first = device.timer()
    assert waited == [1]
    assert device.timer() >= first
    assert waited == [1]


def test_threads_are_set_for_a_block_only():
    before = torch.get_num_threads()
    with device.using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_one_thread_has_rows_of_its_own_at_one_size(monkeypatch):
    from tritoninit.bench import bench_fill

    monkeypatch.setattr(bench_fill, "ALL_THREADS", 4)
    rows = [row for row in bench_fill.rows(False) if row.contender == "torch"]
    assert len(set(rows)) == len(rows)
    on_cpu = {bench_fill.ONE_THREAD_SIZE} if device.DEVICE == "cpu" else set()
    assert {row.elements for row in rows if row.threads == 1} == on_cpu
    assert {row.threads for row in rows if row.elements != bench_fill.ONE_THREAD_SIZE} == {4}
    assert all(row.bytes <= device.largest() for row in rows)


def test_sizes_of_a_series_ascend():
    """So that a large one can be predicted from smaller ones."""
    from tritoninit.bench import bench_fill

    sizes = {}
    for row in bench_fill.rows(False):
        sizes.setdefault(row.series, []).append(row.elements)
    assert all(found == sorted(found) for found in sizes.values())


def test_a_wrong_model_is_found():
    model = nn.Linear(64, 64)
    rules = RuleSet("test", "nobody", [ti.Rule("weight", ti.Normal(0.0, 0.1)), ti.Rule("bias", ti.Zeros())])
    done = ti.initialize_(model, rules, seed=0)
    ours = Row("model", "tiny", "float32", 64 * 65, 1, ti.resolve("cpu").name)
    torch_row = replace(ours, contender="torch")
    bench_models.check_model(ours, done)
    nn.init.normal_(model.weight, 0.0, 0.1)
    bench_models.check_model(torch_row, done)
    with pytest.raises(WrongValues, match=r"weight: .*the reference has"):
        bench_models.check_model(ours, done)
    nn.init.normal_(model.weight, 0.0, 0.15)
    with pytest.raises(WrongValues, match=r"weight: .*standard deviation"):
        bench_models.check_model(torch_row, done)


def test_launches_are_counted():
    """Of the kernels that run, which here are the ones that Triton's launchers would launch."""
    triton_kernels = pytest.importorskip("tritoninit.kernels.triton_kernels")
    items = [(torch.empty(100), Draw("normal", (0.0, 1.0), 0, number, 0, (1,))) for number in range(3)]
    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launched.append(grid)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("run_kernel", "table_kernel"):
            patch.setattr(triton_kernels, name, Kernel())
        with bench_models.counting_launches() as counts:
            triton_kernels.fill_many(items)
            triton_kernels.fill(*items[0])
            torch._foreach_zero_([torch.ones(2, dtype=torch.int64)])
        assert counts == {"run_kernel": 1, "table_kernel": 1, "_foreach_zero_": 1}
        assert len(launched) == 2
        triton_kernels.fill(*items[0])
    assert counts.total() == 3


@pytest.mark.parametrize("name", ["gpt2", "resnet-50"])
def test_torch_writes_the_same_scheme(name):
    """What codebases write sets every parameter that our rules set, to the same distribution."""
    preset = bench_models.PRESETS[name]
    model = preset.build()
    done = ti.initialize_(model, preset.rules, seed=0)
    for parameter in model.parameters():
        parameter.detach().fill_(math.nan)
    bench_models.APPLY[name](model)
    row = Row("model", name, "float32", 2**28, 1, "torch")
    bench_models.check_model(row, done)


def test_a_wrong_orthogonal_matrix_is_found():
    x = ti.orthogonal_(torch.empty(64, 64), key=ti.Key(0))
    bench_structured.check_orthogonal(x)
    with pytest.raises(WrongValues, match="not orthogonal"):
        bench_structured.check_orthogonal(x * 1.0001)
    with pytest.raises(WrongValues, match="not orthogonal"):
        bench_structured.check_orthogonal(torch.full((64, 64), math.nan))


def test_a_wrong_sparse_matrix_is_found():
    x = ti.sparse_(torch.empty(512, 512), 0.9, 0.01, key=contenders.KEY)
    bench_structured.check_sparse(x)
    bench_structured.check_sparse_bits(x)
    with pytest.raises(WrongValues, match="zeros"):
        bench_structured.check_sparse(x.fill_diagonal_(0.01))
    other = ti.sparse_(torch.empty(512, 512), 0.9, 0.01, key=ti.Key(1))
    bench_structured.check_sparse(other)
    with pytest.raises(WrongValues, match="another"):
        bench_structured.check_sparse_bits(other)


def test_neighbours(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(device, "_STAT", stat)
    tick = os.sysconf("SC_CLK_TCK")
    times = iter([(100.0, 1.0), (110.0, 4.0)])  # the clock's, and our own work
    of_process = []
    monkeypatch.setattr(device.time, "monotonic", lambda: of_process[0])
    monkeypatch.setattr(
        device.os, "times", lambda: os.times_result((of_process[1] - 0.75, 0.25, 0.25, 0.25, 0.0))
    )

    def passes(*seconds):
        of_process[:] = next(times)
        stat.write_text("cpu  " + " ".join(str(int(s * tick)) for s in seconds) + " 0 0\ncpu0 1 2 3\n")

    passes(5, 0, 1, 900, 7, 0, 0, 0)
    neighbours = device.Neighbours()
    passes(9, 1, 3, 910, 9, 1, 1, 2)  # 11 seconds of work in 10, 3 of them ours; idle and iowait are none
    assert neighbours.cores() == pytest.approx(0.8)
    stat.unlink()
    assert neighbours.cores() is None
    assert device.Neighbours().cores() is None


@pytest.mark.parametrize(("threads", "busy", "told"), [(2, 0.05, False), (2, 0.2, True), (1, 1.0, False)])
def test_disturbed_measurements_are_told(monkeypatch, threads, busy, told):
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 2)
    said = "\n".join(suite._disturbed({"threads": threads, "cores_busy_elsewhere": busy}))
    assert (f"kept {busy:.1f} CPUs busy" in said) == told
    assert not suite._disturbed({"threads": threads, "cores_busy_elsewhere": None})
    assert not suite._disturbed({})


def test_one_slow_call_does_not_shorten_the_rounds(monkeypatch):
    clock = calls = 0

    def call():
        nonlocal clock, calls
        calls += 1
        clock += 4 * device.ROUND if calls == 1 else 2.0**-14

    monkeypatch.setattr(device, "timer", lambda: clock)
    benchmark = Pedantic()
    device.measure(benchmark, call, 0.1)
    assert benchmark.iterations == 40  # as without it, see above


def test_calls_come_before_the_calibration():
    times = []
    device.measure(Pedantic(), lambda: times.append(time.perf_counter()), 0.1)
    assert times[-1] - times[0] >= device.WARM_UP


def test_memory_is_what_a_container_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "DEVICE", "cpu")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    free = device.largest.__wrapped__()
    (tmp_path / "memory.max").write_text("max\n")
    assert device.largest.__wrapped__() > free / 2
    (tmp_path / "memory.max").write_text(f"{2**26}\n")
    assert device.largest.__wrapped__() == 2**24


@pytest.mark.parametrize(("hip", "expected"), [("6.4", 256 << 20), (None, 4 << 20)])
def test_the_last_cache_of_an_mi300_is_behind_its_l2(monkeypatch, hip, expected):
    monkeypatch.setattr(device, "DEVICE", "cuda")
    monkeypatch.setattr(torch.version, "hip", hip)
    properties = types.SimpleNamespace(L2_cache_size=4 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    assert device.last_level_cache.__wrapped__() == expected


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


def test_the_start_of_a_process_is_checked(tmp_path):
    printed = bench_start.start(start_row(ti.resolve(device.DEVICE).name), tmp_path)
    bench_start.check(printed)
    with pytest.raises(WrongValues, match="a process of its own"):
        bench_start.check(str(int(printed) + 1))


def start_row(contender):
    return contenders.Row("start", bench_start.COMPILED, "float32", bench_start.ELEMENTS, 1, contender)
