"""Runs, on a real store."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import db
import runs

CALL = {"type": "tool_call", "id": "1", "name": "add_task", "args": {"title": "x"}}


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

        _, run = await live.begin(begin_turn, stream, user_id="alice", model="none")
        assert run is not None
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
