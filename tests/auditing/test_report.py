"""What an initialisation says that it did, and what an audit adds to that when asked."""

import json

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.auditing.stacks import initialized, stack
from tritoninit.auditing import shares
from tritoninit.auditing.findings import audit
from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.report import Report
from tritoninit.combinators import Keep


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
        measure = shares.measure
        monkeypatch.setattr(shares, "measure", lambda x: calls.append(x) or measure(x))
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
        assert weight["backend"] == ti.registry.resolve("cpu").name
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
