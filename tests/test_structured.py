"""Identities, orthogonal and sparse matrices: against their definitions, and what is known of their laws.

Statistical checks use fixed keys, as in ``tests/test_initializers.py``.
"""

import math

import numpy as np
import pytest
import torch

from tests.initializer_helpers import DTYPES, KEY, Z, bits, drawn, gram_error, in_every_dtype
from tritoninit import (
    Dirac,
    Experts,
    Eye,
    Identity,
    Normal,
    Orthogonal,
    Scaled,
    Sparse,
    Value,
    Window,
    Windows,
    use_backend,
)
from tritoninit.selection import _bound_by_bits, _bound_by_partition, smallest


class TestFixed:
    """Eye and Dirac against the loops of their definition, in every dtype there is."""

    @pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (0, 3)])
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.int64, torch.bool, torch.complex64])
    def test_eye(self, shape, dtype):
        target = Eye()(torch.ones(shape, dtype=dtype))
        assert target.tolist() == [[i == j for j in range(shape[1])] for i in range(shape[0])]

    @pytest.mark.parametrize(
        ("shape", "groups"),
        [
            ((4, 4, 3), 1),
            ((6, 3, 5), 1),
            ((3, 6, 4), 1),
            ((6, 2, 3, 3), 3),
            ((6, 6, 2, 5), 2),
            ((4, 1, 3, 3), 4),
            ((4, 3, 1, 2, 3), 2),
        ],
    )
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.int64])
    def test_dirac(self, shape, groups, dtype):
        expected = torch.zeros(shape, dtype=dtype)
        per_group = shape[0] // groups
        for group in range(groups):
            for channel in range(min(per_group, shape[1])):
                expected[(group * per_group + channel, channel, *(n // 2 for n in shape[2:]))] = 1
        assert Dirac(groups)(torch.ones(shape, dtype=dtype)).equal(expected)

    def test_dirac_passes_its_inputs_on(self):
        signal = torch.arange(2.0 * 6 * 8 * 8).reshape(2, 6, 8, 8)
        kernel = Dirac(2)(torch.empty(6, 3, 3, 3))
        assert torch.nn.functional.conv2d(signal, kernel, padding=1, groups=2).equal(signal)

    @pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (2, 3, 5), (2, 2, 4, 3), (0, 3), (2, 0, 3)])
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.int64, torch.complex64])
    def test_identity(self, shape, dtype):
        """The last two dimensions', by NumPy; where it is one matrix of ones, torch's."""
        target = Identity(3.0)(torch.ones(shape, dtype=dtype))
        expected = np.broadcast_to(3.0 * np.eye(*shape[-2:]), shape)
        assert np.array_equal(target.to(torch.complex128).numpy(), expected)
        if len(shape) == 2:
            assert Identity()(torch.ones(shape, dtype=dtype)).equal(Eye()(torch.ones(shape, dtype=dtype)))

    def test_identity_of_a_part(self):
        whole = Identity(0.1)(torch.empty(3, 6, 8))
        part = Identity(0.1)(torch.empty(2, 4, 3), window=Window((3, 6, 8), (1, 2, 3)))
        assert part.equal(whole[1:, 2:, 3:6])
        assert whole[0, 1, 1] == torch.tensor(0.1)
        assert Identity(0.1)(torch.empty(1, 1, dtype=torch.float64)).item() == 0.1

    @pytest.mark.parametrize(
        ("gain", "shape"), [(math.nan, (2, 2)), (math.inf, (2, 2)), (1.0, (3,)), (1.0, ())]
    )
    def test_no_identity(self, gain, shape):
        with pytest.raises(ValueError, match=r"finite|2 or more dimensions"):
            Identity(gain)(torch.empty(shape))

    @pytest.mark.parametrize("shape", [(), (3,), (3, 3, 3)])
    def test_eye_is_a_matrix(self, shape):
        with pytest.raises(ValueError, match="2 dimensions"):
            Eye()(torch.empty(shape))

    @pytest.mark.parametrize("shape", [(3, 3), (1, 1, 1, 1, 1, 1)])
    def test_dirac_is_a_convolution(self, shape):
        with pytest.raises(ValueError, match="3, 4, or 5 dimensions"):
            Dirac()(torch.empty(shape))


