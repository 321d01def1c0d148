"""Many callers, many processes: the pool of threads is shared, and neither a fork nor an error breaks it."""

import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import tritoninit as ti
from tritoninit.kernels import chunks
from tritoninit.kernels.stream import Draw
from tritoninit.presets import GPT2, PRESETS

BACKENDS = [b.name for b in ti.backends() if b.available and "cpu" in b.devices]
SIZES = [1, 5, 1000, 70_000, 1_200_000]  # the last of several chunks


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def drawn(number):
    """Arrays of every size, in one plan."""
    plan = ti.Plan()
    arrays = [np.full(n, np.nan, np.float32) for n in SIZES]
    for size, array in zip(SIZES, arrays, strict=True):
        plan.add(array, ti.Normal(), ti.Key(number).fold_in(size))
    plan.run()
    return arrays


def alone(number):
    return [ti.normal_(np.empty(n, np.float32), key=ti.Key(number).fold_in(n)) for n in SIZES]


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plan_on_two_threads_is_its_tensors_alone(backend):
    with ti.use_backend(backend):
        together = drawn(0)
    torch.set_num_threads(1)
    with ti.use_backend("numpy"):
        assert equal(together, alone(0))


def test_a_plan_is_spread_over_threads():
    """Each of two threads waits for the other: one alone would never finish."""
    both = threading.Barrier(2, timeout=30)
    meet = chunks.Drawer(lambda *_: None, lambda *_: both.wait(), lambda *_: None, 1 << 20)
    small = [(np.empty(3, np.float32), "float32", DRAW) for _ in range(2)]
    chunks.fill(meet, small, threads=2)
    large = [(np.empty(2 << 20, np.float32), "float32", DRAW)]
    chunks.fill(meet, large, threads=2)


def test_somebody_helps_each_time():
    """However soon the next work comes, and after work that nobody helped with."""
    both = threading.Barrier(2, timeout=30)
    for _ in range(300):
        chunks.share(iter([both.wait, both.wait]), 2)
        chunks.share(iter([int, int]), 2)


def test_who_comes_late_touches_nothing():
    work = chunks._Work(iter([]))
    work.run()
    work.finish()
    work._chunks = iter([pytest.fail])
    work.help()


def test_the_callers_own_error_comes_first():
    both = threading.Barrier(2, timeout=30)

    def fail():
        both.wait()
        raise MemoryError(threading.get_ident())

    with pytest.raises(MemoryError, match=str(threading.get_ident())):
        chunks.share(iter([fail, fail]), 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_callers_at_once(backend):
    def run(number):
        with ti.use_backend(backend):
            return drawn(number)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(8)))
    for number, tensors in enumerate(found):
        assert equal(tensors, alone(number))


DRAW = Draw("normal", (0.0, 1.0), 0, 0, 0, (1,))


@pytest.mark.parametrize("who", ["a helper", "the caller"])
def test_an_error_ends_the_fill_for_everyone(who):
    """It reaches the caller, and nobody writes any more when it does."""
    caller, both = threading.get_ident(), threading.Barrier(2, timeout=30)
    begun, writing = [], []

    def draw(out, dtype, draw, first):
        begun.append(first)
        if len(begun) <= 2:
            both.wait()
            if (threading.get_ident() == caller) == (who == "the caller"):
                raise MemoryError("no scratch")
        writing.append(first)
        time.sleep(0.01)
        writing.remove(first)

    drawer = chunks.Drawer(lambda *_: None, draw, lambda *_: None, 4)
    with pytest.raises(MemoryError, match="no scratch"):
        chunks.fill(drawer, [(np.empty(4000, np.float32), "float32", DRAW)], threads=2)
    assert not writing
    assert len(begun) < 1000
    assert equal(drawn(1), alone(1))


_AFTER_MAIN = """
import threading, time
import numpy as np, torch, tritoninit as ti
torch.set_num_threads(2)
def late():
    threading.main_thread().join()
    out = ti.normal_(np.empty(1_200_000, np.float32), key=ti.Key(0))
    print(out[-1])
threading.Thread(target=late).start()
"""


def test_after_the_main_thread_has_ended():
    """No thread starts any more then: the caller draws alone."""
    environment = {"PYTHONPATH": str(Path(ti.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", _AFTER_MAIN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr
    assert done.stdout.strip() == str(ti.normal_(np.empty(1_200_000, np.float32), key=ti.Key(0))[-1])


class Weights(Dataset):
    """Draws in the worker, on two threads: DataLoader sets one, which would need no pool.

    NumPy's arrays, since torch's own operations on large tensors may hang in a forked child (OpenMP).
    """

    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.set_num_threads(2)
        return drawn(index)


def as_it_is(batch):
    return batch


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_the_workers_of_a_data_loader(method):
    """The parent's threads are running when it forks, and do not exist in the child."""
    assert equal(drawn(9), alone(9))
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    loader = DataLoader(
        Weights(), batch_size=None, num_workers=2, multiprocessing_context=method, collate_fn=as_it_is
    )
    for number, tensors in enumerate(loader):
        assert equal(tensors, alone(number))
    assert equal(drawn(9), alone(9))


_SPAWNED = """
import torch, tritoninit as ti
torch.set_num_threads(2)
from tritoninit.presets import GPT2, PRESETS
model = GPT2(vocabulary=300, context=8, width=64, depth=2, heads=2)
ti.initialize_(model, PRESETS["gpt2"].rules, seed=0)
print(sum(float(p.detach().double().abs().sum()) for p in model.parameters()).hex())
"""


def test_in_a_fresh_process():
    environment = {"PYTHONPATH": str(Path(ti.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", _SPAWNED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    model = GPT2(vocabulary=300, context=8, width=64, depth=2, heads=2)
    ti.initialize_(model, PRESETS["gpt2"].rules, seed=0)
    assert (
        done.stdout.strip() == sum(float(p.detach().double().abs().sum()) for p in model.parameters()).hex()
    )
