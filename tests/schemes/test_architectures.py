"""Schemes of single architectures, by their code's numbers, and against it where it is installed."""

import math

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import Constant, Normal, Ones, Stacked, Uniform, VarianceScaling, XavierUniform, Zeros
from tritoninit.fills import sole_fill
from tritoninit.models.rules import RuleSet
from tritoninit.models.slots import slots
from tritoninit.schemes import (
    chrono_lstm,
    dit,
    focal_loss,
    lora,
    lstm,
    mimetic,
    mixture_of_experts,
    nanochat,
    prior_bias,
    siren,
    vit_jax_layers,
    vit_timm_layers,
)


def chosen(model, rules):
    return {slot.name: RuleSet.of(rules).find(slot) for slot in slots(model)}


def tree(modules):
    """A module with others at dotted paths."""
    root = nn.Module()
    for path, module in modules.items():
        *parents, last = path.split(".")
        holder = root
        for name in parents:
            if not hasattr(holder, name):
                holder.add_module(name, nn.Module())
            holder = getattr(holder, name)
        if isinstance(module, nn.Module):
            holder.add_module(last, module)
        else:
            holder.register_parameter(last, nn.Parameter(torch.ones(module)))
    return root


class TestDiT:
    def model(self):
        return tree(
            {
                "x_embedder.proj": nn.Conv2d(4, 32, 2, 2),
                "t_embedder.mlp.0": nn.Linear(16, 32),
                "y_embedder.embedding_table": nn.Embedding(5, 32),
                "pos_embed": (1, 9, 32),
                "blocks.0.attn.qkv": nn.Linear(32, 96),
                "blocks.0.adaLN_modulation.1": nn.Linear(32, 192),
                "final_layer.linear": nn.Linear(32, 16),
                "final_layer.adaLN_modulation.1": nn.Linear(32, 64),
            }
        )

    def test_numbers(self):
        model = self.model()
        found = chosen(model, dit())
        for name in ("blocks.0.adaLN_modulation.1", "final_layer.linear", "final_layer.adaLN_modulation.1"):
            assert found[f"{name}.weight"] == found[f"{name}.bias"] == Zeros()
        assert (
            found["t_embedder.mlp.0.weight"] == found["y_embedder.embedding_table.weight"] == Normal(std=0.02)
        )
        assert found["t_embedder.mlp.0.bias"] == Zeros()
        bound = math.sqrt(6 / (32 + 96))  # of the fused matrix, as the code has it
        assert sole_fill(found["blocks.0.attn.qkv.weight"], (96, 32)) == Uniform(-bound, bound)
        bound = math.sqrt(6 / (4 * 4 + 32))  # of the convolution as a matrix
        assert sole_fill(found["x_embedder.proj.weight"], (32, 4, 2, 2)) == Uniform(-bound, bound)
        ti.initialize_(model, dit(), seed=0)

    def test_positions(self):
        """As get_2d_sincos_pos_embed of MAE and DiT says: columns first, sines before cosines."""
        omega = 10000.0 ** -(torch.arange(8, dtype=torch.float64) / 8)

        def one(at):
            angles = at.double()[:, None] * omega
            return torch.cat([angles.sin(), angles.cos()], 1)

        for rows, columns in ((3, 3), (2, 5)):
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            expected = torch.cat([one(column.flatten()), one(row.flatten())], 1)
            table = ti.Sinusoids(grid=(rows, columns))(
                torch.empty(1, rows * columns, 32, dtype=torch.float64)
            )
            assert torch.allclose(table[0], expected, rtol=0, atol=1e-14)
        model = self.model()
        ti.initialize_(model, dit(), seed=0)
        assert model.pos_embed.detach().equal(ti.Sinusoids(grid=(3, 3))(torch.empty(1, 9, 32)))

    def test_diffusers(self):
        embeddings = pytest.importorskip("diffusers.models.embeddings")
        theirs = embeddings.get_2d_sincos_pos_embed(32, 4, cls_token=True, extra_tokens=1, base_size=4)
        ours = ti.Sinusoids(grid=(4, 4), extra=1)(torch.empty(17, 32))
        assert torch.allclose(ours, torch.as_tensor(theirs).float(), atol=1e-6)


