"""What model servers send, as the `openai` client and the Agents SDK can read it: many take the protocols loosely."""

import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_args

from agents import Model, ModelBehaviorError, OpenAIResponsesModel
from openai import AsyncStream, BaseModel
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import ValidationError

from todochat.turns.errors import EndedEarly


@dataclass
class Exchange:
    """What the models of the Agents SDK have no place for, of one request and the answer to it."""

    given_back: dict[str, dict[str, Any]] = field(default_factory=dict)  # with calls, by the ids of these
    keeps_thoughts: bool = True  # whether the server may want its thoughts back
    details: list[Any] = field(default_factory=list)  # of these, in pieces, which OpenRouter wants back


EXCHANGE: ContextVar[Exchange | None] = ContextVar("todochat_exchange", default=None)  # of the task that asks

Kind = TypeVar("Kind")


# By the type of an event of the Responses API, how it is read: only OpenAI's discriminator says which one it is, and
# pydantic would try all fifty.
_KINDS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}


class _Stream(AsyncStream[object]):
    """A stream of objects, which are plain JSON data from the client. An event without data says nothing."""

    _over = _ended = False  # whether what was last taken is the end, and whether a "[DONE]" was

    async def _iter_events(self) -> AsyncIterator[Any]:
        # Not public: should it get another name, an event without data breaks an answer, a connection that stays open
        # is waited for, and an empty `finish_reason` is never the end of a whole answer.
        async for event in super()._iter_events():
            if event.data.strip():
                self._ended = event.data.startswith("[DONE]")
                yield event
            if self._over:
                yield type(event)(data="[DONE]")  # at which the client lets go of the connection


class ResponsesStream(_Stream):
    """A stream of the Responses API that is cleaned."""

    async def __aiter__(self) -> AsyncIterator[BaseModel]:
        async for data in super().__aiter__():
            event: dict[str, Any] = {"type": ""} | _as(dict, data)
            if event.get("object") == "response":  # the whole answer, in the place of a stream
                event = {"type": f"response.{event.get('status')}", "response": event}
            self._over = event["type"] == "response.completed"  # each other end is an error, and nobody reads on
            yield _read(_KINDS.get(_as(str, event["type"]), BaseModel), _cleaned(event))


