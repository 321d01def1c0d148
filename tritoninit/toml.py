"""Documents as TOML 1.0: what JSON has, with a table an entry of a list, and no word for null."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
# In a list, and where a dataclass has another default, nothing goes by this.
_NOTHING: Final[Mapping[str, Any]] = {"none": {}}


def dumps(document: Mapping[str, Any]) -> str:
    """A document: of its lists of tables, which come last, an entry is a few lines.

    >>> print(dumps({"version": 1, "rules": [{"for": "*.bias", "set": {"Zeros": {}}}]}))
    version = 1
    <BLANKLINE>
    [[rules]]
    for = "*.bias"
    set = {Zeros = {}}
    <BLANKLINE>
    """
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    tables = {
        k: each for k, each in document.items() if isinstance(each, list) and each and _all_tables(each)
    }
    yield from (f"{_key(k)} = {_value(each)}" for k, each in document.items() if k not in tables)
    for name, entries in tables.items():
        for entry in entries:
            yield from ("", f"[[{_key(name)}]]")
            yield from (f"{_key(k)} = {_value(each)}" for k, each in entry.items())


def _all_tables(entries: Sequence[Any]) -> bool:
    return all(isinstance(each, dict) for each in entries)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    """JSON escapes as TOML does, but for one control character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if value is None:
        return _value(_NOTHING)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return repr(value)  # of floats: nan and inf, too
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(k)} = {_value(each)}' for k, each in value.items())}}}"
    return f"[{', '.join(map(_value, value))}]"


def loads(text: str) -> dict[str, Any]:
    """A document back.

    Raises:
        ValueError: it is no TOML, or too deep.
    """
    try:
        return {k: _given(each) for k, each in tomllib.loads(text).items()}
    except RecursionError as error:
        raise ValueError("the document is too deep") from error


def _given(value: Any) -> Any:
    """With nothing for what stands for that, and numbers that JSON has not by the words that it has there."""
    if value == _NOTHING:
        return None
    if isinstance(value, dict):
        return {k: _given(each) for k, each in value.items()}
    if isinstance(value, list):
        return [_given(each) for each in value]
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value
