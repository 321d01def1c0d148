"""What JAX's and Keras' own tests of initializers ask for, in other words, but for documented differences.

JAX: tests/nn_test.py, InitializersTest. Keras: keras/src/initializers/*_test.py. What ``docs/peers.md`` calls
a difference is tested as one here.
"""

import math

import pytest
import torch

import tritoninit as ti
from tritoninit import Axes, Key
from tritoninit.catalogue import PEERS

KEY = Key(11)


def drawn(initializer, *shape):
    return initializer(torch.full(shape, torch.nan), key=KEY)


class TestJAX:
    @pytest.mark.parametrize("name", [n for n in PEERS["jax"] if n not in ("constant", "variance_scaling")])
    @pytest.mark.parametrize("shape", [(4, 4), (8, 4, 3), (8, 4, 3, 3)])
    def test_shapes_are_filled(self, name, shape):
        if name == "delta_orthogonal" and len(shape) < 3:
            return
        assert drawn(ti.initializer(f"jax.{name}"), *shape).isfinite().all()

    @pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
    @pytest.mark.parametrize(
        ("shape", "axes", "fans"),
        [
            ((40, 50, 60), {"in_axis": (0, 1), "out_axis": 2}, (2000, 60)),
            ((40, 50, 60), {"in_axis": 0, "out_axis": (1, 2)}, (40, 3000)),
            ((40, 50, 60), {"in_axis": 1, "out_axis": 2, "batch_axis": 0}, (50, 60)),
            ((40, 50, 60), {"in_axis": 1, "out_axis": 2}, (2000, 2400)),
            ((40, 50, 60), {"batch_axis": (0,)}, (50, 60)),
        ],
    )
    @pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
    def test_the_deviation_by_several_axes(self, mode, shape, axes, fans, distribution):
        values = drawn(
            ti.initializer("jax.variance_scaling", scale=1.5, mode=mode, distribution=distribution, **axes),
            *shape,
        )
        fan = {
            "fan_in": fans[0],
            "fan_out": fans[1],
            "fan_avg": sum(fans) / 2,
            "fan_geo_avg": math.sqrt(fans[0] * fans[1]),
        }[mode]
        assert values.std().item() == pytest.approx(math.sqrt(1.5 / fan), rel=0.01)

    def test_too_few_dimensions(self):
        for name in ("glorot_normal", "he_uniform", "lecun_normal"):
            for shape in ((), (3,)):
                with pytest.raises(ValueError, match="fewer than 2 dimensions"):
                    drawn(ti.initializer(f"jax.{name}"), *shape)

    def test_words_that_mean_nothing(self):
        for given in ({"mode": "fan_foo"}, {"distribution": "cauchy"}):
            with pytest.raises(ValueError, match=r"fan_foo|cauchy"):
                ti.initializer(
                    "jax.variance_scaling",
                    **{"scale": 1.0, "mode": "fan_in", "distribution": "normal"} | given,
                )

    def test_orthogonal(self):
        for rows, columns in ((5, 5), (9, 4), (4, 9)):
            values = drawn(ti.initializer("jax.orthogonal"), rows, columns)
            gram = values.T @ values if rows >= columns else values @ values.T
            assert torch.allclose(gram, torch.eye(min(rows, columns)), atol=1e-5)


class TestKeras:
    @pytest.mark.parametrize("name", ["glorot_uniform", "GlorotUniform", "glorotuniform"])
    def test_get(self, name):
        assert ti.initializer(name) == ti.initializer("keras.glorot_uniform")

    def test_get_of_what_is_one(self):
        given = ti.Normal(0.0, 0.05)
        assert ti.initializer(given) is given

    def test_random_normal_and_uniform(self):
        values = drawn(ti.initializer("RandomNormal", mean=4.0, stddev=2.0), 100, 100)
        assert values.mean().item() == pytest.approx(4, abs=0.1)
        assert values.std().item() == pytest.approx(2, abs=0.1)
        values = drawn(ti.initializer("RandomUniform", minval=-1.0, maxval=2.0), 100, 100)
        assert -1 <= values.min() < -0.99
        assert 1.99 < values.max() < 2

    def test_truncated_normal_stays_within_two_deviations(self):
        values = drawn(ti.initializer("keras.TruncatedNormal", mean=0.5, stddev=0.3), 100, 100)
        assert (values - 0.5).abs().max() <= 0.6 + 1e-6

    @pytest.mark.parametrize(
        "given", [{"scale": -1.0}, {"mode": "invalid_mode"}, {"distribution": "invalid"}]
    )
    def test_invalid_arguments(self, given):
        with pytest.raises(ValueError, match=r"-1\.0|invalid"):
            ti.initializer("keras.VarianceScaling", **given)

    def test_orthogonal_and_identity_of_vectors(self):
        for name in ("keras.Orthogonal", "keras.Identity"):
            with pytest.raises(ValueError, match="dimensions"):
                drawn(ti.initializer(name), 4)

    def test_identity(self):
        values = drawn(ti.initializer("keras.Identity", gain=2.0), 3, 3)
        assert values.equal(2 * torch.eye(3))


class TestDifferences:
    """Those of docs/peers.md."""

    def test_no_variance_is_allowed(self):
        assert not drawn(ti.initializer("keras.VarianceScaling", scale=0.0), 3, 3).any()

    def test_vectors_need_axes(self):
        with pytest.raises(ValueError, match="fewer than 2"):
            drawn(ti.initializer("keras.glorot_uniform"), 9)
        found = drawn(ti.initializer("keras.glorot_uniform", axes=Axes((), ())), 9)
        assert found.abs().max() <= math.sqrt(3 / 9)

    def test_arguments_that_belong_to_a_call(self):
        for given in ({"seed": 3}, {"dtype": "float32"}):
            with pytest.raises(TypeError, match="unexpected keyword"):
                ti.initializer("glorot_uniform", **given)
