"""The task tools at /mcp, driven by the mcp package's own client over HTTP."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
from agents import Agent
from agents.mcp import MCPServerStreamableHttp
from conftest import ROOT, Server, forge, token
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from starlette.requests import Request
from starlette.testclient import TestClient

from todochat import agent
from todochat.app import create_app
from todochat.engines import Unavailable
from todochat.settings import Settings

pytestmark = pytest.mark.anyio

TOOLS = ["add_task", "complete_task", "delete_task", "list_tasks", "update_task"]


@asynccontextmanager
async def connect(server: Server, user: str, **options: Any) -> AsyncIterator[Client]:
    """Connect as a user."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token(user)}"}, timeout=10) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with asyncio.timeout(20), Client(transport, **options) as client:
            yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_five_tools_work_on_the_list(server: Server, mode: str) -> None:
    """A client of either generation of the protocol lists the five tools and works on the list that REST shows."""
    alice = f"alice-{uuid.uuid4()}"
    async with connect(server, alice, mode=mode) as client:
        tools = (await client.list_tools()).tools
        assert sorted(tool.name for tool in tools) == TOOLS
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in tools)
        added = await client.call_tool("add_task", {"title": "Buy milk", "description": None})
        assert not added.is_error
        task_id = added.structured_content["task_id"]
        assert json.loads(added.content[0].text) == added.structured_content  # type: ignore[union-attr]
        await client.call_tool("complete_task", {"task_id": task_id, "completed": True})
        listed = await client.call_tool("list_tasks", {"status": "completed"})
        assert [task["title"] for task in listed.structured_content["tasks"]] == ["Buy milk"]
    with server.client(alice) as client:
        assert [(task["title"], task["completed"]) for task in client.tasks()] == [("Buy milk", True)]


async def test_it_says_what_it_is_and_leaves_text_as_it_is(server: Server) -> None:
    """The server names its version, and non-Latin text is no \\uXXXX for the model of the client to spell out."""
    version = json.loads((ROOT / "openapi.json").read_text())["info"]["version"]
    async with connect(server, f"user-{uuid.uuid4()}") as client:
        assert (client.server_info.name, client.server_info.version) == ("todochat", version)
        added = await client.call_tool("add_task", {"title": "\u725b\u5976"})
        assert "\u725b\u5976" in added.content[0].text  # type: ignore[union-attr]


async def test_nothing_of_one_user_is_visible_to_another(server: Server) -> None:
    """Two users connected at once see, change and delete their own tasks only."""
    alice, bob = f"alice-{uuid.uuid4()}", f"bob-{uuid.uuid4()}"
    async with connect(server, alice) as hers, connect(server, bob) as his:
        added = await hers.call_tool("add_task", {"title": "Her secret"})
        task_id = added.structured_content["task_id"]
        listed = await his.call_tool("list_tasks", {"status": "all"})
        assert listed.structured_content == {"success": True, "total": 0, "tasks": []}
        for name, arguments in [
            ("complete_task", {"task_id": task_id, "completed": True}),
            ("update_task", {"task_id": task_id, "title": "His"}),
            ("delete_task", {"task_id": task_id}),
        ]:
            refused = await his.call_tool(name, arguments)
            assert refused.is_error
            assert refused.structured_content == {"success": False, "error": f"There is no task {task_id}."}
    with server.client(alice) as client:
        assert [(task["title"], task["completed"]) for task in client.tasks()] == [("Her secret", False)]


async def test_what_the_client_gets_wrong_is_an_error_it_can_read(server: Server) -> None:
    """Arguments that do not fit are a result with an error; an unknown tool is an error of the protocol."""
    async with connect(server, "carol") as client:
        for name, arguments in [
            ("complete_task", {"task_id": "the first"}),
            ("complete_task", {"task_id": 10**30}),
            ("add_task", {"title": "x" * 1000}),
            ("add_task", {}),
        ]:
            answer = await client.call_tool(name, arguments)
            assert answer.is_error
            assert not answer.structured_content["success"]
        with pytest.raises(MCPError, match="no tool"):
            await client.call_tool("drop_table", {})


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", f"Bearer {forge({'sub': 'alice', 'exp': 1})}"])
def test_without_a_token_it_is_401(server: Server, authorization: str | None) -> None:
    """Without a valid token nothing is answered but 401, before the body is looked at."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
    for path in ("/mcp", "/mcp/"):
        answer = httpx.post(f"{server.url}{path}", content=b"{}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["detail"]


@pytest.mark.sqlite
def test_a_page_of_a_foreign_origin_is_403(make_server: Callable[..., Server]) -> None:
    """As the protocol asks of servers: only our own pages and those of CORS_ORIGINS may call, and what is no page."""
    server = make_server(CORS_ORIGINS="https://shop.example")
    headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {token()}"}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    def status(**more: str) -> int:
        return httpx.post(f"{server.url}/mcp", json=ping, headers=headers | more, timeout=10).status_code

    assert [status(), status(Origin=server.url), status(Origin="https://shop.example")] == [200, 200, 200]
    assert [status(Origin="https://evil.example"), status(Origin="null")] == [403, 403]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"jsonrpc": "2.0"}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("version", [None, "2025-06-18", "2026-07-28", "1066-10-14"])
def test_a_malformed_request_is_a_400(server: Server, body: bytes, version: str | None) -> None:
    """Whatever is sent is refused with a 4xx, never a 500 and never a stream that hangs."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    headers |= {"Authorization": f"Bearer {token()}"} | ({"MCP-Protocol-Version": version} if version else {})
    answer = httpx.post(f"{server.url}/mcp", content=body, headers=headers, timeout=10)
    assert 400 <= answer.status_code < 500


