"""Operands of SASS: registers, immediates and the constant bank, which all are slots here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np

from tritoninit.emulated import arithmetic as a
from tritoninit.emulated.arithmetic import Array, Longs, Words, u16, u32, u64
from tritoninit.emulated.engine import POISON, Action, Build, Fault, Launch, Threads, Undecoded, constant

# Slots: the four files of registers, the uniform ones (one for a warp) beside the others, then what RZ, PT
# and a write to either stand for, local memory, and after these each kernel's immediates and parameters.
FILES: Final = {"R": 0, "UR": 255, "P": 510, "UP": 517}
_SIZES: Final = {"R": 255, "UR": 255, "P": 7, "UP": 7}
ZERO, _TRUE, NOWHERE, LOCAL, LOCAL_WORDS = 524, 525, 526, 527, 64
_FIRST_FREE: Final = LOCAL + LOCAL_WORDS

STACK: Final = 0x00FFFD00  # what the stack pointer is at first
DESCRIPTOR: Final = (0xDE5C0001, 0xDE5C0002)  # of global memory, which accesses from sm_90 on name


class Bank(NamedTuple):
    """Where a target's constant bank 0 holds what a kernel reads, and where its shared memory begins."""

    parameters: int
    stack: int
    descriptor: int
    shared: int


AMPERE: Final = Bank(0x160, 0x28, 0x118, 0)
_BLACKWELL: Final = Bank(0x380, 0x37C, 0x358, 0x400)
_BANKS: Final = {
    "sm_80": AMPERE,
    "sm_86": AMPERE,
    "sm_89": AMPERE,
    "sm_90": Bank(0x210, 0x28, 0x208, 0x400),
    "sm_100": _BLACKWELL,
    "sm_120": _BLACKWELL,
}

_REGISTER: Final = re.compile(r"(U?[RP])(\d+|Z|T)")
_PREDICATE: Final = re.compile(r"!?U?P[\dT]")
BANKED: Final = re.compile(r"c\[(0x[02]\]\[0x[0-9a-f]+)\]")
_WORD: Final = re.compile(rf"([-~]?)(U?R\w+|{BANKED.pattern})")
_FLOAT: Final = re.compile(rf"(-?\|?)(U?R\w+|{BANKED.pattern})(\|?)")
_FLOATS: Final = re.compile(r"(-?\|?)(U?R\w+)(\|?)\.(F32|F32x2\.HI_LO|F32x2\.LO_HI)")
_INTEGER: Final = re.compile(r"(-?0x[0-9a-f]+)")
_DECIMAL: Final = re.compile(r"(-?\d+(?:\.\d+)?(?:e[-+]\d+)?|[-+]INF)")

Source = Callable[[list[Array]], Array]  # an operand's value, of the registers


def _with_sign(before: str, slot: int, after: str) -> Source:
    """A float32 of a register, with its sign changed, or without one, as the bars around it say."""
    if ("|" in before) != ("|" in after):
        raise Undecoded(f"operand {before}{slot}{after}")
    sources: dict[str, Source] = {
        "": itemgetter(slot),
        "-": lambda r: a.negative(r[slot]),
        "|": lambda r: a.absolute(r[slot]),
        "-|": lambda r: a.negative(a.absolute(r[slot])),
    }
    return sources[before]


