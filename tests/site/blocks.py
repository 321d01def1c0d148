"""The blocks of code of a page, and what it says that they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"(?P<not_run><!-- not run: [^\n]+ -->\n\n?)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    code: str
    line: int
    prints: str  # what stands below it in a block of text


def blocks(page: str) -> Iterator[Block]:
    """The blocks of Python that begin a line, but for those that a comment before them says are not run."""
    found = list(_BLOCK.finditer(page))
    for place, block in enumerate(found):
        if block["language"] != "python" or block["not_run"]:
            continue
        after = found[place + 1] if place + 1 < len(found) else None
        below = after is not None and not page[block.end() : after.start()].strip()
        prints = after["text"] if after is not None and below and after["language"] == "text" else ""
        yield Block(block["text"], page.count("\n", 0, block.start("text")), prints)


def without_code(page: str) -> str:
    """A page less its blocks, fenced or indented below an empty line, and spans of code."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"(?<=\n\n)(?: {4}.*\n?)+", "", page)
    return re.sub(r"`[^`\n]+`", "", page)
