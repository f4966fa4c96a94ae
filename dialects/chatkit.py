"""The ChatKit protocol: its requests, and the stream that answers a message.

The contract is `chatkit.types` of the PyPI package openai-chatkit: what the `<openai-chatkit>` component sends and
reads. Everything here is plain dicts; that they fit those types is what the tests are for. Our conversations are its
threads; what its items are is said in chatkit_items.py.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException

from todochat.db import Conversation, Store, Turn, TurnRequest
from todochat.dialects.chatkit_items import ItemWriter, Json, items, user_message
from todochat.dialects.sse import frame
from todochat.events import Event, joined
from todochat.store.pages import page_of_conversations, page_of_messages
from todochat.web import inputs

Page = Json  # {"data", "has_more"} and, if there is more, "after"

PAGE = 20  # threads or items, if the request does not say
MAX_PAGE = 100
SLICE = 21  # messages that are read at once
LARGE_PAGE = 500_000  # characters, after which a page ends
MAX_FEEDBACK = 100  # items in one request
ID = "[1-9][0-9]{0,17}"  # what SQLite takes for an id
ANSWER_ITEM = rf"({ID})\.(?:0|[1-9][0-9]{{0,8}})"

# ---- what a request holds ----


def request_in(body: Mapping[str, Any]) -> tuple[str, Json]:
    """Return the type and the params of a request, or answer 400."""
    kind, params = body.get("type"), _given(body, "params", {})
    if not isinstance(kind, str) or kind not in (*STREAMING, *REPLIES):
        # The rest of the protocol: attachments, transcription, client tools, structured input, custom actions.
        raise HTTPException(400, f"This server does not support the request {ascii(kind)[:80]}.")
    if not isinstance(params, dict):
        raise HTTPException(400, f"The params of {kind} must be an object.")
    return kind, params


def _given(values: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a value, or the default where there is none: the component leaves out what it has not, or sends null."""
    value = values.get(name)
    return default if value is None else value


def id_in(params: Mapping[str, Any], name: str) -> int:
    """Return a required id, or answer 400; one that cannot exist is answered like one that does not, with 404."""
    value = params.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise HTTPException(400, f"{name} is required: an id, as text.")
    if not re.fullmatch(ID, str(value)):
        raise HTTPException(404, "Not found.")
    return int(value)


def turn_in(kind: str, params: Mapping[str, Any], user_id: str) -> TurnRequest:
    """Return what one of the `STREAMING` requests asks for, or answer 400, 404 or 413."""
    thread_id = None if kind == "threads.create" else id_in(params, "thread_id")
    if kind == "threads.retry_after_item":
        return TurnRequest(user_id, conversation_id=thread_id, retry_of=id_in(params, "item_id"))
    text, message = _message_in(params)
    title = inputs.conversation_title(text) if thread_id is None else None
    return TurnRequest(user_id, message, title, conversation_id=thread_id)


