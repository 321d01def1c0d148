"""Parameters of one shape, dtype and device: what is asked once for all of them, and what of each."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode

from tritoninit import (
    AsOne,
    Constant,
    Initializer,
    KaimingUniform,
    Key,
    Normal,
    Rule,
    Uniform,
    initialize_,
    use_backend,
)
from tritoninit.fills import Elementwise


class Alike(nn.Module):
    """Parameters of one shape, of which the values are 1, 2, 3, ..., each throughout."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        for k in range(count):
            self.register_parameter(f"p{k}", nn.Parameter(torch.full((3, 3), k + 1.0)))


def firsts(model: nn.Module) -> list[float]:
    return [float(p.detach().flatten()[0]) for p in model.parameters()]


class Own(Initializer):
    def pieces(self, shape):
        return Normal().pieces(shape)


@dataclass(frozen=True)
class Doubled(Own):
    random = False

    def add(self, plan, target, key, window):
        plan.append(target, Constant(2 * float(target.detach().flatten()[0])), key, window)


@dataclass(frozen=True)
class ByStrides(Own):
    def add(self, plan, target, key, window):
        low = 5.0 if target.is_contiguous() else 6.0
        plan.append(target, Uniform(low, low + 0.5), key, window)


@dataclass(frozen=True)
class ByKey(Own):
    def add(self, plan, target, key, window):
        level = 10.0 * (key.stream % 7)
        plan.append(target, Uniform(level, level + 1), key, window)


@dataclass(frozen=True)
class Counted(Elementwise):
    numbers: Iterator[int] = field(default_factory=itertools.count, compare=False)
    random = False

    def fill(self, shape):
        return Constant(float(next(self.numbers)))


@dataclass(frozen=True)
class Inheriting(Normal):
    def add(self, plan, target, key, window):
        plan.append(target, Constant(2 * float(target.detach().flatten()[0])), key, window)


