"""A `Run` is one answer in the making: an asyncio task that belongs to the app, to which responses subscribe.

So nothing that matters lives in a response: a page that goes away does not end the answer, and several readers can
follow the same one. The life of an answer:

1. `Runs.begin` stores the user's message and an empty answer that is `streaming`, and starts a run for it.
2. The run's producer appends the events that the agent makes (agent.py); readers follow the list by index.
3. Every 0.2 s one checkpoint stores what is new in all runs. A tool's result is stored before it is shown.
4. The producer ends: because the answer is whole, or failed, or because `Run.stop` cancels it.
5. `_conclude` waits for to-do tools that are still at work, and stores the end: the events, folded into one message.
6. Then the readers see the end. If the database does not answer, they are told that the end is not saved yet, and it is
   stored when that is possible again. If the process dies before, the next start ends the answer as `interrupted`.

Where several processes share a database, processes.py does the rest. An answer that another one makes is followed as a
mirror, a feed that is filled from `live_events` every 0.1 s. It is stopped by the column `asked`, which its process
sees at its next checkpoint, or by deleting its row. The answers of a process that has shown no sign of life for some
5 s are ended as `interrupted` by any other.
At a first reading take `engine.shared` for False, and leave out what `others`, `wishes` and `was_left` are about.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from todochat.agent import Observer
from todochat.db import AnswerOver, Busy, Limits, Progress, ServerFull, Store, Turn, TurnRequest
from todochat.engines import SHUTTING_DOWN, T, Unavailable, whole
from todochat.events import Body, Event, Feed, ToolCall, ToolResult, fold
from todochat.logs import TurnLog, log_mistake
from todochat.processes import DELETED, Processes, wait_for_end
from todochat.turns.tool_output import as_json

Ending = Literal["done", "stopped", "failed", "interrupted"]

log = logging.getLogger("todochat")

CHECKPOINT_EVERY = 0.2  # seconds: half a second is promised, and the machine may be busy or its disk slow
FINISHING = 5.0  # seconds that a tool in the middle of its work is given when its run has ended
LOOK_AGAIN = 0.05  # seconds
ENDING_ELSEWHERE = 1.0  # seconds for which an answer that another process may just be stopping is waited for
MOST_TOKENS = 2**40  # that are counted of an answer in each direction, whatever a model's server says
CLOSING = 2.0  # seconds that the ends of all answers are given at the shutdown

STARTING = "The model is starting. This can take some minutes..."
SHUT_DOWN = "The server is shutting down, so this answer ends here. Please ask again in a moment."
ELSEWHERE = "This conversation was changed or deleted elsewhere, so this answer ends here."
BROKEN = "Something went wrong while answering. Please try again."
UNSAVED = "The database does not answer, so the end of this answer is not saved yet. Please reload in a moment."


class Run(Feed, Observer):
    """One answer in the making: the feed of its events, and the task that makes them.

    A tool's result is stored first, and shown when that is committed. It can come in three ways. What comes first is
    stored, and what comes later is ignored:
    1. A to-do tool does its work through `record`, which stores the result, with the work if that is in our store.
    2. When any other function tool ends, the SDK calls `tool_ended`.
    3. The SDK's event comes last. It counts for what is no function tool (a handoff, a provider's own tool).
    """

    producer: asyncio.Task[str | None]  # publishes the events; returns why the turn failed, if it did
    conclusion: asyncio.Task[None]  # waits for the producer, and stores the end

    def __init__(self, store: Store, answer_id: int, conversation_id: int, user_id: str) -> None:
        super().__init__(answer_id, conversation_id, user_id)
        self.saved = 0  # how many of the events the database has
        self.log = TurnLog(user_id, conversation_id)
        # To-do tools at work, and results of any tools being stored: what is not cancelled with the producer.
        self.tool_tasks: set[asyncio.Task[object]] = set()
        self.stopped_as: tuple[Ending, str | None] | None = None
        self.stop_readers = 0  # those of our readers whose leaving counts as Stop, once the last of them has left
        # Whether the last of these has left here, and no checkpoint has asked since whether other processes have any.
        self.was_left = False
        self._storing = asyncio.Lock()  # one result is stored at a time
        self._committing: ToolResult | None = None  # what is in the middle of its commit
        self._behind: list[Event] = []  # what has been published meanwhile, and comes behind it
        self._given_up = False  # whether the tools that are still at work are waited for no longer
        self._store = store
        self._own_calls: set[str] = set()  # those of this run, and not of an agent inside a tool
        self._stored_results: set[str] = set()  # by call

    def publish(self, event: Event) -> None:
        """Append an event; while a result is being committed it waits, to come behind that."""
        self.log.note(event)
        if self._committing is None:
            super().publish(event)
        else:
            self._behind.append(event)

    @property
    def count(self) -> int:
        """How many events the answer has: all, but for the error with which a shutdown ends it for its readers."""
        return len(self.events) - (1 if self.ended else 0)

    def unsaved(self) -> Progress:
        """Return the events that the database does not have yet: none during a commit, which stores them as well."""
        return Progress(self.answer_id, self.saved, [] if self._committing else self.events[self.saved : self.count])

    # ---- what the turn tells: see `Observer` ----

    def model_is_starting(self) -> None:
        """Tell the readers that they have to wait."""
        self.publish({"type": "started", "content": STARTING})

    def tokens_used(self, input_tokens: int, output_tokens: int) -> None:
        """Note what the turn took."""
        taken, made = (min(max(0, tokens), MOST_TOKENS) for tokens in (input_tokens, output_tokens))
        self.log.tokens = (taken, made) if taken or made else None

    def tool_began(self, call_id: str) -> None:
        """Note that this is a call of this run."""
        self._own_calls.add(call_id)

    async def tool_ended(self, result: ToolResult) -> None:
        """Store the result, unless it has been stored already."""
        if result["id"] not in self._stored_results:
            await self._wait_for_call(result["id"])
            await self._to_its_end(self._store_result(result))

    # ---- a tool's work, and its result ----

    async def record(self, call_id: str, work: Callable[[], Awaitable[T]], *, atomically: bool) -> T:
        """Do a tool's `work`, and store its result in the answer.

        `atomically` means both or neither, and is for work on our own store: no transaction can hold another one's.
        """
        if call_id not in self._own_calls:
            return await work()
        call = await self._wait_for_call(call_id)
        do_and_store = self._work_with_result if atomically else self._work_then_result
        return await self._to_its_end(do_and_store(call, work))

    async def _work_with_result(self, call: ToolCall, work: Callable[[], Awaitable[T]]) -> T:
        async with self._storing:
            if self.stopped_as is not None:  # while this waited for another tool
                raise AnswerOver
            try:
                output = await self._store.work_and_save(
                    self.answer_id, work, lambda output: self._begin_commit(_result(call, output))
                )
                self._show_committed()
                return output
            finally:
                self._end_commit()

    async def _work_then_result(self, call: ToolCall, work: Callable[[], Awaitable[T]]) -> T:
        output = await work()
        await self._store_result(_result(call, output))
        return output

    async def _store_result(self, result: ToolResult) -> None:
        async with self._storing:
            if result["id"] in self._stored_results:
                return
            try:
                progress = self._begin_commit(result)
                if self.answer_id not in await self._store.save_progress(lambda: [progress]):
                    raise AnswerOver
                self._show_committed()
            finally:
                self._end_commit()

    def _begin_commit(self, result: ToolResult) -> Progress:
        """Return what is to be stored with a result. Until `_end_commit` other events wait."""
        if self._given_up:
            raise AnswerOver
        self._committing = result
        return Progress(self.answer_id, self.saved, [*self.events[self.saved : self.count], result])

    def _show_committed(self) -> None:
        assert self._committing is not None
        self._stored_results.add(self._committing["id"])
        self.events.insert(self.count, self._committing)
        self.saved = self.count

    def _end_commit(self) -> None:
        self._committing, behind, self._behind = None, self._behind, []
        for event in behind:
            super().publish(event)  # which the log has noted already
        self._news.set()

    async def _wait_for_call(self, call_id: str) -> ToolCall:
        """Return the event of a call once it is published: the SDK runs ahead of its events."""
        async for batch in self.follow():
            for event in batch:
                if event["type"] == "tool_call" and event["id"] == call_id:
                    return event
        raise AnswerOver

    async def _to_its_end(self, work: Coroutine[object, object, T]) -> T:
        """Await what must come to its end even if the run is stopped in the middle."""
        try:
            return await whole(work, self.tool_tasks)
        except AnswerOver as over:
            self.stop("stopped", None if over.by_user else ELSEWHERE)  # as the next checkpoint would have
            # The SDK ignores an ordinary exception that comes while it is being cancelled, and would go on.
            raise asyncio.CancelledError from over

    # ---- how it ends ----

    def stop(self, ending: Ending, sentence: str | None = None) -> None:
        """End the run early: close the model's connection, start no further tool, keep what there is."""
        if self.stopped_as is None and not self.producer.done():
            self.stopped_as = ending, sentence
            self.producer.cancel()

    def is_left(self, elsewhere: int | None) -> bool:
        """Return whether there have been readers whose leaving counts as Stop, and all of them have left.

        `elsewhere` is how many of them other processes have; None if these have never had any.
        """
        return (self.was_left or elsewhere is not None) and not self.stop_readers and not elsewhere

    async def finish_tools(self, seconds: float) -> None:
        """Wait `seconds` for the tools that are still at work, and cancel those that do not come to an end."""
        if self.tool_tasks:
            await asyncio.wait(self.tool_tasks, timeout=seconds)
        # From here on no tool may begin a commit: one that has begun goes on even if the tool is cancelled.
        self._given_up = True
        while self._committing is not None:  # what is on its way already would be missing from the end
            self._news.clear()
            await self._news.wait()
        for tool in self.tool_tasks:
            tool.cancel()


