"""What an audit finds in models made to be wrong, does not find in right ones, and how it says so."""

import json
import re

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit.auditing import findings as audit_module
from tritoninit.auditing.findings import Report, audit
from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.moments import ALARM
from tritoninit.initializers import Keep, ZeroRow
from tritoninit.presets import PRESETS

TIMES = "\N{MULTIPLICATION SIGN}"


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


def rows(found):
    return {row.name: row for row in found.rows}


class TestReport:
    def test_is_the_sequence_of_assignments(self):
        module = stack(1)
        done = list(ti.initialize_(module, ti.TORCH_DEFAULTS, seed=3))
        report = Report(done, seed=3, module=module)
        assert list(report) == done
        assert (len(report), report[0], report[-1]) == (len(done), done[0], done[-1])
        assert list(report[1:3]) == done[1:3]
        assert done[1] in report
        assert report.seed == 3
        assert repr(report) == f"Report({len(done)} assignments, seed=3)"

    def test_measured_once_and_only_when_asked(self, monkeypatch):
        calls = []
        measure = audit_module.measure
        monkeypatch.setattr(audit_module, "measure", lambda x: calls.append(x) or measure(x))
        report = initialized(stack(1))
        assert (len(report), calls) == (5, [])
        assert str(report) == str(report)
        assert report.audit is report.audit
        assert len(calls) == 5

    def test_initialize_returns_one(self):
        report = ti.initialize_(stack(1), ti.TORCH_DEFAULTS, seed=3)
        assert isinstance(report, Report)
        assert report.audit.ok

    def test_json(self):
        module = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Embedding(50, 4, padding_idx=1))
        report = initialized(module, seed=7)
        found = json.loads(report.to_json())
        assert (found["seed"], found["stream_version"]) == (7, ti.STREAM_VERSION)
        assert [row["name"] for row in found["parameters"]] == [name for name, _ in module.named_parameters()]
        assert [row["name"] for row in found["buffers"]] == [name for name, _ in module.named_buffers()]
        weight = found["parameters"][0]
        x = module[0].weight.detach().double()
        assert weight["shape"] == [20, 30]
        assert (weight["dtype"], weight["bytes"], weight["kind"]) == ("float32", 2400, "parameter")
        assert weight["initializer"] == repr(report[0].initializer)
        assert weight["lowered"] == repr(ti.Uniform(-(30**-0.5), 30**-0.5))
        assert (weight["seed"], weight["stream"]) == (7, ti.Key(7).fold_in("0.weight").stream)
        assert weight["backend"] == ti.resolve("cpu").name
        assert weight["hash"] == f"{bits_hash(module[0].weight):016x}"
        assert (weight["min"], weight["max"]) == (float(x.min()), float(x.max()))
        # A uniform on +-b has the standard deviation b / sqrt(3); float64 throughout.
        assert (weight["expected_mean"], weight["expected_std"]) == pytest.approx((0, 90**-0.5), rel=1e-14)
        assert weight["z_mean"] == pytest.approx(float(x.mean()) / 90**-0.5 * 600**0.5, rel=1e-9)
        ratio = float(x.std(correction=0)) * 90**0.5
        assert weight["z_std"] == pytest.approx((ratio - 1) * 600**0.5 / 0.2**0.5, rel=1e-9)
        norm = found["parameters"][2]
        assert (norm["seed"], norm["stream"], norm["z_mean"], norm["expected_mean"]) == (
            None,
            None,
            None,
            1.0,
        )
        assert found["parameters"][-1]["expected_std"] is None  # a row of zeros among normals
        assert found["coverage"] == {"untouched": [], "drawn_twice": [], "nonfinite": []}
        zs = [abs(row[z]) for row in found["parameters"] for z in ("z_mean", "z_std") if row[z] is not None]
        assert found["worst_z"] == max(zs)
        assert found["findings"] == []

    def test_kept_is_untouched(self):
        module = stack(2)
        report = initialized(module, ti.Rule("0.up.*", Keep()))
        assert report.audit.coverage.untouched == ("0.up.weight", "0.up.bias")
        assert report.audit.ok
        assert "2 untouched" in report.audit.summary()

    def test_not_assigned_is_untouched(self):
        module = stack(2)
        module.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        report = initialized(module)
        assert report.audit.coverage.untouched == ("mask",)
        assert report.audit.ok
        assert report.audit.remarks == ("mask holds 3 infinite of 9 elements",)

    def test_without_the_module(self):
        module = stack(1)
        done = ti.initialize_(module, ti.TORCH_DEFAULTS, seed=0)
        assert Report(done, seed=0).audit == Report(done, seed=0, module=module).audit

    def test_measured_again_with_the_report(self):
        module = stack(1)
        report = initialized(module)
        assert report.audit.ok
        with torch.no_grad():
            module[0].up.weight.mul_(2)
        assert report.audit.ok
        assert not audit(module, report=report).ok
        assert audit(module).ok


