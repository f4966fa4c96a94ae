"""The simple dialect: what a request says, and each event as exactly one frame.

So the number of a frame is the number of its event.
"""

from collections.abc import AsyncGenerator, Mapping
from json.encoder import encode_basestring_ascii as quoted  # the standard encoder's own, a tenth of a `dumps`
from typing import Any, Literal, NamedTuple

from starlette.exceptions import HTTPException

from todochat.dialects import THINKING, for_clients
from todochat.dialects.sse import frame
from todochat.events import Event
from todochat.web import inputs

DONE = b"data: [DONE]\n\n"


class Request(NamedTuple):
    """What a request says; `thread_id` is None for a new conversation, and 0 for one that cannot exist.

    A retry has `message_id`, and `message` is empty if what the user said stays as it is.
    """

    message: str
    thread_id: int | None
    on_disconnect: Literal["continue", "stop"]
    timezone: str | None
    message_id: int | None = None


def request_in(body: Mapping[str, Any]) -> Request:
    """Return what a request says, however it is spelt, or answer 400 or 413."""
    inputs.only(body, "message", "thread_id", "on_disconnect", "timezone")
    thread_id = None if body.get("thread_id") is None else inputs.id_in(body, "thread_id")
    return Request(_message_in(body), thread_id, _on_disconnect_in(body), inputs.timezone_in(body))


def retry_in(body: Mapping[str, Any], thread_id: int) -> Request:
    """Return what a request for another answer says, or answer 400 or 413."""
    inputs.only(body, "message_id", "message", "on_disconnect", "timezone")
    message = "" if body.get("message") is None else _message_in(body)
    options = _on_disconnect_in(body), inputs.timezone_in(body)
    return Request(message, thread_id, *options, message_id=inputs.id_in(body, "message_id"))


def _message_in(body: Mapping[str, Any]) -> str:
    return inputs.text_in(body, "message", inputs.MAX_MESSAGE, too_long=413)


def _on_disconnect_in(body: Mapping[str, Any]) -> Literal["continue", "stop"]:
    choice: object = body.get("on_disconnect", "continue")
    if choice == "continue" or choice == "stop":
        return choice
    raise HTTPException(400, 'on_disconnect must be "continue" or "stop".')


async def frames(thread_id: int, batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
    """Turn batches of events into chunks of frames, and the end into `[DONE]`."""
    async for batch in batches:
        yield "".join([_frame(thread_id, event) for event in batch]).encode("ascii")
    yield DONE


def _frame(thread_id: int, event: Event) -> str:
    if event["type"] == "text":  # by far the most frequent
        return f'data: {{"type":"text","content":{quoted(event["content"])}}}\n\n'
    if event["type"] == "started":
        first = {"type": "thinking", "content": THINKING, "thread_id": thread_id}
        return frame({"type": "thinking", "content": event["content"]} if "content" in event else first)
    return frame(for_clients(event))
