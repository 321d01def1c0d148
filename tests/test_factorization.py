"""Q of many matrices: the same bits for any number of threads, near the factorisation that it stands for."""

import math
import os
import platform
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import llvmlite.binding
import numpy as np
import pytest
import torch

import tritoninit as ti
from tests.initializer_helpers import KEY
from tritoninit import Experts, Key, Orthogonal, Rule, Stacked, cholesky_qr, factorization
from tritoninit.factorization import Factorizations, Matrix, orthogonal_factors
from tritoninit.kernels import numba_householder
from tritoninit.kernels.numba_householder import orthogonalize

CPU = torch.device("cpu")
# Tall, wide and square; of whole and of broken blocks, vectors and strips, and of sums that are made of sums.
SHAPES = [(1, 1), (40, 40), (191, 192), (96, 1024), (90, 4000), (4000, 90), (449, 449), (513, 400)]


@pytest.fixture(params=["kernels", "lapack"])
def way(request, monkeypatch):
    """By our kernels, and by LAPACK, as without numba."""
    monkeypatch.setattr(factorization, "has_kernels", lambda: request.param == "kernels")
    return request.param


@pytest.fixture
def threads():
    """Sets torch's number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def matrices(shape, count=1, dtype=torch.float32):
    return [Matrix(*shape, dtype, CPU, KEY.fold_in(number)) for number in range(count)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_number_of_threads_does_not_count(shape, threads, way):
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append(Orthogonal()(torch.empty(shape), key=KEY))
    assert all(each.equal(found[0]) for each in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nor_do_those_that_share_a_matrix(shape, dtype, threads, monkeypatch):
    """Its rows, that is; in these, one thread has fewer rows than a strip, or none."""
    found = []
    for least, blocks, count in ((1 << 30, 6, 1), (1, 6, 2), (1, 1, 3), (1, 4, 100)):
        monkeypatch.setattr(numba_householder, "_SHARED_FROM", least)
        monkeypatch.setattr(numba_householder, "_BLOCKS", blocks)
        threads(count)
        found.append(Orthogonal()(torch.empty(shape, dtype=dtype), key=KEY))
    assert all(each.equal(found[0]) for each in found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_alone_or_among_others(shape, threads, way):
    threads(2)
    alone = [orthogonal_factors([matrix])[0] for matrix in matrices(shape, 3)]
    for count in (1, 2):
        threads(count)
        for each, together in zip(alone, orthogonal_factors(matrices(shape, 3)), strict=True):
            assert each.equal(together)


PINNED = {
    ((40, 40), torch.float32): "088b963d610e3dd6",
    ((300, 1100), torch.float32): "0e73024d9e06db7d",
    ((900, 130), torch.float32): "034690d191a3b352",
    ((70, 90), torch.float64): "b02a327b9970729a",
}


def digests():
    """Of each of the pinned ones."""
    return [
        sha256(Orthogonal()(torch.empty(shape, dtype=dtype), key=KEY).numpy().tobytes()).hexdigest()[:16]
        for shape, dtype in PINNED
    ]


def test_pinned():
    """On every processor."""
    assert dict(zip(PINNED, digests(), strict=True)) == PINNED


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are processors of x86")
@pytest.mark.parametrize("processor", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_other_vectors_and_none_that_fuses(processor):
    """By vectors of 16 bytes and the C library's fmaf, of 32, and of 64, if the processor has these."""
    if processor == "x86-64-v4" and not llvmlite.binding.get_host_cpu_features().get("avx512f"):
        pytest.skip("no AVX-512")
    environment = {**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    code = "from tests.test_factorization import digests; print(*digests())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == list(PINNED.values())


def test_experts_stacks_and_models_are_the_matrices_one_by_one():
    whole = Experts(Orthogonal(0.5), dims=2)(torch.empty(2, 3, 20, 30), key=KEY)
    each = [Orthogonal(0.5)(torch.empty(20, 30), key=KEY.fold_in(number)) for number in range(6)]
    assert whole.view(6, 20, 30).equal(torch.stack(each))
    stack = Stacked((Orthogonal(), Orthogonal(2.0)))(torch.empty(40, 30), key=KEY)
    parts = [Orthogonal(gain)(torch.empty(20, 30), key=KEY.fold_in(k)) for k, gain in enumerate((1, 2))]
    assert stack.equal(torch.cat(parts))
    model = torch.nn.Sequential(*(torch.nn.Linear(24, 24, dtype=d) for d in (torch.float32, torch.bfloat16)))
    ti.initialize_(model, [Rule("*.weight", Orthogonal()), *ti.TORCH_DEFAULTS], seed=3)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            assert weight.equal(Orthogonal()(torch.empty_like(weight), key=Key(3).fold_in(name)))


def test_a_call_a_shape(monkeypatch):
    """All matrices of a model that are alike go together, as far as the memory for it reaches."""
    calls = []
    factors = factorization.orthogonal_factors

    def counting(matrices):
        calls.append((matrices[0].rows, matrices[0].columns, len(matrices)))
        return factors(matrices)

    monkeypatch.setattr(factorization, "orthogonal_factors", counting)
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8 + k % 2, bias=False) for k in range(6)))
    ti.initialize_(model, [Rule("*", Orthogonal())])
    assert sorted(calls) == [(8, 8, 3), (9, 8, 3)]
    calls.clear()
    monkeypatch.setitem(factorization.TOGETHER, "cpu", 130)
    ti.initialize_(model, [Rule("*", Orthogonal())])
    assert sorted(calls) == [(8, 8, 1), (8, 8, 2), (9, 8, 1), (9, 8, 1), (9, 8, 1)]


