"""The engine for PostgreSQL, by psycopg: any number of processes, each with a few connections.

Nothing here needs a session of the server (no prepared statement, no LISTEN, no SET that stays), so that a pooler in
transaction mode may stand between: each transaction says what it needs in the same trip as its BEGIN.

A server restarts, fails over, freezes, and lines are lost. Work that is lost before its COMMIT was sent is done again,
unless it is a tool's. When a COMMIT is not answered, a row that was written with the work tells what became of it (the
table `commits`).
"""

import asyncio
import itertools
import logging
import re
import secrets
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo, TransactionStatus
from psycopg.rows import dict_row

from todochat.engines import BUSY, Engine, Places, Row, Sql, StoreError, T, Transaction, Unavailable, Value, Work
from todochat.logs import Sparing

SCHEMA = Path(__file__).with_name("postgres.sql")
SCHEMA_VERSION = 1
UPGRADES: dict[int, str] = {}  # from which version: the statements that lead to the next one

CONNECTIONS = 8  # of a process, at most
KEPT = 3  # of these, the ones that are not for tools, which may take their time; one of them is for what is urgent
LONG = 2  # of these, the ones that long reads may have
TOOL_IDLES = 60  # seconds that a tool may spend without a statement
GRACE = 1.0  # seconds after its patience, at which a server that does not even say that it is busy is given up
PAUSE = 0.05  # seconds before work is done again
UPGRADE_TAKES = 600.0  # seconds, at most
ATTEMPTS = 3  # at work that finds changed what it has just read
LOCKS = 0x746F646F  # the class of our advisory locks of whole units; the next one is that of `Engine.lock`

GONE = "The database does not answer at the moment. Please try again."
READ_ONLY = "The database cannot be written at the moment. Please try again later."
# By SQLSTATE, or its class. What is in neither table is a mistake of ours.
TROUBLE = {
    "25006": READ_ONLY,
    "53100": "The database's disk is full. Please try again later.",
    "53": "The database has no room for this at the moment. Please try again later.",
    "55P03": BUSY,  # a lock was not to be had
    "57014": BUSY,  # a statement, or the wait for a lock, took longer than the patience
    "58": "The database's disk does not answer. Please try again later.",
    "XX": "The database has failed. Its owner will find the reason in its log.",
}
LOST = {"08", "25006", "25P03", "57P01", "57P02", "57P03", "57P05"}  # the connection leads nowhere any more
AGAIN = {"40001", "40P01"}  # a victim of others


class _Again(Unavailable):
    """What nothing has come of, and may be done again at once."""


@dataclass(frozen=True)
class _Kind:
    """A kind of transaction."""

    begin: str = "BEGIN"
    marked: bool = False  # whether its commit can be asked for afterwards
    tool: bool = False
    lock: str | None = None  # the name that it locks


