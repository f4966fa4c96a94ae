"""Where the SQL runs. An engine knows connections, transactions, locks and retries, and nothing of what is stored.

The store (db.py) hands an engine units of work: async functions of `sql`, by which they run their statements. The
engines speak one subset of SQL, with `?` for a parameter.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Value = str | int | None

POSTGRES = ("postgresql://", "postgres://", "postgresql+psycopg://")
BUSY = "The database is busy. Please try again in a moment."
LONGEST = 30.0  # seconds that a unit of work waits for others, however much they get on


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

    A unit waits for `patience` seconds, which are counted anew whenever another one gets on, but not for ever. So a
    service that has too much to do is slow, and only a database that does not answer is said to be busy.
    """

    def __init__(self, patience: float, count: int = 1) -> None:
        self._patience, self._count = patience, count
        self._free = asyncio.Semaphore(count)
        self._moved = 0.0  # when a unit got on last, on the monotonic clock
        self._closed = False

    def moved(self) -> None:
        """Note that a unit gets on: it is done, or at least one of its statements."""
        self._moved = time.monotonic()

    @asynccontextmanager
    async def place(self, deadline: float | None = None) -> AsyncIterator[float]:
        """Have a place; yields the deadline for what is done there. Raises `Unavailable` if none is free in time.

        `deadline` is until when this waits if nobody gets on, by default for the patience. Both are times of
        `time.monotonic`.
        """
        begun = time.monotonic()
        until = begun + self._patience if deadline is None else deadline

        def extended() -> float:
            return max(until, min(self._moved + self._patience, begun + LONGEST))

        await self._wait(extended)
        try:
            if self._closed:
                raise Unavailable("The server is shutting down. Please try again in a moment.")
            yield extended()
        finally:
            self._free.release()

    async def _wait(self, deadline: Callable[[], float]) -> None:
        """Wait for a place until the deadline, which moves."""
        loop = asyncio.get_running_loop()
        timer: asyncio.Handle

        def look() -> None:
            nonlocal timer
            if (left := deadline() - time.monotonic()) > 0:
                timer = loop.call_later(left, look)
            else:
                limit.reschedule(loop.time())

        try:
            # One `acquire` for all of it: another one would begin at the end of the line.
            async with asyncio.timeout(None) as limit:
                timer = loop.call_soon(look)
                try:
                    await self._free.acquire()
                finally:
                    timer.cancel()
        except TimeoutError:
            raise Unavailable(BUSY) from None

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let nobody begin any more, wait for those who are at work, and have all places."""
        self._closed = True
        for _ in range(self._count):
            await self._free.acquire()
        try:
            yield
        finally:
            for _ in range(self._count):  # for those who wait, and are to be told
                self._free.release()


@dataclass
class Transaction:
    """A call of `Engine.transaction`, which what is called within it joins; one at a time."""

    engine: "Engine"
    sql: Sql
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    over: bool = False

    async def run(self, work: Work[T], commit: Callable[[], Awaitable[object]]) -> T:
        """Do `work`, and commit it."""
        _CURRENT.set(self)  # for this task, and for those that the work begins

        async def sql(statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]:
            async with self.turn:  # or a task that fails meanwhile would take this with its own
                return await self.sql(statement, parameters)

        try:
            result = await work(sql)
            async with self.turn:  # what has been begun within is ended first
                self.over = True
                await commit()
            return result
        finally:
            async with self.turn:
                self.over = True


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
        return await _whole(self._joined(work) or self._read(work, long, urgent))

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
        return await _whole(joined or self._write(work, lock, urgent))

    async def transaction(self, work: Work[T]) -> T:
        """Do `work` in a transaction of its own, which each `read` and `write` that it calls becomes a part of.

        So `work` may call somebody else's code (a tool), of whose writes none must be without the others. It is never
        done twice. What it does by its own `sql` comes after that, and takes no longer than its statements.
        """
        return await _whole(self._transaction(work))

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


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Await what must be done whole even if the caller is cancelled."""
    task = asyncio.create_task(work)
    task.add_done_callback(_noted)
    return await asyncio.shield(task)


def _noted(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()  # or asyncio would complain, with its text, that nobody has looked, if the caller is gone
