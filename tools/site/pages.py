"""The pages that are made, and where files of the repository have theirs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.site import command_line, initializers

ROOT = Path(__file__).resolve().parents[2]
# Files that lie elsewhere, with their pages.
_ELSEWHERE: Mapping[str, str] = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tritoninit/kernels/README.md": "stream.md",
    "README.md": "index.md",
}
_EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def made() -> Iterator[tuple[str, str]]:
    """(path in docs/, text) of every page that no file of docs/ is."""
    for path, uri in _ELSEWHERE.items():
        if uri != "index.md":
            yield uri, (ROOT / path).read_text(encoding="utf-8")
    yield from initializers.pages()
    yield "examples/index.md", _examples()
    for path in _EXAMPLES:
        yield f"examples/{path.stem}.md", _example(path)


def page_of(path: str) -> str:
    """The page in docs/ of a file of the repository, whether there is one or not."""
    if path.startswith("examples/") and path.endswith(".py"):
        return f"{path[:-3]}.md"
    return _ELSEWHERE.get(path) or path.removeprefix("docs/")


def origin(uri: str) -> str:
    """The file of the repository that a page's links are relative to."""
    return next(
        (path for path, page in _ELSEWHERE.items() if page == uri and page != "index.md"), f"docs/{uri}"
    )


def _example(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    return f'# {path.name}\n\n{_summary(source)}\n\n```python title="examples/{path.name}"\n{source}```\n'


def _summary(source: str) -> str:
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]


def _examples() -> str:
    rows = [f"- [{path.name}]({path.stem}.md): {_summary(path.read_text('utf-8'))}" for path in _EXAMPLES]
    return "\n".join(
        [
            "# Examples",
            "",
            "Programs to start from, which lie in `examples/` and run in the tests.",
            "",
            *rows,
            "",
        ]
    )


def _navigation_of_examples() -> list[Any]:
    return ["examples/index.md", *({path.name: f"examples/{path.stem}.md"} for path in _EXAMPLES)]


# By the comment of a page in docs/, what the site has in its place.
FILLED: Mapping[str, Callable[[], str]] = {
    "<!-- the catalogue -->": initializers.cards,
    "<!-- the initializers -->": initializers.reference,
    "<!-- the commands -->": command_line.commands,
}
# By the folder that mkdocs.yml names, what stands there.
NAVIGATION: Mapping[str, Callable[[], list[Any]]] = {
    "examples/": _navigation_of_examples,
    "initializers/": initializers.navigation,
}
