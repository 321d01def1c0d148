"""What MkDocs calls: adds the pages that are made, and leads links to files to the pages that these have."""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # MkDocs takes this file by its path

from tools.site import pages  # noqa: E402

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made where the navigation names their folder."""
    config.nav = [_filled(entry) for entry in config.nav or []]
    return config


def _filled(entry: Any) -> Any:
    if isinstance(entry, dict):
        ((title, inside),) = entry.items()
        return {title: pages.NAVIGATION[inside]() if str(inside).endswith("/") else _filled(inside)}
    return [_filled(each) for each in entry] if isinstance(entry, list) else entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, text in pages.made():
        files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is made; links to files of the repository lead to their pages, or are their text alone."""
    for marker, make in pages.FILLED.items():
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return "".join(
        part if is_code else _LINK.sub(lambda link: _led(link, page.file.src_uri, files), part)
        for part, is_code in _parts(markdown)
    )


def _parts(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text, and the blocks of code in it."""
    end = 0
    for fence in _FENCE.finditer(markdown):
        yield markdown[end : fence.start()], False
        yield fence.group(), True
        end = fence.end()
    yield markdown[end:], False


def _led(link: re.Match[str], uri: str, files: Files) -> str:
    text, (target, hash_, anchor) = link["text"], link["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return link.group()
    here = posixpath.dirname(pages.origin(uri))
    path = posixpath.normpath(posixpath.join(here, target))
    found = pages.page_of(path)
    if files.get_file_from_path(found) is None:
        return text if (ROOT / path).exists() else link.group()
    return f"[{text}]({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{hash_}{anchor})"
