"""That what a process prints is looked at."""

import pytest

import tritoninit as ti
from tritoninit.bench import bench_start, device
from tritoninit.bench.contenders import Trial, WrongValues


@pytest.mark.slow  # processes that import all there is: 16 to 26 s
def test_the_start_of_a_process_is_checked(tmp_path):
    printed = bench_start.start(start_row(ti.registry.resolve(device.DEVICE).name), tmp_path)
    bench_start.check(printed)
    with pytest.raises(WrongValues, match="a process of its own"):
        bench_start.check(str(int(printed) + 1))


def start_row(contender):
    return Trial("start", bench_start.COMPILED, "float32", bench_start.ELEMENTS, 1, contender)
