"""Which model answers: chosen by environment, the first setting that matches; without any, the offline model.

Nothing here changes the Agents SDK's defaults: each model gets its own client.
"""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, get_args

from agents import (
    Handoff,
    Model,
    ModelBehaviorError,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    MultiProvider,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Tool,
    TResponseInputItem,
    Usage,
)
from agents.agent_output import AgentOutputSchemaBase
from agents.items import TResponseOutputItem, TResponseStreamEvent
from agents.models import get_default_model
from openai import AsyncOpenAI, AsyncStream, BaseModel, Timeout
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_prompt_param import ResponsePromptParam
from pydantic import ValidationError

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai/"
OPENAI_URL = "https://api.openai.com/v1"
OFFLINE = "offline"


class BadModel(Exception):
    """The model settings cannot be used; the text is a sentence for whoever starts the server."""


@dataclass(frozen=True)
class Choice:
    """A model and the name to show for it; `OFFLINE` is the name of the offline model."""

    model: Model
    name: str


def choose_model(env: Mapping[str, str], *, idle_timeout: float = 60.0) -> Choice:
    """Return the model that the environment names (see the table in README.md).

    `idle_timeout` is how long, in seconds, a connection to the provider may be silent. Raises `BadModel`.
    """
    if name := env.get("MODEL"):
        return Choice(_by_prefix(name), name)
    if key := env.get("GEMINI_API_KEY"):
        name = env.get("GEMINI_MODEL") or "gemini-2.5-flash"
        return Choice(_chat(name, _client(key, env.get("GEMINI_BASE_URL") or GEMINI_URL, idle_timeout)), name)
    key, url = env.get("OPENAI_API_KEY"), env.get("OPENAI_BASE_URL")
    if key or url:
        at_openai = (url or OPENAI_URL).startswith("https://api.openai.com")
        name = env.get("OPENAI_MODEL") or (get_default_model() if at_openai else "")
        if not name:
            raise BadModel(f"OPENAI_BASE_URL is {url}: set OPENAI_MODEL to the name of a model that it serves.")
        api = env.get("OPENAI_API") or ("responses" if at_openai else "chat")
        if api not in ("responses", "chat"):
            raise BadModel(f'OPENAI_API is {api!r}: it must be "responses" or "chat".')
        client = _client(key or "none", url or OPENAI_URL, idle_timeout)  # local servers want no key, the client does
        model = _chat(name, client) if api == "chat" else OpenAIResponsesModel(model=name, openai_client=client)
        return Choice(model, name)
    return Choice(OfflineModel(), OFFLINE)


def _by_prefix(name: str) -> Model:
    if not re.fullmatch(r"litellm/[^/]+/.+", name):
        raise BadModel(f"MODEL is {name!r}: it must look like litellm/<provider>/<model>.")
    try:
        return MultiProvider().get_model(name)
    except ImportError as error:
        raise BadModel(f"MODEL is {name!r}, which needs LiteLLM: pip install 'openai-agents[litellm]'.") from error


def _client(key: str, url: str, idle_timeout: float) -> AsyncOpenAI:
    if not re.match(r"https?://[^/]", url):
        raise BadModel(f"The model's base URL is {url!r}: it must start with http:// or https://.")
    # The client's own timeout, 600 s, is for whole answers; ours is for silence.
    return _WatchfulClient(api_key=key, base_url=url, timeout=Timeout(idle_timeout, connect=10.0))


def _chat(name: str, client: AsyncOpenAI) -> Model:
    return OpenAIChatCompletionsModel(model=name, openai_client=client)


