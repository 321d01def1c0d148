"""The Triton kernels compiled ahead of time, without a GPU, for every target, and what their code costs.

The budgets hold on the hot path (``bench/static.py``): what a thread of a full tile executes.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import product

import pytest
import torch
import triton
import triton.language as tl
from triton.compiler import ASTSource

from tritoninit.bench import static
from tritoninit.emulated.launch import Emulated, codes
from tritoninit.kernels import stream
from tritoninit.kernels.stream import Draw
from tritoninit.kernels.triton_kernels import DISTRIBUTIONS

NVIDIA = ("sm_80", "sm_89", "sm_90", "sm_100")
AMD = ("gfx90a", "gfx942")
DTYPES = ("float32", "float16", "bfloat16")
KERNELS = ("run_kernel", "table_kernel", "scattered_kernel")

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


@cache
def cost(kernel: str, distribution: str, dtype: str, arch: str, aligned: bool = True) -> static.NvidiaCost:
    compiled = static.compile_kernel(kernel, distribution, dtype, arch, aligned=aligned)
    return static.nvidia_cost(compiled, static.elements_per_thread(kernel, arch))


def cases(archs: tuple[str, ...]) -> list[object]:
    """The whole product. Always: all of sm_90; elsewhere each kernel and dtype once, and float32's runs."""

    def always(kernel: str, distribution: str, dtype: str, arch: str) -> bool:
        return arch == "sm_90" or distribution == "normal" or (kernel, dtype) == ("run_kernel", "float32")

    return [
        pytest.param(*case, marks=[] if always(*case) else [pytest.mark.slow])
        for case in product(KERNELS, DISTRIBUTIONS, DTYPES, archs)
    ]


@pytest.mark.parametrize(("kernel", "distribution", "dtype", "arch"), cases(NVIDIA))
def test_nvidia(kernel, distribution, dtype, arch):
    found = cost(kernel, distribution, dtype, arch)
    assert found.local_accesses == 0
    assert found.stack_bytes == 0
    assert not found.flushes_subnormals
    fused, roots = fused_per_element(kernel, distribution)
    assert found.ptx_fused == fused * found.elements
    # ptxas fuses nothing more, but expands sqrt.rn with two fused multiply-adds on its fast path.
    assert found.fused == (fused + 2 * roots) * found.elements
    size = 4 if dtype == "float32" else 2
    if kernel != "scattered_kernel":
        assert set(found.store_bytes) == {16}
    assert sum(found.store_bytes) == size * found.elements


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


@pytest.mark.parametrize(("distribution", "dtype"), MEASURED_SM_90)
def test_instructions_per_element(distribution, dtype):
    found = cost("run_kernel", distribution, dtype, "sm_90").instructions_per_element
    assert found <= 1.05 * MEASURED_SM_90[distribution, dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_table_costs_what_a_run_does(distribution, dtype):
    """At eight tiles a program, of the sixteen that it may draw, reading its row first costs 3 % at most."""
    table = cost("table_kernel", distribution, dtype, "sm_90")
    run = cost("run_kernel", distribution, dtype, "sm_90")
    assert 0 < table.turn < table.instructions
    assert table.per_element(8) <= 1.03 * run.instructions_per_element


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
    assert cost("run_kernel", "uniform", "float32", "sm_90").instructions_per_element <= 20
    assert cost("run_kernel", "normal", "float32", "sm_90").instructions_per_element <= 46


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "arch", ["sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_89", "sm_100"))]
)
@pytest.mark.parametrize("kernel", ["run_kernel", "table_kernel"])
def test_unaligned(kernel, distribution, dtype, arch):
    """A window that starts off the grid of 16 stores element by element, and still spills nothing."""
    found = cost(kernel, distribution, dtype, arch, False)
    assert set(found.store_bytes) == {4 if dtype == "float32" else 2}
    assert found.local_accesses == found.stack_bytes == 0


@pytest.mark.parametrize(
    "arch",
    ["sm_90", "gfx942", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "gfx90a"))],
)
def test_scattered_over_2_31_elements_compiles(arch):
    compiled = static.compile_kernel("scattered_kernel", "normal", "float32", arch, wide=True)
    assert "ptx" in compiled.asm or "amdgcn" in compiled.asm


