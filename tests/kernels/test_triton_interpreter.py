"""Runs the tests in interpreted/ in a process of their own, where Triton is an interpreter from the start."""

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


@pytest.mark.parametrize("file", sorted(FOLDER.glob("test_*.py")), ids=lambda path: path.stem)
def test_interpreted(file):
    run_interpreted("not slow", file)


@pytest.mark.slow
def test_interpreted_slow():
    run_interpreted("slow", FOLDER)
