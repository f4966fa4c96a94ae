"""Frames, and the response that sends them."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from todochat.dialects import THINKING, replay, simple, sse
from todochat.events import Event
from todochat.events import Message as Stored

CHUNK = b"data: 1\n\n"

# ---- frames of the simple dialect ----


def frames_of(*batches: list[Event]) -> list[bytes]:
    """Return the chunks that the batches become in conversation 5."""

    async def source() -> AsyncGenerator[list[Event], None]:
        for batch in batches:
            yield batch

    async def collected() -> list[bytes]:
        return [chunk async for chunk in simple.frames(5, source())]

    return asyncio.run(collected())


@pytest.mark.parametrize("text", ["Hello", 'a "quote"\n\\', "\u2028\u0085\x00", "caf\u00e9 \U0001f600", "\ud83d"])
def test_a_text_frame_is_what_json_dumps_makes(text: str) -> None:
    """The fast way of writing a text frame gives the same bytes as the plain one."""
    chunk, _ = frames_of([{"type": "text", "content": text}])
    assert chunk.decode() == sse.frame({"type": "text", "content": text})
    assert chunk.isascii()
    assert json.loads(chunk[6:]) == {"type": "text", "content": text}


def test_each_event_is_exactly_one_frame() -> None:
    """Frame N is event N: whoever comes back with `after=N` misses nothing and sees nothing twice."""
    events: list[Event] = [
        {"type": "started"},
        {"type": "thinking", "content": "Hm.\n\n"},
        {"type": "text", "content": ""},
        {"type": "tool_call", "id": "1", "name": "a", "args": {"x": "\n\n\u2028"}},
        {"type": "tool_result", "id": "1", "name": "a", "result": None},
        {"type": "text", "content": "\n\nTwo"},
        {"type": "error", "message": "Sorry."},
    ]
    chunks = frames_of(events[:3], events[3:])
    assert len(chunks) == 3
    *frames, done, rest = b"".join(chunks).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    shown = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
    assert shown == [{"type": "thinking", "content": THINKING, "thread_id": 5}, *events[1:]]


def test_a_replay_is_what_was_streamed() -> None:
    """A finished answer is replayed in the order in which it happened: reasoning, text, calls, results, its error."""
    answer: Stored = {
        "id": 8,
        "role": "assistant",
        "content": "One\n\nTwo",
        "tool_calls": [
            {"id": "1", "name": "a", "args": {}, "result": 1, "at": 3},
            {"id": "2", "name": "b", "args": {}, "at": 3},
        ],
        "reasoning": [{"text": "Hm.", "at": 0, "calls": 0}, {"text": "Oh.", "at": 3, "calls": 1}],
        "citations": [],
        "status": "failed",
        "error": "Sorry.",
        "feedback": None,
        "created_at": "2026-11-22T13:23:45.951928Z",
    }

    async def replayed() -> list[Event]:
        return [event async for batch in replay(answer) for event in batch]

    assert asyncio.run(replayed()) == [
        {"type": "started"},
        {"type": "thinking", "content": "Hm."},
        {"type": "text", "content": "One"},
        {"type": "tool_call", "id": "1", "name": "a", "args": {}},
        {"type": "tool_result", "id": "1", "name": "a", "result": 1},
        {"type": "thinking", "content": "Oh."},
        {"type": "tool_call", "id": "2", "name": "b", "args": {}},
        {"type": "text", "content": "\n\nTwo"},
        {"type": "error", "message": "Sorry."},
    ]


# ---- the response ----


@asynccontextmanager
async def connected(
    respond: Callable[[], sse.EventStream],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve a response over HTTP, and give the connection of a reader that has asked for it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond()(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname()[:2], limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        yield reader, writer
    writer.transport.abort()
    server.should_exit = True
    await asyncio.wait_for(serving, 10)


async def endless() -> AsyncGenerator[bytes, None]:
    """Yield more than any buffer holds."""
    while True:
        yield b": padding\n\n" * 1000


async def never_disconnected() -> Message:
    """Be the `receive` of a reader that stays."""
    await asyncio.Event().wait()
    raise AssertionError


def test_no_cache_and_no_proxy_holds_a_stream_back() -> None:
    """The headers say what this is, and that it must be passed on as it comes."""

    async def one() -> AsyncGenerator[bytes, None]:
        yield CHUNK

    async def main() -> None:
        async with connected(lambda: sse.EventStream(one(), {"X-Thread-Id": "1"})) as (reader, _):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        assert "content-type: text/event-stream; charset=utf-8" in head
        assert "cache-control: no-cache, no-transform" in head
        assert "x-accel-buffering: no" in head
        assert "x-thread-id: 1" in head

    asyncio.run(main())


def test_a_reader_that_stalls_for_too_long_is_dropped() -> None:
    """A reader that takes nothing for the time allowed is let go, and the response ends."""

    async def main() -> None:
        dropped = asyncio.Event()

        async def on_disconnect() -> None:
            dropped.set()

        async with connected(lambda: sse.EventStream(endless(), {}, on_disconnect, stall=0.3)) as (reader, _):
            await reader.readline()
            await dropped.wait()

    asyncio.run(main())


def test_a_reader_that_goes_away_ends_the_response() -> None:
    """When the client has disconnected the chunks are closed and the hook is called, once."""
    calls: list[str] = []

    async def main() -> None:
        ended = asyncio.Event()

        async def chunks() -> AsyncGenerator[bytes, None]:
            try:
                yield CHUNK
                await asyncio.Event().wait()
            finally:
                calls.append("closed")

        async def on_disconnect() -> None:
            calls.append("gone")
            ended.set()

        async with connected(lambda: sse.EventStream(chunks(), {}, on_disconnect)) as (reader, writer):
            await reader.readuntil(CHUNK)
            writer.transport.abort()
            await ended.wait()

    asyncio.run(main())
    assert calls == ["closed", "gone"]


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no chunk comes there are pings, one after the other, and then the stream goes on."""
    monkeypatch.setattr(sse, "PING_EVERY", 0.05)
    left: list[str] = []

    async def main() -> None:
        go_on = asyncio.Event()

        async def chunks() -> AsyncGenerator[bytes, None]:
            await go_on.wait()
            yield CHUNK

        async def on_disconnect() -> None:
            left.append("gone")

        async with connected(lambda: sse.EventStream(chunks(), {}, on_disconnect)) as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(3):
                await reader.readuntil(sse.PING)
            go_on.set()
            await reader.readuntil(CHUNK)
            await reader.readuntil(b"0\r\n\r\n")

    asyncio.run(main())
    assert left == []


