"""Initializers by name: this library's own, and what torch, JAX, Keras, timm call theirs.

A peer's name comes with the peer's arguments, defaults and corrections; what the dimensions of a weight mean
stays ``axes=``, PyTorch's (out, in, *field) unless it is given. ``docs/peers.md`` has them side by side.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

from tritoninit.combinators import Scaled
from tritoninit.distributions import (
    Bernoulli,
    Cauchy,
    Exponential,
    Geometric,
    LogNormal,
    Permutation,
    RandInt,
)
from tritoninit.fans import Axes
from tritoninit.fills import Constant, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import (
    KaimingNormal,
    KaimingUniform,
    Ones,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from tritoninit.kernels.lowering import ParameterError
from tritoninit.located import DeltaOrthogonal
from tritoninit.mapped import LogOfUniform, LogUniform, RingDecay, TimeStepBias
from tritoninit.structured import Dirac, Eye, Identity, Orthogonal, Sparse
from tritoninit.tables import S4D, STFT, Sinusoids

Maker = Callable[..., Initializer]


def _torch_uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    return Uniform(a, b)


def _torch_constant(val: float) -> Initializer:
    return Constant(val)


def _jax_constant(value: float) -> Initializer:
    return Constant(value)


def _jax_uniform(scale: float = 1e-2) -> Initializer:
    return Uniform(0.0, scale)


def _jax_normal(stddev: float = 1e-2) -> Initializer:
    return Normal(0.0, stddev)


def _jax_truncated_normal(stddev: float = 1e-2, lower: float = -2.0, upper: float = 2.0) -> Initializer:
    return TruncatedNormal.in_sigmas(stddev, lower, upper) if stddev else Constant(0.0)


def _jax_variance_scaling(
    scale: float,
    mode: str,
    distribution: str,
    *,
    in_axis: int | Sequence[int] | None = None,
    out_axis: int | Sequence[int] | None = None,
    batch_axis: int | Sequence[int] = (),
    axes: Axes | None = None,
) -> Initializer:
    """By JAX's axes if any of them is given."""
    if in_axis is not None or out_axis is not None or batch_axis != ():
        if axes is not None:
            raise ParameterError("give axes, or in_axis, out_axis and batch_axis, not both")
        inner, outer = (-2 if in_axis is None else in_axis), (-1 if out_axis is None else out_axis)
        axes = Axes(_several(inner), _several(outer), _several(batch_axis))
    return VarianceScaling(scale, mode, distribution, axes=axes)


