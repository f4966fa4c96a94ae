"""Measures of ours alone: what grows with what is stored, readers that stop reading, and what is written to disk."""

import asyncio
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from client import check, drive, fetch, request
from report import Limit, Row
from script import Script
from servers import Dialect, Server

from todochat.db import Store

USER = "bench"
WHEN = "2026-01-01T00:00:00.000000Z"
SIZES = (10, 1_000, 10_000)  # conversations of one user, who may have no more (MAX_CONVERSATIONS)
LENGTHS = (10, 100, 1_000, 10_000)  # messages


async def growth(folder: Path, ours: Dialect, rounds: int) -> list[Row]:
    """Measure what a request costs with few and with many conversations, in short and in long ones."""
    servers = {size: await _server(folder, size) for size in SIZES}
    most, few = f"{max(SIZES):,}", f"{min(SIZES):,}"
    listed, begun = Row("list of conversations", "µs"), Row("a turn of one delta", "µs", [Limit(most, 1.3, few)])
    whole, paged = Row("a conversation with its messages", "µs"), Row("a page of 20 messages of it", "µs")
    continued = Row("a turn of one delta in it", "µs")
    try:
        for n in range(rounds + 1):  # the first one warms up
            for size, server in servers.items():
                costs = await _get(server, ours, "/api/conversations?limit=50"), await _turn(server, ours, None)
                if n:
                    listed.add(f"{size:,}", costs[0])
                    begun.add(f"{size:,}", costs[1])
            for length in LENGTHS:
                thread = LENGTHS.index(length) + 1
                path = f"/api/conversations/{thread}"
                server = servers[max(SIZES)]
                found = await _get(server, ours, path, 10), await _page(server, ours, thread)
                cost = await _turn(server, ours, thread)
                if n:
                    whole.add(f"{length:,}", found[0])
                    paged.add(f"{length:,}", found[1])
                    continued.add(f"{length:,}", cost)
    finally:
        for server in servers.values():
            server.stop()
    return [listed, begun, whole, paged, continued]


async def _server(folder: Path, size: int) -> Server:
    path = folder / f"{size}.db"
    store = await Store.open(str(path))
    await store.close()
    with closing(sqlite3.connect(path)) as database, database:
        lengths = [*LENGTHS, *[2] * (size - len(LENGTHS))]
        database.executemany(
            "INSERT INTO conversations (user_id, title, created_at, updated_at) VALUES (?, ?, ?, ?)",
            [(USER, f"Conversation {n}", WHEN, WHEN) for n in range(size)],
        )
        database.executemany(
            "INSERT INTO messages (conversation_id, role, content, status, created_at) VALUES (?, ?, ?, 'done', ?)",
            (
                (conversation, "assistant" if n % 2 else "user", f"Message {n}. " * 10, WHEN)
                for conversation, length in enumerate(lengths, 1)
                for n in range(length)
            ),
        )
    return await Server("server_ours.py", folder, database=path).ready()


async def _get(server: Server, ours: Dialect, path: str, times: int = 100) -> float:
    return await _cost(server, [request(path, token=ours.token)] * times)


async def _page(server: Server, ours: Dialect, thread: int, times: int = 50) -> float:
    asked = {"type": "items.list", "params": {"thread_id": str(thread), "limit": 20, "order": "desc"}}
    return await _cost(server, [request("/chatkit", asked, ours.token)] * times)


async def _turn(server: Server, ours: Dialect, thread: int | None, times: int = 50) -> float:
    return await _cost(server, [request("/chatkit", ours.body(Script(1).message, thread), ours.token)] * times)


async def _cost(server: Server, requests: list[bytes]) -> float:
    """Return the CPU of a request in microseconds."""
    before = server.cpu()
    for message in requests:
        stream = await fetch(server.port, message)
        if not stream.pieces[0][1].startswith(b"HTTP/1.1 200"):
            raise RuntimeError(stream.pieces[0][1][:200])
    return 1e6 * (server.cpu() - before) / len(requests)


async def stalled(folder: Path, ours: Dialect, deltas: int) -> list[Row]:
    """Measure four readers of one long answer that stop reading: their memory, and CPU once the run is over.

    The same answer is made before with one reader who reads, for what the run itself needs; and a third one is stopped.
    """
    server = await Server("server_ours.py", folder).ready()
    script = Script(deltas, burst=100)
    memory = Row("a reader that stops reading", "MB", [Limit("each", 10)])
    ended = Row("CPU once the run has ended", "ms/s", [Limit("all", 5)])
    stopped = Row("CPU once the run was stopped", "ms/s", [Limit("all", 5)])
    readers: list[socket.socket] = []
    try:
        await drive(server.port, "/chatkit", ours.body(script.message), ours.token, script, streams=1, turns=1)
        alone = server.highest_memory()
        await _four(server, ours, script, readers)
        await _quiet(server)
        memory.add("each", (server.highest_memory() - alone) / 4 / 2**20)
        ended.add("all", await _idle(server))
        thread = await _four(server, ours, script, readers)
        stop = await fetch(server.port, request(f"/api/conversations/{thread}/stop", {}, ours.token))
        if b'"status":"stopped"' not in b"".join(data for _, data in stop.pieces):
            raise RuntimeError("the answer was over before it was stopped")
        await _quiet(server)
        stopped.add("all", await _idle(server))
    finally:
        for reader in readers:
            reader.close()
        server.stop()
    return [memory, ended, stopped]


async def _four(server: Server, ours: Dialect, script: Script, readers: list[socket.socket]) -> int:
    """Begin an answer with four readers that do not read; return the conversation."""
    thread = await _begin(server, ours, script, readers)
    for _ in range(3):
        readers.append(_stall(server, request(f"/api/conversations/{thread}/stream", token=ours.token)))
    return thread


async def _idle(server: Server) -> float:
    before = server.cpu()
    await asyncio.sleep(2)
    return 1000 * (server.cpu() - before) / 2


async def _begin(server: Server, ours: Dialect, script: Script, readers: list[socket.socket]) -> int:
    """Ask for the answer, read the head of it and no more; return the conversation."""
    readers.append(_stall(server, request("/chatkit", ours.body(script.message), ours.token)))
    head = await asyncio.to_thread(readers[-1].recv, 2000)
    return int(head.decode().lower().split("x-thread-id: ")[1].split("\r\n")[0])


def _stall(server: Server, message: bytes) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", server.port))
    reader.sendall(message)
    return reader


async def _quiet(server: Server) -> None:
    """Wait until the server has nothing more to do."""
    deadline, used = time.monotonic() + 90, -1.0
    while time.monotonic() < deadline and server.cpu() - used > 0.05:
        used = server.cpu()
        await asyncio.sleep(0.5)


async def disk(folder: Path, ours: Dialect) -> list[Row]:
    """Measure what one long answer writes to disk, its end included, for each byte of its text."""
    row = Row("written to disk", "bytes per byte of text", [Limit("an answer", 10)])
    server = await Server("server_ours.py", folder).ready()
    script = Script(62_500, pace=0.02, burst=100)  # a delta is the moment of its making: 16 characters
    try:
        before = server.written()
        stream = await fetch(server.port, request("/chatkit", ours.body(script.message), ours.token))
        check(stream, script)
        text = 62_500 * len(f"{time.monotonic_ns()} ")
        row.add("an answer", (server.written() - before) / text)
    finally:
        server.stop()
    return [row]
