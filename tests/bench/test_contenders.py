"""Who takes part in the benchmarks, and that nobody is timed who writes something else."""

import math
import sys
import types

import numpy as np
import pytest
import torch

import tritoninit as ti
from tritoninit.bench import contenders, device
from tritoninit.bench.contenders import FILLS, Trial, WrongValues, check, check_distribution, contender

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize(
    "name", [each.name for each in contenders.contenders(False) if each.unavailable() is None]
)
@pytest.mark.parametrize("subject", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_contenders_pass_their_check(name, subject, dtype):
    """In every row of a full run, here at a size that shows a mean or a std that is 1% off."""
    filler, fill = contender(name), FILLS[subject]
    if not filler.serves(fill, dtype):
        return
    buffers = list(torch.full((2, 2**18), math.nan, dtype=dtype, device=device.DEVICE))
    row = Trial("fill", subject, str(dtype).removeprefix("torch."), 2**18, device.ALL_THREADS, name)
    with row.serving():
        prepared = filler.prepare(fill, buffers)
        for _ in buffers:
            written = prepared.call()
            prepared.wait()
            check(filler, fill, written)


WRONG = {
    "mean": lambda x: x + 0.06 * x.std(),
    "standard deviation": lambda x: x * 0.94,
    "nan": lambda x: x.index_fill(0, torch.tensor([7]), math.nan),
    "infinity": lambda x: x.index_fill(0, torch.tensor([len(x) - 1]), math.inf),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("subject", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_distribution_is_refused(wrong, subject, dtype):
    fill = FILLS[subject]
    x = fill(torch.empty(2**17, dtype=dtype), key=ti.Key(1))
    check_distribution(x, fill)
    with pytest.raises(WrongValues):
        check_distribution(WRONG[wrong](x), fill)


@pytest.mark.parametrize("subject", ["uniform", "truncated_normal"])
def test_values_out_of_bounds_are_refused(subject):
    fill = FILLS[subject]
    x = fill(torch.empty(2**17), key=ti.Key(1))
    x[3] = 0.101
    with pytest.raises(WrongValues, match="values from"):
        check_distribution(x, fill)


def test_what_has_no_distribution_is_refused():
    with pytest.raises(WrongValues, match="the reference has 0"):
        check(contender("memset"), FILLS["normal"], torch.full((8,), 1e-30))


def test_the_end_of_a_large_tensor_is_looked_at(monkeypatch):
    monkeypatch.setattr(contenders, "CHECKED", 1024)
    x = FILLS["normal"](torch.empty(10_000), key=contenders.KEY)
    backend = contender(ti.registry.resolve("cpu").name)
    check(backend, FILLS["normal"], x)
    x[-1024] += 1e-9
    with pytest.raises(WrongValues, match="element 8976"):
        check(backend, FILLS["normal"], x)


class Curand:
    """What the contender asks of CuPy, by NumPy; CuPy itself needs a GPU."""

    def __init__(self, seed, method):
        assert method == 161
        np.asarray(seed).astype(np.uint64, casting="safe")  # as CuPy does, which refuses Python's ints for it
        self.generator = np.random.default_rng(seed)

    def uniform(self, low, high, size, dtype):
        return self.generator.uniform(low, high, size).astype(dtype)

    def normal(self, loc, scale, size, dtype):
        return self.generator.normal(loc, scale, size).astype(dtype)


class TorchFunc(types.ModuleType):
    """What the contender asks of torch.func._random, by PyTorch's generator; itself it needs a GPU."""

    def key(self, seed, device):
        return torch.tensor([seed, 0], dtype=torch.uint64, device=device)

    def uniform_(self, key, result, *, low, high):
        assert key.dtype == torch.uint64
        if result.dtype == torch.float16:
            raise NotImplementedError("not in float16")
        return result.uniform_(low, high)

    def normal_(self, key, result, *, mean, std):
        return result.normal_(mean, std)


def test_torch_s_fills_by_a_key_take_part_where_they_run(monkeypatch):
    theirs = contender("torch-func")
    unavailable = contenders._torch_func_unavailable
    monkeypatch.setitem(sys.modules, "torch.func._random", None)  # as in a torch that has none
    unavailable.cache_clear()
    assert "torch.func._random cannot run" in theirs.unavailable()
    monkeypatch.setitem(sys.modules, "torch.func._random", TorchFunc("torch.func._random"))
    unavailable.cache_clear()
    try:
        assert theirs.unavailable() is None
        assert [theirs.serves(FILLS["normal"], dtype) for dtype in DTYPES] == [True, True, False]
        assert not theirs.serves(FILLS["truncated_normal"], torch.float32)
        for subject in ("uniform", "normal"):
            buffers = list(torch.empty(2, 2**14, device=device.DEVICE))
            prepared = theirs.prepare(FILLS[subject], buffers)
            for buffer in buffers:
                written = prepared.call()
                assert written is buffer
                check(theirs, FILLS[subject], written)
    finally:
        unavailable.cache_clear()


@pytest.mark.parametrize("subject", ["uniform", "normal"])
def test_cupy_draws_into_a_ring_of_its_own(monkeypatch, subject):
    cuda = types.SimpleNamespace(curand=types.SimpleNamespace(CURAND_RNG_PSEUDO_PHILOX4_32_10=161))
    random = types.SimpleNamespace(RandomState=Curand)
    fake = types.SimpleNamespace(cuda=cuda, random=random, zeros=np.zeros)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    buffers = list(torch.empty(3, 2**14))
    prepared = contender("cupy-philox").prepare(FILLS[subject], buffers)
    arrays = [prepared.call() for _ in range(5)]
    assert len({array.ctypes.data for array in arrays[:3]}) == 3
    check(contender("cupy-philox"), FILLS[subject], arrays[-1])
