"""The fault suite: each promise under the faults that threaten it, with real processes, files and sockets.

What a client saw is compared with what the database has. At the end a table says how often each fault was tried and
how much was lost; the README quotes it.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, ROOT, SOON, Client, Server, missing, token
from faults import (
    SEED,
    Record,
    Table,
    call,
    join,
    left_behind,
    locked,
    paced_server,
    request,
    rounds,
    say,
    settled,
    unfinished,
    words,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import provider
from serving import FORKS, Process

from todochat.db import INTERRUPTED, Store
from todochat.events import Body, Event, fold, unfold

pytestmark = pytest.mark.anyio

TABLE = Table("faults")
tried, table = TABLE.tried, TABLE.fixture
SHARED = Table("faults of several processes")
shared_table = SHARED.fixture


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server."""
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        servers.append(paced_server(options.pop("folder", tmp_path), **options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


MESSAGE = {"message": "say 1 0"}


# ---- kill -9 ----


# All of them take 10 ms for a word: `half_a_second_old` counts on it.
WITH_TOOLS = 'say 20 10\ncall add_task {"title": "%s"}\nsay 20 10\ncall add_task {"title": "%s too"}\nsay 80 10'
TEXT_ALONE = "say 200 10"  # nothing but the checkpoints saves it
BURIALS: list[float] = []  # after how many seconds the answers of a killed process were ended, and readers told
AT_ONCE = "\n".join(
    [
        "think 3 5",
        "say 8 10",
        *(f'call add_task {{"title": "%s {n}"}}' for n in range(3)),
        "say 8 10",
        *(f'call add_task {{"title": "%s {n}"}}' for n in range(3, 6)),
        'call wait {"seconds": 0.1}',
        "say 80 10",
    ]
)


def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path, database: str) -> None:
    """Killed at random moments of streaming turns, nothing older than half a second or acknowledged is lost.

    In a file the next start ends the answers, on PostgreSQL another process does, and tells its readers.
    """
    url = database if "://" in database else None
    times = rounds(100 if url is None else 50)
    lost = kill_often(tmp_path, times, lambda user: WITH_TOOLS % (user, user), url=url)
    if url is None:
        tried("kill -9 at a random moment of two streaming turns", times, lost)
    else:
        slowest = max(BURIALS)
        SHARED.tried(f"kill -9 in two streaming turns (ended after at most {slowest:.1f} s)", times, lost)
        assert slowest < SOON, "6 s are promised, to a machine that does nothing else"
        BURIALS.clear()
    assert lost == 0, SEED


def test_kill_9_during_tools_of_the_hosts_loses_no_result_that_was_shown(tmp_path: Path) -> None:
    """Killed while several tools at once work on the host's own tasks: what was shown is there, and had its effect."""
    times = rounds(60)
    lost = kill_often(tmp_path, times, lambda user: AT_ONCE % ((user,) * 6), host_tasks=True)
    tried("kill -9 with tools on the host's own tasks", times, lost)
    assert lost == 0, SEED


def kill_often(
    folder: Path, times: int, program: Callable[[str], str], *, url: str | None = None, host_tasks: bool = False
) -> int:
    """Kill servers at random moments, in two turns: one of a program, one of text; return what promises were broken.

    Each has a file of its own, or the database at `url` with all the others.
    """
    compared: list[Record] = []

    async def kill_one(lane: int) -> int:
        place = folder / str(lane)
        place.mkdir()
        options: dict[str, Any] = {"DATABASE_URL": url} if url else {}
        elsewhere = paced_server(place / "elsewhere", **options) if url else None
        if host_tasks:
            options["HOST_TASKS"] = place / "host.db"
        chance, server = random.Random(SEED + lane), paced_server(place, **options)
        try:
            server.start()
            if elsewhere is not None:
                elsewhere.folder.mkdir()
                elsewhere.start()
            names = [f"{lane}-{n}" for n in range(lane, times, lanes)]
            return sum([await kill_once(server, elsewhere, name, chance, program, compared) for name in names])
        finally:
            for one in (server, elsewhere):
                if one is not None:
                    one.close()

    lanes = min(times, 2 if url is None else 5)  # at a time: most of it is waiting
    with ThreadPoolExecutor(lanes) as pool:
        broken = sum(pool.map(lambda lane: asyncio.run(kill_one(lane)), range(lanes)))
    assert len(compared) > times, "most were killed before they had said anything"
    old = sum(half_a_second_old(record) > 1 for record in compared)
    assert old > (times / 5 if url is None else 0), "hardly any had text that must have been saved"
    return broken


async def kill_once(
    server: Server,
    elsewhere: Server | None,
    name: str,
    chance: random.Random,
    program: Callable[[str], str],
    compared: list[Record],
) -> int:
    """Kill the server in two streaming turns, and compare what was seen with what is there.

    What is there is asked of a process elsewhere, which has readers too, or of the server, started again.
    """
    turns = {f"user-{name}-tools": program(f"user-{name}-tools"), f"user-{name}-text": TEXT_ALONE}
    key = {"Idempotency-Key": "one"}
    reading = [asyncio.create_task(say(server, turn, user=user, headers=key)) for user, turn in turns.items()]
    following = {user: asyncio.create_task(follow_first(elsewhere, user)) for user in turns if elsewhere}
    if elsewhere is None and chance.random() < 0.8:  # on a busy machine nothing would be stored by then
        while not server.rows("SELECT 1 FROM live_events LIMIT 1"):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.02)
    await asyncio.sleep(chance.uniform(0, 1.5 if elsewhere is None else 3))  # there are more of them at a time
    server.kill()
    killed = time.monotonic()
    seen = await asyncio.gather(*reading, return_exceptions=True)
    assert not [error for error in seen if isinstance(error, AssertionError)]
    kept = {}
    if elsewhere is None:
        kept = left_behind(server)
        await asyncio.to_thread(server.start)
        assert server.rows("PRAGMA integrity_check") == [("ok",)]
        assert server.rows("SELECT COUNT(*) FROM messages WHERE status = 'streaming'") == [(0,)]
        assert server.rows("SELECT COUNT(*) FROM live_events") == [(0,)]
    broken = 0
    next_one = elsewhere or server
    for record, (user, turn) in zip(seen, turns.items(), strict=True):
        known = isinstance(record, Record) and record.status == 200  # else it was killed before the first byte
        if elsewhere is not None:
            broken += await burial_broken(elsewhere, user, following[user], killed)
            kept = left_behind(elsewhere)
        if known:
            compared.append(record)
            replayed = await say(next_one, turn, user=user, headers=key)
            broken += await promises_broken(next_one, record, user, kept.get(record.thread, []), replayed)
        again = await say(next_one, "say 1 0", record.thread if known else None, user=user)
        broken += again.text() != "w0 "
    if elsewhere is not None:
        await asyncio.to_thread(server.start)
    return broken


