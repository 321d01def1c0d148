"""The registry: who serves which device, the overrides, and the way round for devices that nobody serves."""

import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tritoninit
from tritoninit import (
    Backend,
    Key,
    Normal,
    Plan,
    Uniform,
    backends,
    fills,
    registry,
    use_backend,
)
from tritoninit.registry import get, register, resolve

KEY = Key(3)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """A copy of the registry, no override from outside, and no memory of warnings given before."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.delenv(registry.ENVIRONMENT_VARIABLE, raising=False)
    registry._warn_once.cache_clear()
    yield
    registry._warn_once.cache_clear()


def fake(name, devices, unavailable=None):
    """A backend that writes as NumPy does and counts what it wrote."""

    def write(items):
        written.extend(target.shape.numel() for target, _ in items)
        get("numpy").load()(items)

    written = []
    backend = Backend(name, frozenset(devices), lambda _: unavailable, lambda: write)
    return backend, written


class TestNames:
    def test_built_in(self):
        assert get("numpy").name == "numpy"
        assert get("triton").devices == {"cuda"}

    def test_unknown_name_lists_the_known(self):
        with pytest.raises(ValueError, match=r"unknown backend 'cudnn'; known are .*triton.*numpy"):
            get("cudnn")

    def test_duplicate_raises_and_changes_nothing(self):
        before = get("numpy")
        with pytest.raises(ValueError, match="'numpy' is registered already"):
            register(replace(before, devices=frozenset({"xpu"})))
        assert get("numpy") is before

    def test_first_registered_is_preferred(self):
        (one, _), (two, _) = fake("one", ["xpu"]), fake("two", ["xpu", "cpu"])
        register(one)
        register(two)
        assert resolve("xpu").name == "one"
        assert resolve("cpu").name != "two"

    def test_one_that_cannot_serve_here_is_passed_over(self):
        (one, _), (two, _) = fake("one", ["xpu"], "no driver"), fake("two", ["xpu"])
        register(one)
        register(two)
        assert resolve("xpu").name == "two"


class TestStatuses:
    def test_every_backend_with_its_reason(self):
        register(fake("one", ["xpu", "cpu"])[0])
        register(fake("two", ["xpu"], "no driver")[0])
        statuses = {status.name: status for status in backends()}
        assert list(statuses) == list(registry._REGISTRY)
        assert statuses["one"] == registry.Status("one", ("cpu", "xpu"), None)
        assert statuses["one"].available
        assert statuses["two"].unavailable == "no driver"
        assert not statuses["two"].available

    def test_numpy_is_available_everywhere(self):
        assert next(s for s in backends() if s.name == "numpy").available

    @pytest.mark.parametrize(
        ("ptxas", "capabilities", "hip", "refused"),
        [
            ("12.9", [(9, 0)], None, False),
            ("12.9", [(10, 0)], None, True),
            ("13.0", [(8, 0), (12, 0)], None, True),
            ("13.1", [(10, 0), (12, 1)], None, False),
            ("13.10", [(10, 0)], None, False),
            ("12.9", [(10, 0)], "6.4", False),
        ],
    )
    def test_an_assembler_that_would_give_other_bits(self, monkeypatch, ptxas, capabilities, hip, refused):
        """As ``tritoninit check --emulate sm_100,sm_120`` shows with Triton 3.6; other architectures pass."""
        triton = pytest.importorskip("triton")
        tools = SimpleNamespace(
            ptxas=SimpleNamespace(version="12.8"), ptxas_blackwell=SimpleNamespace(version=ptxas)
        )
        monkeypatch.setattr(triton.knobs, "nvidia", tools)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
        monkeypatch.setattr(registry, "_load_triton", lambda: lambda items: None)
        monkeypatch.setattr(torch, "empty", lambda *arguments, **options: None)
        found = registry._triton_unavailable.__wrapped__("cuda")
        assert (found is not None) == refused
        if refused:
            assert found.startswith(f"ptxas {ptxas} rounds a product")

    def test_triton_without_a_gpu_says_so(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(registry, "_triton_unavailable", registry._triton_unavailable.__wrapped__)
        register(replace(get("triton"), name="again", unavailable=registry._triton_unavailable))
        status = backends()[-1]
        assert status.unavailable == "torch finds no CUDA or ROCm device"
        assert "interpreter" in registry._triton_unavailable("cpu")
        assert "'mps'" in registry._triton_unavailable("mps")


class TestOverride:
    def test_context_nests_and_resets(self):
        default = resolve("cpu").name
        register(fake("one", ["cpu"])[0])
        with use_backend("one"):
            assert resolve("cpu").name == "one"
            with use_backend("numpy"):
                assert resolve("cpu").name == "numpy"
            assert resolve("cpu").name == "one"
        assert resolve("cpu").name == default

    def test_context_resets_after_an_error(self):
        default = resolve("cpu").name
        register(fake("one", ["cpu"])[0])
        with pytest.raises(ZeroDivisionError), use_backend("one"):
            _ = 1 / 0
        assert resolve("cpu").name == default

    def test_unknown_name_raises_on_entry(self):
        with pytest.raises(ValueError, match="unknown backend 'cudnn'"), use_backend("cudnn"):
            pytest.fail("the block ran")

    def test_other_threads_keep_their_own(self):
        default = resolve("cpu").name
        register(fake("one", ["cpu"])[0])
        seen = []
        with use_backend("one"):
            thread = threading.Thread(target=lambda: seen.append(resolve("cpu").name))
            thread.start()
            thread.join()
        assert seen == [default]

    def test_it_decides_who_writes(self):
        one, written = fake("one", ["cpu"])
        register(one)
        with use_backend("one"):
            drawn = Normal()(torch.empty(3, 5), key=KEY)
        assert written == [15]
        assert drawn.equal(Normal()(torch.empty(3, 5), key=KEY))
        assert written == [15]

    def test_a_plan_keeps_the_backend_it_was_added_under(self):
        one, written = fake("one", ["cpu"])
        register(one)
        plan = Plan()
        with use_backend("one"):
            plan.add(torch.empty(7), Uniform(), KEY)
        plan.run()
        assert written == [7]

    @pytest.mark.parametrize(
        ("value", "printed"),
        [
            ("numpy", "numpy"),
            ("", None),
            ("cudnn", "unknown backend 'cudnn'; known are triton, numba, numpy"),
        ],
    )
    def test_environment_variable(self, value, printed):
        """A process of its own, since the variable is read on import."""
        program = """
