"""The store: what is read and written, in SQL.

Each public method of `Store` is one unit of work, which happens whole or not at all, even if its caller is cancelled in
the middle. What a user asks for takes the id of that user; what a run writes goes by the answer's id. What a user may
have is counted in shares.py; parts of the store that are easily told apart are in store/. Where it all is stored, and
how, is the business of an engine (engines/). Its `read` sees one state of the database, and waits for no writer. Its
`write` may do a unit again, from the beginning, if it had to be undone. Its `transaction`, in which a tool does its
work, never does; what the tool calls of the store becomes a part of it. All three raise `Unavailable`.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NotRequired, TypedDict, cast

from todochat.dates import utc_now
from todochat.engines import Engine, Row, Sql, T, Value, open_engine
from todochat.events import Body, Event, Message, Status, dump, fold, joined, load
from todochat.shares import admit_turn, count_no_longer, count_tokens, size_of, size_of_question
from todochat.store.feedback import FeedbackStore
from todochat.store.search import like_any, patterns_for
from todochat.store.tasks import TaskStore
from todochat.store.versions import Versions

CONVERSATION = """id, title, created_at, updated_at, EXISTS (
    SELECT 1 FROM messages WHERE messages.conversation_id = conversations.id AND messages.status = 'streaming'
) AS live"""
MESSAGE = "id, role, content, tool_calls, reasoning, citations, status, error, feedback, created_at"

NO_LIMIT = 2**63 - 1
AT_ONCE = 20  # answers that are ended in one unit of work
LARGE = 20_000  # characters of JSON that are not read at one go with others like it, so that nobody waits
KEY_LIFETIME = timedelta(days=1)
BUSY = "An answer is still being written in this conversation. Wait for it, or stop it."
INTERRUPTED = "The server stopped before this answer was complete. Please ask again."


class Conflict(Exception):
    """The request contradicts what is stored; the text is a sentence for the user."""


class Busy(Conflict):
    """The conversation has a live answer."""


class NotFound(Exception):
    """What the request acts on is not there, or is somebody else's; the text is a sentence for the user."""


class ServerFull(Exception):
    """There is no room for another live answer; the text is a sentence for the user."""


class AnswerOver(Exception):
    """The answer is no longer being written: it was stopped, or its conversation was deleted.

    `by_user` is whether a user has asked another process to stop it.
    """

    def __init__(self, *, by_user: bool = False) -> None:
        self.by_user = by_user


class Conversation(TypedDict):
    """A conversation as the REST API shows it; times are ISO 8601 in UTC."""

    id: int
    title: str
    created_at: str
    updated_at: str
    live: bool  # whether an answer is being written in it
    messages: NotRequired[list[Message]]


@dataclass(frozen=True)
class TurnRequest:
    """What a user asks for: an answer to a new message, or a retry, which is another answer to an earlier message.

    - `message` with `title`: the first message of a new conversation, called so.
    - `message` with `conversation_id`: the next message of that one. If it is not the user's, and there is a `title`
      too, a new conversation is begun instead.
    - `retry_of`, a message's id, with `conversation_id`: a retry. A `message` replaces what the user had said.

    `key` is an idempotency key, and `digest` tells the request that came with it from others.
    """

    user_id: str
    message: str = ""
    title: str | None = None
    conversation_id: int | None = None
    retry_of: int | None = None
    key: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Limits:
    """How many messages of a conversation a turn gets, and how many answers may be live, of all and of one user."""

    history: int = 50
    live: int = 200
    live_per_user: int = 4


@dataclass(frozen=True)
class Turn:
    """An answer, and the messages before it, oldest first, the user's question last.

    If it is an `earlier` one nothing was stored: the same idempotency key had begun this answer before. Then the
    history is the question alone.
    """

    conversation: Conversation
    history: list[Message]
    answer: Message
    earlier: bool = False


@dataclass(frozen=True)
class Progress:
    """The events of a live answer from number `first` on."""

    answer_id: int
    first: int
    events: Sequence[Event]


@dataclass(frozen=True)
class Wishes:
    """What other processes want of a live answer: whether it is to stop, and how many `stop_readers` they have.

    These are readers whose leaving counts as Stop; None if no other process has had any.
    """

    stop: bool
    stop_readers: int | None


