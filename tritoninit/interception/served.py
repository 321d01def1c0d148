"""What is served: torch's functions and methods that fill, and the initializers that do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tritoninit.distributions import Bernoulli, Cauchy, Exponential, Geometric, LogNormal, RandInt
from tritoninit.fills import Constant, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import (
    KaimingNormal,
    KaimingUniform,
    Ones,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from tritoninit.structured import Dirac, Eye, Orthogonal, Sparse

# torch.nn.init's functions; the deprecated spellings call these. Random ones take a generator last.
FUNCTIONS: dict[str, type[Initializer]] = {
    "uniform_": Uniform,
    "normal_": Normal,
    "trunc_normal_": TruncatedNormal,
    "constant_": Constant,
    "ones_": Ones,
    "zeros_": Zeros,
    "eye_": Eye,
    "dirac_": Dirac,
    "xavier_uniform_": XavierUniform,
    "xavier_normal_": XavierNormal,
    "kaiming_uniform_": KaimingUniform,
    "kaiming_normal_": KaimingNormal,
    "orthogonal_": Orthogonal,
    "sparse_": Sparse,
}
FIXED = {"constant_", "ones_", "zeros_", "eye_", "dirac_"}


def _integers(*bounds: Any, low: Any = 0, high: Any = None) -> Initializer:
    """``random_``, of which a single bound is the one above unless that has a name."""
    if len(bounds) == 1 and high is not None:
        return RandInt(bounds[0], high)
    return RandInt.between(*bounds) if bounds else RandInt(low, high)


# In-place methods, and the initializer's names for their arguments.
METHODS: dict[Callable[..., Any], tuple[Callable[..., Initializer], dict[str, str]]] = {
    Tensor.uniform_: (Uniform, {"from": "low", "to": "high"}),
    Tensor.normal_: (Normal, {"mean": "mean", "std": "std"}),
    Tensor.fill_: (Constant, {"value": "value"}),
    torch.fill_: (Constant, {"value": "value"}),
    Tensor.zero_: (Zeros, {}),
    torch.zero_: (Zeros, {}),
    Tensor.exponential_: (Exponential, {"lambd": "rate"}),
    Tensor.log_normal_: (LogNormal, {}),
    Tensor.cauchy_: (Cauchy, {"sigma": "scale"}),
    Tensor.geometric_: (Geometric, {}),
    Tensor.bernoulli_: (Bernoulli, {}),
    Tensor.random_: (_integers, {"from": "low", "to": "high"}),
}
