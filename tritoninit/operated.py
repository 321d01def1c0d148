"""What the operators of ``tritoninit.ops`` do, by initializers: imported when the first of them runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from tritoninit import distributions, documents, fills, initializers, structured, traced
from tritoninit.combinators import rounded
from tritoninit.fills import Initializer
from tritoninit.keys import Key, drawn_bits
from tritoninit.rounding import NEAREST
from tritoninit.tracing.private import constant
from tritoninit.window import Window


@lru_cache(maxsize=4096)
def of_text(words: str) -> Initializer:
    """The initializer that an operator is given as JSON."""
    return documents.initializer_of(json.loads(words))


@constant
def _json(data: Any) -> str:
    return json.dumps(data)


_KAIMING = ("a", "mode", "nonlinearity")
# By an operator's name: the initializer of its numbers, a class, and its fields in their order.
MAKES: Final[dict[str, tuple[Any, tuple[str, ...]]]] = {
    "uniform": (fills.Uniform, ("low", "high")),
    "normal": (fills.Normal, ("mean", "std")),
    "trunc_normal": (fills.TruncatedNormal, ("mean", "std", "a", "b")),
    "constant": (fills.Constant, ("value",)),
    "ones": (initializers.Ones, ()),
    "zeros": (initializers.Zeros, ()),
    "eye": (structured.Eye, ()),
    "dirac": (structured.Dirac, ("groups",)),
    "xavier_uniform": (initializers.XavierUniform, ("gain",)),
    "xavier_normal": (initializers.XavierNormal, ("gain",)),
    "kaiming_uniform": (initializers.KaimingUniform, _KAIMING),
    "kaiming_normal": (initializers.KaimingNormal, _KAIMING),
    "orthogonal": (structured.Orthogonal, ("gain",)),
    "sparse": (structured.Sparse, ("sparsity", "std")),
    "exponential": (distributions.Exponential, ("rate",)),
    "log_normal": (distributions.LogNormal, ("mean", "std")),
    "cauchy": (distributions.Cauchy, ("median", "scale")),
    "geometric": (distributions.Geometric, ("p",)),
    "bernoulli": (distributions.Bernoulli, ("p",)),
    "randint": (distributions.RandInt, ("low", "high")),
    "permutation": (distributions.Permutation, ()),
    "initialize": (of_text, ()),
}
_NAMED = {make: (name, fields) for name, (make, fields) in MAKES.items() if make is not of_text}


def operator_of(initializer: Any) -> tuple[str, tuple[Any, ...]]:
    """The operator that sets what an initializer says, and its numbers.

    Raises:
        ValueError: it is none of an operator's, and no document either.
    """
    name, fields = _NAMED.get(type(initializer), ("initialize", None))
    if fields is None or getattr(initializer, "axes", None) is not None:
        return "initialize", (_json(documents.as_data(initializer)),)
    return name, tuple([getattr(initializer, field) for field in fields])


def write(
    name: str,
    count: int,
    x: Tensor,
    *given: Any,
    generator: torch.Generator | None = None,
    key: Sequence[int] | None = None,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    batched: int = 0,
    rounding: str = NEAREST,
) -> None:
    """Set a tensor that has memory; ``given`` are the ``count`` numbers, and then bits."""
    initializer = rounded(MAKES[name][0](*given[:count]), rounding)
    bits = given[count] if len(given) > count else None
    taken = _key(bits, key, generator) if initializer.random else Key(0)
    _check_batched(batched, x)
    whole, window = x.detach(), _window(global_shape, offsets)
    if not whole.numel():
        return
    for place in itertools.product(*map(range, x.shape[:batched])):
        own = taken
        for number in reversed(place):
            own = own.fold_in(number)
        initializer(whole[place] if place else whole, key=own, window=window)


def _key(bits: Tensor | None, key: Sequence[int] | None, generator: torch.Generator | None) -> Key:
    if sum(each is not None for each in (bits, key, generator)) > 1:
        raise ValueError("give bits, a key or a generator, one of them")
    if key is not None:
        if len(key) != 2:
            raise ValueError(f"a key is its seed and its stream, unlike {list(key)}")
        return Key(*key)
    if bits is None:
        return Key.from_generator(generator)
    if bits.dtype != torch.int64 or bits.numel() != 1:
        raise ValueError(f"bits are one number of int64, not {tuple(bits.shape)} of {bits.dtype}")
    return Key(int(bits))


def _check_batched(batched: int, x: Tensor) -> None:
    if not 0 <= batched <= x.dim():
        raise ValueError(f"batched counts leading dimensions of {x.dim()}, unlike {batched}")


def _window(global_shape: Sequence[int] | None, offsets: Sequence[int] | None) -> Window | None:
    if global_shape is None or offsets is None:
        if global_shape is not offsets:
            raise ValueError("a window has global_shape and offsets, both of them")
        return None
    return Window(tuple(global_shape), tuple(offsets))


def check(
    name: str,
    count: int,
    x: Tensor,
    *given: Any,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    batched: int = 0,
    rounding: str = NEAREST,
    **_: Any,
) -> None:
    """Raise what a run would, as far as it is known of a tensor without memory."""
    _check_batched(batched, x)
    make, numbers, shape = MAKES[name][0], given[:count], x.shape[batched:]
    if not all(type(size) is int for size in (*shape, *(global_shape or ()), *(offsets or ()))):
        return
    if any(isinstance(number, (torch.SymInt, torch.SymFloat)) for number in numbers) or 0 in shape:
        return
    window = _window(global_shape, offsets) or Window.whole(tuple(shape))
    window.check(shape)
    dtype = x.dtype

    def judge() -> None:  # of initializers that hold tensors, which modes would take for fake ones
        rounded(make(*numbers), rounding).check(torch.empty(shape, dtype=dtype, device="meta"), window)

    try:
        traced.apart(judge)
    except NotImplementedError as error:  # by which a fake tensor says that there is no operator
        raise TypeError(str(error)) from error


def made(name: str, count: int, x: Tensor, *given: Any, **options: Any) -> Tensor:
    """Another tensor, set so."""
    found = _like(name, x)
    write(name, count, found, *given, **options)
    return found


def made_like(name: str, count: int, x: Tensor, *given: Any, **options: Any) -> Tensor:
    """Another tensor without memory, or what a run would raise."""
    found = _like(name, x)
    check(name, count, found, *given, **options)
    return found


def _like(name: str, x: Tensor) -> Tensor:
    """A tensor to be set: what any initializer keeps of the first, the second has to have."""
    return x.detach().clone() if name == "initialize" else torch.empty_like(x)


def draw(own: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """64 bits in a tensor."""
    bits = drawn_bits(generator)
    return torch.full((), bits - 2**64 if bits >= 2**63 else bits, dtype=torch.int64, device="cpu")


def _takes_key(name: str, given: Sequence[Any]) -> bool:
    """Whether an operator's numbers make something random: its class says, or, of words, they do."""
    make: Any = MAKES[name][0]
    return bool(getattr(make(given[0]) if make is of_text else make, "random", True))


