"""What ``tritoninit bench --resume`` takes from a file that is there."""

import pytest

from tests.bench import made_up
from tritoninit.bench.record import Record, _earlier
from tritoninit.outputs import UsageError


@pytest.fixture
def document():
    rows = made_up.rows("cpu", "fill", "normal", "float32", 2**20, {"torch": 1.0}, default="torch")
    return made_up.document(made_up.machine(cores_busy_elsewhere=0.5), rows)


def test_a_file_as_it_was_written(tmp_path, document):
    (path,) = made_up.save(tmp_path, x=document)
    assert _earlier(path)["machine_info"] == document["machine_info"]


@pytest.mark.parametrize("kept", [{"begin": {"gpu": None}, "end": {}}, None, 3, {}])
def test_what_continues_a_run_began_when_that_did(tmp_path, document, kept):
    """And a file of before conditions were told, or one that is damaged, is continued all the same."""
    document["machine_info"]["conditions"] = kept
    (path,) = made_up.save(tmp_path, x=document)
    found = Record(path, True, None)._earlier_conditions()
    assert found == (kept if isinstance(kept, dict) else {})


@pytest.mark.parametrize("value", ["much", -1, float("nan"), 10**400, [], True])
def test_numbers_that_cannot_be(tmp_path, document, value):
    (path,) = made_up.save(tmp_path, x=document)
    document["machine_info"]["cores_busy_elsewhere"] = value
    (busy,) = made_up.save(tmp_path, busy=document)
    document["machine_info"]["cores_busy_elsewhere"] = None
    document["benchmarks"][0]["stats"]["min"] = value
    (least,) = made_up.save(tmp_path, least=document)
    assert _earlier(path)
    with pytest.raises(UsageError, match="damaged: cores_busy_elsewhere is"):
        _earlier(busy)
    with pytest.raises(UsageError, match="damaged: the min of a row is"):
        _earlier(least)
