"""The offline model: what it understands, and what it leaves alone."""

import json
from typing import Any

import pytest
from conftest import Client

from todochat.models import offline


@pytest.mark.parametrize(
    ("message", "wish", "words"),
    [
        ("add buy milk", "add", ["buy milk"]),
        ("Please add a task to buy groceries to my list.", "add", ["buy groceries"]),
        ("add buy milk, call Ann and water the plants", "add", ["buy milk", "call Ann", "water the plants"]),
        ('add "bread and butter"', "add", ["bread and butter"]),
        ("Add tasks: a; b", "add", ["a", "b"]),
        ("remind me to call mom", "add", ["call mom"]),
        ("I need to buy milk!", "add", ["buy milk"]),
        ("show my tasks", "list", "all"),
        ("could you show me all my tasks please?", "list", "all"),
        ("what's left?", "list", "pending"),
        ("what do I have to do?", "list", "all"),
        ("list completed", "list", "completed"),
        ("tasks", "list", "all"),
        ("how many tasks do I have", "list", "all"),
        ("complete 2", "complete", "2"),
        ("complete the second one", "complete", "the second one"),
        ("mark buy milk as done", "complete", "buy milk"),
        ("buy milk is done", "complete", "buy milk"),
        ("I finished the first task", "complete", "the first task"),
        ("mark 2 as not done", "reopen", "2"),
        ("rename 2 to buy oat milk", "rename", "2 to buy oat milk"),
        ("delete the task buy milk", "delete", "the task buy milk"),
        ("what can you do?", "help", None),
        ("what is the meaning of life", "help", None),
        ("hello", "help", None),
        ("", "help", None),
        ("x" * 3000, "help", None),
    ],
)
def test_the_offline_model_understands_the_ordinary_ways_of_asking(message: str, wish: str, words: Any) -> None:
    """The phrases of the table are understood, with their politeness and their noise."""
    understood, found = offline.understand(message)
    assert understood == wish
    if wish == "add":
        assert offline.titles_in(found["titles"]) == words
    elif wish == "list":
        assert offline.status_in(found["status"]) == words
    elif wish != "help":
        assert found["which"] == words


TASKS = [
    {"id": 4, "title": "Buy milk", "completed": True},
    {"id": 7, "title": "Call Ann", "completed": False},
    {"id": 9, "title": "Water the plants", "completed": False},
]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("7", [7]),
        ("#9", [9]),
        ("task 4", [4]),
        ("number 2", [9]),
        ("2", [9]),
        ("0", []),
        ("99", []),
        ("the first one", [7]),
        ("last", [9]),
        ("call ann", [7]),
        ("plants", [9]),
        ("plants water", [9]),
        ("all", [4, 7, 9]),
        ("nothing like it", []),
        ("", []),
    ],
)
def test_a_task_is_meant_by_id_place_or_words(words: str, ids: list[int]) -> None:
    """A number is an id or else a place among the open tasks; words are looked for in the titles."""
    assert [task["id"] for task in offline.tasks_meant(words, TASKS)] == ids


def test_the_offline_model_says_what_it_is_in_its_first_answer_and_only_there(alice: Client) -> None:
    """The first answer says that this is no AI; the next ones come to the point; help is what else it has to say."""
    first = alice.say("tell me a joke")
    assert first.text.startswith(offline.WHO)
    assert offline.HELP in first.text
    second = alice.say("add buy milk, call Ann", first.thread)
    assert second.text == "Added: buy milk (#{}). Added: call Ann (#{}).".format(*(t["id"] for t in alice.tasks()))
    assert len(second.of("text")) > 5


def test_the_offline_model_goes_through_the_tools(alice: Client) -> None:
    """Each of the five wishes is carried out by calling tools, and the answer tells their results."""
    thread = alice.say("add buy milk, call Ann, water plants").thread
    assert alice.say("complete the second one", thread).of("tool_call")[-1]["name"] == "complete_task"
    assert "(done)" in alice.say("show my tasks", thread).text
    assert "1 task" in alice.say("list completed", thread).text
    alice.say("rename buy milk to buy oat milk", thread)
    alice.say("delete water plants", thread)
    assert [(t["title"], t["completed"]) for t in alice.tasks()] == [("buy oat milk", False), ("call Ann", True)]
    assert "no task for: the moon" in alice.say("delete the moon", thread).text
    alice.say("add read a book, burn a book", thread)
    assert "Which one?" in alice.say("delete book", thread).text
    alice.say("delete the third one and burn a book", thread)
    alice.say("mark call ann as not done", thread)
    assert [(t["title"], t["completed"]) for t in alice.tasks()][:2] == [("buy oat milk", False), ("call Ann", False)]


def done(message: str, *titles: str, total: int | None = None, known: str = "") -> Any:
    """Return the calls that a message makes on a list with these titles, numbered from 1; "*" marks one as done."""
    tasks = [{"id": n, "title": t.strip("*"), "completed": t.endswith("*")} for n, t in enumerate(titles, 1)]
    before = {"type": "function_call_output", "call_id": "0", "output": known}
    items: list[Any] = [{"role": "user", "content": "hi"}, before, {"role": "user", "content": message}]
    first = offline.think(items)
    if isinstance(first, str) or first[0][0] != "list_tasks":
        return [] if isinstance(first, str) else [arguments["title"] for _, arguments in first]
    if offline.understand(message)[0] == "list":
        return first[0][1]["status"]
    output = json.dumps({"success": True, "total": total or len(tasks), "tasks": tasks})
    then = offline.think([*items, {"type": "function_call_output", "call_id": "1", "output": output}])
    return [] if isinstance(then, str) else [(name.split("_")[0], *arguments.values()) for name, arguments in then]


