"""AMD's loads and stores: scalar loads, stores to global memory and to buffers, and LDS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from tritoninit.emulated.arithmetic import Array, Words, u16, u32, u64
from tritoninit.emulated.engine import Action, Fault, Launch, Outcome, Threads, Undecoded
from tritoninit.emulated.gcn_operands import LANES, Instruction, Reader, pair, put_vector
from tritoninit.emulated.gcn_operations import WAVE


def _active(threads: Threads) -> Array:
    return np.broadcast_to(threads.registers[LANES], (len(threads), WAVE))


def _spread(threads: Threads, value: Array) -> Array:
    """Of each lane of each wave, in one row."""
    return np.broadcast_to(value, (len(threads), WAVE)).ravel()


def _scalar_load(at: Instruction, count: int) -> Action:
    target = at.slot(at.operand(), count, "s")
    base, offset = at.long(), at.long()

    def load(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        addresses = base(registers) + offset(registers)
        for k in range(count):
            (words,) = launch.memory.load(addresses.ravel() + u64(4 * k), u32)
            registers[target + k] = words.reshape(addresses.shape)
        threads.pending += (("scalar", range(target, target + count)),)
        return None

    return load


def _stored(width: str) -> tuple[int, Callable[[Words], Array]]:
    """How many registers a store has, and what of each goes to memory."""
    if width == "byte":
        return 1, lambda word: word.astype(np.uint8)
    if width in ("short", "short_d16_hi"):
        shift = u32(16 if width == "short_d16_hi" else 0)
        return 1, lambda word: (word >> shift).astype(u16)
    return {"dword": 1, "dwordx2": 2, "dwordx4": 4}[width], np.asarray


def _global_store(at: Instruction, width: str) -> Action:
    """To a 64-bit address, or to a scalar one plus an unsigned 32-bit offset; plus 13 bits with a sign."""
    count, part = _stored(width)
    place, data, base = (at.operand() for _ in range(3))
    addresses = at.long(place) if base == "off" else _indexed(at.slot(base, 2, "s"), at.slot(place, 1, "v"))
    offset = u64(at.number("offset", -4096, 4095) & 0xFFFFFFFFFFFFFFFF)
    source = at.slot(data, count, "va")

    def store(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        words = [_spread(threads, part(word)) for word in registers[source : source + count]]
        where = _spread(threads, addresses(registers) + offset)
        launch.memory.store(where, words, _active(threads).ravel())
        return None

    return store


def _indexed(base: int, index: int) -> Reader:
    return lambda registers: pair(base, registers) + registers[index].astype(u64)


def _buffer_store(at: Instruction, width: str) -> Action:
    """Of a raw buffer: a lane whose offset is not below the buffer's size stores nothing (ISA 9.1.5)."""
    count, part = _stored(width)
    source, index = at.slot(at.operand(), count, "va"), at.slot(at.operand(), 1, "v")
    resource = at.slot(at.operand(), 4, "s")
    if at.operand() != "0":
        raise Undecoded("a scalar offset")
    at.require("offen")
    offset = u64(at.number("offset", 0, 4095))

    def store(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        _, high, records, flags = registers[resource : resource + 4]
        if (high >> u32(16)).any() or (flags != 0x27000).any():
            raise Fault("a buffer that is not raw")
        words = [_spread(threads, part(word)) for word in registers[source : source + count]]
        offsets = registers[index].astype(u64) + offset
        inside = offsets < records
        active = _active(threads) & inside
        if (active & (offsets + u64(count * words[0].itemsize) > records)).any():
            raise Fault("a store across a buffer's end")
        where = _spread(threads, pair(resource, registers) + offsets)
        launch.memory.store(where, words, active.ravel())
        return None

    return store


def _lds_store(at: Instruction, parts: int, count: int) -> Action:
    address = at.slot(at.operand(), 1, "v")
    slots = [at.slot(at.operand(), count, "va") for _ in range(parts)]
    places = list(zip(_offsets(at, parts), slots, strict=True))

    def store(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        blocks, waves, addresses = _lds_lanes(threads, registers[address])
        active = _active(threads)
        for offset, slot in places:
            words = [np.broadcast_to(word, active.shape)[active] for word in registers[slot : slot + count]]
            launch.shared.store(blocks, waves, addresses + u32(offset), words)
        threads.pending += (("LDS", range(0)),)
        return None

    return store


def _lds_load(at: Instruction, parts: int, count: int) -> Action:
    target = at.slot(at.operand(), parts * count, "va")
    address = at.slot(at.operand(), 1, "v")
    places = [(offset, target + k * count) for k, offset in enumerate(_offsets(at, parts))]

    def load(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        blocks, waves, addresses = _lds_lanes(threads, registers[address])
        active = _active(threads)
        for offset, slot in places:
            loaded = launch.shared.load(blocks, waves, addresses + u32(offset), count)
            for k, words in enumerate(loaded, slot):
                found = np.zeros(active.shape, u32)
                found[active] = words
                put_vector(k, registers, found)
        threads.pending += (("LDS", range(target, target + parts * count)),)
        return None

    return load


def _offsets(at: Instruction, parts: int) -> list[int]:
    """In bytes; of the two of an "st64" instruction in units of 64 words of 8 bytes."""
    if parts == 1:
        return [at.number("offset", 0, 65535)]
    return [512 * at.number(name, 0, 255) for name in ("offset0", "offset1")]


def _lds_lanes(threads: Threads, addresses: Array) -> tuple[Array, Array, Words]:
    """Of the lanes that are on: block, wave, and address."""
    active = _active(threads)
    blocks, waves = threads.block[:, None], threads.number[:, :1].astype(np.int64) // WAVE
    shape = active.shape
    return (
        np.broadcast_to(blocks, shape)[active],
        np.broadcast_to(waves, shape)[active],
        np.broadcast_to(addresses, shape)[active],
    )


ACCESSES: Final[dict[str, Callable[[Instruction], Action]]] = {
    **{
        f"s_load_dword{suffix}": partial(_scalar_load, count=count)
        for suffix, count in (("", 1), ("x2", 2), ("x4", 4), ("x8", 8), ("x16", 16))
    },
    **{
        f"{kind}_store_{width}": partial(store, width=width)
        for kind, store in (("global", _global_store), ("buffer", _buffer_store))
        for width in ("byte", "short", "short_d16_hi", "dword", "dwordx2", "dwordx4")
    },
    **{
        f"ds_{verb}{number}": partial(access, parts=parts, count=count)
        for verb, access in (("write", _lds_store), ("read", _lds_load))
        for number, parts, count in (("_b32", 1, 1), ("_b64", 1, 2), ("_b128", 1, 4), ("2st64_b64", 2, 2))
    },
}