async def follow_first(server: Server, user: str) -> Record:
    """Join the answer in the user's first conversation, once there is one."""
    conversations: list[dict[str, Any]] = []
    while not conversations:
        await asyncio.sleep(0.05)
        _, conversations = await call(server, "GET", "/api/conversations", user=user)
    return await join(server, conversations[0]["id"], user=user)


async def burial_broken(elsewhere: Server, user: str, following: "asyncio.Task[Record]", killed: float) -> int:
    """Return how many of the promises about the answer of a process that was killed are broken elsewhere."""
    _, conversations = await call(elsewhere, "GET", "/api/conversations", user=user)
    if not conversations:
        following.cancel()
        return 0
    thread = conversations[0]["id"]
    *_, answer = await settled(elsewhere, thread, user)
    took = time.monotonic() - killed
    record = await asyncio.wait_for(following, PATIENCE)
    told = record.times[-1] - killed if record.times else took
    BURIALS.append(max(took, told))
    kept = left_behind(elsewhere).get(thread, [])
    broken = [
        answer["status"] not in ("done", "interrupted"),
        record.status == 200 and not record.complete,
        record.status == 200 and answer != answer | fold(record.seen),
        answer["status"] == "interrupted" and answer != answer | fold(kept) | {"error": INTERRUPTED},
    ]
    if any(broken):
        print(broken, record, kept, answer)
    return sum(broken)


def half_a_second_old(record: Record) -> int:
    """Return how many of the frames of an answer that was cut off are older than half a second.

    By the words that came since: clocks say little on a busy machine, where the server may have got no time at all.
    """
    spoken = [n for n, event in enumerate(record.events()) if event["type"] == "text" and event["content"] != "\n\n"]
    return spoken[-52] if len(spoken) >= 52 else 0


async def promises_broken(server: Server, record: Record, user: str, kept: list[Event], replayed: Record) -> int:
    """Return how many of the promises about what a client had seen are broken.

    `kept` is what there was in the file of an answer that was live; `replayed` is what a retry of the request got.
    """
    _, conversation = await call(server, "GET", f"/api/conversations/{record.thread}", user=user)
    answer = conversation["messages"][1]
    _, tasks = await call(server, "GET", "/api/tasks", user=user)
    seen, status = record.seen, answer["status"]
    titles = [c["args"]["title"] for c in answer["tool_calls"] if c["name"] == "add_task" and "result" in c]
    had = [task["title"] for task in tasks]
    broken = [
        status not in ("done", "interrupted"),
        record.complete and (status != "done" or answer != answer | fold(seen)),
        # A tool's effect and its record: both, or neither; the host's own tasks can only come before their record.
        bool(set(titles) - set(had)) if "HOST_TASKS" in server.env else sorted(titles) != sorted(had),
        any(event not in unfold(answer) for event in record.of("tool_result")),
        replayed.seen != unfold(answer),
    ]
    if status == "interrupted":  # index for index
        both = min(len(seen), len(kept))
        broken += [
            seen[:both] != kept[:both],
            len(kept) < half_a_second_old(record),
            answer != answer | fold(kept) | {"error": INTERRUPTED},
        ]
    else:
        broken.append(not answer["content"].startswith(record.text()))
    if any(broken):
        print(broken, record, kept, answer, had, replayed)
    return sum(broken)


# ---- upgrades ----


