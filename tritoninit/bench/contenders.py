"""Who fills tensors in the benchmarks, and the check that comes before anyone is timed.

A backend of ours has to write the reference's bits. A peer has to write the same distribution, in the same
dtype. A contender that cannot do something does not appear in its rows.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tritoninit import registry
from tritoninit.auditing.moments import expected, measure, scores
from tritoninit.bench import curand_device
from tritoninit.bench.device import DEVICE
from tritoninit.bench.sizes import brief
from tritoninit.bench.torch_equivalents import torch_equivalent
from tritoninit.fills import Constant, Fill, Normal, TruncatedNormal, Uniform
from tritoninit.keys import Key
from tritoninit.plan import Plan
from tritoninit.targets import as_array
from tritoninit.window import Window

FILLS: dict[str, Fill] = {
    "uniform": Uniform(-0.1, 0.1),
    "normal": Normal(0.0, 0.02),
    "truncated_normal": TruncatedNormal(0.0, 0.02, -0.04, 0.04),
}
# Of 16 bits, rounded up or down at random: nobody else has such fills.
STOCHASTIC = "stochastic_normal"
SUBJECTS = FILLS | {STOCHASTIC: FILLS["normal"].stochastically()}
KEY = Key(0)
CHECKED = 2**20  # elements at the beginning of a tensor, and as many at its end
# Standard errors of a mean or a standard deviation: fewer than one right sample of 10**7 is farther off.
_ERRORS = 6.0


class WrongValues(AssertionError):
    """What a contender wrote is not what it was to write."""


class Prepared(NamedTuple):
    """A contender about to fill a ring of buffers.

    Attributes:
        call: fills the next and returns it, or the array of the library's own that takes its place.
        wait: returns when what ``call`` has queued is done, where synchronising CUDA does not tell.
    """

    call: Callable[[], Any]
    wait: Callable[[], object] = lambda: None


Prepare = Callable[[Fill, Sequence[Tensor]], Prepared]


@dataclass(frozen=True)
class Contender:
    """Someone who fills tensors.

    Attributes:
        name: as results have it.
        ours: whether it is a backend of this library.
        prepare: readies it to draw a fill into a ring of tensors.
        unavailable: why it cannot run here, or None if it can.
        serves: whether it draws this fill in this dtype.
        threaded: whether it can be told how many threads to use.
    """

    name: str
    ours: bool
    prepare: Prepare
    unavailable: Callable[[], str | None] = lambda: None
    serves: Callable[[Fill, torch.dtype], bool] = lambda fill, dtype: True
    threaded: bool = True


def _in_place(write: Callable[[Fill, Tensor], Tensor]) -> Prepare:
    """A contender that writes to the tensors it is given."""

    def prepare(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
        ring = cycle(buffers)
        return Prepared(lambda: write(fill, next(ring)))

    return prepare


def ours() -> list[str]:
    """The backends that serve the device here, in the registry's order: the first is the default."""
    return [each.name for each in registry.backends() if each.available and DEVICE in each.devices]


def default() -> str:
    return registry.resolve(DEVICE).name


def _by_backend(fill: Fill, tensor: Tensor) -> Tensor:
    return fill(tensor, key=KEY)


