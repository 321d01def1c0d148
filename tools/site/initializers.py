"""The pages of the catalogue: one an initializer, from its class and from what the library draws."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import tritoninit as ti
from tools.site import figures, formula
from tritoninit import facts
from tritoninit.facts import Facts
from tritoninit.words import short

_ROLE = re.compile(r":\w+:`~?(?:tritoninit\.)?([\w.]+)`")
_PEERS = {
    "torch": "torch.nn.init",
    "jax": "jax.nn.initializers",
    "keras": "keras.initializers",
    "timm": "timm.layers",
}
# Whose numbers say less than their places.
_PICTURED = {"Structured", "Tables", "Made of others"}
_TIMES, _NO_BREAK = "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"


def pages() -> Iterator[tuple[str, str]]:
    """(path in docs/, text) of each."""
    for known in facts.catalogue().values():
        yield f"initializers/{known.name}.md", page(known)


def navigation() -> list[Any]:
    """The pages, in their groups."""
    groups: dict[str, list[Any]] = {}
    for known in facts.catalogue().values():
        groups.setdefault(known.group, []).append({known.name: f"initializers/{known.name}.md"})
    return ["initializers/index.md", *({group: found} for group, found in groups.items())]


def cards() -> str:
    """All of them, in groups, each with a glimpse of its numbers."""
    lines: list[str] = []
    group = ""
    for known in facts.catalogue().values():
        if known.group != group:
            lines += ["</div>", ""] if group else []
            group = known.group
            lines += [f"## {group}", "", '<div class="ti-cards" markdown>', ""]
        glimpse = figures.spark(known.example, shape_of(known))
        words = re.sub(r"\[(`\w+`)\]\(\w+\.md\)", r"\1", _words(known.summary))
        inside = f"{glimpse} **{known.name}** <span>{words}</span>"
        lines += [f"[{inside}]({known.name}.md){{ .ti-card }}", ""]
    return "\n".join([*lines, "</div>", ""])


def reference() -> str:
    """What the reference has of all of them, in groups."""
    lines: list[str] = []
    group = ""
    for known in facts.catalogue().values():
        if known.group != group:
            group = known.group
            lines += [f"## {group}", ""]
        lines += [f"::: tritoninit.{known.name}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def shape_of(known: Facts) -> tuple[int, ...]:
    """Of which a page shows an initializer."""
    return facts.usual_shapes(known.example)[0]


def page(known: Facts) -> str:
    """A page's Markdown."""
    shape = shape_of(known)
    shown = f"`{_written(known.example)}` of shape {_shape(shape)}, drawn by the library for `Key(0)`"
    lines = [f"# {known.name}", "", *_chips(known), "", _words(known.summary), ""]
    if known.formula:
        lines += [_formula(known), ""]
    if known.source:
        lines += [f"Source: {known.source}.", ""]
    lines += _figures(known, shape, shown)
    lines += ["## Use", "", "```python", *example(known), "```", ""]
    if known.arguments:
        lines += ["| argument | default | |", "|---|---|---|"]
        lines += [
            f"| `{name}` | {f'`{default}`' if default is not None else ''} | {_words(text)} |"
            for name, default, text in known.arguments
        ]
        lines.append("")
    lines += [*_elsewhere(known), "## Bounds and variance", "", *_table(known), "", *_law(known)]
    if known.text:
        lines += ["## In detail", "", _words(known.text), ""]
    lines += [
        f"How it is called: [`ti.{known.name}`](../reference/initializers.md#tritoninit.{known.name}).",
        "",
    ]
    return "\n".join(lines)


def _chips(known: Facts) -> list[str]:
    chips = [known.group, f"ti.{known.name}"]
    function = f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', known.name).lower()}_".replace("truncated", "trunc")
    if hasattr(ti, function):
        chips.append(f"ti.{function}")
    if not known.example.random:
        chips.append("draws nothing")
    return [
        '<p class="ti-chips">' + "".join(f'<span class="ti-chip">{each}</span>' for each in chips) + "</p>"
    ]


def _formula(known: Facts) -> str:
    lines = "".join(f"<span>{formula.as_svg(line)}</span>" for line in known.formula)
    return f'<div class="ti-formula">{lines}</div>'


def _figures(known: Facts, shape: tuple[int, ...], shown: str) -> Iterator[str]:
    if known.group in _PICTURED and known.name != "Keep":
        small = figures.small_shape(known.example, shape)
        told = "one colour a sign, the stronger the larger; zeros are grey"
        what = f"<code>{_written(known.example)}</code> of shape {_shape(small)}"
        yield _figure(figures.weight(known.example, small), f"{what}: {told}.")
        yield ""
    if figures.is_spread(known.example, shape):
        law = " The line is the law's density." if figures.law_of(known.example, shape) else ""
        yield _figure(figures.density(known.example, shape), f"{_code(shown)}.{law}")
        yield ""


