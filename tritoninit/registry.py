"""Who writes the elements: the backends, and which of them serves a device."""

from __future__ import annotations

import contextvars
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch

from tritoninit._collector import collector_paused
from tritoninit._on_import import BACKEND
from tritoninit._on_import import ENVIRONMENT_VARIABLE as ENVIRONMENT_VARIABLE
from tritoninit.kernels.stream import Alike, Draw, row_major_strides
from tritoninit.targets import Target, as_array, device_type, dtype_name
from tritoninit.tracing.private import untraced

increment_version = torch.autograd.graph.increment_version
FillFunction = Callable[[Sequence[tuple[Target, Draw]]], None]
# Writes what it was made for, by seeds: int64, one for each of the copies.
SeedFunction = Callable[[torch.Tensor], None]

_STAGE = 1 << 22  # elements that pass through host memory at a time, on the way to a device


@dataclass(frozen=True, eq=False)  # each is itself, and quickly hashed
class Backend:
    """A way to write elements.

    Attributes:
        name: what the registry, ``use_backend`` and the command line call it.
        devices: the torch device types that it serves unasked, where it is available.
        unavailable: given a device type, why it cannot serve that here, or None if it can.
        load: imports what the backend needs and returns its fill function, which writes draws into targets
            that do not overlap: ``fill([(target, draw), ...])``. A target may require a gradient.
        keep: likewise returns what writes the same draws again and again; None if it has no such.
        many: likewise returns what writes, beside ``items``, many that are alike, ``many(items, alike)``;
            None if all are items to it.
        short: likewise returns what writes all of one tensor of the CPU sooner than ``load``'s does, if it is
            contiguous, not empty and not rounded at random:
            ``short(target, dtype, distribution, parameters, seed, stream)``.
        look: likewise returns what finds out, without waiting for a device, which of its tensors are one
            number throughout: contiguous floats of 16 bits or more, of one dtype, none of them empty.
    """

    name: str
    devices: frozenset[str]
    unavailable: Callable[[str], str | None]
    load: Callable[[], FillFunction]
    keep: Callable[[], Callable[..., Kept]] | None = None
    many: Callable[[], Callable[[Sequence[tuple[Target, Draw]], Sequence[Alike]], None]] | None = None
    look: Callable[[], Callable[[Sequence[torch.Tensor]], Seen]] | None = None
    short: Callable[[], Callable[..., None]] | None = None


class Seen(Protocol):
    """What becomes known of tensors that a device looks at."""

    def numbers(self) -> list[float | None]:
        """The number that each of them was throughout, if it was one."""


class Kept(Protocol):
    """Draws that a backend keeps, to write them again and again by other seeds.

    It is made of items, a count and strides. Items are targets that do not overlap, and their draws, whose
    seeds do not count; each is the first of so many of its kind, and a stride is the bytes from one of these
    to the next.

    Attributes:
        left: items, with their strides, that it does not serve.
    """

    @property
    def left(self) -> Sequence[tuple[tuple[torch.Tensor, Draw], int]]: ...

    def write(self, seeds: torch.Tensor) -> None:
        """Write them by seeds: int64, on the targets' device; the k-th is that of the k-th of each."""


_REGISTRY: dict[str, Backend] = {}
# The environment is read once: asking it costs as much as all else that a fill has to ask.
_OVERRIDE = contextvars.ContextVar("tritoninit_backend", default=BACKEND)


def register(backend: Backend) -> None:
    """Add a backend. Among those that serve a device, the one registered first is preferred.

    Args:
        backend: whose name is a new one.

    Raises:
        ValueError: the name is taken.
    """
    if backend.name in _REGISTRY:
        raise ValueError(f"backend {backend.name!r} is registered already")
    _REGISTRY[backend.name] = backend


def get(name: str) -> Backend:
    """The backend of that name.

    Args:
        name: as :func:`backends` lists them.

    Returns:
        The backend, be it available here or not.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    try:
        return _REGISTRY[name]
    except KeyError:
        raise ValueError(f"unknown backend {name!r}; known are {', '.join(_REGISTRY)}") from None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every fill in the block by one backend, whatever the device. Nests; local to the context.

    Args:
        name: as :func:`~tritoninit.backends` lists them.

    Returns:
        A context manager.

    Raises:
        ValueError: there is no such backend.

    >>> with use_backend("numpy"):
    ...     resolve("cpu").name
    'numpy'
    """
    get(name)
    token = _OVERRIDE.set(name)
    try:
        yield
    finally:
        _OVERRIDE.reset(token)


def override() -> Backend | None:
    """The backend that ``use_backend`` names, or else ``TRITONINIT_BACKEND`` as it was on import; None if
    neither does.

    Raises:
        ValueError: it is unknown.
    """
    name = overriding()
    return get(name) if name else None


