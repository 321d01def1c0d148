"""Q of the QR factorisations of many matrices of normals: on a CPU the same bits for any number of threads.

Real matrices on a CPU are factorised by kernels of ours (``numba_householder``), if numba is installed.
LAPACK, which factorises complex ones, and all without numba, rounds by the number of threads: each of its
calls runs on one thread, and threads share out the matrices.

| | bits |
|---|---|
| on a CPU, another number of threads, alone or among others | the same |
| on another processor, real, with numba | the same |
| else on another processor or LAPACK, and with numba or without | equal to rounding |
| on a GPU, alone or among others, or another one | equal to rounding: other routines serve either |
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache, partial
from threading import Barrier, Lock, Thread
from typing import NamedTuple

import torch
from torch import Tensor

from tritoninit import cholesky_qr, registry
from tritoninit.fills import Normal
from tritoninit.keys import Key
from tritoninit.plan import Plan

_CHOLESKY_UP_TO = 1024  # columns: of 8 square ones, 2.4 times as fast as by reflectors on an H200
TOGETHER = {"cpu": 1 << 24, "cuda": 1 << 26}  # elements of matrices that are factorised at a time


class Matrix(NamedTuple):
    """Standard normals, of which Q is asked for.

    Attributes:
        rows, columns: the shape; of a wide one it is the transposed that is factorised.
        dtype: float32, float64, complex64 or complex128, of the normals, the factorisation and Q.
        device: on which all is done.
        key: which normals.
    """

    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device
    key: Key

    @property
    def tall(self) -> tuple[int, int]:
        return max(self.rows, self.columns), min(self.rows, self.columns)

    @property
    def alike(self) -> tuple[object, ...]:
        return self[:-1]


class Factorizations:
    """Matrices of a plan: each is factorised when it is asked for, and those of its shape with it.

    In memory are at most 64 MiB (256 MiB on a GPU) of values that are still to be asked for, beside those of
    the matrix itself.
    """

    def __init__(self) -> None:
        self._pending: dict[int, Matrix] = {}
        self._done: dict[int, Tensor] = {}
        self._count = 0

    def ask(self, matrix: Matrix) -> Callable[[], Tensor]:
        """What gives Q, once, with a positive diagonal of R: new memory of the matrix's shape."""
        number = self._count
        self._count += 1
        self._pending[number] = matrix
        return partial(self._take, number)

    def _take(self, number: int) -> Tensor:
        if number not in self._done:
            first = self._pending[number]
            most = max(1, TOGETHER.get(first.device.type, 1 << 24) // (first.rows * first.columns))
            numbers = [number]
            for other, matrix in self._pending.items():
                if len(numbers) == most:
                    break
                if other != number and matrix.alike == first.alike:
                    numbers.append(other)
            found = orthogonal_factors([self._pending.pop(each) for each in numbers])
            self._done.update(zip(numbers, found, strict=True))
        return self._done.pop(number)


def orthogonal_factors(matrices: list[Matrix]) -> list[Tensor]:
    """Q of each of some matrices that are alike but for their keys."""
    first = matrices[0]
    shape = (len(matrices), first.rows, first.columns)
    with torch.inference_mode(False):  # or other threads could not write it
        drawn = torch.empty(shape, dtype=first.dtype, device=first.device)
    plan = Plan()
    for memory, matrix in zip(drawn, matrices, strict=True):
        plan.add(memory, Normal(), matrix.key)
    plan.run()
    tall = drawn if first.rows >= first.columns else drawn.mT
    if first.device.type != "cpu":
        q = _by_the_device(matrices, tall)
        return list(q if tall is drawn else q.mT)
    if not drawn.is_complex() and has_kernels():
        from tritoninit.kernels import numba_householder

        numba_householder.orthogonalize(list(drawn.numpy()), torch.get_num_threads())
    else:
        _side_by_side(list(tall))
    return list(drawn)


def has_kernels() -> bool:
    """Whether numba is here to compile ours, whichever backend draws: the bits hang on what is installed."""
    return registry.get("numba").unavailable("cpu") is None


def _by_the_device(matrices: list[Matrix], tall: Tensor) -> Tensor:
    return cholesky_qr.orthogonal(tall) if _are_many_small(matrices) else cholesky_qr.by_reflectors(tall)


def _are_many_small(matrices: list[Matrix]) -> bool:
    """Whether Cholesky factorisations take less time, also on GPUs that are slow in float64.

    cuSOLVER and cuBLAS factorise a batch by reflectors no sooner than its matrices one by one.
    """
    _, short = matrices[0].tall
    of_float32 = matrices[0].dtype == torch.float32 and matrices[0].device.type == "cuda"
    return of_float32 and len(matrices) > 1 and short <= _CHOLESKY_UP_TO


def _side_by_side(matrices: list[Tensor]) -> None:
    """Write Q over each, a matrix a thread."""
    left = iter(matrices)
    lock = Lock()

    def run() -> None:
        while True:
            with lock:
                matrix = next(left, None)
            if matrix is None:
                return
            matrix.copy_(cholesky_qr.by_reflectors(matrix))

    _on_threads(run, min(torch.get_num_threads(), len(matrices)))


def _on_threads(run: Callable[[], None], count: int) -> None:
    """Call ``run`` on so many threads, each of which is the only one of its LAPACK."""
    if count == 1 and torch.get_num_threads() == 1:
        run()
        return
    try:  # in the caller's context, which has its backend
        futures = [_pool().submit(copy_context().run, run) for _ in range(count)]
    except RuntimeError:  # the interpreter is ending, and starts no thread any more
        _by_this_thread(run)
        return
    if count > 1:
        wait(futures)
    for future in futures:
        future.result()


def _by_this_thread(run: Callable[[], None]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run()
    finally:
        torch.set_num_threads(threads)


@cache
def _pool() -> ThreadPoolExecutor:
    """All of its threads have begun: one that does changes, for an instant, what others begin with."""
    count = os.cpu_count() or 1
    pool = ThreadPoolExecutor(count, "tritoninit-qr", _alone)
    begun = Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(begun.wait)
    except BaseException:
        begun.abort()  # or those that wait for it would keep the interpreter from ending
        raise
    begun.wait()
    return pool


_STARTING = Lock()


def _alone() -> None:
    """Have this thread's LAPACK use no other.

    torch's number of threads is each thread's own, and besides that of threads that are yet to begin: a
    thread that ends sets the latter to what it was.
    """
    with _STARTING:
        others = torch.get_num_threads()
        torch.set_num_threads(1)
        last = Thread(target=torch.set_num_threads, args=(others,))
        last.start()
        last.join()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
