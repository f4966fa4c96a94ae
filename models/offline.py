"""The offline model: a table of phrases (phrases.toml) in the place of a model, so that the demo needs no key.

It is a real `agents.Model`: it reads the conversation, calls the tools through the Runner like any other model, and
then says what their results were. Wrong is worse than not understood: it acts on what is certain, asks where it had to
guess and before it changes more than one task, and leaves alone what may be the title of a task ("finish the report").
What it has asked is in the conversation, where the next message finds it.

It shares the event loop with everybody, so each step must be linear in the message: white space is made single, and
what is more than linear (the table, the tasks against the names) gets LONGEST characters and MOST names at most.
"""

import asyncio
import functools
import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from agents import Model, ModelResponse, TResponseInputItem, Usage
from agents.items import TResponseOutputItem, TResponseStreamEvent
from openai.types import responses

from todochat.turns.tool_output import as_json

NAME = "offline"
WHAT_IT_IS = "the offline demo model: a small table of phrases, not an AI"
WHO = f"I am {WHAT_IT_IS}."
MOST = 25  # tasks that one message adds or changes
LONGEST = 500  # characters of a wish that is no list of new tasks: a renaming with two titles of 200, and some words
TOO_LONG = f'I read at most {LONGEST} characters; only a list of tasks after the word "add" may be longer.'

Task = dict[str, Any]
Call = tuple[str, dict[str, Any]]  # a tool's name and its arguments
Meant = tuple[list[Task], bool]  # tasks, and whether they are certainly those that are meant

# ---- what is understood ----


@functools.cache
def table(name: str) -> Any:
    """Return a part of phrases.toml."""
    return tomllib.loads(Path(__file__).with_name("phrases.toml").read_text("utf-8"))[name]


@functools.cache
def pattern(text: str) -> re.Pattern[str]:
    """Return a pattern of phrases.toml by its name, or one that holds such names in angle brackets."""
    names = table("patterns")
    text = names.get(text, text)
    while text != (text := re.sub("<([A-Z_]+)>", lambda name: names[name[1]], text)):
        pass
    return re.compile(text.replace(" ", r"\s"), re.I | re.S)


def understand(message: str) -> tuple[str, dict[str, str]]:
    """Return what is wanted and the words that say of what, or which text answers it."""
    said = _tidy(message)
    asks = said.endswith("?")
    said = pattern("POLITE").sub("", said.rstrip(" \n.!?"))
    for phrase, wish in table("wishes") if 0 < len(said) <= LONGEST else [("ADD", "add")]:
        if found := pattern(phrase).fullmatch(said):
            words = {name.rstrip("2"): text.strip() for name, text in found.groupdict().items() if text}
            return ("list", {}) if asks and wish.endswith("*") else (wish.rstrip("*"), words)
    return "unclear", {}


def _tidy(text: str) -> str:
    """Make all white space single: two ways to match a run of it, or two places to begin, are quadratic."""
    text = text.translate(str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\''))  # as telephones type them
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))


def titles_in(words: str) -> list[str]:
    """Return the titles of the tasks that are to be added."""
    words = pattern(", (?=due )").sub(" ", pattern("NOISE").sub("", pattern("OF_LIST").sub("", words)))
    if pattern("QUOTED").fullmatch(words):
        return re.findall(r'"([^"]+)"', words)
    parts = pattern("BULLETS").split(words)
    halves = [part.split(" and ") if pattern("TWO_WORDS").fullmatch(part) else [part] for part in parts]
    return [title for half in halves for part in half if pattern("TITLE").match(title := part.strip(" .\"'"))]


def with_day(title: str, today: date) -> dict[str, Any]:
    """Return a title as the arguments of a new task: without the day at its end, which is its due date."""
    found = pattern("LAST_DAY").search(title)
    due = day_in(found["day"], today) if found else None
    return {"title": title[: found.start()], "due": due} if found and due else {"title": title}


def day_in(words: str, today: date) -> str | None:
    """Return the day that some words mean, the next one of that name; None if they mean none."""
    known, weekdays, name = table("words")["days"], table("words")["weekdays"], words.lower().removeprefix("this ")
    if name in known:
        return (today + timedelta(known[name])).isoformat()
    if name in weekdays:
        return (today + timedelta((weekdays.index(name) - today.weekday() - 1) % 7 + 1)).isoformat()
    if found := re.fullmatch(r"in\s(an?|\d+)\s(day|week)s?", name):
        return (today + timedelta(**{f"{found[2]}s": int(re.sub("an?", "1", found[1]))})).isoformat()
    with suppress(ValueError):  # such as the 30th of February
        return date.fromisoformat(words).isoformat()
    return None


