"""Initializers that draw nothing: each number is a function of its place in the tensor.

Computed in float64 on the host and rounded once to the tensor's dtype, so that they are the same wherever
they are written, as far as two mathematical libraries agree on a float64 number's last place.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tritoninit.fans import Axes
from tritoninit.fills import Initializer
from tritoninit.kernels.lowering import (
    FLOAT_DTYPES,
    PARTS,
    ROUNDED_DTYPES,
    ParameterError,
    integer,
    integers,
    make_plain,
)
from tritoninit.keys import Key
from tritoninit.structured import Structured
from tritoninit.targets import Target, device_of, dtype_name
from tritoninit.window import Window

_SERVED = (*FLOAT_DTYPES, *PARTS)
_WINDOWS = {"hann": (0.5, 0.5), "hamming": (0.54, 0.46)}  # a - b cos(2 pi t / period)


@dataclass(frozen=True)
class Table(Structured):
    """An initializer whose numbers are a function of their places. To derive from."""

    random = False

    @abstractmethod
    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless there is a table of that (global) shape.

        Args:
            shape: of the whole (global) table.

        Raises:
            ValueError: there is none.
        """

    @abstractmethod
    def values(self, places: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """The numbers, in float64, at places of a table of ``shape``: open arrays of indices.

        Args:
            places: an array of indices a dimension, of shapes that broadcast.
            shape: of the whole (global) table.

        Returns:
            The numbers, real or complex, of a shape that broadcasts to that of the places.
        """

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self  # of the whole shape, whatever lies in it

    def check(self, target: Target, window: Window) -> None:
        if dtype_name(target) not in _SERVED:
            what = f"{type(self).__name__} of {dtype_name(target)}"
            raise NotImplementedError(f"{what}: tables serve {', '.join(_SERVED)}")
        self.check_shape(window.global_shape)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        ends = zip(window.offsets, target.shape, strict=True)
        places = np.ix_(*(np.arange(begin, begin + size) for begin, size in ends))
        values = np.broadcast_to(self.values(places, window.global_shape), tuple(target.shape))
        found = torch.from_numpy(np.array(values)).reshape(tuple(target.shape))
        dtype = dtype_name(target)
        if dtype in ROUNDED_DTYPES or PARTS.get(dtype) in ROUNDED_DTYPES:  # of 16 bits, too, by way of these
            found = found.to(torch.complex64 if found.is_complex() else torch.float32)
        return found.to(device_of(target))


@dataclass(frozen=True)
class STFT(Table):
    """The kernel of a short-term Fourier transform, the weight (F // 2 + 1, 1, T) of a ``nn.Conv1d``.

    As ``keras.initializers.STFTInitializer``, whose kernels are (T, 1, F // 2 + 1).

    Formula:
        w[k, 0, t] = window[t] cos(2 pi t k / F) / scale
        "or" w[k, 0, t] = -window[t] sin(2 pi t k / F) / scale

    Args:
        side: "real" or "imag".
        window: "hann", "hamming" or None.
        scaling: "density" divides by the window's norm, "spectrum" by its sum, None by nothing.
        periodic: the window has a period of T, not of T - 1.

    Raises:
        ParameterError: an argument that is none of these.
    """

    side: str
    window: str | None = "hann"
    scaling: str | None = "density"
    periodic: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("side", ("real", "imag")),
            ("window", (*_WINDOWS, None)),
            ("scaling", ("density", "spectrum", None)),
        ):
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} should be one of {known}, not {getattr(self, name)!r}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or shape[1] != 1:
            raise ValueError(f"a transform's kernel is (F // 2 + 1, 1, T), unlike {shape}")

    def values(self, places: Sequence[Any], shape: tuple[int, ...]) -> Any:
        frequency, _, time = places
        angles = -2 * math.pi * time * frequency / max(2 * (shape[0] - 1), 1)
        kernel = np.cos(angles) if self.side == "real" else np.sin(angles)
        if self.window is None:
            return kernel
        whole = self._window(np.arange(shape[2]), shape[2])
        scale = {"density": np.sqrt((whole**2).sum()), "spectrum": np.abs(whole).sum(), None: 1.0}[
            self.scaling
        ]
        return kernel * self._window(time, shape[2]) / scale

    def _window(self, time: Any, length: int) -> Any:
        base, swing = _WINDOWS[str(self.window)]
        period = length if self.periodic else length - 1
        if length == 1:
            return np.ones(np.shape(time))
        return base - swing * np.cos(2 * math.pi * time / period)


