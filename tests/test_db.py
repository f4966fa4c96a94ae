"""The store: units of work, the answer's states, and what it refuses to open."""

import asyncio
import contextvars
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import db


def on_store(path: Path, work: Callable[[db.Store], Awaitable[Any]], **options: Any) -> Any:
    """Open the store, do the work, and close it."""

    async def main() -> Any:
        store = await db.Store.open(str(path / "chat.db"), **options)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())


async def begin(store: db.Store, user: str = "alice", conversation: int | None = None, **options: Any) -> db.Turn:
    """Begin a turn."""
    limits: dict[str, Any] = {"history_limit": 50, "max_live": 9, "max_live_per_user": 5}
    return await store.begin_turn(user, "hi", title="hi", conversation_id=conversation, **(limits | options))


def test_one_live_answer_is_held_by_the_database(tmp_path: Path) -> None:
    """Of twenty turns begun at once in one conversation one is stored, and nothing of the others."""

    async def work(store: db.Store) -> None:
        first = await begin(store)
        await store.finish_answer(replace(first.answer, status="done"))
        thread = first.answer.conversation_id
        outcomes = await asyncio.gather(*(begin(store, conversation=thread) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(outcome, db.Turn) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, db.Conflict) for outcome in outcomes) == 19
        conversation = await store.get_conversation("alice", thread)
        assert conversation is not None
        assert len(conversation["messages"]) == 4

    on_store(tmp_path, work)


