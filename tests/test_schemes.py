"""Named schemes: torch.nn's own against torch.nn, the published ones against their code or their formulas."""

import importlib
import inspect
import math
import pkgutil
from importlib import metadata

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

import tritoninit as ti
from tritoninit import schemes
from tritoninit.fills import sole_fill
from tritoninit.models.rules import RuleSet
from tritoninit.models.slots import slots
from tritoninit.presets import GPT2, Llama, ResNet, ViT
from tritoninit.schemes import SCHEMES, TORCH_DEFAULTS


def initializers(module, rules):
    """The initializer that the rules give each parameter, by name; nothing is written."""
    return {slot.name: RuleSet.of(rules).find(slot) for slot in slots(module)}


def state(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def stack(draw, count):
    """The values of ``count`` draws by name, stacked along a new first dimension."""
    draws = [{name: t.detach().clone() for name, t in state(draw(seed)).items()} for seed in range(count)]
    return {name: torch.stack([each[name] for each in draws]) for name in draws[0]}


def assert_same_distribution(build, rules, count=12):
    """Every element is the same constant, or has the same distribution, as far as ``count`` draws tell."""

    def theirs(seed):
        torch.manual_seed(seed)
        return build()

    def ours(seed):
        module = build()
        for slot in slots(module):
            if slot.tensor.is_floating_point() and (RuleSet.of(rules).find(slot) or not slot.is_buffer):
                slot.tensor.data.fill_(math.nan)  # what is left unwritten then shows
        ti.initialize_(module, rules, seed=seed)
        return module

    expected, found = stack(theirs, count), stack(ours, count)
    assert expected.keys() == found.keys()
    for name in expected:
        a, b = expected[name], found[name]
        constant = (a == a[0]).all(0)
        assert torch.equal((b == b[0]).all(0), constant), name  # padding rows, and nothing else
        assert torch.equal(a[0][constant], b[0][constant]), name
        if not constant.all():
            assert_same_samples(a[:, ~constant].flatten().double(), b[:, ~constant].flatten().double(), name)


def assert_same_samples(a, b, name):
    """Two samples of equal size: the same mean, deviation and distribution, as far as they tell.

    Seeds are fixed, so that a test fails always or never; what follows is how likely "always" was.
    """
    n = a.numel()
    # The means differ by std sqrt(2 / n), the stds of normals by a factor of 1 + 1 / sqrt(n) and those of
    # uniforms by less: five of those, which one parameter in a million exceeds.
    assert abs(a.mean() - b.mean()) < 5 * a.std() * math.sqrt(2 / n), name
    assert abs(b.std() / a.std() - 1) < 5 / math.sqrt(n), name
    # Smirnov's bound, which two samples of size n of one distribution exceed with a probability of 1e-6:
    # sqrt(ln(2 / 1e-6) / 2) sqrt(2 / n).
    assert stats.ks_2samp(a, b).statistic < math.sqrt(math.log(2e6) / n), name
    # A uniform ends at sqrt(3) std; of 200 normals or more, some lie beyond 2 std (all but one time in 10^4).
    bounded = [bool(sample.abs().max() < 2 * sample.std()) for sample in (a, b)]
    assert bounded[0] == bounded[1], name
    if bounded[0]:  # and no sample lies within 20 / n of the bound with a probability of exp(-20)
        assert abs(a.abs().max() / b.abs().max() - 1) < 20 / n, name


# Every class of torch.nn with parameters or buffers of its own or in what it builds, and how to build it.
LAYERS = {
    nn.Linear: [lambda: nn.Linear(30, 20), lambda: nn.Linear(30, 20, bias=False)],
    NonDynamicallyQuantizableLinear: [lambda: NonDynamicallyQuantizableLinear(30, 20)],
    nn.Bilinear: [lambda: nn.Bilinear(10, 5, 20)],
    nn.Conv1d: [lambda: nn.Conv1d(8, 12, 5), lambda: nn.Conv1d(8, 8, 5, groups=8)],
    nn.Conv2d: [lambda: nn.Conv2d(8, 12, 3, groups=4)],
    nn.Conv3d: [lambda: nn.Conv3d(4, 8, 3)],
    nn.ConvTranspose1d: [lambda: nn.ConvTranspose1d(8, 12, 5)],
    nn.ConvTranspose2d: [lambda: nn.ConvTranspose2d(8, 12, 3, groups=4)],
    nn.ConvTranspose3d: [lambda: nn.ConvTranspose3d(4, 8, 3)],
    nn.Embedding: [lambda: nn.Embedding(20, 10), lambda: nn.Embedding(20, 10, padding_idx=-2)],
    nn.EmbeddingBag: [lambda: nn.EmbeddingBag(20, 10), lambda: nn.EmbeddingBag(20, 10, padding_idx=3)],
    nn.BatchNorm1d: [lambda: nn.BatchNorm1d(3), lambda: nn.BatchNorm1d(3, track_running_stats=False)],
    nn.BatchNorm2d: [lambda: nn.BatchNorm2d(3), lambda: nn.BatchNorm2d(3, affine=False)],
    nn.BatchNorm3d: [lambda: nn.BatchNorm3d(3)],
    nn.SyncBatchNorm: [lambda: nn.SyncBatchNorm(3)],
    nn.InstanceNorm1d: [lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True)],
    nn.InstanceNorm2d: [lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True)],
    nn.InstanceNorm3d: [lambda: nn.InstanceNorm3d(3, affine=True), lambda: nn.InstanceNorm3d(3)],
    nn.LayerNorm: [lambda: nn.LayerNorm((2, 3)), lambda: nn.LayerNorm(3, bias=False)],
    nn.GroupNorm: [lambda: nn.GroupNorm(2, 4)],
    nn.RMSNorm: [lambda: nn.RMSNorm(3)],
    nn.PReLU: [lambda: nn.PReLU(), lambda: nn.PReLU(3, init=0.125)],
    nn.RNNBase: [lambda: nn.RNNBase("RNN_RELU", 10, 12)],
    nn.RNN: [lambda: nn.RNN(10, 12, 2)],
    nn.LSTM: [lambda: nn.LSTM(10, 12, proj_size=4, bidirectional=True)],
    nn.GRU: [lambda: nn.GRU(10, 12, 2, bias=False)],
    nn.RNNCellBase: [lambda: nn.RNNCellBase(10, 12, True, 2)],
    nn.RNNCell: [lambda: nn.RNNCell(10, 12)],
    nn.LSTMCell: [lambda: nn.LSTMCell(10, 12)],
    nn.GRUCell: [lambda: nn.GRUCell(10, 12)],
    nn.MultiheadAttention: [
        lambda: nn.MultiheadAttention(16, 4, add_bias_kv=True),
        lambda: nn.MultiheadAttention(16, 4, kdim=8, vdim=12),
        lambda: nn.MultiheadAttention(16, 4, bias=False),
    ],
    nn.TransformerEncoderLayer: [lambda: nn.TransformerEncoderLayer(16, 4, 24)],
    nn.TransformerDecoderLayer: [lambda: nn.TransformerDecoderLayer(16, 4, 24)],
    nn.TransformerEncoder: [
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 1)
    ],
    nn.TransformerDecoder: [lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24), 1)],
    nn.Transformer: [lambda: nn.Transformer(16, 4, 1, 1, 24, batch_first=True)],
    nn.AdaptiveLogSoftmaxWithLoss: [lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 10], head_bias=True)],
}


