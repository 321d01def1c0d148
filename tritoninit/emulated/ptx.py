"""Decodes PTX, which Triton hands to ptxas: the semantics are those of NVIDIA's "PTX ISA", chapter 9.

Float32 arithmetic that ptxas may contract (``mul.f32`` without ``.rn``), flushes subnormals or is approximate
has no one result, and is not decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from tritoninit.emulated import arithmetic as a
from tritoninit.emulated.arithmetic import Array, Longs, Words, u16, u32, u64
from tritoninit.emulated.engine import (
    BARRIER,
    END,
    POISON,
    Action,
    Build,
    Fault,
    Launch,
    Outcome,
    Program,
    Threads,
    Undecoded,
    constant,
)

# Types of operands: predicates, and registers of 16, 32 and 64 bits.
_DTYPES: Final = {"p": np.bool_, "h": u16, "w": u32, "d": u64}
_REGISTERS: Final = {"p": "p", "rs": "h", "r": "w", "f": "w", "rd": "d", "fd": "d"}
_BY_BITS: Final = {"16": "h", "32": "w", "64": "d"}


def _shifted(dtype: Any, shift: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """A shift whose amount is clamped to the register's width: beyond it, zeros."""
    bits = 8 * np.dtype(dtype).itemsize

    def shifted(x: Array, by: Words) -> Array:
        return np.where(by >= bits, dtype(0), shift(x, (by & u32(bits - 1)).astype(dtype)))

    return shifted


def _shifted_right_signed(x: Array, by: Words) -> Array:
    """Beyond the width, the sign."""
    integer = np.dtype(f"i{x.itemsize}")
    by = np.minimum(by, u32(8 * x.itemsize - 1))
    shifted: Array = np.right_shift(np.ascontiguousarray(x).view(integer), by.astype(integer))
    return shifted.view(x.dtype)


def _divided(x: Array, y: Array) -> Array:
    if (y == 0).any():
        raise Fault("a division by zero")
    return x // y


def _divided_signed(x: Longs, y: Longs) -> Longs:
    """Toward zero."""
    n, m = a.signed_long(x), a.signed_long(y)
    quotient = _divided(np.abs(n).view(u64), np.abs(m).view(u64))  # 2**63 has no sign
    return np.where((n < 0) != (m < 0), u64(0) - quotient, quotient)


def _extracted(x: Words, position: Words, length: Words, *, signed: bool) -> Words:
    """bfe of a field that lies within the word."""
    position, length = position & u32(255), length & u32(255)
    if (position + length > 32).any() or (length == 0).any():
        raise Fault("a bit field that no word has")
    above = (u32(32) - position - length).astype(u32)
    raised = x << above
    down = (u32(32) - length).astype(u32)
    return (a.signed(raised) >> down.astype(np.int32)).view(u32) if signed else raised >> down


def _extracted_long(x: Longs, position: Words, length: Words) -> Longs:
    """bfe.s64 of a field that lies within 64 bits."""
    position, length = (each.astype(u64) & u64(255) for each in (position, length))
    if (position + length > 64).any() or (length == 0).any():
        raise Fault("a bit field that no word has")
    raised = x << (u64(64) - position - length)
    return (a.signed_long(raised) >> (u64(64) - length).view(np.int64)).view(u64)


_COMPARISONS: Final = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_VIEWS: Final[dict[str, Callable[[Array], Array]]] = {"s32": a.signed, "s64": a.signed_long}


def _identical(x: Array) -> Array:
    return x


def _compared(comparison: str, kind: str) -> Callable[..., Array]:
    compare, view = _COMPARISONS[comparison], _VIEWS.get(kind, _identical)
    return lambda x, y: np.asarray(compare(view(x), view(y)))


def _compared_floats(comparison: str) -> Callable[..., Array]:
    """Of unordered comparisons (equ, ltu, ...) a NaN makes a true one, of others a false one, ne too."""
    unordered = comparison.endswith("u")
    compare = _COMPARISONS[comparison.removesuffix("u")]

    def compared(x: Words, y: Words) -> Array:
        n, m = a.floats(x), a.floats(y)
        nan: Array = (n != n) | (m != m)
        return np.where(nan, unordered, compare(n, m))

    return compared