def alone(
    name: str,
    randomness: str,
    x: Tensor,
    *given: Any,
    key: Any = None,
    batched: int = 0,
    **_: Any,
) -> None:
    """Raise where all of a batch are to draw apart, and the tensor is one for all, and has no key."""
    if key is None and not batched and randomness != "same" and _takes_key(name, given):
        raise RuntimeError(
            f"{name} sets one tensor for a whole batch, and vmap's randomness is {randomness!r}: give a key,"
            " or make the tensor one of the batch"
        )


def drawn_like(own: Tensor, **_: Any) -> Tensor:
    """What holds 64 bits."""
    return torch.empty_like(own)


def batched(
    name: str,
    is_in_place: bool,
    info: Any,
    dims: Any,
    x: Tensor,
    *given: Any,
    **options: Any,
) -> Any:
    """Of a batch: each its own sample, or all the same one, as vmap's ``randomness`` has it."""
    if any(dim is not None for dim in dims[1:]):
        raise ValueError(f"{name}: bits of a batch: one draw serves all, give vmap randomness='different'")
    x, is_random = x.movedim(dims[0], 0), _takes_key(name, given)
    if is_random and info.randomness == "error":
        raise RuntimeError(
            f"{name} draws random numbers, and vmap's randomness is 'error': say whether all of a batch get"
            " the same ones (randomness='same') or each its own (randomness='different')"
        )
    if is_random and info.randomness == "same":
        if not is_in_place:
            return getattr(torch.ops.tritoninit, name)(x[0], *given, **options), None
        if x.shape[0]:
            traced.set_in_place(name, x[0], given, options)
            x[1:].copy_(x[0].expand_as(x[1:]))
        return None, None
    options["batched"] = options.get("batched", 0) + 1
    if is_in_place:
        traced.set_in_place(name, x, given, options)
        return None, None
    return getattr(torch.ops.tritoninit, name)(x, *given, **options), 0
