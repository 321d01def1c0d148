"""What a model's walk costs where modules are shared at every level, and rules where there are thousands."""

import random
import time
from fnmatch import fnmatchcase
from functools import partial

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.zoo import folder, init  # noqa: F401 - a fixture
from tritoninit import schemes
from tritoninit.models.globs import Globs
from tritoninit.models.slots import slots

DEPTH = 60  # twice as many places at each level: what walks into all of them does not end


def doubled(depth, inner=None):
    """Modules that hold the one below them twice."""
    module = inner or nn.Linear(4, 4)
    for _ in range(depth):
        outer = nn.Module()
        outer.a = outer.b = module
        module = outer
    return module


def diamonds(depth):
    """As :func:`doubled`, by way of a module of its own on each side."""
    module = nn.Linear(4, 4)
    for _ in range(depth):
        module = nn.ModuleDict({"a": nn.Sequential(module), "b": nn.Sequential(module)})
    return module


@pytest.mark.parametrize("model", [doubled, diamonds])
@pytest.mark.parametrize(
    "walk",
    [
        lambda model: ti.initialize_(model, seed=0).audit,
        ti.audit,
        lambda model: ti.initialize_(model, ti.mup(ti.TORCH_DEFAULTS, model), seed=0),
        partial(
            ti.initialize_, rules=[ti.Rule("*.a.weight", ti.Ones()), ti.Rule(lambda *_: True, ti.Zeros())]
        ),
        partial(ti.initialize_, skip=["*.bias", "a.*"]),
        *[
            lambda model, rules=rules: ti.initialize_(model, rules(model), seed=0)
            for rules in (
                lambda model: schemes.llama(),
                lambda model: schemes.wang_init(8, 2),
                lambda model: schemes.resnet(),
                lambda model: schemes.vit_timm(),
            )
        ],
    ],
)
def test_shared_at_every_level(model, walk):
    walk(model(DEPTH))


def test_intercept_of_modules_shared_at_every_level():
    with ti.intercept(seed=0) as done:
        model = doubled(DEPTH)
    names = [each.name for each in done.assignments(model)]
    assert names == ["a." * DEPTH + "weight", "a." * DEPTH + "bias"]
    assert done.report(model).audit.ok


