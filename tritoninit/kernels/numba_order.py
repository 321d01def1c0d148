"""The order of random words of 64 bits, compiled for the CPU by numba: a permutation of their places.

Words are sorted by their highest bits into bins of a few thousand, which fit a cache, and a bin by its next
bits into ones of a few. What moves is 32 bits of a word beside its number; those of words that have them in
common, one in a million, are told apart by the words themselves.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import types

from tritoninit.kernels.chunks import share
from tritoninit.kernels.numba_words import inlined, kernel

i64, u32, u64 = np.int64, np.uint32, np.uint64

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

_CHUNK: Final = 1 << 17  # words a call
_MOST_BITS: Final = 11  # of bins: so many pages a processor keeps in mind
_BIN_BITS: Final = 12  # about as many words in one as so many bits number
_NUMBER: Final = u64(0xFFFFFFFF)


@inlined
def bin_of(word, bits):
    return i64((word >> u64(1)) >> u64(63 - bits))  # of no bits, too


@kernel(types.uint64[::1], types.int64[::1], types.int64)
def count_kernel(words, counts, bits):
    """How many words there are of each bin."""
    counts[:] = 0
    for k in range(words.size):
        counts[bin_of(words[k], bits)] += 1


@kernel(types.uint64[::1], types.int64, types.int64[::1], types.uint64[::1], types.int64)
def scatter_kernel(words, first, places, packed, bits):
    """Each word's next 32 bits and its number, ``first`` and on, to the next place of its bin."""
    for k in range(words.size):
        word = words[k]
        number = bin_of(word, bits)
        packed[places[number]] = ((word << u64(bits)) & ~_NUMBER) | u64(first + k)
        places[number] += 1


@kernel(types.uint64[::1], types.uint64[::1], types.int64[::1], types.int64[::1])
def sort_kernel(words, packed, ends, out):
    """The numbers of the words of bins, one after another, each in its order.

    Args:
        words: all.
        packed: of these bins.
        ends: of each of them in ``packed``, that of the one before the first before it.
        out: of the size of ``packed``.
    """
    most = i64(0)
    for k in range(1, ends.size):
        most = max(most, ends[k] - ends[k - 1])
    sorted_bin, counts = np.empty(most, np.uint64), np.empty(2 * most + 2, np.uint32)
    for k in range(1, ends.size):
        begin = ends[k - 1] - ends[0]
        size = ends[k] - ends[k - 1]
        bits = i64(1)
        while i64(1) << bits <= size:
            bits += 1
        shift = u64(64 - bits)
        found = packed[begin : begin + size]
        counts[: (i64(1) << bits) + 1] = 0
        for j in range(size):
            counts[i64(found[j] >> shift) + 1] += u32(1)
        for j in range(i64(1) << bits):
            counts[j + 1] += counts[j]
        for j in range(size):
            number = i64(found[j] >> shift)
            sorted_bin[counts[number]] = found[j]
            counts[number] += u32(1)
        for j in range(1, size):
            own = sorted_bin[j]
            before = j
            while before > 0 and sorted_bin[before - 1] > own:
                sorted_bin[before] = sorted_bin[before - 1]
                before -= 1
            sorted_bin[before] = own
        for j in range(1, size):
            own = sorted_bin[j]
            before = j
            while before > 0 and sorted_bin[before - 1] & ~_NUMBER == own & ~_NUMBER:
                other = sorted_bin[before - 1]
                if words[i64(other & _NUMBER)] <= words[i64(own & _NUMBER)]:
                    break
                sorted_bin[before] = other
                before -= 1
            sorted_bin[before] = own
        for j in range(size):
            out[begin + j] = i64(sorted_bin[j] & _NUMBER)


def argsort(words: Words, threads: int) -> Places:
    """The places of the words of each row, in their order; of equal words the first comes first.

    Args:
        words: (rows, fewer than 2**32 words), all numbers as likely: of others it takes long.
        threads: how many share the rows, or a row.
    """
    out = np.empty(words.shape, np.int64)
    if not out.size:
        return out
    if len(words) < threads:
        for row, found in zip(words, out, strict=True):
            _argsort(row, found, threads)
    else:
        share((partial(_argsort, *each, 1) for each in zip(words, out, strict=True)), threads)
    return out


def _argsort(words: Words, out: Places, threads: int) -> None:
    bits = min(max(len(words).bit_length() - _BIN_BITS, 0), _MOST_BITS)
    starts = range(0, len(words), _CHUNK)
    parts = [words[start : start + _CHUNK] for start in starts]
    counts = np.empty((len(parts), 1 << bits), np.int64)
    share((partial(count_kernel, *each, bits) for each in zip(parts, counts, strict=True)), threads)
    sums = np.cumsum(counts.T.reshape(-1)).reshape(1 << bits, len(parts))
    ends = np.concatenate([[0], sums[:, -1]])
    places = np.ascontiguousarray((sums - counts.T).T)
    packed = np.empty(len(words), np.uint64)
    share(
        (
            partial(scatter_kernel, part, start, place, packed, bits)
            for part, start, place in zip(parts, starts, places, strict=True)
        ),
        threads,
    )
    step = max(1, (_CHUNK << bits) // len(words))

    def sort(first: int) -> None:
        own = ends[first : first + step + 1]
        here = slice(own[0], own[-1])
        sort_kernel(words, packed[here], own, out[here])

    share((partial(sort, first) for first in range(0, 1 << bits, step)), threads)
