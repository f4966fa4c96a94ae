"""The client of a model's server: the `openai` package's, made strict where it trusts a server, and quick.

It follows no redirects, reads nothing compressed, waits for no server for long, and reads streams as streams.py has it.
"""

import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Iterable
from typing import Any

from httpx2 import AsyncByteStream  # which openai 3.54 is made with
from openai import APIResponseValidationError, AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

from todochat.models.streams import EXCHANGE, ChatStream, Exchange, ResponsesStream
from todochat.settings import is_http_url
from todochat.turns.errors import TooMuch
from todochat.turns.watchdog import PULSE, Pulse

MAX_EVENT = 16 * 1024 * 1024  # bytes of one event of a stream
MAX_ERROR = 64 * 1024  # bytes that are read of an error

_BLANK_LINE = re.compile(rb"\n\n|\r\r|\n\r\n")  # ends an event


class BadModel(Exception):
    """The model settings cannot be used; the text is a sentence for whoever starts the server."""


def client_for(key: str, url: str, silence: float) -> AsyncOpenAI:
    """Return a client for the server at a base URL, which may be silent for so many seconds. Raises `BadModel`."""
    # The client would send a user and a password in place of the key. The URL is not shown, as it may hold them.
    if not is_http_url(url):
        raise BadModel("The model's base URL must be like http://host:port/path (or https), with no user and password.")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise BadModel("The model's API key has characters in it that no key has. Copy it again.")
    # The client's own timeout, 600 s, is for whole answers; ours is for silence.
    client = _Client(
        api_key=key,
        base_url=url,
        timeout=Timeout(silence, connect=10.0),
        http_client=DefaultAsyncHttpxClient(
            # A redirect would take the conversation to whatever host it names.
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_listen, _nothing_compressed, _no_long_wait]},
        ),
    )
    _send_as_it_is(client.chat.completions, ("messages", "tools"))
    _send_as_it_is(client.responses, ("input", "tools"))
    return client


class _Heard(AsyncByteStream):
    """The bytes of a response, each of which is a sign of life, whatever it says: a comment, an empty event.

    An object in the place of a stream, which is an error or a whole answer, becomes its one event. Nothing is read
    without end: neither an event, nor what is no answer at all.
    """

    def __init__(self, response: Any, pulse: Pulse) -> None:
        self._response, self._stream, self._pulse = response, response.stream, pulse
        self._first = b""  # what it begins with; the client comes back for what is behind the end

    async def aclose(self) -> None:
        """See `httpx2.AsyncByteStream`."""
        await self._stream.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        last, size = b"", 0
        async for chunk in self._stream:
            if not self._response.is_success:
                yield chunk
                if (size := size + len(chunk)) >= MAX_ERROR:
                    return
                continue
            self._pulse.beat()
            if not self._first and (chunk := chunk.removeprefix(BOM_UTF8).lstrip()):
                self._first = chunk[:1]
                if self._first not in b"deir:{":  # no line of a stream begins so: it is a page, or a greeting
                    raise APIResponseValidationError(response=self._response, body=None)
                chunk = b"data: " + chunk if self._first == b"{" else chunk
            chunk = chunk.replace(b"\r", b" ").replace(b"\n", b" ") if self._first == b"{" else chunk
            size = len(chunk) + (0 if _BLANK_LINE.search(last + chunk) else size)
            if size > MAX_EVENT:
                raise TooMuch("The model's server sent too much at once. The server's owner must check its provider.")
            last = (last + chunk)[-2:]
            yield chunk
        if self._first == b"{":
            yield b"\n\n"


async def _listen(response: Any) -> None:
    """Have the turn take note of what comes from the model's server."""
    pulse = PULSE.get() or Pulse(0.0)
    if pulse.beating:  # some send the headers at once, and may then take long to start
        pulse.beat()
    response.stream = _Heard(response, pulse)


async def _nothing_compressed(response: Any) -> None:
    """Refuse what is compressed: nobody has asked for it, and a few KB can become enough to halt everybody."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        if response.is_success:
            raise APIResponseValidationError(response=response, body=None)
        del response.headers["content-encoding"]  # the status says what is wrong, so the body need not be readable


async def _no_long_wait(response: Any) -> None:
    """Have the client give up at once where a server asks for 5 s or more: the user is told, and waits better."""
    ms, seconds = response.headers.get("retry-after-ms"), response.headers.get("retry-after", "0")
    if not re.fullmatch(r"[0-4](\.\d+)?", seconds) if ms is None else not re.fullmatch(r"[0-4]?\d{1,3}(\.\d+)?", ms):
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
        _sign(given.get("messages", ()))
        body = given | dict(request.get("extra_body") or {})
        return await create(**request | {name: [] for name in given} | {"extra_body": body})

    resource.create = create_as_it_is


def _sign(messages: Iterable[dict[str, Any]]) -> None:
    """Give back with calls what openai-agents 0.24 keeps of Gemini's by the model's name only, and of OpenRouter's not.

    Gemini's signatures belong to each call, and OpenRouter's details to the message that the calls are in.
    """
    given_back = (EXCHANGE.get() or Exchange()).given_back
    for message in messages:
        for call in message.get("tool_calls") or ():
            data = given_back.get(call["id"], {})
            if signature := data.get("thought_signature"):
                call["extra_content"] = {"google": {"thought_signature": signature}}
            if details := data.get("reasoning_details"):
                message["reasoning_details"] = details


class _Client(AsyncOpenAI):
    """A client that reads streams as streams.py has it."""

    async def post(self, path: str, *args: Any, **kwargs: Any) -> Any:
        ours = {"/chat/completions": ChatStream, "/responses": ResponsesStream}
        return await super().post(path, *args, **kwargs | {"stream_cls": ours.get(path, kwargs.get("stream_cls"))})
