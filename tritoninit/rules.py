"""Whole models: ordered rules that give each parameter its initializer, and the pass that applies them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from tritoninit.fills import Elementwise, Initializer
from tritoninit.keys import Key
from tritoninit.plan import Plan
from tritoninit.registry import resolve
from tritoninit.targets import as_target
from tritoninit.window import Window

Pattern: TypeAlias = "type[nn.Module] | str | Callable[[str, nn.Module], bool]"
Initializers: TypeAlias = (
    "Initializer | Mapping[str, Initializer] | Callable[[nn.Module], Mapping[str, Initializer]]"
)


@dataclass(frozen=True)
class Rule:
    """Which parameters, and how to set them.

    Args:
        pattern: a module class (subclasses too), a glob on a parameter's qualified name
            ("*.c_proj.weight"), or a function of (qualified parameter name, owning module).
        initializers: one for every parameter that matches, or a mapping from the parameter's own name
            ("weight", "bias") in its module, or a function of the module that returns such a mapping.

    A parameter that the mapping leaves out falls through to the next rule.
    """

    pattern: Pattern
    initializers: Initializers

    def find(self, name: str, module: nn.Module) -> Initializer | None:
        """The initializer for the parameter ``name``, owned by ``module``; None if the rule has none."""
        if not self._matches(name, module):
            return None
        found = self.initializers
        if isinstance(found, Initializer):
            return found
        mapping = found if isinstance(found, Mapping) else found(module)
        return mapping.get(name.rpartition(".")[2])

    def _matches(self, name: str, module: nn.Module) -> bool:
        if isinstance(self.pattern, type):
            return isinstance(module, self.pattern)
        if isinstance(self.pattern, str):
            return fnmatchcase(name, self.pattern)
        return self.pattern(name, module)


@dataclass(frozen=True)
class Assignment:
    """What :func:`initialize_` did to one parameter."""

    name: str
    parameter: nn.Parameter
    initializer: Initializer
    key: Key
    backend: str


def initialize_(module: nn.Module, rules: Sequence[Rule], *, seed: int | None = None) -> list[Assignment]:
    """Set every parameter of a model, in place.

    Each parameter takes the initializer of the first rule that has one for it, and random numbers from
    ``Key(seed).fold_in(qualified name)``: adding or reordering layers leaves the others' weights as they
    were. A parameter that appears under several names (tied) is set once, under the first.

    Args:
        module: the model; its parameters on any device that a backend serves.
        rules: tried in order.
        seed: 64 bits; drawn from PyTorch's default CPU generator if None.

    Returns:
        One assignment a parameter, in the order of ``named_parameters``.

    Raises:
        ValueError: some parameters match no rule (the message lists them), or cannot be set.
    """
    found: list[tuple[str, nn.Parameter, Initializer]] = []
    unmatched: list[str] = []
    for name, owner, parameter in _owned_parameters(module):
        initializer = next(filter(None, (rule.find(name, owner) for rule in rules)), None)
        if initializer is None:
            unmatched.append(name)
        else:
            with _naming(name):
                as_target(parameter)
            found.append((name, parameter, initializer))
    if unmatched:
        raise ValueError(f"no rule matches {len(unmatched)} parameters: {', '.join(unmatched)}")
    key = Key.from_generator() if seed is None else Key(seed)
    assignments = [
        Assignment(name, parameter, initializer, key.fold_in(name), resolve(parameter.device.type).name)
        for name, parameter, initializer in found
    ]
    run_assignments(assignments)
    return assignments


def run_assignments(assignments: Sequence[Assignment]) -> None:
    """Write the parameters: first the fills, as one plan, then what is built on fills."""
    plan = Plan()
    built: list[Callable[[], None]] = []
    for each in assignments:
        with _naming(each.name):
            target = as_target(each.parameter)
            if isinstance(each.initializer, Elementwise):
                plan.add(target, each.initializer.fill(each.parameter.shape), each.key)
            else:
                window = Window.whole(tuple(each.parameter.shape))
                built.append(each.initializer.prepare(target, each.key, window))
    plan.run()
    for write in built:
        write()


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put a parameter's name before the message of the errors that initializers raise."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        if len(error.args) != 1:  # an exception of another make, which one message does not rebuild
            raise
        raise type(error)(f"{name}: {error}") from error


def _owned_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """(qualified name, owning module, parameter) of every distinct parameter, as named_parameters orders."""
    seen: set[nn.Parameter] = set()
    for prefix, owner in module.named_modules():
        for local, parameter in owner.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield f"{prefix}.{local}" if prefix else local, owner, parameter
