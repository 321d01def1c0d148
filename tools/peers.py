"""Writes docs/peers.md: what each peer calls an initializer, what it is here, and what it was held against.

``tests/test_peers.py`` fails where the page is another, where a row is empty, or a test that it names not
there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tritoninit as ti
from tritoninit import schemes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "peers.md"

_CATALOGUE = "tests/test_catalogue.py"
_LSUV = "tests/test_lsuv.py::TestVariances"
_LAWS = f"{_CATALOGUE}::TestLaws"
_TORCH = f"{_CATALOGUE}::TestTorch::test_distribution"
_SAME = f"{_LAWS}::test_the_same_everywhere"
_FORMULA = f"{_LAWS}::test_formula"

# The public initializers of the peers, by their documentation of 2026.
NAMES: Mapping[str, tuple[str, ...]] = {
    "torch": (
        *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_"),
        *(
            "xavier_uniform_",
            "xavier_normal_",
            "kaiming_uniform_",
            "kaiming_normal_",
            "orthogonal_",
            "sparse_",
        ),
    ),
    "jax": (
        *("constant", "delta_orthogonal", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform"),
        *(
            "kaiming_normal",
            "kaiming_uniform",
            "lecun_normal",
            "lecun_uniform",
            "normal",
            "ones",
            "orthogonal",
        ),
        *("truncated_normal", "uniform", "variance_scaling", "xavier_normal", "xavier_uniform", "zeros"),
    ),
    "keras": (
        *("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "LecunNormal"),
        *("LecunUniform", "Ones", "Orthogonal", "RandomNormal", "RandomUniform", "STFTInitializer"),
        *("TruncatedNormal", "VarianceScaling", "Zeros"),
    ),
    "timm": ("trunc_normal_", "trunc_normal_tf_", "variance_scaling_", "lecun_normal_"),
}
# What has to be given, to have something to show.
_GIVEN: Mapping[str, Mapping[str, Any]] = {
    "constant_": {"val": 0.5},
    "constant": {"value": 0.5},
    "sparse_": {"sparsity": 0.1},
    "variance_scaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "STFTInitializer": {"side": "real"},
}
_TESTS: Mapping[str, str] = {
    "jax.delta_orthogonal": f"{_CATALOGUE}::TestDeltaOrthogonal::test_an_orthogonal_matrix_in_the_middle",
    "keras.STFTInitializer": "tests/test_catalogue.py::TestSTFT::test_keras_formula",
    **{
        f"{peer}.{name}": _SAME
        for peer, names in (("jax", ("zeros", "ones", "orthogonal")),)
        for name in names
    },
    **{f"keras.{name}": _SAME for name in ("Zeros", "Ones", "Orthogonal", "Identity")},
}
_UNCORRECTED = "the variance is not corrected for the cut"
_CORRECTED = "cut at 2 sigma, the variance corrected for it"
_NOTES: Mapping[str, str] = {
    "torch.trunc_normal_": f"bounds are values; {_UNCORRECTED}",
    "torch.sparse_": "`generator` governs which elements are zero, too",
    "jax.normal": "sigma 0.01, torch's is 1",
    "jax.uniform": "[0, 0.01), torch's is [0, 1)",
    "jax.truncated_normal": f"bounds are sigmas; {_UNCORRECTED}",
    "jax.variance_scaling": "takes `in_axis`, `out_axis` and `batch_axis`, or `axes`",
    **{f"jax.{name}_normal": _CORRECTED for name in ("glorot", "he", "kaiming", "lecun", "xavier")},
    **{f"keras.{name}Normal": _CORRECTED for name in ("Glorot", "He", "Lecun")},
    "jax.orthogonal": "dimension 0 against all others, as in torch; `column_axis` is by `transpose`",
    "jax.delta_orthogonal": "weights are (out, in, \\*field)",
    "keras.TruncatedNormal": f"cut at 2 sigma; {_UNCORRECTED}",
    "keras.VarianceScaling": 'what Keras calls "normal" is truncated',
    "keras.Orthogonal": "dimension 0 against all others, as in torch",
    "keras.Constant": "a number; arrays are `ti.Value`",
    "keras.STFTInitializer": "weights are (F // 2 + 1, 1, T); windows are Hann's and Hamming's",
    "timm.trunc_normal_": f"bounds are values; {_UNCORRECTED}",
    "timm.trunc_normal_tf_": f"bounds are sigmas; {_UNCORRECTED}",
    "timm.lecun_normal_": _CORRECTED,
}
_TITLES = {
    "torch": "torch.nn.init",
    "draws": "torch's other draws",
    "jax": "jax.nn.initializers",
    "keras": "keras.initializers",
    "timm": "timm.layers.weight_init",
}

# Of torch.Tensor's methods that draw, those that torch.nn.init has no name for; and functions of indices.
_DRAWS: Mapping[str, ti.Initializer] = {
    "Tensor.exponential_": ti.Exponential(),
    "Tensor.log_normal_": ti.LogNormal(),
    "Tensor.cauchy_": ti.Cauchy(),
    "Tensor.geometric_": ti.Geometric(0.5),
    "Tensor.bernoulli_": ti.Bernoulli(),
    "Tensor.random_": ti.RandInt(),
    "randint": ti.RandInt(0, 10),
    "randperm": ti.Permutation(),
}


class Row(NamedTuple):
    peer: str
    name: str
    ours: str
    tested: str
    note: str = ""


def rows() -> Iterator[Row]:
    """One a public initializer of a peer."""
    for peer, names in NAMES.items():
        for name in names:
            full = f"{peer}.{name}"
            made = ti.initializer(full, **_GIVEN.get(name, {}))
            ours = repr(made).replace("axes=None, ", "").replace("axes=None", "")
            tested = _TESTS.get(full, _TORCH if peer == "torch" else _FORMULA)
            yield Row(peer, name, f"`{ours}`", tested, _NOTES.get(full, ""))
    against = "tests/test_distributions.py::TestAgainstTorch"
    for name, initializer in _DRAWS.items():
        tests = {"randint": "test_random_of_every_dtype", "randperm": "test_randperm"}
        note = {"Tensor.bernoulli_": "one probability for all", "randperm": "any dimensions before the last"}
        tested = f"{against}::{tests.get(name, 'test_distribution')}"
        yield Row("draws", name, f"`{initializer!r}`", tested, note.get(name, ""))
    layers = "tests/schemes/test_architectures.py::TestTimm::test_as_timm_draws_them"
    yield Row("timm", "init_weight_vit", "`schemes.vit_timm_layers()`", layers, "rules for a model")
    yield Row("timm", "init_weight_jax", "`schemes.vit_jax_layers()`", layers, "rules for a model")
    lora = "tests/schemes/test_adapters.py::test_as_peft_draws_them"
    for theirs, init in (("True", "kaiming"), ('"gaussian"', "gaussian"), ('"orthogonal"', "orthogonal")):
        yield Row("peft", theirs, f'`schemes.lora("{init}")`', lora)
    yield Row("peft", "False", '`schemes.lora("random")`', lora, "for debugging")


# By scheme, the test that holds it against its source.
SCHEME_TESTS: Mapping[str, str] = {
    **dict.fromkeys(
        ("gpt2", "llama", "bert", "t5", "resnet"), "tests/test_schemes.py::test_same_distribution"
    ),
    **dict.fromkeys(("small_init", "wang_init", "depth_scaled"), "tests/test_schemes.py::test_initializer"),
    **dict.fromkeys(("vit_jax", "vit_timm"), "tests/test_schemes.py::test_initializer"),
    **dict.fromkeys(("vit_torchvision", "vit_transformers"), "tests/test_schemes.py::test_same_distribution"),
    "lora": "tests/schemes/test_adapters.py::test_as_peft_draws_them",
    "mamba": "tests/schemes/test_state_space.py::TestTransformers::test_mamba",
    "mamba2": "tests/schemes/test_state_space.py::TestTransformers::test_mamba2",
    "rg_lru": "tests/schemes/test_state_space.py::TestTransformers::test_recurrent_gemma",
    "s4d": "tests/schemes/test_state_space.py::TestS4D::test_formulas",
    "rezero": "tests/schemes/test_residual.py::TestScalars::test_rezero",
    "skip_init": "tests/schemes/test_residual.py::TestScalars::test_skip_init",
    "layer_scale": "tests/schemes/test_residual.py::TestScalars::test_timm",
    "fixup": "tests/schemes/test_residual.py::TestFixup::test_formula",
    "t_fixup": "tests/schemes/test_residual.py::TestTransformers::test_t_fixup",
    "deepnorm": "tests/schemes/test_residual.py::TestTransformers::test_deepnorm",
    "dit": "tests/schemes/test_architectures.py::TestDiT::test_diffusers",
    "nanochat": "tests/schemes/test_architectures.py::test_nanochat",
    "siren": "tests/schemes/test_architectures.py::TestSiren::test_numbers",
    "mixture_of_experts": "tests/schemes/test_architectures.py::TestMixtureOfExperts::test_numbers",
    "focal_loss": "tests/schemes/test_architectures.py::TestFocalLoss::test_torchvision",
    "lstm": "tests/schemes/test_architectures.py::TestLSTM::test_gates",
    "chrono_lstm": "tests/schemes/test_architectures.py::TestLSTM::test_chrono",
    "mimetic": "tests/schemes/test_architectures.py::TestMimetic::test_products",
    "vit_timm_layers": "tests/schemes/test_architectures.py::TestTimm::test_as_timm_draws_them",
    "vit_jax_layers": "tests/schemes/test_architectures.py::TestTimm::test_as_timm_draws_them",
}
_SIZES: Mapping[str, tuple[int, ...]] = {
    "gpt2": (12,),
    "small_init": (768,),
    "wang_init": (768, 12),
    "t5": (512, 64),
    "t_fixup": (6, 6),
    "deepnorm": (6, 6),
    "nanochat": (768,),
    "mimetic": (12,),
    "chrono_lstm": (100,),
}


def scheme_rows() -> Iterator[Row]:
    """One a scheme: its name, its source, its test."""
    for name, tested in SCHEME_TESTS.items():
        rules = getattr(schemes, name)(*_SIZES.get(name, ()))
        summary, *_ = inspect.cleandoc(getattr(schemes, name).__doc__).partition("\n\n")
        summary = summary.partition(": put it")[0].replace(":func:", "").replace("**", "\\*\\*").rstrip(".")
        yield Row(rules.citation, name, f"`schemes.{name}`", tested, " ".join(summary.split()))


_INTRODUCTION = r"""# What others call it

