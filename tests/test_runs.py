"""Runs, on a real store."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import closing
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from agents import Model, ModelResponse
from conftest import awaited
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)
from starlette.types import Message

import app
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


# ---- text goes on at once ----

WORDS = ["one", "two", "three"]
NAME: ContextVar[str] = ContextVar("name")


class Slow(Model):
    """Says a word now and then; notes when it goes on."""

    def __init__(self, order: list[str], pause: float = 2 * runs.BURST) -> None:
        self._order = order
        self._pause = pause

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for n, word in enumerate(WORDS):
            if self._pause:
                await asyncio.sleep(self._pause)
            where: dict[str, Any] = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": n}
            yield ResponseTextDeltaEvent(type="response.output_text.delta", delta=word, logprobs=[], **where)
            self._order.append(f"after {word}")
        text = ResponseOutputText(type="output_text", text="".join(WORDS), annotations=[])
        whole = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])
        response = Response(
            id="r", object="response", created_at=0, model="slow", output=[whole],
            tools=[], tool_choice="auto", parallel_tool_calls=True,
        )  # fmt: skip
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=9)


async def ask(model: Model, folder: Path, sent: Callable[[bytes], None]) -> None:
    """Send a message to an app with this model; `sent` is called with what the server is given to send."""
    requests = [{"type": "http.request", "body": b'{"message": "hi"}'}]

    async def alice(request: Any) -> str:
        return "alice"

    async def receive() -> Message:
        if not requests:
            await asyncio.sleep(60)
        return requests.pop()

    async def send(message: Message) -> None:
        sent(message.get("body", b""))

    chat = app.create_app(model=model, store=f"sqlite:///{folder}/chat.db", authenticate=alice)
    async with chat.router.lifespan_context(chat):
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/chatkit", "query_string": b"", "headers": headers}
        await chat(scope, receive, send)


def test_a_word_is_sent_before_the_model_goes_on(tmp_path: Path) -> None:
    """From the model to the server, a word waits for no turn of the loop; it is sent by the response all the same."""
    order: list[str] = []
    tasks: list[Any] = []

    def sent(body: bytes) -> None:
        if (word := next((word for word in WORDS if word.encode() in body), None)) is not None:
            order.append(word)
            tasks.append(asyncio.current_task())

    asyncio.run(ask(Slow(order), tmp_path, sent))
    assert order == ["one", "after one", "two", "after two", "three", "after three"]
    assert len(set(tasks)) == 1


def test_nothing_is_lost_where_tasks_begin_eagerly(tmp_path: Path) -> None:
    """A host may use `asyncio.eager_task_factory`, which Python has from 3.12 on: then the SDK runs ahead of us."""
    bodies: list[bytes] = []

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
        await asyncio.wait_for(ask(Slow([], pause=0), tmp_path, bodies.append), 20)

    asyncio.run(main())
    frames = b"".join(bodies).decode().split("\n\n")
    events = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert "".join(event["content"] for event in events if event["type"] == "text") == "".join(WORDS)
    assert frames[-2:] == ["data: [DONE]", ""]


def test_a_task_goes_on_within_the_call_that_wakes_it() -> None:
    """As itself, until it waits again; whoever wakes it is itself again afterwards."""

    async def main() -> None:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        seen: list[Any] = []
        first: runs.Waiter[int] = runs.Waiter()
        second: runs.Waiter[int] = runs.Waiter()

        async def reader() -> None:
            NAME.set("reader")
            seen.append(await first)
            seen.append(asyncio.current_task())
            seen.append(NAME.get())
            seen.append(await second)

        task = asyncio.create_task(reader())
        NAME.set("writer")
        await asyncio.sleep(0)
        first.go_on(1)
        assert seen == [1, task, "reader"]
        assert asyncio.current_task() is not task
        assert NAME.get() == "writer"
        await asyncio.sleep(0)
        assert seen == [1, task, "reader"]
        second.set_result(2)
        assert seen == [1, task, "reader"]
        await task
        await asyncio.sleep(0)
        assert seen == [1, task, "reader", 2]
        assert not faults  # it was woken twice, and not a third time

    asyncio.run(main())


def test_a_task_whose_context_is_in_use_goes_on_later() -> None:
    """As where a host's tasks share one."""

    async def main() -> None:
        waiter: runs.Waiter[int] = runs.Waiter()

        async def reader() -> int:
            return await waiter

        async def writer() -> None:
            waiter.go_on(1)
            assert not task.done()

        shared = copy_context()
        task = asyncio.create_task(reader(), context=shared)
        await asyncio.sleep(0)
        await asyncio.create_task(writer(), context=shared)
        assert await asyncio.wait_for(task, 5) == 1

    asyncio.run(main())