class TestSinusoids:
    def test_paper(self):
        """Vaswani et al.: sin(pos / 10000^(2 i / d)) at 2 i, cos at 2 i + 1."""
        table = ti.Sinusoids()(torch.empty(50, 12, dtype=torch.float64))
        for position, i in ((0, 0), (7, 3), (49, 5)):
            angle = position / 10000 ** (2 * i / 12)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-15)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-15)

    def test_transformers(self):
        """Marian's table has all sines before all cosines."""
        marian = pytest.importorskip("transformers.models.marian.modeling_marian")
        theirs = marian.MarianSinusoidalPositionalEmbedding(20, 12)
        weight = theirs.create_weight() if hasattr(theirs, "create_weight") else theirs.weight
        ours = ti.Sinusoids(halves=True)(torch.empty(20, 12))
        assert torch.allclose(ours, torch.as_tensor(weight).float(), atol=1e-6)

    def test_whisper(self):
        """Its last pair has the base itself."""
        whisper = pytest.importorskip("transformers.models.whisper.modeling_whisper")
        ours = ti.Sinusoids(halves=True, closed=True)(torch.empty(30, 16))
        assert torch.allclose(ours, whisper.sinusoids(30, 16), atol=1e-5)
        assert ti.Sinusoids(closed=True)(torch.empty(2, 2)).tolist()[1] == pytest.approx(
            [math.sin(1), math.cos(1)]
        )

    def test_extra_positions_are_zero(self):
        table = ti.Sinusoids(extra=2)(torch.empty(5, 4))
        assert not table[:2].any()
        assert table[2:].equal(ti.Sinusoids()(torch.empty(3, 4)))

    @pytest.mark.parametrize(
        ("initializer", "shape", "match"),
        [
            (ti.Sinusoids(), (4,), "length, width"),
            (ti.Sinusoids(), (4, 3), "does not go into 2"),
            (ti.Sinusoids(grid=(2, 2)), (4, 6), "does not go into 4"),
            (ti.Sinusoids(grid=(2, 2)), (5, 8), "5 positions"),
        ],
    )
    def test_shapes(self, initializer, shape, match):
        with pytest.raises(ValueError, match=match):
            initializer(torch.empty(shape))


def test_nanochat():
    block = {
        f"transformer.h.0.attn.{name}": nn.Linear(48, 48, bias=False)
        for name in ("c_q", "c_k", "c_v", "c_proj")
    }
    block |= {"transformer.h.0.attn.ve_gate": nn.Linear(48, 4, bias=False)}
    block |= {f"transformer.h.0.mlp.{name}": nn.Linear(48, 48, bias=False) for name in ("c_fc", "c_proj")}
    ends = {"transformer.wte": nn.Embedding(9, 48), "lm_head": nn.Linear(48, 9, bias=False)}
    scalars = {"resid_lambdas": (3,), "x0_lambdas": (3,), "value_embeds.1": nn.Embedding(9, 48)}
    model = tree(block | ends | scalars)
    found = chosen(model, nanochat(48))
    for name in ("attn.c_q", "attn.c_k", "attn.c_v", "mlp.c_fc"):
        assert found[f"transformer.h.0.{name}.weight"] == Uniform(-0.25, 0.25)
    for name in ("attn.c_proj", "mlp.c_proj", "attn.ve_gate"):
        assert found[f"transformer.h.0.{name}.weight"] == Zeros()
    assert found["value_embeds.1.weight"] == Uniform(-0.25, 0.25)
    assert found["transformer.wte.weight"] == Normal()
    assert found["lm_head.weight"] == Normal(std=0.001)
    assert (found["resid_lambdas"], found["x0_lambdas"]) == (Ones(), Constant(0.1))


