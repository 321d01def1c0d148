"""Draws that are rounded stochastically, for every backend: of weights' sizes, and of subnormal numbers."""

from __future__ import annotations

from kernel_cases import SEED, STREAM

from tritoninit.fills import Fill, Normal, TruncatedNormal, Uniform
from tritoninit.kernels.stream import GRIDS, Draw

DTYPES = tuple(GRIDS)
FILLS: dict[str, Fill] = {
    "uniform": Uniform(-0.1, 0.3),
    "normal": Normal(0.1, 0.02),
    "small": Normal(0.0, 1e-4),  # about the least normal number of float16, below that of most others
    "tiny": Normal(0.0, 1e-39),  # float32's subnormal numbers
    "truncated": TruncatedNormal(0.1, 2.0, 5.0, 11.0),
    "central": TruncatedNormal(0.01, 0.02, -0.03, 0.04),
}


def stochastic_draw(name: str, dtype: str, start: int = 0, strides: tuple[int, ...] = (1,)) -> Draw:
    fill = FILLS[name].stochastically()
    return Draw(fill.distribution, fill.parameters(dtype), SEED, STREAM, start, strides, stochastic=True)
