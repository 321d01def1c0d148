"""What the README and docs/ say of measurements is what the committed results say."""

import importlib.metadata
import json
import re

import pytest

from tools import report
from tritoninit.bench import result_files


@pytest.mark.parametrize("path", report.paths(), ids=lambda path: path.stem)
def test_results_are_trimmed(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    assert result_files.trimmed(document) == document


@pytest.mark.parametrize("path", [report.README, report.TABLES, report.SPEED], ids=lambda path: path.name)
def test_tables_are_up_to_date(path):
    assert path.read_text(encoding="utf-8") == report.written()[path], "make report"


def test_figure_is_up_to_date():
    drawn = report.FIGURE.read_text(encoding="utf-8")
    version = re.search(r"matplotlib ([\w.]+)", drawn)[1]
    if version != importlib.metadata.version("matplotlib"):
        pytest.skip(f"drawn by matplotlib {version}, which places things in its own way")
    assert drawn == report.written()[report.FIGURE], "make report"
