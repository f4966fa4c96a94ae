"""The agent's events and what the model is told, with the Agents SDK's own scripted model."""

import json
from datetime import datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from agents import Agent, RunConfig
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseFunctionToolCall, ResponseFunctionWebSearch
from openai.types.responses.response_function_web_search import ActionSearch
from scripted import item, pieces, text, thought

from todochat import agent, models
from todochat.db import Store
from todochat.events import Event, Message, Status
from todochat.turns import given_back, history, sdk
from todochat.turns.tool_output import as_json

pytestmark = pytest.mark.anyio

BROKE_OFF = {"type": "error", "message": "The model's answer broke off. Please try again."}


def answer(content: str, *calls: dict[str, Any], status: Status = "done") -> Message:
    """Return a stored answer."""
    message = {"id": 8, "role": "assistant", "content": content, "tool_calls": list(calls), "status": status}
    return cast(Message, message | {"reasoning": [], "error": None, "feedback": None, "created_at": ""})


USER = cast(Message, answer("hi") | {"id": 1, "role": "user"})


async def play(store: Store, *steps: Any) -> list[Event]:
    """Return the events of one turn of the to-do agent, with a model that answers so."""
    config = RunConfig(tracing_disabled=True, tool_not_found_behavior="return_error_to_model")
    todo, context = agent.todo_agent(ScriptedModel(steps)), agent.TurnContext("alice", store)
    return [event async for event in agent.stream_turn(todo, [USER], context, agent.TurnOptions(config))]


def said(events: list[Event]) -> str:
    """Return the answer's text."""
    return "".join(event["content"] for event in events if event["type"] == "text")


def results(events: list[Event]) -> list[Any]:
    """Return the tools' results."""
    return [event["result"] for event in events if event["type"] == "tool_result"]


async def test_the_five_tools_act_on_the_users_tasks(store: Store) -> None:
    """add, list, complete, update and delete do what they say, and answer with JSON objects."""
    events = await play(
        store,
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
            "tasks": [{"id": 2, "title": "Call Bob", "description": None, "due": None, "completed": False}],
        },
        {"success": True, "task_id": 2, "title": "Call Bob", "completed": False},
    ]
    [task] = await store.list_tasks("alice")
    assert (task["title"], task["description"], task["completed"]) == ("Buy milk", "2 l", True)
    assert said(events) == "All done."


async def test_a_task_has_a_due_date_if_the_user_named_one(store: Store) -> None:
    """The tools set, show, change and remove a due date; what is no date is refused in words, and nothing is done."""
    events = await play(
        store,
        [function_call("add_task", {"title": "Buy milk", "due": "2026-12-01"}, call_id="1")],
        [function_call("update_task", {"task_id": 1, "due": "2026-12-02"}, call_id="2")],
        [function_call("list_tasks", {}, call_id="3")],
        [function_call("update_task", {"task_id": 1, "due": ""}, call_id="4")],
        [function_call("add_task", {"title": "Call Ann", "due": "tomorrow"}, call_id="5")],
        [function_call("update_task", {"task_id": 1, "due": "2026-02-30"}, call_id="6")],
        [assistant_message("All done.")],
    )
    told = {"success": True, "task_id": 1, "title": "Buy milk", "completed": False}
    added, changed, listed, removed, *refused = results(events)
    assert (added, changed, removed) == (told | {"due": "2026-12-01"}, told | {"due": "2026-12-02"}, told)
    assert [task["due"] for task in listed["tasks"]] == ["2026-12-02"]
    assert [answer["success"] for answer in refused] == [False, False]
    assert all(answer["error"].startswith("due cannot be used:") for answer in refused)
    assert [(task["title"], task["due"]) for task in await store.list_tasks("alice")] == [("Buy milk", None)]


async def test_of_too_many_tasks_the_model_sees_those_that_are_due(store: Store) -> None:
    """Old tasks that are due are among those that are shown of a list that is too long."""
    await store.add_task("alice", "old", due="2026-12-01")
    for n in range(agent.MAX_LISTED + 1):
        await store.add_task("alice", f"task {n}")
    events = await play(store, [function_call("list_tasks", {}, call_id="1")], [assistant_message("Done.")])
    titles = [task["title"] for task in results(events)[0]["tasks"]]
    assert titles == ["old", *(f"task {n}" for n in range(2, agent.MAX_LISTED + 1))]


