"""The offline model: a small table of phrases in the place of a model, so that the demo needs no key and no network.

It is a real `agents.Model`: it reads the conversation, calls the tools through the Runner like any other model, and
then says what their results were. Wrong is worse than not understood: it acts on what is certain, asks where it had to
guess and before it changes more than one task, and leaves alone what may be the title of a task ("finish the report").
What it has asked is in the conversation, where the answer finds it.

It shares the event loop with everybody, so each step must be linear in the message: patterns see single white space
only, and have one way to match a text; what is more than linear (the table, the tasks against the names) gets LONGEST
characters and MOST names at most.
"""

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

from agents import Model, ModelResponse, TResponseInputItem, Usage
from agents.items import TResponseOutputItem, TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

NAME = "offline"
WHAT_IT_IS = "the offline demo model: a small table of phrases, not an AI"
WHO = f"I am {WHAT_IT_IS}."
HELP = (
    'I can add tasks ("add buy milk, call Ann tomorrow"), list them ("show my open tasks", "what is due today?"), '
    'complete them ("complete 2" or "buy milk is done"), rename them ("rename 2 to buy oat milk"), set the day '
    '("2 is due on Friday") and delete them ("delete buy milk"). '
    "For a conversation, set OPENAI_API_KEY, GEMINI_API_KEY or OPENAI_BASE_URL and start me again."
)
NOT_UNDERSTOOD = 'I did not understand that, and have changed nothing. A new task begins with "add"; "help" says more.'
NO_REMINDER = "I cannot remind anyone, but it is on your list."
MOST = 25  # tasks that one message adds or changes
LONGEST = 500  # characters of a wish that is no list of new tasks: a renaming with two titles of 200, and some words
TOO_LONG = f'I read at most {LONGEST} characters; only a list of tasks after the word "add" may be longer.'

Task = dict[str, Any]
Call = tuple[str, dict[str, Any]]  # a tool's name and its arguments

# ---- what is understood ----

