"""The agent's events and what the model is told, with the Agents SDK's own scripted model."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Model, RunConfig
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseFunctionWebSearch,
    ResponseOutputItemDoneEvent,
)
from openai.types.responses.response_function_web_search import ActionSearch

import agent
import db

USER = {"id": 1, "role": "user", "content": "hi", "tool_calls": [], "status": "done"}


def answer(content: str, *calls: dict[str, Any], status: str = "done") -> dict[str, Any]:
    """Return a stored answer."""
    return {"id": 8, "role": "assistant", "content": content, "tool_calls": list(calls), "status": status}


async def recorded(call_id: str, work: Callable[[], Awaitable[Any]], as_json: Callable[[Any], Any]) -> Any:
    """Do the work, as a run would."""
    return await work()


def play(tmp_path: Path, *steps: Any) -> tuple[list[agent.Event], list[db.Task], ScriptedModel]:
    """Run one turn on a real store; return its events, the user's tasks afterwards, and the model."""

    async def turn() -> tuple[list[agent.Event], list[db.Task], ScriptedModel]:
        store = await db.Store.open(str(tmp_path / "chat.db"))
        try:
            model = ScriptedModel(steps)
            config = RunConfig(tracing_disabled=True, tool_not_found_behavior="return_error_to_model")
            context = agent.TurnContext("alice", store, recorded)
            stream = agent.stream_turn(agent.todo_agent(model), [USER], context, thread_id=1, run_config=config)
            return [event async for event in stream], await store.list_tasks("alice"), model
        finally:
            await store.close()

    return asyncio.run(turn())


def results(events: list[agent.Event]) -> list[Any]:
    """Return the tools' results."""
    return [event["result"] for event in events if isinstance(event, dict) and event["type"] == "tool_result"]


def test_the_five_tools_act_on_the_users_tasks(tmp_path: Path) -> None:
    """add, list, complete, update and delete do what they say, and answer with JSON objects."""
    events, tasks, _ = play(
        tmp_path,
        [
            function_call("add_task", {"title": " Buy milk ", "description": "2 l"}, call_id="1"),
            function_call("add_task", {"title": "Call Ann"}, call_id="2"),
        ],
        [function_call("complete_task", {"task_id": 1}, call_id="3")],
        [function_call("update_task", {"task_id": 2, "title": "Call Bob", "description": None}, call_id="4")],
        [function_call("list_tasks", {"status": "pending"}, call_id="5")],
        [function_call("delete_task", {"task_id": 2}, call_id="6")],
        [assistant_message("All done.")],
    )
    assert results(events) == [
        {"success": True, "task_id": 1, "title": "Buy milk", "completed": False},
        {"success": True, "task_id": 2, "title": "Call Ann", "completed": False},
        {"success": True, "task_id": 1, "title": "Buy milk", "completed": True},
        {"success": True, "task_id": 2, "title": "Call Bob", "completed": False},
        {
            "success": True,
            "total": 1,
            "tasks": [{"id": 2, "title": "Call Bob", "description": None, "completed": False}],
        },
        {"success": True, "task_id": 2, "title": "Call Bob", "completed": False},
    ]
    assert [(t["title"], t["description"], t["completed"]) for t in tasks] == [("Buy milk", "2 l", True)]
    assert events[-1] == "All done."


def test_half_a_character_in_an_argument_is_a_broken_answer(tmp_path: Path) -> None:
    """Arguments that are no text end the turn in words, like any other answer that makes no sense."""
    events, tasks, _ = play(tmp_path, [function_call("add_task", {"title": "\ud800"}, call_id="1")])
    assert events[-1] == {"type": "error", "message": "The model's answer broke off. Please try again."}
    assert tasks == []


def test_of_too_many_tasks_the_open_and_the_newest_are_listed(tmp_path: Path) -> None:
    """The model is shown a hundred tasks at most: the open ones first to be, and of those the newest."""
    adding = [function_call("add_task", {"title": f"t{n}"}, call_id=f"a{n}") for n in range(103)]
    done = function_call("complete_task", {"task_id": 103}, call_id="d")
    events, *_ = play(
        tmp_path, adding, [done], [function_call("list_tasks", {}, call_id="l")], [assistant_message("There.")]
    )
    *_, listed = results(events)
    assert listed["total"] == 103
    assert [task["id"] for task in listed["tasks"]] == list(range(3, 103))


