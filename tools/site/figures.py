"""Drawings of what initializers draw: densities and weights, as SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from tritoninit import facts
from tritoninit.facts import Floats, Histogram
from tritoninit.fills import Constant, Fill, Initializer, sole_fill

_WIDTH, _HEIGHT, _BOTTOM, _SIDE = 640, 230, 30, 12
_ROWS, _COLUMNS = 16, 40  # of a weight's picture


def density(initializer: Initializer, shape: tuple[int, ...]) -> str:
    """How the numbers of a weight are distributed, and the density of their law where one fill says it."""
    found = facts.histogram(facts.drawn(initializer, shape), 72)
    low, high = float(found.edges[0]), float(found.edges[-1])
    room = 0.04 * (high - low)
    low, high = low - room, high + room
    share = found.counts / max(1, found.counts.sum()) / np.diff(found.edges)
    x = np.linspace(low, high, 400)
    fill = law_of(initializer, shape)
    law = facts.density(fill, x) if fill is not None else np.zeros(0)
    top = 1.08 * max(float(share.max()), float(law.max(initial=0.0)))

    def across(value: float) -> float:
        return _SIDE + (value - low) / (high - low) * (_WIDTH - 2 * _SIDE)

    def up(value: float) -> float:
        return (_HEIGHT - _BOTTOM) * (1 - value / top)

    def path(xs: Floats, ys: Floats) -> str:
        return " L".join(f"{across(a):.1f} {up(b):.1f}" for a, b in zip(xs, ys, strict=True))

    steps = path(np.repeat(found.edges, 2)[1:-1], np.repeat(share, 2))
    ends = path(found.edges[[-1, 0]], np.zeros(2))
    parts = [
        f'<path class="ti-bars" d="M{steps} L{ends} Z"/>',
        f'<path class="ti-edge" d="M{steps}"/>',
        *([f'<path class="ti-law" d="M{path(x, law)}"/>'] if law.size else []),
        f'<path class="ti-axis" d="M0 {up(0):.1f} H{_WIDTH}"/>',
    ]
    for tick in ticks(low, high):
        at, ground = f"{across(tick):.1f}", up(0)
        parts.append(f'<path class="ti-axis" d="M{at} {ground:.1f} v5"/>')
        parts.append(f'<text class="ti-label" x="{at}" y="{ground + 20:.1f}">{_label(tick)}</text>')
    return _svg(_WIDTH, _HEIGHT, f"the density of {type(initializer).__name__}", parts)


def law_of(initializer: Initializer, shape: tuple[int, ...]) -> Fill | None:
    """The one fill that a weight is drawn by, if that has a density."""
    fill = sole_fill(initializer, shape)
    return None if isinstance(fill, Constant) else fill


def is_spread(initializer: Initializer, shape: tuple[int, ...]) -> bool:
    """Whether a density says something: few numbers, such as an identity's, have none."""
    return facts.drawn(initializer, shape).unique().numel() > 100


def spark(initializer: Initializer, shape: tuple[int, ...]) -> str:
    """The same, small and without words."""
    found: Histogram = facts.histogram(facts.drawn(initializer, shape), 40)
    heights = 46 * (1 - found.counts / found.counts.max()) + 2
    steps = " ".join(f"L{5 * k} {y:.1f} h5" for k, y in enumerate(heights))
    parts = [
        f'<path class="ti-bars" d="M0 48 {steps} L200 48 Z"/>',
        f'<path class="ti-edge" d="M0 48 {steps} L200 48"/>',
    ]
    return _svg(200, 50, "", parts, ' preserveAspectRatio="none"')


def weight(initializer: Initializer, shape: tuple[int, ...]) -> str:
    """A weight's first rows and columns: as strong as an element is large, in one colour a sign."""
    values = facts.drawn(initializer, shape)
    flat = values.reshape(-1, values.shape[-1]) if values.dim() != 1 else values[None]
    picked = flat[:_ROWS, :_COLUMNS]
    return picture(picked, f"the first elements of {type(initializer).__name__}")


def picture(values: torch.Tensor, title: str, cell: int = 14) -> str:
    """A matrix, cell by cell."""
    largest = float(values.abs().max()) or 1.0
    height, width = (cell * size for size in values.shape)
    return _svg(width, height, title, [*_cells(values / largest, cell)])


def _cells(values: torch.Tensor, cell: int) -> Iterator[str]:
    for y, row in enumerate(values.tolist()):
        for x, value in enumerate(row):
            kind = "none" if not value else "plus" if value > 0 else "minus"
            opacity = "" if not value else f' opacity="{max(0.08, abs(value)):.2f}"'
            yield (
                f'<rect class="ti-{kind}" x="{x * cell + 0.5}" y="{y * cell + 0.5}" width="{cell - 1}"'
                f' height="{cell - 1}" rx="2"{opacity}/>'
            )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to nine of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(k for k in (5, 2, 1) if (high - low) / (step * k) >= 4 or k == 1)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _label(x: float) -> str:
    return f"{0 if abs(x) < 1e-12 else x:.6g}".replace("-", "\N{MINUS SIGN}")


def _svg(width: float, height: float, title: str, parts: list[str], how: str = "") -> str:
    name = f' role="img" aria-label="{title}"' if title else ' aria-hidden="true"'
    return f'<svg class="ti-drawing" viewBox="0 0 {width} {height}"{how}{name}>{"".join(parts)}</svg>'
