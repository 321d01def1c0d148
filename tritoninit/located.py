"""Initializers of convolutions that put something in the middle of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tritoninit.combinators import Stacked
from tritoninit.fans import Axes
from tritoninit.fills import Constant, Initializer, Piece
from tritoninit.kernels.lowering import integers
from tritoninit.structured import Orthogonal


@dataclass(frozen=True)
class DeltaOrthogonal(Initializer):
    """An orthogonal matrix in the middle of a convolution's kernel, and zeros around it, times ``gain``.

    For weights (out, in, *field) of 3 to 5 dimensions with at least as many outputs as inputs: the
    convolution keeps the norm of its input. The middle of an even size is the place below it, as in
    ``jax.nn.initializers.delta_orthogonal``. The matrix is that of :class:`~tritoninit.Orthogonal` for (out,
    in) and the same key.

    Formula:
        w["centre"] = gain Q, Q**T Q = I
        w = 0 "elsewhere"

    Source:
        Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs", ICML 2018

    Args:
        gain: what the matrix is multiplied by.

    Raises:
        ParameterError: a gain that is not finite.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", Orthogonal(self.gain).gain)

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        """One for each of the groups of a convolution."""
        return Stacked((self,) * axes.groups) if axes is not None and axes.groups > 1 else self

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        shape = integers("shape", shape)
        if len(shape) not in (3, 4, 5):
            raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
        zeros = Piece(Constant(0.0), (0,) * len(shape), shape)
        if 0 in shape:
            return (zeros,)
        out, into, *field = shape
        if out < into:
            raise ValueError(f"{into} inputs do not fit into {out} outputs without loss")
        centre = tuple((size - 1) // 2 for size in field)
        return zeros, Piece(Orthogonal(self.gain), (0, 0, *centre), (out, into, *(1 for _ in field)))
