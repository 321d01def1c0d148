"""The coordinate check of muP: how large activations are at several widths, as a small model trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tritoninit.kernels.lowering import ParameterError, integer, integers, plain
from tritoninit.model_initialization import initialize_
from tritoninit.models.mup import OPTIMIZERS, mup, mup_groups
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.schemes.published import TORCH_DEFAULTS


@dataclass(frozen=True)
class Coordinate:
    """How large the outputs of a module are.

    Attributes:
        width: of the model.
        step: after how many steps of training; 0 before the first.
        name: of the module; "" is the model itself.
        size: the mean of the outputs' absolute values, over elements and seeds.
    """

    width: int
    step: int
    name: str
    size: float


@dataclass(frozen=True)
class CoordCheck:
    """What :func:`coord_check` found.

    Attributes:
        widths: from the base width on.
        steps: of training.
        coordinates: by width, step and module, in the order of the pass.
    """

    widths: tuple[int, ...]
    steps: int
    coordinates: tuple[Coordinate, ...]

    def slopes(self, step: int = -1) -> dict[str, float]:
        """By module, the exponent k of width**k that its size goes with after a step, by least squares.

        Near 0 or below where training does not depend on the width; 1/2 or 1 where it blows up with it. -inf
        of outputs that are zero somewhere.

        Args:
            step: from 0 to ``steps``; negative ones count from the end.

        Returns:
            Exponents by the modules' names.
        """
        step = range(self.steps + 1)[step]
        found: dict[str, list[tuple[int, float]]] = {}
        for each in self.coordinates:
            if each.step == step:
                found.setdefault(each.name, []).append((each.width, each.size))
        return {name: _slope(points) for name, points in found.items()}

    @property
    def growth(self) -> float:
        """The largest slope of any module after any step."""
        return max(slope for step in range(self.steps + 1) for slope in self.slopes(step).values())

    def plot(self, path: str | Any) -> None:
        """Write a figure, one panel a step, sizes by widths, a line a module; by its suffix SVG, PNG or PDF.

        Args:
            path: of the file, or what is open to be written.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure  # of no use to anything else here

        steps = range(self.steps + 1)
        figure = Figure(figsize=(3 * len(steps), 3.2), layout="constrained")
        panels = figure.subplots(1, len(steps), sharey=True, squeeze=False)[0]
        names = list(dict.fromkeys(each.name for each in self.coordinates))
        for step, panel in zip(steps, panels, strict=True):
            for name in names:
                sizes = [each.size for each in self.coordinates if (each.step, each.name) == (step, name)]
                panel.plot(self.widths, sizes, marker=".", label=name or "output")
            panel.set(xscale="log", yscale="log", xlabel="width", title=f"step {step}")
            panel.set_xticks(self.widths, [str(width) for width in self.widths])
            panel.minorticks_off()
        panels[0].set_ylabel("mean |output|")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
        figure.savefig(path)


def coord_check(
    make: Callable[[int], nn.Module],
    loss: Callable[[nn.Module, int], Tensor],
    widths: Sequence[int],
    *,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    lr: float = 1e-2,
    steps: int = 4,
    optimizer: str = "adam",
    seeds: int = 3,
    standard: bool = False,
) -> CoordCheck:
    """Train a model at several widths for a few steps, and tell how large each module's outputs become.

    Yang et al. 2022, "Tensor Programs V"; microsoft/mup, ``coord_check``. Under muP sizes stay as they are,
    or shrink, as the width grows; where something is amiss, they go with a power of it after a step or two.

    Each model is initialised by :func:`~tritoninit.mup` of the rules, and trained by ``torch.optim.Adam`` or
    ``SGD`` with the rates of :func:`~tritoninit.mup_groups`. Forward passes are in the mode that ``make``
    leaves the model in.

    Args:
        make: the model of a width, on any device but the meta device.
        loss: of a model at a step, from 0: calls it once, on data that the step alone decides.
        widths: at least two, from the base width on.
        rules: for the model at its base width.
        lr: the rate at the base width.
        steps: of training.
        optimizer: "adam" or "sgd".
        seeds: how many runs are averaged: their seeds are 0 and up.
        standard: have the standard parametrisation instead, to see the difference: the rules as they are, and
            the same rate for all parameters.

    Returns:
        The numbers, before the first step and after each, of every module that has parameters of its own, and
        of the model; ``plot(path)`` draws them.

    Raises:
        ValueError: numbers that make no sense; whatever ``mup`` and ``initialize_`` raise; a loss that is not
            finite, with the width and the step.

    >>> def make(width):
    ...     return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 1))
    >>> data = torch.randn(64, 8)
    >>> def loss(model, step):
    ...     return (model(data) - data[:, :1]).square().mean()
    >>> found = coord_check(make, loss, [32, 64, 128], seeds=1)
    >>> found.growth < 0.5 < coord_check(make, loss, [32, 64, 128], seeds=1, standard=True).growth
    True
    """
    widths, lr = integers("widths", widths), plain("lr", lr)
    steps, seeds = integer("steps", steps), integer("seeds", seeds)
    if len(widths) < 2 or len(set(widths)) < len(widths) or min(widths) < 1:
        raise ParameterError(f"two widths or more, all different and positive, unlike {widths}")
    if steps < 0 or seeds < 1 or not 0 <= lr < math.inf:
        raise ParameterError(f"steps and a rate are not negative, seeds positive: {steps}, {lr}, {seeds}")
    if optimizer not in OPTIMIZERS:
        raise ParameterError(f"optimizer is one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    rules = RuleSet.of(rules)
    sums: dict[tuple[int, int, str], float] = {}
    for width in widths:
        for seed in range(seeds):
            base, model = make(widths[0]), make(width)
            initialize_(model, rules if standard else mup(rules, base), seed=seed)
            groups = (
                [{"params": list(model.parameters()), "lr": lr}]
                if standard
                else mup_groups(model, base, lr, optimizer=optimizer, rules=rules)
            )
            kind: Any = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
            for step, sizes in enumerate(_trained(model, loss, kind(groups, lr=lr), steps, width)):
                for name, size in sizes.items():
                    sums[width, step, name] = sums.get((width, step, name), 0.0) + size / seeds
    return CoordCheck(widths, steps, tuple(Coordinate(*place, size) for place, size in sums.items()))


def _trained(
    model: nn.Module, loss: Callable[[nn.Module, int], Tensor], optimizer: Any, steps: int, width: int
) -> Iterator[dict[str, float]]:
    """The sizes of modules' outputs before each step, and after the last."""
    for step in range(steps + 1):
        with _sizes(model) as sizes, torch.enable_grad():
            value = loss(model, step)
        if not math.isfinite(value.item()):
            raise ValueError(f"width {width}: the loss of step {step} is {value.item()}")
        yield sizes
        if step < steps:
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()


@contextmanager
def _sizes(model: nn.Module) -> Iterator[dict[str, float]]:
    """The mean absolute values of what modules give in the block; of their first call."""
    found: dict[str, float] = {}
    watched = [
        (n, m)
        for n, m in model.named_modules()
        if not n or next(m.parameters(recurse=False), None) is not None
    ]

    def watch(name: str) -> Any:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and name not in found:
                found[name] = float(output.detach().to(torch.float64).abs().mean())

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in watched]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Of log(size) by log(width)."""
    if min(size for _, size in points) == 0:
        return -math.inf
    x, y = [math.log(width) for width, _ in points], [math.log(size) for _, size in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)
