"""Initializers of initializers, in any nesting: on tensors, on windows, in rules, gate by gate."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.initializer_helpers import DTYPES, KEY, bits, drawn, gram_error, in_every_dtype
from tritoninit import (
    Axes,
    BlockDiagonal,
    Constant,
    Dirac,
    Elementwise,
    Eye,
    Initializer,
    KaimingNormal,
    Keep,
    Key,
    Normal,
    Ones,
    Orthogonal,
    ParameterError,
    Piece,
    Rule,
    Scaled,
    Sparse,
    Stacked,
    Structured,
    TruncatedNormal,
    Uniform,
    Value,
    Window,
    XavierUniform,
    ZeroRow,
    Zeros,
    initialize_,
    use_backend,
)
from tritoninit.fills import sole_fill

# Nestings of two and three levels, structured and not, on a shape that all of them fit.
NESTED = [
    ZeroRow(Stacked((Normal(), Zeros())), 0),
    Stacked((ZeroRow(Normal(), 0), Normal())),
    Stacked((Orthogonal(),) * 4),
    Stacked((Orthogonal(), Normal(), Orthogonal(2.0), Zeros())),
    Stacked((Uniform(), Orthogonal()), axis=-1),
    Stacked((Stacked((Orthogonal(), Normal()), 1), Stacked((Normal(), Orthogonal()), 1))),
    ZeroRow(Orthogonal(), 3),
    ZeroRow(ZeroRow(Sparse(0.25), 0), -1),
    ZeroRow(Stacked((Orthogonal(), ZeroRow(Orthogonal(), 2)), 0), 5),
    Scaled(Orthogonal(), 2.0),
    Scaled(Sparse(0.25, 0.1), 3.0),
    Scaled(Eye(), 0.5),
    Scaled(ZeroRow(Stacked((Orthogonal(), Scaled(Normal(), 3.0))), 1), 0.25),
    Scaled(TruncatedNormal(), 0.0),
    Stacked((Value(torch.arange(40.0).reshape(4, 10)), Scaled(Value(torch.ones(4, 10)), 2.0))),
    Stacked((XavierUniform(), ZeroRow(XavierUniform(), 1), Eye(), Scaled(XavierUniform(), 2.0))),
]
SHAPE = (8, 10)
nested = pytest.mark.parametrize("initializer", NESTED, ids=[f"{k}-{each}" for k, each in enumerate(NESTED)])


def part(initializer, shape, *numbers):
    """What a structured part gives by itself, with the key of its own."""
    key = KEY
    for number in numbers:
        key = key.fold_in(number)
    return drawn(initializer, shape, key=key)


def told(initializer, rows=slice(0, SHAPE[0]), columns=slice(0, SHAPE[1]), key=KEY):
    """What a nesting is in a part of the whole, without pieces."""
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if isinstance(initializer, ZeroRow):
        values = told(initializer.initializer, rows, columns, key)
        values[initializer.row] = 0
        return values
    if isinstance(initializer, Scaled):
        return told(initializer.initializer, rows, columns, key) * initializer.factor
    if isinstance(initializer, Stacked):
        axis, count = initializer.axis % 2, len(initializer.initializers)
        begin, size = (rows, columns)[axis].start, shape[axis] // count
        parts = []
        for number, each in enumerate(initializer.initializers):
            cut = slice(begin + number * size, begin + (number + 1) * size)
            places = (cut, columns) if axis == 0 else (rows, cut)
            parts.append(told(each, *places, key.fold_in(number)))
        return torch.cat(parts, axis)
    fill = sole_fill(initializer, shape)
    return drawn(initializer, shape, key=key) if fill is None else drawn(fill, SHAPE)[rows, columns].clone()


class TestMeaning:
    """Each combinator against what it says of itself."""

    def test_elementwise_parts_are_cut_from_the_whole(self):
        whole = drawn(Normal(), SHAPE)
        whole[4:] = drawn(Uniform(), SHAPE)[4:]
        assert drawn(Stacked((Normal(), Uniform())), SHAPE).equal(whole)

    @pytest.mark.parametrize("axis", [0, 1, -1, -2])
    def test_structured_parts_have_a_key_each(self, axis):
        found = drawn(Stacked((Orthogonal(), Orthogonal(3.0)), axis), SHAPE)
        shape = (4, 10) if axis in (0, -2) else (8, 5)
        expected = [part(Orthogonal(), shape, 0), part(Orthogonal(3.0), shape, 1)]
        assert found.equal(torch.cat(expected, axis))
        assert not expected[0].equal(expected[1] / 3)

    def test_nested_parts_too(self):
        inner = Stacked((Normal(), Orthogonal()), 1)
        found = drawn(Stacked((Zeros(), inner)), SHAPE)
        assert found[4:, 5:].equal(part(Orthogonal(), (4, 5), 1, 1))
        assert found[4:, :5].equal(drawn(Normal(), SHAPE)[4:, :5])
        assert not found[:4].any()

    @pytest.mark.parametrize("row", [0, 3, 7, -1, -8])
    @pytest.mark.parametrize("inner", [Orthogonal(), Sparse(0.25), Stacked((Orthogonal(), Normal())), Ones()])
    def test_zero_row(self, inner, row):
        expected = drawn(inner, SHAPE)
        expected[row] = 0
        assert drawn(ZeroRow(inner, row), SHAPE).equal(expected)

    @pytest.mark.parametrize(
        "inner",
        [Orthogonal(), Orthogonal(0.7), Sparse(0.25), Eye(), Normal(1.0, 2.0), Uniform(-1, 3), Ones()],
    )
    @pytest.mark.parametrize("factor", [2.0, 0.5, 0.0])
    def test_scaled_by_a_power_of_two(self, inner, factor):
        """Which rounds nothing."""
        assert drawn(Scaled(inner, factor), SHAPE).equal(drawn(inner, SHAPE) * factor)

    @in_every_dtype
    def test_a_structured_part_is_rounded_once(self, dtype):
        initializer = Scaled(Stacked((Orthogonal(), Dirac())), 0.3)
        assert drawn(initializer, (8, 4, 3), dtype).equal(drawn(initializer, (8, 4, 3)).to(dtype))

    def test_what_comes_later_lies_on_top(self):
        class Framed(Initializer):
            def pieces(self, shape):
                rows, columns = shape
                return [
                    Piece(Orthogonal(), (0, 0), (rows, columns), (0,)),
                    Piece(Constant(7.0), (1, 1), (rows - 2, columns - 2)),
                    Piece(Orthogonal(), (2, 2), (rows - 4, columns - 4), (1,)),
                    Piece(Constant(9.0), (3, 3), (1, 1)),
                ]

        expected = part(Orthogonal(), (8, 10), 0)
        expected[1:-1, 1:-1] = 7
        expected[2:-2, 2:-2] = part(Orthogonal(), (4, 6), 1)
        expected[3, 3] = 9
        assert drawn(Framed(), SHAPE).equal(expected)

    def test_zero_rows_of_zero_rows(self):
        """Each takes its own row from what the other is."""
        for inner in (Normal(), Orthogonal(), Stacked((Orthogonal(), Normal()))):
            expected = drawn(inner, SHAPE)
            expected[0] = expected[-1] = expected[4] = 0
            assert drawn(ZeroRow(ZeroRow(ZeroRow(inner, 0), -1), 4), SHAPE).equal(expected)
        many = Normal()
        for row in range(7):
            many = ZeroRow(many, row)
        assert len(many.pieces(SHAPE)) == 8
        assert drawn(many, SHAPE)[7].equal(drawn(Normal(), SHAPE)[7])

    @pytest.mark.parametrize("row", range(8))
    def test_a_zero_row_beside_kept_rows(self, row):
        tensor = torch.full(SHAPE, 7.0)
        ZeroRow(Stacked((Ones(), Keep())), row)(tensor)
        expected = torch.cat((torch.ones(4, 10), torch.full((4, 10), 7.0)))
        expected[row] = 0
        assert tensor.equal(expected)

    def test_keep_keeps_its_part(self):
        tensor = torch.arange(80.0).reshape(SHAPE)
        ZeroRow(Stacked((Keep(), Normal())), 1)(tensor, key=KEY)
        expected = torch.arange(80.0).reshape(SHAPE)
        expected[1] = 0
        expected[4:] = drawn(Normal(), SHAPE)[4:]
        assert tensor.equal(expected)

    def test_random_is_what_its_parts_are(self):
        assert not Stacked((Zeros(), Scaled(Ones(), 2.0), ZeroRow(Eye(), 0))).random
        assert Stacked((Zeros(), ZeroRow(Orthogonal(), 0))).random
        state = torch.get_rng_state()
        ZeroRow(Ones(), 0)(torch.empty(3, 3))
        assert torch.get_rng_state().equal(state)

    def test_print(self):
        assert repr(Stacked((Eye(),) * 3, 1)) == "Stacked((Eye(),) * 3, axis=1)"
        assert repr(Stacked((Eye(), Zeros()))) == "Stacked((Eye(), Zeros()), axis=0)"
        assert repr(Stacked((Eye(),))) == "Stacked((Eye(),), axis=0)"
        equal = Stacked((Uniform(0, 1), Uniform(0.0, 1.0)))
        assert eval(repr(equal)) == equal

    def test_sole_fill(self):
        assert sole_fill(Scaled(Normal(), 2.0), (3,)) == Normal(0.0, 2.0)
        assert sole_fill(Stacked((Normal(),) * 2), (4,)) is None
        assert sole_fill(Orthogonal(), (4, 4)) is None


class TestEveryNesting:
    @nested
    def test_is_what_it_says(self, initializer):
        """A factor is multiplied into a fill's numbers, not its values: two roundings more or less."""
        torch.testing.assert_close(drawn(initializer, SHAPE), told(initializer), rtol=3 * 2.0**-23, atol=0)

    @nested
    @in_every_dtype
    def test_every_element_is_set_and_repeats(self, initializer, dtype):
        first = drawn(initializer, SHAPE, dtype)
        assert not first.isnan().any()
        assert bits(first).equal(bits(drawn(initializer, SHAPE, dtype)))

    @nested
    @pytest.mark.parametrize("rows", [slice(0, 3), slice(2, 6), slice(5, 8), slice(4, 4)])
    @pytest.mark.parametrize("columns", [slice(0, 10), slice(3, 7)])
    def test_a_window_is_the_slice(self, initializer, rows, columns):
        whole = drawn(initializer, SHAPE)
        local = torch.full((rows.stop - rows.start, columns.stop - columns.start), torch.nan)
        initializer(local, key=KEY, window=Window(SHAPE, (rows.start, columns.start)))
        assert bits(local).equal(bits(whole[rows, columns]))

    @nested
    def test_strided(self, initializer):
        memory = torch.full((2 * SHAPE[1], 2 * SHAPE[0]), torch.nan)
        view = memory[::2, ::2].T
        initializer(view, key=KEY)
        assert bits(view).equal(bits(drawn(initializer, SHAPE)))
        assert memory[1::2].isnan().all()

    @nested
    def test_numpy(self, initializer):
        array = initializer(np.full(SHAPE, np.nan, np.float32), key=KEY)
        if "Orthogonal" in repr(initializer):  # NumPy's QR is another LAPACK's
            assert np.abs(array - drawn(initializer, SHAPE).numpy()).max() < 64 * 2.0**-24
        else:
            assert (array == drawn(initializer, SHAPE).numpy()).all()

    @nested
    def test_in_a_rule(self, initializer):
        model = nn.Linear(SHAPE[1], SHAPE[0], bias=False)
        report = initialize_(model, [Rule("weight", initializer)], seed=3)
        assert model.weight.equal(drawn(initializer, SHAPE, key=Key(3).fold_in("weight")))
        assert report.audit.ok, report.audit.findings
        assert str(report)

    @nested
    def test_nothing_is_written_where_a_part_does_not_fit(self, initializer):
        tensor = torch.full((9, 10, 1, 1, 1, 1), torch.nan)
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match=r"."):
            Stacked((Normal(), Value(torch.ones(2)), initializer))(tensor)
        assert tensor.isnan().all()
        assert torch.get_rng_state().equal(state)


