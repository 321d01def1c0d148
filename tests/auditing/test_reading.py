"""A tensor's elements a piece at a time: all of them, in order, and no more than was asked for."""

import pytest
import torch

import tritoninit as ti
from tritoninit.auditing.reading import Constants, check_readable, pieces

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


def of_every_kind(device):
    big = torch.full((3, 100_003), 0.25, device=device)
    odd = big.clone()
    odd[2, 50_001] = 0.5
    signs = torch.zeros(1000, device=device)
    signs[500] = -0.0
    floats = [big, odd, signs, torch.full((9,), float("nan"), device=device), torch.ones(1, device=device)]
    others = [big.mT, big[:, 1:], torch.full((4,), 7, device=device), torch.rand(5, 5, device=device)]
    return [*floats, *others, *(x.to(dtype) for x in floats for dtype in (torch.bfloat16, torch.float64))]


def test_what_is_one_number_throughout():
    given = of_every_kind("cpu")
    expected = {
        k: x.flatten()[0].item() for k, x in enumerate(given) if x.numel() > 1 and (x == x.flatten()[0]).all()
    }
    found = Constants(given)
    for x in given:
        x.zero_()  # what was found stays
    assert dict(found) == dict(found) == expected
    assert [x for _, x in found].count(0.25) == 5


@pytest.mark.gpu
def test_a_gpu_looks_by_itself():
    """And nobody waits for it: what is written afterwards changes nothing."""
    expected = list(Constants(of_every_kind("cpu")))
    given = of_every_kind("cuda")
    found = Constants(given)
    for x in given:
        x.fill_(3)
    assert list(found) == expected
