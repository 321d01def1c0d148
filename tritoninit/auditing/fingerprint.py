"""A hash of a tensor's bits that adds up over shards: the fingerprint that audits compare."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tritoninit.auditing.reading import check_readable, pieces
from tritoninit.distributed.held import is_dtensor, readable
from tritoninit.targets import Target, as_array
from tritoninit.window import Window
from tritoninit.windows import Windows

_MASK: Final = 2**64 - 1
# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; the finaliser is variant 13 of Stafford's): the state's
# increment, and (shift, multiplier) of the finaliser's rounds.
_GOLDEN_GAMMA: Final = 0x9E3779B97F4A7C15
_ROUNDS: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_OFFSET: Final = 2**32 + 1  # C
_LOW_BITS: Final = 16
_ROW: Final = 1 << _LOW_BITS  # words that share a high multiplier
CHUNK: Final = 8 * _ROW  # elements looked at together: 4 MiB of 64-bit scratch


def bits_hash(tensor: Target, *, window: Window | Windows | None = None, salt: str = "") -> int:
    """64 bits that depend on every bit of a tensor, and add up over its shards.

    With ``w[k]`` the tensor's bits, in row-major order of the global tensor, as signed words (of 8, 16 or 32
    bits; an element of 8 or 16 bytes is 2 or 4 words of 32, the low one first, real before imaginary)::

        M0(salt) * sum over k of M1[k >> 16] * M2[k & 0xffff] * (w[k] + C)   modulo 2**64

    with C = 2**32 + 1, which no word cancels, so that the number of words counts, and odd multipliers:
    ``M2[j]`` and ``M1[j]`` are numbers j and 2**16 + j that SplitMix64 gives for seed
    0, their lowest bit set, and M0 is the little-endian BLAKE2b of the salt in 8 bytes, its lowest bit set;
    M0 = 1 without a salt. The hashes of shards that make up a tensor, each with its window, add up modulo
    2**64 to the hash of the whole. Neither device nor memory layout nor shape counts.

    It tells bits that differ by accident apart, with a chance of about 2**-32 to miss the worst difference
    of two words; it is not cryptographic: whoever wants a collision makes one.

    Args:
        tensor: a torch tensor or a NumPy array of any dtype; on a GPU it is hashed there. Of a DTensor, what
            this rank holds: the hashes of ranks that hold other parts add up, and replicas have equal ones.
        window: which part of a global tensor this is, or which parts; by default all of it.
        salt: another salt gives another hash.

    Returns:
        An integer of 64 bits, without a sign.

    Raises:
        TypeError: ``tensor`` is neither.
        TargetError: the tensor's memory cannot be read: it is a meta or a sparse tensor, or was freed.
        ValueError: the tensor lies outside its window.

    >>> half = Window((4,), (2,))
    >>> x = torch.arange(4.0)
    >>> (bits_hash(x[:2], window=Window((4,), (0,))) + bits_hash(x[2:], window=half)) % 2**64 == bits_hash(x)
    True
    """
    if not isinstance(tensor, (Tensor, np.ndarray)):
        raise TypeError(f"expected a tensor or an array, not {type(tensor).__name__}")
    if not isinstance(tensor, Tensor):
        tensor = torch.from_numpy(np.ascontiguousarray(as_array(tensor)))
    if isinstance(window, Windows) or is_dtensor(tensor):
        parts = readable(tensor, window).parts
        return sum(bits_hash(part, window=inside, salt=salt) for part, inside in parts) & _MASK
    check_readable(tensor)
    shape = tuple(tensor.shape)
    window = Window.whole(shape) if window is None else window
    window.check(shape)
    each = max(1, tensor.itemsize // 4)
    total, scratch = 0, None
    for begin, piece in pieces(tensor, CHUNK // each):
        words = _words(piece)
        first = _run_start(shape, window, begin, piece.numel())
        if first is None:
            total += _scattered(words, _indices(shape, window, begin, piece), each)
        else:
            if scratch is None:  # one for all pieces: pages that are fresh each time took most of the time
                scratch = torch.empty_like(words, dtype=torch.int64)
            total += _run(words, first * each, scratch)
    return total * salt_multiplier(salt) & _MASK


def salt_multiplier(salt: str) -> int:
    """M0: what a salted hash is the unsalted one times, modulo 2**64."""
    if not salt:
        return 1
    return int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little") | 1


def _words(piece: Tensor) -> Tensor:
    """A 1-d piece's bits as signed integers of at most 32 bits."""
    return piece.view({1: torch.int8, 2: torch.int16}.get(piece.itemsize, torch.int32))


