"""All names that ``ti.initializer`` knows, and the schemes' own initializers, in all dtypes: served, or not.

One table: what complex numbers and integers are told of each group of names. Real floats of any width take
all of them, as far as they hold the numbers.
"""

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import Key, Rule, catalogue
from tritoninit.interception import served
from tritoninit.kernels.lowering import FLOAT_DTYPES, PARTS
from tritoninit.models.slots import slots

KEY = Key(7).fold_in("every dtype")
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

SERVED = ""
NO_ORDER = "complex numbers have no order"
REAL = "its numbers are real"
DRAWN = "random fills serve"
OF_TABLES = "tables serve"

# Names (a peer's before a dot), and what complex tensors and those of integers say to them.
TABLE = [
    ("constant zeros ones eye identity dirac bernoulli permutation", SERVED, SERVED),
    ("rand_int", SERVED, SERVED),
    ("uniform normal xavier_uniform xavier_normal kaiming_uniform kaiming_normal", SERVED, DRAWN),
    ("orthogonal delta_orthogonal sparse", SERVED, DRAWN),
    ("truncated_normal variance_scaling", NO_ORDER, DRAWN),
    ("sinusoids stft s4d", SERVED, OF_TABLES),
    ("log_uniform log_of_uniform time_step_bias ring_decay", REAL, REAL),
    ("cauchy exponential geometric log_normal", REAL, REAL),
    ("torch.uniform torch.normal torch.xavier_uniform torch.xavier_normal", SERVED, DRAWN),
    ("torch.kaiming_uniform torch.kaiming_normal torch.orthogonal torch.sparse", SERVED, DRAWN),
    ("torch.constant torch.ones torch.zeros torch.eye torch.dirac", SERVED, SERVED),
    ("torch.trunc_normal", NO_ORDER, DRAWN),
    ("keras.zeros keras.ones keras.constant keras.identity", SERVED, SERVED),
    ("keras.random_normal keras.random_uniform keras.orthogonal", SERVED, DRAWN),
    ("keras.glorot_uniform keras.he_uniform keras.lecun_uniform", SERVED, DRAWN),
    ("keras.truncated_normal keras.variance_scaling", NO_ORDER, DRAWN),
    ("keras.glorot_normal keras.he_normal keras.lecun_normal", NO_ORDER, DRAWN),
    ("keras.stft", SERVED, OF_TABLES),
    ("jax.zeros jax.ones jax.constant", SERVED, SERVED),
    ("jax.uniform jax.normal jax.orthogonal jax.delta_orthogonal", SERVED, DRAWN),
    ("jax.glorot_uniform jax.he_uniform jax.lecun_uniform", SERVED, DRAWN),
    ("jax.xavier_uniform jax.kaiming_uniform", SERVED, DRAWN),
    ("jax.glorot_normal jax.he_normal jax.lecun_normal jax.xavier_normal", NO_ORDER, DRAWN),
    ("jax.kaiming_normal jax.truncated_normal jax.variance_scaling", NO_ORDER, DRAWN),
    ("timm.trunc_normal timm.trunc_normal_tf timm.lecun_normal", NO_ORDER, DRAWN),
    ("timm.variance_scaling", SERVED, DRAWN),
    # What schemes have of their own, for the parameters of the models below.
    ("lora lora_orthogonal.A lora_orthogonal.B mimetic.q mimetic.qkv mimetic.out", REAL, REAL),
]
# Arguments of those that need some, or whose usual numbers 8 bits do not hold.
ARGUMENTS = {
    "constant": {"value": 0.5},
    "torch.constant": {"val": 0.5},
    "jax.constant": {"value": 0.5},
    "sparse": {"sparsity": 0.5, "std": 1.0},
    "torch.sparse": {"sparsity": 0.5, "std": 1.0},
    "stft": {"side": "real"},
    "keras.stft": {"side": "real"},
    "log_uniform": {"low": 0.25, "high": 4.0},
    "geometric": {"p": 0.5},
    "log_normal": {"mean": 0.0, "std": 0.5},
    "cauchy": {"scale": 2.0**-40},
    "rand_int": {"low": 0, "high": 2},
    "jax.variance_scaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
}
SHAPES = {"dirac": (6, 4, 3), "torch.dirac": (6, 4, 3), "permutation": (5, 2), "stft": (5, 1, 8)}
SHAPES |= {"keras.stft": (5, 1, 8), "delta_orthogonal": (6, 4, 3), "jax.delta_orthogonal": (6, 4, 3)}
INTEGERS = ("int8", "uint8", "int64", "bool")


