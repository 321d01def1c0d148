"""``tritoninit compare``: results of several machines side by side, as text, Markdown, CSV, figure and page.

A row is something done (a distribution, dtype and size filled, a model initialised), a column a machine. A
cell has the speed there, its share of memset's on that machine in the same run, and how many times torch's it
is. Only the first says which machine is faster; the others say how much of its machine a kernel uses.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritoninit.bench.result_files import KINDS, Results, Row, read_all
from tritoninit.outputs import UsageError, replacing, shown
from tritoninit.report import print_lines, short, table

if TYPE_CHECKING:
    from tritoninit.bench.inspection import Prediction

_TIMES: Final = "\N{MULTIPLICATION SIGN}"
_MICRO: Final = "\N{MICRO SIGN}"
_DOT: Final = "\N{MIDDLE DOT}"
_NUMBERS: Final = ("elements", "threads")  # the headings of columns that stand to the right
_SUBJECTS: Final = ("uniform", "normal", "truncated_normal")
_DTYPES: Final = ("float32", "float16", "bfloat16")
_PREDICTED: Final = "triton"  # whose kernels predictions are about


@dataclass(frozen=True)
class Task:
    """What was done, whoever did it: a row of the comparison. ``scope`` is as ``Results.scope`` has it."""

    kind: str
    subject: str
    dtype: str
    elements: int
    scope: str

    @property
    def place(self) -> tuple[object, ...]:
        """Where it stands among others: by kind, subject, dtype, elements, and all threads first."""
        subject, dtype = _place(_SUBJECTS, self.subject), _place(_DTYPES, self.dtype)
        return KINDS.index(self.kind), *subject, *dtype, self.elements, self.scope != "all", self.scope

    def __str__(self) -> str:
        threads = "" if self.scope == "all" else f", {self.scope} thread{'' if self.scope == '1' else 's'}"
        return f"{self.kind} {self.subject} {self.dtype} {size(self.elements)}{threads}"


def _place(known: Sequence[str], name: str) -> tuple[int, str]:
    return (known.index(name) if name in known else len(known)), name


@dataclass(frozen=True)
class Line:
    """A task, and what each machine took for it: None where it was not measured."""

    task: Task
    cells: tuple[Row | None, ...]


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


@dataclass(frozen=True)
class Comparison:
    """Several machines' results, the lines that they make, and by row what was predicted for each machine."""

    results: Sequence[Results]
    lines: Sequence[Line]
    predictions: Sequence[Mapping[Row, Prediction]]

    def contenders(self, column: int) -> str:
        """Whose numbers a machine's column shows."""
        # A start that is nobody's work (see _chosen) stands in every column.
        rows = [row for line in self.lines if (row := line.cells[column]) is not None]
        names = dict.fromkeys(row.contender for row in rows if row.kind != "start")
        return ", ".join(names or dict.fromkeys(row.contender for row in rows))


def run(
    files: Sequence[Path],
    *,
    html: Path | None = None,
    png: Path | None = None,
    md: Path | None = None,
    csv: Path | None = None,
    contender: str | None = None,
    fail_below: float | None = None,
) -> int:
    """Print the comparison of result files, and write it where asked to.

    Args:
        files: one or more, each of another run. With ``fail_below`` two: the baseline, then the candidate.
        html, png, md, csv: what to write, as a page, a figure, tables, and all rows of all contenders.
        contender: whose speed to show; by default each machine's own default backend.
        fail_below: the part of the baseline's speed that the candidate must keep, see ``kept``.

    Returns:
        The exit code: 1 if ``fail_below`` is given and a row fell, else 0.

    Raises:
        UsageError: the files cannot be read or compared, an output is an input, or nothing is comparable.
    """
    outputs = [path for path in (html, png, md, csv) if path is not None]
    counts = Counter(map(os.path.realpath, (*files, *outputs)))
    for path in outputs:
        if counts[os.path.realpath(path)] > 1:
            raise UsageError(f"{shown(path.name)} would be overwritten: name each file once")
    if fail_below is not None:
        if not (math.isfinite(fail_below) and fail_below > 0):
            raise UsageError(f"--fail-below is a number above 0, as 0.9 is, and not {fail_below}")
        if len(files) != 2:
            raise UsageError(
                f"--fail-below compares two files, a baseline and a candidate, and not {len(files)}"
            )
    found = compare(read_all(files), contender)
    written = _documents(found, html=html, png=png, md=md, csv=csv)
    verdict, code = ([], 0) if fail_below is None else _verdict(found, fail_below)
    for path, content in written.items():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    print_lines(*text(found), *verdict)
    return code