def _message_in(params: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the user wrote, without and with the text it quotes (as a Markdown quotation).

    Answers 400 if it is not that, and 413 if it is longer than a message may be.
    """
    given = params.get("input")
    if not isinstance(given, dict) or not isinstance(given.get("content"), list):
        raise HTTPException(400, 'input is required: {"content": [{"type": "input_text", "text": ...}]}.')
    if _given(given, "attachments", []) != []:
        raise HTTPException(400, "This server does not support attachments.")
    options = _given(given, "inference_options", {})
    if not isinstance(options, dict) or any(options.get(name) for name in ("tool_choice", "model")):
        raise HTTPException(400, "This server does not support inference_options: it has one model and chooses tools.")
    quote = _given(given, "quoted_text", "")
    if not isinstance(quote, str):
        raise HTTPException(400, "quoted_text must be a text or null.")
    text = _sized("".join(map(_part, given["content"])))
    quotation = "".join(f"> {line}\n" for line in quote.strip().splitlines())
    return text, _sized(f"{quotation}\n{text}") if quotation else text


def _part(part: Any) -> str:
    match part:
        case {"type": "input_text" | "input_tag", "text": str(text)}:
            return text
    raise HTTPException(400, "The parts of input.content must be of type input_text or input_tag, with a text.")


def _sized(text: str) -> str:
    return inputs.text_in({"input": text}, "input", inputs.MAX_MESSAGE, too_long=413)


def _page_in(params: Mapping[str, Any]) -> tuple[int, bool, str | None]:
    """Return the limit, whether the newest come first, and the cursor, or answer 400."""
    limit, order, after = params.get("limit"), _given(params, "order", "desc"), params.get("after")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise HTTPException(400, "limit must be a whole number.")
    if order not in ("asc", "desc"):
        raise HTTPException(400, 'order must be "asc" or "desc".')
    if after is not None and not isinstance(after, str):
        raise HTTPException(400, "after must be an id, as text.")
    # The component asks for 9999.
    return PAGE if limit is None else min(max(limit, 1), MAX_PAGE), order == "desc", after


# ---- requests that are answered with JSON ----


async def _list_threads(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    limit, newest_first, after = _page_in(params)
    since = None if after is None else int(after) if re.fullmatch(ID, after) else 0
    # In the order they were begun in: by last use, a thread that is used between two pages would move the cursor.
    conversations = await page_of_conversations(store, user_id, after=since, newest_first=newest_first, limit=limit + 1)
    return _page([thread(conversation) for conversation in conversations], limit)


async def _list_items(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    return (await _items_of(params, store, user_id))[1]


async def _get_thread(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    conversation, page = await _items_of({"thread_id": params.get("thread_id"), "order": "asc"}, store, user_id)
    return thread(conversation, page)


async def _items_of(params: Mapping[str, Any], store: Store, user_id: str) -> tuple[Conversation, Page]:
    thread_id = id_in(params, "thread_id")
    limit, newest_first, after = _page_in(params)
    cursor = re.fullmatch(f"({ID})|{ANSWER_ITEM}", after or "")
    # A question is one item and an answer may be none: twice as many messages as items, and the cursor's own.
    since = int(cursor[1] or cursor[2]) if cursor else None
    data: list[Json] = []
    size, more = 0, True
    while more and len(data) <= limit:
        conversation, messages = inputs.found(
            await page_of_messages(store, user_id, thread_id, since=since, newest_first=newest_first, limit=SLICE)
        )
        # The last one of a whole slice is the first of the next.
        more = len(messages) == SLICE
        for message in messages[: SLICE - 1]:
            if data and size > LARGE_PAGE:
                return conversation, _page(data, min(limit, len(data)), more=True)
            told = items(thread_id, message)[:: -1 if newest_first else 1]
            if after is not None:  # from behind the cursor, an item of the first message; if it is gone, nothing is
                place = next((n for n, item in enumerate(told) if item["id"] == after), None)
                if place is None:
                    return conversation, _page([], limit)
                told, after = told[place + 1 :], None
            data += told
            size += len(str(message))
        since = messages[-1]["id"] if more else None
    return conversation, _page(data, limit)


async def _rename_thread(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    thread_id, title = id_in(params, "thread_id"), inputs.title_in(params)
    return thread(inputs.found(await store.rename_conversation(user_id, thread_id, title)))


async def _delete_thread(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    inputs.found(await store.delete_conversation(user_id, id_in(params, "thread_id")))
    return {}


async def _feedback(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    thread_id, ids, kind = id_in(params, "thread_id"), params.get("item_ids"), params.get("kind")
    if kind != "positive" and kind != "negative":
        raise HTTPException(400, 'kind must be "positive" or "negative".')
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_FEEDBACK:
        raise HTTPException(400, f"item_ids is required: a list of 1 to {MAX_FEEDBACK} ids, as text.")
    named = [re.fullmatch(ANSWER_ITEM, item_id) if isinstance(item_id, str) else None for item_id in ids]
    answers = {int(name[1]) for name in named if name}
    known: list[str] = []
    for answer in answers:
        if (message := await store.get_message(user_id, answer)) is not None:
            known += [item["id"] for item in items(thread_id, message)]
    are_items = all(item_id in known for item_id in ids)
    inputs.found(are_items and await store.give_feedback(user_id, thread_id, answers, kind))
    return {}


def _page(data: list[Json], limit: int, *, more: bool = False) -> Page:
    if len(data) <= limit and not more:
        return {"data": data, "has_more": False}
    return {"data": data[:limit], "has_more": True, "after": data[limit - 1]["id"]}


def thread(conversation: Conversation, page: Page | None = None) -> Json:
    """Return the `Thread` that a conversation is, with a page of its items or an empty one."""
    return {
        "id": str(conversation["id"]),
        "title": conversation["title"],
        "created_at": conversation["created_at"],
        "status": {"type": "active"},
        "metadata": {},
        "items": page or _page([], 0),
    }


STREAMING = ("threads.create", "threads.add_user_message", "threads.retry_after_item")
READING = ("threads.get_by_id", "threads.list", "items.list", "items.feedback")  # one of a user's at a time
REPLIES: dict[str, Callable[[Mapping[str, Any], Store, str], Awaitable[Json]]] = {
    "threads.get_by_id": _get_thread,
    "threads.list": _list_threads,
    "items.list": _list_items,
    "threads.update": _rename_thread,
    "threads.delete": _delete_thread,
    "items.feedback": _feedback,
}

# ---- requests that are answered with a stream ----


async def frames(kind: str, turn: Turn, batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
    """Turn the batches of events of a turn into chunks of frames; the stream ends by ending.

    `kind` is the type of the request that began the turn, one of `STREAMING`.
    """
    yield "".join(map(frame, _opening(kind, turn))).encode("ascii")
    writer = ItemWriter(turn.conversation["id"], turn.answer["id"], turn.answer["created_at"])
    async for batch in batches:
        # A thought is not sent again for each of its pieces: there may be nothing to send.
        if chunk := "".join([frame(told) for event in joined(batch) for told in writer.write(event)]):
            yield chunk.encode("ascii")
    if chunk := "".join(map(frame, writer.close())):
        yield chunk.encode("ascii")


def _opening(kind: str, turn: Turn) -> Iterator[Json]:
    """Yield the thread events that come before an answer."""
    if kind == "threads.create":  # as the official server does it: first without a title
        untitled = {name: value for name, value in thread(turn.conversation).items() if name != "title"}
        yield {"type": "thread.created", "thread": untitled}
    if kind != "threads.retry_after_item":
        yield {"type": "thread.item.done", "item": user_message(turn.conversation["id"], turn.history[-1])}
    if kind == "threads.create":
        yield {"type": "thread.updated", "thread": thread(turn.conversation)}
    yield {"type": "stream_options", "stream_options": {"allow_cancel": True}}
