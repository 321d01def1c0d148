"""Models that no one here wrote, built under ``intercept``: as PyTorch distributes them, drawn once.

The same model is built in plain PyTorch under two seeds. Where the two agree (constants, an embedding's
padding row, rotary tables) the intercepted one must equal them; elsewhere it must agree in mean and standard
deviation. Configurations are made here: nothing is downloaded.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings

import pytest
import torch
from torch import nn

from tritoninit.interception.entry import intercept
from tritoninit.interception.filled import DrawnByTorch

# In standard errors. Of two samples of n the means differ by s sqrt(2 / n), the standard deviations by at
# most s sqrt(1 / n): that of normals, whose fourth moment is the largest of the distributions here. Beyond
# five lie 6e-7 of honest draws; about 2000 are made here, by fixed seeds.
Z = 5.0


@pytest.fixture(scope="module")
def transformers():
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return pytest.importorskip("transformers")


def seeded(build, seed):
    torch.manual_seed(seed)
    return build()


def ties(model):
    """Which names are one parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(names.values())


def random_rows(first, second):
    """The places along the first dimension where two draws differ; of a vector, all or none."""
    if first.dim() < 2:
        return torch.full(first.shape[:1], not first.equal(second))
    return (first != second).flatten(1).any(1)


def check_parameter(name, mine, first, second):
    assert (mine.dtype, mine.shape, mine.requires_grad) == (first.dtype, first.shape, first.requires_grad)
    mine, first, second = (parameter.detach() for parameter in (mine, first, second))
    rows = random_rows(first, second)
    assert mine[~rows].equal(first[~rows]), name
    mine, first = mine[rows].double(), first[rows].double()
    n = mine.numel()
    if n < 2:
        return
    assert not mine.equal(first), name
    error = float(first.std()) / math.sqrt(n)
    assert abs(mine.mean() - first.mean()) <= Z * math.sqrt(2) * error, name
    assert abs(mine.std() - first.std()) <= Z * error, name


def check_like_torch(build):
    """Build by intercept and compare; what intercept did, the model, and how many elements it has."""
    first, second = (seeded(build, seed) for seed in (1, 2))
    with intercept(seed=0) as intercepted:
        mine = seeded(build, 3)
    assert not intercepted.pending
    assert not intercepted.passed_on
    assert ties(mine) == ties(first)
    parameters = [list(model.named_parameters()) for model in (mine, first, second)]
    for (name, a), (other, b), (_, c) in zip(*parameters, strict=True):
        assert name == other
        check_parameter(name, a, b, c)
    for (name, a), (other, b) in zip(mine.named_buffers(), first.named_buffers(), strict=True):
        assert name == other
        assert a.equal(b), name
    return intercepted, mine, sum(parameter.numel() for parameter in mine.parameters())


def check_told(intercepted, model, untold=(), drawn_by_torch=()):
    """Every parameter but those has an assignment, which gives its bits again but for a padding row.

    Buffers that were filled have one, too. Those that are ``drawn_by_torch`` are told to be.
    """
    told = intercepted.assignments(model)
    names = [name for name, _ in model.named_parameters() if not name.endswith(tuple(untold))]
    assert [each.name for each in told if isinstance(each.tensor, nn.Parameter)] == names
    for each in told:
        assert isinstance(each.initializer, DrawnByTorch) == each.name.endswith(tuple(drawn_by_torch))
        if isinstance(each.initializer, DrawnByTorch):
            continue
        keyed = {"key": each.key} if each.key else {}
        poison = torch.nan if each.tensor.is_floating_point() else 7
        again = each.initializer(torch.full_like(each.tensor.detach(), poison), **keyed)
        other = random_rows(each.tensor.detach(), again)
        assert not other.any() or (other.sum() == 1 < len(other) and not each.tensor[other].any()), each


class TestTorch:
    @pytest.mark.parametrize(
        "build",
        [
            lambda: nn.LSTM(24, 32, 2, bidirectional=True),
            lambda: nn.MultiheadAttention(48, 4, kdim=16, vdim=24, add_bias_kv=True),
            lambda: nn.MultiheadAttention(48, 4),
            lambda: nn.Embedding(97, 32, padding_idx=3),
            lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.PReLU(16), nn.GRUCell(16, 8)),
            lambda: nn.Bilinear(8, 9, 10),
        ],
        ids=[
            "LSTM",
            "MultiheadAttention",
            "MultiheadAttention, one matrix",
            "Embedding",
            "Sequential",
            "Bilinear",
        ],
    )
    def test_modules(self, drawn, build):
        intercepted, model, size = check_like_torch(build)
        padding = model.embedding_dim if isinstance(model, nn.Embedding) else 0
        assert sum(drawn) == size + padding
        check_told(intercepted, model)

    @pytest.mark.filterwarnings("ignore:enable_nested_tensor")
    def test_transformer(self):
        """Its layers are deep copies of one, so that what is not drawn again is a copy, with the history."""
        intercepted, model, _ = check_like_torch(lambda: nn.Transformer(32, 2, 2, 2, 48))
        check_told(intercepted, model)
        layers = model.encoder.layers
        assert layers[0].linear1.bias.equal(layers[1].linear1.bias)
        assert not layers[0].linear1.weight.equal(layers[1].linear1.weight)


