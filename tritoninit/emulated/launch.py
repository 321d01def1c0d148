"""The library's own launchers, on CPU tensors: each launch compiles for a target and is executed here.

Triton's JITFunction binds, specialises and compiles as it does where there is a device. Only the driver,
which would name the target, and the kernel's launch are stood in for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import triton
from triton.runtime.driver import driver

from tritoninit.bench import static
from tritoninit.emulated import engine, gcn, ptx, sass
from tritoninit.emulated.arithmetic import Array
from tritoninit.emulated.engine import Approximation, Build, Fault, Memory, Program
from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import Draw

KERNELS: Final = (
    *("run_kernel", "table_kernel", "rows_kernel", "rows_table_kernel", "scattered_kernel"),
    *("double_run_kernel", "double_rows_kernel", "double_scattered_kernel"),
)
_DTYPES: Final = {
    "i64": np.int64,
    "u64": np.uint64,
    "i32": np.int32,
    "u32": np.uint32,
    "fp32": np.float32,
}
_UNSIGNED: Final = {4: np.uint32, 8: np.uint64}


class Code(NamedTuple):
    """A form of compiled code that can be executed.

    Attributes:
        text: of a compiled kernel.
        decode: a program of that text, and of what else is known.
    """

    text: Callable[[Any], str]
    decode: Callable[[str, Build], Program]


CODES: Final = {
    "ptx": Code(lambda compiled: str(compiled.asm["ptx"]), ptx.decode),
    "sass": Code(lambda compiled: static.disassemble(compiled.asm["cubin"]), sass.decode),
    "gcn": Code(lambda compiled: str(compiled.asm["amdgcn"]), gcn.decode),
}


def codes(arch: str) -> tuple[str, ...]:
    """The forms of code that a target has: what a compiler hands on, and what hardware executes."""
    return ("gcn",) if arch.startswith("gfx") else ("ptx", "sass")


class _Target:
    """As much of a Triton driver as compiling takes. Triton keeps what it compiled by the device's number."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def get_current_target(self) -> Any:
        return static.TARGETS[self._arch]

    def get_current_device(self) -> int:
        return list(static.TARGETS).index(self._arch)

    def get_current_stream(self, device: int) -> int:
        return 0


