"""The calls of a block that is recorded: what they do is noted, and done only where there is memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import currentframe, signature
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tritoninit.fills import Constant, Initializer, Normal, Uniform
from tritoninit.initializers import Ones, Zeros
from tritoninit.interception.asked import Asked, Unrecordable
from tritoninit.interception.calls import (
    OVERWRITES,
    SETS_NOTHING,
    is_basic,
    is_number,
    number,
    reaches_further,
    tensors_among,
)
from tritoninit.interception.generators import TURNS
from tritoninit.interception.libraries import LIBRARIES
from tritoninit.interception.private import DisableTorchFunction, version
from tritoninit.interception.recorder import REFUSALS, Recorder, announce, recording
from tritoninit.interception.regions import storage_key
from tritoninit.interception.served import FIXED, FUNCTIONS, METHODS
from tritoninit.interception.summary import Summary
from tritoninit.interception.tape import At, Tape
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.keys import Key
from tritoninit.models.slots import Slot
from tritoninit.recorded import is_factory
from tritoninit.window import Window

# What torch's factories fill with, by arguments that come before the shape.
_MADE: dict[Callable[..., Any], Callable[..., Initializer]] = {
    torch.zeros: Zeros,
    torch.zeros_like: Zeros,
    Tensor.new_zeros: Zeros,
    torch.ones: Ones,
    torch.ones_like: Ones,
    Tensor.new_ones: Ones,
    torch.rand: lambda: Uniform(0.0, 1.0),
    torch.rand_like: lambda: Uniform(0.0, 1.0),
    torch.randn: Normal,
    torch.randn_like: Normal,
}
_UNSET = (torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty)
_TO_MEMORY = ("cpu", "to", "numpy", "__array__")  # which are asked for numbers
_READS = frozenset(
    (
        *("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__"),
        *("__complex__", "__contains__", "equal", "allclose", "is_nonzero"),
    )
)
_INDEXES = (Tensor.__getitem__, Tensor.__setitem__)
_OF_NUMBER = (torch.full, torch.full_like, Tensor.new_full)


class Taping(Recorder):
    """One block's calls, and the tape of what they did."""

    def __init__(self, key: Key, outer: Recorder | None = None, *, aloud: bool = True) -> None:
        super().__init__(key, outer, aloud=aloud)
        self._tape: Tape = outer._tape if isinstance(outer, Taping) else Tape()
        self._readers: list[FrameType | None] = []  # of drawn numbers; None of no module's
        self._elsewhere: object = None  # the states of generators that are not torch's
        self._others_drew = False

    def _asked(self, slot: Slot) -> Asked:
        unknown = not (nn.parameter.is_lazy(slot.tensor) or self._tape.knows(slot.tensor))
        own = not (slot.is_buffer or slot.is_parametrized)
        if unknown and own and storage_key(slot.tensor) not in self._parameters:
            raise Unrecordable("it was not made in the block, or was moved or sharded since")
        if unknown and not slot.tensor.is_meta and self._others_drew:
            raise Unrecordable("NumPy or Python drew numbers in the block, and may have drawn these")
        return Summary(self._tape).asked(slot)

    def _initialize(
        self, name: str, original: Callable[..., Tensor], tensor: Tensor, *arguments: Any
    ) -> Tensor:
        numbers = arguments if name in FIXED else arguments[:-1]
        call = f"torch.nn.init.{name}"
        with self._noted(call, FUNCTIONS[name], tensor, numbers, {}, arguments) as done:
            if not done:
                return super()._initialize(name, original, tensor, *arguments)
        return tensor

    def _initialize_as_meant(
        self, name: str, original: Callable[..., Any], tensor: Tensor, *arguments: Any
    ) -> Tensor | None:
        library, _, own_name = name.rpartition(".")
        meaning = LIBRARIES[library][own_name]
        named = dict(zip(list(signature(original).parameters)[1:], arguments, strict=True))
        named.pop("generator", None)
        with self._noted(name, meaning.initializer, tensor, (), named, arguments) as done:
            if not done:
                return super()._initialize_as_meant(name, original, tensor, *arguments)
        return tensor if meaning.returns else None

    @contextmanager
    def _noted(
        self,
        name: str,
        kind: Callable[..., Initializer],
        tensor: Tensor,
        numbers: Sequence[Any],
        named: Mapping[str, Any],
        arguments: Sequence[Any],
    ) -> Iterator[bool]:
        """An initializer's call is noted once the block has run; True if nothing is left to be done there."""
        if self._silent or not isinstance(tensor, Tensor):
            yield False
            return
        with DisableTorchFunction():
            self._note_numbers()
            initializer = _understood(tensor, kind, numbers, named)
            done = tensor.is_meta and initializer is not None
            frozen: tuple[Any, Any] | str = ""
            if initializer is None and tensor.numel():
                frozen = self._frozen(None, (tensor, *arguments), {}, tensor)
        yield done
        with DisableTorchFunction():
            if done and not tensor.is_inference():
                announce(tensor)
            if not tensor.numel():
                return
            try:
                if initializer is not None:
                    self._tape.fill(tensor, initializer)
                elif not isinstance(frozen, str):
                    given, keywords = frozen
                    self._tape.call(name, given, keywords, [(tensor, False)], [None])
                else:
                    self._tape.lost([tensor], f"{name} {frozen}")
            except Unrecordable:
                self._tape.lost([tensor], name)

    def _torch_function(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if self._silent or function in SETS_NOTHING:
            return super()._torch_function(function, types, args, kwargs)
        with DisableTorchFunction():
            tensors = list({id(each): each for each in tensors_among(args, kwargs)}.values())
            before = [None if each.is_inference() else version(each) for each in tensors]
            known = {storage_key(each) for each in tensors}
            overwritten = args[0] if args and function in OVERWRITES else kwargs.get("out")
            self._note_numbers()
            reads = getattr(function, "__name__", "") in _READS
            frozen = "of what is only read" if reads else self._frozen(function, args, kwargs, overwritten)
        if any(each.is_meta for each in tensors) or _on_meta(kwargs.get("device")):
            result, looked = self._without_memory(function, types, args, kwargs)
        else:
            result, looked = super()._torch_function(function, types, args, kwargs), False
        with DisableTorchFunction():
            in_place = _is_in_place(function)
            changed = [
                (each, each is not overwritten)
                for each, count in zip(tensors, before, strict=True)
                if (version(each) != count if count is not None else in_place and each is tensors[0])
            ]
            if looked or reads:
                self._note_reading(tensors)
            results = [None if storage_key(each) in known else each for each in tensors_among(result)]
            if changed or any(each is not None for each in results):
                self._note_call(function, args, kwargs, frozen, changed, results)
        return result

    def _frozen(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], overwritten: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | str:
        """Arguments that are kept; or which of them cannot be, in words."""
        try:
            keywords = {
                name: self._tape.frozen(each) for name, each in kwargs.items() if name != "pin_memory"
            }
            if function in _INDEXES:
                args = (args[0], _as_index(args[1]), *args[2:])
            return tuple(self._tape.frozen(each, overwritten) for each in args), keywords
        except Unrecordable as error:
            return f"of {error}"

    def _without_memory(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[Any, bool]:
        """A call that is about the meta device; and whether it had to look at numbers.

        Where torch cannot without those that tensors have elsewhere, they are computed.
        """
        further = reaches_further(function, types, args, kwargs)
        kwargs = {name: each for name, each in kwargs.items() if name != "generator"}  # nothing is drawn
        try:
            with self._in_torch(calls_back=further):
                return function(*args, **kwargs), False
        except (RuntimeError, TypeError):  # NotImplementedError among them
            with DisableTorchFunction():
                computed = None if _is_in_place(function) else self._all_computed(args, kwargs)
            if computed is None:
                raise
        with self._in_torch(calls_back=further), torch.device("cpu"):
            result = function(*computed[0], **computed[1])
        if isinstance(result, np.ndarray):  # what is written there would not be the tensor's
            result.flags.writeable = False
        return (result if getattr(function, "__name__", "") in _TO_MEMORY else _on_meta_again(result)), True

    def _all_computed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """Arguments with the numbers that meta tensors would have; None if nobody knows them."""
        try:
            return self._computed_now(tuple(args)), self._computed_now(dict(kwargs))
        except (Unrecordable, ValueError):
            return None

    def _computed_now(self, value: Any) -> Any:
        """Arguments with the numbers that meta tensors would have; those of draws are others for each draw.

        Raises:
            Unrecordable: some that nobody knows.
        """
        if isinstance(value, Tensor):
            if not value.is_meta:
                return value
            recorded, drawn = self._tape.recorded(self._tape.at(value), of_readers=True)
            key = Key(0).fold_in(drawn[-1].number) if drawn else Key(0)
            with self._in_torch(calls_back=False):
                return recorded.values(key)
        if isinstance(value, (list, tuple)):
            return type(value)([self._computed_now(each) for each in value])
        return {k: self._computed_now(x) for k, x in value.items()} if isinstance(value, dict) else value

    def begin(self) -> None:
        """Watch NumPy's and Python's generators from now on."""
        self._elsewhere = TURNS.others(self.generators)

    def _note_numbers(self) -> None:
        """If NumPy or Python has drawn, whoever is at work has the numbers, and no tape has."""
        now = TURNS.others(self.generators)
        if now is None:  # another thread's block has them
            return
        if self._elsewhere not in (None, now):  # None of a block in a block, whose first call this is
            self._others_drew = True
            self._note_reader()
        self._elsewhere = now

    def _note_reader(self) -> None:
        self._readers.append(_of_a_module(currentframe()))
        self._tape.reader = self._reader

    def _note_reading(self, tensors: Iterable[Tensor]) -> None:
        """Somebody has numbers of tensors: if they were drawn, what they do from now on depends on that."""
        if any(map(self._is_of_a_draw, tensors)):
            self._note_reader()

    def _is_of_a_draw(self, tensor: Tensor) -> bool:
        if not self._tape.knows(tensor):
            return False
        try:
            _, drawn = self._tape.recorded(self._tape.at(tensor), of_readers=True)
        except Unrecordable:
            return True
        return bool(drawn)

    def forget(self) -> None:
        """Let go of functions that were at work in the block, and of what they held."""
        self._note_numbers()
        self._readers.clear()
        self._tape.reader = str

    def _reader(self) -> str:
        """The name of who is at work and has read what was drawn; "" if nobody has."""
        frame: FrameType | None = currentframe()
        while frame is not None:
            if any(frame is each for each in self._readers):
                return _name_of_code(frame)
            frame = frame.f_back
        return "code outside of a module" if None in self._readers else ""

    def _note_call(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        frozen: tuple[tuple[Any, ...], dict[str, Any]] | str,
        changed: Sequence[tuple[Tensor, bool]],
        results: Sequence[Tensor | None],
    ) -> None:
        made = [each for each in results if each is not None]
        try:
            if function in _UNSET:
                self._tape.at(made[0], unset=True)
                return
            filled = _filled_by(function, args, kwargs, made)
            if filled is not None:
                self._tape.fill(*filled)
                return
            if function is Tensor.__setitem__ and is_basic(args[1]) and isinstance(args[2], Tensor):
                view = args[0][args[1]]
                given = self._tape.at(view, unset=True), self._tape.frozen(args[2])
                self._tape.call(Tensor.copy_, given, {}, [(view, False)], [None])
                return
            if not isinstance(frozen, str):
                arguments, keywords = frozen
                if function is not Tensor.to:
                    keywords.pop("device", None)  # it is the CPU
                keywords.pop("requires_grad", None)
                of_tensors = function is torch.normal and tensors_among(args, kwargs)
                if is_factory(function) and len(made) == 1 and not of_tensors:
                    dtype = self._tape.frozen(made[0].dtype)
                    keywords = {**keywords, "dtype": dtype}
                call: Any = function
                if function is Tensor.__deepcopy__:
                    call, arguments = Tensor.clone, arguments[:1]
                elif function is torch.tensor and isinstance(arguments[0], At):  # an array
                    dtype = self._tape.frozen(made[0].dtype)
                    call, arguments, keywords = Tensor.to, (arguments[0], dtype), {"copy": True}
                self._tape.call(call, arguments, keywords, changed, results)
                return
            why = frozen
        except Unrecordable as error:
            why = f"of {error}"
        words = f"{getattr(function, '__name__', function)} {why}"
        self._tape.lost([*made, *(each for each, _ in changed)], words)

    def _device(self, asked: Callable[[], Any]) -> Any:
        """Where there is memory: what is initialized there is asked for here."""
        return torch.device("cpu")

    def _changed(
        self, original: Callable[[Sequence[Tensor]], None], tensor: Tensor | Iterable[Tensor]
    ) -> None:
        tensors = (tensor,) if isinstance(tensor, Tensor) else tuple(tensor)
        super()._changed(original, tensors)
        if not self._silent:
            with DisableTorchFunction():
                self._tape.lost(tensors, "code that torch does not see")


def _of_a_module(frame: FrameType | None) -> FrameType | None:
    """The innermost function, from a frame outwards, whose first argument is a module."""
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and isinstance(frame.f_locals.get(code.co_varnames[0]), nn.Module):
            return frame
        frame = frame.f_back
    return None


def _name_of_code(frame: FrameType) -> str:
    code = frame.f_code
    return f"{type(frame.f_locals[code.co_varnames[0]]).__name__}.{code.co_name}"


def _on_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


def _on_meta_again(result: Any) -> Any:
    """What a call returned, with tensors where they would be if it had not needed their numbers."""
    if isinstance(result, Tensor):
        return result.to("meta")
    if type(result) in (list, tuple):
        return type(result)(map(_on_meta_again, result))
    return result


def _as_index(index: Any) -> Any:
    """An index without lists, which are tensors where tuples are one index a dimension.

    Raises:
        Unrecordable: a list of which torch makes something else.
    """
    if isinstance(index, tuple):
        return tuple(map(_as_index, index))
    if not isinstance(index, list):
        return index
    if index and all(isinstance(each, int) for each in index):
        return torch.tensor(index, device="cpu")
    raise Unrecordable(f"the index {index}")


def _is_in_place(function: Callable[..., Any]) -> bool:
    name: str = getattr(function, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _understood(
    tensor: Tensor, kind: Callable[..., Initializer], numbers: Sequence[Any], named: Mapping[str, Any]
) -> Initializer | None:
    """The initializer that a call asks for; None if it makes no sense for the tensor."""
    try:
        if not tensor.numel() or storage_key(tensor) is None:
            return None
        initializer = kind(*map(number, numbers), **{name: number(each) for name, each in named.items()})
        if initializer.random and not (tensor.is_floating_point() or tensor.is_complex()):
            return None
        initializer.check(
            torch.empty(tensor.shape, device="meta", dtype=_float(tensor.dtype)),
            Window.whole(tuple(tensor.shape)),
        )
    except REFUSALS:
        return None
    return initializer


def _float(dtype: torch.dtype) -> torch.dtype:
    """In which what is drawn of this dtype is checked: floats that are not served are rounded to."""
    served = str(dtype).removeprefix("torch.") in FLOAT_DTYPES
    return dtype if served or not dtype.is_floating_point else torch.float32


def _filled_by(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], made: Sequence[Tensor]
) -> tuple[Tensor, Initializer] | None:
    """What a factory or an in-place method filled, and how; None if it is none of those that are known."""
    keywords = {name: each for name, each in kwargs.items() if name != "generator"}
    tensor: Tensor
    kind: Callable[..., Initializer]
    numbers: Sequence[Any]
    if function in METHODS:
        kind, names = METHODS[function]
        tensor, numbers = args[0], args[1:]
        named = {names.get(name, name): each for name, each in keywords.items()}
    elif function is Tensor.__setitem__ and is_basic(args[1]) and is_number(args[2]):
        tensor, kind, numbers, named = args[0][args[1]], Constant, args[2:], {}
    elif len(made) == 1 and function in _MADE:
        tensor, kind, numbers, named = made[0], _MADE[function], (), {}
    elif len(made) == 1 and function in _OF_NUMBER:
        tensor, kind, named = made[0], Constant, {}
        numbers = (
            (kwargs["fill_value"],) if "fill_value" in kwargs else (args[1 + (function is Tensor.new_full)],)
        )
    elif function is torch.normal and made and not tensors_among(args, kwargs):
        tensor, kind, numbers = made[0], Normal, args[:2]
        named = {name: each for name, each in keywords.items() if name in ("mean", "std")}
    else:
        return None
    if not all(is_number(each) for each in (*numbers, *named.values())):
        return None
    try:
        initializer = kind(*map(number, numbers), **{name: number(each) for name, each in named.items()})
        if initializer.random and not tensor.is_floating_point():
            here = torch.empty(tensor.shape, device="meta", dtype=tensor.dtype)
            initializer.check(here, Window.whole(tuple(tensor.shape)))
    except REFUSALS:
        return None
    return tensor, initializer


@contextmanager
def taping(key: Key) -> Iterator[Recorder]:
    """:func:`~tritoninit.record`, on a torch that has what it needs."""
    with recording(key, kind=Taping) as recorder:
        try:
            recorder.begin()
            yield recorder
        finally:
            recorder.forget()
