"""The engine for one SQLite file, by aiosqlite: one process, one connection that writes, and two that only read.

Writers wait for each other; those that wait at the same time share a transaction, and so one sync of the disk. Readers
wait for no writer, as the file is in WAL mode. SQLite before 3.51.3 can lose data in that mode when two connections
write or checkpoint at the same instant: those that read do neither, and are closed first.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import finalize

import aiosqlite

from todochat.engines import Engine, Places, Row, Sql, StoreError, T, Transaction, Unavailable, Value, Work
from todochat.files import open_own

MEMORY = ":memory:"
SCHEMA = Path(__file__).parent.with_name("schema.sql")
SCHEMA_VERSION = 4
# From which version: what leads to the next one, beside the tables and indexes of schema.sql that are not there yet.
UPGRADES = {
    1: """
        ALTER TABLE messages ADD COLUMN reasoning TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE messages ADD COLUMN feedback TEXT CHECK (feedback IN ('positive', 'negative'));
    """,
    3: """
        ALTER TABLE messages ADD COLUMN owner TEXT;
        ALTER TABLE messages ADD COLUMN asked TEXT CHECK (asked = 'stopped');
        ALTER TABLE messages ADD COLUMN stop_readers INTEGER;
        ALTER TABLE conversations ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
        ALTER TABLE tasks ADD COLUMN due TEXT CHECK (due LIKE '____-__-__');
        ALTER TABLE tasks ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
        DROP INDEX IF EXISTS conversations_last_used_first;
        DROP INDEX IF EXISTS tasks_of_user;
        ALTER TABLE messages ADD COLUMN citations TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE messages ADD COLUMN input_tokens INTEGER;
        ALTER TABLE messages ADD COLUMN output_tokens INTEGER;
        ALTER TABLE conversations ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
        UPDATE conversations SET size = (
            SELECT COALESCE(SUM(100 + LENGTH(content) + LENGTH(tool_calls) + LENGTH(reasoning) + LENGTH(citations)), 0)
            FROM messages WHERE conversation_id = conversations.id AND status <> 'streaming'
        );
    """,
}
TABLES = {"conversations", "messages", "tasks"}

# What is trouble with the machine, and may pass; any other error of SQLite is a mistake of ours.
TROUBLE = {
    sqlite3.SQLITE_BUSY: "The database is in use by another program. Please try again in a moment.",
    sqlite3.SQLITE_LOCKED: "The database is in use by another program. Please try again in a moment.",
    sqlite3.SQLITE_PROTOCOL: "The database is in use by another program. Please try again in a moment.",
    sqlite3.SQLITE_NOMEM: "The server has too little memory at the moment. Please try again later.",
    sqlite3.SQLITE_PERM: "The database cannot be written at the moment. Please try again later.",
    sqlite3.SQLITE_READONLY: "The database cannot be written at the moment. Please try again later.",
    sqlite3.SQLITE_IOERR: "The database's disk does not answer. Please try again later.",
    sqlite3.SQLITE_CORRUPT: "The database is damaged. Its owner must restore it from a backup.",
    sqlite3.SQLITE_FULL: "The database's disk is full. Please try again later.",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened. Please try again later.",
    sqlite3.SQLITE_NOTADB: "The database is damaged. Its owner must restore it from a backup.",
}


@dataclass
class _Unit:
    """A unit of work that waits to be written, or is written."""

    work: Work[Any]
    since: float  # of `time.monotonic`: when it came
    done: asyncio.Future[Any] = field(default_factory=asyncio.Future)  # what comes of it


class SqliteEngine(Engine):
    """See the module. Made by `await SqliteEngine.open(path)`."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        readers: Sequence[aiosqlite.Connection],
        unlock: Callable[[], None],
        patience: float,
    ) -> None:
        self._writer, self._unlock = writer, finalize(self, unlock)  # also if it is never closed
        self._patience = patience
        # A connection is shared by all tasks: one at a time, or one's rollback would take another's statements.
        self._writing = Places(patience)
        self._readers = [(reader, Places(patience)) for reader in readers] or [(writer, self._writing)]
        self._waiting: list[_Unit] = []  # to be written
        self._writer_task: asyncio.Task[None] | None = None  # while something waits

    @classmethod
    async def open(cls, path: str, *, patience: float = 3.0) -> "SqliteEngine":
        """Open or create the file at `path` (":memory:" for none), and upgrade it to the schema of this program.

        `patience` is for how long, in seconds, the database may do nothing before a unit of work gives up.
        Raises `StoreError` if the file is in use by another process, read-only, corrupt, or not ours.
        """
        unlock = _lock(path) if path != MEMORY else lambda: None
        connections: list[aiosqlite.Connection] = []
        try:
            version = 0 if path == MEMORY else await asyncio.to_thread(_inspect, path)
            # One that writes, one that reads, and one for long reads; a database in memory is its connection's alone.
            for pragmas in (_WRITER, _READER, _READER)[: 1 if path == MEMORY else 3]:
                connection = await aiosqlite.connect(path, timeout=patience, isolation_level=None)
                connections.append(connection)
                connection.row_factory = sqlite3.Row
                for pragma in pragmas:
                    await connection.execute_fetchall(f"PRAGMA {pragma}")
                if pragmas is _WRITER:
                    await _upgrade(connection, version)
            return cls(connections[0], connections[1:], unlock, patience)
        except BaseException as error:
            for connection in connections:
                await connection.close()  # or its thread keeps the process from ending
            unlock()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"Cannot use the database {path}: {error}.") from error
            raise

    async def close(self) -> None:
        """See `Engine.close`."""
        async with self._writing.closed():
            for reader, reading in self._readers:
                if reader is not self._writer:
                    async with reading.closed():
                        await reader.close()
            await self._writer.close()
            self._unlock()

    # ---- units of work ----

    async def _read(self, work: Work[T], long: bool, urgent: bool) -> T:
        reader, reading = self._readers[-1 if long else 0]

        async def select(statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]:
            rows = list(await reader.execute_fetchall(statement, parameters))
            reading.note()
            return rows

        with _in_words():
            async with reading.place(time.monotonic()):
                await reader.execute_fetchall("BEGIN")
                try:
                    return await work(select)
                finally:
                    await reader.rollback()

    async def _write(self, work: Work[T], lock: str | None, urgent: bool) -> T:
        """Have it written with all that waits: units wait for each other, whatever their `lock`."""
        unit = _Unit(work, time.monotonic())
        self._waiting.append(unit)
        if self._writer_task is None or self._writer_task.done():
            self._writer_task = asyncio.create_task(self._write_what_waits())
        result: T = await unit.done
        return result

    async def _write_what_waits(self) -> None:
        while self._waiting:
            try:
                async with self._writing.place(self._waiting[0].since) as deadline:
                    units, self._waiting = self._waiting, []
                    await self._write_units(units, deadline)
            except Unavailable as error:  # it was not their turn in time, or is no longer
                self._waiting.pop(0).done.set_exception(error)

    async def _write_units(self, units: Sequence[_Unit], deadline: float) -> None:
        """Do all units in one transaction, or, if one of them fails, each in its own."""
        if len(units) == 1 or not await self._try_together(units, deadline):
            for unit in units:
                await self._do(unit, deadline)

    async def _try_together(self, units: Sequence[_Unit], deadline: float) -> bool:
        try:
            async with self._begun(deadline):
                results = [await unit.work(self._execute) for unit in units]
                await self._execute("COMMIT")
        except Exception:  # of one of them, which is told when it fails again, by itself
            return False
        for unit, result in zip(units, results, strict=True):
            unit.done.set_result(result)
        return True

    async def _do(self, unit: _Unit, deadline: float) -> None:
        try:
            with _in_words():
                async with self._begun(deadline):
                    result = await unit.work(self._execute)
                    await self._execute("COMMIT")
            unit.done.set_result(result)
        except Exception as error:  # goes to whoever waits for it
            unit.done.set_exception(error)

    async def _transaction(self, work: Work[T]) -> T:
        with _in_words():
            async with self._writing.place(time.monotonic()) as deadline, self._begun(deadline):
                transaction = Transaction(self, self._execute)
                return await transaction.run(work, lambda: self._execute("COMMIT"))

    async def lock(self, sql: Sql, name: str) -> None:
        """See `Engine.lock`: here only one writes at a time."""

    async def _apart(self, transaction: Transaction, work: Work[T]) -> T:
        """See `Engine._apart`."""
        with _in_words():
            await self._writer.execute_fetchall("SAVEPOINT work")
            try:
                return await work(self._execute)
            except Exception:  # which the tool may catch, and go on
                if self._writer.in_transaction:  # a full disk has rolled everything back
                    await self._writer.execute_fetchall("ROLLBACK TO work")
                raise
            finally:
                if self._writer.in_transaction:
                    await self._writer.execute_fetchall("RELEASE work")

    @asynccontextmanager
    async def _begun(self, deadline: float) -> AsyncIterator[None]:
        """Begin a transaction; what is not committed at the end is undone."""
        patience = int(1000 * max(0.0, deadline - time.monotonic()))
        # IMMEDIATE: a transaction that reads first and writes later could fail with BUSY whatever the timeout.
        await self._writer.executescript(f"PRAGMA busy_timeout = {patience}; BEGIN IMMEDIATE")
        try:
            yield
        finally:
            if self._writer.in_transaction:  # and it is not committed, and not undone by a full disk
                await self._writer.rollback()

    async def _execute(self, statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]:
        rows = list(await self._writer.execute_fetchall(statement, parameters))
        self._writing.note()
        return rows


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn SQLite's trouble with the machine into `Unavailable`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if (trouble := TROUBLE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)) is None:
            raise
        raise Unavailable(trouble) from error