def write_version_2(path: str) -> None:
    """Leave what a server of schema version 2 leaves behind that is killed in the middle of two answers."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript((ROOT / "tests" / "schema_v2.sql").read_text() + "PRAGMA user_version = 2;")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conversation = "INSERT INTO conversations VALUES (NULL, 'alice', 'x', '2026-01-02', '2026-01-02')"
    message = """
        INSERT INTO messages (conversation_id, role, content, tool_calls, reasoning, status, created_at)
        VALUES (?, ?, ?, ?, ?, ?, '2026-01-02T00:00:00Z')
    """
    for thread in (1, 2):
        database.execute(conversation)
        database.execute(message, (thread, "user", "go on", "[]", "[]", "done"))
        live = VERSION_2 if thread == 1 else fold([])
        dumped = json.dumps(live["tool_calls"]), json.dumps(live["reasoning"])
        database.execute(message, (thread, "assistant", live["content"], *dumped, "streaming"))
    database.execute("INSERT INTO tasks VALUES (NULL, 'alice', 'x', NULL, 0, '2026-01-02', '2026-01-02')")
    os.kill(os.getpid(), signal.SIGKILL)  # all of it is in the write-ahead log


VERSION_2: Body = {
    "content": words(3) + "\n\n" + words(3),
    "tool_calls": [
        {"id": "1", "name": "add_task", "args": {"title": "x"}, "at": 9, "result": {"success": True, "task_id": 1}},
        {"id": "2", "name": "wait", "args": {"seconds": 5}, "at": 20},
    ],
    "reasoning": [{"text": "Hm.", "at": 0, "calls": 0}, {"text": "So.", "at": 9, "calls": 1}],
    "error": None,
}


async def test_a_live_answer_of_an_older_version_is_kept(tmp_path: Path) -> None:
    """What a killed server of schema version 2 has left of live answers is kept, even if the upgrade is killed too."""
    chance = random.Random(SEED)
    for n in range(12):
        folder = tmp_path / str(n)
        folder.mkdir()
        server = paced_server(folder)
        writer = FORKS.Process(target=write_version_2, args=(str(server.database),))
        writer.start()
        writer.join(10)
        assert server.database.with_name("chat.db-wal").stat().st_size > 0
        try:
            if n > 1:  # killed once more, in the middle of the upgrade or somewhere about it
                starting = Process(ROOT / "tests" / "paced.py", server.env, server.log)
                starting.start()
                await asyncio.sleep(chance.uniform(0, 0.4))
                starting.kill()
                starting.join(10)
            server.start()
            for thread, had in ((1, VERSION_2), (2, fold([]))):
                _, conversation = await call(server, "GET", f"/api/conversations/{thread}")
                answer = conversation["messages"][1]
                assert answer == answer | had | {"status": "interrupted", "error": INTERRUPTED}
            assert len((await call(server, "GET", "/api/tasks"))[1]) == 1
            assert (await say(server, "say 2 0", 1)).text() == "w0 w1 "
            assert server.rows("PRAGMA user_version") == [(4,)]
            assert server.rows("PRAGMA integrity_check") == [("ok",)]
        finally:
            server.close()
    tried("kill -9 with live answers in a version-2 file, upgraded", 12)


# ---- readers that go away ----


TURN = 'say 3 8\ncall add_task {"title": "x"}\nsay 3 8'
FRAMES = 1 + 3 + 2 + 1 + 3  # thinking, text, tool call and result, paragraph, text


@pytest.mark.parametrize("how", ["close", "half_close", "reset"])
@pytest.mark.parametrize("wish", ["continue", "stop"])
async def test_a_reader_that_goes_away_after_any_frame(make: Callable[..., Server], how: str, wish: str) -> None:
    """A reader that leaves after frame k, politely or not, leaves a complete answer; with "stop", a stopped one."""
    server = make(MAX_LIVE_PER_USER=100)

    async def leave(k: int) -> None:
        user, message = f"user-{k}", TURN if wish == "continue" else TURN + "\nsay 100 10"
        body = {"message": message, "on_disconnect": wish}
        async with request(server, "POST", "/chatkit", body, user=user) as stream:
            record = await stream.take(k)
            if how == "half_close":
                stream.half_close()
            elif how == "reset":
                stream.reset()
            else:
                await stream.close()
            _, answer = await settled(server, record.thread, user)
        if wish == "continue":
            assert (answer["status"], answer["content"]) == ("done", words(3) + "\n\n" + words(3))
            assert len(answer["tool_calls"]) == len((await call(server, "GET", "/api/tasks", user=user))[1]) == 1
        else:
            assert answer["status"] == "stopped"
            assert len(answer["content"]) < len(words(100))
            assert answer["content"].startswith(record.text())

    await asyncio.gather(*(leave(k) for k in range(FRAMES + 1)))
    tried(f"reader gone after frame k ({how.replace('_', '-')}, {wish})", FRAMES + 1)


async def test_a_reader_that_takes_nothing_is_dropped_and_hurts_nobody(make: Callable[..., Server]) -> None:
    """A reader that stalls holds neither the run nor another reader; the answer is complete."""
    server = make()
    # 200,000 words are more than the buffers between two sockets hold.
    async with request(server, "POST", "/chatkit", {"message": "say 200000 0"}, buffer=4096) as stream:
        await stream.take(2)
        _, answer = await settled(server, stream.record.thread)
        assert answer["status"] == "done"
        assert answer["content"] == words(200_000)
        slow = await stream.rest()
        assert slow.text() == words(200_000)
        assert slow.complete
    tried("reader that takes nothing until the answer is over", 1)


# ---- shutdown ----


async def live_answers(server: Server, count: int) -> list["asyncio.Task[Record]"]:
    """Have so many answers, each of another user's, that would go on for minutes; return who reads them."""

    async def read(n: int) -> Record:
        async with request(server, "POST", "/chatkit", {"message": "say 20000 10"}, user=f"user-{n}") as stream:
            await stream.take(20)
            live.release()
            return await stream.rest()

    live = asyncio.Semaphore(0)
    reading = [asyncio.create_task(read(n)) for n in range(count)]
    for _ in range(count):
        await live.acquire()
    return reading


