"""Answers to GETs that cost little while nothing has changed: `ETag` and `If-None-Match` (RFC 9110, section 13.1.2)."""

import hashlib
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from todochat import inputs


async def answer(request: Request, user_id: str, version: str, read: Callable[[], Awaitable[object]]) -> Response:
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
    return JSONResponse(inputs.found(await read()), headers=headers)
