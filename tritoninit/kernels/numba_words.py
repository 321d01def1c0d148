"""What the kernels that numba compiles share: the stream's words, pieces of rows, and how to compile one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from tritoninit.kernels import stream
from tritoninit.kernels.numba_cache import KernelCache

i64, u32, u64 = np.int64, np.uint32, np.uint64

BLOCKS = 512  # a tile: 8 KiB of words and 8 KiB of values

UNIFORM, NORMAL, TRUNCATED_NORMAL = range(3)
DISTRIBUTIONS = {"uniform": UNIFORM, "normal": NORMAL, "truncated_normal": TRUNCATED_NORMAL}

_M0, _M1 = u64(stream.PHILOX_M0), u64(stream.PHILOX_M1)
_W0, _W1 = u32(stream.PHILOX_W0), u32(stream.PHILOX_W1)
_ROUNDS = stream.PHILOX_ROUNDS


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    """The memory at an address, of which ``carray`` makes an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), generate


@intrinsic
def double_bits(context: Any, x: Any) -> Any:
    """The 64 bits of a float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.uint64(types.float64), generate


@intrinsic
def double_of(context: Any, x: Any) -> Any:
    """The float64 of 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), generate


inlined = njit(inline="always", error_model="numpy")


@inlined
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of four uint32 counter words and two uint32 key words: four uint32 words."""
    for _ in range(_ROUNDS):
        p0 = u64(c0) * _M0
        p1 = u64(c2) * _M1
        c0 = u32(p1 >> u64(32)) ^ c1 ^ k0
        c2 = u32(p0 >> u64(32)) ^ c3 ^ k1
        c1 = u32(p1)
        c3 = u32(p0)
        k0 = u32(k0 + _W0)
        k1 = u32(k1 + _W1)
    return c0, c1, c2, c3


@inlined
def words(block, key):
    """The four words of a block; ``key`` is the stream's and the seed's words, low first."""
    return philox4x32(u32(block), u32(block >> u64(32)), key[0], key[1], key[2], key[3])


@inlined
def key_words(seed, stream):
    return u32(stream), u32(stream >> u64(32)), u32(seed), u32(seed >> u64(32))


# Seed, stream and eight parameters as Python's own numbers, which cost a call least; all are float32 numbers.
NUMBERS = (types.uint64, types.uint64, *(types.float64,) * 8)


def _checksum(constants: Any, beside: Sequence[Any]) -> int:
    """Of what is compiled into kernels, and numba's cache reads neither in their file nor in their code."""
    upper = [item for module in (stream, constants) for item in vars(module).items() if item[0].isupper()]
    files = [__file__, *(module.__file__ for module in beside)]
    return zlib.crc32(repr(upper).encode() + b"".join(Path(file).read_bytes() for file in files))


def kernel(*signature: Any, constants: Any = stream, beside: Sequence[Any] = ()) -> Any:
    """Compile on import, or load from the cache on disk; without one where numba can write none.

    Args:
        constants: a module whose numbers the kernel has in it.
        beside: modules of which it has functions in it.
    """
    checksum = _checksum(constants, beside)

    def compiled(function: Any) -> Any:
        function.__qualname__ = f"{function.__name__}_{checksum:08x}"  # part of the name of the cache's file
        dispatcher = njit(nogil=True, error_model="numpy")(function)
        with suppress(RuntimeError, OSError):  # "no locator available": slower to start
            dispatcher._cache = KernelCache(function)
        dispatcher.compile(types.void(*signature))
        dispatcher.disable_compile()
        return dispatcher

    return compiled


def entry(kernel: Any) -> Any:
    """A kernel's compiled code, as a function of Python's that takes its arguments for what they should be.

    The kernel itself looks at the type of each first, which takes as long as to draw a hundred elements.
    """
    (compiled,) = kernel.overloads.values()
    return compiled.entry_point


@njit(nogil=True, error_model="numpy")
def gather_tile(x, pieces, places, row, done, length):
    """Fill a tile with blocks that rows need: of ``row``, from element ``done`` on, and of the next ones.

    Args:
        x: (4, BLOCKS), of which the first two words become the blocks' numbers in the stream, low first.
        pieces: (BLOCKS, 4), of each part of a row the row's number, the first element, how many, and where
            that one lies in the tile.

    Returns:
        How many blocks and pieces there are, and the row and the element to go on with.
    """
    count = piece = 0
    while row < places.size and count < BLOCKS:
        place = places[row] + u64(done)
        before = i64(place & u64(3))
        taken = min((before + length - done + 3) >> 2, BLOCKS - count)
        low, high = x[0, count : count + taken], x[1, count : count + taken]
        for j in range(taken):
            block = (place >> u64(2)) + u64(j)
            low[j], high[j] = u32(block), u32(block >> u64(32))
        size = min(length - done, 4 * taken - before)
        pieces[piece, 0], pieces[piece, 1], pieces[piece, 2] = row, done, size
        pieces[piece, 3] = 4 * count + before
        count += taken
        piece += 1
        done += size
        if done == length:
            row += 1
            done = 0
    return count, piece, row, done


@inlined
def copy_piece(source, first, address, size, stride):
    """``size`` elements from ``first`` on, to memory that begins at an address and has a stride in bytes."""
    if stride == source.itemsize:
        out = carray(pointer(address), size, source.dtype)
        for k in range(size):
            out[k] = source[first + k]
    else:
        for k in range(size):
            carray(pointer(address + u64(k * stride)), 1, source.dtype)[0] = source[first + k]
