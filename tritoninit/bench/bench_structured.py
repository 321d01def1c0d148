"""Initializers that are built on fills, against torch.nn.init's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import tritoninit
from tritoninit.bench.contenders import KEY, Trial, WrongValues, check_distribution, default
from tritoninit.bench.device import ALL_THREADS, DEVICE, Memory
from tritoninit.combinators import BlockDiagonal
from tritoninit.distributions import (
    Bernoulli,
    Cauchy,
    Exponential,
    Geometric,
    LogNormal,
    Permutation,
    RandInt,
)
from tritoninit.experts import Experts
from tritoninit.fills import Initializer, Normal
from tritoninit.located import DeltaOrthogonal
from tritoninit.structured import Dirac, Eye, Identity, Orthogonal, Sparse

STD = 0.01
_REFERENCE_SIZE = 2048  # the largest of which the reference sorts every column in a second


@dataclass(frozen=True)
class Task:
    """What one subject's rows do.

    Attributes:
        initializer: ours.
        by_torch: the same by torch's own functions.
        check: raises WrongValues where what either wrote is wrong.
        shapes: one a row.
        on_gpus: further ones, which take minutes on a CPU.
    """

    initializer: Initializer
    by_torch: Callable[[Tensor], object]
    check: Callable[[Tensor], None]
    shapes: tuple[tuple[int, ...], ...]
    on_gpus: tuple[tuple[int, ...], ...] = field(default=())


def _squares(*sizes: int) -> tuple[tuple[int, ...], ...]:
    return tuple((size, size) for size in sizes)


def _sparse(sparsity: float, *sizes: int) -> Task:
    return Task(
        Sparse(sparsity, STD),
        lambda x: nn.init.sparse_(x, sparsity, STD),
        lambda x: check_sparse(x, sparsity),
        _squares(*sizes),
    )


def _each_by_torch(x: Tensor) -> None:
    for matrix in x:
        nn.init.orthogonal_(matrix)


def _blocks_by_torch(x: Tensor) -> None:
    for block in _blocks(nn.init.zeros_(x)):
        nn.init.orthogonal_(block)


def _blocks(x: Tensor) -> list[Tensor]:
    size = len(x) // _BLOCKS
    return [x[k : k + size, k : k + size] for k in range(0, len(x), size)]


_BLOCKS = 16


def _centre_by_torch(x: Tensor) -> None:
    nn.init.orthogonal_(nn.init.zeros_(x)[:, :, 1, 1])


def _permutation_by_torch(x: Tensor) -> None:
    torch.randperm(x.numel(), dtype=x.dtype, device=x.device, out=x)


def tasks() -> dict[str, Task]:
    """By subject; tests have a look at them, too."""
    return {
        "orthogonal": Task(
            Orthogonal(),
            nn.init.orthogonal_,
            check_orthogonal,
            _squares(256, 512, 1024, 2048, 4096),
            _squares(8192),
        ),
        "64 orthogonal": Task(
            Experts(Orthogonal()), _each_by_torch, check_each_orthogonal, ((64, 256, 256),)
        ),
        "block diagonal": Task(
            BlockDiagonal(Orthogonal(), _BLOCKS), _blocks_by_torch, check_blocks, _squares(2048)
        ),
        "sparse": _sparse(0.9, 512, 2048, 4096, 8192),
        "sparse 0.5": _sparse(0.5, 4096),
        "sparse 0.1": _sparse(0.1, 4096),
        "delta orthogonal": Task(DeltaOrthogonal(), _centre_by_torch, check_centre, ((1024, 512, 3, 3),)),
        "eye": Task(Eye(), nn.init.eye_, check_eye, _squares(4096)),
        "identity": Task(
            Identity(2.0), lambda x: nn.init.eye_(x).mul_(2.0), lambda x: check_eye(x / 2), _squares(4096)
        ),
        "dirac": Task(Dirac(2), lambda x: nn.init.dirac_(x, 2), check_dirac, ((1024, 512, 3, 3),)),
        "permutation": Task(
            Permutation(), _permutation_by_torch, check_permutation, ((1 << 20,), (1 << 24,))
        ),
    }


def draws() -> dict[str, Task]:
    """Functions of fills and what of torch.Tensor's methods draws the same, by subject."""

    def drawn(
        initializer: Initializer, method: str, given: tuple[float, ...], middle: float, above: float
    ) -> Task:
        return Task(
            initializer,
            lambda x: getattr(x, method)(*given),
            lambda x: check_draws(x, middle, above),
            _squares(512, 1024, 2048, 4096),
        )

    return {
        "exponential": drawn(Exponential(), "exponential_", (), math.log(2), 0.5),
        "log normal": drawn(LogNormal(0.0, 0.5), "log_normal_", (0.0, 0.5), 1.0, 0.5),
        "cauchy": drawn(Cauchy(), "cauchy_", (), 0.0, 0.5),
        "geometric": drawn(Geometric(0.3), "geometric_", (0.3,), 2.0, 0.7**2),
        "bernoulli": drawn(Bernoulli(0.3), "bernoulli_", (0.3,), 0.5, 0.3),
        "integers": drawn(RandInt(0, 1000), "random_", (0, 1000), 499.5, 0.5),
    }


