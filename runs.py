"""A `Run` is one answer in the making: an asyncio task that belongs to the app, to which responses subscribe.

So nothing that matters lives in a response. A page that goes away does not end the answer, several readers can follow
the same one, and each run ends in exactly one state that is in the database before any reader hears of it.
"""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import Literal

from todochat.agent import Observer
from todochat.db import AnswerOver, Limits, Progress, Store, Turn, TurnRequest
from todochat.engines import T, Unavailable
from todochat.events import Body, Event, ToolCall, ToolResult, fold
from todochat.tool_output import as_json

Ending = Literal["done", "stopped", "failed", "interrupted"]

log = logging.getLogger("todochat")

CHECKPOINT_EVERY = 0.2  # seconds: half a second is promised, and the machine may be busy or its disk slow
FINISHING = 5.0  # seconds that a tool in the middle of its work is given when its run has ended; our store needs 3
CLOSING = 2.0  # seconds that the ends of all answers are given at the shutdown
MAX_BATCH = 500  # events in one write: what a reader that has fallen behind costs in memory

INTERRUPTED = "The server is shutting down, so this answer ends here. Please ask again in a moment."
DELETED = "This conversation has been deleted."
ELSEWHERE = "This conversation was changed by another program, so this answer ends here."
BROKEN = "Something went wrong while answering. Please try again."
UNSAVED = "The database does not answer, so the end of this answer is not saved yet. Please reload in a moment."


class ShuttingDown(Exception):
    """No new answers are begun; the text is a sentence for the user."""


