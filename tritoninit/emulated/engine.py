"""Executes decoded programs: many threads at once, in memory whose every access is checked.

A program is a list of actions, one an instruction. Threads at one place of it run together, each register an
array over them, and part where a branch divides them. All threads of a block go on until each waits at a
barrier or has ended, in no order that a GPU promises; what depends on one is an error, and so is whatever
else hardware leaves undefined or our kernels must not do (:class:`Fault`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from tritoninit.emulated.arithmetic import Array, Longs, Words, u32, u64

POISON: Final = 0xDEADBEEFDEADBEEF  # in registers and memory that nothing was written to
_MOST_STEPS = 2_000_000  # of a thread, which then does not end
_BLOCKS = 64  # that run side by side


class Fault(Exception):
    """The code did what no hardware defines, or what no kernel of ours may do."""


class Undecoded(Exception):
    """An instruction that no decoder here knows; the message names it."""


class Buffer:
    """Bytes at an address; of each, which thread of a store wrote it in this launch, from 1 on, or 0."""

    def __init__(self, address: int, array: Array, *, writable: bool) -> None:
        self.address = address
        self.bytes = array.reshape(-1).view(np.uint8)
        self.writers = np.zeros(self.bytes.size if writable else 0, np.int32)
        self.writable = writable

    @property
    def end(self) -> int:
        return self.address + self.bytes.size


class Memory:
    """A GPU's global memory: buffers at addresses of their own.

    An access lies in one buffer and is aligned to its size; a byte is stored once in a launch; what is to be
    written is not read, since another program may be at it.

    Attributes:
        stores: how many there were, by their bytes.
    """

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._addresses = np.zeros(0, u64)
        self.stores: dict[int, int] = {}

    def add(self, address: int, array: Array, *, writable: bool) -> None:
        """Make a contiguous array's bytes the memory from ``address`` on; once is as good as twice."""
        added = Buffer(address, array, writable=writable)
        for buffer in self._buffers:
            if (buffer.address, buffer.end) == (added.address, added.end):
                return
            if added.address < buffer.end and buffer.address < added.end:
                raise Fault("buffers overlap")
        self._buffers = sorted([*self._buffers, added], key=lambda buffer: buffer.address)
        self._addresses = np.array([buffer.address for buffer in self._buffers], u64)

    def _found(self, addresses: Longs, size: int, what: str) -> Iterator[tuple[Array, Buffer, Array]]:
        """Of accesses of so many bytes: which go to a buffer, the buffer, and at which byte of it."""
        odd = addresses[(addresses & u64(size - 1)) != 0]
        if odd.size:
            raise Fault(f"a {what} of {size} bytes at {int(odd[0]):#x}, which {size} does not divide")
        numbers = np.searchsorted(self._addresses, addresses, side="right").astype(np.int64) - 1
        for number in np.unique(numbers):
            if number < 0:
                raise Fault(f"a {what} below every buffer")
            those = numbers == number
            buffer = self._buffers[number]
            offsets = addresses[those] - u64(buffer.address)
            furthest = int(offsets.max())
            if furthest + size > buffer.bytes.size:
                raise Fault(f"a {what} beyond a buffer: {furthest} + {size} of {buffer.bytes.size}")
            yield those, buffer, offsets.astype(np.int64)

    def store(self, addresses: Longs, words: Sequence[Array], mask: Array | None = None) -> None:
        """Each thread's words, of one dtype, one after another from its address on; where the mask is set."""
        count = np.broadcast(addresses, *words, *(() if mask is None else (mask,))).size
        values = np.stack([np.broadcast_to(word, count) for word in words], axis=1)
        addresses = np.broadcast_to(addresses, count)
        if mask is not None:
            mask = np.broadcast_to(mask, count)
            addresses, values = addresses[mask], values[mask]
        size = values.itemsize * len(words)
        self.stores[size] = self.stores.get(size, 0) + addresses.size
        for those, buffer, offsets in self._found(addresses, size, "store"):
            if not buffer.writable:
                raise Fault("a store to memory that is only to be read")
            at = offsets[:, None] + np.arange(size)
            writers = np.arange(1, len(at) + 1, dtype=np.int32)[:, None]
            if buffer.writers[at].any():
                raise Fault("a byte is stored a second time")
            buffer.writers[at] = writers
            if (buffer.writers[at] != writers).any():
                raise Fault("two threads store one byte")
            buffer.bytes[at] = np.ascontiguousarray(values[those]).view(np.uint8)

    def load(self, addresses: Longs, dtype: Any, count: int = 1, mask: Array | None = None) -> list[Array]:
        """``count`` words of each thread from its address on; 0 where the mask is not set."""
        size = np.dtype(dtype).itemsize * count
        words = np.zeros((addresses.size, count), dtype)
        live = np.arange(addresses.size)
        if mask is not None:
            live = live[np.broadcast_to(mask, addresses.size)]
        for those, buffer, offsets in self._found(addresses[live], size, "load"):
            if buffer.writable:
                raise Fault("a load of memory that is only to be written")
            found = buffer.bytes[offsets[:, None] + np.arange(size)]
            words[live[those]] = found.view(dtype)
        return list(words.T)


