"""Inside somebody else's app: `create_app`, agents of the host's own, and the installed package."""

import asyncio
import gc
import importlib.util
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import venv
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import mcp
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    HostedMCPTool,
    Model,
    RunContextWrapper,
    ToolGuardrailFunctionOutput,
    WebSearchTool,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
)
from agents.extensions.handoff_filters import remove_all_tools
from agents.mcp import MCPServerStdio
from agents.testing import ScriptedModel, assistant_message, function_call
from conftest import PATIENCE, ROOT, SETTINGS, Turn, missing, running
from mcp.client.streamable_http import streamable_http_client
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionWebSearch,
    ResponseOutputItemDoneEvent,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_function_web_search import ActionSearch
from openai.types.responses.response_output_item import ImageGenerationCall, McpApprovalRequest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from todochat import agent, app, runs, settings

JSON = {"Content-Type": "application/json"}


async def by_header(request: Request) -> str | None:
    """Return the user that the host's gateway named."""
    return request.headers.get("x-user")


class Host(TestClient):
    """A host with the chat mounted under /todo, and one user's client of it."""

    def __init__(
        self, folder: Path, user: str = "alice", name: str = "chat.db", around: Any = nullcontext, **options: Any
    ) -> None:
        options = {"store": f"sqlite:///{folder}/{name}", "authenticate": by_header} | options
        self.chat = app.create_app(**options)

        @asynccontextmanager
        async def lifespan(host: Starlette) -> Any:
            async with around(host), self.chat.router.lifespan_context(self.chat):
                yield

        host = Starlette(routes=[Mount("/todo", self.chat)], lifespan=lifespan)
        super().__init__(host, headers={"x-user": user}, raise_server_exceptions=False)

    def say(self, message: str, thread: int | None = None, **options: Any) -> Turn:
        """Send a message and return what came, and what is stored of it."""
        body = {"message": message} | ({"thread_id": thread} if thread else {})
        answer = self.post("/todo/chatkit", json=body, **options)
        turn = Turn(answer.status_code, answer.headers)  # type: ignore[arg-type]
        turn.frames = [
            frame.removeprefix("data: ") for frame in answer.text.split("\n\n") if frame.startswith("data: ")
        ]
        turn.body = answer.text
        return turn

    def stored(self, turn: Turn) -> dict[str, Any]:
        """Return the stored answer of a turn."""
        return dict(self.get(f"/todo/api/conversations/{turn.thread}").json()["messages"][-1])


def play(folder: Path, agent: Agent[Any], **options: Any) -> tuple[Turn, dict[str, Any]]:
    """Run one turn of an agent in a host; return what came and the stored answer."""
    with Host(folder, agent=agent, **options) as host:
        turn = host.say("hello")
        stored = host.stored(turn)
    assert turn.complete
    assert turn.text == stored["content"]
    results = {call["id"]: call.get("result") for call in stored["tool_calls"]}
    assert all(results[event["id"]] == event["result"] for event in turn.of("tool_result"))
    assert len(turn.of("tool_call")) == len(results)
    return turn, stored


# ---- agents of the host's own ----


class Weather(BaseModel):
    """What a tool may return."""

    city: str
    at: datetime


@dataclass
class Wind:
    """What another may return."""

    knots: float


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        (Weather(city="Oslo", at=datetime(2026, 1, 2, tzinfo=UTC)), {"city": "Oslo", "at": "2026-01-02T00:00:00Z"}),
        ([Wind(3.5)], [{"knots": 3.5}]),
        ({"nan": float("nan")}, {"nan": None}),
        ({1: {2}}, {"1": [2]}),
        ("plain words", "plain words"),
        ('{"json": true}', {"json": True}),
        (None, None),
        (7, 7),
        (b"\xff", "b'\\xff'"),
        (LOOP, "[[[[[[[...]]]]]]]"),
        ("3.10", "3.10"),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
    ],
)
def test_a_tool_may_return_anything(tmp_path: Path, output: Any, result: Any) -> None:
    """Whatever a host's tool returns is JSON in the frame, and the same JSON in the database."""

    @function_tool
    def report() -> Any:
        """Report."""
        return output

    model = ScriptedModel([[function_call("report", {}, call_id="1")], [assistant_message("Fine.")]])
    turn, stored = play(tmp_path, Agent(name="A", tools=[report], model=model))
    assert [event["result"] for event in turn.of("tool_result")] == [result]
    assert (stored["status"], turn.text) == ("done", "Fine.")


@pytest.mark.parametrize("strict", [False, True])
def test_a_tool_that_raises_keeps_its_text_to_itself(tmp_path: Path, strict: bool) -> None:
    """A host's tool that raises is a result, or ends the turn as failed if it is made to; its text goes nowhere."""

    @function_tool(**({"failure_error_function": None} if strict else {}))
    def report() -> str:
        """Report."""
        raise ValueError("a text that no client may see")

    model = ScriptedModel([[function_call("report", {}, call_id="1")], [assistant_message("Sorry.")]])
    turn, stored = play(tmp_path, Agent(name="A", tools=[report], model=model))
    assert stored["status"] == ("failed" if strict else "done")
    assert len(turn.of("error")) == strict
    assert "no client may see" not in json.dumps(turn.frames) + json.dumps(stored)


def test_a_handoff_is_shown(tmp_path: Path) -> None:
    """A handoff is a `thinking` event with the new agent's name; what both agents say is in the answer."""
    model = ScriptedModel(
        [
            [assistant_message("One moment."), function_call("transfer_to_billing", {}, call_id="1")],
            [assistant_message("Billing here.")],
        ]
    )
    billing = Agent[Any](name="Billing", model=model)
    turn, stored = play(tmp_path, Agent(name="Front desk", handoffs=[handoff(billing)], model=model))
    assert [event["content"].strip() for event in turn.of("thinking")][1:] == ["Handing over to Billing."]
    assert turn.text == "One moment.\n\nBilling here."
    assert stored["status"] == "done"


