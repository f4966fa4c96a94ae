"""The store: one SQLite file, raw SQL.

Each public method of `Store` is one unit of work, which happens whole or not at all, even if its caller is cancelled in
the middle. What a user asks for takes the id of that user; what a run writes goes by the answer's id. Nothing outside
this file writes SQL.
"""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

import aiosqlite

T = TypeVar("T")
Status = Literal["streaming", "done", "stopped", "failed", "interrupted"]

SCHEMA = Path(__file__).with_name("schema.sql")
SCHEMA_VERSION = 2
UPGRADES = {  # from which version: the SQL that leads to the next one
    1: """
        ALTER TABLE messages ADD COLUMN reasoning TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE messages ADD COLUMN feedback TEXT CHECK (feedback IN ('positive', 'negative'));
    """,
}
TABLES = {"conversations", "messages", "tasks"}
KEY_LIFETIME = timedelta(days=1)
BUSY = "An answer is still being written in this conversation. Wait for it, or stop it."
INTERRUPTED = "The server stopped before this answer was complete. Please ask again."


class StoreError(Exception):
    """The database file cannot be used; the text is a sentence for whoever starts the server."""


class Unavailable(Exception):
    """The database cannot do it right now (locked, full, read-only); the text is a sentence for the user."""


class Conflict(Exception):
    """The request contradicts what is stored; the text is a sentence for the user."""


class Busy(Conflict):
    """The conversation has a live answer."""


class NotFound(Exception):
    """What the request acts on is not there, or is somebody else's; the text is a sentence for the user."""


class TooMany(Exception):
    """There is no room for another live answer; the text is a sentence for the user."""

    def __init__(self, sentence: str, *, of_user: bool) -> None:
        super().__init__(sentence)
        self.of_user = of_user


class AnswerOver(Exception):
    """The answer is no longer being written: it was stopped, or its conversation was deleted."""


class Conversation(TypedDict):
    """A conversation as the REST API shows it; times are ISO 8601 in UTC."""

    id: int
    title: str
    created_at: str
    updated_at: str
    messages: NotRequired[list["Message"]]


class ToolCall(TypedDict):
    """A tool call of an answer: `at` is the offset in its content, in characters; no result if it was cut off."""

    id: str
    name: str
    args: Any
    result: NotRequired[Any]
    at: int


class Thought(TypedDict):
    """A stretch of a model's reasoning summary: `at` as in `ToolCall`, and the number of tool calls before it."""

    text: str
    at: int
    calls: int


class Message(TypedDict):
    """A message as the REST API shows it. `role` is "user" or "assistant"; a user's message is always "done"."""

    id: int
    role: Literal["user", "assistant"]
    content: str
    tool_calls: list[ToolCall]
    status: Status
    feedback: Literal["positive", "negative"] | None
    error: str | None  # the sentence that said why an answer did not end well
    created_at: str


class Record(Message):
    """A message with all that is stored of it."""

    reasoning: list[Thought]


class Task(TypedDict):
    """A task as the REST API shows it."""

    id: int
    title: str
    description: str | None
    completed: bool
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class Answer:
    """The stored state of one answer, as it is read and as it is written."""

    id: int
    conversation_id: int
    content: str
    tool_calls: list[ToolCall]
    status: Status
    created_at: str
    error: str | None = None
    reasoning: list[Thought] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """What `begin_turn` stored: the answer to come, and the messages before it, oldest first, the question last.

    If it is an `earlier` one nothing was stored, the same idempotency key had started this answer before; then the
    history is the question alone.
    """

    conversation: Conversation
    answer: Answer
    history: list[Message]
    earlier: bool = False


@dataclass
class _Batch:
    """Works that are done in one transaction, and the task that does them."""

    works: list[Callable[[], Any]] = field(default_factory=list)
    begun: bool = False
    done: asyncio.Task[list[Any]] | None = None


@dataclass(frozen=True)
class _Failed:
    """The outcome of a work that raised."""

    error: Exception


# The call of `record_tool` that the current task belongs to.
_CALL: ContextVar[object] = ContextVar("todochat_call", default=None)


