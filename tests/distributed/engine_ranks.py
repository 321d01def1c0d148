"""What one of several real processes does: FSDP1, or DeepSpeed's ZeRO-3, against the one-process model.

FSDP1 is a case of cases.py; test_engines.py runs ZeRO-3: ``python engine_ranks.py RANK WORLD_SIZE FILE``.
"""

import copy
import os
import sys
import warnings

import pytest
import torch
from torch import distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel

import tritoninit as ti
from tests.distributed.test_engines import RULES, Model, flats, fsdp

TOKENS = torch.arange(8).reshape(2, 4)


def one_model(seed, dtype=torch.float32):
    model = Model()
    return model, ti.initialize_(model, RULES, seed=seed, dtype=dtype).audit


def losses_of(model, parameters):
    """Of three steps on the same tokens on every rank."""
    optimizer, losses = torch.optim.SGD(parameters, lr=0.1), []
    for _ in range(3):
        loss = model(TOKENS).float().logsumexp(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def is_whole(model, seed):
    """Gathered, it is the one model."""
    whole, _ = one_model(seed)
    with FullyShardedDataParallel.summon_full_params(model):
        gathered = {name.replace("_fsdp_wrapped_module.", ""): p for name, p in model.named_parameters()}
        assert set(gathered) == set(dict(whole.named_parameters()))
        return all(p.equal(whole.get_parameter(name)) for name, p in gathered.items())


def fsdp1(use_orig_params, strategy):
    torch.manual_seed(dist.get_rank())
    model = fsdp(Model(), use_orig_params, sharding_strategy=strategy)
    report = ti.initialize_(model, RULES, seed=3)
    whole, audit = one_model(3)
    assert report.gather().fingerprint == audit.fingerprint
    assert is_whole(model, 3)
    with torch.no_grad():
        model(TOKENS)  # which leaves the outermost parameters gathered
    ti.initialize_(model, RULES, seed=4)
    assert is_whole(model, 4)
    with torch.no_grad():
        assert model(TOKENS).equal(one_model(4)[0](TOKENS))
    ti.initialize_(model, RULES, seed=3)
    found = losses_of(model, model.parameters())
    assert torch.tensor(found).allclose(torch.tensor(losses_of(whole, whole.parameters())), rtol=1e-5), found
    assert ti.audit(model, gather=True).ok
    with FullyShardedDataParallel.summon_full_params(model):
        ti.initialize_(model, RULES, seed=5)
    assert is_whole(model, 5)


def from_meta():
    """FSDP1 asks for one module after another, of which each gets the keys that it has in the whole."""
    with torch.device("meta"):
        model = Model()
    names = {module: name for name, module in model.named_modules()}
    rules = [ti.Rule("head.weight", ti.Normal()), *RULES]  # of tied weights FSDP1 makes two

    def fill(module):
        ti.initialize_(module, rules, seed=3, device="cpu", prefix=names[module])

    made = fsdp(model, True, param_init_fn=fill)
    whole, _ = one_model(3)
    wanted = [each.clone() for each in flats(fsdp(copy.deepcopy(whole), True))]
    assert [each.numel() for each in flats(made)[1:]] == [each.numel() for each in wanted[1:]]
    assert all(now.equal(right) for now, right in zip(flats(made)[1:], wanted[1:], strict=True))


def zero3():
    import deepspeed

    os.environ.update(RANK=str(dist.get_rank()), WORLD_SIZE=str(dist.get_world_size()), LOCAL_RANK="0")
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    for dtype in (torch.float32, torch.bfloat16):
        for offload in ("none", "cpu"):
            zero3_of(deepspeed, dtype, offload)


def zero3_of(deepspeed, dtype, offload):
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 20,
            "offload_param": {"device": offload},
        },
        "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    torch.manual_seed(dist.get_rank())
    with deepspeed.zero.Init(config_dict_or_path=config):
        model = Model()
    for parameter in model.parameters():
        parameter.ds_tensor.fill_(torch.nan)
    report = ti.initialize_(model, RULES, seed=3)
    whole, audit = one_model(3, dtype)
    assert report.gather().fingerprint == audit.fingerprint
    assert report.audit.ok, report.audit.findings
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        for name, parameter in model.named_parameters():
            assert parameter.equal(whole.get_parameter(name)), name
    with deepspeed.zero.GatheredParameters(
        list(model.parameters())
    ):  # with which nothing would stay that is written to what was gathered
        ti.initialize_(model, RULES, seed=4)
    assert ti.audit(model, gather=True).fingerprint == one_model(4, dtype)[1].fingerprint
    ti.initialize_(model, RULES, seed=3)
    engine = deepspeed.initialize(model=model, config=config)[0]
    for each in (engine, model):
        with pytest.raises(ti.TargetError, match=r"^rates: DeepSpeed's optimizer has a copy"):
            ti.initialize_(each, RULES, seed=4)
    if dtype == torch.float32:
        found = []
        for _ in range(3):
            loss = engine(TOKENS).logsumexp(-1).mean()
            engine.backward(loss)
            engine.step()
            found.append(loss.item())
        assert torch.tensor(found).allclose(torch.tensor(losses_of(whole, whole.parameters())), rtol=1e-5), (
            found
        )


def main(rank, size, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=int(rank), world_size=int(size))
    zero3()
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
