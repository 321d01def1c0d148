"""Stochastic rounding by every way in: functions, initializers made of others, models, shards, documents."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import checks, documents
from tritoninit.auditing.moments import expected
from tritoninit.combinators import rounded
from tritoninit.kernels.stream import GRIDS
from tritoninit.words import describe

KEY = ti.Key(11).fold_in("test_rounding")
SHAPE = (96, 80)
DTYPES = [getattr(torch, name) for name in GRIDS]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=list(GRIDS))
FUNCTIONS = [
    (ti.uniform_, (-0.3, 0.3)),
    (ti.normal_, (0.1, 0.02)),
    (ti.trunc_normal_, (0.0, 0.02, -0.04, 0.04)),
    (ti.kaiming_uniform_, (5**0.5,)),
    (ti.kaiming_normal_, (0, "fan_out", "relu")),
    (ti.xavier_uniform_, ()),
    (ti.xavier_normal_, (0.5,)),
    (ti.orthogonal_, ()),
    (ti.sparse_, (0.3, 0.1)),
    (ti.exponential_, (0.7,)),
    (ti.log_normal_, (0.0, 0.3)),
]
WHOLE = [(ti.bernoulli_, (0.3,)), (ti.randint_, (-7, 9)), (ti.random_, (6,)), (ti.permutation_, ())]
INITIALIZERS = [
    ti.Normal(0.1, 0.02),
    ti.Uniform(-0.3, 0.3),
    ti.TruncatedNormal(0.0, 0.02, -0.04, 0.04),
    ti.KaimingNormal(),
    ti.Orthogonal(0.7),
    ti.Sparse(0.25, 0.1),
    ti.Exponential(),
    ti.LogUniform(1e-3, 0.1),
    ti.Scaled(ti.Orthogonal(), 0.3),
    ti.Stacked((ti.Orthogonal(), ti.Normal(0.0, 1e-4), ti.Zeros(), ti.Uniform(-1, 0))),
    ti.ZeroRow(ti.XavierUniform(), 3),
    ti.BlockDiagonal(ti.Orthogonal(), 2),
    ti.Patched(ti.Normal(), (ti.Patch(ti.Orthogonal(), (4, 8), (16, 16)),)),
]
every_initializer = pytest.mark.parametrize("initializer", INITIALIZERS, ids=repr)


def patterns(x: torch.Tensor) -> torch.Tensor:
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.itemsize])


def same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.equal(patterns(x), patterns(y))


def assert_rounded(found: torch.Tensor, exact: torch.Tensor, slack: float = 0.0) -> None:
    """Each is a neighbour of the float32 value, or that itself, and the mean error is within 5 of its own.

    The error of an element is less than its gap, and so is its standard deviation twice.
    """
    x, y = exact.double(), found.double()
    grid = GRIDS[str(found.dtype).removeprefix("torch.")]
    eps, tiny = 2.0 ** (grid.dropped - 23), torch.finfo(found.dtype).smallest_normal
    gap = eps * torch.exp2(torch.floor(torch.log2(x.abs().clamp(min=tiny))))
    assert ((y - x).abs() < gap + slack).all()
    assert abs((y - x).sum()) <= 5 * float((gap / 2).square().sum().sqrt()) + slack * x.numel()
    assert torch.equal(y[x == 0], x[x == 0])


@every_dtype
@pytest.mark.parametrize(("function", "arguments"), FUNCTIONS, ids=[f.__name__ for f, _ in FUNCTIONS])
def test_functions(function, arguments, dtype):
    found = torch.full(SHAPE, math.nan).to(dtype)
    assert function(found, *arguments, key=KEY, rounding="stochastic") is found
    exact = function(torch.empty(SHAPE), *arguments, key=KEY)
    bounded = function in (ti.uniform_, ti.kaiming_uniform_, ti.xavier_uniform_, ti.trunc_normal_)
    # Near a bound values are first moved to the dtype's last number: by as much as a gap there.
    slack = float(exact.abs().max()) * torch.finfo(dtype).eps if bounded else 0.0
    assert_rounded(found, exact, slack)
    nearest = function(torch.empty(SHAPE, dtype=dtype), *arguments, key=KEY)
    assert same(nearest, function(torch.empty(SHAPE, dtype=dtype), *arguments, key=KEY, rounding="nearest"))
    assert not same(found, nearest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("function", "arguments"), FUNCTIONS, ids=[f.__name__ for f, _ in FUNCTIONS])
def test_what_is_not_rounded_stays(function, arguments, dtype):
    whole, again = (torch.empty(SHAPE, dtype=dtype) for _ in range(2))
    function(whole, *arguments, key=KEY)
    assert function(again, *arguments, key=KEY, rounding="stochastic").equal(whole)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_complex_numbers_of_halves():
    x = ti.normal_(torch.empty(64, 64, dtype=torch.complex32), key=KEY, rounding="stochastic")
    exact = ti.normal_(torch.empty(64, 64, dtype=torch.complex64), key=KEY)
    assert_rounded(torch.view_as_real(x), torch.view_as_real(exact), 1e-6)
    for draw in (ti.StochasticallyRounded(ti.Orthogonal()), ti.StochasticallyRounded(ti.Sparse(0.5))):
        whole = draw(torch.empty(64, 64, dtype=torch.complex32), key=KEY)
        exact = draw(torch.empty(64, 64, dtype=torch.complex64), key=KEY)
        nearest = draw.initializer(torch.empty(64, 64, dtype=torch.complex32), key=KEY)
        assert_rounded(torch.view_as_real(whole), torch.view_as_real(exact), 1e-6)
        assert not torch.view_as_real(whole).equal(torch.view_as_real(nearest))
        part = draw(torch.empty(5, 3, dtype=torch.complex32), key=KEY, window=ti.Window((64, 64), (9, 40)))
        assert torch.view_as_real(part).equal(torch.view_as_real(whole)[9:14, 40:43])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2], ids=str)
def test_functions_of_large_numbers(dtype):
    """Of which many are more than the dtype has in whole numbers."""
    calls = [(ti.geometric_, (0.001,)), *[(ti.cauchy_, ())] * (dtype is torch.bfloat16)]
    for function, arguments in calls:
        found = function(torch.empty(SHAPE, dtype=dtype), *arguments, key=KEY, rounding="stochastic")
        exact = function(torch.empty(SHAPE), *arguments, key=KEY)
        assert_rounded(found, exact)
        assert not same(found, function(torch.empty(SHAPE, dtype=dtype), *arguments, key=KEY))


@pytest.mark.parametrize(
    "initializer",
    [
        ti.Exponential(0.7),
        ti.LogNormal(0.0, 0.3),
        ti.Geometric(0.02),
        ti.LogUniform(1e-3, 0.1),
        ti.RingDecay(),
    ],
    ids=repr,
)
def test_large_ones_have_the_same_bits_by_compiled_loops(initializer):
    """And by NumPy, and in parts of any size: which of the two serves depends on it."""
    whole = ti.StochasticallyRounded(initializer)
    found = []
    for backend in ("numpy", None):
        with ti.use_backend(backend) if backend else nullcontext():
            found.append(whole(torch.empty(300, 400, dtype=torch.bfloat16), key=KEY))
    assert same(*found)
    window = ti.Window((300, 400), (7, 5))
    assert same(whole(torch.empty(3, 5, dtype=torch.bfloat16), key=KEY, window=window), found[0][7:10, 5:10])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.float32], ids=str)
@pytest.mark.parametrize(("function", "arguments"), WHOLE, ids=[f.__name__ for f, _ in WHOLE])
def test_whole_numbers_have_nothing_to_round(function, arguments, dtype):
    nearest, found = torch.empty(2, 40, 16, dtype=dtype)
    function(nearest, *arguments, key=KEY)
    assert function(found, *arguments, key=KEY, rounding="stochastic").float().equal(nearest.float())


def test_functions_where_torch_traces():
    """Under torch.compile, and by their operators."""
    calls = {"exponential": (0.7,), "log_normal": (0.0, 0.3), "geometric": (0.001,), "randint": (0, 9)}

    def draw():
        kept = {"key": KEY, "rounding": "stochastic"}
        tensors = [torch.empty(SHAPE, dtype=torch.bfloat16) for _ in calls]
        each = zip(tensors, calls.items(), strict=True)
        return [getattr(ti, f"{name}_")(x, *given, **kept) for x, (name, given) in each]

    wanted, compiled = draw(), torch.compile(draw, backend="eager", fullgraph=True)()
    key = [word - 2**64 if word >= 2**63 else word for word in (KEY.seed, KEY.stream)]
    for x, y, (name, given) in zip(wanted, compiled, calls.items(), strict=True):
        assert same(y, x)
        operator = getattr(torch.ops.tritoninit, name)
        assert same(operator(torch.empty_like(x), *given, key=key, rounding="stochastic"), x)


@pytest.mark.parametrize("draw", [ti.uniform_, ti.normal_, ti.trunc_normal_])
def test_errors_name_no_class_that_nobody_knows(draw):
    with pytest.raises(NotImplementedError, match=r"^Stochastic[A-Za-z]* of int32: random fills serve"):
        draw(torch.empty(3, dtype=torch.int32), key=KEY, rounding="stochastic")


@pytest.mark.parametrize("word", ["up", "Stochastic", "", None, 1, True, b"nearest"])
def test_other_words_raise_before_anything_is_drawn(word):
    model, state = nn.Linear(3, 2), torch.get_rng_state()
    before = model.weight.detach().clone()
    calls = [lambda f=f, a=a: f(model.weight.data, *a, rounding=word) for f, a in FUNCTIONS]
    calls += [lambda f=f, a=a: f(torch.empty(5), *a, rounding=word) for f, a in WHOLE]
    calls += [
        lambda: ti.cauchy_(torch.empty(5), rounding=word),
        lambda: ti.geometric_(torch.empty(5), 0.5, rounding=word),
        lambda: ti.reinitialize_(model, seed=0, rounding=word),
        lambda: ti.shrink_and_perturb_(model, seed=0, rounding=word),
        lambda: ti.lsuv_(model, torch.zeros(1, 3), seed=0, rounding=word),
        lambda: ti.kaiming_normal_(torch.empty(0, 3), rounding=word),
        lambda: ti.initialize_(model, seed=0, rounding=word),
        lambda: ti.prepare(model, rounding=word),
        lambda: ti.ensemble(model, [1], rounding=word),
    ]
    for call in calls:
        with pytest.raises(ti.ParameterError, match="rounding is"):
            call()
    assert model.weight.equal(before)
    assert torch.get_rng_state().equal(state)


@every_initializer
@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_composition_windows_and_backends(initializer, dtype):
    """A window is a part of the whole; arrays, backends and layouts have its bits; factors go either way."""
    whole = ti.StochasticallyRounded(initializer)
    values = whole(torch.empty(SHAPE, dtype=dtype), key=KEY)
    exact = initializer(torch.empty(SHAPE), key=KEY)
    assert ((values.float() - exact).abs() <= 2 * torch.finfo(dtype).eps * exact.abs().clamp(min=0.02)).all()
    assert not same(values, initializer(torch.empty(SHAPE, dtype=dtype), key=KEY))
    assert not values.float()[exact == 0].any()
    window = ti.Window(SHAPE, (13, 5))
    assert same(whole(torch.empty(31, 40, dtype=dtype), key=KEY, window=window), values[13:44, 5:45])
    parts = ti.Windows.runs(SHAPE, [[(0, 20), (50, 70)], [(0, 80)]])
    held = whole(torch.empty(40, 80, dtype=dtype), key=KEY, window=parts)
    assert same(held, torch.cat([values[:20], values[50:70]]))
    with ti.use_backend("numpy"):
        assert same(whole(torch.empty(80, 96, dtype=dtype).T, key=KEY).contiguous(), values)
    assert whole.random
    assert (
        ti.StochasticallyRounded(whole)(torch.empty(SHAPE, dtype=dtype), key=KEY)
        .float()
        .equal(values.float())
    )
    inside = ti.Scaled(ti.StochasticallyRounded(initializer), 0.5)(torch.empty(SHAPE, dtype=dtype), key=KEY)
    outside = ti.StochasticallyRounded(ti.Scaled(initializer, 0.5))(torch.empty(SHAPE, dtype=dtype), key=KEY)
    assert same(inside, outside)


def test_structured_parts_are_rounded_by_their_own_keys():
    """Each expert's as that matrix alone; a column's zeros stay; a plan's factorisations are shared."""
    experts = ti.StochasticallyRounded(ti.Experts(ti.Orthogonal()))
    found = experts(torch.empty(3, 16, 8, dtype=torch.bfloat16), key=KEY)
    for k in range(3):
        one = ti.orthogonal_(
            torch.empty(16, 8, dtype=torch.bfloat16), key=KEY.fold_in(k), rounding="stochastic"
        )
        assert same(found[k], one)
    inner = ti.Experts(ti.StochasticallyRounded(ti.Orthogonal()))
    assert same(inner(torch.empty(3, 16, 8, dtype=torch.bfloat16), key=KEY), found)


