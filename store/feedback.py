"""What users think of answers: the part of `db.Store` that stores it."""

from typing import Literal

from todochat.engines import Engine, Sql


class FeedbackStore:
    """The method of a store that is about feedback; like the others it is one unit of work."""

    engine: Engine

    async def give_feedback(
        self, user_id: str, conversation_id: int, message_ids: set[int], kind: Literal["positive", "negative"]
    ) -> bool:
        """Store what the user thinks of answers; False, and nothing, if one of them is not in this conversation."""
        places = ", ".join("?" * len(message_ids))
        answers = f"conversation_id = ? AND role = 'assistant' AND id IN ({places})"

        async def work(sql: Sql) -> bool:
            found = await sql(f"SELECT id FROM messages WHERE {answers}", (conversation_id, *message_ids))
            change = "UPDATE conversations SET version = version + 1 WHERE id = ? AND user_id = ? RETURNING id"
            if len(found) < len(message_ids) or not await sql(change, (conversation_id, user_id)):
                return False
            await sql(f"UPDATE messages SET feedback = ? WHERE {answers}", (kind, conversation_id, *message_ids))
            return True

        return await self.engine.write(work)
