"""``tritoninit catalogue``: what it prints and writes, and how it fails."""

import json
import math

import pytest

from tritoninit import facts
from tritoninit.cli import main


def test_all(capsys):
    assert main(["catalogue"]) == 0
    out, err = capsys.readouterr()
    assert not err
    for known in facts.catalogue().values():
        assert f"\n  {known.name} " in out
        assert known.group in out


def test_one(capsys):
    assert main(["catalogue", "KaimingUniform", "--shape", "64,24", "--shape", "8,6,3,3"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "KaimingUniform: constants and scales by fans"
    assert "    b = gain \N{SQUARE ROOT}(3 / fan)" in lines
    assert "Source: He, Zhang, Ren and Sun, ICCV 2015, section 2.2" in lines
    assert "Elsewhere: torch.kaiming_uniform" in lines
    times = "\N{MULTIPLICATION SIGN}"
    (row,) = (line.split() for line in lines if line.startswith(f"64{times}24"))
    assert row[1:4] == ["-0.5", "0.5", "0.2887"]
    assert any(line.startswith(f"8{times}6{times}3{times}3") for line in lines)
    assert "\N{FULL BLOCK}" in out


def test_json(capsys, tmp_path):
    path = tmp_path / "facts.json"
    assert main(["catalogue", "xavier_normal_", "--shape", "100,300", "--json", str(path)]) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["name"] == "XavierNormal"
    assert report["formula"] == ["w ~ N(0, std**2)", "std = gain sqrt(2 / (fan_in + fan_out))"]
    (row,) = report["shapes"]
    assert row["shape"] == [100, 300]
    assert row["std"] == pytest.approx(math.sqrt(2 / 400))
    assert row["drawn_std"] == pytest.approx(row["std"], rel=0.03)
    assert row["low"] <= row["least"] < row["greatest"] <= row["high"]
    assert 0 < sum(report["histogram"]["counts"]) <= 30_000
    assert main(["catalogue", "--json", str(path)]) == 0
    assert [each["name"] for each in json.loads(path.read_text(encoding="utf-8"))] == [*facts.catalogue()]


def test_laws(capsys, tmp_path):
    """Of what has one: mean, variance, ends and quantiles, none where there is none."""
    path = tmp_path / "facts.json"
    assert main(["catalogue", "geometric", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = (k for k, line in enumerate(lines) if line.startswith("law "))
    assert lines[at].split() == [
        *("law", "from", "to", "mean", "variance", "5", "%", "25", "%", "median", "75", "%", "95", "%"),
    ]
    assert lines[at + 1].split() == ["1", "inf", "4", "12", "1", "1", "3", "5", "11"]
    told = json.loads(path.read_text(encoding="utf-8"))["law"]
    assert (told["least"], told["greatest"], told["mean"], told["variance"]) == (1.0, None, 4.0, 12.0)
    assert told["quantiles"]["0.5"] == 3.0
    assert main(["catalogue", "cauchy"]) == 0
    out = capsys.readouterr().out
    assert "none" in out
    assert out.count("\n768") == 1  # one row, since no shape matters
    assert main(["catalogue", "orthogonal"]) == 0
    assert "\nlaw " not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["glorot_uniform", "keras.GlorotUniform", "GlorotUniform"])
def test_names_of_others(name, capsys):
    assert main(["catalogue", name, "--shape", "30,20"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("VarianceScaling: ")
    assert "VarianceScaling(axes=None, scale=1.0, mode='fan_avg', distribution='uniform'):" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kaming"], "no initializer is called 'kaming': did you mean KaimingNormal or KaimingUniform"),
        (["zzz"], "no initializer is called 'zzz': known are Constant, Uniform, "),
        (["Eye", "--shape", "3,3,3"], "Only tensors with 2 dimensions are supported"),
        (["Eye", "--shape", "3,-3"], "argument --shape: '3,-3' is no shape, as in 256,128"),
        (
            ["Eye", "--shape", "99999,99999"],
            "argument --shape: '99999,99999' has more than 67,108,864 elements",
        ),
        (["--shape", "3,3"], "--shape goes with the name of an initializer"),
    ],
)
def test_errors(arguments, said, capsys):
    assert main(["catalogue", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"tritoninit: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", facts.catalogue())
def test_every_one(name, capsys):
    assert main(["catalogue", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")


@pytest.mark.parametrize("shape", ["", "0,3", "1,1"])
def test_shapes_at_the_edge(shape, capsys):
    assert main(["catalogue", "Normal", "--shape", shape]) == 0
    capsys.readouterr()
