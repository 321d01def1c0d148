"""The Triton kernels compiled ahead of time, without a GPU, for every target, and what their code costs.

The budgets hold on the hot path (``bench/static.py``): what a thread of a full tile executes. Which of them
hold for any Triton, and which for the pinned one, follows ``triton_at_hand.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from triton_at_hand import PINNED, joins_products_and_sums, skipping

from tritoninit.bench import static
from tritoninit.bench.control_flow import GcnFlow
from tritoninit.bench.instructions import Uncountable
from tritoninit.emulated.launch import Emulated, codes
from tritoninit.kernels import stream
from tritoninit.kernels.stream import Draw
from tritoninit.kernels.triton_kernels import DISTRIBUTIONS, MOST_TILES

NVIDIA = ("sm_80", "sm_89", "sm_90", "sm_100")
AMD = ("gfx90a", "gfx942")
DTYPES = ("float32", "float16", "bfloat16")
FORMATS = tuple(stream.FLOAT8)
KERNELS = ("run_kernel", "table_kernel", "scattered_kernel")
ROWS = ("rows_kernel", "edged_rows_kernel", "rows_table_kernel", "edged_rows_table_kernel")

# Fused multiply-adds and square roots an element, as written in kernels/reference.py. Box-Muller's serve two
# elements, but the scattered kernel keeps only one of them.
_LOG = len(stream.LOG) - 1 + 2
_SINE = len(stream.SINE) - 1 + 2
_CENTRE, _TAIL = len(stream.QUANTILE_CENTRE) - 1, len(stream.QUANTILE_TAIL) - 1
FUSED = {
    "constant": (0, 0),
    "uniform": (0, 0),
    "normal": ((_LOG + 2 * _SINE) / 2, 1 / 2),
    "truncated_normal": (_LOG + _CENTRE + _TAIL, 1),
    "central_normal": (_LOG + _CENTRE, 0),
}


def fused_per_element(kernel: str, distribution: str) -> tuple[float, float]:
    """Fused multiply-adds, and correctly rounded square roots, for an element that a kernel stores."""
    fused, roots = FUSED[distribution]
    wasted = 2 if kernel == "scattered_kernel" and distribution == "normal" else 1
    return wasted * fused, wasted * roots


class Compiled(NamedTuple):
    """What is kept of a kernel that was compiled for an NVIDIA target: the kernels would fill the memory."""

    ptx: str
    cost: static.Cost
    stack_accesses: int  # how many instructions load from a thread's stack or store there


@cache
def _compiled(kernel: str, distribution: str, dtype: str, arch: str, aligned: bool) -> Compiled:
    found = static.compile_kernel(kernel, distribution, dtype, arch, aligned=aligned)
    measured = static.nvidia_cost(found, static.elements_per_thread(kernel, arch))
    accesses = re.findall(r"\b(?:LDL|STL)\b", static.disassemble(found.asm["cubin"]))
    return Compiled(found.asm["ptx"], measured, len(accesses))


def compiled(kernel: str, distribution: str, dtype: str, arch: str, aligned: bool = True) -> Compiled:
    return _compiled(kernel, distribution, dtype, arch, aligned)  # a default left out would be another entry


def cost(kernel: str, distribution: str, dtype: str, arch: str) -> static.Cost:
    return compiled(kernel, distribution, dtype, arch).cost


def per_element(found: static.Cost, turns: int = 1) -> float:
    """Instructions an element, where the hot path's loop is gone through ``turns`` times."""
    return sum(found.kinds_per_element(turns).values())


def assert_nothing_spilled(found: Compiled) -> None:
    """No value goes through a thread's stack: by another compiler than the pinned one, as good as none.

    Where runs off the grid need most registers, Triton 3.6's ptxas puts 16 bytes there, which 8 instructions
    write and read, 3.8's with 9 and 3.9's with 6: fewer than one for every third element of a thread's 32.
    """
    if PINNED:
        assert found.stack_accesses == found.cost.stack_bytes == 0
    else:
        assert 3 * found.stack_accesses <= found.cost.elements
        assert found.cost.stack_bytes <= 16


