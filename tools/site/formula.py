"""Formulas, typeset: from the plain text of docstrings to outlines that need no fonts and no scripts.

The plain text has names (``fan_in``: a subscript; ``sigma``: a letter), ``sqrt(x)``, ``ceil(x)``,
``floor(x)``, ``x**2``, ``a / b``, ``w[i, j]``: subscripts, factors side by side, and words in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import NamedTuple

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

_TOKEN = re.compile(
    r'\s*(?:(?P<word>"[^"]*")|(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z][A-Za-z_0-9]*)'
    r"|(?P<sign>\*\*|<=|>=|[-+*/=~,()\[\]<>]))"
)
_GREEK = {"alpha", "beta", "gamma", "delta", "lambda", "mu", "pi", "sigma", "theta"}
_FUNCTIONS = {"log", "exp", "sin", "cos", "tan", "max", "min"}
_LAWS = {"U": r"\mathcal{U}", "N": r"\mathcal{N}"}
_RELATIONS = {"=": "=", "~": r"\sim", ",": r",\;\;", "<=": r"\leq", ">=": r"\geq", "<": "<", ">": ">"}


class _Token(NamedTuple):
    kind: str
    text: str
    is_apart: bool  # a space, or nothing, stands before it


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"no formula: {text!r} from {text[place:]!r}")
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind) > found.start() or not place)
        place = found.end()


class _Parser:
    """By recursive descent: relations of sums of products of powers."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.place = text, [*_tokens(text)], 0

    def next_is(self, *texts: str) -> bool:
        return self.place < len(self.tokens) and self.tokens[self.place].text in texts

    def take(self, expected: str | None = None) -> _Token:
        if self.place == len(self.tokens):
            raise ValueError(f"{self.text!r} ends early")
        token = self.tokens[self.place]
        if expected is not None and token.text != expected:
            raise ValueError(f"{expected} is wanted in {self.text!r}, not {token.text}")
        self.place += 1
        return token

    def relations(self, end: Sequence[str] = ()) -> str:
        found = []
        while self.place < len(self.tokens) and not self.next_is(*end):
            if self.next_is(*_RELATIONS):
                found.append(_RELATIONS[self.take().text])
            else:
                found.append(self.sum())
        return " ".join(found)

    def sum(self) -> str:
        found = self.product()
        while self.next_is("+", "-"):
            found += f" {self.take().text} {self.product()}"
        return found

    def product(self) -> str:
        found = f"-{self.product()}" if self.next_is("-") and self.take() else self.power()[0]
        while self.place < len(self.tokens):
            if self.next_is("/"):
                self.take()
                below, inside = self.power()
                found = rf"\dfrac{{{found}}}{{{inside or below}}}"
            elif self.tokens[self.place].kind in ("number", "name", "word") or self.next_is("("):
                found += rf"\, {self.power()[0]}"
            elif self.next_is("["):
                found += rf"\; {self.power()[0]}"
            else:
                break
        return found

    def power(self) -> tuple[str, str]:
        """A factor; and, if it stands in brackets, what stands in them."""
        found, inside = self.factor()
        while self.next_is("["):
            if self.tokens[self.place].is_apart:
                break
            self.take()
            found, inside = f"{found}_{{{self.list(']')}}}", ""
        if self.next_is("**"):
            self.take()
            exponent, bare = self.power()
            small = (bare or exponent).replace(r"\dfrac", r"\frac")
            found, inside = f"{found}^{{{small}}}", ""
        return found, inside

    def list(self, end: str) -> str:
        found = self.relations([end]).replace(r",\;\;", r",\,")
        self.take(end)
        return found

    def factor(self) -> tuple[str, str]:
        token = self.take()
        if token.kind == "word":
            return rf"\;\mathrm{{{token.text.strip(chr(34)).replace(' ', chr(92) + ' ')}}}\;", ""
        if token.kind == "number":
            return token.text, ""
        if token.text == "(":
            inside = self.list(")")
            return rf"\left({inside}\right)", inside
        if token.text == "[":
            return f"[{self.list(']')}]", ""
        if token.kind != "name":
            raise ValueError(f"{self.text!r} has {token.text} where a number is wanted")
        called = self.next_is("(") and not self.tokens[self.place].is_apart
        return (self.call(token.text) if called else _name(token.text)), ""

    def call(self, name: str) -> str:
        self.take("(")
        inside = self.list(")")
        if name == "sqrt":
            return rf"\sqrt{{{inside}}}"
        if name in ("ceil", "floor"):
            return rf"\l{name} {inside} \r{name}"
        if name == "abs":
            return rf"\vert {inside} \vert"
        shown = rf"\{name}" if name in _FUNCTIONS else _LAWS.get(name, _name(name))
        return rf"{shown}\left({inside}\right)"


def _name(name: str) -> str:
    first, _, below = name.partition("_")
    letter = rf"\{first}" if first in _GREEK else first
    shown = letter if first in _GREEK or len(first) == 1 else rf"\mathrm{{{first}}}"
    return rf"{shown}_{{\mathrm{{{below}}}}}" if below else shown


def as_tex(text: str) -> str:
    """A formula's plain text in TeX's words.

    >>> as_tex("a = gain sqrt(6 / (fan_in + fan_out))").count("frac")
    1

    Raises:
        ValueError: it is no formula.
    """
    return _Parser(text).relations()


@cache
def as_svg(text: str) -> str:
    """A formula as outlines in the colour of the text around it, in its size and on its line."""
    outline = TextPath((0, 0), f"${as_tex(text)}$", size=100, prop=FontProperties(math_fontfamily="stix"))
    box = outline.get_extents()
    left, bottom, width, height = box.x0 - 2, box.y0 - 2, box.width + 4, box.height + 4
    style = f"width:{width / 88:.3f}em;vertical-align:{bottom / 88:.3f}em"
    return (
        f'<svg class="ti-math" role="img" aria-label="{escape(text)}" style="{style}"'
        f' viewBox="{left:.0f} {-bottom - height:.0f} {width:.0f} {height:.0f}">'
        f'<path fill="currentColor" d="{_outline(outline)}"/></svg>'
    )


_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


def _outline(path: Path) -> str:
    """SVG's words for a path; its y points down."""
    words = []
    for points, code in path.iter_segments(curves=True, simplify=False):
        numbers = [] if code == Path.CLOSEPOLY else points
        pairs = (f"{x:.0f} {-y:.0f}" for x, y in zip(numbers[::2], numbers[1::2], strict=True))
        words.append(_LETTERS[code] + " ".join(pairs))
    return "".join(words)
