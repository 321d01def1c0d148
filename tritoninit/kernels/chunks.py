"""How a CPU backend fills memory of any layout: in chunks, over threads, in bounded scratch.

What a backend brings is three functions: one sets memory to a constant, one writes a run of the stream,
one the elements at any of its places.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoninit.kernels import stream
from tritoninit.kernels.stream import Draw

Array = npt.NDArray[Any]
Places = npt.NDArray[np.uint64]
Item = tuple[Array, str, Draw]


@dataclass(frozen=True)
class Drawer:
    """A CPU backend's arithmetic.

    Attributes:
        constant: sets an array of any layout: ``constant(out, dtype, draw)``.
        run: writes elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array:
            ``run(out, dtype, draw, first)``.
        places: writes the elements at the given stream indices: ``places(out, dtype, draw, indices)``.
        chunk: elements that a call of ``run`` should get; ``places`` gets a quarter of that, since each of
            its elements needs a block of its own.
    """

    constant: Callable[[Array, str, Draw], None]
    run: Callable[[Array, str, Draw, int], None]
    places: Callable[[Array, str, Draw, Places], None]
    chunk: int


def fill(drawer: Drawer, items: Sequence[Item], threads: int = 1) -> None:
    """Write draws into arrays that do not overlap, in place.

    Args:
        drawer: who draws.
        items: (target, dtype, draw) each. The target is float32, float16, or the uint16 patterns of bfloat16,
            of any shape and strides; the dtype "float32", "float16" or "bfloat16".
        threads: how many threads share the chunks of all of them, the caller's one of them.
    """
    if len(items) == 1 and items[0][0].size <= drawer.chunk // 4:
        for chunk in _chunks(drawer, *items[0]):
            chunk()
        return
    work = _Work(chunk for item in items for chunk in _chunks(drawer, *item))
    helpers = [future for _ in range(min(threads, work.peek(threads)) - 1) if (future := _submit(work.run))]
    try:
        work.run()
    finally:
        work.stop()
        # Those that other callers keep busy have nothing left to do here.
        running = [future for future in helpers if not future.cancel()]
        wait(running)
    for future in running:
        future.result()


class _Work:
    """Chunks that several threads take one by one."""

    def __init__(self, chunks: Iterator[Callable[[], None]]) -> None:
        self._chunks = chunks
        self._lock = Lock()

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
            self.stop()
            raise

    def stop(self) -> None:
        """Leave what nobody has begun."""
        with self._lock:
            self._chunks = iter(())

    def _take(self) -> Callable[[], None] | None:
        with self._lock:
            return next(self._chunks, None)


def _submit(run: Callable[[], None]) -> Future[None] | None:
    try:
        return _pool().submit(run)
    except RuntimeError:  # the interpreter is ending, and starts no thread any more
        return None


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that wait for work, as many as the machine can use; shared by all callers."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "tritoninit")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


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
    step = drawer.chunk if is_run else drawer.chunk // 4
    for begin in range(0, target.size, step):
        end = min(begin + step, target.size)
        yield partial(_draw, drawer, target, flat, dtype, draw, is_run, begin, end)


def _draw(
    drawer: Drawer,
    target: Array,
    flat: Array | None,
    dtype: str,
    draw: Draw,
    is_run: bool,
    begin: int,
    end: int,
) -> None:
    """Write the elements ``begin`` to ``end``, row-major; ``flat`` is a contiguous target's 1-d view."""
    out = np.empty(end - begin, target.dtype) if flat is None else flat[begin:end]
    if is_run:
        drawer.run(out, dtype, draw, draw.start + begin)
    else:
        drawer.places(out, dtype, draw, _stream_indices(target.shape, draw, begin, end))
    if flat is None:
        target.flat[begin:end] = out


def _stream_indices(shape: tuple[int, ...], draw: Draw, begin: int, end: int) -> Places:
    """The stream indices of the elements ``begin`` to ``end``, row-major, of an array of ``shape``."""
    indices = np.full(end - begin, draw.start, np.uint64)
    coordinates = np.unravel_index(np.arange(begin, end), shape)
    for coordinate, stride in zip(coordinates, draw.strides, strict=True):
        indices += coordinate.astype(np.uint64) * np.uint64(stride)
    return indices
