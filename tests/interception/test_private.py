"""What is private to torch: who uses it, when, and what still works in a torch without it."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tritoninit
from tritoninit.interception import private

PACKAGE = Path(tritoninit.__file__).parent
FOLDER = PACKAGE / "interception"

# All that intercept needs. A new one here is one more that a new torch may take away.
NEEDED = [
    "torch.Tensor._version",
    "torch._C.DisableTorchFunction",
    "torch._C.StorageBase._cdata",
    "torch._C.StorageBase._new_with_weak_ptr",
    "torch._C._are_functorch_transforms_active",
    "torch._C._len_torch_dispatch_stack",
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack",
    "torch._ops.OpOverload",
    "torch._ops.OpOverloadPacket",
    "torch.autograd.graph._engine_run_backward",
    "torch.multiprocessing.reductions.StorageWeakRef",
    "torch.utils._mode_utils.no_dispatch",
]
UNDOCUMENTED = ("torch.multiprocessing.reductions",)  # private, though its name does not say so

PROGRAM = """
import ctypes, gc, json, pkgutil, sys
import torch, torch.nn.utils.parametrize, torch.optim.swa_utils

def take_away(path):
    '''The name and what it stood for, and the class or module that held it, which has it no more.'''
    owner, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    holder = next(each for each in getattr(owner, "__mro__", (owner,)) if name in vars(each))
    return holder, name, names_of(holder).pop(name)

def give_back(holder, name, value):
    names_of(holder)[name] = value
    changed(holder)

def names_of(holder):
    '''Written to, too, where Python code may not: classes made in C.'''
    if not isinstance(holder, type):
        return vars(holder)
    changed(holder)
    (names,) = gc.get_referents(vars(holder))
    return names

def changed(holder):
    if isinstance(holder, type):
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(holder))

def attempt():
    '''What the library does without intercept, and what intercept says.'''
    tensor = ti.normal_(torch.empty(3), key=ti.Key(0))
    audit = ti.initialize_(torch.nn.Linear(3, 2), seed=0).audit
    try:
        ti.intercept(seed=0).__enter__()
    except RuntimeError as error:
        said = str(error)
    else:
        said = "nothing"
    return tensor.tolist(), audit.ok, said

names = json.loads(sys.argv[1])
taken = [take_away(name) for name in names]
import tritoninit as ti
for name in ti.__all__:
    getattr(ti, name)
ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "tritoninit"}
loaded = {name: module.__file__ for name, module in ours.items() if module.__file__}  # folders have none
without = {"all": attempt()}
for each in taken:
    give_back(*each)
for name in names:
    taken = take_away(name)
    without[name] = attempt()
    give_back(*taken)
with ti.intercept(seed=0) as intercepted:
    linear = torch.nn.Linear(3, 2)
told = len(intercepted.assignments(linear))
print(json.dumps({"loaded": loaded, "without": without, "told": told}))
"""


@pytest.fixture(scope="module")
def seen():
    """From a process where torch loses names: all of them before the import, then one after the other."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(NEEDED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestWithout:
    @pytest.mark.parametrize("name", NEEDED)
    def test_one(self, seen, name):
        values, ok, said = seen["without"][name]
        assert values == tritoninit.normal_(torch.empty(3), key=tritoninit.Key(0)).tolist()
        assert ok
        assert said == f"intercept needs {name}, which torch {torch.__version__} does not have"

    def test_all_before_the_import(self, seen):
        values, ok, said = seen["without"]["all"]
        assert values == tritoninit.normal_(torch.empty(3), key=tritoninit.Key(0)).tolist()
        assert ok
        assert re.fullmatch(r"intercept needs torch\.\S+, which torch \S+ does not have", said)

    def test_the_next_attempt_with_all_of_them_succeeds(self, seen):
        assert seen["told"] == 2


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def tree_of(path):
    return ast.parse(Path(path).read_text())


