"""``torch.nn.init``, drop-in: its names, positional arguments, return values, errors and warnings.

Every function takes a torch tensor, a NumPy array or any object with ``__dlpack__``, sets it in place and
returns it. Beyond torch: ``key=`` says which random numbers (without one, 64 bits are drawn from
``generator``, or from PyTorch's default CPU generator), and ``window=`` which part of a global tensor the
memory holds. Of a DTensor each rank sets what it holds of the one global tensor, without communication.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch.compiler import is_dynamo_compiling

from tritoninit import fills, initializers, structured, traced
from tritoninit.combinators import rounded
from tritoninit.kernels.lowering import plain
from tritoninit.keys import Key
from tritoninit.rounding import NEAREST, check_rounding
from tritoninit.window import Window
from tritoninit.windows import Windows

__all__ = [
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

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
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with the uniform distribution on [a, b): ``b`` itself never comes back, in any dtype.

    Elements are a + u (b - a) with u on a grid of 2**-24, rounded twice, from Philox4x32-10 (Salmon et al.,
    SC'11).

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any shape
            and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        a: the lower bound, which can come back.
        b: the upper bound.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: the bounds are not finite or not in order, out of the dtype's range, or without a number
            of it between them (a :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the
            tensor has no memory of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> uniform_(torch.empty(2, 3), -0.1, 0.1, key=Key(0)).abs().max() < 0.1
    tensor(True)
    """
    if is_dynamo_compiling():
        return traced.fill("uniform", tensor, (a, b), generator, key, window, rounding=rounding)
    fill = _uniform(a, b) if type(a) is type(b) is float else fills.Uniform(plain("a", a), plain("b", b))
    if rounding != NEAREST:
        return rounded(fill, rounding)(tensor, key=key, window=window, generator=generator)
    return fill.__call__(tensor, key=key, window=window, generator=generator)


# By Python's floats, which compare as what they are: to make one takes as long as to draw dozens of elements.
_uniform = lru_cache(maxsize=256)(fills.Uniform)
_normal = lru_cache(maxsize=256)(fills.Normal)
_truncated_normal = lru_cache(maxsize=256)(fills.TruncatedNormal)
_xavier_uniform = lru_cache(maxsize=256)(initializers.XavierUniform)
_xavier_normal = lru_cache(maxsize=256)(initializers.XavierNormal)
_kaiming_uniform = lru_cache(maxsize=256)(initializers.KaimingUniform)
_kaiming_normal = lru_cache(maxsize=256)(initializers.KaimingNormal)

_ZEROS, _ONES = initializers.Zeros(), initializers.Ones()


def _are_plain(a: object, mode: object, nonlinearity: object) -> bool:
    """Whether these are what they compare as."""
    return type(a) in (float, int) and type(mode) is type(nonlinearity) is str


def normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with the normal distribution N(mean, std**2).

    Elements are mean + z std with z by the method of Box and Muller (1958); |z| reaches 6.66.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any shape
            and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        mean: the mean.
        std: the standard deviation, not negative.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: a number is not finite, std is negative, or abs(mean) + 6.66 std, as far as values get,
            is out of the dtype's range (a :class:`~tritoninit.ParameterError`, which is a RuntimeError, too);
            the tensor has no memory of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> normal_(torch.empty(4), key=Key(0))[:2].equal(normal_(torch.empty(2), key=Key(0)))
    True
    """
    if is_dynamo_compiling():
        return traced.fill("normal", tensor, (mean, std), generator, key, window, rounding=rounding)
    fill = _normal(mean, std) if type(mean) is type(std) is float else fills.Normal(mean, std)
    if rounding != NEAREST:
        return rounded(fill, rounding)(tensor, key=key, window=window, generator=generator)
    return fill.__call__(tensor, key=key, window=window, generator=generator)


def trunc_normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with the normal distribution N(mean, std**2) conditioned to [a, b].

    Elements are quantiles of the conditioned distribution: the inverse of its distribution function, without
    rejection. Warns as torch does where the mean is more than two standard deviations outside [a, b]; the
    distribution is right there too.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any shape
            and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        mean: of the whole normal distribution.
        std: of the whole normal distribution, positive.
        a: the lower bound, a value and not a multiple of std; may be -inf.
        b: the upper bound; may be inf.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: the bounds are not in order, std is not positive, the interval lies more than six
            standard deviations from the mean, or values would be out of the dtype's range (a
            :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no memory of
            its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> x = trunc_normal_(torch.empty(1000), std=0.02, a=-0.04, b=0.04, key=Key(0))
    >>> bool(x.abs().max() <= 0.04)
    True
    """
    if is_dynamo_compiling():
        return traced.fill(
            "trunc_normal", tensor, (mean, std, a, b), generator, key, window, rounding=rounding
        )
    if type(mean) is type(std) is type(a) is type(b) is float:
        fill = _truncated_normal(mean, std, a, b)
    else:
        fill = fills.TruncatedNormal(mean, std, a, b)
    if fill.is_far:
        warnings.warn(
            "mean is more than 2 std from [a, b] in trunc_normal_: the values crowd at the nearer bound.",
            stacklevel=2,
        )
    if rounding != NEAREST:
        return rounded(fill, rounding)(tensor, key=key, window=window, generator=generator)
    return fill.__call__(tensor, key=key, window=window, generator=generator)


def constant_(tensor: T, val: float) -> T:
    """Fill with one value.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any shape
            and strides; any dtype.
        val: the value, in the range of the dtype.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor.
        ValueError: the dtype cannot hold the value (a :class:`~tritoninit.ParameterError`, which is a
            RuntimeError, too); the tensor has no memory of its own (meta, lazy).

    >>> constant_(torch.empty(2, dtype=torch.int64), 3)
    tensor([3, 3])
    """
    if is_dynamo_compiling():
        return traced.fill("constant", tensor, (val,), random=False)
    return fills.Constant(val).__call__(tensor)


def ones_(tensor: T) -> T:
    """Fill with 1.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any shape
            and strides; any dtype.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor.
        ValueError: the tensor has no memory of its own (meta, lazy).

    >>> ones_(torch.empty(2))
    tensor([1., 1.])
    """
    if is_dynamo_compiling():
        return traced.fill("ones", tensor, (), random=False)
    return _ONES.__call__(tensor)


def zeros_(tensor: T) -> T:
    """Fill with 0.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any shape
            and strides; any dtype.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor.
        ValueError: the tensor has no memory of its own (meta, lazy).

    >>> zeros_(torch.empty(2))
    tensor([0., 0.])
    """
    if is_dynamo_compiling():
        return traced.fill("zeros", tensor, (), random=False)
    return _ZEROS.__call__(tensor)


