"""Measured moments beside NumPy's, expected ones beside SciPy's, and scores that give no false alarm."""

import math
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from scipy import stats

import tritoninit as ti
from tritoninit.auditing.moments import ALARM, Expected, Moments, expected, judged, measure, merged, scores


class TestMeasure:
    @pytest.mark.parametrize("shape", [(), (1,), (7,), (300, 1000), (3, 400, 500)])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64], ids=str)
    def test_beside_numpy(self, shape, dtype):
        x = (torch.randn(shape, dtype=torch.float64) * 50 + 3).to(dtype)
        wide = x.double().numpy()
        found = measure(x)
        assert found.count == wide.size
        # Means are sums by halves: 21 roundings of 1.1e-16 of numbers up to 300. Squares are added one by
        # one, up to 2**18 of them.
        assert found.mean == pytest.approx(wide.mean(), rel=1e-13, abs=1e-12)
        assert found.std == pytest.approx(wide.std(), rel=2**18 * 1.1e-16, abs=1e-12)
        assert (found.min, found.max) == (wide.min(), wide.max())
        assert (found.nan, found.inf) == (0, 0)

    def test_layout(self):
        x = torch.randn(4, 600, 300)
        found, turned = measure(x), measure(x.transpose(0, 2))
        # The same sums in another order.
        assert (found.mean, found.std) == pytest.approx((turned.mean, turned.std), rel=1e-11)
        assert (found.min, found.max) == (turned.min, turned.max)

    def test_what_float32_sums_get_wrong(self):
        """Added one by one in float32, 2**25 ones come to 2**24: one more is half a unit there, and lost."""
        x = torch.ones(2**25)
        assert np.add.accumulate(x.numpy(), dtype=np.float32)[-1] == 2.0**24
        x[1::2] += 2.0**-23  # and where float32 sums by halves do not stop, they lose these
        found = measure(x)
        assert found.mean == 1 + 2.0**-24
        assert found.std == 2.0**-24

    def test_far_from_zero(self):
        """The mean of squares less the squared mean would have no digit left."""
        x = 1e8 + torch.arange(1_000_001, dtype=torch.float64) * 1e-4
        # Elements are rounded to 2**-27 = 7.5e-9, of a spread of 29.
        assert measure(x).std == pytest.approx(1e-4 * math.sqrt((1_000_001**2 - 1) / 12), rel=1e-9)

    @pytest.mark.parametrize(
        ("values", "nan", "inf"),
        [([1.0, math.nan], 1, 0), ([math.inf, 1.0, -math.inf], 0, 2), ([math.nan] * 3 + [math.inf], 3, 1)],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
    def test_not_finite(self, values, nan, inf, dtype):
        x = torch.cat([torch.ones(300_000), torch.tensor(values)])
        if dtype.is_complex:
            x = torch.complex(torch.zeros_like(x), x)
        found = measure(x if dtype.is_complex else x.to(dtype))
        assert found == Moments(len(x) * (2 if dtype.is_complex else 1), nan=nan, inf=inf)

    def test_empty_and_constant(self):
        assert measure(torch.empty(0, 3)) == Moments(0)
        constant = measure(torch.full((3, 3), 0.5))
        assert (constant.mean, constant.std, constant.min, constant.max) == (0.5, 0.0, 0.5, 0.5)
        assert measure(torch.ones(5, dtype=torch.bool)).mean == 1

    @pytest.mark.parametrize(
        "values",
        [[1.0, 2.0, 4.0, 9.0, 5.0], [1e200, 3.0, -1e250, 2.0, 1.0], [math.nan, 1.0, math.inf, 2.0, 3.0]],
    )
    def test_of_parts(self, values):
        """Parts that ranks have measured are the whole: numbers without a square, and what is none."""
        x = torch.tensor(values, dtype=torch.float64)
        whole, parts = measure(x), merged([measure(x[:2]), measure(x[:0]), measure(x[2:])])
        assert (parts.count, parts.nan, parts.inf) == (whole.count, whole.nan, whole.inf)
        assert (parts.min, parts.max) == (whole.min, whole.max)
        assert [parts.mean, parts.std] == (
            [None, None] if whole.mean is None else pytest.approx([whole.mean, whole.std], rel=1e-14)
        )

    def test_scratch_is_bounded(self, monkeypatch):
        sizes = []
        empty_like = torch.empty_like
        monkeypatch.setattr(
            torch, "empty_like", lambda *a, **k: sizes.append(empty_like(*a, **k)) or sizes[-1]
        )
        measure(torch.ones(2**21))
        assert [x.nbytes for x in sizes] == [2**21]

    @pytest.mark.gpu
    def test_device(self):
        x = torch.randn(1000, 777)
        here, there = measure(x), measure(x.cuda())
        # Sums in another order.
        assert (there.mean, there.std) == pytest.approx((here.mean, here.std), rel=1e-10)
        assert (there.min, there.max, there.count) == (here.min, here.max, here.count)


TRUNCATED = [(-2, 2), (-3, 3), (0, 3), (1.5, 6), (-6, -1.5), (5.5, math.inf), (-math.inf, math.inf)]


class TestExpected:
    @pytest.mark.parametrize(
        ("fill", "reference"),
        [
            (ti.Uniform(-0.3, 0.5), stats.uniform(-0.3, 0.8)),
            (ti.Normal(0.1, 0.02), stats.norm(0.1, 0.02)),
            *[(ti.TruncatedNormal(0, 1, *map(float, e)), stats.truncnorm(*e)) for e in TRUNCATED],
            (ti.TruncatedNormal(0.1, 0.02, 0.05, 0.2), stats.truncnorm(-2.5, 5, 0.1, 0.02)),
        ],
        ids=lambda value: str(value) if isinstance(value, ti.Fill) else "",
    )
    def test_beside_scipy(self, fill, reference):
        mean, variance, kurtosis = (float(x) for x in reference.stats(moments="mvk"))
        found = expected(fill, torch.float32)
        # SciPy's closed forms lose digits to cancellation, more of them in higher moments and farther out.
        assert found.mean == pytest.approx(mean, rel=1e-12, abs=1e-12)
        assert found.std == pytest.approx(math.sqrt(variance), rel=1e-10)
        assert found.kurtosis == pytest.approx(kurtosis + 3, rel=1e-7)

    def test_closed_form_of_a_truncated_normal(self):
        """Johnson, Kotz and Balakrishnan (1994), section 13.10.1, equations 13.134 and 13.135."""
        alpha, beta = -1.0, 2.5
        phi, mass = stats.norm.pdf, stats.norm.cdf(beta) - stats.norm.cdf(alpha)
        shift = (phi(alpha) - phi(beta)) / mass
        variance = 1 + (alpha * phi(alpha) - beta * phi(beta)) / mass - shift**2
        found = expected(ti.TruncatedNormal(0.5, 0.1, 0.4, 0.75), torch.float32)
        # Two evaluations in float64.
        assert found.mean == pytest.approx(0.5 + 0.1 * shift, rel=1e-13)
        assert found.std == pytest.approx(0.1 * math.sqrt(variance), rel=1e-12)

    def test_narrow_interval(self):
        """The closed form has no digit of the kurtosis left here; nearly uniform, it is 9/5."""
        found = expected(ti.TruncatedNormal(0.0, 1.0, 1.0, 1.001), torch.float32)
        assert found.std == pytest.approx(0.001 / math.sqrt(12), rel=1e-6)  # the density falls by 1e-3
        assert found.kurtosis == pytest.approx(9 / 5, rel=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize(
        "fill",
        [
            ti.Uniform(0.0, 1.0),
            ti.Uniform(-0.0361, 0.0361),
            ti.Uniform(1.0, 1.03),
            ti.Normal(0.0, 0.02),
            ti.Normal(1.0, 0.01),
            ti.Normal(0.0, 1e-7),
            ti.TruncatedNormal(0.0, 0.02, -0.04, 0.04),
            ti.TruncatedNormal(0.0, 1.0, 1.5, 6.0),
            ti.TruncatedNormal(0.0, 1.0, 5.5, math.inf),
            ti.TruncatedNormal(0.0, 1.0, -0.51, 0.01),
        ],
        ids=str,
    )
    def test_rounded_as_drawn(self, fill, dtype):
        """Within five standard errors of four million numbers."""
        drawn = measure(fill(torch.empty(2**22, dtype=dtype), key=ti.Key(1)))
        z = scores(drawn, expected(fill, dtype))
        assert abs(z.mean) < 5
        assert abs(z.std) < 5

    @pytest.mark.parametrize("fill", [ti.Normal(1.0, 0.01), ti.Uniform(1.0, 1.03)], ids=str)
    def test_rounding_counts(self, fill):
        drawn = measure(fill(torch.empty(2**22, dtype=torch.bfloat16), key=ti.Key(1)))
        assert max(map(abs, scores(drawn, expected(fill, torch.float32)))) > ALARM

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_constants_are_rounded(self, dtype):
        drawn = measure(ti.Constant(0.1)(torch.empty(5, dtype=dtype)))
        assert drawn.min == drawn.max == expected(ti.Constant(0.1), dtype).mean
        assert expected(ti.Constant(0.1), dtype).std == 0

    def test_constant_integers(self):
        assert expected(ti.Constant(3), torch.int64).mean == 3

    @pytest.mark.parametrize(
        ("fill", "dtype"),
        [
            (ti.Normal(1.0, 1e-6), torch.float32),  # eight float32 numbers to a standard deviation
            (ti.Normal(), torch.int64),
            (ti.Constant(1.0), torch.complex64),
        ],
        ids=str,
    )
    def test_none(self, fill, dtype):
        assert expected(fill, dtype) is None

    @pytest.mark.parametrize("fill", [ti.Normal(0.1, 0.0), ti.Uniform(0.1, 0.1)], ids=str)
    def test_nothing_varies(self, fill):
        assert expected(fill, torch.bfloat16) == (*expected(ti.Constant(0.1), torch.bfloat16)[:2], ANY)


class TestScores:
    def test_formulas(self):
        found = Moments(400, mean=0.3, std=1.1, min=-2, max=2)
        assert scores(found, Expected(0.2, 1.0, 3.0)) == pytest.approx((2.0, 20 * 0.1 / math.sqrt(0.5)))

    def test_none(self):
        assert scores(Moments(3, nan=1), Expected(0.0, 1.0, 3.0)) == (None, None)
        assert scores(Moments(3, 0.0, 0.0, 0.0, 0.0), Expected(0.0, 0.0, math.nan)) == (None, None)

    @pytest.mark.parametrize("n", [50, 2000])
    @pytest.mark.parametrize(
        "fill",
        [ti.Uniform(-0.1, 0.1), ti.Normal(0.0, 0.02), ti.TruncatedNormal(), ti.TruncatedNormal(0, 1, 0, 3)],
        ids=str,
    )
    def test_standard_normal(self, fill, n):
        """Over 1000 streams the scores have mean 0 and standard deviation 1."""
        wanted = expected(fill, torch.float32)
        z = np.array([scores(measure(fill(torch.empty(n), key=ti.Key(k))), wanted) for k in range(1000)])
        # Five standard errors of 1000, and what n elements fall short of their limit by: 1/sqrt(n).
        assert np.abs(z.mean(0)).max() < 5 / math.sqrt(1000) + 1 / math.sqrt(n)
        assert np.abs(z.std(0) - 1).max() < 5 / math.sqrt(2000) + 1 / math.sqrt(n)


class TestAlarm:
    """The probabilities beside ALARM."""

    def test_mean(self):
        assert 2 * math.exp(-(ALARM**2) / 2) < 2.6e-14

    def test_std_of_normals(self):
        n = np.arange(2, 100_000)
        high, low = (np.clip(1 + sign * ALARM * math.sqrt(0.5) / np.sqrt(n), 0, None) for sign in (1, -1))
        alarm = stats.chi2.sf(n * high**2, n - 1) + stats.chi2.cdf(n * low**2, n - 1)
        assert alarm.max() == pytest.approx(1.54e-12, rel=0.01)
        assert n[alarm.argmax()] == 2

    def test_std_of_uniforms(self):
        """Chernoff's bound for a sum of n - 1 squares of uniforms of variance 1 being small."""
        t = np.linspace(0.01, 1000, 20_000)
        log_mgf = np.log(np.sqrt(np.pi / t) / 2 * (2 * stats.norm.cdf(np.sqrt(6 * t)) - 1) / math.sqrt(3))
        bound = 0.0
        for n in range(13, 2000):
            low = 1 - ALARM * math.sqrt(0.2) / math.sqrt(n)
            if low > 0:
                bound = max(bound, math.exp((t * n * low**2 + (n - 1) * log_mgf).min()))
        assert bound == pytest.approx(1.3e-11, rel=0.05)

    def test_of_an_audit(self):
        assert 500 * (2.5e-14 + 1.4e-11) < 1e-8

    def test_heavy_tails_need_many(self):
        assert judged(2, 3.0)
        assert judged(2, 1.8)
        assert not judged(1000, 8.0)
        assert judged(80_000, 8.0)
        assert not judged(10**9, math.nan)


def test_small_mistake_is_found():
    """A standard deviation that is off by 2 in a thousand, in 16 million elements."""
    drawn = measure(ti.Normal(0.0, 0.02)(torch.empty(2**24), key=ti.Key(0)))
    wanted = expected(ti.Normal(0.0, 0.02 * 1.002), torch.float32)
    assert abs(scores(drawn, wanted).std) > ALARM