def _selected(x: Array, y: Array, predicate: Array) -> Array:
    return np.where(predicate, x, y)


def _converted(dtype: Any, x: Array) -> Array:
    """An unsigned integer of another size."""
    return x.astype(dtype)


class _Operation(NamedTuple):
    """What an opcode computes, and the types of its result and its operands."""

    compute: Callable[..., Array]
    result: str
    operands: str


def _integers() -> Iterator[tuple[str, str, Callable[..., Array]]]:
    """Opcodes, all modifiers included, the types of result and operands, and what they compute."""
    for bits, w in (("32", "w"), ("64", "d")):
        for suffix in ("s" + bits, "u" + bits):
            yield f"add.{suffix}", w * 3, np.add
            yield f"sub.{suffix}", w * 3, np.subtract
            yield f"mul.lo.{suffix}", w * 3, np.multiply
            yield f"mad.lo.{suffix}", w * 4, lambda x, y, z: x * y + z
            view = _VIEWS.get(suffix, _identical)
            yield f"min.{suffix}", w * 3, partial(_picked, np.minimum, view)
            yield f"max.{suffix}", w * 3, partial(_picked, np.maximum, view)
        yield f"neg.s{bits}", w * 2, np.negative
        yield f"div.u{bits}", w * 3, _divided
        yield f"rem.u{bits}", w * 3, lambda x, y: x - _divided(x, y) * y
        yield f"shr.s{bits}", w * 2 + "w", _shifted_right_signed
    yield "div.s64", "ddd", _divided_signed
    yield "rem.s64", "ddd", lambda x, y: x - _divided_signed(x, y) * y
    yield "mul.hi.u32", "www", lambda x, y: a.high(x.astype(u64) * y.astype(u64))
    yield "mul.wide.u32", "dww", lambda x, y: x.astype(u64) * y.astype(u64)
    yield "mul.wide.s32", "dww", lambda x, y: a.extended(x) * a.extended(y)
    yield "mad.wide.u32", "dwwd", lambda x, y, z: x.astype(u64) * y.astype(u64) + z
    yield "mad.wide.s32", "dwwd", lambda x, y, z: a.extended(x) * a.extended(y) + z
    yield "bfe.s32", "wwww", partial(_extracted, signed=True)
    yield "bfe.u32", "wwww", partial(_extracted, signed=False)
    yield "bfe.s64", "ddww", _extracted_long
    yield "prmt.b32", "wwww", a.prmt
    for bits, h in _BY_BITS.items():
        yield f"shl.b{bits}", h * 2 + "w", _shifted(_DTYPES[h], np.left_shift)
        yield f"shr.b{bits}", h * 2 + "w", _shifted(_DTYPES[h], np.right_shift)
        yield f"shr.u{bits}", h * 2 + "w", _shifted(_DTYPES[h], np.right_shift)


def _selections() -> Iterator[tuple[str, str, Callable[..., Array]]]:
    for suffix, w in {**{f"b{bits}": w for bits, w in _BY_BITS.items()}, "pred": "p"}.items():
        yield f"and.{suffix}", w * 3, np.bitwise_and
        yield f"or.{suffix}", w * 3, np.bitwise_or
        yield f"xor.{suffix}", w * 3, np.bitwise_xor
        yield f"not.{suffix}", w * 2, np.invert
    kinds = {letter + bits: w for bits, w in _BY_BITS.items() for letter in "bsu"}
    kinds |= {"f32": "w", "f64": "d"}
    for suffix, w in kinds.items():
        yield f"mov.{suffix}", w * 2, _identical
        yield f"selp.{suffix}", w * 3 + "p", _selected
    yield "mov.pred", "pp", _identical
    for comparison in ("eq", "ne"):
        for bits, w in _BY_BITS.items():
            yield f"setp.{comparison}.b{bits}", "p" + w * 2, _compared(comparison, "b" + bits)
    for comparison in ("eq", "ne", "lt", "le", "gt", "ge"):
        for suffix in ("u16", "s32", "u32", "s64", "u64"):
            yield f"setp.{comparison}.{suffix}", "p" + kinds[suffix] * 2, _compared(comparison, suffix)
        for float_, w in (("f32", "w"), ("f64", "d")):
            yield f"setp.{comparison}.{float_}", "p" + w * 2, _compared_floats(comparison)
            yield f"setp.{comparison}u.{float_}", "p" + w * 2, _compared_floats(comparison + "u")
    for comparison in ("lo", "ls", "hi", "hs"):
        yield f"setp.{comparison}.u32", "pww", _compared(comparison, "u32")
        yield f"setp.{comparison}.u64", "pdd", _compared(comparison, "u64")


