"""Train 64 small networks at once, each of which starts where it would start alone.

python examples/ensemble.py
"""

import torch
from torch import nn

import tritoninit as ti

MEMBERS, STEPS = 64, 200

model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
members = ti.ensemble(model, seeds=range(MEMBERS))  # {"0.weight": [64, 32, 1], ...}, drawn together

# The fifth is what the model alone would be with seed 5.
ti.initialize_(model, seed=5)
assert all(members[name][5].equal(parameter) for name, parameter in model.named_parameters())

x = torch.linspace(-2, 2, 64).unsqueeze(1)
y = torch.sin(3 * x)
outputs = torch.vmap(torch.func.functional_call, in_dims=(None, 0, None))
optimizer = torch.optim.Adam(members.values(), lr=0.01)
for _ in range(STEPS):
    losses = (outputs(model, members, (x,)) - y).square().mean(dim=(1, 2))
    optimizer.zero_grad()
    losses.sum().backward()
    optimizer.step()

print(f"{MEMBERS} members  loss {losses.min():.5f} to {losses.max():.5f}")
far = torch.tensor([[0.0], [6.0]])
with torch.no_grad():
    spread = outputs(model, members, (far,)).std(dim=0).squeeze(1)
print(f"they agree where there was data ({spread[0]:.4f}), and not beyond ({spread[1]:.4f})")
