"""Uneven shards of FSDP2 x TP: where torch's own description of them is wrong, and ours is not."""

from collections import Counter

import pytest
import torch
from torch.distributed.tensor import Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset as torchs
from torch.distributed.tensor.placement_types import _StridedShard

from tritoninit.distributed.cuts import in_order


def chunks(x, count):
    """As FSDP and TP cut: ranks beyond the last have nothing."""
    found = list(torch.chunk(x, count)) if len(x) else []
    return found + [x[:0]] * (count - len(found))


def looked_at(size, data, tensor):
    """What is wrong with torch's description on some rank of a mesh; ours is compared with the truth."""
    wrong = set()
    placements = (_StridedShard(0, split_factor=tensor), Shard(0))
    for j, by_tensor in enumerate(chunks(torch.arange(size), tensor)):
        for i, held in enumerate(chunks(by_tensor, data)):
            ours = in_order((size,), {0: (1, 0)}, (data, tensor), (i, j))
            assert ours.local_shape == (len(held),)
            assert [each.window.offsets[0] for each in ours.rectangles][:1] == held[:1].tolist()
            shape, offset = torchs((size,), (data, tensor), [i, j], placements)
            if shape[0] != len(held):
                wrong.add("shape")
            elif len(held) and offset[0] != held[0]:
                wrong.add("offset")
    return wrong


def test_seven_rows_on_three_by_two():
    assert looked_at(7, 3, 2)


@pytest.mark.slow
def test_all_sizes():
    """What docs/sharded.md says, of the version that it names."""
    counts = Counter(
        what
        for size in range(1, 200)
        for tensor in (2, 3, 4, 8)
        for data in (2, 3, 4, 5, 8)
        for what in looked_at(size, data, tensor) | {"all"}
    )
    if torch.__version__.startswith("2.13."):
        assert counts == {"all": 3980, "shape": 450, "offset": 31}
