"""Schemes of single architectures: DiT, nanochat, SIREN, mixtures of experts, detectors, LSTMs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tritoninit.combinators import Stacked
from tritoninit.fans import Axes
from tritoninit.fills import Constant, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import Ones, VarianceScaling, XavierUniform, Zeros
from tritoninit.kernels.lowering import ParameterError, plain
from tritoninit.keys import Key
from tritoninit.mapped import LogOfUniform
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
from tritoninit.structured import Orthogonal, Structured
from tritoninit.tables import Sinusoids
from tritoninit.targets import Target, device_of
from tritoninit.window import Window


def dit(grid: tuple[int, int] | None = None) -> RuleSet:
    """adaLN-Zero: modulations and the last layer are zero, so that each block starts as the identity.

    Xavier's uniform elsewhere, also for the patches' convolution as a matrix; N(0, 0.02**2) for the
    embeddings of times and labels; fixed sinusoids for positions. Peebles and Xie, ICCV 2023, section 3.2;
    facebookresearch/DiT, models.py, ``initialize_weights``.

    Args:
        grid: the (height, width) of the patches; None: as many columns as rows.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """

    def positions(slot: Slot) -> Initializer | None:
        if slot.local != "pos_embed":
            return None
        side = math.isqrt(slot.shape[-2])
        return Sinusoids(grid=grid or (side, side))

    linear: Mapping[str, Initializer] = {"weight": XavierUniform(axes=Axes()), "bias": Zeros()}
    return RuleSet(
        "dit",
        "Peebles and Xie, ICCV 2023; facebookresearch/DiT, initialize_weights",
        (
            *each(("*adaLN_modulation.*", "*final_layer.linear.*"), Zeros()),
            SlotRule(choose=positions),
            Rule("*x_embedder.proj.weight", XavierUniform(axes=Axes((1, 2, 3), (0,)))),
            *each(("*y_embedder.embedding_table.weight", "*t_embedder.mlp.*.weight"), Normal(std=0.02)),
            Rule(nn.Linear, linear),
            *TORCH_DEFAULTS,
        ),
    )


def nanochat(width: int) -> RuleSet:
    """Uniforms of variance 1 / width, zero ends of branches, N(0, 1) tokens, scalars for each layer.

    karpathy/nanochat, nanochat/gpt.py, ``init_weights``: ``resid_lambdas`` are one and ``x0_lambdas``
    0.1, value embeddings as values are, their gates zero.

    Args:
        width: of the residual stream, in elements.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """
    bound = math.sqrt(3 / checked_size("width", width))
    inside = Uniform(-bound, bound)
    return RuleSet(
        "nanochat",
        "karpathy/nanochat, nanochat/gpt.py, init_weights",
        (
            *each(("*c_proj.weight", "*ve_gate.weight"), Zeros()),
            *each(("*c_q.weight", "*c_k.weight", "*c_v.weight", "*c_fc.weight", "*value_embeds.*"), inside),
            Rule("*wte.weight", Normal()),
            Rule("*lm_head.weight", Normal(std=0.001)),
            Rule("*resid_lambdas", Ones()),
            Rule("*x0_lambdas", Constant(0.1)),
        ),
    )


def siren(frequency: float = 30.0) -> RuleSet:
    """Sines as activations: U(+-1 / fan_in) for the first layer, U(+-sqrt(6 / fan_in) / frequency) after it.

    Sitzmann et al., NeurIPS 2020, section 3.2; vsitzmann/siren, which leaves the biases to
    torch.nn.

    Args:
        frequency: by which the model multiplies what goes into its sines.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a frequency that is not positive.
    """
    frequency = checked_size("frequency", frequency)

    def choose(slot: Slot) -> Initializer | None:
        if slot.local != "weight" or not isinstance(slot.owner, nn.Linear):
            return None
        fan_in = max(slot.shape[1], 1)
        first = next(module for module in slot.ancestors[0].modules() if isinstance(module, nn.Linear))
        bound = 1 / fan_in if slot.owner is first else math.sqrt(6 / fan_in) / frequency
        return Uniform(-bound, bound)

    source = "Sitzmann et al., NeurIPS 2020; vsitzmann/siren"
    return RuleSet("siren", source, (SlotRule(choose=choose), *TORCH_DEFAULTS))


def mixture_of_experts(scale: float = 0.1, *, zero_router: bool = False) -> RuleSet:
    """Truncated normals of variance ``scale`` / fan_in for routers, experts and all other matrices.

    Fedus, Zoph and Shazeer, JMLR 2022 ("Switch Transformers"), section 2.4, with a tenth of the usual scale.
    Fans are an expert's own: in a weight of three dimensions, (experts, out, in). Embeddings are N(0, 1), as
    T5's.

    Args:
        scale: of the variance.
        zero_router: the router is zero, as in Shazeer et al., ICLR 2017, appendix A, so that all experts are
            as likely at first.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        TypeError: what is given is no number.
    """
    matrix = VarianceScaling(plain("scale", scale), "fan_in", "truncated_normal")
    expert = VarianceScaling(matrix.scale, "fan_in", "truncated_normal", axes=Axes((-1,), (-2,), (0,)))

    def experts(slot: Slot) -> Initializer | None:
        is_one = "expert" in slot.name.lower() or "Experts" in type(slot.owner).__name__
        return expert if is_one and len(slot.shape) == 3 and not slot.is_buffer else None

    linear: Mapping[str, Initializer] = {"weight": matrix, "bias": Zeros()}
    router = Zeros() if zero_router else matrix
    return RuleSet(
        "mixture_of_experts",
        "Fedus, Zoph and Shazeer, JMLR 2022; Shazeer et al., ICLR 2017 (zero router)",
        (
            *each(
                ("*router*.weight", "*mlp.gate.weight", "*block_sparse_moe.gate.weight", "*.w_gate"), router
            ),
            SlotRule(choose=experts),
            Rule(nn.Linear, linear),
            *embeddings(Normal()),
            Rule(class_named("Norm"), UNIT_NORM),
        ),
    )


def prior_bias(probability: float) -> Constant:
    """The bias by which a sigmoid starts at a probability: -log((1 - p) / p).

    Lin et al., ICCV 2017 ("Focal Loss"), section 3.3.

    Args:
        probability: between 0 and 1.

    Returns:
        The bias, as a fill.

    Raises:
        ParameterError: no such probability.
    """
    probability = plain("probability", probability)
    if not 0 < probability < 1:
        raise ParameterError(f"a probability lies between 0 and 1, unlike {probability}")
    return Constant(-math.log((1 - probability) / probability))


def focal_loss(probability: float = 0.01) -> RuleSet:
    """A detector's head: N(0, 0.01**2) convolutions, zero biases, scores that start at a probability.

    Lin et al., ICCV 2017, section 4.1; torchvision, ``RetinaNetClassificationHead``.

    Args:
        probability: of an object, between 0 and 1.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: no such probability.
    """
    convolution: Mapping[str, Initializer] = {"weight": Normal(std=0.01), "bias": Zeros()}
    return RuleSet(
        "focal_loss",
        "Lin et al., ICCV 2017; torchvision.models.detection.retinanet",
        (
            *each(("*cls_logits.bias", "*cls_score.bias"), prior_bias(probability)),
            Rule(nn.Conv2d, convolution),
            Rule(class_named("Norm"), UNIT_NORM),
        ),
    )


def lstm(forget: float = 1.0) -> RuleSet:
    """Xavier's uniform for inputs, orthogonal for states, a bias of ``forget`` for forget gates.

    Jozefowicz, Zaremba and Sutskever, ICML 2015; Keras' ``LSTM`` has the same, but takes its
    four gates for one matrix. torch.nn adds two biases: the other is zero.

    Args:
        forget: of one of the two biases.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    gates = Stacked((Zeros(), Constant(forget), Zeros(), Zeros()))
    source = "Jozefowicz et al., ICML 2015 (forget gates); Saxe et al., ICLR 2014; Glorot and Bengio 2010"
    return RuleSet("lstm", source, _recurrent(gates))


