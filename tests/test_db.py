"""The store: turns and their ends, live answers as lists of events, and what it refuses to open."""

import asyncio
import contextvars
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import opened

from todochat import db
from todochat.db import Limits, Progress, Store, TurnRequest
from todochat.engines import StoreError, Unavailable
from todochat.events import Event, Message, Status, fold, unfold
from todochat.task_store import Task

pytestmark = pytest.mark.anyio

CALL: Event = {"type": "tool_call", "id": "1", "name": "add_task", "args": {"title": "x"}}
RESULT: Event = {"type": "tool_result", "id": "1", "name": "add_task", "result": {"success": True}}
LIMITS = Limits()
EVENTS: list[Event] = [
    {"type": "started"},
    {"type": "thinking", "content": "Hm."},
    {"type": "text", "content": "One "},
    CALL,
    RESULT,
    {"type": "text", "content": "two."},
]


async def begin(
    store: Store, user: str = "alice", conversation: int | None = None, limits: Limits = LIMITS, **asked: Any
) -> db.Turn:
    """Begin a turn."""
    request = TurnRequest(user, "hi", title="hi", conversation_id=conversation, **asked)
    return await store.begin_turn(request, limits)


async def finish(store: Store, turn: db.Turn, status: Status = "done", *events: Event) -> None:
    """End its answer, which consists of these events."""
    await store.finish_answer(turn.answer["id"], status, fold(events))


async def append(store: Store, turn: db.Turn, first: int, *events: Event) -> set[int]:
    """Save events of an answer, from number `first` on."""
    return await store.save_progress(lambda: [Progress(turn.answer["id"], first, events)])


async def answer_of(store: Store, turn: db.Turn) -> Message:
    """Return a turn's answer as it is now."""
    message = await store.get_message("alice", turn.answer["id"])
    assert message is not None
    return message


def rows(folder: Path, sql: str) -> list[Any]:
    """Look into the file beside the store."""
    with closing(sqlite3.connect(folder / "chat.db")) as database:
        return database.execute(sql).fetchall()


def live_events(folder: Path) -> list[Any]:
    """Return what is stored of live answers."""
    return rows(folder, "SELECT answer_id, first FROM live_events")


# ---- turns ----


async def test_one_live_answer_is_held_by_the_database(store: Store) -> None:
    """Of twenty turns begun at once in one conversation one is stored, and nothing of the others."""
    first = await begin(store)
    await finish(store, first)
    thread = first.conversation["id"]
    outcomes = await asyncio.gather(*(begin(store, conversation=thread) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, db.Turn) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, db.Conflict) for outcome in outcomes) == 19
    conversation = await store.get_conversation("alice", thread)
    assert conversation is not None
    assert len(conversation["messages"]) == 4


