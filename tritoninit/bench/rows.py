"""Rows of pytest-benchmark's JSON: what tells one from all others, and what of it follows from the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TASK = ("kind", "subject", "dtype", "elements", "threads")


def complete(document: dict[str, Any]) -> None:
    """Give pytest-benchmark's rows what follows from others, in an order that does not depend on the run."""
    rows = document["benchmarks"]
    medians = {contender_of(row): row["stats"]["median"] for row in rows}
    for row in rows:
        info, seconds = row["extra_info"], row["stats"]["median"]
        row["stats"].pop("data", None)
        row["params"] = {name: info[name] for name in (*_TASK, "contender")}
        rated = info["kind"] != "start"
        info["gb_per_s"] = info["bytes"] / seconds / 1e9 if rated else None
        info["gs_per_s"] = info["elements"] / seconds / 1e9 if rated else None
        for name, peer in (("memset_fraction", "memset"), ("torch_ratio", "torch")):
            theirs = medians.get((*contender_of(row)[:-1], peer))
            info[name] = None if theirs is None else theirs / seconds
    rows.sort(key=contender_of)


def contender_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row from all others: its task, and who did it."""
    return tuple(row["extra_info"][name] for name in (*_TASK, "contender"))
