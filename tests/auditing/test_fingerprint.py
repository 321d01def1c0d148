"""The hash of a tensor's bits: its definition, that it adds up, and that it tells tensors apart."""

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tritoninit as ti
from tritoninit.auditing import fingerprint
from tritoninit.auditing.fingerprint import bits_hash

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128),
)


def splitmix64():
    """SplitMix64's numbers for seed 0, as its authors wrote it (Steele, Lea and Flood, OOPSLA 2014)."""
    state = 0
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def definition(x, salt=""):
    """The formula of bits_hash's docstring, a word at a time."""
    numbers = splitmix64()
    drawn = [next(numbers) | 1 for _ in range(2**16 + 16)]
    data = x.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    size = min(x.itemsize, 4)
    words = [int.from_bytes(data[i : i + size], "little", signed=True) for i in range(0, len(data), size)]
    total = sum(drawn[2**16 + (k >> 16)] * drawn[k & 0xFFFF] * (w + 2**32 + 1) for k, w in enumerate(words))
    salted = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little") | 1
    return total * (salted if salt else 1) % 2**64


def random_bits(shape, dtype, seed=0):
    """Every bit pattern that the dtype has, NaN included."""
    if dtype == torch.bool:
        return random_bits(shape, torch.uint8, seed) > 127
    generator = np.random.default_rng(seed)
    size = math.prod(shape) * torch.empty((), dtype=dtype).itemsize
    data = torch.from_numpy(generator.integers(0, 256, size, np.uint8))
    return data.view(dtype).view(shape)


def whole(parts):
    return sum(parts) % 2**64


def cut(x, dim, edges):
    """The hashes of the pieces of ``x`` between the edges, each with its window."""
    shape = tuple(x.shape)
    for first, stop in pairwise(edges):
        offsets = tuple(first if d == dim else 0 for d in range(len(shape)))
        yield bits_hash(x.narrow(dim, first, stop - first), window=ti.Window(shape, offsets))


class TestDefinition:
    def test_splitmix64(self):
        """0xE220A8397B1DCDAF is the first number for seed 0 in every published implementation."""
        numbers = splitmix64()
        expected = [next(numbers) for _ in range(300)]
        assert expected[0] == 0xE220A8397B1DCDAF
        assert [fingerprint._odd(k) for k in range(300)] == [n | 1 for n in expected]
        assert [int(n) % 2**64 for n in fingerprint._odds(torch.arange(300))] == [n | 1 for n in expected]

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype(self, dtype):
        x = random_bits((7, 13), dtype)
        assert bits_hash(x) == definition(x)
        assert bits_hash(x, salt="h.0.weight") == definition(x, "h.0.weight")

    def test_more_than_a_row_of_multipliers(self):
        x = random_bits((2**16 * 2 + 777,), torch.int16)
        assert bits_hash(x) == definition(x)
        wide = random_bits((2**15 * 3 + 5,), torch.float64)
        assert bits_hash(wide) == definition(wide)

    def test_pinned(self):
        """The hashes are a promise: reports of other machines and versions are compared with them."""
        assert bits_hash(torch.zeros(1)) == 0xCB2E61BF1990CF0D
        assert (
            bits_hash(torch.arange(1_000_000, dtype=torch.float32), salt="wte.weight") == 0x2A01DBD1BBC14888
        )
        assert bits_hash(torch.arange(100_000).bfloat16().view(100, 1000)) == 0x0F84429B28C28406

    def test_the_number_of_elements_counts(self):
        """Whatever they are: -1, which a sum of words + 1 would not see."""
        for value in (-1, 0, 1, -(2**31)):
            found = {bits_hash(torch.full((n,), value, dtype=torch.int32)) for n in range(9)}
            assert len(found) == 9

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64, torch.complex128])
    def test_one_element_of_any_stride(self, dtype):
        """Contiguous by torch's lights, though its stride is not one."""
        x = torch.arange(15).to(dtype).view(3, 5)
        assert bits_hash(x[1:2, 2]) == bits_hash(x[1:2, 2].clone(memory_format=torch.contiguous_format))

    def test_nothing(self):
        assert bits_hash(torch.empty(0, 3)) == 0


class TestWhereTheBitsLie:
    """Only values and their row-major places count."""

    X = random_bits((2, 6, 300, 411), torch.float32)

    def test_layout(self):
        expected = bits_hash(self.X)
        assert bits_hash(self.X.contiguous(memory_format=torch.channels_last)) == expected
        assert bits_hash(self.X.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)) == expected
        assert bits_hash(self.X.view(-1)) == expected
        spaced = torch.empty(2, 6, 300, 822)[..., ::2].copy_(self.X)
        assert bits_hash(spaced) == expected

    def test_numpy(self):
        assert bits_hash(self.X.numpy()) == bits_hash(self.X)
        assert bits_hash(np.asfortranarray(self.X.numpy())) == bits_hash(self.X)

    def test_expanded_and_lazy_views(self):
        row = random_bits((1, 500), torch.int32)
        assert bits_hash(row.expand(3, 500)) == bits_hash(row.repeat(3, 1))
        x = torch.randn(50, dtype=torch.complex64)
        assert bits_hash(x.conj()) == bits_hash(x.conj_physical())
        assert bits_hash(x.conj().imag) == bits_hash(-x.imag)

    def test_parameters_and_inference_tensors(self):
        with torch.inference_mode():
            x = torch.ones(3)
            in_inference = bits_hash(x)
        assert in_inference == bits_hash(x) == bits_hash(torch.nn.Parameter(torch.ones(3)))

    def test_default_device_and_dtype_do_not_matter(self):
        with torch.device("meta"):
            fingerprint._table.cache_clear()
            assert bits_hash(self.X) == bits_hash(self.X.clone())

    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_device(self, dtype):
        x = random_bits((123, 45, 67), dtype)
        assert bits_hash(x.cuda()) == bits_hash(x)
        assert whole(cut(x.cuda(), 2, (0, 30, 67))) == bits_hash(x)

    @pytest.mark.parametrize(
        ("x", "reason"),
        [
            (torch.empty(3, device="meta"), "meta"),
            (torch.eye(3).to_sparse(), "strided"),
            (torch.nn.UninitializedParameter(), "lazy"),
        ],
    )
    def test_no_memory(self, x, reason):
        with pytest.raises(ti.TargetError, match=reason):
            bits_hash(x)

    def test_bounded_memory(self, monkeypatch):
        monkeypatch.setattr(fingerprint, "CHUNK", 1000)
        assert bits_hash(self.X.mT) == bits_hash(self.X.mT.contiguous())


