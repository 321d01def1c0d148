"""What stands beside what."""

import pytest

from tests.bench import made_up
from tritoninit.bench import inspection
from tritoninit.bench.comparison import compare
from tritoninit.bench.result_files import read, read_all


@pytest.fixture
def files(tmp_path):
    return made_up.three(tmp_path)


def test_order(files):
    tasks = [line.task for line in compare(read_all(files)).lines]
    kinds = list(dict.fromkeys(task.kind for task in tasks))
    assert kinds == ["fill", "call", "model", "structured", "start"]
    fills = [task for task in tasks if task.kind == "fill"]
    subjects = list(dict.fromkeys((task.subject, task.dtype) for task in fills))
    names = ("uniform", "normal", "truncated_normal")
    assert subjects == [(name, dtype) for name in names for dtype in ("float32", "bfloat16")]
    normals = [(t.elements, t.scope) for t in fills if (t.subject, t.dtype) == ("normal", "float32")]
    assert normals == [
        *((2**10, "all"), (2**10, "1"), (2**20, "all"), (2**20, "1"), (2**30, "all")),
    ]


def test_real_predictions_are_asked_for_the_machine(monkeypatch, files):
    asked = []
    monkeypatch.setattr(inspection, "predictions", lambda *machine: asked.append(machine) or {})
    results = read(files[0])
    compare([results])
    assert asked == [(results.machine, pytest.approx(3000.0))]  # what its memset wrote
