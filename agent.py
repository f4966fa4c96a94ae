"""The to-do agent, its tools, and `stream_turn()`: a run of the Agents SDK as a stream of events."""

import dataclasses
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import openai
from agents import (
    Agent,
    AgentsException,
    FunctionTool,
    Model,
    ModelBehaviorError,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    Runner,
    RunResultStreaming,
    Tool,
    UserError,
    function_tool,
)
from agents.items import RunItem, TResponseStreamEvent
from agents.tool_context import ToolContext

from todochat.dates import today
from todochat.events import Event, Message, ToolResult
from todochat.shares import Full
from todochat.store.tasks import most_urgent
from todochat.turns.errors import name_of, sentence_for, sentence_for_unapproved
from todochat.turns.history import model_input
from todochat.turns.items import call_in, citations_in, field_of, hold_half_back, hosted_result, is_hosted
from todochat.turns.tool_output import as_json, json_for_model, mended
from todochat.turns.watchdog import AnswerLimits, Patience, Watchdog, begin_pulse
from todochat.web.inputs import fault_in_task

log = logging.getLogger("todochat")

INSTRUCTIONS = """\
You are the assistant of a to-do list. Use the tools to add, list, complete, update and delete the user's tasks; \
never claim a change that no tool has confirmed. To act on a task that the user describes in words, or by its place in \
the list, call list_tasks first to find its id. Answer briefly, in the user's language.

For the user it is {date:%A, %Y-%m-%d} (time zone: {timezone}). A task may have a due date, a day without a time. \
You cannot remind anyone: if the user asks for a reminder, add a task that is due on that day, and say so."""

MAX_LISTED = 100  # tasks that list_tasks shows the model at once


class Tasks(Protocol):
    """What the tools need of a store: `db.Store`, or the host's own. Each method acts for the one user it is given."""

    async def list_tasks(self, user_id: str, completed: bool | None = None) -> Sequence[Mapping[str, Any]]: ...
    async def add_task(
        self, user_id: str, title: str, description: str | None = None, due: str | None = None
    ) -> Mapping[str, Any]: ...
    async def update_task(
        self, user_id: str, task_id: int, **changes: str | bool | None
    ) -> Mapping[str, Any] | None: ...
    async def delete_task(self, user_id: str, task_id: int) -> Mapping[str, Any] | None: ...


Record = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


@dataclass(frozen=True)
class TurnContext:
    """What reaches the tools of one turn, and never the prompt.

    `record(call_id, work)` does a tool's work and stores its result in the answer: both or neither, if the tasks are in
    our store. In that case the work is done within a transaction. In SQLite nobody else can write meanwhile, so it must
    not wait for anything that has to.
    """

    user_id: str
    tasks: Tasks
    record: Record = lambda call_id, work: work()  # for where no answer is stored
    timezone: str = field(default="UTC", kw_only=True)  # the user's, by its IANA name


# ---- the agent and its tools ----


def todo_agent(model: Model | None = None) -> Agent[TurnContext]:
    """Return the to-do agent; its tools act for the user in the run's `TurnContext`, whatever the model says."""
    return Agent(name="To-do", instructions=instructions, model=model, tools=[*todo_tools()])


def instructions(ctx: RunContextWrapper[TurnContext], agent: Agent[TurnContext]) -> str:
    """Return what the to-do agent is told about itself, and about the user's day."""
    timezone = getattr(ctx.context, "timezone", "UTC")  # a host's own context need not say
    return INSTRUCTIONS.format(date=today(timezone), timezone=timezone)


def todo_tools(*, strict: bool = True) -> list[FunctionTool]:
    """Return the five task tools, for an agent that has others too, and for MCP clients. They need a `TurnContext`.

    A strict schema lists optional parameters as required: models want it so, and MCP clients would believe it.
    """
    tools = (add_task, list_tasks, complete_task, update_task, delete_task)
    return [
        _recording(function_tool(tool, failure_error_function=_tell_the_model, strict_mode=strict)) for tool in tools
    ]


