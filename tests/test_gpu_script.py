"""``make gpu``'s script without a GPU: nothing that one step does keeps the others from their results.

What a deadline cuts off here would never end by itself; what must not be cut off is given minutes.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.bench import made_up
from tools import gpu
from tools.on_gpu import bench, bits, environment, gpu_tests, pool, rows, runner, summary, sweeps
from tools.on_gpu.runner import Interrupted, Outcome, Step

ROOT = Path(gpu.ROOT)
MINUTES = 300.0  # what ends by itself may take, on the slowest machine
H100 = {**made_up.H100, "multiprocessors": 132}


def shell(name: str, script: str, seconds: float = MINUTES) -> Step:
    return Step(name, seconds, ["/bin/sh", "-c", script])


@pytest.fixture
def files(tmp_path: Path) -> summary.Files:
    folder = tmp_path / "out"
    folder.mkdir()
    return summary.Files(*(folder / name for name in gpu.NAMES))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.2)


def own(name: str, files: summary.Files) -> str:
    """A script that writes the file of a step."""
    out = next(part for part in gpu.steps(files, False, [name])[0].command if part.startswith("--out="))
    return f'echo \'{{"step": "{name}"}}\' >> {shlex.quote(out.removeprefix("--out="))}; echo {name} was here'


WAYS = {
    "fails": ("echo oh no >&2; exit 5", "failed, exit code 5"),
    "crashes": ("kill -SEGV $$", "failed, exit code -11"),
    # A child holds the output open, and neither heeds SIGTERM.
    "hangs": ("trap '' TERM; sleep 1000 & sleep 1000", "cut off"),
    "prints garbage": (r"printf '\377\376\000{]'; printf '{\"torn' >> {file}", "done"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", gpu.SECONDS)
def test_whatever_a_step_does_the_next_ones_run(name, way, files, capsys):
    script, outcome = WAYS[way]
    names = list(gpu.SECONDS)[list(gpu.SECONDS).index(name) :]
    out = gpu.steps(files, False, [name])[0].command[-1].removeprefix("--out=")
    first = shell(name, script.replace("{file}", shlex.quote(out)), 0.3 if way == "hangs" else MINUTES)
    code = gpu.measure([first, *(shell(each, own(each, files)) for each in names[1:])], files, False)
    fine = outcome == "done" or (name == "slow-tests" and way == "hangs")
    assert code == (0 if fine else 1)
    log = files.log.read_text(errors="replace")
    assert f"=== {name}: {outcome}" in log
    assert all(f"{each} was here" in log for each in names[1:])
    text = files.summary.read_text()
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith(f"| {name} ")] == [
        outcome
    ]
    assert text.count("| done ") == len(names) - 1 + (outcome == "done")
    assert text.strip() in capsys.readouterr().out
    assert set(files.log.parent.iterdir()) <= set(files)


def test_a_run_leaves_few_files_and_no_folder(files):
    assert len(files) <= 8
    assert {step.command[-1] for step in gpu.steps(files, False, list(gpu.SECONDS))} == {
        f"--out={path}" for path in (files.environment, files.bits, files.bench, files.tests, files.sweeps)
    }
    assert sum(gpu.SECONDS.values()) == 480


def test_what_a_step_leaves_of_its_time_is_for_the_next(files):
    """Alone, the second would be cut off before it began."""
    todo = [shell("environment", "true", MINUTES), shell("bits", "sleep 0.2", 0.001)]
    assert gpu.measure(todo, files, False) == 0


def test_a_step_that_is_cut_off_leaves_no_process(files, tmp_path):
    pids = tmp_path / "pids"
    hang = f"trap '' TERM; sleep 1000 & echo $! $$ > {pids}; wait; sleep 1000"
    ready = shell("bits", f"while [ ! -s {pids} ]; do sleep 0.01; done")
    # The deadline of the first is when the second has begun to look, whose own is far.
    gpu.measure([shell("environment", hang, 3.0), ready], files, False)
    for pid in pids.read_text().split():
        assert is_gone(int(pid))


def is_gone(pid: int) -> bool:
    """Whether a process that was sent SIGKILL has ended; it may be one that nobody has waited for."""
    end = time.monotonic() + MINUTES
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_temporary_files_of_what_was_killed_are_removed(files):
    temporary = files.bench.with_name(".bench.json.1.tmp")
    gpu.measure([shell("fills", f"touch {shlex.quote(str(temporary))}; kill -9 $$")], files, False)
    assert not temporary.exists()


@pytest.mark.parametrize("code", environment.NOTHING_TO_MEASURE)
def test_nothing_to_measure_ends_it(files, capsys, code):
    todo = [shell("environment", f"exit {code}"), shell("bits", own("bits", files))]
    assert gpu.measure(todo, files, False) == 2
    assert environment.NOTHING_TO_MEASURE[code] in capsys.readouterr().out
    assert not list(files.log.parent.iterdir())


def test_a_python_without_what_every_step_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "NEEDED", (*environment.NEEDED, "of_nobody"))
    monkeypatch.setattr(sys, "argv", ["environment", f"--out={tmp_path / 'environment.json'}"])
    assert environment.main() == environment.NO_PACKAGE


def test_a_command_that_cannot_start_is_a_failure(files):
    todo = [Step("bits", MINUTES, ["/no/such/program"]), shell("fills", own("fills", files))]
    assert gpu.measure(todo, files, False) == 1
    assert files.bench.exists()


def test_a_summary_that_cannot_be_made_is_no_end(files, monkeypatch):
    monkeypatch.setattr(summary, "text", lambda *_: 1 // 0)
    assert (
        gpu.measure([shell("bits", own("bits", files)), shell("fills", own("fills", files))], files, False)
        == 0
    )
    assert files.log.read_text().count("ZeroDivisionError") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_cut_off_in_the_middle(number, files, tmp_path):
    started = tmp_path / "started"
    driver = f"""