async def test_sigterm_ends_twenty_live_answers_with_words(make: Callable[..., Server]) -> None:
    """On SIGTERM with 20 live streams each reader gets `error` and `[DONE]`, the answers are kept as interrupted."""
    server = make()
    reading = await live_answers(server, 20)
    took = await asyncio.to_thread(server.kill, signal.SIGTERM)
    records = await asyncio.gather(*reading)
    assert took < SOON
    lost = 0
    for record in records:
        assert record.complete
        assert [e["type"] for e in record.events()][-1] == "error"
        assert "shutting down" in record.of("error")[0]["message"]
        [(content, status)] = server.rows(
            "SELECT content, status FROM messages WHERE conversation_id = ? AND role = 'assistant'", record.thread
        )
        lost += (content, status) != (record.text(), "interrupted")
    assert server.process.exitcode == 0
    tried("SIGTERM with 20 live answers", 20, lost)
    assert lost == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_whatever_clients_do(make: Callable[..., Server], sig: int) -> None:
    """A half-sent body and a stalled reader do not keep the process from ending within 5 seconds."""
    server = make()
    half_sent = await unfinished(server, "POST", "/chatkit", MESSAGE, held_back=10)
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
    async with request(server, "POST", "/chatkit", {"message": "say 200000 0"}, buffer=4096) as stalled:
        await stalled.take(2)
        await asyncio.sleep(0.5)
        took = await asyncio.to_thread(server.kill, sig)
    for _, writer in idle:
        writer.close()
    await half_sent.close()
    assert took < SOON
    assert server.rows("SELECT COUNT(*) FROM messages WHERE status = 'streaming'") == [(0,)]
    tried(f"{signal.Signals(sig).name} with a half-sent body, idle and stalled readers", 1)


async def test_a_signal_ends_the_process_while_the_file_is_locked(make: Callable[..., Server]) -> None:
    """With the file locked by another program, readers get `error` and `[DONE]` and the process ends in 5 seconds."""
    server = make()
    reading = await live_answers(server, 3)
    with locked(server):
        await asyncio.sleep(0.5)  # a checkpoint waits for the file
        took = await asyncio.to_thread(server.kill, signal.SIGTERM)
        records = await asyncio.gather(*reading)
    assert took < SOON
    assert all(record.complete and record.of("error") for record in records)
    server.start()
    assert server.rows("SELECT COUNT(*) FROM messages WHERE status = 'interrupted'") == [(3,)]
    tried("SIGTERM while the file is locked", 3)


async def test_a_turn_that_waits_for_the_file_at_the_end_is_ended_too(make: Callable[..., Server]) -> None:
    """A turn that could be stored only during the shutdown is interrupted at once: its reader gets the last frame."""
    server = make()

    await say(server, "say 1 0", user="bob")
    with locked(server):
        waiting = asyncio.create_task(say(server, "say 300 10"))
        await asyncio.sleep(0.3)
        os.kill(server.process.pid, signal.SIGTERM)
        await asyncio.sleep(2.2)  # longer than the shutdown waits for turns that are about to begin
    record = await waiting
    server.process.wait(PATIENCE)
    assert record.complete
    assert "shutting down" in record.of("error")[0]["message"]
    [(status,)] = server.rows("SELECT status FROM messages WHERE conversation_id = ? AND content = ''", record.thread)
    assert status == "interrupted"
    assert "Traceback" not in server.log.read_text()
    tried("SIGTERM while a turn waits for the file", 1)


async def test_a_tool_that_cannot_be_ended_does_not_keep_the_process(make: Callable[..., Server]) -> None:
    """A tool that blocks a thread holds the exit up for 5 seconds at most; the reader has got the last frame."""
    server = make()

    body = {"message": 'say 1 0\ncall block {"seconds": 90}'}
    async with request(server, "POST", "/chatkit", body) as stream:
        await stream.take(3)
        await asyncio.sleep(0.2)
        took = await asyncio.to_thread(server.kill, signal.SIGTERM)
        record = await stream.rest()
    assert took < SOON
    assert record.complete
    assert server.rows("SELECT status FROM messages WHERE role = 'assistant'") == [("interrupted",)]
    tried("SIGTERM while a tool blocks", 1)


async def test_a_tool_that_takes_long_is_not_waited_for_in_a_shutdown(
    make: Callable[..., Server], tmp_path: Path
) -> None:
    """SIGTERM while a tool works on the host's own tasks: the reader is told why the answer ends, and it is stored."""
    server = make(HOST_TASKS=tmp_path / "host.db")
    body = {"message": 'say 1 0\ncall ponder {"title": "x", "seconds": 90}'}
    async with request(server, "POST", "/chatkit", body) as stream:
        await stream.take(3)
        await asyncio.sleep(0.2)  # the tool has most likely begun; what is told must be the same if not
        took = await asyncio.to_thread(server.kill, signal.SIGTERM)
        record = await stream.rest()
    assert took < SOON
    assert record.complete
    assert "shutting down" in record.of("error")[0]["message"]
    [(status, error)] = server.rows("SELECT status, error FROM messages WHERE role = 'assistant'")
    assert (status, error) == ("interrupted", record.of("error")[0]["message"])
    tried("SIGTERM while a tool takes its time", 1)


async def test_a_second_signal_ends_the_process_at_once(make: Callable[..., Server]) -> None:
    """Who cannot wait sends a second signal; what was stored stays."""
    server = make()
    half_sent = await unfinished(server, "POST", "/chatkit", MESSAGE, held_back=10)
    await asyncio.sleep(0.3)
    os.kill(server.process.pid, signal.SIGTERM)
    await asyncio.sleep(0.3)
    took = await asyncio.to_thread(server.kill, signal.SIGTERM)
    await half_sent.close()
    assert took < 3  # without it the half-sent body would be waited for to the end of the grace period
    assert server.process.exitcode == 128 + signal.SIGTERM
    tried("a second SIGTERM while the first one waits", 1)


