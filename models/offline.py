"""The offline model: a small table of phrases in the place of a model, so that the demo needs no key and no network.

It is a real `agents.Model`: it reads the conversation, calls the tools through the Runner like any other model, and
then says what their results were. It recognises the ordinary ways of asking for the five tools in English, and answers
anything else with what it can do. Where it is not sure which task is meant, it asks and changes nothing.

It shares the event loop with everybody, so each step must be linear in the message: patterns see single white space
only, and have one way to match a text; what is more than linear (the table, the tasks against the names) gets LONGEST
characters and MOST names at most.
"""

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from agents import Handoff, Model, ModelResponse, ModelSettings, ModelTracing, Tool, TResponseInputItem, Usage
from agents.agent_output import AgentOutputSchemaBase
from agents.items import TResponseOutputItem, TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_prompt_param import ResponsePromptParam

NAME = "offline"
WHAT_IT_IS = "the offline demo model: a small table of phrases, not an AI"
WHO = f"I am {WHAT_IT_IS}."
HELP = (
    'I can add tasks ("add buy milk, call Ann"), list them ("show my open tasks"), complete them ("complete 2" or '
    '"buy milk is done"), rename them ("rename 2 to buy oat milk") and delete them ("delete buy milk"). '
    "For a conversation, set OPENAI_API_KEY, GEMINI_API_KEY or OPENAI_BASE_URL and start me again."
)

MOST = 25  # tasks that one message adds or changes
LONGEST = 500  # characters of a wish that is no list of new tasks: a renaming with two titles of 200, and some words
TOO_LONG = f'I read at most {LONGEST} characters; only a list of tasks after the word "add" may be longer.'

Task = dict[str, Any]
Call = tuple[str, dict[str, Any]]  # a tool's name and its arguments

# ---- what is understood ----

_DONE, _OPEN = "(?:done|completed?|finished)", "(?:not done|open|pending|undone|incomplete)"
_TASK = "(?:tasks?|to-?dos?|items?)"
_TASKS = f"(?:{_TASK}|list)"
_SET = "(?:mark|set|check|tick|change|update|move)"
_ADD = (
    r"(?:add|create|put|note|remember|remind me|don't let me forget|new|todo|to-do|reminder)(?: down)?:?\s"
    r"(?P<titles>.+)"
)
# What is said, then what is wanted: the first pattern that fits the whole message counts.
_WISHES = [
    (rf"{_SET} (?P<which>.+?) (?:as |to |back to ){{0,2}}{_OPEN}", "reopen"),
    (r"(?:reopen|re-open|uncheck|untick|undo) (?P<which>.+)", "reopen"),
    (rf"{_SET} (?P<which>.+?) (?:as |to )?(?:{_DONE}|off)", "complete"),
    (r"(?:rename|change|edit|update|reword) (?P<which>.+?(?: to | into | as |: ?).+)", "rename"),
    (r"(?:complete|finish|check off|tick off|check|tick|close|done with) (?P<which>.+)", "complete"),
    (rf"i(?: have|'ve|'m| am)? (?:already |just )?(?:did|{_DONE})(?: with)? (?P<which>.+)", "complete"),
    (r"(?:delete|remove|drop|erase|forget|clear) (?P<which>.+)", "delete"),
    (r"(?:show|list|display|view|see|read|give me|tell me|get|let me see|any|how many|what|what's|whats|which|do i|"
     rf"{_TASKS}|my)\b(?P<status>.*\b(?:{_TASKS}|open|pending|{_DONE}|left|all|everything|have)\b.*)", "list"),
    (rf"(?P<status>(?:(?:list|show|my|all|open|pending|completed|done) ?)*{_TASKS}?)", "list"),
    (_ADD, "add"),
    (rf"make (?=(?:an? |the |another |some |\d+ )?(?:new )?(?:{_TASK}|notes?|reminders?)\b)(?P<titles>.+)", "add"),
    (r"i (?:(?:need|have|ought) to|must|should) (?!know|ask|say|see|talk|be\b)(?P<titles>.+)", "add"),
    (rf"(?P<which>.+?) (?:(?:is|are|was) (?:now )?)?{_DONE}", "complete"),
]  # fmt: skip
_POLITENESS = (
    r"(?:(?:please|hey|hi|hello|ok|okay|now|then|and|also|(?:can|could|would|will) you|"
    r"(?:i'd like|i would like|i want|i need)(?: you)? to(?= (?:add|create|see|show|list|view|get|delete|remove|clear|"
    r"complete|finish|mark|rename|change|update|check|tick|reopen)\b))[,!]?\s)+"
)
_NOISE = (  # before the titles of new tasks
    r"(?:(?:to|on|in) (?:my|the) (?:to-?do |task )?list:?\s?|to |"
    rf"(?:(?:an?|the|my|another|these|some|following|new|\d+|two|three|four) )*(?:{_TASK}|notes?|reminders?)"
    r"(?: called| named)?(?::\s?|\s)(?:to )?)*"
)
_OF_LIST = rf" (?:to|on|onto|in|from|off|of) (?:my|the) (?:to-?do |task )?{_TASKS}"
_BETWEEN = r"\s?(?:,(?!\d{3}\b)\s?(?:(?:and|then)\s)?|[;\n&]\s?|\s(?:and|then)\s)"
_BULLET = r"(?:[-*•]|\d{1,3}[.)])\s"
_IS_TITLE = re.compile(rf"(?!(?:a |the )?{_TASK}$)\W*\w", re.I)
_GROUP = (
    rf"(?:all|every|everything|(?:all )?(?:the |my )?(?P<status>{_DONE}|{_OPEN}))(?: of)?(?: (?:my|the))?"
    rf"(?: (?:{_TASKS}|ones|them))*"
)
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_NO_NAMES = set(
    re.findall(r"\w+", "a an the it this that these those them they he she we you i to of in on one what which who")
)
_QUOTES = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')  # as telephones type them