class TestBuilding:
    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda: Stacked(()), ParameterError, "at least one part"),
            (lambda: Stacked((Normal(), 3.0)), TypeError, "not an Initializer: 3.0"),
            (lambda: Stacked(Normal()), TypeError, "not iterable"),
            (lambda: Stacked((Normal(),), axis=0.5), TypeError, "integer"),
            (lambda: ZeroRow(Normal(), 1.5), TypeError, "integer"),
            (lambda: ZeroRow("normal", 1), TypeError, "not an Initializer"),
            (lambda: Scaled(Normal(), math.nan), ParameterError, "finite and not negative, unlike nan"),
            (lambda: Scaled(Normal(), math.inf), ParameterError, "finite"),
            (lambda: Scaled(Normal(), -1.0), ParameterError, "not negative"),
            (lambda: Scaled(None, 1.0), TypeError, "not an Initializer"),
        ],
    )
    def test_what_makes_no_sense_is_refused_at_once(self, make, error, match):
        with pytest.raises(error, match=match):
            make()

    @pytest.mark.parametrize(
        ("initializer", "match"),
        [
            (ZeroRow(Normal(), 9), r"no row 9 in a tensor of shape \(8, 10\)"),
            (ZeroRow(Orthogonal(), -9), "no row -9"),
            (Stacked((Normal(),) * 3), "dimension 0 of .* has no 3 equal parts"),
            (Stacked((Normal(),), axis=2), "no dimension 2"),
            (Stacked((Normal(), ZeroRow(Normal(), 5))), "no row 5"),
            (Stacked((Dirac(), Normal())), "3, 4, or 5"),
            (Scaled(Keep(), 2.0), "no scale"),
        ],
    )
    def test_what_does_not_fit_the_shape(self, initializer, match):
        tensor = torch.full(SHAPE, torch.nan)
        with pytest.raises(ValueError, match=match):
            initializer(tensor, key=KEY)
        assert tensor.isnan().all()

    def test_a_scalar_has_no_rows(self):
        with pytest.raises(ValueError, match=r"no row 0 in a tensor of shape \(\)"):
            ZeroRow(Normal(), 0)(torch.empty(()), key=KEY)

    @pytest.mark.parametrize("inner", [Normal(), Orthogonal(), Sparse(0.5)])
    def test_no_rows_no_zeros(self, inner):
        assert ZeroRow(inner, 3)(torch.empty(0, 4), key=KEY).shape == (0, 4)

    def test_scaled_in_the_dtype_of_the_tensor(self):
        assert Scaled(Eye(), 0.1)(torch.empty(2, 2, dtype=torch.float64))[0, 0] == 0.1
        assert Scaled(Eye(), 2**24 + 1)(torch.empty(2, 2, dtype=torch.int64))[0, 0] == 2**24 + 1
        bfloat16 = Scaled(Value(torch.full((1,), 1.0078125, dtype=torch.bfloat16)), 1.1)
        assert bfloat16(torch.empty(1, dtype=torch.float64)) == 1.0078125 * 1.1
        for initializer, dtype in [(Scaled(Eye(), 1e10), torch.int8), (Scaled(Dirac(), 1e6), torch.float16)]:
            tensor = torch.zeros((2, 2) if dtype == torch.int8 else (2, 2, 1), dtype=dtype)
            with pytest.raises(RuntimeError, match=r"."):
                initializer(tensor)
            assert not tensor.any()

    def test_arrays_are_judged_as_tensors_are(self):
        for values, dtype in (([0.5, 300], np.int8), ([1j], np.float32), ([1j], np.longdouble)):
            with pytest.raises(ValueError, match="Value"):
                Value(values)(np.zeros(len(values), dtype))

    def test_what_only_numpy_has_is_numpys_to_convert(self):
        assert Value([0.5, 2.0])(np.zeros(2, np.longdouble)).tolist() == [0.5, 2.0]
        assert Value([0.5 + 1j])(np.zeros(1, np.clongdouble)).tolist() == [0.5 + 1j]

    def test_what_no_backend_serves_takes_no_key(self):
        state = torch.get_rng_state()
        for initializer in (Stacked((Normal(),) * 2), Orthogonal(), ZeroRow(Sparse(0.5), 0)):
            with use_backend("triton"), pytest.raises(RuntimeError, match="cannot serve"):
                initializer(torch.empty(SHAPE))
        assert torch.get_rng_state().equal(state)

    def test_pieces_that_make_no_sense(self):
        class None_(Initializer):
            def pieces(self, shape):
                return []

        class Named(Initializer):
            def pieces(self, shape):
                return [Piece(XavierUniform(), (0, 0), tuple(shape))]

        for initializer, error in ((None_(), ValueError), (Named(), TypeError)):
            for each in (
                initializer,
                Stacked((initializer, Ones())),
                ZeroRow(initializer, 0),
                Scaled(initializer, 2),
            ):
                with pytest.raises(error, match="piece"):
                    each(torch.empty(SHAPE))

    def test_pieces_of_a_scalar_array(self):
        class Twice(Initializer):
            def pieces(self, shape):
                return [Piece(Constant(1.0), (), ()), Piece(Constant(2.0), (), ())]

        assert Twice()(np.zeros((), np.float32)) == 2

    def test_integers_take_what_they_can_hold(self):
        initializer = Stacked((Eye(), Scaled(Value(torch.ones(2, 2, dtype=torch.int64)), 3.0)))
        assert initializer(torch.zeros(4, 2, dtype=torch.int32)).tolist() == [[1, 0], [0, 1], [3, 3], [3, 3]]
        with pytest.raises(NotImplementedError, match="Normal of int32"):
            Stacked((Eye(), Normal()))(torch.zeros(4, 2, dtype=torch.int32))
        half = Scaled(Value(torch.ones(2, 2, dtype=torch.int64)), 0.5)
        with pytest.raises(ValueError, match="holds numbers that torch"):
            half(torch.zeros(2, 2, dtype=torch.int32))


