"""Statistical batteries over what the library draws: dieharder, and NIST's tests of SP 800-22.

``python tools/battery.py emit words | dieharder -a -g 200`` gives any battery one of the sequences below.
``python tools/battery.py run --sequences words --tests short`` runs the tests one by one and adds what they
print to docs/statistics/. What is there already is not run again, so it can be interrupted.
``python tools/battery.py report`` writes docs/statistics.md from these files.

Every test of a sequence reads a segment of its own, so no two see the same numbers, and a test that is run
alone gives the same result to the last digit. dieharder is a package of Debian's, sp80022suite one of PyPI's.

The policy, set before any result was seen and the same for every sequence:

- dieharder's bounds: a p-value below 0.005 or above 0.995 is weak; below 1e-6 or above 1 - 1e-6 it failed.
- A weak one is resolved as dieharder's manual advises (``-Y 1 -k 2``): the run goes on, by 100 p-values at a
  time, until it is weak no more, has failed, or has 1,000. One that is weak then is unresolved, no pass.
- The results after the first 100 p-values, taken together, are held against the uniform distribution by a
  Kolmogorov-Smirnov test with the same bounds. A run with several results from the same numbers takes part
  with the last of them alone, since they depend on each other. (Changed once, when the results showed that
  dieharder's would not be uniform for a perfect generator: they are ``calibrated`` first.)
- Tests that dieharder itself calls suspect (``SUSPECT``), and tests that PCG64 fails, are run and shown and
  do not count.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
from numba import njit
from scipy import special, stats

from tritoninit import Key
from tritoninit.kernels import lowering, numba_kernels
from tritoninit.kernels.stream import Draw

ROOT = Path(__file__).resolve().parents[1]
RESULTS, REPORT = ROOT / "docs" / "statistics", ROOT / "docs" / "statistics.md"

CHUNK = 3 << 17  # words at a time: whole blocks, and whole groups of three words of the uniforms
SEGMENT = 3 << 38  # words from one test's first to the next one's, more than any test reads
KEYS = 1 << 16  # interleaved
NORMAL_BITS = 16
STEP, MOST = 100, 1000  # p-values
WEAK, FAIL = 0.005, 1e-6

u32 = np.uint32


# Sequences: words from one place on, as a battery reads them.


@dataclass(frozen=True)
class Sequence:
    """A sequence of 32-bit words.

    Attributes:
        what: one line for the report.
        words: ``words(first, count)``, both multiples of 12.
        control: what a control has to show, "passed" or "failed"; None for the library's own.
    """

    what: str
    words: Callable[[int, int], np.ndarray]
    control: str | None = None


@njit(nogil=True)
def interleaved_words(out, seeds, streams, key, block):
    """One block of each key in turn, from block ``block`` of key ``key`` on; then the next block of each."""
    for i in range(out.shape[0]):
        seed, stream = seeds[key], streams[key]
        words = (u32(stream), u32(stream >> np.uint64(32)), u32(seed), u32(seed >> np.uint64(32)))
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = numba_kernels.words(block, words)
        key += 1
        if key == len(seeds):
            key = 0
            block += np.uint64(1)


def one_stream(first: int, count: int) -> np.ndarray:
    return _words(np.zeros(1, np.uint64), np.zeros(1, np.uint64), first, count)


def interleaved(keys: Callable[[int], list[Key]], first: int, count: int) -> np.ndarray:
    """The first blocks of many keys, in each segment of others: what models take of theirs."""
    segment, first = divmod(first, SEGMENT)
    return _words(*_numbers_of(keys, segment), first, count)


def _words(seeds: np.ndarray, streams: np.ndarray, first: int, count: int) -> np.ndarray:
    block, key = divmod(first // 4, len(seeds))
    out = np.empty((count // 4, 4), np.uint32)
    interleaved_words(out, seeds, streams, key, np.uint64(block))
    return out.reshape(-1)


@lru_cache(maxsize=2)
def _numbers_of(keys: Callable[[int], list[Key]], segment: int) -> tuple[np.ndarray, np.ndarray]:
    listed = keys(segment)
    return np.array([k.seed for k in listed], np.uint64), np.array([k.stream for k in listed], np.uint64)


def named_keys(segment: int) -> list[Key]:
    """As parameters get theirs, more than any model has."""
    return [Key(0).fold_in(f"layers.{segment * KEYS + i}.weight") for i in range(KEYS)]


def neighbouring_seeds(segment: int) -> list[Key]:
    return [Key(segment * KEYS + i) for i in range(KEYS)]


def floats(distribution: str, parameters: tuple[float, ...], seed: int, first: int, count: int) -> np.ndarray:
    out = np.empty(count, np.float32)
    numba_kernels.fill_many([(out, "float32", Draw(distribution, parameters, seed, 0, first, (1,)))])
    return out


@njit(nogil=True)
def pack24(out, x):
    """Three words of four float32 on [0, 1), each a multiple of 2**-24, the first in the lowest bits."""
    for i in range(len(x) // 4):
        a, b = u32(x[4 * i] * 2.0**24), u32(x[4 * i + 1] * 2.0**24)
        c, d = u32(x[4 * i + 2] * 2.0**24), u32(x[4 * i + 3] * 2.0**24)
        out[3 * i] = a | (b << u32(24))
        out[3 * i + 1] = (b >> u32(8)) | (c << u32(16))
        out[3 * i + 2] = (c >> u32(16)) | (d << u32(8))


def uniforms(first: int, count: int) -> np.ndarray:
    x = floats("uniform", lowering.uniform(0, 1, "float32"), 1, first // 3 * 4, count // 3 * 4)
    out = np.empty(count, np.uint32)
    pack24(out, x)
    return out


@dataclass(frozen=True)
class Ranks:
    """Where a float32 falls among the 2**16-quantiles of a distribution: the top bits of its probability.

    Attributes:
        edges: (2**16 + 1,) float32; a value z has rank k where ``edges[k] <= z < edges[k + 1]``.
        guesses: (2**18,) the rank near each of the steps from -7 to 7.
    """

    edges: np.ndarray
    guesses: np.ndarray

    @classmethod
    def within(cls, low: float, high: float) -> Ranks:
        """Of the standard normal distribution between two bounds.

        16 bits are what a float32 normal carries. In [1, 2) the float32 numbers are 2**-23 apart, where the
        density is up to 0.242: a number has up to 2**-25.05 of the probability, nowhere more. A 16-bit class
        holds 530 of them or more, and wherever its edges fall its probability is 2**-16 within 2 parts in
        1,000, which takes some 1e10 values to see. A 24-bit class would hold two, and be off by up to a half:
        a battery would see the grid that any float32 normal is on, and not the generator.
        """
        below, above = special.ndtr([low, high])
        quantiles = special.ndtri(
            below + (above - below) * np.arange(1, 1 << NORMAL_BITS) / (1 << NORMAL_BITS)
        )
        inner = quantiles.astype(np.float32)
        inner = np.where(inner < quantiles, np.nextafter(inner, np.float32(np.inf)), inner)
        edges = np.concatenate([[-np.inf], inner, [np.inf]]).astype(np.float32)
        guesses = np.searchsorted(inner, np.linspace(-7, 7, 1 << 18), side="right").astype(np.uint16)
        return cls(edges, guesses)


@njit(nogil=True)
def pack_ranks(out, z, edges, guesses):
    """Two ranks a word, the first in the low half."""
    scale = (len(guesses) - 1) / 14
    for i in range(len(out)):
        word = u32(0)
        for half in range(2):
            value = z[2 * i + half]
            k = np.int64(guesses[np.int64((np.float64(value) + 7) * scale)])
            # A step is shorter than any two classes, so that this is all there is to correct.
            k -= value < edges[k]
            k += value >= edges[k + 1]
            k += value >= edges[k + 1]
            word |= u32(k) << u32(16 * half)
        out[i] = word


@cache
def _ranks(low: float, high: float) -> Ranks:
    return Ranks.within(low, high)


def _through_cdf(z: np.ndarray, low: float, high: float) -> np.ndarray:
    out = np.empty(len(z) // 2, np.uint32)
    ranks = _ranks(low, high)
    pack_ranks(out, z, ranks.edges, ranks.guesses)
    return out


def normals(first: int, count: int) -> np.ndarray:
    z = floats("normal", lowering.normal(0, 1, "float32"), 2, 2 * first, 2 * count)
    return _through_cdf(z, -np.inf, np.inf)


def truncated_normals(first: int, count: int) -> np.ndarray:
    parameters = lowering.truncated_normal(0, 1, -2, 2, "float32")
    return _through_cdf(floats("truncated_normal", parameters, 3, 2 * first, 2 * count), -2, 2)


def pcg64(first: int, count: int) -> np.ndarray:
    generator = np.random.PCG64(0).advance(first // 2)
    return generator.random_raw(count // 2).view(np.uint32)


def lcg(first: int, count: int) -> np.ndarray:
    """x <- 1664525 x + 1013904223 mod 2**32 (Numerical Recipes' quick and dirty one), from 0 on."""
    a, c, x = 1664525, 1013904223, 0
    power, shift, n = a, c, first  # x -> a x + c, n times, by squaring
    while n:
        if n & 1:
            x = (power * x + shift) % 2**32
        power, shift, n = power * power % 2**32, (power + 1) * shift % 2**32, n >> 1
    out = np.empty(count, np.uint32)
    _lcg(out, np.uint32(x), np.uint32(a), np.uint32(c))
    return out


@njit(nogil=True)
def _lcg(out, x, a, c):
    for i in range(len(out)):
        out[i] = x
        x = u32(a * x + c)


SEQUENCES = {
    "words": Sequence("words of `Key(0)`", one_stream),
    "uniforms": Sequence("float32 on [0, 1) of `Key(1)`, 24 bits each", uniforms),
    "normals": Sequence("float32 normals of `Key(2)` through the normal CDF, 16 bits each", normals),
    "truncated": Sequence(
        "float32 normals within (-2, 2) of `Key(3)` through their CDF, 16 bits each", truncated_normals
    ),
    "keys": Sequence(
        'words of 65,536 keys, `Key(0).fold_in("layers.0.weight")` and so on: the first block of each, then '
        "the second of each, and so on; other keys for each test",
        partial(interleaved, named_keys),
    ),
    "seeds": Sequence(
        "words of 65,536 seeds, `Key(0)`, `Key(1)` and so on, in the same way",
        partial(interleaved, neighbouring_seeds),
    ),
    "pcg64": Sequence("control: NumPy's PCG64, known to be good", pcg64, "passed"),
    "lcg": Sequence("control: x <- 1664525 x + 1013904223 mod 2**32, known to be bad", lcg, "failed"),
}


def chunks(name: str, first: int, count: int | None = None) -> Iterator[np.ndarray]:
    """``count`` words from ``first`` on, or words without end."""
    end = None if count is None else first + count
    while end is None or first < end:
        words = SEQUENCES[name].words(first, CHUNK)
        yield words if end is None else words[: end - first]
        first += CHUNK


def write(words: Iterable[np.ndarray], pipe: int) -> int:
    """Bytes written before they ended or the reader did."""
    written = 0
    try:
        for chunk in words:
            view = memoryview(chunk).cast("B")
            while view:
                written += (some := os.write(pipe, view))
                view = view[some:]
    except BrokenPipeError:
        pass
    return written


# Tests, and what they print.


@dataclass(frozen=True)
class Test:
    """A test as it is run, in a segment of its own.

    Attributes:
        arguments: dieharder's, or the name of a function of sp80022suite and what it takes before the bits.
        long: whether ``--tests short`` leaves it out, for the numbers and the time that it takes.
    """

    __test__ = False  # for pytest

    arguments: str
    long: bool = False

    @property
    def is_nist(self) -> bool:
        return not self.arguments.startswith("-")


TESTS = [
    *(Test(f"-d {number}", long=number == 205) for number in (*range(17), 100, 101, 102, 204, 205)),
    *(Test(f"-d 201 -n {dimensions}") for dimensions in range(2, 6)),
    *(Test(f"-d 202 -n {numbers}") for numbers in range(2, 6)),
    # Those of NIST's that give one p-value: of several, the package returns the least, which is not uniform.
    Test("frequency"),
    Test("block_frequency 128"),
    Test("runs"),
    Test("longest_run_of_ones"),
    Test("rank"),
    Test("discrete_fourier_transform"),
    Test("overlapping_template_matchings 9"),
    Test("universal"),
    Test("linear_complexity 500"),
    Test("approximate_entropy 10"),
    *(Test(f"-d 203 -n {lag}") for lag in range(8)),
    Test("-d 17"),
    Test("-d 206"),
    *(Test(f"-d 200 -n {bits}") for bits in range(1, 13)),
    *(Test(f"-d 203 -n {lag}", long=True) for lag in range(8, 33)),
    *(Test(f"-d {number}", long=True) for number in (207, 208, 209)),
]
# After a run that stayed weak, the same test on other numbers, of that sequence and of a control.
# Decided on when that was known, so they count towards no verdict.
FOLLOW_UPS = [Test("-d 102 -p 1000", long=True), Test("-d 102 -p 4000 -P 4000", long=True)]
NIST_BITS = 1_000_000  # a p-value
_LATER = {test.arguments for test in FOLLOW_UPS}
_PLACES = {test.arguments: place for place, test in enumerate(TESTS + FOLLOW_UPS)}

# As `dieharder -l` (3.31.1) lists them; of operm5 its manual says so, and that it is "strongly deprecated".
SUSPECT = {
    "diehard_opso": "Suspect",
    "diehard_oqso": "Suspect",
    "diehard_dna": "Suspect",
    "diehard_sums": "Do Not Use",
    "diehard_operm5": "Suspect",
}

_COLUMNS = ("test_name", "ntuple", "tsamples", "psamples", "pvalues", "assessment", "no_whitespace")
_DIEHARDER = ["-g", "200", "-p", str(STEP), "-k", "2", "-Y", "1", "-P", str(MOST), "-c", "|"]
_DIEHARDER += [word for column in _COLUMNS for word in ("-D", column)]
_LINE = re.compile(
    r"(?P<name>\w+)\|(?P<ntuple>\d+)\|(?P<size>\d+)\|(?P<samples>\d+)\|(?P<p>[\d.]+)\|(?P<word>\w+)"
)
_HEAD = re.compile(
    r"# (?P<arguments>[^;]+); segment (?P<segment>\d+); (?P<bytes>\d+) bytes; (?P<cpu>[\d.]+) s of CPU"
)


@dataclass(frozen=True)
class Row:
    """One p-value, of ``samples`` p-values, each of ``size`` of what the test counts."""

    name: str
    ntuple: int
    size: int
    samples: int
    p: float
    assessment: str


@dataclass
class Run:
    """One run of a test: its results after 100 p-values, then after 200 where one was weak, and so on."""

    arguments: str
    bytes: int
    cpu: float
    rows: list[Row] = field(default_factory=list)

    def after(self, samples: int) -> list[Row]:
        return [row for row in self.rows if row.samples == samples]

    @property
    def first(self) -> list[Row]:
        return self.after(self.rows[0].samples)

    @property
    def last(self) -> list[Row]:
        return self.after(self.rows[-1].samples)


def assess(p: float) -> str:
    """dieharder's words for a p-value."""
    nearest = min(p, 1 - p)
    return "FAILED" if nearest < FAIL else "WEAK" if nearest < WEAK else "PASSED"


def parse(text: str) -> list[Run]:
    """The runs of a results file; whatever is no result, such as a warning, is passed over."""
    runs: list[Run] = []
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            runs.append(Run(head["arguments"], int(head["bytes"]), float(head["cpu"])))
        elif row := _LINE.fullmatch(line.strip()):
            numbers = (int(row[name]) for name in ("ntuple", "size", "samples"))
            runs[-1].rows.append(Row(row["name"], *numbers, float(row["p"]), row["word"]))
    return runs


def dieharder(test: Test, words: Iterator[np.ndarray]) -> tuple[int, list[str]]:
    """Bytes that it was given, and the lines that it printed."""
    command = ["dieharder", *_DIEHARDER, *test.arguments.split()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        written = write(words, process.stdin.fileno())
        printed = process.stdout.read().decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return written, [line.strip() for line in printed.splitlines() if _LINE.fullmatch(line.strip())]


def nist(test: Test, words: Iterator[np.ndarray]) -> tuple[int, list[str]]:
    """Bytes that it took, and lines in dieharder's form: p-values of 1,000,000 bits each, together."""
    import sp80022suite  # optional

    name, *numbers = test.arguments.split()
    function = partial(getattr(sp80022suite, name), *map(int, numbers))
    ps: list[float] = []
    lines = []
    held = np.empty(NIST_BITS, np.uint8)  # one for all: the package never lets go of what it was given
    while True:
        while len(ps) % STEP or len(ps) == STEP * len(lines):
            held[:] = np.unpackbits(next(words)[: NIST_BITS // 32].byteswap().view(np.uint8))
            ps.append(function(held))
        p = float(stats.kstest(ps, "uniform").pvalue)
        lines.append(f"nist_{name}|{''.join(numbers) or 0}|{NIST_BITS}|{len(ps)}|{p:.8f}|{assess(p)}")
        if assess(p) != "WEAK" or len(ps) == MOST:
            return len(ps) * NIST_BITS // 8, lines


def run(test: Test, name: str) -> None:
    """Run a test of a sequence, if it has no result yet, and add the result to the sequence's file."""
    if any(made.arguments == test.arguments for made in read(name)):
        return
    segment, started = _PLACES[test.arguments], _cpu_seconds()
    count, lines = (nist if test.is_nist else dieharder)(test, chunks(name, segment * SEGMENT))
    head = f"# {test.arguments}; segment {segment}; {count} bytes; {_cpu_seconds() - started:.1f} s of CPU"
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join([head, *lines, ""]))
    print(name, head, *lines, sep="\n", flush=True)


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read(name: str) -> list[Run]:
    path = RESULTS / f"{name}.txt"
    return parse(path.read_text(encoding="utf-8")) if path.exists() else []


# What is made of it.

STREAM_VERSION = 1  # what the results are of
_HEAD_OF_REPORT = f"""\
# Statistics

What batteries of statistical tests say of stream version {STREAM_VERSION}. Made by `tools/battery.py report`
from what the batteries printed, in [statistics/](statistics).
"""

_NOTES = f"""\
Batteries can show that numbers are not random, never that they are: what passed here passed these tests, at
these sizes. The bounds were set before the first result, and are the same for every sequence:

- A result is the p-value of a Kolmogorov-Smirnov test of {STEP} p-values. Below {WEAK} or above {1 - WEAK} it
  is weak, below 1e-6 or above 1 - 1e-6 failed; the bounds are dieharder's. A weak one is resolved as its
  manual advises (`-Y 1 -k 2`): the same run goes on, {STEP} p-values at a time, until it is weak no more, has
  failed, or has {MOST:,}.
- *Together* is a Kolmogorov-Smirnov test of one result of each run, as it was after {STEP} p-values, against
  the uniform distribution, with the same bounds. Of several results from the same numbers it takes the last.
  It was to take dieharder's p-values as they are (*uncalibrated*), until they showed that a perfect
  generator's would not be uniform: dieharder 3.31.1 holds the i-th of n p-values against i / (n + 1), which
  makes the distance too small and the results too large, 0.56 on average. So what it prints is turned into
  the p-value of that distance first, found by simulation; the expected counts are from the same simulation.
- Shown but not counted (marked \\*) is what dieharder 3.31.1 itself warns of: `diehard_opso`, `diehard_oqso`
  and `diehard_dna` ("Suspect" in `dieharder -l`), `diehard_sums` ("Do Not Use") and `diehard_operm5` (with
  the sums "strongly deprecated" in its manual, since they fail good generators); and any test that PCG64
  fails here.
- All runs of the tool are in the tables. Every test of a sequence reads numbers of its own.

## What was run
"""

_RUN_NOTES = """\
A float32 normal is tested through 16 bits because that is what it holds: a single float32 number in [1, 2)
has up to 2**-25.05 of the probability, so that a class of 2**-16 is right within 2 parts in 1,000, while one
of 2**-24 would be off by up to a half, whatever the generator. `--tests short` leaves out the lags over 7 of
`rgb_lagged_sum` and the `dab` tests but `dab_dct`, which take most of the numbers and of the time.

## Weak and failed results

All but those of the bad control: after 100 p-values, 200, and so on.
"""

_FOLLOW_UP = """\
After a run that stayed weak, its test was made again on other numbers, of the same sequence and of PCG64,
with 1,000 p-values, and then of the same sequence with 4,000: a flaw as large as the first result suggests
would be far below 1e-6 there. This was decided when that result was known, so it changes no verdict. The two
results for 16 bits, one of which had stayed weak, and all 30:
"""

_REPEAT = f"""\
## Repeat it

```
apt-get install dieharder      # 3.31.1 was used
pip install sp80022suite       # 0.0.8: NIST's own C code of the tests of SP 800-22
mv docs/statistics docs/statistics.old
python tools/battery.py run --sequences words --tests all
python tools/battery.py run --sequences keys,seeds,uniforms,normals,truncated,pcg64,lcg --tests short
python tools/battery.py report
```

A run can be stopped and started again: what has a result is not run again. Results are the same to the last
digit. What was not run, for instance of the keys: `python tools/battery.py run --sequences keys`. One test
alone: `--tests '-d 203 -n 5'`, or by hand, with the segment that the results name:

```
python tools/battery.py emit words --segment 0 | dieharder -d 0 -g 200 -p {STEP} -k 2 -Y 1 -P {MOST}
```

`emit` serves other batteries too, for instance `| RNG_test stdin32` of PractRand. Neither PractRand nor
TestU01 was to be had as a package, so neither has been run. Of the NIST tests those are run that give one
p-value a sequence: where a test gives several, the package returns only the least, which is not uniform. All
is run at `-p {STEP}`: with fewer, `diehard_2dsphere` fails good generators too.
"""

_ALL_HEAD = """\
## All results

p-values after the first 100 samples; in bold those that are weak or failed, followed by what became of them.
"""


def suspect(controls: Iterable[str] = ("pcg64",)) -> set[str]:
    """The names of the tests that do not count."""
    bad = {
        row.name
        for name in controls
        for made in read(name)
        for row in made.rows
        if row.assessment == "FAILED"
    }
    return bad | set(SUSPECT)


@cache
def _distances() -> np.ndarray:
    """dieharder's Kolmogorov-Smirnov distances of 100 perfect p-values, 100,000 times; sorted.

    Its ``kstest`` (libdieharder/kstest.c, 3.31.1) holds the i-th of n p-values against i / (n + 1), which
    gives less than the distance, and looks that up in the distance's own distribution. So the p-values of a
    perfect generator have a mean of 0.56 instead of 0.5.
    """
    x = np.sort(np.random.default_rng(0).random((100_000, STEP)), axis=1)
    return np.sort(np.abs(x - np.arange(1, STEP + 1) / (STEP + 1)).max(axis=1))


def calibrated(row: Row) -> float:
    """A result after 100 p-values, uniform for a perfect generator."""
    return row.p if row.name.startswith("nist") else _above(float(stats.kstwo.isf(row.p, STEP)))


def _above(distance: float) -> float:
    return 1 - float(np.searchsorted(_distances(), distance)) / len(_distances())


@cache
def expected(bound: float, is_nist: bool) -> float:
    """How often a perfect generator's first result is less than ``bound`` from 0 or 1."""
    if is_nist:
        return 2 * bound
    low, high = (float(stats.kstwo.isf(p, STEP)) for p in (bound, 1 - bound))
    return _above(low) + 1 - _above(high)


def verdict(made: Run) -> str:
    """Of one run: "passed", "unresolved" or "failed"."""
    if any(row.assessment == "FAILED" for row in made.rows):
        return "failed"
    return "unresolved" if any(row.assessment == "WEAK" for row in made.last) else "passed"


@dataclass(frozen=True)
class Summary:
    """Of the runs that count.

    Attributes:
        together: the p-value of the Kolmogorov-Smirnov test of the first results, calibrated.
        raw: the same of the first results as they are.
    """

    runs: int
    results: int
    extreme: int  # first results below 0.001 or above 0.999
    weak: int  # first results, weak or failed
    expected_extreme: float
    expected_weak: float
    unresolved: int
    failed: int
    together: float
    raw: float

    @classmethod
    def of(cls, runs: Iterable[Run], excluded: set[str]) -> Summary:
        counted = [
            made for made in runs if made.rows[0].name not in excluded and made.arguments not in _LATER
        ]
        first = [row for made in counted for row in made.first]
        verdicts = [verdict(made) for made in counted]
        return cls(
            runs=len(counted),
            results=len(first),
            extreme=sum(min(row.p, 1 - row.p) < 0.001 for row in first),
            weak=sum(row.assessment != "PASSED" for row in first),
            expected_extreme=sum(expected(0.001, row.name.startswith("nist")) for row in first),
            expected_weak=sum(expected(WEAK, row.name.startswith("nist")) for row in first),
            unresolved=verdicts.count("unresolved"),
            failed=verdicts.count("failed"),
            together=float(stats.kstest([calibrated(made.first[-1]) for made in counted], "uniform").pvalue),
            raw=float(stats.kstest([made.first[-1].p for made in counted], "uniform").pvalue),
        )

    @property
    def verdict(self) -> str:
        if self.failed or assess(self.together) == "FAILED":
            return "failed"
        return "unresolved" if self.unresolved or assess(self.together) == "WEAK" else "passed"

    def row(self, what: str) -> str:
        cells = (
            what,
            f"{self.runs}",
            f"{self.results}",
            f"{self.extreme} ({self.expected_extreme:.1f})",
            f"{self.weak} ({self.expected_weak:.1f})",
            f"{self.unresolved}",
            f"{self.failed}",
            f"{self.together:.2g}",
            f"{self.raw:.2g}",
            self.verdict,
        )
        return _row(cells)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _header(*columns: str) -> tuple[str, str]:
    return _row(columns), "|---" * len(columns) + "|"


def report() -> str:
    """docs/statistics.md, from the results."""
    found = {name: runs for name in SEQUENCES if (runs := read(name))}
    excluded = suspect()
    summaries = {f"`{name}`": Summary.of(runs, excluded) for name, runs in found.items()}
    ours = [made for name, runs in found.items() if SEQUENCES[name].control is None for made in runs]
    together = summaries["the library's, together"] = Summary.of(ours, excluded)
    lines = [_HEAD_OF_REPORT, _finding(ours, together), "", _controls(summaries), ""]
    columns = ("sequence", "runs", "p-values", "beyond 0.001 (expected)", "weak at first (expected)")
    lines += _header(*columns, "still weak", "failed", "together", "uncalibrated", "verdict")
    lines += [summary.row(name) for name, summary in summaries.items()]
    lines += ["", _NOTES, *_header("sequence", "what", "tests", "GB", "hours of CPU")]
    for name, runs in found.items():
        gigabytes, hours = sum(made.bytes for made in runs) / 1e9, sum(made.cpu for made in runs) / 3600
        lines.append(
            _row((f"`{name}`", SEQUENCES[name].what, _extent(runs), f"{gigabytes:,.0f}", f"{hours:.2f}"))
        )
    lines += ["", _RUN_NOTES, *_header("sequence", "test", "p-values", "in the end"), *_weak(found, excluded)]
    if followed := list(_followed(found)):
        lines += ["", _FOLLOW_UP, *_header("sequence", "test", "for 16 bits", "weak", "all"), *followed]
    lines += ["", _REPEAT, _ALL_HEAD, *_table(found, excluded), ""]
    return "\n".join(lines)


def _finding(ours: list[Run], together: Summary) -> str:
    size, hours = sum(made.bytes for made in ours) / 1e12, sum(made.cpu for made in ours) / 3600
    sentences = (
        f"{together.runs} runs of tests, on {size:.2f} TB that the library drew and for {hours:.1f} hours of",
        f"CPU, gave {together.results} p-values that count: {together.failed or 'no'} runs failed, and",
        f"{together.unresolved or 'none'} stayed weak when given more numbers (below). {together.weak} of",
        f"the p-values were weak at first, where {together.expected_weak:.1f} are expected of a perfect",
        f"generator, and {together.extreme} beyond 0.001 and 0.999, where {together.expected_extreme:.1f}",
        "are. Taken together, one a run, they are as a perfect generator's with",
        f"p = {together.together:.2g}.",
    )
    return textwrap.fill(" ".join(sentences), 110)


def _controls(summaries: dict[str, Summary]) -> str:
    found = [
        f"`{name}` failed {summaries[f'`{name}`'].failed} of {summaries[f'`{name}`'].runs} runs"
        for name, sequence in SEQUENCES.items()
        if sequence.control and f"`{name}`" in summaries
    ]
    return f"Controls, through the same pipe: {', '.join(found)}."


def _extent(runs: list[Run]) -> str:
    """Which of the tests were run."""
    made = {one.arguments for one in runs} - _LATER
    for name in ("all", "short"):
        if made == {test.arguments for test in chosen(name)}:
            return name
    missing = [test.arguments for test in chosen("short") if test.arguments not in made]
    if not missing:
        return (
            f"short, and {len(made) - len(chosen('short'))} of the {sum(test.long for test in TESTS)} others"
        )
    return f"short, but {', '.join(f'`{arguments}`' for arguments in missing)}"


def _weak(found: dict[str, list[Run]], excluded: set[str]) -> Iterator[str]:
    for name, runs in found.items():
        if SEQUENCES[name].control == "failed":
            continue
        for made in runs:
            for k, first in enumerate(made.first):
                if first.assessment == "PASSED" and made.last[k].assessment == "PASSED":
                    continue
                steps = [made.after(samples)[k] for samples in sorted({row.samples for row in made.rows})]
                history = ", ".join(f"{row.p:.2g}" if row.p < 0.5 else f"{row.p:.5g}" for row in steps)
                kind = "does not count" if first.name in excluded else steps[-1].assessment.lower()
                yield _row((f"`{name}`", f"{first.name} {first.ntuple or ''}".strip(), history, kind))


def _followed(found: dict[str, list[Run]]) -> Iterator[str]:
    for name, runs in found.items():
        for made in runs:
            if made.arguments in _LATER:
                ps = [row.p for row in made.last]
                row = made.last[-1]
                weak = sum(row.assessment != "PASSED" for row in made.last)
                together = f"{min(ps):.2g} to {max(ps):.3g}"
                what = f"{row.name}, {row.samples:,} p-values"
                yield _row(
                    (f"`{name}`", what, f"{ps[-2]:.2g}, {ps[-1]:.2g}", f"{weak} of {len(ps)}", together)
                )


def _table(found: dict[str, list[Run]], excluded: set[str]) -> Iterator[str]:
    yield from _header("test", "n", "samples", *found)
    for test in TESTS + FOLLOW_UPS:
        runs = {name: made for name in found for made in found[name] if made.arguments == test.arguments}
        if not runs:
            continue
        for k, row in enumerate(next(iter(runs.values())).first):
            cells = (_cell(runs[name], k) if name in runs else "" for name in found)
            mark = "\\*" if row.name in excluded else ""
            mark += f", {row.samples:,} p-values" * (row.samples > STEP)
            yield _row([row.name + mark, f"{row.ntuple or ''}", f"{row.size:,}", *cells])


def _cell(made: Run, k: int) -> str:
    first, last = made.first[k], made.last[k]
    text = f"{first.p:.3f}" if first.assessment == "PASSED" else f"**{_digits(first.p)}**"
    if first.assessment != "PASSED" and last is not first:
        text += f" {last.p:.3f}" if last.assessment == "PASSED" else f" **{_digits(last.p)}**"
    return text


def _digits(p: float) -> str:
    return f"{p:.1g}" if p < 0.5 else f"1 - {1 - p:.1g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    emitting = commands.add_parser("emit", help="write a sequence to standard output")
    emitting.add_argument("sequence", choices=SEQUENCES)
    emitting.add_argument("--segment", type=int, default=0, help="that of a test, as the results name it")
    emitting.add_argument("--words", type=int, help="how many; without end if not given")
    running = commands.add_parser("run", help="run tests and keep what they print")
    running.add_argument("--sequences", default=",".join(SEQUENCES), help="some of " + ", ".join(SEQUENCES))
    running.add_argument(
        "--tests", default="all", help="all, short, or their arguments: '-d 0,-d 203 -n 5,rank'"
    )
    commands.add_parser("report", help="write docs/statistics.md")
    options = parser.parse_args()
    if options.command == "emit":
        write(chunks(options.sequence, options.segment * SEGMENT, options.words), sys.stdout.fileno())
    elif options.command == "run":
        for test in chosen(options.tests):
            for name in options.sequences.split(","):
                run(test, name)
    else:
        REPORT.write_text(report(), encoding="utf-8")


def chosen(tests: str) -> list[Test]:
    if tests in ("all", "short"):
        return [test for test in TESTS if tests == "all" or not test.long]
    return [(TESTS + FOLLOW_UPS)[_PLACES[arguments]] for arguments in tests.split(",")]


if __name__ == "__main__":
    main()
