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
        ("don't forget to water the plants", "add", ["water the plants"]),
        ("buy milk and eggs", "add", ["buy milk and eggs"]),
        ("get rid of the sofa", "delete", "the sofa"),
        ("thanks!", "thanks", None),
        ("who are you?", "who", None),
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
        ("what is the meaning of life", "unclear", None),
        ("hello", "hello", None),
        ("", "unclear", None),
        ("x" * 3000, "unclear", None),
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
    elif words is not None:
        assert found["which"] == words


TEXTS = offline.table("texts")
TASKS = [
    {"id": 4, "title": "Buy milk", "completed": True},
    {"id": 7, "title": "Call Ann", "completed": False},
    {"id": 9, "title": "Water the plants", "completed": False},
]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("Call Ann", [7]),
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
    tasks, certain = offline.tasks_meant(words, TASKS)
    assert [task["id"] for task in tasks] == ids
    if ids:
        assert certain == (words != "plants")


def test_the_offline_model_says_what_it_is_in_its_first_answer_and_only_there(alice: Client) -> None:
    """The first answer says that this is no AI, in a sentence; the next ones come to the point."""
    first = alice.say("tell me a joke")
    assert first.text == f"{offline.WHO} {TEXTS['unclear']}"
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
    assert "Shall I delete them?" in alice.say("delete read a book and burn a book", thread).text
    assert alice.say("yes", thread).text == "Deleted: read a book (#{}). Deleted: burn a book (#{}).".format(
        *(call["args"]["task_id"] for call in alice.messages(thread)[-1]["tool_calls"])
    )
    alice.say("mark call ann as not done", thread)
    assert [(t["title"], t["completed"]) for t in alice.tasks()][:2] == [("buy oat milk", False), ("call Ann", False)]


TODAY = "For the user it is Wednesday, 2026-11-25."


def think(message: str, *titles: str, total: int | None = None, before: tuple[Any, ...] = ()) -> Any:
    """Return the calls that a message leads to, or the answer, on a list with these titles, numbered from 1.

    "*" marks a task as done, and what follows on "@" is its due date. `before` are items of the conversation.
    """
    tasks: list[Any] = []
    for n, text in enumerate(titles, 1):
        title, _, due = text.strip("*").partition("@")
        tasks.append({"id": n, "title": title, "completed": text.endswith("*"), "due": due or None})
    items: list[Any] = [{"role": "user", "content": "hi"}, *(before or SAID), {"role": "user", "content": message}]
    thought = offline.think(items, TODAY)
    if isinstance(thought, str) or thought[0][0] != "list_tasks":
        return thought
    status = thought[0][1]["status"]
    shown = [task for task in tasks if status == "all" or task["completed"] == (status == "completed")]
    output = json.dumps({"success": True, "total": total or len(shown), "tasks": shown})
    return offline.think([*items, {"type": "function_call_output", "call_id": "1", "output": output}], TODAY)


SAID = ({"role": "assistant", "content": "Hello."},)


def done(message: str, *titles: str, total: int | None = None) -> Any:
    """Return the calls that a message makes in short, new titles or the status that is asked for; none is []."""
    if offline.understand(message)[0] == "list":
        return offline.status_in(offline.understand(message)[1].get("status", ""))
    thought = think(message, *titles, total=total)
    if isinstance(thought, str):
        return []
    if thought[0][0] == "add_task":
        return [arguments["title"] for _, arguments in thought]
    return [(name.split("_")[0], *arguments.values()) for name, arguments in thought]


def asked(message: str, *titles: str) -> tuple[str, list[int]]:
    """Return the question that a message leads to, and the tasks that it is about."""
    question = think(message, *titles)
    assert isinstance(question, str), question
    return question.partition("\n")[0], [int(n) for n in re.findall(r"^- #(\d+) ", question, re.M)]


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
        ("milk done?", ["milk"], []),
        ("everything done?", ["a", "b"], "completed"),
        ("delete milk", ["buy milk", "spill milk"], []),
        # One task, or those that are named.
        ("complete the report task", ["report"], [("complete", 1, True)]),
        ("complete the 2nd task", ["a", "b"], [("complete", 2, True)]),
        ("I'm done with task 2", ["a", "b"], [("complete", 2, True)]),
        ("2 done", ["a", "b"], [("complete", 2, True)]),
        ("set task 1 to done", ["a", "b"], [("complete", 1, True)]),
        ("mark 1 as not done", ["a*"], [("complete", 1, False)]),
        ("remove buy milk from my list", ["buy milk"], [("delete", 1)]),
        ("clear completed", ["a*", "b"], [("delete", 1)]),
        ('rename "talk to Bob" to "talk to Ann"', ["talk to Bob"], [("update", 1, "talk to Ann")]),
        ("rename talk to Bob to talk to Ann", ["talk to Bob"], [("update", 1, "talk to Ann")]),
        ("change the title of 2 to buy oat milk", ["a", "b"], [("update", 2, "buy oat milk")]),
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
    assert long < 1


