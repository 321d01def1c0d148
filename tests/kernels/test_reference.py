"""The NumPy reference as a program: which bits it writes, where, in what memory, on how many threads."""

from __future__ import annotations

import hashlib
import json
import math
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from independent_philox import words
from kernel_cases import (
    DTYPES,
    FILLS,
    LAYOUTS,
    SEED,
    STARTS,
    STREAM,
    WINDOWS,
    array_view,
    contiguous,
    make_draw,
    permuted,
    reference_bits,
)

from tritoninit.kernels import chunks, reference, stream
from tritoninit.kernels.stream import Draw, row_major_strides

MEMORY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
RANDOM_FILLS = [name for name in FILLS if name != "constant"]
every_fill = pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in FILLS for dtype in DTYPES])
every_random_fill = pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in RANDOM_FILLS for dtype in DTYPES]
)


def filled(shape: int | tuple[int, ...], dtype: str, draw: Draw, threads: int = 1) -> Any:
    """A new array's bits."""
    out = np.empty(shape, MEMORY[dtype])
    reference.fill_many([(out, dtype, draw)], threads)
    return out.view(np.uint32 if dtype == "float32" else np.uint16)


# Four places of the stream, the first and the last among them.
GOLDEN_PLACES = (
    (0, 0, 0),
    (1, 2, 3),
    (SEED, STREAM, 2**34 - 5),
    (2**64 - 1, 2**64 - 1, 2**63 - 2**20),
)


@pytest.mark.parametrize("dtype", [*stream.FLOAT8, "float64"])
@pytest.mark.parametrize("name", FILLS)
def test_golden_bits_of_other_dtypes(name, dtype):
    golden = json.loads(Path(__file__).with_name("golden.json").read_text())
    digest = hashlib.blake2b(digest_size=16)
    distribution, parameters = FILLS[name]
    for seed, stream_, start in GOLDEN_PLACES:
        out = np.empty(4096, "<f8" if dtype == "float64" else np.uint8)
        draw = Draw(distribution, parameters(dtype), seed, stream_, start, (1,))
        reference.fill_many([(out, dtype, draw)])
        digest.update(out.tobytes())
    assert digest.hexdigest() == golden[name][dtype]


@every_fill
def test_golden_bits(name, dtype):
    """golden.json has a hash of 4,096 values from each place. Other bits are another stream version."""
    golden = json.loads(Path(__file__).with_name("golden.json").read_text())
    digest = hashlib.blake2b(digest_size=16)
    distribution, parameters = FILLS[name]
    for seed, stream_, start in GOLDEN_PLACES:
        bits = filled(4096, dtype, Draw(distribution, parameters(dtype), seed, stream_, start, (1,)))
        digest.update(bits.astype(bits.dtype.newbyteorder("<")).tobytes())
    assert golden["stream_version"] == stream.STREAM_VERSION
    assert digest.hexdigest() == golden[name][dtype], (
        "a bit of the stream changed. Was that meant? Then bump STREAM_VERSION, write this digest into "
        "golden.json and say so in the changelog"
    )


