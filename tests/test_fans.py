"""Fans in a model: what the dimensions of a weight mean, by the module that owns it."""

import math

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.model_cases import (
    poisoned,
)
from tritoninit import (
    Axes,
    KaimingNormal,
    Key,
    Normal,
    Rule,
    Scaled,
    Uniform,
    XavierUniform,
    ZeroRow,
    Zeros,
    initialize_,
)
from tritoninit.fills import sole_fill
from tritoninit.initializers import FanScaled
from tritoninit.presets import Conv1D


class TestFans:
    def fill(self, module, initializer, name="weight"):
        holder = nn.ModuleDict({"it": poisoned(module)})
        report = initialize_(holder, [Rule(f"it.{name}", initializer), Rule("*", Zeros())], seed=0)
        (found,) = [each for each in report if each.name == f"it.{name}"]
        assert isinstance(found.initializer, FanScaled)
        return sole_fill(found.initializer, found.tensor.shape)

    @pytest.mark.parametrize(
        ("module", "fan_in", "fan_out"),
        [
            (nn.Linear(6, 4), 6, 4),
            (nn.Conv2d(6, 4, 3), 54, 36),
            (nn.Conv2d(6, 4, 3, groups=2), 27, 18),
            (nn.Conv2d(6, 12, 3, groups=6), 9, 18),  # depthwise, two outputs an input
            (nn.ConvTranspose2d(6, 4, 3), 54, 36),
            (nn.ConvTranspose2d(6, 4, 3, groups=2), 27, 18),
            (nn.Conv1d(6, 4, 5, groups=2), 15, 10),
            (nn.ConvTranspose3d(6, 4, 2), 48, 32),
            (nn.Bilinear(3, 5, 4), 15, 4),
        ],
        ids=str,
    )
    def test_by_the_module_s_meaning(self, module, fan_in, fan_out):
        assert self.fill(module, KaimingNormal(nonlinearity="linear")) == Normal(0.0, math.sqrt(1 / fan_in))
        initializer = KaimingNormal(mode="fan_out", nonlinearity="linear")
        assert self.fill(module, initializer) == Normal(0.0, math.sqrt(1 / fan_out))

    def test_each_output_of_a_transposed_convolution_sums_over_fan_in(self):
        """The meaning itself: N(0, 1) inputs give outputs of variance gain**2, away from the edges."""
        torch.manual_seed(0)
        module = nn.ConvTranspose2d(32, 8, 3, groups=4, bias=False)
        initialize_(module, [Rule("weight", KaimingNormal(nonlinearity="linear"))], seed=0)
        out = module(torch.randn(64, 32, 12, 12))[:, :, 2:-2, 2:-2]
        # fan_in is 72 weights a channel: the variance of their mean square over 8 channels is 2 / 576.
        assert out.var().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 576))

    def test_attention_in_three_parts(self):
        fill = self.fill(nn.MultiheadAttention(8, 2), XavierUniform(), "in_proj_weight")
        bound = math.sqrt(6 / 16)
        assert fill == Uniform(-bound, bound)

    @pytest.mark.parametrize(
        ("module", "gates"), [(nn.LSTM(6, 5), 4), (nn.GRU(6, 5), 3), (nn.GRUCell(6, 5), 3)]
    )
    def test_gates_one_by_one(self, module, gates):
        name = "weight_ih_l0" if isinstance(module, nn.RNNBase) else "weight_ih"
        assert getattr(module, name).shape == (5 * gates, 6)
        bound = math.sqrt(6 / 11)
        assert self.fill(module, XavierUniform(), name) == Uniform(-bound, bound)

    @pytest.mark.parametrize(
        ("name", "module", "fan_in", "fan_out"),
        [
            ("qkv", nn.Linear(8, 24), 8, 8),
            ("Wqkv", nn.Linear(8, 24), 8, 8),
            ("gate_up_proj", nn.Linear(8, 20), 8, 10),
            ("c_attn", Conv1D(8, 24), 8, 8),
            ("c_fc", Conv1D(8, 32), 8, 32),
            ("other", nn.Linear(8, 24), 8, 24),
        ],
    )
    def test_fused_projections_part_by_part(self, name, module, fan_in, fan_out):
        model = nn.ModuleDict({name: poisoned(module)})
        (found, _) = initialize_(model, [Rule("*.weight", XavierUniform()), Rule("*", Zeros())], seed=0)
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert sole_fill(found.initializer, found.tensor.shape) == Uniform(-bound, bound)

    def test_grouped_queries_need_axes(self):
        model = nn.ModuleDict({"qkv_proj": nn.Linear(8, 12, bias=False)})
        with pytest.raises(ValueError, match=r"qkv_proj.weight: which dimensions .* give axes="):
            initialize_(model, [Rule("*", XavierUniform())], seed=0)
        initialize_(model, [Rule("*", XavierUniform(axes=Axes(parts=(8, 2, 2))))], seed=0)

    def test_through_what_wraps_an_initializer(self):
        module = nn.ConvTranspose2d(6, 4, 3)
        for initializer in (Scaled(KaimingNormal(), 2.0), ZeroRow(KaimingNormal(), 1)):
            (found, _) = initialize_(module, [Rule("weight", initializer), Rule("bias", Zeros())], seed=0)
            assert sole_fill(found.initializer.initializer, (6, 4, 3, 3)) == Normal(0.0, math.sqrt(2 / 54))

    def test_parts_of_different_sizes(self):
        """Grouped-query attention: each part on its own fans, all from one stream."""
        axes = Axes(parts=(8, 2, 2))
        model = poisoned(nn.Linear(8, 12, bias=False))
        initialize_(model, [Rule("weight", XavierUniform(axes=axes))], seed=5)
        key, start = Key(5).fold_in("weight"), 0
        for size in (8, 2, 2):
            window = ti.Window((12, 8), (start, 0))
            bound = math.sqrt(6 / (8 + size))
            part = ti.uniform_(torch.empty(size, 8), -bound, bound, key=key, window=window)
            assert model.weight[start : start + size].equal(part)
            start += size

    def test_parts_in_columns_of_a_shard(self):
        initializer = XavierUniform(axes=Axes((0,), (1,), parts=(8, 2, 2)))
        whole = initializer(torch.empty(6, 12), key=Key(1))
        shard = initializer(torch.empty(4, 5), key=Key(1), window=ti.Window((6, 12), (1, 6)))
        assert shard.equal(whole[1:5, 6:11])

    @pytest.mark.parametrize(
        ("axes", "match"),
        [
            (Axes(parts=(4, 4)), r"parts \(4, 4\) do not add up"),
            (Axes((0,), (0,)), "names a dimension twice"),
            (Axes((1,), (5,)), "no dimension 5"),
            (Axes(groups=4), "has no 4 groups"),
        ],
    )
    def test_axes_that_do_not_fit(self, axes, match):
        with pytest.raises(ValueError, match=match):
            XavierUniform(axes=axes)(torch.empty(6, 7))

    def test_a_call_on_a_tensor_reads_shapes_as_torch_does(self):
        # (6, 4, 3, 3) may be a transposed convolution's (in, out, ...): torch takes it for (out, in, ...).
        assert sole_fill(KaimingNormal(), (6, 4, 3, 3)) == sole_fill(KaimingNormal(), (6, 36))


