"""The map of imports: no circle between files or folders, and nobody takes another's private names.

Imports inside functions count as any other: a circle is one, whenever it closes.
"""

import ast
import graphlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tritoninit._names import HOMES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tritoninit"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str, nodes: Iterable[ast.AST] | None = None) -> Iterator[tuple[str, str | None]]:
    """(module, name) of all that a module takes from the package; no name where it takes the module itself.

    Of ``nodes`` only, or of all that is in its file.
    """
    for node in ast.walk(ast.parse(FILES[module].read_text())) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in FILES:
                    yield inner, None
                elif node.module in FILES:
                    yield str(node.module), alias.name


def folder(module: str) -> str:
    """The folder that a file belongs to; a file at the top is one of its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if FILES[module].parent != PACKAGE else module


def order(graph: dict[str, set[str]]) -> list[str]:
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))


# The package's own __init__ takes the public names from everywhere. What stands above it are the programs.
GRAPH = {module: {name for name, _ in imports(module)} for module in FILES if module != "tritoninit"}


def test_files_make_no_circle() -> None:
    assert set(order(GRAPH)) - {"tritoninit"} == set(GRAPH)


def test_folders_make_no_circle() -> None:
    folders: dict[str, set[str]] = {}
    for module, found in GRAPH.items():
        into = folders.setdefault(folder(module), set())
        into |= {folder(each) for each in found if each != "tritoninit"} - {folder(module)}
    order(folders)


def loaded_by(*modules: str) -> set[str]:
    """The package's modules that imports load: by statements outside of functions."""
    found, pending = set(), [*modules]
    while pending:
        module = pending.pop()
        found.add(module)
        statements = ast.parse(FILES[module].read_text()).body
        pending += {name for name, _ in imports(module, statements)} - found
    return found


def test_the_library_loads_no_program_and_no_backend() -> None:
    loaded = loaded_by("tritoninit", *HOMES.values())
    programs = ("bench", "cli", "checks", "commands", "emulated", "kernels.numba", "kernels.triton")
    assert not [name for name in loaded if name.startswith(tuple(f"tritoninit.{each}" for each in programs))]
    assert "tritoninit.kernels.stream" in loaded


def test_private_names_stay_in_their_file() -> None:
    taken = [
        f"{module} takes {name} from {source}"
        for module in FILES
        for source, name in imports(module)
        if name is not None and name.startswith("_") and not name.startswith("__")
    ]
    assert not taken
