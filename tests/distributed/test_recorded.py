"""Code that was never written for this library, recorded on the meta device and replayed on shards."""

import pytest
import torch
from packaging.version import Version
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

import tritoninit as ti
from tests.distributed.ranks import expected, meshes
from tests.distributed.test_models import local

WIDTH = 10
TAKES_INTEGERS = Version(torch.__version__) >= Version("2.11")  # fully_shard, as parameters


class Foreign(nn.Module):
    """What constructors do: parts, patches, copies, arithmetic on what was drawn, numbers of their own."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH, padding_idx=1)
        self.up = nn.Linear(WIDTH, 14)
        self.down = nn.Linear(14, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.square = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.rates = nn.Parameter(torch.log(torch.rand(WIDTH, 3) + 1e-3))
        self.steps = nn.Parameter(torch.arange(1, 8).float().log().repeat(WIDTH, 1))
        self.unit = nn.Parameter(F.normalize(torch.randn(7, 5), dim=-1))
        if TAKES_INTEGERS:
            self.order = nn.Parameter(torch.randperm(9), requires_grad=False)
        self.slow = nn.Linear(WIDTH, 14)
        self.head = nn.Linear(WIDTH, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("angles", 1.0 / 10.0 ** torch.arange(4.0), persistent=False)
        self.post_init()

    @torch.no_grad()
    def post_init(self):
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.orthogonal_(self.square)
        self.down.weight.normal_(0, 0.02).div_(2**0.5)
        self.up.bias.zero_()
        self.up.bias[3:7].fill_(1.0)
        self.slow.load_state_dict(self.up.state_dict())


def fsdp(model, mesh):
    return fully_shard(model, mesh=mesh)


def both(model, mesh):
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel(), "qkv": ColwiseParallel()}
    parallelize_module(model, mesh["b"], plan, src_data_rank=None)
    return fully_shard(model, mesh=mesh["a"])


@pytest.mark.filterwarnings("ignore:for .*. copying from a non-meta parameter")
@pytest.mark.parametrize(("layout", "shape"), [(fsdp, (2,)), (fsdp, (4,)), (both, (2, 2))])
def test_each_rank_has_its_part_of_the_one_model(layout, shape):
    with ti.record() as own, torch.device("meta"):
        recorded = Foreign()
    rules = ti.RuleSet.from_json(own.rules(recorded).to_json())
    one = Foreign()
    ti.initialize_(one, rules, seed=5)
    whole = dict(one.named_parameters())
    assert torch.equal(one.slow.weight, one.up.weight)
    for mesh in meshes(*shape):
        numbers = Foreign()
        with torch.no_grad():
            for p in numbers.parameters():
                p.copy_(torch.arange(p.numel()).reshape(p.shape))
        held = {name: local(p).clone() for name, p in layout(numbers, mesh).named_parameters()}
        with torch.device("meta"):
            model = Foreign()
        layout(model, mesh)
        ti.initialize_(model, rules, seed=5, device="cpu")
        for name, p in model.named_parameters():
            assert local(p).equal(expected(whole[name], held[name])), name
        assert model.angles.equal(one.angles)
