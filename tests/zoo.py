"""Models to name on a command line, good and bad, in a folder of their own, and how tests name them."""

import gc
import sys
from types import SimpleNamespace

import pytest

from tritoninit.cli import main
from tritoninit.commands import timing

ZOO = """
import signal, weakref, torch
from torch import nn
import tritoninit as ti
from tritoninit.presets import Preset

def tiny():
    padded = nn.Embedding(10, 4, padding_idx=2)
    return nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Conv1d(4, 8, 3), padded)

def tied():
    model = nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 10, bias=False))
    model[2].weight = model[0].weight
    return model

def scalars():
    model = nn.Linear(3, 2)
    model.scale = nn.Parameter(torch.empty(()))
    model.none = nn.Parameter(torch.empty(0, 3))
    return model

def where():
    assert torch.get_default_dtype() == torch.bfloat16, torch.get_default_dtype()
    return nn.Linear(2, 2)

class Holder:
    build = staticmethod(tiny)

class Odd(ti.Structured):
    def check(self, target, window):
        pass
    def build(self, target, key, window):
        return torch.full(tuple(target.shape), 7.0)

own_rules = [ti.Rule("scale", Odd()), ti.Rule(nn.Linear, ti.Normal(1.0, 0.5))]
own = Preset("own", scalars, ti.RuleSet("own", "nobody", own_rules))
module = nn.Linear(2, 2)
not_a_function = 3
def raises(): raise KeyError("oops\\nand more")
def three(): return 3
def unmatched():
    model = nn.Linear(2, 3)
    model.extra, model.other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    return model
def empty(): return nn.ReLU()
def wide(): return nn.Linear(3, 3).double()
def lazy(): return nn.LazyLinear(3)
def shared():
    model = nn.Linear(4, 4)
    model.part = nn.Parameter(model.weight.data[:2])
    return model
class Exit(BaseException): pass
def leaves(): raise Exit("gone")
def __getattr__(name):
    if name == "attribute_that_raises":
        raise ImportError("needs\\nmore")
    raise AttributeError(name)
times_built = 0
def counted():
    global times_built
    times_built += 1
    return tiny()
alive = weakref.WeakSet()
def frugal():
    assert not alive, "the last model still has its memory"
    model = tiny()
    alive.update(model.modules())
    return model
def once():
    return counted() if not times_built else raises()
def interrupted():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
"""


# As timm is: its functions are in a module of the package.
KIT = """
import sys, types
models = sys.modules["kit.models"] = types.ModuleType("kit.models")
models.resnet18 = dict
__path__ = []
"""


# What is timed begins with a collection, which walks all that thousands of tests hold: a second each time.
YOUNG = SimpleNamespace(collect=lambda: gc.collect(1), freeze=lambda: None, unfreeze=lambda: None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with the modules zoo and broken in it."""
    monkeypatch.setattr(timing, "gc", YOUNG)
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "kit.py").write_text(KIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    yield tmp_path
    for name in ("zoo", "kit", "kit.models"):
        sys.modules.pop(name, None)


def written(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".py")


def init(spec, *arguments):
    """``tritoninit init`` on the CPU, also where there is a GPU."""
    return main(["init", spec, "--device", "cpu", *arguments])