def test_a_handoff_is_shown_though_its_history_is_filtered(tmp_path: Path) -> None:
    """A handoff that hides the calls before it from the next agent is no less a handoff for the reader."""
    model = ScriptedModel(
        [
            [assistant_message("One moment."), function_call("transfer_to_billing", {}, call_id="1")],
            [assistant_message("Billing here.")],
        ]
    )
    billing = handoff(Agent[Any](name="Billing", model=model), input_filter=remove_all_tools)
    turn, _ = play(tmp_path, Agent(name="Front desk", handoffs=[billing], model=model))
    assert [event["content"].strip() for event in turn.of("thinking")][1:] == ["Handing over to Billing."]
    assert turn.text == "One moment.\n\nBilling here."


def test_of_two_handoffs_at_once_one_counts(tmp_path: Path) -> None:
    """A model that hands over to two agents in one breath reaches the first, and the turn ends."""
    calls = [function_call(f"transfer_to_{name}", {}, call_id=name) for name in ("billing", "sales")]
    model = ScriptedModel([calls, [assistant_message("Billing here.")]])
    others: list[Agent[Any]] = [Agent(name=name, model=model) for name in ("Billing", "Sales")]
    turn, stored = play(tmp_path, Agent(name="Front desk", handoffs=[*others], model=model))
    assert [event["content"].strip() for event in turn.of("thinking")][1:] == ["Handing over to Billing."]
    assert (turn.text, stored["status"]) == ("Billing here.", "done")


class Hosting(Model):
    """A model whose provider runs tools of its own before it answers."""

    def __init__(self, *items: Any, says: str = "", tools_first: bool = True) -> None:
        self.items, self.says, self.tools_first = items, says, tools_first

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("this model only streams")

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        tools = [
            ResponseOutputItemDoneEvent(type="response.output_item.done", item=item, output_index=0, sequence_number=0)
            for item in self.items
        ]
        for event in tools if self.tools_first else []:
            yield event
        if self.says:
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta", delta=self.says, item_id="m", output_index=1, content_index=0,
                logprobs=[], sequence_number=1,
            )  # fmt: skip
        for event in [] if self.tools_first else tools:
            yield event
        said = [assistant_message(self.says)] if self.says else []
        response = Response.model_construct(id="r", output=[*self.items, *said], usage=None)
        yield ResponseCompletedEvent.model_construct(type="response.completed", response=response)


def test_tools_of_the_providers_own_are_shown_where_they_ran(tmp_path: Path) -> None:
    """A web search is a call with its query, before the text that came of it; the text is there once."""
    search = ResponseFunctionWebSearch(
        id="ws_1", type="web_search_call", status="completed", action=ActionSearch(type="search", query="the weather")
    )
    model = Hosting(search, says="Sunny.")
    turn, stored = play(tmp_path, Agent(name="A", tools=[WebSearchTool()], model=model))
    assert [event["type"] for event in turn.events] == ["thinking", "tool_call", "tool_result", "text"]
    assert turn.of("tool_call")[0]["args"]["query"] == "the weather"
    assert (stored["content"], stored["status"]) == ("Sunny.", "done")


def test_text_before_a_tool_of_the_providers_is_there_once(tmp_path: Path) -> None:
    """An answer whose last item is a tool's, as a picture is, is not said again."""
    picture = ImageGenerationCall(id="ig_1", type="image_generation_call", status="completed", result=None)
    model = Hosting(picture, says="Here is your cat.", tools_first=False)
    turn, stored = play(tmp_path, Agent(name="A", model=model))
    assert [event["type"] for event in turn.events] == ["thinking", "text", "tool_call", "tool_result"]
    assert (stored["content"], stored["status"]) == ("Here is your cat.", "done")


def test_a_hosted_tool_that_needs_approval_ends_the_turn(tmp_path: Path) -> None:
    """An approval that a provider's MCP tool asks for cannot be given either, and that is what the user is told."""
    request = McpApprovalRequest(
        id="a", arguments="{}", name="sky", server_label="weather", type="mcp_approval_request"
    )
    config: Any = {"type": "mcp", "server_label": "weather", "server_url": "http://x", "require_approval": "always"}
    agent = Agent[Any](name="A", tools=[HostedMCPTool(tool_config=config)], model=Hosting(request))
    turn, stored = play(tmp_path, agent)
    assert turn.of("error")[0]["message"].startswith("This needs an approval (sky)")
    assert stored["status"] == "failed"


@input_guardrail
async def no_input(ctx: RunContextWrapper[Any], agent: Agent[Any], input: Any) -> GuardrailFunctionOutput:
    """Refuse everything."""
    return GuardrailFunctionOutput(output_info="a text that no client may see", tripwire_triggered=True)


@output_guardrail
async def no_output(ctx: RunContextWrapper[Any], agent: Agent[Any], output: Any) -> GuardrailFunctionOutput:
    """Refuse everything."""
    return GuardrailFunctionOutput(output_info="a text that no client may see", tripwire_triggered=True)


@tool_input_guardrail
def no_tool(data: Any) -> ToolGuardrailFunctionOutput:
    """Refuse everything."""
    return ToolGuardrailFunctionOutput.raise_exception(output_info="a text that no client may see")


@pytest.mark.parametrize("which", ["input", "output", "tool"])
def test_a_guardrail_ends_the_turn_with_a_sentence(tmp_path: Path, which: str) -> None:
    """A guardrail that trips makes the turn `failed`, with a sentence that does not say more than that."""

    @function_tool(tool_input_guardrails=[no_tool] if which == "tool" else [])
    def report() -> str:
        """Report."""
        return "x"

    model = ScriptedModel([[function_call("report", {}, call_id="1")], [assistant_message("No.")]])
    guarded = Agent[Any](
        name="A",
        model=model,
        tools=[report],
        input_guardrails=[no_input] if which == "input" else [],
        output_guardrails=[no_output] if which == "output" else [],
    )
    turn, stored = play(tmp_path, guarded)
    assert turn.events[-1] == {"type": "error", "message": "The assistant's rules do not allow this."}
    assert stored["status"] == "failed"
    assert "no client may see" not in json.dumps(turn.frames)