def eye_(tensor: T, *, window: Window | None = None) -> T:
    """Set a matrix to the identity, or to as much of it as a rectangle holds.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; two dimensions;
            any dtype.
        window: which part of a global tensor this one is; all of it if None.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor.
        ValueError: not two dimensions; the tensor has no memory of its own (meta, lazy), or does not lie
            inside the window.

    >>> eye_(torch.empty(2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    if is_dynamo_compiling():
        return traced.fill("eye", tensor, (), window=window, random=False)
    return structured.Eye()(tensor, window=window)


def dirac_(tensor: T, groups: int = 1, *, window: Window | None = None) -> T:
    """Set a convolution's weight to the kernel that passes its inputs on (Zagoruyko and Komodakis, 2017).

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; shape (out, in,
            *field) of three to five dimensions; any dtype.
        groups: output channels are cut into so many groups, each of which passes its inputs on.
        window: which part of a global tensor this one is; all of it if None.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor.
        ValueError: another number of dimensions, or one that groups do not divide; the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.

    >>> dirac_(torch.empty(2, 2, 3))[:, :, 1]
    tensor([[1., 0.],
            [0., 1.]])
    """
    if is_dynamo_compiling():
        return traced.fill("dirac", tensor, (groups,), window=window, random=False)
    return structured.Dirac(groups)(tensor, window=window)


def xavier_uniform_(
    tensor: T,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio, AISTATS 2010, equation 16.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of two
            dimensions or more; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        gain: a factor, not negative; see :func:`~tritoninit.calculate_gain`.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None. Fans are those of the global
            shape, which is taken as (out, in, *field), as ``x @ w.T`` has it.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: fewer than two dimensions; a gain that is negative or not finite; the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> bool(xavier_uniform_(torch.empty(5, 7), key=Key(0)).abs().max() < (6 / 12) ** 0.5)
    True
    """
    if is_dynamo_compiling():
        return traced.fill("xavier_uniform", tensor, (gain,), generator, key, window, rounding=rounding)
    initializer = (_xavier_uniform if type(gain) is float else initializers.XavierUniform)(gain)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer.__call__(tensor, key=key, window=window, generator=generator)


