"""What every figure shares: colours, how contenders look, and an SVG that knows light and dark.

One code draws PNG and SVG. A PNG has the colours of ``LIGHT``; in an SVG each is replaced by a CSS variable,
so that the page it stands in chooses light or dark.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tritoninit.outputs import UsageError

if TYPE_CHECKING:
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


def style_of(contender: str) -> Style:
    return STYLES.get(contender, _UNKNOWN)


@contextmanager
def matplotlib_set(salt: str) -> Iterator[None]:
    """Matplotlib with our settings; ``salt`` makes an SVG's ids its own in a page that has several."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("figures need matplotlib: pip install matplotlib") from None
    settings: Any = {**_RC, "svg.hashsalt": salt}  # whose names matplotlib's annotations list one by one
    with mpl.rc_context(settings):
        yield


def as_svg(figure: Figure, description: str) -> str:
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
