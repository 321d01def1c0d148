"""Which part of a virtual global tensor a local one holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from tritoninit.kernels.lowering import integers
from tritoninit.kernels.stream import row_major_strides


@dataclass(frozen=True)
class Window:
    """A hyper-rectangle of a global tensor: the shard that local memory holds.

    Args:
        global_shape: the shape of the whole, from which fans and stream indices are taken.
        offsets: where the local tensor's first element lies in it, one a dimension.

    Attributes:
        start: row-major index, in the global tensor, of the local tensor's first element.
        strides: row-major strides of the global tensor, in elements.

    Raises:
        ValueError: not as many offsets as dimensions, a negative number, or a tensor of 2**63 elements
            and more.

    >>> Window((4096, 1024), (2048, 0))  # the second half of the rows
    Window(global_shape=(4096, 1024), offsets=(2048, 0))
    """

    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    start: int = field(init=False, repr=False, compare=False)
    strides: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_shape", integers("global_shape", self.global_shape))
        object.__setattr__(self, "offsets", integers("offsets", self.offsets))
        if len(self.global_shape) != len(self.offsets):
            raise ValueError(f"a window needs one offset a dimension, not {self}")
        if any(n < 0 for n in (*self.global_shape, *self.offsets)):
            raise ValueError(f"a window has no negative sizes or offsets: {self}")
        if math.prod(self.global_shape) >= 2**63:
            raise ValueError(f"a global tensor has fewer than 2**63 elements: {self}")
        strides = row_major_strides(self.global_shape)
        object.__setattr__(self, "strides", strides)
        start = sum(offset * stride for offset, stride in zip(self.offsets, strides, strict=True))
        object.__setattr__(self, "start", start)

    @staticmethod
    def whole(shape: Sequence[int]) -> Window:
        """The window that is the global tensor itself.

        Args:
            shape: of the tensor.

        Returns:
            A window without offsets.

        Raises:
            TypeError: a size that is no integer.
        """
        return _whole(shape if type(shape) is torch.Size else integers("shape", shape))

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless a local tensor of ``shape`` lies inside the global one.

        Args:
            shape: the local tensor's.

        Raises:
            ValueError: it does not.
        """
        inside = len(shape) == len(self.offsets) and all(
            offset + size <= whole
            for offset, size, whole in zip(self.offsets, shape, self.global_shape, strict=True)
        )
        if not inside:
            raise ValueError(f"a tensor of shape {tuple(shape)} does not lie inside {self}")

    def cut(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """What a local tensor of ``shape`` holds of the global tensor's ``values``.

        Args:
            values: of the global shape.
            shape: the local tensor's.

        Returns:
            A view.
        """
        return values[tuple(slice(o, o + n) for o, n in zip(self.offsets, shape, strict=True))]


@lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> Window:
    return Window(shape, (0,) * len(shape))
