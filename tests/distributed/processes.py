"""Real processes, which talk by gloo: forked once, they run many cases one after another.

A case is a function that all of its ranks call, in a process group of its own, and what it returns is JSON.
The cases of most ranks come first, so that nobody waits long for others to join, and ranks may go. Those that
are ``afterwards`` run in processes of their own when all others have ended. One process imports what they
need, which takes longer than most of them, and forks before there is a thread.

python -m tests.distributed.processes MODULE FOLDER
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# For each other: what goes wrong on one rank ends the others' case, and not the next one.
PATIENCE = timedelta(seconds=30)


class Case(NamedTuple):
    """What so many ranks do together, maybe after all others."""

    run: Callable[[], Any]
    ranks: int
    afterwards: bool


class Outcome(NamedTuple):
    """What came of a case on one rank.

    Attributes:
        value: what it returned; None if it raised.
        error: the traceback; "" if there is none.
        seconds: that it took.
    """

    value: Any
    error: str
    seconds: float


class Cases(dict[str, Case]):
    """By name."""

    def on(
        self, ranks: int, *variants: Any, afterwards: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Run a function as a case, or once with each of the variants, as a case each."""

        def added(function: Callable[..., Any]) -> Callable[..., Any]:
            for each in variants:
                self[f"{function.__name__}[{each}]"] = Case(partial(function, each), ranks, afterwards)
            if not variants:
                self[function.__name__] = Case(function, ranks, afterwards)
            return function

        return added

    def in_order(self, afterwards: bool) -> list[tuple[str, Case]]:
        found = [(name, case) for name, case in self.items() if case.afterwards == afterwards]
        return sorted(found, key=lambda item: -item[1].ranks)


def outcomes(module: str, folder: Path, deadline: float) -> list[dict[str, Outcome]]:
    """What each rank has of all cases of a module, in fresh processes, which end by then (in seconds)."""
    ranks = max(case.ranks for case in importlib.import_module(module).CASES.values())
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.distributed.processes", module, str(folder)]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        process.wait(deadline)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, (folder / "output").read_text()[-3000:]
    return [_read(folder / f"outcomes-{rank}") for rank in range(ranks)]


def _read(path: Path) -> dict[str, Outcome]:
    lines = map(json.loads, path.read_text().splitlines())
    return {name: Outcome(*outcome) for name, *outcome in lines}


def main(module: str, folder: str) -> None:
    import torch

    warnings.filterwarnings("error", module=r"tritoninit|tests")
    torch.set_num_threads(1)
    loaded = importlib.import_module(module)
    loaded.warm()
    assert len(os.listdir("/proc/self/task")) == 1, "what is forked has no threads"
    for afterwards in (False, True):
        cases = loaded.CASES.in_order(afterwards)
        children = [_forked(cases, folder, rank) for rank in range(cases[0][1].ranks)] if cases else []
        for child in children:
            os.waitpid(child, 0)


def _forked(cases: Sequence[tuple[str, Case]], folder: str, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    with Path(folder, f"output-{rank}").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            _run(cases, folder, rank)
        except BaseException:  # noqa: BLE001 - what is forked goes no further than here
            traceback.print_exc(file=output)
        output.flush()
    os._exit(0)


def _run(cases: Sequence[tuple[str, Case]], folder: str, rank: int) -> None:
    """All of the cases in which a rank takes part."""
    import torch

    from tests.distributed.ranks import forget

    faulthandler.dump_traceback_later(2 * PATIENCE.total_seconds(), repeat=True)  # where it hangs, if it does
    dist = torch.distributed
    with Path(folder, f"outcomes-{rank}").open("a") as file:
        for name, case in cases:
            if rank >= case.ranks:
                continue
            begin, value, error = time.monotonic(), None, ""
            forget()
            torch.manual_seed(0)
            try:
                dist.init_process_group(
                    "gloo", f"file://{folder}/store-{name}", PATIENCE, world_size=case.ranks, rank=rank
                )
                value = case.run()
            except Exception:  # noqa: BLE001 - of whatever kind: the test that reads it fails with it
                error = traceback.format_exc()
            if dist.is_initialized():
                dist.destroy_process_group()
            file.write(json.dumps([name, value, error, time.monotonic() - begin]) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
