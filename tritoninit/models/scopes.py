"""Which part of a whole model a module is: what its parameters are called there, and where they lie in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from tritoninit.window import Window
from tritoninit.windows import Windows

Names: TypeAlias = "str | Mapping[str, str] | Callable[[str], str]"


@dataclass(frozen=True)
class Scope:
    """What a part's names are in the whole, and which of its tensors are windows of the whole's.

    Args:
        prefix: what names begin with there, with or without the dot at its end; or, by a parameter's or a
            module's name here, what it is called there, where the longest name decides and others stay as
            they are; or a function from a parameter's name here to that there.
        windows: by a name there, or by a glob.
    """

    prefix: Names = ""
    windows: Mapping[str, Window | Windows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prefix: object = self.prefix
        if isinstance(prefix, Mapping):
            known = all(isinstance(each, str) for pair in prefix.items() for each in pair)
        else:
            known = isinstance(prefix, str) or (callable(prefix) and not isinstance(prefix, type))
        if not known:
            raise TypeError(f"prefix is a string, or says names by names, unlike {prefix!r:.80}")
        windows: object = self.windows
        if not isinstance(windows, Mapping):
            raise TypeError(f"windows says by names or globs which part one is, unlike {windows!r:.80}")
        for name, window in windows.items():
            if not isinstance(name, str) or not isinstance(window, (Window, Windows)):
                raise TypeError(
                    f"windows says by names or globs a Window or Windows, not {name!r}: {window!r:.80}"
                )

    @property
    def renames(self) -> bool:
        """Whether names differ at all."""
        return bool(self.prefix) or not isinstance(self.prefix, (str, Mapping))

    def full(self, name: str) -> str:
        """What a parameter of the part is called in the whole.

        >>> Scope("layers.3").full("mlp.weight"), Scope({"0": "layers.4"}).full("0.weight")
        ('layers.3.mlp.weight', 'layers.4.weight')
        """
        if isinstance(self.prefix, str):
            return f"{self._stem}{name}"
        if isinstance(self.prefix, Mapping):
            here = next((each for each in _ends(name) if each in self.prefix), None)
            return name if here is None else _joined(self.prefix[here], name[len(here) :].removeprefix("."))
        given = self.prefix(name)
        if not isinstance(given, str):
            raise TypeError(f"prefix gave no name for {name}: {given!r:.80}")
        return given

    def idle(self, names: Iterable[str]) -> list[str]:
        """What of a mapping is about none of a part's names, in words."""
        if not isinstance(self.prefix, Mapping):
            return []
        useful = {end for name in names for end in _ends(name)}
        return [f"the name {name!r} of prefix" for name in self.prefix if name not in useful]

    @cached_property
    def _stem(self) -> str:
        return f"{str(self.prefix).removesuffix('.')}." if self.prefix else ""


def _ends(name: str) -> Iterator[str]:
    """A name, the module that has it, and the modules around that, outwards; the model is ""."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _joined(module: str, rest: str) -> str:
    return f"{module.removesuffix('.')}.{rest}" if module and rest else module or rest


WHOLE = Scope()
