"""The bare SDK loop: one frame for each delta of `Runner.run_streamed`. No users, no database, nothing survives."""

import json
from collections.abc import AsyncIterator

from agents import RunConfig, Runner
from scripted import todo_agent
from serving import STREAM_HEADERS, serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

AGENT = todo_agent()


async def chat(request: Request) -> Response:
    """Stream the frames of an answer."""
    message = (await request.json())["message"]
    return StreamingResponse(_frames(message), media_type="text/event-stream", headers=STREAM_HEADERS)


async def _frames(message: str) -> AsyncIterator[str]:
    result = Runner.run_streamed(
        AGENT, [{"role": "user", "content": message}], run_config=RunConfig(tracing_disabled=True)
    )
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield f"data: {json.dumps({'type': 'text', 'content': event.data.delta})}\n\n"
        elif event.type == "run_item_stream_event" and event.name in ("tool_called", "tool_output"):
            yield f"data: {json.dumps({'type': event.name})}\n\n"
    yield "data: [DONE]\n\n"


async def health(request: Request) -> Response:
    """Say that the server is up."""
    return JSONResponse({"status": "healthy"})


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/chatkit", chat, methods=["POST"]), Route("/health", health)]))
