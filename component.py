"""The ChatKit protocol: our rows as its threads and items, our events as its thread events, and its requests.

The contract is `chatkit.types` of the PyPI package openai-chatkit: what the `<openai-chatkit>` component sends and
reads. Everything here is plain dicts; that they fit those types is what the tests are for.
"""

import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal, Protocol

from starlette.exceptions import HTTPException

Json = dict[str, Any]
Event = str | Json  # ours: a piece of the answer's text, or one of the dicts of the simple dialect
Page = Json  # {"data", "has_more"} and, if there is more, "after"

PAGE = 20  # threads or items, if the request does not say
MAX_PAGE = 100
MAX_FEEDBACK = 100  # items in one request
MAX_TITLE = 200  # characters
MAX_SHOWN = 120  # characters of a tool's argument or result in a task
ID = "[1-9][0-9]{0,17}"  # what SQLite takes for an id
ANSWER_ITEM = rf"({ID})\.(?:0|[1-9][0-9]{{0,8}})"
PING = b": ping\n\n"
PING_EVERY = 15.0  # seconds


# ---- requests ----


class Store(Protocol):
    """What the requests need of `db.Store`."""

    async def page_of_conversations(
        self, user_id: str, *, after: int | None, newest_first: bool, limit: int
    ) -> Sequence[Mapping[str, Any]]: ...
    async def page_of_messages(
        self, user_id: str, conversation_id: int, *, since: int | None, newest_first: bool, limit: int
    ) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]] | None: ...
    async def rename_conversation(self, user_id: str, conversation_id: int, title: str) -> Mapping[str, Any] | None: ...
    async def delete_conversation(self, user_id: str, conversation_id: int) -> bool: ...
    async def give_feedback(
        self, user_id: str, conversation_id: int, message_ids: set[int], kind: Literal["positive", "negative"]
    ) -> bool: ...


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


