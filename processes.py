"""Several processes on one database: who makes which answer, and how an answer of another process is followed.

The database is all there is between them. Each live answer names its owner, the process that makes it. Another process
follows it by a mirror, a `Feed` whose events are read from `live_events`; and ends it by asking: it sets `asked`, which
the owner sees at its next checkpoint, and in spite of which no tool commits.

While anything is live, a process shows by a beat that it lives. A beat says nothing but that it is a new one, since
clocks differ: a process whose beat stays the same for some 5 seconds, by the clock of whoever looks and in looks that
succeeded, is taken for dead, and its answers are ended with what was stored of them. Should it wake up again, it finds
that they are not its own any more. While nobody uses the app nobody looks, and the database may sleep.

A database that is one process's alone needs nothing of this: there, nothing here does anything.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from todochat.dates import utc_now
from todochat.db import Store, interrupt
from todochat.engines import Sql, Unavailable
from todochat.events import Event, Feed, load
from todochat.logs import log_mistake

log = logging.getLogger("todochat")

POLL_EVERY = 0.1  # seconds between two looks at the answers that are followed
LOOK_EVERY = 0.5  # seconds between two beats, and between two looks at those of others
DEAD_AFTER = 4.5  # seconds with the same beat: with the time between two looks that makes 5
AWAKE = 45.0  # seconds for which a process goes on looking after it was last used
UNREAD = 5.0  # seconds for which a mirror goes on that nobody reads
STOPPING = 10.0  # seconds that another process is given to stop an answer
KEPT = timedelta(minutes=1)  # for which the events of an ended answer are there for those who follow it

DELETED = "This conversation has been deleted."
GOING = "The server is shutting down, so this stream ends here. Please reload."


class Mirror(Feed):
    """An answer of another process, as it is followed here."""

    row = 0  # the number of the first event in the row that was read last: it is read again, as it may have grown
    read = 0.0  # when it was seen to have readers


class News(NamedTuple):
    """What is new in an answer: rows of events, each with the number of the first, and how the answer stands."""

    rows: list[tuple[int, list[Event]]]
    status: str
    error: str | None


class Processes:
    """This process among those on one database. `own_live` returns the ids of the answers that this process makes."""

    def __init__(self, store: Store, own_live: Callable[[], Collection[int]]) -> None:
        self._store = store
        self._own_live = own_live
        self._mirrors: dict[int, Mirror] = {}  # by answer
        self._tasks: dict[str, asyncio.Task[None]] = {}  # what is done in the background
        self._seen: dict[str, tuple[str, float]] = {}  # by process: its beat, and since when it is that one
        self._unmade: set[int] = set()  # answers of ours that nobody made at the last look
        self._used = self._swept = time.monotonic()  # when this process was used last, and old rows were deleted

    def in_use(self) -> None:
        """Look after the others for a while."""
        if self._store.engine.shared:
            self._used = time.monotonic()
            self._keep_doing("look", self._look_after_others)

    async def close(self) -> None:
        """End what is done in the background."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for mirror in self._mirrors.values():
            mirror.end(GOING)

    def _keep_doing(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
        if name not in self._tasks or self._tasks[name].done():
            self._tasks[name] = asyncio.create_task(work())

    async def _write(self, statement: str, *parameters: str | int) -> None:
        await self._store.engine.write(lambda sql: sql(statement, parameters))

    # ---- answers that others make ----

    async def follow(self, user_id: str, conversation_id: int) -> Feed | None:
        """Return a mirror of the live answer in a conversation of the user's, if another process makes one."""
        if not self._store.engine.shared:
            return None
        rows = await self._store.engine.read(
            lambda sql: sql(
                """
                SELECT id FROM messages WHERE conversation_id = ? AND status = 'streaming' AND owner <> ?
                AND conversation_id IN (SELECT id FROM conversations WHERE user_id = ?)
                """,
                (conversation_id, self._store.process, user_id),
            )
        )
        if not rows:
            return None
        answer_id = int(rows[0]["id"])
        mirror = self._mirrors.setdefault(answer_id, Mirror(answer_id, conversation_id, user_id))
        self._keep_doing("poll", self._poll_always)
        mirror.readers += 1  # so that it is not dropped before its reader begins
        try:
            await self._poll()
        finally:
            mirror.readers -= 1
            mirror.read = time.monotonic()
        return mirror

    async def stop(self, user_id: str, conversation_id: int) -> int | None:
        """Have an answer of another process stopped, and wait until it has ended; return its id, None if there is none.

        Raises `Unavailable` if it does not end.
        """
        mirror = await self.follow(user_id, conversation_id)
        if mirror is None:
            return None
        await self._write(
            "UPDATE messages SET asked = 'stopped' WHERE id = ? AND status = 'streaming'", mirror.answer_id
        )
        if not await wait_for_end(mirror, STOPPING):
            raise Unavailable("The answer does not end yet. Please try again in a moment.")
        return mirror.answer_id

    async def count_stop_readers(self, mirror: Feed, change: int) -> bool:
        """Tell the owner of an answer that a reader whose leaving counts as Stop has come here (+1), or left (-1).

        Returns False if the database does not take that: then the answer goes on to its end.
        """
        count = "UPDATE messages SET stop_readers = COALESCE(stop_readers, 0) + ? WHERE id = ?"
        try:
            await self._write(count, change, mirror.answer_id)
            return True
        except Unavailable as error:
            log.warning("a reader of an answer of another process is not counted: %s", error)
            return False

    async def _poll_always(self) -> None:
        while self._mirrors:
            await asyncio.sleep(POLL_EVERY)
            try:
                await self._poll()
            except Unavailable as error:
                log.warning("following the answers of other processes: %s", error)
            except Exception as error:  # their readers must not wait for ever
                log_mistake("following the answers of other processes", error)
            for mirror in list(self._mirrors.values()):
                if mirror.readers:
                    mirror.read = time.monotonic()
                if mirror.ended or time.monotonic() - mirror.read > UNREAD:
                    del self._mirrors[mirror.answer_id]

    async def _poll(self) -> None:
        """Give all mirrors what is new, by one look at the database."""
        mirrors = [mirror for mirror in self._mirrors.values() if not mirror.ended]
        news = await self._store.engine.read(lambda sql: _news(sql, mirrors)) if mirrors else {}
        for mirror in mirrors:
            new = news[mirror.answer_id]
            for first, events in new.rows:
                for event in events[max(0, len(mirror.events) - first) :]:  # somebody else may have looked meanwhile
                    mirror.publish(event)
                mirror.row = first
            if new.status != "streaming":
                told = bool(mirror.events) and mirror.events[-1]["type"] == "error"
                mirror.end(None if told else new.error)

    # ---- who lives ----

    async def _look_after_others(self) -> None:
        """Beat and look. All of it is urgent: whoever waits behind users here is late with the next beat."""
        others = True
        while others or self._own_live() or self._mirrors or time.monotonic() - self._used < AWAKE:
            try:
                if self._own_live():
                    await self._beat()
                others = await self._bury_the_dead()
                await self._end_unmade()
                if time.monotonic() - self._swept > KEPT.total_seconds():
                    self._swept = time.monotonic()
                    await self._store.engine.write(_sweep, urgent=True)
            except Unavailable as error:
                log.warning("looking after other processes: %s", error)
                self._seen.clear()  # they could not say that they live either
            except Exception as error:  # the next beat must come all the same
                log_mistake("looking after other processes", error)
            await asyncio.sleep(LOOK_EVERY)

    async def _beat(self) -> None:
        beat = "INSERT INTO servers (id, beat) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat"
        await self._store.engine.write(lambda sql: sql(beat, (self._store.process, utc_now())), urgent=True)

    async def _bury_the_dead(self) -> bool:
        """End the answers of processes that have shown no new beat for too long; return whether others have any."""
        beats = await self._store.engine.read(
            lambda sql: sql(
                """
                SELECT DISTINCT m.owner AS process, COALESCE(s.beat, '') AS beat
                FROM messages m LEFT JOIN servers s ON s.id = m.owner
                WHERE m.status = 'streaming' AND m.owner <> ?
                """,
                (self._store.process,),
            ),
            urgent=True,
        )
        moment = time.monotonic()
        before, self._seen = self._seen, {}
        for row in beats:
            process, beat = row["process"], row["beat"]
            known, since = before.get(process, ("", moment))
            self._seen[process] = (beat, since if known == beat else moment)
            if moment - self._seen[process][1] >= DEAD_AFTER:
                log.warning("process %s shows no sign of life: its answers are ended", process)
                del self._seen[process]  # what it begins when it wakes up is another matter
                while await self._store.engine.write(partial(_bury, process=process, beat=beat), urgent=True):
                    beat = ""  # of the row that was made for the rest of them
        return bool(beats)

    async def _end_unmade(self) -> None:
        """End answers of ours that nobody makes: a COMMIT that was not answered may have begun one."""
        ours = "SELECT id FROM messages WHERE status = 'streaming' AND owner = ?"
        rows = await self._store.engine.read(lambda sql: sql(ours, (self._store.process,)), urgent=True)
        unmade = {int(row["id"]) for row in rows} - set(self._own_live())
        for answer_id in unmade & self._unmade:
            log.error("answer %d was begun, and nobody makes it", answer_id)
            await self._store.engine.write(partial(_end, answer_id=answer_id), urgent=True)
        self._unmade = unmade


async def wait_for_end(feed: Feed, seconds: float) -> bool:
    """Wait until an answer has ended; return whether it has."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for _ in feed.follow(len(feed.events)):
                pass
    return feed.ended


async def _news(sql: Sql, mirrors: Sequence[Mirror]) -> dict[int, News]:
    """Return what is new in these answers, by their ids."""
    news = {mirror.answer_id: News([], "deleted", DELETED) for mirror in mirrors}
    of_them = ", ".join("?" * len(mirrors))
    for row in await sql(f"SELECT id, status, error FROM messages WHERE id IN ({of_them})", list(news)):
        news[row["id"]] = News([], row["status"], row["error"])
    behind = " OR ".join(["(answer_id = ? AND first >= ?)"] * len(mirrors))
    for row in await sql(
        f"SELECT answer_id, first, events FROM live_events WHERE {behind} ORDER BY answer_id, first",
        [value for mirror in mirrors for value in (mirror.answer_id, mirror.row)],
    ):
        news[row["answer_id"]].rows.append((row["first"], load(row["events"])))
    return news


async def _end(sql: Sql, answer_id: int) -> None:
    await interrupt(sql, "id = ?", answer_id, keep_events=True)


async def _bury(sql: Sql, process: str, beat: str) -> bool:
    """End some answers of a process, unless it has shown a new beat meanwhile; return whether there are more."""
    await sql("INSERT INTO servers (id, beat) VALUES (?, '') ON CONFLICT (id) DO NOTHING", (process,))
    if not await sql("DELETE FROM servers WHERE id = ? AND beat = ? RETURNING id", (process, beat)):
        return False
    return await interrupt(sql, "owner = ?", process, keep_events=True)


async def _sweep(sql: Sql) -> None:
    """Delete the events of answers that have ended, once those who followed them have had the time to read them.

    And what processes that are no longer there have left of their beats, and their connections of their commits. If one
    is there all the same, it writes its own again.
    """
    await sql(
        """
        DELETE FROM live_events WHERE answer_id IN (
            SELECT m.id FROM messages m JOIN conversations c ON c.id = m.conversation_id
            WHERE m.status <> 'streaming' AND c.updated_at < ?
        )
        """,
        (utc_now(ago=KEPT),),
    )
    await sql("DELETE FROM servers WHERE beat < ?", (utc_now(ago=KEPT),))
    await sql("DELETE FROM commits WHERE at < now() - interval '1 hour'")