import tritoninit, torch
poisoned = torch.full((3,), torch.nan)
try:
    print(tritoninit.registry.resolve("cpu").name)
    tritoninit.normal_(poisoned)
except ValueError as error:
    assert poisoned.isnan().all()
    print(error)
with tritoninit.use_backend("numpy"):
    assert tritoninit.registry.resolve("cpu").name == "numpy"
"""
        environment = {**os.environ, "TRITONINIT_BACKEND": value}
        environment["PYTHONPATH"] = str(Path(tritoninit.__file__).parents[1])
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == (printed or resolve("cpu").name)

    def test_one_that_cannot_serve_here_raises(self):
        register(fake("one", ["cpu"], "no compiler")[0])
        poisoned = torch.full((3,), torch.nan)
        with use_backend("one"), pytest.raises(RuntimeError, match="'one' cannot serve 'cpu': no compiler"):
            Normal()(poisoned)
        assert poisoned.isnan().all()

    def test_a_cpu_backend_may_be_chosen_for_any_device(self):
        with use_backend("numpy"):
            assert resolve("cuda").name == "numpy"


class TestDeviceThatNobodyServes:
    def test_falls_back_with_one_warning(self, recwarn):
        assert resolve("abacus").name == resolve("cpu").name
        assert resolve("abacus").name == resolve("cpu").name
        (warning,) = recwarn.list
        assert warning.category is RuntimeWarning
        assert "abacus tensors are filled by the" in str(warning.message)
        assert "no backend knows it" in str(warning.message)

    def test_warns_again_for_another_device_and_gives_the_reason(self):
        register(fake("one", ["xpu"], "no driver")[0])
        with pytest.warns(RuntimeWarning, match="no backend knows it"):
            resolve("abacus")
        with pytest.warns(RuntimeWarning, match="one: no driver"):
            resolve("xpu")

    def test_nobody_for_the_cpu_is_an_error(self, monkeypatch):
        monkeypatch.setattr(registry, "_REGISTRY", {"one": fake("one", ["cpu"], "no compiler")[0]})
        with pytest.raises(RuntimeError, match="no backend serves the CPU: one: no compiler"):
            resolve("cpu")


LAYOUTS = {
    "contiguous": lambda shape: torch.full(shape, torch.nan),
    "reversed": lambda shape: torch.full(shape[::-1], torch.nan).permute(list(range(len(shape)))[::-1]),
    "sliced": lambda shape: torch.full([2 * n for n in shape], torch.nan)[(slice(1, None, 2),) * len(shape)],
}
SHAPES = [
    (),
    (0,),
    (1,),
    (23,),
    (4, 6),
    (6, 1),
    (1, 23),
    (3, 0, 2),
    (3, 4, 5),
    (1, 1, 30),
    (2, 3, 2, 5),
    (5, 1, 2, 3, 2),
]


def call_it_abacus(monkeypatch):
    """Have all tensors say that they are another device's."""
    for module in (registry, fills):
        monkeypatch.setattr(module, "device_type", lambda _: "abacus")


