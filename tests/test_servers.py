"""Conversations of three turns with each kind of model server (servers.py), over both APIs and through LiteLLM."""

import asyncio
import importlib.util
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from agents import Agent, Model, ModelResponse, RunConfig, Runner, RunResult, RunResultStreaming, ToolCallOutputItem
from agents.testing import ScriptedModel, assistant_message, function_call
from chatkit.types import ThreadStreamEvent
from conftest import Client, Server, missing
from pydantic import TypeAdapter
from scripted import item, text
from servers import (
    DETAILS,
    IN_PLACE,
    IN_THE_STREAM,
    ROOM,
    SECRET_TEXT,
    SOURCES,
    TOO_LONG,
    TROUBLES,
    TWO_CALLS,
    WANTING,
    Provider,
    provider,
    three_turns,
)

from todochat import agent, models
from todochat.db import Store
from todochat.events import Message, fold
from todochat.models.thoughts import Splitter, split
from todochat.turns import history, sdk
from todochat.turns.watchdog import AnswerLimits

WHOLE = "whole \U0001f600"
A = {"url": "https://a.example/", "title": "A"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[Provider]:
    """The model server."""
    with provider() as server:
        yield server


def settings_for(api: str, url: str) -> dict[str, str]:
    """Return the settings that lead to a model server."""
    if api == "litellm":
        if importlib.util.find_spec("litellm") is None:
            missing("LiteLLM is not installed: run pip install -r requirements-dev.txt")
        return {"MODEL": "litellm/openai/m", "OPENAI_API_BASE": url, "OPENAI_API_KEY": "k"}
    return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k", "OPENAI_MODEL": "m", "OPENAI_API": api}


@pytest.fixture(scope="module")
def served(scripted: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Return a server that talks to the model server in an API, shared by the tests of this file."""
    servers: dict[str, Server] = {}

    def of(api: str) -> Server:
        if api not in servers:
            chosen = settings_for(api, scripted.url)
            servers[api] = Server(tmp_path_factory.mktemp(api), MODEL_IDLE_TIMEOUT=2, **chosen).start()
        return servers[api]

    yield of
    for server in servers.values():
        server.close()


def anybody(server: Server) -> Client:
    """Return a client for a user who is new."""
    return server.client(f"user-{uuid.uuid4()}")


def message(number: int, role: str, content: str) -> Message:
    """Return a message as it is stored."""
    stored = {"id": number, "role": role, "content": content, "tool_calls": [], "status": "done", "error": None}
    return cast(Message, stored | {"reasoning": [], "citations": [], "feedback": None, "created_at": ""})


def thoughts(events: list[dict[str, Any]]) -> str:
    """Return what was thought, without the first event."""
    return "".join(event["content"] for event in events[1:] if event["type"] == "thinking")


@pytest.mark.parametrize("api", ["chat", "litellm"])
@pytest.mark.parametrize("word", TWO_CALLS)
def test_two_calls_are_two_however_they_are_sent(
    served: Callable[[str], Server], scripted: Provider, api: str, word: str
) -> None:
    """Whatever a server does with the indexes, ids, names and arguments of its calls, each of the two is made."""
    if api == "litellm" and word in NOT_THROUGH_LITELLM:
        pytest.skip("LiteLLM itself refuses it")
    with anybody(served(api)) as client:
        for turn in three_turns(client, scripted, word)[::2]:
            assert (turn.text, turn.of("error")) == (WHOLE, [])
            calls, results = turn.of("tool_call"), turn.of("tool_result")
            assert [call["args"] for call in calls] == [{"title": "eggs"}, {"title": "bread"}]
            assert [result["result"]["title"] for result in results] == ["eggs", "bread"]
            assert [call["id"] for call in calls] == [result["id"] for result in results]
        assert [task["title"] for task in client.tasks()] == ["eggs", "bread"] * 2
    *_, asked = [message for message in scripted.requests[-1]["messages"] if message.get("tool_calls")]
    assert len({call["id"] for call in asked["tool_calls"]}) == 2


NOT_THROUGH_LITELLM = {"number-for-id", "half-a-character-in-the-ids"}


@pytest.mark.parametrize("word", WANTING)
def test_what_a_server_wants_back_it_gets(served: Callable[[str], Server], scripted: Provider, word: str) -> None:
    """Reasoning and signatures are given back in each later turn, to the model that has sent them; nothing else is."""
    with anybody(served("chat")) as client:
        thread = None
        for _ in range(3):
            turn = client.say(f"please {word}", thread)
            assert (turn.text, turn.of("error")) == (WHOLE, [])
            assert thoughts(turn.events) == ("" if word == "gemini" else "I think, therefore")
            assert len(turn.of("tool_result")) == 2
            assert all(event.keys() <= {"type", "id", "name", "args"} for event in turn.of("tool_call"))
            thread = turn.thread
        messages = client.messages(turn.thread)
        assert [message["status"] for message in messages] == ["done"] * 6
        assert all("state" not in call for message in messages for call in message["tool_calls"])
        if word != "gemini":
            assert messages[1]["reasoning"][0]["text"].strip() == "I think, therefore"
    asked = [message for message in scripted.requests[-1]["messages"] if message.get("tool_calls")]
    wanted = {"deepseek": "reasoning_content", "vllm": "reasoning", "openrouter": "reasoning"}.get(word)
    assert [message.get(wanted) for message in asked if wanted] == (["I think, therefore"] * 3 if wanted else [])


def test_sealed_reasoning_is_given_back_over_responses(served: Callable[[str], Server], scripted: Provider) -> None:
    """What a server has encrypted because it stores nothing is in each later request, before the calls it led to."""
    with anybody(served("responses")) as client:
        thread = None
        for _ in range(3):
            turn = client.say("please sealed", thread)
            assert (turn.text, turn.of("error"), len(turn.of("tool_result"))) == ("whole", [], 2), turn.events
            assert thoughts(turn.events) == "I think, therefore"
            thread = turn.thread
    items = scripted.requests[-1]["input"]
    assert [item["encrypted_content"] for item in items if item.get("type") == "reasoning"] == ["sealed"] * 3


@pytest.mark.parametrize(
    ("word", "field", "wanted"),
    [("deepseek", "reasoning_content", "I think, therefore"), ("openrouter", "reasoning_details", DETAILS)],
)
def test_nobody_else_gets_what_a_model_wants_back(
    make_server: Callable[..., Server], scripted: Provider, word: str, field: str, wanted: Any
) -> None:
    """When the model changes in a conversation the new one gets nothing of the old one's; the old one gets its own."""
    server = make_server(**settings_for("chat", scripted.url))
    with server.client() as client:
        thread = client.say(f"please {word}").thread
    server.kill()
    server.env["OPENAI_MODEL"] = "another"
    server.start()
    with server.client() as client:
        assert client.say("please mistral", thread).of("error") == []
        assert client.say("please gemini", thread).of("error") != []  # it has no signature of the first turn
    server.kill()
    server.env["OPENAI_MODEL"] = "m"
    server.start()
    with server.client() as client:
        turn = client.say("please go on", thread)
        assert turn.of("error") == []
    asked = [message for message in scripted.requests[-1]["messages"] if message.get("tool_calls")]
    assert [message.get(field) for message in asked[:2]] == [wanted, None]


@pytest.mark.anyio
@pytest.mark.parametrize("api", ["chat", "litellm"])
@pytest.mark.parametrize("streams", [False, True])
async def test_the_model_of_an_agent_that_is_a_tool_is_checked_too(
    store: Store, scripted: Provider, monkeypatch: pytest.MonkeyPatch, api: str, streams: bool
) -> None:
    """Repeated ids are mended, thoughts are told from text, and an end that is none is none: however deep it is."""
    env = settings_for(api, scripted.url)
    for name in ("OPENAI_API_BASE", "OPENAI_API_KEY"):  # which LiteLLM reads itself
        monkeypatch.setenv(name, env.get(name, ""))
    on_stream = (lambda event: None) if streams else None  # makes the SDK ask for a stream in the tool, too
    odd = models.choose_model(env).model
    clerk = Agent[Any](name="Clerk", model=odd, tools=[*agent.todo_tools()])
    calls = [[function_call("clerk", {"input": f"please {word}"}, call_id="1")] for word in CLERKS]
    desk = Agent[Any](
        name="Desk",
        model=ScriptedModel([step for call in calls for step in (call, [assistant_message("There.")])]),
        tools=[clerk.as_tool("clerk", "Do it.", on_stream=on_stream)],
    )
    asked = [function_call("desk", {"input": "x"}, call_id="1")]
    boss = Agent[Any](
        name="Boss",
        model=ScriptedModel([step for _ in CLERKS for step in (asked, [assistant_message("So be it.")])]),
        tools=[desk.as_tool("desk", "Ask.", custom_output_extractor=clerks_result)],
    )
    options = agent.TurnOptions(sdk.run_config(models.Choice(None, "host"), 60_000))
    messages: list[Message] = []
    for word, says in CLERKS.items():
        messages.append(message(len(messages), "user", f"the clerk's {word}"))
        turn = agent.stream_turn(boss, messages, agent.TurnContext("alice", store), options)
        events = [event async for event in turn]
        [result] = [event for event in events if event["type"] == "tool_result"]
        assert says == result["result"]
        messages.append(message(len(messages), "assistant", "So be it.") | fold(events))
    assert [task["title"] for task in await store.list_tasks("alice")] == ["Task 0", "Task 1"]
    assert clerk.model is odd  # nothing of the host's is changed


CLERKS = {
    "twice": WHOLE,
    "think-and-say": "whole",
    "cut": "An error occurred while running the tool. Please try again.",
}


async def clerks_result(result: RunResult | RunResultStreaming) -> str:
    """Return what an agent was told by its tool."""
    [output] = [item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    return str(output)


@pytest.mark.parametrize("api", ["chat", "responses", "litellm"])
def test_thoughts_between_tags_are_thoughts(served: Callable[[str], Server], api: str) -> None:
    """`<think>` at the beginning of an answer is reasoning over each API, and never a part of the answer."""
    word = "think" if api == "responses" else "think-and-say"
    with anybody(served(api)) as client:
        thread = None
        for _ in range(3):
            turn = client.say(f"please {word}", thread)
            assert (turn.text, turn.of("error"), thoughts(turn.events)) == ("whole", [], "I think, therefore")
            thread = turn.thread
        assert client.messages(turn.thread)[-1]["content"] == "whole"


def test_thoughts_between_tags_are_told_apart_in_whichever_pieces_they_come() -> None:
    """A tag may be cut anywhere; one in the middle of the text is text."""
    cases = {
        "<think>I think</think>\n\nwhole": ("I think", "whole"),
        "\n<think>\na < b </th > c</think>  d </think>e": ("\na < b </th > c", "d </think>e"),
        "whole <think>no</think>": ("", "whole <think>no</think>"),
        "<thin": ("", "<thin"),
        "<think>only": ("only", ""),
        "<think></think>text": ("", "text"),
        "<think>a</think> <think>b</think> c": ("ab", "c"),
        "  hi": ("", "  hi"),
        "<thinking>a</thinking>b": ("", "<thinking>a</thinking>b"),
    }
    for whole, expected in cases.items():
        for size in range(1, len(whole) + 1):
            splitter = Splitter()
            told = [splitter.feed(whole[n : n + size]) for n in range(0, len(whole), size)] + [splitter.end()]
            assert ("".join(t for t, _ in told), "".join(t for _, t in told)) == expected, (whole, size)
        assert split(whole) == expected
    assert split("<think></think>" * 2000 + "c") == ("", "c")


def test_no_more_than_some_white_space_is_held_back() -> None:
    """A text may begin with any amount of it, which comes in pieces, and all of it is the text's."""
    splitter = Splitter()
    told = [splitter.feed("\n")[1] for _ in range(5000)]
    assert 0 < told.count("") <= 1000
    assert len("".join(told)) == 5000


@pytest.mark.parametrize(("api", "word"), [("chat", "alive"), ("chat", "azure"), ("litellm", "azure")])
def test_these_are_signs_of_life_and_whole_answers(
    served: Callable[[str], Server], scripted: Provider, api: str, word: str
) -> None:
    """Comments and empty deltas are no silence; a first chunk without a choice and a missing [DONE] are no fault."""
    with anybody(served(api)) as client:
        for turn in three_turns(client, scripted, word)[::2]:
            assert (turn.text, turn.of("error")) == ("whole", [])


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_model_may_take_longer_to_start(served: Callable[[str], Server], api: str) -> None:
    """Until something comes of a turn's first answer a server may be loading its model, and the user is told so."""
    with anybody(served(api)) as client:
        turn = client.say("please slow-start")
        assert turn.of("error") == []
        notices = [event["content"] for event in turn.of("thinking")]
        assert notices == ["Processing your request...", "The model is starting. This can take some minutes..."]
        assert client.messages(turn.thread)[-1]["reasoning"] == []
        for _ in range(2):  # now it has started
            assert [event["content"] for event in client.say("please go on", turn.thread).of("thinking")] == notices[:1]
        assert [message["status"] for message in client.messages(turn.thread)] == ["done"] * 6


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_model_that_does_not_start_is_given_up(
    make_server: Callable[..., Server], scripted: Provider, api: str
) -> None:
    """MODEL_START_TIMEOUT is the most that it may take."""
    chosen = settings_for(api, scripted.url)
    with make_server(MODEL_START_TIMEOUT=1, **chosen).client() as client:
        for turn in three_turns(client, scripted, "slow-start", "failed")[::2]:
            assert turn.of("error")[0]["message"] == "The model did not answer within 1 seconds. Please try again."


@pytest.mark.parametrize("word", TOO_LONG)
def test_a_conversation_does_not_die_of_its_length(
    served: Callable[[str], Server], scripted: Provider, word: str
) -> None:
    """In whichever words a server says that it is too long: it is asked again with half, and told what was left out."""
    with anybody(served("chat")) as client:
        thread = client.say("x" * (ROOM // 2)).thread
        client.say("y" * (ROOM // 2), thread)
        for _ in range(2):
            turn = client.say(f"please {word}", thread)
            assert (turn.text, turn.of("error")) == (WHOLE, [])
        alone = client.say("z" * ROOM + f" {word}", thread)
        assert "more than the model can read at once" in alone.of("error")[0]["message"]
        assert client.say("please go on", thread).of("error") == []
    [system] = [m for m in scripted.requests[-1]["messages"] if m["role"] == "system"]
    assert history.LEFT_OUT not in system["content"]  # this one has room for all of it again
    fitted = [
        r["messages"] for r in scripted.requests if r.get("messages", [{}])[-1].get("content") == f"please {word}"
    ]
    assert history.LEFT_OUT in fitted[-1][0]["content"]
    assert len(json.dumps(fitted[-1])) <= ROOM


@pytest.mark.parametrize(
    ("api", "word"),
    [
        *(("chat", word) for word in ("object-too-long", "too-long-behind-it")),
        *(("responses", word) for word in ("openai", "object-too-long", "too-long-in-the-stream")),
        ("litellm", "openai"),
    ],
)
def test_nor_over_another_api(served: Callable[[str], Server], api: str, word: str) -> None:
    """The same over each API, where it may be said in the stream or in its place, and through LiteLLM."""
    with anybody(served(api)) as client:
        thread = client.say("x" * (ROOM // 2) + " reasoning").thread
        client.say("y" * (ROOM // 2) + " reasoning", thread)
        for _ in range(2):
            turn = client.say(f"please {word}", thread)
            assert turn.of("error") == [], turn.events


def test_history_is_cut_by_its_size(make_server: Callable[..., Server], scripted: Provider) -> None:
    """HISTORY_CHARS cuts whole turns, the newest is kept, and the instructions say that something was left out."""
    with make_server(HISTORY_CHARS=1000, **settings_for("chat", scripted.url)).client() as client:
        thread = client.say("first " + "x" * 300).thread
        client.say("second " + "y" * 400, thread)
        client.say("third " + "z" * 600, thread)
        client.say("fourth", thread)
    system, *sent = scripted.requests[-1]["messages"]
    assert [message["content"].split()[0] for message in sent if message["role"] == "user"] == ["third", "fourth"]
    assert sent[0]["role"] == "user"
    assert system["content"].endswith(history.LEFT_OUT)


def test_results_are_shortened_before_words_are_left_out() -> None:
    """The oldest results of tools first, those of the newest turn last; what is too long by itself is all there is."""

    def turn(n: int, output: str) -> list[Any]:
        call = {"type": "function_call", "call_id": str(n), "name": "f", "arguments": "{}"}
        result = {"type": "function_call_output", "call_id": str(n), "output": output}
        return [{"role": "user", "content": f"question {n}"}, call, result, {"role": "assistant", "content": "answer"}]

    long = "r" * 5000
    items = turn(1, long) + turn(2, long) + turn(3, long)
    assert history.fitted(items, 20_000) is items
    once = history.fitted(items, 12_000)
    assert [len(item["output"]) for item in once if "output" in item] == [
        history.SHORT + len(history.SHORTENED),
        5000,
        5000,
    ]
    assert [item.get("content") for item in once] == [item.get("content") for item in items]
    last = history.fitted(items, 5_100)
    assert last == turn(3, long)
    least = history.fitted(items, 100)
    assert least[0] == {"role": "user", "content": "question 3"}
    assert len(least[2]["output"]) < 600
    assert items == turn(1, long) + turn(2, long) + turn(3, long)


@pytest.mark.parametrize(
    ("api", "word"),
    [
        *(("chat", word) for word in SOURCES),
        ("chat", "search-results"),
        ("responses", "search"),
        ("litellm", "annotations"),
    ],
)
def test_sources_are_shown_and_shown_again(served: Callable[[str], Server], api: str, word: str) -> None:
    """What an answer refers to reaches both dialects, is stored, and is the same when it is read again."""
    validate = TypeAdapter(ThreadStreamEvent).validate_python
    with anybody(served(api)) as client:
        turn = client.say(f"please {word}")
        assert turn.of("citation") == [{"type": "citation", **A}]
        assert turn.text == "whole"
        [cited] = client.messages(turn.thread)[-1]["citations"]
        assert (cited["url"], cited["title"], cited["at"]) == (A["url"], A["title"], 5)
        thread, note = None, {"type": "annotation", "source": {"type": "url", **A}, "index": 5}
        for _ in range(3):
            body = {"type": "threads.create", "params": {"input": written(f"please {word}")}}
            if thread is not None:
                body = {"type": "threads.add_user_message", "params": {"thread_id": thread, "input": written(word)}}
            frames = client.read("POST", "/chatkit", json=body).events
            for frame in frames:
                validate(frame)
            said = [
                f["item"]
                for f in frames
                if f["type"] == "thread.item.done" and f["item"]["type"] == "assistant_message"
            ]
            assert [item["content"][0]["annotations"] for item in said] == [[note]]
            thread = said[0]["thread_id"]
            stored = client.post("/chatkit", json={"type": "items.list", "params": {"thread_id": thread}}).json()
            assert stored["data"][0] == said[0]
        kinds = [frame["update"]["type"] for frame in frames if frame["type"] == "thread.item.updated"]
        assert kinds.count("assistant_message.content_part.annotation_added") == 1


def written(text: str) -> dict[str, Any]:
    """Return what a user writes in the component."""
    return {"content": [{"type": "input_text", "text": text}], "attachments": [], "inference_options": {}}


SAYS = {
    "no-such-model": "does not know this model",
    "not-pulled": "does not know this model",
    "model-not-exist": "does not know this model",
    "no-valid-model": "does not know this model",
    "no-such-path": "check its base URL",
    "not-allowed": "check its base URL",
    "bad-request": "refused this request",
    "unprocessable": "refused this request",
    "no-quota": "quota",
    "no-balance": "quota",
    "too-often": "try again in a minute",
    "too-often-groq": "try again in a minute",
    "too-often-gemini": "try again in a minute",
    "too-often-cerebras": "try again in a minute",
    "too-often-in-the-stream": "try again in a minute",
    "odd-code": "refused this request",
    "overloaded": "try again in a minute",
    "filtered": "filter",
    "forbidden": "API key",
    "bad-key": "API key",
    "no-access": "does not know this model",
    "flagged": "filter",
    "object-bad-key": "API key",
    "object-elsewhere": "check its base URL",
    "greeting": "check its base URL",
    "page-that-is-no-html": "check its base URL",
    "401-in-the-stream": "API key",
    "402-in-the-stream": "quota",
    "429-in-the-stream": "try again in a minute",
    "bad-key-in-the-stream": "API key",
    "no-model-in-the-stream": "does not know this model",
    "reset": "connection to the model failed. Please try again",
    "error-in-the-stream": "reported an error. Please try again",
    "incomplete": "ask for less",
    "filtered-in-the-stream": "filter",
    "length": "ask for less",
    "content_filter": "filter",
    "cut": "broke off. Please try again",
    "ended-by-what": "broke off. Please try again",
    "ended-by-malformed": "broke off. Please try again",
    "ended-by-ERROR": "reported an error. Please try again",
}
EVERYWHERE = [*TROUBLES, *(word for word in IN_PLACE if word in SAYS), "reset"]

LITELLMS = ["length", "content_filter", "cut", "ended-by-what", "ended-by-malformed", "ended-by-ERROR"]


@pytest.mark.parametrize(
    ("api", "word"),
    [
        *(("chat", word) for word in [*EVERYWHERE, *(word for word in IN_THE_STREAM if word in SAYS)]),
        *(("responses", word) for word in [*EVERYWHERE, "incomplete", "filtered-in-the-stream"]),
        *(("litellm", word) for word in [*TROUBLES, *LITELLMS]),
    ],
)
def test_troubles_are_told_apart(served: Callable[[str], Server], scripted: Provider, api: str, word: str) -> None:
    """The sentence says what to do; "please try again" only where that can help."""
    server = served(api)
    with anybody(server) as client:
        for turn in three_turns(client, scripted, word, "failed")[::2]:
            [error] = turn.of("error")
            assert SAYS[word] in error["message"]
            assert ("try again" in error["message"]) == ("try again" in SAYS[word])
            assert SECRET_TEXT not in "".join(turn.frames)
    assert "sk-live-key" not in server.log.read_text()  # which is in that text, too


def test_a_calls_text_goes_to_the_model_as_it_is(served: Callable[[str], Server], scripted: Provider) -> None:
    """Non-Latin text in arguments and results is no \\uXXXX, for which a model would need several tokens a letter."""
    with anybody(served("chat")) as client:
        client.post("/api/tasks", json={"title": "\u725b\u5976"}).raise_for_status()
        three_turns(client, scripted, "arguments-none")
    outputs = [m["content"] for m in scripted.requests[-1]["messages"] if m["role"] == "tool"]
    assert ["\u725b\u5976" in output for output in outputs] == [True, True]


@pytest.mark.parametrize("effort", ["low", None])
def test_openai_keeps_nothing_and_seals_its_reasoning(effort: str | None) -> None:
    """At OpenAI nothing is stored, and what has been reasoned comes encrypted so that it can be given back."""
    env = {"OPENAI_API_KEY": "k", "OPENAI_MODEL": "gpt-5.4"} | ({"OPENAI_REASONING": effort} if effort else {})
    settings = models.choose_model(env).settings
    assert settings is not None
    assert (settings.store, settings.response_include) == (False, ["reasoning.encrypted_content"])
    assert (settings.reasoning is None) == (effort is None)
    if settings.reasoning is not None:
        assert (settings.reasoning.effort, settings.reasoning.summary) == ("low", "auto")
    plain = models.choose_model(env | {"OPENAI_MODEL": "gpt-4.1", "OPENAI_REASONING": ""}).settings
    assert plain is not None
    assert (plain.store, plain.response_include) == (False, None)  # it would refuse to include what it has not
    with pytest.raises(models.BadModel, match="OPENAI_REASONING must be one of"):
        models.choose_model(env | {"OPENAI_REASONING": "much"})


def test_reasoning_that_is_asked_for_streams(make_server: Callable[..., Server], scripted: Provider) -> None:
    """OPENAI_REASONING is in the request, and the summary that it brings becomes `thinking`."""
    chosen = settings_for("responses", scripted.url) | {"OPENAI_REASONING": "high"}
    with make_server(**chosen).client() as client:
        for turn in three_turns(client, scripted, "sealed")[::2]:
            assert thoughts(turn.events) == "I think, therefore"
    assert scripted.requests[-1]["reasoning"] == {"effort": "high", "summary": "auto"}
    assert "store" not in scripted.requests[-1]  # which is OpenAI's


@pytest.mark.anyio
@pytest.mark.parametrize("name", [None, "gpt-5.1", "gpt-4.1"])
async def test_a_model_that_a_host_names_is_asked_as_the_agents_sdk_would_ask(
    scripted: Provider, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """That every model is checked changes nothing of what is asked of it, the settings that go by its name included."""
    monkeypatch.setenv("OPENAI_BASE_URL", scripted.url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    named = Agent[Any](name="A", instructions="Be brief.", model=name)
    config = sdk.run_config(models.Choice(None, "host"), 1000)
    for run_config in (RunConfig(tracing_disabled=True), config):
        result = Runner.run_streamed(named, "please reasoning", run_config=run_config)
        async for _ in result.stream_events():
            pass
        assert result.final_output == "whole"
    plain, ours = scripted.requests[-2:]
    assert ours == plain


# ---- an answer's limits ----


@pytest.mark.parametrize("api", ["chat", "responses", "litellm"])
def test_an_answer_that_takes_too_much_is_cut_off_at_the_server(
    make_server: Callable[..., Server], scripted: Provider, api: str
) -> None:
    """MAX_ANSWER and MAX_TOOL_CALLS end the turn with their sentence, and the model's server is hung up on."""
    server = make_server(MAX_ANSWER=100, MAX_TOOL_CALLS=3, **settings_for(api, scripted.url))
    for word, says in {"slow": "longer than 100 characters", "many-calls": "more than 3 tool calls"}.items():
        scripted.hung_up.clear()
        with anybody(server) as client:
            for turn in three_turns(client, scripted, word, "failed")[::2]:
                assert says in turn.of("error")[0]["message"]
                assert len(turn.text) <= 100
                assert turn.of("tool_result") == []
            assert client.tasks() == []
        assert scripted.hung_up.wait(20), "the server still streams"


@pytest.mark.parametrize("api", ["chat", "responses", "litellm"])
def test_an_answer_that_takes_too_long_is_cut_off_at_the_server(
    make_server: Callable[..., Server], scripted: Provider, api: str
) -> None:
    """MAX_TURN_SECONDS ends the turn with its sentence, and the model's server is hung up on."""
    with make_server(MAX_TURN_SECONDS=1, **settings_for(api, scripted.url)).client() as client:
        thread = None
        for _ in range(3):
            scripted.hung_up.clear()
            turn = client.say("please slow", thread)
            assert "took longer than 1 seconds" in turn.of("error")[0]["message"]
            thread = turn.thread
            assert scripted.hung_up.wait(20), "the server still streams"
        assert [message["status"] for message in client.messages(turn.thread)[1::2]] == ["failed"] * 3


class Endless(Model):
    """A host's own model, which never ends: it says a word, or wants a tool, again and again."""

    def __init__(self, event: Callable[[int], Any]) -> None:
        self.event = event
        self.closed = asyncio.Event()

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError("this model only streams")

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        try:
            for n in itertools.count():
                await asyncio.sleep(0.001)
                yield self.event(n)
        finally:
            self.closed.set()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limits", "event", "says"),
    [
        (AnswerLimits(characters=100), lambda n: text("word "), "longer than 100 characters"),
        (
            AnswerLimits(calls=3),
            lambda n: item(function_call("list_tasks", {}, call_id=str(n))),
            "more than 3 tool calls",
        ),
        (AnswerLimits(seconds=0.5), lambda n: text("word "), "took longer than 0.5 seconds"),
    ],
    ids=["characters", "calls", "seconds"],
)
async def test_a_hosts_own_model_that_takes_too_much_is_closed(
    store: Store, limits: AnswerLimits, event: Callable[[int], Any], says: str
) -> None:
    """The same limits, sentences and end for a model that is the host's own."""
    model = Endless(event)
    options = agent.TurnOptions(sdk.run_config(models.Choice(None, "host"), 60_000), limits=limits)
    messages: list[Message] = []
    for n in range(3):
        messages.append(message(2 * n + 1, "user", "go on for ever"))
        todo = agent.todo_agent(model)
        events = [e async for e in agent.stream_turn(todo, messages, agent.TurnContext("alice", store), options)]
        assert events[-1]["type"] == "error"
        assert says in events[-1]["message"]
        messages.append(message(2 * n + 2, "assistant", "") | fold(events))
        await asyncio.wait_for(model.closed.wait(), 20)  # the run of the Agents SDK ends in a task of its own
        model.closed.clear()
