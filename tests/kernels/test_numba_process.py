"""numba in a process of its own: without FMA instructions, without a cache, started again; its assembly."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from kernel_cases import edge_draws

import tritoninit
from tritoninit.kernels import lowering, reference

pytest.importorskip("numba", exc_type=ImportError)
# Kernels that differ from the reference raise ImportError as well, which is no reason to skip.
numba_kernels = importlib.import_module("tritoninit.kernels.numba_kernels")

ROOT = Path(tritoninit.__file__).parents[1]
MEMORY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}

# LLVM then knows no FMA instruction, whatever this processor has, and calls fmaf; the tunable has glibc's do
# without one too (other C libraries ignore it).
WITHOUT_FMA = {
    "NUMBA_CPU_NAME": "nehalem",
    "NUMBA_CPU_FEATURES": "",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4",
}
x86_64 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the processor named is an x86-64 one"
)


def python(
    *arguments: str,
    cache: Path | str | None,
    environment: Mapping[str, str] | None = None,
    path: Path = ROOT,
) -> str:
    """Standard output of a process that must succeed, with numba's cache there, or where it always is."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "NUMBA_", "TRITON"))}
    cached = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=path,
        env={**kept, "PYTHONPATH": str(path), **cached, **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMPILE = """
import json
from tritoninit.kernels import numba_kernels
assembly = {}
kernels = {"run_kernel": numba_kernels.run_kernel, "rows_kernel": numba_kernels.rows_kernel()}
for name, kernel in kernels.items():
    (assembly[name],) = kernel.inspect_asm().values()
print(json.dumps(assembly))
"""


class Compiled(NamedTuple):
    """A cache that holds the kernels, and the assembly they were compiled to: numba does not keep that."""

    cache: Path
    assembly: dict[str, str]


def compiled(cache: Path, environment: Mapping[str, str] | None = None) -> Compiled:
    return Compiled(cache, json.loads(python("-c", COMPILE, cache=cache, environment=environment)))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """For this machine."""
    return compiled(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def without_fma(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """For an x86-64 without FMA."""
    return compiled(tmp_path_factory.mktemp("without_fma"), WITHOUT_FMA)


# Bits. These two run here, and once more below, in a process without FMA.


@pytest.mark.parametrize("dtype", MEMORY)
@pytest.mark.parametrize("name", ["uniform", "normal", "truncated", "central"])
def test_edge_parameters(name: str, dtype: str) -> None:
    for draw in edge_draws(name, dtype):
        found, expected = np.empty((2, 1 << 15), MEMORY[dtype])
        numba_kernels.fill_many([(found, dtype, draw)])
        reference.fill_many([(expected, dtype, draw)])
        assert found.tobytes() == expected.tobytes(), draw


def test_structured_words() -> None:
    """524,288 normals, 163,840 truncated and 16,384 uniform, of words near powers of two and eighth turns."""
    from numba import njit

    # It imports Triton's kernels too.
    cases = pytest.importorskip("transform_cases", exc_type=ImportError)

    @njit(error_model="numpy")
    def normals(x, y, out):
        for k in range(x.size):
            out[0, k], out[1, k] = numba_kernels.box_muller(x[k], y[k])

    @njit(error_model="numpy")
    def truncated(x, p, out):
        for k in range(x.size):
            out[k] = numba_kernels.truncated_normal(x[k], p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7])

    @njit(error_model="numpy")
    def uniform(x, p, out):
        for k in range(x.size):
            out[k] = numba_kernels.uniform(x[k], p[0], p[1], p[2], p[3])

    def assert_equal_bits(found: Any, expected: Any) -> None:
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))

    x = cases.structured_words()
    out = np.empty((2, x.size), np.float32)
    for shift in range(0, x.size, x.size // 16):
        y = np.roll(x, shift)
        normals(y, x, out)
        assert_equal_bits(out, np.stack(reference.box_muller(y, x)))
    for low, high in cases.CENTRAL_INTERVALS + cases.TAIL_INTERVALS:
        p = tuple(map(np.float32, lowering.truncated_normal(0, 1, low, high, "float32")))
        truncated(x, p, out[0])
        assert_equal_bits(out[:1], reference.truncated_normal(x[None], *p))
    p = tuple(map(np.float32, lowering.uniform(-0.1, 0.3, "float32")))
    uniform(x, p, out[0])
    assert_equal_bits(out[0], reference.uniform(x, *p))


@x86_64
@pytest.mark.parametrize("kernel", ["run_kernel", "rows_kernel"])
def test_without_fma_the_kernels_call_fmaf(kernel: str, without_fma: Compiled) -> None:
    text = without_fma.assembly[kernel]
    assert not re.search(r"\bvfn?m(add|sub)", text)
    assert re.search(r"\bfmaf\b", text)


@x86_64
@pytest.mark.slow
def test_without_fma_the_bits_are_the_same(without_fma: Compiled) -> None:
    """All that is compared on this processor, compared without FMA."""
    this = Path(__file__)
    python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "not importing"),
        str(this.with_name("test_numba.py")),
        *(f"{this}::{test.__name__}" for test in (test_edge_parameters, test_structured_words)),
        cache=without_fma.cache,
        environment=WITHOUT_FMA,
    )