import sys
from pathlib import Path
from tools import gpu
from tools.on_gpu import summary
from tools.on_gpu.runner import Step
files = summary.Files(*(Path(sys.argv[1]) / name for name in gpu.NAMES))
scripts = [sys.argv[2], "echo $$ > {started}; sleep 1000", sys.argv[2]]
todo = [Step(n, {MINUTES}, ["/bin/sh", "-c", s]) for n, s in zip(gpu.SECONDS, scripts)]
sys.exit(gpu.measure(todo, files, False))
"""
    command = [sys.executable, "-c", driver, str(files.log.parent), own("environment", files)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not (started.exists() and started.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    printed, _ = process.communicate()
    assert process.returncode == 128 + number
    assert json.loads(files.environment.read_text()) == {"step": "environment"}
    text = files.summary.read_text()
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| environment")] == [
        "done"
    ]
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| bits")] == [
        "cut off"
    ]
    assert "fills" not in text
    assert text.strip() in printed
    assert is_gone(int(started.read_text()))


def test_signals_are_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), runner.interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_results_of_another_run_are_not_mixed_with(files, capsys):
    files.bench.touch()
    with pytest.raises(SystemExit, match="2"):
        gpu.main([f"--out={files.bench.parent}"])
    assert "results of another run: bench.json" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        gpu.main([f"--out={files.bench.parent}", "--steps=bits,nonsense"])


# Tasks in processes of their own.

WORKER = """
import os, time
from tools.on_gpu import pool
def work(task):
    if task["do"] == "die": os._exit(9)
    if task["do"] == "hang": time.sleep(1000)
    if task["do"] == "raise": raise ValueError("no")
    if task["do"] == "lose": raise KeyError("context")
    print("something else")
    return {"pid": os.getpid()}
lost = False
def usable():
    return os.environ.get("LOST") != "1"
