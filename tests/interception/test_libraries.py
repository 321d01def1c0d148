"""Initializers of timm and transformers: known by name, served as what they mean, whenever loaded."""

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.interception.cases import key, nans, parameter
from tritoninit import Normal, TruncatedNormal, VarianceScaling
from tritoninit.interception.entry import intercept
from tritoninit.interception.libraries import LIBRARIES
from tritoninit.structured import Orthogonal

# Functions of the same names and arguments, by the same steps in the tensor's dtype.
STAND_IN = """
import math
import torch


def _cut(tensor, low, high):
    cdf = [math.erf(x / math.sqrt(2)) for x in (low, high)]
    return tensor.uniform_(*cdf).erfinv_().mul_(math.sqrt(2)).clamp_(low, high)


def trunc_normal_(tensor, mean=0., std=1., a=-2., b=2.):
    with torch.no_grad():
        _cut(tensor, (a - mean) / std, (b - mean) / std)
        return tensor.mul_(std).add_(mean).clamp_(a, b)


def trunc_normal_tf_(tensor, mean=0., std=1., a=-2., b=2.):
    with torch.no_grad():
        return _cut(tensor, a, b).mul_(std).add_(mean)


def variance_scaling_(tensor, scale=1.0, mode='fan_in', distribution='normal'):
    trunc_normal_tf_(tensor)


def lecun_normal_(tensor):
    variance_scaling_(tensor)
"""
NAME = "timm.layers.weight_init"


def is_there():
    """Whether the library itself is installed: its file is loaded alone, since the rest needs torchvision."""
    found = importlib.util.find_spec("timm")
    return found is not None and Path(found.origin).with_name("layers").is_dir()


@pytest.fixture(params=["stand-in", "itself"])
def folder(request, tmp_path):
    """Where the package lies."""
    if request.param == "itself":
        if not is_there():
            pytest.skip("timm is not installed")
        return Path(importlib.util.find_spec("timm").origin).parent
    (tmp_path / "timm" / "layers").mkdir(parents=True)
    (tmp_path / "timm" / "layers" / "weight_init.py").write_text(STAND_IN)
    return tmp_path / "timm"