def sizes(**others):
    common = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 64}
    return {**common, "num_attention_heads": 4, **others}


# Model class, configuration class, its arguments, whether every element is drawn exactly once (else: a
# padding row, what code changes after a fill), the parameters that come from elsewhere than a fill, and those
# of torch's random numbers.
TINY = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4},
        True,
        (),
        (),
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", sizes(num_key_value_heads=2), True, (), ()),
    "auto": ("AutoModelForCausalLM", "LlamaConfig", sizes(num_key_value_heads=2), True, (), ()),
    # The decoder's bias is padded before it is tied, twice: that reads what is pending.
    "bert": ("BertForMaskedLM", "BertConfig", sizes(), False, ("predictions.bias",), ()),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 97, "d_model": 48, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        True,
        (),
        (),
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {k: v for k, v in sizes(image_size=16, patch_size=4).items() if k != "vocab_size"},
        True,
        (),
        (),
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 97, "hidden_size": 48, "state_size": 4, "num_hidden_layers": 2},
        False,
        ("A_log",),
        ("dt_proj.bias",),
    ),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        sizes(num_key_value_heads=2, num_local_experts=4),
        True,
        (),
        (),
    ),
}


def builder(transformers, model, config, arguments):
    configuration = getattr(transformers, config)(**arguments)
    kind = getattr(transformers, model)
    build = kind.from_config if model.startswith("Auto") else kind
    return lambda: build(configuration)


class TestTransformers:
    @pytest.mark.parametrize("name", TINY)
    def test_tiny(self, transformers, drawn, name):
        model, config, arguments, drawn_once, *told = TINY[name]
        intercepted, built, size = check_like_torch(builder(transformers, model, config, arguments))
        if drawn_once:
            assert sum(drawn) == size
        assert sum(drawn) <= 1.02 * size  # defaults drawn in vain would be most of another model
        check_told(intercepted, built, *told)

    def test_bfloat16(self, transformers):
        """As from_config casts: the rounded float32 weights."""
        llama = transformers.LlamaConfig(**sizes(num_key_value_heads=2))
        models = []
        for dtype in (torch.float32, torch.bfloat16):
            with intercept(seed=0):
                models.append(transformers.AutoModelForCausalLM.from_config(llama, dtype=dtype))
        for wide, narrow in zip(*(model.parameters() for model in models), strict=True):
            assert narrow.dtype == torch.bfloat16
            assert narrow.equal(wide.bfloat16())

    def test_reproducible(self, transformers):
        build = builder(transformers, *TINY["gpt2"][:3])
        models = []
        for torch_seed, seed in ((1, 0), (2, 0), (1, 1)):
            with intercept(seed=seed):
                models.append(seeded(build, torch_seed))
        for one, again, other in zip(*(model.parameters() for model in models), strict=True):
            assert one.equal(again)
            assert one.equal(other) == (one.dim() == 1)  # biases and norms are constants

    def test_trains(self, transformers):
        with intercept(seed=0):
            model = builder(transformers, *TINY["gpt2"][:3])()
        tokens = torch.arange(24).view(2, 12)
        model(tokens, labels=tokens).loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "vit", "mamba"])
    def test_full(self, transformers, drawn, name):
        """The configurations as they come, but Llama's and Mixtral's: 7 and 47 billion parameters."""
        model, config, _, _, *told = TINY[name]
        intercepted, built, size = check_like_torch(builder(transformers, model, config, {}))
        assert sum(drawn) <= 1.02 * size
        check_told(intercepted, built, *told)


def test_the_comparison_notices_what_is_wrong():
    """A shifted mean, another scale, a row and a constant that should not have changed."""
    torch.manual_seed(0)
    first, second, good = (nn.Parameter(torch.randn(50, 40)) for _ in range(3))
    for each in (first, second, good):
        each.data[7] = 0
    check_parameter("good", good, first, second)
    wrong = [good.detach() * 1.2, good.detach() + 0.2, good.detach().clone(), first.detach().clone()]
    wrong[2][7] = 1e-3
    for tensor, (one, two) in itertools.product(wrong, [(first, second)]):
        with pytest.raises(AssertionError):
            check_parameter("wrong", nn.Parameter(tensor), one, two)
