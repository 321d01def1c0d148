"""Figures of a comparison: throughput against size, and shares of memset's speed; PNG, and SVG for a page.

One code draws both. A PNG has the colours of ``LIGHT``; in an SVG each is replaced by a CSS variable, so that
the page it stands in chooses light or dark. A contender keeps its colour and its marker in every panel, and
its name stands beside the end of its line: nothing is told by colour alone.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tritoninit.bench.comparison import Comparison, fills
from tritoninit.bench.result_files import Results, Row
from tritoninit.bench.sizes import power_of_two
from tritoninit.bench.tables import percent
from tritoninit.outputs import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Hues like Okabe and Ito's (jfly.uni-koeln.de/color), of lightnesses so far apart that they are told apart
# without one kind of cones too, and with the contrast of text, 4.5 to 1 (WCAG 2.2, 1.4.3), in both modes.
LIGHT: Final = {
    "ground": "#ffffff",
    "ink": "#1b1f24",
    "faint": "#59636e",
    "grid": "#e3e6ea",
    "ours": "#0060a8",
    "torch": "#cc4b00",
    "jax": "#00805a",
    "other": "#bb4a9a",
    "other-2": "#5f4b00",
    "other-3": "#8f2be0",
    "other-4": "#0f4d2a",
}
DARK: Final = {
    "ground": "#12161c",
    "ink": "#e8ebef",
    "faint": "#9aa4b0",
    "grid": "#2a313a",
    "ours": "#4aa8ff",
    "torch": "#f5803a",
    "jax": "#1fb88a",
    "other": "#e08fcb",
    "other-2": "#f2dc6b",
    "other-3": "#d0b0ff",
    "other-4": "#a6ffbc",
}


@dataclass(frozen=True)
class Style:
    """A contender's colour, a key of ``LIGHT``, and its marker."""

    colour: str
    marker: str


# Those of one colour never meet in a panel: they serve different devices.
STYLES: Final = {
    "triton": Style("ours", "o"),
    "numba": Style("ours", "o"),
    "numpy": Style("other-2", "h"),
    "torch": Style("torch", "s"),
    "torch-func": Style("faint", "p"),
    "jax": Style("jax", "^"),
    "cupy-philox": Style("other", "D"),
    "cupy-xorwow": Style("other-2", "v"),
    "rocrand-philox": Style("other", "D"),
    "rocrand-xorwow": Style("other-2", "v"),
    "curand-device": Style("other-3", "<"),
    "flag-gems": Style("other-4", ">"),
    "numpy-generator": Style("other", "P"),
    "numpy-sfc64": Style("other-3", "<"),
    "numpy-philox": Style("other-4", ">"),
}
_XLINK: Final = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
_NAMES: Final = {literal: name for name, literal in LIGHT.items()}
_UNKNOWN: Final = Style("faint", "X")
_CEILING: Final = "memset"
_PREDICTION: Final = "predicted"
_SUPERSCRIPTS: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_RC: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",  # matplotlib's own; a page's are narrower
    "font.size": 10,
    "text.parse_math": False,  # a machine's name may hold a dollar sign
    "svg.fonttype": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT["faint"],
    "axes.labelcolor": LIGHT["faint"],
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.7,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["faint"],
    "ytick.color": LIGHT["faint"],
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": LIGHT["ground"],
}
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


@dataclass(frozen=True)
class Panel:
    """The fills of one distribution and dtype."""

    subject: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.subject.replace('_', ' ')}, {self.dtype}"


def panels(found: Comparison) -> list[Panel]:
    """What there are figures of, in the order of the table."""
    tasks = (line.task for line in found.lines)
    return list(
        dict.fromkeys(Panel(t.subject, t.dtype) for t in tasks if t.kind == "fill" and t.scope == "all")
    )


