"""What AMD's vector and scalar instructions compute, by opcode: one table, for ``gcn`` to decode with.

Operands are arrays that broadcast: 32-bit words, 64-bit longs, or bools where they are masks of lanes or SCC.
Where no source is named, semantics are those of AMD's "CDNA 3 Instruction Set Architecture", "Instructions".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from tritoninit.emulated import arithmetic as ar
from tritoninit.emulated.arithmetic import Array, Longs, Words, u16, u32, u64
from tritoninit.emulated.engine import Approximation, Fault

WAVE: Final = 64  # lanes


def _flagged(operation: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
    """With SCC, which says that the result is not zero."""

    def both(*operands: Array) -> tuple[Array, Array]:
        result = operation(*operands)
        return result, result != 0

    return both


def _swapped(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b, *more: operation(b, a, *more)


_ZERO: Final = u64(0)


def _sum(a: Words, b: Words, carry: Any = _ZERO) -> tuple[Words, Array]:
    total = a.astype(u64) + b.astype(u64) + carry.astype(u64)
    return ar.low(total), ar.high(total) != 0


def _difference(a: Words, b: Words, borrow: Any = _ZERO) -> tuple[Words, Array]:
    total = a.astype(u64) - b.astype(u64) - borrow.astype(u64)
    return ar.low(total), ar.high(total) != 0


def _overflowing(operation: Callable[[Longs, Longs], Longs], a: Words, b: Words) -> tuple[Words, Array]:
    """Of signed numbers, with SCC, which says that the result has not enough bits."""
    exact = operation(ar.extended(a), ar.extended(b))
    return ar.low(exact), ar.extended(ar.low(exact)) != exact


def _multiply_add(a: Words, b: Words, c: Longs) -> tuple[Longs, Array]:
    product = a.astype(u64) * b.astype(u64)
    return product + c, product + c < product


def _shift(operation: Callable[..., Array], bits: int, a: Array, count: Words) -> Array:
    """Only the count's last bits matter."""
    return operation(a, (count & u32(bits - 1)).astype(a.dtype))


def _arithmetic_shift(a: Array, count: Words) -> Array:
    number = a.view(np.int32 if a.dtype == u32 else np.int64)
    found: Array = number >> (count & u32(8 * a.itemsize - 1)).astype(number.dtype)
    return found.view(a.dtype)


_left, _right = partial(_shift, operator.lshift, 32), partial(_shift, operator.rshift, 32)
_left_long, _right_long = partial(_shift, operator.lshift, 64), partial(_shift, operator.rshift, 64)


def _bit_field(a: Words, offset: Words, width: Words) -> Words:
    return _right(a, offset) & (_left(np.ones((1, 1), u32), width) - u32(1))


def _signed_bit_field(a: Words, offset: Words, width: Words) -> Words:
    top = _left(np.ones((1, 1), u32), width) >> u32(1)
    extended: Words = (_bit_field(a, offset, width) ^ top) - top
    return extended


def _scalar_bit_field(a: Words, field: Words) -> Words:
    """The offset in the field's bits 0 to 4, the width in bits 16 to 22."""
    kept = (u64(1) << ((field >> u32(16)) & u32(0x7F)).astype(u64)) - u64(1)
    return _right(a, field) & ar.low(kept)


def _reversed(a: Words) -> Words:
    octets = np.ascontiguousarray(a.byteswap()).view(np.uint8)
    return np.packbits(np.unpackbits(octets, bitorder="little")).view(u32).reshape(a.shape)


def _permuted(a: Words, b: Words, selector: Words) -> Words:
    """v_perm_b32: of the eight bytes of b and then a; from 8 on signs of 16 bits, 12 is 0, more 255."""

    def pick(eight: Longs, number: Words) -> Longs:
        sign = ar.byte(eight, ((number & u32(3)) << u32(1)) | u32(1)) >> u64(7)
        filled = np.where((number > 12) | ((number < 12) & (sign != 0)), u64(255), u64(0))
        return np.where(number < 8, ar.byte(eight, number), filled)

    return ar.permuted(ar.joined(b, a), selector, 8, pick)


