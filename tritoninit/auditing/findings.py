"""What a model's parameters hold: measured, compared with what was asked for, and searched for mistakes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor, nn

from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.fingerprint import bits_hash, check_readable, pieces, salt_multiplier
from tritoninit.auditing.moments import ALARM, Expected, Moments, expected, judged, measure, scores
from tritoninit.fills import Fill
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.models.slots import slots
from tritoninit.report import (
    describe,
    lowered,
    name_of_many,
    name_pattern,
    range_in_words,
    shape_in_words,
    short,
    table,
)
from tritoninit.targets import TargetError, dtype_name

_SAMPLE: Final = 256  # elements that tell whether a tensor looks random
_FEWEST: Final = 16  # of fewer elements, equal ones may be chance or design


@dataclass(frozen=True)
class Row:
    """What one parameter or buffer holds: a line of the JSON report.

    ``initializer``, ``lowered`` (the fill that it came to), ``seed``, ``stream`` and ``backend`` say how it
    was set, as far as a report knows; the hash is :func:`~tritoninit.bits_hash` without a salt, in
    hexadecimal. Moments are None where an element is not finite or there is none.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    initializer: str | None
    lowered: str | None
    summary: str | None
    seed: int | None
    stream: int | None
    backend: str
    hash: str | None
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    nan: int
    inf: int
    expected_mean: float | None
    expected_std: float | None
    z_mean: float | None
    z_std: float | None

    @property
    def worst_z(self) -> float | None:
        return max((abs(z) for z in (self.z_mean, self.z_std) if z is not None), default=None)

    @property
    def constant(self) -> float | None:
        """The one number that all elements are, if they are."""
        return self.min if self.min == self.max else None


class Coverage(NamedTuple):
    """Names of parameters and buffers: how much of a model was set, once, to finite numbers.

    Attributes:
        untouched: kept as they were or given no initializer; without a report, those that have no memory.
        drawn_twice: those that share memory with another without being tied to it.
        nonfinite: those that hold NaN or infinities.
    """

    untouched: tuple[str, ...]
    drawn_twice: tuple[str, ...]
    nonfinite: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found.

    Attributes:
        rows: one a parameter and then one a buffer, under its first name.
        findings: what is wrong, as sentences with qualified names, sorted.
        remarks: what may be meant, in the same form.
        coverage: how much of the model was set, once, to finite numbers.
    """

    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    remarks: tuple[str, ...]
    coverage: Coverage

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def worst_z(self) -> float | None:
        """The farthest a mean or standard deviation is from what was asked for, in standard errors."""
        return max((row.worst_z for row in self.rows if row.worst_z is not None), default=None)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all parameters' names and bits, equal on every device and backend.

        The sum of ``bits_hash(parameter, salt=name)`` modulo 2**64: those of a model's shards, each hashed
        with its window, add up to it. Buffers do not count, since modules compute some of them.
        """
        hashes = {row.name: row.hash for row in self.rows if row.kind == "parameter"}
        salted = [int(hash_, 16) * salt_multiplier(name) for name, hash_ in hashes.items() if hash_]
        return f"{sum(salted) % 2**64:016x}"

    def summary(self) -> str:
        """Coverage, the worst z and the fingerprint in one line."""
        untouched, twice, nonfinite = map(len, self.coverage)
        parameters = sum(row.kind == "parameter" for row in self.rows)
        worst = "" if self.worst_z is None else f"; worst |z| {short(self.worst_z, 2)}"
        return (
            f"{parameters} parameters and {len(self.rows) - parameters} buffers: {untouched} untouched,"
            f" {twice} drawn twice, {nonfinite} with NaN or infinities{worst}; fingerprint {self.fingerprint}"
        )

    def table(self, width: int | None = None) -> list[str]:
        """Lines of a table; tensors that differ by the number of their layer share one.

        Args:
            width: columns to keep within, as far as names stay readable; None is no limit.
        """
        groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
        for row in self.rows:
            groups[name_pattern(row.name), row.shape, row.dtype, row.summary, row.backend].append(row)
        reported = any(row.summary for row in self.rows)
        columns = [column for column in _COLUMNS if reported or not column.reported]
        headings = [column.heading for column in columns]
        lines = [[column.cell(group) for column in columns] for group in groups.values()]
        shrink = [(0, 28), (2, 22), (0, 20)] if reported else [(0, 20)]
        return table(headings, lines, shrink, width)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        kinds = {
            f"{kind}s": [asdict(row) for row in self.rows if row.kind == kind]
            for kind in ("parameter", "buffer")
        }
        return {
            **kinds,
            "coverage": {name: list(names) for name, names in self.coverage._asdict().items()},
            "worst_z": self.worst_z,
            "fingerprint": self.fingerprint,
            "findings": list(self.findings),
            "remarks": list(self.remarks),
        }

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join([*self.table(), "", *self.findings, *self.remarks, self.summary()])


