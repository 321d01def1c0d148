"""``tritoninit bench``: runs the benchmarks beside this file, by pytest, and shows what they found."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritoninit.bench.contenders import default
from tritoninit.bench.rows import contender_of
from tritoninit.bench.sizes import brief
from tritoninit.outputs import UsageError
from tritoninit.terminal import print_lines, progress_display, table
from tritoninit.words import short

if TYPE_CHECKING:
    import pytest
    from rich.progress import Progress

    from tritoninit.bench.record import Record

_FOLDER = Path(__file__).resolve().parent
_WIDTH = 100
_Document = Mapping[str, Any]
# By kind, what a table's cells are, in words and as the number for a row.
_CELLS: Mapping[str, tuple[str, Callable[[_Document], float]]] = {
    "fill": ("fills, 1e9 elements a second", lambda row: float(row["extra_info"]["gs_per_s"])),
    "cached": ("fills in the cache, 1e9 elements a second", lambda row: float(row["extra_info"]["gs_per_s"])),
    "call": ("calls, microseconds", lambda row: 1e6 * float(row["stats"]["median"])),
    "model": ("whole models, milliseconds", lambda row: 1e3 * float(row["stats"]["median"])),
    "structured": ("structured, milliseconds", lambda row: 1e3 * float(row["stats"]["median"])),
    "start": ("processes, seconds", lambda row: float(row["stats"]["median"])),
}
_EXAMPLE = "normal-float32-2^24-threads=2-torch"
_SHORTER = {  # for tables of 100 columns
    "numpy-generator": "generator",
    "numpy-sfc64": "sfc64",
    "numpy-philox": "philox",
    "truncated_normal": "trunc_normal",
}


def run(
    quick: bool,
    patterns: Sequence[str],
    out: Path | None,
    *,
    seconds: float | None = None,
    limit: float | None = None,
    resume: bool = False,
) -> int:
    """Run the benchmarks in this process, print a table a kind, and keep the rows in ``out``.

    Args:
        quick: fewer rows, and less time for each: under a minute on two cores.
        patterns: only rows with one of these texts in their name, in which * and ? are wild as in a shell:
            "gpt2", "[normal-float32", "fill*2^24*torch". Names are those that the progress display shows.
            Rows come in the order of the first text that they have.
        out: pytest-benchmark's JSON, written anew after every row; rows that failed are not in it. Before the
            first row, what was there stays.
        seconds: for each row, by default half a second, or less if quick.
        limit: seconds after which a row that has not ended ends the process, with exit code 1.
        resume: keep the rows that ``out`` has, and measure the others; but not those that a run was at when
            it was killed or ended by itself, which are in the file's list of unfinished ones.

    Returns:
        0, or 1 if a row failed: what it wrote was wrong, so that it was not timed, or it raised.

    Raises:
        UsageError: pytest-benchmark is missing, the backend asked for is, no row has a pattern, or ``out``
            may not be continued: its machine, a version or the commit is another.
        KeyboardInterrupt: it was interrupted; ``out`` holds the rows until then.
    """
    if resume and out is None:
        raise UsageError("--resume continues what --out names, which is missing")
    if not all(map(importlib.util.find_spec, ("pytest", "pytest_benchmark"))):
        raise UsageError("the benchmarks need pytest-benchmark: pip install pytest-benchmark")
    try:
        default()
    except (ValueError, RuntimeError) as error:  # of TRITONINIT_BACKEND
        raise UsageError(str(error)) from None
    from tritoninit.bench.record import Record  # which needs pytest

    record = Record(out, resume, limit)
    watcher = _run(quick, patterns, seconds, record)
    document = record.document or {}
    rows = document.get("benchmarks", [])
    for kind in _CELLS:
        print_lines(*_table(kind, [row for row in rows if row["extra_info"]["kind"] == kind]))
    print_lines(*_disturbed(document.get("machine_info", {})))
    if watcher.left_out:
        some = ", ".join(watcher.left_out[:2]) + (", ..." if len(watcher.left_out) > 2 else "")
        print_lines(f"Left out, since a call would take too long: {len(watcher.left_out)} rows, {some}")
    if record.skipped:
        print_lines(f"Left out, since a run did not survive them: {', '.join(record.skipped)}")
    for name, why in watcher.failures:
        print_lines("", f"{name} failed:", why)
    if record.lost is not None:
        print_lines("", f"{record.lost} took the GPU's context with it: --resume goes on after it")
    if watcher.failures:
        print_lines("", f"{len(watcher.failures)} failed, and were not timed")
    return 1 if watcher.failures else 0


def _disturbed(machine: _Document) -> list[str]:
    """A warning if other processes took CPUs that the benchmarks were to use.

    A thread that finds no CPU waits for a slice of the scheduler's, milliseconds, and those that it works
    with wait for it. A tenth of a CPU is what a system does for itself.
    """
    busy = machine.get("cores_busy_elsewhere")
    if busy is None or busy <= (os.cpu_count() or 1) - machine["threads"] + 0.1:
        return []
    return [f"Other processes kept {busy:.1f} CPUs busy: these numbers are theirs, too. Measure again.", ""]


def matches(name: str, pattern: str) -> bool:
    """Whether a row's name has the text in it, * and ? standing for any.

    >>> matches("bench_fill[normal-float32-2^24-threads=2-torch]", "fill[*-2^24*torch")
    True
    """
    return fnmatchcase(name, f"*{pattern.replace('[', '[[]')}*")


def may_match(function: str, pattern: str) -> bool:
    """Whether a row of that function can have the text in its name: what stands before a bracket says so.

    >>> [may_match("bench_fill", pattern) for pattern in ("fill[normal", "model[gpt2", "gpt2", "*[gpt2")]
    [True, False, True, True]
    """
    before, bracket, _ = pattern.partition("[")
    return not bracket or fnmatchcase(function, f"*{before}")


def _run(quick: bool, patterns: Sequence[str], seconds: float | None, record: Record) -> _Watcher:
    """Run pytest, and have ``record`` keep what it measures."""
    import pytest

    with ExitStack() as stack:
        storage = stack.enter_context(tempfile.TemporaryDirectory())  # which it makes, though nothing is kept
        stack.enter_context(_no_settings_of_pytest())
        stack.enter_context(warnings.catch_warnings())
        # Where a check fails, pytest-benchmark says in its own words that nothing was timed.
        warnings.filterwarnings("ignore", "Benchmark fixture was not used")
        watcher = _Watcher(stack.enter_context(progress_display(counted=True, refreshes=2)))
        code = pytest.main(
            [
                str(_FOLDER),
                f"-c{_FOLDER / 'pytest.ini'}",
                "-pno:cacheprovider",
                "-pno:terminal",  # the watcher shows what there is to see
                "-ppytest_benchmark.plugin",
                "--capture=sys",
                "--benchmark-quiet",
                f"--benchmark-storage=file://{storage}",
                *["--quick"] * quick,
                *([] if seconds is None else [f"--seconds={seconds}"]),
                *(f"--filter={pattern}" for pattern in patterns),
            ],
            plugins=[watcher, record],
        )
    if watcher.interrupted:
        raise KeyboardInterrupt
    if record.refused is not None:
        raise UsageError(f"the results that are there may not be continued: {record.refused}")
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and not (record.kept or record.skipped):
        raise UsageError(
            f"no row has {' or '.join(map(repr, patterns))} in its name,"
            f" as bench_fill[{_EXAMPLE}] has 'normal-float32'"
        )
    fine = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if code not in fine and not watcher.failures:
        raise RuntimeError(f"pytest ended with {code!r}")
    return watcher


@contextmanager
def _no_settings_of_pytest() -> Iterator[None]:
    """In the block, the environment says nothing to pytest but to load no plugins that happen to be here."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PYTEST_")}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update(before)


