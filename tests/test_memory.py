"""What has no memory of its own, or too little: an error by name, whoever is asked to write or to read it.

A failure here may well end the process: none of these may be written.
"""

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.memory_cases import SHORT, WITHOUT, Wrapper, fake, freed
from tritoninit import Constant, Keep, Key, Normal, Orthogonal, Rule, TargetError, audit, initialize_
from tritoninit.plan import Plan
from tritoninit.targets import as_target

KEY = Key(5)
ALL = WITHOUT | SHORT

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support is in beta state",
    "ignore:The PyTorch API of nested tensors is in prototype stage",
    "ignore:.*quantize",
)


def everything(x):
    """(What it is, what does it) of all ways to write."""
    model = nn.Module()
    yield "the target", lambda: as_target(x)
    for initializer in (Normal(), Constant(1.0), Orthogonal()):
        yield repr(initializer), lambda each=initializer: each(x, key=KEY)
    yield "a function", lambda: ti.normal_(x)
    yield "a constant's", lambda: ti.zeros_(x)
    yield "a plan", lambda: Plan().add(x, Normal(), KEY)
    if isinstance(x, nn.Parameter):
        model.weight = x
    else:
        model.register_buffer("weight", x)
    rules = [Rule(nn.Module, {"weight": Constant(1.0)})]
    yield "a model", lambda: initialize_(model, rules, seed=0)
    yield "a model that moves", lambda: initialize_(model, rules, seed=0, device="cpu", dtype=torch.bfloat16)


# By operators, which write nothing then: tests/test_ops.py.
SET_BY_OPERATORS = {"fake", "fake view", "fake, of another device", "fake, by swapping"}


@pytest.mark.parametrize("name", ALL)
def test_is_not_written(name):
    x = ALL[name]()
    state = torch.get_rng_state()
    for way, write in everything(x):
        if name == "meta" and way == "a model that moves":
            continue  # it gets its memory then
        if name in SET_BY_OPERATORS and way not in ("the target", "a plan", "a model", "a model that moves"):
            write()
            continue
        with pytest.raises(TargetError):
            write()
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name", ALL)
def test_is_not_read(name):
    x = ALL[name]()
    with pytest.raises(TargetError):
        ti.bits_hash(x)
    model = nn.Linear(2, 2)
    model.register_buffer("table", x)
    found = audit(model)
    assert [each for each in found.findings if each.startswith("table cannot be looked at")]
    assert "weight" in str(found)


@pytest.mark.parametrize("name", SHORT)
def test_torch_gets_no_chance_to_write_beyond_it(name):
    x = SHORT[name]()
    with ti.intercept(seed=0):
        for call in (nn.init.normal_, nn.init.zeros_):
            with pytest.raises(TargetError, match="memory ends before its elements do"):
                call(x)


@pytest.mark.parametrize("name", ["functionalised", "immutable zeros", "wrapper", "fake"])
def test_torch_serves_what_stands_for_other_tensors(name):
    with ti.intercept(seed=0) as intercepted:
        try:
            nn.init.zeros_(WITHOUT[name]())
        except RuntimeError as error:
            assert name == "immutable zeros", error  # noqa: PT017
    assert len(intercepted.passed_on) == 1


@pytest.mark.parametrize("transform", [torch.func.functionalize, torch.vmap, torch.func.grad])
@pytest.mark.parametrize("made_inside", [False, True])
def test_inside_of_transformations(transform, made_inside):
    errors = []

    def loss(x):
        if made_inside:
            x = x + torch.zeros(2, 2)
        with pytest.raises(TargetError, match="a transformation") as caught:
            Plan().add(x, Normal(), KEY)  # a fill alone is an operator then: tests/test_ops.py
        errors.append(caught.value)
        return x.sum()

    transform(loss)(torch.zeros(3, 2, 2))
    assert errors


@pytest.mark.parametrize("when", ["before", "after"])
def test_values_are_not_read_either(when):
    given, x = torch.ones(4, 4), torch.zeros(4, 4)
    if when == "before":
        freed(given)
    value = ti.Value(given)
    freed(given)
    with pytest.raises(TargetError, match="memory ends before"):
        value(x)
    assert not x.any()


def test_empty_ones_need_no_memory():
    for x in (freed(torch.zeros(0, 4)), freed(torch.zeros(4, 4))[:0], torch.zeros(3)[3:]):
        assert ti.normal_(x) is x
        assert ti.bits_hash(x) == 0


def test_memory_that_is_just_enough():
    x = freed(torch.zeros(8, 8)[2:4, 1:3], (3 * 8 + 3) * 4)
    assert ti.normal_(x, key=KEY).equal(ti.normal_(torch.empty(2, 2), key=KEY))


