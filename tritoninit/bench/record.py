"""The rows of a run, on disk as they come, behind those of the run that it continues."""

from __future__ import annotations

import faulthandler
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tritoninit.bench import conditions, result_files
from tritoninit.bench.device import DEVICE, Neighbours
from tritoninit.bench.rows import complete, contender_of
from tritoninit.outputs import UsageError, replacing, shown

RECORD: pytest.StashKey[Record] = pytest.StashKey()
# Of the machine_info, what may change from a run to the one that continues it.
_BUSY, _CONDITIONS = _PASSING = ("cores_busy_elsewhere", "conditions")


class Record:
    """A plugin of pytest's that keeps what is measured.

    Attributes:
        document: pytest-benchmark's, of the rows that were timed so far; None before the first.
        kept: rows that an earlier run had timed, which are not timed again.
        skipped: rows that are left out, since an earlier run was killed while it was at them.
        lost: a row that took the GPU's context with it, so that nothing after it could run here.
        refused: why the earlier run may not be continued.
    """

    def __init__(self, out: Path | None, resume: bool, limit: float | None) -> None:
        self.document: dict[str, Any] | None = None
        self.kept = 0
        self.skipped: list[str] = []
        self.lost: str | None = None
        self.refused: str | None = None
        self._out = out
        self._limit = limit
        self._failed = False
        self._failures: dict[str, str] = {}  # what was raised, by row
        self._new: list[Any] = []
        # Rows that an earlier run began and did not end; the row that this one is at.
        self._unfinished: list[str] = []
        self._neighbours = Neighbours()
        self._conditions: dict[str, Any] = {}  # when a run began, and when it ended
        self._earlier = _earlier(out) if resume and out is not None else None
        # Before its first row, a run that continues none has nothing to put into an old file's place.
        self._writing = resume

    def rates(self) -> dict[tuple[Any, ...], float]:
        """Seconds an element in the earlier run, by ``Trial.series``: of the largest size each."""
        largest: dict[tuple[Any, ...], tuple[int, float]] = {}
        for row in self._earlier_rows():
            kind, subject, dtype, elements, threads, contender = contender_of(row)
            series = (kind, subject, dtype, threads, contender)
            if elements > largest.get(series, (0, 0.0))[0]:
                largest[series] = elements, row["stats"]["min"] / elements
        return {series: rate for series, (_, rate) in largest.items()}

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[RECORD] = self
        self._config = config

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Leave out what is there; refuse to continue a run of another machine or program."""
        hook = self._config.hook
        self._machine: dict[str, Any] = hook.pytest_benchmark_generate_machine_info(config=self._config)
        hook.pytest_benchmark_update_machine_info(config=self._config, machine_info=self._machine)
        self._conditions["begin"] = self._earlier_conditions().get("begin") or conditions.read()
        self._commit: dict[str, Any] = hook.pytest_benchmark_generate_commit_info(config=self._config)
        hook.pytest_benchmark_update_commit_info(config=self._config, commit_info=self._commit)
        if self._earlier is None:
            return
        self.refused = _difference(
            {**self._earlier["machine_info"], "commit": self._earlier.get("commit_info")},
            {**self._machine, "commit": self._commit},
        )
        if self.refused is not None:
            session.items.clear()
            return
        self._unfinished = list(self._earlier.get("unfinished", []))
        self._failures = dict(self._earlier.get("failed", {}))
        timed = {contender_of(row) for row in self._earlier_rows()}
        wanted = []
        for item in session.items:
            trial = item.callspec.params["trial"]  # type: ignore[attr-defined]  # of those that are parametrised
            if (*trial.task, trial.contender) in timed:
                self.kept += 1
            elif item.name in self._unfinished:
                self.skipped.append(item.name)
            else:
                wanted.append(item)
        session.items[:] = wanted
        self._write()

    def pytest_sessionfinish(self) -> None:
        """Look at the clocks while they are what the last row had, or nearly."""
        if self.document is not None and self.lost is None:
            self._conditions["end"] = conditions.read()
            self._write()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._failed = False
        self._failures.pop(item.name, None)
        self._unfinished.append(item.name)
        if self._writing:
            self._write()
        if self._limit is not None:  # by a thread that no call into a driver can hold up
            faulthandler.dump_traceback_later(self._limit, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            result = yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            if self._failed and _context_is_lost():
                self.lost = item.name
                item.session.shouldstop = "the GPU's context is lost"
            else:
                self._unfinished.remove(item.name)
            if self._writing:
                self._write()
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = True
            crash = getattr(report.longrepr, "reprcrash", None)
            why = str(getattr(crash, "message", report.longreprtext[-300:]))[:300]
            self._failures.setdefault(report.nodeid.rpartition("::")[2], why)

    def add(self, stats: Any) -> None:
        """Keep what pytest-benchmark has measured of a row."""
        self._new.append(stats)
        self._writing = True

    def _earlier_rows(self) -> list[dict[str, Any]]:
        return [] if self._earlier is None else self._earlier["benchmarks"]

    def _earlier_conditions(self) -> dict[str, Any]:
        found = {} if self._earlier is None else self._earlier["machine_info"].get(_CONDITIONS)
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        document: dict[str, Any] = self._config.hook.pytest_benchmark_generate_json(
            config=self._config,
            benchmarks=self._new,
            include_data=False,
            machine_info={**self._machine, _BUSY: self._busy(), _CONDITIONS: self._conditions},
            commit_info=self._commit,
        )
        # Through JSON, so that a row is what a later run reads: it holds its ``Trial``, and Decimals.
        document = json.loads(json.dumps(document, default=str))
        document["benchmarks"] += self._earlier_rows()
        if self._unfinished:
            document["unfinished"] = self._unfinished
        if self._failures:
            document["failed"] = self._failures
        complete(document)
        self.document = document
        if self._out is not None:
            with replacing(self._out) as temporary:
                temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def _busy(self) -> float | None:
        """CPUs that others kept busy, in this run or in the one that it continues, whichever is more."""
        before = None if self._earlier is None else self._earlier["machine_info"].get(_BUSY)
        now = self._neighbours.cores()
        return now if before is None else before if now is None else max(before, now)


def _context_is_lost() -> bool:
    """Whether CUDA answers nothing any more, as after an illegal access, until the process ends."""
    if DEVICE != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except Exception:  # noqa: BLE001 - by PyTorch's version another one
        return True
    return False


def _earlier(path: Path) -> dict[str, Any] | None:
    """The result file that is there, or None.

    Raises:
        UsageError: it is none of this suite's, or damaged.
    """
    if not path.exists():
        return None
    document = result_files.document(path)
    if document["benchmarks"]:
        result_files.read(path)  # which looks at every row
    for row in document["benchmarks"]:
        if not _is_amount(least := row["stats"].get("min", "missing")) or least is None:
            raise UsageError(f"{shown(path)} is damaged: the min of a row is {least!r:.40}")
    if not _is_amount(busy := document["machine_info"].get(_BUSY, 0.0)):
        raise UsageError(f"{shown(path)} is damaged: {_BUSY} is {busy!r:.40}")
    unfinished = document.get("unfinished", [])
    if not (isinstance(unfinished, list) and all(isinstance(name, str) for name in unfinished)):
        raise UsageError(f"{shown(path)} is damaged: unfinished is {unfinished!r:.40}")
    failed = document.get("failed", {})
    if not (isinstance(failed, dict) and all(isinstance(why, str) for why in failed.values())):
        raise UsageError(f"{shown(path)} is damaged: failed is {failed!r:.40}")
    return document


def _is_amount(value: Any) -> bool:
    """Whether it is what a duration or a number of CPUs can be, or is not known."""
    return value is None or (type(value) in (int, float) and 0 <= value < math.inf)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What keeps numbers of two runs from standing in one file, in words; None if nothing does."""
    for name in sorted({*before, *now} - {*_PASSING}):
        if before.get(name) != now.get(name):
            return f"{name} was {shown(str(before.get(name)))}, and is {shown(str(now.get(name)))}"
    return None
