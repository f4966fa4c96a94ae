"""The load client: one asyncio protocol per stream, which only writes down what came and when.

All parsing happens after the stream has ended, so that it does not delay another stream's clock.
"""

import asyncio
import json
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from script import Script

PATIENCE = 60.0  # seconds for one stream


class Incomplete(Exception):
    """A stream was not what was asked for."""


@dataclass
class Result:
    """What a stream took, in milliseconds: until its first text, and of delay for each delta that says when it was."""

    first_text: float
    delays: list[float] = field(default_factory=list)


class Stream(asyncio.Protocol):
    """One connection: sends a request, keeps each piece of the answer with the moment at which it came."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[tuple[int, bytes]] = []  # nanoseconds, bytes
        self.sent = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.sent = time.monotonic_ns()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic_ns(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def request(path: str, body: Any = None, token: str | None = None) -> bytes:
    """Return an HTTP request after whose answer the connection is closed."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    return head.encode() + b"\r\n" + content


async def fetch(port: int, message: bytes) -> Stream:
    """Send a request and return the stream once its connection is closed."""
    _, stream = await asyncio.get_running_loop().create_connection(lambda: Stream(message), "127.0.0.1", port)
    await asyncio.wait_for(stream.closed, PATIENCE)
    return stream


def body_of(stream: Stream) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the decoded body of a 200, and when it had which length: (nanoseconds, bytes of the body)."""
    raw = b"".join(data for _, data in stream.pieces)
    head, _, rest = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise Incomplete(f"{head[:60]!r} {rest[:200]!r}")
    if b"chunked" not in head.lower():
        return rest, []
    body, at, lengths = bytearray(), len(head) + 4, []  # lengths: (end in raw, end in body)
    while True:
        line = raw.index(b"\r\n", at)
        size = int(raw[at:line], 16)
        if size == 0:
            break
        body += raw[line + 2 : line + 2 + size]
        at = line + 4 + size
        lengths.append((at, len(body)))
    return bytes(body), _moments(stream, lengths)


def _moments(stream: Stream, lengths: list[tuple[int, int]]) -> list[tuple[int, int]]:
    moments, received, pieces = [], 0, iter(stream.pieces)
    moment = 0
    for end_in_raw, end_in_body in lengths:
        while received < end_in_raw:
            moment, data = next(pieces)
            received += len(data)
        moments.append((moment, end_in_body))
    return moments


def check(stream: Stream, script: Script) -> Result:
    """Return what the stream took, once it is known to be complete and correct; raises `Incomplete`."""
    body, moments = body_of(stream)
    texts: list[str] = []
    arrivals: list[int] = []
    end, moment_of = 0, iter(moments)
    moment, reached = next(moment_of, (0, 0))
    frames = body.decode().split("\n\n")
    for frame in frames[:-1]:
        end += len(frame.encode()) + 2
        while reached < end:
            moment, reached = next(moment_of)
        words = (_text(frame) or "").split()  # a frame may hold several deltas
        texts += words
        arrivals += [moment] * len(words)
    _verify(frames, texts, script)
    delays = [(a - int(t)) / 1e6 for a, t in zip(arrivals, texts, strict=True)] if script.pace else []
    return Result((arrivals[0] - stream.sent) / 1e6, delays)


def _text(frame: str) -> str | None:
    if '"content":"' not in frame and '"content": "' not in frame and '"delta":"' not in frame:
        return None
    event = json.loads(frame.removeprefix("data: "))
    if event["type"] == "text":
        return str(event["content"])
    update = event.get("update", {})
    return str(update["delta"]) if update.get("type") == "assistant_message.content_part.text_delta" else None


def _verify(frames: Sequence[str], words: list[str], script: Script) -> None:
    whole = len(words) == script.deltas and (script.pace > 0 or words == [f"word{n}" for n in range(script.deltas)])
    if frames[-2:] == ["data: [DONE]", ""]:  # the simple dialect
        ended = any('"tool_call' in frame for frame in frames) == script.tool
    else:
        last = [frame for frame in frames if '"thread.item.done"' in frame and '"assistant_message"' in frame][-1:]
        ended = bool(last) and json.loads(last[0][6:])["item"]["content"][0]["text"].split() == words
    if not whole or not ended:
        raise Incomplete(f"{len(words)} of {script.deltas} words, end: {frames[-2:]}")


async def drive(
    port: int, path: str, body: Any, token: str | None, script: Script, *, streams: int, turns: int, over: float = 0.0
) -> list[Result]:
    """Run `turns` turns, `streams` at a time, and check each; with `over` the first ones start within so many seconds.

    At moments drawn by chance, the same in each run: evenly spaced streams of one pace would all be due together.
    """
    message = request(path, body, token)
    chance = random.Random(streams)
    started = 0
    done: list[Stream] = []

    async def reader() -> None:
        nonlocal started
        await asyncio.sleep(chance.uniform(0, over))
        while started < turns:
            started += 1
            done.append(await fetch(port, message))

    await asyncio.gather(*(reader() for _ in range(streams)))
    return [check(stream, script) for stream in done]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