def message_in(params: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the user wrote, without and with the text it quotes (as a Markdown quotation), or answer 400."""
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
    text = "".join(map(_part, given["content"]))
    if not text.strip():
        raise HTTPException(400, "input is required: a text that is not empty.")
    quotation = "".join(f"> {line}\n" for line in quote.strip().splitlines())
    return text, f"{quotation}\n{text}" if quotation else text


def _part(part: Any) -> str:
    match part:
        case {"type": "input_text" | "input_tag", "text": str(text)}:
            return text
    raise HTTPException(400, "The parts of input.content must be of type input_text or input_tag, with a text.")


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


def _page(data: list[Json], limit: int) -> Page:
    if len(data) <= limit:
        return {"data": data, "has_more": False}
    return {"data": data[:limit], "has_more": True, "after": data[limit - 1]["id"]}


async def reply(
    kind: str, params: Mapping[str, Any], store: Store, user_id: str, end_run: Callable[[int], Awaitable[Any]]
) -> Json:
    """Return the answer to a request that is not one of `STREAMING`.

    `end_run` is called with the id of a thread that has just been deleted. Answers 400 and 404.
    """
    answer = await REPLIES[kind](params, store, user_id)
    if kind == "threads.delete":
        await end_run(id_in(params, "thread_id"))
    return answer


async def _list_threads(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    limit, newest_first, after = _page_in(params)
    since = None if after is None else int(after) if re.fullmatch(ID, after) else 0
    # In the order they were begun in: by last use, a thread that is used between two pages would move the cursor.
    conversations = await store.page_of_conversations(user_id, after=since, newest_first=newest_first, limit=limit + 1)
    return _page([thread(conversation) for conversation in conversations], limit)


async def _list_items(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    return (await _items_of(params, store, user_id))[1]


async def _get_thread(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    conversation, page = await _items_of({"thread_id": params.get("thread_id"), "order": "asc"}, store, user_id)
    return thread(conversation, page)


async def _items_of(params: Mapping[str, Any], store: Store, user_id: str) -> tuple[Mapping[str, Any], Page]:
    thread_id = id_in(params, "thread_id")
    limit, newest_first, after = _page_in(params)
    cursor = re.fullmatch(f"({ID})|{ANSWER_ITEM}", after or "")
    # A question is one item and an answer may be none: twice as many messages as items, and the cursor's own.
    found = await store.page_of_messages(
        user_id,
        thread_id,
        since=int(cursor[1] or cursor[2]) if cursor else None,
        newest_first=newest_first,
        limit=2 * limit + 4,
    )
    if found is None:
        raise HTTPException(404, "Not found.")
    conversation, records = found
    data = [item for record in records for item in items(thread_id, record)[:: -1 if newest_first else 1]]
    if after is not None:  # from behind the cursor; if it is not there (any more), there is nothing behind it
        place = next((n for n, item in enumerate(data) if item["id"] == after), len(data))
        data = data[place + 1 :]
    return conversation, _page(data, limit)


async def _rename_thread(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    thread_id, name = id_in(params, "thread_id"), params.get("title")
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= MAX_TITLE or re.search("[\ud800-\udfff]", name):
        raise HTTPException(400, f"title is required: a text of 1 to {MAX_TITLE} characters.")
    conversation = await store.rename_conversation(user_id, thread_id, name.strip())
    if conversation is None:
        raise HTTPException(404, "Not found.")
    return thread(conversation)


async def _delete_thread(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    if not await store.delete_conversation(user_id, id_in(params, "thread_id")):
        raise HTTPException(404, "Not found.")
    return {}


async def _feedback(params: Mapping[str, Any], store: Store, user_id: str) -> Json:
    thread_id, ids, kind = id_in(params, "thread_id"), params.get("item_ids"), params.get("kind")
    if kind != "positive" and kind != "negative":
        raise HTTPException(400, 'kind must be "positive" or "negative".')
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_FEEDBACK:
        raise HTTPException(400, f"item_ids is required: a list of 1 to {MAX_FEEDBACK} ids, as text.")
    named = [re.fullmatch(ANSWER_ITEM, item_id) if isinstance(item_id, str) else None for item_id in ids]
    answers = {int(name[1]) for name in named if name}
    known = [item_id for answer in answers for item_id in await _ids_of_answer(store, user_id, thread_id, answer)]
    if not all(item_id in known for item_id in ids) or not await store.give_feedback(user_id, thread_id, answers, kind):
        raise HTTPException(404, "Not found.")
    return {}


async def _ids_of_answer(store: Store, user_id: str, thread_id: int, message_id: int) -> list[str]:
    found = await store.page_of_messages(user_id, thread_id, since=message_id, newest_first=False, limit=1)
    records = found[1] if found else []
    return [item["id"] for record in records if record["id"] == message_id for item in items(thread_id, record)]


STREAMING = ("threads.create", "threads.add_user_message", "threads.retry_after_item")
REPLIES: dict[str, Callable[[Mapping[str, Any], Store, str], Awaitable[Json]]] = {
    "threads.get_by_id": _get_thread,
    "threads.list": _list_threads,
    "items.list": _list_items,
    "threads.update": _rename_thread,
    "threads.delete": _delete_thread,
    "items.feedback": _feedback,
}


# ---- rows as threads and items ----


def thread(conversation: Mapping[str, Any], items: Page | None = None) -> Json:
    """Return a `Thread` for a `db.Conversation`, with a page of its items or an empty one."""
    return {
        "id": str(conversation["id"]),
        "title": conversation["title"],
        "created_at": conversation["created_at"],
        "status": {"type": "active"},
        "metadata": {},
        "items": items or {"data": [], "has_more": False},
    }


def items(thread_id: int, record: Mapping[str, Any]) -> list[Json]:
    """Return the items of a `db.Record`: one for what the user said, any number for an answer."""
    if record["role"] == "user":
        return [user_message(thread_id, record)]
    scribe = Scribe(thread_id, record["id"], record["created_at"])
    for event in _events(record["content"], record["tool_calls"], record["reasoning"]):
        for _ in scribe.write(event):
            pass
    for _ in scribe.close(still_live=record["status"] == "streaming"):
        pass
    return scribe.items


def user_message(thread_id: int, message: Mapping[str, Any]) -> Json:
    """Return the `UserMessageItem` for a `db.Message`."""
    return {
        "id": str(message["id"]),
        "thread_id": str(thread_id),
        "created_at": message["created_at"],
        "type": "user_message",
        "content": [{"type": "input_text", "text": message["content"]}],
        "attachments": [],
        "inference_options": {},
    }


async def replay(answer: Any) -> AsyncGenerator[list[Event], None]:
    """Yield in one batch the events of a finished `db.Answer`: what was streamed, but for how the text was cut."""
    begun = {"type": "thinking", "content": "Processing your request...", "thread_id": answer.conversation_id}
    told = [begun, *_events(answer.content, answer.tool_calls, answer.reasoning)]
    yield [*told, {"type": "error", "message": answer.error}] if answer.error is not None else told


def _events(content: str, tool_calls: Iterable[Json], reasoning: Iterable[Json]) -> list[Event]:
    thoughts = [(thought["at"], thought["calls"], 0, thought) for thought in reasoning]
    calls = [(call["at"], n, 1, call) for n, call in enumerate(tool_calls)]
    told: list[Event] = []
    written = 0
    for at, _, is_call, thing in sorted([*thoughts, *calls], key=lambda place: place[:3]):
        told += [content[written:at]] if written < at else []
        written = at
        if not is_call:
            told.append({"type": "thinking", "content": thing["text"]})
            continue
        told.append({"type": "tool_call", "id": thing["id"], "name": thing["name"], "args": thing["args"]})
        if "result" in thing:
            told.append({"type": "tool_result", "id": thing["id"], "name": thing["name"], "result": thing["result"]})
    return [*told, content[written:]] if written < len(content) else told


# ---- events as thread events ----


class Scribe:
    """Writes one answer: takes our events, yields thread events, and keeps the items that these add up to.

    A stored answer and a live one go through here alike, so both end with the same items, however the text was cut:
    text, tool calls and reasoning each begin an item when the one before them was of another kind. White space alone
    begins none, and none begins with it.
    """

    def __init__(self, thread_id: int, answer_id: int, created_at: str) -> None:
        self.items: list[Json] = []
        self._thread_id, self._answer_id, self._created_at = str(thread_id), answer_id, created_at
        self._kind: Literal["", "text", "calls", "thought"] = ""  # of the last item, while it is being written
        self._pieces: list[str] = []  # of its text
        self._shown = self._unshown = 0  # characters of a thought that the reader has, and has not
        self._head = ""  # of the frames of its deltas
        self._calls: dict[str, tuple[Json, int]] = {}  # by call id: the workflow and the place in it
        self._waiting: dict[str, int] = {}  # by item id: calls without a result

    def write(self, event: Event) -> Iterator[Json | str]:
        """Yield what one of our events becomes: thread events, and for a delta of the text its finished frame."""
        if isinstance(event, str):
            yield from self._text(event)
        elif event["type"] == "thinking" and "thread_id" in event:
            yield {"type": "progress_update", "text": event["content"]}
        elif event["type"] == "thinking":
            yield from self._thought(event["content"])
        elif event["type"] == "tool_call":
            yield from self._call(event)
        elif event["type"] == "tool_result":
            yield from self._result(event)
        elif event["type"] == "error":
            yield from self.close()
            yield {"type": "error", "code": "custom", "message": event["message"], "allow_retry": True}

    def close(self, *, still_live: bool = False) -> Iterator[Json]:
        """Yield the ends of the items that are open. In an answer that is `still_live`, tools may be running."""
        yield from self._end_item()
        for workflow in [] if still_live else self.items:
            if not self._waiting.pop(workflow["id"], 0):
                continue
            for n, task in enumerate(workflow["workflow"]["tasks"]):
                if task["status_indicator"] == "loading":
                    task |= {"status_indicator": "none", "content": "Cut off before it was done."}
                    yield _task("updated", workflow, n)
            yield _end_workflow(workflow)

    def _begin(self, kind: Literal["text", "calls", "thought"], **content: Any) -> Iterator[Json]:
        yield from self._end_item()
        self._kind = kind
        item = {
            "id": f"{self._answer_id}.{len(self.items)}",
            "thread_id": self._thread_id,
            "created_at": self._created_at,
            **content,
        }
        self.items.append(item)
        yield {"type": "thread.item.added", "item": item}

    def _end_item(self) -> Iterator[Json]:
        kind, self._kind = self._kind, ""
        text = "".join(self._pieces)
        self._pieces.clear()
        if kind == "text":
            item = self.items[-1]
            item["content"] = [_output(text)]
            yield _update(item, "assistant_message.content_part.done", content_index=0, content=item["content"][0])
            yield {"type": "thread.item.done", "item": item}
        elif kind == "thought":
            item = self.items[-1]
            item["workflow"]["tasks"][0] |= {"content": text, "status_indicator": "complete"}
            yield _task("updated", item, 0)
            yield _end_workflow(item)
        elif kind == "calls" and not self._waiting[self.items[-1]["id"]]:
            del self._waiting[self.items[-1]["id"]]
            yield _end_workflow(self.items[-1])

    def _text(self, delta: str) -> Iterator[Json | str]:
        if self._kind != "text":
            delta = delta.lstrip()
            if not delta:
                return
            yield from self._begin("text", type="assistant_message", content=[])
            item = self.items[-1]
            yield _update(item, "assistant_message.content_part.added", content_index=0, content=_output(""))
            self._head = (
                f'data: {{"type":"thread.item.updated","item_id":"{item["id"]}","update":'
                '{"type":"assistant_message.content_part.text_delta","content_index":0,"delta":'
            )
        self._pieces.append(delta)
        yield f"{self._head}{quoted(delta)}}}}}\n\n"

    def _thought(self, delta: str) -> Iterator[Json]:
        if self._kind != "thought":
            delta = delta.lstrip()
            if not delta:
                return
            yield from self._begin("thought", type="workflow", workflow=_workflow("reasoning"))
            self.items[-1]["workflow"]["tasks"].append(
                {"type": "thought", "content": delta, "status_indicator": "loading"}
            )
            yield _task("added", self.items[-1], 0)
            self._shown, self._unshown = len(delta), -len(delta)
        self._pieces.append(delta)
        self._unshown += len(delta)
        # The protocol has no delta for a thought. Sent whole for each of ours, a long one would cost its square.
        if self._unshown > 20 + self._shown // 8:
            self.items[-1]["workflow"]["tasks"][0]["content"] = "".join(self._pieces)
            self._shown, self._unshown = self._shown + self._unshown, 0
            yield _task("updated", self.items[-1], 0)

    def _call(self, call: Json) -> Iterator[Json]:
        if self._kind != "calls":
            yield from self._begin("calls", type="workflow", workflow=_workflow("custom"))
        item = self.items[-1]
        tasks = item["workflow"]["tasks"]
        tasks.append({"type": "custom", "title": title(call["name"], call["args"]), "status_indicator": "loading"})
        self._calls[call["id"]] = item, len(tasks) - 1
        self._waiting[item["id"]] = self._waiting.get(item["id"], 0) + 1
        yield _task("added", item, len(tasks) - 1)

    def _result(self, event: Json) -> Iterator[Json]:
        item, n = self._calls.pop(event["id"], (None, 0))
        if item is None:
            return
        item["workflow"]["tasks"][n] |= {"status_indicator": "complete", "content": outcome(event["result"])}
        self._waiting[item["id"]] -= 1
        yield _task("updated", item, n)
        if item is not self.items[-1] and not self._waiting[item["id"]]:  # text or reasoning has gone past it
            del self._waiting[item["id"]]
            yield _end_workflow(item)


def _update(item: Json, kind: str, **fields: Any) -> Json:
    return {"type": "thread.item.updated", "item_id": item["id"], "update": {"type": kind, **fields}}


def _output(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}


def _workflow(kind: Literal["custom", "reasoning"]) -> Json:
    return {"type": kind, "tasks": [], "expanded": True}


def _task(change: Literal["added", "updated"], item: Json, n: int) -> Json:
    return _update(item, f"workflow.task.{change}", task_index=n, task=item["workflow"]["tasks"][n])


def _end_workflow(item: Json) -> Json:
    workflow = item["workflow"]
    tasks = workflow["tasks"]
    name = "Reasoning" if workflow["type"] == "reasoning" else f"{len(tasks)} steps"
    workflow |= {"summary": {"title": tasks[0].get("title", name) if len(tasks) == 1 else name}, "expanded": False}
    return {"type": "thread.item.done", "item": item}


def opening(kind: str, conversation: Mapping[str, Any], question: Mapping[str, Any]) -> Iterator[Json]:
    """Yield the thread events that come before an answer: `kind` is the request's, `question` the user's message."""
    if kind == "threads.create":  # as the official server does it: first without a title
        yield {"type": "thread.created", "thread": {k: v for k, v in thread(conversation).items() if k != "title"}}
    if kind != "threads.retry_after_item":
        yield {"type": "thread.item.done", "item": user_message(conversation["id"], question)}
    if kind == "threads.create":
        yield {"type": "thread.updated", "thread": thread(conversation)}
    yield {"type": "stream_options", "stream_options": {"allow_cancel": True}}


async def frames(
    opening: Iterable[Json], scribe: Scribe, batches: AsyncGenerator[list[Event], None]
) -> AsyncGenerator[bytes, None]:
    """Turn batches of our events into chunks of frames, each one `data:` line and a blank line; then just end.

    The opening comes first. Neighbouring pieces of text become one delta; an empty batch becomes a comment.
    """
    yield "".join(map(_frame, opening)).encode("ascii")
    written = time.monotonic()
    async for batch in batches:
        chunk = "".join(_frame(e) for event in _joined(batch) for e in scribe.write(event))
        if chunk or not batch or time.monotonic() - written >= PING_EVERY:  # of a thought not every piece is sent
            written = time.monotonic()
            yield chunk.encode("ascii") or PING
    if chunk := "".join(map(_frame, scribe.close())):
        yield chunk.encode("ascii")


def _frame(event: Json | str) -> str:
    return event if isinstance(event, str) else f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


def _joined(batch: Sequence[Event]) -> Iterator[Event]:
    text: list[str] = []
    for event in batch:
        if isinstance(event, str):
            text.append(event)
            continue
        if text:
            yield "".join(text)
            text.clear()
        yield event
    if text:
        yield "".join(text)


# ---- tool calls in words ----


def title(name: str, args: Any) -> str:
    """Say what a tool call does, from its name and main arguments: "Add task: Buy milk", "Complete task 3"."""
    args = dict(args) if isinstance(args, dict) else {}
    if name == "complete_task" and args.get("completed") is False:
        name = "reopen_task"
    if name == "list_tasks" and args.get("status") == "all":
        args = {}
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", " ", name).split() or ["tool"]
    said = " ".join([words[0][:1].upper() + words[0][1:], *(w if w.isupper() else w.lower() for w in words[1:])])
    ids = [key for key in args if re.search(r"(?:^|_)id$|I[dD]$", key)]
    if ids and isinstance(args[ids[0]], str | int):
        said += f" {_short(str(args[ids[0]]))}"
    texts = [args[key] for key in args if key not in ids and isinstance(args[key], str) and args[key].strip()]
    return f"{said}: {_short(texts[0])}" if texts else said


def outcome(result: Any) -> str:
    """Say in a few words what a tool call gave; a failure is named as one."""
    if result in (None, "", [], {}):
        return "Done"
    match result:
        case {"success": False} | {"error": str()} if result.get("success") is not True:
            return f"Did not work: {_short(str(result.get('error') or 'no reason was given'))}"
        case {"tasks": list(), "total": int(total)}:
            return f"{total} task{'' if total == 1 else 's'}"
        case {"task_id": task_id, "title": str(name)}:
            return f"#{task_id} {_short(name)}{' (done)' if result.get('completed') is True else ''}"
        case str():
            return _short(result) or "Done"
        case _:
            return _short(json.dumps(result, ensure_ascii=False))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."
