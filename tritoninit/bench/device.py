"""Where benchmarks run, and how long a call takes there: the protocol.

Protocol 1:

- A row is the median of rounds, each a number of calls one after another and then, on a GPU, one
  synchronisation, all between two readings of the clock. The calls of a round last ``ROUND`` seconds or more,
  so that neither clock nor synchronisation counts. On a GPU, launches therefore overlap with the kernels
  before them, as they do where a model is initialised.
- Every row gets the same time: as many rounds as fit, 3 at least and 50 at most. Compilation, the first touch
  of memory, the check of what is written and then ``WARM_UP`` seconds of calls come before; the collector of
  garbage is off.
- Every call writes to the next of a ring of buffers that together exceed twice the last-level cache, so that
  what is timed reaches the memory and not only the cache. A ring has at most ``MOST_BUFFERS``: what is too
  small to exceed the cache even so stays in it, as a small tensor does, whose time is the call's.
- All contenders write to the same memory, paged in before, or where a library only returns arrays of its own,
  to as many of those, from a pool that is warm: no page faults, no first allocations. So memset is subject to
  the same cache and the same pages as those that are measured against it.
- Contenders that take a number of threads are given it. Those that use one whatever they are told (PyTorch's
  ``uniform_`` on the CPU, NumPy's Generator) are timed as they are.
- A call returns when the values are written, or on a GPU, queued.
- Of six rounds or more, the interval is told that holds the median with 95 %, if rounds are independent: from
  one of the ordered rounds to another, whatever their distribution.
- What is called cached has a ring of one buffer, a quarter of the last-level cache at most.

A change of any of this is a new number: results of two protocols are not compared.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

PROTOCOL = 1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALL_THREADS = torch.get_num_threads()

ROUND = 2e-3  # seconds; a synchronisation takes some 10 microseconds
WARM_UP = 0.05  # seconds; a GPU that was idle while a check ran raises its clock meanwhile
FEWEST_ROUNDS, MOST_ROUNDS = 3, 50
MOST_BUFFERS = 1024
UNKNOWN_CACHE = 64 << 20  # bytes, where the system does not say: as much as most last-level caches have
_INFINITY_CACHE = 256 << 20  # behind an MI300's L2 (AMD CDNA 3 white paper), and in no property
CPUS = Path("/sys/devices/system/cpu")
_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")

_waits: list[Callable[[], object]] = []


def timer() -> float:
    """Seconds, read once everything that was launched is done."""
    for wait in _waits:
        wait()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def waiting(wait: Callable[[], object]) -> Iterator[None]:
    """In the block, the timer also waits by ``wait``, for work that CUDA does not know of yet."""
    _waits.append(wait)
    try:
        yield
    finally:
        _waits.remove(wait)


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """In the block, PyTorch and the backends use so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(benchmark: Any, call: Callable[[], object], seconds: float) -> None:
    """Time ``call``, which has run before, for about ``seconds``; longer if 3 rounds take longer."""
    each = _warmed(call)
    iterations = 1
    for _ in range(2):  # alone, a call takes longer than among others on a GPU
        iterations = math.ceil(1.2 * ROUND / each)
        if iterations == 1:
            break
        each = min(_seconds(call, iterations) for _ in range(3))
    benchmark.pedantic(call, rounds=rounds_within(seconds, iterations * each), iterations=iterations)


def _warmed(call: Callable[[], object]) -> float:
    """Make calls for ``WARM_UP`` seconds, one at least; the seconds of the fastest: others were disturbed."""
    fastest, end = math.inf, timer() + WARM_UP
    while True:
        fastest = min(fastest, _seconds(call, 1))
        if timer() >= end:
            return fastest


def _seconds(call: Callable[[], object], iterations: int) -> float:
    start = timer()
    for _ in range(iterations):
        call()
    return (timer() - start) / iterations


def rounds_within(seconds: float, each: float) -> int:
    """How many rounds of ``each`` seconds a row of ``seconds`` has.

    >>> [rounds_within(0.5, each) for each in (0.002, 0.05, 3.0)]
    [50, 10, 3]
    """
    return min(MOST_ROUNDS, max(FEWEST_ROUNDS, round(seconds / each)))


