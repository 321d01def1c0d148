"""Numbers at the door: what a user passes for one is Python's at once, or a clear error; all or nothing."""

import contextlib
import inspect
import math
import re
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tritoninit
from tests.initializer_helpers import KEY, bits
from tritoninit import (
    Axes,
    Constant,
    Dirac,
    Eye,
    KaimingUniform,
    Key,
    Normal,
    Orthogonal,
    ParameterError,
    Plan,
    Rule,
    Scaled,
    Sparse,
    Stacked,
    TruncatedNormal,
    Uniform,
    Value,
    VarianceScaling,
    Window,
    XavierNormal,
    XavierUniform,
    ZeroRow,
    initialize_,
    intercept,
    schemes,
)
from tritoninit.fans import fans

# (function, its argument, the arguments before it, the shape): every number that torch.nn.init takes.
DOORS = [
    ("uniform_", "a", {"b": 300.0}, (4, 4)),
    ("uniform_", "b", {}, (4, 4)),
    ("normal_", "mean", {}, (4, 4)),
    ("normal_", "std", {}, (4, 4)),
    ("trunc_normal_", "mean", {"a": -300.0, "b": 300.0}, (4, 4)),
    ("trunc_normal_", "std", {}, (4, 4)),
    ("trunc_normal_", "a", {"mean": 299.0, "b": 300.0}, (4, 4)),
    ("trunc_normal_", "b", {"mean": 1.0}, (4, 4)),
    ("constant_", "val", {}, (4, 4)),
    ("xavier_uniform_", "gain", {}, (5, 7)),
    ("xavier_normal_", "gain", {}, (5, 7)),
    ("kaiming_uniform_", "a", {}, (5, 7)),
    ("kaiming_normal_", "a", {}, (5, 7)),
    ("orthogonal_", "gain", {}, (4, 4)),
    ("sparse_", "sparsity", {}, (4, 4)),
    ("sparse_", "std", {"sparsity": 0.5}, (4, 4)),
]
doors = pytest.mark.parametrize("door", DOORS, ids=[f"{name}{argument}" for name, argument, *_ in DOORS])
FIXED = {"constant_", "dirac_"}


class OfFloat:
    def __init__(self, number):
        self.number = number

    def __float__(self):
        return float(self.number)


class Equal(float):
    """A float that says that it equals all others."""

    def __eq__(self, other):
        return True

    __hash__ = float.__hash__


# How an integer below 128 may be written. Each has to compute as the float of its value.
SPELLINGS = [
    *(getattr(np, f"{kind}{size}") for kind in ("int", "uint") for size in (8, 16, 32, 64)),
    *(np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128),
    *(np.array, lambda x: np.array([x]), lambda x: np.array(x, np.uint8), lambda x: np.array(x, object)),
    *(torch.tensor, lambda x: torch.tensor([x]), lambda x: torch.tensor(float(x), requires_grad=True)),
    *(lambda x, d=d: torch.tensor(x, dtype=d) for d in (torch.uint8, torch.bfloat16, torch.complex64)),
    lambda x: nn.Parameter(torch.tensor(float(x))),
    *(int, float, Fraction, Decimal, Equal, OfFloat),
]
NO_NUMBERS = [
    *("1", b"1", bytearray(b"1"), memoryview(b"1"), np.str_("1"), np.array("1"), None, [1.0], (1.0,), {}),
    *(1j, 1 + 0j, np.complex64(1j), torch.tensor(1j), object(), float, math.sqrt),
    *(torch.ones(2), torch.empty(0), np.ones(2), np.empty(0), torch.tensor(1.0, device="meta")),
    *(np.datetime64(1, "s"), np.timedelta64(1, "s"), Decimal("sNaN")),
]


def called(door, number, **options):
    name, argument, others, shape = door
    options = options or ({} if name in FIXED else {"key": KEY})
    target = torch.full(shape, torch.nan)
    return getattr(tritoninit, name)(target, **others, **{argument: number}, **options)


