"""The events of an answer, and the pure functions between a list of events and a stored message.

An answer in the making is a list of events that only grows, a `Feed`. Readers follow that list by index, and the
database keeps it as it is while the answer lives (`dump`, `load`). When the answer ends, `fold` makes the row of it
that stays; `unfold` turns such a row into events again, for whoever reads it later. How a client sees an event is the
business of the dialects: each event is one frame of the simple dialect, so frames are counted as events are, from 0.
The frame is the event as it is, except that `started` is shown as a "thinking", and no `state` is shown.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, NotRequired, TypedDict, assert_never

Status = Literal["streaming", "done", "stopped", "failed", "interrupted"]

# ---- events ----


class Started(TypedDict):
    """The answer has begun: always the first event. A later one says in `content` what is waited for."""

    type: Literal["started"]
    content: NotRequired[str]


class Thinking(TypedDict):
    """A piece of the model's reasoning, or the handoff to another agent."""

    type: Literal["thinking"]
    content: str


class Text(TypedDict):
    """A piece of the answer's text."""

    type: Literal["text"]
    content: str


class ToolCall(TypedDict):
    """The model has asked for a tool; `args` is JSON data.

    `state` is what the model wants back with the call in later turns, such as what it has thought. It goes to that
    model and to no other, and to no client.
    """

    type: Literal["tool_call"]
    id: str
    name: str
    args: Any
    state: NotRequired[Any]


class ToolResult(TypedDict):
    """A tool has run; `id` and `name` are those of its call, and `result` is JSON data."""

    type: Literal["tool_result"]
    id: str
    name: str
    result: Any


class Citation(TypedDict):
    """The text so far refers to this source."""

    type: Literal["citation"]
    url: str
    title: str


class Failure(TypedDict):
    """The answer did not end well: `message` is a sentence for the user. Nothing comes after it."""

    type: Literal["error"]
    message: str


Event = Started | Thinking | Text | ToolCall | ToolResult | Citation | Failure

BURST = 0.01  # seconds: what comes faster goes to a reader together
MAX_BATCH = 500  # events in one write: what a reader that has fallen behind costs in memory


class Feed:
    """The events of one live answer so far, which any number of readers follow."""

    def __init__(self, answer_id: int, conversation_id: int, user_id: str) -> None:
        self.answer_id = answer_id
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.events: list[Event] = []
        self.ended = False
        self.readers = 0
        self._news = asyncio.Event()

    def publish(self, event: Event) -> None:
        """Append an event, and wake the readers. Nothing comes after the end."""
        if not self.ended:
            self.events.append(event)
            self._news.set()

    async def follow(self, after: int = 0) -> AsyncGenerator[list[Event], None]:
        """Yield the events from number `after` on, all that there are at once.

        Ends when the answer has ended and everything was yielded. A slow reader costs its place in the list, no more.
        """
        self.readers += 1
        try:
            clock = asyncio.get_running_loop().time
            start, was_over = after, self.ended
            before_last = last = 0.0  # when the last batch but one was yielded, and the last
            while True:
                if after < len(self.events):
                    batch = self.events[after : after + MAX_BATCH]
                    after += len(batch)
                    before_last, last = last, clock()
                    yield batch
                elif self.ended:
                    if after == start and self._error_is_news(start, was_over):
                        yield self.events[-1:]
                    return
                else:
                    self._news.clear()
                    await self._news.wait()
                    # Two batches go out at once, and then one every `BURST`: writing each event of a burst to the
                    # socket would cost more than all else.
                    if (pause := before_last + BURST - clock()) > 0:
                        await asyncio.sleep(pause)
        finally:
            self.readers -= 1

    def _error_is_news(self, after: int, was_over: bool) -> bool:
        """Return whether a reader who came for what follows `after`, and has got nothing, is to get the last event.

        A process that dies has shown more than it has stored. So a reader who goes on elsewhere, from where it was, may
        ask for what comes after the end, and would not be told of the error with which the answer ended.
        """
        missed = not was_over or after > len(self.events)
        return missed and bool(self.events) and self.events[-1]["type"] == "error"

    def end(self, sentence: str | None) -> None:
        """Say why the answer did not end well, if it did not, and let the readers go."""
        if self.ended:
            return
        if sentence is not None:
            self.events.append({"type": "error", "message": sentence})  # whatever else waits to be published
        self.ended = True
        self._news.set()


# ---- what is stored ----


class StoredCall(TypedDict):
    """A tool call of an answer: `at` is its place in the text, in characters; without `result` it was cut off."""

    id: str
    name: str
    args: Any
    at: int
    result: NotRequired[Any]
    state: NotRequired[Any]


