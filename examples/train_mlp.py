"""Train a small MLP, its weights set by rules: the same first step on every machine.

python examples/train_mlp.py
"""

import torch
from torch import nn

import tritoninit as ti


def build() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 1)
    )


def main() -> None:
    model = build()
    rules = [
        ti.Rule("5.weight", ti.Zeros()),  # the output starts at zero
        ti.Rule(nn.Linear, {"weight": ti.KaimingNormal(nonlinearity="relu"), "bias": ti.Zeros()}),
        *ti.TORCH_DEFAULTS,  # the LayerNorm
    ]
    report = ti.initialize_(model, rules, seed=0)
    print(report)

    # Two rings, to be told apart: data from the same stream as the weights, by names of their own.
    key = ti.Key(0).fold_in("data")
    angle = ti.uniform_(torch.empty(512), 0, 2 * torch.pi, key=key.fold_in("angle"))
    noise = ti.normal_(torch.empty(512), std=0.1, key=key.fold_in("noise"))
    label = (torch.arange(512) % 2).float()
    radius = 1 + label + noise
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(201):
        loss = nn.functional.binary_cross_entropy_with_logits(model(points).squeeze(1), label)
        if step % 50 == 0:
            print(f"step {step:3}  loss {loss.item():.4f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
