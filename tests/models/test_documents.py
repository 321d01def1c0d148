"""Rules as documents: exact, readable, of a version, and clear about what they do not know."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.test_initializers import EXAMPLES
from tritoninit.documents import as_data, initializer_of


def through_json(initializer):
    return initializer_of(json.loads(json.dumps(as_data(initializer), allow_nan=False)))


@pytest.mark.parametrize("initializer", [initializer for initializer, _ in EXAMPLES], ids=str)
def test_initializers_come_back(initializer):
    again = through_json(initializer)
    assert again == initializer
    assert repr(again) == repr(initializer)


@pytest.mark.parametrize(
    "number",
    [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 2**0.5, 3, 2**70, True],
)
def test_numbers_are_exact(number):
    (again,) = vars(through_json(ti.Constant(number))).values()
    assert repr(again) == repr(vars(ti.Constant(number))["value"])


AXES = ti.Axes(in_axes=(2,), out_axes=(1,), batch_axes=(0,), parts=(3, 5))


@pytest.mark.parametrize(
    "initializer",
    [
        ti.KaimingNormal(axes=AXES),
        ti.Stacked((ti.ZeroRow(ti.Scaled(ti.Uniform(-1, 1), 0.1), -1), ti.Keep()), 1),
        ti.TruncatedNormal(0.0, 1.0, -math.inf, 2.0),
        ti.AsOne(ti.Patched(ti.Zeros(), ())),
    ],
)
def test_nested_ones_too(initializer):
    assert through_json(initializer) == initializer


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([[0.1, math.nan], [-0.0, math.inf]]),
        torch.tensor([1, 2**62 + 1]),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j, complex(math.inf, -0.0)]),
        torch.tensor([0.1, -3e38, 1e-40], dtype=torch.bfloat16),
        torch.empty(2, 0, 3),
        torch.tensor(2.5, dtype=torch.float64),
        np.arange(3.0),
    ],
    ids=str,
)
def test_given_numbers(values):
    value = ti.Value(values)
    again = through_json(value).values
    assert again.dtype == value.values.dtype
    assert again.shape == value.values.shape
    assert (
        again.numpy(force=True).tobytes() == value.values.numpy(force=True).tobytes()
        if (value.values.dtype != torch.bfloat16)
        else torch.equal(again, value.values)
    )


RULES = (
    ti.RuleSet(
        "mine",
        "a paper",
        [
            ti.Rule("*.bias", ti.Zeros()),
            ti.Rule("*.running_var", {"running_var": ti.Ones(), "running_mean": ti.Zeros()}, optional=True),
            ti.Rule("größe", ti.Normal(0.0, 0.02)),
        ],
    )
    + ti.OWN_CODE
)


def test_rules_come_back(tmp_path):
    path = tmp_path / "rules.json"
    RULES.save(path)
    again = ti.RuleSet.load(path)
    assert again == RULES
    assert (again.name, again.citation) == (RULES.name, RULES.citation)
    assert [rule.optional for rule in again] == [rule.optional for rule in RULES]
    assert again.to_json() == RULES.to_json() == path.read_text(encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert '  {"for": "größe", "set": {"Normal": {"mean": 0.0, "std": 0.02}}},' in [
        x.replace(', "optional": true', "") for x in lines
    ]


@pytest.mark.parametrize("initializer", [initializer for initializer, _ in EXAMPLES], ids=str)
def test_initializers_come_back_from_toml(initializer):
    rules = ti.RuleSet("a", "", [ti.Rule("w", initializer)])
    text = rules.to_toml()
    assert ti.RuleSet.from_toml(text) == rules
    assert repr(ti.RuleSet.from_toml(text)[0].initializers) == repr(initializer)
    assert "axes = {none" not in text


def test_toml_comes_back(tmp_path):
    path = tmp_path / "rules.TOML"
    RULES.save(path)
    again = ti.RuleSet.load(path)
    assert again == RULES
    assert (again.name, again.citation) == (RULES.name, RULES.citation)
    assert [rule.optional for rule in again] == [rule.optional for rule in RULES]
    text = path.read_text(encoding="utf-8")
    assert again.to_toml() == text == ti.RuleSet.from_json(RULES.to_json()).to_toml()
    assert '[[rules]]\nfor = "*.bias"\nset = {Zeros = {}}\n' in text
    assert '"set each" = {running_var = {Ones = {}}, running_mean = {Zeros = {}}}' in text


@pytest.mark.parametrize(
    "value",
    [
        *(0.1, -0.0, 1e-5, 1e16, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan),
        *(3, -(2**63), 2**70, True, 1 + 2j, complex(math.inf, -0.0)),
    ],
)
def test_numbers_are_exact_in_toml(value):
    rules = ti.RuleSet("a", "", [ti.Rule("w", ti.Constant(value))])
    (again,) = ti.RuleSet.from_toml(rules.to_toml())
    assert repr(again.initializers) == repr(ti.Constant(value))


@pytest.mark.parametrize(
    "text",
    ["", "a", 'a "b" \\ c', "größe\n\t\x00\x1f\x7f\u2028", "a.b = [c]", "# no comment", "'", "\U0001f600"],
)
def test_any_text_in_toml(text):
    rules = ti.RuleSet(text, text, [ti.Rule(text, {text: ti.Zeros()})])
    again = ti.RuleSet.from_toml(rules.to_toml())
    assert again == rules
    assert (again.name, again.citation) == (text, text)


def test_toml_that_a_person_wrote():
    rules = ti.RuleSet.from_toml(
        """