def overriding() -> str | None:
    """The name of the :func:`override`, whether it is known or not."""
    return _OVERRIDE.get() or None


# What NumPy draws before numba is imported, in elements, of which a call counts for _CALL: a tenth of the
# time that the import takes. None is left once somebody has asked for numba.
early = 1 << 21
_CALL = 1 << 13


def serving(target: Target) -> Backend:
    """Who is to write a target now: as :func:`resolve`, or NumPy, while that is done before numba is there.

    Args:
        target: to be filled, all of it.

    Returns:
        The backend.

    Raises:
        ValueError, RuntimeError: as :func:`resolve`.
    """
    global early
    device = device_type(target)
    if early and device == "cpu" and not _OVERRIDE.get():
        elements = target.numel() if isinstance(target, torch.Tensor) else target.size
        early = max(0, early - elements - _CALL)
        if early:
            return _NUMPY
    return resolve(device)


def check_served(device: str) -> None:
    """Raise what :func:`resolve` would, without a look at numba, in whose place NumPy always can.

    Args:
        device: torch's name of its type.

    Raises:
        ValueError, RuntimeError: as :func:`resolve`.
    """
    if device != "cpu" or _OVERRIDE.get():
        resolve(device)


def resolve(device: str) -> Backend:
    """The backend that serves a device type: the :func:`override` if there is one, else the first available.

    A device that no backend serves goes through the CPU's, with a warning the first time; the bits are the
    same, the speed is not.

    Args:
        device: torch's name of its type, as "cpu" or "cuda".

    Returns:
        The backend.

    Raises:
        ValueError: the override is unknown.
        RuntimeError: the override cannot run here.
    """
    if _OVERRIDE.get() and (backend := override()) is not None:
        # A CPU backend serves devices that are not its own by way of host memory.
        staged = "cpu" in backend.devices and device not in backend.devices
        reason = backend.unavailable("cpu" if staged else device)
        if reason:
            raise RuntimeError(f"backend {backend.name!r} cannot serve {device!r}: {reason}")
        return backend
    reasons = []
    for backend in _REGISTRY.values():
        if device in backend.devices:
            reason = backend.unavailable(device)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
    if device == "cpu":
        raise RuntimeError("no backend serves the CPU: " + "; ".join(reasons))
    host = resolve("cpu")
    _warn_once(device, host.name, "; ".join(reasons) or "no backend knows it")
    return host


@cache
def _warn_once(device: str, host: str, reasons: str) -> None:
    warnings.warn(
        f"{device} tensors are filled by the {host!r} backend on the CPU and copied: same values, slower. "
        f"Reason: {reasons}",
        RuntimeWarning,
        stacklevel=2,
    )


def fill(backend: Backend, items: Sequence[tuple[Target, Draw]], alike: Sequence[Alike] = ()) -> None:
    """Write draws into targets that do not overlap, in as few launches as the backend can.

    A backend of the CPU's serves another device's tensors by way of bounded host memory.
    """
    write = backend.load()
    if alike and backend.many is None:
        items = [*items, *(item for each in alike for item in each.items())]
        alike = ()
    direct = items
    if "cpu" in backend.devices:
        direct = []
        for target, draw in items:
            if device_type(target) in backend.devices:
                direct.append((target, draw))
                continue
            assert isinstance(target, torch.Tensor)
            for piece, part in _pieces(target.detach(), draw):
                staged = torch.empty(piece.shape, dtype=piece.dtype, device="cpu")
                write([(staged, part)])
                piece.copy_(staged)
    changed = [x for x, _ in direct if isinstance(x, torch.Tensor) and not x.is_inference()]
    for each in alike:
        changed += each.targets
    torch.autograd.graph.increment_version(changed)
    if alike and backend.many is not None:
        backend.many()(direct, alike)
    else:
        write(direct)


def fill_one(
    backend: Backend,
    target: torch.Tensor,
    device: str,
    dtype: str,
    is_usual: bool,
    distribution: str,
    parameters: tuple[Any, ...],
    seed: int,
    stream: int,
    stochastic: bool,
) -> None:
    """As :func:`fill`, of all of one tensor: of a small one all else takes as long as the draw.

    Args:
        backend: that serves it.
        target: the tensor.
        device: its device's type.
        dtype: its dtype's name.
        is_usual: whether it is contiguous, not empty, and none of inference mode's.
        distribution: as a :class:`Draw` has it.
        parameters: likewise.
        seed: likewise.
        stream: likewise.
        stochastic: likewise.
    """
    is_staged = device not in backend.devices and "cpu" in backend.devices
    if not is_staged and (is_usual or not target.is_inference()):
        increment_version(target)
    if is_usual and device == "cpu" and not stochastic and backend.short is not None:
        backend.short()(target, dtype, distribution, parameters, seed, stream)
        return
    # Of what is contiguous its own strides are as good: those of one element lead nowhere.
    strides = target.stride() if is_usual or target.is_contiguous() else row_major_strides(target.shape)
    items = [(target, Draw(distribution, parameters, seed, stream, 0, strides, stochastic))]
    if is_staged:
        fill(backend, items)
    else:
        backend.load()(items)


