"""What to draw: the base of all initializers, and the four numeric primitives that they lower to."""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch.compiler import is_dynamo_compiling

from tritoninit import registry, traced
from tritoninit.distributed.held import Held, is_dtensor, writable
from tritoninit.fans import Axes
from tritoninit.kernels import lowering
from tritoninit.kernels.stream import (
    FLOAT8,
    GRIDS,
    TruncatedNormalNumbers,
    UniformNumbers,
)
from tritoninit.keys import Key, drawn_bits
from tritoninit.plan import KeySource, Plan, check_fill, resolve_key
from tritoninit.targets import Target, TracedError, as_target, check_usual, device_type
from tritoninit.tracing.private import modes
from tritoninit.window import Window
from tritoninit.windows import Windows

T = TypeVar("T")
_TENSOR, _PARAMETER = torch.Tensor, torch.nn.Parameter
_FLOATS = {getattr(torch, name): name for name in lowering.FLOAT_DTYPES}


class _Abstract(ABCMeta):
    """Of classes that have abstract methods: isinstance is as fast as any until somebody registers others."""

    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__

    def register(cls, subclass: type[T]) -> type[T]:
        """As ``abc.ABCMeta.register``; from now on isinstance asks who was registered."""
        for name in ("__instancecheck__", "__subclasscheck__"):
            setattr(_Abstract, name, getattr(ABCMeta, name))
        return super().register(subclass)


@dataclass(frozen=True)
class Initializer(metaclass=_Abstract):
    """How to set a tensor, as a value: comparable, printable, callable on a tensor."""

    @property
    def random(self) -> bool:
        """Whether it takes a key."""
        return True

    def __call__(
        self,
        tensor: T,
        *,
        key: Key | None = None,
        window: Window | Windows | None = None,
        generator: torch.Generator | None = None,
    ) -> T:
        """Set ``tensor`` in place and return it.

        Args:
            tensor: a torch tensor, a NumPy array or any object with ``__dlpack__``; of a DTensor each rank
                sets the part that it holds, without communication.
            key: which random numbers. Without one, 64 bits are drawn from ``generator``: those of all ranks
                that share a DTensor have to be in the same state.
            window: which part of a global tensor this is, or which parts; by default all of it.
            generator: PyTorch's default CPU generator if not given. Cannot go with a key.

        Raises:
            TypeError: not a tensor, or not a key.
            ValueError: parameters, shape or window make no sense, or the tensor cannot be written.
            NotImplementedError: random numbers of its dtype are not served.
        """
        kind = type(tensor)
        if (  # of most calls, all that there is to ask
            window is None
            and (kind is _TENSOR or kind is _PARAMETER)
            and (key is None or (type(key) is Key and generator is None))
            and not (is_dynamo_compiling() or modes())
        ):
            whole: Any = tensor
            if (dtype := _FLOATS.get(whole.dtype)) is not None and self.goes_short:
                try:
                    usual = check_usual(whole)
                except TracedError:
                    return traced.initialize(self, tensor, generator, key, None)
                if (fill := self.sole(whole)) is not None:
                    fill.draw(whole, dtype, usual, key, generator)
                    return tensor
        if key is not None and generator is not None:
            raise ValueError("give a key or a generator, not both")
        if key is not None and not isinstance(key, Key):
            raise TypeError(f"key must be a tritoninit.Key, not {key!r}")
        if window is not None and not isinstance(window, (Window, Windows)):
            raise TypeError(f"window must be a tritoninit.Window, not {window!r}")
        if traced.is_traced(tensor) and not is_dtensor(tensor):
            return traced.initialize(self, tensor, generator, key, window)
        plan, source = Plan(), key or partial(Key.from_generator, generator)
        if isinstance(window, Windows) or is_dtensor(tensor):
            add_held(self, plan, writable(tensor, window), source)
            plan.run()
            return tensor
        try:
            target = as_target(tensor)
        except TracedError:
            return traced.initialize(self, tensor, generator, key, window)
        if window is None:
            window = Window.whole(target.shape)
        else:
            window.check(target.shape)
        self.add(plan, target, source, window)
        plan.run()
        return tensor

    goes_short: ClassVar[bool] = False  # whether sole() may have an answer

    def sole(self, tensor: torch.Tensor) -> Fill | None:
        """The fill of all of a tensor, if it is one and is quickly known.

        Args:
            tensor: of which the shape is asked.

        Returns:
            The fill; None says nothing.

        Raises:
            ValueError: there is no such tensor of that shape.
        """
        return None

    @abstractmethod
    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        """What fills which part of a tensor of (global) ``shape``: at least one piece, later ones on top.

        Args:
            shape: of the whole (global) tensor.

        Returns:
            The pieces.

        Raises:
            ValueError: there is no such tensor of that shape.
        """

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        """The same, for a weight of which its module says what the dimensions mean; None if it does not.

        Args:
            axes: what the module says; None if it says nothing.
            shape: of the whole (global) tensor.

        Returns:
            The initializer for it.

        Raises:
            ValueError: that decides, and it is not known.
        """
        return self

    def check(self, target: Target, window: Window) -> None:
        """Raise whatever :meth:`add` would. Reads the target's dtype, not its memory.

        Args:
            target: a tensor of the dtype in question, be it on the meta device.
            window: which part of the global tensor it is.

        Raises:
            TypeError, ValueError, NotImplementedError: the dtype or the shape is not served, or does not
                hold the values.
        """
        for piece in pieces_of(self, window.global_shape):
            piece.initializer.check(target, Window.whole(piece.shape))

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        """Check everything that can be wrong, then take the key; what is to be written goes to the plan.

        The target is known to be writable and to lie inside its window.

        Args:
            plan: to which it is added.
            target: a tensor or an array.
            key: which random numbers, or what draws a key.
            window: which part of the global tensor the target is.

        Raises:
            TypeError, ValueError, NotImplementedError: as :meth:`check`.
            RuntimeError: no backend serves the target.
        """
        pieces = pieces_of(self, window.global_shape)
        first = pieces[0]
        if len(pieces) == 1 and first.shape == window.global_shape and not first.path:
            first.initializer.add(plan, target, key, window)
            return
        self.check(target, window)
        _add_pieces(plan, pieces, [(target, window)], taken_key(self, key, target))

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        """As :meth:`add`, of one or more parts of one tensor, for which all is known to be right.

        Args:
            plan: to which it is added.
            parts: views of memory, each with its window of the global tensor.
            key: which random numbers.

        Raises:
            TypeError, ValueError, NotImplementedError: as :meth:`check`, if nobody asked that before.
        """
        _add_pieces(plan, pieces_of(self, parts[0][1].global_shape), parts, key)


