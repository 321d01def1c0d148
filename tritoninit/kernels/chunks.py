"""How a CPU backend fills memory of any layout: in chunks, over threads, in bounded scratch.

What a backend brings is three functions: one sets memory to a constant, one writes a run of the stream,
one many runs, each into a row of memory.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoninit.kernels import stream
from tritoninit.kernels.stream import Draw

Array = npt.NDArray[Any]
Places = npt.NDArray[np.uint64]
Coordinates = tuple[npt.NDArray[np.intp], ...]
Item = tuple[Array, str, Draw]


@dataclass(frozen=True)
class Drawer:
    """A CPU backend's arithmetic.

    Attributes:
        constant: sets an array of any layout: ``constant(out, dtype, draw)``.
        run: writes elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array:
            ``run(out, dtype, draw, first)``.
        rows: writes into each row ``out[at]``, along the last dimension of an array of any strides, the
            elements from its place in the stream on: ``rows(out, dtype, draw, places, at)``.
        chunk: elements that a call of ``run`` or ``rows`` should get, those counted that it draws in vain.
    """

    constant: Callable[[Array, str, Draw], None]
    run: Callable[[Array, str, Draw, int], None]
    rows: Callable[[Array, str, Draw, Places, Coordinates], None]
    chunk: int


def fill(drawer: Drawer, items: Sequence[Item], threads: int = 1) -> None:
    """Write draws into arrays that do not overlap, in place.

    Args:
        drawer: who draws.
        items: (target, dtype, draw) each. The target is float32, float16, the uint16 patterns of bfloat16 or
            the uint8 ones of an 8-bit float, of any shape and strides; the dtype is one of
            ``lowering.FLOAT_DTYPES``.
        threads: how many threads share the chunks of all of them, the caller's one of them.
    """
    if len(items) == 1 and items[0][0].size <= drawer.chunk // 4:
        for chunk in _chunks(drawer, *items[0]):
            chunk()
        return
    share((chunk for item in items for chunk in _chunks(drawer, *item)), threads)


def share(chunks: Iterator[Callable[[], None]], threads: int) -> None:
    """Do all chunks, in any order, on so many threads, the caller's one of them."""
    work = _Work(chunks)
    _HELPERS.call(work, min(threads, work.peek(threads)) - 1)
    try:
        work.run()
    finally:
        work.finish()
    if work.error is not None:
        raise work.error


class _Work:
    """Chunks that several threads take one by one."""

    def __init__(self, chunks: Iterator[Callable[[], None]]) -> None:
        self._chunks = chunks
        self._lock = Lock()
        self._helpers = 0  # in the midst of a chunk, or about to take one
        self._is_over = False
        self._last_is_gone = Lock()
        self._last_is_gone.acquire()
        self.error: BaseException | None = None  # of a helper

    def peek(self, most: int) -> int:
        """How many chunks there are, counted up to ``most``."""
        first = list(islice(self._chunks, most))
        self._chunks = chain(first, self._chunks)
        return len(first)

    def run(self) -> None:
        """Do chunks until none is left, or one failed here or elsewhere."""
        try:
            while (chunk := self._take()) is not None:
                chunk()
        except BaseException:
            self._stop()
            raise

    def help(self) -> None:
        """As :meth:`run`, for the thread that calls :meth:`finish`."""
        if self._join():
            try:
                self.run()
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                self.error = error
            self._leave()

    def finish(self) -> None:
        """Leave what nobody has begun, and wait for what others have. Who comes later does not count."""
        with self._lock:
            self._chunks = iter(())
            self._is_over = True
            is_waiting = self._helpers > 0
        if is_waiting:
            self._last_is_gone.acquire()

    def _join(self) -> bool:
        with self._lock:
            if self._is_over:
                return False
            self._helpers += 1
            return True

    def _leave(self) -> None:
        with self._lock:
            self._helpers -= 1
            is_last = self._is_over and not self._helpers
        if is_last:
            self._last_is_gone.release()

    def _stop(self) -> None:
        with self._lock:
            self._chunks = iter(())

    def _take(self) -> Callable[[], None] | None:
        with self._lock:
            return next(self._chunks, None)


