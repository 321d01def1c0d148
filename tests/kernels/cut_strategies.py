"""Random rectangles of a tensor whose last dimension is cut."""

from __future__ import annotations

import numpy as np
from cut_cases import Cut, beside
from hypothesis import strategies as st
from kernel_cases import Layout, contiguous, permuted

from tritoninit.kernels.stream import row_major_strides


@st.composite
def cuts(draw: st.DrawFn, most: int = 300) -> Cut:
    """Any rectangle of rows of up to ``most`` elements, anywhere in the stream, in any memory order."""
    outer = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    length = draw(st.integers(1, most))
    whole = (*(n + draw(st.integers(0, 2)) for n in outer), length + draw(st.integers(1, 9)))
    offsets = tuple(draw(st.integers(0, have - n)) for have, n in zip(whole, (*outer, length), strict=True))
    start = draw(st.sampled_from((0, 1, 2, 3, 4, 8, 2**32 - 100, 2**34 - 100, 2**62 + 4)))
    shape = (*outer, length)
    kind = draw(st.sampled_from(("contiguous", "wider", "stepped", "permuted")))
    offset = draw(st.integers(0, 9))
    if kind == "contiguous":
        layout = contiguous(*shape, offset=offset)
    elif kind == "wider":
        layout = beside(shape, draw(st.integers(1, 9)), offset)
    elif kind == "stepped":
        step = draw(st.integers(2, 5))
        strides = tuple(step * stride for stride in row_major_strides(shape))
        layout = Layout("stepped", shape, strides, offset)
    else:
        order = draw(st.permutations(range(len(shape))))
        inverse = tuple(int(k) for k in np.argsort(order))
        layout = permuted("permuted", tuple(shape[k] for k in order), inverse)
    return Cut.of(whole, offsets, shape, layout, start)
