"""Which random numbers: a seed and a stream, derived from names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Key:
    """One of the 2**128 streams of random numbers.

    Args:
        seed: 64 bits, the Philox key; negative integers down to -2**63 wrap, as in ``torch.manual_seed``.
        stream: 64 bits, the high half of the Philox counter; derive it with :meth:`fold_in`.

    >>> Key(0).fold_in("layers.0.weight")
    Key(seed=0, stream=14262892534632057687)
    """

    seed: int
    stream: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "stream"):
            value = getattr(self, name)
            if type(value) is int and 0 <= value <= _MASK:
                continue
            # NumPy's Booleans have an __index__ before 2.3.
            if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            value = value.__index__()
            if not -(2**63) <= value < 2**64:
                raise ValueError(f"{name} must fit 64 bits, not {value}")
            object.__setattr__(self, name, value & _MASK)

    def fold_in(self, data: int | str) -> Key:
        """The key of a named or numbered child: same seed, a stream hashed from this one and ``data``.

        The new stream is the little-endian value of BLAKE2b with an 8-byte digest (RFC 7693) over this
        stream (8 bytes, little-endian) followed by ``s`` and the UTF-8 text, or by ``i`` and the integer
        modulo 2**64 (8 bytes, little-endian).
        """
        if isinstance(data, str):
            tail = b"s" + data.encode()
        elif isinstance(data, bool) or not hasattr(data, "__index__"):
            raise TypeError(f"fold_in takes an integer or a string, not {data!r}")
        else:
            tail = b"i" + (data.__index__() & _MASK).to_bytes(8, "little")
        digest = hashlib.blake2b(self.stream.to_bytes(8, "little") + tail, digest_size=8).digest()
        return Key(self.seed, int.from_bytes(digest, "little"))

    @classmethod
    def from_generator(cls, generator: torch.Generator | None = None) -> Key:
        """A key with 64 bits drawn from ``generator``, or from PyTorch's default CPU generator."""
        device = getattr(generator, "device", "cpu")
        bits = torch.empty((), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
        return cls(int(bits))
