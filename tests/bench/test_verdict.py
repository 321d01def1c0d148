"""Whether a candidate is slower than its baseline, as ``tritoninit compare --fail-below`` says."""

import json
import math
import re

import pytest

from tests.bench import made_up
from tritoninit.bench import inspection
from tritoninit.commands.compare import run
from tritoninit.outputs import UsageError

FOR = f"triton: kernels as Triton {inspection.stored()['triton']} compiles them"
TIMES = "\N{MULTIPLICATION SIGN}"
MICRO = "\N{MICRO SIGN}"
BOTH = ("torch_ratio", "memset_fraction")


@pytest.fixture(autouse=True)
def predictions(monkeypatch):
    monkeypatch.setattr(inspection, "predictions", made_up.predictions)


@pytest.fixture
def files(tmp_path):
    return made_up.three(tmp_path)


def refusal(*args, **options):
    with pytest.raises(UsageError) as caught:
        run(*args, **options)
    return str(caught.value)


@pytest.fixture
def pair(tmp_path):
    """A function that writes a baseline and a candidate, whose every row it gives to ``change``."""

    def make(change):
        candidate = made_up.cpu()
        for row in candidate["benchmarks"]:
            change(row["extra_info"])
        return made_up.save(tmp_path, baseline=made_up.cpu(), candidate=candidate)

    return make


def slower(*names, part, elements=None, subject="normal"):
    """Multiplies ratios of numba's rows by ``part``."""

    def change(info):
        if info["contender"] == "numba" and info["elements"] == (elements or info["elements"]):
            for name in names:
                if info[name] is not None and info["subject"] == subject:
                    info[name] *= part

    return change


def test_nothing_fell(pair, capsys):
    assert run(pair(lambda info: None), fail_below=1.0) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 of 6 rows kept 1 of the baseline's relative speed"


@pytest.mark.parametrize(("part", "code"), [(0.5, 0), (0.499, 1), (2.0, 0)])
def test_boundary(pair, part, code):
    assert run(pair(slower(*BOTH, part=part)), fail_below=0.5) == code


@pytest.mark.parametrize("name", BOTH)
def test_one_ratio_alone_is_noise(pair, name):
    """But of a call there is no memset, and torch's has to do."""
    assert run(pair(slower(name, part=0.1, elements=2**20)), fail_below=0.9) == 0
    assert run(pair(slower("torch_ratio", part=0.1, elements=256)), fail_below=0.9) == 1


def test_rows_that_fell_are_printed_with_both_numbers(pair, capsys):
    files = pair(slower(*BOTH, part=0.8, elements=2**10))
    assert run(files, fail_below=0.9) == 1
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("4 of 6 rows kept 0.9 of the baseline's relative speed")
    assert [re.sub(r"  +", "  ", line) for line in lines[start:]] == [
        "4 of 6 rows kept 0.9 of the baseline's relative speed",
        "",
        f"Fell, {files[0]} before and {files[1]} now",
        f"row  {TIMES} torch before  now  of memset before  now  kept",
        f"fill normal float32 2^10  4{TIMES}  3.2{TIMES}  50%  40%  0.8",
        f"fill normal float32 2^10, 1 thread  4{TIMES}  3.2{TIMES}  67%  53%  0.8",
    ]


def test_the_first_file_is_the_baseline(pair):
    files = pair(slower(*BOTH, part=0.5))
    assert run(files, fail_below=0.9) == 1
    assert run(files[::-1], fail_below=0.9) == 0


def test_other_contender(pair):
    files = pair(slower(*BOTH, part=0.5))
    assert run(files, fail_below=0.9, contender="numpy") == 0
    assert run(files, fail_below=0.9, contender="numba") == 1


@pytest.mark.parametrize(
    ("contender", "name", "own"),
    [("torch", "memset_fraction", "torch_ratio"), ("memset", "torch_ratio", "memset_fraction")],
)
def test_ratio_to_itself_does_not_count(pair, contender, name, own, capsys):
    """It is 1 before and after, however slow the contender has become."""

    def change(info):
        if info["contender"] == contender and info[name] is not None:
            assert info[own] == 1
            info[name] *= 0.5

    files = pair(change)
    assert run(files, fail_below=0.9, contender=contender) == 1
    # Four fills and a model; a call has no memset, and torch's then nothing to be judged by.
    assert "0 of 5 rows kept 0.9 of the baseline's relative speed" in capsys.readouterr().out.splitlines()


def test_starts_are_not_judged(tmp_path, capsys):
    files = made_up.save(tmp_path, baseline=made_up.cpu(), candidate=made_up.cpu())
    for path, ratio in zip(files, (1.0, 0.1), strict=True):
        document = json.loads(path.read_text())
        starts = [r["extra_info"] for r in document["benchmarks"] if r["extra_info"]["kind"] == "start"]
        assert starts
        for info in starts:
            info["torch_ratio"] = ratio
        path.write_text(json.dumps(document))
    assert run(files, fail_below=0.9) == 0
    assert capsys.readouterr().out.endswith("\n6 of 6 rows kept 0.9 of the baseline's relative speed\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": "cuda"}, "device cpu before and cuda now"),
        ({"accelerator": {"name": "NVIDIA\nH100"}}, "accelerator None before and 'NVIDIA\\nH100' now"),
        ({"cpu": {"brand_raw": "Xeon"}}, "CPU AMD EPYC before and Xeon now"),
        ({"cpu": None, "threads": 1}, "CPU AMD EPYC before and None now, threads 2 before and 1 now"),
        ({"cpu": {"brand_raw": "AMD EPYC", "count": 4}, "torch": "1"}, None),
    ],
)
def test_two_machines(tmp_path, capsys, change, words):
    candidate = made_up.cpu()
    candidate["machine_info"].update(change)
    # Rows of all threads stay those of all threads.
    for row in candidate["benchmarks"]:
        if row["extra_info"]["threads"] == 2:
            row["extra_info"]["threads"] = candidate["machine_info"]["threads"]
        else:
            row["extra_info"]["threads"] = 7
    assert run(made_up.save(tmp_path, a=made_up.cpu(), b=candidate), fail_below=0.5) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "two machines" in line]
    message = f"These are two machines, whose ratios may differ for that alone: {words}"
    assert lines == ([] if words is None else [message])


def test_rows_that_are_gone(pair, capsys):
    files = pair(lambda info: None)
    candidate = json.loads(files[1].read_text())
    candidate["benchmarks"] = [
        row for row in candidate["benchmarks"] if row["extra_info"]["elements"] != 2**20
    ]
    files[1].write_text(json.dumps(candidate))
    assert run(files, fail_below=0.9) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "4 of 4 rows kept 0.9 of the baseline's relative speed",
        "2 rows of the baseline were not measured again",
    ]


def test_nothing_in_common(files, capsys):
    gpu, cpu = files[0], files[2]
    only = json.loads(cpu.read_text())
    only["benchmarks"] = [row for row in only["benchmarks"] if row["extra_info"]["kind"] != "model"]
    for row in only["benchmarks"]:
        row["extra_info"]["elements"] += 1
    cpu.write_text(json.dumps(only))
    message = f"{gpu} and {cpu} have no row in common that --fail-below could judge"
    assert refusal([gpu, cpu], fail_below=0.9) == message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_bound(files, value):
    message = f"--fail-below is a number above 0, as 0.9 is, and not {value}"
    assert refusal(files[:2], fail_below=value) == message


@pytest.mark.parametrize("count", [1, 3])
def test_two_files(files, count):
    message = f"--fail-below compares two files, a baseline and a candidate, and not {count}"
    assert refusal(files[:count], fail_below=0.9) == message
