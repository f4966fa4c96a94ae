"""Agents of the host's own in the ChatKit dialect: every frame is checked as test_chatkit.py checks those of ours."""

from pathlib import Path
from typing import Any

from agents import Agent, function_tool, handoff
from agents.testing import ScriptedModel, assistant_message, function_call
from test_chatkit import Component, Stream
from test_embed import Host, Weather, no_output


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