if hasattr(nn, "LinearCrossEntropyLoss"):  # since PyTorch 2.13
    LAYERS[nn.LinearCrossEntropyLoss] = [lambda: nn.LinearCrossEntropyLoss(30, 20, bias=True)]


# What a class without parameters may ask for before it can be seen to have none.
ARGUMENTS = [(), (2,), (2, 2), (2, 2, 2), (0, (1, 1)), (nn.Linear(1, 1), 1)]


def torch_modules():
    """The public classes of torch.nn.modules."""
    found = set()
    for info in pkgutil.walk_packages(nn.modules.__path__, "torch.nn.modules."):
        members = vars(importlib.import_module(info.name)).values()
        found |= {each for each in members if inspect.isclass(each) and issubclass(each, nn.Module)}
    return sorted(
        (each for each in found if not each.__name__.startswith("_")), key=lambda each: each.__name__
    )


def takes(cls, arguments):
    try:
        cls(*arguments)
    except (TypeError, ValueError):
        return False
    return True


class TestTorchDefaults:
    def test_torch_nn_is_found(self):
        assert len(torch_modules()) > 150
        assert set(LAYERS) <= set(torch_modules())

    @pytest.mark.filterwarnings("ignore:`(nn.Container|NLLLoss2d)`:FutureWarning")  # deprecated
    @pytest.mark.parametrize("cls", torch_modules(), ids=lambda cls: cls.__name__)
    def test_no_class_is_forgotten(self, cls):
        if issubclass(cls, LazyModuleMixin):
            # It has no shape until its first forward pass, which makes it a plain one of these.
            assert cls.cls_to_become in LAYERS
        elif cls not in LAYERS:
            arguments = next((each for each in ARGUMENTS if takes(cls, each)), None)
            assert arguments is not None, "it takes other arguments: it belongs in LAYERS or ARGUMENTS"
            assert not state(cls(*arguments)), "it has parameters: it belongs in LAYERS"

    @pytest.mark.parametrize(
        "build",
        [pytest.param(b, id=f"{c.__name__}-{i}") for c, bs in LAYERS.items() for i, b in enumerate(bs)],
    )
    def test_same_distribution_as_torch(self, build):
        assert_same_distribution(build, TORCH_DEFAULTS)

    @pytest.mark.parametrize(
        ("build", "bounds"),
        [
            (lambda: nn.Linear(300, 200), {"weight": 300**-0.5, "bias": 300**-0.5}),
            (lambda: nn.Conv2d(16, 64, 3, groups=4), {"weight": 36**-0.5, "bias": 36**-0.5}),
            (lambda: nn.Conv2d(16, 16, 3, groups=16), {"weight": 9**-0.5, "bias": 9**-0.5}),
            # the shape is (in, out / groups, 3, 3), of which torch reads the second as the inputs
            (lambda: nn.ConvTranspose2d(16, 64, 3, groups=4), {"weight": 144**-0.5, "bias": 144**-0.5}),
            (lambda: nn.Bilinear(20, 30, 40), {"weight": 20**-0.5, "bias": 20**-0.5}),
            (lambda: nn.LSTMCell(50, 60), {"weight_ih": 60**-0.5, "bias_hh": 60**-0.5}),
            (lambda: nn.LSTM(50, 60, proj_size=20), {"weight_hr_l0": 60**-0.5, "weight_hh_l0": 60**-0.5}),
            (
                lambda: nn.MultiheadAttention(64, 4),
                {"in_proj_weight": (6 / (64 + 192)) ** 0.5, "out_proj.weight": 64**-0.5},
            ),
            (lambda: nn.MultiheadAttention(64, 4, kdim=32), {"k_proj_weight": (6 / (64 + 32)) ** 0.5}),
            (
                lambda: nn.Transformer(16, 4, 1, 1, 24, batch_first=True),
                {
                    "encoder.layers.0.linear1.weight": (6 / (16 + 24)) ** 0.5,
                    "encoder.layers.0.linear1.bias": 16**-0.5,
                    "encoder.layers.0.self_attn.out_proj.weight": (6 / 32) ** 0.5,
                },
            ),
        ],
    )
    def test_bounds_are_torchs(self, build, bounds):
        """The exact bound of a uniform, from the formula in torch.nn's documentation."""
        module = build()
        found = initializers(module, TORCH_DEFAULTS)
        for name, bound in bounds.items():
            fill = sole_fill(found[name], module.get_parameter(name).shape)
            # KaimingUniform computes 1/sqrt(fan) as sqrt(3) sqrt(2 / 6 / fan): equal to rounding
            assert (-fill.low, fill.high) == pytest.approx((bound, bound), rel=1e-14)

    def test_standalone_layers_are_no_part_of_attention(self):
        """MultiheadAttention zeroes the bias of its out_proj, whose class alone does not."""
        assert initializers(NonDynamicallyQuantizableLinear(4, 4), TORCH_DEFAULTS)["bias"].random
        assert initializers(nn.MultiheadAttention(4, 1), TORCH_DEFAULTS)["out_proj.bias"] == ti.Zeros()

    def test_buffers_that_a_user_gave_are_kept(self):
        """The weights of losses: values that their caller chose, which no reset_parameters touches."""
        model = nn.ModuleList([nn.CrossEntropyLoss(torch.tensor([3.0, 4.0])), nn.Linear(2, 2)])
        ti.initialize_(model, seed=0)
        assert model[0].weight.tolist() == [3.0, 4.0]

    def test_running_statistics_are_reset(self):
        norm = nn.BatchNorm2d(3)
        norm(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
        ti.initialize_(norm, seed=0)
        assert norm.running_mean.tolist() == [0.0] * 3
        assert norm.running_var.tolist() == [1.0] * 3
        assert norm.num_batches_tracked == 0

    def test_no_inputs(self):
        with pytest.warns(UserWarning, match="zero-element"):
            module = nn.Linear(0, 3)
        ti.initialize_(module, seed=0)
        assert module.bias.tolist() == [0.0] * 3  # torch.nn's bound is 0 there


def transformers_models():
    """Models of transformers with their schemes, tiny but wide enough to tell stds apart."""
    t = pytest.importorskip("transformers")
    text = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4}
    t5 = {"vocab_size": 99, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    untied = t.T5Config(**t5, feed_forward_proj="gated-gelu")
    untied.tie_word_embeddings = False  # as an argument, transformers 5 takes it for T5 1.1's scaled logits
    stages = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "num_labels": 5}
    return {
        "gpt2": (
            lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4)),
            schemes.gpt2(3),
        ),
        "llama": (
            lambda: t.LlamaForCausalLM(t.LlamaConfig(**text, **heads, tie_word_embeddings=False)),
            schemes.llama(cut=None),
        ),
        "mixtral": (
            lambda: t.MixtralForCausalLM(
                t.MixtralConfig(**text, **heads, num_key_value_heads=2, num_local_experts=3)
            ),
            schemes.llama(cut=None),
        ),
        "bert": (lambda: t.BertForPreTraining(t.BertConfig(**text, **heads)), schemes.bert()),
        "t5": (lambda: t.T5ForConditionalGeneration(t.T5Config(**t5)), schemes.t5(32, 6)),
        "t5-1.1": (lambda: t.T5ForConditionalGeneration(untied), schemes.t5(32, 6)),
        "vit": (
            lambda: t.ViTForImageClassification(
                t.ViTConfig(**{**text, **heads}, image_size=16, patch_size=8, num_labels=5)
            ),
            schemes.vit_transformers(),
        ),
        "resnet": (
            lambda: t.ResNetForImageClassification(t.ResNetConfig(**stages)),
            schemes.resnet(zero_residual=False),
        ),
    }


