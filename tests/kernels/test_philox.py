"""The random words: Philox's known answers, and every 32-bit boundary of seed, stream and block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent_philox import BOUNDARIES, KNOWN_ANSWERS, philox4x32, words

from tritoninit.kernels import reference
from tritoninit.kernels.stream import Draw

UINT64 = st.integers(0, 2**64 - 1)


def reference_words(seed: int, stream: int, block: int) -> tuple[int, ...]:
    return tuple(reference.words(seed, stream, np.array([block], np.uint64))[:, 0].tolist())


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    assert philox4x32(counter, key) == answer
    seed, stream, block = (low | high << 32 for low, high in (key, counter[2:], counter[:2]))
    assert reference_words(seed, stream, block) == answer


@pytest.mark.parametrize("seed", BOUNDARIES)
def test_boundaries(seed):
    for stream, block in itertools.product(BOUNDARIES, BOUNDARIES):
        assert reference_words(seed, stream, block) == words(seed, stream, block), (stream, block)


@given(seed=UINT64, stream=UINT64, block=UINT64)
def test_any_counter(seed, stream, block):
    assert reference_words(seed, stream, block) == words(seed, stream, block)


@given(seed=UINT64, stream=UINT64, start=st.integers(0, 2**63 - 65))
def test_element_i_is_word_i_mod_4_of_block_i_div_4(seed, stream, start):
    values = np.full(9, np.nan, np.float32)
    # Bounds 0 and 1: the value times 2**24 is the word's top 24 bits.
    draw = Draw("uniform", (0.0, 2.0**-24, 0.0, 1.0), seed, stream, start, (1,))
    reference.fill_many([(values, "float32", draw)])
    expected = [words(seed, stream, i // 4)[i % 4] >> 8 for i in range(start, start + 9)]
    assert (values * 2.0**24).tolist() == expected