def at_import(tree):
    """What an import evaluates: of functions, the decorators and defaults alone."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
                yield from ast.walk(part)
        elif not isinstance(node, ast.Lambda):
            yield from at_import(node)


def imported(node):
    """The dotted names of what an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def private_imports(nodes):
    return [
        name
        for node in nodes
        for name in imported(node)
        if name.partition(".")[0] == "torch"
        and (any(map(is_private, name.split("."))) or name.startswith(UNDOCUMENTED))
    ]


def root(node):
    """The name that an expression such as ``torch._C.f(x).y`` starts from."""
    while not isinstance(node, ast.Name):
        inner = getattr(node, "value", None) or getattr(node, "func", None)
        if inner is None:
            return None
        node = inner
    return node.id


def torchs_names(tree):
    """What is bound in a module to torch, or to something of it."""
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        for alias, name in zip(getattr(node, "names", ()), imported(node), strict=False)
        if name.partition(".")[0] == "torch"
    }


def private_of_torch(nodes, names):
    """Private imports, and private attributes of what is bound to these names."""
    nodes = list(nodes)
    return private_imports(nodes) + [
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and is_private(node.attr) and root(node) in names
    ]


def ours(trees):
    """Private names that our own code defines."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    defined = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    stored = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    variables = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return defined | stored | variables


class TestSource:
    def test_the_list(self):
        calls = [node for node in ast.walk(tree_of(private.__file__)) if isinstance(node, ast.Call)]
        needed = [c.args[0].value for c in calls if isinstance(c.func, ast.Name) and c.func.id == "_needed"]
        assert sorted(needed) == NEEDED
        assert set(private.READING_NOTHING) == {"_version", "_backward_hooks", "_base", "_is_view"}
        assert private.HANDING_OUT == ("_typed_storage",)

    def test_no_other_file_of_interception_uses_any(self):
        """Not as an attribute of whatever, not as text, and nothing by an import."""
        trees = {path.name: tree_of(path) for path in FOLDER.glob("*.py")}
        of_torch = trees.pop("private.py")
        defined = ours(trees.values())
        assert private_imports(ast.walk(of_torch)) == []  # which would pass by the one sentence
        for name, tree in trees.items():
            nodes = list(ast.walk(tree))
            attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
            texts = [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
            words = [word for text in texts if re.fullmatch(r"[\w.]+", text) for word in text.split(".")]
            used = {word for word in (*attributes, *words) if is_private(word)}
            assert used <= defined, name
            assert private_imports(nodes) == [], name

    def test_the_import_uses_none(self, seen):
        assert {"tritoninit", "tritoninit.plan", "tritoninit.models.slots"} <= seen["loaded"].keys()
        for name, path in seen["loaded"].items():
            tree = tree_of(path)
            assert private_of_torch(at_import(tree), torchs_names(tree)) == [], name

    def test_the_import_leaves_the_recorder_out(self, seen):
        inside = {name.rpartition(".")[2] for name in seen["loaded"] if ".interception." in name}
        assert inside == {"arrivals", "entry", "intercepted", "libraries", "routes", "served"}

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("from torch._ops import OpOverload", ["torch._ops.OpOverload"]),
            (
                "from torch.autograd.graph import _engine_run_backward",
                ["torch.autograd.graph._engine_run_backward"],
            ),
            ("import torch.utils._mode_utils", ["torch.utils._mode_utils"]),
            (
                "from torch.multiprocessing.reductions import StorageWeakRef",
                ["torch.multiprocessing.reductions.StorageWeakRef"],
            ),
            ("import torch\nx = torch._C.f", ["_C"]),
            ("from torch import Tensor as T\nclass A:\n    x = T.a()[0]._version", ["_version"]),
            ("from torch import nn\n@nn._f\ndef f(x=nn._g): return nn._h", ["_f", "_g"]),
            ("import torch\nx = lambda: torch._C.f\nimport numpy as np\ny = np._z", []),
            ("from torch.a import b\nx = b.__torch_function__", []),
        ],
    )
    def test_the_reading_finds(self, source, found):
        tree = ast.parse(source)
        assert private_of_torch(at_import(tree), torchs_names(tree)) == found
