"""Names in little room: different ones stay different, and show where they differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritoninit.bench.names import cut

LONG = "Intel Xeon Platinum"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["H200", "AMD EPYC, 2 cores"], ["H200", "AMD EPYC, 2 cores"]),
        # Two results of one CPU: as they were cut, both read "AMD EPYC, 2 cores (epyc…".
        (
            ["AMD EPYC, 2 cores (epyc-old)", "AMD EPYC, 2 cores (epyc-new)"],
            ["AMD EPYC, 2 cores (…old)", "AMD EPYC, 2 cores (…new)"],
        ),
        (
            [f"{LONG} 8480C, 112 cores", f"{LONG} 8592V, 112 cores"],
            ["Intel X…8480C, 112 cores", "Intel X…8592V, 112 cores"],
        ),
        (
            [f"{LONG} 8480C with much memory, 112", f"{LONG} 8592V with much memory, 112"],
            ["…8480C with much memory…", "…8592V with much memory…"],
        ),
        (["one machine whose name is long"], ["one machine whose name …"]),
        (["x" * 30, "x" * 31], ["x" * 30, "x" * 31]),  # which no cut tells apart
    ],
)
def test_cuts(names, expected):
    assert cut(names, 24) == expected


@given(st.lists(st.text("ab ,(", min_size=1, max_size=40), max_size=5, unique=True), st.integers(6, 30))
def test_different_names_stay_different(names, room):
    found = cut(names, room)
    assert len(set(found)) == len(names)
    assert all(len(now) <= room or now == name for now, name in zip(found, names, strict=True))
    assert cut(names, 40) == names
