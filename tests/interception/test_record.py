"""``record``: what code asks for on the meta device, as rules that do the same anywhere."""

import copy
import math
import random
import threading
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tritoninit as ti
from tritoninit.recorded import Call, Drawn, Part

SIZE = 48


class Holder(nn.Module):
    """A module whose constructor is the function that it is given."""

    def __init__(self, build):
        super().__init__()
        with torch.no_grad():
            build(self)


def recorded(build):
    """A model on the meta device, built under ``record``, and the rules."""
    with ti.record() as own, torch.device("meta"):
        model = build()
    return model, own.rules(model)


def tensors(model):
    return {
        name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def moments_agree(ours, plain):
    """Of finite samples of one law: seven standard errors, with those that the plain ones have."""
    ours, plain = ours.double(), plain.double()
    if plain.numel() == 1 or not plain.std() > 0:
        return torch.equal(ours, plain)
    error = 7 * plain.std() * math.sqrt(2 / plain.numel())
    fourth = ((plain - plain.mean()) ** 4).mean()
    spread = 7 * math.sqrt(max(float(fourth - plain.var() ** 2), 0) * 2 / plain.numel()) / (2 * plain.std())
    return abs(ours.mean() - plain.mean()) <= error and abs(ours.std() - plain.std()) <= spread + 1e-12


def check(build, *, deterministic=()):
    """The same bits from the meta device, on a real model, by way of a document; plain PyTorch's moments."""
    model, rules = recorded(build)
    assert ti.RuleSet.from_json(rules.to_json()) == rules
    with ti.record() as own:  # with memory
        model_in_memory = build()
    assert own.rules(model_in_memory) == rules
    torch.manual_seed(0)
    direct = build()
    plain = tensors(direct)
    ti.initialize_(direct, rules, seed=0)
    ti.initialize_(model, ti.RuleSet.from_json(rules.to_json()), seed=0, device="cpu")
    ours, again = tensors(model), tensors(direct)
    assert ours.keys() == plain.keys()
    for name, expected in plain.items():
        assert torch.equal(ours[name], again[name]), name
        assert ours[name].dtype == expected.dtype, name
        if name in deterministic or not expected.is_floating_point():
            assert torch.equal(ours[name], expected), name
        else:
            assert moments_agree(ours[name], expected), (name, rules)
    return rules, ours


def rule_for(rules, name):
    return next(rule.initializers for rule in rules if rule.pattern == name)


def of_parameter(make):
    """A model of one parameter, ``weight``."""

    def build(module):
        module.weight = nn.Parameter(make())

    return lambda: Holder(build)


def changed(change, *shape):
    """A model of one parameter that is drawn from a normal law, and then changed."""

    def build(module):
        module.weight = nn.Parameter(torch.empty(shape or (SIZE, SIZE)))
        nn.init.normal_(module.weight, std=0.02)
        change(module.weight)

    return lambda: Holder(build)


MADE = {
    "zeros": (lambda: torch.zeros(5), ti.Zeros()),
    "ones": (lambda: torch.ones(5), ti.Ones()),
    "full": (lambda: torch.full((5,), 0.3), ti.Constant(0.3)),
    "half": (lambda: 0.5 * torch.ones(5), ti.Constant(0.5)),
    "inverse": (lambda: torch.ones(5) / 4 + 1, ti.Constant(1.25)),
    "log": (lambda: torch.log(torch.ones(5) * math.e**2), None),
    "zeros_like": (lambda: torch.zeros_like(torch.empty(5)), ti.Zeros()),
    "new_full": (lambda: torch.empty(1).new_full((5,), 2.0), ti.Constant(2.0)),
    "scalar": (lambda: torch.tensor(2.5), ti.Constant(2.5)),
    "randn": (lambda: torch.randn(SIZE, SIZE), ti.Normal()),
    "scaled": (lambda: torch.randn(SIZE, SIZE) * 0.02, ti.Normal(0.0, 0.02)),
    "scaled before": (lambda: 0.02 * torch.randn(SIZE, SIZE), ti.Normal(0.0, 0.02)),
    "divided": (lambda: torch.randn(SIZE, SIZE) / 4, ti.Normal(0.0, 0.25)),
    "of a law": (lambda: torch.normal(1.0, 0.5, (SIZE, SIZE)), ti.Normal(1.0, 0.5)),
    "rand": (lambda: torch.rand(SIZE, SIZE) * 2 - 1, ti.Uniform(-1.0, 1.0)),
    "negated": (lambda: -torch.rand(SIZE, SIZE), ti.Uniform(-1.0, 0.0)),
    "like": (lambda: torch.randn_like(torch.empty(SIZE, SIZE)), ti.Normal()),
    "methods": (lambda: torch.empty(SIZE, SIZE).normal_(0, 0.1).mul_(2).add_(1), ti.Normal(1.0, 0.2)),
    "uniform": (lambda: torch.empty(SIZE, SIZE).uniform_(-1, 3), ti.Uniform(-1.0, 3.0)),
    "cloned": (lambda: torch.randn(SIZE, SIZE).clone().detach(), ti.Normal()),
    "transposed": (lambda: torch.randn(SIZE, 2 * SIZE).T.contiguous(), ti.Normal()),
    "reshaped": (lambda: torch.randn(SIZE * SIZE).view(SIZE, SIZE), ti.Normal()),
    "bfloat16": (lambda: torch.randn(SIZE, SIZE, dtype=torch.bfloat16), ti.Normal()),
    "complex": (lambda: nn.init.normal_(torch.empty(SIZE, SIZE, dtype=torch.complex64)).real.clone(), None),
    "cast": (lambda: torch.randn(SIZE, SIZE).bfloat16(), ti.Normal()),
}


@pytest.mark.parametrize("name", MADE)
def test_what_factories_and_arithmetic_make(name):
    make, expected = MADE[name]
    rules, _ = check(of_parameter(make))
    if expected is not None:
        assert rule_for(rules, "weight") == expected


def zero_row(weight):
    weight[3].zero_()


def zeroed(weight):
    weight.data[3] = 0


def patched(weight):
    weight[2:5, 1:4] = 1.5


def column(weight):
    weight.data[:, 0].fill_(2.0)


def ones_in_the_middle(weight):
    weight.data[SIZE // 4 : SIZE // 2].fill_(1.0)


CHANGED = {
    "zero_": (zero_row, ti.ZeroRow(ti.Normal(0.0, 0.02), 3)),
    "set": (zeroed, ti.ZeroRow(ti.Normal(0.0, 0.02), 3)),
    "rectangle": (
        patched,
        ti.Patched(ti.Normal(0.0, 0.02), (ti.Patch(ti.Constant(1.5), (2, 1), (3, 3)),)),
    ),
    "column": (
        column,
        ti.Patched(ti.Normal(0.0, 0.02), (ti.Patch(ti.Constant(2.0), (0, 0), (SIZE, 1)),)),
    ),
    "mul_": (lambda w: w.mul_(0.5), ti.Normal(0.0, 0.01)),
    "data": (lambda w: w.data.div_(2), ti.Normal(0.0, 0.01)),
    "flipped": (lambda w: w.mul_(-0.5), ti.Normal(0.0, 0.01)),
    "by a tensor": (lambda w: w.mul_(torch.tensor(0.5)), ti.Normal(0.0, 0.01)),
    "overwritten": (lambda w: nn.init.zeros_(w), ti.Zeros()),
    "copied from": (lambda w: w.copy_(torch.ones(SIZE, SIZE)), ti.Ones()),
    "copied from one": (lambda w: w.copy_(torch.ones(1)), ti.Ones()),
    "other data": (lambda w: setattr(w, "data", torch.zeros(SIZE, SIZE)), ti.Zeros()),
    "clamped": (lambda w: w.clamp_(-0.02, 0.02), None),
    "absolute": (lambda w: w.data.abs_(), None),
    "triangle": (lambda w: w.tril_(), None),
    "masked": (lambda w: w.mul_(torch.tril(torch.ones(SIZE, SIZE))), None),
    "by index": (lambda w: w.__setitem__([0, 2], 0.0), None),
    "by mask": (lambda w: w.masked_fill_(torch.eye(SIZE, dtype=torch.bool), 0.0), None),
    "diagonal": (lambda w: w.diagonal().fill_(1.0), None),
    "diagonal filled": (lambda w: w.fill_diagonal_(0.0), None),
    "normalized": (lambda w: w.copy_(F.normalize(w, dim=1)), None),
    "orthogonal by hand": (lambda w: w.copy_(torch.linalg.qr(torch.randn(SIZE, SIZE))[0]), None),
    "erfinv": (lambda w: w.uniform_(-0.9, 0.9).erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-1, 1), None),
    "part scaled": (lambda w: w[:5].mul_(3.0), None),
    "part drawn": (lambda w: nn.init.uniform_(w[:, : SIZE // 2]), None),
    "transposed part": (lambda w: nn.init.xavier_uniform_(w.T[:, : SIZE // 2]), None),
    "permuted": (lambda w: w.copy_(w[torch.randperm(SIZE)]), None),
    "dropped": (lambda w: w.copy_(F.dropout(w, 0.5)), None),
    "bernoulli": (lambda w: w.bernoulli_(0.3), None),
    "exponential": (lambda w: w.exponential_(2.0), None),
    "read": (lambda w: w.mul_(torch.linspace(1, 2, 3)[1].item()), ti.Normal(0.0, 0.03)),
    "halves": (
        lambda w: w.data.copy_(torch.cat([torch.zeros(SIZE, 8), torch.ones(SIZE, SIZE - 8)], 1)),
        None,
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_make_of_it(name):
    change, expected = CHANGED[name]
    rules, _ = check(changed(change))
    if expected is not None:
        assert rule_for(rules, "weight") == expected


def test_equal_parts_are_stacked():
    def build(module):
        module.weight = nn.Parameter(torch.empty(3 * SIZE, SIZE))
        for part in module.weight.chunk(3):
            nn.init.xavier_uniform_(part)

    rules, _ = check(lambda: Holder(build))
    assert rule_for(rules, "weight") == ti.Stacked((ti.XavierUniform(),) * 3)


def test_experts_that_are_drawn_one_by_one():
    def build(module):
        module.experts = nn.Parameter(torch.empty(4, SIZE, SIZE))
        module.bases = nn.Parameter(torch.empty(4, SIZE, SIZE))
        for expert, base in zip(module.experts, module.bases, strict=True):
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
            nn.init.orthogonal_(base)

    rules, ours = check(lambda: Holder(build))
    assert rule_for(rules, "experts") == ti.Uniform(-(SIZE**-0.5), SIZE**-0.5)
    for base in ours["bases"]:
        assert torch.allclose(base @ base.T, torch.eye(SIZE), atol=1e-4)


def test_numbers_that_are_set_in_parts():
    """As Marian sets its positions."""

    def build(module):
        angles = np.outer(np.arange(6), 10.0 ** -np.arange(4))
        places = torch.empty(6, 8)
        places[:, :4] = torch.FloatTensor(np.sin(angles))
        places[:, 4:] = torch.FloatTensor(np.cos(angles))
        module.places = nn.Parameter(torch.empty(6, 8))
        module.places.copy_(places)
        module.places[0] = torch.arange(8.0)

    check(lambda: Holder(build), deterministic=("places",))


def test_very_many_parts():
    def build(module):
        module.rows = nn.Parameter(torch.empty(700, 4))
        for row in module.rows:
            row.normal_(0, 0.1)
        module.last = nn.Parameter(torch.empty(4, 4))
        for _ in range(700):
            module.last[0].uniform_()
        module.last[1:].zero_()

    rules, _ = check(lambda: Holder(build))
    patch = ti.Patch(ti.Uniform(), (0, 0), (1, 4))
    assert rule_for(rules, "last") in (
        ti.Patched(ti.Zeros(), (patch, ti.Patch(ti.Zeros(), (1, 0), (3, 4)))),
        ti.Patched(ti.Zeros(), (ti.Patch(ti.Zeros(), (1, 0), (3, 4)), patch)),
    )


def test_in_inference_mode():
    with torch.inference_mode():
        check(changed(lambda w: w.mul_(0.5)))
        check(lambda: nn.Sequential(nn.Linear(SIZE, SIZE), nn.BatchNorm1d(3)))


def test_constructors_that_torch_does_not_show():
    def build(module):
        module.weight = nn.Parameter(torch.Tensor(SIZE, SIZE))  # on the CPU, whatever the device
        module.weight.data.uniform_(-1, 1)
        module.given = nn.Parameter(torch.FloatTensor([1.0, 2.0]))

    rules, ours = check(lambda: Holder(build))
    assert rule_for(rules, "weight") == ti.Uniform(-1.0, 1.0)
    assert ours["given"].tolist() == [1, 2]


def test_nothing_is_written_where_a_call_cannot_be_made():
    """As of a document that a person edited."""
    part = Part(0, "float32", (2, 2), (2, 1))
    wrong = ti.Recorded((Drawn(part, ti.Normal()), Call("torch.Tensor.view", (part, 5), ())), part)
    model = nn.Linear(2, 2)
    before = tensors(model)
    with pytest.raises(ValueError, match=r"weight: Recorded: Normal, view cannot be done: .*shape"):
        ti.initialize_(model, [ti.Rule("weight", wrong), ti.Rule("bias", ti.Ones())], seed=0)
    assert torch.equal(model.bias, before["bias"])


def test_a_structured_part_is_one_of_its_shape():
    def build(module):
        module.weight = nn.Parameter(torch.zeros(3 * SIZE, SIZE))
        nn.init.orthogonal_(module.weight[SIZE : 2 * SIZE], gain=2.0)

    rules, ours = check(lambda: Holder(build))
    middle = ours["weight"][SIZE : 2 * SIZE]
    assert torch.allclose(middle @ middle.T, 4 * torch.eye(SIZE), atol=1e-4)
    patch = ti.Patch(ti.Orthogonal(2.0), (SIZE, 0), (SIZE, SIZE))
    assert rule_for(rules, "weight") == ti.Patched(ti.Zeros(), (patch,))


LAYERS = {
    "linear": lambda: nn.Linear(SIZE, SIZE),
    "embedding": lambda: nn.Embedding(SIZE, SIZE, padding_idx=2),
    "bag": lambda: nn.EmbeddingBag(SIZE, SIZE),
    "conv": lambda: nn.Conv2d(16, 16, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(16, 8, 3),
    "batchnorm": lambda: nn.BatchNorm1d(5),
    "groupnorm": lambda: nn.GroupNorm(1, 4),
    "lstm": lambda: nn.LSTM(SIZE, SIZE, 2, proj_size=8),
    "gru": lambda: nn.GRUCell(SIZE, SIZE),
    "attention": lambda: nn.MultiheadAttention(SIZE, 2, add_bias_kv=True, kdim=SIZE // 2),
    "packed": lambda: nn.MultiheadAttention(SIZE, 2),
    "transformer": lambda: nn.Transformer(SIZE, 2, 1, 1, SIZE, batch_first=True),
    "bilinear": lambda: nn.Bilinear(8, 16, 24),
    "prelu": lambda: nn.PReLU(),
    "bfloat16": lambda: nn.Linear(SIZE, SIZE).bfloat16(),
    "in half": lambda: nn.Linear(SIZE, SIZE, dtype=torch.float16),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(SIZE, SIZE)),
    "skipped": lambda: nn.utils.skip_init(nn.Linear, SIZE, SIZE).apply(lambda m: m.reset_parameters()),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(SIZE, SIZE)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_torch(name):
    check(LAYERS[name])


def test_packed_projections_are_drawn_as_the_code_draws_them():
    _, rules = recorded(LAYERS["packed"])
    assert rule_for(rules, "in_proj_weight") == ti.AsOne(ti.XavierUniform())


def frequencies(module):
    steps = torch.arange(0, 8, 2).float() / 8
    module.register_buffer("frequencies", 1.0 / 10000**steps, persistent=False)
    module.register_buffer("turns", torch.polar(torch.ones(4), module.frequencies))
    module.register_buffer("mask", torch.tril(torch.ones(4, 4)).view(1, 1, 4, 4))
    module.register_buffer("allowed", torch.ones(4, 4, dtype=torch.bool).triu(1))
    module.register_buffer("places", torch.arange(4).expand(1, -1).clone())
    module.register_buffer("given", torch.tensor([[0.1, math.inf], [-0.0, -math.inf]]))
    module.register_buffer("array", torch.from_numpy(np.linspace(0, 1, 5)))
    module.register_buffer("nothing", torch.empty(0))
    module.weight = nn.Parameter(torch.log(torch.arange(1, 5).float()).repeat(3, 1))


def test_numbers_that_nobody_drew_are_equal():
    names = ("frequencies", "turns", "mask", "allowed", "places", "given", "array", "weight", "nothing")
    check(lambda: Holder(frequencies), deterministic=names)


def test_recorded_buffers_keep_their_dtype():
    model, rules = recorded(lambda: Holder(frequencies))
    ti.initialize_(model, rules, seed=0, device="cpu", dtype=torch.bfloat16)
    assert model.frequencies.dtype == torch.float32
    assert model.weight.dtype == torch.bfloat16


def test_random_buffers_come_of_their_name():
    def build(module):
        module.register_buffer("directions", torch.randn(SIZE, SIZE))
        module.register_buffer("order", torch.randperm(SIZE))

    model, rules = recorded(lambda: Holder(build))
    ti.initialize_(model, rules, seed=0, device="cpu")
    assert sorted(model.order.tolist()) == list(range(SIZE))
    assert torch.equal(
        model.directions, ti.Normal()(torch.empty(SIZE, SIZE), key=ti.Key(0).fold_in("directions"))
    )
    before = model.order.clone()
    state = torch.get_rng_state()
    ti.initialize_(model, rules, seed=0)
    assert torch.equal(model.order, before)
    assert torch.equal(torch.get_rng_state(), state)
    ti.initialize_(model, rules, seed=1)
    assert not torch.equal(model.order, before)


class Twins(nn.Module):
    """One network and its slow copy, as in MoCo; a third that is its parameters' copy, doubled."""

    def __init__(self):
        super().__init__()
        self.fast = nn.Linear(SIZE, SIZE)
        self.slow = copy.deepcopy(self.fast)
        self.other = nn.Linear(SIZE, SIZE)
        with torch.no_grad():
            for ours, theirs in zip(self.other.parameters(), self.fast.parameters(), strict=True):
                ours.copy_(2 * theirs)


def test_copies_are_equal():
    rules, ours = check(Twins)
    assert isinstance(rule_for(rules, "slow.weight"), ti.CopyOf)
    assert torch.equal(ours["fast.weight"], ours["slow.weight"])
    assert torch.allclose(2 * ours["fast.weight"], ours["other.weight"], rtol=1e-6)
    assert torch.equal(ours["fast.bias"], ours["slow.bias"])


def test_what_is_computed_from_another_is_computed_from_its_numbers():
    def build(module):
        module.encoder = nn.Linear(SIZE, 2 * SIZE)
        module.decoder = nn.Linear(2 * SIZE, SIZE)
        module.decoder.weight.copy_(module.encoder.weight.T)
        module.head = nn.Parameter(module.encoder.weight[:5].clone())
        module.norms = nn.Parameter(module.encoder.weight.norm(dim=1))
        module.shifted = nn.Parameter(module.encoder.bias + 1)

    _, ours = check(lambda: Holder(build))
    weight = ours["encoder.weight"]
    assert torch.equal(ours["decoder.weight"], weight.T)
    assert torch.equal(ours["head"], weight[:5])
    assert torch.equal(ours["norms"], weight.norm(dim=1))
    assert torch.allclose(ours["shifted"], ours["encoder.bias"] + 1, atol=1e-6)


def test_old_weight_norm_is_consistent():
    def build():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.utils.weight_norm(nn.Linear(SIZE, SIZE))

    _, rules = recorded(build)
    assert isinstance(rule_for(rules, "weight_v"), ti.CopyOf) or isinstance(
        rule_for(rules, "weight_g"), ti.CopyOf
    )


def test_what_no_one_key_gives_is_named():
    def build(module):
        module.a = nn.Parameter(torch.randn(3))
        module.b = nn.Parameter(torch.randn(3))
        module.both = nn.Parameter(module.a + module.b)

    with ti.record() as own, torch.device("meta"):
        model = Holder(build)
    with pytest.raises(ValueError, match="both: its random numbers are in part those of a"):
        own.rules(model)


def test_parts_of_one_draw_are_nobody_else_s():
    def build(module):
        flat = torch.randn(3 * SIZE, SIZE)
        module.a = nn.Parameter(flat[:SIZE])
        module.b = nn.Parameter(flat[SIZE:])

    rules, ours = check(lambda: Holder(build))
    assert rule_for(rules, "b") == ti.Normal()
    assert not torch.equal(ours["a"], ours["b"][:SIZE])


def test_tied_weights_have_one_rule():
    def build(module):
        module.a = nn.Linear(SIZE, SIZE)
        module.b = nn.Linear(SIZE, SIZE)
        module.b.weight = module.a.weight

    rules, _ = check(lambda: Holder(build))
    assert [rule.pattern for rule in rules] == ["a.weight", "a.bias", "b.bias"]


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_numbers_are_those(assign):
    numbers = {"weight": torch.randn(3, 4), "bias": torch.zeros(3)}

    def build():
        layer = nn.Linear(4, 3)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # is recorded here
            layer.load_state_dict(numbers, assign=assign)
        return layer

    _, ours = check(build, deterministic=("weight", "bias"))
    assert torch.equal(ours["weight"], numbers["weight"])


@pytest.mark.parametrize("order", ["inside", "outside", "default", "none"])
def test_wherever_the_device_is_said(order):
    def build():
        return nn.Sequential(nn.Linear(SIZE, SIZE), nn.BatchNorm1d(3))

    _, expected = recorded(build)
    if order == "outside":
        with torch.device("meta"), ti.record() as own:
            model = build()
    elif order == "default":
        torch.set_default_device("meta")
        try:
            with ti.record() as own:
                model = build()
        finally:
            torch.set_default_device(None)
    else:
        with ti.record() as own:
            model = build()
    assert own.rules(model) == expected


def test_nothing_is_drawn_from_the_generators():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the legacy one is asked
    recorded(LAYERS["transformer"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_models_built_under_intercept():
    def build():
        model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.BatchNorm1d(3), nn.Embedding(9, 4, padding_idx=1))
        model.register_parameter("scale", nn.Parameter(torch.ones(3)))
        model.register_parameter("places", nn.Parameter(torch.arange(3.0)))
        return model

    with ti.intercept(seed=3) as own:
        model = build()
    rules = own.rules(model)
    assert rule_for(rules, "2.weight") == ti.ZeroRow(ti.Normal(), 1)
    again = build()
    assert (
        ti.initialize_(again, rules, seed=0).audit.fingerprint
        == ti.initialize_(model, rules, seed=0).audit.fingerprint
    )
    assert again.places.tolist() == [0, 1, 2]


def test_intercept_does_not_know_what_was_computed():
    with ti.intercept(seed=3) as own:
        model = nn.Linear(3, 3)
        with torch.no_grad():
            model.weight.mul_(torch.randn(3))
    with pytest.raises(ValueError, match=r"weight: .*build it under ti\.record"):
        own.rules(model)


UNKNOWN = {
    "never set": (lambda: torch.empty(3), "never set"),
    "set in part": (lambda: torch.empty(3, 3).index_fill_(0, torch.tensor([0]), 1.0)[0], None),
    "by others": (lambda: torch.ones(3, 3).map_(torch.zeros(3, 3), lambda a, b: a), "map_"),
}


def test_what_nobody_knows_is_named():
    def build(module):
        module.good = nn.Linear(2, 2)
        module.bad = nn.Parameter(torch.empty(3))
        module.worse = nn.Parameter(torch.empty(3, 2))
        module.worse[0] = 1.0

    with ti.record() as own, torch.device("meta"):
        model = Holder(build)
    with pytest.raises(
        ValueError, match=r"bad: it was never set; worse: a part of it was never set"
    ) as raised:
        own.rules(model)
    assert "good" not in str(raised.value)
    lazy = nn.LazyLinear(3)
    with pytest.raises(ValueError, match=r"weight: .*shape"):
        own.rules(lazy)
    with pytest.raises(ValueError, match=r"weight: .*not made in the block"):
        own.rules(nn.Linear(2, 2, device="meta"))


class Read(nn.Module):
    """What its own code does depends on numbers that it drew, and looks at."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(SIZE, SIZE))
        self.bias = nn.Parameter(torch.empty(SIZE))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        nn.init.normal_(self.bias)
        self.weight.uniform_(-1, 1)
        self.weight.div_(self.weight.std().item())


class Redrawn(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        self.weight.normal_()
        while self.weight.abs().max() > 1.5:
            self.weight.normal_()


class After(nn.Module):
    """What comes before or after that, or covers it, does not."""

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(SIZE, SIZE)
        self.inner = Read()
        self.redrawn = Redrawn()
        self.covered = Redrawn()
        self.after = nn.Linear(SIZE, SIZE)
        nn.init.zeros_(self.covered.weight)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_numbers_that_are_read_back_are_for_the_module_s_own_code(device):
    with ti.record() as own, torch.device(device):
        model = After()
    rules = own.rules(model)
    code = ti.OWN_CODE[0].initializers
    assert rule_for(rules, "inner.weight") == type(code)(code="Read.reset_parameters")
    assert rule_for(rules, "covered.weight") == ti.Zeros()
    assert rule_for(rules, "inner.bias") == ti.Normal()
    assert (
        rule_for(rules, "after.weight") == rule_for(rules, "before.weight") == ti.KaimingUniform(math.sqrt(5))
    )
    assert ti.RuleSet.from_json(rules.to_json()) == rules
    built = After()
    report = ti.initialize_(model, rules, seed=0, device="cpu")
    ti.initialize_(built, rules, seed=0)
    assert all(map(torch.equal, model.parameters(), built.parameters()))
    assert model.inner.weight.std().item() == pytest.approx(1.0)
    assert model.redrawn.weight.abs().max() <= 1.5
    assert "Read.reset_parameters" in [each.code for each in report]


def test_numbers_that_are_read_back_by_others():
    class Constructor(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            scale = self.first.weight.detach().std().item()
            self.second = nn.Parameter(torch.randn(3) * scale)

    with ti.record() as own, torch.device("meta"):
        model = Constructor()
    with pytest.raises(ValueError, match=r"second: .*read back, in Constructor\.__init__") as raised:
        own.rules(model)
    assert "first" not in str(raised.value)


def test_code_that_is_another_s_is_no_answer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(SIZE, SIZE)  # whose own code is torch's
            self.scale_down()

        @torch.no_grad()
        def scale_down(self):
            self.layer.weight.div_(self.layer.weight.norm().item())

    with ti.record() as own, torch.device("meta"):
        model = Model()
    rules = own.rules(model)
    with pytest.raises(
        ValueError, match=r"layer\.weight: it is for Model\.scale_down to set, and Linear\.reset"
    ):
        ti.initialize_(model, rules, seed=0, device="cpu")


def test_intercept_inside_of_a_recording_is_recorded():
    with ti.record() as own, torch.device("meta"):
        with ti.intercept(seed=0):
            inner = nn.Linear(3, 3)
        model = nn.Sequential(inner, nn.Linear(3, 3))
    assert len(own.rules(model)) == 4


def test_calls_are_made_again_for_a_window():
    """Each rank cuts its part of what one process has."""
    _, rules = recorded(changed(lambda w: w.copy_(F.normalize(w, dim=1))))
    how = rule_for(rules, "weight")
    whole = how(torch.empty(SIZE, SIZE), key=ti.Key(1))
    part = how(torch.empty(5, SIZE - 3), key=ti.Key(1), window=ti.Window((SIZE, SIZE), (7, 3)))
    assert torch.equal(part, whole[7:12, 3:])


def test_the_report_tells_what_was_recorded():
    model, rules = recorded(changed(lambda w: w.clamp_(-0.02, 0.02)))
    report = ti.initialize_(model, rules, seed=0, device="cpu")
    assert "Recorded: Normal, clamp_" in str(report)


CONVERTED = {
    "to half and back": lambda: torch.full((4,), 0.1).half().float(),
    "to integers": lambda: torch.full((4,), 2.7).to(torch.int64).float(),
    "beyond integers": lambda: torch.full((4,), 200.0).to(torch.int8).float(),
    "to booleans": lambda: torch.full((4,), 2.7).bool().float(),
    "copied from half": lambda: torch.empty(4).copy_(torch.full((4,), 0.1, dtype=torch.bfloat16)),
    "copied by integers": lambda: torch.empty(4).copy_(
        torch.empty(4, dtype=torch.int32).copy_(torch.ones(4))
    ),
    "of double precision": lambda: torch.full((4,), 0.1).double(),
    "looked at as others": lambda: torch.full((4,), 0x3F800000, dtype=torch.int32).view(torch.float32),
    "to eight bits": lambda: torch.full((4,), 0.3).to(torch.float8_e4m3fn).float(),
    "from half to bfloat16": lambda: torch.full((4,), 0.1).half().bfloat16().float(),
    "not a number": lambda: torch.full((4,), math.inf).sub(math.inf).nan_to_num(3.0),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_constants_are_converted_as_the_code_does(name):
    check(of_parameter(CONVERTED[name]), deterministic=("weight",))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_what_was_drawn_is_converted_as_the_code_does(dtype):
    _, ours = check(of_parameter(lambda: (torch.rand(3000) * 2.5).to(dtype).float()))
    assert set(ours["weight"].tolist()) <= {0, 1, 2}


def test_not_a_number_comes_back():
    def build(module):
        module.register_buffer("unset", torch.full((3,), math.nan))
        module.register_buffer("some", torch.tensor([math.nan, 1.0]))
        module.weight = nn.Parameter(torch.zeros(3) * math.inf)

    model, rules = recorded(lambda: Holder(build))
    read = ti.RuleSet.from_json(rules.to_json())
    assert read.to_json() == rules.to_json()  # since NaN is not NaN, nor rules with it, from Python 3.13 on
    ti.initialize_(model, read, seed=0, device="cpu")
    assert model.unset.isnan().all()
    assert model.weight.isnan().all()
    assert model.some.isnan().tolist() == [True, False]


@pytest.mark.parametrize("index", [[1, 2], [True, False, True], ([0, 2], slice(1, 3))])
def test_lists_are_other_indexes_than_tuples(index):
    def make():
        weight = torch.zeros(3, 4)
        weight[index] = 7.0
        return torch.cat([weight, torch.arange(12.0).view(3, 4)[index].reshape(-1, 2).repeat(1, 2)])

    check(of_parameter(make), deterministic=("weight",))


def test_what_is_overwritten_is_not_read():
    def build(module):
        module.normal = nn.Parameter(torch.empty(3000).log_normal_(0, 0.3))
        module.clamped = nn.Parameter(torch.empty(3000).cauchy_().clamp_(-1, 1))
        module.out = nn.Parameter(torch.randn(3000, out=torch.empty(3000)))
        module.product = nn.Parameter(torch.mul(torch.arange(5.0), 2, out=torch.empty(5)))

    check(lambda: Holder(build), deterministic=("product",))


def test_what_is_copied_into_itself_is_read():
    def make():
        weight = torch.arange(1.0, 5.0).log()
        weight.copy_(weight)
        torch.add(weight, 1, out=weight)
        return weight

    check(of_parameter(make), deterministic=("weight",))


@pytest.mark.parametrize("steps", [10, 400])
def test_steps_after_one_another(steps):
    def build(module):
        module.drawn = nn.Parameter(torch.randn(300))
        module.same = nn.Parameter(torch.ones(3))
        for _ in range(steps):
            module.drawn.mul_(0.9999)
            module.same.mul_(0.9999)

    rules, _ = check(lambda: Holder(build), deterministic=("same",))
    assert isinstance(rule_for(rules, "drawn"), ti.Normal if steps == 10 else ti.Recorded)


DISTRIBUTIONS = {
    "normal": lambda: torch.distributions.Normal(1.0, 3.0),
    "uniform": lambda: torch.distributions.Uniform(1.0, 3.0),
    "gamma": lambda: torch.distributions.Gamma(2.0, 3.0),
    "beta": lambda: torch.distributions.Beta(2.0, 3.0),
    "laplace": lambda: torch.distributions.Laplace(0.0, 3.0),
    "of matrices": lambda: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_of_torch(name):
    check(of_parameter(lambda: DISTRIBUTIONS[name]().sample((3000,))))


def test_means_and_deviations_that_are_tensors():
    check(of_parameter(lambda: torch.normal(torch.zeros(3000), torch.full((3000,), 2.0))))


def test_numbers_that_numpy_is_handed():
    def make():
        steps = torch.linspace(0, 1, 5).numpy()
        with pytest.raises(ValueError, match="read-only") if not torch.empty(0).is_cpu else nullcontext():
            steps[0] = 3.0
        return torch.tensor(np.asarray(torch.linspace(0, 1, 5)) + 1)

    check(of_parameter(make), deterministic=("weight",))


class Elsewhere(nn.Module):
    """What NumPy and Python draw is handed to torch as any other number."""

    def __init__(self, draw):
        super().__init__()
        self.before = nn.Parameter(torch.zeros(3))
        self.weight = nn.Parameter(torch.empty(SIZE))
        self.draw = draw
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.copy_(torch.tensor(self.draw()))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: np.random.randn(SIZE),  # noqa: NPY002 - the legacy one is asked
        lambda: [random.gauss(0, 1) for _ in range(SIZE)],
        lambda: nn.init.normal_(torch.empty(SIZE), std=1 + random.random()).tolist(),
    ],
    ids=["numpy", "random", "of an initializer"],
)
def test_numbers_that_others_drew_are_for_the_module_s_own_code(draw):
    model, rules = recorded(lambda: Elsewhere(draw))
    assert rule_for(rules, "before") == ti.Zeros()
    assert rule_for(rules, "weight").code == "Elsewhere.reset_parameters"
    with ti.record() as own:
        own_model = Elsewhere(draw)
    assert own.rules(own_model) == rules
    ti.initialize_(model, rules, seed=0, device="cpu")
    first = model.weight.clone()
    ti.initialize_(model, rules, seed=1)
    assert not torch.equal(model.weight, first)  # which it was, of numbers that are written down
    ti.initialize_(model, rules, seed=0)
    assert torch.equal(model.weight, first)


def test_numbers_that_others_drew_in_a_constructor():
    class Constructor(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Parameter(torch.from_numpy(np.random.randn(3)))  # noqa: NPY002 - as above
            self.third = nn.Parameter(torch.zeros(3) + random.random())

    with ti.record() as own, torch.device("meta"):
        model = Constructor()
    with pytest.raises(ValueError, match=r"second: NumPy or Python drew.*third: .*in Constructor\.__init__"):
        own.rules(model)


def test_numbers_of_numpy_that_nobody_drew():
    _, rules = recorded(
        lambda: Holder(lambda m: setattr(m, "weight", nn.Parameter(torch.from_numpy(np.ones(3)))))
    )
    assert [rule.initializers for rule in rules] == [ti.Ones()]


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    "change", [lambda m: m.to_empty(device="cpu"), lambda m: m.to(torch.float16)], ids=["to_empty", "to"]
)
def test_what_was_exchanged_since_is_named(device, change):
    with ti.record() as own, torch.device(device):
        model = nn.Linear(3, 3)
    expected = own.rules(model)
    with pytest.raises(ValueError, match=r"weight: it was not made in the block.*bias: it was not made"):
        own.rules(change(model))
    assert len(expected) == 2


def test_blocks_of_several_threads():
    rules = {}

    def build(number):
        with ti.record() as own, torch.device("meta"):
            model = Twins()
        rules[number] = own.rules(model)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(rules[number] == recorded(Twins)[1] for number in range(4))
