"""Fills where torch traces: calls of ``torch.ops.tritoninit.*``, which ``tritoninit.ops`` defines.

A plain tensor in eager mode never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch.compiler import is_dynamo_compiling

from tritoninit.keys import Key
from tritoninit.targets import TargetError
from tritoninit.tracing.operators import OPERATOR_OF
from tritoninit.tracing.private import is_functional, is_stand_in, known, modes
from tritoninit.window import Window
from tritoninit.windows import Windows

T = TypeVar("T")


def is_traced(tensor: object) -> bool:
    """Whether torch watches what is done to tensors: torch.compile, or one of its dispatch modes."""
    return (is_dynamo_compiling() or modes() > 0) and isinstance(tensor, torch.Tensor)


def initialize(
    initializer: Any,
    tensor: T,
    generator: torch.Generator | None,
    key: Key | None,
    window: Window | Windows | None,
) -> T:
    """Set a tensor by an initializer's operator."""
    name, numbers = OPERATOR_OF[0](initializer)
    return fill(name, tensor, numbers, generator, key, window, initializer.random)


def apart(function: Callable[[], T]) -> T:
    """What a function returns where none of torch's modes is on: each is of a thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def is_empty(tensor: Any, window: Window | Windows | None) -> bool:
    """Whether the global tensor is known to have no element, while torch.compile traces."""
    return any(known(size == 0) for size in (tensor.shape if window is None else window.global_shape))


def fill(
    name: str,
    tensor: T,
    numbers: Sequence[Any],
    generator: torch.Generator | None = None,
    key: Key | None = None,
    window: Window | Windows | None = None,
    random: bool = True,
    rounding: str = "nearest",
) -> T:
    """Set a tensor by the operator of a name and return it.

    Without a key, 64 bits are drawn by each run, if it is ``random``.

    Raises:
        TargetError: a meta tensor, which would stay without values.
        TypeError: what is given is no tensor, no key or no window.
        ValueError: a key and a generator are given, or a generator under torch.compile.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"torch.compile has tensors set, not a {type(tensor)}")
    target: Any = tensor
    if target.device.type == "meta":
        raise TargetError("a meta tensor has no memory to fill: materialise it first (Module.to_empty)")
    options: dict[str, Any] = {} if rounding == "nearest" else {"rounding": rounding}
    if window is not None:
        if not isinstance(window, Window):
            raise TypeError(f"window must be a tritoninit.Window where torch traces, not {type(window)}")
        options["global_shape"] = list(window.global_shape)
        options["offsets"] = list(window.offsets)
    if key is not None:
        if generator is not None:
            raise ValueError("give a key or a generator, not both")
        if not isinstance(key, Key):
            raise TypeError(f"key must be a tritoninit.Key, not {type(key)}")
        options["key"] = [_signed(key.seed), _signed(key.stream)]
    bits = drawn(target, generator) if random and key is None else None
    # Not without gradients, in a block: what is exported has no name for a block that returns nothing.
    written = target.detach() if target.requires_grad else target
    set_in_place(name, written, (*numbers, bits), options)
    return tensor


def drawn(target: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """64 bits that each run draws anew, in a tensor."""
    # A tensor of its own keeps compilers from taking two draws for one, and has them restore a generator's
    # state where they compute something twice. Outside of its mode a fake tensor draws nothing either.
    fake = not is_dynamo_compiling() and not modes() and is_stand_in(target)
    own = (target.new_empty if fake else torch.empty)((), dtype=torch.int64, device="cpu")
    if generator is None:
        bits: torch.Tensor = torch.ops.tritoninit.draw(own)
        return bits
    if is_dynamo_compiling():
        raise ValueError(
            "torch.compile does not take a generator: give a key (key=Key.from_generator(generator), made"
            " outside of what is compiled), or none, for PyTorch's default generator"
        )
    bits = torch.ops.tritoninit.draw(own, generator=generator)
    return bits


def set_in_place(name: str, target: torch.Tensor, given: Sequence[Any], options: dict[str, Any]) -> None:
    """Call an operator that sets a tensor; or the one that makes another, which is then copied."""
    operators = torch.ops.tritoninit
    if not is_dynamo_compiling() and is_functional(target):
        target.copy_(getattr(operators, name)(target, *given, **options))
    else:
        getattr(operators, name + "_")(target, *given, **options)


def _signed(word: int) -> int:
    """64 bits as operators take them."""
    return word - 2**64 if word >= 2**63 else word
