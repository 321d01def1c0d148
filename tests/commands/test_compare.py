"""``tritoninit compare``: what is printed, exact on made-up numbers, and what is written."""

import csv
import re

import pytest

from tests.bench import made_up
from tritoninit.bench import inspection, overview
from tritoninit.bench.comparison import compare
from tritoninit.bench.result_files import read_all
from tritoninit.commands.compare import run
from tritoninit.outputs import UsageError

FOR = f"triton: kernels as Triton {inspection.stored()['triton']} compiles them"
TIMES = "\N{MULTIPLICATION SIGN}"
MICRO = "\N{MICRO SIGN}"
DOT = "\N{MIDDLE DOT}"
PREDICTED = (
    "machine  distribution  dtype  elements  predicted GS/s  measured GS/s  measured / predicted  bound by"
)


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


class TestTable:
    def test_text(self, files, capsys):
        assert run(files) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"H100 80GB HBM3: triton in {files[0]}, torch 0.0.0, commit 0123456789ab, changed"
        start = lines.index(f"Fills that reach the memory: GS/s, of memset, {TIMES} torch")
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
        assert {row[2] for row in rows[1:]} == {"2^20", "2^30"}
        start = lines.index(f"Fills too small to leave the cache: GS/s, of memset, {TIMES} torch")
        rows = [re.split(r"  +", line) for line in lines[start + 2 : lines.index("", start)]]
        assert {row[2] for row in rows} == {"2^10"}
        panels = [
            f"{name}, {dtype}"
            for name in ("uniform", "normal", "truncated normal")
            for dtype in ("float32", "bfloat16")
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
                "",
                f"{overview.GLANCE}: {overview.GLANCE_LEGEND}",
                f"machine  {'  '.join(panels)}",
                "Instinct MI300X  750 · 75%  1,500 · 75%  750 · 75%  1,500 · 75%  375 · 38%  750 · 38%",
                "H100 80GB HBM3  562 · 75%  1,125 · 75%  562 · 75%  1,125 · 75%  281 · 38%  562 · 38%",
                "AMD EPYC, 2 cores  -  -  1 · 50%  -  -  -",
            ]
        )

    def test_intervals_of_medians(self, files, tmp_path, capsys):
        """A column of their own, by the farther end; nothing where a row has too few rounds."""
        document = made_up.cpu()
        for row in document["benchmarks"][:1]:
            median = row["stats"]["median"]
            row["extra_info"].update(median_low=0.98 * median, median_high=1.01 * median)
        for row in document["benchmarks"][1:]:
            row["extra_info"].update(median_low=None, median_high=None)
        (path,) = made_up.save(tmp_path, some=document)
        assert run([path], csv=tmp_path / "x.csv") == 0
        out = capsys.readouterr().out
        assert (
            f"Fills too small to leave the cache: GS/s, \N{PLUS-MINUS SIGN} 95%, of memset, {TIMES} torch"
            in out
        )
        assert re.search(rf"normal +float32 +2\^10 +all +1 +2% +50% +4{TIMES}", out)
        assert re.search(rf"normal +float32 +2\^20 +all +1 +50% +4{TIMES}", out)
        with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        assert [bool(line["median_low"] and line["median_high"]) for line in lines].count(True) == 1

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
        both = f"562 {DOT} 75% {DOT} 3{TIMES} | 1 {DOT} 50% {DOT} 4{TIMES}"
        assert f"| normal | float32 | 2^20 | all | {both} |" in tables
        assert f"| normal | float32 | 2^20 | 1 | - | 1 {DOT} 67% {DOT} 4{TIMES} |" in tables
        widths = {
            "**Fills that": 6,
            "**Fills too": 6,
            "**Calls": 5,
            "**Whole": 5,
            "**Struct": 5,
            "**Start": 5,
            "**Predicted": 8,
        }
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
        starts = {
            "html": b"<!DOCTYPE html>",
            "png": b"\x89PNG",
            "md": b"**Fills that reach the memory**",
            "csv": b"machine,kind",
        }
        assert {name for name in starts if outputs[name].read_bytes().startswith(starts[name])} == set(
            outputs
        )

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


def test_half_a_character_in_a_machine_s_facts(tmp_path, capsys):
    document = made_up.cpu()
    document["machine_info"].update(torch="x\ud800", system="\udfff")
    document["commit_info"]["id"] = "\ud800"
    (path,) = made_up.save(tmp_path, x=document)
    outputs = {form: tmp_path / f"out.{form}" for form in ("html", "md", "csv")}
    assert run([path], **outputs) == 0
    assert "x\\ud800" in outputs["html"].read_text(encoding="utf-8")
    assert "torch x" in capsys.readouterr().out
