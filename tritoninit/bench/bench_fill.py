"""One tensor filled: distribution, dtype, size and contender, by one thread of the CPU and by all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from tritoninit.bench.contenders import FILLS, STOCHASTIC, SUBJECTS, Trial, check, contender, contenders
from tritoninit.bench.device import ALL_THREADS, DEVICE, Memory, largest, using_threads, waiting

SIZES = tuple(2**k for k in (8, 12, 16, 20, 24, 28, 30))
QUICK_SIZES = (2**8, 2**16, 2**24)
ONE_THREAD_SIZE = 2**24


def trials(quick: bool) -> list[Trial]:
    """Contenders next to each other, and sizes from small to large, so that the large can be predicted."""
    dtypes = ("float32", "bfloat16") if quick else ("float32", "bfloat16", "float16")
    return [
        Trial("fill", subject, dtype, size, threads, each.name)
        for dtype in dtypes
        for subject in (*FILLS, *([STOCHASTIC] if dtype == "bfloat16" and not quick else []))
        for size in (QUICK_SIZES if quick else SIZES)
        if size * getattr(torch, dtype).itemsize <= largest()
        for threads in _threads(size, quick)
        for each in contenders(quick)
        if each.threaded or threads == ALL_THREADS
        if each.ours or subject != STOCHASTIC
    ]


def _threads(size: int, quick: bool) -> Iterator[int]:
    if size == ONE_THREAD_SIZE and DEVICE == "cpu" and ALL_THREADS > 1 and not quick:
        yield 1
    yield ALL_THREADS


def bench_fill(trial: Trial, affordable: None, timed: Callable[..., None], memory: Memory) -> None:
    filler, fill = contender(trial.contender), SUBJECTS[trial.subject]
    with trial.serving(), using_threads(trial.threads):
        buffers = memory.ring(trial.elements, trial.torch_dtype)
        buffers[0].fill_(math.nan)  # so that what is left out shows
        prepared = filler.prepare(fill, buffers)
        with waiting(prepared.wait):
            check(filler, fill, prepared.call())
            timed(prepared.call)
