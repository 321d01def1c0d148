"""Docstrings as the site shows them: roles become links, stars stay stars, and examples are code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`(?:(?P<text>[^`<]+) <)?(?P<tilde>~?)(?P<target>[\w.]+)>?`")
_CODE = re.compile(r"(:\w+:`[^`]+`|``[^`]+``|`[^`]+`)")
# What has a page of reference, by the modules whose members are documented there.
_DOCUMENTED = ("", "distributed", "presets", "registry", "schemes")


class Roles(griffe.Extension):
    """Reads ``:func:`name``` as a link to what the reference has, else as code."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        if pkg.path != "tritoninit":
            return
        _add_kernels(pkg, loader)
        public = _public(pkg)
        for obj in _objects(pkg):
            if obj.docstring is not None:
                lines = obj.docstring.value.splitlines()
                obj.docstring.value = "\n".join(_lines(lines, obj, public))


def _add_kernels(package: griffe.Module, loader: griffe.GriffeLoader) -> None:
    """Add the public names' home in ``kernels``, a folder without __init__.py, which griffe passes by."""
    folder = Path(str(package.filepath)).parent / "kernels"
    kernels = griffe.Module("kernels", filepath=folder / "__init__.py", parent=package)
    package.set_member("kernels", kernels)
    for name in ("lowering", "stream"):
        path = folder / f"{name}.py"
        module = griffe.visit(
            name,
            filepath=path,
            code=path.read_text(encoding="utf-8"),
            parent=kernels,
            lines_collection=loader.lines_collection,
            modules_collection=loader.modules_collection,
        )
        kernels.set_member(name, module)


def _objects(obj: griffe.Object) -> Iterator[griffe.Object]:
    """A thing and all that are written in it."""
    yield obj
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _lines(lines: list[str], obj: griffe.Object, public: dict[str, str]) -> Iterator[str]:
    """An example reaches from its first prompt to the next empty line, as doctest reads it."""
    fence = ""
    for line in [*lines, ""]:
        if not fence and line.lstrip().startswith(">>>"):
            fence = line[: line.index(">>>")] + "```"
            yield f"{fence}pycon"
        elif fence and not line.strip():
            yield fence
            fence = ""
        yield line if fence else _line(line, obj, public)


def _line(line: str, obj: griffe.Object, public: dict[str, str]) -> str:
    """Signs of Markdown mean themselves, but for backquotes."""
    pieces = _CODE.split(line)
    pieces[::2] = (re.sub(r"([*\[\]<])", r"\\\1", piece) for piece in pieces[::2])
    return _ROLE.sub(lambda role: _link(role, obj, public), "".join(pieces))


def _link(role: re.Match[str], obj: griffe.Object, public: dict[str, str]) -> str:
    target = role["target"]
    text = role["text"] or (target.rpartition(".")[2] if role["tilde"] else target)
    for path in (target, _resolved(target, obj)):
        if path in public:
            return f"[`{text}`][{public[path]}]"
    return f"`{text}`"


def _resolved(target: str, obj: griffe.Object) -> str:
    try:
        return obj.resolve(target)
    except griffe.NameResolutionError:
        return target


def _public(package: griffe.Module) -> dict[str, str]:
    """The path that the reference has a thing by, by all paths that lead to it."""
    found: dict[str, str] = {}
    for name in _DOCUMENTED:
        module = package[name] if name else package
        for local in module.exports or module.members:
            member = module.members.get(str(local))
            if isinstance(member, griffe.Alias) and not str(member.target_path).startswith(package.path):
                continue
            thing = member.final_target if isinstance(member, griffe.Alias) else member
            if thing is None or isinstance(thing, griffe.Module):
                continue
            inside = {f"{local}.{each}": inner for each, inner in thing.members.items()}
            for path, each in {str(local): thing, **inside}.items():
                if isinstance(each, griffe.Object) and each.docstring and "._" not in f".{path}":
                    shown = f"{module.path}.{path}"
                    found[shown] = shown
                    found.setdefault(each.path, shown)
    return found
