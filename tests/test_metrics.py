"""Figures for Prometheus, and the log as JSON."""

import json
import re
from collections.abc import Callable

import httpx
from conftest import Server

TOKEN = "a-token-for-prometheus"


def test_metrics_are_for_whoever_has_the_token(make_server: Callable[..., Server]) -> None:
    """The figures say what has happened, and no name of a user; without the token there are none."""
    server = make_server(script="tests/paced.py", METRICS_TOKEN=TOKEN, TURNS_PER_MINUTE=2)
    with server.client("alice-the-user") as client:
        client.say("say 2 0")
        client.say("fail")
        assert client.say("say 1 0").status == 429
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    text = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).raise_for_status().text
    figures = dict(re.findall(r"^(todochat\S+) (\S+)$", text, re.MULTILINE))
    assert figures['todochat_turns_total{ending="done"}'] == "1.0"
    assert figures['todochat_turns_total{ending="failed"}'] == "1.0"
    assert figures["todochat_live_answers"] == "0.0"
    assert figures["todochat_first_text_seconds_count"] == "1.0"
    assert figures['todochat_errors_total{kind="TooMany"}'] == "1.0"
    assert float(figures["todochat_connections"]) >= 1
    assert float(figures["todochat_event_loop_lag_seconds"]) < 5
    assert "alice" not in text


def test_without_the_setting_there_are_no_metrics(server: Server) -> None:
    """Nothing is shown to anybody unless the owner wants it."""
    assert httpx.get(f"{server.url}/metrics", headers={"Authorization": "Bearer None"}).status_code == 401


def test_the_log_as_json(make_server: Callable[..., Server]) -> None:
    """Each line is an object: of turns, sign-in failures, refusals and deletions; none has what was said."""
    server = make_server(LOG_FORMAT="json", TURNS_PER_MINUTE=1)
    with server.client() as client:
        thread = client.say("help me secretly").thread
        client.say("help", thread)
        client.delete(f"/api/conversations/{thread}")
        client.delete("/api/me")
        client.get("/api/me", headers={"Authorization": "Bearer wrong"})
    lines = [line for line in server.log.read_text().splitlines() if not line.startswith("Serving")]
    messages = "\n".join(json.loads(line)["message"] for line in lines)
    for said in (
        "state=done",
        "token refused: malformed",
        "refused: TooMany",
        "has deleted conversation=1",
        "has deleted everything",
    ):
        assert said in messages
    assert "secretly" not in messages
