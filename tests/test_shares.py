"""What one answer, one user and one address may take: the limits, by their sentences, and that nothing is lost."""

import json
import select
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, Server

from todochat.connections import Connections
from todochat.db import Progress, Store, TurnRequest
from todochat.events import fold
from todochat.settings import BadSetting, Settings
from todochat.shares import BODIES, LARGE, READERS, SIZE, Full, Room, TooMany
from turns import EVENTS, LIMITS, begin, finish

ENDS = ", more than this server allows, so it ends here. Please ask for less at once."


# ---- an answer's limits ----


@pytest.mark.parametrize(
    ("settings", "program", "sentence", "kept"),
    [
        ({"MAX_ANSWER": 100}, "say 5000 2", f"This answer is longer than 100 characters{ENDS}", "w0 w1 "),
        ({"MAX_ANSWER": 100}, "say 2 1\nthink 5000 1", f"This answer is longer than 100 characters{ENDS}", "w0 w1 "),
        (
            {"MAX_TOOL_CALLS": 3},
            "\n".join(['call add_task {"title": "x"}'] * 2 + ["say 1 0"] + ['call add_task {"title": "y"}'] * 2),
            f"The assistant wanted more than 3 tool calls for this answer{ENDS}",
            "w0 ",
        ),
        ({"MAX_TURN_SECONDS": 0.5}, "say 1000 20", f"This answer took longer than 0.5 seconds{ENDS}", "w0 w1 "),
    ],
    ids=["text", "thoughts", "calls", "seconds"],
)
def test_an_answer_that_takes_too_much_has_failed(
    make_server: Callable[..., Server], settings: dict[str, object], program: str, sentence: str, kept: str
) -> None:
    """It ends with its sentence, soon; what there was of it is kept, and the next one is as good as any."""
    server = make_server(script="tests/paced.py", **settings)
    with server.client() as client:
        turn = client.say(program)
        assert turn.complete
        assert [event["message"] for event in turn.of("error")] == [sentence]
        _, answer = client.messages(turn.thread)
        assert (answer["status"], answer["error"]) == ("failed", sentence)
        assert answer["content"] == turn.text
        assert turn.text.startswith(kept)
        assert len(turn.text) <= 1000 * 5
        assert [task["title"] for task in client.tasks()] == ["x"] * program.count('"x"')
        assert client.say("say 2 0", turn.thread).text == "w0 w1 "


def test_too_many_calls_at_once_are_not_begun(make_server: Callable[..., Server]) -> None:
    """A model that asks for too many tools in one response gets none of them."""
    server = make_server(script="tests/paced.py", MAX_TOOL_CALLS=20)
    with server.client() as client:
        turn = client.say("\n".join(['call add_task {"title": "x"}'] * 500))
        assert "more than 20 tool calls" in turn.of("error")[0]["message"]
        assert client.tasks() == []


# ---- a user's share ----


def test_turns_a_minute(make_server: Callable[..., Server]) -> None:
    """Who asks too often gets a 429 that says when to come back; others are served, and so are other requests."""
    server = make_server(script="tests/unpaced.py", TURNS_PER_MINUTE=3)
    with server.client() as client, server.client("bob") as bob:
        thread = client.say("help").thread
        assert [client.say("help", thread).status for _ in range(2)] == [200, 200]
        refused = client.say("help", thread)
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert json.loads(refused.body)["detail"].startswith("That was too much in one minute. Please try again in ")
        protocol = {"type": "threads.create", "params": {"input": {"content": [{"type": "input_text", "text": "x"}]}}}
        assert client.post("/chatkit", json=protocol).status_code == 429
        assert len(client.messages(thread)) == 6, "nothing of what was refused is stored"
        assert bob.say("help").status == 200
        assert client.get("/api/conversations").status_code == 200


