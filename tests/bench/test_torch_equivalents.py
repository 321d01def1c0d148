"""What torch.nn.init is held against writes the same distribution."""

import pytest
import torch

import tritoninit as ti
from tritoninit.bench.torch_equivalents import torch_equivalent
from tritoninit.combinators import ZeroRow


@pytest.mark.parametrize(
    "initializer",
    [
        ti.Constant(0.5),
        ti.Uniform(-0.5, 0.25),
        ti.Normal(1.0, 0.5),
        ti.TruncatedNormal(0.0, 1.0, -0.5, 1.0),
        ti.Orthogonal(2.0),
        ti.Sparse(0.25, 0.1),
        ti.Eye(),
        ti.Dirac(2),
        ZeroRow(ti.Normal(), 3),
    ],
)
def test_same_distribution(initializer):
    torch.manual_seed(0)
    shape = (120, 60, 3) if isinstance(initializer, ti.Dirac) else (120, 120)
    theirs = torch.empty(shape)
    assert torch_equivalent(initializer)(theirs) is theirs
    ours = initializer(torch.empty(shape), key=ti.Key(0))
    # 14,400 numbers each: the difference of two means has a standard error of std / 85.
    assert abs(ours.mean() - theirs.mean()) < 5 * theirs.std() / 85 + 1e-6
    assert ours.std() == pytest.approx(float(theirs.std()), rel=5 / 120)
    assert (ours == 0).sum() == (theirs == 0).sum()


def test_none():
    with pytest.raises(NotImplementedError, match=r"torch\.nn\.init has no Keep"):
        torch_equivalent(ti.Keep())