@pytest.fixture
def threads_kept():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


class TestOrthogonal:
    @pytest.mark.parametrize(
        "shape",
        [
            (1, 1),
            (2, 2),
            (64, 64),
            (200, 30),
            (30, 200),
            (1, 50),
            (50, 1),
            (16, 4, 3, 3),
            (64, 2, 3, 3),
            (8, 3, 2, 2, 2),
        ],
    )
    @in_every_dtype
    def test_columns_are_orthonormal(self, shape, dtype):
        """Householder QR in float32 loses at most a small multiple of m u (Higham 2002, theorem 19.4): 14.5 u
        was measured at m = 512. Rounding unit vectors to 16 bits changes their products by at most
        2 u + u**2, by Cauchy and Schwarz, and float16's subnormals by 2**-25 an element more.
        """
        longest = max(shape[0], math.prod(shape[1:]))
        bound = (longest + 8) * 2.0**-24
        if dtype != torch.float32:
            u = UNIT_ROUNDOFF[dtype]
            bound += 2 * u + u * u + 2 * math.sqrt(longest) * 2.0**-25
        assert gram_error(drawn(Orthogonal(), shape, dtype)) < bound

    @pytest.mark.parametrize("shape", [(64, 64), (30, 200)])
    def test_numpys_too(self, shape):
        array = Orthogonal()(np.full(shape, np.nan, np.float32), key=KEY)
        assert gram_error(torch.from_numpy(array)) < (max(shape) + 8) * 2.0**-24

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_16_bits_are_the_rounded_float32(self, dtype):
        wide = drawn(Orthogonal(0.7), (40, 30))
        assert drawn(Orthogonal(0.7), (40, 30), dtype).equal(wide.to(dtype))

    @pytest.mark.parametrize("gain", [2.0, 0.1, math.sqrt(2), -1.5, 0.0])
    def test_gain_multiplies(self, gain):
        assert drawn(Orthogonal(gain), (20, 30)).equal(drawn(Orthogonal(), (20, 30)) * gain)

    def test_trailing_dimensions_are_flattened(self):
        flat = drawn(Orthogonal(), (16, 36))
        assert drawn(Orthogonal(), (16, 4, 3, 3)).equal(flat.reshape(16, 4, 3, 3))

    def test_one_dimension_is_refused(self):
        with pytest.raises(ValueError, match="2 or more dimensions"):
            Orthogonal()(torch.empty(3))


ROTATIONS = 2000


def orthogonals(shape):
    """ROTATIONS matrices, stacked; so small that a second thread would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.stack(
            [drawn(Orthogonal(), shape, key=KEY.fold_in(i)) for i in range(ROTATIONS)]
        ).double()
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rotations():
    return orthogonals((3, 3))


LARGE = 40  # rows, of as many columns


@pytest.fixture(scope="module")
def large():
    shape = (ROTATIONS, LARGE, LARGE)
    return Experts(Orthogonal())(torch.empty(shape), key=KEY.fold_in("large")).double()


@pytest.fixture(scope="module")
def angles(large):
    """Those of each matrix's eigenvalues in the upper half of the circle, in order; infinity for -1 and 1."""
    found = torch.linalg.eigvals(large).angle().sort(dim=1).values[:, LARGE // 2 :]
    return torch.where((found > 1e-5) & (found < math.pi - 1e-5), found, torch.inf).sort(dim=1).values


def arc_of(size, sign, begin, end):
    """Of the number of angles in an arc of the upper half circle the mean, variance and fourth moment.

    The angles of matrices of an even size, but for fixed 1 and -1, are a determinantal process with kernel
    (S(x - y) + sign S(x + y)) / 2 pi, S(t) = sin((size - 1) t / 2) / sin(t / 2): Katz and Sarnak, Random
    Matrices, Frobenius Eigenvalues, and Monodromy, 5.5. So their number in an arc is a sum of independent
    Bernoulli variables, of probabilities that are the kernel's eigenvalues on the arc; by Gauss's quadrature.
    """
    nodes, weights = np.polynomial.legendre.leggauss(80)
    x = (begin + end + (end - begin) * nodes) / 2
    root = np.sqrt(weights * (end - begin) / 2)

    def series(t):
        half = np.where(np.abs(t) < 1e-12, 1e-12, t / 2)
        return np.sin((size - 1) * half) / np.sin(half)

    kernel = (series(x[:, None] - x) + sign * series(x[:, None] + x)) / (2 * math.pi)
    p = np.linalg.eigvalsh(root[:, None] * kernel * root).clip(0, 1)
    variances = p * (1 - p)
    fourth = 3 * variances.sum() ** 2 + (variances * (1 - 6 * variances)).sum()
    return p.sum(), variances.sum(), fourth


def kolmogorov_smirnov(uniforms):
    """sup |F_n - F| sqrt(n) against U(0, 1). It exceeds 2.69 with probability 1e-6."""
    ordered = uniforms.sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()).item() * math.sqrt(len(ordered))


