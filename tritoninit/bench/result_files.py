"""Result files of the benchmark suite: read, checked, and trimmed to what a comparison needs.

A result file is pytest-benchmark's JSON, whose ``machine_info`` and ``extra_info`` the suite has filled in.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from tritoninit.bench.device import PROTOCOL, UNKNOWN_CACHE, stays_cached
from tritoninit.outputs import UsageError, shown

KINDS: Final = ("fill", "cached", "call", "model", "structured", "start")
# What results must share before numbers of one stand beside numbers of another.
_SHARED: Final = ("stream_version", "gate", "protocol")
_STATS: Final = (
    *("min", "max", "mean", "stddev", "rounds", "iterations", "median", "iqr", "q1", "q3"),
    *("ops", "outliers"),  # of no use here, but pytest-benchmark's own compare fails without them
)
_NOISE: Final = re.compile(
    r"\((?:R|TM|C)\)|\bNVIDIA\b|^AMD (?=Instinct)|\bCPU\b|\bProcessor\b|@ *[\d.]+ *GHz"
)

_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # half a character, which JSON may have and no file


class _Damaged(ValueError):
    """Something in a row is missing or cannot be; the message names it."""


@dataclass(frozen=True)
class Row:
    """One contender's times for one thing done, as the suite's ``extra_info`` and ``stats`` have them.

    ``median``, ``q1`` and ``q3`` are seconds, ``gb_per_s`` and ``gs_per_s`` 1e9 bytes and elements a second
    of the median. ``memset_fraction`` and ``torch_ratio`` are the median of memset and of torch, in the same
    run and for the same work, over this one: higher is faster. ``median_low`` and ``median_high`` are where
    the interval ends that holds the median with 95 %. None is what was not measured.
    """

    kind: str
    subject: str
    contender: str
    ours: bool
    default: bool
    dtype: str
    elements: int
    bytes: int
    threads: int
    device: str
    gb_per_s: float | None
    gs_per_s: float | None
    memset_fraction: float | None
    torch_ratio: float | None
    median: float
    q1: float
    q3: float
    rounds: int
    median_low: float | None = None  # which results before it was told do not have
    median_high: float | None = None

    @property
    def uncertainty(self) -> float | None:
        """How far the median may be off, as a part of it: the farther end of its interval."""
        if self.median_low is None or self.median_high is None:
            return None
        return max(self.median_high - self.median, self.median - self.median_low) / self.median

    @property
    def rate(self) -> float:
        """Elements a second."""
        return self.elements / self.median


@dataclass(frozen=True)
class Results:
    """What a file of measurements holds: ``machine`` is its machine_info, ``name`` that in a few words."""

    path: Path
    name: str
    machine: Mapping[str, Any]
    commit: str
    rows: tuple[Row, ...]
    date: str = ""  # when it was written, as ISO 8601 has it; '' if unknown

    @property
    def accelerator(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.machine.get("accelerator")
        return found

    @property
    def cache_bytes(self) -> int:
        """Of the last cache before the memory: as it was found, or a GPU's L2, or as many as most have."""
        found = self.machine.get("last_level_cache_bytes") or (self.accelerator or {}).get("l2_bytes")
        return found if type(found) is int and found > 0 else UNKNOWN_CACHE

    def cached(self, row: Row) -> bool:
        """Whether what a row writes stays in that cache, and reaches the memory only later or never."""
        return row.kind == "cached" or stays_cached(row.bytes, self.cache_bytes)

    def memset_gb_per_s(self) -> float | None:
        """1e9 bytes a second: the fastest memset that reached the memory, None if none was measured."""
        speeds = [
            row.bytes / row.median / 1e9
            for row in self.rows
            if (row.kind, row.contender) == ("fill", "memset")
            and self.scope(row) == "all"
            and not self.cached(row)
        ]
        return max(speeds, default=None)

    def scope(self, row: Row) -> str:
        """How much of the machine a row had: 'all' of it, or a fill that had fewer threads of a CPU, '1'."""
        part = row.kind == "fill" and row.device == "cpu" and row.threads != self.machine["threads"]
        return str(row.threads) if part else "all"