def element(dtype: str, draw: Draw, index: int) -> int:
    """One element's bits, from the words of its block and nothing else."""
    lanes = np.array([words(draw.seed, draw.stream, index // 4)], np.uint32).T
    values = getattr(reference, draw.distribution)(lanes, *draw.parameters)[index % 4]
    return int(reference.narrow(values, dtype).view(np.uint32 if dtype == "float32" else np.uint16)[0])


@every_random_fill
def test_an_element_depends_on_its_index_alone(name, dtype):
    for start in STARTS:
        draw = make_draw(name, dtype, start, (1,))
        for size in (1, 2, 3, 4, 5, 30):
            assert filled(size, dtype, draw).tolist() == [
                element(dtype, draw, start + k) for k in range(size)
            ]


@every_random_fill
def test_an_element_at_a_chunk_s_edge(name, dtype):
    """Chunks end in the middle of blocks if the run does not start with one."""
    for start in (0, 3):
        draw = make_draw(name, dtype, start, (1,))
        found = filled(2 * reference.CHUNK + 9, dtype, draw)
        for edge in (reference.CHUNK, 2 * reference.CHUNK, len(found) - 5):
            for k in range(edge - 5, edge + 5):
                assert found[k] == element(dtype, draw, start + k), (start, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_of_many_chunks(dtype):
    draw = make_draw("constant", dtype, 0, (1,))
    many, one = (np.zeros(size, MEMORY[dtype]) for size in (3 * reference.CHUNK + 9, 1))
    reference.fill_many([(many, dtype, draw), (one, dtype, draw)])
    assert one.any()
    assert (many == one).all()


def test_strides_of_the_stream_in_any_order():
    """Which dimension of a target goes through the stream fastest is the draw's affair."""
    down = filled((5, 3), "float32", make_draw("normal", "float32", 7, (1, 5)))
    along = filled((3, 5), "float32", make_draw("normal", "float32", 7, (5, 1)))
    assert (down == along.T).all()


@every_fill
def test_layouts(name, dtype):
    """Elements follow their logical order, and nothing beside them in memory is touched."""
    for layout in LAYOUTS:
        plain = contiguous(*layout.shape)
        draw = make_draw(name, dtype, 2**34 - 5, row_major_strides(layout.shape))
        found, expected = (reference_bits(which, dtype, draw) for which in (layout, plain))
        assert (array_view(found, layout) == array_view(expected, plain)).all(), layout


@every_random_fill
def test_windows(name, dtype):
    """An element of a window is the global tensor's at that place, though that tensor may fit no memory."""
    for window in WINDOWS:
        strides = row_major_strides(window.global_shape)
        draw = make_draw(name, dtype, window.start, strides)
        found = filled(window.shape, dtype, draw)
        for place in {
            (0,) * found.ndim,
            tuple(n - 1 for n in found.shape),
            tuple(n // 2 for n in found.shape),
        }:
            index = window.start + sum(k * stride for k, stride in zip(place, strides, strict=True))
            assert found[place] == element(dtype, draw, index), (window, place)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...], tuple[int, ...]]:
    """A global shape, a window of it, and an order of the window's dimensions in memory."""
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=5)))
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return shape, tuple(slice(*pair) for pair in ends), tuple(draw(st.permutations(range(len(shape)))))


@given(
    window=windows(),
    name=st.sampled_from(RANDOM_FILLS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**64 - 1),
    stream_=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**63 - 2**20),
)
def test_any_window_of_any_tensor(window, name, dtype, seed, stream_, start):
    """Any window, in any memory order, of a fill of any tensor is that slice of the whole fill."""
    shape, slices, order = window
    strides = row_major_strides(shape)
    draw = make_draw(name, dtype, start, strides)._replace(seed=seed, stream=stream_)
    expected = filled(shape, dtype, draw)[slices]
    offset = sum(part.start * stride for part, stride in zip(slices, strides, strict=True))
    inverse = tuple(int(k) for k in np.argsort(order))
    layout = permuted("memory order", tuple(expected.shape[k] for k in order), inverse)
    memory = reference_bits(layout, dtype, draw._replace(start=start + offset))
    assert (array_view(memory, layout) == expected).all()


@given(
    cuts=st.lists(st.integers(0, 3000), max_size=6),
    name=st.sampled_from(RANDOM_FILLS),
    dtype=st.sampled_from(DTYPES),
    start=st.integers(0, 2**63 - 2**20),
)
def test_any_cut_of_a_run(cuts, name, dtype, start):
    """However a run is cut into fills, it holds the same."""
    draw = make_draw(name, dtype, start, (1,))
    out = np.empty(3000, MEMORY[dtype])
    for begin, end in pairwise([0, *sorted(cuts), 3000]):
        reference.fill_many([(out[begin:end], dtype, draw._replace(start=start + begin))])
    assert (out.view(np.uint32 if dtype == "float32" else np.uint16) == filled(3000, dtype, draw)).all()


