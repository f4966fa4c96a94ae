"""The SQLite engine: who waits for whom, what is whole, and what may share a transaction."""

import asyncio
import contextvars
import gc
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from todochat.db import Limits, Progress, Store, TurnRequest
from todochat.engines import Places, Row, Sql, Unavailable
from todochat.engines.sqlite import SqliteEngine
from todochat.events import Event, fold

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file."""
    return tmp_path / "chat.db"


@asynccontextmanager
async def open_engine(path: Path | str, **options: Any) -> AsyncIterator[SqliteEngine]:
    """Open an engine, until the block ends: one that stays open would keep the process from ending."""
    engine = await SqliteEngine.open(str(path), **options)
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[SqliteEngine]:
    """An engine on a file of its own."""
    async with open_engine(path) as engine:
        yield engine


@pytest.fixture(params=["file", "memory"])
async def either(path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SqliteEngine]:
    """An engine on a file, and one on a database in memory."""
    async with open_engine(":memory:" if request.param == "memory" else path) as engine:
        yield engine


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


async def titles(engine: SqliteEngine) -> list[str]:
    """Return what tasks there are."""
    return [row["title"] for row in await engine.read(all_rows)]


def elsewhere(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin work of somebody who has nothing to do with the current task."""
    return asyncio.create_task(work, context=contextvars.Context())


class Tool:
    """A tool in the middle of its work: it has added a task, and goes on when it is told to."""

    def __init__(self, engine: SqliteEngine, then: Callable[[], Awaitable[Any]] | None) -> None:
        self._engine, self._then = engine, then
        self._began, self._goes_on = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> "Tool":
        self._working = elsewhere(self._engine.transaction(self._work))
        await self._began.wait()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.go_on()  # or the engine would not close
        await asyncio.wait((self._working,))

    def go_on(self) -> None:
        """Have it end its work."""
        self._goes_on.set()

    async def end(self) -> None:
        """Have it end its work, and wait for that."""
        self.go_on()
        await self._working

    async def _work(self, sql: Sql) -> None:
        try:
            await self._engine.write(add("of the tool"))
        finally:
            self._began.set()
        await self._goes_on.wait()
        if self._then is not None:
            await self._then()


def at_work(engine: SqliteEngine, then: Callable[[], Awaitable[Any]] | None = None) -> Tool:
    """Have a tool at work until the block ends; the last thing that it does is `then`."""
    return Tool(engine, then)


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    """Have another program hold the file's lock until the block ends."""
    code = "import sqlite3, sys\nfile = sqlite3.connect(sys.argv[1])\nfile.execute('BEGIN IMMEDIATE')\n"
    code += "print('locked', flush=True)\ninput()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.communicate(b"\n", timeout=10)


def commits(path: Path) -> int:
    """Return how many commits are in the write-ahead log."""
    log = Path(f"{path}-wal").read_bytes()
    page = int.from_bytes(log[8:12])
    frames = range(32, len(log) - page - 23, page + 24)
    return sum(log[at + 4 : at + 8] != b"\0\0\0\0" and log[at + 8 : at + 16] == log[16:24] for at in frames)


# ---- reading ----


async def test_a_read_does_not_wait_for_a_tool_that_works(engine: SqliteEngine) -> None:
    """While a tool works in its transaction others read, and see nothing of it until it is done."""
    async with at_work(engine) as tool:
        assert await titles(engine) == []
        await tool.end()
    assert await titles(engine) == ["of the tool"]


async def test_a_read_does_not_wait_for_writers_that_wait(engine: SqliteEngine) -> None:
    """Nor for those who wait for that tool."""
    async with at_work(engine) as tool:
        waiting = [elsewhere(engine.write(add(str(n)))) for n in range(3)]
        await asyncio.sleep(0)
        assert await titles(engine) == []
        assert not any(task.done() for task in waiting)
        await asyncio.gather(tool.end(), *waiting)
    assert await titles(engine) == ["of the tool", "0", "1", "2"]


async def test_a_read_does_not_wait_for_another_programs_lock(engine: SqliteEngine, path: Path) -> None:
    """While another program holds the file, and a writer waits for it, others read."""
    await engine.write(add("before"))
    with locked_by_another_process(path):
        writing = asyncio.create_task(engine.write(add("after")))
        for _ in range(20):
            assert await titles(engine) == ["before"]
            assert not writing.done()
    await writing
    assert await titles(engine) == ["before", "after"]