class Diagonal(Structured):
    """An initializer of one's own, by the recipe of CONTRIBUTING."""

    random = False

    def check(self, target, window):
        if len(window.global_shape) != 2:
            raise ValueError("a matrix only")

    def build(self, target, key, window):
        whole = torch.diag(torch.arange(1.0, 1 + max(window.global_shape)))
        rows, columns = (slice(o, o + n) for o, n in zip(window.offsets, target.shape, strict=True))
        return whole[rows, columns].to(target.device)


class ByWidth(Elementwise):
    def fill(self, shape):
        return Normal(std=1 / shape[-1])


class TestOnesOwn:
    def test_structured(self):
        found = drawn(Stacked((Scaled(Diagonal(), 2.0), ZeroRow(Diagonal(), 0))), (4, 2))
        assert found.tolist() == [[2, 0], [0, 4], [0, 0], [0, 2]]

    def test_elementwise(self):
        found = drawn(ZeroRow(Stacked((ByWidth(), Zeros()), 1), 1), (4, 8))
        expected = drawn(Normal(std=1 / 4), (4, 8))
        expected[1] = expected[:, 4:] = 0
        assert found.equal(expected)


RECURRENT = [(nn.LSTM, 4), (nn.LSTMCell, 4), (nn.GRU, 3), (nn.GRUCell, 3), (nn.RNN, 1), (nn.RNNCell, 1)]