class TestStaging:
    """Tensors that only a CPU backend can serve pass through host memory, a bounded piece at a time."""

    @pytest.mark.parametrize("stage", [1, 5, 6, 64])
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_pieces_make_up_the_whole(self, monkeypatch, layout, shape, stage):
        """A CPU tensor that calls itself another device's takes that path, and can be looked at."""
        host, written = fake("host", ["cpu"])
        register(host)
        whole = Normal()(torch.empty(shape), key=KEY)
        staged = LAYOUTS[layout](shape)
        monkeypatch.setattr(registry, "_STAGE", stage)
        call_it_abacus(monkeypatch)
        with use_backend("host"):
            Normal()(staged, key=KEY)
        assert staged.equal(whole)
        assert sum(written) == whole.numel()
        assert max(written) <= stage

    def test_pieces_of_a_window(self, monkeypatch):
        window = tritoninit.Window((9, 8, 7), (2, 3, 1))
        whole = Normal()(torch.empty(9, 8, 7), key=KEY)[2:6, 3:8, 1:4]
        monkeypatch.setattr(registry, "_STAGE", 4)
        call_it_abacus(monkeypatch)
        with use_backend("numpy"):
            assert Normal()(torch.empty(4, 5, 3), key=KEY, window=window).equal(whole)

    def test_pieces_are_not_needlessly_small(self):
        """Leading rows go together as long as they fit."""
        draw = Plan().add(torch.empty(10, 7), Uniform(), KEY).draw
        tensor = torch.empty(10, 7)
        sizes = [piece.numel() for piece, _ in _pieces_with_stage(tensor, draw, 21)]
        assert sizes == [21, 21, 21, 7]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_16_bits(self, monkeypatch, dtype):
        whole = Normal()(torch.empty(50, dtype=dtype), key=KEY)
        monkeypatch.setattr(registry, "_STAGE", 7)
        call_it_abacus(monkeypatch)
        with use_backend("numpy"):
            assert Normal()(torch.empty(50, dtype=dtype), key=KEY).equal(whole)


def _pieces_with_stage(tensor, draw, stage):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_STAGE", stage)
        return list(registry._pieces(tensor, draw))


def test_every_available_cpu_backend_writes_the_same_bits():
    """Every one that the registry has here; the backends' own tests look closer."""
    target = np.empty((33, 7), np.float32)
    reference = get("numpy")
    draw = Plan().add(target, Normal(), KEY).draw
    registry.fill(reference, [(target, draw)])
    others = [get(s.name) for s in backends() if "cpu" in s.devices and s.available]
    for backend in others:
        again = np.full_like(target, np.nan)
        registry.fill(backend, [(again, draw)])
        assert np.array_equal(again.view(np.uint32), target.view(np.uint32)), backend.name
    assert reference in others


