"""Fills of one tensor that stays in the cache."""

import contextlib
import io
import json

import pytest

from tritoninit import registry
from tritoninit.bench import bench_cached, device, result_files, suite


@pytest.mark.parametrize("cache", [2**20, 60 << 20, 3 * 2**24])
def test_the_largest_power_of_two_in_a_quarter(monkeypatch, cache):
    monkeypatch.setattr(bench_cached, "last_level_cache", lambda: cache)
    for width in (2, 4):
        size = bench_cached.elements(width) * width
        assert size <= cache / 4 < 2 * size


def test_rows(tmp_path):
    """They have memset and torch beside them, and are said to stay in the cache."""
    assert bench_cached.trials(True) == []
    out, printed = tmp_path / "x.json", io.StringIO()
    ours = registry.resolve(device.DEVICE).name
    patterns = [f"cached[uniform-bfloat16-*-{name}]" for name in (ours, "torch", "memset")]
    with contextlib.redirect_stdout(printed):
        assert suite.run(False, patterns, out, seconds=0.01) == 0
    assert suite._CELLS["cached"][0] in printed.getvalue()
    found = result_files.read(out)
    assert {row.contender for row in found.rows} == {ours, "torch", "memset"}
    assert all(row.kind == "cached" and found.cached(row) for row in found.rows)
    assert all(row.memset_fraction and row.torch_ratio for row in found.rows)
    assert found.memset_gb_per_s() is None  # of the memory, they say nothing
    assert json.loads(out.read_text())["machine_info"]["last_level_cache_bytes"] == found.cache_bytes
