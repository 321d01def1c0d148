"""Rounding up or down at random, so that the mean is what was to be rounded: which way, and of what."""

from __future__ import annotations

from typing import Final

import torch

from tritoninit.fills import Uniform
from tritoninit.kernels.lowering import PARTS, ParameterError
from tritoninit.kernels.stream import GRIDS, Grid
from tritoninit.keys import Key
from tritoninit.targets import Target, device_of, dtype_name
from tritoninit.window import Window

NEAREST: Final = "nearest"
STOCHASTIC: Final = "stochastic"
NAME: Final = "rounding"  # of the key by which values that no kernel draws are rounded
_CHUNK: Final = 1 << 20  # elements at a time, which bounds the scratch


def check_rounding(rounding: str) -> None:
    """Raise ParameterError unless it is a word for how to round."""
    if rounding not in (NEAREST, STOCHASTIC):
        raise ParameterError(f'rounding is "{NEAREST}" or "{STOCHASTIC}", not {rounding!r}')


def widened(x: torch.Tensor) -> torch.Tensor:
    """A tensor in the dtype that its values are computed in, before they are rounded to its own once."""
    name = dtype_name(x)
    if name in GRIDS:
        return x.to(torch.float32)
    return x.to(torch.complex64) if name == "complex32" else x


def rounded_for(target: Target, values: torch.Tensor, key: Key, window: Window) -> torch.Tensor:
    """Values for a window, as float32 numbers that the target's dtype has, by ``key.fold_in("rounding")``.

    As they are where the dtype is no format of 16 or 8 bits. Of complex numbers each part is rounded so.
    """
    name = dtype_name(target)
    if name in PARTS and PARTS[name] in GRIDS:
        parts = torch.view_as_real(values.to(torch.complex64))
        whole = Window((*window.global_shape, 2), (*window.offsets, 0))
        return torch.view_as_complex(_rounded(parts, PARTS[name], key, whole, device_of(target)))
    if name not in GRIDS:
        return values
    return _rounded(values.to(torch.float32), name, key, window, device_of(target))


def _rounded(values: torch.Tensor, name: str, key: Key, window: Window, device: torch.device) -> torch.Tensor:
    """Float32 values for a window, as numbers that a dtype of 16 or 8 bits has."""
    share = torch.empty(values.shape, dtype=torch.float32, device=device)
    Uniform()(share, key=key.fold_in(NAME), window=window)  # the upper 24 bits of each word
    flat, shares = values.reshape(-1), share.reshape(-1).to(values.device)
    largest = torch.finfo(getattr(torch, name)).max
    found = torch.empty_like(flat)
    for begin in range(0, flat.numel(), _CHUNK):
        here = slice(begin, begin + _CHUNK)
        found[here] = _moved(flat[here], shares[here], GRIDS[name], largest)
    return found.reshape(values.shape)


def _moved(x: torch.Tensor, share: torch.Tensor, grid: Grid, largest: float) -> torch.Tensor:
    """The number of a format above or below float32 numbers, away from zero where ``share`` is smaller.

    What lies beyond the format's largest is left as it is.
    """
    bits = x.view(torch.int32)
    rest = bits & ((1 << grid.dropped) - 1)
    up = share < rest.to(torch.float32) * 2.0**-grid.dropped
    moved = (bits - rest + (up.to(torch.int32) << grid.dropped)).view(torch.float32)
    if grid.smallest_normal:
        size, about = x.abs(), grid.step * 2.0**23
        low = (size + about) - about
        low = torch.where(low > size, low - grid.step, low)
        small = low + (share * grid.step < size - low) * grid.step
        is_small = (bits & 0x7FFFFFFF) < grid.smallest_normal
        moved = torch.where(is_small, torch.copysign(small, x), moved)
    return torch.where(x.abs() < largest, moved, x)