Each public initializer of `torch.nn.init`, `jax.nn.initializers`, `keras.initializers`, timm's `weight_init`
and PEFT's `init_lora_weights`, what it is here, and the test that holds the two together.
`ti.initializer(name)` takes the names of the first four, in any spelling, and the peer's own arguments:

```python
import tritoninit as ti

ti.initializer("glorot_uniform")                        # Keras' and JAX's
ti.initializer("jax.truncated_normal", stddev=0.02)     # a peer's, where several have the name
ti.initializer("kaiming_normal_", nonlinearity="relu")  # torch's, which is not truncated
```

The dimensions of a weight mean what PyTorch reads, (out, in, \*field), or what the module says that owns it,
whosever name it is; `axes=ti.Axes((-2,), (-1,))` is JAX's and Keras' layout. Distributions are equal, the
random numbers are this library's. This page is written by `tools/peers.py`.
"""

_BESIDES = """\
The others of PEFT take data or the pretrained weight itself, and are not initializers: "eva", "corda",
"lora_ga"; "pissa", "olora", "loftq", "mica".
"""

_BY_DATA = (  # what is made of a model's passes: its call, the source, the test
    ("LSUV", "`ti.lsuv_(model, batch)`", "Mishkin and Matas, ICLR 2016", f"{_LSUV}::test_by_hand"),
    (
        "muP's rates",
        "`ti.mup_groups(model, base, lr)`",
        "Yang et al. 2022, table 3",
        "tests/test_coordinates.py::TestRates::test_adam",
    ),
    (
        "muP's check",
        "`ti.coord_check(make, loss, widths)`",
        "Yang et al. 2022",
        "tests/test_coordinates.py::TestCheck::test_mup_is_flat_and_the_standard_is_not",
    ),
)

_DIFFERENCES = """\
## Differences