def cases(archs: tuple[str, ...]) -> list[object]:
    """The whole product. Always: all of sm_90 but for float16, which costs there what bfloat16 does (below);
    elsewhere each kernel and dtype once, and float32's runs; of rows some normals."""

    def always(kernel: str, distribution: str, dtype: str, arch: str) -> bool:
        if kernel in ROWS:
            return (distribution, arch) in (("normal", "sm_90"), ("normal", "gfx942")) and dtype != "float16"
        if arch == "sm_90" and dtype == "float16":
            return (kernel, distribution) == ("run_kernel", "normal")
        return arch == "sm_90" or distribution == "normal" or (kernel, dtype) == ("run_kernel", "float32")

    return [
        pytest.param(*case, marks=[] if always(*case) else [pytest.mark.slow])
        for case in product((*KERNELS, *ROWS), DISTRIBUTIONS, DTYPES, archs)
    ]


@pytest.mark.parametrize(("kernel", "distribution", "dtype", "arch"), cases(NVIDIA))
def test_nvidia(kernel, distribution, dtype, arch):
    code = compiled(kernel, distribution, dtype, arch)
    found, ptx = code.cost, code.ptx
    assert_nothing_spilled(code)
    # Triton 3.5's square roots would flush subnormals, of which they meet none (test_reference.py).
    assert set(re.findall(r"[\w.]+\.ftz[\w.]*", ptx)) <= (set() if PINNED else {"sqrt.rn.ftz.f32"})
    fused, roots = fused_per_element(kernel, distribution)
    assert fused_in_ptx(ptx) == fused * found.elements
    # ptxas fuses nothing more, but expands sqrt.rn with two fused multiply-adds on its fast path.
    wanted = (fused + 2 * roots) * found.elements
    in_sass = sum({"FFMA": 1, "FFMA2": 2}.get(i.opcode.partition(".")[0], 0) for i in found.path)
    assert in_sass == wanted or (joins_products_and_sums(arch) and in_sass > wanted)
    size = 4 if dtype == "float32" else 2
    if kernel.startswith("edged_"):  # each element by either store, of which a predicate lets one pass
        assert Counter(found.store_bytes) == {16: size * found.elements // 16, size: found.elements}
        return
    if kernel != "scattered_kernel":
        assert set(found.store_bytes) == {16}
    assert sum(found.store_bytes) == size * found.elements


@pytest.mark.parametrize(
    ("kernel", "dtype", "arch"),
    [
        pytest.param(
            *case, marks=[] if case in (("rows_kernel", FORMATS[0], "sm_80"),) else [pytest.mark.slow]
        )
        for case in product((*KERNELS, *ROWS), FORMATS, ("sm_80", "sm_90", "sm_100", "sm_120"))
    ],
)
def test_eight_bits_on_nvidia(kernel, dtype, arch):
    """Whatever the architecture has instructions for: it is all done in integers, and nothing spills."""
    code = compiled(kernel, "normal", dtype, arch)
    assert_nothing_spilled(code)
    assert not re.search(r"e4m3|e5m2", code.ptx)
    assert max(code.cost.store_bytes) == {"run": 16, "table": 16, "scattered": 1}.get(kernel[:-7], 8)


@pytest.mark.parametrize("kernel", [pytest.param(each, marks=pytest.mark.slow) for each in (*KERNELS, *ROWS)])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("arch", ["gfx942"])
def test_eight_bits_on_amd(kernel, dtype, arch):
    assert static.compile_kernel(kernel, "normal", dtype, arch).asm["hsaco"]


QUICKLY_ROUNDED = (("run_kernel", "bfloat16", "sm_90"), ("rows_kernel", "float16", "sm_90"))
ROUNDED = [
    pytest.param(*case, marks=[] if case in QUICKLY_ROUNDED else [pytest.mark.slow])
    for case in product((*KERNELS, *ROWS), ("float16", "bfloat16", *FORMATS), (*NVIDIA, "sm_120"))
]


@pytest.mark.parametrize(("kernel", "dtype", "arch"), ROUNDED)
def test_stochastic_rounding_on_nvidia(kernel, dtype, arch):
    """Nothing goes through the stack, and nothing is fused that was not."""
    found = static.compile_kernel(kernel, "normal", dtype, arch, stochastic=True)
    assert not PINNED or not re.search(r"\b(?:LDL|STL)\b", static.disassemble(found.asm["cubin"]))
    fused, _ = fused_per_element(kernel, "normal")
    assert fused_in_ptx(found.asm["ptx"]) == fused * static.elements_per_thread(kernel, arch)


@pytest.mark.parametrize("kernel", [pytest.param(each, marks=pytest.mark.slow) for each in (*KERNELS, *ROWS)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *FORMATS])
def test_stochastic_rounding_on_amd(kernel, dtype):
    assert static.compile_kernel(kernel, "normal", dtype, "gfx942", stochastic=True).asm["hsaco"]


def in_float64(arch: str, quick: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(kernel, arch, marks=[] if kernel in quick else [pytest.mark.slow])
        for kernel in (*KERNELS, *ROWS)
    ]


@pytest.mark.parametrize(
    ("kernel", "arch"),
    [
        *in_float64("sm_90", ("run_kernel", "edged_rows_table_kernel")),
        *(each for arch in ("sm_80", "sm_100", "sm_120") for each in in_float64(arch, ())),
    ],
)
@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_float64_on_nvidia(kernel, arch, distribution):
    """Sums, products, quotients and roots, each rounded once: nothing is fused, nothing done in float32."""
    ptx = static.compile_kernel(kernel, distribution, "float64", arch).asm["ptx"]
    found = set(re.findall(r"\b(?:add|sub|mul|fma|mad|div|sqrt|rcp|rsqrt|ex2|lg2)\.[\w.]*f(?:32|64)\b", ptx))
    assert found <= {f"{name}.rn.f64" for name in ("add", "sub", "mul", "div", "sqrt")}
    assert {"add.rn.f64", "mul.rn.f64"} <= found


@pytest.mark.parametrize(("kernel", "arch"), in_float64("gfx942", ("run_kernel",)))
def test_float64_on_amd(kernel, arch):
    """Fused multiply-adds only in what a root and a quotient are expanded to: twelve each, at most."""
    code = static.compile_kernel(kernel, "normal", "float64", arch).asm["amdgcn"]
    roots = code.count("v_rsq_f64")
    fused = code.count("v_fma_f64") + code.count("v_fmac_f64")
    assert 0 < fused <= 12 * roots
    assert code.count("v_div_fixup_f64") == roots


def fused_in_ptx(ptx: str) -> int:
    """Fused multiply-adds, before ptxas expands square roots."""
    return len(re.findall(r"\bfma\.rn\.f32\b", ptx)) + 2 * len(re.findall(r"\bfma\.rn\.f32x2\b", ptx))


# Instructions an element on sm_90's hot path, measured with Triton 3.7.1. Asserted: no more than these and
# 5%, for another version's ptxas.
MEASURED_SM_90 = {
    ("constant", "float32"): 2.28,
    ("uniform", "float32"): 16.69,
    ("normal", "float32"): 38.81,
    ("truncated_normal", "float32"): 83.12,
    ("central_normal", "float32"): 54.91,
    ("constant", "bfloat16"): 1.78,
    ("uniform", "bfloat16"): 18.53,
    ("normal", "bfloat16"): 39.91,
    ("truncated_normal", "bfloat16"): 81.41,
    ("central_normal", "bfloat16"): 55.78,
}
# Likewise, rounded up or down at random.
MEASURED_STOCHASTIC_SM_90 = {("uniform", "bfloat16"): 33.09, ("normal", "bfloat16"): 51.47}


@pytest.mark.parametrize(("distribution", "dtype"), MEASURED_SM_90)
def test_instructions_per_element(distribution, dtype):
    found = cost("run_kernel", distribution, dtype, "sm_90")
    assert per_element(found) <= 1.05 * MEASURED_SM_90[distribution, dtype]


@pytest.mark.parametrize(("distribution", "dtype"), MEASURED_STOCHASTIC_SM_90)
def test_instructions_per_element_rounded_at_random(distribution, dtype):
    found = static.compile_kernel("run_kernel", distribution, dtype, "sm_90", stochastic=True)
    measured = per_element(static.nvidia_cost(found, static.elements_per_thread("run_kernel", "sm_90")))
    assert measured <= 1.05 * MEASURED_STOCHASTIC_SM_90[distribution, dtype]


# The same of a matrix cut from a wider one: with all of its rows on the grid of 16 bytes, with their ends off
# it, and with no row on it.
MEASURED_ROWS_SM_90 = {
    ("rows_kernel", "uniform", "float32", True): 26.56,
    ("edged_rows_kernel", "uniform", "float32", True): 31.62,
    ("rows_kernel", "uniform", "float32", False): 29.50,
    ("rows_kernel", "normal", "float32", True): 46.81,
    ("edged_rows_kernel", "normal", "float32", True): 52.69,
    ("rows_kernel", "normal", "bfloat16", True): 44.56,
    ("edged_rows_kernel", "normal", "bfloat16", True): 50.75,
    ("rows_table_kernel", "uniform", "float32", True): 24.59,
    ("edged_rows_table_kernel", "uniform", "float32", True): 29.93,
    ("rows_table_kernel", "normal", "bfloat16", True): 43.20,
    ("edged_rows_table_kernel", "normal", "bfloat16", True): 48.16,
}


@pytest.mark.parametrize(("kernel", "distribution", "dtype", "aligned"), MEASURED_ROWS_SM_90)
def test_instructions_per_element_of_rows(kernel, distribution, dtype, aligned):
    found = compiled(kernel, distribution, dtype, "sm_90", aligned)
    turns = MOST_TILES if "table" in kernel else 1
    assert per_element(found.cost, turns) <= 1.05 * MEASURED_ROWS_SM_90[kernel, distribution, dtype, aligned]
    assert found.cost.shared_bytes == 0
    assert_nothing_spilled(found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_table_costs_what_a_run_does(distribution, dtype):
    """At eight tiles a program, of the sixteen that it may draw, reading its row first costs 3 % at most."""
    table = cost("table_kernel", distribution, dtype, "sm_90")
    run = cost("run_kernel", distribution, dtype, "sm_90")
    assert 0 < len(table.further) < len(table.path)
    assert per_element(table, 8) <= 1.03 * per_element(run)


@pytest.mark.parametrize(
    ("kernel", "distribution"),
    [*product(["run_kernel"], DISTRIBUTIONS), ("table_kernel", "normal"), ("scattered_kernel", "normal")],
)
def test_float16_costs_what_bfloat16_does(kernel, distribution):
    """On NVIDIA, which is why ``tritoninit inspect`` leaves it out there."""
    half, brain = (cost(kernel, distribution, dtype, "sm_90") for dtype in ("float16", "bfloat16"))
    turns = 16 if kernel == "table_kernel" else 1
    assert half.kinds_per_element(turns) == brain.kinds_per_element(turns)


def test_budgets():
    assert per_element(cost("run_kernel", "uniform", "float32", "sm_90")) <= 20
    assert per_element(cost("run_kernel", "normal", "float32", "sm_90")) <= 46


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize(
    "arch", ["sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_89", "sm_100"))]
)
@pytest.mark.parametrize("kernel", ["run_kernel", "table_kernel"])
def test_unaligned(kernel, distribution, dtype, arch):
    """A window that starts off the grid of 16 stores element by element, and still spills nothing."""
    found = compiled(kernel, distribution, dtype, arch, aligned=False)
    assert set(found.cost.store_bytes) == {4 if dtype == "float32" else 2}
    assert_nothing_spilled(found)


