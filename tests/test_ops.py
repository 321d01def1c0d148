"""Fills where torch traces: torch.compile, export, fake tensors, make_fx, functionalize, vmap.

What a graph writes is what eager mode writes, bit for bit; without a key each run draws anew, as eager mode
does after the same ``torch.manual_seed``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

import tritoninit as ti
from tritoninit import ops, traced

KEY = ti.Key(3).fold_in("w")
NORMAL, KAIMING = ti.Normal(0.0, 0.02), ti.KaimingNormal(nonlinearity="relu")
STACKED = ti.Stacked((ti.Normal(0.0, 0.1), ti.Orthogonal()))

Call = Callable[[Tensor], Tensor]
CALLS: dict[str, Call] = {
    "uniform": lambda w: ti.uniform_(w, -1.0, 2.0),
    "uniform of a key": lambda w: ti.uniform_(w, -1.0, 2.0, key=KEY),
    "normal": lambda w: ti.normal_(w),
    "normal of integers": lambda w: ti.normal_(w, 0, 2, key=KEY),
    "trunc_normal": lambda w: ti.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    "constant": lambda w: ti.constant_(w, 3),
    "ones": lambda w: ti.ones_(w),
    "zeros": lambda w: ti.zeros_(w),
    "eye": lambda w: ti.eye_(w),
    "dirac": lambda w: ti.dirac_(w.view(6, 4, 2)).view(6, 8),
    "xavier_uniform": lambda w: ti.xavier_uniform_(w),
    "xavier_normal": lambda w: ti.xavier_normal_(w, 2.0, key=KEY),
    "kaiming_uniform": lambda w: ti.kaiming_uniform_(w, 5**0.5),
    "kaiming_normal": lambda w: ti.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    "orthogonal": lambda w: ti.orthogonal_(w, key=KEY),
    "sparse": lambda w: ti.sparse_(w, 0.3),
    "exponential": lambda w: ti.exponential_(w),
    "log_normal": lambda w: ti.log_normal_(w, 0.0, 0.1),
    "cauchy": lambda w: ti.cauchy_(w),
    "geometric": lambda w: ti.geometric_(w, 0.5),
    "bernoulli": lambda w: ti.bernoulli_(w),
    "randint": lambda w: ti.randint_(w, 0, 9),
    "random": lambda w: ti.random_(w, 5, None, key=KEY),
    "permutation": lambda w: ti.permutation_(w),
    "folded key": lambda w: ti.normal_(w, key=ti.Key(7).fold_in("a.b").fold_in(3)),
    "split key": lambda w: ti.normal_(w, key=KEY.split(3)[1]),
    "largest key": lambda w: ti.normal_(w, key=ti.Key(2**64 - 1)),
    "window": lambda w: ti.normal_(w, key=KEY, window=ti.Window((12, 12), (3, 4))),
    "view": lambda w: (ti.normal_(w[1:3, ::2], key=KEY), w)[1],
    "transposed": lambda w: (ti.uniform_(w.t(), key=KEY), w)[1],
    "fresh": lambda w: ti.normal_(torch.empty(6, 8), key=KEY) + w,
    "initializer": lambda w: NORMAL(w, key=KEY),
    "initializer by fans": lambda w: KAIMING(w),
    "combinator": lambda w: STACKED(w, key=KEY),
    "made within": lambda w: ti.Normal(0.0, 0.5)(w, key=KEY),
    "float64": lambda w: ti.trunc_normal_(w.double(), key=KEY).sub(1.0 / 3).float(),
    "complex": lambda w: torch.view_as_real(ti.normal_(w.to(torch.complex64), key=KEY)).sum(-1),
    "8 bits": lambda w: ti.normal_(w.to(torch.float8_e4m3fn), key=KEY).float(),
    "16 bits": lambda w: ti.uniform_(w.bfloat16(), key=KEY).float(),
    "rounded at random": lambda w: ti.normal_(w.bfloat16(), key=KEY, rounding="stochastic").float(),
    "scalar": lambda w: ti.normal_(w.sum(), key=KEY),
    "old spelling": lambda w: ti.normal(w, key=KEY),
}
FEW = (
    "uniform",
    "eye",
    "kaiming_uniform",
    "orthogonal",
    "sparse",
    "permutation",
    "view",
    "combinator",
    "window",
)
few = pytest.mark.parametrize("name", FEW)
quiet = pytest.mark.filterwarnings("ignore:.*deprecated in favor:FutureWarning")
# Of torch's own, while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*lru_cache:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def zeros() -> Tensor:
    return torch.zeros(6, 8)


def seeded(function: Callable[..., Any], *args: Any, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return function(*args)


def compiled(function: Callable[..., Any], backend: str = "aot_eager", **options: Any) -> Callable[..., Any]:
    result: Callable[..., Any] = torch.compile(function, backend=backend, fullgraph=True, **options)
    return result


@quiet
def test_all_in_one_graph() -> None:
    def fill_all(w: Tensor) -> list[Tensor]:
        return [call(w.clone()) for call in CALLS.values()]

    graph = compiled(fill_all, "eager")
    for seed in (1, 2):
        expected, found = seeded(fill_all, zeros(), seed=seed), seeded(graph, zeros(), seed=seed)
        for name, one, other in zip(CALLS, expected, found, strict=True):
            assert torch.equal(one, other), name


@pytest.mark.parametrize("name", ["uniform", "kaiming_normal", "view", "combinator", "permutation"])
def test_inputs_are_changed(name: str) -> None:
    one, other = zeros(), zeros()
    seeded(CALLS[name], one)
    seeded(compiled(CALLS[name]), other)
    assert one.any()
    assert torch.equal(one, other)


@pytest.mark.parametrize("function", [ti.normal_, ti.kaiming_uniform_, ti.permutation_, NORMAL])
def test_a_function_itself(function: Call) -> None:
    assert torch.equal(seeded(function, zeros()), seeded(compiled(function, "eager"), zeros()))


def test_shapes_that_vary() -> None:
    graph = compiled(lambda w: ti.kaiming_uniform_(w, key=KEY), dynamic=True)
    for shape in ((3, 5), (7, 2), (16, 31)):
        assert torch.equal(graph(torch.zeros(shape)), ti.kaiming_uniform_(torch.zeros(shape), key=KEY))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_empty_tensors_draw_what_they_draw_in_eager_mode() -> None:
    def fill_all(rows: Tensor, columns: Tensor) -> Tensor:
        for w in (rows, columns):
            ti.kaiming_uniform_(w)
            ti.kaiming_normal_(w, window=ti.Window((4, 4), (0, 0)))
            ti.normal_(w)
        return ti.uniform_(torch.empty(3))

    given = torch.zeros(0, 4), torch.zeros(4, 0)
    assert torch.equal(seeded(compiled(fill_all), *given), seeded(fill_all, *given))


def test_numbers_that_vary() -> None:
    def fill(w: Tensor, std: float, step: int, name: str) -> Tensor:
        return ti.normal_(w, 0.0, std, key=ti.Key(5).fold_in(step).fold_in(name))

    graph = compiled(fill, "eager")
    for step, name in ((0, "a"), (1, "a"), (2, "b"), (-7, "")):
        assert torch.equal(
            graph(zeros(), 0.1 + step**2, step, name), fill(zeros(), 0.1 + step**2, step, name)
        )


def test_seeds_that_vary() -> None:
    def fill(w: Tensor, seed: int) -> Tensor:
        return ti.normal_(w, key=ti.Key(seed))

    graph = compiled(fill, "eager")
    for seed in (0, 1, 2**40, 2**63 - 1, -5):
        assert torch.equal(graph(zeros(), seed), fill(zeros(), seed))


def test_a_module_whose_weights_are_set() -> None:
    class Layer(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            ti.kaiming_uniform_(self.weight, key=KEY)
            ti.zeros_(self.bias)
            return super().forward(x)

    layer = Layer(3, 4)
    compiled(layer)(torch.ones(2, 3)).sum().backward()
    assert torch.equal(layer.weight, ti.kaiming_uniform_(torch.empty(4, 3), key=KEY))
    assert torch.equal(layer.weight.grad, torch.full((4, 3), 2.0))


def noisy(w: Tensor) -> Tensor:
    """Two draws from equal memory, which are not to be taken for one, used last first."""
    one, other = ti.normal_(torch.zeros(4)), ti.normal_(torch.zeros(4))
    return ((other + 1).sin() * w + (one * w).cos()).sum()


def noisy_again(w: Tensor) -> Tensor:
    """What is computed anew for the gradient, of the same numbers."""
    loss: Tensor = checkpoint(noisy, w, use_reentrant=False)
    return loss


@pytest.mark.parametrize(
    ("function", "backend"),
    [
        (noisy, "aot_eager"),
        (noisy_again, "aot_eager"),
        pytest.param(noisy_again, "inductor", marks=pytest.mark.slow),
        pytest.param(noisy, "inductor", marks=pytest.mark.slow),
    ],
)
def test_draws_are_told_apart_and_kept_for_the_gradient(function: Call, backend: str) -> None:
    one, other = (torch.ones(4, requires_grad=True) for _ in range(2))
    expected, found = seeded(function, one), seeded(compiled(function, backend), other)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(other.grad, one.grad)


@quiet
@pytest.mark.parametrize("name", CALLS)
def test_fake_tensors(name: str) -> None:
    with FakeTensorMode():
        found = CALLS[name](zeros())
    expected = CALLS[name](zeros())
    assert isinstance(found, FakeTensor)
    assert (found.shape, found.dtype, found.stride()) == (expected.shape, expected.dtype, expected.stride())


def test_fake_tensors_are_refused_what_others_are() -> None:
    with FakeTensorMode():
        with pytest.raises(ti.ParameterError, match="std"):
            ti.normal_(torch.empty(3), std=-1.0)
        with pytest.raises(TypeError, match="int32"):
            ti.normal_(torch.empty(3, dtype=torch.int32))
        with pytest.raises(ValueError, match="2 or more dimensions"):
            ti.orthogonal_(torch.empty(3))
        with pytest.raises(ValueError, match="does not lie inside"):
            ti.normal_(torch.empty(3), key=KEY, window=ti.Window((4,), (2,)))
        with pytest.raises(ti.TargetError, match="meta"):
            ti.normal_(torch.empty(3, device="meta"))


@few
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(name: str, mode: str) -> None:
    graph = make_fx(lambda w: CALLS[name](w), tracing_mode=mode)(zeros())
    assert "torch.ops.tritoninit" in graph.code
    for seed in (1, 2):
        assert torch.equal(seeded(graph, zeros(), seed=seed), seeded(CALLS[name], zeros(), seed=seed))


@few
def test_functionalize(name: str) -> None:
    function = torch.func.functionalize(lambda w: CALLS[name](w))
    x, expected = zeros(), seeded(CALLS[name], zeros())
    assert torch.equal(seeded(function, x), expected)
    graph = make_fx(function)(zeros())
    assert "tritoninit" in graph.code
    assert torch.equal(seeded(graph, zeros()), expected)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    class Noise(torch.nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [CALLS[name](x.clone()) for name in FEW]

    program = torch.export.export(Noise(), (zeros(),), strict=strict)
    for each in (program, program.run_decompositions()):
        for one, other in zip(seeded(Noise(), zeros()), seeded(each.module(), zeros()), strict=True):
            assert torch.equal(one, other)


def test_export_of_a_module_that_sets_its_own() -> None:
    class Layer(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            ti.kaiming_uniform_(self.weight, key=KEY)
            ti.uniform_(self.bias)
            return super().forward(x)

    layer, x = Layer(3, 4), torch.ones(2, 3)
    program = torch.export.export(layer, (x,))
    expected = seeded(layer, x)
    assert torch.equal(seeded(program.module(), x), expected)
    with torch.no_grad():  # which fills of torch's own need there, too
        assert torch.equal(seeded(program.run_decompositions().module(), x), expected)


@few
def test_vmap(name: str) -> None:
    call, batch, random = CALLS[name], torch.zeros(3, 6, 8), name != "eye"
    if random:
        with pytest.raises(RuntimeError, match="randomness is 'error'"):
            torch.vmap(call)(batch)
    same = torch.vmap(call, randomness="same")(batch.clone())
    assert torch.equal(same, torch.vmap(call, in_dims=1, randomness="same")(torch.zeros(6, 3, 8))) != (
        name in ("uniform", "kaiming_uniform", "sparse", "permutation")  # which draw anew
    )
    assert all(torch.equal(each, same[0]) for each in same)
    different = torch.vmap(call, randomness="different")(batch.clone())
    assert torch.equal(different[0], different[1]) != random


@pytest.mark.parametrize("initializer", [ti.Zeros(), ti.Eye(), ti.Scaled(ti.Eye(), 0.5), ti.Keep()], ids=str)
def test_vmap_of_what_takes_no_key(initializer: ti.Initializer) -> None:
    batch = torch.ones(3, 4, 4)
    assert torch.equal(torch.vmap(initializer)(batch.clone()), initializer(torch.ones(4, 4)).expand(3, 4, 4))
    assert torch.vmap(lambda x: initializer(torch.ones(4, 4)) + x)(batch).shape == batch.shape


def test_which_numbers_a_batch_has() -> None:
    def call(w: Tensor) -> Tensor:
        return ti.normal_(w, key=KEY)

    def fill(key: ti.Key) -> Tensor:
        return ti.normal_(torch.zeros(5), key=key)

    different = torch.vmap(call, randomness="different")
    assert torch.equal(torch.vmap(call, randomness="same")(torch.zeros(2, 5)), fill(KEY).expand(2, 5))
    assert torch.equal(different(torch.zeros(2, 5)), torch.stack([fill(KEY.fold_in(i)) for i in range(2)]))
    inner_first = [torch.stack([fill(KEY.fold_in(i).fold_in(j)) for i in range(3)]) for j in range(2)]
    nested = torch.vmap(different, randomness="different")
    assert torch.equal(nested(torch.zeros(2, 3, 5)), torch.stack(inner_first))
    one_for_all = torch.vmap(different, randomness="same")
    assert torch.equal(one_for_all(torch.zeros(2, 3, 5))[1], different(torch.zeros(3, 5)))
    without = seeded(torch.vmap(lambda w: ti.normal_(w), randomness="different"), torch.zeros(2, 5))
    assert different(torch.zeros(2, 0)).shape == (2, 0)
    drawn = seeded(ti.Key.from_generator)
    assert torch.equal(without, torch.stack([fill(drawn.fold_in(i)) for i in range(2)]))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_within_what_is_compiled(randomness: str) -> None:
    def fill(x: Tensor) -> Tensor:
        return torch.vmap(lambda w: ti.normal_(w), randomness=randomness)(x)

    assert torch.equal(seeded(fill, torch.zeros(3, 5)), seeded(compiled(fill), torch.zeros(3, 5)))


def test_a_tensor_beside_the_batch() -> None:
    def fill(x: Tensor) -> Tensor:
        return ti.normal_(torch.zeros(2)) + x

    def fill_by_key(x: Tensor) -> Tensor:
        return ti.normal_(torch.zeros(2), key=KEY) + x

    batch = torch.zeros(3, 2)
    with pytest.raises(RuntimeError, match="unbatched"):
        torch.vmap(fill, randomness="different")(batch)
    with pytest.raises(RuntimeError, match="for a whole batch"):
        compiled(torch.vmap(fill, randomness="different"))(batch)
    found = torch.vmap(fill_by_key, randomness="different")(batch)
    assert torch.equal(found, ti.normal_(torch.zeros(2), key=KEY).expand(3, 2))


def test_gradients_through_transformations() -> None:
    def loss(x: Tensor) -> Tensor:
        return (ti.normal_(torch.empty_like(x), key=KEY) * x).sum()

    noise = ti.normal_(torch.empty(3), key=KEY)
    assert torch.equal(torch.func.grad(loss)(torch.ones(3)), noise)
    assert torch.equal(torch.func.jvp(loss, (torch.ones(3),), (torch.ones(3),))[1], noise.sum())


NUMBERS: dict[str, tuple[Any, ...]] = {
    "constant": (3.0,),
    "geometric": (0.5,),
    "initialize": ('{"Normal": {"mean": 0.0, "std": 0.5}}',),
    "randint": (0, 9),
    "sparse": (0.3,),
}


@pytest.mark.parametrize("name", [*ops.OPERATORS, "initialize"])
def test_opcheck(name: str) -> None:
    shape = (6, 4, 3) if name == "dirac" else (6, 8)
    window = {"global_shape": [2 * n for n in shape], "offsets": [1] * len(shape)}
    in_place, other = getattr(torch.ops.tritoninit, f"{name}_"), getattr(torch.ops.tritoninit, name)
    opcheck(in_place.default, (torch.zeros(shape), *NUMBERS.get(name, ())), {"key": [3, -5]})
    opcheck(
        other.default,
        (torch.zeros(shape, requires_grad=True), *NUMBERS.get(name, ())),
        {"key": [3, -5], **window},
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_operators_called_by_hand() -> None:
    operators = torch.ops.tritoninit
    w = zeros()
    operators.normal_(w, 0.0, 0.5, key=[3, -1])
    assert torch.equal(w, ti.normal_(zeros(), 0.0, 0.5, key=ti.Key(3, 2**64 - 1)))
    assert torch.equal(w, operators.normal(zeros(), 0.0, 0.5, key=[3, -1]))
    bits = seeded(operators.draw, torch.empty((), dtype=torch.int64))
    assert torch.equal(operators.uniform(zeros(), bits=bits), seeded(ti.uniform_, zeros()))
    assert torch.equal(seeded(operators.uniform, zeros()), seeded(ti.uniform_, zeros()))
    generator = torch.Generator().manual_seed(5)
    found = operators.uniform(zeros(), generator=generator)
    assert torch.equal(found, ti.uniform_(zeros(), generator=torch.Generator().manual_seed(5)))
    with pytest.raises(ValueError, match="one of them"):
        operators.uniform(zeros(), bits=bits, key=[0, 0])
    with pytest.raises(ValueError, match="both"):
        operators.uniform(zeros(), key=[0, 0], offsets=[0, 0])
    with pytest.raises(ValueError, match="its seed and its stream"):
        operators.uniform(zeros(), key=[0])
    for bits in (torch.tensor(1.5), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="one number of int64"):
            operators.uniform(zeros(), bits=bits)
    for batched in (-1, zeros().dim() + 1):
        with pytest.raises(ValueError, match="leading dimensions"):
            operators.uniform(zeros(), key=[0, 0], batched=batched)


@pytest.mark.parametrize("values", [torch.arange(48.0), torch.arange(48.0).bfloat16()], ids=["float", "half"])
def test_values_that_an_initializer_holds(values: Tensor) -> None:
    value = ti.Value(values.view(6, 8))
    with FakeTensorMode():
        assert isinstance(value(zeros()), FakeTensor)
    assert torch.equal(value(zeros()), value.values.float())
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(lambda w: value(w.clone()), tracing_mode=mode)(zeros())
        assert torch.equal(graph(zeros()), value.values.float())


def test_plain_tensors_go_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("eager mode needs no operator")

    monkeypatch.setattr(traced, "fill", refuse)
    for name in FEW:
        CALLS[name](zeros())
        CALLS[name](torch.nn.Parameter(zeros()).detach())


def test_what_cannot_be_compiled_says_so() -> None:
    layer = torch.nn.Linear(2, 3)
    prepared, generator = ti.prepare(layer), torch.Generator()
    cases: list[tuple[Callable[..., Any], str]] = [
        (lambda _: ti.initialize_(layer, seed=0), "initialize_ of tritoninit cannot be compiled"),
        (lambda _: prepared(0), "Prepared.__call__ of tritoninit cannot be compiled"),
        (lambda _: ti.ensemble(layer, [0, 1]), "ensemble of tritoninit cannot be compiled"),
        (lambda w: ti.normal_(w, key=ti.Key.from_generator()), "drawn_bits of tritoninit cannot be"),
        (lambda w: ti.normal_(w, generator=generator), "does not take a generator"),
        (lambda w: ti.normal_(w, std=-1.0), "normal needs std"),
        (ti.Value(torch.ones(6, 8)), "does not look at the values of a tensor"),
    ]
    for function, words in cases:
        torch.compiler.reset()
        with pytest.raises(Exception, match=words):
            compiled(function, "eager")(zeros())


def test_what_cannot_be_compiled_runs_beside_it() -> None:
    layer = torch.nn.Linear(2, 3)

    def call(x: Tensor) -> Tensor:
        ti.initialize_(layer, seed=5)
        return layer(x) + 1

    expected = call(torch.ones(1, 2))
    assert torch.equal(torch.compile(call, backend="eager")(torch.ones(1, 2)), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_on_a_gpu(backend: str) -> None:
    names = ("uniform", "normal", "trunc_normal", "kaiming_uniform", "sparse", "permutation", "combinator")

    def fill(w: Tensor) -> list[Tensor]:
        return [CALLS[name](w.clone()) for name in names]

    there = zeros().cuda()
    for options in ({}, {"mode": "reduce-overhead"}) if backend == "inductor" else ({},):
        graph = torch.compile(fill, backend=backend, fullgraph=True, **options)
        for seed in (1, 2, 3):
            expected = seeded(fill, there, seed=seed)
            for one, other in zip(expected, seeded(graph, there, seed=seed), strict=True):
                assert torch.equal(one, other)
                assert other.is_cuda
    batch = torch.vmap(lambda w: ti.normal_(w, key=KEY), randomness="different")(torch.zeros(3, 5).cuda())
    assert torch.equal(batch[2].cpu(), ti.normal_(torch.zeros(5), key=KEY.fold_in(2)))
