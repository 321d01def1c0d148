"""Rules: which initializer a model's parameters and buffers get, by module class, name or meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import TYPE_CHECKING, TypeAlias, overload

from torch import nn

from tritoninit.fills import Initializer
from tritoninit.models.globs import Globs, compiled

if TYPE_CHECKING:
    from tritoninit.models.slots import Slot

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
        within: a module class; only what lies somewhere inside a module of it matches.

    A parameter that the mapping leaves out falls through to the next rule. Buffers are set only where a
    mapping names them ("running_mean").
    """

    pattern: Pattern
    initializers: Initializers
    within: type[nn.Module] | None = None

    def __post_init__(self) -> None:
        kind = self.pattern
        if isinstance(kind, type):
            known = issubclass(kind, nn.Module)
        else:
            known = isinstance(kind, str) or callable(kind)
        if not known:
            raise TypeError(f"a pattern is a module class, a glob or a function, not {kind!r}")
        if not isinstance(self.initializers, (Initializer, Mapping)) and not callable(self.initializers):
            raise TypeError(f"a rule takes an Initializer, or several by name, not {self.initializers!r}")

    def find(self, slot: Slot) -> Initializer | None:
        """The initializer for a parameter or buffer; None if the rule has none."""
        if not self._matches(slot.name, slot.owner):
            return None
        if self.within is not None and not any(isinstance(m, self.within) for m in slot.ancestors):
            return None
        found = self.initializers
        if isinstance(found, Initializer):
            return None if slot.is_buffer else found
        mapping = found(slot.owner) if callable(found) else found
        if not isinstance(mapping, dict) and not isinstance(mapping, Mapping):
            raise TypeError(f"the rule for {self.pattern!r} gave no mapping by parameter names: {mapping!r}")
        initializer = mapping.get(slot.local)
        if initializer is not None and not isinstance(initializer, Initializer):
            raise TypeError(f"the rule for {self.pattern!r} gave no Initializer: {initializer!r}")
        return initializer

    def _matches(self, name: str, module: nn.Module) -> bool:
        if isinstance(self.pattern, type):
            return isinstance(module, self.pattern)
        if isinstance(self.pattern, str):
            return name == self.pattern or compiled(self.pattern).match(name) is not None
        return self.pattern(name, module)


@dataclass(frozen=True)
class SlotRule(Rule):
    """A rule that decides by all that is known of a parameter: its names, its shape, the modules around it.

    Args:
        choose: from a slot to its initializer, or None to leave it to the next rule; nothing else counts.
    """

    pattern: Pattern = "*"
    initializers: Initializers = field(default_factory=dict)
    choose: Callable[[Slot], Initializer | None] = field(default=lambda slot: None, kw_only=True)

    def find(self, slot: Slot) -> Initializer | None:
        return self.choose(slot)


class RuleSet(Sequence[Rule]):
    """Ordered rules with the name and the source of the scheme; ``+`` puts rules before or after them.

    >>> from tritoninit import Ones
    >>> [Rule("*.scale", Ones())] + RuleSet("empty", "nobody", [])
    RuleSet('empty', 1 rules)
    """

    def __init__(self, name: str, citation: str, rules: Iterable[Rule]) -> None:
        self.name = name
        self.citation = citation
        self._rules = tuple(rules)
        # Rules by name are looked up together; one of a class of its own may not go by its pattern.
        by_name = [
            k for k, rule in enumerate(self._rules) if type(rule) is Rule and isinstance(rule.pattern, str)
        ]
        self._by_name = by_name
        self._globs = Globs(str(self._rules[k].pattern) for k in by_name)
        self._others = sorted(set(range(len(self._rules))).difference(by_name))
        self._by_class: dict[type[nn.Module], list[int]] = {}

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> RuleSet:
        """The rules as a set; as they are if they are one."""
        if isinstance(rules, RuleSet):
            return rules
        listed = [] if isinstance(rules, (Rule, Mapping)) else list(rules)
        if isinstance(rules, (Rule, Mapping)) or not all(isinstance(rule, Rule) for rule in listed):
            raise TypeError(f"rules are a sequence of Rule, not {rules!r}")
        return cls("rules", "", listed)

    def find(self, slot: Slot) -> Initializer | None:
        """The initializer of the first rule that has one; None if there is none."""
        named = (self._by_name[k] for k in self._globs.matching(slot.name))
        for index in merge(self._not_by_name(type(slot.owner)), named):
            found = self._rules[index].find(slot)
            if found is not None:
                return found
        return None

    def _not_by_name(self, owner: type[nn.Module]) -> list[int]:
        """Which rules may have something for a module's parameters, whatever their names."""
        found = self._by_class.get(owner)
        if found is None:  # a model has many slots of few classes
            patterns = ((k, self._rules[k].pattern) for k in self._others)
            found = self._by_class[owner] = [
                k for k, kind in patterns if not isinstance(kind, type) or issubclass(owner, kind)
            ]
        return found

    @overload
    def __getitem__(self, index: int) -> Rule: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Rule, ...]: ...
    def __getitem__(self, index: int | slice) -> Rule | tuple[Rule, ...]:
        return self._rules[index]

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def __add__(self, after: Iterable[Rule]) -> RuleSet:
        return RuleSet(self.name, self.citation, (*self, *after))

    def __radd__(self, before: Iterable[Rule]) -> RuleSet:
        return RuleSet(self.name, self.citation, (*before, *self))

    def __repr__(self) -> str:
        return f"RuleSet({self.name!r}, {len(self)} rules)"
