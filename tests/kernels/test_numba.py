"""numba's fills equal the reference's, bit for bit: every distribution, dtype, size, start and layout."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from float_domains import angle_numbers, chunks, radius_numbers
from kernel_cases import make_draw

from tritoninit import registry
from tritoninit.kernels import lowering, reference
from tritoninit.kernels.stream import Draw

pytest.importorskip("numba", exc_type=ImportError)
# Kernels that differ from the reference raise ImportError as well, which is no reason to skip.
numba_kernels = importlib.import_module("tritoninit.kernels.numba_kernels")

NAMES = ("constant", "uniform", "normal", "truncated", "central")
DTYPES = ("float32", "float16", "bfloat16")
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def poisoned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    memory = np.empty(shape, TYPES[dtype])
    memory.view(np.uint8)[...] = 0xFF  # a NaN in every dtype
    return memory


def assert_equal_bits(found: np.ndarray, expected: np.ndarray) -> None:
    unsigned = np.uint32 if found.itemsize == 4 else np.uint16
    assert np.array_equal(found.view(unsigned), expected.view(unsigned))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, dtype):
    sizes = (0, 1, 3, 4, 5, 1023, 1024, 1025, 2047, 2048, 2049, 65537)
    starts = (0, 1, 2, 3, 5, 16, 2**34 - 5, 2**63 - 2**20)
    for size, start in product(sizes, starts):
        found, expected = poisoned((size,), dtype), poisoned((size,), dtype)
        draw = make_draw(name, dtype, start, (1,))
        numba_kernels.fill_many([(found, dtype, draw)])
        reference.fill_many([(expected, dtype, draw)])
        assert_equal_bits(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_and_windows(name, dtype):
    for strides in ((129, 1), (1, 37), (1000, 3)):  # the whole, transposed, a window of something wider
        draw = make_draw(name, dtype, 7, strides)
        expected = poisoned((37, 129), dtype)
        reference.fill_many([(expected, dtype, draw)])
        for memory in (
            poisoned((37, 129), dtype),
            poisoned((129, 37), dtype).T,
            poisoned((74, 258), dtype)[::2, 1::2],
            poisoned((37, 129), dtype)[::-1],
        ):
            numba_kernels.fill_many([(memory, dtype, draw)])
            assert_equal_bits(np.ascontiguousarray(memory), expected)


SIZES = (0, 1, 3, 4, 5, 255, 256, 2047, 2048, 2049, 1 << 16)
CONSTANTS = (0.0, -0.0, 1.5, 2.0**-149, -(2.0**-25), math.inf, -math.inf, math.nan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_contiguous_tensors(name, dtype):
    """The way that skips arrays and their chunks, and the memory around what it writes."""
    draws = [make_draw(name, dtype, start, (1,)) for start in (0, 1, 2, 3, 2**63 - 2**20)]
    if name == "constant":
        draws = [Draw("constant", lowering.constant(value, dtype), 0, 0, 0, (1,)) for value in CONSTANTS]
    for draw, size in product(draws, SIZES):
        found, expected = poisoned((size + 16,), dtype), poisoned((size + 16,), dtype)
        part = torch.from_numpy(found)[8 : size + 8]
        assert numba_kernels.fill_contiguous(part.view(getattr(torch, dtype)), draw)
        reference.fill_many([(expected[8 : size + 8], dtype, draw)])
        assert_equal_bits(found, expected)


def test_what_is_no_run_is_left_alone():
    plane = make_draw("normal", "float32", 0, (8, 1))
    for tensor, draw in (
        (torch.full((4, 16), torch.nan)[:, ::2], plane),
        (torch.full((8, 4), torch.nan).T, plane),
        (torch.full((4, 4), torch.nan), plane),  # part of something wider
    ):
        assert not numba_kernels.fill_contiguous(tensor, draw)
        assert tensor.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["uniform", "normal", "truncated"])
def test_threads_share_a_tensor(name, dtype, monkeypatch):
    """As soon as that pays, and from any place in the stream on; each gets a part, the caller the largest."""
    draw = make_draw(name, dtype, 5, (1,))
    wake = numba_kernels.WAKE[False][numba_kernels.DISTRIBUTIONS[draw.distribution]]
    sizes = []

    def counted(chunks, threads):
        parts = list(chunks)
        sizes.append([part.args[1] for part in parts])
        assert len(parts) == threads
        share(reversed(parts), threads)

    share = numba_kernels.chunks.share
    monkeypatch.setattr(numba_kernels.chunks, "share", counted)
    for size, threads, expected in (
        (2 * wake - 1, 2, 1),
        (2 * wake, 2, 2),
        (2 * wake + 1, 8, 2),
        (4 * wake + 2049, 3, 3),
    ):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found, other = poisoned((size + 16,), dtype), poisoned((size + 16,), dtype)
        part = torch.from_numpy(found)[8 : size + 8]
        sizes.clear()
        assert numba_kernels.fill_contiguous(part.view(getattr(torch, dtype)), draw)
        if expected == 1:
            assert not sizes
        else:
            (parts,) = sizes
            assert len(parts) == expected
            assert sum(parts) == size
            assert parts[0] == max(parts)
            assert not any(each % 2048 for each in parts[1:])
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        numba_kernels.run(other[8 : size + 8], dtype, draw, draw.start)
        assert_equal_bits(found, other)


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_threads_share_a_constant(dtype, monkeypatch):
    monkeypatch.setattr(numba_kernels, "WAKE_BYTES", 1 << 14)
    monkeypatch.setattr(numba_kernels, "CHUNK_BYTES", 1 << 16)
    kind = getattr(torch, dtype)
    for threads, size in product((1, 2, 3), ((1 << 15) // kind.itemsize, 70_001, 300_000)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        memory = torch.full((size + 16,), math.nan, dtype=kind)
        draw = Draw("constant", lowering.constant(1.5, dtype), 0, 0, 0, (1,))
        assert numba_kernels.fill_contiguous(memory[8:-8], draw)
        assert (memory[8:-8] == 1.5).all()
        assert memory[:8].isnan().all()
        assert memory[-8:].isnan().all()


def test_threads_and_chunks_change_nothing():
    size = 3 * numba_kernels.CHUNK + 5
    draw = make_draw("normal", "float32", 3, (1,))
    one, two = poisoned((size,), "float32"), poisoned((size,), "float32")
    numba_kernels.fill_many([(one, "float32", draw)], threads=1)
    numba_kernels.fill_many([(two, "float32", draw)], threads=2)
    assert_equal_bits(one, two)


def filled(seed: int) -> bytes:
    out = np.empty(1 << 16, np.float32)
    numba_kernels.fill_many([(out, "float32", Draw("normal", (0.0, 1.0), seed, 0, 0, (1,)))], threads=2)
    return out.tobytes()


def test_concurrent_callers():
    expected = [filled(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(filled, range(8))) == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the fork is what is tested
def test_a_forked_process():
    expected = filled(1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(filled, (1,)).get(60) == expected


@pytest.mark.parametrize(
    "every", [64, pytest.param(1, marks=pytest.mark.slow)], ids=["every-64th", "exhaustive"]
)
def test_every_radius_and_angle(every):
    """The transforms themselves, at every number that words give: 71,303,169 radii, 67,108,865 angles."""
    log, sine = transforms()
    for x in chunks(radius_numbers(), every=every):
        out = np.empty_like(x)
        log(x, out)
        assert_equal_bits(out, reference.minus_two_log(x, 32))
    for f in chunks(angle_numbers(), every=every):
        out = np.empty_like(f)
        sine(f, out)
        assert_equal_bits(out, reference.sine(f))


def transforms():
    from numba import njit

    @njit
    def log(x, out):
        for k in range(x.size):
            out[k] = numba_kernels.minus_two_log(x[k], np.int32(32 << 23))

    @njit
    def sine(f, out):
        for k in range(f.size):
            out[k] = numba_kernels.sine(f[k])

    return log, sine


@pytest.mark.parametrize("kind", ["half", "brain"])
def test_narrowing(kind):
    """Every float32 exponent, at the ends and midpoints of both 16-bit grids, and some between."""
    from numba import njit

    narrow = getattr(numba_kernels, kind)

    @njit
    def convert(x, out):
        for k in range(x.size):
            out[k] = narrow(x[k])

    rng = np.random.Generator(np.random.PCG64(5))
    tops = np.arange(0x7F80, dtype=np.uint32) << 16
    ends = np.array(
        [0, 1, 0xFFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32
    )
    patterns = np.concatenate(
        [(tops[:, None] | ends).ravel(), rng.integers(0, 0x7F800000, 1 << 20, np.uint32)]
    )
    x = np.concatenate([patterns, patterns | np.uint32(1 << 31)]).view(np.float32)
    out = np.empty(x.size, np.uint16)
    convert(x, out)
    with np.errstate(over="ignore"):
        expected = reference.narrow(x, {"half": "float16", "brain": "bfloat16"}[kind]).view(np.uint16)
    assert np.array_equal(out, expected)


def test_importing_tritoninit_imports_no_numba():
    code = "import sys, tritoninit; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_numba_that_cannot_be_imported_is_passed_over(monkeypatch):
    """It raises ImportError beside a NumPy newer than it knows; NumPy then serves the CPU."""

    def refuse():
        raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.5.")

    monkeypatch.setattr(registry, "_load_numba", refuse)
    registry._numba_unavailable.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"Got NumPy 2\.5\. NumPy fills instead"):
            assert registry.resolve("cpu").name == "numpy"
        assert "NumPy 2.5" in {b.name: b for b in registry.backends()}["numba"].unavailable
    finally:
        registry._numba_unavailable.cache_clear()