class Listing:
    """A kernel, as far as it is decoded.

    Attributes:
        bank: the target's constant bank.
        slots: what each holds at first.
        labels: the places that they stand for.
        branches: the labels that branches lead to.
    """

    def __init__(self, build: Build) -> None:
        if build.arch not in _BANKS:
            raise Undecoded(f"no constant bank is known of {build.arch}")
        self.build, self.bank = build, _BANKS[build.arch]
        self.actions: list[Action] = []
        self.texts: list[str] = []
        self.labels: dict[str, int] = {}
        self.branches: set[str] = set()
        self.slots = [constant(POISON)] * _FIRST_FREE
        self.slots[ZERO], self.slots[_TRUE] = constant(0), constant(1, np.bool_)
        self._numbers: dict[int, int] = {}
        self._parameters: dict[int, int] = {}

    def number(self, value: int) -> int:
        """The slot of a number that is part of an instruction."""
        return self._slot(self._numbers, value % 2**32, constant(value))

    def words_of_bank(self, place: str, count: int) -> list[int]:
        """The slots of words in a row of a constant bank, all together aligned; ``place`` is as in BANKED."""
        bank, _, at = place.partition("][")
        offset = int(at, 16)
        if offset % (4 * count):
            raise Undecoded(f"constant {at} of bank {bank}")
        if bank == "0x0":
            return [self._word_of_bank(offset + 4 * k) for k in range(count)]
        words = self.build.constants[offset : offset + 4 * count]
        if len(words) < 4 * count:
            raise Undecoded(f"constant {at} of bank {bank}")
        return [self.number(int.from_bytes(words[4 * k : 4 * k + 4], "little")) for k in range(count)]

    def _word_of_bank(self, offset: int) -> int:
        if offset == self.bank.stack:
            return self.number(STACK)
        if offset - self.bank.descriptor in (0, 4):
            return self.number(DESCRIPTOR[(offset - self.bank.descriptor) // 4])
        if offset < self.bank.parameters or offset % 4:
            raise Undecoded(f"constant {offset:#x}")
        return self._slot(self._parameters, offset, constant(POISON))

    def _slot(self, known: dict[int, int], key: int, content: Array) -> int:
        if key not in known:
            known[key] = len(self.slots)
            self.slots.append(content)
        return known[key]

    def enter(self, threads: Threads, launch: Launch) -> None:
        """Parameters; and predicates, which until they are written differ between threads, or warps."""
        words = np.frombuffer(launch.packed_parameters(), u32)
        for offset, slot in self._parameters.items():
            number = (offset - self.bank.parameters) // 4
            if number >= words.size:
                raise Fault(f"constant {offset:#x} is no parameter")
            threads.registers[slot] = words[number : number + 1]
        for file, threads_of_one in (("P", 1), ("UP", 32)):
            unwritten = threads.number // u32(threads_of_one) % u32(2) == 1
            threads.registers[FILES[file] : FILES[file] + _SIZES[file]] = [unwritten] * _SIZES[file]


class Instruction:
    """One instruction, whose operands are taken one after another.

    Attributes:
        listing: of which it is part.
        at: its place there.
        name: with modifiers.
        form: the groups of the pattern in ``_FORMS`` that the name matches.
        guard: which threads execute it; None for all.
    """

    def __init__(
        self, listing: Listing, guard: str | None, name: str, form: tuple[Any, ...], operands: str
    ) -> None:
        self.listing, self.at, self.name, self.form = listing, len(listing.actions), name, form
        # .reuse says what is kept for the next instruction, not what is done.
        self._operands = operands.replace(".reuse", "").split(", ") if operands else []
        self.guard = None if guard is None else self._predicate(guard)

    def _take(self) -> str:
        if not self._operands:
            raise Undecoded("too few operands")
        return self._operands.pop(0).strip()

    def _comes(self, pattern: re.Pattern[str]) -> bool:
        return bool(self._operands) and pattern.fullmatch(self._operands[0].strip()) is not None

    def groups(self, pattern: re.Pattern[str]) -> tuple[Any, ...]:
        """Of the next operand, which matches the pattern."""
        token = self._take()
        found = pattern.fullmatch(token)
        if found is None:
            raise Undecoded(f"operand {token}")
        return found.groups()

    def expect(self, *tokens: str) -> None:
        """The next operands, which are known in this form alone."""
        for token in tokens:
            if self._take() not in (token, token.replace("P", "UP").replace("R", "UR")):
                raise Undecoded(f"not {token}")

    def rest(self, pattern: str = "") -> None:
        """The operands that are left."""
        if not re.fullmatch(pattern, ", ".join(self._operands)):
            raise Undecoded(f"operands {', '.join(self._operands)}")
        self._operands = []

    def unguarded(self) -> None:
        if self.guard is not None:
            raise Undecoded("a guard")

    def registers(self, name: str, count: int = 1, files: Sequence[str] = ("R", "UR")) -> list[int] | None:
        """Slots of registers in a row, whose first number ``count`` divides; None where it is RZ or PT."""
        found = _REGISTER.fullmatch(name)
        if found is None or found[1] not in files or found[2] == ("Z" if "P" in files else "T"):
            raise Undecoded(f"operand {name}")
        if found[2] in "ZT":
            return None
        number = int(found[2])
        if number % count or number + count > _SIZES[found[1]]:
            raise Undecoded(f"operand {name}, of {count} registers")
        return [FILES[found[1]] + number + k for k in range(count)]

    def sources(self, count: int) -> list[int]:
        """Slots of registers that a store takes."""
        return self.registers(self._take(), count) or [ZERO] * count

    def targets(self, count: int = 1) -> list[int]:
        return self.registers(self._take(), count) or [NOWHERE] * count

    def flag(self) -> int:
        """The slot of a predicate to be written."""
        return (self.registers(self._take(), 1, ("P", "UP")) or [NOWHERE])[0]

    def flags(self) -> list[int]:
        """As many as there are."""
        found = []
        while self._comes(_PREDICATE):
            found.append(self.flag())
        return found

    def conditions(self) -> list[Source]:
        """Predicates that are read, as many as there are."""
        found = []
        while self._comes(_PREDICATE):
            found.append(self.predicate())
        return found

    def predicate(self) -> Source:
        return self._predicate(self._take())

    def _predicate(self, token: str) -> Source:
        (slot,) = self.registers(token.removeprefix("!"), 1, ("P", "UP")) or [_TRUE]
        return (lambda r: ~r[slot]) if token.startswith("!") else itemgetter(slot)

    def immediate(self, bits: int) -> int:
        """A number that is part of the instruction and has so many bits."""
        value = int(self.groups(_INTEGER)[0], 16)
        if not 0 <= value < 2**bits:
            raise Undecoded(f"operand {value:#x}")
        return value

    def _signed(self, signs: str, count: int) -> tuple[str, list[int]]:
        """The sign, one of ``signs`` if there is one, and the slots of an integer operand."""
        sign, name, place = self.groups(_WORD)
        if sign not in ("", *signs):
            raise Undecoded(f"operand {sign}{name}")
        if place:
            return sign, self.listing.words_of_bank(place, count)
        return sign, self.registers(name, count) or [ZERO] * count

    def _word(self, signs: str) -> tuple[str, int]:
        if self._comes(_INTEGER):
            return "", self.listing.number(int(self._take(), 16))
        sign, (slot,) = self._signed(signs, 1)
        return sign, slot

    def word(self, signs: str = "") -> Source:
        """An integer of 32 bits; "-" is its negative, "~" its complement."""
        sign, slot = self._word(signs)
        changed: dict[str, Source] = {"-": lambda r: u32(0) - r[slot], "~": lambda r: ~r[slot]}
        return changed.get(sign, itemgetter(slot))

    def _count(self) -> Source:
        """By how much a long is shifted."""
        if self._comes(_INTEGER):
            return itemgetter(self.listing.number(self.immediate(6)))
        return self.word()

    def addend(self, signs: str) -> Source:
        """The same in 64 bits, for a sum with a carry: the negative is the complement and one more."""
        sign, slot = self._word(signs)
        more = u64(sign == "-")
        return (lambda r: (~r[slot]).astype(u64) + more) if sign else (lambda r: r[slot].astype(u64))

    def long(self, signs: str = "") -> Source:
        """An integer of 64 bits: two registers, two words of the bank, or a number with its sign."""
        if self._comes(_INTEGER):
            value = int(self._take(), 16)
            if not -(2**31) <= value < 2**64 or value >> 31 == 1:  # of 32 bits, a sign or none
                raise Undecoded(f"operand {value:#x}, of 64 bits")
            number = constant(value, u64)
            return lambda r: number
        sign, (first, second) = self._signed(signs, 2)
        if sign:
            return lambda r: u64(0) - a.joined(r[first], r[second])
        return lambda r: a.joined(r[first], r[second])

    def number(self) -> Source:
        """A float32."""
        if self._comes(_DECIMAL):
            return itemgetter(self._decimal())
        before, name, place, after = self.groups(_FLOAT)
        (slot,) = self.listing.words_of_bank(place, 1) if place else self.registers(name) or [ZERO]
        return _with_sign(before, slot, after)

    def double(self) -> Source:
        """A float64: two registers, two words of the bank, or a number whose lower word is zero."""
        if self._comes(_DECIMAL):
            number = np.array([float(self._take())]).view(u64)
            if a.low(number)[0]:
                raise Undecoded("a float64 of more than 32 bits")
            return lambda r: number
        before, name, place, after = self.groups(_FLOAT)
        if ("|" in before) != ("|" in after):
            raise Undecoded(f"operand {before}{name}{after}")
        slots = self.listing.words_of_bank(place, 2) if place else self.registers(name, 2)
        first, second = slots or [ZERO] * 2
        changes: dict[str, Callable[[Array], Array]] = {
            "": lambda x: x,
            "-": a.negative,
            "|": a.absolute,
            "-|": lambda x: a.negative(a.absolute(x)),
        }
        change = changes[before]
        return lambda r: change(a.joined(r[first], r[second]))

    def _decimal(self) -> int:
        return self.listing.number(int(np.float32(self._take()).view(u32)))

    def numbers(self) -> tuple[Source, Source]:
        """Two float32 in two registers, or one that stands for both."""
        if self._comes(_DECIMAL):
            both: Source = itemgetter(self._decimal())
            return both, both
        before, name, after, kind = self.groups(_FLOATS)
        slots = self.registers(name, 1 if kind == "F32" else 2) or [ZERO]
        first, second = (slots[-1], slots[0]) if kind == "F32x2.LO_HI" else (slots[0], slots[-1])
        return _with_sign(before, first, after), _with_sign(before, second, after)

    def half(self) -> int:
        """The pattern of a float16 that is part of the instruction."""
        return int(np.float16(self.groups(_DECIMAL)[0]).view(u16))

    def live(self, threads: Threads) -> Array | None:
        """Which threads execute the instruction; None if all do."""
        return None if self.guard is None else self.guard(threads.registers)

    def put(self, threads: Threads, targets: Sequence[int], values: Sequence[Array]) -> None:
        """Write slots, for the threads that execute the instruction."""
        live, registers = self.live(threads), threads.registers
        for target, value in zip(targets, values, strict=True):
            registers[target] = value if live is None else np.where(live, value, registers[target])

    def writes(
        self, targets: Sequence[int], function: Callable[..., Sequence[Array]], sources: Sequence[Source]
    ) -> Action:
        """Compute of the sources what goes into the targets, a value each."""
        return lambda threads, launch: self.put(
            threads, targets, function(*[source(threads.registers) for source in sources])
        )

    def computes(self, operands: str, function: Callable[..., Any]) -> Action:
        """Compute of some sources a word, a long, or predicates.

        Args:
            operands: the targets' kinds, "=" and the sources': w for words, n for such that may have a minus,
                x for such that may have a tilde; c for an immediate of six bits or a word; l for longs; f for
                floats; d for float64; p for predicates; and a digit for an immediate of so many bits.
            function: of the sources.
        """
        before, after = operands.split("=")
        take: dict[str, Callable[[], Source]] = {
            "w": self.word,
            "n": lambda: self.word("-"),
            "x": lambda: self.word("~"),
            "c": self._count,
            "l": self.long,
            "f": self.number,
            "d": self.double,
            "p": self.predicate,
        }
        targets = [self.flag() for _ in before] if "p" in before else self.targets(2 if before == "l" else 1)
        sources = [
            itemgetter(self.listing.number(self.immediate(int(kind)))) if kind.isdigit() else take[kind]()
            for kind in after
        ]
        if before == "l":
            return self.writes(targets, lambda *values: halves(function(*values)), sources)
        if len(before) == 1:
            return self.writes(targets, lambda *values: (function(*values),), sources)
        return self.writes(targets, function, sources)


def halves(longs: Longs) -> tuple[Words, Words]:
    return a.low(longs), a.high(longs)
