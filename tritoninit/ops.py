"""``torch.ops.tritoninit.*``: fills as operators of torch, which compilers and transformations take as such.

For each function of ``torch.nn.init``'s names, and of ``torch.Tensor``'s that draw, there is an operator of
the same name and numbers, which sets a tensor in place and returns nothing; and one without the underscore,
which returns another tensor, like the first and set so. Beyond the numbers:

======================= ========================================================================
bits                    64 bits in a tensor, as ``draw`` returns them: the seed, of stream 0
generator               where 64 bits are drawn from, by each run, if there is no key and no bits
key                     seed and stream: 64 bits each, negative from 2**63 on
global_shape, offsets   the window; both or neither
batched                 how many leading dimensions number tensors that are drawn apart, each by
                        the key with its number folded in, that of the last such dimension first
rounding                "nearest" or "stochastic", to 16 and 8 bits
======================= ========================================================================

``initialize_`` takes an initializer as JSON, as :mod:`tritoninit.documents` has it. A value is what it is in
eager mode, bit for bit: the operators run the same code.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritoninit import distributions, fills, initializers, structured, traced
from tritoninit.combinators import rounded
from tritoninit.fills import Initializer
from tritoninit.keys import Key, drawn_bits
from tritoninit.rounding import NEAREST
from tritoninit.tracing.private import beside_batches, constant, vmapped
from tritoninit.window import Window


class Operator(NamedTuple):
    """A fill as an operator.

    Attributes:
        make: the initializer of its numbers: a class, whose instances are served by the operator.
        schema: of the numbers.
        fields: of the class, in the order of the numbers.
    """

    make: Any
    schema: str = ""
    fields: tuple[str, ...] = ()


_KAIMING = 'float? a=0.0, str fan_mode="fan_in", str nonlinearity="leaky_relu"'

OPERATORS = {
    "uniform": Operator(fills.Uniform, "float a=0.0, float b=1.0", ("low", "high")),
    "normal": Operator(fills.Normal, "float mean=0.0, float std=1.0", ("mean", "std")),
    "trunc_normal": Operator(
        fills.TruncatedNormal,
        "float mean=0.0, float std=1.0, float a=-2.0, float b=2.0",
        ("mean", "std", "a", "b"),
    ),
    "constant": Operator(fills.Constant, "Scalar val", ("value",)),
    "ones": Operator(initializers.Ones),
    "zeros": Operator(initializers.Zeros),
    "eye": Operator(structured.Eye),
    "dirac": Operator(structured.Dirac, "int groups=1", ("groups",)),
    "xavier_uniform": Operator(initializers.XavierUniform, "float gain=1.0", ("gain",)),
    "xavier_normal": Operator(initializers.XavierNormal, "float gain=1.0", ("gain",)),
    "kaiming_uniform": Operator(initializers.KaimingUniform, _KAIMING, ("a", "mode", "nonlinearity")),
    "kaiming_normal": Operator(initializers.KaimingNormal, _KAIMING, ("a", "mode", "nonlinearity")),
    "orthogonal": Operator(structured.Orthogonal, "float gain=1.0", ("gain",)),
    "sparse": Operator(structured.Sparse, "float sparsity, float std=0.01", ("sparsity", "std")),
    "exponential": Operator(distributions.Exponential, "float lambd=1.0", ("rate",)),
    "log_normal": Operator(distributions.LogNormal, "float mean=1.0, float std=2.0", ("mean", "std")),
    "cauchy": Operator(distributions.Cauchy, "float median=0.0, float sigma=1.0", ("median", "scale")),
    "geometric": Operator(distributions.Geometric, "float p", ("p",)),
    "bernoulli": Operator(distributions.Bernoulli, "float p=0.5", ("p",)),
    "randint": Operator(distributions.RandInt, "int low=0, int? high=None", ("low", "high")),
    "permutation": Operator(distributions.Permutation),
}

_OTHERS = (
    "Tensor? bits=None, *, Generator? generator=None, SymInt[]? key=None, SymInt[]? global_shape=None,"
    " SymInt[]? offsets=None, int batched=0, str rounding='nearest'"
)


def text(initializer: Initializer) -> str:
    """An initializer as JSON; raises ValueError of one that is no document."""
    from tritoninit import documents

    return _json(documents.as_data(initializer))


@constant
def _json(data: Any) -> str:
    return json.dumps(data)


@lru_cache(maxsize=4096)
def _of_text(words: str) -> Initializer:
    from tritoninit import documents

    return documents.initializer_of(json.loads(words))


def _set(
    make: Callable[..., Initializer],
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
    initializer = rounded(make(*given[:count]), rounding)
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


def _check(
    make: Callable[..., Initializer],
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
    numbers, shape = given[:count], x.shape[batched:]
    if not all(type(size) is int for size in (*shape, *(global_shape or ()), *(offsets or ()))):
        return
    if any(isinstance(number, (torch.SymInt, torch.SymFloat)) for number in numbers) or 0 in shape:
        return
    window = _window(global_shape, offsets) or Window.whole(tuple(shape))
    window.check(shape)
    dtype = x.dtype

    def check() -> None:  # of initializers that hold tensors, which modes would take for fake ones
        rounded(make(*numbers), rounding).check(torch.empty(shape, dtype=dtype, device="meta"), window)

    try:
        traced.apart(check)
    except NotImplementedError as error:  # by which a fake tensor says that there is no operator
        raise TypeError(str(error)) from error


def _made(
    write: Callable[..., None], like: Callable[[Tensor], Tensor], x: Tensor, *given: Any, **options: Any
) -> Tensor:
    """Another tensor, set so."""
    made = like(x)
    write(made, *given, **options)
    return made


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone()


def _draw(own: Tensor, generator: torch.Generator | None = None) -> Tensor:
    bits = drawn_bits(generator)
    return torch.full((), bits - 2**64 if bits >= 2**63 else bits, dtype=torch.int64, device="cpu")


def _takes_key(make: Any, given: Sequence[Any]) -> bool:
    """Whether an operator's numbers make something random: its class says, or, of words, they do."""
    return bool(getattr(make(given[0]) if make is _of_text else make, "random", True))


