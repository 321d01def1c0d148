"""The decoder of AMD's instructions by itself: each result computed by other means, and what it refuses."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest

from tritoninit.emulated import gcn
from tritoninit.emulated.engine import Approximation, Build, Fault, Launch, Memory, Undecoded, run

OUT = 0x4000
SETTINGS = {
    "group_segment_fixed_size": 0,
    "private_segment_fixed_size": 0,
    "user_sgpr_count": 2,
    "user_sgpr_kernarg_segment_ptr": 1,
    "system_sgpr_workgroup_id_x": 1,
    "float_round_mode_32": 0,
    "float_denorm_mode_32": 3,
}
# Lane in v0, 16 times it in v1; the buffer's address in s[4:5], a long in s[6:7], two words in s8 and s9.
HEAD = """
s_load_dwordx4 s[4:7], s[0:1], 0x0
s_load_dwordx2 s[8:9], s[0:1], 0x10
v_lshlrev_b32_e32 v1, 4, v0
v_mov_b32_e32 v4, 0
v_mov_b32_e32 v5, 0
v_mov_b32_e32 v6, 0
v_mov_b32_e32 v7, 0
s_waitcnt lgkmcnt(0)
"""
STORE = "global_store_dwordx4 v1, v[4:7], s[4:5]\ns_endpgm"


def assembly(body: str, settings: dict[str, int] | None = None) -> str:
    lines = (line.strip() for line in body.strip().splitlines())
    code = "".join(f"{line}\n" if line.endswith(":") else f"\t{line}\n" for line in lines)
    header = "".join(f"\t\t.amdhsa_{k} {v}\n" for k, v in {**SETTINGS, **(settings or {})}.items())
    return (
        f"\t.globl\tit\nit:\n{code}\t.section\t.rodata\n\t.amdhsa_kernel it\n{header}\t.end_amdhsa_kernel\n"
    )


def results(
    body: str,
    long: int = 0,
    first: int = 0,
    second: int = 0,
    *,
    threads: int = 64,
    approximation: Approximation = Approximation(),  # noqa: B008  # a tuple
) -> np.ndarray:
    """What each lane has in v4 to v7 after some instructions; all four are 0 before."""
    build = Build("gfx942", threads, 4096, approximation)
    program = gcn.decode(assembly(HEAD + body.strip() + "\n" + STORE), build)
    out = np.zeros((threads, 4), np.uint32)
    memory = Memory()
    memory.add(OUT, out, writable=True)
    numbers = [np.array([each], np.uint64) for each in (OUT, long % 2**64)]
    numbers += [np.array([each % 2**32], np.uint32) for each in (first, second)]
    run(program, Launch(memory, numbers), range(1))
    return out


def bits(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


A, B = 0x89ABCDEF, 0x01234567


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("v_add_u32_e32 v4, s8, v3", (A + B) % 2**32),
        ("v_subrev_u32_e32 v4, s8, v3", (B - A) % 2**32),
        ("v_mul_hi_u32 v4, s8, v3", A * B >> 32),
        ("v_mul_lo_u32 v4, s8, v3", A * B % 2**32),
        ("v_add_u16_e32 v4, s8, v3", (A + B) % 2**16),
        ("v_mad_legacy_u16 v4, s8, v3, v2", (A * B + A) % 2**16),
        ("v_accvgpr_write_b32 a0, v2\nv_accvgpr_mov_b32 a5, a0\nv_accvgpr_read_b32 v4, a5", A),
        ("v_lshrrev_b16_e32 v4, 20, v2", (A % 2**16) >> 4),  # 20 is 4 modulo 16
        ("v_bfrev_b32_e32 v4, s8", int(f"{A:032b}"[::-1], 2)),
        ("v_ashrrev_i32_e32 v4, 36, v2", ((A - 2**32) >> 4) % 2**32),  # 36 is 4 modulo 32
        ("v_alignbit_b32 v4, s8, v3, 12", ((A << 32 | B) >> 12) % 2**32),
        ("v_bfe_u32 v4, v2, 12, 9", A >> 12 & 511),
        ("v_bfe_i32 v4, v2, 12, 9", A >> 12 & 511),  # whose top bit is 0
        ("v_bfe_i32 v4, v2, 4, 4", 2**32 - 2),  # 0xE, of 4 bits
        ("v_bfe_i32 v4, v2, 4, 0", 0),
        ("v_xad_u32 v4, v2, v3, 64", ((A ^ B) + 64) % 2**32),
        ("v_bfi_b32 v4, v2, -1, v3", A | B & ~A),
        ("v_lshl_or_b32 v4, v3, 8, v2", (B << 8 | A) % 2**32),
        ("v_lshl_add_u32 v4, v3, 3, v2", (8 * B + A) % 2**32),
        ("v_add_lshl_u32 v4, v2, v3, 1", 2 * (A + B) % 2**32),
        ("v_and_or_b32 v4, v2, v3, 6", A & B | 6),
        ("v_pack_b32_f16 v4, v2, v3", (B & 0xFFFF) << 16 | A & 0xFFFF),
        ("v_bitop3_b32 v4, v2, v3, 5 bitop3:0x96", A ^ B ^ 5),
        ("v_bitop3_b32 v4, v2, v3, 5 bitop3:0xca", A & B | ~A & 5),
        ("v_and_b32_sdwa v4, v2, v3 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_1 src1_sel:BYTE_2",
         (A >> 16) & (B >> 16 & 255)),
        # From 0 the second source's bytes, from 4 the first's; 8 to 11 signs of 16 bits; then 0 and 255.
        ("v_perm_b32 v4, s8, v3, v8", 0x89 << 24 | 0x67 << 16 | 0x00 << 8 | 0xFF),
        ("v_perm_b32 v4, s8, v3, v9", 0x00 << 24 | 0x00 << 16 | 0xFF << 8 | 0xFF),
        ("v_cvt_f32_i32_e32 v4, v2", bits(float(Fraction(-0x76543211)))),
        ("v_cvt_f32_u32_e32 v4, v2", bits(float(A))),
        ("v_cvt_u32_f32_e32 v4, -1.0", 0),
        ("v_sub_f32_e64 v4, 1.0, |v10|", bits(-1.5)),
        ("v_fma_f32 v4, -v10, v10, 1.0", bits(1 - 6.25)),
        ("v_cvt_pk_f16_f32 v4, v10, 1.0", 0x3C00C100),
        ("v_cvt_pk_bf16_f32 v4, v10, 1.0", 0x3F80C020),
        ("v_readlane_b32 s10, v0, 37\nv_mov_b32_e32 v4, s10", 37),
        ("s_mul_hi_i32 s10, s8, s9\nv_mov_b32_e32 v4, s10", ((A - 2**32) * B >> 32) % 2**32),
        ("s_bfe_u32 s10, s8, 0x9000c\nv_mov_b32_e32 v4, s10", A >> 12 & 511),
        ("s_movk_i32 s10, 0x8000\nv_mov_b32_e32 v4, s10", 2**32 - 2**15),
        ("v_cmp_eq_u16_e64 vcc, v2, v3\nv_cndmask_b32_e64 v4, 1, 2, vcc", 1),
        ("v_cmp_ne_u16_e64 vcc, v3, v3\nv_cndmask_b32_e64 v4, 1, 2, vcc", 1),
        ("v_cmp_eq_u16_sdwa vcc, v3, v3 src0_sel:WORD_1 src1_sel:WORD_1\nv_cndmask_b32_e64 v4, 1, 2, vcc", 2),
        ("v_lshlrev_b32_e32 v5, 16, v3\nv_cmp_eq_u16_e64 vcc, 0, v5\nv_cndmask_b32_e64 v4, 1, 2, vcc", 2),
        ("s_mov_b32 s10, s9\ns_bitset1_b32 s10, 63\nv_mov_b32_e32 v4, s10", B | 1 << 31),  # 63 is 31
        ("s_mov_b32 s10, s8\ns_bitset0_b32 s10, 31\nv_mov_b32_e32 v4, s10", A & ~(1 << 31)),
        ("s_pack_ll_b32_b16 s10, s8, s9\nv_mov_b32_e32 v4, s10", (B & 0xFFFF) << 16 | A & 0xFFFF),
    ],
)  # fmt: skip
def test_a_word(instruction, expected):
    before = """v_mov_b32_e32 v2, s8
        v_mov_b32_e32 v3, s9
        v_mov_b32_e32 v8, 0x7000c0d
        v_mov_b32_e32 v9, 0x8090a0b
        v_mov_b32_e32 v10, 0xc0200000
        """  # v10 is -2.5
    assert set(results(before + instruction, first=A, second=B)[:, 0]) == {expected}


X, Y = 0xFFFFFFFF00000003, 0x00000001FFFFFFFF


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ("s_add_u32 s10, s6, s8\ns_addc_u32 s11, s7, s9", X + Y),
        ("s_sub_u32 s10, s8, s6\ns_subb_u32 s11, s9, s7", Y - X),
        ("s_lshl_b64 s[10:11], s[6:7], 68", X << 4),
        ("s_ashr_i64 s[10:11], s[6:7], 8", (X - 2**64) >> 8),
        ("s_andn2_b64 s[10:11], s[6:7], s[8:9]", X & ~Y),
        ("s_mov_b64 s[10:11], -5", -5),
        ("v_add_co_u32_e32 v8, vcc, s6, v4\nv_addc_co_u32_e32 v9, vcc, 0, v9, vcc", X % 2**32 + Y % 2**32),
        ("v_sub_co_u32_e64 v8, s[12:13], s6, v4\nv_subb_co_u32_e64 v9, s[12:13], 0, v9, s[12:13]",
         X % 2**32 - Y % 2**32),
        ("v_subrev_co_u32_e32 v8, vcc, s6, v4\nv_subbrev_co_u32_e64 v9, vcc, 0, v9, vcc",
         Y % 2**32 - X % 2**32),
        ("v_mad_u64_u32 v[8:9], s[12:13], s6, v4, s[6:7]", 3 * (2**32 - 1) + X),
        ("v_lshl_add_u64 v[8:9], s[6:7], 3, s[8:9]", 8 * X + Y),
        ("v_lshlrev_b64 v[8:9], 4, s[6:7]", X << 4),
        ("v_pk_mov_b32 v[8:9], s[6:7], s[8:9] op_sel:[1,0]", (Y % 2**32) << 32 | X >> 32),
    ],
)  # fmt: skip
def test_a_long(instructions, expected):
    """In v[8:9] or s[10:11]; v4 is the lower half of the second, v9 is 0."""
    source = "s" if "s[10:11]" in instructions or "s10" in instructions else "v"
    moves = [f"v_mov_b32_e32 v{4 + k}, {'s' if source == 's' else 'v'}{(10 if source == 's' else 8) + k}"
             for k in range(2)]  # fmt: skip
    before = ["v_mov_b32_e32 v4, s8", "v_mov_b32_e32 v9, 0"]
    out = results("\n".join([*before, instructions, *moves]), X, Y % 2**32, Y >> 32)
    assert {int(low) | int(high) << 32 for low, high in out[:, :2]} == {expected % 2**64}


def test_flags():
    """SCC: a carry, a signed overflow, a comparison; and what a result that is zero leaves."""
    body = """
        s_add_i32 s10, s8, s8
        s_cselect_b32 s11, 1, 0
        s_addk_i32 s10, 0x2
        s_cselect_b32 s12, 1, 0
        s_cmp_lt_i32 s10, s8
        s_cselect_b32 s13, 1, 0
        s_xor_b32 s14, s8, s8
        s_cselect_b32 s14, 1, 0
        """ + "\n".join(f"v_mov_b32_e32 v{4 + k}, s{11 + k}" for k in range(4))
    # 2**31 - 1 doubled has no 32 bits; it wraps to -2, and -2 + 2 has them; 0 is less; the xor is 0.
    assert results(body, first=2**31 - 1)[0].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        ("", (2 * 5 + 11, 3 * 7 + 13)),
        ("op_sel:[1,0,0]", (3 * 5 + 11, 3 * 7 + 13)),
        ("op_sel_hi:[1,0,1]", (2 * 5 + 11, 3 * 5 + 13)),
        ("neg_lo:[0,1,0] neg_hi:[0,0,1]", (-2 * 5 + 11, 3 * 7 - 13)),
        ("op_sel:[0,0,1] op_sel_hi:[0,1,0] neg_hi:[1,0,0]", (2 * 5 + 13, -2 * 7 + 11)),
    ],
)
def test_two_at_a_time(modifiers, expected):
    values = {8: 2, 9: 3, 10: 5, 11: 7, 12: 11, 13: 13}
    body = [f"v_mov_b32_e32 v{at}, {bits(value):#x}" for at, value in values.items()]
    body.append(f"v_pk_fma_f32 v[4:5], v[8:9], v[10:11], v[12:13] {modifiers}")
    assert results("\n".join(body))[0, :2].tolist() == [bits(value) for value in expected]


def test_a_constant_has_no_upper_half():
    with pytest.raises(Undecoded, match=r"v_pk_add_f32.*upper half"):
        results("v_pk_add_f32 v[4:5], v[4:5], 1.0")


LANES = np.arange(64)


def test_masks_of_lanes():
    """A comparison's bits of lanes that are off are 0, and such lanes keep what they have."""
    body = """
        v_cmp_gt_u32_e32 vcc, 40, v0
        s_and_saveexec_b64 s[10:11], vcc
        v_cmp_le_u32_e64 s[12:13], 8, v0
        v_mov_b32_e32 v4, 7
        v_cndmask_b32_e64 v5, 1, 2, s[12:13]
        s_or_b64 exec, exec, s[10:11]
        v_cndmask_b32_e64 v6, 3, 4, s[12:13]
        v_writelane_b32 v7, 9, 63
        """
    out = results(body)
    assert (out[:, 0] == np.where(LANES < 40, 7, 0)).all()
    assert (out[:, 1] == np.where(LANES < 40, np.where(LANES < 8, 1, 2), 0)).all()
    assert (out[:, 2] == np.where((LANES >= 8) & (LANES < 40), 4, 3)).all()
    assert (out[:, 3] == np.where(LANES == 63, 9, 0)).all()


