"""Named schemes: torch.nn's own, and those that papers and codebases publish.

A scheme knows the names and classes of the models that it is published for, and no others: ``initialize_``
raises for what no rule matches, and ``scheme + TORCH_DEFAULTS`` draws the rest as torch.nn does. Those whose
published code leaves some layers to torch.nn end with TORCH_DEFAULTS already (``resnet``, ``vit_timm``,
``mamba``, ``dit``). Some are about a few parameters alone, and go before other rules: ``rezero() + rules``
(``skip_init``, ``layer_scale``, ``mimetic``, ``lora``, ``rg_lru``). :data:`SCHEMES` has them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from tritoninit.models.rules import RuleSet
from tritoninit.schemes.adapters import lora
from tritoninit.schemes.architectures import (
    chrono_lstm,
    dit,
    focal_loss,
    lstm,
    mixture_of_experts,
    nanochat,
    prior_bias,
    siren,
    vit_jax_layers,
    vit_timm_layers,
)
from tritoninit.schemes.mimetic import mimetic
from tritoninit.schemes.published import (
    OWN_CODE,
    TORCH_DEFAULTS,
    bert,
    class_named,
    depth_scaled,
    each,
    gpt2,
    layer_index,
    llama,
    model_depth,
    model_width,
    resnet,
    small_init,
    t5,
    t5_for,
    vit_jax,
    vit_timm,
    vit_torchvision,
    vit_transformers,
    wang_init,
)
from tritoninit.schemes.residual import (
    deepnorm,
    deepnorm_alpha,
    depths_of,
    fixup,
    layer_scale,
    rezero,
    skip_init,
    t_fixup,
)
from tritoninit.schemes.state_space import mamba, mamba2, rg_lru, s4d

__all__ = [
    "OWN_CODE",
    "SCHEMES",
    "TORCH_DEFAULTS",
    "bert",
    "chrono_lstm",
    "class_named",
    "deepnorm",
    "deepnorm_alpha",
    "depth_scaled",
    "dit",
    "each",
    "fixup",
    "focal_loss",
    "gpt2",
    "layer_index",
    "layer_scale",
    "llama",
    "lora",
    "lstm",
    "mamba",
    "mamba2",
    "mimetic",
    "mixture_of_experts",
    "model_depth",
    "model_width",
    "nanochat",
    "prior_bias",
    "resnet",
    "rezero",
    "rg_lru",
    "s4d",
    "siren",
    "skip_init",
    "small_init",
    "t5",
    "t_fixup",
    "vit_jax",
    "vit_jax_layers",
    "vit_timm",
    "vit_timm_layers",
    "vit_torchvision",
    "vit_transformers",
    "wang_init",
]

# By name, the rules for a given model, whose depth and width they may depend on.
SCHEMES: Mapping[str, Callable[[nn.Module], RuleSet]] = {
    "torch": lambda model: TORCH_DEFAULTS,
    "own-code": lambda model: OWN_CODE,
    "gpt2": lambda model: gpt2(model_depth(model)),
    "llama": lambda model: llama(),
    "small_init": lambda model: small_init(model_width(model)),
    "wang_init": lambda model: wang_init(model_width(model), model_depth(model)),
    "depth_scaled": lambda model: depth_scaled(),
    "bert": lambda model: bert(),
    "t5": t5_for,
    "nanochat": lambda model: nanochat(model_width(model)),
    "mixture_of_experts": lambda model: mixture_of_experts(),
    "t_fixup": lambda model: t_fixup(*depths_of(model)),
    "deepnorm": lambda model: deepnorm(*depths_of(model)),
    "mamba": lambda model: mamba(model_depth(model)),
    "mamba2": lambda model: mamba2(model_depth(model)),
    "s4d": lambda model: s4d(),
    "rg_lru": lambda model: rg_lru(),
    "lstm": lambda model: lstm(),
    "siren": lambda model: siren(),
    "lora": lambda model: lora(),
    "resnet": lambda model: resnet(),
    "fixup": lambda model: fixup(),
    "focal_loss": lambda model: focal_loss(),
    "dit": lambda model: dit(),
    "vit-timm": lambda model: vit_timm(),
    "vit-jax": lambda model: vit_jax(),
    "vit-torchvision": lambda model: vit_torchvision(),
    "vit-transformers": lambda model: vit_transformers(),
}
