"""The site builds, strict; what it has needs no network, and its links lead somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.site.blocks import ROOT

pytest.importorskip("mkdocs")


class Links(HTMLParser):
    """What a page links to, what it fetches, and the names that others may link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        fetched = given.get("href") if tag == "link" and given.get("rel") != "canonical" else given.get("src")
        if fetched:
            self.fetched.append(fetched)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Links]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {path: Links(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_the_site(site):
    assert len(site) > 40
    for path, page in site.items():
        if path.name == "404.html":  # of a server, whose links begin at its root
            continue
        for target in page.fetched:
            parts = urlsplit(target)
            assert not parts.netloc, f"{path.name} fetches {target}"
            assert parts.scheme == "data" or (path.parent / unquote(parts.path)).exists(), target
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme:
                assert parts.scheme in ("https", "mailto"), f"{path.name} links to {target}"
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert file.exists(), f"{path.name} links to {target}"
            if parts.fragment and file in site:
                names = site[file].names | {"__search"}
                assert unquote(parts.fragment) in names, f"{path.name} links to {target}"


@pytest.mark.slow
def test_styles_fetch_nothing(site):
    folder = next(path for path in site if path.name == "404.html").parent
    for path in folder.rglob("*.css"):
        assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//", path.read_text(encoding="utf-8")), path
    assert (folder / "search" / "search_index.js").exists()