def understand(message: str) -> tuple[str, dict[str, str]]:
    """Return what is wanted, "help" if that is not clear, and the words that say of what."""
    said = _tidy(message)
    asks = said.endswith("?")
    said = re.sub(f"^{_POLITENESS}|,? please$", "", said.rstrip(" \n.!?"), flags=re.I)
    for pattern, wish in _WISHES if 0 < len(said) <= LONGEST else [(_ADD, "add")]:
        if found := re.fullmatch(pattern.replace(" ", r"\s"), said, re.I | re.S):
            if asks and pattern == _WISHES[-1][0]:  # "milk done?"
                return "list", {"status": ""}
            return wish, {name: (text or "").strip() for name, text in found.groupdict().items()}
    return "help", {}


def _tidy(text: str) -> str:
    """Make all white space single: two ways to match a run of it, or two places to begin, are quadratic."""
    lines = (" ".join(line.split()) for line in text.translate(_QUOTES).splitlines())
    return "\n".join(filter(None, lines))


def titles_in(words: str) -> list[str]:
    """Return the titles of the tasks that are to be added."""
    words = re.sub(f"^{_NOISE}".replace(" ", r"\s"), "", re.sub(f"{_OF_LIST}$", "", words, flags=re.I), flags=re.I)
    if re.fullmatch(rf'"[^"]+"(?:{_BETWEEN}"[^"]+")*+', words):
        return re.findall(r'"([^"]+)"', words)
    parts = re.split(f"(?:^|{_BETWEEN})(?:{_BULLET})?", words)
    return [title for part in parts if _IS_TITLE.match(title := part.strip(" .\"'"))]


def status_in(words: str) -> str:
    """Return which tasks a question is about: "all", "pending" or "completed"."""
    if re.search(r"\b(?:open|pending|left|remaining|not|unfinished|undone|incomplete|still)\b|n't\b", words, re.I):
        return "pending"
    return "completed" if re.search(rf"\b{_DONE}\b", words, re.I) else "all"


