"""Runs, on a real store: what readers see, what is stored of it, and how an answer ends."""

import asyncio
import gc
import json
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import FunctionTool, RunConfig, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from conftest import PATIENCE, SOON, awaited, opened
from scripted import pieces, text, thought
from starlette.types import Message as ASGIMessage

from todochat import app, metrics, runs
from todochat.agent import TurnContext, TurnOptions, stream_turn, todo_agent
from todochat.db import Limits, Progress, ServerFull, Store, Turn, TurnRequest, Wishes
from todochat.engines import Unavailable
from todochat.events import MAX_BATCH, Event, Message, ToolResult, fold, load
from todochat.runs import Run, Runs

pytestmark = pytest.mark.anyio

CALL: Event = {"type": "tool_call", "id": "1", "name": "add_task", "args": {"title": "x"}}
STARTED: Event = {"type": "started"}
LIMITS = Limits(live=500, live_per_user=500)


def word(content: str) -> Event:
    """Return a piece of text."""
    return {"type": "text", "content": content}


def result(output: object, call_id: str = "1") -> ToolResult:
    """Return what a tool has answered."""
    return {"type": "tool_result", "id": call_id, "name": "add_task", "result": output}


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[Runs]:
    """Have runs on a store until the block ends."""
    live = Runs(store, LIMITS, "none")
    try:
        yield live
    finally:
        await live.close()


@pytest.fixture
async def live(store: Store) -> AsyncIterator[Runs]:
    """The runs of `store`."""
    async with running(store) as live:
        yield live


async def begin(live: Runs, events: Callable[..., AsyncGenerator[Event, None]], thread: int | None = None) -> Run:
    """Begin a turn whose events are made by `events(run, turn)`."""
    _, run = await live.begin(TurnRequest("alice", "hi", title="hi", conversation_id=thread), awaited(events))
    assert run is not None
    return run


async def seen(run: Run, after: int = 0) -> list[Event]:
    """Return what a reader sees, to the end."""
    return [event for batch in [batch async for batch in run.follow(after)] for event in batch]


async def stored(store: Store, run: Run) -> Message:
    """Return the answer as the database has it."""
    message = await store.get_message("alice", run.answer_id)
    assert message is not None
    return message


def body_of(answer: Message) -> dict[str, object]:
    """Return what of an answer its events add up to."""
    return {name: value for name, value in answer.items() if name in fold([])}


# ---- what is stored is what readers saw ----


class Witness:
    """Another program that looks into the file whenever something was committed."""

    def __init__(self, path: Path, run: Run) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._run = run
        self.states: list[list[Event]] = []  # what there was of the live answer, after each commit

    def look(self) -> None:
        """Take note of what is stored."""
        rows = self._file.execute(
            "SELECT first, events FROM live_events WHERE answer_id = ? ORDER BY first", (self._run.answer_id,)
        ).fetchall()
        events: list[Event] = []
        for first, dumped in rows:
            assert first == len(events), "a gap, or something twice"
            events += load(dumped)
        if events and events != self.states[-1:]:
            self.states.append(events)

    async def watch(self) -> None:
        """Look after each commit, until the run is over."""
        version = 0
        while not self._run.ended:
            [(newer,)] = self._file.execute("PRAGMA data_version").fetchall()
            if newer != version:
                version = newer
                self.look()
            await asyncio.sleep(0)

    def has(self, number: int, event: ToolResult) -> bool:
        """Return whether an event is stored under its number, or the answer, which is over, has it."""
        self.look()
        [(status, calls)] = self._file.execute(
            "SELECT status, tool_calls FROM messages WHERE id = ?", (self._run.answer_id,)
        ).fetchall()
        if status == "streaming":
            return self.states[-1][number : number + 1] == [event]
        return {"id": event["id"], "result": event["result"]} in [
            {"id": call["id"], "result": call.get("result")} for call in json.loads(calls)
        ]

    def close(self) -> None:
        """Look no more."""
        self._file.close()