def test_no_word_of_the_grammar_is_slow_when_it_is_repeated() -> None:
    """Each word and sign that the patterns know, after each beginning of a wish, takes little time at any length."""
    patterns = " ".join([*offline.table("patterns").values(), *(phrase for phrase, _ in offline.table("wishes"))])
    words = {*re.findall(r"[a-z][a-z' -]+", patterns), *'.,;&"-?!:1\n\u2022', '"a"', '"a",', "1.", "#1", "x:", "9,9"}
    begins = ["", 'add "a" ', "make a note ", "rename a to ", "mark x ", "delete ", "show ", "i need to "]
    for word in sorted(words):
        titles = [(f"{word} " * 100)[:190] + str(n) for n in range(100)]
        for unit in (word, f"{word} "):
            for begin in begins:
                for size in (offline.LONGEST - 2, 32_000) if begin in begins[:2] else (offline.LONGEST - 2,):
                    message = begin + unit * ((size - len(begin)) // len(unit)) + " x"
                    assert seconds(message, titles) < 2, message[:40]


SEARCHED = ("POLITE", "NOISE", "OF_LIST", "BULLETS", "ANY_AND", "LAST_DAY", "PENDING", "AFTER_NAME", "TO", "LISTED")


@pytest.mark.parametrize("phrase", [*SEARCHED, "QUESTION", "QUOTED", "GROUP", *(p for p, _ in offline.table("wishes"))])
def test_no_pattern_is_more_than_linear(phrase: str) -> None:
    """Four times the longest wish, of any word that the table knows, fits a pattern or not in a few milliseconds."""
    every = " ".join([*offline.table("patterns").values(), *(text for text, _ in offline.table("wishes"))])
    look = offline.pattern(phrase).search if phrase in SEARCHED else offline.pattern(phrase).fullmatch
    before = signal.signal(signal.SIGVTALRM, out_of_time)
    try:
        for word in sorted({*re.findall(r"[a-z][a-z'-]*", every), '"a"', "a,", "a;", "1", "#1", "a:", "a\n"}):
            text = f"{word} " * (4 * offline.LONGEST // (len(word) + 1))
            signal.setitimer(signal.ITIMER_VIRTUAL, 4)
            begin = time.process_time()
            for begun in (text, f"delete {text}", f"mark {text}!"):
                look(begun)
            assert time.process_time() - begin < 0.5, word
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


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
        assert offline.think(long) == f"{offline.WHO} {offline.TOO_LONG}"
    assert offline.think("help") == f"{offline.WHO} {TEXTS['help']}"


def test_one_message_changes_so_many_tasks_and_the_next_one_the_rest(alice: Client) -> None:
    """A group of more tasks than that is asked about, says how many it is, is done in part, and can be gone on with."""
    most = offline.MOST
    for n in range(most + 3):
        alice.post("/api/tasks", json={"title": f"t{n}"})
    turn = alice.say("complete everything")
    assert f"{most + 3} tasks, {most} of them here" in turn.text
    assert not any(task["completed"] for task in alice.tasks())
    alice.say("yes", turn.thread)
    assert [task["completed"] for task in alice.tasks()] == [True] * most + [False] * 3
    assert "3 tasks:" in alice.say("complete everything", turn.thread).text
    alice.say("Yes please!", turn.thread)
    assert all(task["completed"] for task in alice.tasks())


def test_white_space_and_case_of_a_title_do_not_matter() -> None:
    """A title is found however many blanks it has, and only by whole words of it."""
    assert done("delete Buy  milk", "buy milk", "buy milkshake") == [("delete", 1)]
    assert done("delete buy milk", "buy   milk", "buy milk powder") == [("delete", 1)]
    assert asked("delete c++", "learn c++", "learn c")[1] == [1]
    assert asked("delete milk", "milkshake", "spill milkshake, milk")[1] == [2]
    assert done("delete il", "milk", "oil") == []


# ---- what it asks, and what it makes of the answers ----


@pytest.mark.parametrize(
    ("message", "titles", "question", "ids"),
    [
        # More than one task.
        ("delete 1 and 3", ["a", "b", "c"], "Shall I delete them?", [1, 3]),
        ("delete \n milk\n eggs", ["milk", "bread", "eggs"], "Shall I delete them?", [1, 3]),
        ("delete completed tasks", ["a*", "b", "c*"], "Shall I delete them?", [1, 3]),
        ("clear all my tasks", ["a", "b"], "Shall I delete them?", [1, 2]),
        ("change all tasks to done", ["a", "b", "c*"], "Shall I mark them as done?", [1, 2]),
        ("reopen 1, 2", ["a*", "b*"], "Shall I open them again?", [1, 2]),
        # A guess.
        ("delete milk", ["buy milk", "eggs"], "Shall I delete it?", [1]),
        ("get rid of the sofa", ["paint old sofa"], "Shall I delete it?", [1]),
        ("complete the report", ["write report"], "Shall I mark it as done?", [1]),
        ("I bought milk", ["buy milk and eggs"], "Shall I mark it as done?", [1]),
        ("rename milk to eggs", ["buy milk"], 'Shall I rename it to "eggs"?', [1]),
        ("milk is due tomorrow", ["buy milk"], "Shall I make it due on 2026-11-26?", [1]),
        # More than one guess, or one title twice.
        ("delete milk", ["buy milk", "spill milk"], "Which one? I will delete it:", [1, 2]),
        ("delete milk", ["milk", "milk"], "Which one? I will delete it:", [1, 2]),
        ("rename milk to eggs", ["buy milk", "spill milk"], 'Which one? I will rename it to "eggs":', [1, 2]),
        ("make milk due friday", ["buy milk", "spill milk"], "Which one? I will make it due on 2026-11-27:", [1, 2]),
        ("rename everything to x", ["a", "b"], 'Which one? I will rename it to "x":', [1, 2]),
    ],
)
def test_it_asks_before_it_guesses_or_changes_more_than_one(
    message: str, titles: list[str], question: str, ids: list[int]
) -> None:
    """A guess, and more than one task, are asked about; yes does it, to the tasks of the question, and no does not."""
    said, about = asked(message, *titles)
    assert (said.startswith(question), about) == (True, ids), said
    before = ({"role": "user", "content": message}, {"role": "assistant", "content": think(message, *titles)})
    for no in ("no", "No!", "cancel", "never mind"):
        assert think(no, before=before) == "All right, nothing is changed."
    if said.startswith("Shall I"):
        for yes in ("yes", "Yes.", "ok", "yes, please"):
            assert [arguments["task_id"] for _, arguments in think(yes, before=before)] == ids
        for other in ("1", "maybe", "yes but not the first one", "what?"):
            assert think(other, before=before) == TEXTS["unclear"]
    else:
        for n in ids:
            assert [arguments["task_id"] for _, arguments in think(str(n), before=before)] == [n]
        assert [arguments["task_id"] for _, arguments in think("the first one", before=before)] == ids[:1]
        assert [arguments["task_id"] for _, arguments in think("the last", before=before)] == ids[-1:]
    assert think("add bread", before=before) == [("add_task", {"title": "bread"})]


def test_the_answer_to_which_one_may_be_a_number_a_place_or_a_title() -> None:
    """ "Which one?" - "1", "the first one", "buy milk": and then that one is changed, as was asked for."""
    listed = (
        "Which one? I will {}: say its number.\n\n2 tasks:\n\n- #7 buy milk (due 2026-12-01)\n- #9 spill milk (done)"
    )
    for wish, call in (
        ("delete it", ("delete_task", {"task_id": 7})),
        ("mark it as done", ("complete_task", {"task_id": 7, "completed": True})),
        ("open it again", ("complete_task", {"task_id": 7, "completed": False})),
        ('rename it to "x "y" z"', ("update_task", {"task_id": 7, "title": 'x "y" z'})),
        ("make it due on 2026-12-24", ("update_task", {"task_id": 7, "due": "2026-12-24"})),
    ):
        before = ({"role": "assistant", "content": f"{offline.WHO} {listed.format(wish)}"},)
        for answer in ("1", "7", "#7", "the first one", "first", "buy milk", "Buy milk.", '"buy milk"', "the buy one"):
            assert think(answer, before=before) == [call], answer
    for answer in ("3", "8", "0", "call Ann", "that", "hm"):
        assert think(answer, before=before) == TEXTS["unclear"], answer
    assert "Which one?" in think("milk", before=before)
    assert think("hello", before=before) == TEXTS["hello"]
    asked_earlier = (*before, {"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello."})
    assert think("1", before=asked_earlier) == TEXTS["unclear"]


def test_a_title_is_no_question_of_its_own() -> None:
    """A task that is called like a question is not taken for one by the next yes."""
    title = "Shall I delete it? Say yes or no."
    listed = think("show my tasks", "a", title)
    assert title in listed
    for text in (listed, f"Added: {title} (#2)."):
        assert think("yes", before=({"role": "assistant", "content": text},)) == TEXTS["unclear"]


def test_it_is_what_the_last_answer_was_about(alice: Client) -> None:
    """ "delete it" deletes what was just added, changed or listed; where that is more than one task, it asks."""
    thread = alice.say("add buy milk").thread
    alice.say("delete it", thread)
    assert alice.tasks() == []
    assert "no task for: it" in alice.say("delete it", thread).text
    alice.say("add a, b", thread)
    assert "Shall I mark them as done?" in alice.say("mark them as done", thread).text
    alice.say("yes", thread)
    assert [task["completed"] for task in alice.tasks()] == [True, True]
    alice.say("hello", thread)
    assert "no task for: that" in alice.say("delete that", thread).text
    assert len(alice.tasks()) == 2


# ---- what it leaves alone ----

TITLES = ["buy milk", "finish the report", "ask about delete", "the oven", "the report", "a", "website", "book", "list"]


@pytest.mark.parametrize(
    "message",
    [
        "finish the report",
        "call mum and ask about delete",
        "check the oven",
        "clear the table",
        "clear the list",
        "close the window",
        "update the website",
        "edit the report",
        "change the report",
        "read a book",
        "list the pros and cons of the report",
        "show Ann the list of the oven",
        "drop off the report",
        "forget the report",
        "forget it",
        "set the table",
        "move the report",
        "mark the report",
        "cancel the gym",
        "don't delete buy milk",
        "never complete the report",
        "should I delete buy milk?",
        "why is buy milk not done",
        "is buy milk done?",
        "buy milk?",
        "buy milk is done?",
        "make the report",
        "create a website",
        "put the book back",
        "note the oven",
        "task force",
        "get the report done",
        "I need you",
        "I have to go",
        "I must say you are great",
        "I feed the cat",
        "a is not done",
        "undo",
        "done",
        "all",
        "1",
        "yes",
        "no",
        "delete",
        "delete the",
        "delete the list",
        "add",
        "tell me about the report",
        "what is a book?",
        "and",
        ", and ;",
    ],
)
def test_what_may_be_a_title_or_is_not_clear_changes_nothing(message: str) -> None:
    """Wrong is worse than not understood: these make no call that changes anything."""
    thought = think(message, *TITLES)
    assert isinstance(thought, str), thought
    assert not thought.startswith(("Shall I", "Which one"))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("complete finish the report", ("complete", 2, True)),
        ("finish the report is done", ("complete", 2, True)),
        ("I finished the report", ("complete", 2, True)),
        ("I have just bought the milk", ("complete", 1, True)),
        ("I've planned a trip", ("complete", 3, True)),
        ("I tidied up", ("complete", 4, True)),
        ("I called Ann and Bob!", ("complete", 5, True)),
        ("delete delete the old files", ("delete", 6)),
        ("rename delete the old files to keep the old files", ("update", 6, "keep the old files")),
        ("get rid of finish the report", ("delete", 2)),
        ("take buy milk off my list", ("delete", 1)),
        ("task 2 is done", ("complete", 2, True)),
        ("delete call Ann and Bob", ("delete", 5)),
    ],
)
def test_titles_that_look_like_commands_are_titles_where_a_command_stands_before_them(message: str, call: Any) -> None:
    """A task is changed by its whole title, whatever that looks like."""
    titles = ["buy milk", "finish the report", "plan a trip", "tidy up", "call Ann and Bob", "delete the old files"]
    assert done(message, *titles) == [call]


