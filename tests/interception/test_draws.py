"""Methods that draw other distributions, on parameters: served, by keys that are counted apart."""

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.interception.cases import nans, ours, parameter
from tritoninit import Key
from tritoninit.interception.entry import intercept

# By a call, the initializer that it asks for.
CALLS = {
    "exponential_": (lambda w: w.exponential_(), ti.Exponential()),
    "exponential_, lambd": (lambda w: w.exponential_(lambd=2.0), ti.Exponential(2.0)),
    "log_normal_": (lambda w: w.log_normal_(), ti.LogNormal()),
    "log_normal_, std": (lambda w: w.log_normal_(0.0, std=0.5), ti.LogNormal(0.0, 0.5)),
    "cauchy_": (lambda w: w.cauchy_(1.0, sigma=0.5), ti.Cauchy(1.0, 0.5)),
    "geometric_": (lambda w: w.geometric_(0.25), ti.Geometric(0.25)),
    "bernoulli_": (lambda w: w.bernoulli_(), ti.Bernoulli()),
    "bernoulli_, p": (lambda w: w.bernoulli_(p=torch.tensor(0.25)), ti.Bernoulli(0.25)),
    "random_": (lambda w: w.random_(), ti.RandInt()),
    "random_, to": (lambda w: w.random_(9), ti.RandInt(0, 9)),
    "random_, from and to": (lambda w: w.random_(-9, 9), ti.RandInt(-9, 9)),
    "random_, by names": (lambda w: w.random_(**{"from": -9, "to": 9}), ti.RandInt(-9, 9)),
    "random_, one by name": (lambda w: w.random_(-9, to=9), ti.RandInt(-9, 9)),
    "random_, open": (lambda w: w.random_(3, None), ti.RandInt(3)),
}
DRAWS = Key(0).fold_in("draws")


@pytest.mark.parametrize("name", CALLS)
def test_served_as_what_they_ask_for(name):
    call, initializer = CALLS[name]
    weight = parameter(6, 4)
    state = torch.get_rng_state()
    with intercept(seed=0) as intercepted:
        assert call(weight.data).data_ptr() == weight.data_ptr()
    assert not intercepted.passed_on
    assert torch.get_rng_state().equal(state)
    assert weight.equal(initializer(nans(6, 4), key=DRAWS.fold_in(0)))
    (told,) = intercepted.assignments(nn.ParameterList([weight]))
    assert (told.initializer, told.key) == (initializer, DRAWS.fold_in(0))


def test_integers():
    with intercept(seed=0) as intercepted:
        counts = nn.Parameter(torch.zeros(9, dtype=torch.int64), requires_grad=False)
        mask = nn.Parameter(torch.zeros(9, dtype=torch.bool), requires_grad=False)
        counts.random_(-(2**63), None)
        mask.bernoulli_(0.3)
    assert not intercepted.passed_on
    whole = ti.RandInt(-(2**63))(torch.empty(9, dtype=torch.int64), key=DRAWS.fold_in(0))
    assert counts.equal(whole)
    assert mask.equal(ti.Bernoulli(0.3)(torch.empty(9, dtype=torch.bool), key=DRAWS.fold_in(1)))


def test_no_other_key_moves():
    """What was served before these were keeps its numbers."""
    first, drawn, second = parameter(5), parameter(5), parameter(5)
    with intercept(seed=0):
        nn.init.normal_(first)
        drawn.data.exponential_()
        nn.init.normal_(second)
    assert first.equal(ours("normal_", (5,), ()))
    assert second.equal(ours("normal_", (5,), (), number=1))


def test_parts_and_generators():
    weight = parameter(6, 4)
    with intercept(seed=0) as intercepted:
        nn.init.zeros_(weight)
        weight.data[2].exponential_(generator=torch.Generator().manual_seed(9))
    key = Key.from_generator(torch.Generator().manual_seed(9))
    assert weight[2].equal(ti.exponential_(nans(4), key=key))
    assert not weight[3].any()
    assert len(intercepted.assignments(nn.ParameterList([weight]))) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda w: w.exponential_(0.0),
        lambda w: w.random_(3, 3),
        lambda w: w.bernoulli_(2.0),
    ],
)
def test_errors_are_torch_s(call):
    with intercept(seed=0) as intercepted:
        with pytest.raises((RuntimeError, TypeError)):
            call(parameter(3).data)
        assert len(intercepted.passed_on) == 1