def of_schemes():
    """Initializers of parameters, by the names that the table has for them."""
    adapted = nn.Module()
    adapted.lora_A, adapted.lora_B = nn.Linear(8, 4, bias=False), nn.Linear(4, 6, bias=False)
    orthogonal = {slot.name: slot for slot in slots(adapted)}
    attention = nn.Module()
    attention.attn = nn.Module()
    attention.attn.qkv, attention.attn.proj = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)
    attention.attn.q_proj = nn.Linear(8, 8, bias=False)
    heads = {slot.name: slot for slot in slots(attention)}
    for name, rules, slot in (
        ("lora_orthogonal.A", ti.schemes.lora("orthogonal"), orthogonal["lora_A.weight"]),
        ("lora_orthogonal.B", ti.schemes.lora("orthogonal"), orthogonal["lora_B.weight"]),
        ("mimetic.q", ti.schemes.mimetic(2), heads["attn.q_proj.weight"]),
        ("mimetic.qkv", ti.schemes.mimetic(2), heads["attn.qkv.weight"]),
        ("mimetic.out", ti.schemes.mimetic(2), heads["attn.proj.weight"]),
    ):
        (rule,) = rules
        yield name, (rule.choose(slot), tuple(slot.shape))


SCHEMES = dict(of_schemes())


def made(name):
    """An initializer and a shape that it takes."""
    if name in SCHEMES:
        return SCHEMES[name]
    full = name if "." in name else f"tritoninit.{name}"
    return ti.initializer(full, **ARGUMENTS.get(name, {})), SHAPES.get(name, (6, 4))


ROWS = [(name, *told) for names, *told in TABLE for name in names.split() if name != "lora"]


def test_the_table_leaves_nobody_out():
    known = {name.removeprefix("tritoninit.") for name in catalogue.names()}
    rows = [name for name, *_ in ROWS]
    assert set(rows) - set(SCHEMES) == known
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(("name", "to_complex", "to_integers"), ROWS, ids=[row[0] for row in ROWS])
def test_served_or_why_not(name, to_complex, to_integers):
    initializer, shape = made(name)
    key = KEY if initializer.random else None
    float32 = initializer(torch.full(shape, torch.nan), key=key)
    told = dict.fromkeys(FLOAT_DTYPES, SERVED) | dict.fromkeys(PARTS, to_complex)
    for dtype, reason in (told | dict.fromkeys(INTEGERS, to_integers)).items():
        target = torch.zeros(shape, dtype=getattr(torch, dtype))
        if reason:
            with pytest.raises(NotImplementedError, match=rf"{dtype}: .*{reason}") as caught:
                initializer(target, key=key)
            assert str(caught.value).count(dtype) >= 1
            assert not (torch.view_as_real(target) if target.is_complex() else target).any(), dtype
            continue
        wide = torch.complex128 if target.is_complex() else torch.float64
        found = initializer(target, key=key).to(wide)
        if dtype in PARTS:
            assert found.imag.any() == (initializer.random and to_integers == DRAWN), dtype
            assert found.real.isfinite().all(), dtype
        elif dtype in INTEGERS:
            assert found.equal(float32.to(target.dtype).double()), dtype
        else:
            unit = max(torch.finfo(target.dtype).eps, 1e-6)
            close = (found - float32.double()).abs() <= 2 * unit * (float32.abs() + unit)
            assert close.float().mean() > 0.8, dtype  # but for the far tail of float32's words
            assert found.isfinite().all(), dtype
        if dtype in ("float64", "complex128") and initializer.random and to_integers != SERVED:
            digits = torch.view_as_real(found) if found.is_complex() else found
            assert name == "geometric" or not digits.float().double().equal(digits), dtype


