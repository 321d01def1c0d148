"""What the batteries read is what the library draws, and what they say is told as it is."""

import os
import threading

import independent_philox
import numpy as np
import pytest
from scipy import special, stats

from tools import battery
from tritoninit import Key
from tritoninit.kernels import lowering, reference, stream
from tritoninit.kernels.stream import Draw

WORDS = 24
SEGMENTS = (0, 5)
EDGES = {"normals": (-np.inf, np.inf), "truncated": (-2, 2)}


def drawn(distribution, parameters, seed, first, count):
    out = np.empty(count, np.float32)
    reference.fill_many([(out, "float32", Draw(distribution, parameters, seed, 0, first, (1,)))])
    return out.astype(np.float64)


def emitted(name, segment):
    (words,) = battery.chunks(name, segment * battery.SEGMENT, WORDS)
    return words


def test_results_are_of_this_stream():
    assert battery.STREAM_VERSION == stream.STREAM_VERSION, "run the batteries again"


@pytest.mark.parametrize("segment", SEGMENTS)
def test_words(segment):
    first = segment * battery.SEGMENT // 4
    expected = [independent_philox.words(0, 0, first + block) for block in range(WORDS // 4)]
    assert emitted("words", segment).reshape(-1, 4).tolist() == [list(words) for words in expected]


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize(
    ("name", "key"), [("keys", lambda i: Key(0).fold_in(f"layers.{i}.weight")), ("seeds", Key)]
)
def test_interleaved(name, key, segment):
    """The first block of each key, and after the last key the second of the first."""
    first = segment * battery.SEGMENT
    for at, block, places in (0, 0, range(6)), (battery.KEYS + 2, 1, range(2, 8)):
        keys = [key(segment * battery.KEYS + i) for i in places]
        expected = [independent_philox.words(one.seed, one.stream, block) for one in keys]
        found = battery.SEQUENCES[name].words(first + 4 * at, WORDS).reshape(-1, 4)
        assert found.tolist() == [list(words) for words in expected]


@pytest.mark.parametrize("segment", SEGMENTS)
def test_uniforms(segment):
    first = segment * battery.SEGMENT // 3 * 4
    values = drawn("uniform", lowering.uniform(0, 1, "float32"), 1, first, WORDS // 3 * 4)
    packed = b"".join(int(value * 2**24).to_bytes(3, "little") for value in values)
    assert emitted("uniforms", segment).tobytes() == packed


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("name", EDGES)
def test_normals(name, segment):
    parameters = {
        "normals": ("normal", lowering.normal(0, 1, "float32"), 2),
        "truncated": ("truncated_normal", lowering.truncated_normal(0, 1, -2, 2, "float32"), 3),
    }
    values = drawn(*parameters[name], 2 * segment * battery.SEGMENT, 2 * WORDS)
    low, high = special.ndtr(EDGES[name])
    expected = np.floor((special.ndtr(values) - low) / (high - low) * 2**16)
    assert emitted(name, segment).view(np.uint16).tolist() == expected.tolist()


def test_every_class_is_told_by_its_edges():
    """The numbers on both sides of every edge between classes, and what lies beyond all of them."""
    for low, high in EDGES.values():
        ranks = battery.Ranks.within(low, high)
        edges = ranks.edges[1:-1]
        z = np.concatenate([edges, np.nextafter(edges, np.float32(-9)), np.float32([-6.67, 6.67])])
        out = np.empty(len(z) // 2, np.uint32)
        battery.pack_ranks(out, z, ranks.edges, ranks.guesses)
        k = np.arange(1, 1 << 16)
        assert out.view(np.uint16).tolist() == [*k, *(k - 1), 0, 2**16 - 1]


@pytest.mark.parametrize("name", EDGES)
def test_classes_are_as_probable_as_float32_allows(name):
    """Of a normal rounded to float32, 2**-16 within 2 parts in 1,000: what the batteries do not see."""
    low, high = EDGES[name]
    edges = battery.Ranks.within(low, high).edges[1:-1]
    rounding = (edges.astype(np.float64) + np.nextafter(edges, np.float32(-9))) / 2  # where an edge begins
    below, above = special.ndtr([low, high])
    probabilities = np.diff((special.ndtr(rounding) - below) / (above - below))
    assert np.abs(probabilities * 2**16 - 1).max() < 2e-3


def test_controls():
    x, expected = 0, []
    for _ in range(2 * WORDS):
        expected.append(x)
        x = (1664525 * x + 1013904223) % 2**32
    assert battery.lcg(WORDS, WORDS).tolist() == expected[WORDS:]
    whole = np.random.PCG64(0).random_raw(WORDS).view(np.uint32)
    assert battery.pcg64(WORDS, WORDS).tolist() == whole[WORDS:].tolist()


def test_no_test_reads_into_the_next_segment():
    longest = 33 * 1_000_000 * battery.MOST  # words: the largest lag of rgb_lagged_sum
    assert longest < battery.SEGMENT
    assert battery.SEGMENT % battery.CHUNK == battery.CHUNK % 12 == 0


def test_writing_ends_with_the_reader():
    reader, writer = os.pipe()
    found = []

    def read():
        while sum(map(len, found)) < 10_000_000:
            found.append(os.read(reader, 1 << 20))
        os.close(reader)

    thread = threading.Thread(target=read)
    thread.start()
    written = battery.write(battery.chunks("seeds", 0), writer)
    thread.join()
    os.close(writer)
    assert written >= 10_000_000
    first = battery.SEQUENCES["seeds"].words(0, 1200).tobytes()
    assert b"".join(found).startswith(first)


SAMPLE = """\
# -d 16; segment 16; 540012544 bytes; 4.3 s of CPU
diehard_craps|0|200000|100|0.00311149|WEAK
diehard_craps|0|200000|100|0.89474096|PASSED
diehard_craps|0|200000|200|0.41114913|PASSED
diehard_craps|0|200000|200|0.39474096|PASSED
a line that is no result
# -d 14; segment 14; 800 bytes; 0.3 s of CPU
diehard_sums|0|100|100|0.00000000|FAILED
# rank; segment 34; 12500000 bytes; 2.2 s of CPU
nist_rank|0|1000000|100|0.25000000|PASSED
"""


def test_parse():
    craps, sums, rank = battery.parse(SAMPLE)
    assert (craps.arguments, craps.bytes, craps.cpu) == ("-d 16", 540012544, 4.3)
    assert [row.p for row in craps.first] == [0.00311149, 0.89474096]
    assert [row.p for row in craps.last] == [0.41114913, 0.39474096]
    assert sums.rows == [battery.Row("diehard_sums", 0, 100, 100, 0.0, "FAILED")]
    assert rank.first == rank.last == [battery.Row("nist_rank", 0, 1_000_000, 100, 0.25, "PASSED")]
    assert [battery.verdict(run) for run in (craps, sums, rank)] == ["passed", "failed", "passed"]


@pytest.mark.parametrize(
    ("p", "word"),
    [
        (0.0, "FAILED"),
        (9e-7, "FAILED"),
        (2e-6, "WEAK"),
        (0.0049, "WEAK"),
        (0.0051, "PASSED"),
        (0.5, "PASSED"),
    ],
)
def test_bounds_are_on_both_sides(p, word):
    assert battery.assess(p) == battery.assess(1 - p) == word


def runs(*ps, name="rgb_bitdist"):
    return [battery.Run("", 0, 0, [battery.Row(name, 0, 0, 100, p, battery.assess(p))]) for p in ps]


FINE = np.random.default_rng(0).random(50).clip(0.01, 0.99)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (runs(*FINE), "passed"),
        (runs(*FINE, 1e-7), "failed"),
        (runs(*FINE, 0.001), "unresolved"),  # still weak in the end
        (runs(*np.linspace(0.4, 0.6, 50)), "failed"),  # each is fine, and together they are not
        (
            runs(*np.linspace(0.01, 0.99, 50), name="nist_rank"),
            "failed",
        ),  # nor is it fine to be spread too evenly
        (runs(*FINE) + runs(0.0, name="diehard_sums"), "passed"),  # does not count
    ],
)
def test_verdict(made, verdict):
    assert battery.Summary.of(made, set(battery.SUSPECT)).verdict == verdict


def test_results_are_calibrated():
    """What dieharder makes of perfect p-values, as its kstest computes it, becomes uniform."""
    x = np.sort(np.random.default_rng(1).random((500, battery.STEP)), axis=1)
    distances = np.abs(x - np.arange(1, battery.STEP + 1) / (battery.STEP + 1)).max(axis=1)
    printed = stats.kstwo.sf(distances, battery.STEP)
    assert printed.mean() == pytest.approx(0.56, abs=0.03)
    rows = [row for run in runs(*printed) for row in run.rows]
    assert stats.kstest([battery.calibrated(row) for row in rows], "uniform").pvalue > 0.001
    assert battery.calibrated(battery.Row("nist_rank", 0, 0, 100, 0.25, "PASSED")) == 0.25


def test_counts():
    summary = battery.Summary.of([*battery.parse(SAMPLE), *runs(*FINE)], set(battery.SUSPECT))
    assert (summary.runs, summary.results, summary.weak, summary.extreme) == (52, 53, 1, 0)
    assert (summary.unresolved, summary.failed) == (0, 0)
    assert summary.expected_weak == pytest.approx(53 * 0.02, abs=0.2)  # nearly: one of them is NIST's


def test_report_is_up_to_date():
    assert battery.REPORT.read_text(encoding="utf-8") == battery.report(), "tools/battery.py report"


def test_every_result_is_of_a_known_test_and_read():
    tests = battery.TESTS + battery.FOLLOW_UPS
    for path in battery.RESULTS.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        found = battery.read(path.stem)
        assert path.stem in battery.SEQUENCES
        assert len(found) + sum(len(run.rows) for run in found) == len(text.splitlines())
        assert {run.arguments for run in found} <= {test.arguments for test in tests}
        assert len({run.arguments for run in found}) == len(found)


def test_controls_come_out_as_they_must():
    for name, sequence in battery.SEQUENCES.items():
        if sequence.control is not None:
            assert battery.Summary.of(battery.read(name), battery.suspect()).verdict == sequence.control
