"""What an audit gives back: a record of every tensor, its findings among them, and a table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from tritoninit.auditing.fingerprint import salt_multiplier
from tritoninit.terminal import table
from tritoninit.words import name_of_many, name_pattern, range_in_words, shape_in_words, short


@dataclass(frozen=True)
class TensorRecord:
    """What one parameter or buffer holds: a line of the JSON report.

    ``initializer``, ``lowered`` (the fill that it came to), ``seed``, ``stream`` and ``backend`` say how it
    was set, and ``code`` which code of the model's says so, as far as a report knows. Moments are None where
    an element is not finite or there is none.

    Attributes:
        name: in the model.
        kind: "parameter" or "buffer".
        shape: of the whole, in elements.
        dtype: as "float32".
        bytes: of the whole.
        initializer, lowered, summary: by what it was set, in words; None if nobody knows.
        seed, stream: of its key; None of what has none.
        backend: which wrote it.
        code: a file and a line.
        hash: :func:`~tritoninit.bits_hash` without a salt, in hexadecimal.
        mean, std, min, max: of all elements.
        nan, inf: how many are not finite.
        expected_mean, expected_std: of the distribution; None where none is known.
        z_mean, z_std: by how many of their own standard deviations the two differ from what is expected.
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
    code: str
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
    """What :func:`~tritoninit.audit` found.

    Attributes:
        rows: one a parameter and then one a buffer, under its first name.
        findings: what is wrong, as sentences with qualified names, sorted.
        remarks: what may be meant, in the same form.
        coverage: how much of the model was set, once, to finite numbers.
        partial: names of those of which other ranks hold elements that are not measured here.
    """

    rows: tuple[TensorRecord, ...]
    findings: tuple[str, ...]
    remarks: tuple[str, ...]
    coverage: Coverage
    partial: tuple[str, ...] = ()

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
        with its window, add up to it, and so do those of ranks without replicas, where they are
        :attr:`partial`. Buffers do not count, since modules compute some of them.
        """
        hashes = {row.name: row.hash for row in self.rows if row.kind == "parameter"}
        salted = [int(hash_, 16) * salt_multiplier(name) for name, hash_ in hashes.items() if hash_]
        return f"{sum(salted) % 2**64:016x}"

    def summary(self) -> str:
        """Coverage, the worst z and the fingerprint in one line.

        Returns:
            The line.
        """
        untouched, twice, nonfinite = map(len, self.coverage)
        parameters = sum(row.kind == "parameter" for row in self.rows)
        whose = f" of this rank's part ({len(self.partial)} are cut)" if self.partial else ""
        worst = "" if self.worst_z is None else f"; worst |z| {short(self.worst_z, 2)}"
        return (
            f"{parameters} parameters and {len(self.rows) - parameters} buffers: {untouched} untouched,"
            f" {twice} drawn twice, {nonfinite} with NaN or infinities{worst}; fingerprint{whose}"
            f" {self.fingerprint}"
        )

    def table(self, width: int | None = None) -> list[str]:
        """Lines of a table; tensors that differ by the number of their layer share one.

        Args:
            width: columns to keep within, as far as names stay readable; None is no limit.

        Returns:
            The lines, the first of which is the heading.
        """
        groups: dict[tuple[object, ...], list[TensorRecord]] = defaultdict(list)
        for row in self.rows:
            groups[name_pattern(row.name), row.shape, row.dtype, row.summary, row.backend, row.code].append(
                row
            )
        reported, own = any(row.summary for row in self.rows), any(row.code for row in self.rows)
        columns = [column for column in _COLUMNS if reported or not column.reported] + [_CODE] * own
        headings = [column.heading for column in columns]
        lines = [[column.cell(group) for column in columns] for group in groups.values()]
        shrink = [(0, 28), (2, 22), (0, 20)] if reported else [(0, 20)]
        return table(headings, lines, shrink, width)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it.

        Returns:
            Numbers, strings, lists and dictionaries.
        """
        kinds = {
            f"{kind}s": [asdict(row) for row in self.rows if row.kind == kind]
            for kind in ("parameter", "buffer")
        }
        return {
            **kinds,
            "coverage": {name: list(names) for name, names in self.coverage._asdict().items()},
            "partial": list(self.partial),
            "worst_z": self.worst_z,
            "fingerprint": self.fingerprint,
            "findings": list(self.findings),
            "remarks": list(self.remarks),
        }

    def to_json(self) -> str:
        """The same as a JSON document.

        Returns:
            A document of :meth:`as_dict`.
        """
        return json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join([*self.table(), "", *self.findings, *self.remarks, self.summary()])


class _Column(NamedTuple):
    """A column of an audit's table: ``reported`` ones need to know how the tensors were set."""

    heading: str
    cell: Callable[[Sequence[TensorRecord]], str]
    reported: bool = False


def _shape_cell(group: Sequence[TensorRecord]) -> str:
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

_CODE: Final = _Column("own code", lambda group: group[0].code or "-")


def _known(values: Iterable[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None)
