"""A model server that misbehaves on demand: what it does is the last word of the user's last message."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET_TEXT = "the provider's own words, with sk-live-key, which nobody may see"


# How a server can ask to be left alone.
LATER = {
    "later": {"Retry-After": "55"},
    "much-later": {"Retry-After": "3", "Retry-After-Ms": "55000"},
    "tomorrow": {"Retry-After": formatdate(time.time() + 50, usegmt=True)},
}


class Provider(ThreadingHTTPServer):
    """Speaks enough of Chat Completions and of Responses; `requests` holds the bodies it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.hung_up = threading.Event()  # set when a client closed a stream in the middle

    @property
    def url(self) -> str:
        """Return the base URL to give to a client."""
        return f"http://127.0.0.1:{self.server_port}/v1"


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
        messages = body.get("messages") or body["input"]
        asked = [m for m in messages if m.get("role") == "user"][-1]["content"]
        self.asked = asked if isinstance(asked, str) else asked[0]["text"]
        self.calls = sum(message.get("role") == "tool" for message in messages)
        word = self.asked.split()[-1]
        if word.isdigit():
            self.answer(int(word), json.dumps({"error": {"message": SECRET_TEXT}}), "application/json")
        elif word in LATER:
            self.answer(429, "{}", "application/json", LATER[word])
        elif word == "html":
            self.answer(200, f"<html>{SECRET_TEXT}</html>", "text/html")
        elif self.path.endswith("/responses"):
            self.responses_api(word)
        else:
            self.completions(word)

    def answer(self, status: int, text: str, content_type: str, headers: dict[str, str] | None = None) -> None:
        """Send a whole body."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def begin(self) -> None:
        """Begin a stream that ends with the connection."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def send(self, data: dict[str, Any]) -> None:
        """Send one frame."""
        try:
            self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
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

        def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
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
            self.send({"id": None, "choices": [{"index": 0, "delta": {}, "finish_reason": "eos"}]})
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