FOREIGN_FMAF = """
import ctypes, sys
import llvmlite.binding
import numpy as np

def fmaf(a, b, c):
    product = np.float32(a * b) if sys.argv[1] == "unfused" else a * b
    return float(product) + c

called = ctypes.CFUNCTYPE(ctypes.c_float, *[ctypes.c_float] * 3)(fmaf)
llvmlite.binding.add_symbol("fmaf", ctypes.cast(called, ctypes.c_void_p).value)

import tritoninit
(numba,) = (b for b in tritoninit.backends() if b.name == "numba")
out = np.empty(4096, np.float32)
tritoninit.normal_(out, key=tritoninit.Key(0))
with tritoninit.use_backend("numpy"):
    assert np.array_equal(out, tritoninit.normal_(np.empty(4096, np.float32), key=tritoninit.Key(0)))
print(numba.unavailable)
"""


@x86_64
def test_an_fmaf_that_rounds_twice_is_noticed_where_it_matters(without_fma: Compiled) -> None:
    """In float64 first, as the reference: the same bits. The product to float32: numba is passed over."""
    environment = {name: WITHOUT_FMA[name] for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")}
    found = {
        kind: python("-c", FOREIGN_FMAF, kind, cache=without_fma.cache, environment=environment).strip()
        for kind in ("float64", "unfused")
    }
    assert found["float64"] == "None"
    assert "fmaf does not round once" in found["unfused"]


# The cache on disk.

FILL_AND_SHOW_CACHE = """
import sys
import torch, tritoninit
from tritoninit.kernels import numba_kernels
assert tritoninit.registry.resolve("cpu").name == "numba"
found = tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0))
with tritoninit.use_backend("numpy"):
    assert torch.equal(found, tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0)))
print(numba_kernels.run_kernel.stats.cache_path)
"""


@pytest.mark.skipif(os.name != "posix", reason="the folders are Unix's")
@pytest.mark.slow  # each process compiles anew, 14 s; test_no_room_for_the_kernels writes no cache, either
@pytest.mark.parametrize("folder", ["/dev/null/x", "read-only"])
def test_no_folder_to_write(folder: str, tmp_path: Path) -> None:
    """Nor beside the kernels, where __pycache__ is a file, which stops root too. Warnings are errors."""
    package = tmp_path / "tritoninit"
    shutil.copytree(ROOT / "tritoninit", package, ignore=shutil.ignore_patterns("__pycache__", "bench"))
    (package / "kernels" / "__pycache__").touch()
    if folder == "read-only":
        folder = "/proc" if os.geteuid() == 0 else str(tmp_path / "read-only")
        Path(folder).mkdir(mode=0o555, exist_ok=True)
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    found = python("-W", "error", "-c", FILL_AND_SHOW_CACHE, cache=folder, environment=nowhere, path=tmp_path)
    assert found.strip() == "None"


@pytest.mark.skipif(os.name != "posix", reason="the limit is Unix's")
def test_no_room_for_the_kernels(tmp_path: Path) -> None:
    """As on a full disk: the empty file that numba tries first can be made, a kernel's cannot be written."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    hastily = {"NUMBA_OPT": "0"}  # it compiles all kernels, which takes a third of the time so
    found = python(
        "-B", "-W", "error", "-c", limit + FILL_AND_SHOW_CACHE, cache=tmp_path, environment=hastily
    )
    assert found.strip() == "None"


@pytest.mark.slow  # all kernels are compiled twice
def test_other_constants_are_other_kernels(here: Compiled) -> None:
    """numba's cache knows the kernels' file, and not the stream's, whose constants are compiled in."""
    other = "from tritoninit.kernels import stream; stream.PHILOX_W0 += 2\n"
    assert python("-c", other + FILL_AND_SHOW_CACHE, cache=here.cache).startswith(str(here.cache))


START = """
import gc, json, sys, time
gc.disable()
begin = time.perf_counter()
import torch
after_torch = time.perf_counter()
import tritoninit
imported = time.perf_counter()
modules = sorted({"numba", "triton", "transformers", "rich"} & set(sys.modules))
tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0))
filled = time.perf_counter()
assert "numba" not in sys.modules
tritoninit.normal_(torch.empty(1 << 22), key=tritoninit.Key(0))
compiled = time.perf_counter()
assert "numba" in sys.modules
times = [after_torch - begin, imported - after_torch, filled - imported, compiled - after_torch]
print(json.dumps([modules, *times]))
"""


@pytest.mark.alone
def test_a_second_process_starts_at_once() -> None:
    """0.05 s to import, 0.3 s for a first fill, 0.5 s to the end of one by numba; the best of six.

    ``import torch`` takes 1 s where these were set. Where it takes more than 1.5 s, as on a machine with
    other work, the bounds grow with it. A kernel that is compiled again takes 2 s and more. The garbage
    collector takes 0.1 s for what torch has made, and how much that is decides in whose time: it is off. The
    first process compiles them if none has before.
    """
    imports, fills, ends = [], [], []
    for _ in range(6):
        modules, torch_, imported, filled, compiled = json.loads(python("-c", START, cache=None))
        assert modules == []
        slowness = max(1.0, torch_ / 1.5)
        imports.append(imported / slowness)
        fills.append(filled / slowness)
        ends.append(compiled / slowness)
    assert min(imports) < 0.05
    assert min(fills) < 0.3
    assert min(ends) < 0.5


# The assembly.

# Per stage, the instruction on eight or sixteen numbers and that on one.
STAGES = {
    "Philox": (r"vpmul(udq|ld|lq)", r"(imul|mul|mulx)q?"),
    "conversion": (r"vcvtu?dq2ps", r"vcvtu?si2ss\w?"),
    "fma": (r"vfn?m(add|sub)\d+ps", r"vfn?m(add|sub)\d+ss"),
    "square root": (r"vsqrtps", r"vsqrtss"),
}


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions, with their operands, from each backward jump's target to the jump."""
    lines = [line.strip() for line in text.splitlines()]
    labels = {line[:-1]: k for k, line in enumerate(lines) if re.fullmatch(r"[.\w]+:", line)}
    jumps = ((k, re.fullmatch(r"j\w+\s+(\S+)", line)) for k, line in enumerate(lines))
    loops = {(labels[jump[1]], k) for k, jump in jumps if jump and labels.get(jump[1], k) < k}
    innermost = [
        (a, b) for a, b in loops if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)
    ]
    return [[line for line in lines[a : b + 1] if re.match(r"[a-z]", line)] for a, b in sorted(innermost)]


