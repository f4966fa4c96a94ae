"""Versions of what a user sees, each by one small query: what etags.py needs of a store."""

from todochat.engines import Engine


class Versions:
    """The part of `db.Store` that says whether something has changed: each text is another one after each change."""

    engine: Engine

    async def version_of_tasks(self, user_id: str) -> str:
        """Return the version of all tasks of the user."""
        return await self._version_of_all("tasks", user_id)

    async def version_of_conversations(self, user_id: str) -> str:
        """Return the version of the list of the user's conversations."""
        return await self._version_of_all("conversations", user_id)

    async def _version_of_all(self, table: str, user_id: str) -> str:
        # As ids only grow, as many rows with the same sum of ids are the same rows, and their versions grow too.
        statement = f"SELECT COUNT(*) AS many, SUM(id) AS ids, SUM(version) AS versions FROM {table} WHERE user_id = ?"
        [row] = await self.engine.read(lambda sql: sql(statement, (user_id,)))
        return str(dict(row))

    async def version_of_conversation(self, user_id: str, conversation_id: int) -> str | None:
        """Return the version of a conversation with its messages, the live one too; None if it is not the user's."""
        rows = await self.engine.read(
            lambda sql: sql(
                """
                SELECT version, (
                    SELECT first || ' ' || LENGTH(events) FROM live_events JOIN messages ON messages.id = answer_id
                    WHERE conversation_id = conversations.id AND status = 'streaming' ORDER BY first DESC LIMIT 1
                ) AS last_events FROM conversations WHERE id = ? AND user_id = ?
                """,
                (conversation_id, user_id),
            )
        )
        return str(dict(rows[0])) if rows else None
