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

from collections.abc import Callable
from typing import Any

import torch

from tritoninit.tracing.operators import OPERATOR_OF
from tritoninit.tracing.private import beside_batches, vmapped

_KAIMING = 'float? a=0.0, str fan_mode="fan_in", str nonlinearity="leaky_relu"'

# Their numbers, in a schema.
OPERATORS = {
    "uniform": "float a=0.0, float b=1.0",
    "normal": "float mean=0.0, float std=1.0",
    "trunc_normal": "float mean=0.0, float std=1.0, float a=-2.0, float b=2.0",
    "constant": "Scalar val",
    "ones": "",
    "zeros": "",
    "eye": "",
    "dirac": "int groups=1",
    "xavier_uniform": "float gain=1.0",
    "xavier_normal": "float gain=1.0",
    "kaiming_uniform": _KAIMING,
    "kaiming_normal": _KAIMING,
    "orthogonal": "float gain=1.0",
    "sparse": "float sparsity, float std=0.01",
    "exponential": "float lambd=1.0",
    "log_normal": "float mean=1.0, float std=2.0",
    "cauchy": "float median=0.0, float sigma=1.0",
    "geometric": "float p",
    "bernoulli": "float p=0.5",
    "randint": "int low=0, int? high=None",
    "permutation": "",
}

_OTHERS = (
    "Tensor? bits=None, *, Generator? generator=None, SymInt[]? key=None, SymInt[]? global_shape=None,"
    " SymInt[]? offsets=None, int batched=0, str rounding='nearest'"
)


def _late(name: str, *first: Any) -> Callable[..., Any]:
    """A function of ``operated``, which imports all initializers: when an operator first runs."""

    def call(*given: Any, **options: Any) -> Any:
        from tritoninit import operated

        return getattr(operated, name)(*first, *given, **options)

    return call


def _operator_of(initializer: Any) -> tuple[str, tuple[Any, ...]]:
    from tritoninit import operated

    return operated.operator_of(initializer)


_LIBRARY: Any = torch.library.Library("tritoninit", "DEF")  # type: ignore[no-untyped-call]
# Compilers neither join nor move them, nor put them into a CUDA graph, which would keep a run's bits.
_TAGS = (torch.Tag.nondeterministic_seeded, torch.Tag.cudagraph_unsafe)


def _define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _LIBRARY.define(f"{name}{schema}", tags=_TAGS)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, fake, "Meta")


def _define_rules(name: str, is_in_place: bool) -> None:
    """What becomes of an operator under vmap."""
    full_name = f"{name}_" if is_in_place else name

    def operator() -> Any:
        return getattr(torch.ops.tritoninit, full_name).default

    served = vmapped(operator, _late("batched", name, is_in_place))
    _LIBRARY.impl(full_name, served, "FuncTorchBatched", with_keyset=True)
    served = beside_batches(operator, _late("alone", name))
    _LIBRARY.impl(full_name, served, "FuncTorchVmapMode", with_keyset=True)


def _define_fill(name: str, schema: str) -> None:
    numbers = [each for each in schema.split(", ") if each]
    others = ", ".join((*numbers, _OTHERS))
    of = name, len(numbers)
    _define(f"{name}_", f"(Tensor(a!) self, {others}) -> ()", _late("write", *of), _late("check", *of))
    _define(name, f"(Tensor self, {others}) -> Tensor", _late("made", *of), _late("made_like", *of))
    _define_rules(name, True)
    _define_rules(name, False)


def _register() -> None:
    _define(
        "draw", "(Tensor own, *, Generator? generator=None) -> Tensor", _late("draw"), _late("drawn_like")
    )
    for name, schema in OPERATORS.items():
        _define_fill(name, schema)
    _define_fill("initialize", "str initializer")
    OPERATOR_OF.append(_operator_of)


_register()
