"""Files of counts among those of measurements: GPUs that nobody has measured, and always said to be that."""

import csv
import json
import re
import xml.etree.ElementTree as ET

import pytest

from tests.bench import made_up
from tritoninit.bench import glance, inspection
from tritoninit.bench.architectures import ARCHITECTURES
from tritoninit.bench.comparison import Panel, compare, panels
from tritoninit.bench.forecasts import read
from tritoninit.bench.result_files import read_all
from tritoninit.commands.compare import run
from tritoninit.outputs import UsageError

MEASURED = [inspection.RESULTS.with_name(f"{name}.json") for name in ("epyc-2-core", "h200")]
OTHERS = [each.name for each in ARCHITECTURES if each.name != "H200 SXM"]
BOUND = glance.BOUND


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What ``compare`` writes of two committed results and the committed counts."""
    folder = tmp_path_factory.mktemp("compared")
    found = {form: folder / f"out.{form}" for form in ("html", "md", "csv")}
    assert run([*MEASURED, inspection.RESULTS], **found) == 0
    return found


def test_two_measured_and_one_predicted(outputs):
    lines = outputs["md"].read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("**Machines at a glance**"))
    names = [line.split("|")[1].strip() for line in lines[start + 4 :] if line.startswith("|")]
    assert names[:2] == ["H200", "AMD EPYC, 2 cores"]
    assert sorted(names[2:]) == sorted(
        f"{name}, predicted" for name in OTHERS
    )  # not the one that was measured
    for line in lines[start + 4 :]:
        if ", predicted |" in line:
            assert line.count(BOUND) == 6


@pytest.mark.slow  # a drawing of a machine after the other
def test_the_figures(tmp_path):
    assert run([*MEASURED, inspection.RESULTS], png=tmp_path / "x.png") == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_all_numbers(outputs):
    with open(outputs["csv"], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    predicted = [line for line in lines if line["machine"] in OTHERS]
    assert len(predicted) == len(OTHERS) * 9  # three distributions, three dtypes
    assert all(float(line["predicted_gs_per_s"]) > 0 and line["bound_by"] for line in predicted)
    assert not any(line["gs_per_s"] or line["median"] for line in predicted)
    cached = {line["elements"] for line in lines if line["cached"] == "True" and line["kind"] == "fill"}
    assert cached == {"256", "4096"}
    assert {line["cached"] for line in lines if line["kind"] in ("call", "model", "start")} == {""}


def test_the_page_shows_them_apart(outputs):
    html = outputs["html"].read_text(encoding="utf-8")
    cards = re.findall(r'<article class="(card[^"]*)"><h2>([^<]*)</h2><p class="speed">([^<]*)', html)
    kinds = {name: (kind, BOUND in speed) for kind, name, speed in cards}
    assert kinds.pop("H200") == kinds.pop("AMD EPYC, 2 cores") == ("card", False)
    assert kinds == dict.fromkeys(OTHERS, ("card predicted", True))
    assert html.index("Predicted, not measured") > html.index("AMD EPYC, 2 cores</h2>")
    rows = re.findall(r'<tr class="forecast"><th scope="row">([^<]*)', html)
    assert sorted(rows) == sorted(f"{name}, predicted" for name in OTHERS)
    assert "memory is taken to keep 94%" in " ".join(html.split())
    benchmarks = json.loads(MEASURED[1].read_text(encoding="utf-8"))["benchmarks"]
    fastest = max(
        each["extra_info"]["bytes"] / each["stats"]["median"]
        for each in benchmarks
        if each["extra_info"]["kind"] == "fill" and each["extra_info"]["contender"] == "memset"
    )
    share = f"{fastest / 1e9:,.0f} GB/s, which a memset wrote there ({fastest / 4.8e12:.0%} of the data sheet"
    assert share in html


def test_one_architecture_s_counts(tmp_path, capsys):
    content = json.loads(inspection.RESULTS.read_text())
    content["rows"] = [row for row in content["rows"] if row["arch"] == "sm_100"]
    path = tmp_path / "b200.json"
    path.write_text(json.dumps(content))
    assert run([MEASURED[0], path]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^B200, predicted .*{BOUND} [\d,]+", out, re.MULTILINE)
    assert "A100" not in out
    assert run([MEASURED[0], path, inspection.RESULTS]) == 0
    assert capsys.readouterr().out.count("B200, predicted") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(rows=3),
        lambda c: c.update(rows=[4]),
        lambda c: c["rows"][2].update(dtype="int4"),
        lambda c: c["rows"][2].update(extra=1),
        lambda c: c["rows"][2].pop("kinds"),
        lambda c: c["rows"][2]["kinds"].update(integer="many"),
        lambda c: c["rows"][2]["kinds"].update(integer=float("nan")),
        lambda c: c["rows"][2].update(kinds=None),
    ],
)
def test_damaged_counts(tmp_path, spoil):
    content = json.loads(inspection.RESULTS.read_text())
    content["rows"] = [r for r in content["rows"] if (r["kernel"], r["arch"]) == ("run_kernel", "sm_80")]
    spoil(content)
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError) as caught:
        run([MEASURED[0], path])
    assert str(caught.value) == f"{path} is damaged: it is no file of counts that tritoninit inspect wrote"


def test_counts_of_an_architecture_that_no_gpu_is_known_of(tmp_path):
    content = json.loads(inspection.RESULTS.read_text())
    content["rows"] = [{**row, "arch": "sm_120"} for row in content["rows"] if row["arch"] == "sm_100"]
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"predicts nothing: the table of GPUs has none of .*, 'sm_120'$"):
        run([MEASURED[0], path])


def test_what_no_measurement_stands_beside(tmp_path):
    with pytest.raises(UsageError, match="a prediction stands beside measurements"):
        run([inspection.RESULTS])
    with pytest.raises(UsageError, match="two files that were measured"):
        run([MEASURED[0], inspection.RESULTS], fail_below=0.9)
    with pytest.raises(UsageError, match="is given twice"):
        run([MEASURED[0], inspection.RESULTS, inspection.RESULTS])
    content = json.loads(inspection.RESULTS.read_text())
    path = tmp_path / "other.json"
    for version, words in ((2, "2"), ([], r"\[\]"), (None, "None")):
        path.write_text(json.dumps({**content, "stream_version": version}))
        with pytest.raises(UsageError, match=f"may not be compared: stream_version is {words} in"):
            run([MEASURED[0], path])


def test_what_few_draw_is_no_column_of_all_machines(tmp_path):
    document = made_up.gpu(made_up.H100, 3000.0)
    speeds = {"triton": 1000.0}
    document["benchmarks"] += made_up.rows(
        "cuda", "fill", "stochastic_normal", "bfloat16", 2**28, speeds, default="triton"
    )
    (results,) = read_all(made_up.save(tmp_path, some=document))
    found = compare([results])
    assert Panel("stochastic_normal", "bfloat16") in panels(found)
    assert {panel.subject for panel in glance.columns(found)} == {"uniform", "normal", "truncated_normal"}
    only = [row for row in document["benchmarks"] if row["extra_info"]["subject"] == "stochastic_normal"]
    (results,) = read_all(made_up.save(tmp_path, only={**document, "benchmarks": only}))
    assert [panel.subject for panel in glance.columns(compare([results]))] == ["stochastic_normal"]


def test_a_drawing_tells_them_by_more_than_a_colour(tmp_path):
    results = read_all(made_up.save(tmp_path, epyc=made_up.cpu()))
    content = json.loads(inspection.RESULTS.read_text())
    found = compare(results, None, read(inspection.RESULTS, content, results))
    texts = [
        e.text.strip() for e in ET.fromstring(glance.svg(found, "normal")).iter() if e.tag.endswith("text")
    ]
    assert "predicted bound, not measured" in texts
    assert sum(text.startswith(BOUND) for text in texts) == len(ARCHITECTURES)
    assert "1" in texts  # of the CPU, which was measured