def fact(machine: Mapping[str, Any], where: Sequence[str]) -> Any:
    """What machine_info has there; None where it has nothing."""
    found: Any = machine
    for name in where:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _documents(found: Comparison, **paths: Path | None) -> dict[Path, bytes]:
    """What to write where; all of it is made before any is written."""
    makers: dict[str, Callable[[Comparison], bytes]] = {
        "html": _page,
        "png": _figure,
        "md": lambda c: "\n".join([*markdown(c), ""]).encode(),
        "csv": lambda c: tidy(c).encode(),
    }
    return {path: makers[name](found) for name, path in paths.items() if path is not None}


def _page(found: Comparison) -> bytes:
    from tritoninit.bench import page

    return page.html(found).encode()


def _figure(found: Comparison) -> bytes:
    from tritoninit.bench import figures

    return figures.png(found)


def compare(results: Sequence[Results], contender: str | None = None) -> Comparison:
    """Lines of the default backend of each machine, or of one contender on all.

    Raises:
        UsageError: no file has a row of that contender.
    """
    known = {row.contender: None for r in results for row in r.rows}
    if contender is not None and contender not in known:
        raise UsageError(f"no row is of contender {contender!r}; there are {shown(', '.join(known))}")
    columns = [_chosen(r, contender) for r in results]
    tasks = sorted({task for column in columns for task in column}, key=lambda task: task.place)
    lines = [Line(task, tuple(column.get(task) for column in columns)) for task in tasks]
    return Comparison(results, lines, [predicted(r) for r in results])


def task_of(results: Results, row: Row) -> Task:
    return Task(row.kind, row.subject, row.dtype, row.elements, results.scope(row))


def _chosen(results: Results, contender: str | None) -> dict[Task, Row]:
    if contender is not None:
        return {task_of(results, row): row for row in results.rows if row.contender == contender}
    chosen = {task_of(results, row): row for row in results.rows if row.default}
    # What a start has that is no backend's work (importing torch) is there for the rest to be compared with.
    starts = {task_of(results, row): row for row in results.rows if row.kind == "start" and not row.ours}
    return starts | chosen


def predicted(results: Results) -> dict[Row, Prediction]:
    """Predictions for this machine, each with the largest fill that it is to be compared with."""
    from tritoninit.bench import inspection

    found: dict[Row, Prediction] = {}
    for (subject, dtype), prediction in inspection.predictions(results.machine).items():
        rows = fills(results, subject, dtype, _PREDICTED)
        if rows:
            found[rows[-1]] = prediction
    return found


def fills(results: Results, subject: str, dtype: str, contender: str) -> list[Row]:
    """A contender's fills with all of the machine, by size."""
    rows = (
        row
        for row in results.rows
        if (row.kind, row.subject, row.dtype, row.contender) == ("fill", subject, dtype, contender)
        and results.scope(row) == "all"
        and row.elements  # none has no place on a logarithmic axis
    )
    return sorted(rows, key=lambda row: row.elements)


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


