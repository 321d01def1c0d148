"""Figures of a comparison: throughput against size, and shares of memset's speed; PNG, and SVG for a page.

A contender keeps its colour and its marker in every panel, and its name stands beside the end of its line:
nothing is told by colour alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tritoninit.bench import glance
from tritoninit.bench.comparison import Comparison, Panel, fills, panels, telling
from tritoninit.bench.drawing import LIGHT, STYLES, as_svg, matplotlib_set, style_of
from tritoninit.bench.glance import ROOM
from tritoninit.bench.names import cut
from tritoninit.bench.result_files import Results, Row
from tritoninit.bench.sizes import power_of_two
from tritoninit.bench.tables import percent
from tritoninit.outputs import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CEILING: Final = "memset"
_PREDICTION: Final = "predicted"
_SUPERSCRIPTS: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_STAR: Final[dict[str, Any]] = {
    "marker": "*",
    "markersize": 9,
    "markerfacecolor": LIGHT["ground"],
    "markeredgecolor": LIGHT["ink"],
    "linestyle": "none",
}
_TORCH: Final[dict[str, Any]] = {
    "marker": STYLES["torch"].marker,
    "markersize": 6.5,
    "color": LIGHT[STYLES["torch"].colour],
    "markeredgecolor": LIGHT["ground"],
    "linestyle": "none",
}
_DASHES: Final[dict[str, Any]] = {"color": LIGHT["faint"], "linestyle": (0, (4, 2)), "linewidth": 1.3}
_SHARE: Final = "of memset's speed"
_AT: Final = "at the largest size that torch filled too"
_HEADING: Final = 1.4  # of a group of bars, in bars
_PANEL: Final = (4.4, 3.0)  # inches


def png(found: Comparison) -> bytes:
    """All figures in one picture, shares of memset's speed below; of several machines, these at a glance.

    Raises:
        UsageError: matplotlib is not installed, or no fill was measured.
    """
    with matplotlib_set(f"{__name__}.png"):
        from matplotlib.figure import Figure

        rows, drawn = _grid(found), _shares(found)
        across = max(map(len, rows))
        machines = glance.machines(found) if glance.several(found) else []
        heights = [*[_PANEL[1]] * len(rows), _bars_height(drawn)]
        if machines:
            heights.append(glance.height(machines))
        figure = Figure(figsize=(_PANEL[0] * across, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(heights), across, height_ratios=heights)
        for i, row in enumerate(rows):
            for j, (panel, column) in enumerate(row):
                title = f"{_briefly(found)[column]}\n{panel}"
                _draw_throughput(figure.add_subplot(grid[i, j]), found, panel, column, title)
        if drawn:
            axes = figure.add_subplot(grid[len(rows), :])
            _draw_shares(axes, drawn, _reach(drawn), f"{_SHARE}, {_AT}")  # which a page says above
        subjects = list(dict.fromkeys(panel.subject for panel in glance.columns(found)))
        if machines:
            inner = grid[len(rows) + 1, :].subgridspec(1, len(subjects))
            for k, subject in enumerate(subjects):
                glance.draw(axes := figure.add_subplot(inner[k]), machines, subject)
                if k:
                    axes.tick_params(axis="y", labelleft=False)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
        return file.getvalue()


def _grid(found: Comparison) -> list[list[tuple[Panel, int]]]:
    """Where panels stand: machines side by side; of one machine, the dtypes of a distribution."""
    drawn, columns = panels(found), range(len(found.results))
    if not drawn:
        raise UsageError("nothing to draw: no fill was measured")
    if len(columns) > 1:
        return [[(panel, column) for column in columns] for panel in drawn]
    subjects = dict.fromkeys(panel.subject for panel in drawn)
    return [[(panel, 0) for panel in drawn if panel.subject == subject] for subject in subjects]


def throughput_svg(found: Comparison, panel: Panel, column: int) -> str:
    """Throughput against size of one distribution and dtype on one machine, to stand in a page."""
    with matplotlib_set(f"{panel}, {column}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=_PANEL, layout="constrained")
        name = found.results[column].name
        title = _briefly(found)[column] if len(found.results) > 1 else str(panel)
        _draw_throughput(figure.add_subplot(), found, panel, column, title)
        return as_svg(figure, f"{panel} on {name}: elements a second against size, a line a contender")


def shares_svgs(found: Comparison) -> list[str]:
    """Shares of memset's speed on every machine, to stand in a page; one a dtype that has a memset."""
    groups = _shares(found)
    svgs = []
    for dtype in dict.fromkeys(panel.dtype for panel, _ in groups):
        drawn = [(panel, bars) for panel, bars in groups if panel.dtype == dtype]
        with matplotlib_set(f"shares, {dtype}"):
            from matplotlib.figure import Figure

            figure = Figure(figsize=(_PANEL[0], _bars_height(drawn)), layout="constrained")
            _draw_shares(figure.add_subplot(), drawn, _reach(groups))
            what = f"How much of memset's speed fills of {dtype} reach on each machine, {_AT}"
            svgs.append(as_svg(figure, what))
    return svgs


