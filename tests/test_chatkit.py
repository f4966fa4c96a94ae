"""The ChatKit protocol, over real HTTP.

Every frame and body is checked against the types of openai-chatkit, and every streamed answer by `Checker`.
"""

import asyncio
import contextlib
import json
import re
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatkit.types import Page, Thread, ThreadItem, ThreadStreamEvent
from conftest import PATIENCE, ROOT, Client, Server, awaited
from pydantic import TypeAdapter

from todochat.db import Limits, Store, Turn, TurnRequest
from todochat.dialects import chatkit
from todochat.events import Event, Message
from todochat.runs import Run, Runs

EVENT: TypeAdapter[Any] = TypeAdapter(ThreadStreamEvent)
ITEMS: TypeAdapter[Any] = TypeAdapter(Page[ThreadItem])
THREADS: TypeAdapter[Any] = TypeAdapter(Page[Thread])
THREAD: TypeAdapter[Any] = TypeAdapter(Thread)

Json = dict[str, Any]


def conform(text: str, adapter: "TypeAdapter[Any]") -> Json:
    """Return what the JSON says, if it is what the type says and nothing besides: no other field, no null."""
    value: Json = json.loads(text)
    assert adapter.dump_python(adapter.validate_json(text), mode="json", exclude_unset=True) == value
    assert "null" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    return value


def said(text: str, **more: Any) -> Json:
    """Return the `input` of a message, as the component sends it."""
    return {
        "content": [{"type": "input_text", "text": text}],
        "attachments": [],
        "quoted_text": None,
        "inference_options": {},
    } | more


class Checker:
    """Follows a stream as the component does, and fails where that would go wrong."""

    def __init__(self, used: set[str]) -> None:
        self.used = used  # the ids of all items that this thread ever had
        self.items: dict[str, Json] = {}
        self.open: set[str] = set()
        self.ended = False  # by an error

    def take(self, event: Json) -> None:
        """Apply one event."""
        assert not self.ended, f"after the error came {event}"
        match event:
            case {"type": "thread.item.added", "item": item}:
                self._new(item)
                self.open.add(item["id"])
                self.items[item["id"]] = json.loads(json.dumps(item))
            case {"type": "thread.item.updated", "item_id": item_id, "update": update}:
                assert item_id in self.open, f"an update of an item that is not open: {event}"
                self._update(self.items[item_id], update)
            case {"type": "thread.item.done", "item": {"type": "user_message"} as item}:
                self._new(item)
                self.items[item["id"]] = item
            case {"type": "thread.item.done", "item": item}:
                self.open.remove(item["id"])
                seen = self.items[item["id"]]
                if item["type"] == "workflow":
                    assert seen["workflow"]["tasks"] == item["workflow"]["tasks"]
                    assert not any(task["status_indicator"] == "loading" for task in item["workflow"]["tasks"])
                    assert (seen["workflow"]["expanded"], item["workflow"]["expanded"]) == (True, False)
                    seen = seen | {"workflow": item["workflow"]}
                assert seen == item
                self.items[item["id"]] = item
            case {"type": "error"}:
                assert not self.open, "an error with items still open"
                self.ended = True

    def _new(self, item: Json) -> None:
        assert item["id"] not in self.used, f"the id {item['id']} is used again"
        self.used.add(item["id"])

    def _update(self, item: Json, update: Json) -> None:
        match update:
            case {"type": "assistant_message.content_part.added", "content_index": n, "content": part}:
                assert n == len(item["content"])
                item["content"].append(dict(part))
            case {"type": "assistant_message.content_part.text_delta", "content_index": n, "delta": delta}:
                assert delta
                item["content"][n]["text"] += delta
            case {"type": "assistant_message.content_part.done", "content_index": n, "content": part}:
                assert item["content"][n] == part, "the deltas do not add up to the text"
            case {"type": "workflow.task.added", "task_index": n, "task": task}:
                assert n == len(item["workflow"]["tasks"])
                item["workflow"]["tasks"].append(task)
            case {"type": "workflow.task.updated", "task_index": n, "task": task}:
                item["workflow"]["tasks"][n] = task
            case _:
                raise AssertionError(f"not in our dialect: {update}")


class Stream:
    """What was seen of a streamed answer."""

    def __init__(self, headers: httpx.Headers) -> None:
        self.thread = headers["x-thread-id"]
        self.events: list[Json] = []
        self.items: list[Json] = []

    def of(self, kind: str) -> list[Json]:
        """Return the events of one type."""
        return [event for event in self.events if event["type"] == kind]

    @property
    def shape(self) -> list[Any]:
        """Return the answer's items as what was said, and the lists of what was done."""
        return shape(self.items)


def shape(items: list[Json]) -> list[Any]:
    """Return texts as texts, thoughts as {text} and tool workflows as lists of (title, status, content).

    The id that a result begins with is shown as 1.
    """
    parts: list[Any] = []
    for item in items:
        if item["type"] == "assistant_message":
            parts.append(item["content"][0]["text"])
        elif item["type"] == "workflow":
            tasks = item["workflow"]["tasks"]
            if item["workflow"]["type"] == "reasoning":
                parts.append({tasks[0]["content"]})
            else:
                parts.append([(task["title"], task["status_indicator"], task.get("content")) for task in tasks])
                parts[-1] = [(a, b, c and re.sub("^#[0-9]+", "#1", c)) for a, b, c in parts[-1]]
    return parts


