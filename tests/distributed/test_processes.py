"""Real ranks: one global model whatever the mesh, and the training that it gives; what they tell each other.

All cases run in six processes that are forked once, for the first test; cases.py has them.
"""

from functools import cache

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.distributed import small
from tests.distributed.cases import CASES, GUIDES, SHORTLY, drawn_placements
from tests.distributed.processes import outcomes

pytestmark = pytest.mark.alone  # of the machine's cores; all of it takes less than three minutes
DEADLINE = 180.0

TRAINED = [
    "fsdp2[float32]",
    "fsdp2[bfloat16]",
    "tensor_parallel_alone",
    "fsdp2_by_tensor_parallel",
    "fsdp2_by_tensor_parallel_uneven[10]",
    "fsdp2_by_tensor_parallel_uneven[7]",
    "hybrid_sharded",
    "pipeline[whole]",
    "pipeline[renamed]",
    "pipeline[sharded]",
    "expert_parallel[False]",
    "expert_parallel[True]",
]
KILLED = ["killed[initialisation]", "killed[training]"]
FSDP1 = [name for name in CASES if name.startswith("fsdp1")]
PAGES = [f"guide[{page}]" for page in GUIDES]
TOLD = ["gathered", "replicas", "errors", "disagreements"]
NAMES = [*TRAINED, *FSDP1, *KILLED, "rerun", *PAGES, "placements", "checkpoints", *TOLD]
# Each loss comes of sums in another order. The longest is of BATCH * LENGTH terms, where each addition rounds
# by 2**-24 at most, and three steps hand on what they got. In bfloat16 each rank's gradients are rounded, by
# 2**-9 at most, before they are added, and their sum once more.
TOLERANCES = {
    "float32": small.STEPS * small.BATCH * small.LENGTH * 2.0**-24,
    "bfloat16": 2 * 2.0**-9,
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """By rank and case, what came of it."""
    return outcomes("tests.distributed.cases", tmp_path_factory.mktemp("ranks"), DEADLINE)


def values(ranks, name):
    """What a case returned, on each of its ranks that are still there."""
    count = CASES[name].ranks - name.startswith("killed")
    found = [ranks[rank][name] for rank in range(count)]
    for each in found:
        assert not each.error, each.error
    return [each.value for each in found]


def test_all_cases_are_looked_at():
    assert set(NAMES) == set(CASES)


def check_model(value, fingerprint):
    assert value["differing"] == []
    assert set(value["fingerprints"]) == {fingerprint}
    assert value["findings"] == []


@cache
def one(name):
    """What this process, which no rank is, makes of the same model."""
    kind, sizes = small.Model, {}
    if name.startswith("expert"):
        kind = small.Mixture
    if name.startswith("pipeline"):
        sizes["tied"] = False
    if "uneven" in name:
        sizes["hidden"] = int(name.split("[")[1].strip("]"))
    return small.one(kind, torch.bfloat16 if "bfloat16" in name else torch.float32, **sizes)


@pytest.mark.parametrize("name", TRAINED)
def test_one_global_model_whatever_the_mesh(ranks, name):
    """Gathered bits and fingerprints are those of one process."""
    _, fingerprint, _ = one(name)
    for value in values(ranks, name):
        check_model(value, fingerprint)


@pytest.mark.parametrize("name", TRAINED)
def test_three_steps(ranks, name):
    """Every layout trains as one process does."""
    *_, losses = one(name)
    assert losses[-1] < losses[0]
    tolerance = TOLERANCES["bfloat16" if "bfloat16" in name else "float32"]
    for value in values(ranks, name):
        assert value["trained"] == pytest.approx(losses, rel=tolerance)


@pytest.mark.parametrize("name", FSDP1)
def test_fsdp1(ranks, name):
    """Gathered and trained as the one model is, after forward passes and from the meta device, too."""
    assert values(ranks, name) == [None] * 2


@pytest.mark.parametrize("number", range(len(drawn_placements())))
def test_placements(ranks, number):
    """Drawn at random: meshes that lack some ranks, uneven and empty shards."""
    for value in values(ranks, "placements"):
        assert value[number]["local"]
        assert value[number]["gathered"]
        assert len(set(value[number]["fingerprints"])) == 1


def test_checkpoints(ranks):
    """Of one mesh, loaded on another: the same bits."""
    _, fingerprint, _ = one("fsdp2[float32]")
    for value in values(ranks, "checkpoints"):
        assert value == {"FSDP2 x TP": [fingerprint], "HSDP": [fingerprint], "one": [fingerprint]}


@pytest.mark.parametrize("name", KILLED)
def test_one_rank_is_killed(ranks, name):
    """The others end with torch's own error, soon after, and those that are left give the same model."""
    _, fingerprint, losses = one("fsdp2[float32]")
    for value in values(ranks, name):
        assert "gloo" in value["error"]
        assert value["seconds"] < 4 * SHORTLY.total_seconds()
        check_model(value, fingerprint)
        assert value["trained"] == pytest.approx(losses, rel=TOLERANCES["float32"])


def test_a_rerun(ranks):
    """All ranks in fresh processes, after one was killed: the same model, and the same training."""
    _, fingerprint, losses = one("fsdp2[float32]")
    for value in values(ranks, "rerun"):
        check_model(value, fingerprint)
        assert value["trained"] == pytest.approx(losses, rel=TOLERANCES["float32"])


def test_gathered(ranks):
    """One fingerprint, the findings of all, and names of what differs between replicas; on both ranks."""
    whole = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6))
    report = ti.initialize_(whole, seed=1)
    for value in values(ranks, "gathered"):
        assert value == {
            "alone": [name for name, _ in whole.named_parameters()],
            "first": [report.audit.fingerprint, [], [], True, 0],
            "weight": whole[0].weight.tolist(),
            "later": [
                "1.running_var is not the same on all ranks that hold it",
                "2.bias holds 1 NaN of 6 elements",
            ],
            "verified": "1.running_var on rank 1 is not what it is on rank 0",
        }


