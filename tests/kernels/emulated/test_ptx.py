"""The PTX decoder by itself: each instruction's result computed by other means, and what it refuses."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tritoninit.emulated import ptx
from tritoninit.emulated.engine import Build, Fault, Launch, Memory, Undecoded, run

THREADS = 32
OUT = 0x4000
HEAD = """
.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry it(
	.param .u64 .ptr .global .align 1 it_param_0,
	.param .u64 it_param_1,
	.param .u32 it_param_2,
	.param .u32 it_param_3
)
.reqntid 32
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<99>;
	.reg .b64 	%rd<99>;
	.loc	1 2 3
$L__func_begin0:
	ld.param.b64 	%rd1, [it_param_0];
	ld.param.b64 	%rd2, [it_param_1];
	ld.param.b32 	%r2, [it_param_2];
	ld.param.b32 	%r3, [it_param_3];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd3, %r1, 16;
	add.s64 	%rd4, %rd1, %rd3;
"""


def results(body: str, long: int = 0, first: int = 0, second: int = 0) -> np.ndarray:
    """Four words a thread: what it stored from %rd4 on, after instructions on %rd2, %r2 and %r3."""
    lines = "".join(f"\t{line.strip()}\n" for line in body.strip().splitlines())
    program = ptx.decode(f"{HEAD}{lines}\tret;\n}}\n", Build("sm_90", THREADS, 1024))
    out = np.zeros((THREADS, 4), np.uint32)
    memory = Memory()
    memory.add(OUT, out, writable=True)
    numbers = [np.array([each], np.uint64) for each in (OUT, long % 2**64)]
    numbers += [np.array([each % 2**32], np.uint32) for each in (first, second)]
    run(program, Launch(memory, numbers), range(1))
    return out


def bits(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


@pytest.mark.parametrize(
    ("instruction", "first", "second", "expected"),
    [
        ("sub.s32 %r9, %r2, %r3;", 3, 5, -2),
        ("mul.lo.s32 %r9, %r2, %r3;", 2**31 + 3, 5, (2**31 + 3) * 5),
        ("mul.hi.u32 %r9, %r2, %r3;", 2**31 + 3, 50, (2**31 + 3) * 50 >> 32),
        ("mad.lo.s32 %r9, %r2, %r3, 7;", -2, 5, -3),
        ("shl.b32 %r9, %r2, %r3;", 3, 32, 0),
        ("shl.b32 %r9, %r2, 4;", 3, 0, 48),
        ("shr.u32 %r9, %r2, %r3;", 2**31, 31, 1),
        ("shr.u32 %r9, %r2, %r3;", 2**31, 40, 0),
        ("shr.s32 %r9, %r2, %r3;", -8, 1, -4),
        ("shr.s32 %r9, %r2, %r3;", -8, 50, -1),
        ("div.u32 %r9, %r2, %r3;", 2**32 - 1, 10, (2**32 - 1) // 10),
        ("rem.u32 %r9, %r2, %r3;", 2**32 - 1, 10, (2**32 - 1) % 10),
        ("min.s32 %r9, %r2, %r3;", -1, 1, -1),
        ("min.u32 %r9, %r2, %r3;", -1, 1, 1),
        ("bfe.u32 %r9, %r2, 4, 8;", 0xABCD, 0, 0xBC),
        ("bfe.s32 %r9, %r2, 4, 8;", 0xABCD, 0, 0xBC - 256),
        ("prmt.b32 %r9, %r2, %r3, 0x5410U;", 0x11112222, 0x33334444, 0x44442222),
        ("fma.rn.f32 %r9, %r2, %r3, 0fBF800000;", bits(1 + 2**-12), bits(1 - 2**-12), bits(-(2**-24))),
        ("mul.rn.f32 %r9, %r2, %r3;", bits(2.0**-100), bits(2.0**-40), bits(2.0**-140)),
        ("cvt.rn.f32.s32 %r9, %r2;", -(2**24) - 1, 0, bits(-(2.0**24))),
        ("cvt.rn.bf16x2.f32 %r9, %r2, %r3;", bits(1.0), bits(2.0), 0x3F804000),
        ("cvt.rn.f16x2.f32 %r9, %r2, %r3;", bits(1.0), bits(2.0), 0x3C004000),
        ("neg.f32 %r9, %r2;", bits(0.0), 0, 0x80000000),
    ],
)
def test_words(instruction, first, second, expected):
    found = results(f"{instruction}\nst.global.b32 [ %rd4 + 4 ], {{ %r9 }};", 0, first, second)
    assert found[:, 1].tolist() == [expected % 2**32] * THREADS
    assert not found[:, [0, 2, 3]].any()


@pytest.mark.parametrize(
    ("instruction", "long", "first", "expected"),
    [
        ("sub.s64 %rd9, %rd2, 7;", 3, 0, -4),
        ("mul.wide.u32 %rd9, %r2, %r2;", 0, -1, (2**32 - 1) ** 2),
        ("mul.wide.s32 %rd9, %r2, 3;", 0, -1, -3),
        ("mad.wide.u32 %rd9, %r2, 2, %rd2;", 5, -1, 2**33 + 3),
        ("shl.b64 %rd9, %rd2, 64;", 3, 0, 0),
        ("shr.s64 %rd9, %rd2, 1;", -3, 0, -2),
        ("div.s64 %rd9, %rd2, 2;", -7, 0, -3),
        ("rem.s64 %rd9, %rd2, 2;", -7, 0, -1),
        ("div.s64 %rd9, %rd2, 3;", -(2**63), 0, -(2**63 // 3)),
        ("rem.s64 %rd9, %rd2, 3;", -(2**63), 0, -(2**63 % 3)),
        ("min.s64 %rd9, %rd2, 0;", -7, 0, -7),
        ("cvt.s64.s32 %rd9, %r2;", 0, -5, -5),
        ("cvt.u64.u32 %rd9, %r2;", 0, -5, 2**32 - 5),
        ("mov.b64 %rd9, { %r2, 9 };", 0, 5, 9 * 2**32 + 5),
        ("ld.param.s32 %rd9, [it_param_2];", 0, -5, -5),
        ("ld.param.u32 %rd9, [it_param_2];", 0, -5, 2**32 - 5),
        ("ld.param.v2.b32 {%r8, %r7}, [it_param_1];\nmov.b64 %rd9, { %r8, %r7 };", 2**40 + 3, 0, 2**40 + 3),
        (
            "fma.rn.f32x2 %rd9, %rd2, %rd2, %rd2;",
            bits(3.0) << 32 | bits(2.0),
            0,
            bits(12.0) << 32 | bits(6.0),
        ),
    ],
)
def test_longs(instruction, long, first, expected):
    found = results(f"{instruction}\nst.global.b64 [ %rd4 + 8 ], {{ %rd9 }};", long, first)
    assert found.view(np.uint64)[:, 1].tolist() == [expected % 2**64] * THREADS


@pytest.mark.parametrize(
    ("comparison", "first", "second", "expected"),
    [
        ("lt.s32", -1, 1, True),
        ("lt.u32", -1, 1, False),
        ("lo.u32", 1, 2, True),
        ("hs.u32", 2, 2, True),
        ("ne.b32", 1, 1, False),
        ("lt.f32", 0x80000001, 0, True),
        ("eq.f32", 0x80000000, 0, True),
        ("eq.f32", 0x7FC00000, 0x7FC00000, False),
        ("ne.f32", 0x7FC00000, 0, False),
        ("neu.f32", 0x7FC00000, 0, True),
        ("ltu.f32", 0x7FC00000, 0, True),
    ],
)
def test_comparisons(comparison, first, second, expected):
    body = f"""
        setp.{comparison} %p1, %r2, %r3;
        selp.b32 %r9, 7, 8, %p1;
        st.global.b32 [ %rd4 + 0 ], {{ %r9 }};
    """
    assert results(body, 0, first, second)[:, 0].tolist() == [7 if expected else 8] * THREADS


def test_guards_and_branches():
    """Threads below 10 store 1; of the others, those from 20 on jump over the store of 2."""
    body = """
        setp.lt.u32 %p1, %r1, 10;
        @%p1 st.global.b32 [ %rd4 + 0 ], { 1 };
        @%p1 bra $L__BB0_2;
        setp.ge.u32 %p2, %r1, 20;
        @!%p2 st.global.b32 [ %rd4 + 0 ], { 2 };
        mov.b32 %r9, 5;
        @%p2 mov.b32 %r9, 6;
        st.global.b32 [ %rd4 + 4 ], { %r9 };
        $L__BB0_2:
    """
    found = results(body)
    assert found[:, 0].tolist() == [1] * 10 + [2] * 10 + [0] * 12
    assert found[:, 1].tolist() == [0] * 10 + [5] * 10 + [6] * 12


def test_sixteen_bits():
    body = """
        mov.b32 { %rs1, %rs2 }, %r2;
        xor.b16 %rs3, %rs1, 0xff;
        cvt.u32.u16 %r8, %rs3;
        mov.b32 %r9, { %rs2, %rs1 };
        st.global.v2.b32 [ %rd4 + 0 ], { %r8, %r9 };
        st.global.b16 [ %rd4 + 10 ], { %rs2 };
    """
    assert results(body, 0, 0x12345678)[5].tolist() == [0x5687, 0x56781234, 0x12340000, 0]


def test_shared_memory():
    """Each thread gets what its neighbour has stored."""
    body = """
        shl.b32 %r4, %r1, 2;
        mov.b32 %r5, global_smem;
        add.s32 %r5, %r5, %r4;
        st.shared::cta.b32 [ %r5 + 4 ], { %r1 };
        bar.sync 0;
        add.s32 %r6, %r5, 4;
        ld.shared.b32 %r9, [%r6];
        st.global.b32 [ %rd4 + 0 ], { %r9 };
    """
    assert results(body)[:, 0].tolist() == list(range(THREADS))


@pytest.mark.parametrize(
    "instruction",
    [
        "add.f32 %r9, %r2, %r3;",  # which ptxas might fuse with a product
        "mul.rn.ftz.f32 %r9, %r2, %r3;",
        "sqrt.approx.f32 %r9, %r2;",
        "add.s32 %r9, %r2, %rd2;",  # a register of another size
        "add.s32 %r9, %r2;",
        "mov.b32 %r9, %laneid;",
        "bar.sync 1;",
        "@%p1 bar.sync 0;",
        "@%p1 ret;",
        "bra $L__BB0_9;",
        "st.shared.b8 [ %r4 + 0 ], { %rs1 };",
        "ld.global.b8 %rs1, [ %rd4 + 0 ];",
        "st.global.v2.b8 [ %rd4 + 0 ], { %rs1, %rs2 };",
        "mul.f64 %rd9, %rd2, %rd3;",  # which ptxas may contract
        "div.approx.f64 %rd9, %rd2, %rd3;",
        "ld.local.b32 %r9, [%rd4];",
        "st.global.v4.b32 [ %rd4 + 0 ], { %r1, %r2 };",
        "ld.param.b64 %r9, [it_param_1];",
        "ld.param.b32 %r9, [it_param_4];",
        "ld.param.b32 {%r8, %r9}, [it_param_1];",
        "ld.param.v4.b32 {%r8, %r9}, [it_param_1];",
        "st.global.b32 [ %rd4 + %rd2 ], { %r9 };",
        "add.s32 %r9, %r2, 0f3F800000000;",
        ".unheard 5",
    ],
)
def test_what_is_refused_is_named(instruction):
    with pytest.raises(Undecoded, match=instruction.split()[0].partition("%")[0][:6].replace(".", r"\.")):
        results(instruction)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("div.u32 %r9, %r2, %r3;", "by zero"),
        ("bfe.u32 %r9, %r2, 30, 8;", "bit field"),
        ("ld.param.b32 %r9, [it_param_2+4];", "beyond a parameter"),
        ("ld.param.v2.b32 {%r8, %r9}, [it_param_2];", "beyond a parameter"),
        ("st.global.b32 [ %rd4 + 65536 ], { %r9 };", "beyond a buffer"),
    ],
)
def test_faults(instruction, message):
    with pytest.raises(Fault, match=message):
        results(instruction, 0, 1, 0)


def test_a_kernel_of_another_size():
    with pytest.raises(Undecoded, match="128 threads"):
        ptx.decode(f"{HEAD}\tret;\n}}\n", Build("sm_90", 128, 0))