def status_in(words: str) -> str:
    """Return which tasks a question is about: "all", "pending" or "completed"."""
    if pattern("PENDING").search(words):
        return "pending"
    return "completed" if pattern(r"\b<DONE>\b").search(words) else "all"


def tasks_meant(words: str, tasks: list[Task], known: Collection[int] = (), all_here: bool = True) -> Meant:
    """Return the tasks that some words mean, and whether that is certain: it is not, where words are a part of a title.

    A number is an id; or else a place among the open tasks, unless it can have been an id: one of those that the
    conversation has shown (`known`), or one that is not below those of the tasks. If the tasks are not `all_here`, a
    number is an id whatever it is, and nothing is known of places and groups.
    """
    in_order = [task for task in tasks if not task["completed"]] or tasks
    if group := pattern("GROUP").fullmatch(words):
        wanted = {"pending": [False], "completed": [True]}.get(status_in(group["status"] or ""), [False, True])
        return [task for task in tasks if all_here and task["completed"] in wanted], True
    name = pattern("BEFORE_NAME").sub("", pattern("OF_LIST").sub("", words))
    name = pattern("AFTER_NAME").sub("", name).strip("\"' ").lower()
    if number := re.fullmatch(r"(#?)(\d{1,18})", name):
        n = int(number[2])
        may_be_place = n > 0 and not number[1] and n not in known and all(n < task["id"] for task in tasks)
        found = [task for task in tasks if task["id"] == n] or (in_order[n - 1 : n] if may_be_place else [])
        return (found if all_here else [{"id": n}]), True
    if place := pattern("PLACE").fullmatch(name):
        ordinals = table("words")["ordinals"]
        n = int(place["nth"]) if place["nth"] else len(in_order) if name == "last" else ordinals.index(name) + 1
        return (in_order[max(n - 1, 0) : n] if all_here else []), True
    row, said = _words(name)
    if pattern("TASKS").fullmatch(name) or not row.strip("\0"):  # the whole list, perhaps: too much to guess
        return [], False
    titles = [(task, *_words(task["title"])) for task in tasks]
    if same := [task for task, title, words_in_it in titles if row == title or (said and said == words_in_it)]:
        return same, True
    parts = [task for task, title, _ in titles if said and row in title]
    return parts or [task for task, _, words_in_it in titles if said and said <= words_in_it], False


@functools.lru_cache(maxsize=200)  # a list of tasks is looked through for each name in a message
def _words(text: str) -> tuple[str, frozenset[str]]:
    """Return a text with its words marked, so that what is found in it are whole words, and the set of its words."""
    words = re.split(r"(\w+)", _tidy(text).lower())
    return "\0".join(words), frozenset(words[1::2]).difference(table("words")["empty"])


# ---- what is done about it ----


def think(input: str | list[TResponseInputItem], instructions: str | None = None) -> str | list[Call]:
    """Return what to say, or which tools to call, from the conversation so far."""
    items: list[Any] = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
    asked = max(n for n, item in enumerate(items) if item.get("role") == "user")
    message, before, outputs = str(items[asked]["content"]), items[:asked], _outputs(items[asked + 1 :])
    named = re.search(r"\d{4}-\d\d-\d\d", instructions or "")  # the user's date, which every model is told
    today = date.fromisoformat(named[0]) if named else datetime.now(UTC).date()
    wish, words = understand(message)
    answer: str | list[Call] = []
    if settled := _settle(message, before):
        wish, answer = settled
    elif wish == "add":
        day = {"due": day_in(words["day"], today)} if "day" in words else {}
        answer = [("add_task", day | with_day(title, today)) for title in titles_in(words["titles"])[: MOST + 1]]
    elif wish in table("texts") or wish == "who":
        answer = table("texts").get(wish, WHO) if len(message) <= LONGEST else TOO_LONG
    elif not outputs:
        answer = [("list_tasks", {"status": status_in(" ".join(words.values())) if wish == "list" else "all"})]
    elif wish == "list":
        answer = _due(words, outputs[0], today) if "due" in words else _listing(outputs[0])
    else:
        answer = _choose(wish, words, outputs.pop(0), before, today)
    if outputs and isinstance(answer, list):
        reports = [_report(wish, output) for output in outputs]
        reports += [table("texts")["reminded"]] * (wish == "add" and "remind" in message.lower())
        answer = " ".join(reports + [table("texts")["left"].format(MOST, new["title"]) for _, new in answer[MOST:]])
    answer = answer[:MOST] if isinstance(answer, list) and answer else answer or str(table("texts")["unclear"])
    is_first = not any(item.get("role") == "assistant" for item in items)
    return f"{WHO} {answer}" if isinstance(answer, str) and is_first and answer != WHO else answer


