"""A plugin of pytest's: every n-th test, each with a row on disk when it begins and when it ends.

What has a row is not run again, so that a shard goes on after a test that took its process with it.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.on_gpu import pool, rows

STDERR = os.fdopen(os.dup(2), "w")  # as it was before pytest captures it: where a test hung is to be seen
LIMIT = 60.0  # seconds that a test may take before its process is ended


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("on_gpu")
    group.addoption("--shard", default="0/1", help="k/n: of every n tests, the k-th, from 0")
    group.addoption("--rows", type=Path, help="the file that rows are added to")
    group.addoption("--stand-in", action="store_true", help="what the rows say")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Shard(config), "on_gpu-shard")


class Shard:
    def __init__(self, config: pytest.Config) -> None:
        self._number, self._of = map(int, config.option.shard.split("/"))
        self._rows: Path = config.option.rows
        self._stand_in: bool = config.option.stand_in
        self._outcome, self._why = "passed", ""

    def _append(self, **row: Any) -> None:
        rows.append(self._rows, {"stand_in": self._stand_in, "shard": self._number, **row})

    @pytest.hookimpl(trylast=True)  # after -m has chosen
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        mine = items[self._number :: self._of]
        begun = {row.get("test") for row in rows.read(self._rows)}
        items[:] = [item for item in mine if item.nodeid not in begun]
        self._append(selected=len(mine), left=len(items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._append(test=report.nodeid, outcome="not collected", why=_why(report))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._outcome, self._why = "passed", ""
        start = time.monotonic()
        self._append(test=item.nodeid, outcome="begun")
        faulthandler.dump_traceback_later(LIMIT, exit=True, file=STDERR)
        try:
            result = yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds = round(time.monotonic() - start, 2)
        self._append(test=item.nodeid, outcome=self._outcome, seconds=seconds, why=self._why)
        if self._outcome == "failed" and not pool.gpu_answers():
            self._append(lost=item.nodeid)
            item.session.shouldstop = "the GPU's context is lost"
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._outcome, self._why = "failed", _why(report)
        elif report.skipped and self._outcome != "failed":
            self._outcome, self._why = "skipped", _why(report)


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What was raised, or the end of what pytest says, which is in the log."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(getattr(crash, "message", report.longreprtext[-200:]))[:500]