class TestOthersInitializers:
    """They may go by more than ours do, and are asked of each parameter."""

    @pytest.mark.parametrize("initializer", [Doubled(), Inheriting()])
    def test_by_what_a_tensor_has(self, initializer):
        model = Alike()
        initialize_(model, [Rule("*", initializer)], seed=0)
        assert firsts(model) == [2, 4, 6, 8]

    def test_by_strides(self):
        model = Alike(1)
        model.across = nn.Parameter(torch.ones(3, 3).t())
        initialize_(model, [Rule("*", ByStrides())], seed=0)
        assert [first // 1 for first in firsts(model)] == [5, 6]

    def test_by_the_key(self):
        model = Alike(6)
        initialize_(model, [Rule("*", ByKey())], seed=0)
        levels = [Key(0).fold_in(name).stream % 7 for name, _ in model.named_parameters()]
        assert [first // 10 for first in firsts(model)] == levels
        assert len(set(levels)) > 1

    @pytest.mark.parametrize("within", [lambda own: own, AsOne])
    def test_by_how_often_they_were_asked(self, within):
        model = Alike()
        initialize_(model, [Rule("*", within(Counted()))], seed=0)
        first, *others = firsts(model)
        assert others == [first + step for step in (others[0] - first) * torch.arange(1, 4)]
        assert others[0] > first

    def test_checks_by_the_tensor(self):
        @dataclass(frozen=True)
        class NotFrozen(Own):
            def check(self, target, window):
                if not target.requires_grad:
                    raise ValueError("frozen")

        model = Alike()
        model.p2.requires_grad_(False)
        with pytest.raises(ValueError, match=r"^p2: frozen$"):
            initialize_(model, [Rule("*", NotFrozen())], seed=0)


def test_ours_are_asked_once(monkeypatch):
    asked: list[Any] = []
    parameters = Normal.parameters
    monkeypatch.setattr(
        Normal, "parameters", lambda self, dtype: asked.append(self) or parameters(self, dtype)
    )
    initialize_(Alike(20), [Rule("*", Normal())], seed=0)
    assert len(asked) < 5


def test_registered_classes_are_initializers(monkeypatch):
    class Duck:
        random = True

        def of_weight(self, axes, shape):
            return self

        def pieces(self, shape):
            return Normal().pieces(shape)

        def check(self, target, window):
            pass

        def add(self, plan, target, key, window):
            Normal().add(plan, target, key, window)

    kind: Any = type(Initializer)
    for name in ("__instancecheck__", "__subclasscheck__"):  # to be put back afterwards
        monkeypatch.setattr(kind, name, getattr(type, name))
    assert not isinstance(Duck(), Initializer)
    Initializer.register(Duck)
    assert isinstance(Duck(), Initializer)
    assert issubclass(Duck, Initializer)
    assert not isinstance(Duck(), Normal)
    assert isinstance(Normal(), Initializer)
    model, other = Alike(), Alike()
    initialize_(model, [Rule("*", Duck())], seed=0)
    initialize_(other, [Rule("*", Normal())], seed=0)
    assert firsts(model) == firsts(other)


class Silent(TorchFunctionMode):
    """``fill_`` does nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return args[0] if function is torch.Tensor.fill_ else function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mode", "value"), [(Silent, 1301.0), (FakeTensorMode, 1302.0)])
def test_modes_do_not_tell_what_a_dtype_holds(mode, value):
    model = Alike(1)
    model.narrow = nn.Parameter(torch.ones(3, dtype=torch.uint8), requires_grad=False)
    for block in (mode, torch.enable_grad):  # what is found in a mode is remembered outside
        with block(), pytest.raises(ValueError, match="narrow: uint8 cannot hold the value"):
            initialize_(model, [Rule("*", Constant(value))], seed=0)
    assert firsts(model) == [1, 1]


class Choosy(torch.Tensor):
    """A subclass with memory of its own, for which not all of torch is written."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.as_strided:
            raise NotImplementedError("as_strided")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_constants_of_subclasses_are_told():
    model = Alike(1)
    model.choosy = nn.Parameter(torch.ones(4, 3).as_subclass(Choosy))
    report = initialize_(model, [Rule("*", Normal())], seed=0)
    assert "choosy was 1 throughout" in str(report)


def test_deep_models():
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(2000):  # more than Python calls itself
        outer = nn.Module()
        outer.inner = model
        model = outer
    assert len(initialize_(model, seed=0)) == 2


class Forwarding(nn.Module):
    """Has what it wraps has, as many wrappers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


def test_parametrised_weights_are_where_they_are_held():
    model = Forwarding(weight_norm(nn.Linear(3, 4)))
    report = initialize_(model, [Rule(nn.Linear, Normal())], seed=0)
    assert {each.name for each in report} == {"inner.weight", "inner.bias"}


def test_classes_of_models_past_are_let_go():
    """A parametrised module has a class of its own; many such models may be set, one after another."""
    rules = [Rule("*.weight", KaimingUniform()), Rule(nn.Linear, Normal())]
    seen: list[weakref.ref[type]] = []
    for _ in range(3):
        model = nn.Sequential(weight_norm(nn.Linear(3, 3)))
        initialize_(model, rules, seed=0)
        seen.append(weakref.ref(type(model[0])))
    del model
    from tritoninit import fans
    from tritoninit.models import slots

    for remembering in (fans._is_in_out, slots._wrapped_by):
        assert remembering.cache_info().maxsize is not None
        remembering.cache_clear()
    gc.collect()
    assert not [each for each in seen if each() is not None]


def test_what_shares_memory_is_set_in_order():
    """As one after the other: what the last of them sets stays."""
    model = Alike(5)
    memory = torch.zeros(40)
    for k, begin in ((1, 0), (2, 6), (4, 3)):  # the last lies over both
        model.register_parameter(f"p{k}", nn.Parameter(memory[begin : begin + 9].view(3, 3)))
    initialize_(model, [Rule("*", Normal())], seed=3)
    expected = torch.zeros(40)
    for k, begin in ((1, 0), (2, 6), (4, 3)):
        expected[begin : begin + 9] = Normal()(torch.empty(9), key=Key(3).fold_in(f"p{k}"))
    assert memory.equal(expected)
    for k in (0, 3):
        alone = Normal()(torch.empty(3, 3), key=Key(3).fold_in(f"p{k}"))
        assert getattr(model, f"p{k}").detach().equal(alone)


def test_what_is_unlike_the_others_is_set_in_its_place():
    """Between those that go together: one that lies across their memory, by strides of its own."""
    for place in range(4):
        model, memory = nn.Module(), torch.zeros(24)
        parts = [memory[k : k + 6].view(2, 3) for k in (0, 6, 12)]
        parts.insert(place, memory[:24].view(4, 6)[:, 1:3])
        for k, part in enumerate(parts):
            model.register_parameter(f"p{k}", nn.Parameter(part))
        initialize_(model, [Rule("*", Normal())], seed=3)
        expected = torch.zeros(24)
        whole = [expected[k : k + 6].view(2, 3) for k in (0, 6, 12)]
        whole.insert(place, expected.view(4, 6)[:, 1:3])
        for k, part in enumerate(whole):
            Normal()(part, key=Key(3).fold_in(f"p{k}"))
        assert memory.equal(expected)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_each_is_as_if_it_were_alone(rounding):
    """Of several shapes, dtypes and initializers, integers too: the bits, and what the report says."""
    model = nn.Sequential(*(nn.BatchNorm1d(n, dtype=torch.bfloat16) for n in (3, 5, 3, 16)), nn.LSTM(3, 4))
    model.append(nn.Conv1d(4, 4, 3, groups=2)).append(nn.Conv1d(4, 4, 3, groups=2)).append(nn.Linear(3, 4))
    rules = [
        Rule("*.weight", Uniform()),
        Rule(nn.Conv1d, {"weight": KaimingUniform()}),
        Rule("*weight_*", KaimingUniform()),
        Rule(nn.BatchNorm1d, {"num_batches_tracked": Constant(3)}),
        Rule("*", Normal()),
    ]
    with use_backend("numpy"):  # which has nothing to compile
        report = initialize_(model, rules, seed=5, rounding=rounding)
    slots = [*model.named_parameters(), *((k, x) for k, x in model.named_buffers() if k.endswith("tracked"))]
    assert [each.name for each in report] == [name for name, _ in slots]
    for each, (name, tensor) in zip(report, slots, strict=True):
        assert each.tensor is tensor
        assert each.key == (None if name.endswith("tracked") else Key(5).fold_in(name))
        with use_backend("numpy"):
            alone = each.initializer(torch.zeros_like(tensor.detach()), key=each.key)
        assert alone.equal(tensor.detach())


class Equal(nn.Module):
    """Equal to all of its class, as modules that compare what they are made of may be."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = nn.Module.__hash__


def test_equal_modules_are_several():
    report = initialize_(Equal(Equal(Equal())), [Rule("*", Normal())], seed=0)
    assert [each.name for each in report] == ["weight", "inner.weight", "inner.inner.weight"]