def _settle(message: str, before: list[Any]) -> tuple[str, str | list[Call]] | None:
    """Return what was wished, and what to do about it now, if this is the answer to a question of ours."""
    text = str(before[-1].get("content")) if before and before[-1].get("role") == "assistant" else ""
    said = _tidy(message).rstrip(".!")
    if (asked := pattern("QUESTION").search(text)) is None or len(message) > LONGEST:
        return None
    wish = next(wish for wish, (phrase, _) in table("done").items() if phrase.startswith(asked["verb"]))
    tasks = [{"id": int(n), "title": title, "completed": False} for n, title in pattern("LISTED").findall(text)]
    value = asked["to"] or asked["on"] or ""
    if pattern("NO").fullmatch(said):
        return wish, "All right, nothing is changed."
    if asked[1] == "Shall I":
        chosen = tasks if pattern("YES").fullmatch(said) else []
    elif len(chosen := tasks_meant(said, tasks)[0]) > 1:
        return wish, _ask(wish, value, chosen, which=wish == "rename" or not pattern("GROUP").fullmatch(said))
    return (wish, [_call_for(wish, task["id"], value) for task in chosen]) if chosen else None


def _choose(wish: str, words: dict[str, str], listed: Any, before: list[Any], today: date) -> str | list[Call]:
    """Return the calls for the tasks that are meant, or a question."""
    tasks, which, value = listed.get("tasks", []), words["which"], day_in(words.get("day", ""), today) or ""
    known = {int(n) for n in re.findall(r"'(?:task_)?id': (\d+)", str(_outputs(before)))}
    all_here = listed.get("total", 0) <= len(tasks)
    meant = functools.partial(tasks_meant, tasks=tasks, known=known, all_here=all_here)
    if wish == "due" and not value:
        return str(table("texts")["unclear"])
    if wish == "rename":
        which, value = _split(which, tasks, lambda name: len(meant(name)[0]) == 1)
    if verb := words.get("past", "").lower():
        # called, closed, planned, tidied
        verbs = [table("words")["past"].get(verb, verb[:-2]), verb[:-1], verb[:-3], f"{verb[:-3]}y"]
        names = [f"{verb} {which}" for verb in verbs] + [which] * bool(pattern("<DONE>|did").fullmatch(verb))
        which = max(names, key=lambda name: (bool(meant(name)[0]), meant(name)[1]))
    last, certain = _last(before) if pattern("IT").fullmatch(which) else (), True
    found = {task["id"]: task for task in tasks if task["id"] in last}
    for part in [] if found else [which] if wish == "rename" or meant(which)[0] else pattern("ANY_AND").split(which):
        some, sure = meant(part)
        is_group = bool(pattern("GROUP").fullmatch(part))
        if is_group and wish in ("complete", "reopen"):  # said again, "everything" is what was left of it
            some = [task for task in some if task["completed"] != (wish == "complete")]
        if not some:
            return f"I find no task for: {part}. {_listing(listed)}"
        if len(some) > 1 and (wish == "rename" or not is_group):
            return _ask(wish, value, some, which=True)
        found, certain = found | {task["id"]: task for task in some}, certain and sure
    if certain and len(found) == 1:
        return [_call_for(wish, task_id, value) for task_id in found]
    return _ask(wish, value, list(found.values()))


def _split(words: str, tasks: list[Task], is_one: Callable[[str], bool]) -> tuple[str, str]:
    """Split what is said of a renaming into the task and its new title; a "to" may be a part of both."""
    if quoted := pattern("QUOTED_NAMES").fullmatch(words):
        return quoted[1], quoted[2]
    places = [place.span() for place in pattern("TO").finditer(words)]
    splits = [(words[:start], " ".join(words[end:].strip("\"' ").split())) for start, end in places]
    titles = {task["title"].lower() for task in tasks}
    splits.sort(key=lambda split: split[0].lower() not in titles)
    return next((split for split in splits[:MOST] if is_one(split[0])), splits[0])


def _call_for(wish: str, task_id: int, value: str) -> Call:
    if wish == "delete":
        return "delete_task", {"task_id": task_id}
    if wish in ("rename", "due"):
        return "update_task", {"task_id": task_id, "title" if wish == "rename" else "due": value}
    return "complete_task", {"task_id": task_id, "completed": wish == "complete"}


