"""Windows: where they lie, what fits them, and what makes no sense."""

import numpy as np
import pytest
import torch

from tritoninit import Key, Uniform, Window


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ((), ()),
        ((7,), (3,)),
        ((4, 6), (0, 0)),
        ((4, 6), (3, 5)),
        ((3, 4, 5), (1, 2, 3)),
        ((2, 3, 4, 5), (1, 0, 3, 2)),
    ],
)
def test_start_is_the_row_major_index_of_the_first_element(shape, offsets):
    window = Window(shape, offsets)
    assert window.start == (np.ravel_multi_index(offsets, shape) if shape else 0)
    assert window.strides == tuple(s // 8 for s in np.empty(shape, np.int64).strides)


def test_whole_is_everything_from_the_origin():
    assert Window.whole((2, 3)) == Window((2, 3), (0, 0))
    assert Window.whole(()) == Window((), ())


def test_values_compare_and_print():
    assert Window([4, 6], [2, 0]) == Window((4, 6), (2, 0))
    assert hash(Window([4, 6], [2, 0])) == hash(Window((4, 6), (2, 0)))
    assert eval(repr(Window((4, 6), (2, 0)))) == Window((4, 6), (2, 0))


def test_index_types_become_integers():
    window = Window(torch.Size([4, 6]), (np.int64(2), torch.tensor(0)))
    assert window == Window((4, 6), (2, 0))
    assert all(type(n) is int for n in (*window.global_shape, *window.offsets))


@pytest.mark.parametrize(
    ("shape", "offsets", "error"),
    [
        ((4, 6), (0,), ValueError),
        ((4,), (0, 0), ValueError),
        ((4, -6), (0, 0), ValueError),
        ((4, 6), (0, -1), ValueError),
        ((4.5, 6), (0, 0), TypeError),
        ((4, 6), (0.0, 0), TypeError),
        (("4", 6), (0, 0), TypeError),
        ((2**40, 2**23), (0, 0), ValueError),
    ],
)
def test_nonsense_is_refused(shape, offsets, error):
    with pytest.raises(error):
        Window(shape, offsets)


@pytest.mark.parametrize(
    ("offsets", "local"),
    [((0, 0), (4, 6)), ((3, 5), (1, 1)), ((1, 2), (3, 4)), ((4, 6), (0, 0)), ((2, 0), (0, 6))],
)
def test_shapes_inside(offsets, local):
    Window((4, 6), offsets).check(local)


@pytest.mark.parametrize(
    ("offsets", "local"),
    [
        ((0, 0), (5, 6)),
        ((1, 0), (4, 6)),
        ((0, 5), (1, 2)),
        ((5, 0), (0, 6)),
        ((0, 0), (4,)),
        ((0, 0), (4, 6, 1)),
    ],
)
def test_shapes_outside(offsets, local):
    with pytest.raises(ValueError, match="does not lie inside"):
        Window((4, 6), offsets).check(local)
    poisoned = torch.full(local, torch.nan)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="does not lie inside"):
        Uniform()(poisoned, window=Window((4, 6), offsets))
    assert poisoned.isnan().all()
    assert torch.get_rng_state().equal(state)


def test_a_window_far_into_a_huge_tensor():
    """2**62 elements: the local row's values are those of the same stream places, reached in another way."""
    rows, columns = 2**40, 2**22
    row = Uniform()(torch.empty(1, 9), key=Key(1), window=Window((rows, columns), (rows - 2, columns - 9)))
    start = (rows - 2) * columns + columns - 9
    flat = Uniform()(torch.empty(9), key=Key(1), window=Window((rows * columns,), (start,)))
    assert row[0].equal(flat)
    wrapped = Uniform()(torch.empty(9), key=Key(1), window=Window((2**40,), (start % 2**34,)))
    assert not flat.equal(wrapped)  # the high word of the 64-bit block index counts