def outcome(door, number):
    """The bits, or what is said instead: no warning of arithmetic in the caller's type."""
    try:
        return bits(called(door, number)).tolist()
    except ParameterError as error:
        return type(error), str(error)
    except UserWarning as warning:  # a RuntimeWarning is none
        return str(warning)


class TestFloats:
    @given(st.sampled_from(DOORS), st.sampled_from(SPELLINGS), st.integers(0, 127))
    def test_how_a_number_is_written_does_not_matter(self, door, spell, number):
        """Neither to its own call nor, by way of a cache, to a later one of the same value."""
        first, other, again = (outcome(door, x) for x in (float(number), spell(number), float(number)))
        assert first == other == again

    @doors
    def test_what_is_no_number_is_a_type_error_that_names_the_argument(self, door):
        name, argument, *_ = door
        for bad in NO_NUMBERS:
            if (bad is None and name.startswith("kaiming")) or (
                isinstance(bad, complex) and argument == "val"
            ):
                continue
            if argument == "val" and getattr(bad, "dtype", None) in (np.complex64, torch.complex64):
                continue
            named = "value" if argument == "val" else argument
            state = torch.get_rng_state()
            with pytest.raises(TypeError, match=rf"^{named} must be a number") as raised:
                called(door, bad, **({} if name in FIXED else {"generator": None}))
            assert isinstance(raised.value, ParameterError)
            assert torch.get_rng_state().equal(state)

    @doors
    def test_what_no_float_reaches_is_an_error_of_torchs_kinds(self, door):
        for huge in (10**400, -(10**400), 10**5000, Fraction(10**400)):
            for kind in (OverflowError, ValueError, RuntimeError):
                with pytest.raises(kind, match=r"is out of range: (an integer of|Fraction)"):
                    called(door, huge)

    def test_a_number_that_changes_later_is_the_number_that_it_was(self):
        mean, target = torch.tensor(0.0), torch.empty(8, 8)
        first = tritoninit.normal_(target, mean, 1.0, key=KEY).clone()
        mean.fill_(5.0)
        assert tritoninit.normal_(target, mean, 1.0, key=KEY).mean() > 4
        mean.fill_(0.0)
        assert tritoninit.normal_(target, mean, 1.0, key=KEY).equal(first)

    def test_a_narrow_integer_does_not_poison_later_calls(self):
        for gain in (np.uint8(16), np.float16(300)):
            tritoninit.xavier_uniform_(torch.empty(6, 7), gain, key=KEY)
            plain = tritoninit.xavier_uniform_(torch.empty(6, 7), float(gain), key=KEY)
            assert plain.abs().max() > float(gain) / 4

    def test_shapes_do_not_poison_later_calls_either(self):
        """200 * 200 is 64 in uint8, and 200.0 an int's equal."""
        odd = (np.uint8(200), np.uint8(201))
        assert fans(odd) == (201, 200)
        assert XavierUniform().pieces(odd) == XavierUniform().pieces((200, 201))
        assert XavierUniform().pieces((200, 201))[0].initializer.high == pytest.approx((6 / 401) ** 0.5)
        Window.whole((3, 201))
        for make in (Window.whole, XavierUniform().pieces, fans):
            with pytest.raises(TypeError, match="shape must be integers"):
                make((3.0, 201))

    def test_a_boolean_is_a_slope_neither_before_nor_after_one(self):
        target = torch.zeros(5, 7)
        for _ in range(2):
            for flag in (True, np.True_, torch.tensor(True)):
                with pytest.raises(ValueError, match="a must be a number"):
                    tritoninit.kaiming_uniform_(target, a=flag, key=KEY)
            tritoninit.kaiming_uniform_(torch.empty(5, 7), a=1, key=KEY)
        assert not target.any()

    def test_no_slope_is_torchs_default(self):
        assert KaimingUniform(None) == KaimingUniform(0.01)
        assert nn.init.kaiming_uniform_(torch.empty(5, 7), None).shape == (5, 7)

    def test_slopes_too_large_to_square(self):
        for make in (lambda: KaimingUniform(1e200), lambda: tritoninit.calculate_gain("leaky_relu", 10**400)):
            with pytest.raises(OverflowError, match="negative_slope is out of range"):
                make()

    @pytest.mark.filterwarnings("ignore:mean is more than 2 std")
    def test_the_warning_of_a_far_mean_computes_in_floats(self):
        """0 - 2 * 200 is 112 in uint8, which -300 is less than."""
        far = (np.int16(250), np.uint8(100), np.uint8(0), np.uint8(49))
        for arguments in (far, tuple(map(float, far))):
            with pytest.warns(UserWarning, match="mean is more than 2 std"):
                tritoninit.trunc_normal_(torch.empty(3), *arguments, key=KEY)
            with intercept(seed=0), pytest.warns(UserWarning, match="mean is more than 2 std"):
                nn.init.trunc_normal_(nn.Parameter(torch.empty(3)), *arguments)

    def test_a_warning_that_is_an_error_leaves_a_parameter_as_it_was(self):
        parameter = nn.Parameter(torch.full((3,), 7.0))
        with intercept(seed=0), warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="mean is more than 2 std"):
                nn.init.trunc_normal_(parameter, 0.0, 1.0, 3.0, 4.0)
        assert (parameter == 7).all()


