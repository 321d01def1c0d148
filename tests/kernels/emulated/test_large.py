"""Tensors too large to allocate: the last programs of their launches, in memory for what those write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from emulated_cases import emulated
from kernel_cases import FILLS, SEED, STREAM, assert_same_bits, poisoned_memory, tensor_patterns

from tritoninit.kernels import reference, triton_kernels
from tritoninit.kernels.stream import Draw

BITS = {"float32": np.uint32, "bfloat16": np.uint16}
CODES = [
    ("ptx", "sm_90"),
    pytest.param("sass", "sm_80", marks=pytest.mark.slow),
    ("sass", "sm_90"),
    pytest.param("sass", "sm_100", marks=pytest.mark.slow),
    ("gcn", "gfx942"),
]


@dataclass(frozen=True)
class Slice:
    """Elements from ``first`` on, in memory, of a tensor whose others are nowhere."""

    memory: torch.Tensor
    first: int

    @property
    def dtype(self) -> torch.dtype:
        return self.memory.dtype

    def data_ptr(self) -> int:
        return self.memory.data_ptr() - self.memory.itemsize * self.first

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.memory.untyped_storage()

    def ptr_range(self) -> int:
        """Bytes, by which Triton tells on AMD whether 32-bit offsets will do: they will not."""
        return 2**40


def arguments(tensor: Slice, start: int, stop: int, parameters: tuple[float, ...]) -> tuple[Any, ...]:
    halves = [half for word in (STREAM, SEED) for half in (word & 0xFFFFFFFF, word >> 32)]
    return tensor, start, stop, *halves, *parameters, *(0.0,) * (8 - len(parameters))


@pytest.mark.parametrize(("code", "arch"), CODES)
@pytest.mark.parametrize(("name", "dtype"), [("normal", "float32"), ("uniform", "bfloat16")])
@pytest.mark.parametrize("start", [16, 2**62 + 5])
def test_a_run_of_more_than_2_33_elements(code, arch, name, dtype, start):
    tile = 4 * triton_kernels.COUNTERS
    stop = start + 2**33 + 77
    programs = (stop - 1) // tile - start // tile + 1
    begin = (start // tile + programs - 3) * tile  # the index in the stream at which the last three begin
    first = begin - start - 1008  # the element at which the memory begins
    first -= first % 16
    memory = poisoned_memory(stop - start - first + 1000, dtype)
    distribution, parameters = FILLS[name]
    draw = Draw(distribution, parameters(dtype), SEED, STREAM, 0, (1,))
    values = np.empty(stop - begin, np.float32 if dtype == "float32" else np.uint16)
    reference.run(values, dtype, draw, begin)
    expected = tensor_patterns(memory).copy()
    offset = begin - start - first
    expected[offset : offset + values.size] = values.view(BITS[dtype])
    options = {
        "DISTRIBUTION": triton_kernels.variant(draw),
        "ALIGNED": start % 16 == 0,
        "COUNTERS": triton_kernels.COUNTERS,
        "num_warps": triton_kernels.NUM_WARPS,
        "enable_fp_fusion": False,
    }
    with emulated(code, arch) as gpu:
        gpu.written = [memory]
        tensor = arguments(Slice(memory, first), start, stop, draw.parameters)
        gpu.launch("run_kernel", (programs,), tensor, options, range(programs - 3, programs))
    assert_same_bits(tensor_patterns(memory), expected)


@pytest.mark.parametrize(("code", "arch"), CODES)
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_a_scattered_fill_of_more_than_2_32_elements(code, arch, name):
    """64-bit divisions, memory offsets beyond 2**33, and places in the stream beyond 2**40."""
    rows, columns = 2**22 + 1, 1027
    memory_strides, stream_strides, start = (2100, 2), (5000, 1), 2**40 + 3
    places = triton_kernels.PLACES
    programs = -(-rows * columns // places)
    element = np.arange((programs - 8) * places, rows * columns, dtype=np.int64)
    row, column = element // columns, element % columns
    where = row * memory_strides[0] + column * memory_strides[1]
    first = int(where.min()) - 1000
    memory = poisoned_memory(int(where.max()) - first + 1000, "float32")
    distribution, parameters = FILLS[name]
    draw = Draw(distribution, parameters("float32"), SEED, STREAM, 0, (1,))
    values = np.empty((element.size, 1), np.float32)
    indices = start + row * stream_strides[0] + column * stream_strides[1]
    reference.rows(values, "float32", draw, indices.astype(np.uint64), (np.arange(element.size),))
    expected = tensor_patterns(memory).copy()
    expected[where - first] = values[:, 0].view(np.uint32)
    options = {
        "DISTRIBUTION": triton_kernels.variant(draw),
        "WIDE": True,
        "PLACES": places,
        "num_warps": triton_kernels.NUM_WARPS,
        "enable_fp_fusion": False,
    }
    sizes = (1, rows, columns, 0, 0, *memory_strides, 0, 0, *stream_strides)
    with emulated(code, arch) as gpu:
        gpu.written = [memory]
        tensor = (*arguments(Slice(memory, first), start, rows * columns, draw.parameters), *sizes)
        gpu.launch("scattered_kernel", (programs,), tensor, options, range(programs - 8, programs))
    assert_same_bits(tensor_patterns(memory), expected)