def _figure(drawing: str, caption: str) -> str:
    return f'<figure class="ti-figure">{drawing}<figcaption>{caption}</figcaption></figure>'


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def example(known: Facts) -> list[str]:
    """Code that runs: on a tensor, and in a rule."""
    written, shape = _written(known.example, "ti."), shape_of(known)
    key = ", key=ti.Key(0)" if known.example.random else ""
    return [
        "import torch, tritoninit as ti",
        "",
        f"initializer = {written}",
        f"w = initializer(torch.empty({', '.join(map(str, shape))}){key})",
        'rule = ti.Rule("*.weight", initializer)    # for ti.initialize_(model, [rule, ...], seed=0)',
    ]


def _written(initializer: Any, prefix: str = "") -> str:
    """An initializer as a person would write it: without what is the default."""
    if isinstance(initializer, tuple):
        inside = ", ".join(_written(each, prefix) for each in initializer)
        return f"({inside}{',' * (len(initializer) == 1)})"
    if type(initializer).__name__ == "Value":
        return f"{prefix}Value({initializer.values.tolist()})"
    if not isinstance(initializer, (ti.Initializer, ti.Patch)):
        return repr(initializer)
    plain = {name: field for name, field in type(initializer).__dataclass_fields__.items() if field.init}
    given = [
        f"{name}={_written(getattr(initializer, name), prefix)}"
        for name, field in plain.items()
        if getattr(initializer, name) != field.default
    ]
    return f"{prefix}{type(initializer).__name__}({', '.join(given)})"


def _elsewhere(known: Facts) -> Iterator[str]:
    found = [*facts.elsewhere(known.kind)]
    if found:
        yield from ("## Elsewhere", "", "| | called | which is |", "|---|---|---|")
        for each in found:
            yield f"| {_PEERS[each.peer]} | `{each.name}` | `{_written(each.here)}` |"
        yield ""
        yield "`ti.initializer` takes these names, too; [what each was tested against](../peers.md)."
        yield ""


def _table(known: Facts) -> Iterator[str]:
    yield from (
        "| shape | least possible | greatest possible | std | least drawn | greatest drawn | std drawn |",
        "|---|---:|---:|---:|---:|---:|---:|",
    )
    found = facts.rows(known.example)
    for row in found:
        shape = _shape(row.shape) + (", or any" if len(found) == 1 and _has_law(known) else "")
        yield f"| {shape} | {' | '.join(_number(each) for each in row[1:])} |"


def _has_law(known: Facts) -> bool:
    return known.group == "Fills" or facts.shown_law(known, known.example, shape_of(known)) is not None


def _law(known: Facts) -> Iterator[str]:
    """Mean, variance and quantiles of the law, and where it ends."""
    law = facts.shown_law(known, known.example, shape_of(known))
    if law is None:
        return
    shares = [f"{100 * p:g} %" if p != 0.5 else "median" for p in facts.QUANTILES]
    yield from (
        f"The law of `{_written(known.example)}`, from end to end, with its quantiles:",
        "",
        f"| from | to | mean | variance | {' | '.join(shares)} |",
        f"|{'---:|' * (4 + len(shares))}",
    )
    quantiles = [law.quantile(p) for p in facts.QUANTILES]
    cells = [_number(law.least), _number(law.greatest)]
    cells += ["none" if each is None else _number(each) for each in (law.mean, law.variance)]
    yield f"| {' | '.join((*cells, *map(_number, quantiles)))} |"
    yield ""


def _number(x: float | None) -> str:
    if x is not None and math.isinf(x):
        return "\N{INFINITY}" if x > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    return short(x, 4).replace("-", "\N{MINUS SIGN}") if x is not None else "\N{EN DASH}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"{_NO_BREAK}{_TIMES}{_NO_BREAK}".join(map(str, shape))


def _words(text: str) -> str:
    """A docstring's words as Markdown: roles are links to pages, or code, and signs mean themselves."""
    pieces = re.split(r"(:\w+:`[^`]*`|`[^`]*`)", text.replace("``", "`"))
    pieces[::2] = (re.sub(r"([*<|\[\]])", r"\\\1", piece) for piece in pieces[::2])
    return _ROLE.sub(lambda role: _link(role[1]), "".join(pieces))


def _link(name: str) -> str:
    return f"[`{name}`]({name}.md)" if name in facts.catalogue() else f"`{name}`"