# Embeddings first.
format = 'tritoninit rules'
version = 1

[[rules]]
for = "*embed*"
set.Normal.std = 0.02

[[rules]]
for = "*.weight"
optional = true
[rules.set.KaimingUniform]
a = 2.23606797749979
mode = "fan_in"
[rules.set.KaimingUniform.axes.Axes]
in_axes = [
    0,  # as in JAX
]
out_axes = [1]

[[rules]]
for = "*"
set = {TruncatedNormal = {a = -inf}}
"""
    )
    assert [rule.pattern for rule in rules] == ["*embed*", "*.weight", "*"]
    assert rules[0].initializers == ti.Normal(0.0, 0.02)
    assert rules[1].initializers == ti.KaimingUniform(a=2.23606797749979, axes=ti.Axes((0,), (1,)))
    assert rules[1].optional
    assert rules[2].initializers == ti.TruncatedNormal(a=-math.inf)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a document of rules"),
        ("format = 3", "not a document of rules"),
        ("{}", "nvalid"),
        ('format = "tritoninit rules"\nversion = 1\nversion = 1', "overwrite"),
        ('format = "tritoninit rules"\nversion = 2', "version 2"),
        ('format = "tritoninit rules"\nversion = 1\nrules = 1979-05-27', 'a list "rules"'),
        ('format = "tritoninit rules"\nversion = 1\nrules = [1979-05-27]', "rule 1: it needs"),
        (
            'format = "tritoninit rules"\nversion = 1\n[[rules]]\nfor = "a"\nset.Constant.value = 1979-05-27',
            "rule 1, for a: .*number",
        ),
        ('format = "tritoninit rules"\nversion = 1\n[[rules]]\nfor = "a"\nset.Zero = {}', "unknown: 'Zero'"),
        ("a = " + "[" * 5000, "."),
    ],
)
def test_toml_that_is_none(text, match, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        ti.RuleSet.from_toml(text)
    with pytest.raises(ValueError, match=r"a\.toml: "):
        ti.RuleSet.load(path)


def test_no_rules_in_toml():
    empty = ti.RuleSet("none", "", [])
    assert ti.RuleSet.from_toml(empty.to_toml()) == empty


def test_no_rules():
    empty = ti.RuleSet("none", "", [])
    assert ti.RuleSet.from_json(empty.to_json()) == empty


def test_equal_rules_are_in_the_same_order():
    assert ti.RuleSet("a", "", RULES) == RULES
    assert ti.RuleSet("a", "", list(RULES)[::-1]) != RULES
    assert list(RULES) != RULES
    assert len({RULES, RULES}) == 1


def test_rules_print_a_line_each():
    assert str(ti.RuleSet("a", "", list(RULES)[:2])) == (
        "*.bias: Zeros()\n*.running_var: {running_var: Ones(), running_mean: Zeros()}"
    )
    assert str(ti.TORCH_DEFAULTS).count("\n") == len(ti.TORCH_DEFAULTS) - 1


class Mine(ti.Normal):
    pass


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (ti.Rule(nn.Linear, ti.Zeros()), "by name or glob"),
        (ti.Rule("*", ti.Zeros(), within=nn.Linear), "by name or glob"),
        (ti.Rule("*", lambda module: {}), "function"),
        (ti.Rule("a", Mine()), "no word for Mine"),
        (ti.Rule("a", ti.ZeroRow(Mine(), 0)), "no word for Mine"),
    ],
)
def test_what_has_no_form_is_named(rule, why):
    with pytest.raises(ValueError, match=f"{'a' if rule.pattern == 'a' else ''}.*no form.*{why}"):
        ti.RuleSet.of([rule]).to_json()


def part(storage=0, shape=(2,), strides=(1,)):
    return {"Part": {"storage": storage, "dtype": "float32", "shape": shape, "strides": strides}}


def recorded(steps, result=part()):  # noqa: B008 - nobody changes it
    return document({"for": "a", "set": {"Recorded": {"steps": steps, "result": result}}})


def value(dtype, shape, values):
    return document({"for": "a", "set": {"Value": {"dtype": dtype, "shape": shape, "values": values}}})


def document(*rules, **head):
    return json.dumps({"format": "tritoninit rules", "version": 1, "rules": list(rules), **head})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "not a document of rules"),
        ('{"rules": []}', "not a document of rules"),
        (document(version=2), "version 2 of tritoninit rules: this release knows 1"),
        (document(version="1"), "version '1'"),
        (document(rules={}), "a list"),
        (document(more=1), "more"),
        (document("x"), "rule 1: .*a name or a glob"),
        (document({"for": "a"}), 'rule 1, for a: .*"set"'),
        (document({"for": "a", "set": {"Zeros": {}}, "set each": {}}), "rule 1, for a"),
        (document({"for": "a", "set": {"Zeros": {}}, "typo": 1}), "rule 1, for a"),
        (document({"for": "a", "set": {"Gamma": {}}}), "for a: unknown: 'Gamma'; known are AsOne"),
        (document({"for": "a", "set": {"Normal": {"sigma": 1}}}), "Normal has no sigma; it has mean, std"),
        (document({"for": "a", "set": {"Normal": {"std": -1}}}), "for a: .*std"),
        (document({"for": "a", "set": {"Normal": {"std": "1"}}}), "for a: .*std"),
        (document({"for": "a", "set": {"Normal": {"std": {"float": "one"}}}}), "for a: .*one"),
        (document({"for": "a", "set": {"ZeroRow": {"row": 1}}}), "for a: ZeroRow: .*initializer"),
        (document({"for": "a", "set": {"ZeroRow": {"initializer": 3, "row": 1}}}), "for a: .*3"),
        (document({"for": "a", "set": {"Axes": {}}}), "for a: no initializer"),
        (document({"for": "a", "set": {"Normal": []}}), "for a: .*Normal"),
        (document({"for": "a", "set": {"Normal": {}, "Zeros": {}}}), "for a: one name"),
        (document({"for": "a", "set": 3}), "for a: no initializer: 3"),
        (document({"for": "a", "set each": [1]}), "for a: .*by name"),
        (document({"for": "a", "set": {"Zeros": {}}, "optional": "yes"}), "for a: .*true or false"),
        (document({"for": "a", "set": {"Constant": {"value": {"float": [1]}}}}), r"for a: no float: \[1\]"),
        (document({"for": "a", "set": {"Constant": {"value": {"complex": 1}}}}), "for a: no complex: 1"),
        (
            document().replace("[]", '[{"for": "a", "for": "b", "set": {"Zeros": {}}}]'),
            "'for' is there twice",
        ),
        (document().replace("[]", '[{"for": "a", "set": ' + "[" * 9999 + "]" * 9999 + "}]"), "too deep"),
        (document({"for": "a", "set": {"Value": {"values": [1]}}}), "for a: Value has dtype"),
        (value("float32", 3, [1]), "for a: Value: "),
        (value("float32", [3], [1]), "for a: Value: "),
        (value("float32", [1], ["x"]), "for a: .*str"),
        (value("int8", [1], [2**70]), "for a: .*long"),
        (value("load", [1], [1]), "for a: no dtype of torch's: 'load'"),
        (value(5, [1], [1]), "for a: no dtype of torch's: 5"),
        (recorded([], result=None), "for a: Recorded: not a part .*: None"),
        (recorded([], result=part(shape=[2], strides=[-1])), "for a: .*natural numbers"),
        (recorded([], result=part(shape=[2], strides=[1, 1])), r"for a: strides \(1, 1\)"),
        (recorded([], result=part(storage={"Zeros": {}})), "for a: .*natural numbers"),
        (recorded([{"Drawn": {"into": 5, "initializer": {"Zeros": {}}}}]), "for a: Drawn: not a part"),
        (recorded([{"Drawn": {"into": part(), "initializer": 5}}]), "for a: Drawn: not an Initializer: 5"),
    ],
)
def test_what_is_wrong_is_named(text, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        ti.RuleSet.from_json(text)
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rules\.json: "):
        ti.RuleSet.load(path)


def call(function, *arguments):
    made = {"Call": {"function": function, "arguments": list(arguments), "keywords": [], "into": [part()]}}
    return recorded([made])


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "torch.load", "torch.save", "torch.hub.load", "torch.compile", "eval", "torch.Tensor"),
        *("torch.from_file", "torch.Tensor.__setstate__", "torch.Tensor.map_", "torch.Tensor.set_"),
        *("torch.Tensor.register_hook", "torch.Tensor.share_memory_", "torch.fbgemm_linear_fp16_weight"),
        *("torch.Tensor.backward", "torch.autocast", "torch.Tensor._coalesced_"),
    ],
)
def test_a_document_calls_functions_of_tensors_alone(name):
    with pytest.raises(ValueError, match=r"for a: .*no way to call"):
        ti.RuleSet.from_json(call(name, "rm"))


def test_a_person_s_document():
    text = call("torch.full", [2], 7.0)
    layer = nn.Module()
    layer.a = nn.Parameter(torch.empty(2))
    ti.initialize_(layer, ti.RuleSet.from_json(text), seed=0)
    assert layer.a.tolist() == [7, 7]


def test_what_no_step_sets_is_an_error():
    layer = nn.Module()
    layer.a = nn.Parameter(torch.empty(2))
    with pytest.raises(ValueError, match=r"a: Recorded: .*no step sets #0 float32\[2\]"):
        ti.initialize_(layer, ti.RuleSet.from_json(recorded([])), seed=0)


def test_editors_that_mark_their_files(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(RULES.to_json(), encoding="utf-8-sig")
    assert ti.RuleSet.load(path) == RULES