_DONE, _OPEN = "(?:done|completed?|finished)", "(?:not done|open|pending|undone|incomplete)"
_TASK = "(?:tasks?|to-?dos?|items?)"
_TASKS = f"(?:{_TASK}|list)"
_LIST = rf"(?:my|the) (?:to-?do |task )?{_TASKS}"
_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_DAY = (
    rf"(?:today|tonight|tomorrow|the day after tomorrow|(?:this )?(?:{'|'.join(_WEEKDAYS)})|in (?:an?|\d{{1,3}}) "
    r"(?:day|week)s?|\d{4}-\d\d-\d\d)"
)
_VERBS = (
    "(?:ask|book|bring|buy|call|cancel|check|clean|collect|cook|do|email|feed|find|finish|fix|get|iron|make|meet|mow|"
    "order|pack|paint|pay|pick|plan|post|prepare|print|read|renew|repair|return|ring|sell|send|sign|tell|text|tidy|"
    "visit|walk|wash|water|write)"
)
_PAST = dict(  # what somebody did: the verb of the task; others end with -ed
    bought="buy", brought="bring", did="do", done="do", fed="feed", found="find", got="get", made="make", met="meet",
    paid="pay", read="read", sent="send", sold="sell", told="tell", took="take", wrote="write", written="write",
)  # fmt: skip
_GROUP = (
    rf"(?:all|every|everything|(?:all )?(?:the |my )?(?P<status>{_DONE}|{_OPEN}))(?: of)?(?: (?:my|the))?"
    rf"(?: (?:{_TASKS}|ones|them))*"
)
_ADD = r"(?:add|new task|to-?do|task|note(?: down)?:)(?: down)?:?\s(?P<titles>.+)"
_WORDS = (
    rf"show|list|display|view|see|give|tell|get|let|me|us|any|how many|what|what's|whats|which|are|is|do|i|we|have|has|"
    rf"haven't|to|on|of|my|our|the|all|there|still|not|remaining|got|in|{_TASKS}|open|pending|{_DONE}|left|everything"
)
# What is said, then what is wanted, or is to be answered: the first pattern that fits the whole message counts. What has
# a star is no wish in a question.
_WISHES = [
    (r"(?:hi|hello|hey|good (?:morning|afternoon|evening|day))(?: there| again)?", "Hello. What is to be done?"),
    (r"(?:many )?(?:thanks|thank you|thx|cheers)(?: a lot| so much| very much)?", "You are welcome."),
    (r"(?:who|what) are you|are you (?:an? )?(?:ai|bot|robot|human|real).*|what(?:'s| is) your name", WHO),
    (r"help(?: me)?|i need help|(?:so |and )?what (?:can|could|do) you (?:do|understand)(?: for me)?", HELP),
    (rf"remind me(?: {_DAY})?", f'{NO_REMINDER.partition(",")[0]}. Say what is to be done: "add call Ann tomorrow".'),
    (rf"(?:(?:what|what's|whats|which|show|list|me|anything|any|all|my|the|{_TASK}|things?|that|is|are|do|i|have) )*"
     rf"(?P<due>due|overdue)(?: (?:on |by )?(?P<day>{_DAY}|this week))?", "list"),
    (rf"(?P<status>(?=(?:.* )?(?:{_TASKS}|open|pending|left|everything|remaining|.+ {_DONE}|have to do)(?: |$))"
     rf"(?:(?:{_WORDS})(?: |$))+)", "list"),
    (rf"(?:mark|set|change) (?P<which>.+?) (?:as |to |back to ){{0,2}}{_OPEN}", "reopen"),
    (r"(?:reopen|re-open|uncheck|untick) (?P<which>.+)", "reopen"),
    (rf"(?:mark|set|change) (?P<which>.+?) (?:as |to )?{_DONE}", "complete"),
    (r"(?:(?:check|tick|cross) off|complete|(?:i(?: am|'m) )?(?:done|finished) with) (?P<which>.+)|"
     r"(?:check|tick|cross) (?P<which2>.+) off", "complete"),
    (rf"(?:i|we)(?: have|'ve)? (?:already |just )?(?P<past>{'|'.join(_PAST)}|(?!(?:need|feed)\b)[a-z]+ed)(?: with)? "
     r"(?P<which>.+)", "complete"),
    (rf"(?P<which>.+?) (?:is|are) (?:now |already )?{_DONE}|(?P<which2>#?\d+) {_DONE}", "complete*"),
    (r"(?:rename|reword|(?:change|edit|update)(?= (?:the (?:title|name)|task|#?\d))) "
     r"(?P<which>.+?(?: to | into | as |: ?).+)", "rename"),
    (r"(?:delete|remove|erase|get rid of) (?P<which>.+)|take (?P<which2>.+?) off (?:my|the) list", "delete"),
    (rf"clear (?P<which>{_GROUP.replace('?P<status>', '?:')})", "delete"),
    (rf"(?:(?:set|change|move) the due (?:date|day) of|move|postpone|make|set) (?P<which>.+?) (?:to|until|due)"
     rf"(?: on| by)? (?P<day>{_DAY})|(?P<which2>.+?) (?:is|are) due (?:on |by )?(?P<day2>{_DAY})", "due*"),
    (rf"(?:remind me(?: (?P<day>{_DAY}))? (?:to|about)|remember to|don't (?:let me )?forget to) (?P<titles>.+)", "add"),
    (rf"(?:create|make|put) (?:an? |the |another )?(?:new )?(?:{_TASK}|note|reminder)(?::| to| called) "
     rf"(?P<titles>.+)|put (?P<titles2>.+?) on {_LIST}", "add"),
    (rf"i (?:(?:need|have|ought) to|must|should) (?P<titles>{_VERBS} .+)|(?P<titles2>(?:buy|pick up) .+)", "add*"),
    (_ADD, "add"),
]  # fmt: skip
_POLITENESS = (
    r"(?:(?:please|hey|hi|hello|ok|okay|now|then|and|also|(?:can|could|would|will) you|"
    r"(?:i'd like|i would like|i want|i need)(?: you)? to(?= (?:add|create|see|show|list|view|get|delete|remove|clear|"
    r"complete|mark|rename|change|update|tick|reopen)\b))[,!]?\s)+"
)
_NOISE = (  # before the titles of new tasks
    rf"(?:(?:to|on|in) {_LIST}:?\s?|to |"
    rf"(?:(?:an?|the|my|another|these|some|following|new|\d+|two|three|four) )*(?:{_TASK}|notes?|reminders?)"
    r"(?: called| named)?(?::\s?|\s)(?:to )?)*"
)
_OF_LIST = rf" (?:to|on|onto|in|from|off|of) {_LIST}"
_AND = rf"\sand\s(?={_VERBS}\s)"  # what comes next is a task of its own
_BETWEEN = rf"(?:\s?(?:,(?!\d{{3}}\b)|[;\n])\s?(?:and\s)?|{_AND})"
_TWO_WORDS = re.compile("[a-z]+ and [a-z]+")  # and no names, which begin with a capital
_ANY_AND = rf"{_BETWEEN}|\sand\s"
_BULLET = r"(?:[-*•]|\d{1,3}[.)])\s"
_IS_TITLE = re.compile(rf"(?!(?:a |the )?{_TASK}$)\W*\w", re.I)
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_NEAR = {"today": 0, "tonight": 0, "tomorrow": 1, "the day after tomorrow": 2}
_DUE = (  # at the end of a title
    r"(?<! of)(?<! about)(?<! for)(?: due(?: on| by)?| on| by|(?= (?:this|today|tonight|tomorrow|the day after|in) ?))"
    rf" (?P<day>{_DAY})$"
)
_YES = r"(?:yes|y|yep|yeah|sure|ok|okay|do it|go ahead|yes,? (?:please|do it|do)|please do|all(?: of them)?)"
_NO = r"(?:no|n|nope|no,? thanks?(?: you)?|cancel|stop|don't|never ?mind|none(?: of them)?|forget it|neither)"
_IT = r"(?:it|that|this|them|these|those|both)(?: ones?| tasks?)?"
_NO_NAMES = set(
    re.findall(r"\w+", "a an the it this that these those them he she we you i to of in on one my our what which who")
)
_QUOTES = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')  # as telephones type them


