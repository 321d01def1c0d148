"""Rectangles whose last dimension is cut, on the CPU: the bits of the whole, from few blocks."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cut_cases import CUTS, Cut, blocks_needed
from cut_strategies import cuts
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import DTYPES, array_view, assert_same_bits, poisoned, reference_bits

from tritoninit.kernels import chunks, reference

RANDOM_FILLS = ("uniform", "normal", "truncated", "central")
MEMORY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def drawers() -> dict[str, Any]:
    found = {"numpy": reference}
    try:
        import numba  # noqa: F401
    except ImportError:
        return found
    # Kernels that differ from the reference raise ImportError as well, which is no reason to skip.
    return {**found, "numba": importlib.import_module("tritoninit.kernels.numba_kernels")}


BACKENDS = drawers()
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def whole_bits(cut: Cut, name: str, dtype: str) -> np.ndarray:
    """What memory holds, each row drawn by itself as a run."""
    memory = poisoned(cut.layout, dtype)
    draw = cut.draw(name, dtype)
    view = array_view(memory.view(MEMORY[dtype]), cut.layout)
    for at in np.ndindex(cut.layout.shape[:-1]):
        row = np.empty(cut.layout.shape[-1], MEMORY[dtype])
        place = draw.start + sum(k * stride for k, stride in zip(at, draw.strides, strict=False))
        reference.run(row, dtype, draw, place)
        view[at] = row
    return memory


def drawn_bits(drawer: chunks.Drawer, cut: Cut, name: str, dtype: str, threads: int = 1) -> np.ndarray:
    memory = poisoned(cut.layout, dtype)
    view = array_view(memory.view(MEMORY[dtype]), cut.layout)
    chunks.fill(drawer, [(view, dtype, cut.draw(name, dtype))], threads)
    return memory


@every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANDOM_FILLS)
def test_every_cut(backend, name, dtype):
    for cut in CUTS:
        found = drawn_bits(BACKENDS[backend].DRAWER, cut, name, dtype)
        assert_same_bits(found, whole_bits(cut, name, dtype), (cut, name, dtype))


@every_backend
@given(
    cut=cuts(),
    name=st.sampled_from(RANDOM_FILLS),
    dtype=st.sampled_from(DTYPES),
    chunk=st.sampled_from((4, 68, 600, 2**18)),
    threads=st.integers(1, 2),
)
def test_any_cut(backend, cut, name, dtype, chunk, threads):
    """Of any offsets and strides, in chunks of many rows, of one, and of parts of one."""
    drawer = replace(BACKENDS[backend].DRAWER, chunk=chunk)
    found = drawn_bits(drawer, cut, name, dtype, threads)
    assert_same_bits(found, whole_bits(cut, name, dtype), (cut, name, dtype))


@every_backend
def test_rows_backwards_in_memory(backend):
    """NumPy's strides may be negative, of rows and within them."""
    cut = Cut.of((7, 300), (1, 101), (5, 130))
    expected = array_view(whole_bits(cut, "normal", "float32"), cut.layout)
    for step in ((-1, 1), (1, -1), (-1, -1)):
        memory = np.full((5, 130), np.nan, np.float32)
        view = memory[:: step[0], :: step[1]]
        BACKENDS[backend].fill_many([(view, "float32", cut.draw("normal", "float32"))])
        assert np.array_equal(view.view(np.uint32), expected)


class Counting:
    """The reference's words, which are also what says how many blocks it draws."""

    def __init__(self, words: Any) -> None:
        self.words, self.blocks = words, 0

    def __call__(self, seed: int, stream: int, blocks: np.ndarray) -> np.ndarray:
        self.blocks += blocks.size
        return self.words(seed, stream, blocks)


@pytest.mark.parametrize("length", [64, 65, 67, 100, 1024, 4097, reference.CHUNK + 1])
@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("beside", [64, 65, 67])
def test_numpy_draws_few_blocks_in_vain(length, start, beside, monkeypatch):
    counting = Counting(reference.words)
    monkeypatch.setattr(reference, "words", counting)
    monkeypatch.setitem(reference._TRANSFORMS, "uniform", lambda x, *_: np.empty(x.shape, np.float32))
    monkeypatch.setattr(reference, "philox4x32", lambda *_: None)
    rows = max(3000 // length, 2)
    cut = Cut.of((rows + 1, length + beside), (1, start), (rows, length))
    drawn_bits(reference.DRAWER, cut, "uniform", "float32")
    assert blocks_needed(cut) <= counting.blocks <= 1.1 * blocks_needed(cut)


@pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
@pytest.mark.parametrize("length", [1, 3, 64, 65, 100, 1024, 4097])
@pytest.mark.parametrize("start", range(4))
def test_numba_draws_no_block_in_vain(length, start):
    """The tiles of blocks that its kernel goes through, gathered as it gathers them."""
    kernels = BACKENDS["numba"]
    cut = Cut.of((50, 2 * length + 1), (1, start), (49, length))
    draw = cut.draw("uniform", "float32")
    places = draw.start + np.arange(49, dtype=np.uint64) * np.uint64(draw.strides[0])
    x = np.empty((4, kernels.BLOCKS), np.uint32)
    pieces = np.empty((kernels.BLOCKS, 4), np.int64)
    row = done = drawn = elements = 0
    while row < 49:
        blocks, parts, row, done = kernels.gather_tile(x, pieces, places, row, done, length)
        drawn += blocks
        elements += int(pieces[:parts, 2].sum())
    assert drawn == blocks_needed(cut)
    assert elements == 49 * length


def test_the_reference_is_its_own_runs():
    """What other tests compare with is what they say, of one cut at least."""
    cut = CUTS[0]
    found = reference_bits(cut.layout, "float32", cut.draw("normal", "float32"))
    assert_same_bits(found, whole_bits(cut, "normal", "float32"))
