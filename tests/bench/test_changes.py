"""What changed between results of one machine."""

import copy

import pytest

from tests.bench import made_up
from tritoninit.bench import overview, page
from tritoninit.bench.changes import changes
from tritoninit.bench.comparison import compare
from tritoninit.bench.result_files import read_all
from tritoninit.commands.compare import run

ARROW = "\N{RIGHTWARDS ARROW}"
TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def files(tmp_path):
    """An H100 with an old torch and with a new one, by which ours are faster; and another machine."""
    before = made_up.gpu(made_up.H100, 3000.0)
    now = copy.deepcopy(before)
    now["machine_info"].update(torch="1.0.0", triton="3.7.1")
    now["commit_info"] = {"id": "fedcba9876543210", "dirty": False}
    now["datetime"] = "2001-01-01T00:00:00"
    for row in now["benchmarks"]:
        info, stats = row["extra_info"], row["stats"]
        if info["contender"] == "triton" and info["elements"] == 2**20:
            stats["median"] /= 4
    for document in (before, now):
        for row in document["benchmarks"]:
            median = row["stats"]["median"]
            row["extra_info"].update(median_low=0.9 * median, median_high=1.1 * median)
    return made_up.save(tmp_path, now=now, before=before, epyc=made_up.cpu())


def test_from_one_to_the_next(files):
    (change,) = changes(read_all(files))
    assert (change.before.path.stem, change.now.path.stem) == (
        "before",
        "now",
    )  # by date, not as they were given
    assert change.versions == {
        "torch": ("0.0.0", "1.0.0"),
        "triton": ("none", "3.7.1"),
        "commit": ("0123456789ab, changed", "fedcba987654"),
    }
    ours, *others = change.kept
    # Of three distributions and two dtypes, 2**20 elements four times as fast, 2**30 as fast as before.
    assert (ours.contender, ours.fills, ours.faster, ours.slower) == ("tritoninit", 12, 6, 0)
    assert (ours.mean, ours.least, ours.most) == pytest.approx((2.0, 1.0, 4.0))
    assert {"torch", "memset"} <= {each.contender for each in others}
    assert all((each.mean, each.faster, each.slower) == (pytest.approx(1.0), 0, 0) for each in others)


def test_it_is_told(files, tmp_path, capsys):
    assert run(files, md=tmp_path / "out.md") == 0
    words = f"torch 0.0.0 {ARROW} 1.0.0, triton none {ARROW} 3.7.1, commit 0123456789ab, changed {ARROW} fed"
    printed = capsys.readouterr().out
    assert words in printed
    assert f"2{TIMES}" in printed.split(overview.CHANGED)[1]
    assert words in (tmp_path / "out.md").read_text(encoding="utf-8")
    assert words in page._changes(compare(read_all(files)))


def test_results_that_share_no_fill(files, tmp_path, capsys):
    document = made_up.gpu(made_up.H100, 3000.0)
    document["benchmarks"] = [r for r in document["benchmarks"] if r["extra_info"]["kind"] == "model"]
    (path,) = made_up.save(tmp_path, models=document)
    assert run([files[1], path], md=tmp_path / "out.md") == 0
    assert overview.NOTHING in capsys.readouterr().out
    assert overview.NOTHING in (tmp_path / "out.md").read_text(encoding="utf-8")
    assert overview.NOTHING in page._changes(compare(read_all([files[1], path])))


def test_nothing_of_different_machines(files):
    assert changes(read_all(files[1:])) == []
