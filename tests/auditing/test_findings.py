"""What an audit finds in models made to be wrong, does not find in right ones, and how it says so."""

import json
import re

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.auditing.stacks import initialized, records, stack
from tritoninit.auditing.findings import audit
from tritoninit.auditing.moments import ALARM
from tritoninit.auditing.report import Report
from tritoninit.combinators import Keep


class TestFindings:
    """Each from a model that is wrong in one way; the same model is right before."""

    @pytest.fixture
    def module(self):
        module = stack()
        report = initialized(module)
        assert report.audit.ok
        assert audit(module).ok
        return module

    @pytest.mark.parametrize(
        ("value", "words"),
        [(float("nan"), "1 NaN"), (float("inf"), "1 infinite"), (-float("inf"), "1 infinite")],
    )
    def test_not_finite(self, module, value, words):
        with torch.no_grad():
            module[1].up.weight[3, 4] = value
        found = audit(module)
        assert found.findings == (f"1.up.weight holds {words} of 960 elements",)
        assert found.coverage.nonfinite == ("1.up.weight",)
        assert not found.ok
        assert records(found)["1.up.weight"].mean is None

    def test_seeded_anew(self, module):
        for layer in module:
            torch.manual_seed(0)
            nn.init.normal_(layer["down"].weight)
        assert audit(module).findings == ("{0..2}.down.weight hold the same random numbers",)

    def test_seeded_anew_before_layers_of_other_shapes(self):
        layers = []
        for shape in ((64, 64), (128, 64), (64, 128)):
            torch.manual_seed(0)
            layers.append(nn.Linear(*shape, bias=False))
        assert audit(nn.ModuleList(layers)).findings == ("{0..2}.weight begin with the same random numbers",)

    def test_a_table_of_sinusoids_is_not_random(self, module):
        """As in Marian and Pegasus, whose encoder and decoder have the same one."""
        angle = torch.arange(30.0)[:, None] * 10000 ** (-torch.arange(16) / 16)
        table = torch.cat([angle.sin(), angle.cos()], 1)
        module.encoder = nn.Embedding.from_pretrained(table)
        module.decoder = nn.Embedding.from_pretrained(table.clone())
        assert audit(module).ok

    def test_same_numbers_under_other_names(self, module):
        module.head = nn.Linear(24, 40)
        with torch.no_grad():
            module.head.weight.copy_(module[2].up.weight)
        assert audit(module).findings == ("2.up.weight and head.weight hold the same random numbers",)

    def test_same_key_in_a_report(self, module):
        done = [
            ti.Assignment(name, p, ti.Normal(), ti.Key(0), "numpy")
            for name, p in (("a", module[0].up.weight), ("b", module[1].up.weight))
        ]
        for each in done:
            each.initializer(each.tensor, key=each.key)
        assert Report(done, seed=0).audit.findings == ("a and b hold the same random numbers",)

    def test_tied_is_not_the_same_numbers(self, module):
        module[1].up.weight = module[0].up.weight
        found = audit(module)
        assert found.ok
        assert "1.up.weight" not in records(found)

    @pytest.mark.parametrize(
        "value",
        [
            torch.arange(960.0).view(40, 24),  # a table of positions
            torch.arange(24.0).log1p().expand(40, 24),  # Mamba's A_log
            torch.eye(40, 24),
            torch.ones(40, 24),
        ],
    )
    def test_equal_by_formula(self, module, value):
        with torch.no_grad():
            for layer in module:
                layer["up"].weight.copy_(value)
        assert audit(module).ok

    def test_equal_buffers_and_loaded_parameters(self, module):
        for layer in module:
            layer.register_buffer("table", torch.randn(50, generator=torch.Generator().manual_seed(0)))
        assert audit(module).ok
        loaded = [
            ti.Assignment(str(k), nn.Parameter(torch.arange(99.0).sin()), Keep(), None, "") for k in range(2)
        ]
        assert Report(loaded, seed=0).audit.ok

    def test_few_numbers_may_be_equal(self, module):
        module.extra = nn.ParameterList([torch.tensor([0.3, 0.1, 0.2]) for _ in range(2)])
        assert audit(module).ok

    def test_shared_memory(self, module):
        module[1].up.weight = nn.Parameter(module[0].up.weight.detach()[:, :])
        found = audit(module)
        assert "0.up.weight and 1.up.weight share memory and are not tied: what sets one sets the other" in (
            found.findings
        )
        assert found.coverage.drawn_twice == ("0.up.weight", "1.up.weight")

    def test_meta_and_lazy(self, module):
        module[1].up = nn.Linear(24, 40, device="meta")
        module[2].up = nn.LazyLinear(40)
        found = audit(module)
        assert found.findings == (
            "1.up.bias cannot be looked at: a meta tensor has no memory",
            "1.up.weight cannot be looked at: a meta tensor has no memory",
            "2.up.bias cannot be looked at: a lazy parameter has no shape yet",
            "2.up.weight cannot be looked at: a lazy parameter has no shape yet",
        )
        assert set(found.coverage.untouched) == {
            f"{k}.up.{what}" for k in (1, 2) for what in ("weight", "bias")
        }
        json.loads(found.to_json())
        assert str(found)

    def test_zeros_are_a_remark(self, module):
        for layer in module:
            nn.init.zeros_(layer["down"].weight)
        found = audit(module)
        assert found.ok
        assert found.remarks == ("{0..2}.down.weight is zero throughout",)

    def test_deviations(self):
        module = stack(2)
        report = initialized(module, ti.Rule("*.down.weight", ti.Normal(0.0, 0.02)))
        with torch.no_grad():
            module[0].down.weight.mul_(1.5)
            module[1].down.weight.add_(0.02)
            module[1].norm.weight[3] = 1.5
        first, second, third = report.audit.findings
        assert re.fullmatch(
            r"0\.down\.weight has a standard deviation of 0\.0[23]\d+ where Normal \S 0\.02 has 0\.02:"
            r" \d\d\.?\d* standard errors apart",
            first,
        )
        assert re.match(r"1\.down\.weight has a mean of 0\.0[12]\d+ where Normal \S 0\.02 has 0:", second)
        assert third == "1.norm.weight should be 1 throughout and is 1 to 1.5"
        assert report.audit.worst_z > ALARM

    def test_no_alarm_at_what_has_heavy_tails_and_few_elements(self):
        module = nn.Linear(5, 5, bias=False)
        report = initialized(module, ti.Rule("weight", ti.TruncatedNormal(0.0, 1.0, 5.5, 9.0)))
        nn.init.constant_(module.weight, 9.0)
        assert report.audit.worst_z > ALARM
        assert report.audit.ok

    def test_constant_in_bfloat16(self):
        module = nn.Linear(30, 30).bfloat16()
        report = initialized(module, ti.Rule("*", ti.Constant(0.1)))
        assert report.audit.ok
        row = records(report.audit)["weight"]
        assert row.expected_mean == row.mean == float(torch.tensor(0.1).bfloat16())
        assert row.constant == row.mean

    def test_sentences_are_sorted_and_name_layers_together(self, module):
        with torch.no_grad():
            for layer in module:
                layer["up"].bias[0] = float("nan")
                layer["norm"].bias[1] = float("nan")
        assert audit(module).findings == (
            "{0..2}.norm.bias holds 1 NaN of 40 elements",
            "{0..2}.up.bias holds 1 NaN of 40 elements",
        )

    def test_a_hundred_right_audits(self):
        """The worst |z| of 100 seeds, 12 scores each, stays far below the alarm."""
        module = stack(1, width=5)
        worst = [initialized(module, seed=seed).audit for seed in range(100)]
        assert all(found.ok for found in worst)
        assert max(found.worst_z for found in worst) < 6


