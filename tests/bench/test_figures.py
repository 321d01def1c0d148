"""Figures: what is drawn where, colours that light and dark both have, and the same bytes twice."""

import io
import re
import sys
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.bench import made_up
from tritoninit.bench import figures, inspection
from tritoninit.bench.comparison import Panel, compare, telling
from tritoninit.bench.drawing import DARK, LIGHT, STYLES
from tritoninit.bench.figures import spread
from tritoninit.bench.inspection import Prediction
from tritoninit.bench.result_files import read_all
from tritoninit.outputs import UsageError

NORMAL = Panel("normal", "float32")


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A comparison of an H100, for which there is a prediction, and two CPU cores."""
    made = {("normal", "float32"): Prediction(600.0, "memory", 0.7)}
    monkeypatch.setattr(
        inspection, "predictions", lambda machine, memset: made if machine["accelerator"] else {}
    )
    files = made_up.save(tmp_path, h100=made_up.gpu(made_up.H100, 3000.0), epyc=made_up.cpu())
    return compare(read_all(files))


def words(svg):
    """The texts of an SVG."""
    return [element.text.strip() for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def linear(colour):
    """Linear red, green and blue of a colour as #rrggbb (sRGB, IEC 61966-2-1)."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    """As WCAG 2.2 defines it."""
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def lab(rgb):
    """CIELAB of linear sRGB, white at D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = np.cbrt(np.maximum(xyz / [0.95047, 1.0, 1.08883], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(colours):
    """Series are named in their colours: text, which needs 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    faint = {
        name: contrast(colours[name], colours["ground"]) for name in colours if name not in ("ground", "grid")
    }
    assert {name: ratio for name, ratio in faint.items() if ratio < 4.5} == {}


# Linear sRGB as it looks with two kinds of cones: Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
    "all cones": "1 0 0  0 1 0  0 0 1",
    "protanopia": "0.152286 1.052583 -0.204868  0.114503 0.786281 0.099216  -0.003882 -0.048116 1.051998",
    "deuteranopia": "0.367322 0.860646 -0.227968  0.280085 0.672501 0.047413  -0.01182 0.04294 0.968881",
    "tritanopia": "1.255528 -0.076749 -0.178779  -0.078411 0.930809 0.147602  0.004733 0.691367 0.3039",
}
TOGETHER = {
    "nvidia": ("triton", "torch", "curand-device", "cupy-philox", "cupy-xorwow", "flag-gems", "jax"),
    "amd": ("triton", "torch", "rocrand-philox", "rocrand-xorwow", "flag-gems", "jax"),
    "cpu": ("numba", "numpy", "torch", "numpy-generator", "numpy-sfc64", "numpy-philox", "jax"),
}


@pytest.mark.parametrize("matrix", VISION.values(), ids=VISION)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_contenders_in_one_panel_look_different(names, colours, matrix):
    """Markers differ, and colours by 10 in CIELAB, four times the least noticed (2.3: Mahy et al. 1994)."""
    assert len({STYLES[name].marker for name in names}) == len(names)
    cones = np.array(matrix.split(), dtype=float).reshape(3, 3)
    seen = [lab(np.clip(cones @ linear(colours[STYLES[name].colour]), 0, 1)) for name in names]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 10


class TestThroughput:
    def test_words(self, found):
        texts = words(figures.throughput_svg(found, NORMAL, 0))
        assert texts[:8] == ["2¹⁰", "2¹⁴", "2¹⁸", "2²²", "2²⁶", "2³⁰", "elements", "0.1"]
        assert texts[-1] == "H100 80GB HBM3"
        contenders = {"triton", "torch", "cupy-philox", "cupy-xorwow", "jax", "memset", "predicted", "GS/s"}
        assert contenders <= set(texts)

    def test_lines_are_the_measurements(self, found):
        axes = Figure().add_subplot()
        figures._draw_throughput(axes, found, NORMAL, 1, "")
        assert max(y for line in axes.lines for y in line.get_ydata()) == pytest.approx(
            2.0
        )  # memset: 8 GB/s of 4 bytes each
        numba = next(line for line in axes.lines if line.get_color() == LIGHT["ours"])
        assert list(numba.get_xdata()) == [2**10, 2**20]
        assert list(numba.get_ydata()) == pytest.approx([1.0, 1.0])
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")

    def test_panels_side_by_side_have_one_scale(self, found):
        limits = []
        for column in range(2):
            axes = Figure().add_subplot()
            figures._draw_throughput(axes, found, NORMAL, column, "")
            limits.append((axes.get_xlim(), axes.get_ylim()))
        assert limits[0] == limits[1]

    def test_machine_that_was_not_measured(self, found):
        assert "not measured" in words(figures.throughput_svg(found, Panel("uniform", "float32"), 1))

    @pytest.mark.parametrize("heights", [[0.1, 0.5], [0.5] * 5, [0.9, 0.95, 0.96, 1.2], []])
    def test_names_are_apart(self, heights):
        found = spread(heights, 0.1)
        assert all(b - a > 0.0999 for a, b in pairwise(found))
        assert all(height <= 0.96 for height in found)