class TestTransformers:
    """The schemes against the models of transformers, which draw from the same distributions themselves."""

    @pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "bert", "t5", "t5-1.1", "vit", "resnet"])
    def test_same_distribution(self, name):
        build, rules = transformers_models()[name]
        release = tuple(int(part) for part in metadata.version("transformers").split(".")[:2])
        if name == "gpt2" and (5, 0) <= release < (5, 15):
            # It means to scale these by depth, but looks for a name that they have in no module it looks at.
            rules = [ti.Rule("*.c_proj.weight", ti.Normal(std=0.02)), *rules]
        assert_same_distribution(build, rules, count=6)


def tree(leaves):
    """A module with the given ones at dotted names, as they stand in a codebase that is not here."""
    root = nn.Module()
    for path, leaf in leaves.items():
        parent, *rest = root, *path.split(".")
        for name in rest[:-1]:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent._modules[name]
        parent.add_module(rest[-1], leaf)
    return root


def linears(sizes):
    return {name: nn.Linear(size_in, size_out) for name, (size_in, size_out) in sizes.items()}


def torchtitan(depth=6):
    """Llama 3 by the names that Meta and torchtitan give its layers."""
    layers = {}
    for k in range(depth):
        attention = {f"layers.{k}.attention.{name}": (16, 16) for name in ("wq", "wk", "wv", "wo")}
        inner = {f"w{name}": (16, 24) for name in "13"} | {"w2": (24, 16)}
        layers |= linears(attention | {f"layers.{k}.feed_forward.{name}": s for name, s in inner.items()})
        layers |= {f"layers.{k}.{name}": nn.RMSNorm(16) for name in ("attention_norm", "ffn_norm")}
    return tree(
        {"tok_embeddings": nn.Embedding(9, 16), **layers, "norm": nn.RMSNorm(16)}
        | linears({"output": (16, 9)})
    )


