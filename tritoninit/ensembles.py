"""Many members of one model, as torch.func has them: each parameter stacked along a first dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from torch import nn

from tritoninit.combinators import Keep, key_name
from tritoninit.fills import Initializer
from tritoninit.keys import Key
from tritoninit.model_initialization import Choice, asked, initialize_
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.models.scopes import WHOLE
from tritoninit.models.slots import Selection, Slot, check_module
from tritoninit.own_code import Computed
from tritoninit.plan import KeptPlan, Plan, Step
from tritoninit.prepared import kept_steps
from tritoninit.rounding import NEAREST
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.tracing.private import untraced
from tritoninit.window import Window


@untraced
def ensemble(
    module: nn.Module,
    seeds: Sequence[int] | torch.Tensor,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    only: Selection | None = None,
    skip: Selection = (),
    rounding: str = NEAREST,
    out: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """The parameters and buffers of many members of one model, stacked, by the names that the model has.

    Member i is what ``initialize_(model, rules, seed=seeds[i])`` makes of the model, bit for bit. The model
    stays as it is. As ``torch.func.functional_call`` and ``torch.vmap`` take them::

        members = ti.ensemble(model, range(64))
        outputs = torch.vmap(torch.func.functional_call, (None, 0, None))(model, members, (x,))

    All members are drawn together: one launch on a GPU for each distribution and dtype. Structured
    initializers are built member by member; so is all of a model that has parametrised weights, weights of
    which numbers are computed by its own code, or parts of sharded ones.

    Args:
        module: the model, whose tensors have memory; members get theirs on the same devices.
        seeds: integers, or int64 in a tensor of one dimension; one a member.
        rules: as for :func:`~tritoninit.initialize_`.
        only: likewise; the others are the model's own in every member.
        skip: likewise.
        rounding: likewise.
        out: what an earlier call gave for as many members, to be written anew: on a CPU new memory takes
            longer than what is drawn into it.

    Returns:
        By name tensors [members, *shape]; those of parameters require a gradient where the model's do. Tied
        ones are there once. ``out`` itself, if it is given.

    Raises:
        TypeError: a seed is no integer.
        ValueError: what :func:`~tritoninit.initialize_` would raise, no seed is given, or a tensor of ``out``
            is missing, of another shape, dtype or device, or not contiguous.

    >>> members = ensemble(nn.Linear(2, 3), seeds=range(4))
    >>> {name: tuple(x.shape) for name, x in members.items()}
    {'weight': (4, 3, 2), 'bias': (4, 3)}
    """
    check_module(module)
    numbers = _numbers(seeds)
    rules = RuleSet.of(rules)
    found, choice = asked(module, rules, only, skip, WHOLE, rounding=rounding)
    count = len(numbers)
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    members_of = {
        name: _empty(x, count) if out is None else _checked(out, name, x, count) for name, x in held.items()
    }
    if any(_is_unusual(slot, choice) for slot in found):
        _one_by_one(module, numbers, rules, only, skip, rounding, members_of)
    else:
        _together(found, choice, numbers, {id(x): members_of[name] for name, x in held.items()})
    if out is not None:
        return out
    return {name: members.requires_grad_(held[name].requires_grad) for name, members in members_of.items()}


def _together(
    found: Iterable[Slot],
    choice: Choice,
    numbers: np.typing.NDArray[np.uint64],
    members_of: dict[int, torch.Tensor],
) -> None:
    """Draw all members, by the ids of the model's tensors, at once."""
    count = len(numbers)
    steps: list[Step] = []
    strides: list[int] = []
    built = Plan()
    for slot in found:
        how, model_s = choice.initializers.get(slot), slot.tensor
        members = members_of[id(model_s)]
        kept = [] if how is None or isinstance(how, Keep) else _steps(slot, how, members)
        if how is None or isinstance(how, Keep) or (kept and _is_partial(how, slot)):
            members.copy_(model_s.detach().expand_as(members))
        if kept is None and how is not None:
            _build(built, slot, how, members, numbers)
        else:
            steps += kept or ()
            strides += [members.stride(0) * members.itemsize] * len(kept or ())
    KeptPlan(steps, strides, count).run(torch.from_numpy(numbers.view(np.int64)))
    built.run()