class Compiled(Emulated):
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
    with Compiled(codes(arch)[0], arch) as launches:
        launches.fill(tensor[:9], draw)
        launches.fill_many([(tensor[k : k + 9], draw) for k in (0, 16)])
        launches.fill(tensor[:9:2], draw)
    for kernel in KERNELS:
        described = static.compile_kernel(kernel, "normal", "bfloat16", arch, aligned=aligned, large=large)
        (form,) = {"ptx", "amdgcn"} & set(described.asm)
        assert instructions(described.asm[form]) == instructions(launches.kernels[kernel].asm[form])


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
    assert found == (fused + 2 * roots) * elements
    assert count(r"^\tv_sqrt_f32", assembly) == roots * elements
    assert count(r"^\tv_(mac|mad|madak|madmk)_f32", assembly) == 0
    if kernel != "scattered_kernel":
        assert (
            count(r"^\t(?:global|buffer)_store_dwordx4", assembly)
            == elements * (4 if dtype == "float32" else 2) // 16
        )
    size = 4 if dtype == "float32" else 2
    path = static.GcnFlow(assembly, elements * size).hot_path()
    kinds = Counter(i.kind for i in path)
    assert kinds["fp32"] + 2 * kinds["packed fp32"] >= found  # and what is not fused
    if kernel != "scattered_kernel":
        assert {i.global_store_bytes for i in path} == {0, 16}
    assert sum(i.global_store_bytes for i in path) == size * elements


# The counter itself, on programs small enough to count by hand.

LISTING = """
run_it:
.text.run_it:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   ISETP.GT.AND P0, PT, R0, 0x10, PT ;
        /*0020*/                   BSSY B0, `(.L_x_0) ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/                   MOV R4, 0x60 ;
        /*0050*/                   CALL.REL.NOINC `($__internal_0_$__sqrt_slowpath) ;
        /*0060*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0070*/                   MUFU.RSQ R5, R0 ;
        /*0080*/                   FFMA R5, R5, R5, R0 ;
.L_x_2:
        /*0090*/                   BSYNC B0 ;
.L_x_0:
        /*00a0*/               @P0 BRA `(.L_x_3) ;
        /*00b0*/                   NOP ;
        /*00c0*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*00d0*/                   STG.E.U16 desc[UR4][R2.64+0x10], R5 ;
        /*00e0*/                   EXIT ;
.L_x_3:
        /*00f0*/               @P2 STG.E.128 desc[UR4][R2.64], R4 ;
        /*0100*/              @!P3 EXIT ;
        /*0110*/                   STG.E desc[UR4][R2.64], R4 ;
        /*0120*/                   EXIT ;
.L_x_4:
        /*0130*/                   BRA `(.L_x_4);
$__internal_0_$__sqrt_slowpath:
        /*0140*/                   STL [R1], R5 ;
        /*0150*/                   RET.REL.NODEC R4 `(run_it) ;
"""


def test_hot_path_of_a_listing():
    """0000 to 0030, 0070 to 00a0, 00c0 to 00e0: eleven, without the call, the NOP and the masked tail."""
    path = static.SassFlow(LISTING).hot_path()
    assert [i.operation for i in path] == (
        ["LDC", "ISETP", "BSSY", "BRA", "MUFU", "FFMA", "BSYNC", "BRA", "STG", "STG", "EXIT"]
    )
    assert [i.global_store_bytes for i in path if i.global_store_bytes] == [16, 2]


FORK = """@P5 BRA `(.L_x_5) ;
        /*00b8*/                   MOV R4, R5 ;
.L_x_5:
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NOP ;\n", FORK, "two paths"),  # with and without the MOV, to the same stores
        ("BSYNC B0", "BRA `(.L_x_2)", "no path"),  # for ever
        ("MOV R4, 0x60", "BRA `(.L_x_2)", "two paths"),
        ("BSYNC B0", "BRX R6 -0x20", "cannot follow"),
        ("EXIT", "RET.REL.NODEC R4 `(run_it)", "no path"),
    ],
)
def test_what_no_count_can_follow(old, new, message):
    assert old in LISTING
    with pytest.raises(ValueError, match=message):
        static.SassFlow(LISTING.replace(old, new)).hot_path()


LOOP = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P0 BRA `(.L_x_3) ;
        /*0020*/                   MOV R2, R1 ;
.L_x_0:
        /*0030*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0040*/                   NOP ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
        /*0060*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0070*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0080*/               @P2 STG.E.128 desc[UR4][R2.64], R4 ;
.L_x_2:
        /*0090*/                   ISETP.NE.AND P3, PT, R2, R3, PT ;
        /*00a0*/               @P3 BRA `(.L_x_0) ;
        /*00b0*/                   MOV R5, R6 ;
.L_x_3:
        /*00c0*/                   EXIT ;
"""


