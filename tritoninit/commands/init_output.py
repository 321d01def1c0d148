"""What ``tritoninit init`` says: the same on the terminal and, with more digits, as JSON."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from tritoninit.auditing.records import Audit
from tritoninit.auditing.report import Report
from tritoninit.commands.timing import Timing
from tritoninit.interception.intercepted import PassedOn
from tritoninit.machine import device_name, software
from tritoninit.rounding import NEAREST
from tritoninit.terminal import print_lines, terminal_width
from tritoninit.words import short


def summary(
    arguments: argparse.Namespace,
    device: torch.device,
    report: Report,
    passed_on: Iterable[PassedOn],
    ours: Timing,
) -> dict[str, Any]:
    """All that ``init`` has to say, as JSON has it."""
    parameters = [row for row in report.audit.rows if row.kind == "parameter"]
    total_bytes = sum(row.bytes for row in parameters)
    totals = {
        "parameters": len(parameters),
        "elements": sum(math.prod(row.shape) for row in parameters),
        "bytes": total_bytes,
        **_rates(ours, total_bytes),
    }
    return {
        "spec": arguments.spec,
        "dtype": arguments.dtype,
        "rounding": arguments.rounding,
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": software(),
        **report.as_dict(),
        "totals": totals,
        "torch_nn_init": None,
        "passed_on": [asdict(each) for each in passed_on],
    }


def compared(totals: Mapping[str, Any], theirs: Timing | str) -> dict[str, Any]:
    """What torch.nn.init's time, or why there is none, adds to the totals, as JSON has it."""
    if isinstance(theirs, str):
        return {"error": theirs}
    return {**_rates(theirs, totals["bytes"]), "ratio": theirs.seconds / totals["seconds"]}


def _rates(timing: Timing, total_bytes: int) -> dict[str, float]:
    return {
        "seconds": timing.seconds,
        "gigabytes_per_second": total_bytes / timing.seconds / 1e9,
        "runs": timing.runs,
    }


def show(audit: Audit, summary: Mapping[str, Any], scheme: str | None) -> None:
    """Print the model's table, the totals, the comparison if there is one, and what the audit found.

    ``scheme`` is where its rules are published; None if its own code was intercepted and its construction
    timed.
    """
    totals, theirs = summary["totals"], summary["torch_nn_init"]
    print_lines(
        f"{summary['spec']}, seed {summary['seed']}, {_dtype(summary)} on {summary['device_name']}",
        f"Scheme: {scheme or 'its own code, intercepted; timed is its construction'}",
        "",
        *audit.table(terminal_width()),
        "",
        f"{totals['elements']:,} elements in {totals['parameters']} parameters,"
        f" {totals['bytes'] / 1e6:,.4g} MB: {_speed(totals)}",
    )
    if theirs is not None:
        print_lines(_comparison(theirs))
    left = Counter(
        f"{each['function']} of {each['target']}: {each['reason']}" for each in summary["passed_on"]
    )
    print_lines(
        *(f"Left to PyTorch{f', {n} times' if n > 1 else ''}: {what}" for what, n in left.items()),
        *audit.findings,
        audit.summary(),
    )


def _dtype(summary: Mapping[str, Any]) -> str:
    """The dtype, and how it was rounded to, if otherwise than to nearest."""
    rounding = summary["rounding"]
    return summary["dtype"] if rounding == NEAREST else f"{summary['dtype']} ({rounding} rounding)"


def _speed(rates: Mapping[str, float]) -> str:
    runs = "" if rates["runs"] == 1 else f" (median of {rates['runs']})"
    return f"{rates['seconds']:.3g} s, {rates['gigabytes_per_second']:.3g} GB/s{runs}"


def _comparison(theirs: Mapping[str, Any]) -> str:
    if "error" in theirs:
        return f"torch.nn.init cannot do the same: {theirs['error']}"
    return f"torch.nn.init: {theirs['seconds']:.3g} s, tritoninit {short(theirs['ratio'], 3)} times as fast"