class Script:
    """A turn made by chance: text, thoughts, several tools at once, ours and a host's, each as slow as it likes."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self._store, self._chance = store, chance

    async def events(self, run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        """Return the events of the turn."""
        todo = todo_agent(ScriptedModel([*(self._answer(n) for n in range(4)), pieces(*self._words("end"))]))
        todo.tools.append(self._tool_of_the_host())
        options = TurnOptions(RunConfig(tracing_disabled=True))
        context = TurnContext("alice", self._store, partial(run.record, atomically=True))
        return stream_turn(todo, turn.history, context, options, run)

    def _answer(self, n: int) -> ModelStep:
        calls = [
            self._chance.choice(
                [
                    function_call("add_task", {"title": f"{n} {m}"}, call_id=f"{n} {m}"),
                    function_call("list_tasks", {}, call_id=f"{n} {m}"),
                    function_call("elsewhere", {}, call_id=f"{n} {m}"),
                ]
            )
            for m in range(self._chance.randint(1, 4))
        ]
        return pieces(*self._words(str(n)), output=calls)

    def _words(self, name: str) -> list[Any]:
        return [self._chance.choice([text, text, thought])(f"{name} {m} ") for m in range(self._chance.randint(1, 9))]

    def _tool_of_the_host(self) -> FunctionTool:
        @function_tool
        async def elsewhere() -> str:
            """Take a while, and change nothing that we know."""
            for _ in range(self._chance.randint(0, 40)):
                await asyncio.sleep(0)
            return json.dumps({"done": True})

        return elsewhere


class Readers:
    """Readers of a run that come at any moment and go on from any number of those that were shown so far."""

    def __init__(self, run: Run, witness: Witness, chance: random.Random) -> None:
        self._run, self._witness, self._chance = run, witness, chance
        self._tasks: list[asyncio.Task[tuple[int, list[Event]]]] = []

    async def come(self) -> None:
        """Come, until the run is over."""
        while not self._run.ended:
            self._tasks.append(asyncio.create_task(self._read(self._chance.randint(0, len(self._run.events)))))
            for _ in range(self._chance.randint(1, 50)):
                await asyncio.sleep(0)

    async def _read(self, after: int) -> tuple[int, list[Event]]:
        got: list[Event] = []
        async for batch in self._run.follow(after):
            assert batch, "an empty batch"
            for event in batch:
                if event["type"] == "tool_result":
                    assert self._witness.has(after + len(got), event), "shown before it was stored"
                got.append(event)
        return after, got

    async def all(self) -> list[tuple[int, list[Event]]]:
        """Return from which number each has read, and what."""
        return await asyncio.gather(*self._tasks)


async def trouble(path: Path, run: Run, chance: random.Random) -> None:
    """Be another program that takes the file's lock now and then, for longer than the engine's patience."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        while not run.ended:
            await asyncio.sleep(chance.random() / 20)
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                continue
            await asyncio.sleep(0.1)
            other.execute("ROLLBACK")


@pytest.mark.parametrize("troubled", [False, True])
@pytest.mark.parametrize("seed", range(8))
async def test_what_is_stored_is_what_readers_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, troubled: bool
) -> None:
    """After each commit the file has the first events of the list that readers saw, index for index, and no other.

    No result is shown before it is stored, whoever makes it; whoever comes back with `after=N` misses nothing and sees
    nothing twice; and what stays is what all of that adds up to. So it is too while the file is locked now and then.
    """
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 0.0)  # a checkpoint at every moment
    # Of several tools that fail at once openai-agents 0.24 looks at the first, and asyncio complains of the others.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    chance, path = random.Random(seed), tmp_path / "chat.db"
    async with opened(tmp_path, patience=0.05 if troubled else 60.0) as store, running(store) as live:
        _, run = await live.begin(TurnRequest("alice", "hi", title="hi"), Script(store, chance).events)
        assert run is not None
        witness = Witness(path, run)
        readers = Readers(run, witness, chance)
        disturbing = [trouble(path, run, chance)] if troubled else []
        await asyncio.gather(seen(run), witness.watch(), readers.come(), *disturbing)
        whole = await seen(run)
        for state in witness.states:
            assert state == whole[: len(state)]
        for after, got in await readers.all():
            assert got == whole[after:]
        for after in range(len(whole) + 1):
            assert await seen(run, after) == whole[after:]
        await live.store_deferred_ends()
        answer = await stored(store, run)
        if not troubled:
            assert (answer["status"], answer["error"]) == ("done", None)
            assert len(witness.states) > 9
        assert answer["status"] in ("done", "failed")
        # Readers may have been told, instead of how it ended, that the end was not stored yet.
        assert body_of(answer) == fold(whole) | {"error": answer["error"]}
        added = [call for call in answer["tool_calls"] if call["name"] == "add_task" and "result" in call]
        tasks = await store.list_tasks("alice")
        assert {call["result"]["task_id"] for call in added} == {task["id"] for task in tasks}
        witness.close()


