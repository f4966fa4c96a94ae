"""What browsers may do: pages of other origins, names that lead here, and what is kept of an answer."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Client, Server
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from todochat.app import create_app
from todochat.models.offline import OfflineModel
from todochat.settings import BadSetting, Settings

# By the contract: what the component sends, and what browsers' libraries add by themselves.
SENT = (
    "authorization,content-type,accept-language,chatkit-frame-instance-id,idempotency-key,x-requested-with,traceparent,"
    "tracestate,baggage,sentry-trace,last-event-id,mcp-protocol-version,ngrok-skip-browser-warning"
)
OTHERS = "http://evil.example"


def preflight(url: str, origin: str, headers: str = SENT, method: str = "PATCH") -> httpx.Response:
    """Ask as a browser does before it sends what is not simple."""
    ask = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return httpx.options(f"{url}/chatkit", headers={"Origin": origin} | ask)


def allowed(url: str, origin: str, headers: str = SENT) -> bool:
    """Return whether a page of that origin may call."""
    answer = preflight(url, origin, headers)
    return answer.status_code == 200 and answer.headers["access-control-allow-origin"] == origin


def test_local_pages_may_call_a_server_of_its_own(make_server: Callable[..., Server]) -> None:
    """By default the pages of two development servers may send what clients send, and read the stream's headers."""
    server = make_server()
    assert allowed(server.url, "http://localhost:3000")
    assert not allowed(server.url, OTHERS)
    assert not allowed(server.url, "http://localhost:3000", f"{SENT},x-mine")
    with server.client("cors", headers={"Origin": "http://localhost:5173"}) as client:
        turn = client.say("hello")
        refused = client.get("/api/tasks", headers={"Authorization": "x"})
        foreign = client.get("/api/tasks", headers={"Origin": OTHERS})
    assert turn.headers["access-control-allow-origin"] == "http://localhost:5173"
    exposed = turn.headers["access-control-expose-headers"].lower()
    assert {"x-thread-id", "x-message-id", "retry-after"} <= set(exposed.split(", "))
    assert refused.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "access-control-allow-origin" not in foreign.headers


def test_origins_by_pattern_and_more_headers(make_server: Callable[..., Server]) -> None:
    """`https://*.example.com` is every name below it, and nothing else; CORS_HEADERS are allowed too."""
    origins = "https://*.example.com, http://app.test:8080/"
    server = make_server(CORS_ORIGINS=origins, CORS_HEADERS="X-Mine, x-yours")
    for good in ("https://a.example.com", "https://a.b-c.example.com", "http://app.test:8080"):
        assert allowed(server.url, good, f"{SENT},x-mine,x-yours"), good
    for bad in (
        *("https://example.com", "http://a.example.com", "https://a.example.com.evil.com", "https://aexample.com"),
        *("https://evil.com/.example.com", "https://evil.com#.example.com", "https://a.example.com:444", "null", "*"),
        *("https://a.exampleXcom", "http://app.test", "https://evil.com\\.example.com", "http://localhost:3000"),
    ):
        assert not allowed(server.url, bad), bad
    for wrong in ("https://*", "https://a.*.com", "https://*example.com", "*.example.com", "https://a.com/b"):
        with pytest.raises(BadSetting, match="CORS_ORIGINS"):
            Settings.from_env({"CORS_ORIGINS": wrong})
    with pytest.raises(BadSetting, match="CORS_HEADERS"):
        Settings.from_env({"CORS_HEADERS": "X-Mine: 1"})


