"""What the emulator refuses: accesses out of place, races, barriers that not all reach, endless loops."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tritoninit.emulated.engine import (
    BARRIER,
    END,
    Fault,
    Launch,
    Memory,
    Program,
    Shared,
    Threads,
    run,
)

BASE = 0x1000


def addresses(*offsets: int) -> np.ndarray:
    return np.array([BASE + offset for offset in offsets], np.uint64)


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


@pytest.fixture
def out() -> np.ndarray:
    return np.arange(16, dtype=np.uint32)


@pytest.fixture
def memory(out) -> Memory:
    """16 words to be written, and from 0x2000 on 4 that are only to be read."""
    found = Memory()
    found.add(BASE, out, writable=True)
    found.add(0x2000, np.arange(4, dtype=np.uint32) + 100, writable=False)
    return found


def test_what_is_stored(memory, out):
    memory.store(addresses(0, 16), [words(10, 20), words(11, 21)])
    assert out.tolist() == [10, 11, 2, 3, 20, 21, *range(6, 16)]
    assert memory.stores == {8: 2}


def test_what_is_loaded(memory):
    first, second = memory.load(addresses(0x1000, 0x1008), np.uint32, 2)
    assert first.tolist() == [100, 102]
    assert second.tolist() == [101, 103]


def test_what_is_masked_is_neither_stored_nor_loaded(memory, out):
    mask = np.array([True, False])
    memory.store(addresses(4, 1 << 40), [words(7, 8)], mask)
    assert out.tolist() == [0, 7, *range(2, 16)]
    (found,) = memory.load(addresses(0x1004, 1 << 40), np.uint32, 1, mask)
    assert found.tolist() == [101, 0]


@pytest.mark.parametrize(
    ("offsets", "count", "message"),
    [
        ((2,), 1, "4 does not divide"),
        ((8,), 4, "16 does not divide"),
        ((64,), 1, r"beyond a buffer: 64 \+ 4 of 64"),
        ((-4,), 1, "below every buffer"),
        ((2**64 - BASE - 4,), 1, "beyond a buffer"),  # which is -4
        ((0x1000,), 1, "only to be read"),
        ((0, 0), 1, "two threads store one byte"),
        ((48, 56), 4, "16 does not divide"),
    ],
)
def test_stores_out_of_place(memory, offsets, count, message):
    values = [words(*[1] * len(offsets))] * count
    with pytest.raises(Fault, match=message):
        memory.store(addresses(*offsets), values)


def test_a_byte_is_stored_once(memory):
    memory.store(addresses(16), [words(1)] * 4)
    with pytest.raises(Fault, match="a second time"):
        memory.store(addresses(28), [words(1)])


def test_loads_out_of_place(memory):
    with pytest.raises(Fault, match="beyond a buffer"):
        memory.load(addresses(0x1010), np.uint32)
    with pytest.raises(Fault, match="only to be written"):
        memory.load(addresses(0), np.uint32)


def test_buffers_do_not_overlap(memory):
    memory.add(BASE, np.arange(16, dtype=np.uint32), writable=True)  # the same again
    with pytest.raises(Fault, match="overlap"):
        memory.add(BASE + 60, np.arange(2, dtype=np.uint32), writable=True)


class Block:
    """The shared memory of a block of two warps, of which one thread each takes part."""

    def __init__(self) -> None:
        self.shared = Shared(1, 64)

    def store(self, warp: int, address: int, value: int) -> None:
        self.shared.store(np.zeros(1, int), np.array([warp]), words(address), [words(value)])

    def load(self, *accesses: tuple[int, int]) -> list[int]:
        """By (warp, address), at once."""
        warps, places = map(np.array, zip(*accesses, strict=True))
        (found,) = self.shared.load(np.zeros(len(accesses), int), warps, places.astype(np.uint32), 1)
        return found.tolist()


def test_warps_share_behind_a_barrier():
    block = Block()
    block.store(0, 4, 11)
    assert block.load((0, 4)) == [11]  # its own
    block.shared.pass_barrier()
    assert block.load((0, 4), (1, 4)) == [11, 11]
    block.shared.pass_barrier()
    block.store(1, 4, 12)


def test_a_load_of_what_nobody_stored():
    with pytest.raises(Fault, match="nobody stored"):
        Block().load((0, 4))


def test_a_load_with_no_barrier_after_the_store():
    block = Block()
    block.store(0, 4, 11)
    with pytest.raises(Fault, match="another warp stores"):
        block.load((1, 4))


@pytest.mark.parametrize("readers", [(1,), (0, 1), (1, 0)])
def test_a_store_with_no_barrier_after_the_load(readers):
    block = Block()
    block.store(0, 4, 11)
    block.shared.pass_barrier()
    for reader in readers:
        block.load((reader, 4))
    with pytest.raises(Fault, match="another warp uses"):
        block.store(0, 4, 12)


def test_a_store_with_no_barrier_after_several_loads_at_once():
    block = Block()
    block.store(0, 4, 11)
    block.shared.pass_barrier()
    block.load((0, 4), (1, 4))
    for warp in (0, 1):
        with pytest.raises(Fault, match="another warp uses"):
            block.store(warp, 4, 12)


def test_two_warps_store_one_word():
    block = Block()
    with pytest.raises(Fault, match="two warps store one word"):
        block.shared.store(np.zeros(2, int), np.array([0, 1]), words(4, 4), [words(1, 1)])
    block = Block()
    block.store(0, 4, 1)
    with pytest.raises(Fault, match="another warp uses"):
        block.store(1, 4, 1)


def test_threads_of_a_warp_store_one_word():
    """Which is the last does not matter where all store the same."""
    shared = Shared(1, 64)
    store = partial(shared.store, np.zeros(2, int), np.array([0, 0]), words(4, 4))
    store([words(1, 1)])
    with pytest.raises(Fault, match="two threads store different words"):
        store([words(1, 2)])


@pytest.mark.parametrize(("address", "message"), [(2, "not aligned"), (64, "beyond")])
def test_shared_accesses_out_of_place(address, message):
    with pytest.raises(Fault, match=message):
        Block().store(0, address, 1)


def program(*actions, threads: int = 2) -> Program:
    """One register, of which each thread's holds its number."""

    def enter(threads: Threads, launch: Launch) -> None:
        threads.registers[0] = threads.number

    return Program(list(actions), [""] * len(actions), [words(0)], threads, 0, enter)


