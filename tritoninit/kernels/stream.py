"""The stream's constants, and the numbers a fill is lowered to: all that every backend must agree on.

``kernels/README.md`` describes stream version 1 on one page. The tables below were fitted by
``tools/fit_polynomials.py``; each states its largest relative error before rounding of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

STREAM_VERSION: Final = 1

# Philox4x32 (Salmon, Moraes, Dror and Shaw, SC'11, table 2): multipliers and Weyl key increments.
PHILOX_ROUNDS: Final = 10
PHILOX_M0: Final = 0xD2511F53
PHILOX_M1: Final = 0xCD9E8D57
PHILOX_W0: Final = 0x9E3779B9  # golden ratio
PHILOX_W1: Final = 0xBB67AE85  # sqrt(3) - 1

# -2 ln(1 + m) = -2 m + m**2 polynomial(LOG, m) for |m| <= 1/3, highest power first; relative error
# 0.44 * 2**-24.
LOG: Final = (
    float.fromhex("-0x1.1f2800p-2"),
    float.fromhex("0x1.3b0c5cp-2"),
    float.fromhex("-0x1.1ea89ap-2"),
    float.fromhex("0x1.5038e0p-2"),
    float.fromhex("-0x1.99d3b0p-2"),
    float.fromhex("0x1.00144ep-1"),
    float.fromhex("-0x1.5554fcp-1"),
    float.fromhex("0x1.ffffd6p-1"),
)
LOG_SPLIT: Final = 0x3F2AAAAB  # float32 bits of 2/3: mantissas are taken from [2/3, 4/3)
MINUS_TWO_LN2: Final = float.fromhex("-0x1.62e430p+0")  # -2 ln 2, rounded to float32

# sin(pi/2 f) = f + f w polynomial(SINE, w) with w = 1 - f**2, for f in [-1, 1] (quarter turns), highest
# power first; relative error 0.10 * 2**-24.
SINE: Final = (
    float.fromhex("0x1.3d489ep-13"),
    float.fromhex("0x1.0a9dd8p-8"),
    float.fromhex("0x1.10b308p-4"),
    float.fromhex("0x1.fffff2p-2"),
)

# Normal quantile z of p, as z / (2 p - 1), with W = -2 ln(4 p (1 - p)); highest power first (the form of
# Giles, "Approximating the erfinv function", 2010). Below the split a polynomial in W - 6, relative error
# 5.3 * 2**-24; above it one in sqrt(W) - 6, relative error 36 * 2**-24 up to |z| = 9.2.
QUANTILE_SPLIT: Final = 12.0
QUANTILE_CENTRE_SHIFT: Final = 6.0
QUANTILE_CENTRE: Final = (
    float.fromhex("0x1.c59108p-38"),
    float.fromhex("0x1.024b0cp-28"),
    float.fromhex("-0x1.786c78p-25"),
    float.fromhex("-0x1.1cc57cp-21"),
    float.fromhex("0x1.22ac48p-16"),
    float.fromhex("-0x1.369f54p-13"),
    float.fromhex("-0x1.09f96ap-9"),
    float.fromhex("0x1.5deb72p-3"),
    float.fromhex("0x1.25e47ep+1"),
)
QUANTILE_TAIL_SHIFT: Final = 6.0
QUANTILE_TAIL: Final = (
    float.fromhex("0x1.df6bf2p-21"),
    float.fromhex("-0x1.80e5dap-18"),
    float.fromhex("0x1.bd3f6cp-18"),
    float.fromhex("0x1.1faa64p-17"),
    float.fromhex("0x1.deb3aep-15"),
    float.fromhex("-0x1.7acd86p-12"),
    float.fromhex("0x1.1b2d94p-11"),
    float.fromhex("0x1.028f78p+0"),
    float.fromhex("0x1.71b678p+2"),
)


class Float8(NamedTuple):
    """A format of 8 bits: a sign, an exponent and a mantissa, whose magnitudes are patterns in order.

    Attributes:
        mantissa: its bits.
        bias: of the exponent.
        largest: the pattern of the largest finite number.
        beyond: what PyTorch's cast makes of what rounds to more, and of infinity.
        nan: what it makes of NaN.
        one_zero: there is no negative zero; its pattern is the only NaN.
    """

    mantissa: int
    bias: int
    largest: int
    beyond: int
    nan: int
    one_zero: bool

    @property
    def has_infinity(self) -> bool:
        return self.beyond == self.largest + 1 and not self.one_zero

    @property
    def dropped(self) -> int:
        """Bits of a float32's mantissa that are rounded away."""
        return 23 - self.mantissa

    @property
    def rebias(self) -> int:
        """What turns the bits of a float32 into those of one whose exponent has this bias."""
        return (127 - self.bias) << 23

    @property
    def smallest_normal(self) -> int:
        """Its float32 bits."""
        return (128 - self.bias) << 23

    @property
    def grid(self) -> int:
        """The bits of the float32 number whose neighbours lie as far apart as this format's subnormals."""
        return (151 - self.bias - self.mantissa) << 23