def tasks_meant(words: str, tasks: list[Task], known: Collection[int] = (), *, all_here: bool = True) -> list[Task]:
    """Return the tasks that some words mean: a group, a number, an ordinal, or a part of a title.

    A number is an id; or else a place among the open tasks, unless it can have been an id: one of those that the
    conversation has shown (`known`), or one that is not below those of the tasks. If the tasks are not `all_here`, a
    number is an id whatever it is, and nothing is known of places and groups.
    """
    if group := re.fullmatch(_GROUP, words, re.I):
        wanted = {"pending": False, "completed": True}.get(status_in(group["status"] or ""))
        return [task for task in tasks if wanted in (None, task["completed"])] if all_here else []
    name = _name_in(words)
    if re.fullmatch(_TASKS, name):  # the whole list, perhaps: too much to guess
        return []
    in_order = [task for task in tasks if not task["completed"]] or tasks
    if number := re.fullmatch(r"(#?)(\d{1,18})", name):
        n = int(number[2])
        if not all_here:
            return [{"id": n}]
        may_be_place = n > 0 and not number[1] and n not in known and all(n < task["id"] for task in tasks)
        return [task for task in tasks if task["id"] == n] or (in_order[n - 1 : n] if may_be_place else [])
    if name == "last":
        return in_order[-1:] if all_here else []
    if name in _ORDINALS or re.fullmatch(r"[1-9]\d?(?:st|nd|rd|th)", name):
        place = _ORDINALS.index(name) if name in _ORDINALS else int(name[:-2]) - 1
        return in_order[place : place + 1] if all_here else []
    row, said = _words(name)
    said -= _NO_NAMES
    tests: list[Callable[[str, frozenset[str]], bool]] = [
        lambda title, words: title == row,
        lambda title, words: bool(said) and row in title,
        lambda title, words: bool(said) and said <= words,
    ]
    found = ([task for task in tasks if test(*_words(task["title"]))] for test in tests)
    return next((tasks for tasks in found if tasks), [])


@functools.lru_cache(maxsize=200)  # a list of tasks is looked through for each name in a message
def _words(text: str) -> tuple[str, frozenset[str]]:
    """Return a text with its words marked, so that what is found in it are whole words, and the set of its words."""
    words = re.split(r"(\w+)", _tidy(text).lower())
    return "\0".join(words), frozenset(words[1::2])


def _name_in(words: str) -> str:
    name = re.sub(f"{_OF_LIST}$", "", words, flags=re.I)
    before = rf"^(?:the (?:title|name) of )?(?:the |my )?(?:{_TASK} )?(?:number |no\.? )?(?=.)"
    name = re.sub(before, "", name, flags=re.I)
    return re.sub(rf"(?<=.) (?:one|{_TASK})$", "", name, flags=re.I).strip("\"' ").lower()


# ---- what is done about it ----


def think(input: str | list[TResponseInputItem]) -> str | list[Call]:
    """Return what to say, or which tools to call, from the conversation so far."""
    items: list[Any] = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
    asked = max(n for n, item in enumerate(items) if item.get("role") == "user")
    message = str(items[asked]["content"])
    wish, words = understand(message)
    outputs = [_json(item["output"]) for item in items[asked + 1 :] if item.get("type") == "function_call_output"]
    if wish == "add":
        answer: str | list[Call] = [("add_task", {"title": title}) for title in titles_in(words["titles"])[: MOST + 1]]
    elif wish == "help":
        answer = []
    elif not outputs:
        answer = [("list_tasks", {"status": status_in(words["status"]) if wish == "list" else "all"})]
    elif wish == "list":
        answer = _listing(outputs[0])
    else:
        answer = _choose(wish, words["which"], outputs.pop(0), _shown(items[:asked]))
    if not answer:
        answer = HELP if len(message) <= LONGEST else f"{TOO_LONG} {HELP}"
    elif not isinstance(answer, str):
        answer = (
            " ".join(_report(wish, output) for output in outputs) + _left(answer[MOST:]) if outputs else answer[:MOST]
        )
    first_answer = not any(item.get("role") == "assistant" for item in items)
    return f"{WHO} {answer}" if isinstance(answer, str) and first_answer else answer


def _choose(wish: str, words: str, listed: dict[str, Any], known: set[int]) -> str | list[Call]:
    """Return the calls for the tasks that are meant, or a question."""
    tasks, title = listed.get("tasks", []), ""
    all_here = listed.get("total", 0) <= len(tasks)
    if wish == "rename":
        words, title = _split(words, tasks, known)
    as_one = wish == "rename" or tasks_meant(words, tasks, known, all_here=all_here)
    calls: list[Call] = []
    for part in [words] if as_one else re.split(_BETWEEN, words):
        found = tasks_meant(part, tasks, known, all_here=all_here)
        is_group = bool(re.fullmatch(_GROUP, part, re.I))
        if is_group and wish in ("complete", "reopen"):  # said again, "everything" is what was left of it
            found = [task for task in found if task["completed"] != (wish == "complete")]
        if not found:
            return f"I find no task for: {part}. {_listing(listed)}"
        if len(found) > 1 and (wish == "rename" or not is_group):
            return f"Which one? Say its number. {_listing({'tasks': found})}"
        calls += [_call_for(wish, task["id"], title) for task in found]
        if len(calls) > MOST:
            break
    return calls