def read(path: Path) -> Results:
    """The results in a file.

    Raises:
        UsageError: it cannot be read, is not the suite's, is of another protocol, empty, or damaged.
    """
    content = document(path)
    name = shown(path)
    machine = content["machine_info"]
    if machine["protocol"] != PROTOCOL:
        protocol = f"{shown(machine['protocol']):.40}"
        raise UsageError(f"{name} was timed by protocol {protocol}, and this release reads {PROTOCOL}")
    for field, kind in (("stream_version", int), ("gate", str), ("threads", int)):
        if type(machine.get(field)) is not kind:
            raise UsageError(f"{name} is damaged: its machine_info has {field} {machine.get(field)!r:.40}")
    if not isinstance(machine.get("accelerator"), (dict, type(None))):
        raise UsageError(f"{name} is damaged: its accelerator is {machine['accelerator']!r:.40}")
    if not content["benchmarks"]:
        raise UsageError(f"{name} is empty: a result file without a row")
    rows = tuple(_row(path, number, row) for number, row in enumerate(content["benchmarks"]))
    counts = Counter((r.kind, r.subject, r.dtype, r.elements, r.threads, r.contender) for r in rows)
    (twice, count), *_ = counts.most_common(1)
    if count > 1:
        raise UsageError(f"{name} is damaged: {count} rows for {shown(' '.join(map(str, twice)))}")
    commit = content.get("commit_info")
    commit = _commit(commit if isinstance(commit, dict) else {})
    return Results(path, machine_name(machine), machine, commit, rows, _plain(content.get("datetime")))


def document(path: Path) -> dict[str, Any]:
    """What a file of measurements holds, whatever its rows.

    Raises:
        UsageError: it cannot be read, or is not the suite's.
    """
    content, name = load(path), shown(path)
    if not isinstance(content, dict) or not (
        isinstance(content.get("machine_info"), dict) and isinstance(content.get("benchmarks"), list)
    ):
        raise UsageError(f"{name} is not a file of pytest-benchmark's")
    if "protocol" not in content["machine_info"]:
        raise UsageError(f"{name} is not from this suite, though from pytest-benchmark: it names no protocol")
    return content