class _Watcher:
    """A plugin of pytest's that shows how far it is, and keeps what failed and what was left out."""

    def __init__(self, progress: Progress | None) -> None:
        self.failures: list[tuple[str, str]] = []
        self.left_out: list[str] = []
        self.interrupted = False
        self._progress = progress
        self._task = None if progress is None else progress.add_task("collecting", total=None)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._update(total=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._update(description=_row_name(nodeid))

    def pytest_runtest_logfinish(self) -> None:
        self._update(advance=1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failures.append((_row_name(report.nodeid), report.longreprtext))
        elif report.skipped:
            self.left_out.append(_row_name(report.nodeid))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failures.append((report.nodeid, report.longreprtext))

    def pytest_internalerror(self, excrepr: object) -> None:
        self.failures.append(("pytest", str(excrepr)))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        # pytest ends by a subclass of it where collecting failed, which pytest_collectreport has told.
        import pytest

        self.interrupted = excinfo.errisinstance(KeyboardInterrupt) and not excinfo.errisinstance(
            pytest.Session.Interrupted
        )

    def _update(self, **what: Any) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, **what)


def _row_name(nodeid: str) -> str:
    return nodeid.rpartition("::")[2]


def _table(kind: str, rows: Sequence[_Document]) -> list[str]:
    """A line a task, a column a contender; then the default's share of memset's speed, and of torch's."""
    if not rows:
        return []
    title, number = _CELLS[kind]
    tasks: dict[tuple[Any, ...], dict[str, _Document]] = {}
    for row in rows:
        tasks.setdefault(contender_of(row)[:-1], {})[row["extra_info"]["contender"]] = row
    infos = sorted(
        (row["extra_info"] for row in rows), key=lambda i: (not i["ours"], not i["default"], i["contender"])
    )
    names = list(dict.fromkeys(info["contender"] for info in infos))
    default = next((info["contender"] for info in infos if info["default"]), None)
    columns = [f">{_SHORTER.get(name, name)}" for name in names]
    lines = [
        [
            _SHORTER.get(subject, subject),
            dtype,
            brief(elements),
            str(threads),
            *(short(number(found[name]), 3) if name in found else "" for name in names),
            *_shares(found.get(str(default))),
        ]
        for (_, subject, dtype, elements, threads), found in tasks.items()
    ]
    headings = [kind, "dtype", ">n", ">thr", *columns, ">of memset", ">x torch"]
    whose = "" if default is None else f"; of memset's and torch's speed: {default}"
    return [title + whose, *table(headings, lines, width=_WIDTH), ""]


def _shares(row: _Document | None) -> tuple[str, str]:
    """A row's share of memset's speed, and how many times torch's it is."""
    info = {} if row is None else row["extra_info"]
    fraction, ratio = info.get("memset_fraction"), info.get("torch_ratio")
    return "" if fraction is None else f"{fraction:.0%}", "" if ratio is None else f"{ratio:.2f}"