def test_turn_of_a_listing():
    """Once 0000 to 0030, 0050 to 0070, 0090 to 00c0: eleven. Again 0030, 0050 to 0070, 0090, 00a0: six."""
    flow = static.SassFlow(LOOP)
    turn = ["IADD3", "BRA", "STG", "BRA", "ISETP", "BRA"]
    assert [i.operation for i in flow.hot_path()] == ["LDC", "BRA", "MOV", *turn, "MOV", "EXIT"]
    assert [i.operation for i in flow.hot_turn()] == turn
    assert static.SassFlow(LISTING).hot_turn() == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MOV R5, R6", "@P4 BRA `(.L_x_2)", "2 loops"),  # one around its end
        (".L_x_3:\n", ".L_x_3:\n        /*00b8*/       @P4 BRA `(.L_x_3) ;\n", "2 loops"),  # one after it
        ("BRA `(.L_x_3)", "BRA `(.L_x_1)", "two places"),
        ("NOP ;\n", FORK, "two paths"),
    ],
)
def test_what_no_turn_can_be_counted_of(old, new, message):
    assert old in LOOP
    with pytest.raises(ValueError, match=message):
        static.SassFlow(LOOP.replace(old, new)).hot_turn()


@triton.jit
def chain(pointer, factor, addend, LENGTH: tl.constexpr):
    """LENGTH dependent integer multiply-adds a thread, one instruction each."""
    x = tl.arange(0, 128)
    for _ in tl.static_range(LENGTH):
        x = x * factor + addend
    tl.store(pointer + tl.arange(0, 128), x)


def cost_of_chain(length: int) -> static.NvidiaCost:
    signature = {"pointer": "*i32", "factor": "i32", "addend": "i32", "LENGTH": "constexpr"}
    source = ASTSource(fn=chain, signature=signature, constexprs={(3,): length})
    compiled = triton.compile(source, target=static.TARGETS["sm_90"], options={"num_warps": 4})
    return static.nvidia_cost(compiled, elements=1)


def test_count_of_a_compiled_kernel():
    """Through compiler, assembler and disassembler: 100 multiply-adds more are 100 instructions more."""
    short, long = cost_of_chain(20), cost_of_chain(120)
    assert long.instructions - short.instructions == 100
    assert short.store_bytes == long.store_bytes == (4,)
    # Thread index, pointer, operands, address and the rest: a handful beside the chain itself.
    assert 20 < short.instructions < 40


@triton.jit(do_not_specialize=["turns"])
def chain_loop(pointer, factor, addend, turns, LENGTH: tl.constexpr):
    """LENGTH dependent integer multiply-adds a thread and a store, ``turns`` times."""
    x = tl.arange(0, 128)
    for turn in tl.range(turns, loop_unroll_factor=1):
        for _ in tl.static_range(LENGTH):
            x = x * factor + addend
        tl.store(pointer + turn * 128 + tl.arange(0, 128), x)


def cost_of_chain_loop(length: int) -> static.NvidiaCost:
    signature = {"pointer": "*i32", "factor": "i32", "addend": "i32", "turns": "i32", "LENGTH": "constexpr"}
    source = ASTSource(fn=chain_loop, signature=signature, constexprs={(4,): length})
    compiled = triton.compile(source, target=static.TARGETS["sm_90"], options={"num_warps": 4})
    return static.nvidia_cost(compiled, elements=1)


def test_turn_of_a_compiled_kernel():
    """100 multiply-adds more are 100 instructions more in each turn, and as many on the path of one turn."""
    short, long = cost_of_chain_loop(20), cost_of_chain_loop(120)
    assert long.turn - short.turn == 100
    assert long.instructions - short.instructions == 100
    assert short.store_bytes == long.store_bytes == (4,)
    # A turn beside its chain: address, counter, comparison, branch. The rest: the start and the end, once.
    assert 20 < short.turn < 35 < short.instructions < 60
    assert short.per_element(1) == short.instructions
    assert short.per_element(3) == (short.instructions + 2 * short.turn) / 3


@triton.jit
def mixture(at, x, a, b, PRODUCTS: tl.constexpr, FMAS: tl.constexpr, ROOTS: tl.constexpr, XORS: tl.constexpr):
    """So many of each a thread, each of which needs the one before."""
    at += tl.arange(0, 256)
    word = tl.load(at)
    for _ in tl.static_range(PRODUCTS):
        product = word.to(tl.uint64) * a
        word = (product >> 32).to(tl.uint32) ^ product.to(tl.uint32)
    y = word.to(tl.float32, bitcast=True)
    for _ in tl.static_range(FMAS):
        y = tl.fma(y, y, x)
    for _ in tl.static_range(ROOTS):
        y = tl.rsqrt(y)
    word = y.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(XORS):
        word = (word ^ a) + b
    tl.store(at, word)