def test_subclasses_with_memory_of_their_own_are_filled():
    class Own(torch.Tensor):
        pass

    class Watched(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise AssertionError("written without torch")

    for kind in (Own, Watched):
        plain = torch.zeros(4, 4)
        ti.normal_(torch.Tensor._make_subclass(kind, plain), key=KEY)
        assert plain.equal(ti.normal_(torch.empty(4, 4), key=KEY))


class TestModels:
    def both(self, weight):
        model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        model["b"].weight = weight
        return model

    @pytest.mark.parametrize("keywords", [{}, {"device": "cpu"}, {"dtype": torch.bfloat16}])
    @pytest.mark.parametrize(
        "make", [lambda: fake(), lambda: fake("meta"), lambda: Wrapper(torch.zeros(4, 4)), SHORT["freed"]]
    )
    def test_by_name_and_before_anything_is_written(self, make, keywords):
        model = self.both(nn.Parameter(make()))
        before = {name: x.detach().clone() for name, x in model["a"].named_parameters()}
        with pytest.raises(ValueError, match=r"^b\.weight: "):
            initialize_(model, seed=0, **keywords)
        for name, x in model["a"].named_parameters():
            assert x.dtype == torch.float32
            assert x.equal(before[name])

    @pytest.mark.parametrize(
        "keywords", [{"dtype": torch.bfloat16}, {"device": "cpu", "dtype": torch.float16}]
    )
    @pytest.mark.parametrize("how", ["skip", "keep", "buffer"])
    def test_what_is_kept_would_be_copied(self, how, keywords):
        model = self.both(nn.Parameter(torch.zeros(1024, 1024)))
        model.register_buffer("table", torch.zeros(1024, 1024))
        freed(model.table if how == "buffer" else model["b"].weight)
        rules = [Rule("b.weight", Keep()), Rule("*", Normal())]
        with pytest.raises(TargetError, match="memory ends before"):
            initialize_(model, rules, seed=0, skip="b.weight" if how == "skip" else (), **keywords)
        assert model["a"].weight.dtype == torch.float32
        initialize_(model, rules, seed=0)  # nothing reads it then

    def test_what_a_weight_is_computed_from(self):
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)))
        freed(model[0].parametrizations.weight.original1)
        for call in (initialize_, audit):
            with pytest.raises(TargetError, match=r"^0\.weight: .*memory ends before"):
                call(model)


@pytest.fixture
def mesh():
    """Of two ranks, of which one is here, and does nothing together with the other."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.testing._internal.distributed.fake_pg import FakeStore

    init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield torch.distributed.init_device_mesh("cpu", (2,))
    destroy_process_group()


class TestDTensors:
    @pytest.mark.parametrize("grad", [True, False])
    def test_their_local_parts_are_filled(self, mesh, grad):
        from torch.distributed.tensor import Shard, distribute_tensor

        shared = nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)]))
        with torch.set_grad_enabled(grad):
            ti.normal_(shared.to_local(), key=KEY, window=ti.Window((4, 4), (0, 0)))
        assert shared._local_tensor.equal(ti.normal_(torch.empty(4, 4), key=KEY)[:2])
        assert ti.bits_hash(shared.to_local()) != ti.bits_hash(torch.zeros(2, 4))

    @pytest.mark.parametrize("use_orig_params", [True, False])
    @pytest.mark.filterwarnings("ignore", "error::UserWarning:tritoninit")
    def test_fsdp1(self, mesh, use_orig_params):
        from torch.distributed.fsdp import FullyShardedDataParallel

        inner = FullyShardedDataParallel(
            nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=use_orig_params
        )
        model = nn.Sequential(nn.Linear(4, 4), inner)
        for rules in ([Rule("*", Normal())], [Rule("*", Constant(1.0))]):
            report = initialize_(model, rules, seed=0)
            assert [each.name for each in report] == ["0.weight", "0.bias", "1.weight", "1.bias"]
        held = inner._handle.flat_param  # ten of twenty elements, all of the weight's
        assert (held == 1).all()
        initialize_(model, [Rule("*", Normal())], seed=0)
        weight = ti.normal_(torch.empty(4, 4), key=ti.Key(0).fold_in("1.weight"))
        assert held.equal(weight.flatten()[:10])
        with FullyShardedDataParallel.summon_full_params(model):
            report = initialize_(model, rules, seed=0)
        assert [each.name for each in report if each.backend] == ["0.weight", "0.bias", "1.weight", "1.bias"]
        report = initialize_(model, [Rule("1.*", Keep()), Rule("*", Normal())], seed=0)
        assert [each.name for each in report if each.backend] == ["0.weight", "0.bias"]
