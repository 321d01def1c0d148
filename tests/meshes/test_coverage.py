"""The proof that parts make up a tensor: it holds where they do, and names what is missing or there twice."""

import random
from itertools import pairwise, product

import pytest
import torch

from tritoninit import Window, Windows
from tritoninit.distributed.cuts import Cut, in_order, interleaved
from tritoninit.meshes.coverage import coverage


def columns(*runs, shape=(4, 6)):
    return {rank: Windows.runs(shape, [None, [each]]) for rank, each in enumerate(runs)}


def test_once_and_in_replicas():
    assert coverage((4, 6), columns((0, 2), (2, 6))).faults == ()
    twice = coverage((4, 6), columns((0, 2), (2, 6), (0, 2), (2, 6)))
    assert (twice.regions, twice.replicas, twice.faults) == (2, (2, 2), ())
    assert coverage((4, 6), columns((0, 2), (2, 6)), {0: 3, 1: 5}).replicas == (3, 5)


def test_what_has_no_elements_takes_no_part():
    assert coverage((4, 6), columns((0, 6), (3, 3))).regions == 1
    assert coverage((0, 6), {0: Windows.runs((0, 6), [None, None])}).faults == ()
    assert coverage((), {0: Windows.runs((), [])}).faults == ()


@pytest.mark.parametrize(
    ("runs", "fault"),
    [
        ([(0, 2), (3, 6)], "no rank has [:, 2:3] of (4, 6)"),
        ([(0, 3), (2, 6)], "several ranks (0, 1) have [:, 2:3] of (4, 6), and are no replicas"),
        ([(0, 6), (0, 2)], "several ranks (0, 1) have [:, 0:2] of (4, 6), and are no replicas"),
        ([(0, 5)], "no rank has [:, 5:6] of (4, 6)"),
        ([(3, 3)], "no rank has [:, :] of (4, 6)"),
        ([], "no rank has [:, :] of (4, 6)"),
    ],
)
def test_what_is_wrong_is_named(runs, fault):
    assert coverage((4, 6), columns(*runs)).faults == (fault,)


def test_nothing_at_all_of_a_scalar():
    assert coverage((), {}).faults == ("no rank has [] of ()",)


def test_equal_volumes_are_no_proof():
    """A hole as large as the overlap, and replicas that are shifted."""
    faults = coverage((4, 6), columns((0, 3), (2, 5))).faults
    assert len(faults) == 2
    corner = Windows.runs((4, 6), [[(0, 2)], [(0, 3)]])
    others = Windows.runs((4, 6), [[(0, 2)], [(0, 3)]]), Windows.runs((4, 6), [[(2, 4)], [(3, 6)]])
    assert coverage((4, 6), dict(enumerate((corner, *others)))).faults


def test_a_rank_that_has_an_element_twice():
    assert "several ranks (0, 0)" in coverage((4,), {0: Windows.runs((4,), [[(0, 3), (2, 4)]])}).faults[0]


def test_of_another_tensor():
    assert "a tensor of shape (4, 6), not (6, 4)" in coverage((6, 4), columns((0, 6))).faults[0]


def test_any_windows():
    """Flat ranges, interleaved ones, and cuts in any order, of uneven tensors."""
    shape = (5, 3, 7)
    bounds = [0, 1, 20, 21, 22, 64, 90, 105]
    flat = {k: Windows.flat(shape, a, b) for k, (a, b) in enumerate(pairwise(bounds))}
    assert coverage(shape, flat).faults == ()
    del flat[4]
    assert coverage(shape, flat).faults[0].startswith("no rank has [1:2, 0:1, 1:7]")
    places = list(product(range(3), range(2)))
    cuts = (Cut(0, 2), Cut(0))
    for each in (
        {k: in_order((13, 5), {0: (1, 0)}, (3, 2), place) for k, place in enumerate(places)},
        {k: interleaved((24, 5), cuts, (3, 2), place) for k, place in enumerate(places)},
    ):
        shape = each[0].global_shape
        assert coverage(shape, each).faults == ()
        first = next(k for k, windows in each.items() if 0 not in windows.local_shape)
        assert coverage(shape, {k: w for k, w in each.items() if k != first}).faults


def test_against_counting():
    """Random rectangles: the proof says what counting every element says."""
    rng = random.Random(3)
    seen = set()
    for _ in range(400):
        shape = tuple(rng.randint(1, 4) for _ in range(rng.randint(1, 3)))
        windows = {}
        for rank in range(rng.randint(1, 4)):
            runs = []
            for size in shape:
                start = rng.choice([0, 0, rng.randint(0, size)])
                runs.append([(start, rng.choice([size, size, rng.randint(start, size)]))])
            windows[rank] = Windows.runs(shape, runs)
        counts = torch.zeros(shape, dtype=torch.int64)
        for each in {tuple((r.window, r.shape) for r in w.rectangles): w for w in windows.values()}.values():
            for part in each.rectangles:
                where = zip(part.window.offsets, part.shape, strict=True)
                counts[tuple(slice(o, o + n) for o, n in where)] += 1
        right = bool((counts == 1).all())
        seen.add(right)
        assert (coverage(shape, windows).faults == ()) is right, windows
    assert seen == {True, False}


def test_many_parts():
    """Of 16,384 ranks: seconds would be minutes for every pair of them."""
    shape = (16384, 3)
    windows = {k: Windows.of(Window(shape, (k, 0)), (1, 3)) for k in range(16384)}
    assert coverage(shape, windows).regions == 16384
