"""Answers to GETs that cost little while nothing has changed: `ETag` and `If-None-Match` (RFC 9110, section 13.1.2)."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from todochat.shares import Shares
from todochat.web import inputs

BREATH = 200_000  # characters, after which others are served

_as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


async def answer(
    request: Request, shares: Shares, user_id: str, version: str, read: Callable[[], Awaitable[object]]
) -> ASGIApp:
    """Return what `read` gives as JSON, or 304 if the client has it already; 404 if there is None of it any more.

    `version` is a text that is another one after each change. It must have been looked up before: what changes in
    between is then sent too early, and not too late.
    """
    # The user's id is in it, as a browser may keep what it has got for the next user.
    tag = f'"{hashlib.sha256(f"{version} {user_id}".encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag}
    known = request.headers.get("if-none-match", "").split(",")
    if {tag, "*"} & {name.strip().removeprefix("W/") for name in known}:  # a proxy that compresses makes it a weak one
        return Response(status_code=304, headers=headers)
    async with shares.reading(user_id):
        pieces = [piece.encode() async for piece in _pieces(inputs.found(await read()))]
    if (size := sum(map(len, pieces))) > 5 * BREATH:
        headers["Content-Length"] = str(size)  # simple clients read no chunks
        response = StreamingResponse(_each(pieces), media_type="application/json", headers=headers)
        return shares.sending(user_id, response)
    return Response(b"".join(pieces), media_type="application/json", headers=headers)


async def _each(pieces: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def _pieces(data: object) -> AsyncGenerator[str, None]:
    """Yield the JSON of data in pieces, the items of lists one by one, so that others are served between large ones."""
    if isinstance(data, dict) and "messages" in data:
        yield f"{_as_json({**data, 'messages': []})[:-3]}"
        async for piece in _pieces(data["messages"]):
            yield piece
        yield "}"
    elif isinstance(data, list):
        since, comma = 0, "["
        for item in data:
            piece = _as_json(item)
            yield comma + piece
            since, comma = since + len(piece), ","
            if since > BREATH:
                since = 0
                await asyncio.sleep(0)
        yield "]" if data else "[]"
    else:
        yield _as_json(data)
