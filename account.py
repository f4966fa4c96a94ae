"""All that is stored of one user: as one document, and its end."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from todochat.dates import utc_now
from todochat.db import NO_LIMIT, Store
from todochat.dialects import for_clients
from todochat.engines import Row, Sql, Value
from todochat.runs import Runs
from todochat.shares import Shares
from todochat.store.pages import page_of_messages

log = logging.getLogger("todochat")

SLICE = 200  # conversations that are deleted at once: a server ends what takes longer than seconds
PAGE = 50  # messages, or ten times as many tasks, that are read at once: nobody waits for a whole export

# Beside the conversations and the tasks.
OTHERS = {
    "idempotency_keys": "SELECT key, created_at FROM idempotency_keys WHERE user_id = ? ORDER BY created_at, key",
    "token_counts": "SELECT day, tokens FROM token_counts WHERE user_id = ? ORDER BY day",
}


def export(store: Store, shares: Shares, user_id: str) -> ASGIApp:
    """Return all that is stored of a user as a JSON document, which is made while it is sent."""
    name = "attachment; filename=todochat-export.json"
    response = StreamingResponse(
        _document(store, shares, user_id), media_type="application/json", headers={"Content-Disposition": name}
    )
    return shares.sending(user_id, response)


async def _document(store: Store, shares: Shares, user_id: str) -> AsyncGenerator[str, None]:
    yield f'{{"user": {json.dumps(user_id)}, "exported_at": "{utc_now()}", "conversations": ['
    after, comma = 0, ""
    ids = "SELECT id FROM conversations WHERE user_id = ? AND id > ? ORDER BY id LIMIT ?"
    while page := await store.engine.read(partial(_rows, ids, (user_id, after, PAGE))):
        for row in page:
            after = row["id"]
            conversation = await store.get_conversation(user_id, after, last=0)
            if conversation is None:  # deleted meanwhile
                continue
            yield f"{comma}{json.dumps({**conversation, 'messages': []})[:-2]}"
            async for message in _messages(store, shares, user_id, after):
                yield message
            comma = ", "
            yield "]}"
    yield '], "tasks": ['
    last, comma = 0, ""
    while tasks := await store.page_of_tasks(user_id, None, after=last, limit=10 * PAGE):
        yield comma + json.dumps(tasks)[1:-1]
        last, comma = tasks[-1]["id"], ", "
    yield "]"
    for name, statement in OTHERS.items():
        rows = await store.engine.read(partial(_rows, statement, (user_id,)))
        yield f', "{name}": {json.dumps([{**row} for row in rows])}'
    yield "}"


async def _rows(statement: str, parameters: Sequence[Value], sql: Sql) -> Sequence[Row]:
    return await sql(statement, parameters)


async def _messages(store: Store, shares: Shares, user_id: str, conversation_id: int) -> AsyncGenerator[str, None]:
    since, comma = 0, ""
    while since < NO_LIMIT:
        async with shares.reading(user_id):
            page = await page_of_messages(store, user_id, conversation_id, since=since, newest_first=False, limit=PAGE)
        if page is None or not page[1]:  # deleted meanwhile, or at its end
            return
        for message in page[1]:
            yield comma + json.dumps(for_clients(message))
            await asyncio.sleep(0)  # others are served between two of these
            since, comma = message["id"] + 1, ", "


async def delete(store: Store, runs: Runs, user_id: str) -> Response:
    """Delete all that is stored of a user; what is live ends."""

    async def delete_some(sql: Sql) -> Sequence[Row]:
        some = "SELECT id FROM conversations WHERE user_id = ? ORDER BY id LIMIT ?"
        return await sql(f"DELETE FROM conversations WHERE id IN ({some}) RETURNING id", (user_id, SLICE))

    async def delete_others(sql: Sql) -> None:
        for table in ("tasks", *OTHERS):
            await sql(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))

    while deleted := await store.engine.write(delete_some, lock=user_id):
        for row in deleted:
            await runs.end_deleted(row["id"])
    await store.engine.write(delete_others, lock=user_id)
    log.info("user=%r has deleted everything", user_id)
    return JSONResponse({"status": "deleted"})