class TestConstants:
    def test_integers_keep_their_digits_and_flags_are_flags(self):
        assert repr(Constant(np.uint64(2**63 + 1))) == "Constant(value=9223372036854775809)"
        assert repr(Constant(np.True_)) == "Constant(value=True)"
        assert type(Constant(Equal(2.0)).value) is float

    @pytest.mark.parametrize("one", [1 + 0j, np.complex64(1), torch.tensor(1 + 0j)])
    def test_complex_numbers_without_an_imaginary_part_are_real(self, one):
        assert tritoninit.constant_(torch.zeros(2), one).equal(nn.init.constant_(torch.zeros(2), 1))
        with pytest.raises(RuntimeError, match="imaginary part"):
            tritoninit.constant_(torch.zeros(2), one * 1j)
        assert (tritoninit.constant_(torch.zeros(2, dtype=torch.complex64), one * 1j) == 1j).all()

    def test_minus_zero_stays_what_it_is(self):
        for dtype in (torch.float32, torch.float64, torch.complex64):
            target = tritoninit.constant_(torch.ones(2, dtype=dtype), -0.0)
            assert torch.signbit(target.real if dtype.is_complex else target).all()

    @pytest.mark.parametrize(
        ("target", "value"),
        [
            (torch.zeros(1, dtype=torch.int8), 300),
            (torch.zeros(1, dtype=torch.int64), 2**70),
            (torch.zeros(1, dtype=torch.int64), math.nan),
            (torch.zeros(1, dtype=torch.float8_e4m3fn), 1000.0),
            (torch.zeros(3, dtype=torch.float8_e4m3fn), 1000.0),
            (torch.zeros(1, dtype=torch.complex64), 1e300),
            (np.zeros(1, np.int8), 300),
            (np.zeros(1, np.int64), math.nan),
            (np.zeros(1, np.complex64), 1e300),
        ],
    )
    def test_what_a_dtype_cannot_hold_is_one_kind_of_error(self, target, value):
        for kind in (OverflowError, ValueError, RuntimeError):
            with pytest.raises(kind, match="cannot hold the value"):
                tritoninit.constant_(target, value)
        assert not np.asarray(target if isinstance(target, np.ndarray) else target.cfloat()).any()