class Store:
    """The one connection to the file. Made by `await Store.open(path)`, ended by `await store.close()`."""

    def __init__(self, connection: aiosqlite.Connection, owner: sqlite3.Connection | None, patience: float) -> None:
        self._db = connection
        self._connection = connection._conn  # to be used in its thread only
        self._owner = owner
        self._patience = patience
        # One connection is shared by all tasks: without the lock one task's rollback would take another's statements.
        self._lock = asyncio.Lock()
        self._closing = False
        self._deadline = 0.0  # of the unit of work that has the connection
        self._inside: object = None  # the call of `record_tool` that has the connection
        self._batch: _Batch | None = None  # what waits to be written

    @classmethod
    async def open(cls, path: str, *, patience: float = 3.0) -> "Store":
        """Open or create the file at `path` (":memory:" for none) and mark what a crash left behind as interrupted.

        `patience` is how long, in seconds, a unit of work waits for the database before it gives up.
        Raises `StoreError` if the file is in use by another process, read-only, corrupt, or not ours.
        """
        owner = None if path == ":memory:" else _own(path)
        connection = None
        try:
            version = 0 if path == ":memory:" else await asyncio.to_thread(_inspect, path)
            connection = await aiosqlite.connect(path, timeout=patience, isolation_level=None)
            store = cls(connection, owner, patience)
            store._deadline = time.monotonic() + patience
            await store._trip(lambda: store._prepare(version))
            return store
        except BaseException as error:
            if connection is not None:
                await connection.close()  # or its thread keeps the process from ending
            if owner is not None:
                owner.close()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"Cannot use the database {path}: {error}.") from error
            raise

    async def close(self) -> None:
        """Wait for the unit of work that is under way, then close the file. A closed store stays closed."""
        self._closing = True
        async with self._lock:
            await self._db.close()
            if self._owner is not None:
                self._owner.close()

    def _prepare(self, version: int) -> None:
        self._sql("PRAGMA journal_mode = WAL")
        self._sql("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut too
        self._sql("PRAGMA foreign_keys = ON")
        self._transaction(lambda: self._upgrade(version))
        self._sql("UPDATE messages SET status = 'interrupted', error = ? WHERE status = 'streaming'", (INTERRUPTED,))

    def _upgrade(self, version: int) -> None:
        steps = [SCHEMA.read_text()] if version == 0 else [UPGRADES[v] for v in range(version, SCHEMA_VERSION)]
        for statement in (s for step in steps for s in _statements(step)):  # executescript would commit in between
            self._sql(statement)
        if steps:
            self._sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # ---- units of work ----

    async def _read(self, work: Callable[[], T]) -> T:
        """Do `work`, which changes nothing."""
        if self._is_inside():
            return await self._trip(work)
        async with self._alone():
            return await self._trip(work)

    async def _write(self, work: Callable[[], T]) -> T:
        """Do `work` whole or not at all, even if the caller is cancelled.

        What waits for the connection at the same time shares one transaction, and so one sync of the disk. Inside
        `record_tool` the work becomes a part of that transaction.
        """
        if self._is_inside():
            return await self._trip(lambda: self._in_transaction(work))
        if self._batch is None or self._batch.begun:
            self._batch = _Batch()
            self._batch.done = asyncio.create_task(self._commit(self._batch))
        batch, n = self._batch, len(self._batch.works)
        batch.works.append(work)
        assert batch.done is not None
        outcome = (await asyncio.shield(batch.done))[n]
        if isinstance(outcome, _Failed):
            with _in_words():
                raise outcome.error
        return cast(T, outcome)

    def _is_inside(self) -> bool:
        return self._inside is not None and _CALL.get() is self._inside

    async def _commit(self, batch: "_Batch") -> list[Any]:
        try:
            async with self._alone():
                batch.begun = True  # who comes from now on waits for the next one
                return await self._trip(lambda: self._together(batch.works))
        finally:
            batch.begun = True

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Have the connection for this task alone."""
        deadline = time.monotonic() + self._patience
        try:
            async with asyncio.timeout(self._patience):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable("The database is busy. Please try again in a moment.") from None
        try:
            if self._closing:
                raise Unavailable("The server is shutting down. Please try again in a moment.")
            self._deadline = deadline
            with _in_words():
                yield
        finally:
            self._lock.release()

    async def _trip(self, work: Callable[[], T]) -> T:
        """Run `work` in the connection's thread.

        aiosqlite 0.22 offers this for single statements only, and a trip there and back costs about 50 µs: with one
        for each statement a short turn cost a tenth more.
        """
        run: Callable[[Callable[[], T]], Awaitable[T]] = self._db._execute
        return await run(work)

    # ---- what runs in the connection's thread ----

    def _sql(self, statement: str, parameters: Iterable[Any] = ()) -> list[Any]:
        return self._connection.execute(statement, tuple(parameters)).fetchall()

    def _in_transaction(self, work: Callable[[], T]) -> T:
        if not self._connection.in_transaction:
            # What is left of this unit's patience, after its wait for the connection, is for other programs' locks.
            left = max(0.0, self._deadline - time.monotonic())
            self._sql(f"PRAGMA busy_timeout = {int(1000 * left)}")
            # IMMEDIATE: a transaction that reads first and writes later could fail with BUSY whatever the timeout.
            self._sql("BEGIN IMMEDIATE")
        return work()

    def _transaction(self, work: Callable[[], T]) -> T:
        try:
            result = self._in_transaction(work)
            self._sql("COMMIT")
            return result
        finally:
            self._roll_back()

    def _together(self, works: list[Callable[[], Any]]) -> list[Any]:
        """Do each of the works in one transaction; return what it returned, or how it failed."""
        if len(works) == 1:
            return [self._transaction(works[0])]
        return self._transaction(lambda: [self._apart(work) for work in works])

    def _apart(self, work: Callable[[], Any]) -> Any:
        self._sql("SAVEPOINT work")
        try:
            return work()
        except Exception as error:  # carried to the one who asked for the work
            if not self._connection.in_transaction:  # a full disk: all is undone
                raise
            self._sql("ROLLBACK TO work")
            return _Failed(error)
        finally:
            if self._connection.in_transaction:
                self._sql("RELEASE work")

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk has rolled back already
            self._sql("ROLLBACK")

    # ---- conversations ----

    async def list_conversations(self, user_id: str, limit: int, offset: int) -> list[Conversation]:
        """Return the user's conversations without their messages, last used first."""
        rows = await self._read(
            lambda: self._sql(
                """
                SELECT id, title, created_at, updated_at FROM conversations WHERE user_id = ?
                ORDER BY updated_at DESC, id DESC LIMIT ? OFFSET ?
                """,
                (user_id, limit, offset),
            )
        )
        return [_conversation(row) for row in rows]

    async def get_conversation(self, user_id: str, conversation_id: int) -> Conversation | None:
        """Return a conversation with all its messages, oldest first; None if the user has none with this id."""

        def work() -> Conversation | None:
            conversation = self._conversation_of(user_id, conversation_id)
            if conversation is not None:
                conversation["messages"] = self._messages(conversation_id)
            return conversation

        return await self._read(work)

    async def page_of_conversations(
        self, user_id: str, *, after: int | None, newest_first: bool, limit: int
    ) -> list[Conversation]:
        """Return up to `limit` conversations in the order they were begun in; none, if `after` is not the user's."""
        compare, order = ("<", "DESC") if newest_first else (">", "ASC")
        rows = await self._read(
            lambda: self._sql(
                f"""
                SELECT id, title, created_at, updated_at FROM conversations
                WHERE user_id = ? AND (? IS NULL OR id {compare} (
                    SELECT id FROM conversations WHERE id = ? AND user_id = ?
                )) ORDER BY id {order} LIMIT ?
                """,
                (user_id, after, after, user_id, limit),
            )
        )
        return [_conversation(row) for row in rows]

    async def page_of_messages(
        self, user_id: str, conversation_id: int, *, since: int | None, newest_first: bool, limit: int
    ) -> tuple[Conversation, list[Record]] | None:
        """Return a conversation and up to `limit` of its messages from `since` on, in the order asked for.

        None if the user has none with this id.
        """
        compare, order = ("<=", "DESC") if newest_first else (">=", "ASC")

        def work() -> tuple[Conversation, list[Record]] | None:
            conversation = self._conversation_of(user_id, conversation_id)
            if conversation is None:
                return None
            rows = self._sql(
                f"""
                SELECT id, role, content, tool_calls, status, created_at, feedback, error, reasoning FROM messages
                WHERE conversation_id = ? AND (? IS NULL OR id {compare} ?) ORDER BY id {order} LIMIT ?
                """,
                (conversation_id, since, since, limit),
            )
            return conversation, [{**_message(row), "reasoning": json.loads(row[8])} for row in rows]

        return await self._read(work)

    async def has_conversation(self, user_id: str, conversation_id: int) -> bool:
        """Return whether the user has a conversation with this id."""
        return await self._read(lambda: self._conversation_of(user_id, conversation_id)) is not None

    async def get_message(self, user_id: str, message_id: int) -> Message | None:
        """Return one message; None if the user has none with this id."""
        rows = await self._read(
            lambda: self._sql(
                """
                SELECT m.id, m.role, m.content, m.tool_calls, m.status, m.created_at, m.feedback, m.error
                FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE m.id = ? AND c.user_id = ?
                """,
                (message_id, user_id),
            )
        )
        return _message(rows[0]) if rows else None

    async def rename_conversation(self, user_id: str, conversation_id: int, title: str) -> Conversation | None:
        """Set the title and return the conversation; None if the user has none with this id."""
        rows = await self._write(
            lambda: self._sql(
                """
                UPDATE conversations SET title = ? WHERE id = ? AND user_id = ?
                RETURNING id, title, created_at, updated_at
                """,
                (title, conversation_id, user_id),
            )
        )
        return _conversation(rows[0]) if rows else None

    async def delete_conversation(self, user_id: str, conversation_id: int) -> bool:
        """Delete a conversation with its messages, a live answer included; False if the user has none with this id."""
        return bool(
            await self._write(
                lambda: self._sql(
                    "DELETE FROM conversations WHERE id = ? AND user_id = ? RETURNING id", (conversation_id, user_id)
                )
            )
        )

    def _conversation_of(self, user_id: str, conversation_id: int) -> Conversation | None:
        rows = self._sql(
            "SELECT id, title, created_at, updated_at FROM conversations WHERE id = ? AND user_id = ?",
            (conversation_id, user_id),
        )
        return _conversation(rows[0]) if rows else None

    def _messages(self, conversation_id: int, last: int = 2**63 - 1) -> list[Message]:
        """Return the last so many messages, oldest first."""
        rows = self._sql(
            """
            SELECT id, role, content, tool_calls, status, created_at, feedback, error FROM messages
            WHERE conversation_id = ? ORDER BY id DESC LIMIT ?
            """,
            (conversation_id, last),
        )
        return [_message(row) for row in reversed(rows)]

    # ---- turns ----

    async def begin_turn(
        self,
        user_id: str,
        message: str,
        *,
        title: str | None,
        conversation_id: int | None,
        history_limit: int,
        max_live: int,
        max_live_per_user: int,
        key: str | None = None,
        request: str = "",
    ) -> Turn:
        """Store the user's message and an empty answer that is `streaming`.

        Without `conversation_id`, or with one that is not the user's, a new conversation called `title` is made; if
        the title is None, it must be the user's. `history_limit` is how many messages to return, this one included.
        `key` is the idempotency key and `request` a digest of what was sent with it; a key that was used before stores
        nothing and returns the earlier answer. Raises `NotFound`, `Busy` if the conversation has a live answer,
        `Conflict` if the key came with another request, and `TooMany` if there are `max_live` live answers already, or
        `max_live_per_user` of this user.
        """

        def work() -> Turn:
            if key is not None and (earlier := self._earlier(user_id, key, request)) is not None:
                return earlier
            now = _now()
            conversation = None if conversation_id is None else self._touch(user_id, conversation_id, now)
            if conversation is None and title is None:
                raise NotFound("Not found.")
            history = self._messages(conversation["id"], history_limit - 1) if conversation else []
            conversation = conversation or self._create(user_id, title or "", now)
            rows = self._sql(
                """
                INSERT INTO messages (conversation_id, role, content, status, created_at)
                VALUES (?, 'user', ?, 'done', ?), (?, 'assistant', '', 'streaming', ?)
                RETURNING id, role, content, tool_calls, status, created_at, feedback, error
                """,
                (conversation["id"], message, now, conversation["id"], now),
            )
            question, answer = sorted(map(_message, rows), key=itemgetter("id"))
            self._admit(user_id, max_live, max_live_per_user)
            return self._begun(user_id, conversation, [*history, question], answer, key, request)

        try:
            return await self._write(work)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            raise Busy(BUSY) from error

    async def retry_turn(
        self,
        user_id: str,
        *,
        conversation_id: int,
        message_id: int,
        history_limit: int,
        max_live: int,
        max_live_per_user: int,
        key: str | None = None,
        request: str = "",
    ) -> Turn:
        """Remove all that came after one of the user's messages, and begin another answer to it.

        Parameters, result and exceptions are those of `begin_turn`.
        """

        def work() -> Turn:
            if key is not None and (earlier := self._earlier(user_id, key, request)) is not None:
                return earlier
            asked = self._sql(
                """
                SELECT 1 FROM messages m JOIN conversations c ON c.id = m.conversation_id
                WHERE m.id = ? AND m.role = 'user' AND c.id = ? AND c.user_id = ?
                """,
                (message_id, conversation_id, user_id),
            )
            if not asked:
                raise NotFound("Not found.")
            if self._sql(
                "SELECT 1 FROM messages WHERE conversation_id = ? AND status = 'streaming'", (conversation_id,)
            ):  # the index would not see it: the live answer would be deleted before the new one is written
                raise Busy(BUSY)
            now = _now()
            self._sql("DELETE FROM messages WHERE conversation_id = ? AND id > ?", (conversation_id, message_id))
            conversation = self._touch(user_id, conversation_id, now)
            assert conversation is not None
            history = self._messages(conversation_id, history_limit)
            [row] = self._sql(
                """
                INSERT INTO messages (conversation_id, role, content, status, created_at)
                VALUES (?, 'assistant', '', 'streaming', ?)
                RETURNING id, role, content, tool_calls, status, created_at, feedback, error
                """,
                (conversation_id, now),
            )
            self._admit(user_id, max_live, max_live_per_user)
            return self._begun(user_id, conversation, history, _message(row), key, request)

        return await self._write(work)

    async def give_feedback(
        self, user_id: str, conversation_id: int, message_ids: set[int], kind: Literal["positive", "negative"]
    ) -> bool:
        """Store what the user thinks of answers; False, and nothing, if one of them is not in this conversation."""

        def work() -> bool:
            if self._conversation_of(user_id, conversation_id) is None:
                return False
            places = ", ".join("?" * len(message_ids))
            answers = f"conversation_id = ? AND role = 'assistant' AND id IN ({places})"
            [(found,)] = self._sql(f"SELECT COUNT(*) FROM messages WHERE {answers}", (conversation_id, *message_ids))
            if found < len(message_ids):
                return False
            self._sql(f"UPDATE messages SET feedback = ? WHERE {answers}", (kind, conversation_id, *message_ids))
            return True

        return await self._write(work)

    async def save_answers(self, answers: Callable[[], list[Answer]]) -> set[int]:
        """Write what live answers have so far, all in one transaction; return the ids of those still `streaming`.

        `answers` is called when nobody else can write any more: no older state of an answer follows a newer one.
        """

        def save(rows: list[tuple[Any, ...]]) -> set[int]:
            self._connection.executemany(
                """
                UPDATE messages SET content = ?, tool_calls = ?, reasoning = ? WHERE id = ? AND status = 'streaming'
                """,
                rows,
            )
            return {row[0] for row in self._sql("SELECT id FROM messages WHERE status = 'streaming'")}

        async def work() -> set[int]:
            async with self._alone():
                rows = [(*_progress(answer), answer.id) for answer in answers()]
                return await self._trip(lambda: self._transaction(lambda: save(rows)))

        return await _to_its_end(work())

    async def finish_answer(self, answer: Answer) -> None:
        """Write an answer in its final state, unless it is no longer streaming."""

        def work() -> None:
            ended = self._sql(
                """
                UPDATE messages SET content = ?, tool_calls = ?, reasoning = ?, status = ?, error = ?
                WHERE id = ? AND status = 'streaming' RETURNING conversation_id
                """,
                (*_progress(answer), answer.status, answer.error, answer.id),
            )
            if ended:
                self._sql("UPDATE conversations SET updated_at = ? WHERE id = ?", (_now(), ended[0][0]))

        await self._write(work)

    async def record_tool(
        self,
        answer_id: int,
        work: Callable[[], Awaitable[T]],
        record: Callable[[T], Answer],
        committed: Callable[[T], None] = lambda result: None,
    ) -> T:
        """Do a tool's `work` on this store and write the answer that `record` makes of its result: both, or neither.

        `committed` is called with the result when both are there, before the answer can be written again.
        Raises `AnswerOver`, and does neither, if the answer is not `streaming` any more.
        """

        def write(answer: Answer) -> None:
            if not self._sql(
                """
                UPDATE messages SET content = ?, tool_calls = ?, reasoning = ? WHERE id = ? AND status = 'streaming'
                RETURNING id
                """,
                (*_progress(answer), answer_id),
            ):
                raise AnswerOver

        async def both() -> T:
            async with self._alone():
                self._inside = object()
                _CALL.set(self._inside)  # for this task, and for those that the work begins
                try:
                    result = await work()
                    answer = record(result)
                    await self._trip(lambda: self._transaction(lambda: write(answer)))
                except BaseException:
                    await self._trip(self._roll_back)
                    raise
                finally:
                    self._inside = None
                committed(result)
                return result

        return await _to_its_end(both())

    def _admit(self, user_id: str, max_live: int, max_live_per_user: int) -> None:
        """Raise `TooMany` if the answer that has just been written is one too many; it is then rolled back."""
        [(live, of_user)] = self._sql(
            """
            SELECT COUNT(*), COUNT(CASE WHEN c.user_id = ? THEN 1 END)
            FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE m.status = 'streaming'
            """,
            (user_id,),
        )
        if of_user > max_live_per_user:
            raise TooMany("You have too many answers running. Wait for one to end, or stop it.", of_user=True)
        if live > max_live:
            raise TooMany("The server is busy with other answers. Please try again in a moment.", of_user=False)

    def _touch(self, user_id: str, conversation_id: int, now: str) -> Conversation | None:
        rows = self._sql(
            """
            UPDATE conversations SET updated_at = ? WHERE id = ? AND user_id = ?
            RETURNING id, title, created_at, updated_at
            """,
            (now, conversation_id, user_id),
        )
        return _conversation(rows[0]) if rows else None

    def _create(self, user_id: str, title: str, now: str) -> Conversation:
        [row] = self._sql(
            """
            INSERT INTO conversations (user_id, title, created_at, updated_at) VALUES (?, ?, ?, ?)
            RETURNING id, title, created_at, updated_at
            """,
            (user_id, title, now, now),
        )
        return _conversation(row)

    def _begun(
        self,
        user_id: str,
        conversation: Conversation,
        history: list[Message],
        answer: Message,
        key: str | None,
        request: str,
    ) -> Turn:
        """Note the idempotency key of a turn that begins, and return the turn."""
        if key is not None:
            self._sql(
                "INSERT INTO idempotency_keys (user_id, key, request, answer_id, created_at) VALUES (?, ?, ?, ?, ?)",
                (user_id, key, request, answer["id"], answer["created_at"]),
            )
        begun = Answer(answer["id"], conversation["id"], "", [], "streaming", answer["created_at"])
        return Turn(conversation, begun, history)

    def _earlier(self, user_id: str, key: str, request: str) -> Turn | None:
        self._sql("DELETE FROM idempotency_keys WHERE created_at < ?", (_now(ago=KEY_LIFETIME),))
        rows = self._sql(
            "SELECT request, answer_id FROM idempotency_keys WHERE user_id = ? AND key = ?", (user_id, key)
        )
        if not rows:
            return None
        [(stored_request, answer_id)] = rows
        if stored_request != request:
            raise Conflict(
                "This Idempotency-Key was used for a different request. Send each new message with a new key."
            )
        if answer_id is None:
            raise Conflict("This message was answered before, and that answer has been deleted since.")
        [(conversation_id, content, tool_calls, status, created_at, error, reasoning)] = self._sql(
            """
            SELECT conversation_id, content, tool_calls, status, created_at, error, reasoning FROM messages
            WHERE id = ?
            """,
            (answer_id,),
        )
        [question] = self._sql(
            """
            SELECT id, role, content, tool_calls, status, created_at, feedback, error FROM messages
            WHERE conversation_id = ? AND id < ? ORDER BY id DESC LIMIT 1
            """,
            (conversation_id, answer_id),
        )
        conversation = self._conversation_of(user_id, conversation_id)
        assert conversation is not None
        answer = Answer(
            answer_id,
            conversation_id,
            content,
            json.loads(tool_calls),
            status,
            created_at,
            error,
            json.loads(reasoning),
        )
        return Turn(conversation, answer, [_message(question)], earlier=True)

    # ---- tasks ----

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> list[Task]:
        """Return the user's tasks, oldest first: all of them, or only the completed or the pending ones."""
        rows = await self._read(
            lambda: self._sql(
                """
                SELECT id, title, description, completed, created_at, updated_at FROM tasks
                WHERE user_id = ? AND (completed = ? OR ? IS NULL) ORDER BY id
                """,
                (user_id, completed, completed),
            )
        )
        return [_task(row) for row in rows]

    async def add_task(self, user_id: str, title: str, description: str | None = None) -> Task:
        """Add a pending task and return it."""
        now = _now()
        [row] = await self._write(
            lambda: self._sql(
                """
                INSERT INTO tasks (user_id, title, description, created_at, updated_at) VALUES (?, ?, ?, ?, ?)
                RETURNING id, title, description, completed, created_at, updated_at
                """,
                (user_id, title, description, now, now),
            )
        )
        return _task(row)

    async def update_task(self, user_id: str, task_id: int, **changes: str | bool | None) -> Task | None:
        """Set `title`, `description` or `completed` and return the task; None if the user has none with this id."""
        columns = [column for column in ("title", "description", "completed") if column in changes]
        assignments = "".join(f"{column} = ?, " for column in columns)
        rows = await self._write(
            lambda: self._sql(
                f"""
                UPDATE tasks SET {assignments} updated_at = ? WHERE id = ? AND user_id = ?
                RETURNING id, title, description, completed, created_at, updated_at
                """,
                (*(changes[column] for column in columns), _now(), task_id, user_id),
            )
        )
        return _task(rows[0]) if rows else None

    async def delete_task(self, user_id: str, task_id: int) -> Task | None:
        """Delete a task and return what it was; None if the user has none with this id."""
        rows = await self._write(
            lambda: self._sql(
                """
                DELETE FROM tasks WHERE id = ? AND user_id = ?
                RETURNING id, title, description, completed, created_at, updated_at
                """,
                (task_id, user_id),
            )
        )
        return _task(rows[0]) if rows else None

    async def ping(self) -> None:
        """Read something from the file; raises `Unavailable` if that cannot be done."""
        await self._read(lambda: self._sql("SELECT 1 FROM conversations LIMIT 1"))


def backup(path: str, target: str) -> None:
    """Copy the database at `path` to the new file `target`, consistently, while a server writes to it or not.

    Raises `StoreError`; an existing file is never overwritten.
    """
    try:
        # Copying the file itself would miss what is still in its write-ahead log.
        target = os.path.abspath(target)  # for SQLite some other names are not files at all
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as source:
            source.execute("SELECT 1 FROM sqlite_master LIMIT 1")
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                source.execute("VACUUM INTO ?", (target,))
            except sqlite3.Error:
                os.unlink(target)
                raise
    except FileExistsError as error:
        raise StoreError(f"{target} exists already, and a backup overwrites nothing.") from error
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"Cannot copy {path} to {target}: {error}.") from error


