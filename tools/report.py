"""Write what the README and docs/ say of measurements from the files in bench/results: ``make report``.

A result file is made by ``tritoninit bench --out bench/results/MACHINE.json``; this script trims it first.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tritoninit.bench import comparison, figures, inspection, result_files, tables
from tritoninit.bench.architectures import ARCHITECTURES, ATTAINABLE, architecture_of
from tritoninit.bench.comparison import Comparison
from tritoninit.bench.drawing import DARK, LIGHT
from tritoninit.bench.result_files import Results, Row
from tritoninit.bench.sizes import size
from tritoninit.words import short

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # whatever else is called tools

from tools import speed_tables

ROOT = Path(__file__).resolve().parents[1]
SPEED = ROOT / "docs" / "speed.md"
README, TABLES, FIGURE = ROOT / "README.md", ROOT / "docs" / "measured.md", ROOT / "docs" / "throughput.svg"
BEGIN, END = "<!-- written by make report -->\n", "<!-- end of what make report wrote -->\n"
TABLES_HEAD = """\
# Measured

Made by `make report` from [bench/results](../tritoninit/bench/results); `tritoninit compare --md` makes
the same of other files. Percentages are of memset's speed in the same run on the same machine.
"""
PREDICTED_HEAD = """\
**Predicted** for one float32 tensor: the instructions an element, counted in the machine code, and the
throughput in 1e9 elements a second that they and the memory's bandwidth allow, with what bounds it
([results](tritoninit/bench/results/static.json); `tritoninit inspect` says more, of more kernels). Memory is
as fast as a memset was on that GPU ({measured}), or else keeps {attainable} of its data sheet's bandwidth.
"""
SVG = """\
<!-- matplotlib {version} -->
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">
<style>
:root {{ {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
text {{ font-family: system-ui, sans-serif; }}
</style>
<rect width="100%" height="100%" fill="var(--ground)"/>
{panels}
</svg>
"""
# Of the fills in the README; the rest is in docs/.
ELEMENTS = {"cpu": 2**24, "cuda": 2**28}  # or less, if no fill was as large
DTYPES = ("float32", "bfloat16")
# What the issues of this project asked for, beside what was reached.
GOALS = {
    ("cpu", "fill", "uniform", "float32"): "5x, 50%",
    ("cpu", "fill", "normal", "float32"): "4x",
    ("cpu", "fill", "truncated_normal", "float32"): "25x",
    ("cpu", "fill", "normal", "bfloat16"): "4x",
    ("cpu", "model", "gpt2", "float32"): "4x",
    ("cpu", "call", "uniform", "float32"): "0.5x",
    ("cpu", "call", "normal", "float32"): "0.5x",
    ("cpu", "call", "uniform, no key", "float32"): "0.5x",
}
_PREDICTED = ("uniform", "normal", "central_normal")
_MARGIN, _HEADING = 8, 16  # points, between the panels of the figure and above them


def main() -> None:
    for path in paths():
        document = json.loads(path.read_text(encoding="utf-8"))
        result_files.write(result_files.trimmed(document), path)
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")


def paths() -> list[Path]:
    """The result files of the repository, but for the one that was counted and not measured."""
    folder = inspection.RESULTS.parent
    return sorted(path for path in folder.glob("*.json") if path != inspection.RESULTS)


def written() -> dict[Path, str]:
    """The texts of the files that this script writes."""
    found = comparison.compare(result_files.read_all(paths()))
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return {
        README: f"{before}{BEGIN}{_readme(found)}{END}{after}",
        TABLES: "\n".join([TABLES_HEAD, *tables.markdown(found), ""]),
        FIGURE: _figure(found),
        SPEED: _speed(found),
    }


def _speed(found: Comparison) -> str:
    """The account of how fast fills are, its blocks of numbers made anew."""
    text = SPEED.read_text(encoding="utf-8")
    for name, make in speed_tables.BLOCKS.items():
        before, rest = text.split(f"<!-- {name} -->\n")
        _, after = rest.split("<!-- end -->\n", 1)
        block = "\n".join(make(found))
        text = f"{before}<!-- {name} -->\n{block}\n<!-- end -->\n{after}"
    return text


def _readme(found: Comparison) -> str:
    lines: list[str] = []
    for results in found.results:
        lines += [*_machine(results), "", *_fills(results), *_others(results)]
    return "\n".join([*lines, *_predictions(found)]) + "\n"


def _machine(results: Results) -> Iterator[str]:
    machine = results.machine
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("torch", "triton", "numba", "numpy") if machine.get(name)
    )
    yield f"**{results.name}**: {versions} ([results](tritoninit/bench/results/{results.path.name}))."


def _fills(results: Results) -> list[str]:
    """The fills of one size: a row a distribution and dtype, a column a contender and its threads."""
    found = [row for row in _rows(results, "fill") if row.elements <= ELEMENTS[row.device]]
    largest = max((row.elements for row in found), default=0)
    rows = [row for row in found if row.elements == largest and row.dtype in DTYPES]
    columns = sorted(
        {(row.contender, row.threads) for row in rows if row.default or results.scope(row) == "all"},
        key=lambda c: (speed_tables.place(c[0]), c[0], c[1]),
    )
    threads = results.machine["device"] == "cpu"
    headings = [f"{name}, {count} thread{'s' * (count > 1)}" if threads else name for name, count in columns]
    tasks: dict[tuple[str, str, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        tasks.setdefault((row.kind, row.subject, row.dtype), {})[row.contender, row.threads] = row
    lines = [
        [f"{subject.replace('_', ' ')}, {dtype}", *(_cell(cells.get(column)) for column in columns)]
        for (_, subject, dtype), cells in tasks.items()
    ]
    first = f"fill, {size(largest)} elements"
    return _table([first, *headings], lines, [_goal(results, *task) for task in tasks])


def _goal(results: Results, *task: str) -> str:
    return GOALS.get((results.machine["device"], *task), "")


def _table(headings: list[str], lines: list[list[str]], goals: list[str]) -> list[str]:
    """Lines of Markdown, and one empty; a column of goals if there are some, and nothing without lines."""
    if not lines:
        return []
    if any(goals):
        headings = [*headings, "goal"]
        lines = [[*line, goal] for line, goal in zip(lines, goals, strict=True)]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return [*(f"| {' | '.join(line)} |" for line in (headings, rule, *lines)), ""]


def _rows(results: Results, kind: str) -> list[Row]:
    """In the order of a comparison's lines."""
    rows = (row for row in results.rows if row.kind == kind)
    return sorted(rows, key=lambda row: comparison.task_of(results, row).place)


def _cell(row: Row | None) -> str:
    """1e9 elements a second, how many times torch's that is, and its share of memset's."""
    if row is None or row.gs_per_s is None:
        return ""
    ratios = []
    if row.torch_ratio is not None and row.contender not in ("torch", "memset"):
        ratios.append(f"{tables.number(row.torch_ratio)}x")
    if row.memset_fraction is not None and row.contender != "memset":
        ratios.append(tables.percent(row.memset_fraction))
    return " ".join([tables.number(row.gs_per_s), *([f"({', '.join(ratios)})"] if ratios else [])])


def _others(results: Results) -> list[str]:
    """Whole models, calls and structured initializers: the default backend beside torch."""
    times = {(row.kind, row.subject, row.elements, row.contender): row for row in results.rows}
    lines, goals = [], []
    for kind in ("model", "structured", "call"):
        for row in _rows(results, kind):
            theirs = times.get((kind, row.subject, row.elements, "torch"))
            if not row.default or theirs is None or row.torch_ratio is None:
                continue
            what = {
                "model": f"{row.subject}, {row.dtype}, against `module.apply`",
                "structured": f"{_structured(row.subject)}, {size(row.elements)} elements",
                "call": f"{row.subject}, {row.elements} elements",
            }[kind]
            lines.append([what, _time(row), _time(theirs), short(row.torch_ratio, 3)])
            goals.append(_goal(results, kind, row.subject, row.dtype))
    return _table(["what", "tritoninit", "torch", "x torch"], lines, goals)


def _structured(subject: str) -> str:
    """What several functions of ours make has no function's name."""
    return f"`{subject}_`" if subject.isidentifier() else subject


def _time(row: Row) -> str:
    """A median in a unit that suits it."""
    unit, factor = ("us", 1e6) if row.median < 1e-3 else ("ms", 1e3) if row.median < 1 else ("s", 1.0)
    return f"{short(row.median * factor, 3)} {unit}"


def _predictions(found: Comparison) -> list[str]:
    stored = inspection.stored()
    memsets = {
        architecture.name: speed
        for results in found.results
        if (architecture := architecture_of(results.machine)) is not None
        and (speed := results.memset_gb_per_s()) is not None
    }
    told = ", ".join(f"{name}: {speed:,.0f} GB/s" for name, speed in memsets.items())
    lines = [
        PREDICTED_HEAD.format(measured=told or "of none here", attainable=f"{ATTAINABLE:.0%}"),
        "| GPU | uniform | normal | normal truncated at two std |",
        "|---|---|---|---|",
    ]
    rows = {
        (row.arch, row.distribution): row
        for row in stored["rows"]
        if (row.kernel, row.dtype) == ("run_kernel", "float32")
    }
    for architecture in ARCHITECTURES:
        if (architecture.arch, "uniform") not in rows:
            continue
        cells = []
        for distribution in _PREDICTED:
            row = rows[architecture.arch, distribution]
            expected = inspection.predict(row, architecture, memsets.get(architecture.name))
            cells.append(f"{row.instructions:.1f}: {expected.gs_per_s:.0f}, {expected.bound}")
        lines.append(f"| {architecture.name} ({architecture.arch}) | {' | '.join(cells)} |")
    return lines


def _figure(found: Comparison) -> str:
    """Uniform and normal float32, machines below each other, as a file that knows light and dark."""
    wanted = [p for p in comparison.panels(found) if p.dtype == "float32" and p.subject != "truncated_normal"]
    drawn = [
        [figures.throughput_svg(found, panel, column) for panel in wanted]
        for column in range(len(found.results))
    ]
    width, height = _size(drawn[0][0])
    across, down = width + _MARGIN, height + _MARGIN
    # One machine's panels are named by what was filled, those of several by their machines.
    headings = wanted if len(found.results) > 1 else []
    top = _HEADING if headings else 0
    body = [
        f'<text x="{j * across:g}" y="12" font-size="11" fill="var(--faint)">{panel}</text>'
        for j, panel in enumerate(headings)
    ]
    for i, row in enumerate(drawn):
        for j, inner in enumerate(row):
            place = f'<svg x="{j * across:g}" y="{top + i * down:g}" width="{width:g}" height="{height:g}" '
            body.append(inner.replace("<svg ", place, 1))
    light, dark = (
        " ".join(f"--{name}: {literal};" for name, literal in colours.items()) for colours in (LIGHT, DARK)
    )
    return SVG.format(
        version=importlib.metadata.version("matplotlib"),
        width=len(wanted) * across,
        height=top + len(drawn) * down,
        light=light,
        dark=dark,
        panels="\n".join(body),
    )


def _size(svg: str) -> tuple[float, float]:
    """Width and height, in points."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None
    return float(found[1]), float(found[2])


if __name__ == "__main__":
    main()