def test_structured_output_is_the_text(tmp_path: Path) -> None:
    """An agent with an output type streams its JSON as text."""
    weather = '{"city": "Oslo", "at": "2026-01-02T00:00:00Z"}'
    model = ScriptedModel([[assistant_message(weather)]])
    turn, stored = play(tmp_path, Agent(name="A", model=model, output_type=Weather))
    assert (turn.text, stored["status"]) == (weather, "done")


def test_output_of_another_shape_has_failed(tmp_path: Path) -> None:
    """An answer that does not fit the output type is not `done`."""
    model = ScriptedModel([[assistant_message('{"city": 5}')]])
    turn, stored = play(tmp_path, Agent(name="A", model=model, output_type=Weather))
    assert (len(turn.of("error")), stored["status"]) == (1, "failed")


def test_a_tools_output_may_be_the_answer(tmp_path: Path) -> None:
    """With `tool_use_behavior="stop_on_first_tool"` the tool's output is the text of the answer."""

    @function_tool
    def report() -> str:
        """Report."""
        return "Sunny."

    model = ScriptedModel([[assistant_message("Let me see."), function_call("report", {}, call_id="1")]])
    stopping = Agent[Any](name="A", model=model, tools=[report], tool_use_behavior="stop_on_first_tool")
    turn, stored = play(tmp_path, stopping)
    assert (turn.text, stored["status"]) == ("Let me see.\n\nSunny.", "done")


def test_output_that_is_no_text_is_mended(tmp_path: Path) -> None:
    """A tool's output with half a character in it, such as an odd file name, can be an answer and be stored."""

    @function_tool
    def files() -> str:
        """List the files."""
        return "r\udce9sum.txt"

    model = ScriptedModel([[function_call("files", {}, call_id="1")]])
    turn, stored = play(tmp_path, Agent(name="A", model=model, tools=[files], tool_use_behavior="stop_on_first_tool"))
    assert (turn.text, stored["status"]) == ("r\ufffdsum.txt", "done")


def test_a_tool_that_cancels_itself_has_failed(tmp_path: Path) -> None:
    """A host's tool that is cancelled from within is not taken for the server's shutdown."""

    @function_tool
    async def give_up() -> str:
        """Give up."""
        raise asyncio.CancelledError

    model = ScriptedModel([[function_call("give_up", {}, call_id="1")], [assistant_message("Well.")]])
    turn, stored = play(tmp_path, Agent(name="A", model=model, tools=[give_up]))
    assert stored["status"] in ("done", "failed")
    assert not any("shutting down" in event["message"] for event in turn.of("error"))


def test_what_a_tool_has_done_is_known_though_another_hangs(tmp_path: Path) -> None:
    """Of two tools called at once, the result of the one that ended is kept, whatever becomes of the other."""

    @function_tool
    async def charge() -> str:
        """Charge the card."""
        return "charged"

    @function_tool
    async def hang() -> str:
        """Hang."""
        await asyncio.Event().wait()
        return ""

    model = ScriptedModel(
        [[function_call("charge", {}, call_id="1"), function_call("hang", {}, call_id="2")], [assistant_message("x")]]
    )
    options = {"settings": settings.Settings(tool_timeout=1)}
    turn, stored = play(tmp_path, Agent(name="A", model=model, tools=[charge, hang]), **options)
    assert [(event["id"], event["result"]) for event in turn.of("tool_result")] == [("1", "charged")]
    assert stored["tool_calls"][0]["result"] == "charged"
    assert stored["status"] == "failed"


def test_a_tool_that_needs_approval_ends_the_turn(tmp_path: Path) -> None:
    """A tool that needs an approval is not run: the turn fails with a sentence that names it, and the next works."""
    ran = []

    @function_tool(needs_approval=True)
    def wipe_disk() -> str:
        """Wipe the disk."""
        ran.append(1)
        return "wiped"

    model = ScriptedModel([[function_call("wipe_disk", {}, call_id="1")], [assistant_message("Still here.")]])
    with Host(tmp_path, agent=Agent(name="A", tools=[wipe_disk], model=model)) as host:
        turn = host.say("wipe it")
        assert turn.complete
        assert [event["name"] for event in turn.of("tool_call")] == ["wipe_disk"]
        assert "wipe_disk" in turn.of("error")[0]["message"]
        assert host.stored(turn)["status"] == "failed"
        again = host.say("and now?", turn.thread)
        assert again.text == "Still here."
        assert host.stored(again)["status"] == "done"
    assert ran == []


def test_an_agent_as_a_tool_is_a_tool(tmp_path: Path) -> None:
    """An agent that is another one's tool shows as one call with one result; what it says inside stays inside."""
    inner = Agent[Any](name="Poet", model=ScriptedModel([[assistant_message("Roses are red.")]]))
    poet = inner.as_tool("poet", "Write a line.")
    model = ScriptedModel([[function_call("poet", {"input": "x"}, call_id="1")], [assistant_message("There.")]])
    turn, _ = play(tmp_path, Agent(name="A", tools=[poet], model=model))
    assert [event["result"] for event in turn.of("tool_result")] == ["Roses are red."]
    assert turn.text == "There."


