"""Zeros in the elements of a matrix whose uniforms are the smallest of their column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tritoninit import registry
from tritoninit.fills import Uniform
from tritoninit.keys import Key
from tritoninit.targets import Target, as_array, device_type
from tritoninit.window import Window

_LARGE = 1 << 15  # elements; below, to have the kernels compiled or read would take longer than all else


def zero_smallest(parts: Sequence[tuple[Target, Window]], count: int, key: Key) -> None:
    """Zeros in parts of one matrix, where its uniforms are among the smallest of their column.

    Args:
        parts: on one device; at least one. Their other elements stay.
        count: how many there are in each column of the whole matrix; of equal ones the upper are zero.
        key: of the uniforms.
    """
    parts = [(target, window) for target, window in parts if 0 not in target.shape]
    if not count or not parts:
        return
    (first, window), *_ = parts
    shape = rows, columns = window.global_shape[0], window.global_shape[1]
    top = min(window.offsets[0] for _, window in parts)
    left = min(window.offsets[1] for _, window in parts)
    height = max(window.offsets[0] + target.shape[0] for target, window in parts) - top
    width = max(window.offsets[1] + target.shape[1] for target, window in parts) - left
    # Its rows' numbers have room for so many.
    large = device_type(first) == "cpu" and rows * width >= _LARGE and rows < 1 << 32
    if large and registry.resolve("cpu").name == "numba":
        from tritoninit.kernels import numba_selection

        numbers, threads = (key.seed, key.stream), torch.get_num_threads()
        bits = numba_selection.choose(count, shape, (top, left), (height, width), numbers, threads)
        for target, window in parts:
            offsets = window.offsets[0] - top, window.offsets[1] - left
            numba_selection.zero(as_array(target), bits, offsets, threads)
        return
    device = first.device if isinstance(first, torch.Tensor) else torch.device("cpu")
    uniforms = torch.empty(rows, width, dtype=torch.float32, device=device)
    Uniform()(uniforms, key=key, window=Window((rows, columns), (0, left)))
    chosen = smallest(uniforms, count)
    for target, window in parts:
        above, before = window.offsets[0], window.offsets[1] - left
        here = chosen[above : above + target.shape[0], before : before + target.shape[1]]
        if isinstance(target, torch.Tensor):
            values = target.detach()
            # Few operations are made for floats of 8 bits, of which a zero is the same pattern.
            (values.view(torch.uint8) if values.itemsize == 1 else values).masked_fill_(here, 0)
        else:
            as_array(target)[here.numpy()] = 0


def smallest(x: torch.Tensor, count: int) -> torch.Tensor:
    """Which are the ``count`` smallest elements of each column of a matrix; of equal ones the upper first.

    The elements are float32, none of them negative.
    """
    if count == 0 or x.numel() == 0:
        return torch.zeros_like(x, dtype=torch.bool)
    bound = _bound_by_partition(x, count) if x.is_cpu else _bound_by_bits(x, count)
    chosen = x <= bound
    excess = chosen.sum(dim=0, dtype=torch.int32) - count
    crowded = excess.nonzero().flatten()  # columns with too many equals of the bound: seldom any
    equal = x[:, crowded] == bound[crowded]
    to_the_end = equal.flip(0).cumsum(dim=0).flip(0)
    chosen[:, crowded] &= ~(equal & (to_the_end <= excess[crowded]))
    return chosen


def _bound_by_partition(x: torch.Tensor, count: int) -> torch.Tensor:
    """The largest of the ``count`` smallest elements of each column."""
    ordered = np.partition(x.T.contiguous().numpy(), count - 1, axis=1)
    return torch.from_numpy(ordered[:, count - 1].copy())


def _bound_by_bits(x: torch.Tensor, count: int) -> torch.Tensor:
    """The same, bit by bit from the highest: the largest number that fewer than ``count`` are smaller than.

    Patterns of numbers that are not negative are in their order. Neither sorts nor transposes.
    """
    patterns = x.view(torch.int32)
    bound = torch.zeros(x.shape[1], dtype=torch.int32, device=x.device)
    for bit in reversed(range(31)):
        higher = bound | (1 << bit)
        fewer = (patterns < higher).sum(dim=0, dtype=torch.int32) < count
        bound = torch.where(fewer, higher, bound)
    return bound.view(torch.float32)
