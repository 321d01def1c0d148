"""The facts of initializers: none is missing, and what they say is what is drawn."""

import inspect

import numpy as np
import pytest
import torch

import tritoninit as ti
from tritoninit import facts

BY_CODE = {"Recorded"}  # which recordings alone make


def test_every_public_initializer_is_there():
    public = {
        name
        for name in ti.__all__
        if isinstance(thing := getattr(ti, name), type)
        and issubclass(thing, ti.Initializer)
        and not inspect.isabstract(thing)
    }
    assert set(facts.catalogue()) == public - BY_CODE


@pytest.mark.parametrize("name", facts.catalogue())
def test_words(name):
    known = facts.catalogue()[name]
    assert known.summary.endswith("."), "a sentence, for one line of a list"
    assert known.formula or known.group == "Made of others", "a section Formula in its docstring"
    for argument in known.arguments:
        assert argument.text, f"{argument.name} has no line in Args"
    assert type(known.example) is known.kind


@pytest.mark.parametrize("name", facts.catalogue())
def test_rows(name):
    for row in facts.rows(facts.catalogue()[name].example):
        assert row.low is None or row.low <= row.least <= row.greatest <= row.high
        assert row.std is None or row.drawn_std == pytest.approx(row.std, rel=0.15, abs=1e-12)


@pytest.mark.parametrize(
    "fill",
    [ti.Uniform(-1.0, 2.0), ti.Normal(1.0, 0.5), ti.TruncatedNormal(0.0, 1.0, -1.0, 2.0)],
    ids=lambda fill: type(fill).__name__,
)
def test_density_is_that_of_what_is_drawn(fill):
    edges, counts = facts.histogram(facts.drawn(fill, (1 << 16,)), 16)
    x = (edges[1:] + edges[:-1]) / 2
    wanted = facts.density(fill, x) * np.diff(edges) * (1 << 16)
    assert (np.abs(counts - wanted) < 6 * np.sqrt(wanted + 1) + 0.02 * wanted).all()


def test_every_name_of_a_peer_is_found():
    names = [
        f"{each.peer}.{each.name}"
        for known in facts.catalogue().values()
        for each in facts.elsewhere(known.kind)
    ]
    assert len(names) > 50
    for name in names:
        known, made = facts.find(name)
        assert type(made) is known.kind
    assert facts.find("torch.constant_")[1] == ti.Constant(0.5)


def test_a_shape_that_is_not_taken():
    with pytest.raises(ValueError, match="2 dimensions"):
        facts.rows(ti.Eye(), [(3,)])


def test_constants_and_nothing_have_histograms():
    assert facts.histogram(torch.zeros(7), 4).counts.sum() == 7
    assert facts.histogram(torch.empty(0), 4).counts.sum() == 0
