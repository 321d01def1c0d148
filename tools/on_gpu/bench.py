"""Rows of the benchmark suite, again from where it was where a row takes the suite's process with it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tools.on_gpu import rows

FILLS, MODELS = "fills", "models"
MOST_RUNS = 8
# Seconds that a row may take: a compilation and a tenth of a second; or four processes that import PyTorch.
LIMITS = {FILLS: 30.0, MODELS: 60.0}
SECONDS = {FILLS: 0.15, MODELS: 0.2}  # that a row is timed for
DTYPES = ("float32", "bfloat16")
# By how much they tell: who is compared, then at which size. Each group has a process of its own, which does
# not import what others need: a library that hangs or crashes at that takes none of their rows.
CONTENDERS = (
    ("triton", "memset", "torch"),
    ("curand-device",),
    ("torch-func", "cupy-philox", "cupy-xorwow", "rocrand-philox", "rocrand-xorwow"),
    ("flag-gems",),
    ("jax",),
)
# Of a group that nothing else could have rows of: without it, there is no process.
NEEDED = {"curand-device": "cupy", "flag-gems": "flag_gems", "jax": "jax"}
SIZES = (28, 30, 24, 20)
STAND_IN_CONTENDERS = (
    ("numba", "numpy", "memset", "torch"),
    ("torch-func", "numpy-generator", "numpy-sfc64", "numpy-philox"),
    ("jax",),
)
STAND_IN_SIZES = (12,)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=(FILLS, MODELS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stand-in", action="store_true")
    arguments = parser.parse_args()
    seconds = 0.02 if arguments.stand_in else SECONDS[arguments.what]
    command = [sys.executable, "-m", "tritoninit", "bench", "--resume", f"--out={arguments.out}"]
    command += [f"--seconds={seconds}", f"--limit={LIMITS[arguments.what]}"]
    failed = False
    first, *others = groups(arguments.what, arguments.stand_in)
    # Whoever is not here has no rows, and to ask for none is an error: the first group is there, and kept.
    for wanted in (first, *(first + other for other in others)):
        filters = [f"--filter={text}" for text in wanted]
        failed |= until_nothing_is_lost(command + filters, arguments.out) != 0
    return int(failed)


def until_nothing_is_lost(command: list[str], out: Path) -> int:
    """Run the suite until no row ends its process; the exit code of the last run, or 1 if one ended so."""
    before = lost = unfinished(out)
    for _ in range(MOST_RUNS):
        code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        now = unfinished(out)
        if now == lost:
            return code or int(lost > before)
        lost = now
    return 1


def unfinished(out: Path) -> int:
    return len(rows.document(out).get("unfinished", []))


def groups(what: str, stand_in: bool) -> list[list[str]]:
    """For ``bench --filter`` of one process after another, what tells most first."""
    if what == MODELS:
        starts = ("start[first fill, nothing compiled", "start[first fill-", "start[import torch-")
        if stand_in:
            return [["model[resnet-50", "call[", starts[2]]]
        models = ("gpt2", "llama-3.2-1b", "resnet-50", "llama-3-8b")
        structured = ("64 orthogonal", "sparse", "orthogonal")
        built = (f"structured[{name}-float32-2^{size}" for name in structured for size in (22, 24))
        return [[*(f"model[{name}-" for name in models), "again[", "call[", *built, *starts]]
    return [
        [
            f"fill[*-{dtype}-2^{size}-*-{contender}]"
            for size in (STAND_IN_SIZES if stand_in else SIZES)
            for dtype in DTYPES
            for contender in contenders
        ]
        + [f"cached[*-{contender}]" for contender in contenders if not stand_in]
        for contenders in (STAND_IN_CONTENDERS if stand_in else CONTENDERS)
        if (needed := NEEDED.get(contenders[0])) is None or find_spec(needed) is not None
    ]


if __name__ == "__main__":
    sys.exit(main())
