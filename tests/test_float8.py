"""8-bit floats: the float32 value as PyTorch casts it, by every way in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import tritoninit as ti
from tritoninit.kernels import lowering, reference
from tritoninit.kernels.stream import FLOAT8, Draw

DTYPES = tuple(FLOAT8)
every_dtype = pytest.mark.parametrize("name", DTYPES)
KEY = ti.Key(7)


def patterns(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.uint8)


def cast(x: np.ndarray, name: str) -> np.ndarray:
    return torch.from_numpy(x).to(getattr(torch, name)).view(torch.uint8).numpy()


def assert_cast(bits: np.ndarray, name: str) -> None:
    """Of float32 numbers that round to finite ones, and of NaN; what PyTorch makes of others has changed."""
    x = bits.astype(np.uint32).view(np.float32)
    held = ~(np.abs(x) > torch.finfo(getattr(torch, name)).max)
    assert np.array_equal(reference.byte(x[held], FLOAT8[name]), cast(x[held], name))


@every_dtype
def test_rounding_is_pytorchs_about_every_number_and_middle(name):
    """Each of the format's numbers, and what lies half-way between two, with its neighbours in float32."""
    numbers = np.arange(128, dtype=np.uint8)
    values = torch.from_numpy(numbers).view(getattr(torch, name)).float().numpy()
    values = np.sort(values[np.isfinite(values)])
    middles = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32).view(np.uint32)
    near = np.concatenate([middles[middles > 0] + np.uint32(step) for step in (-1 % 2**32, 0, 1)])
    for sign in (0, 1 << 31):
        assert_cast(near | np.uint32(sign), name)
    random = np.random.Generator(np.random.PCG64(3)).integers(0, 2**32, 1 << 20, np.uint32)
    assert_cast(random, name)
    assert_cast(np.array([0, 1, 1 << 31, (1 << 31) + 1, 0x7FC00000, 0xFFC00000, 0x7F800001], np.uint32), name)


@pytest.mark.slow
@every_dtype
def test_rounding_is_pytorchs_for_every_float32(name):
    for first in range(0, 2**32, 2**24):
        assert_cast(np.arange(first, first + 2**24, dtype=np.int64).astype(np.uint32), name)


@every_dtype
def test_host_arithmetic_knows_the_grid(name):
    """``lowering`` rounds in Python's floats: the same numbers, in the same order."""
    form = FLOAT8[name]
    values = [lowering._value(k, name) for k in range(-form.largest, form.largest + 1)]
    assert values == sorted(set(values)) or values.index(0.0) == form.largest
    tensor = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(tensor.float().to(getattr(torch, name)).double(), tensor)
    rng = np.random.Generator(np.random.PCG64(4))
    for x in (rng.normal(size=4000) * 2.0 ** rng.integers(-20, 8, 4000)).astype(np.float32).tolist():
        if abs(x) <= values[-1]:
            assert lowering._rounded(x, name) == float(torch.tensor(x).to(getattr(torch, name)).float())


def draws(name: str) -> Iterator[Draw]:
    for distribution, parameters in (
        ("constant", lowering.constant(-0.3, name)),
        ("uniform", lowering.uniform(-0.1, 0.3, name)),
        ("uniform", lowering.uniform(-1e-3, 1e-3, name)),
        ("normal", lowering.normal(0.01, 0.5, name)),
        ("truncated_normal", lowering.truncated_normal(0.1, 2.0, 5.0, 11.0, name)),
        ("truncated_normal", lowering.truncated_normal(0.0, 1.0, -2.0, 2.0, name)),
    ):
        for start in (0, 3, 2**34 - 5):
            yield Draw(distribution, parameters, 5, 9, start, (1,))


@every_dtype
def test_numba_writes_the_reference_s_bytes(name):
    numba_kernels = pytest.importorskip("tritoninit.kernels.numba_kernels", exc_type=ImportError)
    for draw in draws(name):
        for shape, strides in (
            ((5001,), (1,)),
            ((37, 129), (129, 1)),
            ((37, 129), (1, 37)),
            ((37, 9), (64, 1)),
        ):
            found, expected = np.full((2, 2 * math.prod(shape)), 0xA5, np.uint8)
            for memory, fill in ((found, numba_kernels.fill_many), (expected, reference.fill_many)):
                part = memory[: math.prod(shape)].reshape(shape)
                other = memory.reshape(*shape[:-1], -1)[..., 1::2]
                fill([(part, name, draw._replace(strides=strides))])
                fill([(other, name, draw._replace(strides=strides, start=draw.start + 1))])
            assert np.array_equal(found, expected)


