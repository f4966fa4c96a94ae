"""What a page that stays open learns of changes (`ETag`, `If-None-Match`), and how it gets a part of a long list."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from conftest import Client, Server, opened

from todochat.db import Limits, Progress, Store, TurnRequest
from todochat.events import fold


def tag_of(client: Client, path: str) -> str:
    """Return the tag of what is there now, and check that it is not sent to whoever has it."""
    tag, after, again = "", "another", list[httpx.Response]()
    while tag != after:  # a live answer has changed meanwhile
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        tag = answer.headers["etag"]
        again = [client.get(path, headers={"If-None-Match": known}) for known in (tag, f'"other", W/{tag}', "*")]
        after = client.get(path).headers["etag"]
    for answer in again:
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": f'"x{tag[2:]}'}).status_code == 200
    return str(tag)


def test_tasks_have_another_tag_after_each_change(alice: Client) -> None:
    """Whatever is done to a task, by whatever way, gives the list another tag; what is done to none does not."""
    tags = [tag_of(alice, "/api/tasks")]

    def changed() -> bool:
        tags.append(tag_of(alice, "/api/tasks"))
        return tags[-1] not in tags[:-1]

    first, second = (alice.post("/api/tasks", json={"title": title}).json()["id"] for title in ("a", "b"))
    assert changed()
    for change in ({"title": "c"}, {"due": "2026-12-01"}, {"completed": True}, {"completed": False}, {"title": "a"}):
        assert alice.patch(f"/api/tasks/{first}", json=change).status_code == 200
        assert changed()
    alice.say("complete b")
    assert changed()
    alice.delete(f"/api/tasks/{second}")
    alice.post("/api/tasks", json={"title": "b"})
    assert changed()
    assert alice.patch(f"/api/tasks/{second}", json={"title": "x"}).status_code == 404
    assert not changed()


def test_conversations_have_another_tag_after_each_change(carol: Client) -> None:
    """Beginning, using, renaming and deleting conversations, a live answer, its pieces and its end are all noticed."""
    seen: set[tuple[str, str]] = set()

    def changed(*paths: str) -> bool:
        tags = {(path, tag_of(carol, path)) for path in paths}
        new = tags - seen
        seen.update(tags)
        return len(new) == len(paths)

    listed = "/api/conversations"
    assert changed(listed)
    thread = carol.say("say 1 0").thread
    one = f"{listed}/{thread}"
    assert changed(listed, one)
    with carol.stream("POST", "/chatkit", json={"message": "say 2000 50", "thread_id": thread}) as live:
        frames = (line for line in live.iter_lines() if line.startswith("data: "))
        next(frames)
        assert changed(listed, one)
        assert carol.get(listed).json()[0]["live"] is True
        assert carol.get(one).json()["live"] is True
        for _ in range(2):  # pieces of a live answer are noticed when they are stored
            assert any(changed(one) for _ in range(200))
        carol.post(f"{one}/stop")
        assert changed(listed, one)
        assert carol.get(one).json()["live"] is False
    assert carol.patch(one, json={"title": "new"}).json()["live"] is False
    assert changed(listed, one)
    answer = carol.messages(thread)[-1]["id"]
    feedback = {"thread_id": str(thread), "item_ids": [f"{answer}.0"], "kind": "positive"}
    assert carol.post("/chatkit", json={"type": "items.feedback", "params": feedback}).status_code == 200
    assert changed(one)
    assert not changed(one)
    question = carol.messages(thread)[0]["id"]
    assert carol.read("POST", f"{one}/retry", json={"message_id": question}).complete
    assert changed(listed, one)
    carol.say("say 1 0")
    assert changed(listed)
    carol.delete(one)
    assert changed(listed)
    assert carol.get(one, headers={"If-None-Match": "*"}).status_code == 404


def test_users_have_different_tags(alice: Client, bob: Client) -> None:
    """Two users with nothing have tags of their own: a browser may keep the one's when the other signs in."""
    for path in ("/api/tasks", "/api/conversations"):
        assert tag_of(alice, path) != tag_of(bob, path)


@pytest.mark.sqlite
def test_pages_of_other_hosts_can_use_tags(make_server: Callable[..., Server]) -> None:
    """A page from another origin that is allowed may send If-None-Match, and read the ETag."""
    server = make_server(script="tests/unpaced.py", CORS_ORIGINS="http://localhost:3000")
    ask = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,if-none-match"}
    origin = {"Origin": "http://localhost:3000"}
    assert httpx.options(f"{server.url}/api/tasks", headers=origin | ask).status_code == 200
    with server.client("cors", headers=origin) as client:
        assert "etag" in client.get("/api/tasks").headers["access-control-expose-headers"].lower()