@every_random_fill
def test_threads_change_nothing(name, dtype):
    size = 3 * reference.CHUNK + 3
    run = make_draw(name, dtype, 1, (1,))
    assert (filled(size, dtype, run, threads=2) == filled(size, dtype, run)).all()
    shape = (1000, reference.CHUNK // 1500)
    scattered = make_draw(name, dtype, 1, (2 * shape[1], 2))
    assert (filled(shape, dtype, scattered, threads=3) == filled(shape, dtype, scattered)).all()
    transposed = [np.empty((shape[1], 2000), MEMORY[dtype]).T for _ in range(2)]
    for threads, target in enumerate(transposed, start=1):
        reference.fill_many([(target, dtype, make_draw(name, dtype, 1, (shape[1], 1)))], threads)
    assert (transposed[0] == transposed[1]).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "scattered"), [("uniform", False), ("normal", False), ("truncated", False), ("uniform", True)]
)
def test_scratch_memory_is_bounded(name, scattered, threads):
    """Filling 64 MiB takes, measured, 7 (uniform) to 12.1 MiB (truncated normal) of scratch a thread."""
    out = np.empty((1 << 14, 1 << 10), np.float32)
    draw = make_draw(name, "float32", 1, (1 << 11, 1) if scattered else (1 << 10, 1))
    reference.fill_many([(out[:1], "float32", draw)])  # what is allocated once, is
    tracemalloc.start()
    reference.fill_many([(out, "float32", draw)], threads)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (13 << 20) * threads


@pytest.mark.parametrize("threads", [1, 2])
def test_scratch_memory_does_not_grow_with_the_tensor(threads):
    """10,000 chunks that draw nothing cost no more memory than one."""
    nothing = chunks.Drawer(lambda *_: None, lambda *_: None, lambda *_: None, 16)
    out, draw = np.empty(160_000, np.float32), make_draw("normal", "float32", 0, (1,))
    tracemalloc.start()
    chunks.fill(nothing, [(out, "float32", draw)], threads)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_read_only_array_raises_and_stays():
    out = np.zeros(10, np.float32)
    out.flags.writeable = False
    for name in FILLS:
        with pytest.raises(ValueError, match="read-only"):
            reference.fill_many([(out, "float32", make_draw(name, "float32", 0, (1,)))])
    assert not out.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_rounds_as_pytorch_does(dtype):
    """2**20 random float32 numbers of all exponents, every 16-bit number, and those halfway between two."""
    rng = np.random.Generator(np.random.PCG64(3))
    random = rng.integers(0, 2**32, 1 << 20, np.uint32).view(np.float32)
    own = torch.arange(2**16).to(torch.int32).to(torch.int16).view(getattr(torch, dtype)).float().numpy()
    own = own[np.isfinite(own)]
    own.sort()
    halfway = (own[1:].astype(np.float64) + own[:-1]) / 2
    numbers = np.concatenate([random[np.isfinite(random)], own, halfway.astype(np.float32)])
    numbers = np.concatenate([numbers, np.array([np.inf, -np.inf], np.float32)])
    expected = torch.from_numpy(numbers).to(getattr(torch, dtype)).view(torch.int16).numpy().view(np.uint16)
    with np.errstate(over="ignore"):  # beyond 65519 float16 is infinite
        found = reference.narrow(numbers, dtype).view(np.uint16)
    assert (found == expected).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-8, 65520.0, -1e38, math.inf, -math.inf])
def test_constants_round_as_pytorch_does(value, dtype):
    expected = torch.full((3,), value, dtype=torch.float32).to(getattr(torch, dtype))
    found = filled(3, dtype, Draw("constant", (value,), 0, 0, 0, (1,)))
    signed = np.int32 if dtype == "float32" else np.int16
    assert (
        found.view(signed) == expected.view(torch.int32 if dtype == "float32" else torch.int16).numpy()
    ).all()


def test_square_roots_meet_no_subnormal():
    """-2 ln u is 0 at 1 alone, and 2**-23 next to it: a square root that flushes subnormals draws the same.

    Those of Triton 3.5 do. The quantile's take nothing below QUANTILE_SPLIT.
    """
    half, one = np.array([2**31, 2**32], np.float32).view(np.uint32)
    found = reference.minus_two_log(np.arange(half, one + 1, dtype=np.uint32).view(np.float32), 32)
    assert found[-1] == 0
    assert found[:-1].min() == np.float32(2**-23)
    assert stream.QUANTILE_SPLIT > 1
