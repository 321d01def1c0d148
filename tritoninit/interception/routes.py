"""Torch's functions called by whoever holds them: their code is replaced while an ``intercept`` is open."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any


class Routes:
    """The ways from torch's functions to one of ours.

    References to these functions are taken when modules are imported, and most do not consult
    TorchFunctionMode: only their code can be replaced everywhere at once. The names and defaults of their
    arguments stay.

    Attributes:
        originals: copies of the functions, by name, with torch's own code.
    """

    def __init__(self, to: str) -> None:
        """``to`` names the module that a call of a routed function imports; its ``route`` then gets the
        function's name and its arguments."""
        self.originals: dict[str, FunctionType] = {}
        self._to = to
        self._owners: dict[str, ModuleType | type] = {}
        self._functions: dict[str, FunctionType] = {}
        self._routing: dict[str, CodeType] = {}
        self._lock = threading.Lock()
        self._users = 0

    def add(self, owner: ModuleType | type, names: Iterable[str]) -> None:
        """Route these functions of a module or a class, too, from the next time that none is routed."""
        with self._lock:
            self._owners |= dict.fromkeys(names, owner)
            self._find()

    def _find(self) -> list[str]:
        """Look for the functions not found yet; which are still to be found."""
        missing = []
        for name in self._owners.keys() - self._functions.keys():
            owner = self._owners[name]
            function = inspect.unwrap(vars(owner)[name])
            home = vars(sys.modules[owner.__module__] if isinstance(owner, type) else owner)
            if getattr(function, "__globals__", None) is not home or function.__name__ != name:
                missing.append(name)  # somebody has put another in its place
                continue
            self.originals[name] = _copy(function)
            self._routing[name] = _routing_code(name, function, self._to)
            self._functions[name] = function
        return missing

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the functions routed while any thread is in this block.

        Raises:
            RuntimeError: since they were added, one of them has always been replaced by another function.
        """
        with self._lock:
            missing = self._find()
        if missing:
            raise RuntimeError(
                f"other functions stand in for torch's {', '.join(sorted(missing))}, and did when tritoninit "
                "was imported: import it before they do"
            )
        self._enter(1, self._routing)
        try:
            yield
        finally:
            self._enter(-1, {name: original.__code__ for name, original in self.originals.items()})

    def _enter(self, change: int, codes: Mapping[str, CodeType]) -> None:
        with self._lock:
            self._users += change
            if self._users == (1 if change > 0 else 0):
                for name, function in self._functions.items():
                    function.__code__ = codes[name]


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _routing_code(name: str, function: FunctionType, to: str) -> CodeType:
    """The code of a function of the same signature that calls ``route`` of the module ``to``."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = ", ".join(stars.get(p.kind, "") + p.name for p in inspect.signature(function).parameters.values())
    source = f"def {name}({names}):\n    from {to} import route\n    return route({name!r}, {names})\n"
    scope: dict[str, Any] = {}
    exec(compile(source, function.__code__.co_filename, "exec"), scope)
    routing: FunctionType = scope[name]
    return routing.__code__
