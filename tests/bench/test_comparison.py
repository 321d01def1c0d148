"""The comparison: tables exact on made-up numbers, what is written, and what is slower than a baseline."""

import csv
import io
import json
import math
import re

import pytest

from tests.bench import made_up
from tritoninit.bench import comparison, inspection
from tritoninit.bench.comparison import compare, number, percent, run, size, text, times
from tritoninit.bench.inspection import Prediction
from tritoninit.bench.result_files import read, read_all
from tritoninit.outputs import UsageError

FOR = f"triton: kernels as Triton {inspection.stored()['triton']} compiles them"
TIMES = "\N{MULTIPLICATION SIGN}"
MICRO = "\N{MICRO SIGN}"
PREDICTED = (
    "machine  distribution  dtype  elements  predicted GS/s  measured GS/s  measured / predicted  bound by"
)


@pytest.fixture(autouse=True)
def predictions(monkeypatch):
    """Made up too, for an H100 alone."""
    found = {
        ("normal", "float32"): Prediction(600.0, "memory", 0.8),
        ("uniform", "bfloat16"): Prediction(1500.0, "issue", 0.9),
        ("normal", "float16"): Prediction(1.0, "memory", 1.0),  # which nobody measured
    }
    h100 = made_up.H100["name"]
    monkeypatch.setattr(
        inspection, "predictions", lambda m: found if (m["accelerator"] or {}).get("name") == h100 else {}
    )


@pytest.fixture
def files(tmp_path):
    """An H100 whose memset writes 3000 GB/s, an MI300 with 4000, and two CPU cores."""
    return made_up.save(
        tmp_path,
        h100=made_up.gpu(made_up.H100, 3000.0),
        mi300=made_up.gpu(made_up.MI300, 4000.0),
        epyc=made_up.cpu(),
    )


def refusal(*args, **options):
    with pytest.raises(UsageError) as caught:
        run(*args, **options)
    return str(caught.value)


class TestTable:
    def test_text(self, files, capsys):
        assert run(files) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"H100 80GB HBM3: triton in {files[0]}, torch 0.0.0, commit 0123456789ab, changed"
        start = lines.index(f"Fills: GS/s, of memset, {TIMES} torch")
        rows = [re.split(r"  +", line) for line in lines[start + 1 : lines.index("", start)]]
        heading = ["distribution", "dtype", "elements", "threads"]
        assert rows[0] == [*heading, "H100 80GB HBM3", "Instinct MI300X", "AMD EPYC, 2 cores"]
        named = {tuple(row[:4]): row[4:] for row in rows[1:]}
        assert named["normal", "float32", "2^20", "all"] == [
            *("562", "75%", f"3{TIMES}"),  # 3000 GB/s * 0.75 / 4 bytes
            *("750", "75%", f"3{TIMES}"),
            *("1", "50%", f"4{TIMES}"),  # numba's 4 GB/s of 8
        ]
        assert named["normal", "float32", "2^20", "1"] == [*"------", "1", "67%", f"4{TIMES}"]
        assert named["truncated_normal", "bfloat16", "2^30", "all"] == [
            *("562", "38%", f"3{TIMES}", "750", "38%", f"3{TIMES}", *"---")
        ]
        others = "\n".join(re.sub(r"  +", "  ", line) for line in lines[lines.index("", start) + 1 :])
        assert others == "\n".join(
            [
                f"Calls on a small tensor: {MICRO}s, {TIMES} torch",
                "distribution  dtype  elements  H100 80GB HBM3  Instinct MI300X  AMD EPYC, 2 cores",
                f"normal  float32  2^8  -  -  -  -  16  0.25{TIMES}",
                "",
                f"Whole models: ms, of memset, {TIMES} torch",
                "model  dtype  elements  H100 80GB HBM3  Instinct MI300X  AMD EPYC, 2 cores",
                f"gpt2  float32  124,439,808  0.332  50%  4{TIMES}  0.249  50%  4{TIMES}  83  75%  12{TIMES}",
                "",
                "Structured initializers: ms",
                "initializer  dtype  elements  H100 80GB HBM3  Instinct MI300X  AMD EPYC, 2 cores",
                "orthogonal  float32  2^18  -  -  2.1",
                "",
                "Start of a process: ms",
                "what  dtype  elements  H100 80GB HBM3  Instinct MI300X  AMD EPYC, 2 cores",
                "first fill  float32  2^12  -  -  2,048",
                "import torch  float32  1,000  -  -  1,000",
                "",
                f"Predicted beside measured, {FOR}",
                PREDICTED,
                "H100 80GB HBM3  uniform  bfloat16  2^30  1,500  1,125  75%  issue",
                "H100 80GB HBM3  normal  float32  2^30  600  562  94%  memory",
            ]
        )

    def test_order(self, files):
        tasks = [line.task for line in compare(read_all(files)).lines]
        kinds = list(dict.fromkeys(task.kind for task in tasks))
        assert kinds == ["fill", "call", "model", "structured", "start"]
        fills = [task for task in tasks if task.kind == "fill"]
        subjects = list(dict.fromkeys((task.subject, task.dtype) for task in fills))
        names = ("uniform", "normal", "truncated_normal")
        assert subjects == [(name, dtype) for name in names for dtype in ("float32", "bfloat16")]
        normals = [(t.elements, t.scope) for t in fills if (t.subject, t.dtype) == ("normal", "float32")]
        assert normals == [
            *((2**10, "all"), (2**10, "1"), (2**20, "all"), (2**20, "1"), (2**30, "all")),
        ]

    def test_one_file(self, files, capsys):
        assert run(files[2:]) == 0
        assert f"normal        float32      2^10      all  1  50%  4{TIMES}" in (
            re.sub(r" +(?=1  )", "  ", line) for line in capsys.readouterr().out.splitlines()
        )

    def test_contender(self, files, capsys):
        found = compare(read_all(files), "torch")
        shown = {row.contender for line in found.lines for row in line.cells if row}
        assert shown == {"torch"}
        known = "triton, torch, cupy-philox, cupy-xorwow, jax, memset, numba, numpy, numpy-generator, python"
        message = f"no row is of contender 'mkl'; there are {known}"
        assert refusal(files, contender="mkl") == message
        assert capsys.readouterr().out == ""

    def test_contender_of_one_machine_only(self, files, capsys):
        assert run(files, contender="numpy") == 0
        out = capsys.readouterr().out
        assert f"H100 80GB HBM3: no row in {files[0]}" in out
        assert "uniform" not in out.split("Predicted")[0]

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
            (size, 8, "8"),
            (size, 16, "2^4"),
            (size, 1000, "1,000"),
            (size, 0, "0"),
        ],
    )
    def test_numbers(self, show, value, words):
        assert show(value) == words