class TestWeightsOfSeveral:
    """In rules, what a module stacks is set one by one; a call on a tensor is torch's."""

    @pytest.mark.parametrize(("kind", "gates"), RECURRENT)
    def test_recurrent(self, kind, gates):
        model = kind(6, 8)
        names = [name for name, _ in model.named_parameters() if name.startswith("weight_hh")]
        initialize_(model, [Rule("weight_hh*", Orthogonal()), Rule("*", Zeros())], seed=0)
        for name in names:
            blocks = model.get_parameter(name).detach().chunk(gates)
            assert len(blocks) == gates
            for block in blocks:
                assert block.shape == (8, 8)
                assert (block @ block.T - torch.eye(8)).abs().max() < 1e-5
            assert len({str(block.tolist()) for block in blocks}) == gates
        initialize_(model, [Rule("weight_hh*", Eye()), Rule("*", Zeros())], seed=0)
        for name in names:
            assert model.get_parameter(name).equal(torch.eye(8).repeat(gates, 1))

    @pytest.mark.parametrize(("kind", "gates"), RECURRENT)
    def test_inside_combinators(self, kind, gates):
        model = kind(6, 8)
        initialize_(
            model, [Rule("weight_hh*", Scaled(ZeroRow(Orthogonal(), 0), 2.0)), Rule("*", Zeros())], seed=0
        )
        (weight, *_) = (p.detach() for n, p in model.named_parameters() if n.startswith("weight_hh"))
        assert not weight[0].any()
        for block in weight.chunk(gates)[1:]:
            assert gram_error(block / 2) < 1e-5

    def test_a_stack_that_matches_the_gates_is_one_of_gates(self):
        """Each part is a gate, not four again."""
        model = nn.LSTM(6, 8, num_layers=2, bidirectional=True)
        gates = Stacked((Orthogonal(), Eye(), Orthogonal(2.0), XavierUniform()))
        initialize_(model, [Rule("weight_hh*", gates), Rule("*", Zeros())], seed=0)
        for name, parameter in model.named_parameters():
            if name.startswith("weight_hh"):
                a, b, c, d = parameter.detach().chunk(4)
                assert gram_error(a) < 1e-5
                assert b.equal(torch.eye(8))
                assert gram_error(c / 2) < 1e-5
                assert d.abs().max() <= math.sqrt(6 / 16)

    def test_one_gate_is_the_whole(self):
        """Its key is the parameter's."""
        model = nn.RNN(6, 8)
        initialize_(model, [Rule("weight_hh*", Orthogonal()), Rule("*", Zeros())], seed=0)
        key = Key(0).fold_in("weight_hh_l0")
        assert model.weight_hh_l0.equal(drawn(Orthogonal(), (8, 8), key=key))

    def test_attention(self):
        model = nn.MultiheadAttention(8, 2)
        initialize_(model, [Rule("in_proj_weight", Orthogonal()), Rule("*", Zeros())], seed=0)
        for block in model.in_proj_weight.detach().chunk(3):
            assert gram_error(block) < 1e-5

    def test_packed_projections(self):
        model = nn.ModuleDict(
            {"qkv": nn.Linear(8, 24, bias=False), "gate_up_proj": nn.Linear(8, 12, bias=False)}
        )
        initialize_(model, [Rule("*", Orthogonal())], seed=0)
        for block in (*model.qkv.weight.detach().chunk(3), *model.gate_up_proj.weight.detach().chunk(2)):
            assert gram_error(block) < 1e-5

    @pytest.mark.parametrize("groups", [1, 2, 4])
    @pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
    def test_grouped_convolutions(self, kind, groups):
        model = kind(8, 8, 3, groups=groups, bias=False)
        initialize_(model, [Rule("*", Orthogonal())], seed=0)
        for block in model.weight.detach().chunk(groups):
            assert gram_error(block.flatten(1)) < 1e-5

    @pytest.mark.parametrize("groups", [1, 2, 4, 8])
    def test_dirac_passes_each_group_on(self, groups):
        model = nn.Conv2d(8, 8, 3, groups=groups, padding=1, bias=False)
        signal = torch.randn(2, 8, 5, 5)
        initialize_(model, [Rule("*", Dirac())], seed=0)
        assert model(signal).equal(signal)

    def test_a_dirac_with_groups_of_its_own_stays(self):
        model = nn.Conv1d(8, 8, 3, groups=2, bias=False)
        initialize_(model, [Rule("*", Dirac(4))], seed=0)
        assert model.weight.equal(Dirac(4)(torch.empty(8, 4, 3)))

    def test_given_values_are_of_the_whole(self):
        model = nn.GRU(2, 3)
        values = torch.arange(27.0).reshape(9, 3)
        initialize_(model, [Rule("weight_hh*", Value(values)), Rule("*", Zeros())], seed=0)
        assert model.weight_hh_l0.equal(values)

    def test_a_call_on_a_tensor_is_torchs(self):
        weight = nn.LSTM(6, 8).weight_hh_l0.detach()
        Orthogonal()(weight, key=KEY)
        assert gram_error(weight) < 1e-5  # one matrix of 32 rows

    def test_unequal_projections_are_one(self):
        """Grouped queries: nobody knows where keys begin."""
        model = nn.ModuleDict({"qkv_proj": nn.Linear(8, 12, bias=False)})
        initialize_(model, [Rule("*", Orthogonal())], seed=0)
        assert gram_error(model.qkv_proj.weight.detach()) < 1e-5