def test_what_is_written_together_fails_apart(tmp_path: Path) -> None:
    """Of units that share a transaction, one that is refused leaves nothing behind and takes nobody with it."""

    async def work(store: db.Store) -> None:
        thread = (await begin(store)).answer.conversation_id
        before = await store.get_conversation("alice", thread)
        outcomes = await asyncio.gather(
            store.add_task("alice", "a"),
            begin(store, conversation=thread),
            begin(store, "bob"),
            begin(store, "bob", max_live=1),
            store.add_task("alice", "b"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [dict, db.Busy, db.Turn, db.TooMany, dict]
        assert [task["title"] for task in await store.list_tasks("alice")] == ["a", "b"]
        assert await store.get_conversation("alice", thread) == before
        assert len(await store.list_conversations("bob", 9, 0)) == 1

    on_store(tmp_path, work)


def test_a_tool_that_fails_takes_nobody_with_it(tmp_path: Path) -> None:
    """What others write while a tool is at work is not a part of its transaction, and stays when that is undone."""

    async def work(store: db.Store) -> None:
        answer = (await begin(store)).answer
        meanwhile: list[asyncio.Task[db.Task]] = []

        async def tool() -> db.Task:
            await store.add_task("alice", "undone")
            other = store.add_task("alice", "kept")  # of somebody who has nothing to do with the tool
            meanwhile.append(asyncio.create_task(other, context=contextvars.Context()))
            await asyncio.sleep(0.05)
            assert not meanwhile[0].done()
            raise RuntimeError

        with pytest.raises(RuntimeError):
            await store.record_tool(answer.id, tool, lambda result: answer)
        await meanwhile[0]
        assert [task["title"] for task in await store.list_tasks("alice")] == ["kept"]

    on_store(tmp_path, work)


def test_a_cancelled_caller_leaves_no_half_of_a_unit(tmp_path: Path) -> None:
    """A unit of work whose caller is cancelled at any moment happens whole, and the next one works."""

    async def work(store: db.Store) -> None:
        for n in range(40):
            task = asyncio.create_task(begin(store, f"user {n}"))
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            await store.ping()
            stored = await store.list_conversations(f"user {n}", 10, 0)
            for conversation in stored:
                whole = await store.get_conversation(f"user {n}", conversation["id"])
                assert whole is not None
                assert [m["role"] for m in whole["messages"]] == ["user", "assistant"]
                await store.delete_conversation(f"user {n}", conversation["id"])

    on_store(tmp_path, work)


def test_a_tool_and_its_record_are_stored_together(tmp_path: Path) -> None:
    """A tool's change and the answer's record of it are one transaction; when one fails there is neither."""

    async def work(store: db.Store) -> None:
        answer = (await begin(store)).answer

        async def add() -> db.Task:
            return await store.add_task("alice", "buy milk")

        def record(task: db.Task) -> db.Answer:
            call: db.ToolCall = {"id": "1", "name": "add_task", "args": {}, "result": task["id"], "at": 0}
            return replace(answer, tool_calls=[call])

        def broken(task: db.Task) -> db.Answer:
            raise RuntimeError

        task = await store.record_tool(answer.id, add, record)
        message = await store.get_message("alice", answer.id)
        assert message is not None
        assert message["tool_calls"][0]["result"] == task["id"]
        with pytest.raises(RuntimeError):
            await store.record_tool(answer.id, add, broken)
        await store.finish_answer(replace(answer, status="stopped"))
        with pytest.raises(db.AnswerOver):
            await store.record_tool(answer.id, add, record)
        assert len(await store.list_tasks("alice")) == 1

    on_store(tmp_path, work)


def test_an_answer_that_is_over_is_not_written_again(tmp_path: Path) -> None:
    """A final state is final: neither a checkpoint nor another end changes it."""

    async def work(store: db.Store) -> None:
        answer = (await begin(store)).answer
        await store.finish_answer(replace(answer, content="so far", status="stopped"))
        assert await store.save_answers(lambda: [replace(answer, content="later")]) == set()
        await store.finish_answer(replace(answer, content="later", status="done"))
        message = await store.get_message("alice", answer.id)
        assert message is not None
        assert (message["content"], message["status"]) == ("so far", "stopped")

    on_store(tmp_path, work)


def test_what_a_crash_left_streaming_is_interrupted_after_the_restart(tmp_path: Path) -> None:
    """What says `streaming` when the file is opened becomes `interrupted`, with the text it had."""

    async def crash(store: db.Store) -> int:
        answer = (await begin(store)).answer
        await store.save_answers(lambda: [replace(answer, content="half")])
        return answer.id

    async def look(store: db.Store) -> None:
        message = await store.get_message("alice", answer_id)
        assert message is not None
        assert (message["content"], message["status"]) == ("half", "interrupted")
        await begin(store, conversation=1)

    answer_id = on_store(tmp_path, crash)
    on_store(tmp_path, look)


def test_the_limits_count_live_answers_only(tmp_path: Path) -> None:
    """Too many live answers of a user, or in all, are refused; answers that ended do not count."""

    async def work(store: db.Store) -> None:
        turns = [await begin(store, max_live_per_user=2) for _ in range(2)]
        with pytest.raises(db.TooMany) as refused:
            await begin(store, max_live_per_user=2)
        assert refused.value.of_user
        with pytest.raises(db.TooMany) as refused:
            await begin(store, "bob", max_live=2)
        assert not refused.value.of_user
        await store.finish_answer(replace(turns[0].answer, status="done"))
        await begin(store, max_live_per_user=2)
        assert len(await store.list_conversations("alice", 10, 0)) == 3

    on_store(tmp_path, work)


def test_ids_are_never_used_again(tmp_path: Path) -> None:
    """The id of something deleted is never given to something new."""

    async def work(store: db.Store) -> None:
        first = await store.add_task("alice", "a")
        await store.delete_task("alice", first["id"])
        assert (await store.add_task("alice", "b"))["id"] > first["id"]

    on_store(tmp_path, work)


# ---- what it refuses ----


def refused(path: Path, says: str) -> None:
    """Check that the file is refused with a sentence, and left as it was."""
    before = (path / "chat.db").read_bytes()
    with pytest.raises(db.StoreError, match=says):
        on_store(path, lambda store: store.ping())
    assert (path / "chat.db").read_bytes() == before


def test_a_file_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A file that a newer program wrote is refused and stays as it is."""
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE from_the_future (x)")
        shutil.copy(tmp_path / "chat.db", tmp_path / "copy.db")
        shutil.copy(tmp_path / "chat.db-wal", tmp_path / "copy.db-wal")  # as a crash leaves it
    for name in ("chat.db", "chat.db-wal"):
        (tmp_path / name.replace("chat", "copy")).replace(tmp_path / name)
    log = (tmp_path / "chat.db-wal").read_bytes()
    refused(tmp_path, "newer version")
    assert (tmp_path / "chat.db-wal").read_bytes() == log


@pytest.mark.parametrize("damage", [0, 4096 * 2])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: int) -> None:
    """A file that is no database, or one with a damaged page, is refused and stays as it is."""

    async def fill(store: db.Store) -> None:
        for n in range(200):
            await store.add_task("alice", f"task {n} " + "x" * 100)

    on_store(tmp_path, fill)
    content = bytearray((tmp_path / "chat.db").read_bytes())
    content[damage : damage + 4096] = b"garbage " * 512
    (tmp_path / "chat.db").write_bytes(content)
    refused(tmp_path, "not a database|damaged|malformed")


@pytest.mark.parametrize("version", [0, 1, 2, -5])
@pytest.mark.parametrize("table", ["tasks", "users"])
def test_another_programs_database_is_refused(tmp_path: Path, version: int, table: str) -> None:
    """A database with tables that are not ours, whatever version it has, is refused and stays as it is."""
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as database:
        database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, what TEXT)")
        database.execute(f"PRAGMA user_version = {version}")
    refused(tmp_path, "belongs to another program")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder in the place of the file is one sentence."""
    (tmp_path / "chat.db").mkdir()
    with pytest.raises(db.StoreError, match="is not a file"):
        on_store(tmp_path, lambda store: store.ping())


def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    """A hard link to the file would have a log of its own, so neither name is taken while there are two."""
    on_store(tmp_path, lambda store: store.ping())
    (tmp_path / "other.db").hardlink_to(tmp_path / "chat.db")
    refused(tmp_path, "second name")
    (tmp_path / "other.db").unlink()
    on_store(tmp_path, lambda store: store.ping())


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    """A file without write permission is refused, even for root, who could write it all the same."""
    on_store(tmp_path, lambda store: store.ping())
    (tmp_path / "chat.db").chmod(0o444)
    refused(tmp_path, "read-only")


def test_a_missing_folder_is_an_error_in_words(tmp_path: Path) -> None:
    """A path that cannot be created is one sentence."""
    with pytest.raises(db.StoreError, match="Cannot create"):
        on_store(tmp_path / "nowhere", lambda store: store.ping())


def test_a_file_in_use_is_refused(tmp_path: Path) -> None:
    """One process owns a file: a second store on it is refused, and works once the first is closed."""

    async def work(store: db.Store) -> None:
        with pytest.raises(db.StoreError, match="in use by another server"):
            await db.Store.open(str(tmp_path / "chat.db"))
        (tmp_path / "other.db").symlink_to(tmp_path / "chat.db")
        with pytest.raises(db.StoreError, match="in use by another server"):
            await db.Store.open(str(tmp_path / "other.db"))

    on_store(tmp_path, work)
    on_store(tmp_path, lambda store: store.ping())


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """A new database, and what SQLite keeps beside it, can be read by its owner only."""

    async def work(store: db.Store) -> None:
        await store.add_task("alice", "a")
        for name in ("chat.db", "chat.db-wal"):
            assert (tmp_path / name).stat().st_mode & 0o077 == 0
        files = {"chat.db", "chat.db-wal", "chat.db-shm", "chat.db.lock"}
        assert set(os.listdir(tmp_path)) == files

    on_store(tmp_path, work)


# ---- trouble ----


def test_a_lock_of_another_program_is_a_sentence_within_the_patience(tmp_path: Path) -> None:
    """While another program holds the file, writing says so in words and leaves nothing; afterwards it works."""

    async def work(store: db.Store) -> None:
        other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(db.Unavailable, match="in use by another program"):
            await store.add_task("alice", "a")
        other.execute("ROLLBACK")
        other.close()
        await store.add_task("alice", "b")
        assert [t["title"] for t in await store.list_tasks("alice")] == ["b"]

    on_store(tmp_path, work, patience=0.2)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """When the database cannot grow, a turn is refused whole; when it can again, all is as before."""

    async def work(store: db.Store) -> None:
        [(pages,)] = await store._trip(lambda: store._sql("PRAGMA page_count"))
        await store._trip(lambda: store._sql(f"PRAGMA max_page_count = {pages}"))
        before = await store.list_conversations("alice", 10, 0)

        async def fill() -> None:
            for n in range(1000):
                await store.add_task("alice", f"{n} " + "x" * 3000)

        with pytest.raises(db.Unavailable, match="full"):
            await fill()
        with pytest.raises(db.Unavailable, match="full"):
            await store.begin_turn(
                "alice",
                "y" * 30_000,
                title="y",
                conversation_id=None,
                history_limit=5,
                max_live=9,
                max_live_per_user=9,
            )
        assert await store.list_conversations("alice", 10, 0) == before
        together = await asyncio.gather(
            *(store.add_task("alice", "z" * size) for size in (1, 30_000, 1)), return_exceptions=True
        )
        assert any(isinstance(outcome, db.Unavailable) for outcome in together)
        stored = [task["title"] for task in await store.list_tasks("alice") if task["title"].startswith("z")]
        assert stored == [outcome["title"] for outcome in together if isinstance(outcome, dict)]
        await store._trip(lambda: store._sql("PRAGMA max_page_count = 1000000"))
        assert (await begin(store)).answer.status == "streaming"

    on_store(tmp_path, work)


def test_the_file_is_copied_whole_only_with_its_log(tmp_path: Path) -> None:
    """What was committed is in the file or its write-ahead log: both together can be opened after a crash."""

    async def work(store: db.Store) -> None:
        await store.add_task("alice", "a")
        (tmp_path / "copy").mkdir()
        for name in ("chat.db", "chat.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)

    on_store(tmp_path, work)
    tasks = on_store(tmp_path / "copy", lambda store: store.list_tasks("alice"))
    assert [t["title"] for t in tasks] == ["a"]


def test_a_tools_work_may_have_tasks_of_its_own(tmp_path: Path) -> None:
    """What a tool does on the store in several tasks at once is one unit; a task that outlives it is outside again."""

    async def work(store: db.Store) -> None:
        answer = (await begin(store)).answer
        late: list[asyncio.Task[Any]] = []

        async def two() -> list[Any]:
            async def later() -> db.Task:
                await asyncio.sleep(0.05)
                return await store.add_task("alice", "late")

            late.append(asyncio.create_task(later()))
            return await asyncio.gather(store.add_task("alice", "a"), store.add_task("alice", "b"))

        added = await store.record_tool(answer.id, two, lambda tasks: answer)
        assert [task["title"] for task in added] == ["a", "b"]
        await late[0]
        assert [task["title"] for task in await store.list_tasks("alice")] == ["a", "b", "late"]

    on_store(tmp_path, work)