def _cleaned(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of the Responses API whose texts are some, and whose function calls have an id each."""
    if "delta" in event:
        return event | {"delta": _in_parts(event["delta"])[0]}
    if "item" in event:
        return event | {"item": _item(event["item"])}
    if isinstance(response := event.get("response"), dict):
        output = [_item(item) for item in _as(list, response.get("output"))]
        return event | {"response": response | {"output": output, "usage": _counts(response.get("usage"))}}
    return event


def _item(item: Any) -> Any:
    item = {"type": "nothing"} | _as(dict, item)
    if item.get("type") == "message":
        content = item["content"] if isinstance(item.get("content"), list) else [item.get("content")]
        plain = {"type": "output_text", "annotations": []}
        return item | {"content": [p if isinstance(p, dict) else plain | {"text": _as(str, p)} for p in content]}
    if item.get("type") == "function_call":
        return item | {"call_id": item.get("call_id") or item.get("id"), "arguments": _json(item.get("arguments"))}
    return item


def _counts(usage: Any) -> Any:
    """Return the counts of tokens that are some, and those that say more about them."""
    given = _as(dict, usage)
    details = {name: counts for name, n in given.items() if name.endswith("_details") and (counts := _counts(n))}
    plain = {name: n for name, n in given.items() if isinstance(n, int) and not name.endswith("_details")}
    return plain | details or None


class ChatStream(_Stream):
    """A stream of Chat Completions that is cleaned, and ends with an error when it broke off.

    openai 3.54 ends a stream that is cut as if it were complete, and openai-agents 0.24 checks only OpenAI's own.
    """

    async def __aiter__(self) -> AsyncIterator[BaseModel]:
        answer = _Answer()
        async for data in super().__aiter__():
            yield _read(ChatCompletionChunk, answer.cleaned(data))
        answer.end(self._ended)


def whole(model: Model) -> Model:
    """Return a model of Chat Completions with another client than ours so that its streams are cleaned as well.

    Of openai-agents 0.24: LiteLLM's, and a host's own. They take a stream that is cut, or ended early, for a whole one.
    """
    fetch = getattr(model, "_fetch_response", None)  # not public: should it get another name, they are as they were
    if fetch is None or isinstance(model, OpenAIResponsesModel):
        return model

    async def fetch_cleaned(*args: Any, **kwargs: Any) -> Any:
        response, stream = await fetch(*args, **kwargs)  # the stream: checked.py asks for nothing else
        return response, stream if isinstance(stream, ChatStream) else _cleaned_chunks(stream)

    cleaning: Any = copy(model)
    cleaning._fetch_response = fetch_cleaned
    return cast(Model, cleaning)


async def _cleaned_chunks(stream: Any) -> AsyncIterator[BaseModel]:
    answer = _Answer()
    async with closing(stream):
        async for chunk in stream:
            yield _read(ChatCompletionChunk, answer.cleaned(chunk.model_dump()))
        answer.end(True)
        # LiteLLM says "stop" for nothing, for what it does not know, and for "ERROR"; here it keeps what there was,
        # which must be the end of a whole answer as well.
        answer.reason = getattr(stream, "received_finish_reason", answer.reason)
        answer.end(True)


@asynccontextmanager
async def closing(stream: Any) -> AsyncIterator[None]:
    """Close a stream at the end of the block, if it can be closed: the SDK asks only for an iterator."""
    try:
        yield
    finally:
        if (close := getattr(stream, "aclose", None) or getattr(stream, "close", None)) is not None:
            await close()


_TEXTS = ("refusal", "reasoning_content", "reasoning")  # of a delta
_CLEANED = (*_TEXTS, "content", "tool_calls", "function_call")
# What the end of a whole answer is called: by OpenAI, Together, Anthropic and Cohere; and by some nothing.
_WHOLE = re.compile("(?i)stop|tool_calls|function_call|eos|eos_token|end_turn|stop_sequence|tool_use|complete|")


@dataclass
class _Call:
    """A call of a tool, as far as it has come."""

    index: int  # in the cleaned stream
    id: str  # there, too; perhaps not its alone: that is for checked.py
    place: int | None  # the index that the server gives it, not to it alone either
    ids: set[str] = field(default_factory=set)  # that the server gives it
    name: str = ""
    arguments: str = ""


class _Answer:
    """Cleans the events of one answer in Chat Completions: many servers take the protocol loosely.

    openai-agents 0.24 takes it at its word: it puts fragments of tool calls together by their index alone, refuses a
    call without an id, and takes whatever is in a text's place for one.
    """

    def __init__(self) -> None:
        self._cited: set[str] = set()
        self._sources: list[dict[str, Any]] = []  # that wait for text
        self._by_id: dict[str, _Call] = {}  # the latest that the server has given it
        self._by_place: dict[int | None, _Call] = {}  # the latest at each place, and at None the latest of all
        self._come: set[str] = set()  # the fields with something in them
        self.reason: Any = None  # why it has ended, if it has

    def cleaned(self, data: Any) -> dict[str, Any]:
        """Return an event in the shape that it should have had."""
        event = _as(dict, data)
        event["usage"] = _counts(event.get("usage"))
        for choice in _as(list, event.get("choices")):
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                if (reason := choice.get("finish_reason")) is not None:
                    self.reason = reason or self.reason or ""
                # Some end a stream with all of the answer, in the shape of one in a single piece.
                delta = self._delta(_as(dict, choice.get("delta") or (not self._come and choice.get("message"))))
                self._add_sources(event, delta)
                return event | {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop" if reason else None}]}
        return event | {"choices": []}

    def end(self, ended: bool) -> None:
        """Raise `ModelBehaviorError` if what has come is no whole answer; `ended` says whether there was a "[DONE]"."""
        if self.reason is None or (self.reason == "" and not ended):
            raise ModelBehaviorError("The stream ended without a finish_reason.")
        if not _WHOLE.fullmatch(str(self.reason)):
            raise EndedEarly(self.reason)

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        clean = {name: value for name, value in delta.items() if name not in _CLEANED}
        clean |= {name: _as(str, delta.get(name)) for name in _TEXTS}
        text, thoughts = _in_parts(delta.get("content"))
        thoughts += _as(str, delta.get("reasoning_text"))
        clean |= {"content": text or None, "reasoning_content": clean["reasoning_content"] or thoughts}
        exchange = EXCHANGE.get() or Exchange()
        exchange.keeps_thoughts = exchange.keeps_thoughts and not thoughts  # if in parts: it knows no field for them
        exchange.details += _as(list, delta.get("reasoning_details"))
        if clean["reasoning"] == clean["reasoning_content"]:  # some say it twice, for clients of both kinds
            del clean["reasoning"]
        once = delta.get("function_call")  # what calls were before there could be several
        if calls := _as(list, delta.get("tool_calls")) or ([{"function": once}] if once else []):
            clean["tool_calls"] = [self._fragment(call) for call in calls if isinstance(call, dict)]
        self._come |= {name for name in _CLEANED if clean.get(name)}
        return clean

    def _add_sources(self, data: dict[str, Any], delta: dict[str, Any]) -> None:
        """Put the sources that an event names where openai-agents 0.24 reads them, in the one shape that it reads."""
        # OpenAI's and OpenRouter's; and Perplexity's, again and again.
        found = _as(list, delta.pop("annotations", None))
        for given in [*found, *(_as(list, data.get("search_results")) or _as(list, data.get("citations")))]:
            source = {"url": given} if isinstance(given, str) else _as(dict, given)
            source = _as(dict, source.get("url_citation")) or source
            url, title = _as(str, source.get("url")), _as(str, source.get("title"))
            if url and url not in self._cited:
                self._cited.add(url)
                place = {"start_index": 0, "end_index": 0}  # which nobody needs: it may be one in a text with thoughts
                self._sources.append({"type": "url_citation", "url_citation": {"url": url, "title": title, **place}})
        if "content" in self._come and self._sources:  # it would not keep those that come before the text
            delta["annotations"], self._sources = self._sources, []

    def _fragment(self, fragment: dict[str, Any]) -> dict[str, Any]:
        function = _as(dict, fragment.get("function"))
        name, arguments = _as(str, function.get("name")), _json(function.get("arguments"))
        call = self._of(fragment.get("index"), _as(str, fragment.get("id")), name, arguments)
        # An empty object, after which the text may still come; or the whole call, said again.
        if (arguments.strip() == "{}" and not call.arguments) or (arguments == call.arguments and _is_json(arguments)):
            arguments = ""
        call.name = call.name or name
        call.arguments += arguments
        function = {"name": call.name or None, "arguments": arguments}
        return fragment | {"index": call.index, "id": call.id, "type": "function", "function": function}

    def _of(self, place: Any, call_id: str, name: str, arguments: str) -> _Call:
        """Return the call that a fragment belongs to, which may begin with it."""
        place = place if isinstance(place, int) else None
        call = self._by_id.get(call_id)
        if call is None or (place is not None and call.place not in (place, None)):
            call = self._by_place.get(place) or (None if name or call_id else self._by_place.get(None))
        if call is None or _begins_another(call, call_id, name, arguments):
            index = self._by_place[None].index + 1 if self._by_place else 0
            call = _Call(index, call_id or secrets.token_hex(5)[:9], place)
            self._by_place[place] = self._by_place[None] = call
        if call_id:
            call.ids.add(call_id)
            self._by_id[call_id] = call
        return call


def _begins_another(call: _Call, call_id: str, name: str, arguments: str) -> bool:
    """Return whether a fragment in the place of a call is the first one of the next: servers that count no further."""
    if not (name and call.name):  # some invent an id for each fragment, but none repeats the name with it
        return False
    if (call_id not in call.ids) if call_id else (name != call.name):
        return True
    # With the same id, or none: one that is whole takes no more arguments, and with the same id says them again.
    if not arguments.lstrip().startswith("{") or (call_id and arguments == call.arguments):
        return False
    return call.arguments.rstrip().endswith("}") and _is_json(call.arguments)


def _is_json(text: str) -> bool:
    with suppress(ValueError, RecursionError):
        json.loads(text)
        return True
    return False


def _json(arguments: Any) -> str:
    """Return the text of a call's arguments: some send the object itself, and an empty one before the text comes."""
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False) if arguments else ""


def _in_parts(content: Any) -> tuple[str, str]:
    """Return the text of a content, which may be in parts, and that of the thoughts in it."""
    text, thoughts = "", ""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and part.get("type") == "thinking":
            thoughts += _in_parts(part.get("thinking"))[0]
        else:
            text += _as(str, part.get("text") if isinstance(part, dict) else part)
    return text, thoughts


def _as(kind: type[Kind], value: object) -> Kind:
    """Return a value that is of the kind that it should be, or an empty one of that kind."""
    return value if isinstance(value, kind) else kind()


def _read(kind: type[BaseModel], data: dict[str, Any]) -> BaseModel:
    """Return what a server has sent as an object of that kind, whether or not it is all that it should be.

    `construct` is the client's own way, which takes anything, in 48 µs; `model_validate`, which does not, takes 4.
    """
    try:
        return kind.model_validate(data)
    except ValidationError:
        return kind.construct(**data)


def build_event_types() -> None:
    """Build the types that the offline model does not use: `openai` would do it in the first user's turn."""
    for kind in _KINDS.values():
        kind.model_rebuild()
    ChatCompletionChunk.model_rebuild()