@dataclass(frozen=True)
class Atom(Initializer):
    """What pieces are made of, and has none of its own: a tensor of any shape, by one rule."""

    by_place: ClassVar[bool] = True  # an element is the same in whichever part of the tensor it is asked for

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return (Piece(self, (0,) * len(shape), tuple(shape)),)

    @abstractmethod
    def check(self, target: Target, window: Window) -> None: ...

    @abstractmethod
    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None: ...

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        for target, window in parts:
            self.add(plan, target, key, window)

    @abstractmethod
    def times(self, factor: float) -> Atom:
        """The same, with its values times ``factor``, which is not negative."""

    def stochastically(self) -> Atom:
        """The same, rounded to 16 and 8 bits at random; itself where nothing is drawn."""
        if self.random:
            raise NotImplementedError(f"{type(self).__name__} has no stochastic rounding")
        return self


class Piece(NamedTuple):
    """A hyper-rectangle of a global tensor, and what fills it.

    Attributes:
        initializer: a fill, whose elements are drawn by their places in the global tensor; or a structured
            initializer, of the piece's own shape.
        offsets: where the piece begins in the global tensor, one a dimension.
        shape: of the piece.
        path: the numbers of the parts that it lies in, the outermost first (:class:`~tritoninit.Stacked`).
    """

    initializer: Atom
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    path: tuple[int, ...] = ()

    def key(self, key: Key) -> Key:
        """By which a piece of a tensor with ``key`` is drawn: that of a structured one is its part's own.

        Args:
            key: of the whole tensor.

        Returns:
            The piece's key.
        """
        if not self.initializer.by_place:
            for number in self.path:
                key = key.fold_in(number)
        return key

    def cut(self, target: Target, window: Window) -> tuple[Target, Window]:
        """The part of a local tensor that lies within the piece, and which part that is of what.

        Args:
            target: the local tensor.
            window: which part of the global tensor it is.

        Returns:
            A view of the target, and its window of what the piece is of.
        """
        begins: list[int] = []
        places: list[Any] = []
        for begin, extent, offset, size in zip(
            self.offsets, self.shape, window.offsets, target.shape, strict=True
        ):
            start = min(max(begin - offset, 0), size)
            places.append(slice(start, min(max(begin + extent - offset, start), size)))
            begins.append(offset + start)
        part = (target.detach() if isinstance(target, torch.Tensor) else target)[(*places, ...)]
        if self.initializer.by_place or 0 in part.shape:
            return part, Window(window.global_shape, tuple(begins))
        inside = (begin - offset for begin, offset in zip(begins, self.offsets, strict=True))
        return part, Window(self.shape, tuple(inside))