def test_waves_part_at_a_branch():
    """Of four waves the last has no lane below 150, the first two all; the first lane on is read."""
    body = """
        v_cmp_gt_u32_e32 vcc, 150, v0
        s_and_saveexec_b64 s[10:11], vcc
        s_cbranch_execz .LBB0_1
        v_mov_b32_e32 v4, 1
        s_not_taken:
        .LBB0_1:
        s_andn2_saveexec_b64 s[12:13], exec
        s_mov_b64 exec, s[10:11]
        v_cmp_lt_u32_e32 vcc, 30, v0
        s_and_saveexec_b64 s[10:11], vcc
        v_readfirstlane_b32 s14, v0
        s_mov_b64 exec, s[10:11]
        v_mov_b32_e32 v5, s14
        """
    out = results(body, threads=256)
    assert (out[:, 0] == (np.arange(256) < 150)).all()
    assert out[::64, 1].tolist() == [31, 64, 128, 192]


def test_a_loop():
    """Lane k goes through it k + 1 times."""
    body = """
        s_mov_b64 s[10:11], exec
        .LBB0_1:
        v_add_u32_e32 v4, 1, v4
        v_cmp_le_u32_e32 vcc, v4, v0
        s_and_b64 exec, exec, vcc
        s_cbranch_execnz .LBB0_1
        s_mov_b64 exec, s[10:11]
        """
    assert (results(body)[:, 0] == LANES + 1).all()


