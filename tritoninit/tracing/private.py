"""What of torch's ways to trace is needed here and not promised: it may change with any version."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def _no_modes() -> int:
    return 0


def _modes() -> Callable[[], int]:
    try:
        found: Callable[[], int] = pkgutil.resolve_name("torch._C._len_torch_dispatch_stack")
    except AttributeError:  # and what watches torch's calls does not see fills of plain tensors
        return _no_modes
    return found


# How many of torch's dispatch modes are on, such as those of FakeTensorMode and make_fx.
modes: Final = _modes()

# Tensors that stand for others while torch traces: (module, name).
_STAND_INS: Final = (
    ("torch._subclasses.fake_tensor", "FakeTensor"),
    ("torch._subclasses.functional_tensor", "FunctionalTensor"),
)


def constant(function: F) -> F:
    """Have torch.compile call a function while it traces, and keep what it returns.

    As ``torch.compiler.assume_constant_result`` marks it, which imports the compiler.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """A function where torch.compile does not look: it would trace for minutes, and fail."""
    # What this makes imports the compiler, which nobody may want, and takes a while to make.
    disabled = cache(partial(torch.compiler.disable, function, reason=_reason(function)))

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        result: R = disabled()(*args, **kwargs)
        return result

    return not_inlined(run)


def not_inlined(function: F) -> F:
    """Have torch.compile call a function, where it may, and not look into it."""
    vars(function).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=_reason(function))
    return function


def _reason(function: Callable[..., Any]) -> str:
    return f"{function.__qualname__} of tritoninit cannot be compiled: call it outside of what is"


def known(condition: Any) -> bool:
    """Whether a condition on a shape holds, as far as it is known of sizes that data decide."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def is_stand_in(x: Tensor) -> bool:
    """Whether a tensor of another class than torch's stands for one while torch traces."""
    kinds = (getattr(sys.modules.get(module), name, None) for module, name in _STAND_INS)
    return any(isinstance(kind, type) and isinstance(x, kind) for kind in kinds)


def is_wrapped(x: Tensor) -> bool:
    """Whether a transformation of torch.func that is going on wrapped it: vmap, functionalize, grad."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x) or is_functional(x)
    return wrapped and torch._C._are_functorch_transforms_active()


def is_functional(x: Tensor) -> bool:
    """Whether torch.func.functionalize wrapped it, which knows what torch's own operators change, no more."""
    return torch._is_functional_tensor(x)


def vmapped(operator: Callable[[], Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """What serves an operator of a batch by a rule as ``torch.library.register_vmap`` takes it.

    That takes longer than all else of a registration.
    """

    def serve(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        call, level = _vmap()
        return call(level(), rule, operator(), *args, **kwargs)

    return serve


def beside_batches(operator: Callable[[], Any], check: Callable[..., None]) -> Callable[..., Any]:
    """What serves an operator under vmap before :func:`vmapped` does.

    If its first tensor is none of the batch, ``check`` is given vmap's randomness and the arguments.
    """

    def serve(keyset: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        level = _vmap()[1]()
        if torch._C._functorch.maybe_get_level(x) != level.level():
            check(level.randomness(), x, *args, **kwargs)
        mode = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchVmapMode)
        with torch._C._ExcludeDispatchKeyGuard(mode):
            return operator()(x, *args, **kwargs)

    return serve


@cache
def _vmap() -> tuple[Callable[..., Any], Callable[[], Any]]:
    from torch._functorch.autograd_function import custom_function_call_vmap_helper
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

    return custom_function_call_vmap_helper, retrieve_current_functorch_interpreter
