"""Uneven shards of FSDP2 x TP: where torch's own description of them is wrong, and ours is not."""

from collections import Counter

import pytest
import torch
from torch.distributed.tensor import Shard

from tritoninit.distributed.cuts import in_order


def chunks(x, count):
    """As FSDP and TP cut: ranks beyond the last have nothing."""
    found = list(torch.chunk(x, count)) if len(x) else []
    return found + [x[:0]] * (count - len(found))


def held(size, data, tensor):
    """By the coordinates in a mesh, which rows a rank has: FSDP cuts what is tensor-parallel."""
    for j, by_tensor in enumerate(chunks(torch.arange(size), tensor)):
        for i, rows in enumerate(chunks(by_tensor, data)):
            yield (i, j), rows.tolist()


@pytest.mark.parametrize("tensor", [2, 3, 4, 8])
def test_ours(tensor):
    for size in range(1, 40):
        for data in (2, 3, 5):
            for place, rows in held(size, data, tensor):
                ours = in_order((size,), {0: (1, 0)}, (data, tensor), place)
                found = [each.window.offsets[0] + k for each in ours.rectangles for k in range(each.shape[0])]
                assert found == rows


def torchs_mistakes(size, data, tensor):
    """What is wrong with torch's description on some rank of a mesh."""
    from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset as described
    from torch.distributed.tensor.placement_types import _StridedShard

    wrong = set()
    placements = (_StridedShard(0, split_factor=tensor), Shard(0))
    for place, rows in held(size, data, tensor):
        (count,), (first,) = described((size,), (data, tensor), list(place), placements)
        if count != len(rows):
            wrong.add("shape")
        elif rows and first != rows[0]:
            wrong.add("offset")
    return wrong


@pytest.mark.slow
def test_torchs():
    """What docs/sharded.md says of the version that it names; another may know better."""
    if not torch.__version__.startswith("2.13."):
        return
    counts = Counter(
        what
        for size in range(1, 200)
        for tensor in (2, 3, 4, 8)
        for data in (2, 3, 4, 5, 8)
        for what in torchs_mistakes(size, data, tensor) | {"all"}
    )
    assert counts == {"all": 3980, "shape": 450, "offset": 31}