def test_meta_modules_shared_at_every_level():
    with torch.device("meta"):
        model = doubled(DEPTH, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    direct = doubled(DEPTH, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    built = ti.initialize_(model, seed=0, device="cpu")
    assert built.audit.fingerprint == ti.initialize_(direct, seed=0).audit.fingerprint
    assert built.audit.ok


def test_reports_have_first_names():
    found = ti.initialize_(doubled(18), seed=0)
    assert [each.name for each in found] == ["a." * 18 + "weight", "a." * 18 + "bias"]
    assert [row.name for row in found.audit.rows] == [each.name for each in found]


@pytest.mark.parametrize(
    "entry",
    ["b." * DEPTH + "weight", "a.b." * (DEPTH // 2) + "weight", "a." * DEPTH + "weight", "b.*.weight", "*t"],
)
def test_every_name_selects(entry):
    """Those that are not listed, too: a state dict's keys may be any."""
    found = ti.initialize_(doubled(DEPTH), seed=0, skip=entry)
    kept = [each.name for each in found if isinstance(each.initializer, ti.Keep)]
    assert kept == ["a." * DEPTH + "weight"]


def test_modules_select_where_they_are_not_listed():
    model = doubled(DEPTH)
    for entry in ("b." * (DEPTH - 1) + "b", model.b.b.b, model):
        assert all(
            isinstance(each.initializer, ti.Keep) for each in ti.initialize_(model, seed=0, skip=entry)
        )
    for wrong in ("b." * DEPTH + "wieght", "b." * (DEPTH + 1) + "weight", "b.c.weight", "b." * DEPTH):
        with pytest.raises(ValueError, match="skip matches nothing"):
            ti.initialize_(model, seed=0, skip=wrong)


def test_names_are_all_listed_where_they_are_few():
    """Of a block that stands in a list many times, and holds another that is shared."""
    inner = nn.Linear(2, 2)
    block = nn.ModuleDict({"x": inner, "y": nn.Sequential(inner)})
    model = nn.ModuleList([block] * 300)
    weight, _ = slots(model)
    assert weight.names == {f"{k}.{way}.weight" for k in range(300) for way in ("x", "y.0")}
    assert weight.name == "0.x.weight"
    assert [(owner is inner, local) for owner, local in weight.places] == [(True, "weight")]


def test_a_module_that_holds_its_parent():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    model[1].parent = model
    found = ti.initialize_(model, seed=0, skip=model[1])
    assert [type(each.initializer).__name__ for each in found] == [
        "KaimingUniform",
        "Uniform",
        "Keep",
        "Keep",
    ]
    assert {name for slot in slots(model) for name in slot.names} == set(dict(model.named_parameters()))


@pytest.mark.parametrize("build", ["doubled", "diamonds"])
def test_command(folder, build):  # noqa: F811 - the fixture
    """Of which what torch itself walks for --out, and to move a model, is a part."""
    pytest.importorskip("safetensors")
    source = "from tests.models.test_growth import doubled, diamonds\n"
    (folder / f"grown_{build}.py").write_text(f"{source}def model(): return {build}({DEPTH})\n")
    assert init(f"grown_{build}:model", "--out", "model.safetensors") == 0
    from safetensors.torch import load_file

    way = "a." if build == "doubled" else "a.0."
    assert set(load_file("model.safetensors")) == {way * DEPTH + "weight", way * DEPTH + "bias"}


class TestGlobs:
    NAMES = ("", "a", "b.0.w", "b.1.w", "b.12.w", "[ab]", "x\ny.w", "*", "B.0.w")
    GLOBS = (
        "*", "a", "b.*", "*1*", "b.?.w", "[ab]", "[!a]", "b.[0-9].w", "", "a", "b.1.w", "[", "[]", "*?w"
    )  # fmt: skip

    @pytest.mark.parametrize("times", [1, 30])
    @pytest.mark.parametrize("name", NAMES)
    def test_as_one_by_one(self, name, times):
        globs = [*self.GLOBS * times, "a"]
        right = [k for k, glob in enumerate(globs) if name == glob or fnmatchcase(name, glob)]
        assert list(Globs(globs).matching(name)) == right

    @pytest.mark.parametrize("form", ["layers.{}.w*", "*.{}.weight", "*{}*", "layers.{}.weight", "*[{}].*"])
    def test_thousands(self, form):
        """4,000 globs and 8,000 names: one by one, each glob was compiled for each name."""
        began = time.process_time()
        globs = Globs([form.format(k) for k in range(4000)])
        for k in range(0, 8000, 4):
            first = next(globs.matching(f"layers.{k}.weight"), None)
            assert first is not None or form.startswith("layers") or k >= 4000
        assert time.process_time() - began < 10

    def test_rules_in_their_order(self):
        """Among thousands by name one by class, one by a function and one that leaves a parameter out."""
        model = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))
        rules = [
            ti.Rule("7.*", {"weight": ti.Constant(7.0)}),
            *(ti.Rule(f"{k}.w*", ti.Constant(float(k))) for k in range(100)),
            ti.Rule("7.bias", ti.Constant(70.0)),
            ti.Rule(lambda name, owner: name.startswith("1"), ti.Ones()),
            *(ti.Rule(f"{k}.bias", ti.Constant(-1.0)) for k in range(200)),
            ti.Rule(nn.Linear, {"weight": ti.Constant(-2.0)}),
            ti.Rule("*", ti.Zeros()),
        ]
        for slot in slots(model):
            right = next(found for rule in rules if (found := rule.find(slot)) is not None)
            assert ti.RuleSet("rules", "", rules).find(slot) == right


def test_globs_that_are_endings_match_as_others_do():
    """Many of which are looked at without a regular expression: newlines, dots, what is wild within them."""
    random.seed(0)
    for _ in range(500):
        given = ["*" * random.randint(0, 2) + "".join(random.choices("ab.\n?", k=2)) for _ in range(3)]
        for name in ("".join(random.choices("ab.\n", k=random.randint(0, 4))) for _ in range(5)):
            found = [k for k, glob in enumerate(given) if fnmatchcase(name, glob)]
            assert [*Globs(given).matching(name)] == found
            assert not found or not Globs(given).none_matches(name)