def test_full_lists_say_so_and_lose_nothing(make_server: Callable[..., Server]) -> None:
    """What is one too many is a sentence, for the user and for the model; what was there stays."""
    server = make_server(script="tests/paced.py", MAX_TASKS=2, MAX_CONVERSATIONS=2)
    with server.client() as client, server.client("bob") as bob:
        for title in ("one", "two"):
            assert client.post("/api/tasks", json={"title": title}).status_code == 201
        refused = client.post("/api/tasks", json={"title": "three"})
        assert (refused.status_code, refused.json()["detail"]) == (
            409,
            "You have 2 tasks, which is the limit. Delete some to add another.",
        )
        turn = client.say('call add_task {"title": "three"}\nsay 1 0')
        assert turn.of("tool_result")[0]["result"] == {"success": False, "error": refused.json()["detail"]}
        assert not turn.of("error"), "the model can tell the user"
        assert [task["title"] for task in client.tasks()] == ["one", "two"]
        client.say("say 1 0")
        full = client.say("say 1 0")
        assert (full.status, json.loads(full.body)["detail"]) == (
            409,
            "You have 2 conversations, which is the limit. Delete some to begin another.",
        )
        assert client.say("say 1 0", turn.thread).status == 200, "those that there are go on"
        client.delete(f"/api/conversations/{turn.thread}")
        assert client.say("say 1 0").status == 200
        assert bob.post("/api/tasks", json={"title": "one"}).status_code == 201


@pytest.mark.anyio
async def test_what_is_stored_is_counted(any_store: Store) -> None:
    """A conversation's size is that of its messages, through retries in other words; a full user is refused whole."""

    async def size() -> tuple[int, int]:
        """Return what is counted, and what there is."""
        count = f"SELECT size, (SELECT SUM({SIZE}) FROM messages WHERE conversation_id = conversations.id) AS there"
        [row] = await any_store.engine.read(lambda sql: sql(f"{count} FROM conversations"))
        return row["size"], row["there"]

    turn = await begin(any_store)
    thread, question = turn.conversation["id"], turn.history[-1]["id"]
    await finish(any_store, turn, "done", *EVENTS)
    requests: list[dict[str, Any]] = [{"message": "hi"}, {"retry_of": question}, {"retry_of": question, "message": "x"}]
    for asked in requests:
        request = TurnRequest("alice", conversation_id=thread, **asked)
        await finish(any_store, await any_store.begin_turn(request, LIMITS), "done", *EVENTS)
        counted, there = await size()
        assert counted == there
    before = await any_store.get_conversation("alice", thread)
    any_store.room = Room(stored=10)
    with pytest.raises(Full, match="which is the limit"):
        await begin(any_store, conversation=thread)
    assert await any_store.get_conversation("alice", thread) == before


@pytest.mark.anyio
async def test_tokens_are_stored_and_counted_by_the_day(any_store: Store) -> None:
    """An answer has the tokens that it took; a deleted conversation gives none back, and others are not touched."""
    any_store.room = Room(tokens=100)
    turn = await begin(any_store)
    await any_store.finish_answer(Progress(turn.answer["id"], 0, EVENTS), "done", fold(EVENTS), (90, 10))
    statement = "SELECT input_tokens, output_tokens FROM messages WHERE role = 'assistant'"
    [row] = await any_store.engine.read(lambda sql: sql(statement))
    assert (row["input_tokens"], row["output_tokens"]) == (90, 10)
    await any_store.delete_conversation("alice", turn.conversation["id"])
    with pytest.raises(TooMany, match="the 100 tokens that you have for a day") as refused:
        await begin(any_store)
    assert 0 < refused.value.retry_after <= 86_400
    assert await any_store.list_conversations("alice", 10) == []
    await begin(any_store, "bob")


def test_readers_of_one_answer(make_server: Callable[..., Server]) -> None:
    """An answer has at most so many readers at once; when some have left there is room for others."""
    server = make_server(script="tests/paced.py")
    with server.client(limits=httpx.Limits(max_connections=None)) as client, ExitStack() as stack:
        program = "say 2000 50"
        first = stack.enter_context(client.stream("POST", "/chatkit", json={"message": program}))
        path = f"/api/conversations/{first.headers['x-thread-id']}/stream"
        joined = [stack.enter_context(client.stream("GET", path)) for _ in range(READERS + 5)]
        assert [response.status_code for response in joined] == [200] * (READERS - 1) + [429] * 6
        joined[0].close()
        deadline = time.monotonic() + PATIENCE
        while (again := stack.enter_context(client.stream("GET", path))).status_code != 200:
            assert time.monotonic() < deadline
        client.post(path.replace("/stream", "/stop"))
        assert again.status_code == 200


