"""The tasks in SQL: the part of `db.Store` that is about them."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol, TypedDict, cast

from todochat.dates import utc_now
from todochat.engines import Engine, Row, Sql
from todochat.shares import Room, admit_task

TASK = "id, title, description, due, completed, created_at, updated_at"
CHANGEABLE = ("title", "description", "due", "completed")


class Task(TypedDict):
    """A task as the REST API shows it."""

    id: int
    title: str
    description: str | None
    due: str | None  # a date, "2026-12-01"
    completed: bool
    created_at: str
    updated_at: str


class TaskStore:
    """The methods of a store that are about tasks; like the others each is one unit of work."""

    engine: Engine
    room = Room()  # what a user may have

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> list[Task]:
        """Return the user's tasks, oldest first: all of them, or only the completed or the pending ones."""
        return await self.page_of_tasks(user_id, completed, after=0, limit=2**31 - 1)

    async def page_of_tasks(self, user_id: str, completed: bool | None, *, after: int, limit: int) -> list[Task]:
        """Return up to `limit` of the user's tasks whose ids are above `after`, oldest first."""
        rows = await self.engine.read(
            lambda sql: sql(
                f"""
                SELECT {TASK} FROM tasks WHERE user_id = ? AND id > ? AND completed = COALESCE(?, completed)
                ORDER BY id LIMIT ?
                """,
                (user_id, after, completed, limit),
            )
        )
        return [_task(row) for row in rows]

    async def most_urgent(self, user_id: str, completed: bool | None, limit: int) -> tuple[int, list[Task]]:
        """Return how many tasks there are, and up to `limit` of them in the order of their ids.

        These are the most urgent: first the open ones that are due, then the newest. `completed` is as in `list_tasks`.
        """

        async def work(sql: Sql) -> tuple[int, list[Task]]:
            which = "FROM tasks WHERE user_id = ? AND completed = COALESCE(?, completed)"
            [total] = await sql(f"SELECT COUNT(*) AS many {which}", (user_id, completed))
            rows = await sql(
                f"SELECT {TASK} {which} ORDER BY completed, COALESCE(due, '9'), id DESC LIMIT ?",
                (user_id, completed, limit),
            )
            return total["many"], sorted(map(_task, rows), key=itemgetter("id"))

        return await self.engine.read(work)

    async def add_task(self, user_id: str, title: str, description: str | None = None, due: str | None = None) -> Task:
        """Add a pending task and return it. Raises `shares.Full` if the user may not have another one."""

        async def work(sql: Sql) -> Task:
            await self.engine.lock(sql, user_id)  # or two that come at once would both be the last one allowed
            await admit_task(sql, user_id, self.room)
            now = utc_now()
            [row] = await sql(
                f"""
                INSERT INTO tasks (user_id, title, description, due, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)
                RETURNING {TASK}
                """,
                (user_id, title, description, due, now, now),
            )
            return _task(row)

        return await self.engine.write(work)

    async def update_task(self, user_id: str, task_id: int, **changes: str | bool | None) -> Task | None:
        """Set any of `CHANGEABLE` and return the task; None if the user has none with this id."""
        columns = [column for column in CHANGEABLE if column in changes]
        assignments = "".join(f"{column} = ?, " for column in columns)
        rows = await self.engine.write(
            lambda sql: sql(
                f"""
                UPDATE tasks SET {assignments} updated_at = ?, version = version + 1
                WHERE id = ? AND user_id = ? RETURNING {TASK}
                """,
                (*(changes[column] for column in columns), utc_now(), task_id, user_id),
            )
        )
        return _task(rows[0]) if rows else None

    async def delete_task(self, user_id: str, task_id: int) -> Task | None:
        """Delete a task and return what it was; None if the user has none with this id."""
        rows = await self.engine.write(
            lambda sql: sql(f"DELETE FROM tasks WHERE id = ? AND user_id = ? RETURNING {TASK}", (task_id, user_id))
        )
        return _task(rows[0]) if rows else None


class Listing(Protocol):
    """A store of tasks: ours, or a host's, which may have nothing but this to read them by."""

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> Sequence[Mapping[str, Any]]: ...


async def most_urgent(
    store: Listing, user_id: str, completed: bool | None, limit: int
) -> tuple[int, Sequence[Mapping[str, Any]]]:
    """Return what `TaskStore.most_urgent` does, of any store."""
    if isinstance(store, TaskStore):
        return await store.most_urgent(user_id, completed, limit)
    tasks = await store.list_tasks(user_id, completed)
    chosen = sorted(tasks, key=lambda task: (task["completed"], task.get("due") or "9", -task["id"]))[:limit]
    return len(tasks), sorted(chosen, key=itemgetter("id"))


def _task(row: Row) -> Task:
    return cast(Task, {**row, "completed": bool(row["completed"])})
