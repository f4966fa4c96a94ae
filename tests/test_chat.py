"""The simple dialect, over real HTTP, with a server in its own process."""

import json
import re
import socket
import time
from collections.abc import Callable

import httpx
import pytest
from conftest import PATIENCE, Client, Server, token
from servers import provider

from todochat.turns import history


def test_frames_headers_and_order_are_those_of_the_contract(alice: Client) -> None:
    """A turn has exactly the headers, frames and order of the contract."""
    turn = alice.say("add buy milk")
    assert turn.status == 200
    assert turn.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert turn.headers["cache-control"] == "no-cache, no-transform"
    assert turn.headers["connection"] == "keep-alive"
    assert turn.headers["x-accel-buffering"] == "no"
    thinking, call, result, *text = turn.events
    assert thinking == {"type": "thinking", "content": "Processing your request...", "thread_id": turn.thread}
    assert call == {"type": "tool_call", "id": call["id"], "name": "add_task", "args": {"title": "buy milk"}}
    [task] = alice.tasks()
    assert result == {
        "type": "tool_result",
        "id": call["id"],
        "name": "add_task",
        "result": {"success": True, "task_id": task["id"], "title": "buy milk", "completed": False},
    }
    assert {event["type"] for event in text} == {"text"}
    assert turn.frames[-1] == "[DONE]"
    assert turn.frames.count("[DONE]") == 1


def test_no_stream_may_be_transformed_on_its_way(carol: Client) -> None:
    """Each stream, of either dialect and joined, forbids what holds it back: compression, and nginx's buffer."""
    said = {"content": [{"type": "input_text", "text": "say 40 20"}], "attachments": [], "inference_options": {}}
    protocol = {"type": "threads.create", "params": {"input": said}}
    for body in ({"message": "say 40 20"}, protocol):
        with carol.stream("POST", "/chatkit", json=body) as answer:
            thread = answer.headers["x-thread-id"]
            with carol.stream("GET", f"/api/conversations/{thread}/stream") as joined:
                for stream in (answer, joined):
                    assert stream.status_code == 200
                    assert stream.headers["content-type"].startswith("text/event-stream")
                    assert {"no-cache", "no-transform"} <= set(stream.headers["cache-control"].split(", "))
                    assert stream.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("name", ["conversation_id", "threadId", "Message", "", "x" * 1000])