def test_only_post_is_served(server: Server) -> None:
    """A GET, which would hold a stream open for nothing, is a 405."""
    headers = {"Authorization": f"Bearer {token()}", "Accept": "text/event-stream"}
    assert httpx.get(f"{server.url}/mcp", headers=headers).status_code == 405


def test_a_body_that_is_too_large_is_a_413(server: Server) -> None:
    """The limit of the other requests holds here too."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token()}"}
    assert httpx.post(f"{server.url}/mcp", content=b" " * 2**21, headers=headers).status_code == 413


async def test_an_agent_elsewhere_can_use_it(server: Server) -> None:
    """The Agents SDK's own MCP server class connects to it, so an agent in another program shares the list."""
    headers = {"Authorization": f"Bearer {token('dave')}"}
    async with MCPServerStreamableHttp({"url": f"{server.url}/mcp", "headers": headers}) as tasks:
        assert Agent(name="Elsewhere", mcp_servers=[tasks])
        await tasks.call_tool("add_task", {"title": "From elsewhere"})
        assert sorted(tool.name for tool in await tasks.list_tools()) == TOOLS
    with server.client("dave") as client:
        assert [task["title"] for task in client.tasks()] == ["From elsewhere"]


async def test_each_tool_takes_only_what_it_requires(server: Server) -> None:
    """The Agents SDK's own MCP client, which holds a call to the listed schema, calls each tool with the least."""
    least = {"add_task": ["title"], "list_tasks": [], "complete_task": ["task_id"]}
    least |= {"update_task": ["task_id"], "delete_task": ["task_id"]}
    headers = {"Authorization": f"Bearer {token(f'erin-{uuid.uuid4()}')}"}
    async with MCPServerStreamableHttp({"url": f"{server.url}/mcp", "headers": headers}) as tasks:
        schemas = {tool.name: tool.input_schema for tool in await tasks.list_tools()}
        assert {name: schema.get("required", []) for name, schema in schemas.items()} == least
        values = {"title": "Buy milk", "task_id": 0}
        for name, required in least.items():
            answer = await tasks.call_tool(name, {argument: values[argument] for argument in required})
            result = json.loads(answer.content[0].text)  # type: ignore[union-attr]
            assert result["success"], (name, result)
            values["task_id"] = result.get("task_id", values["task_id"])


def test_the_model_keeps_its_strict_schemas() -> None:
    """What models get stays strict: all parameters required, no others."""
    for tool in agent.todo_tools():
        schema = tool.params_json_schema
        assert tool.strict_json_schema
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])


@pytest.mark.parametrize("argument", ["completed", "descripton", "\ud800", "x" * 1000])
def test_an_argument_that_a_tool_does_not_have_is_no_success(server: Server, argument: str) -> None:
    """A misspelt argument, ignored, would be a success that did nothing: it is an error that names it."""
    user = f"frank-{uuid.uuid4()}"
    headers = {"Authorization": f"Bearer {token(user)}", "Accept": "application/json, text/event-stream"}
    params = {"name": "add_task", "arguments": {"title": "Buy milk", argument: "x"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    body = json.dumps(call)
    answer = httpx.post(f"{server.url}/mcp", content=body, headers=headers | {"Content-Type": "application/json"})
    if argument == "\ud800":  # half a character is no JSON to the protocol's own reader
        assert answer.status_code < 500
    else:
        result = answer.json()["result"]
        assert result["isError"]
        assert argument[:50] in result["structuredContent"]["error"]
    with server.client(user) as client:
        assert client.tasks() == []


class Broken:
    """A host's tasks, of which one call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def delete_task(self, user_id: str, task_id: int) -> None:
        """Fail."""
        raise self._error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("a text that no client may see"), "Something went wrong on the server."),
        (Unavailable("The database is busy. Please try again."), "The database is busy. Please try again."),
    ],
)
def test_an_error_of_the_tasks_is_told_in_our_words(error: Exception, says: str) -> None:
    """What an exception of the tasks says is not sent to the client, but for a sentence of ours."""

    async def alice(request: Request) -> str:
        return "alice"

    tasks: Any = Broken(error)
    chat = create_app(store="sqlite://", settings=Settings(), authenticate=alice, tasks=tasks)
    params = {"name": "delete_task", "arguments": {"task_id": 1}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    with TestClient(chat) as client:
        answer = client.post("/mcp", json=call, headers={"Accept": "application/json, text/event-stream"})
    assert answer.json()["result"]["isError"]
    assert answer.json()["result"]["structuredContent"] == {"success": False, "error": says}
    assert "no client may see" not in answer.text