class TestShares:
    def test_words(self, found):
        wide, narrow = map(words, figures.shares_svgs(found))
        names = ["uniform, float32", "normal, float32", "truncated normal, float32"]
        assert [text for text in wide if text.endswith("float32")] == names
        assert "truncated normal, bfloat16" in narrow
        # 0.75 of memset, half of that for truncated normals, and the CPU's 0.5.
        assert [text for text in wide if text in ("75%", "50%", "38%")] == ["75%", "75%", "50%", "38%"]
        assert [text for text in wide if "or" in text.split()] == ["triton or numba"]
        assert {"torch", "predicted"} <= set(wide)
        assert "predicted" not in narrow
        assert (wide.count("AMD EPYC, 2 cores"), narrow.count("AMD EPYC, 2 cores")) == (1, 0)

    def test_two_results_of_one_machine_read_differently(self, tmp_path):
        """Both were cut to "AMD EPYC, 2 cores (epyc…"."""
        names = {f"epyc-2-core-{word}": made_up.cpu() for word in ("monday", "friday")}
        two = compare(read_all(made_up.save(tmp_path, **names)))
        for svg in (*figures.shares_svgs(two), figures.throughput_svg(two, NORMAL, 0)):
            labels = [text for text in words(svg) if text.startswith("AMD")]
            assert labels
            assert len(set(labels)) == len(labels)
            assert all(text.endswith(("monday)", "friday)")) for text in labels)

    def test_bars(self, found):
        groups = dict(figures._shares(found))
        h100, epyc = groups[NORMAL]
        assert (h100.contender, h100.ours, h100.torch) == ("triton", 0.75, 0.25)
        assert h100.predicted == pytest.approx(600 * 4 / 3000)  # of memset's 3000 GB/s
        assert (epyc.contender, epyc.ours, epyc.torch, epyc.predicted) == ("numba", 0.5, 0.125, None)

    @pytest.mark.parametrize(
        ("lacking", "elements", "torch"),
        [
            ({}, 2**20, 0.125),
            ({"torch_ratio": 2**20}, 2**10, 0.25),
            ({"memset_fraction": 2**20}, 2**10, 0.25),
            ({"torch_ratio": None}, 2**20, None),
            ({"torch_ratio": None, "memset_fraction": 2**20}, 2**10, None),
        ],
    )
    def test_largest_fill_that_torch_and_memset_made_too(self, tmp_path, lacking, elements, torch):
        """``lacking`` is at what number of elements a ratio was not measured, None at any."""
        document = made_up.cpu()
        for row in document["benchmarks"]:
            info = row["extra_info"]
            if info["elements"] == 2**10 and info["contender"] == "torch":
                info["memset_fraction"] = 0.25
            for name, where in lacking.items():
                if info["elements"] == (where or info["elements"]):
                    info[name] = None
        if "torch_ratio" in lacking:  # then there is no row of torch's either
            document["benchmarks"] = [
                row
                for row in document["benchmarks"]
                if row["extra_info"]["contender"] != "torch" or row["extra_info"]["torch_ratio"] is not None
            ]
        found = compare(read_all(made_up.save(tmp_path, some=document)))
        assert telling(found, NORMAL, 0).elements == elements
        (bar,) = dict(figures._shares(found))[NORMAL]
        assert (bar.ours, bar.torch) == (0.5, torch)
        assert "at the largest size that torch filled too" in figures.shares_svgs(found)[0]

    def test_disturbed_memset_leaves_others_room(self):
        bars = [figures._Bar("", "numba", share, None, None) for share in (0.5, 300.0)]
        assert figures._reach([(NORMAL, bars)]) == 1.5
        assert figures._reach([(NORMAL, bars[:1])]) == 1.0

    def test_no_memset(self, found, tmp_path):
        document = made_up.cpu()
        for row in document["benchmarks"]:
            row["extra_info"]["memset_fraction"] = None
        bare = compare(read_all(made_up.save(tmp_path, bare=document)))
        assert figures.shares_svgs(bare) == []
        assert figures.png(bare).startswith(b"\x89PNG")


