"""Modules that are told of as soon as somebody has imported them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Finder(MetaPathFinder):
    """Finds what the other finders find, and has those modules told of that are waited for."""

    def __init__(self, names: Collection[str], arrived: Callable[[str], None]) -> None:
        self._names = names
        self._arrived = arrived

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            find = None if isinstance(finder, _Finder) else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._arrived)
                return spec
        return None


class _Loader(Loader):
    """Another loader, which the module keeps, and then word of its arrival."""

    def __init__(self, inner: Any, arrived: Callable[[str], None]) -> None:
        self._inner = inner
        self._arrived = arrived

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        self._arrived(module.__name__)


@contextmanager
def awaited(names: Collection[str], arrived: Callable[[str], None]) -> Iterator[None]:
    """While in this block, ``arrived`` is called with each of these names once its module is imported."""
    finder = _Finder(names, arrived)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
