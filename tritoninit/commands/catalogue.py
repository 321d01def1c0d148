"""``tritoninit catalogue``: every initializer, or one of them with its formula, bounds and a histogram."""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritoninit import facts
from tritoninit.facts import Facts, Numbers
from tritoninit.fills import Initializer
from tritoninit.laws import Law
from tritoninit.outputs import UsageError, writable
from tritoninit.terminal import print_lines, table, terminal_width
from tritoninit.words import shape_in_words, short

_BARS = " ▁▂▃▄▅▆▇█"
_HEIGHT, _WIDTH = 6, 64  # of a histogram, in characters


def run(arguments: argparse.Namespace) -> int:
    out = writable(arguments.json)
    if arguments.name is None:
        if arguments.shape:
            raise UsageError("--shape goes with the name of an initializer")
        summary: Any = [_told(each) for each in facts.catalogue().values()]
        print_lines(*_all())
    else:
        try:
            known, initializer = facts.find(arguments.name)
            rows = facts.rows(initializer, arguments.shape)
        except ValueError as error:
            raise UsageError(str(error)) from error
        summary = {**_told(known), **_numbers(known, initializer, rows)}
        print_lines(*_one(known, initializer, rows))
    if out is not None:
        Path(out).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return 0


def _told(known: Facts) -> dict[str, Any]:
    """What is known whatever the shape, as JSON has it."""
    return {
        "name": known.name,
        "group": known.group,
        "summary": _plain(known.summary),
        "formula": list(known.formula),
        "source": known.source,
        "arguments": [each._asdict() for each in known.arguments],
        "elsewhere": [{**each._asdict(), "here": repr(each.here)} for each in facts.elsewhere(known.kind)],
    }


def _numbers(known: Facts, initializer: Initializer, rows: Sequence[Numbers]) -> dict[str, Any]:
    found = _histogram(initializer, rows)
    law = facts.shown_law(known, initializer, rows[0].shape)
    return {
        "initializer": repr(initializer),
        "shapes": [each._asdict() for each in rows],
        "law": None if law is None else _law_as_data(law),
        "histogram": {"edges": found.edges.tolist(), "counts": found.counts.tolist()},
    }


def _law_as_data(law: Law) -> dict[str, Any]:
    """Numbers; null where there is none, or it is infinite."""
    numbers = {name: getattr(law, name) for name in ("least", "greatest", "mean", "variance")}
    finite = {name: x if x is not None and math.isfinite(x) else None for name, x in numbers.items()}
    return {**finite, "quantiles": {str(p): law.quantile(p) for p in facts.QUANTILES}}


def _histogram(initializer: Initializer, rows: Sequence[Numbers]) -> facts.Histogram:
    return facts.histogram(facts.drawn(initializer, rows[0].shape), _WIDTH)


def _all() -> Iterator[str]:
    """A line for each, in groups."""
    group = ""
    for known in facts.catalogue().values():
        if known.group != group:
            yield from ("", known.group) if group else (known.group,)
            group = known.group
        yield _cut(f"  {known.name:16}  {_plain(known.summary)}")
    yield ""
    yield "tritoninit catalogue NAME shows one; names of torch, JAX, Keras and timm will do."


def _one(known: Facts, initializer: Initializer, rows: Sequence[Numbers]) -> Iterator[str]:
    width = min(terminal_width() or 100, 100)
    yield f"{known.name}: {known.group.lower()}"
    yield from textwrap.wrap(_plain(known.summary), width)
    yield from ("", *(f"    {_pretty(line)}" for line in known.formula)) if known.formula else ()
    if known.source:
        yield ""
        yield from textwrap.wrap(f"Source: {known.source}", width)
    if known.arguments:
        yield ""
        cells = [[name, default or "", _plain(text)] for name, default, text in known.arguments]
        yield from table(("argument", "default", "what it is"), cells, ((2, 20),), terminal_width())
    if names := [f"{each.peer}.{each.name}" for each in facts.elsewhere(known.kind)]:
        yield ""
        yield from textwrap.wrap(f"Elsewhere: {', '.join(names)}", width)
    yield from ("", f"{initializer!r}:")
    yield from table(
        ("shape", ">least", ">greatest", ">std", ">least drawn", ">greatest drawn", ">std drawn"),
        [[shape_in_words(each.shape), *(short(x, 4) for x in each[1:])] for each in rows],
    )
    yield from _law(facts.shown_law(known, initializer, rows[0].shape))
    yield ""
    yield from _drawn(_histogram(initializer, rows))


def _law(found: Law | None) -> Iterator[str]:
    """Mean, variance and quantiles."""
    if found is None:
        return
    shares = [f">{100 * p:g} %" if p != 0.5 else ">median" for p in facts.QUANTILES]
    numbers = [found.least, found.greatest, found.mean, found.variance, *map(found.quantile, facts.QUANTILES)]
    cells = ["none" if each is None else short(each, 4) for each in numbers]
    yield ""
    yield from table(("law", ">from", ">to", ">mean", ">variance", *shares), [["", *cells]])


def _drawn(found: facts.Histogram) -> Iterator[str]:
    """A histogram of characters, with its ends below."""
    most = max(1, int(found.counts.max()))
    eighths = [-(-int(count) * 8 * _HEIGHT // most) for count in found.counts]
    for line in reversed(range(_HEIGHT)):
        yield "".join(_BARS[min(8, max(0, each - 8 * line))] for each in eighths).rstrip()
    ends = [short(float(edge), 4) for edge in found.edges[[0, -1]]]
    yield f"{ends[0]}{ends[1].rjust(_WIDTH - len(ends[0]))}"


_SIGNS: Mapping[str, str] = {
    '"': "",
    "sqrt(": "\N{SQUARE ROOT}(",
    "**2": "\N{SUPERSCRIPT TWO}",
    " pi ": " \N{GREEK SMALL LETTER PI} ",
    "lambda": "\N{GREEK SMALL LETTER LAMDA}",
}


def _pretty(line: str) -> str:
    for text, sign in _SIGNS.items():
        line = line.replace(text, sign)
    return line


def _plain(text: str) -> str:
    """A docstring's words without their marks."""
    return re.sub(r":\w+:`~?(?:tritoninit\.)?([^`]*)`", r"\1", text).replace("``", "")


def _cut(line: str) -> str:
    width = terminal_width()
    return line if width is None or len(line) <= width else f"{line[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
