"""The official stack: FastAPI, openai-chatkit's `ChatKitServer`, and a plain SQLite store for it. No users."""

import sqlite3
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import RunConfig, Runner
from chatkit.agents import AgentContext, simple_to_agent_input, stream_agent_response
from chatkit.server import ChatKitServer, StreamingResult
from chatkit.store import NotFoundError, Store
from chatkit.types import Attachment, Page, ThreadItem, ThreadMetadata, ThreadStreamEvent, UserMessageItem
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import TypeAdapter
from scripted import todo_agent
from serving import STREAM_HEADERS, serve

HISTORY_LIMIT = 50
ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
SCHEMA = """
    CREATE TABLE threads (id TEXT PRIMARY KEY, data TEXT NOT NULL);
    CREATE TABLE items (thread_id TEXT, id TEXT, data TEXT NOT NULL, PRIMARY KEY (thread_id, id));
"""


class SQLiteStore(Store[dict[str, Any]]):
    """Threads and items as JSON; each call commits. The connection is used directly, which is the cheapest way."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(SCHEMA)

    async def load_thread(self, thread_id: str, context: dict[str, Any]) -> ThreadMetadata:
        """Return a thread."""
        row = self._db.execute("SELECT data FROM threads WHERE id = ?", (thread_id,)).fetchone()
        if row is None:
            raise NotFoundError(thread_id)
        return ThreadMetadata.model_validate_json(row[0])

    async def save_thread(self, thread: ThreadMetadata, context: dict[str, Any]) -> None:
        """Write a thread."""
        self._db.execute("REPLACE INTO threads VALUES (?, ?)", (thread.id, thread.model_dump_json()))

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: dict[str, Any]
    ) -> Page[ThreadMetadata]:
        """Return the first page of threads."""
        rows = self._db.execute("SELECT data FROM threads ORDER BY rowid DESC LIMIT ?", (limit,))
        return Page(data=[ThreadMetadata.model_validate_json(data) for (data,) in rows])

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: dict[str, Any]
    ) -> Page[ThreadItem]:
        """Return the first page of a thread's items."""
        rows = self._db.execute(
            f"SELECT data FROM items WHERE thread_id = ? ORDER BY rowid {'ASC' if order == 'asc' else 'DESC'} LIMIT ?",
            (thread_id, limit),
        )
        return Page(data=[ITEM.validate_json(data) for (data,) in rows])

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: dict[str, Any]) -> None:
        """Write an item."""
        self._db.execute("REPLACE INTO items VALUES (?, ?, ?)", (thread_id, item.id, item.model_dump_json()))

    async def save_item(self, thread_id: str, item: ThreadItem, context: dict[str, Any]) -> None:
        """Write an item."""
        await self.add_thread_item(thread_id, item, context)

    async def load_item(self, thread_id: str, item_id: str, context: dict[str, Any]) -> ThreadItem:
        """Return an item."""
        row = self._db.execute("SELECT data FROM items WHERE thread_id = ? AND id = ?", (thread_id, item_id)).fetchone()
        if row is None:
            raise NotFoundError(item_id)
        return ITEM.validate_json(row[0])

    async def delete_thread(self, thread_id: str, context: dict[str, Any]) -> None:
        """Delete a thread."""
        self._db.execute("DELETE FROM items WHERE thread_id = ?", (thread_id,))
        self._db.execute("DELETE FROM threads WHERE id = ?", (thread_id,))

    async def delete_thread_item(self, thread_id: str, item_id: str, context: dict[str, Any]) -> None:
        """Delete an item."""
        self._db.execute("DELETE FROM items WHERE thread_id = ? AND id = ?", (thread_id, item_id))

    async def save_attachment(self, attachment: Attachment, context: dict[str, Any]) -> None:
        raise NotImplementedError

    async def load_attachment(self, attachment_id: str, context: dict[str, Any]) -> Attachment:
        raise NotImplementedError

    async def delete_attachment(self, attachment_id: str, context: dict[str, Any]) -> None:
        raise NotImplementedError


class TodoServer(ChatKitServer[dict[str, Any]]):
    """The server as the library's documentation builds it."""

    def __init__(self, store: SQLiteStore) -> None:
        super().__init__(store)
        self._agent = todo_agent()

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: dict[str, Any]
    ) -> AsyncIterator[ThreadStreamEvent]:
        """Answer a message."""
        items = await self.store.load_thread_items(thread.id, None, HISTORY_LIMIT, "desc", context)
        result = Runner.run_streamed(
            self._agent,
            await simple_to_agent_input(list(reversed(items.data))),
            context=(agent_context := AgentContext(thread=thread, store=self.store, request_context=context)),
            run_config=RunConfig(tracing_disabled=True),
        )
        async for event in stream_agent_response(agent_context, result):
            yield event


app = FastAPI()
server = TodoServer(SQLiteStore(sys.argv[2]))


@app.post("/chatkit")
async def chatkit(request: Request) -> Response:
    """Speak the ChatKit protocol."""
    result = await server.process(await request.body(), {})
    if isinstance(result, StreamingResult):
        return StreamingResponse(result, media_type="text/event-stream", headers=STREAM_HEADERS)
    return Response(result.json, media_type="application/json")


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that the server is up."""
    return {"status": "healthy"}


if __name__ == "__main__":
    serve(app)