def test_an_answer_of_white_space_is_none(tmp_path: Path) -> None:
    """A model that says nothing but blanks has not answered."""
    events, _, _ = play(tmp_path, [assistant_message(" \n ")])
    assert isinstance(events[-1], dict)
    assert events[-1]["type"] == "error"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("complete_task", {"task_id": 77}, "There is no task 77."),
        ("update_task", {"task_id": 77, "title": "x"}, "There is no task 77."),
        ("delete_task", {"task_id": 77}, "There is no task 77."),
        ("complete_task", {"task_id": 10**30}, "These arguments do not fit the tool."),
        ("complete_task", {"task_id": "the first"}, "These arguments do not fit the tool."),
        ("complete_task", {}, "These arguments do not fit the tool."),
        ("complete_task", '{"task_id": ', "These arguments do not fit the tool."),
        ("add_task", {"title": "  "}, "A title has 1 to 200 characters."),
        ("add_task", {"title": "x" * 201}, "A title has 1 to 200 characters."),
        ("add_task", {"title": "x", "description": "x" * 2001}, "A description has at most 2000 characters."),
        ("list_tasks", {"status": "urgent"}, "These arguments do not fit the tool."),
    ],
)
def test_a_tool_that_cannot_tells_the_model_so(tmp_path: Path, name: str, arguments: Any, says: str) -> None:
    """What a tool cannot do is a result with an error that the model can read, not the end of the turn."""
    call = function_call(name, arguments if isinstance(arguments, str) else json.dumps(arguments), call_id="1")
    events, tasks, _ = play(tmp_path, [call], [assistant_message("Sorry.")])
    assert results(events) == [{"success": False, "error": says}]
    assert events[-1] == "Sorry."
    assert tasks == []


def test_a_tool_that_does_not_exist_is_told_to_the_model(tmp_path: Path) -> None:
    """A tool that the model invents is an error for the model to mend."""
    events, _, _ = play(tmp_path, [function_call("fly", {}, call_id="1")], [assistant_message("I cannot.")])
    assert "fly" in str(results(events))
    assert events[-1] == "I cannot."


def test_a_turn_with_nothing_in_it_has_failed(tmp_path: Path) -> None:
    """An answer without text or tool calls is not an answer."""
    events, _, _ = play(tmp_path, [])
    assert events[-1] == {"type": "error", "message": "The model's answer broke off. Please try again."}


def test_an_error_of_the_models_is_told_in_our_words(tmp_path: Path) -> None:
    """Whatever an exception says, the user reads a sentence of ours."""
    events, _, _ = play(tmp_path, ModelStep.raise_error(OSError("secret words")))
    assert events[-1] == {"type": "error", "message": "The connection to the model failed. Please try again."}


def test_halves_of_a_character_are_put_together() -> None:
    """A character that comes in two deltas is whole in the text; half a character alone is not stored."""
    held, text = agent._whole("a\ud83d")
    assert (held, text) == ("\ud83d", "a")
    assert agent._whole(held + "\ude00!") == ("", "\U0001f600!")
    assert agent._whole("\ude00") == ("", "\ufffd")
    assert agent._plain("no JSON \ud83d") == "no JSON \ufffd"
    assert agent._plain('{"half": "\\ud83d"}').isascii()


def test_the_history_has_the_calls_where_they_happened() -> None:
    """A stored answer becomes text, call, output, text, in the order in which it happened."""
    call = {"id": "x", "name": "add_task", "args": {"title": "a"}, "result": {"success": True}, "at": 6}
    items = agent.model_input([USER, answer("Adding\n\nDone.", call)])
    assert items == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Adding"},
        {"type": "function_call", "call_id": "000008c00", "name": "add_task", "arguments": '{"title": "a"}'},
        {"type": "function_call_output", "call_id": "000008c00", "output": '{"success": true}'},
        {"role": "assistant", "content": "Done."},
    ]


def test_the_history_begins_with_the_user() -> None:
    """When the oldest messages are left out, what is left begins with a question: some providers refuse others."""
    call = {"id": "x", "name": "add_task", "args": {}, "result": 1, "at": 0}
    assert agent.model_input([answer("Done.", call), USER]) == [{"role": "user", "content": "hi"}]


