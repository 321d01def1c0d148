"""Which model ``tritoninit init`` or ``plan`` is asked for, and its construction."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from tritoninit.models.rules import RuleSet
from tritoninit.outputs import UsageError
from tritoninit.presets import PRESETS, Preset
from tritoninit.schemes import SCHEMES
from tritoninit.terminal import one_line, place


class Subject(NamedTuple):
    """A model to be initialised: how it is built, and by which rules; without any, by its own code.

    ``on_meta`` says that it can be built on the meta device.
    """

    name: str
    build: Callable[[], Any]
    rules: Callable[[nn.Module], RuleSet] | None
    on_meta: bool = False


def named(
    spec: str,
    settings: Mapping[str, Any],
    scheme: str | None,
    presets: Mapping[str, Preset] = PRESETS,
) -> Subject:
    """A preset by its name, or what ``package.module:callable`` names, called with ``settings``.

    Args:
        scheme: whose rules initialise it instead of the model's own.
        presets: those that have names.

    Raises:
        UsageError: there is no such thing.
    """
    module_name, colon, attribute = spec.partition(":")
    if not colon and spec not in presets:
        near = _close_matches(spec, list(presets))
        raise UsageError(
            f"unknown preset {spec!r}{near}; known are {', '.join(presets)}, or give package.module:callable"
        )
    found = _attribute(_import(module_name, spec), attribute, spec) if colon else presets[spec]
    chosen = SCHEMES[scheme] if scheme else None
    if isinstance(found, Preset):
        own = found.rules
        return Subject(spec, partial(found.build, **settings), chosen or (lambda _: own), on_meta=True)
    if not callable(found) or isinstance(found, nn.Module):
        raise UsageError(f"{spec} is no function that makes an nn.Module, but {found!r:.60}")
    configuration = getattr(found, "config_class", None)
    if configuration is None:
        return Subject(spec, partial(found, **settings), chosen)
    return Subject(spec, lambda: found(configuration(**settings)), chosen)


def _import(name: str, spec: str) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises is the answer
        raise UsageError(f"cannot import the module of {spec!r}: {one_line(error)}") from error


def _attribute(module: Any, path: str, spec: str) -> Any:
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        near = _elsewhere(module, path) or _close_matches(
            path, [name for name in dir(module) if not name.startswith("_")]
        )
        raise UsageError(f"no {path!r} in the module of {spec!r}{near}") from None
    except (Exception, SystemExit) as error:  # modules that import what is asked of them, and cannot
        raise UsageError(f"cannot take {path!r} from the module of {spec!r}: {one_line(error)}") from error


def _elsewhere(package: Any, path: str) -> str:
    """Where else a package may keep what is missing: timm and torchvision have functions in ``models``."""
    name = f"{getattr(package, '__name__', '')}.models"
    try:
        models = importlib.import_module(name)
        functools.reduce(getattr, path.split("."), models)
    except (Exception, SystemExit):  # noqa: BLE001 - not there then
        return ""
    return f" (did you mean {name}:{path}?)"


def _close_matches(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def constructed(subject: Subject, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module, its floats of ``dtype`` unless it says otherwise.

    Raises:
        UsageError: it cannot be built, or is no module with parameters.
    """
    default = torch.get_default_dtype()
    narrow = dtype.itemsize == 1  # which no model is built in: torch has no such default
    torch.set_default_dtype(torch.float32 if narrow else dtype)
    try:
        with device:
            module = subject.build()
            if isinstance(module, nn.Module) and not _lies_on(module, device):
                module.to(device)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's code raises is the answer, SystemExit too
        raise UsageError(f"cannot build {subject.name}: {one_line(error)} ({place(error)})") from error
    finally:
        torch.set_default_dtype(default)
    if not isinstance(module, nn.Module):
        raise UsageError(f"{subject.name} makes no nn.Module, but {module!r:.60}")
    if not any(True for _ in module.parameters()):
        raise UsageError(f"{subject.name} has no parameters")
    for parameter in module.parameters() if narrow else ():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(dtype)
    return module


def _lies_on(module: nn.Module, device: torch.device) -> bool:
    """Whether nothing has to move, for which torch walks into every place that shared modules have."""
    return all(each.device == device for each in (*module.parameters(), *module.buffers()))
