"""Several rectangles in one local tensor: runs along dimensions, flat ranges, parts of parts."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import tritoninit as ti
from tests.distributed.ranks import expected, numbered
from tests.initializer_helpers import KEY
from tritoninit import Window, Windows, factorization

INITIALIZERS = [
    ti.Normal(),
    ti.KaimingUniform(axes=ti.Axes((0,), (1,))),
    ti.XavierNormal(axes=ti.Axes(parts=(2, 4))),
    ti.Eye(),
    ti.Orthogonal(1.5),
    ti.Sparse(0.4),
    ti.Value(numbered(6, 4)),
    ti.ZeroRow(ti.Orthogonal(), -2),
    ti.Scaled(ti.Sparse(0.3), 2.0),
    ti.Stacked((ti.Orthogonal(), ti.ZeroRow(ti.XavierUniform(), 1), ti.Uniform())),
    ti.Stacked((ti.Stacked((ti.Orthogonal(), ti.Eye())), ti.Ones()), axis=1),
]


@st.composite
def cuts(draw, size, most=3):
    """Stretches of a dimension's indices, in any order, possibly none."""
    places = sorted(draw(st.lists(st.integers(0, size), min_size=0, max_size=2 * most, unique=True)))
    pairs = list(zip(places[::2], places[1::2], strict=False))
    return draw(st.permutations(pairs))


@st.composite
def runs_of(draw, shape):
    """Windows of a tensor of this shape, cut along its dimensions."""
    return Windows.runs(shape, [draw(st.one_of(st.none(), cuts(size))) for size in shape])


@st.composite
def flat_of(draw, shape):
    count = int(np.prod(shape))
    start = draw(st.integers(0, count))
    return Windows.flat(shape, start, draw(st.integers(start, count)))


def numbers(windows):
    """Of the elements that they hold; each place of the local tensor is written once."""
    local = torch.full(windows.local_shape, -1.0)
    for part, window in windows.parts(local):
        assert (part == -1).all()
        part.copy_(numbered(*window.global_shape)[tuple(map(slice, window.offsets, ends(window, part)))])
    assert (local >= 0).all()
    return local


def ends(window, part):
    return [offset + size for offset, size in zip(window.offsets, part.shape, strict=True)]


@given(st.data(), st.lists(st.integers(0, 5), max_size=4).map(tuple))
def test_runs(data, shape):
    cut = [data.draw(st.one_of(st.none(), cuts(size))) for size in shape]
    windows = Windows.runs(shape, cut)
    whole = numbered(*shape)
    for dim, (each, size) in enumerate(zip(cut, shape, strict=True)):
        chosen = [k for start, stop in ([(0, size)] if each is None else each) for k in range(start, stop)]
        whole = whole.index_select(dim, torch.tensor(chosen, dtype=torch.int64))
    assert numbers(windows).equal(whole)


@given(st.data(), st.lists(st.integers(0, 5), max_size=4).map(tuple))
def test_flat(data, shape):
    count = int(np.prod(shape))
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    windows = Windows.flat(shape, start, stop)
    assert numbers(windows).equal(torch.arange(float(start), float(stop)))
    assert len(windows.rectangles) <= max(1, 2 * len(shape) - 1)


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), st.integers(2, 4))
def test_parts_of_parts(data, shape, levels):
    """To cut what was cut is to cut the numbers of what was cut."""
    windows = data.draw(st.one_of(runs_of(shape), flat_of(shape)))
    for _ in range(levels - 1):
        shape = windows.local_shape
        inner = data.draw(st.one_of(runs_of(shape), flat_of(shape)))
        held = expected(numbers(windows), numbers(inner))
        windows = inner.within(windows)
        assert numbers(windows).equal(held)


def test_three_levels():
    experts = Window((8, 4, 6), (2, 0, 0))
    rows = Windows.runs((2, 4, 6), [None, [(1, 2), (3, 4)], None]).within(experts)
    windows = Windows.flat((2, 2, 6), 3, 17).within(rows)
    assert numbers(windows).equal(numbered(8, 4, 6)[2:4, [1, 3]].reshape(-1)[3:17])


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=repr)
def test_every_initializer(initializer):
    """In two dimensions, cut in any way: the elements that one process has there, in one call."""
    whole = initializer(torch.full((6, 4), torch.nan), key=KEY)

    @settings(max_examples=25)
    @given(st.one_of(runs_of((6, 4)), flat_of((6, 4))))
    def check(windows):
        local = torch.full(windows.local_shape, torch.nan)
        assert initializer(local, key=KEY, window=windows) is local
        assert local.equal(expected(whole, numbers(windows)))
        array = np.full(windows.local_shape, np.nan, np.float32)
        initializer(array, key=KEY, window=windows)
        if not any(isinstance(each, ti.Orthogonal) for each in parts(initializer)):  # LAPACK's by two ways
            assert (array == local.numpy()).all()

    check()


def parts(initializer):
    return [piece.initializer for piece in initializer.pieces((6, 4))]