class TestFingerprint:
    def test_is_the_sum_of_salted_hashes(self):
        module = stack(2)
        report = initialized(module)
        total = sum(bits_hash(p, salt=name) for name, p in module.named_parameters())
        assert report.audit.fingerprint == audit(module).fingerprint == f"{total % 2**64:016x}"

    def test_shards_add_up(self):
        module = stack(2)
        total = 0
        for name, p in module.named_parameters():
            shape, middle = tuple(p.shape), p.shape[-1] // 3
            for first, stop in ((0, middle), (middle, p.shape[-1])):
                window = ti.Window(shape, (0,) * (p.dim() - 1) + (first,))
                total += bits_hash(p[..., first:stop], window=window, salt=name)
        assert f"{total % 2**64:016x}" == audit(module).fingerprint

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_equal_for_every_backend(self, dtype):
        found = set()
        for status in ti.backends():
            if status.available and "cpu" in status.devices:
                with ti.use_backend(status.name):
                    found.add(initialized(stack().to(dtype)).audit.fingerprint)
        assert len(found) == 1

    @pytest.mark.gpu
    def test_equal_on_the_device(self):
        assert initialized(stack().cuda()).audit.fingerprint == initialized(stack()).audit.fingerprint

    def test_memory_format_does_not_matter(self):
        module = nn.Conv2d(8, 16, 3)
        expected = initialized(module).audit.fingerprint
        turned = nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)
        assert turned.weight.is_contiguous(memory_format=torch.channels_last)
        assert initialized(turned).audit.fingerprint == expected

    def test_wrapped_compiled_and_buffers(self):
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        expected = initialized(module).audit.fingerprint
        assert audit(nn.DataParallel(module)).fingerprint == expected
        assert audit(torch.compile(module, backend="eager")).fingerprint == expected
        module[1].running_mean.fill_(3.0)
        assert audit(module).fingerprint == expected

    def test_names_and_bits_count(self):
        module = stack(2)
        initialized(module)
        expected = audit(module).fingerprint
        with torch.no_grad():
            first, second = module[0].up.weight, module[1].up.weight
            kept = first.clone()
            first.copy_(second)
            second.copy_(kept)
        assert audit(module).fingerprint != expected


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
        assert rows(found)["1.up.weight"].mean is None

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
        assert "1.up.weight" not in rows(found)

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
        row = rows(report.audit)["weight"]
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


def overlap(a, b):
    return audit_module._meet(a, b)


