"""Files that commands write: known beforehand to be writable, replaced only by what is complete."""

from __future__ import annotations

import errno
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
    try:
        path = Path(name).resolve()  # os.replace would put a file in a symbolic link's place
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not path.exists() or path.is_file():
            with _temporary(path) as temporary:
                temporary.touch()
            return path
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle until Python 3.13; a NUL byte
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition(" from ")[0]
        raise UsageError(f"cannot write {shown(name)}: {reason}") from None
    raise UsageError(f"{shown(name)} is not a file")


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
