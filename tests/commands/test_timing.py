"""How an initialisation is timed: by the benchmarks' clock, more than once only if it is short."""

import gc

import pytest
import torch

from tritoninit.bench import device
from tritoninit.commands import timing
from tritoninit.commands.timing import Timing, timed

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Seconds to advance by hand."""
    now = [0.0]
    monkeypatch.setattr(timing, "timer", lambda: now[0])
    return now


def advancing(clock, *seconds):
    """Something that takes so long, and then so long, ..."""
    left = list(seconds)

    def run():
        clock[0] += left.pop(0)

    return run


def test_median_of_as_many_as_take_a_third_of_a_second(clock):
    assert timed(advancing(clock, 0.125, 0.0625, 0.25, 9.0), CPU) == Timing(0.125, 3)


def test_long_ones_once(clock):
    assert timed(advancing(clock, 2.0), CPU) == Timing(2.0, 1)


@pytest.mark.parametrize("runs", [1, 4])
def test_no_more_than_asked_for(clock, runs):
    assert timed(advancing(clock, *[0.0625] * runs), CPU, runs) == Timing(0.0625, runs)


def test_no_end_of_short_ones(clock):
    assert timed(advancing(clock, *[2.0**-20] * 25), CPU) == Timing(2.0**-20, 25)


def test_waits_for_another_device(clock, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    monkeypatch.setattr(timing, "timer", device.timer)
    elsewhere = torch.device("cuda", 1)
    assert timed(lambda: None, elsewhere, runs=1).runs == 1
    assert waited == [elsewhere] * 2
    timed(lambda: None, CPU, runs=1)
    assert waited == [elsewhere] * 2


def test_collector_is_let_go_whatever_happens(clock):
    def fail():
        raise RuntimeError

    frozen = gc.get_freeze_count()
    with pytest.raises(RuntimeError):
        timed(fail, CPU)
    assert gc.get_freeze_count() == frozen