def test_the_todo_tools_work_inside_an_agent_that_is_a_tool(tmp_path: Path) -> None:
    """An agent with the to-do tools may be a tool itself: its calls are done, and are not the answer's own."""
    steps: list[Any] = [[function_call("add_task", {"title": "x"}, call_id="n")], [assistant_message("Added.")]]
    clerk = Agent[Any](name="Clerk", model=ScriptedModel(steps), tools=[*agent.todo_tools()])
    model = ScriptedModel([[function_call("clerk", {"input": "x"}, call_id="1")], [assistant_message("There.")]])
    with Host(tmp_path, agent=Agent(name="A", tools=[clerk.as_tool("clerk", "Do it.")], model=model)) as host:
        turn = host.say("add x")
        assert [event["id"] for event in turn.of("tool_result")] == ["1"]
        assert [task["title"] for task in host.get("/todo/api/tasks").json()] == ["x"]
        assert host.stored(turn)["status"] == "done"


MCP_SERVER = """
import time
from mcp.server.mcpserver import MCPServer

server = MCPServer("weather")

@server.tool()
def sky(city: str) -> dict[str, str]:
    return {"city": city, "sky": "blue"}

@server.tool()
def fail() -> str:
    raise ValueError("x")

@server.tool()
def slow() -> str:
    time.sleep(1)
    return "late"

server.run("stdio")
"""


def test_tools_of_an_mcp_server_stream(tmp_path: Path) -> None:
    """The tools of an MCP server that the host has connected stream like any other, and one that fails is a result."""
    script = tmp_path / "weather.py"
    script.write_text(MCP_SERVER)
    model = ScriptedModel(
        [
            [function_call("sky", {"city": "Oslo"}, call_id="1"), function_call("fail", {}, call_id="2")],
            [assistant_message("Blue.")],
            [function_call("slow", {}, call_id="3")],
            [function_call("sky", {"city": "Rome"}, call_id="4")],
            [assistant_message("Blue, too.")],
        ]
    )
    weather = MCPServerStdio(
        {"command": sys.executable, "args": [str(script)]}, client_session_timeout_seconds=PATIENCE
    )

    @asynccontextmanager
    async def connected(host: Starlette) -> Any:
        async with weather:
            yield

    agent = Agent[Any](name="A", model=model, mcp_servers=[weather])
    with Host(tmp_path, agent=agent, around=connected) as host:
        turn = host.say("How is the sky?")
        assert [event["result"] for event in turn.of("tool_result")] == [
            {"city": "Oslo", "sky": "blue"},
            "Error executing tool fail",
        ]
        assert turn.text == "Blue."
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(host.say, "Take your time.", turn.thread)
            while not (host.stored(turn)["status"] == "streaming" and host.stored(turn)["tool_calls"]):
                time.sleep(0.02)
            assert host.post(f"/todo/api/conversations/{turn.thread}/stop").json()["status"] == "stopped"
            assert slow.result(PATIENCE).complete
        again = host.say("And in Rome?", turn.thread)  # a call that was broken off does not break the connection
        assert [event["result"] for event in again.of("tool_result")] == [{"city": "Rome", "sky": "blue"}]
        assert again.text == "Blue, too."


# ---- what create_app takes ----


def scripted(*texts: str) -> ScriptedModel:
    """Return a model that says one text after the other."""
    return ScriptedModel([[assistant_message(text)] for text in texts])


def test_the_agent_may_depend_on_the_user(tmp_path: Path) -> None:
    """A function of the user id returns the agent of each user."""

    def agent_of(user_id: str) -> Agent[Any]:
        return Agent(name=user_id, model=scripted(f"Hello {user_id}."))

    with Host(tmp_path, agent=agent_of) as host:
        assert host.say("hi").text == "Hello alice."
        assert host.say("hi", headers={"x-user": "bob"}).text == "Hello bob."


def test_the_hosts_functions_may_be_async(tmp_path: Path) -> None:
    """What makes the agent and the context of a turn may ask the host's database first."""

    @function_tool
    def who(ctx: RunContextWrapper[str]) -> str:
        """Say who asks."""
        return ctx.context

    async def agent_of(user_id: str) -> Agent[Any]:
        model = ScriptedModel([[function_call("who", {}, call_id="1")], [assistant_message("Fine.")]])
        return Agent(name="A", tools=[who], model=model)

    async def context_of(turn: agent.TurnContext) -> str:
        return f"the user {turn.user_id}"

    with Host(tmp_path, agent=agent_of, context=context_of) as host:
        assert host.say("hi").of("tool_result")[0]["result"] == "the user alice"


@pytest.mark.parametrize("broken", ["agent", "context"])
def test_an_agent_that_cannot_be_made_is_a_failed_turn(tmp_path: Path, broken: str) -> None:
    """If the host's function raises, that turn has failed, its text goes nowhere, and the conversation stays usable."""
    faults = [ValueError("a text that no client may see")]

    def make(what: Any) -> Any:
        if faults:
            raise faults.pop()
        return Agent[Any](name="A", model=scripted("Hello.")) if broken == "agent" else what

    options = (
        {broken: make} if broken == "agent" else {"context": make, "agent": Agent(name="A", model=scripted("Hello."))}
    )
    with Host(tmp_path, **options) as host:
        turn = host.say("hi")
        assert turn.complete
        assert len(turn.of("error")) == 1
        assert "no client may see" not in turn.body
        assert host.stored(turn)["status"] == "failed"
        assert host.say("hi", turn.thread).text == "Hello."


@dataclass(frozen=True)
class Desk(agent.TurnContext):
    """A host's context that the to-do tools understand too."""

    color: str = "green"


