"""Bytes only: Starlette sends the frames, nobody makes them. What the HTTP server alone costs."""

import asyncio
from collections.abc import AsyncIterator

from script import Script
from serving import STREAM_HEADERS, serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


async def chat(request: Request) -> Response:
    """Stream the frames of an answer."""
    script = Script.parse((await request.json())["message"])
    return StreamingResponse(_frames(script), media_type="text/event-stream", headers=STREAM_HEADERS)


async def _frames(script: Script) -> AsyncIterator[bytes]:
    yield b'data: {"type":"thinking","content":"Processing your request..."}\n\n'
    if script.tool:
        yield b'data: {"type":"tool_call"}\n\n'
        yield b'data: {"type":"tool_result"}\n\n'
    for n in range(script.deltas):
        if n and n % script.burst == 0:
            await asyncio.sleep(script.pace)
        yield f'data: {{"type":"text","content":"{script.delta(n)}"}}\n\n'.encode()
    yield b"data: [DONE]\n\n"


async def health(request: Request) -> Response:
    """Say that the server is up."""
    return JSONResponse({"status": "healthy"})


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/chatkit", chat, methods=["POST"]), Route("/health", health)]))
