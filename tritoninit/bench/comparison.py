"""Results of several machines side by side: what ``tritoninit compare`` shows, and what its verdict is about.

A line is something done (a distribution, dtype and size filled, a model initialised), a column a machine. A
cell has the speed there, its share of memset's on that machine in the same run, and how many times torch's it
is. Only the first says which machine is faster; the others say how much of its machine a kernel uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tritoninit.bench import inspection
from tritoninit.bench.forecasts import Forecast
from tritoninit.bench.inspection import Prediction
from tritoninit.bench.result_files import KINDS, Results, Row
from tritoninit.bench.sizes import size
from tritoninit.outputs import UsageError, shown

PREDICTED: Final = "triton"  # whose kernels predictions are about
SUBJECTS: Final = ("uniform", "normal", "truncated_normal")
_DTYPES: Final = ("float32", "float16", "bfloat16")


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
        subject, dtype = _place(SUBJECTS, self.subject), _place(_DTYPES, self.dtype)
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
class Comparison:
    """Several machines' results, the lines that they make, and by row what was predicted for each machine.

    ``forecasts`` are of machines that were not measured.
    """

    results: Sequence[Results]
    lines: Sequence[Line]
    predictions: Sequence[Mapping[Row, Prediction]]
    forecasts: Sequence[Forecast] = ()

    def contenders(self, column: int) -> str:
        """Whose numbers a machine's column shows."""
        # A start that is nobody's work (see _chosen) stands in every column.
        rows = [row for line in self.lines if (row := line.cells[column]) is not None]
        names = dict.fromkeys(row.contender for row in rows if row.kind != "start")
        return ", ".join(names or dict.fromkeys(row.contender for row in rows))


def compare(
    results: Sequence[Results], contender: str | None = None, forecasts: Sequence[Forecast] = ()
) -> Comparison:
    """Lines of the default backend of each machine, or of one contender on all.

    Args:
        results: of machines that were measured.
        contender: whose speed to show; by default each machine's own default backend.
        forecasts: of machines that were not.

    Raises:
        UsageError: no file has a row of that contender.
    """
    known = {row.contender: None for r in results for row in r.rows}
    if contender is not None and contender not in known:
        raise UsageError(f"no row is of contender {contender!r}; there are {shown(', '.join(known))}")
    columns = [_chosen(r, contender) for r in results]
    tasks = sorted({task for column in columns for task in column}, key=lambda task: task.place)
    lines = [Line(task, tuple(column.get(task) for column in columns)) for task in tasks]
    return Comparison(results, lines, [predicted(r) for r in results], forecasts)


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
    predictions = inspection.predictions(results.machine, results.memset_gb_per_s())
    found: dict[Row, Prediction] = {}
    for (subject, dtype), prediction in predictions.items():
        rows = fills(results, subject, dtype, PREDICTED)
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


@dataclass(frozen=True)
class Panel:
    """The fills of one distribution and dtype."""

    subject: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.subject.replace('_', ' ')}, {self.dtype}"


def panels(found: Comparison) -> list[Panel]:
    """What was measured of some machine, in the order of the table."""
    tasks = (line.task for line in found.lines)
    return list(
        dict.fromkeys(Panel(t.subject, t.dtype) for t in tasks if t.kind == "fill" and t.scope == "all")
    )


def telling(found: Comparison, panel: Panel, column: int) -> Row | None:
    """The fill that stands for a machine's others: the largest that memset and torch were timed at too.

    A small fill is in the cache, and says nothing of the memory; but of a large one, torch may take so long
    that it was left out. Without torch at any size the largest with memset, without memset the largest.
    """

    def rank(row: Row) -> tuple[bool, bool, int]:
        return row.memset_fraction is not None, row.torch_ratio is not None, row.elements

    lines = (line for line in found.lines if line.task.kind == "fill" and line.task.scope == "all")
    rows = (line.cells[column] for line in lines if Panel(line.task.subject, line.task.dtype) == panel)
    return max((row for row in rows if row is not None), key=rank, default=None)


def fact(machine: Mapping[str, Any], where: Sequence[str]) -> Any:
    """What machine_info has there; None where it has nothing."""
    found: Any = machine
    for name in where:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
