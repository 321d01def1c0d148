"""How a CPU backend fills memory of any layout: in chunks, over threads, in bounded scratch.

What a backend brings is two functions that draw into contiguous memory: the elements of a run of the stream,
and the elements at any places of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoninit.kernels import stream
from tritoninit.kernels.stream import Draw

Array = npt.NDArray[Any]
Places = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Drawer:
    """A CPU backend's arithmetic.

    Attributes:
        run: writes elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array:
            ``run(out, dtype, draw, first)``.
        places: writes the elements at the given stream indices: ``places(out, dtype, draw, indices)``.
        chunk: elements that a call of ``run`` should get; ``places`` gets a quarter of that, since each of
            its elements needs a block of its own.
    """

    run: Callable[[Array, str, Draw, int], None]
    places: Callable[[Array, str, Draw, Places], None]
    chunk: int


def fill(drawer: Drawer, target: Array, dtype: str, draw: Draw, threads: int = 1) -> None:
    """Write a random ``draw`` into an array, in place.

    Args:
        drawer: who draws.
        target: float32, float16, or the uint16 patterns of bfloat16; any shape and strides.
        dtype: "float32", "float16" or "bfloat16".
        draw: what to write.
        threads: how many threads share the chunks; they live as long as the call.
    """
    dims = stream.collapse(target.shape, draw.strides, stream.row_major_strides(target.shape))
    is_run = not dims or (len(dims) == 1 and dims[0][1] == 1)
    flat = target.reshape(-1) if target.flags.c_contiguous else None
    step = drawer.chunk if is_run else drawer.chunk // 4

    def fill_chunk(begin: int) -> None:
        end = min(begin + step, target.size)
        out = np.empty(end - begin, target.dtype) if flat is None else flat[begin:end]
        # Overflow and underflow are as IEEE 754 says, whatever the caller's settings would raise.
        with np.errstate(all="ignore"):
            if is_run:
                drawer.run(out, dtype, draw, draw.start + begin)
            else:
                drawer.places(out, dtype, draw, _stream_indices(target.shape, draw, begin, end))
        if flat is None:
            target.flat[begin:end] = out

    begins = range(0, target.size, step)

    def fill_every(worker: int) -> None:
        for begin in begins[worker::workers]:
            fill_chunk(begin)

    workers = max(1, min(threads, len(begins)))
    if workers == 1:
        fill_every(0)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill_every, range(workers)):
            pass


def _stream_indices(shape: tuple[int, ...], draw: Draw, begin: int, end: int) -> Places:
    """The stream indices of the elements ``begin`` to ``end``, row-major, of an array of ``shape``."""
    indices = np.full(end - begin, draw.start, np.uint64)
    coordinates = np.unravel_index(np.arange(begin, end), shape)
    for coordinate, stride in zip(coordinates, draw.strides, strict=True):
        indices += coordinate.astype(np.uint64) * np.uint64(stride)
    return indices
