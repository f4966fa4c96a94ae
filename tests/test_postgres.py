"""The PostgreSQL engine: what is whole, what is done again, and what is said when nothing helps.

The server is a real one, reached directly and by a PgBouncer in transaction mode. It is restarted, killed, frozen, and
the line to it is cut before and after a COMMIT.
"""

import asyncio
import contextvars
import gc
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import SOON, Server, awaited
from faults import Table
from postgres import PASSWORD, Line, Postgres, free_port, line, look
from serving import environment

from todochat import db, processes, runs
from todochat.db import Limits, Progress, Store, TurnRequest
from todochat.engines import Row, Sql, StoreError, T, Unavailable
from todochat.engines.postgres import CONNECTIONS, GRACE, KEPT, PostgresEngine
from todochat.events import Event, fold
from todochat.shares import SIZE, Room, TooMany
from todochat.store.pages import page_of_conversations, page_of_messages
from todochat.store.tasks import Task

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
PATIENCE = 3.0
TEXT: Event = {"type": "text", "content": "One."}
CALL: Event = {"type": "tool_call", "id": "1", "name": "add_task", "args": {"title": "x"}}
RESULT: Event = {"type": "tool_result", "id": "1", "name": "add_task", "result": "x"}
BOTH = pytest.mark.parametrize("database", ["postgres", "pgbouncer"], indirect=True)
DIRECT = pytest.mark.parametrize("database", ["postgres"], indirect=True)

TABLE = Table("faults of several processes")
table = TABLE.fixture


@asynccontextmanager
async def opened(url: str, patience: float = PATIENCE) -> AsyncIterator[PostgresEngine]:
    """Open an engine until the block ends."""
    made = await PostgresEngine.open(url, patience=patience)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def engine(database: str) -> AsyncIterator[PostgresEngine]:
    """An engine on a database of its own."""
    async with opened(database) as made:
        yield made


@pytest.fixture
async def cuttable(database: str) -> AsyncIterator[tuple[Line, PostgresEngine]]:
    """An engine whose line to the server can be cut."""
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    async with line(port) as made, opened(made.url(database)) as engine:
        yield made, engine


def add(*titles: str) -> Callable[[Sql], Coroutine[Any, Any, None]]:
    """Return a unit of work that adds tasks, one after the other."""

    async def work(sql: Sql) -> None:
        for title in titles:
            statement = "INSERT INTO tasks (user_id, title, created_at, updated_at) VALUES ('alice', ?, '', '')"
            await sql(statement, (title,))

    return work


async def all_rows(sql: Sql) -> Sequence[Row]:
    """Be a unit of work that reads all tasks."""
    return await sql("SELECT title FROM tasks ORDER BY id")


async def titles(engine: PostgresEngine) -> list[str]:
    """Return what tasks there are."""
    return [row["title"] for row in await engine.read(all_rows)]


