"""What stands apart in a tensor is found, and what is drawn, or trained, does not stand apart."""

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import tritoninit as ti
from tests.auditing.stacks import initialized, stack
from tritoninit.auditing import outliers as file
from tritoninit.auditing.findings import audit
from tritoninit.auditing.moments import measure
from tritoninit.auditing.outliers import LARGEST, outliers, reach, support
from tritoninit.combinators import Keep
from tritoninit.presets import PRESETS


def drawn(*shape, std=0.02, seed=0, dtype=torch.float32):
    return ti.normal_(torch.empty(*shape, dtype=dtype), std=std, key=ti.Key(seed))


def found_in(x):
    return outliers(x, measure(x))


class TestFindings:
    """Of a model that nobody reports on, unless it says so."""

    @pytest.mark.parametrize(
        "shape", [(4, 5), (8, 8), (16, 16), (24, 40), (30, 34), (32, 32), (256, 256), (1024, 1024)]
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_weight(self, shape, dtype):
        module = nn.Linear(*shape[::-1], dtype=dtype)
        with torch.no_grad():
            module.weight.copy_(drawn(*shape))
            assert audit(module).ok
            module.weight[3, 4] = -2
        (finding,) = audit(module).findings
        assert re.fullmatch(
            r"weight holds -2, \d+ standard deviations of the others away, where draws reach \d(\.\d)?",
            finding,
        )

    @pytest.mark.parametrize("value", [-2.0, 50.0, 1e36])
    @pytest.mark.parametrize(("count", "n"), [(1, 20), (3, 200), (8, 960), (5, 100_000)])
    def test_several_that_hide_each_other(self, value, count, n):
        x = drawn(n)
        x[::7][:count] = torch.linspace(value, 1.1 * value, count)
        assert found_in(x).elements == count

    @pytest.mark.parametrize(
        "build", [lambda: nn.Linear(3, 2), lambda: nn.LayerNorm(2), lambda: nn.Linear(1, 1)]
    )
    @pytest.mark.parametrize("value", [1e36, -1e20])
    def test_a_number_without_a_square(self, build, value):
        module = build()
        with torch.no_grad():
            module.bias[0] = value
        assert audit(module).findings == (
            f"bias reaches {value:.0e}, which has no square in float32".replace("+", ""),
        )

    def test_a_number_without_a_square_in_float64(self):
        module = nn.Linear(8, 8).double()
        with torch.no_grad():
            module.bias[1] = 1e200
        found = audit(module)
        assert found.findings == ("bias reaches 1e200, which has no square in float32",)
        assert (found.rows[1].mean, found.rows[1].max) == (None, 1e200)
        found.to_json()

    @pytest.mark.parametrize("n", [3, 40, 768])
    def test_norm_weights(self, n):
        module = nn.LayerNorm(n)
        with torch.no_grad():
            module.weight[1] = 50.0
            module.bias[2] = -100.0
        assert audit(module).findings == ("bias is 0 but for -100", "weight is 1 but for 50")

    def test_embedding(self):
        module = nn.Embedding.from_pretrained(drawn(1000, 16, std=1.0), freeze=False, padding_idx=0)
        with torch.no_grad():
            module.weight[0] = 0
            assert audit(module).ok
            module.weight[5, 5] = 1000
        assert audit(module).findings[0].startswith("weight holds 1e3, ")

    def test_reported(self):
        """Of what was drawn, the ends are known: what lies beyond them was not drawn."""
        module = stack(1)
        rules = [
            ti.Rule("*.down.weight", ti.ZeroRow(ti.Normal(0.0, 0.02), 3)),
            ti.Rule("*.up.weight", ti.TruncatedNormal(0.0, 0.02, -0.04, 0.04)),
            ti.Rule("*.up.bias", ti.Uniform(-0.1, 0.2)),
        ]
        report = initialized(module, *rules)
        assert report.audit.ok
        with torch.no_grad():
            module[0].down.weight[1, 1] = -0.14
            module[0].up.weight[1, 1] = 0.041
            module[0].up.bias[0] = 0.21
            module[0].norm.bias[0] = 0.1
        first, *rest = ti.audit(module, report=report).findings
        assert re.match(r"0\.down\.weight reaches -0\.14, which ZeroRow .* does not", first)
        assert rest == [
            "0.norm.bias should be 0 throughout and is 0 to 0.1",
            "0.up.bias reaches 0.21, which Uniform [-0.1, 0.2) does not",
            f"0.up.weight reaches 0.041, which {report.audit.rows[0].summary} does not",
        ]

    def test_reported_and_cut_far_out(self):
        """At 100 standard deviations, as timm's weights are."""
        module = nn.Linear(24, 40)
        report = initialized(module, ti.Rule("weight", ti.TruncatedNormal(0.0, 0.02, -2.0, 2.0)))
        assert report.audit.ok
        with torch.no_grad():
            module.weight[3, 4] = -0.14
        (finding,) = audit(module, report=report).findings
        assert finding.startswith("weight reaches -0.14, which TruncatedNormal")

    def test_buffers_are_a_remark(self):
        """Masks hold such numbers."""
        module = nn.BatchNorm1d(40)
        module.running_mean[3] = 1e36
        module.running_var[3] = 500.0
        found = audit(module)
        assert found.ok
        assert found.remarks == (
            "running_mean reaches 1e36, which has no square in float32",
            "running_var is 1 but for 500",
        )

    def test_parametrized(self):
        module = nn.utils.parametrizations.weight_norm(nn.Linear(30, 30))
        assert audit(module).ok
        with torch.no_grad():
            module.parametrizations.weight.original1[3, 4] = 100
            module.parametrizations.weight.original0[3] = 100
        assert any(each.startswith("weight holds") for each in audit(module).findings)


class TestNoAlarm:
    @pytest.mark.parametrize(
        "value",
        [
            torch.eye(40, 24),
            torch.eye(4) + 0.01 * drawn(4, 4),
            torch.eye(16) + 0.01 * drawn(16, 16),
            nn.init.dirac_(torch.empty(8, 8, 3, 3)),
            torch.nn.functional.one_hot(torch.tensor(3), 40).float(),
            torch.tensor([1.0, 0, 0, 0, 1, 0]),  # a spatial transformer's first bias
            torch.cat([torch.zeros(40), torch.ones(40), torch.zeros(80)]),  # an LSTM's
            ti.sparse_(torch.empty(50, 50), 0.9, key=ti.Key(0)),
            ti.orthogonal_(torch.empty(64, 64), key=ti.Key(0)),
            torch.arange(1.0, 17).log().expand(64, 16),
            10000 ** -(torch.arange(32) / 32),
            2.0 ** -torch.arange(1.0, 9),
            torch.tensor([1e-3, 5.0]),
            torch.tensor(4.6),
            torch.empty(0, 3),
            torch.full((5, 5), 1e-5),
            drawn(5000, dtype=torch.bfloat16).clamp(-0.04, 0.04),
            torch.randint(-8, 8, (4000,), generator=torch.Generator().manual_seed(0)).float(),
        ],
        ids=lambda x: f"{tuple(x.shape)}",
    )
    def test_as_people_initialise(self, value):
        module = nn.ParameterList([value])
        assert audit(module).ok

    def test_integers(self):
        module = nn.Module()
        module.table = nn.Parameter(torch.tensor([0] * 500 + [10**6]), requires_grad=False)
        assert audit(module).ok

    @pytest.mark.parametrize("n", [4, 7, 16, 64, 255, 1000, 1024, 4000])
    def test_independent_draws(self, n):
        """Not one of 4,000 tensors, whatever the tail."""
        g = np.random.Generator(np.random.PCG64(n))
        few = n < 1024
        for draw in (
            g.standard_normal,
            g.random,
            lambda shape: g.standard_t(5, shape),
            lambda shape: g.laplace(size=shape),
            *(
                []
                if few
                else [lambda shape: g.standard_t(3, shape), lambda shape: g.lognormal(0, 1.5, shape)]
            ),
            *([] if few else [lambda shape: g.pareto(2, shape), lambda shape: g.standard_cauchy(shape)]),
        ):
            for x in torch.from_numpy(draw((300, n))):
                assert found_in(x) is None

    def test_a_million_of_heavy_tails(self):
        g = np.random.Generator(np.random.PCG64(0))
        for freedom in (3, 4, 6):
            assert found_in(torch.from_numpy(g.standard_t(freedom, 2**20))) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "resnet-50", "vit-b-16"])