def _draw_throughput(axes: Axes, found: Comparison, panel: Panel, column: int, title: str) -> None:
    results = found.results[column]
    ends: list[tuple[str, float, dict[str, Any]]] = []
    for contender in dict.fromkeys(row.contender for row in results.rows):
        rows = _series(results, panel, contender)
        if not rows:
            continue
        mark = _mark(contender)
        sizes, rates = [row.elements for row in rows], [row.rate / 1e9 for row in rows]
        axes.plot(sizes, rates, **mark)
        if contender != _CEILING:
            slow = [row.elements / row.q3 / 1e9 for row in rows]
            fast = [row.elements / row.q1 / 1e9 for row in rows]
            axes.fill_between(sizes, slow, fast, color=mark["color"], alpha=0.18, linewidth=0)
        ends.append((contender, rates[-1], mark))
    for row, prediction in found.predictions[column].items():
        if (row.subject, row.dtype) == (panel.subject, panel.dtype):
            axes.plot(row.elements, prediction.gs_per_s, **_STAR)
            ends.append((_PREDICTION, prediction.gs_per_s, _STAR))
    if all(contender == _CEILING for contender, _, _ in ends):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=LIGHT["faint"])
    axes.set_title(title)
    axes.set_xlabel("elements")
    axes.set_ylabel("GS/s")
    _scale(axes, found, panel)
    _shade(axes, results, panel)
    _name_ends(axes, ends)


def _mark(contender: str) -> dict[str, Any]:
    """How a contender's line is drawn."""
    if contender == _CEILING:
        return _DASHES
    style = style_of(contender)
    return {"color": LIGHT[style.colour], "marker": style.marker, "markeredgewidth": 0}


def _series(results: Results, panel: Panel, contender: str) -> list[Row]:
    """A contender's fills with all of the machine; memset's whatever they were measured for."""
    if contender != _CEILING:
        return fills(results, panel.subject, panel.dtype, contender)
    subjects = dict.fromkeys(row.subject for row in results.rows if row.contender == _CEILING)
    found = (fills(results, subject, panel.dtype, _CEILING) for subject in (panel.subject, *subjects))
    return next((rows for rows in found if rows), [])


def _scale(axes: Axes, found: Comparison, panel: Panel) -> None:
    """Log axes of the same range on every machine, so that panels side by side can be read across."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    rows = [
        row
        for results in found.results
        for row in results.rows
        if row.kind == "fill" and row.dtype == panel.dtype and row.elements and results.scope(row) == "all"
    ]
    rates = [row.rate / 1e9 for row in rows]
    exponents = [row.elements.bit_length() - 1 for row in rows]
    first, last = min(exponents), max(exponents)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(2 ** (first - 0.5), 2 ** (last + 0.5))
    axes.set_ylim(min(rates) / 2, max(rates) * 2)
    step = max(1, -(-(last - first) // 6))
    axes.xaxis.set_major_locator(FixedLocator([2.0**e for e in range(first, last + 1, step)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _superscript(power_of_two(round(x)) or "")))
    axes.yaxis.set_major_locator(LogLocator(10))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))


def _shade(axes: Axes, results: Results, panel: Panel) -> None:
    """Shade the sizes that stay in the cache."""
    rows = [row for row in results.rows if (row.kind, row.dtype) == ("fill", panel.dtype) and row.elements]
    inside = [row.elements for row in rows if results.cached(row)]
    outside = [row.elements for row in rows if not results.cached(row)]
    if not inside:
        return
    low, high = axes.get_xlim()
    end = math.sqrt(max(inside) * min(outside)) if outside else high
    axes.axvspan(low, end, color=LIGHT["grid"], alpha=0.55, linewidth=0)
    place = axes.get_xaxis_transform()
    axes.text(low * 1.25, 0.96, "in the cache", transform=place, color=LIGHT["faint"], fontsize=8.5, va="top")


def _superscript(power: str) -> str:
    """
    >>> _superscript("2^20")
    '2²⁰'
    """
    base, _, exponent = power.partition("^")
    return base + exponent.translate(_SUPERSCRIPTS)


def _name_ends(axes: Axes, ends: Sequence[tuple[str, float, dict[str, Any]]]) -> None:
    """Marks and names to the right of where lines end, moved apart where they would overlap."""
    low, high = map(math.log10, axes.get_ylim())
    ends = sorted(ends, key=lambda end: end[1])
    heights = spread([(math.log10(rate) - low) / (high - low) for _, rate, _ in ends], 0.085)
    place: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for (name, _, mark), height in zip(ends, heights, strict=True):
        x = [1.03, 1.075] if mark is _DASHES else [1.05]
        axes.plot(x, [height] * len(x), **mark, **place)
        axes.text(1.095, height, name, color=mark.get("color", LIGHT["ink"]), va="center", **place)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved as little as is simple so that they are ``gap`` apart, and no higher than 0.96.

    >>> spread([0.25, 0.25], 0.5)
    [0.25, 0.75]
    """
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + gap) if found else height)
    ceiling = 0.96
    for place in reversed(range(len(found))):
        found[place] = min(found[place], ceiling)
        ceiling = found[place] - gap
    return found