def _is_of_class(a: Words, classes: Words) -> Array:
    """Bits of v_cmp_class_f32, from 0: signalling NaN, quiet NaN; then -inf, -normal, -subnormal, -0; and
    the same four of positive numbers, from +0 on."""
    size, negative = a & ~ar.SIGN, (a & ar.SIGN) != 0
    kind = np.select(
        [size == 0, size < 0x800000, size < 0x7F800000, size == 0x7F800000, size < 0x7FC00000],
        [np.where(negative, n, p) for n, p in ((5, 6), (4, 7), (3, 8), (2, 9))] + [np.zeros_like(a)],
        1,
    )
    found: Array = ((classes >> kind.astype(u32)) & u32(1)) != 0
    return found


def _is_double_of_class(a: Longs, classes: Words) -> Array:
    """The same bits of v_cmp_class_f64."""
    size, negative = a & ~u64(1 << 63), (a >> u64(63)) != 0
    normal, infinite, quiet = u64(1 << 52), u64(0x7FF << 52), u64(0xFFF << 51)
    kind = np.select(
        [size == 0, size < normal, size < infinite, size == infinite, size < quiet],
        [np.where(negative, n, p) for n, p in ((5, 6), (4, 7), (3, 8), (2, 9))] + [np.zeros_like(a)],
        1,
    )
    found: Array = ((classes >> kind.astype(u32)) & u32(1)) != 0
    return found


_ALL_LANES: Final = np.ones(1, np.bool_)


def _division_scaled(
    a: Longs, divisor: Longs, number: Longs, lanes: Array = _ALL_LANES
) -> tuple[Longs, Array]:
    """v_div_scale_f64 of what it need not scale, which is all that our kernels divide; NaN of a zero.

    What lies in lanes that are off, whatever was left there, counts for nothing.
    """
    x, y = ar.floats(divisor), ar.floats(number)
    zero = (x == 0) | (y == 0) | ~lanes
    sizes = np.abs(np.frexp(x)[1]), np.frexp(y)[1]
    if (~zero & ((sizes[0] > 500) | (np.abs(sizes[1]) > 500) | ~np.isfinite(x) | ~np.isfinite(y))).any():
        raise Fault("a division by a number, or of one, that hardware scales")
    return np.where(zero, u64(0x7FF8 << 48), a), np.zeros(zero.shape, np.bool_)


def _division_summed(a: Longs, b: Longs, c: Longs, scaled: Array) -> Longs:
    if scaled.any():
        raise Fault("a division that hardware scales")
    return ar.fma_long(a, b, c)


def _division_fixed(quotient: Longs, divisor: Longs, number: Longs) -> Longs:
    """v_div_fixup_f64: signs, zeros, infinities and NaN of a quotient."""
    x, y = ar.floats(divisor), ar.floats(number)
    sign = (divisor ^ number) & u64(1 << 63)
    infinite = u64(0x7FF << 52)
    none = np.isnan(x) | np.isnan(y) | ((x == 0) & (y == 0)) | (np.isinf(x) & np.isinf(y))
    found = np.select(
        [none, (x == 0) | np.isinf(y), np.isinf(x) | (y == 0)],
        [np.full_like(sign, 0x7FF8 << 48), sign | infinite, sign],
        sign | ar.absolute(quotient),
    )
    return found


def _scaled_double(a: Longs, power: Words) -> Longs:
    return ar.patterns(np.ldexp(ar.floats(a), ar.signed(power)))


def _first_lane(word: Words, lanes: Array) -> Words:
    """Of the first lane that is on; of lane 0 if none is."""
    word, lanes = np.broadcast_arrays(word, lanes)
    return np.take_along_axis(word, lanes.argmax(axis=1)[:, None], axis=1)


def _read_lane(word: Words, lane: Words) -> Words:
    return np.take_along_axis(np.broadcast_to(word, (len(word), WAVE)), (lane & u32(63)).astype(int), axis=1)