class Store(TaskStore, FeedbackStore, Versions):
    """What is stored; what it does with tasks is in store/tasks.py.

    Made by `await Store.open(database)`, ended by `await store.close()`. Where several processes share a database,
    `process` tells the answers that are made here from those of the others.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.process = secrets.token_hex(8)

    @classmethod
    async def open(cls, database: str, *, patience: float = 3.0) -> "Store":
        """Open or create the SQLite file at the path `database`, or the tables in PostgreSQL's database at that URL.

        In a file, which is this process's alone, the answers that a crash has left in the middle are ended.
        `patience` is for how long, in seconds, the database may do nothing before `Unavailable` is raised.
        Raises `StoreError` if the database cannot be used, or is not ours.
        """
        store = cls(await open_engine(database, patience))
        try:
            if not store.engine.shared:
                while await store.engine.write(lambda sql: interrupt(sql, "1 = 1")):
                    pass
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Wait for the unit of work that is under way, then let go of the database. A closed store stays closed."""
        await self.engine.close()

    async def ping(self) -> None:
        """Read something from the database; raises `Unavailable` if that cannot be done."""
        await self.engine.read(lambda sql: sql("SELECT 1 FROM conversations LIMIT 1"))

    # ---- conversations ----

    async def list_conversations(
        self, user_id: str, limit: int, offset: int = 0, search: str = ""
    ) -> list[Conversation]:
        """Return the user's conversations without their messages, last used first.

        With `search` only those in whose titles or messages it stands, whatever the case of its letters.
        """
        patterns = patterns_for(search)
        said = f"SELECT 1 FROM messages WHERE conversation_id = conversations.id AND ({like_any('content', patterns)})"
        rows = await self.engine.read(
            lambda sql: sql(
                f"""
                SELECT {CONVERSATION} FROM conversations
                WHERE user_id = ? AND ({like_any("title", patterns)} OR EXISTS ({said}))
                ORDER BY updated_at DESC, id DESC LIMIT ? OFFSET ?
                """,
                (user_id, *patterns, *patterns, limit, offset),
            ),
            long=bool(search),
        )
        return [conversation_in(row) for row in rows]

    async def has_conversation(self, user_id: str, conversation_id: int) -> bool:
        """Return whether the user has a conversation with this id."""
        return await self.engine.read(lambda sql: find_conversation(sql, user_id, conversation_id)) is not None

    async def get_conversation(
        self, user_id: str, conversation_id: int, *, last: int = NO_LIMIT, before: int = NO_LIMIT
    ) -> Conversation | None:
        """Return a conversation with its `last` messages before the one `before`, or all of them, oldest first.

        None if the user has none with this id.
        """

        async def work(sql: Sql) -> Conversation | None:
            conversation = await find_conversation(sql, user_id, conversation_id)
            if conversation is not None:
                conversation["messages"] = await _messages(sql, conversation_id, last, before)
            return conversation

        return await self.engine.read(work)

    async def get_message(self, user_id: str, message_id: int) -> Message | None:
        """Return one message; None if the user has none with this id."""

        async def work(sql: Sql) -> Message | None:
            rows = await sql(
                f"""
                SELECT {MESSAGE} FROM messages
                WHERE id = ? AND conversation_id IN (SELECT id FROM conversations WHERE user_id = ?)
                """,
                (message_id, user_id),
            )
            return await read_message(sql, rows[0]) if rows else None

        return await self.engine.read(work)

    async def rename_conversation(self, user_id: str, conversation_id: int, title: str) -> Conversation | None:
        """Set the title and return the conversation; None if the user has none with this id."""
        rows = await self.engine.write(
            lambda sql: sql(
                f"""
                UPDATE conversations SET title = ?, version = version + 1 WHERE id = ? AND user_id = ?
                RETURNING {CONVERSATION}
                """,
                (title, conversation_id, user_id),
            )
        )
        return conversation_in(rows[0]) if rows else None

    async def delete_conversation(self, user_id: str, conversation_id: int) -> bool:
        """Delete a conversation with its messages, a live answer included; False if the user has none with this id."""
        rows = await self.engine.write(
            lambda sql: sql(
                "DELETE FROM conversations WHERE id = ? AND user_id = ? RETURNING id", (conversation_id, user_id)
            )
        )
        return bool(rows)

    # ---- turns ----

    async def begin_turn(self, request: TurnRequest, limits: Limits, admit: Callable[[], None] = lambda: None) -> Turn:
        """Store what the user says, if it is new, and an empty answer that is `streaming`.

        A retry removes what came after the message that it answers. A key that was used before stores nothing, and
        returns the earlier answer. Raises `NotFound`, `Busy` if the conversation has a live answer, `Conflict` if the
        key came with another request, what `admit` raises, the last of the checks, and before it what
        `shares.admit_turn` does: if the user has too many live answers or conversations, too much in these, or has used
        up the tokens of the day.
        """

        async def work(sql: Sql) -> Turn:
            if (earlier := await _earlier(sql, request)) is not None:
                return earlier
            now = utc_now()
            conversation = await _conversation_for(sql, request, now)
            if conversation["live"]:
                raise Busy(BUSY)
            if request.retry_of is not None:
                # From its id on nothing counts any more; the message itself still does, if it stays as it is.
                await count_no_longer(sql, conversation["id"], request.retry_of + (0 if request.message else 1))
                await sql(
                    "DELETE FROM messages WHERE conversation_id = ? AND id > ?", (conversation["id"], request.retry_of)
                )
                if request.message:
                    await sql("UPDATE messages SET content = ? WHERE id = ?", (request.message, request.retry_of))
            await admit_turn(sql, request.user_id, limits.live_per_user, self.room)
            admit()
            goes_on = conversation["id"] == request.conversation_id
            history = await _messages(sql, conversation["id"], last=limits.history) if goes_on else []
            *question, answer = await self._insert_messages(sql, conversation["id"], request, now)
            if request.key is not None:
                await sql(
                    """
                    INSERT INTO idempotency_keys (user_id, key, request, answer_id, created_at)
                    VALUES (?, ?, ?, ?, ?)
                    """,
                    (request.user_id, request.key, request.digest, answer["id"], now),
                )
            return Turn(conversation, [*history, *question][-limits.history :], answer)

        # One of the user's at a time, on all processes, or two that come at once would both be the last one allowed.
        return await self.engine.write(work, lock=request.user_id)

    async def _insert_messages(self, sql: Sql, conversation_id: int, request: TurnRequest, now: str) -> list[Message]:
        """Insert what the user says, if it is new, and the empty answer; return them in this order."""
        question = [("user", request.message, "done", None)] if request.retry_of is None else []
        new = [*question, ("assistant", "", "streaming", self.process)]
        rows = await sql(
            f"""
            INSERT INTO messages (conversation_id, created_at, role, content, status, owner)
            VALUES {", ".join(["(?, ?, ?, ?, ?, ?)"] * len(new))} RETURNING {MESSAGE}
            """,
            [value for message in new for value in (conversation_id, now, *message)],
        )
        return [message_in(row) for row in sorted(rows, key=lambda row: int(row["id"]))]  # they come in any order

    async def save_progress(self, progress: Callable[[], Iterable[Progress]]) -> dict[int, Wishes]:
        """Add to what is stored of live answers, all in one transaction.

        Returns what other processes want of each answer that this one makes, by id: one that is missing has ended.
        `progress` is called when nobody else can write any more, so that nothing older follows what is newer.
        """

        async def work(sql: Sql) -> dict[int, Wishes]:
            rows = await sql(
                "SELECT id, asked, stop_readers FROM messages WHERE status = 'streaming' AND owner = ?", (self.process,)
            )
            live = {row["id"]: Wishes(row["asked"] is not None, row["stop_readers"]) for row in rows}
            await _append(sql, *(new for new in progress() if new.answer_id in live))
            return live

        return await self.engine.write(work)

    async def work_and_save(
        self, answer_id: int, work: Callable[[], Awaitable[T]], progress: Callable[[T], Progress]
    ) -> T:
        """Do a tool's `work` on this store, and add what `progress` makes of its output to the answer.

        Both happen, or neither. Raises `AnswerOver` if the answer is not `streaming` any more, or is asked to stop.
        """

        async def both(sql: Sql) -> T:
            result = await work()
            # Written, and not only read: so nobody else can end the answer before this is committed.
            rows = await sql(
                "UPDATE messages SET owner = owner WHERE id = ? AND status = 'streaming' AND owner = ? RETURNING asked",
                (answer_id, self.process),
            )
            if not rows:
                raise AnswerOver
            if rows[0]["asked"] is not None:
                raise AnswerOver(by_user=True)
            await _append(sql, progress(result))
            return result

        return await self.engine.transaction(both)

    async def finish_answer(
        self, last: Progress, status: Status, body: Body, tokens: tuple[int, int] | None = None
    ) -> bool:
        """Store an answer in its final state; return False, and do not, if it is no longer streaming.

        `last` are its events that are not stored yet. In SQLite they are all deleted; a shared database keeps them a
        while, for those who follow it elsewhere. `tokens` is what it took, input and output, if that is known.
        """
        return await self.engine.write(lambda sql: _finish(sql, last, status, body, tokens, self.engine.shared))