class _Helpers:
    """Threads that wait for work, as many as the machine can use; shared by all callers.

    A queue wakes one in half of the time that an executor's future takes. Work that is over when somebody
    comes to it is passed by.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._most = max(1, (os.cpu_count() or 1) - 1)
        self._started = 0
        self._threads: list[Thread] = []
        self._lock = Lock()

    def end(self) -> None:
        """Have them end, and none begin any more: one that ends with them may abort."""
        with self._lock:
            self._started = self._most
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()

    def call(self, work: _Work, count: int) -> None:
        """Have so many help with work, as soon as they can."""
        if self._started < self._most:
            self._start(count)
        for _ in range(min(count, self._most)):
            self._queue.put(work)

    def _start(self, count: int) -> None:
        with self._lock:
            busy = 0 if self._queue.empty() else self._started
            for _ in range(min(busy + count, self._most) - self._started):
                try:
                    thread = Thread(target=_help, args=(self._queue,), name="tritoninit", daemon=True)
                    thread.start()
                except RuntimeError:  # the interpreter is ending, and starts no thread any more
                    return
                self._threads.append(thread)
                self._started += 1


def _help(queue: SimpleQueue[_Work | None]) -> None:
    while (work := queue.get()) is not None:
        work.help()
        del work  # which would keep what its chunks write until the next


_HELPERS = _Helpers()
atexit.register(lambda: _HELPERS.end())


def _forget_helpers() -> None:
    global _HELPERS
    _HELPERS = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)  # threads do not survive a fork


def _chunks(drawer: Drawer, target: Array, dtype: str, draw: Draw) -> Iterator[Callable[[], None]]:
    """What there is to do for one target, in parts that may run in any order, on any thread."""
    flat = target.reshape(-1) if target.flags.c_contiguous else None
    if draw.distribution == "constant":
        if flat is None:
            yield partial(drawer.constant, target, dtype, draw)
            return
        for begin in range(0, target.size, drawer.chunk):
            yield partial(drawer.constant, flat[begin : begin + drawer.chunk], dtype, draw)
        return
    row_major = stream.row_major_strides(target.shape)
    is_run = draw.strides == row_major
    if not is_run:
        dims = stream.collapse(target.shape, draw.strides, row_major)
        is_run = not dims or (len(dims) == 1 and dims[0][1] == 1)
    if not is_run:
        yield from _row_chunks(drawer, target, dtype, draw)
        return
    for begin in range(0, target.size, drawer.chunk):
        end = min(begin + drawer.chunk, target.size)
        yield partial(_draw_run, drawer, target, flat, dtype, draw, begin, end)


def _draw_run(
    drawer: Drawer, target: Array, flat: Array | None, dtype: str, draw: Draw, begin: int, end: int
) -> None:
    """Write the elements ``begin`` to ``end``, row-major; ``flat`` is a contiguous target's 1-d view."""
    out = np.empty(end - begin, target.dtype) if flat is None else flat[begin:end]
    drawer.run(out, dtype, draw, draw.start + begin)
    if flat is None:
        target.flat[begin:end] = out


def _row_chunks(drawer: Drawer, target: Array, dtype: str, draw: Draw) -> Iterator[Callable[[], None]]:
    """Of a target whose rows are runs of the stream, if only of one element: many short ones, or parts."""
    if not target.size:
        return
    dims = stream.collapse(target.shape, target.strides, draw.strides)
    row = dims.pop() if dims[-1][2] == 1 else (1, target.itemsize, 1)
    sizes, memory, places = zip(*dims, strict=True)
    rows, shape, strides = target, (*sizes, row[0]), (*memory, row[1])
    if (shape, strides) != (target.shape, target.strides):  # where they are, half of a small fill is saved
        rows = np.lib.stride_tricks.as_strided(target, shape, strides)
    count = math.prod(sizes)
    together = max(drawer.chunk // (row[0] + 3), 1)  # of a row's blocks, three elements may lie beside it
    for first in range(0, count, together):
        for begin in range(0, row[0], drawer.chunk):
            part = rows[..., begin : begin + drawer.chunk]
            moved = draw._replace(start=draw.start + begin, strides=places)
            yield partial(_draw_rows, drawer, part, dtype, moved, first, min(first + together, count))


def _draw_rows(drawer: Drawer, rows: Array, dtype: str, draw: Draw, begin: int, end: int) -> None:
    """Write the rows ``begin`` to ``end``, row-major; the draw's strides are those from row to row."""
    at = np.unravel_index(np.arange(begin, end), rows.shape[:-1])
    places = np.full(end - begin, draw.start, np.uint64)
    for coordinate, stride in zip(at, draw.strides, strict=True):
        places += (coordinate * stride).view(np.uint64)
    drawer.rows(rows, dtype, draw, places, at)