@cache
def kinds_of_mixture(arch: str, more: str) -> Counter[str]:
    """Instructions by kind with ten of each, and with 50 more of one."""
    signature = {"at": "*u32", "x": "fp32", "a": "u32", "b": "u32"}
    lengths = {name: 10 + 50 * (name == more) for name in ("PRODUCTS", "FMAS", "ROOTS", "XORS")}
    source = ASTSource(
        fn=mixture,
        signature=signature | dict.fromkeys(lengths, "constexpr"),
        constexprs={(len(signature) + i,): length for i, length in enumerate(lengths.values())},
    )
    target = static.TARGETS[arch]
    options = {"num_warps": 256 // target.warp_size, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=target, options=options)
    found = static.nvidia_cost(compiled, 1) if target.backend == "cuda" else static.amd_cost(compiled, 1, 4)
    assert found.store_bytes == (4,)
    return Counter(i.kind for i in found.path)


@pytest.mark.parametrize("arch", ["sm_90", "gfx90a", "gfx942"])
@pytest.mark.parametrize(
    ("more", "kind", "number"),
    [
        ("PRODUCTS", "wide multiply", 50),
        ("FMAS", "fp32", 50),
        ("ROOTS", "special", 50),
        ("XORS", "integer", 100),
    ],
)
def test_kinds_of_a_compiled_kernel(arch, more, kind, number):
    """50 more are 50 instructions more of their kind; with each xor goes an addition."""
    difference = kinds_of_mixture(arch, more)
    difference = Counter({k: difference[k] - kinds_of_mixture(arch, "")[k] for k in static.KINDS})
    if more == "PRODUCTS":  # whose halves are joined, by as many as the compiler pleases
        assert difference.pop("integer") >= 50
    assert difference == Counter({kind: number})


ASSEMBLY = """
run_it:                                 ; @run_it
; %bb.9:
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\ts_branch .LBB0_0
.LBB0_0:
\tv_mul_f32_e32 v0, v1, v2
\ts_cbranch_scc1 .LBB0_4                  ; no tile is left
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
\tv_xor_b32_e32 v3, v3, v4
\ts_cbranch_vccz .LBB0_2
\tbuffer_store_dword v0, v3, s[4:7], 0 offen
\tbuffer_store_dword v1, v3, s[4:7], 0 offen offset:4
.LBB0_2:
\ts_cbranch_vccnz .LBB0_3
\tglobal_store_dwordx2 v[2:3], v[0:1], off
.LBB0_3:
\ts_add_i32 s8, s8, 1
\ts_cbranch_scc0 .LBB0_1
.LBB0_4:
\ts_endpgm
\t.section\t.rodata,"a",@progbits
\ts_nop 0
"""


def test_hot_path_of_an_assembly():
    """Masked stores or wide ones: the code excludes no path through both, or neither."""
    turn = ["v_xor_b32_e32", "s_cbranch_vccz", "s_cbranch_vccnz", "global_store_dwordx2"]
    turn += ["s_add_i32", "s_cbranch_scc0"]
    start = ["s_load_dwordx2", "s_branch", "v_mul_f32_e32", "s_cbranch_scc1"]
    flow = static.GcnFlow(ASSEMBLY, 8)
    assert [i.opcode for i in flow.hot_path()] == [*start, *turn, "s_endpgm"]
    assert [i.opcode for i in flow.hot_turn()] == turn
    kinds = ["integer", "control", "control", "memory", "scalar", "control"]
    assert [i.kind for i in flow.hot_turn()] == kinds


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("global_store_dwordx2", "global_store_b64", "how much"),
        ("\tglobal_store_dwordx2", "\tglobal_store_dword v[2:3], v1, off\n\tglobal_store_dword", "two paths"),
        ("v_xor_b32_e32", "s_swappc_b64", "cannot follow"),
    ],
)
def test_what_no_count_can_follow_in_an_assembly(old, new, message):
    assert old in ASSEMBLY
    with pytest.raises(ValueError, match=message):
        static.GcnFlow(ASSEMBLY.replace(old, new), 8).hot_path()


def test_no_path_of_an_assembly_stores_a_tile():
    """None, 8 or 16 bytes, but never 12."""
    with pytest.raises(ValueError, match="no path"):
        static.GcnFlow(ASSEMBLY, 12).hot_path()


@pytest.mark.parametrize(
    "instruction", [static.Sass("", "TENSOR.OP", "R1"), static.Gcn("", "v_mfma_f32_32x32x1f32", "v0")]
)
def test_an_unknown_opcode_is_named(instruction):
    with pytest.raises(ValueError, match=instruction.opcode):
        _ = instruction.kind


def test_the_interpreter_cannot_compile(monkeypatch):
    monkeypatch.setattr(static.triton_kernels, "run_kernel", object())
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        static.compile_kernel("run_kernel", "normal", "float32", "sm_90")