class TestFansInParts:
    """What a part's dimensions mean follows from what the whole's do."""

    def std(self, module, initializer, name="weight"):
        report = initialize_(module, [Rule(name, initializer), Rule("*", Zeros())], seed=0)
        found = next(each for each in report if each.name == name)
        return [piece.initializer.std for piece in found.initializer.pieces(found.tensor.shape)]

    def test_gates(self):
        by_four = Stacked((KaimingNormal(mode="fan_out", nonlinearity="linear"),) * 4)
        assert self.std(nn.LSTM(6, 8), by_four, "weight_ih_l0") == [math.sqrt(1 / 8)] * 4
        by_two = Stacked((KaimingNormal(mode="fan_out", nonlinearity="linear"),) * 2)
        assert self.std(nn.LSTM(6, 8), by_two, "weight_ih_l0") == [math.sqrt(1 / 8)] * 2

    def test_groups(self):
        """64 outputs in 4 groups of 16: each input reaches 16 of them, in a half as in the whole."""
        kaiming = KaimingNormal(mode="fan_out", nonlinearity="linear")
        module = nn.Conv1d(8, 64, 3, groups=4)
        assert self.std(module, kaiming) == [math.sqrt(1 / 48)]
        assert self.std(module, Stacked((kaiming,) * 2)) == [math.sqrt(1 / 48)] * 2

    def test_transposed(self):
        kaiming = KaimingNormal(nonlinearity="linear")
        module = nn.ConvTranspose1d(8, 6, 3)
        assert self.std(module, Stacked((kaiming,) * 2, axis=1)) == [math.sqrt(1 / 24)] * 2

    @pytest.mark.parametrize(
        ("axes", "axis", "count", "shape", "expected"),
        [
            (Axes(), 0, 2, (8, 3), [Axes()] * 2),
            (Axes(parts=(2, 2, 2, 2)), 0, 2, (8, 3), [Axes(parts=(2, 2))] * 2),
            (Axes(parts=(2, 2)), -2, 2, (4, 3), [Axes()] * 2),
            (Axes(parts=(2, 2)), 0, 4, (4, 3), [Axes()] * 4),
            (Axes(parts=(2, 2)), 1, 3, (4, 3), [Axes(parts=(2, 2))] * 3),
            (Axes(parts=(4, 2, 2)), 0, 2, (8, 3), [Axes(), Axes(parts=(2, 2))]),
            (Axes((0,), (1,), parts=(3, 3)), 1, 2, (4, 6), [Axes((0,), (1,))] * 2),
            (Axes(groups=4), 0, 2, (8, 3, 1), [Axes(groups=2)] * 2),
            (Axes(groups=2), 0, 4, (8, 3, 1), [Axes()] * 4),
            (Axes(groups=2), 1, 3, (8, 3, 1), [Axes(groups=2)] * 3),
            (Axes(parts=(2, 4)), 0, 2, (6, 3), [None, Axes()]),
            (Axes(groups=3), 0, 2, (6, 3, 1), [None] * 2),
            (Axes(groups=2), 0, 3, (6, 3, 1), [None] * 3),
        ],
    )
    def test_of_parts(self, axes, axis, count, shape, expected):
        assert axes.of_parts(axis, count, shape) == expected

    def test_what_cuts_a_weight_has_no_fans(self):
        model = nn.GRU(6, 8)
        with pytest.raises(ValueError, match=r"weight_hh_l0: which dimensions of shape \(12, 8\)"):
            initialize_(
                model, [Rule("weight_hh*", Stacked((XavierUniform(),) * 2)), Rule("*", Zeros())], seed=0
            )
        initialize_(model, [Rule("weight_hh*", Stacked((Ones(), Zeros()))), Rule("*", Zeros())], seed=0)
        assert model.weight_hh_l0.equal(torch.cat((torch.ones(12, 8), torch.zeros(12, 8))))

    def test_unknown_dimensions_are_refused_in_parts_too(self):
        model = nn.Module()
        model.experts = nn.Parameter(torch.full((4, 8, 16), torch.nan))
        with pytest.raises(ValueError, match="experts: which dimensions"):
            initialize_(model, [Rule("*", Stacked((KaimingNormal(), Zeros())))], seed=0)
        assert model.experts.isnan().all()