class TestSvg:
    @pytest.fixture
    def svgs(self, found):
        return [figures.throughput_svg(found, NORMAL, i) for i in range(2)] + figures.shares_svgs(found)

    def test_labels_of_axes_fit(self, found, monkeypatch):
        """In matplotlib's own font, which is wider than those of pages."""
        drawn = []
        monkeypatch.setattr(figures, "as_svg", lambda figure, description: drawn.append(figure) or "")
        figures.shares_svgs(found)
        figures.throughput_svg(found, NORMAL, 0)
        for figure in drawn:
            figure.draw_without_rendering()
            for label in (figure.axes[0].xaxis.label, figure.axes[0].yaxis.label):
                if not label.get_text():
                    continue
                extent = label.get_window_extent()
                assert figure.bbox.x0 <= extent.x0, label
                assert extent.x1 <= figure.bbox.x1, label
        assert len(drawn) > 1

    def test_no_colour_but_variables(self, svgs):
        for svg in svgs:
            styles = " ".join(re.findall(r'(?:style|fill|stroke)="([^"]*)"', svg))
            colours = set(re.findall(r"(?:fill|stroke|color): *([^;\" ]+)", styles))
            assert colours <= {"none"} | {f"var(--{name})" for name in LIGHT}
            assert not re.search(
                r"#[0-9a-fA-F]{3,8}\b(?!\")", re.sub(r'(?:url\(#\w+\)|href="#\w+")', "", svg)
            )
            assert {"var(--ours)", "var(--torch)", "var(--ink)"} <= colours

    def test_nothing_from_elsewhere(self, svgs):
        for svg in svgs:
            references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', svg)
            assert references
            assert all((a or b).startswith("#") for a, b in references)
            assert set(re.findall(r"https?://[^\"' ]*", svg)) <= {"http://www.w3.org/1999/xlink"}
            assert "font-family" not in svg

    def test_ids_are_a_page_apart(self, svgs):
        ids = [name for svg in svgs for name in re.findall(r'\bid="([^"]*)"', svg)]
        assert ids
        assert len(ids) == len(set(ids))
        for svg in svgs:
            own = set(re.findall(r'\bid="([^"]*)"', svg))
            assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)) <= {
                pair for name in own for pair in ((name, ""), ("", name))
            }

    def test_says_what_it_shows(self, svgs):
        label = "normal, float32 on H100 80GB HBM3: elements a second against size, a line a contender"
        root = ET.fromstring(svgs[0])
        assert (root.get("role"), root.get("aria-label")) == ("img", label)

    def test_same_twice(self, found, svgs):
        assert figures.throughput_svg(found, NORMAL, 0) == svgs[0]
        assert figures.shares_svgs(found) == svgs[2:]

    def test_names_are_text(self, tmp_path):
        odd = made_up.cpu()
        odd["machine_info"]["cpu"] = {"brand_raw": '<b>"$x$&', "count": None}
        found = compare(read_all(made_up.save(tmp_path, odd=odd, h100=made_up.gpu(made_up.H100, 3000.0))))
        svg = figures.throughput_svg(found, NORMAL, 0)
        assert words(svg)[-1] == '<b>"$x$&'
        assert ET.fromstring(svg).get("aria-label").startswith('normal, float32 on <b>"$x$&:')

    def test_one_machine_needs_no_name(self, found):
        only = compare(found.results[:1])
        assert words(figures.throughput_svg(only, NORMAL, 0))[-1] == "normal, float32"


class TestPng:
    def test_size(self, found):
        picture = matplotlib.image.imread(io.BytesIO(figures.png(found)))
        height, width, _ = picture.shape
        # Two machines side by side, six distributions and dtypes below each other and the shares, at 160 dpi.
        assert width == round(2 * figures._PANEL[0] * 160)
        assert height > 6 * figures._PANEL[1] * 160

    def test_one_machine_has_its_dtypes_side_by_side(self, found, tmp_path):
        only = compare(read_all(made_up.save(tmp_path, only=made_up.gpu(made_up.MI300, 4000.0))))
        assert [[str(panel) for panel, _ in row] for row in figures._grid(only)] == [
            ["uniform, float32", "uniform, bfloat16"],
            ["normal, float32", "normal, bfloat16"],
            ["truncated normal, float32", "truncated normal, bfloat16"],
        ]
        assert [[column for _, column in row] for row in figures._grid(found)] == [[0, 1]] * 6

    def test_same_twice(self, found):
        assert figures.png(found) == figures.png(found)

    def test_nothing_to_draw(self, found):
        with pytest.raises(UsageError, match=r"^nothing to draw: no fill was measured$"):
            figures.png(compare(found.results, "python"))

    def test_no_matplotlib(self, found, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        for draw in (figures.png, figures.shares_svgs):
            with pytest.raises(UsageError, match=r"^figures need matplotlib: pip install matplotlib$"):
                draw(found)