_READ = _Kind("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_WRITE = _Kind(marked=True)
_TOOL = _Kind(marked=True, tool=True)
_UNMARKED = _Kind()


class _Connection:
    """A connection to the server, and the transaction on it."""

    def __init__(
        self, driver: psycopg.AsyncConnection[dict[str, Any]], patience: float, note: Callable[[], None]
    ) -> None:
        self.driver = driver
        self._cursor = driver.cursor()  # one for all statements: making it is a good part of what a statement costs
        self.name = secrets.token_hex(8)
        self.unit = 0
        self._patience = patience
        self._note = note  # called for each statement that is done
        self._until: float | None = None  # when the server is given up; None: after the patience, anew each time

    async def begin(self, kind: _Kind, deadline: float) -> None:
        """Begin a transaction that is to be over at `deadline` (of `time.monotonic`), in one trip."""
        left = max(0.1, deadline - time.monotonic())
        # One that has been idle for long may lead nowhere without anybody having said so: leave time for another one.
        self._until = deadline + GRACE if self.unit == 0 else deadline - left / 2
        self.unit += 1
        wait = int(1000 * (self._patience if kind.tool else left))
        statements = [
            f"{kind.begin}; SET LOCAL search_path = todochat, pg_temp; SET LOCAL statement_timeout = {wait}",
            _idles(TOOL_IDLES if kind.tool else 2 * wait / 1000),
        ]
        if kind.marked:
            statements.append(
                f"INSERT INTO commits (connection, unit) VALUES ('{self.name}', {self.unit})"
                " ON CONFLICT (connection) DO UPDATE SET unit = excluded.unit, at = excluded.at"
            )
        if kind.tool:
            statements.append("SAVEPOINT work")
        if kind.lock is not None:  # by a number: several statements in one trip cannot have parameters
            statements.append(f"SELECT pg_advisory_xact_lock({LOCKS}, {_number_of(kind.lock)})")
        await self._execute("; ".join(statements).encode())
        self._until = None if kind.tool else deadline + GRACE

    async def sql(self, statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]:
        """Run a statement (see `Sql`), in one trip."""
        # PostgreSQL's texts have no NUL.
        values = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in parameters]
        cursor = await self._execute(_translated(statement), values)
        return [] if cursor.rownumber is None else await cursor.fetchall()  # by the cheaper sign that there are rows

    async def commit(self) -> None:
        """Commit; raises `_Again` if the connection is lost with it."""
        cursor = await self._execute(b"COMMIT")
        if cursor.statusmessage != "COMMIT":  # PostgreSQL says so in no other way
            raise RuntimeError("a statement has failed, but not the work that it belongs to")

    async def end(self) -> bool:
        """Undo what is not committed; return whether the connection can be used again."""
        if not self.driver.closed and self.driver.pgconn.transaction_status != TransactionStatus.IDLE:
            with suppress(Unavailable):
                await self.sql("ROLLBACK")
        return not self.driver.closed and self.driver.pgconn.transaction_status == TransactionStatus.IDLE

    async def _execute(
        self, statement: bytes, values: Sequence[Value] | None = None
    ) -> psycopg.AsyncCursor[dict[str, Any]]:
        left = self._patience + GRACE if self._until is None else self._until - time.monotonic()
        # Cancelling would ask the server, which does not answer, and wait for that.
        timer = asyncio.get_running_loop().call_later(left, self._cut)
        try:
            cursor = await self._cursor.execute(statement, values)
            self._note()
            return cursor
        except psycopg.Error as error:
            state = error.sqlstate or ""
            if {state, state[:2]} & LOST:
                await self.driver.close()
            sentence = TROUBLE.get(state) or TROUBLE.get(state[:2])
            if self.driver.closed or state in AGAIN:
                raise _Again(sentence or GONE) from error
            if sentence is None:
                raise
            raise Unavailable(sentence) from error
        finally:
            timer.cancel()

    def _cut(self) -> None:
        with (
            suppress(OSError, psycopg.Error),
            socket.fromfd(self.driver.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)


class PostgresEngine(Engine):
    """See the module. Made by `await PostgresEngine.open(url)`."""

    shared = True

    def __init__(self, parameters: dict[str, Any], patience: float) -> None:
        self._parameters, self._patience = parameters, patience
        self._idle: list[_Connection] = []
        # Each unit needs an ordinary or an urgent place, which stands for a connection. A tool or a long read needs
        # another one too, so that only so many run at a time.
        self._ordinary = Places(patience, CONNECTIONS - 1)
        self._urgent = self._ordinary.beside(1)
        self._tools, self._long_reads = self._ordinary.beside(CONNECTIONS - KEPT), self._ordinary.beside(LONG)
        self._lines: WeakValueDictionary[str, Places] = WeakValueDictionary()  # by the name that is locked
        self._log = Sparing()

    @classmethod
    async def open(cls, url: str, *, patience: float = 3.0) -> "PostgresEngine":
        """Connect to the database at `url`, and make or upgrade the schema `todochat` in it.

        `patience` is for how long, in seconds, the database may do nothing before a unit of work gives up.
        Raises `StoreError` if the URL is wrong, the server cannot be used, or the schema is not ours.
        """
        engine = cls(_parameters(url), patience)
        try:
            engine._idle.append(await engine._connect(patience))
            # Not _READ: somebody else may make the tables just now, which are seen sooner than what is in them there.
            if await engine._unit(_UNMARKED, lambda connection: _version(connection.sql)) != SCHEMA_VERSION:
                await engine._insist(_UNMARKED, _upgrade, time.monotonic() + UPGRADE_TAKES)
            return engine
        except (psycopg.Error, Unavailable, OSError) as error:
            reason = _reason(error)
        except BaseException:
            await engine.close()
            raise
        await engine.close()
        # Not from the driver's error, which knows the password.
        raise StoreError(f"Cannot use the database of DATABASE_URL: {reason}.")

    async def close(self) -> None:
        """See `Engine.close`."""
        async with self._ordinary.closed(), self._urgent.closed():
            await self._close_idle()

    # ---- units of work ----

    async def _read(self, work: Work[T], long: bool, urgent: bool) -> T:
        places = (self._urgent,) if urgent else (self._long_reads, self._ordinary) if long else (self._ordinary,)
        return await self._unit(_READ, lambda connection: work(connection.sql), *places)

    async def _write(self, work: Work[T], lock: str | None, urgent: bool) -> T:
        async def write(connection: _Connection) -> T:
            result = await work(connection.sql)
            await self._commit(connection)
            return result

        if lock is None:
            return await self._unit(_WRITE, write, self._urgent if urgent else self._ordinary)
        # One after the other here, too: or those who wait for one name would have all connections.
        line = self._lines.setdefault(lock, self._ordinary.beside(1))
        return await self._unit(replace(_WRITE, lock=lock), write, line, self._ordinary)

    async def _transaction(self, work: Work[T]) -> T:
        async def run(connection: _Connection) -> T:
            transaction = Transaction(self, connection.sql, after_tool=_idles(2 * self._patience))
            return await transaction.run(work, lambda: self._commit(connection))

        return await self._unit(_TOOL, run, self._tools, self._ordinary)

    async def lock(self, sql: Sql, name: str) -> None:
        """See `Engine.lock`."""
        await sql("SELECT pg_advisory_xact_lock(?, ?)", (LOCKS + 1, _number_of(name)))

    async def _apart(self, transaction: Transaction, work: Work[T]) -> T:
        """See `Engine._apart`."""
        await transaction.sql("RELEASE SAVEPOINT work; SAVEPOINT work")
        try:
            return await work(transaction.sql)
        except Exception:  # which the tool may catch, and go on
            with suppress(Unavailable):
                await transaction.sql("ROLLBACK TO SAVEPOINT work")
            raise

    async def _unit(self, kind: _Kind, work: Callable[[_Connection], Awaitable[T]], *needed: Places) -> T:
        """Do `work` in a transaction, as soon as there is a place of each of these kinds, which are waited for in turn.

        What `work` does not commit itself is undone.
        """
        since = time.monotonic()
        deadline = since + self._patience
        async with AsyncExitStack() as stack:
            for places in needed:
                deadline = await stack.enter_async_context(places.place(since))
            return await self._insist(kind, work, deadline)

    async def _insist(self, kind: _Kind, work: Callable[[_Connection], Awaitable[T]], deadline: float) -> T:
        """Do `work` in a transaction; if that is lost, again, until the deadline."""
        told: Exception | None = None
        for attempt in itertools.count(1):
            begun = False
            try:
                async with self._connection(deadline) as connection:
                    await connection.begin(kind, deadline)
                    begun = True
                    return await work(connection)
            except (_Again, psycopg.IntegrityError) as error:
                # An integrity error is somebody elsewhere who has changed what this had read, or a mistake of ours.
                if (begun and kind.tool) or (attempt >= ATTEMPTS and not isinstance(error, _Again)):
                    raise
                if begun or told is None:  # who was let in by the server knows more than who was not
                    told = error
                if time.monotonic() + PAUSE > deadline:
                    raise told from told.__cause__
            await asyncio.sleep(PAUSE)
        raise AssertionError("unreachable")

    async def _commit(self, connection: _Connection) -> None:
        try:
            await connection.commit()
        except _Again:
            if not connection.driver.closed or not await self._is_committed(connection):
                raise

    async def _is_committed(self, lost: _Connection) -> bool:
        """Ask what became of a transaction whose COMMIT was not answered. Raises `Unavailable` if nobody knows.

        Not pg_xact_status: after a crash the server gives the ids of transactions it has lost to others.
        """

        async def ask(other: _Connection) -> bool:
            # It waits for the lost transaction, if that is not over: so no SELECT.
            [row] = await other.sql(
                """
                INSERT INTO commits (connection, unit) VALUES (?, 0)
                ON CONFLICT (connection) DO UPDATE SET at = excluded.at RETURNING unit
                """,
                (lost.name,),
            )
            return bool(row["unit"] == lost.unit)

        await self._close_idle()  # they lead to the same server
        try:
            return await self._insist(_UNMARKED, ask, time.monotonic() + self._patience)
        except Unavailable as error:  # no `_Again`: what may have been committed must not be done again
            raise Unavailable(GONE) from error

    # ---- connections ----

    @asynccontextmanager
    async def _connection(self, deadline: float) -> AsyncIterator[_Connection]:
        """Have a connection for this task alone."""
        connection = self._idle.pop() if self._idle else await self._try_to_connect(deadline)
        try:
            yield connection
        finally:
            if await connection.end():
                self._idle.append(connection)
            else:
                await connection.driver.close()
                await self._close_idle()  # they lead to the same server

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().driver.close()

    async def _try_to_connect(self, deadline: float) -> _Connection:
        try:
            return await self._connect(max(0.1, deadline - time.monotonic()))
        except (psycopg.Error, OSError) as error:
            self._log.note(logging.ERROR, "cannot connect to the database", _reason(error))  # not for each attempt
            raise _Again(GONE) from error

    async def _connect(self, seconds: float) -> _Connection:
        async with asyncio.timeout(seconds):
            driver = await psycopg.AsyncConnection.connect(
                **self._parameters, autocommit=True, prepare_threshold=None, row_factory=dict_row
            )
        return _Connection(driver, self._patience, self._ordinary.note)


def _number_of(name: str) -> int:
    """Return the number by which a name is locked; another name may have it too, and then waits in vain."""
    return zlib.crc32(name.encode()) - 2**31


def _idles(seconds: float) -> str:
    """Return the statement that bounds how long a transaction may do nothing: it may have locked what others need."""
    return f"SET LOCAL idle_in_transaction_session_timeout = {1000 * seconds:.0f}"


def _translated(statement: str) -> bytes:
    """Return a statement with psycopg's placeholders."""
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _reason(error: Exception) -> str:
    """Return what an error says, in a line that names no password."""
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    said = (isinstance(error, psycopg.Error) and error.diag.message_primary) or str(error)
    return said.splitlines()[0].removeprefix("connection failed: ").split("FATAL:  ")[-1].rstrip(".")


# ---- the URL ----

_HOST = r"(?:[\w.-]+|\[[\da-fA-F:.]+\]|%2[fF][\w.%/-]*)?(?::\d*)?"
_URL = re.compile(
    rf"postgres(?:ql)?(?:\+psycopg)?://(?:[^/@\s]*@)?{_HOST}(?:,{_HOST})*(?:/[^/?#@\s]*)?(?:\?([^@#\s]*))?", re.ASCII
)
# A server that is gone without a word is noticed.
OURS = (
    "client_encoding=UTF8 fallback_application_name=todochat "
    "keepalives_idle=30 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=8000"
)


def _parameters(url: str) -> dict[str, Any]:
    """Return what psycopg is to connect with. Raises `StoreError`, which quotes nothing that could be a password."""
    found = _URL.fullmatch(url)
    if found is None or re.search("%(?![0-9a-fA-F]{2})", url):
        raise StoreError(
            "DATABASE_URL must look like postgresql://user:password@host:5432/database. In the user and the password "
            "write %40 for @, %2F for / and %25 for %."
        )
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    for name, _ in parse_qsl(found[1] or "", keep_blank_values=True):
        if name not in known:
            raise StoreError(f"DATABASE_URL has a parameter that PostgreSQL does not know: {name!r}. Remove it.")
    parameters: dict[str, Any] | None = None
    with suppress(psycopg.Error):
        parameters = conninfo_to_dict(url.replace("+psycopg://", "://", 1))
    if parameters is None:  # not raised from the driver's error, which may quote any part of the URL
        raise StoreError("DATABASE_URL has parameters that PostgreSQL does not understand.")
    several = "," in str(parameters.get("host", ""))  # one that is silent must leave time for the others
    return conninfo_to_dict(OURS) | parameters | ({"connect_timeout": "2"} if several else {})


# ---- the schema ----


async def _version(sql: Sql) -> int:
    """Return the version of the schema, 0 if there is none. Raises `StoreError` if it is none of ours."""
    [found] = await sql(
        """
        SELECT to_regclass('todochat.version') IS NOT NULL AS ours, current_setting('server_encoding') AS encoding,
            EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace('todochat')) AS in_use
        """
    )
    if found["encoding"] != "UTF8":
        raise StoreError(f"The database has the encoding {found['encoding']}, and needs UTF8.")
    if not found["ours"]:
        if found["in_use"]:
            raise StoreError("The schema todochat in the database belongs to another program, by its tables.")
        return 0
    [row] = await sql("SELECT schema FROM version")
    version = int(row["schema"])
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"The database was written by a newer version of this program (schema {version}; this one knows "
            f"{SCHEMA_VERSION}). Start the newer program, or set DATABASE_URL to another database."
        )
    return version


async def _upgrade(connection: _Connection) -> None:
    """Bring the database from whatever version it has to that of this program, in one transaction."""
    sql = connection.sql
    await sql("SELECT pg_advisory_xact_lock(?, 0)", (LOCKS,))  # several processes may start at once
    version = await _version(sql)
    if version == 0:
        if not await sql("SELECT 1 FROM pg_namespace WHERE nspname = 'todochat'"):  # or its owner has made it for us
            await sql("CREATE SCHEMA todochat")
        await sql(SCHEMA.read_text())
        await sql("INSERT INTO version (schema) VALUES (?)", (SCHEMA_VERSION,))
    for step in range(version, SCHEMA_VERSION) if version else ():
        await sql(UPGRADES[step])
        await sql("UPDATE version SET schema = ?", (step + 1,))
    await connection.commit()
