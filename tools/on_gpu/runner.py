"""Steps, one after another, each a process with a deadline, whatever becomes of the ones before it.

Needs Python alone, so that nothing that is to be tried out can stop it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

GRACE = 3.0  # seconds from SIGTERM to SIGKILL, and from that until a process is left to itself
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Step:
    """What is run, and the seconds that it may take; what it leaves of them is for the steps after it."""

    name: str
    seconds: float
    command: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """How a step ended: its exit code (negative for a signal), or None if it was cut off."""

    name: str
    code: int | None
    seconds: float

    def __str__(self) -> str:
        if self.code is None:
            return "cut off"
        return "done" if self.code == 0 else f"failed, exit code {self.code}"


class Interrupted(BaseException):
    """A signal asked the whole run to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block, SIGTERM, SIGINT and SIGHUP raise :class:`Interrupted`."""

    def interrupt(number: int, _: object) -> None:
        for each in before:  # what follows, the summary, is not to be interrupted
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {each: signal.getsignal(each) for each in SIGNALS}
    _handle(dict.fromkeys(before, interrupt))
    try:
        yield
    finally:
        _handle(before)


def run(
    steps: Sequence[Step],
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    after: Callable[[Sequence[Outcome]], None],
) -> list[Outcome]:
    """Run every step and return how each ended.

    A step has until the seconds of all steps up to it are over, from the start of the first.

    Args:
        steps: what to run.
        log: a file that everything printed is added to, as it comes.
        environment: of the steps.
        folder: that they run in.
        after: is called with the outcomes so far after each step, and once a signal has cut one off.

    Raises:
        Interrupted: a signal asked for it; nothing that was started is left.
    """
    outcomes: list[Outcome] = []
    start = time.monotonic()
    allowed = 0.0
    with log.open("ab", buffering=0) as output:
        for step in steps:
            allowed += step.seconds
            began = time.monotonic()
            output.write(f"\n=== {step.name}, {start + allowed - began:.0f} s\n".encode())
            try:
                code = _run(step.command, output, environment, folder, start + allowed)
            except Interrupted:
                outcomes.append(Outcome(step.name, None, time.monotonic() - began))
                after(outcomes)
                raise
            except OSError as error:  # such as no memory for another process
                output.write(f"{error}\n".encode())
                code = 127
            outcomes.append(Outcome(step.name, code, time.monotonic() - began))
            output.write(f"=== {step.name}: {outcomes[-1]} after {outcomes[-1].seconds:.1f} s\n".encode())
            after(outcomes)
    return outcomes


def _run(
    command: Sequence[str], output: IO[bytes], environment: Mapping[str, str], folder: Path, deadline: float
) -> int | None:
    """The exit code of a command, or None if it had not ended by the deadline (of time.monotonic)."""
    process = None
    arrived: list[int] = []
    # What is raised inside of Popen loses the process that it has started: signals wait until it is known.
    before = {each: signal.signal(each, lambda number, _: arrived.append(number)) for each in SIGNALS}
    try:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,  # a file: no pipe that a child could hold open, or that fills
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,  # a group of its own, to be ended as a whole
            )
        finally:
            _handle(before)
            for number in arrived:
                signal.raise_signal(number)
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process is not None:
            _end(process)


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for each, handler in handlers.items():
        signal.signal(each, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started; one that not even SIGKILL ends is not waited for."""
    try:
        _signal(process, signal.SIGTERM)
    finally:  # also where a signal interrupts the wait
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
