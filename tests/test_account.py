"""All that is stored of one user: as one document, and its end."""

import json
import socket
import time
from collections.abc import Callable

from conftest import Client, Server


def test_an_export_has_everything_and_nothing_of_others(alice: Client, bob: Client) -> None:
    """It is one JSON document with what the REST API shows: every message, every task, in pages or not."""
    threads = [alice.say("add buy milk", headers={"Idempotency-Key": "key-1"}).thread, alice.say("help").thread]
    for _ in range(30):
        alice.say("help", threads[1])
    bob.say("add buy bread")
    exported = alice.get("/api/export")
    assert exported.headers["content-type"].startswith("application/json")
    document = exported.json()
    assert document["user"] == alice.user
    for shown in document["conversations"]:
        assert shown == alice.get(f"/api/conversations/{shown['id']}").json()
    assert [shown["id"] for shown in document["conversations"]] == threads
    assert document["tasks"] == alice.tasks()
    assert [key["key"] for key in document["idempotency_keys"]] == ["key-1"]
    assert bob.user not in exported.text
    assert "bread" not in exported.text


def test_deleting_everything_ends_what_is_live(paced: Server, carol: Client) -> None:
    """Nothing is left of the user, and all of it of others; a live answer ends, and the user can begin again."""
    with paced.client("dora") as dora:
        kept = dora.say('call add_task {"title": "x"}\nsay 1 0').thread
        carol.post("/api/tasks", json={"title": "y"})
        with carol.stream("POST", "/chatkit", json={"message": "say 1000 20"}) as live:
            lines = live.iter_lines()
            next(lines)
            assert carol.delete("/api/me").json() == {"status": "deleted"}
            rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert rest[-1]["type"] == "error"
        document = carol.get("/api/export").json()
        assert [document[name] for name in ("conversations", "tasks", "idempotency_keys", "token_counts")] == [[]] * 4
        assert len(dora.messages(kept)) == 2
        assert len(dora.tasks()) == 1
    assert carol.say("say 1 0").text == "w0 "


def test_a_broken_off_mcp_request_is_no_traceback(make_server: Callable[..., Server]) -> None:
    """Who leaves in the middle of a body leaves nothing in the log."""
    server = make_server(script="tests/unpaced.py")
    with server.client() as client:
        head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        head += f"Accept: application/json, text/event-stream\r\nAuthorization: {client.headers['authorization']}\r\n"
        for half in ('{"jsonrpc"', ""):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(f"{head}\r\n{half}".encode())
                time.sleep(0.2)  # so that it is a request in the making, and not none
        client.get("/health").raise_for_status()
    assert "Traceback" not in server.log.read_text()
