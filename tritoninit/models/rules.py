"""Rules: which initializer a model's parameters and buffers get, by module class, name or meaning."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

from torch import nn

from tritoninit import toml
from tritoninit.documents import KNOWN, as_data, for_people, initializer_of
from tritoninit.fills import Atom, Initializer
from tritoninit.models.globs import Globs, compiled
from tritoninit.plan import KeySource, Plan
from tritoninit.targets import Target
from tritoninit.window import Window

if TYPE_CHECKING:
    from tritoninit.models.slots import Slot

Pattern: TypeAlias = "type[nn.Module] | str | Callable[[str, nn.Module], bool]"
Initializers: TypeAlias = (
    "Initializer | Mapping[str, Initializer] | Callable[[nn.Module], Mapping[str, Initializer]]"
)


@dataclass(frozen=True)
class ClassNamed:
    """A pattern: the class has one of ``parts`` in its name."""

    parts: tuple[str, ...]

    def __call__(self, name: str, module: nn.Module) -> bool:
        kind: Any = type(module)
        return self.of(kind)

    def of(self, kind: Any) -> bool:
        return _has_in_name(kind.__name__, self.parts)


@lru_cache(maxsize=4096)
def _has_in_name(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


@dataclass(frozen=True)
class Rule:
    """Which parameters, and how to set them.

    Args:
        pattern: a module class (subclasses too), a glob on a parameter's qualified name
            ("*.c_proj.weight"), or a function of (qualified parameter name, owning module).
        initializers: one for every parameter that matches, or a mapping from the parameter's own name
            ("weight", "bias") in its module, or a function of the module that returns such a mapping.
        within: a module class; only what lies somewhere inside a module of it matches.
        optional: it may match nothing, as in rules for many models; of others the report says so. Rules of a
            :class:`RuleSet` with a citation are optional.

    A parameter that the mapping leaves out falls through to the next rule. Buffers are set only where a
    mapping names them ("running_mean").

    Raises:
        TypeError: a pattern, or an initializer, that is none.
    """

    pattern: Pattern
    initializers: Initializers
    within: type[nn.Module] | None = None
    optional: bool = field(default=False, kw_only=True, compare=False, repr=False)

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
        """The initializer for a parameter or buffer; None if the rule has none.

        Args:
            slot: one of a model's parameters or buffers.

        Returns:
            The initializer, or None.
        """
        return self.given(slot) if self._matches(slot) else None

    def given(self, slot: Slot) -> Initializer | None:
        """What it has for a parameter or buffer that matches.

        Args:
            slot: one of a model's parameters or buffers.

        Returns:
            The initializer; None if the rule has none.

        Raises:
            TypeError: a function gave no mapping, or a mapping no initializer.
        """
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

    def idle(self, found: Iterable[Slot]) -> list[str]:
        """What of the rule, a glob or keys of a mapping, is about none of a model's slots, in words.

        Args:
            found: the model's slots.

        Returns:
            One string each.
        """
        if self.optional:
            return []
        for_buffers = not isinstance(self.initializers, Initializer)
        matching = [slot for slot in found if (for_buffers or not slot.is_buffer) and self._matches(slot)]
        if not matching:
            return [f"the rule {self.pattern!r}"] if isinstance(self.pattern, str) else []
        if not isinstance(self.initializers, Mapping):
            return []
        owners = {id(slot.owner): slot.owner for slot in matching}.values()
        known = {name for owner in owners for held in (owner._parameters, owner._buffers) for name in held}
        known |= {slot.local for slot in matching}
        pattern = self.pattern.__name__ if isinstance(self.pattern, type) else repr(self.pattern)
        return [f"the key {key!r} of the rule for {pattern}" for key in self.initializers if key not in known]

    def _matches(self, slot: Slot) -> bool:
        if isinstance(self.pattern, type):
            matches = isinstance(slot.owner, self.pattern)
        elif isinstance(self.pattern, str):
            matches = slot.name == self.pattern or compiled(self.pattern).match(slot.name) is not None
        else:
            matches = self.pattern(slot.name, slot.owner)
        return matches and self._lies_within(slot)

    def _lies_within(self, slot: Slot) -> bool:
        return self.within is None or any(isinstance(m, self.within) for m in slot.ancestors)


@dataclass(frozen=True)
class OwnCode(Atom):
    """Whatever the model's own code does to a parameter; if that is nothing, the next rule's turn.

    Args:
        last: any other rule goes before it, those after it too.
        code: which it has to be, "Llama._init_weights", for there to be no error; any if it is empty.
    """

    code: str = field(default="", kw_only=True)
    last: bool = field(default=False, compare=False, kw_only=True)

    def check(self, target: Target, window: Window) -> None:
        raise NotImplementedError("a model's own code is for initialize_ to call, and as it is")

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)

    def times(self, factor: float) -> Atom:
        raise NotImplementedError("what a model's own code does has no factor")


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

    def idle(self, found: Iterable[Slot]) -> list[str]:
        return []


class RuleSet(Sequence[Rule]):
    """Ordered rules with the name and the source of the scheme; ``+`` puts rules before or after them.

    Args:
        name: the scheme's.
        citation: its source; empty of your own.
        rules: of which the first that has an initializer for a parameter gives it.

    >>> from tritoninit import Ones
    >>> [Rule("*.scale", Ones())] + RuleSet("empty", "nobody", [])
    RuleSet('empty', 1 rules)
    """

    def __init__(self, name: str, citation: str, rules: Iterable[Rule]) -> None:
        self.name = name
        self.citation = citation
        self._rules = tuple(replace(rule, optional=True) if citation else rule for rule in rules)
        # Rules by name are looked up together; one of a class of its own may not go by its pattern.
        by_name = [
            k
            for k, rule in enumerate(self._rules)
            if type(rule) is Rule and isinstance(rule.pattern, str) and rule.pattern != "*"
        ]
        self._by_name = by_name
        self._globs = Globs(str(self._rules[k].pattern) for k in by_name)
        self._others = sorted(set(range(len(self._rules))).difference(by_name))
        # Those that match, if they lie where they are to, once they are candidates.
        self._matching = frozenset(
            k
            for k, rule in enumerate(self._rules)
            if type(rule) is Rule
            and _goes_by_class_or_name(rule.pattern)
            and (rule.within is None or _goes_by_class_or_name(rule.within))
        )
        self._by_class: dict[type[nn.Module], _OfClass] = {}

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> RuleSet:
        """The rules as a set; as they are if they are one.

        Args:
            rules: a sequence of them.

        Returns:
            The set.

        Raises:
            TypeError: something else than rules is among them.
        """
        if isinstance(rules, RuleSet):
            return rules
        listed = [] if isinstance(rules, (Rule, Mapping)) else list(rules)
        if isinstance(rules, (Rule, Mapping)) or not all(isinstance(rule, Rule) for rule in listed):
            raise TypeError(f"rules are a sequence of Rule, not {rules!r}")
        return cls("rules", "", listed)

    def find(self, slot: Slot, *, own_code: bool = True) -> Initializer | None:
        """The initializer of the first rule that has one; None if there is none.

        Args:
            own_code: False to pass over the rules that leave it to the model's own code.
            slot: one of a model's parameters or buffers.

        Returns:
            The initializer, or None.
        """
        return self._decided(slot, own_code=own_code)[0]

    def _decided(self, slot: Slot, *, own_code: bool = True) -> tuple[Initializer | None, bool]:
        """What :meth:`find` finds, and whether it is so of all that are like the slot.

        That is, of those with an owner of the same class, within the same ones of the classes that rules
        want around it, of the same own name, and of whose full name the same globs are. No function was
        asked then, nor a mapping of a class of its own, which may look at anything.
        """
        fallback, lasts = None, True
        for index in self._candidates(type(slot.owner), self._named(slot.name)):
            rule = self._rules[index]
            if index in self._matching:
                if rule.within is not None and not rule._lies_within(slot):
                    continue
                how = rule.initializers
                lasts = lasts and (type(how) is dict or isinstance(how, Initializer))
                found = how.get(slot.local) if type(how) is dict else rule.given(slot)
                if found is None:
                    continue
                if not isinstance(found, Initializer):
                    found = rule.given(slot)  # which says so
            else:
                lasts = False
                found = rule.find(slot)
                if found is None:
                    continue
            if not isinstance(found, OwnCode) or (own_code and not found.last):
                return found, lasts
            fallback = found if own_code else None
        return fallback, lasts

    def _named(self, name: str) -> tuple[int, ...]:
        """The places of the rules of which the glob is about a name, in order."""
        if not self._by_name or self._globs.none_matches(name):
            return ()
        return tuple([self._by_name[k] for k in self._globs.matching(name)])

    @cached_property
    def _withins(self) -> tuple[type[nn.Module], ...]:
        """The classes of which rules want a module around what they are about."""
        wanted = (self._rules[k].within for k in sorted(self._matching))
        return tuple(dict.fromkeys(each for each in wanted if each is not None))

    def _candidates(self, owner: type[nn.Module], named: tuple[int, ...]) -> Iterable[int]:
        """The places of the rules that may have something for a slot, by its owner's class and its name."""
        others = self._not_by_name(owner)
        return sorted((*others, *named)) if others and named else named or others

    def _not_by_name(self, owner: type[nn.Module]) -> list[int]:
        """Which rules may have something for a module's parameters, whatever their names."""
        found = self._by_class.get(owner)
        # A class may be called otherwise by now, or derived from others.
        if found is None or found.name != owner.__name__ or found.bases is not owner.__mro__:
            if len(self._by_class) >= _MOST_CLASSES:  # of many models: a parametrised module has its own
                self._by_class.clear()
            places = [k for k in self._others if _may_match(self._rules[k].pattern, owner)]
            found = self._by_class[owner] = _OfClass(owner.__name__, owner.__mro__, places)
        return found.places

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

    def idle(self, found: Sequence[Slot], given: Iterable[Initializer | None]) -> Iterator[str]:
        """What of the rules is about none of a model's slots, in words.

        Args:
            found: the slots.
            given: the initializers that the rules have for them.

        Returns:
            One string each.
        """
        if all(rule.optional for rule in self._rules):
            return
        used = set(map(id, given))
        holders = Counter(id(rule.initializers) for rule in self)
        unknown = [  # the others were of use, without a look at every name
            k
            for k, rule in enumerate(self)
            if not (rule.optional or (id(rule.initializers) in used and holders[id(rule.initializers)] == 1))
        ]
        named: dict[int, list[Slot]] = {k: [] for k in set(unknown) & set(self._by_name)}
        for slot in found if named else ():
            for place in self._globs.matching(slot.name):
                if (k := self._by_name[place]) in named:
                    named[k].append(slot)
        for k in unknown:
            yield from self._rules[k].idle(named.get(k, found))

    def to_json(self) -> str:
        """The rules as a JSON document that a person can read and edit; :meth:`from_json` gives them back.

        Numbers are exact. An initializer is its class's name with its arguments, a rule one line.

        Returns:
            The document.

        Raises:
            ValueError: a rule goes by a class or a function, or holds an initializer of somebody else's.
        """
        lines = [json.dumps(_as_data(rule), ensure_ascii=False, allow_nan=False) for rule in self]
        head = {"format": _FORMAT, "version": _VERSION, "name": self.name, "citation": self.citation}
        words = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
        body = ",\n".join(f"  {line}" for line in lines)
        return f'{words},\n "rules": [\n{body}\n ]\n}}\n' if lines else f'{words},\n "rules": []\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> RuleSet:
        """The rules of a document that :meth:`to_json` wrote, or a person did.

        Args:
            text: the document.

        Returns:
            The rules.

        Raises:
            ValueError: it is none, of another version, or says something that this release does not know.
        """
        try:
            data = json.loads(text, object_pairs_hook=_once)
        except RecursionError as error:
            raise ValueError("not a document of rules: it is too deep") from error
        return cls._of_document(data)

    def to_toml(self) -> str:
        """The same document as :meth:`to_json` in TOML, which takes comments; :meth:`from_toml` reads it.

        Returns:
            The document.

        Raises:
            ValueError: as :meth:`to_json`.

        >>> from tritoninit import Normal
        >>> print(RuleSet("mine", "", [Rule("*.weight", Normal(0.0, 0.02))]).to_toml())
        format = "tritoninit rules"
        version = 1
        name = "mine"
        citation = ""
        <BLANKLINE>
        [[rules]]
        for = "*.weight"
        set = {Normal = {mean = 0.0, std = 0.02}}
        <BLANKLINE>
        """
        rules = [for_people(_as_data(rule), _KNOWN) for rule in self]
        head = {"format": _FORMAT, "version": _VERSION, "name": self.name, "citation": self.citation}
        return toml.dumps({**head, "rules": rules})

    @classmethod
    def from_toml(cls, text: str) -> RuleSet:
        """The rules of a document that :meth:`to_toml` wrote, or a person did.

        Args:
            text: the document.

        Returns:
            The rules.

        Raises:
            ValueError: as :meth:`from_json`.
        """
        return cls._of_document(toml.loads(text))

    @classmethod
    def _of_document(cls, data: Any) -> RuleSet:
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f'not a document of rules: "format" is to be {_FORMAT!r}')
        if data.get("version") != _VERSION:
            raise ValueError(f"version {data.get('version')!r} of {_FORMAT}: this release knows {_VERSION}")
        unknown = data.keys() - {"format", "version", "name", "citation", "rules"}
        if unknown or not isinstance(data.get("rules"), list):
            raise ValueError(f'{_FORMAT} has a list "rules", and no {", ".join(sorted(unknown)) or "other"}')
        found = cls(str(data.get("name", "rules")), "", map(_of_data, data["rules"], count(1)))
        found.citation = str(data.get("citation", ""))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` to a file, or :meth:`to_toml` if its name ends in ".toml".

        Args:
            path: of the file, which is written anew.

        Raises:
            ValueError: as :meth:`to_json`.
        """
        text = self.to_toml() if _is_toml(path) else self.to_json()
        Path(path).write_text(text, encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RuleSet:
        """The rules of a file that :meth:`save` wrote, TOML if its name ends in ".toml".

        Args:
            path: of the file.

        Returns:
            The rules.

        Raises:
            OSError: there is no such file.
            ValueError: as :meth:`from_json`, with the file's name.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
            return cls.from_toml(text) if _is_toml(path) else cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def __add__(self, after: Iterable[Rule]) -> RuleSet:
        return self._joined((*self, *after))

    def __radd__(self, before: Iterable[Rule]) -> RuleSet:
        return self._joined((*before, *self))

    def _joined(self, rules: Iterable[Rule]) -> RuleSet:
        joined = RuleSet(self.name, "", rules)  # those added are none of the cited ones
        joined.citation = self.citation
        return joined

    def __eq__(self, other: object) -> bool:
        """Whether the rules are the same, in the same order; the name is for people."""
        return self._rules == other._rules if isinstance(other, RuleSet) else NotImplemented

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"RuleSet({self.name!r}, {len(self)} rules)"

    def __str__(self) -> str:
        """A line for each rule."""
        return "\n".join(map(_line, self._rules))


class Finder:
    """:meth:`RuleSet.find` of one model's slots after another, in one call: of many that are alike, once.

    Args:
        rules: which nobody changes meanwhile, but for functions among them.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._is_by_name, self._no_glob_of = bool(rules._by_name), rules._globs.none_matches
        # What is known of slots in a module, by the id of its ancestors, which slots keep; and in its like.
        self._within: dict[int, _Known] = {}
        self._of: dict[tuple[Any, ...], _Known] = {}

    def find(self, slot: Slot) -> Initializer | None:
        """The initializer of the first rule that has one; None if there is none."""
        known = self._within.get(id(slot.ancestors))
        if known is None:
            known = self._within[id(slot.ancestors)] = self._alike(slot.ancestors)
        like: Any = (slot.local,) if slot.is_buffer else slot.local
        if self._is_by_name and not self._no_glob_of(slot.name):
            like = like, self._rules._named(slot.name)
        if like in known:
            return known[like]
        found, lasts = self._rules._decided(slot)
        if lasts:
            known[like] = found
        return found

    def _alike(self, ancestors: tuple[nn.Module, ...]) -> _Known:
        around: tuple[bool, ...] = ()
        kinds = self._rules._withins
        if kinds and any(map(isinstance, ancestors, repeat(kinds))):  # as few are
            around = tuple(any(map(isinstance, ancestors, repeat(kind))) for kind in kinds)
        return self._of.setdefault((type(ancestors[-1]), around), {})


# What was found, by a slot's own name, whether it is a buffer, and the rules of which the glob is about it.
_Known: TypeAlias = "dict[Any, Initializer | None]"


def _line(rule: Rule) -> str:
    pattern = rule.pattern if isinstance(rule.pattern, str) else getattr(rule.pattern, "__name__", "")
    within = f" within {rule.within.__name__}" if rule.within is not None else ""
    how = rule.initializers
    if isinstance(how, Mapping):
        words = ", ".join(f"{name}: {each}" for name, each in how.items())
        return f"{pattern or repr(rule.pattern)}{within}: {{{words}}}"
    return f"{pattern or repr(rule.pattern)}{within}: {how}"


def _is_toml(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() == ".toml"


class _OfClass(NamedTuple):
    """Which rules may have something for modules of a class, and what that was known of the class."""

    name: str
    bases: tuple[type, ...]
    places: list[int]


def _goes_by_class_or_name(pattern: Pattern) -> bool:
    """Whether a module's class, or a parameter's name, decides what a pattern matches."""
    if isinstance(pattern, type):  # whose own class may say of each module whether it is one
        return type(pattern).__instancecheck__ is type.__instancecheck__
    return isinstance(pattern, (str, ClassNamed))


def _may_match(pattern: Pattern, owner: type[nn.Module]) -> bool:
    """Whether a pattern may match parameters of modules of a class, as far as that decides."""
    if not _goes_by_class_or_name(pattern):
        return True
    if isinstance(pattern, type):
        return issubclass(owner, pattern)
    return not isinstance(pattern, ClassNamed) or pattern.of(owner)


_MOST_CLASSES = 1024
_FORMAT = "tritoninit rules"
_VERSION = 1
_KNOWN: Mapping[str, type[Any]] = {**KNOWN, "OwnCode": OwnCode}


def _as_data(rule: Rule) -> dict[str, Any]:
    """A rule as a document has it.

    Raises:
        ValueError: it has no form there.
    """
    no_form = f"the rule for {rule.pattern!r} has no form in a document"
    if type(rule) is not Rule or not isinstance(rule.pattern, str) or rule.within is not None:
        raise ValueError(f"{no_form}: only those by name or glob have")
    found: dict[str, Any] = {"for": rule.pattern}
    try:
        if isinstance(rule.initializers, Initializer):
            found["set"] = as_data(rule.initializers, _KNOWN)
        elif isinstance(rule.initializers, Mapping):
            found["set each"] = {name: as_data(each, _KNOWN) for name, each in rule.initializers.items()}
        else:
            raise ValueError("what a function chooses has none")
    except ValueError as error:
        raise ValueError(f"{no_form}: {error}") from error
    return {**found, "optional": True} if rule.optional else found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which nothing is said twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{name!r} is there twice")
    return found


def _of_data(data: Any, number: int) -> Rule:
    """The rule of that number, from a document."""
    try:
        if not isinstance(data, dict) or not isinstance(data.get("for"), str):
            raise ValueError('it needs a name or a glob, "for"')
        if ("set" in data) == ("set each" in data) or data.keys() - {"for", "set", "set each", "optional"}:
            raise ValueError('it has "for", "set" or "set each", and perhaps "optional"')
        if "set" in data:
            how: Initializers = initializer_of(data["set"], _KNOWN)
        elif not isinstance(data["set each"], dict):
            raise ValueError('"set each" has initializers by name')
        else:
            how = {str(name): initializer_of(each, _KNOWN) for name, each in data["set each"].items()}
        optional = data.get("optional", False)
        if not isinstance(optional, bool):
            raise ValueError('"optional" is true or false')
        return Rule(data["for"], how, optional=optional)
    except (ValueError, RecursionError) as error:
        where = data.get("for") if isinstance(data, dict) else None
        raise ValueError(f"rule {number}{f', for {where}' if where else ''}: {error}") from error