def _floats() -> Iterator[tuple[str, str, Callable[..., Array]]]:
    for name, types, compute in (
        ("add", "www", a.add),
        ("sub", "www", a.subtract),
        ("mul", "www", a.multiply),
        ("fma", "wwww", a.fma),
    ):
        yield f"{name}.rn.f32", types, compute
        yield f"{name}.rn.f32x2", "d" * len(types), partial(_both, compute)
    for name, compute in (("add", a.add), ("sub", a.subtract), ("mul", a.multiply), ("div", a.divide)):
        yield f"{name}.rn.f64", "ddd", compute
    for kind, w in (("f32", "w"), ("f64", "d")):
        yield f"sqrt.rn.{kind}", w * 2, a.square_root
        yield f"min.{kind}", w * 3, a.minimum
        yield f"max.{kind}", w * 3, a.maximum
        yield f"abs.{kind}", w * 2, a.absolute
        yield f"neg.{kind}", w * 2, a.negative
    yield "cvt.rn.f64.s64", "dd", a.long_from_signed
    yield "cvt.rn.f64.u64", "dd", a.long_from_unsigned
    yield "cvt.rn.f32.s32", "ww", a.from_signed
    yield "cvt.rn.f32.u32", "ww", a.from_unsigned
    for name, narrow in (("f16", a.to_float16), ("bf16", a.to_bfloat16)):
        yield f"cvt.rn.{name}.f32", "hw", narrow
        yield f"cvt.rn.{name}x2.f32", "www", partial(_narrowed, narrow)
    yield "cvt.s64.s32", "dw", a.extended
    yield "cvt.s32.s64", "wd", a.low
    for more, less in (("64", "32"), ("32", "16"), ("64", "16")):
        wide, narrow_kind = _BY_BITS[more], _BY_BITS[less]
        yield f"cvt.u{more}.u{less}", wide + narrow_kind, partial(_converted, _DTYPES[wide])
        yield f"cvt.u{less}.u{more}", narrow_kind + wide, partial(_converted, _DTYPES[narrow_kind])


def _picked(pick: Callable[..., Array], view: Callable[[Array], Array], x: Array, y: Array) -> Array:
    return pick(view(x), view(y)).view(x.dtype)


def _both(compute: Callable[..., Words], *operands: Longs) -> Longs:
    """Of two float32 numbers in 64 bits, each by itself."""
    return a.joined(compute(*map(a.low, operands)), compute(*map(a.high, operands)))


def _narrowed(narrow: Callable[[Words], Array], upper: Words, lower: Words) -> Words:
    """Two numbers of 16 bits in a word: PTX names the upper one first."""
    return a.packed(narrow(lower), narrow(upper))


_OPERATIONS: Final = {
    opcode: _Operation(compute, types[0], types[1:])
    for opcode, types, compute in (*_integers(), *_selections(), *_floats())
}

