"""Which model answers, and models behind real HTTP: a well-behaved one and one that fails."""

import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.models import get_default_model
from conftest import ROOT, Client, Server, npm_package, running
from servers import ANSWERS, BARE_CALLS, COUNTS, MESSAGES, NOTHING, OUTPUTS, SECRET_TEXT, provider, three_turns

from todochat import models
from todochat.models.offline import OfflineModel

pytestmark = pytest.mark.anyio

# ---- the choice ----


@pytest.mark.parametrize(
    ("env", "kind", "name", "url"),
    [
        ({}, OfflineModel, "offline", None),
        ({"OPENAI_API_KEY": ""}, OfflineModel, "offline", None),
        ({"OPENAI_API_KEY": "k"}, OpenAIResponsesModel, get_default_model(), models.OPENAI_URL),
        ({"OPENAI_API_KEY": "k", "OPENAI_API": "chat"}, OpenAIChatCompletionsModel, None, models.OPENAI_URL),
        ({"OPENAI_API_KEY": "k", "OPENAI_MODEL": "gpt-x"}, OpenAIResponsesModel, "gpt-x", models.OPENAI_URL),
        (
            {"OPENAI_BASE_URL": "http://localhost:11434/v1", "OPENAI_MODEL": "llama"},
            OpenAIChatCompletionsModel,
            "llama",
            "http://localhost:11434/v1",
        ),
        (
            {"OPENAI_BASE_URL": "http://localhost:1/v1", "OPENAI_MODEL": "m", "OPENAI_API": "responses"},
            OpenAIResponsesModel,
            "m",
            "http://localhost:1/v1",
        ),
        ({"GEMINI_API_KEY": "k"}, OpenAIChatCompletionsModel, "gemini-flash-latest", models.GEMINI_URL),
        ({"GEMINI_API_KEY": "k", "OPENAI_API_KEY": "k"}, OpenAIChatCompletionsModel, "gemini-flash-latest", None),
        (
            {"GEMINI_API_KEY": "k", "GEMINI_MODEL": "g", "GEMINI_BASE_URL": "http://localhost:2/"},
            OpenAIChatCompletionsModel,
            "g",
            "http://localhost:2/",
        ),
    ],
)
def test_the_first_setting_that_matches_chooses_the_model(
    env: dict[str, str], kind: type, name: str | None, url: str | None
) -> None:
    """The environment chooses the model, its API, its name and its address; without any it is the offline model."""
    choice = models.choose_model(env)
    assert type(choice.model) is kind
    assert name is None or choice.name == name
    if url is not None:
        assert str(choice.model._client.base_url).rstrip("/") == url.rstrip("/")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"MODEL": "gpt-4"}, "litellm/<provider>/<model>"),
        ({"MODEL": "litellm/anthropic/claude"}, r"pip install 'openai-agents\[litellm\]'"),
        ({"OPENAI_BASE_URL": "http://localhost:1/v1"}, "OPENAI_MODEL"),
        ({"OPENAI_BASE_URL": "localhost:1", "OPENAI_MODEL": "m"}, "http://"),
        ({"OPENAI_BASE_URL": "http://localhost:99999/v1", "OPENAI_MODEL": "m"}, "base URL"),
        ({"OPENAI_BASE_URL": "http://ho st:1/v1", "OPENAI_MODEL": "m"}, "base URL"),
        ({"OPENAI_BASE_URL": "http://u:secret@localhost:1/v1", "OPENAI_MODEL": "m"}, "no user and password"),
        ({"OPENAI_BASE_URL": "http://u:secret@localhost:1/v1"}, "OPENAI_MODEL"),
        ({"MODEL": "http://u:secret@localhost:1/v1"}, "litellm/<provider>/<model>"),
        ({"OPENAI_API_KEY": "sk-\u00e9"}, "API key"),
        ({"OPENAI_API_KEY": "k", "OPENAI_API": "soap"}, "responses"),
        ({"GEMINI_API_KEY": "k", "OPENAI_API": "soap"}, "responses"),
    ],
)
def test_a_bad_choice_says_what_to_set(env: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot work is one sentence that names the remedy."""
    monkeypatch.setitem(sys.modules, "litellm", None)  # as if it were not installed
    for module in ("model", "provider"):  # which another test may have imported
        monkeypatch.delitem(sys.modules, f"agents.extensions.models.litellm_{module}", raising=False)
    with pytest.raises(models.BadModel, match=says) as bad:
        models.choose_model(env)
    assert "secret" not in str(bad.value)  # a URL may hold a password


@pytest.mark.parametrize(
    "shown",
    sorted(
        {
            shown.removesuffix(" make run")
            for page in ("README.md", "docs/models.md")
            for shown in re.findall(r"`(OPENAI_BASE_URL=[^`]+)`", (ROOT / page).read_text())
        }
    ),
)
def test_what_is_shown_to_be_set_chooses_that_model(shown: str) -> None:
    """Each line of settings in the tables of model servers leads to that server, over Chat Completions."""
    env = dict(setting.split("=", 1) for setting in shown.split())
    choice = models.choose_model(env)
    assert choice.name == env["OPENAI_MODEL"]
    assert type(choice.model) is OpenAIChatCompletionsModel
    assert str(choice.model._client.base_url).rstrip("/") == env["OPENAI_BASE_URL"].rstrip("/").lower()


# ---- a model behind HTTP ----


@pytest.fixture(scope="module")
def aimock() -> Iterator[str]:
    """A mock of OpenAI's APIs in its own process; gives its address."""
    cli = npm_package("@copilotkit/aimock") / "dist" / "cli.js"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["node", str(cli), "--port", str(port), "--fixtures", str(ROOT / "tests" / "aimock.json")]
    with running([*command, "--chunk-size", "5", "--strict"], str(port)):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_four_turns_with_tools_over_http(make_server: Callable[..., Server], aimock: str, api: str) -> None:
    """Over Chat Completions and over Responses a conversation with tools goes on for as many turns as one likes."""
    server = make_server(OPENAI_BASE_URL=f"{aimock}/v1", OPENAI_API_KEY="mock", OPENAI_MODEL="gpt-4o", OPENAI_API=api)
    with server.client() as client:
        first = client.say("the shopping please")
        assert first.text == "I will put both on your list.\n\nBoth tasks are on your list now."
        assert len(first.of("text")) > 4, "the text came in one piece"
        assert [t["title"] for t in client.tasks()] == ["Buy milk", "Buy bread"]
        second = client.say("the second one is done", first.thread)
        assert [e["type"] for e in second.events[:3]] == ["thinking", "tool_call", "tool_result"]
        assert second.text == "Well done."
        third = client.say("which are left?", first.thread)
        assert third.of("tool_result")[0]["result"]["tasks"][0]["title"] == "Buy milk"
        assert third.text == "Only the milk is left."
        assert client.say("thanks", first.thread).text == "You are welcome."
        messages = client.messages(first.thread)
        assert [m["status"] for m in messages] == ["done"] * 8
        assert [len(m["tool_calls"]) for m in messages[1::2]] == [2, 1, 1, 0]
    sent = httpx.get(f"{aimock}/__aimock/journal").json()
    last = sent[-1]["body"] if isinstance(sent, list) else sent["entries"][-1]["body"]
    assert json.dumps(last).count("Both tasks are on your list now.") == 1
    assert json.dumps(last).count("000002c00") == 2, "the first turn's call and its result are in the fourth's input"


# ---- a model that fails ----


@pytest.fixture(scope="module")
def failing() -> Iterator[Any]:
    """A provider that misbehaves on demand."""
    with provider() as server:
        yield server


@pytest.fixture(scope="module")
def served(failing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Return the server that talks to that provider in an API, shared by the tests of this file."""
    servers: dict[str, Server] = {}

    def of(api: str) -> Server:
        if api not in servers:
            model = {"OPENAI_BASE_URL": failing.url, "OPENAI_API_KEY": "k", "OPENAI_MODEL": "m", "OPENAI_API": api}
            servers[api] = Server(tmp_path_factory.mktemp(api), MODEL_IDLE_TIMEOUT=2, **model).start()
        return servers[api]

    yield of
    for server in servers.values():
        server.close()


def anybody(server: Server) -> Client:
    """Return a client for a user who is new."""
    return server.client(f"user-{uuid.uuid4()}")


ENDS_OF_WHOLES = ["ended-by-stop", "ended-by-calls", "ended-by-a-call", "ended-by-nothing"]
ENDS_OF_WHOLES += ["ended-by-eos", "ended-by-end-turn", "ended-by-STOP"]
FAILURES = {
    "401": ("API key", ""),
    "404": ("check its base URL", ""),
    "429": ("overloaded", ""),
    "500": ("reported an error", ""),
    "cut": ("broke off", "half"),
    "html": ("check its base URL", ""),
    "loop": ("too many steps", ""),
    "length": ("ask for less", "half"),
    "content_filter": ("filter", "half"),
    "garbage": ("broke off", "half"),
    "later": ("overloaded", ""),  # before MODEL_IDLE_TIMEOUT, however long the provider wants to be left alone
    "much-later": ("overloaded", ""),
    "tomorrow": ("overloaded", ""),
    "nothing": ("broke off", ""),
    "ended-by-the-filter": ("broke off", "half"),
    "ended-by-an-error": ("reported an error", "half"),
    "ended-by-what": ("broke off", "half"),
    "ended-by-malformed": ("broke off", "half"),
    "ended-by-model-length": ("ask for less", "half"),
    "ended-by-sensitive": ("filter", "half"),
    "ended-by-refusal": ("declined", "half"),
    "ended-by-no-resources": ("try again in a minute", "half"),
    "endless": ("too much at once", ""),
    "endless-error": ("refused this request", ""),
    "ended-by-ERROR": ("reported an error", "half"),
    "ended-by-a-number": ("broke off", "half"),
    "ended-by-an-object": ("broke off", "half"),
    "ended-by-nothing-at-all": ("broke off", "half"),
    "compressed": ("came compressed", ""),
    "compressed-401": ("API key", ""),
    "compressed-500": ("reported an error", ""),
    "silent": ("did not answer within 2 seconds", "half "),
}
CASES = [("chat", word) for word in FAILURES] + [
    ("responses", w) for w in ("401", "404", "429", "500", "cut", "html", "compressed", "compressed-401")
]


@pytest.mark.parametrize(("api", "word"), CASES)
def test_a_failing_model_ends_the_turn_in_words(
    served: Callable[[str], Server], failing: Any, api: str, word: str
) -> None:
    """However a model fails: one `error` frame with a sentence of ours, `[DONE]`, and what there was is stored."""
    says, partial = FAILURES[word]
    server = served(api)
    failing.hung_up.clear()
    with anybody(server) as client:
        failed, _, again = three_turns(client, failing, word, "failed")
        stored = client.messages(failed.thread)
        if word.startswith("endless"):
            assert failing.hung_up.wait(20), "the server still sends"
        for turn, answer in ((failed, stored[1]), (again, stored[5])):
            [error] = turn.of("error")
            assert set(error) == {"type", "message"}
            assert says in error["message"]
            assert turn.frames[-2] == json.dumps(error, separators=(",", ":"))
            assert turn.text == partial
            assert answer["error"] == error["message"]  # to be shown when the page is opened again
            assert SECRET_TEXT not in "".join(turn.frames)
    assert SECRET_TEXT not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("word", ENDS_OF_WHOLES)
def test_these_are_ends_of_whole_answers(served: Callable[[str], Server], failing: Any, word: str) -> None:
    """What is no other word for an end that came too soon is the end of an answer that is done."""
    with anybody(served("chat")) as client:
        turn, _, again = three_turns(client, failing, word)
        assert (turn.text, again.text) == ("half", "half")


@pytest.mark.parametrize(
    ("api", "word"),
    [
        *(("chat", word) for word in (*COUNTS, *MESSAGES, "mark", "no-data", "whole-object", "whole-object-crlf")),
        *(("responses", word) for word in (*OUTPUTS, "whole-object", "whole-object-crlf")),
    ],
)
def test_these_are_whole_answers(served: Callable[[str], Server], failing: Any, api: str, word: str) -> None:
    """An answer may come in one piece, or have odd things around it, in its items and in what it counts."""
    with anybody(served(api)) as client:
        for turn in three_turns(client, failing, word)[::2]:
            assert (turn.text, turn.of("error")) == ("whole", [])


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_redirect_is_not_followed(served: Callable[[str], Server], failing: Any, api: str) -> None:
    """A provider cannot have the conversation sent to another host: the turn ends with a sentence that says why."""
    with provider() as elsewhere:
        failing.elsewhere = f"http://127.0.0.1:{elsewhere.server_port}"
        with anybody(served(api)) as client:
            thread = None
            for status in ("301", "302", "303", "307", "308"):
                turn = client.say(f"please {status}", thread)
                assert turn.complete
                assert "redirect" in turn.of("error")[0]["message"]
                thread = turn.thread
                assert client.messages(thread)[-1]["status"] == "failed"
                assert client.say("please go on", thread).of("error") == []
        assert elsewhere.requests == []


async def test_nothing_is_decompressed(failing: Any) -> None:
    """No compression is asked for, and what comes compressed all the same is left as it is."""
    for api in ("chat", "responses"):
        choice = models.choose_model({"OPENAI_BASE_URL": failing.url, "OPENAI_MODEL": "m", "OPENAI_API": api})
        client: Any = choice.model._client  # type: ignore[union-attr]

        async def ask(word: str, client: Any = client, api: str = api) -> None:
            messages: Any = [{"role": "user", "content": word}]
            async with client:
                if api == "chat":
                    await client.chat.completions.create(model="m", messages=messages, stream=True)
                else:
                    await client.responses.create(model="m", input=messages, stream=True)

        failing.encodings.clear()
        with pytest.raises(openai.AuthenticationError) as refused:
            await ask("compressed-401")
        assert refused.value.response.content == NOTHING
        assert failing.encodings == {"identity"}


@pytest.mark.parametrize("word", BARE_CALLS)
def test_a_call_without_arguments_is_made(served: Callable[[str], Server], failing: Any, word: str) -> None:
    """A tool that needs no arguments runs without any, and the server gets back a call whose arguments are JSON."""
    with anybody(served("chat")) as client:
        for turn in three_turns(client, failing, word)[::2]:
            assert turn.text == "whole \U0001f600"
            assert [call["args"] for call in turn.of("tool_call")] == [{}]
            assert turn.of("tool_result")[0]["result"] == {"success": True, "total": 0, "tasks": []}
    [call] = failing.requests[-1]["messages"][-2]["tool_calls"]
    assert call["function"]["arguments"] == "{}"


@pytest.mark.parametrize("word", ["arguments-an-object", "call-id-empty", "call-id-null", "call-id-half-a-character"])
def test_a_call_over_responses_is_made_however_it_is_sent(
    served: Callable[[str], Server], failing: Any, word: str
) -> None:
    """What some servers leave out of a call, or send as an object, keeps no tool from running."""
    with anybody(served("responses")) as client:
        for turn in three_turns(client, failing, word)[::2]:
            assert turn.text == "whole"
            assert [result["result"]["title"] for result in turn.of("tool_result")] == ["eggs"]
        assert [task["title"] for task in client.tasks()] == ["eggs", "eggs"]
    call, output = failing.requests[-1]["input"][-2:]
    assert call["call_id"] == output["call_id"] != ""


@pytest.mark.parametrize(
    ("api", "word"), [*(("chat", word) for word in ANSWERS), ("responses", "reasoning"), ("responses", "odd-deltas")]
)
def test_thoughts_are_thoughts_and_text_is_text(
    served: Callable[[str], Server], failing: Any, api: str, word: str
) -> None:
    """A model's reasoning becomes `thinking`, once, in whichever field it comes; other shapes do no harm."""
    with anybody(served(api)) as client:
        for turn in three_turns(client, failing, word)[::2]:
            assert turn.text == "whole"
            thoughts = "".join(event["content"] for event in turn.of("thinking")[1:])
            silent = word.startswith("odd") or word in ("text-in-parts", "an-object-for-a-text")
            assert thoughts == ("" if silent else "I think, therefore")


@pytest.mark.parametrize("word", ["twice", "nameless"])
def test_tool_calls_without_an_id_of_their_own_get_one(
    served: Callable[[str], Server], failing: Any, word: str
) -> None:
    """A server that gives an id twice, or none, is as good as any: each call is made, and has its own result."""
    with anybody(served("chat")) as client:
        for turn in three_turns(client, failing, word)[::2]:
            assert turn.text == "whole \U0001f600"
            calls, results = turn.of("tool_call"), turn.of("tool_result")
            assert [call["args"]["title"] for call in calls] == ["Task 0", "Task 1"]
            assert [result["result"]["title"] for result in results] == ["Task 0", "Task 1"]
            assert [call["id"] for call in calls] == [result["id"] for result in results]
            assert len({call["id"] for call in calls}) == 2
            assert all(call["id"] for call in calls)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_server_that_takes_the_protocol_loosely_is_understood(
    served: Callable[[str], Server], failing: Any, api: str
) -> None:
    """Missing fields, new ones, odd values and unknown events do no harm; the request holds all that it should."""
    with anybody(served(api)) as client:
        assert [turn.text for turn in three_turns(client, failing, "loosely")[::2]] == ["whole", "whole"]
    names = [tool["function"]["name"] if api == "chat" else tool["name"] for tool in failing.requests[-1]["tools"]]
    assert names == ["add_task", "list_tasks", "complete_task", "update_task", "delete_task"]


def test_a_model_that_cannot_be_reached_ends_the_turn_in_words(make_server: Callable[..., Server]) -> None:
    """A refused connection is one `error` frame and `[DONE]`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with make_server(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1", OPENAI_MODEL="m").client() as client:
        thread = None
        for _ in range(3):
            turn = client.say("hello", thread)
            assert turn.complete
            assert "connection to the model failed" in turn.of("error")[0]["message"]
            thread = turn.thread
        assert [message["status"] for message in client.messages(turn.thread)[1::2]] == ["failed"] * 3


def test_nothing_heavy_is_imported_but_the_agents_sdk() -> None:
    """What the app imports beyond the Agents SDK, Starlette and uvicorn is small."""
    code = "import agents, starlette.applications, uvicorn, sys; a = set(sys.modules); import app; print(*sorted("
    code += "{m.split('.')[0] for m in set(sys.modules) - a}))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {"agent", "app", "auth", "db", "models", "runs", "settings", "wire"}
    heavy = set(output.split()) - ours - {"aiosqlite", "jose", "sqlite3", "_sqlite3", "starlette", "cryptography"}
    assert not heavy & {"numpy", "httpx", "fastapi", "litellm", "chatkit", "pytest"}, heavy
