"""The hot path through machine code, on programs small enough to follow by hand."""

from __future__ import annotations

import pytest

from tritoninit.bench.control_flow import GcnFlow, SassFlow
from tritoninit.bench.instructions import Uncountable

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
    path = SassFlow(LISTING).hot_path()
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
    with pytest.raises(Uncountable, match=message):
        SassFlow(LISTING.replace(old, new)).hot_path()


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
    flow = SassFlow(LOOP)
    turn = ["IADD3", "BRA", "STG", "BRA", "ISETP", "BRA"]
    assert [i.operation for i in flow.hot_path()] == ["LDC", "BRA", "MOV", *turn, "MOV", "EXIT"]
    assert [i.operation for i in flow.hot_turn()] == turn
    assert SassFlow(LISTING).hot_turn() == ()


def test_a_guarded_call_of_a_label_is_a_jump():
    """As ptxas leaves a loop for sm_80, now and then."""
    assert "@P0 BRA `(.L_x_3)" in LOOP
    flow = SassFlow(LOOP.replace("@P0 BRA `(.L_x_3)", "@P0 CALL.REL.NOINC `(.L_x_3)"))
    assert [i.operation for i in flow.hot_path()[:3]] == ["LDC", "CALL", "MOV"]
    left = SassFlow(
        LOOP.replace("@P3 BRA `(.L_x_0)", "@P3 CALL.REL.NOINC `(.L_x_3)").replace(
            "MOV R5, R6", "BRA `(.L_x_0)"
        )
    )
    assert [i.operation for i in left.hot_path()[-3:]] == ["ISETP", "CALL", "EXIT"]
    assert [i.operation for i in left.hot_turn()[-2:]] == ["CALL", "BRA"]


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
    with pytest.raises(Uncountable, match=message):
        SassFlow(LOOP.replace(old, new)).hot_turn()


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
    flow = GcnFlow(ASSEMBLY, 8)
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
    with pytest.raises(Uncountable, match=message):
        GcnFlow(ASSEMBLY.replace(old, new), 8).hot_path()


def test_no_path_of_an_assembly_stores_a_tile():
    """None, 8 or 16 bytes, but never 12."""
    with pytest.raises(Uncountable, match="no path"):
        GcnFlow(ASSEMBLY, 12).hot_path()
