"""What the servers have in common: the agent, and a model that says what the user's message asks for."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, OpenAIChatCompletionsModel, Tool, function_tool
from openai import AsyncOpenAI
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)
from script import TOOL_ARGUMENTS, Script

INSTRUCTIONS = "You are the assistant of a to-do list. Use the tools to add, list, complete, update and delete tasks."


class ScriptedModel(Model):
    """Runs the script in the last user message, with the events of the Responses API."""

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError("this model only streams")

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Yield what the script says: the tool call, or the text after it."""
        asked = max(n for n, item in enumerate(input) if item.get("role") == "user")
        script = Script.parse(_text_of(input[asked]))
        if script.tool and not any(item.get("type") == "function_call_output" for item in input[asked:]):
            call = ResponseFunctionToolCall(
                type="function_call", id="fc", call_id="call_1", name="add_task", arguments=TOOL_ARGUMENTS
            )
            yield ResponseOutputItemAddedEvent(type="response.output_item.added", item=call, output_index=0,
                                               sequence_number=0)  # fmt: skip
            yield ResponseOutputItemDoneEvent(type="response.output_item.done", item=call, output_index=0,
                                              sequence_number=1)  # fmt: skip
            yield _completed(call)
            return
        async for event in _say(script):
            yield event


async def _say(script: Script) -> AsyncIterator[Any]:
    where: dict[str, Any] = {"item_id": "msg", "output_index": 0, "content_index": 0}
    part = ResponseOutputText(type="output_text", text="", annotations=[])
    message = ResponseOutputMessage(id="msg", type="message", role="assistant", status="in_progress", content=[])
    yield ResponseOutputItemAddedEvent(type="response.output_item.added", item=message, output_index=0,
                                       sequence_number=0)  # fmt: skip
    yield ResponseContentPartAddedEvent(type="response.content_part.added", part=part, sequence_number=1, **where)
    said = []
    for n in range(script.deltas):
        if n and n % script.burst == 0:
            await asyncio.sleep(script.pace)
        said.append(script.delta(n))
        yield ResponseTextDeltaEvent(
            type="response.output_text.delta", delta=said[-1], logprobs=[], sequence_number=n, **where
        )
    part = ResponseOutputText(type="output_text", text="".join(said), annotations=[])
    message = ResponseOutputMessage(id="msg", type="message", role="assistant", status="completed", content=[part])
    yield ResponseContentPartDoneEvent(type="response.content_part.done", part=part, sequence_number=2, **where)
    yield ResponseOutputItemDoneEvent(type="response.output_item.done", item=message, output_index=0,
                                      sequence_number=3)  # fmt: skip
    yield _completed(message)


def _completed(output: ResponseOutputMessage | ResponseFunctionToolCall) -> ResponseCompletedEvent:
    response = Response(
        id="scripted", object="response", created_at=0, model="scripted", output=[output],
        tools=[], tool_choice="auto", parallel_tool_calls=True,
    )  # fmt: skip
    return ResponseCompletedEvent(type="response.completed", response=response, sequence_number=4)


def _text_of(item: Any) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def model() -> Model:
    """Return the scripted model, or the one behind the stock client at BENCH_PROVIDER."""
    url = os.environ.get("BENCH_PROVIDER")
    if url is None:
        return ScriptedModel()
    return OpenAIChatCompletionsModel(model="scripted", openai_client=AsyncOpenAI(api_key="none", base_url=url))


def todo_agent() -> Agent[Any]:
    """Return the agent of the other servers: five tools like ours, which keep their tasks in memory."""
    return Agent(name="To-do", instructions=INSTRUCTIONS, model=model(), tools=_tools())


def _tools() -> list[Tool]:
    tasks: list[dict[str, Any]] = []

    @function_tool
    async def add_task(title: str, description: str | None = None) -> str:
        """Add a task to the user's list."""
        tasks.append({"title": title, "description": description, "completed": False})
        return f'{{"success": true, "task_id": {len(tasks)}}}'

    @function_tool
    async def list_tasks(status: str = "all") -> str:
        """List the user's tasks."""
        return str(tasks)

    @function_tool
    async def complete_task(task_id: int, completed: bool = True) -> str:
        """Mark a task as done, or as open again."""
        tasks[task_id - 1]["completed"] = completed
        return '{"success": true}'

    @function_tool
    async def update_task(task_id: int, title: str | None = None, description: str | None = None) -> str:
        """Change a task's title or description."""
        tasks[task_id - 1] |= {"title": title, "description": description}
        return '{"success": true}'

    @function_tool
    async def delete_task(task_id: int) -> str:
        """Delete a task for good."""
        del tasks[task_id - 1]
        return '{"success": true}'

    return [add_task, list_tasks, complete_task, update_task, delete_task]
