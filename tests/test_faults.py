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
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import pytest
from conftest import missing, report
from faults import Record, Server, call, request, say, settled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TABLE: dict[str, tuple[int, int]] = {}
SEED = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))


def tried(fault: str, times: int, lost: int = 0) -> None:
    """Write a line of the table."""
    before = TABLE.get(fault, (0, 0))
    TABLE[fault] = before[0] + times, before[1] + lost


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hand the table over to be printed when all tests are over."""
    yield
    report(request.config, "faults", TABLE)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server."""
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        servers.append(Server(options.pop("folder", tmp_path), **options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


def words(count: int, first: int = 0) -> str:
    """Return the text that `say COUNT MS` makes."""
    return "".join(f"w{n} " for n in range(first, first + count))


# ---- kill -9 ----


WITH_TOOLS = 'say 12 15\ncall add_task {"title": "%s"}\nsay 12 15\ncall add_task {"title": "%s too"}\nsay 20 15'
TEXT_ALONE = "say 200 10"  # nothing but the checkpoints saves it


COMPARED: list[Record] = []  # what clients had seen of the answers that were compared with the database


def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Killed at 100 random moments of streaming turns, nothing older than half a second or acknowledged is lost."""
    folders = [tmp_path / "one", tmp_path / "two"]
    with ThreadPoolExecutor(len(folders)) as pool:  # two servers at a time: most of it is waiting
        lost = sum(pool.map(kill_fifty_times, folders, [SEED, SEED + 1]))
    assert len(COMPARED) > 100, "most were killed before they had said anything"
    older = [record.text(record.times[-1] - 0.5) for record in COMPARED if record.times]
    assert sum(len(text) > 0 for text in older) > 20, "hardly any had text that must have been saved"
    tried("kill -9 at a random moment of two streaming turns", 100, lost)
    assert lost == 0, SEED


def kill_fifty_times(folder: Path, seed: int) -> int:
    """Kill one server at fifty random moments; return how many promises were broken."""
    folder.mkdir()
    chance, server = random.Random(seed), Server(folder).start()
    try:
        return sum(asyncio.run(kill_once(server, n, chance)) for n in range(50))
    finally:
        server.close()


async def kill_once(server: Server, n: int, chance: random.Random) -> int:
    """Kill the server in two streaming turns, start it again, and compare what was seen with what is there."""
    users = [f"user-{n}-a", f"user-{n}-b"]
    programs = [WITH_TOOLS % (users[0], users[0]), TEXT_ALONE]
    reading = [
        asyncio.create_task(say(server, program, user=user)) for program, user in zip(programs, users, strict=True)
    ]
    await asyncio.sleep(chance.uniform(0, 1.5))
    server.kill()
    killed = time.monotonic()
    seen = await asyncio.gather(*reading, return_exceptions=True)
    assert not [error for error in seen if isinstance(error, AssertionError)]
    await asyncio.to_thread(server.start)
    assert server.rows("PRAGMA integrity_check") == [("ok",)]
    assert server.rows("SELECT COUNT(*) FROM messages WHERE status = 'streaming'") == [(0,)]
    broken = 0
    for record, user in zip(seen, users, strict=True):
        if isinstance(record, Record) and record.status == 200:  # else it was killed before the first byte
            COMPARED.append(record)
            broken += await promises_broken(server, record, killed, user)
        again = await say(server, "say 1 0", record.thread if isinstance(record, Record) else None, user=user)
        broken += again.text() != "w0 "
    return broken


async def promises_broken(server: Server, record: Record, killed: float, user: str) -> int:
    """Return how many of the promises about what a client had seen are broken in the database."""
    [(content, tool_calls, status)] = server.rows(
        "SELECT content, tool_calls, status FROM messages WHERE role = 'assistant' AND conversation_id = ?",
        record.thread,
    )
    stored = {call["id"]: call["result"] for call in json.loads(tool_calls) if "result" in call}
    titles = [call["args"]["title"] for call in json.loads(tool_calls) if "result" in call]
    tasks = [title for (title,) in server.rows("SELECT title FROM tasks WHERE user_id = ?", user)]
    broken = [
        not content.startswith(record.text(killed - 0.5)),
        not (record.text().startswith(content) or content.startswith(record.text())),
        any(stored.get(event["id"]) != event["result"] for event in record.of("tool_result")),
        sorted(tasks) != sorted(titles),  # a tool's effect and its record: both, or neither
        record.complete and (status, content) != ("done", record.text()),
        status not in ("done", "interrupted"),
    ]
    if any(broken):
        print(broken, record, content, tool_calls, status, tasks)
    return sum(broken)


# ---- readers that go away ----


TURN = 'say 3 8\ncall add_task {"title": "x"}\nsay 3 8'
FRAMES = 1 + 3 + 2 + 1 + 3  # thinking, text, tool call and result, paragraph, text


@pytest.mark.parametrize("how", ["close", "half_close", "reset"])
@pytest.mark.parametrize("wish", ["continue", "stop"])
def test_a_reader_that_goes_away_after_any_frame(make: Callable[..., Server], how: str, wish: str) -> None:
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

    async def main() -> None:
        await asyncio.gather(*(leave(k) for k in range(FRAMES + 1)))

    asyncio.run(main())
    tried(f"reader gone after frame k ({how.replace('_', '-')}, {wish})", FRAMES + 1)


def test_a_reader_that_takes_nothing_is_dropped_and_hurts_nobody(make: Callable[..., Server]) -> None:
    """A reader that stalls holds neither the run nor another reader; the answer is complete."""
    server = make()

    async def main() -> None:
        # 200,000 words are more than the buffers between two sockets hold.
        async with request(server, "POST", "/chatkit", {"message": "say 200000 0"}, buffer=4096) as stream:
            await stream.take(2)
            _, answer = await settled(server, stream.record.thread)
            assert answer["status"] == "done"
            assert answer["content"] == words(200_000)
            slow = await stream.rest()
            assert slow.text() == words(200_000)
            assert slow.complete

    asyncio.run(main())
    tried("reader that takes nothing until the answer is over", 1)


# ---- shutdown ----


def test_sigterm_ends_twenty_live_answers_with_words(make: Callable[..., Server]) -> None:
    """On SIGTERM with 20 live streams each reader gets `error` and `[DONE]`, the answers are kept as interrupted."""
    server = make()
    ended: list[float] = []

    async def main() -> list[Record]:
        async def stream(n: int) -> Record:
            return await say(server, "say 1000 10", user=f"user-{n}")

        reading = [asyncio.create_task(stream(n)) for n in range(20)]
        await asyncio.sleep(1)
        ended.append(await asyncio.to_thread(server.kill, signal.SIGTERM))
        return await asyncio.gather(*reading)

    records = asyncio.run(main())
    assert ended[0] < 5
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
def test_a_signal_ends_the_process_whatever_clients_do(make: Callable[..., Server], sig: int) -> None:
    """A half-sent body and a stalled reader do not keep the process from ending within 5 seconds."""
    server = make()

    async def main() -> float:
        _, half_sent = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {faults.token()}\r\n"
        half_sent.write((head + 'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"mess').encode())
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        async with request(server, "POST", "/chatkit", {"message": "say 200000 0"}, buffer=4096) as stalled:
            await stalled.take(2)
            await asyncio.sleep(0.5)
            took = await asyncio.to_thread(server.kill, sig)
        for _, writer in idle:
            writer.close()
        half_sent.close()
        return took

    took = asyncio.run(main())
    assert took < 5
    assert server.rows("SELECT COUNT(*) FROM messages WHERE status = 'streaming'") == [(0,)]
    tried(f"{signal.Signals(sig).name} with a half-sent body, idle and stalled readers", 1)


def test_a_signal_ends_the_process_while_the_file_is_locked(make: Callable[..., Server]) -> None:
    """With the file locked by another program, readers get `error` and `[DONE]` and the process ends in 5 seconds."""
    server = make()

    async def main() -> tuple[float, list[Record]]:
        reading = [asyncio.create_task(say(server, "say 1000 10", user=f"user-{n}")) for n in range(3)]
        await asyncio.sleep(1)
        other = sqlite3.connect(server.database, isolation_level=None, timeout=5)
        other.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(0.5)  # a checkpoint waits for the file
        took = await asyncio.to_thread(server.kill, signal.SIGTERM)
        records = await asyncio.gather(*reading)
        other.close()
        return took, records

    took, records = asyncio.run(main())
    assert took < 5
    assert all(record.complete and record.of("error") for record in records)
    server.start()
    assert server.rows("SELECT COUNT(*) FROM messages WHERE status = 'interrupted'") == [(3,)]
    tried("SIGTERM while the file is locked", 3)


def test_a_turn_that_waits_for_the_file_at_the_end_is_ended_too(make: Callable[..., Server]) -> None:
    """A turn that could be stored only during the shutdown is interrupted at once: its reader gets the last frame."""
    server = make()

    async def main() -> Record:
        await say(server, "say 1 0", user="bob")
        with contextlib.closing(sqlite3.connect(server.database, isolation_level=None, timeout=5)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(say(server, "say 300 10"))
            await asyncio.sleep(0.3)
            os.kill(server.process.pid, signal.SIGTERM)
            await asyncio.sleep(2.2)  # longer than the shutdown waits for turns that are about to begin
        return await waiting

    record = asyncio.run(main())
    server.process.join(10)
    assert record.complete
    assert "shutting down" in record.of("error")[0]["message"]
    [(status,)] = server.rows("SELECT status FROM messages WHERE conversation_id = ? AND content = ''", record.thread)
    assert status == "interrupted"
    assert "Traceback" not in server.log
    tried("SIGTERM while a turn waits for the file", 1)


def test_a_tool_that_cannot_be_ended_does_not_keep_the_process(make: Callable[..., Server]) -> None:
    """A tool that blocks a thread holds the exit up for 5 seconds at most; the reader has got the last frame."""
    server = make()

    async def main() -> tuple[Record, float]:
        body = {"message": 'say 1 0\ncall block {"seconds": 12}'}
        async with request(server, "POST", "/chatkit", body) as stream:
            await stream.take(3)
            await asyncio.sleep(0.2)
            took = await asyncio.to_thread(server.kill, signal.SIGTERM)
            return await stream.rest(), took

    record, took = asyncio.run(main())
    assert took < 5
    assert record.complete
    assert server.rows("SELECT status FROM messages WHERE role = 'assistant'") == [("interrupted",)]
    tried("SIGTERM while a tool blocks", 1)


def test_a_second_signal_ends_the_process_at_once(make: Callable[..., Server]) -> None:
    """Who cannot wait sends a second signal; what was stored stays."""
    server = make()

    async def main() -> float:
        _, half_sent = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {faults.token()}\r\n"
        half_sent.write((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
        await asyncio.sleep(0.3)
        os.kill(server.process.pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        took = await asyncio.to_thread(server.kill, signal.SIGTERM)
        half_sent.close()
        return took

    assert asyncio.run(main()) < 1
    assert server.process.exitcode == 128 + signal.SIGTERM
    tried("a second SIGTERM while the first one waits", 1)


def test_new_turns_are_refused_while_it_shuts_down(make: Callable[..., Server]) -> None:
    """A turn that is asked for during the shutdown gets 503 and is not stored, or finds nobody listening."""
    server = make()

    async def main() -> list[int]:
        statuses: list[int] = []
        _, half_sent = await asyncio.open_connection("127.0.0.1", server.port)  # keeps it waiting for its 3 seconds
        head = f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {faults.token()}\r\n"
        half_sent.write((head + "Content-Type: application/json\r\nContent-Length: 22\r\n\r\n").encode())
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = b'{"message": "say 1 0"}'
        writer.write((head + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode())
        await asyncio.sleep(0.3)
        os.kill(server.process.pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        writer.write(body)
        statuses.append(int((await reader.readline()).split()[1]))
        writer.close()
        half_sent.close()
        return statuses

    assert asyncio.run(main()) == [503]
    server.process.join(10)
    assert server.rows("SELECT COUNT(*) FROM messages") == [(0,)]
    tried("a message sent during the shutdown", 1)


# ---- many at once ----


def test_twenty_messages_at_once_are_one_turn(make: Callable[..., Server]) -> None:
    """Of twenty posts at once into one conversation one is answered, nineteen get 409 and leave nothing."""
    server = make()

    async def main() -> None:
        thread = (await say(server, "say 1 0")).thread
        records = await asyncio.gather(*(say(server, "say 20 10", thread) for _ in range(20)))
        assert sorted(record.status for record in records) == [200] + [409] * 19
        assert all("stop it" in record.detail for record in records if record.status == 409)
        messages = await settled(server, thread)
        assert [m["role"] for m in messages] == ["user", "assistant"] * 2

    asyncio.run(main())
    tried("20 simultaneous messages into one conversation", 20)


@pytest.mark.parametrize("user_limit", [1, 4])
def test_twenty_retries_of_one_key_are_one_run(make: Callable[..., Server], user_limit: int) -> None:
    """Twenty retries of one idempotency key, early and late, are one run and twenty equal answers."""
    server = make(MAX_LIVE_PER_USER=user_limit)
    headers = {"Idempotency-Key": "one"}

    async def main() -> None:
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

    asyncio.run(main())
    tried("20 retries of one idempotency key", 20)


def test_a_key_belongs_to_one_user_and_one_request(make: Callable[..., Server]) -> None:
    """Another body under the same key is 409; another user's same key is another key; a restart forgets nothing."""
    server = make()
    headers = {"Idempotency-Key": "one"}

    async def first() -> Record:
        return await say(server, "say 2 0", headers=headers)

    async def then(thread: int) -> None:
        refused = await say(server, "say 3 0", headers=headers)
        assert (refused.status, "different" in refused.detail or "another" in refused.detail) == (409, True)
        again = await say(server, "say 2 0", headers=headers)
        assert (again.thread, again.text(), again.complete) == (thread, "w0 w1 ", True)
        other = await say(server, "say 3 0", headers=headers, user="bob")
        assert (other.status, other.text()) == (200, words(3))
        await call(server, "DELETE", f"/api/conversations/{thread}")
        gone = await say(server, "say 2 0", headers=headers)
        assert (gone.status, "deleted" in gone.detail) == (409, True)

    record = asyncio.run(first())
    server.kill()
    server.start()
    asyncio.run(then(record.thread))
    tried("an idempotency key after kill -9 and a restart", 1)


def test_the_answer_of_a_killed_server_is_replayed_to_a_retry(make: Callable[..., Server]) -> None:
    """A retry of a key whose run a crash interrupted gets what was saved, and is not run again."""
    server = make()
    headers = {"Idempotency-Key": "one"}

    async def crash() -> Record:
        body = {"message": "say 200 10"}
        async with request(server, "POST", "/chatkit", body, headers=headers) as stream:
            await stream.take(120)
            server.kill()
            return stream.record

    async def retry(before: Record) -> None:
        after = await say(server, "say 200 10", headers=headers)
        assert after.complete
        assert after.thread == before.thread
        assert after.text()
        assert words(200).startswith(after.text())
        assert after.of("error"), "an answer that was interrupted says so"

    record = asyncio.run(crash())
    server.start()
    asyncio.run(retry(record))


def test_limits_of_live_answers_are_429_and_503(make: Callable[..., Server]) -> None:
    """More live answers than a user may have are 429, more than the process may have 503, both with Retry-After."""
    server = make(MAX_LIVE_PER_USER=2, MAX_LIVE=3)

    async def main() -> None:
        live = [asyncio.create_task(say(server, "say 100 10", user=user)) for user in ("alice", "alice", "bob")]
        await asyncio.sleep(0.4)
        refused = await say(server, "say 1 0")
        assert (refused.status, "retry-after" in refused.headers) == (429, True)
        full = await say(server, "say 1 0", user="carol")
        assert (full.status, "retry-after" in full.headers) == (503, True)
        await asyncio.gather(*live)
        assert (await say(server, "say 1 0")).status == 200
        assert len((await call(server, "GET", "/api/conversations"))[1]) == 3

    asyncio.run(main())


# ---- resume ----


def test_an_answer_can_be_joined_from_every_frame(make: Callable[..., Server]) -> None:
    """Joined after any number of frames, a live answer goes on without a gap or a duplicate; then there is 204."""
    server = make()

    async def main() -> None:
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

    asyncio.run(main())
    tried("a live answer joined after frame k", FRAMES + 1)


def test_readers_at_different_speeds_see_the_same(make: Callable[..., Server]) -> None:
    """A fast, a slow and a late reader of one answer see the same frames."""
    server = make()

    async def main() -> None:
        async with request(server, "POST", "/chatkit", {"message": "say 200000 0"}, buffer=4096) as slow:
            await slow.take(1)
            path = f"/api/conversations/{slow.record.thread}/stream"
            async with request(server, "GET", path) as fast:
                record = await fast.rest()
                assert record.text() == words(200_000)
            assert (await slow.rest()).frames == record.frames

    asyncio.run(main())
    tried("two readers at different speeds", 2)


def test_five_hundred_streams_leave_the_service_quick(make: Callable[..., Server]) -> None:
    """With 500 open streams every answer is complete, and the list of conversations takes under 100 ms."""
    server = make(MAX_LIVE=600)

    async def main() -> tuple[list[Record], float]:
        async def stream(n: int) -> Record:
            await asyncio.sleep(n * 0.006)
            return await say(server, "say 10 1000", user=f"user-{n}")

        streams = [asyncio.create_task(stream(n)) for n in range(500)]
        await asyncio.sleep(5)
        waits = []
        for _ in range(31):
            begun = time.monotonic()
            status, _ = await call(server, "GET", "/api/conversations", user="user-0")
            waits.append(time.monotonic() - begun)
            assert status == 200
            await asyncio.sleep(0.02)
        return await asyncio.gather(*streams), statistics.median(waits)

    records, median = asyncio.run(main())
    lost = sum(record.text() != words(10) or not record.complete for record in records)
    tried(f"500 open streams (conversation list: {1000 * median:.0f} ms)", 500, lost)
    assert lost == 0
    assert median < 0.1


# ---- stop and delete ----


def test_stop_stops_and_everyone_hears_of_it(make: Callable[..., Server]) -> None:
    """Stop ends the answer at once with what it has; every reader gets the last frame; nothing runs afterwards."""
    server = make()

    async def main() -> None:
        program = 'say 50 10\ncall add_task {"title": "never"}\nsay 1 0'
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
        await asyncio.sleep(0.7)
        assert (await call(server, "GET", "/api/tasks"))[1] == []
        assert (await say(server, "say 1 0", thread)).text() == "w0 "

    asyncio.run(main())
    tried("stop in mid-text", 1)


def test_stop_during_a_tool_counts_it_with_its_record_or_not_at_all(make: Callable[..., Server]) -> None:
    """Stopped at any moment around a tool, its effect and its record are both there, or neither."""
    server = make(MAX_LIVE_PER_USER=100)
    chance = random.Random(SEED)

    async def one(n: int) -> bool:
        user = f"user-{n}"
        program = 'say 2 5\ncall add_task {"title": "x"}\nsay 1000 5'
        async with request(server, "POST", "/chatkit", {"message": program}, user=user) as stream:
            await stream.take(2)
            await asyncio.sleep(chance.uniform(0, 0.01))
            await call(server, "POST", f"/api/conversations/{stream.record.thread}/stop", user=user)
            record = await stream.rest()
        _, answer = await settled(server, record.thread, user)
        _, tasks = await call(server, "GET", "/api/tasks", user=user)
        results = [c for c in answer["tool_calls"] if "result" in c]
        assert len(tasks) == len(results) == len(record.of("tool_result"))
        assert answer["content"] == record.text()
        return bool(tasks)

    async def main() -> list[bool]:
        return [await one(n) for n in range(60)]

    counted = asyncio.run(main())
    assert 0 < sum(counted) < 60
    tried(f"stop around a tool's commit ({sum(counted)} of 60 had committed)", 60)


def test_stop_while_a_tool_waits_for_the_file(make: Callable[..., Server]) -> None:
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

    async def main() -> None:
        for held in (1.0, 2.8, 5.6):
            await one(held)

    asyncio.run(main())
    tried("stop while a tool waits for the file", 3)


def test_a_tool_that_waits_is_ended_by_stop(make: Callable[..., Server]) -> None:
    """A tool that takes its time does not keep an answer from stopping."""
    server = make()

    async def main() -> None:
        async with request(server, "POST", "/chatkit", {"message": 'call wait {"seconds": 20}\nsay 1 0'}) as stream:
            await stream.take(2)
            begun = time.monotonic()
            path = f"/api/conversations/{stream.record.thread}/stop"
            status, message = await call(server, "POST", path)
            assert (status, message["status"]) == (200, "stopped")
            assert time.monotonic() - begun < 5
            assert "result" not in message["tool_calls"][0]
            assert (await stream.rest()).complete
        again = await say(server, "say 1 0", stream.record.thread)
        assert again.text() == "w0 "

    asyncio.run(main())
    tried("stop while a tool waits", 1)


def test_stop_closes_the_connection_to_the_model(make: Callable[..., Server], tmp_path: Path) -> None:
    """Stop hangs up on the model's provider: nothing more is generated, or paid for."""
    from conftest import prepare
    from provider import provider

    with provider() as model:
        server = prepare(tmp_path, OPENAI_BASE_URL=model.url, OPENAI_MODEL="m").start()
        try:
            with server.client() as client:
                with client.stream("POST", "/chatkit", json={"message": "please slow"}) as response:
                    lines = response.iter_lines()
                    while '"text"' not in next(lines):
                        pass
                    thread = response.headers["x-thread-id"]
                    stopped = client.post(f"/api/conversations/{thread}/stop").json()
                    assert "data: [DONE]" in list(lines)
                assert stopped["status"] == "stopped"
                assert model.hung_up.wait(5), "the provider still streams"
        finally:
            server.close()
    tried("stop with a model over HTTP", 1)


def test_deleting_a_conversation_ends_its_answer(make: Callable[..., Server]) -> None:
    """A conversation deleted in mid-answer is gone with all its rows; its readers are told and let go."""
    server = make()

    async def main() -> None:
        async with request(server, "POST", "/chatkit", {"message": "say 1000 10"}) as stream:
            await stream.take(10)
            thread = stream.record.thread
            assert (await call(server, "DELETE", f"/api/conversations/{thread}"))[0] == 200
            record = await stream.rest()
        assert record.complete
        assert "deleted" in record.of("error")[0]["message"]
        assert server.rows("SELECT COUNT(*) FROM messages") == [(0,)]
        assert (await call(server, "GET", f"/api/conversations/{thread}"))[0] == 404

    asyncio.run(main())
    tried("delete in mid-answer", 1)


def test_deleting_a_conversation_during_a_tool_is_no_mistake(make: Callable[..., Server]) -> None:
    """A tool whose conversation goes under its hands has no effect, or one that was recorded; nothing is complained."""
    server = make()

    async def main() -> None:
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

    asyncio.run(main())
    server.kill(signal.SIGTERM)
    assert "Traceback" not in server.log
    tried("delete around a tool's commit", 20)


def test_an_answer_that_is_ended_in_the_file_ends(make: Callable[..., Server]) -> None:
    """A run whose row was ended or deleted by another program notices, and stops."""
    server = make()

    async def main() -> None:
        async with request(server, "POST", "/chatkit", {"message": "say 1000 10"}) as stream:
            await stream.take(10)
            with sqlite3.connect(server.database, timeout=5) as other:
                other.execute("PRAGMA foreign_keys = ON")
                other.execute("DELETE FROM conversations")
            other.close()
            record = await asyncio.wait_for(stream.rest(), 5)
        assert record.complete
        assert len(record.frames) < 500

    asyncio.run(main())
    tried("the conversation deleted by another program", 1)


# ---- silence ----


def test_a_silent_model_fails_the_turn(make: Callable[..., Server]) -> None:
    """A model that says nothing for MODEL_IDLE_TIMEOUT fails the turn in words; what it had said is kept."""
    server = make(MODEL_IDLE_TIMEOUT=1)

    async def main() -> None:
        record = await say(server, "say 2 0\nquiet 20\nsay 1 0")
        assert record.complete
        assert "within 1 seconds" in record.of("error")[0]["message"]
        _, answer = await settled(server, record.thread)
        assert (answer["status"], answer["content"]) == ("failed", "w0 w1 ")
        slow = await say(server, "\n".join(["say 1 0", "quiet 0.7"] * 4))
        assert not slow.of("error"), "a model that is slow but not silent is left in peace"
        tool = await say(server, 'call wait {"seconds": 2}\nsay 1 0')
        assert tool.text() == "w0 ", "a tool's time is not the model's silence"

    asyncio.run(main())
    tried("a model that falls silent", 1)


def test_a_quiet_stream_is_kept_alive_by_pings(make: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens a comment frame comes every 15 seconds."""
    server = make()

    async def main() -> Record:
        return await say(server, "say 1 0\nquiet 16\nsay 1 0")

    record = asyncio.run(main())
    assert record.pings == 1
    assert record.text() == "w0 w0 "


# ---- disk and lock ----


def test_a_lock_held_by_another_program_is_said_in_words(make: Callable[..., Server]) -> None:
    """While another program holds the file: 503 or an `error` frame within the timeout; afterwards all is normal."""
    server = make()

    async def main() -> None:
        thread = (await say(server, "say 1 0")).thread
        async with request(server, "POST", "/chatkit", {"message": 'say 30 20\ncall add_task {"title": "x"}'}) as live:
            await live.take(3)
            other = sqlite3.connect(server.database, isolation_level=None, timeout=5)
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            refused = await say(server, "say 1 0", thread)
            assert (refused.status, "retry-after" in refused.headers) == (503, True)
            assert time.monotonic() - begun < 8
            record = await asyncio.wait_for(live.rest(), 15)
            assert record.complete
            assert record.of("error")
            other.execute("ROLLBACK")
            other.close()
        _, answer = await settled(server, record.thread)
        assert answer["status"] == "failed"
        assert words(30).startswith(answer["content"].rstrip("\n"))
        assert (await call(server, "GET", "/api/tasks"))[1] == []
        assert (await say(server, "say 1 0", record.thread)).text() == "w0 "
        assert len((await call(server, "GET", f"/api/conversations/{thread}"))[1]["messages"]) == 2

    asyncio.run(main())
    assert "Traceback" not in server.log
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


def test_a_full_disk_is_said_in_words_and_survived(make: Callable[..., Server], small_disk: Path) -> None:
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

    async def main() -> None:
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
            record = await asyncio.wait_for(live.rest(), 20)
            assert record.complete
            assert record.of("error")
        filler.unlink()
        _, answer = await settled(server, record.thread)
        assert answer["status"] in ("done", "failed")
        assert (await say(server, "say 2 0", record.thread)).text() == "w0 w1 "
        assert len((await call(server, "GET", f"/api/conversations/{thread}"))[1]["messages"]) == 2
        assert server.rows("PRAGMA integrity_check") == [("ok",)]

    asyncio.run(main())
    assert "Traceback" not in server.log
    tried("a full disk in mid-answer", 1)


def test_a_file_that_cannot_be_written_any_more_is_survived(make: Callable[..., Server]) -> None:
    """When the file cannot be written: 503, and reading goes on; when it can again all is normal."""
    server = make()

    def limit(size: int) -> None:
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    async def main() -> None:
        thread = (await say(server, "say 1 0")).thread
        limit(1)
        refused = await say(server, "say 1 0", thread)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert (await call(server, "GET", f"/api/conversations/{thread}"))[0] == 200
        limit(resource.RLIM_INFINITY)
        assert (await say(server, "say 1 0", thread)).text() == "w0 "

    asyncio.run(main())
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
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            head = (
                f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {faults.token()}\r\nConnection: close\r\n"
            )
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split()[1])
        assert status in (200, 400, 404, 413), answer[:500]

    send()
    assert "Traceback" not in server.log
    tried("bodies made by a fuzzer", count)


def test_a_backup_of_a_live_database_is_consistent(make: Callable[..., Server], tmp_path: Path) -> None:
    """`python app.py backup FILE` copies a live database consistently, and overwrites nothing."""
    import sys

    from conftest import ROOT

    server = make()

    def backup(target: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "app.py"), "backup", str(target)]
        return subprocess.run(command, env=os.environ | server.env, capture_output=True, text=True, timeout=30)

    async def main() -> None:
        live = asyncio.create_task(say(server, "say 400 10"))
        await asyncio.sleep(0.8)
        made = await asyncio.to_thread(backup, tmp_path / "copy.db")
        assert made.returncode == 0, made.stderr
        record = await live
        assert record.text() == words(400)
        with sqlite3.connect(tmp_path / "copy.db") as copy:
            assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            [(content,)] = copy.execute("SELECT content FROM messages WHERE role = 'assistant'").fetchall()
            assert content
            assert words(400).startswith(content)
        copy.close()
        before = (tmp_path / "copy.db").read_bytes()
        again = await asyncio.to_thread(backup, tmp_path / "copy.db")
        assert again.returncode == 2
        assert "exists already" in again.stderr
        assert (tmp_path / "copy.db").read_bytes() == before

    asyncio.run(main())
