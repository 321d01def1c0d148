"""What a launch specialises on, without a GPU: the launcher runs against a driver that only names a target.

Triton's JITFunction binds, specialises and compiles as on the device (``warmup``); nothing is launched.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from tritoninit.kernels import triton_kernels
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
    """Stands in for a kernel: compiles each launch and keeps its grid and the kernel it got."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.grids: list[tuple[int, ...]] = []
        self.compiled: set[str] = set()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
            compiled = self.kernel.warmup(tensor.dtype, *arguments, grid=grid, **options)
            self.grids.append(grid)
            self.compiled.add(compiled.hash)

        return launch


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> tuple[Launches, Launches]:
    run, scattered = Launches(triton_kernels.run_kernel), Launches(triton_kernels.scattered_kernel)
    monkeypatch.setattr(triton_kernels, "run_kernel", run)
    monkeypatch.setattr(triton_kernels, "scattered_kernel", scattered)
    monkeypatch.setattr(driver, "_active", TargetOnly())  # reset_active needs a GPU, so not set_active
    return run, scattered


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


def test_windows_compile_twice_at_most(launches: tuple[Launches, Launches]) -> None:
    run, _ = launches
    for start in (0, 16, 2**40, 1, 7, 2**40 + 3):
        triton_kernels.fill(torch.empty(100), normal(start))
    assert len(run.compiled) == 2  # whether 16 divides the start


def test_layouts_share_one_scattered_kernel(launches: tuple[Launches, Launches]) -> None:
    run, scattered = launches
    for shape in ((10, 20), (33, 17), (16, 16), (64, 128), (3, 5, 16, 16)):
        tensor = torch.empty(shape).transpose(0, 1)
        triton_kernels.fill(tensor, normal(5, row_major_strides(tensor.shape)))
    assert len(scattered.compiled) == 1
    assert not run.grids


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