pool.serve(work, usable)
"""


def answers(tasks: list[str], workers: int, seconds: float = MINUTES) -> list[tuple[str, pool.Answer]]:
    command = [sys.executable, "-c", WORKER]
    found = pool.run(command, [{"do": task} for task in tasks], workers, seconds)
    return [(task["do"], answer) for task, answer in found]


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("at_root")
class TestPool:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_no_task_takes_another_with_it(self, workers):
        found = answers(["fine", "die", "fine", "raise", "fine"], workers)
        assert sorted(task for task, _ in found) == ["die", "fine", "fine", "fine", "raise"]
        for task, answer in found:
            assert ("pid" in answer) == (task == "fine")
        assert {answer["error"] for task, answer in found if task == "die"} == {
            "its process ended, exit code 9"
        }
        assert {answer["error"] for task, answer in found if task == "raise"} == {"ValueError: no"}

    def test_a_task_that_hangs_is_killed(self, monkeypatch):
        """The next task has as long, for nothing: it is answered at once."""
        monkeypatch.setattr(pool, "START", MINUTES)
        found = answers(["fine", "hang", "fine"], 1, seconds=3.0)
        assert [task for task, answer in found if "pid" in answer] == ["fine", "fine"]
        assert found[1][1]["error"] == "no answer within 3 s"

    def test_a_process_goes_on_after_what_a_task_raised(self):
        found = answers(["fine", "raise", "fine"], 1)
        assert found[0][1] == found[2][1]

    def test_a_process_without_a_gpu_is_not_used_again(self, monkeypatch):
        monkeypatch.setenv("LOST", "1")
        found = answers(["fine", "raise", "fine"], 1)
        assert found[0][1] != found[2][1]

    def test_none_of_its_processes_outlives_a_pool(self):
        for _, answer in answers(["fine"] * 4, 2):
            assert not Path(f"/proc/{answer['pid']}").exists()

    def test_a_worker_that_cannot_start(self):
        found = list(pool.run(["/no/such/program"], [{"do": "fine"}] * 3, 2, 1.0))
        assert len(found) == 3
        assert all("FileNotFoundError" in answer["error"] for _, answer in found)


# What the steps do.


def test_every_kernel_is_compared_in_every_distribution_and_dtype(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "kernels")
    import kernel_cases

    found = [tuple(task.values()) for task in bits.tasks(stand_in=False)]
    combinations = len(bits.KERNELS) * len(kernel_cases.FILLS) * len(kernel_cases.DTYPES)
    assert len(set(found)) == len(found) == combinations
    assert found[0] == ("run_kernel", "normal", "float32")
    for kernel in bits.KERNELS:
        cases = list(bits.all_cases(kernel, "normal", "bfloat16"))
        assert len(cases) >= 4
        assert sum(size for size, _ in cases) > 10_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", bits.KERNELS)
def test_what_is_compared_can_be_launched(kernel, dtype, monkeypatch):
    """By the launchers, up to the kernels themselves, which here write nothing: so everything differs."""
    triton_kernels = pytest.importorskip("tritoninit.kernels.triton_kernels")
    launched = []

    class Kernel:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *arguments, **options: launched.append(self.name)

    for name in bits.KERNELS:
        monkeypatch.setattr(triton_kernels, name, Kernel(name))
    monkeypatch.setattr(bits, "LARGE", 100_003)
    for size, check in bits.all_cases(kernel, "uniform", dtype):
        with pytest.raises(AssertionError, match="differ") if size else nullcontext():
            check.func(*("cpu" if each == "cuda" else each for each in check.args))
    assert kernel in launched


def test_a_difference_is_told_and_the_rest_compared(monkeypatch):
    def differs():
        raise AssertionError("1 of 5 differ")

    cases = [(5, lambda: None), (5, differs), (7, lambda: None), (7, differs)]
    monkeypatch.setattr(bits, "all_cases", lambda *_: cases)
    task = {"kernel": "run_kernel", "distribution": "normal", "dtype": "float32"}
    found = bits.compare(task, stand_in=False)
    expected = {"tensors": 4, "elements": 24, "differ": 2, "first": "1 of 5 differ"}
    assert found == {**expected, "seconds": found["seconds"]}


@pytest.fixture
def all_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every library that some contender needs is installed."""
    monkeypatch.setattr(bench, "find_spec", lambda name: name)


def test_a_library_that_is_not_here_costs_no_process(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "flag_gems" else name)
    patterns = [pattern for group in bench.groups("fills", False) for pattern in group]
    asked = {pattern.rpartition("*-")[2] for pattern in patterns}
    assert asked == {f"{name}]" for names in bench.CONTENDERS for name in names} - {"flag-gems]"}


def test_each_risky_library_has_a_process_of_its_own(all_here):
    """What it does to its process, it does to no other's rows; and none is without a group."""
    from tritoninit.bench.contenders import PEERS

    assert len(bench.groups("fills", False)) == len(bench.CONTENDERS)
    alone = {names[0] for names in bench.CONTENDERS if len(names) == 1}
    assert {"curand-device", "flag-gems", "jax"} <= alone
    grouped = {name for names in (*bench.CONTENDERS, *bench.STAND_IN_CONTENDERS) for name in names}
    assert {each.name for each in PEERS} <= grouped


