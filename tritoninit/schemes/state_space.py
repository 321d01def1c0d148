"""State-space models and gated linear recurrences: Mamba, Mamba-2, S4D, RG-LRU."""

from __future__ import annotations

import math

from torch import nn

from tritoninit.combinators import Scaled
from tritoninit.fans import TORCH_AXES
from tritoninit.fills import Constant, Initializer, Normal, Uniform
from tritoninit.initializers import KaimingUniform, Ones, Zeros
from tritoninit.kernels.lowering import ParameterError
from tritoninit.mapped import LogOfUniform, RingDecay, TimeStepBias
from tritoninit.models.rules import Rule, RuleSet, SlotRule
from tritoninit.models.slots import Slot
from tritoninit.schemes.published import (
    TORCH_DEFAULTS,
    UNIT_NORM,
    checked_size,
    class_named,
    each,
    embeddings,
)
from tritoninit.tables import S4D


def mamba(
    depth: int | None = None,
    *,
    step: TimeStepBias = TimeStepBias(),  # noqa: B008 - frozen
    step_scale: float = 1.0,
    std: float = 0.02,
) -> RuleSet:
    """S4D's real eigenvalues as ``A_log``, D of one, log-uniform time steps; the rest as torch.nn draws it.

    Gu and Dao 2023, section 3.6; state-spaces/mamba, ``Mamba.__init__`` and ``_init_weights``;
    Hugging Face transformers, ``MambaPreTrainedModel._init_weights``, sets the convolution's bias to zero.

    Args:
        depth: the number of layers, by whose root the ends of the residual branches are divided; None: they
            are not.
        step: the bias of ``dt_proj``.
        step_scale: its weight is uniform on +-step_scale / sqrt(rank).
        std: of the embedding.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """

    def projection(slot: Slot) -> Initializer | None:
        if slot.is_buffer or not slot.name.endswith("dt_proj.weight"):
            return None
        bound = step_scale / math.sqrt(slot.shape[1])
        return Uniform(-bound, bound)

    return RuleSet(
        "mamba",
        "Gu and Dao 2023; state-spaces/mamba, Mamba.__init__ and _init_weights",
        (
            *each(("*.A_log", "A_log"), S4D("real", "log_decay")),
            *each(("*dt_proj.bias", "*dt_bias"), step),
            SlotRule(choose=projection),
            *_shared(depth, std),
        ),
    )


def mamba2(
    depth: int | None = None,
    *,
    decay: Initializer = LogOfUniform(1.0, 16.0),  # noqa: B008 - frozen
    step: TimeStepBias = TimeStepBias(),  # noqa: B008 - frozen
    std: float = 0.02,
) -> RuleSet:
    """One decay a head, the logarithm of a uniform number in [1, 16), and log-uniform time steps.

    Dao and Gu, ICML 2024; state-spaces/mamba, ``Mamba2.__init__`` (``A_init_range``) and ``_init_weights``.
    Hugging Face transformers counts heads instead (``Mamba2PreTrainedModel``): ``decay=S4D("real")``.

    Args:
        depth: as in :func:`mamba`.
        decay: ``A_log``.
        step: ``dt_bias``.
        std: of the embedding.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """
    return RuleSet(
        "mamba2",
        "Dao and Gu, ICML 2024; state-spaces/mamba, Mamba2.__init__ and _init_weights",
        (*each(("*.A_log", "A_log"), decay), *each(("*dt_bias",), step), *_shared(depth, std)),
    )


def _shared(depth: int | None, std: float) -> tuple[Rule, ...]:
    end: Initializer = KaimingUniform(a=math.sqrt(5), axes=TORCH_AXES)
    if depth is not None:
        end = Scaled(end, 1 / math.sqrt(checked_size("depth", depth)))
    return (
        *each(("*.D", "D"), Ones()),
        Rule("*out_proj.weight", end),
        *embeddings(Normal(std=std)),
        Rule(class_named("Norm"), UNIT_NORM),
        Rule(nn.Linear, {"bias": Zeros()}),
        *TORCH_DEFAULTS,
    )


def s4d(kind: str = "lin", low: float = 1e-3, high: float = 0.1) -> RuleSet:
    """Diagonal state spaces: eigenvalues by a formula, log-uniform time steps, complex normal outputs.

    Gu, Goel, Gupta and Re, NeurIPS 2022; state-spaces/s4, models/s4/s4d.py, whose names these are:
    ``log_dt``, ``log_A_real``, ``A_imag``, ``C`` as real and imaginary parts, or ``A`` itself, complex or
    real.

    Args:
        kind: "lin", "inv" or "real", see :class:`~tritoninit.S4D`.
        low: the smallest time step.
        high: the largest.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a ``kind`` that is none of these, or not 0 < low <= high.
    """
    if not 0 < low <= high < math.inf:
        raise ParameterError(f"0 < low <= high, unlike {low} and {high}")

    def output(slot: Slot) -> Initializer | None:
        """Of complex numbers with variance one, each part has a half."""
        return Normal(std=math.sqrt(0.5)) if slot.local == "C" and not slot.is_buffer else None

    return RuleSet(
        "s4d",
        "Gu et al., NeurIPS 2022 (S4D); state-spaces/s4, models/s4/s4d.py",
        (
            *each(("*log_dt",), Uniform(math.log(low), math.log(high))),
            *each(("*log_A_real",), S4D(kind, "log_decay")),
            *each(("*A_imag",), S4D(kind, "frequency")),
            *each(("*.A", "A"), S4D(kind, "whole")),
            SlotRule(choose=output),
            *each(("*.D", "D"), Normal()),
            *TORCH_DEFAULTS,
        ),
    )


def rg_lru(low: float = 0.9, high: float = 0.999, scale: float = 0.01) -> RuleSet:
    """Decays evenly on a ring of the unit disk, N(0, scale / block width) gates with zero biases.

    De et al. 2024 ("Griffin"), section 2.4; Hugging Face transformers, ``RecurrentGemmaPreTrainedModel``,
    whose names and numbers these are (``w_init_variance_scale``); the paper's gates have a scale of 1. It has
    nothing for other layers.

    Args:
        low: the least decay, above 0.
        high: the greatest, at least ``low`` and below 1.
        scale: of the gates' variance.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: not 0 < low <= high < 1, or a scale that is not positive.
    """

    scale = checked_size("scale", scale)

    def gates(slot: Slot) -> Initializer | None:
        if slot.is_buffer or slot.local not in ("input_gate_weight", "recurrent_gate_weight"):
            return None
        return Normal(std=math.sqrt(scale / slot.shape[-1]))

    return RuleSet(
        "rg_lru",
        "De et al. 2024; Hugging Face transformers, RecurrentGemmaPreTrainedModel._init_weights",
        (
            *each(("*recurrent_param",), RingDecay(low, high)),
            SlotRule(choose=gates),
            *each(("*input_gate_bias", "*recurrent_gate_bias"), Constant(0.0)),
        ),
    )