async def add_task(
    ctx: RunContextWrapper[TurnContext], title: str, description: str | None = None, due: str | None = None
) -> str:
    """Add a task to the user's list.

    Args:
        title: What is to be done, in a few words.
        description: Details, if the user gave any.
        due: The day on which it is due, as YYYY-MM-DD, if the user named one.
    """
    if (fault := fault_in_task(title, description, due)) is not None:
        return _failure(fault)
    description = (description or "").strip() or None
    on_day = {"due": due} if due else {}  # a host's own `add_task` need not know of due dates
    return _reply(await ctx.context.tasks.add_task(ctx.context.user_id, title.strip(), description, **on_day))


async def list_tasks(
    ctx: RunContextWrapper[TurnContext], status: Literal["all", "pending", "completed"] = "all"
) -> str:
    """List the user's tasks with their ids and due dates, oldest first.

    Args:
        status: Which tasks to list.
    """
    completed = None if status == "all" else status == "completed"
    total, chosen = await most_urgent(ctx.context.tasks, ctx.context.user_id, completed, MAX_LISTED)
    shown = [{name: task.get(name) for name in ("id", "title", "description", "due", "completed")} for task in chosen]
    return json_for_model({"success": True, "total": total, "tasks": shown})


async def complete_task(ctx: RunContextWrapper[TurnContext], task_id: int, completed: bool = True) -> str:
    """Mark a task as done, or as open again.

    Args:
        task_id: The id of the task.
        completed: False to open it again.
    """
    return _reply(await ctx.context.tasks.update_task(ctx.context.user_id, task_id, completed=completed), task_id)


async def update_task(
    ctx: RunContextWrapper[TurnContext],
    task_id: int,
    title: str | None = None,
    description: str | None = None,
    due: str | None = None,
) -> str:
    """Change a task's title, description or due date.

    Args:
        task_id: The id of the task.
        title: The new title, or null to keep it.
        description: The new description, or null to keep it.
        due: The new day on which it is due, as YYYY-MM-DD; null to keep it, an empty text for none.
    """
    if (fault := fault_in_task(title, description, due)) is not None:
        return _failure(fault)
    given = {"title": title, "description": description, "due": due}
    changes = {name: text.strip() or None for name, text in given.items() if text is not None}
    return _reply(await ctx.context.tasks.update_task(ctx.context.user_id, task_id, **changes), task_id)


async def delete_task(ctx: RunContextWrapper[TurnContext], task_id: int) -> str:
    """Delete a task for good.

    Args:
        task_id: The id of the task.
    """
    return _reply(await ctx.context.tasks.delete_task(ctx.context.user_id, task_id), task_id)


def _reply(task: Mapping[str, Any] | None, task_id: int | None = None) -> str:
    # JSON text, not a dict: the SDK would give the model Python's repr of a dict.
    if task is None:
        return _failure(f"There is no task {task_id}.")
    told = {"success": True, "task_id": task["id"], "title": task["title"], "completed": task["completed"]}
    return json_for_model(told | ({"due": task["due"]} if task.get("due") else {}))


def _tell_the_model(ctx: RunContextWrapper[Any], error: Exception) -> str:
    """Return what the model is told of its own mistake, or of a list that is full; any other error ends the turn."""
    if isinstance(error, Full):
        return _failure(str(error))
    # OverflowError: an id of more than 64 bits; UnicodeError: half a surrogate pair.
    if isinstance(error, ModelBehaviorError | OverflowError | UnicodeError):
        return _failure("These arguments do not fit the tool.")
    raise error


def _failure(sentence: str) -> str:
    return json_for_model({"success": False, "error": sentence})


def _recording(tool: FunctionTool) -> FunctionTool:
    """Have the result of a tool stored together with its effect."""
    invoke = tool.on_invoke_tool

    async def on_invoke_tool(ctx: ToolContext[Any], arguments: str) -> Any:
        return await ctx.context.record(ctx.tool_call_id, lambda: invoke(ctx, arguments))

    return dataclasses.replace(tool, on_invoke_tool=on_invoke_tool)


# ---- the turn ----


@dataclass(frozen=True)
class TurnOptions:
    """How a turn is run.

    The model is asked `max_turns` times at most, and gets the last `history` messages. `run_config` is the SDK's.
    """

    run_config: RunConfig
    max_turns: int = 10
    history: int | None = None  # for all of them
    patience: Patience = field(default_factory=Patience)
    limits: AnswerLimits = field(default_factory=AnswerLimits)