# ---- the file ----

# FULL: what was acknowledged survives a power cut too.
_WRITER = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
_READER = ("query_only = ON", "wal_autocheckpoint = 0")


async def _upgrade(connection: aiosqlite.Connection, version: int) -> None:
    """Bring a file from a version of the schema (0: an empty one) to that of this program, in one transaction."""
    if version == SCHEMA_VERSION:
        return
    steps = [UPGRADES[v] for v in range(version, SCHEMA_VERSION) if version and v in UPGRADES]
    script = ["BEGIN IMMEDIATE;", *steps, SCHEMA.read_text(), f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"]
    await connection.executescript("\n".join(script))


_LOCKED: set[str] = set()  # the lock files of this process: closing one that was opened again would end its lock


def _lock(path: str) -> Callable[[], None]:
    """Take the file's lock for this process, and return what gives it back.

    It is SQLite's own lock, on an empty file beside the database: the same on every system, and in nobody's way. The
    operating system gives it back when the process ends, however it ends.
    """
    _refuse_unfit(path)
    try:
        with suppress(FileExistsError):  # what people write here is not for the other users of the machine
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        name = f"{os.path.realpath(path)}.lock"  # one for the file, whatever name leads to it
        if name in _LOCKED:
            raise StoreError(
                f"The database {path} is in use by another server, in this process. Set DATABASE_URL to another file."
            )
        _make_private(name)
        lock_file = sqlite3.connect(name, timeout=0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        raise StoreError(f"Cannot create files beside the database {path}: {reason}.") from error
    try:
        lock_file.execute("PRAGMA journal_mode = MEMORY")  # nothing is written: spare the folder another file
        lock_file.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock_file.close()
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY:
            raise StoreError(f"Cannot lock the database {path}: {error}.") from error
        raise StoreError(
            f"The database {path} is in use by another server. Stop that one, or set DATABASE_URL to another file."
        ) from error

    def unlock() -> None:
        lock_file.close()
        _LOCKED.discard(name)

    _LOCKED.add(name)
    return unlock


def _refuse_unfit(path: str) -> None:
    """Raise `StoreError` if what is at a path, if anything is, cannot be a database of ours."""
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise StoreError(f"The database {path} is not a file. Set DATABASE_URL to one.")
    if not os.stat(path).st_mode & 0o222:  # root could write it all the same
        raise StoreError(f"The database {path} is read-only. Make it writable, or set DATABASE_URL to another file.")
    if os.stat(path).st_nlink > 1:  # SQLite keeps its log beside the name, and two logs ruin the file
        raise StoreError(f"The database {path} has a second name (a hard link). Remove one of the two.")


def _make_private(path: str) -> None:
    """Make an empty file for its owner only, or see that the one which is there is ours. Raises `OSError`."""
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        if os.name == "posix":  # earlier versions left that to the process's umask
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _inspect(path: str) -> int:
    """Return the version of the schema in a file, 0 for a new one. Raises `StoreError` if it is none of ours.

    The file is only read: who is refused wants it back as it was.
    """
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as file:
        [(version,)] = file.execute("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The database {path} was written by a newer version of this program (schema {version}; this one knows "
                f"{SCHEMA_VERSION}). Start the newer program, or set DATABASE_URL to another file."
            )
        verdict = str(file.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict != "ok":
            raise StoreError(f"The database {path} is damaged ({verdict.splitlines()[0]}). Restore it from a backup.")
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not (tables >= TABLES if version > 0 else not tables and version == 0):
            raise StoreError(
                f"The database {path} belongs to another program, by its tables. Set DATABASE_URL to another file."
            )
        return int(version)


def backup(path: str, target: str) -> None:
    """Copy the database at `path` to the new file `target`, consistently, while a server writes to it or not.

    Raises `StoreError`; an existing file is never overwritten.
    """
    try:
        # Copying the file itself would miss what is still in its write-ahead log.
        target = os.path.abspath(target)  # for SQLite some other names are not files at all
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as source:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                source.execute("VACUUM INTO ?", (target,))
            except sqlite3.Error:
                os.unlink(target)
                raise
    except FileExistsError as error:
        raise StoreError(f"{target} exists already, and a backup overwrites nothing.") from error
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"Cannot copy {path} to {target}: {error}.") from error