def _run_start(shape: tuple[int, ...], window: Window, begin: int, size: int) -> int | None:
    """The global index of a piece's first element if the others follow it there; else None.

    Elements follow each other as far as the last dimension that is cut, and it is not crossed.
    """
    offset = window.start + sum(
        i * stride for i, stride in zip(np.unravel_index(begin, shape), window.strides, strict=True)
    )
    sizes = enumerate(zip(shape, window.global_shape, strict=True))
    cut = max((dim for dim, (size, whole) in sizes if size != whole), default=0)
    run = math.prod(shape[cut:])
    return int(offset) if begin % run + size <= run else None


def _run(words: Tensor, first: int, scratch: Tensor) -> int:
    """The sum over words with indices ``first``, ``first + 1``, ..."""
    head = min(-first % _ROW, words.numel())
    body = (words.numel() - head) // _ROW * _ROW
    total = 0
    for part in (words[:head], words[head : head + body].view(-1, _ROW), words[head + body :]):
        if part.numel():
            low = first % _ROW
            table = _table(part.device)[low : low + part.shape[-1]]
            products = torch.mul(part, table, out=scratch[: part.numel()].view(part.shape))
            sums = (products.sum(-1) + table.sum() * _OFFSET).view(-1).tolist()
            total += sum(_odd(_ROW + (first >> _LOW_BITS) + row) * each for row, each in enumerate(sums))
            first += part.numel()
    return total


def _indices(shape: tuple[int, ...], window: Window, begin: int, piece: Tensor) -> Tensor:
    """The global indices of a piece whose first element is the local tensor's number ``begin``."""
    local = torch.arange(begin, begin + piece.numel(), device=piece.device)
    found = torch.full_like(local, window.start)
    for size, stride in zip(reversed(shape), reversed(window.strides), strict=True):
        found += local % size * stride
        local //= size
    return found


def _scattered(words: Tensor, indices: Tensor, each: int) -> int:
    """The sum over words, ``each`` to an element, of elements with any indices."""
    if each > 1:
        indices = (indices[:, None] * each + torch.arange(each, device=words.device)).view(-1)
    multiplier = _odds(_ROW + (indices >> _LOW_BITS)) * _table(words.device)[indices & (_ROW - 1)]
    return int((multiplier * words).sum() + multiplier.sum() * _OFFSET)


def _odd(k: int) -> int:
    """Number k, from 0, that SplitMix64 gives for seed 0, its lowest bit set."""
    z = (k + 1) * _GOLDEN_GAMMA & _MASK
    for shift, multiplier in _ROUNDS:
        z = (z ^ z >> shift) * multiplier & _MASK
    return z | 1


def _odds(k: Tensor) -> Tensor:
    """:func:`_odd` of int64 numbers, modulo 2**64."""
    z = (k + 1) * _signed(_GOLDEN_GAMMA)
    for shift, multiplier in _ROUNDS:
        z = (z ^ z >> shift & (1 << 64 - shift) - 1) * _signed(multiplier)
    return z | 1


def _signed(x: int) -> int:
    return x - 2**64 if x >> 63 else x


@cache
def _table(device: torch.device) -> Tensor:
    """M2."""
    with torch.inference_mode(False):
        return _odds(torch.arange(_ROW, device=device))