CLASSES = [
    (0x7F800001, 0), (0x7FC00000, 1), (0xFF800000, 2), (bits(-1.5), 3), (0x80000001, 4), (0x80000000, 5),
    (0, 6), (0x007FFFFF, 7), (0x00800000, 8), (0x7F800000, 9),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "number"), CLASSES)
def test_classes_of_floats(pattern, number):
    body = f"v_mov_b32_e32 v8, {pattern:#x}\n" + "\n".join(
        f"v_mov_b32_e32 v9, {mask:#x}\nv_cmp_class_f32_e32 vcc, v8, v9\nv_cndmask_b32_e64 v{at}, 0, 1, vcc"
        for at, mask in ((4, 1 << number), (5, 0x3FF & ~(1 << number)))
    )
    assert results(body)[0, :2].tolist() == [1, 0]


@pytest.mark.parametrize(("opcode", "of"), [("v_sqrt_f32", math.sqrt), ("v_rcp_f32", lambda x: 1 / x)])
def test_approximations(opcode, of):
    """Off by no more than a last place, both ways, and always the same for an operand."""
    body = f"v_cvt_f32_u32_e32 v8, v0\nv_add_f32_e32 v8, 1.0, v8\n{opcode}_e32 v4, v8\n{opcode}_e32 v5, v8"
    exact = [of(lane + 1) for lane in LANES]
    nearest = np.array(exact, np.float32)
    assert (results(body)[:, 0] == nearest.view(np.uint32)).all()
    out = results(body, approximation=Approximation(1, seed=5))
    found = out[:, 0].view(np.float32)
    assert (out[:, 0] == out[:, 1]).all()
    assert (np.abs(found - np.array(exact)) <= np.spacing(nearest)).all()
    assert {-1, 0, 1} == set(np.sign(found - nearest))
    other = results(body, approximation=Approximation(1, seed=6))[:, 0]
    assert (other != out[:, 0]).any()


