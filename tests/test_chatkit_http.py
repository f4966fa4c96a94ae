"""The ChatKit protocol with real HTTP models: one conversation over Chat Completions and over Responses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server, npm_package, prepare, running
from test_chatkit import Component, Json, Stream, shape


def says(user: str, answer: str, **match: Any) -> Json:
    """Return the fixture of an answer in words."""
    return {"match": {"userMessage": user} | match, "response": {"content": answer}}


def calls(user: str, *tools: tuple[str, Json], said: Json | None = None, **match: Any) -> Json:
    """Return the fixture of an answer that calls tools, with something `said` before."""
    made = [{"name": name, "arguments": json.dumps(args)} for name, args in tools]
    return {"match": {"userMessage": user} | match, "response": {"toolCalls": made} | (said or {})}


FIXTURES = [
    calls("Add milk", ("add_task", {"title": "Buy milk"}), said={"content": "I will add it."}, hasToolResult=False),
    says("Add milk", "It is on your list.", hasToolResult=True),
    calls("Add both", ("add_task", {"title": "Call Ann"}), ("add_task", {"title": "Pay rent"}), hasToolResult=False),
    says("Add both", "Both are on your list.", hasToolResult=True),
    calls("Do the second", ("list_tasks", {"status": "all"}), hasToolResult=False),
    calls("Do the second", ("complete_task", {"task_id": 2}), toolResultContains='"total": 3'),
    says("Do the second", "Call Ann is done.", toolResultContains='"completed": true'),
    calls("Drop task 9", ("delete_task", {"task_id": 9}), said={"reasoning": "Is there a 9?"}, hasToolResult=False),
    says("Drop task 9", "There is no task 9.", hasToolResult=True),
    says("Thanks", "You are welcome."),
]  # fmt: skip

CONVERSATION: list[tuple[str, list[Any]]] = [
    ("Add milk", ["I will add it.", [("Add task: Buy milk", "complete", "#1 Buy milk")], "It is on your list."]),
    ("Add both", [
        [("Add task: Call Ann", "complete", "#1 Call Ann"), ("Add task: Pay rent", "complete", "#1 Pay rent")],
        "Both are on your list.",
    ]),
    ("Do the second", [
        [("List tasks", "complete", "3 tasks"), ("Complete task 2", "complete", "#1 Call Ann (done)")],
        "Call Ann is done.",
    ]),
    ("Drop task 9", [
        {"Is there a 9?"},
        [("Delete task 9", "complete", "Did not work: There is no task 9.")],
        "There is no task 9.",
    ]),
    ("Thanks", ["You are welcome."]),
]  # fmt: skip


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    """Return the URL of a model server that knows the conversation and nothing else."""
    fixtures = tmp_path / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": FIXTURES}))
    script = npm_package("@copilotkit/aimock") / "dist" / "cli.js"
    command = ["node", str(script), "--port", "0", "--fixtures", str(fixtures), "--strict", "--chunk-size", "5"]
    with running(command, "http://") as (_, line):
        yield "http://" + line.split("http://")[1].split()[0].rstrip("/.")


def talk(server: Server) -> list[Stream]:
    """Have the conversation."""
    with server.client("alice") as client:
        chat = Component(client)
        first = chat.create(CONVERSATION[0][0])
        streams = [first, *(chat.add(first.thread, message) for message, _ in CONVERSATION[1:])]
        assert shape(chat.all_items(first.thread)) == [part for _, answer in CONVERSATION for part in answer]
        return streams


def test_same_items_over_both_apis(provider: str, tmp_path: Path) -> None:
    """Five turns with tools give the same items over Chat Completions and over Responses, with the same ids."""
    seen = []
    for api in ("chat", "responses"):
        folder = tmp_path / api
        folder.mkdir()
        settings = {"OPENAI_API": api, "OPENAI_MODEL": "mock", "OPENAI_BASE_URL": f"{provider}/v1"}
        server = prepare(folder, **settings).start()
        try:
            streams = talk(server)
        finally:
            server.close()
        assert [stream.shape for stream in streams] == [answer for _, answer in CONVERSATION]
        seen.append([[_timeless(item) for item in stream.items] for stream in streams])
    assert seen[0] == seen[1]
    journal = httpx.get(f"{provider}/__aimock/journal").json()
    paths = [entry["path"] for entry in journal]
    assert paths.count("/v1/chat/completions") == paths.count("/v1/responses") == 10


def _timeless(item: Json) -> Json:
    return {name: value for name, value in item.items() if name != "created_at"}
