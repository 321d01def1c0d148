"""That what a process prints is looked at."""

import pytest

import tritoninit as ti
from tritoninit.bench import bench_start, device
from tritoninit.bench.contenders import Trial, WrongValues


@pytest.mark.slow  # processes that import all there is: 16 to 26 s
@pytest.mark.parametrize("elements", [bench_start.ELEMENTS, bench_start.LARGE])
def test_the_start_of_a_process_is_checked(tmp_path, elements):
    printed = bench_start.start(start_row(ti.registry.resolve(device.DEVICE).name, elements), tmp_path)
    bench_start.check(printed)
    with pytest.raises(WrongValues, match="a process of its own"):
        bench_start.check(str(int(printed) + 1))


def test_what_is_measured():
    """Each default backend as it comes, small and large; each other, and what is compiled, by its name."""
    rows = [(each.subject, each.elements, each.contender) for each in bench_start.trials(quick=False)]
    default = ti.registry.resolve(device.DEVICE).name
    assert len(set(rows)) == len(rows)
    assert {
        ("import tritoninit", 0, default),
        ("first fill", 4096, default),
        ("first fill", 1 << 24, default),
    } < {*rows}
    assert bench_start.trials(quick=True) == []


def start_row(contender, elements):
    return Trial("start", bench_start.COMPILED, "float32", elements, 1, contender)
