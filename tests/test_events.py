"""Events and stored messages: `fold` and `unfold` are each other's inverse, up to how the text was cut."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from todochat.events import Body, Event, Feed, dump, fold, load, unfold

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3))


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """The events of an answer as a run may publish them: results come after their calls, in any order."""
    events: list[Event] = [{"type": "started"}]
    open_calls: list[tuple[str, str]] = []
    for n, kind in enumerate(
        draw(st.lists(st.sampled_from(["text", "thinking", "call", "result", "citation"]), max_size=30))
    ):
        if kind == "text":
            events.append({"type": "text", "content": draw(TEXT)})
        elif kind == "citation":
            events.append({"type": "citation", "url": draw(TEXT), "title": draw(TEXT)})
        elif kind == "thinking":
            events.append({"type": "thinking", "content": draw(TEXT)})
        elif kind == "call":
            open_calls.append((f"call_{n}", "tool"))
            events.append({"type": "tool_call", "id": f"call_{n}", "name": "tool", "args": draw(JSON)})
        elif open_calls:
            call_id, name = open_calls.pop(draw(st.integers(0, len(open_calls) - 1)))
            events.append({"type": "tool_result", "id": call_id, "name": name, "result": draw(JSON)})
    if draw(st.booleans()):
        events.append({"type": "error", "message": draw(TEXT)})
    return events


@given(answers())
def test_what_is_stored_unfolds_to_events_that_fold_to_the_same(events: list[Event]) -> None:
    body = fold(events)
    assert fold(unfold(body)) == body


def essence(events: list[Event]) -> tuple[list[object], str]:
    """What no cut of the text changes: the other events (results beside their calls), and the text."""
    others = [event for event in events if event["type"] not in ("text", "thinking")]
    return (
        sorted(others, key=repr),
        "".join(event["content"] for event in events if event["type"] == "text"),
    )


@given(answers())
def test_unfolded_events_are_those_that_were_streamed(events: list[Event]) -> None:
    assert essence(unfold(fold(events))) == essence(events)


def test_reasoning_keeps_its_place_between_text_and_calls() -> None:
    events: list[Event] = [
        {"type": "started"},
        {"type": "thinking", "content": "Hm"},
        {"type": "thinking", "content": "m."},
        {"type": "tool_call", "id": "a", "name": "add", "args": {}},
        {"type": "tool_result", "id": "a", "name": "add", "result": {"ok": True}},
        {"type": "thinking", "content": "So."},
        {"type": "text", "content": "Do"},
        {"type": "text", "content": "ne"},
        {"type": "thinking", "content": "Or?"},
        {"type": "text", "content": "."},
    ]
    whole = [events[0], {"type": "thinking", "content": "Hmm."}, *events[3:6]]
    whole += [{"type": "text", "content": "Done"}, *events[8:]]
    assert unfold(fold(events)) == whole


def test_a_call_without_a_result_stays_without_one() -> None:
    body: Body = fold([{"type": "started"}, {"type": "tool_call", "id": "a", "name": "add", "args": {}}])
    assert "result" not in body["tool_calls"][0]
    assert [event["type"] for event in unfold(body)] == ["started", "tool_call"]


@given(answers())
def test_dumped_events_are_loaded_as_they_were(events: list[Event]) -> None:
    assert load(dump(events)) == events


def test_a_piece_of_text_is_dumped_without_what_all_of_them_have() -> None:
    assert dump([{"type": "text", "content": "bär "}, {"type": "text", "content": "2"}]) == '["bär ","2"]'


def test_what_only_the_model_wants_back_and_sources_survive_and_notices_do_not() -> None:
    """A call's `state` and the citations are stored; a notice that the model is starting is not."""
    events: list[Event] = [
        {"type": "started"},
        {"type": "started", "content": "The model is starting."},
        {"type": "tool_call", "id": "1", "name": "f", "args": {}, "state": {"from": "m"}},
        {"type": "text", "content": "One."},
        {"type": "citation", "url": "https://a.example/", "title": "A"},
        {"type": "text", "content": "Two."},
    ]
    body = fold(events)
    assert body["tool_calls"][0]["state"] == {"from": "m"}
    assert body["citations"] == [{"url": "https://a.example/", "title": "A", "at": 4, "calls": 1}]
    assert unfold(body) == [events[0], *events[2:]]
    assert fold(load(dump(events))) == body


@pytest.mark.anyio
@pytest.mark.parametrize("after", range(5))
async def test_a_reader_that_is_ahead_of_what_was_stored_is_told_why_it_ends(after: int) -> None:
    """A process that dies had shown more than it had stored; who comes back is told, and nobody twice."""
    feed = Feed(1, 1, "alice")
    feed.publish({"type": "started"})
    feed.publish({"type": "text", "content": "a "})
    reading = asyncio.create_task(read(feed, after))
    await asyncio.sleep(0)
    feed.end("It broke off.")
    assert (await reading)[-1] == {"type": "error", "message": "It broke off."}
    assert len(await reading) == max(1, 3 - after)
    assert await read(feed, 3) == []
    assert len(await read(feed, 4)) == 1


async def read(feed: Feed, after: int) -> list[Event]:
    """Return what a reader sees, to the end."""
    return [event for batch in [batch async for batch in feed.follow(after)] for event in batch]
