"""What an intercept tells afterwards: how each parameter was set, if nothing has changed it since."""

import math

import pytest
import torch
from torch import nn

import tritoninit
from tests.interception.cases import key, nans, parameter, saved
from tritoninit import Constant, Key, Normal, Ones, Uniform, ZeroRow, Zeros, registry
from tritoninit.fills import sole_fill
from tritoninit.initializers import KaimingNormal, KaimingUniform
from tritoninit.interception.entry import intercept
from tritoninit.interception.filled import Overlaid


class TestAssignments:
    def test_what_was_done_last(self):
        with intercept(seed=0) as intercepted:
            model = nn.Sequential(nn.Linear(4, 6), nn.Linear(4, 6), nn.LayerNorm(6))
            model[1].weight.data.normal_(0.0, 0.02)
        backend = registry.resolve("cpu").name
        got = [(a.name, a.initializer, a.key, a.backend) for a in intercepted.assignments(model)]
        assert got == [
            ("0.weight", KaimingUniform(math.sqrt(5)), key(0), backend),
            ("0.bias", Uniform(-0.5, 0.5), key(1), backend),
            ("1.weight", Normal(0.0, 0.02), key(4), backend),
            ("1.bias", Uniform(-0.5, 0.5), key(3), backend),
            ("2.weight", Ones(), None, backend),
            ("2.bias", Zeros(), None, backend),
        ]
        for each in intercepted.assignments(model):
            again = each.initializer(nans(*each.tensor.shape), **({"key": each.key} if each.key else {}))
            assert each.tensor.equal(again)

    def test_tied_parameters_come_once(self):
        with intercept(seed=0) as intercepted:
            model = nn.ModuleDict({"table": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
            model["head"].weight = model["table"].weight
        assert [a.name for a in intercepted.assignments(model)] == ["table.weight"]

    @pytest.mark.parametrize(
        ("touch", "told"),
        [
            (lambda w: w.sum(), Normal()),
            (lambda w: w.data.clone(), Normal()),
            (lambda w: w.data[2].zero_(), ZeroRow(Normal(), 2)),
            (lambda w: w.data[5:].zero_(), ZeroRow(Normal(), 5)),
            (lambda w: w.data.__setitem__(2, 0.0), ZeroRow(Normal(), 2)),
            (lambda w: w.data[2:4].zero_(), Overlaid(Normal(), 1)),
            (lambda w: w.data[:, 2].zero_(), Overlaid(Normal(), 1)),
            (lambda w: w.data[2].fill_(1.0), Overlaid(Normal(), 1)),
            (lambda w: [w.data[2].zero_(), w.data[1].zero_()], Overlaid(Normal(), 2)),
            (lambda w: w.data[1].mul_(2.0), Overlaid(Normal(), 1)),
        ],
    )
    def test_parts_and_reads(self, touch, told):
        """A padding row is told; of other changes of parts only how many there were."""
        with intercept(seed=0) as intercepted:
            table = nn.Embedding(6, 4)
            touch(table.weight)
        assert [a.initializer for a in intercepted.assignments(table)] == [told]

    def test_names_without_what_wrappers_add(self):
        with intercept(seed=0) as intercepted:
            model = nn.DataParallel(nn.Linear(2, 2))
        assert [a.name for a in intercepted.assignments(model)] == ["weight", "bias"]

    def test_report(self):
        with intercept(seed=7) as intercepted:
            model = nn.Sequential(nn.Embedding(50, 40, padding_idx=1), nn.LSTM(40, 30))
        report = intercepted.report(model)
        assert report.seed == 7
        assert report.audit.ok
        assert not report.audit.coverage.untouched
        assert report[0].initializer == ZeroRow(Normal(), 1)
        assert "ZeroRow Normal" in str(report)

    @pytest.mark.parametrize(
        "change",
        [
            lambda w: w.data.mul_(2.0),
            lambda w: torch.no_grad()(w.mul_)(2.0),
            lambda w: w.data.copy_(torch.ones(6, 4)),
            lambda w: torch.add(w.data, 1.0, out=w.data),
            lambda w: setattr(w, "data", w.data * 2.0),
            lambda w: tritoninit.ones_(w),
            lambda w: tritoninit.uniform_(w),
            lambda w: torch.autograd.graph.increment_version(w),
        ],
    )
    def test_changed_by_other_means(self, change):
        with intercept(seed=0) as intercepted:
            table = nn.Embedding(6, 4)
            change(table.weight)
            assert not intercepted.assignments(table)
            nn.init.normal_(table.weight, 0.0, 0.5)
        assert [a.initializer for a in intercepted.assignments(table)] == [Normal(0.0, 0.5)]

    def test_this_library_s_constants_of_other_dtypes(self):
        """Which are written by torch's own functions."""
        with intercept(seed=0) as intercepted:
            module = nn.ParameterList([nn.Parameter(torch.empty(3, dtype=torch.float64))])
            tritoninit.ones_(module[0])
        assert module[0].equal(torch.ones(3, dtype=torch.float64))
        assert not intercepted.assignments(module)

    @pytest.mark.parametrize(
        "hand_out",
        [
            lambda m: m.weight.data_ptr(),
            lambda m: m.weight.detach().numpy(),
            lambda m: m.weight.untyped_storage(),
            lambda m: saved(m.state_dict()),
            lambda m: m.share_memory(),
        ],
    )
    def test_handed_out(self, hand_out):
        """Nobody knows what happens to the memory; most often nothing."""
        with intercept(seed=0) as intercepted:
            table = nn.Embedding(6, 4)
            hand_out(table)
        assert [a.initializer for a in intercepted.assignments(table)] == [Normal()]

    def test_the_backend_that_ran(self, monkeypatch):
        """It is settled when a fill is asked for, not when it runs."""
        ran = []
        fill = registry.fill
        monkeypatch.setattr(
            registry, "fill", lambda backend, *given: (ran.append(backend.name), fill(backend, *given))
        )
        with intercept(seed=0) as intercepted:
            with registry.use_backend("numpy"):
                first = nn.Embedding(6, 4)
            with registry.use_backend(registry.resolve("cpu").name):
                second = nn.Embedding(6, 4)
        told = [a.backend for a in intercepted.assignments(nn.ModuleList([first, second]))]
        assert told == ran == ["numpy", registry.resolve("cpu").name]

    def test_never_filled(self):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterDict({"a": nn.Parameter(torch.ones(3)), "b": parameter(0)})
            model["c"] = nn.Parameter(nn.init.normal_(torch.empty(3)))
        assert [a.name for a in intercepted.assignments(model)] == ["c"]

    def test_through_views(self):
        """A transposed weight has other fans: told as the numbers that were drawn."""
        with intercept(seed=0) as intercepted:
            model = nn.ParameterList([parameter(6, 4), parameter(6, 4)])
            nn.init.kaiming_normal_(model[0].T)
            nn.init.kaiming_normal_(model[1])
        first, second = intercepted.assignments(model)
        assert first.initializer == Normal(0.0, sole_fill(KaimingNormal(), (4, 6)).std)
        assert second.initializer == KaimingNormal()

    def test_the_latest_of_several_views(self):
        model = nn.ParameterList([parameter(6, 4)])
        with intercept(seed=0) as intercepted:
            nn.init.normal_(model[0])
            nn.init.zeros_(model[0].t())
            assert [a.initializer for a in intercepted.assignments(model)] == [Constant(0.0)]
            nn.init.normal_(model[0])
            assert [a.initializer for a in intercepted.assignments(model)] == [Normal()]

    def test_a_storage_is_not_kept_alive(self):
        with intercept(seed=0) as intercepted:
            linear = nn.Linear(4, 6)
        storage = torch.multiprocessing.reductions.StorageWeakRef(linear.weight.untyped_storage())
        del linear
        assert storage.expired()
        assert intercepted.key == Key(0)
