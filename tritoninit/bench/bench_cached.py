"""One tensor that stays in the last-level cache, filled again and again: what memory does not bound."""

from __future__ import annotations

import math
from collections.abc import Callable

from tritoninit.bench.contenders import FILLS, Trial, check, contender, contenders
from tritoninit.bench.device import ALL_THREADS, Memory, last_level_cache, using_threads, waiting

DTYPES = ("float32", "bfloat16")
PART = 4  # of the cache that a tensor takes, at most one in so many


def trials(quick: bool) -> list[Trial]:
    """The largest power of two that leaves most of the cache to others; none in a quick run."""
    return [
        Trial("cached", subject, dtype, elements(width), ALL_THREADS, each.name)
        for dtype, width in zip(DTYPES, (4, 2), strict=True)
        for subject in FILLS
        for each in contenders(quick)
        if not quick
    ]


def elements(width: int) -> int:
    """Of so many bytes each."""
    return int(2 ** math.floor(math.log2(last_level_cache() / (PART * width))))


def bench_cached(trial: Trial, affordable: None, timed: Callable[..., None], memory: Memory) -> None:
    filler, fill = contender(trial.contender), FILLS[trial.subject]
    with trial.serving(), using_threads(trial.threads):
        buffers = memory.ring(trial.elements, trial.torch_dtype)[:1]
        buffers[0].fill_(math.nan)
        prepared = filler.prepare(fill, buffers)
        with waiting(prepared.wait):
            check(filler, fill, prepared.call())
            timed(prepared.call)
