"""The store, on each engine: turns and their ends, live answers as lists of events, tools and their records."""

import asyncio
import contextvars
from typing import Any

import pytest
from postgres import look

from todochat import db, shares
from todochat.db import Limits, Progress, Store
from todochat.events import Event, Status, fold
from todochat.store.pages import page_of_messages
from todochat.store.tasks import Task
from turns import CALL, EVENTS, answer_of, append, begin, finish

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(any_store: Store) -> Store:
    """A store on each engine."""
    return any_store


def live_events(database: str) -> list[Any]:
    """Look beside the store at what is stored of live answers, and is left of those that have ended.

    In a file nothing is left. A shared database keeps it a while, for those who follow an answer elsewhere.
    """
    return look(database, "SELECT answer_id, first FROM live_events")


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
        begin(store, "bob", limits=Limits(live_per_user=1)),
        store.add_task("alice", "b"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [dict, db.Busy, db.Turn, shares.TooMany, dict]
    assert sorted(task["title"] for task in await store.list_tasks("alice")) == ["a", "b"]
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
    """Too many live answers of a user are refused; answers that ended, and those of others, do not count."""
    two_each = Limits(live_per_user=2)
    turns = [await begin(store, limits=two_each) for _ in range(2)]
    with pytest.raises(shares.TooMany):
        await begin(store, limits=two_each)
    await begin(store, "bob", limits=two_each)
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
        page = await page_of_messages(store, "alice", thread, since=None, newest_first=True, limit=1)
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
    assert set(live) == {turns[0].answer["id"], turns[2].answer["id"]}
    assert [(await answer_of(store, turn))["content"] for turn in turns] == ["One ", "", "One "]


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "interrupted"])
async def test_an_end_takes_the_place_of_the_events(store: Store, database: str, status: Status) -> None:
    """When an answer ends its row has all of it, and there are no events any more."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS)
    assert live_events(database) != []
    await finish(store, turn, status, *EVENTS, {"type": "error", "message": "Sorry."})
    assert (live_events(database) == []) is not store.engine.shared
    assert await answer_of(store, turn) == turn.answer | fold(EVENTS) | {"status": status, "error": "Sorry."}


async def test_what_two_checkpoints_have_stored_at_once_is_read_once(store: Store) -> None:
    """A later one may begin before an earlier one has ended: both have the same events, from different ones on."""
    turn = await begin(store)
    words: list[Event] = [{"type": "text", "content": letter} for letter in "abcd"]
    for first, last in ((0, 1), (1, 3), (0, 2), (3, 4)):
        some = Progress(turn.answer["id"], first, words[first:last])
        await store.save_progress(lambda some=some: [some])  # type: ignore[misc]
    answer = await store.get_message("alice", turn.answer["id"])
    assert answer is not None
    assert answer["content"] == "abcd"


async def test_nothing_of_a_live_answer_is_left_when_its_conversation_is_deleted(store: Store, database: str) -> None:
    """The events go with the conversation, and nothing is saved afterwards."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS)
    await store.delete_conversation("alice", turn.conversation["id"])
    assert live_events(database) == []
    assert await append(store, turn, len(EVENTS), *EVENTS) == set()
    await finish(store, turn, "stopped", *EVENTS)
    assert live_events(database) == look(database, "SELECT * FROM messages") == []


async def test_a_retry_leaves_no_events_of_what_it_removes(store: Store, database: str) -> None:
    """Another answer to a message takes the place of all that came after that, and begins with nothing."""
    turn = await begin(store)
    await append(store, turn, 0, *EVENTS)
    await finish(store, turn, "stopped", *EVENTS)
    question = turn.history[-1]["id"]
    again = await begin(store, conversation=turn.conversation["id"], retry_of=question)
    assert live_events(database) == []
    assert [message["id"] for message in again.history] == [question]
    assert (await answer_of(store, again))["content"] == ""
    assert await store.get_message("alice", turn.answer["id"]) is None


async def test_an_answer_that_is_over_is_not_written_again(store: Store, database: str) -> None:
    """A final state is final: neither a checkpoint nor another end changes it."""
    turn = await begin(store)
    await finish(store, turn, "stopped", *EVENTS[:3])
    assert await append(store, turn, 0, *EVENTS) == set()
    await finish(store, turn, "done", *EVENTS)
    answer = await answer_of(store, turn)
    assert (answer["content"], answer["status"]) == ("One ", "stopped")
    assert live_events(database) == ([(turn.answer["id"], 0)] if store.engine.shared else [])


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

    task = await store.work_and_save(answer_id, add, record)
    before = await answer_of(store, turn)
    assert before["tool_calls"][0]["result"] == task["id"]
    with pytest.raises(RuntimeError):
        await store.work_and_save(answer_id, add, broken)
    assert await answer_of(store, turn) == before
    await finish(store, turn, "stopped")
    with pytest.raises(db.AnswerOver):
        await store.work_and_save(answer_id, add, record)
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
        assert store.engine.shared or not meanwhile[0].done()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.work_and_save(turn.answer["id"], tool, lambda result: Progress(turn.answer["id"], 0, EVENTS))
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

    added = await store.work_and_save(turn.answer["id"], two, lambda tasks: Progress(turn.answer["id"], 0, EVENTS))
    assert [task["title"] for task in added] == ["a", "b"]
    await late[0]
    assert [task["title"] for task in await store.list_tasks("alice")] == ["a", "b", "late"]