class TestIntegers:
    MAKERS = (
        (lambda x: Dirac(x).groups, "groups"),
        (lambda x: ZeroRow(Normal(), x).row, "row"),
        (lambda x: Stacked((Normal(),), x).axis, "axis"),
        (lambda x: Axes(groups=x).groups, "groups"),
        (lambda x: Axes((x,), (0,)).in_axes[0], "in_axes"),
        (lambda x: Axes(parts=(x,)).parts[0], "parts"),
        (lambda x: Window((x,), (0,)).global_shape[0], "global_shape"),
        (lambda x: Window((9,), (x,)).offsets[0], "offsets"),
        (lambda x: Key(x).seed, "seed"),
        (lambda x: Key(0, x).stream, "stream"),
    )

    @pytest.mark.parametrize(("make", "name"), MAKERS)
    def test_are_pythons_or_a_type_error_that_names_them(self, make, name):
        for three in (3, np.uint8(3), np.int64(3), torch.tensor(3), np.array(3)):
            assert (type(make(three)), make(three)) == (int, 3)
        for bad in (1.5, 2.0, np.float64(2), "2", None, [2], 2j, torch.tensor(2.0), Fraction(2)):
            with pytest.raises(TypeError, match=f"{name} must be "):
                make(bad)

    def test_of_fold_in(self):
        assert Key(0).fold_in(np.uint8(3)) == Key(0).fold_in(torch.tensor(3)) == Key(0).fold_in(3)
        for bad in (np.True_, np.array(1.0), torch.tensor(1.0)):
            with pytest.raises(TypeError, match="fold_in takes an integer or a string"):
                Key(0).fold_in(bad)
        with pytest.raises(ValueError, match="UTF-8 cannot hold"):
            Key(0).fold_in("\udc80")

    def test_of_schemes(self):
        """2 * 200 is 144 in uint8."""

        def numbers(rules):
            return re.findall(r"(?:Normal|Scaling)\([^)]*\)", repr(tuple(rules)))

        for make in (schemes.gpt2, schemes.small_init, schemes.llama, lambda x: schemes.t5(x, x)):
            assert numbers(make(np.uint8(200))) == numbers(make(200)) != []
        for make in (schemes.gpt2, schemes.small_init, schemes.llama, lambda x: schemes.wang_init(8, x)):
            with pytest.raises(TypeError, match="must be a number"):
                make("12")
        with pytest.raises(ParameterError, match="depth must be positive"):
            schemes.gpt2(0)


LARGEST = {torch.float32: 3.4028234e38, torch.float16: 65504.0, torch.bfloat16: 3.3895e38}
SIZES = st.floats(-1.2, 1.2)
KEYS = st.builds(Key, st.integers(0, 2**64 - 1))


