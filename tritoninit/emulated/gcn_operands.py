"""The operands of AMD's instructions: registers, constants, and what selects or changes a part of one.

Vector registers are (waves, 64), scalar ones (waves, 1); what all waves or lanes share has a length of one.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from tritoninit.emulated import arithmetic as ar
from tritoninit.emulated.arithmetic import Array, Longs, Words, u32, u64
from tritoninit.emulated.engine import Undecoded
from tritoninit.emulated.gcn_operations import WAVE

# Slots: the vector registers, the scalar ones (vcc and exec by their numbers as operands, ISA 5.2), and what
# has no number: SCC, and EXEC once more, as a mask of lanes; and the accumulation registers, which take what
# the vector registers have no room for.
SGPR: Final = 256
VCC, EXEC = SGPR + 106, SGPR + 126
SCC, LANES = SGPR + 128, SGPR + 129
AGPR: Final = LANES + 1
_NAMES: Final = {"vcc": (VCC, 2), "vcc_lo": (VCC, 1), "vcc_hi": (VCC + 1, 1), "exec": (EXEC, 2)}
ALL_LANES: Final = np.ones((1, 1), bool)  # every lane is on

Registers = list[Array]
Reader = Callable[[Registers], Any]
Writer = Callable[[Registers, Any], None]


def lanes_of(mask: Longs) -> Array:
    """The bits of (waves, 1) masks: (waves, 64)."""
    octets = np.ascontiguousarray(mask).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little").view(bool)


def _mask(lanes: Array) -> Longs:
    lanes = np.broadcast_to(lanes, (len(lanes), WAVE))
    return np.packbits(lanes, axis=1, bitorder="little").view(u64)


def put_word(slot: int, registers: Registers, word: Words) -> None:
    registers[slot] = word


def put_pair(slot: int, registers: Registers, pair: Longs) -> None:
    registers[slot], registers[slot + 1] = ar.low(pair), ar.high(pair)


def put_exec(registers: Registers, pair: Longs) -> None:
    put_pair(EXEC, registers, pair)
    lanes = lanes_of(pair)
    registers[LANES] = ALL_LANES if lanes.all() else lanes


def put_lanes(slot: int, registers: Registers, lanes: Array) -> None:
    """Of lanes that are off, a comparison or a carry is 0 (ISA 6.7)."""
    put_pair(slot, registers, _mask(lanes & registers[LANES]))


def put_vector(slot: int, registers: Registers, word: Words) -> None:
    lanes = registers[LANES]
    registers[slot] = word if lanes is ALL_LANES else np.where(lanes, word, registers[slot])


def put_vectors(slot: int, registers: Registers, pair: Longs) -> None:
    put_vector(slot, registers, ar.low(pair))
    put_vector(slot + 1, registers, ar.high(pair))


def pair(slot: int, registers: Registers) -> Longs:
    return ar.joined(registers[slot], registers[slot + 1])


NUMBER = re.compile(r"-?(0x[0-9a-f]+|\d+)")
_SIGNED = re.compile(r"(-?)(\|?)([^-|]+)\2")
_FLOATS: Final = {sign + text for text in ("0.5", "1.0", "2.0", "4.0") for sign in ("", "-")}


def literal(text: str) -> int | None:
    """A constant's 32 bits, or None if the operand is none. Integers are patterns, for floats too."""
    if text in _FLOATS:
        return int(np.float32(text).view(u32))
    return int(text, 0) & 0xFFFFFFFF if NUMBER.fullmatch(text) else None


def _selected(selector: str) -> Callable[[Words], Words]:
    """SDWA's part of an operand, as "WORD_1"."""
    found = re.fullmatch(r"(BYTE|WORD)_([0-3])", selector)
    if found is None or (found[1] == "WORD" and found[2] > "1"):
        raise Undecoded(f"selector {selector}")
    width = {"BYTE": 8, "WORD": 16}[found[1]]
    shift, kept = u32(width * int(found[2])), u32((1 << width) - 1)
    return lambda word: (word >> shift) & kept


