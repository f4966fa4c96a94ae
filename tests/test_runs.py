"""Runs, on a real store."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from conftest import awaited

import db
import runs

CALL = {"type": "tool_call", "id": "1", "name": "add_task", "args": {"title": "x"}}


def test_what_cannot_be_stored_ends_its_turn_and_no_more(tmp_path: Path) -> None:
    """An answer that no database takes is a failed one: its readers are let go, and the conversation goes on."""

    async def main() -> None:
        store = await db.Store.open(str(tmp_path / "chat.db"))
        live = runs.Runs(store, db.Unavailable)

        async def stream(run: runs.Run, turn: db.Turn) -> AsyncGenerator[runs.Event, None]:
            yield "half a character: \ud800"

        def begin_turn(thread: int | None = None) -> Any:
            limits: dict[str, Any] = {"history_limit": 5, "max_live": 5, "max_live_per_user": 5}
            return store.begin_turn("alice", "hi", title="hi", conversation_id=thread, **limits)

        _, run = await live.begin(begin_turn, awaited(stream), user_id="alice", model="none")
        assert run is not None
        events = [event async for batch in run.follow() for event in batch]
        assert events[-1] == {"type": "error", "message": runs.BROKEN}
        stored = await store.get_message("alice", run.id)
        assert stored is not None
        assert (stored["status"], stored["error"]) == ("failed", runs.BROKEN)
        assert (await begin_turn(run.conversation_id)).answer.status == "streaming"
        await live.close()
        await store.close()

    asyncio.run(main())


def test_no_checkpoint_takes_back_what_a_tool_has_recorded(tmp_path: Path) -> None:
    """However a checkpoint and a tool's commit fall together, what is stored has the tool's result."""

    async def turn(store: db.Store, late: int) -> None:
        done = asyncio.Event()
        live = runs.Runs(store, db.Unavailable)

        async def stream(run: runs.Run, turn: db.Turn) -> AsyncGenerator[runs.Event, None]:
            yield CALL
            await done.wait()

        def begin_turn() -> Any:
            limits: dict[str, Any] = {"history_limit": 5, "max_live": 500, "max_live_per_user": 500}
            return store.begin_turn("alice", "hi", title="hi", conversation_id=None, **limits)

        _, run = await live.begin(begin_turn, awaited(stream), user_id="alice", model="none")
        assert run is not None
        run.own.add("1")
        tool = asyncio.create_task(run.record("1", lambda: store.add_task("alice", "x"), lambda task: task["id"]))
        for _ in range(late):
            await asyncio.sleep(0)
        await live._checkpoint()
        await tool
        stored = await store.get_message("alice", run.id)
        assert stored is not None
        assert stored["tool_calls"][0]["result"] == (await tool)["id"], f"after {late} steps of the loop"
        done.set()
        await live.close()

    async def main() -> None:
        store = await db.Store.open(str(tmp_path / "chat.db"))
        try:
            for late in range(60):
                await turn(store, late)
        finally:
            await store.close()

    asyncio.run(main())


def test_an_answer_that_was_ended_in_the_file_does_not_hide_the_next(tmp_path: Path) -> None:
    """When another program ends an answer, the next one in the conversation is followed and ended as its own."""

    async def main() -> None:
        store = await db.Store.open(str(tmp_path / "chat.db"))
        live = runs.Runs(store, db.Unavailable)

        async def stream(run: runs.Run, turn: db.Turn) -> AsyncGenerator[runs.Event, None]:
            yield "word"
            await asyncio.sleep(0.05 if turn.answer.id > 2 else 60)

        def begin_turn(thread: int | None) -> Any:
            limits: dict[str, Any] = {"history_limit": 5, "max_live": 5, "max_live_per_user": 5}
            return store.begin_turn("alice", "hi", title="hi", conversation_id=thread, **limits)

        begin = partial(live.begin, stream=awaited(stream), user_id="alice", model="none")
        _, first = await begin(lambda: begin_turn(None))
        with closing(sqlite3.connect(tmp_path / "chat.db")) as other, other:
            other.execute("UPDATE messages SET status = 'stopped' WHERE status = 'streaming'")
        _, second = await begin(lambda: begin_turn(1))
        assert first is not None
        assert second is not None
        events = [event async for batch in first.follow() for event in batch]
        assert events[-1] == {"type": "error", "message": runs.ELSEWHERE}
        assert live.get(1) is second
        events = [event async for batch in second.follow() for event in batch]
        assert events[1:] == ["word"]
        assert live.get(1) is None
        stored = await store.get_message("alice", second.id)
        assert stored is not None
        assert stored["status"] == "done"
        await live.close()
        await store.close()

    asyncio.run(main())
