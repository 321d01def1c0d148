"""What commands show: tables that fit, lines, progress where there is a terminal, errors in one line."""

import io
import sys

import pytest

from tritoninit import terminal


class TestTable:
    HEADINGS = ("parameter", "shape", "initializer", ">mean", ">std", "backend")
    SHRINK = ((0, 28), (2, 22), (0, 12))

    def lines(self, width, name, initializer="Normal s 0.00408"):
        row = [name, "50257x768", initializer, "-1.8e-6", "0.00408", "triton"]
        return terminal.table(self.HEADINGS, [row], self.SHRINK, width)

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_fits(self, width):
        lines = self.lines(width, "x" * 200, "TruncatedNormal s 0.0361 in ±2")
        assert len(lines) == 2
        assert max(map(len, lines)) <= width

    def test_gpt2_fits_80_columns_uncut(self):
        lines = self.lines(80, "h.11.attn.c_attn.weight")
        assert lines[1].startswith(
            "h.11.attn.c_attn.weight  50257x768  Normal s 0.00408  -1.8e-6  0.00408  triton"
        )

    def test_a_long_name_keeps_its_end(self):
        assert self.lines(80, "encoder." + "layers." * 9 + "bias")[1].startswith(
            "…rs.layers.layers.layers.bias "
        )

    def test_no_limit(self):
        assert "x" * 200 in self.lines(None, "x" * 200)[1]


def test_lines_that_the_locale_cannot_show(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    terminal.print_lines("one", "±2")
    assert raw.getvalue() == b"one\n?2\n"


class TestProgress:
    def test_none_where_no_terminal_shows_it(self, capsys):
        with terminal.progress_display() as progress:
            assert progress is None
            with terminal.stage(progress, "building", 3) as advance:
                advance()
        assert capsys.readouterr() == ("", "")

    def test_a_stage_goes_when_it_ends(self, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with terminal.progress_display() as progress:
            with terminal.stage(progress, "building", 3) as advance:
                advance()
                (task,) = progress.tasks
                assert (task.description, task.completed, task.total) == ("building", 1, 3)
            assert not progress.tasks


@pytest.mark.parametrize(
    ("error", "line"),
    [(KeyError("a\nb"), "KeyError: 'a\\nb'"), (OSError("x\ny"), "OSError: x"), (ValueError(), "ValueError")],
)
def test_errors_in_one_line(error, line):
    assert terminal.one_line(error) == line


def test_failure(capsys):
    assert terminal.fail("no model", 2) == 2
    assert capsys.readouterr() == ("", "tritoninit: no model\n")
