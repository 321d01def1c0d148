"""Tasks for processes of their own, side by side, of which none can take another with it."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

Task = dict[str, Any]
Answer = dict[str, Any]
START = 45.0  # seconds that a process may take to be ready, PyTorch's import and a GPU's context among them


def run(
    command: Sequence[str], tasks: Sequence[Task], workers: int, seconds: float
) -> Iterator[tuple[Task, Answer]]:
    """Have processes answer tasks; yields each task with its answer, as they come.

    Args:
        command: starts a process that :func:`serve` runs in.
        tasks: JSON objects.
        workers: how many processes.
        seconds: that a task may take. The process of one that takes longer is killed, as one that dies is
            given up: the answer is then an ``error``, and another process goes on with the next task.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[Task, Answer]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    threads = [
        threading.Thread(target=_feed, args=(command, waiting, answers, seconds), daemon=True)
        for _ in range(min(workers, len(tasks)))
    ]
    for thread in threads:
        thread.start()
    for _ in tasks:
        yield answers.get()
    for thread in threads:  # what comes next may be timed: no process is to be ending meanwhile
        thread.join(10)


def _feed(
    command: Sequence[str],
    waiting: queue.SimpleQueue[Task],
    answers: queue.SimpleQueue[tuple[Task, Answer]],
    seconds: float,
) -> None:
    worker: _Worker | None = None
    while True:
        try:
            task = waiting.get_nowait()
        except queue.Empty:
            break
        try:
            allowed = seconds if worker is not None else START + seconds
            worker = worker or _Worker(command)
            answer = worker.ask(task, allowed)
        except Exception as error:  # noqa: BLE001 - a task without an answer would be waited for without end
            answer = {"error": f"{type(error).__name__}: {error}", "last": True}
        if answer.pop("last", False) and worker is not None:
            worker.close()
            worker = None
        answers.put((task, answer))
    if worker is not None:
        worker.close()


class _Worker:
    """A process that is sent a task as a line of JSON, and sends its answer as one."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, stderr=None
        )
        self._read = b""

    def ask(self, task: Task, seconds: float) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        line = self._line(time.monotonic() + seconds)
        if line is None:
            return {"error": f"no answer within {seconds:.0f} s", "last": True}
        if not line:
            code = self._process.wait(5)
            return {"error": f"its process ended, exit code {code}", "last": True}
        answer: Answer = json.loads(line)
        return answer

    def _line(self, deadline: float) -> bytes | None:
        """The next line, empty if there will be none, None if there is none by the deadline."""
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            part = self._process.stdout.read(1 << 16)
            if not part:
                return b""
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):  # one that not even SIGKILL ends is not waited for
            self._process.wait(5)


def serve(work: Callable[[Task], Answer], usable: Callable[[], bool] = lambda: True) -> None:
    """In a worker's process: answer the tasks that come on standard input, until there are no more.

    Args:
        work: answers a task; what it raises is the answer's ``error``.
        usable: whether this process can do another task after one has raised.
    """
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a kernel does is the answer
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:500]}"}
            if not usable():
                answer["last"] = True
        answers.write(json.dumps(answer) + "\n")


def gpu_answers() -> bool:
    """Whether CUDA can be used in this process: after an illegal access it never can again."""
    import torch

    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
    except Exception:  # noqa: BLE001 - by PyTorch's version another one
        return False
    return True