def _prepare_memset(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    """Zeros, stored as float32: PyTorch's of 16 bits reach 71 % of the bytes a second on an H200."""
    ring = cycle([(each, each.view(torch.float32)) for each in buffers])

    def call() -> Tensor:
        tensor, words = next(ring)
        words.zero_()
        return tensor

    return Prepared(call)


def _prepare_torch(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    write, ring = torch_equivalent(fill), cycle(buffers)
    return Prepared(lambda: write(next(ring)))


def _prepare_numpy_generator(bits: str, fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    """A Generator of NumPy's, which draws into memory it is given; scaled there."""
    generator = np.random.Generator(getattr(np.random, bits)(0))
    ring = cycle([(tensor, as_array(tensor)) for tensor in buffers])

    def uniform(low: float, high: float) -> Tensor:
        tensor, array = next(ring)
        generator.random(out=array, dtype=np.float32)
        array *= high - low
        array += low
        return tensor

    def normal(mean: float, std: float) -> Tensor:
        tensor, array = next(ring)
        generator.standard_normal(out=array, dtype=np.float32)
        array *= std
        if mean:
            array += mean
        return tensor

    match fill:
        case Uniform(low, high):
            return Prepared(partial(uniform, low, high))
        case Normal(mean, std):
            return Prepared(partial(normal, mean, std))
    raise NotImplementedError(type(fill).__name__)


def _import(name: str) -> Any:
    """A library that few have, so that type checkers know nothing of it."""
    return importlib.import_module(name)


def _prepare_cupy(method: str, fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    """The host interface of cuRAND, or on AMD of rocRAND (which CuPy calls by hipRAND), by RandomState.

    One pass for normals, whatever their std.
    Uniforms take two more, in place: CuPy puts 0 for cuRAND's 1, and then scales. CuPy's Generators run
    cuRAND's device interface on a fixed number of threads, and would scale normals in passes, too. Arrays are
    new each time, from CuPy's pool; a ring of them keeps each in memory of its own.
    """
    cupy = _import("cupy")
    state = cupy.random.RandomState(np.uint64(0), getattr(cupy.cuda.curand, method))
    size = buffers[0].numel()
    match fill:
        case Uniform(low, high):
            draw = partial(state.uniform, low, high, size, np.float32)
        case Normal(mean, std):
            draw = partial(state.normal, mean, std, size, np.float32)
        case _:
            raise NotImplementedError(type(fill).__name__)
    ring: deque[Any] = deque(cupy.zeros(size, np.float32) for _ in buffers)

    def call() -> Any:
        ring.popleft()  # back to the pool, which hands out the same memory again
        ring.append(draw())
        return ring[-1]

    return Prepared(call)


def _cupy_unavailable(amd: bool) -> str | None:
    if DEVICE != "cuda":
        return "CuPy fills GPU memory only"
    if amd != bool(torch.version.hip):
        return f"{'rocRAND is for AMD' if amd else 'cuRAND is for NVIDIA'}'s GPUs"
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed"
    try:
        _import("cupy").zeros(1)
    except Exception as error:  # noqa: BLE001 - whatever stops CuPy (another CUDA, a missing library) is shown
        return f"cupy cannot run: {error}"
    return None


def _prepare_curand_device(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    match fill:
        case Uniform(low, high):
            draw, shift, scale = "curand_uniform4", low, high - low
        case Normal(mean, std):
            draw, shift, scale = "curand_normal4", mean, std
        case _:
            raise NotImplementedError(type(fill).__name__)
    write, ring = curand_device.filler(draw, buffers[0].dtype, shift, scale), cycle(buffers)
    return Prepared(lambda: write(next(ring)))


@cache
def _curand_device_unavailable() -> str | None:
    if (why := _cupy_unavailable(amd=False)) is not None:
        return why
    return _tried("cuRAND's device interface", _prepare_curand_device, torch.float32)


def _curand_device_serves(fill: Fill, dtype: torch.dtype) -> bool:
    return isinstance(fill, (Uniform, Normal)) and dtype in curand_device.dtypes()


def _prepare_flag_gems(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    """FlagGems' Triton kernels, by its functions: what ``flag_gems.use_gems()`` puts in torch's place."""
    gems = _import("flag_gems")
    match fill:
        case Uniform(low, high):
            draw: Callable[[Tensor], Tensor] = lambda tensor: gems.uniform_(tensor, low, high)  # noqa: E731
        case Normal(mean, std):
            draw = lambda tensor: gems.normal_(tensor, mean, std)  # noqa: E731
        case _:
            raise NotImplementedError(type(fill).__name__)
    ring = cycle(buffers)
    return Prepared(lambda: draw(next(ring)))


def _prepare_jax(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    """``jax.random``, compiled, into donated arrays, which is how JAX writes in place.

    On the CPU every call is waited for, since XLA might run several at a time there.
    """
    jax = _import("jax")
    dtype = jax.numpy.dtype(str(buffers[0].dtype).removeprefix("torch."))
    shape = (buffers[0].numel(),)

    def draw(key: Any, _: Any) -> Any:
        match fill:
            case Uniform(low, high):
                return jax.random.uniform(key, shape, dtype, low, high)
            case Normal(mean, std):
                return mean + std * jax.random.normal(key, shape, dtype)
            case TruncatedNormal(mean, std, a, b):
                low, high = (a - mean) / std, (b - mean) / std
                return mean + std * jax.random.truncated_normal(key, low, high, shape, dtype)
        raise NotImplementedError(type(fill).__name__)

    run = jax.jit(draw, donate_argnums=1, keep_unused=True)
    key = jax.random.key(0)
    ring: deque[Any] = deque(jax.numpy.zeros(shape, dtype) for _ in buffers)

    def call() -> Any:
        ring.append(run(key, ring.popleft()))
        return ring[-1] if DEVICE == "cuda" else ring[-1].block_until_ready()

    return Prepared(call, lambda: ring[-1].block_until_ready())  # a GPU runs them in order


def _jax_unavailable() -> str | None:
    if importlib.util.find_spec("jax") is None:
        return "jax is not installed"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others need the GPU's memory, too
    try:
        found = _import("jax").default_backend()
    except Exception as error:  # noqa: BLE001 - whatever stops JAX (a driver too old, a missing library) is shown
        return f"jax cannot run: {error}"
    wanted = "gpu" if DEVICE == "cuda" else "cpu"
    return None if found == wanted else f"this jax runs on {found}"


def _prepare_torch_func(fill: Fill, buffers: Sequence[Tensor]) -> Prepared:
    """PyTorch's own fills by a key (Philox4x32-10), an experiment that recent releases have, for GPUs."""
    random = _import("torch.func._random")
    key = random.key(0, device=buffers[0].device)
    match fill:
        case Uniform(low, high):
            draw = partial(random.uniform_, key, low=low, high=high)
        case Normal(mean, std):
            draw = partial(random.normal_, key, mean=mean, std=std)
        case _:
            raise NotImplementedError(type(fill).__name__)
    ring = cycle(buffers)
    return Prepared(lambda: draw(next(ring)))


@cache
def _torch_func_unavailable(dtype: torch.dtype = torch.float32) -> str | None:
    return _tried("torch.func._random", _prepare_torch_func, dtype)


def _torch_func_serves(fill: Fill, dtype: torch.dtype) -> bool:
    return isinstance(fill, (Uniform, Normal)) and _torch_func_unavailable(dtype) is None


@cache
def _flag_gems_unavailable(dtype: torch.dtype = torch.float32) -> str | None:
    if importlib.util.find_spec("flag_gems") is None:
        return "flag_gems is not installed"
    return _tried("flag_gems", _prepare_flag_gems, dtype)


def _flag_gems_serves(fill: Fill, dtype: torch.dtype) -> bool:
    return isinstance(fill, (Uniform, Normal)) and _flag_gems_unavailable(dtype) is None


def _tried(name: str, prepare: Prepare, dtype: torch.dtype) -> str | None:
    """Why a library does not draw uniforms and normals of a dtype here, None if it does."""
    try:
        for fill in (Uniform(), Normal()):
            prepare(fill, [torch.empty(64, dtype=dtype, device=DEVICE)]).call()
    except Exception as error:  # noqa: BLE001 - whatever it lacks (a device, a dtype, a compiler) is shown
        return f"{name} cannot run: {str(error).partition(chr(10))[0]}"
    return None


def _plain_float32(fill: Fill, dtype: torch.dtype) -> bool:
    return dtype == torch.float32 and isinstance(fill, (Uniform, Normal))


def _cupy(name: str, method: str) -> Contender:
    """Its host interface: the vendor's own library, which CuPy calls by one name."""
    unavailable = partial(_cupy_unavailable, name.startswith("rocrand"))
    prepare = partial(_prepare_cupy, f"CURAND_RNG_PSEUDO_{method}")
    return Contender(name, False, prepare, unavailable, _plain_float32)


def _numpy(name: str, bits: str) -> Contender:
    unavailable = None if DEVICE == "cpu" else "NumPy fills host memory only"
    return Contender(
        name, False, partial(_prepare_numpy_generator, bits), lambda: unavailable, _plain_float32
    )


PEERS = (
    Contender("torch", False, _prepare_torch),
    Contender("torch-func", False, _prepare_torch_func, _torch_func_unavailable, _torch_func_serves),
    Contender(
        "curand-device", False, _prepare_curand_device, _curand_device_unavailable, _curand_device_serves
    ),
    _cupy("cupy-philox", "PHILOX4_32_10"),
    _cupy("cupy-xorwow", "XORWOW"),
    _cupy("rocrand-philox", "PHILOX4_32_10"),
    _cupy("rocrand-xorwow", "XORWOW"),
    Contender("flag-gems", False, _prepare_flag_gems, _flag_gems_unavailable, _flag_gems_serves),
    Contender("jax", False, _prepare_jax, _jax_unavailable, threaded=False),
    _numpy("numpy-generator", "PCG64"),  # its default
    _numpy("numpy-sfc64", "SFC64"),
    _numpy("numpy-philox", "Philox"),
    Contender("memset", False, _prepare_memset),
)
QUICK = ("torch", "numpy-generator", "memset")


def contender(name: str) -> Contender:
    """The contender of that name, whether or not it can run here."""
    peers = {each.name: each for each in PEERS}
    return peers.get(name) or Contender(name, True, _in_place(_by_backend))


def contenders(quick: bool) -> list[Contender]:
    """Whoever may have rows, whether or not it can run here; if quick, the default backend and the peers that
    are installed everywhere."""
    names = [default(), *QUICK] if quick else [*ours(), *(each.name for each in PEERS)]
    return [contender(name) for name in names]


@dataclass(frozen=True)
class Trial:
    """One contender at one task; a result has a row for each.

    Attributes:
        kind: fill, cached, call, model, structured or start.
        subject: what is filled, initialised or started.
        dtype: of the elements, as PyTorch and NumPy call it.
        elements: how many are written.
        threads: how many the contender may use, of the CPU's.
        contender: who it is.
    """

    kind: str
    subject: str
    dtype: str
    elements: int
    threads: int
    contender: str

    def __str__(self) -> str:
        return f"{self.subject}-{self.dtype}-{brief(self.elements)}-threads={self.threads}-{self.contender}"

    @property
    def task(self) -> tuple[Any, ...]:
        """What contenders are compared at."""
        return self.kind, self.subject, self.dtype, self.elements, self.threads

    @property
    def series(self) -> tuple[Any, ...]:
        """What is the same at every size."""
        return self.kind, self.subject, self.dtype, self.threads, self.contender

    @property
    def bytes(self) -> int:
        return self.elements * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def ours(self) -> bool:
        return self.contender in ours()

    def can_run(self) -> bool:
        """Whether its contender is here and does this, for which its library is imported and tried."""
        who = contender(self.contender)
        return who.unavailable() is None and (
            self.kind not in ("fill", "cached") or who.serves(SUBJECTS[self.subject], self.torch_dtype)
        )

    def serving(self) -> AbstractContextManager[None]:
        """A block in which fills are served by the contender, if it is a backend of ours."""
        return registry.use_backend(self.contender) if self.ours else nullcontext()


def check(contender: Contender, fill: Fill, written: Any) -> None:
    """Look at the beginning and the end of what a contender wrote: a tensor, or an array of its library's.

    Raises:
        WrongValues: they are not what it was to write.
    """
    if not isinstance(written, Tensor):
        written = torch.utils.dlpack.from_dlpack(written)
    if contender.ours:
        check_bits(written, fill, KEY, CHECKED)
    elif contender.name == "memset":
        check_bits(written, Constant(0.0), KEY, CHECKED)
    else:
        check_distribution(written, fill)


def check_bits(written: Tensor, fill: Fill, key: Key, most: int) -> None:
    """Compare the first and the last ``most`` elements of a contiguous tensor with the reference's.

    Raises:
        WrongValues: a bit differs.
    """
    flat = written.detach().view(-1)
    for first, part in _ends(flat, most):
        found = part.cpu()
        wanted = torch.empty_like(found)
        plan = Plan()
        with registry.use_backend("numpy"):
            plan.add(wanted, fill, key, Window((flat.numel(),), (first,)))
        plan.run()
        bits = torch.int32 if found.itemsize == 4 else torch.int16
        differ = (found.view(bits) != wanted.view(bits)).nonzero()
        if len(differ):
            index = int(differ[0])
            raise WrongValues(
                f"{fill}: element {first + index} is {found[index].item()!r},"
                f" the reference has {wanted[index].item()!r}"
            )


def _ends(flat: Tensor, most: int) -> Iterator[tuple[int, Tensor]]:
    """A tensor's first and last ``most`` elements, each once, with the index of their first."""
    yield 0, flat[:most]
    last = max(most, flat.numel() - most)
    if last < flat.numel():
        yield last, flat[last:]


def check_distribution(written: Tensor, fill: Fill) -> None:
    """Look whether values could be a sample of ``fill``: finite, within its bounds, mean and std as they are.

    Raises:
        WrongValues: they are none.
    """
    sample = torch.cat([part for _, part in _ends(written.view(-1), CHECKED)])
    found, wanted = measure(sample), expected(fill, sample.dtype)
    assert wanted is not None
    if found.mean is None or found.std is None or found.min is None or found.max is None:
        raise WrongValues(f"{fill}: {found.nan} NaN and {found.inf} infinities")
    low, high = _bounds(fill, sample.dtype)
    if found.min < low or found.max > high:
        raise WrongValues(f"{fill}: values from {found.min} to {found.max}")
    # A peer may invert a uniform drawn in 16 bits, where [1, 2) has a grid of eps, at its cells' lower ends.
    # Its mean is then eps / 2 of the interval too low: 3 eps of a standard deviation, if 6 of those fill it.
    grid = 3 * torch.finfo(sample.dtype).eps
    per_error = scores(found, wanted)
    off = {
        "mean": (per_error.mean, (found.mean - wanted.mean) / wanted.std),
        "standard deviation": (per_error.std, found.std / wanted.std - 1),
    }
    for what, (errors, relative) in off.items():
        if errors is not None and abs(errors) > _ERRORS and abs(relative) > grid:
            raise WrongValues(f"{fill}: its {what} is {errors:.1f} standard errors off")


def _bounds(fill: Fill, dtype: torch.dtype) -> tuple[float, float]:
    """What no value may lie beyond, as ``dtype`` holds it: a peer's may be its upper bound, rounded."""
    match fill:
        case Uniform(low, high) | TruncatedNormal(_, _, low, high):
            held = torch.tensor([low, high], dtype=dtype)
            return float(held[0]), float(held[1])
    return -math.inf, math.inf