class TestHaar:
    """What is known of the Haar measure in closed form, in three dimensions.

    LAPACK's factor without the signs fails for the entries on the diagonal, the determinant (always the
    same) and the traces.
    """

    @pytest.mark.parametrize("i", range(3))
    @pytest.mark.parametrize("j", range(3))
    def test_every_entry_is_uniform(self, rotations, i, j):
        """A coordinate of a point on the sphere is uniform (Archimedes), its square Beta(1/2, 1)."""
        assert kolmogorov_smirnov((rotations[:, i, j] + 1) / 2) < 2.69

    @pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 3), (3, 1)])
    def test_entries_of_rectangles_too(self, shape):
        entries = orthogonals(shape)
        assert kolmogorov_smirnov((entries[:, 0, 0] + 1) / 2) < 2.69
        assert kolmogorov_smirnov((entries[:, -1, -1] + 1) / 2) < 2.69

    def test_both_determinants_occur_equally(self, rotations):
        determinants = torch.linalg.det(rotations)
        assert (determinants.abs() - 1).abs().max() < 1e-6  # float32 entries
        z = determinants.sum() / math.sqrt(ROTATIONS)
        assert abs(z) < Z

    def test_traces(self, rotations):
        """E tr = 0, E tr**2 = 1 and E tr**4 = 3 in O(3), as of a normal (Diaconis and Shahshahani 1994)."""
        traces = rotations.diagonal(dim1=1, dim2=2).sum(1)
        assert abs(traces.mean()) < Z * math.sqrt(1 / ROTATIONS)
        assert abs(traces.square().mean() - 1) < Z * math.sqrt((3 - 1) / ROTATIONS)

    def test_powers_have_the_traces_of_the_orthogonal_group(self, large):
        """E tr Q^k is 1 for even k and 0 for odd, its variance k, for n >= 2k (Diaconis and Shahshahani 1994,
        theorem 4); that of its square is below 2 k**2 + 4 k in the mean of a shifted normal.
        """
        power = torch.eye(large.shape[-1], dtype=torch.float64).expand_as(large)
        for k in range(1, 9):
            power = power @ large
            traces = power.diagonal(dim1=1, dim2=2).sum(1)
            even = 1 - k % 2
            count = len(traces)
            assert abs(traces.mean() - even) < Z * math.sqrt(k / count)
            spread = math.sqrt((2 * k * k + 4 * k * even) / count)
            assert abs(traces.square().mean() - k - even) < Z * spread

    @pytest.mark.parametrize("arc", [(0.0, 0.4), (0.5, 1.2), (1.0, 2.0), (2.7, math.pi)], ids=str)
    def test_angles_in_an_arc(self, large, angles, arc):
        """How many eigenvalues lie there, the mean and the variance: see :func:`arc_of`."""
        for sign in (1, -1):
            found = angles[torch.linalg.det(large).sign() == sign]
            counts = ((found > arc[0]) & (found < arc[1])).sum(1).double()
            mean, variance, fourth = arc_of(large.shape[-1], sign, *arc)
            assert abs(counts.mean() - mean) < Z * math.sqrt(variance / len(counts))
            spread = math.sqrt((fourth - variance**2) / len(counts))
            assert abs((counts - mean).square().mean() - variance) < Z * spread

    def test_angles_repel_each_other(self, angles):
        """Neighbours within a fifth of the mean distance: of independent angles 18 in a hundred, here 0.85.

        The density of distances is pi**2 s**2 / 3 - 2 pi**4 s**4 / 45 near zero, as of the circular unitary
        ensemble (Mehta, Random Matrices, appendix A.13).
        """
        size = angles.shape[1] * 2
        distances = angles.diff(dim=1)[:, 3:-3].flatten() * size / (2 * math.pi)
        near = (distances < 0.2).double().mean()
        expected = math.pi**2 / 9 * 0.2**3 - 2 * math.pi**4 / 225 * 0.2**5
        assert abs(near - expected) < Z * math.sqrt(expected / len(distances))

    def test_entries_are_uncorrelated(self, rotations):
        """Cov(Q_ij, Q_kl) = 0 for other entries, and E Q_ij**2 Q_kl**2 <= 1/5, so z <= mean * sqrt(5 n)."""
        flat = rotations.flatten(1)
        products = (flat.T @ flat) / ROTATIONS
        assert (products - torch.eye(9) / 3).abs().max() < Z * math.sqrt(1 / 5 / ROTATIONS)