def test_arrays():
    found = ti.StochasticallyRounded(ti.Orthogonal())(np.empty((16, 16), np.float16), key=KEY)
    assert torch.from_numpy(found).equal(
        ti.orthogonal_(torch.empty(16, 16, dtype=torch.float16), key=KEY, rounding="stochastic")
    )


def test_what_takes_no_key_is_rounded_to_nearest():
    values = torch.linspace(0, 1, 12).reshape(3, 4)
    for initializer in (ti.Constant(0.3), ti.Value(values), ti.Identity(0.3), ti.Sinusoids(), ti.Keep()):
        whole = ti.StochasticallyRounded(initializer)
        assert not whole.random
        found, nearest = torch.ones(2, 3, 4, dtype=torch.bfloat16)
        assert whole(found).equal(initializer(nearest))
        assert rounded(initializer, "stochastic") is initializer


def test_values_beyond_the_format_are_cast_as_ever():
    """Of what is no fill: past the largest number, infinite or not, it is as PyTorch casts it."""

    class Large(ti.Structured):
        def check(self, target, window):
            pass

        def build(self, target, key, window):
            return torch.tensor([65504.0, 65519.0, 65520.0, math.inf, -math.inf, math.nan, -70000.0, 1e-9])

        def times(self, factor):
            raise NotImplementedError

    found = ti.StochasticallyRounded(Large())(torch.empty(8, dtype=torch.float16), key=KEY)
    cast = Large().build(found, KEY, None).to(torch.float16)
    assert same(found[:7], cast[:7])
    assert float(found[7]) in (0.0, 2.0**-24)