def chrono_lstm(longest: float) -> RuleSet:
    """As :func:`lstm`, with gates that remember for 1 to ``longest`` steps: log U(1, longest - 1) to forget.

    Input gates have the negatives of the same numbers. Tallec and Ollivier, ICLR 2018, section 3.

    Args:
        longest: in steps; three or more.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    source = "Tallec and Ollivier, ICLR 2018 (chrono); Saxe et al., ICLR 2014; Glorot and Bengio 2010"
    return RuleSet("chrono_lstm", source, _recurrent(_Chrono(longest)))


def _recurrent(bias: Initializer) -> tuple[Rule, ...]:
    def choose(slot: Slot) -> Initializer | None:
        is_one = isinstance(slot.owner, (nn.LSTM, nn.LSTMCell))
        kinds = (("weight_ih", XavierUniform()), ("weight_hr", XavierUniform()), ("weight_hh", Orthogonal()))
        every = (*kinds, ("bias_ih", bias), ("bias_hh", Zeros()))
        found = (initializer for start, initializer in every if slot.local.startswith(start))
        return next(found, None) if is_one else None

    return (SlotRule(choose=choose), *TORCH_DEFAULTS)


@dataclass(frozen=True)
class _Chrono(Structured):
    """The biases of an LSTM's four gates, for input gates minus those of forget gates."""

    longest: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", checked_size("longest", self.longest))
        if self.longest < 3:
            raise ParameterError(f"what is remembered lasts three steps or more, not {self.longest}")

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self

    def check(self, target: Target, window: Window) -> None:
        if len(window.global_shape) != 1 or window.global_shape[0] % 4:
            raise ValueError(f"the biases of four gates do not lie in {window.global_shape}")
        LogOfUniform(1.0, self.longest - 1).check(target, window)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        (size,) = window.global_shape
        values = torch.zeros(size, dtype=torch.float32, device="cpu")  # whatever PyTorch's defaults
        into, forget = values[: size // 2].chunk(2)
        LogOfUniform(1.0, self.longest - 1)(forget, key=key)
        torch.neg(forget, out=into)
        return window.cut(values, target.shape).to(device_of(target))


def vit_timm_layers(
    init_bias: float = 0.02, head_bias: float = 0.0, classifier_name: str = "head"
) -> RuleSet:
    """N(0, 0.02**2) for linear layers and convolutions, biases of ``init_bias``, a zero head.

    huggingface/pytorch-image-models, timm/layers/weight_init.py, ``init_weight_vit``; its ``trunc_normal_``
    cuts at +-2, which is 100 standard deviations. Convolutions keep torch.nn's biases.

    Args:
        init_bias: of linear layers.
        head_bias: of the classifier.
        classifier_name: the module's qualified name.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    weight = TruncatedNormal(std=0.02)
    linear: Mapping[str, Initializer] = {"weight": weight, "bias": Constant(init_bias)}
    return RuleSet(
        "vit_timm_layers",
        "huggingface/pytorch-image-models, timm/layers/weight_init.py, init_weight_vit",
        (
            *_zero_head(classifier_name, head_bias, nn.Conv1d, nn.Conv2d, nn.Conv3d),
            Rule(nn.Linear, linear),
            *each((nn.Conv1d, nn.Conv2d, nn.Conv3d), {"weight": weight}),
            *TORCH_DEFAULTS,
        ),
    )


def vit_jax_layers(head_bias: float = 0.0, classifier_name: str = "head") -> RuleSet:
    """Xavier's uniform for linear layers, N(0, 1e-12) for MLPs' biases, LeCun's normal patches, a zero head.

    huggingface/pytorch-image-models, timm/layers/weight_init.py, ``init_weight_jax``.

    Args:
        head_bias: of the classifier.
        classifier_name: the module's qualified name.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    linear: Mapping[str, Initializer] = {"weight": XavierUniform(axes=Axes()), "bias": Zeros()}
    patches: Mapping[str, Initializer] = {"weight": VarianceScaling(axes=Axes()), "bias": Zeros()}
    return RuleSet(
        "vit_jax_layers",
        "huggingface/pytorch-image-models, timm/layers/weight_init.py, init_weight_jax",
        (
            *_zero_head(classifier_name, head_bias),
            Rule(_linear_of_mlp, {"bias": Normal(std=1e-6)}),
            Rule(nn.Linear, linear),
            Rule(nn.Conv2d, patches),
            *TORCH_DEFAULTS,
        ),
    )


def _zero_head(name: str, bias: float, *kinds: type[nn.Module]) -> list[Rule]:
    head: Mapping[str, Initializer] = {"weight": Zeros(), "bias": Constant(bias)}

    def is_head(qualified: str, module: nn.Module) -> bool:
        return isinstance(module, (nn.Linear, *kinds)) and qualified.startswith(name)

    return [Rule(is_head, head)]


def _linear_of_mlp(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and "mlp" in name
