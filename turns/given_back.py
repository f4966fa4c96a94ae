"""What a model wants back in later turns: marked when it comes, sorted out when a model is asked again."""

from collections.abc import Sequence
from typing import Any

from agents import TResponseInputItem

_WANTED = {"thought_signature", "reasoning_details"}  # of a call's own: Gemini's, and OpenRouter's


def marked(output: Sequence[Any], name: str, *, keeps_thoughts: bool, details: Sequence[Any] = ()) -> None:
    """Mark the items of a whole answer with what the model of that name may want back, and that it is this one.

    `keeps_thoughts` is whether its thoughts came in fields of their own, which other servers refuse; `details` are
    OpenRouter's of these thoughts, in the pieces that came.
    """
    before: list[Any] = []
    for item in output:
        if item.type == "reasoning":
            fields = ("encrypted_content", "provider_data", "content")
            wanted = keeps_thoughts and any(getattr(item, field, None) for field in fields)
            before += [item.model_dump(exclude_none=True)] if wanted else []
            _mark(item, {"from": name if wanted else ""})
    calls = [item for item in output if item.type == "function_call"]
    if calls and details:
        _mark(calls[0], {"reasoning_details": _joined(details)})
    kept = before or any(_WANTED & (getattr(call, "provider_data", None) or {}).keys() for call in calls)
    for n, call in enumerate(calls if kept else ()):
        _mark(call, {"from": name} | ({"joined": True} if n else {"before": before}))


def _joined(pieces: Sequence[Any]) -> list[dict[str, Any]]:
    """Put together the pieces of each detail: those of a type that have an index, and no id of another."""
    details: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    for piece in [piece for piece in pieces if isinstance(piece, dict)]:
        place = str([piece.get("type"), piece.get("index")])
        detail = latest.get(place)
        if detail is None or piece.get("id") not in (None, detail.get("id")):
            detail = latest[place] = {}
            details.append(detail)
        for name, value in piece.items():
            if name in ("text", "summary", "data") and isinstance(value, str) and isinstance(detail.get(name), str):
                detail[name] += value
            elif value is not None or name not in detail:
                detail[name] = value
    return details


def _mark(item: Any, data: dict[str, Any]) -> None:
    item.provider_data = (getattr(item, "provider_data", None) or {}) | data


def addressed(
    given: str | list[TResponseInputItem], name: str
) -> tuple[list[TResponseInputItem], dict[str, dict[str, Any]], bool]:
    """Return a conversation as the model of that name is to have it, what it wants back by the ids of its calls, and
    whether it is all of the conversation.

    A call may have `provider_data`: what the model that has made it, "from", wants back. That model gets it, "before"
    what it has thought before the call, and the calls that were "joined" in one answer together. No other gets it.
    """
    items: list[Any] = []
    given_back: dict[str, dict[str, Any]] = {}
    is_whole = True
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        plain: dict[str, Any] = {field: value for field, value in item.items() if field != "provider_data"}
        data: dict[str, Any] = dict(item.get("provider_data") or {})  # type: ignore[call-overload]
        ours = data.pop("from", name) == name
        is_whole = is_whole and not data.pop("left_out", False)
        before, joined = data.pop("before", []), data.pop("joined", False)
        if ours and data:
            plain["provider_data"] = data
        place = len(items)
        if ours and plain.get("type") == "function_call":
            given_back[plain["call_id"]] = data
            if not _has_thought(items):  # in the turn that it was had in, the SDK has kept it
                items += before
                place = len(items)
            while joined and items[place - 1].get("type") == "function_call_output":
                place -= 1
        if ours or plain.get("type") != "reasoning":
            items.insert(place, plain)
    return items, given_back, is_whole


def _has_thought(items: list[Any]) -> bool:
    """Return whether there is a thought behind the last result of a tool, and the last word of the user."""
    for item in reversed(items):
        if item.get("type") == "reasoning":
            return True
        if item.get("type") == "function_call_output" or item.get("role") == "user":
            return False
    return False