class Thought(TypedDict):
    """A stretch of reasoning: `at` is its place in the text, in characters, and `calls` the tool calls before it."""

    text: str
    at: int
    calls: int


class Source(TypedDict):
    """What the text refers to: `at` is the place in it, in characters, and `calls` the tool calls before it."""

    url: str
    title: str
    at: int
    calls: int


class Body(TypedDict):
    """What the events of an answer add up to; `error` is the sentence that says why it did not end well."""

    content: str
    tool_calls: list[StoredCall]
    reasoning: list[Thought]
    citations: list[Source]
    error: str | None


class Message(Body):
    """A message as it is stored, and as the REST API shows it. A user's has only `content`, and is always "done"."""

    id: int
    role: Literal["user", "assistant"]
    status: Status
    feedback: Literal["positive", "negative"] | None
    created_at: str  # ISO 8601, UTC


# ---- between the two ----


def fold(events: Iterable[Event]) -> Body:
    """Return what the events of one answer add up to."""
    text: list[str] = []
    length = 0
    calls: dict[str, StoredCall] = {}
    thoughts: dict[tuple[int, int], list[str]] = {}  # by their place: after how many characters and calls
    citations: list[Source] = []
    error = None
    for event in events:
        if event["type"] == "text":
            text.append(event["content"])
            length += len(event["content"])
        elif event["type"] == "thinking":
            thoughts.setdefault((length, len(calls)), []).append(event["content"])
        elif event["type"] == "tool_call":
            calls[event["id"]] = {"id": event["id"], "name": event["name"], "args": event["args"], "at": length}
            if "state" in event:
                calls[event["id"]]["state"] = event["state"]
        elif event["type"] == "tool_result":
            if event["id"] in calls:
                calls[event["id"]]["result"] = event["result"]
        elif event["type"] == "citation":
            citations.append({"url": event["url"], "title": event["title"], "at": length, "calls": len(calls)})
        elif event["type"] == "error":
            error = event["message"]
        elif event["type"] != "started":
            # A new kind of event, which mypy finds here: `unfold` and the dialects have to know it too, and
            # turns/history.py, if later turns of the model are to be told.
            assert_never(event)
    reasoning: list[Thought] = [
        {"text": "".join(pieces), "at": at, "calls": calls_before} for (at, calls_before), pieces in thoughts.items()
    ]
    return {
        "content": "".join(text),
        "tool_calls": list(calls.values()),
        "reasoning": reasoning,
        "citations": citations,
        "error": error,
    }


def unfold(body: Body) -> list[Event]:
    """Return events that fold to this: those that were streamed, but the text in longer pieces.

    A tool's result comes directly after its call, also where several tools ran at the same time.
    """
    content, written = body["content"], 0
    events: list[Event] = [{"type": "started"}]
    # What stands at the same place stays in this order: citations, reasoning, and the call that it led to.
    places: list[tuple[int, int, list[Event]]] = [
        (source["at"], source["calls"], [{"type": "citation", "url": source["url"], "title": source["title"]}])
        for source in body["citations"]
    ]
    places += [
        (thought["at"], thought["calls"], [{"type": "thinking", "content": thought["text"]}])
        for thought in body["reasoning"]
    ]
    places += [(call["at"], n, _call_events(call)) for n, call in enumerate(body["tool_calls"])]
    for at, _, happened in sorted(places, key=itemgetter(0, 1)):
        if written < at:
            events.append({"type": "text", "content": content[written:at]})
        written = at
        events += happened
    if written < len(content):
        events.append({"type": "text", "content": content[written:]})
    if body["error"] is not None:
        events.append({"type": "error", "message": body["error"]})
    return events


def _call_events(call: StoredCall) -> list[Event]:
    called: ToolCall = {"type": "tool_call", "id": call["id"], "name": call["name"], "args": call["args"]}
    if "state" in call:
        called["state"] = call["state"]
    if "result" not in call:
        return [called]
    return [called, {"type": "tool_result", "id": call["id"], "name": call["name"], "result": call["result"]}]


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events that fold to the same, neighbouring pieces of text as one."""
    for kind, some in groupby(events, itemgetter("type")):
        if kind == "text":
            yield {"type": "text", "content": "".join(event["content"] for event in some if event["type"] == "text")}
        else:
            yield from some


def dump(events: Sequence[Event]) -> str:
    """Return events as JSON. A piece of text, by far the most frequent event, is a bare string: half the size."""
    short = [event["content"] if event["type"] == "text" else event for event in events]
    return json.dumps(short, ensure_ascii=False, separators=(",", ":"))


def load(dumped: str) -> list[Event]:
    """Return the events that `dump` made this of."""
    return [{"type": "text", "content": event} if isinstance(event, str) else event for event in json.loads(dumped)]