def elsewhere(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin work of somebody who has nothing to do with the current task."""
    return asyncio.create_task(work, context=contextvars.Context())


async def refusal(work: Awaitable[Any]) -> str:
    """Return the sentence with which work is refused, and check that it is one for users."""
    with pytest.raises(Unavailable) as refused:
        await work
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "FATAL" not in sentence
    assert "psycopg" not in sentence
    return sentence


# ---- units of work ----


@BOTH
async def test_a_unit_that_fails_leaves_nothing(engine: PostgresEngine) -> None:
    """A unit happens whole or not at all, and a mistake in it is raised as it is."""

    async def mistaken(sql: Sql) -> None:
        await add("undone")(sql)
        raise ZeroDivisionError

    for work in (engine.write, engine.transaction):
        with pytest.raises(ZeroDivisionError):
            await work(mistaken)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await work(lambda sql: sql("SELECT * FROM nowhere"))
    await engine.write(add("next"))
    assert await titles(engine) == ["next"]


@BOTH
async def test_an_error_that_the_work_has_swallowed_is_no_commit(engine: PostgresEngine) -> None:
    """A statement that failed has undone the transaction, whatever the work makes of it: that is not acknowledged."""

    async def careless(sql: Sql) -> None:
        await add("undone")(sql)
        with pytest.raises(psycopg.Error):
            await sql("SELECT * FROM nowhere")

    with pytest.raises(RuntimeError):
        await engine.write(careless)
    assert await titles(engine) == []


@BOTH
async def test_a_read_sees_one_state(engine: PostgresEngine) -> None:
    """What is written while a unit reads does not change what it sees."""

    async def work(sql: Sql) -> list[int]:
        before = len(await all_rows(sql))
        await elsewhere(engine.write(add("meanwhile")))
        return [before, len(await all_rows(sql))]

    assert await engine.read(work) == [0, 0]
    assert await titles(engine) == ["meanwhile"]


@BOTH
async def test_a_cancelled_caller_leaves_no_half_of_a_unit(engine: PostgresEngine, database: str) -> None:
    """A unit whose caller is cancelled at any moment happens whole, and its connection serves the next one."""
    for n in range(60):
        task = asyncio.create_task(engine.write(add(f"{n}a", f"{n}b")))
        await asyncio.sleep(0.0002 * n)
        task.cancel()
        await asyncio.wait((task,))
        await titles(engine)
    await engine.close()  # waits for those that nobody waits for any more
    there = sorted(title for (title,) in look(database, "SELECT title FROM tasks"))
    assert there == sorted(f"{n}{half}" for n in range(60) for half in "ab")


@BOTH
async def test_whose_caller_is_gone_fails_in_silence(engine: PostgresEngine) -> None:
    """What goes wrong when nobody waits for it any more is no complaint of asyncio's, which would quote it."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def mistaken(sql: Sql) -> None:
        await all_rows(sql)
        raise ValueError("what somebody wrote")

    for work in (engine.write, engine.transaction, engine.read):
        caller = asyncio.create_task(work(mistaken))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait((caller,))
    del caller
    await engine.close()
    gc.collect()
    assert complaints == []


@BOTH
async def test_texts_come_back_as_they_were(engine: PostgresEngine) -> None:
    """Quotes, percent signs, question marks and all of Unicode are data; a NUL, which cannot be stored, is U+FFFD."""
    for text in ("%s ? %% '\"; --", "\u2028 \U0001f600 \\x00", "a\0b"):
        await engine.write(add(text))
        rows = await engine.read(lambda sql, t=text: sql("SELECT title FROM tasks WHERE title = ? OR '%' = ?", (t, t)))
        assert [row["title"] for row in rows] == [text.replace("\0", "\ufffd")]


@BOTH
async def test_a_crowd_that_waits_for_one_name_leaves_room(database: str) -> None:
    """Units with the same lock are done one after the other, on all processes; those with another one do not wait."""
    async with opened(database, 30) as one, opened(database, 30) as two:
        go_on, doing, most = asyncio.Event(), 0, 0

        async def slow(sql: Sql) -> None:
            nonlocal doing, most
            doing, most = doing + 1, max(most, doing + 1)
            await go_on.wait()
            await add("milk")(sql)
            doing -= 1

        crowd = [elsewhere(engine.write(slow, lock="alice")) for engine in (one, two) for _ in range(CONNECTIONS + 2)]
        while not doing:  # noqa: ASYNC110 - until the first of them has begun
            await asyncio.sleep(0.01)
        try:
            for engine in (one, two):
                await engine.write(add("tea"), lock="bob")
                assert await titles(engine) == ["tea"] * (1 + (engine is two))
        finally:
            go_on.set()
        await asyncio.gather(*crowd)
        assert most == 1
        assert (await titles(one)).count("milk") == len(crowd)


@BOTH
async def test_deadlock_victims_work_again(engine: PostgresEngine) -> None:
    """Of two units that wait for each other both are done, one after the other."""
    await engine.write(add("a", "b"))
    met = asyncio.Barrier(2)

    async def work(sql: Sql, first: str, second: str) -> None:
        await sql("UPDATE tasks SET user_id = user_id || ? WHERE title = ?", (first, first))
        if met.n_waiting < 2 and not met.broken:
            try:
                async with asyncio.timeout(0.3):
                    await met.wait()
            except TimeoutError:
                await met.reset()
        await sql("UPDATE tasks SET user_id = user_id || ? WHERE title = ?", (first, second))

    await asyncio.gather(
        engine.write(lambda sql: work(sql, "a", "b")),
        engine.write(lambda sql: work(sql, "b", "a")),
    )
    users = {row["user_id"] for row in await engine.read(lambda sql: sql("SELECT user_id FROM tasks"))}
    assert len(users) == 1
    assert sorted(users.pop()) == sorted("alice" + "ab")


@BOTH
async def test_what_somebody_elsewhere_changed_meanwhile_is_looked_at_again(engine: PostgresEngine) -> None:
    """A unit that adds to what has just been deleted is done again, and sees that; a mistake is still raised."""
    deleted = False

    async def work(sql: Sql) -> str:
        nonlocal deleted
        found = await sql("SELECT id FROM conversations")
        if not found:
            return "gone"
        if not deleted:
            deleted = True
            await elsewhere(engine.write(lambda sql: sql("DELETE FROM conversations")))
        insert = "INSERT INTO messages (conversation_id, role, content, status, created_at) VALUES (?, ?, ?, ?, ?)"
        await sql(insert, (found[0]["id"], "user", "hi", "done", ""))
        return "there"

    insert = "INSERT INTO conversations (user_id, title, created_at, updated_at) VALUES ('alice', '', '', '')"
    await engine.write(lambda sql: sql(insert))
    assert await engine.write(work) == "gone"
    with pytest.raises(psycopg.errors.NotNullViolation):
        await engine.write(lambda sql: sql("INSERT INTO tasks (user_id) VALUES ('alice')"))


# ---- a tool's transaction ----


@BOTH
async def test_a_tools_reads_and_writes_are_in_its_transaction(engine: PostgresEngine) -> None:
    """What a tool calls sees what it has written, in tasks of its own too; and when it fails, all of that is undone."""
    seen: list[list[str]] = []

    async def work(sql: Sql) -> None:
        await engine.write(add("a"))
        await asyncio.gather(engine.write(add("b")), engine.write(add("b")))
        seen.append(await asyncio.create_task(titles(engine)))
        seen.append(await elsewhere(titles(engine)))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await engine.transaction(work)
    assert seen == [["a", "b", "b"], []]
    assert await titles(engine) == []


@BOTH
async def test_what_a_tool_catches_is_undone_alone(engine: PostgresEngine) -> None:
    """A write within the transaction that fails leaves nothing, and the tool can go on."""

    async def refused(sql: Sql) -> None:
        await add("refused")(sql)
        await sql("INSERT INTO tasks (user_id) VALUES ('alice')")

    async def work(sql: Sql) -> None:
        for title in ("a", "b"):
            await engine.write(add(title))
            with pytest.raises(psycopg.IntegrityError):
                await engine.write(refused)
        await add("c")(sql)

    await engine.transaction(work)
    assert await titles(engine) == ["a", "b", "c"]


@BOTH
async def test_tools_leave_connections_for_the_others(engine: PostgresEngine) -> None:
    """However many tools are at work and wait to be, reads and writes go on."""
    began, goes_on = asyncio.Semaphore(0), asyncio.Event()

    async def work(sql: Sql) -> None:
        await add("of a tool")(sql)
        began.release()
        await goes_on.wait()

    tools = [elsewhere(engine.transaction(work)) for _ in range(2 * CONNECTIONS)]
    try:
        for _ in range(CONNECTIONS - KEPT):
            await began.acquire()
        await asyncio.gather(*(engine.write(add("of somebody")) for _ in range(2 * CONNECTIONS)))
        assert await titles(engine) == ["of somebody"] * 2 * CONNECTIONS
    finally:
        goes_on.set()
    await asyncio.gather(*tools)
    assert (await titles(engine)).count("of a tool") == 2 * CONNECTIONS


@DIRECT
async def test_who_waits_for_too_long_is_told_so(database: str) -> None:
    """A tool for which there is no connection within the patience is refused, and does not work afterwards."""
    began, goes_on = asyncio.Semaphore(0), asyncio.Event()

    async def work(sql: Sql) -> None:
        began.release()
        await goes_on.wait()

    async with opened(database, patience=2) as engine:
        tools = [elsewhere(engine.transaction(work)) for _ in range(CONNECTIONS - KEPT)]
        try:
            for _ in tools:
                await began.acquire()
            assert "busy" in await refusal(engine.transaction(add("x")))
        finally:
            goes_on.set()
        await asyncio.gather(*tools)
        assert await titles(engine) == []


@DIRECT
async def test_who_waits_while_others_get_on_is_patient(database: str) -> None:
    """Units wait for longer than their patience, if there are more than connections and each takes its time.

    Also those that need something else first, of which there is less than connections: a lock, or a tool's place.
    """

    async def slow(sql: Sql) -> None:
        await sql("SELECT pg_sleep(0.5)")
        await add("x")(sql)

    async with opened(database, patience=1) as engine:
        ordinary = [elsewhere(engine.write(slow)) for _ in range(5 * CONNECTIONS)]
        tools = [elsewhere(engine.transaction(add("x"))) for _ in range(2 * CONNECTIONS)]
        locked = [elsewhere(engine.write(add("x"), lock="one")) for _ in range(5)]
        searches = [elsewhere(engine.read(lambda sql: sql("SELECT 1"), long=True)) for _ in range(CONNECTIONS)]
        await asyncio.gather(*ordinary, *tools, *locked, *searches)
        assert len(await titles(engine)) == len(ordinary) + len(tools) + len(locked)


@DIRECT
async def test_what_is_urgent_waits_for_nobody(engine: PostgresEngine) -> None:
    """A process can say that it lives, and look at the others, however many units of its users wait."""

    async def slow(sql: Sql) -> None:
        await sql("SELECT pg_sleep(1)")

    ordinary = [elsewhere(engine.write(slow)) for _ in range(3 * CONNECTIONS)]
    await asyncio.sleep(0.1)  # so that they have all connections, or wait for one
    await engine.write(add("beat"), urgent=True)
    assert await engine.read(lambda sql: sql("SELECT title FROM tasks"), urgent=True) != []
    assert sum(unit.done() for unit in ordinary) <= CONNECTIONS
    await asyncio.gather(*ordinary)


@DIRECT
async def test_no_beat_waits_for_users(engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process says that it lives however many units of its users wait, whatever it does beside its beats."""
    monkeypatch.setattr(processes, "KEPT", timedelta(0))  # so that it sweeps each time

    async def slow(sql: Sql) -> None:
        await sql("SELECT pg_sleep(1)")

    others = processes.Processes(Store(engine), lambda: [1])
    ordinary = [elsewhere(engine.write(slow)) for _ in range(5 * CONNECTIONS)]
    await asyncio.sleep(0.1)  # so that they have all connections, or wait for one
    others.in_use()
    beats: set[str] = set()
    while len(beats) < 4:
        beats.update(row["beat"] for row in await engine.read(lambda sql: sql("SELECT beat FROM servers"), urgent=True))
    assert not all(unit.done() for unit in ordinary)
    await others.close()
    await asyncio.gather(*ordinary)


@BOTH
async def test_a_task_that_outlives_its_tool_has_a_transaction_of_its_own(engine: PostgresEngine) -> None:
    """What a tool has begun and not waited for is written all the same, after it."""
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await engine.write(add("later"))

    async def work(sql: Sql) -> None:
        late.append(asyncio.create_task(later()))
        await engine.write(add("a"))

    late: list[asyncio.Task[None]] = []
    await engine.transaction(work)
    go_on.set()
    await late[0]
    assert await titles(engine) == ["a", "later"]


@DIRECT
async def test_closing_waits_for_the_units_under_way(database: str) -> None:
    """What has begun is stored before the connections are closed; what comes later is refused in words."""
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def work(sql: Sql) -> None:
        await engine.write(add("of the tool"))
        began.set()
        await goes_on.wait()

    engine = await PostgresEngine.open(database)
    tool = elsewhere(engine.transaction(work))
    await began.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.gather(tool, closing)
    for unit in (engine.read, engine.write, engine.transaction):
        assert "shutting down" in await refusal(unit(add("x")))
    await engine.close()
    assert look(database, "SELECT title FROM tasks") == [("of the tool",)]
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'todochat'"
    sessions += " AND datname = current_database()"
    deadline = time.monotonic() + SOON
    while look(database, sessions) != [(0,)]:
        assert time.monotonic() < deadline, "a connection is left"
        await asyncio.sleep(0.02)


# ---- the line is cut ----


@BOTH
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["begin", "save", "finish", "tool"])
async def test_a_line_cut_at_the_commit_loses_nothing_and_doubles_nothing(
    cuttable: tuple[Line, PostgresEngine], database: str, what: str, when: str
) -> None:
    """Each unit of work is there once, as its caller is told, whether the COMMIT arrived or not.

    Only a tool whose COMMIT did not arrive is refused, as it must not work twice: then there is nothing of it.
    """
    cable, engine = cuttable
    store = Store(engine)
    request = TurnRequest("alice", "hi", title="hi", key="k", digest="d")
    turn = await store.begin_turn(TurnRequest("bob", "hi", title="hi"), Limits())
    answer_id = turn.answer["id"]

    async def tool() -> Task:
        return await store.add_task("alice", "x")

    def work() -> Awaitable[Any]:
        if what == "begin":
            return store.begin_turn(request, Limits())
        if what == "save":
            return store.save_progress(lambda: [Progress(answer_id, 0, [TEXT])])
        if what == "finish":
            return store.finish_answer(Progress(answer_id, 0, [TEXT]), "done", fold([TEXT]))
        return store.work_and_save(answer_id, tool, lambda task: Progress(answer_id, 0, [RESULT]))

    setattr(cable, f"cut_{when}", b"COMMIT")
    told = "stored"
    if (what, when) == ("tool", "before"):
        assert "does not answer" in await refusal(work())
        told = "refused"
    else:
        await work()
    assert cable.is_cut.is_set()
    begun, tasks, events, done = (
        look(database, f"SELECT count(*) FROM {of}")[0][0]
        for of in ("messages WHERE content = 'hi'", "tasks", "live_events", "messages WHERE status = 'done'")
    )
    assert begun == (2 if what == "begin" else 1)
    assert tasks == (1 if what == "tool" and told == "stored" else 0)
    assert events == (1 if what in {"save", "finish"} or tasks else 0)
    assert done == begun + (what == "finish")
    TABLE.tried(f"a line cut {when} the COMMIT of {what}", 1)


@BOTH
async def test_a_line_that_is_cut_in_the_middle_is_not_noticed(cuttable: tuple[Line, PostgresEngine]) -> None:
    """A unit whose connection is lost between two statements is done again, on another connection."""
    cable, engine = cuttable
    cut = False

    async def work(sql: Sql) -> None:
        nonlocal cut
        await add("a")(sql)
        if not cut:
            cut = True
            cable.cut()
        await add("b")(sql)

    await engine.write(work)
    assert await titles(engine) == ["a", "b"]
    cut = False
    assert await engine.read(all_rows)


@BOTH
async def test_connections_that_broke_while_idle_are_not_used(cuttable: tuple[Line, PostgresEngine]) -> None:
    """A tool, which cannot be done again, does not get a connection that was cut while nobody used it."""
    cable, engine = cuttable
    await asyncio.gather(*(engine.write(add("x")) for _ in range(CONNECTIONS)))
    cable.cut()
    await asyncio.sleep(0.05)
    await engine.transaction(add("of the tool"))
    assert "of the tool" in await titles(engine)


@BOTH
async def test_a_line_that_has_gone_silent_is_given_up(cuttable: tuple[Line, PostgresEngine]) -> None:
    """While nothing comes through, everything ends in words soon after the patience, and then all is as before."""
    cable, engine = cuttable
    await engine.write(add("before"))
    cable.open.clear()
    begun = time.monotonic()
    for work in (engine.read, engine.write, engine.transaction):
        assert "does not answer" in await refusal(work(all_rows))
    took = time.monotonic() - begun
    cable.open.set()
    await engine.write(add("after"))
    assert await titles(engine) == ["before", "after"]
    assert took < 3 * PATIENCE + SOON


@DIRECT
async def test_a_line_that_is_silent_for_one_connection_only_is_replaced(database: str) -> None:
    """A connection that leads nowhere costs the unit that gets it half of its patience, and is not used again."""
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    async with line(port) as cable, opened(cable.url(database)) as engine:
        await engine.write(add("a"))
        sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'todochat'"
        [(old,)] = look(database, f"{sessions} AND datname = current_database()")
        os.kill(old, signal.SIGSTOP)
        try:
            await engine.write(add("b"))
        finally:
            os.kill(old, signal.SIGCONT)
        assert await titles(engine) == ["a", "b"]


# ---- the server is in trouble ----


@pytest.mark.parametrize(("sig", "pause"), [(signal.SIGINT, 0.0), (signal.SIGQUIT, 0.0), (signal.SIGINT, 1.0)])
async def test_a_restart_is_a_pause(fragile: Postgres, fragile_url: str, sig: int, pause: float) -> None:
    """While the server restarts, or crashes, each unit of work waits, and is there once in the end."""
    acknowledged: list[str] = []
    refused: list[str] = []
    over = asyncio.Event()

    async def writer(engine: PostgresEngine, name: str) -> None:
        n = 0
        while not over.is_set():
            n += 1
            title = f"{name}-{n}"
            try:
                await engine.write(add(title))
                acknowledged.append(title)
            except Unavailable:
                refused.append(title)

    async with opened(fragile_url, patience=10) as engine:
        writers = [elsewhere(writer(engine, name)) for name in "abcdef"]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(fragile.restart, sig, pause)
        await asyncio.gather(*(engine.write(add(f"afterwards-{n}")) for n in range(9)))
        over.set()
        await asyncio.gather(*writers)
        there = await titles(engine)
    assert sorted(title for title in there if "afterwards" not in title) == sorted(acknowledged)
    assert len(there) == len(acknowledged) + 9
    assert refused == []


async def test_a_commit_that_a_crash_has_lost_is_not_taken_for_that_of_somebody_else(fragile: Postgres) -> None:
    """A server that has crashed gives the ids of lost transactions to others: what they commit is not ours."""
    with fragile.database() as name:
        async with (
            line(fragile.port) as cable,
            opened(cable.url(fragile.url(name)), patience=20) as engine,
            opened(fragile.url(name), patience=20) as other,
        ):
            await asyncio.gather(engine.write(add("a")), other.write(add("b")))
            cable.cut_before, cable.silent_after_cut = b"COMMIT", True
            unit = elsewhere(engine.write(add("c")))
            await cable.is_cut.wait()
            await asyncio.to_thread(fragile.restart, signal.SIGQUIT)
            for _ in range(9):
                await other.write(add("of somebody else"))
            cable.open.set()
            await unit
            assert (await titles(engine)).count("c") == 1


async def test_a_server_that_stays_away_is_said_in_words(fragile: Postgres, fragile_url: str) -> None:
    """Without a server everything is refused after the patience, and works at once when there is one again."""
    async with opened(fragile_url, patience=2) as engine:
        await engine.write(add("before"))
        await asyncio.to_thread(fragile.stop)
        for work in (engine.read, engine.write, engine.transaction):
            begun = time.monotonic()
            assert "does not answer" in await refusal(work(all_rows))
            assert time.monotonic() - begun < SOON
        await asyncio.to_thread(fragile.start)
        deadline = time.monotonic() + SOON  # a pooler needs a moment
        while True:
            try:
                await engine.write(add("after"))
                break
            except Unavailable:
                assert time.monotonic() < deadline
        assert await titles(engine) == ["before", "after"]


async def test_a_frozen_server_holds_nobody(fragile: Postgres, fragile_url: str) -> None:
    """What is under way when the server freezes, and what comes later, ends in words a moment after the patience."""
    async with opened(fragile_url, patience=2) as engine:
        await engine.write(add("before"))
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def tool(sql: Sql) -> None:
            await add("of the tool")(sql)
            began.set()
            await goes_on.wait()
            await add("of the tool")(sql)

        working = elsewhere(engine.transaction(tool))
        await began.wait()
        with fragile.frozen():
            goes_on.set()
            begun = time.monotonic()
            units = [engine.read(all_rows), engine.write(add("x")), engine.transaction(add("y"))]
            await asyncio.gather(*(refusal(unit) for unit in [*units, working]))
            took = time.monotonic() - begun
        assert took < SOON
        there: list[str] = []
        deadline = time.monotonic() + SOON
        while "after" not in there:
            try:
                await engine.write(add("after"))
                there = await titles(engine)
            except Unavailable:
                assert time.monotonic() < deadline
        assert there == ["before", "after"]


@DIRECT
async def test_a_commit_that_was_not_answered_is_asked_for_after_the_patience_too(database: str) -> None:
    """If the server wakes up a moment after the patience, what it has committed is acknowledged after all."""
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    async with line(port) as cable, opened(cable.url(database), patience=1.5) as engine:
        await engine.write(add("a"))
        cable.silent_after = b"COMMIT"
        unit = elsewhere(engine.write(add("b")))
        await asyncio.sleep(1.5 + GRACE + 0.3)
        cable.open.set()
        await unit
        assert await titles(engine) == ["a", "b"]


@BOTH
async def test_a_server_that_became_read_only_is_left(engine: PostgresEngine, cluster: Postgres, database: str) -> None:
    """As after a failover: what leads to a standby is dropped, and tried again on a new connection."""
    name = database.rsplit("/", 1)[1]
    await engine.write(add("a"))
    # A session that was begun now is read-only until its end, as those to a former primary.
    cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    throw_out = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    cluster.execute(f"{throw_out} AND datname = '{name}'")
    unit = elsewhere(engine.write(add("b")))
    await asyncio.sleep(0.5)
    assert not unit.done()
    cluster.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await unit
    assert await titles(engine) == ["a", "b"]


@DIRECT
async def test_a_server_that_stays_read_only_is_said_in_words(database: str, cluster: Postgres) -> None:
    """On a standby everything can be read, and what writes is refused in words."""
    name = database.rsplit("/", 1)[1]
    async with opened(database) as engine:
        await engine.write(add("a"))
    cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with opened(database, patience=2) as engine:
        for work in (engine.write, engine.transaction):
            assert "cannot be written" in await refusal(work(add("b")))
        assert await titles(engine) == ["a"]


@DIRECT
async def test_too_many_connections_are_waited_for(database: str, cluster: Postgres) -> None:
    """A server that takes no more connections is asked again; if it never does, that is said in words."""
    name = database.rsplit("/", 1)[1]
    async with opened(database) as engine:
        await engine.write(add("a"))
    user = f"few_{name}"
    cluster.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 1 IN ROLE pg_read_all_data")
    cluster.execute(f"GRANT USAGE ON SCHEMA todochat TO {user}", name)
    cluster.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA todochat TO {user}", name)
    try:
        async with opened(cluster.url(name, user=user), patience=2) as engine:
            await engine.read(all_rows)
            began, goes_on = asyncio.Event(), asyncio.Event()

            async def tool(sql: Sql) -> None:
                began.set()
                await goes_on.wait()

            working = elsewhere(engine.transaction(tool))
            await began.wait()
            assert "does not answer" in await refusal(engine.read(all_rows))
            waiting = elsewhere(titles(engine))
            goes_on.set()
            await working
            assert await waiting == ["a"]
    finally:
        cluster.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA todochat FROM {user}", name)
        cluster.execute(f"REVOKE ALL ON SCHEMA todochat FROM {user}", name)
        cluster.execute(f"DROP ROLE {user}")


@BOTH
@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("53100", "disk is full"),
        ("53200", "no room"),
        ("58030", "disk does not answer"),
        ("55P03", "busy"),
        ("57014", "busy"),
        ("XX001", "has failed"),
    ],
)
async def test_trouble_of_the_server_is_said_in_words(engine: PostgresEngine, state: str, says: str) -> None:
    """What the server raises when it cannot is a sentence, nothing of it is stored, and the connection goes on."""

    async def work(sql: Sql) -> None:
        await add("undone")(sql)
        await sql(f"DO $$ BEGIN RAISE EXCEPTION 'the password of the disk' USING ERRCODE = '{state}'; END $$")

    for unit in (engine.write, engine.transaction):
        assert says in await refusal(unit(work))
    assert await titles(engine) == []


@BOTH
async def test_a_lock_of_somebody_else_is_waited_for_within_the_patience(database: str) -> None:
    """What another program locks is a sentence after the patience."""
    async with opened(database, patience=2) as engine:
        await engine.write(add("a"))
        with psycopg.connect(database, prepare_threshold=None) as other:
            other.execute("LOCK TABLE todochat.tasks")
            assert "busy" in await refusal(engine.write(add("b")))
            assert "busy" in await refusal(engine.read(all_rows))
        await engine.write(add("c"))
        assert await titles(engine) == ["a", "c"]


async def test_nothing_that_users_say_is_in_the_servers_log(fragile: Postgres) -> None:
    """What is refused by a constraint, or too slow, is logged by the server without the values."""
    with fragile.database() as name:
        async with opened(fragile.url(name)) as engine:
            for _ in range(2):
                again = TurnRequest("alice", "sesame", title="sesame", key="sesame", digest="d")
                await Store(engine).begin_turn(again, Limits())
            duplicate = "INSERT INTO tasks (id, user_id, title, created_at, updated_at) VALUES (1, 'u', ?, '', '')"
            await engine.write(lambda sql: sql(duplicate, ("sesame",)))
            with pytest.raises(psycopg.errors.UniqueViolation):
                await engine.write(lambda sql: sql(duplicate, ("sesame",)))
    assert "duplicate key" in fragile.log()
    assert "sesame" not in fragile.log()


# ---- opening ----


async def test_eight_processes_may_start_at_once_on_an_empty_database(cluster: Postgres) -> None:
    """The schema is made once, by whoever comes first."""
    for _ in range(5):
        with cluster.database() as name:
            engines = await asyncio.gather(*(PostgresEngine.open(cluster.url(name)) for _ in range(8)))
            await asyncio.gather(*(engine.write(add("x")) for engine in engines))
            assert await titles(engines[0]) == ["x"] * 8
            await asyncio.gather(*(engine.close() for engine in engines))


@DIRECT
async def test_a_newer_schema_is_refused(database: str) -> None:
    """What a newer program has made is left as it is."""
    async with opened(database):
        pass
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE todochat.version SET schema = 99")
    with pytest.raises(StoreError, match="newer version"):
        await PostgresEngine.open(database)
    assert look(database, "SELECT schema FROM version") == [(99,)]


@DIRECT
async def test_an_older_schema_is_upgraded_in_steps(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is done once, in their order, by whichever of several processes comes first."""
    from todochat.engines import postgres as module

    async with opened(database) as engine:
        await engine.write(add("a"))
    monkeypatch.setattr(module, "SCHEMA_VERSION", 3)
    steps = {1: "ALTER TABLE tasks ADD COLUMN one TEXT", 2: "ALTER TABLE tasks RENAME COLUMN one TO two"}
    monkeypatch.setattr(module, "UPGRADES", steps)
    engines = await asyncio.gather(*(PostgresEngine.open(database) for _ in range(4)))
    assert await titles(engines[0]) == ["a"]
    await asyncio.gather(*(engine.close() for engine in engines))
    assert look(database, "SELECT title, two FROM tasks") == [("a", None)]
    assert look(database, "SELECT schema FROM version") == [(3,)]


@DIRECT
async def test_a_schema_of_somebody_else_is_refused(database: str) -> None:
    """Tables that are not ours are left alone; an empty schema that an administrator has made is used."""
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA todochat")
        connection.execute("CREATE TABLE todochat.users (id INTEGER)")
    with pytest.raises(StoreError, match="belongs to another program"):
        await PostgresEngine.open(database)
    with psycopg.connect(database) as connection:
        connection.execute("DROP TABLE todochat.users")
    async with opened(database) as engine:
        await engine.write(add("a"))


async def test_a_database_in_another_encoding_is_refused(cluster: Postgres) -> None:
    """A database that cannot hold all texts is refused before anybody has said something."""
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with pytest.raises(StoreError, match="LATIN1"):
            await PostgresEngine.open(cluster.url("latin"))
    finally:
        cluster.execute("DROP DATABASE latin WITH (FORCE)")


@DIRECT
async def test_urls_are_understood_as_people_get_them(database: str, cluster: Postgres) -> None:
    """The names of drivers, several hosts, and what Neon, Supabase and RDS put behind the question mark."""
    rest = database.removeprefix("postgresql://")
    dead = rest.replace("@127.0.0.1:", f"@127.0.0.1:{free_port()},127.0.0.1:")
    for url in (
        f"postgres://{rest}",
        f"postgresql+psycopg://{rest}",
        f"postgresql://{rest}?sslmode=prefer&channel_binding=prefer",
        f"postgresql://{rest}?target_session_attrs=read-write&application_name=x&connect_timeout=10",
        f"postgresql://{dead}?target_session_attrs=read-write",
        f"postgresql://{rest}?keepalives_idle=10&options=-c%20statement_timeout%3D5000",
    ):
        async with opened(url) as engine:
            await titles(engine)


WRONG = [
    ("{scheme}://todo:{wrong}@127.0.0.1:{port}/{name}", "password authentication failed"),
    ("{scheme}://nobody:{wrong}@127.0.0.1:{port}/{name}", "password authentication failed"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
    ("{scheme}://todo:{right}@127.0.0.1:{free}/{name}", "[Cc]onnection refused"),
    ("{scheme}://todo:{right}@nowhere.invalid/{name}", "nowhere.invalid"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}?sslmode=require", "SSL"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}?sslmode=perhaps", "perhaps"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}?pgbouncer=true", "'pgbouncer'"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}?sslmode", "parameters"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}?connect_timeout=soon", "connect_timeout|soon"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}?target_session_attrs=standby", "standby|recovery|read-only"),
    ("{scheme}://todo:{right}@127.0.0.1:99999/{name}", "port"),
    ("{scheme}://todo:{right}@127.0.0.1:port/{name}", "must look like"),
    ("{scheme}://todo:{right}@secret@127.0.0.1:{port}/{name}", "must look like"),
    ("{scheme}://todo:{right}/secret@127.0.0.1:{port}/{name}", "must look like"),
    ("{scheme}://todo:{right}%secret@127.0.0.1:{port}/{name}", "must look like"),
    ("{scheme}://todo:{right} secret@127.0.0.1:{port}/{name}", "must look like"),
    ("{scheme}://todo:12/{right}@127.0.0.1:{port}/{name}", "must look like"),
    ("{scheme}://todo:12?a={right}@127.0.0.1/{port}/{name}", "must look like"),
    ("{scheme}://todo:{right}@127.0.0.1:{port}/{name}#{right}", "must look like"),
    ("{scheme}://todo:{right}@/{name}?host=/nowhere", "nowhere"),
]


