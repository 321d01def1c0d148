"""Fit the polynomials of float64: Chebyshev interpolation in 60 digits, coefficients rounded to float64.

Run ``python tools/fit_doubles.py`` (mpmath is needed); it prints the tables that stand in
``kernels/doubles.py`` and the largest relative error of each, in units of 2**-53.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60
Function = Callable[[mp.mpf], mp.mpf]


def interpolated(f: Function, low: mp.mpf, high: mp.mpf, terms: int, shift: mp.mpf) -> list[float]:
    """Coefficients in x - shift, highest power first, by divided differences at Chebyshev's nodes."""
    angles = [mp.pi * (k + mp.mpf(1) / 2) / terms for k in range(terms)]
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(angle) for angle in angles]
    differences = [f(node) for node in nodes]
    for order in range(1, terms):
        for k in range(terms - 1, order - 1, -1):
            differences[k] = (differences[k] - differences[k - 1]) / (nodes[k] - nodes[k - order])
    coefficients = [differences[-1]]
    for node, difference in zip(nodes[-2::-1], differences[-2::-1], strict=True):
        moved = [*coefficients, mp.mpf(0)]
        for k, coefficient in enumerate(coefficients):
            moved[k + 1] += coefficient * (shift - node)
        moved[-1] += difference
        coefficients = moved
    return [float(each) for each in coefficients]


def error(f: Function, low: mp.mpf, high: mp.mpf, shift: mp.mpf, coefficients: list[float]) -> float:
    places = [low + (high - low) * k / 100 for k in range(101)]
    exact = [mp.mpf(each) for each in coefficients]
    return float(max(abs(mp.polyval(exact, x - shift) / f(x) - 1) for x in places) * 2**53)


def log_rest(t: mp.mpf) -> mp.mpf:
    """What is left of -2 ln(1 + m) after m, m**2 and s, in t = s**2."""
    s = mp.sqrt(t)
    return 4 * (mp.atanh(s) / s - 1) / t if t > mp.mpf(10) ** -20 else mp.mpf(4) / 3 + 4 * t / 5


def sine_rest(w: mp.mpf) -> mp.mpf:
    """What is left of sin(pi/2 f) after f + f w / 2, in w = 1 - f**2."""
    f = mp.sqrt(1 - w)
    slope = mp.sin(mp.pi / 2 * f) / f if f > mp.mpf(10) ** -25 else mp.pi / 2
    return ((slope - 1) / w - mp.mpf(1) / 2) / w


def quantile_slope(big: mp.mpf) -> mp.mpf:
    """z / (p - q) of the normal quantile z, in W = -2 ln(4 p q)."""
    if big < mp.mpf(10) ** -50:
        return mp.sqrt(mp.pi / 2)
    s = mp.sqrt(-mp.expm1(-big / 2))
    q = mp.exp(-big / 2) / (2 * (1 + s))
    z = mp.sqrt(big) if big > 2 else s * mp.mpf("1.25")
    for _ in range(60):
        step = (mp.erfc(z / mp.sqrt(2)) / 2 - q) / (-mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi))
        step /= 1 + z * step / 2
        z -= step
        if abs(step) < mp.mpf(10) ** -50 * abs(z):
            break
    return z / s


def by_root(root: mp.mpf) -> mp.mpf:
    return quantile_slope(root * root)


SMALLEST = mp.mpf(10) ** -9
TABLES: list[tuple[str, Function, mp.mpf, mp.mpf, int, mp.mpf]] = [
    ("LOG", log_rest, mp.mpf(10) ** -15, mp.mpf("1.0001") * (3 - 2 * mp.sqrt(2)) ** 2, 8, mp.mpf(0)),
    ("SINE", sine_rest, SMALLEST, mp.mpf(1), 8, mp.mpf(0)),
    ("QUANTILE[0]", quantile_slope, mp.mpf(0), mp.mpf(5), 22, mp.mpf("2.5")),
    ("QUANTILE[1]", by_root, mp.sqrt(5), mp.mpf(4), 22, mp.mpf(3)),
    ("QUANTILE[2]", by_root, mp.mpf(4), mp.mpf("6.5"), 22, mp.mpf("5.25")),
    ("QUANTILE[3]", by_root, mp.mpf("6.5"), mp.mpf("11.5"), 22, mp.mpf(9)),
]


def main() -> None:
    for name, f, low, high, terms, shift in TABLES:
        found = interpolated(f, low, high, terms, shift)
        print(f"{name}: relative error {error(f, low, high, shift, found):.3f} * 2**-53")
        print("".join(f'    float.fromhex("{each.hex()}"),\n' for each in found))


if __name__ == "__main__":
    main()