class _Column(NamedTuple):
    """A column of an audit's table: ``reported`` ones need to know how the tensors were set."""

    heading: str
    cell: Callable[[Sequence[Row]], str]
    reported: bool = False


def _shape_cell(group: Sequence[Row]) -> str:
    shape = shape_in_words(group[0].shape)
    return shape if len(group) == 1 else f"{len(group)} of {shape}"


_COLUMNS: Final = (
    _Column("parameter", lambda group: name_of_many([row.name for row in group])),
    _Column("shape", _shape_cell),
    _Column("initializer", lambda group: group[0].summary or "-", reported=True),
    _Column(">mean", lambda group: range_in_words([row.mean for row in group], 2)),
    _Column(">std", lambda group: range_in_words([row.std for row in group], 3)),
    _Column(">|z|", lambda group: short(max(_known(row.worst_z for row in group), default=None), 2), True),
    _Column("backend", lambda group: group[0].backend or "-", reported=True),
)


def _known(values: Iterable[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None)


class Report(Sequence[Assignment]):
    """What :func:`~tritoninit.initialize_` did: its assignments in order, and, when asked, what came of them.

    Tensors are measured when something first asks for :attr:`audit`, which ``print`` and :meth:`as_dict` do,
    and not again: ask before training changes them.

    Args:
        assignments: what was done.
        seed: of every key.
        module: the model, whose other parameters and buffers are audited, too.
    """

    def __init__(
        self, assignments: Iterable[Assignment], *, seed: int, module: nn.Module | None = None
    ) -> None:
        self._assignments = tuple(assignments)
        self.seed = seed
        self.module = module

    @overload
    def __getitem__(self, index: int) -> Assignment: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Assignment, ...]: ...
    def __getitem__(self, index: int | slice) -> Assignment | tuple[Assignment, ...]:
        return self._assignments[index]

    def __len__(self) -> int:
        return len(self._assignments)

    @cached_property
    def audit(self) -> Audit:
        return _audit(_subjects(self.module, self._assignments), reported=True)

    def as_dict(self) -> dict[str, Any]:
        """The audit, the seed and the stream's version, as JSON has them."""
        return {"seed": self.seed, "stream_version": STREAM_VERSION, **self.audit.as_dict()}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return f"seed {self.seed}\n{self.audit}"

    def __repr__(self) -> str:
        return f"Report({len(self)} assignments, seed={self.seed})"


def audit(model: nn.Module, *, report: Report | None = None) -> Audit:
    """Measure a model's parameters and buffers, however it was initialised, and look for mistakes.

    Findings: NaN (infinities too, but in buffers, where masks hold them, they are a remark); tensors without
    memory; the same random numbers, scaled or not, at the start of two parameters, as when a generator is
    seeded anew or a layer copied (of parameters that need no gradient only if a report says that they are
    random); parameters that share memory without being tied. With a report also a mean or a standard
    deviation more than 8 standard errors (:data:`~tritoninit.auditing.moments.ALARM`) from what the
    initializer says, and a constant that is not one. Weights that are zero throughout are a remark. Each
    tensor is read twice, where it is, in a few MiB of scratch.

    Args:
        model: any module.
        report: what ``initialize_`` returned for it; measured again, unlike ``report.audit``.
    """
    return _audit(_subjects(model, report or ()), reported=report is not None)


class _Subject(NamedTuple):
    """One parameter or buffer to be looked at, and what was done to it."""

    name: str
    tensor: Tensor
    is_buffer: bool
    assignment: Assignment | None
    is_parametrized: bool = False  # what was drawn went through a function: nothing is expected of the result

    @property
    def is_set(self) -> bool:
        return self.assignment is not None and bool(self.assignment.backend)


def _subjects(model: nn.Module | None, assignments: Iterable[Assignment]) -> list[_Subject]:
    by_name = {each.name: each for each in assignments}
    if model is None:
        return [
            _Subject(name, each.tensor, not isinstance(each.tensor, nn.Parameter), each)
            for name, each in by_name.items()
        ]
    return [
        _Subject(slot.name, slot.tensor, slot.is_buffer, by_name.get(slot.name), slot.is_parametrized)
        for slot in slots(model)
    ]


