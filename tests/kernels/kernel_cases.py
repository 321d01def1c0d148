"""What every backend is compared on: draws, memory layouts and windows; and how the bits are compared.

Used by the tests in Triton's interpreter and by those on a GPU. It needs only NumPy and torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tritoninit.kernels import lowering, reference
from tritoninit.kernels.stream import FLOAT8, Draw, row_major_strides

DTYPES = ("float32", "float16", "bfloat16")
BYTES = tuple(FLOAT8)
SIZES = (0, 1, 3, 4, 5, 1023, 1024, 1025, 65537)
# Each start leads to a different first word or alignment, or lies where a 32-bit half overflows: of the
# element's index (early in a program's tile, and late), of its block, of either in the middle of the fill,
# and at the end of all indices.
STARTS = (
    0,
    1,
    2,
    3,
    5,
    16,
    2**32 - 16,
    2**32 - 4090,
    2**32 * 4 - 3,
    2**34 - 5,
    2**34 + 4096,
    2**63 - 2**18,
)
SEED, STREAM = 0x123456789ABCDEF0, 2**40 + 3
# Elements of memory before and after the tensor that a fill must leave alone: more than a program's tile, so
# that a mask gone wrong is seen, and does not crash.
GUARD = 4096 + 72

Bits = npt.NDArray[Any]
# A signalling NaN, which no fill writes; of 8 bits a NaN, or a number that none of the cases has.
_POISON = {
    "float32": 0x7FA5A5A5,
    "float16": 0x7DA5,
    "bfloat16": 0x7FA5,
    "float64": 0x7FF4A5A5A5A5A5A5,
} | dict.fromkeys(BYTES, 0xFF)
_BITS = {
    "float32": np.uint32,
    "float16": np.uint16,
    "bfloat16": np.uint16,
    "float64": np.uint64,
} | dict.fromkeys(BYTES, np.uint8)
_MEMORY = _BITS | {"float32": np.float32, "float16": np.float16, "float64": np.float64}


# What is drawn: its distribution, and its float32 parameters for a dtype, none of them zero but the standard
# normal's mean: adding another one rounds most errors of one unit in the last place away. A truncated normal
# whose bounds both leave some mass outside never meets the quantile's tail, and has its own kernel.
FILLS: dict[str, tuple[str, Callable[[str], tuple[float, ...]]]] = {
    "constant": ("constant", lambda dtype: lowering.constant(0.3, dtype)),
    "uniform": ("uniform", lambda dtype: lowering.uniform(-0.1, 0.3, dtype)),
    "normal": ("normal", lambda dtype: lowering.normal(0.1, 0.02, dtype)),
    "standard": ("normal", lambda dtype: lowering.normal(0.0, 1.0, dtype)),
    "truncated": ("truncated_normal", lambda dtype: lowering.truncated_normal(0.1, 2.0, 5.0, 11.0, dtype)),
    "central": ("truncated_normal", lambda dtype: lowering.truncated_normal(0.01, 0.02, -0.03, 0.04, dtype)),
}


def edge_parameters(name: str, dtype: str) -> list[tuple[float, ...]]:
    """Ends of ranges, subnormal numbers and zeros: where a flush to zero or another rounding would show."""
    large = 65504.0 if dtype == "float16" else 3e38
    if dtype == "float64":
        large = 1e307
    if dtype in BYTES:
        large = torch.finfo(getattr(torch, dtype)).max
    if name == "constant":
        return [
            lowering.constant(x, dtype)
            for x in (0.0, -0.0, 1e-40, -6e-8, -1e-3, 464.0, 65520.0, 3e38, math.inf)
        ]
    if name == "uniform":
        ranges = [
            (0, 1),
            (-1, 0),
            (0, 2.0**-126),
            (-1e-40, 1e-40),
            (0, large),
            (-large / 2, 0.3),
            (-1e-310, 1e-309) if dtype == "float64" else (0.1, 0.3),
            (-0.0, 0.0),
        ]
        return [lowering.uniform(*ends, dtype) for ends in ranges]
    if name in ("normal", "standard"):
        return [lowering.normal(*p, dtype) for p in ((0, 1e-40), (0, 0), (1e-38, 1e-39), (0, large / 8))]
    if name == "truncated":
        intervals = [(0, 1, 0, 9), (0, 1, -9, 0), (0, 1, -50, 50), (0, 1, 6, 50), (-1, 0.1, -50, -1.5)]
    else:
        intervals = [
            (0, 1, -1, 0),
            (0, 1, 0, 3),
            (0, 1e-39, -1e-39, 2e-39),
            (0, 1, -1e-30, 1e-30),
            (0, large / 4, -large / 4, large / 2),
        ]
    return [lowering.truncated_normal(*p, dtype) for p in intervals]


@dataclass(frozen=True)
class Layout:
    """A tensor in memory: strides and offset in elements, from the end of the guard; none negative."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def extent(self) -> int:
        """Elements from the guard to the last of the tensor, itself included."""
        if 0 in self.shape:
            return self.offset
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + last + 1


def contiguous(*shape: int, offset: int = 0) -> Layout:
    return Layout("x".join(map(str, shape)) or "scalar", shape, row_major_strides(shape), offset)


def permuted(name: str, shape: tuple[int, ...], order: tuple[int, ...]) -> Layout:
    """Memory of a contiguous ``shape`` seen with its dimensions in another order."""
    strides = row_major_strides(shape)
    return Layout(name, tuple(shape[k] for k in order), tuple(strides[k] for k in order))


