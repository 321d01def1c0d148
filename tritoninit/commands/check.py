"""``tritoninit check``: run the proof that backends are equal, and print how it went."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from tritoninit import checks, registry
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.terminal import fail, print_lines, progress_display, stage, table
from tritoninit.words import availability

if TYPE_CHECKING:
    from rich.progress import Progress


def run(arguments: argparse.Namespace) -> int:
    rows: list[list[str]] = []
    total, difference = 0, None
    with progress_display() as progress:
        for each in _announced(arguments):
            try:
                values, difference, seconds = _outcome(each, progress)
            except checks.CheckFailed as error:
                return fail(str(error), 1)
            total += values
            pair = f"{each.backend} = {each.against}"
            rows.append([pair, each.where, f"{each.cases:,}", f"{values:,}", f"{seconds:.1f}"])
            if difference:
                break
    print_lines(
        *table(["backends", "where", ">cases", ">values", ">seconds"], rows),
        "",
        f"{total:,} values compared. {'The first that differs:' if difference else 'No difference.'}",
    )
    if difference:
        print_lines(difference)
        return 1
    return 0


def _announced(arguments: argparse.Namespace) -> list[checks.BackendCheck]:
    """What is to be compared, once that is printed."""
    against = f"against {checks.REFERENCE}, the reference, bit for bit; stream version {STREAM_VERSION}"
    if arguments.emulate is not None:
        archs = [name.strip() for name in arguments.emulate.split(",")]
        found = checks.emulations(archs, arguments.seed, arguments.quick)
        print_lines(f"Compiled kernels, executed, {against}, seed {arguments.seed}", "")
        return found
    print_lines(
        f"Every backend here {against}, seed {arguments.seed}",
        *(f"{each.name} is {availability(each)}" for each in registry.backends() if not each.available),
        "",
    )
    return checks.backend_checks(arguments.seed, arguments.quick)


def _outcome(check: checks.BackendCheck, progress: Progress | None) -> tuple[int, str | None, float]:
    """How many values were compared, the first that differs, and the seconds it took."""
    values, difference = 0, None
    start = time.perf_counter()
    with stage(progress, f"{check.backend} on {check.where}", check.cases) as advance:
        for outcome in check.run():
            values += outcome.values
            difference = outcome.difference
            advance()
    return values, difference, time.perf_counter() - start