def timm_vit():
    """A Vision Transformer by the names that timm gives its layers."""
    block = {"attn.qkv": (16, 48), "attn.proj": (16, 16), "mlp.fc1": (16, 64), "mlp.fc2": (64, 16)}
    model = tree(
        {
            "patch_embed.proj": nn.Conv2d(3, 16, 4),
            "blocks.0.norm1": nn.LayerNorm(16),
            "norm": nn.LayerNorm(16),
        }
        | linears({f"blocks.0.{name}": size for name, size in block.items()} | {"head": (16, 5)})
    )
    model.cls_token = nn.Parameter(torch.empty(1, 1, 16))
    model.pos_embed = nn.Parameter(torch.empty(1, 10, 16))
    return model


def cut(std, at=3):
    return ti.TruncatedNormal(0.0, std, -at * std, at * std)


class TestPublished:
    """The initializer of one parameter of each kind, against the formula in the scheme's source."""

    @pytest.mark.parametrize(
        ("rules", "build", "expected"),
        [
            (
                schemes.gpt2(2),
                lambda: GPT2(99, 8, 16, 2, 4),
                {
                    "wpe.weight": ti.Normal(std=0.02),
                    "h.0.attn.c_attn.weight": ti.Normal(std=0.02),
                    "h.1.attn.c_proj.weight": ti.Normal(std=0.01),
                    "h.1.mlp.c_proj.weight": ti.Normal(std=0.01),
                    "h.1.mlp.c_proj.bias": ti.Zeros(),
                },
            ),
            (
                schemes.llama(),
                lambda: Llama(99, 16, 2, 4, 2, 24, tied=False),
                {
                    "model.embed_tokens.weight": ti.TruncatedNormal(0.0, 0.02, -0.06, 0.06),
                    "model.layers.1.mlp.down_proj.weight": ti.TruncatedNormal(0.0, 0.02, -0.06, 0.06),
                    "model.norm.weight": ti.Ones(),
                },
            ),
            (
                schemes.small_init(40),
                torchtitan,
                {
                    "layers.0.attention.wo.weight": ti.Normal(std=0.1),
                    "tok_embeddings.weight": ti.Normal(std=0.1),
                },
            ),
            (
                schemes.wang_init(16, 5),
                torchtitan,
                {
                    "layers.0.attention.wo.weight": ti.Normal(std=0.1),
                    "layers.4.feed_forward.w2.weight": ti.Normal(std=0.1),
                    "layers.4.feed_forward.w3.weight": ti.Normal(std=math.sqrt(2 / 80)),
                    "output.weight": ti.Normal(std=math.sqrt(2 / 80)),
                    "layers.4.feed_forward.w2.bias": ti.Zeros(),
                },
            ),
            (
                schemes.depth_scaled(),
                torchtitan,
                {
                    "tok_embeddings.weight": ti.Normal(),
                    "layers.0.attention.wq.weight": cut(0.02),
                    "layers.0.attention.wo.weight": cut(0.02 / math.sqrt(2)),
                    "layers.5.attention.wo.weight": cut(0.02 / math.sqrt(12)),
                    "layers.5.feed_forward.w1.weight": cut(0.02),
                    "layers.5.feed_forward.w2.weight": cut(0.02 / math.sqrt(12)),
                    "layers.5.feed_forward.w3.weight": cut(0.02 / math.sqrt(12)),
                    "layers.5.ffn_norm.weight": ti.Ones(),
                    "output.weight": cut(0.25),
                    "output.bias": ti.Zeros(),
                },
            ),
            (
                schemes.depth_scaled(cut=100),  # torchtitan's own bounds, which are absolute
                torchtitan,
                {
                    "layers.0.attention.wq.weight": ti.TruncatedNormal(std=0.02),
                    "output.weight": cut(0.25),
                },
            ),
            (
                schemes.depth_scaled(),
                lambda: Llama(99, 16, 2, 4, 2, 24),
                {
                    "model.embed_tokens.weight": cut(0.25),  # the head's, which is tied to it
                    "model.layers.1.self_attn.o_proj.weight": cut(0.01),
                    "model.layers.1.mlp.up_proj.weight": cut(0.01),
                    "model.layers.1.mlp.gate_proj.weight": cut(0.02),
                },
            ),
            (
                schemes.vit_timm(),
                timm_vit,
                {
                    "cls_token": ti.Normal(std=1e-6),
                    "pos_embed": ti.TruncatedNormal(std=0.02),
                    "patch_embed.proj.weight": ti.KaimingUniform(a=math.sqrt(5), axes=ti.Axes()),
                    "patch_embed.proj.bias": ti.Uniform(-1 / math.sqrt(48), 1 / math.sqrt(48)),
                    "blocks.0.attn.qkv.weight": ti.TruncatedNormal(std=0.02),
                    "blocks.0.mlp.fc1.bias": ti.Zeros(),
                    "head.weight": ti.TruncatedNormal(std=0.02),
                },
            ),
            (
                schemes.vit_jax(),
                timm_vit,
                {
                    "cls_token": ti.Normal(std=1e-6),
                    "pos_embed": ti.TruncatedNormal(std=0.02),
                    "patch_embed.proj.weight": ti.VarianceScaling(axes=ti.Axes()),
                    "patch_embed.proj.bias": ti.Zeros(),
                    "blocks.0.attn.qkv.weight": ti.XavierUniform(axes=ti.Axes()),
                    "blocks.0.attn.proj.bias": ti.Zeros(),
                    "blocks.0.mlp.fc1.weight": ti.XavierUniform(axes=ti.Axes()),
                    "blocks.0.mlp.fc2.bias": ti.Normal(std=1e-6),
                    "head.weight": ti.Zeros(),
                    "norm.weight": ti.Ones(),
                },
            ),
        ],
    )
    def test_initializer(self, rules, build, expected):
        found = initializers(build(), rules)
        assert {name: found[name] for name in expected} == expected

    @pytest.mark.parametrize(
        ("model", "ends"),
        [
            ("GPT2Model", ["attn.c_proj", "mlp.c_proj"]),
            ("LlamaModel", ["self_attn.o_proj", "mlp.down_proj"]),
            ("BertModel", ["attention.output.dense", "output.dense"]),
            ("GPTNeoXModel", ["attention.dense", "mlp.dense_4h_to_h"]),
            ("MixtralModel", ["self_attn.o_proj", "mlp.experts.down_proj"]),
        ],
    )
    def test_ends_of_branches_by_the_names_of_transformers(self, model, ends):
        t = pytest.importorskip("transformers")
        cls = getattr(t, model)
        sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = cls.config_class(**sizes)
        with torch.device("meta"):
            found = initializers(cls(config), schemes.wang_init(32, 2) + TORCH_DEFAULTS)
        end = ti.Normal(std=2 / (2 * math.sqrt(32)))
        names = {name.removesuffix(".weight") for name, each in found.items() if each == end}
        layers = {name.partition(".0.")[0] for name in names if ".0." in name}
        assert len(layers) == 1
        assert names == {f"{layer}.{k}.{end}" for layer in layers for k in range(2) for end in ends}

    def test_every_scheme_is_cited(self):
        model = Llama(99, 16, 2, 4, 2, 24)
        t5 = tree({"shared": nn.Embedding(9, 16), "a.relative_attention_bias": nn.Embedding(8, 4)})
        t5.a.add_module("q", nn.Linear(16, 24))
        for name, factory in SCHEMES.items():
            rules = factory(t5 if name == "t5" else model)
            assert rules.citation, name
            assert rules.name == name


