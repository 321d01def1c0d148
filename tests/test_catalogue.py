"""Initializers by name: what each peer's name stands for, against the peer's formulas or the peer itself."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy import signal, stats

import tritoninit as ti
from tritoninit import Axes, Constant, Eye, Initializer, Normal, TruncatedNormal, Uniform, VarianceScaling
from tritoninit.catalogue import PEERS, names
from tritoninit.fills import sole_fill

CUT = 0.87962566103423978  # jax, keras and timm have this number
SHAPE = (48, 20, 3)  # (out, in, *field): fans 60 and 144
FANS = {"fan_in": 60, "fan_out": 144, "fan_avg": 102}


def widened(std):
    return TruncatedNormal(0.0, std / CUT, -2 * std / CUT, 2 * std / CUT)


def uniform(variance):
    return Uniform(-math.sqrt(3 * variance), math.sqrt(3 * variance))


# By peer and name: the arguments, and the distribution for SHAPE by the peer's documentation.
LAWS = {
    "jax": {
        "constant": ({"value": -7}, Constant(-7)),
        "uniform": ({}, Uniform(0.0, 0.01)),
        "normal": ({}, Normal(0.0, 0.01)),
        "truncated_normal": ({"stddev": 5.0, "lower": -1, "upper": 3}, TruncatedNormal(0.0, 5.0, -5.0, 15.0)),
        "variance_scaling": (
            {"scale": 3.0, "mode": "fan_geo_avg", "distribution": "normal"},
            Normal(0.0, math.sqrt(3 / math.sqrt(60 * 144))),
        ),
        **{f"{n}_uniform": ({}, uniform(1 / 102)) for n in ("glorot", "xavier")},
        **{f"{n}_normal": ({}, widened(math.sqrt(1 / 102))) for n in ("glorot", "xavier")},
        **{f"{n}_uniform": ({}, uniform(2 / 60)) for n in ("he", "kaiming")},
        **{f"{n}_normal": ({}, widened(math.sqrt(2 / 60))) for n in ("he", "kaiming")},
        "lecun_uniform": ({}, uniform(1 / 60)),
        "lecun_normal": ({}, widened(math.sqrt(1 / 60))),
    },
    "keras": {
        "constant": ({"value": 10.0}, Constant(10.0)),
        "random_normal": ({}, Normal(0.0, 0.05)),
        "random_uniform": ({}, Uniform(-0.05, 0.05)),
        "truncated_normal": ({"mean": 1.0}, TruncatedNormal(1.0, 0.05, 0.9, 1.1)),
        "variance_scaling": ({"scale": 0.1, "mode": "fan_in", "distribution": "uniform"}, uniform(0.1 / 60)),
        "glorot_uniform": ({}, uniform(1 / 102)),
        "glorot_normal": ({}, widened(math.sqrt(1 / 102))),
        "he_uniform": ({}, uniform(2 / 60)),
        "he_normal": ({}, widened(math.sqrt(2 / 60))),
        "lecun_uniform": ({}, uniform(1 / 60)),
        "lecun_normal": ({}, widened(math.sqrt(1 / 60))),
    },
    "timm": {
        "trunc_normal": ({"std": 0.02}, TruncatedNormal(0.0, 0.02, -2.0, 2.0)),
        "trunc_normal_tf": ({"mean": 1.0, "std": 0.02}, TruncatedNormal(1.0, 0.02, 0.96, 1.04)),
        "variance_scaling": ({}, Normal(0.0, math.sqrt(1 / 60))),
        "lecun_normal": ({}, widened(math.sqrt(1 / 60))),
    },
}
# Those that have no fill of independent elements, or are the same everywhere: tested below, by name.
APART = {"zeros", "ones", "orthogonal", "delta_orthogonal", "identity", "stft"}


def close(a, b):
    assert type(a) is type(b)
    assert vars(a) == pytest.approx(vars(b), rel=1e-12)


TORCH_ARGUMENTS = {
    "constant": {"val": 0.3},
    "sparse": {"sparsity": 0.5},
    "uniform": {"a": -0.2, "b": 0.7},
    "trunc_normal": {"std": 0.5, "a": -1.0, "b": 0.25},
    "kaiming_normal": {"a": 0.3, "mode": "fan_out", "nonlinearity": "leaky_relu"},
    "xavier_uniform": {"gain": 2.0},
}

NEEDED = {
    Constant: {"value": 0.3},
    ti.Sparse: {"sparsity": 0.5},
    ti.STFT: {"side": "imag"},
    ti.LogUniform: {"low": 0.1, "high": 0.2},
    ti.Geometric: {"p": 0.5},
}


class TestLaws:
    @pytest.mark.parametrize(("peer", "name"), [(peer, name) for peer in LAWS for name in LAWS[peer]])
    def test_formula(self, peer, name):
        arguments, law = LAWS[peer][name]
        close(sole_fill(ti.initializer(f"{peer}.{name}", **arguments), SHAPE), law)

    @pytest.mark.parametrize("peer", LAWS)
    def test_all_of_a_peer_s(self, peer):
        assert set(PEERS[peer]) - APART == set(LAWS[peer])

    @pytest.mark.parametrize("mode", FANS)
    @pytest.mark.parametrize("distribution", ["normal", "untruncated_normal", "truncated_normal"])
    def test_keras_calls_the_truncated_one_normal(self, mode, distribution):
        found = sole_fill(
            ti.initializer("keras.VarianceScaling", mode=mode, distribution=distribution), SHAPE
        )
        std = math.sqrt(1 / FANS[mode])
        close(found, Normal(0.0, std) if distribution == "untruncated_normal" else widened(std))

    @pytest.mark.parametrize("shape", [(3, 3, 20, 48), (20, 48)])
    def test_in_jax_s_layout(self, shape):
        """_compute_fans of jax.nn.initializers: axes that are not named are the receptive field."""
        field = math.prod(shape[:-2])
        given = ti.initializer("jax.he_normal", in_axis=-2, out_axis=-1)
        close(sole_fill(given, shape), widened(math.sqrt(2 / (20 * field))))
        assert given == ti.initializer("jax.he_normal", axes=Axes((-2,), (-1,)))

    def test_several_axes_and_batches(self):
        experts = ti.initializer("jax.lecun_normal", in_axis=(1, 2), batch_axis=0)
        close(sole_fill(experts, (4, 3, 5, 7)), widened(math.sqrt(1 / 15)))

    def test_axes_once(self):
        with pytest.raises(ValueError, match="not both"):
            ti.initializer("jax.he_normal", in_axis=0, axes=Axes())

    @pytest.mark.parametrize("name", ["jax.truncated_normal", "keras.truncated_normal"])
    def test_no_deviation(self, name):
        assert ti.initializer(name, stddev=0.0) == Constant(0.0)
        assert ti.initializer("timm.trunc_normal_tf_", mean=2.0, std=0.0) == Constant(2.0)

    def test_the_same_everywhere(self):
        for peer in ("torch", "keras", "jax"):
            assert ti.initializer(f"{peer}.zeros") == ti.Zeros()
            assert ti.initializer(f"{peer}.ones") == ti.Ones()
        assert ti.initializer("keras.orthogonal", gain=2.0) == ti.Orthogonal(2.0)
        assert ti.initializer("jax.orthogonal", scale=2.0) == ti.Orthogonal(2.0)
        assert ti.initializer("jax.delta_orthogonal", scale=2.0) == ti.DeltaOrthogonal(2.0)
        assert ti.initializer("keras.identity") == Eye()
        assert ti.initializer("IdentityInitializer", gain=2.0)(torch.empty(2, 3)).tolist() == [
            [2, 0, 0],
            [0, 2, 0],
        ]


class TestTorch:
    """torch.nn.init itself: the same arguments by the same names, the same distribution."""

    def test_all_are_there(self):
        functions = {name[:-1] for name in vars(torch.nn.init) if name.endswith("_") and name[0] != "_"}
        assert functions == set(PEERS["torch"])

    @pytest.mark.parametrize("name", PEERS["torch"])
    def test_distribution(self, name):
        theirs = getattr(torch.nn.init, f"{name}_")
        arguments = TORCH_ARGUMENTS.get(name, {})
        shape = (64, 32, 3) if name == "dirac" else (96, 80)
        torch.manual_seed(0)
        expected = theirs(torch.empty(shape), **arguments)
        found = ti.initializer(f"torch.{name}_", **arguments)(torch.empty(shape), key=ti.Key(1))
        if not ti.initializer(f"torch.{name}", **arguments).random:
            assert found.equal(expected)
            return
        # Smirnov's bound, which one pair in a million of samples of one distribution exceeds.
        statistic = stats.ks_2samp(found.flatten(), expected.flatten()).statistic
        assert statistic < math.sqrt(math.log(2e6) / found.numel())
        assert ((found == 0).sum(0) == (expected == 0).sum(0)).all()

    @pytest.mark.parametrize("name", PEERS["torch"])
    def test_arguments(self, name):
        theirs = list(inspect.signature(getattr(torch.nn.init, f"{name}_")).parameters)[1:]
        ours = inspect.signature(PEERS["torch"][name]).parameters
        assert [each for each in theirs if each != "generator"] == [each for each in ours if each != "axes"]


class TestLookup:
    @pytest.mark.parametrize(
        ("spelling", "name"),
        [
            ("GlorotUniform", "keras.glorot_uniform"),
            ("glorot-uniform", "keras.glorot_uniform"),
            ("kaiming_normal_", "torch.kaiming_normal"),
            ("jax.kaiming_normal", "jax.he_normal"),
            ("keras.HeNormal", "keras.he_normal"),
            ("OrthogonalInitializer", "tritoninit.orthogonal"),
            ("timm.trunc_normal_", "torch.trunc_normal_"),
            ("LecunNormal", "jax.lecun_normal"),
            ("lecun_normal_", "timm.lecun_normal"),
            ("RandomNormal", "keras.random_normal"),
        ],
    )
    def test_spellings(self, spelling, name):
        assert ti.initializer(spelling) == ti.initializer(name)

    def test_what_several_peers_have_is_ours_and_torchs(self):
        assert ti.initializer("normal") == Normal()
        assert ti.initializer("kaiming_normal") == ti.KaimingNormal()
        assert ti.initializer("truncated_normal") == TruncatedNormal()
        for name in PEERS["torch"]:
            arguments = TORCH_ARGUMENTS.get(name, {})
            if name not in ("constant", "uniform"):  # which have other arguments
                assert ti.initializer(name, **arguments) == ti.initializer(f"torch.{name}", **arguments)

    def test_every_initializer_of_ours_has_its_name(self):
        public = [each for each in map(vars(ti).get, ti.__all__) if isinstance(each, type)]
        ours = {each for each in public if issubclass(each, Initializer) and not each.__abstractmethods__}
        made_of_others = {ti.AsOne, ti.BlockDiagonal, ti.CopyOf, ti.Experts, ti.Keep, ti.Patched, ti.Scaled}
        made_of_others |= {ti.StochasticallyRounded}
        named = ours - made_of_others - {ti.Stacked, ti.ZeroRow, ti.Recorded, ti.Value}
        assert set(PEERS["tritoninit"].values()) == named
        for each in named:
            needed = NEEDED.get(each, {})
            assert ti.initializer(each.__name__, **needed) == each(**needed)

    def test_every_name_is_found(self):
        given = {"constant": 1.0, "sparse": 0.5, "stft": "real", "log_uniform": 0.5, "geometric": 0.5}
        for name in names():
            peer, short = name.split(".")
            required = [
                each.name
                for each in inspect.signature(PEERS[peer][short]).parameters.values()
                if each.default is each.empty and each.kind is not each.VAR_KEYWORD
            ]
            values = {"mode": "fan_in", "distribution": "uniform", "scale": 1.0}
            arguments = {each: values.get(each, given.get(short)) for each in required}
            assert isinstance(ti.initializer(name, **arguments), Initializer)

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("glorot_unifrom", "did you mean glorot_uniform"),
            ("kaming_normal", "did you mean .*kaiming_normal"),
            ("jax.glorot", "did you mean jax.glorot_"),
            ("flax.normal", "no initializers of 'flax'"),
            ("", "no initializer is called ''"),
            ("zzzzzz", "known are"),
        ],
    )
    def test_unknown(self, name, match):
        with pytest.raises(ValueError, match=match):
            ti.initializer(name)

    def test_arguments_that_it_does_not_take(self):
        with pytest.raises(TypeError, match=r"glorot_uniform: .*'gain'; it takes .*axes"):
            ti.initializer("glorot_uniform", gain=2.0)
        with pytest.raises(TypeError, match=r"missing.*'value'"):
            ti.initializer("constant")
        with pytest.raises(TypeError, match="it takes no arguments"):
            ti.initializer("eye", n=3)

    def test_an_initializer_stays_as_it_is(self):
        assert ti.initializer(Normal(0.0, 3.0)) == Normal(0.0, 3.0)
        with pytest.raises(TypeError, match="has its arguments already"):
            ti.initializer(Normal(), std=2.0)
        for other in (None, 3, Normal):
            with pytest.raises(TypeError, match="a name is a string"):
                ti.initializer(other)

    def test_with_axes(self):
        assert ti.initializer("lecun_normal", axes=Axes((0,), ())) == VarianceScaling(axes=Axes((0,), ()))


class TestDeltaOrthogonal:
    @pytest.mark.parametrize("shape", [(6, 4, 3), (6, 6, 4, 3), (5, 2, 1, 2, 3)])
    def test_an_orthogonal_matrix_in_the_middle(self, shape):
        weight = ti.DeltaOrthogonal(2.0)(torch.empty(shape), key=ti.Key(3))
        centre = tuple((size - 1) // 2 for size in shape[2:])
        middle = weight[(slice(None), slice(None), *centre)]
        assert middle.equal(ti.Orthogonal(2.0)(torch.empty(shape[:2]), key=ti.Key(3)))
        assert (middle.T @ middle - 4 * torch.eye(shape[1])).abs().max() < 1e-5
        assert weight.count_nonzero() == middle.count_nonzero()

    def test_a_circular_convolution_keeps_norms(self):
        conv = torch.nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False)
        ti.initialize_(conv, [ti.Rule("weight", ti.DeltaOrthogonal())], seed=0)
        x = torch.randn(2, 4, 5, 5)
        assert conv(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)

    def test_groups_each_of_their_own(self):
        conv = torch.nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular", groups=2, bias=False)
        ti.initialize_(conv, [ti.Rule("weight", ti.DeltaOrthogonal())], seed=0)
        x = torch.randn(2, 4, 5)
        assert conv(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)

    @pytest.mark.parametrize(("shape", "match"), [((3, 4, 3), "do not fit"), ((4, 3), "3, 4, or 5")])
    def test_shapes(self, shape, match):
        with pytest.raises(ValueError, match=match):
            ti.DeltaOrthogonal()(torch.empty(shape))


class TestSTFT:
    @pytest.mark.parametrize("window", [None, "hann", "hamming"])
    @pytest.mark.parametrize("scaling", [None, "density", "spectrum"])
    @pytest.mark.parametrize("periodic", [False, True])
    def test_keras_formula(self, window, scaling, periodic):
        """Keras' kernels are (T, 1, F // 2 + 1), by SciPy's windows."""
        length, bins = 7, 5
        angles = -2 * math.pi * np.arange(length)[:, None] * np.arange(bins) / (2 * (bins - 1))
        taper = np.ones(length) if window is None else signal.get_window(window, length, periodic)
        norm = {None: 1.0, "density": np.sqrt((taper**2).sum()), "spectrum": taper.sum()}[scaling]
        scale = 1.0 if window is None else norm
        for side, wave in (("real", np.cos), ("imag", np.sin)):
            found = ti.initializer(
                "STFTInitializer", side=side, window=window, scaling=scaling, periodic=periodic
            )(torch.empty(bins, 1, length, dtype=torch.float64))
            expected = wave(angles) * taper[:, None] / scale
            assert np.allclose(found[:, 0].numpy().T, expected, rtol=0, atol=1e-14)

    def test_a_convolution_is_the_transform(self):
        signal_, frame = torch.randn(1, 1, 64), 16
        parts = []
        for side in ("real", "imag"):
            conv = torch.nn.Conv1d(1, 9, frame, stride=4, bias=False)
            ti.initialize_(conv, [ti.Rule("weight", ti.STFT(side, "hann", None, True))], seed=0)
            parts.append(conv(signal_))
        window = torch.hann_window(frame)
        expected = torch.stft(signal_[0], frame, 4, frame, window, center=False, return_complex=True)
        assert torch.complex(*parts).sub(expected).abs().max() < 1e-4

    @pytest.mark.parametrize(
        "make",
        [lambda: ti.STFT("both"), lambda: ti.STFT("real", "bartlet"), lambda: ti.STFT("real", scaling="l2")],
    )
    def test_words(self, make):
        with pytest.raises(ValueError, match="should be one of"):
            make()

    def test_shape(self):
        with pytest.raises(ValueError, match=r"\(F // 2 \+ 1, 1, T\)"):
            ti.STFT("real")(torch.empty(3, 2, 4))