@pytest.mark.parametrize(
    "arch",
    ["sm_90", "gfx942", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "gfx90a"))],
)
@pytest.mark.parametrize("kernel", ["scattered_kernel", "edged_rows_kernel", "rows_table_kernel"])
def test_over_2_31_elements_compiles(arch, kernel):
    compiled = static.compile_kernel(kernel, "normal", "float32", arch, wide=True)
    assert "ptx" in compiled.asm or "amdgcn" in compiled.asm


class Launched(Emulated):
    """Keeps what each launch would execute."""

    def __enter__(self):
        self.kernels = {}
        return super().__enter__()

    def launch(self, name, grid, arguments, options):
        self.kernels[name] = self._kernels[name].warmup(*arguments, grid=grid, **options)


@pytest.mark.parametrize("large", [False, True], ids=["", "2 GiB"])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_the_code_described_is_the_code_launched(arch, aligned, large):
    """Also where the tensor's storage is so large that AMD's buffer instructions do not reach all of it."""
    memory = torch.empty(2**31 if large else 2**12, dtype=torch.uint8)  # which nobody touches
    tensor = memory[:2048].view(torch.bfloat16)[0 if aligned else 1 :]
    draw = Draw("normal", (0.0, 1.0), 1, 2, 0 if aligned else 2, (1,))
    with Launched(codes(arch)[0], arch) as launches:
        launches.fill(tensor[:9], draw)
        launches.fill_many([(tensor[k : k + 9], draw) for k in (0, 16)])
        launches.fill(tensor[:9:2], draw)
    for kernel in KERNELS:
        described = static.compile_kernel(kernel, "normal", "bfloat16", arch, aligned=aligned, large=large)
        assert (
            described.hash == launches.kernels[kernel].hash or not PINNED
        )  # of all that the compiler is given
        (form,) = {"ptx", "amdgcn"} & set(described.asm)
        assert instructions(described.asm[form]) == instructions(launches.kernels[kernel].asm[form])


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
@pytest.mark.parametrize(
    ("kernel", "begin", "size"),
    [("rows_kernel", 64, 64), ("edged_rows_kernel", 64, 68), ("rows_kernel", 65, 64)],
)
def test_the_rows_described_are_those_launched(arch, kernel, begin, size):
    """In memory as in the wider matrix, or an element off its grid of 16 bytes."""
    aligned = begin == 64
    tensor = torch.empty(3, 256, dtype=torch.bfloat16)[:, begin : begin + size]
    draw = Draw("normal", (0.0, 1.0), 1, 2, 64, (256, 1))
    with Launched(codes(arch)[0], arch) as launches:
        launches.fill(tensor, draw)
        launches.fill_many([(tensor, draw)] * 2)
    of_many = "rows_table_kernel" if kernel == "rows_kernel" and aligned else "edged_rows_table_kernel"
    for name in (kernel, of_many):
        described = static.compile_kernel(name, "normal", "bfloat16", arch, aligned=aligned)
        (form,) = {"ptx", "amdgcn"} & set(described.asm)
        launched = launches.kernels[name.removeprefix("edged_")]
        assert described.hash == launched.hash or not PINNED
        assert instructions(described.asm[form]) == instructions(launched.asm[form])


