"""What a process loads before its first values: of the library itself, and of what it is built on."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tritoninit as ti
from tritoninit import registry
from tritoninit._names import FOLDERS, HOMES

INIT = ast.parse(Path(ti.__file__).read_text())
MODULES = {"distributed", "presets", "registry", "schemes"}  # which are public themselves


# Each case in a child of a process that has imported torch, which takes longer than all that they do.
FORKS = """
import contextlib, io, json, os, sys, traceback
import torch

for name, code in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        printed, error = io.StringIO(), ""
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, {"__name__": "__main__"})
            except BaseException:
                error = traceback.format_exc()
        print(json.dumps([name, printed.getvalue(), error]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def run(cases: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What programs print, and how they fail, each in a process that has imported nothing but torch."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITONINIT_BACKEND"}
    environment["PYTHONPATH"] = str(Path(ti.__file__).parents[1])
    command = [sys.executable, "-c", FORKS, json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (printed, error) for name, printed, error in found}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str, str]]:
    return run(CASES)


def test_names_are_where_type_checkers_are_told() -> None:
    (block,) = [each for each in INIT.body if isinstance(each, ast.If)]
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name, home in told.items() if home == "tritoninit"} == MODULES
    assert told == HOMES | dict.fromkeys(MODULES, "tritoninit")
    assert sorted(ti.__all__) == sorted([*told, "__version__"])


def test_no_name_is_a_module() -> None:
    """Whose import would put it in the name's place."""
    assert not [name for name in HOMES if Path(ti.__file__).with_name(f"{name}.py").exists()]


def test_a_name_is_the_one_of_its_module() -> None:
    for name, home in HOMES.items():
        assert getattr(ti, name) is getattr(importlib.import_module(home), name) is vars(ti)[name], name
    assert set(ti.__all__) <= set(dir(ti))


def test_what_is_not_there() -> None:
    for module in (ti, ti.kernels, ti.models):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
            _ = module.nothing
        assert not hasattr(module, "__wrapped__")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from tritoninit import nothing")


# Beyond torch: nothing of others, and of ours what has to be there at once.
AT_ONCE = {
    "tritoninit",
    "tritoninit._start",  # interrupts of the command line
    "tritoninit._on_import",  # what is taken as it is on import
    "tritoninit._collector",
    "tritoninit._names",  # where the public names are
    "tritoninit._version",
    "tritoninit.ops",  # torch.ops.tritoninit
    "tritoninit.tracing",
    "tritoninit.tracing.operators",
    "tritoninit.tracing.private",
    *(f"tritoninit.{folder}" for folder in FOLDERS),  # their lists of contents
}


LOADS = "import sys; old = {*sys.modules}; import tritoninit; print(*{*sys.modules} - old)"


def test_an_import_loads_next_to_nothing_beyond_torch(outcomes: dict[str, tuple[str, str]]) -> None:
    printed, error = outcomes["loads"]
    assert not error
    assert {
        each for each in printed.split() if each.partition(".")[0] not in sys.stdlib_module_names
    } == AT_ONCE


LATE = """
import os, sys, torch
from unittest import mock
import tritoninit as ti

os.environ["TRITONINIT_BACKEND"] = "no such backend"
assert "normal_" in dir(ti)
assert "tritoninit.functional" not in sys.modules
assert callable(torch.ops.tritoninit.normal_)
assert "tritoninit.operated" not in sys.modules
real = torch.nn.init.normal_
with mock.patch("torch.nn.init.normal_"):
    assert ti.kernels.rows and ti.models.slots and ti.auditing.records and ti.interception.taping
    from tritoninit import recorded
assert recorded._functions()["torch.nn.init.normal_"] is real

x = ti.normal_(torch.empty(7), key=ti.Key(0))
with ti.use_backend("numpy"):
    assert x.equal(ti.normal_(torch.empty(7), key=ti.Key(0)))
from tritoninit import *
assert normal_ is ti.functional.normal_
import pickle
assert pickle.loads(pickle.dumps([Normal(), normal_])) == [Normal(), normal_]
"""


def test_what_comes_late_is_as_if_it_had_come_at_once(outcomes: dict[str, tuple[str, str]]) -> None:
    """The environment and torch's functions are those of the import, whenever a name is first asked for."""
    assert outcomes["late"] == ("", "")


