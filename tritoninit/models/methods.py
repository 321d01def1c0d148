"""The methods by which modules say that they can initialise themselves or others, and how to call them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

# What an ``_init_weights`` that needs no argument may call the module that it can be given all the same.
_MODULE = ("module", "m", "mod", "layer")


class Call(NamedTuple):
    """A call of a module's own code.

    Attributes:
        code: its name, "LlamaForCausalLM._init_weights".
        method: the bound method, or what an attribute of that name is.
        arguments: none; a module; or a module and its name, in the order in which the method takes them.
    """

    code: str
    method: Callable[..., object]
    arguments: tuple[nn.Module | str, ...]

    def __call__(self) -> object:
        return self.method(*self.arguments)

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that the call is of and about."""
        subjects = (getattr(self.method, "__self__", None), *self.arguments)
        return [each for each in subjects if isinstance(each, nn.Module)]

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal where it is the same code about the same module."""
        return (self.code, id(getattr(self.method, "__self__", self.method)), *map(id, self.arguments))


def in_turn(calls: Sequence[Call]) -> Call:
    """Several calls as one, by the name of the last."""
    modules = {id(module): module for each in calls for module in each.modules}

    def run(*_: object) -> None:
        for each in calls:
            each()

    return Call(calls[-1].code, run, tuple(modules.values()))


def class_of(module: nn.Module) -> type:
    """A module's class, as it was before ``fully_shard`` made one of its own of that."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(module, fsdp.FSDPModule):
        return type(module)
    return next(each for each in type(module).__mro__ if not issubclass(each, fsdp.FSDPModule))


def without_arguments(module: nn.Module, name: str) -> Call | None:
    """The call of a method that takes none; None if the module has no such method."""
    method = getattr(module, name, None)
    if not callable(method):
        return None
    parameters = _positional(method)
    if parameters is not None and any(p.default is p.empty for p in parameters):
        return None
    return Call(f"{class_of(module).__name__}.{name}", method, ())


def init_weights(ancestors: Sequence[nn.Module]) -> Iterator[Call]:
    """The calls of ``_init_weights`` that are about the last of ``ancestors``, those of the nearest first.

    Transformers' models and most of timm's take the module; some take its name, too, and some nothing.
    """
    subject = ancestors[-1]
    for module in reversed(ancestors):
        method = getattr(module, "_init_weights", None)
        if callable(method):
            arguments = _arguments(method, module, subject)
            if arguments is not None:
                yield Call(f"{class_of(module).__name__}._init_weights", method, arguments)


def _arguments(
    method: Callable[..., object], module: nn.Module, subject: nn.Module
) -> tuple[nn.Module | str, ...] | None:
    """What a module's ``_init_weights`` is called with; None if nobody knows."""
    parameters = _positional(method)
    if parameters is None:
        return (subject,)
    needed = [p.name for p in parameters if p.default is p.empty]
    if not needed:
        return (subject,) if parameters and parameters[0].name in _MODULE else ()
    if len(needed) == 1:
        return (subject,)
    if len(needed) == 2 and "name" in needed:
        name = next((name for name, each in module.named_modules() if each is subject), "")
        return (name, subject) if needed[0] == "name" else (subject, name)
    return None


def _positional(method: Callable[..., object]) -> list[inspect.Parameter] | None:
    """The arguments that a method takes by position; None if that cannot be told."""
    try:
        parameters: Any = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in parameters if p.kind in kinds]
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return None if takes_any and not found else found
