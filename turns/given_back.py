"""What a model wants back in later turns: marked when it comes, sorted out when a model is asked again."""

from collections.abc import Sequence
from typing import Any

from agents import TResponseInputItem


def marked(output: Sequence[Any], name: str, *, keeps_thoughts: bool) -> None:
    """Mark the items of a whole answer with what the model of that name may want back, and that it is this one.

    `keeps_thoughts` is whether its thoughts came in fields of their own, which other servers refuse.
    """
    before: list[Any] = []
    for item in output:
        if item.type == "reasoning":
            fields = ("encrypted_content", "provider_data", "content")
            wanted = keeps_thoughts and any(getattr(item, field, None) for field in fields)
            before += [item.model_dump(exclude_none=True)] if wanted else []
            _mark(item, {"from": name if wanted else ""})
    calls = [item for item in output if item.type == "function_call"]
    kept = before or any("thought_signature" in (getattr(call, "provider_data", None) or {}) for call in calls)
    for n, call in enumerate(calls if kept else ()):
        _mark(call, {"from": name} | ({"joined": True} if n else {"before": before}))


def _mark(item: Any, data: dict[str, Any]) -> None:
    item.provider_data = (getattr(item, "provider_data", None) or {}) | data


def addressed(
    given: str | list[TResponseInputItem], name: str
) -> tuple[list[TResponseInputItem], dict[str, Any], bool]:
    """Return a conversation as the model of that name is to have it, its signatures by the ids of their calls, and
    whether it is all of the conversation.

    A call may have `provider_data`: what the model that has made it, "from", wants back. That model gets it, "before"
    what it has thought before the call, and the calls that were "joined" in one answer together. No other gets it.
    """
    items: list[Any] = []
    signatures: dict[str, Any] = {}
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
            signatures[plain["call_id"]] = data.get("thought_signature")
            if not _has_thought(items):  # in the turn that it was had in, the SDK has kept it
                items += before
                place = len(items)
            while joined and items[place - 1].get("type") == "function_call_output":
                place -= 1
        if ours or plain.get("type") != "reasoning":
            items.insert(place, plain)
    return items, signatures, is_whole


def _has_thought(items: list[Any]) -> bool:
    """Return whether there is a thought behind the last result of a tool, and the last word of the user."""
    for item in reversed(items):
        if item.get("type") == "reasoning":
            return True
        if item.get("type") == "function_call_output" or item.get("role") == "user":
            return False
    return False
