"""Which model answers: chosen by environment, the first setting that matches.

Nothing here changes the Agents SDK's defaults: each model gets its own client.
"""

import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, ClassVar, get_args
from urllib.parse import urlsplit

from agents import (
    Model,
    ModelBehaviorError,
    MultiProvider,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
)
from agents.models import get_default_model
from openai import AsyncOpenAI, AsyncStream, BaseModel, DefaultAsyncHttpxClient, Timeout
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import (
    ResponseStreamEvent,
)
from pydantic import ValidationError

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai/"
OPENAI_URL = "https://api.openai.com/v1"
MAX_WAIT = 5.0  # seconds that a provider may ask for before the client tries again


class BadModel(Exception):
    """The model settings cannot be used; the text is a sentence for whoever starts the server."""


@dataclass(frozen=True)
class Choice:
    """A model and the name to show for it."""

    model: Model
    name: str


def choose_model(env: Mapping[str, str], *, idle_timeout: float = 60.0) -> Choice | None:
    """Return the model that the environment names (see the table in README.md), None if it names none.

    `idle_timeout` is how long, in seconds, a connection to the provider may be silent. Raises `BadModel`.
    """
    env = {name: value.strip() for name, value in env.items()}
    if (api := env.get("OPENAI_API")) not in (None, "", "responses", "chat"):
        raise BadModel(f'OPENAI_API is {api!r}: it must be "responses" or "chat".')
    if name := env.get("MODEL"):
        return Choice(_by_prefix(name), name)
    if key := env.get("GEMINI_API_KEY"):
        name = env.get("GEMINI_MODEL") or "gemini-flash-latest"
        return Choice(_chat(name, _client(key, env.get("GEMINI_BASE_URL") or GEMINI_URL, idle_timeout)), name)
    key, url = env.get("OPENAI_API_KEY"), env.get("OPENAI_BASE_URL")
    if key or url:
        at_openai = (url or OPENAI_URL).startswith("https://api.openai.com")
        name = env.get("OPENAI_MODEL") or (get_default_model() if at_openai else "")
        if not name:
            raise BadModel(f"OPENAI_BASE_URL is {url}: set OPENAI_MODEL to the name of a model that it serves.")
        api = api or ("responses" if at_openai else "chat")
        client = _client(key or "none", url or OPENAI_URL, idle_timeout)  # local servers want no key, the client does
        model = _chat(name, client) if api == "chat" else OpenAIResponsesModel(model=name, openai_client=client)
        return Choice(model, name)
    return None


def _by_prefix(name: str) -> Model:
    if not re.fullmatch(r"litellm/[^/]+/.+", name):
        raise BadModel(f"MODEL is {name!r}: it must look like litellm/<provider>/<model>.")
    try:
        return MultiProvider().get_model(name)
    except ImportError as error:
        raise BadModel(f"MODEL is {name!r}, which needs LiteLLM: pip install 'openai-agents[litellm]'.") from error


def _client(key: str, url: str, idle_timeout: float) -> AsyncOpenAI:
    try:
        usable = bool(re.fullmatch(r"https?://[^/\s][^\s]*", url)) and urlsplit(url).port != 0
    except ValueError:  # of a port that is none
        usable = False
    if not usable:
        raise BadModel(f"The model's base URL is {url!r}: it must be like http://host:port/path, or with https.")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise BadModel("The model's API key has characters in it that no key has. Copy it again.")
    # The client's own timeout, 600 s, is for whole answers; ours is for silence.
    return _WatchfulClient(
        api_key=key,
        base_url=url,
        timeout=Timeout(idle_timeout, connect=10.0),
        http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_no_long_wait]}),
    )


async def _no_long_wait(response: Any) -> None:
    """Have the client give up at once where a server asks it to wait for long: the user is told, and waits better."""
    asked = response.headers.get("retry-after-ms"), response.headers.get("retry-after")
    if asked != (None, None):
        try:
            wait = float(asked[1]) if asked[0] is None else float(asked[0]) / 1000
        except ValueError:  # a date
            wait = inf
        if wait > MAX_WAIT:
            response.headers["x-should-retry"] = "false"  # which the client obeys, whoever says it


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
            kwargs["stream_cls"] = ours.get(path) or kwargs["stream_cls"]
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

    `construct` is the client's own way, which takes anything, in 48 µs; `model_validate`, which does not, takes 4.
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
            for choice in (chunk.choices or ())[:1]:
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
        if reason in ("length", "content_filter"):
            raise ModelBehaviorError(f"The stream was ended by the provider: {reason}.")


def build_event_types() -> None:
    """Build the types that the offline model does not use: `openai` would do it in the first user's turn."""
    from openai.resources import chat, responses  # noqa: F401  (0.1 s)

    for event in (*_Event.kinds.values(), ChatCompletionChunk):
        event.model_rebuild()
