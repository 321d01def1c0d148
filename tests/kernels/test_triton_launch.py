"""What a launch specialises on, without a GPU: the launcher runs against a driver that only names a target.

Triton's JITFunction binds, specialises and compiles as on the device (``warmup``); nothing is launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from tritoninit.kernels import lowering, stream, triton_kernels
from tritoninit.kernels.stream import Draw, row_major_strides


class TargetOnly:
    """As much of a Triton driver as compiling for an H100 takes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Launches:
    """Stands in for a kernel: compiles each launch and keeps its grid, its tensor and the kernel it got."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.grids: list[tuple[int, ...]] = []
        self.tensors: list[torch.Tensor] = []
        self.compiled: set[str] = set()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
            compiled = self.kernel.warmup(tensor.dtype, *arguments, grid=grid, **options)
            self.grids.append(grid)
            self.tensors.append(tensor)
            self.compiled.add(compiled.hash)

        return launch


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> tuple[Launches, Launches]:
    run, scattered = Launches(triton_kernels.run_kernel), Launches(triton_kernels.scattered_kernel)
    monkeypatch.setattr(triton_kernels, "run_kernel", run)
    monkeypatch.setattr(triton_kernels, "scattered_kernel", scattered)
    monkeypatch.setattr(driver, "_active", TargetOnly())  # reset_active needs a GPU, so not set_active
    return run, scattered


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Launches:
    kernel = Launches(triton_kernels.rows_kernel)
    monkeypatch.setattr(triton_kernels, "rows_kernel", kernel)
    return kernel


Items = list[tuple[torch.Tensor, Draw]]


def normal(start: int = 0, strides: tuple[int, ...] = (1,), **changes: Any) -> Draw:
    fields = {"parameters": (0.0, 1.0), "seed": 0, "stream": 0, **changes}
    return Draw("normal", start=start, strides=strides, **fields)


def test_new_seeds_and_bounds_do_not_recompile(launches: tuple[Launches, Launches]) -> None:
    run, _ = launches
    # 0, 1 and multiples of 16 are the values that Triton would specialise on.
    for seed in (0, 1, 16, 2**32, 2**64 - 1):
        for parameters in ((0.0, 1.0), (1.0, 0.02), (-3.5, 16.0)):
            draw = normal(parameters=parameters, seed=seed, stream=2**64 - 1 - seed)
            triton_kernels.fill(torch.empty(1000 + seed % 7), draw)
    assert len(run.grids) == 15
    assert len(run.compiled) == 1


def test_float64_has_kernels_that_take_float64_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bits, of whatever sign and size; other numbers do not compile another kernel."""
    monkeypatch.setattr(driver, "_active", TargetOnly())
    names = ("double_run_kernel", "double_rows_kernel", "double_scattered_kernel")
    kernels = [Launches(getattr(triton_kernels, name)) for name in names]
    for name, kernel in zip(names, kernels, strict=True):
        monkeypatch.setattr(triton_kernels, name, kernel)
    for std in (1.0, 5e-324, 0.02):
        numbers = {"parameters": (-0.1 * std, std)}
        triton_kernels.fill(torch.empty(64, dtype=torch.float64), normal(**numbers))
        triton_kernels.fill(torch.empty(8, 12, dtype=torch.float64), normal(strides=(40, 1), **numbers))
        triton_kernels.fill(torch.empty(8, dtype=torch.float64), normal(strides=(3,), **numbers))
    assert [len(kernel.grids) for kernel in kernels] == [3, 3, 3]
    assert [len(kernel.compiled) for kernel in kernels] == [1, 1, 1]


@pytest.mark.parametrize("name", stream.FLOAT8)
def test_8_bit_floats_are_written_as_bytes(launches: tuple[Launches, Launches], name: str) -> None:
    run, _ = launches
    triton_kernels.fill(torch.empty(64, dtype=getattr(torch, name)), normal())
    assert [tensor.dtype for tensor in run.tensors] == [torch.uint8]


def test_windows_compile_twice_at_most(launches: tuple[Launches, Launches]) -> None:
    run, _ = launches
    for start in (0, 16, 2**40, 1, 7, 2**40 + 3):
        triton_kernels.fill(torch.empty(100), normal(start))
    assert len(run.compiled) == 2  # whether 16 divides the start


