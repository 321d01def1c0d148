"""What the pages of docs/ show runs, one block after another, and prints what they say."""

import contextlib
import doctest
import io

import pytest

from tests.site.blocks import DOCS, Block, blocks

# Those that four ranks run: tests/distributed/cases.py.
ON_RANKS = {"deepspeed", "fsdp2", "megatron", "pipeline", "sharded", "tensor_parallel"}
PAGES = sorted(path for path in DOCS.glob("**/*.md") if path.stem not in ON_RANKS)
WITH_CODE = {str(path.relative_to(DOCS)): found for path in PAGES if (found := [*blocks(path.read_text())])}


@pytest.mark.parametrize("page", WITH_CODE)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in WITH_CODE[page]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, str(DOCS / page), "exec"), names)
        assert is_said(printed.getvalue(), block), f"{page}:{block.line} prints\n{printed.getvalue()}"


def is_said(printed: str, block: Block) -> bool:
    """As a page says it: three dots stand for whatever is left out."""
    if not block.prints:
        return True
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(block.prints, printed, options)


def test_pages_that_teach_have_code():
    assert {
        "index.md",
        "start.md",
        "which.md",
        "whole_models.md",
        "meta.md",
        "recording.md",
    } <= WITH_CODE.keys()


def test_a_block_that_prints_something_else_is_noticed():
    (block,) = blocks("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    assert block.prints == "2\n"
    assert not is_said("1\n", block)
    assert is_said("1\n", block._replace(prints="...\n"))
    assert not [*blocks("<!-- not run: it asks for a GPU -->\n```python\n1 / 0\n```\n")]
