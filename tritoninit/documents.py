"""Initializers as plain data, as JSON has it, and back: a class by its name, its arguments by theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from tritoninit import (
    combinators,
    distributions,
    experts,
    fills,
    initializers,
    located,
    mapped,
    recorded,
    structured,
    tables,
)
from tritoninit.fans import Axes
from tritoninit.fills import Initializer
from tritoninit.structured import Value

# Those of this library: what others wrote is known to nobody who reads a document.
KNOWN: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(fills.Constant, fills.Uniform, fills.Normal, fills.TruncatedNormal),
        *(initializers.Zeros, initializers.Ones, initializers.VarianceScaling),
        *(initializers.XavierUniform, initializers.XavierNormal),
        *(initializers.KaimingUniform, initializers.KaimingNormal),
        *(structured.Orthogonal, structured.Sparse, structured.Eye, structured.Dirac, structured.Identity),
        *(combinators.ZeroRow, combinators.Stacked, combinators.Scaled, combinators.Keep),
        *(combinators.Patched, combinators.Patch, combinators.AsOne, combinators.CopyOf, Axes),
        *(combinators.BlockDiagonal, combinators.StochasticallyRounded),
        *(experts.Experts, located.DeltaOrthogonal),
        *(tables.Sinusoids, tables.STFT, tables.S4D),
        *(distributions.Exponential, distributions.LogNormal, distributions.Cauchy),
        *(distributions.Geometric, distributions.Bernoulli, distributions.RandInt, distributions.Permutation),
        *(mapped.LogUniform, mapped.LogOfUniform, mapped.TimeStepBias, mapped.RingDecay),
        *(recorded.Recorded, recorded.Drawn, recorded.Given, recorded.Call),
        *(recorded.Part, recorded.Named, recorded.Slice),
    )
}
# By which go the numbers that JSON has not.
_NUMBER, _COMPLEX = "float", "complex"


def as_data(value: Any, known: Mapping[str, type[Any]] = KNOWN) -> Any:
    """An initializer as dicts, lists, numbers and strings.

    >>> as_data(fills.Normal(0.0, 0.02))
    {'Normal': {'mean': 0.0, 'std': 0.02}}

    Raises:
        ValueError: it is, or holds, something else than initializers of this library.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {_NUMBER: repr(value)}
    if kind is complex:
        return {_COMPLEX: [as_data(value.real), as_data(value.imag)]}
    if kind in (tuple, list):
        return [as_data(each, known) for each in value]
    if kind is Value:
        return {"Value": _of_values(value.values)}
    if known.get(kind.__name__) is not kind:
        raise ValueError(f"a document has no word for {value!r}")
    return {
        kind.__name__: {
            field.name: as_data(getattr(value, field.name), known) for field in fields(value) if field.init
        }
    }


def for_people(data: Any, known: Mapping[str, type[Any]] = KNOWN) -> Any:
    """The same data without arguments that are nothing by default, and with numbers that are not finite.

    >>> for_people({"KaimingNormal": {"axes": None, "a": {"float": "inf"}}})
    {'KaimingNormal': {'a': inf}}
    """
    if isinstance(data, list):
        return [for_people(each, known) for each in data]
    if not isinstance(data, dict):
        return data
    if data.keys() == {_NUMBER}:
        return float(data[_NUMBER])
    found = {}
    for name, given in data.items():
        if name in known and isinstance(given, dict):
            idle = {field.name for field in fields(known[name]) if field.default is None}
            given = {each: value for each, value in given.items() if value is not None or each not in idle}
        found[name] = for_people(given, known)
    return found


def initializer_of(data: Any, known: Mapping[str, type[Any]] = KNOWN) -> Initializer:
    """The initializer that :func:`as_data` made data of.

    Raises:
        ValueError: it is none, or one that this release does not know.
    """
    found = _of_data(data, known)
    if not isinstance(found, Initializer):
        raise ValueError(f"no initializer: {_short(data)}")
    return found


def _of_data(data: Any, known: Mapping[str, type[Any]]) -> Any:
    if isinstance(data, list):
        return tuple(_of_data(each, known) for each in data)
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError(f"one name, and what belongs to it, is wanted in {_short(data)}")
    ((name, given),) = data.items()
    if name in (_NUMBER, _COMPLEX):
        return _number(name, given, known)
    if not isinstance(given, dict):
        raise ValueError(f"the arguments of {name} are wanted by their names, not {_short(given)}")
    if name == "Value":
        return _value(given)
    kind = known.get(name)
    if kind is None:
        raise ValueError(f"unknown: {name!r}; known are {', '.join(sorted(known))}")
    names = [field.name for field in fields(kind) if field.init]
    if unknown := given.keys() - set(names):
        raise ValueError(
            f"{name} has no {', '.join(sorted(unknown))}; it has {', '.join(names) or 'nothing'}"
        )
    arguments = {each: _of_data(value, known) for each, value in given.items()}
    try:
        return kind(**arguments)
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"{name}: {error}") from error


def _number(name: str, given: Any, known: Mapping[str, type[Any]]) -> Any:
    """What JSON has no number for."""
    try:
        return recorded.equal(float(given)) if name == _NUMBER else complex(*_of_data(given, known))
    except TypeError as error:
        raise ValueError(f"no {name}: {_short(given)}") from error


def _of_values(values: torch.Tensor) -> dict[str, Any]:
    """A tensor's numbers, which a float of Python's holds exactly."""
    dtype, flat = str(values.dtype).removeprefix("torch."), recorded.numbers(values)
    return {"dtype": dtype, "shape": list(values.shape), "values": as_data(flat)}


def _value(given: dict[str, Any]) -> Value:
    if given.keys() != {"dtype", "shape", "values"}:
        raise ValueError("Value has dtype, shape and values")
    try:
        part = recorded.Part(0, given["dtype"], given["shape"], (0,) * len(given["shape"]))
        return Value(recorded.tensor_of(_of_data(given["values"], {}), part))
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"Value: {error}") from error


def _short(data: object) -> str:
    words = repr(data)
    return words if len(words) <= 80 else f"{words[:77]}..."