@pytest.fixture
def importable(folder, monkeypatch):
    """The package without what its __init__ files import."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    for name, path in (("timm", folder), ("timm.layers", folder / "layers")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture
def timm(importable):
    return importlib.import_module(NAME)


CASES = {
    "trunc_normal_": [
        ((), TruncatedNormal()),
        ((0.0, 0.02), TruncatedNormal(0.0, 0.02)),
        ((0.1, 0.5, -0.3, 0.7), TruncatedNormal(0.1, 0.5, -0.3, 0.7)),
    ],
    "trunc_normal_tf_": [
        ((), TruncatedNormal()),
        ((0.5, 0.02), TruncatedNormal(0.5, 0.02, 0.46, 0.54)),
        ((0.0, 0.5, -1.0, 3.0), TruncatedNormal(0.0, 0.5, -0.5, 1.5)),
    ],
    "variance_scaling_": [
        ((), VarianceScaling(1.0, "fan_in", "normal")),
        ((2.0, "fan_out", "uniform"), VarianceScaling(2.0, "fan_out", "uniform")),
        ((0.5, "fan_avg", "truncated_normal"), VarianceScaling(0.5, "fan_avg", "truncated_normal")),
    ],
    "lecun_normal_": [((), VarianceScaling(1.0, "fan_in", "truncated_normal"))],
}
cases = pytest.mark.parametrize(
    ("name", "arguments", "meant"),
    [(name, *case) for name, listed in CASES.items() for case in listed],
)


class TestTimm:
    def test_the_table_is_covered(self):
        assert {NAME: set(CASES)} == {library: set(found) for library, found in LIBRARIES.items()}

    @cases
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_served_as_what_it_means(self, timm, name, arguments, meant, dtype):
        function = getattr(timm, name)
        named = inspect.signature(function).bind(None, *arguments).arguments
        del named["tensor"]
        weights = [parameter(6, 4, dtype=dtype) for _ in range(2)]
        with intercept(seed=0) as intercepted:
            before = torch.get_rng_state()
            returned = function(weights[0], *arguments), function(tensor=weights[1], **named)
            assert intercepted.pending == 2
            assert torch.get_rng_state().equal(before)
        expected = weights if function(nans(6, 4), *arguments) is not None else [None, None]
        assert all(a is b for a, b in zip(returned, expected, strict=True))
        for number, each in enumerate(intercepted.assignments(nn.ParameterList(weights))):
            assert each.initializer == meant
            assert each.tensor.equal(meant(nans(6, 4, dtype=dtype), key=key(number)))
        assert not intercepted.passed_on

    def test_no_mass_at_the_bounds(self, timm):
        """Of numbers in bfloat16, where erfinv_ of what rounds to 1 is infinite."""
        with intercept(seed=0):
            weight = timm.trunc_normal_(parameter(400, 500, dtype=torch.bfloat16), std=0.02)
        assert weight.abs().max() < 0.2

    def test_its_own_again_afterwards(self, timm):
        code = timm.trunc_normal_.__code__
        with intercept(seed=0):
            assert timm.trunc_normal_.__code__ is not code
        assert timm.trunc_normal_.__code__ is code
        torch.manual_seed(0)
        first = timm.trunc_normal_(torch.empty(9))
        torch.manual_seed(0)
        assert first.equal(timm.trunc_normal_(torch.empty(9)))

    def test_loaded_in_the_block(self, importable):
        """And called before anything else is seen of torch."""
        weight = parameter(6, 4)
        with intercept(seed=0) as intercepted:
            module = importlib.import_module(NAME)
            module.trunc_normal_(weight, std=0.5)
        assert weight.equal(TruncatedNormal(0.0, 0.5)(nans(6, 4), key=key(0)))
        assert len(intercepted.assignments(nn.ParameterList([weight]))) == 1
        assert not any(type(finder).__module__.startswith("tritoninit") for finder in sys.meta_path)
        assert type(module.__loader__).__module__ == type(module.__spec__.loader).__module__
        assert not type(module.__loader__).__module__.startswith("tritoninit")

    @pytest.mark.parametrize("make", [lambda: nans(6, 4), lambda: nans(0, 4)])
    @pytest.mark.filterwarnings("ignore:mean is more than 2 std")
    def test_what_is_not_served_is_its_own(self, timm, make):
        with intercept(seed=0) as intercepted:
            torch.manual_seed(0)
            got = timm.trunc_normal_(make(), 0.0, 0.5, 3.5, 4.0)
        torch.manual_seed(0)
        assert got.equal(timm.trunc_normal_(make(), 0.0, 0.5, 3.5, 4.0))
        assert [each.function for each in intercepted.passed_on] == [f"{NAME}.trunc_normal_"] * (len(got) > 0)

    @pytest.mark.parametrize(
        "call",
        [
            lambda timm: timm.trunc_normal_(nans(3), std=0.0),
            lambda timm: timm.trunc_normal_(nans(3), sigma=1.0),
            lambda timm: timm.trunc_normal_(),
        ],
    )
    def test_its_errors(self, timm, call):
        with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever it raises
            call(timm)
        with intercept(seed=0), pytest.raises(type(expected.value)) as raised:
            call(timm)
        assert str(raised.value) == str(expected.value)

    def test_functions_that_take_more(self, importable, monkeypatch):
        """Than this library knows of: they stay as they are, and so do those that are no functions."""
        other = types.ModuleType(NAME)
        exec("def trunc_normal_(tensor, other=None):\n    return tensor\nlecun_normal_ = 3", vars(other))
        monkeypatch.setitem(sys.modules, NAME, other)
        code = other.trunc_normal_.__code__
        with intercept(seed=0):
            assert other.trunc_normal_.__code__ is code

    def test_far_mean_warns(self, timm):
        with intercept(seed=0), pytest.warns(UserWarning, match="mean is more than 2 std") as caught:
            timm.trunc_normal_(parameter(8), 0.0, 1.0, 2.5, 4.0)
        assert [each.filename for each in caught] == [__file__]

    def test_a_library_that_fails_to_load(self, tmp_path, importable):
        """Fails as it does outside."""
        (tmp_path / "weight_init.py").write_text("raise ImportError('mine')")
        sys.modules["timm.layers"].__path__ = [str(tmp_path)]
        with intercept(seed=0), pytest.raises(ImportError, match="mine"):
            importlib.import_module(NAME)
        assert NAME not in sys.modules


@pytest.fixture(scope="module")
def initialization():
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return pytest.importorskip("transformers.initialization")


class TestTransformers:
    def functions(self, initialization):
        own = {
            name: function
            for name, function in vars(initialization).items()
            if name.endswith("_")
            and inspect.isfunction(function)
            and function.__module__ == initialization.__name__
        }
        return {name: function for name, function in own.items() if name != "copy_"}

    def call(self, name, function, tensor):
        further = {"constant_": (0.5,), "sparse_": (0.5,)}
        return function(tensor, *further.get(name, ()))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_all_are_served(self, initialization, dtype):
        """By way of torch.nn.init's, which they call; orthogonal_ by way of a copy."""
        functions = self.functions(initialization)
        assert {"trunc_normal_", "kaiming_uniform_", "orthogonal_"} <= set(functions)
        shapes = {name: (6, 4, 3) if name == "dirac_" else (6, 4) for name in functions}
        model = nn.ParameterDict({name: parameter(*shapes[name], dtype=dtype) for name in functions})
        with intercept(seed=0) as intercepted:
            before = torch.get_rng_state()
            for name, function in functions.items():
                assert self.call(name, function, model[name]) is model[name]
            assert torch.get_rng_state().equal(before)
        assert not intercepted.passed_on
        told = {each.name: each for each in intercepted.assignments(model)}
        assert set(told) == set(functions)
        for each in told.values():
            keyed = {"key": each.key} if each.key else {}
            assert each.tensor.equal(each.initializer(torch.zeros_like(each.tensor.detach()), **keyed))
        expected = {
            "lecun_normal_": TruncatedNormal(0.0, 0.5 / 0.87962566103423978),
            "default_flax_embed_init_": Normal(0.0, 0.5),
            "orthogonal_": Orthogonal(),
        }
        for name in expected.keys() & functions.keys():  # transformers 5.0 has the last alone
            assert told[name].initializer == expected[name]

    def test_what_is_loaded_stays(self, initialization):
        weights = {name: nn.Parameter(torch.ones(6, 4, 3)) for name in self.functions(initialization)}
        with intercept(seed=0) as intercepted:
            for name, function in self.functions(initialization).items():
                weights[name]._is_hf_initialized = True
                self.call(name, function, weights[name])
            assert not intercepted.pending
        assert all(weight.equal(torch.ones(6, 4, 3)) for weight in weights.values())


def test_libraries_are_not_imported():
    """Nor looked for."""
    program = """
import sys, tritoninit, torch
with tritoninit.intercept(seed=0):
    torch.nn.Linear(2, 2)
assert not {"timm", "transformers"} & {name.partition(".")[0] for name in sys.modules}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