async def test_what_is_written_together_fails_apart(store: Store) -> None:
    """Of units that share a transaction, one that is refused leaves nothing behind and takes nobody with it."""
    thread = (await begin(store)).conversation["id"]
    before = await store.get_conversation("alice", thread)
    outcomes = await asyncio.gather(
        store.add_task("alice", "a"),
        begin(store, conversation=thread),
        begin(store, "bob"),
        begin(store, "bob", limits=Limits(live=1)),
        store.add_task("alice", "b"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [dict, db.Busy, db.Turn, db.ServerFull, dict]
    assert [task["title"] for task in await store.list_tasks("alice")] == ["a", "b"]
    assert await store.get_conversation("alice", thread) == before
    assert len(await store.list_conversations("bob", 9, 0)) == 1


async def test_a_cancelled_caller_leaves_no_half_of_a_unit(store: Store) -> None:
    """A unit of work whose caller is cancelled at any moment happens whole, and the next one works."""
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


async def test_the_limits_count_live_answers_only(store: Store) -> None:
    """Too many live answers of a user, or in all, are refused; answers that ended do not count."""
    two_each = Limits(live_per_user=2)
    turns = [await begin(store, limits=two_each) for _ in range(2)]
    with pytest.raises(db.TooMany):
        await begin(store, limits=two_each)
    with pytest.raises(db.ServerFull):
        await begin(store, "bob", limits=Limits(live=2))
    await finish(store, turns[0])
    await begin(store, limits=two_each)
    assert len(await store.list_conversations("alice", 10, 0)) == 3


async def test_the_model_gets_the_last_messages_of_a_conversation(store: Store) -> None:
    """A turn has as many of the last messages as it may, oldest first, the question last."""
    first = await begin(store)
    await finish(store, first, "done", *EVENTS)
    second = await begin(store, conversation=first.conversation["id"], limits=Limits(history=2))
    assert [(m["role"], m["content"]) for m in second.history] == [("assistant", "One two."), ("user", "hi")]
    assert second.history[0]["tool_calls"][0]["result"] == {"success": True}


async def test_a_key_that_was_used_before_returns_the_answer_as_it_stands(store: Store) -> None:
    """The same request again stores nothing: it gets the earlier answer, while that is written and afterwards."""
    turn = await begin(store, key="k", digest="d")
    await append(store, turn, 0, *EVENTS[:3])
    again = await begin(store, key="k", digest="d")
    assert again.earlier
    assert (again.answer["id"], again.answer["content"]) == (turn.answer["id"], "One ")
    assert [m["content"] for m in again.history] == ["hi"]
    await finish(store, turn, "done", *EVENTS)
    assert (await begin(store, key="k", digest="d")).answer["content"] == "One two."
    with pytest.raises(db.Conflict, match="different request"):
        await begin(store, key="k", digest="another")
    await store.delete_conversation("alice", turn.conversation["id"])
    with pytest.raises(db.Conflict, match="has been deleted"):
        await begin(store, key="k", digest="d")


async def test_ids_are_never_used_again(store: Store) -> None:
    """The id of something deleted is never given to something new."""
    first = await store.add_task("alice", "a")
    await store.delete_task("alice", first["id"])
    assert (await store.add_task("alice", "b"))["id"] > first["id"]


# ---- a live answer ----


async def test_a_live_answer_reads_as_what_its_events_add_up_to(store: Store) -> None:
    """Whoever reads a conversation with a live answer sees all that was saved of it, wherever it was cut."""
    turn = await begin(store)
    thread, saved = turn.conversation["id"], list[Event]()
    for first, last in ((0, 2), (2, 3), (3, 4), (4, 6)):
        saved += EVENTS[first:last]
        await append(store, turn, first, *EVENTS[first:last])
        expected = turn.answer | fold(saved)
        assert await answer_of(store, turn) == expected
        conversation = await store.get_conversation("alice", thread)
        page = await store.page_of_messages("alice", thread, since=None, newest_first=True, limit=1)
        assert conversation is not None
        assert page is not None
        assert [conversation["messages"][-1]] == page[1] == [expected]


async def test_what_is_saved_twice_is_there_once(store: Store) -> None:
    """Saving again from the same number keeps the longer list: a run that was not told of its success saves anew."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS[:2])
    await append(store, turn, 0, *EVENTS[:3])
    await append(store, turn, 3, *EVENTS[3:4])
    await append(store, turn, 3, *EVENTS[3:])
    assert await answer_of(store, turn) == turn.answer | fold(EVENTS)


async def test_the_answers_of_all_are_saved_together(store: Store) -> None:
    """One unit saves what is new in all live answers, skips those that are over, and says which are live."""
    turns = [await begin(store) for _ in range(3)]
    await finish(store, turns[1])
    progress = [Progress(turn.answer["id"], 0, EVENTS[:3]) for turn in turns]
    live = await store.save_progress(lambda: progress)
    assert live == {turns[0].answer["id"], turns[2].answer["id"]}
    assert [(await answer_of(store, turn))["content"] for turn in turns] == ["One ", "", "One "]


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "interrupted"])
async def test_an_end_takes_the_place_of_the_events(store: Store, tmp_path: Path, status: Status) -> None:
    """When an answer ends its row has all of it, and there are no events any more."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS)
    assert live_events(tmp_path) != []
    await finish(store, turn, status, *EVENTS, {"type": "error", "message": "Sorry."})
    assert live_events(tmp_path) == []
    assert await answer_of(store, turn) == turn.answer | fold(EVENTS) | {"status": status, "error": "Sorry."}


async def test_nothing_of_a_live_answer_is_left_when_its_conversation_is_deleted(store: Store, tmp_path: Path) -> None:
    """The events go with the conversation, and nothing is saved afterwards."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS)
    await store.delete_conversation("alice", turn.conversation["id"])
    assert live_events(tmp_path) == []
    assert await append(store, turn, len(EVENTS), *EVENTS) == set()
    await finish(store, turn, "stopped", *EVENTS)
    assert live_events(tmp_path) == rows(tmp_path, "SELECT * FROM messages") == []


async def test_a_retry_leaves_no_events_of_what_it_removes(store: Store, tmp_path: Path) -> None:
    """Another answer to a message takes the place of all that came after that, and begins with nothing."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS)
    await finish(store, turn, "stopped", *EVENTS)
    question = turn.history[-1]["id"]
    again = await begin(store, conversation=turn.conversation["id"], retry_of=question)
    assert live_events(tmp_path) == []
    assert [message["id"] for message in again.history] == [question]
    assert (await answer_of(store, again))["content"] == ""
    assert await store.get_message("alice", turn.answer["id"]) is None


async def test_an_answer_that_is_over_is_not_written_again(store: Store, tmp_path: Path) -> None:
    """A final state is final: neither a checkpoint nor another end changes it."""
    turn = await begin(store)
    await finish(store, turn, "stopped", *EVENTS[:3])
    assert await append(store, turn, 0, *EVENTS) == set()
    await finish(store, turn, "done", *EVENTS)
    answer = await answer_of(store, turn)
    assert (answer["content"], answer["status"]) == ("One ", "stopped")
    assert live_events(tmp_path) == []


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
        assert live_events(tmp_path / "crashed") == []
        await begin(store, conversation=turns[0].conversation["id"])


# ---- tools ----


async def test_a_tool_and_its_record_are_stored_together(store: Store) -> None:
    """A tool's change and the answer's record of it are one transaction; when one fails there is neither."""
    turn = await begin(store)
    answer_id = turn.answer["id"]

    async def add() -> Task:
        return await store.add_task("alice", "buy milk")

    def record(task: Task) -> Progress:
        result: Event = {"type": "tool_result", "id": "1", "name": "add_task", "result": task["id"]}
        return Progress(answer_id, 0, [CALL, result])

    def broken(task: Task) -> Progress:
        raise RuntimeError

    task = await store.record_tool(answer_id, add, record)
    before = await answer_of(store, turn)
    assert before["tool_calls"][0]["result"] == task["id"]
    with pytest.raises(RuntimeError):
        await store.record_tool(answer_id, add, broken)
    assert await answer_of(store, turn) == before
    await finish(store, turn, "stopped")
    with pytest.raises(db.AnswerOver):
        await store.record_tool(answer_id, add, record)
    assert len(await store.list_tasks("alice")) == 1


async def test_a_tool_that_fails_takes_nobody_with_it(store: Store) -> None:
    """What others write while a tool is at work is not a part of its transaction, and stays when that is undone."""
    turn = await begin(store)
    meanwhile: list[asyncio.Task[Task]] = []

    async def tool() -> Task:
        await store.add_task("alice", "undone")
        other = store.add_task("alice", "kept")  # of somebody who has nothing to do with the tool
        meanwhile.append(asyncio.create_task(other, context=contextvars.Context()))
        await asyncio.sleep(0.05)
        assert not meanwhile[0].done()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.record_tool(turn.answer["id"], tool, lambda result: Progress(turn.answer["id"], 0, EVENTS))
    await meanwhile[0]
    assert [task["title"] for task in await store.list_tasks("alice")] == ["kept"]


async def test_a_tools_work_may_have_tasks_of_its_own(store: Store) -> None:
    """What a tool does on the store in several tasks at once is one unit; a task that outlives it is outside again."""
    turn = await begin(store)
    late: list[asyncio.Task[Any]] = []

    async def two() -> list[Any]:
        async def later() -> Task:
            await asyncio.sleep(0.05)
            return await store.add_task("alice", "late")

        late.append(asyncio.create_task(later()))
        return await asyncio.gather(store.add_task("alice", "a"), store.add_task("alice", "b"))

    added = await store.record_tool(turn.answer["id"], two, lambda tasks: Progress(turn.answer["id"], 0, EVENTS))
    assert [task["title"] for task in added] == ["a", "b"]
    await late[0]
    assert [task["title"] for task in await store.list_tasks("alice")] == ["a", "b", "late"]


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
    async with opened(tmp_path) as store:
        await store.ping()


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