def test_large_answers_at_a_time(make_server: Callable[..., Server]) -> None:
    """A user is sent so many answers of over a megabyte at a time; small ones, and other users, are served."""
    server = make_server(script="tests/unpaced.py")
    with server.client() as client, server.client("bob") as bob, ExitStack() as stack:
        path = f"/api/conversations/{client.say('help').thread}"
        columns = "conversation_id, content, role, status, created_at"
        row = f"INSERT INTO messages ({columns}) VALUES (1, ?, 'user', 'done', '')"
        with closing(sqlite3.connect(server.database, timeout=PATIENCE)) as file:
            file.executemany(row, [("x" * 1_000_000,)] * 12)  # more than the sockets hold
            file.commit()
        slow = [stack.enter_context(client.stream("GET", path)) for _ in range(LARGE)]
        assert [response.status_code for response in slow] == [200] * LARGE
        refused = client.get(path)
        assert (refused.status_code, "loading too much" in refused.json()["detail"]) == (429, True)
        assert client.get("/api/export").status_code == 429
        assert client.get("/api/conversations").status_code == 200
        assert bob.say("help").status == 200
        assert len(slow[0].read()) > 12e6
        deadline = time.monotonic() + PATIENCE
        while stack.enter_context(client.stream("GET", path)).status_code != 200:
            assert time.monotonic() < deadline


def test_bodies_in_flight(make_server: Callable[..., Server]) -> None:
    """A user sends so many bodies at a time; one more is refused, and other users are not."""
    server = make_server(script="tests/unpaced.py")
    head = "POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    with server.client() as client, server.client("bob") as bob, ExitStack() as stack:
        for _ in range(BODIES):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            half.sendall(f'{head}Authorization: {client.headers["authorization"]}\r\n\r\n{{"title"'.encode())
        deadline = time.monotonic() + PATIENCE
        while client.post("/api/tasks", json={"title": "x"}).status_code != 429:
            assert time.monotonic() < deadline
        assert bob.post("/api/tasks", json={"title": "x"}).status_code == 201
        assert client.get("/api/tasks").status_code == 200


# ---- an address's share ----


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"MAX_CONNECTIONS_PER_ADDRESS": 3}, 3),
        ({"MAX_CONNECTIONS_PER_ADDRESS": 3, "TRUSTED_PROXIES": "192.0.2.1"}, 3),
        ({"MAX_CONNECTIONS_PER_ADDRESS": 3, "TRUSTED_PROXIES": "127.0.0.0/8"}, 8),
    ],
)
def test_connections_of_one_address(
    make_server: Callable[..., Server], limits: dict[str, str | int], kept: int
) -> None:
    """An address has so many connections, and one more is closed at once; a trusted proxy has any number."""
    server = make_server(script="tests/unpaced.py", **limits)
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(8)]
        time.sleep(0.5)  # more would be closed meanwhile
        closed = select.select(made, [], [], 0)[0]
        assert len(made) - len(closed) == kept
    deadline = time.monotonic() + PATIENCE
    while True:  # they are counted no longer
        try:
            assert httpx.get(f"{server.url}/health").status_code == 200
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline


def test_wrong_networks_are_said_at_the_start() -> None:
    """What is no address is a sentence."""
    with pytest.raises(BadSetting, match="TRUSTED_PROXIES is 'proxy': it must be addresses or networks"):
        Settings.from_env({"TRUSTED_PROXIES": "proxy"})


def test_networks_of_ipv6_are_counted_as_one() -> None:
    """Whoever has one address of IPv6 has very many; one of IPv4 in IPv6's clothes is that of IPv4."""
    connections = Connections(10, None, ())
    assert connections.network_of(("2001:db8:1:2:3::4", 1)) == "2001:db8:1:2::/64"
    assert connections.network_of(("::ffff:192.0.2.7", 1)) == connections.network_of(("192.0.2.7", 1)) == "192.0.2.7"
    assert connections.network_of(("fe80::1%eth0", 1)) == "fe80::/64"
    assert connections.network_of(("::1", 1)) == connections.network_of(None) == ""