class Basic(nn.Module):
    """A residual block of two convolutions, as ResNet-18 has them."""

    def __init__(self, shortcut):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        if shortcut:
            self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


class TestResNet:
    @staticmethod
    def zeroed(model):
        found = initializers(model, schemes.resnet())
        return [name for name, each in found.items() if each == ti.Zeros() and name.endswith(".weight")]

    def test_bottlenecks(self):
        assert self.zeroed(ResNet((1, 2, 1, 1), 8, 10)) == [
            *("layer1.0.bn3.weight", "layer2.0.bn3.weight", "layer2.1.bn3.weight"),
            *("layer3.0.bn3.weight", "layer4.0.bn3.weight"),
        ]

    def test_basic_blocks_but_not_the_norms_around_them(self):
        model = nn.Module()
        model.bn1 = nn.BatchNorm2d(4)
        model.layer1 = nn.Sequential(Basic(True), Basic(False))
        model.norm = nn.BatchNorm2d(4)
        assert self.zeroed(model) == ["layer1.0.bn2.weight", "layer1.1.bn2.weight"]

    def test_no_blocks(self):
        plain = nn.Module()
        plain.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        )
        assert self.zeroed(plain) == []

    @pytest.mark.parametrize("layer", ["basic", "bottleneck"])
    def test_transformers_names(self, layer):
        t = pytest.importorskip("transformers")
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type=layer)
        with torch.device("meta"):
            names = self.zeroed(t.ResNetModel(config))
        last = {"basic": 1, "bottleneck": 2}[layer]
        assert names == [
            f"encoder.stages.{stage}.layers.{k}.layer.{last}.normalization.weight"
            for stage, k in ((0, 0), (1, 0), (1, 1))
        ]

    def test_grouped_convolutions_as_torchvision_counts_them(self):
        """torch.nn.init's fan_out is that of all groups together, 128 outputs of 9 places each."""
        model = nn.Conv2d(64, 128, 3, groups=16)
        ti.initialize_(model, schemes.resnet(), seed=0)
        # 4608 normals: their std errs by 1 % (1 / sqrt(2 n)); the fan of one group would make it fourfold
        assert model.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)