# ---- what several units of work do ----


async def find_conversation(sql: Sql, user_id: str, conversation_id: int) -> Conversation | None:
    rows = await sql(
        f"SELECT {CONVERSATION} FROM conversations WHERE id = ? AND user_id = ?", (conversation_id, user_id)
    )
    return conversation_in(rows[0]) if rows else None


async def _messages(sql: Sql, conversation_id: int, last: int, before: int = NO_LIMIT) -> list[Message]:
    """Return the last so many messages of a conversation before one, oldest first."""
    rows = await sql(
        f"SELECT {MESSAGE} FROM messages WHERE conversation_id = ? AND id < ? ORDER BY id DESC LIMIT ?",
        (conversation_id, before, last),
    )
    return [await read_message(sql, row) for row in reversed(rows)]


async def read_message(sql: Sql, row: Row) -> Message:
    """Return the message in a row; that of a live answer is empty, and what there is of it is in its events."""
    message = message_in(row)
    if len(row["tool_calls"]) > LARGE:
        await asyncio.sleep(0)
    if message["status"] == "streaming":
        _, events = await _events(sql, message["id"])
        message.update(cast(Message, fold(events)))
    return message


async def _events(sql: Sql, answer_id: int) -> tuple[int, list[Event]]:
    """Return how many events are stored of a live answer, and what they are, neighbouring texts as one."""
    count = 0
    events: list[Event] = []
    for row in await sql("SELECT first, events FROM live_events WHERE answer_id = ? ORDER BY first", (answer_id,)):
        new = load(row["events"])[max(0, count - row["first"]) :]  # checkpoints that are made at once may overlap
        count += len(new)
        events += joined(new)
        await asyncio.sleep(0)  # others are served, however long the answer is
    return count, events