class TestFiles:
    def test_markdown(self, files, tmp_path):
        odd = made_up.cpu()
        odd["machine_info"]["cpu"]["brand_raw"] = "a|b\\<i>"
        (path,) = made_up.save(tmp_path, odd=odd)
        run([files[0], path], md=tmp_path / "x.md")
        lines = (tmp_path / "x.md").read_text(encoding="utf-8").splitlines()
        tables = [line for line in lines if line.startswith("|")]
        heading = "| distribution | dtype | elements | threads | H100 80GB HBM3 | a\\|b\\\\&lt;i>, 2 cores |"
        assert tables[:2] == [heading, "| --- | --- | ---: | ---: | ---: | ---: |"]
        dot = "\N{MIDDLE DOT}"
        both = f"562 {dot} 75% {dot} 3{TIMES} | 1 {dot} 50% {dot} 4{TIMES}"
        assert f"| normal | float32 | 2^20 | all | {both} |" in tables
        assert f"| normal | float32 | 2^20 | 1 | - | 1 {dot} 67% {dot} 4{TIMES} |" in tables
        widths = {"**Fills**": 6, "**Calls": 5, "**Whole": 5, "**Struct": 5, "**Start": 5, "**Predicted": 8}
        for start, width in widths.items():
            first = next(i for i, line in enumerate(lines) if line.startswith(start)) + 2
            block = lines[first : lines.index("", first) if "" in lines[first:] else None]
            assert len(block) > 2
            assert {len(re.findall(r"(?<!\\)\|", line)) - 1 for line in block} == {width}

    def test_csv_reads_back_to_the_numbers(self, files, tmp_path):
        run(files, csv=tmp_path / "x.csv")
        with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        results = read_all(files)
        key = ("machine", "kind", "subject", "dtype", "elements", "threads", "contender")
        key = ("machine", "kind", "subject", "dtype", "elements", "threads", "contender")
        rows = {
            (r.name, *(str(getattr(row, name)) for name in key[1:])): row for r in results for row in r.rows
        }
        assert sorted(tuple(line[name] for name in key) for line in found) == sorted(rows)
        for line in found:
            row = rows[tuple(line[name] for name in key)]
            for name in ("median", "q1", "q3", "gb_per_s", "gs_per_s", "memset_fraction", "torch_ratio"):
                assert (float(line[name]) if line[name] else None) == getattr(row, name)
            assert (line["default"], line["ours"]) == (str(row.default), str(row.ours))
        predicted = {
            (line["subject"], line["dtype"], line["elements"]): (line["predicted_gs_per_s"], line["bound_by"])
            for line in found
            if line["bound_by"]
        }
        assert predicted == {
            ("normal", "float32", str(2**30)): ("600.0", "memory"),
            ("uniform", "bfloat16", str(2**30)): ("1500.0", "issue"),
        }

    def test_all_at_once(self, files, tmp_path):
        outputs = {name: tmp_path / f"out.{name}" for name in ("html", "png", "md", "csv")}
        assert run(files[2:], **outputs) == 0
        starts = {"html": b"<!DOCTYPE html>", "png": b"\x89PNG", "md": b"**Fills**", "csv": b"machine,kind"}
        assert {name for name in starts if outputs[name].read_bytes().startswith(starts[name])} == set(
            outputs
        )

    def test_csv_keeps_a_name_with_a_comma(self, files):
        reader = csv.DictReader(io.StringIO(comparison.tidy(compare(read_all(files[2:])))))
        assert {line["machine"] for line in reader} == {"AMD EPYC, 2 cores"}

    def test_no_file_is_overwritten(self, files, tmp_path, capsys):
        before = files[0].read_bytes()
        message = "h100.json would be overwritten: name each file once"
        assert refusal(files, csv=tmp_path / "." / "h100.json") == message
        twice = {"md": tmp_path / "x", "csv": tmp_path / "x"}
        assert refusal(files, **twice) == "x would be overwritten: name each file once"
        assert files[0].read_bytes() == before
        assert capsys.readouterr().out == ""

    def test_odd_names_leave_a_line_a_line(self, files, tmp_path, capsys):
        odd = [tmp_path / "a\nb.json", tmp_path / "c\td.json"]
        for path, old in zip(odd, (files[0], files[2]), strict=True):
            path.write_bytes(old.read_bytes())
        assert run(odd) == 0
        first, second, empty, *_ = capsys.readouterr().out.split("\n")
        assert first.startswith(f"H100 80GB HBM3: triton in {str(odd[0])!r}, torch 0.0.0, commit")
        assert second.startswith(f"AMD EPYC, 2 cores: numba in {str(odd[1])!r}, torch 0.0.0, commit")
        assert empty == ""
        assert refusal([odd[0]], csv=odd[0]) == "'a\\nb.json' would be overwritten: name each file once"

    def test_links_that_lead_nowhere(self, tmp_path):
        loop = tmp_path / "loop.json"
        loop.symlink_to(loop)
        assert refusal([loop]) == f"cannot read {loop}: Too many levels of symbolic links"

    def test_bad_input_writes_nothing(self, files, tmp_path, capsys):
        files[1].write_text("{}")
        assert refusal(files, md=tmp_path / "x.md") == f"{files[1]} is not a file of pytest-benchmark's"
        assert not (tmp_path / "x.md").exists()
        assert capsys.readouterr().out == ""


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


