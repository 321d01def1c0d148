"""The protocol: the clock, the memory that rows write to, and what others do on the machine meanwhile."""

import os
import time
import types
from itertools import pairwise

import pytest
import torch

from tritoninit.bench import device


def test_the_ring_exceeds_the_cache_twice(monkeypatch):
    monkeypatch.setattr(device, "last_level_cache", lambda: 2**20)
    memory = device.Memory()
    ring = memory.ring(4000, torch.bfloat16)
    assert sum(x.nbytes for x in ring) > 2 * 2**20
    begins = sorted(x.data_ptr() for x in ring)
    assert all(b - a >= 8000 for a, b in pairwise(begins))
    assert len(memory.ring(2**22, torch.float32)) == 1  # by itself beyond it
    assert len(memory.ring(256, torch.float32)) == device.MOST_BUFFERS
    assert len({x.data_ptr() for x in memory.ring(2**16, torch.float32)}) == 9


def test_the_last_level_cache_is_that_of_all_cores(monkeypatch, tmp_path):
    caches = [("0", "1", "0", "48K"), ("0", "3", "0-1", "32768K"), ("1", "3", "0-1", "32768K")]
    caches += [("2", "3", "2-3", "16384K")]
    for index, (cpu, level, shared, size) in enumerate(caches):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in {"level": level, "shared_cpu_list": shared, "size": size}.items():
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(device, "DEVICE", "cpu")
    monkeypatch.setattr(device, "CPUS", tmp_path)
    assert device.last_level_cache.__wrapped__() == 48 << 20
    monkeypatch.setattr(device, "CPUS", tmp_path / "none")
    assert device.last_level_cache.__wrapped__() == device.UNKNOWN_CACHE


class Pedantic:
    """What pytest-benchmark is told."""

    def pedantic(self, call, *, rounds, iterations):
        self.rounds, self.iterations = rounds, iterations


@pytest.mark.parametrize(
    ("each", "seconds", "rounds", "iterations"),
    [
        (0.125, 1.0, 8, 1),  # as many as fit
        (0.125, 0.25, 3, 1),  # but 3 at least
        (2.0**-14, 10.0, 50, 40),  # calls shorter than a round share one; 50 rounds at most
        (2.0**-14, 0.025, 10, 40),
    ],
)
def test_rounds_follow_from_the_time_a_row_has(monkeypatch, each, seconds, rounds, iterations):
    clock = 0.0

    def call():
        nonlocal clock
        clock += each

    monkeypatch.setattr(device, "timer", lambda: clock)
    benchmark = Pedantic()
    device.measure(benchmark, call, seconds)
    assert (benchmark.rounds, benchmark.iterations) == (rounds, iterations)


def test_the_timer_waits():
    waited = []
    with device.waiting(lambda: waited.append(1)):
        first = device.timer()
    assert waited == [1]
    assert device.timer() >= first
    assert waited == [1]


def test_threads_are_set_for_a_block_only():
    before = torch.get_num_threads()
    with device.using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_neighbours(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(device, "_STAT", stat)
    tick = os.sysconf("SC_CLK_TCK")
    times = iter([(100.0, 1.0), (110.0, 4.0)])  # the clock's, and our own work
    of_process = []
    monkeypatch.setattr(device.time, "monotonic", lambda: of_process[0])
    monkeypatch.setattr(
        device.os, "times", lambda: os.times_result((of_process[1] - 0.75, 0.25, 0.25, 0.25, 0.0))
    )

    def passes(*seconds):
        of_process[:] = next(times)
        stat.write_text("cpu  " + " ".join(str(int(s * tick)) for s in seconds) + " 0 0\ncpu0 1 2 3\n")

    passes(5, 0, 1, 900, 7, 0, 0, 0)
    neighbours = device.Neighbours()
    passes(9, 1, 3, 910, 9, 1, 1, 2)  # 11 seconds of work in 10, 3 of them ours; idle and iowait are none
    assert neighbours.cores() == pytest.approx(0.8)
    stat.unlink()
    assert neighbours.cores() is None
    assert device.Neighbours().cores() is None


def test_one_slow_call_does_not_shorten_the_rounds(monkeypatch):
    clock = calls = 0

    def call():
        nonlocal clock, calls
        calls += 1
        clock += 4 * device.ROUND if calls == 1 else 2.0**-14

    monkeypatch.setattr(device, "timer", lambda: clock)
    benchmark = Pedantic()
    device.measure(benchmark, call, 0.1)
    assert benchmark.iterations == 40  # as without it, see above


def test_calls_come_before_the_calibration():
    times = []
    device.measure(Pedantic(), lambda: times.append(time.perf_counter()), 0.1)
    assert times[-1] - times[0] >= device.WARM_UP


def test_memory_is_what_a_container_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "DEVICE", "cpu")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    free = device.largest.__wrapped__()
    (tmp_path / "memory.max").write_text("max\n")
    assert device.largest.__wrapped__() > free / 2
    (tmp_path / "memory.max").write_text(f"{2**26}\n")
    assert device.largest.__wrapped__() == 2**24


@pytest.mark.parametrize(("hip", "expected"), [("6.4", 256 << 20), (None, 4 << 20)])
def test_the_last_cache_of_an_mi300_is_behind_its_l2(monkeypatch, hip, expected):
    monkeypatch.setattr(device, "DEVICE", "cuda")
    monkeypatch.setattr(torch.version, "hip", hip)
    properties = types.SimpleNamespace(L2_cache_size=4 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    assert device.last_level_cache.__wrapped__() == expected