def instructions(assembly: str) -> str:
    """Without what is for debuggers: it names the checkout that filled Triton's cache, maybe another one."""
    code = re.split(r"^\s*\.section\s+\.debug", assembly, maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(line for line in code.splitlines() if not re.match(r"\s*\.file\b", line))


def count(pattern: str, assembly: str) -> int:
    return len(re.findall(pattern, assembly, re.MULTILINE))


@pytest.mark.parametrize(("kernel", "distribution", "dtype", "arch"), cases(AMD))
def test_amd(kernel, distribution, dtype, arch):
    """What the assembly of a target without a disassembler here tells: no spill, nothing fused unasked,
    subnormals kept, square roots refined to correct rounding."""
    assembly = static.compile_kernel(kernel, distribution, dtype, arch).asm["amdgcn"]
    elements = static.elements_per_thread(kernel, arch)
    assert re.findall(r"\.vgpr_spill_count: +(\d+)", assembly) == ["0"]
    assert re.findall(r"\.private_segment_fixed_size: +(\d+)", assembly) == ["0"]
    assert re.findall(r"\.amdhsa_float_denorm_mode_32 (\d)", assembly) == ["3"]  # flushes neither way
    fused, roots = fused_per_element(kernel, distribution)
    found = count(r"^\tv_fma(?:c|ak|mk)?_f32", assembly) + 2 * count(r"^\tv_pk_fma_f32", assembly)
    # v_sqrt_f32 is off by up to one last place: LLVM tries both neighbours, with a fused multiply-add each.
    # Triton 3.5's and 3.6's refine v_rsq_f32 by Goldschmidt's method, with five.
    refined = {2 * roots * elements} if PINNED else {2 * roots * elements, 5 * roots * elements}
    assert found - fused * elements in refined
    assert count(rf"^\t{'v_sqrt' if PINNED else 'v_(?:sqrt|rsq)'}_f32", assembly) == roots * elements
    assert count(r"^\tv_(mac|mad|madak|madmk)_f32", assembly) == 0
    if kernel != "scattered_kernel":
        assert (
            count(r"^\t(?:global|buffer)_store_dwordx4", assembly)
            == elements * (4 if dtype == "float32" else 2) // 16
        )
    size = 4 if dtype == "float32" else 2
    with skipping(Uncountable):
        path = GcnFlow(assembly, elements * size).hot_path()
    kinds = Counter(i.kind for i in path)
    assert kinds["fp32"] + 2 * kinds["packed fp32"] >= found  # and what is not fused
    if kernel != "scattered_kernel":
        assert {i.global_store_bytes for i in path} == {0, 16}
    assert sum(i.global_store_bytes for i in path) == size * elements
