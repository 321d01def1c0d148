"""Complex numbers are two real ones, neighbours in the stream, with torch's rule for their variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import tritoninit as ti
from tritoninit import registry

KEY = ti.Key(3)
every_dtype = pytest.mark.parametrize(
    ("dtype", "part"),
    [
        (torch.complex32, torch.float16),
        (torch.complex64, torch.float32),
        (torch.complex128, torch.float64),
    ],
)
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")


@every_dtype
@pytest.mark.parametrize("backend", ["numpy", ""])
def test_parts_are_neighbours_in_the_stream(dtype, part, backend):
    """A complex tensor holds what a real one with a last dimension of two does, with std / sqrt(2)."""
    for drawn, of_parts in (
        (ti.Normal(0.5, 2.0), ti.Normal(0.5, 2.0 / math.sqrt(2))),
        (ti.Uniform(-0.25, 0.5), ti.Uniform(-0.25, 0.5)),
    ):
        real = of_parts(torch.empty(30, 41, 2, dtype=part), key=KEY)
        for memory in (torch.empty(30, 41, dtype=dtype), torch.empty(41, 30, dtype=dtype).T):
            with ti.use_backend(backend or registry.resolve("cpu").name):
                assert drawn(memory, key=KEY) is memory
            assert torch.view_as_real(memory).equal(real)
        window = ti.Window((30, 41), (5, 6))
        assert torch.view_as_real(drawn(torch.empty(7, 9, dtype=dtype), key=KEY, window=window)).equal(
            real[5:12, 6:15]
        )


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_moments_are_torchs(dtype):
    """The variance of the whole is std**2, half of it each part's; the mean is each part's, as in torch."""
    ours = ti.normal_(torch.empty(1 << 18, dtype=dtype), 0.5, 2.0, key=KEY)
    torch.manual_seed(0)
    theirs = nn.init.normal_(torch.empty(1 << 18, dtype=dtype), 0.5, 2.0)
    for x in (ours, theirs):
        assert x.real.std().item() == pytest.approx(math.sqrt(2), rel=0.01)
        assert x.imag.std().item() == pytest.approx(math.sqrt(2), rel=0.01)
        assert x.real.mean().item() == pytest.approx(0.5, abs=0.02)
        assert x.imag.mean().item() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(ours.real.numpy(), ours.imag.numpy())[0, 1]) < 0.01
    for x in (ti.uniform_(ours, -1.0, 3.0, key=KEY), nn.init.uniform_(theirs, -1.0, 3.0)):
        for each in (x.real, x.imag):
            assert each.min() >= -1.0
            assert each.max() < 3.0
            assert each.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", ["kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"])
def test_variances_of_scaled_initializers_are_torchs(name):
    ours, theirs = (torch.empty(300, 400, dtype=torch.complex64) for _ in range(2))
    getattr(ti, name)(ours, key=KEY)
    getattr(nn.init, name)(theirs)
    assert ours.var().item() == pytest.approx(theirs.var().item(), rel=0.02)


def test_arrays_scalars_models_and_interception():
    tensor = ti.normal_(torch.empty(30, 41, dtype=torch.complex64), key=KEY)
    for array in (np.empty((30, 41), np.complex64), np.empty((41, 30), np.complex64).T):
        assert np.array_equal(ti.normal_(array, key=KEY), tensor.numpy())
    backwards = np.empty((30, 41), np.complex64)[::-1, ::-1]
    assert np.array_equal(ti.normal_(backwards, key=KEY), tensor.numpy())
    assert ti.normal_(torch.zeros((), dtype=torch.complex64), key=KEY) == tensor[0, 0]
    assert ti.normal_(torch.empty(0, 3, dtype=torch.complex64), key=KEY).shape == (0, 3)
    layer = nn.Linear(40, 30, dtype=torch.complex64)
    version = layer.weight._version
    ti.initialize_(layer, seed=0)
    assert layer.weight._version > version
    bound = 1 / math.sqrt(40)
    assert torch.view_as_real(layer.weight.detach()).abs().max() <= bound
    with ti.intercept(seed=1) as intercepted:
        drawn = nn.init.normal_(torch.empty(64, dtype=torch.complex64))
    assert not intercepted.passed_on
    with ti.intercept(seed=1):
        real = nn.init.normal_(torch.empty(64, 2), 0.0, 1 / math.sqrt(2))
    assert torch.view_as_real(drawn).equal(real)


@every_dtype
def test_what_complex_numbers_do_not_have(dtype, part):
    """No order, hence no truncated normal, as in torch; and functions of random numbers are real."""
    name = str(dtype).removeprefix("torch.")
    tensor = torch.zeros(6, 4, dtype=dtype)
    for initializer in (ti.TruncatedNormal(), ti.LogNormal()):
        with pytest.raises(NotImplementedError, match=f"{type(initializer).__name__} of {name}"):
            initializer(tensor, key=KEY)
    with pytest.raises(ValueError, match="out of range"):
        ti.Normal(0.0, 3e38 / 6)(torch.zeros(3, dtype=torch.complex32), key=KEY)
    assert not torch.view_as_real(tensor).any()


@every_dtype
def test_what_a_part_does_not_hold(dtype, part):
    """It had become infinity in complex32, as in torch."""
    tensor = torch.zeros(2, dtype=dtype)
    largest = torch.finfo(part).max
    for fits in (largest, -largest, complex(1.0, largest), math.inf, complex(0.0, math.inf), math.nan):
        ti.constant_(tensor, fits)
    if dtype == torch.complex128:
        return
    for value in (2 * largest, complex(0.0, -2 * largest), complex(math.inf, 2 * largest)):
        with pytest.raises(ValueError, match="cannot hold the value"):
            ti.constant_(tensor.zero_(), value)
        assert not torch.view_as_real(tensor).any()
    with pytest.raises(ValueError, match="cannot hold the value"):
        ti.Identity(2 * largest)(torch.zeros(2, 2, dtype=dtype))


@every_dtype
@pytest.mark.parametrize("shape", [(7, 9), (9, 7), (40, 40), (390, 386), (386, 390)])
def test_unitary(dtype, part, shape):
    """Q with a positive diagonal of R, of the complex normals of the same key: by hand, in complex128."""
    tensor = ti.orthogonal_(torch.empty(shape, dtype=dtype), 0.5, key=KEY)
    wide = torch.complex128 if dtype == torch.complex128 else torch.complex64
    normals = ti.normal_(torch.empty(shape, dtype=wide), key=KEY).to(torch.complex128)
    found = 2 * tensor.to(torch.complex128)
    if shape[0] < shape[1]:
        normals, found = normals.T, found.T
    q, r = torch.linalg.qr(normals)
    diagonal = r.diagonal()
    unit = max(torch.finfo(part).eps, torch.finfo(torch.float32).eps if wide == torch.complex64 else 0.0)
    assert (found - q * (diagonal / diagonal.abs())).abs().max() < 60 * unit
    assert (found.mH @ found - torch.eye(found.shape[1])).abs().max() < 60 * unit


def test_unitary_matrices_are_haars():
    """Angles of eigenvalues are uniform on the circle; so is that of the determinant, unlike a real one's."""
    matrices = ti.Experts(ti.Orthogonal())(torch.empty(400, 6, 6, dtype=torch.complex64), key=KEY)
    angles = torch.linalg.eigvals(matrices).angle()
    turns = (angles.double() / (2 * math.pi) + 0.5).flatten()
    assert stats.kstest(turns, "uniform").statistic < 0.02
    turns = torch.linalg.det(matrices).angle().double() / (2 * math.pi) + 0.5
    assert stats.kstest(turns, "uniform").pvalue > 1e-4