# Micikevicius and others, "FP8 formats for deep learning" (2022); Noune and others, "8-bit numerical formats
# for deep neural networks" (2022), for those of one zero (fnuz).
FLOAT8: Final = {
    "float8_e4m3fn": Float8(3, 7, 0x7E, 0x7E, 0x7F, False),
    "float8_e5m2": Float8(2, 15, 0x7B, 0x7C, 0x7F, False),
    "float8_e4m3fnuz": Float8(3, 8, 0x7F, 0x80, 0x80, True),
    "float8_e5m2fnuz": Float8(2, 16, 0x7F, 0x80, 0x80, True),
}


class Grid(NamedTuple):
    """The numbers of a format of 16 or 8 bits, as float32 has them.

    Attributes:
        dropped: bits of a float32's mantissa that its normal numbers have not.
        smallest_normal: the bits of the least of those, below which all are multiples of one step; 0 where
            float32's subnormal numbers are this format's, too.
        step: how far apart its subnormal numbers are.
    """

    dropped: int
    smallest_normal: int
    step: float


GRIDS: Final = {
    **{
        name: Grid(form.dropped, form.smallest_normal, 2.0 ** (1 - form.bias - form.mantissa))
        for name, form in FLOAT8.items()
    },
    "float16": Grid(13, (128 - 15) << 23, 2.0**-24),
    "bfloat16": Grid(16, 0, 0.0),
}
# The words that decide where a number is rounded at random: those of the block whose number has this bit set.
# No element's own block has, in any stream, nor has float64's second one (``doubles.LOW_HALVES``).
ROUNDING: Final = 1 << 63


# The float32 numbers of each distribution, in the order in which kernels take them: ``lowering`` says what
# they mean. The functions of each backend have them by the same names.
class ConstantNumbers(NamedTuple):
    value: float


class UniformNumbers(NamedTuple):
    low: float
    scale: float
    floor: float
    cap: float


class NormalNumbers(NamedTuple):
    mean: float
    std: float


class TruncatedNormalNumbers(NamedTuple):
    mean: float
    std: float
    below: float
    above: float
    difference: float
    mass: float
    floor: float
    cap: float


class Draw(NamedTuple):
    """What a backend writes into a tensor of shape ``(n0, n1, ...)``: numbers from places in one stream.

    The element at logical coordinates ``(i0, i1, ...)`` is the one with stream index
    ``start + i0 * strides[0] + i1 * strides[1] + ...``.

    Attributes:
        distribution: "constant", "uniform", "normal" or "truncated_normal".
        parameters: the float32 numbers that ``tritoninit.kernels.lowering`` computed for it and the dtype.
        seed: the Philox key, 64 bits.
        stream: the high half of the Philox counter, 64 bits.
        start: stream index of the first element.
        strides: stream-index strides, one a dimension, in elements.
        stochastic: whether the float32 value is rounded up or down at random, by the words of ROUNDING, and
            not to nearest; of no constant, and of the dtypes in GRIDS alone.
    """

    distribution: str
    parameters: tuple[float, ...]
    seed: int
    stream: int
    start: int
    strides: tuple[int, ...]
    stochastic: bool = False


class Alike(NamedTuple):
    """Draws that differ in where they go and by which numbers, and in nothing else.

    Attributes:
        targets: torch tensors of one dtype and device and of any shapes, contiguous and not empty, none of
            them an inference tensor.
        draw: what all of them have in common: not the strides, which are each's own.
        seeds: of each.
        streams: of each.
    """

    targets: list[Any]
    draw: Draw
    seeds: list[int]
    streams: list[int]

    def items(self) -> list[tuple[Any, Draw]]:
        """Each with its draw."""
        distribution, parameters, _, _, start, _, stochastic = self.draw
        return [
            (x, Draw(distribution, parameters, seed, number, start, row_major_strides(x.shape), stochastic))
            for x, seed, number in zip(self.targets, self.seeds, self.streams, strict=True)
        ]


def row_major_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous row-major array: (3, 4, 5) gives (20, 5, 1)."""
    return _row_major_strides(shape if isinstance(shape, tuple) else tuple(shape))


@lru_cache(maxsize=4096)
def _row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return tuple(strides)


def collapse(shape: Sequence[int], first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int, int]]:
    """Merge neighbouring dimensions that two sets of strides walk as one.

    Returns (size, first stride, second stride) of each dimension left, outermost first; dimensions of size
    one are dropped, so that a scalar gives an empty list.
    """
    merged: list[tuple[int, int, int]] = []
    for size, a, b in zip(shape, first, second, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == a * size and merged[-1][2] == b * size:
            merged[-1] = (merged[-1][0] * size, a, b)
        else:
            merged.append((size, a, b))
    return merged