@dataclass(frozen=True)
class _Bar:
    """What a machine reaches of its memset in a panel's ``telling`` fill; None where it was not measured."""

    machine: str
    contender: str
    ours: float
    torch: float | None
    predicted: float | None


def _shares(found: Comparison) -> list[tuple[Panel, list[_Bar]]]:
    groups = [(panel, list(_bars(found, panel))) for panel in panels(found)]
    return [(panel, bars) for panel, bars in groups if bars]


def _bars(found: Comparison, panel: Panel) -> Iterator[_Bar]:
    for column, results in enumerate(found.results):
        row = telling(found, panel, column)
        if row is None or (share := row.memset_fraction) is None:
            continue
        torch = [r for r in fills(results, panel.subject, panel.dtype, "torch") if r.elements == row.elements]
        prediction = found.predictions[column].get(row)
        yield _Bar(
            _briefly(found)[column],
            row.contender,
            share,
            torch[0].memset_fraction if torch else None,
            share * prediction.gs_per_s * 1e9 / row.rate if prediction else None,
        )


def _bars_height(groups: Sequence[tuple[Panel, Sequence[_Bar]]]) -> float:
    """Inches: a line a bar and a heading a group, and the axis."""
    return 1.0 + 0.24 * sum(len(bars) + _HEADING for _, bars in groups)


def _reach(groups: Sequence[tuple[Panel, Sequence[_Bar]]]) -> float:
    """The largest share that there is room for: from 1 to 1.5, past which a memset was disturbed."""
    shares = [max(bar.ours, bar.predicted or 0) for _, bars in groups for bar in bars]
    return min(max(1.0, *shares), 1.5)


def _draw_shares(
    axes: Axes, groups: Sequence[tuple[Panel, Sequence[_Bar]]], reach: float, label: str = _SHARE
) -> None:
    """A bar for ours, torch's mark on it, a star where prediction puts it."""
    y, places, names = 0.0, [], []
    for panel, bars in groups:
        axes.text(0, y, str(panel), transform=axes.get_yaxis_transform(), weight="bold", va="center")
        for y_bar, bar in enumerate(bars, 1):
            _draw_bar(axes, y + y_bar, bar)
            places.append(y + y_bar)
            names.append(bar.machine)
        y += len(bars) + _HEADING
    axes.set_yticks(places, names)
    axes.set_ylim(y - 0.6, -0.8)
    axes.set_xlim(0, 1.05 * reach)
    axes.xaxis.set_major_formatter(lambda x, _: percent(x) if x else "0")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.axvline(1.0, **_DASHES)
    axes.set_xlabel(label)
    _legend(axes, [bar for _, bars in groups for bar in bars])


def _draw_bar(axes: Axes, y: float, bar: _Bar) -> None:
    axes.barh(y, bar.ours, height=0.62, color=LIGHT[_colour(bar)])
    axes.text(1.02, y, percent(bar.ours), transform=axes.get_yaxis_transform(), va="center")
    if bar.torch is not None:
        axes.plot(bar.torch, y, **_TORCH)
    if bar.predicted is not None:
        axes.plot(bar.predicted, y, **_STAR)


def _colour(bar: _Bar) -> str:
    return style_of(bar.contender).colour


def _legend(axes: Axes, bars: Sequence[_Bar]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for colour in dict.fromkeys(map(_colour, bars)):
        names = dict.fromkeys(bar.contender for bar in bars if _colour(bar) == colour)
        handles.append(Patch(color=LIGHT[colour], label=" or ".join(names)))
    if any(bar.torch is not None for bar in bars):
        handles.append(Line2D([], [], label="torch", **_TORCH))
    if any(bar.predicted is not None for bar in bars):
        handles.append(Line2D([], [], label=_PREDICTION, **_STAR))
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.15, 1), "borderpad": 0}
    spacing: dict[str, Any] = {"handlelength": 1.2, "handletextpad": 0.5, "columnspacing": 1.2}
    axes.legend(handles=handles, ncols=len(handles), frameon=False, **place, **spacing)


def _briefly(found: Comparison) -> list[str]:
    """The machines' names, in little room."""
    return cut([results.name for results in found.results], ROOM)