def _several(axis: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(axis) if isinstance(axis, Sequence) else (axis,)


def _jax_orthogonal(scale: float = 1.0) -> Initializer:
    return Orthogonal(scale)


def _jax_delta_orthogonal(scale: float = 1.0) -> Initializer:
    return DeltaOrthogonal(scale)


def _keras_normal(mean: float = 0.0, stddev: float = 0.05) -> Initializer:
    return Normal(mean, stddev)


def _keras_uniform(minval: float = -0.05, maxval: float = 0.05) -> Initializer:
    return Uniform(minval, maxval)


def _keras_truncated_normal(mean: float = 0.0, stddev: float = 0.05) -> Initializer:
    return TruncatedNormal.in_sigmas(stddev, mean=mean) if stddev else Constant(mean)


def _keras_variance_scaling(
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    axes: Axes | None = None,
) -> Initializer:
    kind = {"normal": "truncated_normal"}.get(distribution, distribution)
    return VarianceScaling(scale, mode, kind, axes=axes)


def _keras_scaled(scale: float, mode: str, distribution: str, axes: Axes | None = None) -> Initializer:
    return VarianceScaling(scale, mode, distribution, axes=axes)


def _keras_constant(value: float = 0.0) -> Initializer:
    return Constant(value)


def _keras_identity(gain: float = 1.0) -> Initializer:
    return Eye() if gain == 1 else Scaled(Eye(), gain)


def _timm_truncated_normal(
    mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Initializer:
    """timm's ``trunc_normal_tf_``: cut at ``a`` and ``b`` of a standard normal, then scaled and shifted."""
    return TruncatedNormal.in_sigmas(std, a, b, mean=mean) if std else Constant(mean)


def _timm_variance_scaling(
    scale: float = 1.0, mode: str = "fan_in", distribution: str = "normal", axes: Axes | None = None
) -> Initializer:
    return VarianceScaling(scale, mode, distribution, axes=axes)


def _timm_lecun_normal(axes: Axes | None = None) -> Initializer:
    return VarianceScaling(1.0, "fan_in", "truncated_normal", axes=axes)


_GLOROT: Final = {
    "glorot_uniform": (1.0, "fan_avg", "uniform"),
    "glorot_normal": (1.0, "fan_avg", "truncated_normal"),
}
_HE: Final = {"he_uniform": (2.0, "fan_in", "uniform"), "he_normal": (2.0, "fan_in", "truncated_normal")}
_LECUN: Final = {
    "lecun_uniform": (1.0, "fan_in", "uniform"),
    "lecun_normal": (1.0, "fan_in", "truncated_normal"),
}

# By peer, its names in the spelling of functions; ours are those of the classes. The first that has a name
# has it where no peer is named.
PEERS: Final[Mapping[str, Mapping[str, Maker]]] = {
    "tritoninit": {
        "constant": Constant,
        "zeros": Zeros,
        "ones": Ones,
        "uniform": Uniform,
        "normal": Normal,
        "truncated_normal": TruncatedNormal,
        "variance_scaling": VarianceScaling,
        "xavier_uniform": XavierUniform,
        "xavier_normal": XavierNormal,
        "kaiming_uniform": KaimingUniform,
        "kaiming_normal": KaimingNormal,
        "eye": Eye,
        "identity": Identity,
        "dirac": Dirac,
        "orthogonal": Orthogonal,
        "delta_orthogonal": DeltaOrthogonal,
        "sparse": Sparse,
        "sinusoids": Sinusoids,
        "stft": STFT,
        "s4d": S4D,
        "log_uniform": LogUniform,
        "log_of_uniform": LogOfUniform,
        "time_step_bias": TimeStepBias,
        "ring_decay": RingDecay,
        "bernoulli": Bernoulli,
        "cauchy": Cauchy,
        "exponential": Exponential,
        "geometric": Geometric,
        "log_normal": LogNormal,
        "permutation": Permutation,
        "rand_int": RandInt,
    },
    "torch": {
        "uniform": _torch_uniform,
        "normal": Normal,
        "trunc_normal": TruncatedNormal,
        "constant": _torch_constant,
        "ones": Ones,
        "zeros": Zeros,
        "eye": Eye,
        "dirac": Dirac,
        "xavier_uniform": XavierUniform,
        "xavier_normal": XavierNormal,
        "kaiming_uniform": KaimingUniform,
        "kaiming_normal": KaimingNormal,
        "orthogonal": Orthogonal,
        "sparse": Sparse,
    },
    "keras": {
        "zeros": Zeros,
        "ones": Ones,
        "constant": _keras_constant,
        "identity": _keras_identity,
        "random_normal": _keras_normal,
        "random_uniform": _keras_uniform,
        "truncated_normal": _keras_truncated_normal,
        "variance_scaling": _keras_variance_scaling,
        **{name: partial(_keras_scaled, *rule) for name, rule in (_GLOROT | _HE | _LECUN).items()},
        "orthogonal": Orthogonal,
        "stft": STFT,
    },
    "jax": {
        "zeros": Zeros,
        "ones": Ones,
        "constant": _jax_constant,
        "uniform": _jax_uniform,
        "normal": _jax_normal,
        "truncated_normal": _jax_truncated_normal,
        "variance_scaling": _jax_variance_scaling,
        **{name: partial(_jax_variance_scaling, *rule) for name, rule in (_GLOROT | _HE | _LECUN).items()},
        "xavier_uniform": partial(_jax_variance_scaling, *_GLOROT["glorot_uniform"]),
        "xavier_normal": partial(_jax_variance_scaling, *_GLOROT["glorot_normal"]),
        "kaiming_uniform": partial(_jax_variance_scaling, *_HE["he_uniform"]),
        "kaiming_normal": partial(_jax_variance_scaling, *_HE["he_normal"]),
        "orthogonal": _jax_orthogonal,
        "delta_orthogonal": _jax_delta_orthogonal,
    },
    "timm": {
        "trunc_normal": TruncatedNormal,
        "trunc_normal_tf": _timm_truncated_normal,
        "variance_scaling": _timm_variance_scaling,
        "lecun_normal": _timm_lecun_normal,
    },
}


def initializer(name: str | Initializer, /, **arguments: Any) -> Initializer:
    """The initializer that a name stands for, here or in torch, Keras, JAX or timm.

    Any spelling will do: "glorot_uniform", "GlorotUniform", "kaiming_normal_". "jax.normal", "keras.",
    "timm." and "torch." ask for a peer's. Without, a name that several have is this library's or torch's,
    then Keras', JAX's, timm's: ``kaiming_normal`` is no truncated normal, unlike "jax.kaiming_normal", and
    ``normal`` has a standard deviation of 1, not JAX's 0.01. ``docs/peers.md`` lists all of them.

    Args:
        name: the name; or an initializer, which comes back as it is.
        arguments: by the names that they have there; and ``axes``, of those that are scaled by fans.

    Returns:
        The initializer, ready to be called on a tensor or to stand in a rule.

    Raises:
        ValueError: nobody has that name, with those that look like it; or the arguments make no sense.
        TypeError: an argument that it does not take.

    >>> initializer("glorot_uniform")
    VarianceScaling(axes=None, scale=1.0, mode='fan_avg', distribution='uniform')
    >>> initializer("jax.truncated_normal", stddev=0.02)
    TruncatedNormal(mean=0.0, std=0.02, a=-0.04, b=0.04)
    """
    if isinstance(name, Initializer):
        if arguments:
            raise TypeError(f"{name!r} has its arguments already, and takes no {', '.join(arguments)}")
        return name
    if not isinstance(name, str):
        raise TypeError(f"a name is a string, not {name!r}")
    make = _maker(name)
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(make).parameters)
        raise TypeError(f"{name}: {error}; it takes {takes or 'no arguments'}") from None
    return make(**arguments)


def _maker(name: str) -> Maker:
    peer, _, rest = name.rpartition(".")
    if peer and peer not in PEERS:
        raise ParameterError(f"no initializers of {peer!r} are known, but of {', '.join(PEERS)}")
    local = _plain(rest)
    known: dict[str, str] = {}
    for where in [peer] if peer else PEERS:
        for each, make in PEERS[where].items():
            if _plain(each) == local:
                return make
            known[_plain(each)] = f"{peer}.{each}" if peer else each
    near = [known[each] for each in get_close_matches(local, known, 3, 0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known.values()))}"
    raise ParameterError(f"no initializer is called {name!r}: {hint}")


def _plain(name: str) -> str:
    """What all spellings of a name have in common."""
    return re.sub(r"[-_ ]", "", name).lower().removesuffix("initializer")


def names() -> Iterator[str]:
    """Every name with its peer, such as "keras.glorot_uniform"."""
    return (f"{peer}.{name}" for peer, known in PEERS.items() for name in known)