_RATIOS: Final = (
    Measure("of memset", lambda row: row.memset_fraction, percent),
    Measure(f"{_TIMES} torch", lambda row: row.torch_ratio, times),
)
_RATE: Final = Measure("GS/s", lambda row: row.gs_per_s, number)
_MILLISECONDS: Final = Measure("ms", lambda row: row.median * 1e3, number)
# By kind: its title, what its subjects are, and its speed.
_TABLES: Final = {
    "fill": ("Fills", "distribution", _RATE),
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
    for kind, group in groupby(found.lines, key=lambda line: line.task.kind):
        lines = list(group)
        title, subject, speed = _TABLES[kind]
        rows = [row for line in lines for row in line.cells if row is not None]
        measures = [m for m in (speed, *_RATIOS) if any(m.value(row) is not None for row in rows)]
        yield Section(title, subject, lines, measures)


def size(elements: int) -> str:
    """A number of elements, as a power of two where it is one and not small."""
    if elements >= 16 and elements.bit_count() == 1:
        return f"2^{elements.bit_length() - 1}"
    return f"{elements:,}"


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
    from tritoninit.bench import inspection

    return f"{_PREDICTED}: kernels as Triton {inspection.stored()['triton']} compiles them"


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
        lines += [f"**{section.title}**: {_legend(section)}", "", *_markdown_table(headings, rows, 2), ""]
    rows = list(predicted_rows(found))
    if rows:
        headings = [heading.removeprefix(">") for heading in PREDICTED_HEADINGS]
        title = f"**Predicted beside measured**, {predicted_for()}"
        lines += [title, "", *_markdown_table(headings, rows, 3), ""]
    return lines[:-1]


def _cell(section: Section, row: Row | None) -> str:
    return "-" if row is None else f" {_DOT} ".join(measure.show(row) for measure in section.measures)


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table whose columns stand to the right, but for the first ``left``."""
    rule = ["---" if column < left else "---:" for column in range(len(headings))]
    return [f"| {' | '.join(map(_in_cell, row))} |" for row in (headings, rule, *rows)]


def _in_cell(word: str) -> str:
    return word.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def tidy(found: Comparison) -> str:
    """Every row of every contender on every machine, a line each: all digits, nothing where unknown."""
    file = io.StringIO(newline="")
    names = [field.name for field in fields(Row)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["machine", *names, "predicted_gs_per_s", "bound_by"])
    for results, predictions in zip(found.results, found.predictions, strict=True):
        for row in sorted(results.rows, key=lambda row: (task_of(results, row).place, row.contender)):
            prediction = predictions.get(row)
            words = (prediction.gs_per_s, prediction.bound) if prediction else (None, None)
            writer.writerow([results.name, *(getattr(row, name) for name in names), *words])
    return file.getvalue()


@dataclass(frozen=True)
class Kept:
    """How much of a baseline's speed relative to torch, or to memset, a candidate kept at a task."""

    task: Task
    baseline: Row
    candidate: Row

    @property
    def part(self) -> float | None:
        """The larger of the two; None if the files have neither in common.

        A contender's ratio to itself is 1 whatever its speed, and left out.
        """
        parts = [
            now / before
            for other, before, now in (
                ("torch", self.baseline.torch_ratio, self.candidate.torch_ratio),
                ("memset", self.baseline.memset_fraction, self.candidate.memset_fraction),
            )
            if before is not None and now is not None and other != self.candidate.contender
        ]
        return max(parts, default=None)


def kept(found: Comparison) -> list[Kept]:
    """The tasks at which the second machine can be held against the first.

    A machine that is shared is now faster and now slower, so that times of two runs say little. Torch and
    memset are timed in the same run as we are, and what slows all three cancels. What a row keeps is the
    larger of what it keeps of the two ratios: one lucky measurement of torch or of memset moves one of them,
    a slower kernel both. What has neither ratio is not held against anything, nor is the start of a process,
    most of which is not ours.
    """
    pairs = []
    for line in found.lines:
        before, now = line.cells
        if before is not None and now is not None and line.task.kind != "start":
            pairs.append(Kept(line.task, before, now))
    return [pair for pair in pairs if pair.part is not None]


def _verdict(found: Comparison, least: float) -> tuple[list[str], int]:
    """What to say of a baseline and a candidate, and the exit code.

    Raises:
        UsageError: there is nothing that both have.
    """
    baseline, candidate = found.results
    pairs = kept(found)
    if not pairs:
        raise UsageError(
            f"{shown(baseline.path)} and {shown(candidate.path)} have no row in common that"
            " --fail-below could judge"
        )
    fell = [pair for pair in pairs if pair.part is not None and pair.part < least]
    lines = [
        "",
        *_two_machines(baseline, candidate),
        f"{len(pairs) - len(fell)} of {len(pairs)} rows kept {least:g} of the baseline's relative speed",
    ]
    missing = sum(1 for line in found.lines if line.cells[0] and not line.cells[1])
    if missing:
        lines.append(f"{missing} rows of the baseline were not measured again")
    if fell:
        before, now = shown(baseline.path), shown(candidate.path)
        lines += ["", f"Fell, {before} before and {now} now", *_fallen(fell)]
    return lines, int(bool(fell))


def _two_machines(baseline: Results, candidate: Results) -> Iterator[str]:
    """A line if the files are of two machines, on which ratios differ though no kernel does."""
    facts = {"device": ("device",), "accelerator": ("accelerator", "name"), "CPU": ("cpu", "brand_raw")}
    differences = []
    for name, where in {**facts, "threads": ("threads",)}.items():
        before, now = fact(baseline.machine, where), fact(candidate.machine, where)
        if before != now:
            differences.append(f"{name} {shown(before)} before and {shown(now)} now")
    if differences:
        yield f"These are two machines, whose ratios may differ for that alone: {', '.join(differences)}"


def _fallen(fell: Sequence[Kept]) -> list[str]:
    torch, memset = _RATIOS[1], _RATIOS[0]
    rows = [
        [
            str(pair.task),
            *(measure.show(row) for measure in (torch, memset) for row in (pair.baseline, pair.candidate)),
            short(pair.part, 3),
        ]
        for pair in fell
    ]
    return table(
        ["row", f">{torch.heading} before", ">now", f">{memset.heading} before", ">now", ">kept"], rows
    )
