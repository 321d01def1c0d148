"""A model's weights in a file, as safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tritoninit.outputs import UsageError, replacing
from tritoninit.terminal import one_line, stage

if TYPE_CHECKING:
    from rich.progress import Progress


def import_safetensors() -> Any:
    """The package.

    Raises:
        UsageError: it is not here.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise UsageError(f"--out needs the safetensors package: {error}") from None
    return safetensors


def save(model: nn.Module, path: Path, progress: Progress | None) -> None:
    """Write the state dict as safetensors, tied parameters once, under their first name."""
    safetensors = import_safetensors()
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    with _each_once(model):
        state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            tensors[name] = _plain(name, value)
    with stage(progress, f"writing {path.name}"), replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors would let nobody else read the file
        try:
            # One entry of metadata, which loaders ask for: safetensors writes several in no fixed order.
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from None
        except (RuntimeError, ValueError, KeyError) as error:  # tensors that share memory, or of an odd dtype
            raise UsageError(f"safetensors cannot hold the weights: {one_line(error)}") from None
        temporary.chmod(mode)


@contextmanager
def _each_once(model: nn.Module) -> Iterator[None]:
    """Modules are in their first place only: a state dict walks into all, which may double at every level."""
    first = {id(module): name for name, module in model.named_modules()}
    hidden: list[tuple[nn.Module, str, nn.Module]] = []
    for owner in model.modules():
        prefix = first[id(owner)]
        for local, child in owner._modules.items():
            if child is not None and first[id(child)] != (f"{prefix}.{local}" if prefix else local):
                hidden.append((owner, local, child))
    for owner, local, _ in hidden:
        owner._modules[local] = None
    try:
        yield
    finally:
        for owner, local, child in hidden:
            owner._modules[local] = child


def _plain(name: str, value: Tensor) -> Tensor:
    try:
        return value.detach().contiguous()
    except (RuntimeError, ValueError) as error:  # sparse, or without memory
        raise UsageError(f"safetensors cannot hold {name}: {one_line(error)}") from None