@pytest.mark.parametrize(
    ("message", "titles"),
    [
        ("add delete the old files", ["delete the old files"]),
        ("add complete the form", ["complete the form"]),
        ("add call mum and ask about delete", ["call mum", "ask about delete"]),
        ("add show Ann my list", ["show Ann my list"]),
        ("remind me to check if 2 is done", ["check if 2 is done"]),
        ("add call Ann and Bob", ["call Ann and Bob"]),
        ("add visit Marks and Spencer", ["visit Marks and Spencer"]),
        ("add read War and Peace", ["read War and Peace"]),
        ("add Bread and Butter", ["Bread and Butter"]),
        ("add milk and bread", ["milk", "bread"]),
        ("buy milk and eggs", ["buy milk and eggs"]),
        (
            "add buy milk and eggs, call Ann; feed the cat\npay rent",
            ["buy milk and eggs", "call Ann", "feed the cat", "pay rent"],
        ),
        ("add buy milk and call Ann", ["buy milk", "call Ann"]),
        ("add pay AT&T", ["pay AT&T"]),
        ("add buy milk then call Ann", ["buy milk then call Ann"]),
        ("don't forget to water the plants", ["water the plants"]),
        ("put eggs on my list", ["eggs"]),
    ],
)
def test_titles_are_split_only_where_another_task_begins(message: str, titles: list[str]) -> None:
    """At commas, semicolons and new lines, and at "and" between things that are no names."""
    assert done(message) == titles