def understand(message: str) -> tuple[str, dict[str, str]]:
    """Return what is wanted, and the words that say of what; what is to be answered, if that is nothing."""
    said = _tidy(message)
    asks = said.endswith("?")
    said = re.sub(f"^{_POLITENESS}|,? please$", "", said.rstrip(" \n.!?"), flags=re.I)
    for pattern, wish in _WISHES if 0 < len(said) <= LONGEST else [(_ADD, "add")]:
        if found := re.fullmatch(pattern.replace(" ", r"\s"), said, re.I | re.S):
            words = {name.rstrip("23"): text.strip() for name, text in found.groupdict().items() if text}
            return ("list", {}) if asks and wish.endswith("*") else (wish.rstrip("*"), words)
    return (NOT_UNDERSTOOD if len(said) <= LONGEST else TOO_LONG), {}


def _tidy(text: str) -> str:
    """Make all white space single: two ways to match a run of it, or two places to begin, are quadratic."""
    lines = (" ".join(line.split()) for line in text.translate(_QUOTES).splitlines())
    return "\n".join(filter(None, lines))


def titles_in(words: str) -> list[str]:
    """Return the titles of the tasks that are to be added."""
    words = re.sub(r",\s(?=due\s)", " ", re.sub(f"{_OF_LIST}(?=$| due )", "", words, flags=re.I))
    words = re.sub(f"^{_NOISE}".replace(" ", r"\s"), "", words, flags=re.I)
    if re.fullmatch(rf'"[^"]+"(?:{_BETWEEN}"[^"]+")*+', words):
        return re.findall(r'"([^"]+)"', words)
    parts = re.split(f"(?:^|{_BETWEEN})(?:{_BULLET})?", words)
    parts = [half for part in parts for half in (part.split(" and ") if _TWO_WORDS.fullmatch(part) else [part])]
    return [title for part in parts if _IS_TITLE.match(title := part.strip(" .\"'"))]


def with_day(title: str, today: date) -> dict[str, Any]:
    """Return a title as the arguments of a new task: without the day at its end, which is its due date."""
    found = re.search(_DUE, title, re.I)
    due = day_in(found["day"], today) if found else None
    return {"title": title[: found.start()], "due": due.isoformat()} if found and due else {"title": title}


def day_in(words: str, today: date) -> date | None:
    """Return the day that some words mean: the next one of that name; None if there is no such day."""
    if (words := words.lower()) in _NEAR:
        return today + timedelta(_NEAR[words])
    if (name := words.removeprefix("this ")) in _WEEKDAYS:
        return today + timedelta((_WEEKDAYS.index(name) - today.weekday() - 1) % 7 + 1)
    if found := re.fullmatch(r"in (an?|\d+) (day|week)s?", words):
        number = int(found[1]) if found[1].isdigit() else 1
        return today + timedelta(**{f"{found[2]}s": number})
    with suppress(ValueError):  # such as the 30th of February
        return date.fromisoformat(words)
    return None


