"""The tests marked gpu, in several processes, each again from where it was if a test ends it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tools.on_gpu import rows

ROOT = Path(__file__).resolve().parents[2]
MOST_SHARDS = 8
MOST_RUNS = 6


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    arguments = parser.parse_args()
    files = [str(path.relative_to(ROOT)) for path in marked()]
    if arguments.stand_in:  # where all are skipped; one file is enough to see that
        files = ["tests/kernels/test_triton_gpu.py"]
    count = 1 if arguments.stand_in else min(MOST_SHARDS, len(os.sched_getaffinity(0)))
    options = ["-m", "gpu and slow" if arguments.slow else "gpu and not slow", f"--rows={arguments.out}"]
    options += ["--stand-in"] * arguments.stand_in
    codes: dict[int, int] = {}

    def work(number: int) -> None:
        codes[number] = shard(number, count, [*options, *files], arguments.out)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(codes.values(), default=1)


def marked() -> list[Path]:
    """The files with tests for a GPU; to collect others takes time, and packages that may be missing."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]


def shard(number: int, count: int, arguments: Sequence[str], out: Path) -> int:
    """Run one shard until none of its tests ends its process; its exit code, 1 if one did."""
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-p", "tools.on_gpu.shard", "-p", "no:cacheprovider"]
        # A warning of a version that was never tried is no reason to learn nothing of the GPU.
        command += ["-q", "-W", "default", "--continue-on-collection-errors", f"--basetemp={folder}/pytest"]
        command += [f"--shard={number}/{count}", *arguments]
        for _ in range(MOST_RUNS):
            code = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=ROOT).returncode
            now = ended_processes(out, number)
            if now == lost:
                return 1 if lost else 0 if code == 5 else abs(code)  # 5: there was nothing to run
            lost = now
    return 1


def ended_processes(path: Path, number: int) -> int:
    """How many tests of a shard began and never ended, or ended and left no GPU to go on with."""
    mine = [row for row in rows.read(path) if row.get("shard") == number]
    begun = {row["test"] for row in mine if row.get("outcome") == "begun"}
    ended = {row["test"] for row in mine if row.get("outcome") not in (None, "begun")}
    return len(begun - ended) + sum("lost" in row for row in mine)


if __name__ == "__main__":
    sys.exit(main())
