"""Moving from a SQLite file to PostgreSQL: `python app.py copy sqlite:///todochat.db postgresql://...`."""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from todochat.db import Store
from todochat.engines import POSTGRES, Row, Sql, StoreError, Value
from todochat.settings import database_path

# What there is to copy, each after what it refers to, with the columns that tell its rows apart. There are no live
# answers: opening the file ends what a crash has left in it, and no server may be using it.
TABLES = {
    "conversations": ("id",),
    "messages": ("id",),
    "idempotency_keys": ("user_id", "key"),
    "tasks": ("id",),
    "token_counts": ("day", "user_id"),
}
BOOLEANS = {"completed"}  # which SQLite has as 0 and 1
PAGE = 100  # rows at a time
PATIENCE = 60.0  # seconds


async def copy(source: str, target: str) -> dict[str, int]:
    """Copy everything from the database at one URL to that at another; return how many rows of each table there were.

    What was written is read again, and compared, before any of it is kept. Raises `StoreError` if the file is not
    there or in use, the target is not empty, or what came back is not what was written; and what `Store.open` raises.
    """
    file, server = _databases(source, target)
    old = await Store.open(file)
    try:
        new = await Store.open(server, patience=PATIENCE)
        try:
            return await old.engine.read(lambda read: new.engine.transaction(lambda write: _copy(read, write)))
        finally:
            await new.close()
    finally:
        await old.close()


def _databases(source: str, target: str) -> tuple[str, str]:
    """Return what `Store.open` takes for the two URLs."""
    try:
        file, server = database_path(source), database_path(target)
    except ValueError as error:
        raise StoreError(f"One of the two URLs cannot be used: {error}.") from error
    if file.startswith(POSTGRES) or not server.startswith(POSTGRES):
        raise StoreError("This copies from sqlite:///path to postgresql://user:password@host/database.")
    if not os.path.isfile(file):  # opening it would make it
        raise StoreError(f"There is no database {file}.")
    return file, server


async def _copy(read: Sql, write: Sql) -> dict[str, int]:
    for table in TABLES:
        await write(f"LOCK TABLE {table} IN EXCLUSIVE MODE")  # nobody writes while it is filled
        if await write(f"SELECT 1 FROM {table} LIMIT 1"):
            raise StoreError("The target is not empty: copy to a new database, or drop its schema `todochat` first.")
    counts = dict.fromkeys(TABLES, 0)
    for table, keys in TABLES.items():
        async with aclosing(_pages(read, table, keys)) as pages, aclosing(_pages(write, table, keys)) as copies:
            async for page in pages:
                await _insert(write, table, page)
                if await anext(copies, None) != page:
                    raise StoreError(f"The copy of {table} is not what was there, so nothing was copied.")
                counts[table] += len(page)
    for row in await read("SELECT name, seq FROM sqlite_sequence"):  # ids are never reused, those of deleted rows too
        await write("SELECT setval(pg_get_serial_sequence(?, 'id'), ?)", (row["name"], row["seq"]))
    return counts


async def _pages(sql: Sql, table: str, keys: Sequence[str]) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Yield all rows of a table, some at a time, in the order of their keys."""
    names, places = ", ".join(keys), ", ".join("?" * len(keys))
    after: list[Value] = []
    while True:
        behind = f"WHERE ({names}) > ({places})" if after else ""
        page = [
            _plain(row) for row in await sql(f"SELECT * FROM {table} {behind} ORDER BY {names} LIMIT {PAGE}", after)
        ]
        if page:
            yield page
        if len(page) < PAGE:
            return
        after = [page[-1][key] for key in keys]


def _plain(row: Row) -> dict[str, Any]:
    """Return a row as both engines have it: with real booleans, and without the NUL that PostgreSQL's texts lack."""
    plain = {**row}
    for name, value in plain.items():
        if isinstance(value, str):
            plain[name] = value.replace("\0", "\ufffd")
        elif name in BOOLEANS:
            plain[name] = bool(value)
    return plain


async def _insert(sql: Sql, table: str, page: Sequence[dict[str, Any]]) -> None:
    row = f"({', '.join('?' * len(page[0]))})"
    await sql(
        f"INSERT INTO {table} ({', '.join(page[0])}) VALUES {', '.join([row] * len(page))}",
        [value for values in page for value in values.values()],
    )
