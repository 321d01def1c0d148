"""Plans: everything that can be wrong raises in ``add``, and ``run`` writes what was added."""

import numpy as np
import pytest
import torch

from tritoninit import Constant, Key, Normal, Plan, TruncatedNormal, Uniform, Window
from tritoninit import plan as plan_module
from tritoninit.plan import _batches

KEY = Key(5)

OTHER_DTYPES = [
    (torch.float64, 0.1),
    (torch.int8, -7),
    (torch.uint8, 200),
    (torch.int16, 300),
    (torch.int32, 2**31 - 1),
    (torch.int64, 2**53 + 1),
    (torch.bool, True),
    (torch.complex64, 1 - 2j),
    (torch.complex128, 0.1),
    (torch.float8_e4m3fn, 0.5),
    (torch.float8_e5m2, -2.0),
]


def poisoned(*shape, dtype=torch.float32):
    return torch.full(shape, torch.nan, dtype=dtype)


class TestRun:
    def test_many_tensors(self):
        """Each as if it were alone, whatever its neighbours."""
        fills = [Uniform(-1, 1), Normal(0, 0.02), TruncatedNormal(), Constant(0.5)]
        shapes = [(), (0,), (1,), (65537,), (3, 5), (2, 3, 4)]
        dtypes = [torch.float32, torch.float16, torch.bfloat16]
        plan, expected, targets = Plan(), [], []
        for number, (fill, shape, dtype) in enumerate(
            (f, s, d) for f in fills for s in shapes for d in dtypes
        ):
            key = KEY.fold_in(number)
            targets.append(poisoned(*shape, dtype=dtype))
            plan.add(targets[-1], fill, key)
            expected.append(fill(torch.empty(shape, dtype=dtype), **({"key": key} if fill.random else {})))
        assert all(t.isnan().all() for t in targets)  # nothing is written before run
        plan.run()
        assert len(plan.steps) == len(targets) == 72
        for target, alone in zip(targets, expected, strict=True):
            assert target.equal(alone)

    def test_tensors_and_arrays_together(self):
        tensor, array = poisoned(9), np.full(9, np.nan, np.float32)
        plan = Plan()
        plan.add(tensor, Normal(), KEY)
        plan.add(array, Normal(), KEY)
        plan.run()
        assert np.array_equal(tensor.numpy(), array)

    def test_in_order(self):
        """A target added twice holds what was added last."""
        tensor = poisoned(4)
        plan = Plan()
        plan.add(tensor, Constant(1.0), KEY)
        plan.add(tensor[:2], Constant(2.0), KEY)
        plan.run()
        assert tensor.tolist() == [2, 2, 1, 1]

    def test_in_order_whatever_overlaps(self):
        """What is written next to, across, before and after what was: slices of one memory, at random."""
        generator = np.random.default_rng(0)
        for _ in range(50):
            ours, theirs, plan = np.zeros(64, np.float32), np.zeros(64, np.float32), Plan()
            for value in range(1, 9):
                start, stop = sorted(generator.integers(0, 65, 2))
                step = int(generator.integers(1, 4))
                plan.add(ours[start:stop:step], Constant(float(value)), KEY)
                theirs[start:stop:step] = value
            plan.run()
            assert np.array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("as_array", "step"), [(True, 1), (True, -1), (True, -2), (False, 1), (False, 2)]
    )
    def test_steps_that_share_an_element_are_not_run_together(self, as_array, step):
        """But those that only touch are, whichever comes first in memory."""
        size = 100
        for shared, batches in ((1, 2), (4, 2), (0, 1)):
            for starts in ((0, size - shared), (size - shared, 0)):
                memory, plan = np.zeros(2 * size * abs(step), np.float32), Plan()
                for start in starts:
                    part = memory[start * abs(step) :][: size * abs(step)][::step]
                    plan.add(part if as_array else torch.from_numpy(part), Normal(), KEY)
                assert len(list(_batches(plan.steps))) == batches

    def test_again(self):
        tensor = poisoned(4)
        plan = Plan()
        plan.add(tensor, Normal(), KEY)
        plan.run()
        first = tensor.clone()
        tensor.fill_(torch.nan)
        plan.run()
        assert tensor.equal(first)

    def test_empty(self):
        Plan().run()

    def test_window(self):
        tensor = poisoned(2, 3)
        plan = Plan()
        plan.add(tensor, Normal(), KEY, Window((5, 7), (3, 4)))
        plan.run()
        assert tensor.equal(Normal()(torch.empty(5, 7), key=KEY)[3:, 4:])


class TestConstants:
    @pytest.mark.parametrize(("dtype", "value"), OTHER_DTYPES)
    def test_torch(self, dtype, value):
        tensor = torch.zeros(3, 4, dtype=dtype).T
        assert Constant(value)(tensor) is tensor
        assert tensor.tolist() == [[value] * 3] * 4

    @pytest.mark.parametrize(
        ("dtype", "value"),
        [
            ("float64", 0.1),
            ("int8", -7),
            ("uint16", 65535),
            ("int64", 2**53 + 1),
            ("bool", True),
            ("complex64", 1 - 2j),
        ],
    )
    def test_numpy(self, dtype, value):
        array = np.zeros((3, 4), dtype).T
        assert Constant(value)(array) is array
        assert (array == value).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("value", [0.1, -0.0, 1, True, float("inf"), float("-inf"), 2.0**-24])
    def test_rounded_as_torch_rounds(self, dtype, value):
        ours = Constant(value)(poisoned(5, dtype=dtype))
        theirs = torch.full((5,), float(value), dtype=dtype)
        integer = torch.int32 if dtype is torch.float32 else torch.int16
        assert ours.view(integer).equal(theirs.view(integer))

    def test_nan(self):
        assert Constant(float("nan"))(torch.zeros(3)).isnan().all()

    def test_leaves_the_generator_alone(self):
        state = torch.get_rng_state()
        Constant(1.0)(torch.empty(3))
        Constant(1)(torch.empty(3, dtype=torch.int64))
        assert torch.get_rng_state().equal(state)