def end(threads, launch):
    return END


def test_threads_part_and_both_parts_go_on(memory, out):
    def branch(threads, launch):
        return threads.branch(threads.registers[0] == 1, 3)

    def write(value):
        def store(threads, launch):
            launch.memory.store(addresses(0) + threads.registers[0] * np.uint64(4), [words(value)])

        return store

    found = program(branch, write(100), end, write(200), end)
    assert run(found, Launch(memory, []), range(1)) == 6
    assert out[:2].tolist() == [100, 200]
    assert found.coverage == 1


def test_blocks_know_their_numbers(memory, out):
    def store(threads, launch):
        at = addresses(0) + threads.program.astype(np.uint64) * np.uint64(4)
        launch.memory.store(at, [threads.program + np.uint32(50)])

    run(program(store, end, threads=1), Launch(memory, []), range(2, 5))
    assert out[1:6].tolist() == [1, 52, 53, 54, 5]


def test_a_barrier_that_half_of_a_block_waits_at():
    def branch(threads, launch):
        return threads.branch(threads.registers[0] == 1, 2)

    def wait(threads, launch):
        return BARRIER

    with pytest.raises(Fault, match="different barriers"):
        run(program(branch, wait, wait, end), Launch(Memory(), []), range(1))


@pytest.mark.parametrize("first", [BARRIER, END])
def test_a_barrier_that_half_of_a_block_never_reaches(first):
    """One thread of two ends without it, before the other waits or after."""
    second = END if first == BARRIER else BARRIER
    branch = partial(Threads.branch, target=2)
    found = program(
        lambda threads, launch: branch(threads, threads.registers[0] == 1),
        lambda threads, launch: first,
        lambda threads, launch: second,
        end,
    )
    with pytest.raises(Fault, match="others of their block have ended"):
        run(found, Launch(Memory(), []), range(70))


def test_a_barrier_that_all_threads_reach_by_two_ways():
    found = program(
        lambda threads, launch: threads.branch(threads.registers[0] == 1, 2),
        lambda threads, launch: 2,
        lambda threads, launch: BARRIER,
        end,
    )
    assert run(found, Launch(Memory(), []), range(70)) == 70 * (2 + 1 + 2 + 2)


def test_a_program_that_does_not_end(monkeypatch):
    monkeypatch.setattr("tritoninit.emulated.engine._MOST_STEPS", 1000)
    with pytest.raises(Fault, match="does not end"):
        run(program(lambda threads, launch: 0), Launch(Memory(), []), range(1))


@pytest.mark.parametrize("outcome", [None, 1, BARRIER])
def test_a_program_that_runs_past_its_end(outcome):
    with pytest.raises(Fault, match="past its end"):
        run(program(lambda threads, launch: outcome), Launch(Memory(), []), range(1))
