"""Models that nobody here wrote, as they come: a sample of tools/sweep.py's, and all of them, slowly."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tools import sweep

pytest.importorskip("transformers")
from tools.sweep_models import PACKAGES

RESULTS = json.loads((Path(__file__).parents[1] / "docs" / "models.json").read_text())

# Norms of their own that start from one, or from zero for 1 + w; experts and routers; A_log and dt_bias; class, mask and
# position tokens; layer scales; weight_norm; relative positions; parameters of the whole model.
SAMPLE = {
    "transformers": (*("albert", "apertus"),),
}


@pytest.mark.filterwarnings("ignore")  # of the packages' own
@pytest.mark.parametrize(("package", "name"), [(p, n) for p, names in SAMPLE.items() for n in names])
def test_a_sample(package, name):
    builds = dict(PACKAGES[package]())
    assert sweep.outcome(builds[name])[0] == "right"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", RESULTS)
def test_the_whole_sweep(package):
    """No fewer are right than the page says, of those that are installed."""
    found = {name: told["outcome"] for _, name, told in sweep.sweep([package], "")}
    if not found:
        pytest.skip(f"{package} is not installed")
    before = {name: told["outcome"] for name, told in RESULTS[package]["models"].items()}
    worse = [n for n, was in before.items() if was.startswith("right") and found.get(n, was) in sweep.REFUSED]
    assert not worse
    assert not Counter(found.values())["wrong"]


def test_the_page_is_the_results():
    assert sweep.PAGE.read_text() == sweep.page(RESULTS)