class Component:
    """A client that speaks as the component does, and checks everything that it sees."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.used: dict[str, set[str]] = {}

    def post(self, kind: str, /, headers: Mapping[str, str] | None = None, **params: Any) -> httpx.Response:
        """Send a request."""
        return self.client.post("/chatkit", json={"type": kind, "params": params}, headers=dict(headers or {}))

    def refused(self, kind: str, /, **params: Any) -> tuple[int, str]:
        """Send a request that is refused; return the status and the sentence."""
        response = self.post(kind, **params)
        assert response.headers["content-type"] == "application/json"
        assert set(response.json()) == {"detail"}
        return response.status_code, response.json()["detail"]

    def json(self, kind: str, /, **params: Any) -> Json:
        """Send a request that is answered with JSON."""
        response = self.post(kind, **params)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        if kind in ("threads.delete", "items.feedback"):
            assert response.json() == {}
            return {}
        return conform(response.text, {"threads.list": THREADS, "items.list": ITEMS}.get(kind, THREAD))

    def all_items(self, thread: str) -> list[Json]:
        """Return the items of a thread, oldest first."""
        found: list[Json] = []
        page: Json = {"has_more": True, "after": None}
        while page["has_more"]:
            page = self.json("items.list", thread_id=thread, order="asc", limit=9999, after=page["after"])
            found += page["data"]
        return found

    def create(self, text: str, **more: Any) -> Stream:
        """Begin a thread."""
        return self.stream("threads.create", input=said(text), **more)

    def add(self, thread: str, text: str, **more: Any) -> Stream:
        """Say something in a thread."""
        return self.stream("threads.add_user_message", thread_id=thread, input=said(text), **more)

    def stream(
        self,
        kind: str,
        *,
        until: Callable[[Json], bool] | None = None,
        headers: Mapping[str, str] | None = None,
        **params: Any,
    ) -> Stream:
        """Read an answer to its end and check it, or `until` an event after which the reader goes away."""
        body = {"type": kind, "params": params}
        with self.client.stream("POST", "/chatkit", json=body, headers=dict(headers or {})) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            stream = Stream(response.headers)
            checker = Checker(self.used.setdefault(stream.thread, set()))
            for frame in _frames(response):
                event = conform(frame, EVENT)
                checker.take(event)
                stream.events.append(event)
                if until is not None and until(event):
                    stream.items = list(checker.items.values())
                    return stream
        assert not checker.open, f"never done: {checker.open}"
        stream.items = list(checker.items.values())
        self._check_whole(kind, stream)
        return stream

    def _check_whole(self, kind: str, stream: Stream) -> None:
        opening = {
            "threads.create": ["thread.created", "thread.item.done", "thread.updated", "stream_options"],
            "threads.add_user_message": ["thread.item.done", "stream_options"],
            "threads.retry_after_item": ["stream_options"],
        }[kind]
        assert [event["type"] for event in stream.events[: len(opening)]] == opening
        if "deleted" not in json.dumps(stream.events[-1]):
            stored = self.all_items(stream.thread)
            answer = [item for item in stream.items if item["type"] != "user_message"]
            questions = [n for n, item in enumerate(stored) if item["type"] == "user_message"]
            assert stored[questions[-1] + 1 :] == answer
            assert stored[len(stored) - len(stream.items) :] == stream.items


def _frames(response: httpx.Response) -> Iterator[str]:
    received = ""
    for text in response.iter_text():
        *frames, received = (received + text).split("\n\n")
        for frame in frames:
            assert "\n" not in frame, f"not a frame: {frame!r}"
            if frame != ": ping":
                assert frame.startswith("data: ")
                yield frame[6:]
    assert received == ""


@pytest.fixture
def chat(paced: Server, request: pytest.FixtureRequest) -> Iterator[Component]:
    """The component of one user of the paced server."""
    with paced.client(f"alice of {request.node.name!a}"[:255]) as client:
        yield Component(client)


@pytest.fixture
def other(paced: Server, request: pytest.FixtureRequest) -> Iterator[Component]:
    """The component of another."""
    with paced.client(f"bob of {request.node.name!a}"[:255]) as client:
        yield Component(client)


def is_delta(event: Json) -> bool:
    """Return whether an event brings a piece of text."""
    return str(event.get("update", {}).get("type")).endswith("text_delta")


def eventually(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until something is the case, and return it."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return value


ADD_MILK = 'call add_task {"title": "Buy milk"}'
MILK_ADDED = ("Add task: Buy milk", "complete", "#1 Buy milk")


# ---- answers ----


def test_new_thread_is_created_titled_and_answered(chat: Component) -> None:
    """A first message makes a thread, which is titled by it, and the answer streams as text."""
    stream = chat.create("say 3 0")
    created, question, updated, options, progress = stream.events[:5]
    assert created["thread"]["id"] == stream.thread
    assert "title" not in created["thread"]
    assert question["item"]["content"] == [{"type": "input_text", "text": "say 3 0"}]
    assert updated["thread"]["title"] == "say 3 0"
    assert options["stream_options"] == {"allow_cancel": True}
    assert progress == {"type": "progress_update", "text": "Processing your request..."}
    assert stream.shape == ["w0 w1 w2 "]


def test_text_before_and_after_several_tools(chat: Component) -> None:
    """Calls with nothing between them are the tasks of one workflow, and the text around them is messages."""
    task = chat.client.post("/api/tasks", json={"title": "Call Ann"}).json()["id"]
    stream = chat.create(
        f'say 2 0\n{ADD_MILK}\ncall list_tasks\nsay 2 0\ncall complete_task {{"task_id": {task}}}\nsay 1 0'
    )
    assert stream.shape == [
        "w0 w1 ",
        [MILK_ADDED, ("List tasks", "complete", "2 tasks")],
        "w0 w1 ",
        [(f"Complete task {task}", "complete", "#1 Call Ann (done)")],
        "w0 ",
    ]
    assert [item["id"].split(".")[1] for item in stream.items[1:]] == ["0", "1", "2", "3", "4"]
    tasks = [e["update"] for e in stream.events if str(e.get("update", {}).get("type")).startswith("workflow")]
    assert [task["task"]["status_indicator"] for task in tasks[:4]] == ["loading", "loading", "complete", "complete"]


def test_answer_of_tools_alone(chat: Component) -> None:
    """Calls of one turn after another, without a word between them, are one workflow."""
    stream = chat.create(f"{ADD_MILK}\nquiet 0\ncall list_tasks")
    assert stream.shape == [[MILK_ADDED, ("List tasks", "complete", "1 task")]]
    assert stream.items[-1]["workflow"]["summary"] == {"title": "2 steps"}


def test_reasoning_is_a_workflow_of_its_own(chat: Component) -> None:
    """A reasoning summary is a thought before the text or the call that it led to, and stays after the stream."""
    stream = chat.create(f"think 4 0\nsay 1 0\nthink 2 0\n{ADD_MILK}\nthink 1 0\nsay 1 0")
    assert stream.shape == [{"t0 t1 t2 t3 "}, "w0 ", {"t0 t1 "}, [MILK_ADDED], {"t0 "}, "w0 "]


def test_parts_of_a_reasoning_summary_are_paragraphs(chat: Component) -> None:
    """A summary that comes in parts is one thought, with the parts as paragraphs."""
    assert chat.create("think 2 0\nthink 1 0\nsay 1 0").shape == [{"t0 t1 \n\nt0 "}, "w0 "]


def test_halves_of_characters_in_reasoning_are_put_together(chat: Component) -> None:
    """A surrogate pair that comes in two deltas is one character, and a half alone is something that can be shown."""
    stream = chat.create('think ["a\\ud83d", "\\ude00 b", "\\ud83dc"]\nsay 1 0')
    assert stream.shape == [{"a\U0001f600 b\ufffdc"}, "w0 "]


def test_result_of_any_depth_can_be_read_again(chat: Component) -> None:
    """However deep a tool's result is, the stream ends cleanly, and what is stored can be read."""
    stream = chat.create("\n".join(f'call nest {{"depth": {depth}}}' for depth in (50, 150, 970, 981, 5000)))
    assert [status for _, status, _ in stream.shape[0]] == ["complete"] * 5
    messages = chat.client.messages(int(stream.thread))
    assert [type(call["result"]) for call in messages[-1]["tool_calls"]] == [list, str, str, str, str]
    assert chat.add(stream.thread, "say 1 0").shape == ["w0 "]


