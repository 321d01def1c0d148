"""The seam between what to draw and who draws it: a list of fills, checked first and then run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from tritoninit import registry
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.kernels.stream import Draw
from tritoninit.keys import Key
from tritoninit.registry import Backend
from tritoninit.targets import Target, as_target, device_type, dtype_name
from tritoninit.window import Window

if TYPE_CHECKING:
    from tritoninit.fills import Fill


KeySource: TypeAlias = "Key | Callable[[], Key]"


def resolve_key(key: KeySource) -> Key:
    return key if isinstance(key, Key) else key()


@dataclass(frozen=True)
class Step:
    """One fill of a plan, lowered: ``backend`` is None for dtypes that the target's library fills itself."""

    target: Target
    fill: Fill
    draw: Draw
    backend: Backend | None


class Plan:
    """Fills to run together. Whatever can be wrong raises in :meth:`add`, before anything is written."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, tensor: Any, fill: Fill, key: KeySource, window: Window | None = None) -> Step:
        """Append a fill of ``tensor``, the ``window`` of a global tensor (by default: all of it).

        A key that is yet to be drawn is drawn last, once nothing can be wrong any more, and not at all for
        a constant.

        Raises:
            TypeError: ``tensor`` is no tensor.
            ValueError: it cannot be written, it lies outside its window, or the parameters make no sense.
            NotImplementedError: random numbers of its dtype are not served.
        """
        target = as_target(tensor)
        shape = tuple(target.shape)
        window = Window.whole(shape) if window is None else window
        window.check(shape)
        dtype = dtype_name(target)
        backend = None
        if dtype in FLOAT_DTYPES:
            backend = registry.resolve(device_type(target))
        elif fill.random:
            raise NotImplementedError(
                f"{type(fill).__name__} of {dtype}: random fills serve {', '.join(FLOAT_DTYPES)}"
            )
        parameters = fill.parameters(dtype)
        if backend is None:
            _fill_unserved(_scalar_like(target), *parameters)  # raises if the dtype cannot hold the value
        key = resolve_key(key) if fill.random else Key(0)
        draw = Draw(fill.distribution, parameters, key.seed, key.stream, window.start(), window.strides())
        step = Step(target, fill, draw, backend)
        self.steps.append(step)
        return step

    def run(self) -> None:
        """Write every fill, in order."""
        for step in self.steps:
            if step.backend is not None:
                registry.fill(step.backend, step.target, step.draw)
            else:
                _fill_unserved(step.target, *step.draw.parameters)


def _fill_unserved(target: Target, value: Any) -> None:
    """A constant, the one distribution of every dtype, into a dtype that no backend serves."""
    if isinstance(target, torch.Tensor):
        with torch.no_grad():
            target.fill_(value)
    else:
        target.fill(value)


def _scalar_like(target: Target) -> Target:
    if isinstance(target, torch.Tensor):
        return torch.empty((), dtype=target.dtype, device="cpu")
    return np.empty((), target.dtype)
