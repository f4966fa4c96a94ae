"""One way to ask every model: ours, LiteLLM's, a host's own. It mends what the Agents SDK takes at its word.

On the way to the model it cuts the conversation to a size that fits, and gives back what this model, and no other, has
sent to be given back. On the way from it thoughts are told from text, calls get an id each, and an answer that is no
whole one becomes an error.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from agents import Model, TResponseInputItem
from agents.items import TResponseStreamEvent
from openai.types.responses import ResponseReasoningTextDeltaEvent, ResponseTextDeltaEvent

from todochat.models.streams import EXCHANGE, Exchange, closing, whole
from todochat.models.thoughts import Splitter, split
from todochat.turns import history
from todochat.turns.errors import raise_if_ended, too_long
from todochat.turns.given_back import addressed, marked
from todochat.turns.tool_output import mended
from todochat.turns.watchdog import PULSE, Pulse, amount

_PRELUDE = ("response.created", "response.queued", "response.in_progress")  # nothing of the answer


async def stream_checked(
    model: Model, max_chars: int, system: str | None, given: str | list[TResponseInputItem], *args: Any, **kwargs: Any
) -> AsyncGenerator[TResponseStreamEvent, None]:
    """Yield what a model answers to a conversation, of which it gets at most `max_chars` characters: see the module.

    What is behind them is as in `agents.Model.stream_response`, from the instructions on. When the server says that the
    conversation is too long it is asked again with half.
    """
    # What it is known by, in what it wants back: another model would not understand it.
    place = getattr(getattr(model, "_client", None), "base_url", None) or getattr(model, "base_url", None) or ""
    name = f"{getattr(model, 'model', type(model).__name__)} {place}".strip()
    items, given_back, is_whole = addressed(given, name)
    while True:
        EXCHANGE.set(Exchange(given_back))
        fitting = history.fitted(items, max_chars)
        told = system if is_whole and fitting is items else (system or "") + history.LEFT_OUT
        size, begun = history.size_of(fitting), False
        try:
            stream = whole(model).stream_response(told, fitting, *args, **kwargs)
            async with aclosing(_cleaned(stream, name, fitting)) as events:
                async for event in events:
                    begun = begun or event.type not in _PRELUDE
                    yield event
            return
        except Exception as error:  # each client has its own: what they say tells whether it is about the length
            max_chars = size // 2
            if begun or not too_long(error) or history.size_of(history.fitted(items, max_chars)) >= size:
                raise


async def _cleaned(stream: AsyncIterator[Any], name: str, given: Iterable[Any]) -> AsyncGenerator[Any, None]:
    """Yield the events of an answer as they should have been; raise `EndedEarly` when there is no whole one."""
    texts: dict[object, Splitter] = {}
    done: list[Any] = []
    begun: set[object] = set()
    pulse = PULSE.get() or Pulse(0.0)
    async with closing(stream):
        async for event in stream:
            pulse.beat()
            pulse.take(*amount(event, begun))
            if event.type != "response.output_text.delta":  # which nearly all are, and have nothing of this
                raise_if_ended(event)
                _mend_names(event)
            told: Iterable[Any] = [event]
            if event.type == "response.output_text.delta":
                place = getattr(event, "output_index", None), getattr(event, "content_index", None)
                told = _told(event, *texts.setdefault(place, Splitter()).feed(event.delta))
            elif event.type == "response.output_item.done":
                done.append(event.item)
            elif event.type == "response.completed":
                output = event.response.output = event.response.output or done
                parts = [text.end() for text in texts.values()]
                messages = [item for item in output if item.type == "message"]
                for part in [part for said in messages for part in said.content if part.type == "output_text"]:
                    thought, part.text = split(part.text or "")
                    if not texts:  # some send the whole answer with this alone
                        pulse.take(len(thought) + len(part.text))
                        parts.append((thought, part.text))
                told = [*(one for part in parts for one in _told(event, *part)), event]
                _finish(output, name, given)
            for one in told:
                yield one


def _finish(output: Sequence[Any], name: str, given: Iterable[Any]) -> None:
    """Have each call of a whole answer have an id of its own, and mark what this model may want back."""
    used = {item.get("call_id") for item in given}
    for call in [item for item in output if item.type == "function_call"]:
        # The last two are what openai-agents 0.24 makes of an id that is missing.
        if not call.call_id or call.call_id in {*used, "None", "__fake_id__"}:
            call.call_id = secrets.token_hex(5)[:9]  # nine letters and digits, as Mistral's servers want it
        used.add(call.call_id)
        if not call.arguments or call.arguments.strip() in ("", "null"):
            call.arguments = "{}"
    exchange = EXCHANGE.get() or Exchange()
    marked(output, name, keeps_thoughts=exchange.keeps_thoughts, details=exchange.details)


def _mend_names(event: Any) -> None:
    """Have what the items of an event are called by be text that can be stored, which half a surrogate pair cannot."""
    output = getattr(getattr(event, "response", None), "output", None)
    for item in (getattr(event, "item", None), *(output or ())):
        for field in ("id", "call_id", "name"):
            if isinstance(name := getattr(item, field, None), str):
                setattr(item, field, mended(name))


def _told(event: Any, thought: str, text: str) -> Iterator[Any]:
    """Yield the parts of a text as events in the place of one; of `response.completed`, beside it."""
    if thought:
        yield ResponseReasoningTextDeltaEvent.construct(type="response.reasoning_text.delta", delta=thought)
    if text and text == getattr(event, "delta", None):
        yield event
    elif text:
        yield ResponseTextDeltaEvent.construct(type="response.output_text.delta", delta=text)