def _as_they_are(create: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """Have the long parts of a request sent as they are, which is what the client does with an `extra_body`.

    openai 3.54 would compare each message with each of the types that a message can have, to find fields with another
    name on the wire. There are none, and for the last 50 messages that takes 12 ms (24 in the Responses API), in which
    no other stream gets anything.
    """

    async def create_as_it_is(**request: Any) -> Any:
        given = {name: request[name] for name in names if isinstance(request.get(name), list)}
        body = given | dict(request.get("extra_body") or {})
        return await create(**request | {name: [] for name in given} | {"extra_body": body})

    return create_as_it_is


class _WatchfulClient(AsyncOpenAI):
    """A client that is quick with long requests and with streams, and expects less of servers: see `_WholeStream`."""

    @cached_property
    def chat(self) -> Any:
        """The resources of Chat Completions."""
        chat: Any = super().chat
        chat.completions.create = _as_they_are(chat.completions.create, ("messages", "tools"))
        return chat

    @cached_property
    def responses(self) -> Any:
        """The resources of the Responses API."""
        responses: Any = super().responses
        responses.create = _as_they_are(responses.create, ("input", "tools"))
        return responses

    async def post(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("stream"):
            ours = {"/chat/completions": _WholeStream, "/responses": _EventStream}
            kwargs["stream_cls"] = ours.get(path, kwargs["stream_cls"])
        answer = await super().post(path, *args, **kwargs)
        if isinstance(answer, _WholeStream):
            messages = kwargs["options"]["extra_json"]["messages"]
            answer.used = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
        return answer


class _Chunk(ChatCompletionChunk):
    """How the client is to read one event of a stream of Chat Completions."""

    @classmethod
    def build(cls, *, response: Any, data: Any) -> BaseModel:
        """Return the event: called by the client."""
        return _read(ChatCompletionChunk, data)


class _Event:
    """How the client is to read one event of the Responses API."""

    # By the event's type; only OpenAI's discriminator says which one it is, and pydantic would try all fifty.
    kinds: ClassVar = {
        get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
    }

    @classmethod
    def build(cls, *, response: Any, data: Any) -> BaseModel:
        """Return the event: called by the client."""
        kind = cls.kinds.get(data.get("type"), BaseModel) if isinstance(data, dict) else BaseModel
        return _read(kind, data)


def _read(kind: type[BaseModel], data: Any) -> BaseModel:
    """Return what a server has sent as an object of that kind, whether or not it is all that it should be.

    That is the client's own way of reading it, but it is asked first whether it is in order, which takes a tenth of the
    48 µs.
    """
    try:
        return kind.model_validate(data)
    except ValidationError:
        if not isinstance(data, dict):
            raise ModelBehaviorError("An event of the stream is no JSON object.") from None
        return kind.construct(**data)


class _EventStream(AsyncStream[_Event]):
    """A stream of the Responses API."""


class _WholeStream(AsyncStream[_Chunk]):
    """A stream that ends with an error when it broke off, and whose tool calls have each an id of their own.

    openai 3.54 ends a stream that is cut as if it were complete, and openai-agents 0.24 checks only OpenAI's own. Some
    servers leave the ids empty or begin anew with each answer, and openai-agents 0.24 refuses both.
    """

    used: set[str]  # the ids in the request

    async def __aiter__(self) -> AsyncIterator[_Chunk]:
        reason = None
        ids: dict[int, str] = {}  # by the call's place in this answer
        async for chunk in super().__aiter__():
            for choice in chunk.choices[:1]:
                reason = choice.finish_reason or reason
                for call in (choice.delta and choice.delta.tool_calls) or ():
                    if call.index not in ids:
                        fresh = call.id if call.id not in self.used else None
                        ids[call.index] = fresh or secrets.token_hex(5)[:9]
                        self.used.add(ids[call.index])
                    call.id = ids[call.index]
            yield chunk
        if reason is None:
            raise ModelBehaviorError("The stream ended without a finish_reason.")
        if reason == "length":
            raise ModelBehaviorError("The stream ended at the model's length limit.")


def build_event_types() -> None:
    """Build the types that the offline model does not use: `openai` would do it in the first user's turn."""
    from openai.resources import chat, responses  # noqa: F401  (0.1 s)

    for event in (
        ResponseCreatedEvent,
        ResponseOutputItemAddedEvent,
        ResponseContentPartAddedEvent,
        ResponseContentPartDoneEvent,
        ResponseFunctionCallArgumentsDeltaEvent,
        ResponseOutputItemDoneEvent,
    ):
        event.model_rebuild()


# ---- the offline model ----

# What is said, then what is wanted: the first pattern that fits the whole message counts.
_WISHES = [
    (r"(?:rename|change|edit|update|reword) (?P<which>.+?) (?:to|into|as) (?P<title>.+)", "rename"),
    (r"(?:mark|set|check|tick) (?P<which>.+?) as (?:not done|open|pending|undone|incomplete)", "reopen"),
    (r"(?:reopen|re-open|uncheck|untick|undo) (?P<which>.+)", "reopen"),
    (r"(?:mark|set|check|tick) (?P<which>.+?) (?:as )?(?:done|completed?|finished|off)", "complete"),
    (r"(?:complete|finish|check off|tick off|check|tick|close|done with) (?P<which>.+)", "complete"),
    (r"i(?: have|'ve)? (?:did|done|finished|completed) (?P<which>.+)", "complete"),
    (r"(?P<which>.+) (?:is|are) (?:done|completed?|finished)", "complete"),
    (r"(?:delete|remove|drop|erase|forget) (?P<which>.+)", "delete"),
    (r"(?:show|list|display|view|see|read|give me|how many|what|what's|whats|which|do i|tasks?|todos?|my)\b"
     r"(?P<status>.*\b(?:tasks?|to-?dos?|list|open|pending|completed?|done|finished|left|all|everything|have)\b.*)",
     "list"),
    (r"(?P<status>(?:(?:list|show|my|all|open|pending|completed|done) ?)*(?:tasks?|to-?dos?|list)?)", "list"),
    (r"(?:add|create|make|put|note|remember|remind me|i need|i have|i must|i want|new)(?: down)?:? (?P<titles>.+)",
     "add"),
]  # fmt: skip
_POLITENESS = (
    r"^(?:(?:please|hey|hi|hello|ok|okay|now|then|and|also|(?:can|could|would|will) you|i'd like you to)[,!]? +)+"
)
_NOISE = (
    r"^(?:to |(?:a |the |my |another |these |some |two |three )*(?:new )?"
    r"(?:tasks?|to-?dos?|items?)(?: called| named)?:? +(?:to )?)+"
)
_TO_LIST = r" (?:to|on|onto|in) (?:my|the) (?:to-?do |task )?(?:list|tasks|to-?dos?)$"
_BETWEEN = r"\s*(?:[,;\n]\s*(?:and |then )?|\s(?:and|then)\s)\s*"
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]

WHAT_IT_IS = "the offline demo model: a small table of phrases, not an AI"
WHO = f"I am {WHAT_IT_IS}."
HELP = (
    'I can add tasks ("add buy milk, call Ann"), list them ("show my open tasks"), complete them ("complete 2" or '
    '"buy milk is done"), rename them ("rename 2 to buy oat milk") and delete them ("delete buy milk"). '
    "For a conversation, set OPENAI_API_KEY, GEMINI_API_KEY or OPENAI_BASE_URL and start me again."
)

Call = tuple[str, dict[str, Any]]  # a tool's name and its arguments


class OfflineModel(Model):
    """A model without a network: it recognises the ordinary ways of asking for the five tools, in English.

    It goes through the Runner like any other model, and says in its first answer what it is. `pace` is the time
    between two words, in seconds.
    """

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
        return ModelResponse(output=_output(_think(input)), usage=Usage(requests=1), response_id=None)

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
        thought = _think(input)
        for n, word in enumerate(re.findall(r"\S+\s*", thought) if isinstance(thought, str) else []):
            await asyncio.sleep(self._pace)
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta", item_id="text", output_index=0, content_index=0,
                delta=word, logprobs=[], sequence_number=n,
            )  # fmt: skip
        response = Response(
            id="offline", object="response", created_at=0, model=OFFLINE, output=_output(thought),
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


def _think(input: str | list[TResponseInputItem]) -> str | list[Call]:
    """Return what to say, or which tools to call, from the conversation so far."""
    items: list[Any] = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
    asked = max(n for n, item in enumerate(items) if item.get("role") == "user")
    wish, words = _understand(str(items[asked]["content"]))
    outputs = [_json(item["output"]) for item in items[asked + 1 :] if item.get("type") == "function_call_output"]
    if wish == "help":
        answer: str | list[Call] = HELP
    elif not outputs:
        answer = [("add_task", {"title": title}) for title in _titles(words["titles"])] if wish == "add" else [
            ("list_tasks", {"status": _status(words["status"]) if wish == "list" else "all"})
        ]  # fmt: skip
    elif wish not in ("add", "list") and len(outputs) == 1:
        answer = _choose(wish, words, outputs[0].get("tasks", []))
    else:
        answer = (
            _listing(outputs[0]) if wish == "list" else " ".join(_report(wish, o) for o in outputs[wish != "add" :])
        )
    first_answer = not any(item.get("role") == "assistant" for item in items)
    return f"{WHO} {answer}" if isinstance(answer, str) and first_answer else answer


def _understand(message: str) -> tuple[str, dict[str, str]]:
    if len(message) > 2000:  # nobody asks like that, and regular expressions are slow on it
        return "help", {}
    said = re.sub(_POLITENESS, "", re.sub(r"[\s.!?]+$", "", message.strip()), flags=re.I)
    said = re.sub(r",? please$", "", said, flags=re.I)
    for pattern, wish in _WISHES:
        if found := re.fullmatch(pattern, said, re.I | re.S):
            words = {name: (text or "").strip() for name, text in found.groupdict().items()}
            return (wish, words) if said else ("help", {})
    return "help", {}


def _titles(words: str) -> list[str]:
    words = re.sub(_NOISE, "", re.sub(_TO_LIST, "", words, flags=re.I), flags=re.I)
    quoted = re.findall(r'"([^"]+)"', words)
    return quoted or [title.strip(" .\"'") for title in re.split(_BETWEEN, words) if title.strip(" .\"'")]


def _status(words: str) -> str:
    if re.search(r"\b(?:open|pending|left|undone|not done|unfinished|incomplete)\b", words, re.I):
        return "pending"
    return "completed" if re.search(r"\b(?:done|completed?|finished)\b", words, re.I) else "all"


def _choose(wish: str, words: dict[str, str], tasks: list[dict[str, Any]]) -> str | list[Call]:
    """Return the calls for the tasks that are meant, or a question."""
    calls: list[Call] = []
    whole = _matches(words["which"], tasks)
    for part in [words["which"]] if whole else re.split(_BETWEEN, words["which"]):
        found = _matches(part, tasks)
        if not found:
            return f"I find no task for: {part}. " + _listing({"tasks": tasks})
        if len(found) > 1 and not _means_all(part):
            return f"Which one? Say its number. {_listing({'tasks': found})}"
        calls += [_call_for(wish, task, words) for task in found]
    return calls


def _call_for(wish: str, task: dict[str, Any], words: dict[str, str]) -> Call:
    if wish == "delete":
        return "delete_task", {"task_id": task["id"]}
    if wish == "rename":
        return "update_task", {"task_id": task["id"], "title": words["title"].strip("\"'")}
    return "complete_task", {"task_id": task["id"], "completed": wish == "complete"}


def _means_all(words: str) -> bool:
    return bool(re.fullmatch(r"(?:all|everything|all (?:of )?(?:my |the )?tasks|them all|all of them)", words, re.I))


def _matches(words: str, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks that a number (an id, or else a place among the open ones), an ordinal or some words mean."""
    if _means_all(words):
        return tasks
    name = re.sub(r"^(?:the |my )?(?:tasks? |items? |to-?dos? )?(?:number |no\.? )?#?", "", words, flags=re.I).strip(
        "\"' "
    )
    in_order = [task for task in tasks if not task["completed"]] or tasks
    if name.isdecimal():
        return [t for t in tasks if t["id"] == int(name)] or in_order[int(name) - 1 : int(name)][: int(name)]
    ordinal = re.sub(r" (?:one|task|item)$", "", name.lower())
    if ordinal in _ORDINALS:
        return in_order[_ORDINALS.index(ordinal) :][:1]
    if ordinal == "last":
        return in_order[-1:]
    tests: list[Callable[[str], bool]] = [
        lambda title: title == name.lower(),
        lambda title: name.lower() in title,
        lambda title: set(re.findall(r"\w+", name.lower())) <= set(re.findall(r"\w+", title)),
    ]
    found = ([task for task in tasks if name and test(task["title"].lower())] for test in tests)
    return next((tasks for tasks in found if tasks), [])


def _listing(output: dict[str, Any]) -> str:
    tasks = output.get("tasks", [])
    if not tasks:
        return "There are no tasks."
    lines = [f"- #{task['id']} {task['title']}{' (done)' if task['completed'] else ''}" for task in tasks]
    return "\n".join([f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}:\n", *lines])


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
