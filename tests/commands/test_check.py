"""``tritoninit check``: how it prints what the engine of proof finds."""

import re

from tritoninit import checks
from tritoninit.cli import main


def backend_check(*outcomes):
    return checks.BackendCheck("abacus", "desk", len(outcomes), lambda: iter(outcomes))


def test_equal(capsys, monkeypatch):
    equal = backend_check(checks.Outcome(1000, None), checks.Outcome(234, None))
    monkeypatch.setattr(checks, "backend_checks", lambda seed, quick: [equal, equal])
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"abacus = numpy +desk +2 +1,234 ", out)
    assert "2,468 values compared. No difference." in out


def test_different(capsys, monkeypatch):
    wrong = backend_check(checks.Outcome(1000, None), checks.Outcome(5, "element (3,) is wrong"))
    after = backend_check(checks.Outcome(1, None))
    monkeypatch.setattr(checks, "backend_checks", lambda seed, quick: [wrong, after])
    assert main(["check", "--quick", "--seed", "5"]) == 1
    out = capsys.readouterr().out
    assert "1,005 values compared. The first that differs:\nelement (3,) is wrong" in out


def test_arguments_arrive(monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "backend_checks", lambda *arguments: seen.append(arguments) or [])
    main(["check", "--quick", "--seed", "5"])
    main(["check"])
    assert seen == [(5, True), (0, False)]


def test_emulated_instead(capsys, monkeypatch):
    seen = []
    equal = backend_check(checks.Outcome(7, None))
    monkeypatch.setattr(checks, "emulations", lambda *arguments: seen.append(arguments) or [equal])
    assert main(["check", "--emulate", "sm_90, gfx942", "--seed", "3"]) == 0
    assert seen == [(["sm_90", "gfx942"], 3, False)]
    assert "7 values compared. No difference." in capsys.readouterr().out


def test_failure_is_one_line(capsys, monkeypatch):
    def fail():
        raise checks.CheckFailed("no interpreter")
        yield

    broken = checks.BackendCheck("abacus", "desk", 1, fail)
    monkeypatch.setattr(checks, "backend_checks", lambda seed, quick: [broken])
    assert main(["check"]) == 1
    assert capsys.readouterr().err == "tritoninit: no interpreter\n"
