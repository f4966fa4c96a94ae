"""A user's client of a server, which keeps a record of what it saw, and the tokens that it needs."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
from jose import jws

from todochat import auth

SECRET = "a secret for the tests, of more than 32 bytes"


def token(user: str = "alice", **claims: Any) -> str:
    """Return a token for the user that the servers of these tests accept."""
    return auth.sign(user, SECRET, lifetime=3600) if not claims else forge({"sub": user} | claims)


def forge(claims: Any, secret: str = SECRET, algorithm: str = "HS256", header: dict[str, Any] | None = None) -> str:
    """Return a signed token with any claims and header."""
    return str(jws.sign(claims, secret, headers=header, algorithm=algorithm))


@dataclass
class Turn:
    """What a client saw of one streamed answer."""

    status: int
    headers: httpx.Headers
    frames: list[str] = field(default_factory=list)  # what follows "data: "
    comments: int = 0
    body: str = ""  # of a refusal

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the frames that are JSON."""
        return [json.loads(frame) for frame in self.frames if frame != "[DONE]"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one type."""
        return [event for event in self.events if event["type"] == kind]

    @property
    def text(self) -> str:
        """Return the answer's text."""
        return "".join(event["content"] for event in self.of("text"))

    @property
    def complete(self) -> bool:
        """Return whether the last frame came."""
        return self.frames[-1:] == ["[DONE]"]

    @property
    def thread(self) -> int:
        """Return the conversation."""
        return int(self.headers["x-thread-id"])


class Client(httpx.Client):
    """One user's client of a server."""

    def __init__(self, url: str, user: str = "alice", **options: Any) -> None:
        headers = {"Authorization": f"Bearer {token(user)}"} | options.pop("headers", {})
        super().__init__(base_url=url, headers=headers, timeout=60, **options)
        self.user = user

    def say(
        self, message: str, thread: int | None = None, *, headers: dict[str, str] | None = None, **body: Any
    ) -> Turn:
        """Send a message and read the whole answer."""
        payload = {"message": message} | ({} if thread is None else {"thread_id": thread}) | body
        return self.read("POST", "/chatkit", json=payload, headers=headers or {})

    def read(self, method: str, path: str, **options: Any) -> Turn:
        """Read a stream to its end."""
        with self.stream(method, path, **options) as response:
            turn = Turn(response.status_code, response.headers)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                turn.body = response.read().decode()
                return turn
            for line in response.iter_lines():
                if line.startswith("data: "):
                    turn.frames.append(line[6:])
                elif line.startswith(":"):
                    turn.comments += 1
                else:
                    assert line == "", f"not a frame of this dialect: {line!r}"
            return turn

    def messages(self, thread: int) -> list[dict[str, Any]]:
        """Return the stored messages of a conversation."""
        return list(self.get(f"/api/conversations/{thread}").raise_for_status().json()["messages"])

    def tasks(self) -> list[dict[str, Any]]:
        """Return the user's tasks."""
        return list(self.get("/api/tasks").raise_for_status().json())
