"""What torch.nn.init calls the same: for whoever measures us against it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tritoninit.combinators import StochasticallyRounded, ZeroRow
from tritoninit.fills import Constant, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.structured import Dirac, Eye, Orthogonal, Sparse


def torch_equivalent(initializer: Initializer) -> Callable[[Tensor], Tensor]:
    """What torch.nn.init has for a fill, or for an initializer that is built on fills.

    Raises:
        NotImplementedError: it has nothing.
    """
    match initializer:
        case Constant(value):
            return lambda x: nn.init.constant_(x, value)
        case Uniform(low, high):
            return lambda x: nn.init.uniform_(x, low, high)
        case Normal(mean, std):
            return lambda x: nn.init.normal_(x, mean, std)
        case TruncatedNormal(mean, std, a, b):
            return lambda x: nn.init.trunc_normal_(x, mean, std, a, b)
        case Orthogonal(gain):
            return lambda x: nn.init.orthogonal_(x, gain)
        case Sparse(sparsity, std):
            return lambda x: nn.init.sparse_(x, sparsity, std)
        case Eye():
            return nn.init.eye_
        case Dirac(groups):
            return lambda x: nn.init.dirac_(x, groups)
        case ZeroRow(inner, row):
            whole = torch_equivalent(inner)

            def but_for_a_row(x: Tensor) -> Tensor:
                whole(x).detach()[row].zero_()
                return x

            return but_for_a_row
        case StochasticallyRounded(inner):  # which torch rounds to nearest
            return torch_equivalent(inner)
    raise NotImplementedError(f"torch.nn.init has no {type(initializer).__name__}")
