"""What an audit says of a model: its fingerprint, and a table of its tensors."""

import re

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.auditing.stacks import initialized, stack
from tritoninit.auditing.findings import audit
from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.report import Report
from tritoninit.combinators import ZeroRow
from tritoninit.presets import PRESETS

TIMES = "\N{MULTIPLICATION SIGN}"


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
