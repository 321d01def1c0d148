"""The reference has every public name."""

import re

import pytest

import tritoninit as ti
from tests.site.blocks import DOCS
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