def _result(call: ToolCall, output: object) -> ToolResult:
    return {"type": "tool_result", "id": call["id"], "name": call["name"], "result": as_json(output)}


@dataclass(frozen=True)
class _End:
    """The end of an answer, as it is to be stored: `last` are the events that are not stored yet."""

    conversation_id: int
    last: Progress
    ending: Ending
    body: Body
    tokens: tuple[int, int] | None


# Makes the events of a turn.
Produce = Callable[[Run, Turn], Awaitable[AsyncGenerator[Event, None]]]


class Runs:
    """All runs of one app. `model` is what the log calls the model; `note_end` is told of each end of an answer."""

    def __init__(
        self, store: Store, limits: Limits, model: str, note_end: Callable[[TurnLog, Ending], None] | None = None
    ) -> None:
        self._note_end = note_end
        self._store = store
        self._limits = limits
        self._model = model
        self._live: dict[int, Run] = {}  # by conversation; a run stays until its final state is stored
        self._deferred: dict[int, _End] = {}  # by answer: ends that could not be stored yet
        self._beginnings: set[asyncio.Task[object]] = set()
        self._places: set[object] = set()  # of those of them that are to be live, and are not yet
        self._checkpoints: asyncio.Task[None] | None = None
        self._close_by: float | None = None  # when the shutdown stops waiting
        self.others = Processes(store, lambda: [run.answer_id for run in self._live.values()])

    def __len__(self) -> int:
        return len(self._live)

    def _live_run(self, conversation_id: int) -> Run | None:
        run = self._live.get(conversation_id)
        return None if run is None or run.ended else run

    async def live(self, user_id: str, conversation_id: int) -> Feed | None:
        """Return the live answer in a conversation of the user's, whichever process makes it."""
        run = self._live_run(conversation_id)
        if run is None:
            return await self.others.follow(user_id, conversation_id)
        return run if run.user_id == user_id else None

    async def begin(self, request: TurnRequest, produce: Produce) -> tuple[Turn, Feed | None]:
        """Store a turn and start its run, whose events `produce` makes: both, even if the caller is cancelled.

        Returns the turn and the feed of its answer. If the turn had been begun before (an idempotency key), the feed is
        that of its live answer, or None if the answer is complete. If the last answer of the conversation is just being
        stopped, its end is waited for: who stops by closing the connection cannot know when that is done. Raises
        `Unavailable`, `ServerFull` if as many answers are live as may be, and what `Store.begin_turn` raises.
        """
        waited = False
        while True:
            if self._close_by is not None:
                raise Unavailable(SHUTTING_DOWN)
            try:
                if (begun := await whole(self._begin(request, produce), self._beginnings)) is not None:
                    return begun
                await asyncio.sleep(LOOK_AGAIN)
            except Busy:
                thread = request.conversation_id
                if waited or thread is None or not await self._wait_for_stop(request.user_id, thread):
                    raise
                waited = True

    async def _begin(self, request: TurnRequest, produce: Produce) -> tuple[Turn, Feed | None] | None:
        """Do what `begin` does; return None if that is to be tried again in a moment.

        Then the database says that the earlier answer of the request's key is live, but there is no run of it: it has
        just ended, or is just about to begin.
        """
        place = object()

        # Called within the unit of work that begins the turn, and perhaps again if that is done again.
        def take_place() -> None:
            if place not in self._places and len(self._live) + len(self._places) >= self._limits.live:
                raise ServerFull("The server is busy with other answers. Please try again in a moment.")
            self._places.add(place)

        await self.store_deferred_ends()
        try:
            turn = await self._store.begin_turn(request, self._limits, take_place)
            if not turn.earlier:
                return turn, self._start(turn, request.user_id, produce)
        finally:
            self._places.discard(place)
        if turn.answer["status"] != "streaming":
            return turn, None
        live = await self.live(request.user_id, turn.conversation["id"])
        return (turn, live) if live is not None and live.answer_id == turn.answer["id"] else None

    def _start(self, turn: Turn, user_id: str, produce: Produce) -> Run:
        run = Run(self._store, turn.answer["id"], turn.conversation["id"], user_id)
        run.publish({"type": "started"})
        if (other := self._live.get(run.conversation_id)) is not None:
            other.stop("stopped", ELSEWHERE)  # the database says that it has ended: another program writes to the file
        self._live[run.conversation_id] = run
        run.producer = asyncio.create_task(self._publish_events(run, turn, produce))
        run.conclusion = asyncio.create_task(self._conclude(run))
        if self._close_by is not None:  # it had to wait for the database
            run.stop("interrupted", SHUT_DOWN)
        if self._checkpoints is None or self._checkpoints.done():
            self._checkpoints = asyncio.create_task(self._checkpoint_always())
        return run

    async def stop(self, user_id: str, conversation_id: int) -> int | None:
        """Stop the live answer in a conversation of the user's, whichever process makes it, and wait for its end.

        Returns the answer's id, None if there is none. Raises `Unavailable` if another process does not end it.
        """
        run = self._live_run(conversation_id)
        if run is None:
            return await self.others.stop(user_id, conversation_id)
        await self._stop_and_wait(run, "stopped")
        return run.answer_id

    async def _stop_and_wait(self, run: Run, ending: Ending, sentence: str | None = None) -> None:
        run.stop(ending, sentence)
        await asyncio.wait((run.conclusion,))

    async def end_deleted(self, conversation_id: int) -> None:
        """End the live run of a conversation that has just been deleted."""
        if (run := self._live_run(conversation_id)) is not None:
            await self._stop_and_wait(run, "stopped", DELETED)

    async def stop_when_left(self, answer: Feed) -> Callable[[], Awaitable[object]] | None:
        """Count a reader whose leaving counts as Stop, once the last of them has left.

        Returns what is to be called when it leaves; None if it could not be counted. There are several such readers,
        perhaps on several processes, when a request was sent again with its idempotency key.
        """
        if isinstance(answer, Run):
            answer.stop_readers += 1
            return partial(self._stop_reader_left, answer)
        counted = await self.others.count_stop_readers(answer, +1)
        return partial(self.others.count_stop_readers, answer, -1) if counted else None

    async def _stop_reader_left(self, run: Run) -> None:
        run.stop_readers -= 1
        if run.stop_readers or run.ended:
            return
        if self._store.engine.shared:
            run.was_left = True
            with suppress(Unavailable):  # then it is one of the next checkpoints that stops it
                await self._checkpoint()  # which knows of the readers on other processes
        else:
            run.stop("stopped")

    async def _wait_for_stop(self, user_id: str, conversation_id: int) -> bool:
        """Wait, for 5 s at most, if an answer is being stopped; return whether the conversation is free of a live one.

        Of an answer that another process makes nobody knows here whether it is being stopped: that is given a second.
        """
        run = self._live.get(conversation_id)
        if run is None:
            mirror = await self.others.follow(user_id, conversation_id)
            return mirror is None or await wait_for_end(mirror, ENDING_ELSEWHERE)
        if run.stopped_as is not None or run.was_left:
            await asyncio.wait((run.conclusion,), timeout=FINISHING)
        return run.ended

    async def close(self) -> None:
        """End all runs as interrupted, store them, and begin no more.

        At a signal serve.py calls this first, while the readers are still connected; so does the end of the lifespan.
        """
        self._close_by = self._close_by or time.monotonic() + CLOSING
        for run in self._live.values():
            run.stop("interrupted", SHUT_DOWN)
        if self._beginnings:  # what they begin is stopped by `_start`
            await asyncio.wait(self._beginnings, timeout=self._time_to_close())
        if finishing := [run.conclusion for run in self._live.values()]:
            await asyncio.wait(finishing, timeout=self._time_to_close())
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(self._time_to_close()):
                await self.store_deferred_ends()
        for run in self._live.values():  # the database hangs: the next start marks what is not stored
            run.end(UNSAVED)
        if self._checkpoints is not None:
            self._checkpoints.cancel()
            await asyncio.wait((self._checkpoints,))
        await self.others.close()

    def _time_to_close(self) -> float:
        return max(0.0, (self._close_by or 0.0) - time.monotonic())

    async def store_deferred_ends(self) -> None:
        """Store the ends of answers that could not be stored when they came. Raises `Unavailable`."""
        for end in list(self._deferred.values()):
            await self._store_end(end)

    # ---- the tasks ----

    async def _publish_events(self, run: Run, turn: Turn, produce: Produce) -> str | None:
        """Publish the events of a turn; return why it failed, if it did."""
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

    async def _conclude(self, run: Run) -> None:
        await asyncio.wait((run.producer,))
        await run.finish_tools(FINISHING if self._close_by is None else CLOSING / 2)
        end = self._end_of(run)
        told: str | None = UNSAVED
        try:
            end = await self._store_end(end)
            told = end.body["error"]
        except Unavailable as error:
            log.error("conversation %d: the end of an answer is not stored yet: %s", run.conversation_id, error)
            self._deferred[run.answer_id] = end
        finally:
            try:
                run.log.write(self._model, end.ending)
                if self._note_end is not None:
                    self._note_end(run.log, end.ending)
            finally:  # whatever they do: no reader must wait for ever
                run.end(told)

    def _end_of(self, run: Run) -> _End:
        ending, sentence = self._outcome(run)
        events = run.events[: run.count]
        if sentence is not None:
            events.append({"type": "error", "message": sentence})
        last = Progress(run.answer_id, run.saved, events[run.saved :])
        return _End(run.conversation_id, last, ending, fold(events), run.log.tokens)

    async def _store_end(self, end: _End) -> _End:
        """Store the end of an answer, whose run is over then; return what is stored."""
        end = await self._store_or_replace(end)
        self._deferred.pop(end.last.answer_id, None)
        run = self._live.get(end.conversation_id)
        if run is not None and run.answer_id == end.last.answer_id:
            del self._live[end.conversation_id]
        return end

    async def _store_or_replace(self, end: _End) -> _End:
        """Store the end of an answer; return what is stored: a failure, if the answer cannot be stored as it is."""
        try:
            stored = await self._store.finish_answer(end.last, end.ending, end.body, end.tokens)
        except Unavailable:
            raise
        except Exception as error:  # a run must end in a state, and no reader must wait for ever
            log_mistake(f"conversation {end.conversation_id}", error)
            broken: list[Event] = [{"type": "error", "message": BROKEN}]
            end = replace(end, last=replace(end.last, events=broken), ending="failed", body=fold(broken))
            stored = await self._store.finish_answer(end.last, end.ending, end.body, end.tokens)
        if stored or end.body["error"] == DELETED:  # which is more exact than what follows
            return end
        return replace(end, ending="stopped", body={**end.body, "error": ELSEWHERE})

    def _outcome(self, run: Run) -> tuple[Ending, str | None]:
        """Return how a run has ended, and the sentence for the user if that is not well."""
        cancelled = run.producer.cancelled()
        # Asked for in any case, or asyncio would log it, with its text.
        error = None if cancelled else run.producer.exception()
        if run.stopped_as is not None:
            return run.stopped_as
        if cancelled:  # nobody asked for it: the process ends, or a tool of the host's has cancelled itself
            return ("interrupted", SHUT_DOWN) if self._close_by is not None else ("failed", BROKEN)
        if error is None:
            sentence = run.producer.result()
            return ("failed", sentence) if sentence else ("done", None)
        if isinstance(error, Unavailable):
            return "failed", str(error)
        log_mistake(f"conversation {run.conversation_id}", error)
        return "failed", BROKEN

    async def _checkpoint_always(self) -> None:
        """Store, while there are live answers, all that is new in them, in one transaction."""
        while self._live:
            await asyncio.sleep(CHECKPOINT_EVERY)
            try:
                await self.store_deferred_ends()
                await self._checkpoint()
            except Unavailable as error:
                log.warning("checkpoint: %s", error)
            except Exception as error:  # it must be tried again, for the sake of the other answers
                log_mistake("checkpoint", error)

    async def _checkpoint(self) -> None:
        """Store what is new, and do what other processes have asked for."""
        runs = [run for run in self._live.values() if not run.ended]
        shared = self._store.engine.shared
        if not any(shared or run.saved < len(run.events) for run in runs):
            return
        new: list[Progress] = []

        def unsaved() -> list[Progress]:  # perhaps again: a unit of work may be done again
            new[:] = [run.unsaved() for run in runs]
            return new

        live = await self._store.save_progress(unsaved)
        for run, progress in zip(runs, new, strict=True):
            run.saved = max(run.saved, progress.first + len(progress.events))
            if (wishes := live.get(run.answer_id)) is None:
                run.stop("stopped", ELSEWHERE)
            elif wishes.stop or run.is_left(wishes.stop_readers):
                run.stop("stopped")
            run.was_left = False  # what others have is known now
