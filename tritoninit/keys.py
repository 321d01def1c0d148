"""Which random numbers: a seed and a stream, derived from names."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from tritoninit.kernels.lowering import NumberError, ParameterError, integer, scalar, shown
from tritoninit.tracing.private import constant, not_inlined

_MASK = 0xFFFFFFFFFFFFFFFF
_LEAST = -(2**63)
_new: Any = object.__new__


@dataclass(frozen=True)
class Key:
    """One of the 2**128 streams of random numbers.

    Args:
        seed: 64 bits, the Philox key; negative integers down to -2**63 wrap, as in ``torch.manual_seed``.
        stream: 64 bits, the high half of the Philox counter; derive it with :meth:`fold_in`.

    Raises:
        TypeError: a number that is no integer.
        ParameterError: one that 64 bits do not hold.

    >>> Key(0).fold_in("layers.0.weight")
    Key(seed=0, stream=14262892534632057687)
    """

    seed: int
    stream: int = 0

    def __post_init__(self) -> None:
        seed, stream = self.seed, self.stream
        if type(seed) is type(stream) is int and 0 <= seed <= _MASK and 0 <= stream <= _MASK:
            return
        for name in ("seed", "stream"):
            value = getattr(self, name)
            value = index(value) if is_dynamo_compiling() else _integer(name, value)
            if not -(2**63) <= value < 2**64:
                raise ParameterError(f"{name} must fit 64 bits, not {shown(value)}")
            object.__setattr__(self, name, value & _MASK)

    def fold_in(self, data: int | str) -> Key:
        """The key of a named or numbered child: same seed, a stream hashed from this one and ``data``.

        The new stream is the little-endian value of BLAKE2b with an 8-byte digest (RFC 7693) over this
        stream (8 bytes, little-endian) followed by ``s`` and the UTF-8 text, or by ``i`` and the integer
        modulo 2**64 (8 bytes, little-endian).

        Args:
            data: the child's name, or its number.

        Returns:
            The child's key.

        Raises:
            TypeError: ``data`` is neither a string nor an integer.
            ValueError: a name that UTF-8 cannot hold.
        """
        if is_dynamo_compiling():  # which knows no hash, and asks for constants, whose sums have no origin
            stream = _child(index(self.stream), data if isinstance(data, str) else index(data))
            return Key(self.seed, stream + 0)
        stream = _of_name(self.stream, data) if type(data) is str else _of(self.stream, data)
        child: Key = _new(Key)  # of 64 bits each, which need no look
        numbers = child.__dict__
        numbers["seed"], numbers["stream"] = self.seed, stream
        return child

    def split(self, count: int = 2) -> tuple[Key, ...]:
        """The keys of ``count`` numbered children: those of ``fold_in(0)``, ``fold_in(1)`` and so on.

        As ``jax.random.split``, but the first of them do not depend on how many there are.

        Args:
            count: not negative.

        Returns:
            The keys, in order.

        >>> Key(0).split(3)[:2] == Key(0).split()
        True

        Raises:
            TypeError: ``count`` is no integer.
            ValueError: it is negative.
        """
        count = _integer("count", count)
        if count < 0:
            raise ParameterError(f"count must not be negative, unlike {count}")
        return tuple(self.fold_in(number) for number in range(count))

    @classmethod
    def from_generator(cls, generator: torch.Generator | None = None) -> Key:
        """A key with 64 bits drawn from ``generator``, or from PyTorch's default CPU generator.

        Args:
            generator: of any device; PyTorch's default CPU generator if None.

        Returns:
            The key, whose stream is 0. The generator goes on by one draw.
        """
        return cls(drawn_bits(generator))

    from_torch = from_generator  # what it is called where generators of others are about


def _of(stream: int, data: int | str) -> int:
    """The stream of a child."""
    if isinstance(data, str):
        try:
            tail = b"s" + data.encode()
        except UnicodeEncodeError as error:  # of half a surrogate pair
            raise ParameterError(f"UTF-8 cannot hold the name {data!r}") from error
    else:
        try:
            number = _integer("data", data)
        except NumberError as error:
            raise NumberError(f"fold_in takes an integer or a string, not {shown(data)}") from error
        tail = b"i" + (number & _MASK).to_bytes(8, "little")
    digest = hashlib.blake2b(stream.to_bytes(8, "little") + tail, digest_size=8).digest()
    return int.from_bytes(digest, "little")


_of_name = lru_cache(maxsize=1 << 14)(_of)  # a model's names are the same for every seed


def streams(key: Key, names: Iterable[str]) -> list[int]:
    """Those of a key's children by name."""
    stream = key.stream
    return [_of_name(stream, name) if type(name) is str else _of(stream, name) for name in names]


@constant
def _child(stream: int, data: int | str) -> int:
    """The stream of a child of any seed."""
    return _of(stream, data)


class _Scratch(threading.local):
    """Where a thread draws bits of the CPU's generators: to make a tensor takes longer than to draw.

    Attributes:
        bits: the tensor.
        word: its memory, to read which takes a tenth of what it takes to ask the tensor.
    """

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.bits = torch.empty((), dtype=torch.int64, device="cpu")
        self.word = ctypes.c_uint64.from_address(self.bits.data_ptr())


_SCRATCH = _Scratch()


@not_inlined
def drawn_bits(generator: torch.Generator | None) -> int:
    """64 bits of a generator, PyTorch's default CPU generator if None, by one call of it."""
    device = "cpu" if generator is None else str(getattr(generator, "device", "cpu"))
    if device == "cpu":
        bits, word = _SCRATCH.bits, _SCRATCH.word
        try:
            if generator is None:
                drawn = bits.random_(_LEAST, None)
            else:
                drawn = bits.random_(_LEAST, None, generator=generator)
        except RuntimeError:  # torch.func's transformations change only what is made within
            pass
        else:  # one of torch's modes may have drawn another tensor
            return word.value if drawn is bits else int(drawn) & _MASK
    bits = torch.empty((), dtype=torch.int64, device=device).random_(_LEAST, None, generator=generator)
    return int(bits) & _MASK


def _integer(name: str, x: object) -> int:
    """An integer, and no Boolean, which is likelier a flag that went astray."""
    value = scalar(name, x)
    if isinstance(value, bool):
        raise NumberError(f"{name} must be an integer, not {x!r}")
    return integer(name, value)