def status_in(words: str) -> str:
    """Return which tasks a question is about: "all", "pending" or "completed"."""
    if re.search(r"\b(?:open|pending|left|remaining|not|unfinished|undone|incomplete|still)\b|n't\b", words, re.I):
        return "pending"
    return "completed" if re.search(rf"\b{_DONE}\b", words, re.I) else "all"


def tasks_meant(
    words: str, tasks: list[Task], known: Collection[int] = (), *, all_here: bool = True
) -> tuple[list[Task], bool]:
    """Return the tasks that some words mean, and whether that is certain: it is not, where words are a part of a title.

    A number is an id; or else a place among the open tasks, unless it can have been an id: one of those that the
    conversation has shown (`known`), or one that is not below those of the tasks. If the tasks are not `all_here`, a
    number is an id whatever it is, and nothing is known of places and groups.
    """
    if group := re.fullmatch(_GROUP, words, re.I):
        wanted = {"pending": False, "completed": True}.get(status_in(group["status"] or ""))
        return [task for task in tasks if wanted in (None, task["completed"])] if all_here else [], True
    name = _name_in(words)
    if re.fullmatch(_TASKS, name):  # the whole list, perhaps: too much to guess
        return [], False
    in_order = [task for task in tasks if not task["completed"]] or tasks
    if number := re.fullmatch(r"(#?)(\d{1,18})", name):
        n = int(number[2])
        if not all_here:
            return [{"id": n}], True
        may_be_place = n > 0 and not number[1] and n not in known and all(n < task["id"] for task in tasks)
        return [task for task in tasks if task["id"] == n] or (in_order[n - 1 : n] if may_be_place else []), True
    if name == "last":
        return (in_order[-1:] if all_here else []), True
    if name in _ORDINALS or re.fullmatch(r"[1-9]\d?(?:st|nd|rd|th)", name):
        place = _ORDINALS.index(name) if name in _ORDINALS else int(name[:-2]) - 1
        return (in_order[place : place + 1] if all_here else []), True
    row, said = _words(name)
    if same := [
        task for task in tasks if _words(task["title"])[0] == row or (said and said == _words(task["title"])[1])
    ]:
        return same, True
    parts = [task for task in tasks if said and row in _words(task["title"])[0]]
    return parts or [task for task in tasks if said and said <= _words(task["title"])[1]], False


@functools.lru_cache(maxsize=200)  # a list of tasks is looked through for each name in a message
def _words(text: str) -> tuple[str, frozenset[str]]:
    """Return a text with its words marked, so that what is found in it are whole words, and the set of its words."""
    words = re.split(r"(\w+)", _tidy(text).lower())
    return "\0".join(words), frozenset(words[1::2]) - _NO_NAMES


def _name_in(words: str) -> str:
    name = re.sub(f"{_OF_LIST}$", "", words, flags=re.I)
    before = rf"^(?:the (?:title|name) of )?(?:the |my )?(?:{_TASK} )?(?:number |no\.? )?(?=.)"
    name = re.sub(before, "", name, flags=re.I)
    return re.sub(rf"(?<=.) (?:one|{_TASK})$", "", name, flags=re.I).strip("\"' ").lower()


# ---- what is done about it ----

# What is asked before it is done, and what is said when it is.
_DO = {
    "add": ("", "Added"),
    "complete": ("mark {} as done", "Done"),
    "reopen": ("open {} again", "Open again"),
    "delete": ("delete {}", "Deleted"),
    "rename": ('rename {} to "{}"', "Renamed"),
    "due": ("make {} due on {}", "Changed"),
}
_ASKED = re.compile(
    r'(Shall I|Which one\? I will) (?P<verb>mark|open|delete|rename|make) (?:it|them)(?: as done| again| to "(?P<to>.*)"| '
    r"due on (?P<on>[-\d]+))?(?:\? Say yes or no|: say its number)\.$",
    re.M,
)


