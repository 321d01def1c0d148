"""Result files: what is read from them, and the one line that each bad one costs."""

import copy
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.bench import made_up
from tritoninit.bench import result_files
from tritoninit.bench.device import PROTOCOL
from tritoninit.bench.result_files import read, read_all, trimmed, write
from tritoninit.outputs import UsageError


@pytest.fixture
def document():
    """Two rows: made-up ones of triton and memset."""
    speeds = {"triton": 750.0, "memset": 1000.0}
    rows = made_up.rows("cuda", "fill", "normal", "float32", 2**20, speeds, default="triton", threads=8)
    return made_up.document(made_up.machine(made_up.H100), rows)


def refusal(tmp_path, content):
    """What ``read`` says of a file, the path left out."""
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UsageError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "x.json")


class TestRead:
    def test_rows(self, tmp_path, document):
        (path,) = made_up.save(tmp_path, h100=document)
        results = read(path)
        assert (results.path, results.name) == (path, "H100 80GB HBM3")
        assert results.commit == "0123456789ab, changed"
        assert results.machine == document["machine_info"]
        row = results.rows[0]
        info, stats = document["benchmarks"][0]["extra_info"], document["benchmarks"][0]["stats"]
        assert all(getattr(row, name) == value for name, value in info.items())
        assert (row.median, row.q1, row.q3, row.rounds) == (stats["median"], stats["q1"], stats["q3"], 9)
        assert row.rate == pytest.approx(750e9 / 4)
        assert [r.memset_fraction for r in results.rows] == [0.75, 1.0]
        assert [r.torch_ratio for r in results.rows] == [None, None]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "x.json is not JSON"),
            (b"\xff\xfe", "x.json is not JSON"),
            (b"[" * 100_000, "x.json is not JSON"),
            ([1, 2], "x.json is not a file of pytest-benchmark's"),
            ({"rows": []}, "x.json is not a file of pytest-benchmark's"),
            ({"machine_info": {}, "benchmarks": {}}, "x.json is not a file of pytest-benchmark's"),
            (
                {"machine_info": {"system": "Linux"}, "benchmarks": []},
                "x.json is not from this suite, though from pytest-benchmark: it names no protocol",
            ),
            (made_up.document(made_up.machine(), []), "x.json is empty: a result file without a row"),
            (
                made_up.document(made_up.machine(protocol=PROTOCOL + 1), []),
                f"x.json was timed by protocol {PROTOCOL + 1}, and this release reads {PROTOCOL}",
            ),
            (
                made_up.document(made_up.machine(protocol=0), []),
                f"x.json was timed by protocol 0, and this release reads {PROTOCOL}",
            ),
            (
                made_up.document(made_up.machine(gate=None), []),
                "x.json is damaged: its machine_info has gate None",
            ),
            (
                made_up.document(made_up.machine(accelerator="H100"), []),
                "x.json is damaged: its accelerator is 'H100'",
            ),
        ],
    )
    def test_bad_file(self, tmp_path, content, message):
        assert refusal(tmp_path, content) == message

    def test_a_device_is_not_read(self):
        """Some never end."""
        for name in ("/dev/zero", "/dev/null"):
            with pytest.raises(UsageError, match=f"{name} is not a file"):
                read(Path(name))

    @pytest.mark.parametrize("digits", ["1" + 5000 * "0", "-" + 5000 * "9"])
    def test_more_digits_than_python_reads(self, tmp_path, document, digits):
        text = json.dumps(document).replace('"rounds": 9', f'"rounds": {digits}')
        assert refusal(tmp_path, text.encode()).endswith("inf")

    def test_no_file(self, tmp_path):
        with pytest.raises(UsageError) as caught:
            read(tmp_path / "none.json")
        assert str(caught.value) == f"{tmp_path / 'none.json'}: no such file"
        with pytest.raises(UsageError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"cannot read {tmp_path}: Is a directory"

    @pytest.mark.parametrize("name", ["", "."])
    def test_no_name(self, name):
        with pytest.raises(UsageError) as caught:
            read(Path(name))
        assert str(caught.value) == "a result file has a name, and not '' or '.'"

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[0m", "a\udcff", "a\u2028b"])
    def test_odd_name_stays_on_one_line(self, tmp_path, document, name):
        path = tmp_path / name
        quoted = repr(str(path))
        with pytest.raises(UsageError) as caught:
            read(path)
        assert str(caught.value) == f"{quoted}: no such file"
        strange = copy.deepcopy(document)
        strange["benchmarks"][0].update(name=name, stats=None)
        contents = {
            "": f"{quoted} is not JSON",
            "{}": f"{quoted} is not a file of pytest-benchmark's",
            json.dumps(strange): f"{quoted} is damaged: row {name!r}: no stats",
        }
        for content, message in contents.items():
            path.write_text(content)
            with pytest.raises(UsageError) as caught:
                read(path)
            assert str(caught.value) == message
            assert len(str(caught.value).splitlines()) == 1
        path.write_text(json.dumps(document))
        named = result_files.distinct([read(path), read(path)])
        assert [r.name for r in named] == [f"H100 80GB HBM3 ({quoted})"] * 2

    @pytest.mark.parametrize(
        ("part", "name", "value", "message"),
        [
            ("extra_info", "kind", "race", "kind is 'race'"),
            ("extra_info", "elements", 1.5, "elements is 1.5"),
            ("extra_info", "elements", -1, "elements is -1"),
            ("extra_info", "threads", True, "threads is True"),
            ("extra_info", "ours", 1, "ours is 1"),
            ("extra_info", "dtype", None, "dtype is None"),
            ("extra_info", "memset_fraction", 0, "memset_fraction is 0"),
            ("extra_info", "torch_ratio", "fast", "torch_ratio is 'fast'"),
            ("stats", "median", None, "median is None"),
            ("stats", "median", math.nan, "median is nan"),
            ("extra_info", "contender", "x\ud800", "contender is 'x\\ud800'"),
            ("stats", "median", 10**400, "median is inf"),
            ("stats", "q3", -(10**400), "q3 is -inf"),
            ("extra_info", "gb_per_s", 10**400, "gb_per_s is inf"),
            ("extra_info", "elements", 10**400, "elements is inf"),
            ("extra_info", "bytes", 10**20, "bytes is 1e+20"),
            ("stats", "q1", math.inf, "q1 is inf"),
        ],
    )
    def test_damaged_row(self, tmp_path, document, part, name, value, message):
        document["benchmarks"][1][part][name] = value
        row = "bench_fill[normal-float32-1048576-8-memset]"
        assert refusal(tmp_path, document) == f"x.json is damaged: row {row}: {message}"

    @pytest.mark.parametrize("part", ["extra_info", "stats"])
    def test_row_that_lacks_something(self, tmp_path, document, part):
        lacking = copy.deepcopy(document)
        name = next(iter(lacking["benchmarks"][0][part]))
        lacking["benchmarks"][0][part].pop(name if part == "extra_info" else "median")
        words = "kind" if part == "extra_info" else "median"
        assert refusal(tmp_path, lacking).endswith(f"-triton]: no {words}")
        del document["benchmarks"][0][part]
        assert refusal(tmp_path, document).endswith(f"-triton]: no {part}")

    def test_row_that_is_none(self, tmp_path, document):
        document["benchmarks"][1] = "lost"
        assert refusal(tmp_path, document) == "x.json is damaged: row number 1: no extra_info"

    def test_row_twice(self, tmp_path, document):
        document["benchmarks"] += document["benchmarks"][1:]
        message = "x.json is damaged: 2 rows for fill normal float32 1048576 8 memset"
        assert refusal(tmp_path, document) == message


class TestNames:
    @pytest.mark.parametrize(
        ("machine", "name"),
        [
            (made_up.machine(made_up.H100), "H100 80GB HBM3"),
            (made_up.machine(made_up.MI300), "Instinct MI300X"),
            (made_up.machine(), "AMD EPYC, 2 cores"),
            (made_up.machine({"name": "<b>\x00\n"}), "<b>"),
            (made_up.machine({}), "AMD EPYC, 2 cores"),
            ({"accelerator": {"arch": "sm_90"}}, "unnamed accelerator"),
            ({"cpu": {"brand_raw": "Intel(R) Core(TM) i7", "count": 1}}, "Intel Core i7, 1 core"),
            ({"cpu": {"brand_raw": None, "count": None}}, "unnamed CPU"),
            ({}, "unnamed CPU"),
        ],
    )
    def test_machine(self, machine, name):
        assert result_files.machine_name(machine) == name

    def test_equal_names_are_told_apart(self, tmp_path):
        (tmp_path / "old").mkdir()
        files = [
            *made_up.save(tmp_path / "old", a=made_up.cpu()),
            *made_up.save(tmp_path, a=made_up.cpu(), b=made_up.cpu(), h100=made_up.gpu(made_up.H100, 3e3)),
        ]
        epyc = "AMD EPYC, 2 cores"
        assert [r.name for r in read_all([files[1], *files[2:]])] == [
            *(f"{epyc} (a)", f"{epyc} (b)", "H100 80GB HBM3")
        ]
        assert [r.name for r in read_all(files)] == [
            *(f"{epyc} ({files[0]})", f"{epyc} ({files[1]})", f"{epyc} (b)", "H100 80GB HBM3")
        ]


class TestComparable:
    @pytest.mark.parametrize(("field", "other"), [("stream_version", 2), ("gate", "close")])
    def test_what_differs_is_named(self, tmp_path, field, other):
        odd = made_up.cpu()
        was = odd["machine_info"][field]
        odd["machine_info"][field] = other
        a, b = made_up.save(tmp_path, a=made_up.cpu(), b=odd)
        with pytest.raises(UsageError) as caught:
            read_all([a, b])
        assert str(caught.value) == f"these may not be compared: {field} is {was} in {a}, {other} in {b}"
        assert len(read_all([b])) == 1

    def test_protocol_and_several(self, tmp_path):
        """Two protocols never pass ``read``, which knows one; results made otherwise are stopped here."""
        odd = made_up.machine(protocol=PROTOCOL + 1, gate="close")
        results = [
            result_files.Results(Path(name), name, machine, "", ())
            for name, machine in (("a", made_up.machine()), ("b", odd))
        ]
        with pytest.raises(UsageError) as caught:
            result_files.check_comparable(results)
        assert str(caught.value) == (
            "these may not be compared: gate is bits in a, close in b;"
            f" protocol is {PROTOCOL} in a, {PROTOCOL + 1} in b"
        )

    def test_files_that_make_no_comparison(self, tmp_path):
        with pytest.raises(UsageError, match=r"^no result file to compare$"):
            read_all([])
        (a,) = made_up.save(tmp_path, a=made_up.cpu())
        with pytest.raises(UsageError) as caught:
            read_all([a, a])
        assert str(caught.value) == f"{a} is given twice"

    @pytest.mark.parametrize("other", ["a.json", "./sub/../a.json", "link.json"])
    def test_file_by_two_spellings(self, tmp_path, monkeypatch, other):
        (a,) = made_up.save(tmp_path, a=made_up.cpu())
        (tmp_path / "sub").mkdir()
        (tmp_path / "link.json").symlink_to(a)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError) as caught:
            read_all([Path(other), a])
        assert str(caught.value) == f"{Path(other)} is given twice"


class TestTrimmed:
    def test_nothing_is_lost_that_is_read(self, tmp_path, document):
        before, after = tmp_path / "before.json", tmp_path / "after.json"
        before.write_text(json.dumps(document))
        write(trimmed(document), after)
        ours, theirs = read(after), read(before)
        assert (ours.name, ours.commit, len(ours.rows)) == (theirs.name, theirs.commit, len(theirs.rows))
        for kept, row in zip(ours.rows, theirs.rows, strict=True):
            # Six digits are kept: half a unit of the last is 5e-6 of the least number that has them.
            assert asdict(kept) == {
                name: pytest.approx(value, rel=5e-6) if isinstance(value, float) else value
                for name, value in asdict(row).items()
            }

    def test_what_goes(self, document):
        found = trimmed(document)
        assert "python_compiler" not in found["machine_info"]
        assert found["machine_info"]["python_version"] == "3.12.1"
        assert "branch" not in found["commit_info"]
        assert "options" not in found["benchmarks"][0]
        assert "data" not in found["benchmarks"][0]["stats"]
        assert trimmed(found) == found

    def test_pytest_benchmark_compares_what_is_left(self, tmp_path, document):
        path = tmp_path / "trimmed.json"
        write(trimmed(document), path)
        command = [sys.executable, "-m", "pytest_benchmark", "compare", path]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "normal-float32-1048576-8-triton" in done.stdout

    def test_write_refuses_what_json_has_no_word_for(self, tmp_path, document):
        document["version"] = math.nan
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(document, tmp_path / "x.json")
        assert not (tmp_path / "x.json").exists()
