"""The constants of float64: ``kernels/README.md`` says what is computed with them, under "float64".

The polynomials were fitted by Chebyshev interpolation in 60 digits (``tools/fit_doubles.py``); each states
its largest relative error before rounding of the arithmetic, its coefficients rounded to float64.
"""

from __future__ import annotations

from typing import Final

# Words of the low halves: those of the block whose number has this bit set, which no element's own block has.
LOW_HALVES: Final = 1 << 62

# 2 (atanh(s) / s - 1) / s**2 * 2 in s**2 for |s| <= 0.1716, highest power first: with s = m / (2 + m),
# -2 ln(1 + m) = -2 m + (m**2 - s (m**2 + s**2 polynomial(LOG, s**2))). Relative error 0.50 * 2**-53, which
# the factor s**3 / m makes less than 2**-57 of the logarithm.
LOG: Final = (
    float.fromhex("0x1.0c04595972ac9p-2"),
    float.fromhex("0x1.0fbe83c2cbcf1p-2"),
    float.fromhex("0x1.3b1c360763b8ap-2"),
    float.fromhex("0x1.745cf901605f7p-2"),
    float.fromhex("0x1.c71c720160b47p-2"),
    float.fromhex("0x1.2492492476c87p-1"),
    float.fromhex("0x1.9999999999a38p-1"),
    float.fromhex("0x1.5555555555555p+0"),
)
LOG_SPLIT: Final = 0x3FE6A09E667F3BCD  # float64 bits of sqrt(1/2): mantissas are taken from [0.7071, 1.4142)
# -2 ln 2 in two parts, the first of 37 bits: times an exponent it is exact.
MINUS_TWO_LN2_HIGH: Final = float.fromhex("-0x1.62e42fefa0000p+0")
MINUS_TWO_LN2_LOW: Final = float.fromhex("-0x1.cf79abc9e3b3ap-39")

# sin(pi/2 f) = f + f w / 2 + f w**2 polynomial(SINE, w) with w = 1 - f**2, for f in [-1, 1] (quarter
# turns), highest power first. Relative error 0.78 * 2**-53 of the last term, less than a twelfth of the sine.
SINE: Final = (
    float.fromhex("0x1.7c9554e2a2841p-45"),
    float.fromhex("0x1.8fe378c86b93dp-38"),
    float.fromhex("0x1.55d8a311de149p-31"),
    float.fromhex("0x1.c22acb0be0e9ap-25"),
    float.fromhex("0x1.b707826c572dbp-19"),
    float.fromhex("0x1.2c79afaa15b45p-13"),
    float.fromhex("0x1.0b0cd906e886bp-8"),
    float.fromhex("0x1.10b0cd906e887p-4"),
)

