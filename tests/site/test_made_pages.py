"""What the site makes: formulas, drawings, a page for each initializer, the commands, links to files."""

import re
import sys
from xml.etree import ElementTree

import pytest

from tests.site.blocks import DOCS, ROOT
from tritoninit import facts

pytest.importorskip("matplotlib")
from tools.site import command_line, figures, formula, initializers

DRAWINGS = re.compile(r"<svg.*?</svg>", re.DOTALL)


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("a / b c", r"\dfrac{a}{b}\, c"),
        ("(a + b) / (2 c)", r"\dfrac{a + b}{2\, c}".replace("{a + b}", r"{\left(a + b\right)}")),
        ("fan_in", r"\mathrm{fan}_{\mathrm{in}}"),
        ("sqrt(6 / x)", r"\sqrt{\dfrac{6}{x}}"),
        ("w[i, j] = -x**2", r"w_{i ,\, j} = -x^{2}"),
        ("Q**T Q = I", r"Q^{T}\, Q = I"),
        ("floor(u) < tan(a)", r"\lfloor u \rfloor < \tan\left(a\right)"),
        ("x ~ N(0, s**2)", r"x \sim \mathcal{N}\left(0 ,\, s^{2}\right)"),
    ],
)
def test_formula(text, tex):
    assert formula.as_tex(text) == tex
    assert ElementTree.fromstring(formula.as_svg(text)).get("aria-label") == text


@pytest.mark.parametrize("text", ["a +", "(a", "a )", "$", "w[i"])
def test_no_formula(text):
    with pytest.raises(ValueError, match=r"ends early|wanted|no formula"):
        formula.as_tex(text)


QUICK = ("KaimingUniform", "Orthogonal", "STFT")  # of each kind of picture one


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in facts.catalogue()]
)
def test_page_of_an_initializer(name):
    known = facts.catalogue()[name]
    page = initializers.page(known)
    assert page.startswith(f"# {name}\n")
    for drawing in DRAWINGS.findall(page):
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing
    assert ("| from | to | mean | variance |" in page) == bool([*initializers._law(known)])
    assert "\n\n" not in "".join(DRAWINGS.findall(page))
    assert not re.search(r":\w+:`|``", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    names = {}
    exec("\n".join(initializers.example(known)), names)
    assert names["initializer"] == known.example or name == "Value"
    for target in re.findall(r"\]\(([\w/.]+)(?:#\S+)?\)", page):
        assert (DOCS / "initializers" / target).exists() or target.removesuffix(".md") in facts.catalogue()


def test_laws():
    """Of what has one, with the words for what has no mean and no end."""
    *_, row, _ = initializers._law(facts.catalogue()["Cauchy"])
    minus, infinity = "\N{MINUS SIGN}", "\N{INFINITY}"
    wanted = [f"{minus}{infinity}", infinity, "none", "none", f"{minus}6.314", f"{minus}1", "0", "1", "6.314"]
    assert row.strip("| ").split(" | ") == wanted
    *_, row, _ = initializers._law(facts.catalogue()["Permutation"])
    assert row.startswith("| 0 | 767 | 383.5 | 4.915e4 |")
    assert not [*initializers._law(facts.catalogue()["Orthogonal"])]


@pytest.mark.slow  # all the pictures
def test_cards():
    cards = initializers.cards()
    for known in facts.catalogue().values():
        assert f"({known.name}.md)" in cards
    assert "](" not in re.sub(r"\]\(\w+\.md\)\{ \.ti-card \}", "", cards)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]), (0.0, 9.0, [0, 2, 4, 6, 8])]
)
def test_ticks(low, high, expected):
    assert figures.ticks(low, high) == pytest.approx(expected)


def test_commands():
    text = command_line.commands()
    for name in ("init", "plan", "catalogue", "info", "check", "bench", "compare", "inspect"):
        assert f"## tritoninit {name}\n" in text
    assert "| `--shape N,...` |" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="what builds the site has dropped 3.10")
def test_links_to_files_lead_to_their_pages():
    hooks = pytest.importorskip("tools.site.hooks")
    link = hooks._LINK.search

    class Files:
        def get_file_from_path(self, path):
            return path if path in ("stream.md", "examples/train_mlp.md", "sharded.md", "index.md") else None

    for page, written, led in [
        ("bits.md", "[s](../tritoninit/kernels/README.md#words)", "[s](stream.md#words)"),
        ("meta.md", "[e](../examples/train_mlp.py)", "[e](examples/train_mlp.md)"),
        ("stream.md", "[r](reference.py)", "r"),
        ("contributing.md", "[d](docs/sharded.md)", "[d](sharded.md)"),
        ("reference/index.md", "[up](../sharded.md)", "[up](../sharded.md)"),
        ("bits.md", "[out](https://a.example/b)", "[out](https://a.example/b)"),
        ("bits.md", "[nowhere](nowhere.md)", "[nowhere](nowhere.md)"),
    ]:
        assert hooks._led(link(written), page, Files()) == led
    assert (ROOT / "mkdocs.yml").exists()


def test_signs_of_markdown_in_docstrings_mean_themselves():
    docstrings = pytest.importorskip("tools.site.docstrings")
    line = docstrings._line("a**2 in [0, 1), ``x**2``", None, {})
    assert line == r"a\*\*2 in \[0, 1), ``x**2``"
    example = ["Words.", "", "  >>> a[0]**2", "  4", "", "a[0]"]
    assert [*docstrings._lines(example, None, {})] == [
        *("Words.", "", "  ```pycon", "  >>> a[0]**2", "  4", "  ```", "", r"a\[0\]", ""),
    ]