class TestSparse:
    @pytest.mark.parametrize("rows", [1, 2, 3, 7, 10, 33, 128])
    @pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.1, 0.3, 0.5, 0.77, 0.999, 1.0])
    @in_every_dtype
    def test_zeros_in_every_column(self, rows, sparsity, dtype):
        """Exactly ceil(sparsity * rows); std 1, so that no value rounds to zero in float16."""
        matrix = drawn(Sparse(sparsity, 1.0), (rows, 19), dtype)
        assert ((matrix == 0).sum(0) == math.ceil(sparsity * rows)).all()

    def test_places_are_uniform_over_rows(self):
        """Pearson's chi-square of the row counts, 15 degrees of freedom: above 56.5 with probability 1e-6.

        A quarter of the rows is drawn without replacement: each count has variance columns * 3/16, and
        correlation -1/15 with the others, which the factor 15/16 makes up for.
        """
        columns = 8000
        counts = (drawn(Sparse(0.25), (16, columns)) == 0).sum(1).double()
        statistic = 15 / 16 * (counts - columns / 4).square().sum() / (columns * 3 / 16)
        assert statistic < 56.5

    def test_places_of_a_column_are_independent_of_its_neighbours(self):
        """Columns with 4 zeros in 16 rows share 4 * 4 / 16 = 1, with the hypergeometric's variance 0.6."""
        zero = drawn(Sparse(0.25), (16, 8001)) == 0
        shared = (zero[:, 1:] & zero[:, :-1]).sum(0).double()
        assert abs(shared.mean() - 1) < Z * math.sqrt(0.6 / 8000)

    def test_values_are_normal(self):
        matrix = drawn(Sparse(0.3, 0.05), (300, 400)).double()
        values = matrix[matrix != 0]
        n = values.numel()
        assert n == 210 * 400
        assert abs(values.mean()) < Z * 0.05 / math.sqrt(n)
        assert abs(values.square().mean() / 0.05**2 - 1) < Z * math.sqrt(2 / n)

    def test_places_do_not_depend_on_the_values(self):
        """Beside the zeros stand the numbers that a normal of the same key has there."""
        matrix, normal = drawn(Sparse(0.3, 0.05), (50, 60)), drawn(Normal(0, 0.05), (50, 60))
        assert matrix[matrix != 0].equal(normal[matrix != 0])

    @pytest.mark.parametrize("values", [1, 2, 5, 2**24], ids=lambda n: f"{n} values")
    @pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 33), (300, 50), (0, 3), (3, 0)])
    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_places_are_the_first_of_a_stable_sort(self, device, shape, values):
        x = torch.randint(0, values, shape, generator=torch.Generator().manual_seed(5)).float().to(device)
        order = x.argsort(dim=0, stable=True)
        for count in {0, min(1, shape[0]), shape[0] // 2, shape[0]}:
            expected = torch.zeros(shape, dtype=torch.bool, device=device).scatter_(0, order[:count], True)
            assert smallest(x, count).equal(expected)

    @pytest.mark.parametrize("values", [1, 2, 2**24])
    @pytest.mark.parametrize("count", [1, 20, 61])
    def test_both_ways_to_the_bound(self, values, count):
        x = torch.randint(0, values, (61, 30), generator=torch.Generator().manual_seed(5)).float()
        expected = x.sort(dim=0).values[count - 1]
        assert _bound_by_bits(x, count).equal(expected)
        assert _bound_by_partition(x, count).equal(expected)

    @pytest.mark.parametrize("values", [1, 2, 5, 2**24])
    @pytest.mark.parametrize("count", [1, 2, 30, 60])
    def test_numba_finds_the_same_bounds(self, values, count):
        """Of made-up uniforms: of 2**24 real ones too few are equal to tell."""
        numba_selection = pytest.importorskip("tritoninit.kernels.numba_selection")
        x = torch.randint(0, values, (60, 9), generator=torch.Generator().manual_seed(5)) * (2**24 // values)
        bounds, last = np.empty((2, 9), np.uint32)
        numba_selection.find_bounds.py_func(x.numpy().astype(np.uint32), count, bounds, last)
        rows = torch.arange(60)[:, None]
        limits, ends = torch.from_numpy(bounds.astype(np.int64)), torch.from_numpy(last.astype(np.int64))
        assert ((x < limits) | ((x == limits) & (rows <= ends))).equal(smallest(x.float(), count))

    @pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 130), (20_000, 3), (3, 12001), (5000, 37)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_numpy_writes_the_same(self, shape, dtype, threads_kept):
        for sparsity in (0.001, 0.5, 0.9, 1.0):
            with use_backend("numpy"):
                expected = drawn(Sparse(sparsity, 1.0), shape, dtype)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                assert bits(drawn(Sparse(sparsity, 1.0), shape, dtype)).equal(bits(expected))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_memory_of_any_strides(self, dtype):
        whole = drawn(Sparse(0.4, 1.0), (310, 170), dtype)
        for memory in (
            torch.full((170, 310), math.nan, dtype=dtype).T,
            torch.full((620, 510), math.nan, dtype=dtype)[1::2, ::3],
        ):
            assert Sparse(0.4, 1.0)(memory, key=KEY).equal(whole)
        array = np.full((310, 340), np.nan, np.float32)
        Sparse(0.4, 1.0)(array[::-1, 1::2], key=KEY)
        assert np.array_equal(array[::-1, 1::2], drawn(Sparse(0.4, 1.0), (310, 170)).numpy())
        assert np.isnan(array[:, ::2]).all()

    def test_parts(self):
        whole = drawn(Sparse(0.4), (310, 170))
        window = Windows.runs((310, 170), [[(3, 20), (40, 310)], [(1, 30), (65, 170)]])
        part = Sparse(0.4)(torch.full((287, 134), math.nan), key=KEY, window=window)
        rows, columns = [*range(3, 20), *range(40, 310)], [*range(1, 30), *range(65, 170)]
        assert part.equal(whole[rows][:, columns])

    def test_the_generator_governs_the_places(self):
        """torch.nn.init.sparse_ takes them from the default generator, whatever generator it is given."""
        runs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            runs.append(Sparse(0.5)(torch.empty(20, 20), generator=torch.Generator().manual_seed(9)))
        assert runs[0].equal(runs[1])

    @pytest.mark.parametrize("shape", [(3,), (3, 3, 3), ()])
    def test_a_matrix_only(self, shape):
        with pytest.raises(ValueError, match="2 dimensions"):
            Sparse(0.5)(torch.empty(shape))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e5m2, torch.int8, torch.float16])
def test_values_of_a_lazy_view(dtype):
    """Into some dtypes torch cannot copy them, which is too late to know when others are written."""
    view = torch.full((3,), -1j).conj().imag
    assert Value(view)(torch.zeros(3, dtype=dtype)).float().tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_values_of_8_bits(dtype):
    values = Value(torch.tensor([0.5, 2.0]).to(dtype))
    assert values(np.zeros(2, np.float32)).tolist() == [0.5, 2.0]
    assert Scaled(values, 3.0)(torch.zeros(2)).tolist() == [1.5, 6.0]