LAYOUTS = (
    contiguous(),
    contiguous(1, 1, 1),
    contiguous(3, 0, 2),
    contiguous(33, 65),
    contiguous(33, 65, offset=1),
    contiguous(33, 65, offset=7),
    permuted("transposed", (65, 33), (1, 0)),
    permuted("channels last", (3, 7, 5, 6), (0, 3, 1, 2)),
    Layout("rows of a wider matrix", (33, 65), (97, 1), 5),
    Layout("every second column", (33, 32), (65, 2)),
    Layout("every third element", (777,), (3,), 2),
    Layout("one column", (129, 1), (64, 1), 3),
    permuted("five dimensions", (3, 4, 2, 5, 6), (4, 2, 0, 3, 1)),
    permuted("six dimensions", (2, 3, 2, 3, 2, 2), (5, 3, 1, 0, 2, 4)),
    permuted("six dimensions, two of one", (7, 1, 5, 3, 1, 2), (5, 4, 3, 2, 1, 0)),
    permuted("transposed, of short rows", (7, 33), (1, 0)),
)


@dataclass(frozen=True)
class Window:
    """A hyper-rectangle of a row-major global tensor, held by a local one of shape ``shape``."""

    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def start(self) -> int:
        strides = row_major_strides(self.global_shape)
        return sum(offset * stride for offset, stride in zip(self.offsets, strides, strict=True))


WINDOWS = (
    Window((100,), (37,), (50,)),
    Window((40, 50), (7, 0), (13, 50)),
    Window((40, 50), (0, 11), (40, 17)),
    Window((40, 50), (13, 11), (9, 17)),
    Window((6, 7, 8), (1, 2, 3), (3, 4, 5)),
    Window((6, 7, 8, 9), (1, 0, 3, 2), (3, 7, 5, 6)),
    Window((4, 5, 4, 5, 4), (1, 1, 0, 2, 1), (2, 3, 4, 2, 3)),
    Window((3, 4, 3, 4, 3, 4), (1, 1, 1, 1, 1, 1), (2, 2, 2, 2, 2, 2)),
    Window((2**40, 2**20), (2**33 + 5, 2**19 + 1), (3, 37)),
)


def make_draw(name: str, dtype: str, start: int, strides: tuple[int, ...]) -> Draw:
    distribution, parameters = FILLS[name]
    return Draw(distribution, parameters(dtype), SEED, STREAM, start, strides)


def edge_draws(name: str, dtype: str) -> list[Draw]:
    return [Draw(FILLS[name][0], p, SEED, STREAM, 0, (1,)) for p in edge_parameters(name, dtype)]


def poisoned(layout: Layout, dtype: str) -> Bits:
    """The bits of the memory around and under a tensor, all of them NaN."""
    return np.full(layout.extent + 2 * GUARD, _POISON[dtype], _BITS[dtype])


def poisoned_memory(size: int, dtype: str, device: str = "cpu") -> torch.Tensor:
    """A tensor (size,) whose elements are all that NaN."""
    patterns = np.full(size, _POISON[dtype], _BITS[dtype])
    signed = patterns.view({1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}[patterns.itemsize])
    return torch.from_numpy(signed).to(device).view(getattr(torch, dtype))


def array_view(memory: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    strides = [stride * memory.itemsize for stride in layout.strides]
    return np.lib.stride_tricks.as_strided(memory[GUARD + layout.offset :], layout.shape, strides)


def reference_bits(layout: Layout, dtype: str, draw: Draw) -> Bits:
    """The memory's bits after the reference has filled the tensor."""
    memory = poisoned(layout, dtype)
    reference.fill_many([(array_view(memory.view(_MEMORY[dtype]), layout), dtype, draw)])
    inside = np.zeros(memory.shape, bool)
    array_view(inside, layout)[...] = True
    assert ((memory == _POISON[dtype]) == ~inside).all(), "the reference missed an element or left its tensor"
    return memory


def tensor_bits(
    fill: Callable[[torch.Tensor, Draw], None], layout: Layout, dtype: str, draw: Draw, device: str
) -> Bits:
    """The memory's bits after ``fill`` has filled the tensor on a device."""
    memory = poisoned_memory(layout.extent + 2 * GUARD, dtype, device)
    tensor = torch.as_strided(memory, layout.shape, layout.strides, GUARD + layout.offset)
    fill(tensor, draw)
    return tensor_patterns(memory)


def tensor_patterns(memory: torch.Tensor) -> Bits:
    """A tensor's bits, as unsigned integers of its elements' size."""
    signed = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[memory.itemsize]
    return memory.view(signed).cpu().numpy().view(f"u{memory.itemsize}")


def assert_same_bits(found: Bits, expected: Bits, what: object = "") -> None:
    different = np.flatnonzero(found != expected)
    if different.size:
        k = different[0]
        raise AssertionError(
            f"{different.size} of {expected.size} differ, the first at {k - GUARD}: "
            f"{found[k]:#x} instead of {expected[k]:#x} {what}"
        )


def assert_fill_matches(
    fill: Callable[[torch.Tensor, Draw], None], layout: Layout, dtype: str, draw: Draw, device: str = "cpu"
) -> None:
    """Every bit of the tensor, and of the memory around it, is the reference's."""
    found, expected = tensor_bits(fill, layout, dtype, draw, device), reference_bits(layout, dtype, draw)
    assert_same_bits(found, expected, (layout, dtype, draw))
