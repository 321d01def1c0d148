"""LSUV: orthonormal weights, scaled layer by layer until a batch's outputs have a variance of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tritoninit.distributed.held import is_dtensor
from tritoninit.initializers import Zeros
from tritoninit.kernels.lowering import ParameterError, integer, plain
from tritoninit.keys import Key
from tritoninit.model_initialization import initialize_
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.models.slots import Selection, select, slots
from tritoninit.rounding import NEAREST, STOCHASTIC, check_rounding, rounded_for, widened
from tritoninit.schemes.published import TORCH_DEFAULTS, class_named
from tritoninit.structured import Orthogonal
from tritoninit.targets import TargetError
from tritoninit.tracing.private import untraced
from tritoninit.window import Window

_LAYERS: Final = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_ORTHONORMAL: Final[Mapping[str, Any]] = {"weight": Orthogonal(), "bias": Zeros()}

ORTHONORMAL: Final = RuleSet(
    "orthonormal",
    "Saxe, McClelland and Ganguli, ICLR 2014",
    [*(Rule(kind, _ORTHONORMAL) for kind in (*_LAYERS, class_named("Conv1D"))), *TORCH_DEFAULTS],
)


@dataclass(frozen=True)
class LayerVariance:
    """What became of one layer.

    Attributes:
        name: of its weight.
        before: the variance of its outputs, of all elements of the batch, before its weight was scaled.
        after: the same when the next layer's turn came.
        steps: how many times it was scaled.
        note: why it stayed as it was, if it did for a reason.
    """

    name: str
    before: float
    after: float
    steps: int
    note: str = ""


@untraced
def lsuv_(
    module: nn.Module,
    *batch: Any,
    rules: Iterable[Rule] = ORTHONORMAL,
    seed: int | None = None,
    tolerance: float = 0.1,
    most_steps: int = 10,
    only: Selection | None = None,
    skip: Selection = (),
    rounding: str = NEAREST,
    **inputs: Any,
) -> tuple[LayerVariance, ...]:
    """Layer-sequential unit-variance initialisation, in place: Mishkin and Matas, ICLR 2016, algorithm 1.

    The model is initialised by rules; then, in the order in which a forward pass reaches them, the weight of
    each linear layer and convolution is divided by the standard deviation of the layer's outputs, until their
    variance is within the tolerance of one. It takes a pass of the whole model a step. The model is in
    evaluation mode for these, without gradients, so that dropout and running statistics have no part; modes
    are put back, and buffers that a pass changes all the same.

    The random numbers are this library's, and the same everywhere; what a pass computes from them and the
    batch is equal to rounding, and so are the weights.

    Args:
        module: the model, with memory, whole: no part of a sharded one.
        batch: what it is called with, such as one tensor of a few hundred examples.
        rules: as in :func:`~tritoninit.initialize_`; orthonormal weights, zero biases and torch.nn's own
            rules by default. ``[Rule("*", Keep())]`` scales the weights that are there.
        seed: 64 bits, as there.
        tolerance: how far from one a variance may stay; the paper has 0.1.
        most_steps: how many times a weight is scaled at most.
        only: set, and scale, these alone, as in ``initialize_``.
        skip: keep these.
        rounding: as in ``initialize_``; weights that are scaled are rounded so, too.
        inputs: what it is called with by name.

    Returns:
        One :class:`LayerVariance` a layer that the pass reaches, in its order. A layer whose outputs are all
        one number (zero weights, where a branch starts as if it were not there) stays, and says so; of tied
        weights the first layer counts.

    Raises:
        ValueError: as ``initialize_``; a number makes no sense; a part of a sharded model; outputs that are
            no finite numbers, by the layer's name. What was scaled before then stays scaled.

    >>> layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    >>> found = lsuv_(layers, torch.randn(256, 8), seed=0)
    >>> [each.name for each in found], all(abs(each.after - 1) < 0.1 for each in found)
    (['0.weight', '2.weight'], True)
    """
    check_rounding(rounding)
    tolerance, most_steps = plain("tolerance", tolerance), integer("most_steps", most_steps)
    if not 0 < tolerance < math.inf or most_steps < 0:
        raise ParameterError(f"a tolerance is positive, steps are not negative: {tolerance}, {most_steps}")
    for slot in slots(module):
        if slot.shard is not None or is_dtensor(slot.tensor):
            raise TargetError(f"{slot.name}: a part of it is here, and outputs tell of the whole model alone")
    report = initialize_(module, rules, seed=seed, only=only, skip=skip, rounding=rounding)
    found = slots(module)
    chosen = set(found) if only is None else select(found, only, "only")
    chosen -= select(found, skip, "skip")
    names = {place: slot.name for slot in chosen if not slot.is_buffer for place in _places(slot.places)}

    def forward() -> None:
        module(*batch, **inputs)

    with _at_work(module):
        scaled: list[LayerVariance] = []
        done: set[str] = set()
        for layer in _in_order(module, forward):
            name = names.get((id(layer), "weight"))
            if name is not None and name not in done:
                done.add(name)
                own = Key(report.seed).fold_in(name).fold_in("lsuv") if rounding == STOCHASTIC else None
                scaled.append(_scale(layer, name, forward, tolerance, most_steps, own))
    return tuple(scaled)


def _places(places: Iterable[tuple[nn.Module, str]]) -> Iterator[tuple[int, str]]:
    return ((id(owner), local) for owner, local in places)


@contextmanager
def _at_work(module: nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; modes and buffers are as before afterwards."""
    training = {m: m.training for m in module.modules()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in training.items():
            m.training = mode
        with torch.no_grad():
            for buffer, before in buffers.items():
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def _in_order(module: nn.Module, forward: Any) -> list[nn.Module]:
    """The layers that a pass reaches, by their first call."""
    reached: dict[nn.Module, None] = {}
    layers = [m for m in module.modules() if isinstance(m, _LAYERS) or type(m).__name__ == "Conv1D"]
    hooks = [layer.register_forward_hook(lambda m, *_: reached.setdefault(m)) for layer in layers]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return list(reached)


def _scale(
    layer: nn.Module, name: str, forward: Any, tolerance: float, most_steps: int, key: Key | None
) -> LayerVariance:
    before = variance = _variance(layer, name, forward)
    steps, power = 0, 2.0  # of the weight, that the variance goes with; of one that its inputs hang on, more
    while variance > 0 and abs(variance - 1) > tolerance and steps < most_steps:
        factor, last = variance ** (-1 / power), variance
        _multiply(layer, factor, None if key is None else key.fold_in(steps))
        steps += 1
        variance = _variance(layer, name, forward)
        if variance > 0:
            power = max(math.log(variance / last) / math.log(factor), 1.0)
    return LayerVariance(name, before, variance, steps, "" if variance else "its outputs are all one number")


def _multiply(layer: nn.Module, factor: float, key: Key | None) -> None:
    """Multiply a layer's weight; by a key, round up or down at random what comes of it."""
    weight: Any = layer.weight
    if key is not None:
        values = widened(weight.detach()) * factor
        product = rounded_for(weight, values, key, Window.whole(weight.shape)).to(weight.dtype)
    elif parametrize.is_parametrized(layer, "weight"):
        product = weight * factor
    else:
        weight.mul_(factor)
        return
    if parametrize.is_parametrized(layer, "weight"):
        layer.weight = product
    else:
        weight.copy_(product)


def _variance(layer: nn.Module, name: str, forward: Any) -> float:
    """Of the outputs of a layer's first call in a pass.

    Raises:
        ValueError: some are not finite.
    """
    found: list[float] = []

    def look(module: nn.Module, given: Any, output: Tensor) -> None:
        if not found and output.numel():
            found.append(float(output.detach().to(torch.float64).var(correction=0)))

    hook = layer.register_forward_hook(look)
    try:
        forward()
    finally:
        hook.remove()
    if not found or not math.isfinite(found[0]):
        raise ValueError(f"{name}: the layer's outputs have no variance, or were not computed")
    return found[0]
