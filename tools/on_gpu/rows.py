"""Files of results: a line of JSON for each row, on disk before the next is measured; and whole documents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, in one write, so that several processes may add to a file."""
    line = (json.dumps(row) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none if there is no file; a line that is no row is left out."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # cut off, where its writer was killed
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def document(path: Path) -> dict[str, Any]:
    """A JSON object in a file, empty if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def replace(path: Path, text: str) -> None:
    """Put a text in a file's place, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