class TestSiren:
    def test_numbers(self):
        found = chosen(nn.Sequential(nn.Linear(2, 24), nn.Linear(24, 24), nn.Linear(24, 1)), siren(30))
        assert found["0.weight"] == Uniform(-0.5, 0.5)
        assert found["1.weight"] == found["2.weight"] == Uniform(-0.5 / 30, 0.5 / 30)
        assert found["0.bias"] == Uniform(-1 / math.sqrt(2), 1 / math.sqrt(2))

    def test_activations_are_arcsine_distributed_at_every_depth(self):
        """The paper's claim: pre-activations are standard normal, to which torch.nn's biases come."""
        model = nn.Sequential(nn.Linear(1, 256), *(nn.Linear(256, 256) for _ in range(5)))
        ti.initialize_(model, siren(), seed=0)
        x = torch.linspace(-1, 1, 2000)[:, None]
        for layer in model:
            before = 30 * layer(x)
            x = before.sin()
        assert before.var().item() == pytest.approx(1 + 30**2 / (3 * 256), rel=0.15)


class TestMixtureOfExperts:
    def test_numbers(self):
        class Experts(nn.Module):
            def __init__(self):
                super().__init__()
                self.gate_up_proj = nn.Parameter(torch.empty(4, 64, 20))
                self.down_proj = nn.Parameter(torch.empty(4, 20, 32))

        model = tree(
            {"mlp.gate": nn.Linear(20, 4, bias=False), "mlp.experts": Experts(), "q": nn.Linear(20, 20)}
        )
        found = chosen(model, mixture_of_experts())
        cut = 0.87962566103423978
        for name, shape, fan_in in (("gate_up_proj", (4, 64, 20), 20), ("down_proj", (4, 20, 32), 32)):
            std = math.sqrt(0.1 / fan_in) / cut
            assert vars(sole_fill(found[f"mlp.experts.{name}"], shape)) == pytest.approx(
                {"mean": 0.0, "std": std, "a": -2 * std, "b": 2 * std}
            )
        assert found["mlp.gate.weight"] == found["q.weight"] == VarianceScaling(0.1)
        assert chosen(model, mixture_of_experts(zero_router=True))["mlp.gate.weight"] == Zeros()

    def test_names_of_transformers(self):
        t = pytest.importorskip("transformers")
        options = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        options |= {"num_key_value_heads": 2, "intermediate_size": 24}
        for config in (
            t.MixtralConfig(**options, num_local_experts=4),
            t.Qwen3MoeConfig(**options, num_experts=4, moe_intermediate_size=24, head_dim=8),
        ):
            with torch.device("meta"):
                model = t.AutoModelForCausalLM.from_config(config)
            found = chosen(model, mixture_of_experts(zero_router=True))
            names = {slot.name for slot in slots(model) if not slot.is_buffer}
            assert all(found[name] is not None for name in names)
            assert sum(each == Zeros() for each in found.values()) == 1
            experts = {name for name in names if "experts" in name}
            assert experts
            assert all(found[name].axes == ti.Axes((-1,), (-2,), (0,)) for name in experts)


class TestFocalLoss:
    def test_prior(self):
        bias = torch.tensor(prior_bias(0.01).value)
        assert bias.sigmoid().item() == pytest.approx(0.01, rel=1e-6)
        for probability in (0.0, 1.0, -1, math.nan):
            with pytest.raises(ValueError, match="between 0 and 1"):
                prior_bias(probability)

    def test_torchvision(self):
        retinanet = pytest.importorskip("torchvision.models.detection.retinanet")
        head = retinanet.RetinaNetClassificationHead(32, 3, 5)
        theirs = {name: p.detach().clone() for name, p in head.named_parameters()}
        ti.initialize_(head, focal_loss(), seed=0)
        for name, p in head.named_parameters():
            if name.endswith("bias"):
                assert torch.allclose(p, theirs[name]), name
            else:
                assert p.std().item() == pytest.approx(theirs[name].std().item(), rel=0.05), name