`tests/test_peer_cases.py` has what JAX's and Keras' own tests ask for. What is otherwise here:

- a seed and a dtype belong to the call (`key=`, the tensor), not to the initializer;
- weights of one dimension or none have fans where `axes=` says so, Keras' by `axes=ti.Axes((), ())`;
- a scale of zero is zeros, which Keras refuses;
- `uniform` never gives its high bound, in any dtype.
"""


def page() -> str:
    """The text of docs/peers.md."""
    lines = [_INTRODUCTION]
    found = list(rows())
    for peer, title in (*_TITLES.items(), ("peft", "PEFT's `init_lora_weights`")):
        lines += [f"## {title}", "", "| theirs | ours | tested against | note |", "|---|---|---|---|"]
        lines += _cells((row.name, row.ours, row.tested, row.note) for row in found if row.peer == peer)
        lines.append("")
    lines += [
        _BESIDES,
        "## By what a model does",
        "",
        "| what | here | source | tested against |",
        "|---|---|---|---|",
        *_cells(_BY_DATA),
        "",
        _DIFFERENCES,
        "## Schemes",
        "",
        "| scheme | what it is | source | tested against |",
        "|---|---|---|---|",
    ]
    lines += _cells((row.ours, row.note, row.peer, row.tested) for row in scheme_rows())
    return "\n".join((*lines, ""))


def _cells(table: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in table:
        shown = [f"`{cell.partition('tests/')[2]}`" if cell.startswith("tests/") else cell for cell in cells]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in shown)} |"


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
