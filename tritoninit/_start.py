"""An interrupt while the command line is still being imported: one line, and the exit code that it has later.

Imported before all that takes a second to import. In any other program than ours nothing is changed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _is_command() -> bool:
    """Whether this process was started as ``tritoninit``, or as ``python -m tritoninit``."""
    program, *arguments = sys.argv or [""]
    if program != "-m":  # which is what Python says while it looks for the module
        return os.path.basename(program) in ("tritoninit", "tritoninit.exe")
    options = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    return options[-1:] == ["tritoninit"] or options[-1:] == ["-mtritoninit"]


def _quit(signum: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"tritoninit: interrupted\n")
    finally:
        os._exit(130)  # nothing has begun that has to be ended, and an exception could be taken for another


def imported() -> None:
    """From here on, interrupts are exceptions again."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _quit)
