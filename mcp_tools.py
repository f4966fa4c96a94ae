"""The task tools as a server of the Model Context Protocol (MCP), so that any MCP client works on the same list.

Only POST is served, without sessions: each request carries the bearer token that decides whose tasks it is about, so
there is nothing to hijack and nothing to clean up. The protocol's own work is done by the `mcp` package.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents import FunctionTool
from agents.tool_context import ToolContext
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

USER = "todochat.user"  # where in the ASGI scope the handler leaves the id of the user that it let in

log = logging.getLogger("todochat")


def endpoint(
    tools: Sequence[FunctionTool],
    context_of: Callable[[str], Any],
    unavailable: type[Exception],
    *,
    max_body: int,
) -> StreamableHTTPSessionManager:
    """Return the ASGI endpoint (`handle_request`) that serves `tools`; it works while its `run()` is entered.

    `context_of` makes, from the user id in the scope, the object that the tools receive. `unavailable` is the exception
    by which the store says that it cannot right now; its text is for the user. `max_body` is in bytes.
    """
    by_name = {tool.name: tool for tool in tools}

    async def list_tools(ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.params_json_schema | {"additionalProperties": False},
                )
                for tool in tools
            ]
        )

    async def call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        if params.name not in by_name:
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:50]!r}.")
        given = params.arguments or {}
        if unknown := given.keys() - by_name[params.name].params_json_schema.get("properties", {}).keys():
            # Ignored, a misspelt one would be a success that did nothing.
            return _result({"success": False, "error": f"{params.name} has no argument {min(unknown)[:50]!a}."})
        arguments = json.dumps(given)
        context = ToolContext(
            context_of(ctx.request.scope[USER]),
            tool_name=params.name,
            tool_call_id=str(ctx.request_id),
            tool_arguments=arguments,
        )
        try:
            return _result(json.loads(await by_name[params.name].on_invoke_tool(context, arguments)))
        except unavailable as error:
            return _result({"success": False, "error": str(error)})
        except Exception as error:  # mcp 2.3 would send its text to the client
            log.error("mcp %s: %s", params.name, type(error).__name__)
            return _result({"success": False, "error": "Something went wrong on the server."})

    server = Server("todochat", on_list_tools=list_tools, on_call_tool=call_tool)
    return StreamableHTTPSessionManager(server, json_response=True, stateless=True, max_request_body_size=max_body)


def _result(output: Mapping[str, Any]) -> CallToolResult:
    text = TextContent(type="text", text=json.dumps(output))
    return CallToolResult(content=[text], structured_content=dict(output), is_error=not output["success"])
