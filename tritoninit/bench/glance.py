"""All machines at a glance: what each reaches in large fills, and below them what is predicted of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tritoninit.bench.comparison import SUBJECTS, Comparison, Panel, fills, panels, telling
from tritoninit.bench.drawing import LIGHT, STYLES, as_svg, matplotlib_set
from tritoninit.bench.names import cut
from tritoninit.bench.result_files import Row
from tritoninit.bench.tables import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOUND: Final = "\N{LESS-THAN OR EQUAL TO}"
_DOT: Final = "\N{MIDDLE DOT}"
ROOM: Final = 24  # characters, for a machine's name
_DTYPES: Final = {"float32": "o", "bfloat16": "D"}  # each one's marker
_TORCH: Final[dict[str, Any]] = {
    "marker": STYLES["torch"].marker,
    "markersize": 4.5,
    "color": LIGHT[STYLES["torch"].colour],
    "linestyle": "none",
}
_WIDTH: Final = 4.4  # inches
_LINE: Final = 0.3  # inches a machine


@dataclass(frozen=True)
class Cell:
    """What one machine does of a distribution and dtype, in 1e9 elements a second.

    Attributes:
        speed: measured, or the bound that is predicted.
        ends: of the interval that holds the median with 95 %, None where it is not known.
        torch: what torch reached in the same run at the same size, None where it was not timed.
        share: of memset's speed, None where memset was not timed.
        bound: what bounds a prediction, '' of a measurement.
    """

    speed: float
    ends: tuple[float, float] | None = None
    torch: float | None = None
    share: float | None = None
    bound: str = ""

    def __str__(self) -> str:
        if self.bound:
            return f"{BOUND} {number(self.speed)} {_DOT} {self.bound}"
        return number(self.speed) + (f" {_DOT} {percent(self.share)}" if self.share is not None else "")


@dataclass(frozen=True)
class Machine:
    """A line: a machine that was measured, or one that was not."""

    name: str
    predicted: bool
    cells: Mapping[Panel, Cell]


def columns(found: Comparison) -> list[Panel]:
    """What machines are compared at: what all draw, in float32 and bfloat16, or what there is instead."""
    every = panels(found)
    usual = [panel for panel in every if panel.dtype in _DTYPES and panel.subject in SUBJECTS]
    return usual or every


def machines(found: Comparison) -> list[Machine]:
    """Those that were measured, then those that were not; each the fastest first, by normals in float32."""
    wanted = columns(found)
    measured = [
        Machine(results.name, False, {p: c for p in wanted if (c := _measured(found, p, column)) is not None})
        for column, results in enumerate(found.results)
    ]
    predicted = [
        Machine(
            each.name,
            True,
            {
                panel: Cell(made.gs_per_s, bound=made.bound)
                for panel in wanted
                if (made := each.predictions.get((panel.subject, panel.dtype))) is not None
            },
        )
        for each in found.forecasts
    ]
    return [each for group in (measured, predicted) for each in sorted(group, key=_rank) if each.cells]


def _rank(machine: Machine) -> float:
    usual = machine.cells.get(Panel("normal", "float32"))
    return -(usual.speed if usual else max((cell.speed for cell in machine.cells.values()), default=0.0))


def _measured(found: Comparison, panel: Panel, column: int) -> Cell | None:
    row = telling(found, panel, column)
    if row is None:
        return None
    theirs = [
        r.rate / 1e9
        for r in fills(found.results[column], panel.subject, panel.dtype, "torch")
        if r.elements == row.elements
    ]
    return Cell(row.rate / 1e9, _ends(row), theirs[0] if theirs else None, row.memset_fraction)


def _ends(row: Row) -> tuple[float, float] | None:
    if row.median_low is None or row.median_high is None:
        return None
    return row.elements / row.median_high / 1e9, row.elements / row.median_low / 1e9


def several(found: Comparison) -> bool:
    """Whether there is more than one machine to look at."""
    return len(found.results) + len(found.forecasts) > 1


def svg(found: Comparison, subject: str) -> str:
    """The machines' fills of one distribution, to stand in a page.

    Raises:
        UsageError: matplotlib is not installed.
    """
    lines = machines(found)
    with matplotlib_set(f"glance, {subject}"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, height(lines)), layout="constrained")
        draw(figure.add_subplot(), lines, subject)
        what = f"{subject.replace('_', ' ')}: elements a second of every machine, measured or predicted"
        return as_svg(figure, what)


def height(lines: Sequence[Machine]) -> float:
    """Inches that a drawing of them takes."""
    return 1.35 + _LINE * (len(lines) + 0.9 * (lines[-1].predicted and not lines[0].predicted))


def draw(axes: Axes, lines: Sequence[Machine], subject: str) -> None:
    """A line a machine: filled marks are measured, hollow ones predicted; torch's are its own."""
    names, places, y = cut([line.name for line in lines], ROOM), [], 0.0
    for before, line in zip((None, *lines), lines, strict=False):
        if line.predicted and before is not None and not before.predicted:
            y += 0.9
            axes.axhline(y - 0.95, color=LIGHT["faint"], linewidth=0.8, linestyle=(0, (1, 2)))
            faint: dict[str, Any] = {
                "color": LIGHT["faint"],
                "fontsize": 8.5,
                "style": "italic",
                "va": "center",
            }
            axes.text(
                0, y - 0.5, "predicted bound, not measured", transform=axes.get_yaxis_transform(), **faint
            )
        for panel, cell in line.cells.items():
            if panel.subject == subject:
                _draw_cell(axes, y, panel.dtype, cell)
        places.append(y)
        y += 1
    axes.set_title(subject.replace("_", " "), pad=22)
    axes.set_xscale("log")
    _limits(axes, lines)
    axes.set_ylim(y - 0.4, -0.6)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("GS/s")
    _legend(axes, lines, subject)


