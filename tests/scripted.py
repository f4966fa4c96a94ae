"""What scripted models say, beside what `agents.testing` has: text in pieces of one's own choice, items as they are."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents.testing import ModelStep
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputItemDoneEvent,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseTextDeltaEvent,
)

Event = Any  # of the Responses API: what its client makes of what a server sends, which it does not check


def text(delta: str) -> Event:
    """Return a piece of an answer's text."""
    return ResponseTextDeltaEvent.construct(type="response.output_text.delta", delta=delta, sequence_number=0)


def thought(delta: str) -> Event:
    """Return a piece of the summary of a model's reasoning."""
    kind = ResponseReasoningSummaryTextDeltaEvent
    return kind.construct(type="response.reasoning_summary_text.delta", delta=delta, sequence_number=0)


def item(output: Any) -> Event:
    """Return a whole item of an answer: a message, a call."""
    return ResponseOutputItemDoneEvent.construct(
        type="response.output_item.done", item=output, output_index=0, sequence_number=0
    )


def end(output: Sequence[Any] = ()) -> Event:
    """Return the end of an answer that consists of these items."""
    response = Response.construct(id="r", output=list(output), usage=None)
    return ResponseCompletedEvent.construct(type="response.completed", response=response, sequence_number=0)


def pieces(*events: Event, output: Sequence[Any] = ()) -> ModelStep:
    """Return an answer that comes as these events, each in a turn of the loop of its own, and consists of `output`."""

    async def stream(call: object) -> AsyncIterator[Event]:
        for event in [*events, end(output)]:
            await asyncio.sleep(0)
            yield event

    return ModelStep.stream(stream)
