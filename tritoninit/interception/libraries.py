"""Initializers of libraries that write their own: what they mean.

They compute in the tensor's dtype, as torch's once did: in 16 bits, a truncated normal that ``erfinv_`` makes
from uniform numbers has mass at its bounds, a hundred standard deviations away. The functions of
``transformers.initialization`` call those of ``torch.nn.init``, and need no entry here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import NamedTuple

from tritoninit.fills import Initializer, TruncatedNormal
from tritoninit.initializers import VarianceScaling


class Meaning(NamedTuple):
    """A function's initializer, by the names of its arguments, and whether it returns the tensor."""

    initializer: Callable[..., Initializer]
    returns: bool

    @property
    def arguments(self) -> Collection[str]:
        return {*inspect.signature(self.initializer).parameters, "generator"}


def _in_units_of_std(mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> TruncatedNormal:
    """Cut at ``a`` and ``b`` standard deviations from the mean."""
    return TruncatedNormal(mean, std, mean + a * std, mean + b * std)


def _scaled(scale: float = 1.0, mode: str = "fan_in", distribution: str = "normal") -> VarianceScaling:
    return VarianceScaling(scale, mode, distribution)


def _lecun_normal() -> VarianceScaling:
    return VarianceScaling(1.0, "fan_in", "truncated_normal")


# By the module that defines them.
LIBRARIES: dict[str, dict[str, Meaning]] = {
    "timm.layers.weight_init": {
        "trunc_normal_": Meaning(TruncatedNormal, returns=True),
        "trunc_normal_tf_": Meaning(_in_units_of_std, returns=True),
        "variance_scaling_": Meaning(_scaled, returns=False),
        "lecun_normal_": Meaning(_lecun_normal, returns=False),
    },
}

# By which libraries ask where tensors are made, and initialize nothing if that is the meta device.
DEVICES: dict[str, str] = {
    "transformers.modeling_utils": "get_torch_context_manager_or_global_device",
}
