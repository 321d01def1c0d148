"""What of a row follows from the others."""

from tritoninit.bench import rows


def test_the_start_of_a_process_has_no_throughput():
    info = {"kind": "start", "subject": "import torch", "dtype": "float32", "elements": 0, "threads": 1}
    row = {"extra_info": {**info, "contender": "torch", "bytes": 0}, "stats": {"median": 2.0, "data": [2.0]}}
    rows.complete({"benchmarks": [row]})
    assert row["extra_info"]["gb_per_s"] is row["extra_info"]["gs_per_s"] is None
    assert row["extra_info"]["torch_ratio"] == 1.0
