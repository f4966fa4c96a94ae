"""Server-Sent Events: the frames, and the response that sends them.

A frame is one line `data: <JSON>` and a blank line, nothing else: clients of the simple dialect split on blank lines.
The JSON is ASCII, because some of them also split on U+2028 or U+0085.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("todochat")

PING = b": ping\n\n"
PING_EVERY = 15.0  # seconds without a chunk, after which a proxy or a reader might take the stream for dead
STALL = 60.0  # seconds that a reader may take nothing before it is dropped

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # or a compressing proxy would hold the frames back
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",  # or nginx would keep the frames to itself
}


_as_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` would make an encoder each time


def frame(data: object) -> str:
    """Return JSON data as a frame."""
    return f"data: {_as_json(data)}\n\n"


class EventStream:
    """An ASGI response that sends chunks as they come, a ping when none comes for a while, and ends when they end.

    When the reader goes away, or takes nothing for `stall` seconds, `on_disconnect` is awaited; what produces the
    chunks must not depend on this response. Starlette 1.10's StreamingResponse has neither the hook nor the limit.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
        *,
        stall: float = STALL,
    ) -> None:
        self._chunks = chunks
        self._headers = headers
        self._on_disconnect = on_disconnect
        self._stall = stall
        self._sending = asyncio.Lock()  # held while the reader is to take a chunk, or a ping
        self._since = 0.0  # when that began, or ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await self._watch((writer, gone), send)
            complete = writer.done() and writer.exception() is None
        finally:
            writer.cancel()
            gone.cancel()
            await asyncio.gather(writer, gone, return_exceptions=True)
            await self._chunks.aclose()
            if not writer.cancelled() and (error := writer.exception()) is not None and not isinstance(error, OSError):
                log.error("a stream broke off: %s", type(error).__name__)  # not its text, which may quote the answer
        if not complete and self._on_disconnect is not None:
            await self._on_disconnect()

    async def _watch(self, tasks: Iterable[asyncio.Task[None]], send: Send) -> None:
        """Wait until one of the tasks ends or the reader has taken nothing for too long; send pings meanwhile.

        One timer for the whole stream: a timeout around each chunk would cost as much as the chunk.
        """
        self._since = time.monotonic()
        while not any(task.done() for task in tasks):
            limit = self._stall if self._sending.locked() else PING_EVERY
            if (left := self._since + limit - time.monotonic()) > 0:
                shortest = min(left, PING_EVERY, self._stall)  # a chunk that comes meanwhile changes the limit
                await asyncio.wait(tasks, timeout=shortest, return_when=asyncio.FIRST_COMPLETED)
            elif self._sending.locked() or not await self._ping(send):
                return

    async def _ping(self, send: Send) -> bool:
        """Send a ping; return whether the reader has taken it."""
        try:
            async with asyncio.timeout(self._stall):
                await self._send(send, {"type": "http.response.body", "body": PING, "more_body": True})
            return True
        except OSError:  # the reader has gone, or it has taken nothing: a TimeoutError is one too
            return False

    async def _write(self, send: Send) -> None:
        headers = {**HEADERS, **self._headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": raw})
        async for chunk in self._chunks:
            await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Message) -> None:
        async with self._sending:
            self._since = time.monotonic()
            await send(message)
        self._since = time.monotonic()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
