"""The items of a thread in the ChatKit protocol, as they are written live and as they are read from what is stored.

A user's message is one item. An answer is any number: its text, its tool calls and its reasoning, in the order in which
they came. Their ids are those of the message, with a dot and a number behind that of an answer.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from todochat.dialects import THINKING
from todochat.events import Citation, Event, Message, ToolCall, ToolResult, unfold

Json = dict[str, Any]

MAX_SHOWN = 120  # characters of a tool's argument or result in a task


def items(thread_id: int, message: Message) -> list[Json]:
    """Return the items of a message: one for what the user said, any number for an answer."""
    if message["role"] == "user":
        return [user_message(thread_id, message)]
    writer = ItemWriter(thread_id, message["id"], message["created_at"])
    for event in unfold(message):
        for _ in writer.write(event):
            pass
    for _ in writer.close(still_live=message["status"] == "streaming"):
        pass
    return writer.items


def user_message(thread_id: int, message: Message) -> Json:
    """Return the `UserMessageItem` for what the user said."""
    return {
        "id": str(message["id"]),
        "thread_id": str(thread_id),
        "created_at": message["created_at"],
        "type": "user_message",
        "content": [{"type": "input_text", "text": message["content"]}],
        "attachments": [],
        "inference_options": {},
    }


# ---- events as thread events ----


class ItemWriter:
    """Writes one answer: takes events, yields thread events, and keeps the items that these add up to.

    A stored answer and a live one go through here alike, so both end with the same items, however the text was cut:
    text, tool calls and reasoning each begin an item when the one before them was of another kind. White space alone
    begins none, and none begins with it.
    """

    def __init__(self, thread_id: int, answer_id: int, created_at: str) -> None:
        self.items: list[Json] = []
        self._thread_id, self._answer_id, self._created_at = str(thread_id), answer_id, created_at
        self._kind: Literal["", "text", "calls", "thought"] = ""  # of the last item, while it is being written
        self._pieces: list[str] = []  # of its text
        self._text_item: Json | None = None  # the last one of text,
        self._text_length = 0  # its characters so far,
        self._notes: list[Json] = []  # and the sources that it refers to
        self._shown = self._unshown = 0  # characters of a thought that the reader has, and has not
        self._calls: dict[str, tuple[Json, int]] = {}  # by call id: the workflow and the place in it

    def write(self, event: Event) -> Iterator[Json]:
        """Yield the thread events that an event becomes."""
        if event["type"] == "text":
            yield from self._text(event["content"])
        elif event["type"] == "started":
            yield {"type": "progress_update", "text": event.get("content", THINKING)}
        elif event["type"] == "thinking":
            yield from self._thought(event["content"])
        elif event["type"] == "tool_call":
            yield from self._call(event)
        elif event["type"] == "tool_result":
            yield from self._result(event)
        elif event["type"] == "citation":
            yield from self._citation(event)
        elif event["type"] == "error":
            yield from self.close()
            yield {"type": "error", "code": "custom", "message": event["message"], "allow_retry": True}

    def close(self, *, still_live: bool = False) -> Iterator[Json]:
        """Yield the ends of the items that are open. In an answer that is `still_live`, tools may be running."""
        yield from self._end_item()
        for workflow in [] if still_live else filter(_is_open, self.items):
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
            item["content"] = [_output(text, self._notes)]
            yield _update(item, "assistant_message.content_part.done", content_index=0, content=item["content"][0])
            yield {"type": "thread.item.done", "item": item}
        elif kind == "thought":
            item = self.items[-1]
            item["workflow"]["tasks"][0] |= {"content": text, "status_indicator": "complete"}
            yield _task("updated", item, 0)
            yield _end_workflow(item)
        elif kind == "calls" and not _is_open(self.items[-1]):
            yield _end_workflow(self.items[-1])

    def _text(self, delta: str) -> Iterator[Json]:
        if self._kind != "text":
            delta = delta.lstrip()
            if not delta:
                return
            yield from self._begin("text", type="assistant_message", content=[])
            self._text_item, self._text_length, self._notes = self.items[-1], 0, []
            empty = _output("", [])
            yield _update(self.items[-1], "assistant_message.content_part.added", content_index=0, content=empty)
        self._pieces.append(delta)
        self._text_length += len(delta)
        yield _update(self.items[-1], "assistant_message.content_part.text_delta", content_index=0, delta=delta)

    def _citation(self, event: Citation) -> Iterator[Json]:
        if (item := self._text_item) is None:
            return  # there is nothing that could refer to it
        source = {"type": "url", "url": event["url"], "title": event["title"]}
        note = {"type": "annotation", "source": source, "index": self._text_length}
        self._notes.append(note)
        if self._kind == "text":
            place = {"content_index": 0, "annotation_index": len(self._notes) - 1}
            yield _update(item, "assistant_message.content_part.annotation_added", **place, annotation=note)
        else:
            yield {"type": "thread.item.replaced", "item": item}

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

    def _call(self, call: ToolCall) -> Iterator[Json]:
        if self._kind != "calls":
            yield from self._begin("calls", type="workflow", workflow=_workflow("custom"))
        item = self.items[-1]
        tasks = item["workflow"]["tasks"]
        tasks.append({"type": "custom", "title": title(call["name"], call["args"]), "status_indicator": "loading"})
        self._calls[call["id"]] = item, len(tasks) - 1
        yield _task("added", item, len(tasks) - 1)

    def _result(self, event: ToolResult) -> Iterator[Json]:
        item, n = self._calls.pop(event["id"], (None, 0))
        if item is None:
            return
        item["workflow"]["tasks"][n] |= {"status_indicator": "complete", "content": outcome(event["result"])}
        yield _task("updated", item, n)
        if item is not self.items[-1] and not _is_open(item):  # text or reasoning has gone past it
            yield _end_workflow(item)


def _update(item: Json, kind: str, **fields: Any) -> Json:
    return {"type": "thread.item.updated", "item_id": item["id"], "update": {"type": kind, **fields}}


def _output(text: str, annotations: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": annotations}


def _workflow(kind: Literal["custom", "reasoning"]) -> Json:
    return {"type": kind, "tasks": [], "expanded": True}


def _task(change: Literal["added", "updated"], item: Json, n: int) -> Json:
    return _update(item, f"workflow.task.{change}", task_index=n, task=item["workflow"]["tasks"][n])


def _is_open(item: Json) -> bool:
    """Return whether a task of an item, if it is a workflow, has no result yet."""
    return any(task["status_indicator"] == "loading" for task in item.get("workflow", {}).get("tasks", ()))


def _end_workflow(item: Json) -> Json:
    workflow = item["workflow"]
    tasks = workflow["tasks"]
    name = "Reasoning" if workflow["type"] == "reasoning" else f"{len(tasks)} steps"
    workflow |= {"summary": {"title": tasks[0].get("title", name) if len(tasks) == 1 else name}, "expanded": False}
    return {"type": "thread.item.done", "item": item}


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
    due = args.pop("due", None)
    texts = [args[key] for key in args if key not in ids and isinstance(args[key], str) and args[key].strip()]
    return (f"{said}: {_short(texts[0])}" if texts else said) + _due(due)


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
            done = " (done)" if result.get("completed") is True else ""
            return f"#{task_id} {_short(name)}{_due(result.get('due'))}{done}"
        case str():
            return _short(result) or "Done"
        case _:
            return _short(json.dumps(result, ensure_ascii=False))


def _due(day: object) -> str:
    return f" (due {_short(day)})" if isinstance(day, str) and day.strip() else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."