@pytest.mark.anyio
async def test_changes_at_the_same_instant_have_different_versions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that stands still hides no change: versions are counted, and not times."""
    for module in ("db", "store.tasks"):
        monkeypatch.setattr(f"todochat.{module}.utc_now", lambda **_: "2026-01-01T00:00:00.000000Z")
    versions: list[str] = []
    one = (await store.begin_turn(TurnRequest("alice", "hi", "hi"), Limits())).answer["id"]

    async def noted() -> None:
        versions.append(await store.version_of_conversations("alice"))
        versions.append(str(await store.version_of_conversation("alice", 1)))
        versions.append(await store.version_of_tasks("alice"))

    await noted()
    await store.finish_answer(Progress(one, 0, []), "done", fold([]))
    task = await store.add_task("alice", "x")
    await noted()
    await store.rename_conversation("alice", 1, "x")
    await store.update_task("alice", task["id"], title="x")
    await noted()
    for kind in range(3):
        assert len(set(versions[kind::3])) == 3


@pytest.mark.anyio
async def test_what_is_stored_twice_of_a_live_answer_is_noticed(store: Store) -> None:
    """Events that are stored again from the same number on, and more of them, make another version."""
    turn = await store.begin_turn(TurnRequest("alice", "hi", "hi"), Limits())
    versions = set()
    for text in ("a", "ab", "abc"):
        new = Progress(turn.answer["id"], 0, [{"type": "started"}, {"type": "text", "content": text}])
        await store.save_progress(lambda new=new: [new])  # type: ignore[misc]
        versions.add(await store.version_of_conversation("alice", 1))
    assert len(versions) == 3


# ---- pages and searches ----


def test_messages_come_in_pages_from_the_last_one_back(carol: Client) -> None:
    """`limit` gives the last messages, oldest first, and `before` those that come before one."""
    thread = carol.say("say 1 0").thread
    for _ in range(2):
        carol.say("say 1 0", thread)
    path, ids = f"/api/conversations/{thread}", [message["id"] for message in carol.messages(thread)]

    def page(**parameters: int) -> list[int]:
        return [message["id"] for message in carol.get(path, params=parameters).json()["messages"]]

    assert page(limit=4) == ids[2:]
    assert page(limit=4, before=ids[2]) == ids[:2]
    assert page(before=ids[3]) == ids[:3]
    assert page(limit=0) == page(limit=4, before=ids[0]) == []


def test_tasks_come_in_pages(alice: Client) -> None:
    """`limit` and `after` page through the tasks, of one status or of all."""
    ids = [alice.post("/api/tasks", json={"title": f"t{n}"}).json()["id"] for n in range(5)]
    alice.patch(f"/api/tasks/{ids[1]}", json={"completed": True})

    def page(**parameters: Any) -> list[int]:
        return [task["id"] for task in alice.get("/api/tasks", params=parameters).json()]

    assert page(limit=2) == ids[:2]
    assert page(limit=2, after=ids[1]) == ids[2:4]
    assert page(limit=2, after=ids[0], status="pending") == ids[2:4]
    assert page(after=ids[4]) == page(limit=0) == []


@pytest.mark.anyio
@pytest.mark.sqlite
async def test_no_page_of_tasks_is_longer_than_a_thousand(tmp_path: Any, make_server: Callable[..., Server]) -> None:
    """A thousand tasks come at once at most, also to a client that asks for more."""
    async with opened(tmp_path) as store:
        for n in range(1001):
            await store.add_task("alice", f"t{n}")
    with make_server().client("alice") as alice:
        assert len(alice.tasks()) == len(alice.get("/api/tasks?limit=5000").json()) == 1000
        assert [task["title"] for task in alice.get("/api/tasks?after=1000").json()] == ["t1000"]


def test_conversations_are_found_by_title_and_by_what_was_said(alice: Client, bob: Client) -> None:
    """`q` finds what stands in a title, a question or an answer, in any case of letters; no sign is special."""
    first = alice.say("add Äpfel und Über-Brot").thread
    second = alice.say("add 100%_sure! things").thread
    third = alice.say("add КУПИТЬ молоко").thread
    alice.patch(f"/api/conversations/{third}", json={"title": "Dairy"})
    bob.say("add apples")

    def found(q: str) -> list[int]:
        return [c["id"] for c in alice.get("/api/conversations", params={"q": q}).json()]

    for q in ("äpfel", "ÄPFEL", "Äpfel und", "über", "BROT", "added: äpf"):
        assert found(q) == [first], q
    for q in ("100%", "%_", "SURE!", " 100%_sure! THINGS "):
        assert found(q) == [second], q
    assert found("dairy") == found("купить") == found("Молоко") == [third]
    assert found("offline demo") == found("") == [third, second, first]
    assert found("1%s") == found("apples") == found("nothing like it") == []
    assert alice.get("/api/conversations?q=add&limit=1&offset=1").json()[0]["id"] == second
    assert alice.get("/api/conversations", params={"q": "x" * 101}).status_code == 400


# ---- due dates, over REST ----


def test_a_task_has_a_due_date(alice: Client) -> None:
    """`due` is a date: set with a new task, changed, and removed with null."""
    task = alice.post("/api/tasks", json={"title": "a", "due": "2026-12-01"}).json()
    assert task["due"] == "2026-12-01"
    path = f"/api/tasks/{task['id']}"
    assert alice.patch(path, json={"due": "2028-02-29"}).json()["due"] == "2028-02-29"
    assert alice.patch(path, json={"title": "b"}).json()["due"] == "2028-02-29"
    assert alice.tasks()[0]["due"] == "2028-02-29"
    assert alice.patch(path, json={"due": None}).json()["due"] is None


@pytest.mark.parametrize(
    "due",
    ["", "tomorrow", "2026-02-30", "2026-1-1", "20261201", "2026-W01-1", "2026-12-01T00:00", 20261201, True, [], {}],
)
def test_what_is_no_date_is_a_400(alice: Client, due: Any) -> None:
    """Anything but a day that there is, written as 2026-12-01, is refused in words, and nothing is stored."""
    task = alice.post("/api/tasks", json={"title": "a"}).json()
    for method, path in (("POST", "/api/tasks"), ("PATCH", f"/api/tasks/{task['id']}")):
        answer = alice.request(method, path, json={"title": "b", "due": due})
        assert answer.status_code == 400
        assert "2026-12-01" in answer.json()["detail"]
    assert alice.tasks() == [task]
    assert json.dumps(task["due"]) == "null"