@pytest.mark.parametrize("timezone", ["Pacific/Kiritimati", "Pacific/Niue", "UTC"])
async def test_the_model_knows_the_users_day_and_that_it_cannot_remind(store: Store, timezone: str) -> None:
    """The instructions name the user's date, weekday and time zone, and say that nobody is reminded."""
    model = ScriptedModel([[assistant_message("Hello.")]])
    context = agent.TurnContext("alice", store, timezone=timezone)
    options = agent.TurnOptions(RunConfig(tracing_disabled=True))
    before = datetime.now(ZoneInfo(timezone))
    async for _ in agent.stream_turn(agent.todo_agent(model), [USER], context, options):
        pass
    days = {f"{when:%A, %Y-%m-%d} (time zone: {timezone})" for when in (before, datetime.now(ZoneInfo(timezone)))}
    told = str(model.calls[0].system_instructions)
    assert any(day in told for day in days)
    assert "cannot remind" in told


async def test_half_a_character_in_an_argument_is_a_broken_answer(store: Store) -> None:
    """Arguments that are no text end the turn in words, like any other answer that makes no sense."""
    events = await play(store, [function_call("add_task", {"title": "\ud800"}, call_id="1")])
    assert events[-1] == BROKE_OFF
    assert await store.list_tasks("alice") == []


async def test_of_too_many_tasks_the_open_and_the_newest_are_listed(store: Store) -> None:
    """The model is shown a hundred tasks at most: the open ones first to be, and of those the newest."""
    adding = [function_call("add_task", {"title": f"t{n}"}, call_id=f"a{n}") for n in range(103)]
    done = function_call("complete_task", {"task_id": 103}, call_id="d")
    events = await play(
        store, adding, [done], [function_call("list_tasks", {}, call_id="l")], [assistant_message("There.")]
    )
    *_, listed = results(events)
    assert listed["total"] == 103
    assert [task["id"] for task in listed["tasks"]] == list(range(3, 103))


async def test_an_answer_of_white_space_is_none(store: Store) -> None:
    """A model that says nothing but blanks has not answered."""
    events = await play(store, [assistant_message(" \n ")])
    assert events[-1] == BROKE_OFF


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
async def test_a_tool_that_cannot_tells_the_model_so(store: Store, name: str, arguments: Any, says: str) -> None:
    """What a tool cannot do is a result with an error that the model can read, not the end of the turn."""
    call = function_call(name, arguments if isinstance(arguments, str) else json.dumps(arguments), call_id="1")
    events = await play(store, [call], [assistant_message("Sorry.")])
    assert results(events) == [{"success": False, "error": says}]
    assert said(events) == "Sorry."
    assert await store.list_tasks("alice") == []


async def test_a_tool_that_does_not_exist_is_told_to_the_model(store: Store) -> None:
    """A tool that the model invents is an error for the model to mend."""
    events = await play(store, [function_call("fly", {}, call_id="1")], [assistant_message("I cannot.")])
    assert "fly" in str(results(events))
    assert said(events) == "I cannot."


async def test_a_turn_with_nothing_in_it_has_failed(store: Store) -> None:
    """An answer without text or tool calls is not an answer."""
    events = await play(store, [])
    assert events[-1] == BROKE_OFF


async def test_an_error_of_the_models_is_told_in_our_words(store: Store) -> None:
    """Whatever an exception says, the user reads a sentence of ours."""
    events = await play(store, ModelStep.raise_error(OSError("secret words")))
    assert events[-1] == {"type": "error", "message": "The connection to the model failed. Please try again."}


async def test_halves_of_a_character_are_put_together(store: Store) -> None:
    """A character that comes in two deltas is whole in the text; half a character alone is not stored."""
    deltas = [text("a\ud83d"), text("\ude00!"), thought("\ud83d"), thought("\ude00"), text("\ude00"), text("b\ud83dc")]
    events = await play(store, pieces(*deltas))
    assert said(events) == "a\U0001f600!\ufffdb\ufffdc"
    assert [event["content"] for event in events if event["type"] == "thinking"] == ["\U0001f600"]
    assert as_json("no JSON \ud83d") == "no JSON \ufffd"
    assert as_json('{"half": "\\ud83d"}') == '{"half": "\\ud83d"}'  # whose text is no text, and stays JSON in a text


def test_the_history_has_the_calls_where_they_happened() -> None:
    """A stored answer becomes text, call, output, text, in the order in which it happened."""
    call = {"id": "x", "name": "add_task", "args": {"title": "a"}, "result": {"success": True}, "at": 6}
    items = history.model_input([USER, answer("Adding\n\nDone.", call)])
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
    for messages, most in ([answer("Done.", call), USER], None), ([USER, answer("Done.", call), USER], 2):
        items, _, is_whole = given_back.addressed(history.model_input(messages, most), "any model")
        assert (items, is_whole) == ([{"role": "user", "content": "hi"}], False)
    items, _, is_whole = given_back.addressed(history.model_input([USER, answer("Done."), USER], 3), "any model")
    assert (len(items), is_whole) == (3, True)


