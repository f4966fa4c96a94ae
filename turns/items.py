"""What the items of a run hold: calls, those of tools that the provider runs itself too, and citations.

An item is an object of the SDK's, or a dict, where it has no class for what a provider sends.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from todochat.events import Citation, ToolCall
from todochat.turns.tool_output import as_json, mended

# Of these calls the SDK runs the tool, and refuses one without a `call_id`.
_RUN_HERE = (
    "function_call",
    "custom_tool_call",
    "computer_call",
    "shell_call",
    "local_shell_call",
    "apply_patch_call",
)


def field_of(item: object, name: str) -> Any:
    """Return a field of an item, None if it has none."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def is_hosted(item: object) -> bool:
    """Return whether this is a call of one of the provider's own tools, which has run over there already."""
    kind = str(field_of(item, "type"))
    return kind.endswith("_call") and kind not in _RUN_HERE and not field_of(item, "call_id")


def call_in(item: object) -> ToolCall:
    """Return the call of a tool."""
    call_id = field_of(item, "call_id") or field_of(item, "id")
    name = field_of(item, "name") or field_of(item, "type")  # most of the provider's own tools have no name ...
    arguments = field_of(item, "arguments") or field_of(item, "action") or "{}"  # ... and some have an action
    call: ToolCall = {"type": "tool_call", "id": str(call_id), "name": str(name), "args": as_json(arguments)}
    state = as_json(json.dumps(field_of(item, "provider_data")))  # that puts halves of surrogate pairs together
    if isinstance(state, dict) and "from" in state:
        call["state"] = state
    return call


def hosted_result(item: object) -> Any:
    """Return what has come of a call of one of the provider's own tools, as JSON data."""
    output = field_of(item, "output") or field_of(item, "error")
    return as_json(output or {"status": field_of(item, "status") or "completed"})


def citations_in(annotations: Iterable[object]) -> Iterator[tuple[Citation, object]]:
    """Yield the citations among the annotations of a text, each with the place in the text that the provider names."""
    for note in annotations:
        url, title, place = (field_of(note, name) for name in ("url", "title", "start_index"))
        if re.match("https?://", str(url)):  # only what is safe to be made a link of
            yield {"type": "citation", "url": mended(url), "title": mended(str(title or url))}, place


def hold_half_back(text: str) -> tuple[str, str]:
    """Split off a trailing half of a surrogate pair, which some providers send in two deltas; mend the rest.

    Returns what to hold back until the next delta, and text that can be stored as UTF-8.
    """
    if text.isascii():
        return "", text
    held = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    return held, mended(text[: len(text) - len(held)])