async def _append(sql: Sql, *progress: Progress) -> None:
    # The same `first` may be written twice, in any order. As a list of events only grows, the longer one has it all.
    if progress := tuple(new for new in progress if new.events):
        await sql(
            f"""
            INSERT INTO live_events (answer_id, first, events) VALUES {", ".join(["(?, ?, ?)"] * len(progress))}
            ON CONFLICT (answer_id, first) DO UPDATE SET events = excluded.events
            WHERE LENGTH(excluded.events) > LENGTH(live_events.events)
            """,
            [value for new in progress for value in (new.answer_id, new.first, dump(new.events))],
        )


async def _finish(
    sql: Sql, last: Progress, status: Status, body: Body, tokens: tuple[int, int] | None, keep_events: bool
) -> bool:
    lists = (body["tool_calls"], body["reasoning"], body["citations"])
    texts = (body["content"], *map(json.dumps, lists))
    # The conversation first, as whoever deletes it begins there too: the other way round is a deadlock.
    conversations = await sql(
        """
        UPDATE conversations SET updated_at = ?, version = version + 1, size = size + ?
        WHERE id = (SELECT conversation_id FROM messages WHERE id = ? AND status = 'streaming') RETURNING id
        """,
        (utc_now(), size_of(*texts), last.answer_id),
    )
    if not conversations:
        return False
    # Then the events, so that the message is written to the pages of the file that they leave free.
    if not keep_events:
        await sql("DELETE FROM live_events WHERE answer_id = ?", (last.answer_id,))
    stored = await sql(
        """
        UPDATE messages SET content = ?, tool_calls = ?, reasoning = ?, citations = ?, status = ?, error = ?,
            input_tokens = ?, output_tokens = ?
        WHERE id = ? AND status = 'streaming' RETURNING id
        """,
        (*texts, status, body["error"], *(tokens or (None, None)), last.answer_id),
    )
    if not stored:  # another process has ended it while this waited for the conversation, and has counted its size
        await sql("UPDATE conversations SET size = size - ? WHERE id = ?", (size_of(*texts), conversations[0]["id"]))
        return False
    if tokens is not None:
        await count_tokens(sql, conversations[0]["id"], sum(tokens))
    if keep_events:
        await _append(sql, last)
    return True


