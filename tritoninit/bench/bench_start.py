"""What a process pays before its first values: imports, and a first fill, its kernels on disk or not.

Each row is a whole process, Python's own start and ``import torch`` included: subtract the rows. Where
kernels are on disk, the default backend is not asked for by name: its rows are what somebody gets who imports
and draws, and few elements come from NumPy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest
import torch

import tritoninit
from tritoninit.bench.contenders import Trial, WrongValues, ours
from tritoninit.bench.device import ALL_THREADS, DEVICE, FEWEST_ROUNDS

ELEMENTS, LARGE = 4096, 1 << 24
FILL = f"""
import torch, tritoninit
x = tritoninit.normal_(torch.empty({{}}, device={DEVICE!r}), key=tritoninit.Key(0))
print(x[:{ELEMENTS}].view(torch.int32).sum().item())
"""
TORCH_FILL = f"""
import torch
x = torch.nn.init.normal_(torch.empty({{}}, device={DEVICE!r}))
x[0].item()
"""
COMPILED = "first fill"
EMPTY = "first fill, nothing compiled"
COMPILERS = ("triton", "numba")  # backends whose kernels are compiled and kept on disk
ROUNDS = FEWEST_ROUNDS if DEVICE == "cuda" else 9


def trials(quick: bool) -> list[Trial]:
    if quick:
        return []
    tasks = [("import torch", "torch", 0), ("import tritoninit", ours()[0], 0)]
    tasks += [(COMPILED, name, ELEMENTS) for name in [*ours(), "torch"]]
    tasks += [(COMPILED, name, LARGE) for name in [ours()[0], "torch"]]
    tasks += [(EMPTY, name, ELEMENTS) for name in ours() if name in COMPILERS]
    return [Trial("start", subject, "float32", n, ALL_THREADS, name) for subject, name, n in tasks]


def start(trial: Trial, cache: Path) -> str:
    """What a process prints that does the trial's work and ends; compiled kernels are kept in ``cache``."""
    code = {"import torch": "import torch", "import tritoninit": "import torch, tritoninit"}.get(
        trial.subject, (FILL if trial.ours else TORCH_FILL).format(trial.elements)
    )
    root = str(
        Path(tritoninit.__file__).parents[1]
    )  # whoever imports it from a checkout has not installed it
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "NUMBA_CACHE_DIR": str(cache),
        "TRITON_CACHE_DIR": str(cache),
    }
    if trial.ours:
        asked = trial.subject == EMPTY or trial.contender != ours()[0]
        environment["TRITONINIT_BACKEND"] = trial.contender if asked else ""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def check(printed: str) -> None:
    """Raise WrongValues unless a process printed the sum of the reference's bits."""
    with tritoninit.use_backend("numpy"):
        wanted = tritoninit.normal_(torch.empty(ELEMENTS), key=tritoninit.Key(0))
    if int(printed) != wanted.view(torch.int32).sum():
        raise WrongValues("a process of its own does not draw the reference's values")


def bench_start(trial: Trial, described: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A process goes before those that are timed: it reads libraries from disk, and compiles what is kept.

    Where rows are told how many seconds to take, or each compiles, as few follow as there may be.
    """
    printed = start(trial, tmp_path / "kept")
    if trial.ours and trial.elements:
        check(printed)
    caches = map(str, count()) if trial.subject == EMPTY else repeat("kept")

    def setup() -> tuple[tuple[Trial, Path], dict[str, Any]]:
        return (trial, tmp_path / next(caches)), {}

    few = trial.subject == EMPTY or request.config.option.seconds is not None
    rounds = FEWEST_ROUNDS if few else ROUNDS
    described.pedantic(start, setup=setup, rounds=rounds)