def keep(
    backend: Backend, items: Sequence[tuple[torch.Tensor, Draw]], strides: Sequence[int], count: int
) -> SeedFunction:
    """What writes draws into tensors of one device by other seeds, again and again.

    The arguments are those of :class:`Kept`; what a backend does not keep is filled anew, one by one.
    """
    left = list(zip(items, strides, strict=True))
    kept: Kept | None = None
    staged = "cpu" in backend.devices and device_type(items[0][0]) not in backend.devices
    if backend.keep is not None and not staged:
        kept = backend.keep()(items, strides, count)
        left = list(kept.left)

    def write(seeds: torch.Tensor) -> None:
        if kept is not None:
            kept.write(seeds)
        if left:
            plain = [seed & _MASK for seed in seeds.tolist()]
            for (target, draw), stride in left:
                fill(
                    backend,
                    [(_moved(target, k * stride), draw._replace(seed=seed)) for k, seed in enumerate(plain)],
                )

    return write


_MASK = 0xFFFFFFFFFFFFFFFF


def _moved(target: torch.Tensor, by: int) -> torch.Tensor:
    """What lies so many bytes behind a tensor, and in the same way."""
    begin = target.storage_offset() + by // target.itemsize
    return target.detach().as_strided(target.shape, target.stride(), begin)


