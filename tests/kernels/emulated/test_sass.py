"""The decoder of SASS by itself: a few instructions at a time, against Python's integers and fractions."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tritoninit.emulated import engine, sass
from tritoninit.emulated.engine import Approximation, Build, Fault, Launch, Memory, Threads, Undecoded

ENDS = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, 0xFFFFFFFE, 0xFFFFFFFF)
INFINITY, NAN = 0x7F800000, 0x7FFFFFFF


def listing(instructions: Sequence[str]) -> str:
    """As nvdisasm writes it; what ends in a colon is a label."""
    lines, address = [], 0
    for text in instructions:
        if text.endswith(":"):
            lines.append(text)
        else:
            lines.append(f"        /*{address:04x}*/                   {text} ;")
            address += 16
    return "\n".join(lines)


def decoded(
    *instructions: str, arch: str = "sm_90", approximation: Approximation | None = None
) -> engine.Program:
    build = Build(arch, 64, 256, approximation or Approximation())
    return sass.decode(listing(instructions), build)


def slot(name: str) -> int:
    file, number = name.rstrip("0123456789"), int(name.lstrip("URP"))
    return {"R": 0, "UR": 255, "P": 510, "UP": 517}[file] + number


def after(
    program: engine.Program, parameters: Sequence[Any] = (), **registers: Sequence[int] | int
) -> Callable[[str], list[int]]:
    """Execute instructions one after another; the registers' values then, by their names."""
    values = {name: np.atleast_1d(np.array(value)) for name, value in registers.items()}
    count = max((len(value) for value in values.values()), default=1)
    numbers = np.arange(count)
    block = np.zeros(count, np.int64)
    threads = Threads(list(program.registers), numbers.astype(np.uint32), block, block.astype(np.uint32), 0)
    launch = Launch(Memory(), parameters)
    with np.errstate(all="ignore"):
        program.enter(threads, launch)
        for name, value in values.items():
            threads.registers[slot(name)] = value.astype(np.bool_ if "P" in name else np.uint32)
        for action in program.actions:
            assert action(threads, launch) is None
    return lambda name: np.broadcast_to(threads.registers[slot(name)], count).tolist()