def test_what_torch_draws_all_the_same():
    """One probability each, or numbers that a dtype may not hold."""
    with intercept(seed=0) as intercepted:
        each, narrow = parameter(6, 4), parameter(6, 4, dtype=torch.float16)
        each.data.bernoulli_(torch.full((6, 4), 0.5))
        narrow.data.log_normal_(0.0, 2.0)
    assert len(intercepted.passed_on) == 2
    assert narrow.min() > 0


class Decays(nn.Module):
    def __init__(self, device=None):
        super().__init__()
        self.decay = nn.Parameter(torch.empty(8, device=device))
        self.register_buffer("order", torch.empty(8, dtype=torch.int64, device=device))
        self.register_buffer("large", torch.empty(8, dtype=torch.int64, device=device))
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.decay.exponential_(2.0)
            self.order.random_(5)
            self.large.random_(2**40, 2**40 + 5)


def test_recorded():
    """As initializers, whose numbers are this library's, on the meta device and off it."""
    for device in ("meta", "cpu"):
        with ti.record() as own:
            model = Decays(device)
        rules = own.rules(model)
        ti.initialize_(model, rules, seed=3, device="cpu")
        key = Key(3).fold_in
        assert model.decay.equal(ti.Exponential(2.0)(nans(8), key=key("decay")))
        empty = torch.empty(8, dtype=torch.int64)
        assert model.order.equal(ti.RandInt(0, 5)(empty.clone(), key=key("order")))
        assert model.large.equal(ti.RandInt(2**40, 2**40 + 5)(empty, key=key("large")))
        again = Decays()
        ti.initialize_(again, ti.RuleSet.from_json(rules.to_json()), seed=3)
        assert all(
            a.equal(b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_a_model_s_own_code():
    model, other = Decays(), Decays()
    report = ti.initialize_(model, [ti.Rule("*", ti.OWN_CODE[0].initializers)], seed=3)
    ti.initialize_(other, [ti.Rule("*", ti.OWN_CODE[0].initializers)], seed=3)
    assert model.decay.equal(other.decay)
    assert "Exponential" in str(report)
    assert model.decay.equal(ti.Exponential(2.0)(nans(8), key=Key(3).fold_in("decay")))


def test_recorded_integers_that_are_worked_with():
    def build(module):
        module.register_buffer("shifted", torch.empty(8, dtype=torch.int64).random_(2**40, 2**40 + 5) % 7)

    with ti.record() as own, torch.device("meta"):
        module = nn.Module()
        build(module)
    rules = own.rules(module)
    ti.initialize_(module, rules, seed=1, device="cpu")
    drawn = ti.RandInt(2**40, 2**40 + 5)(torch.empty(8, dtype=torch.int64), key=Key(1).fold_in("shifted"))
    assert module.shifted.equal(drawn % 7)


def test_sharded_parameters():
    """Each rank's part of what one process has."""
    from torch.distributed.tensor import Shard, distribute_tensor

    from tests.distributed.ranks import expected, meshes, numbered

    whole = parameter(10, 6)
    with intercept(seed=0):
        whole.data.exponential_()
    assert whole.equal(ti.exponential_(nans(10, 6), key=DRAWS.fold_in(0)))
    for placements in ([Shard(0)], [Shard(1)]):
        for mesh in meshes(3):
            part = nn.Parameter(distribute_tensor(torch.empty(10, 6), mesh, placements, src_data_rank=None))
            numbers = distribute_tensor(numbered(10, 6), mesh, placements, src_data_rank=None).to_local()
            with intercept(seed=0) as intercepted, torch.no_grad():
                part.exponential_()
            assert not intercepted.passed_on
            assert part.to_local().equal(expected(whole.detach(), numbers))
