"""Another answer to a message in the simple dialect, and the user's time zone."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Client, Server

from todochat.settings import BadSetting, Settings


def retry(client: Client, thread: int, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """Ask for another answer, and read it."""
    return client.read("POST", f"/api/conversations/{thread}/retry", json=body, headers=headers or {})


def test_another_answer_takes_the_place_of_what_came_after_a_message(carol: Client) -> None:
    """A retry removes what came after the message, and streams with the frames and headers of a first answer."""
    thread = carol.say("say 1 0").thread
    carol.say("say 2 0", thread)
    question, answer, *_ = carol.messages(thread)
    turn = retry(carol, thread, message_id=question["id"])
    assert (turn.status, turn.thread, turn.text) == (200, thread, "w0 ")
    assert turn.headers["cache-control"] == "no-cache, no-transform"
    assert turn.events[0] == {"type": "thinking", "content": "Processing your request...", "thread_id": thread}
    assert turn.complete
    left = carol.messages(thread)
    assert [(m["role"], m["content"]) for m in left] == [("user", "say 1 0"), ("assistant", "w0 ")]
    assert left[0] == question
    assert left[1]["id"] == int(turn.headers["x-message-id"]) > answer["id"]


def test_a_message_is_asked_again_in_other_words(carol: Client) -> None:
    """With a `message` a retry puts that in the place of what the user had said; the model gets the new words."""
    thread = carol.say("say 1 0").thread
    [question, _] = carol.messages(thread)
    assert retry(carol, thread, message_id=str(question["id"]), message="say 3 0").text == "w0 w1 w2 "
    assert [m["content"] for m in carol.messages(thread)] == ["say 3 0", "w0 w1 w2 "]
    assert carol.messages(thread)[0] == question | {"content": "say 3 0"}
    last = carol.say("recall", thread)
    assert "say 3 0" in last.text
    assert "say 1 0" not in last.text


def test_a_retry_with_a_key_happens_once(carol: Client) -> None:
    """The same key joins the answer that the first try began; for another request it is a 409."""
    thread = carol.say("say 1 0").thread
    question = carol.messages(thread)[0]["id"]
    first, second = (retry(carol, thread, {"Idempotency-Key": "k"}, message_id=question) for _ in range(2))
    assert first.headers["x-message-id"] == second.headers["x-message-id"]
    assert retry(carol, thread, {"Idempotency-Key": "k"}, message_id=question, message="say 2 0").status == 409
    assert len(carol.messages(thread)) == 2


def test_a_retry_that_cannot_be_is_refused_and_changes_nothing(carol: Client, paced: Server) -> None:
    """What is not a message of the user's is a 404, a live answer a 409, a wrong body a 400; nothing is removed."""
    thread, other = carol.say("say 1 0").thread, carol.say("say 1 0").thread
    question, answer = (message["id"] for message in carol.messages(thread))
    before = carol.messages(thread)
    for message in (answer, 10**9, 0, -1, "1" * 30, carol.messages(other)[0]["id"]):
        assert retry(carol, thread, message_id=message, message="x").status == 404, message
    for body in ({}, {"message_id": None}, {"message_id": "x"}, {"message_id": True}, {"message_id": 1.5}):
        assert retry(carol, thread, **body).status == 400, body
    bodies: tuple[dict[str, Any], ...] = ({"message": " "}, {"message": 1}, {"thread_id": 1}, {"on_disconnect": "x"})
    for body in (*bodies, {"timezone": "Mars/Base"}):
        assert retry(carol, thread, message_id=question, **body).status == 400, body
    assert retry(carol, thread, message_id=question, message="x" * 32_001).status == 413
    with paced.client("another") as another:
        assert retry(another, thread, message_id=question).status == 404
    assert carol.messages(thread) == before
    with carol.stream("POST", "/chatkit", json={"message": "quiet 20", "thread_id": thread}) as live:
        assert live.status_code == 200
        refused = retry(carol, thread, message_id=question)
        assert (refused.status, "still being written" in refused.body) == (409, True)
        carol.post(f"/api/conversations/{thread}/stop")
    assert len(carol.messages(thread)) == 4


def test_a_retry_stops_with_its_reader_if_it_says_so(carol: Client) -> None:
    """`on_disconnect` means the same as with a first answer."""
    thread = carol.say("say 1 0").thread
    question = carol.messages(thread)[0]["id"]
    body = {"message_id": question, "message": "say 5 0\nquiet 20", "on_disconnect": "stop"}
    with carol.stream("POST", f"/api/conversations/{thread}/retry", json=body) as live:
        next(live.iter_lines())
    while carol.get(f"/api/conversations/{thread}").json()["live"]:
        pass
    assert carol.messages(thread)[-1]["status"] == "stopped"


# ---- time zones ----


@pytest.mark.parametrize(
    "timezone", ["", "Mars/Base", "../UTC", "Europe", "utc ", "zone.tab", "x" * 100, "\0", 1, None, []]
)
def test_a_time_zone_that_there_is_not_is_a_400(alice: Client, timezone: Any) -> None:
    """Anything but the IANA name of a time zone is refused in words, and nothing begins."""
    answer = alice.post("/chatkit", json={"message": "hi", "timezone": timezone})
    assert answer.status_code == 400
    assert "Europe/Berlin" in answer.json()["detail"]
    assert alice.get("/api/conversations").json() == []


def test_tomorrow_is_the_users_tomorrow(make_server: Callable[..., Server]) -> None:
    """The day comes from the time zone of the request, or else from TIMEZONE: these two are a day apart."""
    server = make_server(script="tests/unpaced.py", TIMEZONE="Pacific/Niue")
    with server.client("alice") as alice:
        alice.say("add buy milk due today")
        alice.say("add call Ann due today", timezone="Pacific/Kiritimati")
        niue, kiritimati = (task["due"] for task in alice.tasks())
    assert niue < kiritimati


def test_a_setting_that_is_no_time_zone_ends_the_start() -> None:
    """TIMEZONE must be an IANA name."""
    assert Settings.from_env({}).timezone == "UTC"
    assert Settings.from_env({"TIMEZONE": "Europe/Berlin"}).timezone == "Europe/Berlin"
    with pytest.raises(BadSetting, match="TIMEZONE is 'Berlin': it must be the IANA name of a time zone"):
        Settings.from_env({"TIMEZONE": "Berlin"})