def _alone(
    name: str,
    make: Any,
    randomness: str,
    x: Tensor,
    *given: Any,
    key: Any = None,
    batched: int = 0,
    **_: Any,
) -> None:
    """Raise where all of a batch are to draw apart, and the tensor is one for all, and has no key."""
    if key is None and not batched and randomness != "same" and _takes_key(make, given):
        raise RuntimeError(
            f"{name} sets one tensor for a whole batch, and vmap's randomness is {randomness!r}: give a key,"
            " or make the tensor one of the batch"
        )


def _drawn_like(own: Tensor, **_: Any) -> Tensor:
    return torch.empty_like(own)


def _batched(
    name: str,
    make: Any,
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
    x, is_random = x.movedim(dims[0], 0), _takes_key(make, given)
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


_LIBRARY: Any = torch.library.Library("tritoninit", "DEF")  # type: ignore[no-untyped-call]
# Compilers neither join nor move them, nor put them into a CUDA graph, which would keep a run's bits.
_TAGS = (torch.Tag.nondeterministic_seeded, torch.Tag.cudagraph_unsafe)


def _define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _LIBRARY.define(f"{name}{schema}", tags=_TAGS)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, fake, "Meta")


def _define_rules(name: str, make: Any, is_in_place: bool) -> None:
    """What becomes of an operator under vmap."""
    full_name = f"{name}_" if is_in_place else name

    def operator() -> Any:
        return getattr(torch.ops.tritoninit, full_name).default

    served = vmapped(operator, partial(_batched, name, make, is_in_place))
    _LIBRARY.impl(full_name, served, "FuncTorchBatched", with_keyset=True)
    served = beside_batches(operator, partial(_alone, name, make))
    _LIBRARY.impl(full_name, served, "FuncTorchVmapMode", with_keyset=True)


def _define_fill(name: str, operator: Operator, like: Callable[[Tensor], Tensor]) -> None:
    make, numbers = operator.make, [each for each in operator.schema.split(", ") if each]
    run, fake = partial(_set, make, len(numbers)), partial(_check, make, len(numbers))
    others = ", ".join((*numbers, _OTHERS))
    _define(f"{name}_", f"(Tensor(a!) self, {others}) -> ()", run, fake)
    _define(name, f"(Tensor self, {others}) -> Tensor", partial(_made, run, like), partial(_made, fake, like))
    _define_rules(name, make, True)
    _define_rules(name, make, False)


def _register() -> None:
    _define("draw", "(Tensor own, *, Generator? generator=None) -> Tensor", _draw, _drawn_like)
    for name, operator in OPERATORS.items():
        _define_fill(name, operator, torch.empty_like)
        traced.NAMED[operator.make] = (name, operator.fields)
    # What an initializer keeps of a tensor, another has to have.
    _define_fill("initialize", Operator(_of_text, "str initializer"), _copy)
    traced.DOCUMENTS.append(text)


_register()
