"""Items of the ChatKit protocol: tool calls in words, and that what is stored gives what was streamed."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from test_chatkit import EVENT, Checker, conform

from todochat.db import Conversation, Turn
from todochat.dialects import chatkit, chatkit_items
from todochat.events import Event, Message, Status, fold

NOW = "2026-11-22T13:23:45.951928Z"


@pytest.mark.parametrize(
    ("name", "args", "title"),
    [
        ("add_task", {"title": "Buy milk"}, "Add task: Buy milk"),
        ("add_task", {"title": "Buy\n milk", "description": "two"}, "Add task: Buy milk"),
        ("add_task", {"due": "2026-12-01", "title": "Buy milk"}, "Add task: Buy milk (due 2026-12-01)"),
        ("update_task", {"task_id": 3, "due": "2026-12-01"}, "Update task 3 (due 2026-12-01)"),
        ("update_task", {"task_id": 3, "title": "Oat milk", "due": ""}, "Update task 3: Oat milk"),
        ("list_tasks", {}, "List tasks"),
        ("list_tasks", {"status": "all"}, "List tasks"),
        ("list_tasks", {"status": "pending"}, "List tasks: pending"),
        ("complete_task", {"task_id": 3}, "Complete task 3"),
        ("complete_task", {"task_id": 3, "completed": False}, "Reopen task 3"),
        ("update_task", {"task_id": 3, "title": "Oat milk"}, "Update task 3: Oat milk"),
        ("delete_task", {"task_id": 3}, "Delete task 3"),
        ("getWeather", {"days": 2, "city": "Paris"}, "Get weather: Paris"),
        ("mcp__crm-lookup", {"customerId": "A1", "note": "hi"}, "Mcp crm lookup A1: hi"),
        ("run_SQL", {"valid": True}, "Run SQL"),
        ("größe_ändern", {}, "Größe ändern"),
        ("web_search_call", "not an object", "Web search call"),
        ("___", None, "Tool"),
        ("say", {"text": "x" * 500}, "Say: " + "x" * 117 + "..."),
    ],
)
def test_titles_of_tool_calls(name: str, args: Any, title: str) -> None:
    """A tool call is named so that a person understands it, also one of a host's own tools."""
    assert chatkit_items.title(name, args) == title


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"success": True, "task_id": 3, "title": "Milk", "completed": False}, "#3 Milk"),
        ({"success": True, "task_id": 3, "title": "Milk", "completed": True}, "#3 Milk (done)"),
        (
            {"success": True, "task_id": 3, "title": "Milk", "completed": True, "due": "2026-12-01"},
            "#3 Milk (due 2026-12-01) (done)",
        ),
        ({"success": True, "total": 1, "tasks": [{}]}, "1 task"),
        ({"success": True, "total": 0, "tasks": []}, "0 tasks"),
        ({"success": False, "error": "There is no task 9."}, "Did not work: There is no task 9."),
        ({"success": False}, "Did not work: no reason was given"),
        ({"error": "quota"}, "Did not work: quota"),
        ({"success": True, "error": ""}, '{"success": true, "error": ""}'),
        ("21 °C and\nsunny", "21 °C and sunny"),
        ("x" * 500, "x" * 117 + "..."),
        (None, "Done"), ("", "Done"), ({}, "Done"), ([], "Done"), (0, "0"), (False, "false"), ([1, 2], "[1, 2]"),
    ],
)  # fmt: skip
def test_results_of_tool_calls(result: Any, words: str) -> None:
    """A result is a short text, and a failure says that it is one."""
    assert chatkit_items.outcome(result) == words


@pytest.mark.parametrize("seed", range(300))
def test_stored_answer_has_the_items_that_were_streamed(seed: int) -> None:
    """However text, calls, results and reasoning follow each other, the stored answer gives the streamed items."""
    draw = random.Random(seed)
    checker = Checker(set())
    told: list[Event] = []  # what the reader has got

    async def batches() -> AsyncGenerator[list[Event], None]:
        batch: list[Event] = []
        for event in some_events(draw):
            batch.append(event)
            if draw.random() < 0.5:
                told.extend(batch)
                yield batch
                batch = []
        told.extend(batch)
        yield batch

    async def read() -> None:
        conversation: Conversation = {"id": 3, "title": "t", "created_at": NOW, "updated_at": NOW}
        turn = Turn(conversation, [], stored("streaming", []))
        async for chunk in chatkit.frames("threads.retry_after_item", turn, batches()):
            *frames, rest = chunk.decode("ascii").split("\n\n")
            assert rest == ""
            for frame in frames:
                checker.take(conform(frame.removeprefix("data: "), EVENT))
            if checker.open:  # else the stream may have ended, and with it what was open
                live = chatkit_items.items(3, stored("streaming", told))
                assert [item["id"] for item in live] == list(checker.items)

    asyncio.run(read())
    assert not checker.open
    ending: Status = "failed" if checker.ended else draw.choice(["done", "stopped"])
    assert chatkit_items.items(3, stored(ending, told)) == list(checker.items.values())


def some_events(draw: random.Random) -> list[Event]:
    """Return the events of an answer: results come after their calls, in any order, and some never."""
    events: list[Event] = [{"type": "started"}]
    pending: list[str] = []
    for n in range(draw.randrange(25)):
        kind = draw.choice(["text", "text", "space", "thought", "call", "result"])
        if kind == "text":
            events.append({"type": "text", "content": draw.choice(["Hello ", " w", "\n\nNew", '"\\é\u2028'])})
        elif kind == "space":
            events.append({"type": "text", "content": draw.choice(["\n\n", " ", "\n"])})
        elif kind == "thought":
            events.append({"type": "thinking", "content": draw.choice(["\n", " hm", "I think "])})
        elif kind == "call":
            pending.append(f"call_{n}")
            events.append({"type": "tool_call", "id": f"call_{n}", "name": "add_task", "args": {"title": f"T{n}"}})
        elif pending:
            call_id = pending.pop(draw.randrange(len(pending)))
            events.append({"type": "tool_result", "id": call_id, "name": "add_task", "result": {"n": n}})
    if draw.random() < 0.2:
        events.append({"type": "error", "message": "Sorry."})
    return events


def stored(status: Status, events: list[Event]) -> Message:
    """Return the message that the events of answer 7 add up to, as it comes from the database."""
    body = json.loads(json.dumps(fold(events)))
    message: Message = {"id": 7, "role": "assistant", "status": status, "feedback": None, "created_at": NOW, **body}
    return message
