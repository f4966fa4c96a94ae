"""The tools of the fault suite: servers that start in a moment, a client that writes down what it saw and when."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import ROOT, SECRET, SETTINGS, token

# A server forked from a process that has imported everything already starts in a moment instead of a second.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["paced"])
# Python 3.11's fork server does not look for them where this process does.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def _serve(folder: str, env: dict[str, str]) -> None:
    with open(f"{folder}/log.txt", "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for name in SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(env)
    import paced

    paced.main()


class Server:
    """A real server process on a real file, on the same port after each restart."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.database = folder / "chat.db"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.env = {"PORT": str(self.port), "DATABASE_URL": f"sqlite:///{self.database}", "BETTER_AUTH_SECRET": SECRET}
        self.env |= {"LOG_LEVEL": "WARNING"} | {name: str(value) for name, value in settings.items()}
        self.process: Any = None

    def start(self) -> "Server":
        """Start it, and wait until it takes connections."""
        self.process = FORKS.Process(target=_serve, args=(str(self.folder), self.env), daemon=True)
        self.process.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if probe.recv(100).startswith(b"HTTP/1.1 200"):
                    return self
            assert self.process.is_alive(), f"the server ended: {self.log}"
            time.sleep(0.01)
        raise AssertionError(f"the server did not start: {self.log}")

    def kill(self, sig: int = signal.SIGKILL, wait: float = 10) -> float:
        """Send a signal and wait for the end; return how long it took, in seconds."""
        begun = time.monotonic()
        os.kill(self.process.pid, sig)
        self.process.join(wait)
        assert not self.process.is_alive(), "the server did not end"
        return time.monotonic() - begun

    def close(self) -> None:
        """End it."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join(10)

    @property
    def log(self) -> str:
        """Return what it wrote."""
        path = self.folder / "log.txt"
        return path.read_text() if path.exists() else ""

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """Look into the file beside the server."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(sql, parameters).fetchall()


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
    *,
    user: str = "alice",
    headers: dict[str, str] | None = None,
    buffer: int | None = None,
) -> AsyncIterator[Stream]:
    """Send a request on a connection of its own and read the head of its answer."""
    raw = socket.socket()
    if buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
    stream = Stream(*await asyncio.open_connection(sock=raw, limit=2**20))
    try:
        content = b"" if body is None else json.dumps(body).encode()
        lines = {"Host": "x", "Authorization": f"Bearer {token(user)}", "Content-Length": str(len(content))}
        lines |= {"Content-Type": "application/json"} | (headers or {})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        stream.writer.write(head.encode() + b"\r\n" + content)
        await stream.writer.drain()
        await stream.head()
        yield stream
    finally:
        await stream.close()


async def say(server: Server, message: str, thread: int | None = None, **options: Any) -> Record:
    """Send a message and read the whole answer."""
    body = {"message": message} | ({"thread_id": thread} if thread else {}) | options.pop("body", {})
    async with request(server, "POST", "/chatkit", body, **options) as stream:
        return await stream.rest()


async def call(server: Server, method: str, path: str, body: Any = None, **options: Any) -> Any:
    """Call the REST API; return the status and the JSON."""
    async with request(server, method, path, body, **options) as stream:
        record = await stream.rest()
        return record.status, json.loads(record.body) if record.body else None


async def settled(server: Server, thread: int, user: str = "alice", patience: float = 15) -> list[dict[str, Any]]:
    """Return a conversation's messages once its answer is over."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status, conversation = await call(server, "GET", f"/api/conversations/{thread}", user=user)
        assert status == 200
        if conversation["messages"][-1]["status"] != "streaming":
            return list(conversation["messages"])
        await asyncio.sleep(0.02)
    raise AssertionError("the answer did not end")