class TestLSTM:
    def test_gates(self):
        model = nn.LSTM(8, 6, 2, bidirectional=True, proj_size=3)
        ti.initialize_(model, lstm(), seed=0)
        for suffix in ("l0", "l1_reverse"):
            assert getattr(model, f"bias_ih_{suffix}").tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12
            assert not getattr(model, f"bias_hh_{suffix}").any()
            for gate in getattr(model, f"weight_hh_{suffix}").detach().chunk(4):
                assert torch.allclose(gate.T @ gate, torch.eye(3), atol=1e-5)
        gate = model.weight_ih_l0[:6]
        assert gate.abs().max() <= math.sqrt(6 / 14)
        cell = nn.LSTMCell(4, 4)
        ti.initialize_(cell, lstm(forget=2.0), seed=0)
        assert cell.bias_ih[4:8].tolist() == [2.0] * 4

    def test_chrono(self):
        model = nn.LSTM(4, 500)
        ti.initialize_(model, chrono_lstm(100), seed=0)
        inputs, forget, *rest = model.bias_ih_l0.detach().chunk(4)
        assert inputs.equal(-forget)
        assert not any(each.any() for each in rest)
        time = forget.exp()
        assert 1 <= time.min() < 2
        assert 98 < time.max() <= 99
        found = next(each for each in chosen(model, chrono_lstm(100)).items() if each[0] == "bias_ih_l0")[1]
        part = found(torch.empty(700), key=ti.Key(0), window=ti.Window((2000,), (300,)))
        assert part.equal(found(torch.empty(2000), key=ti.Key(0))[300:1000])
        with pytest.raises(ValueError, match="three steps or more"):
            chrono_lstm(2)
        with pytest.raises(ValueError, match="four gates"):
            found(torch.empty(6))


class TestMimetic:
    def layer(self, width=32, heads=4, packed=True):
        if packed:
            model = tree(
                {
                    "blocks.0.attn.qkv": nn.Linear(width, 3 * width),
                    "blocks.0.attn.proj": nn.Linear(width, width),
                }
            )
        else:
            names = ("q_proj", "k_proj", "v_proj", "o_proj")
            model = tree({f"blocks.0.attn.{name}": nn.Linear(width, width) for name in names})
        ti.initialize_(model, mimetic(heads) + ti.TORCH_DEFAULTS, seed=2)
        attn = model.blocks.get_submodule("0.attn")
        if packed:
            return (*attn.qkv.weight.detach().chunk(3), attn.proj.weight.detach())
        return tuple(getattr(attn, name).weight.detach() for name in ("q_proj", "k_proj", "v_proj", "o_proj"))

    def test_products(self):
        width, heads = 32, 4
        q, k, v, out = (each.double() for each in self.layer(width, heads))
        shared = ti.Key(2).fold_in("blocks.0.attn")

        def target(alpha, beta, key):
            z = ti.normal_(torch.empty(width, width), key=key).double()
            return alpha / math.sqrt(width) * z + beta * torch.eye(width)

        whole = target(0.4, -0.4, shared.fold_in("vo"))
        assert torch.allclose((out @ v).T, whole, atol=1e-6)
        size = width // heads
        for head in range(heads):
            of_head = slice(head * size, (head + 1) * size)
            product = q[of_head].T @ k[of_head]
            u, s, vh = torch.linalg.svd(target(0.7, 0.7, shared.fold_in("qk").fold_in(head)))
            best = (u[:, :size] * s[:size]) @ vh[:size]
            assert torch.allclose(product, best, atol=1e-6)

    def test_the_same_apart_and_packed(self):
        for a, b in zip(self.layer(), self.layer(packed=False), strict=True):
            assert a.equal(b)

    def test_attention_looks_at_itself(self):
        """What it is for: summed over heads, the diagonal stands out; the values' part is about minus one."""
        q, k, v, out = self.layer(64, 4)
        logits = (q.T @ k).diagonal()
        assert logits.mean() > 3 * (q.T @ k).fill_diagonal_(0).abs().mean()
        assert (out @ v).diagonal().mean().item() == pytest.approx(-0.4, abs=0.1)

    def test_shards(self):
        rules = mimetic(2)
        model = tree({"attn.qkv": nn.Linear(8, 24)})
        initializer = chosen(model, rules)["attn.qkv.weight"]
        whole = initializer(torch.empty(24, 8), key=ti.Key(1))
        part = initializer(torch.empty(9, 3), key=ti.Key(1), window=ti.Window((24, 8), (5, 4)))
        assert part.equal(whole[5:14, 4:7])

    @pytest.mark.parametrize(
        ("heads", "shape", "match"), [(3, (24, 8), "no 3 heads"), (2, (16, 8), "square weights")]
    )
    def test_shapes(self, heads, shape, match):
        initializer = chosen(tree({"attn.qkv": nn.Linear(8, 24)}), mimetic(heads))["attn.qkv.weight"]
        with pytest.raises(ValueError, match=match):
            initializer(torch.empty(shape))

    def test_other_layers_stay(self):
        names = ("mlp.proj", "attention_blocks.0.mlp.proj", "attn.mlp.out_proj")
        found = chosen(
            tree({**{n: nn.Linear(8, 8) for n in names}, "attn.qkv": nn.Linear(8, 24)}), mimetic(2)
        )
        assert not any(found[f"{name}.weight"] for name in names)
        assert found["attn.qkv.bias"] is None