class TestRange:
    """No initializer makes an infinity of finite numbers."""

    @given(st.sampled_from(sorted(LARGEST, key=str)), SIZES, SIZES, SIZES, st.booleans(), KEYS)
    def test_all_that_is_drawn_is_finite(self, dtype, one, other, third, cut, key):
        largest = LARGEST[dtype]
        numbers = [x * largest for x in (one, other, third)]
        makers = [
            lambda: Uniform(*sorted(numbers[:2])),
            lambda: Normal(numbers[0], abs(numbers[1]) / 6),
            lambda: TruncatedNormal(
                numbers[0], abs(numbers[1]), *(sorted(numbers[1:]) if cut else (-math.inf, math.inf))
            ),
            lambda: Constant(numbers[0]),
            lambda: Orthogonal(numbers[0]),
            lambda: Sparse(0.2, abs(numbers[0]) / 6),
            lambda: XavierNormal(abs(numbers[0]) ** 0.5),
            lambda: Value(np.full((4, 4), numbers[0])),
            lambda: Scaled(Eye(), abs(numbers[0])),
            lambda: Scaled(Value(np.full((4, 4), other, np.float32)), abs(numbers[0])),
        ]
        for make in makers:
            target = torch.zeros(4, 4, dtype=dtype)
            try:
                make()(target, key=key)
            except ParameterError:
                assert not target.any()
            assert target.isfinite().all()

    @pytest.mark.parametrize(
        "initializer",
        [
            Normal(1e6, 1.0),
            Normal(0.0, 2e4),
            TruncatedNormal(1e6, 1.0, -2.0, 2e6),
            TruncatedNormal(0.0, 1e6, -2e6, 2e6),
            XavierNormal(1e6),
            VarianceScaling(1e12),
            Orthogonal(1e6),
            Sparse(0.2, 1e6),
            Value(torch.full((4, 4), 1e6)),
            Value(torch.full((4, 4), 10**6)),
            Scaled(Eye(), 1e6),
            Scaled(Value(torch.full((4, 4), 1e30)), 1e30),
        ],
        ids=repr,
    )
    def test_of_16_bits(self, initializer):
        target, state = torch.full((4, 4), 7.0, dtype=torch.float16), torch.get_rng_state()
        with pytest.raises(ParameterError, match="out of range"):
            initializer(target)
        assert (target == 7).all()
        assert torch.get_rng_state().equal(state)

    def test_what_fits_is_drawn_whatever_the_numbers(self):
        """Bounds that nothing reaches, a mean and a std that are cut, infinities that were asked for."""
        for fill in (TruncatedNormal(0.0, 1.0, -1e6, 1e6), TruncatedNormal(1e6, 1e6, -2.0, 2.0)):
            assert fill(torch.empty(99, dtype=torch.float16), key=KEY).abs().max() < 9
        assert Normal(0.0, 9800.0)(torch.empty(99, dtype=torch.float16), key=KEY).isfinite().all()
        given = torch.tensor([math.inf, -math.inf, math.nan, 65504.0])
        assert str(Value(given)(torch.zeros(4, dtype=torch.float16)).tolist()) == str(given.tolist())
        wide = Value(torch.full((2,), 1e30))
        assert (Scaled(wide, 1e30)(torch.zeros(2, dtype=torch.float64)) > 9e59).all()
        assert not Scaled(Value(torch.zeros(2)), 1e39)(torch.ones(2)).any()  # 0 * inf is NaN

    def test_products_too_large_for_any_float(self):
        for initializer in (Constant(1e200), Value(np.full(2, 1e200))):
            with pytest.raises(ParameterError, match="out of range"):
                Scaled(initializer, 1e200)(torch.zeros(2, dtype=torch.float64))

    @given(
        st.floats(-(2.0**40), 2.0**40), st.integers(1, 2**34), st.sampled_from(sorted(LARGEST, key=str)), KEYS
    )
    def test_no_uniform_leaves_its_bounds(self, low, steps, dtype, key):
        """Bounds that float32 cannot tell apart among them. The lower one is rounded to float32."""
        high = low + steps * math.ulp(low)
        target = torch.empty(16, dtype=dtype)
        with contextlib.suppress(ParameterError):
            Uniform(low, high)(target, key=key)
            assert (target.double() < high).all()
            assert (target.double() >= torch.tensor(low)).all()

    def test_bounds_of_one_float32_number(self):
        for bounds in ((2.0**32 - 3, 2.0**32 - 1), (0.1, 0.1 + 1e-12), (-1e-46, 0.0)):
            fill = Uniform(*bounds)
            with pytest.raises(ParameterError, match="no float32 number lies in"):
                fill(torch.empty(3))
            wide = fill(torch.empty(99, dtype=torch.float64), key=KEY)
            assert bounds[0] <= wide.min() < wide.max() < bounds[1]
        with pytest.raises(ParameterError, match="no bfloat16 number lies in"):
            Uniform(1.007, 1.007 + 1e-9)(torch.empty(3, dtype=torch.bfloat16))
        with pytest.raises(ParameterError, match="no bfloat16 number lies in"):  # it had given 1
            Uniform(1 + 2.0**-9, 1 + 2.0**-9 + 1e-9)(torch.empty(3, dtype=torch.bfloat16))
        for bounds, only in (((0.1, 0.1), 0.1), ((5 - 1e-12, 5 + 1e-12), 5.0), ((-1e-46, 1e-46), 0.0)):
            assert Uniform(*bounds)(torch.empty(3), key=KEY).tolist() == torch.full((3,), only).tolist()


def two_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    return model