def test_what_is_written_later_lies_on_top():
    """Though matrices are factorised together, they are written in order."""
    patches = (ti.Patch(Orthogonal(), (0, 0), (4, 4)), ti.Patch(Orthogonal(), (2, 2), (4, 4)))
    x = ti.Patched(Orthogonal(), patches)(torch.empty(6, 6), key=KEY)
    last = Orthogonal()(torch.empty(4, 4), key=KEY.fold_in(-2))
    first = Orthogonal()(torch.empty(4, 4), key=KEY.fold_in(-1))
    assert x[2:, 2:].equal(last)
    assert x[:2, :4].equal(first[:2])


def by_kernels(tall):
    found = tall.clone()
    orthogonalize([found.numpy()], 1)
    return found


@pytest.mark.parametrize("shape", [(40, 40), (400, 400), (600, 385), (1600, 257), (2000, 130)], ids=str)
@pytest.mark.parametrize("find", [by_kernels, cholesky_qr.by_reflectors])
def test_distance_to_the_factorisation_in_double(shape, find):
    """Householder's R is that of a matrix A + E whose columns have |E_j| <= c u |A_j| (Higham 2002, theorem
    19.4; c below 8 here), and Q moves by at most 2 cond(A) |E|_F / |A|_2, to first order (Sun, BIT 31, 1991).
    """
    tall = ti.Normal()(torch.empty(shape), key=KEY).double()
    q = cholesky_qr.by_reflectors(tall)
    values = torch.linalg.svdvals(tall)
    for dtype in (torch.float32, torch.float64):
        found = find(tall.to(dtype)).double()
        u = torch.finfo(dtype).eps / 2
        bound = 2 * values[0] / values[-1] * 8 * u * tall.norm() / values[0]
        double = 2 * values[0] / values[-1] * 8 * 2.0**-53 * tall.norm() / values[0]
        assert (found - q).norm() <= bound + double
        gram = found.T @ found - torch.eye(shape[1], dtype=torch.float64)
        assert gram.abs().max() <= (max(shape) + 8) * u