async def test_the_end_is_told_while_a_result_is_being_stored(tmp_path: Path) -> None:
    """A database that hangs keeps nobody waiting at the shutdown, and what it has not confirmed is not shown."""
    hangs = asyncio.Event()

    class Hanging(Store):
        async def save_progress(self, progress: Callable[[], Iterable[Progress]]) -> dict[int, Wishes]:
            list(progress())
            hangs.set()
            return await asyncio.Future()

    async with opened(tmp_path) as store:
        run = Run(Hanging(store.engine), 1, 1, "alice")
        run.publish(STARTED)
        run.publish(CALL)
        storing = asyncio.create_task(run.tool_ended(result(1)))
        await hangs.wait()
        run.publish(word("behind"))
        run.end("The database hangs.")
        assert await seen(run) == [STARTED, CALL, {"type": "error", "message": "The database hangs."}]
        storing.cancel()
        for tool in run.tool_tasks:
            tool.cancel()
        assert [event["type"] for event in await seen(run)] == ["started", "tool_call", "error"]


async def test_a_result_that_is_committed_after_a_shutdown_gave_up_is_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database answers a commit too late for the shutdown: what it has committed stays in the answer."""
    monkeypatch.setattr(runs, "CLOSING", 0.2)
    hangs, answers = asyncio.Event(), asyncio.Event()

    class Slow(Store):
        async def save_progress(self, progress: Callable[[], Iterable[Progress]]) -> dict[int, Wishes]:
            live = await super().save_progress(progress)
            if any(event["type"] == "tool_result" for new in progress() for event in new.events):
                hangs.set()
                await answers.wait()
            return live

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield CALL
        await run.tool_ended(result(1))

    async with running(Slow(store.engine)) as live:
        run = await begin(live, events)
        await hangs.wait()
        await live.close()
        assert await seen(run) == [STARTED, CALL, {"type": "error", "message": runs.UNSAVED}]
        answers.set()
        await asyncio.wait_for(run.conclusion, SOON)
    assert [event["type"] for event in run.events] == ["started", "tool_call", "tool_result", "error"]
    answer = await stored(store, run)
    assert (answer["status"], answer["error"]) == ("interrupted", runs.SHUT_DOWN)
    assert [call["result"] for call in answer["tool_calls"]] == [1]


async def test_what_a_shutdown_that_gave_up_has_told_the_readers_is_not_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's store goes on after the app has: the end that it is given at last is that of the answer."""
    monkeypatch.setattr(runs, "CLOSING", 0.2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> Any:
        begun.set()
        await go_on.wait()
        return await store.add_task("alice", "x")

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield CALL
        run.tool_began("1")
        await run.record("1", work, atomically=False)

    async with running(store) as live:
        run = await begin(live, events)
        await begun.wait()
        stopping = asyncio.create_task(live.stop("alice", run.conversation_id))
        await asyncio.sleep(0.01)
        await live.close()
        assert await seen(run) == [STARTED, CALL, {"type": "error", "message": runs.UNSAVED}]
        go_on.set()
        await stopping
    answer = await stored(store, run)
    assert (answer["status"], answer["error"]) == ("stopped", None)
    assert [call["result"]["title"] for call in answer["tool_calls"]] == ["x"]


async def test_text_waits_for_a_result_that_is_being_stored(
    store: Store, live: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said while a result waits to be stored is shown behind it, in its order, and is stored once."""
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 0.0)
    said, go_on = asyncio.Event(), asyncio.Event()

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield CALL
        storing = asyncio.create_task(run.tool_ended(result(1)))
        await asyncio.sleep(0.01)
        yield word("behind ")
        said.set()
        await storing
        yield word("after ")
        await go_on.wait()
        yield word("end")

    async def read(run: Run) -> None:
        async for batch in run.follow():
            got.extend(batch)

    got: list[Event] = []
    expected = [STARTED, CALL, result(1), word("behind "), word("after "), word("end")]
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
        run = await begin(live, events)
        witness = Witness(tmp_path / "chat.db", run)
        other.execute("BEGIN IMMEDIATE")
        reading = asyncio.create_task(read(run))
        await said.wait()
        await asyncio.sleep(0.05)
        assert got == expected[: len(got)]
        assert len(got) <= 2
        other.execute("ROLLBACK")
    async with asyncio.timeout(10):
        while witness.states[-1:] != [expected[:5]]:
            await asyncio.sleep(0)
            witness.look()
    go_on.set()
    await reading
    witness.close()
    assert got == expected


async def test_what_is_stored_beside_a_result_is_stored_once(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result whose commit takes long, while checkpoints come and go: the answer is stored as readers saw it."""
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 0.0)
    hold, held, go_on, take = (asyncio.Event() for _ in range(4))

    class Slow(Store):
        async def save_progress(self, progress: Callable[[], Iterable[Progress]]) -> dict[int, Wishes]:
            if any(event["type"] == "tool_result" for new in progress() for event in new.events):
                await take.wait()
            live = await super().save_progress(progress)
            if hold.is_set() and not held.is_set():
                held.set()  # it is stored, and that is not known yet
                await go_on.wait()
            return live

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        hold.set()
        yield word("before ")
        await held.wait()
        yield word("then ")
        yield CALL
        ending = asyncio.create_task(run.tool_ended(result(1)))
        await asyncio.sleep(0.05)
        go_on.set()
        await asyncio.sleep(0.3)  # in which many checkpoints come
        take.set()
        await ending
        yield word("after")
        await asyncio.Future()

    store = Slow(any_store.engine)
    async with running(store) as live, asyncio.timeout(PATIENCE):
        run = await begin(live, events)
        while run.saved < 6:  # noqa: ASYNC110 - a checkpoint tells nobody
            await asyncio.sleep(0.01)
        rows = "SELECT first, events FROM live_events WHERE answer_id = ? ORDER BY first"
        there: list[Event] = []
        for row in await store.engine.read(lambda sql: sql(rows, (run.answer_id,))):
            assert row["first"] == len(there), "a gap, or something twice"
            there += load(row["events"])
        assert there == run.events


async def test_what_a_tool_does_when_it_is_waited_for_no_longer_is_undone(
    store: Store, live: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that is still at work when its answer has to end leaves nothing, neither its task nor a result."""
    monkeypatch.setattr(runs, "FINISHING", 0.0)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> Any:
        task = await store.add_task("alice", "x")
        begun.set()
        await go_on.wait()
        return task

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield CALL
        run.tool_began("1")
        await run.record("1", work, atomically=True)

    run = await begin(live, events)
    await begun.wait()
    stopping = asyncio.create_task(live.stop("alice", run.conversation_id))
    try:
        async with asyncio.timeout(SOON):
            while run.tool_tasks:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
    finally:
        go_on.set()
    await stopping
    answer = await stored(store, run)
    assert answer["status"] == "stopped"
    assert ["result" in call for call in answer["tool_calls"]] == [False]
    assert await store.list_tasks("alice") == []


async def test_what_fails_when_it_is_stopped_is_not_logged_with_its_text(
    live: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that answers a cancellation with an error of its own: the answer is stopped, and its text in no log."""
    waits = asyncio.Event()

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("a ")
        waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("a secret text")

    run = await begin(live, events)
    await waits.wait()
    assert await live.stop("alice", run.conversation_id) == run.answer_id
    del run
    await asyncio.sleep(0.05)
    gc.collect()
    await asyncio.sleep(0)
    assert "secret text" not in caplog.text


# ---- what could not be stored ----


async def over_in_the_file(store: Store, path: Path, run: Run) -> None:
    """Be another program that ends all answers."""
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE messages SET status = 'stopped' WHERE status = 'streaming'")


async def deleted(store: Store, path: Path, run: Run) -> None:
    """Delete the conversation."""
    assert await store.delete_conversation("alice", run.conversation_id)


@pytest.mark.parametrize("whose", ["ours", "a host's"])
@pytest.mark.parametrize("over", [over_in_the_file, deleted])
async def test_the_result_of_an_answer_that_is_over_is_not_shown(
    store: Store, live: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, over: Callable[..., Any]
) -> None:
    """A tool that ends when its answer is over in the file has done nothing to our store, and nobody sees a result."""
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 60)  # or that would notice first, and end the run

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield CALL
        await over(store, tmp_path / "chat.db", run)
        yield word("meanwhile")
        run.tool_began("1")
        if whose == "ours":
            await run.record("1", lambda: store.add_task("alice", "x"), atomically=True)
        else:
            await run.tool_ended(result(1))
        yield word("never")

    run = await begin(live, events)
    whole = await seen(run)
    assert whole[:-1] == [STARTED, CALL, word("meanwhile")]
    assert whole[-1] == {"type": "error", "message": runs.ELSEWHERE}
    assert await store.list_tasks("alice") == []


@pytest.mark.parametrize("whose", ["ours", "a host's"])
async def test_a_result_that_a_full_disk_does_not_take_is_not_shown(small: Store, whose: str) -> None:
    """What could not be committed is neither shown nor done; what was said meanwhile is, in its order, and is kept."""
    long = "x" * 60_000

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("before ")
        yield CALL
        run.tool_began("1")
        if whose == "ours":
            storing = asyncio.create_task(run.record("1", lambda: small.add_task("alice", long), atomically=True))
        else:
            storing = asyncio.create_task(run.tool_ended(result(long)))
        for n in range(20):
            await asyncio.sleep(0)
            yield word(f"{n} ")
        with pytest.raises(Unavailable, match="full"):
            await storing
        yield word("after")

    async with running(small) as live:
        run = await begin(live, events)
        whole = await seen(run)
        assert whole == [STARTED, word("before "), CALL, *(word(f"{n} ") for n in range(20)), word("after")]
        answer = await stored(small, run)
        assert answer["status"] == "done"
        assert body_of(answer) == fold(whole)
        assert await small.list_tasks("alice") == []


async def test_what_cannot_be_stored_ends_its_turn_and_no_more(store: Store, live: Runs) -> None:
    """An answer that no database takes is a failed one: its readers are let go, and the conversation goes on."""

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("half a character: \ud800")

    run = await begin(live, events)
    assert (await seen(run))[-1] == {"type": "error", "message": runs.BROKEN}
    answer = await stored(store, run)
    assert (answer["status"], answer["error"]) == ("failed", runs.BROKEN)
    again = await store.begin_turn(TurnRequest("alice", "hi", conversation_id=run.conversation_id), LIMITS)
    assert again.answer["status"] == "streaming"


@pytest.mark.parametrize("tokens", [(-5, -(10**30)), (10**30, 10**30)])
async def test_no_count_of_tokens_is_too_odd_to_be_stored(any_store: Store, tokens: tuple[int, int]) -> None:
    """Whatever a model's server says that an answer took, the answer is stored, and all others of that day."""

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("whole")
        run.tokens_used(*tokens)

    counted = metrics.Metrics()
    live = Runs(any_store, LIMITS, "none", counted.turn_ended)
    try:
        for _ in range(2):
            run = await begin(live, events)
            assert await asyncio.wait_for(seen(run), PATIENCE) == [STARTED, word("whole")]
            assert (await stored(any_store, run))["status"] == "done"
    finally:
        await live.close()


async def test_readers_are_let_go_whatever_happens_to_what_is_noted_of_the_end(store: Store) -> None:
    """A fault where the ends of answers are counted leaves nobody waiting."""

    def refuse(turn: object, ending: object) -> None:
        raise ValueError(ending)

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("whole")

    live = Runs(store, LIMITS, "none", refuse)
    try:
        run = await begin(live, events)
        assert await asyncio.wait_for(seen(run), PATIENCE) == [STARTED, word("whole")]
        with pytest.raises(ValueError, match="done"):
            await run.conclusion
        assert (await stored(store, run))["status"] == "done"
    finally:
        await live.close()


async def test_an_end_that_cannot_be_stored_yet_is_stored_later(tmp_path: Path) -> None:
    """While another program holds the file readers are told so and let go; afterwards the answer is what it was."""

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("whole")
        other.execute("BEGIN IMMEDIATE")

    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
        async with opened(tmp_path, patience=0.5) as store, running(store) as live:
            run = await begin(live, events)
            assert await seen(run) == [STARTED, word("whole"), {"type": "error", "message": runs.UNSAVED}]
            assert (await stored(store, run))["status"] == "streaming"
            other.execute("ROLLBACK")
            again = await begin(live, events, run.conversation_id)  # at once, and so before the next checkpoint
            answer = await stored(store, run)
            assert (answer["status"], answer["content"], answer["error"]) == ("done", "whole", None)
            await seen(again)
            other.execute("ROLLBACK")


async def test_an_answer_that_was_ended_in_the_file_does_not_hide_the_next(
    store: Store, live: Runs, tmp_path: Path
) -> None:
    """When another program ends an answer, the next one in the conversation is followed and ended as its own."""

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("word")
        await asyncio.sleep(0.05 if turn.answer["id"] > 2 else 60)

    first = await begin(live, events)
    await over_in_the_file(store, tmp_path / "chat.db", first)
    second = await begin(live, events, first.conversation_id)
    assert (await seen(first))[-1] == {"type": "error", "message": runs.ELSEWHERE}
    assert await live.live("alice", first.conversation_id) is second
    assert await seen(second) == [STARTED, word("word")]
    assert await live.live("alice", first.conversation_id) is None
    assert (await stored(store, second))["status"] == "done"


# ---- how many there may be ----


async def test_of_many_that_begin_at_once_as_many_live_as_may(any_store: Store) -> None:
    """Exactly as many answers live in a process as may, whoever's they are; when one ends there is room for another."""
    live = Runs(any_store, Limits(live=3), "none")

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("word")
        await asyncio.sleep(600)

    def ask(n: int) -> Any:
        return live.begin(TurnRequest(f"user-{n}", "hi", title="hi", key="k", digest="d"), awaited(events))

    try:
        begun = await asyncio.gather(*(ask(n) for n in range(12)), return_exceptions=True)
        assert Counter(type(one) for one in begun) == {ServerFull: 9, tuple: 3}
        n = next(n for n, one in enumerate(begun) if isinstance(one, tuple))
        turn, answer = await ask(n)
        assert (turn.earlier, answer is None) == (True, False), "the same request again takes no other place"
        assert await live.stop(f"user-{n}", turn.conversation["id"]) is not None
        again = await asyncio.gather(*(ask(n) for n in range(20, 30)), return_exceptions=True)
        assert Counter(type(one) for one in again) == {ServerFull: 9, tuple: 1}
        assert len(live) == 3
    finally:
        await live.close()


# ---- how it ends ----


async def test_a_stop_lets_a_tool_come_to_its_end(store: Store, live: Runs) -> None:
    """A tool in the middle of its work when the answer is stopped is finished, stored and shown; none begins after."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> Any:
        begun.set()
        await go_on.wait()
        return await store.add_task("alice", "x")

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield CALL
        yield CALL | {"id": "2"}  # type: ignore[operator]
        run.tool_began("1")
        run.tool_began("2")
        waiting = run.record("2", lambda: store.add_task("alice", "never"), atomically=True)
        await asyncio.gather(run.record("1", work, atomically=True), waiting)

    run = await begin(live, events)
    await begun.wait()
    stopping = asyncio.create_task(live.stop("alice", run.conversation_id))
    await asyncio.sleep(0.01)
    assert not stopping.done()
    go_on.set()
    assert await stopping
    [task] = await store.list_tasks("alice")
    whole = await seen(run)
    assert [event["type"] for event in whole] == ["started", "tool_call", "tool_call", "tool_result"]
    assert whole[-1] == result(task)
    answer = await stored(store, run)
    assert (answer["status"], answer["error"]) == ("stopped", None)
    assert ["result" in call for call in answer["tool_calls"]] == [True, False]


async def test_a_shutdown_interrupts_what_is_live_and_begins_no_more(store: Store) -> None:
    """Readers are told, what there was is kept, and a new turn is refused in words."""
    live = Runs(store, LIMITS, "none")

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        yield word("half")
        await asyncio.sleep(60)

    run = await begin(live, events)
    reading = asyncio.create_task(seen(run))
    await asyncio.sleep(0.01)
    await live.close()
    assert await reading == [STARTED, word("half"), {"type": "error", "message": runs.SHUT_DOWN}]
    answer = await stored(store, run)
    assert (answer["status"], answer["content"], answer["error"]) == ("interrupted", "half", runs.SHUT_DOWN)
    with pytest.raises(Unavailable, match="is shutting down"):
        await begin(live, events)


async def test_an_agent_that_cannot_be_made_ends_the_turn(store: Store, live: Runs) -> None:
    """A host's function that fails is a failed answer, of whose error nothing is shown."""

    async def broken(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        raise ZeroDivisionError("a text that no client may see")

    _, run = await live.begin(TurnRequest("alice", "hi", title="hi"), broken)
    assert run is not None
    assert await seen(run) == [STARTED, {"type": "error", "message": runs.BROKEN}]
    assert (await stored(store, run))["status"] == "failed"


async def test_all_readers_of_an_answer_go_on(store: Store, live: Runs) -> None:
    """Each gets all, at its own pace; one that leaves, or takes nothing, holds nobody else."""
    count, take = 3 * MAX_BATCH, asyncio.Event()

    async def events(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        for n in range(count):
            yield word(f"{n} ")
            if n % 100 == 0:
                await asyncio.sleep(0)

    async def leave(most: int) -> list[Event]:
        got: list[Event] = []
        async for batch in run.follow():
            got += batch
            if len(got) >= most:
                break
        return got

    async def late() -> list[Event]:
        got: list[Event] = []
        async for batch in run.follow():
            assert len(batch) <= MAX_BATCH
            got += batch
            await take.wait()
        return got

    run = await begin(live, events)
    slow = asyncio.create_task(late())
    left, whole = await asyncio.gather(leave(5), seen(run))
    take.set()
    assert whole == [STARTED, *(word(f"{n} ") for n in range(count))] == await slow
    assert left == whole[: len(left)]


# ---- in an app ----


async def ask(folder: Path, model: ScriptedModel, sent: Callable[[bytes], None]) -> None:
    """Send a message to an app with this model; `sent` is called with what the server is given to send."""
    requests = [{"type": "http.request", "body": b'{"message": "hi"}'}]

    async def alice(request: Any) -> str:
        return "alice"

    async def receive() -> ASGIMessage:
        if not requests:
            await asyncio.sleep(60)
        return requests.pop()

    async def send(message: ASGIMessage) -> None:
        sent(message.get("body", b""))

    chat = app.create_app(model=model, store=f"sqlite:///{folder}/chat.db", authenticate=alice)
    async with chat.router.lifespan_context(chat):
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/chatkit", "query_string": b"", "headers": headers}
        await chat(scope, receive, send)


async def test_nothing_is_lost_where_tasks_begin_eagerly(tmp_path: Path) -> None:
    """A host may use `asyncio.eager_task_factory`, which Python has from 3.12 on: then the SDK runs ahead of us."""
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
    bodies: list[bytes] = []
    words = ["one ", "two ", "three"]
    model = ScriptedModel(
        [
            pieces(*map(text, words), output=[function_call("add_task", {"title": "x"}, call_id="1")]),
            [assistant_message("Done.")],
        ]
    )
    async with asyncio.timeout(20):
        await ask(tmp_path, model, bodies.append)
    frames = b"".join(bodies).decode().split("\n\n")
    events = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert "".join(event["content"] for event in events if event["type"] == "text") == "one two three\n\nDone."
    assert [event["result"]["success"] for event in events if event["type"] == "tool_result"] == [True]
    assert frames[-2:] == ["data: [DONE]", ""]
