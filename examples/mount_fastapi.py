"""The chat inside a FastAPI app that keeps its own users and its own tasks, in its own tables.

    pip install fastapi
    python examples/mount_fastapi.py

What the chat adds is in the app's table, and what the app adds is seen by the chat:

    curl -X POST "http://127.0.0.1:8000/todos?text=Buy+milk" -H "Authorization: Bearer wonderland"
    curl -N http://127.0.0.1:8000/chat/chatkit -H "Authorization: Bearer wonderland" \
         -H "Content-Type: application/json" -d '{"message": "complete buy milk"}'
"""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request

from todochat.app import create_app

database = sqlite3.connect("fastapi.db", isolation_level=None, check_same_thread=False)
database.row_factory = sqlite3.Row
database.executescript(
    """
    CREATE TABLE IF NOT EXISTS users (login TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE);
    CREATE TABLE IF NOT EXISTS todos (
        id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL REFERENCES users, text TEXT NOT NULL, notes TEXT,
        due TEXT, done INTEGER NOT NULL DEFAULT 0, created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ'))
    );
    INSERT OR IGNORE INTO users VALUES ('alice', 'wonderland'), ('bob', 'builder');
    """
)


# ---- the app as it was ----


async def user_of(request: Request) -> str:
    """Return the login of whoever sends this token."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    row = database.execute("SELECT login FROM users WHERE token = ?", (token,)).fetchone()
    if row is None:
        raise HTTPException(401, "Who are you?")
    return str(row["login"])


User = Annotated[str, Depends(user_of)]


async def my_todos(user: User) -> list[dict[str, Any]]:
    """Return the user's rows."""
    return [dict(row) for row in database.execute("SELECT * FROM todos WHERE owner = ? ORDER BY id", (user,))]


async def add_todo(user: User, text: str) -> dict[str, Any]:
    """Add a row."""
    return dict(database.execute("INSERT INTO todos (owner, text) VALUES (?, ?) RETURNING *", (user, text)).fetchone())


# ---- what the chat needs of it ----


class Todos:
    """The app's table as the chat's tasks: the four methods of `todochat.agent.Tasks`, each for one user only."""

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> list[dict[str, Any]]:
        """Return the user's tasks, oldest first."""
        tasks = [self._task(todo) for todo in await my_todos(user_id)]
        return [task for task in tasks if completed in (None, task["completed"])]

    async def add_task(
        self, user_id: str, title: str, description: str | None = None, due: str | None = None
    ) -> dict[str, Any]:
        """Add a task and return it."""
        todo = await add_todo(user_id, title)
        return await self.update_task(user_id, todo["id"], description=description, due=due) or {}

    async def update_task(self, user_id: str, task_id: int, **changes: str | bool | None) -> dict[str, Any] | None:
        """Change some of title, description, due and completed; None if the user has no such task."""
        columns = {"title": "text", "description": "notes", "due": "due", "completed": "done"}
        assignments = ", ".join(f"{columns[name]} = ?" for name in changes)
        return self._one(
            f"UPDATE todos SET {assignments} WHERE id = ? AND owner = ?", *changes.values(), task_id, user_id
        )

    async def delete_task(self, user_id: str, task_id: int) -> dict[str, Any] | None:
        """Delete a task and return what it was; None if the user has no such task."""
        return self._one("DELETE FROM todos WHERE id = ? AND owner = ?", task_id, user_id)

    def _one(self, sql: str, *parameters: Any) -> dict[str, Any] | None:
        row = database.execute(f"{sql} RETURNING *", parameters).fetchone()
        return None if row is None else self._task(dict(row))

    def _task(self, todo: dict[str, Any]) -> dict[str, Any]:
        task = {"id": todo["id"], "title": todo["text"], "description": todo["notes"], "due": todo["due"]}
        return task | {"completed": bool(todo["done"]), "created_at": todo["created"], "updated_at": todo["created"]}


chat = create_app(authenticate=user_of, tasks=Todos(), store="sqlite:///chat.db")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open and close the chat's database with your app: a mounted app's own lifespan is run by nobody else."""
    async with chat.router.lifespan_context(chat):
        yield


app = FastAPI(lifespan=lifespan)
app.get("/todos")(my_todos)
app.post("/todos")(add_todo)
app.mount("/chat", chat)

if __name__ == "__main__":
    # Without the timeout uvicorn waits for the open streams before it lets the chat end them.
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=3)
