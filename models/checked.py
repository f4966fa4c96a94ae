"""One wrapper for every model: ours, LiteLLM's, a host's own. It mends what the Agents SDK takes at its word.

On the way to the model it cuts the conversation to a size that fits, and gives back what this model, and no other, has
sent to be given back. On the way from it thoughts are told from text, calls get an id each, and an answer that is no
whole one becomes an error.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from agents import Model, TResponseInputItem
from agents.items import TResponseStreamEvent
from openai.types.responses import ResponseReasoningTextDeltaEvent, ResponseTextDeltaEvent

from todochat.models.streams import EXCHANGE, Exchange, whole
from todochat.models.thoughts import Splitter
from todochat.turns import history
from todochat.turns.errors import EndedEarly, too_long
from todochat.turns.watchdog import PULSE, Pulse

_PRELUDE = ("response.created", "response.queued", "response.in_progress")  # nothing of the answer


class CheckedModel:
    """A model behind another: see the module. A conversation goes to it with at most `max_chars` characters."""

    def __init__(self, model: Model, max_chars: int) -> None:
        self._model, self._max_chars = whole(model), max_chars
        # What it is known by, in what it wants back: another model would not understand it.
        place = getattr(getattr(model, "_client", None), "base_url", None) or getattr(model, "base_url", None) or ""
        self._name = f"{getattr(model, 'model', type(model).__name__)} {place}".strip()

    async def stream_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], *args: Any, **kwargs: Any
    ) -> AsyncGenerator[TResponseStreamEvent, None]:
        """See `agents.Model`. When the server says that the conversation is too long it is asked again with half."""
        items, signatures, is_whole = history.addressed(input, self._name)
        EXCHANGE.set(Exchange(signatures))
        limit = self._max_chars
        while True:
            told, fitting = history.cut(system_instructions, items, limit, is_whole)
            size, begun = history.size_of(fitting), False
            try:
                stream = self._model.stream_response(told, fitting, *args, **kwargs)
                async with aclosing(self._cleaned(stream, fitting)) as events:
                    async for event in events:
                        begun = begun or event.type not in _PRELUDE
                        yield event
                return
            except Exception as error:  # each client has its own: what they say tells whether it is about the length
                limit = size // 2
                if begun or not too_long(error) or history.size_of(history.fitted(items, limit)) >= size:
                    raise

    async def _cleaned(self, stream: AsyncIterator[Any], given: list[TResponseInputItem]) -> AsyncGenerator[Any, None]:
        """Yield the events of an answer as they should have been; raise `EndedEarly` when there is no whole one."""
        texts: dict[object, Splitter] = {}
        done: list[Any] = []
        pulse = PULSE.get() or Pulse(0.0)
        async with _closing(stream):
            async for event in stream:
                pulse.beat()
                pulse.take(*_amount(event, done))
                if event.type == "response.output_text.delta":
                    text = texts.setdefault((_of(event, "output_index"), _of(event, "content_index")), Splitter())
                    for told in _told(event, *text.feed(event.delta)):
                        yield told
                    continue
                if event.type == "response.output_item.done":
                    done.append(event.item)
                elif event.type == "response.completed":
                    for told in [told for text in texts.values() for told in _told(event, *text.end())]:
                        yield told
                    event.response.output = event.response.output or done
                    self._finish(event.response.output, given)
                _raise_if_ended(event)
                yield event

    def _finish(self, output: Sequence[Any], given: Iterable[Any]) -> None:
        """Mend the items of a whole answer, and mark with what this model may want back, and that it is this one."""
        for part in [part for item in output if item.type == "message" for part in item.content]:
            if part.type == "output_text":
                splitter = Splitter()
                part.text = splitter.feed(part.text)[1] + splitter.end()[1]
        before: list[Any] = []
        for item in output:
            if item.type == "reasoning":
                wanted = _may_be_wanted(item)
                before += [item.model_dump(exclude_none=True)] if wanted else []
                _mark(item, {"from": self._name if wanted else ""})
        calls = [item for item in output if item.type == "function_call"]
        used = {item.get("call_id") for item in given}
        for call in calls:
            # The last two are what openai-agents 0.24 makes of an id that is missing.
            if not call.call_id or call.call_id in {*used, "None", "__fake_id__"}:
                call.call_id = secrets.token_hex(5)[:9]  # nine letters and digits, as Mistral's servers want it
            used.add(call.call_id)
        kept = before or any("thought_signature" in (_of(call, "provider_data") or {}) for call in calls)
        for n, call in enumerate(calls if kept else ()):
            _mark(call, {"from": self._name} | ({"joined": True} if n else {"before": before}))


def _amount(event: Any, done: Sequence[Any]) -> tuple[int, int]:
    """Return how many characters and calls of tools come with an event, before which these items were `done`."""
    if isinstance(delta := _of(event, "delta"), str):  # of a text, a thought, or a tool's arguments
        return len(delta), 0
    if event.type == "response.output_item.done":
        return 0, _calls([event.item])
    if event.type == "response.completed":  # some models send their items with this alone
        return 0, max(0, _calls(event.response.output) - _calls(done))
    return 0, 0


def _calls(items: Sequence[Any]) -> int:
    return sum(item.type.endswith("_call") for item in items)


def _of(thing: object, name: str) -> Any:
    return getattr(thing, name, None)


def _mark(item: Any, data: dict[str, Any]) -> None:
    item.provider_data = (_of(item, "provider_data") or {}) | data


def _may_be_wanted(thought: Any) -> bool:
    """Return whether a server may want a thought back: one that came in a field of its own, which others refuse."""
    in_a_field = (EXCHANGE.get() or Exchange()).keeps_thoughts
    return in_a_field and any(_of(thought, name) for name in ("encrypted_content", "provider_data", "content"))


def _told(event: Any, thought: str, text: str) -> Iterator[Any]:
    """Yield the parts of a text as events in the place of one; of `response.completed`, beside it."""
    if thought:
        yield ResponseReasoningTextDeltaEvent.construct(type="response.reasoning_text.delta", delta=thought)
    if text and text == _of(event, "delta"):
        yield event
    elif text:
        yield ResponseTextDeltaEvent.construct(type="response.output_text.delta", delta=text)


def _raise_if_ended(event: Any) -> None:
    """Raise `EndedEarly` for an event that says why the answer is no whole one."""
    if event.type in ("error", "response.error"):
        raise EndedEarly(_of(event, "code") or "error", _of(event, "message"))
    if event.type in ("response.failed", "response.incomplete"):
        error, incomplete = _of(event.response, "error"), _of(event.response, "incomplete_details")
        raise EndedEarly(_of(error, "code") or _of(incomplete, "reason") or "error", _of(error, "message"))


@asynccontextmanager
async def _closing(stream: Any) -> AsyncIterator[None]:
    """Close a stream at the end of the block, if it can be closed: the SDK asks only for an iterator."""
    try:
        yield
    finally:
        if (close := _of(stream, "aclose")) is not None:
            await close()