def test_verify(ranks):
    """It names the replicas that differ, of the ranks that were asked, and raises the same on all."""
    whole = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    right = ti.initialize_(whole, seed=1).audit.fingerprint
    bias = "0.bias on rank 3 is not what it is on rank 1"
    for fingerprint, message, in_shards, last, *_ in values(ranks, "replicas"):
        assert (fingerprint, message, in_shards) == (right, bias, "")
        assert last.split("; ") == [
            bias,
            "1.running_mean on rank 1 is bfloat16 of (5,) where others have float32 of (5,)",
            "1.running_var on rank 2 cannot be looked at: a meta tensor has no memory",
        ]


def test_parts_that_overlap(ranks):
    """No fingerprint of what counts twice is told as the model's, by neither way of asking."""
    what = "is cut in more ways than one: compare those that cut it alike, in a group"
    for *_, message, findings, others in values(ranks, "replicas"):
        assert message == f"weight on ranks 0, 1, 2 and 3 {what}"
        assert findings == [f"weight {what}"]
        assert others == ["weight is not the same on all ranks that hold it"]


ERRORS = {
    "verify, a window": "windows matches nothing in the model: 'nothing'",
    "verify, a prefix": "prefix is a string, or says names by names, unlike 3",
    "verify, a model": "a model is an nn.Module, not None",
    "audit, a window": "windows matches nothing in the model: 'nothing'",
    "audit, a report": "a report is a sequence of Assignment, not [1]",
    "audit, a model": "a model is an nn.Module, not None",
    "report": "a model is an nn.Module, not int 7",
}


@pytest.mark.parametrize("what", ERRORS)
def test_an_error_of_one_rank_that_looks(ranks, what):
    """The others do not wait for it, and the ranks can go on."""
    found = values(ranks, "errors")
    kind = "ValueError" if "window" in what else "TypeError"
    other = f"rank 1 cannot look at the model: {kind}: {ERRORS[what]}"
    assert [value[what] for value in found] == [other, ERRORS[what], other]
    right = ti.initialize_(nn.Linear(6, 5), seed=0).audit.fingerprint
    assert [value["afterwards"] for value in found] == [[right, right]] * 3


DISAGREEMENTS = {
    "seed": "0.weight is to have the seed 7 on rank 1 and 1 on ranks 0 and 2",
    "rules": "1.bias is to have the initializer Normal(mean=0.0, std=0.1) on rank 1 and Normal(mean=0.0,"
    " std=0.2) on ranks 0 and 2",
    "values": "1.weight is to have the initializer Value(",
    "shape": "1.weight is to have the shape (5, 6) on rank 1 and (4, 6) on ranks 0 and 2",
    "names": "2.weight is in the model of rank 1, not of ranks 0 and 2",
    "dtype": "0.weight is to have the dtype torch.bfloat16 on rank 1 and torch.float32 on ranks 0 and 2",
    "skipped": "1.weight is to have the initializer Keep() on rank 1 and KaimingUniform(",
    "drawn apart": "0.weight is to have the seed ",
}


@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_ranks_that_do_not_agree(ranks, what):
    """All raise the same, which names the first parameter; no weight is written, no generator moves."""
    found = [value[what] for value in values(ranks, "disagreements")]
    assert found[0] == found[1] == found[2]
    message, as_it_was = found[0]
    assert message.startswith(f"ranks do not agree: {DISAGREEMENTS[what]}")
    assert as_it_was


@pytest.mark.parametrize("what", ["equal", "same values", "drawn alike"])
def test_ranks_that_agree(ranks, what):
    assert [value[what] for value in values(ranks, "disagreements")] == [["", 0]] * 3


def test_an_error_of_one_rank_ends_the_others(ranks):
    """They do not wait for it."""
    messages, as_they_were = zip(
        *(value["an error"] for value in values(ranks, "disagreements")), strict=True
    )
    assert messages[1].startswith("no rule matches 2 parameters: 0.bias, 1.bias")
    assert messages[0] == messages[2] == f"rank 1 cannot initialise the model: ValueError: {messages[1]}"
    assert all(as_they_were)


def test_ranks_of_a_group_agree(ranks):
    """Who is outside of it has nothing to say."""
    assert [value["group"] for value in values(ranks, "disagreements")] == ["", "", ""]


@pytest.mark.parametrize("name", PAGES)
def test_guides(ranks, name):
    """What the pages of docs/ show is so."""
    assert values(ranks, name) == [None] * 4