@pytest.mark.parametrize(("url", "says"), WRONG)
@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
async def test_what_is_wrong_is_said_at_once_and_without_the_password(
    cluster: Postgres, scheme: str, url: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong password, host, database or parameter is one sentence, and no password is in it or behind it."""
    caplog.set_level(logging.INFO)
    with cluster.database() as name:
        values = {"scheme": scheme, "right": PASSWORD, "wrong": "mellon", "port": cluster.port, "name": name}
        begun = time.monotonic()
        with pytest.raises(StoreError, match=says) as refused:
            await Store.open(url.format(free=free_port(), **values))
        assert time.monotonic() - begun < SOON
    error: BaseException | None = refused.value
    assert str(error).count("\n") == 0
    shown = "".join(traceback.format_exception(error)) + caplog.text
    while error is not None:
        shown += repr(error)
        error = error.__cause__ or error.__context__
    for secret in (PASSWORD, "mellon", "secret"):
        assert secret not in shown


async def test_a_server_that_does_not_answer_is_said_after_seconds(fragile: Postgres) -> None:
    """A server that is frozen, or a host that drops what it is sent, is given up after the patience."""
    with fragile.frozen():
        begun = time.monotonic()
        with pytest.raises(StoreError, match="does not answer"):
            await PostgresEngine.open(fragile.url(), patience=1.0)
        assert time.monotonic() - begun < SOON


def test_sqlite_needs_no_driver_of_postgresql(tmp_path: Path) -> None:
    """On SQLite nothing of psycopg is imported, and without it a URL of PostgreSQL's is one sentence."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["psycopg"] = None
from todochat.db import Store
from todochat.engines import StoreError
asyncio.run(asyncio.run(Store.open({str(tmp_path / "chat.db")!r})).close())
assert not any(name.startswith("psycopg") for name in sys.modules if name != "psycopg")
try:
    asyncio.run(Store.open("postgresql://todo:{PASSWORD}@127.0.0.1/x"))
except StoreError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'todochat[postgres]'" in result.stdout
    assert PASSWORD not in result.stdout + result.stderr


# ---- the service ----


@BOTH
def test_the_service_answers_on_postgresql(database: str, make_server: Callable[..., Server]) -> None:
    """A message, its tool and its answer are there after a restart; nothing is written beside the server."""
    server = make_server(script="tests/unpaced.py", DATABASE_URL=database)
    with server.client() as client:
        turn = client.say("add buy milk")
        assert turn.complete
    server.kill(signal.SIGTERM)
    server.start()
    with server.client() as client:
        assert [task["title"] for task in client.tasks()] == ["buy milk"]
        assert [message["status"] for message in client.messages(turn.thread)] == ["done", "done"]
    server.kill(signal.SIGTERM)
    assert [path.name for path in server.folder.iterdir()] == ["log.txt"]
    assert PASSWORD not in server.log.read_text()


@pytest.mark.parametrize(
    ("command", "says"),
    [([], "BETTER_AUTH_SECRET"), (["token", "alice"], "BETTER_AUTH_SECRET"), (["backup", "copy.db"], "pg_dump")],
)
@DIRECT
def test_what_needs_a_file_is_refused_in_words(tmp_path: Path, database: str, command: list[str], says: str) -> None:
    """The demo's secret and the copy are for a database in a file; the URL is not quoted."""
    ended = subprocess.run(
        [sys.executable, ROOT / "app.py", *command],
        cwd=tmp_path,
        env=environment(PORT=0, DATABASE_URL=database),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    [line_] = ended.stderr.splitlines()
    assert says in line_
    assert PASSWORD not in ended.stderr + ended.stdout
    assert list(tmp_path.iterdir()) == []


# ---- the store ----


async def test_a_turn_on_each_engine(any_store: Store, database: str) -> None:
    """A turn with a tool, from its beginning to its end, is the same on all engines."""
    turn = await any_store.begin_turn(TurnRequest("alice", "hi", title="hi", key="k", digest="d"), Limits())
    answer_id, thread = turn.answer["id"], turn.conversation["id"]
    assert list(await any_store.save_progress(lambda: [Progress(answer_id, 0, [TEXT])])) == [answer_id]

    async def tool() -> Task:
        task = await any_store.add_task("alice", "milk")
        return await any_store.update_task("alice", task["id"], completed=True) or task

    task = await any_store.work_and_save(answer_id, tool, lambda task: Progress(answer_id, 1, [TEXT]))
    assert task["completed"] is True
    assert await any_store.list_tasks("alice", completed=True) == await any_store.list_tasks("alice") == [task]
    assert await any_store.list_tasks("alice", completed=False) == []
    again = await any_store.begin_turn(TurnRequest("alice", "hi", title="hi", key="k", digest="d"), Limits())
    assert (again.earlier, again.answer["content"]) == (True, "One.One.")
    with pytest.raises(db.Busy):
        await any_store.begin_turn(TurnRequest("alice", "x", conversation_id=thread), Limits())
    await any_store.finish_answer(Progress(answer_id, 2, []), "done", fold([TEXT, TEXT]))
    assert look(database, "SELECT count(*) FROM live_events") == [(2 if any_store.engine.shared else 0,)]
    assert await any_store.give_feedback("alice", thread, {answer_id}, "positive")
    page = await page_of_messages(any_store, "alice", thread, since=None, newest_first=True, limit=1)
    assert page is not None
    assert (page[1][0]["content"], page[1][0]["feedback"]) == ("One.One.", "positive")
    retry = TurnRequest("alice", conversation_id=thread, retry_of=turn.history[-1]["id"])
    second = await any_store.begin_turn(retry, Limits())
    await any_store.finish_answer(Progress(second.answer["id"], 0, []), "stopped", fold([]))
    assert await page_of_conversations(any_store, "alice", after=None, newest_first=True, limit=5) != []
    assert await any_store.delete_conversation("alice", thread)
    with pytest.raises(db.Conflict):
        await any_store.begin_turn(TurnRequest("alice", "hi", title="hi", key="k", digest="d"), Limits())


@BOTH
async def test_limits_and_keys_hold_across_processes(database: str) -> None:
    """Of turns that begin at once on two stores as many are begun as may be, and one for each key."""
    async with opened(database) as one, opened(database) as two:
        stores = [Store(one), Store(two)]
        requests = [TurnRequest("alice", "hi", title="hi") for _ in range(20)]
        begun = await asyncio.gather(
            *(stores[n % 2].begin_turn(request, Limits(live_per_user=4)) for n, request in enumerate(requests)),
            return_exceptions=True,
        )
        assert [type(turn) for turn in begun].count(db.Turn) == 4
        assert [type(turn) for turn in begun].count(TooMany) == 16
        keyed = TurnRequest("bob", "hi", title="hi", key="k", digest="d")
        turns = await asyncio.gather(*(stores[n % 2].begin_turn(keyed, Limits()) for n in range(20)))
        assert len({turn.answer["id"] for turn in turns}) == 1
        assert [turn.earlier for turn in turns].count(False) == 1


async def test_a_unit_with_a_lock_is_a_transaction_of_its_own(any_store: Store) -> None:
    """A tool cannot begin a turn in its own transaction, where its user's lock would be held as long as the tool."""

    async def tool(_: Sql) -> None:
        await any_store.begin_turn(TurnRequest("alice", "hi", title="hi"), Limits())

    with pytest.raises(RuntimeError, match="a unit with a lock"):
        await any_store.engine.transaction(tool)
    assert await any_store.list_conversations("alice", 10) == []


@BOTH
async def test_trips_of_a_turn(cuttable: tuple[Line, PostgresEngine]) -> None:
    """Each trip to the database is time and CPU: what a turn may take of them, and not more."""
    made, engine = cuttable
    store = Store(engine)

    async def trips(work: Awaitable[T]) -> tuple[int, T]:
        before = made.trips
        result = await work
        return made.trips - before, result

    async def answer(conversation: int | None, **asked: str) -> list[int]:
        request = TurnRequest("alice", "hi", title="hi", conversation_id=conversation, **asked)
        begun, turn = await trips(store.begin_turn(request, Limits()))
        events = Progress(turn.answer["id"], 0, [TEXT])
        saved, _ = await trips(store.save_progress(lambda: [events]))
        ended, _ = await trips(store.finish_answer(events, "done", fold([TEXT]), (3, 4)))
        return [begun, saved, ended]

    assert await answer(None) == [5, 4, 7], "the first tokens of a day are two trips"
    [conversation] = await store.list_conversations("alice", 10)
    assert await answer(conversation["id"]) == [6, 4, 6], "and what was said before is one"
    assert await answer(conversation["id"], key="k", digest="d") == [9, 4, 6]


async def as_many_wait(database: str, count: int) -> None:
    """Wait until so many transactions wait for a lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while look(database, waiting) != [(count,)]:  # noqa: ASYNC110 - it is no event of ours
        await asyncio.sleep(0.01)


@BOTH
async def test_two_who_end_an_answer_at_once_count_it_once(database: str) -> None:
    """Its own process ends an answer while another one takes that for dead: the conversation has grown once."""
    async with opened(database, 60) as one, opened(database, 60) as two, opened(database, 60) as three:
        owner, other = Store(one), Store(two)

        async def bury(sql: Sql) -> None:
            await db.interrupt(sql, "owner = ?", owner.process, keep_events=True)

        async def hold(sql: Sql) -> None:
            await sql("UPDATE conversations SET title = title")
            held.set()
            await go_on.wait()

        ends: list[bool] = []
        for n in range(4):
            turn = await owner.begin_turn(TurnRequest(f"user-{n}", "hi", title="hi"), Limits())
            last = Progress(turn.answer["id"], 0, [TEXT])
            held, go_on = asyncio.Event(), asyncio.Event()
            holding = asyncio.create_task(three.write(hold))
            await held.wait()
            both: list[asyncio.Task[bool | None]] = []
            for first in (n % 2 == 0, n % 2 == 1):  # both have looked at the answer, and wait for the conversation
                unit = owner.finish_answer(last, "done", fold([TEXT]), (3, 4)) if first else other.engine.write(bury)
                both.append(asyncio.ensure_future(unit))
                await as_many_wait(database, len(both))
            go_on.set()
            await holding
            ends += [end for end in await asyncio.gather(*both) if end is not None]
        # Mostly the one that was first: but PostgreSQL lets those who wait for a row race for it when it has changed.
        assert len(ends) == 4
        there = f"SELECT size, (SELECT SUM({SIZE}) FROM messages WHERE conversation_id = conversations.id) AS there"
        for row in await one.read(lambda sql: sql(f"{there} FROM conversations")):
            assert row["size"] == row["there"]
        used = await one.read(lambda sql: sql("SELECT tokens FROM token_counts"))
        assert [row["tokens"] for row in used] == [7] * sum(ends)


@DIRECT
async def test_a_tool_whose_commit_takes_long_is_in_the_end_of_its_answer(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while its COMMIT is not answered, for longer than a tool is waited for: its result is there too."""
    monkeypatch.setattr(runs, "FINISHING", 0.1)
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    async with line(port) as cable, opened(cable.url(database), patience=20) as engine:
        store = Store(engine)
        live = runs.Runs(store, Limits(), "none")

        async def events(run: runs.Run, turn: db.Turn) -> AsyncIterator[Event]:
            yield CALL
            run.tool_began("1")
            await run.record("1", work, atomically=True)

        async def work() -> Task:
            task = await store.add_task("alice", "x")
            cable.silent_after = b"COMMIT"
            return task

        _, run = await live.begin(TurnRequest("alice", "hi", title="hi"), awaited(events))
        assert run is not None
        await cable.is_silent.wait()
        stopping = asyncio.create_task(live.stop("alice", run.conversation_id))
        await asyncio.sleep(0.5)
        assert not stopping.done()
        cable.open.set()
        assert await stopping == run.answer_id
        answer = await store.get_message("alice", run.answer_id)
        assert answer is not None
        assert answer["status"] == "stopped"
        assert [call["result"]["title"] for call in answer["tool_calls"]] == ["x"]
        assert len(await store.list_tasks("alice")) == 1
        await live.close()


@DIRECT
async def test_who_writes_again_is_told_at_once_of_readers_elsewhere(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer whose readers have left here, and not elsewhere, goes on: nobody is kept waiting for its end."""
    monkeypatch.setattr(runs, "FINISHING", 600.0)
    async with opened(database) as one, opened(database) as two:
        store, elsewhere = Store(one), runs.Runs(Store(two), Limits(), "none")
        live = runs.Runs(store, Limits(), "none")

        async def events(run: runs.Run, turn: db.Turn) -> AsyncIterator[Event]:
            yield TEXT
            await asyncio.Future()

        _, run = await live.begin(TurnRequest("alice", "hi", title="hi"), awaited(events))
        assert isinstance(run, runs.Run)
        mirror = await elsewhere.live("alice", run.conversation_id)
        assert mirror is not None
        leave = await live.stop_when_left(run)
        leave_elsewhere = [await elsewhere.stop_when_left(mirror) for _ in range(2)]
        await leave()
        again = TurnRequest("alice", "on", conversation_id=run.conversation_id)
        async with asyncio.timeout(SOON):
            with pytest.raises(db.Busy):
                await live.begin(again, awaited(events))
        for leaving in leave_elsewhere:
            assert not run.ended
            await leaving()
        assert run.conclusion is not None
        await asyncio.wait_for(run.conclusion, SOON)
        await live.close()
        await elsewhere.close()


@DIRECT
async def test_a_reader_that_could_not_be_counted_does_not_count_when_it_leaves(database: str) -> None:
    """Or it would take the place of another reader, who is still there, and the answer would be stopped."""
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    async with opened(database) as one, line(port) as cable, opened(cable.url(database), 0.2) as two:
        live, elsewhere = (runs.Runs(Store(engine), Limits(), "none") for engine in (one, two))

        async def events(run: runs.Run, turn: db.Turn) -> AsyncIterator[Event]:
            yield TEXT
            await asyncio.Future()

        _, run = await live.begin(TurnRequest("alice", "hi", title="hi"), awaited(events))
        assert isinstance(run, runs.Run)
        mirror = await elsewhere.live("alice", run.conversation_id)
        assert mirror is not None
        cable.open.clear()
        assert await elsewhere.stop_when_left(mirror) is None
        cable.open.set()
        await elsewhere.close()
        await live.close()


@DIRECT
async def test_a_process_that_wakes_up_in_its_burial_keeps_what_it_commits(database: str) -> None:
    """It stores a tool's result while another one ends its answers: what stays of the answer has the result."""
    port = int(database.rsplit(":", 1)[1].split("/")[0])
    async with line(port) as cable, opened(cable.url(database), 20) as one, opened(database, 20) as two:
        owner, other = Store(one), Store(two)
        turn = await owner.begin_turn(TurnRequest("alice", "hi", title="hi"), Limits())
        await owner.save_progress(lambda: [Progress(turn.answer["id"], 0, [TEXT, CALL])])
        cable.halt_after = b"SET owner = owner"
        work = owner.work_and_save(
            turn.answer["id"],
            lambda: owner.add_task("alice", "x"),
            lambda task: Progress(turn.answer["id"], 2, [RESULT]),
        )
        tool = elsewhere(work)
        await cable.is_halted.wait()

        async def bury(sql: Sql) -> bool:
            return await db.interrupt(sql, "owner = ?", owner.process, keep_events=True)

        burial = elsewhere(other.engine.write(bury))
        await as_many_wait(database, 1)
        cable.go_on.set()
        assert (await tool)["title"] == "x"
        assert await burial is False
        answer = await other.get_message("alice", turn.answer["id"])
        assert answer is not None
        assert (answer["status"], answer["content"]) == ("interrupted", "One.")
        assert [call["result"] for call in answer["tool_calls"]] == ["x"]


async def test_many_answers_are_ended_a_few_at_a_time(any_store: Store) -> None:
    """However many answers a process has left, ending them is no unit of work that takes too long."""
    many = 2 * db.AT_ONCE + 3
    for n in range(many):
        turn = await any_store.begin_turn(TurnRequest(f"user-{n}", "hi", title="hi"), Limits())
        await any_store.save_progress(lambda answer=turn.answer["id"]: [Progress(answer, 0, [TEXT])])
    rounds = 1
    while await any_store.engine.write(lambda sql: db.interrupt(sql, "1 = 1")):
        rounds += 1
    assert rounds == 3
    ended = "SELECT content, status FROM messages WHERE role = 'assistant'"
    rows = await any_store.engine.read(lambda sql: sql(ended))
    assert [(row["content"], row["status"]) for row in rows] == [("One.", "interrupted")] * many


@BOTH
async def test_a_key_that_is_sent_again_beside_a_delete(database: str) -> None:
    """It is the earlier answer or a conflict in words, whatever is deleted at that moment."""
    async with opened(database) as one, opened(database) as two:
        for n in range(30):
            request = TurnRequest("alice", "hi", title="hi", key=f"k{n}", digest="d")
            thread = (await Store(one).begin_turn(request, Limits())).conversation["id"]

            async def delete(thread: int = thread, after: float = 0.0003 * n) -> None:
                await asyncio.sleep(after)
                await Store(two).delete_conversation("alice", thread)

            again, _ = await asyncio.gather(Store(one).begin_turn(request, Limits()), delete(), return_exceptions=True)
            assert isinstance(again, db.Conflict) or (isinstance(again, db.Turn) and again.earlier), again


@BOTH
async def test_of_many_tasks_at_once_as_many_are_added_as_may(database: str) -> None:
    """However many are added at the same time, on whichever process, by hand or by tools."""
    async with opened(database) as one, opened(database) as two:
        stores = Store(one), Store(two)
        for store in stores:
            store.room = Room(tasks=3)

        async def add_one(n: int) -> Task:
            store = stores[n % 2]
            if n % 3:
                return await store.add_task("alice", f"task {n}")
            return await store.engine.transaction(lambda sql: store.add_task("alice", f"task {n}"))

        added = await asyncio.gather(*(elsewhere(add_one(n)) for n in range(20)), return_exceptions=True)
        assert sorted(type(one).__name__ for one in added) == ["Full"] * 17 + ["dict"] * 3


@BOTH
async def test_long_reads_leave_connections_for_the_others(database: str) -> None:
    """While more searches run than there are connections, everybody else reads and writes."""
    async with opened(database, 20) as engine:
        search = "SELECT pg_sleep(0.3)"
        long = [elsewhere(engine.read(lambda sql: sql(search), long=True)) for _ in range(2 * CONNECTIONS)]
        await asyncio.sleep(0.1)
        await engine.write(add("a"))
        assert await titles(engine) == ["a"]
        assert sum(task.done() for task in long) < CONNECTIONS
        await asyncio.gather(*long)


@BOTH
async def test_a_mirror_is_there_for_a_reader_who_comes_back(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it comes back: what is written afterwards is followed."""
    monkeypatch.setattr(processes, "UNREAD", 1.0)
    monkeypatch.setattr(processes, "POLL_EVERY", 0.01)
    async with opened(database, 30) as one, opened(database, 30) as two:
        owner, others = Store(one), processes.Processes(Store(two), list)
        turn = await owner.begin_turn(TurnRequest("alice", "hi", title="hi"), Limits())
        try:
            for n in range(20):
                assert await others.follow("alice", turn.conversation["id"]) is not None
                await asyncio.sleep(0.985 + n * 0.0015)
                mirror = await others.follow("alice", turn.conversation["id"])
                assert mirror is not None
                await owner.save_progress(lambda n=n: [Progress(turn.answer["id"], n, [TEXT])])
                assert await asyncio.wait_for(anext(mirror.follow(n)), SOON) == [TEXT]
        finally:
            await others.close()


@BOTH
async def test_ends_and_deletions_do_not_lock_each_other(database: str) -> None:
    """Answers that end while their conversations are deleted, and checkpoints are made: no deadlock, and no error."""
    async with opened(database) as one, opened(database) as two:
        stores = Store(one), Store(two)
        before = look(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        for _ in range(40):
            turns = [await stores[0].begin_turn(TurnRequest("a", "hi", title="hi"), Limits()) for _ in range(3)]
            ids = [turn.answer["id"] for turn in turns]
            await stores[0].save_progress(lambda ids=ids: [Progress(i, 0, [TEXT]) for i in ids])
            await asyncio.gather(
                *(stores[0].finish_answer(Progress(i, 1, [TEXT]), "done", fold([TEXT])) for i in ids),
                *(stores[1].delete_conversation("a", turn.conversation["id"]) for turn in turns),
                *(stores[0].save_progress(lambda ids=ids, n=n: [Progress(i, n, [TEXT]) for i in ids]) for n in (1, 2)),
            )
        assert look(database, "SELECT count(*) FROM messages") == [(0,)]
        assert look(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == before