async def test_a_read_sees_one_state(engine: SqliteEngine) -> None:
    """What is committed between two statements of a unit that reads shows in neither."""

    async def twice(sql: Sql) -> tuple[int, int]:
        before = len(await all_rows(sql))
        await elsewhere(engine.write(add("between")))
        return before, len(await all_rows(sql))

    assert await engine.read(twice) == (0, 0)
    assert await titles(engine) == ["between"]


async def test_who_reads_cannot_write(either: SqliteEngine) -> None:
    """A unit of work that was to read and writes leaves nothing behind."""
    await either.write(add("a"))
    with suppress(Unavailable):  # in memory it is the same connection, and so undone instead of refused
        await either.read(lambda sql: sql("DELETE FROM tasks"))
    assert await titles(either) == ["a"]
    await either.write(add("b"))
    assert await titles(either) == ["a", "b"]


async def test_the_connection_that_reads_never_writes_nor_checkpoints(engine: SqliteEngine) -> None:
    """SQLite before 3.51.3 can lose data when two connections do."""
    for pragma, value in (("query_only", 1), ("wal_autocheckpoint", 0)):
        [row] = await engine.read(lambda sql, pragma=pragma: sql(f"PRAGMA {pragma}"))  # type: ignore[misc]
        assert row[pragma] == value


async def test_a_reader_that_fails_is_followed_by_others(either: SqliteEngine) -> None:
    """An error in a unit that reads is its own."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await either.read(lambda sql: sql("SELECT * FROM nowhere"))
    assert await titles(either) == []


# ---- writing ----


async def test_writers_that_wait_at_the_same_time_share_a_transaction(engine: SqliteEngine, path: Path) -> None:
    """Twenty who wait for the same tool cost one sync of the disk."""
    async with at_work(engine) as tool:
        before = commits(path)
        waiting = [elsewhere(engine.write(add(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
        await asyncio.gather(tool.end(), *waiting)
    assert commits(path) - before == 2  # the tool's, and theirs
    assert await titles(engine) == ["of the tool", *map(str, range(20))]


async def test_one_that_fails_takes_nothing_from_the_others(either: SqliteEngine) -> None:
    """Of those who share a transaction, the one that fails leaves nothing, and is told why; the others are stored."""

    async def mistaken(sql: Sql) -> None:
        await add("mistaken")(sql)
        raise ZeroDivisionError

    async def refused(sql: Sql) -> None:
        await add("refused")(sql)
        await sql("INSERT INTO tasks (user_id) VALUES ('alice')")

    work = [add("a"), mistaken, add("b"), refused, add("c")]
    outcomes = await asyncio.gather(*map(either.write, work), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        *(type(None), ZeroDivisionError, type(None), sqlite3.IntegrityError, type(None))
    ]
    assert await titles(either) == ["a", "b", "c"]
    with pytest.raises(ZeroDivisionError):
        await either.write(mistaken)  # and alone
    assert await titles(either) == ["a", "b", "c"]


async def test_a_unit_is_whole_whenever_its_caller_is_cancelled(either: SqliteEngine) -> None:
    """Cancelled after any number of steps of the loop, all of its writes are there, or none; the next one works."""
    for work in (either.write, either.transaction):
        for steps in range(30):
            pair = [f"{work.__name__} {steps} {half}" for half in "ab"]
            before = await titles(either)
            caller = asyncio.create_task(work(add(*pair)))
            for _ in range(steps):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait((caller,))
            await either.write(add("next"))
            assert await titles(either) in ([*before, *pair, "next"], [*before, "next"])


async def test_whose_caller_is_gone_fails_in_silence(engine: SqliteEngine) -> None:
    """What goes wrong when nobody waits for it any more is no complaint of asyncio's, which would quote it."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def mistaken(sql: Sql) -> None:
        await add("undone")(sql)
        raise ValueError("what somebody wrote")

    for work in (engine.write, engine.transaction, engine.read):
        caller = asyncio.create_task(work(mistaken))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait((caller,))
    del caller
    await engine.write(add("next"))
    gc.collect()
    assert await titles(engine) == ["next"]
    assert complaints == []


# ---- a tool's transaction ----


async def test_a_tools_reads_and_writes_are_in_its_transaction(either: SqliteEngine) -> None:
    """What a tool calls sees what it has written, in tasks of its own too; and when it fails, all of that is undone."""
    seen: list[list[str]] = []

    async def work(sql: Sql) -> None:
        await either.write(add("a"))
        await asyncio.gather(either.write(add("b")), either.write(add("c")))
        seen.append(await asyncio.create_task(titles(either)))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await either.transaction(work)
    assert seen == [["a", "b", "c"]]
    assert await titles(either) == []


