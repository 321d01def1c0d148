"""The modules of a model, in a list: torch's own generators take as long as all that is asked of them."""

from __future__ import annotations

from torch import nn


def modules_of(module: nn.Module) -> list[nn.Module]:
    """Each module once, in the order of ``Module.modules``."""
    found: dict[int, nn.Module] = {}
    pending = [module]
    while pending:
        each = pending.pop()
        if id(each) not in found:
            found[id(each)] = each
            if each._modules:
                pending += [child for child in reversed(each._modules.values()) if child is not None]
    return [*found.values()]