_ENTRY = re.compile(r"\.entry\s+\w+\((.*?)\)(.*?)\n\{(.*?)\n\}", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.\w+[^,\n]*?(\w+)\s*(?:,|$)", re.MULTILINE)
_INSTRUCTION = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_ADDRESS = re.compile(r"\[\s*(%r\d+|%rd\d+|\w+)\s*(?:\+\s*(-?\d+))?\s*\]")
# Triton 3.8 says which shared memory, its own block's, which is also what is meant where nothing is said.
_ACCESS = re.compile(r"(ld|st)\.(global|shared)(?:::cta)?\.(?:v([24])\.)?[bu](8|16|32|64)")
_INTEGER = re.compile(r"(-?(?:0x[0-9a-fA-F]+|\d+))U?")
# What says something to a debugger, a linker or an assembler, and nothing to a thread.
_DIRECTIVES = (".loc", ".file", ".section", ".reg", ".pragma")
_SHARED_BASE = 0  # where the kernel's one array of shared memory, global_smem, begins


def decode(text: str, build: Build) -> Program:
    """The program of the one kernel in a PTX module.

    Raises:
        Undecoded: it holds what no table here has.
    """
    return _Decoder(text, build).program


class _Decoder:
    """Slots are given to registers and constants as they appear."""

    def __init__(self, text: str, build: Build) -> None:
        entry = _ENTRY.search(text)
        if entry is None:
            raise Undecoded("no kernel")
        threads = re.search(r"\.reqntid\s+(\d+)", entry[2])
        if threads is None or int(threads[1]) != build.threads:
            raise Undecoded(f"a kernel of other than {build.threads} threads")
        self._parameters = _PARAMETER.findall(entry[1])
        self._slots: dict[str, int] = {}
        self._registers: list[Array] = []
        self._labels: dict[str, int] = {}
        self._number, self._block = self._slot("%tid.x"), self._slot("%ctaid.x")
        lines = list(self._instructions(entry[3]))
        actions = [self._decoded(line) for line in lines]
        self.program = Program(
            actions, lines, self._registers, build.threads, build.shared_bytes, self._entered
        )

    def _entered(self, threads: Threads, launch: Launch) -> None:
        threads.registers[self._number] = threads.number
        threads.registers[self._block] = threads.program

    def _instructions(self, body: str) -> Iterator[str]:
        """The instructions; labels are kept with the number of the next."""
        count = 0
        for raw in body.splitlines():
            line = raw.partition("//")[0].strip()
            if label := re.fullmatch(r"(\$\w+):", line):
                self._labels[label[1]] = count
            elif line and not line.startswith(_DIRECTIVES):
                if not line.endswith(";"):
                    raise Undecoded(line)
                count += 1
                yield line.removesuffix(";").strip()

    def _slot(self, register: str) -> int:
        """Of a register; what nothing was written to holds poison."""
        if register not in self._slots:
            dtype = _DTYPES[_kind(register)]
            initial = np.ones(1, np.bool_) if dtype is np.bool_ else constant(POISON, dtype)
            self._slots[register] = self._new(initial)
        return self._slots[register]

    def _new(self, initial: Array) -> int:
        self._registers.append(initial)
        return len(self._registers) - 1

    def _source(self, operand: str, kind: str) -> int:
        """The slot of an operand of a type: a register, a special one, or a constant."""
        if operand.startswith("%"):
            if _kind(operand) != kind:
                raise Undecoded(f"operand {operand}")
            return self._slot(operand)
        if operand == "global_smem":
            value = _SHARED_BASE
        elif re.fullmatch(r"0f[0-9A-Fa-f]{8}|0d[0-9A-Fa-f]{16}", operand):
            value = int(operand[2:], 16)
        elif integer := _INTEGER.fullmatch(operand):
            value = int(integer[1], 0)
        else:
            raise Undecoded(f"operand {operand}")
        return self._new(np.array([value != 0]) if kind == "p" else constant(value, _DTYPES[kind]))

    def _decoded(self, line: str) -> Action:
        found = _INSTRUCTION.fullmatch(line)
        if found is None:
            raise Undecoded(line)
        negated, guard, opcode, rest = found.groups()
        operands = _OPERAND.findall(rest)
        mask = None if guard is None else _Mask(self._slot(guard), negated == "!")
        try:
            return self._action(opcode, operands, mask)
        except (Undecoded, ValueError, IndexError) as error:
            raise Undecoded(f"{line}: {error}") from None

    def _action(self, opcode: str, operands: list[str], mask: _Mask | None) -> Action:
        if opcode in ("bra", "bra.uni"):
            return self._branch(operands[0], mask)
        if access := _ACCESS.fullmatch(opcode):
            verb, space, count, bits = access.groups()
            make = {"ld": self._load, "st": self._store}[verb]
            if bits == "8":
                if (verb, space, count) != ("st", "global", None):
                    raise Undecoded("a form of access to a byte")
                return self._store_byte(operands, mask)
            return make(space, int(count or 1), _BY_BITS[bits], operands, mask)
        if opcode in _OPERATIONS and not any(each.startswith("{") for each in operands):
            return self._computation(_OPERATIONS[opcode], operands, mask)
        if mask is not None:
            raise Undecoded("a guard that no table here allows")
        if opcode in ("ret", "exit") and not operands:
            return lambda threads, launch: END
        if opcode == "bar.sync" and operands == ["0"]:
            return lambda threads, launch: BARRIER
        if opcode.startswith("ld.param."):
            return self._parameter(opcode.removeprefix("ld.param."), *operands)
        if opcode in ("mov.b32", "mov.b64"):
            return self._halves(opcode, *operands)
        raise Undecoded(f"opcode {opcode}")

    def _branch(self, label: str, mask: _Mask | None) -> Action:
        if label not in self._labels:
            raise Undecoded(f"label {label}")
        target = self._labels[label]
        if mask is None:
            return lambda threads, launch: target
        return lambda threads, launch: threads.branch(mask.of(threads), target)

    def _computation(self, operation: _Operation, operands: list[str], mask: _Mask | None) -> Action:
        result, *rest = operands
        if len(rest) != len(operation.operands) or _kind(result) != operation.result:
            raise Undecoded("its operands")
        compute, into = operation.compute, self._slot(result)
        slots = [self._source(each, kind) for each, kind in zip(rest, operation.operands, strict=True)]

        def computed(threads: Threads, launch: Launch) -> Outcome:
            registers = threads.registers
            value = compute(*[registers[slot] for slot in slots])
            registers[into] = value if mask is None else np.where(mask.of(threads), value, registers[into])
            return None

        return computed

    def _parameter(self, kind: str, result: str, address: str) -> Action:
        """A parameter, or parts of one, each extended to its register's size: of s32 by its sign."""
        name, offset = _address(address)
        vector, _, kind = kind.rpartition(".")
        results = _listed(result, int(vector.removeprefix("v") or 1))
        number, slots = self._parameters.index(name), [self._slot(each) for each in results]
        size, dtype, signed = int(kind[1:]) // 8, _DTYPES[_kind(results[0])], kind[0] == "s"
        if size > np.dtype(dtype).itemsize:
            raise Undecoded("a register too small")

        def loaded(threads: Threads, launch: Launch) -> Outcome:
            found = launch.parameters[number].tobytes()[offset : offset + size * len(slots)]
            if len(found) != size * len(slots):
                raise Fault("a load beyond a parameter")
            for k, into in enumerate(slots):
                part = found[k * size : (k + 1) * size]
                threads.registers[into] = constant(int.from_bytes(part, "little", signed=signed), dtype)
            return None

        return loaded

    def _place(self, space: str, address: str) -> Callable[[Threads], Array]:
        """The addresses that threads access, in a space."""
        base, offset = _address(address)
        kind = "d" if space == "global" else "w"
        slot, step = self._source(base, kind), constant(offset, _DTYPES[kind])
        return lambda threads: np.broadcast_to(threads.registers[slot] + step, len(threads))

    def _load(self, space: str, count: int, kind: str, operands: list[str], mask: _Mask | None) -> Action:
        results = [self._slot(each) for each in _listed(operands[0], count)]
        dtype, place = _DTYPES[kind], self._place(space, operands[1])
        if space == "shared":
            return self._load_shared(place, dtype, results, mask)

        def load(threads: Threads, launch: Launch) -> Outcome:
            live = None if mask is None else mask.of(threads)
            values = launch.memory.load(place(threads), dtype, count, live)
            for into, value in zip(results, values, strict=True):
                before = threads.registers[into]
                threads.registers[into] = value if live is None else np.where(live, value, before)
            return None

        return load

    @staticmethod
    def _load_shared(
        place: Callable[[Threads], Array], dtype: Any, results: list[int], mask: _Mask | None
    ) -> Action:
        if mask is not None or dtype is u16:
            raise Undecoded("a form of load from shared memory")
        wide = dtype is u64

        def load(threads: Threads, launch: Launch) -> Outcome:
            words = launch.shared.load(
                threads.block, threads.number // 32, place(threads), len(results) * (2 if wide else 1)
            )
            values: list[Array] = list(map(a.joined, words[::2], words[1::2])) if wide else [*words]
            for into, value in zip(results, values, strict=True):
                threads.registers[into] = value
            return None

        return load

    def _store(self, space: str, count: int, kind: str, operands: list[str], mask: _Mask | None) -> Action:
        place = self._place(space, operands[0])
        sources = [self._source(each, kind) for each in _listed(operands[1], count)]

        def store(threads: Threads, launch: Launch) -> Outcome:
            words = [np.broadcast_to(threads.registers[slot], len(threads)) for slot in sources]
            launch.memory.store(place(threads), words, None if mask is None else mask.of(threads))
            return None

        def store_shared(threads: Threads, launch: Launch) -> Outcome:
            words = [threads.registers[slot] for slot in sources]
            if kind == "d":
                words = [half for word in words for half in (a.low(word), a.high(word))]
            launch.shared.store(threads.block, threads.number // 32, place(threads), words)
            return None

        if space == "global":
            return store
        if mask is not None or kind == "h":
            raise Undecoded("a form of store to shared memory")
        return store_shared

    def _store_byte(self, operands: list[str], mask: _Mask | None) -> Action:
        """The lowest of a register of 16 bits."""
        place, (name,) = self._place("global", operands[0]), _listed(operands[1], 1)
        slot = self._source(name, "h")

        def store(threads: Threads, launch: Launch) -> Outcome:
            word = np.broadcast_to(threads.registers[slot].astype(np.uint8), len(threads))
            launch.memory.store(place(threads), [word], None if mask is None else mask.of(threads))
            return None

        return store

    def _halves(self, opcode: str, result: str, source: str) -> Action:
        """A register put together from two of half its size, or taken apart; _ is what nobody wants."""
        whole, half = ("w", "h") if opcode == "mov.b32" else ("d", "w")
        parts = _listed(source if source.startswith("{") else result, 2)
        if source.startswith("{"):
            join = a.packed if half == "h" else a.joined
            slots = [self._source(each, half) for each in parts]
            into = self._slot(result)

            def put_together(threads: Threads, launch: Launch) -> Outcome:
                threads.registers[into] = join(*[threads.registers[slot] for slot in slots])
                return None

            return put_together
        dtype = _DTYPES[half]
        shifts = [0, 8 * np.dtype(dtype).itemsize]
        taken = [(self._slot(part), by) for part, by in zip(parts, shifts, strict=True) if part != "_"]
        origin = self._source(source, whole)

        def take_apart(threads: Threads, launch: Launch) -> Outcome:
            value = threads.registers[origin]
            for into, by in taken:
                threads.registers[into] = (value >> value.dtype.type(by)).astype(dtype)
            return None

        return take_apart


class _Mask(NamedTuple):
    """A guard: the slot of its predicate, and whether it is negated."""

    slot: int
    negated: bool

    def of(self, threads: Threads) -> Array:
        predicate = threads.registers[self.slot]
        return ~predicate if self.negated else predicate


def _kind(register: str) -> str:
    if register in ("%tid.x", "%ctaid.x"):
        return "w"
    found = re.fullmatch(r"%([a-z]+)\d+", register)
    if found is None or found[1] not in _REGISTERS:
        raise Undecoded(f"register {register}")
    return _REGISTERS[found[1]]


def _address(operand: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(operand)
    if found is None:
        raise Undecoded(f"address {operand}")
    return found[1], int(found[2] or 0)


def _listed(operand: str, count: int) -> list[str]:
    """The members of a vector, {%r1, %r2}, or what stands alone."""
    members = operand.strip("{} ").replace(",", " ").split()
    if len(members) != count:
        raise Undecoded(f"operand {operand}")
    return members
