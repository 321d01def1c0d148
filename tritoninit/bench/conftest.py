"""What pytest and pytest-benchmark ask for by hooks: the suite's options, its rows and its results."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tritoninit
from tritoninit.bench import suite
from tritoninit.bench.contenders import Trial, default
from tritoninit.bench.device import (
    ALL_THREADS,
    DEVICE,
    PROTOCOL,
    Memory,
    accelerator,
    last_level_cache,
    measure,
)
from tritoninit.bench.intervals import of_median
from tritoninit.bench.record import RECORD
from tritoninit.machine import versions

SECONDS, QUICK_SECONDS = 0.5, 0.2  # a row
LONGEST = 2.0  # seconds a call; a row that would exceed it is left out

_FOLDER = Path(__file__).resolve().parent
_ROOT = _FOLDER.parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tritoninit")
    group.addoption("--quick", action="store_true", help="fewer rows, and less time for each")
    group.addoption("--seconds", type=float, help="for each row")
    group.addoption(
        "--filter",
        metavar="PATTERN",
        action="append",
        default=[],
        help="only rows with one of these in their name, in this order; * and ? are wild",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Those of a module's ``trials(quick)`` that can run are what the ``trial`` of its function stands for.

    Only the libraries of those that are asked for are imported: any may hang, or take the process with it.
    """
    option, name = metafunc.config.option, metafunc.function.__name__

    def wanted(text: str) -> bool:
        return not option.filter or any(suite.matches(text, pattern) for pattern in option.filter)

    trials = []
    if not option.filter or any(suite.may_match(name, pattern) for pattern in option.filter):
        trials = [trial for trial in metafunc.module.trials(option.quick) if wanted(f"{name}[{trial}]")]
    metafunc.parametrize("trial", [trial for trial in trials if trial.can_run()], ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # pytest makes an item of a function without trials, too.
    items[:] = [item for item in items if isinstance(item.callspec.params["trial"], Trial)]  # type: ignore[attr-defined]
    patterns = config.option.filter
    if patterns:
        ranked = [
            (min((k for k, p in enumerate(patterns) if suite.matches(item.name, p)), default=None), item)
            for item in items
        ]
        items[:] = [item for k in range(len(patterns)) for rank, item in ranked if rank == k]


@pytest.fixture(scope="session")
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="session")
def rates(request: pytest.FixtureRequest) -> dict[tuple[Any, ...], float]:
    """Seconds an element, by ``Trial.series``, in the fastest round of the largest size that was timed."""
    return request.config.stash[RECORD].rates()


@pytest.fixture
def affordable(trial: Trial, rates: dict[tuple[Any, ...], float]) -> None:
    """Leaves a trial out whose calls would take too long, by what an element took at a smaller size."""
    predicted = rates.get(trial.series, 0.0) * trial.elements
    if predicted > LONGEST:
        pytest.skip(f"a call would take {predicted:.0f} s")


@pytest.fixture
def described(trial: Trial, benchmark: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """pytest-benchmark's fixture, told what the trial is; what it has measured is kept."""
    benchmark.group = " ".join(map(str, trial.task))
    benchmark.extra_info.update(
        kind=trial.kind,
        contender=trial.contender,
        ours=trial.ours,
        default=trial.contender == default(),
        subject=trial.subject,
        dtype=trial.dtype,
        elements=trial.elements,
        bytes=trial.bytes,
        threads=trial.threads,
        device=DEVICE,
    )
    yield benchmark
    if benchmark.stats is not None and not benchmark.stats.has_error:
        low, high = of_median(benchmark.stats.stats.data) or (None, None)
        benchmark.extra_info.update(median_low=low, median_high=high)
        request.config.stash[RECORD].add(benchmark.stats)


@pytest.fixture
def timed(
    trial: Trial, described: Any, rates: dict[tuple[Any, ...], float], request: pytest.FixtureRequest
) -> Callable[[Callable[[], object]], None]:
    """Times a call, which has run once and been checked, for as long as a trial may take."""

    def timed(call: Callable[[], object]) -> None:
        option = request.config.option
        measure(described, call, option.seconds or (QUICK_SECONDS if option.quick else SECONDS))
        rates[trial.series] = described.stats.stats.min / trial.elements

    return timed


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    cpu = machine_info["cpu"]
    # The host's name and the build of its Python say nothing about speed.
    found = {
        "python_version": machine_info["python_version"],
        "system": platform.system(),
        "cpu": {name: cpu.get(name) for name in ("brand_raw", "count")},
        "threads": ALL_THREADS,
        "device": DEVICE,
        "accelerator": accelerator(),
        "last_level_cache_bytes": last_level_cache(),
        "torch": torch.__version__,
        **versions("triton", "numpy", "numba", "cupy", "jax", "flag_gems"),
        "tritoninit": tritoninit.__version__,
        "stream_version": tritoninit.STREAM_VERSION,
        "gate": "bits",
        "protocol": PROTOCOL,
    }
    machine_info.clear()
    machine_info.update(found)


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    """The commit of this checkout, if it is one; not that of the folder that the suite was started in."""
    commit_info.clear()
    commit_info.update(id=None, dirty=None)
    if (_ROOT / ".git").exists():
        changes = _git("status", "--porcelain", "-uno")
        commit_info.update(id=_git("rev-parse", "HEAD"), dirty=None if changes is None else bool(changes))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_FOLDER, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
