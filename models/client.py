"""The client of a model's server: the `openai` package's, made strict where it trusts a server, and quick.

It follows no redirects, reads nothing compressed, waits for no server for long, and reads streams as streams.py has it.
"""

import re
from math import inf
from typing import Any
from urllib.parse import urlsplit

from openai import APIResponseValidationError, AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

from todochat.models.streams import ChatStream, ResponsesStream

MAX_WAIT = 5.0  # seconds that a provider may ask for before the client tries again


class BadModel(Exception):
    """The model settings cannot be used; the text is a sentence for whoever starts the server."""


def client_for(key: str, url: str, idle_timeout: float) -> AsyncOpenAI:
    """Return a client for the server at a base URL, which may be silent for so many seconds. Raises `BadModel`."""
    try:
        usable = bool(re.fullmatch(r"https?://[^/\s][^\s]*", url)) and urlsplit(url).port != 0
    except ValueError:  # of a port that is none
        usable = False
    if not usable:  # the URL is not shown, as it may hold a password
        raise BadModel("The model's base URL must be like http://host:port/path, or with https.")
    if "@" in urlsplit(url).netloc:  # the client would send these in place of the key
        raise BadModel("The model's base URL must hold no user and password: the key has a setting of its own.")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise BadModel("The model's API key has characters in it that no key has. Copy it again.")
    # The client's own timeout, 600 s, is for whole answers; ours is for silence.
    client = _Client(
        api_key=key,
        base_url=url,
        timeout=Timeout(idle_timeout, connect=10.0),
        http_client=DefaultAsyncHttpxClient(
            # A redirect would take the conversation to whatever host it names.
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_no_decompression, _no_long_wait]},
        ),
    )
    _send_as_it_is(client.chat.completions, ("messages", "tools"))
    _send_as_it_is(client.responses, ("input", "tools"))
    return client


async def _no_decompression(response: Any) -> None:
    """Refuse a compressed answer, which nobody has asked for: a few KB of it can become enough to halt everybody."""
    encodings = response.headers.get("content-encoding", "").replace(",", " ").lower().split()
    if set(encodings) - {"identity"}:
        if response.is_success:
            raise APIResponseValidationError(response=response, body=None, message="The response is compressed.")
        del response.headers["content-encoding"]  # the status says what is wrong, so the body need not be readable


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


def _send_as_it_is(resource: Any, names: tuple[str, ...]) -> None:
    """Have the long parts of requests sent as they are, which is what the client does with an `extra_body`.

    openai 3.54 would compare each message with each of the types that a message can have, to find fields with another
    name on the wire. There are none, and for the last 50 messages that takes 12 ms (24 in the Responses API), in which
    no other stream gets anything.
    """
    create = resource.create

    async def create_as_it_is(**request: Any) -> Any:
        given = {name: request[name] for name in names if isinstance(request.get(name), list)}
        body = given | dict(request.get("extra_body") or {})
        return await create(**request | {name: [] for name in given} | {"extra_body": body})

    resource.create = create_as_it_is


class _Client(AsyncOpenAI):
    """A client that reads streams as streams.py has it."""

    async def post(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("stream"):
            ours = {"/chat/completions": ChatStream, "/responses": ResponsesStream}
            kwargs["stream_cls"] = ours.get(path) or kwargs["stream_cls"]
        answer = await super().post(path, *args, **kwargs)
        if isinstance(answer, ChatStream):
            messages = kwargs["options"]["extra_json"]["messages"]
            answer.used = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
        return answer