def test_a_field_that_is_unknown_is_named_and_nothing_begins(alice: Client, name: str) -> None:
    """A misspelt field is a 400 that names it and those that there are; no conversation begins."""
    body = json.dumps({"message": "hi", name: 1})
    answer = alice.post("/chatkit", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert ascii(name[:50]) in answer.json()["detail"]
    assert "thread_id" in answer.json()["detail"]
    assert alice.get("/api/conversations").json() == []


def test_the_protocol_of_the_component_may_have_more_fields(alice: Client) -> None:
    """Newer versions of the component may send fields that this server does not know."""
    said = {"content": [{"type": "input_text", "text": "hi"}], "attachments": [], "inference_options": {}, "new": 1}
    body = {"type": "threads.create", "params": {"input": said, "new": 1}, "metadata": {"a": 1}, "new": 1}
    assert alice.post("/chatkit", json=body).status_code == 200


def test_a_time_zone_is_taken_as_a_text(alice: Client) -> None:
    """The field `timezone` is known, and must be a text."""
    assert alice.say("hi", timezone="Europe/Berlin").complete
    for wrong in (2, None, ["Europe/Berlin"], {}, True):
        turn = alice.say("hi", timezone=wrong)
        assert turn.status == 400
        assert "timezone" in json.loads(turn.body)["detail"]


def test_every_frame_is_one_ascii_line_and_a_blank_one(server: Server) -> None:
    """On the wire a frame is `data: `, ASCII JSON, and a blank line; nothing else."""
    with httpx.Client(headers={"Authorization": f"Bearer {token()}"}) as client:
        body = client.post(f"{server.url}/chatkit", json={"message": "add \u2028 caf\u00e9 \U0001f600"}).content
    assert body.isascii()
    assert re.fullmatch(rb"(data: [^\r\n]+\n\n)+", body)


def test_text_arrives_while_the_model_is_still_speaking(carol: Client) -> None:
    """Text is sent as the model makes it: the first word is there long before the last."""
    begun, times = time.monotonic(), []
    with carol.stream("POST", "/chatkit", json={"message": "say 20 50"}) as response:
        for line in response.iter_lines():
            if '"text"' in line:
                times.append(time.monotonic() - begun)
    assert len(times) == 20
    assert times[-1] - times[0] > 0.5, "the answer came in one piece"


def test_the_joined_text_is_what_is_stored(carol: Client) -> None:
    """The text frames joined are the stored content, with a new paragraph after a tool call."""
    turn = carol.say('say 2 0\ncall add_task {"title": "a"}\nsay 1 0\ncall list_tasks {}\nsay 1 0')
    assert turn.text == "w0 w1 \n\nw0 \n\nw0 "
    _, answer = carol.messages(turn.thread)
    assert answer["content"] == turn.text
    assert [(call["name"], call["at"]) for call in answer["tool_calls"]] == [("add_task", 6), ("list_tasks", 11)]
    stored = [(call["id"], call["name"], call["args"]) for call in answer["tool_calls"]]
    assert stored == [(call["id"], call["name"], call["args"]) for call in turn.of("tool_call")]
    assert [call["result"] for call in answer["tool_calls"]] == [r["result"] for r in turn.of("tool_result")]


def test_reasoning_streams_as_thinking(carol: Client) -> None:
    """A model's reasoning summary streams as `thinking` and is no part of the text."""
    turn = carol.say("think 2 0\nsay 1 0")
    assert [event["content"] for event in turn.of("thinking")] == ["Processing your request...", "t0 ", "t1 "]
    assert turn.text == "w0 "


def test_a_conversation_goes_on_by_its_thread_id(alice: Client) -> None:
    """The thread id of the first answer continues the conversation, as a number or as a string of it."""
    first = alice.say("add buy milk")
    second = alice.say("complete the first one", first.thread)
    third = alice.post("/chatkit", json={"message": "hello", "thread_id": str(first.thread)})
    assert first.thread == second.thread == int(third.headers["x-thread-id"])
    assert len(alice.messages(first.thread)) == 6


@pytest.mark.parametrize("unknown", [0, -1, 999_999, 2**63, 10**24, "987654321", "9" * 25])
def test_an_unknown_thread_id_begins_a_new_conversation_and_says_so(alice: Client, unknown: int | str) -> None:
    """A thread id that is not the user's begins a conversation whose id is in the header and in the first frame."""
    turn = alice.read("POST", "/chatkit", json={"message": "hello", "thread_id": unknown})
    assert turn.status == 200
    assert turn.thread not in (unknown, 0)
    assert turn.events[0]["thread_id"] == turn.thread


def test_the_title_is_the_beginning_of_the_first_message(alice: Client) -> None:
    """A title is the first 50 characters of the first message, with `...` if it was longer."""
    alice.say("x" * 50)
    alice.say("y" * 51)
    titles = [c["title"] for c in alice.get("/api/conversations").json()]
    assert titles == ["y" * 50 + "...", "x" * 50]


def test_a_closed_page_does_not_end_the_answer(carol: Client) -> None:
    """Closing the connection in mid-answer leaves the answer to complete."""
    with carol.stream("POST", "/chatkit", json={"message": "say 40 20"}) as response:
        thread = int(response.headers["x-thread-id"])
        next(response.iter_lines())
    assert carol.messages(thread)[1]["status"] == "streaming"
    _, answer = wait_for_end(carol, thread)
    assert answer["status"] == "done"
    assert answer["content"] == "".join(f"w{n} " for n in range(40))


def test_a_second_message_meanwhile_gets_409_and_is_not_stored(carol: Client) -> None:
    """While an answer is live a second message gets 409 with a detail, and nothing of it is stored."""
    with carol.stream("POST", "/chatkit", json={"message": "say 20 20"}) as response:
        thread = int(response.headers["x-thread-id"])
        refused = carol.say("hello", thread)
        assert refused.status == 409
        assert "stop it" in json.loads(refused.body)["detail"]
    messages = wait_for_end(carol, thread)
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert carol.say("say 1 0", thread).status == 200


def test_a_conversation_may_be_answered_while_another_is(carol: Client) -> None:
    """One live answer is the limit of a conversation, not of a user."""
    with carol.stream("POST", "/chatkit", json={"message": "say 20 20"}):
        assert carol.say("say 1 0").text == "w0 "


def test_the_model_gets_the_last_messages_with_their_tool_calls(make_server: Callable[..., Server]) -> None:
    """The model is given the last HISTORY_LIMIT messages, and no more; it is told if that is not all of them."""
    with provider() as model:
        server = make_server(OPENAI_BASE_URL=model.url, OPENAI_MODEL="m", HISTORY_LIMIT=3)
        with server.client() as client:
            thread = client.say("one ok").thread
            for word in ("two", "three"):
                client.say(f"{word} ok", thread)
        asked = [[message["content"] for message in request["messages"]] for request in model.requests]
    assert asked[-1][1:] == ["two ok", "whole \U0001f600", "three ok"]
    assert asked[1][1:] == ["one ok", "whole \U0001f600", "two ok"]
    assert [messages[0].endswith(history.LEFT_OUT) for messages in asked] == [False, False, True]
    assert all(message.keys() == {"role", "content"} for message in model.requests[-1]["messages"])


def test_the_user_id_is_not_in_the_prompt(make_server: Callable[..., Server]) -> None:
    """The user's id travels beside the prompt: the model is never told it."""
    with provider() as model:
        with make_server(OPENAI_BASE_URL=model.url, OPENAI_MODEL="m").client("somebody-in-particular") as client:
            client.say("ok")
        assert "somebody-in-particular" not in json.dumps(model.requests)


def test_a_line_in_the_log_for_each_turn_without_what_was_said(server: Server, alice: Client) -> None:
    """The log has a line for each turn with its figures, and neither the message nor the token."""
    turn = alice.say("add zanzibar")
    line = next(line for line in reversed(server.log.read_text().splitlines()) if "turn user" in line)
    assert f"user={alice.user!r} conversation={turn.thread} model=custom" in line
    assert "tools=add_task" in line
    assert re.search(r"first_text_ms=\d+ total_ms=\d+ state=done", line)
    assert "zanzibar" not in server.log.read_text()
    assert token().rsplit(".", 1)[0] not in server.log.read_text()


def test_expect_continue_and_a_byte_at_a_time_are_served(server: Server) -> None:
    """A client that sends its request slowly is a client like any other."""
    body = b'{"message": "hello"}'
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80), timeout=PATIENCE) as connection:
        head = f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        for byte in body:
            connection.sendall(bytes([byte]))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.rstrip().endswith(b"0")
    assert b"data: [DONE]\n\n" in answer


def wait_for_end(client: Client, thread: int, seconds: float = PATIENCE) -> list[dict[str, object]]:
    """Return the messages of a conversation once its answer is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        messages = client.messages(thread)
        if messages[-1]["status"] != "streaming":
            return messages
        time.sleep(0.02)
    raise AssertionError("the answer did not end")


def test_the_result_of_a_quick_tool_does_not_wait_for_a_slow_one(make_server: Callable[..., Server]) -> None:
    """Of two tools called at once, the first to end is shown and stored while the other one runs."""
    server = make_server(script="tests/paced.py")
    program = 'call add_task {"title": "quick"}\ncall wait {"seconds": 300}\nsay 1 0'
    with server.client() as client, client.stream("POST", "/chatkit", json={"message": program}) as response:
        lines = response.iter_lines()
        result = next(line for line in lines if '"tool_result"' in line)
        assert '"title":"quick"' in result
        thread = int(response.headers["x-thread-id"])
        assert client.messages(thread)[-1]["tool_calls"][0]["result"]["success"] is True
        stopped = client.post(f"/api/conversations/{thread}/stop").json()
        assert ["result" in call for call in stopped["tool_calls"]] == [True, False]
        assert sum('"tool_result"' in line for line in lines) == 0
