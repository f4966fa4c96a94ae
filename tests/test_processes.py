"""The fault suite of several processes on one PostgreSQL: each promise holds whichever process is asked.

The processes, the server, PgBouncer and the lines between them are real ones. Each case is tried directly and by
PgBouncer. At the end a table says how often each fault was tried and how much was lost; docs/promises.md shows it.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, SOON, Server, missing
from faults import SEED, Record, Stream, Table, call, join, paced_server, request, rounds, say, settled, words
from postgres import PASSWORD, Bouncer, Postgres, as_its_user, folder, line, look, needed, programs, running

from todochat.db import INTERRUPTED
from todochat.events import fold

pytestmark = pytest.mark.anyio

TABLE = Table("faults of several processes")
tried, table = TABLE.tried, TABLE.fixture

Start = Callable[..., Awaitable[list[Server]]]

TURN = 'say 3 8\ncall add_task {"title": "sesame"}\nsay 3 8'
FRAMES = 1 + 3 + 2 + 1 + 3  # thinking, text, tool call and result, paragraph, text


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts so many servers on the database at a URL, all at once."""
    servers: list[Server] = []

    async def begin(url: str, count: int = 2, **options: Any) -> list[Server]:
        begun = []
        for _ in range(count):
            place = tmp_path / str(len(servers))
            place.mkdir()
            begun.append(paced_server(place, DATABASE_URL=url, **options))
            servers.append(begun[-1])
        return await asyncio.gather(*(asyncio.to_thread(server.start) for server in begun))

    yield begin
    for server in servers:
        server.close()
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(params=["postgres", "pgbouncer"])
def url(request: pytest.FixtureRequest, cluster: Postgres, bouncer: Bouncer) -> Iterator[str]:
    """The URL of an empty database, directly and by PgBouncer."""
    with cluster.database() as name:
        yield (cluster if request.param == "postgres" else bouncer).url(name)


@pytest.fixture
def urls(fragile: Postgres, fragile_bouncer: Bouncer) -> Iterator[tuple[str, str]]:
    """The URLs of two empty databases on a server that can be broken, one directly and one by PgBouncer."""
    with fragile.database() as one, fragile.database() as two:
        yield fragile.url(one), fragile_bouncer.url(two)


def port_of(url: str) -> int:
    """Return the port in a URL."""
    return int(url.rsplit(":", 1)[1].split("/")[0])


async def eventually(work: Callable[[], Any], wanted: Any, seconds: float = PATIENCE) -> float:
    """Call until it returns what is wanted; return how long that took."""
    begun = time.monotonic()
    while (found := await work()) != wanted:
        assert time.monotonic() - begun < seconds, f"still {found}"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def health(server: Server) -> int:
    """Return the status of /health."""
    return int((await call(server, "GET", "/health"))[0])


async def titles(server: Server, user: str) -> list[str]:
    """Return the titles of a user's tasks."""
    return [task["title"] for task in (await call(server, "GET", "/api/tasks", user=user))[1]]


# ---- an answer is followed, stopped and deleted elsewhere ----