@settings(max_examples=25)
@given(st.one_of(runs_of((3, 2, 4)), flat_of((3, 2, 4))))
def test_more_dimensions(windows):
    for initializer in (ti.Dirac(), ti.Dirac(3), ti.Orthogonal(), ti.KaimingNormal(), ti.Keep()):
        whole = initializer(torch.full((3, 2, 4), 7.0), key=KEY)
        local = initializer(torch.full(windows.local_shape, 7.0), key=KEY, window=windows)
        assert local.equal(expected(whole, numbers(windows)))


@given(runs_of((5, 7)))
def test_hashes_add_up(windows):
    x = torch.randn(5, 7)
    local = expected(x, numbers(windows))
    each = sum(ti.bits_hash(part, window=window, salt="a") for part, window in windows.parts(local))
    assert ti.bits_hash(local, window=windows, salt="a") == each % 2**64


def test_the_whole_in_two():
    """A gated projection whose halves are each cut over two ranks."""
    whole = ti.normal_(torch.empty(8, 6), key=KEY)
    total = 0
    for rank in range(2):
        windows = Windows.runs((8, 6), [[(2 * rank, 2 * rank + 2), (4 + 2 * rank, 6 + 2 * rank)], None])
        local = ti.normal_(torch.empty(4, 6), key=KEY, window=windows)
        assert local.equal(whole.view(2, 2, 2, 6)[:, rank].reshape(4, 6))
        total += ti.bits_hash(local, window=windows)
    assert total % 2**64 == ti.bits_hash(whole)


def test_strided_memory():
    """A flat range in memory that is not contiguous, and not only of tensors."""
    windows = Windows.flat((3, 4), 1, 11)
    whole = ti.normal_(torch.empty(3, 4), key=KEY).view(-1)[1:11]
    memory = torch.zeros(10, 3)
    assert ti.normal_(memory[:, 1], key=KEY, window=windows).equal(whole)
    assert not memory[:, ::2].any()
    array = np.zeros((10, 3), np.float32)
    ti.normal_(array[::-1, 1], key=KEY, window=windows)
    assert (array[::-1, 1] == whole.numpy()).all()


def test_structured_is_built_once(monkeypatch):
    built = []
    factors = factorization.orthogonal_factors

    def counting(matrices):
        built.extend(matrices)
        return factors(matrices)

    monkeypatch.setattr(factorization, "orthogonal_factors", counting)
    windows = Windows.runs((6, 4), [[(0, 1), (2, 3), (5, 6)], [(0, 1), (3, 4)]])
    ti.orthogonal_(torch.empty(3, 2), key=KEY, window=windows)
    assert len(built) == 1


def test_a_plan(drawn):
    windows = Windows.flat((4, 6), 3, 20)
    plan, local = ti.Plan(), torch.empty(17)
    assert plan.add(local, ti.Normal(), KEY, windows) is None
    plan.run()
    assert local.equal(ti.normal_(torch.empty(4, 6), key=KEY).view(-1)[3:20])
    assert sum(drawn) == 17 + 24


def test_one_key_for_all_parts():
    """Drawn once, as for a whole tensor, also where nothing is held; and not at all if something is wrong."""
    state = torch.get_rng_state()
    whole = ti.normal_(torch.empty(4, 6))
    after = torch.get_rng_state()
    for start, stop in ((0, 24), (3, 20), (5, 5)):
        torch.set_rng_state(state)
        local = ti.normal_(torch.empty(stop - start), window=Windows.flat((4, 6), start, stop))
        assert local.equal(whole.view(-1)[start:stop])
        assert torch.get_rng_state().equal(after)
    for call in (
        lambda: ti.eye_(torch.empty(2), window=Windows.flat((4, 6, 2), 0, 2)),
        lambda: ti.normal_(torch.empty(3), window=Windows.flat((4, 6), 0, 2)),
        lambda: ti.normal_(torch.empty(2, dtype=torch.int64), window=Windows.flat((4, 6), 0, 2)),
        lambda: ti.dirac_(torch.empty(0), window=Windows.flat((4, 6), 0, 0)),
    ):
        with pytest.raises((ValueError, NotImplementedError)):
            call()
    assert torch.get_rng_state().equal(after)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Windows.runs((4, 6), [None]),
        lambda: Windows.runs((4, 6), [[(0, 5)], None]),
        lambda: Windows.runs((4, 6), [[(-1, 2)], None]),
        lambda: Windows.runs((4, 6), [[(3, 2)], None]),
        lambda: Windows.flat((4, 6), 0, 25),
        lambda: Windows.flat((4, 6), -1, 2),
        lambda: Windows.flat((4, 6), 3, 2),
        lambda: Windows((4, 6), (5, 6), Windows.runs((4, 6), [None, None]).rectangles),
        lambda: Windows.runs((4, 6), [None, None]).within(Window((8, 8), (5, 0))),
        lambda: Windows.runs((4, 6), [None, None]).within(Windows.flat((4, 6), 0, 24)),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError, match=r"tensor of shape|indices|dimensions"):
        make()