def _split(words: str, tasks: list[Task], known: set[int]) -> tuple[str, str]:
    """Split what is said of a renaming into the task and its new title; a "to" may be a part of both."""
    if quoted := re.fullmatch(r'(.*?"[^"]+"|[^"]+?)(?:\s(?:to|into|as)|:)\s"([^"]+)"', words, re.I | re.S):
        return quoted[1], quoted[2]
    places = [place.span() for place in re.finditer(r"\s(?:to|into|as)\s|:\s?", words, re.I)]
    splits = [(words[:start], words[end:].strip("\"' ")) for start, end in places]
    titles = {task["title"].lower() for task in tasks}
    splits.sort(key=lambda split: split[0].lower() not in titles)
    return next((split for split in splits[:MOST] if len(tasks_meant(split[0], tasks, known)) == 1), splits[0])


def _call_for(wish: str, task_id: int, title: str) -> Call:
    if wish == "delete":
        return "delete_task", {"task_id": task_id}
    if wish == "rename":
        return "update_task", {"task_id": task_id, "title": title}
    return "complete_task", {"task_id": task_id, "completed": wish == "complete"}


def _left(calls: list[Call]) -> str:
    if not calls:
        return ""
    arguments = calls[0][1]
    name = f'"{arguments["title"][:100]}"' if "title" in arguments else f"#{arguments['task_id']}"
    return f" I take at most {MOST} tasks at once: from {name} on nothing is done. Please say the rest again."


def _shown(items: list[Any]) -> set[int]:
    """Return the ids of tasks that tools have named in a conversation."""
    outputs = "".join(str(item.get("output")) for item in items if item.get("type") == "function_call_output")
    return {int(found) for found in re.findall(r'id": ?(\d{1,18})\b', outputs)}


def _listing(output: dict[str, Any]) -> str:
    tasks = output.get("tasks", [])
    if not tasks:
        return "There are no tasks."
    total = output.get("total", len(tasks))
    count = f"{total} task{'s' if total > 1 else ''}" + (f", {len(tasks)} of them here" if total > len(tasks) else "")
    lines = [f"- #{task['id']} {task['title']}{' (done)' if task['completed'] else ''}" for task in tasks]
    return "\n".join([f"{count}:\n", *lines])


def _report(wish: str, output: dict[str, Any]) -> str:
    if not output.get("success"):
        return f"That did not work: {output.get('error', 'the tool gave no reason.')}"
    verbs = {"add": "Added", "complete": "Done", "reopen": "Open again", "rename": "Renamed", "delete": "Deleted"}
    return f"{verbs[wish]}: {output['title']} (#{output['task_id']})."


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


# ---- as a model ----


class OfflineModel(Model):
    """The table as a model of the Agents SDK. `pace` is the time between two words, in seconds."""

    def __init__(self, pace: float = 0.03) -> None:
        self._pace = pace

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        """Return the whole answer at once."""
        return ModelResponse(output=_output(think(input)), usage=Usage(requests=1), response_id=None)

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Yield the answer word by word."""
        thought = think(input)
        for n, word in enumerate(re.findall(r"\S+\s*", thought) if isinstance(thought, str) else []):
            await asyncio.sleep(self._pace)
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta", item_id="text", output_index=0, content_index=0,
                delta=word, logprobs=[], sequence_number=n,
            )  # fmt: skip
        response = Response(
            id="offline", object="response", created_at=0, model=NAME, output=_output(thought),
            tools=[], tool_choice="auto", parallel_tool_calls=True,
        )  # fmt: skip
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=10**6)


def _output(thought: str | list[Call]) -> list[TResponseOutputItem]:
    if isinstance(thought, str):
        text = ResponseOutputText(type="output_text", text=thought, annotations=[])
        return [ResponseOutputMessage(id="text", type="message", role="assistant", status="completed", content=[text])]
    # An id stands for one call in the whole run, and a run lists the tasks before it changes one.
    return [
        ResponseFunctionToolCall(
            type="function_call", call_id=f"{name}_{n}", name=name, arguments=json.dumps(arguments)
        )
        for n, (name, arguments) in enumerate(thought)
    ]