def png(found: Comparison) -> bytes:
    """All figures in one picture, shares of memset's speed below.

    Raises:
        UsageError: matplotlib is not installed, or no fill was measured.
    """
    with _matplotlib(f"{__name__}.png"):
        from matplotlib.figure import Figure

        rows, drawn = _grid(found), _shares(found)
        across = max(map(len, rows))
        height = _PANEL[1] * len(rows) + _bars_height(drawn)
        figure = Figure(figsize=(_PANEL[0] * across, height), layout="constrained")
        grid = figure.add_gridspec(
            len(rows) + 1, across, height_ratios=[*[_PANEL[1]] * len(rows), _bars_height(drawn)]
        )
        for i, row in enumerate(rows):
            for j, (panel, column) in enumerate(row):
                title = f"{_brief(found.results[column].name)}\n{panel}"
                _draw_throughput(figure.add_subplot(grid[i, j]), found, panel, column, title)
        if drawn:
            axes = figure.add_subplot(grid[len(rows), :])
            _draw_shares(axes, drawn, _reach(drawn), f"{_SHARE}, {_AT}")  # which a page says above
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
    with _matplotlib(f"{panel}, {column}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=_PANEL, layout="constrained")
        name = found.results[column].name
        title = _brief(name) if len(found.results) > 1 else str(panel)
        _draw_throughput(figure.add_subplot(), found, panel, column, title)
        return _svg(figure, f"{panel} on {name}: elements a second against size, a line a contender")


def shares_svgs(found: Comparison) -> list[str]:
    """Shares of memset's speed on every machine, to stand in a page; one a dtype that has a memset."""
    groups = _shares(found)
    svgs = []
    for dtype in dict.fromkeys(panel.dtype for panel, _ in groups):
        drawn = [(panel, bars) for panel, bars in groups if panel.dtype == dtype]
        with _matplotlib(f"shares, {dtype}"):
            from matplotlib.figure import Figure

            figure = Figure(figsize=(_PANEL[0], _bars_height(drawn)), layout="constrained")
            _draw_shares(figure.add_subplot(), drawn, _reach(groups))
            what = f"How much of memset's speed fills of {dtype} reach on each machine, {_AT}"
            svgs.append(_svg(figure, what))
    return svgs


@contextmanager
def _matplotlib(salt: str) -> Iterator[None]:
    """Matplotlib with our settings; ``salt`` makes an SVG's ids its own in a page that has several."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("figures need matplotlib: pip install matplotlib") from None
    settings: Any = {**_RC, "svg.hashsalt": salt}  # whose names matplotlib's annotations list one by one
    with mpl.rc_context(settings):
        yield


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
    _name_ends(axes, ends)


def _mark(contender: str) -> dict[str, Any]:
    """How a contender's line is drawn."""
    if contender == _CEILING:
        return _DASHES
    style = STYLES.get(contender, _UNKNOWN)
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
            results.name,
            row.contender,
            share,
            torch[0].memset_fraction if torch else None,
            share * prediction.gs_per_s * 1e9 / row.rate if prediction else None,
        )


def shown(found: Comparison, panel: Panel, column: int) -> list[Row]:
    """A machine's fills of a panel by the contender that the table shows, by size."""
    lines = (line for line in found.lines if line.task.kind == "fill" and line.task.scope == "all")
    rows = (line.cells[column] for line in lines if Panel(line.task.subject, line.task.dtype) == panel)
    return [row for row in rows if row is not None]


def telling(found: Comparison, panel: Panel, column: int) -> Row | None:
    """The fill that stands for a machine's others: the largest that memset and torch were timed at too.

    A small fill is in the cache, and says nothing of the memory; but of a large one, torch may take so long
    that it was left out. Without torch at any size the largest with memset, without memset the largest.
    """

    def rank(row: Row) -> tuple[bool, bool, int]:
        return row.memset_fraction is not None, row.torch_ratio is not None, row.elements

    return max(shown(found, panel, column), key=rank, default=None)


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
            names.append(_brief(bar.machine))
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
    return STYLES.get(bar.contender, _UNKNOWN).colour


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


def _brief(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _svg(figure: Figure, description: str) -> str:
    """A figure for a page: scaled to its place, in the page's font, its colours CSS variables."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    drawn = file.getvalue()
    size = re.search(r'viewBox="[^"]*"', drawn)
    assert size is not None
    # What stands between <svg> and </svg>, less ids that every figure has, and fonts.
    body = drawn[drawn.index("<defs>") : drawn.rindex("</svg>")]
    body = re.sub(r'(?<=<g) id="[^"]*"|<!--.*?-->\n? *', "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda literal: f"var(--{_NAMES[literal[0]]})", body)
    return f'<svg {size[0]} {_XLINK} role="img" aria-label="{html.escape(description)}">\n{body}</svg>'
