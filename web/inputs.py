"""What a request may hold: each function returns what it found there, or answers 400, 404, 413 or 415."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from todochat.dates import date_in, timezone_named
from todochat.engines import T

MAX_BODY = 1024 * 1024  # bytes
MAX_MESSAGE = 32_000  # characters
MAX_TITLE = 200
TITLE_FROM_MESSAGE = 50  # of a conversation
MAX_DESCRIPTION = 2_000
MAX_SEARCH = 100


async def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body, or answer 400, 413 or 415."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
    body = await raw_body_of(request)
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:  # malformed, empty, not UTF-8, half a character, too deep, a number with too many digits
        raise HTTPException(400, "The body is not valid JSON in UTF-8, with whole characters, not too deep.") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return value


async def raw_body_of(request: Request) -> bytes:
    """Return the bytes of the body, or answer 400 or 413."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise HTTPException(413, f"The body is larger than {MAX_BODY} bytes.")
    except ClientDisconnect:
        raise HTTPException(400, "The body broke off.") from None
    return bytes(body)


def only(given: Mapping[str, Any], *names: str) -> None:
    """Answer 400 to a body or a query string with others than these: a misspelt one must not pass for none."""
    if unknown := given.keys() - set(names):
        raise HTTPException(400, f"{min(unknown)[:50]!a} is not known here: there is {' and '.join(names)}.")


def text_in(body: Mapping[str, Any], name: str, longest: int, *, too_long: int = 400) -> str:
    """Return a required text as it was sent, or answer 400 (`too_long` if it is)."""
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise HTTPException(400, f"{name} is required: a text that is not empty.")
    if len(value) > longest:
        raise HTTPException(too_long, f"{name} is longer than {longest} characters.")
    return value


def title_in(body: Mapping[str, Any]) -> str:
    """Return a required title, trimmed, or answer 400."""
    return text_in(body, "title", MAX_TITLE).strip()


def description_in(body: Mapping[str, Any]) -> str | None:
    """Return a task's description, None for null or an empty one, or answer 400."""
    value = body.get("description")
    if value is not None and not isinstance(value, str):
        raise HTTPException(400, "description must be a text or null.")
    if value is not None and len(value) > MAX_DESCRIPTION:
        raise HTTPException(400, f"description is longer than {MAX_DESCRIPTION} characters.")
    return (value or "").strip() or None


def due_in(body: Mapping[str, Any]) -> str | None:
    """Return the date on which a task is due, None for null or none, or answer 400."""
    return None if body.get("due") is None else _parsed(body, "due", date_in)


def _parsed(body: Mapping[str, Any], name: str, parse: Callable[[str], str]) -> str:
    try:
        return parse(str(body[name]))
    except ValueError as error:
        raise HTTPException(400, f"{name} cannot be used: {error}.") from None


def task_changes_in(body: Mapping[str, Any]) -> dict[str, str | bool | None]:
    """Return what is to change in a task, or answer 400."""
    only(body, "title", "description", "due", "completed")
    if not body:
        raise HTTPException(400, "Send at least one of title, description, due and completed.")
    changes: dict[str, str | bool | None] = {}
    for name, read in (("title", title_in), ("description", description_in), ("due", due_in)):
        if name in body:
            changes[name] = read(body)
    if "completed" in body:
        if not isinstance(body["completed"], bool):
            raise HTTPException(400, "completed must be true or false.")
        changes["completed"] = body["completed"]
    return changes


def fault_in_task(title: str | None, description: str | None, due: str | None) -> str | None:
    """Say what is wrong with what a model wants of a task; None if nothing is."""
    if title is not None and not 1 <= len(title.strip()) <= MAX_TITLE:
        return f"A title has 1 to {MAX_TITLE} characters."
    if len(description or "") > MAX_DESCRIPTION:
        return f"A description has at most {MAX_DESCRIPTION} characters."
    try:
        date_in(due or "2000-01-01")
    except ValueError as error:
        return f"due cannot be used: {error}."
    return None


def conversation_title(message: str) -> str:
    """Return the title of a conversation that begins with this message."""
    message = message.strip()
    return message if len(message) <= TITLE_FROM_MESSAGE else message[:TITLE_FROM_MESSAGE] + "..."


def id_in(body: Mapping[str, Any], name: str) -> int:
    """Return a required id, an integer or its digits, or answer 400. One that cannot exist is 0."""
    value = body.get(name)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
        value = int(value) if len(value) <= 25 else 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise HTTPException(400, f"{name} must be an integer.")
    return value if 0 < value < 2**63 else 0


def timezone_in(body: Mapping[str, Any]) -> str | None:
    """Return the name of the user's time zone, None if there is none, or answer 400."""
    return _parsed(body, "timezone", timezone_named) if "timezone" in body else None


def key_of(request: Request) -> str | None:
    """Return the idempotency key, None if there is none, or answer 400."""
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        raise HTTPException(400, "Idempotency-Key must have 1 to 255 printable ASCII characters and no spaces.")
    return key


def digest_of(body: Mapping[str, Any]) -> str:
    """Return what tells a request from another that came with the same idempotency key."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def id_of(request: Request) -> int:
    """Return the id in the path; one that cannot exist is answered like one that does not."""
    text = request.path_params["id"]
    if not re.fullmatch(r"[1-9][0-9]{0,18}", text) or int(text) >= 2**63:
        raise HTTPException(404, "Not found.")
    return int(text)


def found(thing: T | None) -> T:
    """Return what was looked up, or answer 404: the same for what is not there and for what is somebody else's."""
    if thing is None or thing is False:
        raise HTTPException(404, "Not found.")
    return thing


def count_in(request: Request, name: str, default: int) -> int:
    """Return a whole number from the query string, the default if there is none, or answer 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise HTTPException(400, f"{name} must be a whole number from 0 to 999999999.")
    return int(text)


def search_in(request: Request) -> str:
    """Return what is searched for, an empty text if nothing is, or answer 400."""
    text = request.query_params.get("q", "").strip()
    if len(text) > MAX_SEARCH:
        raise HTTPException(400, f"q is longer than {MAX_SEARCH} characters.")
    return text


def completed_in(request: Request) -> bool | None:
    """Return whether completed tasks are asked for, or pending ones, or all (None), or answer 400."""
    wanted = {"all": None, "pending": False, "completed": True}
    status = request.query_params.get("status", "all")
    if status not in wanted:
        raise HTTPException(400, "status must be all, pending or completed.")
    return wanted[status]
