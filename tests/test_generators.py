"""Clients that generators make of openapi.json, against the server."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Server, missing, npm_package, token

SCRIPT = """
import type { components, paths } from "./api";

type Task = components["schemas"]["Task"];
type Stream = paths["/chatkit"]["post"]["responses"][200]["content"]["text/event-stream"];
type Listed = paths["/api/tasks"]["get"]["responses"][200]["content"]["application/json"];

declare const process: any; // of Node
const [url, token] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };

async function main() {
  const asked: components["schemas"]["ChatRequest"] = { message: "add buy milk" };
  const answer = await fetch(`${url}/chatkit`, { method: "POST", headers, body: JSON.stringify(asked) });
  const stream: Stream = await answer.text();
  const events = stream.split("\\n\\n").filter((frame) => frame.startsWith("data: {"));
  const texts = events.map((frame) => JSON.parse(frame.slice(6)) as components["schemas"]["Event"]);
  const listed: Listed = await (await fetch(`${url}/api/tasks`, { headers })).json();
  const titles: string[] = listed.map((task: Task) => task.title);
  const text = texts.map((event) => (event.type === "text" ? event.content : "")).join("");
  console.log(JSON.stringify({ titles, text }));
}

main();
"""


def test_a_python_client_works(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that openapi-python-client makes says something, reads the stream, and lists the tasks."""
    if importlib.util.find_spec("openapi_python_client") is None:
        missing("openapi-python-client is not installed: run pip install -r requirements-dev.txt")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--path", str(ROOT / "openapi.json"), "--output-path", str(tmp_path / "made")]
    path = f"{Path(sys.executable).parent}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"  # it formats with ruff
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "PATH": path})
    monkeypatch.syspath_prepend(tmp_path)
    api: Any = importlib.import_module("made.api.default")
    made: Any = importlib.import_module("made")
    models: Any = importlib.import_module("made.models")
    with made.AuthenticatedClient(server.url, token("generated")) as client:
        calls = {name: importlib.import_module(f"{api.__name__}.{name}") for name in ("chat", "list_tasks", "add_task")}
        stream = calls["chat"].sync(client=client, body=models.ChatRequest(message="add buy milk"))
        assert isinstance(stream, str)
        assert stream.endswith("data: [DONE]\n\n")
        assert "Added: buy milk" in "".join(
            json.loads(frame[6:]).get("content", "") for frame in stream.split("\n\n") if frame.startswith("data: {")
        )
        calls["add_task"].sync(client=client, body=models.AddTaskBody(title="buy bread"))
        assert [task.title for task in calls["list_tasks"].sync(client=client)] == ["buy milk", "buy bread"]


def test_a_typescript_client_works(server: Server, tmp_path: Path) -> None:
    """The types that openapi-typescript makes are strict enough to compile a client with, and it works."""
    modules = npm_package("openapi-typescript").parent
    node = ["node", str(modules / "openapi-typescript" / "bin" / "cli.js")]
    subprocess.run(
        [*node, str(ROOT / "openapi.json"), "-o", str(tmp_path / "api.d.ts")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    (tmp_path / "client.ts").write_text(SCRIPT)
    options = ["--strict", "--target", "es2022", "--module", "commonjs", "client.ts"]
    tsc = ["node", str(modules / "typescript" / "bin" / "tsc"), *options]
    compiled = subprocess.run(tsc, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert compiled.returncode == 0, compiled.stdout
    ran = subprocess.run(
        ["node", "client.js", server.url, token("typed")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = json.loads(ran.stdout)
    assert said["titles"] == ["buy milk"]
    assert "Added: buy milk" in said["text"]


def test_the_version_is_one() -> None:
    """What the description says is the version of the package."""
    description = json.loads((ROOT / "openapi.json").read_text())
    assert description["info"]["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