def test_tools_receive_the_hosts_context(tmp_path: Path) -> None:
    """The context is what the host's function makes of the TurnContext; a subclass serves the to-do tools as well."""

    @function_tool
    def paint(ctx: RunContextWrapper[Desk]) -> str:
        """Paint."""
        return f"{ctx.context.user_id}'s desk is {ctx.context.color}"

    model = ScriptedModel(
        [
            [function_call("paint", {}, call_id="1"), function_call("add_task", {"title": "Dry it"}, call_id="2")],
            [assistant_message("Painted.")],
        ]
    )

    def context(turn: agent.TurnContext) -> Desk:
        return Desk(turn.user_id, turn.tasks, turn.record, "red")

    with Host(
        tmp_path, agent=Agent(name="A", tools=[paint, *agent.todo_tools()], model=model), context=context
    ) as host:
        turn = host.say("paint")
        results = {event["name"]: event["result"] for event in turn.of("tool_result")}
        assert results["paint"] == "alice's desk is red"
        assert results["add_task"]["success"]
        assert [task["title"] for task in host.get("/todo/api/tasks").json()] == ["Dry it"]


def test_a_turn_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    """What a turn has made is gone when it is over, and does not wait in memory for the garbage collector."""
    contexts: list[weakref.ref[Desk]] = []

    def context(turn: agent.TurnContext) -> Desk:
        desk = Desk(turn.user_id, turn.tasks, turn.record)
        contexts.append(weakref.ref(desk))
        return desk

    model = ScriptedModel(
        [[function_call("add_task", {"title": "Milk"}, call_id="1")], [assistant_message("Added.")]] * 2
    )
    with Host(tmp_path, agent=agent.todo_agent(model), context=context) as host:
        host.say("add milk")  # what is made only once
        gc.collect()
        gc.disable()
        try:
            host.say("add milk")
            deadline = time.monotonic() + PATIENCE
            while contexts[-1]() is not None and time.monotonic() < deadline:
                host.get("/todo/health")  # whatever the loop still has to do
            assert contexts[-1]() is None
        finally:
            gc.enable()


def test_a_model_is_for_every_agent(tmp_path: Path) -> None:
    """The model that is given is used whatever the agents say."""
    turn, _ = play(tmp_path, Agent(name="A", model=scripted("Not me.")), model=scripted("Me."))
    assert turn.text == "Me."


class Paper:
    """Tasks of the host's own, each user's on a sheet."""

    def __init__(self) -> None:
        self.sheets: dict[str, dict[int, dict[str, Any]]] = {}

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> list[dict[str, Any]]:
        tasks = self.sheets.get(user_id, {}).values()
        return [task for task in tasks if completed in (None, task["completed"])]

    async def add_task(self, user_id: str, title: str, description: str | None = None) -> dict[str, Any]:
        sheet = self.sheets.setdefault(user_id, {})
        task = {"id": len(sheet) + 100, "title": title, "description": description, "completed": False}
        sheet[task["id"]] = task | {"created_at": "2026-01-02T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z"}
        return sheet[task["id"]]

    async def update_task(self, user_id: str, task_id: int, **changes: Any) -> dict[str, Any] | None:
        task = self.sheets.get(user_id, {}).get(task_id)
        if task is not None:
            task.update(changes)
        return task

    async def delete_task(self, user_id: str, task_id: int) -> dict[str, Any] | None:
        return self.sheets.get(user_id, {}).pop(task_id, None)


