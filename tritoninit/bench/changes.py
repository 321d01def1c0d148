"""What became faster or slower on one machine from one file of results to the next, and what else changed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Final

from tritoninit.bench.comparison import Task, fact, task_of
from tritoninit.bench.result_files import Results, Row

_MACHINE: Final = (
    *(("accelerator", "name"), ("accelerator", "multiprocessors"), ("accelerator", "memory_bytes")),
    *(("cpu", "brand_raw"), ("cpu", "count"), ("threads",), ("device",)),
)
_VERSIONS: Final = {
    **{name: (name,) for name in ("torch", "triton", "numba", "numpy", "cupy", "jax", "flag_gems")},
    "driver": ("accelerator", "driver"),
    "tritoninit": ("tritoninit",),
}
_OURS: Final = "tritoninit"


@dataclass(frozen=True)
class Kept:
    """How a contender's speed at the same fills changed: now over before.

    ``mean`` is the geometric mean over ``fills`` of them, ``least`` and ``most`` are the extremes. ``faster``
    and ``slower`` count those whose two intervals of the median are apart; None where a file tells none.
    """

    contender: str
    fills: int
    mean: float
    least: float
    most: float
    faster: int | None
    slower: int | None


@dataclass(frozen=True)
class Change:
    """Two results of one machine: ``versions`` by name, before and now, of what is another."""

    before: Results
    now: Results
    versions: Mapping[str, tuple[str, str]]
    kept: Sequence[Kept]


def changes(results: Sequence[Results]) -> list[Change]:
    """Of each machine that has several results, from each to the next, by when they were measured."""
    machines: dict[Hashable, list[Results]] = {}
    for each in results:
        machines.setdefault(tuple(str(fact(each.machine, where)) for where in _MACHINE), []).append(each)
    return [
        Change(before, now, dict(_versions(before, now)), list(_kept(before, now)))
        for of_one in machines.values()
        for before, now in pairwise(sorted(of_one, key=lambda r: r.date))
    ]


def _versions(before: Results, now: Results) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, where in _VERSIONS.items():
        found = [_word(fact(each.machine, where)) for each in (before, now)]
        if found[0] != found[1]:
            yield name, (found[0], found[1])
    if before.commit != now.commit:
        yield "commit", (before.commit or "unknown", now.commit or "unknown")


def _word(version: Any) -> str:
    return "none" if version is None else str(version)


def _kept(before: Results, now: Results) -> Iterator[Kept]:
    """Of what both have of fills that reach the memory: our default backend, then everyone else."""
    old, new = _fills(before), _fills(now)
    for contender in dict.fromkeys(contender for contender, _ in new):
        pairs = [(old[key], row) for key, row in new.items() if key[0] == contender and key in old]
        if pairs:
            ratios = [a.median / b.median for a, b in pairs]
            faster, slower = _apart(pairs)
            mean = math.exp(fmean(map(math.log, ratios)))
            yield Kept(contender, len(pairs), mean, min(ratios), max(ratios), faster, slower)


def _fills(results: Results) -> dict[tuple[str, Task], Row]:
    rows = [
        row
        for row in results.rows
        if row.kind == "fill" and not results.cached(row) and (row.default or not row.ours)
    ]
    rows.sort(key=lambda row: not row.default)
    return {(_OURS if row.default else row.contender, task_of(results, row)): row for row in rows}


def _apart(pairs: Sequence[tuple[Row, Row]]) -> tuple[int | None, int | None]:
    known = [
        (a.median_low, a.median_high, b.median_low, b.median_high)
        for a, b in pairs
        if None not in (a.median_low, a.median_high, b.median_low, b.median_high)
    ]
    if not known:
        return None, None
    faster = sum(1 for low, _, _, high in known if low is not None and high is not None and high < low)
    slower = sum(1 for _, high, low, _ in known if low is not None and high is not None and low > high)
    return faster, slower