# What is trouble with the machine, and may pass; any other error of SQLite is a mistake of ours.
_TROUBLE = {
    sqlite3.SQLITE_BUSY: "The database is in use by another program. Please try again in a moment.",
    sqlite3.SQLITE_LOCKED: "The database is in use by another program. Please try again in a moment.",
    sqlite3.SQLITE_PROTOCOL: "The database is in use by another program. Please try again in a moment.",
    sqlite3.SQLITE_NOMEM: "The server has too little memory at the moment. Please try again later.",
    sqlite3.SQLITE_PERM: "The database cannot be written at the moment. Please try again later.",
    sqlite3.SQLITE_READONLY: "The database cannot be written at the moment. Please try again later.",
    sqlite3.SQLITE_IOERR: "The database's disk does not answer. Please try again later.",
    sqlite3.SQLITE_CORRUPT: "The database is damaged. Its owner must restore it from a backup.",
    sqlite3.SQLITE_FULL: "The database's disk is full. Please try again later.",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened. Please try again later.",
    sqlite3.SQLITE_NOTADB: "The database is damaged. Its owner must restore it from a backup.",
}


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await what must be done whole even if the caller is cancelled."""
    return await asyncio.shield(asyncio.create_task(work))


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn SQLite's trouble with the machine into `Unavailable`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if (trouble := _TROUBLE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)) is None:
            raise
        raise Unavailable(trouble) from error


def _own(path: str) -> sqlite3.Connection:
    """Take the file's lock for this process. The operating system gives it back when the process ends, however it ends.

    It is SQLite's own lock, on an empty file beside the database: the same on every system, and in nobody's way.
    """
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise StoreError(f"The database {path} is not a file. Set DATABASE_URL to one.")
        if not os.stat(path).st_mode & 0o222:  # root could write it all the same
            raise StoreError(
                f"The database {path} is read-only. Make it writable, or set DATABASE_URL to another file."
            )
        if os.stat(path).st_nlink > 1:  # SQLite keeps its log beside the name, and two logs ruin the file
            raise StoreError(f"The database {path} has a second name (a hard link). Remove one of the two.")
    try:
        with suppress(FileExistsError):  # what people write here is not for the other users of the machine
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        lock = f"{os.path.realpath(path)}.lock"  # one for the file, whatever name leads to it
        owner = sqlite3.connect(lock, timeout=0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"Cannot create files beside the database {path}: {error}.") from error
    try:
        owner.execute("PRAGMA journal_mode = MEMORY")  # nothing is written: spare the folder another file
        owner.execute("BEGIN EXCLUSIVE")
        return owner
    except sqlite3.Error as error:
        owner.close()
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY:
            raise StoreError(f"Cannot lock the database {path}: {error}.") from error
        raise StoreError(
            f"The database {path} is in use by another server. Stop that one, or set DATABASE_URL to another file."
        ) from error


def _inspect(path: str) -> int:
    """Return the version of the schema in a file, 0 for a new one. Raises `StoreError` if it is none of ours.

    The file is only read: who is refused wants it back as it was.
    """
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as file:
        [(version,)] = file.execute("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The database {path} was written by a newer version of this program (schema {version}; this one knows "
                f"{SCHEMA_VERSION}). Start the newer program, or set DATABASE_URL to another file."
            )
        verdict = str(file.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict != "ok":
            raise StoreError(f"The database {path} is damaged ({verdict.splitlines()[0]}). Restore it from a backup.")
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not (tables >= TABLES if version > 0 else not tables and version == 0):
            raise StoreError(
                f"The database {path} belongs to another program, by its tables. Set DATABASE_URL to another file."
            )
        return int(version)


def _statements(sql: str) -> Iterable[str]:
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _now(ago: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) - ago).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _conversation(row: Any) -> Conversation:
    return {"id": row[0], "title": row[1], "created_at": row[2], "updated_at": row[3]}


def _progress(answer: Answer) -> tuple[str, str, str]:
    return answer.content, json.dumps(answer.tool_calls), json.dumps(answer.reasoning)


def _message(row: Any) -> Message:
    return {
        "id": row[0],
        "role": row[1],
        "content": row[2],
        "tool_calls": json.loads(row[3]),
        "status": row[4],
        "created_at": row[5],
        "feedback": row[6],
        "error": row[7],
    }


def _task(row: Any) -> Task:
    return {
        "id": row[0],
        "title": row[1],
        "description": row[2],
        "completed": bool(row[3]),
        "created_at": row[4],
        "updated_at": row[5],
    }