def test_long_reasoning_is_not_sent_again_for_each_word(chat: Component) -> None:
    """A thought is resent as it grows, and all its frames together stay within a few times its length."""
    stream = chat.create("think 3000 0\nsay 1 0")
    (thought,) = stream.shape[0]
    assert len(thought) == sum(len(f"t{n} ") for n in range(3000))
    assert len(json.dumps(stream.events)) < 25 * len(thought)


def test_failed_tool_says_so(chat: Component) -> None:
    """A tool that did not do its work shows why."""
    stream = chat.create('call complete_task {"task_id": 9999}\nsay 1 0')
    assert stream.shape[0] == [("Complete task 9999", "complete", "Did not work: There is no task 9999.")]


def test_failure_in_mid_text(chat: Component) -> None:
    """A turn that fails closes what is open, then says so with a sentence and offers to retry; what was said stays."""
    stream = chat.create(f"say 2 0\n{ADD_MILK}\nsay 3 20\nfail")
    assert stream.shape[:2] == ["w0 w1 ", [MILK_ADDED]]
    assert stream.shape[2].startswith("w0 ")
    error = stream.events[-1]
    assert (error["type"], error["code"], error["allow_retry"]) == ("error", "custom", True)
    assert "no client may see" not in error["message"]
    assert chat.client.messages(int(stream.thread))[-1]["status"] == "failed"


def test_failure_before_anything(chat: Component) -> None:
    """A turn that fails at once has no items, only the error."""
    stream = chat.create("fail")
    assert stream.shape == []
    assert stream.events[-1]["type"] == "error"


# ---- stop ----


def test_disconnect_is_stop(chat: Component) -> None:
    """Going away ends the run, keeps what was said, runs no later tool, and the model is told on the next turn."""
    seen = chat.create(f"say 20 20\n{ADD_MILK}\nsay 1 0", until=is_delta)
    answer = eventually(lambda: [m for m in chat.client.messages(int(seen.thread)) if m["status"] == "stopped"])[0]
    assert answer["content"].startswith("w0 ")
    assert len(answer["content"].split()) < 20
    assert shape(chat.all_items(seen.thread)) == [answer["content"]]
    again = chat.add(seen.thread, "recall")
    assert "[The user stopped this answer here.]" in again.shape[0]
    assert chat.client.tasks() == []


def test_disconnect_while_a_tool_runs(chat: Component) -> None:
    """A call that was cut off is stored as one that did not end, and does not spin for ever."""

    def is_loading(event: Json) -> bool:
        return bool(event.get("update", {}).get("task", {}).get("status_indicator") == "loading")

    seen = chat.create('say 1 0\ncall wait {"seconds": 20}\nsay 1 0', until=is_loading)
    eventually(lambda: chat.client.messages(int(seen.thread))[-1]["status"] == "stopped")
    assert shape(chat.all_items(seen.thread)) == ["w0 ", [("Wait", "none", "Cut off before it was done.")]]
    assert "was cut off" in chat.add(seen.thread, "recall").shape[0]


def test_a_message_right_after_a_stop_is_answered(chat: Component) -> None:
    """Who has closed the connection to stop an answer can write at once, also while the last tool is still cut off."""

    def called(event: Json) -> bool:
        return bool(event.get("update", {}).get("task", {}).get("status_indicator") == "loading")

    thread = chat.create("say 1 0").thread
    for n in range(10):
        program, until = ("say 100 20", is_delta) if n % 2 else ('call wait {"seconds": 20}', called)
        chat.add(thread, program, until=until)
        chat.used.clear()
        assert chat.add(thread, "say 1 0").shape == ["w0 "]