@pytest.mark.parametrize("find", [by_kernels, cholesky_qr.by_reflectors])
@pytest.mark.parametrize("small", [0.0, 1e-21, 1e-38])
def test_columns_and_rows_of_next_to_nothing(find, small):
    """Reflectors of no effect have no scale; Q is orthogonal all the same."""
    dense = torch.randn(400, 300, generator=torch.Generator().manual_seed(1))
    dense[:, ::3] *= small
    dense[50:] *= small
    found = find(dense)
    assert torch.allclose(found.T @ found, torch.eye(300), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_signs(dtype):
    """R's diagonal is positive, that of a lone number is its sign's, of a zero column one."""
    tall = torch.tensor([[-2.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, -3.0]], dtype=dtype)
    r = by_kernels(tall).T @ tall
    assert torch.allclose(r.tril(-1), torch.zeros(3, 3, dtype=dtype), atol=1e-6)
    assert r[0, 0] == 2
    assert r[1, 1] == 0
    assert r[2, 2] > 0
    for number in (-0.5, 0.5):
        assert by_kernels(torch.full((1, 1), number, dtype=dtype)).item() == math.copysign(1, number)


def test_the_callers_threads_stay_as_they_are(threads, way):
    """Those of this thread, and those of threads that are yet to begin."""
    threads(3)
    factorization._pool.cache_clear()
    Orthogonal()(torch.empty(400, 400), key=KEY)
    seen = [torch.get_num_threads()]
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert seen == [3, 3]


def test_where_no_thread_starts_any_more(threads, monkeypatch, way):
    """As in what atexit calls."""
    threads(2)
    right = Orthogonal()(torch.empty(400, 400), key=KEY)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monkeypatch.setattr(factorization, "_pool", lambda: pool)
    assert Orthogonal()(torch.empty(400, 400), key=KEY).equal(right)
    assert torch.get_num_threads() == 2


def test_several_callers_at_once(threads, way):
    threads(2)
    right = Orthogonal()(torch.empty(400, 400), key=KEY)
    found = {}

    def call(number):
        torch.set_num_threads(2)
        found[number] = Orthogonal()(torch.empty(400, 400), key=KEY)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert all(found[number].equal(right) for number in range(4))


@pytest.mark.parametrize("shape", [(40, 30), (256, 256), (400, 400)], ids=str)
def test_in_inference_mode(shape, way):
    right = Orthogonal()(torch.empty(shape), key=KEY)
    with torch.inference_mode():
        assert Orthogonal()(torch.empty(shape), key=KEY).equal(right)


@pytest.mark.parametrize("shape", [(40, 30), (400, 400)], ids=str)
def test_arrays_have_the_tensors_bits(shape):
    right = Orthogonal()(torch.empty(shape), key=KEY)
    assert np.array_equal(Orthogonal()(np.empty(shape, np.float32), key=KEY), right.numpy())


def test_the_callers_backend_draws(monkeypatch):
    """And does not factorise."""
    from tritoninit import registry

    names = []
    for name in ("fill", "fill_one"):
        fill = getattr(registry, name)
        monkeypatch.setattr(
            registry,
            name,
            lambda backend, *rest, fill=fill: (names.append(backend.name), fill(backend, *rest)),
        )
    with ti.use_backend("numpy"):
        drawn = Orthogonal()(torch.empty(400, 400), key=KEY)
    assert names == ["numpy"]
    assert drawn.equal(Orthogonal()(torch.empty(400, 400), key=KEY))


def test_an_error_of_a_thread_is_the_callers(monkeypatch):
    def failing(x):
        raise RuntimeError("no LAPACK")

    monkeypatch.setattr(cholesky_qr, "by_reflectors", failing)
    monkeypatch.setattr(factorization, "has_kernels", lambda: False)
    for shape in ((1, 4, 4), (3, 256, 256)):
        with pytest.raises(RuntimeError, match="no LAPACK"):
            Experts(Orthogonal(), 1)(torch.empty(shape))


def test_what_is_asked_for_is_given_once():
    together = Factorizations()
    takes = [together.ask(matrix) for matrix in matrices((5, 4), 3)]
    found = [take() for take in reversed(takes)]
    assert not together._pending
    assert not together._done
    for matrix, q in zip(reversed(matrices((5, 4), 3)), found, strict=True):
        assert q.equal(orthogonal_factors([matrix])[0])


@pytest.mark.parametrize("shape", [(7, 40, 40), (3, 130, 100), (2, 90, 1)], ids=str)
def test_cholesky_factorisations(shape):
    """Within a rounding to float32 of Q in double, but for 2**-53 times the condition number."""
    tall = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = cholesky_qr.by_reflectors(tall.double())
    found = cholesky_qr.orthogonal(tall)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(tall.double())
    bound = 2.0**-24 * shape[2] ** 0.5 + 2.0**-45 * values[:, 0] / values[:, -1]
    assert ((found - exact).flatten(1).norm(dim=1) <= bound).all()


def test_cholesky_factorisations_that_fail(monkeypatch):
    """Of matrices whose columns depend on each other, nearly or wholly, and of the right ones beside them."""
    tall = torch.randn(6, 30, 20, generator=torch.Generator().manual_seed(0))
    tall[1, :, 7] = tall[1, :, 3]
    tall[2, :, 7] = 0
    tall[4, :, 7] = tall[4, :, 3] + 1e-9 * tall[4, :, 5]
    reflected = []
    by_reflectors = cholesky_qr.by_reflectors
    monkeypatch.setattr(
        cholesky_qr, "by_reflectors", lambda x: (reflected.append(x.shape), by_reflectors(x))[1]
    )
    monkeypatch.setattr(cholesky_qr, "_AT_A_TIME", 1300)  # two at a time
    found = cholesky_qr.orthogonal(tall)
    assert 2 <= len(reflected) <= 3
    gram = found.double().mT @ found.double()
    assert (gram - torch.eye(20)).abs().max() < 1e-5
    assert torch.allclose(found[[0, 3, 5]], by_reflectors(tall[[0, 3, 5]]), atol=1e-4)


def test_who_is_factorised_so(monkeypatch):
    """On a GPU, of several small matrices in float32."""
    asked = []
    monkeypatch.setattr(
        cholesky_qr, "orthogonal", lambda x: (asked.append(x.shape), cholesky_qr.by_reflectors(x))[1]
    )
    monkeypatch.setattr(factorization, "_are_many_small", lambda found: len(found) > 1)
    for shape in ((30, 20), (20, 30)):
        alike = matrices(shape, 3)
        drawn = torch.stack([ti.Normal()(torch.empty(shape), key=matrix.key) for matrix in alike])
        by_us = factorization._by_the_device(alike, drawn if shape[0] > shape[1] else drawn.mT)
        for q, matrix in zip(by_us if shape[0] > shape[1] else by_us.mT, alike, strict=True):
            assert torch.allclose(q, orthogonal_factors([matrix])[0], atol=1e-5)
    assert asked == [(3, 30, 20)] * 2
    monkeypatch.undo()
    for device, dtype, count, columns, expected in (
        ("cuda", torch.float32, 2, 1024, True),
        ("cuda", torch.float32, 1, 1024, False),
        ("cuda", torch.float32, 2, 1025, False),
        ("cuda", torch.float64, 2, 8, False),
        ("mps", torch.float32, 2, 8, False),
    ):
        several = [Matrix(2000, columns, dtype, torch.device(device), KEY)] * count
        assert factorization._are_many_small(several) is expected


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(64, 64), (256, 256), (300, 200), (200, 300)], ids=str)
def test_a_device_makes_the_same_to_rounding(shape):
    """All in one call there; a CPU's Q of the same normals within the bound of the distance above."""
    x = Experts(Orthogonal())(torch.empty(8, *shape, device="cuda"), key=KEY).cpu()
    y = Experts(Orthogonal())(torch.empty(8, *shape), key=KEY)
    for number in range(8):
        normals = ti.Normal()(torch.empty(shape), key=KEY.fold_in(number)).double()
        values = torch.linalg.svdvals(normals)
        bound = 4 * 8 * 2.0**-24 * normals.norm() / values[-1]
        assert (x[number] - y[number]).double().norm() <= bound