def load(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        UsageError: it cannot be read.
    """
    if path == Path():  # which is '.', and '' too
        raise UsageError("a result file has a name, and not '' or '.'")
    name = shown(path)
    try:
        if path.is_char_device() or path.is_block_device():  # some have no end
            raise UsageError(f"{name} is not a file")
        return json.loads(path.read_bytes(), parse_int=_integer)
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    except UsageError:
        raise
    except (ValueError, RecursionError):
        raise UsageError(f"{name} is not JSON") from None


def _integer(digits: str) -> int | float:
    """An integer; one of more digits than anything here has is a float, which may be infinite."""
    return int(digits) if len(digits) < 20 else float(digits)


def _row(path: Path, number: int, found: Any) -> Row:
    name = found.get("name", f"number {number}") if isinstance(found, dict) else f"number {number}"
    try:
        info, stats = (_part(found, part) for part in ("extra_info", "stats"))
        values = {
            field.name: _value(field.name, str(field.type), info, stats)
            for field in fields(Row)
            if field.default is MISSING or field.name in info
        }
        if values["kind"] not in KINDS:
            raise _Damaged(f"kind is {values['kind']!r:.40}")
    except _Damaged as error:
        raise UsageError(f"{shown(path)} is damaged: row {shown(name):.100}: {error}") from None
    return Row(**values)


def _part(found: Any, name: str) -> dict[str, Any]:
    part = found.get(name) if isinstance(found, dict) else None
    if not isinstance(part, dict):
        raise _Damaged(f"no {name}")
    return part


def _value(name: str, kind: str, info: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
    """A field of a row, of the type that it is declared with."""
    source = stats if name in ("median", "q1", "q3", "rounds") else info
    if name not in source:
        raise _Damaged(f"no {name}")
    value = source[name]
    if kind.startswith("float"):
        good = value is None and kind.endswith("None")
        good = good or (type(value) in (int, float) and math.isfinite(value) and value > 0)
    elif kind == "int":
        good = type(value) is int and value >= 0
    else:
        good = type(value).__name__ == kind and not (kind == "str" and _SURROGATE.search(value))
    if not good:
        raise _Damaged(f"{name} is {value!r:.40}")
    return value


def _commit(commit: Mapping[str, Any]) -> str:
    """The commit in few words, '' if unknown; with what was changed since, if anything was."""
    return f"{_plain(commit.get('id'))[:12]}{', changed' if commit.get('dirty') else ''}"


def machine_name(machine: Mapping[str, Any]) -> str:
    """A machine in the fewest words that tell it from others.

    >>> machine_name({"accelerator": {"name": "NVIDIA H100 80GB HBM3"}})
    'H100 80GB HBM3'
    >>> machine_name({"cpu": {"brand_raw": "Intel(R) Xeon(R) CPU @ 2.20GHz", "count": 2}})
    'Intel Xeon, 2 cores'
    """
    if machine.get("accelerator"):
        return _plain(machine["accelerator"].get("name")) or "unnamed accelerator"
    cpu = machine.get("cpu")
    cpu = cpu if isinstance(cpu, dict) else {}
    brand, count = _plain(cpu.get("brand_raw")) or "unnamed CPU", cpu.get("count")
    return f"{brand}, {count} core{'' if count == 1 else 's'}" if type(count) is int else brand


def _plain(name: Any) -> str:
    """A product's name without trademarks, and without what cannot be printed."""
    text = "".join(c if c.isprintable() else " " for c in str(name or ""))
    return " ".join(_NOISE.sub(" ", text).split())


def read_all(paths: Sequence[Path]) -> list[Results]:
    """The results in files that may stand side by side, each of another name.

    Raises:
        UsageError: as ``read``; or there is none, one is given twice, or they may not be compared.
    """
    if not paths:
        raise UsageError("no result file to compare")
    check_distinct(paths)
    results = distinct([read(path) for path in paths])
    check_comparable(results)
    return results


def check_distinct(paths: Sequence[Path]) -> None:
    """Refuse a file that is given twice, by whatever names.

    Raises:
        UsageError: one is; the message names it.
    """
    counts = Counter(map(os.path.realpath, paths))
    for path in paths:
        if counts[os.path.realpath(path)] > 1:
            raise UsageError(f"{shown(path)} is given twice")


def distinct(results: Sequence[Results]) -> list[Results]:
    """Equal names told apart by their file's name, or by its path where that is equal too."""
    found = list(results)
    for words in (lambda r: r.path.stem, lambda r: str(r.path)):
        counts = Counter(r.name for r in found)
        found = [
            replace(now, name=f"{first.name} ({shown(words(now))})") if counts[now.name] > 1 else now
            for now, first in zip(found, results, strict=True)
        ]
    return found


def check_comparable(results: Sequence[Results]) -> None:
    """Refuse results whose numbers mean different things.

    Raises:
        UsageError: their stream version, gate or protocol differ; the message says which file has which.
    """
    differences = []
    for field in _SHARED:
        if len({r.machine[field] for r in results}) > 1:
            values = ", ".join(f"{shown(r.machine[field])} in {shown(r.path)}" for r in results)
            differences.append(f"{field} is {values}")
    if differences:
        raise UsageError(f"these may not be compared: {'; '.join(differences)}")


def trimmed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A result file's content without what no comparison reads, its numbers to six digits."""
    commit = document.get("commit_info") or {}
    return {
        "machine_info": {
            name: value for name, value in document["machine_info"].items() if not name.startswith("python_")
        }
        | {"python_version": document["machine_info"].get("python_version")},
        "commit_info": {name: commit.get(name) for name in ("id", "time", "dirty")},
        "benchmarks": [
            {name: row[name] for name in ("group", "name", "fullname", "params") if name in row}
            | {"extra_info": {name: _rounded(value) for name, value in row["extra_info"].items()}}
            | {"stats": {name: _rounded(row["stats"][name]) for name in _STATS if name in row["stats"]}}
            for row in document["benchmarks"]
        ],
        "datetime": document.get("datetime"),
        "version": document.get("version"),
    }


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write(document: Mapping[str, Any], path: Path) -> None:
    """A result file's content, as it is committed: a line for each row, so that a diff shows which moved."""
    parts = []
    for name, value in document.items():
        lines = value if name == "benchmarks" else [value]
        text = ",\n  ".join(json.dumps(line, allow_nan=False, ensure_ascii=False) for line in lines)
        parts.append(f"{json.dumps(name)}: " + (f"[\n  {text}\n ]" if name == "benchmarks" else text))
    path.write_text("{\n " + ",\n ".join(parts) + "\n}\n", encoding="utf-8")