class Shared:
    """The shared memory of blocks, and who used it since the last barrier.

    Two warps may not use a word between the same barriers if one of them stores it: which came first would be
    chance. Within a warp instructions are in order, but of threads that store different words at one place,
    any may be the last.
    """

    def __init__(self, blocks: int, size: int) -> None:
        shape = (blocks, size // 4)
        self._words = np.full(shape, POISON & 0xFFFFFFFF, u32)
        self._barriers = 0  # passed
        # Of each word: the warp that stored it last and the one that loaded it last (-1 for several), and
        # after how many barriers; never, if -1.
        self._writer, self._reader = np.zeros(shape, np.int16), np.zeros(shape, np.int16)
        self._written, self._read = np.full(shape, -1), np.full(shape, -1)

    def pass_barrier(self) -> None:
        self._barriers += 1

    def _places(self, addresses: Words, count: int) -> Array:
        if (addresses % u32(4 * count)).any():
            raise Fault("an access to shared memory that is not aligned")
        first = addresses.astype(np.int64) // 4
        if (first + count > self._words.shape[1]).any():
            raise Fault("an access beyond shared memory")
        return first

    def store(self, blocks: Array, warps: Array, addresses: Words, words: Sequence[Words]) -> None:
        first = self._places(addresses, len(words))
        for k, word in enumerate(words):
            at = (blocks, first + k)
            for who, when in ((self._writer, self._written), (self._reader, self._read)):
                if ((when[at] == self._barriers) & (who[at] != warps)).any():
                    raise Fault("a store to shared memory that another warp uses, with no barrier between")
            self._words[at] = word
            self._writer[at] = warps
            self._written[at] = self._barriers
            if (self._writer[at] != warps).any():
                raise Fault("two warps store one word of shared memory")
            if (self._words[at] != word).any():
                raise Fault("two threads store different words at one place of shared memory")

    def load(self, blocks: Array, warps: Array, addresses: Words, count: int) -> list[Words]:
        first = self._places(addresses, count)
        found = []
        for k in range(count):
            at = (blocks, first + k)
            if (self._written[at] < 0).any():
                raise Fault("a load of shared memory that nobody stored")
            if ((self._written[at] == self._barriers) & (self._writer[at] != warps)).any():
                raise Fault("a load of what another warp stores, with no barrier between")
            before = (self._read[at] == self._barriers) & (self._reader[at] != warps)
            self._reader[at] = warps
            self._read[at] = self._barriers
            several = before | (self._reader[at] != warps)
            self._reader[at[0][several], at[1][several]] = -1
            found.append(self._words[at])
        return found


class Threads:
    """Threads, or on AMD waves, that are at one place of the program.

    Attributes:
        registers: by slot, each an array over the threads, or of length one where all have the same.
        number: a thread's number in its block.
        block: its block's number among those that run side by side.
        program: its block's number in the grid, as %ctaid.x.
        at: the place.
        pending: slots of loads that the program has not waited for, where it has to (``gcn``).
    """

    def __init__(self, registers: list[Array], number: Array, block: Array, program: Array, at: int) -> None:
        self.registers = registers
        self.number, self.block, self.program = number, block, program
        self.at = at
        self.steps = 0
        self.pending: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.block)

    def part(self, those: Array, at: int) -> Threads:
        """Those of the threads for which a mask is set, at another place."""
        registers = [r if len(r) == 1 else r[those] for r in self.registers]
        found = Threads(registers, self.number[those], self.block[those], self.program[those], at)
        found.pending, found.steps = self.pending, self.steps
        return found

    def branch(self, taken: Array, target: int) -> Outcome:
        """Where threads go on that jump to ``target`` if ``taken``."""
        taken = np.broadcast_to(taken, len(self))
        if taken.all():
            return target
        if not taken.any():
            return None
        return [self.part(~taken, self.at + 1), self.part(taken, target)]


@dataclass
class Launch:
    """What the instructions of one launch share.

    Attributes:
        memory: global memory.
        parameters: the kernel's, each an array of one number.
        shared: the shared memory of the blocks that run now.
    """

    memory: Memory
    parameters: Sequence[Array]
    shared: Shared = field(default_factory=lambda: Shared(0, 0))

    def packed_parameters(self) -> bytes:
        """The parameters as memory holds them, each aligned to its size."""
        packed = bytearray()
        for value in self.parameters:
            packed += bytes(-len(packed) % value.itemsize) + value.tobytes()
        return bytes(packed) + bytes(-len(packed) % 8)