class Observer(RunHooks[Any]):
    """Is told what happens in a turn beside its events, but not what an agent that is itself a tool does inside.

    The methods named `on_...` are those that the SDK calls.
    """

    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Any, tool: Tool) -> None:
        """See `tool_began`."""
        if isinstance(context, ToolContext):
            self.tool_began(context.tool_call_id)

    async def on_tool_end(self, context: RunContextWrapper[Any], agent: Any, tool: Tool, result: object) -> None:
        """See `tool_ended`."""
        if isinstance(context, ToolContext):
            await self.tool_ended(
                {"type": "tool_result", "id": context.tool_call_id, "name": tool.name, "result": as_json(result)}
            )

    def tool_began(self, call_id: str) -> None:
        """A function tool begins."""

    async def tool_ended(self, result: ToolResult) -> None:
        """A function tool has ended. The SDK's own event comes later: when all that were called at once have."""

    def model_is_starting(self) -> None:
        """Nothing has come of the model's first answer for a while."""

    def tokens_used(self, input_tokens: int, output_tokens: int) -> None:
        """The turn is over, and this is what it took."""


async def stream_turn(
    agent: Agent[Any],
    messages: Sequence[Message],
    context: object,
    options: TurnOptions,
    observer: Observer | None = None,
    *,
    conversation_id: int = 0,
) -> AsyncGenerator[Event, None]:
    """Run `agent` on a conversation and yield what happens, as it happens.

    `messages` is the stored conversation, the user's new message last: the model gets its texts and its tool calls
    with their results (or that they were cut off), and how answers ended that are not whole, but not its reasoning. It
    gets no more than `options` allow, the newest (turns/history.py). `context` reaches the tools; `conversation_id` is
    for the log. If there is no whole answer the last event is an "error".
    """
    observer = observer or Observer()
    pulse = begin_pulse(options.limits)
    result = Runner.run_streamed(
        agent,
        model_input(messages, options.history),
        context=context,
        run_config=options.run_config,
        max_turns=options.max_turns,
        hooks=observer,
    )
    watchdog = Watchdog(pulse, options.patience, result.cancel, observer.model_is_starting)
    try:
        async for event in _translate(result, watchdog):
            yield event
        if watchdog.verdict is not None:
            yield {"type": "error", "message": watchdog.verdict}
        elif result.interruptions:
            yield {"type": "error", "message": sentence_for_unapproved(result.interruptions)}
    except UserError as error:
        raise (error.__cause__ or error) from None  # the SDK has wrapped in it what a tool has raised
    except (AgentsException, openai.OpenAIError, OSError, UnicodeError, json.JSONDecodeError) as error:
        # UnicodeError: half a surrogate pair in a tool's arguments, for which openai-agents 0.24 has no word.
        log.warning("conversation %d: %s (LOG_LEVEL=DEBUG has it in full)", conversation_id, name_of(error))
        log.debug("in full:", exc_info=error)  # for whoever debugs a tool: it may quote what somebody wrote
        yield {"type": "error", "message": sentence_for(error)}
    finally:
        watchdog.stop()
        result.cancel()  # leaving the loop would not: the SDK's run goes on without its reader
        # Not public in openai-agents 0.24: a function for runs in a sandbox. It and the result hold each other, which
        # keeps all that the run has made until the garbage collector comes: nothing worse, should its name change.
        result._sandbox_cleanup = None
        usage = result.context_wrapper.usage
        observer.tokens_used(usage.input_tokens, usage.output_tokens)


async def _translate(result: RunResultStreaming, watchdog: Watchdog) -> AsyncIterator[Event]:
    """Turn the SDK's events into ours."""
    translator = _Translator(result.current_agent, watchdog)
    async for event in result.stream_events():
        watchdog.heard()
        if event.type == "raw_response_event":
            told = translator.raw(event.data)
        elif event.type == "run_item_stream_event":
            told = translator.item(event.name, event.item)
        else:
            told = translator.handoff(event.new_agent)
        for ours in told:
            yield ours
    if watchdog.verdict is None:
        for ours in translator.end(result.final_output):
            yield ours
        if not translator.answered and not result.interruptions:
            # A body that is not a stream at all comes out of the openai client as an answer with nothing in it.
            raise ModelBehaviorError("The answer is empty.")


