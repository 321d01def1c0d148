"""Initialising one model again and again: all that depends on the model is done once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import nn

from tritoninit.combinators import Keep, key_name
from tritoninit.distributed.held import is_dtensor, local_of, writable
from tritoninit.fills import Initializer
from tritoninit.keys import Key
from tritoninit.model_initialization import asked, computed, drawn_apart
from tritoninit.models.materialize import as_whole, reshard
from tritoninit.models.placeholders import settle
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.models.scopes import Names, Scope
from tritoninit.models.slots import Selection, Slot, check_module, places
from tritoninit.models.walk import modules_of
from tritoninit.own_code import Computed, Own
from tritoninit.parametrized import assign
from tritoninit.plan import KeptPlan, Plan, Step
from tritoninit.rounding import NEAREST
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.targets import TargetError
from tritoninit.tracing.private import untraced
from tritoninit.window import Window
from tritoninit.windows import Windows


@untraced
def prepare(
    module: nn.Module,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    only: Selection | None = None,
    skip: Selection = (),
    prefix: Names = "",
    windows: Mapping[str, Window | Windows] | None = None,
    rounding: str = NEAREST,
) -> Prepared:
    """All of :func:`~tritoninit.initialize_` but the drawing, to be called with one seed after another.

    The arguments are those of ``initialize_``, as are the errors: rules are asked, tensors are checked and
    tables are built now. A parameter on the meta device has to get its memory first
    (``initialize_(..., device=...)``).

    Args:
        module: the model, or a part of one.
        rules: for its parameters, the first that matches first.
        only: these of the parameters, by name, glob or function.
        skip: all but these, said as ``only``.
        prefix: what the module is called in the whole model.
        windows: by name, which part of a global tensor a parameter is.
        rounding: "nearest", or "stochastic" (:class:`~tritoninit.StochasticallyRounded`).

    Returns:
        What draws them all, called with a seed.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`~tritoninit.initialize_`.

    >>> linear = nn.Linear(2, 3)
    >>> prepared = prepare(linear)
    >>> prepared(seed=1).weight.equal(prepared(seed=1).weight)
    True
    """
    check_module(module)
    scope = Scope(prefix, {} if windows is None else windows)
    return Prepared(module, RuleSet.of(rules), only, skip, scope, rounding)


class Prepared:
    """A model that is ready to be initialised: what :func:`prepare` returns, ``prepared(seed)``.

    A call does what ``initialize_(model, rules, seed=seed)`` does, the same bits, without the report. It
    costs the drawing: on a GPU a launch that hands kernels the seed and one for each distribution and dtype;
    a look at each tensor, too. Where one was replaced, moved or resized, or modules came or went, all is
    prepared anew first; what else rules look at (a module's attributes) is as it was when it was prepared.

    Structured initializers, parametrised weights and numbers that a model's own code computes are drawn anew
    by each call, and what lies in an engine's memory (FSDP1, ZeRO-3) is prepared anew.

    In a CUDA graph give a seed in device memory: each replay draws by what is there then. All that is
    captured are launches; a model with what is drawn anew cannot be, which is an error, and one that has been
    changed has to be prepared and captured again.

    Args:
        module: the model, or a part of one.
        rules: for its parameters.
        only: these of them.
        skip: all but these, said as ``only``.
        scope: what the module is called in the whole model, and which parts of tensors it holds.
        rounding: "nearest" or "stochastic".
    """

    def __init__(
        self,
        module: nn.Module,
        rules: RuleSet,
        only: Selection | None,
        skip: Selection,
        scope: Scope,
        rounding: str,
    ) -> None:
        self._module = module
        self._how = rules, only, skip, scope
        self._rounding = rounding
        self._prepare()

    def __repr__(self) -> str:
        anew = len(self._built) + len(self._own) + len(self._apart)
        return f"Prepared({type(self._module).__name__}: {self._count} fills kept, {anew} drawn anew)"

    @untraced
    def __call__(self, seed: int | torch.Tensor | None = None) -> nn.Module:
        """Initialise the model by a seed and return it.

        Args:
            seed: 64 bits; drawn from PyTorch's default CPU generator if None. Or an int64 tensor of one
                element, on the model's device, which is not waited for.

        Raises:
            TypeError: a seed is neither.
            ValueError: what :func:`~tritoninit.initialize_` would raise; nothing was written then.
            RuntimeError: a CUDA graph is captured, and cannot be.
        """
        seeds = _seeds(seed)
        reshard(self._module)
        if self._is_engines or not self._is_as_it_was():
            _refuse_in_graph("the model is another than the one that was prepared: prepare it again first")
            self._prepare()
        plan = self._anew(seeds) if self._built or self._own or self._apart else None
        self._kept.run(seeds)
        if plan is not None:
            plan.run()
        for each in self._afterwards:
            each()
        return self._module

    def _prepare(self) -> None:
        rules, only, skip, scope = self._how
        found, choice = asked(self._module, rules, only, skip, scope, rounding=self._rounding)
        named = {place for slot in choice.initializers if slot.is_buffer for place in places(slot)}
        self._found, self._named = found, named
        self._afterwards: list[Callable[[], None]] = []
        self._built: list[tuple[Slot, Initializer]] = []
        self._own: dict[Slot, Own] = {}
        self._apart: dict[Slot, Initializer] = {}
        steps: list[Step] = []
        for slot, how in choice.initializers.items():
            if isinstance(how, Keep):
                continue
            if slot.is_parametrized:
                self._apart[slot] = how
            elif isinstance(how, Computed):
                self._own[slot] = choice.own[slot]
            else:
                kept = kept_steps(slot, how, partial(_add, slot, how))
                if kept is None:
                    self._built.append((slot, how))
                else:
                    steps += kept
            if not slot.is_parametrized:
                self._follow(slot)
        self._count = len(steps)
        self._kept = KeptPlan(steps)
        self._is_engines = any(slot.shard is not None and slot.shard.parts is not None for slot in found)
        self._modules = [_held(each) for each in modules_of(self._module)]
        memory = [local_of(slot.memory) for slot in choice.initializers if not slot.is_parametrized]
        self._memory = [(x, _place(x)) for x in memory if not nn.parameter.is_lazy(x)]

    def _follow(self, slot: Slot) -> None:
        """What is to be done after a slot's memory was written."""
        if slot.shard is not None or is_dtensor(slot.tensor):
            self._afterwards.append(writable(slot.memory, slot.windows).changed)
        elif hasattr(slot.tensor, "ds_tensor"):
            self._afterwards.append(partial(settle, slot))

    def _is_as_it_was(self) -> bool:
        """Whether modules hold the same tensors, and those lie where they lay."""
        for module, children, parameters, buffers in self._modules:
            if not (
                _are(module._modules, children)
                and _are(module._parameters, parameters)
                and _are(module._buffers, buffers)
            ):
                return False
        return all(_place(tensor) == before for tensor, before in self._memory)

    def _anew(self, seeds: torch.Tensor | int) -> Plan:
        """What is drawn anew by each call, checked and yet to be written."""
        _refuse_in_graph("some of the model is drawn by way of the host: " + ", ".join(self._names_anew()))
        key, plan = Key(int(seeds)), Plan()
        with as_whole(self._found):
            values = computed(self._module, self._own, key, None, None, self._rounding)
        keys = {
            slot: key.fold_in(key_name(slot.name, how)) for slot, how in self._apart.items() if how.random
        }
        apart = drawn_apart(self._apart, keys, key, None, None, self._named)
        for slot, how in (*self._built, *values.items()):
            _add(slot, how, plan, key.fold_in(key_name(slot.name, how)) if how.random else key)
        for slot, (value, _) in apart.items():
            plan.afterwards(
                partial(assign, slot, value, keys.get(slot) or key.fold_in(slot.name), self._named)
            )
        return plan

    def _names_anew(self) -> list[str]:
        return [slot.name for slot in (*(slot for slot, _ in self._built), *self._own, *self._apart)]


def kept_steps(slot: Slot, how: Initializer, add: Callable[[Plan, Key], None]) -> list[Step] | None:
    """The steps that set a slot, whatever the seed; None where it is set by other means."""
    plans = []
    for seed in (0, 1):
        plan = Plan()
        key = Key(seed)
        add(plan, key.fold_in(key_name(slot.name, how)) if how.random else key)
        plans.append(plan)
    one, other = plans
    if one.size != len(one.steps) or other.size != one.size:
        return None
    for step, again in zip(one.steps, other.steps, strict=True):
        seed = 1 if step.fill.random else 0
        if step.draw._replace(seed=seed) != again.draw or step.backend is not again.backend:
            return None
    return one.steps


def _add(slot: Slot, how: Initializer, plan: Plan, key: Key) -> None:
    """Append what sets a slot that is known to be writable."""
    if slot.shard is not None or is_dtensor(slot.tensor):
        parts = writable(slot.memory, slot.windows).parts
        if parts:
            how.add_parts(plan, parts, key)
    else:
        how.add(plan, slot.tensor, key, Window.whole(slot.tensor.shape))


def _held(module: nn.Module) -> tuple[Any, list[Any], list[Any], list[Any]]:
    return module, [*module._modules.values()], [*module._parameters.values()], [*module._buffers.values()]


def _are(held: dict[str, Any], before: list[Any]) -> bool:
    """Whether what is held is what was there before."""
    return len(held) == len(before) and (not before or all(map(is_, held.values(), before)))


def _place(x: torch.Tensor) -> tuple[int, torch.Size, tuple[int, ...], torch.dtype, int]:
    return x.data_ptr(), x.shape, x.stride(), x.dtype, len(x.untyped_storage())


def _seeds(seed: int | torch.Tensor | None) -> torch.Tensor | int:
    if not isinstance(seed, torch.Tensor):
        return Key.from_generator().seed if seed is None else Key(seed).seed
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise TypeError(
            f"a seed is an integer, or one int64 in a tensor, not {seed.dtype} {tuple(seed.shape)}"
        )
    return seed.detach().reshape(1)


def _refuse_in_graph(why: str) -> None:
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise TargetError(f"a CUDA graph is captured, and {why}")