@cache
def last_level_cache() -> int:
    """Bytes of the last cache before the memory: a GPU's L2, or a CPU's L3s together, or its L2s."""
    if DEVICE == "cuda":
        l2 = int(torch.cuda.get_device_properties().L2_cache_size)
        return max(l2, _INFINITY_CACHE) if torch.version.hip else l2 or UNKNOWN_CACHE
    caches: dict[tuple[int, str], int] = {}  # by level and the CPUs that share it
    for index in CPUS.glob("cpu[0-9]*/cache/index*"):
        try:
            level, shared, size = (
                (index / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
            )
        except OSError:
            continue
        caches[int(level), shared] = int(size.removesuffix("K")) << 10
    last = max((level for level, _ in caches), default=0)
    return sum(size for (level, _), size in caches.items() if level == last) or UNKNOWN_CACHE


def ring_length(tensor_bytes: int, cache: int) -> int:
    """How many tensors of that size exceed twice a cache, or as many as there may be."""
    return min(MOST_BUFFERS, 2 * cache // tensor_bytes + 1)


def stays_cached(tensor_bytes: int, cache: int) -> bool:
    """Whether a whole ring of such tensors is in the cache, which ``MOST_BUFFERS`` of them do not fill.

    >>> stays_cached(2**12, 2**25), stays_cached(2**20, 2**25)
    (True, False)
    """
    return tensor_bytes == 0 or ring_length(tensor_bytes, cache) * tensor_bytes <= cache


class Memory:
    """Memory that rows write to, one after another: paged in once, and kept."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8, device=DEVICE)

    def ring(self, elements: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Tensors (elements,) that share no memory; their values are whatever was there."""
        size = elements * dtype.itemsize
        length = ring_length(size, last_level_cache())
        if self._bytes.numel() < length * size:
            self.free()
            self._bytes = torch.zeros(length * size, dtype=torch.uint8, device=DEVICE)
            self._bytes.fill_(1)  # zeros may be pages that the system has only promised
        whole = self._bytes[: length * size].view(dtype)
        return list(whole.view(length, elements).unbind())

    def free(self) -> None:
        """Give it back, and what peers keep in pools of their own."""
        self._bytes = torch.empty(0, dtype=torch.uint8, device=DEVICE)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        if "cupy" in sys.modules:
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()


@cache
def largest() -> int:
    """Bytes that one tensor may have: a quarter of what is free, since peers have arrays of their own."""
    if DEVICE == "cuda":
        return torch.cuda.mem_get_info()[0] // 4
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container, by cgroups 2 and 1
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            limits.append(int((_CGROUP / name).read_text()))
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (line for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(available.split()[1]) * 1024)
    return min(limits) // 4


class Neighbours:
    """Watches what others do on this machine's CPUs, from when it is made."""

    def __init__(self) -> None:
        self._before = _cpu_times()

    def cores(self) -> float | None:
        """CPUs that other processes or a hypervisor's other guests kept busy, on average; None if unknown."""
        if self._before is None or (now := _cpu_times()) is None:
            return None
        clock, all_cpus, our_own = (after - before for after, before in zip(now, self._before, strict=True))
        return max(0.0, all_cpus - our_own) / clock if clock > 0 else None


def _cpu_times() -> tuple[float, float, float] | None:
    """Seconds: the clock's, those that CPUs have worked, and those of this process and its ended children.

    Of the first line of proc(5)'s stat: user, nice, system, irq, softirq and steal; idle and iowait are
    no work, guests are part of user.
    """
    try:
        line = _STAT.read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
    work = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return time.monotonic(), work, own.user + own.system + own.children_user + own.children_system


def accelerator() -> dict[str, Any] | None:
    """The GPU as results name it; None on a CPU. Clocks are the highest that the driver names, in MHz."""
    if DEVICE != "cuda":
        return None
    properties = torch.cuda.get_device_properties()
    hip = torch.version.hip
    arch = properties.gcnArchName.partition(":")[0] if hip else f"sm_{properties.major}{properties.minor}"
    clock, memory_clock = _clocks()
    return {
        "name": properties.name,
        "arch": arch,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "clock_mhz": clock,
        "memory_clock_mhz": memory_clock,
        "driver": None if hip else _driver(),
        "cuda": torch.version.cuda,
        "rocm": hip,
    }


def _clocks() -> tuple[float | None, float | None]:
    try:
        from triton.runtime import driver

        found = driver.active.utils.get_device_properties(torch.cuda.current_device())
        return found["sm_clock_rate"] / 1e3, found["mem_clock_rate"] / 1e3
    except Exception:  # noqa: BLE001 - by Triton's version, or that of what it compiles its driver with
        return None, None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else None
