"""Fit the stream's polynomials: minimax in relative error, coefficients rounded to float32 one by one.

Run ``python tools/fit_polynomials.py`` (mpmath and scipy are needed); it prints the tables that stand in
``kernels/stream.py`` and the largest relative error of each, in units of 2**-24. The fit is a linear
programme over a Chebyshev grid (Lawson's discrete minimax problem): a float32 coefficient is fixed at its
rounded value, the rest are fitted again, so that later coefficients make good the rounding of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np
from scipy.optimize import linprog

mp.mp.dps = 40
ULP = 2.0**24


def chebyshev_grid(low: float, high: float, count: int = 800) -> np.ndarray:
    angles = np.pi * (np.arange(count) + 0.5) / count
    return (low + high) / 2 + (high - low) / 2 * np.cos(angles)


def minimax(x: np.ndarray, target: np.ndarray, powers: list[int]) -> np.ndarray:
    """Coefficients c[k] of x**k that minimise max |(sum - target) * ULP|, both already weighted."""
    scale = np.abs(x).max(0)
    columns = x / scale
    start, *_ = np.linalg.lstsq(columns, target, rcond=None)
    rest = target - columns @ start
    ones = np.ones((len(rest), 1))
    solution = linprog(
        np.r_[np.zeros(len(powers)), 1.0],
        A_ub=np.block([[columns, -ones], [-columns, -ones]]),
        b_ub=np.r_[rest, -rest],
        bounds=[(None, None)] * len(powers) + [(0, None)],
        method="highs",
    )
    return (start + solution.x[:-1]) / scale


def fit(
    x: np.ndarray, target: np.ndarray, degree: int, fixed: dict[int, float] | None = None
) -> tuple[list[float], float]:
    """Float32 coefficients, highest power first, and the largest relative error in units of 2**-24."""
    known = dict(fixed or {})
    weight = ULP / target
    free = [k for k in range(degree + 1) if k not in known]
    while free:
        left = target - sum(c * x**k for k, c in known.items())
        matrix = np.stack([x**k for k in free], axis=1) * weight[:, None]
        coefficients = minimax(matrix, left * weight, free)
        known[free.pop(0)] = float(np.float32(coefficients[0]))
    table = [known[k] for k in range(degree, -1, -1)]
    return table, float(np.max(np.abs((np.polyval(table, x) - target) * weight)))


def sample(function: Callable[[mp.mpf], mp.mpf], x: np.ndarray) -> np.ndarray:
    return np.array([float(function(mp.mpf(float(v)))) for v in x])


def log_over_m(m: mp.mpf) -> mp.mpf:
    return mp.log1p(m) / m


def sine_over_f(w: mp.mpf) -> mp.mpf:
    f = mp.sqrt(1 - w)
    return mp.sin(mp.pi / 2 * f) / f


def quantile_tables() -> tuple[np.ndarray, np.ndarray]:
    """W = -2 ln(4 p (1 - p)) and z / (2 p - 1) for standard normal quantiles z of p."""
    z = np.concatenate([np.linspace(1e-3, 5, 1500), np.linspace(5, 9.2, 1500)[1:]])
    above = np.array([float(mp.log(4 * mp.ncdf(-v) * mp.ncdf(v))) for v in z])
    ratio = np.array([float(v / mp.erf(v / mp.sqrt(2))) for v in z])
    return -2 * above, ratio


def show(name: str, table: list[float], error: float) -> None:
    print(f"{name} = (  # relative error {error:.2f} * 2**-24")
    for c in table:
        print(f'    float.fromhex("{c.hex()}"),  # {c:.9g}')
    print(")")


def main() -> None:
    m = chebyshev_grid(-1 / 3, 1 / 3)
    table, error = fit(m, sample(log_over_m, m), 8, {0: 1.0})
    show("LOG", [-2 * c for c in table[:-1]], error)
    w = chebyshev_grid(0, 1)
    table, error = fit(w, sample(sine_over_f, w), 4, {0: 1.0})
    show("SINE", table[:-1], error)
    big, ratio = quantile_tables()
    centre = big < 12.02
    table, error = fit(big[centre] - 6, ratio[centre], 8)
    show("QUANTILE_CENTRE", table, error)
    tail = big > 11.98
    table, error = fit(np.sqrt(big[tail]) - 6, ratio[tail], 8)
    show("QUANTILE_TAIL", table, error)
    print("largest W", big.max(), "sqrt", np.sqrt(big.max()))


if __name__ == "__main__":
    main()