def test_presets(name):
    """Whose weights are memory as it was found until they are initialised."""
    preset = PRESETS[name]
    model = preset.build()
    report = ti.initialize_(model, preset.rules, seed=0)
    assert report.audit.ok
    assert audit(model).ok


class TestThresholds:
    @pytest.mark.parametrize("n", [10, 1000, 10**9])
    def test_reach(self, n):
        assert 2 * n * stats.norm.sf(reach(n)) == pytest.approx(file.CHANCE, rel=1e-6)

    @pytest.mark.parametrize("n", [3, 5, 7, 16, 1023])
    def test_student(self, n):
        chance = 2 * n * stats.t.sf(file._student_reach(n), min(5, n - 2))
        assert 0.9 * file.CHANCE < chance <= file.CHANCE * (1 + 1e-9)

    def test_spacings_of_power_laws(self, monkeypatch):
        """With a chance that 4,000 tensors show: as many alarms as it says, for every power."""
        monkeypatch.setattr(file, "CHANCE", 0.02)
        g = np.random.Generator(np.random.PCG64(0))
        for power in (1, 3, 9):
            far = -np.sort(-(1 + g.pareto(power, (4000, 500))))[:, :41]
            alarms = sum(file._is_apart(row, 1, math.inf) for row in far)
            assert alarms == pytest.approx(40, abs=5 * math.sqrt(40))

    def test_largest(self):
        assert float(torch.tensor(LARGEST * 0.999).square()) < math.inf
        assert float(torch.tensor(LARGEST * 1.001).square()) == math.inf


