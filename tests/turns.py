"""Turns of a store, as its tests begin and end them."""

from typing import Any

from todochat import db
from todochat.db import Limits, Progress, Store, TurnRequest
from todochat.events import Event, Message, Status, fold

CALL: Event = {"type": "tool_call", "id": "1", "name": "add_task", "args": {"title": "x"}}
RESULT: Event = {"type": "tool_result", "id": "1", "name": "add_task", "result": {"success": True}}
LIMITS = Limits()
EVENTS: list[Event] = [
    {"type": "started"},
    {"type": "thinking", "content": "Hm."},
    {"type": "text", "content": "One "},
    CALL,
    RESULT,
    {"type": "text", "content": "two."},
]


async def begin(
    store: Store, user: str = "alice", conversation: int | None = None, limits: Limits = LIMITS, **asked: Any
) -> db.Turn:
    """Begin a turn."""
    request = TurnRequest(user, "hi", title="hi", conversation_id=conversation, **asked)
    return await store.begin_turn(request, limits)


async def finish(store: Store, turn: db.Turn, status: Status = "done", *events: Event) -> None:
    """End its answer, which consists of these events."""
    await store.finish_answer(Progress(turn.answer["id"], 0, events), status, fold(events))


async def append(store: Store, turn: db.Turn, first: int, *events: Event) -> set[int]:
    """Save events of an answer, from number `first` on."""
    return set(await store.save_progress(lambda: [Progress(turn.answer["id"], first, events)]))


async def answer_of(store: Store, turn: db.Turn) -> Message:
    """Return a turn's answer as it is now."""
    message = await store.get_message("alice", turn.answer["id"])
    assert message is not None
    return message