async def test_what_a_tool_catches_is_undone_alone(either: SqliteEngine) -> None:
    """A write within the transaction that fails leaves nothing, and the tool can go on."""

    async def refused(sql: Sql) -> None:
        await add("refused")(sql)
        await sql("INSERT INTO tasks (user_id) VALUES ('alice')")

    async def work(sql: Sql) -> None:
        await either.write(add("a"))
        with pytest.raises(sqlite3.IntegrityError):
            await either.write(refused)
        await either.write(add("b"))

    await either.transaction(work)
    assert await titles(either) == ["a", "b"]


async def test_nobody_elses_writes_are_in_a_tools_transaction(engine: SqliteEngine) -> None:
    """What others write meanwhile is stored whether the tool fails or not."""

    async def fail() -> None:
        raise ZeroDivisionError

    async with at_work(engine, fail) as tool:
        waiting = elsewhere(engine.write(add("of somebody else")))
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            await tool.end()
        await waiting
    assert await titles(engine) == ["of somebody else"]


async def test_a_task_that_a_tool_has_left_behind_undoes_nothing_of_it(engine: SqliteEngine) -> None:
    """A task that the tool does not wait for, and whose write fails, takes nothing of what is stored with the tool."""
    failing = asyncio.Event()

    async def fails(sql: Sql) -> None:
        await add("undone")(sql)
        failing.set()
        for _ in range(20):  # while the tool ends
            await all_rows(sql)
        raise ZeroDivisionError

    async def work(sql: Sql) -> None:
        left_behind.append(asyncio.create_task(engine.write(fails)))
        await failing.wait()
        await add("the result")(sql)

    left_behind: list[asyncio.Task[None]] = []
    await engine.transaction(work)
    with pytest.raises(ZeroDivisionError):
        await left_behind[0]
    assert await titles(engine) == ["the result"]


async def test_a_task_that_outlives_its_tool_has_a_transaction_of_its_own(either: SqliteEngine) -> None:
    """What a tool has begun and not waited for is written all the same, after it."""
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await either.write(add("later"))

    async def work(sql: Sql) -> None:
        late.append(asyncio.create_task(later()))
        await either.write(add("a"))

    late: list[asyncio.Task[None]] = []
    await either.transaction(work)
    go_on.set()
    await late[0]
    assert await titles(either) == ["a", "later"]


async def test_two_engines_do_not_take_each_others_transactions(engine: SqliteEngine, tmp_path: Path) -> None:
    """A tool that works on another database too is one of many writers there: what fails here or there is its own."""

    async def fail() -> None:
        raise ZeroDivisionError

    async def work(sql: Sql) -> None:
        await engine.write(add("undone"))
        async with at_work(other, fail):
            writing = asyncio.create_task(other.write(add("kept")))
            for _ in range(20):  # while somebody else's tool is at work there, and then fails
                await asyncio.sleep(0.001)
        await writing
        raise ZeroDivisionError

    async with open_engine(tmp_path / "other.db") as other:
        with pytest.raises(ZeroDivisionError):
            await engine.transaction(work)
        assert (await titles(engine), await titles(other)) == ([], ["kept"])


# ---- patience ----


async def test_a_lock_of_another_program_is_a_sentence_within_the_patience(path: Path) -> None:
    """While another program holds the file, writing says so in words and leaves nothing; afterwards it works."""
    async with open_engine(path, patience=0.5) as engine:
        with locked_by_another_process(path):
            for work in (engine.write, engine.transaction):
                with pytest.raises(Unavailable, match="in use by another program"):
                    await work(add("a"))
        await engine.write(add("b"))
        assert await titles(engine) == ["b"]


async def test_a_tool_that_works_for_too_long_is_a_sentence_for_those_who_wait(path: Path) -> None:
    """Who waits for longer than the patience is told so, and is not written afterwards."""
    async with open_engine(path, patience=0.5) as engine:
        async with at_work(engine) as tool:
            outcomes = await asyncio.gather(
                *(elsewhere(engine.write(add("x"))) for _ in range(3)), return_exceptions=True
            )
            assert {str(outcome) for outcome in outcomes} == {"The database is busy. Please try again in a moment."}
            await tool.end()
        assert await titles(engine) == ["of the tool"]


async def test_who_waits_for_somebody_who_gets_on_is_patient(path: Path) -> None:
    """A unit waits for longer than its patience, as long as the one before it is slow and not stuck."""

    async def slow(sql: Sql) -> None:
        for n in range(6):
            await add(str(n))(sql)
            await asyncio.sleep(0.3)

    async with open_engine(path, patience=1) as engine:
        before = [asyncio.create_task(engine.write(slow)), elsewhere(engine.transaction(slow))]
        await asyncio.sleep(0.1)
        await engine.write(add("last"))
        await asyncio.gather(*before)
        assert (await titles(engine)).count("last") == 1


