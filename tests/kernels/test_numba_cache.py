"""Compiled kernels on disk: what is not as it was written is compiled again, and stops nobody."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tritoninit

pytest.importorskip("numba", exc_type=ImportError)
from numba import config, njit, types

from tritoninit.kernels.numba_cache import KernelCache

ROOT = Path(tritoninit.__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def twice(x):
    return 2 * x


def compiled(signature: Any = (types.int64,)) -> Any:
    """As a process would that starts now."""
    dispatcher = njit(twice)
    dispatcher._cache = KernelCache(twice)
    dispatcher.compile(signature)
    assert dispatcher(21) == 42
    return dispatcher


def from_disk(dispatcher: Any) -> bool:
    return bool(dispatcher.stats.cache_hits)


def the_file(folder: Path) -> Path:
    (found,) = (path for path in folder.rglob("*") if path.is_file())
    return found


def flipped(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


def cut(part: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


DAMAGES = {
    "empty": cut(0),
    "cut within the digest": cut(0.001),
    "cut in half": cut(0.5),
    "short of a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "junk": lambda path: path.write_bytes(os.urandom(9999)),
    "zeros of the same length": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("import antigravity"),
    "another pickle": lambda path: path.write_bytes(pickle.dumps(("0.0", {}))),
    "a pickle that raises": lambda path: path.write_bytes(b"cos\nnot_there\n."),
    "a bit of the digest": flipped(0),
    "a bit of the machine code": flipped(0.5),
    "the last bit": flipped(1),
}


def test_a_second_process_loads(folder):
    assert not from_disk(compiled())
    assert from_disk(compiled())
    assert Path(compiled().stats.cache_path).is_relative_to(folder)
    assert the_file(folder).suffix == ".nbc"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_compiled_again_and_written_anew(folder, damage):
    compiled()
    path = the_file(folder)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    assert not from_disk(compiled())
    assert from_disk(compiled())


def test_one_that_another_version_wrote(folder, monkeypatch):
    compiled()
    monkeypatch.setattr("llvmlite.__version__", "0.0")
    assert not from_disk(compiled())
    assert from_disk(compiled())
    assert the_file(folder)


def test_whole_and_yet_not_to_be_used(folder, monkeypatch):
    dispatcher = compiled()

    def refuse(*arguments):
        raise RuntimeError("LLVM says no")

    monkeypatch.setattr(type(dispatcher._cache._impl), "rebuild", refuse)
    assert not from_disk(compiled())


@pytest.mark.skipif(os.name != "posix", reason="what stands in the file's place is Unix's")
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "link to itself", "unreadable"])
def test_something_else_in_its_place(folder, kind):
    compiled()
    path = the_file(folder)
    path.unlink()
    if kind == "folder":
        (path / "inner").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "link to itself":
        path.symlink_to(path)
    else:
        path.touch(mode=0)
    again = compiled()
    assert not from_disk(again)
    assert (again.stats.cache_path is None) == (kind == "folder")
    assert from_disk(compiled()) == (kind != "folder")


def test_a_folder_that_vanishes(folder):
    dispatcher = njit(twice)
    dispatcher._cache = KernelCache(twice)
    place = Path(dispatcher._cache.cache_path)
    place.rmdir()
    place.touch()
    dispatcher.compile((types.int64,))
    assert dispatcher(21) == 42
    assert dispatcher.stats.cache_path is None


def test_nothing_half_written_stays(folder, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert compiled().stats.cache_path is None
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_several_write_at_once(folder):
    dispatcher = compiled()
    (sig,) = dispatcher.overloads
    code = dispatcher.overloads[sig]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: KernelCache(twice).save_overload((types.int64,), code), range(64)))
    assert the_file(folder)
    assert from_disk(compiled())


@pytest.mark.slow
def test_the_kernels_themselves(tmp_path):
    """What a process has that finds both damaged, and the next one: no warning, and the reference's bits."""
    program = """
import torch, tritoninit
assert tritoninit.registry.resolve("cpu").name == "numba"
found = tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0))
with tritoninit.use_backend("numpy"):
    assert torch.equal(found, tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0)))
from tritoninit.kernels import numba_kernels
print(bool(numba_kernels.run_kernel.stats.cache_hits), bool(numba_kernels.rows_kernel().stats.cache_hits))
"""

    def process() -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert process() == "False False"
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(paths) == 2
    for path in paths:
        flipped(0.5)(path)
    assert process() == "False False"
    assert process() == "True True"


def test_no_jit_is_no_numba():
    """numba is passed over with its reason, once, and the command line shows it."""
    program = """
import warnings
import torch, tritoninit
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = [tritoninit.normal_(torch.empty(4096), key=tritoninit.Key(0)) for _ in range(3)]
    assert tritoninit.registry.resolve("cpu").name == "numpy"
(warning,) = caught
print(warning.category.__name__, warning.message)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1"}
    for command in (["-c", program], ["-m", "tritoninit", "info"]):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "numba cannot be imported: NUMBA_DISABLE_JIT keeps it from compiling" in done.stdout
