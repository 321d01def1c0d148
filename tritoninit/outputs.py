"""Files that commands write: known beforehand to be writable, replaced only by what is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """What was asked for cannot be done; the message is one line."""


def shown(name: str | Path) -> str:
    """A file's name as a message has it, on one line."""
    text = str(name)
    return text if text and text.isprintable() else repr(text)


def writable(name: str | Path | None) -> Path | None:
    """The file of that name, of which it is known that it can be written; none if none is asked for.

    Raises:
        UsageError: it cannot.
    """
    if name is None:
        return None
    path = Path(name).resolve()  # os.replace would put a file in a symbolic link's place
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{shown(name)} is not a file")
        with _temporary(path) as temporary:
            temporary.touch()
    except OSError as error:
        raise UsageError(f"cannot write {shown(name)}: {error.strerror}") from None
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of ``path`` once it is complete, and never does if it fails."""
    with _temporary(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """The name of a file beside ``path``, which is gone afterwards."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