TWO_LOADS = "s_load_dword s8, s[0:1], 0x0\n    s_load_dword s9, s[0:1], 0x4\n    s_waitcnt lgkmcnt(1)\n    "
AN_LDS_LOAD = "ds_read_b32 v7, v3\n    "
EXCHANGE = """
    v_lshlrev_b32_e32 v2, 3, v0
    v_xor_b32_e32 v3, 0x400, v2
    v_mov_b32_e32 v8, v0
    v_mov_b32_e32 v9, 5
    ds_write_b64 v2, v[8:9]
    s_waitcnt lgkmcnt(0)
    s_barrier
    ds_read_b64 v[4:5], v3
    s_waitcnt lgkmcnt(0)
    v_add_u32_e32 v6, v4, v5
    """


def test_lds():
    """Lane k gets what lane k ^ 128 stored."""
    out = results(EXCHANGE, threads=256)
    assert (out[:, 0] == np.arange(256) ^ 128).all()
    assert (out[:, 2] == out[:, 0] + 5).all()


def test_two_lds_accesses_at_once():
    """Their offsets are in units of 64 words of 8 bytes."""
    body = """
        v_lshlrev_b32_e32 v2, 3, v0
        v_mov_b32_e32 v8, v0
        ds_write2st64_b64 v2, v[8:9], v[0:1] offset1:1
        s_waitcnt lgkmcnt(0)
        ds_read_b64 v[4:5], v2 offset:512
        ds_read_b32 v6, v2
        s_waitcnt lgkmcnt(0)
        """
    out = results("v_mov_b32_e32 v9, 0\n" + body)
    assert (out[:, 0] == LANES).all()
    assert (out[:, 1] == 16 * LANES).all()
    assert (out[:, 2] == LANES).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s_waitcnt lgkmcnt(0)\n    s_barrier", "s_barrier", "a barrier before accesses to LDS are done"),
        ("s_barrier", "s_nop 0", "nobody stored|another warp"),
        ("s_waitcnt lgkmcnt(0)\n    v_add", "v_add", r"v_add_u32_e32 v6.*no s_waitcnt"),
        ("s_waitcnt lgkmcnt(0)\n    v_add", "s_waitcnt lgkmcnt(1)\n    v_add", "no s_waitcnt"),
        ("s_waitcnt lgkmcnt(0)\n    v_add", AN_LDS_LOAD + "s_waitcnt lgkmcnt(3)\n    v_add", "no s_waitcnt"),
        ("s_barrier\n", "s_barrier\n    s_load_dword s10, s[0:1], 0x0\n", None),
        ("v_add_u32", "s_load_dword s10, s[0:1], 0x0\n    s_mov_b32 s11, s10\n    v_add_u32", "no s_waitcnt"),
        ("v_add_u32", TWO_LOADS + "v_add_u32", "which is chance"),
        ("ds_read_b64 v[4:5], v3", "ds_read_b64 v[4:5], v3 offset:4096", "beyond shared memory"),
        ("ds_read_b64 v[4:5], v3", "ds_read_b64 v[4:5], v3 offset:4", "not aligned"),
    ],
)  # fmt: skip
def test_what_is_waited_for(old, new, message):
    assert old in EXCHANGE
    body = EXCHANGE.replace(old, new)
    if message is None:
        results(body, threads=256)
    else:
        with pytest.raises(Fault, match=message):
            results(body, threads=256)