class TestWhatIsAudited:
    @pytest.mark.parametrize(
        ("given", "named"),
        [
            (None, "None"),
            ([nn.Linear(2, 2)], "list [Linear(in_features=2, out_features=2"),
            ({}, "dict {}"),
            ("gpt2", "str 'gpt2'"),
            (3, "int 3"),
            (nn.Linear, "<class 'torch.nn.modules.linear.Linear'>"),
            (torch.ones(1), "Tensor tensor([1.])"),
            ((p for p in ()), "generator <generator object"),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize(
        "look",
        [
            audit,
            lambda given: audit(given, report=[]),
            ti.initialize_,
            lambda given: ti.mup(ti.TORCH_DEFAULTS, given),
        ],
    )
    def test_only_modules(self, look, given, named):
        with pytest.raises(TypeError, match=re.escape(f"a model is an nn.Module, not {named}")):
            look(given)

    def test_only_modules_by_an_intercept(self):
        with ti.intercept(seed=0) as done:
            pass
        for look in (done.assignments, lambda given: done.report(given).audit):
            with pytest.raises(TypeError, match=r"a model is an nn\.Module, not None"):
                look(None)

    @pytest.mark.parametrize("report", ["abc", [3], [None]])
    def test_only_assignments(self, report):
        with pytest.raises(TypeError, match="a report is a sequence of Assignment"):
            audit(nn.Linear(2, 2), report=report)

    @pytest.mark.parametrize("module", [nn.ReLU(), nn.Sequential(), nn.Module()], ids=str)
    def test_a_module_without_parameters(self, module):
        found = audit(module)
        assert (found.ok, found.rows) == (True, ())
        assert str(found)
