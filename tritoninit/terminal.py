"""What commands show on a terminal: lines, tables, progress and errors."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress


def provide_streams() -> None:
    """Streams that were closed when the process began lead nowhere, and no file gets their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - to the end


def let_go(stream: TextIO) -> None:
    """Write what is left, or have it lead nowhere if that fails: Python would complain of it on exit."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):  # one that is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def print_lines(*lines: str) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the locale may lack some signs
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


@contextmanager
def progress_display(counted: bool = False, refreshes: float = 4) -> Iterator[Progress | None]:
    """A progress display on the terminal that shows standard error, or None elsewhere.

    Args:
        counted: show how many parts are done, of how many.
        refreshes: a second; each takes time from what is being measured.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    name = TextColumn("{task.description}", markup=False)  # it may have brackets
    columns = (BarColumn(), *([MofNCompleteColumn()] if counted else []), TimeElapsedColumn(), name)
    with Progress(
        *columns,
        console=Console(file=sys.stderr),  # this one: pytest captures what later goes by that name
        transient=True,
        refresh_per_second=refreshes,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        yield progress


@contextmanager
def stage(progress: Progress | None, what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show one piece of work while it lasts; yields what to call after each of its ``total`` parts."""
    if progress is None:
        yield lambda: None
        return
    task = progress.add_task(what, total=total)
    try:
        yield lambda: progress.advance(task)
    finally:
        progress.remove_task(task)


def terminal_width() -> int | None:
    """Columns of the terminal that shows standard output; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    shrink: Sequence[tuple[int, int]] = (),
    width: int | None = None,
) -> list[str]:
    """Lines of text in columns, those whose heading starts with > to the right.

    If they would exceed ``width``, ``shrink`` says which columns give way, in order, and down to what.
    """
    names = [heading.removeprefix(">") for heading in headings]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    gap = "  "
    if width is not None:
        if sum(widths) + 2 * (len(widths) - 1) > width:
            gap = " "
        excess = sum(widths) + len(gap) * (len(widths) - 1) - width
        for column, least in shrink:
            cut = max(0, min(excess, widths[column] - least))
            widths[column] -= cut
            excess -= cut
    lines = []
    for first, *rest in (names, *rows):
        # What tells a parameter's name from others is its end.
        texts = [_elide(first[::-1], widths[0])[::-1], *map(_elide, rest, widths[1:])]
        cells = [
            text.rjust(room) if heading.startswith(">") else text.ljust(room)
            for text, room, heading in zip(texts, widths, headings, strict=True)
        ]
        lines.append(gap.join(cells).rstrip())
    return lines


def _elide(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def fail(message: str, code: int) -> int:
    """Say on standard error, on one line, why a command ends, and return the code to exit with."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    with suppress(OSError):  # nobody reads it
        sys.stderr.write(f"tritoninit: {text}\n")
    let_go(sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def place(error: BaseException) -> str:
    """Where an exception was raised, file and line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"