async def test_new_turns_are_refused_while_it_shuts_down(make: Callable[..., Server]) -> None:
    """A turn that is asked for during the shutdown gets 503 and is not stored, or finds nobody listening."""
    server = make()
    half_sent = await unfinished(server, "POST", "/chatkit", MESSAGE, held_back=10)  # it is waited for, for 3 seconds
    refused = await unfinished(server, "POST", "/chatkit", MESSAGE, held_back=1)
    await asyncio.sleep(0.3)
    os.kill(server.process.pid, signal.SIGTERM)
    await asyncio.sleep(0.3)
    refused.writer.write(b"}")
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # those 3 seconds are over on a busy machine
        assert (await refused.head()).status == 503
    await refused.close()
    await half_sent.close()
    server.process.wait(PATIENCE)
    assert server.rows("SELECT COUNT(*) FROM messages") == [(0,)]
    tried("a message sent during the shutdown", 1)


# ---- many at once ----


async def test_twenty_messages_at_once_are_one_turn(make: Callable[..., Server]) -> None:
    """Of twenty posts at once into one conversation one is answered, nineteen get 409 and leave nothing."""
    server = make()
    thread = (await say(server, "say 1 0")).thread
    records = await asyncio.gather(*(say(server, "say 20 10", thread) for _ in range(20)))
    assert sorted(record.status for record in records) == [200] + [409] * 19
    assert all("stop it" in record.detail for record in records if record.status == 409)
    messages = await settled(server, thread)
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    tried("20 simultaneous messages into one conversation", 20)


