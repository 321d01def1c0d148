"""Whether two tensors have a byte of memory in common."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

# The problem is NP-hard; NumPy tries one candidate after another. Of 200,000 random pairs of up to five
# dimensions, none was open after 10**4; 10**6 take about 30 ms.
_MOST_CANDIDATES: Final = 10**6


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two strided tensors of one device have a byte in common, elements of others between their own.

    True, too, if that is not known after ``_MOST_CANDIDATES``, so that nothing goes unsaid.
    """
    try:
        # NumPy's annotations know the two numbers only that have a meaning of their own.
        return np.shares_memory(_addresses(a), _addresses(b), max_work=_MOST_CANDIDATES)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


class _Memory:
    """Where a tensor's elements lie, on whatever device, as NumPy asks for it."""

    def __init__(self, x: Tensor) -> None:
        # Neither kind of dimension adds an address; NumPy has fewer dimensions than PyTorch.
        moving = [(n, s * x.itemsize) for n, s in zip(x.shape, x.stride(), strict=True) if n != 1 and s]
        self.__array_interface__ = {
            "version": 3,
            "data": (x.data_ptr(), True),
            "typestr": f"|V{x.itemsize}",
            "shape": tuple(size for size, _ in moving),
            "strides": tuple(stride for _, stride in moving),
        }


def _addresses(x: Tensor) -> npt.NDArray[np.void]:
    """An array to compute with addresses, never to be read: a GPU's are as good as others."""
    found: npt.NDArray[np.void] = np.asarray(_Memory(x))
    return found