BOTH = ("torch_ratio", "memset_fraction")


class TestFailBelow:
    def test_nothing_fell(self, pair, capsys):
        assert run(pair(lambda info: None), fail_below=1.0) == 0
        assert (
            capsys.readouterr().out.splitlines()[-1] == "6 of 6 rows kept 1 of the baseline's relative speed"
        )

    @pytest.mark.parametrize(("part", "code"), [(0.5, 0), (0.499, 1), (2.0, 0)])
    def test_boundary(self, pair, part, code):
        assert run(pair(slower(*BOTH, part=part)), fail_below=0.5) == code

    @pytest.mark.parametrize("name", BOTH)
    def test_one_ratio_alone_is_noise(self, pair, name):
        """But of a call there is no memset, and torch's has to do."""
        assert run(pair(slower(name, part=0.1, elements=2**20)), fail_below=0.9) == 0
        assert run(pair(slower("torch_ratio", part=0.1, elements=256)), fail_below=0.9) == 1

    def test_rows_that_fell_are_printed_with_both_numbers(self, pair, capsys):
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

    def test_the_first_file_is_the_baseline(self, pair):
        files = pair(slower(*BOTH, part=0.5))
        assert run(files, fail_below=0.9) == 1
        assert run(files[::-1], fail_below=0.9) == 0

    def test_other_contender(self, pair):
        files = pair(slower(*BOTH, part=0.5))
        assert run(files, fail_below=0.9, contender="numpy") == 0
        assert run(files, fail_below=0.9, contender="numba") == 1

    @pytest.mark.parametrize(
        ("contender", "name", "own"),
        [("torch", "memset_fraction", "torch_ratio"), ("memset", "torch_ratio", "memset_fraction")],
    )
    def test_ratio_to_itself_does_not_count(self, pair, contender, name, own, capsys):
        """It is 1 before and after, however slow the contender has become."""

        def change(info):
            if info["contender"] == contender and info[name] is not None:
                assert info[own] == 1
                info[name] *= 0.5

        files = pair(change)
        assert run(files, fail_below=0.9, contender=contender) == 1
        # Four fills and a model; a call has no memset, and torch's then nothing to be judged by.
        assert "0 of 5 rows kept 0.9 of the baseline's relative speed" in capsys.readouterr().out.splitlines()

    def test_starts_are_not_judged(self, tmp_path, capsys):
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
    def test_two_machines(self, tmp_path, capsys, change, words):
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

    def test_rows_that_are_gone(self, pair, capsys):
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

    def test_nothing_in_common(self, files, capsys):
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
    def test_bad_bound(self, files, value):
        message = f"--fail-below is a number above 0, as 0.9 is, and not {value}"
        assert refusal(files[:2], fail_below=value) == message

    @pytest.mark.parametrize("count", [1, 3])
    def test_two_files(self, files, count):
        message = f"--fail-below compares two files, a baseline and a candidate, and not {count}"
        assert refusal(files[:count], fail_below=0.9) == message


def test_real_predictions_are_asked_for_the_machine(monkeypatch, files):
    asked = []
    monkeypatch.setattr(inspection, "predictions", lambda machine: asked.append(machine) or {})
    results = read(files[0])
    assert text(compare([results]))
    assert asked == [results.machine]