def test_triton_is_not_imported_before_a_gpu_tensor_appears(tmp_path):
    """After each statement, in one process."""
    statements = (
        "import tritoninit",
        "tritoninit.registry.resolve('cpu')",
        "tritoninit.backends()",
        "tritoninit.normal_(torch.empty(9))",
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TRITONINIT_BACKEND")}
    environment["PYTHONPATH"] = str(Path(tritoninit.__file__).parents[1])
    environment["CUDA_VISIBLE_DEVICES"] = ""  # where there is a GPU, backends() tries it
    program = "import sys, torch\nbefore = set(sys.modules)\n"
    program += "\n".join(f"{each}\nprint(*set(sys.modules) - before)" for each in statements)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    for statement, line in zip(statements, done.stdout.splitlines(), strict=True):
        imported = line.split()
        assert "tritoninit.registry" in imported
        found = [m for m in imported if m.split(".")[0] == "triton" or m.endswith("triton_kernels")]
        assert not found, statement


class TestNumba:
    """Found or not, the CPU is served: by the first of the two that can."""

    def test_not_installed(self, monkeypatch):
        registry._numba_unavailable.cache_clear()
        monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
        try:
            assert resolve("cpu").name == "numpy"
            assert next(each for each in backends() if each.name == "numba").unavailable == (
                "numba is not installed (pip install numba)"
            )
        finally:
            registry._numba_unavailable.cache_clear()

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ImportError("needs another NumPy"), "needs another NumPy"),
            (ImportError("first\nsecond"), "first"),
            (AttributeError("numpy has no attribute"), "AttributeError: numpy has no attribute"),
            (RuntimeError("first\nsecond"), "RuntimeError: first"),
            (OSError(12, "no memory for the library"), "OSError: [Errno 12] no memory for the library"),
            (KeyError("NUMBA"), "KeyError: 'NUMBA'"),
            (SystemError(), "SystemError: "),
            (MemoryError(), "MemoryError: "),
            (AssertionError(), "AssertionError: "),
            (SystemExit(3), "SystemExit: 3"),
        ],
    )
    def test_installed_and_not_to_be_imported(self, monkeypatch, error, reason):
        """Whatever it raises, fills work: one warning, however many fills, and the reason on show."""

        def refuse():
            raise error

        registry._numba_unavailable.cache_clear()
        monkeypatch.setattr(registry, "_load_numba", refuse)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert resolve("cpu").name == "numpy"
                assert resolve("cpu").name == "numpy"
                (found,) = (each for each in backends() if each.name == "numba")
            (warning,) = caught
            assert warning.category is RuntimeWarning
            assert str(warning.message).startswith(f"numba cannot be imported: {reason}. NumPy fills")
            assert found.unavailable == f"numba cannot be imported: {reason}"
        finally:
            registry._numba_unavailable.cache_clear()

    def test_something_else_by_its_name(self, monkeypatch):
        """As a stub for documentation may stand in sys.modules, of which find_spec raises."""
        registry._numba_unavailable.cache_clear()
        monkeypatch.setitem(sys.modules, "numba", SimpleNamespace())
        try:
            with pytest.warns(RuntimeWarning, match="numba cannot be imported: ValueError"):
                assert resolve("cpu").name == "numpy"
        finally:
            registry._numba_unavailable.cache_clear()

    def test_interrupted_while_importing(self, monkeypatch):
        """Which says nothing of numba: the next fill tries again."""

        def interrupt():
            raise KeyboardInterrupt

        registry._numba_unavailable.cache_clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patch.setattr(registry, "_load_numba", interrupt)
            resolve("cpu")
        assert registry._numba_unavailable("cpu") is None or "not installed" in registry._numba_unavailable(
            "cpu"
        )

    def test_installed(self):
        pytest.importorskip("numba")
        assert resolve("cpu").name == "numba"
        assert registry._numba_unavailable("cuda") == "it does not serve 'cuda'"


COMPILED = """
import sys, warnings
import torch, tritoninit
from torch._dynamo.exc import Unsupported
warnings.simplefilter("ignore")  # torch's own, of what it traces
key = tritoninit.Key(3)
linear = torch.nn.Linear(8, 8)

def filled(x):
    return tritoninit.normal_(x * 2, key=key) + 1

def by_plan(x):
    plan, y = tritoninit.Plan(), x * 2
    plan.add(y, tritoninit.Normal(), key)
    plan.run()
    return y + 1

def whole_model(x):
    tritoninit.initialize_(linear, seed=0)
    return linear(x)

x = torch.ones(8, 8)
try:
    torch.compile(filled, backend="eager", fullgraph=True)(x)
except Unsupported as error:
    assert "numba" not in str(error), error
else:
    raise AssertionError("fills are in graphs: test that they are right")
assert "numba" not in sys.modules
first = {"filled": filled, "by_plan": by_plan, "whole_model": whole_model}[sys.argv[1]]
for each in (first, filled, by_plan, whole_model):
    assert torch.equal(torch.compile(each, backend="eager")(x), each(x))
print(tritoninit.registry.resolve("cpu").name)
"""


@pytest.mark.slow  # each a process that compiles numba's kernels and torch's graphs: 24 s
@pytest.mark.parametrize("first", ["whole_model", "filled", "by_plan"])
def test_the_first_fill_of_a_process_inside_torch_compile(first):
    """numba's import is not traced; and where a graph may not break, it is torch that says why."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITONINIT_BACKEND"}
    environment["PYTHONPATH"] = str(Path(tritoninit.__file__).parents[1])
    command = [sys.executable, "-c", COMPILED, first]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == resolve("cpu").name
