"""The task tools as a server of the Model Context Protocol (MCP), so that any MCP client works on the same list.

Only POST is served, without sessions: each request carries the bearer token that decides whose tasks it is about, so
there is nothing to hijack and nothing to clean up. The protocol's own work is done by the `mcp` package.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from agents.tool_context import ToolContext
from mcp import MCPError, types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todochat.agent import Tasks, TurnContext, todo_tools
from todochat.engines import Unavailable
from todochat.settings import Settings
from todochat.turns.tool_output import json_for_model
from todochat.web.pages import OPENAPI

USER = "todochat.user"  # where in the ASGI scope the handler leaves the id of the user that it let in

log = logging.getLogger("todochat")

RequestContext = ServerRequestContext[Any, Any]  # of any lifespan, with Starlette's request


def endpoint(tasks: Tasks) -> StreamableHTTPSessionManager:
    """Return the ASGI endpoint (`handle_request`) that serves the task tools; it works while its `run()` is entered.

    The tools act on `tasks` for the user in the scope.
    """
    tools = {tool.name: tool for tool in todo_tools(strict=False)}

    async def list_tools(ctx: RequestContext, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.params_json_schema | {"additionalProperties": False},
                )
                for tool in tools.values()
            ]
        )

    async def call_tool(ctx: RequestContext, params: types.CallToolRequestParams) -> types.CallToolResult:
        if (tool := tools.get(params.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name[:50]!r}.")
        given = params.arguments or {}
        if unknown := given.keys() - tool.params_json_schema["properties"].keys():
            # Ignored, a misspelt one would be a success that did nothing.
            return _failure(f"{tool.name} has no argument {min(unknown)[:50]!a}.")
        assert ctx.request is not None
        context = ToolContext(
            TurnContext(ctx.request.scope[USER], tasks),
            tool_name=tool.name,
            tool_call_id=str(ctx.request_id),
            tool_arguments=json.dumps(given),
        )
        try:
            return _result(json.loads(await tool.on_invoke_tool(context, context.tool_arguments)))
        except Unavailable as error:
            return _failure(str(error))
        except Exception as error:  # mcp 2.3 would send its text to the client
            log.error("mcp %s: %s", tool.name, type(error).__name__)
            return _failure("Something went wrong on the server.")

    version = json.loads(OPENAPI.read_bytes())["info"]["version"]
    server = Server("todochat", version=version, on_list_tools=list_tools, on_call_tool=call_tool)
    return StreamableHTTPSessionManager(server, json_response=True, stateless=True)


def handling(endpoint: StreamableHTTPSessionManager, body: bytes) -> ASGIApp:
    """Return the endpoint for a request whose body has been read: mcp 2.3 logs a traceback when one breaks off."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return waiting.pop() if waiting else await receive()

        await endpoint.handle_request(scope, receive_again, send)

    return handle


def refuse_foreign_page(request: Request, settings: Settings) -> None:
    """Answer 403 to a page of another origin than ours and those of CORS_ORIGINS: the protocol asks servers for that.

    See "Security Warning" in https://modelcontextprotocol.io/specification/2025-06-18/basic/transports.
    """
    origin = request.headers.get("origin", "")  # browsers send it, other clients do not
    ours = not origin or origin.split("://")[-1] == request.headers.get("host")
    if not ours and not settings.allows_origin(origin):
        raise HTTPException(403, "Pages of this origin may not call: CORS_ORIGINS has those that may.")


def _failure(sentence: str) -> types.CallToolResult:
    return _result({"success": False, "error": sentence})


def _result(output: Mapping[str, Any]) -> types.CallToolResult:
    text = types.TextContent(type="text", text=json_for_model(output))
    return types.CallToolResult(content=[text], structured_content=dict(output), is_error=not output["success"])