class Instruction:
    """One instruction's text in parts; remembers which registers were asked for.

    Attributes:
        opcode: without the suffix that names its encoding.
        operands: in the order of the text.
        modifiers: those that nobody has asked for yet, by name, with "" for a value that is none.
        named: slots.
    """

    def __init__(self, opcode: str, rest: str) -> None:
        self.opcode = re.sub(r"_(e32|e64|sdwa)$", "", opcode)
        parts = [part.strip() for part in re.split(r",(?![^\[]*\])", rest)] if rest else []
        last, *words = parts.pop().split() if parts else [""]
        self.operands = [*parts, last] if rest else []
        self.modifiers: dict[str, str] = {}
        for word in words:
            name, _, value = word.partition(":")
            self.modifiers[name] = value
        self.sdwa = opcode.endswith("_sdwa")
        self.named: set[int] = set()
        self._next = 0

    def operand(self) -> str:
        """The next one."""
        self._next += 1
        if self._next > len(self.operands):
            raise Undecoded("too few operands")
        return self.operands[self._next - 1]

    def number(self, name: str, low: int, high: int) -> int:
        """A modifier's, 0 if it is not there."""
        value = int(self.modifiers.pop(name, "0"))
        if not low <= value <= high:
            raise Undecoded(f"{name}:{value}")
        return value

    def switches(self, name: str, count: int, default: int) -> list[bool]:
        """A modifier's, as op_sel:[0,1]."""
        text = self.modifiers.pop(name, "[" + ",".join([str(default)] * count) + "]")
        if not re.fullmatch(rf"\[[01](,[01]){{{count - 1}}}\]", text):
            raise Undecoded(f"{name}:{text}")
        return [digit == "1" for digit in text[1:-1].split(",")]

    def require(self, name: str, value: str = "") -> None:
        if self.modifiers.pop(name, None) != value:
            raise Undecoded(f"no {name} {value}")

    def done(self) -> None:
        """Nothing of the text was left out."""
        if left := [*self.operands[self._next :], *self.modifiers]:
            raise Undecoded(f"what is {left[0]}")

    def slot(self, text: str, count: int, kinds: str) -> int:
        """The first of ``count`` registers; ``kinds`` are those allowed, of "v", "s" and "a"."""
        found = re.fullmatch(r"([vsa])(?:(\d+)|\[(\d+):(\d+)\])", text)
        if text in _NAMES:
            kind, (slot, size) = "s", _NAMES[text]
        elif found:
            kind, first = found[1], int(found[2] or found[3])
            size = int(found[4]) - first + 1 if found[4] else 1
            slot = {"v": 0, "s": SGPR, "a": AGPR}[kind] + first
            if first + size > (102 if kind == "s" else 256):
                raise Undecoded(f"register {text}")
        else:
            raise Undecoded(f"operand {text}")
        if size != count or kind not in kinds or (kind == "v" and self.opcode.startswith("s_")):
            raise Undecoded(f"operand {text}")
        self.named |= set(range(slot, slot + size))
        return slot

    def word(self, *, signs: bool = False, select: str = "") -> Reader:
        """The next operand, 32 bits; ``signs`` if it may be negated, ``select`` the modifier of a part."""
        text = self.operand()
        if (value := literal(text)) is not None:
            constant = np.array([[value]], u32)
            return lambda registers: constant
        changes: list[Callable[[Words], Words]] = []
        selector = self.modifiers.pop(select, "DWORD") if self.sdwa else "DWORD"
        if selector != "DWORD":
            changes.append(_selected(selector))
        if signs and (found := _SIGNED.fullmatch(text)):
            changes += [ar.absolute] * bool(found[2]) + [ar.negative] * bool(found[1])
            text = found[3]
        slot = self.slot(text, 1, "vs")
        if not changes:
            return operator.itemgetter(slot)

        def changed(registers: Registers) -> Words:
            word: Words = registers[slot]
            for change in changes:
                word = change(word)
            return word

        return changed

    def double(self) -> Reader:
        """A float64, perhaps negated; of a constant's 32 bits the lower half is zero (ISA 5.2)."""
        text = self.operand()
        if text in _FLOATS:
            number = np.array([[float(text)]]).view(u64)
            return lambda registers: number
        if NUMBER.fullmatch(text):
            value = int(text, 0)
            bits = value if -16 <= value <= 64 else value << 32
            constant = np.array([[bits & 0xFFFFFFFFFFFFFFFF]], u64)
            return lambda registers: constant
        found = _SIGNED.fullmatch(text)
        if found is None:
            raise Undecoded(f"operand {text}")
        slot = self.slot(found[3], 2, "vs")
        changes = [ar.absolute] * bool(found[2]) + [ar.negative] * bool(found[1])

        def changed(registers: Registers) -> Longs:
            value: Longs = pair(slot, registers)
            for change in changes:
                value = change(value)
            return value

        return changed

    def long(self, text: str | None = None) -> Reader:
        """An operand of 64 bits, by default the next; no constant whose extension is a question."""
        text = self.operand() if text is None else text
        if NUMBER.fullmatch(text) and -16 <= int(text, 0) < 2**31:
            constant = np.array([[int(text, 0) & 0xFFFFFFFFFFFFFFFF]], u64)
            return lambda registers: constant
        return partial(pair, self.slot(text, 2, "vs"))