def test_the_hosts_tasks_are_used_everywhere(tmp_path: Path) -> None:
    """With tasks of the host's own the chat, the REST API and /mcp all work on those."""
    paper = Paper()
    accept = {"Accept": "application/json, text/event-stream"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    with Host(tmp_path, tasks=paper) as host:
        assert "Added" in host.say("add buy milk").text
        assert host.post("/todo/api/tasks", json={"title": "By REST"}).status_code == 201
        params = {"name": "add_task", "arguments": {"title": "By MCP"}}
        assert host.post("/todo/mcp", json=call | {"params": params}, headers=accept).status_code == 200
        listed = host.get("/todo/api/tasks").json()
        assert [(task["id"], task["title"]) for task in listed] == [
            (100, "buy milk"),
            (101, "By REST"),
            (102, "By MCP"),
        ]
        assert host.patch("/todo/api/tasks/101", json={"completed": True}).json()["completed"]
        assert host.delete("/todo/api/tasks/101").json() == {"status": "deleted"}
        assert host.delete("/todo/api/tasks/101").status_code == 404
        assert host.get("/todo/api/tasks", headers={"x-user": "bob"}).json() == []
    assert [task["title"] for task in paper.sheets["alice"].values()] == ["buy milk", "By MCP"]


class SlowPaper(Paper):
    """Tasks in a database that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    async def add_task(self, user_id: str, title: str, description: str | None = None) -> dict[str, Any]:
        self.begun.set()
        await asyncio.to_thread(self.go_on.wait, PATIENCE)
        return await super().add_task(user_id, title, description)


def test_a_slow_database_of_the_hosts_holds_up_nobody_else(tmp_path: Path) -> None:
    """While the host's tasks are waited for, other users are served; a call that has begun is finished after a stop."""
    paper = SlowPaper()
    with Host(tmp_path, tasks=paper) as host, ThreadPoolExecutor() as pool:
        turn = pool.submit(host.say, "add buy milk")
        assert paper.begun.wait(PATIENCE)
        assert host.say("help", headers={"x-user": "bob"}).complete
        stopping = pool.submit(host.post, "/todo/api/conversations/1/stop")
        time.sleep(0.2)
        assert not stopping.done()
        paper.go_on.set()
        stored = stopping.result(PATIENCE).json()
        assert stored["status"] == "stopped"
        assert [call["result"]["title"] for call in stored["tool_calls"]] == ["buy milk"]
        assert turn.result(PATIENCE).of("tool_result")[0]["result"] == stored["tool_calls"][0]["result"]
    assert [task["title"] for task in paper.sheets["alice"].values()] == ["buy milk"]


@pytest.mark.parametrize("what", ["agent", "context"])
def test_what_a_host_never_makes_ends_the_turn(tmp_path: Path, what: str) -> None:
    """An agent or a context that does not come is waited for as long as an answer may take, and not for ever."""

    async def never(_: Any) -> Any:
        await asyncio.Future()

    with Host(
        tmp_path, model=ScriptedModel([]), settings=settings.Settings(max_turn_seconds=0.2), **{what: never}
    ) as host:
        turn = host.say("hello")
        assert [event["message"] for event in turn.of("error")] == [runs.BROKEN]
        assert host.stored(turn)["status"] == "failed"


def test_a_database_of_the_hosts_that_hangs_does_not_hold_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that never comes back is given up, and its turn still ends in a state."""
    monkeypatch.setattr(runs, "FINISHING", 0.2)
    paper = SlowPaper()
    with Host(tmp_path, tasks=paper, settings=settings.Settings(tool_timeout=0.2)) as host:
        turn = host.say("add buy milk")
        paper.go_on.set()
        assert "The tool add_task did not answer" in turn.of("error")[0]["message"]
        assert host.stored(turn)["status"] == "failed"


async def closed(request: Request) -> str | None:
    raise HTTPException(403, "The office is closed.", {"Retry-After": "60"})


async def broken(request: Request) -> str | None:
    raise KeyError("a text that no client may see")


async def number(request: Request) -> Any:
    return 7


async def nobody(request: Request) -> str | None:
    return ""


@pytest.mark.parametrize("path", ["/todo/chatkit", "/todo/api/tasks", "/todo/mcp"])
@pytest.mark.parametrize(
    ("authenticate", "status", "says"),
    [
        (by_header, 401, "A valid bearer token is needed."),
        (closed, 403, "The office is closed."),
        (broken, 500, "Something went wrong on the server."),
        (number, 500, "Something went wrong on the server."),
        (nobody, 401, "A valid bearer token is needed."),
    ],
)
def test_what_authenticate_says_is_what_the_client_hears(
    tmp_path: Path, authenticate: Any, status: int, says: str, path: str
) -> None:
    """No id is a 401, an HTTPException is answered as it is, and anything else is a 500 without its text."""
    cors = settings.Settings(cors_origins=("http://localhost:3000",))
    with Host(tmp_path, authenticate=authenticate, settings=cors) as host:
        del host.headers["x-user"]
        answer = host.post(path, json={"message": "hi"})
        assert (answer.status_code, answer.json()) == (status, {"detail": says})
        assert (answer.headers.get("retry-after") == "60") == (status == 403)
        foreign = host.post(path, json={"message": "hi"}, headers={"Origin": "http://localhost:3000"})
        assert foreign.headers["access-control-allow-origin"] == "http://localhost:3000", "a page elsewhere can read it"


@pytest.mark.parametrize(
    ("parts", "served"),
    [((), []), (("tasks",), ["/api/tasks"]), (("page",), ["/", "/static/index.html"]), (("mcp",), ["/mcp"])],
)
def test_only_the_parts_that_are_wanted_are_served(tmp_path: Path, parts: Any, served: list[str]) -> None:
    """Beside the chat, only the parts that were named answer; the description names no others."""
    with Host(tmp_path, parts=parts) as host:
        assert host.say("add milk").complete
        assert len(host.get("/todo/api/conversations").json()) == 1
        paths = ["/api/tasks", "/", "/static/index.html", "/mcp"]
        assert [path for path in paths if host.get(f"/todo{path}").status_code != 404] == served
        described = host.get("/todo/openapi.json").json()["paths"]
        assert ("/api/tasks" in described) == ("tasks" in parts)


def test_the_limits_are_the_hosts(tmp_path: Path) -> None:
    """`settings` sets the limits and the CORS origins of this app, whatever the environment has."""
    limits = settings.Settings(cors_origins=("https://host.example",), max_turns=1, tool_timeout=0.2)

    @function_tool
    async def doze() -> str:
        """Doze."""
        await asyncio.Event().wait()
        return ""

    model = ScriptedModel([[function_call("doze", {}, call_id="1")]])
    with Host(tmp_path, settings=limits, agent=Agent(name="A", model=model, tools=[doze])) as host:
        assert "The tool doze did not answer within 0.2 seconds" in host.say("doze").of("error")[0]["message"]
        preflight = {"Origin": "https://host.example", "Access-Control-Request-Method": "POST"}
        allowed = host.options("/todo/chatkit", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://host.example"
        assert host.options("/todo/chatkit", headers=preflight | {"Origin": "https://b.example"}).status_code == 400
    model = ScriptedModel([[function_call("list_tasks", {}, call_id=str(n))] for n in range(3)])
    turn, _ = play(tmp_path, Agent(name="A", model=model, tools=[*agent.todo_tools()]), settings=limits)
    assert "too many steps" in turn.of("error")[0]["message"]


def test_the_hosts_environment_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that mean something else to the host do not matter where the host has said what it wants."""
    for name in ("HOST", "PORT", "LOG_LEVEL", "DATABASE_URL", "BETTER_AUTH_SECRET", "JWT_ALGORITHM", "JWT_PUBLIC_KEY"):
        monkeypatch.setenv(name, "mysql://something else")
    with Host(tmp_path) as host:
        assert host.get("/todo/health").status_code == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"store": "mysql://x"}, "sqlite:///path"),
        ({"store": Path("chat.db")}, "sqlite:///chat.db"),
        ({"parts": ["chat"]}, "tasks, page, component, mcp"),
        ({"prefix": "todo/"}, "must look like /todo"),
        ({"prefix": "/api"}, "has paths of its own"),
        ({"prefix": "/static/x"}, "has paths of its own"),
    ],
)
def test_an_option_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    """An option that cannot be used raises BadSetting when the app is made."""
    with pytest.raises(settings.BadSetting, match=says):
        Host(tmp_path, **options)


