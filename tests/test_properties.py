"""Properties, over shapes, windows, keys, dtypes and memory layouts that Hypothesis looks for."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tritoninit import Constant, Key, Normal, ParameterError, Plan, TruncatedNormal, Uniform, Window

SIGNED_64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.builds(Key, SIGNED_64, st.integers(0, 2**64 - 1))
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
SIZES = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 0])
SHAPES = st.lists(SIZES, max_size=5).map(tuple)
FILLS = st.sampled_from(
    [
        Uniform(),
        Uniform(-3, 0.5),
        Normal(),
        Normal(1, 0.02),
        TruncatedNormal(),
        TruncatedNormal(0, 1, 1, 3),
        Constant(0.1),
    ]
)


def bits(tensor):
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@st.composite
def cuts(draw, shape):
    """Slices of a tensor of ``shape``, an empty one at its end among them."""
    begins = [draw(st.integers(0, n)) for n in shape]
    lengths = [
        draw(st.integers(min(1, n - begin), n - begin)) for n, begin in zip(shape, begins, strict=True)
    ]
    return tuple(slice(begin, begin + n) for begin, n in zip(begins, lengths, strict=True))


@st.composite
def layouts(draw, shape, dtype):
    """Poisoned memory of any order of dimensions and any steps, and the view of it that has ``shape``."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.integers(1, 3)) for _ in shape]
    margins = [draw(st.integers(0, 2)) for _ in shape]
    sizes = [n * step + margin for n, step, margin in zip(shape, steps, margins, strict=True)]
    memory = torch.full([sizes[dim] for dim in order], torch.nan, dtype=dtype)
    logical = memory.permute([order.index(dim) for dim in range(len(shape))])
    slices = (
        slice(margin, margin + n * step, step) for n, step, margin in zip(shape, steps, margins, strict=True)
    )
    return memory, logical[tuple(slices)]


@given(st.data())
def test_any_window_in_any_layout_is_the_slice_of_the_whole(data):
    fill, key, dtype, shape = (data.draw(s) for s in (FILLS, KEYS, DTYPES, SHAPES))
    whole = fill(torch.full(shape, torch.nan, dtype=dtype), key=key)
    cut = data.draw(cuts(shape))
    expected = whole[cut]
    memory, local = data.draw(layouts(expected.shape, dtype))
    window = Window(shape, tuple(s.start for s in cut))
    assert fill(local, key=key, window=window) is local
    assert bits(local).equal(bits(expected))
    assert memory.isnan().sum() == memory.numel() - local.numel()


@given(KEYS, FILLS, st.lists(st.integers(1, 7), min_size=1, max_size=4), st.data())
def test_reshaping_the_whole_changes_nothing(key, fill, shape, data):
    """A contiguous tensor is its row-major run, whatever its dimensions; and the end may be left out."""
    flat = fill(torch.empty(math.prod(shape)), key=key)
    assert fill(torch.empty(shape), key=key).flatten().equal(flat)
    shorter = data.draw(st.integers(0, len(flat)))
    assert fill(torch.empty(shorter), key=key).equal(flat[:shorter])


@given(KEYS, FILLS, st.integers(0, 2**62), st.integers(0, 40), st.integers(1, 9))
def test_cutting_a_run_changes_nothing(key, fill, start, length, piece):
    """Anywhere in a stream of 2**62 elements and more."""
    whole = (start + length,)
    expected = fill(torch.full((length,), torch.nan), key=key, window=Window(whole, (start,)))
    pieces = [
        fill(torch.full((min(piece, length - at),), torch.nan), key=key, window=Window(whole, (start + at,)))
        for at in range(0, length, piece)
    ]
    assert torch.cat([torch.empty(0), *pieces]).equal(expected)


@given(KEYS, FILLS, SHAPES)
def test_arrays_and_tensors_agree(key, fill, shape):
    for torch_dtype, numpy_dtype in ((torch.float32, np.float32), (torch.float16, np.float16)):
        tensor = fill(torch.full(shape, torch.nan, dtype=torch_dtype), key=key)
        array = fill(np.full(shape, np.nan, numpy_dtype), key=key)
        assert np.array_equal(array, tensor.numpy())