def test_rows_of_the_suite_are_asked_for_by_their_names(all_here):
    from tritoninit.bench.contenders import Trial
    from tritoninit.bench.suite import matches

    def rank(what: str, name: str) -> int | None:
        patterns = [pattern for group in bench.groups(what, False) for pattern in group]
        found = [k for k, pattern in enumerate(patterns) if matches(name, pattern)]
        return found[0] if found else None

    fills = [
        (
            rank("fills", f"bench_fill[{Trial('fill', 'normal', dtype, 2**size, 16, contender)}]"),
            size,
            contender,
        )
        for dtype in bench.DTYPES
        for size in bench.SIZES
        for contenders in bench.CONTENDERS
        for contender in contenders
    ]
    assert all(place is not None for place, *_ in fills)
    assert [contender for *_, contender in sorted(fills)][-1] == "jax"
    assert sorted(fills)[0][1:] == (28, "triton")
    cached = rank("fills", f"bench_cached[{Trial('cached', 'normal', 'float32', 2**21, 16, 'triton')}]")
    assert cached is not None
    assert cached > max(place for place, _, contender in fills if contender == "triton")
    assert rank("fills", "bench_fill[normal-float16-2^28-threads=16-triton]") is None
    models = [
        rank("models", f"bench_model[{Trial('model', name, 'float32', 10, 16, 'triton')}]")
        for name in summary.LAUNCHES
    ]
    assert None not in models
    for name in (
        "bench_call[uniform, no key-float32-2^8-threads=16-torch]",
        "bench_start[first fill-float32-2^12-threads=16-triton]",
    ):
        assert rank("models", name) is not None