@pytest.mark.parametrize("path", ["/todo/api/tasks", "/api/tasks"])
def test_behind_a_proxy_with_a_prefix(tmp_path: Path, path: str) -> None:
    """With `prefix` the app answers under it, whether the proxy strips it or not, and its description says where."""
    chat = app.create_app(store=f"sqlite:///{tmp_path}/chat.db", authenticate=by_header, prefix="/todo")
    with TestClient(chat, headers={"x-user": "alice"}) as client:
        assert client.get(path).json() == []
        described = client.get(path.replace("api/tasks", "openapi.json")).json()
        assert described["servers"] == [{"url": "/todo"}]
        assert described["security"] == []  # the host has its own way
        assert client.get(path.replace("api/tasks", "static/app.js")).status_code == 200
        assert client.get("/todo", follow_redirects=False).headers["location"] == "/todo/"
        assert client.get(path.replace("api/tasks", "component/")).url.path in ("/component", "/todo/component")


def test_two_instances_do_not_touch_each_other(tmp_path: Path) -> None:
    """Two apps in one process have users, conversations, tasks and agents of their own; one may end, or start again."""
    with Host(tmp_path, name="one.db", agent=Agent(name="A", model=scripted("One.", "One."))) as one:
        with Host(tmp_path, name="two.db", agent=Agent(name="B", model=scripted("Two."))) as two:
            assert one.say("hi").text == "One."
            assert two.say("hi").text == "Two."
            assert two.post("/todo/api/tasks", json={"title": "Two's"}).status_code == 201
            assert one.get("/todo/api/tasks").json() == []
            assert len(one.get("/todo/api/conversations").json()) == 1
        assert one.say("hi").text == "One."
        with two:
            assert [task["title"] for task in two.get("/todo/api/tasks").json()] == ["Two's"]


def test_one_file_is_not_used_twice(tmp_path: Path) -> None:
    """A second app on the same file, even in the same process, refuses to start."""
    with Host(tmp_path), pytest.raises(Exception, match="in use by another server"), Host(tmp_path):
        pass


# ---- the installed package ----