def _add_pieces(
    plan: Plan, pieces: Sequence[Piece], parts: Sequence[tuple[Target, Window]], key: Key
) -> None:
    """Have a plan write the pieces, one on top of the other, of what is held of a tensor."""
    stage, after_structured = plan, False
    for piece in pieces:
        by_place = piece.initializer.by_place
        if after_structured and by_place:  # it may lie over what a plan writes after its fills
            stage = Plan()
            plan.afterwards(stage.run)
        after_structured = not by_place
        cut = [piece.cut(target, window) for target, window in parts]
        inside = [(part, window) for part, window in cut if 0 not in part.shape]
        if inside:
            piece.initializer.add_parts(stage, inside, piece.key(key))


def add_held(initializer: Initializer, plan: Plan, held: Held, key: KeySource) -> None:
    """Have a plan set what this process holds of a tensor; raises, and draws a key, as if it held all of it.

    So that all ranks raise the same, and generators stay in step.
    """
    initializer.check(held.whole, Window.whole(held.global_shape))
    taken = taken_key(initializer, key, held.local)
    if held.parts:
        initializer.add_parts(plan, held.parts, taken)
    plan.afterwards(held.changed)


@dataclass(frozen=True)
class Elementwise(Initializer):
    """An initializer that is one fill, once the shape is known."""

    @abstractmethod
    def fill(self, shape: Sequence[int]) -> Fill:
        """The primitive that this is for a tensor of (global) ``shape``.

        Args:
            shape: of the whole (global) tensor.

        Returns:
            The fill.

        Raises:
            ValueError: there is none for that shape.
        """

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return self.fill(shape).pieces(shape)

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.fill(window.global_shape).add(plan, target, key, window)  # the same, sooner

    goes_short: ClassVar[bool] = True

    def sole(self, tensor: torch.Tensor) -> Fill | None:
        if type(self).add is not Elementwise.add:
            return None
        found: object = self.fill(tensor.shape)
        return found if isinstance(found, Fill) else None


def pieces_of(initializer: Initializer, shape: Sequence[int]) -> Sequence[Piece]:
    """:meth:`Initializer.pieces`, whoever wrote it.

    Raises:
        TypeError: a piece is not made of a primitive.
        ValueError: there is no piece.
    """
    pieces = initializer.pieces(shape)
    for piece in pieces:
        if not isinstance(piece.initializer, Atom):
            raise TypeError(
                f"a piece is a fill, or structured, not {piece.initializer!r}: take its own pieces"
            )
    if not pieces:
        raise ValueError(f"{initializer!r} has no piece of shape {tuple(shape)}")
    return pieces


def taken_key(initializer: Initializer, key: KeySource, target: Target) -> Key:
    """The key of what is about to be written, drawn last: raises first if no backend can serve the target."""
    if not initializer.random:
        return Key(0)
    registry.resolve(device_type(target))
    return resolve_key(key)


def sole_fill(initializer: Initializer, shape: Sequence[int]) -> Fill | None:
    """The fill of all of a tensor of (global) ``shape``; None if there are several, or it is structured."""
    if isinstance(initializer, Fill):
        return initializer
    first, *others = pieces_of(initializer, shape)
    found = first.initializer
    return found if not others and isinstance(found, Fill) and first.shape == tuple(shape) else None