def model(dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(nn.Linear(24, 48), nn.LayerNorm(48), nn.Linear(48, 8)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_models(dtype):
    """Each parameter is what its rule's initializer is; so are prepared models, members and meta ones."""
    found = model(dtype)
    report = ti.initialize_(found, seed=3, rounding="stochastic")
    assert "KaimingUniform" in str(report) or "stochastic" in str(report)
    exact = model(torch.float32)
    ti.initialize_(exact, seed=3)
    for name, parameter in found.named_parameters():
        assert_rounded(parameter.detach(), exact.get_parameter(name).detach(), 2e-3)
    nearest = model(dtype)
    ti.initialize_(nearest, seed=3)
    assert not same(nearest[0].weight.detach(), found[0].weight.detach())
    assert same(nearest[1].weight.detach(), found[1].weight.detach())
    other = model(dtype)
    prepared = ti.prepare(other, rounding="stochastic")
    prepared(seed=1)
    prepared(seed=3)
    members = ti.ensemble(other, [5, 3], rounding="stochastic")
    with torch.device("meta"):
        meta = model(torch.float32)
    ti.initialize_(meta, seed=3, device="cpu", dtype=dtype, rounding="stochastic")
    for name, parameter in found.named_parameters():
        assert same(other.get_parameter(name).detach(), parameter.detach())
        assert same(members[name][1].detach(), parameter.detach())
        assert same(meta.get_parameter(name).detach(), parameter.detach())
    wide = model(torch.float32)
    ti.initialize_(wide, seed=3, rounding="stochastic")
    assert all(wide.get_parameter(name).equal(each) for name, each in exact.named_parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_parts_that_are_drawn_again(dtype):
    """What is drawn is what initialize_ draws, rounded as there; all else keeps its bits."""
    trained = model(torch.float32)
    with torch.no_grad():
        for each in trained.parameters():
            each.copy_(ti.normal_(torch.empty_like(each), 0.3, 0.1, key=KEY))
    parts = {"rows": {"0.weight": [1, 40], "0.bias": [40]}, "columns": {"2.weight": [7]}}
    own = {"rounding": "stochastic"}
    fresh = model(torch.float32).to(dtype)
    ti.initialize_(fresh, seed=ti.Key(2).fold_in("reinitialize").fold_in(9).stream, **own)
    before, changed = (trained.to(dtype).state_dict() for _ in range(2))
    before = {name: x.clone() for name, x in before.items()}
    report = ti.reinitialize_(trained, seed=2, step=9, only="1", **parts, **own)
    assert "stochastic" in str(report)
    for name, value in changed.items():
        mask = torch.zeros(value.shape, dtype=torch.bool)
        if name.startswith("1."):
            mask[...] = True
        for index in parts["rows"].get(name, ()):
            mask[index] = True
        for index in parts["columns"].get(name, ()):
            mask[:, index] = True
        wanted = torch.where(mask, patterns(fresh.get_parameter(name)), patterns(before[name]))
        assert patterns(value).equal(wanted), name
    whole = model(torch.float32).to(dtype)
    ti.reinitialize_(whole, seed=2, step=9, **own)
    assert all(same(x.detach(), fresh.get_parameter(n).detach()) for n, x in whole.named_parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2], ids=str)
def test_shrink_and_perturb(dtype):
    """The float32 sum, rounded once, of what rules draw nothing for, too; a part as it is in the whole."""

    def trained():
        layers = model(torch.float32)
        with torch.no_grad():
            for each in layers.parameters():
                each.copy_(ti.normal_(torch.empty_like(each), 1.0, 0.3, key=KEY))
        return layers.to(dtype)

    rules = [ti.Rule("*.bias", ti.Zeros()), *ti.TORCH_DEFAULTS]
    found, nearest, exact = trained(), trained(), trained().to(torch.float32)
    numbers = {"seed": 5, "shrink": 0.99, "perturb": 0.01}
    report = ti.shrink_and_perturb_(found, rules, **numbers, rounding="stochastic")
    assert "0.01 of Zeros(), stochastic" in str(report)
    ti.shrink_and_perturb_(nearest, rules, **numbers)
    ti.shrink_and_perturb_(exact, rules, **numbers)
    for name, parameter in found.named_parameters():
        assert_rounded(parameter.detach(), exact.get_parameter(name).detach())
        assert not same(parameter.detach(), nearest.get_parameter(name).detach()), name
    part = trained()[0]
    part.weight = nn.Parameter(part.weight.detach()[10:20].clone())
    window = ti.Window((48, 24), (10, 0))
    ti.shrink_and_perturb_(
        part,
        rules,
        **numbers,
        rounding="stochastic",
        only="0.weight",
        prefix="0",
        windows={"0.weight": window},
    )
    assert same(part.weight.detach(), found[0].weight.detach()[10:20])
    wide = trained().to(torch.float32)
    ti.shrink_and_perturb_(wide, rules, **numbers, rounding="stochastic")
    assert all(x.equal(exact.get_parameter(name)) for name, x in wide.named_parameters())


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_shrink_and_perturb_of_complex_halves(rounding):
    """In complex64, rounded once."""
    weight = ti.normal_(torch.empty(16, 16, dtype=torch.complex32), 0.0, 1.0, key=KEY)
    models = []
    for dtype in (torch.complex32, torch.complex64):
        layer = nn.Module()
        layer.weight = nn.Parameter(weight.to(dtype, copy=True))
        ti.shrink_and_perturb_(layer, [ti.Rule("*", ti.Normal())], seed=1, shrink=0.7, rounding=rounding)
        models.append(layer.weight.detach())
    found, exact = models
    assert_rounded(torch.view_as_real(found), torch.view_as_real(exact), 1e-6)
    nearest = torch.view_as_real(exact).to(torch.float16)
    assert torch.view_as_real(found).equal(nearest) is (rounding == "nearest")


def test_scaled_by_what_a_batch_says():
    """LSUV: what is drawn, and each product, one of its two neighbours; the same by the same seed."""
    batch = torch.randn(64, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    found, again, nearest = (model(torch.bfloat16) for _ in range(3))
    ti.lsuv_(found, batch, seed=1, most_steps=1, rounding="stochastic")
    ti.lsuv_(again, batch, seed=1, most_steps=1, rounding="stochastic")
    ti.lsuv_(nearest, batch, seed=1, most_steps=1)
    drawn = model(torch.bfloat16)
    ti.initialize_(drawn, ti.lsuv.ORTHONORMAL, seed=1, rounding="stochastic")
    for index in (0, 2):
        weight, before = found[index].weight.detach(), drawn[index].weight.detach()
        assert same(weight, again[index].weight.detach())
        assert not same(weight, nearest[index].weight.detach())
        factor = float((weight.double() * before.double()).sum() / before.double().square().sum())
        assert_rounded(weight, before.float() * factor, 2e-5)
    wide, plain = (model(torch.float32) for _ in range(2))
    ti.lsuv_(wide, batch.float(), seed=1, rounding="stochastic")
    ti.lsuv_(plain, batch.float(), seed=1)
    assert all(x.equal(plain.get_parameter(name)) for name, x in wide.named_parameters())


class Computing(nn.Module):
    """Whose own code computes from what it draws."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(40, 40))
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.copy_(torch.randn(40, 40).cumsum(0) * 0.1)


def test_what_own_code_computes_and_copies():
    rules = (
        [ti.Rule("0.weight", ti.OWN_CODE)] if isinstance(ti.OWN_CODE, ti.Initializer) else ti.TORCH_DEFAULTS
    )
    found, exact = (nn.Sequential(Computing()) for _ in range(2))
    ti.initialize_(exact, rules, seed=2)
    ti.initialize_(found, rules, seed=2, dtype=torch.bfloat16, rounding="stochastic")
    assert_rounded(found[0].weight.detach(), exact[0].weight.detach())
    assert not same(found[0].weight.detach(), exact[0].weight.detach().bfloat16())
    prepared = nn.Sequential(Computing()).bfloat16()
    ti.prepare(prepared, rules, rounding="stochastic")(2)
    assert prepared[0].weight.shape == (40, 40)
    again = nn.Sequential(Computing()).bfloat16()
    ti.reinitialize_(again, rules, seed=1, rows={"0.weight": [3, 5]}, rounding="stochastic")
    fresh = nn.Sequential(Computing()).bfloat16()
    ti.initialize_(
        fresh, rules, seed=ti.Key(1).fold_in("reinitialize").fold_in(0).stream, rounding="stochastic"
    )
    assert same(again[0].weight.detach()[[3, 5]], fresh[0].weight.detach()[[3, 5]])
    copy = ti.CopyOf("other", ti.Normal())
    assert rounded(copy, "stochastic") == ti.CopyOf("other", ti.StochasticallyRounded(ti.Normal()))


def test_recorded_rules():
    with ti.record() as own:
        theirs = nn.Linear(32, 32)
    found = nn.Linear(32, 32).bfloat16()
    ti.initialize_(found, own.rules(theirs), seed=1, rounding="stochastic")
    exact = nn.Linear(32, 32)
    ti.initialize_(exact, own.rules(theirs), seed=1)
    assert_rounded(found.weight.detach(), exact.weight.detach(), 2e-3)


def test_documents_and_words():
    rule = ti.StochasticallyRounded(ti.Stacked((ti.KaimingNormal(), ti.Zeros())))
    assert documents.initializer_of(documents.as_data(rule)) == rule
    assert describe(ti.StochasticallyRounded(ti.Normal(0.0, 0.02)), (3, 4)).endswith(", stochastic")
    rules = ti.RuleSet("mine", "", (ti.Rule("*", ti.StochasticallyRounded(ti.Normal(0.0, 0.02))),))
    text = rules.to_toml()
    assert "StochasticallyRounded" in text
    assert ti.RuleSet.from_toml(text).to_toml() == text


@every_dtype
@pytest.mark.parametrize(
    "fill", [ti.Normal(0.0, 0.3), ti.Uniform(0, 1), ti.TruncatedNormal(0.1, 1.0, -1.5, 2.0)]
)
def test_audits_expect_their_moments(fill, dtype):
    stochastic = fill.stochastically()
    x = torch.empty(1 << 18, dtype=dtype)
    stochastic(x, key=KEY)
    wanted = expected(stochastic, dtype)
    assert wanted is not None
    assert abs(float(x.double().mean()) - wanted.mean) < 5 * wanted.std / 2**9
    assert abs(float(x.double().std()) / wanted.std - 1) < 5 / 2**9


def test_check_covers_it():
    for quick in (False, True):
        cases = [case for case in checks.grid(quick) if case.fill.stochastic]
        assert {case.dtype for case in cases} == set(GRIDS)
        assert {case.layout for case in cases} >= {"transposed", "sliced", "channels-last"}
