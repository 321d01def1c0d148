"""What this process holds of a tensor: a DTensor's part, or a local tensor's by a window."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import torch

from tritoninit.distributed.cuts import Cut, in_order, interleaved, order_of
from tritoninit.targets import LostError, Target, TargetError, as_target, check_memory, is_computed
from tritoninit.window import Window
from tritoninit.windows import Windows


def is_dtensor(x: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a DTensor, whose elements lie with the ranks of a mesh."""
    kind = type(x)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        return False
    known = sys.modules.get("torch.distributed.tensor")
    return known is not None and isinstance(x, known.DTensor)


@dataclass(frozen=True, eq=False)
class Held:
    """What this process holds of a tensor.

    Attributes:
        tensor: the DTensor, or the local tensor itself.
        local: the memory.
        windows: where what lies in it lies in the global tensor; None if this process has no part of it.
        global_shape: the shape of the whole.
    """

    tensor: Target
    local: Target
    windows: Windows | None
    global_shape: tuple[int, ...]

    @cached_property
    def parts(self) -> list[tuple[Target, Window]]:
        """The rectangles that have elements: views of the memory, and where they lie."""
        return [] if self.windows is None else self.windows.parts(self.local)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the tensor."""
        return self.windows is not None and self.windows.local_shape == self.global_shape

    @property
    def whole(self) -> Target:
        """What has the dtype, the device's type and the global shape, and no memory."""
        return whole_like(self.local, self.global_shape)

    def changed(self) -> None:
        """Have autograd know that the DTensor is another than it was."""
        x = self.tensor
        if isinstance(x, torch.Tensor) and x is not self.local and not x.is_inference():
            torch.autograd.graph.increment_version(x)


def whole_like(local: Target, shape: tuple[int, ...]) -> Target:
    """A tensor of any shape in the memory of one element."""
    if isinstance(local, torch.Tensor):
        return torch.empty((), dtype=local.dtype, device=local.device).expand(shape)
    return np.broadcast_to(np.empty((), local.dtype), shape)


def writable(tensor: Any, window: Window | Windows | None = None) -> Held:
    """What this process holds of a tensor that is to be written, which may be a window of another.

    Raises:
        TypeError, TargetError: as :func:`~tritoninit.targets.as_target` does.
        ValueError: it does not lie in its window, or no rank holds an element's value (``Partial``).
    """
    if not is_dtensor(tensor):
        return _local(as_target(tensor), window)
    if tensor.requires_grad and is_computed(tensor):
        raise LostError("autograd computed the DTensor, and what is written to it would be lost: detach it")
    held = _distributed(tensor, window)
    if held.windows is not None:
        as_target(held.local)
    return held


def readable(tensor: Target, window: Window | Windows | None = None) -> Held:
    """What this process holds of a tensor that is to be read, which may be a window of another."""
    held = _distributed(tensor, window) if is_dtensor(tensor) else _local(tensor, window)
    if held.windows is not None and isinstance(held.local, torch.Tensor):
        check_memory(held.local)
    return held


def local_of(x: torch.Tensor) -> torch.Tensor:
    """The memory behind a tensor: a DTensor's local one, any other itself."""
    if not is_dtensor(x):
        return x
    from tritoninit.distributed import private

    return private.local(x)


def whole_here(x: torch.Tensor) -> torch.Tensor | None:
    """The memory of a tensor of which this process holds all; None if it does not."""
    if not is_dtensor(x):
        return x
    held = _distributed(x, None)
    return local_of(x) if held.is_whole else None


def _local(target: Target, window: Window | Windows | None) -> Held:
    windows = Windows.of(window or Window.whole(target.shape), target.shape)
    return Held(target, target, windows, windows.global_shape)


def _distributed(x: torch.Tensor, window: Window | Windows | None) -> Held:
    windows, shape = held_by(x), tuple(x.shape)
    if window is not None:
        window.check(shape)
        shape = window.global_shape
        windows = windows and windows.within(window)
    return Held(x, local_of(x), windows, shape)


def held_by(x: torch.Tensor) -> Windows | None:
    """What this rank holds of a DTensor; None if it is not in the mesh.

    Raises:
        TargetError: several ranks hold parts of each element's sum (``Partial``), what the rank holds is not
            of the shape that the placements say, or one of those is not known here.
    """
    from tritoninit.distributed import private

    dtensor: Any = x
    mesh_shape = tuple(dtensor.device_mesh.shape)
    cuts = cuts_of(dtensor.placements, mesh_shape)
    coordinate = dtensor.device_mesh.get_coordinate()
    if coordinate is None:
        return None
    shape, place = tuple(x.shape), tuple(coordinate)
    local = tuple(local_of(x).shape)
    strided = any(cut.factor != 1 for cut in cuts)
    order = private.shard_order(x)
    readings = []
    if strided:
        # A view that interleaves keeps the order of what it is a view of, and that does not tell. Until 2.10
        # torch noted what it read from the placements, as is done here.
        read = order_of(cuts, mesh_shape)
        order = read if order is None or order == read else None
    elif order is None:
        order = order_of(cuts, mesh_shape)
    if order is not None:
        readings.append(in_order(shape, order, mesh_shape, place))
    if strided:
        readings.append(interleaved(shape, cuts, mesh_shape, place))
    for windows in readings:
        if windows.local_shape == local:
            return windows
        if not (math.prod(windows.local_shape) or math.prod(local)):
            return Windows(shape, local, ())
    raise TargetError(
        f"{dtensor.placements} over a mesh of {mesh_shape} make {readings[0].local_shape} of {shape} at"
        f" {place}, where the local tensor is {local}"
    )


def cuts_of(placements: Any, mesh_shape: tuple[int, ...]) -> tuple[Cut, ...]:
    """What each dimension of a mesh does to a DTensor."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    from tritoninit.distributed import private

    found = []
    for placement, size in zip(placements, mesh_shape, strict=True):
        if isinstance(placement, private.StridedShard):
            found.append(Cut(placement.dim, int(placement.split_factor)))  # type: ignore[attr-defined]
        elif isinstance(placement, Shard):
            found.append(Cut(placement.dim))
        elif isinstance(placement, Replicate) or (isinstance(placement, Partial) and size == 1):
            found.append(Cut())
        elif isinstance(placement, Partial):
            raise TargetError(
                f"{placement} over {size} ranks: each holds a term of every element's sum, and none the"
                " element itself: redistribute it first"
            )
        else:
            raise TargetError(f"what a rank holds of a {type(placement).__name__} is not known here")
    return tuple(found)
