"""Methods of ``torch.Tensor`` that draw other distributions, as functions of this library's random
numbers.

As :mod:`tritoninit.functional`: the method's positional arguments, and ``key=`` and ``window=`` beyond
them.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.compiler import is_dynamo_compiling

from tritoninit import distributions, traced
from tritoninit.combinators import rounded
from tritoninit.keys import Key
from tritoninit.rounding import NEAREST, check_rounding
from tritoninit.window import Window
from tritoninit.windows import Windows

__all__ = [
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "permutation_",
    "randint_",
    "random_",
]

T = TypeVar("T")


def exponential_(
    tensor: T,
    lambd: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with the exponential distribution of density lambd exp(-lambd x).

    Elements are -log(u) / lambd of 48 bits, in float64 of 77: positive, up to 33.97 / lambd (54.07).

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        lambd: the rate, one over the mean; positive.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: lambd is not positive or not finite, or 33.97 / lambd out of the dtype's range (a
            :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> bool((exponential_(torch.empty(9), key=Key(0)) > 0).all())
    True
    """
    if is_dynamo_compiling():
        return traced.fill("exponential", tensor, (lambd,), generator, key, window, rounding=rounding)
    initializer = distributions.Exponential(lambd)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer(tensor, key=key, window=window, generator=generator)


