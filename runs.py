"""A `Run` is one answer in the making: an asyncio task that belongs to the app, to which responses subscribe.

So nothing that matters lives in a response. A page that goes away does not end the answer, several readers can follow
the same one, and each run ends in exactly one state that is in the database before any reader hears of it.
"""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from contextvars import Context
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")
Event = str | dict[str, Any]  # a piece of the answer's text, or one of the dicts of the simple dialect
Ending = Literal["done", "stopped", "failed", "interrupted"]

log = logging.getLogger("todochat")

CHECKPOINT_EVERY = 0.2  # seconds: half a second is promised, and the machine may be busy or its disk slow
FINISHING = 5.0  # seconds that a tool in the middle of its work is given when its run has ended; our store needs 3
CLOSING = 2.0  # seconds that the ends of all answers are given at the shutdown
PING_EVERY = 15.0  # seconds
MAX_BATCH = 500  # events in one write: what a reader that has fallen behind costs in memory

BURST = 0.01  # seconds: events that follow each other faster are sent together if ...
MAX_GATHER = 8  # ... they come within so many turns of the loop, which take no time when nothing else is to be done

THINKING = "Processing your request..."  # what readers see until the model has something to say
INTERRUPTED = "The server is shutting down, so this answer ends here. Please ask again in a moment."
DELETED = "This conversation has been deleted."
ELSEWHERE = "This conversation was changed by another program, so this answer ends here."
BROKEN = "Something went wrong while answering. Please try again."
UNSAVED = "The database does not answer, so the end of this answer is not saved yet. Please reload in a moment."


class ShuttingDown(Exception):
    """No new answers are begun; the text is a sentence for the user."""


class Store(Protocol):
    """What a run needs of `db.Store`. An answer is a `db.Answer`, a turn a `db.Turn`."""

    async def save_answers(self, answers: Callable[[], list[Any]]) -> set[int]: ...
    async def finish_answer(self, answer: Any) -> None: ...
    async def record_tool(
        self,
        answer_id: int,
        work: Callable[[], Awaitable[Any]],
        record: Callable[[Any], Any],
        committed: Callable[[Any], None],
    ) -> Any: ...


# ---- without a turn of the event loop ----


class Waiter(asyncio.Future[T]):
    """A future whose task can go on within `go_on`; with `set_result` it goes on in the loop's next turn, as usual.

    A piece of text is handed over twice on its way from the model to the socket. The loop would put it behind the work
    of all other live answers each time, which is most of what they delay each other (see bench/README.md).
    """

    _wake_up: Callable[[Any], object] | None = None
    _context: Context | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """Called by the task that awaits this."""
        self._wake_up, self._context = fn, context
        super().add_done_callback(fn, context=context)

    def go_on(self, result: T) -> None:
        """Set the result, and run the task that awaits it until it waits for something again."""
        if self._wake_up is None or self._context is None:
            self.set_result(result)
            return
        self.remove_done_callback(self._wake_up)
        self.set_result(result)
        loop, current = self.get_loop(), asyncio.current_task()
        if current is not None:  # see "Extending" in the documentation of asyncio
            asyncio.tasks._leave_task(loop, current)
        try:
            self._context.run(self._wake_up, self)
        except RuntimeError:  # a host's tasks may share one context, and this one is in use further up
            loop.call_soon(self._wake_up, self, context=self._context)
        finally:
            if current is not None:
                asyncio.tasks._enter_task(loop, current)


class Relay(asyncio.Queue[Any]):
    """A queue whose one reader goes on within `put_nowait` if it waits for an item and this one is an `at_once`.

    But not in a burst, which it had better read in one go.
    """

    def __init__(self, at_once: type) -> None:
        super().__init__()
        self._at_once = at_once
        self._reader: Waiter[None] | None = None
        self._last = 0.0

    async def get(self) -> Any:
        """Return the next item."""
        while self.empty():
            self._reader = Waiter()
            await self._reader
        return self.get_nowait()

    def put_nowait(self, item: Any) -> None:
        """Append an item."""
        now = time.monotonic()
        in_burst, self._last = now - self._last < BURST, now
        super().put_nowait(item)
        if self._reader is None or self._reader.done():
            return
        if isinstance(item, self._at_once) and not in_burst:
            self._reader.go_on(None)
        else:
            self._reader.set_result(None)


