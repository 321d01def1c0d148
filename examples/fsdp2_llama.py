"""Shard a Llama that has no memory yet, have each rank initialise its own part of it, and train.

torchrun --nproc-per-node 2 examples/fsdp2_llama.py    # any number of ranks has the same fingerprint
"""

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tritoninit as ti
from tritoninit.presets import Llama

SMALL = {"vocabulary": 1000, "width": 128, "depth": 2, "heads": 4, "kv_heads": 2, "inner": 256}
BATCH, LENGTH = 8, 33


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh(device, (count,))

    with torch.device("meta"):  # shapes only
        model = Llama(**SMALL)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)

    # Memory for this rank's shards, and numbers for them, which no other rank needs to send. What would go
    # wrong silently, such as a seed that differs from rank to rank, is an error before anything is written.
    report = ti.initialize_(model, ti.schemes.llama(), seed=0, device=device, check_ranks=True)
    here = sum(p.to_local().nbytes for p in model.parameters())
    whole = sum(p.nbytes for p in model.parameters())
    print(f"rank {rank}: {here:,} of {whole:,} bytes, {len(report.audit.findings)} findings", flush=True)

    fingerprint = ti.distributed.verify(model)
    if rank == 0:
        print(f"one model on {count} ranks, fingerprint {fingerprint}", flush=True)

    # The batch is drawn by its place, too: each rank draws its share of it, and none needs to be sent.
    numbers = torch.empty(BATCH // count, LENGTH, device=device)
    share = ti.Window((BATCH // count * count, LENGTH), (rank * (BATCH // count), 0))
    ti.uniform_(numbers, 0, SMALL["vocabulary"], key=ti.Key(0).fold_in("data"), window=share)
    tokens = numbers.long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(5):
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach()
        dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step}  loss {mean.item() / count:.3f}", flush=True)

    trained = ti.distributed.verify(model)  # raises where ranks that hold the same do not have the same bits
    if rank == 0:
        print(f"trained, fingerprint {trained}", flush=True)
    dist.barrier()  # gloo may abort a rank that is not through when another ends
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