def test_a_call_that_was_cut_off_still_has_an_output() -> None:
    """No history has a call without its output: providers refuse it."""
    call = {"id": "x", "name": "add_task", "args": "{half", "at": 0}
    _, *items = history.model_input([USER, answer("", call, status="interrupted")])
    assert [item_.get("type") for item_ in items] == ["function_call", "function_call_output", None]
    call_item, output, _ = (dict(item_) for item_ in items)
    assert call_item["arguments"] == "{}"
    assert "cut off" in output["output"]


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted"])
def test_the_model_is_told_how_an_answer_ended(status: Status) -> None:
    """An answer that did not end well says so to the model, even if it is empty."""
    [_, told] = history.model_input([USER, answer("", status=status)])
    assert status.removesuffix("ed") in str(told)
    [_, told] = history.model_input([USER, answer("Once upon", status=status)])
    assert str(told["content"]).startswith("Once upon\n\n[")  # type: ignore[typeddict-item]


def as_they_are(*items: Any) -> ModelStep:
    """Return an answer of a host's own model that streams its items, and gives them as they are."""
    return pieces(*map(item, items), output=items)


LOCAL = ["function_call", "custom_tool_call", "computer_call", "shell_call", "local_shell_call", "apply_patch_call"]


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("call_id", ["", None])
@pytest.mark.parametrize("item_id", ["fc_1", "__fake_id__", None])
async def test_a_call_without_an_id_is_never_shown_as_completed(
    store: Store, kind: str, call_id: str | None, item_id: str | None
) -> None:
    """A tool that would have to run here did not, so the turn has failed, and nothing says that it was done."""
    fields: dict[str, Any] = {"name": "add_task", "arguments": '{"title": "eggs"}', "status": "completed"}
    call = ResponseFunctionToolCall.construct(type=kind, id=item_id, call_id=call_id, **fields)  # type: ignore[arg-type]
    assert await play(store, as_they_are(call), as_they_are(assistant_message("Done."))) == [BROKE_OFF]
    assert await store.list_tasks("alice") == []


async def test_a_made_up_id_is_as_good_as_any(store: Store) -> None:
    """`__fake_id__` is what the SDK writes where it has no id: a call that has it as its own is made."""
    call = function_call("add_task", {"title": "eggs"}, call_id="__fake_id__")
    events = await play(store, as_they_are(call), as_they_are(assistant_message("Done.")))
    assert [task["title"] for task in await store.list_tasks("alice")] == ["eggs"]
    assert results(events) == [{"success": True, "task_id": 1, "title": "eggs", "completed": False}]


async def test_a_call_of_a_providers_own_tool_is_shown_with_its_status(store: Store) -> None:
    """It has run over there already, and has no id to be answered by."""
    search = ResponseFunctionWebSearch(
        type="web_search_call", id="ws_1", status="completed", action=ActionSearch(type="search", query="eggs")
    )
    events = await play(store, as_they_are(search, assistant_message("Found.")))
    assert results(events) == [{"status": "completed"}]
    [call] = [event for event in events if event["type"] == "tool_call"]
    assert (call["id"], call["name"]) == ("ws_1", "web_search_call")


async def test_a_hosts_own_model_is_checked_and_so_are_those_handed_over_to(store: Store) -> None:
    """Calls without an id, or with a used one, get one; thoughts between tags are thoughts."""
    second = agent.todo_agent(
        ScriptedModel(
            [
                [
                    function_call("add_task", {"title": "eggs"}, call_id=""),
                    function_call("add_task", {"title": "bread"}, call_id="again"),
                ],
                [function_call("add_task", {"title": "milk"}, call_id="")],
                [function_call("no_tool\ud83d", {}, call_id="half a character: \ud83d")],
                [assistant_message("<think>I think</think>Done.")],
            ]
        )
    )
    second.name = "Second"
    first = Agent(
        name="First",
        model=ScriptedModel([[function_call("transfer_to_second", {}, call_id="again")]]),
        handoffs=[second],
    )
    options = agent.TurnOptions(sdk.run_config(models.Choice(None, "host"), 1000))
    context = agent.TurnContext("alice", store)
    events = [event async for event in agent.stream_turn(first, [USER], context, options)]
    assert said(events) == "Done."
    assert [task["title"] for task in await store.list_tasks("alice")] == ["eggs", "bread", "milk"]
    ids = [event["id"] for event in events if event["type"] == "tool_call"]
    assert len(set(ids)) == len(ids) == 4
    assert all(ids)
    assert json.dumps(events, ensure_ascii=False).encode()  # which can be stored
