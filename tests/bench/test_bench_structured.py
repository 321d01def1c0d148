"""That no wrong matrix is timed."""

import math

import pytest
import torch

import tritoninit as ti
from tritoninit.bench import bench_structured, contenders
from tritoninit.bench.contenders import WrongValues


def test_a_wrong_orthogonal_matrix_is_found():
    x = ti.orthogonal_(torch.empty(64, 64), key=ti.Key(0))
    bench_structured.check_orthogonal(x)
    with pytest.raises(WrongValues, match="not orthogonal"):
        bench_structured.check_orthogonal(x * 1.0001)
    with pytest.raises(WrongValues, match="not orthogonal"):
        bench_structured.check_orthogonal(torch.full((64, 64), math.nan))


def test_a_wrong_sparse_matrix_is_found():
    x = ti.sparse_(torch.empty(512, 512), 0.9, 0.01, key=contenders.KEY)
    bench_structured.check_sparse(x)
    bench_structured.check_sparse_bits(x)
    with pytest.raises(WrongValues, match="zeros"):
        bench_structured.check_sparse(x.fill_diagonal_(0.01))
    other = ti.sparse_(torch.empty(512, 512), 0.9, 0.01, key=ti.Key(1))
    bench_structured.check_sparse(other)
    with pytest.raises(WrongValues, match="another"):
        bench_structured.check_sparse_bits(other)


@pytest.mark.parametrize("subject", bench_structured.tasks())
def test_both_write_what_is_checked(subject):
    """Ours and torch's, of a small shape; and the check is none that passes all."""
    task = bench_structured.tasks()[subject]
    shapes = {"64 orthogonal": (3, 40, 40), "dirac": (8, 4, 3, 3), "permutation": (5000,)}
    shape = (shapes | {"delta orthogonal": (8, 4, 3, 3)}).get(subject, (640, 640))
    ours = task.initializer(torch.full(shape, math.nan), key=ti.Key(1))
    theirs = torch.full(shape, math.nan)
    task.by_torch(theirs)
    for x in (ours, theirs):
        task.check(x)
        with pytest.raises(WrongValues):
            task.check(x.flatten().roll(1).view(shape) + 0.01)


@pytest.mark.parametrize("subject", bench_structured.draws())
def test_draws(subject):
    """Torch's are right, and so are ours; other ones are not."""
    torch.manual_seed(0)
    task = bench_structured.draws()[subject]
    ours, theirs = torch.empty(256, 256), torch.empty(256, 256)
    task.initializer(ours, key=ti.Key(0))
    task.by_torch(theirs)
    for x in (ours, theirs):
        task.check(x)
        with pytest.raises(WrongValues, match="of the numbers are above"):
            task.check(x.abs() + 3000)
    with pytest.raises(WrongValues):
        task.check(torch.full((9, 9), math.nan))
