"""The way of a call under ``intercept``: seen, recorded as a fill, run when somebody looks; or passed on."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from tritoninit import registry
from tritoninit.auditing.assignments import TORCH, Assignment
from tritoninit.distributed.held import is_dtensor, local_of, writable
from tritoninit.fills import Constant, Initializer, TruncatedNormal, sole_fill
from tritoninit.initializers import Zeros
from tritoninit.interception.asked import Asked, Drawn, Unrecordable, as_given, rules_of
from tritoninit.interception.calls import (
    COPIES,
    HANDED_OUT,
    INTO,
    NEVER_DRAWS,
    OVERWRITES,
    SETS_DATA,
    WITHOUT_HISTORY,
    check_type,
    describe,
    is_basic,
    is_empty,
    is_number,
    number,
    reaches_further,
    reads_nothing,
    tensors_among,
)
from tritoninit.interception.filled import (
    DrawnByTorch,
    Filled,
    Told,
    drawn_by_torch,
    is_drawn_by_torch,
    with_parts,
)
from tritoninit.interception.generators import OUTSIDE, TURNS, Share, torch_states
from tritoninit.interception.intercepted import ROUTES, Intercepted, PassedOn
from tritoninit.interception.libraries import DEVICES, LIBRARIES
from tritoninit.interception.private import (
    ENGINE,
    DisableTorchFunction,
    StorageWeakRef,
    no_dispatch,
    outside_transforms,
    storage_address,
    storage_behind,
    version,
)
from tritoninit.interception.regions import Region, storage_key
from tritoninit.interception.served import FIXED, FUNCTIONS, METHODS
from tritoninit.keys import Key
from tritoninit.mapped import Independent
from tritoninit.models.rules import RuleSet
from tritoninit.models.slots import Slot, slots
from tritoninit.plan import Plan
from tritoninit.targets import LostError, ShortError, as_target, is_computed
from tritoninit.window import Window

# How initializers and checks say no; anything else is a failure.
REFUSALS = (TypeError, ValueError, OverflowError, NotImplementedError)

_FEWEST_SWEPT = 1024  # storages that are known, before those that are gone are looked for
_MOST_PENDING = 64  # on one storage: each new fill is compared with all of them

_CHANGED = "increment_version"  # by which kernels, this library's too, tell that they write to a tensor
ROUTES.add(torch.autograd.graph, (ENGINE, _CHANGED))
_ASKS = {f"{library}.{name}" for library, name in DEVICES.items()}
_PARAMETRIZED = "forward"  # by which a parametrised weight is computed
ROUTES.add(ParametrizationList, (_PARAMETRIZED,))


class Recorder(Intercepted):
    """One block's calls, and what became of them."""

    def __init__(self, key: Key, outer: Recorder | None = None, *, aloud: bool = True) -> None:
        self.key = key
        self._aloud = aloud
        self.generators = Share()
        self.thread = threading.get_ident()
        self.passed_on: list[PassedOn] = []
        self._random_fills = 0
        self._random_draws = 0
        # By address of storage, which is no one else's while a weak reference to it lives.
        self._storages: dict[int, Any] = dict(outer._storages) if outer else {}
        self._parameters: set[int] = set(outer._parameters) if outer else set()
        self._handed_out: set[int] = set(outer._handed_out) if outer else set()
        # Of what is computed anew when it is needed, such as parametrised weights.
        self._computed: set[int] = set(outer._computed) if outer else set()
        self._pending: dict[int, list[Filled]] = {}
        # The latest change of each region, oldest first; None where it was not a fill of ours. What an outer
        # intercept tells of is watched for it, too.
        self._history: dict[int, dict[Region, Filled | None]] = (
            {key: {} for key in outer._history} if outer else {}
        )
        self._drawn: set[int] = set()  # the storages that may hold what torch drew
        self._most_storages = _FEWEST_SWEPT
        self._silent = False  # torch is at work, and on its own
        self._at_once = False  # torch is at work, and calls back: nothing may stay pending
        self.closed = False

    @property
    def pending(self) -> int:
        return sum(map(len, self._pending.values()))

    def is_pending(self, tensor: Tensor) -> bool:
        with DisableTorchFunction():
            return storage_key(tensor) in self._pending

    def flush(self) -> None:
        self._run(list(self._pending))

    def begin(self) -> None:
        """The block is open."""

    def forget(self) -> None:
        """Let go of what is of use in the block alone."""

    def assignments(self, model: nn.Module) -> tuple[Assignment, ...]:
        with DisableTorchFunction():
            set_here = [slot for slot in slots(model) if not nn.parameter.is_lazy(slot.tensor)]
            told = [self._told(slot.name, slot.tensor) for slot in set_here]
        return tuple(each for each in told if each is not None)

    def rules(self, model: nn.Module) -> RuleSet:
        with DisableTorchFunction():
            return rules_of(model, self._asked)

    def _asked(self, slot: Slot) -> Asked:
        """What was asked for; numbers that nobody drew are as they are."""
        tensor = slot.tensor
        if nn.parameter.is_lazy(tensor):
            raise Unrecordable("it has no shape yet")
        if not tensor.numel():
            return Asked(Zeros())
        told = self._told(slot.name, tensor)
        key = storage_key(tensor)
        if told is None and self._history.get(key or 0):
            raise Unrecordable("it was computed from what was drawn: build it under ti.record()")
        if told is not None:
            if isinstance(told.initializer, Told):
                raise Unrecordable(f"{told.initializer}: build it under ti.record()")
            here = Region.of(tensor)
            if told.key is None or here not in self._history[key or 0]:
                return Asked(told.initializer)
            return Asked(told.initializer, (Drawn(hash(told.key), (0, 1)),))  # copies have the key
        if tensor.is_meta or key is None:
            raise Unrecordable("it has no memory: build it under ti.record()")
        return Asked(as_given(tensor))

    def _told(self, name: str, tensor: Tensor) -> Assignment | None:
        local = local_of(tensor)
        history = self._history.get(storage_key(local) or 0)
        if not history or not tensor.numel():
            return None
        here = Region.of(local)
        parts: list[tuple[Region, Filled | None]] = []
        for region, filled in reversed(history.items()):
            if region.covers(here):
                if filled is None:
                    return None
                initializer = filled.initializer
                if filled.primitive is not None and region != here:
                    initializer = filled.primitive
                initializer = with_parts(initializer, parts, here if local is tensor else None)
                return Assignment(name, tensor, initializer, filled.key, filled.backend)
            if region.meets(here):
                parts.append((region, filled))
        if any(is_drawn_by_torch(filled) for _, filled in parts):
            return Assignment(name, tensor, DrawnByTorch(parts=True), self.key, TORCH)
        return None

    def _resume(self, inner: Recorder) -> None:
        """Go on where an inner intercept ended: what it filled is no longer as it was left here."""
        self._storages = {**inner._storages, **self._storages}
        self._parameters |= inner._parameters
        self._handed_out |= inner._handed_out
        self._computed |= inner._computed
        for key, history in inner._history.items():
            for region in history:
                self._remember(key, region, None)

    def _initialize(
        self, name: str, original: Callable[..., Tensor], tensor: Tensor, *arguments: Any
    ) -> Tensor:
        """``torch.nn.init``'s function of that name, called with all of its arguments."""
        kind = FUNCTIONS[name]
        *numbers, generator = (*arguments, None) if name in FIXED else arguments
        with DisableTorchFunction():
            self._note(tensor)
            # Without elements nothing is drawn, and torch warns or raises as it likes.
            served = not is_empty(tensor) and self._serve(
                f"torch.nn.init.{name}", tensor, kind, numbers, {}, generator
            )
        if not served:
            result: Tensor = self._call(original, (tensor, *arguments), {})
            return result
        return tensor

    def _initialize_as_meant(
        self, name: str, original: Callable[..., Any], tensor: Tensor, *arguments: Any
    ) -> Tensor | None:
        """A library's function of that qualified name, called with all of its arguments."""
        library, _, own_name = name.rpartition(".")
        meaning = LIBRARIES[library][own_name]
        named = dict(zip(list(signature(original).parameters)[1:], arguments, strict=True))
        generator = named.pop("generator", None)
        with DisableTorchFunction():
            self._note(tensor)
            served = not is_empty(tensor) and self._serve(
                name, tensor, meaning.initializer, (), named, generator
            )
        if not served:
            result: Tensor | None = self._call(original, (tensor, *arguments), {})
            return result
        return tensor if meaning.returns else None

    def _torch_function(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Any function of torch's, called in the block."""
        if self._silent:
            return function(*args, **kwargs)
        further = reaches_further(function, types, args, kwargs)
        tensors = tensors_among(args, kwargs)
        if not tensors and not further:
            return (
                function(*args, **kwargs) if function in NEVER_DRAWS else self._call(function, args, kwargs)
            )
        with DisableTorchFunction():
            for tensor in tensors:
                self._note(tensor)
            if function in WITHOUT_HISTORY and tensors[0].requires_grad and is_computed(tensors[0]):
                self._note_computed(tensors[0])
            # With a second tensor, as in full_like(x, fill_value=y), there is something to read.
            harmless = not further and len(tensors) == 1 and reads_nothing(function, args, kwargs)
            served = not harmless and self._serve_method(function, args, kwargs)
        if harmless:
            return function(*args, **kwargs)
        if served:
            return None if function is Tensor.__setitem__ else args[0]
        return self._call(function, args, kwargs, further=further)

    def _backward(self, engine: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Autograd's engine: it reads what was saved, adds to gradients, and calls hooks."""
        self.flush()
        with self._in_torch(calls_back=True), _Mode():
            return engine(*args, **kwargs)

    def _changed(
        self, original: Callable[[Sequence[Tensor]], None], tensor: Tensor | Iterable[Tensor]
    ) -> None:
        """Code that torch does not see changes tensors, or has."""
        tensors = (tensor,) if isinstance(tensor, Tensor) else tuple(tensor)
        with DisableTorchFunction():
            self._run_touched(tensors)
            for each in tensors:
                if (key := storage_key(each)) in self._history:
                    self._remember(key, Region.of(each), None)
        original(tensors)

    def _parametrized(self, forward: Callable[..., Any], parametrizations: nn.Module) -> Any:
        """What parametrisations compute is known for that, whether autograd looks on or not."""
        computed = forward(parametrizations)
        if isinstance(computed, Tensor):
            with DisableTorchFunction():
                for original in parametrizations.parameters(recurse=False):
                    self._note(original)
                self._note_computed(computed)
        return computed

    def _device(self, asked: Callable[[], Any]) -> Any:
        """What a library is told that asks where tensors are made."""
        return asked()

    @contextmanager
    def _in_torch(self, *, calls_back: bool) -> Iterator[None]:
        """While torch is at work: on its own, or calling code back that is to be served."""
        before = self._silent, self._at_once
        self._silent, self._at_once = not calls_back, self._at_once or calls_back
        try:
            yield
        finally:
            self._silent, self._at_once = before

    def _note(self, tensor: Tensor) -> None:
        """Remember a parameter's storage."""
        if isinstance(tensor, nn.Parameter):
            local = local_of(tensor)
            key = storage_key(local)
            if key is not None and key not in self._parameters:
                self._keep_address(key, local)
                self._parameters.add(key)

    def _note_computed(self, tensor: Tensor) -> None:
        """Remember the storage of what is computed anew when it is needed, and not kept."""
        key = storage_key(tensor)
        if key is not None and key not in self._parameters:
            self._keep_address(key, tensor)
            self._computed.add(key)

    def _keep_address(self, key: int, tensor: Tensor) -> None:
        if key not in self._storages:
            if len(self._storages) >= self._most_storages:
                self._forget_gone()
            self._storages[key] = StorageWeakRef(tensor.untyped_storage())

    def _forget_gone(self) -> None:
        """Let go of the storages that are no more, and look again when there are twice as many."""
        for key in [key for key, storage in self._storages.items() if storage.expired()]:
            for known in (self._storages, self._history, self._pending):
                known.pop(key, None)
            for which in (self._parameters, self._handed_out, self._computed, self._drawn):
                which.discard(key)
        self._most_storages = max(_FEWEST_SWEPT, 2 * len(self._storages))

    def _serve_method(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Record an in-place method of a parameter's memory, if it is one that fills."""
        tensor = args[0] if args else None
        if not isinstance(tensor, Tensor):
            return False
        if not isinstance(tensor, nn.Parameter):
            key = storage_key(local_of(tensor))
            if key not in self._parameters and key not in self._computed:
                return False
        if function in METHODS:
            kind, names = METHODS[function]
            numbers, named = args[1:], {names.get(name, name): value for name, value in kwargs.items()}
            generator = named.pop("generator", None)
        elif function is Tensor.__setitem__ and _is_view(tensor, args[1]) and is_number(args[2]):
            kind, numbers, named, generator = Constant, args[2:], {}, None
            tensor = tensor[args[1]]
        else:
            return False
        if is_empty(tensor):
            return False
        return self._serve(f"Tensor.{function.__name__}", tensor, kind, numbers, named, generator)

    def _serve(
        self,
        name: str,
        tensor: Tensor,
        kind: Callable[..., Initializer],
        numbers: Sequence[Any],
        named: Mapping[str, Any],
        generator: torch.Generator | None,
    ) -> bool:
        """Record a fill, or note why this library cannot serve it; then nothing has changed."""
        self._run_touched(tensors_among(numbers, named))
        try:
            check_type(tensor)
            if name.startswith("Tensor.") and torch.is_grad_enabled() and tensor.requires_grad:
                raise ValueError("autograd records this change")
            if storage_key(tensor) in self._computed:
                raise LostError("it is computed anew when it is needed: set what it is computed from")
            arguments = {key: number(value) for key, value in named.items()}
            filled = self._filled(tensor, kind(*map(number, numbers), **arguments), generator)
        except ShortError:  # torch would write beyond the memory
            raise
        except REFUSALS as error:
            self.passed_on.append(PassedOn(name, describe(tensor), str(error)))
            if isinstance(error, LostError) and self._aloud:
                # For the caller of torch's function, be it a method or one of torch.nn.init.
                warnings.warn(f"{name} of {describe(tensor)} is lost: {error}", stacklevel=5)
            return False
        self._record(tensor, filled)
        return True

    def _filled(self, tensor: Tensor, initializer: Initializer, generator: torch.Generator | None) -> Filled:
        """Raise whatever filling could, then take the key."""
        shape, here = tuple(tensor.shape), local_of(tensor)
        target = as_target(tensor) if here is tensor else writable(tensor).whole
        initializer.check(target, Window.whole(shape))
        primitive = sole_fill(initializer, shape) if here is tensor else None
        region = Region.of(here)
        backend = registry.resolve(here.device.type).name
        if isinstance(initializer, TruncatedNormal) and initializer.is_far:
            _warn_of_far_mean()
        key = None
        if initializer.random:
            counted = self._next_key(initializer)
            key = counted if generator is None else Key.from_generator(generator)
        return Filled(region, initializer, primitive, key, backend)

    def _next_key(self, initializer: Initializer) -> Key:
        """That of the n-th random fill; distributions that torch drew once are counted apart from others."""
        if isinstance(initializer, Independent):
            self._random_draws += 1
            return self.key.fold_in("draws").fold_in(self._random_draws - 1)
        self._random_fills += 1
        return self.key.fold_in(self._random_fills - 1)

    def _record(self, tensor: Tensor, filled: Filled) -> None:
        local = local_of(tensor)
        key = storage_address(local.untyped_storage())
        self._keep_address(key, local)
        if not tensor.is_inference():
            announce(tensor)
        self._remember(key, filled.region, filled)
        kept = [each for each in self._pending.pop(key, ()) if not filled.region.covers(each.region)]
        if kept:
            self._pending[key] = kept
        if filled.primitive is None:
            self._run([key])
            with self._in_torch(calls_back=False):
                filled.initializer(tensor, key=filled.key)
            return
        pending = self._pending.setdefault(key, [])
        pending.append(filled)
        seen = self._at_once or key in self._handed_out or len(pending) > _MOST_PENDING
        # What cannot be resized is NumPy's, or another's, to look at.
        if seen or not tensor.untyped_storage().resizable():
            self._run([key])

    def _remember(self, key: int, region: Region, filled: Filled | None) -> None:
        history = self._history.setdefault(key, {})
        history.pop(region, None)  # so that it comes last
        history[region] = filled

    def _run(self, keys: Iterable[int]) -> None:
        """Run what is pending on these storages, as one plan; storages that are gone need none."""
        due = [key for key in keys if key in self._pending]
        if not due:
            return
        plan = Plan()
        # What is pending is real, whatever mode (FakeTensorMode, say) or transformation reigns now.
        with DisableTorchFunction(), no_dispatch(), outside_transforms():
            for key in due:
                storage = storage_behind(self._storages[key].cdata)
                if storage is not None:
                    for filled in self._pending[key]:
                        assert filled.primitive is not None
                        with registry.use_backend(filled.backend):
                            plan.add(filled.region.tensor(storage), filled.primitive, filled.key or Key(0))
            with self._in_torch(calls_back=False):
                plan.run()
        for key in due:
            del self._pending[key]

    def _run_touched(self, tensors: Iterable[Tensor]) -> None:
        """Run what is pending on the memory of tensors."""
        keys = {storage_key(tensor) for tensor in tensors}
        self._run(self._pending if None in keys else [key for key in keys if key is not None])

    def _call(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        further: bool = False,
    ) -> Any:
        """Torch's own function, once what it may read has been written: if it reaches further, everything."""
        with DisableTorchFunction():
            tensors = tensors_among(args, kwargs)
            if further:
                self.flush()
            else:
                self._run_touched(tensors)
            into = function in INTO
            if function is Tensor.__setitem__ and _is_view(args[0], args[1]):
                into, tensors = True, tensors_among(args[0][args[1]], args[2])
            keyed = [
                (key, tensor) for tensor in tensors if (key := storage_key(local_of(tensor))) is not None
            ]
            if function in HANDED_OUT:
                self._handed_out.update(key for key, _ in keyed)
            may_draw = function not in NEVER_DRAWS
            unread = [kwargs.get("out"), *(tensors[:1] if into or function in OVERWRITES else ())]
            drawn = bool(self._drawn) and self._reads_drawn(keyed, unread)
            all_of_them = may_draw or drawn or into
            before = [(k, t, _version(t)) for k, t in keyed if all_of_them or k in self._history]
        results: list[Tensor] = []
        try:
            if not may_draw:
                with self._in_torch(calls_back=further):
                    result = function(*args, **kwargs)
            else:
                with TURNS.taken(self.generators, alone=not further):
                    states = torch_states()
                    try:
                        with self._in_torch(calls_back=further):
                            result = function(*args, **kwargs)
                    finally:
                        drawn = torch_states() != states or drawn
            results = tensors_among(result) if drawn or function in COPIES else results
            return result
        finally:
            with DisableTorchFunction():
                if before and function not in SETS_DATA:
                    source = tensors[1] if into and len(tensors) > 1 else None
                    target = tensors[0] if tensors and (into or _in_place(function)) else None
                    self._learn_changes(before, target, source, drawn=drawn)
                if results:
                    source = tensors[0] if tensors and function in COPIES else None
                    self._learn_results(results, {key for key, _ in keyed}, source, drawn=drawn)

    def _reads_drawn(self, keyed: Iterable[tuple[int, Tensor]], unread: Collection[Any]) -> bool:
        """Whether a call with these arguments, of which some are not read, reads what torch drew."""
        return any(
            self._is_drawn(key, tensor)
            for key, tensor in keyed
            if key in self._drawn and not any(tensor is each for each in unread)
        )

    def _is_drawn(self, key: int, tensor: Tensor) -> bool:
        if not tensor.numel():
            return False
        here = Region.of(local_of(tensor))
        for region, filled in reversed(self._history.get(key, {}).items()):
            if region.meets(here) and is_drawn_by_torch(filled):
                return True
            if region.covers(here):
                return False
        return False

    def _learn_changes(
        self,
        before: Iterable[tuple[int, Tensor, int | None]],
        target: Tensor | None,
        source: Tensor | None,
        *,
        drawn: bool,
    ) -> None:
        """What a call left in its arguments, which it was given as versions of ``before``.

        Args:
            target: which it changes, if it says so.
            source: what it copied into that.
        """
        for key, tensor, count in before:
            if not (drawn or source is not None or key in self._history) or not tensor.numel():
                continue
            if count is None:  # an inference tensor, of which torch does not count the changes
                changed = tensor is target or not (drawn or source is not None)
            else:
                changed = version(tensor) != count
            if not changed or (source is not None and self._inherit(source, tensor)):
                continue
            if drawn or key in self._history:
                self._learn(key, tensor, drawn=drawn)

    def _learn_results(
        self, results: Iterable[Tensor], known: Container[int], source: Tensor | None, *, drawn: bool
    ) -> None:
        """What a call left in its results, where they are not its arguments.

        Args:
            source: what it copied.
        """
        for tensor in results:
            key = storage_key(tensor)
            if key is None or key in known or not tensor.numel():
                continue
            if source is not None and self._inherit(source, tensor):
                continue
            if drawn:
                self._learn(key, tensor, drawn=True)

    def _learn(self, key: int, tensor: Tensor, *, drawn: bool) -> None:
        local = local_of(tensor)
        region = Region.of(local)
        if drawn:
            self._keep_address(key, local)
            self._drawn.add(key)
        self._remember(key, region, drawn_by_torch(region, self.key) if drawn else None)

    def _inherit(self, source: Tensor, copy: Tensor) -> bool:
        """Whether a copy's history, which is its source's, is known, and so is now remembered."""
        history, key = self._history.get(storage_key(source) or 0), storage_key(copy)
        if not history or key is None or not _same_bits(source, copy):
            return False
        here, there = Region.of(source), Region.of(copy)
        if here.shape != there.shape:
            return False
        met = [(region, filled) for region, filled in history.items() if region.meets(here)]
        last = max((n for n, (region, _) in enumerate(met) if region.covers(here)), default=None)
        if last is None or any(region.dtype != here.dtype for region, _ in met[last:]):
            return False
        if here.strides != there.strides and met[last:] != [(here, met[last][1])]:
            return False
        (whole, filled), *parts = met[last:]
        if not all(here.covers(region) for region, _ in parts):  # some of it is not copied
            return False
        if filled is not None and filled.primitive is not None and whole != here:
            filled = replace(filled, initializer=filled.primitive)
        self._keep_address(key, copy)
        for region, each in [(here, filled), *parts]:
            if is_drawn_by_torch(each):
                self._drawn.add(key)
            self._remember(key, there if region == here else region.moved(here, there), each)
        return True


class _Mode(TorchFunctionMode):
    """Shows the intercept of a thread the calls of torch's functions; several do no more than one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        recorder = _serving()
        if recorder is None:
            return func(*args, **(kwargs or {}))
        return recorder._torch_function(func, types, args, kwargs or {})


# The intercepts that this task, or what it came from, is in, the innermost last. Generators may leave theirs
# out of order, and other threads take contexts over: what is closed, or another thread's, does not serve.
_STACK: ContextVar[tuple[Recorder, ...]] = ContextVar("tritoninit_intercepts", default=())


class _Thread(threading.local):
    """Who served last in this thread, where tasks take turns."""

    served: Recorder | None = None


_THREAD = _Thread()


def _serving() -> Recorder | None:
    """The innermost intercept of this task and thread; what another task's has pending is written before."""
    stack = _STACK.get()
    recorder = stack[-1] if stack else None
    if recorder is not None and (recorder.closed or recorder.thread != threading.get_ident()):
        recorder = _innermost(stack)
    if recorder is not _THREAD.served:
        _take_over(recorder)
    return recorder


def _innermost(stack: Sequence[Recorder]) -> Recorder | None:
    here = threading.get_ident()
    return next((each for each in reversed(stack) if not each.closed and each.thread == here), None)


def _take_over(recorder: Recorder | None) -> None:
    before, _THREAD.served = _THREAD.served, recorder
    if before is not None and not before.closed:
        before.flush()
    TURNS.to(recorder.generators if recorder else OUTSIDE)


@contextmanager
def recording(
    seed: int | Key | None, *, aloud: bool = True, kind: type[Recorder] | None = None
) -> Iterator[Recorder]:
    """:func:`intercept`, on a torch that has what it needs; its fills have a key's children.

    Unless ``aloud``, nobody is warned of fills that are lost. Of a ``kind`` that notes more, if one is given.
    """
    outer = _serving()
    if outer is not None:
        outer.flush()
    TURNS.to(outer.generators if outer else OUTSIDE)  # which another thread may have
    key = seed if isinstance(seed, Key) else Key.from_generator() if seed is None else Key(seed)
    kind = kind or (Recorder if outer is None else type(outer))  # what is inside of a recording, is recorded
    recorder = kind(key, outer, aloud=aloud)
    with ROUTES.installed(), _Mode(), _opened(recorder):
        try:
            yield recorder
        finally:
            recorder.flush()
            if outer is not None:
                outer._resume(recorder)


@contextmanager
def _opened(recorder: Recorder) -> Iterator[None]:
    """The recorder serves this task, and the generators are its own, until it is closed."""
    _STACK.set((*_STACK.get(), recorder))
    _THREAD.served = recorder
    try:
        TURNS.begin(recorder.generators, recorder.key)
        yield
    finally:
        recorder.closed = True
        stack = tuple(each for each in _STACK.get() if not each.closed)
        _STACK.set(stack)
        then = _innermost(stack)
        if _THREAD.served is recorder:
            _THREAD.served = then
        TURNS.end(recorder.generators, then.generators if then else OUTSIDE)


def route(name: str, *args: Any, **kwargs: Any) -> Any:
    """A routed function, called by somebody: in an intercepted thread or in another."""
    recorder = _serving()
    original = ROUTES.originals[name]
    if recorder is None or (recorder._silent and name != ENGINE):
        return original(*args, **kwargs)
    if name == ENGINE:
        return recorder._backward(original, *args, **kwargs)
    if name == _CHANGED:
        return recorder._changed(original, *args, **kwargs)
    if name == _PARAMETRIZED:
        return recorder._parametrized(original, *args)
    if name in _ASKS:
        return recorder._device(original)
    if name not in FUNCTIONS:
        return recorder._initialize_as_meant(name, original, *args, **kwargs)
    return recorder._initialize(name, original, *args, **kwargs)


def announce(tensor: Tensor) -> None:
    """Tell torch that a tensor has other elements now: its version counter moves on."""
    ROUTES.originals[_CHANGED]((tensor,))


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else version(tensor)


def _is_view(tensor: Tensor, index: Any) -> bool:
    """Whether indexing gives the tensor's own memory; of a DTensor it may be a copy of what others hold."""
    return is_basic(index) and not is_dtensor(tensor)


def _in_place(function: Callable[..., Any]) -> bool:
    name: str = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _same_bits(source: Tensor, copy: Tensor) -> bool:
    """Whether a copy is as if it had been filled itself: 16-bit values are float32's, rounded."""
    rounds = source.dtype == torch.float32 and copy.dtype in (torch.float16, torch.bfloat16)
    return source.dtype == copy.dtype or rounds


def _warn_of_far_mean() -> None:
    warnings.warn(
        "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
        "The distribution of values may be incorrect.",
        stacklevel=7,  # who called trunc_normal_, by way of route, _initialize, _serve and _filled
    )