def xavier_normal_(
    tensor: T,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with N(0, std**2), std = gain sqrt(2 / (fan_in + fan_out)).

    Glorot and Bengio, AISTATS 2010.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of two
            dimensions or more; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        gain: a factor, not negative; see :func:`~tritoninit.calculate_gain`.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None. Fans are those of the global
            shape, which is taken as (out, in, *field), as ``x @ w.T`` has it.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: fewer than two dimensions; a gain that is negative or not finite; the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> x = xavier_normal_(torch.empty(5, 7), key=Key(0))
    >>> x.equal(normal_(torch.empty(5, 7), 0, (1 / 6) ** 0.5, key=Key(0)))
    True
    """
    if is_dynamo_compiling():
        return traced.fill("xavier_normal", tensor, (gain,), generator, key, window, rounding=rounding)
    initializer = (_xavier_normal if type(gain) is float else initializers.XavierNormal)(gain)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer.__call__(tensor, key=key, window=window, generator=generator)


def kaiming_uniform_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with U(-bound, bound), bound = gain sqrt(3 / fan).

    He, Zhang, Ren and Sun, ICCV 2015, section 2.2. Where the global tensor has no element, warns as torch
    does and draws nothing.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of two
            dimensions or more; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        a: the negative slope of the leaky ReLU that follows; counts with nonlinearity "leaky_relu" alone;
            0.01 if None.
        mode: "fan_in" keeps the variance of the forward pass, "fan_out" that of the backward pass.
        nonlinearity: what follows the layer, which decides the gain; see :func:`~tritoninit.calculate_gain`.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None. Fans are those of the global
            shape, which is taken as (out, in, *field), as ``x @ w.T`` has it.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: fewer than two dimensions; an unknown mode or nonlinearity; the tensor has no memory of
            its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> bool(kaiming_uniform_(torch.empty(4, 6), 5**0.5, key=Key(0)).abs().max() < 6**-0.5)
    True
    """
    if is_dynamo_compiling():
        if traced.is_empty(tensor, window):
            return tensor
        return traced.fill(
            "kaiming_uniform", tensor, (a, mode, nonlinearity), generator, key, window, rounding=rounding
        )
    if rounding != NEAREST:
        check_rounding(rounding)
    if _is_empty(tensor, window):
        return tensor
    make = _kaiming_uniform if _are_plain(a, mode, nonlinearity) else initializers.KaimingUniform
    initializer = make(a, mode, nonlinearity)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer.__call__(tensor, key=key, window=window, generator=generator)


def kaiming_normal_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with N(0, std**2), std = gain / sqrt(fan).

    He, Zhang, Ren and Sun, ICCV 2015, equations 10 and 14. Where the global tensor has no element, warns as
    torch does and draws nothing.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of two
            dimensions or more; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        a: the negative slope of the leaky ReLU that follows; counts with nonlinearity "leaky_relu" alone;
            0.01 if None.
        mode: "fan_in" keeps the variance of the forward pass, "fan_out" that of the backward pass.
        nonlinearity: what follows the layer, which decides the gain; see :func:`~tritoninit.calculate_gain`.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None. Fans are those of the global
            shape, which is taken as (out, in, *field), as ``x @ w.T`` has it.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: fewer than two dimensions; an unknown mode or nonlinearity; the tensor has no memory of
            its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> x = kaiming_normal_(torch.empty(6, 4, 3, 3), mode="fan_out", nonlinearity="relu", key=Key(0))
    >>> x.equal(normal_(torch.empty(6, 4, 3, 3), 0, (2 / 54) ** 0.5, key=Key(0)))
    True
    """
    if is_dynamo_compiling():
        if traced.is_empty(tensor, window):
            return tensor
        return traced.fill(
            "kaiming_normal", tensor, (a, mode, nonlinearity), generator, key, window, rounding=rounding
        )
    if rounding != NEAREST:
        check_rounding(rounding)
    if _is_empty(tensor, window):
        return tensor
    make = _kaiming_normal if _are_plain(a, mode, nonlinearity) else initializers.KaimingNormal
    initializer = make(a, mode, nonlinearity)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer.__call__(tensor, key=key, window=window, generator=generator)


def orthogonal_(
    tensor: T,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Set to a (semi-)orthogonal matrix times ``gain``, uniform in the Haar measure.

    Saxe, McClelland and Ganguli, ICLR 2014: Q of the QR factorisation of standard normals, in float32, with
    the signs of R's diagonal made positive (Mezzadri, Notices of the AMS 54, 2007). The normals are equal
    everywhere; Q has the same bits on all CPUs with numba, and is else LAPACK's or cuSOLVER's, equal to
    rounding. For each of the matrices that leading dimensions number: ``Experts(Orthogonal(), dims)``.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of two
            dimensions or more, those after the first flattened to one; float64, float32, or 16 or
            8 bits: the float32 value rounded once.
        gain: a finite factor.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None. A shard builds the whole global
            matrix, in float32, and keeps its part.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: fewer than two dimensions; a gain that is not finite; the tensor has no memory of its own
            (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> q = orthogonal_(torch.empty(3, 3), key=Key(0))
    >>> torch.allclose(q @ q.T, torch.eye(3), atol=1e-6)
    True
    """
    if is_dynamo_compiling():
        return traced.fill("orthogonal", tensor, (gain,), generator, key, window, rounding=rounding)
    initializer = structured.Orthogonal(gain)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer.__call__(tensor, key=key, window=window, generator=generator)


def sparse_(
    tensor: T,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill a matrix with N(0, std**2) and ceil(sparsity * rows) zeros in each column.

    Martens, "Deep learning via Hessian-free optimization", ICML 2010. Zeros are where an independent stream
    of uniforms (``key.fold_in("sparse")``) is smallest in the column.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; two dimensions;
            float64, float32, or 16 or 8 bits: the float32 value rounded once.
        sparsity: the fraction of each column that is zero, in [0, 1].
        std: the standard deviation of the rest.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever the
            tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None. A shard draws the uniforms
            of its columns' other rows, too.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: not two dimensions; a sparsity outside [0, 1]; a negative std; the tensor has no memory of
            its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> (sparse_(torch.empty(10, 2), 0.3, key=Key(0)) == 0).sum(0)
    tensor([3, 3])
    """
    if is_dynamo_compiling():
        return traced.fill("sparse", tensor, (sparsity, std), generator, key, window, rounding=rounding)
    initializer = structured.Sparse(sparsity, std)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer.__call__(tensor, key=key, window=window, generator=generator)


def _is_empty(tensor: Any, window: Window | Windows | None) -> bool:
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
        if not is_dynamo_compiling():  # which cannot warn
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
