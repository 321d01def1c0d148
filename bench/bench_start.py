"""What a process pays before its first values: imports, and a first fill, its kernels on disk or not.

Each row is a whole process, Python's own start and ``import torch`` included: subtract the rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tritoninit

STARTS = {
    "import torch": "import torch",
    "import tritoninit": "import torch, tritoninit",
    "first fill": """
import torch, tritoninit
tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0))
""",
}
CPU_BACKENDS = [b.name for b in tritoninit.backends() if b.available and "cpu" in b.devices]
ROWS = [("import torch", "torch"), ("import tritoninit", "tritoninit")]
ROWS += [("first fill", name) for name in CPU_BACKENDS]


def run(code: str, backend: str, cache: Path) -> None:
    """A process that ends when its code does, with numba's kernels kept in ``cache``."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    environment["PYTHONPATH"] = str(Path(tritoninit.__file__).parents[1])
    if backend in CPU_BACKENDS:
        environment["TRITONINIT_BACKEND"] = backend
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def describe(benchmark: Any, start: str, contender: str) -> None:
    benchmark.group = "start of a process"
    elements = 4096 if start.startswith("first fill") else 0
    benchmark.extra_info.update(contender=contender, start=start, elements=elements)


@pytest.mark.parametrize(("start", "contender"), ROWS)
def bench_start(benchmark: Any, start: str, contender: str, tmp_path: Path) -> None:
    describe(benchmark, start, contender)
    benchmark.pedantic(run, (STARTS[start], contender, tmp_path), rounds=7, warmup_rounds=1)


@pytest.mark.skipif("numba" not in CPU_BACKENDS, reason="only numba's kernels are compiled on the CPU")
def bench_start_that_compiles(benchmark: Any, tmp_path: Path) -> None:
    """Every round with a cache of its own, empty."""
    describe(benchmark, "first fill, nothing compiled", "numba")
    caches = iter(range(100))
    benchmark.pedantic(
        run,
        setup=lambda: ((STARTS["first fill"], "numba", tmp_path / str(next(caches))), {}),
        rounds=3,
    )
