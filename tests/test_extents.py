"""The bytes that a tensor lies in, against the addresses of its elements."""

import numpy as np
import pytest

from tritoninit.extents import extent

CASES = {
    "scalar": np.zeros(()),
    "contiguous": np.zeros((3, 5), np.float32),
    "transposed": np.zeros((3, 5), np.float16).T,
    "sliced": np.zeros((9, 8), np.int64)[1::3, ::2],
    "reversed": np.zeros((4, 6), np.int8)[::-1, ::-2],
    "partly reversed": np.zeros((4, 6, 2), np.float64)[:, ::-1],
    "expanded": np.broadcast_to(np.zeros((1, 3), np.float32), (7, 3)),
    "of one element": np.zeros((5, 5), np.float32)[2:3, 3:4],
}


def addresses(x):
    """Of every byte, relative to the first element's first."""
    steps = (np.multiply(index, x.strides).sum() for index in np.ndindex(x.shape))
    return {int(step) + byte for step in steps for byte in range(x.itemsize)}


@pytest.mark.parametrize("x", CASES.values(), ids=CASES)
def test_from_the_first_byte_to_the_last(x):
    own = addresses(x)
    assert extent(x.itemsize, x.shape, x.strides) == (min(own), max(own) + 1)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_an_empty_one_has_none(shape):
    assert extent(4, shape, (20, 4)[: len(shape)]) == (0, 0)


def test_shape_and_strides_belong_together():
    with pytest.raises(ValueError, match="zip"):
        extent(4, (3, 5), (4,))
