"""How long an initialisation takes, by the benchmarks' clock."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from tritoninit.bench.device import timer, waiting
from tritoninit.fills import Constant, Normal, TruncatedNormal, Uniform

# What happens once (kernels compile, threads start) happens to these, outside of measurements.
WARM_UP = (Constant(0.0), Uniform(), Normal(), TruncatedNormal())
_SECONDS = 0.3  # what is shorter may be repeated, and its median taken
_RUNS = 25


@dataclass(frozen=True)
class Timing:
    """How long it took, as the median of so many runs."""

    seconds: float
    runs: int


def timed(run: Callable[[], object], device: torch.device, runs: int = _RUNS) -> Timing:
    """Time ``run`` to the end of its work on the device, up to so many times if it is short.

    What lived before is frozen: a collection that walks all of it would take longer than most runs.
    """
    seconds: list[float] = []
    ended = partial(torch.accelerator.synchronize, device)
    gc.collect()
    gc.freeze()
    try:
        with nullcontext() if device.type == "cpu" else waiting(ended):
            while sum(seconds) < _SECONDS and len(seconds) < runs:
                start = timer()
                run()
                seconds.append(timer() - start)
    finally:
        gc.unfreeze()
    return Timing(statistics.median(seconds), len(seconds))
