"""Stochastic rounding: to which neighbour, by which words, right in the mean; and the CPU backends' bits."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from cut_cases import CUTS
from independent_philox import words as philox_words
from kernel_cases import LAYOUTS, SEED, STARTS, STREAM, WINDOWS, array_view, contiguous, poisoned
from rounding_cases import DTYPES, FILLS, stochastic_draw

from tritoninit.fills import Uniform
from tritoninit.kernels import doubles, lowering, reference, stream
from tritoninit.kernels.stream import GRIDS, row_major_strides

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_fill = pytest.mark.parametrize("name", FILLS)
_MEMORY = {"float16": np.float16, "bfloat16": np.uint16}


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def numbers(dtype: str) -> np.ndarray:
    """All finite magnitudes of a format, in order."""
    of_torch = getattr(torch, dtype)
    patterns = torch.arange(2 ** (8 * of_torch.itemsize - 1))
    patterns = patterns.to({1: torch.uint8, 2: torch.int16}[of_torch.itemsize])
    values = patterns.view(of_torch).double().numpy()
    return values[np.isfinite(values)]


def some(dtype: str, seed: int, count: int = 4000) -> np.ndarray:
    """float32 numbers of all sizes that the format reaches, and of those beneath its least."""
    grid = numbers(dtype)
    sizes = random(seed).uniform(np.log2(grid[1]) - 30, np.log2(grid[-1]), count)
    sizes = np.concatenate([sizes, np.log2(grid[1]) + random(seed + 1).uniform(-1, 12, count)])
    signs = random(seed + 2).choice([-1.0, 1.0], sizes.size)
    return np.clip(signs * 2.0**sizes, -grid[-1], grid[-1]).astype(np.float32)


def neighbours(x: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The magnitudes of the format below, or equal, and above."""
    grid = numbers(dtype)
    place = np.searchsorted(grid, np.abs(x).astype(np.float64), side="right") - 1
    return grid[place], grid[np.minimum(place + 1, grid.size - 1)]


@every_dtype
def test_the_upper_one_where_the_share_is_less_than_the_way_to_x(dtype):
    """In float64, in which all of it is exact: of |x|, by the upper 24 bits of the word's complement."""
    x = some(dtype, 1)
    word = random(4).integers(0, 2**32, x.size, np.uint32)
    low, high = neighbours(x, dtype)
    up = (~word >> np.uint32(8)) * 2.0**-24 * (high - low) < np.abs(x.astype(np.float64)) - low
    expected = np.copysign(np.where(up, high, low), x)
    found = reference.stochastic(x, word, GRIDS[dtype])
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert np.array_equal(np.signbit(found), np.signbit(x))
    assert 0.3 < up.mean() < 0.7


@every_dtype
def test_what_the_format_has_stays(dtype):
    grid = numbers(dtype).astype(np.float32)
    x = np.concatenate([grid, -grid])
    for word in (0, 1, 2**31, 2**32 - 1):
        found = reference.stochastic(x, np.full(x.size, word, np.uint32), GRIDS[dtype])
        assert np.array_equal(found.view(np.uint32), x.view(np.uint32))


@every_dtype
def test_the_mean_over_all_words_is_x(dtype):
    """Exactly, wherever float32 has at most 24 bits more: each share's upper bits once.

    Below, the upper neighbour comes with a chance that is too large by less than 2**-24.
    """
    grid = GRIDS[dtype]
    shares = np.arange(2**12, dtype=np.uint32)
    for x in some(dtype, 7, 12):
        low, high = (float(each[0]) for each in neighbours(np.array([x]), dtype))
        gap, rest = high - low, abs(float(x)) - low
        # Where the ups end, by a search; and all of the way up to there, and beyond, is one or the other.
        values = np.abs(reference.stochastic(np.full(2**12, x), ~(shares << np.uint32(20)), grid))
        ups = values > low
        assert not (ups[1:] & ~ups[:-1]).any()
        first, last = 0, 2**24
        while first < last:
            middle = (first + last) // 2
            word = np.array([~np.uint32(middle << 8)], np.uint32)
            if abs(float(reference.stochastic(np.array([x]), word, grid)[0])) > low:
                first = middle + 1
            else:
                last = middle
        chance = first / 2**24
        share = rest / gap if gap else 0.0
        assert 0 <= chance - share < 2.0**-24
        if abs(x) >= np.uint32(grid.smallest_normal).view(np.float32) or dtype == "bfloat16":
            assert chance == share


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_word_that_counts_once(dtype):
    grid = GRIDS[dtype]
    words = np.arange(2**grid.dropped, dtype=np.uint32) << np.uint32(32 - grid.dropped)
    for x in random(3).normal(0.1, 2.0, 10).astype(np.float32):
        found = reference.stochastic(np.full(words.size, x), words, grid).astype(np.float64)
        assert found.sum() == float(x) * words.size


def single(draw: stream.Draw, size: int) -> np.ndarray:
    """The float32 values of a draw before they are rounded."""
    values = np.empty(size, np.float32)
    reference.run(values, "float32", draw._replace(stochastic=False), draw.start)
    return values


def rounded(draw: stream.Draw, dtype: str, size: int) -> np.ndarray:
    values = np.empty(size, _MEMORY.get(dtype, np.uint8))
    reference.fill_many([(values, dtype, draw)])
    patterns = torch.from_numpy(values.view(np.uint8 if values.itemsize == 1 else np.int16))
    return patterns.view(getattr(torch, dtype)).double().numpy()


COUNT = 1 << 18


