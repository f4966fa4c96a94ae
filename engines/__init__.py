"""Where the SQL runs. An engine knows connections, transactions, locks and retries, and nothing of what is stored.

The store (db.py) hands an engine units of work: async functions of `sql`, by which they run their statements. The
engines speak one subset of SQL, with `?` for a parameter.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Value = str | int | None

POSTGRES = ("postgresql://", "postgres://", "postgresql+psycopg://")
BUSY = "The database is busy. Please try again in a moment."
CROWDED = "The server has too much to do at the moment. Please try again in a moment."
SHUTTING_DOWN = "The server is shutting down. Please try again in a moment."
LONGEST = 30.0  # seconds that a unit of work waits for others, however much is done meanwhile


class StoreError(Exception):
    """The database cannot be used; the text is a sentence for whoever starts the server."""


class Unavailable(Exception):
    """The database cannot do it right now (locked, full, read-only); the text is a sentence for the user."""


class Row(Protocol):
    """A row of a result: its values by the names of their columns."""

    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, column: str, /) -> Any: ...


class Sql(Protocol):
    """Runs one statement in the transaction of a unit of work, and returns its rows."""

    async def __call__(self, statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]: ...


Work = Callable[[Sql], Awaitable[T]]


class Places:
    """So many units of work at a time; the others wait, and begin in the order in which they came.

    A unit waits until nothing has been done for `patience` seconds, and at most for `LONGEST`. So a service that has
    too much to do is slow, and only a database that does nothing is said to be busy.
    """

    def __init__(self, patience: float, count: int = 1) -> None:
        self._patience, self._count = patience, count
        self._free = asyncio.Semaphore(count)
        self._closed = False
        self._last = [0.0]  # when something was done last, on the monotonic clock; shared with those `beside`

    def beside(self, count: int) -> "Places":
        """Return other places at the same database: whoever waits for one of these sees what is done at the others."""
        places = Places(self._patience, count)
        places._last = self._last
        return places

    def note(self) -> None:
        """Note that the database has done a statement just now."""
        self._last[0] = time.monotonic()

    @asynccontextmanager
    async def place(self, since: float) -> AsyncIterator[float]:
        """Have a place; yields until when the unit may wait for the database. Raises `Unavailable` if none is free.

        `since` is when the unit came. Both are times of `time.monotonic`.
        """
        await self._wait(since)
        try:
            if self._closed:
                raise Unavailable(SHUTTING_DOWN)
            yield self._deadline(since)
        finally:
            self._free.release()

    def _deadline(self, since: float) -> float:
        return max(since, self._last[0]) + self._patience

    async def _wait(self, since: float) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        # One for all of the wait, as another one would begin at the end of the line.
        place = asyncio.create_task(self._free.acquire())
        try:
            while not place.done():
                now = time.monotonic()
                if now >= self._deadline(since):
                    raise Unavailable(BUSY)
                if now >= since + LONGEST:
                    raise Unavailable(CROWDED)
                await asyncio.wait({place}, timeout=min(self._deadline(since), since + LONGEST) - now)
        except BaseException:
            if not place.cancel():  # it has just been had
                self._free.release()
            raise

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let nobody begin any more, wait for those who are at work, and have all places."""
        self._closed = True
        async with AsyncExitStack() as had:
            for _ in range(self._count):
                await self._free.acquire()
                had.callback(self._free.release)  # for those who wait, and are to be told
            yield


@dataclass
class Transaction:
    """A call of `Engine.transaction`, which what is called within it joins; one at a time."""

    engine: "Engine"
    sql: Sql
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    over: bool = False
    after_tool: str = ""  # a statement that is done once, before the first one of the work's own `sql`

    async def run(self, work: Work[T], commit: Callable[[], Awaitable[object]]) -> T:
        """Do `work`, and commit it."""
        _CURRENT.set(self)  # for this task, and for those that the work begins

        async def sql(statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]:
            async with self.turn:  # or a task that fails meanwhile would take this with its own
                if self.after_tool:
                    await self.sql(self.after_tool)
                    self.after_tool = ""
                return await self.sql(statement, parameters)

        try:
            result = await work(sql)
        finally:
            async with self.turn:  # what has been begun within is ended first
                self.over = True
        await commit()
        return result


