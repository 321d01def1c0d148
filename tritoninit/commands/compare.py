"""``tritoninit compare``: result files side by side, printed, and as a page, a figure, Markdown and CSV."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tritoninit.bench import forecasts, overview, tables
from tritoninit.bench.comparison import Comparison, compare
from tritoninit.bench.forecasts import Forecast
from tritoninit.bench.result_files import Results, check_distinct, load, read_all
from tritoninit.bench.verdict import verdict
from tritoninit.outputs import UsageError, replacing, shown
from tritoninit.terminal import print_lines


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
        files: one or more, each of another run; with ``fail_below`` two, the baseline, then the candidate.
            Besides, files of counts that ``tritoninit inspect`` wrote, whose GPUs are predicted.
        html: what to write as a page.
        png: as a figure.
        md: as tables.
        csv: as all rows of all contenders.
        contender: whose speed to show; by default each machine's own default backend.
        fail_below: the part of the baseline's speed that the candidate must keep, see ``verdict.kept``.

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
    found = compare(*_read(files, contender))
    if fail_below is not None and len(found.results) != 2:
        raise UsageError("--fail-below compares two files that were measured, and one of these is predicted")
    written = _documents(found, html=html, png=png, md=md, csv=csv)
    judged, code = ([], 0) if fail_below is None else verdict(found, fail_below)
    for path, content in written.items():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    print_lines(*tables.text(found), *overview.text(found), *judged)
    return code


def _read(files: Sequence[Path], contender: str | None) -> tuple[list[Results], str | None, list[Forecast]]:
    """What was measured, and what was counted and is predicted from that."""
    check_distinct(files)
    counted = {path: content for path in files if forecasts.is_one(content := load(path))}
    measured = [path for path in files if path not in counted]
    if counted and not measured:
        raise UsageError(
            "a prediction stands beside measurements, and there are none: name a result file, too"
        )
    results = read_all(measured)
    every = [each for path, content in counted.items() for each in forecasts.read(path, content, results)]
    known = {each.name: each for each in every}  # a GPU that two files have is told once, as the last has it
    return results, contender, list(known.values())


def _documents(found: Comparison, **paths: Path | None) -> dict[Path, bytes]:
    """What to write where; all of it is made before any is written."""
    makers: dict[str, Callable[[Comparison], bytes]] = {
        "html": _page,
        "png": _figure,
        "md": lambda c: _encoded("\n".join([*tables.markdown(c), *overview.markdown(c), ""])),
        "csv": lambda c: _encoded(tables.tidy(c)),
    }
    return {path: makers[name](found) for name, path in paths.items() if path is not None}


def _encoded(text: str) -> bytes:
    """Halves of characters, which a result file's JSON may have, come as they are written there."""
    return text.encode(errors="backslashreplace")


def _page(found: Comparison) -> bytes:
    from tritoninit.bench import page

    return _encoded(page.html(found))


def _figure(found: Comparison) -> bytes:
    from tritoninit.bench import figures

    return figures.png(found)
