"""Mamba, Mamba-2, RG-LRU as transformers draws them; S4D by its paper."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import tritoninit as ti
from tritoninit import S4D, Normal, Uniform
from tritoninit.schemes import mamba, mamba2, rg_lru, s4d
from tritoninit.structured import Structured


def same_samples(a, b):
    """Smirnov's bound, which two samples of one distribution exceed one time in a million."""
    n, m = a.numel(), b.numel()
    return stats.ks_2samp(a.flatten(), b.flatten()).statistic < math.sqrt(math.log(2e6) / 2 * (1 / n + 1 / m))


def transformers_model(kind, **options):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**options)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}Model")(config)


def assert_alike(model, rules, names):
    """The parameters that end in one of ``names``: constants equal, others of one distribution."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ti.initialize_(model, rules, seed=1, only=[f"*{name}" for name in names])
    seen = set()
    for name, p in model.named_parameters():
        ends = [each for each in names if name.endswith(each)]
        if not ends:
            assert p.equal(before[name])
            continue
        seen.update(ends)
        want, found = before[name], p.detach()
        if want.unique().numel() < want.numel() / 2 or name.endswith(
            "A_log"
        ):  # a constant, or a table that repeats
            assert torch.allclose(found, want, rtol=1e-6), name
        else:
            assert same_samples(found, want), name
    assert seen == set(names)


PINNED = [
    [0.006281926296651363, 0.05768200382590294],
    [1.9438647031784058, 2.6537911891937256],
    [-5.066936016082764, -2.8238303661346436],
    [-2.765012264251709, -4.38525390625],
]


class TestTransformers:
    def test_mamba(self):
        model = transformers_model(
            "Mamba",
            vocab_size=50,
            hidden_size=64,
            state_size=8,
            num_hidden_layers=3,
            rescale_prenorm_residual=True,
        )
        names = [
            "A_log",
            ".D",
            "dt_proj.bias",
            "dt_proj.weight",
            "out_proj.weight",
            "conv1d.weight",
            "norm.weight",
        ]
        assert_alike(model, mamba(3), names)

    def test_mamba2(self):
        model = transformers_model(
            "Mamba2",
            vocab_size=50,
            hidden_size=256,
            state_size=8,
            num_hidden_layers=2,
            num_heads=128,
            head_dim=4,
            expand=2,
            n_groups=1,
            time_step_min=0.01,
        )
        rules = mamba2(decay=S4D("real"), step=ti.TimeStepBias(0.01, 0.1))
        assert_alike(model, rules, ["A_log", ".D", "dt_bias", "out_proj.weight"])

    def test_recurrent_gemma(self):
        model = transformers_model(
            "RecurrentGemma",
            vocab_size=50,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=3,
            lru_width=256,
            num_attention_heads=4,
            block_types=("recurrent", "recurrent", "attention"),
        )
        kinds = ("input_gate", "recurrent_gate")
        names = ["recurrent_param", *(f"{kind}_{part}" for kind in kinds for part in ("weight", "bias"))]
        assert_alike(model, rg_lru(), names)


class TestMamba2:
    def test_decays_of_the_paper_s_code(self):
        model = nn.Module()
        model.A_log, model.dt_bias = nn.Parameter(torch.empty(4096)), nn.Parameter(torch.empty(4096))
        ti.initialize_(model, mamba2(), seed=0)
        decays, steps = model.A_log.exp(), nn.functional.softplus(model.dt_bias)
        assert 1 <= decays.min() < 1.1
        assert 15.9 < decays.max() < 16.001
        assert stats.kstest(decays.detach(), stats.uniform(1, 15).cdf).pvalue > 1e-6
        assert (
            stats.kstest(steps.detach().log(), stats.uniform(math.log(1e-3), math.log(100)).cdf).pvalue > 1e-6
        )


class TestS4D:
    @pytest.mark.parametrize("size", [1, 8])
    def test_formulas(self, size):
        n = np.arange(size)
        whole = {
            "real": -(n + 1.0),
            "lin": -0.5 + 1j * math.pi * n,
            "inv": -0.5 + 1j * 2 * size / math.pi * (2 * size / (2 * n + 1) - 1),
        }
        for kind, values in whole.items():
            found = S4D(kind, "whole")(torch.empty(3, size, dtype=torch.complex128)).numpy()
            assert np.allclose(found, np.broadcast_to(values, (3, size)), rtol=1e-15)
            found = S4D(kind, "log_decay")(torch.empty(3, size, dtype=torch.float64)).numpy()
            assert np.allclose(-np.exp(found), values.real, rtol=1e-15)
            found = S4D(kind, "frequency")(torch.empty(size, dtype=torch.float64)).numpy()
            assert np.allclose(found, values.imag, rtol=1e-15)

    def test_no_complex_numbers_in_real_tensors(self):
        with pytest.raises(ValueError, match="is complex, unlike float32"):
            S4D("lin", "whole")(torch.empty(4))
        assert S4D("real", "whole")(torch.empty(3)).tolist() == [-1, -2, -3]
        with pytest.raises(ValueError, match="along the last dimension"):
            S4D()(torch.empty(()))

    def test_windows(self):
        whole = S4D("inv", "whole")(torch.empty(4, 6, dtype=torch.complex64))
        part = S4D("inv", "whole")(torch.empty(2, 3, dtype=torch.complex64), window=ti.Window((4, 6), (1, 2)))
        assert part.equal(whole[1:3, 2:5])

    def test_scheme(self):
        model = nn.Module()
        for name, shape in (("log_dt", (5,)), ("log_A_real", (5, 4)), ("A_imag", (5, 4)), ("C", (5, 4, 2))):
            model.register_parameter(name, nn.Parameter(torch.empty(shape)))
        model.D = nn.Parameter(torch.empty(5))
        found = {each.name: each.initializer for each in ti.initialize_(model, s4d(), seed=0)}
        assert found["log_dt"] == Uniform(math.log(1e-3), math.log(0.1))
        assert found["C"] == Normal(std=math.sqrt(0.5))
        assert found["D"] == Normal()
        assert torch.allclose(model.log_A_real, torch.tensor(0.5).log())
        assert torch.allclose(model.A_imag[2], math.pi * torch.arange(4))
        model.log_A_real = model.A_imag = None
        model.A = nn.Parameter(torch.empty(5, 4, dtype=torch.complex64))
        ti.initialize_(model, s4d("inv"), seed=0)
        assert model.A[0, 1].item() == pytest.approx(-0.5 + 1j * 8 / math.pi * (8 / 3 - 1), rel=1e-6)
        with pytest.raises(ValueError, match="0 < low"):
            s4d(low=0.0)


class TestMapped:
    """The same values from every backend, in every part, in every dtype as float32 rounded once more."""

    @pytest.mark.parametrize(
        "initializer",
        [ti.LogUniform(1e-3, 0.1), ti.LogOfUniform(), ti.TimeStepBias(), ti.RingDecay()],
        ids=repr,
    )
    def test_backends(self, initializer):
        assert isinstance(initializer, Structured)
        found = []
        for backend in ("numpy", "numba"):
            with ti.use_backend(backend):
                found.append(initializer(torch.empty(5, 401), key=ti.Key(7)))
        assert found[0].equal(found[1])
        half = initializer(torch.empty(5, 401, dtype=torch.bfloat16), key=ti.Key(7))
        assert half.equal(found[0].to(torch.bfloat16))

    def test_range(self):
        with pytest.raises(ValueError, match="float16 cannot hold"):
            ti.LogUniform(1.0, 1e6)(torch.empty(3, dtype=torch.float16))

    def test_extremes(self):
        """Where a ratio, or a square, is out of floats' range; of float32's a fifth of the logarithms."""
        values = ti.LogUniform(5e-324, 1e38)(torch.empty(999), key=ti.Key(0))
        assert values.count_nonzero().item() == pytest.approx(999 * (149 + 126) / (1074 + 126), abs=50)
        assert ti.RingDecay(1e-300, 0.9)(torch.empty(99), key=ti.Key(0)).isfinite().all()
        check = ti.RingDecay(1e-300, 1 - 2.0**-53).check
        check(torch.empty(3), ti.Window.whole((3,)))
        assert ti.TimeStepBias(5e-324, 1.0)(torch.empty(99), key=ti.Key(0)).isfinite().all()

    def test_a_single_value(self):
        assert torch.allclose(ti.LogUniform(0.5, 0.5)(torch.empty(9)), torch.tensor(0.5))

    def test_pinned(self):
        """Released weights hang on these numbers; libraries may differ in the last place."""
        drawn = [
            each(torch.empty(2), key=ti.Key(0)).tolist()
            for each in (ti.LogUniform(1e-3, 0.1), ti.LogOfUniform(), ti.TimeStepBias(), ti.RingDecay())
        ]
        assert np.allclose(drawn, PINNED, rtol=2.0**-22, atol=0)
