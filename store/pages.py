"""Pages of conversations and of messages, in the order of their ids: what the ChatKit protocol and an export read."""

from todochat.db import CONVERSATION, MESSAGE, Conversation, Store, conversation_in, find_conversation, read_message
from todochat.engines import Sql
from todochat.events import Message


async def page_of_conversations(
    store: Store, user_id: str, *, after: int | None, newest_first: bool, limit: int
) -> list[Conversation]:
    """Return up to `limit` conversations in the order they were begun in; none, if `after` is not the user's."""
    compare, order = ("<", "DESC") if newest_first else (">", "ASC")
    rows = await store.engine.read(
        lambda sql: sql(
            f"""
            SELECT {CONVERSATION} FROM conversations
            WHERE user_id = ? AND (CAST(? AS BIGINT) IS NULL OR id {compare} (
                SELECT id FROM conversations WHERE id = ? AND user_id = ?
            )) ORDER BY id {order} LIMIT ?
            """,
            (user_id, after, after, user_id, limit),
        )
    )
    return [conversation_in(row) for row in rows]


async def page_of_messages(
    store: Store, user_id: str, conversation_id: int, *, since: int | None, newest_first: bool, limit: int
) -> tuple[Conversation, list[Message]] | None:
    """Return a conversation and up to `limit` of its messages from `since` on, in the order asked for.

    None if the user has none with this id.
    """
    compare, order = ("<=", "DESC") if newest_first else (">=", "ASC")

    async def work(sql: Sql) -> tuple[Conversation, list[Message]] | None:
        conversation = await find_conversation(sql, user_id, conversation_id)
        if conversation is None:
            return None
        rows = await sql(
            f"""
            SELECT {MESSAGE} FROM messages
            WHERE conversation_id = ? AND (CAST(? AS BIGINT) IS NULL OR id {compare} ?) ORDER BY id {order} LIMIT ?
            """,
            (conversation_id, since, since, limit),
        )
        return conversation, [await read_message(sql, row) for row in rows]

    return await store.engine.read(work)
