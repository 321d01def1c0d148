"""Torch's functions called by whoever holds them: their code is replaced while an ``intercept`` is open."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tritoninit.interception.arrivals import awaited


class Routes:
    """The ways from torch's functions to one of ours.

    References to these functions are taken when modules are imported, and most do not consult
    TorchFunctionMode: only their code can be replaced everywhere at once. The names and defaults of their
    arguments stay.

    Attributes:
        originals: copies of the functions, with their own code, by name; of libraries, by qualified name.
    """

    def __init__(self, to: str) -> None:
        """``to`` names the module that a call of a routed function imports; its ``route`` then gets the
        function's name and its arguments."""
        self.originals: dict[str, FunctionType] = {}
        self._to = to
        self._owners: dict[str, ModuleType | type] = {}
        self._before: dict[str, Any] = {}
        self._functions: dict[str, FunctionType] = {}
        self._routing: dict[str, CodeType] = {}
        self._libraries: dict[str, Mapping[str, Collection[str]]] = {}
        self._lock = threading.Lock()
        self._users = 0

    def add(
        self, owner: ModuleType | type, names: Iterable[str], before: Mapping[str, Any] | None = None
    ) -> None:
        """Route these functions of a module or a class, too, from the next time that none is routed.

        Args:
            owner: of them.
            names: theirs.
            before: what the owner held when the package was imported, where others may stand in since.
        """
        with self._lock:
            self._owners |= dict.fromkeys(names, owner)
            self._before |= before or {}
            self._find()

    def add_library(self, module: str, functions: Mapping[str, Collection[str]]) -> None:
        """Route a library's functions, too, once somebody has imported that module.

        Those that are not as they are known here (the names of their arguments after the first, some of which
        may be missing) stay their library's.
        """
        self._libraries[module] = functions

    def _look_in(self, library: str) -> None:
        """Look for the functions of a library, if it is there."""
        module = sys.modules.get(library)
        if module is None:
            return
        for name, arguments in self._libraries[library].items():
            key, function = f"{library}.{name}", vars(module).get(name)
            before = self._functions.get(key)
            if function is before or not isinstance(function, FunctionType):
                continue
            taken = list(inspect.signature(function).parameters)[1:]
            if before is not None:  # of a module that was imported anew
                before.__code__ = self.originals[key].__code__
            own = function.__globals__ is vars(module) and not function.__closure__
            if own and {*taken} <= {*arguments}:
                self._keep(key, function)

    def _arrived(self, library: str) -> None:
        """It was imported while functions are routed."""
        with self._lock:
            self._look_in(library)
            if self._users:
                self._put(self._routing)

    def _keep(self, key: str, function: FunctionType) -> None:
        self.originals[key] = _copy(function)
        self._routing[key] = _routing_code(key, function, self._to)
        self._functions[key] = function

    def _find(self) -> list[str]:
        """Look for the functions not found yet; which are still to be found."""
        missing = []
        for name in self._owners.keys() - self._functions.keys():
            owner = self._owners[name]
            home = vars(sys.modules[owner.__module__] if isinstance(owner, type) else owner)
            for held in (vars(owner)[name], self._before.get(name)):
                function: Any = inspect.unwrap(held) if callable(held) else held
                if getattr(function, "__globals__", None) is home and function.__name__ == name:
                    self._keep(name, function)
                    break
            else:
                missing.append(name)  # somebody has put another in its place
        return missing

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the functions routed while any thread is in this block.

        Raises:
            RuntimeError: since they were added, one of them has always been replaced by another function.
        """
        with self._lock:
            missing = self._find()
            for library in self._libraries:
                self._look_in(library)
        if missing:
            raise RuntimeError(
                f"other functions stand in for torch's {', '.join(sorted(missing))}, and did when tritoninit "
                "was imported: import it before they do"
            )
        with self._entered(), awaited(self._libraries, self._arrived):
            yield

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            self._put(self._routing)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._put({name: original.__code__ for name, original in self.originals.items()})

    def _put(self, codes: Mapping[str, CodeType]) -> None:
        for name, function in self._functions.items():
            if function.__code__ is not codes[name]:
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
    body = f"    from {to} import route\n    return route({name!r}, {names})\n"
    source = f"def {function.__name__}({names}):\n{body}"
    scope: dict[str, Any] = {}
    exec(compile(source, function.__code__.co_filename, "exec"), scope)
    routing: FunctionType = scope[function.__name__]
    return routing.__code__
