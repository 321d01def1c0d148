"""Whether two tensors share a byte, beside counting the bytes of each."""

import time

import numpy as np
import pytest
import torch

from tritoninit.auditing.overlap import share_memory

MEMORY = torch.empty(2**15, dtype=torch.int8)


def test_views_of_one_matrix():
    x = torch.empty(30, 40)
    assert share_memory(x[:, :20], x[:, 19:])
    assert not share_memory(x[:, :20], x[:, 20:])
    assert not share_memory(x[::2], x[1::2])
    assert share_memory(x[::2], x[::3])
    assert not share_memory(x[:10], x[10:])
    assert share_memory(x, x.t())
    assert not share_memory(x[:, 0], x[:, 1])
    assert share_memory(x.view(torch.int16)[:, 1], x[:, 0])
    assert not share_memory(x.view(torch.int16)[:, 2], x[:, 0])


def strided(rng):
    """A tensor of any strides and width, somewhere in MEMORY."""
    dims = int(rng.integers(0, 5))
    dtype = (torch.int8, torch.int16, torch.float32, torch.float64)[rng.integers(4)]
    shape = tuple(int(n) for n in rng.integers(1, 6, dims))
    strides = tuple(int(s) for s in rng.integers(0, 30, dims) * rng.choice([1, 2, 5]))
    return MEMORY.view(dtype).as_strided(shape, strides, int(rng.integers(0, 600) // dtype.itemsize))


def own_bytes(x):
    """The addresses of a tensor's bytes, one by one."""
    starts = {0}
    for size, stride in zip(x.shape, x.stride(), strict=True):
        starts = {start + k * stride * x.itemsize for start in starts for k in range(size)}
    return {x.data_ptr() + start + byte for start in starts for byte in range(x.itemsize)}


def test_against_counting_bytes():
    """Random strides, offsets and widths: whether any byte is of both."""
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(3000):
        a, b = strided(rng), strided(rng)
        expected = bool(own_bytes(a) & own_bytes(b))
        assert share_memory(a, b) == share_memory(b, a) == expected, (a.stride(), b.stride())
        outcomes.append(expected)
    assert 500 < sum(outcomes) < 2500


class Elsewhere:
    """A tensor in memory that is not this process's: a GPU's, say."""

    itemsize = 4

    def __init__(self, address, shape, strides):
        self.shape, self._address, self._strides = shape, address, strides

    def data_ptr(self):
        return self._address

    def stride(self):
        return self._strides


@pytest.mark.parametrize("address", [0x7F12_0000_0000, 0x7FFF_FFFF_0000, 2**56, 2**63 + 2**40], ids=hex)
def test_any_address(address):
    """Nothing is read, so that none of them need exist."""
    halves = [Elsewhere(address + 40 * k, (20, 10), (20, 1)) for k in range(2)]
    assert not share_memory(*halves)
    assert share_memory(halves[0], Elsewhere(address + 80, (1, 1), (20, 1)))
    assert share_memory(halves[0], Elsewhere(address + 79, (1,), (1,)))  # three bytes before a row
    assert not share_memory(halves[0], Elsewhere(address + 76, (1,), (1,)))


def test_expanded_over_many_dimensions():
    """More than NumPy 1 has, all of one element or one address."""
    x = torch.empty(3).expand(*[1, 2] * 25, 3)
    assert share_memory(x, x[..., 2:])
    assert not share_memory(x, torch.empty(3))


def test_counts_as_shared_where_the_search_gives_up():
    """16 strides each of 9 digits: nobody knows which of 2**32 sums are equal."""
    rng = np.random.default_rng(0)
    a, b = (
        Elsewhere(2**40 + 4 * k, (2,) * 16, tuple(int(s) for s in rng.integers(10**9, 2 * 10**9, 16)))
        for k in range(2)
    )
    start = time.perf_counter()
    assert share_memory(a, b)
    assert time.perf_counter() - start < 5  # 0.15 s here


@pytest.mark.gpu
def test_device():
    x = torch.empty(30, 40, device="cuda")
    assert share_memory(x[:, :20], x[:, 19:])
    assert not share_memory(x[:, :20], x[:, 20:])