def columns(*values: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination, a register's values in a row."""
    return list(zip(*itertools.product(*values), strict=True))


def signed(value: int, bits: int = 32) -> int:
    return value - (value >> (bits - 1) << bits)


def halves(value: int) -> tuple[int, int]:
    return value % 2**32, value // 2**32 % 2**32


def number(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def bits_of(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def test_sums_carry_into_two_predicates() -> None:
    x, y, z = columns(ENDS, ENDS, ENDS)
    got = after(decoded("IADD3 R4, P0, P1, R1, R2, R3", "IADD3.X R5, RZ, RZ, RZ, P0, P1"), R1=x, R2=y, R3=z)
    expected = [i + j + k for i, j, k in zip(x, y, z, strict=True)]
    assert [high << 32 | low for low, high in zip(got("R4"), got("R5"), strict=True)] == expected


@pytest.mark.parametrize(
    ("arch", "instructions"),
    [
        ("sm_90", ("IADD3 R4, P0, R2, -R6, RZ", "IADD3.X R5, R3, ~R7, RZ, P0, !PT")),
        ("sm_90", ("IADD3 R4, P0, R2, -R6, RZ", "IMAD.X R5, R3, 0x1, ~R7, P0")),
        ("sm_100", ("IADD3 R4, P0, PT, R2, -R6, RZ", "IADD3.X R5, PT, PT, R3, ~R7, RZ, P0, !PT")),
        ("sm_120", ("IADD R4, P0, R2, -R6", "IADD.X R5, R3, ~R7, P0")),
        ("sm_120", ("IADD.64 R4, R2, -R6",)),
    ],
)
def test_differences_borrow(arch: str, instructions: Sequence[str]) -> None:
    low, high, less_low, less_high = columns(ENDS, (0, 1, 2**32 - 1), ENDS, (0, 1))
    got = after(decoded(*instructions, arch=arch), R2=low, R3=high, R6=less_low, R7=less_high)
    for k, (i, j, m, n) in enumerate(zip(low, high, less_low, less_high, strict=True)):
        assert (got("R4")[k], got("R5")[k]) == halves((i + (j << 32)) - (m + (n << 32)))


def test_a_carry_that_is_lost_is_a_fault() -> None:
    program = decoded("IADD3 R4, P0, R1, R2, R3")
    assert after(program, R1=2**32 - 1, R2=1, R3=0)("P0") == [True]
    with pytest.raises(Fault, match="a carry that no predicate gets"):
        after(program, R1=2**32 - 1, R2=2**32 - 1, R3=2**32 - 1)


def test_products() -> None:
    x, y = columns(ENDS, ENDS)
    got = after(
        decoded(
            "IMAD.WIDE.U32 R4, P0, R1, R2, R8",
            "IMAD.WIDE R6, R1, R2, R8",
            "IMAD.HI.U32 R10, R1, R2, R8",
            "IMAD R11, R1, R2, -R8",
            "IMAD.WIDE.U32 R12, R1, -0x2daee0ad, RZ",
            "IMAD.MOV R14, RZ, RZ, -R1",
        ),
        R1=x,
        R2=y,
        R8=0xFFFFFFF0,
        R9=0xFFFFFFFF,
    )
    addend = 2**64 - 16
    for k, (i, j) in enumerate(zip(x, y, strict=True)):
        assert (got("R4")[k], got("R5")[k]) == halves(i * j + addend)
        assert got("P0")[k] == (i * j + addend >= 2**64)
        assert (got("R6")[k], got("R7")[k]) == halves(signed(i) * signed(j) + addend)
        assert got("R10")[k] == (i * j + addend) >> 32 & 0xFFFFFFFF
        assert got("R11")[k] == (i * j - 0xFFFFFFF0) % 2**32
        assert (got("R12")[k], got("R13")[k]) == halves(i * 0xD2511F53)  # Philox's multiplier
        assert got("R14")[k] == -i % 2**32


def test_shifted_sums() -> None:
    x, y, low = columns(ENDS, ENDS, ENDS)
    got = after(
        decoded(
            "LEA R4, P0, R1, R3, 0x4",
            "LEA.HI.X R5, R1, R8, R2, 0x4, P0",
            "LEA.HI R6, R1, R3, R2, 0xc",
            "LEA R7, P1, R1, R3, 0x14",
            "LEA.HI.X.SX32 R9, R1, RZ, 0x14, P1",
            "LEA R10, P2, R1, -R3, 0x4",
            "ULEA R11, -R1, R3, 0x2",
        ),
        R1=x,
        R2=y,
        R3=low,
        R8=7,
    )
    for k, (i, j, m) in enumerate(zip(x, y, low, strict=True)):
        long = i + (j << 32)
        assert (got("R4")[k], got("R5")[k]) == halves((long << 4) + m + (7 << 32))
        assert got("R6")[k] == ((long << 12 >> 32) + m) % 2**32
        assert (got("R7")[k], got("R9")[k]) == halves((signed(i) << 20) + m)
        assert got("R10")[k] == ((i << 4) - m) % 2**32
        assert got("P2")[k] == ((i << 4) % 2**32 >= m)  # nothing borrowed
        assert got("R11")[k] == ((-i << 2) + m) % 2**32
    for unknown in ("LEA R4, P0, -R1, R3, 0x4", "LEA.HI R4, -R1, R3, R2, 0x4"):  # carries of negatives
        with pytest.raises(Undecoded, match="operand -R1"):
            decoded(unknown)


@pytest.mark.parametrize("by", [0, 1, 12, 31])
def test_shifts(by: int) -> None:
    x, y = columns(ENDS, ENDS)
    forms = ("L.U32", "L.U64.HI", "R.U32.HI", "R.S32.HI", "R.U64", "R.S64", "R.U32")
    names = [f"SHF.{form} R{4 + k}, R1, {by:#x}, R2" for k, form in enumerate(forms)]
    got = after(decoded(*names), R1=x, R2=y)
    for k, (i, j) in enumerate(zip(x, y, strict=True)):
        long = i + (j << 32)
        assert [got(f"R{4 + n}")[k] for n in range(len(forms))] == [
            (i << by) % 2**32,
            (long << by) >> 32 & 0xFFFFFFFF,
            j >> by,
            (signed(j) >> by) % 2**32,
            (long >> by) % 2**32,
            (signed(long, 64) >> by) % 2**32,
            (long >> by) % 2**32,
        ]


def test_tables_of_logic() -> None:
    """A table's bits are what it makes of these three bytes (PTX ISA, lop3)."""
    program = decoded(*[f"LOP3.LUT R{4 + k % 128}, R1, R2, R3, {k:#x}, !PT" for k in range(128)])
    got = after(program, R1=0xF0, R2=0xCC, R3=0xAA)
    assert [got(f"R{4 + k}")[0] & 0xFF for k in range(128)] == list(range(128))
    program = decoded(*[f"LOP3.LUT R{4 + k}, R1, R2, R3, {128 + k:#x}, !PT" for k in range(128)])
    got = after(program, R1=0xF0, R2=0xCC, R3=0xAA)
    assert [got(f"R{4 + k}")[0] & 0xFF for k in range(128)] == list(range(128, 256))


def test_logic_sets_predicates() -> None:
    x, y, z = columns((0, 1), (0, 1), (0, 1))
    got = after(
        decoded("LOP3.LUT P3, RZ, R1, R2, R3, 0x96, !PT", "PLOP3.LUT P4, P5, P0, P1, !P2, 0x40, 0xf8"),
        R1=x,
        R2=y,
        R3=z,
        P0=x,
        P1=y,
        P2=z,
    )
    for k, (i, j, m) in enumerate(zip(x, y, z, strict=True)):
        assert got("P3")[k] == bool(i ^ j ^ m)
        assert got("P4")[k] == bool(i and j and m)  # 0x40: a and b and not c, and c is !P2
        assert got("P5")[k] == bool(i or (j and not m))


def test_bytes() -> None:
    x, y = 0x83726150, 0x47F6E5D4
    eight = struct.pack("<II", x, y)
    selectors = (0x7610, 0x5410, 0x0123, 0xFEDC, 0x3B80)
    expected = []
    for selector in selectors:
        digits = [selector >> 4 * k & 15 for k in range(4)]
        chosen = [(0xFF if eight[d & 7] & 0x80 else 0) if d & 8 else eight[d] for d in digits]
        expected.append(int.from_bytes(bytes(chosen), "little"))
    got = after(decoded("PRMT R4, R1, R3, R2"), R1=x, R2=y, R3=selectors)
    assert got("R4") == expected


@pytest.mark.parametrize("name", ["LT", "LE", "GT", "GE", "EQ", "NE"])
@pytest.mark.parametrize("unsigned", [True, False])
def test_comparisons_of_64_bits(name: str, unsigned: bool) -> None:
    low, high, other_low, other_high = columns(ENDS, (0, 1, 2**31, 2**32 - 1), ENDS, (0, 1, 2**31, 2**32 - 1))
    chain = decoded(
        f"ISETP.{name}.U32.AND P0, PT, R2, R4, PT",
        f"ISETP.{name}{'.U32' if unsigned else ''}.AND.EX P1, P2, R3, R5, P3, P0",
    )
    whole = decoded(f"ISETP.{name}.{'U' if unsigned else 'S'}64.OR P1, P2, R2, R4, P3", arch="sm_120")
    for given in (True, False):
        values = {"R2": low, "R3": high, "R4": other_low, "R5": other_high, "P3": given}
        chained, direct = after(chain, **values), after(whole, **values)
        found = [chained("P1"), chained("P2"), direct("P1"), direct("P2")]
        for k, (i, j, m, n) in enumerate(zip(low, high, other_low, other_high, strict=True)):
            x, y = i + (j << 32), m + (n << 32)
            if not unsigned:
                x, y = signed(x, 64), signed(y, 64)
            holds = {"LT": x < y, "LE": x <= y, "GT": x > y, "GE": x >= y, "EQ": x == y, "NE": x != y}[name]
            assert [row[k] for row in found] == [
                holds and given,
                (not holds) and given,
                holds or given,
                (not holds) or given,
            ]


def test_minimum_of_zeros_and_nans() -> None:
    one, zero, minus_zero = bits_of(1.0), 0, 0x80000000
    pairs = [
        (zero, minus_zero, minus_zero, zero),
        (minus_zero, zero, minus_zero, zero),
        (0x7FC00001, one, one, one),
        (one, 0xFFC00000, one, one),
        (0x7FC00001, 0xFFC00000, NAN, NAN),
        (INFINITY, one, one, INFINITY),
        (1, 0x80000001, 0x80000001, 1),  # subnormals
    ]
    x, y, least, most = zip(*pairs, strict=True)
    got = after(decoded("FMNMX R4, R1, R2, PT", "FMNMX R5, R1, R2, !PT"), R1=x, R2=y)
    assert (got("R4"), got("R5")) == (list(least), list(most))


def test_least_and_most_of_integers() -> None:
    x, y = columns(ENDS, ENDS)
    forms = (
        *("IMNMX R4, R1, R2, PT", "VIMNMX R5, R1, R2, !PT", "VIMNMX.S32 R6, R1, R2, PT"),
        "VIMNMX R7, PT, PT, R1, R2, !PT",
    )
    got = after(decoded(*forms), R1=x, R2=y)
    for k, (i, j) in enumerate(zip(x, y, strict=True)):
        pair = signed(i), signed(j)
        found = [signed(got(name)[k]) for name in ("R4", "R5", "R6", "R7")]
        assert found == [min(pair), max(pair), min(pair), max(pair)]
    with pytest.raises(Undecoded, match="a predicate of the least"):
        decoded("VIMNMX R7, P0, PT, R1, R2, !PT")


def test_longs_that_are_part_of_an_instruction() -> None:
    got = after(decoded("UMOV.64 UR4, 0x3fe6a09e667f3bcd", "MOV.64 R4, -0x2", arch="sm_120"))
    assert [got(name) for name in ("UR4", "UR5", "R4", "R5")] == [
        *([0x667F3BCD], [0x3FE6A09E], [0xFFFFFFFE], [0xFFFFFFFF]),
    ]
    with pytest.raises(Undecoded, match="of 64 bits"):  # whose upper word nobody told
        decoded("MOV.64 R4, 0x80000000", arch="sm_120")


def test_comparisons_of_floats() -> None:
    x = [bits_of(1.0), bits_of(2.0), NAN, 1, 0x80000000]
    got = after(
        decoded(
            "FSETP.GEU.AND P0, PT, R1, 2, PT",
            "FSETP.GT.AND P1, P2, R1, RZ, PT",
            "FSETP.GTU.FTZ.AND P3, PT, |R1|, RZ, PT",
        ),
        R1=x,
    )
    assert got("P0") == [False, True, True, False, False]
    assert got("P1") == [True, True, False, True, False]
    assert got("P2") == [False, False, True, False, True]
    assert got("P3") == [True, True, True, False, False]


def test_float_arithmetic() -> None:
    x, y, z = bits_of(1 + 2.0**-23), bits_of(1 - 2.0**-23), bits_of(-1.0)
    got = after(
        decoded(
            "FFMA R4, R1, R2, R3",
            "FMUL R5, R1, R2",
            "FADD R6, -|R3|, 0.5",
            "FMUL R7, R8, 0.5",
            "FMUL.FTZ R9, R8, 0.5",
            "FADD R10, R8, -R8",
            "FADD R11, R1, +INF ",
        ),
        R1=x,
        R2=y,
        R3=z,
        R8=0x00800000,
    )
    assert got("R4") == [bits_of(-(2.0**-46))]  # rounded once: the product's tail is left
    assert got("R5") == [bits_of(1.0)]
    assert got("R6") == [bits_of(-0.5)]
    assert got("R7") == [0x00400000]
    assert got("R9") == [0]
    assert got("R10") == [0]
    assert got("R11") == [INFINITY]


def test_two_floats_at_once() -> None:
    got = after(
        decoded(
            "FFMA2 R4, R2.F32x2.HI_LO, -R6.F32, 1",
            "FADD2 R8, R2.F32x2.HI_LO, R2.F32x2.LO_HI",
            "FMUL2 R10, R2.F32x2.HI_LO, UR5.F32",
            "FADD2 R12, |R4|.F32x2.HI_LO, -|R4|.F32x2.LO_HI",
            arch="sm_100",
        ),
        R2=bits_of(2.0),
        R3=bits_of(3.0),
        R6=bits_of(5.0),
        UR5=bits_of(7.0),
    )
    found = [number(got(f"R{k}")[0]) for k in (4, 5, 8, 9, 10, 11, 12, 13)]
    assert found == [-9.0, -14.0, 5.0, 5.0, 14.0, 21.0, -5.0, 5.0]


def nearest_bfloat16(bits: int) -> int:
    """The pattern whose number is nearest, of two the even one; by exact distances, below the largest."""
    low = bits >> 16
    x, first, second = (Fraction(number(b)) for b in (bits, low << 16, (low + 1) << 16))
    distances = abs(x - first), abs(x - second)
    if distances[0] == distances[1]:
        return low + (low & 1)
    return low + (distances[1] < distances[0])


def test_packing_to_16_bits() -> None:
    values = [bits_of(v) for v in (1.0, -1.00390625, 1.01171875, 65504.0, 1e-7, -3.14159, 2.0**-24, 0.1)]
    values += [0x3F808000, 0x3F818000, 0x3F808001, 0x00000001, 0x80018000]
    got = after(
        decoded(
            "F2FP.BF16.F32.PACK_AB R4, R1, RZ",
            "F2FP.BF16.F32.PACK_AB R5, RZ, R1",
            "F2FP.F16.F32.PACK_AB R6, R1, R1",
        ),
        R1=values,
    )
    assert got("R5") == [nearest_bfloat16(bits) for bits in values]
    assert got("R4") == [nearest_bfloat16(bits) << 16 for bits in values]
    halves_of = [int.from_bytes(struct.pack("<e", number(bits)), "little") for bits in values]
    assert got("R6") == [h << 16 | h for h in halves_of]
    special = after(
        decoded("F2FP.BF16.PACK_AB R4, R1, R1", "F2FP.PACK_AB R5, R1, R1", arch="sm_80"),
        R1=[INFINITY, 0xFF812345, 0x7F7FFFFF],
    )
    assert special("R4") == [0x7F807F80, 0x7FFF7FFF, 0x7F807F80]
    assert special("R5") == [0x7C007C00, 0x7FFF7FFF, 0x7C007C00]


def test_conversions_of_integers() -> None:
    integers = [*ENDS, 16777217, 16777219, 0x80000080, 0x80000180]
    got = after(
        decoded("I2FP.F32.U32 R4, R1", "I2FP.F32.S32 R5, R1", "I2F.U32.RP R6, R1", "I2F.U64.RP R7, R2"),
        R1=integers,
        R2=integers,
        R3=integers[::-1],
    )
    for k, (i, j) in enumerate(zip(integers, integers[::-1], strict=True)):
        for found, value in ((got("R4")[k], i), (got("R5")[k], signed(i))):
            size = abs(value)
            near = sorted(
                (number(b) for b in range(bits_of(float(size)) - 2, bits_of(float(size)) + 3) if b >= 0),
                key=lambda x: (abs(Fraction(x) - size), bits_of(x) & 1),
            )[0]
            assert abs(number(found)) == near
        for found, value in ((got("R6")[k], i), (got("R7")[k], i + (j << 32))):
            assert Fraction(number(found)) >= value
            assert found == 0 or Fraction(number(found - 1)) < value


def test_conversions_to_integers() -> None:
    values = [bits_of(v) for v in (0.0, 1.99, 4294967040.0, 5e9, -1.5, 2.0**33)] + [NAN, INFINITY, 1]
    got = after(decoded("F2I.FTZ.U32.TRUNC.NTZ R4, R1"), R1=values)
    assert got("R4") == [0, 1, 4294967040, 2**32 - 1, 0, 2**32 - 1, 0, 2**32 - 1, 0]
    got = after(decoded("UF2I.FTZ.U32.TRUNC.NTZ UR4, UR5"), UR5=bits_of(7.9))
    assert set(got("UR4")) == {7}
    long = decoded("F2I.U64.TRUNC R4, R1")
    got = after(long, R1=[bits_of(2.0**63), bits_of(3.7)])
    assert (got("R4"), got("R5")) == ([0, 3], [2**31, 0])
    with pytest.raises(Fault, match="64 bits"):
        after(long, R1=bits_of(2.0**64))


def test_small_instructions() -> None:
    got = after(
        decoded(
            "HFMA2.MMA R4, -RZ, RZ, 1.5, -0.0009765625",
            "P2R R5, PR, R1, 0x5",
            "SGXT R6, R1, 0x3",
            "SEL R7, R1, 0xffffffff, P0",
            "MOV R8, c[0x0][0x210]",
            "LDC.64 R10, c[0x0][0x218]",
        ),
        [np.array([7], np.uint32), np.array([5 << 32 | 6], np.uint64)],
        R1=[0b11111110, 0b11],
        P0=[True, False],
        P2=[False, True],
    )
    assert got("R4") == [0x3E009400] * 2
    assert got("R5") == [0b11111011, 0b110]
    assert got("R6") == [2**32 - 2, 3]
    assert got("R7") == [0b11111110, 2**32 - 1]
    assert (got("R8"), got("R10"), got("R11")) == ([7] * 2, [6] * 2, [5] * 2)


def test_what_registers_say_of_predicates_and_zeros() -> None:
    got = after(
        decoded("R2P PR, R1, 0x5", "CS2R R4, SRZ"),
        R1=[0b101, 0b010],
        P0=[False, True],
        P1=[True, False],
        R4=[1, 2],
        R5=[3, 4],
    )
    assert (got("P0"), got("P1"), got("P2")) == ([True, False], [True, False], [True, False])
    assert got("R4") == got("R5") == [0, 0]


def test_guards_keep_what_was_there() -> None:
    program = decoded("@P0 MOV R1, 0x7", "@!P0 ISETP.EQ.AND P0, P1, R1, 0x5, PT")
    got = after(program, R1=[5, 5, 6], P0=[True, False, False], P1=[True, True, True])
    assert got("R1") == [7, 5, 6]
    assert got("P0") == [True, True, False]
    assert got("P1") == [True, False, True]


@pytest.mark.parametrize(("name", "most"), [("RCP", 1), ("RSQ", 2)])
def test_approximations(name: str, most: int) -> None:
    """As far off as asked for, but no further than PTX ISA lets hardware be."""
    numbers = [bits_of(v) for v in np.linspace(0.1, 900, 400)]
    exact = after(decoded(f"MUFU.{name} R4, R1"), R1=numbers)("R4")
    for found, x in zip(exact, numbers, strict=True):
        for neighbour in (found - 1, found + 1):  # neither is nearer
            middle = (Fraction(number(found)) + Fraction(number(neighbour))) / 2
            power = middle * middle if name == "RSQ" else middle
            assert (power * Fraction(number(x)) < 1) == (neighbour < found)
    off: dict[int, list[int]] = {}
    for seed in (1, 2):
        program = decoded(f"MUFU.{name} R4, R1", approximation=Approximation(2, seed))
        rough = after(program, R1=numbers)("R4")
        off[seed] = [found - right for found, right in zip(rough, exact, strict=True)]
        assert set(off[seed]) == set(range(-most, most + 1))
        assert after(program, R1=numbers[::-1])("R4") == rough[::-1]
        special = after(program, R1=[0, 0x80000000, 1, INFINITY, NAN])("R4")
        assert special == [INFINITY, 0xFF800000, INFINITY, 0, NAN]
    assert off[1] != off[2]


def run(
    *instructions: str, blocks: int = 1, arch: str = "sm_90", words: int = 256
) -> tuple[list[int], engine.Program]:
    """Execute whole blocks of 64 threads, which may write the memory that parameter 0 points to."""
    program = decoded(*instructions, arch=arch)
    stored = np.zeros(words, np.uint32)
    memory = Memory()
    memory.add(0x10000, stored, writable=True)
    engine.run(program, Launch(memory, [np.array([0x10000], np.uint64)]), range(blocks))
    return stored.tolist(), program


# R2 the thread, R4 where its word is.
ENTRY = (
    "LDC R1, c[0x0][0x28]",
    "S2R R2, SR_TID.X",
    "S2R R3, SR_CTAID.X",
    "ULDC.64 UR4, c[0x0][0x208]",
    "ULDC.64 UR6, c[0x0][0x210]",
    "LEA R3, R3, R2, 0x6",
    "IMAD.WIDE.U32 R4, R3, 0x4, RZ",
    "IADD3 R4, P0, R4, UR6, RZ",
    "IADD3.X R5, R5, UR7, RZ, P0, !PT",
)


def test_branches_divide_threads() -> None:
    found, program = run(
        *ENTRY,
        "ISETP.GE.U32.AND P0, PT, R2, 0x20, PT",
        "LOP3.LUT P1, RZ, R2, 0x1, RZ, 0xc0, !PT",
        "BSSY B0, `(.L_x_2)",
        "@P1 BRA `(.L_x_1)",
        "MOV R6, 0x64",
        "@!P0 EXIT",
        "BRA `(.L_x_2)",
        ".L_x_1:",
        "IADD3 R6, R2, 0x3e8, RZ",
        ".L_x_2:",
        "BSYNC B0",
        "STG.E desc[UR4][R4.64], R6",
        "EXIT",
        blocks=2,
        words=128,
    )
    one = [k + 1000 if k % 2 else (100 if k >= 32 else 0) for k in range(64)]
    assert found == one * 2
    assert program.coverage == 1


def test_a_register_may_say_by_how_much_a_long_is_shifted() -> None:
    program = decoded("SHF.L.U64.HI R4, R1, R3, R2", "SHF.R.U64 R5, R1, R3, R2")
    got = after(program, R1=0x89ABCDEF, R2=0x01234567, R3=[0, 4, 36])
    assert got("R4") == [0x01234567, 0x12345678, 0x9ABCDEF0]
    assert got("R5") == [0x89ABCDEF, 0x789ABCDE, 0x00123456]
    with pytest.raises(Fault, match="by 64 or more"):
        after(program, R1=1, R2=1, R3=64)


def test_a_pair_of_constants_is_an_operand() -> None:
    entry = [*ENTRY[:6], "MOV R4, 0x4", "IMAD.WIDE.U32 R4, R3, R4, c[0x0][0x210]"]
    found, _ = run(*entry, "STG.E desc[UR4][R4.64], R2", "EXIT", words=64)
    assert found == list(range(64))


def test_calls_return() -> None:
    found, _ = run(
        *ENTRY,
        "MOV R8, 0xd0",
        "MOV R9, RZ",
        "MOV R6, R2",
        "CALL.REL.NOINC `(twice)",
        "STG.E desc[UR4][R4.64], R6",
        "EXIT",
        "twice:",
        "IADD3 R6, R6, R6, RZ",
        "RET.REL.NODEC R8 `(kernel)",
    )
    assert found == [*[2 * k for k in range(64)], *[0] * 192]


def test_stores_of_every_width() -> None:
    entry = [*ENTRY[:5], "IMAD.WIDE.U32 R4, R2, 0x20, RZ", *ENTRY[7:]]
    found, _ = run(
        *entry,
        *[f"IADD3 R{8 + k}, R2, {1000 * k:#x}, RZ" for k in range(4)],
        "STG.E.128 desc[UR4][R4.64], R8",
        "STG.E.64 desc[UR4][R4.64+0x10], RZ",
        "STG.E.U16 desc[UR4][R4.64+0x18], R9",
        "STG.E.U16 desc[UR4][R4.64+0x1a], R8",
        "@P0 STG.E desc[UR4][R4.64+-0x10], R9",
        "EXIT",
        words=64 * 8,
    )
    for k in range(64):
        low = (k + 1000) % 2**16 | k << 16
        assert found[8 * k : 8 * k + 8] == [k, k + 1000, k + 2000, k + 3000, 0, 0, low, 0]


SHARED = ("MOV R6, 0x400", "LEA R7, R2, R6, 0x2", "STS [R7], R2")
BARRIER = "BAR.SYNC.DEFER_BLOCKING 0x0"


def test_shared_memory() -> None:
    reverse = ("IADD3 R8, -R7, 0x8fc, RZ", "LDS R9, [R8]", "STG.E desc[UR4][R4.64], R9", "EXIT")
    found, _ = run(*ENTRY, *SHARED, BARRIER, *reverse)
    assert found[:64] == list(range(64))[::-1]
    with pytest.raises(Fault, match=r"no barrier between|nobody stored"):
        run(*ENTRY, *SHARED, *reverse)
    with pytest.raises(Fault, match="below shared memory"):
        run(*ENTRY, "STS [RZ], R2", "EXIT")


def test_local_memory() -> None:
    local = ("VIADD R1, R1, 0xfffffff0", "STL [R1+0x4], R2", "STL.64 [R1+0x8], R2")
    found, _ = run(
        *ENTRY,
        *local,
        "LDL.LU R6, [R1+0x4]",
        "LDL R7, [R1+0x8]",
        "IADD3 R6, R6, R7, RZ",
        "STG.E desc[UR4][R4.64], R6",
        "EXIT",
    )
    assert found[:64] == [2 * k for k in range(64)]
    with pytest.raises(Fault, match="beyond local memory"):
        run(*ENTRY, *local, "LDL R6, [R1+0x10]", "EXIT")


@pytest.mark.parametrize(
    ("instructions", "why"),
    [
        (("R2UR UR8, R2",), "do not agree"),
        (("ISETP.GE.U32.AND P0, PT, R2, 0x21, PT", "VOTEU.ANY UP1, P0"), "do not agree"),
        (("MOV R3, RZ", "RET.REL.NODEC R2 `(kernel)"), "different places"),
        (("MOV R2, 0x8", "MOV R3, RZ", "RET.REL.NODEC R2 `(kernel)"), "a return to 0x8"),
        (("STG.E desc[UR6][R4.64], R2",), "describe"),
        (("STG.E.64 desc[UR4][R4.64], R2",), "of 8 bytes"),
        (("STG.E desc[UR4][R4.64+0x10000], R2",), "beyond a buffer"),
        (("LDC R6, c[0x0][0x218]",), "no parameter"),
    ],
)
def test_faults(instructions: Sequence[str], why: str) -> None:
    with pytest.raises(Fault, match=why):
        run(*ENTRY, *instructions, "EXIT")


def test_predicates_that_nobody_wrote_are_no_constants() -> None:
    assert len(set(after(decoded("SEL R4, R1, 0x1, P0"), R1=[0, 0])("R4"))) == 2


@pytest.mark.parametrize(
    "instruction",
    [
        "HADD2 R1, R2, R3",  # opcodes
        "FSWZADD R1, R2, R3",
        "LDL.S8 R1, [R1]",  # modifiers
        "FADD.RZ R1, R2, R3",
        "FADD.SAT R1, R2, R3",
        "IADD3.CC R1, R2, R3, R4",
        "ISETP.GE.S32.AND P0, PT, R1, R2, PT",
        "ISETP.GE.XOR P0, PT, R1, R2, PT",
        "SHF.R.U32.HI.W R1, RZ, 0x1, R2",
        "MUFU.SIN R1, R2",
        "STG.E.STRONG.GPU desc[UR4][R4.64], R2",
        "LDG.E.CONSTANT R2, desc[UR4][R4.64]",
        "F2FP.RELU.BF16.F32.PACK_AB R1, R2, R3",
        "BRA.DIV UR4, `(.L_x_1)",
        "FADD R1, ~R2, R3",  # operands
        "FADD R1, |R2, R3",
        "FADD R1, R2",
        "FADD R1, R2, R3, R4",
        "FADD R1, R2, 0x3f800000",
        "IMAD R1, -R2, R3, R4",
        "IADD3 R1, ~R2, R3, R4",
        "IADD3.X R1, -R2, R3, R4, P0, !PT",
        "IADD3.X R1, R2, R3, R4",
        "LOP3.LUT R1, R2, R3, R4, 0x100, !PT",
        "LOP3.LUT R1, R2, R3, R4, 0x96, P0",
        "SHF.L.U32 R1, R2, R3, RZ",
        "SHF.L.U32 R1, R2, 0x20, RZ",
        "MOV R1, P0",
        "MOV R255, R1",
        "MOV PT, R1",
        "SEL R1, R2, R3, P7",
        "SEL R1, R2, R3, R4",
        "MOV R1, c[0x3][0x10]",
        "MOV R1, c[0x0][0x20]",
        "MOV R1, c[0x0][0x212]",
        "HFMA2 R1, R2, R3, 0, 0",
        "S2R R1, SR_LANEID",
        "STG.E [R4.64], R2",
        "STG.E desc[UR4][R4], R2",
        "LDL R1, [R2]",
        "@P0 BAR.SYNC.DEFER_BLOCKING 0x0",
        "BAR.SYNC.DEFER_BLOCKING 0x1",
        "@P9 MOV R1, R2",
        "IMAD.WIDE.U32 R1, R2, R3, RZ",  # registers that are no pair, or no four
        "IMAD.WIDE.U32 R2, R2, R3, R5",
        "IMAD.WIDE.U32 R2, R2, R3, c[0x0][0x214]",
        "LDC.64 R3, c[0x0][0x210]",
        "LDC.64 R2, c[0x0][0x214]",
        "STG.E.128 desc[UR4][R4.64], R6",
        "STG.E desc[UR5][R4.64], R6",
        "STG.E desc[UR4][R3.64], R6",
        "LDS.128 R2, [R8]",
        "SEL.64 R1, R2, R4, P0",
        "STG.E.128 desc[UR4][R4.64], R254",
    ],
)
def test_what_is_not_known_is_not_decoded(instruction: str) -> None:
    with pytest.raises(Undecoded) as raised:
        decoded(instruction)
    assert instruction in str(raised.value)


def test_listings_that_do_not_fit_together() -> None:
    with pytest.raises(Undecoded, match="nowhere"):
        decoded("BRA `(nowhere)")
    with pytest.raises(Undecoded, match="not where it should be"):
        sass.decode("        /*0010*/                   NOP ;", Build("sm_90", 32, 0))
    with pytest.raises(Undecoded, match="no instruction"):
        sass.decode("        /*0000*/                   @P0 ;", Build("sm_90", 32, 0))


def test_what_depends_on_the_target() -> None:
    decoded("STG.E [R4.64], R2", "MOV R1, c[0x0][0x160]", arch="sm_80")
    with pytest.raises(Undecoded, match="a descriptor"):
        decoded("STG.E desc[UR4][R4.64], R2", arch="sm_86")
    with pytest.raises(Undecoded, match="constant 0x160"):
        decoded("MOV R1, c[0x0][0x160]", arch="sm_100")
    with pytest.raises(Undecoded, match="sm_70"):
        decoded("NOP", arch="sm_70")
