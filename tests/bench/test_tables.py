"""A comparison in words."""

import csv
import io

import pytest

from tests.bench import made_up
from tritoninit.bench.comparison import compare
from tritoninit.bench.result_files import read_all
from tritoninit.bench.tables import number, percent, tidy, times

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("show", "value", "words"),
    [
        (number, 0.01234, "0.0123"),
        (number, 99.94, "99.9"),
        (number, 99.96, "100"),
        (number, 1234.5, "1,234"),
        (number, 1.5e-7, "1.5e-7"),
        (percent, 1.0, "100%"),
        (percent, 0.0994, "9.9%"),
        (percent, 0.0996, "10%"),
        (percent, 0.00123, "0.12%"),
        (times, 12.34, f"12.3{TIMES}"),
    ],
)
def test_numbers(show, value, words):
    assert show(value) == words


def test_csv_keeps_a_name_with_a_comma(tmp_path):
    reader = csv.DictReader(io.StringIO(tidy(compare(read_all(made_up.three(tmp_path)[2:])))))
    assert {line["machine"] for line in reader} == {"AMD EPYC, 2 cores"}