def test_layouts_share_one_scattered_kernel(launches: tuple[Launches, Launches]) -> None:
    run, scattered = launches
    for shape in ((7, 20), (6, 17), (3, 16), (2, 128), (3, 5, 2, 3)):  # rows too short for groups
        tensor = torch.empty(shape).transpose(0, 1)
        triton_kernels.fill(tensor, normal(5, row_major_strides(tensor.shape)))
    assert len(scattered.compiled) == 1
    assert not run.grids


def test_transposed_matrices_share_one_kernel(launches: tuple[Launches, Launches], rows: Launches) -> None:
    for shape in ((10, 20), (33, 17), (16, 16), (64, 128)):
        tensor = torch.empty(shape).T
        triton_kernels.fill(tensor, normal(5, row_major_strides(tensor.shape)))
    assert len(rows.grids) == 4
    assert len(rows.compiled) == 1
    assert not any(kernel.grids for kernel in launches)


def test_cut_matrices_share_three_kernels(launches: tuple[Launches, Launches], rows: Launches) -> None:
    """All of whose groups fit 16-byte stores, some, or none; whatever the sizes, offsets and seeds."""
    kernels = []
    for cases in (
        # (rows, columns of the whole, the first of these, how many)
        [(64, 128, 64, 64), (96, 4096, 32, 64), (4, 1024, 512, 512), (33, 300, 4, 100)],
        [(64, 128, 60, 66), (96, 4096, 4, 101), (33, 300, 8, 203), (5, 68, 0, 65)],
        [(64, 128, 61, 66), (96, 4096, 1, 101), (33, 300, 2, 204), (5, 68, 3, 64)],
    ):
        for number, columns, begin, length in cases:
            tensor = torch.empty(number, -(-length // 4) * 4)[:, :length]
            triton_kernels.fill(tensor, normal(begin, (columns, 1), seed=number))
        kernels.append(len(rows.compiled))
    assert kernels == [1, 2, 3]
    assert len(rows.grids) == 12
    assert not any(kernel.grids for kernel in launches)


@pytest.mark.parametrize(
    ("start", "size", "programs"),
    [(0, 1, 1), (0, 4096, 1), (0, 4097, 2), (4095, 1, 1), (4095, 2, 2), (2**40 + 4096, 3 * 4096, 3)],
)
def test_grid_covers_the_tiles_that_the_run_touches(
    launches: tuple[Launches, Launches], start: int, size: int, programs: int
) -> None:
    run, _ = launches
    triton_kernels.fill(torch.empty(size), normal(start))
    assert run.grids == [(programs,)]


# Many tensors in few launches.

FILLS = {
    "constant": ("constant", lowering.constant(1.0, "float32")),
    "uniform": ("uniform", lowering.uniform(-0.1, 0.1, "float32")),
    "normal": ("normal", lowering.normal(0.0, 0.02, "float32")),
    "truncated": ("truncated_normal", lowering.truncated_normal(0.0, 1.0, 0.0, 9.0, "float32")),
    "central": ("truncated_normal", lowering.truncated_normal(0.0, 1.0, -2.0, 2.0, "float32")),
}


@pytest.fixture
def tables(launches: tuple[Launches, Launches], monkeypatch: pytest.MonkeyPatch) -> Launches:
    table = Launches(triton_kernels.table_kernel)
    monkeypatch.setattr(triton_kernels, "table_kernel", table)
    return table


@pytest.fixture
def cut_tables(tables: Launches, rows: Launches, monkeypatch: pytest.MonkeyPatch) -> Launches:
    table = Launches(triton_kernels.rows_table_kernel)
    monkeypatch.setattr(triton_kernels, "rows_table_kernel", table)
    return table


def draw(name: str, *, start: int = 0, seed: int = 0) -> Draw:
    distribution, parameters = FILLS[name]
    return Draw(distribution, parameters, seed, 2**64 - 1 - seed, start, (1,))


def model(sizes: Sequence[int], seed: int = 0) -> list[tuple[torch.Tensor, Draw]]:
    """A tensor of each size, drawn from the five distributions in turn."""
    names = list(FILLS)
    return [(torch.empty(size), draw(names[k % len(names)], seed=seed + k)) for k, size in enumerate(sizes)]


def mixed_sizes(seed: int) -> list[int]:
    """161 sizes, as many as ResNet-50 has parameters, from 1 element to a million."""
    return [int(2**exponent) for exponent in np.random.default_rng(seed).uniform(0, 20, 161)]


def test_a_model_takes_a_launch_for_each_distribution(
    launches: tuple[Launches, Launches], tables: Launches
) -> None:
    triton_kernels.fill_many(model(mixed_sizes(0)))
    assert len(tables.grids) == 5
    assert not launches[0].grids
    assert not launches[1].grids
    assert len({table.data_ptr() for table in tables.tensors}) == 1  # one copy for all of them


def test_compiled_table_kernels_depend_neither_on_sizes_nor_on_seeds(tables: Launches) -> None:
    for seed in (0, 1, 16, 2**32, 2**63):
        triton_kernels.fill_many(model(mixed_sizes(seed), seed))
    triton_kernels.fill_many(model([4096] * 160 + [2**28]))  # 16 tiles a program
    assert len(tables.grids) == 30
    assert len(tables.compiled) == 5


def test_an_odd_view_takes_a_launch_of_its_own(launches: tuple[Launches, Launches], tables: Launches) -> None:
    """Alone by the single kernel, with others of its kind by a table's; either way beside everybody's."""
    run, _ = launches
    even = [(torch.empty(100), draw("normal")) for _ in range(3)]
    odd = [(torch.empty(101)[1:], draw("normal")), (torch.empty(100), draw("normal", start=3))]
    triton_kernels.fill_many(even)
    assert (len(tables.grids), len(tables.compiled), len(run.grids)) == (1, 1, 0)
    triton_kernels.fill_many([*even, odd[0]])
    assert (len(tables.grids), len(tables.compiled), len(run.grids)) == (2, 1, 1)
    triton_kernels.fill_many([*even, *odd])
    assert (len(tables.grids), len(tables.compiled), len(run.grids)) == (4, 2, 1)


def test_memory_and_stream_that_are_odd_together_are_aligned(tables: Launches) -> None:
    """What 16-byte stores need is that a tile's memory is aligned, wherever in the tile a tensor starts."""
    whole = torch.empty(10_000)
    shards = [(whole[begin : begin + 1000], draw("normal", start=begin)) for begin in (0, 1001, 2003, 4096)]
    triton_kernels.fill_many(shards)
    assert len(tables.grids) == 1


def test_tensors_apart_in_dtype_or_layout(
    launches: tuple[Launches, Launches], tables: Launches, rows: Launches
) -> None:
    run, scattered = launches
    halves = [(torch.empty(n, dtype=torch.bfloat16), draw("normal")) for n in (10, 20)]
    transposed, short = torch.empty(30, 20).T, torch.empty(7, 20).T
    placed, beside = (normal(0, row_major_strides(tensor.shape)) for tensor in (transposed, short))
    nothing = torch.empty(0), draw("uniform")
    triton_kernels.fill_many([*model([8] * 10), *halves, (transposed, placed), (short, beside), nothing])
    assert len(tables.grids) == 6
    assert len(scattered.grids) == len(rows.grids) == 1
    assert not run.grids


def cut_matrices(begins: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Items:
    """Of every second column from there on of a matrix of 1,024, 64, in contiguous memory."""
    return [
        (torch.empty(4 + k, 64, dtype=dtype), normal(begin, (1024, 1), seed=seed + k))
        for k, begin in enumerate(begins)
    ]


def test_cut_matrices_of_a_model_take_two_launches(
    launches: tuple[Launches, Launches], tables: Launches, rows: Launches, cut_tables: Launches
) -> None:
    """Those whose every group fits a 16-byte store, and all others; beside whole tensors, in one table."""
    for seed in (0, 1, 2**63):
        fitting, others = cut_matrices(range(0, 512, 64), seed), cut_matrices(range(1, 512, 17), seed)
        whole = [(torch.empty(100, dtype=torch.bfloat16), draw("normal")) for _ in range(3)]
        triton_kernels.fill_many([*fitting, *others, *whole])
    assert len(cut_tables.grids) == 6
    assert len(cut_tables.compiled) == 2
    assert len(tables.grids) == 3
    assert not any(kernel.grids for kernel in (*launches, rows))
    kept = {table.data_ptr() for table in (*cut_tables.tensors, *tables.tensors)}
    assert len(kept) <= 3


def test_one_cut_matrix_takes_a_launch_of_its_own(rows: Launches, cut_tables: Launches) -> None:
    triton_kernels.fill_many([*cut_matrices([64]), *cut_matrices([65])])
    assert (len(rows.grids), len(cut_tables.grids)) == (2, 0)


def test_matrices_apart_in_rank_or_layout(rows: Launches, cut_tables: Launches) -> None:
    """Transposed matrices share a launch, and tensors that are no matrices another."""
    transposed = [(torch.empty(30, n).T, normal(0, (30, 1))) for n in (20, 40)]
    solid = [(torch.empty(n, 5, 20), normal(0, (4000, 50, 1))) for n in (3, 7)]
    triton_kernels.fill_many([*transposed, *solid])
    assert (len(rows.grids), len(cut_tables.grids)) == (0, 2)


def test_five_dimensions_are_one_launch(rows: Launches, cut_tables: Launches) -> None:
    tensor = torch.empty(6, 2, 3, 2, 24)
    strides = (10**5, 10**4, 10**3, 100, 1)
    triton_kernels.fill(tensor, normal(0, strides))
    assert (len(rows.grids), len(cut_tables.grids)) == (0, 1)
    triton_kernels.fill_many([(tensor, normal(0, strides)), *[(tensor[:, 0], normal(0, strides[1:]))] * 2])
    assert (len(rows.grids), len(cut_tables.grids)) == (0, 2)


@pytest.mark.parametrize(("columns", "tiles"), [(64, 1), (2**17, 3), (2**20, 8)])
def test_programs_cover_every_group_once(columns: int, tiles: int) -> None:
    """Of rectangles as large as that and of small ones: each one's programs draw all its groups, in order."""
    cuts = []
    for height, width in ((3, 9), (500, columns), (1, 4096), (7, 64)):
        tensor = torch.empty(height, width, device="meta", dtype=torch.bfloat16)
        dims = [(height, width, 2**20), (width, 1, 1)]
        found = triton_kernels._grouping(tensor, normal(5), dims, among_others=True)
        cuts.append(triton_kernels.Cut(tensor, normal(5), dims, found))
    table, numbers, found = triton_kernels._cut_table(cuts, 256, None)
    assert found == tiles
    first = table["tile"][numbers] + np.arange(numbers.size) * tiles
    for number, cut in enumerate(cuts):
        np.testing.assert_array_equal(
            first[numbers == number], np.arange(0, -(-cut.found.total // 256), tiles)
        )


def test_each_device_has_its_own_launches_and_table(tables: Launches) -> None:
    items = [
        (torch.empty(10, device=device), draw(name))
        for name in ("uniform", "normal", "uniform", "normal")
        for device in ("cpu", "meta")
    ]
    triton_kernels.fill_many(items)
    assert [table.device.type for table in tables.tensors] == ["cpu", "cpu", "meta", "meta"]


def test_nothing_is_launched_for_nothing(launches: tuple[Launches, Launches], tables: Launches) -> None:
    triton_kernels.fill_many([])
    triton_kernels.fill_many([(torch.empty(0), draw("normal")), (torch.empty(3, 0), draw("normal"))])
    assert not any(kernel.grids for kernel in (*launches, tables))


@pytest.mark.parametrize(
    ("elements", "tiles"),
    [(1, 1), (2**24, 1), (2**25, 1), (2**26, 2), (2**27, 4), (2**28, 8), (2**31 + 16, 8)],
)
def test_programs_cover_every_tile_once(elements: int, tiles: int) -> None:
    """A tensor of so many elements beside small ones: the programs of each, in order, draw all its tiles."""
    sizes, starts = (1, elements, 4097), (0, 2**40 + 5, 4095)
    runs = [
        triton_kernels.Run(torch.empty(size, dtype=torch.bfloat16, device="meta"), draw("normal", start=s), 0)
        for size, s in zip(sizes, starts, strict=True)
    ]
    rows, numbers, found = triton_kernels._table(runs, 4096, None)
    assert found == tiles
    first = rows["tile"][numbers] + np.arange(numbers.size) * tiles
    for number, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        stop = (start + size - 1) // 4096 + 1
        np.testing.assert_array_equal(first[numbers == number], np.arange(start // 4096, stop, tiles))