NAMES = ("agent", "auth", "db", "dialects", "engines", "events", "models", "runs", "serve", "settings")
NAMES += ("store", "turns", "web")
THE_HOSTS_OWN = f"import {', '.join(NAMES)}\n"
APP = """
from contextlib import asynccontextmanager
import sys
from todochat.app import create_app

async def authenticate(request):
    return request.headers.get("x-user")

chat = create_app(store="sqlite:///chat.db", authenticate=authenticate)

@asynccontextmanager
async def lifespan(host):
    async with chat.router.lifespan_context(chat):
        yield

def seen():
    ours = {name.split(".")[1] for name in sys.modules if name.startswith("todochat.")}
    return {name: getattr(module, "HOSTS", module.__file__) for name, module in sys.modules.items()
            if name.startswith("todochat.") or name in ours}
"""
HOSTS = {
    "starlette": THE_HOSTS_OWN
    + APP
    + """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

async def modules(request):
    return JSONResponse(seen())

app = Starlette(routes=[Route("/modules", modules), Mount("/todo", chat)], lifespan=lifespan)
""",
    "fastapi": THE_HOSTS_OWN
    + APP
    + """
from fastapi import FastAPI

app = FastAPI(lifespan=lifespan)

@app.get("/modules")
async def modules() -> dict[str, str | bool]:
    return seen()

app.mount("/todo", chat)
""",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh virtual environment with the wheel in it; what the wheel needs is borrowed from here."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "node_modules", "build", "*.egg-info", "*.db*")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)  # setuptools builds in the source tree
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(build, check=True, capture_output=True, timeout=200)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True, timeout=200)
    [site] = (folder / "venv" / "lib").glob("python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python


def clean_env(**settings: str) -> dict[str, str]:
    """Return an environment without settings of ours, and without the path of this source."""
    return {name: value for name, value in os.environ.items() if name not in [*SETTINGS, "PYTHONPATH"]} | settings


@pytest.fixture(scope="module", params=["starlette", "fastapi"])
def host(
    request: pytest.FixtureRequest, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A host that has modules with the names of ours, served by uvicorn: its URL and its folder."""
    if importlib.util.find_spec(request.param) is None:
        missing(f"{request.param} is not installed: pip install {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    for name in NAMES:
        (folder / f"{name}.py").write_text("HOSTS = True\n")
    (folder / "app.py").write_text(HOSTS[request.param] + "\nHOSTS = True\n")
    command = [str(installed), "-m", "uvicorn", "app:app", "--port", "0"]
    with running(command, "Uvicorn running on", cwd=folder, env=clean_env(CORS_ORIGINS="https://a.example")) as started:
        yield started[1].split("running on ")[1].split()[0], folder


def test_an_installed_chat_works_in_a_host(host: tuple[str, Path]) -> None:
    """Under a prefix, from the wheel: chat, conversations, tasks, page, description and MCP all answer."""
    url = f"{host[0]}/todo"
    with httpx.Client(headers={"x-user": "alice"}, timeout=20) as client:
        answer = client.post(f"{url}/chatkit", json={"message": "add buy milk"})
        assert answer.text.endswith("data: [DONE]\n\n")
        assert [task["title"] for task in client.get(f"{url}/api/tasks").json()] == ["buy milk"]
        assert client.get(f"{url}/api/conversations/1").json()["title"] == "add buy milk"
        assert client.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/todo"}]
        assert client.get(f"{url}/health").json() == {"status": "healthy"}
        page = client.get(url, follow_redirects=True)
        assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
        for link in re.findall(r'(?:src|href)="([^"#:]+)"', page.text):
            assert not link.startswith("/"), "a link that leaves the prefix"
            assert client.get(page.url.join(link)).status_code == 200, link
        assert httpx.get(f"{url}/api/tasks").status_code == 401
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" in client.options(f"{url}/chatkit", headers=preflight).headers

    async def by_mcp() -> Any:
        async with (
            httpx2.AsyncClient(headers={"x-user": "alice"}, timeout=10) as http,
            mcp.Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
        ):
            return (await client.call_tool("list_tasks", {"status": "all"})).structured_content["total"]

    assert asyncio.run(asyncio.wait_for(by_mcp(), 20)) == 1


def test_nothing_is_imported_by_a_generic_name(host: tuple[str, Path]) -> None:
    """The host's app.py, db.py and agent.py are the host's; ours are modules of `todochat`, from the wheel."""
    seen = httpx.get(f"{host[0]}/modules").json()
    for name, origin in seen.items():
        assert name.startswith("todochat") == (origin is not True), name
        assert origin is True or "site-packages/todochat/" in origin
    used = {"app", *NAMES} - {"serve"}  # which is for `python -m todochat.app` alone
    assert used | {f"todochat.{name}" for name in used} <= set(seen)


def test_a_hosts_type_checker_knows_what_create_app_takes(installed: Path, tmp_path: Path) -> None:
    """A host that checks its types sees those of ours, also beside modules with the same names."""
    (tmp_path / "db.py").write_text("class Store: ...\n")
    (tmp_path / "host.py").write_text(
        "import db\nfrom todochat.app import create_app\nfrom todochat.settings import Settings\n"
        "create_app(store='sqlite:///chat.db', settings=Settings(max_live=5), parts=['tasks'])\n"
        "create_app(store=db.Store())\ncreate_app(settings=5)\ncreate_app(tasks=8)\ncreate_app(parts=['chat'])\n"
    )
    if (cache := ROOT / ".mypy_cache").exists():  # with what it knows of the libraries, this takes no minute
        shutil.copytree(cache, tmp_path / cache.name)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed), "host.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=clean_env(), capture_output=True, text=True)
    lines = [line.split(":")[1] for line in ended.stdout.splitlines() if ": error:" in line]
    assert lines == ["5", "6", "7", "8"], ended.stdout


def test_the_database_is_the_hosts_file(host: tuple[str, Path], installed: Path) -> None:
    """The database is where the URL says, in the host's folder, and nothing is written among the packages."""
    assert (host[1] / "chat.db").exists()
    written = [path for path in (installed.parent.parent / "lib").rglob("*.db*") if "borrowed" not in path.name]
    assert written == []


def test_a_host_that_ends_keeps_what_was_said(installed: Path, tmp_path: Path) -> None:
    """When the host's own server is ended in mid-answer, the answer is stored as far as it came, as interrupted."""
    (tmp_path / "host.py").write_text(HOSTS["starlette"].removeprefix(THE_HOSTS_OWN))
    command = [str(installed), "-m", "uvicorn", "host:app", "--port", "0", "--timeout-graceful-shutdown", "1"]
    with running(command, "Uvicorn running on", cwd=tmp_path, env=clean_env()) as (process, line):
        url = line.split("running on ")[1].split()[0]
        body = {"message": "help"}
        with httpx.stream("POST", f"{url}/todo/chatkit", json=body, headers={"x-user": "alice"}) as answer:
            chunks = answer.iter_text()
            while '"text"' not in next(chunks):
                pass
            process.send_signal(signal.SIGTERM)
            with suppress(httpx.RemoteProtocolError):
                list(chunks)
        process.wait(10)
    with closing(sqlite3.connect(tmp_path / "chat.db")) as database:
        [(status, content)] = database.execute("SELECT status, content FROM messages WHERE role = 'assistant'")
    assert status == "interrupted"
    assert content.startswith("I am the offline")


def test_the_installed_command_line_keeps_its_files_where_it_runs(installed: Path, tmp_path: Path) -> None:
    """`python -m todochat.app` is the service, with its database in the working directory."""
    command = [str(installed), "-m", "todochat.app"]
    with running(command, "Sign in: ", cwd=tmp_path, env=clean_env(PORT="0")) as (_, line):
        assert httpx.get(line.split("Sign in: ")[1].split("/#")[0] + "/health").status_code == 200
    assert (tmp_path / "todochat.db").exists()


PROCESS = """
import agents, aiosqlite, httpx, jose, openai, starlette.testclient, uvicorn  # what others do on import is theirs
import asyncio, gc, logging, os, signal, sys, warnings
from agents import tracing
from agents.models import _openai_shared as shared

def process():
    loggers = {name: (l.level, l.propagate, len(l.handlers), l.disabled)
               for name, l in logging.root.manager.loggerDict.items() if isinstance(l, logging.Logger)}
    return {
        "root logger": (logging.root.level, len(logging.root.handlers), logging.raiseExceptions),
        "loggers": {name: how for name, how in loggers.items() if how != (0, True, 0, False)},
        "loop policy": type(asyncio.get_event_loop_policy()),
        "signals": {s: signal.getsignal(s) for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)},
        "sdk": (shared.get_default_openai_client(), shared.get_default_openai_key(),
                shared.get_use_responses_by_default(), tracing.get_trace_provider()._disabled),
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "environment": dict(os.environ),
        "warnings": len(warnings.filters),
        "hooks": (sys.excepthook, sys.displayhook, sys.path[:], sys.getrecursionlimit()),
        "cwd": os.getcwd(),
        "umask": os.umask(0o022),
    }

before = process()
from starlette.testclient import TestClient
from todochat.app import create_app

async def authenticate(request):
    return "alice"

chat = create_app(store="sqlite:///chat.db", authenticate=authenticate)
assert process() == before, "create_app"
with TestClient(chat) as client:
    assert process() == before, "the lifespan"
    assert "[DONE]" in client.post("/chatkit", json={"message": "add milk"}).text
    assert process() == before, "a turn"
assert process() == before, "the end"
print("as it was")
"""


def test_the_hosts_process_stays_as_it_was(installed: Path, tmp_path: Path) -> None:
    """Logging, event loop policy, signal handlers, SDK defaults, collector and environment are as before, all along."""
    ended = subprocess.run(
        [str(installed), "-c", PROCESS], cwd=tmp_path, env=clean_env(), capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.strip() == "as it was", ended.stderr