SUITE = """
import json, sys
from pathlib import Path
path = Path(sys.argv[1])
found = json.loads(path.read_text()) if path.exists() else {"unfinished": [], "runs": 0}
found["runs"] += 1
if found["runs"] <= int(sys.argv[2]):
    found["unfinished"].append(f"row {found['runs']}")
path.write_text(json.dumps(found))
sys.exit(int(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("lost", "code", "expected", "runs"),
    [(0, 0, 0, 1), (0, 1, 1, 1), (2, 0, 1, 3), (99, 1, 1, bench.MOST_RUNS)],
)
def test_the_suite_goes_on_after_rows_that_end_it(lost, code, expected, runs, tmp_path):
    out = tmp_path / "bench.json"
    command = [sys.executable, "-c", SUITE, str(out), str(lost), str(code)]
    assert bench.until_nothing_is_lost(command, out) == expected
    assert rows.document(out)["runs"] == runs


def test_rows_that_an_earlier_step_lost_are_not_this_one_s(tmp_path):
    out = tmp_path / "bench.json"
    out.write_text(json.dumps({"unfinished": ["of another step"], "runs": 7}))
    assert bench.until_nothing_is_lost([sys.executable, "-c", SUITE, str(out), "0", "0"], out) == 0
    assert rows.document(out)["runs"] == 8


def test_a_group_that_fails_keeps_no_other_from_its_rows(tmp_path, monkeypatch, all_here):
    asked = []

    def run(command, out):
        asked.append([part for part in command if part.startswith("--filter=")])
        return len(asked) == 2

    monkeypatch.setattr(bench, "until_nothing_is_lost", run)
    monkeypatch.setattr(sys, "argv", ["bench", "fills", f"--out={tmp_path / 'bench.json'}"])
    assert bench.main() == 1
    names = [{text.rpartition("-")[2].rstrip("]") for text in filters} for filters in asked]
    ours, *others = [{name.rpartition("-")[2] for name in group} for group in bench.CONTENDERS]
    assert names == [ours, *(ours | other for other in others)]
    assert all(filters[: len(asked[0])] == asked[0] for filters in asked)


TESTS = """
import os, pytest
def test_a(): pass
def test_b(): os._exit(9)
def test_c(): assert False, "what was wrong"
def test_d(): pytest.skip("not here")
def test_e(): pass
"""


def test_tests_go_on_after_one_that_ends_its_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "test_it.py").write_text(TESTS)
    out = tmp_path / "tests.jsonl"
    options = [f"--rows={out}", f"--rootdir={tmp_path}", "-c/dev/null", str(tmp_path / "test_it.py")]
    codes = [gpu_tests.shard(number, 2, options, out) for number in range(2)]
    found = {row["test"][-1]: row["outcome"] for row in rows.read(out) if "test" in row}
    assert found == {"a": "passed", "b": "begun", "c": "failed", "d": "skipped", "e": "passed"}
    assert codes == [1, 1]
    text = "\n".join(summary._tests(rows.read(out)))
    assert "1 never ended" in text
    assert "test_b: never ended" in text
    assert "what was wrong" in text


def test_tests_for_a_gpu_are_found():
    found = {path.name for path in gpu_tests.marked()}
    assert {"test_triton_gpu.py", "test_checks.py", "test_initializers.py"} <= found
    assert "test_keys.py" not in found


def test_sweeps_go_around_what_is_launched():
    from tritoninit.kernels import triton_kernels

    usual = triton_kernels.COUNTERS, triton_kernels.NUM_WARPS
    found = sweeps.configurations(stand_in=False)
    shapes = {(task["counters"], task["warps"]) for task in found}
    assert usual in shapes
    assert {usual[0] // 2, usual[0] * 2} <= {counters for counters, _ in shapes}
    launched = list(sweeps.launches(found, usual, stand_in=False))
    assert {tuple(task.values()) for task, *_ in launched} == {tuple(task.values()) for task in found}
    for elements in sweeps.TABLE_SIZES:
        assert sweeps.usual_tiles(elements, usual[0]) in sweeps.TILES


class Event:
    """A CUDA event that lies a millisecond after the one before it."""

    times = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.times += 1
        self.time = Event.times

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return float(other.time - self.time)


def test_sweeps_measure_by_the_gpu_s_clock(monkeypatch):
    """With kernels that do nothing, each of which is launched as on a GPU."""
    triton_kernels = pytest.importorskip("tritoninit.kernels.triton_kernels")
    launched = []

    class Kernel:
        def __getitem__(self, grid):
            def launch(*arguments, COUNTERS, num_warps, **options):
                if (COUNTERS, num_warps) == (256, 8):
                    raise RuntimeError("out of resources")
                launched.append((COUNTERS, num_warps))

            return launch

    for name in ("run_kernel", "table_kernel"):
        monkeypatch.setattr(triton_kernels, name, Kernel())
    usual = triton_kernels.COUNTERS, triton_kernels.NUM_WARPS
    monkeypatch.setattr(triton_kernels, "NUM_WARPS", usual[1])  # to be as it was afterwards
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda clocks: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(sweeps, "SIZES", (2**12,))
    monkeypatch.setattr(sweeps, "TABLE_SIZES", (2**14, 2**13))
    monkeypatch.setattr(sweeps, "ELEMENTS_PER_THREAD", (4, 64))
    tasks = sweeps.configurations(stand_in=False)
    found = list(sweeps.measured(tasks, stand_in=False))
    assert set(launched) | {(256, 8)} == {(task["counters"], task["warps"]) for task in tasks}
    errors = [row for row in found if "error" in row]
    assert {row["error"] for row in errors} == {"RuntimeError: out of resources"}
    assert {(row["counters"], row["warps"]) for row in errors} == {(256, 8)}
    right = [row for row in found if "error" not in row]
    assert {row["microseconds"] for row in right} == {1e3 / sweeps.CALLS}
    defaults = [row for row in right if row.get("default")]
    kinds = {(row["kernel"], row["distribution"], row["dtype"], row["elements"]) for row in defaults}
    assert len(kinds) == len(defaults) == 4 * 3
    assert all((row["counters"], row["warps"]) == usual for row in defaults)
    assert sum(row["kernel"] == "memset" for row in found) == len({4 * n for n in (2**12, 2**13, 2**14)}) + 1


def test_one_fact_that_is_missing_leaves_the_others(files, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["environment", f"--out={files.environment}", "--stand-in"])
    monkeypatch.setattr(environment, "QUERY", ("name",))
    monkeypatch.setattr(environment, "of_memory", no_memory)
    assert environment.main() == 1
    found = rows.document(files.environment)
    assert found["no_memory_error"] == "RuntimeError: a driver too old"
    assert found["stand_in"] is True
    assert found["packages"]["torch"]
    assert found["predictions"] == []
    assert found["backends"]["numpy"] is None


def no_memory():
    raise RuntimeError("a driver too old")


# What was found.


MEMSET = 0.94 * 3350  # GB/s, as is expected of an H100 before it was measured


def measured(shares: dict[tuple[str, str], float], monkeypatch: pytest.MonkeyPatch) -> tuple[dict, dict]:
    """What the first step writes of an H100, and results that reach shares of its predictions."""
    from tritoninit.bench import device

    monkeypatch.setattr(device, "accelerator", lambda: H100)
    found = {"accelerator": H100, "packages": {"torch": "2.11.0"}, **environment.predicted()}
    benchmarks = []
    for each in found["predictions"]:
        share = shares.get((each["subject"], each["dtype"]))
        if share is not None:
            size = made_up.BYTES[each["dtype"]]
            speeds = {"triton": each["gs_per_s"] * share * size, "torch": 300.0, "memset": MEMSET}
            task = ("fill", each["subject"], each["dtype"])
            benchmarks += made_up.rows("cuda", *task, 2**20, {"triton": 1.0}, default="triton")
            benchmarks += made_up.rows("cuda", *task, 2**28, speeds, default="triton")
    return found, made_up.document(made_up.machine(H100), benchmarks)


def save(files: summary.Files, facts: dict, results: dict) -> None:
    files.environment.write_text(json.dumps(facts))
    files.bench.write_text(json.dumps(results))


def test_predictions_stand_beside_what_was_measured(files, monkeypatch):
    shares = {
        ("uniform", "float32"): 0.9,  # as predicted
        ("normal", "float32"): 1.25,  # above its bound, which is the memory
        ("truncated_normal", "float32"): 0.5,  # far below its bound, which is not
        ("uniform", "bfloat16"): 0.84 * summary.BELOW_ELSE / 0.85,  # just below
    }
    facts, results = measured(shares, monkeypatch)
    model = {"triton": 2000.0, "torch": 200.0, "memset": 3000.0}
    for name, launches in (("gpt2", 2), ("resnet-50", 5)):
        found = made_up.rows("cuda", "model", name, "float32", 10**8, model, default="triton")
        found[0]["extra_info"]["launches"] = launches
        results["benchmarks"] += found
    checks = {check.what: check for check in summary.checks(facts, results["benchmarks"])}
    assert len(checks) == 6
    failed = {what.partition(",")[0]: check.verdict for what, check in checks.items() if check.failed}
    assert set(failed) == {"normal float32", "truncated_normal float32", "uniform bfloat16", "resnet-50"}
    assert failed["normal float32"].startswith("FAILED: 25.0% above what bounds it, so that a rate of memory")
    assert failed["truncated_normal float32"] == "FAILED: 70% or more of it was expected, 40% more"
    assert failed["resnet-50"] == "FAILED: +1 launches"
    save(files, facts, results)
    text = summary.text(files, [Outcome("fills", None, 90.0)])
    assert "4 of 6 predictions failed." in text
    assert "Not here, or failed: curand-device, torch-func, cupy-philox, cupy-xorwow, rocrand-philox" in text
    assert "The fastest memset wrote 3149 GB/s, 94% of the data sheet's 3350" in text
    assert text.rstrip().endswith("published.")
    assert len(text) < gpu.SHOWN


def test_a_full_run_s_summary_is_seen_whole(files, monkeypatch):
    """Where only the last 12,000 characters are, of a run with every row and a failure of each sort."""
    facts, results = measured({}, monkeypatch)
    for subject in ("uniform", "normal", "truncated_normal"):
        for dtype in bench.DTYPES:
            for size in bench.SIZES:
                names = [name for names in bench.CONTENDERS for name in names]
                speeds = {
                    name: 1234.5678 for name in names if not name.startswith("rocrand")
                }  # of no NVIDIA's
                results["benchmarks"] += made_up.rows(
                    "cuda", "fill", subject, dtype, 2**size, speeds, default="triton"
                )
    for name in summary.LAUNCHES:
        speeds = dict.fromkeys(("triton", "torch", "memset"), 1234.5)
        results["benchmarks"] += made_up.rows(
            "cuda", "model", name, "float32", 10**9, speeds, default="triton"
        )
    save(files, facts, results)
    usual = (1024, 4)
    for task, elements, tiles in sweeps.launches(sweeps.configurations(False), usual, False):
        row = {**task, "elements": elements, "tiles": tiles, "default": True}
        rows.append(files.sweeps, {**row, **sweeps.rates(1e-3, 4 * elements, 1e-3)})
    for k in range(20):
        task = {"kernel": "scattered_kernel", "distribution": f"d{k}", "dtype": "bfloat16"}
        rows.append(files.bits, {**task, "error": "word " * 100})
        rows.append(
            files.tests,
            {
                "test": f"tests/kernels/test_triton_gpu.py::test_{k}",
                "outcome": "failed",
                "why": "word " * 200,
            },
        )
    outcomes = [Outcome(name, 0, 60.0) for name in gpu.SECONDS]
    text = summary.text(files, outcomes)
    assert len(text) < gpu.SHOWN
    assert max(map(len, text.splitlines())) < 300


def test_nothing_measured_is_a_summary_too(files):
    assert "no accelerator known" in summary.text(files, [])
    for path in files:
        path.write_bytes(b'{"torn\xff\n[1]\n')
    assert "no accelerator known" in summary.text(files, [])


def test_one_part_that_cannot_be_told_leaves_the_others(files, monkeypatch):
    facts, results = measured({("uniform", "float32"): 0.9}, monkeypatch)
    save(files, facts, {**results, "unfinished": ["row 1"], "failed": {"row 2": "WrongValues: no"}})
    rows.append(files.sweeps, {"gb_per_s": 1.0})
    facts["backends"] = {"triton": "no compiler"}
    files.environment.write_text(json.dumps(facts))
    text = summary.text(files, [])
    assert "The backend triton cannot run here: no compiler" in text
    assert "cannot be told: KeyError: 'kernel'" in text
    assert "- row 1: never ended\n- row 2: WrongValues: no" in text
    assert "0 of 1 predictions failed." in text


@pytest.mark.parametrize(
    ("knows", "found"),
    [("--query", {"name": "a", "pstate": "P0"}), ("nothing", "exit code 2: unknown field\na table\n")],
)
def test_what_the_driver_says(knows, found, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    script = 'case "$1" in %s*) echo "a, P0";; "") echo "a table";; *) echo "unknown field"; exit 2;; esac'
    program.write_text("#!/bin/sh\n" + script % knows)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment, "QUERY", ("name", "pstate"))
    assert environment.nvidia_smi() == found


def test_what_stands_in_for_a_gpu_says_so(files, monkeypatch):
    facts, results = measured({}, monkeypatch)
    save(files, {**facts, "stand_in": True}, results)
    assert summary.text(files, []).startswith("**STAND-IN: no GPU was used.")


# All of it, with a CPU in the GPU's place.


def stand_in(folder: Path, steps: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "tools" / "gpu.py"),
        f"--out={folder}",
        "--stand-in",
        f"--steps={steps}",
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)


@pytest.mark.slow  # processes that import all there is: 16 to 26 s
def test_the_first_steps(tmp_path):
    done = stand_in(tmp_path / "out", "environment,bits")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "STAND-IN" in done.stdout
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {
        f"stand-in-{name}" for name in ("environment.json", "bits.jsonl", "log.txt", "summary.md")
    }
    of_bits = rows.read(tmp_path / "out" / "stand-in-bits.jsonl")
    assert {row["kernel"] for row in of_bits} == set(bits.KERNELS)
    assert all(row["stand_in"] and row["differ"] == 0 and row["elements"] for row in of_bits)


@pytest.mark.slow
def test_all_steps(tmp_path):
    done = stand_in(tmp_path / "out", ",".join(gpu.SECONDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"stand-in-{name}" for name in gpu.NAMES}
    results = rows.document(tmp_path / "out" / "stand-in-bench.json")
    kinds = {row["extra_info"]["kind"] for row in results["benchmarks"]}
    assert kinds == {"fill", "model", "call", "start"}
    assert {row["kernel"] for row in rows.read(tmp_path / "out" / "stand-in-sweeps.jsonl")} == {
        *("memset", "run_kernel", "table_kernel")
    }
    tests = rows.read(tmp_path / "out" / "stand-in-tests.jsonl")
    assert {row.get("outcome") for row in tests if "test" in row} == {"begun", "skipped"}
    assert done.stdout.count("STAND-IN") == 1