@pytest.mark.parametrize(
    ("message", "titles", "calls"),
    [
        # Several at once, however they are written.
        ("Add the following tasks:\n- milk\n- bread\n- eggs", [], ["milk", "bread", "eggs"]),
        ("Add tasks:\n1. milk\n2. bread", [], ["milk", "bread"]),
        ("add\nmilk", [], ["milk"]),
        ("add pay 1,500 rent", [], ["pay 1,500 rent"]),
        ('add buy "fancy" milk', [], ['buy "fancy" milk']),
        ("add 2 tasks: x and y", [], ["x", "y"]),
        ("add to my list: milk", [], ["milk"]),
        ("add \u201cmilk\u201d", [], ["milk"]),
        ("I'd like to add buy milk", [], ["buy milk"]),
        ("I want you to add buy milk", [], ["buy milk"]),
        ("todo: buy milk", [], ["buy milk"]),
        ("Don\u2019t let me forget to call mom", [], ["call mom"]),
        ("make a note to call Ann", [], ["call Ann"]),
        ("remind me to check if the report is done", [], ["check if the report is done"]),
        ("add make sure the homework is done", [], ["make sure the homework is done"]),
        # What is no wish for a task.
        ("add task", [], []),
        ("Add a task", [], []),
        ("add ,", [], []),
        ('add ""', [], []),
        ("I have a headache", [], []),
        ("I have bought the milk", [], []),
        ("I need help", [], []),
        ("I want to know what you can do", [], []),
        ("Make me laugh", [], []),
        ("I must say you are great", [], []),
        # Questions.
        ("what haven't I done?", [], "pending"),
        ("show not completed", [], "pending"),
        ("What tasks are done?", ["decide what to buy"], "completed"),
        ("What is done?", ["decide what to buy"], "completed"),
        ("How many tasks are completed?", [], "completed"),
        ("any open tasks?", [], "pending"),
        ("let me see my tasks", [], "all"),
        ("I want to see my tasks", [], "all"),
        # What means no task, or more than one.
        ("Forget it", ["wait for Ann"], []),
        ("He is done", ["fix the roof"], []),
        ("delete the", ["fix the roof"], []),
        ("I did it", ["wait for Ann"], []),
        ("rename everything to x", ["a", "b"], []),
        ("clear the list", ["make a packing list"], []),
        ("milk done?", ["milk"], "all"),
        ("everything done?", ["a", "b"], "all"),
        ("delete milk", ["buy milk", "spill milk"], []),
        # One task, or those that are named.
        ("complete the report task", ["write report"], [("complete", 1, True)]),
        ("complete the 2nd task", ["a", "b"], [("complete", 2, True)]),
        ("I'm done with task 2", ["a", "b"], [("complete", 2, True)]),
        ("2 done", ["a", "b"], [("complete", 2, True)]),
        ("set task 1 to done", ["a", "b"], [("complete", 1, True)]),
        ("change all tasks to done", ["a", "b"], [("complete", 1, True), ("complete", 2, True)]),
        ("mark 1 as not done", ["a*"], [("complete", 1, False)]),
        ("remove milk from my list", ["buy milk"], [("delete", 1)]),
        ("delete 1 & 3", ["a", "b", "c"], [("delete", 1), ("delete", 3)]),
        ("delete completed tasks", ["a*", "b", "c*"], [("delete", 1), ("delete", 3)]),
        ("clear completed", ["a*", "b"], [("delete", 1)]),
        ('rename "talk to Bob" to "talk to Ann"', ["talk to Bob"], [("update", 1, "talk to Ann")]),
        ("rename talk to Bob to talk to Ann", ["talk to Bob"], [("update", 1, "talk to Ann")]),
        ("change the title of 2 to buy oat milk", ["a", "b"], [("update", 2, "buy oat milk")]),
        ("rename task 2: new words", ["a", "b"], [("update", 2, "new words")]),
    ],
)
def test_what_is_asked_is_done_and_nothing_else(message: str, titles: list[str], calls: Any) -> None:
    """Ordinary sentences make the calls that a person would expect; what is not clear makes none."""
    assert done(message, *titles) == calls


def test_a_number_is_no_place_where_it_was_an_id(alice: Client) -> None:
    """Asked twice to delete a task by its number, it deletes one task: what was an id is not taken for a place."""
    thread = alice.say("add a, b, c").thread
    number = alice.tasks()[0]["id"]
    alice.say(f"delete {number}", thread)
    assert "no task for" in alice.say(f"delete {number}", thread).text
    assert [task["title"] for task in alice.tasks()] == ["b", "c"]
    assert done("delete 1", "a") == [("delete", 1)]
    assert done("delete 0", "a") == []


def test_of_a_list_that_is_too_long_only_numbers_and_names_are_taken() -> None:
    """Where the tool shows only a part of the list, places and groups are asked about, and a number is an id."""
    assert done("delete 700", "a", "b", total=500) == [("delete", 700)]
    assert done("delete a", "aa", "bb", total=500) == []
    assert done("delete aa", "aa", "bb", total=500) == [("delete", 1)]
    for message in ("delete the first one", "delete everything", "complete the last one"):
        assert done(message, "aa", "bb", total=500) == []