class Emulated:
    """In a ``with`` block, what ``triton_kernels`` launches is compiled for ``arch`` and executed here.

    Args:
        code: a key of ``CODES``.
        arch: a key of ``static.TARGETS`` that has such code.
        edit: a change of the code's text before it is decoded.
        options: what a launch is given instead of what the launcher gives it, where it gives that.
        approximation: of instructions that hardware only approximates.

    Attributes:
        written: tensors to whose storages launches may write, and to nothing else.
        programs: what was decoded, by Triton's hash.
        launches: how many, by kernel.
        stores: to global memory, by their bytes.
        steps: instructions that threads (on AMD waves) have executed.
        edits: how many texts ``edit`` has changed.
    """

    def __init__(
        self,
        code: str,
        arch: str,
        *,
        edit: Callable[[str], str] = str,
        options: Mapping[str, Any] | None = None,
        approximation: Approximation | None = None,
    ) -> None:
        self._code, self._arch = CODES[code], arch
        self._edit, self._options = edit, options or {}
        self._approximation = approximation or Approximation()
        self.written: Sequence[torch.Tensor] = ()
        self._kernels: dict[str, Any] = {}
        self._driver: Any = None
        self.programs: dict[str, Program] = {}
        self.launches: Counter[str] = Counter()
        self.stores: Counter[int] = Counter()
        self.steps = 0
        self.edits = 0

    def __enter__(self) -> Emulated:
        self._kernels = {name: getattr(triton_kernels, name) for name in KERNELS}
        if not all(isinstance(kernel, triton.JITFunction) for kernel in self._kernels.values()):
            raise RuntimeError("Triton's interpreter replaces its compiler: unset TRITON_INTERPRET")
        self._driver, driver._active = driver._active, _Target(self._arch)
        for name in KERNELS:
            setattr(triton_kernels, name, _Launcher(self, name))
        return self

    def __exit__(self, *_: object) -> None:
        driver._active = self._driver
        for name, kernel in self._kernels.items():
            setattr(triton_kernels, name, kernel)

    def fill(self, tensor: torch.Tensor, draw: Draw) -> None:
        """``triton_kernels.fill``; nothing but the tensor's storage may be written."""
        self.fill_many([(tensor, draw)])

    def fill_many(
        self, items: Sequence[tuple[torch.Tensor, Draw]], *, tiles_per_program: int | None = None
    ) -> None:
        """``triton_kernels.fill_many``; nothing but the tensors' storages may be written.

        Raises:
            Undecoded: an instruction is not known here.
        """
        self.written = [tensor for tensor, _ in items]
        triton_kernels.fill_many(items, tiles_per_program=tiles_per_program)

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        programs: range | None = None,
    ) -> None:
        """Compile a launch and execute it, or only some of its grid's programs."""
        kernel = self._kernels[name]
        options = {**options, **{key: value for key, value in self._options.items() if key in options}}
        compiled = kernel.warmup(*arguments, grid=grid, **options)
        memory = Memory()
        for tensor in self.written:
            _add_storage(memory, tensor, writable=True)
        parameters = []
        bound = dict(zip(kernel.arg_names, arguments, strict=False)) | options
        for key, kind in compiled.src.signature.items():
            if kind != "constexpr":
                parameters.append(_parameter(kind, bound[key], memory))
        launch = engine.Launch(memory, [*parameters, *_SCRATCH])
        (count,) = grid
        programs = range(count) if programs is None else programs
        self.steps += engine.run(self._program(compiled), launch, programs)
        self.stores.update(memory.stores)
        self.launches[name] += 1

    def _program(self, compiled: Any) -> Program:
        if compiled.hash not in self.programs:
            text = self._code.text(compiled)
            edited = self._edit(text)
            self.edits += edited != text
            threads = compiled.metadata.num_warps * compiled.metadata.warp_size
            constants = static.assembled_constants(compiled.asm.get("cubin", b""))
            build = Build(self._arch, threads, compiled.metadata.shared, self._approximation, constants)
            self.programs[compiled.hash] = self._code.decode(edited, build)
        return self.programs[compiled.hash]


# Triton passes every kernel two pointers more, to memory that none of ours asks for.
_SCRATCH: Final = (np.zeros(1, np.uint64), np.zeros(1, np.uint64))


class _Launcher:
    """Stands in for a kernel."""

    def __init__(self, emulated: Emulated, name: str) -> None:
        self._emulated, self._name = emulated, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self._emulated.launch(self._name, grid, arguments, options)

        return launch


def _add_storage(memory: Memory, tensor: torch.Tensor, *, writable: bool) -> None:
    """The whole storage: whoever looks for stores beside the tensor has put something there."""
    storage = tensor.untyped_storage()
    if storage.nbytes():
        array = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        memory.add(storage.data_ptr(), array, writable=writable)


def _parameter(kind: str, value: Any, memory: Memory) -> Array:
    """An argument of a type that Triton names ("*fp32", "i64") as the kernel gets it: one unsigned number.

    What a pointer points to becomes memory to be read, unless the launch is to write it.
    """
    if kind.startswith("*"):
        _add_storage(memory, value, writable=False)
        return np.array([value.data_ptr()], np.uint64)
    if kind not in _DTYPES:
        raise Fault(f"a parameter of type {kind}")
    dtype: Any = np.dtype(_DTYPES[kind])
    if dtype.kind != "f" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise Fault(f"a parameter of type {kind} that is {value}")
    return np.array([value], dtype).view(_UNSIGNED[dtype.itemsize])
