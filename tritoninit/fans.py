"""What the dimensions of a weight mean, and its fans by that.

Fan-in is how many inputs an output sums over, fan-out how many outputs an input reaches. A module says what
its weights' dimensions mean: inputs, outputs, how many gates or projections lie in one, how many groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from torch import nn

from tritoninit.kernels.lowering import integer, integers


@dataclass(frozen=True)
class Axes:
    """What the dimensions of a weight mean. Those that are not named are its receptive field.

    Args:
        in_axes: the dimensions that the inputs run along; negative ones count from the end.
        out_axes: those that the outputs run along.
        batch_axes: those that number independent weights, such as experts: they count in no fan.
        groups: into how many groups the channels of dimension 0 are cut, as in a grouped convolution.
        parts: the sizes of the weights that are stacked along the first of ``out_axes``, such as (q, k, v),
            each of which gets the fans of its own.

    The default is PyTorch's reading of any weight: (out, in, *receptive field). ``Axes((-2,), (-1,))`` is
    JAX's and Keras': (*receptive field, in, out). A weight of one dimension, or of none, has fans where the
    axes are given: of ``n`` numbers ``Axes((0,), ())`` takes n inputs to one output, and ``Axes((), ())``
    counts all as a receptive field, so that both fans are n, or 1 of a scalar, as Keras has it.

    Raises:
        ValueError: no group, or parts where there is no axis for them.
    """

    in_axes: tuple[int, ...] = (1,)
    out_axes: tuple[int, ...] = (0,)
    batch_axes: tuple[int, ...] = ()
    groups: int = 1
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("in_axes", "out_axes", "batch_axes", "parts"):
            object.__setattr__(self, name, integers(name, getattr(self, name)))
        object.__setattr__(self, "groups", integer("groups", self.groups))
        if self.groups < 1:
            raise ValueError(f"groups must be positive, not {self.groups}")
        if self.parts and not self.out_axes:
            raise ValueError(f"parts {self.parts} lie along the first of out_axes, and there is none")

    def fans(self, shape: Sequence[int]) -> tuple[int, int]:
        """(fan_in, fan_out) of a weight of ``shape``, of which ``parts`` count as one.

        Args:
            shape: of the whole (global) tensor.

        Returns:
            Both, in elements.

        Raises:
            ValueError: fewer than two dimensions by the default axes, or the axes are not all different ones
                of them.
        """
        shape = integers("shape", shape)
        if len(shape) < 2 and self == TORCH_AXES:
            raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
        named = [_index(axis, shape) for axis in (*self.in_axes, *self.out_axes, *self.batch_axes)]
        if len(set(named)) != len(named):
            raise ValueError(f"{self} names a dimension twice for shape {tuple(shape)}")
        field = math.prod(size for axis, size in enumerate(shape) if axis not in named)
        fans = []
        for axes in (self.in_axes, self.out_axes):
            indices = [_index(axis, shape) for axis in axes]
            fan = math.prod(shape[axis] for axis in indices) * field
            # Dimension 0 counts the channels of all groups: the outputs', or the inputs' if transposed.
            if 0 in indices and shape[0] % self.groups:
                raise ValueError(f"dimension 0 of shape {tuple(shape)} has no {self.groups} groups")
            fans.append(fan // self.groups if 0 in indices and self.groups > 1 else fan)
        return fans[0], fans[1]

    def split(self, shape: Sequence[int]) -> list[tuple[int, int, tuple[int, ...]]]:
        """(axis, start, shape) of each part; one of the whole shape if there are none.

        Args:
            shape: of the whole (global) tensor.

        Returns:
            One a part, in order.

        Raises:
            ValueError: the parts do not add up to the dimension.
        """
        if not self.parts:
            return [(0, 0, tuple(shape))]
        axis = _index(self.out_axes[0], shape)
        if sum(self.parts) != shape[axis]:
            raise ValueError(f"parts {self.parts} do not add up to dimension {axis} of shape {tuple(shape)}")
        found, start = [], 0
        for size in self.parts:
            part = (*shape[:axis], size, *shape[axis + 1 :])
            found.append((axis, start, part))
            start += size
        return found

    def of_parts(self, axis: int, count: int, shape: Sequence[int]) -> list[Axes | None]:
        """What the dimensions mean in each of ``count`` equal parts, along an axis, of a weight of ``shape``.

        None of a part that holds pieces of several stacked weights, or of several groups.

        Args:
            axis: a dimension's number.
            count: how many parts it is cut into.
            shape: of the whole (global) tensor.

        Returns:
            One a part.

        Raises:
            ValueError: the axis is none of the dimensions.
        """
        axis = _index(axis, shape)
        size = shape[axis] // count
        if self.groups > 1 and axis == 0:
            whole = self.groups % count == 0 or count % self.groups == 0
            return [replace(self, groups=max(self.groups // count, 1)) if whole else None] * count
        if self.parts and axis == _index(self.out_axes[0], shape):
            return [self._between(k * size, (k + 1) * size) for k in range(count)]
        return [self] * count

    def _between(self, start: int, stop: int) -> Axes | None:
        """The meaning of a part from one place to another of the stacked weights; None if it cuts some."""
        stacked = list(pairwise(accumulate(self.parts, initial=0)))
        if any(begin <= start and stop <= end for begin, end in stacked):
            return replace(self, parts=())
        inside = tuple(end - begin for begin, end in stacked if start <= begin and end <= stop)
        return replace(self, parts=inside) if sum(inside) == stop - start else None


def _index(axis: int, shape: Sequence[int]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"no dimension {axis} in shape {tuple(shape)}")
    return axis % len(shape)


TORCH_AXES = Axes()
_IN_OUT = Axes((0,), (1,))


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of shape (out, in, *receptive field), as PyTorch reads any weight.

    Raises:
        ValueError: fewer than two dimensions.
    """
    return TORCH_AXES.fans(shape)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_GATES = {"LSTM": 4, "GRU": 3}