class _Translator:
    """Turns the events of one run into ours. Text after a tool call, or of another agent, starts a new paragraph."""

    def __init__(self, agent: Agent[Any], watchdog: Watchdog) -> None:
        self.answered = False  # with text, or a tool
        self._agent = agent
        self._running = watchdog.running  # the calls that have no result yet; the watchdog has to know of them too
        self._said = False  # text that is not blank
        self._new_paragraph = False  # before the next text
        self._tool_is_last = False
        self._hosted: set[str] = set()  # the calls of the provider's own tools that have been shown
        self._cited: set[tuple[str, object]] = set()  # which source, and where: some name it twice
        self._half, self._half_thought = "", ""  # of a surrogate pair that came in two deltas

    def raw(self, data: TResponseStreamEvent) -> Iterator[Event]:
        """Yield what an event of the model's becomes."""
        # By type: the arguments of a tool call come as events with a `delta` too.
        if data.type == "response.output_text.delta" or data.type == "response.refusal.delta":
            self._half, delta = hold_half_back(self._half + data.delta)
            if delta:
                yield from self._text(delta)
        elif data.type == "response.reasoning_summary_text.delta" or data.type == "response.reasoning_text.delta":
            self._half_thought, delta = hold_half_back(self._half_thought + data.delta)
            if delta:
                yield {"type": "thinking", "content": delta}
        elif data.type == "response.reasoning_summary_part.added" and data.summary_index > 0:
            self._half_thought = ""
            yield {"type": "thinking", "content": "\n\n"}  # or the parts would run into each other
        elif data.type == "response.output_text.annotation.added":
            yield from self._citations([data.annotation])
        elif data.type == "response.output_item.done" and data.item.type == "message":
            for part in data.item.content:
                yield from self._citations(field_of(part, "annotations") or ())
        elif data.type == "response.output_item.done" and is_hosted(data.item):
            self._new_paragraph = True
            yield from self._hosted_call(data.item)

    def item(self, name: str, item: RunItem) -> Iterator[Event]:
        """Yield what an item of the run becomes: a tool's call or its output."""
        if name == "tool_called" and field_of(item.raw_item, "call_id"):
            call = call_in(item.raw_item)
            self.answered = self._new_paragraph = True
            self._running[call["id"]] = call["name"]
            yield call
        elif name == "tool_called" and is_hosted(item.raw_item):
            # After all of the text that came of it: `raw` has shown it in its place, if the model streams its items.
            yield from self._hosted_call(item.raw_item)
        elif name == "tool_output":
            call_id = str(field_of(item.raw_item, "call_id"))
            if call_id in self._running:  # and not the second of two handoffs at once, which nobody was told of
                self._tool_is_last = True
                output = as_json(getattr(item, "output", None))
                yield {"type": "tool_result", "id": call_id, "name": self._running.pop(call_id), "result": output}

    def handoff(self, agent: Agent[Any]) -> Iterator[Event]:
        """Yield what is told of a handoff to another agent."""
        if agent is not self._agent:
            self._agent, self._new_paragraph = agent, True
            # A paragraph of its own between what the two agents think.
            yield {"type": "thinking", "content": f"\n\nHanding over to {agent.name}.\n\n"}

    def end(self, final_output: object) -> Iterator[Event]:
        """Yield a tool's output as text, if the agent's `tool_use_behavior` makes it the answer: no model says it."""
        if self._tool_is_last and final_output:
            text = final_output if isinstance(final_output, str) else json_for_model(as_json(final_output))
            yield from self._text(mended(text))

    def _text(self, delta: str) -> Iterator[Event]:
        if self._new_paragraph and self._said:
            yield {"type": "text", "content": "\n\n"}
        self._said = self._said or not delta.isspace()
        self.answered = self.answered or self._said
        self._new_paragraph = self._tool_is_last = False
        yield {"type": "text", "content": delta}

    def _citations(self, annotations: Iterable[object]) -> Iterator[Event]:
        for citation, place in citations_in(annotations):
            if (citation["url"], place) not in self._cited:
                self._cited.add((citation["url"], place))
                yield citation

    def _hosted_call(self, item: object) -> Iterator[Event]:
        call = call_in(item)
        if call["id"] not in self._hosted:
            self._hosted.add(call["id"])
            self.answered = True
            yield call
            yield {"type": "tool_result", "id": call["id"], "name": call["name"], "result": hosted_result(item)}
