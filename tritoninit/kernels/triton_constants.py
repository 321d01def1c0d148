"""Which tensors are one number throughout, found out on a GPU without being waited for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from tritoninit.kernels import triton_launch

DTYPES = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float64: tl.float64,
}
PROGRAMS = 64  # a tensor; most end at its first and its last element
BLOCK = 4096
# Of each tensor in 64-bit words: where it lies, its elements, and what is found: whether some differ, and the
# first of them as a float64.
_WORDS = tl.constexpr(4)
_address, _size = torch.Tensor.data_ptr, torch.Tensor.numel


@triton.jit
def constants_kernel(table, DTYPE: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    """Of each row of the table, by PROGRAMS programs: whether some of its elements differ, and the first."""
    KIND: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32  # to compare
    program = tl.program_id(0)
    row = table + (program // PROGRAMS).to(tl.int64) * _WORDS
    share = program % PROGRAMS
    pointer = tl.load(row).to(tl.pointer_type(DTYPE))
    size = tl.load(row + 1)
    first = tl.load(pointer).to(KIND)
    last = tl.load(pointer + size - 1).to(KIND)
    if first == last:
        lane = tl.arange(0, BLOCK)
        for begin in tl.range(share.to(tl.int64) * BLOCK, size, PROGRAMS * BLOCK):
            inside = begin + lane < size
            x = tl.load(pointer + begin + lane, mask=inside).to(KIND)
            tl.store(row + 2 + lane * 0, 1, mask=inside & (x != first))
    else:  # as is so of most, and of NaN
        tl.store(row + 2, 1)
    if share == 0:
        tl.store(row + 3, first.to(tl.float64).to(tl.int64, bitcast=True))


class Found:
    """What becomes known of tensors: the number that each is throughout, or None; the first look waits."""

    def __init__(self, table: torch.Tensor) -> None:
        self._table = table

    def numbers(self) -> list[float | None]:
        rows = self._table.cpu().numpy()
        first = rows[:, 3].view(np.float64) if len(rows) else rows[:, 3]
        return [None if differ else float(x) for differ, x in zip(rows[:, 2].tolist(), first, strict=True)]


def look(tensors: Sequence[torch.Tensor]) -> Found:
    """Look at contiguous tensors of one device and one of DTYPES, none of them empty, as they are now.

    Launches on the current stream of the device, without synchronising.
    """
    device, dtype = tensors[0].device, tensors[0].dtype
    rows = torch.empty(
        (len(tensors), _WORDS.value), dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda"
    )
    columns = rows.numpy().T
    columns[:] = 0
    columns[0], columns[1] = [*map(_address, tensors)], [*map(_size, tensors)]
    with triton_launch.on_device(tensors[0]):
        table = rows.to(device, non_blocking=True)
        constants = DTYPES[dtype], PROGRAMS, BLOCK
        kind = constants_kernel, table.get_device(), dtype, table.data_ptr() % 16 == 0
        grid = len(tensors) * PROGRAMS
        if not triton_launch.again(kind, grid, table, *constants):
            named = dict(zip(("DTYPE", "PROGRAMS", "BLOCK"), constants, strict=True))
            triton_launch.first(kind, grid, (table,), named)
    return Found(table)