def think(input: str | list[TResponseInputItem], today: date) -> str | list[Call]:
    """Return what to say, or which tools to call, from the conversation so far."""
    items: list[Any] = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
    asked = max(n for n, item in enumerate(items) if item.get("role") == "user")
    message, before = str(items[asked]["content"]), items[:asked]
    wish, words = understand(message)
    outputs = [_json(item["output"]) for item in items[asked + 1 :] if item.get("type") == "function_call_output"]
    answer: str | list[Call]
    if (settled := _settle(message, before)) is not None:
        wish, answer = settled
    elif wish == "add":
        tasks = [with_day(title, today) for title in titles_in(words["titles"])[: MOST + 1]]
        day = day_in(words.get("day", ""), today)
        answer = [("add_task", ({"due": day.isoformat()} if day else {}) | task) for task in tasks] or NOT_UNDERSTOOD
    elif wish not in ("list", *_DO):
        answer = wish
    elif not outputs:
        status = "pending" if "due" in words else status_in(words.get("status", ""))
        answer = [("list_tasks", {"status": status})]
    elif wish == "list":
        answer = _due(words, outputs[0], today) if "due" in words else _listing(outputs[0])
    else:
        answer = _choose(wish, words, outputs.pop(0), before, today)
    if not isinstance(answer, str):
        reports = [_report(wish, output) for output in outputs] + ([NO_REMINDER] if "remind" in message.lower() else [])
        answer = " ".join(reports) + _left(answer[MOST:]) if outputs else answer[:MOST]
    is_first = not any(item.get("role") == "assistant" for item in items)
    return f"{WHO} {answer}" if isinstance(answer, str) and is_first and answer != WHO else answer


def _settle(message: str, before: list[Any]) -> tuple[str, str | list[Call]] | None:
    """Return what was wished, and what to do about it now, if this is the answer to a question of ours."""
    text = str(before[-1].get("content")) if before and before[-1].get("role") == "assistant" else ""
    if (asked := _ASKED.search(text)) is None or len(message) > LONGEST:
        return None
    wish = next(wish for wish, (phrase, _) in _DO.items() if phrase.startswith(asked["verb"]))
    said, value = _tidy(message).rstrip(".!").lower(), asked["to"] or asked["on"] or ""
    lines = re.findall(r"^- #(\d+) (.*?)(?: \(due [-\d]+\))?(?: \(done\))?$", text, re.M)
    tasks = [{"id": int(number), "title": title, "completed": False} for number, title in lines]
    if re.fullmatch(_NO, said):
        return wish, "All right, nothing is changed."
    if asked[1] == "Shall I":
        chosen = tasks if re.fullmatch(_YES, said) else []
    else:
        chosen, _ = tasks_meant(said, tasks)
        if len(chosen) > 1:
            return wish, _ask(wish, value, chosen, which=wish == "rename" or not re.fullmatch(_GROUP, said))
    return (wish, [_call_for(wish, task["id"], value) for task in chosen]) if chosen else None


def _choose(
    wish: str, words: dict[str, str], listed: dict[str, Any], before: list[Any], today: date
) -> str | list[Call]:
    """Return the calls for the tasks that are meant, or a question."""
    tasks, which, value = listed.get("tasks", []), words["which"], ""
    meant = functools.partial(
        tasks_meant, tasks=tasks, known=_shown(before), all_here=listed.get("total", 0) <= len(tasks)
    )
    if wish == "due":
        day = day_in(words["day"], today)
        if day is None:
            return NOT_UNDERSTOOD
        value = day.isoformat()
    elif wish == "rename":
        which, value = _split(which, lambda words: len(meant(words)[0]) == 1, tasks)
    elif "past" in words:
        verb = words["past"].lower()
        verbs = [_PAST.get(verb, verb[:-2]), verb[:-1], verb[:-3], f"{verb[:-3]}y"]  # called, closed, planned, tidied
        names = [f"{verb} {which}" for verb in verbs] + [which] * bool(re.fullmatch(f"{_DONE}|did", verb))
        which = max(names, key=lambda name: (bool(meant(name)[0]), meant(name)[1]))
    found: dict[int, Task] = {}
    certain = True
    if re.fullmatch(_IT, which, re.I):
        found = {task["id"]: task for task in tasks if task["id"] in _last(before)}
    for part in [] if found else [which] if wish == "rename" or meant(which)[0] else re.split(_ANY_AND, which):
        some, sure = meant(part)
        is_group = bool(re.fullmatch(_GROUP, part, re.I))
        if is_group and wish in ("complete", "reopen"):  # said again, "everything" is what was left of it
            some = [task for task in some if task["completed"] != (wish == "complete")]
        if not some:
            return f"I find no task for: {part}. {_listing(listed)}"
        if len(some) > 1 and (wish == "rename" or not is_group):
            return _ask(wish, value, some, which=True)
        found |= {task["id"]: task for task in some}
        certain = certain and sure
    if certain and len(found) == 1:
        return [_call_for(wish, task_id, value) for task_id in found]
    return _ask(wish, value, list(found.values()))


