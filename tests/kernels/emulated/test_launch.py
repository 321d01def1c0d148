"""What the emulator does with a launch beside executing it: its grid, its parameters, what it may write."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_cases import emulated
from kernel_cases import poisoned_memory, tensor_patterns

from tritoninit.emulated.engine import Fault
from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import Draw

SIZE = 3000


def launch(gpu, tensor, grid=(1,), programs=None, written=None, **changed):
    """The run kernel's launch for a tensor's elements, or one like it."""
    values = {"start": 0, "stop": SIZE, "s0": 1, "s1": 2, "k0": 3, "k1": 4} | changed
    options = {
        "DISTRIBUTION": triton_kernels.variant(Draw("uniform", (0.0, 1.0), 0, 0, 0, (1,))),
        "ALIGNED": True,
        "COUNTERS": triton_kernels.COUNTERS,
        "num_warps": triton_kernels.NUM_WARPS,
        "enable_fp_fusion": False,
    }
    gpu.written = [tensor] if written is None else written
    gpu.launch("run_kernel", grid, (tensor, *values.values(), *(1.0,) * 8), options, programs)


@pytest.fixture
def tensor():
    return poisoned_memory(SIZE, "float32")


@pytest.mark.parametrize("options", [{"programs": range(0)}, {"grid": (0,)}])
def test_no_program_writes_nothing(tensor, options):
    before = tensor_patterns(tensor).copy()
    with emulated("ptx", "sm_90") as gpu:
        launch(gpu, tensor, **options)
    assert np.array_equal(tensor_patterns(tensor), before)
    assert gpu.steps == 0


def test_a_grid_has_one_dimension(tensor):
    with emulated("ptx", "sm_90") as gpu, pytest.raises(ValueError, match="unpack"):
        launch(gpu, tensor, grid=(1, 2))


@pytest.mark.parametrize("changed", [{"k0": 2**32}, {"k0": -1}, {"stop": 2**63}])
def test_a_parameter_fits_its_type(tensor, changed):
    with emulated("ptx", "sm_90") as gpu, pytest.raises(Fault, match="a parameter of type"):
        launch(gpu, tensor, **changed)


def test_what_is_not_to_be_written_is_read_alone(tensor):
    with emulated("ptx", "sm_90") as gpu, pytest.raises(Fault, match="only to be read"):
        launch(gpu, tensor, written=[])
