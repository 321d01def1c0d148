"""Calls on small tensors, whose time is Python's: what they do without, and what is kept between them."""

import math
import sys
import weakref
from collections import Counter

import pytest
import torch

import tritoninit as ti
from tritoninit.initializers import FanScaled

KEY = ti.Key(3)
CALLS = {
    "uniform_": lambda w, **given: ti.uniform_(w, -0.1, 0.1, **given),
    "normal_": lambda w, **given: ti.normal_(w, 0.0, 0.02, **given),
    "trunc_normal_": lambda w, **given: ti.trunc_normal_(w, 0.0, 0.02, -0.04, 0.04, **given),
    "kaiming_uniform_": lambda w, **given: ti.kaiming_uniform_(w, 5**0.5, **given),
    "xavier_normal_": lambda w, **given: ti.xavier_normal_(w, **given),
    "zeros_": lambda w: ti.zeros_(w),
    "constant_": lambda w: ti.constant_(w, 0.5),
}
DRAWN = sorted(set(CALLS) - {"zeros_", "constant_"})


def calls_of(run):
    """How many calls of Python's functions and of others a run makes, its own not counted."""
    counts = Counter()
    sys.setprofile(lambda frame, event, argument: counts.update([event]))
    try:
        run()
    finally:
        sys.setprofile(None)
    return counts["call"] - 1, counts["c_call"] - 1


@pytest.mark.parametrize("name", CALLS)
def test_a_small_call_is_short(name):
    """A dozen functions of Python and two dozen others take as long as all of torch's call.

    Namely this test's own two, the function, the initializer, what checks the tensor, who serves it, with
    which numbers, and the kernel; of constants those of a mode that is turned off and on.
    """
    w = torch.empty(16, 16)
    given = {"key": KEY} if name in DRAWN else {}
    run = lambda: CALLS[name](w, **given)  # noqa: E731
    run()
    python, other = calls_of(run)
    assert python <= 18
    assert other <= 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("name", DRAWN)
def test_the_short_way_writes_what_a_plan_does(name, dtype):
    """Of a whole tensor, what it writes of a window; with a key, a generator, and torch's default one."""
    whole = ti.Window.whole((5, 7))
    for given in (lambda: {"key": KEY}, lambda: {"generator": torch.Generator().manual_seed(5)}, dict):
        found = []
        for window in ({}, {"window": whole}):
            torch.manual_seed(11)
            w = torch.empty(5, 7, dtype=dtype)
            version = w._version
            found.append(CALLS[name](w, **given(), **window))
            assert w._version > version
        assert found[0].view(torch.uint8).equal(found[1].view(torch.uint8))


def test_bits_are_one_call_of_the_generator():
    for generator in (None, torch.Generator().manual_seed(2)):
        torch.manual_seed(2)
        key = ti.Key.from_generator(generator)
        torch.manual_seed(2)
        bits = torch.empty((), dtype=torch.int64).random_(-(2**63), None)
        assert key == ti.Key(int(bits))
        after = (generator or torch.default_generator).get_state()
        assert after.equal(torch.default_generator.get_state())


def test_zeros_keep_their_sign():
    """Equal numbers may be other bits: what is remembered of one is not the other's."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for value in (0.0, -0.0, 0.0, 0, False, -0.0):
            w = ti.constant_(torch.full((3,), math.nan, dtype=dtype), value)
            sign = math.copysign(1, value)
            assert (w == 0).all()
            assert (w.to(torch.float64).signbit() == (sign < 0)).all()
    assert ti.constant_(torch.zeros(3), math.nan).isnan().all()


@pytest.mark.parametrize("name", CALLS)
def test_no_tensor_is_kept(name):
    w = torch.nn.Parameter(torch.empty(6, 4))
    gone = weakref.ref(w)
    CALLS[name](w)
    del w
    assert gone() is None


def test_numbers_that_compare_alike_are_told_apart():
    """A Boolean gain is as an integer one is; each raises or not whatever was called before."""
    expected = ti.xavier_uniform_(torch.empty(3, 4), 1.0, key=KEY)
    for gain in (1, True, torch.tensor(1.0), 1.0):
        assert ti.xavier_uniform_(torch.empty(3, 4), gain, key=KEY).equal(expected)
    with pytest.raises(ti.ParameterError):
        ti.xavier_uniform_(torch.empty(3, 4), -1.0, key=KEY)


def test_an_initializer_of_its_own_is_asked_each_time():
    """What a class of somebody else's says of a shape may change."""

    class Growing(FanScaled):
        stds = iter((1.0, 2.0))

        def scaled(self, fan_in, fan_out):
            raise NotImplementedError

        def pieces(self, shape):
            return ti.Normal(0.0, next(self.stds)).pieces(shape)

    once, twice = (Growing()(torch.empty(3, 4), key=KEY) for _ in range(2))
    assert twice.equal(2 * once)


def test_errors_come_in_the_same_order():
    """A tensor that cannot be written is told before a shape without fans."""
    with pytest.raises(RuntimeError, match="meta"):
        ti.xavier_normal_(torch.empty(3, device="meta"), key=KEY)
    with pytest.raises(ValueError, match="Fan in"):
        ti.xavier_normal_(torch.empty(3), key=KEY)
    with pytest.raises(ValueError, match="both"):
        ti.normal_(torch.empty(3), key=KEY, generator=torch.Generator())
    for given in ({"key": 3}, {"generator": 3}):
        with pytest.raises(TypeError):
            ti.normal_(torch.empty(3), **given)


def test_modes_of_torch_see_a_draw():
    """A mode that draws into another tensor decides the bits."""

    class Elsewhere(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") == "random_":
                return torch.full((), 5, dtype=torch.int64)
            return function(*args, **(kwargs or {}))

    with Elsewhere():
        assert ti.Key.from_generator() == ti.Key(5)