def test_the_last_reader_of_a_repeated_request_stops_it(chat: Component) -> None:
    """A request that was sent again goes on when the connection of the first try dies, and ends with its last one."""
    body = {"type": "threads.create", "params": {"input": said("say 20000 10")}}
    headers = {"Idempotency-Key": "again"}
    with chat.client.stream("POST", "/chatkit", json=body, headers=headers) as second:
        with chat.client.stream("POST", "/chatkit", json=body, headers=headers) as first:
            assert first.headers["x-thread-id"] == second.headers["x-thread-id"]
        thread = int(second.headers["x-thread-id"])
        time.sleep(0.5)  # for as long as a stop would take to be seen, and longer
        assert chat.client.messages(thread)[-1]["status"] == "streaming"
    eventually(lambda: chat.client.messages(thread)[-1]["status"] == "stopped")


def test_stop_from_elsewhere_ends_the_stream_cleanly(chat: Component) -> None:
    """When the answer is stopped in another window this one's stream closes its items and ends, without an error."""
    streams: list[Stream] = []
    reader = threading.Thread(target=lambda: streams.append(chat.create("say 20000 20\ncall wait {}")))
    reader.start()
    thread = eventually(lambda: chat.client.get("/api/conversations").json())[0]["id"]
    assert chat.client.post(f"/api/conversations/{thread}/stop").status_code == 200
    reader.join(PATIENCE)
    assert streams[0].of("error") == []
    assert chat.client.messages(thread)[-1]["status"] == "stopped"


