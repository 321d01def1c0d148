"""Runs the tests in interpreted/ in processes of their own, where Triton is an interpreter from the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "interpreted"


def run_interpreted(marks: str, *files: Path) -> None:
    # A worker of pytest-xdist must not pass on that it is one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, *map(str, files)],
        cwd=ROOT,
        env={**kept, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout.splitlines()[-1])  # how many passed: `pytest -rP` shows it  # noqa: T201


# Two processes, each of which takes seconds to begin, and as long as the other.
FIRST = ("test_interpreted_dtypes.py", "test_interpreted_fill_many.py")
FILES = {
    "many": [path for path in sorted(FOLDER.glob("test_*.py")) if path.name in FIRST],
    "the others": [path for path in sorted(FOLDER.glob("test_*.py")) if path.name not in FIRST],
}


@pytest.mark.parametrize("part", FILES)
def test_interpreted(part):
    assert len(FILES["many"]) == len(FIRST)
    run_interpreted("not slow", *FILES[part])


@pytest.mark.slow
def test_interpreted_slow():
    run_interpreted("slow", FOLDER)