class TestSchemes:
    """Rules by a name alone, as the command line has them: sizes come from the model."""

    @pytest.mark.parametrize(
        ("name", "build"),
        [
            ("torch", lambda: nn.TransformerEncoderLayer(16, 4, 24)),
            *((name, lambda: Llama(99, 16, 2, 4, 2, 24)) for name in ("llama", "small_init", "wang_init")),
            ("depth_scaled", lambda: Llama(99, 16, 2, 4, 2, 24, tied=False)),
            ("gpt2", lambda: GPT2(99, 8, 16, 3, 4)),
            ("bert", lambda: nn.Sequential(nn.Embedding(9, 16, 0), nn.TransformerEncoderLayer(16, 4, 24))),
            ("resnet", lambda: ResNet((1, 1, 1, 1), 8, 10)),
            *((f"vit-{name}", lambda: ViT(32, 8, 16, 2, 2, 10)) for name in ("timm", "jax", "torchvision")),
            ("vit-timm", timm_vit),
        ],
    )
    def test_sets_everything(self, name, build):
        model = build()
        for parameter in model.parameters():
            parameter.data.fill_(math.nan)
        ti.initialize_(model, SCHEMES[name](model), seed=0)
        assert all(tensor.isfinite().all() for tensor in state(model).values())

    def test_sizes_come_from_the_model(self):
        model = Llama(99, 16, 3, 4, 2, 24)
        assert (schemes.model_width(model), schemes.model_depth(model)) == (16, 3)
        found = initializers(model, SCHEMES["wang_init"](model))
        assert found == initializers(model, schemes.wang_init(16, 3))

    def test_t5(self):
        t = pytest.importorskip("transformers")
        config = t.T5Config(vocab_size=99, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4)
        with torch.device("meta"):
            model = t.T5Model(config)
        found = initializers(model, SCHEMES["t5"](model))
        assert found == initializers(model, schemes.t5(32, 6))

    @pytest.mark.parametrize(
        ("name", "message"), [("gpt2", "no numbered layers"), ("small_init", "no embedding"), ("t5", "no T5")]
    )
    def test_model_that_does_not_tell(self, name, message):
        with pytest.raises(ValueError, match=message):
            SCHEMES[name](nn.Linear(2, 2))

    @pytest.mark.parametrize("name", ["3.weight", "layers.3.mlp.w2.weight", "h.3"])
    def test_layer_index(self, name):
        assert schemes.layer_index(name) == 3

    def test_no_layer_index(self):
        with pytest.raises(ValueError, match=r"no layer's number in 'w2\.weight'"):
            schemes.layer_index("w2.weight")
