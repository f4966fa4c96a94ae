"""What a file must be to be opened, what of earlier versions is taken over, and trouble with files."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import opened

from todochat import db
from todochat.db import Limits, Store, TurnRequest
from todochat.engines import StoreError, Unavailable
from todochat.events import fold, unfold
from turns import EVENTS, answer_of, append, begin

pytestmark = pytest.mark.anyio


def rows(folder: Path, sql: str) -> list[Any]:
    """Look into the file beside the store."""
    with closing(sqlite3.connect(folder / "chat.db")) as database:
        return database.execute(sql).fetchall()


async def test_what_a_crash_left_streaming_is_interrupted_after_the_restart(tmp_path: Path) -> None:
    """What says `streaming` when the file is opened becomes `interrupted`, with all of it that was saved."""
    async with opened(tmp_path) as store:
        turns = [await begin(store) for _ in range(2)]
        await append(store, turns[0], 0, *EVENTS[:3])
        await append(store, turns[0], 3, *EVENTS[3:4])
        (tmp_path / "crashed").mkdir()
        for name in ("chat.db", "chat.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "crashed" / name)
    async with opened(tmp_path / "crashed") as store:
        interrupted = {"status": "interrupted", "error": db.INTERRUPTED}
        for turn, events in zip(turns, (EVENTS[:4], []), strict=True):
            assert await answer_of(store, turn) == turn.answer | fold(events) | interrupted
        assert rows(tmp_path / "crashed", "SELECT * FROM live_events") == []
        await begin(store, conversation=turns[0].conversation["id"])


# ---- files of earlier versions ----

EARLIER = """
    INSERT INTO conversations VALUES (1, 'alice', 'old', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z');
    INSERT INTO messages (id, conversation_id, role, content, status, created_at)
    VALUES (1, 1, 'user', 'hi', 'done', ''), (2, 1, 'assistant', 'Hello.', 'done', ''),
        (3, 1, 'user', 'on', 'done', '');
    INSERT INTO messages (id, conversation_id, role, content, tool_calls, status, created_at) VALUES
    (4, 1, 'assistant', 'Half', '[{"id":"1","name":"add_task","args":{},"result":7,"at":4}]', 'streaming', '');
    INSERT INTO tasks (user_id, title, created_at, updated_at) VALUES ('alice', 'old', '', '');
"""


def write_earlier(folder: Path, version: int) -> None:
    """Write a file of an earlier version, as it is when the server was killed in the middle of an answer."""
    schema = (Path(__file__).parent / f"schema_v{version}.sql").read_text()
    with closing(sqlite3.connect(folder / "chat.db")) as database:
        database.executescript(f"{schema}; {EARLIER}; PRAGMA user_version = {version}; PRAGMA journal_mode = WAL;")
        if version >= 2:
            thought = '[{"text":"Hm.","at":0,"calls":0}]'
            database.execute("UPDATE messages SET reasoning = ?, feedback = 'positive' WHERE id = 4", (thought,))
            database.commit()


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_file_of_an_earlier_version_is_upgraded_with_a_live_answer_in_it(tmp_path: Path, version: int) -> None:
    """An older file is taken over in place; an answer that was `streaming` keeps what it had, and is interrupted."""
    write_earlier(tmp_path, version)
    for _ in range(2):  # the second time there is nothing to upgrade
        async with opened(tmp_path) as store:
            conversation = await store.get_conversation("alice", 1)
            assert conversation is not None
            *_, hello, on, half = conversation["messages"]
            assert [hello["content"], hello["status"], on["content"]] == ["Hello.", "done", "on"]
            assert (half["content"], half["status"], half["error"]) == ("Half", "interrupted", db.INTERRUPTED)
            assert half["tool_calls"] == [{"id": "1", "name": "add_task", "args": {}, "result": 7, "at": 4}]
            assert half["reasoning"] == ([{"text": "Hm.", "at": 0, "calls": 0}] if version > 1 else [])
            assert half["citations"] == []
            assert half["feedback"] == ("positive" if version > 1 else None)
            assert [task["title"] for task in await store.list_tasks("alice")] == ["old"]
    assert rows(tmp_path, "PRAGMA user_version") == [(4,)]
    (tmp_path / "new").mkdir()
    async with opened(tmp_path / "new"), opened(tmp_path) as store:
        table = "SELECT name, sql FROM sqlite_master ORDER BY name"
        assert [name for name, _ in rows(tmp_path, table)] == [name for name, _ in rows(tmp_path / "new", table)]
        for table in ("conversations", "messages", "tasks"):
            columns = f"SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('{table}') ORDER BY name"
            assert rows(tmp_path, columns) == rows(tmp_path / "new", columns)
        indexes = "SELECT m.name, i.name FROM sqlite_master m, pragma_index_info(m.name) i ORDER BY m.name, i.seqno"
        assert rows(tmp_path, indexes) == rows(tmp_path / "new", indexes)
        turn = await begin(store, conversation=1)
        assert [m["content"] for m in turn.history] == ["hi", "Hello.", "on", "Half", "hi"]
        await append(store, turn, 0, *EVENTS)
        assert (await answer_of(store, turn))["content"] == "One two."


async def test_a_table_of_our_schema_unfolds_what_an_earlier_version_stored(tmp_path: Path) -> None:
    """What an earlier version stored is shown as the events that it was."""
    write_earlier(tmp_path, 2)
    async with opened(tmp_path) as store:
        half = await store.get_message("alice", 4)
    assert half is not None
    assert [event["type"] for event in unfold(half)] == [
        *("started", "thinking", "text", "tool_call", "tool_result", "error")
    ]


# ---- what it refuses ----


async def refused(path: Path, says: str) -> None:
    """Check that the file is refused with a sentence, and left as it was."""
    before = (path / "chat.db").read_bytes()
    with pytest.raises(StoreError, match=says):
        await Store.open(str(path / "chat.db"))
    assert (path / "chat.db").read_bytes() == before


@pytest.mark.parametrize("version", [5, 99])
async def test_a_file_from_a_newer_version_is_refused(tmp_path: Path, version: int) -> None:
    """A file that a newer program wrote is refused and stays as it is."""
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {version}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE from_the_future (x)")
        shutil.copy(tmp_path / "chat.db", tmp_path / "copy.db")
        shutil.copy(tmp_path / "chat.db-wal", tmp_path / "copy.db-wal")  # as a crash leaves it
    for name in ("chat.db", "chat.db-wal"):
        (tmp_path / name.replace("chat", "copy")).replace(tmp_path / name)
    log = (tmp_path / "chat.db-wal").read_bytes()
    await refused(tmp_path, "newer version")
    assert (tmp_path / "chat.db-wal").read_bytes() == log


@pytest.mark.parametrize("damage", [0, 4096 * 2])
async def test_a_damaged_file_is_refused(tmp_path: Path, damage: int) -> None:
    """A file that is no database, or one with a damaged page, is refused and stays as it is."""
    async with opened(tmp_path) as store:
        for n in range(200):
            await store.add_task("alice", f"task {n} " + "x" * 100)
    content = bytearray((tmp_path / "chat.db").read_bytes())
    content[damage : damage + 4096] = b"garbage " * 512
    (tmp_path / "chat.db").write_bytes(content)
    await refused(tmp_path, "not a database|damaged|malformed")


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, -5])
@pytest.mark.parametrize("table", ["tasks", "users"])
async def test_another_programs_database_is_refused(tmp_path: Path, version: int, table: str) -> None:
    """A database with tables that are not ours, whatever version it has, is refused and stays as it is."""
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as database:
        database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, what TEXT)")
        database.execute(f"PRAGMA user_version = {version}")
    await refused(tmp_path, "belongs to another program")


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder in the place of the file is one sentence."""
    (tmp_path / "chat.db").mkdir()
    with pytest.raises(StoreError, match="is not a file"):
        await Store.open(str(tmp_path / "chat.db"))


async def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    """A hard link to the file would have a log of its own, so neither name is taken while there are two."""
    async with opened(tmp_path):
        pass
    (tmp_path / "other.db").hardlink_to(tmp_path / "chat.db")
    await refused(tmp_path, "second name")
    (tmp_path / "other.db").unlink()
    async with opened(tmp_path) as store:
        await store.ping()


async def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    """A file without write permission is refused, even for root, who could write it all the same."""
    async with opened(tmp_path):
        pass
    (tmp_path / "chat.db").chmod(0o444)
    await refused(tmp_path, "read-only")


async def test_a_missing_folder_is_an_error_in_words(tmp_path: Path) -> None:
    """A path that cannot be created is one sentence."""
    with pytest.raises(StoreError, match="Cannot create"):
        await Store.open(str(tmp_path / "nowhere" / "chat.db"))


async def test_a_file_in_use_is_refused(tmp_path: Path) -> None:
    """One process owns a file: a second store on it is refused, and works once the first is closed."""
    async with opened(tmp_path):
        with pytest.raises(StoreError, match="in use by another server"):
            await Store.open(str(tmp_path / "chat.db"))
        (tmp_path / "other.db").symlink_to(tmp_path / "chat.db")
        with pytest.raises(StoreError, match="in use by another server"):
            await Store.open(str(tmp_path / "other.db"))
        # Nor have these two taken the lock away, which the operating system has for a process and not for a store.
        assert "database is locked" in locked_elsewhere(tmp_path / "chat.db.lock")
    assert locked_elsewhere(tmp_path / "chat.db.lock") == ""
    async with opened(tmp_path) as store:
        await store.ping()


def locked_elsewhere(path: Path) -> str:
    """Take a lock in another process; return what that says if it cannot."""
    lock = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN EXCLUSIVE')"
    return subprocess.run([sys.executable, "-c", lock, str(path)], capture_output=True, text=True).stderr


async def test_the_file_is_its_owners_alone(store: Store, tmp_path: Path) -> None:
    """A new database, and what SQLite keeps beside it, can be read by its owner only."""
    await store.add_task("alice", "a")
    for name in ("chat.db", "chat.db-wal"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    files = {"chat.db", "chat.db-wal", "chat.db-shm", "chat.db.lock"}
    assert set(os.listdir(tmp_path)) == files


# ---- trouble ----


async def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(small: Store) -> None:
    """When the database cannot grow, a turn is refused whole; when it can again, all is as before."""
    store, turn = small, await begin(small)
    await append(store, turn, 0, *EVENTS[:3])
    before = await store.list_conversations("alice", 10, 0)

    async def fill() -> None:
        for n in range(1000):
            await store.add_task("alice", f"{n} " + "x" * 3000)

    with pytest.raises(Unavailable, match="full"):
        await fill()
    with pytest.raises(Unavailable, match="full"):
        await store.begin_turn(TurnRequest("alice", "y" * 30_000, title="y"), Limits())
    with pytest.raises(Unavailable, match="full"):
        await append(store, turn, 3, {"type": "text", "content": "y" * 30_000})
    assert await store.list_conversations("alice", 10, 0) == before
    assert (await answer_of(store, turn))["content"] == "One "
    sizes = (1, 30_000, 1, 30_000, 1)
    together = await asyncio.gather(
        *(store.add_task("alice", "z" * size) for size in sizes),
        store.update_task("alice", 1, title="z" * 30_000),
        return_exceptions=True,
    )
    assert any(isinstance(outcome, Unavailable) for outcome in together), together
    assert all(isinstance(outcome, Unavailable | dict) for outcome in together), together
    stored = [task["title"] for task in await store.list_tasks("alice") if task["title"].startswith("z")]
    assert stored == [outcome["title"] for outcome in together if isinstance(outcome, dict)]
    while tasks := await store.list_tasks("alice"):
        await asyncio.gather(*(store.delete_task("alice", task["id"]) for task in tasks))
    assert (await begin(store)).answer["status"] == "streaming"
    await append(store, turn, 3, *EVENTS[3:])
    assert await answer_of(store, turn) == turn.answer | fold(EVENTS)


async def test_the_file_is_copied_whole_only_with_its_log(store: Store, tmp_path: Path) -> None:
    """What was committed is in the file or its write-ahead log: both together can be opened after a crash."""
    await store.add_task("alice", "a")
    (tmp_path / "copy").mkdir()
    for name in ("chat.db", "chat.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    async with opened(tmp_path / "copy") as copy:
        assert [task["title"] for task in await copy.list_tasks("alice")] == ["a"]
