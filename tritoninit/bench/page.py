"""A comparison as one HTML file that needs nothing else: inline figures, style and script, no network.

It follows the reader's light or dark setting, is read on a phone as on a desk, and its tables are sorted by
buttons in their headings. What comes from a result file is text wherever it stands, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from inspect import cleandoc
from pathlib import Path
from string import Template
from typing import Any, Final

from tritoninit.bench import changes, device, figures, glance, overview
from tritoninit.bench.architectures import ATTAINABLE
from tritoninit.bench.comparison import Comparison, Line, Panel, fact, panels, telling
from tritoninit.bench.drawing import DARK, LIGHT
from tritoninit.bench.forecasts import Forecast
from tritoninit.bench.result_files import Results, Row
from tritoninit.bench.sizes import size
from tritoninit.bench.tables import (
    PREDICTED_HEADINGS,
    Section,
    number,
    percent,
    predicted_by,
    predicted_for,
    predicted_rows,
    sections,
    times,
)
from tritoninit.outputs import shown

_FOLDER: Final = Path(__file__).parent
_RAISED: Final = ("#f6f8fa", "#1a2028")  # what stands out from the ground, in light and in dark
_POWER_OF_TWO: Final = re.compile(r"2\^(\d+)")
# By fact: where in machine_info it stands, and what one unit of it is there.
_FACTS: Final[Mapping[str, tuple[tuple[str, ...], float, str]]] = {
    "accelerator": (("accelerator", "name"), 0, ""),
    "architecture": (("accelerator", "arch"), 0, ""),
    "multiprocessors": (("accelerator", "multiprocessors"), 1, ""),
    "memory": (("accelerator", "memory_bytes"), 2**30, " GiB"),
    "L2 cache": (("accelerator", "l2_bytes"), 2**20, " MiB"),
    "last-level cache": (("last_level_cache_bytes",), 2**20, " MiB"),
    "highest clock": (("accelerator", "clock_mhz"), 1, " MHz"),
    "memory clock": (("accelerator", "memory_clock_mhz"), 1, " MHz"),
    "driver": (("accelerator", "driver"), 0, ""),
    "CUDA": (("accelerator", "cuda"), 0, ""),
    "ROCm": (("accelerator", "rocm"), 0, ""),
    "CPU": (("cpu", "brand_raw"), 0, ""),
    "CPU cores": (("cpu", "count"), 1, ""),
    "threads": (("threads",), 1, ""),
    "cores busy with other work": (("cores_busy_elsewhere",), 1, ""),
    "power limit": (("conditions", "begin", "gpu", "power_limit_w"), 1, " W"),
    **{
        f"{what} at the {when}{'ning' if when == 'begin' else ''}": (
            ("conditions", when, device, name),
            1,
            unit,
        )
        for device, name, what, unit in (
            ("gpu", "clock_mhz", "clock", " MHz"),
            ("gpu", "held_by", "what held it", ""),
            ("gpu", "temperature_c", "temperature", " °C"),
            ("cpu", "clock_mhz", "CPU clock", " MHz"),
        )
        for when in ("begin", "end")
    },
    "CPU governor": (("conditions", "begin", "cpu", "governor"), 0, ""),
    "CPU boost": (("conditions", "begin", "cpu", "boost"), 0, ""),
    "system": (("system",), 0, ""),
    "Python": (("python_version",), 0, ""),
    **{
        name: ((name,), 0, "")
        for name in ("torch", "triton", "numpy", "numba", "cupy", "jax", "flag_gems", "tritoninit")
    },
    "stream version": (("stream_version",), 0, ""),
    "gate": (("gate",), 0, ""),
    "protocol": (("protocol",), 0, ""),
}


def html(found: Comparison) -> str:
    """The page; the same for the same results.

    Raises:
        UsageError: matplotlib is not installed.
    """
    names = [r.name for r in found.results]
    parts = {
        "glance": (overview.GLANCE, _glance(found)),
        "share": ("Share of the memory's speed", _share(found)),
        "throughput": ("Throughput", _throughput(found)),
        "changes": (overview.CHANGED, _changes(found)),
        "predicted": ("Predicted beside measured", _predicted(found)),
        "tables": ("All rows", _tables(found)),
        "machines": ("Machines", _machines(found)),
        "protocol": ("How it was measured", _protocol()),
    }
    present = {name: (title, content) for name, (title, content) in parts.items() if content}
    main = [_cards(found)]
    for name, (title, content) in present.items():
        main.append(f'<section id="{name}">\n<h2>{title}</h2>\n{content}\n</section>')
    return Template(_read("page.html")).substitute(
        title=escape(f"tritoninit on {', '.join(names)}"),
        style=_variables() + _read("page.css"),
        heading="Weight initialisation, compared",
        lead=escape(_lead(found)),
        nav=" ".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in present.items()),
        main="\n".join(part for part in main if part),
        footer=f"tritoninit, stream version {escape(str(found.results[0].machine['stream_version']))}",
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").rstrip()


def _variables() -> str:
    light, dark = (
        "".join(f" --{name}: {literal};" for name, literal in {**colours, "raised": raised}.items())
        for colours, raised in zip((LIGHT, DARK), _RAISED, strict=True)
    )
    return f":root {{{light} }}\n@media (prefers-color-scheme: dark) {{ :root {{{dark} }} }}\n"


def _lead(found: Comparison) -> str:
    who = ", ".join(
        f"{found.contenders(column) or 'nothing'} on {r.name}" for column, r in enumerate(found.results)
    )
    return (
        f"Random numbers written into tensors: {who}. Memset, which only writes, is the ceiling; torch is"
        " what most code uses. Every number is a median. Before ours were timed, fills, calls and models were"
        " compared with the reference bit for bit (of what is very large, both ends), other values by their"
        " distribution or orthogonality, and of a process's start at most the sum of a fill's bits."
    )


def _cards(found: Comparison) -> str:
    """Each machine's ``telling`` fill of normals in float32, or of what was measured instead."""
    drawn = panels(found)
    if not drawn:
        return ""
    usual = Panel("normal", "float32")
    panel = usual if usual in drawn else drawn[0]
    cards = []
    for column, results in enumerate(found.results):
        row = telling(found, panel, column)
        cards += [] if row is None else [_card(results, row, str(panel))]
    made = f'<div class="cards">\n{"".join(cards)}</div>'
    if found.forecasts:
        forecasts = "".join(_forecast_card(each, panel) for each in found.forecasts)
        made += (
            f'\n<p class="apart">Predicted, not measured</p>\n<div class="cards small">\n{forecasts}</div>'
        )
    return made


