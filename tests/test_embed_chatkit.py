"""Agents of the host's own in the ChatKit dialect: every frame is checked as test_chatkit.py checks those of ours."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, function_tool, handoff
from agents.testing import ScriptedModel, assistant_message, function_call
from browsing import eventually
from conftest import PATIENCE
from test_chatkit import Component, Stream
from test_embed import Host, Weather, no_output

from todochat import runs


def chat(folder: Path, agent: Agent[Any]) -> tuple[Stream, list[Any], str]:
    """Run one turn of an agent in the ChatKit dialect, under a prefix; return it, the stored items and the status."""
    with Host(folder, agent=agent) as host:
        host.base_url = host.base_url.join("/todo/")
        component: Any = Component(host)  # type: ignore[arg-type]
        stream = component.create("hello")
        stored = component.all_items(stream.thread)
        assert stored == stream.items
        messages = host.get(f"/api/conversations/{stream.thread}").json()["messages"]
    return stream, stored, messages[-1]["status"]


@function_tool
def report() -> dict[str, Any]:
    """Report."""
    return {"sky": "blue", "nan": float("nan")}


@function_tool(needs_approval=True)
def wipe_disk() -> str:
    """Wipe the disk."""
    raise AssertionError("it was run")


def test_a_tool_of_the_hosts_and_a_handoff(tmp_path: Path) -> None:
    """Another tool is a task of the workflow, a handoff is shown, and what both agents say is in the answer."""
    model = ScriptedModel(
        [
            [assistant_message("One moment."), function_call("report", {}, call_id="1")],
            [function_call("transfer_to_billing", {}, call_id="2")],
            [assistant_message("Billing here.")],
        ]
    )
    billing = Agent[Any](name="Billing", model=model)
    stream, stored, status = chat(tmp_path, Agent(name="A", tools=[report], handoffs=[handoff(billing)], model=model))
    assert status == "done"
    texts = [item["content"][0]["text"].strip() for item in stored if item["type"] == "assistant_message"]
    assert texts == ["One moment.", "Billing here."]
    assert "Handing over to Billing." in str(stream.events)


def test_a_tool_that_needs_approval(tmp_path: Path) -> None:
    """The task of a tool that was not run is not left loading, and the error names it."""
    model = ScriptedModel([[function_call("wipe_disk", {}, call_id="1")]])
    stream, _, status = chat(tmp_path, Agent(name="A", tools=[wipe_disk], model=model))
    assert status == "failed"
    assert "wipe_disk" in stream.events[-1]["message"]


def test_structured_output_and_a_guardrail(tmp_path: Path) -> None:
    """JSON is the text of the answer; a guardrail that refuses it ends the turn with an error."""
    weather = '{"city": "Oslo", "at": "2026-01-02T00:00:00Z"}'
    model = ScriptedModel([[assistant_message(weather)]])
    guarded = Agent[Any](name="A", model=model, output_type=Weather, output_guardrails=[no_output])
    stream, stored, status = chat(tmp_path, guarded)
    assert stored[-1]["content"][0]["text"] == weather
    assert (status, stream.events[-1]["message"]) == ("failed", "The assistant's rules do not allow this.")


class SlowTasks:
    """A host's tasks, of which one is added when the test says so."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    async def add_task(self, user_id: str, title: str, description: str | None = None) -> dict[str, Any]:
        """Add a task."""
        self.begun.set()
        await asyncio.to_thread(self.go_on.wait, PATIENCE)
        return {"id": 1, "title": title, "completed": False}

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> list[Any]:
        """List none."""
        return []

    async def update_task(self, user_id: str, task_id: int, **changes: Any) -> None:
        """Find none."""

    async def delete_task(self, user_id: str, task_id: int) -> None:
        """Find none."""


def test_a_deletion_that_waits_for_a_tool_keeps_no_list_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread is deleted while a tool of its answer is at work: meanwhile its user can go on reading."""
    monkeypatch.setattr(runs, "FINISHING", PATIENCE)
    tasks = SlowTasks()
    model = ScriptedModel([[function_call("add_task", {"title": "x", "description": None, "due": None}, call_id="1")]])
    with Host(tmp_path, tasks=tasks, model=model) as host:
        host.base_url = host.base_url.join("/todo/")
        component: Any = Component(host)  # type: ignore[arg-type]
        answering = threading.Thread(target=component.create, args=("hello",))
        answering.start()
        assert tasks.begun.wait(PATIENCE)
        [thread] = component.json("threads.list")["data"]
        deleting = threading.Thread(target=component.json, args=("threads.delete",), kwargs={"thread_id": thread["id"]})
        deleting.start()
        eventually(lambda: component.post("threads.get_by_id", thread_id=thread["id"]).status_code == 404)
        assert component.json("threads.list")["data"] == []
        assert host.get("/api/conversations").json() == []
        assert deleting.is_alive()
        tasks.go_on.set()
        deleting.join(PATIENCE)
        answering.join(PATIENCE)
        assert not deleting.is_alive()