@pytest.mark.parametrize("user_limit", [1, 4])
async def test_twenty_retries_of_one_key_are_one_run(make: Callable[..., Server], user_limit: int) -> None:
    """Twenty retries of one idempotency key, early and late, are one run and twenty equal answers."""
    server = make(MAX_LIVE_PER_USER=user_limit)
    headers = {"Idempotency-Key": "one"}

    async def retry(n: int) -> Record:
        await asyncio.sleep(n * 0.04)
        return await say(server, TURN, headers=headers)

    records = await asyncio.gather(*(retry(n // 2) for n in range(20)))
    assert {record.status for record in records} == {200}
    assert len({record.thread for record in records}) == 1
    assert {record.text() for record in records} == {words(3) + "\n\n" + words(3)}
    assert len({json.dumps([e for e in r.events() if e["type"] != "text"]) for r in records}) == 1
    assert all(record.complete for record in records)
    assert len((await call(server, "GET", "/api/tasks"))[1]) == 1
    assert server.rows("SELECT COUNT(*) FROM messages") == [(2,)]
    tried("20 retries of one idempotency key", 20)


async def test_a_key_belongs_to_one_user_and_one_request(make: Callable[..., Server]) -> None:
    """Another body under the same key is 409; another user's same key is another key; a restart forgets nothing."""
    server = make()
    headers = {"Idempotency-Key": "one"}
    thread = (await say(server, "say 2 0", headers=headers)).thread
    server.kill()
    server.start()
    refused = await say(server, "say 3 0", headers=headers)
    assert (refused.status, "different" in refused.detail or "another" in refused.detail) == (409, True)
    again = await say(server, "say 2 0", headers=headers)
    assert (again.thread, again.text(), again.complete) == (thread, "w0 w1 ", True)
    other = await say(server, "say 3 0", headers=headers, user="bob")
    assert (other.status, other.text()) == (200, words(3))
    await call(server, "DELETE", f"/api/conversations/{thread}")
    gone = await say(server, "say 2 0", headers=headers)
    assert (gone.status, "deleted" in gone.detail) == (409, True)
    tried("an idempotency key after kill -9 and a restart", 1)


async def test_the_answer_of_a_killed_server_is_replayed_to_a_retry(make: Callable[..., Server]) -> None:
    """A retry of a key whose run a crash interrupted gets what was saved, and is not run again."""
    server = make()
    headers = {"Idempotency-Key": "one"}
    body = {"message": "say 200 10"}
    async with request(server, "POST", "/chatkit", body, headers=headers) as stream:
        before = await stream.take(120)
        server.kill()
    server.start()
    after = await say(server, "say 200 10", headers=headers)
    assert after.complete
    assert after.thread == before.thread
    assert after.text()
    assert words(200).startswith(after.text())
    assert after.of("error"), "an answer that was interrupted says so"


async def test_limits_of_live_answers_are_429_and_503(make: Callable[..., Server]) -> None:
    """More live answers than a user may have are 429, more than the process may have 503, both with Retry-After."""
    server = make(MAX_LIVE_PER_USER=2, MAX_LIVE=3)
    async with AsyncExitStack() as stack:
        body = {"message": "say 20000 10", "on_disconnect": "stop"}
        for user in ("alice", "alice", "bob"):
            await stack.enter_async_context(request(server, "POST", "/chatkit", body, user=user))
        refused = await say(server, "say 1 0")
        assert (refused.status, "retry-after" in refused.headers) == (429, True)
        full = await say(server, "say 1 0", user="carol")
        assert (full.status, "retry-after" in full.headers) == (503, True)
    _, conversations = await call(server, "GET", "/api/conversations")
    for conversation in conversations:
        await settled(server, conversation["id"])
    assert (await say(server, "say 1 0")).status == 200
    assert len((await call(server, "GET", "/api/conversations"))[1]) == 3


# ---- resume ----


async def test_an_answer_can_be_joined_from_every_frame(make: Callable[..., Server]) -> None:
    """Joined after any number of frames, a live answer goes on without a gap or a duplicate; then there is 204."""
    server = make()
    async with request(server, "POST", "/chatkit", {"message": TURN + "\nsay 30 15"}) as stream:
        await stream.take(FRAMES)
        path = f"/api/conversations/{stream.record.thread}/stream"

        async def join(after: int) -> Record:
            async with request(server, "GET", f"{path}?after={after}") as other:
                return await other.rest()

        joined = await asyncio.gather(*(join(after) for after in range(FRAMES + 1)))
        whole = await stream.rest()
        for after, record in enumerate(joined):
            assert record.status == 200
            assert whole.frames[:after] + record.frames == whole.frames
        beyond, _ = await call(server, "GET", f"{path}?after=100000")
        assert beyond == 204
    tried("a live answer joined after frame k", FRAMES + 1)


async def test_readers_at_different_speeds_see_the_same(make: Callable[..., Server]) -> None:
    """A fast, a slow and a late reader of one answer see the same frames."""
    server = make()
    async with request(server, "POST", "/chatkit", {"message": "say 200000 0"}, buffer=4096) as slow:
        await slow.take(1)
        path = f"/api/conversations/{slow.record.thread}/stream"
        async with request(server, "GET", path) as fast:
            record = await fast.rest()
            assert record.text() == words(200_000)
        assert (await slow.rest()).frames == record.frames
    tried("two readers at different speeds", 2)


async def test_five_hundred_streams_leave_the_service_quick(make: Callable[..., Server]) -> None:
    """With 500 open streams every answer is complete; how long the list of conversations takes is in the table."""
    server = make(MAX_LIVE=600)

    beginning = asyncio.Semaphore(
        20
    )  # at a time: more would only wait for the database, on a busy machine for too long

    async def stream(n: int) -> Record:
        await beginning.acquire()
        async with request(server, "POST", "/chatkit", {"message": "say 10 1000"}, user=f"user-{n}") as one:
            beginning.release()
            opened.append(n)
            if len(opened) == 500:
                all_open.set()
            return await one.rest()

    opened: list[int] = []
    all_open = asyncio.Event()
    streams = [asyncio.create_task(stream(n)) for n in range(500)]
    await asyncio.wait_for(all_open.wait(), 60)
    waits = []
    for _ in range(31):
        begun = time.monotonic()
        status, _ = await call(server, "GET", "/api/conversations", user="user-0")
        waits.append(time.monotonic() - begun)
        assert status == 200
        await asyncio.sleep(0.02)
    records, median = await asyncio.gather(*streams), statistics.median(waits)
    lost = sum(record.text() != words(10) or not record.complete for record in records)
    tried(f"500 open streams (conversation list: {1000 * median:.0f} ms)", 500, lost)
    assert lost == 0


# ---- stop and delete ----


async def test_stop_stops_and_everyone_hears_of_it(make: Callable[..., Server]) -> None:
    """Stop ends the answer at once with what it has; every reader gets the last frame; nothing runs afterwards."""
    server = make()
    program = 'say 20000 10\ncall add_task {"title": "never"}\nsay 1 0'
    async with request(server, "POST", "/chatkit", {"message": program}) as stream:
        await stream.take(10)
        thread = stream.record.thread
        async with request(server, "GET", f"/api/conversations/{thread}/stream") as other:
            status, message = await call(server, "POST", f"/api/conversations/{thread}/stop")
            assert (status, message["status"]) == (200, "stopped")
            record, second = await stream.rest(), await other.rest()
    assert record.complete
    assert second.frames == record.frames
    assert not record.of("error")
    assert message["content"] == record.text()
    status, refused = await call(server, "POST", f"/api/conversations/{thread}/stop")
    assert (status, list(refused)) == (409, ["detail"])
    assert (await call(server, "GET", "/api/tasks"))[1] == []
    assert (await say(server, "say 1 0", thread)).text() == "w0 "
    tried("stop in mid-text", 1)


async def test_stop_during_a_tool_counts_it_with_its_record_or_not_at_all(make: Callable[..., Server]) -> None:
    """Stopped at any moment around a tool, its effect and its record are both there, or neither."""
    server = make(MAX_LIVE_PER_USER=100)
    chance = random.Random(SEED)

    async def one(n: int) -> bool:
        user = f"user-{n}"
        program = 'say 2 5\ncall add_task {"title": "x"}\nsay 1000 5'
        async with request(server, "POST", "/chatkit", {"message": program}, user=user) as stream:
            await stream.take(chance.randint(1, 5))  # frame 5 is the result
            await asyncio.sleep(chance.uniform(0, 0.005))
            await call(server, "POST", f"/api/conversations/{stream.record.thread}/stop", user=user)
            record = await stream.rest()
        _, answer = await settled(server, record.thread, user)
        _, tasks = await call(server, "GET", "/api/tasks", user=user)
        results = [c for c in answer["tool_calls"] if "result" in c]
        assert len(tasks) == len(results) == len(record.of("tool_result"))
        assert answer["content"] == record.text()
        return bool(tasks)

    counted = [await one(n) for n in range(60)]
    assert 0 < sum(counted) < 60
    tried(f"stop around a tool's commit ({sum(counted)} of 60 had committed)", 60)


async def test_stop_while_a_tool_waits_for_the_file(make: Callable[..., Server]) -> None:
    """A tool that is stopped while another program has the file has no effect without its record, however long."""
    server = make()

    async def one(held: float) -> None:
        user = f"user-{held}"
        program = 'say 60 10\ncall add_task {"title": "x"}\nsay 100 10'
        body = {"message": program, "on_disconnect": "stop"}
        with contextlib.closing(sqlite3.connect(server.database, isolation_level=None, timeout=5)) as other:
            async with request(server, "POST", "/chatkit", body, user=user) as stream:
                await stream.take(45)
                other.execute("BEGIN IMMEDIATE")  # a checkpoint waits for it before the tool does
                while not stream.record.of("tool_call"):
                    await stream.take(1)
            await asyncio.sleep(held)
        _, answer = await settled(server, stream.record.thread, user)
        _, tasks = await call(server, "GET", "/api/tasks", user=user)
        assert answer["status"] == "stopped"
        assert len(tasks) == len([c for c in answer["tool_calls"] if "result" in c])

    for held in (1.0, 2.8, 5.6):
        await one(held)
    tried("stop while a tool waits for the file", 3)


async def test_a_tool_that_waits_is_ended_by_stop(make: Callable[..., Server]) -> None:
    """A tool that takes its time does not keep an answer from stopping."""
    server = make()
    async with request(server, "POST", "/chatkit", {"message": 'call wait {"seconds": 300}\nsay 1 0'}) as stream:
        await stream.take(2)
        begun = time.monotonic()
        path = f"/api/conversations/{stream.record.thread}/stop"
        status, message = await call(server, "POST", path)
        assert (status, message["status"]) == (200, "stopped")
        assert time.monotonic() - begun < SOON
        assert "result" not in message["tool_calls"][0]
        assert (await stream.rest()).complete
    again = await say(server, "say 1 0", stream.record.thread)
    assert again.text() == "w0 "
    tried("stop while a tool waits", 1)


def test_stop_closes_the_connection_to_the_model(tmp_path: Path) -> None:
    """Stop hangs up on the model's provider: nothing more is generated, or paid for."""
    with provider() as model:
        server = Server(tmp_path, OPENAI_BASE_URL=model.url, OPENAI_MODEL="m").start()
        try:
            with Client(server.url) as client:
                with client.stream("POST", "/chatkit", json={"message": "please slow"}) as response:
                    lines = response.iter_lines()
                    while '"text"' not in next(lines):
                        pass
                    thread = response.headers["x-thread-id"]
                    stopped = client.post(f"/api/conversations/{thread}/stop").json()
                    assert "data: [DONE]" in list(lines)
                assert stopped["status"] == "stopped"
                assert model.hung_up.wait(PATIENCE), "the provider still streams"
        finally:
            server.close()
    tried("stop with a model over HTTP", 1)


async def test_deleting_a_conversation_ends_its_answer(make: Callable[..., Server]) -> None:
    """A conversation deleted in mid-answer is gone with all its rows; its readers are told and let go."""
    server = make()
    async with request(server, "POST", "/chatkit", {"message": "say 1000 10"}) as stream:
        await stream.take(10)
        thread = stream.record.thread
        assert (await call(server, "DELETE", f"/api/conversations/{thread}"))[0] == 200
        record = await stream.rest()
    assert record.complete
    assert "deleted" in record.of("error")[0]["message"]
    assert server.rows("SELECT COUNT(*) FROM messages") == [(0,)]
    assert (await call(server, "GET", f"/api/conversations/{thread}"))[0] == 404
    tried("delete in mid-answer", 1)


async def test_deleting_a_conversation_during_a_tool_is_no_mistake(make: Callable[..., Server]) -> None:
    """A tool whose conversation goes under its hands has no effect, or one that was recorded; nothing is complained."""
    server = make()
    for n in range(20):
        user = f"user-{n}"
        body = {"message": "\n".join(['call add_task {"title": "x"}'] * 3) + "\nsay 100 5"}
        async with request(server, "POST", "/chatkit", body, user=user) as stream:
            await stream.take(2)
            await call(server, "DELETE", f"/api/conversations/{stream.record.thread}", user=user)
            record = await stream.rest()
        assert record.complete
        _, tasks = await call(server, "GET", "/api/tasks", user=user)
        assert len(tasks) == len(record.of("tool_result"))
    server.kill(signal.SIGTERM)
    assert "Traceback" not in server.log.read_text()
    tried("delete around a tool's commit", 20)


async def test_an_answer_that_is_ended_in_the_file_ends(make: Callable[..., Server]) -> None:
    """A run whose row was ended or deleted by another program notices, and stops."""
    server = make()
    async with request(server, "POST", "/chatkit", {"message": "say 20000 10"}) as stream:
        await stream.take(10)
        with sqlite3.connect(server.database, timeout=5) as other:
            other.execute("PRAGMA foreign_keys = ON")
            other.execute("DELETE FROM conversations")
        other.close()
        record = await asyncio.wait_for(stream.rest(), PATIENCE)
    assert record.complete
    tried("the conversation deleted by another program", 1)


# ---- silence ----


async def test_a_silent_model_fails_the_turn(make: Callable[..., Server]) -> None:
    """A model that says nothing for MODEL_IDLE_TIMEOUT fails the turn in words; what it had said is kept."""
    server = make(MODEL_IDLE_TIMEOUT=1)
    record = await say(server, "say 2 0\nquiet 20\nsay 1 0")
    assert record.complete
    assert "within 1 seconds" in record.of("error")[0]["message"]
    _, answer = await settled(server, record.thread)
    assert (answer["status"], answer["content"]) == ("failed", "w0 w1 ")
    slow = await say(server, "\n".join(["say 1 0", "quiet 0.7"] * 4))
    assert not slow.of("error"), "a model that is slow but not silent is left in peace"
    tool = await say(server, 'call wait {"seconds": 2}\nsay 1 0')
    assert tool.text() == "w0 ", "a tool's time is not the model's silence"
    tried("a model that falls silent", 1)


async def test_a_quiet_stream_is_kept_alive_by_pings(make: Callable[..., Server]) -> None:
    """While nothing happens a comment frame comes every 15 seconds."""
    record = await say(make(), "say 1 0\nquiet 16\nsay 1 0")
    assert record.pings == 1
    assert record.text() == "w0 w0 "


# ---- disk and lock ----


async def test_a_lock_held_by_another_program_is_said_in_words(make: Callable[..., Server]) -> None:
    """While another program holds the file: 503 or an `error` frame within the timeout; afterwards all is normal."""
    server = make()
    thread = (await say(server, "say 1 0")).thread
    async with request(server, "POST", "/chatkit", {"message": 'say 30 20\ncall add_task {"title": "x"}'}) as live:
        await live.take(3)
        with locked(server):
            waiting = asyncio.create_task(say(server, "say 1 0", thread))
            await asyncio.sleep(0.5)  # until some of what is to be written waits for the file
            read = []
            for path in ("/health", "/api/tasks", "/api/conversations", f"/api/conversations/{thread}"):
                read.append((await call(server, "GET", path))[0])
                assert not waiting.done(), "reading waits for nobody"
            assert read == [200] * 4
            refused = await waiting
            assert (refused.status, "retry-after" in refused.headers) == (503, True)
            record = await asyncio.wait_for(live.rest(), PATIENCE)
            assert record.complete
            assert record.of("error")
            assert (await call(server, "GET", f"/api/conversations/{record.thread}"))[0] == 200
    _, answer = await settled(server, record.thread)
    assert answer["status"] == "failed"
    assert words(30).startswith(answer["content"].rstrip("\n"))
    assert (await call(server, "GET", "/api/tasks"))[1] == []
    assert (await say(server, "say 1 0", record.thread)).text() == "w0 "
    assert len((await call(server, "GET", f"/api/conversations/{thread}"))[1]["messages"]) == 2
    assert "Traceback" not in server.log.read_text()
    tried("the file locked by another program", 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        missing("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_said_in_words_and_survived(make: Callable[..., Server], small_disk: Path) -> None:
    """On a full disk: 503 or an `error` frame, nothing half-written; when there is room again all is normal."""
    server = make(folder=small_disk)
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    thread = (await say(server, "say 1 0")).thread
    async with request(server, "POST", "/chatkit", {"message": "say 60 20\nsay 3000 0\nquiet 0.5"}) as live:
        await live.take(3)
        fill()
        refused = await say(server, "x" * 30_000, thread)
        assert refused.status == 503
        assert "full" in refused.detail
        status, refusal = await call(server, "POST", "/api/tasks", {"title": "y" * 200, "description": "z" * 2000})
        while status != 503:  # what is free in the pages that there are
            assert status == 201
            status, refusal = await call(server, "POST", "/api/tasks", {"title": "y", "description": "z" * 2000})
        assert "full" in refusal["detail"]
        assert (await call(server, "GET", "/api/conversations"))[0] == 200, "reading works on a full disk"
        record = await asyncio.wait_for(live.rest(), PATIENCE)
        assert record.complete
        assert record.of("error")
    filler.unlink()
    _, answer = await settled(server, record.thread)
    assert answer["status"] in ("done", "failed")
    assert (await say(server, "say 2 0", record.thread)).text() == "w0 w1 "
    assert len((await call(server, "GET", f"/api/conversations/{thread}"))[1]["messages"]) == 2
    assert server.rows("PRAGMA integrity_check") == [("ok",)]
    assert "Traceback" not in server.log.read_text()
    tried("a full disk in mid-answer", 1)


async def test_a_file_that_cannot_be_written_any_more_is_survived(make: Callable[..., Server]) -> None:
    """When the file cannot be written: 503, and reading goes on; when it can again all is normal."""
    server = make()

    def limit(size: int) -> None:
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    thread = (await say(server, "say 1 0")).thread
    limit(1)
    refused = await say(server, "say 1 0", thread)
    assert (refused.status, "retry-after" in refused.headers) == (503, True)
    assert (await call(server, "GET", f"/api/conversations/{thread}"))[0] == 200
    limit(resource.RLIM_INFINITY)
    assert (await say(server, "say 1 0", thread)).text() == "w0 "
    tried("a file that cannot be written any more", 1)


# ---- what clients send ----


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(
    st.sampled_from(["message", "thread_id", "on_disconnect", "type", "params", "metadata"]),
    JSON | st.sampled_from(["say 1 0", "stop", "continue", "threads.create", 1, "1"]),
    max_size=6,
)


def test_no_body_makes_the_server_fail(make: Callable[..., Server]) -> None:
    """Whatever the body: never a 5xx, never a traceback in the log."""
    server = make(MAX_LIVE_PER_USER=1000)
    count = 0

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        FIELDS.map(lambda body: json.dumps(body).encode())
        | st.binary(max_size=200)
        | JSON.map(json.dumps).map(str.encode)
    )
    def send(body: bytes) -> None:
        nonlocal count
        count += 1
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            head = f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split()[1])
        assert status in (200, 400, 404, 413), answer[:500]

    send()
    assert "Traceback" not in server.log.read_text()
    tried("bodies made by a fuzzer", count)


async def test_a_backup_of_a_live_database_is_consistent(make: Callable[..., Server], tmp_path: Path) -> None:
    """`python app.py backup FILE` copies a live database consistently, and overwrites nothing."""
    server = make()

    def backup(target: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "app.py"), "backup", str(target)]
        return subprocess.run(command, env=os.environ | server.env, capture_output=True, text=True, timeout=120)

    async with request(server, "POST", "/chatkit", {"message": "say 100000 10"}) as live:
        await live.take(80)
        made = await asyncio.to_thread(backup, tmp_path / "copy.db")
        assert made.returncode == 0, made.stderr
        _, stopped = await call(server, "POST", f"/api/conversations/{live.record.thread}/stop")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    restored = await Store.open(str(tmp_path / "copy.db"))
    answer = await restored.get_message("alice", 2)
    await restored.close()
    assert answer is not None
    assert answer["status"] == "interrupted"
    assert answer["content"]
    assert stopped["content"].startswith(answer["content"])
    before = (tmp_path / "copy.db").read_bytes()
    again = await asyncio.to_thread(backup, tmp_path / "copy.db")
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (tmp_path / "copy.db").read_bytes() == before
