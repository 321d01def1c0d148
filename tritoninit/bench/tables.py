"""A comparison in words: tables for the terminal and in Markdown, and every number as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Final

from tritoninit.bench import inspection
from tritoninit.bench.comparison import PREDICTED, Comparison, Line, Task, task_of
from tritoninit.bench.result_files import Row
from tritoninit.bench.sizes import size
from tritoninit.outputs import shown
from tritoninit.terminal import table
from tritoninit.words import short

_TIMES: Final = "\N{MULTIPLICATION SIGN}"
_MICRO: Final = "\N{MICRO SIGN}"
_PLUS_MINUS: Final = "\N{PLUS-MINUS SIGN}"
_DOT: Final = "\N{MIDDLE DOT}"
_NUMBERS: Final = ("elements", "threads")  # the headings of columns that stand to the right


@dataclass(frozen=True)
class Measure:
    """One of a cell's numbers: its heading, the number, and how that reads."""

    heading: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]

    def show(self, row: Row | None) -> str:
        value = None if row is None else self.value(row)
        return "-" if value is None else self.text(value)


@dataclass(frozen=True)
class Section:
    """The lines of one kind, and the measures that some cell of theirs has."""

    title: str
    subject: str
    lines: Sequence[Line]
    measures: Sequence[Measure]

    @property
    def threaded(self) -> bool:
        """Whether lines differ in how much of a machine they had."""
        return any(line.task.scope != "all" for line in self.lines)

    @property
    def headings(self) -> list[str]:
        """Of the columns that say what was done."""
        return [self.subject, "dtype", "elements", *(["threads"] if self.threaded else [])]

    def labels(self, task: Task) -> list[str]:
        """What those columns say of a task."""
        return [task.subject, task.dtype, size(task.elements), *([task.scope] if self.threaded else [])]


def number(value: float) -> str:
    """Three digits, whole from 100 on.

    >>> number(0.01234), number(12345.6)
    ('0.0123', '12,346')
    """
    return f"{value:,.0f}" if value >= 99.95 else short(value, 3)


def percent(fraction: float) -> str:
    return f"{100 * fraction:.0f}%" if fraction >= 0.0995 else f"{short(100 * fraction, 2)}%"


def times(ratio: float) -> str:
    return f"{number(ratio)}{_TIMES}"


OF_MEMSET: Final = Measure("of memset", lambda row: row.memset_fraction, percent)
OF_TORCH: Final = Measure(f"{_TIMES} torch", lambda row: row.torch_ratio, times)
OF_MEDIAN: Final = Measure(f"{_PLUS_MINUS} 95%", lambda row: row.uncertainty, percent)
_RATE: Final = Measure("GS/s", lambda row: row.gs_per_s, number)
_MILLISECONDS: Final = Measure("ms", lambda row: row.median * 1e3, number)
_STAYING: Final = "Fills too small to leave the cache"
# By kind: its title, what its subjects are, and its speed.
_TABLES: Final = {
    "fill": ("Fills that reach the memory", "distribution", _RATE),
    "cached": ("One tensor in the cache, filled again and again", "distribution", _RATE),
    "call": (
        "Calls on a small tensor",
        "distribution",
        Measure(f"{_MICRO}s", lambda row: row.median * 1e6, number),
    ),
    "model": ("Whole models", "model", _MILLISECONDS),
    "structured": ("Structured initializers", "initializer", _MILLISECONDS),
    "start": ("Start of a process", "what", _MILLISECONDS),
}


def sections(found: Comparison) -> Iterator[Section]:
    """One a kind; two of fills, of those that reach the memory and of those too small to leave the cache."""
    for kind, group in groupby(found.lines, key=lambda line: line.task.kind):
        lines = list(group)
        title, subject, speed = _TABLES[kind]
        if kind == "fill":
            reaching, staying = (_reaching(found, lines, cached) for cached in (False, True))
            yield from _section(title, subject, speed, reaching)
            yield from _section(_STAYING, subject, speed, staying)
        else:
            yield from _section(title, subject, speed, lines)


def _reaching(found: Comparison, lines: Sequence[Line], cached: bool) -> list[Line]:
    """What the lines have of fills that stay in their machine's cache, or of the others."""
    parts = [
        Line(
            line.task,
            tuple(
                row if row is not None and results.cached(row) == cached else None
                for row, results in zip(line.cells, found.results, strict=True)
            ),
        )
        for line in lines
    ]
    return [part for part in parts if any(part.cells)]


def _section(title: str, subject: str, speed: Measure, lines: Sequence[Line]) -> Iterator[Section]:
    rows = [row for line in lines for row in line.cells if row is not None]
    every = (speed, OF_MEDIAN, OF_MEMSET, OF_TORCH)
    measures = [m for m in every if any(m.value(row) is not None for row in rows)]
    if lines:
        yield Section(title, subject, lines, measures)


