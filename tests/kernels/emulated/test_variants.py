"""Ways through compiled code that ordinary launches seldom take, and hardware that is off where it may be."""

from __future__ import annotations

import pytest
import triton
from emulated_cases import SIZE, emulated, rows_cases, run_cases, scattered_cases, table_cases
from kernel_cases import Layout, assert_fill_matches, contiguous, make_draw

from tritoninit.emulated.engine import Approximation

slow = pytest.mark.slow
ROOTS = ("normal", "standard", "truncated")  # fills that take square roots


@pytest.mark.parametrize("arch", ["sm_90", *(pytest.param(arch, marks=slow) for arch in ("sm_80", "sm_100"))])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=slow)])
def test_every_square_root_by_the_slow_path(arch, dtype):
    """ptxas has a subroutine for operands beyond 2**102 or below 2**-102: all come back right from there."""
    with emulated("sass", arch, edit=lambda text: text.replace("0x727fffff", "0x0")) as gpu:
        for name in ROOTS:
            assert_fill_matches(gpu.fill, contiguous(SIZE), dtype, make_draw(name, dtype, 0, (1,)))
            every_other = Layout("every other", (777,), (2,), 1)
            assert_fill_matches(gpu.fill, every_other, dtype, make_draw(name, dtype, 5, (1,)))
    assert gpu.edits == len(gpu.programs)
    for program in gpu.programs.values():
        called = [k for k, text in enumerate(program.texts) if text.startswith("CALL")]
        assert called
        assert program.executed.issuperset(called)


@slow
@pytest.mark.parametrize(
    ("code", "arch", "ulps"),
    [
        *(("sass", arch, 2) for arch in ("sm_80", "sm_90", "sm_100")),
        ("gcn", "gfx90a", 1),
        ("gcn", "gfx942", 1),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_approximate_instructions_may_be_off(code, arch, ulps, seed):
    """What refines a square root or a division trusts the hardware's approximation no further than it goes.

    2 units in the last place of NVIDIA's (PTX ISA: 2**-22.9 for rsqrt, 1 unit for rcp), 1 of AMD's.
    """
    with emulated(code, arch, approximation=Approximation(ulps, seed)) as gpu:
        for dtype in ("float32", "bfloat16"):
            run_cases(gpu, dtype, ROOTS)
            table_cases(gpu, dtype, ROOTS)
            scattered_cases(gpu, dtype)


@slow
@pytest.mark.parametrize(("code", "arch"), [("sass", "sm_90"), ("gcn", "gfx942")])
def test_four_million_normals(code, arch):
    with emulated(code, arch) as gpu:
        draw = make_draw("standard", "float32", 2**33 + 5, (1,))
        assert_fill_matches(gpu.fill, contiguous(2**22), "float32", draw)


@pytest.mark.parametrize(
    ("code", "arch"),
    [
        ("ptx", "sm_90"),
        ("gcn", "gfx942"),
        *(pytest.param("sass", arch, marks=slow) for arch in ("sm_80", "sm_90", "sm_100", "sm_120")),
        *(pytest.param("gcn", arch, marks=slow) for arch in ("gfx90a", "gfx950")),
    ],
)
def test_wide_divisions(code, arch):
    """The scattered kernel's 64-bit divisions, which a launch takes for nearly 2**31 elements, on few."""
    with emulated(code, arch, options={"WIDE": True}) as gpu:
        scattered_cases(gpu, "float32", ("uniform", "normal"))


@slow
@pytest.mark.parametrize(("code", "arch"), [("ptx", "sm_90"), ("sass", "sm_90"), ("gcn", "gfx942")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wide_rows(code, arch, dtype):
    """The same of the rows kernel."""
    with emulated(code, arch, options={"WIDE": True}) as gpu:
        rows_cases(gpu, dtype, ("uniform",))


@slow
@pytest.mark.parametrize("arch", ["gfx90a", "gfx942"])
def test_without_buffer_stores(arch, monkeypatch):
    """What tensors of 2 GiB and more run on AMD, where a buffer's offsets have no room for them."""
    monkeypatch.setattr(triton.knobs.amd, "use_buffer_ops", False)
    for dtype in ("float32", "bfloat16"):
        with emulated("gcn", arch) as gpu:
            run_cases(gpu, dtype)
            table_cases(gpu, dtype)
            scattered_cases(gpu, dtype)
        assert not any("buffer_store" in text for p in gpu.programs.values() for text in p.texts)