@pytest.mark.anyio
async def test_late_disconnect_stops_only_its_own_run(store: Store) -> None:
    """A reader that is given up after its answer's end does not stop the next answer of the conversation."""

    async def words(run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        for _ in range(turn.answer["id"]):
            yield {"type": "text", "content": "word "}
            await asyncio.sleep(0.01)

    live = Runs(store, Limits(), "none")

    async def begin(thread: int | None) -> Run:
        asked = TurnRequest("alice", "hi", title="t", conversation_id=thread)
        _, run = await live.begin(asked, awaited(words))
        assert isinstance(run, Run)
        return run

    async def end(run: Run) -> None:
        assert run.conclusion is not None
        await run.conclusion

    first = await begin(None)
    late = await live.stop_when_left(first)
    await end(first)
    second = await begin(first.conversation_id)
    await late()
    await end(second)
    conversation = await store.get_conversation("alice", first.conversation_id)
    await live.close()
    assert conversation is not None
    assert [message["content"] for message in conversation["messages"]] == ["hi", "word " * 2, "hi", "word " * 4]


def test_shutdown_in_mid_answer(make_server: Callable[..., Server]) -> None:
    """When the server ends, so does the stream, with a sentence; what was said is there when it is back."""
    server = make_server(script="tests/paced.py")
    with server.client("alice") as client:
        deltas: list[Json] = []

        def until(event: Json) -> bool:
            deltas.extend([event] if is_delta(event) else [])
            if len(deltas) == 3 and server.process is not None:
                server.process.send_signal(signal.SIGTERM)
                deltas.append({})
            return bool(event["type"] == "error")

        seen = Component(client).create(f"{ADD_MILK}\nsay 500 20", until=until)
    assert "shutting down" in seen.events[-1]["message"]
    assert server.process is not None
    server.process.wait(10)
    server.start()
    with server.client("alice") as client:
        chat = Component(client)
        assert chat.all_items(seen.thread) == seen.items
        assert "was interrupted here" in chat.add(seen.thread, "recall").shape[0]


# ---- retry ----


def test_retry_answers_anew(chat: Component) -> None:
    """A retry removes all that came after the user's message, answers it again, and keeps what came before."""
    first = chat.create("say 1 0")
    second = chat.add(first.thread, ADD_MILK + "\nfail")
    chat.add(first.thread, "say 3 0")
    asked = second.items[0]["id"]
    again = chat.stream("threads.retry_after_item", thread_id=first.thread, item_id=asked)
    assert again.shape == [[("Add task: Buy milk", "complete", "#1 Buy milk")]]
    everything = chat.all_items(first.thread)
    assert everything == [*first.items, second.items[0], *again.items]
    assert [m["role"] for m in chat.client.messages(int(first.thread))] == ["user", "assistant"] * 2


def test_retry_of_what_is_not_the_users_message(chat: Component, other: Component) -> None:
    """Only a user's own message in that very thread can be answered anew; nothing is removed otherwise."""
    stream = chat.create("say 1 0")
    second = chat.create("say 1 0")
    question, answer = (item["id"] for item in stream.items)
    for thread, item in [(stream.thread, answer), (second.thread, question), (stream.thread, "999"), ("99", question)]:
        assert chat.refused("threads.retry_after_item", thread_id=thread, item_id=item) == (404, "Not found.")
    assert other.refused("threads.retry_after_item", thread_id=stream.thread, item_id=question) == (404, "Not found.")
    assert chat.all_items(stream.thread) == stream.items


def test_one_answer_at_a_time(chat: Component) -> None:
    """While an answer is live, another message and a retry get 409, and nothing of it is stored or removed."""
    with chat.client.stream(
        "POST", "/chatkit", json={"type": "threads.create", "params": {"input": said("say 400 10")}}
    ) as response:
        thread = response.headers["x-thread-id"]
        question = chat.client.messages(int(thread))[0]["id"]
        status, sentence = chat.refused("threads.add_user_message", thread_id=thread, input=said("hi"))
        assert (status, "still being written" in sentence) == (409, True)
        assert chat.refused("threads.retry_after_item", thread_id=thread, item_id=str(question))[0] == 409
        assert len(chat.client.messages(int(thread))) == 2


# ---- the two dialects ----


def test_begun_simple_continued_here(chat: Component) -> None:
    """A conversation of the simple dialect has items, and goes on with its tool calls remembered."""
    turn = chat.client.say(f"say 2 0\n{ADD_MILK}\nsay 1 0")
    items = chat.all_items(str(turn.thread))
    assert shape(items) == ["w0 w1 ", [MILK_ADDED], "w0 "]
    recalled = chat.add(str(turn.thread), "recall").shape[0]
    assert '"add_task"' in recalled
    assert "Buy milk" in recalled
    assert chat.all_items(str(turn.thread))[: len(items)] == items


def test_begun_here_continued_simple(chat: Component) -> None:
    """A conversation begun here is read by the REST API and goes on in the simple dialect, its calls remembered."""
    stream = chat.create(f"think 1 0\n{ADD_MILK}\nsay 1 0")
    _, answer = chat.client.messages(int(stream.thread))
    assert set(answer) == set(Message.__annotations__)
    assert answer["tool_calls"][0]["result"]["title"] == "Buy milk"
    turn = chat.client.say("recall", int(stream.thread))
    assert turn.thread == int(stream.thread)
    assert '"add_task"' in turn.text
    assert chat.all_items(stream.thread)[: len(stream.items)] == stream.items


def test_items_of_an_answer_that_is_still_live(chat: Component) -> None:
    """The items of a live answer can be listed: what there is so far, with the running tool as loading."""
    body = {"message": 'say 2 0\ncall wait {"seconds": 20}'}
    with chat.client.stream("POST", "/chatkit", json=body) as response:
        thread = response.headers["x-thread-id"]
        eventually(lambda: shape(chat.all_items(thread)) == ["w0 w1 ", [("Wait", "loading", None)]])
        assert chat.client.post(f"/api/conversations/{thread}/stop").status_code == 200


# ---- threads and items ----


def test_threads_are_listed_newest_first(chat: Component, other: Component) -> None:
    """The list has the user's own threads, without their items, in both orders."""
    other.create("say 1 0")
    threads = [chat.create(f"say {n} 0").thread for n in (1, 2, 3)]
    page = chat.json("threads.list")
    assert [thread["id"] for thread in page["data"]] == threads[::-1]
    assert [thread["title"] for thread in page["data"]] == ["say 3 0", "say 2 0", "say 1 0"]
    assert page["has_more"] is False
    assert [t["id"] for t in chat.json("threads.list", order="asc", limit=9999)["data"]] == threads


def test_thread_by_id_has_its_first_items(chat: Component) -> None:
    """A thread comes with its title and its first page of items, oldest first."""
    stream = chat.create("say 1 0")
    for n in range(10):
        chat.add(stream.thread, f"say {n + 1} 0")
    thread = chat.json("threads.get_by_id", thread_id=stream.thread)
    everything = chat.all_items(stream.thread)
    assert (thread["title"], thread["items"]["has_more"]) == ("say 1 0", True)
    assert thread["items"]["data"] == everything[:20]
    rest = chat.json("items.list", thread_id=stream.thread, order="asc", after=thread["items"]["after"])
    assert thread["items"]["data"] + rest["data"] == everything


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_items_join_up(chat: Component, order: str, limit: int) -> None:
    """Page after page, in either order and of any size, gives every item once."""
    thread = chat.create(f"say 1 0\n{ADD_MILK}\nsay 1 0\ncall list_tasks\nsay 1 0").thread
    chat.add(thread, "fail")
    chat.add(thread, "say 1 0")
    everything = chat.all_items(thread)
    got: list[Json] = []
    after = None
    for _ in range(20):
        page = chat.json("items.list", thread_id=thread, order=order, limit=limit, after=after)
        got += page["data"]
        assert page["has_more"] == (len(got) < len(everything))
        if not page["has_more"]:
            break
        assert len(page["data"]) == limit
        after = page["after"]
    assert got == (everything if order == "asc" else everything[::-1])
    assert len(everything) == 9


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_of_threads_join_up(chat: Component, order: str) -> None:
    """Page after page gives every thread once, also when one of them is used between two pages."""
    threads = [chat.client.say("say 1 0").thread for _ in range(5)]
    first = chat.json("threads.list", order=order, limit=2)
    chat.client.say("say 1 0", int(first["after"]))
    second = chat.json("threads.list", order=order, limit=2, after=first["after"])
    third = chat.json("threads.list", order=order, limit=2, after=second["after"])
    ids = [int(thread["id"]) for page in (first, second, third) for thread in page["data"]]
    assert ids == (threads if order == "asc" else threads[::-1])
    assert (second["has_more"], third["has_more"]) == (True, False)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_stale_cursor_never_starts_over(chat: Component, other: Component, order: str) -> None:
    """A cursor that is gone, unknown, odd or somebody else's gives an empty page."""
    stream = chat.create("say 1 0")
    gone = chat.add(stream.thread, "say 1 0").items[0]["id"]
    chat.stream("threads.retry_after_item", thread_id=stream.thread, item_id=stream.items[0]["id"])
    foreign = other.create("say 1 0")
    empty = {"data": [], "has_more": False}
    for after in [gone, stream.items[1]["id"], foreign.items[0]["id"], "1.9", "0", "99999", "9" * 30, "x", "", "-1"]:
        assert chat.json("items.list", thread_id=stream.thread, order=order, after=after) == empty
    deleted = chat.create("say 1 0").thread
    chat.json("threads.delete", thread_id=deleted)
    for after in [deleted, foreign.thread, "0", "99999", "9" * 30, "x", "", "1.0"]:
        assert chat.json("threads.list", order=order, after=after) == empty


def test_limits_are_clamped(chat: Component) -> None:
    """A limit of any size is taken for the nearest possible one."""
    threads = [chat.client.say("say 1 0").thread for _ in range(2)]
    for limit, count in [(9999, 2), (10**30, 2), (0, 1), (-5, 1), (1, 1), (None, 2)]:
        assert len(chat.json("threads.list", limit=limit)["data"]) == count
        assert len(chat.json("items.list", thread_id=str(threads[0]), limit=limit)["data"]) == count
    for _ in range(102 - len(threads)):
        chat.client.say("say 1 0")
    page = chat.json("threads.list", limit=9999)
    assert (len(page["data"]), page["has_more"], len(chat.json("threads.list")["data"])) == (100, True, 20)


def test_the_newest_come_first_unless_asked_otherwise(chat: Component) -> None:
    """Without an order, items and threads are listed from the newest on."""
    stream = chat.create("say 1 0")
    assert chat.json("items.list", thread_id=stream.thread)["data"] == stream.items[::-1]
    later = chat.create("say 1 0").thread
    assert [thread["id"] for thread in chat.json("threads.list")["data"]] == [later, stream.thread]


def test_rename_and_delete(chat: Component) -> None:
    """A thread can be renamed and deleted, and the REST API sees the same."""
    thread = chat.create("say 1 0").thread
    assert chat.json("threads.update", thread_id=thread, title="  Groceries ")["title"] == "Groceries"
    assert chat.client.get(f"/api/conversations/{thread}").json()["title"] == "Groceries"
    chat.json("threads.delete", thread_id=thread)
    assert chat.refused("threads.get_by_id", thread_id=thread) == (404, "Not found.")
    assert chat.client.get(f"/api/conversations/{thread}").status_code == 404


def test_delete_ends_a_live_answer(chat: Component) -> None:
    """Deleting a thread while it is answered ends its stream at once, cleanly and with a sentence."""
    streams: list[Stream] = []
    reader = threading.Thread(target=lambda: streams.append(chat.create("say 1 0\nquiet 20")))
    reader.start()
    thread = eventually(lambda: chat.client.get("/api/conversations").json())[0]["id"]
    eventually(lambda: chat.client.messages(thread)[-1]["content"])  # all is saved: the run would not look again
    chat.json("threads.delete", thread_id=str(thread))
    reader.join(5)
    assert streams[0].events[-1]["message"] == "This conversation has been deleted."


@pytest.mark.sqlite
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_large_items_come_in_smaller_pages(chat: Component, paced: Server, order: str) -> None:
    """A page ends early where its items are large; the pages together have each item once."""
    thread = chat.create("say 1 0").thread
    with contextlib.closing(sqlite3.connect(paced.database, timeout=PATIENCE)) as file:
        columns = "conversation_id, content, role, status, created_at"
        row = f"INSERT INTO messages ({columns}) VALUES (?, ?, 'user', 'done', '2026-01-01T00:00:00.000001Z')"
        file.executemany(row, [(thread, "x" * size) for size in (600_000, 600_000, 10, *[10] * 30, 600_000)])
        file.commit()
    pages, after = [], None
    while True:
        pages.append(chat.json("items.list", thread_id=thread, limit=9999, order=order, after=after))
        if not pages[-1]["has_more"]:
            break
        after = pages[-1]["after"]
    ids = [item["id"] for page in pages for item in page["data"]]
    assert len(ids) == len(set(ids)) == 36
    assert 3 <= len(pages) <= 6
    assert all(len(json.dumps(page)) < 1_300_000 for page in pages)


def test_feedback_is_stored_with_the_message(chat: Component, other: Component) -> None:
    """What the user thinks of an item is kept with its answer, can be changed, and is shown by the REST API."""
    stream = chat.create(f"{ADD_MILK}\nsay 1 0")
    ids = [item["id"] for item in stream.items[1:]]

    def messages() -> list[Any]:
        return [m["feedback"] for m in chat.client.messages(int(stream.thread))]

    assert messages() == [None, None]
    for kind in ("positive", "negative"):
        chat.json("items.feedback", thread_id=stream.thread, item_ids=ids, kind=kind)
        assert messages() == [None, kind]
    for unknown in ("99.0", f"{ids[0][:-2]}.7", f"{ids[0][:-2]}.00", {}, []):
        missing = {"item_ids": [ids[0], unknown], "kind": "positive"}
        assert chat.refused("items.feedback", thread_id=stream.thread, **missing)[0] == 404
    assert (
        chat.refused("items.feedback", thread_id=stream.thread, item_ids=[stream.items[0]["id"]], kind="positive")[0]
        == 404
    )
    assert other.refused("items.feedback", thread_id=stream.thread, item_ids=ids, kind="positive")[0] == 404
    own = other.create("say 1 0").thread
    assert other.refused("items.feedback", thread_id=own, item_ids=ids, kind="positive")[0] == 404
    assert messages() == [None, "negative"]
    more = chat.add(stream.thread, "say 1 0").items[1]["id"]
    chat.json("items.feedback", thread_id=stream.thread, item_ids=[ids[0], more], kind="positive")
    assert messages() == [None, "positive", None, "positive"]


# ---- what is sent ----


def test_parts_of_a_message_are_joined(chat: Component) -> None:
    """Text and tags are one text, in order and as they were sent; metadata and unknown fields do not matter."""
    tag = {"type": "input_tag", "id": "t", "text": "2", "data": {}, "group": None, "interactive": False}
    parts = [{"type": "input_text", "text": "say "}, tag, {"type": "input_text", "text": " 0\n "}]
    body = {"type": "threads.create", "params": {"input": said("", content=parts), "new": 1}, "metadata": {"a": 1}}
    with chat.client.stream("POST", "/chatkit", json=body) as response:
        assert response.status_code == 200
        response.read()
    assert [m["content"] for m in chat.client.messages(int(response.headers["x-thread-id"]))] == [
        "say 2 0\n ",
        "w0 w1 ",
    ]


def test_quoted_text_reaches_the_model(chat: Component) -> None:
    """What the user quotes becomes a Markdown quotation above the message, and no part of the title."""
    stream = chat.stream("threads.create", input=said("fail", quoted_text="Buy milk\nor not"))
    assert stream.of("thread.updated")[0]["thread"]["title"] == "fail"
    assert chat.client.messages(int(stream.thread))[0]["content"] == "> Buy milk\n> or not\n\nfail"


def test_idempotency_key_gives_the_same_answer(chat: Component) -> None:
    """A request that is repeated with its key gets the items of the first, and nothing is done twice."""
    body = {"input": said(f"think 1 0\n{ADD_MILK}\nsay 2 0")}
    first = chat.stream("threads.create", headers={"Idempotency-Key": "k1"}, **body)
    chat.used.clear()
    again = chat.stream("threads.create", headers={"Idempotency-Key": "k1"}, **body)
    assert again.items == first.items
    assert len(chat.client.tasks()) == 1
    retry = {"thread_id": first.thread, "item_id": first.items[0]["id"]}
    one = chat.stream("threads.retry_after_item", headers={"Idempotency-Key": "k2"}, **retry)
    chat.used.clear()
    two = chat.stream("threads.retry_after_item", headers={"Idempotency-Key": "k2"}, **retry)
    assert one.items == two.items
    assert chat.post("threads.create", headers={"Idempotency-Key": "k1"}, **body).status_code == 409


LATER = [
    "threads.add_client_tool_output",
    "threads.add_structured_input",
    "threads.custom_action",
    "threads.sync_custom_action",
    "attachments.create",
    "attachments.delete",
    "input.transcribe",
    "x",
]


@pytest.mark.parametrize("kind", LATER)
def test_what_is_not_built_is_refused_by_name(chat: Component, kind: str) -> None:
    """A request that this server does not speak gets 400 with its name."""
    response = chat.client.post(
        "/chatkit", content=json.dumps({"type": kind, "params": {}}), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert kind.encode("ascii", "backslashreplace").decode() in response.json()["detail"]


def test_malformed_requests_get_400_and_a_sentence(chat: Component) -> None:
    """Whatever is missing or odd is refused with 400 before anything is stored."""
    thread = chat.create("say 1 0").thread
    inputs = [
        None, "hi", [], {}, {"content": None}, {"content": []}, {"content": ["hi"]},
        {"content": [{"type": "input_text"}]},
        said("  "), said("hi", content=[{"type": "input_image", "text": "x"}]), said("hi", attachments=["a"]),
        said("hi", inference_options={"model": "gpt"}), said("hi", inference_options={"tool_choice": {"id": "x"}}),
        said("hi", inference_options=[1]), said("hi", inference_options=""), said("hi", attachments={}),
        said("hi", quoted_text=1), said("hi", quoted_text=0), said("\ud800"), said("hi", quoted_text="\udc00"),
    ]  # fmt: skip
    bodies: list[Any] = [{"type": None}, {"type": 1}, {"type": []}, {"type": "threads.list", "params": [1]},
                         {"type": "threads.list", "params": []}]  # fmt: skip
    bodies += [{"type": "threads.create", "params": {"input": given}} for given in inputs]
    bodies += [{"type": kind} for kind in (*chatkit.STREAMING, *chatkit.REPLIES) if kind != "threads.list"]
    for odd in (None, True, 1.5, [], {}):
        bodies.append({"type": "items.list", "params": {"thread_id": odd}})
    for params in (
        {"limit": "9"},
        {"limit": 1.5},
        {"limit": True},
        {"order": "up"},
        {"order": 1},
        {"order": ""},
        {"after": 3},
    ):
        bodies.append({"type": "threads.list", "params": params})
        bodies.append({"type": "items.list", "params": {"thread_id": thread, **params}})
    for title in (None, 1, "", " ", "x" * 201, "\ud800"):
        bodies.append({"type": "threads.update", "params": {"thread_id": thread, "title": title}})
    for more in ({}, {"item_ids": ["2.0"]}, {"kind": "positive"}, {"item_ids": [], "kind": "positive"},
                 {"item_ids": "2.0", "kind": "positive"}, {"item_ids": ["2.0"], "kind": "good"},
                 {"item_ids": ["2.0"] * 101, "kind": "positive"},
                 {"item_ids": ["2.0"], "kind": ["positive"]}):  # fmt: skip
        bodies.append({"type": "items.feedback", "params": {"thread_id": thread, **more}})
    for body in bodies:
        response = chat.client.post("/chatkit", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code == 400, (body, response.text)
        assert response.json()["detail"].endswith((".", "}.")), response.text
    assert len(chat.all_items(thread)) == 2
    assert len(chat.json("threads.list")["data"]) == 1


def test_body_of_any_depth_is_answered(chat: Component) -> None:
    """However deeply a body is nested, the answer is a stream or 400, never a 500."""
    given = json.dumps(said("fail"))
    statuses = []
    for depth in range(920, 1000):
        body = f'{{"type": "threads.create", "params": {{"input": {given}, "x": {"[" * depth}{"]" * depth}}}}}'
        statuses.append(
            chat.client.post("/chatkit", content=body, headers={"Content-Type": "application/json"}).status_code
        )
    assert statuses == sorted(statuses)
    assert set(statuses) <= {200, 400}


def test_message_that_is_too_long(chat: Component) -> None:
    """A message has the same limit as in the simple dialect: 32,000 characters, quotation included."""
    assert chat.refused("threads.create", input=said("x" * 32_001))[0] == 413
    assert chat.refused("threads.create", input=said("x" * 31_000, quoted_text="y" * 1_000))[0] == 413


def test_nothing_of_another_users_can_be_reached(chat: Component, other: Component) -> None:
    """Another user's thread is answered like one that does not exist, whatever is asked of it."""
    stream = chat.create("say 1 0")
    question, answer = (item["id"] for item in stream.items)
    requests: list[tuple[str, Json]] = [
        ("threads.get_by_id", {}),
        ("items.list", {}),
        ("items.list", {"after": question}),
        ("threads.update", {"title": "mine"}),
        ("threads.delete", {}),
        ("threads.add_user_message", {"input": said("say 1 0")}),
        ("threads.retry_after_item", {"item_id": question}),
        ("items.feedback", {"item_ids": [answer], "kind": "positive"}),
    ]
    for kind, params in requests:
        for thread in (stream.thread, "999", "0", "-1", "x", "9" * 30, "1e3"):
            assert other.refused(kind, thread_id=thread, **params) == (404, "Not found."), (kind, thread)
    assert other.json("threads.list")["data"] == []
    assert chat.all_items(stream.thread) == stream.items


def test_no_token_is_401(paced: Server) -> None:
    """Without a token nothing is answered, and nothing is stored."""
    for kind in (*chatkit.STREAMING, *chatkit.REPLIES, "input.transcribe"):
        response = httpx.post(f"{paced.url}/chatkit", json={"type": kind, "params": {"input": said("hi")}})
        assert response.status_code == 401


def test_too_many_answers_at_once(make_server: Callable[..., Server]) -> None:
    """The limits on live answers hold here too: 429 for the user's own, 503 for the server's, before any stream."""
    server = make_server(script="tests/paced.py", MAX_LIVE_PER_USER=1, MAX_LIVE=1)
    with server.client("alice") as alice, server.client("bob") as bob:
        body = {"type": "threads.create", "params": {"input": said("say 300 10")}}
        with alice.stream("POST", "/chatkit", json=body) as live:
            assert live.status_code == 200
            for client, status in ((alice, 429), (bob, 503)):
                response = client.post("/chatkit", json=body)
                assert (response.status_code, "retry-after" in response.headers) == (status, True)
            for thread, status in ((live.headers["x-thread-id"], 409), ("99", 404)):  # what is wrong with the request
                params = {"thread_id": thread, "input": said("hi")}  # itself is said first
                response = alice.post("/chatkit", json={"type": "threads.add_user_message", "params": params})
                assert response.status_code == status


@pytest.mark.sqlite
def test_database_that_does_not_answer(make_server: Callable[..., Server]) -> None:
    """While the database cannot be written, a message gets 503 before any stream, and later it works again."""
    server = make_server(script="tests/paced.py")
    with server.client("alice") as client, sqlite3.connect(server.database, isolation_level=None) as intruder:
        chat = Component(client)
        stream = chat.create("say 1 0")
        intruder.execute("BEGIN IMMEDIATE")
        assert chat.refused("threads.add_user_message", thread_id=stream.thread, input=said("say 1 0"))[0] == 503
        assert chat.json("threads.list")["data"][0]["id"] == stream.thread
        intruder.execute("ROLLBACK")
        chat.stream("threads.retry_after_item", thread_id=stream.thread, item_id=stream.items[0]["id"])
    intruder.close()


def test_browser_of_another_origin_may_send_what_the_component_sends(make_server: Callable[..., Server]) -> None:
    """The preflight allows the headers of the component for the origins that are set, and for no other."""
    server = make_server(CORS_ORIGINS="https://app.example")
    sent = "authorization,content-type,accept-language,chatkit-frame-instance-id"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": sent}
    allowed = httpx.options(f"{server.url}/chatkit", headers=ask | {"Origin": "https://app.example"})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert set(sent.split(",")) <= set(allowed.headers["access-control-allow-headers"].lower().split(", "))
    refused = httpx.options(f"{server.url}/chatkit", headers=ask | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.sqlite
def test_small_answers_are_not_held_back(chat: Component) -> None:
    """A request on a connection that is kept open is answered at once, not after the 40 ms of a delayed ACK."""
    took = []
    for _ in range(20):
        began = time.monotonic()
        chat.client.get("/api/conversations")
        took.append(time.monotonic() - began)
    assert min(took) < 0.03, "each of them waits"


# ---- files of version 1 ----

VERSION_1 = (Path(__file__).parent / "schema_v1.sql").read_text()


@pytest.mark.sqlite
def test_file_of_version_1_is_upgraded_with_its_data(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """A file from before reasoning and feedback opens with all it holds, and then has the columns of a new file."""
    with sqlite3.connect(tmp_path / "chat.db") as old:
        old.executescript(VERSION_1)
        old.executescript(
            """
            INSERT INTO conversations
                VALUES (5, 'alice', 'Old', '2026-01-01T00:00:00.123456Z', '2026-01-01T00:00:00.123456Z');
            INSERT INTO messages VALUES (8, 5, 'user', 'hi', '[]', 'done', NULL, '2026-01-01T00:00:00.123456Z');
            INSERT INTO messages VALUES (9, 5, 'assistant', 'Well.\n\nDone.',
                '[{"id": "c", "name": "list_tasks", "args": {}, "at": 5, "result": {"total": 0, "tasks": []}}]',
                'done', NULL, '2026-01-01T00:00:00.123456Z');
            INSERT INTO tasks
                VALUES (2, 'alice', 'Milk', NULL, 0, '2026-01-01T00:00:00.123456Z', '2026-01-01T00:00:00.123456Z');
            PRAGMA user_version = 1;
            """
        )
    old.close()
    server = make_server(script="tests/paced.py")
    with server.client("alice") as client:
        chat = Component(client)
        assert shape(chat.all_items("5")) == ["Well.", [("List tasks", "complete", "0 tasks")], "Done."]
        assert [task["title"] for task in client.tasks()] == ["Milk"]
        assert [m["feedback"] for m in client.messages(5)] == [None, None]
        chat.json("items.feedback", thread_id="5", item_ids=["9.0"], kind="positive")
        assert chat.add("5", "think 1 0\nsay 1 0").shape == [{"t0 "}, "w0 "]
    server.close()
    assert _columns(tmp_path / "chat.db") == _columns(None)


def _columns(path: Path | None) -> dict[str, set[Any]]:
    with sqlite3.connect(path or ":memory:") as file:
        if path is None:
            file.executescript((ROOT / "schema.sql").read_text())
        tables = [row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: {row[1:] for row in file.execute(f"PRAGMA table_info({table})")} for table in tables}