class TestMeet:
    def test_views_of_one_matrix(self):
        x = torch.empty(30, 40)
        assert overlap(x[:, :20], x[:, 19:])
        assert not overlap(x[:, :20], x[:, 20:])
        assert not overlap(x[::2], x[1::2])
        assert overlap(x[::2], x[::3])
        assert not overlap(x[:10], x[10:])
        assert overlap(x, x.t())
        assert not overlap(x[:, 0], x[:, 1])
        assert overlap(x.view(torch.int16)[:, 1], x[:, 0])
        assert not overlap(x.view(torch.int16)[:, 2], x[:, 0])

    def test_against_counting_addresses(self):
        """Random strides and offsets: whether any address occurs in both."""
        memory = torch.arange(400)
        generator = torch.Generator().manual_seed(0)
        outcomes = set()
        for _ in range(1000):
            numbers = torch.randint(1, 6, (8,), generator=generator).tolist()
            offsets = torch.randint(0, 100, (2,), generator=generator).tolist()
            a = memory.as_strided(numbers[:2], [numbers[2] * 5, numbers[3]], offsets[0])
            b = memory.as_strided(numbers[4:6], [numbers[6] * 7, numbers[7]], offsets[1])
            expected = bool(set(a.flatten().tolist()) & set(b.flatten().tolist()))
            assert overlap(a, b) == expected
            outcomes.add(expected)
        assert outcomes == {True, False}


class TestTable:
    def test_500_parameters(self):
        module = stack(100)
        report = initialized(module)
        assert len(report) == 500
        lines = str(report).splitlines()
        assert len(lines) < 100
        covered = sum(int(match[1]) for line in lines if (match := re.search(r" (\d+) of \d", line)))
        assert covered == 500
        assert lines[2].startswith("{0..99}.up.weight")
        assert all(
            f"{{0..99}}.{name}" in "\n".join(lines) for name in ("up.bias", "norm.bias", "down.weight")
        )

    def test_gpt2(self):
        preset = PRESETS["gpt2"]
        with torch.device("meta"):
            module = preset.build()
        done = [
            ti.Assignment(n, p, ti.Normal(0.0, 0.02), ti.Key(0), "numpy")
            for n, p in module.named_parameters()
        ]
        lines = Report(done, seed=0, module=module).audit.table()
        assert any(
            line.startswith(f"h.{{0..11}}.attn.c_attn.weight  12 of 768{TIMES}2304  Normal") for line in lines
        )
        assert len(lines) < 20

    def test_a_line_has_ranges_and_the_worst_z(self):
        module = stack(3)
        report = initialized(module, ti.Rule("*.down.weight", ti.Normal(0.0, 0.02)))
        group = [row for row in report.audit.rows if row.name.endswith("down.weight")]
        line = next(line for line in report.audit.table() if "down" in line)
        cells = re.split(r"\s{2,}", line)
        assert cells[:3] == [
            "{0..2}.down.weight",
            f"3 of 24{TIMES}40",
            "Normal \N{GREEK SMALL LETTER SIGMA} 0.02",
        ]
        low, high = map(float, cells[3].split(".."))
        assert (low, high) == pytest.approx(
            (min(r.mean for r in group), max(r.mean for r in group)), rel=0.05
        )
        assert float(cells[5]) == pytest.approx(max(r.worst_z for r in group), rel=0.05)

    def test_what_differs_keeps_its_line(self):
        module = stack(3)
        report = initialized(module, ti.Rule("1.down.weight", ti.Normal(0.0, 0.02)))
        names = [line.split()[0] for line in report.audit.table()]
        assert {"{0,2}.down.weight", "1.down.weight", "{0..2}.up.weight"} <= set(names)

    def test_without_a_report(self):
        lines = audit(stack(2)).table()
        assert lines[0].split() == ["parameter", "shape", "mean", "std"]
        assert len(lines) == 6

    def test_fits(self):
        report = initialized(nn.ModuleDict({"a_tower_with_a_name_that_goes_on": stack(2)}))
        lines = report.audit.table(100)
        assert max(map(len, lines)) <= 100
        ends = ("up.weight", "up.bias", "norm.weight", "norm.bias", "down.weight")
        assert all(
            line.split()[0].endswith(f"{{0,1}}.{end}") for line, end in zip(lines[1:], ends, strict=True)
        )

    def test_initializers_without_one_fill(self):
        module = nn.Embedding(6, 4)
        report = initialized(module, ti.Rule("*", ZeroRow(ti.Normal(), 3)))
        assert "ZeroRow Normal" in str(report)
        assert report.audit.worst_z is None
