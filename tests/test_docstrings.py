"""Docstrings of all that is public say what goes in, what comes out and what is raised.

What a signature has decides, and the ``raise`` statements of the code and of what it calls; a method that
overrides another is described there.
"""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import pytest

import tritoninit as ti
from tritoninit import distributed, registry, schemes

_REGISTRY = ("Backend", "backends", "get", "register", "resolve", "use_backend")


def public() -> dict[str, Any]:
    """Functions and classes by name, of the package and of its modules that have a reference."""
    found = {name: getattr(ti, name) for name in ti.__all__}
    found |= {f"distributed.{name}": getattr(distributed, name) for name in distributed.__all__}
    found |= {f"registry.{name}": getattr(registry, name) for name in _REGISTRY}
    found |= {f"schemes.{name}": getattr(schemes, name) for name in schemes.__all__}
    return {name: thing for name, thing in found.items() if isinstance(thing, type | types.FunctionType)}


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """A class's own, but for those that a base has."""
    for name, thing in vars(kind).items():
        function = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
        inherited = any(name in vars(base) for base in kind.__mro__[1:])
        if isinstance(function, types.FunctionType) and not name.startswith("_") and not inherited:
            yield name, function


FUNCTIONS = {
    name: thing
    for name, thing in public().items()
    if not isinstance(thing, type) and "Deprecated spelling of" not in thing.__doc__
}
CLASSES = {name: thing for name, thing in public().items() if isinstance(thing, type)}
FUNCTIONS |= {f"{name}.{each}": f for name, kind in CLASSES.items() for each, f in methods(kind)}


def sections(doc: str) -> dict[str, str]:
    """The text of each section, and what comes before them by no name."""
    pieces = re.split(r"^(\w+):\n", doc + "\n", flags=re.MULTILINE)
    return {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def described(sections: dict[str, str]) -> set[str]:
    """The names of arguments, of which the site's reader takes ``a, b: ...`` for one, and of attributes."""
    arguments = re.findall(r"^    ([\w*]+)(?: \(.*?\))?: ", sections.get("Args", ""), re.MULTILINE)
    attributes = re.findall(r"^    (\w[\w, ]*): ", sections.get("Attributes", ""), re.MULTILINE)
    return {name.strip(" *") for entry in (*arguments, *attributes) for name in entry.split(",")}


def arguments(thing: Any) -> set[str]:
    return set(inspect.signature(thing).parameters) - {"self", "cls"}


def raises(function: Any, depth: int = 2) -> bool:
    """Whether it has a ``raise`` of its own, or a function of the package's that it calls by name has."""
    function = inspect.unwrap(function)
    try:
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    except (OSError, TypeError):  # made by dataclasses
        return False
    if any(isinstance(node, ast.Raise) and node.exc is not None for node in nodes):
        return True
    names = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    called = [function.__globals__.get(name) for name in names]
    ours = [f for f in called if isinstance(f, types.FunctionType) and f.__module__.startswith("tritoninit")]
    return depth > 0 and any(raises(each, depth - 1) for each in ours)


def wanting_of_function(function: Any) -> list[str]:
    doc = inspect.getdoc(function)
    if not doc:
        return ["a docstring"]
    found = sections(doc)
    wanting = sorted(arguments(function) - described(found))
    returned = inspect.signature(function).return_annotation
    if returned not in ("None", None, inspect.Signature.empty) and not {"Returns", "Yields"} & set(found):
        wanting.append("Returns")
    if raises(function) and "Raises" not in found:
        wanting.append("Raises")
    return wanting


def wanting_of_class(kind: type) -> list[str]:
    doc = inspect.cleandoc(vars(kind).get("__doc__") or "")
    if not doc:
        return ["a docstring"]
    if issubclass(kind, BaseException):
        return []
    found = sections(doc)
    known = described(found)
    try:
        wanting = sorted(arguments(kind) - known)
    except ValueError:
        wanting = []
    made_by = [vars(kind).get(name) for name in ("__init__", "__post_init__", "__new__")]
    if any(raises(each) for each in made_by if each is not None) and "Raises" not in found:
        wanting.append("Raises")
    return wanting


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods(name: str) -> None:
    assert wanting_of_function(FUNCTIONS[name]) == []


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    assert wanting_of_class(CLASSES[name]) == []


def test_what_is_wanting_is_found() -> None:
    def function(first: int, *rest: int) -> int:
        """Nothing.

        Args:
            first: one.
        """
        raise ValueError

    def right(first: int, second: int) -> int:
        """Something.

        Args:
            first: one.
            second: another one.

        Returns:
            One.
        """
        return first + second

    assert wanting_of_function(function) == ["rest", "Returns", "Raises"]

    def jointly(first: int, second: int) -> None:
        """Something.

        Args:
            first, second: two.
        """

    assert wanting_of_function(right) == []
    assert wanting_of_function(jointly) == ["first", "second"]