def buffer_store(records: int, index: str = "v8", *, high: str = "0", flags: str = "0x27000") -> np.ndarray:
    body = f"""
        s_mov_b32 s12, s4
        s_mov_b32 s13, {high}
        s_mov_b32 s14, {records}
        s_mov_b32 s15, {flags}
        v_lshlrev_b32_e32 v8, 2, v0
        buffer_store_dword v0, {index}, s[12:15], 0 offen offset:4
        s_endpgm"""
    memory, out = Memory(), np.full(80, 77, np.uint32)
    memory.add(OUT, out, writable=True)
    program = gcn.decode(assembly(HEAD + body), Build("gfx942", 64, 0))
    numbers = [np.array([OUT], np.uint64), np.zeros(1, np.uint64), np.zeros(1, np.uint64)]
    run(program, Launch(memory, numbers), range(1))
    return out


def test_a_buffer_store_has_bounds():
    """Bytes 4 to 39 are within: nine lanes store, the others nothing."""
    out = buffer_store(40)
    assert out[1:10].tolist() == list(range(9))
    assert (np.delete(out, range(1, 10)) == 77).all()
    with pytest.raises(Fault, match="across a buffer's end"):
        buffer_store(42)
    with pytest.raises(Fault, match="not raw"):
        buffer_store(40, high="0x40000")  # a stride
    with pytest.raises(Fault, match="not raw"):
        buffer_store(40, flags="0")