async def interrupt(sql: Sql, which: str, *parameters: Value, keep_events: bool = False) -> bool:
    """End live answers that nobody makes any more, with what was stored of them: those for which `which` is true.

    An answer that was asked to stop is stopped. They are ended a few at a time: returns whether there are more.
    """
    found = await sql(
        f"""
        SELECT id, conversation_id FROM messages WHERE status = 'streaming' AND {which} ORDER BY id LIMIT {AT_ONCE}
        """,
        parameters,
    )
    for one in found:
        # Locked, in the order of `_finish`: its process may just wake up, and store a tool's result.
        await sql("UPDATE conversations SET version = version WHERE id = ?", (one["conversation_id"],))
        lock = f"UPDATE messages SET owner = owner WHERE id = ? AND status = 'streaming' RETURNING {MESSAGE}, asked"
        for row in await sql(lock, (one["id"],)):
            count, events = await _events(sql, one["id"])
            body: Body = fold(events) if events else message_in(row)  # before schema 3 the row had it
            last: list[Event] = []
            if not row["asked"]:
                body["error"] = INTERRUPTED
                last.append({"type": "error", "message": INTERRUPTED})
            await _finish(sql, Progress(one["id"], count, last), row["asked"] or "interrupted", body, None, keep_events)
    return len(found) == AT_ONCE


async def _conversation_for(sql: Sql, request: TurnRequest, now: str) -> Conversation:
    """Return the conversation of a turn that begins, marked as used; make it if it is a new one."""
    rows: Sequence[Row] = []
    if request.conversation_id is not None:
        rows = await sql(
            f"""
            UPDATE conversations SET updated_at = ?, version = version + 1, size = size + ? WHERE id = ? AND user_id = ?
            RETURNING {CONVERSATION}
            """,
            (now, size_of_question(request.message), request.conversation_id, request.user_id),
        )
    if request.retry_of is not None and not await sql(
        "SELECT 1 FROM messages WHERE id = ? AND conversation_id = ? AND role = 'user'",
        (request.retry_of, request.conversation_id),
    ):
        rows = []
    if not rows and request.title is not None:
        rows = await sql(
            f"""
            INSERT INTO conversations (user_id, title, created_at, updated_at, size) VALUES (?, ?, ?, ?, ?)
            RETURNING {CONVERSATION}
            """,
            (request.user_id, request.title, now, now, size_of_question(request.message)),
        )
    if not rows:
        raise NotFound("Not found.")
    return conversation_in(rows[0])


async def _earlier(sql: Sql, request: TurnRequest) -> Turn | None:
    """Return the turn that the request's idempotency key has begun before."""
    if request.key is None:
        return None
    await sql("DELETE FROM idempotency_keys WHERE created_at < ?", (utc_now(ago=KEY_LIFETIME),))
    rows = await sql(
        """
        SELECT request, answer_id, (SELECT conversation_id FROM messages WHERE id = answer_id) AS conversation_id
        FROM idempotency_keys WHERE user_id = ? AND key = ?
        """,
        (request.user_id, request.key),
    )
    if not rows:
        return None
    if rows[0]["request"] != request.digest:
        raise Conflict("This Idempotency-Key was used for a different request. Send each new message with a new key.")
    answer_id, conversation_id = rows[0]["answer_id"] or 0, rows[0]["conversation_id"] or 0
    # The messages first: they may be deleted just now, and their conversation with them.
    messages = await _messages(sql, conversation_id, last=2, before=answer_id + 1)
    conversation = await find_conversation(sql, request.user_id, conversation_id)
    if conversation is None:
        raise Conflict("This message was answered before, and that answer has been deleted since.")
    question, answer = messages
    return Turn(conversation, [question], answer, earlier=True)


# ---- rows ----


def message_in(row: Row) -> Message:
    lists = {name: json.loads(row[name]) for name in ("tool_calls", "reasoning", "citations")}
    return cast(Message, {**row, **lists})


def conversation_in(row: Row) -> Conversation:
    return cast(Conversation, {**row, "live": bool(row["live"])})
