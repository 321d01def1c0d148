"""The reference has every public name, and what builds it reads all of the package, strictly.

The whole site is built by a slow test; these have the kinds of what once broke it.
"""

import logging
import re
import sys

import pytest

import tritoninit as ti
from tests.site.blocks import DOCS, ROOT
from tritoninit import facts

PAGES = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
# In words, with the functions that they are the old spellings of.
OLD = {name for name in ti.__all__ if f"{name}_" in ti.__all__}


@pytest.mark.parametrize("name", sorted({*ti.__all__} - OLD - {"__version__"}))
def test_every_public_name_is_there(name):
    shown = re.search(rf"^::: tritoninit\.{name}\b", PAGES, re.MULTILINE)
    assert shown or name in facts.catalogue(), f"::: tritoninit.{name} is wanted in docs/reference/"


@pytest.mark.parametrize("name", sorted(OLD))
def test_old_spellings_are_named(name):
    assert f"`{name}`" in PAGES


# To which links at the top level lead, and which so have no __init__.py: what of them is public is added.
WITHOUT = {"tritoninit/kernels", "tritoninit/bench", "tritoninit/bench/results"}


def test_every_folder_is_a_package():
    """The reader passes by folders without __init__.py, and what is told of their names leads nowhere."""
    folders = {path.parent for path in (ROOT / "tritoninit").rglob("*.py")}
    wanting = {str(each.relative_to(ROOT)) for each in folders if not (each / "__init__.py").exists()}
    assert wanting <= WITHOUT


@pytest.fixture(scope="module")
def read():
    """The package as the site's reader has it, and what that says of docstrings."""
    griffe = pytest.importorskip("griffe")
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("griffe").addHandler(handler)
    extensions = griffe.load_extensions(str(ROOT / "tools" / "site" / "docstrings.py"))
    package = griffe.load("tritoninit", search_paths=[str(ROOT)], extensions=extensions)
    objects = list(own(package))
    for each in objects:
        if each.docstring is not None:
            each.docstring.parse("google")
    yield package, objects, said
    logging.getLogger("griffe").removeHandler(handler)


def resolved(thing):
    return thing.final_target if thing.is_alias else thing


def own(thing):
    """A thing and all that is public in it, where it is written."""
    yield thing
    for name, member in thing.members.items():
        if not member.is_alias and (not name.startswith("_") or name == "__init__"):
            yield from own(member)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="what builds the site has dropped 3.10")
def test_docstrings_are_read_without_a_warning(read):
    """Arguments that are told jointly, or are not there, would end a strict build."""
    _, objects, said = read
    assert len(objects) > 1000
    assert not said


@pytest.mark.skipif(sys.version_info < (3, 11), reason="what builds the site has dropped 3.10")
def test_links_of_docstrings_lead_to_the_reference(read):
    """Each to a name that is shown there, or that lies in one."""
    package, *_ = read
    shown = {*re.findall(r"^::: (tritoninit[\w.]*)", PAGES, re.MULTILINE)}
    shown |= {f"tritoninit.{name}" for name in facts.catalogue()}
    things = [resolved(package[name.removeprefix("tritoninit.")]) for name in sorted(shown)]
    shown |= {thing.path for thing in things}  # where they are written, which leads there, too
    wanting = {
        target
        for thing in things
        for each in own(thing)
        if each.docstring is not None
        for target in re.findall(r"\]\[(tritoninit[\w.]*)\]", each.docstring.value)
        if not any(target == there or target.startswith(f"{there}.") for there in shown)
    }
    assert not wanting