async def test_an_answer_of_another_process_can_be_joined_from_every_frame(url: str, start: Start) -> None:
    """Joined on another process after any number of frames, an answer goes on without a gap or a duplicate."""
    one, two, three = await start(url, 3)
    async with request(one, "POST", "/chatkit", {"message": TURN + "\nsay 50 60"}) as stream:
        own, thread = asyncio.create_task(stream.rest()), stream.record.thread
        ks = [*range(FRAMES + 31), 45, 55]  # some of which have not been made yet
        joined = await asyncio.gather(*(join(server, thread, k) for server in (two, three) for k in ks))
        whole = await own
    lost = 0
    lags = []
    for k, record in zip([*ks, *ks], joined, strict=True):
        assert record.status == 200
        assert record.headers["x-message-id"] == whole.headers["x-message-id"]
        lost += whole.frames[:k] + record.frames != whole.frames
        joined_at = record.times[0]
        shown = zip(record.times, whole.times[k:], strict=False)
        lags += [there - here for there, here in shown if here > joined_at]
    lags.sort()
    p50, p99 = statistics.median(lags), lags[len(lags) * 99 // 100]
    tried(f"a live answer joined elsewhere (later by {p50:.2f} s, p99 {p99:.2f} s)", len(joined), lost)
    assert lost == 0
    assert p50 < (whole.times[-1] - whole.times[0]) / 3, "it is not followed, but read when it is over"
    assert (await join(two, thread)).status == 204


@pytest.mark.parametrize("how", ["stop", "delete"])
async def test_around_a_tools_commit_somebody_elsewhere_ends_the_answer(url: str, start: Start, how: str) -> None:
    """A tool's effect and its record are both there or neither, and none comes after the stop was acknowledged."""
    one, two = await start(url, MAX_LIVE_PER_USER=100)
    chance = random.Random(SEED)
    program = 'say 2 5\ncall add_task {"title": "sesame"}\nsay 3 5\ncall add_task {"title": "sesame"}\nsay 1000 5'

    async def end(n: int) -> tuple[bool, bool]:
        user = f"user-{n}"
        async with request(one, "POST", "/chatkit", {"message": program}, user=user) as stream:
            await stream.take(chance.randint(1, 11))  # frame 11 is the second result
            thread = stream.record.thread
            reading = asyncio.create_task(stream.rest())
            await asyncio.sleep(chance.uniform(0, 0.01))
            if how == "stop":
                status, answer = await call(two, "POST", f"/api/conversations/{thread}/stop", user=user)
            else:
                status, _ = await call(two, "DELETE", f"/api/conversations/{thread}", user=user)
            acknowledged = await titles(two, user)
            record = await reading
        assert (status, record.complete) == (200, True)
        there = await titles(one, user)
        shown = record.of("tool_result")
        torn = len(there) != len(shown)
        if how == "stop":
            assert answer["status"] == "stopped"
            torn |= answer["content"] != record.text() or answer != answer | fold(record.seen)
        else:
            assert "deleted" in record.of("error")[0]["message"]
        return torn or there != acknowledged, bool(there)

    ended: list[tuple[bool, bool]] = []
    times = rounds(100)
    for n in range(0, times, 5):
        ended += await asyncio.gather(*(end(k) for k in range(n, min(n + 5, times))))
    lost = sum(bad for bad, _ in ended)
    tried(f"{how} elsewhere around a tool's commit", times, lost)
    assert lost == 0, SEED
    assert sum(committed for _, committed in ended) > 0, "it always came too early"


async def test_readers_who_stop_an_answer_are_counted_on_all_processes(url: str, start: Start) -> None:
    """An answer that stops when it is left goes on while anybody anywhere has asked for that and still reads."""
    one, two = await start(url)
    body = {"message": "say 2000 10", "on_disconnect": "stop"}

    async def leave(user: str, first: int) -> None:
        readers = []
        for server in (one, two):
            context = request(server, "POST", "/chatkit", body, user=user, headers={"Idempotency-Key": "k"})
            readers.append((context, await context.__aenter__()))
            await readers[-1][1].take(2)
        thread = readers[0][1].record.thread
        assert readers[1][1].record.thread == thread
        reader = readers.pop(first)
        await reader[0].__aexit__(None, None, None)
        frames = await readers[0][1].take(60)  # it goes on for more than two checkpoints
        assert not frames.complete
        await readers[0][0].__aexit__(None, None, None)
        _, answer = await settled(two, thread, user)
        assert answer["status"] == "stopped"

    await asyncio.gather(leave("alice", 0), leave("bob", 1))
    tried("readers by whose leaving it stops, on two processes", 2)


# ---- many at once ----


async def test_twenty_equal_keys_over_two_processes_are_one_run(url: str, start: Start) -> None:
    """Twenty requests of one idempotency key, on two processes, early and late, are one run and equal answers."""
    servers = await start(url, MAX_LIVE_PER_USER=1)

    async def send(n: int) -> Record:
        await asyncio.sleep(n // 4 * 0.04)
        return await say(servers[n % 2], TURN, headers={"Idempotency-Key": "one"})

    records = await asyncio.gather(*(send(n) for n in range(20)))
    assert {record.status for record in records} == {200}
    assert len({record.headers["x-message-id"] for record in records}) == 1
    assert {record.text() for record in records} == {words(3) + "\n\n" + words(3)}
    assert all(record.complete for record in records)
    assert await titles(servers[1], "alice") == ["sesame"]
    assert servers[0].rows("SELECT COUNT(*) FROM messages") == [(2,)]
    tried("20 equal keys over two processes", 20)


async def test_of_twenty_at_once_over_two_processes_as_many_live_as_may(url: str, start: Start) -> None:
    """Of twenty conversations that a user begins at once exactly `MAX_LIVE_PER_USER` are answered; in one, one."""
    servers = await start(url)
    begun = await asyncio.gather(*(say(servers[n % 2], "say 100 20") for n in range(20)))
    assert sorted(record.status for record in begun) == [200] * 4 + [429] * 16
    assert servers[0].rows("SELECT COUNT(*) FROM messages") == [(8,)]
    tried("20 messages at once of one user over two processes", 20)
    thread = (await say(servers[0], "say 1 0")).thread
    records = await asyncio.gather(*(say(servers[n % 2], "say 150 20", thread) for n in range(20)))
    assert sorted(record.status for record in records) == [200] + [409] * 19
    assert [m["role"] for m in await settled(servers[1], thread)] == ["user", "assistant"] * 2
    tried("20 messages at once into one conversation over two processes", 20)


async def test_ends_stops_deletions_and_checkpoints_do_not_lock_each_other(url: str, start: Start) -> None:
    """Answers that end while they are stopped and deleted elsewhere, and checkpoints are made: no deadlock."""
    servers = await start(url, 3, MAX_LIVE_PER_USER=100)
    chance = random.Random(SEED)
    times = rounds(300)

    async def one(n: int) -> None:
        owner, *others = chance.sample(servers, 3)
        user = f"user-{n}"
        async with request(owner, "POST", "/chatkit", {"message": "say 20 10"}, user=user) as stream:
            await stream.take(1)
            path = f"/api/conversations/{stream.record.thread}"
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            stopped, deleted, _ = await asyncio.gather(
                call(others[0], "POST", f"{path}/stop", user=user),
                call(others[1], "DELETE", path, user=user),
                call(owner, "POST", f"{path}/stop", user=user),
            )
            assert stopped[0] in (200, 404, 409)
            assert deleted[0] == 200
            assert (await stream.rest()).complete

    for n in range(0, times, 6):
        await asyncio.gather(*(one(k) for k in range(n, n + 6)))
    direct = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    [(deadlocks,)] = servers[0].rows(direct)
    assert servers[0].rows("SELECT COUNT(*) FROM messages") == [(0,)]
    tried("finish, delete, stop and checkpoint at once (lost: deadlocks)", times, deadlocks)
    assert deadlocks == 0


async def test_eight_processes_start_at_once_on_an_empty_database(url: str, start: Start) -> None:
    """The tables are made once, by whoever comes first, and all eight answer."""
    servers = await start(url, 8)
    records = await asyncio.gather(*(say(server, "say 2 0", user=f"user-{n}") for n, server in enumerate(servers)))
    assert [record.text() for record in records] == [words(2)] * 8
    tried("8 processes at once on an empty database", 8)


# ---- processes that end, and that sleep ----


async def test_a_process_that_ends_leaves_its_conversations_to_the_others(url: str, start: Start) -> None:
    """On SIGTERM readers here and elsewhere are told, and the next message is answered elsewhere at once."""
    one, two = await start(url, MAX_LIVE_PER_USER=20)
    threads = [(await say(one, "say 1 0")).thread for _ in range(10)]
    async with AsyncExitStack() as stack:

        async def read(server: Server, method: str, path: str, body: Any = None) -> Stream:
            stream = await stack.enter_async_context(request(server, method, path, body))
            await stream.take(20)
            return stream

        own = [await read(one, "POST", "/chatkit", {"message": "say 10000 10", "thread_id": n}) for n in threads]
        elsewhere = [await read(two, "GET", f"/api/conversations/{n}/stream") for n in threads]
        reading = asyncio.gather(*(stream.rest() for stream in (*own, *elsewhere)))
        took = await asyncio.to_thread(one.kill, signal.SIGTERM)
        after = await asyncio.gather(*(say(two, "say 1 0", thread) for thread in threads))
        seen = await reading
    broken = []
    for record, other, thread, next_one in zip(seen[:10], seen[10:], threads, after, strict=True):
        answer = (await settled(two, thread))[3]
        promises = {
            "it is stored as it was shown": answer == answer | fold(record.seen),
            "it is interrupted": answer["status"] == "interrupted",
            "its reader is told": record.complete and "shutting down" in record.of("error")[0]["message"],
            "its readers elsewhere see the same": other.frames == record.frames,
            "the next message is answered, without waiting for a lease to end": next_one.text() == "w0 ",
        }
        broken += [(promise, record.frames[-3:], other.frames[-3:]) for promise, kept in promises.items() if not kept]
    tried("SIGTERM of one process with live answers", len(threads), len(broken))
    assert broken == []
    assert took < SOON


PLACES = {
    "in text": ("say 3000 10", None),
    "in a tool's work": ('say 2 0\ncall ponder {"title": "sesame", "seconds": 1}\nsay 1000 10', None),
    "between a tool's work and its commit": (TURN + "\nsay 1000 10", b"SET owner = owner"),
    "in the end": ("say 40 10", b"UPDATE messages SET content"),
}


async def test_a_process_that_sleeps_and_wakes_up_changes_nothing(url: str, start: Start) -> None:
    """A process that is paused is taken over from; when it goes on, its reader is told, and nothing else happens."""

    async def sleep(place: str) -> float:
        program, halt_after = PLACES[place]
        user = place.replace(" ", "-").replace("'", "")
        async with line(port_of(url)) as cable:
            [one], [two] = await start(cable.url(url), 1), await start(url, 1)
            cable.halt_after = halt_after
            async with request(one, "POST", "/chatkit", {"message": program}, user=user) as stream:
                await stream.take(4 if halt_after is None else 1)
                thread = stream.record.thread
                other = asyncio.create_task(join(two, thread, user=user))
                if halt_after is None:
                    await asyncio.sleep(0.5)
                else:
                    await cable.is_halted.wait()
                one.process.send_signal(signal.SIGSTOP)
                paused = time.monotonic()
                _, answer = await settled(two, thread, user)
                took = time.monotonic() - paused
                assert (answer["status"], answer["error"]) == ("interrupted", INTERRUPTED)
                told = await other
                assert told.complete
                assert answer == answer | fold(told.seen)
                live = asyncio.create_task(say(two, "say 100 20", thread, user=user))
                await asyncio.sleep(0.5)
                one.process.send_signal(signal.SIGCONT)
                cable.go_on.set()
                record = await asyncio.wait_for(stream.rest(), PATIENCE)
                assert record.complete
                told_here = record.of("error")[0]["message"]
                assert "elsewhere" in told_here or "not saved" in told_here, (place, told_here)
                assert (await live).text() == words(100)
            messages = await settled(one, thread, user)
            assert messages[1] == answer
            assert await titles(one, user) == []
            assert record.of("tool_result") == []
            assert (await say(one, "say 1 0", thread, user=user)).text() == "w0 "
            one.close()
            two.close()
            return took

    took = await asyncio.gather(*(sleep(place) for place in PLACES))
    for place, seconds in zip(PLACES, took, strict=True):
        tried(f"paused {place}, taken over from, woken up", 1)
        assert seconds < SOON, place


async def test_a_process_that_was_buried_can_begin_a_turn_at_once(url: str, start: Start) -> None:
    """Who wakes up and begins a turn before anything else has lost only what was taken over."""
    one, two = await start(url)

    async with request(one, "POST", "/chatkit", {"message": "say 3000 10"}) as stream:
        await stream.take(1)  # so it has shown no beat yet, or hardly
        thread = stream.record.thread
        one.process.send_signal(signal.SIGSTOP)
        waiting = [asyncio.create_task(say(one, "say 300 10", user=user)) for user in ("alice", "bob")]
        assert (await settled(two, thread))[1]["status"] == "interrupted"
        one.process.send_signal(signal.SIGCONT)
        begun = await say(one, "say 300 10", thread)
        for record in [begun, *await asyncio.gather(*waiting)]:
            assert record.text() == words(300)
            assert not record.of("error")
        assert "elsewhere" in (await stream.rest()).of("error")[0]["message"]
    tried("a buried process that begins a turn at once", 3)


# ---- PostgreSQL goes away ----


async def go_on(servers: list[Server], user: str, message: str, during: Callable[[], Any]) -> tuple[Record, Record]:
    """Have an answer with readers on two processes while something happens; return what they saw."""
    async with request(servers[0], "POST", "/chatkit", {"message": message}, user=user) as stream:
        await stream.take(5)
        elsewhere = asyncio.create_task(join(servers[1], stream.record.thread, user=user))
        own = asyncio.create_task(stream.rest())
        await asyncio.sleep(0.5)
        await during()
        return await own, await elsewhere


@pytest.mark.parametrize(("sig", "what"), [(signal.SIGINT, "restarted"), (signal.SIGQUIT, "crashed and restarted")])
async def test_a_restart_of_the_database_is_not_noticed(
    fragile: Postgres, urls: tuple[str, str], start: Start, sig: int, what: str
) -> None:
    """An answer, with a tool, and those who follow it elsewhere go on over a restart of PostgreSQL."""
    groups = [await start(url) for url in urls]
    together = asyncio.Barrier(len(groups) + 1)

    async def during() -> None:
        await together.wait()
        await together.wait()

    async def one(servers: list[Server]) -> None:
        program = 'say 250 20\ncall add_task {"title": "sesame"}\nsay 20 10'
        own, elsewhere = await go_on(servers, "alice", program, during)
        _, answer = await settled(servers[1], own.thread)
        lost = own.text() != words(250) + "\n\n" + words(20) or not own.complete
        lost |= elsewhere.frames != own.frames or answer["status"] != "done" or answer["content"] != own.text()
        lost |= await titles(servers[1], "alice") != ["sesame"]
        tried(f"PostgreSQL {what} in mid-answer", 1, int(lost))
        assert not lost

    async with asyncio.TaskGroup() as tasks:
        for servers in groups:
            tasks.create_task(one(servers))
        await together.wait()
        await asyncio.to_thread(fragile.restart, sig)
        await together.wait()


async def test_the_database_is_away_for_longer_than_a_lease(
    fragile: Postgres, urls: tuple[str, str], start: Start
) -> None:
    """After an outage only the answers of the process that died meanwhile are ended; nothing that was shown is lost."""
    groups = [await start(url, 3) for url in urls]
    together = asyncio.Barrier(len(groups) + 1)

    async def one(servers: list[Server]) -> None:
        dying = servers.pop()
        async with request(dying, "POST", "/chatkit", {"message": "say 3000 10"}, user="bob") as stream:
            await stream.take(100)
            thread = stream.record.thread
            elsewhere = asyncio.create_task(join(servers[0], thread, user="bob"))

            async def during() -> None:
                await together.wait()
                await together.wait()
                refused = await say(servers[1], "say 1 0", user="carol")
                assert refused.status == 503
                assert "database" in refused.detail
                await asyncio.to_thread(dying.kill)
                await together.wait()

            program = 'say 700 20\ncall add_task {"title": "sesame"}\nsay 20 10'
            own, other = await go_on(servers, "alice", program, during)
        _, answer = await settled(servers[1], own.thread)
        _, ended = await settled(servers[0], thread, "bob")
        told = await elsewhere
        broken = [
            (own.text(), answer["content"]) != (words(700) + "\n\n" + words(20),) * 2,
            own.frames != other.frames or answer["status"] != "done",
            await titles(servers[1], "alice") != ["sesame"],
            ended != ended | fold(told.seen) | {"status": "interrupted", "error": INTERRUPTED},
            len(ended["content"].split()) < 20,  # of what was shown more than half a second before
            (await say(servers[0], "say 2 0", thread, user="bob")).text() != words(2),
        ]
        tried("PostgreSQL away for 8 s, a process killed meanwhile", 1, sum(broken))
        assert not any(broken), (broken, own.frames[-2:], other.frames[-2:], answer["status"], ended["error"])

    async with asyncio.TaskGroup() as tasks:
        for servers in groups:
            tasks.create_task(one(servers))
        await together.wait()
        await asyncio.to_thread(fragile.stop)
        gone = time.monotonic()
        await together.wait()
        await together.wait()
        await asyncio.sleep(max(0, 8 - (time.monotonic() - gone)))
        await asyncio.to_thread(fragile.start)


class Pair:
    """A primary and its synchronous standby."""

    def __init__(self, first: Path, second: Path) -> None:
        self.primary, self.standby = Postgres(first), Postgres(second)

    def start(self) -> "Pair":
        """Make and start both."""
        self.primary.start()
        bin_, environment = programs(), os.environ | {"PGPASSWORD": PASSWORD}
        assert bin_ is not None
        command = [bin_ / "pg_basebackup", "-D", "data", "-R", "-X", "stream", "-c", "fast", "-h", "127.0.0.1"]
        command += ["-p", str(self.primary.port), "-U", "todo", "--no-sync"]
        options: Any = {"check": True, "timeout": 60, "capture_output": True, "env": environment}
        with (self.primary.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host replication all 127.0.0.1/32 scram-sha-256\n")
        self.primary.execute("SELECT pg_reload_conf()")
        subprocess.run(command, cwd=self.standby.folder, **options, **as_its_user())
        self.standby.start()
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + PATIENCE
        while self.primary.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return self

    def fail_over(self) -> None:
        """Let the primary crash, and the standby take its place."""
        self.primary.stop(signal.SIGQUIT)
        self.standby.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.standby.execute("SELECT pg_promote()")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary and its synchronous standby."""
    needed()
    with ExitStack() as stack:
        made = Pair(*(stack.enter_context(folder()) for _ in range(2)))
        for server in (made.primary, made.standby):
            stack.enter_context(running(server))
        yield made.start()


async def test_a_failover_to_a_synchronous_standby_loses_nothing(pair: Pair, start: Start) -> None:
    """What was acknowledged before the primary crashed is on the standby, and a live answer goes on there.

    The processes find it by the hosts in their URL, or their PgBouncer is told.
    """
    with folder() as place:
        name = "test"
        pair.primary.execute(f"CREATE DATABASE {name}")
        pooler = Bouncer(place, pair.primary)
        with running(pooler):
            pooler.start()
            hosts = f"127.0.0.1:{pair.primary.port},127.0.0.1:{pair.standby.port}"
            several = f"postgresql://todo:{PASSWORD}@{hosts}/{name}?target_session_attrs=read-write"
            groups = [await start(several), await start(pooler.url(name))]
            acknowledged: list[str] = []
            over = asyncio.Event()

            async def write(server: Server, who: str) -> None:
                for n in itertools.count():
                    if over.is_set():
                        return
                    status, _ = await call(server, "POST", "/api/tasks", {"title": f"sesame {who} {n}"}, user="writer")
                    assert status in (201, 503)
                    if status == 201:
                        acknowledged.append(f"sesame {who} {n}")

            async def fail_over() -> None:
                async with lock:
                    if pair.primary.is_running():
                        await asyncio.to_thread(pair.fail_over)
                        pooler.set(pair.standby)

            lock = asyncio.Lock()
            writers = [
                asyncio.create_task(write(server, f"{g}-{n}"))
                for g, group in enumerate(groups)
                for n, server in enumerate(group)
            ]
            program = 'say 400 20\ncall add_task {"title": "sesame"}\nsay 20 10'
            seen = await asyncio.gather(
                *(go_on(servers, f"user-{n}", program, fail_over) for n, servers in enumerate(groups))
            )
            over.set()
            await asyncio.gather(*writers)
            for n, (servers, (own, elsewhere)) in enumerate(zip(groups, seen, strict=True)):
                user = f"user-{n}"
                _, answer = await settled(servers[1], own.thread, user)
                written = "SELECT title FROM todochat.tasks WHERE user_id = 'writer'"  # more than the API shows at once
                there = [title for (title,) in pair.standby.execute(written, name)]
                lost = len(set(acknowledged) - set(there)) + (len(there) != len(set(there)))
                lost += own.text() != words(400) + "\n\n" + words(20) or answer["content"] != own.text()
                lost += own.frames != elsewhere.frames or answer["status"] != "done"
                lost += await titles(servers[1], user) != ["sesame"]
                tried("failover to a synchronous standby in mid-answer", 1, lost)
                assert lost == 0
            for servers in groups:
                for server in servers:
                    server.close()


async def test_a_begin_that_nobody_knows_of_leaves_no_answer_that_lives_for_ever(url: str, start: Start) -> None:
    """If it is not known whether a turn was begun, its sender gets 503, and what was begun is ended in words."""
    async with line(port_of(url)) as cable:
        [one] = await start(cable.url(url), 1)  # alone: nobody else takes it for dead
        headers = {"Idempotency-Key": "k"}
        assert (await say(one, "say 1 0")).text() == "w0 "
        cable.cut_after, cable.silent_after_cut = b"COMMIT", True
        refused = await say(one, "say 100 10", headers=headers)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        cable.open.set()
        [(thread,)] = look(url, "SELECT conversation_id FROM messages WHERE content = 'say 100 10'")
        _, answer = await settled(one, thread)
        assert (answer["status"], answer["error"]) == ("interrupted", INTERRUPTED)
        assert (await say(one, "say 100 10", headers=headers)).of("error")[0]["message"] == INTERRUPTED
        assert (await say(one, "say 2 0", thread)).text() == words(2)
    tried("a begin whose COMMIT is never answered", 1)


# ---- PostgreSQL is in trouble ----


async def is_normal(servers: list[Server], thread: int) -> None:
    """Wait until all processes answer again, and check that a turn with a tool is whole."""
    for n, server in enumerate(servers):

        async def answers(server: Server = server, n: int = n) -> Any:
            return (await say(server, "say 2 0", user=f"afterwards-{n}")).text()

        await eventually(answers, words(2))
        before = len(await titles(server, "alice"))
        record = await say(server, TURN, thread)
        assert (record.text(), record.complete) == (words(3) + "\n\n" + words(3), True)
        assert len(await titles(server, "alice")) == before + 1


async def in_trouble(
    groups: list[list[Server]], trouble: Callable[[], AbstractContextManager[None]], says: str, *, reads: bool = False
) -> int:
    """Have answers with a tool while the database is in trouble; return what was lost of what had been shown.

    What is refused says why in a sentence, and reading works if it can.
    """
    lost = 0
    together = asyncio.Barrier(len(groups) + 1)

    async def one(servers: list[Server]) -> None:
        nonlocal lost
        thread = (await say(servers[0], "say 1 0")).thread
        program = 'say 160 20\ncall add_task {"title": "sesame"}\nsay 100 10'
        async with (
            request(servers[0], "POST", "/chatkit", {"message": program}) as stream,
            request(servers[1], "GET", f"/api/conversations/{(await stream.take(60)).thread}/stream") as other,
        ):
            await together.wait()
            await together.wait()
            messages = await asyncio.gather(*(say(server, "say 1 0", thread) for server in servers))
            tasks = await asyncio.gather(
                *(call(server, "POST", "/api/tasks", {"title": "sesame"}) for server in servers)
            )
            if reads:
                assert (await call(servers[1], "GET", f"/api/conversations/{thread}"))[0] == 200
            record = await asyncio.wait_for(stream.rest(), PATIENCE)
            await together.wait()
            told = await asyncio.wait_for(other.rest(), PATIENCE)
        assert [message.status for message in messages] == [503] * len(messages), messages
        refused = [(message.status, message.detail) for message in messages]
        refused += [(status, body["detail"]) for status, body in tasks]
        for status, detail in refused:
            assert status == 503
            assert detail.startswith("The database ")
            assert detail.endswith(".")
        assert any(says in detail for _, detail in refused), refused  # who had no time left to connect does not know
        for seen in (record, told):
            assert seen.complete
            assert seen.of("error")[0]["message"].endswith("."), "its tool could not be done"
        _, answer = await settled(servers[1], record.thread)
        lost += answer["status"] not in ("failed", "interrupted") or not answer["content"].startswith(words(57))
        lost += await titles(servers[1], "alice") != []
        lost += len((await call(servers[1], "GET", f"/api/conversations/{thread}"))[1]["messages"]) != 2
        await is_normal(servers, thread)

    async with asyncio.TaskGroup() as tasks:
        for servers in groups:
            tasks.create_task(one(servers))
        await together.wait()
        with trouble():
            await together.wait()
            await together.wait()
    return lost


async def test_a_frozen_database_is_said_in_words(fragile: Postgres, urls: tuple[str, str], start: Start) -> None:
    """A database that takes everything and says nothing: 503 after a few seconds, and normal service afterwards."""
    lost = await in_trouble([await start(url) for url in urls], fragile.frozen, "does not answer")
    tried("PostgreSQL frozen in mid-answer", 2, lost)
    assert lost == 0


async def test_a_database_that_cannot_be_written_is_said_in_words(
    fragile: Postgres, urls: tuple[str, str], start: Start
) -> None:
    """A database that became read-only refuses what writes in a sentence; what reads goes on."""

    @contextmanager
    def read_only() -> Iterator[None]:
        fragile.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        fragile.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            fragile.execute("ALTER SYSTEM RESET default_transaction_read_only")
            fragile.execute("SELECT pg_reload_conf()")

    lost = await in_trouble([await start(url) for url in urls], read_only, "cannot be written", reads=True)
    tried("PostgreSQL read-only in mid-answer", 2, lost)
    assert lost == 0


@pytest.fixture
def small_disk(fragile: Postgres, fragile_bouncer: Bouncer) -> Iterator[tuple[Path, list[str]]]:
    """A disk of 40 MB, and the URLs of two databases on it, directly and by PgBouncer."""
    with folder() as path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size=40m,uid={path.stat().st_uid},mode=700", "tmpfs", str(path)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            missing("mounting a tmpfs needs root")
        try:
            fragile.execute(f"CREATE TABLESPACE small LOCATION '{path}'")
            for name in ("small_1", "small_2"):
                fragile.execute(f"CREATE DATABASE {name} TABLESPACE small")
            yield path, [fragile.url("small_1"), fragile_bouncer.url("small_2")]
        finally:
            (path / "filler").unlink(missing_ok=True)
            for name in ("small_1", "small_2"):
                fragile.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            fragile.execute("DROP TABLESPACE IF EXISTS small")
            subprocess.run(["umount", "--lazy", str(path)], check=True)


async def test_a_full_disk_of_the_database_is_said_in_words(small_disk: tuple[Path, list[str]], start: Start) -> None:
    """On a full disk: 503 or an `error` frame, nothing half-written; when there is room again all is normal."""
    disk, urls = small_disk
    filler = disk / "filler"
    for url in urls:
        one, two = await start(url)
        thread = (await say(one, "say 1 0")).thread
        async with request(one, "POST", "/chatkit", {"message": "say 60 20\nsay 3000 0\nquiet 0.5"}) as live:
            await live.take(3)
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            refused = await say(two, os.urandom(15_000).hex(), thread)  # what cannot be compressed
            assert refused.status == 503
            assert "full" in refused.detail
            assert (await call(two, "GET", "/api/conversations"))[0] == 200, "reading works on a full disk"
            record = await asyncio.wait_for(live.rest(), PATIENCE)
            assert record.complete
        filler.unlink()
        _, answer = await settled(two, record.thread)
        lost = answer["content"] != record.text() if answer["status"] == "done" else not record.of("error")
        lost |= len((await call(two, "GET", f"/api/conversations/{thread}"))[1]["messages"]) != 2
        tried("PostgreSQL's disk full in mid-answer", 1, int(lost))
        assert not lost
        await is_normal([one, two], record.thread)


async def test_too_few_connections_are_waited_for_or_said_in_words(start: Start, fragile: Postgres) -> None:
    """When no more connections are to be had, whoever is answered has the whole, and whoever is not is told so."""
    user = f"few_{os.urandom(4).hex()}"
    fragile.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
    fragile.execute(f"CREATE DATABASE {user} OWNER {user}")
    with folder() as place, fragile.database() as name:
        pooler = Bouncer(place, fragile, max_client_conn=6)
        with running(pooler):
            groups = [await start(fragile.url(user, user=user)), await start(pooler.start().url(name))]
            fragile.execute(f"ALTER ROLE {user} CONNECTION LIMIT 6")
            begun = [
                await asyncio.gather(*(say(servers[n % 2], TURN, user=f"user-{n}") for n in range(30)))
                for servers in groups
            ]
            fragile.execute(f"ALTER ROLE {user} CONNECTION LIMIT -1")
            pooler.set(max_client_conn=100)
            for servers, records in zip(groups, begun, strict=True):
                for server in servers:
                    await eventually(partial(health, server), 200)
                lost = 0
                for n, record in enumerate(records):
                    assert record.status in (200, 503)
                    assert record.status == 200 or "database" in record.detail
                    conversations = (await call(servers[0], "GET", "/api/conversations", user=f"user-{n}"))[1]
                    lost += len(conversations) != (record.status == 200)
                    if record.status == 200:
                        *_, answer = await settled(servers[1], record.thread, f"user-{n}")
                        there = await titles(servers[1], f"user-{n}")
                        lost += len(there) != len(record.of("tool_result")) or not record.complete
                        # Who gets no connection for longer than a lease, while others do, is taken for dead.
                        taken_over = answer["status"] == "interrupted" and bool(record.of("error"))
                        lost += not record.text().startswith(answer["content"])
                        lost += not taken_over and answer["content"] != record.text()
                tried("PostgreSQL takes no more connections", len(records), lost)
                assert lost == 0
            for servers in groups:
                for server in servers:
                    server.close()
    fragile.execute(f"DROP DATABASE {user} WITH (FORCE)")
    fragile.execute(f"DROP ROLE {user}")


# ---- versions, logs, sleep ----


async def test_an_older_version_goes_on_beside_a_newer_one(
    url: str, start: Start, make_server: Callable[..., Server]
) -> None:
    """A newer process may upgrade the tables while older ones serve; started afterwards, they say that they are old."""
    [old] = await start(url, 1)
    async with request(old, "POST", "/chatkit", {"message": TURN + "\nsay 100 20\n" + TURN}) as stream:
        await stream.take(FRAMES)
        new = await asyncio.to_thread(make_server, script="tests/newer.py", DATABASE_URL=url, LOG_LEVEL="WARNING")
        elsewhere = await join(new, stream.record.thread)
        record = await stream.rest()
        assert elsewhere.frames == record.frames
        assert record.text().endswith(words(100) + words(3) + "\n\n" + words(3))
    for one, two in itertools.permutations((old, new)):
        async with request(one, "POST", "/chatkit", {"message": "say 1000 10"}) as stream:
            await stream.take(20)
            assert (await call(two, "POST", f"/api/conversations/{stream.record.thread}/stop"))[0] == 200
            assert (await stream.rest()).complete
        assert (await say(two, TURN, stream.record.thread)).text() == words(3) + "\n\n" + words(3)
    assert await titles(new, "alice") == await titles(old, "alice") == ["sesame"] * 4
    late = make_server(start=False, script="tests/paced.py", DATABASE_URL=url)
    with pytest.raises(AssertionError, match="newer version of this program"):
        await asyncio.to_thread(late.start)
    tried("an older process beside a newer one", 1)


async def test_the_database_may_sleep_while_nobody_uses_the_app(
    cluster: Postgres, bouncer: Bouncer, start: Start
) -> None:
    """A minute after the last request nothing is sent to the database any more; the next request is answered."""
    with cluster.database() as one, cluster.database() as two:
        groups = {one: await start(cluster.url(one)), two: await start(bouncer.url(two))}
        for servers in groups.values():
            for server in servers:
                assert (await say(server, TURN)).complete

        async def sleeps(name: str) -> bool:
            [(seconds,)] = cluster.execute(
                f"""
                SELECT extract(epoch FROM now() - max(query_start))::float FROM pg_stat_activity
                WHERE datname = '{name}' AND backend_type = 'client backend'
                """
            )
            return bool(seconds >= 15)

        for name, servers in groups.items():
            await eventually(partial(sleeps, name), True, 60 + SOON)
            for server in servers:
                assert (await say(server, "say 2 0")).text() == words(2)
            tried("two processes that nobody uses for a minute (lost: statements)", 1)
            for server in servers:
                server.close()


async def test_nothing_that_users_said_is_in_the_logs_of_the_database(
    cluster: Postgres, bouncer: Bouncer, fragile: Postgres, fragile_bouncer: Bouncer, start: Start
) -> None:
    """PostgreSQL's and PgBouncer's own logs hold nothing of what was said, here and in the tests before this one."""
    for database, pooler in ((cluster, bouncer), (fragile, fragile_bouncer)):
        with database.database() as name:
            for server in await start(database.url(name), 1) + await start(pooler.url(name), 1):
                assert (await say(server, TURN)).complete
                server.close()
    for program in (cluster, bouncer, fragile, fragile_bouncer):
        for said in ("sesame", "say ", "w0 w1"):
            assert said not in program.log()
    tried("what users said, in the logs of PostgreSQL and PgBouncer", 4)
