"""Torch's, NumPy's and Python's own generators: seeded from a block's key, and put back at its end.

They are the process's, and blocks of several threads and tasks may be open at once. So each block has states
of its own, as has what is outside of all of them, and whoever is about to draw exchanges them first.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import mtrand  # whose stubs tell of all functions

from tritoninit.interception.private import (
    dispatch_modes,
    lazy_seeds,
    no_dispatch,
    outside_transforms,
    transforms_active,
)
from tritoninit.keys import Key


class _Source(Protocol):
    """Generators that are seeded, and kept and put back, together."""

    def seed(self, bits: int) -> None: ...
    def get(self) -> Any: ...
    def set(self, state: Any) -> None: ...


class _Torch:
    """PyTorch's default generator of the CPU."""

    def seed(self, bits: int) -> None:
        torch.default_generator.manual_seed(bits)

    def get(self) -> Any:
        return torch.default_generator.get_state()

    def set(self, state: Any) -> None:
        torch.default_generator.set_state(state)


class _Accelerator:
    """PyTorch's default generators of the accelerator's devices: CUDA, XPU, MPS, ...

    One that is not initialised stays so. Torch keeps the latest seeds until then: those are exchanged.
    """

    def seed(self, bits: int) -> None:
        module = accelerator()
        if module is None:
            return
        if _initialized(module):
            _seed_all(module, bits)
        elif (seeds := lazy_seeds(module)) is not None:
            seeds.queue_seed_all(partial(_seed_all, module, bits), [])

    def get(self) -> Any:
        module = accelerator()
        if module is None:
            return None
        if _initialized(module):
            return [generator.get_state() for generator in device_generators(module)]
        seeds = lazy_seeds(module)
        return None if seeds is None else _copied(vars(seeds))

    def set(self, state: Any) -> None:
        module = accelerator()
        if module is None or state is None:
            return
        if isinstance(state, list):
            for generator, each in zip(device_generators(module), state, strict=False):
                generator.set_state(each)
            return
        seeds = lazy_seeds(module)
        vars(seeds).update(_copied(state))
        if _initialized(module):  # since: seeded as it would have been without the block
            _seed_all(module, torch.Generator().initial_seed())
            for call in seeds.get_calls():
                if call:
                    call[0]()


class _NumPy:
    """The generator behind ``numpy.random``'s functions."""

    def seed(self, bits: int) -> None:
        if not isinstance(mtrand.get_bit_generator(), np.random.MT19937):
            mtrand.set_bit_generator(np.random.MT19937())
        np.random.seed([bits & 0xFFFFFFFF, bits >> 32])  # noqa: NPY002 - it is the legacy one

    def get(self) -> Any:
        return mtrand.get_bit_generator(), np.random.get_state(legacy=False)  # noqa: NPY002

    def set(self, state: Any) -> None:
        generator, inner = state
        if mtrand.get_bit_generator() is not generator:
            mtrand.set_bit_generator(generator)
        np.random.set_state(inner)  # noqa: NPY002


class _Python:
    """The generator behind ``random``'s functions."""

    def seed(self, bits: int) -> None:
        random.seed(bits)

    def get(self) -> Any:
        return random.getstate()

    def set(self, state: Any) -> None:
        random.setstate(state)


# By the name that is folded into the block's key.
_SOURCES: dict[str, _Source] = {
    "torch": _Torch(),
    "accelerator": _Accelerator(),
    "numpy": _NumPy(),
    "random": _Python(),
}


def accelerator() -> Any:
    """Torch's module of the accelerator that it was built for; None if there is none."""
    kind = torch.accelerator.current_accelerator()
    return None if kind is None else torch.get_device_module(kind)


def _initialized(module: Any) -> bool:
    return bool(getattr(module, "is_initialized", lambda: True)())


def device_generators(module: Any) -> Sequence[Any]:
    """The default generators of a device module's devices; empty before it is initialised."""
    if not _initialized(module):
        return ()
    found: Sequence[Any] | None = getattr(module, "default_generators", None)
    return (_OfModule(module),) if found is None else found


class _OfModule:
    """A device module's one generator, where torch shows no more of it than these functions (MPS)."""

    def __init__(self, module: Any) -> None:
        self.get_state: Callable[[], torch.Tensor] = module.get_rng_state
        self.set_state: Callable[[torch.Tensor], None] = module.set_rng_state
        self.manual_seed: Callable[[int], None] = module.manual_seed


def _seed_all(module: Any, bits: int) -> None:
    for generator in device_generators(module):
        generator.manual_seed(bits)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def _bits(key: Key) -> int:
    """64 bits that all of a key decides."""
    data = key.seed.to_bytes(8, "little") + key.stream.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class Share:
    """The states that are one block's, or of what is outside of all, while others have the generators."""

    def __init__(self) -> None:
        self._states: list[Any] = []

    def keep(self) -> None:
        self._states = [source.get() for source in _SOURCES.values()]

    def put(self) -> None:
        for source, state in zip(_SOURCES.values(), self._states, strict=True):
            source.set(state)
        self._states = []


OUTSIDE = Share()


class Turns:
    """Whose states the generators are in: only one share's at a time."""

    def __init__(self) -> None:
        self._holder = OUTSIDE
        self.lock = threading.RLock()

    def to(self, share: Share) -> None:
        """Put the generators in this share's states, and keep those of who had them."""
        with self.lock:
            if self._holder is not share:
                self._holder.keep()
                share.put()
                self._holder = share

    def begin(self, share: Share, key: Key) -> None:
        """A block's first turn: its generators come from its key."""
        with self.lock:
            self._holder.keep()
            self._holder = share
            for name, source in _SOURCES.items():
                source.seed(_bits(key.fold_in(name)))

    def end(self, share: Share, then: Share) -> None:
        """A block has no more turns, and goes on in ``then``."""
        with self.lock:
            if self._holder is share:
                then.put()
                self._holder = then

    @contextmanager
    def taken(self, share: Share, *, alone: bool) -> Iterator[None]:
        """This share's turn for the length of a call: ``alone`` if that waits for no other thread."""
        with self.lock if alone else nullcontext():
            self.to(share)
            yield

    def others(self, share: Share) -> tuple[object, ...] | None:
        """The states of NumPy's and Python's generators, to compare; None if it is not this share's turn."""
        with self.lock:
            if self._holder is not share:
                return None
            inner = np.random.get_state(legacy=False)  # noqa: NPY002
            state = inner["state"]
            return state["key"].tobytes(), state["pos"], inner["has_gauss"], random.getstate()


TURNS = Turns()


def torch_states() -> list[bytes]:
    """The states of torch's generators: one that draws has another afterwards."""
    module = accelerator()
    generators = (torch.default_generator, *(device_generators(module) if module else ()))
    if dispatch_modes() or transforms_active():
        with no_dispatch(), outside_transforms():
            return [generator.get_state().numpy().tobytes() for generator in generators]
    return [generator.get_state().numpy().tobytes() for generator in generators]