class TestSupport:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize(
        "initializer",
        [
            ti.Uniform(-0.3, 0.1),
            ti.Normal(0.3, 0.1),
            ti.Normal(-5.0, 0.001),
            ti.TruncatedNormal(0.0, 1.0, -0.1, 0.3),
            ti.TruncatedNormal(0.0, 1.0, 5.5, math.inf),
            ti.TruncatedNormal(0.0, 1.0, -math.inf, math.inf),
            ti.Stacked((ti.Uniform(1.0, 2.0), ti.Normal(0.0, 0.01))),
            ti.ZeroRow(ti.Uniform(1.0, 2.0), 0),
            ti.Scaled(ti.Normal(), 3.0),
            ti.KaimingUniform(),
            ti.Constant(0.1),
        ],
        ids=str,
    )
    def test_holds(self, initializer, dtype):
        x = initializer(torch.empty(2, 2**19, dtype=dtype), key=ti.Key(2)).double()
        low, high = support(initializer, x.shape, dtype)
        assert low <= float(x.min())
        assert float(x.max()) <= high
        assert high - low < 4 * float(x.max() - x.min()) + 1e-1 * float(x.abs().max())

    @pytest.mark.parametrize("initializer", [Keep(), ti.Orthogonal(), ti.Value(torch.ones(3, 3))], ids=str)
    def test_is_not_known(self, initializer):
        assert support(initializer, (3, 3), torch.float32) is None
        assert support(ti.Normal(), (3, 3), torch.int64) is None
