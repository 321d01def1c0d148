"""What stands around a comparison's tables, in words: all machines at a glance, and what changed on one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tritoninit.bench import changes, glance
from tritoninit.bench.changes import Change, Kept
from tritoninit.bench.comparison import Comparison
from tritoninit.bench.tables import markdown_table, times
from tritoninit.terminal import table

GLANCE: Final = "Machines at a glance"
GLANCE_LEGEND: Final = (
    "GS/s and share of memset in a large fill; of a machine that was not measured, what bounds it"
)
CHANGED: Final = "What changed"
CHANGED_HEADINGS: Final = ("by", ">fills", ">speed, now over before", ">least", ">most", ">faster", ">slower")
NOTHING: Final = "No fill that reaches the memory is in both."
_ARROW: Final = "\N{RIGHTWARDS ARROW}"


def text(found: Comparison) -> list[str]:
    """For the terminal; nothing where there is one machine, measured once."""
    lines: list[str] = []
    if glance.several(found) and (rows := glance_rows(found)):
        headings = ["machine", *(f">{panel}" for panel in glance.columns(found))]
        lines += ["", f"{GLANCE}: {GLANCE_LEGEND}", *table(headings, rows)]
    for change in changes.changes(found.results):
        rows = list(kept_rows(change))
        lines += [
            "",
            f"{CHANGED}: {differences(change)}",
            *(table(CHANGED_HEADINGS, rows) if rows else [NOTHING]),
        ]
    return lines


def markdown(found: Comparison) -> list[str]:
    """The same, as GitHub renders it."""
    lines: list[str] = []
    if glance.several(found) and (rows := glance_rows(found)):
        headings = ["machine", *map(str, glance.columns(found))]
        lines += ["", f"**{GLANCE}**: {GLANCE_LEGEND}", "", *markdown_table(headings, rows, 1)]
    for change in changes.changes(found.results):
        headings = [heading.removeprefix(">") for heading in CHANGED_HEADINGS]
        rows = list(kept_rows(change))
        told = markdown_table(headings, rows, 1) if rows else [NOTHING]
        lines += ["", f"**{CHANGED}**: {differences(change)}", "", *told]
    return lines


def glance_rows(found: Comparison) -> list[list[str]]:
    """A line a machine; those that were not measured say so."""
    wanted = glance.columns(found)
    return [
        [
            f"{line.name}, predicted" if line.predicted else line.name,
            *(str(line.cells[panel]) if panel in line.cells else "-" for panel in wanted),
        ]
        for line in glance.machines(found)
    ]


def differences(change: Change) -> str:
    """Two results of one machine, and what of their versions is another."""
    versions = ", ".join(f"{name} {old} {_ARROW} {new}" for name, (old, new) in change.versions.items())
    return f"{change.before.name} {_ARROW} {change.now.name}: {versions or 'the same versions and commit'}"


def kept_rows(change: Change) -> Iterator[list[str]]:
    for kept in change.kept:
        yield [kept.contender, str(kept.fills), *_ratios(kept)]


def _ratios(kept: Kept) -> Iterator[str]:
    yield from map(times, (kept.mean, kept.least, kept.most))
    yield from ("-" if number is None else str(number) for number in (kept.faster, kept.slower))
