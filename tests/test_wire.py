"""Frames, and the response that sends them."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

import wire


@pytest.mark.parametrize("text", ["Hello", 'a "quote"\n\\', "\u2028\u0085\x00", "caf\u00e9 \U0001f600", "\ud83d"])
def test_a_text_frame_is_what_json_dumps_makes(text: str) -> None:
    """The fast way of writing a text frame gives the same bytes as the plain one."""
    event = {"type": "text", "content": text}
    assert wire.frame(text) == wire.frame(event)
    assert wire.frame(text).isascii()
    assert json.loads(wire.frame(text)[6:]) == event


async def endless() -> AsyncGenerator[bytes, None]:
    """Yield more than any buffer holds."""
    while True:
        yield b": padding\n\n" * 1000


def test_a_reader_that_stalls_for_too_long_is_dropped() -> None:
    """A reader that takes nothing for the time allowed is let go, and the response ends."""

    async def main() -> None:
        dropped = asyncio.Event()

        async def on_disconnect() -> None:
            dropped.set()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await wire.EventStream(endless(), {}, on_disconnect, stall=0.3)(scope, receive, send)

        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2], limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        await asyncio.wait_for(dropped.wait(), 10)
        writer.transport.abort()
        server.should_exit = True
        await asyncio.wait_for(serving, 10)

    asyncio.run(main())


def test_a_reader_that_goes_away_ends_the_response() -> None:
    """When the client has disconnected the chunks are closed and the hook is called, once."""
    calls: list[str] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            calls.append("closed")

    async def on_disconnect() -> None:
        calls.append("gone")

    async def main() -> None:
        sent: list[Any] = []
        read = asyncio.Event()

        async def receive() -> Any:
            await read.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                read.set()

        await wire.EventStream(chunks(), {"X-Thread-Id": "1"}, on_disconnect)({"type": "http"}, receive, send)
        assert (b"x-thread-id", b"1") in sent[0]["headers"]

    asyncio.run(main())
    assert calls == ["closed", "gone"]
