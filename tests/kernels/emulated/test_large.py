"""Tensors too large to allocate: the last programs of their launches, in memory for what those write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from emulated_cases import emulated
from kernel_cases import FILLS, SEED, STREAM, assert_same_bits, poisoned_memory, tensor_patterns

from tritoninit.kernels import reference, rows, triton_kernels
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

    def element_size(self) -> int:
        return self.memory.itemsize

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
    count, columns = 2**22 + 1, 1027
    memory_strides, stream_strides, start = (2100, 2), (5000, 1), 2**40 + 3
    places = triton_kernels.PLACES
    programs = -(-count * columns // places)
    element = np.arange((programs - 8) * places, count * columns, dtype=np.int64)
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
    sizes = (1, count, columns, 0, 0, *memory_strides, 0, 0, *stream_strides)
    with emulated(code, arch) as gpu:
        gpu.written = [memory]
        tensor = (*arguments(Slice(memory, first), start, count * columns, draw.parameters), *sizes)
        gpu.launch("scattered_kernel", (programs,), tensor, options, range(programs - 8, programs))
    assert_same_bits(tensor_patterns(memory), expected)


@pytest.mark.parametrize("many", [False, True], ids=["", "table"])
@pytest.mark.parametrize(("code", "arch"), CODES)
@pytest.mark.parametrize(
    ("dtype", "begin"), [("float32", 2**20), ("float32", 2**20 + 1), ("bfloat16", 2**20 + 4)]
)
def test_cut_rows_of_more_than_2_32_elements(code, arch, dtype, begin, many):
    """64-bit divisions, memory offsets beyond 2**32, and places in the stream beyond 2**40."""
    number, length, wider, columns = 2**22 + 1, 1028, 2000, 2**21
    itemsize = getattr(torch, dtype).itemsize
    held = 13  # rows in memory
    first = (number - held) * wider - 2000
    memory = poisoned_memory(held * wider + 4000, dtype)
    tensor = Slice(memory, first)
    distribution, parameters = FILLS["uniform"]
    draw = Draw(distribution, parameters(dtype), SEED, STREAM, begin, (columns, 1))
    dims = [(number, wider, columns), (length, 1, 1)]
    found = rows.grouping(dims, tensor.data_ptr() // itemsize, begin, itemsize, among_others=many)
    assert found.vectors == (begin % 4 == 0 or many)
    size = 2 * triton_kernels.COUNTERS // found.width
    tiles = -(-found.total // size)
    begun = (tiles - 2) // 2 * 2  # by programs of one tile, or of two
    expected = tensor_patterns(memory).copy()
    _write_groups(expected, first, found, begun * size, draw, dims, tensor.data_ptr() // itemsize, dtype)
    with emulated(code, arch) as gpu:
        gpu.written = [memory]
        if many:
            _launch_table(gpu, triton_kernels.Cut(tensor, draw, dims, found), size, begun // 2)
        else:
            _launch_rows(gpu, tensor, draw, dims, found, size, range(begun, tiles))
    assert_same_bits(tensor_patterns(memory), expected)


def _launch_rows(gpu, tensor, draw, dims, found, size, drawn):
    options = {
        "DISTRIBUTION": triton_kernels.variant(draw),
        "WIDE": triton_kernels.is_wide(found, size),
        **triton_kernels._forms(found),
        "GROUPS": size,
        "num_warps": triton_kernels.NUM_WARPS,
        "enable_fp_fusion": False,
    }
    assert options["WIDE"]
    pointer, start, _, *numbers = arguments(tensor, draw.start, 0, draw.parameters)
    shape = triton_kernels._shape(dims, found)
    gpu.launch("rows_kernel", (drawn.stop,), (pointer, start, *numbers, *shape), options, drawn)


def _launch_table(gpu, cut, size, begun):
    """Of a table of two such tensors, the second one's programs from ``begun`` on."""
    group = cut.group(triton_kernels.COUNTERS)
    assert group.wide
    table, programs, tiles = triton_kernels._cut_table([cut, cut], size, 2)
    words = [table.view(np.int64), programs.view(np.int64)]
    arguments = (torch.from_numpy(np.concatenate(words)), 0, words[0].size, tiles)
    options, count = group.options(triton_kernels.COUNTERS), programs.size
    gpu.launch("rows_table_kernel", (count,), arguments, options, range(count // 2 + begun, count))


def _write_groups(out, first, found, number, draw, dims, address, dtype):
    """What groups from ``number`` on hold, of the rows that lie in memory from element ``first`` on."""
    (count, pitch, stride), (length, _, _) = dims
    for row in range(number // found.groups, count):
        place, where = draw.start + row * stride, row * pitch
        before = (place + ((address + where - place) & (found.width - 4))) % found.width
        skipped = max(number - row * found.groups, 0) * found.width - before
        begin = max(skipped, 0)
        values = np.empty(length - begin, BITS[dtype] if dtype == "bfloat16" else np.float32)
        reference.run(values, dtype, draw, place + begin)
        out[where + begin - first : where + length - first] = values.view(BITS[dtype])
