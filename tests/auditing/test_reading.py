"""A tensor's elements a piece at a time: all of them, in order, and no more than was asked for."""

import pytest
import torch

import tritoninit as ti
from tritoninit.auditing.reading import check_readable, pieces

X = torch.arange(2 * 6 * 30 * 41.0).view(2, 6, 30, 41)


@pytest.mark.parametrize("most", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    "x",
    [
        X,
        X.mT,
        X.permute(3, 1, 0, 2),
        X[:, ::2, 3:, 1],
        X[0, 0, :1].expand(5, 41),
        X[0, 0].to(torch.complex64).conj(),
        X[0, 0, 0, :1],
        torch.tensor(3.0),
    ],
    ids=["whole", "turned", "permuted", "cut", "expanded", "conjugate", "one", "scalar"],
)
def test_every_element_in_order(x, most):
    found = list(pieces(x, most))
    begins = [begin for begin, _ in found]
    sizes = [piece.numel() for _, piece in found]
    assert begins == [sum(sizes[:k]) for k in range(len(sizes))]
    assert sizes[0] == max(sizes) <= most
    assert all(piece.stride() == (1,) for _, piece in found)
    assert torch.equal(torch.cat([piece for _, piece in found]), x.resolve_conj().reshape(-1))


def test_nothing():
    assert not list(pieces(torch.empty(0, 3), 10))


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.empty(3, device="meta"), "a meta tensor has no memory"),
        (torch.eye(3).to_sparse(), "only strided tensors can be read, not torch.sparse_coo"),
        (torch.nn.UninitializedParameter(), "a lazy parameter has no shape yet"),
    ],
)
def test_unreadable(x, reason):
    with pytest.raises(ti.TargetError, match=reason):
        check_readable(x)


def test_readable():
    check_readable(X.mT)
    check_readable(torch.nn.Parameter(torch.ones(2), requires_grad=False))
