"""Code that was never written for this library, served by it: ``with intercept(seed=0): model = Model()``.

In the block, in its thread and in its task of asyncio and those that this starts, these draw from this
library's stream: every ``torch.nn.init`` function, on any tensor; ``uniform_``, ``normal_``, ``fill_``,
``zero_``, ``exponential_``, ``log_normal_``, ``cauchy_``, ``geometric_``, ``bernoulli_`` with one
probability, ``random_`` and ``x[i:j] = number`` on parameters and on what is known to share their memory
(``weight.data``, ``weight[padding_idx]``); the initializers of ``timm.layers``, once that is imported, as
what they mean. Of a DTensor, each rank of those that run the same code sets its part of what one process
would have. What torch copies when that is indexed along a dimension that is cut
(``weight[padding_idx].zero_()``) does not reach the parameter, here or without this; a rule of
``initialize_`` does.

All else that draws is reproducible: torch's default generators (of the CPU and of the accelerator's devices),
those behind ``numpy.random``'s functions and behind ``random``'s are seeded from children of the block's key
(``"torch"``, ``"accelerator"``, ``"numpy"``, ``"random"``), and put back at the end. What torch drew for a
parameter or a buffer, and what was computed from that, is listed by name; its bits are torch's, and so depend
on the version and the device. So are factories' (``torch.randn(3)``, ``torch.rand``, ``torch.normal``,
``torch.randint``, ``torch.randperm``, ``torch.bernoulli``): when one is called, nobody knows whether a
parameter, a mask or a batch is made; :func:`record`, which is asked at the end, has ``torch.randn``,
``torch.rand`` and ``torch.normal`` as initializers. Copies of what was filled (``copy.deepcopy``) keep its
history.

Fills are recorded, and run together when something first reads or changes what they fill, or at the end of
the block. One that a later fill covers, or whose tensor is gone by then, is never drawn. To torch they are
done: the version counter moves on, torch's own generators do not.

The n-th random fill, counted from 0 in the order of the calls (dropped ones too), has the key
``Key(seed).fold_in(n)``, or ``Key.from_generator(generator)`` where the call names a generator. The methods
from ``exponential_`` to ``random_`` are counted apart: the n-th has
``Key(seed).fold_in("draws").fold_in(n)``.

Limits. What does not go through torch's Python functions does not see that a fill is pending: other threads
and processes, ``torch._C.DisableTorchFunction``, C++ code that is handed a tensor (TorchScript,
DistributedDataParallel, ``to_dlpack``), pointers taken before the block, an ``UntypedStorage`` made apart
from its tensor, tangents of forward-mode autograd, pack hooks of ``saved_tensors_hooks``. Leave the block or
call :meth:`Intercepted.flush` before these. Fills run on the CUDA stream that is current then. What was taken
from a parameter before the block is known to share its memory once the parameter itself has been used in the
block. This is a mode of torch's functions: ``torch.compile`` cannot trace one, so leave the block before what
it made runs; and one turns off torch's fused path of ``nn.TransformerEncoderLayer`` and
``nn.MultiheadAttention``, so that what runs in the block goes the longer way, to other roundings.

What reaches further than its arguments show has everything written first: ``backward``, functions that are
given a callable, custom operators, types with a ``__torch_function__`` of their own. Hooks that ``backward``
runs are served as other code, but at once; in the others ``torch.nn.init`` is, and methods are torch's.
Inside the transformations of ``torch.func`` every fill is torch's. So is that of a tensor which is computed
anew when it is needed, and keeps nothing (a weight under ``weight_norm``, ``p[[0, 1]]``): with a warning.

The generators are the process's. Where blocks of several threads or tasks overlap, each of them, and tasks
outside, has torch draw from states of its own; NumPy's and Python's change hands as torch is called. Other
threads that are in no block draw from whichever are in use, a block's too, whose numbers then depend on when
they do. Of generators that code makes itself
(``numpy.random.default_rng()``, ``torch.Generator()``) nobody knows here, nor that NumPy or Python drew a
number, or what a transformation of ``torch.func`` made of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tritoninit import registry
from tritoninit.interception.intercepted import Intercepted
from tritoninit.keys import Key


@contextmanager
def intercept(*, seed: int | None = None) -> Iterator[Intercepted]:
    """Serve the initialization of whatever is built in the block, in this thread; see the module's docstring.

    Of nested intercepts the inner one serves, with its own seed and count; entering it runs what the outer
    one has pending. If the block raises, what is pending is run all the same, and generators are put back.

    Args:
        seed: 64 bits; drawn from PyTorch's default CPU generator if None.

    Returns:
        A context manager, which gives what was set, and how, while the block goes on and after it.

    Raises:
        ValueError: the backend that ``use_backend`` or TRITONINIT_BACKEND asks for is unknown.
        RuntimeError: this torch lacks something that this needs, or others stand in for its functions.

    What this library cannot serve (what complex numbers do not have, meta tensors, subclasses of Tensor,
    arguments that make no sense, ...) goes to torch unchanged, errors included, and is listed in
    ``passed_on``; but for memory that ends before its tensor does, beyond which torch would write: that is a
    TargetError.

    >>> from torch import nn
    >>> from tritoninit import Key
    >>> with intercept(seed=0) as intercepted:
    ...     linear = nn.Linear(3, 2)
    >>> [(each.name, each.key == Key(0).fold_in(n)) for n, each in enumerate(intercepted.assignments(linear))]
    [('weight', True), ('bias', True)]
    """
    registry.override()  # unknown, it would have every fill passed on
    from tritoninit.interception import recorder  # which needs more of torch than torch promises

    with recorder.recording(seed) as intercepted:
        yield intercepted


@contextmanager
def record() -> Iterator[Intercepted]:
    """Remember how whatever is built in the block is initialized, to do the same elsewhere.

    On the meta device nothing is drawn and nothing has memory: every call of torch's that sets or changes
    elements is noted, of parameters, buffers and whatever they are computed from. Numbers that are read there
    (``torch.linspace(0, 1, 12)[3].item()``) are computed. Libraries that initialize nothing on the meta
    device (transformers) are told that there is memory. Tensors that have memory are filled as under
    :func:`intercept`, from a key that is always the same; generators are put back.

    Ask for the rules of a model, ``own.rules(model)``, before it is sharded or moved: each is by a qualified
    name, and holds the initializer of all that became of the tensor.

    - Fills, copies, parts, and products and sums with numbers are initializers like those of a person.
    - What was copied or computed from another parameter is :class:`~tritoninit.CopyOf` that one.
    - Whatever else was done is :class:`~tritoninit.Recorded`: the calls, made again for each key.
    - What a method did after it had read a number that was drawn is for that method to do again: the rule is
      the module's own code, by its name.
    - A parametrised weight has the initializer of what it is computed from, the last of its shape.

    What NumPy's and Python's own generators draw counts as read: see there. Limits are those of
    :func:`intercept`. What other threads, custom operators or NumPy change is an error by name, or, if torch
    does not see it, goes unnoticed.

    Returns:
        A context manager, which gives what was asked for, and makes rules of it.

    Raises:
        RuntimeError: this torch lacks something that this needs, or others stand in for its functions.

    >>> import torch
    >>> from torch import nn
    >>> with record() as own, torch.device("meta"):
    ...     model = nn.Embedding(5, 3, padding_idx=0)
    >>> print(own.rules(model))
    weight: ZeroRow(initializer=Normal(mean=0.0, std=1.0), row=0)
    """
    registry.override()  # as above
    from tritoninit.interception import taping as recorders  # as above

    with recorders.taping(Key(0)) as taping:
        yield taping


@contextmanager
def quietly(key: Key) -> Iterator[Intercepted]:
    """:func:`intercept` by a key, of code that this library calls: nobody is warned of what is lost.

    What the code draws is the same whatever other threads do: their blocks wait.
    """
    from tritoninit.interception import recorder  # as above

    with alone(), recorder.recording(key, aloud=False) as intercepted:
        yield intercepted


def alone() -> AbstractContextManager[object]:
    """While in it, a thread is the only one that exchanges the generators' states."""
    from tritoninit.interception.generators import TURNS  # as above

    return TURNS.lock
