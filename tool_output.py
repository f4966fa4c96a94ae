"""A tool's output as JSON data, however the tool gave it: text, JSON in text, a dataclass, a model, an MCP answer."""

import json
import reprlib
from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

MAX_DEPTH = 100  # of lists in lists: what json.loads takes here may be too deep for whoever writes it elsewhere


def as_json(output: object) -> Any:
    """Return JSON data that any browser can read, and that can be stored as UTF-8."""
    if isinstance(output, str):
        return _structured(output)
    try:
        value = json.loads(to_json(output, fallback=str, inf_nan_mode="null"))  # dataclasses, models, times, sets
    except (ValueError, RecursionError):  # it holds itself, is too deep, or has bytes that are no text
        return mended(reprlib.repr(output))
    match value:
        case {"type": "text", "text": str(text)}:  # how the tools of MCP servers answer
            return _structured(text)
        case _:
            return mended(reprlib.repr(output)) if _is_deep(value) else value


def _structured(text: str) -> Any:
    """Return the object or the list that a text is the JSON of, or the text: "3.10" may be a version."""
    if not text.lstrip().startswith(("{", "[")):
        return mended(text)
    try:
        value = json.loads(text)
        # Python reads NaN, 1e400 and half a surrogate pair, and no browser reads what it then writes.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        return mended(text) if _is_deep(value) else value
    except (ValueError, RecursionError):
        return mended(text)


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth < MAX_DEPTH:
        level, depth = [child for thing in level for child in _children(thing)], depth + 1
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    match value:
        case list():
            return value
        case dict():
            return value.values()
    return ()


def mended(text: str) -> str:
    """Put halves of surrogate pairs together, and something visible in the place of one that is alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