def _write_lane(word: Words, lane: Words, old: Words) -> Words:
    return np.where(np.arange(WAVE, dtype=u32) == lane & u32(63), word, old)


def _saving_exec(
    operation: Callable[[Longs, Longs], Longs], a: Longs, was: Longs
) -> tuple[Longs, Longs, Array]:
    now = operation(a, was)
    return was, now, now != 0


def _compared(view: Callable[[Array], Array], operation: Callable[..., Array], a: Array, b: Array) -> Array:
    return operation(view(a), view(b))


def approximated(exact: Callable[..., Array], approximation: Approximation, a: Words) -> Words:
    """What hardware may find: each operand has one of the results that are not further off than allowed.

    Subnormal operands and results are zeros (LLVM, SIISelLowering.cpp, scales what may be one).
    """
    true = exact(ar.floats(ar.flushed(a)).astype(np.float64))
    nearest = true.astype(np.float32)
    if approximation.ulps:
        mixed = (a ^ u32(approximation.seed & 0xFFFFFFFF)) * u32(0x9E3779B1)
        mixed = (mixed ^ (mixed >> u32(15))) * u32(0x85EBCA6B)
        shift = ((mixed >> u32(8)) % u32(2 * approximation.ulps + 1)).astype(np.int32) - approximation.ulps
        moved = (nearest.view(np.int32) + shift).view(np.float32)
        off = np.abs(moved.astype(np.float64) - true) / np.spacing(np.abs(nearest))
        nearest = np.where((off <= approximation.ulps) & np.isfinite(moved) & (nearest != 0), moved, nearest)
    return ar.flushed(ar.patterns(nearest))


def approximated_double(exact: Callable[..., Array], approximation: Approximation, a: Longs) -> Longs:
    """The same of float64, whose units here are 2**28 of the last place: hardware has 2**29 (ISA)."""
    found = ar.patterns(exact(ar.floats(a)))
    if approximation.ulps:
        mixed = (ar.low(a) ^ ar.high(a) ^ u32(approximation.seed & 0xFFFFFFFF)) * u32(0x9E3779B1)
        mixed = (mixed ^ (mixed >> u32(15))) * u32(0x85EBCA6B)
        ulps = min(approximation.ulps, 2)
        shift = ((mixed >> u32(8)) % u32(2 * ulps + 1)).astype(np.int64) - ulps
        moved = found + (shift << np.int64(28)).view(u64)
        found = np.where(np.isfinite(ar.floats(found)) & (ar.absolute(found) != 0), moved, found)
    return found


def _of_float(operation: Callable[..., Array]) -> Callable[[Words], Words]:
    return lambda a: ar.patterns(operation(ar.floats(a)))


