"""A user's share: how much one user may have and do, so that the others are served too.

What is stored is counted by the database, over all processes. What happens is counted here, in each process by itself.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from starlette.types import ASGIApp, Receive, Scope, Send

from todochat.dates import utc_now
from todochat.engines import Sql, T

READERS = 100  # of one answer: tabs and devices of one user
LARGE = 4  # answers of over a megabyte that one user is being sent
BODIES = 16  # of one user that are being read, of a megabyte each at most

ROW = 100  # characters that a message counts beside its texts
SIZE = f"{ROW} + LENGTH(content) + LENGTH(tool_calls) + LENGTH(reasoning) + LENGTH(citations)"


class TooMany(Exception):
    """A user does too much at once; the text is a sentence for the user, who may try again after so many seconds."""

    def __init__(self, sentence: str, retry_after: int = 5) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Full(Exception):
    """A user has as much as a user may have, so nothing was added; the text is a sentence for the user."""


@dataclass(frozen=True)
class Room:
    """How much a user may have: `stored` is in characters of conversations; `tokens` in a day, None for any number."""

    tasks: int = 10_000
    conversations: int = 10_000
    stored: int = 50_000_000
    tokens: int | None = None


# ---- what is stored ----


def size_of(*texts: str) -> int:
    """Return what `SIZE` is of a message with these texts."""
    return ROW + sum(map(len, texts))


def size_of_question(message: str) -> int:
    """Return what a user's message adds to the size of its conversation: nothing, if there is none."""
    return size_of(message, "[]", "[]", "[]") if message else 0


async def admit_turn(sql: Sql, user_id: str, live: int, room: Room) -> None:
    """Raise `TooMany` if the user has `live` answers being written, or has used the tokens of the day.

    Raise `Full` if a turn that begins is one too many: its conversation and question have just been stored.
    """
    [has] = await sql(
        """
        SELECT * FROM (
            SELECT COUNT(*) AS many, COALESCE(SUM(size), 0) AS size,
                (SELECT tokens FROM token_counts WHERE user_id = ? AND day = ?) AS tokens
            FROM conversations WHERE user_id = ?
        ) AS stored, (
            SELECT COUNT(*) AS live FROM messages m JOIN conversations c ON c.id = m.conversation_id
            WHERE m.status = 'streaming' AND user_id = ?
        ) AS answers
        """,
        (user_id, utc_now()[:10], user_id, user_id),
    )
    if has["live"] >= live:
        raise TooMany("You have too many answers running. Wait for one to end, or stop it.")
    if has["many"] > room.conversations:
        raise Full(f"You have {room.conversations} conversations, which is the limit. Delete some to begin another.")
    if has["size"] > room.stored:
        raise Full(f"Your conversations hold {room.stored / 1e6:g} MB, which is the limit. Delete some to go on.")
    if room.tokens is not None and (has["tokens"] or 0) >= room.tokens:
        wait = 86_400 - int(time.time()) % 86_400
        raise TooMany(
            f"You have used the {room.tokens} tokens that you have for a day. Tomorrow (UTC) there are more.", wait
        )


async def admit_task(sql: Sql, user_id: str, room: Room) -> None:
    """Raise `Full` if the user may not have another task."""
    [has] = await sql("SELECT COUNT(*) AS many FROM tasks WHERE user_id = ?", (user_id,))
    if has["many"] >= room.tasks:
        raise Full(f"You have {room.tasks} tasks, which is the limit. Delete some to add another.")


async def count_no_longer(sql: Sql, conversation_id: int, first: int) -> None:
    """Count the messages of a conversation from number `first` on no longer: they are about to go."""
    gone = f"SELECT COALESCE(SUM({SIZE}), 0) FROM messages WHERE conversation_id = ? AND id >= ?"
    statement = f"UPDATE conversations SET size = size - ({gone}) WHERE id = ?"
    await sql(statement, (conversation_id, first, conversation_id))


async def count_tokens(sql: Sql, conversation_id: int, tokens: int) -> None:
    """Add to the tokens that the owner of a conversation has used today; what is older than that is forgotten."""
    day = utc_now()[:10]
    [counted] = await sql(
        """
        INSERT INTO token_counts (user_id, day, tokens) SELECT user_id, ?, ? FROM conversations WHERE id = ?
        ON CONFLICT (day, user_id) DO UPDATE SET tokens = token_counts.tokens + excluded.tokens RETURNING tokens
        """,
        (day, tokens, conversation_id),
    )
    if counted["tokens"] == tokens:  # the user's first ones of the day
        await sql("DELETE FROM token_counts WHERE day < ?", (day,))


# ---- what happens ----


class Shares:
    """What the users of this process are doing."""

    def __init__(self, turns_per_minute: int) -> None:
        self._most = turns_per_minute
        self._swept = time.monotonic()  # when users who have rested were forgotten
        self._buckets: dict[str, tuple[float, float]] = {}  # by user: how many turns there were left, and when
        self._readers: Counter[int] = Counter()  # by answer
        self._bodies: Counter[str] = Counter()  # by user
        self._sent: Counter[str] = Counter()  # by user
        self._readings: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by user

    def take_turn(self, user_id: str) -> None:
        """Count a turn that the user asks for. Raises `TooMany` if it is one too many in this minute."""
        if time.monotonic() - self._swept > 60:
            self._swept = time.monotonic()
            self._buckets = {user: bucket for user, bucket in self._buckets.items() if self._left(user) < self._most}
        left = self._left(user_id)
        if left < 1:
            wait = 1 + int((1 - left) * 60 / self._most)
            raise TooMany(f"That was too much in one minute. Please try again in {wait} seconds.", wait)
        self._buckets[user_id] = left - 1, time.monotonic()

    def _left(self, user_id: str) -> float:
        left, then = self._buckets.get(user_id, (self._most, time.monotonic()))
        return min(self._most, left + (time.monotonic() - then) * self._most / 60)

    def reading_body(self, user_id: str) -> AbstractContextManager[None]:
        """Count a body of the user's while it is read. Raises `TooMany`."""
        sentence = "You are sending too much at once. Please try again in a moment."
        return _one_more(self._bodies, user_id, BODIES, sentence)

    def reading(self, user_id: str) -> asyncio.Lock:
        """Return what is held while a list or a conversation of the user's is read: others wait for one at most."""
        return self._readings.setdefault(user_id, asyncio.Lock())

    def sending(self, user_id: str, response: ASGIApp) -> ASGIApp:
        """Return a large response that counts until the user has taken it; it raises `TooMany` at once."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            with _one_more(self._sent, user_id, LARGE, "You are loading too much at once. Please try again later."):
                await response(scope, receive, send)

        return counted

    def follow(self, answer_id: int, stream: ASGIApp, leave: Callable[[], Awaitable[object]] | None = None) -> ASGIApp:
        """Return the response by which a reader follows an answer; it raises `TooMany` at once if there are too many.

        `leave` is awaited in that case, as the stream does when its reader leaves.
        """

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                with _one_more(
                    self._readers, answer_id, READERS, "This answer has too many readers. Close some of them."
                ):
                    await stream(scope, receive, send)
            except TooMany:
                if leave is not None:
                    await leave()
                raise

        return counted


@contextmanager
def _one_more(counts: Counter[T], key: T, most: int, sentence: str) -> Iterator[None]:
    if counts[key] >= most:
        raise TooMany(sentence)
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