def text(found: Comparison) -> list[str]:
    """Tables for the terminal."""
    lines = [
        f"{r.name}: {found.contenders(column) or 'no row'} in {shown(r.path)},"
        f" torch {r.machine.get('torch')}, commit {r.commit or 'unknown'}"
        for column, r in enumerate(found.results)
    ]
    for section in sections(found):
        labels = [f">{name}" if name in _NUMBERS else name for name in section.headings]
        columns = [_column(section, column) for column in range(len(found.results))]
        headings = [*labels, *(f">{r.name}" for r in found.results)]
        rows = [
            [*section.labels(line.task), *cells] for line, *cells in zip(section.lines, *columns, strict=True)
        ]
        lines += ["", f"{section.title}: {_legend(section)}", *table(headings, rows)]
    rows = list(predicted_rows(found))
    if rows:
        lines += ["", f"Predicted beside measured, {predicted_for()}", *table(PREDICTED_HEADINGS, rows)]
        lines += predicted_by(found)
    return lines


def _legend(section: Section) -> str:
    return ", ".join(measure.heading for measure in section.measures)


def _column(section: Section, column: int) -> list[str]:
    """A machine's cells, each number below the other."""
    cells = [[m.show(line.cells[column]) for m in section.measures] for line in section.lines]
    widths = [max(map(len, numbers)) for numbers in zip(*cells, strict=True)]
    return ["  ".join(n.rjust(room) for n, room in zip(cell, widths, strict=True)) for cell in cells]


PREDICTED_HEADINGS: Final = (
    *("machine", "distribution", "dtype", ">elements", ">predicted GS/s", ">measured GS/s"),
    *(">measured / predicted", "bound by"),
)


def predicted_for() -> str:
    """Whose kernels predictions are about, and which compiler's: a machine may have another."""
    return f"{PREDICTED}: kernels as Triton {inspection.stored()['triton']} compiles them"


def predicted_by(found: Comparison) -> list[str]:
    """By machine, the bandwidth that its predictions divide by: of its memset, or of the data sheet."""
    return [
        f"{results.name}: memory at {words}."
        for results, predictions in zip(found.results, found.predictions, strict=True)
        for words in dict.fromkeys(p.memory for p in predictions.values() if p.memory)
    ]


def predicted_rows(found: Comparison) -> Iterator[list[str]]:
    for results, predictions in zip(found.results, found.predictions, strict=True):
        for row, prediction in sorted(predictions.items(), key=lambda p: task_of(results, p[0]).place):
            measured = row.gs_per_s or math.nan
            yield [
                *(results.name, row.subject, row.dtype, size(row.elements)),
                *(number(prediction.gs_per_s), number(measured)),
                *(percent(measured / prediction.gs_per_s), prediction.bound),
            ]


def markdown(found: Comparison) -> list[str]:
    """The same tables, as GitHub renders them."""
    lines: list[str] = []
    for section in sections(found):
        headings = [*section.headings, *(r.name for r in found.results)]
        rows = [
            [*section.labels(line.task), *(_cell(section, row) for row in line.cells)]
            for line in section.lines
        ]
        lines += [f"**{section.title}**: {_legend(section)}", "", *markdown_table(headings, rows, 2), ""]
    rows = list(predicted_rows(found))
    if rows:
        headings = [heading.removeprefix(">") for heading in PREDICTED_HEADINGS]
        title = f"**Predicted beside measured**, {predicted_for()}"
        lines += [title, "", *markdown_table(headings, rows, 3), "", *predicted_by(found), ""]
    return lines[:-1]


def _cell(section: Section, row: Row | None) -> str:
    return "-" if row is None else f" {_DOT} ".join(measure.show(row) for measure in section.measures)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table whose columns stand to the right, but for the first ``left``."""
    rule = ["---" if column < left else "---:" for column in range(len(headings))]
    return [f"| {' | '.join(map(_in_cell, row))} |" for row in (headings, rule, *rows)]


def _in_cell(word: str) -> str:
    return word.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def tidy(found: Comparison) -> str:
    """Every row of every contender on every machine, a line each: all digits, nothing where unknown.

    Below them what is predicted of machines that were not measured, which has neither a size nor a time.
    """
    file = io.StringIO(newline="")
    names = [field.name for field in fields(Row)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["machine", *names, "cached", "predicted_gs_per_s", "bound_by"])
    for results, predictions in zip(found.results, found.predictions, strict=True):
        for row in sorted(results.rows, key=lambda row: (task_of(results, row).place, row.contender)):
            prediction = predictions.get(row)
            words = (prediction.gs_per_s, prediction.bound) if prediction else (None, None)
            values = (getattr(row, name) for name in names)
            cached = results.cached(row) if row.kind in ("fill", "cached") else None
            writer.writerow([results.name, *values, cached, *words])
    for forecast in found.forecasts:
        for (subject, dtype), prediction in forecast.predictions.items():
            known = {"kind": "fill", "subject": subject, "dtype": dtype, "contender": PREDICTED}
            words = (prediction.gs_per_s, prediction.bound)
            writer.writerow([forecast.name, *(known.get(name) for name in names), None, *words])
    return file.getvalue()