def trials(quick: bool) -> list[Trial]:
    if quick:
        return []
    return [
        Trial("structured", subject, "float32", math.prod(shape), ALL_THREADS, name)
        for subject, task in (tasks() | draws()).items()
        for shape in task.shapes + (task.on_gpus if DEVICE == "cuda" else ())
        for name in (default(), "torch")
    ]


def bench_structured(trial: Trial, affordable: None, timed: Callable[..., None], memory: Memory) -> None:
    task = (tasks() | draws())[trial.subject]
    shapes = {math.prod(shape): shape for shape in task.shapes + task.on_gpus}
    (x, *_) = (each.view(shapes[trial.elements]) for each in memory.ring(trial.elements, torch.float32))
    x.fill_(math.nan)

    def by_us() -> object:
        return task.initializer(x, key=KEY)

    def by_torch() -> object:
        return task.by_torch(x)

    call = by_us if trial.ours else by_torch
    with trial.serving():
        call()
        task.check(x)
        if trial.ours and isinstance(task.initializer, Sparse) and len(x) <= _REFERENCE_SIZE:
            check_sparse_bits(x, task.initializer.sparsity)
        timed(call)


def check_each_orthogonal(matrices: Tensor) -> None:
    for matrix in matrices:
        check_orthogonal(matrix)


def check_blocks(matrix: Tensor) -> None:
    """Raise WrongValues unless the matrix is orthogonal, and zero beside its blocks."""
    check_orthogonal(matrix)
    there = int((matrix != 0).sum())
    inside = sum(int((block != 0).sum()) for block in _blocks(matrix))
    if there != inside:
        raise WrongValues(f"{there - inside} elements beside the blocks are not zero")


def check_centre(kernel: Tensor) -> None:
    """Raise WrongValues unless the centre is orthogonal, and zero beside it."""
    check_orthogonal(kernel[:, :, 1, 1])
    if int((kernel != 0).sum()) != int((kernel[:, :, 1, 1] != 0).sum()):
        raise WrongValues("elements beside the centre are not zero")


def check_permutation(indices: Tensor) -> None:
    """Raise WrongValues unless every index is there once, and not where it was."""
    count = indices.numel()
    if not torch.equal(indices.sort().values, torch.arange(count, device=indices.device).to(indices.dtype)):
        raise WrongValues("indices are missing")
    if torch.equal(indices.sort().indices, indices.long()):
        raise WrongValues("indices are in order")


def check_eye(matrix: Tensor) -> None:
    """Raise WrongValues unless ones are on the diagonal, and all else is zero."""
    if not (matrix.diagonal() == 1).all() or int((matrix != 0).sum()) != min(matrix.shape):
        raise WrongValues("no identity")


def check_dirac(kernel: Tensor) -> None:
    """Raise WrongValues unless torch's kernel is the same."""
    if not torch.equal(kernel, nn.init.dirac_(torch.empty_like(kernel), 2)):
        raise WrongValues("another kernel than torch's")


def check_orthogonal(matrix: Tensor) -> None:
    """Raise WrongValues unless the product with its transpose is the identity.

    Householder's QR leaves it within n eps or so in norm (Higham, Accuracy and Stability of Numerical
    Algorithms, theorem 19.4, whose constant is small in practice): 1e-3 at the largest size.
    """
    product = matrix.double().T @ matrix.double()
    product.diagonal().sub_(1.0)
    worst = float(product.abs().max())
    if not worst <= len(matrix) * torch.finfo(matrix.dtype).eps:
        raise WrongValues(f"not orthogonal: an element of Q^T Q - I is {worst:.2g}")


def check_sparse(matrix: Tensor, sparsity: float = 0.9) -> None:
    """Raise WrongValues unless every column has its zeros, and the rest could be normal."""
    zeros = (matrix == 0).sum(dim=0)
    wanted = math.ceil(sparsity * len(matrix))
    # PyTorch draws the radius of a pair of normals from 24 bits: it is 0 once in 2**24.
    if int(zeros.min()) < wanted or int(zeros.max()) > wanted + 2:
        raise WrongValues(f"columns of {int(zeros.min())} to {int(zeros.max())} zeros, not {wanted}")
    check_distribution(matrix[matrix != 0], Normal(0.0, STD))


def check_draws(x: Tensor, middle: float, above: float) -> None:
    """Raise WrongValues unless the share above a number about the middle could be the distribution's."""
    share = float((x > middle).double().mean())
    if not abs(share - above) < 5 * math.sqrt(above * (1 - above) / x.numel()):
        raise WrongValues(f"{share:.4f} of the numbers are above {middle}, not {above:.4f}")


def check_sparse_bits(matrix: Tensor, sparsity: float = 0.9) -> None:
    """Raise WrongValues unless the reference writes the same matrix."""
    with tritoninit.use_backend("numpy"):
        reference = tritoninit.sparse_(torch.empty(matrix.shape), sparsity, STD, key=KEY)
    if not torch.equal(matrix.cpu(), reference):
        raise WrongValues("the reference has another sparse matrix")
