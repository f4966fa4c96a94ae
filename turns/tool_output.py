"""A tool's output as JSON data, however the tool gave it: text, JSON in text, a dataclass, a model, an MCP answer."""

import json
import reprlib
from typing import Any

from pydantic_core import from_json, to_json

MAX_DEPTH = 100  # of lists in lists: what can be read here may be too deep for whoever writes it elsewhere


def json_for_model(data: object) -> str:
    """Return JSON for a model to read: as \\u1234 a text would cost it more, and confuse small ones."""
    return json.dumps(data, ensure_ascii=False)


def as_json(output: object) -> Any:
    """Return JSON data that any browser can read, and that can be stored as UTF-8."""
    if isinstance(output, str):
        return _structured(output)
    try:
        value = _parsed(to_json(output, fallback=str, inf_nan_mode="null"))  # dataclasses, models, times, sets
    except (ValueError, RecursionError):  # it holds itself, is too deep, or has bytes that are no text
        return mended(reprlib.repr(output))
    match value:
        case {"type": "text", "text": str(text)}:  # how the tools of MCP servers answer
            return _structured(text)
    return value


def _structured(text: str) -> Any:
    """Return the object or the list that a text is the JSON of, or the text: "3.10" may be a version."""
    if not text.lstrip().startswith(("{", "[")):
        return mended(text)
    try:
        return _parsed(text.encode())
    except ValueError:
        return mended(text)


def _parsed(text: bytes) -> Any:
    """Return the data in JSON. Raises `ValueError` for what other programs might not be able to read or write."""
    value = from_json(text, allow_inf_nan=False)  # it refuses half a surrogate pair, too, and 200 lists in each other
    json.dumps(value, allow_nan=False)  # as 1e400 has become infinite
    if _depth(value) > MAX_DEPTH:
        raise ValueError("it is too deep")
    return value


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)


def mended(text: str) -> str:
    """Put halves of surrogate pairs together, and something visible in the place of one that is alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