def _ask(wish: str, value: str, tasks: list[Task], *, which: bool = False) -> str:
    phrase = table("done")[wish][0].format("it" if which or len(tasks) == 1 else "them", value)
    question = f"Which one? I will {phrase}: say its number." if which else f"Shall I {phrase}? Say yes or no."
    return f"{question}\n\n{_listing({'tasks': tasks[:MOST], 'total': len(tasks)})}"


def _outputs(items: list[Any]) -> list[dict[str, Any]]:
    outputs = [as_json(item.get("output")) for item in items if item.get("type") == "function_call_output"]
    return [output if isinstance(output, dict) else {} for output in outputs]


def _last(items: list[Any]) -> set[int]:
    """Return the ids of the tasks that the last answer was about: those it has changed, or the one that it listed."""
    begin = max((n for n, item in enumerate(items) if item.get("role") == "user"), default=0)
    outputs = _outputs(items[begin:])
    listed = {task["id"] for output in outputs for task in output.get("tasks", [])}
    return {output["task_id"] for output in outputs if "task_id" in output} or (listed if len(listed) == 1 else set())


def _due(words: dict[str, str], listed: dict[str, Any], today: date) -> str:
    """Return what is due: on a day (and before, if that is today), in a week, or at all."""
    first, last = "", str(today - timedelta(1)) if words["due"].lower() == "overdue" else "9"
    if "day" in words:
        day = day_in(words["day"], today)
        first, last = "" if day in (None, str(today)) else str(day), day or str(today + timedelta(6))
    tasks = [task for task in listed.get("tasks", []) if first <= (task.get("due") or "") <= last]
    tasks = [task for task in tasks if task.get("due") and not task["completed"]]
    return _listing({"tasks": sorted(tasks, key=lambda task: str(task["due"]))})


def _listing(output: dict[str, Any]) -> str:
    tasks = output.get("tasks", [])
    if not tasks:
        return "There are no tasks like that." if "total" not in output else "There are no tasks."
    total = output.get("total", len(tasks))
    count = f"{total} task{'s' if total > 1 else ''}" + (f", {len(tasks)} of them here" if total > len(tasks) else "")
    notes = [(f" (due {t['due']})" if t.get("due") else "") + (" (done)" if t.get("completed") else "") for t in tasks]
    titles = [" ".join(str(task.get("title", "")).split()) for task in tasks]
    lines = [f"- #{task['id']} {title}{note}" for task, title, note in zip(tasks, titles, notes, strict=True)]
    return "\n".join([f"{count}:\n", *lines])


def _report(wish: str, output: dict[str, Any]) -> str:
    if not output.get("success"):
        return f"That did not work: {output.get('error', 'the tool gave no reason.')}"
    due = f", due {output['due']}" if output.get("due") else ""
    return f"{table('done')[wish][1]}: {output['title']} (#{output['task_id']}){due}."


# ---- as a model ----


class OfflineModel(Model):
    """The table as a model of the Agents SDK. `pace` is the time between two words, in seconds."""

    def __init__(self, pace: float = 0.03) -> None:
        self._pace = pace

    async def get_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], *args: Any, **options: Any
    ) -> ModelResponse:
        """Return the whole answer at once."""
        output = _output(think(input, system_instructions))
        return ModelResponse(output=output, usage=Usage(requests=1), response_id=None)

    async def stream_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], *args: Any, **options: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Yield the answer word by word."""
        thought = think(input, system_instructions)
        for n, word in enumerate(re.findall(r"\S+\s*", thought) if isinstance(thought, str) else []):
            await asyncio.sleep(self._pace)
            yield responses.ResponseTextDeltaEvent(
                type="response.output_text.delta", item_id="text", output_index=0, content_index=0,
                delta=word, logprobs=[], sequence_number=n,
            )  # fmt: skip
        response = responses.Response(
            id="offline", object="response", created_at=0, model=NAME, output=_output(thought),
            tools=[], tool_choice="auto", parallel_tool_calls=True,
        )  # fmt: skip
        yield responses.ResponseCompletedEvent(type="response.completed", response=response, sequence_number=10**6)


def _output(thought: str | list[Call]) -> list[TResponseOutputItem]:
    if isinstance(thought, str):
        text = responses.ResponseOutputText(type="output_text", text=thought, annotations=[])
        return [responses.ResponseOutputMessage(
            id="text", type="message", role="assistant", status="completed", content=[text]
        )]  # fmt: skip
    # An id stands for one call in the whole run, and a run lists the tasks before it changes one.
    call = functools.partial(responses.ResponseFunctionToolCall, type="function_call")
    return [call(call_id=f"{name}_{n}", name=name, arguments=json.dumps(a)) for n, (name, a) in enumerate(thought)]
