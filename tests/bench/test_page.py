"""The page: what it says, that nothing in it comes from elsewhere, and how it behaves in a browser."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from tests.bench import made_up
from tritoninit.bench import device, drawing, inspection, page
from tritoninit.bench.comparison import compare
from tritoninit.bench.inspection import Prediction
from tritoninit.bench.result_files import read_all
from tritoninit.commands.compare import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "input", "path", "use", "rect", "br"}


class Outline(HTMLParser):
    """Tags, attributes and texts of a page; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(autouse=True, scope="module")
def predictions():
    """Made up, for a GPU alone."""
    made = {("normal", "float32"): Prediction(600.0, "memory", 0.8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            inspection, "predictions", lambda machine, memset: made if machine["accelerator"] else {}
        )
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return made_up.save(folder, h100=made_up.gpu(made_up.H100, 3000.0), epyc=made_up.cpu())


@pytest.fixture(scope="module")
def html(files, predictions):
    return page.html(compare(read_all(files)))


class TestContent:
    def test_outline(self, html):
        outline = Outline(html)
        assert outline.all("html") == [{"lang": "en"}]
        assert "tritoninit on H100 80GB HBM3, AMD EPYC, 2 cores" in outline.texts
        assert [tag for tag, _ in outline.tags].count("h1") == 1
        sections = [attributes["id"] for attributes in outline.all("section")]
        assert sections == [
            *("glance", "share", "throughput", "predicted", "tables", "machines", "protocol"),
        ]
        links = [attributes["href"] for attributes in outline.all("a")]
        assert links == [f"#{name}" for name in sections]
        drawings = [attributes["aria-label"] for attributes in outline.all("svg")]
        assert len(drawings) == len(set(drawings)) == 3 + 2 + 6 * 2
        ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
        assert len(ids) == len(set(ids))

    def test_nothing_from_elsewhere(self, html):
        outline = Outline(html)
        for tag, attributes in outline.tags:
            assert tag not in ("link", "img", "iframe", "object", "base")
            assert not {"src", "srcset", "data", "action", "onclick"} & set(attributes)
            for name in ("href", "xlink:href"):
                assert attributes.get(name, "#").startswith("#")
        assert set(re.findall(r"https?://[^\"'<> ]*", html)) <= {"http://www.w3.org/1999/xlink"}
        assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", html)
        (policy,) = (m["content"] for m in outline.all("meta") if "http-equiv" in m)
        assert policy.startswith("default-src 'none';")

    def test_cells_hold_all_digits(self, html, files):
        row = next(r for r in read_all(files)[0].rows if r.kind == "model" and r.default)
        assert f'data-value="{row.median * 1e3!r}">0.332</td>' in html

    def test_card_has_the_size_that_torch_filled(self, tmp_path):
        document = made_up.gpu(made_up.H100, 3000.0)
        for row in document["benchmarks"]:
            if row["extra_info"]["elements"] == 2**30:
                row["extra_info"]["torch_ratio"] = None
        html = page.html(compare(read_all(made_up.save(tmp_path, some=document))))
        assert "<p>75% of memset, 3\N{MULTIPLICATION SIGN} torch</p>" in html
        assert '<p class="note">normal, float32, 2<sup>20</sup> elements, triton</p>' in html

    def test_claims_no_more_than_is_checked(self, html):
        """Not every value has a reference, nor every rate a source."""
        text = " ".join(" ".join(Outline(html).texts).split())
        assert "fills, calls and models were compared with the reference bit for bit" in text
        assert "both ends" in text
        assert "of a process's start at most the sum of a fill's bits" in text
        assert "one is assumed: more than 100% says that it is higher" in text
        assert f"kernels as Triton {inspection.stored()['triton']} compiles them" in text

    def test_odd_file_name(self, tmp_path):
        path = tmp_path / "a\udcff.json"
        path.write_text(json.dumps(made_up.cpu()))
        out = tmp_path / "page.html"
        assert run([path], html=out) == 0
        assert "'a\\udcff.json'" in Outline(out.read_text(encoding="utf-8")).texts

    def test_machines(self, html):
        texts = Outline(html).texts
        for word in ("sm_90", "80 GiB", "1,980 MHz", "0123456789ab, changed", "h100.json", "3.12.1"):
            assert word in texts
        assert "ROCm" not in texts  # neither machine has one

    def test_protocol_is_the_one_of_the_clock(self, html):
        text = " ".join(" ".join(Outline(html).texts).split())
        last = (device.__doc__ or "").strip().splitlines()[-1]
        assert last in text
        assert html.count("<li>") == (device.__doc__ or "").count("\n- ")
        assert "``" not in html

    def test_same_twice(self, html, files):
        assert page.html(compare(read_all(files))) == html

    def test_names_are_text(self, tmp_path):
        attack = '<script>alert("1")</script>&amp;'
        odd = made_up.cpu()
        odd["machine_info"]["cpu"]["brand_raw"] = attack
        odd["machine_info"]["torch"] = attack
        odd["commit_info"]["id"] = "<b>"
        for row in odd["benchmarks"]:
            if row["extra_info"]["kind"] == "model":
                row["extra_info"]["subject"] = row["extra_info"]["dtype"] = attack
            if row["extra_info"]["contender"] == "numba":
                row["extra_info"]["contender"] = attack
        outline = Outline(page.html(compare(read_all(made_up.save(tmp_path, odd=odd)))))
        assert len(outline.all("script")) == 1
        assert not outline.all("b")
        assert attack in outline.texts
        assert f"{attack}, 2 cores" in outline.texts

    def test_one_machine(self, files):
        outline = Outline(page.html(compare(read_all(files[1:]))))
        drawings = [attributes["aria-label"] for attributes in outline.all("svg")]
        assert len(drawings) == 2
        assert "normal, float32" in outline.texts

    def test_without_fills(self, files):
        html = page.html(compare(read_all(files), "python"))
        ids = [attributes["id"] for attributes in Outline(html).all("section")]
        assert ids == ["predicted", "tables", "machines", "protocol"]

    def test_modes_have_every_colour(self, html):
        light, dark = html.split("@media (prefers-color-scheme: dark)", 1)
        dark = dark[: dark.index("}")]
        used = set(re.findall(r"var\(--([\w-]+)\)", html))
        assert used == {*drawing.LIGHT, "raised"} - (
            {"jax", *(f"other{k}" for k in ("", "-2", "-3", "-4"))} - used
        )
        assert all(f"--{name}: #" in light and f"--{name}: #" in dark for name in used)


# What a reader would do, and what is then on the page.
SCRIPT = """
const table = document.querySelector("table.sortable");
const least = (chosen, measure) => Math.min(...[...document.querySelectorAll(chosen)].map(measure));
const shown = () => [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
const buttons = [...table.querySelectorAll("button")];
const press = (name, index = 0) => {
  const button = buttons.filter((each) => each.textContent === name)[index];
  button.focus();
  if (document.activeElement !== button) throw new Error("no focus");
  button.click();
  const header = button.closest("th");
  return { order: shown(), sort: header.getAttribute("aria-sort"),
           sorted: table.querySelectorAll("th[aria-sort]").length };
};
const search = document.querySelector("input");
const result = {
  before: shown(),
  up: press("GS/s"), down: press("GS/s"),
  size: press("elements"), names: press("distribution"),
  width: document.documentElement.scrollWidth, room: innerWidth,
  scroll: [...document.querySelectorAll(".scroll")].map((each) => each.scrollWidth > each.clientWidth),
  text: least("td, th, p, li", (each) => parseFloat(getComputedStyle(each).fontSize)),
  drawn: least("svg text", (each) => each.getBoundingClientRect().height),
  requests: performance.getEntriesByType("resource").length,
};
search.value = "TRUNCATED  bfloat16";
search.dispatchEvent(new Event("input"));
result.found = [...table.tBodies[0].rows].filter((row) => row.offsetHeight > 0).length;
result.label = search.closest("label").offsetHeight > 0;
"""


def chromium(tmp_path, file, *options):
    """Standard output of a headless browser that has opened ``file``."""
    quiet = (
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    )
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", *quiet),
        *(f"--user-data-dir={tmp_path / 'profile'}", *options, file.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def looked_at(tmp_path, html, width):
    """What ``SCRIPT`` found on the page, shown ``width`` pixels wide.

    In a frame: a window of Chromium's is 500 pixels wide at least.
    """
    script = f"{SCRIPT}parent.postMessage(JSON.stringify(result), '*');"
    inner, outer = tmp_path / "inner.html", tmp_path / "outer.html"
    inner.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    outer.write_text(
        "<pre></pre><script>onmessage = (e) => document.querySelector('pre').textContent = e.data</script>"
        f'<iframe src="inner.html" width="{width}" height="800" style="border: 0"></iframe>'
    )
    # The clock of the page runs ahead while nothing is left to load, so that this takes no 5 seconds.
    dom = chromium(tmp_path, outer, "--dump-dom", "--virtual-time-budget=5000", "--window-size=1400,900")
    (found,) = re.findall(r"<pre>(.*?)</pre>", dom, flags=re.DOTALL)
    return json.loads(unescape(found))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
class TestBrowser:
    def test_sort_and_filter(self, tmp_path, html):
        found = looked_at(tmp_path, html, 1280)
        speeds = {name: [row[4] for row in found[name]["order"]] for name in ("up", "down")}
        measured = sum(row[4] != "-" for row in found["before"])
        assert 0 < measured < len(found["before"])
        for name, values in speeds.items():
            assert set(values[measured:]) == {"-"}, name
            assert "-" not in values[:measured]
        assert [found[name]["sort"] for name in ("up", "down")] == ["ascending", "descending"]
        up, down = ([float(value.replace(",", "")) for value in speeds[name][:measured]] for name in speeds)
        assert up == sorted(up) != sorted(up, key=str)
        assert down == up[::-1]
        assert [found[name]["sorted"] for name in ("up", "down", "size", "names")] == [1] * 4
        assert sorted(map(tuple, found["up"]["order"])) == sorted(map(tuple, found["before"]))
        sizes = [row[2] for row in found["size"]["order"]]
        assert sizes == sorted(sizes, key=lambda power: int(power[1:]))  # 2<sup>10</sup> reads as 210
        # Equal names stay by size, as they were before.
        order = [(row[0], int(row[2][1:])) for row in found["names"]["order"]]
        assert order == sorted(order)
        assert (found["found"], found["label"]) == (2, True)  # of three sizes, one stays in the cache
        assert found["requests"] == 0

    @pytest.mark.parametrize("width", [360, 1280, pytest.param(768, marks=pytest.mark.slow)])  # both ends
    def test_fits(self, tmp_path, html, width):
        found = looked_at(tmp_path, html, width)
        assert found["room"] == width
        assert found["width"] <= width
        assert found["scroll"][1] == (width < 1280)  # what is too wide is a table, which scrolls in its frame
        assert found["text"] >= 14
        assert found["drawn"] >= 10

    @pytest.mark.parametrize(
        ("scheme", "mode"),
        [
            pytest.param(0, drawing.DARK, id="dark"),  # what a browser shows only where it is asked to
            pytest.param(1, drawing.LIGHT, id="light", marks=pytest.mark.slow),
        ],
    )
    def test_screenshot(self, tmp_path, files, scheme, mode):
        """Both modes: the ground has its colour, and each series of the first panel shows in its own."""
        out, picture = tmp_path / "page.html", tmp_path / "page.png"
        run(files, html=out)
        setting = f"--blink-settings=preferredColorScheme={scheme}"
        chromium(tmp_path, out, f"--screenshot={picture}", "--window-size=1280,2400", setting)
        pixels = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(int)
        assert pixels.shape == (2400, 1280, 3)

        def area(name):
            colour = [int(mode[name][i : i + 2], 16) for i in (1, 3, 5)]
            return int((np.abs(pixels - colour).max(axis=2) <= 2).sum())  # colours are rounded on their way

        assert area("ground") > 0.7 * 1280 * 2400
        areas = {name: area(name) for name in ("ink", "ours", "torch", "jax", "other", "other-2")}
        assert {name: n for name, n in areas.items() if n < 50} == {}