@dataclass(frozen=True)
class Fill(Atom):
    """A numeric primitive. No fill knows a shape; every backend knows every fill."""

    distribution: ClassVar[str]
    stochastic: ClassVar[bool] = False  # how the float32 value is rounded to 16 and 8 bits

    random = True
    goes_short: ClassVar[bool] = True

    def sole(self, tensor: torch.Tensor) -> Fill:
        return self

    def draw(
        self,
        target: torch.Tensor,
        dtype: str,
        is_usual: bool,
        key: Key | None,
        generator: torch.Generator | None,
    ) -> None:
        """Fill all of a tensor that can be written, of a dtype that is served: as a plan of one does.

        Args:
            target: a tensor of torch's own.
            dtype: its dtype's name.
            is_usual: what :func:`~tritoninit.targets.check_usual` said of it.
            key: which random numbers; None to draw one.
            generator: of what it is drawn: PyTorch's default CPU generator if None.
        """
        device = device_type(target)
        backend = registry.resolve(device)
        parameters, seed, stream = self.parameters(dtype), 0, 0
        if self.random:
            seed, stream = (drawn_bits(generator), 0) if key is None else (key.seed, key.stream)
        stochastic = self.stochastic and dtype in GRIDS
        registry.fill_one(
            backend, target, device, dtype, is_usual, self.distribution, parameters, seed, stream, stochastic
        )

    def check(self, target: Target, window: Window) -> None:
        check_fill(self, target)

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        plan.append(target, self, key, window)

    @abstractmethod
    def parameters(self, dtype: str) -> tuple[Any, ...]:
        """The numbers that backends compute with, for elements of ``dtype``; see ``kernels.lowering``.

        Args:
            dtype: as "float32".

        Returns:
            The numbers, in the order of the distribution's in ``kernels.stream``.
        """

    @abstractmethod
    def times(self, factor: float) -> Fill: ...

    def stochastically(self) -> Fill:
        """The same, of which 16 and 8 bits are rounded up or down at random."""
        raise NotImplementedError(f"{type(self).__name__} has no stochastic rounding")

    def of_parts(self, dtype: str) -> Fill:
        """What the real and the imaginary part of a complex number are drawn from, independently.

        Args:
            dtype: as "complex64".

        Returns:
            The fill of either part.

        Raises:
            NotImplementedError: complex numbers have no such distribution.
        """
        name = type(self).__name__.lstrip("_")
        raise NotImplementedError(f"{name} of {dtype}: complex numbers have no order")


@dataclass(frozen=True)
class Constant(Fill):
    """Every element is ``value``, which may be infinite or NaN. Serves every dtype that can hold it.

    Formula:
        w = value

    Args:
        value: a number, complex ones for complex tensors; integers keep all of their digits.

    Raises:
        ParameterError: no number. What a dtype cannot hold raises when a tensor is filled.
    """

    value: float
    random = False
    distribution: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        if type(self.value) is not float:
            object.__setattr__(self, "value", _plain_constant(self.value))

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        value: Any = self.value
        if type(value) is float:
            return _known_constant(value, math.copysign(1.0, value), dtype)
        if isinstance(value, complex) and not dtype.startswith("complex"):
            if value.imag:
                raise lowering.ParameterError(f"value {value} has an imaginary part, unlike {dtype}")
            value = value.real
        return _constant_parameters(value, dtype)

    def times(self, factor: float) -> Constant:
        value = self.value * factor
        if math.isinf(abs(value)) and not math.isinf(abs(self.value)):
            raise lowering.RangeError(f"value is out of range: {self.value} times {factor}")
        return Constant(value)

    def stochastically(self) -> Fill:
        return self