# In what of torch's a name may first be asked for.
MODES = {
    "fake": """
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    draw(torch.empty(9))
""",
    "meta": """
with torch.device("meta"), torch.inference_mode():
    draw(torch.empty(9, device="cpu"))
""",
    "functionalize": "torch.func.functionalize(draw)(torch.empty(9))",
    "vmap": "torch.func.vmap(draw, randomness='different')(torch.empty(3, 3))",
    "compile": "torch.compile(draw, backend='eager', fullgraph=True)(torch.empty(9))",
}
IN_A_MODE = """
import torch, tritoninit

def draw(x):
    return tritoninit.normal_(x)

{mode}
torch.manual_seed(5)
key = tritoninit.Key.from_generator()
torch.manual_seed(5)
assert draw(torch.empty(9)).equal(tritoninit.normal_(torch.empty(9), key=key))
torch.manual_seed(5)
assert key == tritoninit.Key.from_generator(torch.default_generator)
"""


@pytest.mark.parametrize("mode", sorted({*MODES} - {"compile"}))
def test_first_asked_for_where_torch_traces(mode: str, outcomes: dict[str, tuple[str, str]]) -> None:
    """What is imported there keeps nothing of the mode."""
    assert outcomes[mode] == ("", "")


@pytest.mark.slow  # imports torch's compiler
def test_first_asked_for_by_torch_compile() -> None:
    assert run({"compile": IN_A_MODE.format(mode=MODES["compile"])}) == {"compile": ("", "")}


# A first fill.

SMALL = """
import sys, torch, tritoninit as ti
ti.normal_(torch.empty(1 << 20), key=ti.Key(0))
ti.normal_(torch.empty(9).numpy(), key=ti.Key(0))
ti.sparse_(torch.empty(9, 9), 0.1)
ti.constant_(torch.empty(9), 2)
ti.uniform_(torch.empty(9, dtype=torch.complex64), rounding="stochastic")
ti.Normal()(torch.empty(9), window=ti.Window((18,), (9,)))
ti.Stacked((ti.Normal(), ti.Zeros()))(torch.empty(2, 9))
for fill in ti.eye_, ti.kaiming_uniform_, ti.log_normal_, ti.trunc_normal_, ti.zeros_:
    fill(torch.empty(9, 9))
assert not {"numba", "scipy", "llvmlite"} & {*sys.modules}
"""
LARGE = """
import sys, torch, tritoninit as ti
small = ti.normal_(torch.empty(4096), key=ti.Key(0))
large = ti.normal_(torch.empty(1 << 21), key=ti.Key(0))
print("numba" in sys.modules)
assert small.equal(large[:4096]) and small.equal(ti.normal_(torch.empty(4096), key=ti.Key(0)))
"""


def test_a_small_first_fill_imports_no_numba(outcomes: dict[str, tuple[str, str]]) -> None:
    assert outcomes["small"] == ("", "")


def test_a_large_one_does(outcomes: dict[str, tuple[str, str]]) -> None:
    pytest.importorskip("numba", exc_type=ImportError)
    assert outcomes["large"] == ("True\n", "")


CASES = {
    "loads": LOADS,
    "late": LATE,
    "small": SMALL,
    "large": LARGE,
    **{name: IN_A_MODE.format(mode=mode) for name, mode in MODES.items() if name != "compile"},
}


@pytest.fixture
def _nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has drawn nothing yet; numba may be there."""
    ti.registry.resolve("cpu")
    monkeypatch.setattr(ti.registry, "early", 1 << 21)


@pytest.mark.usefixtures("_nothing_asked")
class TestServing:
    def test_numpy_until_it_takes_too_long(self) -> None:
        x = torch.empty(1 << 20, dtype=torch.bfloat16)
        found = [registry.serving(x).name for _ in range(3)]
        assert found == ["numpy", *[registry.resolve("cpu").name] * 2]

    def test_many_small_ones(self) -> None:
        found = [registry.serving(torch.empty(1)).name for _ in range(300)]
        assert found[:200] == ["numpy"] * 200
        assert found[-1] == registry.resolve("cpu").name

    def test_a_large_one_ends_it(self) -> None:
        preferred = registry.resolve("cpu").name
        assert registry.serving(torch.empty(1 << 21)).name == preferred
        assert registry.serving(torch.empty(1)).name == preferred

    def test_numba_is_there_already(self) -> None:
        registry._numba_unavailable.cache_clear()
        registry.backends()
        assert registry.serving(torch.empty(1)).name == registry.resolve("cpu").name

    def test_asked_for(self) -> None:
        with registry.use_backend("triton"), pytest.raises(RuntimeError, match="'triton' cannot serve"):
            registry.serving(torch.empty(1))

    def test_other_devices(self) -> None:
        with pytest.warns(RuntimeWarning, match="meta tensors are filled by"):
            found = registry.serving(torch.empty(1, device="meta"))
        assert found is registry.resolve("cpu")
