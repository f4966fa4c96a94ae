"""The offline model: what it understands, and what it leaves alone."""

import json
import re
import signal
import time
from collections.abc import Callable
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
        ("remind me to \n- call Ann\n- buy milk", [], ["call Ann", "buy milk"]),
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
        ("delete \n milk\n eggs", ["milk", "bread", "eggs"], [("delete", 1), ("delete", 3)]),
        ("rename 2 to\nnew  words", ["a", "b"], [("update", 2, "new words")]),
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


def out_of_time(*_: Any) -> None:
    """Called when a message has taken far too long; a regular expression can be stopped by a signal."""
    raise AssertionError("it has not come to an end in 4 seconds")


def seconds(message: str, titles: list[str]) -> float:
    """Return how long the processor works on a message, from its reading to the calls that it leads to."""
    before = signal.signal(signal.SIGVTALRM, out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, 4)
    try:
        begin = time.process_time()
        done(message, *titles)
        return time.process_time() - begin
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize(
    ("message", "times"),
    [
        (lambda n: "x" + "!?. " * n + "x", 7_990),
        (lambda n: "add x" + "!?. " * n + "x", 7_990),
        (lambda n: "x" + " " * n + "x", 31_900),
        (lambda n: 'add "a"' + "\n" * n + '"', 1_900),
        (lambda n: "add " + '"a", ' * n + "x", 24),
        (lambda n: "add " + '"a", ' * n + "x", 6_300),
        (lambda n: "rename " + "x: " * n, 640),
        (lambda n: "rename " + "x to " * n + "x", 390),
    ],
    ids=["stops", "stops-in-a-title", "spaces", "lines", "quotes", "many-quotes", "colons", "to"],
)
def test_the_time_for_a_message_grows_with_its_length_and_no_faster(message: Callable[[int], str], times: int) -> None:
    """Whatever is repeated in a message, it is read in linear time: the model thinks on the event loop of everybody."""
    titles = [f"thing {n}" for n in range(100)]
    short, long = (min(seconds(message(n), titles) for _ in range(2)) for n in (times // 2, times))
    assert long < max(3 * short, 0.15)
    assert long < 0.3


def test_no_word_of_the_grammar_is_slow_when_it_is_repeated() -> None:
    """Each word and sign that the patterns know, after each beginning of a wish, takes little time at any length."""
    patterns = " ".join([offline._POLITENESS, offline._NOISE, offline._OF_LIST, *(p for p, _ in offline._WISHES)])
    words = {*re.findall(r"[a-z][a-z' -]+", patterns), *'.,;&"-?!:1\n\u2022', '"a"', '"a",', "1.", "#1", "x:", "9,9"}
    begins = ["", 'add "a" ', "make a note ", "rename a to ", "mark x ", "delete ", "show ", "i need to "]
    for word in sorted(words):
        titles = [(f"{word} " * 100)[:190] + str(n) for n in range(100)]
        for unit in (word, f"{word} "):
            for begin in begins:
                for size in (offline.LONGEST - 2, 32_000) if begin in begins[:2] else (offline.LONGEST - 2,):
                    message = begin + unit * ((size - len(begin)) // len(unit)) + " x"
                    assert seconds(message, titles) < 0.5, message[:40]


def test_one_message_makes_so_many_tasks_and_the_answer_says_where_it_stopped(alice: Client) -> None:
    """Of more tasks than one message may make the first ones are added, and the answer names the next one."""
    most = offline.MOST
    turn = alice.say("add " + ", ".join(f"t{n}" for n in range(995)))
    assert [task["title"] for task in alice.tasks()] == [f"t{n}" for n in range(most)]
    assert len(turn.of("tool_call")) == most
    assert f'at most {most} tasks at once: from "t{most}" on nothing is done. Please say the rest again.' in turn.text
    exactly = offline.think("add " + "; ".join(f"t{n}" for n in range(most)))
    assert len(exactly) == most


def test_a_list_of_titles_may_be_long_and_another_wish_may_not() -> None:
    """Long lists are taken; any other message of more than some hundred characters is refused, in words."""
    titles = [f"{n} {'x' * 150}" for n in range(20)]
    assert done("Add the following tasks:\n" + "\n".join(f"- {title}" for title in titles)) == titles
    assert done(f"rename {'x' * 200} to {'y ' * 99}y", "x" * 200) == [("update", 1, "y " * 99 + "y")]
    for long in ("delete " + "x" * 600, "x" * 3000, "rename 1 to " + "x: " * 640):
        assert offline.think(long) == f"{offline.WHO} {offline.TOO_LONG} {offline.HELP}"
    assert offline.think("hello") == f"{offline.WHO} {offline.HELP}"


def test_one_message_changes_so_many_tasks_and_the_next_one_the_rest(alice: Client) -> None:
    """A group or a list of more tasks than that is begun, the answer says where it stopped, and it can be gone on."""
    most = offline.MOST
    ids = [alice.post("/api/tasks", json={"title": f"t{n}"}).json()["id"] for n in range(most + 3)]
    turn = alice.say("complete everything")
    assert f"from #{ids[most]} on nothing is done" in turn.text
    assert [task["completed"] for task in alice.tasks()] == [True] * most + [False] * 3
    assert "nothing is done" not in alice.say("complete everything", turn.thread).text
    assert all(task["completed"] for task in alice.tasks())
    turn = alice.say("delete " + ", ".join(map(str, ids)), turn.thread)
    assert f"from #{ids[most]} on nothing is done" in turn.text
    assert [task["id"] for task in alice.tasks()] == ids[most:]


def test_white_space_and_case_of_a_title_do_not_matter() -> None:
    """A title is found however many blanks it has, and only by whole words of it."""
    assert done("delete Buy  milk", "buy milk", "buy milkshake") == [("delete", 1)]
    assert done("delete buy milk", "buy   milk", "buy milk powder") == [("delete", 1)]
    assert done("delete c++", "learn c++", "learn c") == [("delete", 1)]
    assert done("delete milk", "milkshake", "spill milkshake, milk") == [("delete", 2)]
    assert done("delete il", "milk", "oil") == []
