"""Which fills are timed."""

import pytest
import torch

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


def test_what_is_rounded_at_random_is_timed_beside_what_is_rounded_to_nearest():
    """Of ours alone, since nobody else has it; and what is written is looked at."""
    from tritoninit.bench import bench_fill, contenders

    rows = [row for row in bench_fill.trials(False) if row.subject == contenders.STOCHASTIC]
    nearest = [row for row in bench_fill.trials(False) if row.subject == "normal" and row.dtype == "bfloat16"]
    assert {row.contender for row in rows} == set(contenders.ours())
    assert {row.elements for row in rows} == {row.elements for row in nearest}
    assert all(row.can_run() for row in rows)
    fill = contenders.SUBJECTS[contenders.STOCHASTIC]
    written = fill(torch.empty(4096, dtype=torch.bfloat16, device=device.DEVICE), key=contenders.KEY)
    contenders.check(contenders.contender(rows[0].contender), fill, written)
    with pytest.raises(contenders.WrongValues):
        contenders.check(contenders.contender(rows[0].contender), contenders.FILLS["normal"], written)