@pytest.mark.parametrize(
    ("name", "shape", "rules"),
    [
        ("attn.qkv.weight", (24, 8), mimetic(2)),
        ("bias_ih_l0", (12,), chrono_lstm(9)),
        ("lora_A.weight", (4, 6), lora("orthogonal")),
    ],
)
def test_pytorch_s_defaults_do_not_matter(name, shape, rules):
    model = nn.LSTM(2, 3) if name == "bias_ih_l0" else tree({name: shape})
    initializer = chosen(model, rules)[name]
    expected, target = initializer(torch.empty(shape), key=ti.Key(3)), torch.empty(shape)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert initializer(target, key=ti.Key(3)).equal(expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert initializer(target.zero_(), key=ti.Key(3)).equal(expected)


class TestTimm:
    """timm/layers/weight_init.py: functions of one module and its name."""

    def modules(self):
        return {
            "head": nn.Linear(48, 9),
            "blocks.0.mlp.fc1": nn.Linear(48, 64),
            "blocks.0.attn.proj": nn.Linear(48, 48),
            "patch.proj": nn.Conv2d(3, 48, 4),
        }

    @pytest.mark.parametrize(
        ("rules", "name"), [(vit_timm_layers(), "init_weight_vit"), (vit_jax_layers(), "init_weight_jax")]
    )
    def test_as_timm_draws_them(self, rules, name):
        layers = pytest.importorskip("timm.layers.weight_init")
        model = tree(self.modules())
        torch.manual_seed(0)
        for path in self.modules():
            getattr(layers, name)(model.get_submodule(path), path)
        theirs = {key: p.detach().clone() for key, p in model.named_parameters()}
        ti.initialize_(model, rules, seed=0)
        for key, p in model.named_parameters():
            want = theirs[key]
            if want.unique().numel() == 1:
                assert p.equal(want), key
            else:
                assert p.std().item() == pytest.approx(
                    want.std().item(), rel=0.35 if want.dim() == 1 else 0.05
                ), key

    def test_numbers(self):
        found = chosen(tree(self.modules()), vit_timm_layers(head_bias=-1.0))
        assert (found["head.weight"], found["head.bias"]) == (Zeros(), Constant(-1.0))
        assert found["blocks.0.mlp.fc1.weight"] == found["patch.proj.weight"] == ti.TruncatedNormal(std=0.02)
        assert found["blocks.0.mlp.fc1.bias"] == Constant(0.02)
        found = chosen(tree(self.modules()), vit_jax_layers())
        assert found["blocks.0.mlp.fc1.weight"] == XavierUniform(axes=ti.Axes())
        assert found["blocks.0.mlp.fc1.bias"] == Normal(std=1e-6)
        assert found["blocks.0.attn.proj.bias"] == Zeros()


def test_stacked_gates():
    assert chosen(nn.LSTM(2, 2), lstm())["bias_ih_l0"] == Stacked((Zeros(), Constant(1.0), Zeros(), Zeros()))