class TestAddsUp:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128], ids=str)
    @pytest.mark.parametrize("dim", [0, 1, 2])
    def test_cut(self, dtype, dim):
        x = random_bits((60, 70, 80), dtype)
        size = x.shape[dim]
        assert whole(cut(x, dim, (0, 1, size // 2, size // 2, size))) == bits_hash(x)

    def test_grid_of_shards(self):
        x = random_bits((300, 500), torch.float32)
        total = 0
        for i in range(0, 300, 100):
            for j in range(0, 500, 125):
                total += bits_hash(x[i : i + 100, j : j + 125], window=ti.Window((300, 500), (i, j)))
        assert total % 2**64 == bits_hash(x)

    @given(st.data())
    def test_any_cut(self, data):
        shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
        x = random_bits(shape, data.draw(st.sampled_from((torch.float16, torch.float32, torch.float64))))
        dim = data.draw(st.integers(0, len(shape) - 1))
        middle = data.draw(st.integers(0, shape[dim]))
        assert whole(cut(x, dim, (0, middle, shape[dim]))) == bits_hash(x)

    @pytest.mark.parametrize("offset", [0, 2**16 - 2, 2**34 - 5, 2**62])
    def test_runs_and_single_places_agree(self, offset):
        """A shard of rows is hashed as one run, one of columns by its indices."""
        rows = random_bits((6, 4), torch.float32)
        run = bits_hash(rows.view(-1), window=ti.Window((2**62 + 24,), (offset,)))
        places = sum(
            bits_hash(rows.view(-1)[k : k + 1], window=ti.Window((2**62 + 24,), (offset + k,)))
            for k in range(24)
        )
        assert places % 2**64 == run

    def test_outside_its_window(self):
        with pytest.raises(ValueError, match="does not lie inside"):
            bits_hash(torch.ones(3), window=ti.Window((4,), (2,)))

    def test_salt(self):
        x, y = random_bits((2, 100), torch.float32)
        assert bits_hash(x, salt="a") != bits_hash(x, salt="b") != bits_hash(x)
        assert (bits_hash(x, salt="a") + bits_hash(y, salt="b")) != (
            bits_hash(x, salt="b") + bits_hash(y, salt="a")
        )


class TestTellsApart:
    """At 64 bits, one equal hash among these thousands would be a fault."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool], ids=str)
    def test_single_bits(self, dtype):
        x = random_bits((40,), dtype)
        data = x.view(torch.uint8)
        bits = 1 if dtype == torch.bool else 8
        seen = {bits_hash(x)}
        for byte in range(data.numel()):
            for bit in range(bits):
                data[byte] ^= 1 << bit
                seen.add(bits_hash(x))
                data[byte] ^= 1 << bit
        assert len(seen) == 1 + bits * data.numel()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_pairs_of_top_bits(self, dtype):
        """Modulo 2**64 the changes of two top bits of 64-bit words would cancel."""
        x = random_bits((60,), dtype)
        seen = {bits_hash(x)}
        for i in range(60):
            for j in range(i):
                y = x.clone()
                y[[i, j]] = -y[[i, j]]
                seen.add(bits_hash(y))
        assert len(seen) == 1 + 60 * 59 // 2
        assert bits_hash(-x) not in seen

    def test_permutations(self):
        x = random_bits((50,), torch.float32)
        generator = torch.Generator().manual_seed(0)
        seen = {bits_hash(x[torch.randperm(50, generator=generator)]) for _ in range(2000)}
        assert len(seen) == 2000

    def test_swapped_rows(self):
        """Rows as long as the table of low multipliers, so that only high ones tell them apart."""
        x = random_bits((12, 2**16), torch.int8)
        seen = {bits_hash(x)}
        for i in range(12):
            for j in range(i):
                order = list(range(12))
                order[i], order[j] = j, i
                seen.add(bits_hash(x[order]))
        assert len(seen) == 1 + 12 * 11 // 2

    def test_lengths_of_zeros(self):
        assert len({bits_hash(torch.zeros(n)) for n in range(2000)}) == 2000

    def test_constants(self):
        assert len({bits_hash(torch.full((300,), float(v))) for v in range(1000)}) == 1000

    def test_seeds(self):
        seen = {bits_hash(ti.Normal()(torch.empty(10), key=ti.Key(seed))) for seed in range(2000)}
        assert len(seen) == 2000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_equal_for_every_backend(dtype):
    hashes = set()
    for status in ti.backends():
        if status.available and "cpu" in status.devices:
            with ti.use_backend(status.name):
                hashes.add(bits_hash(ti.Normal()(torch.empty(333, 77, dtype=dtype), key=ti.Key(5))))
    assert len(hashes) == 1
