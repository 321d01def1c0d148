"""docs/peers.md: no row is empty, no peer's initializer is left out, every test that it names is there."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

from tools import peers
from tritoninit import schemes
from tritoninit.catalogue import PEERS
from tritoninit.models.rules import RuleSet

ROOT = Path(__file__).resolve().parents[1]


def named_in(path):
    """The names of a file's tests, of those in classes both with and without the class."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            found |= inner | {f"{node.name}::{name}" for name in inner}
    return found


def test_the_page_is_what_the_tool_writes():
    assert peers.PAGE.read_text(encoding="utf-8") == peers.page()


@pytest.mark.parametrize(
    "row", [*peers.rows(), *peers.scheme_rows()], ids=lambda row: f"{row.peer}.{row.name}"
)
def test_no_row_is_empty(row):
    assert row.ours.strip("`")
    path, _, name = row.tested.partition("::")
    assert name in named_in(path)


def test_every_table_row_has_its_cells():
    lines = [line for line in peers.page().splitlines() if line.startswith("| ")]
    assert len(lines) > 80
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert len(cells) == 4
        assert all(cells[:3])


class TestNobodyIsLeftOut:
    def test_torch(self):
        functions = {name for name in vars(torch.nn.init) if name.endswith("_") and name[0] != "_"}
        assert functions == set(peers.NAMES["torch"])

    def test_of_the_catalogue(self):
        for peer, names in peers.NAMES.items():
            plain = {
                name.removesuffix("_").removesuffix("Initializer").replace("_", "").lower() for name in names
            }
            assert plain == {name.replace("_", "") for name in PEERS[peer]}

    def test_schemes(self):
        named = {name for name in schemes.__all__ if inspect.isfunction(getattr(schemes, name))}
        helpers = {
            "class_named",
            "each",
            "layer_index",
            "model_depth",
            "model_width",
            "prior_bias",
            "deepnorm_alpha",
        }
        assert set(peers.SCHEME_TESTS) == named - helpers
        assert isinstance(schemes.rezero(), RuleSet)

    def test_timm(self):
        layers = pytest.importorskip("timm.layers.weight_init")
        functions = {
            name
            for name, each in vars(layers).items()
            if inspect.isfunction(each)
            and each.__module__ == layers.__name__
            and not name.startswith(("_", "is_"))
        }
        assert functions == {row.name for row in peers.rows() if row.peer == "timm"}

    @pytest.mark.parametrize(
        ("peer", "module"), [("jax", "jax.nn.initializers"), ("keras", "keras.initializers")]
    )
    def test_where_they_are_installed(self, peer, module):
        public = pytest.importorskip(module)
        names = {name for name in dir(public) if not name.startswith("_")}
        assert set(peers.NAMES[peer]) <= names
