"""Q of many matrices: the same bits for any number of threads, near the factorisation that it stands for."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch

import tritoninit as ti
from tests.initializer_helpers import KEY
from tritoninit import Experts, Key, Orthogonal, Rule, Stacked, cholesky_qr, factorization
from tritoninit.factorization import (
    Blocked,
    Factorizations,
    Matrix,
    block_width,
    orthogonal_factors,
)

CPU = torch.device("cpu")
# By one call of LAPACK's and by blocks, tall, wide and square, the last block of one column.
SHAPES = [
    (1, 1),
    (40, 40),
    (191, 192),
    (384, 384),
    (700, 256),
    (90, 4000),
    (4000, 90),
    (449, 449),
    (513, 400),
    (257, 1600),
]


@pytest.fixture
def threads():
    """Sets torch's number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def matrices(shape, count=1, dtype=torch.float32):
    return [Matrix(*shape, dtype, CPU, KEY.fold_in(number)) for number in range(count)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_number_of_threads_does_not_count(shape, threads):
    found = []
    for count in (1, 2, 3, 5):
        threads(count)
        found.append(Orthogonal()(torch.empty(shape), key=KEY))
    assert all(each.equal(found[0]) for each in found)


def test_nor_of_a_large_one(threads):
    """Which has wider blocks."""
    found = []
    for count in (1, 2):
        threads(count)
        found.append(Orthogonal()(torch.empty(1025, 1030), key=KEY))
    assert found[0].equal(found[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_alone_or_among_others(shape, threads):
    threads(2)
    alone = [orthogonal_factors([matrix])[0] for matrix in matrices(shape, 3)]
    for count in (1, 2):
        threads(count)
        for each, together in zip(alone, orthogonal_factors(matrices(shape, 3)), strict=True):
            assert each.equal(together)


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
    monkeypatch.setitem(factorization._TOGETHER, "cpu", 130)
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


def by_blocks(transposed):
    found = Blocked(transposed)
    found.run()
    return found.q


@pytest.mark.parametrize("shape", [(40, 40), (400, 400), (600, 385), (257, 1600), (2000, 130)], ids=str)
def test_distance_to_the_factorisation_in_double(shape):
    """Householder's R is that of a matrix A + E whose columns have |E_j| <= c u |A_j| (Higham 2002, theorem
    19.4; c below 8 here), and Q moves by at most 2 cond(A) |E|_F / |A|_2, to first order (Sun, BIT 31, 1991).
    """
    (matrix,) = matrices(shape)
    drawn = matrix.oriented(matrix.transposed()).double()
    tall = drawn if shape[0] >= shape[1] else drawn.T
    q = cholesky_qr.by_reflectors(tall)
    values = torch.linalg.svdvals(tall)
    for dtype, way in product((torch.float32, torch.float64), (by_blocks, factorization._factor)):
        found = way(tall.T.to(dtype, memory_format=torch.contiguous_format, copy=True))  # which it writes to
        (short,) = found[:, 0].shape
        u = torch.finfo(dtype).eps / 2
        bound = 2 * values[0] / values[-1] * 8 * u * tall.norm() / values[0]
        double = 2 * values[0] / values[-1] * 8 * 2.0**-53 * tall.norm() / values[0]
        assert (found.T.double() - q).norm() <= bound + double, way
        gram = found.double() @ found.double().T - torch.eye(short, dtype=torch.float64)
        assert gram.abs().max() <= (max(shape) + 8) * u, way


@pytest.mark.parametrize("way", [by_blocks, factorization._factor])
def test_zero_columns(way):
    """Reflectors of no effect have no scale; Q is orthogonal all the same."""
    dense = torch.randn(400, 300, generator=torch.Generator().manual_seed(1))
    dense[:, ::3] = 0
    dense[50:] = 0
    found = way(dense.T.contiguous())
    assert torch.allclose(found @ found.T, torch.eye(300), atol=1e-5)


def test_the_callers_threads_stay_as_they_are(threads):
    """Those of this thread, and those of threads that are yet to begin."""
    threads(3)
    factorization._pool.cache_clear()
    Orthogonal()(torch.empty(400, 400), key=KEY)
    seen = [torch.get_num_threads()]
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert seen == [3, 3]


def test_where_no_thread_starts_any_more(threads, monkeypatch):
    """As in what atexit calls."""
    threads(2)
    right = Orthogonal()(torch.empty(400, 400), key=KEY)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monkeypatch.setattr(factorization, "_pool", lambda: pool)
    assert Orthogonal()(torch.empty(400, 400), key=KEY).equal(right)
    assert torch.get_num_threads() == 2


def test_several_callers_at_once(threads):
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
def test_in_inference_mode(shape):
    right = Orthogonal()(torch.empty(shape), key=KEY)
    with torch.inference_mode():
        assert Orthogonal()(torch.empty(shape), key=KEY).equal(right)


@pytest.mark.parametrize("shape", [(40, 30), (400, 400)], ids=str)
def test_arrays_have_the_tensors_bits(shape):
    right = Orthogonal()(torch.empty(shape), key=KEY)
    assert np.array_equal(Orthogonal()(np.empty(shape, np.float32), key=KEY), right.numpy())


def test_the_callers_backend_draws(monkeypatch):
    """On the factorisation's threads, too, whether one of the callers' own draws or not."""
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
        Experts(Orthogonal())(torch.empty(3, 10, 10), key=KEY)
        Orthogonal()(torch.empty(400, 400), key=KEY)
    assert names == ["numpy"] * 4


def test_an_error_of_a_thread_is_the_callers(monkeypatch):
    def failing(x):
        raise RuntimeError("no LAPACK")

    monkeypatch.setattr(torch, "geqrf", failing)
    for shape in ((4, 4), (256, 256), (400, 400), (3, 256, 256), (3, 400, 400)):
        with pytest.raises(RuntimeError, match="no LAPACK"):
            Experts(Orthogonal(), 1)(torch.empty(1, *shape[-2:]) if len(shape) < 3 else torch.empty(shape))


def test_what_is_asked_for_is_given_once():
    together = Factorizations()
    takes = [together.ask(matrix) for matrix in matrices((5, 4), 3)]
    found = [take() for take in reversed(takes)]
    assert not together._pending
    assert not together._done
    for matrix, q in zip(reversed(matrices((5, 4), 3)), found, strict=True):
        assert q.equal(orthogonal_factors([matrix])[0])


def test_blocks_are_as_wide_as_they_say():
    for columns, width in ((129, 64), (1024, 64), (1025, 128), (1281, 128)):
        blocked = Blocked(torch.zeros(columns, columns + 1))
        widths = [len(blocked.q[place]) for place in blocked._places]
        assert widths == [width] * (columns // width) + [columns % width] * (columns % width > 0)
        assert block_width(columns) == width


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
        by_us = factorization._by_the_device(matrices(shape, 3))
        for q, matrix in zip(by_us, matrices(shape, 3), strict=True):
            assert q.shape == shape
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