def test_a_mistake_in_a_task_is_its_own() -> None:
    """Nothing that goes wrong in the task that is woken reaches the one that wakes it."""

    async def main() -> None:
        waiter: runs.Waiter[None] = runs.Waiter()

        async def reader() -> None:
            await waiter
            raise ValueError

        task = asyncio.create_task(reader())
        await asyncio.sleep(0)
        waiter.go_on(None)
        assert task.done()
        with pytest.raises(ValueError):  # noqa: PT011
            await task

    asyncio.run(main())


def test_all_readers_of_an_answer_go_on() -> None:
    """And may leave, or wait again, while the others are still to be woken."""

    async def main() -> None:
        answer = db.Answer(2, 1, "", [], "streaming", "")
        run = runs.Run(cast(runs.Store, None), answer, "alice", "none")
        got: list[list[runs.Event]] = [[] for _ in range(4)]

        async def reader(mine: list[runs.Event], most: int) -> None:
            async for batch in run.follow():
                mine += batch
                if len(mine) == most:
                    break

        tasks = [asyncio.create_task(reader(mine, most)) for mine, most in zip(got, (1, 2, 3, 3), strict=True)]
        await asyncio.sleep(0)
        for word in WORDS:
            await asyncio.sleep(2 * runs.BURST)
            run.publish(word)
        run.end(None)
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert got == [WORDS[:1], WORDS[:2], WORDS, WORDS]

    asyncio.run(main())


def test_a_burst_is_read_in_one_go() -> None:
    """The first item goes on at once, and the rest together."""

    async def main() -> None:
        relay, got = runs.Relay(at_once=int), list[int]()

        async def reader() -> None:
            while True:
                got.append(await relay.get())

        task = asyncio.create_task(reader())
        await asyncio.sleep(0)
        for n in range(100):
            relay.put_nowait(n)
            assert got == [0]
        await asyncio.sleep(0)
        assert got == list(range(100))
        task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("at_once", [int, str])
def test_a_relay_loses_nothing(at_once: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its items go on at once or not, and though a reader gives up: each comes once, and in its order."""
    monkeypatch.setattr(runs, "BURST", 0.0)

    async def main() -> None:
        relay = runs.Relay(at_once)
        got: list[int] = []

        async def reader() -> None:
            while len(got) < 6:
                got.append(await relay.get())

        given_up = asyncio.create_task(reader())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait((given_up,))
        relay.put_nowait(0)
        task = asyncio.create_task(reader())
        await asyncio.sleep(0)
        relay.put_nowait(1)
        assert got == ([0, 1] if at_once is int else [0])
        relay.put_nowait(2)
        relay.put_nowait(3)
        await asyncio.sleep(0)
        assert got == [0, 1, 2, 3]
        relay.put_nowait(4)
        task.cancel()  # when it has been woken, but has not got its item yet
        await asyncio.wait((task,))
        await asyncio.wait_for(asyncio.gather(reader(), relay.put(5)), 5)
        assert got == [0, 1, 2, 3, 4, 5]
        waiting = asyncio.create_task(relay.get())
        await asyncio.sleep(0)
        relay.put_nowait("for nobody")
        if not waiting.done():
            relay.get_nowait()  # as the SDK does with what nobody shall see any more
            await asyncio.sleep(0)
            relay.put_nowait("for nobody")
        assert await asyncio.wait_for(waiting, 5) == "for nobody"

    asyncio.run(main())
