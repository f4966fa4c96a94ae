"""The service with a model that does what the user's message says, at the pace it says. Run it like app.py.

A message is a program, one step a line:
    say N MS           N words of text, MS milliseconds apart
    think N MS         N words of a reasoning summary; neighbouring lines are parts of one summary
    think JSON         a list of the pieces of a reasoning summary
    call TOOL JSON     a tool call; calls on neighbouring lines are made at once
    quiet SECONDS      nothing
    fail               an error
    recall             as text: all that the model was told, but for the last message
The tools are those of the to-do agent, `wait` and `block`, which take {"seconds": ...} (the second one cannot be
interrupted), `ponder`, which adds a task of a "title" and takes "seconds" before that is whole, and `nest`, which takes
{"depth": ...}. With HOST_TASKS the tasks are in that file, as a host's own are.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from agents import Model, ModelResponse, function_tool
from agents.tool_context import ToolContext
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseReasoningSummaryPartAddedEvent,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseTextDeltaEvent,
)

from todochat import agent, serve
from todochat.agent import TurnContext
from todochat.db import Store
from todochat.settings import Settings


class PacedModel(Model):
    """Runs the program in the last user message, from after the calls that have been answered."""

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError("this model only streams")

    async def stream_response(self, instructions: Any, items: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        asked = max(n for n, item in enumerate(items) if item.get("role") == "user")
        answered = sum(item.get("type") == "function_call_output" for item in items[asked:])
        steps = [line.split(" ", 2) for line in items[asked]["content"].splitlines() if line.strip()]
        numbers = itertools.count(answered)
        calls: list[ResponseFunctionToolCall] = []
        skipped = part = 0
        for step in steps:
            part = part + 1 if step[0] == "think" else 0
            if step[0] == "call":
                skipped += 1
                if skipped > answered:
                    call_id = f"call_{next(numbers)}"
                    arguments = step[2] if len(step) > 2 else "{}"
                    calls.append(
                        ResponseFunctionToolCall(
                            type="function_call", call_id=call_id, name=step[1], arguments=arguments
                        )
                    )
            elif skipped < answered:
                continue
            elif calls:
                break
            else:
                if part:
                    yield ResponseReasoningSummaryPartAddedEvent(
                        type="response.reasoning_summary_part.added",
                        item_id="r",
                        output_index=0,
                        summary_index=part - 1,
                        part={"type": "summary_text", "text": ""},  # type: ignore[arg-type]
                        sequence_number=0,
                    )
                if step[0] == "think" and step[1].startswith("["):
                    for delta in json.loads(" ".join(step[1:])):
                        yield _thought(delta)
                    continue
                async for event in self._do(step, json.dumps(items[:asked])):
                    yield event
        response = Response(
            id="paced",
            object="response",
            created_at=0,
            model="paced",
            output=calls or [],  # type: ignore[arg-type]
            tools=[],
            tool_choice="auto",
            parallel_tool_calls=True,
        )
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=10**6)

    async def _do(self, step: list[str], told: str) -> AsyncIterator[Any]:
        if step[0] == "fail":
            raise OSError("a text that no client may see")
        if step[0] == "quiet":
            await asyncio.sleep(float(step[1]))
            return
        count, pause = (1, 0.0) if step[0] == "recall" else (int(step[1]), float(step[2]) / 1000)
        for n in range(count):
            if pause:
                await asyncio.sleep(pause)
            if step[0] == "think":
                yield _thought(f"t{n} ")
            else:
                yield ResponseTextDeltaEvent(
                    type="response.output_text.delta",
                    item_id="m",
                    output_index=0,
                    content_index=0,
                    delta=told if step[0] == "recall" else f"w{n} ",
                    logprobs=[],
                    sequence_number=n,
                )


def _thought(delta: str) -> ResponseReasoningSummaryTextDeltaEvent:
    return ResponseReasoningSummaryTextDeltaEvent.model_construct(  # as the client does, which checks no text
        type="response.reasoning_summary_text.delta",
        item_id="r",
        output_index=0,
        summary_index=0,
        delta=delta,
        sequence_number=0,
    )


@function_tool
async def wait(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return json.dumps({"waited": seconds})


@function_tool
def block(seconds: float) -> str:
    """Take a while, in a thread that nobody can end."""
    time.sleep(seconds)
    return json.dumps({"blocked": seconds})


@function_tool
async def ponder(ctx: ToolContext[TurnContext], title: str, seconds: float) -> str:
    """Add a task, and take a while."""

    async def work() -> str:
        task = await ctx.context.tasks.add_task(ctx.context.user_id, title)
        await asyncio.sleep(seconds)
        return json.dumps(task)

    return str(await ctx.context.record(ctx.tool_call_id, work))


@function_tool
async def nest(depth: int) -> str:
    """Return a list in a list in a list."""
    return "[" * depth + "]" * depth


async def main() -> None:
    """Serve."""
    todo = agent.todo_agent(PacedModel())
    todo.tools += [wait, block, ponder, nest]
    options: dict[str, Any] = {"agent": todo}
    elsewhere = os.environ.get("HOST_TASKS")
    if elsewhere is not None:
        options["tasks"] = await Store.open(elsewhere)
    try:
        await serve.serve(Settings.from_env(os.environ), **options)
    finally:
        if elsewhere is not None:
            await options["tasks"].close()


if __name__ == "__main__":
    asyncio.run(main())