# Normal quantile z of p, as z / (2 p - 1), with W = -2 ln(4 p (1 - p)). The first piece is a polynomial in
# W - 2.5, for W below 5, the others in sqrt(W) less their own shift. Relative errors 0.56, 0.36, 0.60 and
# 0.82 times 2**-53, up to sqrt(W) = 11.5, where |z| is 11.4.
QUANTILE_SPLIT: Final = 5.0
QUANTILE_ROOT_SPLITS: Final = (4.0, 6.5)
QUANTILE_SHIFTS: Final = (2.5, 3.0, 5.25, 9.0)
QUANTILE: Final = (
    (
        float.fromhex("-0x1.3390a6cffa2c5p-80"),
        float.fromhex("-0x1.c1520b371e120p-77"),
        float.fromhex("0x1.4170a096dbc4fp-72"),
        float.fromhex("0x1.6c0ec7a2b8454p-70"),
        float.fromhex("-0x1.f37b863fbbeb0p-65"),
        float.fromhex("0x1.14658861cec4fp-64"),
        float.fromhex("0x1.49492f6a4413bp-57"),
        float.fromhex("-0x1.082758569b5c9p-54"),
        float.fromhex("-0x1.6d0d5ece6debcp-50"),
        float.fromhex("0x1.306b367144ff6p-46"),
        float.fromhex("0x1.2e2b739210028p-43"),
        float.fromhex("-0x1.0876ac383e307p-38"),
        float.fromhex("-0x1.e386ea4ce7829p-39"),
        float.fromhex("0x1.836df17cf25b7p-31"),
        float.fromhex("-0x1.daae8f0b02f64p-29"),
        float.fromhex("-0x1.ded2564b2d587p-24"),
        float.fromhex("0x1.719c798c55564p-20"),
        float.fromhex("0x1.a9dd3e6d24c81p-17"),
        float.fromhex("-0x1.a1c4db20a8eabp-12"),
        float.fromhex("0x1.d193551374655p-11"),
        float.fromhex("0x1.6957d0994ea7dp-3"),
        float.fromhex("0x1.aeaad3c10ba6bp+0"),
    ),
    (
        float.fromhex("0x1.26a2b6b1dcdb0p-33"),
        float.fromhex("-0x1.5385f687d2f35p-30"),
        float.fromhex("0x1.27bd92952a632p-29"),
        float.fromhex("0x1.15d4915ea4012p-27"),
        float.fromhex("-0x1.f22c49684e55fp-26"),
        float.fromhex("-0x1.bc2295f181101p-26"),
        float.fromhex("0x1.f66429d80bca2p-23"),
        float.fromhex("-0x1.0923d4a0f2ce5p-24"),
        float.fromhex("-0x1.a25ca0b7a7851p-20"),
        float.fromhex("0x1.0d42c54006735p-19"),
        float.fromhex("0x1.23dc97776d203p-17"),
        float.fromhex("-0x1.7c741de341167p-16"),
        float.fromhex("-0x1.2b77cb224f3d2p-15"),
        float.fromhex("0x1.9435d9ff4d214p-13"),
        float.fromhex("0x1.49e136dcc15d9p-16"),
        float.fromhex("-0x1.5ac01db60812cp-10"),
        float.fromhex("0x1.bfbedf30f5ef6p-10"),
        float.fromhex("0x1.bcb386e2adaf6p-8"),
        float.fromhex("-0x1.0125226a9199ap-5"),
        float.fromhex("0x1.00173bb798a1bp-4"),
        float.fromhex("0x1.e023dacd207b5p-1"),
        float.fromhex("0x1.64d028d3ea183p+1"),
    ),
    (
        float.fromhex("-0x1.47a4d3acde780p-50"),
        float.fromhex("-0x1.764aea8d41728p-41"),
        float.fromhex("0x1.15e0928db4707p-38"),
        float.fromhex("-0x1.77914d98aeaedp-38"),
        float.fromhex("-0x1.40af144a6be60p-35"),
        float.fromhex("0x1.14ae8eb4adab8p-32"),
        float.fromhex("-0x1.88971f91a8dcdp-31"),
        float.fromhex("0x1.736c0eccbc02cp-35"),
        float.fromhex("0x1.3245a882665b2p-27"),
        float.fromhex("-0x1.678b058e6c718p-25"),
        float.fromhex("0x1.8a8c2192953dfp-24"),
        float.fromhex("0x1.860900c70f050p-26"),
        float.fromhex("-0x1.13d0be4a97366p-20"),
        float.fromhex("0x1.394acfb36ce59p-18"),
        float.fromhex("-0x1.d0cd570f0c16fp-17"),
        float.fromhex("0x1.14ed29d3f096bp-15"),
        float.fromhex("-0x1.3f7433a9db4a4p-14"),
        float.fromhex("0x1.bb97a48a26ea4p-13"),
        float.fromhex("-0x1.67db6954124bbp-11"),
        float.fromhex("0x1.98acbbe4456a2p-10"),
        float.fromhex("0x1.022e2e7e1d870p+0"),
        float.fromhex("0x1.414362d46a03fp+2"),
    ),
    (
        float.fromhex("-0x1.5c269472f5027p-61"),
        float.fromhex("0x1.229471d53b31cp-58"),
        float.fromhex("-0x1.1d7477de6bea3p-59"),
        float.fromhex("-0x1.ab8a556d3348fp-56"),
        float.fromhex("-0x1.17b546cb3cc84p-54"),
        float.fromhex("0x1.04085f249812bp-51"),
        float.fromhex("-0x1.3bab17de21d72p-51"),
        float.fromhex("0x1.4ea9a0152e6f6p-49"),
        float.fromhex("-0x1.282a6a2fb7541p-45"),
        float.fromhex("0x1.5895c722e0d75p-42"),
        float.fromhex("-0x1.86602c3b65f80p-39"),
        float.fromhex("0x1.b9a0016db326cp-36"),
        float.fromhex("-0x1.e7fa0f0a52e08p-33"),
        float.fromhex("0x1.057796bdbcd10p-29"),
        float.fromhex("-0x1.0d4af64cc6363p-26"),
        float.fromhex("0x1.05c17a1cffbf4p-23"),
        float.fromhex("-0x1.cd03d90ccebdcp-21"),
        float.fromhex("0x1.45726a43cfc6dp-18"),
        float.fromhex("-0x1.2835782a18fefp-17"),
        float.fromhex("-0x1.7657b17d0c81ep-12"),
        float.fromhex("0x1.025e0d0b52d77p+0"),
        float.fromhex("0x1.19d0d0cbb7513p+3"),
    ),
)