@every_dtype
@pytest.mark.parametrize("shape", [(30, 41), (300, 200)])
def test_sparse_zeros_are_those_of_real_matrices(dtype, part, shape):
    """In every backend, of every layout."""
    zeros = ti.Sparse(0.4, 1.0)(torch.empty(shape), key=KEY) == 0
    found = []
    for backend in ("numpy", registry.resolve("cpu").name):
        for memory in (torch.empty(shape, dtype=dtype), torch.empty(shape[::-1], dtype=dtype).T):
            with ti.use_backend(backend):
                found.append(torch.view_as_real(ti.Sparse(0.4, 1.0)(memory, key=KEY)))
    assert (found[0] == 0).all(-1).equal(zeros)
    assert all(each.equal(found[0]) for each in found)
    normals = torch.view_as_real(ti.normal_(torch.empty(shape, dtype=dtype), key=KEY))
    assert found[0][~zeros].equal(normals[~zeros])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_recorded_fills_are_the_library_s(dtype, device):
    """They had been torch's calls, made again, with torch's bits."""
    with ti.record() as own, torch.device(device):
        model = nn.Linear(4, 3, dtype=dtype)
        with torch.no_grad():
            nn.init.normal_(model.bias, 0.0, 2.0)
    rules = own.rules(model)
    expected = {"weight": ti.KaimingUniform(math.sqrt(5)), "bias": ti.Normal(0.0, 2.0)}
    assert str(rules).splitlines() == [f"{name}: {each}" for name, each in expected.items()]
    again = nn.Linear(4, 3, dtype=dtype)
    ti.initialize_(again, rules, seed=5)
    for name, initializer in expected.items():
        tensor = getattr(again, name)
        drawn = initializer(torch.empty_like(tensor), key=ti.Key(5).fold_in(name))
        assert tensor.detach().equal(drawn)


def test_what_torch_alone_draws_is_recorded_as_its_calls():
    """A sum with a real number moves one part, which no initializer of ours does."""
    with ti.record() as own, torch.device("meta"):
        weight = nn.Parameter(torch.randn(4, dtype=torch.complex64) + 1.0)
    assert "Recorded" in str(own.rules(nn.ParameterList([weight])))


@pytest.mark.gpu
@every_dtype
def test_structured_on_the_gpu(dtype, part):
    here = ti.Sparse(0.4, 1.0)(torch.empty(300, 200, dtype=dtype), key=KEY)
    there = ti.Sparse(0.4, 1.0)(torch.empty(300, 200, dtype=dtype, device="cuda"), key=KEY)
    assert torch.view_as_real(there.cpu()).equal(torch.view_as_real(here))
    unit = max(torch.finfo(part).eps, torch.finfo(torch.float32).eps if part != torch.float64 else 0.0)
    for shape in ((90, 60), (60, 90)):
        tensor = ti.orthogonal_(torch.empty(shape, dtype=dtype, device="cuda"), key=KEY)
        assert tensor.is_cuda
        of_cpu = ti.orthogonal_(torch.empty(shape, dtype=dtype), key=KEY)
        difference = tensor.cpu().to(torch.complex128) - of_cpu.to(torch.complex128)
        assert difference.abs().max() < 500 * unit
