"""The simple dialect: each event is exactly one frame, so the number of a frame is the number of its event."""

from collections.abc import AsyncGenerator
from json.encoder import encode_basestring_ascii as quoted  # the standard encoder's own, a tenth of a `dumps`

from todochat.dialects import THINKING
from todochat.dialects.sse import frame
from todochat.events import Event

DONE = b"data: [DONE]\n\n"


async def frames(thread_id: int, batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
    """Turn batches of events into chunks of frames, and the end into `[DONE]`."""
    async for batch in batches:
        yield "".join([_frame(thread_id, event) for event in batch]).encode("ascii")
    yield DONE


def _frame(thread_id: int, event: Event) -> str:
    if event["type"] == "text":  # by far the most frequent
        return f'data: {{"type":"text","content":{quoted(event["content"])}}}\n\n'
    if event["type"] == "started":
        return frame({"type": "thinking", "content": THINKING, "thread_id": thread_id})
    return frame(event)
