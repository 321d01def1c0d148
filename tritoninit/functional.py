"""``torch.nn.init``, drop-in: its names, positional arguments, return values, errors and warnings.

Every function takes a torch tensor, a NumPy array or any object with ``__dlpack__``, sets it in place and
returns it. Beyond torch: ``key=`` says which random numbers (without one, 64 bits are drawn from
``generator``, or from PyTorch's default CPU generator), and ``window=`` which part of a global tensor the
memory holds. See :class:`tritoninit.fills.Initializer` for the errors that all of them share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from tritoninit import fills, initializers, structured
from tritoninit.keys import Key
from tritoninit.window import Window

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


def uniform_(
    tensor: T,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with U(a, b): ``a`` can come back, ``b`` never does, in any dtype.

    >>> uniform_(torch.empty(2, 3), -0.1, 0.1, key=Key(0)).abs().max() < 0.1
    tensor(True)
    """
    return fills.Uniform(a, b)(tensor, key=key, window=window, generator=generator)


def normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with N(mean, std**2).

    >>> normal_(torch.empty(4), key=Key(0))[:2].equal(normal_(torch.empty(2), key=Key(0)))
    True
    """
    return fills.Normal(mean, std)(tensor, key=key, window=window, generator=generator)


def trunc_normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with N(mean, std**2) conditioned to [a, b]; ``a`` and ``b`` are values, not multiples of std.

    Warns as torch does where the mean is more than two standard deviations outside [a, b]; the distribution
    is right there too, up to six.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in trunc_normal_: the values crowd at the nearer bound.",
            stacklevel=2,
        )
    return fills.TruncatedNormal(mean, std, a, b)(tensor, key=key, window=window, generator=generator)


def constant_(tensor: T, val: float) -> T:
    """Fill with ``val``, in any dtype."""
    return fills.Constant(val)(tensor)


def ones_(tensor: T) -> T:
    """Fill with 1, in any dtype."""
    return initializers.Ones()(tensor)


def zeros_(tensor: T) -> T:
    """Fill with 0, in any dtype."""
    return initializers.Zeros()(tensor)


def eye_(tensor: T, *, window: Window | None = None) -> T:
    """Set a matrix to the identity, or as much of it as fits."""
    return structured.Eye()(tensor, window=window)


def dirac_(tensor: T, groups: int = 1, *, window: Window | None = None) -> T:
    """Set a convolution's weight (out, in, *field) to the kernel that passes its inputs on."""
    return structured.Dirac(groups)(tensor, window=window)


def xavier_uniform_(
    tensor: T,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    Fans are those of the window's global shape.
    """
    return initializers.XavierUniform(gain)(tensor, key=key, window=window, generator=generator)


def xavier_normal_(
    tensor: T,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with N(0, std**2), std = gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    Fans are those of the window's global shape.
    """
    return initializers.XavierNormal(gain)(tensor, key=key, window=window, generator=generator)


def kaiming_uniform_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with U(-bound, bound), bound = gain sqrt(3 / fan) (He et al., 2015).

    Fans are those of the window's global shape, which is taken as (out, in, *field), as ``x @ w.T`` has it.
    """
    if _is_empty(tensor, window):
        return tensor
    kaiming = initializers.KaimingUniform(a, mode, nonlinearity)
    return kaiming(tensor, key=key, window=window, generator=generator)


def kaiming_normal_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill with N(0, std**2), std = gain / sqrt(fan) (He et al., 2015).

    Fans are those of the window's global shape, which is taken as (out, in, *field), as ``x @ w.T`` has it.
    """
    if _is_empty(tensor, window):
        return tensor
    kaiming = initializers.KaimingNormal(a, mode, nonlinearity)
    return kaiming(tensor, key=key, window=window, generator=generator)


def orthogonal_(
    tensor: T,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Set to a (semi-)orthogonal matrix times ``gain``, uniform in the Haar measure (Saxe et al., 2014).

    Dimensions after the first are flattened. bfloat16 and float16 are computed in float32.
    """
    return structured.Orthogonal(gain)(tensor, key=key, window=window, generator=generator)


def sparse_(
    tensor: T,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | None = None,
) -> T:
    """Fill a matrix with N(0, std**2) and ceil(sparsity * rows) zeros in each column (Martens, 2010)."""
    return structured.Sparse(sparsity, std)(tensor, key=key, window=window, generator=generator)


def _is_empty(tensor: Any, window: Window | None) -> bool:
    """Whether the global tensor has no element; an empty shard of one that has takes its key all the same."""
    shape = getattr(tensor, "shape", ()) if window is None else window.global_shape
    if 0 not in shape:
        return False
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return True


def _deprecated(function: Callable[P, R]) -> Callable[P, R]:
    """torch.nn.init's old spelling of a function, without the underscore, which warns."""
    old = function.__name__[:-1]

    def alias(*args: P.args, **kwargs: P.kwargs) -> R:
        warnings.warn(
            f"`tritoninit.{old}` is deprecated in favor of `tritoninit.{function.__name__}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Deprecated spelling of :func:`{function.__name__}`."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