class TestNothingIsDoneByHalves:
    """What can be wrong is known before the first byte is written and the first random bit is drawn."""

    def refused(self, make, match, model=None, **options):
        model = two_layers() if model is None else model
        state = torch.get_rng_state()
        memory = [(p.data_ptr(), p.dtype) for p in model.parameters()]
        with pytest.raises((TypeError, ValueError, RuntimeError), match=match):
            initialize_(model, make(), **options)
        assert all((p == 7).all() for p in model.parameters())
        assert [(p.data_ptr(), p.dtype) for p in model.parameters()] == memory
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("seed", [1.5, "1", True, 2**64, None])
    def test_a_seed_or_a_name_that_makes_no_key(self, seed):
        model, match = two_layers(), "seed must"
        if seed is None:
            model.register_parameter("\udc80", nn.Parameter(torch.full((2,), 7.0)))
            match = "UTF-8 cannot hold"
        rules = [Rule("*", Normal())]
        self.refused(lambda: rules, match, model, seed=seed, dtype=torch.bfloat16)

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: Orthogonal(1e39), "gain must be a finite"),
            (lambda: Dirac(2.0), "groups must be an integer"),
            (lambda: Dirac(), "3, 4, or 5 dimensions"),
            (lambda: Value(torch.eye(4).to_sparse()), "sparse"),
            (lambda: Value(torch.empty(4, 4, device="meta")), "meta"),
            (lambda: Value(nn.UninitializedParameter()), "lazy"),
            (lambda: Value("abc"), "values must be numbers"),
            (lambda: Value([[10**400]]), "values must be numbers"),
            (lambda: Value(np.full((4, 4), 1e300)), "out of range"),
            (lambda: Scaled(Orthogonal(1e30), 1e30), "gain must be a finite"),
            (lambda: Stacked((Normal(), Scaled(Normal(0, 1e30), 1e30))), "finite float32"),
            (lambda: XavierUniform(1e39), "float32"),
        ],
    )
    def test_numbers_of_the_last_rule(self, make, match):
        """Refused by a model, before others are written; and by each way in, with nothing drawn."""
        self.refused(lambda: [Rule("1.weight", make()), Rule("*", Normal())], match)
        target, state = torch.full((4, 4), 7.0), torch.get_rng_state()
        with pytest.raises((TypeError, ValueError), match=match):
            make()(target)
        plan = Plan()
        with pytest.raises((TypeError, ValueError), match=match):
            make().add(plan, target, Key.from_generator, Window.whole(target.shape))
        assert not plan.steps
        plan.run()
        assert (target == 7).all()
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("dtype", ["bfloat16", np.float32])
    def test_a_dtype_that_is_none_of_torchs(self, dtype):
        self.refused(lambda: [Rule("*", Normal())], "dtype must be a torch.dtype", seed=0, dtype=dtype)

    def test_a_backend_that_cannot_run(self):
        model = two_layers()
        with tritoninit.use_backend("triton"):
            self.refused(lambda: [Rule("*", Normal())], "cannot serve 'cpu'", model, dtype=torch.bfloat16)

    def test_of_16_bits_that_a_model_is_moved_to(self):
        rules = [Rule("1.weight", Normal(0.0, 2e4)), Rule("*", Normal())]
        self.refused(lambda: rules, "1.weight: normal reaches", dtype=torch.float16)

    @doors
    def test_a_refused_call_under_intercept_is_torchs_alone(self, door):
        """What cannot be read changes no later number of the block. What torch does then is torch's."""
        name, argument, others, shape = door
        parameter = nn.Parameter(torch.full(shape, 7.0))
        with intercept(seed=0) as block:
            with pytest.raises((TypeError, ValueError)):
                getattr(nn.init, name)(parameter, **others, **{argument: "1"})
            assert len(block.passed_on) == 1
            nn.init.normal_(parameter)
        with intercept(seed=0):
            other = nn.init.normal_(nn.Parameter(torch.empty(shape)))
        assert parameter.equal(other)

    def test_of_windows(self):
        for bad in (5, (4, 4), "whole"):
            with pytest.raises(TypeError, match=r"window must be a tritoninit\.Window"):
                Normal()(torch.empty(4), window=bad)


def test_the_table_has_every_number_of_torchs():
    """The same number of doors as torch.nn.init has arguments with a number, dirac's groups apart."""
    numbers = {"a", "b", "mean", "std", "val", "gain", "sparsity"}
    found = {
        (name, argument)
        for name in nn.init.__all__
        if name.endswith("_")
        for argument in inspect.signature(getattr(nn.init, name)).parameters
        if argument in numbers
    }
    assert found == {(name, argument) for name, argument, *_ in DOORS}