# What an instruction does to threads, and where they go on: at the next (None), at another place, in parts,
# or not, because they end or wait for the others of their block.
END: Final = "end"
BARRIER: Final = "barrier"
Outcome = int | str | list[Threads] | None
Action = Callable[[Threads, Launch], Outcome]


class Approximation(NamedTuple):
    """How far those instructions are off that hardware only approximates.

    Attributes:
        ulps: at most so many units of the last place, either way.
        seed: of the numbers that say how many.
    """

    ulps: int = 0
    seed: int = 0


class Build(NamedTuple):
    """What a decoder is told beside a kernel's code.

    Attributes:
        arch: the target, as "sm_90".
        threads: of a block.
        shared_bytes: of a block.
        approximation: of instructions that hardware only approximates.
        constants: that the assembler has put beside the code, of NVIDIA's constant bank 2.
    """

    arch: str
    threads: int
    shared_bytes: int
    approximation: Approximation = Approximation()
    constants: bytes = b""


@dataclass
class Program:
    """One kernel, decoded.

    Attributes:
        actions: one an instruction.
        texts: the instructions as they were written, of the same length.
        registers: what each slot holds at first.
        threads: of a block.
        shared_bytes: of a block.
        enter: puts into the registers what hardware does at the start.
        executed: the places that any thread has been at.
    """

    actions: list[Action]
    texts: list[str]
    registers: list[Array]
    threads: int
    shared_bytes: int
    enter: Callable[[Threads, Launch], None] = lambda threads, launch: None
    executed: set[int] = field(default_factory=set)

    @property
    def coverage(self) -> float:
        """The part of the instructions that were executed."""
        return len(self.executed) / len(self.actions)


def run(program: Program, launch: Launch, programs: range) -> int:
    """Execute blocks of the grid.

    Args:
        program: what they execute; its ``executed`` grows.
        launch: what they share.
        programs: which blocks of the grid, by their numbers.

    Returns:
        How many instructions threads (on AMD waves) have executed.

    Raises:
        Fault: the code did something wrong.
    """
    steps = 0
    with np.errstate(all="ignore"):
        for first in range(programs.start, programs.stop, _BLOCKS):
            steps += _run_blocks(program, launch, range(first, min(first + _BLOCKS, programs.stop)))
    return steps


def _run_blocks(program: Program, launch: Launch, numbers: range) -> int:
    launch.shared = Shared(len(numbers), program.shared_bytes)
    number = np.tile(np.arange(program.threads, dtype=u32), len(numbers))
    block = np.repeat(np.arange(len(numbers)), program.threads)
    first = Threads(list(program.registers), number, block, (block + numbers.start).astype(u32), 0)
    program.enter(first, launch)
    of_each = len(first) // len(numbers)
    running, waiting = [first], []
    steps = 0
    while running:
        threads = running.pop()
        outcome, executed = _run_until_they_part(program, launch, threads)
        steps += executed * len(threads)
        if outcome == BARRIER:
            threads.at += 1
            waiting.append(threads)
        elif isinstance(outcome, list):
            running += outcome
        if not running and waiting:
            _check_barrier(waiting, of_each)
            launch.shared.pass_barrier()
            running, waiting = waiting, []
    return steps


def _run_until_they_part(program: Program, launch: Launch, threads: Threads) -> tuple[Outcome, int]:
    """Execute up to where threads end, wait or part; and how many instructions that took."""
    actions, executed = program.actions, program.executed
    before = threads.steps
    while True:
        if threads.at >= len(actions):
            raise Fault("the program runs past its end")
        executed.add(threads.at)
        outcome = actions[threads.at](threads, launch)
        threads.steps += 1
        if outcome is None:
            threads.at += 1
        elif isinstance(outcome, int):
            threads.at = outcome
        else:
            return outcome, threads.steps - before
        if threads.steps > _MOST_STEPS:
            raise Fault("the program does not end")


def _check_barrier(waiting: Sequence[Threads], of_each: int) -> None:
    """Barriers are for all threads of a block, ``of_each`` of them, at once."""
    places: dict[int, int] = {}
    for threads in waiting:
        for block in np.unique(threads.block).tolist():
            if places.setdefault(block, threads.at) != threads.at:
                raise Fault("threads of a block wait at different barriers")
    arrived = np.bincount(np.concatenate([threads.block for threads in waiting]))
    if ((arrived != 0) & (arrived != of_each)).any():
        raise Fault("threads wait at a barrier, and others of their block have ended")


def constant(value: int, dtype: Any = u32) -> Array:
    """A register of one number for all threads; negative ones as two's complement."""
    return np.array([value & ((1 << 8 * np.dtype(dtype).itemsize) - 1)], dtype)