@dataclass(frozen=True)
class Uniform(Fill):
    """The uniform distribution on [low, high): ``high`` itself never comes back, in any dtype.

    Both are rounded to float32 first. 16-bit and 8-bit elements stay within [low, high) after rounding, too.
    Bounds that are the same float32 number give that number, or are refused where it is not below ``high``.
    float64 has its own bounds. Of complex numbers both parts are uniform, as torch has them. What a dtype
    does not hold raises when a tensor is filled.

    Formula:
        w ~ U(low, high)

    Args:
        low: the least number that may come.
        high: what all numbers are below.

    Raises:
        ParameterError: no interval of float64 numbers.
    """

    low: float = 0.0
    high: float = 1.0
    distribution: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        lowering.make_plain(self, "low", "high")
        self.parameters(lowering.WIDEST)

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        return _uniform_parameters(self.low, self.high, dtype)

    def times(self, factor: float) -> Fill:
        return Uniform(self.low * factor, self.high * factor)

    def stochastically(self) -> Fill:
        return _StochasticUniform(self.low, self.high)

    def of_parts(self, dtype: str) -> Fill:
        return self


@dataclass(frozen=True)
class Normal(Fill):
    """The normal distribution, by Box-Muller; |z| reaches 6.66, in float64 9.42.

    Of complex numbers each part is N(mean, std**2 / 2), as torch has them: both together have the variance.
    Refused of a dtype if ``abs(mean) + 6.66 std`` (of float64, 9.42) is larger than any of its numbers, and
    at once if it is of float64.

    Formula:
        w ~ N(mean, std**2)

    Source:
        Box and Muller, Annals of Mathematical Statistics 29, 1958

    Args:
        mean: the mean.
        std: the standard deviation, not negative.

    Raises:
        ParameterError: a standard deviation that is negative, or numbers beyond float64's.
    """

    mean: float = 0.0
    std: float = 1.0
    distribution: ClassVar[str] = "normal"

    def __post_init__(self) -> None:
        lowering.make_plain(self, "mean", "std")
        lowering.normal(self.mean, self.std, lowering.WIDEST)

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        return lowering.normal(self.mean, self.std, dtype)

    def times(self, factor: float) -> Fill:
        return Normal(self.mean * factor, self.std * factor)

    def stochastically(self) -> Fill:
        return _StochasticNormal(self.mean, self.std)

    def of_parts(self, dtype: str) -> Fill:
        return Normal(self.mean, self.std / math.sqrt(2))


@dataclass(frozen=True)
class TruncatedNormal(Fill):
    """A normal distribution conditioned to [a, b], by the inverse of its distribution function.

    ``a`` and ``b`` are values, not multiples of ``std``, as in ``torch.nn.init.trunc_normal_``; either may be
    infinite. Refused of a dtype, and at once if it is of float64, if some of the values are larger than any
    of its numbers: those of [a, b] that lie within sqrt(6.66**2 + t**2) standard deviations of the mean,
    where t is how many it lies outside (9.42 for 6.66 in float64); and if none of its numbers is in [a, b].

    Formula:
        w ~ N(mean, std**2) "on" [a, b]

    Args:
        mean: of the normal, before it is cut.
        std: of the normal, before it is cut; positive. What is left has a smaller one.
        a: the least value.
        b: the greatest value.

    Raises:
        ParameterError: no such distribution, or values beyond float64's.
    """

    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0
    distribution: ClassVar[str] = "truncated_normal"

    def __post_init__(self) -> None:
        lowering.make_plain(self, "mean", "std", "a", "b")
        self.parameters(lowering.WIDEST)

    @classmethod
    def in_sigmas(
        cls,
        std: float = 1.0,
        lower: float = -2.0,
        upper: float = 2.0,
        *,
        mean: float = 0.0,
        corrected: bool = False,
    ) -> TruncatedNormal:
        """A normal cut at ``lower`` and ``upper`` of its standard deviations, away from the mean.

        As ``jax.nn.initializers.truncated_normal``, ``keras.initializers.TruncatedNormal`` and timm's
        ``trunc_normal_tf_`` have it, none of which corrects the variance.

        Args:
            std: the standard deviation; positive.
            lower: in standard deviations.
            upper: likewise.
            mean: of the normal before it is cut.
            corrected: ``std`` is that of what is left, as in :class:`~tritoninit.VarianceScaling`, not that
                of the normal that is cut, which is then wider.

        Returns:
            The fill, whose ``a`` and ``b`` are values.

        Raises:
            ParameterError: no such distribution.

        >>> TruncatedNormal.in_sigmas(0.02)
        TruncatedNormal(mean=0.0, std=0.02, a=-0.04, b=0.04)
        """
        std, lower, upper, mean = (
            lowering.plain(name, x)
            for name, x in (("std", std), ("lower", lower), ("upper", upper), ("mean", mean))
        )
        if corrected:
            std /= _std_within(lower, upper)
        return cls(mean, std, mean + lower * std, mean + upper * std)

    @property
    def is_far(self) -> bool:
        """Whether the mean is so far outside [a, b] that torch warns of what it would draw."""
        return self.mean < self.a - 2 * self.std or self.mean > self.b + 2 * self.std

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        return lowering.truncated_normal(self.mean, self.std, self.a, self.b, dtype)

    def times(self, factor: float) -> Fill:
        if not factor:  # a truncated normal has a standard deviation
            return Constant(0.0)
        return TruncatedNormal(self.mean * factor, self.std * factor, self.a * factor, self.b * factor)

    def stochastically(self) -> Fill:
        return _StochasticTruncatedNormal(self.mean, self.std, self.a, self.b)