def _forecast_card(forecast: Forecast, panel: Panel) -> str:
    made = forecast.predictions.get((panel.subject, panel.dtype))
    if made is None:
        return ""
    return (
        f'<article class="card predicted"><h2>{escape(forecast.name)}</h2>'
        f'<p class="speed">{glance.BOUND} {number(made.gs_per_s)} <span class="unit">GS/s</span></p>'
        f'<p class="note">{escape(str(panel))}, bound by {escape(made.bound)}</p></article>\n'
    )


def _card(results: Results, row: Row, what: str) -> str:
    words = [f"{what}, {_superscript(size(row.elements))} elements, {escape(row.contender)}"]
    bar = ""
    if row.memset_fraction is not None:
        words.append(f"{percent(row.memset_fraction)} of memset")
        bar = f'<div class="bar"><i style="width: {min(100.0, 100 * row.memset_fraction):.1f}%"></i></div>'
    if row.torch_ratio is not None:
        words.append(f"{times(row.torch_ratio)} torch")
    first, *rest = words
    return (
        f'<article class="card"><h2>{escape(results.name)}</h2>'
        f'<p class="speed">{number(row.rate / 1e9)} <span class="unit">GS/s</span></p>{bar}'
        f'<p>{", ".join(rest)}</p><p class="note">{first}</p></article>\n'
    )


def _glance(found: Comparison) -> str:
    """Where there are several machines, their large fills as figures and as a table."""
    if not glance.several(found) or not (rows := overview.glance_rows(found)):
        return ""
    wanted = glance.columns(found)
    subjects = dict.fromkeys(panel.subject for panel in wanted)
    drawn = "\n".join(f"<figure>\n{glance.svg(found, subject)}\n</figure>" for subject in subjects)
    head = "".join(f'<th scope="col" class="number">{escape(str(panel))}</th>' for panel in wanted)
    numeric = [False, *[True] * len(wanted)]
    body = (
        _plain_row([escape(word) for word in row], numeric, "forecast" if line.predicted else "")
        for row, line in zip(rows, glance.machines(found), strict=True)
    )
    apart = ""
    if found.forecasts:
        versions = dict.fromkeys(each.triton for each in found.forecasts)
        apart = (
            " Below the dotted line are GPUs that nobody has measured here: bounds, from the instructions of"
            f" what Triton {escape(', '.join(versions))} compiles for them and from data sheets, of whose"
            f" bandwidth memory is taken to keep {ATTAINABLE:.0%}, the best found published."
        )
    return (
        "<p>The largest fill that torch was timed at too, or else the largest, in 10<sup>9</sup> elements a"
        f" second; numbers beside the marks are of float32.{apart}</p>"
        f'\n<div class="panels">\n{drawn}\n</div>\n'
        + _scroll(overview.GLANCE, f"<table>\n<thead><tr><td></td>{head}</tr></thead>\n", body)
    )