def _numbers(seeds: Sequence[int] | torch.Tensor) -> np.typing.NDArray[np.uint64]:
    """The seeds, modulo 2**64."""
    if isinstance(seeds, torch.Tensor):
        if seeds.dtype != torch.int64 or seeds.dim() != 1:
            raise TypeError(f"seeds are int64 in one dimension, not {seeds.dtype} {tuple(seeds.shape)}")
        found = seeds.detach().cpu().contiguous().numpy().view(np.uint64)
    else:
        listed = seeds if isinstance(seeds, range) else list(seeds)
        try:
            plain = isinstance(listed, range) or set(map(type, listed)) <= {int}
            if isinstance(listed, range):  # as a list of its numbers, sooner
                found = np.arange(listed.start, listed.stop, listed.step, dtype=np.int64).view(np.uint64)
            else:
                found = np.array(listed if plain else [], np.int64).view(np.uint64)
        except OverflowError:  # beyond 63 bits
            plain = False
        if not plain:
            found = np.array([Key(each).seed for each in listed], np.uint64)
    if not len(found):
        raise ValueError("an ensemble has at least one member: give seeds")
    return found


def _checked(out: dict[str, torch.Tensor], name: str, tensor: torch.Tensor, count: int) -> torch.Tensor:
    """The memory that is given for members of a tensor."""
    wanted = ((count, *tensor.shape), tensor.dtype, tensor.device)
    given = out.get(name)
    if given is None:
        raise ValueError(f"out has no {name!r}")
    if (tuple(given.shape), given.dtype, given.device) != wanted or not given.is_contiguous():
        raise ValueError(
            f"out[{name!r}] is to be contiguous, {wanted[1]} {wanted[0]} on {wanted[2]}, not {given.dtype} "
            f"{tuple(given.shape)} on {given.device}"
        )
    return given.detach()


def _is_unusual(slot: Slot, choice: Choice) -> bool:
    how = choice.initializers.get(slot)
    return (
        slot.is_parametrized
        or slot.shard is not None
        or isinstance(how, Computed)
        or hasattr(slot.tensor, "__tensor_flatten__")
    )


def _empty(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Memory for so many, each as a new tensor of the shape lies: on a grid of 16 bytes if the first does."""
    return torch.empty((count, *tensor.shape), dtype=tensor.dtype, device=tensor.device)


def _steps(slot: Slot, how: Initializer, members: torch.Tensor) -> list[Step] | None:
    first = members[0]
    return kept_steps(slot, how, partial(_add, how, first))


def _add(how: Initializer, member: torch.Tensor, plan: Plan, key: Key) -> None:
    how.add(plan, member, key, Window.whole(member.shape))


def _is_partial(how: Initializer, slot: Slot) -> bool:
    """Whether some of a slot's elements stay as they are."""
    return any(isinstance(piece.initializer, Keep) for piece in how.pieces(slot.shape))


def _build(
    plan: Plan, slot: Slot, how: Initializer, members: torch.Tensor, seeds: np.typing.NDArray[np.uint64]
) -> None:
    """Append what is built member by member."""
    if _is_partial(how, slot):
        members.copy_(slot.tensor.detach().expand_as(members))
    name = key_name(slot.name, how)
    for member, seed in zip(members, seeds.tolist(), strict=True):
        key = Key(seed)
        _add(how, member, plan, key.fold_in(name) if how.random else key)


def _one_by_one(
    module: nn.Module,
    seeds: np.typing.NDArray[np.uint64],
    rules: RuleSet,
    only: Selection | None,
    skip: Selection,
    rounding: str,
    members_of: dict[str, torch.Tensor],
) -> None:
    """The same of a model that a stack of fills does not make."""
    copy = deepcopy(module)
    theirs = dict(copy.named_parameters()) | dict(copy.named_buffers())
    before = {name: each.detach().clone() for name, each in theirs.items()}
    for number, seed in enumerate(seeds.tolist()):
        with torch.no_grad():
            for name, each in theirs.items():
                each.copy_(before[name])
        initialize_(copy, rules, seed=seed, only=only, skip=skip, rounding=rounding)
        for name, each in theirs.items():
            members_of[name][number] = each.detach()