class Run(Observer):
    """One answer: the list of its events so far, and the task that makes them.

    A tool's result can come by three ways, of which the first to come counts. A tool that works on our store has it
    stored in the transaction of its work (`record`). Any other function tool of the agent is heard of when it ends
    (`tool_ended`), and not when the slowest of those called at once has ended. What is no function tool (a handoff, a
    provider's own tool) comes as an event of the run. By each way it is stored first and then shown.
    """

    def __init__(self, store: Store, answer_id: int, conversation_id: int, user_id: str) -> None:
        self.id = answer_id
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.events: list[Event] = []
        self.saved = 0  # how many of them the database has
        self.ended = False
        self.began = time.monotonic()
        self.first_text: float | None = None
        self.tokens: tuple[int, int] | None = None  # input, output; None while unknown
        self.producer: asyncio.Task[str | None] | None = None  # returns why the turn failed, if it did
        self.finished: asyncio.Task[None] | None = None
        self.tools: set[asyncio.Task[object]] = set()  # what tools do that must come to its end
        self.stopped_as: tuple[Ending, str | None] | None = None
        self.readers_that_stop = 0  # how many readers there are without the last of whom it is stopped
        self.recording = asyncio.Lock()  # held while the result of a tool is being stored
        self._store = store
        self._news = asyncio.Event()
        self._in_doubt: int | None = None  # the number of an event that is not committed yet
        self._own: set[str] = set()  # the calls that are this run's, and not those of an agent inside a tool
        self._answered: set[str] = set()  # the calls whose results are stored

    # ---- what readers see ----

    def publish(self, event: Event) -> None:
        """Append an event, and wake the readers."""
        if event["type"] == "text" and self.first_text is None:
            self.first_text = time.monotonic()
        self.events.append(event)
        self._news.set()

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Event], None]:
        """Yield the events from number `after` on, all that there are at once.

        Ends when the run has ended and everything was yielded. A slow reader costs its place in the list, no more.
        """
        while True:
            there = len(self.events) if self._in_doubt is None else self._in_doubt
            if after < there:
                batch = self.events[after : min(there, after + MAX_BATCH)]
                after += len(batch)
                yield batch
            elif self.ended:
                return
            else:
                self._news.clear()
                await self._news.wait()

    # ---- what is stored ----

    def progress(self) -> Progress:
        """Return what the database does not have yet."""
        return Progress(self.id, self.saved, self.events[self.saved :])

    async def record(self, call_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do a tool's `work` on our store, and store its result in the answer: both, or neither.

        Once begun it is finished, even if the run is stopped in the middle.
        """
        if call_id not in self._own:
            return await work()
        return await self._finish_tool(self._record(await self._call(call_id), work))

    async def record_elsewhere(self, call_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do a tool's `work` on another store than ours, and then store its result: no transaction can hold both."""
        if call_id not in self._own:
            return await work()
        call = await self._call(call_id)

        async def both() -> T:
            output = await work()
            await self._keep_result(_result(call, output))
            return output

        return await self._finish_tool(both())

    def tool_began(self, call_id: str) -> None:
        """See `Observer`."""
        self._own.add(call_id)

    async def tool_ended(self, result: ToolResult) -> None:
        """See `Observer`; for a result that has been stored already this does nothing."""
        if result["id"] not in self._answered:
            await self._call(result["id"])
            await self._finish_tool(self._keep_result(result))

    def tokens_used(self, input_tokens: int, output_tokens: int) -> None:
        """See `Observer`."""
        self.tokens = input_tokens, output_tokens

    async def _record(self, call: ToolCall, work: Callable[[], Awaitable[T]]) -> T:
        async with self.recording:
            if self.stopped_as is not None:  # while it waited for another tool
                raise AnswerOver
            with ExitStack() as until_committed:

                def progress(output: T) -> Progress:
                    until_committed.enter_context(self._withheld(_result(call, output)))
                    return self.progress()

                return await self._store.record_tool(self.id, work, progress)

    async def _keep_result(self, result: ToolResult) -> None:
        async with self.recording:
            if result["id"] not in self._answered:
                with self._withheld(result):
                    new = self.progress()  # now: what is published while the database is waited for is not among it
                    if self.id not in await self._store.save_progress(lambda: [new]):
                        raise AnswerOver

    @contextmanager
    def _withheld(self, result: ToolResult) -> Iterator[None]:
        """Append a result that readers see, as all that comes behind it, only when the block has stored it."""
        self._in_doubt = len(self.events)
        self.events.append(result)
        try:
            yield
            self.saved = self._in_doubt + 1
            self._answered.add(result["id"])
        except BaseException:
            del self.events[self._in_doubt]
            raise
        finally:
            self._in_doubt = None
            self._news.set()

    async def _call(self, call_id: str) -> ToolCall:
        """Return the event of a call; wait for it, as the SDK runs ahead of its events."""
        async for batch in self.follow():
            for event in batch:
                if event["type"] == "tool_call" and event["id"] == call_id:
                    return event
        raise AnswerOver

    async def _finish_tool(self, work: Coroutine[object, object, T]) -> T:
        """Await what must come to its end even if the run is stopped in the middle."""
        task = asyncio.create_task(work)
        self.tools.add(task)
        task.add_done_callback(self._tool_finished)
        return await asyncio.shield(task)

    def _tool_finished(self, tool: asyncio.Task[T]) -> None:
        self.tools.discard(tool)
        if not tool.cancelled():
            tool.exception()  # if nobody waits for it any more, asyncio would complain that nobody has looked

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
        self._news.set()

    def summary(self, ending: Ending, model: str) -> str:
        """Return the line for the log. It holds nothing that anybody said."""
        now = time.monotonic()
        tools = [re.sub(r"[^\w.-]", "?", e["name"][:64]) for e in self.events if e["type"] == "tool_call"]
        first = "-" if self.first_text is None else f"{1000 * (self.first_text - self.began):.0f}"
        return (
            f"turn user={self.user_id!r} conversation={self.conversation_id} model={model} "
            f"tokens={'{}+{}'.format(*self.tokens) if self.tokens and any(self.tokens) else '-'} "
            f"tools={','.join(tools) or '-'} "
            f"first_text_ms={first} total_ms={1000 * (now - self.began):.0f} state={ending}"
        )


def _result(call: ToolCall, output: object) -> ToolResult:
    return {"type": "tool_result", "id": call["id"], "name": call["name"], "result": as_json(output)}


@dataclass(frozen=True)
class _End:
    """The end of an answer, as it is to be stored."""

    answer_id: int
    conversation_id: int
    ending: Ending
    body: Body


# Makes the events of a turn.
Produce = Callable[[Run, Turn], Awaitable[AsyncGenerator[Event, None]]]


class Runs:
    """All runs of one app. `model` is what the log calls the model."""

    def __init__(self, store: Store, limits: Limits, model: str) -> None:
        self._store = store
        self._limits = limits
        self._model = model
        self._live: dict[int, Run] = {}  # by conversation; a run stays until its final state is stored
        self._unsettled: dict[int, _End] = {}  # by conversation: ends that could not be stored yet
        self._beginnings: set[asyncio.Task[tuple[Turn, Run | None]]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._close_by: float | None = None  # when the shutdown stops waiting

    def get(self, conversation_id: int) -> Run | None:
        """Return the conversation's live run."""
        run = self._live.get(conversation_id)
        return None if run is None or run.ended else run

    async def begin(self, request: TurnRequest, produce: Produce) -> tuple[Turn, Run | None]:
        """Store a turn and start its run, whose events `produce` makes: both, whoever gives up waiting.

        Returns the turn and its run. If the turn had been begun before (an idempotency key), the run is the one that is
        live, or None if the answer is complete. Raises `ShuttingDown`, and what `Store.begin_turn` raises.
        """
        if self._close_by is not None:
            raise ShuttingDown("The server is shutting down. Please try again in a moment.")
        task = asyncio.create_task(self._begin(request, produce))
        self._beginnings.add(task)
        task.add_done_callback(self._beginnings.discard)
        return await asyncio.shield(task)

    async def _begin(self, request: TurnRequest, produce: Produce) -> tuple[Turn, Run | None]:
        while True:
            await self.settle()
            turn = await self._store.begin_turn(request, self._limits)
            if not turn.earlier:
                return turn, self._start(turn, request.user_id, produce)
            live = self._live.get(turn.conversation["id"])
            if live is not None and live.id == turn.answer["id"]:
                return turn, live
            if turn.answer["status"] != "streaming":
                return turn, None
            # The answer ended between our look at the database and our look at the runs, or is just about to begin.

    def _start(self, turn: Turn, user_id: str, produce: Produce) -> Run:
        run = Run(self._store, turn.answer["id"], turn.conversation["id"], user_id)
        run.publish({"type": "started"})
        if (other := self._live.get(run.conversation_id)) is not None:
            other.stop("stopped", ELSEWHERE)  # another program has ended it in the file
        self._live[run.conversation_id] = run
        run.producer = asyncio.create_task(self._produce(run, turn, produce))
        run.finished = asyncio.create_task(self._conduct(run))
        if self._close_by is not None:  # it had to wait for the database
            run.stop("interrupted", INTERRUPTED)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())
        return run

    async def stop(self, conversation_id: int, ending: Ending, sentence: str | None = None) -> bool:
        """End the conversation's live run and wait until that is stored; False if there is none."""
        run = self.get(conversation_id)
        if run is None or run.finished is None:
            return False
        run.stop(ending, sentence)
        await asyncio.wait((run.finished,))
        return True

    async def end_deleted(self, conversation_id: int) -> None:
        """End the live run of a conversation that has just been deleted."""
        await self.stop(conversation_id, "stopped", DELETED)

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
        """Store the ends of answers that could not be stored when they came. Raises `Unavailable`."""
        for end in list(self._unsettled.values()):
            await self._store_end(end)

    # ---- the tasks ----

    async def _produce(self, run: Run, turn: Turn, produce: Produce) -> str | None:
        events = await produce(run, turn)  # not sooner: a host's agent or context may fail to be made
        async with aclosing(events):
            async for event in events:
                if event["type"] == "error":
                    return event["message"]  # published once it is stored
                if event["type"] == "tool_result":
                    await run.tool_ended(event)
                else:
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
        body = fold(run.events)
        try:
            if not await self._store_or_keep(_End(run.id, run.conversation_id, ending, {**body, "error": sentence})):
                sentence = UNSAVED
        except Exception as error:  # a run must end in a state, and no reader must wait for ever
            self._log_mistake(run, error)
            ending, sentence = "failed", BROKEN
            empty = fold([{"type": "error", "message": sentence}])
            await self._store_or_keep(_End(run.id, run.conversation_id, ending, empty))
        finally:
            log.info(run.summary(ending, self._model))
            run.end(sentence)

    async def _store_or_keep(self, end: _End) -> bool:
        """Store the end of an answer, or keep it until that can be done; return whether it is stored."""
        try:
            await self._store_end(end)
            return True
        except Unavailable as error:
            log.error("conversation %d: the end of an answer is not stored yet: %s", end.conversation_id, error)
            self._unsettled[end.conversation_id] = end
            return False

    async def _store_end(self, end: _End) -> None:
        await self._store.finish_answer(end.answer_id, end.ending, end.body)
        self._unsettled.pop(end.conversation_id, None)
        run = self._live.get(end.conversation_id)
        if run is not None and run.id == end.answer_id:
            del self._live[end.conversation_id]

    def _outcome(self, run: Run, producer: "asyncio.Task[str | None]") -> tuple[Ending, str | None]:
        if producer.cancelled():  # or, if nobody asked for it, a tool of the host's has cancelled itself
            return run.stopped_as or (
                ("interrupted", INTERRUPTED) if self._close_by is not None else ("failed", BROKEN)
            )
        error = producer.exception()  # whatever it is, the run must end in a state
        if error is None:
            sentence = producer.result()
            return ("failed", sentence) if sentence else ("done", None)
        if isinstance(error, AnswerOver):  # as a tool has noticed, and the next checkpoint would have
            return "stopped", ELSEWHERE
        if isinstance(error, Unavailable):
            return "failed", str(error)
        self._log_mistake(run, error)
        return "failed", BROKEN

    def _log_mistake(self, run: Run, error: BaseException) -> None:
        log.error("conversation %d: %s at %s", run.conversation_id, type(error).__name__, _place(error))

    async def _keep(self) -> None:
        """Store, while there are live answers, all that is new in them, in one transaction."""
        while self._live:
            await asyncio.sleep(CHECKPOINT_EVERY)
            try:
                await self.settle()
                await self._checkpoint()
            except Unavailable as error:
                log.warning("checkpoint: %s", error)
            except Exception as error:  # the other answers must be saved all the same, the next time
                log.error("checkpoint: %s at %s", type(error).__name__, _place(error))

    async def _checkpoint(self) -> None:
        changed = [run for run in self._live.values() if run.saved < len(run.events) and not run.ended]
        if not changed:
            return
        new: dict[Run, Progress] = {}

        def progress() -> list[Progress]:
            # Where the result of a tool is being stored, that stores all the rest too.
            new.update((run, run.progress()) for run in changed if not run.recording.locked())
            return list(new.values())

        live = await self._store.save_progress(progress)
        for run, saved in new.items():
            run.saved = max(run.saved, saved.first + len(saved.events))
        for run in changed:
            if run.id not in live:
                run.stop("stopped", ELSEWHERE)


def _place(error: BaseException) -> str:
    """Return where an error happened, but not what it says: its text may quote what somebody wrote."""
    return " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-4:]))