def _pieces(target: torch.Tensor, draw: Draw) -> Iterator[tuple[torch.Tensor, Draw]]:
    """Cut a tensor along its leading dimensions into pieces of at most ``_STAGE`` elements."""
    if target.numel() <= _STAGE:
        yield target, draw
        return
    row = target.numel() // target.shape[0]
    step = max(1, _STAGE // row)
    for first in range(0, target.shape[0], step):
        part = draw._replace(start=draw.start + first * draw.strides[0])
        if row <= _STAGE:
            yield target[first : first + step], part
        else:
            yield from _pieces(target[first], part._replace(strides=draw.strides[1:]))


@dataclass(frozen=True)
class Status:
    """A backend as it stands on this machine: ``unavailable`` is the reason why not, or None."""

    name: str
    devices: tuple[str, ...]
    unavailable: str | None

    @property
    def available(self) -> bool:
        return self.unavailable is None


def backends() -> list[Status]:
    """Which backends there are, which are available here, and why not.

    Returns:
        One :class:`~tritoninit.registry.Status` a backend, in the order in which they are preferred.
    """
    return [Status(b.name, tuple(sorted(b.devices)), _first_reason(b)) for b in _REGISTRY.values()]


def _first_reason(backend: Backend) -> str | None:
    reasons = [backend.unavailable(device) for device in sorted(backend.devices)]
    return None if None in reasons else reasons[0]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


@untraced
def _load_numpy() -> FillFunction:
    from tritoninit.kernels import reference

    return partial(_fill_arrays, reference.fill_many)


@cache
@untraced
def _load_numba() -> FillFunction:
    with collector_paused():
        from tritoninit.kernels import numba_kernels

    def write(items: Sequence[tuple[Target, Draw]]) -> None:
        if len(items) == 1:
            ((target, draw),) = items
            if isinstance(target, torch.Tensor) and numba_kernels.fill_contiguous(target, draw):
                return
        _fill_arrays(numba_kernels.fill_many, items)

    return write


@cache
@untraced
def _short_numba() -> Callable[..., None]:
    _load_numba()
    from tritoninit.kernels import numba_kernels

    return numba_kernels.fill_run


def _fill_arrays(fill_many: Callable[..., None], items: Sequence[tuple[Target, Draw]]) -> None:
    arrays = [(as_array(target), dtype_name(target), draw) for target, draw in items]
    fill_many(arrays, threads=torch.get_num_threads())


@cache
@untraced
def _keep_numba() -> Callable[..., Kept]:
    from tritoninit.kernels.numba_kernels import Table, is_run

    class OnCPU:
        """Kept draws of CPU tensors."""

        def __init__(
            self, items: Sequence[tuple[torch.Tensor, Draw]], strides: Sequence[int], count: int
        ) -> None:
            found, self.left = [], []
            for item, stride in zip(items, strides, strict=True):
                if is_run(*item):
                    found.append((item, stride))
                elif item[0].numel():
                    self.left.append((item, stride))
            arrays = [(as_array(target), dtype_name(target), draw) for (target, draw), _ in found]
            self._table = Table(arrays, [stride for _, stride in found], count) if found else None

        def write(self, seeds: torch.Tensor) -> None:
            if self._table is not None:
                self._table.write(seeds.numpy().view(np.uint64), torch.get_num_threads())

    return OnCPU


@cache
@untraced
def _keep_triton() -> Callable[..., Kept]:
    _load_triton()
    from tritoninit.kernels.triton_kernels import KeptTable

    return KeptTable


@cache
@untraced
def _numba_unavailable(device: str) -> str | None:
    global early
    if device != "cpu":
        return f"it does not serve {device!r}"
    early = 0
    try:
        if importlib.util.find_spec("numba") is None:
            return "numba is not installed (pip install numba)"
        _load_numba()
    except ImportError as error:  # numba refuses a NumPy newer than it knows
        reason = f"numba cannot be imported: {_first_line(error)}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - nor may what else goes wrong there stop a fill
        reason = f"numba cannot be imported: {type(error).__name__}: {_first_line(error)}"
    else:
        return None
    warnings.warn(
        f"{reason.rstrip('.')}. NumPy fills instead: same values, slower", RuntimeWarning, stacklevel=2
    )
    return reason


def interpreting() -> bool:
    """Whether Triton, if imported now, runs its kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@cache
@untraced
def _load_triton() -> FillFunction:
    import triton

    from tritoninit.kernels import triton_kernels

    if not isinstance(triton_kernels.run_kernel, triton.JITFunction):
        from tritoninit.kernels import interpreter

        interpreter.make_exact()

    def write(items: Sequence[tuple[Target, Draw]]) -> None:
        if len(items) == 1:
            ((target, draw),) = items
            if isinstance(target, torch.Tensor):
                triton_kernels.fill(target, draw)
                return
        triton_kernels.fill_many(
            [
                (target if isinstance(target, torch.Tensor) else torch.from_numpy(target), draw)
                for target, draw in items
            ]
        )

    return write


@cache
@untraced
def _many_triton() -> Callable[[Sequence[tuple[Any, Draw]], Sequence[Alike]], None]:
    _load_triton()
    from tritoninit.kernels import triton_kernels

    return triton_kernels.fill_many


@cache
@untraced
def _look_triton() -> Callable[[Sequence[torch.Tensor]], Seen]:
    from tritoninit.kernels import triton_constants

    return triton_constants.look


@cache
@untraced
def _triton_unavailable(device: str) -> str | None:
    if device == "cpu":
        return (
            None if interpreting() else "it serves the CPU in Triton's interpreter alone (TRITON_INTERPRET=1)"
        )
    if device != "cuda":
        return f"it does not serve {device!r}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA or ROCm device"
    try:
        if reason := _miscompiled():
            return reason
        probe = torch.empty(1, device=device, dtype=torch.bfloat16)
        _load_triton()([(probe, Draw("normal", (0.0, 1.0), 0, 0, 0, (1,)))])
    except torch.OutOfMemoryError:  # says nothing of Triton, and passes
        raise
    except Exception as error:  # noqa: BLE001 - whatever stops Triton (no compiler, an old GPU) is shown
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _miscompiled() -> str | None:
    """Why a GPU here would get other bits from this Triton's assembler than from others, or None.

    ptxas 12.9, which Triton 3.6 brings for GPUs from compute capability 10.0 on, joins a packed product
    and sum (mul.rn.f32x2, add.rn.f32x2), which PTX says are rounded apart, to one FFMA2; that of Triton 3.7,
    13.1, does not (``tritoninit check --emulate sm_100``). One such GPU is enough to refuse: backends serve
    types of devices.
    """
    if torch.version.hip is not None:
        return None
    capability = max(torch.cuda.get_device_capability(k) for k in range(torch.cuda.device_count()))
    if capability < (10, 0):
        return None
    from triton import knobs

    ptxas = getattr(knobs.nvidia, "ptxas_blackwell", knobs.nvidia.ptxas).version
    if tuple(int(part) for part in ptxas.split(".")[:2]) >= (13, 1):
        return None
    return (
        f"ptxas {ptxas} rounds a product and a sum as one for GPUs of compute capability"
        f" {capability[0]}.{capability[1]}; that of Triton 3.7 does not"
    )


register(
    Backend(
        "triton",
        frozenset({"cuda"}),
        _triton_unavailable,
        _load_triton,
        _keep_triton,
        _many_triton,
        _look_triton,
    )
)
register(
    Backend("numba", frozenset({"cpu"}), _numba_unavailable, _load_numba, _keep_numba, short=_short_numba)
)
_NUMPY = Backend("numpy", frozenset({"cpu"}), lambda _: None, _load_numpy)
register(_NUMPY)