def _changes(found: Comparison) -> str:
    """Of each machine that was measured several times."""
    parts = []
    headings = overview.CHANGED_HEADINGS
    numeric = [heading.startswith(">") for heading in headings]
    head = "".join(
        f'<th scope="col"{_class("number" if right else "")}>{escape(heading.removeprefix(">"))}</th>'
        for heading, right in zip(headings, numeric, strict=True)
    )
    for change in changes.changes(found.results):
        rows = [_plain_row([escape(word) for word in row], numeric) for row in overview.kept_rows(change)]
        words = overview.differences(change)
        parts.append(f"<h3>{escape(words)}</h3>")
        table = _scroll(words, f"<table>\n<thead><tr>{head}</tr></thead>\n", iter(rows))
        parts.append(table if rows else f"<p>{overview.NOTHING}</p>")
    if not parts:
        return ""
    return (
        "<p>The same fills on the same machine, of those that reach the memory: how many times as fast, as a"
        " geometric mean, and at least and at most. Faster and slower are those whose intervals of the median"
        " are apart.</p>\n" + "\n".join(parts)
    )


def _superscript(text: str) -> str:
    return _POWER_OF_TWO.sub(r"2<sup>\1</sup>", escape(text))


def _share(found: Comparison) -> str:
    drawn = "\n".join(f"<figure>\n{svg}\n</figure>" for svg in figures.shares_svgs(found))
    if not drawn:
        return ""
    return (
        "<p>The largest fill of each distribution and dtype that torch was timed at too, relative to a memset"
        " of the same memory on the same machine in the same run.</p>"
        f'\n<div class="panels wide">\n{drawn}\n</div>'
    )


def _throughput(found: Comparison) -> str:
    drawn = panels(found)
    if not drawn:
        return ""
    star = " A star is what was predicted from the compiled kernel." if any(found.predictions) else ""
    text = (
        "<p>Elements a second, in 10<sup>9</sup>, against the size of the tensor, with all of the machine;"
        f" the band is from the first to the third quartile, the dashed line memset.{star} What is shaded"
        " stays in the last-level cache, and says nothing of the memory.</p>"
    )
    figure = "<figure>\n{}\n</figure>".format
    if len(found.results) == 1:
        svgs = "\n".join(figure(figures.throughput_svg(found, panel, 0)) for panel in drawn)
        return f'{text}\n<div class="panels">\n{svgs}\n</div>'
    parts = [text]
    for panel in drawn:
        svgs = "\n".join(
            figure(figures.throughput_svg(found, panel, column)) for column in range(len(found.results))
        )
        parts.append(f'<h3>{escape(str(panel))}</h3>\n<div class="panels">\n{svgs}\n</div>')
    return "\n".join(parts)


def _predicted(found: Comparison) -> str:
    rows = list(predicted_rows(found))
    if not rows:
        return ""
    headings = [heading.removeprefix(">") for heading in PREDICTED_HEADINGS]
    numeric = [heading.startswith(">") for heading in PREDICTED_HEADINGS]
    body = (_plain_row([_superscript(word.replace("_", " ")) for word in row], numeric) for row in rows)
    head = "".join(
        f'<th scope="col"{_class("number" if right else "")}>{escape(heading)}</th>'
        for heading, right in zip(headings, numeric, strict=True)
    )
    return (
        "<p>From the compiled kernel's instructions and the architecture's figures, without running it: the"
        " speed that memory and arithmetic allow. Where the vendor gives no rate of an instruction, one is"
        f" assumed: more than 100% says that it is higher. Of {escape(predicted_for())}."
        f" {escape(' '.join(predicted_by(found)))}</p>\n"
        + _scroll("Predicted beside measured", f"<table>\n<thead><tr>{head}</tr></thead>\n", body)
    )


def _plain_row(words: Sequence[str], numeric: Sequence[bool], kind: str = "") -> str:
    """A row of HTML: the first cell heads it."""
    cells = (
        f"<td{_class('number' if right else '')}>{word}</td>"
        for word, right in zip(words[1:], numeric[1:], strict=True)
    )
    return f'<tr{_class(kind)}><th scope="row">{words[0]}</th>{"".join(cells)}</tr>\n'