# ---- days ----


@pytest.mark.parametrize(
    ("message", "title", "due"),
    [
        ("add buy milk tomorrow", "buy milk", "2026-11-26"),
        ("add buy milk, due tomorrow", "buy milk", "2026-11-26"),
        ("add buy milk due today", "buy milk", "2026-11-25"),
        ("add call Ann tonight", "call Ann", "2026-11-25"),
        ("add call Ann on Friday", "call Ann", "2026-11-27"),
        ("add call Ann by monday", "call Ann", "2026-11-30"),
        ("add call Ann this Thursday", "call Ann", "2026-11-26"),
        ("add call Ann on wednesday", "call Ann", "2026-12-02"),
        ("add call Ann in 3 days", "call Ann", "2026-11-28"),
        ("add call Ann in a week", "call Ann", "2026-12-02"),
        ("add call Ann the day after tomorrow", "call Ann", "2026-11-27"),
        ("add call Ann on 2026-12-24", "call Ann", "2026-12-24"),
        ("remind me tomorrow to call Ann", "call Ann", "2026-11-26"),
        ("remind me to call Ann tomorrow", "call Ann", "2026-11-26"),
        # No days, as far as can be said.
        ("add call Ann on 2026-02-30", "call Ann on 2026-02-30", None),
        ("add call Ann next friday", "call Ann next friday", None),
        ("add watch Black Friday", "watch Black Friday", None),
        ("add plan for tomorrow", "plan for tomorrow", None),
        ("add read about tomorrow", "read about tomorrow", None),
        ("add tomorrow", "tomorrow", None),
    ],
)
def test_a_new_task_is_due_when_its_title_says_so(message: str, title: str, due: str | None) -> None:
    """A day at the end of a new task is its due date, and no part of its title."""
    assert think(message) == [("add_task", {"title": title} | ({"due": due} if due else {}))]


