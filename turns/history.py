"""What a model is told of a conversation: the stored messages as the input of a run, and as much of it as fits."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from agents import TResponseInputItem

from todochat.events import Message
from todochat.turns.tool_output import json_for_model

SHORT = 500  # characters that are left of a tool's result that is shortened

SHORTENED = " [... the rest of this result was left out]"
LEFT_OUT = "\n\n[This conversation is long: its beginning, or parts of what tools returned, are left out here.]"


def model_input(messages: Sequence[Message], most: int | None = None) -> list[TResponseInputItem]:
    """Turn stored messages, oldest first, into the input of a run, tool calls and results included.

    Of more than `most` messages the last ones are taken, from the first of the user's on: some providers refuse a
    conversation that begins otherwise. An input that is not all of it says so (see `addressed`).
    """
    last = messages if most is None else messages[-most:]
    asked = list(itertools.dropwhile(lambda message: message["role"] != "user", last))
    items: list[Any] = [item for message in asked for item in _items(message)]
    if len(asked) < len(messages) and items:
        items[0]["provider_data"] = {"left_out": True}
    return items


def _items(message: Message) -> list[TResponseInputItem]:
    if message["role"] == "user":
        return [{"role": "user", "content": message["content"]}]
    items: list[TResponseInputItem] = []
    written = 0
    for n, call in enumerate(message["tool_calls"]):
        items += _said(message["content"][written : call["at"]])
        written = call["at"]
        # Some models number their calls from 1 in each turn, and an id must not stand for two calls in one input.
        call_id = f"{message['id']:06d}c{n:02d}"  # nine letters and digits, as Mistral's servers want it
        arguments = json_for_model(call["args"] if isinstance(call["args"], dict) else {})
        result = json_for_model(call.get("result", _CUT_OFF))
        asked: Any = {"type": "function_call", "call_id": call_id, "name": call["name"], "arguments": arguments}
        if "state" in call:
            asked["provider_data"] = call["state"]  # which openai-agents 0.24 keeps for the model
        items += [
            asked,
            # Providers refuse a call without its output.
            {"type": "function_call_output", "call_id": call_id, "output": result},
        ]
    return items + _said(message["content"][written:] + _ENDINGS.get(message["status"], ""))


_CUT_OFF = {"success": False, "error": "The call was cut off: it may have happened."}

# Told in the assistant's own words: a system message in mid-conversation is refused by some providers.
_ENDINGS = {
    "stopped": "\n\n[The user stopped this answer here.]",
    "failed": "\n\n[This answer failed here.]",
    "interrupted": "\n\n[This answer was interrupted here.]",
}


def _said(text: str) -> list[TResponseInputItem]:
    # A plain string: the Chat Completions converter of openai-agents 0.24 refuses a list of output_text parts.
    return [{"role": "assistant", "content": text.strip()}] if text.strip() else []


# ---- how much of it ----


def size_of(items: list[TResponseInputItem]) -> int:
    """Return how many characters the texts of these items have."""
    return sum(map(len, _texts(items)))


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
