"""What docs/ says of models at scale is what the committed plans say, and those are what the command says."""

import json

import pytest

from tools import at_scale
from tritoninit.cli import main


def test_the_page_is_up_to_date():
    assert at_scale.PAGE.read_text(encoding="utf-8") == at_scale.page(), "python tools/at_scale.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", at_scale.MODELS)
def test_plans_are_up_to_date(name, tmp_path, capsys):
    pytest.importorskip("triton")
    written = tmp_path / "plan.json"
    assert main(["plan", name, "--mesh", at_scale.MODELS[name], "--json", str(written)]) == 0
    found, kept = (json.loads(path.read_text()) for path in (written, at_scale.PLANS / f"{name}.json"))
    assert found.pop("versions").keys() == kept.pop("versions").keys()
    assert found == kept, "python tools/at_scale.py --plan"
