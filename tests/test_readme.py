"""The README and the pages in docs/ are a promise: what they show is run here."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, SETTINGS, Server

from todochat import settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def block(language: str, containing: str) -> str:
    """Return the one code block of a language with a text in it."""
    [found] = [code for kind, code in BLOCKS if kind == language and containing in code]
    return found


def test_the_curl_prints_what_the_readme_shows(make_server: Callable[..., Server]) -> None:
    """The curl of the README, run as it is against a new demo, prints what the README shows."""
    server = make_server(BETTER_AUTH_SECRET="")
    command = block("sh", "curl").replace("http://127.0.0.1:8000", server.url)
    command = command.replace(".venv/bin/python app.py", f"{sys.executable} {ROOT / 'app.py'}")
    ended = subprocess.run(["bash", "-c", command], env=server.env, capture_output=True, text=True, check=True)
    assert ended.stdout == block("", '"type":"tool_result"')


def test_the_embedding_example_works_with_the_wheel(tmp_path: Path) -> None:
    """The README's host, saved as it is, serves the chat from the installed package."""
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "node_modules", "*.db*"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(tmp_path / "site"), str(source)], check=True, capture_output=True)
    (tmp_path / "host.py").write_text(block("python", "x-user"))
    (tmp_path / "drive.py").write_text(
        "from starlette.testclient import TestClient\nfrom host import app\n"
        "with TestClient(app, headers={'x-user': 'alice'}) as client:\n"
        "    print(client.post('/todo/chatkit', json={'message': 'add buy milk'}).text)\n"
        "    print(client.get('/todo/api/tasks').json())\n"
        "    print(client.get('/todo/api/tasks', headers={'x-user': ''}).status_code)\n"
    )
    for name in ("app", "db", "agent"):  # a host has modules of such names
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported by a generic name')\n")
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS and name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "drive.py"],
        cwd=tmp_path,
        env=env | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "[DONE]" in ended.stdout
    assert "buy milk" in ended.stdout


def test_the_tables_name_every_setting_and_every_module() -> None:
    """Each setting and each module is in its table, and settings with the defaults that they have."""
    for name in SETTINGS:
        assert f"`{name}`" in README or f"`{name}=" in README, name
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.M)
    cells = {name: defaults for names, defaults in rows for name in re.findall("[A-Z_]+", names)}
    for setting in dataclasses.fields(settings.Settings):
        default = f"{setting.default:g}" if isinstance(setting.default, float) else setting.default
        if isinstance(default, int | str) and setting.name != "database":
            assert f"`{default}`" in cells[setting.metadata["name"]], setting.name
    assert ",".join(settings.LOCAL_ORIGINS) in cells["CORS_ORIGINS"]
    for module in [*ROOT.glob("*.py"), ROOT / "schema.sql", ROOT / "openapi.json"]:
        assert re.search(rf"^\|[^|]*`{re.escape(module.name)}`[^|]*\|", README, re.M), module.name


@pytest.mark.parametrize("path", re.findall(r"`(?:GET|POST) (/[\w/{}.]*)", README))
def test_the_paths_that_the_readme_names_exist(server: Server, path: str) -> None:
    """Each path in the README is served."""
    url = server.url + path.replace("{id}", "1")
    assert httpx.get(url).status_code in (200, 401, 405)


def test_the_plain_commands_are_those_of_the_makefile() -> None:
    """The commands for people without make are what make runs."""
    makefile, here = (ROOT / "Makefile").read_text(), README + (ROOT / "tests/README.md").read_text()
    for command in ("app.py", "python -m pytest", "npm ci --prefix tests", "requirements.txt", "requirements-dev.txt"):
        assert command in makefile
        assert command in here


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_between_the_pages_lead_somewhere(page: Path) -> None:
    """Each relative link leads to a file, and its anchor to a heading there."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], target


def test_the_readme_is_short() -> None:
    """What a newcomer reads first fits into 200 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
