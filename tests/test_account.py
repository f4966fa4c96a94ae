"""All that is stored of one user: as one document, and its end."""

import json
import socket
import time
from collections.abc import Callable

import pytest
from conftest import Client, Server

from todochat import account
from todochat.db import Limits, Store
from todochat.runs import Runs
from todochat.shares import Shares
from turns import begin


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


@pytest.mark.anyio
async def test_an_export_goes_on_when_a_conversation_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation that is deleted while the document is sent is not in it, and all the others are."""
    monkeypatch.setattr(account, "PAGE", 2)
    for _ in range(7):
        await begin(store, limits=Limits(live_per_user=9))
    document = ""
    async for piece in account._document(store, Shares(10), "alice"):
        document += piece
        if '"id": 2, "title"' in piece:  # it ends the first page, and 4 is on the next one
            await store.delete_conversation("alice", 2)
            await store.delete_conversation("alice", 4)
    exported = [conversation["id"] for conversation in json.loads(document)["conversations"]]
    assert exported == [1, 2, 3, 5, 6, 7]


@pytest.mark.anyio
async def test_however_much_there_is_all_of_it_is_deleted(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is deleted a part at a time, as a server ends a statement that takes too long; nothing of others goes."""
    monkeypatch.setattr(account, "SLICE", 3)
    for user in ["alice"] * 8 + ["bob"]:
        await begin(any_store, user, limits=Limits(live_per_user=9))
    await any_store.add_task("alice", "x")
    await account.delete(any_store, Runs(any_store, Limits(), "none"), "alice")
    assert await any_store.list_conversations("alice", 9) == await any_store.list_tasks("alice") == []
    assert len(await any_store.list_conversations("bob", 9)) == 1


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