class TestAxesOfFewDimensions:
    """A vector and a scalar have fans where it is said what their dimensions mean, and only there."""

    @pytest.mark.parametrize(
        ("axes", "shape", "fans"),
        [
            (Axes((0,), ()), (5,), (5, 1)),
            (Axes((), (0,)), (5,), (1, 5)),
            (Axes((), (-1,)), (5,), (1, 5)),
            (Axes((), ()), (5,), (5, 5)),  # keras.initializers.compute_fans
            (Axes((), ()), (), (1, 1)),
            (Axes((), (), (0,)), (5,), (1, 1)),
            (Axes((), ()), (2, 3), (6, 6)),
            (Axes((-2,), (-1,)), (3, 3, 4, 8), (36, 72)),  # JAX's and Keras' layout
            (Axes((0, 1), (2,)), (2, 3, 5), (6, 5)),  # flax: several inputs
            (Axes((1,), (2,), (0,)), (2, 3, 5), (3, 5)),
        ],
    )
    def test_fans(self, axes, shape, fans):
        assert axes.fans(shape) == fans

    @pytest.mark.parametrize("shape", [(), (5,)])
    def test_not_by_default(self, shape):
        with pytest.raises(ValueError, match="fewer than 2 dimensions"):
            Axes().fans(shape)
        with pytest.raises(ValueError, match="no dimension"):
            Axes((-2,), (-1,)).fans(shape)

    def test_parts_lie_along_outputs(self):
        with pytest.raises(ValueError, match="the first of out_axes"):
            Axes((0,), (), parts=(2, 3))