_ORDERS: Final[dict[str, Callable[..., Any]]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
}
_UNEQUAL: Final[dict[str, Callable[..., Any]]] = {"ne": np.not_equal}
_VIEWS: Final[dict[str, tuple[str, Callable[[Array], Array]]]] = {
    "f32": ("ff", ar.floats),
    "f64": ("dd", ar.floats),
    "u32": ("ii", np.asarray),
    "i32": ("ii", ar.signed),
    "u64": ("ll", np.asarray),
    "i64": ("ll", ar.signed_long),
}
# Each with its form: a letter for each result, "=", one for each source, in the order of the text. Capitals
# are of what the text does not name.
#   results  v, w: a vector register or two, where lanes are on; a: an accumulation register likewise;
#            u: a vector register, in all lanes; s, t: a scalar register or two; m: a mask of lanes; C: SCC;
#            X: EXEC
#   sources  i, f: a word, of f perhaps negated; h: 16 bits of a register; k: a 16-bit constant; l: a long;
#            d: a float64, perhaps negated; a: an accumulation register; m: a mask of lanes; C: SCC; X: EXEC;
#            L, V: EXEC and VCC as masks; D, E: what the first result was before, of one register or two
COMPUTATIONS: Final[dict[str, tuple[str, Callable[..., Any]]]] = {
    "v_mov_b32": ("v=i", np.asarray),
    "v_mov_b64": ("w=l", np.asarray),
    "v_accvgpr_write_b32": ("a=i", np.asarray),
    "v_accvgpr_read_b32": ("v=a", np.asarray),
    "v_accvgpr_mov_b32": ("a=a", np.asarray),
    "v_not_b32": ("v=i", np.invert),
    "v_and_b32": ("v=ii", operator.and_),
    "v_or_b32": ("v=ii", operator.or_),
    "v_xor_b32": ("v=ii", operator.xor),
    "v_and_or_b32": ("v=iii", lambda a, b, c: a & b | c),
    "v_or3_b32": ("v=iii", lambda a, b, c: a | b | c),
    "v_bfi_b32": ("v=iii", lambda chosen, a, b: chosen & a | ~chosen & b),
    "v_bfe_u32": ("v=iii", _bit_field),
    "v_bfe_i32": ("v=iii", _signed_bit_field),
    "v_bfrev_b32": ("v=i", _reversed),
    "v_min_i32": ("v=ii", lambda a, b: np.where(ar.signed(a) < ar.signed(b), a, b)),
    "v_perm_b32": ("v=iii", _permuted),
    "v_alignbit_b32": ("v=iii", lambda a, b, count: ar.low(_right_long(ar.joined(b, a), count & u32(31)))),
    "v_lshlrev_b32": ("v=ii", _swapped(_left)),
    "v_lshrrev_b32": ("v=ii", _swapped(_right)),
    "v_ashrrev_i32": ("v=ii", _swapped(_arithmetic_shift)),
    "v_lshlrev_b64": ("w=il", _swapped(_left_long)),
    "v_lshrrev_b64": ("w=il", _swapped(_right_long)),
    "v_ashrrev_i64": ("w=il", _swapped(_arithmetic_shift)),
    "v_lshl_or_b32": ("v=iii", lambda a, count, b: _left(a, count) | b),
    "v_lshl_add_u32": ("v=iii", lambda a, count, b: _left(a, count) + b),
    "v_lshl_add_u64": ("w=lil", lambda a, count, b: _left_long(a, count & u32(7)) + b),
    "v_add_lshl_u32": ("v=iii", lambda a, b, count: _left(a + b, count)),
    "v_add_u32": ("v=ii", operator.add),
    "v_add3_u32": ("v=iii", lambda a, b, c: a + b + c),
    "v_xad_u32": ("v=iii", lambda a, b, c: (a ^ b) + c),
    "v_sub_u32": ("v=ii", operator.sub),
    "v_subrev_u32": ("v=ii", _swapped(operator.sub)),
    "v_add_co_u32": ("vm=ii", _sum),
    "v_addc_co_u32": ("vm=iim", _sum),
    "v_sub_co_u32": ("vm=ii", _difference),
    "v_subb_co_u32": ("vm=iim", _difference),
    "v_subrev_co_u32": ("vm=ii", _swapped(_difference)),
    "v_subbrev_co_u32": ("vm=iim", _swapped(_difference)),
    "v_mul_lo_u32": ("v=ii", operator.mul),
    "v_mul_hi_u32": ("v=ii", lambda a, b: ar.high(a.astype(u64) * b.astype(u64))),
    "v_mad_u64_u32": ("wm=iil", _multiply_add),
    # The upper half is cleared (AMD Instinct MI200 ISA, of legacy instructions; LLVM, as below).
    "v_add_u16": ("v=ii", lambda a, b: (a + b) & u32(0xFFFF)),
    "v_lshlrev_b16": ("v=ii", lambda count, a: (a << (count & u32(15))) & u32(0xFFFF)),
    "v_lshrrev_b16": ("v=ii", lambda count, a: (a & u32(0xFFFF)) >> (count & u32(15))),
    "v_mad_legacy_u16": ("v=iii", lambda a, b, c: (a * b + c) & u32(0xFFFF)),
    "v_cndmask_b32": ("v=iim", lambda a, b, lanes: np.where(lanes, b, a)),
    "v_cmp_class_f32": ("m=fi", _is_of_class),
    "v_cmp_class_f64": ("m=di", _is_double_of_class),
    "v_add_f64": ("w=dd", ar.add),
    "v_mul_f64": ("w=dd", ar.multiply),
    "v_min_f64": ("w=dd", ar.minimum),
    "v_max_f64": ("w=dd", ar.maximum),
    "v_fma_f64": ("w=ddd", ar.fma_long),
    "v_fmac_f64": ("w=ddE", ar.fma_long),
    "v_div_scale_f64": ("wm=dddL", _division_scaled),
    "v_div_fmas_f64": ("w=dddV", _division_summed),
    "v_div_fixup_f64": ("w=ddd", _division_fixed),
    "v_ldexp_f64": ("w=di", _scaled_double),
    "v_cvt_f64_i32": ("w=i", lambda a: ar.patterns(ar.signed(a).astype(np.float64))),
    "v_cvt_f64_u32": ("w=i", lambda a: ar.patterns(a.astype(np.float64))),
    "v_cmp_eq_u16": ("m=ii", lambda a, b: ((a ^ b) & u32(0xFFFF)) == 0),
    "v_cmp_ne_u16": ("m=ii", lambda a, b: ((a ^ b) & u32(0xFFFF)) != 0),
    "v_cmp_o_f32": ("m=ff", lambda a, b: ~np.isnan(ar.floats(a)) & ~np.isnan(ar.floats(b))),
    "v_readfirstlane_b32": ("s=iL", _first_lane),
    "v_readlane_b32": ("s=ii", _read_lane),
    "v_writelane_b32": ("u=iiD", _write_lane),
    "v_add_f32": ("v=ff", ar.add),
    "v_sub_f32": ("v=ff", ar.subtract),
    "v_subrev_f32": ("v=ff", _swapped(ar.subtract)),
    "v_mul_f32": ("v=ff", ar.multiply),
    "v_min_f32": ("v=ff", ar.minimum),
    "v_max_f32": ("v=ff", ar.maximum),
    "v_fma_f32": ("v=fff", ar.fma),
    "v_fmac_f32": ("v=ffD", ar.fma),
    "v_fmaak_f32": ("v=iii", ar.fma),
    "v_fmamk_f32": ("v=iii", ar.fma),
    "v_madmk_f32": ("v=iii", ar.flushing(lambda a, b, c: ar.add(ar.multiply(a, b), c))),
    "v_trunc_f32": ("v=f", _of_float(np.trunc)),
    "v_rndne_f32": ("v=f", _of_float(np.rint)),
    "v_cvt_f32_i32": ("v=i", ar.from_signed),
    "v_cvt_f32_u32": ("v=i", ar.from_unsigned),
    "v_cvt_u32_f32": ("v=f", ar.to_unsigned),
    # The upper half is cleared (LLVM, SIISelLowering.cpp, zeroesHigh16BitsOfDest).
    "v_cvt_f16_f32": ("v=f", lambda a: ar.to_float16(a).astype(u32)),
    "v_cvt_pk_f16_f32": ("v=ff", lambda a, b: ar.packed(ar.to_float16(a), ar.to_float16(b))),
    "v_cvt_pk_bf16_f32": ("v=ff", lambda a, b: ar.packed(ar.to_bfloat16(a), ar.to_bfloat16(b))),
    "v_pack_b32_f16": ("v=hh", lambda a, b: ar.packed(a.astype(u16), b.astype(u16))),
    "s_mov_b32": ("s=i", np.asarray),
    "s_mov_b64": ("t=l", np.asarray),
    "s_movk_i32": ("s=k", np.asarray),
    "s_cselect_b32": ("s=iiC", lambda a, b, flag: np.where(flag, a, b)),
    "s_cselect_b64": ("t=llC", lambda a, b, flag: np.where(flag, a, b)),
    "s_and_b32": ("sC=ii", _flagged(operator.and_)),
    "s_or_b32": ("sC=ii", _flagged(operator.or_)),
    "s_xor_b32": ("sC=ii", _flagged(operator.xor)),
    "s_and_b64": ("tC=ll", _flagged(operator.and_)),
    "s_or_b64": ("tC=ll", _flagged(operator.or_)),
    "s_xor_b64": ("tC=ll", _flagged(operator.xor)),
    "s_andn2_b64": ("tC=ll", _flagged(lambda a, b: a & ~b)),
    "s_and_saveexec_b64": ("tXC=lX", partial(_saving_exec, operator.and_)),
    "s_or_saveexec_b64": ("tXC=lX", partial(_saving_exec, operator.or_)),
    "s_andn2_saveexec_b64": ("tXC=lX", partial(_saving_exec, lambda a, was: a & ~was)),
    "s_lshl_b32": ("sC=ii", _flagged(_left)),
    "s_lshr_b32": ("sC=ii", _flagged(_right)),
    "s_ashr_i32": ("sC=ii", _flagged(_arithmetic_shift)),
    "s_lshl_b64": ("tC=li", _flagged(_left_long)),
    "s_lshr_b64": ("tC=li", _flagged(_right_long)),
    "s_ashr_i64": ("tC=li", _flagged(_arithmetic_shift)),
    "s_bfe_u32": ("sC=ii", _flagged(_scalar_bit_field)),
    "s_brev_b32": ("s=i", _reversed),
    "s_bitset0_b32": ("s=iD", lambda place, was: was & ~_left(np.ones((1, 1), u32), place)),
    "s_bitset1_b32": ("s=iD", lambda place, was: was | _left(np.ones((1, 1), u32), place)),
    "s_pack_ll_b32_b16": ("s=ii", lambda a, b: ar.packed(a.astype(u16), b.astype(u16))),
    "s_add_u32": ("sC=ii", _sum),
    "s_addc_u32": ("sC=iiC", _sum),
    "s_sub_u32": ("sC=ii", _difference),
    "s_subb_u32": ("sC=iiC", _difference),
    "s_add_i32": ("sC=ii", partial(_overflowing, operator.add)),
    "s_sub_i32": ("sC=ii", partial(_overflowing, operator.sub)),
    "s_addk_i32": ("sC=kD", partial(_overflowing, operator.add)),
    "s_mul_i32": ("s=ii", operator.mul),
    "s_mulk_i32": ("s=kD", operator.mul),
    "s_mul_hi_u32": ("s=ii", lambda a, b: ar.high(a.astype(u64) * b.astype(u64))),
    "s_mul_hi_i32": ("s=ii", lambda a, b: ar.high(ar.extended(a) * ar.extended(b))),
    **{
        f"v_cmp_{name}_{kind}": (f"m={sources}", partial(_compared, view, order))
        for kind, (sources, view) in _VIEWS.items()
        for name, order in (_ORDERS if kind in ("f32", "f64") else _ORDERS | _UNEQUAL).items()
    },
    **{
        f"s_cmp_{name}_{kind}": (f"C={sources}", partial(_compared, view, order))
        for kind, (sources, view) in _VIEWS.items()
        for name, order in (_ORDERS | {"lg": np.not_equal}).items()
        if kind in ("u32", "i32") or (kind == "u64" and name in ("eq", "lg"))
    },
}

APPROXIMATIONS: Final[dict[str, Callable[..., Array]]] = {
    "v_sqrt_f32": np.sqrt,
    "v_rsq_f32": lambda x: 1 / np.sqrt(x),
    "v_rcp_f32": np.reciprocal,
    "v_rcp_iflag_f32": np.reciprocal,
}
DOUBLE_APPROXIMATIONS: Final[dict[str, Callable[..., Array]]] = {
    "v_rcp_f64": np.reciprocal,
    "v_rsq_f64": lambda x: 1 / np.sqrt(x),
}
PACKED: Final[dict[str, tuple[int, Callable[..., Words]]]] = {
    "v_pk_add_f32": (2, ar.add),
    "v_pk_mul_f32": (2, ar.multiply),
    "v_pk_fma_f32": (3, ar.fma),
}