def test_a_ping_and_a_chunk_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is never given a second thing to send while it is still sending the first."""
    monkeypatch.setattr(sse, "PING_EVERY", 0.02)
    sent: list[bytes] = []
    pings_in_chunks: list[int] = []

    async def main() -> None:
        sending = asyncio.Lock()
        pinging = asyncio.Event()

        async def chunks() -> AsyncGenerator[bytes, None]:
            for _ in range(5):
                yield CHUNK
                pinging.clear()
                await pinging.wait()  # the next chunk comes while a ping is being sent

        async def send(message: Message) -> None:
            assert not sending.locked(), f"{message} comes while something else is being sent"
            body = message.get("body", b"")
            async with sending:
                if body == sse.PING:
                    pinging.set()
                before = sent.count(sse.PING)
                await asyncio.sleep(0.1)  # several times what is between two pings
                if body == CHUNK:
                    pings_in_chunks.append(sent.count(sse.PING) - before)
                sent.append(body)

        await asyncio.wait_for(sse.EventStream(chunks(), {})({"type": "http"}, never_disconnected, send), 10)

    asyncio.run(main())
    assert pings_in_chunks == [0] * 5
    assert sent.count(CHUNK) == 5
    assert sent.count(sse.PING) >= 5
    assert sent[-1] == b""


@pytest.mark.parametrize("fault", ["takes nothing", "is gone"])
def test_a_reader_that_does_not_take_a_ping_is_dropped(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A ping that cannot be sent ends the response like a chunk that cannot, and the hook is called."""
    monkeypatch.setattr(sse, "PING_EVERY", 0.02)
    calls: list[str] = []

    async def silent() -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""

    async def on_disconnect() -> None:
        calls.append("gone")

    async def send(message: Message) -> None:
        if message.get("body") == sse.PING:
            if fault == "is gone":
                raise OSError
            await asyncio.Event().wait()

    async def main() -> None:
        response = sse.EventStream(silent(), {}, on_disconnect, stall=0.1)
        await asyncio.wait_for(response({"type": "http"}, never_disconnected, send), 10)

    asyncio.run(main())
    assert calls == ["gone"]