def _split(words: str, is_one: Callable[[str], bool], tasks: list[Task]) -> tuple[str, str]:
    """Split what is said of a renaming into the task and its new title; a "to" may be a part of both."""
    if quoted := re.fullmatch(r'(.*?"[^"]+"|[^"]+?)(?:\s(?:to|into|as)|:)\s"([^"]+)"', words, re.I | re.S):
        return quoted[1], quoted[2]
    places = [place.span() for place in re.finditer(r"\s(?:to|into|as)\s|:\s?", words, re.I)]
    splits = [(words[:start], words[end:].strip("\"' ")) for start, end in places]
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
    phrase = _DO[wish][0].format("it" if which or len(tasks) == 1 else "them", value)
    question = f"Which one? I will {phrase}: say its number." if which else f"Shall I {phrase}? Say yes or no."
    return f"{question}\n\n{_listing({'tasks': tasks[:MOST], 'total': len(tasks)})}"


def _left(calls: list[Call]) -> str:
    if not calls:
        return ""
    name = calls[0][1]["title"][:100]
    return f' I take at most {MOST} tasks at once: from "{name}" on nothing is done. Please say the rest again.'


def _outputs(items: list[Any]) -> list[Any]:
    return [item.get("output") for item in items if item.get("type") == "function_call_output"]


def _shown(items: list[Any]) -> set[int]:
    """Return the ids of tasks that tools have named in a conversation."""
    return {int(found) for found in re.findall(r'id": ?(\d{1,18})\b', "".join(map(str, _outputs(items))))}


def _last(items: list[Any]) -> set[int]:
    """Return the ids of the tasks that the last answer was about: those it has changed, or the one that it listed."""
    begin = max((n for n, item in enumerate(items) if item.get("role") == "user"), default=0)
    outputs = [_json(output) for output in _outputs(items[begin:])]
    listed = [task["id"] for output in outputs for task in output.get("tasks", [])]
    return {output["task_id"] for output in outputs if "task_id" in output} or set(listed if len(listed) == 1 else [])


def _due(words: dict[str, str], listed: dict[str, Any], today: date) -> str:
    """Return what is due: on a day (and until today, if that is today), this week, or at all."""
    name, day = words.get("day", ""), day_in(words.get("day", ""), today)
    first, last = ("", (today - timedelta(1)).isoformat()) if words["due"].lower() == "overdue" else ("", "9")
    if name:
        last = (day or today + timedelta(6)).isoformat()
        first = "" if day in (None, today) else last
    tasks = [task for task in listed.get("tasks", []) if task.get("due") and first <= task["due"] <= last]
    return _listing({"tasks": sorted(tasks, key=lambda task: str(task["due"]))})


def _listing(output: dict[str, Any]) -> str:
    tasks = output.get("tasks", [])
    if not tasks:
        return "There are no such tasks." if output.get("total") is None else "There are no tasks."
    total = output.get("total", len(tasks))
    count = f"{total} task{'s' if total > 1 else ''}" + (f", {len(tasks)} of them here" if total > len(tasks) else "")
    notes = [(f" (due {t['due']})" if t.get("due") else "") + (" (done)" if t.get("completed") else "") for t in tasks]
    lines = [f"- #{task['id']} {_tidy(task['title'])}{note}" for task, note in zip(tasks, notes, strict=True)]
    return "\n".join([f"{count}:\n", *lines])


def _report(wish: str, output: dict[str, Any]) -> str:
    if not output.get("success"):
        return f"That did not work: {output.get('error', 'the tool gave no reason.')}"
    due = f", due {output['due']}" if output.get("due") else ""
    return f"{_DO[wish][1]}: {output['title']} (#{output['task_id']}){due}."


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
        self, system_instructions: str | None, input: str | list[TResponseInputItem], *args: Any, **options: Any
    ) -> ModelResponse:
        """Return the whole answer at once."""
        output = _output(think(input, _date_in(system_instructions)))
        return ModelResponse(output=output, usage=Usage(requests=1), response_id=None)

    async def stream_response(
        self, system_instructions: str | None, input: str | list[TResponseInputItem], *args: Any, **options: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Yield the answer word by word."""
        thought = think(input, _date_in(system_instructions))
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


def _date_in(instructions: str | None) -> date:
    """Return the user's date, which the agent's instructions name, as they do for any model."""
    found = re.search(r"\d{4}-\d\d-\d\d", instructions or "")
    return date.fromisoformat(found[0]) if found else datetime.now(UTC).date()


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