def test_the_end_of_a_prologue():
    """What older firmware loads is what newer has preloaded."""
    body = "s_load_dwordx2 s[2:3], s[0:1], {}\ns_waitcnt lgkmcnt(0)\ns_branch .LBB0_0\n.LBB0_0:\ns_endpgm"
    settings = {"user_sgpr_count": 4, "user_sgpr_kernarg_preload_length": 2}
    numbers = [np.array([each], np.uint64) for each in (OUT, 5)]
    for offset in ("0x0", "0x8"):
        program = gcn.decode(assembly(body.format(offset), settings), Build("gfx942", 64, 0))
        if offset == "0x0":
            run(program, Launch(Memory(), numbers), range(1))
        else:
            with pytest.raises(Fault, match="preloaded"):
                run(program, Launch(Memory(), numbers), range(1))


@pytest.mark.parametrize(
    ("instruction", "unknown"),
    [
        ("v_mul_legacy_f32_e32 v4, v5, v6", "v_mul_legacy_f32"),
        ("s_sleep 1", "s_sleep"),
        ("v_add_f32_e64 v4, v5, v6 clamp", "clamp"),
        ("v_add_f32_e64 v4, v5, v6 mul:2", "mul"),
        ("v_add_f32_e32 v4, v5, v6, v7", "v7"),
        ("v_add_f32_e32 v4, v5", "too few"),
        ("v_add_u32_e32 v4, -v5, v6", "-v5"),
        ("v_add_f32_e32 v4, lit(1), v6", "lit"),
        ("v_add_f32_e32 s4, v5, v6", "s4"),
        ("v_add_f32_e32 v256, v5, v6", "v256"),
        ("v_mov_b32_e32 v4, a5", "a5"),
        ("v_mov_b32_e32 v4, src_shared_base", "src_shared_base"),
        ("v_mov_b32_dpp v4, v5 quad_perm:[0,0,0,0] row_mask:0xf bank_mask:0xf", "v_mov_b32_dpp"),
        ("v_mov_b64_e32 v[4:5], 0x80000000", "0x80000000"),  # extended by zeros or by ones?
        ("v_and_b32_sdwa v4, v5, v6 dst_sel:BYTE_1 dst_unused:UNUSED_PAD", "dst_sel"),
        ("v_and_b32_sdwa v4, v5, v6 dst_sel:DWORD dst_unused:UNUSED_PRESERVE", "dst_unused"),
        ("v_and_b32_sdwa v4, sext(v5), v6 dst_sel:DWORD dst_unused:UNUSED_PAD", "sext"),
        ("v_and_b32_sdwa v4, v5, v6 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_2", "WORD_2"),
        ("v_pk_mul_f32 v[4:5], v[4:5], v[6:7] op_sel:[0,1,1]", "op_sel"),
        ("s_add_u32 s4, s5, v6", "v6"),
        ("s_mov_b64 s[4:6], s[8:9]", "s\\[4:6\\]"),
        ("s_movk_i32 s4, 0x12345", "0x12345"),
        ("s_and_b32 exec_lo, s4, s5", "exec_lo"),
        ("s_load_dword s4, s[0:1], 0x0 glc", "glc"),
        ("s_cbranch_scc1 .LBB0_9", "LBB0_9"),
        ("s_waitcnt vmcnt(0)", "vmcnt"),
        ("global_store_dword v1, v4, s[4:5] sc0", "sc0"),
        ("global_store_dword v1, v4, s[4:5] nt", "nt"),
        ("global_store_dword v1, v4, s[4:5] offset:4096", "offset:4096"),
        ("global_store_dwordx3 v1, v[4:6], s[4:5]", "global_store_dwordx3"),
        ("buffer_store_dword v4, v1, s[4:7], 0", "offen"),
        ("buffer_store_dword v4, v1, s[4:7], 4 offen", "scalar offset"),
        ("ds_read_b64 v[4:5], v1 gds", "gds"),
        ("ds_add_u32 v1, v4", "ds_add_u32"),
    ],
)
def test_what_is_not_known_is_named(instruction, unknown):
    with pytest.raises(Undecoded, match=unknown) as caught:
        results(instruction)
    assert str(caught.value).startswith(instruction.split()[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("float_denorm_mode_32", 0),
        ("float_round_mode_32", 3),
        ("private_segment_fixed_size", 16),
        ("system_vgpr_workitem_id", 2),
        ("wavefront_size32", 1),
    ],
)
def test_settings(name, value):
    with pytest.raises(Undecoded, match=f"{name} {value}"):
        gcn.decode(assembly("s_endpgm", {name: value}), Build("gfx942", 64, 0))


def test_data_among_code():
    with pytest.raises(Undecoded, match=r"\.long"):
        results(".long 0xbf800000")