# The transaction that the current task was begun in.
_CURRENT: ContextVar[Transaction | None] = ContextVar("todochat_transaction", default=None)


class Engine(ABC):
    """What the store needs of a database.

    Each unit of work happens whole or not at all, even if its caller is cancelled in the middle. All three raise
    `Unavailable` if the database cannot do it, or does nothing for the engine's patience, a few seconds.
    """

    shared = False  # whether other processes may work on the same database

    async def read(self, work: Work[T], *, long: bool = False, urgent: bool = False) -> T:
        """Do `work`, which only reads, on one state of the database. It does not wait for anybody who writes.

        A `long` one, such as a search, keeps no other read waiting but those that are `long` as well. What is `urgent`
        is not kept waiting by what is not, if several processes share the database.
        """
        return await whole(self._joined(work) or self._read(work, long, urgent))

    async def write(self, work: Work[T], *, lock: str | None = None, urgent: bool = False) -> T:
        """Do `work`, which takes no longer than its statements, in a transaction that may be shared with others.

        If that fails it is rolled back, and `work` may be done again from its beginning. Of the units with the same
        `lock`, on all processes, one is done at a time; such a unit cannot be a part of a `transaction`. `urgent` is as
        in `read`.
        """
        joined = self._joined(work)
        if joined is not None and lock is not None:
            joined.close()
            raise RuntimeError("a unit with a lock cannot be a part of a transaction")
        return await whole(joined or self._write(work, lock, urgent))

    async def transaction(self, work: Work[T]) -> T:
        """Do `work` in a transaction of its own, which each `read` and `write` that it calls becomes a part of.

        So `work` may call somebody else's code (a tool), of whose writes none must be without the others. It is never
        done twice. What it does by its own `sql` comes after that, and takes no longer than its statements.
        """
        return await whole(self._transaction(work))

    @abstractmethod
    async def lock(self, sql: Sql, name: str) -> None:
        """In a unit of work that writes: wait until no other one, on any process, has locked this name in this way.

        It is locked until the unit's transaction ends.
        """

    @abstractmethod
    async def close(self) -> None:
        """Wait for the units of work that are under way, then let go of the database. There is no way back."""

    # ---- what engines do differently ----

    @abstractmethod
    async def _read(self, work: Work[T], long: bool, urgent: bool) -> T: ...

    @abstractmethod
    async def _write(self, work: Work[T], lock: str | None, urgent: bool) -> T: ...

    @abstractmethod
    async def _transaction(self, work: Work[T]) -> T: ...

    @abstractmethod
    async def _apart(self, transaction: Transaction, work: Work[T]) -> T:
        """Do `work` so that it can fail without the rest of its transaction."""

    def _joined(self, work: Work[T]) -> Coroutine[Any, Any, T] | None:
        transaction = _CURRENT.get()
        if transaction is None or transaction.engine is not self or transaction.over:
            return None
        return self._within(transaction, work)

    async def _within(self, transaction: Transaction, work: Work[T]) -> T:
        async with transaction.turn:
            if transaction.over:
                raise Unavailable("The transaction that this belongs to is over.")
            return await self._apart(transaction, work)


async def open_engine(database: str, patience: float) -> Engine:
    """Open the database at the path of a file, or at a URL of PostgreSQL's. Raises `StoreError`."""
    # Each is imported where it is used only, as its driver may not be installed.
    if not database.startswith(POSTGRES):
        from todochat.engines.sqlite import SqliteEngine

        return await SqliteEngine.open(database, patience=patience)
    try:
        from todochat.engines.postgres import PostgresEngine
    except ImportError as error:
        raise StoreError("For PostgreSQL a driver is needed: pip install 'todochat[postgres]'") from error
    return await PostgresEngine.open(database, patience=patience)


_UNITS: set[asyncio.Task[Any]] = set()  # that are under way: asyncio itself keeps no task from the garbage collector


async def whole(work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]] = _UNITS) -> T:
    """Await what must be done whole even if the caller is cancelled; meanwhile it is one of `tasks`."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    task.add_done_callback(_noted)
    await asyncio.wait((task,))  # not `shield`: from Python 3.14 on that logs what fails when the caller has gone
    return task.result()


def _noted(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()  # or asyncio would complain, with its text, that nobody has looked, if the caller has gone
