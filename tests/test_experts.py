"""Experts: each weight by itself, those alone that a process holds, and no more than once."""

import numpy as np
import pytest
import torch

import tritoninit as ti
from tests.distributed.ranks import meshes
from tests.initializer_helpers import KEY
from tritoninit import (
    Axes,
    Experts,
    Keep,
    Key,
    Orthogonal,
    ParameterError,
    Sparse,
    Stacked,
    Value,
    Window,
    Windows,
    factorization,
)

SHAPE = (6, 8, 4)
STRUCTURED = [
    Orthogonal(),
    ti.Scaled(Orthogonal(), 2.0),
    Sparse(0.5),
    ti.Eye(),
    Value(torch.arange(32.0).reshape(8, 4)),
    ti.ZeroRow(Orthogonal(), 1),
    Stacked((Orthogonal(), Sparse(0.25))),
]


@pytest.mark.parametrize("inner", STRUCTURED, ids=str)
@pytest.mark.parametrize("leading", [(6,), (2, 3)])
def test_each_is_one_by_its_number(inner, leading):
    found = Experts(inner, len(leading))(torch.full((*leading, 8, 4), torch.nan), key=KEY).reshape(SHAPE)
    for number in range(6):
        if isinstance(inner, Stacked):  # the parts' keys come before the experts'
            halves = [
                each(torch.empty(4, 4), key=KEY.fold_in(k).fold_in(number))
                for k, each in enumerate(inner.initializers)
            ]
            assert found[number].equal(torch.cat(halves))
        else:
            assert found[number].equal(inner(torch.empty(8, 4), key=KEY.fold_in(number)))


def test_what_is_independent_is_one_fill():
    """By fans of one expert, drawn by places in the whole."""
    shape = (5, 40, 30)
    found = Experts(ti.KaimingNormal())(torch.empty(shape), key=KEY)
    assert found.equal(ti.KaimingNormal(axes=Axes((2,), (1,), (0,)))(torch.empty(shape), key=KEY))
    assert Experts(ti.Normal())(torch.empty(shape), key=KEY).equal(ti.Normal()(torch.empty(shape), key=KEY))
    assert not Experts(ti.Ones()).random
    assert not Experts(ti.Scaled(ti.Eye(), 2.0)).random
    kept = Experts(Stacked((ti.Zeros(), Keep())))(torch.ones(2, 4, 3))
    assert kept.sum() == 12


def test_arrays_and_dtypes():
    whole = Experts(Orthogonal())(torch.empty(SHAPE), key=KEY)
    for dtype in (torch.bfloat16, torch.float16):
        assert Experts(Orthogonal())(torch.empty(SHAPE, dtype=dtype), key=KEY).equal(whole.to(dtype))
    array = Experts(Orthogonal())(np.empty(SHAPE, np.float32), key=KEY)
    assert np.allclose(array, whole.numpy(), atol=1e-6)
    assert (Experts(ti.Eye())(torch.zeros(2, 3, 3, dtype=torch.int32)) == torch.eye(3)).all()
    weight = torch.nn.Parameter(torch.empty(SHAPE).transpose(1, 2).contiguous().transpose(1, 2))
    assert Experts(Orthogonal())(weight, key=KEY).detach().equal(whole)


@pytest.mark.parametrize("inner", STRUCTURED, ids=str)
def test_windows(inner):
    whole = Experts(inner)(torch.empty(SHAPE), key=KEY)
    windows = [
        (Window(SHAPE, (2, 0, 0)), (2, 8, 4), whole[2:4]),
        (Window(SHAPE, (2, 3, 1)), (2, 4, 2), whole[2:4, 3:7, 1:3]),
        (Windows.runs(SHAPE, [[(0, 1), (4, 6)], None, [(1, 3)]]), (3, 8, 2), whole[[0, 4, 5], :, 1:3]),
        (Windows.flat(SHAPE, 40, 105), (65,), whole.flatten()[40:105]),
    ]
    for window, shape, right in windows:
        x = torch.full(shape, torch.nan)
        assert Experts(inner)(x, key=KEY, window=window).equal(right)