@dataclass(frozen=True)
class Sinusoids(Table):
    """Fixed positions: (length, width), or more dimensions before them that are all alike.

    Formula:
        w[p, 2 k] = sin(p base**(-2 k / width))
        w[p, 2 k + 1] = cos(p base**(-2 k / width))

    Source:
        Vaswani et al., NeurIPS 2017, section 3.5

    Args:
        base: of the geometric sequence of periods.
        halves: all sines lie before all cosines, as in most code; else they take turns, as in the paper.
        grid: the (height, width) of an image's patches, in rows, of which the first half of the numbers tells
            the column and the other the row, each as a table of its own in halves: DiT and MAE
            (``get_2d_sincos_pos_embed``).
        extra: how many positions come before the grid's, such as a class token's, that are zero.
        closed: the last pair has ``base`` itself, by the exponent -k / (width / 2 - 1), as in Tensor2Tensor,
            fairseq and Whisper.

    Raises:
        ParameterError: a base that is not positive and finite, or no grid.
    """

    base: float = 10000.0
    halves: bool = False
    grid: tuple[int, ...] | None = None
    extra: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        make_plain(self, "base")
        object.__setattr__(self, "extra", integer("extra", self.extra))
        if self.grid is not None:
            object.__setattr__(self, "grid", integers("grid", self.grid))
            if len(self.grid) != 2 or min(self.grid) < 1:
                raise ParameterError(f"a grid is (height, width), not {self.grid}")
        if not 0 < self.base < math.inf or self.extra < 0:
            raise ParameterError("base is positive and finite, extra not negative")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2:
            raise ValueError(f"positions are (length, width), unlike {shape}")
        parts = 2 if self.grid is None else 4
        if shape[-1] % parts:
            raise ValueError(f"a width of {shape[-1]} does not go into {parts} parts")
        if self.grid is not None and shape[-2] != self.extra + math.prod(self.grid):
            raise ValueError(f"{shape[-2]} positions are no {self.extra} and a grid of {self.grid}")

    def values(self, places: Sequence[Any], shape: tuple[int, ...]) -> Any:
        position, column, width = places[-2] - self.extra, places[-1], shape[-1]
        if self.grid is None:
            return np.where(position < 0, 0.0, self._wave(position, column, width, self.halves))
        half = width // 2
        along = np.where(column < half, position % self.grid[1], position // self.grid[1])
        return np.where(position < 0, 0.0, self._wave(along, column % half, half, True))

    def _wave(self, position: Any, column: Any, width: int, halves: bool) -> Any:
        pair = column % (width // 2) if halves else column // 2
        cosine = column >= width // 2 if halves else column % 2 == 1
        exponent = -pair / max(width // 2 - 1, 1) if self.closed else -2.0 * pair / width
        angle = position * self.base**exponent
        return np.where(cosine, np.cos(angle), np.sin(angle))


_EIGENVALUES = ("real", "lin", "inv")
_PARTS = ("whole", "log_decay", "frequency")


@dataclass(frozen=True)
class S4D(Table):
    """The diagonal state matrices of S4D, along the last dimension.

    States n count from 0, and N is twice the size of that dimension, which holds one of each conjugate
    pair; it plays no part where the eigenvalues are real.

    Formula:
        "real:" lambda[n] = -(n + 1)
        "lin:" lambda[n] = -1 / 2 + i pi n
        "inv:" lambda[n] = -1 / 2 + i (N / pi) (N / (2 n + 1) - 1)

    Source:
        Gu, Goel, Gupta and Ré, NeurIPS 2022

    Args:
        kind: "real", "lin" or "inv".
        part: "whole", for complex tensors unless it is real; "log_decay", the logarithm of minus the real
            part, which is Mamba's ``A_log`` if real; or "frequency", the imaginary part.

    Raises:
        ParameterError: an argument that is none of these.
    """

    kind: str = "real"
    part: str = "log_decay"

    def __post_init__(self) -> None:
        for name, known in (("kind", _EIGENVALUES), ("part", _PARTS)):
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} should be one of {known}, not {getattr(self, name)!r}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if not shape:
            raise ValueError("states lie along the last dimension, and there is none")

    def check(self, target: Target, window: Window) -> None:
        super().check(target, window)
        if self.part == "whole" and self.kind != "real" and "complex" not in dtype_name(target):
            raise ValueError(f"{self} is complex, unlike {dtype_name(target)}")

    def values(self, places: Sequence[Any], shape: tuple[int, ...]) -> Any:
        n, count = places[-1], 2 * shape[-1]
        decay, frequency = (n + 1.0, 0.0 * n) if self.kind == "real" else (0.5 + 0.0 * n, math.pi * n)
        if self.kind == "inv":
            frequency = count / math.pi * (count / (2 * n + 1) - 1)
        if self.part == "whole":
            return -decay if self.kind == "real" else -decay + 1j * frequency
        return np.log(decay) if self.part == "log_decay" else frequency
