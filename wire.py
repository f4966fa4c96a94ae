"""The wire: our events as the frames of the simple dialect, and the response that sends them.

A frame is one line `data: <JSON>` and a blank line, nothing else: clients of this dialect split on blank lines. The
JSON is ASCII, because some of them also split on U+2028 or U+0085.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from json.encoder import encode_basestring_ascii as quoted  # the standard encoder's own, a tenth of a `dumps`
from typing import Any

from starlette.types import Message, Receive, Scope, Send

Event = str | dict[str, Any]

log = logging.getLogger("todochat")

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
STALL = 60.0  # seconds that a reader may take nothing before it is dropped

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # or a compressing proxy would hold the frames back
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",  # or nginx would keep the frames to itself
}


def frame(event: Event) -> str:
    """Return one event as a `data:` frame."""
    if isinstance(event, str):
        return f'data: {{"type":"text","content":{quoted(event)}}}\n\n'
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


async def simple_frames(batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
    """Turn batches of events into chunks of frames, an empty batch into a ping, and the end into `[DONE]`."""
    async for batch in batches:
        yield "".join(map(frame, batch)).encode("ascii") if batch else PING
    yield DONE


class EventStream:
    """An ASGI response that sends chunks as they come and ends when they end.

    When the reader goes away, or takes nothing for `stall` seconds, `on_disconnect` is awaited; what produces the
    chunks must not depend on this response. Starlette 1.10's StreamingResponse has neither the hook nor the limit.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        on_disconnect: Callable[[], Awaitable[Any]] | None = None,
        *,
        stall: float = STALL,
    ) -> None:
        self._chunks = chunks
        self._headers = headers
        self._on_disconnect = on_disconnect
        self._stall = stall
        self._sending_since: float | None = None  # while the reader is to take a chunk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await self._watch((writer, gone))
            complete = writer.done() and writer.exception() is None
        finally:
            await _cancel((writer, gone))
            await self._chunks.aclose()
            if not writer.cancelled() and (error := writer.exception()) is not None and not isinstance(error, OSError):
                log.error("a stream broke off: %s", type(error).__name__)  # not its text, which may quote the answer
        if not complete and self._on_disconnect is not None:
            await self._on_disconnect()

    async def _watch(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Wait until one of the tasks ends, or one chunk has waited for too long.

        One timer for the whole stream: a timeout around each chunk would cost as much as the chunk.
        """
        left, clock = self._stall, asyncio.get_running_loop().time
        while left > 0 and not (await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED))[0]:
            left = self._stall if self._sending_since is None else self._sending_since + self._stall - clock()

    async def _write(self, send: Send) -> None:
        headers = {**HEADERS, **self._headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        clock = asyncio.get_running_loop().time
        async for chunk in self._chunks:
            self._sending_since = clock()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._sending_since = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