BAD = [
    ("integers", lambda: torch.zeros(3, dtype=torch.int32), Normal(), None, NotImplementedError),
    ("complex", lambda: torch.zeros(3, dtype=torch.complex64), TruncatedNormal(), None, NotImplementedError),
    ("array of longdouble", lambda: np.zeros(3, np.longdouble), TruncatedNormal(), None, NotImplementedError),
    ("list", lambda: [0.0], Normal(), None, TypeError),
    ("meta", lambda: torch.empty(3, device="meta"), Normal(), None, ValueError),
    ("expanded", lambda: torch.zeros(3).expand(2, 3), Normal(), None, ValueError),
    ("window", lambda: torch.zeros(3), Normal(), Window((4,), (2,)), ValueError),
    ("window of other rank", lambda: torch.zeros(3), Normal(), Window((3, 1), (0, 0)), ValueError),
    ("float16 range", lambda: torch.zeros(3, dtype=torch.float16), Uniform(0, 65505.0), None, RuntimeError),
    ("no bfloat16", lambda: torch.zeros(3, dtype=torch.bfloat16), Uniform(1.001, 1.002), None, RuntimeError),
    ("int8 range", lambda: torch.zeros(3, dtype=torch.int8), Constant(300), None, RuntimeError),
    ("int8 array range", lambda: np.zeros(3, np.int8), Constant(300), None, OverflowError),
    ("NaN integer", lambda: torch.zeros(3, dtype=torch.int64), Constant(float("nan")), None, RuntimeError),
    ("float16 constant", lambda: torch.zeros(3, dtype=torch.float16), Constant(7e4), None, RuntimeError),
    ("float32 constant", lambda: torch.zeros(3), Constant(1e39), None, RuntimeError),
]


@pytest.mark.parametrize(("make", "fill", "window", "error"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_an_error_in_add_writes_nothing_and_keeps_the_plan(make, fill, window, error):
    earlier, bad = poisoned(4), make()
    state = torch.get_rng_state()
    plan = Plan()
    plan.add(earlier, Constant(1.0), KEY)
    with pytest.raises(error):
        plan.add(bad, fill, Key.from_generator, window)
    assert torch.get_rng_state().equal(state)  # the key is drawn last
    assert earlier.isnan().all()
    assert len(plan.steps) == 1
    plan.run()
    assert (earlier == 1).all()
    if isinstance(bad, (torch.Tensor, np.ndarray)) and not getattr(bad, "is_meta", False):
        assert not bad.any()


class TestKeys:
    def test_a_callable_is_called_once_for_a_random_fill(self):
        calls = []
        plan = Plan()
        step = plan.add(poisoned(3), Normal(), lambda: calls.append(0) or KEY)
        assert (len(calls), step.draw.seed, step.draw.stream) == (1, KEY.seed, KEY.stream)

    def test_and_not_at_all_for_a_constant(self):
        Plan().add(poisoned(3), Constant(1.0), lambda: pytest.fail("a constant took a key"))


def test_steps_say_what_will_happen():
    step = Plan().add(torch.empty(2, 3), Normal(0, 0.5), Key(1, 2), Window((4, 5), (1, 2)))
    assert (step.draw.distribution, step.draw.parameters) == ("normal", (0.0, 0.5))
    assert (step.draw.seed, step.draw.stream, step.draw.start, step.draw.strides) == (1, 2, 7, (5, 1))
    assert "cpu" in step.backend.devices
    assert Plan().add(torch.empty(2, dtype=torch.int64), Constant(1), KEY).backend is None


def test_a_step_that_begins_within_the_one_before_it():
    """Which is not the first in memory: what comes later lies on top."""
    memory = torch.full((50,), torch.nan)
    plan = Plan()
    for begin, end in ((0, 10), (20, 40), (30, 50)):
        plan.add(memory[begin:end], Normal(float(begin), 0.0), Key(0))
    assert [len(batch) for batch in plan_module._batches(plan.steps)] == [2, 1]
    plan.run()
    assert memory.nan_to_num(-1.0).tolist() == [0.0] * 10 + [-1.0] * 10 + [20.0] * 10 + [30.0] * 20


def test_two_steps_of_two_backends():
    """Integers are their library's to fill."""
    whole, real = torch.zeros(3, dtype=torch.int32), torch.full((3,), torch.nan)
    plan = Plan()
    plan.add(whole, Constant(3), Key(0))
    plan.add(real, Normal(2.0, 0.0), Key(0))
    plan.run()
    assert whole.tolist() == [3, 3, 3]
    assert real.tolist() == [2.0, 2.0, 2.0]
