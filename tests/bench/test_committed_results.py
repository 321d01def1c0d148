"""The form of each committed result: what results/README.md asks of whoever adds a machine."""

import json
import math
import re

import pytest

from tools import report
from tritoninit.bench import inspection, result_files
from tritoninit.bench.rows import complete, contender_of

FOLDER = inspection.RESULTS.parent
PATHS = report.paths()
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_names(path):
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*\.json", path.name), "small letters, digits and hyphens"
    assert path.stem in README or "one file a machine" in README


def test_it_is_read(path):
    """As ``tritoninit compare`` reads it: every row of the suite's form, and none twice."""
    found = result_files.read(path)
    assert found.rows
    assert found.date, "when it was measured"
    assert re.fullmatch(r"[0-9a-f]{12}(, changed)?", found.commit), "of which commit"


def test_it_says_what_it_was_measured_with(path):
    machine = json.loads(path.read_text(encoding="utf-8"))["machine_info"]
    for name in ("torch", "triton", "numpy", "tritoninit", "python_version", "system"):
        assert isinstance(machine.get(name), str), name
    assert (machine["accelerator"] is None) == (machine["device"] == "cpu")
    if machine["accelerator"] is not None:
        assert isinstance(machine["accelerator"]["driver"], str)
    busy = machine["cores_busy_elsewhere"]
    assert busy is None or busy <= machine["cpu"]["count"] - machine["threads"] + 0.1, "others were at work"


def test_nothing_in_it_tells_who_or_where(path):
    """No path, no host, no user; nor the rounds, which make a file ten times as long."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|tmp|work)\b|[A-Z]:\\\\|@[\w.]+\.\w", text)
    document = json.loads(text)
    assert not {"node", "hostname", "release"} & set(document["machine_info"])
    assert all("data" not in row["stats"] for row in document["benchmarks"])


def test_it_has_the_ceiling_and_the_peer(path):
    """Memset and torch beside a large fill of ours, or else that says nothing of its machine."""
    found = result_files.read(path)
    told = [
        row
        for row in found.rows
        if row.kind == "fill" and row.default and row.memset_fraction and row.torch_ratio
        if found.scope(row) == "all" and not found.cached(row)
    ]
    assert {(row.subject, row.dtype) for row in told} >= {
        (subject, dtype)
        for subject in ("uniform", "normal", "truncated_normal")
        for dtype in ("float32", "bfloat16")
    }
    assert found.memset_gb_per_s() is not None


def test_its_ratios_follow_from_its_times(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    again = json.loads(json.dumps(document))
    complete(again)
    for row, expected in zip(document["benchmarks"], again["benchmarks"], strict=True):
        assert contender_of(row) == contender_of(expected)
        for name in ("gb_per_s", "gs_per_s", "memset_fraction", "torch_ratio"):
            now, then = row["extra_info"][name], expected["extra_info"][name]
            assert now == then or math.isclose(now, then, rel_tol=1e-4), (row["name"], name)


def test_the_readme_says_how(path):
    del path
    for word in (
        "tritoninit bench --out",
        "make report",
        "cores_busy_elsewhere",
        "nvidia-smi",
        "test_committed",
    ):
        assert word in README, word
