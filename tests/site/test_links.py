"""Links in Markdown lead somewhere on GitHub, too: to files, and to headings that are there."""

import re

import pytest

from tests.site.blocks import ROOT, without_code

WRITTEN = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("**/*.md"),
    ROOT / "tritoninit" / "kernels" / "README.md",
]


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.+?)(?: \{.*\})?$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = without_code(path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{target} has no such heading"
