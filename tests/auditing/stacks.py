"""Models to audit."""

from torch import nn

import tritoninit as ti
from tritoninit.auditing.report import Report


def stack(layers=3, width=24):
    """Layers of a linear map, a norm and a projection without bias."""
    blocks = [
        nn.ModuleDict(
            {"up": nn.Linear(width, 40), "norm": nn.LayerNorm(40), "down": nn.Linear(40, width, False)}
        )
        for _ in range(layers)
    ]
    return nn.ModuleList(blocks)


def initialized(module, *rules, seed=0):
    """A report that knows the whole module."""
    done = ti.initialize_(module, [*rules, *ti.TORCH_DEFAULTS], seed=seed)
    return Report(done, seed=seed, module=module)


def records(found):
    """An audit's records by name."""
    return {record.name: record for record in found.rows}