DUE = ["old@2026-11-20", "now@2026-11-25", "next@2026-11-26", "later@2026-12-24", "none", "did@2026-11-25*"]


@pytest.mark.parametrize(
    ("message", "titles"),
    [
        ("what's due today?", ["old", "now"]),
        ("What is due?", ["old", "now", "next", "later"]),
        ("due tomorrow", ["next"]),
        ("what is due on Thursday?", ["next"]),
        ("show me what is overdue", ["old"]),
        ("anything due this week?", ["old", "now", "next"]),
        ("tasks due 2026-12-24", ["later"]),
    ],
)
def test_what_is_due_is_listed_by_its_day(message: str, titles: list[str]) -> None:
    """Of the open tasks those that are due then, the first one first; what is overdue is due today, too."""
    listed = think(message, *reversed(DUE))
    assert re.findall(r"^- #\d+ (\w+) \(due ", listed, re.M) == titles


def test_nobody_is_reminded_and_the_answer_says_so(alice: Client) -> None:
    """Who wants to be reminded is told that this cannot be, and has the task with its day."""
    turn = alice.say("remind me tomorrow to call Ann")
    [task] = alice.tasks()
    assert task["due"] is not None
    assert f"Added: call Ann (#{task['id']}), due {task['due']}. {TEXTS['reminded']}" in turn.text
    assert "cannot remind" in alice.say("remind me tomorrow", turn.thread).text
    assert len(alice.tasks()) == 1
    alice.say("make it due in a week", turn.thread)
    alice.say(f"{task['id']} is due in a week", turn.thread)
    assert alice.tasks()[0]["due"] > task["due"]