@every_dtype
def test_values_are_float32s_rounded_within_the_bounds(name):
    dtype = getattr(torch, name)
    for backend in ("numpy", None):
        for initializer in (
            ti.Normal(0.1, 0.5),
            ti.TruncatedNormal(0.0, 1.0, -2.0, 2.0),
            ti.Uniform(-0.3, 0.7),
        ):
            wide, narrow = torch.empty(3, 4099), torch.empty(3, 4099, dtype=dtype)
            if backend is None:
                initializer(narrow, key=KEY)
            else:
                with ti.use_backend(backend):
                    initializer(narrow, key=KEY)
            initializer(wide, key=KEY)
            rounded = wide.to(dtype)
            if isinstance(initializer, ti.Uniform):
                assert narrow.float().max() < 0.7
                assert narrow.float().min() >= -0.3
                inside = (rounded.float() < 0.7) & (rounded.float() >= -0.3)
                assert inside.float().mean() > 0.9
                assert torch.equal(patterns(rounded)[inside], patterns(narrow)[inside])
            else:
                assert torch.equal(patterns(rounded), patterns(narrow))


@every_dtype
def test_every_function(name):
    dtype = getattr(torch, name)
    for function, arguments in (
        (ti.normal_, ()),
        (ti.trunc_normal_, ()),
        (ti.kaiming_normal_, ()),
        (ti.xavier_normal_, ()),
        (ti.orthogonal_, ()),
        (ti.sparse_, (0.1,)),
    ):
        wide, narrow = torch.empty(24, 40), torch.empty(24, 40, dtype=dtype)
        assert function(narrow, *arguments, key=KEY) is narrow
        function(wide, *arguments, key=KEY)
        assert torch.equal(patterns(wide.to(dtype)), patterns(narrow)), function
    for function in (ti.zeros_, ti.ones_, ti.eye_):
        assert torch.equal(function(torch.empty(5, 4, dtype=dtype)).float(), function(torch.empty(5, 4)))


@every_dtype
def test_models_shards_and_interception(name):
    dtype = getattr(torch, name)
    with torch.device("meta"):
        model = torch.nn.Linear(40, 24)
    report = ti.initialize_(model, seed=3, device="cpu", dtype=dtype)
    other = torch.nn.Linear(40, 24)
    ti.initialize_(other, seed=3)
    assert model.weight.dtype == dtype
    near = patterns(model.weight) == patterns(other.weight.to(dtype))
    assert near.float().mean() > 0.8  # but where rounding would meet the upper bound
    assert str(report)
    whole, part = torch.empty(40, 24, dtype=dtype), torch.empty(9, 11, dtype=dtype)
    ti.normal_(whole, key=KEY)
    ti.normal_(part, key=KEY, window=ti.Window((40, 24), (13, 5)))
    assert torch.equal(patterns(part), patterns(whole)[13:22, 5:16])
    with ti.intercept(seed=1):
        drawn = torch.nn.init.normal_(torch.empty(64, dtype=dtype))
    with ti.intercept(seed=1):
        wide = torch.nn.init.normal_(torch.empty(64))
    assert torch.equal(patterns(drawn), patterns(wide.to(dtype)))


@every_dtype
def test_what_does_not_fit_is_refused(name):
    tensor = torch.zeros(8, dtype=getattr(torch, name))
    largest = torch.finfo(tensor.dtype).max
    for initializer in (
        ti.Normal(0.0, largest / 6),
        ti.Uniform(0.0, 2 * largest),
        ti.TruncatedNormal(0.0, largest, -math.inf, math.inf),
        ti.Constant(1.1 * largest),
        *([ti.Constant(math.inf)] if name != "float8_e5m2" else []),
    ):
        with pytest.raises(ValueError, match=r"out of range|cannot hold"):
            initializer(tensor, key=KEY if initializer.random else None)
    assert not tensor.float().any()
    ti.Constant(largest)(tensor)
    assert (tensor.float() == largest).all()
    ti.Constant(math.nan)(tensor)
    assert tensor.float().isnan().all()
