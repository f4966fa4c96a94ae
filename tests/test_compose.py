"""deploy/compose.yaml, without Docker: what it says is read, and its commands are run, as it says, on real servers."""

import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PATIENCE, ROOT, Client, Server, missing
from postgres import PASSWORD, Postgres, free_port, programs
from serving import SECRET

DEPLOY = ROOT / "deploy"
DOT_ENV = {"BETTER_AUTH_SECRET": SECRET, "POSTGRES_PASSWORD": PASSWORD}


def services(**variables: str) -> dict[str, Any]:
    """Return the services of the file, with variables put in as `docker compose` does it."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if operator == ":?" and not variables.get(name):
            raise KeyError(f"{name}: {rest}")
        return variables.get(name) or (rest if operator == ":-" else "")

    text = (DEPLOY / "compose.yaml").read_text()
    text = re.sub(r"(?m)^ *#.*\n", "", text)
    return dict(yaml.safe_load(re.sub(r"\$\{(\w+)(?:(:\?|:-)([^}]*))?\}", value, text))["services"])


def test_it_says_what_it_needs() -> None:
    """Without a secret or a password nothing starts; the commands of its first lines make both."""
    for name in DOT_ENV:
        with pytest.raises(KeyError, match=name):
            services(**{other: value for other, value in DOT_ENV.items() if other != name})
    [line] = re.findall(r"# +(printf .*) > \.env", (DEPLOY / "compose.yaml").read_text())
    made = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=10).stdout
    variables = dict(entry.split("=", 1) for entry in made.splitlines())
    assert set(variables) == set(DOT_ENV)
    assert re.fullmatch(r"\w{32,}", variables["POSTGRES_PASSWORD"])  # it becomes a part of a URL


def test_the_processes_are_alike_and_wait_for_the_database() -> None:
    """Two services with the same settings, on the database that the third one keeps; nginx knows both."""
    found = services(**DOT_ENV)
    assert found["one"] == found["two"]
    database = found["postgres"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert found["one"]["environment"]["DATABASE_URL"] == f"postgresql://{user}:{PASSWORD}@postgres/{name}"
    assert found["one"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert set(found["nginx"]["depends_on"]) == {"one", "two"}
    assert (DEPLOY / found["one"]["build"]["context"] / found["one"]["build"]["dockerfile"]).is_file()
    mounted, *_ = found["nginx"]["volumes"][0].split(":")
    assert re.findall(r"server (\w+):8000 ", (DEPLOY / mounted).read_text()) == ["one", "two"]


@contextmanager
def nginx(folder: Path, *servers: Server) -> Iterator[str]:
    """Run nginx with the file of compose.yaml, in front of these; give its URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        missing("nginx is not installed: apt-get install nginx-light")
    port, site = free_port(), (DEPLOY / "compose.nginx.conf").read_text()
    for name, server in zip(("one", "two"), servers, strict=True):
        site = site.replace(f"server {name}:8000 ", f"server 127.0.0.1:{server.port} ")
    (folder / "site.conf").write_text(site.replace("listen 80;", f"listen 127.0.0.1:{port};"))
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    temporary += f"uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;"
    (folder / "main.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}"
        f" http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    )
    process = subprocess.Popen([str(program), "-e", f"{folder}/error.log", "-c", f"{folder}/main.conf"])
    try:
        deadline = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_two_processes_behind_nginx_are_one_service(cluster: Postgres, tmp_path: Path) -> None:
    """Whatever goes to whichever of them: an answer, its readers, Stop, tasks, MCP; and one alone goes on."""
    found = services(**DOT_ENV)
    folder = programs()
    assert folder is not None
    _, program, *options = found["postgres"]["healthcheck"]["test"]
    options = ["todo" if option == "todochat" else option for option in options]  # this cluster's user
    ready = [str(folder / program), *options[:-1], "postgres", "-p", str(cluster.port)]
    assert subprocess.run(ready, timeout=PATIENCE).returncode == 0
    with ExitStack() as stack:
        settings = found["one"]["environment"]
        settings["DATABASE_URL"] = cluster.url(stack.enter_context(cluster.database()))
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            servers.append(Server(tmp_path / name, "tests/paced.py", **settings).start())
            stack.callback(servers[-1].close)
        url = stack.enter_context(nginx(tmp_path, *servers))
        client = stack.enter_context(Client(url, f"compose-{uuid.uuid4()}"))
        with client.stream("POST", "/chatkit", json={"message": "say 300 20"}) as response:
            thread = int(response.headers["x-thread-id"])
            seen = [
                next(line for line in joined.iter_lines() if '"w0 "' in line)
                for _ in range(4)  # nginx takes them in turn
                for joined in [stack.enter_context(client.stream("GET", f"/api/conversations/{thread}/stream"))]
            ]
            assert len(seen) == 4
            stopped = client.post(f"/api/conversations/{thread}/stop")
            assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
            assert response.read().endswith(b"data: [DONE]\n\n")
        for n in range(4):
            assert client.post("/api/tasks", json={"title": f"task {n}"}).status_code == 201
            assert len(client.tasks()) == n + 1
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_tasks", "arguments": {}}}
        headers = {"Accept": "application/json, text/event-stream"}
        for _ in range(4):
            assert "task 3" in client.post("/mcp", json=call, headers=headers).text
        servers[0].kill(signal.SIGTERM)
        for _ in range(4):
            assert client.say("say 2 1").complete
