"""Low-rank adapters: LoRA's two factors, and DoRA's magnitudes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tritoninit.fans import TORCH_AXES, Axes
from tritoninit.fills import Initializer, Normal, Uniform
from tritoninit.initializers import KaimingUniform, Zeros
from tritoninit.kernels.lowering import ParameterError
from tritoninit.keys import Key
from tritoninit.models.rules import RuleSet, SlotRule
from tritoninit.models.slots import Slot
from tritoninit.structured import Orthogonal, Structured, Value, check_real, wide
from tritoninit.targets import Target, device_of
from tritoninit.window import Window

# PEFT's names, torchtune's and loralib's; an embedding's factors change places.
_FACTOR = re.compile(r"(?:^|\.)lora_(?P<embedding>embedding_)?(?P<side>[AaBb])(?:\.|$)")
_MAGNITUDE = re.compile(r"(?:^|\.)(lora_magnitude_vector\.|magnitude$)")
_KINDS = ("kaiming", "gaussian", "orthogonal", "random")


def lora(init: str = "kaiming") -> RuleSet:
    """LoRA's factors, by the names of PEFT, torchtune and loralib; and DoRA's magnitudes.

    Hu et al., ICLR 2022: B is zero, so that an adapter starts as if it were not there. With an embedding's, A
    is zero and B is N(0, 1). The numbers are those of huggingface/peft, ``init_lora_weights``. DoRA's
    magnitudes (Liu et al., ICML 2024) are the norms of the pretrained weight's rows: draw the adapters alone,
    where that is loaded: ``initialize_(model, lora(), only="*lora_*")``.

    Args:
        init: A is "kaiming", as torch.nn draws a Linear (True in PEFT, loralib's); "gaussian", N(0, 1 /
            rank**2); "orthogonal", where both are random in complementary halves of a random basis, of even
            rank, so that B A is zero; or "random", where B is drawn as A is, too (False in PEFT).

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ValueError: ``init`` is none of these.
    """
    if init not in _KINDS:
        raise ParameterError(f"init is one of {', '.join(_KINDS)}, not {init!r}: others take data or weights")

    def choose(slot: Slot) -> Initializer | None:
        if slot.is_buffer:
            return None
        if _MAGNITUDE.search(slot.name):
            return _norms(slot)
        found = _FACTOR.search(slot.name)
        return None if found is None else _factor(slot, found, init)

    source = "Hu et al., ICLR 2022; Liu et al., ICML 2024; huggingface/peft, init_lora_weights"
    return RuleSet("lora", source, (SlotRule(choose=choose),))


def _factor(slot: Slot, found: re.Match[str], init: str) -> Initializer:
    is_a, rank = found["side"] in "Aa", slot.shape[0]
    if found["embedding"] or isinstance(slot.owner, nn.Embedding):
        return Normal() if init == "random" or not is_a else Zeros()
    if slot.local == "bias":
        bound = 1 / math.sqrt(getattr(slot.owner, "in_features", 1))
        return Uniform(-bound, bound) if init == "random" else Zeros()
    if init == "orthogonal":
        return _Complementary(is_a, slot.name[: found.start("side")] + slot.name[found.end("side") :])
    if init == "random" or (is_a and init == "kaiming"):
        return KaimingUniform(a=math.sqrt(5), axes=TORCH_AXES)
    return Normal(std=1 / rank) if is_a and rank else Zeros()


def _norms(slot: Slot) -> Initializer:
    """The norms of what is adapted, one an output."""
    bases = (getattr(module, "base_layer", None) for module in reversed(slot.ancestors))
    base = next((each for each in bases if isinstance(each, nn.Module)), slot.owner)
    weight = getattr(base, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight is slot.tensor:
        raise ValueError("what it is the magnitude of is not found around it")
    if weight.is_meta or not weight.is_floating_point():
        raise ValueError("its magnitudes are those of a weight that is not here: load that first, in floats")
    by_columns = isinstance(base, nn.Embedding) or type(base).__name__ == "Conv1D"
    whole = weight.detach().to(torch.float32)
    norms = (whole.T if by_columns else whole).flatten(1).norm(dim=1)
    if norms.numel() != math.prod(slot.shape):
        raise ValueError(f"{norms.numel()} magnitudes do not fit {tuple(slot.shape)}")
    return Value(norms.reshape(slot.shape))


@dataclass(frozen=True)
class _Complementary(Structured):
    """One of two factors whose product is zero, each Gaussian in one half of a random basis, over ten.

    Args:
        is_a: it is (rank, in), not (out, rank).
        pair: what both are called together, by which they draw the same basis.
    """

    is_a: bool
    pair: str

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self

    def check(self, target: Target, window: Window) -> None:
        shape = window.global_shape
        if len(shape) != 2:
            raise ValueError("orthogonal adapters are for matrices")
        rank = shape[0 if self.is_a else 1]
        if rank % 2:
            raise ValueError(f"orthogonal adapters have an even rank, not {rank}")
        check_real("an orthogonal adapter", target)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        rows, columns = window.global_shape
        rank, size = (rows, columns) if self.is_a else (columns, rows)
        dtype = wide(target)
        basis = Orthogonal()(_empty(rank, rank, dtype), key=Key(key.seed).fold_in(self.pair)).double()
        gaussian = Normal()(_empty(size, rank // 2, dtype), key=key).double()
        values = (gaussian @ basis[0 if self.is_a else 1 :: 2]) / 10
        found = window.cut(values.T if self.is_a else values, target.shape)
        return found.to(device_of(target), dtype)


def _empty(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """On the host, whatever PyTorch's defaults."""
    return torch.empty(rows, columns, dtype=dtype, device="cpu")