class TestKeptParts:
    RULES = (Rule("weight", Stacked((Keep(), Ones()))),)

    def test_of_a_parametrised_weight(self):
        model = nn.Linear(3, 4, bias=False)
        before = model.weight.detach().clone()
        nn.utils.parametrizations.weight_norm(model)
        initialize_(model, self.RULES, seed=0)
        torch.testing.assert_close(model.weight[:2], before[:2])
        torch.testing.assert_close(model.weight[2:], torch.ones(2, 3))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_moved(self, dtype):
        model = nn.Linear(3, 4, bias=False)
        before = model.weight.detach().clone()
        initialize_(model, self.RULES, seed=0, dtype=dtype)
        assert model.weight.equal(torch.cat((before[:2].to(dtype), torch.ones(2, 3, dtype=dtype))))

    def test_of_the_meta_device(self):
        with torch.device("meta"):
            model = nn.Linear(3, 4, bias=False)
        with pytest.raises(ValueError, match="weight: a part of it is to be kept"):
            initialize_(model, self.RULES, seed=0, device="cpu")
        assert model.weight.is_meta


class TestBlockDiagonal:
    def test_by_place_and_by_number(self):
        """Independent elements are those of the whole's places, with one block's fans; others have keys."""
        x = BlockDiagonal(ti.XavierNormal(), 3)(torch.full((9, 6), math.nan), key=KEY)
        everywhere = ti.Normal(0.0, math.sqrt(2 / 5))(torch.empty(9, 6), key=KEY)
        inside = torch.block_diag(*[torch.ones(3, 2)] * 3).bool()
        assert x.equal(torch.where(inside, everywhere, 0.0))
        y = BlockDiagonal(ti.Orthogonal(), 3)(torch.empty(9, 6), key=KEY)
        blocks = [ti.Orthogonal()(torch.empty(3, 2), key=KEY.fold_in(number)) for number in range(3)]
        assert y.equal(torch.block_diag(*blocks))

    def test_of_convolutions_and_parts(self):
        whole = BlockDiagonal(ti.Dirac(), 2)(torch.empty(4, 6, 3))
        assert whole[:2, :3].equal(ti.Dirac()(torch.empty(2, 3, 3)))
        assert whole[2:, 3:].equal(whole[:2, :3])
        assert not whole[:2, 3:].any()
        assert not whole[2:, :3].any()
        inner = BlockDiagonal(ti.Stacked((ti.Orthogonal(), ti.Uniform(1, 2))), 2)
        x = inner(torch.empty(8, 6), key=KEY)
        assert inner(torch.empty(3, 4), key=KEY, window=ti.Window((8, 6), (2, 1))).equal(x[2:5, 1:5])
        assert ti.Scaled(inner, 0.5)(torch.empty(8, 6), key=KEY).equal(x * 0.5)

    @pytest.mark.parametrize(("blocks", "shape"), [(3, (6, 4)), (2, (5, 4)), (2, (4,)), (1, ())])
    def test_shapes_without_blocks(self, blocks, shape):
        with pytest.raises(ValueError, match=r"equal parts|two dimensions"):
            BlockDiagonal(ti.Normal(), blocks)(torch.empty(shape))

    @pytest.mark.parametrize("blocks", [0, -1])
    def test_no_block(self, blocks):
        with pytest.raises(ti.ParameterError, match="at least one block"):
            BlockDiagonal(ti.Normal(), blocks)

    def test_not_of_what_is_none(self):
        with pytest.raises(TypeError, match="not an Initializer"):
            BlockDiagonal(torch.nn.init.normal_, 2)
