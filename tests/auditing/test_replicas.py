"""Whether replicas are equal, where there is one; real ranks are in tests/distributed."""

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.distributed.ranks import meshes
from tritoninit.auditing import replicas
from tritoninit.auditing.shares import are_apart
from tritoninit.models.scopes import WHOLE, Scope


def test_alone():
    """The fingerprint of the audit."""
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    report = ti.initialize_(model, seed=1)
    assert ti.distributed.verify(model) == report.audit.fingerprint == ti.audit(model).fingerprint


def test_nothing_to_look_at():
    with pytest.raises(TypeError, match=r"a model is an nn\.Module"):
        ti.distributed.verify([nn.Linear(2, 2)])
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(2, 2, device="meta"))
    with pytest.raises(
        ValueError, match=r"^0\.weight on rank 0 cannot be looked at: a lazy parameter.*; 1\.bias"
    ):
        ti.distributed.verify(model)
    with pytest.raises(AttributeError, match="no attribute 'verified'"):
        _ = ti.distributed.verified


def test_many_ranks(monkeypatch):
    """Who differs is told in few words, whichever rectangle it is of."""
    from torch.distributed.fsdp import fully_shard

    everyone = []
    for number, mesh in enumerate(meshes(12, 2)):
        with torch.device("meta"):
            model = nn.Linear(4, 4)
        fully_shard(model, mesh=mesh)
        ti.initialize_(model, seed=1, device="cpu")
        if number > 3:
            with torch.no_grad():
                model.bias.to_local().fill_(number % 2)
        everyone.append(dict(replicas._parts(model, WHOLE)))
    monkeypatch.setattr(replicas, "worked_out", lambda work, group, doing: everyone)
    monkeypatch.setattr(replicas, "numbers_of", lambda group: list(range(24)))
    with pytest.raises(ValueError, match="is not what") as error:
        ti.distributed.verify(nn.Linear(4, 4))
    listed = ", ".join(f"{{{k}}}" for k in range(7))
    assert str(error.value).split("; ") == [
        f"bias on ranks {listed.format(*range(k + 4, 24, 2))} and 3 more is not what it is on rank {k}"
        for k in (0, 1)
    ]


def test_several_ways_to_cut(monkeypatch):
    """Rows on two ranks and columns on others: hashes of other rectangles, which nothing compares."""
    whole = nn.Linear(4, 4, bias=False)
    ti.initialize_(whole, seed=1)
    everyone = []
    for offsets, values in (
        ((0, 0), whole.weight[:2]),
        ((2, 0), whole.weight[2:]),
        ((0, 2), whole.weight[:, 2:]),
    ):
        part = nn.Module()
        part.weight = nn.Parameter(values.detach())
        scope = Scope(windows={"weight": ti.Window((4, 4), offsets)})
        everyone.append(dict(replicas._parts(part, scope)))
    monkeypatch.setattr(replicas, "numbers_of", lambda group: list(range(len(everyone))))
    monkeypatch.setattr(replicas, "worked_out", lambda work, group, doing: everyone)
    with pytest.raises(ValueError, match=r"^weight on ranks 0, 1 and 2 is cut in more ways than one"):
        ti.distributed.verify(nn.Linear(4, 4))
    everyone.pop()
    assert ti.distributed.verify(nn.Linear(4, 4)) == ti.audit(whole).fingerprint


@pytest.mark.parametrize(
    ("places", "apart"),
    [
        ([], True),
        ([((), ())], True),
        ([((0,), (3,)), ((3,), (2,))], True),
        ([((0,), (3,)), ((2,), (1,))], False),
        ([((0, 0), (9, 2)), ((0, 2), (4, 3)), ((4, 2), (5, 3))], True),
        ([((0, 0), (9, 2)), ((0, 2), (5, 3)), ((4, 4), (5, 1))], False),
        ([((0, 0), (9, 9)), ((3, 3), (0, 2)), ((3, 3), (2, 0))], True),
    ],
)
def test_rectangles_are_apart(places, apart):
    """Whatever their order; those without an element meet nothing."""
    assert are_apart(places) == are_apart(places[::-1]) == apart