def test_a_call_that_was_cut_off_still_has_an_output() -> None:
    """No history has a call without its output: providers refuse it."""
    call = {"id": "x", "name": "add_task", "args": "{half", "at": 0}
    _, *items = agent.model_input([USER, answer("", call, status="interrupted")])
    assert [item.get("type") for item in items] == ["function_call", "function_call_output", None]
    call_item, output, _ = (dict(item) for item in items)
    assert call_item["arguments"] == "{}"
    assert "cut off" in output["output"]


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted"])
def test_the_model_is_told_how_an_answer_ended(status: str) -> None:
    """An answer that did not end well says so to the model, even if it is empty."""
    [_, item] = agent.model_input([USER, answer("", status=status)])
    assert status.removesuffix("ed") in str(item)
    [_, item] = agent.model_input([USER, answer("Once upon", status=status)])
    assert str(item["content"]).startswith("Once upon\n\n[")  # type: ignore[typeddict-item]


class Careless(Model):
    """A host's own model that streams its items, and gives them as they are."""

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        """Never called: our turns are streamed."""
        raise NotImplementedError

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield the next answer."""
        items = self._answers.pop(0)
        for n, item in enumerate(items):
            yield ResponseOutputItemDoneEvent.construct(
                type="response.output_item.done", item=item, output_index=n, sequence_number=n
            )
        response = Response.construct(id="r", output=items, usage=None)
        yield ResponseCompletedEvent.construct(type="response.completed", response=response, sequence_number=99)


def careless_turn(tmp_path: Path, *answers: list[Any]) -> tuple[list[agent.Event], list[db.Task]]:
    """Run one turn with such a model."""

    async def turn() -> tuple[list[agent.Event], list[db.Task]]:
        store = await db.Store.open(str(tmp_path / "chat.db"))
        try:
            context = agent.TurnContext("alice", store, recorded)
            config = RunConfig(tracing_disabled=True, tool_not_found_behavior="return_error_to_model")
            todo = agent.todo_agent(Careless(*answers))
            stream = agent.stream_turn(todo, [USER], context, thread_id=1, run_config=config)
            return [event async for event in stream], await store.list_tasks("alice")
        finally:
            await store.close()

    return asyncio.run(turn())


LOCAL = ["function_call", "custom_tool_call", "computer_call", "shell_call", "local_shell_call", "apply_patch_call"]


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("call_id", ["", None])
@pytest.mark.parametrize("item_id", ["fc_1", "__fake_id__", None])
def test_a_call_without_an_id_is_never_shown_as_completed(
    tmp_path: Path, kind: str, call_id: str | None, item_id: str | None
) -> None:
    """A tool that would have to run here did not, so the turn has failed, and nothing says that it was done."""
    fields: dict[str, Any] = {"name": "add_task", "arguments": '{"title": "eggs"}', "status": "completed"}
    call = ResponseFunctionToolCall.construct(type=kind, id=item_id, call_id=call_id, **fields)  # type: ignore[arg-type]
    events, tasks = careless_turn(tmp_path, [call], [assistant_message("Done.")])
    assert [event["type"] for event in events if isinstance(event, dict)] == ["error"]
    assert events == [{"type": "error", "message": "The model's answer broke off. Please try again."}]
    assert tasks == []


def test_a_made_up_id_is_as_good_as_any(tmp_path: Path) -> None:
    """`__fake_id__` is what the SDK writes where it has no id: a call that has it as its own is made."""
    call = function_call("add_task", {"title": "eggs"}, call_id="__fake_id__")
    events, tasks = careless_turn(tmp_path, [call], [assistant_message("Done.")])
    assert [task["title"] for task in tasks] == ["eggs"]
    assert results(events) == [{"success": True, "task_id": 1, "title": "eggs", "completed": False}]


def test_a_call_of_a_providers_own_tool_is_shown_with_its_status(tmp_path: Path) -> None:
    """It has run over there already, and has no id to be answered by."""
    search = ResponseFunctionWebSearch(
        type="web_search_call", id="ws_1", status="completed", action=ActionSearch(type="search", query="eggs")
    )
    events, _ = careless_turn(tmp_path, [search, assistant_message("Found.")])
    assert results(events) == [{"status": "completed"}]
    [call] = [event for event in events if isinstance(event, dict) and event["type"] == "tool_call"]
    assert (call["id"], call["name"]) == ("ws_1", "web_search_call")
