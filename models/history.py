"""How much of a conversation a model gets: what fits, whole turns at a time, the newest kept."""

from collections.abc import Iterator
from typing import Any

from agents import TResponseInputItem

SHORT = 500  # characters that are left of a tool's result that is shortened

SHORTENED = " [... the rest of this result was left out]"
LEFT_OUT = "\n\n[This conversation is long: its beginning, or parts of what tools returned, are left out here.]"


def size_of(items: list[TResponseInputItem]) -> int:
    """Return how many characters the texts of these items have."""
    return sum(map(_size, items))


def fitted(items: list[TResponseInputItem], limit: int) -> list[TResponseInputItem]:
    """Return what of a conversation has at most `limit` characters; more only if its newest turn is still longer.

    First the results of tools are shortened, the oldest first and those of the newest turn not at all; then whole turns
    are left out, the oldest first; and at last the results of the newest turn are shortened too.
    """
    if size_of(items) <= limit:
        return items
    *earlier, newest = _turns(items) or [[]]
    excess = size_of(items) - limit
    for turn in earlier:
        excess = _shorten(turn, excess)
    while earlier and excess > 0:
        excess -= size_of(earlier.pop(0))
    _shorten(newest, excess)
    return [item for turn in (*earlier, newest) for item in turn]


def _turns(items: list[TResponseInputItem]) -> list[list[TResponseInputItem]]:
    """Return the items in turns, each of which begins with what the user said."""
    turns: list[list[TResponseInputItem]] = []
    for item in items:
        if not turns or item.get("role") == "user":
            turns.append([])
        turns[-1].append(item)
    return turns


def _shorten(turn: list[TResponseInputItem], excess: int) -> int:
    """Shorten the results of tools in a turn until there is no excess, the oldest first; return what is left of it."""
    for n, item in enumerate(turn):
        output = item.get("output")
        if excess > 0 and isinstance(output, str) and len(output) > SHORT + len(SHORTENED):
            shorter: Any = {**item, "output": output[:SHORT] + SHORTENED}
            turn[n] = shorter
            excess -= len(output) - SHORT - len(SHORTENED)
    return excess


def _size(value: object) -> int:
    return sum(map(len, _texts(value)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            # What is given back to a server is no text of the conversation: it goes with the call that it belongs to.
            if name not in ("provider_data", "encrypted_content", "type", "role", "id", "call_id"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
