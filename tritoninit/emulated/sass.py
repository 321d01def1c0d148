"""Decodes SASS, which ptxas made and NVIDIA's GPUs execute, from nvdisasm's listing of a kernel.

NVIDIA publishes the instructions' names ("CUDA Binary Utilities", "Instruction Set Reference"), not what they
do. Where an instruction is one of PTX, it does what "PTX ISA", chapter 9, says of that; where not, a comment
here says what we take it to do. What has no entry here is not decoded.

Not modelled: when a result is there, which ptxas encodes beside each instruction (stalls and scoreboards);
and that threads of a warp that have parted still share its uniform registers.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from operator import itemgetter
from typing import Any, Final

import numpy as np

from tritoninit.emulated import arithmetic as a
from tritoninit.emulated.arithmetic import Array, Longs, Words, u16, u32, u64
from tritoninit.emulated.engine import (
    BARRIER,
    END,
    POISON,
    Action,
    Approximation,
    Build,
    Fault,
    Launch,
    Outcome,
    Program,
    Threads,
    Undecoded,
    constant,
)
from tritoninit.emulated.sass_operands import (
    AMPERE,
    BANKED,
    DESCRIPTOR,
    FILES,
    LOCAL,
    LOCAL_WORDS,
    NOWHERE,
    STACK,
    ZERO,
    Instruction,
    Listing,
    Source,
    halves,
)

# An instruction: its address, the predicate that guards it, its name and modifiers, its operands.
_INSTRUCTION_BYTES: Final = 16
_LINE: Final = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)(?:\s+(.*?))?\s*;")
# When it may go, as nvdisasm 12.9 adds from sm_120 on: &req={1,0} &wr=0x0 ?trans1.
_SCHEDULE: Final = re.compile(r"\s+[&?]\w+(?:=[\w{},]+)?")
_LABEL: Final = re.compile(r"([.$\w]+):")
_GLOBAL: Final = re.compile(r"(?:desc\[(UR\d+)\])?\[(R\d+)\.64(?:\+(-?0x[0-9a-f]+))?\]")
_SHARED: Final = re.compile(r"\[(R\w+)(?:\.X(4|8|16))?(?:\+(UR\d+))?(?:\+(-?0x[0-9a-f]+))?\]")
_LOCALS: Final = re.compile(r"\[R1(?:\+(0x[0-9a-f]+))?\]")
_TARGET: Final = re.compile(r"`\(([.$\w]+)\)")
_NAME: Final = re.compile(r"([\w.]+)")
_RETURN: Final = re.compile(r"(R\d+) `\([.$\w]+\)")
_WORDS: Final = {None: 1, ".U8": 1, ".U16": 1, ".64": 2, ".128": 4}  # that a load or store moves


def _chosen(x: Array, y: Array, which: Array) -> Array:
    return np.where(which, x, y)


def _least_or_most(x: Words, y: Words, least: Array) -> Words:
    return np.where(least, a.minimum(x, y), a.maximum(x, y))


def _extended_sign(x: Words, bits: Words) -> Words:
    """The lowest bits as a number, of which the highest is the sign."""
    rest = (u32(32) - bits) & u32(31)
    return (a.signed(x << rest) >> rest.view(np.int32)).view(u32)


def _rounded_up(integers: Array) -> Words:
    """The least float32 that is not smaller."""
    number = integers.astype(np.float32)
    fits = number < 2.0**64
    below = fits & (np.where(fits, number, 0).astype(u64) < integers)
    return a.patterns(np.where(below, np.nextafter(number, np.float32(np.inf)), number))


def _to_long(x: Words) -> Longs:
    number = a.floats(x)
    if not ((number >= 0) & (number < 2.0**64)).all():
        raise Fault("a float32 that 64 bits do not hold becomes an integer")
    return number.astype(u64)


def _packed(convert: Callable[[Words], Array]) -> Callable[..., Words]:
    return lambda upper, lower: a.packed(convert(lower), convert(upper))


def _logic(table: int) -> Callable[..., Array]:
    """PTX's lop3, bit by bit: entry 4 x + 2 y + z of the table.

    As the exclusive or of products of the operands (the table's Reed-Muller form): product k is of those
    operands whose bits are set in k.
    """
    products = [table >> k & 1 for k in range(8)]
    for bit in (1, 2, 4):
        for k in range(8):
            if k & bit:
                products[k] ^= products[k ^ bit]
    factors = [[2 - n for n in range(3) if k >> n & 1] for k in range(1, 8) if products[k]]

    def function(*operands: Array) -> Array:
        terms = [reduce(operator.and_, [operands[n] for n in product]) for product in factors]
        found: Array = reduce(operator.xor, terms) if terms else operands[0] ^ operands[0]
        return ~found if products[0] else found

    return function


# Units of the last place that hardware may be off at most ("PTX ISA", rcp and rsqrt: 1, and 2**-22.9 of it).
_MOST_ULPS: Final = {"RCP": 1, "RSQ": 2}


def _deviation(words: Words, approximation: Approximation) -> Words:
    """By how many units of the last place a result is off: as many for the same operand (MurmurHash3)."""
    mixed = words ^ u32(approximation.seed & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> u32(shift))) * u32(factor)
    return (mixed ^ (mixed >> u32(16))) % u32(2 * approximation.ulps + 1) - u32(approximation.ulps)


def _approximate(i: Instruction) -> Action:
    """1 / x or its square root, subnormals flushed; what is zero, infinite or NaN is so on any hardware."""
    ulps, seed = i.listing.build.approximation
    approximation = Approximation(min(ulps, _MOST_ULPS[i.form[0]]), seed)

    def function(x: Words) -> Words:
        number = a.floats(a.flushed(x)).astype(np.float64)
        exact = 1 / (number if i.form[0] == "RCP" else np.sqrt(number))
        found = a.flushed(a.patterns(exact.astype(np.float32)))
        rough = np.isfinite(a.floats(found)) & (found << u32(1) != 0)
        return np.where(rough, found + _deviation(x, approximation), found)

    return i.computes("w=f", function)


def _approximate_upper(i: Instruction) -> Action:
    """The upper word of 1 / x, or of its square root, of a float64 whose lower word is taken for zero.

    PTX's rcp.approx.ftz.f64: 20 bits of the mantissa, of which hardware may have the last ones otherwise.
    """
    ulps, seed = i.listing.build.approximation
    approximation = Approximation(min(ulps, 1), seed)

    def function(x: Words) -> Words:
        number = a.floats(a.joined(np.zeros_like(x), x))
        number = np.where(np.abs(number) < np.finfo(np.float64).tiny, np.copysign(0.0, number), number)
        exact = 1 / (number if i.form[0] == "RCP" else np.sqrt(number))
        flushed = np.where(np.abs(exact) < np.finfo(np.float64).tiny, np.copysign(0.0, exact), exact)
        found = a.high(a.patterns(flushed))
        rough = np.isfinite(flushed) & (flushed != 0)
        return np.where(rough, found + _deviation(x, approximation), found)

    return i.computes("w=w", function)


def _two(operation: Callable[..., Words], count: int) -> Callable[[Instruction], Action]:
    """An operation on two float32 at once."""

    def build(i: Instruction) -> Action:
        targets = i.targets(2)
        lower, upper = zip(*[i.numbers() for _ in range(count)], strict=True)

        def function(*values: Words) -> tuple[Words, Words]:
            return operation(*values[:count]), operation(*values[count:])

        return i.writes(targets, function, [*lower, *upper])

    return build


def _half_constant(i: Instruction) -> Action:
    """HFMA2, a multiply-add of two float16, by which ptxas loads a constant: -0 * 0 + it."""
    targets = i.targets()
    i.expect("-RZ", "RZ")
    upper, lower = i.half(), i.half()
    number = constant(upper << 16 | lower)
    return i.writes(targets, lambda: (number,), ())


_JOININGS: Final = {"AND": operator.and_, "OR": operator.or_}


def _compare(i: Instruction) -> Action:
    """PTX's setp. With .EX of the upper words: the last predicate is what the lower ones compare to."""
    name, unsigned, bits, joining, extended = i.form
    compare, join, long = getattr(operator, name.lower()), _JOININGS[joining], bits == "64"
    signed = a.signed_long if long else a.signed

    def function(x: Array, y: Array, other: Array, *lower: Array) -> tuple[Array, Array]:
        found = compare(x, y) if unsigned == "U" else compare(signed(x), signed(y))
        if extended:
            found = np.where(x == y, lower[0], found)
        return join(found, other), join(~found, other)

    return i.computes("pp=" + ("ll" if long else "ww") + ("pp" if extended else "p"), function)


def _compare_floats(i: Instruction) -> Action:
    """PTX's setp; a comparison that ends in U holds of a NaN."""
    name, unordered, flush, joining = i.form
    compare, join = getattr(operator, name.lower()), _JOININGS[joining]

    def function(x: Words, y: Words, other: Array) -> tuple[Array, Array]:
        m, n = (a.floats(a.flushed(value) if flush else value) for value in (x, y))
        found = np.where((m != m) | (n != n), bool(unordered), compare(m, n))
        return join(found, other), join(~found, other)

    return i.computes("pp=ffp", function)


def _compare_doubles(i: Instruction) -> Action:
    """As of float32; NAN is whether either is one.

    MAX and MIN, of which ptxas makes PTX's, take the first operand where the first predicate is set, and have
    a NaN where the second one is, which is of two of them.
    """
    name, unordered, joining = i.form
    join = _JOININGS[joining]

    def function(x: Longs, y: Longs, other: Array) -> tuple[Array, Array]:
        m, n = a.floats(x), a.floats(y)
        wrong = (m != m) | (n != n)
        if name in ("MAX", "MIN"):
            first = (a.maximum if name == "MAX" else a.minimum)(x, y) == x
            return join(first, other), join((m != m) & (n != n), other)
        if name in ("NAN", "NUM"):
            found = wrong if name == "NAN" else ~wrong
        else:
            found = np.where(wrong, bool(unordered), getattr(operator, name.lower())(m, n))
        return join(found, other), join(~found, other)

    return i.computes("pp=ddp", function)


_TOWARD: Final = {"RM": -np.inf, "RP": np.inf}


def _fused_doubles(i: Instruction) -> Action:
    (mode,) = i.form
    return i.computes("l=ddd", partial(a.exact_long, toward=_TOWARD[mode]) if mode else a.fma_long)


def _multiply_doubles(i: Instruction) -> Action:
    (mode,) = i.form
    zero = constant(0, u64)

    def directed(x: Longs, y: Longs) -> Longs:
        return a.exact_long(x, y, zero, _TOWARD[mode])

    return i.computes("l=dd", directed if mode else a.multiply)


def _integer_least_or_most(x: Words, y: Words, least: Array) -> Words:
    m, n = a.signed(x), a.signed(y)
    return np.where(np.where(least, m < n, m > n), x, y)


def _integers(i: Instruction) -> Action:
    """The least or the most of two; of predicates before them (sm_100's) it is known that nobody reads PT."""
    targets, flags = i.targets(), i.flags()
    if any(flag != NOWHERE for flag in flags):
        raise Undecoded("a predicate of the least or the most")
    sources = [i.word(), i.word(), i.predicate()]
    return i.writes(targets, lambda *values: (_integer_least_or_most(*values),), sources)


def _total(*values: Array) -> Array:
    return reduce(np.add, values)


def _add(count: int) -> Callable[[Instruction], Action]:
    """A sum of so many; predicates before the operands get its carries, those after them (.X) are added.

    A sum of three can carry twice, into two predicates. A negative carries as its complement and one would.
    """

    def build(i: Instruction) -> Action:
        long, extended = i.form == (".64",), i.form == (".X",)
        targets, carries = i.targets(2 if long else 1), i.flags()
        kept = sum(carry != NOWHERE for carry in carries)
        if long:
            if kept:
                raise Undecoded("a carry out of 64 bits")
            return i.writes(targets, lambda *v: halves(_total(*v)), [i.long("-") for _ in range(count)])
        sources = [(i.addend if kept else i.word)("~" if extended else "-") for _ in range(count)]
        ones = [i.predicate() for _ in range(count - 1 if extended else 0)]

        def function(*values: Array) -> list[Array]:
            found = _total(*values[:count], *[one.astype(values[0].dtype) for one in values[count:]])
            if not kept:
                return [found, *[constant(0, np.bool_)] * len(carries)]
            carry = found >> u64(32)
            if (carry > kept).any():
                raise Fault("a carry that no predicate gets")
            return [a.low(found), *[carry > k for k in range(len(carries))]]

        return i.writes([*targets, *carries], function, [*sources, *ones])

    return build


def _multiply_wide(i: Instruction) -> Action:
    """x * y + z in 64 bits, and its carry; with .HI the upper word of it."""
    part, unsigned = i.form
    targets, carries = i.targets(1 if part == "HI" else 2), i.flags()
    if len(carries) > 1 or (carries and not unsigned):
        raise Undecoded("carries")

    def function(x: Words, y: Words, z: Longs) -> list[Array]:
        found = x.astype(u64) * y.astype(u64) if unsigned else a.extended(x) * a.extended(y)
        found = found + z
        return [*halves(found)[2 - len(targets) :], *[found < z] * len(carries)]

    return i.writes([*targets, *carries], function, [i.word(), i.word(), i.long()])


def _shifted_add(i: Instruction) -> Action:
    """(x << n) + y; with .HI the upper word of z:x, shifted, and y, or with .SX32 of x with its sign."""
    upper, extended, sign = i.form
    targets, carries = i.targets(), i.flags()
    if len(carries) > 1:
        raise Undecoded("two carries")
    plain = not (upper or extended)
    x, y = i.word("-" if plain and not carries else ""), i.addend("-" if plain else "")
    z = i.word() if upper and not sign else itemgetter(ZERO)
    by = u64(i.immediate(5))

    def function(x: Words, y: Words, z: Words, *one: Array) -> list[Array]:
        shifted = (a.extended(x) if sign else a.joined(x, z)) << by
        word = a.high(shifted) if upper else a.low(shifted)
        found = _total(word.astype(u64), y, *[carry.astype(u64) for carry in one])
        return [a.low(found), *[found >= u64(2**32)] * len(carries)]

    return i.writes([*targets, *carries], function, [x, y, z, *([i.predicate()] if extended else [])])


def _shift(i: Instruction) -> Action:
    """PTX's shf: z:x shifted, of which a word remains, the upper one with .HI; never by 64 or more."""
    direction, sign, bits, upper = i.form

    def function(x: Words, by: Words, z: Words) -> Words:
        longs, places = a.joined(x, z), by.astype(u64)
        if (places >= u64(64)).any():
            raise Fault("a shift by 64 or more")
        if direction == "L":
            longs = longs << places
        elif sign == "S":
            longs = (a.signed_long(longs) >> places.view(np.int64)).view(u64)
        else:
            longs = longs >> places
        return a.high(longs) if upper else a.low(longs)

    return i.computes("w=wcw" if bits == "64" else "w=w5w", function)


def _logic_words(i: Instruction) -> Action:
    """LOP3; a predicate before the target gets whether any bit is set."""
    flags, targets = i.flags(), i.targets()
    sources = [i.word(), i.word(), i.word()]
    logic = _logic(i.immediate(8))
    i.expect("!PT")

    def function(*words: Words) -> list[Array]:
        found = logic(*words)
        return [found, *[found != 0 for _ in flags]]

    return i.writes([*targets, *flags], function, sources)


def _logic_predicates(i: Instruction) -> Action:
    targets, sources = [i.flag(), i.flag()], [i.predicate(), i.predicate(), i.predicate()]
    first, second = _logic(i.immediate(8)), _logic(i.immediate(8))
    return i.writes(targets, lambda *values: (first(*values), second(*values)), sources)


def _predicates_to_register(i: Instruction) -> Action:
    """P2R: of a word, the bits of the mask become the predicates of these numbers."""
    targets = i.targets()
    i.expect("PR")
    word, mask = i.word(), i.immediate(7)
    numbers = [k for k in range(7) if mask >> k & 1]

    def function(word: Words, *predicates: Array) -> tuple[Words]:
        bits = [predicate.astype(u32) << u32(k) for k, predicate in zip(numbers, predicates, strict=True)]
        return (_total(word & u32(~mask & 0xFFFFFFFF), *bits),)

    return i.writes(targets, function, [word, *[itemgetter(FILES["P"] + k) for k in numbers]])


def _register_to_predicates(i: Instruction) -> Action:
    """R2P: the predicates of these numbers become the bits of a word."""
    i.expect("PR")
    word, mask = i.word(), i.immediate(7)
    numbers = [k for k in range(7) if mask >> k & 1]

    def function(word: Words) -> list[Array]:
        return [(word >> u32(k) & u32(1)) != 0 for k in numbers]

    return i.writes([FILES["P"] + k for k in numbers], function, [word])


def _zeros(i: Instruction) -> Action:
    """CS2R: of the special registers, the one that is zero; two words."""
    targets = i.targets(2)
    i.expect("SRZ")
    zero = i.listing.number(0)
    return i.writes(targets, lambda *values: values, [itemgetter(zero)] * 2)


def _least_long(i: Instruction) -> Action:
    """The smaller of two signed numbers of 64 bits; its other predicates we only know like this."""
    i.expect("PT", "PT")
    action = i.computes("l=ll", lambda x, y: np.minimum(a.signed_long(x), a.signed_long(y)).view(u64))
    i.expect("PT", "!PT")
    return action


def _constant(i: Instruction) -> Action:
    """A load from the constant bank, aligned to its size."""
    targets = i.targets(_WORDS[i.form[0]])
    slots = i.listing.words_of_bank(i.groups(BANKED)[0], len(targets))
    return i.writes(targets, lambda *values: values, [itemgetter(slot) for slot in slots])


_SPECIAL: Final[dict[str, Callable[[Threads], Array]]] = {
    "SR_TID.X": lambda threads: threads.number,
    "SR_CTAID.X": lambda threads: threads.program,
    "SR_CgaCtaId": lambda threads: constant(0),  # a block's number in its cluster, which is all it is in
}


def _special_register(i: Instruction) -> Action:
    targets = i.targets()
    (name,) = i.groups(_NAME)
    if name not in _SPECIAL:
        raise Undecoded(f"special register {name}")
    return lambda threads, launch: i.put(threads, targets, (_SPECIAL[name](threads),))


def _uniform(take: Callable[[Instruction], tuple[int, Source]]) -> Callable[[Instruction], Action]:
    """What a warp has of its threads, which have to agree: R2UR, and VOTEU, which knows no others."""

    def build(i: Instruction) -> Action:
        i.unguarded()
        target, source = take(i)

        def act(threads: Threads, launch: Launch) -> None:
            values = source(threads.registers)
            if len(values) > 1:
                warps = threads.block * 64 + threads.number // 32
                if ((warps[1:] == warps[:-1]) & (values[1:] != values[:-1])).any():
                    raise Fault("the threads of a warp do not agree")
            threads.registers[target] = values

        return act

    return build


# A space of memory: how words at an instruction's address are loaded, and stored.
_Load = Callable[[Threads, Launch], Sequence[Array]]
_Store = Callable[[Threads, Launch, Sequence[Words]], None]
_Space = Callable[[Instruction, int], tuple[_Load, _Store]]


def _global(i: Instruction, count: int) -> tuple[_Load, _Store]:
    """Addresses of 64 bits; from sm_90 on with the descriptor that the constant bank holds."""
    descriptor, base, offset = i.groups(_GLOBAL)
    if (descriptor is None) != (i.listing.bank is AMPERE):
        raise Undecoded("a descriptor" if descriptor else "no descriptor")
    first, second = i.registers(base, 2) or [ZERO] * 2
    described = (i.registers(descriptor, 2) or [ZERO] * 2) if descriptor else []
    add = constant(int(offset or "0", 16), u64)

    def address(threads: Threads) -> Longs:
        registers = threads.registers
        if any((registers[slot] != word).any() for slot, word in zip(described, DESCRIPTOR, strict=False)):
            raise Fault("what should describe global memory does not")
        return np.broadcast_to(a.joined(registers[first], registers[second]) + add, len(threads))

    def load(threads: Threads, launch: Launch) -> Sequence[Array]:
        return launch.memory.load(address(threads), u32, count, i.live(threads))

    def store(threads: Threads, launch: Launch, words: Sequence[Words]) -> None:
        narrow = {".U16": u16, ".U8": np.uint8}.get(i.form[0])
        values = words if narrow is None else [word.astype(narrow) for word in words]
        launch.memory.store(address(threads), values, i.live(threads))

    return load, store


def _shared(i: Instruction, count: int) -> tuple[_Load, _Store]:
    """An address, or a number of as many bytes, and another address."""
    base, scale, more, offset = i.groups(_SHARED)
    slots = [(i.registers(name) or [ZERO])[0] for name in (base, more) if name]
    factors = [u32(int(scale or "1")), u32(1)]
    add, begin = constant(int(offset or "0", 16)), u32(i.listing.bank.shared)
    i.unguarded()

    def places(threads: Threads) -> tuple[Array, Array, Words]:
        terms = [threads.registers[slot] * by for slot, by in zip(slots, factors, strict=False)]
        address = _total(add, *terms)
        if (address < begin).any():
            raise Fault("an access below shared memory")
        return threads.block, threads.number // 32, np.broadcast_to(address - begin, len(threads))

    def load(threads: Threads, launch: Launch) -> Sequence[Array]:
        return launch.shared.load(*places(threads), count)

    def store(threads: Threads, launch: Launch, words: Sequence[Words]) -> None:
        launch.shared.store(*places(threads), words)

    return load, store


def _local(i: Instruction, count: int) -> tuple[_Load, _Store]:
    """A thread's own memory, which slots hold: the address is the stack pointer, R1, and a number.

    What was loaded for the last time (.LU) nobody knows any more.
    """
    offset = int(i.groups(_LOCALS)[0] or "0", 16)
    i.unguarded()

    def slots(threads: Threads) -> list[int]:
        pointer = threads.registers[1]
        first, odd = divmod(int(pointer[0]) + offset - STACK + 4 * LOCAL_WORDS, 4 * count)
        if (pointer != pointer[0]).any() or odd or not 0 <= first * count <= LOCAL_WORDS - count:
            raise Fault("an access beyond local memory")
        return [LOCAL + first * count + k for k in range(count)]

    def load(threads: Threads, launch: Launch) -> Sequence[Array]:
        places = slots(threads)
        found = [threads.registers[slot] for slot in places]
        if "LU" in i.name:
            store(threads, launch, [constant(POISON)] * count)
        return found

    def store(threads: Threads, launch: Launch, words: Sequence[Words]) -> None:
        for slot, word in zip(slots(threads), words, strict=True):
            threads.registers[slot] = word

    return load, store


def _load(space: _Space) -> Callable[[Instruction], Action]:
    def build(i: Instruction) -> Action:
        targets = i.targets(_WORDS[i.form[0]])
        load, _ = space(i, len(targets))
        return lambda threads, launch: i.put(threads, targets, load(threads, launch))

    return build


def _store(space: _Space) -> Callable[[Instruction], Action]:
    def build(i: Instruction) -> Action:
        count = _WORDS[i.form[0]]
        (_, store), sources = space(i, count), i.sources(count)
        return lambda threads, launch: store(threads, launch, [threads.registers[slot] for slot in sources])

    return build


def _nothing(operands: str) -> Callable[[Instruction], Action]:
    """No result depends on it, whatever operands of this form it has."""

    def build(i: Instruction) -> Action:
        i.unguarded()
        i.rest(operands)
        return lambda threads, launch: None

    return build


def _barrier(i: Instruction) -> Action:
    i.unguarded()
    i.rest("0x0")
    return lambda threads, launch: BARRIER


def _both_hold(first: Source, second: Source) -> Source:
    return lambda r: first(r) & second(r)


def _branch(i: Instruction) -> Action:
    """BRA, and CALL, which here is one: where to return to, the code keeps itself.

    A predicate before the target is a second condition.
    """
    if i.form[0]:
        i.unguarded()
    condition = i.guard
    for other in i.conditions():
        condition = other if condition is None else _both_hold(condition, other)
    (label,), labels = i.groups(_TARGET), i.listing.labels
    i.listing.branches.add(label)

    def act(threads: Threads, launch: Launch) -> Outcome:
        if condition is None:
            return labels[label]
        return threads.branch(condition(threads.registers), labels[label])

    return act


def _return(i: Instruction) -> Action:
    """To an address of 64 bits that counts from the kernel's begin."""
    i.unguarded()
    first, second = i.registers(i.groups(_RETURN)[0], 2) or [ZERO] * 2
    actions = i.listing.actions

    def act(threads: Threads, launch: Launch) -> Outcome:
        found = np.unique(a.joined(threads.registers[first], threads.registers[second])).tolist()
        if len(found) > 1:
            raise Fault("threads return to different places")
        place, odd = divmod(int(found[0]), _INSTRUCTION_BYTES)
        if odd or place >= len(actions):
            raise Fault(f"a return to {found[0]:#x}")
        return place

    return act


def _exit(i: Instruction) -> Action:
    def act(threads: Threads, launch: Launch) -> Outcome:
        ended = np.broadcast_to(True if i.guard is None else i.guard(threads.registers), len(threads))
        if ended.all():
            return END
        return [threads.part(~ended, i.at + 1)] if ended.any() else None

    return act


def _value(operands: str, function: Callable[..., Any]) -> Callable[[Instruction], Action]:
    return lambda i: i.computes(operands, function)


# Names with their modifiers, and what makes an action of such an instruction.
_FORMS: Final[dict[str, Callable[[Instruction], Action]]] = {
    r"NOP": _nothing(""),
    r"BSSY(?:\.RECONVERGENT)?": _nothing(r"B\d+, `\(\S+\)"),  # where threads that part come together
    r"BSYNC(?:\.RECONVERGENT)?": _nothing(r"B\d+"),
    r"DEPBAR\.LE": _nothing(r"SB\d, 0x0, {\d(?:,\d)*}"),  # waits for loads, which here none is after
    r"BAR\.SYNC\.DEFER_BLOCKING": _barrier,
    r"BRA(\.U)?|CALL\.REL\.NOINC": _branch,
    r"RET\.REL\.NODEC": _return,
    r"EXIT": _exit,
    r"(?:LDC|ULDC|LDCU)(\.64|\.128)?": _constant,
    r"S2U?R": _special_register,
    r"R2UR": _uniform(lambda i: (i.targets()[0], i.word())),
    r"VOTEU\.ANY": _uniform(lambda i: (i.flag(), i.predicate())),
    r"LDG\.E(\.64|\.128)?": _load(_global),
    r"STG\.E(\.64|\.128|\.U16|\.U8)?": _store(_global),
    r"LDS(\.64|\.128)?": _load(_shared),
    r"STS(\.64|\.128)?": _store(_shared),
    r"LDL(?:\.LU)?(\.64|\.128)?": _load(_local),
    r"STL(\.64|\.128)?": _store(_local),
    r"U?MOV": _value("w=w", lambda x: x),
    r"U?MOV\.64": _value("l=l", lambda x: x),
    r"U?SEL": _value("w=wwp", _chosen),
    r"U?SEL\.64": _value("l=llp", _chosen),
    r"FSEL": _value("w=ffp", _chosen),
    r"U?FADD": _value("w=ff", a.add),
    r"FADD\.FTZ": _value("w=ff", a.flushing(a.add)),
    r"FMUL": _value("w=ff", a.multiply),
    r"FMUL\.FTZ": _value("w=ff", a.flushing(a.multiply)),
    r"FFMA": _value("w=fff", a.fma),
    r"FADD2": _two(a.add, 2),
    r"FMUL2": _two(a.multiply, 2),
    r"FFMA2": _two(a.fma, 3),
    r"FMNMX": _value("w=ffp", _least_or_most),
    r"HFMA2(?:\.MMA)?": _half_constant,
    r"MUFU\.(RCP|RSQ)": _approximate,
    r"MUFU\.(RCP|RSQ)64H": _approximate_upper,
    r"DADD": _value("l=dd", a.add),
    r"DMUL(?:\.(RM|RP))?": _multiply_doubles,
    r"DFMA(?:\.(RM|RP))?": _fused_doubles,
    r"DSETP\.(LT|LE|GT|GE|EQ|NE|NAN|NUM|MAX|MIN)(U)?\.(AND|OR)": _compare_doubles,
    r"I2F\.F64\.S64": _value("l=l", a.long_from_signed),
    r"I2F\.F64\.U64": _value("l=l", a.long_from_unsigned),
    r"V?IMNMX(?:\.S32)?": _integers,
    r"VIADDMNMX": _value("w=wnwp", lambda x, y, z, least: _integer_least_or_most(x + y, z, least)),
    r"F2FP(?:\.F16\.F32)?\.PACK_AB": _value("w=ff", _packed(a.to_float16)),
    r"F2FP\.BF16(?:\.F32)?\.PACK_AB": _value("w=ff", _packed(a.to_bfloat16)),
    r"U?F2I\.FTZ\.U32\.TRUNC\.NTZ": _value("w=f", lambda x: a.to_unsigned(a.flushed(x))),
    r"F2I\.U64\.TRUNC": _value("l=f", _to_long),
    r"I2F|I2FP\.F32\.S32": _value("w=w", a.from_signed),
    r"I2F\.U32|I2FP\.F32\.U32": _value("w=w", a.from_unsigned),
    r"U?I2F\.U32\.RP": _value("w=w", _rounded_up),
    r"I2F\.U64\.RP": _value("w=l", _rounded_up),
    r"FSETP\.(LT|LE|GT|GE|EQ|NE)(U)?(\.FTZ)?\.(AND|OR)": _compare_floats,
    r"U?ISETP\.(LT|LE|GT|GE|EQ|NE)(?:\.(U|S(?=64))(32|64))?\.(AND|OR)(\.EX)?": _compare,
    r"IMNMX\.S64": _least_long,
    r"U?IADD3(\.64|\.X)?": _add(3),
    r"U?IADD(\.64|\.X)?|VIADD": _add(2),
    # .MOV, .IADD and .SHL only say what it is used for.
    r"U?IMAD(?:\.MOV|\.IADD|\.SHL)?(?:\.U32)?": _value("w=wwn", lambda x, y, z: x * y + z),
    r"U?IMAD\.X": _value("w=wwxp", lambda x, y, z, carry: x * y + z + carry.astype(u32)),
    r"U?IMAD\.(WIDE|HI)(\.U32)?": _multiply_wide,
    r"U?LEA(\.HI)?(\.X)?(\.SX32)?": _shifted_add,
    r"U?SHF\.([LR])\.([US])(32|64)(\.HI)?": _shift,
    r"U?LOP3\.LUT": _logic_words,
    r"U?PLOP3\.LUT": _logic_predicates,
    r"U?PRMT": _value("w=www", lambda x, selector, y: a.prmt(x, y, selector)),
    r"P2R": _predicates_to_register,
    r"R2P": _register_to_predicates,
    r"CS2R": _zeros,
    r"U?SGXT": _value("w=w5", _extended_sign),
    r"U?SGXT\.U32": _value("w=w5", lambda x, bits: x & ((u32(1) << bits) - u32(1))),
}


@cache
def _form(name: str) -> tuple[Callable[[Instruction], Action], tuple[Any, ...]]:
    for pattern, build in _FORMS.items():
        if found := re.fullmatch(pattern, name):
            return build, found.groups()
    raise Undecoded(f"{name} is not known")


def decode(text: str, build: Build) -> Program:
    """The program of a listing (``nvdisasm -c``) of one kernel.

    Raises:
        Undecoded: an instruction, or a form of it, is not known.
    """
    listing = Listing(build)
    for line in text.splitlines():
        if label := _LABEL.fullmatch(line):
            listing.labels[label[1]] = len(listing.actions)
        elif line.lstrip().startswith("/*"):
            try:
                _decode_line(listing, line.strip())
            except Undecoded as why:
                raise Undecoded(f"{line.strip()} {why}") from None
    if missing := listing.branches - listing.labels.keys():
        raise Undecoded(f"branches to {sorted(missing)}")
    return Program(
        listing.actions, listing.texts, listing.slots, build.threads, build.shared_bytes, listing.enter
    )


def _decode_line(listing: Listing, line: str) -> None:
    found = _LINE.fullmatch(_SCHEDULE.sub("", line))
    if found is None:
        raise Undecoded("is no instruction")
    address, guard, name, operands = found.groups()
    if int(address, 16) != _INSTRUCTION_BYTES * len(listing.actions):
        raise Undecoded("is not where it should be")
    build, form = _form(name)
    instruction = Instruction(listing, guard, name, form, operands or "")
    action = build(instruction)
    instruction.rest()
    listing.actions.append(action)
    listing.texts.append(line.partition("*/")[2].rstrip(";").strip())