# ---- one answer ----


class Run:
    """One answer: its events so far, the record that is stored of it, and the task that makes it.

    `answer` is the `db.Answer` that `begin_turn` made, still empty.
    """

    def __init__(self, store: Store, answer: Any, user_id: str, model: str) -> None:
        self.id: int = answer.id
        self.conversation_id: int = answer.conversation_id
        self.user_id = user_id
        self.model = model
        self.events: list[Event] = []
        self.ended = False
        self.tokens: tuple[int, int] | None = None  # input, output; None while unknown
        self.began = time.monotonic()
        self.first_text: float | None = None
        self.producer: asyncio.Task[str | None] | None = None  # returns why the turn failed, if it did
        self.finished: asyncio.Task[None] | None = None
        self.tools: set[asyncio.Task[Any]] = set()  # what tools do that must come to its end
        self.stopped_as: tuple[Ending, str | None] | None = None
        self.saved = 0  # how many events the database has
        self.keepers = 0  # readers without the last of whom it is stopped
        self._store = store
        self._answer = answer
        self._calls: list[dict[str, Any]] = []
        self.own: set[str] = set()  # the calls that are this run's, and not those of an agent inside a tool
        self._shown: set[str] = set()  # the calls whose results are stored and published
        self._thoughts: list[tuple[int, int, list[str]]] = []  # where, after how many calls, the pieces of the text
        self._text: list[str] = []  # how the answer goes on after `_content`
        self._content = ""
        self._waiters: set[Waiter[bool]] = set()
        self._gathering = False
        self._heard = self.began  # when the last event came, or the last ping went

    # ---- what readers see ----

    def publish(self, event: Event) -> None:
        """Append an event and have the readers woken."""
        now = time.monotonic()
        in_burst, self._heard = now - self._heard < BURST, now
        self.events.append(event)
        if isinstance(event, str):
            self._text.append(event)
            if self.first_text is None:
                self.first_text = now
        elif event["type"] == "tool_call":
            self._calls.append({name: event[name] for name in ("id", "name", "args")} | {"at": len(self.content())})
        elif event["type"] == "thinking" and "thread_id" not in event:  # the first one is ours, not the model's
            place = len(self.content()), len(self._calls)
            if not self._thoughts or self._thoughts[-1][:2] != place:
                self._thoughts.append((*place, []))
            self._thoughts[-1][2].append(event["content"])
        if not in_burst:
            self._wake()
        elif self._waiters and not self._gathering:
            self._gathering = True
            asyncio.get_running_loop().call_soon(self._gather, 0, MAX_GATHER)

    def _gather(self, seen: int, turns: int) -> None:
        """Wake the readers; but as long as each turn of the loop brings more, let that go into the same write."""
        if turns and len(self.events) > seen:
            asyncio.get_running_loop().call_soon(self._gather, len(self.events), turns - 1)
        else:
            self._gathering = False
            self._wake()

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Event], None]:
        """Yield the events from number `after` on, all that there are at once; an empty list after 15 s of silence.

        Ends when the run has ended and everything was yielded. A slow reader costs its place in the list, no more.
        """
        while True:
            if after < len(self.events):
                batch = self.events[after : after + MAX_BATCH]
                after += len(batch)
                yield batch
            elif self.ended:
                return
            elif not await self._changed():
                yield []

    async def _changed(self) -> bool:
        """Wait for the next event; return False if there was none for so long that readers should get a ping."""
        waiter: Waiter[bool] = Waiter()
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)

    def keep_alive(self) -> None:
        """Have the readers sent a ping if nothing has happened for so long."""
        if time.monotonic() - self._heard >= PING_EVERY:
            self._heard = time.monotonic()
            self._wake(happened=False)

    def _wake(self, happened: bool = True) -> None:
        for waiter in tuple(self._waiters):  # who goes on may wait again
            if not waiter.done():
                waiter.go_on(happened)

    # ---- what is stored ----

    def content(self) -> str:
        """Return the answer's text so far."""
        if self._text:
            self._content += "".join(self._text)
            self._text.clear()
        return self._content

    def answer(self, **changes: Any) -> Any:
        """Return the `db.Answer` as it stands, with `changes`."""
        reasoning = [{"text": "".join(pieces), "at": at, "calls": calls} for at, calls, pieces in self._thoughts]
        return replace(
            self._answer, content=self.content(), tool_calls=list(self._calls), reasoning=reasoning, **changes
        )

    async def record(
        self,
        call_id: str,
        work: Callable[[], Awaitable[Any]],
        as_json: Callable[[Any], Any],
        *,
        elsewhere: bool = False,
    ) -> Any:
        """Do a tool's `work` on the store, and store its result as JSON data in the answer: both, or neither.

        Once begun it is finished, even if the run is stopped in the middle. Work that is done `elsewhere` than on this
        store is followed by the storing of its result, as no transaction can hold both.
        """
        if call_id not in self.own:
            return await work()
        await self._called(call_id)
        return await self._finished(self._record(call_id, work, as_json, elsewhere))

    async def publish_result(self, event: dict[str, Any]) -> None:
        """Store a tool's result, and then show it, unless that has been done."""
        if event["id"] not in self._shown:
            await self._called(event["id"])
            await self._finished(self._publish_result(event))

    async def _finished(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await what must come to its end even if the run is stopped in the middle."""
        task = asyncio.create_task(work)
        self.tools.add(task)
        task.add_done_callback(self._no_longer)
        return await asyncio.shield(task)

    def _no_longer(self, tool: asyncio.Task[Any]) -> None:
        self.tools.discard(tool)
        if not tool.cancelled():
            tool.exception()  # if nobody waits for it any more, asyncio would complain that nobody has looked

    async def _called(self, call_id: str) -> None:
        while not any(call["id"] == call_id for call in self._calls):  # the SDK runs ahead of its events
            await self._changed()

    async def _publish_result(self, event: dict[str, Any]) -> None:
        self._calls = self._calls_with(event["id"], event["result"])
        await self._store.save_answers(lambda: [self.answer()])
        self._show(event["id"])

    def _show(self, call_id: str) -> None:
        if call_id not in self._shown:
            self._shown.add(call_id)
            [call] = [call for call in self._calls if call["id"] == call_id]
            self.publish({"type": "tool_result"} | {name: call[name] for name in ("id", "name", "result")})

    async def _record(
        self, call_id: str, work: Callable[[], Awaitable[Any]], as_json: Callable[[Any], Any], elsewhere: bool
    ) -> Any:
        def with_result(result: Any) -> Any:
            return replace(self.answer(), tool_calls=self._calls_with(call_id, as_json(result)))

        def keep(result: Any) -> None:
            self._calls = self._calls_with(call_id, as_json(result))

        if elsewhere:
            result = await work()
            keep(result)
            if self.id not in await self._store.save_answers(lambda: [self.answer()]):
                return result  # the answer is gone, with whoever would read of it
        else:
            result = await self._store.record_tool(self.id, work, with_result, keep)
        self._show(call_id)
        return result

    def _calls_with(self, call_id: str, result: Any) -> list[dict[str, Any]]:
        return [call | {"result": result} if call["id"] == call_id else call for call in self._calls]

    # ---- how it ends ----

    def stop(self, ending: Ending, sentence: str | None = None) -> None:
        """End the run early: close the model's connection, start no further tool, keep what there is."""
        if self.stopped_as is None and self.producer is not None and not self.producer.done():
            self.stopped_as = ending, sentence
            self.producer.cancel()

    def end(self, sentence: str | None) -> None:
        """Say why the answer did not end well, if it did not, and let the readers go."""
        if self.ended:
            return
        if sentence is not None:
            self.publish({"type": "error", "message": sentence})
        self.ended = True
        self._wake()

    def summary(self, ending: Ending) -> str:
        """Return the line for the log. It holds nothing that anybody said."""
        now = time.monotonic()
        first = "-" if self.first_text is None else f"{1000 * (self.first_text - self.began):.0f}"
        return (
            f"turn user={self.user_id!r} conversation={self.conversation_id} model={self.model} "
            f"tokens={'{}+{}'.format(*self.tokens) if self.tokens and any(self.tokens) else '-'} "
            f"tools={','.join(_plain(call['name']) for call in self._calls) or '-'} "
            f"first_text_ms={first} total_ms={1000 * (now - self.began):.0f} state={ending}"
        )


def _place(error: BaseException) -> str:
    """Return where an error happened, but not what it says: its text may quote what somebody wrote."""
    return " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-4:]))


def _plain(name: str) -> str:
    """Return a tool's name fit for the log: a model can invent one with anything in it."""
    return re.sub(r"[^\w.-]", "?", name[:64])


# Makes the events of a turn, a `db.Turn`.
Stream = Callable[[Run, Any], Awaitable[AsyncGenerator[Event, None]]]


class Runs:
    """All runs of one app. `unavailable` is the exception by which the store says that it cannot write right now."""

    def __init__(self, store: Store, unavailable: type[Exception]) -> None:
        self._store = store
        self._unavailable = unavailable
        self._live: dict[int, Run] = {}  # by conversation; a run stays until its final state is stored
        self._unsettled: dict[int, Any] = {}  # by conversation: final answers that could not be stored yet
        self._beginnings: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._close_by: float | None = None  # when the shutdown stops waiting

    def get(self, conversation_id: int) -> Run | None:
        """Return the conversation's live run."""
        run = self._live.get(conversation_id)
        return None if run is None or run.ended else run

    async def begin(
        self,
        begin_turn: Callable[[], Awaitable[Any]],
        stream: Stream,
        *,
        user_id: str,
        model: str,
    ) -> tuple[Any, Run | None]:
        """Store a turn with `begin_turn` and start the run that `stream` makes for it: both, whoever gives up waiting.

        Returns the turn and its run. If the turn had been started before (an idempotency key), the run is the one that
        is live, or None if the answer is complete. Raises `ShuttingDown`, and what `begin_turn` raises.
        """
        if self._close_by is not None:
            raise ShuttingDown("The server is shutting down. Please try again in a moment.")
        task = asyncio.create_task(self._begin(begin_turn, stream, user_id, model))
        self._beginnings.add(task)
        task.add_done_callback(self._beginnings.discard)
        return await asyncio.shield(task)

    async def _begin(
        self,
        begin_turn: Callable[[], Awaitable[Any]],
        stream: Stream,
        user_id: str,
        model: str,
    ) -> tuple[Any, Run | None]:
        while True:
            await self.settle()
            turn = await begin_turn()
            if not turn.earlier:
                run = Run(self._store, turn.answer, user_id, model)
                run.publish({"type": "thinking", "content": THINKING, "thread_id": run.conversation_id})
                if (other := self._live.get(run.conversation_id)) is not None:
                    other.stop("stopped", ELSEWHERE)  # another program has ended it in the file
                self._live[run.conversation_id] = run
                run.producer = asyncio.create_task(self._produce(run, turn, stream))
                run.finished = asyncio.create_task(self._conduct(run))
                if self._close_by is not None:  # it had to wait for the database
                    run.stop("interrupted", INTERRUPTED)
                if self._keeper is None or self._keeper.done():
                    self._keeper = asyncio.create_task(self._keep())
                return turn, run
            live = self._live.get(turn.answer.conversation_id)
            if live is not None and live.id == turn.answer.id:
                return turn, live
            if turn.answer.status != "streaming":
                return turn, None
            # The answer ended between our look at the database and our look at the runs, or is just about to begin.

    async def stop(self, conversation_id: int, ending: Ending, sentence: str | None = None) -> bool:
        """End the conversation's live run and wait until that is stored; False if there is none."""
        run = self.get(conversation_id)
        if run is None or run.finished is None:
            return False
        run.stop(ending, sentence)
        await asyncio.wait((run.finished,))
        return True

    async def wait_for_stop(self, conversation_id: int) -> bool:
        """Wait, for 5 s at most, if a run is being stopped; return whether the conversation is free of a live one."""
        run = self._live.get(conversation_id)
        if run is not None and run.finished is not None and run.stopped_as is not None:
            await asyncio.wait((run.finished,), timeout=FINISHING)
        return run is None or run.ended

    async def close(self) -> None:
        """End all runs as interrupted, store them, and begin no more."""
        self._close_by = self._close_by or time.monotonic() + CLOSING
        if self._beginnings:
            await asyncio.wait(self._beginnings, timeout=self._time_to_close())
        for run in self._live.values():
            run.stop("interrupted", INTERRUPTED)
        if finishing := [run.finished for run in self._live.values() if run.finished is not None]:
            await asyncio.wait(finishing, timeout=self._time_to_close())
        for run in self._live.values():  # the database hangs: the next start marks what is not stored
            run.end(UNSAVED)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))

    def _time_to_close(self) -> float:
        return max(0.0, (self._close_by or 0.0) - time.monotonic())

    async def settle(self) -> None:
        """Store the ends of answers that could not be stored when they came. Raises `unavailable`."""
        for conversation_id, answer in list(self._unsettled.items()):
            await self._store.finish_answer(answer)
            self._unsettled.pop(conversation_id, None)
            self._forget(answer)

    def _forget(self, answer: Any) -> None:
        run = self._live.get(answer.conversation_id)
        if run is not None and run.id == answer.id:
            del self._live[answer.conversation_id]

    # ---- the tasks ----

    async def _produce(self, run: Run, turn: Any, stream: Stream) -> str | None:
        events = await stream(run, turn)  # not sooner: a host's agent or context may fail to be made
        async with aclosing(events):
            async for event in events:
                if isinstance(event, dict):
                    if event["type"] == "error":
                        return str(event["message"])  # published once it is stored
                    if event["type"] == "tool_result":
                        await run.publish_result(event)
                        continue
                run.publish(event)
        return None

    async def _conduct(self, run: Run) -> None:
        assert run.producer is not None
        await asyncio.wait((run.producer,))
        if run.tools:
            _, hanging = await asyncio.wait(run.tools, timeout=FINISHING)
            for tool in hanging:  # a host's database that does not answer
                tool.cancel()
        ending, sentence = self._outcome(run, run.producer)
        try:
            if not await self._store_end(run.answer(status=ending, error=sentence)):
                sentence = UNSAVED
        except Exception as error:  # a run must end in a state, and no reader must wait for ever
            self._log_mistake(run, error)
            ending, sentence = "failed", BROKEN
            empty = replace(run.answer(), content="", tool_calls=[], reasoning=[])
            await self._store_end(replace(empty, status=ending, error=sentence))
        finally:
            log.info(run.summary(ending))
            run.end(sentence)

    async def _store_end(self, answer: Any) -> bool:
        try:
            await self._store.finish_answer(answer)
            self._forget(answer)
            return True
        except self._unavailable as error:
            log.error("conversation %d: the end of an answer is not stored yet: %s", answer.conversation_id, error)
            self._unsettled[answer.conversation_id] = answer
            return False

    def _outcome(self, run: Run, producer: "asyncio.Task[str | None]") -> tuple[Ending, str | None]:
        if producer.cancelled():  # or, if nobody asked for it, a tool of the host's has cancelled itself
            return run.stopped_as or (
                ("interrupted", INTERRUPTED) if self._close_by is not None else ("failed", BROKEN)
            )
        error = producer.exception()  # whatever it is, the run must end in a state
        if error is None:
            sentence = producer.result()
            return ("failed", sentence) if sentence else ("done", None)
        if isinstance(error, self._unavailable):
            return "failed", str(error)
        self._log_mistake(run, error)
        return "failed", BROKEN

    def _log_mistake(self, run: Run, error: BaseException) -> None:
        log.error("conversation %d: %s at %s", run.conversation_id, type(error).__name__, _place(error))

    async def _keep(self) -> None:
        """Store, while there are live answers, all that changed, in one transaction; and keep the quiet ones alive."""
        while self._live:
            await asyncio.sleep(CHECKPOINT_EVERY)
            for run in self._live.values():
                run.keep_alive()  # one timer for all: one for each wait would cost more than the wait
            try:
                await self.settle()
                await self._checkpoint()
            except self._unavailable as error:
                log.warning("checkpoint: %s", error)
            except Exception as error:  # the other answers must be saved all the same, the next time
                log.error("checkpoint: %s at %s", type(error).__name__, _place(error))

    async def _checkpoint(self) -> None:
        changed = [run for run in self._live.values() if run.saved < len(run.events) and not run.ended]
        if not changed:
            return

        counts: dict[Run, int] = {}

        def answers() -> list[Any]:
            counts.update((run, len(run.events)) for run in changed)
            return [run.answer() for run in changed]

        still_ours = await self._store.save_answers(answers)
        for run, count in counts.items():
            run.saved = count
            if run.id not in still_ours:
                run.stop("stopped", ELSEWHERE)
