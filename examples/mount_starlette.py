"""The chat inside a Starlette app that has users of its own.

    python examples/mount_starlette.py

Open the link on http://127.0.0.1:8000, or say it with curl:

    curl -N http://127.0.0.1:8000/todo/chatkit -H "Authorization: Bearer wonderland" \
         -H "Content-Type: application/json" -d '{"message": "add buy milk"}'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from todochat.app import create_app

USERS = {"wonderland": "alice", "builder": "bob"}  # your sessions, or whatever tells you who is asking


async def authenticate(request: Request) -> str | None:
    """Return the id of the user who asks; None is answered with 401."""
    return USERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))


async def home(request: Request) -> HTMLResponse:
    """Your own page, with a link to the chat's."""
    return HTMLResponse('<title>My app</title> <a href="todo/#token=wonderland">Chat as Alice</a>')


chat = create_app(authenticate=authenticate, store="sqlite:///starlette.db")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open and close the chat's database with your app: a mounted app's own lifespan is run by nobody else."""
    async with chat.router.lifespan_context(chat):
        yield


app = Starlette(routes=[Route("/", home), Mount("/todo", chat)], lifespan=lifespan)

if __name__ == "__main__":
    # Without the timeout uvicorn waits for the open streams before it lets the chat end them.
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=3)
