"""Q of the QR factorisations of many matrices of normals: on a CPU the same bits for any number of threads.

LAPACK and BLAS round by the number of threads. Here each of their calls runs on one thread, and threads share
out the calls: the matrices, or the columns of one. What a call computes, and in which order those
of one block come, depends on the shape alone.

| | bits |
|---|---|
| on a CPU, another number of threads, alone or among others | the same |
| on a GPU, alone or among others | equal to rounding: other routines serve either |
| another processor, LAPACK or GPU | equal to rounding |
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache, partial
from threading import Barrier, Condition, Lock, Thread
from typing import NamedTuple

import torch
from torch import Tensor

from tritoninit import cholesky_qr
from tritoninit.cholesky_qr import signs
from tritoninit.fills import Normal
from tritoninit.keys import Key
from tritoninit.plan import Plan

_FEW, _MANY = 64, 128  # columns of a block: more take less time in all, fewer keep more threads busy
_MANY_FROM = 1025  # columns of a matrix
_ONE_CALL = 384  # as many columns, of half as many rows again, take longer by blocks
_CHOLESKY_UP_TO = 1024  # columns: of 8 square ones, 2.4 times as fast as by reflectors on an H200
_TOGETHER = {"cpu": 1 << 24, "cuda": 1 << 26}  # elements of matrices that are factorised at a time


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

    def transposed(self) -> Tensor:
        """The normals, of shape (short, long)."""
        drawn = torch.empty(self.rows, self.columns, dtype=self.dtype, device=self.device)
        Normal()(drawn, key=self.key)
        return drawn.T if self.rows >= self.columns else drawn

    def oriented(self, q: Tensor) -> Tensor:
        """Q, of the matrix's shape, of the transposed factor of the tall one."""
        return q.T if self.rows >= self.columns else q


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
            most = max(1, _TOGETHER.get(first.device.type, 1 << 24) // (first.rows * first.columns))
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
    if matrices[0].device.type != "cpu":
        return _by_the_device(matrices)
    threads = torch.get_num_threads()
    if len(matrices) >= threads or _is_small(*matrices[0].tall):
        return _side_by_side(matrices, threads)
    return [_by_blocks(matrix, threads) for matrix in matrices]


def _by_the_device(matrices: list[Matrix]) -> list[Tensor]:
    """In a few calls for all of them, and one to draw them."""
    first = matrices[0]
    drawn = torch.empty(len(matrices), first.rows, first.columns, dtype=first.dtype, device=first.device)
    plan = Plan()
    for memory, matrix in zip(drawn, matrices, strict=True):
        plan.add(memory, Normal(), matrix.key)
    plan.run()
    tall = drawn if first.rows >= first.columns else drawn.mT
    q = cholesky_qr.orthogonal(tall) if _are_many_small(matrices) else cholesky_qr.by_reflectors(tall)
    return list(q if first.rows >= first.columns else q.mT)


def _are_many_small(matrices: list[Matrix]) -> bool:
    """Whether Cholesky factorisations take less time, also on GPUs that are slow in float64.

    cuSOLVER and cuBLAS factorise a batch by reflectors no sooner than its matrices one by one.
    """
    _, short = matrices[0].tall
    of_float32 = matrices[0].dtype == torch.float32 and matrices[0].device.type == "cuda"
    return of_float32 and len(matrices) > 1 and short <= _CHOLESKY_UP_TO


def _is_small(long: int, short: int) -> bool:
    return short <= _ONE_CALL and long * short <= 3 * _ONE_CALL * _ONE_CALL // 2


def _side_by_side(matrices: list[Matrix], threads: int) -> list[Tensor]:
    """A matrix a thread."""
    found: dict[int, Tensor] = {}
    numbers = iter(range(len(matrices)))
    lock = Lock()

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            matrix = matrices[number]
            found[number] = matrix.oriented(_factor(matrix.transposed()))

    _on_threads(run, min(threads, len(matrices)))
    return [found[number] for number in range(len(matrices))]


def _factor(transposed: Tensor) -> Tensor:
    """The transposed factor of a matrix, on this thread alone, which is the only one of its LAPACK."""
    short, long = transposed.shape
    if not _is_small(long, short):
        blocked = Blocked(transposed)
        blocked.run()
        return blocked.q
    reflectors, scales = torch.geqrf(transposed.T)
    q: Tensor = torch.linalg.householder_product(reflectors, scales).T
    return q.mul_(signs(reflectors.diagonal())[:, None])


def _by_blocks(matrix: Matrix, threads: int) -> Tensor:
    """A block of columns a thread."""
    with torch.inference_mode(False):  # or other threads could not write it
        blocked = Blocked(matrix.transposed())
    _on_threads(blocked.run, min(threads, blocked.count))
    return matrix.oriented(blocked.q)


def block_width(columns: int) -> int:
    """Of the blocks of a matrix; a function of nothing else, since bits depend on it."""
    return _MANY if columns >= _MANY_FROM else _FEW


class Blocked:
    """Householder's QR factorisation by blocks of columns, which threads that call :meth:`run` share.

    A block is updated by the reflectors of those before it, in order, and then factorised: I - V T V^T in the
    compact form of Schreiber and Van Loan (SIAM J. Sci. Stat. Comput. 10, 1989), V^H for V^T of complex
    numbers. T is the inverse of D^-1 + U, with U the part of V^T V above its diagonal and D the reflectors'
    scales, as (I + D U)^-1 D, since a scale may be zero. A block of Q is that of the identity, updated by the
    same reflectors from the last that reach it to the first; it waits for none after them.

    Attributes:
        q: the transposed factor, once all threads have come back.
        count: how many blocks there are.
    """

    def __init__(self, transposed: Tensor) -> None:
        """``transposed``: the (short, long) matrix, which may be used up."""
        self._matrix = transposed.contiguous()
        self.q = torch.zeros_like(self._matrix)
        step = block_width(len(transposed))
        starts = range(0, len(transposed), step)
        self.count = len(starts)
        self._places = [slice(start, start + step) for start in starts]
        self._compact: list[Tensor] = []  # T of the blocks that are factorised
        self._signs: list[Tensor] = []
        self._updates = [0] * self.count  # of each block, by how many of those before it
        self._taken = [False] * self.count
        self._formed = 0
        self._failed = False
        self._changed = Condition()

    def run(self) -> None:
        """Do what is there to do until nothing is left that nobody has begun."""
        try:
            while (work := self._next()) is not None:
                work()
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while self._formed < self.count and not self._failed:
                if (work := self._ready()) is not None:
                    return work
                self._changed.wait()
        return None

    def _ready(self) -> Callable[[], None] | None:
        """The first block that can be updated or factorised, for which others wait; else one of Q's."""
        done = len(self._compact)
        for number in range(done, self.count):
            if self._taken[number]:
                continue
            before = self._updates[number]
            if before == number or before < done:
                self._taken[number] = True
                return partial(self._factor if before == number else self._update, number)
        if self._formed < done:
            self._formed += 1
            return partial(self._form, self._formed - 1)
        return None

    def _factor(self, number: int) -> None:
        place = self._places[number]
        block = self._matrix[place, place.start :]
        reflectors, scales = torch.geqrf(block.T)
        found = signs(reflectors.diagonal())
        block.copy_(reflectors.T).triu_(1).diagonal().fill_(1.0)
        above = (block.conj() @ block.T).triu_(1).mul_(scales[:, None])
        compact = torch.linalg.solve_triangular(above, torch.diag(scales), upper=True, unitriangular=True)
        with self._changed:
            self._signs.append(found)
            self._compact.append(compact)
            self._changed.notify_all()

    def _update(self, number: int) -> None:
        by = self._updates[number]
        self._reflect(self._matrix[self._places[number]], by, self._compact[by].conj())
        with self._changed:
            self._updates[number] += 1
            self._taken[number] = False
            self._changed.notify_all()

    def _form(self, number: int) -> None:
        place = self._places[number]
        rows = self.q[place]
        rows[:, place].fill_diagonal_(1.0)
        for by in range(number, -1, -1):
            self._reflect(rows, by, self._compact[by].T)
        rows.mul_(self._signs[number][:, None])

    def _reflect(self, rows: Tensor, by: int, compact: Tensor) -> None:
        place = self._places[by]
        vectors, rest = self._matrix[place, place.start :], rows[:, place.start :]
        rest.addmm_((rest @ vectors.T.conj()) @ compact, vectors, alpha=-1.0)


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
