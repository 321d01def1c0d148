"""The ways to import the package, the one import that must not find it, and what installs and tests it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import tritoninit

ROOT = Path(__file__).resolve().parents[1]
BUILD_INPUTS = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "tritoninit")
LINKS = ("kernels", "bench")
SHOW_FILES = """
import tritoninit
import tritoninit.kernels.stream
print(tritoninit.__file__, tritoninit.kernels.stream.__file__, sep="\\n")
"""


def run(*command: str | Path, cwd: Path, python_path: Path | None = None, backend: str | None = None) -> str:
    """Standard output of a command that must succeed, with nothing on sys.path but what is asked for."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    if backend is not None:
        environment["TRITONINIT_BACKEND"] = backend
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(*arguments: str, cwd: Path, python_path: Path | None = None, backend: str | None = None) -> str:
    return run(sys.executable, *arguments, cwd=cwd, python_path=python_path, backend=backend)


class Distribution(NamedTuple):
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, away from the repository, with the links beside it as git has them where
    there are no links (Windows' default): files that hold where they lead."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in BUILD_INPUTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for name in LINKS:
        (copy / name).write_text(f"tritoninit/{name}")
    return copy


def test_links_lead_into_the_package() -> None:
    """And the package needs none: it is all ordinary files."""
    assert all(os.readlink(ROOT / name) == f"tritoninit/{name}" for name in LINKS)
    assert [path for path in (ROOT / "tritoninit").rglob("*") if path.is_symlink()] == []


@pytest.fixture(scope="module")
def distribution(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """An sdist, and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(out), cwd=checkout)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Distribution(sdist, wheel)


@pytest.fixture(scope="module")
def installed(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel, and nothing else, is installed into."""
    target = tmp_path_factory.mktemp("site-packages")
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    python("-m", "pip", "install", *offline, "--target", str(target), str(distribution.wheel), cwd=target)
    return target


def test_wheel_holds_the_package_and_nothing_else(distribution: Distribution) -> None:
    patterns = (
        *("**/*.py", "py.typed", "kernels/README.md"),
        *("bench/page.*", "bench/pytest.ini", "bench/results/*.json"),
    )
    expected = {
        f"tritoninit/{path.relative_to(ROOT / 'tritoninit')}"
        for pattern in patterns
        for path in (ROOT / "tritoninit").glob(pattern)
    }
    metadata = f"tritoninit-{tritoninit.__version__}.dist-info/"
    with zipfile.ZipFile(distribution.wheel) as wheel:
        names = set(wheel.namelist())
    assert {"tritoninit/py.typed", "tritoninit/kernels/stream.py"} <= expected
    assert {name for name in names if not name.startswith(metadata)} == expected
    assert {f"{metadata}METADATA", f"{metadata}licenses/LICENSE"} <= names


def test_sdist_holds_ordinary_files(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as sdist:
        members = sdist.getmembers()
    assert [m.name for m in members if not (m.isfile() or m.isdir())] == []
    assert any(m.name.endswith("/tritoninit/kernels/stream.py") for m in members)


def test_wheel_imports_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    files = python("-c", SHOW_FILES, cwd=tmp_path, python_path=installed).splitlines()
    package = installed / "tritoninit"
    assert files == [str(package / "__init__.py"), str(package / "kernels" / "stream.py")]


def test_wheel_installs_the_command(installed: Path, tmp_path: Path) -> None:
    script = run(installed / "bin" / "tritoninit", "--help", cwd=tmp_path, python_path=installed)
    module = python("-m", "tritoninit", "--help", cwd=tmp_path, python_path=installed)
    assert script == module
    assert "tritoninit" in script


def test_checkout_without_links_imports_without_installing(checkout: Path, tmp_path: Path) -> None:
    files = python("-c", SHOW_FILES, cwd=tmp_path, python_path=checkout).splitlines()
    package = checkout / "tritoninit"
    assert files == [str(package / "__init__.py"), str(package / "kernels" / "stream.py")]
    # By numpy: numba would compile its kernels, which takes 15 s in a folder that has no cache of them.
    fill = "import torch, tritoninit as ti; print(ti.ones_(torch.empty(3)).sum().item())"
    assert python("-c", fill, cwd=tmp_path, python_path=checkout, backend="numpy").strip() == "3.0"
    assert "inspect" in python("-m", "tritoninit", "--help", cwd=tmp_path, python_path=checkout)


@pytest.mark.parametrize("name", ["kernels", "bench", "tests"])
def test_top_level_folders_shadow_no_package(name: str, tmp_path: Path) -> None:
    """From the repository's root, `import kernels` finds Hugging Face's, which transformers imports."""
    stand_in = tmp_path / name / "__init__.py"
    stand_in.parent.mkdir()
    stand_in.touch()
    found = python("-c", f"import {name}; print({name}.__file__)", cwd=ROOT, python_path=tmp_path)
    assert found.strip() == str(stand_in)


def test_workflows_call_targets_that_there_are() -> None:
    """And nothing else, so that what fails there fails in a checkout."""
    workflows = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    commands = re.findall(r"\brun: *(.*)", workflows)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"make test", "make test-floors", "make test-newest"} <= set(commands)
    assert [command for command in commands if command.removeprefix("make ") not in targets] == []