def log_normal_(
    tensor: T,
    mean: float = 1.0,
    std: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with exp of the normal distribution N(mean, std**2).

    The normal numbers are those of :func:`~tritoninit.normal_` in float32, or in float64 for float64.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        mean: of the logarithm.
        std: of the logarithm; positive.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: a number is not finite, std is not positive, or exp(mean + 6.66 std) out of the
            dtype's range (a :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the
            tensor has no memory of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> bool((log_normal_(torch.empty(9), 0.0, 0.1, key=Key(0)) < 2).all())
    True
    """
    if is_dynamo_compiling():
        return traced.fill("log_normal", tensor, (mean, std), generator, key, window, rounding=rounding)
    initializer = distributions.LogNormal(mean, std)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer(tensor, key=key, window=window, generator=generator)


def cauchy_(
    tensor: T,
    median: float = 0.0,
    sigma: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with the Cauchy distribution: median + sigma tan(pi (u - 1/2)).

    u has 48 bits, and elements reach 1.8e14 sigma, which float16 does not hold; in float64 it has 77, and
    they reach 9.7e22 sigma.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        median: half of the numbers are smaller.
        sigma: half of the numbers are nearer to the median than that; positive.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: a number is not finite, sigma is not positive, or values are out of the dtype's range
            (a :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no
            memory of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> cauchy_(torch.empty(3, 2), key=Key(0)).shape
    torch.Size([3, 2])
    """
    if is_dynamo_compiling():
        return traced.fill("cauchy", tensor, (median, sigma), generator, key, window, rounding=rounding)
    initializer = distributions.Cauchy(median, sigma)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer(tensor, key=key, window=window, generator=generator)


def geometric_(
    tensor: T,
    p: float,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with how many trials the first success takes, from 1.

    Elements are ceil(log(u) / log(1 - p)) of 48 bits, in float64 of 77.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; float64, float32, or 16 or 8 bits: the float32 value rounded once.
        p: the probability of success, between 0 and 1.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": up or down at random, right in the mean; see
            :class:`~tritoninit.StochasticallyRounded`. Of float32 and float64 it changes nothing.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: p is not between 0 and 1, or 34 / -log(1 - p) out of the dtype's range (a
            :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.
        NotImplementedError: the tensor is of another dtype.

    >>> bool((geometric_(torch.empty(9), 0.5, key=Key(0)) >= 1).all())
    True
    """
    if is_dynamo_compiling():
        return traced.fill("geometric", tensor, (p,), generator, key, window, rounding=rounding)
    initializer = distributions.Geometric(p)
    if rounding != NEAREST:
        return rounded(initializer, rounding)(tensor, key=key, window=window, generator=generator)
    return initializer(tensor, key=key, window=window, generator=generator)


def bernoulli_(
    tensor: T,
    p: float = 0.5,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with ones with probability ``p``, and zeros.

    Of 48 bits, so that p counts to 2**-48.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; any dtype.
        p: in [0, 1]; one number for all elements.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: "nearest" or "stochastic", which is the same here: the dtype has what is drawn, and nothing
            is rounded.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: p is not in [0, 1] (a :class:`~tritoninit.ParameterError`, which is a RuntimeError,
            too); the tensor has no memory of its own (meta, lazy), or does not lie inside the window.

    >>> bernoulli_(torch.empty(4, dtype=torch.bool), 1.0).all()
    tensor(True)
    """
    if is_dynamo_compiling():
        return traced.fill("bernoulli", tensor, (p,), generator, key, window, rounding=rounding)
    check_rounding(rounding)
    return distributions.Bernoulli(p)(tensor, key=key, window=window, generator=generator)


def randint_(
    tensor: T,
    low: int,
    high: int,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with integers from ``low`` to ``high`` - 1, all as likely.

    Elements are low + floor(w (high - low) / 2**64) of words w of 64 bits. The arguments are
    ``torch.randint``'s.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; any dtype that holds the integers.
        low: the least.
        high: one more than the greatest.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: "nearest" or "stochastic", which is the same here: the dtype has what is drawn, and nothing
            is rounded.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: low is not below high, or the dtype does not hold all of them (a
            :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.

    >>> randint_(torch.empty(1000, dtype=torch.int64), 0, 3, key=Key(0)).unique()
    tensor([0, 1, 2])
    """
    if is_dynamo_compiling():
        return traced.fill("randint", tensor, (low, high), generator, key, window, rounding=rounding)
    check_rounding(rounding)
    return distributions.RandInt(low, high)(tensor, key=key, window=window, generator=generator)


def random_(
    tensor: T,
    *bounds: int | None,
    generator: torch.Generator | None = None,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with integers, as ``torch.Tensor.random_``: all of the dtype's from 0, or between bounds.

    Elements are those of :func:`~tritoninit.randint_`.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; any dtype that holds the integers.
        bounds: none: from 0 to what the dtype holds, of floats 2**24 (float32), 2**11 (float16), 2**8
            (bfloat16) or 2**53 (float64). One: from 0 to that, less one. Two: from the first to the
            second,
            less one; None as the second is what the dtype holds.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: "nearest" or "stochastic", which is the same here: the dtype has what is drawn, and nothing
            is rounded.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a bound no integer, or ``key`` no :class:`~tritoninit.Key`;
            more than two bounds.
        ValueError: the bounds are not in order, or the dtype does not hold all of them (a
            :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.

    >>> random_(torch.empty(1000, dtype=torch.uint8), 250, None, key=Key(0)).unique()
    tensor([250, 251, 252, 253, 254, 255], dtype=torch.uint8)
    """
    if is_dynamo_compiling():
        numbers = distributions.lowest_and_end(bounds)
        return traced.fill("randint", tensor, numbers, generator, key, window, rounding=rounding)
    check_rounding(rounding)
    integers = distributions.RandInt.between(*bounds)
    return integers(tensor, key=key, window=window, generator=generator)


def permutation_(
    tensor: T,
    generator: torch.Generator | None = None,
    *,
    key: Key | None = None,
    window: Window | Windows | None = None,
    rounding: str = NEAREST,
) -> T:
    """Fill with the indices 0 to n - 1 in random order, along the last dimension.

    What ``torch.randperm`` makes; of more dimensions the others number permutations, each of its own.
    They are the order of words of 64 bits.

    Args:
        tensor: a torch tensor on any device, a NumPy array, or an object with ``__dlpack__``; of any
            shape and strides; any dtype that holds n - 1.
        generator: where a key's 64 bits are drawn from: PyTorch's default CPU generator if None, whatever
            the tensor's device. Not together with ``key``.
        key: which random numbers: the same key gives the same elements on every device and shard.
        window: which part of a global tensor this one is; all of it if None.
        rounding: "nearest" or "stochastic", which is the same here: the dtype has what is drawn, and nothing
            is rounded.

    Returns:
        ``tensor``, set in place.

    Raises:
        TypeError: ``tensor`` is no tensor, a number none, or ``key`` no :class:`~tritoninit.Key`.
        ValueError: there is no dimension, or the dtype does not hold n - 1 (a
            :class:`~tritoninit.ParameterError`, which is a RuntimeError, too); the tensor has no memory
            of its own (meta, lazy), or does not lie inside the window.

    >>> permutation_(torch.empty(5, dtype=torch.int64), key=Key(0)).sort().values
    tensor([0, 1, 2, 3, 4])
    """
    if is_dynamo_compiling():
        return traced.fill("permutation", tensor, (), generator, key, window, rounding=rounding)
    check_rounding(rounding)
    return distributions.Permutation()(tensor, key=key, window=window, generator=generator)
