"""The tools of the fault suite: a client that writes down what it saw and when, and a look into the file."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Server, report, token

from todochat import events

SEED = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "20"))  # per cent, of what takes long; the tables are of 100


def rounds(full: int) -> int:
    """Return how often something is tried of which the whole takes long."""
    return max(2, full * ROUNDS // 100)


class Table(dict[str, tuple[int, int]]):
    """How often each fault was tried, and how much was lost. `fixture` is to be a fixture of the file."""

    def __init__(self, name: str) -> None:
        super().__init__()

        @pytest.fixture(scope="module", autouse=True)
        def table(request: pytest.FixtureRequest) -> Iterator[None]:
            """Hand the table over to be printed when all tests are over."""
            yield
            report(request.config, name, self)
            self.clear()

        self.fixture = table

    def tried(self, fault: str, times: int, lost: int = 0) -> None:
        """Write a line of the table."""
        before = self.get(fault, (0, 0))
        self[fault] = before[0] + times, before[1] + lost


def paced_server(folder: Path, **settings: Any) -> Server:
    """Return a server that is not started yet, whose model does what the message says (paced.py)."""
    return Server(folder, "tests/paced.py", LOG_LEVEL="WARNING", **settings)


@contextmanager
def locked(server: Server) -> Iterator[None]:
    """Hold the lock of a server's file, as another program that writes does, until the block ends."""
    with closing(sqlite3.connect(server.database, isolation_level=None, timeout=5)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def left_behind(server: Server) -> dict[int, list[events.Event]]:
    """Return the events of the answers that a killed server has left in its database, by conversation.

    Of a file from a copy: whoever opens it first after a crash mends it, and that is to be the next server.
    On PostgreSQL another process has ended them already, and told their readers by one event more.
    """
    shared = "postgres" in server.env["DATABASE_URL"]
    look_for = f"""
        SELECT m.conversation_id, l.first, l.events FROM live_events l JOIN messages m ON m.id = l.answer_id
        WHERE m.status = '{"interrupted" if shared else "streaming"}' ORDER BY l.answer_id, l.first
    """
    if shared:
        rows = server.rows(look_for)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for ending in ("", "-wal"):
                if (file := server.database.with_name(server.database.name + ending)).exists():
                    shutil.copy(file, folder)
            with closing(sqlite3.connect(f"{folder}/{server.database.name}")) as database:
                rows = database.execute(look_for).fetchall()
    found: dict[int, list[events.Event]] = {}
    for conversation, first, dumped in rows:
        kept = found.setdefault(conversation, [])
        assert first == len(kept), "a gap or an overlap in what is stored"
        kept += events.load(dumped)
    return {thread: kept[:-1] if shared else kept for thread, kept in found.items()}


def words(count: int, first: int = 0) -> str:
    """Return the text that `say COUNT MS` makes."""
    return "".join(f"w{n} " for n in range(first, first + count))


@dataclass
class Record:
    """What a client saw of one answer: each frame with the moment at which it came."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    frames: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    body: str = ""  # of an answer that is no stream
    pings: int = 0

    @property
    def thread(self) -> int:
        """Return the conversation."""
        return int(self.headers["x-thread-id"])

    @property
    def complete(self) -> bool:
        """Return whether the last frame came."""
        return self.frames[-1:] == ["[DONE]"]

    def events(self, until: float = float("inf")) -> list[dict[str, Any]]:
        """Return the events that came before a moment."""
        seen = zip(self.frames, self.times, strict=True)
        return [json.loads(frame) for frame, moment in seen if frame != "[DONE]" and moment <= until]

    def text(self, until: float = float("inf")) -> str:
        """Return the text that came before a moment."""
        return "".join(event["content"] for event in self.events(until) if event["type"] == "text")

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one type."""
        return [event for event in self.events() if event["type"] == kind]

    @property
    def seen(self) -> list[Any]:
        """Return the events as the heart has them: each frame is one of them, in its place."""
        return [{"type": "started"} if "thread_id" in frame else frame for frame in self.events()]

    @property
    def detail(self) -> str:
        """Return why it was refused."""
        return str(json.loads(self.body)["detail"])


class Stream:
    """One request over a socket of its own, of which one can read as much as one likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.record = Record()
        self._whole: list[bytes] = []  # frames that came and were not asked for yet
        self._part = b""
        self._arrived = 0.0

    async def head(self) -> Record:
        """Read the status and the headers."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.record.status = int(head[0].split()[1])
        self.record.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)
        }
        return self.record

    async def frames(self) -> AsyncIterator[str]:
        """Read frames as they come, and write them down."""
        while self._whole or (chunk := await self._chunk()) is not None:
            if not self._whole:
                self._arrived = time.monotonic()
                *self._whole, self._part = (self._part + chunk).split(b"\n\n")
            while self._whole:
                frame = self._whole.pop(0)
                if frame.startswith(b":"):
                    self.record.pings += 1
                    continue
                assert frame.startswith(b"data: "), f"not a frame: {frame!r}"
                self.record.frames.append(frame[6:].decode("ascii"))
                self.record.times.append(self._arrived)
                yield self.record.frames[-1]

    async def _chunk(self) -> bytes | None:
        size = int((await self.reader.readuntil(b"\r\n")) or b"0", 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2] if size else None

    async def rest(self) -> Record:
        """Read to the end, or to where the connection breaks."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if "chunked" in self.record.headers.get("transfer-encoding", ""):
                async for _ in self.frames():
                    pass
            else:
                length = int(self.record.headers.get("content-length", 0))
                self.record.body = (await self.reader.readexactly(length)).decode()
        return self.record

    async def take(self, count: int) -> Record:
        """Read so many more frames."""
        if count:
            async for _ in self.frames():
                count -= 1
                if not count:
                    break
        return self.record

    def reset(self) -> None:
        """Break the connection off with a RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    def half_close(self) -> None:
        """Close the sending side."""
        self.writer.write_eof()

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def request(
    server: Server,
    method: str,
    path: str,
    body: Any = None,
    **options: Any,
) -> AsyncIterator[Stream]:
    """Send a request on a connection of its own and read the head of its answer; the options are `unfinished`'s."""
    stream = await unfinished(server, method, path, body, **options)
    try:
        await stream.head()
        yield stream
    finally:
        await stream.close()