def _draw_cell(axes: Axes, y: float, dtype: str, cell: Cell) -> None:
    colour, marker = LIGHT["ours"], _marker(dtype)
    face = LIGHT["ground"] if cell.bound else colour
    style: dict[str, Any] = {"linestyle": "none", "color": colour, "markerfacecolor": face}
    if cell.ends is not None:
        axes.plot(cell.ends, (y, y), color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
    axes.plot(cell.speed, y, marker=marker, markersize=6.5 if marker == "o" else 5, **style)
    if dtype != "float32":
        return
    if cell.torch is not None:
        axes.plot(cell.torch, y, **_TORCH)
    text = f"{BOUND} {number(cell.speed)}" if cell.bound else number(cell.speed)
    place = axes.get_yaxis_transform()
    colour = LIGHT["faint" if cell.bound else "ink"]
    axes.text(
        1.03, y, text, transform=place, va="center", color=colour, weight=None if cell.bound else "bold"
    )


def _marker(dtype: str) -> str:
    return _DTYPES.get(dtype, "s")


def _limits(axes: Axes, lines: Sequence[Machine]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    cells = [cell for line in lines for cell in line.cells.values()]
    speeds = [speed for cell in cells for speed in (cell.speed, cell.torch) if speed is not None]
    axes.set_xlim(min(speeds) / 1.8, max(speeds) * 1.8)
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))


def _legend(axes: Axes, lines: Sequence[Machine], subject: str) -> None:
    from matplotlib.lines import Line2D

    cells = [(p, c) for line in lines for p, c in line.cells.items() if p.subject == subject]
    dtypes = dict.fromkeys(panel.dtype for panel, _ in cells)
    handles = [
        Line2D([], [], label=name, linestyle="none", color=LIGHT["ours"], marker=_marker(name), markersize=5)
        for name in dtypes
    ]
    if any(cell.torch is not None for panel, cell in cells if panel.dtype == "float32"):
        handles.append(Line2D([], [], label="torch", **_TORCH))
    spacing: dict[str, Any] = {
        "handlelength": 0.8,
        "handletextpad": 0.3,
        "columnspacing": 0.9,
        "borderpad": 0,
    }
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0)}
    axes.legend(handles=handles, ncols=len(handles), frameon=False, fontsize=8.5, **place, **spacing)