@every_fill
@every_dtype
def test_the_mean_of_a_fill(name, dtype):
    """Within 5 standard errors of the float32 values': the sum over elements of gap**2 f (1 - f) is known.

    Values are those kept between floor and cap, and each is one of its two neighbours.
    """
    draw = stochastic_draw(name, dtype)
    x, found = single(draw, COUNT), rounded(draw, dtype, COUNT)
    low, high = neighbours(x, dtype)
    size = np.abs(found)
    assert ((size == low) | (size == high)).all()
    gap = high - low
    f = np.divide(np.abs(x) - low, gap, out=np.zeros(COUNT), where=gap > 0)
    error = np.sqrt((gap**2 * f * (1 - f)).sum())
    assert abs((found - x).sum()) <= 5 * error + COUNT * 2.0**-24 * gap.max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_roundings_go_with_nothing_else(dtype):
    """Neither with the value, its word, the word of its own block's others, nor with the next rounding."""
    draw = stochastic_draw("normal", dtype)
    x, found = single(draw, COUNT), rounded(draw, dtype, COUNT)
    low, high = neighbours(x, dtype)
    gap = high - low
    f = (np.abs(x) - low) / np.where(gap > 0, gap, 1)
    inside = (f > 0) & (f < 1)
    residual = np.where(inside, ((np.abs(found) > low) - f) / np.sqrt(np.where(inside, f * (1 - f), 1)), 0.0)
    words = reference.words(draw.seed, draw.stream, np.arange(COUNT // 4, dtype=np.uint64)).astype(np.float64)
    flat = words.T.reshape(-1)
    others = [x, f, flat, np.roll(flat, 1), np.roll(flat, 2), np.roll(residual, 1), np.roll(residual, 4)]
    for other in others:
        assert abs(np.corrcoef(residual, other)[0, 1]) < 5 / np.sqrt(COUNT)


def test_a_word_is_that_of_a_block_which_no_element_has():
    """That of i is the word i % 4 of the block i // 4 + 2**63; no dtype's values have such blocks."""
    assert stream.ROUNDING > (2**64 - 1) // 4 + doubles.LOW_HALVES
    for start in STARTS:
        draw = stochastic_draw("small", "float16", start)
        x = single(draw, 9)
        words = [philox_words(SEED, STREAM, (start + k) // 4 + 2**63)[(start + k) % 4] for k in range(9)]
        expected = reference.stochastic(x, np.array(words, np.uint32), GRIDS["float16"])
        assert np.array_equal(rounded(draw, "float16", 9), expected)


@every_dtype
def test_bounds(dtype):
    """A uniform's upper one never comes; nothing lies beyond those of either distribution."""
    for low, high in ((0.0, 1.0), (-0.3, 0.7), (-0.0078125, 0.0078125), (0.1, 0.15), (-0.01, 0.0)):
        fill = Uniform(low, high).stochastically()
        for seed in range(3):
            draw = stream.Draw("uniform", fill.parameters(dtype), seed, 0, 0, (1,), True)
            found = rounded(draw, dtype, 1 << 14)
            assert found.min() >= low
            assert found.max() < high
    for name in ("truncated", "central"):
        fill = FILLS[name]
        found = rounded(stochastic_draw(name, dtype), dtype, COUNT)
        assert fill.a <= found.min() <= found.max() <= fill.b


@every_dtype
def test_floor_and_cap_are_the_format_s(dtype):
    for fill in (Uniform(-0.3, 0.7), Uniform(0.0, 1.0), Uniform(1.0, 1.0), FILLS["truncated"]):
        nearest, found = fill.parameters(dtype), fill.stochastically().parameters(dtype)
        assert found[:-2] == nearest[:-2]
        for before, after in zip(nearest[-2:], found[-2:], strict=True):
            assert after == lowering._rounded(before, dtype)
    assert fill.stochastically().parameters("float32") == fill.parameters("float32")


def memories(fill_many, layout, dtype, draw):
    memory = poisoned(layout, dtype)
    array = array_view(memory.view(_MEMORY.get(dtype, np.uint8)), layout)
    fill_many([(array, dtype, draw)], threads=2)
    return memory


@every_dtype
def test_numba_writes_the_reference_s_bits(dtype):
    numba_kernels = pytest.importorskip("tritoninit.kernels.numba_kernels", exc_type=ImportError)
    cases = [(contiguous(5001), start, (1,)) for start in STARTS]
    cases += [(layout, 2**34 - 5, row_major_strides(layout.shape)) for layout in LAYOUTS]
    cases += [(contiguous(*w.shape), w.start, row_major_strides(w.global_shape)) for w in WINDOWS]
    cases += [(cut.layout, cut.start, cut.strides) for cut in CUTS]
    names = list(FILLS) * len(cases)
    for (layout, start, strides), name in zip(cases, names, strict=False):
        draw = stochastic_draw(name, dtype, start, strides)
        expected = memories(reference.fill_many, layout, dtype, draw)
        found = memories(numba_kernels.fill_many, layout, dtype, draw)
        assert np.array_equal(expected, found), (layout, name)


def test_bits_are_pinned():
    """Other bits are another stream version, as of all that the stream has."""
    golden = json.loads(Path(__file__).with_name("golden.json").read_text())
    for name, dtype in product(FILLS, DTYPES):
        digest = hashlib.blake2b(digest_size=16)
        for start in (0, 2**34 - 5):
            values = np.empty(4096, _MEMORY.get(dtype, np.uint8))
            reference.fill_many([(values, dtype, stochastic_draw(name, dtype, start))])
            digest.update(values.view(f"u{values.itemsize}").astype(f"<u{values.itemsize}").tobytes())
        assert digest.hexdigest() == golden["stochastic"][name][dtype], (name, dtype)
