"""openapi.json, and a fuzzer that holds the server to it."""

import json
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from conftest import ROOT, Server, token
from hypothesis import HealthCheck, settings, strategies

from todochat import app

schemathesis.openapi.format("timezone", strategies.sampled_from(["UTC", "Europe/Berlin", "America/Argentina/Ushuaia"]))
description = json.loads((ROOT / "openapi.json").read_text())
for path in description["paths"].values():
    for method in path.values():
        answer = method["responses"].get("200", {}) if isinstance(method, dict) else {}
        if stream := answer.get("content", {}).get("text/event-stream"):
            # A stream is a string for those who generate clients; schemathesis 4 looks at each of its events.
            assert stream["schema"]["type"] == "string"
            stream["schema"] = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
schema = schemathesis.openapi.from_dict(description)


@pytest.fixture(scope="module")
def fuzzed(server: Server) -> Iterator[Server]:
    """A server that is looked at after the fuzzing: no error of its own, no traceback."""
    with server.client("fuzzer") as client:
        client.say("add buy milk")
    yield server
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_its_description_says(case: schemathesis.Case, fuzzed: Server) -> None:
    """Whatever the description allows or forbids is answered as it says, and never with a 5xx."""
    case.call_and_validate(base_url=fuzzed.url, headers={"Authorization": f"Bearer {token('fuzzer')}"})


def test_the_description_is_served_and_names_every_route(server: Server) -> None:
    """/openapi.json is served without a token, and has every path of the API with its methods."""
    served = httpx.get(f"{server.url}/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == json.loads((ROOT / "openapi.json").read_text())
    described = {
        (path, method.upper())
        for path, item in served.json()["paths"].items()
        for method in item
        if method != "parameters"
    }
    routed = {
        (route.path, method)
        for route in app.routes()
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
        and not route.path.endswith("/")
        and route.path not in ("/openapi.json", "/component", "/mcp", "/metrics")
    }
    assert described == routed
