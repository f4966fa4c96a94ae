"""A model server that misbehaves on demand: what it does is the last word of the user's last message."""

import gzip
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from clients import Client, Turn

SECRET_TEXT = "the provider's own words, with sk-live-key, which nobody may see"


# How a server can ask to be left alone.
LATER = {
    "later": {"Retry-After": "55"},
    "much-later": {"Retry-After": "3", "Retry-After-Ms": "55000"},
    "tomorrow": {"Retry-After": formatdate(time.time() + 50, usegmt=True)},
}


AT_ONCE = {"x-should-retry": "false"}  # has a client give up at once, so that a test need not wait for it


def part(arguments: Any, call_id: Any = None, name: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a delta with a fragment of a tool call; what is None is left out."""
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{"function": function} | ({} if call_id is None else {"id": call_id}) | more]}


EGGS, BREAD = '{"title":"eggs"}', '{"title":"bread"}'
# The same two calls of add_task, as servers send them: a delta each.
TWO_CALLS = {
    "index-0-twice": [part(EGGS, "a", "add_task", index=0), part(BREAD, "b", "add_task", index=0)],
    "no-index": [part(EGGS, "a", "add_task"), part(BREAD, "b", "add_task")],
    "index-of-null": [part(EGGS, "a", "add_task", index=None), part(BREAD, "b", "add_task", index=None)],
    "in-one-delta": [
        {"tool_calls": [*part(EGGS, "a", "add_task")["tool_calls"], *part(BREAD, "b", "add_task")["tool_calls"]]}
    ],
    "no-id": [part(EGGS, "", "add_task", index=0), part(BREAD, "", "add_task", index=0)],
    "no-index-no-id": [part(EGGS, None, "add_task"), part(BREAD, None, "add_task")],
    "name-for-id": [part(EGGS, "add_task", "add_task", index=0), part(BREAD, "add_task", "add_task", index=0)],
    "one-id": [part(EGGS, "a", "add_task", index=0), part(BREAD, "a", "add_task", index=1)],
    "number-for-id": [part(EGGS, 1, "add_task", index=0), part(BREAD, 2, "add_task", index=0)],
    "fragments": [
        *(part("", "a", "add_task", index=0), part('{"title":', index=0), part('"eggs"}', index=0)),
        *(part("", "b", "add_task", index=0), part('{"title":', index=0), part('"bread"}', index=0)),
    ],
    "index-for-each-fragment": [
        *(part("", "a", "add_task", index=0), part('{"title":', index=1), part('"eggs"}', index=2)),
        *(part("", "b", "add_task", index=3), part('{"title":', index=4), part('"bread"}', index=5)),
    ],
    "fragments-no-index": [
        *(part("", "a", "add_task"), part('{"title":'), part('"eggs"}')),
        *(part("", "b", "add_task"), part('{"title":'), part('"bread"}')),
    ],
    "fragments-in-turns": [
        *(part("", "a", "add_task", index=0), part("", "b", "add_task", index=1)),
        *(part('{"title":', index=0), part('{"title":', index=1), part('"eggs"}', index=0), part('"bread"}', index=1)),
    ],
    "fragments-in-turns-by-id": [
        *(part("", "a", "add_task", index=0), part("", "b", "add_task", index=0)),
        *(part('{"title":', "a"), part('{"title":', "b"), part('"eggs"}', "a"), part('"bread"}', "b")),
    ],
    "id-for-each-fragment": [
        *(part("", "a", "add_task", index=0), part('{"title":', "a1", index=0), part('"eggs"}', "a2", index=0)),
        *(part("", "b", "add_task", index=0), part('{"title":', "b1", index=0), part('"bread"}', "b2", index=0)),
    ],
    "id-for-each-fragment-no-index": [
        *(part("", "a", "add_task"), part('{"title":', "a1", ""), part('"eggs"}', "a2", "")),
        *(part("", "b", "add_task"), part('{"title":', "b1", ""), part('"bread"}', "b2", "")),
    ],
    "name-in-each-fragment": [
        *(part('{"title":', "a", "add_task", index=0), part('"eggs"}', "a", "add_task", index=0)),
        *(part("", "a", "add_task", index=0), part('{"title":', "b", "add_task", index=0)),
        part('"bread"}', "b", "add_task", index=0),
    ],
    "name-in-each-fragment-one-id": [
        *(part('{"title":', "a", "add_task", index=0), part('{"title":', "a", "add_task", index=1)),
        *(part('"eggs"}', "a", "add_task", index=0), part('"bread"}', "a", "add_task", index=1)),
    ],
    "name-after-id": [
        *(part(None, "a", index=0), part(EGGS, None, "add_task", index=0)),
        *(part(None, "b", index=1), part(BREAD, None, "add_task", index=1)),
    ],
    "objects": [
        part({"title": "eggs"}, "a", "add_task", index=0),
        part({"title": "bread"}, "b", "add_task", index=1),
    ],
    "half-a-character-in-the-ids": [
        *(part(EGGS, "a\ud83d", "add_task", index=0), part(BREAD, "b\ud83d", "add_task", index=1)),
    ],
    "said-again": [part(EGGS, "a", "add_task", index=0)] * 2 + [part(BREAD, "b", "add_task", index=1)] * 2,
    "an-empty-object-first": [
        *(part({}, "a", "add_task", index=0), part(EGGS, index=0)),
        *(part({}, "b", "add_task", index=1), part(BREAD, index=1)),
    ],
}
# A call of list_tasks, which needs no arguments, without any.
BARE_CALLS = {
    "arguments-null": [part(None, "a", "list_tasks", index=0)],
    "arguments-empty": [part("", "a", "list_tasks", index=0)],
    "arguments-an-empty-object": [part({}, "a", "list_tasks", index=0)],
    "arguments-the-word-null": [part("null", "a", "list_tasks", index=0)],
    "function-call": [
        {"function_call": {"name": "list_tasks", "arguments": "{}"}}
    ],  # as it was before there were tools
    "arguments-none": [{"tool_calls": [{"index": 0, "id": "a", "function": {"name": "list_tasks"}}]}],
}
_THOUGHTS = [{"type": "text", "text": "I think, "}, {"type": "text", "text": "therefore"}]
# The answer "whole", and perhaps the thought "I think, therefore" before it.
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "reasoning-content": [{"reasoning_content": "I think, "}, {"reasoning_content": "therefore"}, {"content": "whole"}],
    "reasoning": [{"content": "", "reasoning": "I think, "}, {"reasoning": "therefore"}, {"content": "whole"}],
    "reasoning-text": [{"reasoning_text": "I think, "}, {"reasoning_text": "therefore"}, {"content": "whole"}],
    "reasoning-twice": [
        *({"reasoning": text, "reasoning_content": text} for text in ("I think, ", "therefore")),
        {"content": "whole", "reasoning": None, "reasoning_content": None},
    ],
    "reasoning-once-empty": [{"reasoning": "I think, therefore", "reasoning_content": ""}, {"content": "whole"}],
    "thoughts-in-parts": [
        {"content": [{"type": "thinking", "thinking": _THOUGHTS}]},
        {"content": [{"type": "text", "text": "wh"}, {"type": "reference", "reference_ids": [1]}]},
        {"content": "ole"},
    ],
    "think-and-say": [{"content": "\n<think>I think, "}, {"content": "therefore</think>\n\n"}, {"content": "whole"}],
    "text-in-parts": [{"content": [{"type": "text", "text": "wh"}, 1, None, {"type": "text", "text": "ole"}]}],
    "an-object-for-a-text": [{"content": {"type": "text", "text": "whole"}}],
    "odd-reasoning": [
        *({"reasoning": odd, "reasoning_content": odd} for odd in ({"text": "no"}, ["no"], 1, True, None)),
        {"content": "whole"},
    ],
    "odd-content": [*({"content": odd, "refusal": odd} for odd in ({"no": 1}, 1, False, [])), {"content": "whole"}],
    "odd-calls": [*({"tool_calls": odd} for odd in ({"no": 1}, "no", 1, [1, None, []])), {"content": "whole"}],
}
# The details of the thought "I think, therefore", as OpenRouter wants them back, and the pieces that it sends.
_OF_TEXT, _SEALED = {"type": "reasoning.text", "index": 0}, {"type": "reasoning.encrypted", "index": 0}
DETAILS = [
    _OF_TEXT | {"text": "I think, therefore", "signature": "signed", "format": "f"},
    _SEALED | {"data": "sealed", "id": "a"},
    _SEALED | {"data": "again", "id": "b"},
    {"type": "reasoning.summary", "index": 1, "summary": "thinks"},
]
_PIECES: list[Any] = [
    [_OF_TEXT | {"text": "I think, ", "signature": None, "format": "f"}],
    [_OF_TEXT | {"text": "therefore", "signature": None}, None, 1],
    [_OF_TEXT | {"signature": "signed"}, _SEALED | {"data": "sealed", "id": "a"}],
    [_SEALED | {"data": "aga", "id": "b"}, _SEALED | {"data": "in"}],
    [{"type": "reasoning.summary", "index": 1, "summary": text} for text in ("thin", "ks")],
    *("odd", None, {}),
]
# What servers want back in later turns, and refuse to answer without; others refuse it.
WANTING = {
    # OpenRouter: with each message that has calls, the details of its reasoning.
    "openrouter": [
        *({"reasoning": text, "content": ""} for text in ("I think, ", "therefore")),
        *({"content": "", "reasoning_details": pieces} for pieces in _PIECES),
        *TWO_CALLS["index-0-twice"],
    ],
    # DeepSeek: with each message that has calls, its reasoning.
    "deepseek": [{"reasoning_content": "I think, "}, {"reasoning_content": "therefore"}, *TWO_CALLS["index-0-twice"]],
    "vllm": [{"reasoning": "I think, "}, {"reasoning": "therefore"}, *TWO_CALLS["fragments"]],
    # Gemini: with the first call of each message, its signature.
    "gemini": [
        part(EGGS, "a", "add_task", index=0, extra_content={"google": {"thought_signature": "signed: eggs"}}),
        part(BREAD, "b", "add_task", index=0),
    ],
    # Mistral: nothing. What its thoughts come in is none of its fields.
    "mistral": [{"content": [{"type": "thinking", "thinking": _THOUGHTS}]}, *TWO_CALLS["index-0-twice"]],
    "think-unclosed": [{"content": "<think>I think, "}, {"content": "therefore"}, *TWO_CALLS["no-id"]],
    "think": [
        {"content": "<thi"},
        {"content": "nk>I think, "},
        {"content": "therefore</think>\n"},
        *TWO_CALLS["no-id"],
    ],
}
FIELDS = {"role", "content", "tool_calls", "tool_call_id", "name", "refusal"}  # of messages, as the protocol has them


def missed(word: str, messages: list[dict[str, Any]]) -> str | None:
    """Return what a server that wants something back has against these messages."""
    for message in messages:
        calls = message.get("tool_calls")
        field = {"deepseek": "reasoning_content", "vllm": "reasoning"}.get(word)
        if field and calls and message.get(field) != "I think, therefore":
            return f"The `{field}` in the thinking mode must be passed back to the API."
        if word == "openrouter" and calls and message.get("reasoning_details") != DETAILS:
            return "Function call is missing a thought_signature in functionCall parts."
        theirs = {field} if word != "openrouter" else {"reasoning", "reasoning_details"}
        if unknown := message.keys() - FIELDS - theirs:
            return f"Extra inputs are not permitted: {unknown}"
        if calls and word == "gemini" and not (calls[0].get("extra_content") and len(calls) == 2):
            return "Function call is missing a thought_signature in functionCall parts."
        if calls and word != "gemini" and any("extra_content" in call for call in calls):
            return "Extra inputs are not permitted: extra_content"
    return None


def missed_in(items: list[dict[str, Any]]) -> str | None:
    """Return what OpenAI has against these items of the Responses API, where nothing is stored."""
    before: dict[str, Any] = {}
    for item in items:
        if item.get("type") == "function_call" and before.get("type") not in ("reasoning", "function_call"):
            return "Item 'fc_1' of type 'function_call' was provided without its required 'reasoning' item."
        if item.get("type") == "reasoning" and item.get("encrypted_content") != "sealed":
            return "Item 'rs_1' not found. Items are not persisted when `store` is set to false."
        if "provider_data" in item:
            return "Unknown parameter: provider_data."
        before = item
    return None


# Sources that an answer refers to, as servers name them.
SOURCES: dict[str, list[dict[str, Any]]] = {
    "annotations": [
        {"content": "whole"},
        {
            "annotations": [
                {"type": "url_citation", "url_citation": {"url": "https://a.example/", "title": "A", "end_index": 5}}
            ]
        },
    ],
    "annotations-first": [
        {"annotations": [{"type": "url_citation", "url": "https://a.example/", "title": "A"}]},
        {"content": "whole"},
    ],
}
PERPLEXITY = {"search_results": [{"title": "A", "url": "https://a.example/"}], "citations": ["https://a.example/"]}
# How servers say that a conversation is too long: the status, and the error.
TOO_LONG: dict[str, tuple[int, Any]] = {
    "openai": (
        400,
        {"message": "Your input exceeds the context window.", "code": "context_length_exceeded"},
    ),
    "anthropic": (400, {"message": "prompt is too long: 213462 tokens > 200000 maximum"}),
    "gemini-long": (400, {"message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."}),
    "mistral-long": (400, {"message": "Prompt contains 9 tokens, too large for model with 8 maximum context length"}),
    "llama.cpp": (
        400,
        {"message": "request (9 tokens) exceeds the available context size (8 tokens)"},
    ),
    "lm-studio": (400, "The number of tokens to keep from the initial prompt is greater than the context length."),
    "xai": (400, "This model's maximum prompt length is 8 but the request contains 9 tokens."),
    "bedrock": (400, {"message": "Input is too long for requested model."}),
    "groq": (
        413,
        {"message": "Request too large: Limit 8, Requested 9. See /settings/billing", "code": "rate_limit_exceeded"},
    ),
    "openai-in-a-minute": (
        429,
        {"message": "Request too large for m on tokens per min: Limit 8, Requested 9.", "code": "rate_limit_exceeded"},
    ),
    "nginx": (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
    "tgi": (422, {"message": "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9"}),
}
# What servers say of other troubles.
TROUBLES: dict[str, tuple[int, Any]] = {
    "no-such-model": (
        404,
        {"message": "The model `m` does not exist", "code": "model_not_found"},
    ),
    "not-pulled": (404, {"message": 'model "m" not found, try pulling it first'}),
    "model-not-exist": (400, {"message": "Model Not Exist"}),
    "no-valid-model": (400, {"message": "m is not a valid model ID"}),
    "no-such-path": (404, {"detail": "Not Found"}),
    "not-allowed": (405, "<html>405 Not Allowed</html>"),
    "bad-request": (400, {"message": "Unsupported value: 'temperature'"}),
    "unprocessable": (422, {"message": "Field required"}),
    "no-quota": (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
    "no-balance": (402, {"message": "Insufficient Balance"}),
    "too-often": (429, {"message": "Rate limit reached for requests"}),
    "too-often-groq": (
        429,
        {"message": "Rate limit reached: tokens per minute (TPM): Limit 8, Used 8. Please try again in 9s. /billing"},
    ),
    "too-often-gemini": (
        429,
        {"message": "You exceeded your current quota, please check your plan and billing. Please retry in 32.1s."},
    ),
    "too-often-cerebras": (429, {"message": "Tokens per minute limit exceeded - too many tokens processed."}),
    "odd-code": (400, {"message": "No", "code": "sk-live-key"}),
    "overloaded": (529, {"message": "Overloaded"}),
    "filtered": (400, {"message": "The response was filtered", "code": "content_filter"}),
    "forbidden": (403, {"message": "Country not supported"}),
    "bad-key": (400, {"message": "API key not valid. Please pass a valid API key."}),
    "no-access": (403, {"message": "Project has no access to model `m`", "code": "model_not_found"}),
    "flagged": (403, {"message": "Your model requires moderation, and your input was flagged"}),
}
WHOLE_OBJECT = {"object": "chat.completion", "choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
# What servers send with status 200 in the place of a stream: the type of it, and the body.
IN_PLACE: dict[str, tuple[str, str]] = {
    "object-too-long": ("application/json", json.dumps({"error": {"message": "maximum context length is 8 tokens"}})),
    "object-bad-key": ("application/json", json.dumps({"error": {"message": "Incorrect API key provided"}}, indent=2)),
    "object-elsewhere": ("application/json", '{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'),
    "greeting": ("text/plain", "Ollama is running"),
    "page-that-is-no-html": ("text/plain", f"\n<html>{SECRET_TEXT}</html>"),
}
# Errors in the middle of a stream.
IN_THE_STREAM: dict[str, Any] = {
    "error-in-the-stream": {"message": SECRET_TEXT, "code": 502},
    "401-in-the-stream": {"message": "User not found.", "code": 401},
    "402-in-the-stream": {"message": "Pay first", "code": "402"},
    "429-in-the-stream": {"message": "Slow down", "code": 429},
    "too-often-in-the-stream": {
        "message": "Rate limit reached: number of tokens exceeded. Please try again in 2s. See /settings/billing",
        "code": "rate_limit_exceeded",
    },
    "bad-key-in-the-stream": {"message": "Incorrect API key provided", "code": "invalid_api_key"},
    "no-model-in-the-stream": "model 'm' not found",
    "too-long-behind-it": {"message": "Provider returned error", "metadata": {"raw": "maximum context length is 8"}},
}
# The end of a whole answer, with a count of tokens that is none.
COUNTS: dict[str, Any] = {
    "count-a-text": "none",
    "count-broken": {"prompt_tokens": 1.5, "completion_tokens": "2", "total_tokens": None},
    "count-empty": {},
    "count-an-object": {"prompt_tokens": {"a": 1}, "completion_tokens": 1, "total_tokens": 1},
    "count-negative": {"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10},
    "count-huge": {"prompt_tokens": 10**30, "completion_tokens": 10**30, "total_tokens": 10**30},
    "count-details-numbers": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 1)
    | {"prompt_tokens_details": 5, "completion_tokens_details": 1.5},
    "count-details-odd": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 1)
    | {"prompt_tokens_details": {"cached_tokens": 1.5}, "completion_tokens_details": {"reasoning_tokens": "none"}},
}
# The answer "whole" in events whose choices have a message in the place of a delta.
MESSAGES: dict[str, list[dict[str, Any]]] = {
    "message-again-at-the-end": [{"delta": {"content": "who"}}, {"delta": {"content": "le"}}, {}],
    "message-for-a-delta": [{"delta": None}],
    "message-behind-a-role": [{"delta": {"role": "assistant", "content": ""}}, {"delta": {}}],
}
# Blocks of a stream that are no events: they have no data.
NO_DATA = b"retry: 3000\n\nevent: ping\n\ndata:\n\ndata: \n\nid: 1\n\n: ping\n\n"
_SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "whole"}]}
# The answer "whole" over the Responses API: what of it comes before its end, and the output at its end.
OUTPUTS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "at-the-end-only": ([], [_SAID]),
    "content-null": ([{"type": "response.output_text.delta", "delta": "whole"}], [_SAID | {"content": None}]),
    "content-a-text": ([], [_SAID | {"content": "whole"}]),
    "output-null": ([{"type": "response.output_item.done", "item": _SAID}], None),
    "items-of-no-kind": ([{"type": "response.output_item.done", "item": None}, {"mood": "good"}], [None, {}, _SAID]),
    "counts-odd": ([], [_SAID]),
    "no-data": ([], [_SAID]),
    "stays-open": ([], [_SAID]),
    "thought-at-the-end-only": ([], [_SAID | {"content": "<think>I think, therefore</think>whole"}]),
}
# What the end of an answer is called.
ENDS = {
    "ended-by-the-filter": "function_call_filter: MALFORMED_FUNCTION_CALL",
    "ended-by-an-error": "error",
    "ended-by-what": "whatever",
    "ended-by-ERROR": "ERROR",
    "ended-by-malformed": "MALFORMED_FUNCTION_CALL",
    "ended-by-model-length": "model_length",
    "ended-by-sensitive": "sensitive",
    "ended-by-refusal": "refusal",
    "ended-by-no-resources": "insufficient_system_resource",
    "ended-by-eos": "eos",
    "ended-by-end-turn": "end_turn",
    "ended-by-STOP": "STOP",
    "ended-by-a-number": 1,
    "ended-by-an-object": {"no": 1},
    "ended-by-stop": "stop",
    "ended-by-calls": "tool_calls",
    "ended-by-a-call": "function_call",
    "ended-by-nothing": "",
}
ROOM = 4_000  # characters of a conversation that are not too long
NOTHING = gzip.compress(b"\n" * 5_000_000)  # 5 KB


class Provider(ThreadingHTTPServer):
    """Speaks enough of Chat Completions and of Responses; `requests` holds the bodies it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.encodings: set[str | None] = set()  # that clients say they accept
        self.elsewhere = ""  # where redirects lead to
        self.hung_up = threading.Event()  # set when a client closed a stream in the middle

    @property
    def url(self) -> str:
        """Return the base URL to give to a client."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has hung up; a mistake of the script is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def three_turns(client: Client, server: Provider, word: str, status: str = "done") -> list[Turn]:
    """Have a conversation: what is to be tried, an ordinary turn, and the same again; check what is stored and sent."""
    said = [f"please {word}", "please go on", f"again {word}"]
    turns: list[Turn] = []
    for message in said:
        turns.append(client.say(message, turns[0].thread if turns else None))
    assert all(turn.complete for turn in turns)
    stored = client.messages(turns[0].thread)
    assert [message["content"] for message in stored[::2]] == said
    assert [message["content"] for message in stored[1::2]] == [turn.text for turn in turns]
    assert [message["status"] for message in stored[1::2]] == [status, "done", status]
    assert turns[1].text.startswith("whole")
    assert turns[1].of("error") == []
    body = server.requests[-1]
    sent = body.get("messages") or body["input"]
    assert [message["content"] for message in sent if message.get("role") == "user"] == said
    assert ("[This answer failed here.]" in json.dumps(sent)) == (status == "failed")
    assert all(text in [str(message.get("content")) for message in sent] for text in turns[1].text.split("\n\n"))
    calls = [call["function"] for message in sent for call in message.get("tool_calls") or ()]
    calls += [item for item in sent if item.get("type") == "function_call"]
    asked = [(call["name"], json.loads(call["arguments"])) for call in calls]
    assert len(asked) >= len(stored[1]["tool_calls"])
    assert asked == [(call["name"], call["args"]) for message in stored for call in message["tool_calls"]][: len(asked)]
    return turns


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Provider
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Misbehave."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.encodings.add(self.headers["accept-encoding"])
        messages = body.get("messages") or body["input"]
        self.messages = messages
        asked = [m for m in messages if m.get("role") == "user"][-1]["content"]
        self.asked = asked if isinstance(asked, str) else asked[0]["text"]
        users = [n for n, message in enumerate(messages) if message.get("role") == "user"]
        self.calls = sum(message.get("role") == "tool" for message in messages[users[-1] :])  # in this turn
        self.first = messages[-1].get("role") == "user"  # of the requests of this turn
        word = self.asked.split()[-1]
        if word == "slow-start" and self.first:
            if self.path.endswith("/responses"):  # the status comes before the model has started
                self.begin()
            time.sleep(6)
        if word.startswith("3"):
            self.answer(int(word), "{}", "application/json", {"Location": f"{self.server.elsewhere}{self.path}"})
        elif word == "compressed":
            self.answer(200, NOTHING, "text/event-stream", {"Content-Encoding": "gzip"})
        elif word.startswith("compressed-"):
            self.answer(int(word[-3:]), NOTHING, "application/json", {"Content-Encoding": "identity, GZip"})
        elif word.isdigit():
            self.answer(int(word), json.dumps({"error": {"message": SECRET_TEXT}}), "application/json")
        elif word in LATER:
            self.answer(429, "{}", "application/json", LATER[word])
        elif word in TROUBLES:
            status, error = TROUBLES[word]
            text = error if isinstance(error, str) else json.dumps({"error": error})
            kind = "text/plain" if isinstance(error, str) else "application/json"
            self.answer(status, text, kind, AT_ONCE)
        elif word in TOO_LONG and len(json.dumps(messages)) > ROOM:
            status, error = TOO_LONG[word]
            self.answer(status, json.dumps({"error": error}), "application/json", AT_ONCE)
        elif (word in WANTING and (fault := missed(word, messages))) or (
            word == "sealed" and (fault := missed_in(messages))
        ):
            self.answer(400, json.dumps({"error": {"message": fault}}), "application/json")
        elif word in IN_PLACE and (word != "object-too-long" or len(json.dumps(messages)) > ROOM):
            self.answer(200, IN_PLACE[word][1], IN_PLACE[word][0])
        elif word.startswith("whole-object"):
            whole = {"object": "response", "status": "completed", "output": [_SAID]}
            text = json.dumps(whole if self.path.endswith("/responses") else WHOLE_OBJECT, indent=2)
            text = text.replace("\n", "\r\n") if word == "whole-object-crlf" else text
            self.answer(200, text, "application/json")
        elif word in ("endless", "endless-error"):
            self.begin(200 if word == "endless" else 400)
            for _ in range(1000):  # 64 MB
                self.write(b"data: " + b"x" * 65536)
        elif word == "reset":  # in the middle of its body
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", "10000")
            self.end_headers()
            self.wfile.write(b": so far\n\n")
        elif word == "html":
            self.answer(200, f"<html>{SECRET_TEXT}</html>", "text/html")
        elif self.path.endswith("/responses"):
            self.responses_api(word)
        else:
            self.completions(word)

    def do_GET(self) -> None:
        """Take note of a redirect that was followed."""
        self.server.requests.append({})
        self.answer(404, "{}", "application/json")

    def answer(self, status: int, text: str | bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        """Send a whole body."""
        body = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self, status: int = 200) -> None:
        """Begin a stream that ends with the connection."""
        if self.close_connection:  # begun already
            return
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def send(self, data: dict[str, Any]) -> None:
        """Send one frame."""
        self.write(f"data: {json.dumps(data)}\n\n".encode())

    def write(self, data: bytes) -> None:
        """Send a piece of a body."""
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            self.server.hung_up.set()
            raise

    def responses_api(self, word: str) -> None:
        """Answer in the Responses API: one delta, and then an end that is none."""
        self.begin()
        if word == "loosely":  # as some compatible servers do: fields are missing, others are new, a kind is unknown
            text = {"type": "output_text", "text": "whole"}
            output = [{"type": "message", "role": "assistant", "content": [text], "mood": "good"}]
            self.send({"type": "response.mood", "mood": "good"})
            self.send({"type": "response.output_text.delta", "delta": "whole", "mood": "good"})
            self.send({"type": "response.completed", "response": {"id": "r", "output": output}})
            return
        call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add_task", "arguments": EGGS}
        if word == "sealed" and self.first:
            thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"}
            delta = {"type": "response.reasoning_summary_text.delta", "delta": "I think, therefore", "summary_index": 0}
            self.send(delta)
            for item in (thought, call, call | {"call_id": "call_2", "id": "fc_2", "arguments": BREAD}):
                self.send({"type": "response.output_item.done", "output_index": 0, "sequence_number": 0, "item": item})
            self.send({"type": "response.completed", "response": {"id": "r", "output": []}})
            return
        if word == "search":
            note = {"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 5}
            text = {"type": "output_text", "text": "whole", "annotations": [note]}
            message = {"type": "message", "role": "assistant", "content": [text]}
            search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "whole"}}
            self.send({"type": "response.output_item.done", "item": search})
            self.send({"type": "response.output_text.delta", "delta": "whole"})
            self.send({"type": "response.output_text.annotation.added", "annotation_index": 0, "annotation": note})
            self.send({"type": "response.output_item.done", "item": message})
            self.send({"type": "response.completed", "response": {"id": "r", "output": [search, message]}})
            return
        if word in ("too-long-in-the-stream", "incomplete", "filtered-in-the-stream"):
            reasons = {"incomplete": "max_output_tokens", "filtered-in-the-stream": "content_filter"}
            response = {"id": "r", "output": [], "incomplete_details": {"reason": reasons.get(word)}}
            kind = "incomplete"
            if word == "too-long-in-the-stream":
                kind, response["error"] = "failed", {"code": "context_length_exceeded", "message": SECRET_TEXT}
            self.send({"type": "response.created", "response": response})
            if word != "too-long-in-the-stream":
                self.send({"type": "response.output_text.delta", "delta": "half"})
            elif len(json.dumps(self.messages)) <= ROOM:
                kind = "completed"
                self.send({"type": "response.output_text.delta", "delta": "whole"})
            self.send({"type": f"response.{kind}", "response": response})
            return
        if word == "think":
            for delta in ("<thi", "nk>I think, ", "therefore</think>", "\n\nwhole"):
                self.send({"type": "response.output_text.delta", "delta": delta})
            text = {"type": "output_text", "text": "<think>I think, therefore</think>\n\nwhole"}
            message = {"type": "message", "role": "assistant", "content": [text]}
            self.send({"type": "response.completed", "response": {"id": "r", "output": [message]}})
            return
        odd_calls = {
            "arguments-an-object": {"arguments": {"title": "eggs"}},
            "call-id-empty": {"call_id": ""},
            "call-id-null": {"call_id": None},
            "call-id-half-a-character": {"call_id": "call_\ud83d", "id": "fc_\ud83d"},
        }
        if word in odd_calls and self.first:
            call |= odd_calls[word]
            self.send({"type": "response.output_item.done", "output_index": 0, "sequence_number": 0, "item": call})
            self.send({"type": "response.completed", "response": {"id": "r", "output": [call]}})
            return
        if word in OUTPUTS:
            before, output = OUTPUTS[word]
            if word == "no-data":
                self.write(NO_DATA)
            for event in before:
                self.send(event)
            odd = {"input_tokens": {"a": 1}, "output_tokens": 1.5, "input_tokens_details": 4}
            odd |= {"total_tokens": -1, "output_tokens_details": {"reasoning_tokens": "none"}}
            usage = odd if word == "counts-odd" else "none"
            self.send({"type": "response.completed", "response": {"id": "r", "output": output, "usage": usage}})
            if word == "stays-open":
                time.sleep(8)
            return
        if word == "slow":
            for n in range(500):
                self.send({"type": "response.output_text.delta", "delta": f"w{n} "})
                time.sleep(0.02)
        if word == "many-calls":
            for n in range(500):
                item = call | {"call_id": f"call_{n}", "id": f"fc_{n}"}
                self.send({"type": "response.output_item.done", "output_index": n, "item": item})
                time.sleep(0.02)
        if word in odd_calls | TOO_LONG | IN_PLACE or word in ("reasoning", "odd-deltas", "sealed", "slow-start", "on"):
            reasoning, text = "response.reasoning_text.delta", "response.output_text.delta"
            odd = [{"type": kind, "delta": delta} for kind in (reasoning, text) for delta in (None, 1, {"no": 1}, [])]
            thoughts = [{"type": reasoning, "delta": delta} for delta in ("I think, ", "therefore")]
            before = {"reasoning": thoughts, "odd-deltas": odd}.get(word, [])
            message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "whole"}]}
            for event in [*before, {"type": text, "delta": "whole"}]:
                self.send(event)
            self.send({"type": "response.completed", "response": {"id": "r", "output": [message]}})
            return
        self.send(
            {
                "type": "response.output_text.delta",
                "item_id": "m",
                "output_index": 0,
                "content_index": 0,
                "delta": "half",
                "sequence_number": 0,
                "logprobs": [],
            }
        )

    def completions(self, word: str) -> None:
        """Answer in Chat Completions."""

        def chunk(delta: dict[str, Any], reason: Any = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}

        self.begin()
        if word == "loop":
            function = {"name": "list_tasks", "arguments": "{}"}
            call = {"index": 0, "id": f"call_{len(self.server.requests)}", "type": "function", "function": function}
            self.send(chunk({"role": "assistant", "tool_calls": [call]}))
            self.send(chunk({}, "tool_calls"))
        elif word in ("twice", "nameless") and self.calls < 2:  # ids that are given twice, or not at all
            call_id = "call_1" if word == "twice" else ""
            function = {"name": "add_task", "arguments": json.dumps({"title": f"Task {self.calls}"})}
            call = {"index": 0, "id": call_id, "type": "function", "function": function}
            self.send(chunk({"role": "assistant", "tool_calls": [call]}))
            self.send(chunk({}, "tool_calls"))
        elif word in TWO_CALLS | BARE_CALLS and self.first:
            for delta in (TWO_CALLS | BARE_CALLS)[word]:
                self.send(chunk(delta))
            self.send(chunk({}, "tool_calls"))
        elif word in WANTING and self.first:
            for delta in WANTING[word]:
                self.send(chunk(delta))
            self.send(chunk({}, "tool_calls"))
        elif word in ANSWERS | SOURCES:
            for delta in (ANSWERS | SOURCES)[word]:
                self.send(chunk(delta))
            self.send(chunk({}, "stop"))
        elif word == "search-results":  # with each chunk, from the first on
            for delta in ({"content": "who"}, {"content": "le"}):
                self.send(chunk(delta) | PERPLEXITY)
            self.send(chunk({}, "stop") | PERPLEXITY)
        elif word == "alive":  # for longer than a model may be silent
            for sign in (": PROCESSING\n\n", None) * 3:
                if sign is None:
                    self.send(chunk({"content": ""}))
                else:
                    self.wfile.write(sign.encode())
                    self.wfile.flush()
                time.sleep(0.4)
            self.send(chunk({"content": "whole"}))
            self.send(chunk({}, "stop"))
        elif word == "azure":  # its first chunk has no choice, the lines end as those of HTTP, and no [DONE] follows
            first = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
            for data in (first, chunk({"role": "assistant", "content": "whole"}), chunk({}, "stop")):
                self.wfile.write(f"data: {json.dumps(data)}\r\n\r\n".encode())
            return
        elif word in IN_THE_STREAM and (word != "too-long-behind-it" or len(json.dumps(self.messages)) > ROOM):
            if word == "error-in-the-stream":
                self.send(chunk({"role": "assistant", "content": "half"}))
            self.send({"error": IN_THE_STREAM[word]})
            return
        elif word in COUNTS:
            self.send(chunk({"content": "whole"}))
            self.send(chunk({}, "stop") | {"usage": COUNTS[word]})
        elif word in MESSAGES:
            for n, choice in enumerate(MESSAGES[word], 1):
                last = {"message": {"role": "assistant", "content": "whole"}, "finish_reason": "stop"}
                self.send({"choices": [choice | (last if n == len(MESSAGES[word]) else {})]})
        elif word == "no-data":
            self.write(NO_DATA)
            self.send(chunk({"content": "whole"}))
            self.write(NO_DATA)
            self.send(chunk({}, "stop"))
        elif word == "mark":  # of the order of bytes, as some editors and proxies begin a text with
            self.wfile.write(b"\xef\xbb\xbf")
            self.send(chunk({"content": "whole"}))
            self.send(chunk({}, "stop"))
        elif word == "many-calls":
            for n in range(500):
                self.send(chunk(part("{}", f"call_{n}", "list_tasks", index=n)))
                time.sleep(0.02)
        elif word in ENDS:
            self.send(chunk({"role": "assistant", "content": "half"}))
            self.send(chunk({}, ENDS[word]))
        elif word == "ended-by-nothing-at-all":
            self.send(chunk({"role": "assistant", "content": "half"}, ""))
            return
        elif word == "slow":
            for n in range(500):
                self.send(chunk({"role": "assistant", "content": f"w{n} "}))
                time.sleep(0.02)
        elif word == "silent":
            self.send(chunk({"role": "assistant", "content": "half "}))
            time.sleep(8)
        elif word in ("length", "content_filter"):
            self.send(chunk({"role": "assistant", "content": "half"}))
            self.send(chunk({}, word))
        elif word == "garbage":
            self.send(chunk({"role": "assistant", "content": "half"}))
            self.wfile.write(b"data: {no JSON\n\n")
        elif word == "cut":
            self.send(chunk({"role": "assistant", "content": "half"}))
            return
        elif word == "echo":
            self.send(chunk({"role": "assistant", "content": self.asked}))
            self.send(chunk({}, "stop"))
        elif word == "loosely":  # as some compatible servers do: fields are missing, others are new or have odd values
            self.send({"choices": [{"index": 0, "delta": {"content": "whole", "mood": "good"}, "finish_reason": None}]})
            self.send({"id": None, "choices": [{"index": 0, "delta": {}, "finish_reason": ""}]})
            self.send({"choices": None, "usage": {"total_tokens": 1}})
        elif word == "nothing":
            self.send(chunk({"role": "assistant", "content": ""}))
            self.send(chunk({}, "stop"))
        else:
            self.send(chunk({"role": "assistant", "content": "whole "}))
            self.send(chunk({"content": "\ud83d\ude00"}))
            self.send(chunk({}, "stop"))
        self.wfile.write(b"data: [DONE]\n\n")


@contextmanager
def provider() -> Iterator[Provider]:
    """Run a provider until the block ends."""
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(5)