@pytest.fixture
def factorised(monkeypatch):
    """The shapes of matrices of which a QR factorisation is made."""
    shapes = []
    factors = factorization.orthogonal_factors

    def counting(matrices):
        shapes.extend((matrix.rows, matrix.columns) for matrix in matrices)
        return factors(matrices)

    monkeypatch.setattr(factorization, "orthogonal_factors", counting)
    return shapes


def test_those_alone_that_are_held(factorised, drawn):
    """A rank's experts, each once, whatever parts of it there are."""
    from torch.distributed.tensor import Shard, distribute_tensor

    for placements, experts in (
        ([Shard(0), Shard(1)], 4),
        ([Shard(0), Shard(0)], 2),
        ([Shard(2), Shard(0)], 4),
    ):
        for mesh in meshes(2, 2):
            x = distribute_tensor(torch.zeros(8, 8, 4), mesh, placements, src_data_rank=None)
            factorised.clear()
            drawn.clear()
            Experts(Orthogonal())(x, key=KEY)
            assert factorised == [(8, 4)] * experts
            assert drawn == [32] * experts  # no more in vain than the rest of those that are held
    flat = torch.empty(60)  # of experts 1 to 3, of which the first and the last are three and two rectangles
    factorised.clear()
    Experts(Orthogonal())(flat, key=KEY, window=Windows.flat((8, 8, 4), 45, 105))
    assert factorised == [(8, 4)] * 3


def test_what_is_computed_in_vain(factorised, drawn):
    """Of one matrix all of it, once; of stacked ones those that are held."""
    window = Windows.runs((8, 4), [[(0, 1), (3, 4), (6, 7)], None])
    Orthogonal()(torch.empty(3, 4), key=KEY, window=window)
    assert (factorised, drawn) == ([(8, 4)], [32])
    drawn.clear()
    Sparse(0.5)(torch.empty(3, 4), key=KEY, window=window)
    assert drawn == [*[4] * 3, 32]  # normals of its own elements, uniforms of its columns
    factorised.clear()
    Stacked((Orthogonal(),) * 4)(torch.empty(4, 4), key=KEY, window=Window((16, 4), (4, 0)))
    assert factorised == [(4, 4)]


def test_in_models():
    """By rules, where modules do not say what dimensions of experts mean."""

    class Mixture(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = torch.nn.Parameter(torch.empty(SHAPE))
            self.down = torch.nn.Parameter(torch.empty(SHAPE))

    model = Mixture()
    rules = [ti.Rule("up", Experts(Orthogonal())), ti.Rule("*", Experts(ti.XavierUniform(axes=Axes())))]
    report = ti.initialize_(model, rules, seed=0)
    assert model.up.equal(Experts(Orthogonal())(torch.empty(SHAPE), key=Key(0).fold_in("up")))
    assert model.down.abs().max() <= (6 / 12) ** 0.5
    assert report.audit.ok
    assert "Experts" in str(report)


def test_what_makes_no_sense():
    for make, kind, match in (
        (lambda: Experts("normal"), TypeError, "not an Initializer"),
        (lambda: Experts(ti.Normal(), 0), ParameterError, "at least one dimension"),
        (lambda: Experts(ti.Normal(), 1.5), TypeError, "integer"),
        (lambda: Experts(ti.Normal(), 4)(torch.empty(SHAPE)), ValueError, "4 dimensions number weights"),
        (lambda: Experts(Orthogonal())(torch.empty(8, 4)), ValueError, "2 or more dimensions"),
        (lambda: Experts(Value(torch.ones(4, 4)))(torch.empty(SHAPE)), ValueError, "does not fit"),
    ):
        with pytest.raises(kind, match=match):
            make()
    assert Experts(Orthogonal())(torch.empty(0, 4, 4), key=KEY).shape == (0, 4, 4)
    assert Experts(Orthogonal())(torch.empty(4, 0, 4), key=KEY).shape == (4, 0, 4)
