"""Eight minutes on a GPU, in the order of what they tell: ``make gpu PYTHON=python3 OUT=folder``.

Seven steps, each a process of its own with a deadline, write seven files as they go, so that a run that is
cut off anywhere has told the most. Exit code 0 if all went well, 1 if a step failed or was cut off (but the
last, which has what time is left), 2 if there is no GPU, no PyTorch, no Triton or no folder to use, 128 and
its number after a signal. What was predicted and did not come about is told, and is no failure of the run.
Nothing is installed, and no setting of the GPU is changed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # whatever else is called tools

from tools.on_gpu import environment, rows, runner, summary  # noqa: E402 - which lie there
from tools.on_gpu.runner import Interrupted, Outcome, Step  # noqa: E402

NAMES = summary.Files(
    environment=Path("environment.json"),
    bits=Path("bits.jsonl"),
    bench=Path("bench.json"),
    tests=Path("tests.jsonl"),
    sweeps=Path("sweeps.jsonl"),
    log=Path("log.txt"),
    summary=Path("summary.md"),
)
PREFIX = "stand-in-"
# Seconds; 480 in all. What one step leaves is for the next: the first needs most of its own only where no one
# has read PyTorch from the disk before, and without it nothing would be predicted.
SECONDS = {
    "environment": 45,
    "bits": 60,
    "fills": 95,
    "models": 110,
    "tests": 100,
    "sweeps": 50,
    "slow-tests": 20,
}
SHOWN = 11_500  # characters of the summary: who sees only the end of what is printed sees all of it


def steps(files: summary.Files, stand_in: bool, chosen: Sequence[str]) -> list[Step]:
    commands = {
        "environment": ("environment", files.environment),
        "bits": ("bits", files.bits),
        "fills": ("bench", "fills", files.bench),
        "models": ("bench", "models", files.bench),
        "tests": ("gpu_tests", files.tests),
        "sweeps": ("sweeps", files.sweeps),
        "slow-tests": ("gpu_tests", "--slow", files.tests),
    }
    found = []
    for name in chosen:
        module, *options, out = commands[name]
        command = [sys.executable, "-m", f"tools.on_gpu.{module}", *map(str, options), f"--out={out}"]
        found.append(Step(name, SECONDS[name], command + ["--stand-in"] * stand_in))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder without results, made if need be")
    parser.add_argument(
        "--stand-in", action="store_true", help="the same by a CPU, at tiny sizes: to try this script out"
    )
    parser.add_argument(
        "--steps", default=",".join(SECONDS), help=f"some of {','.join(SECONDS)}, in the order given"
    )
    arguments = parser.parse_args(argv)
    chosen = arguments.steps.split(",")
    if not set(chosen) <= set(SECONDS):
        parser.error(f"--steps: known are {','.join(SECONDS)}")
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    files = summary.Files(*(out / f"{PREFIX * arguments.stand_in}{name}" for name in NAMES))
    there = [path.name for path in files if path.exists()]
    if there:
        parser.error(f"{out} has results of another run: {', '.join(there)}")
    return measure(steps(files, arguments.stand_in, chosen), files, arguments.stand_in)


def measure(todo: Sequence[Step], files: summary.Files, stand_in: bool) -> int:
    """Run the steps, write the summary after each, and print it; an exit code."""
    outcomes: list[Outcome] = []
    signal_number = 0

    def after(found: Sequence[Outcome]) -> None:
        outcomes[:] = found
        print(f"{found[-1].name}: {found[-1]}, {found[-1].seconds:.1f} s", flush=True)
        for path in files.log.parent.glob(".*.tmp"):  # of a writer that was killed
            path.unlink(missing_ok=True)
        write_summary(files, outcomes)
        if found[-1].name == "environment" and found[-1].code in environment.NOTHING_TO_MEASURE:
            raise NothingToMeasure(environment.NOTHING_TO_MEASURE[found[-1].code])

    print(f"Results go to {files.log.parent}", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, runner.interruptible():
        try:
            runner.run(todo, files.log, child_environment(Path(scratch), stand_in), ROOT, after)
        except Interrupted as error:
            signal_number = error.number
        except NothingToMeasure as error:
            print(f"{error}; --stand-in tries the script without a GPU")
            for path in files:
                path.unlink(missing_ok=True)
            return 2
    print(files.summary.read_text(encoding="utf-8")[-SHOWN:] if files.summary.exists() else "no summary")
    if signal_number:
        return 128 + signal_number
    return 0 if all(each.code == 0 or may_be_cut(each) for each in outcomes) else 1


class NothingToMeasure(Exception):
    """What is missing here is missing in every step."""


def may_be_cut(outcome: Outcome) -> bool:
    return outcome.name == "slow-tests" and outcome.code is None


def write_summary(files: summary.Files, outcomes: Sequence[Outcome]) -> None:
    """Never the reason that a run ends."""
    try:
        rows.replace(files.summary, summary.text(files, outcomes))
    except Exception:  # noqa: BLE001 - whatever a file holds, the next step is to begin
        with files.log.open("a", encoding="utf-8") as log:
            log.write(f"no summary:\n{traceback.format_exc()}")


def child_environment(scratch: Path, stand_in: bool) -> dict[str, str]:
    """Of all steps: they find this checkout and the tests' helpers, and share what Triton compiles."""
    path = [str(ROOT), str(ROOT / "tests" / "kernels"), os.environ.get("PYTHONPATH", "")]
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TMPDIR": str(scratch),
        # Nothing is left behind, nor is a home folder needed that can be written to.
        "CUPY_CACHE_DIR": str(scratch / "cupy"),
        "NUMBA_CACHE_DIR": str(scratch / "numba"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return found | ({"CUDA_VISIBLE_DEVICES": ""} if stand_in else {})


if __name__ == "__main__":
    sys.exit(main())