async def test_those_who_wait_come_in_their_order(path: Path) -> None:
    """Who came first is first, also when all have waited for longer than their patience, and others come meanwhile."""
    order: list[int] = []

    async def slow(number: int) -> None:
        async with places.place(time.monotonic()):
            order.append(number)
            await asyncio.sleep(0.05)
            places.note()

    async def come(number: int) -> None:
        await asyncio.sleep(0.03 * number)
        await slow(number)

    places = Places(patience=0.2)
    await asyncio.gather(*map(come, range(40)))
    assert order == list(range(40))


async def test_the_wait_has_an_end_and_leaves_time_for_the_work() -> None:
    """Who has waited for half a minute is told why; who gets a place before that has all its patience for the work."""
    now = time.monotonic()
    still, moving = Places(patience=5), Places(patience=5)
    moving.note()
    async with still.place(now), moving.place(now - 29) as deadline:
        assert deadline >= now + 5
        for places, since, sentence in ((still, now - 6, "database is busy"), (moving, now - 31, "too much to do")):
            with pytest.raises(Unavailable, match=sentence):
                async with places.place(since):
                    pytest.fail("it has a place")


async def test_patience_is_one_deadline_for_the_lock_and_the_file(path: Path) -> None:
    """Who has waited for another writer for most of its patience has only the rest of it for another program's lock."""
    async with open_engine(path, patience=2) as engine:
        with locked_by_another_process(path):
            first = asyncio.create_task(engine.write(add("a")))
            await asyncio.sleep(0.2)
            second = asyncio.create_task(engine.write(add("b")))
            with pytest.raises(Unavailable):
                await first
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                await second
            took = time.monotonic() - begun
        assert took < 1, "it waited for 2 seconds more, and not for what was left of the first"


async def test_patience_is_one_deadline_for_all_that_wait_together(path: Path) -> None:
    """Twenty writers that another program keeps waiting give up together, and not one after the other."""
    async with open_engine(path, patience=0.5) as engine:
        with locked_by_another_process(path):
            first = asyncio.create_task(engine.write(add("first")))
            await asyncio.sleep(0.4)
            together = [asyncio.create_task(engine.write(add(str(n)))) for n in range(20)]
            await asyncio.wait((first,))
            begun = time.monotonic()
            outcomes = await asyncio.gather(first, *together, return_exceptions=True)
            took = time.monotonic() - begun
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert took < 3, "one after the other they wait for 8 seconds"
        assert await titles(engine) == []


async def test_what_is_closed_says_so(either: SqliteEngine) -> None:
    """A closed engine stays closed, whatever is asked of it, and can be closed again."""
    await either.close()
    for work in (either.read, either.write, either.transaction):
        with pytest.raises(Unavailable, match="shutting down"):
            await work(add("x"))
    await either.close()


async def test_closing_waits_for_the_unit_that_is_under_way(path: Path) -> None:
    """What has begun is stored before the file is let go; what waits is refused in words."""
    engine = await SqliteEngine.open(str(path))
    async with at_work(engine) as tool:
        waiting = elsewhere(engine.write(add("x")))
        closed = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        await asyncio.gather(tool.end(), closed)
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT title FROM tasks").fetchall() == [("of the tool",)]


# ---- in memory ----


async def test_a_database_in_memory_serves_a_whole_turn() -> None:
    """What works on a file works in memory, tools included, and nothing of it is on a disk."""
    async with open_engine(":memory:") as engine:
        store = Store(engine)
        turn = await store.begin_turn(TurnRequest("alice", "hi", title="hi"), Limits())

        async def tool() -> Any:
            return [await store.add_task("alice", "x"), await store.list_tasks("alice")]

        task, listed = await store.work_and_save(
            turn.answer["id"], tool, lambda result: Progress(turn.answer["id"], 0, [{"type": "text", "content": "x"}])
        )
        assert listed == [task] == await store.list_tasks("alice")
        live = await store.get_message("alice", turn.answer["id"])
        assert live is not None
        assert live["content"] == "x"
        end: list[Event] = [{"type": "text", "content": "xy"}]
        await store.finish_answer(Progress(turn.answer["id"], 0, end), "done", fold(end))
        conversation = await store.get_conversation("alice", turn.conversation["id"])
        assert conversation is not None
        assert [message["content"] for message in conversation["messages"]] == ["hi", "xy"]
