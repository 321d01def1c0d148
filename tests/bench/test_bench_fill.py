"""Which fills are timed."""

from tritoninit.bench import device


def test_one_thread_has_rows_of_its_own_at_one_size(monkeypatch):
    from tritoninit.bench import bench_fill

    monkeypatch.setattr(bench_fill, "ALL_THREADS", 4)
    rows = [row for row in bench_fill.trials(False) if row.contender == "torch"]
    assert len(set(rows)) == len(rows)
    on_cpu = {bench_fill.ONE_THREAD_SIZE} if device.DEVICE == "cpu" else set()
    assert {row.elements for row in rows if row.threads == 1} == on_cpu
    assert {row.threads for row in rows if row.elements != bench_fill.ONE_THREAD_SIZE} == {4}
    assert all(row.bytes <= device.largest() for row in rows)


def test_sizes_of_a_series_ascend():
    """So that a large one can be predicted from smaller ones."""
    from tritoninit.bench import bench_fill

    sizes = {}
    for row in bench_fill.trials(False):
        sizes.setdefault(row.series, []).append(row.elements)
    assert all(found == sorted(found) for found in sizes.values())
