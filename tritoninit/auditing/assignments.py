"""What was done to a parameter, which an audit holds against its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from tritoninit.fills import Initializer
from tritoninit.keys import Key

TORCH: Final = "torch"  # no backend of ours


@dataclass(frozen=True, eq=False, init=False)
class Assignment:
    """What was done to one parameter or buffer.

    Attributes:
        name: its qualified name, without what wrappers put before it.
        tensor: the parameter or buffer.
        initializer: how it was set; ``Keep()`` if it was left as it was.
        key: which random numbers; None where the initializer is not random.
        backend: who serves its device; "torch" where torch drew it, "" where it was left as it was.
        became: what a parametrisation made of it, in words, where that is something else.
        code: the model's own code that said so ("LlamaForCausalLM._init_weights"); "" where a rule did.
    """

    name: str
    tensor: torch.Tensor
    initializer: Initializer
    key: Key | None
    backend: str
    became: str = ""
    code: str = ""

    def __init__(
        self,
        name: str,
        tensor: torch.Tensor,
        initializer: Initializer,
        key: Key | None,
        backend: str,
        became: str = "",
        code: str = "",
    ) -> None:
        # As a frozen class is made, attribute by attribute, a model's would take as long as its launches.
        self.__dict__.update(
            name=name,
            tensor=tensor,
            initializer=initializer,
            key=key,
            backend=backend,
            became=became,
            code=code,
        )