def _audit(subjects: Sequence[_Subject], reported: bool) -> Audit:
    rows = [_row(each) for each in subjects]
    pairs = list(zip(subjects, rows, strict=True))
    shared = _sharing(subjects)
    findings = _sentences((row.name, what) for subject, row in pairs for what in _mistakes(subject, row))
    findings += [
        f"{a} and {b} share memory and are not tied: what sets one sets the other" for a, b in shared
    ]
    findings += _repeated(pairs)
    remarks = _sentences((row.name, what) for subject, row in pairs for what in _oddities(subject, row))
    coverage = Coverage(
        untouched=tuple(r.name for s, r in pairs if r.hash is None or (reported and not s.is_set)),
        drawn_twice=tuple(dict.fromkeys(chain.from_iterable(shared))),
        nonfinite=tuple(row.name for row in rows if row.nan or row.inf),
    )
    return Audit(tuple(rows), tuple(sorted(findings)), tuple(sorted(remarks)), coverage)


def _sentences(said: Iterable[tuple[str, str]]) -> list[str]:
    """What is said of each name, in one sentence where it is the same for names of a pattern."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, what in said:
        alike[name_pattern(name), what].append(name)
    return [f"{name_of_many(names)} {what}" for (_, what), names in alike.items()]


def _mistakes(subject: _Subject, row: Row) -> Iterator[str]:
    reason = _unreadable(subject.tensor)
    if reason is not None:
        yield f"cannot be looked at: {reason}"
    elif row.nan or (row.inf and not subject.is_buffer):
        yield _nonfinite(row)
    else:
        yield from _deviations(subject, row)


def _oddities(subject: _Subject, row: Row) -> Iterator[str]:
    if subject.is_buffer and row.inf and not row.nan:
        yield _nonfinite(row)
    elif len(row.shape) > 1 and row.constant == 0 and not subject.is_buffer:
        yield "is zero throughout"


def _row(subject: _Subject) -> Row:
    tensor = subject.tensor
    readable = _unreadable(tensor) is None
    lazy = nn.parameter.is_lazy(tensor)
    shape = () if lazy else tuple(tensor.shape)
    found = measure(tensor) if readable else Moments(0)
    wanted = _expected(subject)
    z = scores(found, wanted) if wanted else (None, None)
    done = subject.assignment
    return Row(
        name=subject.name,
        kind="buffer" if subject.is_buffer else "parameter",
        shape=shape,
        dtype=dtype_name(tensor),
        bytes=0 if lazy else tensor.nbytes,
        initializer=repr(done.initializer) if done else None,
        lowered=repr(lowered(done.initializer, shape)) if done else None,
        summary=describe(done.initializer, shape) if done else None,
        seed=done.key.seed if done and done.key else None,
        stream=done.key.stream if done and done.key else None,
        backend=done.backend if done else "",
        hash=f"{bits_hash(tensor):016x}" if readable else None,
        mean=found.mean,
        std=found.std,
        min=found.min,
        max=found.max,
        nan=found.nan,
        inf=found.inf,
        expected_mean=wanted.mean if wanted else None,
        expected_std=wanted.std if wanted else None,
        z_mean=z[0],
        z_std=z[1],
    )


def _unreadable(x: Tensor) -> str | None:
    """Why there is nothing to measure in a tensor, or None."""
    try:
        check_readable(x)
    except TargetError as error:
        return str(error)
    return None


def _expected(subject: _Subject) -> Expected | None:
    if not subject.is_set or subject.assignment is None or subject.is_parametrized:
        return None
    fill = lowered(subject.assignment.initializer, subject.tensor.shape)
    return expected(fill, subject.tensor.dtype) if isinstance(fill, Fill) else None


def _deviations(subject: _Subject, row: Row) -> Iterator[str]:
    """What is not as the initializer says."""
    wanted = _expected(subject)
    if wanted is None or row.mean is None:
        return
    if not wanted.std:
        if row.constant != wanted.mean:
            extremes = f"{short(row.min, 6)} to {short(row.max, 6)}"
            yield f"should be {short(wanted.mean, 6)} throughout and is {extremes}"
        return
    if not judged(math.prod(row.shape), wanted.kurtosis):
        return
    for what, value, right, z in (
        ("mean", row.mean, wanted.mean, row.z_mean),
        ("standard deviation", row.std, wanted.std, row.z_std),
    ):
        if z is not None and abs(z) > ALARM:
            yield (
                f"has a {what} of {short(value, 6)} where {row.summary} has {short(right, 6)}:"
                f" {short(abs(z), 3)} standard errors apart"
            )


def _nonfinite(row: Row) -> str:
    counts = [f"{count:,} {what}" for count, what in ((row.nan, "NaN"), (row.inf, "infinite")) if count]
    return f"holds {' and '.join(counts)} of {math.prod(row.shape):,} elements"


def _repeated(pairs: Iterable[tuple[_Subject, Row]]) -> Iterator[str]:
    """What is said of parameters that begin with the same random numbers, whatever their scale and shape."""
    alike: dict[tuple[str, ...], list[tuple[_Subject, Row]]] = defaultdict(list)
    for subject, row in pairs:
        done = subject.assignment
        # Frozen ones that nobody is known to have drawn may hold a formula's values, such as sinusoids.
        drawn = subject.tensor.requires_grad if done is None else done.key is not None
        if row.hash and drawn and not subject.is_buffer and row.mean is not None and row.constant is None:
            start = _random_start(subject.tensor)
            if start is not None:
                alike[start].append((subject, row))
    for group in alike.values():
        if len(group) > 1:
            names: dict[str, list[str]] = defaultdict(list)
            for subject, _ in group:
                names[name_pattern(subject.name)].append(subject.name)
            whole = len({(row.hash, row.dtype, row.shape) for _, row in group}) == 1
            what = "hold" if whole else "begin with"
            yield f"{' and '.join(map(name_of_many, names.values()))} {what} the same random numbers"


def _random_start(x: Tensor) -> tuple[str, ...] | None:
    """A tensor's first elements relative to the very first; None if they do not look random.

    Mostly different and in no order: no table of a formula's values.
    """
    if x.numel() < _FEWEST or not x.is_floating_point():
        return None
    sample = next(pieces(x, _SAMPLE))[1].double().cpu().numpy()
    steps = np.diff(sample)
    ordered = bool((steps >= 0).all() or (steps <= 0).all())
    if ordered or 2 * np.unique(sample).size <= sample.size or not sample[0]:
        return None
    return tuple(f"{ratio:.4g}" for ratio in sample[1:_FEWEST] / sample[0])


def _sharing(subjects: Sequence[_Subject]) -> list[tuple[str, str]]:
    """Pairs of names whose memory meets."""
    spans: dict[torch.device, list[tuple[int, int, _Subject]]] = defaultdict(list)
    for each in subjects:
        x = each.tensor
        if _unreadable(x) is None and x.numel():
            reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
            spans[x.device].append((x.data_ptr(), x.data_ptr() + (reach + 1) * x.itemsize, each))
    found = []
    for places in spans.values():
        open_: list[tuple[int, int, _Subject]] = []
        for begin, end, each in sorted(places, key=lambda place: place[0]):
            open_ = [place for place in open_ if place[1] > begin]
            found += [(other.name, each.name) for _, _, other in open_ if _meet(other.tensor, each.tensor)]
            open_.append((begin, end, each))
    return found


def _meet(a: Tensor, b: Tensor) -> bool:
    """Whether two strided tensors have a byte of memory in common."""
    reaches: dict[int, list[int]] = defaultdict(lambda: [0, 0])  # how far down and up each stride leads
    for x, down in ((a, 0), (b, 1)):
        reaches[1][1 - down] += x.itemsize - 1
        for size, stride in zip(x.shape, x.stride(), strict=True):
            reaches[stride * x.itemsize][1 - down] += size - 1
    strides = sorted((stride for stride in reaches if stride), reverse=True)
    return _solvable(a.data_ptr() - b.data_ptr(), [(s, -reaches[s][0], reaches[s][1]) for s in strides])


def _solvable(offset: int, terms: Sequence[tuple[int, int, int]]) -> bool:
    """Whether offset + sum of stride * k = 0 for some k in [least, most] of each (stride, least, most).

    Strides descend, so that what the smaller ones can still make up leaves few k to try.
    """
    if not terms:
        return offset == 0
    (stride, least, most), *rest = terms
    below = sum(s * k for s, k, _ in rest)
    above = sum(s * k for s, _, k in rest)
    first = max(least, -((offset + above) // stride))
    last = min(most, (-offset - below) // stride)
    return any(_solvable(offset + stride * k, rest) for k in range(first, last + 1))