# What :class:`~tritoninit.StochasticallyRounded` lowers to: the same distributions, other roundings.
@dataclass(frozen=True)
class _StochasticUniform(Uniform):
    stochastic: ClassVar[bool] = True

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        numbers = UniformNumbers(*super().parameters(dtype))
        return lowering.within_grid(numbers, dtype)

    def times(self, factor: float) -> Fill:
        return super().times(factor).stochastically()


@dataclass(frozen=True)
class _StochasticNormal(Normal):
    stochastic: ClassVar[bool] = True

    def times(self, factor: float) -> Fill:
        return super().times(factor).stochastically()

    def of_parts(self, dtype: str) -> Fill:
        return super().of_parts(dtype).stochastically()


@dataclass(frozen=True)
class _StochasticTruncatedNormal(TruncatedNormal):
    stochastic: ClassVar[bool] = True

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        numbers = TruncatedNormalNumbers(*super().parameters(dtype))
        return lowering.within_grid(numbers, dtype)

    def times(self, factor: float) -> Fill:
        return super().times(factor).stochastically()


def _std_within(lower: float, upper: float) -> float:
    """The standard deviation of a standard normal that is conditioned to [lower, upper]."""
    ends = (lower, upper)
    if not lower < upper or (max(map(abs, ends)) > 8 and lower * upper > 0):
        raise lowering.ParameterError(f"no normal is left within [{lower}, {upper}] standard deviations")
    density = [math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) for x in ends]
    below = [math.erfc(-x / math.sqrt(2)) / 2 for x in ends]
    mass = below[1] - below[0]
    moment = [x * d if d else 0.0 for x, d in zip(ends, density, strict=True)]
    return math.sqrt(1 + (moment[0] - moment[1]) / mass - ((density[0] - density[1]) / mass) ** 2)


@lru_cache(maxsize=4096)
def _uniform_parameters(low: float, high: float, dtype: str) -> tuple[float, ...]:
    lowering.check_range("low", low, dtype)
    lowering.check_range("high", high, dtype)
    return lowering.uniform(low, high, dtype)


def _constant_parameters(value: Any, dtype: str) -> tuple[Any, ...]:
    if dtype in FLOAT8:
        lowering.check_held(value, dtype)
    elif dtype in lowering.PARTS:
        lowering.check_parts_held(value, dtype)
    elif dtype in lowering.FLOAT_DTYPES and math.isfinite(value):
        lowering.check_range("value", value, dtype)
    return lowering.constant(value, dtype)


@lru_cache(maxsize=4096)
def _known_constant(value: float, sign: float, dtype: str) -> tuple[Any, ...]:
    """Of a float; the sign tells zeros apart, which are equal."""
    return _constant_parameters(value, dtype)


def _plain_constant(x: Any) -> Any:
    """As Python's float, as its integer, which has all of its digits, or as its complex number."""
    value = lowering.scalar("value", x)
    if isinstance(value, complex):
        return complex(value)
    number = lowering.plain("value", value)
    if isinstance(value, int):
        return value if type(value) is bool else int(value)
    return number