def test_mounted_in_a_host_no_foreign_page_may_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host did not ask for it: without CORS_ORIGINS, and without `cors_origins`, there is no CORS."""

    async def authenticate(request: Any) -> str:
        return "alice"

    monkeypatch.delenv("CORS_ORIGINS", raising=False)
    for settings in (None, Settings()):
        chat = create_app(
            authenticate=authenticate, model=OfflineModel(), store=f"sqlite:///{tmp_path}/chat.db", settings=settings
        )
        with TestClient(chat), TestClient(Starlette(routes=[Mount("/todo", chat)])) as client:
            answer = client.get("/todo/api/tasks", headers={"Origin": "http://localhost:3000"})
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers


def test_another_page_cannot_stop_an_answer(paced: Server) -> None:
    """What holds no JSON is refused from another site, or another port of ours, by what the browser says of it."""
    with (
        paced.client("stopped") as client,
        client.stream("POST", "/chatkit", json={"message": "say 100 100"}) as stream,
    ):
        path = f"/api/conversations/{stream.headers['x-thread-id']}/stop"
        for site in ("cross-site", "same-site", "something-new"):
            for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
                sent = {"Sec-Fetch-Site": site, "Origin": OTHERS} | headers
                answer = client.post(path, headers=sent)
                assert answer.status_code == 403, sent
                assert "CORS_ORIGINS" in answer.json()["detail"]
        assert client.delete("/api/tasks/1", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.get("/api/tasks", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link
        assert client.post(path, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "none"}])
def test_other_clients_may_stop(paced: Server, headers: dict[str, str]) -> None:
    """What is no page says nothing of a site."""
    with paced.client("curl") as client, client.stream("POST", "/chatkit", json={"message": "say 100 100"}) as stream:
        path = f"/api/conversations/{stream.headers['x-thread-id']}/stop"
        assert client.post(path, headers=headers).status_code == 200


def test_a_page_that_may_call_may_stop(make_server: Callable[..., Server]) -> None:
    """CORS allows it the rest too."""
    server = make_server(script="tests/paced.py", CORS_ORIGINS="https://*.example.com")
    sent = {"Sec-Fetch-Site": "cross-site", "Origin": "https://a.example.com"}
    with server.client() as client, client.stream("POST", "/chatkit", json={"message": "say 100 100"}) as stream:
        path = f"/api/conversations/{stream.headers['x-thread-id']}/stop"
        assert client.post(path, headers=sent | {"Origin": "https://example.com"}).status_code == 403
        assert client.post(path, headers=sent).status_code == 200


def test_the_demo_answers_to_its_own_names_only(make_server: Callable[..., Server]) -> None:
    """A page whose name was made to lead to this machine gets nothing, not even the page or the health."""
    server = make_server(BETTER_AUTH_SECRET="")
    for path in ("/", "/health", "/static/app.js", "/api/tasks", "/chatkit"):
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "1"):
            answer = httpx.get(f"{server.url}{path}", headers={"Host": host})
            assert answer.status_code == 400, (path, host)
            assert "ALLOWED_HOSTS" in answer.json()["detail"]
    for host in ("localhost", f"LOCALHOST:{server.port}", "127.0.0.1", f"[::1]:{server.port}"):
        assert httpx.get(f"{server.url}/health", headers={"Host": host}).status_code == 200, host
    assert b" 400 " in without_host(server)


def without_host(server: Server) -> bytes:
    """Return what a request without a Host gets."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        return connection.recv(100)


def test_elsewhere_the_names_are_a_setting(make_server: Callable[..., Server]) -> None:
    """ALLOWED_HOSTS are the names that are answered to, beside those of this machine; without it all are."""
    server = make_server()
    assert httpx.get(f"{server.url}/health", headers={"Host": "any.example"}).status_code == 200
    server.close()
    server = make_server(ALLOWED_HOSTS="chat.example.com, *.example.org,[fd00::1]")
    names = {
        200: "chat.example.com CHAT.example.com:443 a.example.org a.b.example.org localhost:1 127.0.0.1 [fd00::1]:80",
        400: "example.com a.chat.example.com example.org evil.example xexample.org chat.example.com.evil.example",
    }
    for status, hosts in names.items():
        for host in hosts.split():
            assert httpx.get(f"{server.url}/health", headers={"Host": host}).status_code == status, host
    for wrong in ("https://a.example", "a.example:80", "*", "a.*.example", ","):
        with pytest.raises(BadSetting, match="ALLOWED_HOSTS"):
            Settings.from_env({"ALLOWED_HOSTS": wrong})


def test_nothing_of_a_user_is_kept_or_taken_for_something_else(alice: Client) -> None:
    """JSON is in no cache, and no answer is taken for another type; a stream keeps what it needs against proxies."""
    thread = alice.say("add milk").thread
    for path in (
        "/api/tasks",
        "/api/conversations",
        f"/api/conversations/{thread}",
        "/api/me",
        "/api/nothing",
        "/health",
    ):
        headers = alice.get(path).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff"), path
    body = {"type": "threads.list", "params": {}}
    for answer in (alice.post("/chatkit", json=body), alice.post("/chatkit", json={}), alice.post("/mcp", json={})):
        assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    stream = alice.say("hello")
    assert stream.headers["cache-control"] == "no-cache, no-transform"
    assert stream.headers["x-content-type-options"] == "nosniff"


def test_the_pages_stand_alone(server: Server) -> None:
    """Who opens the page, or is opened by it, has no hand in it."""
    for path in ("/", "/component"):
        assert httpx.get(f"{server.url}{path}").headers["cross-origin-opener-policy"] == "same-origin"


def test_the_component_is_a_part_of_its_own(tmp_path: Path) -> None:
    """A host can leave out the page that runs OpenAI's script, or have it alone."""
    for parts, served in ((["page"], [200, 404, 200]), (["component"], [404, 200, 200]), ([], [404, 404, 404])):
        chat = create_app(
            model=OfflineModel(), store=f"sqlite:///{tmp_path}/chat.db", parts=parts, settings=Settings(secret="x" * 40)
        )
        with TestClient(chat) as client:
            paths = ("/", "/component", "/static/style.css")
            assert [client.get(path).status_code for path in paths] == served
