"""Compiled kernels on disk, where numba keeps its own: one file each, known to be whole before it is read.

numba's cache unpickles whatever it finds, so that a file that was cut short (a full disk, a killed process)
stops every later process, and it runs machine code in which a bit has changed. Here a file begins with a
digest, and what is not as it was written is as none: compiled again, and written anew where that can be.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

_DIGEST = hashlib.sha256


class KernelCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """What a dispatcher of numba's asks for compiled code, and hands it to.

    Raises:
        RuntimeError, OSError: numba finds no folder that it can write.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._kept = True

    @property
    def cache_path(self) -> str | None:
        """The folder; None if it does not take the kernel."""
        return self._cache_path if self._kept else None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for a signature; None if there is none that is whole."""
        target_context.refresh()
        path, written_by = self._place(sig, target_context.codegen())
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError:
            return None
        size = _DIGEST().digest_size
        data = content[size:]
        if content[:size] != _DIGEST(written_by + data).digest():
            return None
        try:
            return self._impl.rebuild(target_context, pickle.loads(data))
        except Exception:  # noqa: BLE001 - nothing is lost but time
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, if that can be."""
        path, written_by = self._place(sig, data.codegen)
        content = dumps(self._impl.reduce(data))
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.tmp")  # several processes may write
        try:
            self._impl.locator.ensure_cache_path()
            try:
                temporary.write_bytes(_DIGEST(written_by + content).digest() + content)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError:
            self._kept = False

    def _place(self, sig: Any, codegen: Any) -> tuple[Path, bytes]:
        """The file for a signature and a processor, and all that what is in it depends on."""
        key = self._index_key(sig, codegen)
        written_by = repr(
            (key, self._impl.locator.get_source_stamp(), numba.__version__, llvmlite.__version__)
        )
        name = f"{self._impl.filename_base}.{_DIGEST(repr(key[:2]).encode()).hexdigest()[:16]}.nbc"
        return Path(self._cache_path, name), written_by.encode()