def uses(loop: list[str], instruction: str, registers: str = "") -> bool:
    return any(re.match(rf"{instruction}\s", line) and re.search(registers, line) for line in loop)


@x86_64
@pytest.mark.parametrize("processor", ["haswell", pytest.param("this one", marks=pytest.mark.slow)])
def test_every_stage_is_vectorised(processor: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each loop over a tile that computes number by number has a twin that computes eight or sixteen at once.

    The other runs where the tile's arrays overlap in memory, which LLVM does not know that they never do.
    """
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if not (features.get("avx2") and features.get("fma")):
        pytest.skip("this processor has no AVX2 and FMA")
    if processor == "haswell":  # the same assembly wherever this runs
        made = compiled(tmp_path, {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""})
    else:
        made = request.getfixturevalue("here")
    loops = innermost_loops(made.assembly["run_kernel"])
    vectorised = []
    for stage, (packed, scalar) in STAGES.items():
        wide = [loop for loop in loops if uses(loop, packed, "%[yz]mm")]
        single = [loop for loop in loops if uses(loop, scalar)]
        assert len(wide) >= max(1, len(single)), stage
        vectorised += wide
    # What is left on wide registers interleaves the lanes and rounds them: a loop for each dtype, and one
    # for those of 8 bits.
    stores = [
        loop
        for loop in loops
        if loop not in vectorised and sum(bool(re.search("%[yz]mm", line)) for line in loop) > len(loop) / 2
    ]
    assert len(stores) >= numba_kernels.FLOAT8 + 1