# What codebases call projections that are several side by side: queries, keys and values, or the two factors
# of a gated feed-forward layer.
_FUSED = {
    **dict.fromkeys(("qkv", "qkv_proj", "Wqkv", "c_attn", "query_key_value", "in_proj_qkv"), 3),
    **dict.fromkeys(("gate_up_proj", "w12"), 2),
}


def module_axes(module: nn.Module, name: str, shape: Sequence[int]) -> Axes | None:
    """What the dimensions of a module's own parameter mean; None where the module does not say.

    torch.nn's layers do, and so does any other 2-d weight, which is (out, in). Fused projections count part
    by part; where their sizes are not equal (grouped queries), nobody knows without ``axes=``.
    ``torch.nn.init`` itself reads all shapes alike: it takes a transposed convolution's (in, out / groups,
    *field) for (out, in, *field), and counts an input of a grouped convolution as reaching every group.

    Args:
        module: who owns the parameter.
        name: its qualified name.
        shape: its shape.
    """
    *path, local = name.split(".")
    if isinstance(module, _TRANSPOSED) and local == "weight":
        return Axes((0,), (1,), groups=module.groups)
    if isinstance(module, _CONVOLUTIONS) and local == "weight":
        return _of_groups(module.groups)
    if isinstance(module, nn.MultiheadAttention) and local == "in_proj_weight":
        return Axes(parts=(module.embed_dim,) * 3)
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and local.startswith(("weight_ih", "weight_hh")):
        gates = _gates(module)
        return Axes(parts=(shape[0] // gates,) * gates) if gates > 1 else TORCH_AXES
    if isinstance(module, nn.Bilinear) and local == "weight":
        return Axes((1, 2), (0,))
    if len(shape) > 2:
        return None
    kind: Any = type(module)
    axes = _IN_OUT if _is_in_out(kind) else TORCH_AXES
    parts = _FUSED.get(path[-1], 1) if path and local == "weight" and len(shape) == 2 else 1
    if parts == 1:
        return axes
    out, into = shape[axes.out_axes[0]], shape[axes.in_axes[0]]
    if out % parts or (parts == 3 and out != 3 * into):
        return None
    return replace(axes, parts=(out // parts,) * parts)


def _of_groups(groups: int) -> Axes:
    """The same object of all convolutions that are not grouped, as most: what is made of it is one, too."""
    return TORCH_AXES if type(groups) is int and groups == 1 else Axes(groups=groups)


@lru_cache(maxsize=1024)  # a parametrised module has a class of its own
def _is_in_out(kind: type) -> bool:
    """Whether a class has transformers' name for a Linear whose weight is (in, out)."""
    return any(each.__name__ == "Conv1D" for each in kind.__mro__)


def _gates(module: nn.RNNBase | nn.RNNCellBase) -> int:
    if isinstance(module, nn.RNNBase):
        return _GATES.get(module.mode, 1)
    return 4 if isinstance(module, nn.LSTMCell) else 3 if isinstance(module, nn.GRUCell) else 1
