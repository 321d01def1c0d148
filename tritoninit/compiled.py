"""Functions of random numbers by compiled loops, where numba serves the CPU: the bits that NumPy computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tritoninit import registry
from tritoninit.kernels.stream import Draw
from tritoninit.keys import Key
from tritoninit.targets import Target, as_array, device_type, dtype_name
from tritoninit.window import Window

# Elements; below, to have the kernels compiled or read would take longer than all else.
_LARGE: Final = 1 << 15

_LONG: Final = 1 << 11  # words of a row; to call the kernels for fewer takes longer than to sort them


class Compiled(NamedTuple):
    """A function that kernels have.

    Attributes:
        function: what they call it.
        numbers: what it takes.
        dtype: which holds its values before they are rounded to a target's.
    """

    function: str
    numbers: tuple[Any, ...]
    dtype: torch.dtype


def in_float32(function: str, dtype: str, *numbers: float) -> Compiled | None:
    """A function that kernels round to float32, of up to five numbers; none for a tensor of float64."""
    return None if dtype == "float64" else Compiled(function, (*numbers, *(0.0,) * 5)[:5], torch.float32)


def filled(target: Target, made: Compiled, keys: Sequence[Key], window: Window) -> bool:
    """Write a function of draws into a target.

    Args:
        target: which holds a window.
        made: the function.
        keys: of the numbers that each element is made of; their seed is the same.
        window: of the global tensor.

    Returns:
        Whether it was written: it is large, lies in the CPU's memory, and numba and the kernels serve it.
    """
    if not _serves(target):
        return False
    from tritoninit.kernels import numba_functions

    if not numba_functions.serves(made.function, dtype_name(target)):
        return False
    seed, streams = keys[0].seed, [key.stream for key in keys]
    draw = Draw(made.function, made.numbers, seed, streams[0], window.start, window.strides)
    if isinstance(target, torch.Tensor) and not target.is_inference():
        torch.autograd.graph.increment_version(target)
    numba_functions.fill((as_array(target), dtype_name(target), draw), streams, torch.get_num_threads())
    return True


def argsort(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The places of random words along the last dimension, in their order; of equal ones the first first."""
    size = words.shape[-1]
    if _serves(words) and _LONG <= size < 1 << 32:  # which their numbers have room for
        from tritoninit.kernels import numba_order

        rows = np.ascontiguousarray(words).reshape(-1, size)
        return numba_order.argsort(rows, torch.get_num_threads()).reshape(words.shape)
    return np.argsort(words, axis=-1, kind="stable")


def _serves(target: Target) -> bool:
    if np.prod(target.shape, dtype=object) < _LARGE or device_type(target) != "cpu":
        return False
    return registry.overriding() in (None, "numba") and registry.resolve("cpu").name == "numba"