async def unfinished(
    server: Server,
    method: str,
    path: str,
    body: Any = None,
    *,
    held_back: int = 0,
    user: str = "alice",
    headers: dict[str, str] | None = None,
    buffer: int | None = None,
) -> Stream:
    """Send a request on a connection of its own, but for the last `held_back` bytes of its body."""
    raw = socket.socket()
    if buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
    stream = Stream(*await asyncio.open_connection(sock=raw, limit=2**20))
    content = b"" if body is None else json.dumps(body).encode()
    lines = {"Host": "x", "Authorization": f"Bearer {token(user)}", "Content-Length": str(len(content))}
    lines |= {"Content-Type": "application/json"} | (headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    stream.writer.write(head.encode() + b"\r\n" + content[: len(content) - held_back])
    await stream.writer.drain()
    return stream


async def say(server: Server, message: str, thread: int | None = None, **options: Any) -> Record:
    """Send a message and read the whole answer."""
    body = {"message": message} | ({"thread_id": thread} if thread else {}) | options.pop("body", {})
    async with request(server, "POST", "/chatkit", body, **options) as stream:
        return await stream.rest()


async def join(server: Server, thread: int, after: int = 0, **options: Any) -> Record:
    """Follow the live answer in a conversation from frame `after` on, to its end."""
    async with request(server, "GET", f"/api/conversations/{thread}/stream?after={after}", **options) as stream:
        return await stream.rest()


async def call(server: Server, method: str, path: str, body: Any = None, **options: Any) -> Any:
    """Call the REST API; return the status and the JSON."""
    async with request(server, method, path, body, **options) as stream:
        record = await stream.rest()
        return record.status, json.loads(record.body) if record.body else None


async def settled(server: Server, thread: int, user: str = "alice", patience: float = PATIENCE) -> list[dict[str, Any]]:
    """Return a conversation's messages once its answer is over."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status, conversation = await call(server, "GET", f"/api/conversations/{thread}", user=user)
        assert status == 200
        if conversation["messages"][-1]["status"] != "streaming":
            return list(conversation["messages"])
        await asyncio.sleep(0.02)
    raise AssertionError("the answer did not end")