# Of float64 alone, each with the float32 tensor's complaint.
BEYOND = [
    (ti.Normal(0.0, 1e300), "std must be a finite float32 number"),
    (ti.Normal(1e39, 1.0), "mean must be a finite float32 number"),
    (ti.Normal(1e308, 1e306), "mean must be a finite float32 number"),
    (ti.Normal(0.0, 1e38), "normal reaches .* out of range for float32"),
    (ti.Uniform(1.0, 1e300), "high is out of range for float32"),
    (ti.Uniform(-3e38, 3e38), "overflows float32"),
    (ti.Uniform(1 - 1e-12, 1.0), "no float32 number lies in"),
    (ti.TruncatedNormal(0.0, 1e300, -2e300, 2e300), "std must be a finite float32 number"),
    (ti.TruncatedNormal(0.0, 1e-60, -2e-60, 2e-60), "std is too small for float32"),
    (ti.Constant(1e300), "value is out of range for float32"),
    (ti.Identity(1e300), "gain must be a finite float32 number"),
    (ti.Scaled(ti.Eye(), 1e300), "value is out of range for float32"),
    (ti.Scaled(ti.Normal(), 1e300), "std must be a finite float32 number"),
    (ti.Orthogonal(1e300), "gain must be a finite float32 number"),
    (ti.Sparse(0.5, 1e300), "std must be a finite float32 number"),
    (ti.XavierUniform(1e200), "out of range for float32"),
    (ti.XavierNormal(1e200), "std must be a finite float32 number"),
    (ti.VarianceScaling(1e300), "std must be a finite float32 number"),
    (ti.Experts(ti.Orthogonal(1e300)), "gain must be a finite float32 number"),
    (ti.ZeroRow(ti.Normal(0.0, 1e300), 0), "std must be a finite float32 number"),
    (ti.Value(np.full((4, 4, 4), 1e300)), "out of range"),
    (ti.LogUniform(1e-300, 1e300), "float32 cannot hold the values"),
    (ti.Exponential(1e-300), "float32 cannot hold the values"),
    (ti.Cauchy(1e200), "float32 cannot hold the values"),
]


@pytest.mark.parametrize(("initializer", "complaint"), BEYOND, ids=[str(each) for each, _ in BEYOND])
def test_numbers_that_float64_alone_holds(initializer, complaint):
    """Judged for the dtype that is filled, when it is; and float64 is filled."""
    shape = (4, 4, 4) if isinstance(initializer, (ti.Experts, ti.Value)) else (4, 4)
    key = KEY if initializer.random else None
    wide = initializer(torch.full(shape, torch.nan, dtype=torch.float64), key=key)
    assert wide.isfinite().all()
    assert wide.any()
    assert np.array_equal(initializer(np.full(shape, np.nan), key=key), wide.numpy())
    state = torch.get_rng_state()
    for target in (torch.zeros(shape), np.zeros(shape, np.float32)):
        with pytest.raises(ValueError, match=complaint):
            initializer(target)
        assert not target.any()
    assert torch.get_rng_state().equal(state)
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    ti.initialize_(model, [Rule("weight", initializer)], seed=0)
    assert model.weight.isfinite().all()
    assert model.weight.any()
    model.float().weight.data.zero_()
    with pytest.raises(ValueError, match=f"weight.*({complaint})"):
        ti.initialize_(model, [Rule("weight", initializer)], seed=0)
    assert not model.weight.any()


@pytest.mark.parametrize(
    "initializer", [each for each, _ in BEYOND if not isinstance(each, ti.Value)], ids=str
)
def test_they_are_documents(initializer):
    rules = ti.RuleSet("beyond", "", (Rule("*", initializer),))
    for again in (ti.RuleSet.from_json(rules.to_json()), ti.RuleSet.from_toml(rules.to_toml())):
        assert again == rules


def test_a_small_gain_is_one():
    """Whose square is zero, or has few digits."""
    for make in (ti.XavierUniform, ti.XavierNormal):
        unit = make(2.0**-20)(torch.empty(6, 4, dtype=torch.float64), key=KEY)
        for power in (-520, -540, -600, 600):
            found = make(2.0**power)(torch.empty(6, 4, dtype=torch.float64), key=KEY)
            assert found.equal(unit * 2.0 ** (power + 20))


CALLS = [
    ("normal_", (0.0, 1e300)),
    ("uniform_", (1.0, 1.0 + 1e-12)),
    ("uniform_", (-3e38, 3e38)),
    ("trunc_normal_", (0.0, 1e300, -2e300, 2e300)),
    ("constant_", (1e300,)),
    ("xavier_uniform_", (1e200,)),
    ("xavier_normal_", (1e200,)),
    ("orthogonal_", (1e300,)),
    ("sparse_", (0.5, 1e300)),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[f"{name}{numbers}" for name, numbers in CALLS])
def test_functions_and_intercepted_calls(name, arguments):
    options = {} if name in served.FIXED else {"key": Key(0).fold_in(0)}
    ours = getattr(ti, name)(torch.empty(6, 4, dtype=torch.float64), *arguments, **options)
    with ti.intercept(seed=0) as intercepted:
        theirs = getattr(nn.init, name)(torch.empty(6, 4, dtype=torch.float64), *arguments)
    assert not intercepted.passed_on
    assert theirs.equal(ours)
    assert ours.isfinite().all()
    assert ours.unique().numel() > (20 if name == "uniform_" else 0)
