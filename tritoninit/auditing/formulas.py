"""Whether numbers look drawn, or computed by a formula as tables of sinusoids are."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tritoninit.auditing.reading import pieces

Floats = npt.NDArray[np.float64]

_SAMPLE: Final = 256
_SIDE: Final = 64  # of a block of rows and columns, and so are
_BLOCK: Final = 4096  # its elements
# Of what is drawn, a neighbour tells nothing. By the mean squared step from element to element over twice
# the variance, which is 1 for m independent steps, give or take 1 / sqrt(m) ...
_SMOOTH: Final = 0.5
_SIGMAS: Final = 4.0
# ... and by what is left of x[t + 1] + x[t - 1] without the multiple of x[t] next to it: nothing of a
# sinusoid, whatever its frequency, and nearly all of independent numbers, which so many of them make sure.
_LEFT: Final = 0.25
_SURE: Final = 40


def looks_drawn(x: Tensor) -> bool:
    """Whether the first elements of a tensor are mostly different, in no order and on no smooth curve.

    Curves are looked for along every dimension: positions may be rows or columns.
    """
    sample: Floats = next(pieces(x, _SAMPLE))[1].double().cpu().numpy()
    steps = np.diff(sample)
    largest = np.abs(sample).max()
    if (steps >= 0).all() or (steps <= 0).all() or not 0 < largest < np.inf:
        return False
    # A formula has its numbers again with another sign, or with other last digits.
    if 2 * np.unique(np.abs(sample / largest).round(5)).size <= sample.size:
        return False
    block = _block(x)
    return not any(_is_curve(np.moveaxis(block, axis, 0)) for axis in range(block.ndim))


def _block(x: Tensor) -> Floats:
    """The first elements along every dimension of more than one."""
    left = _BLOCK
    x = x.detach().squeeze()
    for axis in reversed(range(x.dim())):
        side = min(x.shape[axis], _SIDE, max(1, left))
        x = x.narrow(axis, 0, side)
        left //= side
    found: Floats = x.double().cpu().resolve_neg().numpy()
    return found


def _is_curve(lines: Floats) -> bool:
    """Whether elements follow each other smoothly along the first axis, or as sinusoids do."""
    x = lines.reshape(len(lines), -1)
    with np.errstate(over="ignore", invalid="ignore"):  # the farthest elements have no squares
        steps = np.diff(x, axis=0)
        bound = min(_SMOOTH, 1 - _SIGMAS / np.sqrt(max(1, steps.size)))
        if (steps**2).mean() < bound * 2 * x.var() if steps.size else False:
            return True
        if len(x) < 4 or x.shape[1] * (len(x) - 3) < _SURE:
            return False
        sides, middle = x[2:] + x[:-2], x[1:-1]
        squares = (middle**2).sum(0)
        multiple = (sides * middle).sum(0) / np.where(squares, squares, 1.0)
        left = ((sides - multiple * middle) ** 2).sum()
        return bool(left < _LEFT * ((sides - sides.mean(0)) ** 2).sum())
