"""Where tensors lie in memory: which storage, which bytes of it, and what covers or meets what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tritoninit.extents import extent
from tritoninit.interception.private import storage_address


def storage_key(tensor: Tensor) -> int | None:
    """The address of a tensor's storage; None if other tensors may be behind it."""
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return None
    try:
        return storage_address(tensor.untyped_storage())
    except RuntimeError:  # sparse, or wrapped by a transformation
        return None


@dataclass(frozen=True)
class Region:
    """Where a tensor's elements, of which there is at least one, lie in their storage."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Region:
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    @cached_property
    def bytes(self) -> tuple[int, int]:
        """First and last + 1 byte."""
        size = self.dtype.itemsize
        start, stop = extent(size, self.shape, [stride * size for stride in self.strides])
        return self.offset * size + start, self.offset * size + stop

    @cached_property
    def dense(self) -> bool:
        """Whether no byte between the first and the last is another's."""
        start, stop = self.bytes
        return stop - start == torch.Size(self.shape).numel() * self.dtype.itemsize

    def covers(self, other: Region) -> bool:
        """Whether writing this leaves nothing of ``other``; no two elements share memory."""
        (start, stop), (first, last) = self.bytes, other.bytes
        return start <= first and last <= stop and (self.dense or self == other)

    def meets(self, other: Region) -> bool:
        """Whether the two may share memory: between the first and the last byte of each."""
        (start, stop), (first, last) = self.bytes, other.bytes
        return start < last and first < stop

    def moved(self, source: Region, to: Region) -> Region:
        """Where what lies here, in or about ``source``, lies in a copy of that with the same strides."""
        return replace(self, dtype=to.dtype, offset=self.offset - source.offset + to.offset)

    def row_of(self, other: Region) -> int | None:
        """Which row of ``other``, along its first dimension, this is; None if it is none."""
        if self.shape not in (other.shape[1:], (1, *other.shape[1:])) or not other.shape:
            return None
        row, rest = divmod(self.offset - other.offset, other.strides[0] or 1)
        inner = self.strides[len(self.strides) - len(other.strides) + 1 :]
        return row if rest == 0 and inner == other.strides[1:] and 0 <= row < other.shape[0] else None

    def tensor(self, storage: torch.UntypedStorage) -> Tensor:
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.shape, self.strides)