@given(KEYS, FILLS, st.integers(1, 300))
def test_narrow_values_are_the_rounded_wide_ones(key, fill, n):
    """Except where rounding would have left the bounds: there, the nearest number within."""
    wide = fill(torch.empty(n), key=key)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = fill(torch.empty(n, dtype=dtype), key=key)
        rounded = wide.to(dtype)
        moved = narrow != rounded
        if isinstance(fill, Uniform):
            assert (rounded[moved] == fill.high).all()
            assert (narrow < fill.high).all()
        else:
            assert not moved.any()


def smallest_from(bound, dtype):
    """The smallest number of ``dtype`` that is at least ``bound``, in float64."""
    nearest = torch.tensor(bound, dtype=torch.float64).to(dtype)
    if nearest.double() >= bound:
        return nearest.item()
    if dtype == torch.float16:  # whose nextafter PyTorch leaves to NumPy
        return float(np.nextafter(nearest.numpy(), np.float16(np.inf)))
    return torch.nextafter(nearest, torch.tensor(torch.inf, dtype=dtype)).item()


NONE_INSIDE = r"no \w+ number lies in|is out of range"
BOUNDS = st.floats(-100, 100, width=32) | st.floats(-(2.0**100), 2.0**100, width=32)


@given(KEYS, BOUNDS, BOUNDS, DTYPES)
def test_uniforms_stay_inside_any_bounds(key, one, other, dtype):
    """Or an error says that the dtype has no number inside to give."""
    low, high = sorted((one, other))
    assume(low < high)
    possible = max(-low, high) <= torch.finfo(dtype).max and smallest_from(low, dtype) < high
    with nullcontext() if possible else pytest.raises(ParameterError, match=NONE_INSIDE):
        values = Uniform(low, high)(torch.empty(64, dtype=dtype), key=key).double()
        assert (values >= low).all()
        assert (values < high).all()


@given(KEYS, st.floats(-100, 100), st.floats(0.01, 100), st.floats(-5, 4), st.floats(0.01, 10), DTYPES)
def test_truncated_normals_stay_inside_any_bounds(key, mean, std, left, width, dtype):
    """Or an error says that the dtype has no number inside to give."""
    a, b = (float(np.float32(mean + std * z)) for z in (left, left + width))
    possible = smallest_from(a, dtype) <= b
    with nullcontext() if possible else pytest.raises(ParameterError, match=NONE_INSIDE):
        values = TruncatedNormal(mean, std, a, b)(torch.empty(64, dtype=dtype), key=key).double()
        assert (values >= a).all()
        assert (values <= b).all()


PATHS = st.lists(st.text(max_size=5) | SIGNED_64, max_size=3)


@given(KEYS, PATHS, PATHS)
def test_other_paths_lead_to_other_streams(key, path, other):
    """64-bit hashes of so few paths do not collide."""
    one, two = key, key
    for name in path:
        one = one.fold_in(name)
    for name in other:
        two = two.fold_in(name)
    assert (one == two) == (path == other)
    assert one.seed == key.seed


@given(KEYS, st.lists(st.tuples(FILLS, SHAPES, DTYPES), max_size=6))
def test_a_plan_is_its_fills_one_by_one(key, parts):
    plan, targets = Plan(), []
    for number, (fill, shape, dtype) in enumerate(parts):
        targets.append(torch.full(shape, torch.nan, dtype=dtype))
        plan.add(targets[-1], fill, key.fold_in(number))
    plan.run()
    for number, ((fill, shape, dtype), target) in enumerate(zip(parts, targets, strict=True)):
        assert bits(target).equal(bits(fill(torch.empty(shape, dtype=dtype), key=key.fold_in(number))))


@given(SHAPES, st.data())
def test_a_windows_start_is_numpys(shape, data):
    offsets = tuple(data.draw(st.integers(0, max(n - 1, 0))) for n in shape)
    if 0 not in shape:
        expected = int(np.ravel_multi_index(offsets, shape)) if shape else 0
        assert Window(shape, offsets).start == expected
