"""Real processes, which talk by gloo: started once, they run many cases one after another.

A case is a function that all of its ranks call, in a process group of its own, and what it returns is JSON.
The cases of most ranks come first, so that nobody waits long for others to join, and ranks may go.

python -m tests.distributed.processes MODULE FOLDER RANK
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# For each other: what goes wrong on one rank ends the others' case, and not the next one.
PATIENCE = timedelta(seconds=30)


class Case(NamedTuple):
    """What so many ranks do together."""

    run: Callable[[], Any]
    ranks: int


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
        self, ranks: int, *variants: Any, is_last: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Run a function as a case, or once with each of the variants, as a case each."""

        def added(function: Callable[..., Any]) -> Callable[..., Any]:
            for each in variants:
                self[f"{function.__name__}[{each}]"] = Case(partial(function, each), ranks)
            if not variants:
                self[function.__name__] = Case(function, ranks)
            return function

        return added

    def in_order(self) -> list[tuple[str, Case]]:
        return sorted(self.items(), key=lambda item: -item[1].ranks)


def outcomes(module: str, folder: Path, deadline: float) -> list[dict[str, Outcome]]:
    """What each rank has of all cases of a module, in fresh processes, which end by then (in seconds)."""
    ranks = max(case.ranks for case in importlib.import_module(module).CASES.values())
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    processes = []
    for rank in range(ranks):
        command = [sys.executable, "-m", "tests.distributed.processes", module, str(folder), str(rank)]
        with (folder / f"output-{rank}").open("w") as output:
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            )
    end = time.monotonic() + deadline
    try:
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    return [_read(folder / f"outcomes-{rank}") for rank in range(ranks)]


def _read(path: Path) -> dict[str, Outcome]:
    lines = map(json.loads, path.read_text().splitlines())
    return {name: Outcome(*outcome) for name, *outcome in lines}


def main(module: str, folder: str, number: str) -> None:
    import torch

    from tests.distributed.ranks import forget

    warnings.filterwarnings("error", module=r"tritoninit|tests")
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(2 * PATIENCE.total_seconds(), repeat=True)  # where it hangs, if it does
    rank, dist = int(number), torch.distributed
    with Path(folder, f"outcomes-{rank}").open("w") as file:
        for place, (name, case) in enumerate(importlib.import_module(module).CASES.in_order()):
            if rank >= case.ranks:
                continue
            begin, value, error = time.monotonic(), None, ""
            forget()
            torch.manual_seed(0)
            store = f"file://{folder}/store-{place}"
            try:
                dist.init_process_group("gloo", store, PATIENCE, world_size=case.ranks, rank=rank)
                value = case.run()
            except Exception:  # noqa: BLE001 - of whatever kind: the test that reads it fails with it
                error = traceback.format_exc()
            if dist.is_initialized():
                dist.destroy_process_group()
            file.write(json.dumps([name, value, error, time.monotonic() - begin]) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