def _scroll(name: str, head: str, rows: Iterator[str]) -> str:
    """A table in a frame that scrolls, also by keyboard."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">\n{head}<tbody>\n'
        f"{''.join(rows)}</tbody>\n</table>\n</div>"
    )


def _tables(found: Comparison) -> str:
    search = '<input type="search" placeholder="normal bfloat16">'
    parts = [
        '<p>"-" is what was not measured. A heading sorts its table; once more, the other way round.</p>',
        f'<label class="filter" hidden>Show rows with {search}</label>',
    ]
    parts += [f"<h3>{section.title}</h3>\n{_table(found, section)}" for section in sections(found)]
    return "\n".join(parts)


def _table(found: Comparison, section: Section) -> str:
    labels = section.headings
    head = "".join(_heading(label, i, 'rowspan="2"', label == "elements") for i, label in enumerate(labels))
    machines, measures = [], []
    for column, results in enumerate(found.results):
        who = found.contenders(column)
        machines.append(
            f'<th scope="colgroup" class="machine first" colspan="{len(section.measures)}">'
            f"{escape(results.name)}{f' <span>({escape(who)})</span>' if who else ''}</th>"
        )
        measures += [
            _heading(
                measure.heading, len(labels) + len(section.measures) * column + i, "", True, first=i == 0
            )
            for i, measure in enumerate(section.measures)
        ]
    rows = f"<tr>{head}{''.join(machines)}</tr>\n<tr>{''.join(measures)}</tr>"
    return _scroll(
        section.title,
        f'<table class="sortable">\n<thead>\n{rows}\n</thead>\n',
        (_row(section, line) for line in section.lines),
    )


def _heading(text: str, column: int, attributes: str, numeric: bool, first: bool = False) -> str:
    classes = _class(" ".join(name for name, on in (("number", numeric), ("first", first)) if on))
    return (
        f'<th scope="col"{classes}{" " if attributes else ""}{attributes}>'
        f'<button type="button" data-column="{column}">{escape(text)}</button></th>'
    )


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _row(section: Section, line: Line) -> str:
    task = line.task
    cells = [
        f'<th scope="row">{escape(task.subject.replace("_", " "))}</th>',
        f"<td>{escape(task.dtype)}</td>",
        f'<td class="number" data-value="{task.elements}">{_superscript(size(task.elements))}</td>',
    ]
    if section.threaded:
        cells.append(f"<td>{escape(task.scope)}</td>")
    for row in line.cells:
        for i, measure in enumerate(section.measures):
            value = None if row is None else measure.value(row)
            classes = "number first" if i == 0 else "number"
            text = "" if value is None else repr(float(value))
            cells.append(f'<td class="{classes}" data-value="{text}">{escape(measure.show(row))}</td>')
    return f"<tr>{''.join(cells)}</tr>\n"


def _machines(found: Comparison) -> str:
    facts = {name: [_fact(r.machine, *where) for r in found.results] for name, where in _FACTS.items()}
    facts["measured"] = [r.date.partition("T")[0] for r in found.results]
    facts["commit"] = [r.commit for r in found.results]
    facts["file"] = [shown(r.path.name) for r in found.results]
    head = "".join(f'<th scope="col">{escape(r.name)}</th>' for r in found.results)
    rows = (
        _plain_row([name, *(escape(word) or "-" for word in words)], [False] * (1 + len(words)))
        for name, words in facts.items()
        if any(words)
    )
    return _scroll("Machines", f'<table class="facts">\n<thead><tr><td></td>{head}</tr></thead>\n', rows)


def _fact(machine: Mapping[str, Any], where: Sequence[str], unit: float, suffix: str) -> str:
    """A fact in words, '' where it is not known; ``unit`` 0 says that it is no number."""
    found = fact(machine, where)
    if found is None:
        return ""
    if isinstance(found, bool):
        return "on" if found else "off"
    if isinstance(found, list):
        return ", ".join(map(str, found)) or "nothing"
    if not unit or not isinstance(found, (int, float)):
        return str(found)
    return f"{number(found / unit)}{suffix}"


def _protocol() -> str:
    """What bench/device.py says of how things are timed, as HTML."""
    _, *blocks = cleandoc(device.__doc__ or "").split("\n\n")
    parts = []
    for block in blocks:
        text = re.sub(r"``(.+?)``", r"<code>\1</code>", escape(block))
        if text.startswith("- "):
            items = "".join(f"<li>{' '.join(item.split())}</li>\n" for item in text[2:].split("\n- "))
            parts.append(f"<ul>\n{items}</ul>")
        else:
            parts.append(f"<p>{' '.join(text.split())}</p>")
    return "\n".join(parts)
