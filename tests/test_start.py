"""How it starts: the demo, the settings, what is refused, and life inside another process."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, SECRET, SETTINGS, Server, running
from serving import environment, run_app

from todochat import auth
from todochat.app import create_app
from todochat.auth.keys import FixedKeys
from todochat.serve import main
from todochat.settings import BadSetting, Settings


def run(folder: Path, program: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in a Python of its own, with `folder` as the working directory."""
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=environment(**settings), cwd=folder, capture_output=True, text=True)


def test_without_settings_it_is_the_demo(make_server: Callable[..., Server]) -> None:
    """With no settings one line has a link with a token that works, and the secret is a file of its owner's only."""
    server = make_server(BETTER_AUTH_SECRET="")
    log = server.log.read_text()
    [link] = [line for line in log.splitlines() if line.startswith("Sign in: ")]
    address, _, token = link.removeprefix("Sign in: ").partition("/#token=")
    answer = httpx.get(f"{address}/api/model", headers={"Authorization": f"Bearer {token}"})
    assert answer.json() == {"model": "offline", "offline": True}
    assert "offline demo model" in log
    secret = server.database.with_name("chat.db.secret")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    _, again = run_app(server.folder, "token", "alice", DATABASE_URL=f"sqlite:///{server.database}")
    made = auth.Verifier(FixedKeys("HS256", secret.read_text()))
    assert asyncio.run(made.check(again.strip())) == "alice"
    assert secret.read_text() not in log


def test_the_links_token_lives_through_a_restart(make_server: Callable[..., Server]) -> None:
    """The demo's secret is kept: a token from before a restart still works."""
    server = make_server(BETTER_AUTH_SECRET="")
    token = server.log.read_text().split("#token=")[1].split()[0]
    server.kill(signal.SIGTERM)
    server.start()
    assert httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_with_a_secret_no_token_is_printed(make_server: Callable[..., Server]) -> None:
    """A server with a secret of its own gives no token away."""
    server = make_server()
    assert "token" not in server.log.read_text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"HOST": "0.0.0.0"}, "BETTER_AUTH_SECRET"),
        ({"HOST": "::"}, "BETTER_AUTH_SECRET"),
        ({"HOST": "example.com"}, "BETTER_AUTH_SECRET"),
        ({"HOST": "0.0.0.0", "BETTER_AUTH_SECRET": "short"}, "32 bytes"),
        ({"HOST": "no such host", "BETTER_AUTH_SECRET": SECRET}, "Cannot listen"),
        ({"PORT": "http"}, "PORT"),
        ({"PORT": "70000"}, "PORT"),
        ({"DATABASE_URL": "mysql://x/y"}, "sqlite:///path"),
        ({"DATABASE_URL": "mysql://x/y"}, "postgresql://user:password@host/database"),
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.db"}, "nowhere"),
        ({"DATABASE_URL": "sqlite:////tmp"}, "is not a file"),
        ({"DATABASE_URL": "sqlite://"}, "no place for a secret"),
        ({"BETTER_AUTH_SECRET": "short"}, "32 bytes"),
        ({"BETTER_AUTH_SECRET": "-----BEGIN PUBLIC KEY-----" + "x" * 40}, "BETTER_AUTH_SECRET"),
        ({"CORS_ORIGINS": "example.com"}, "CORS_ORIGINS"),
        ({"HISTORY_LIMIT": "0"}, "HISTORY_LIMIT"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"MODEL_IDLE_TIMEOUT": "0"}, "MODEL_IDLE_TIMEOUT"),
        ({"MAX_LIVE": "-1"}, "MAX_LIVE"),
        ({"JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
        ({"JWT_ALGORITHM": "RS256"}, "JWT_PUBLIC_KEY"),
        ({"JWT_PUBLIC_KEY": "/nowhere.pem", "JWT_ALGORITHM": "RS256"}, "JWT_PUBLIC_KEY"),
        ({"JWT_PUBLIC_KEY": "-----BEGIN PRIVATE KEY-----", "JWT_ALGORITHM": "ES256"}, "is a private key"),
        ({"JWT_PUBLIC_KEY": "/bin/sh", "JWT_ALGORITHM": "ES256"}, "path of a file that can be read"),
        ({"MODEL": "gpt"}, "litellm"),
        ({"OPENAI_BASE_URL": "http://localhost:1/v1"}, "OPENAI_MODEL"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    """A setting that cannot be used ends the start with one clear line, never a traceback."""
    code, said = run_app(tmp_path, **({"PORT": "0", "DATABASE_URL": f"sqlite:///{tmp_path}/chat.db"} | settings))
    assert code == 2
    [line] = said.strip().splitlines()
    assert line.startswith("todochat: ")
    assert says in line
    assert SECRET not in said


PASSWORD = "hunter2-hunter2"
WITH_PASSWORD = [
    f"mysql://u:{PASSWORD}@h/db",
    f"postgresql+psycog://u:{PASSWORD}@h/db",
    f"postgres:/u:{PASSWORD}@h/db",
    f"host=h user=u password={PASSWORD}",
    f"u:{PASSWORD}@h/db",
    f"sqlite://u:{PASSWORD}@h/db",
    f"sqlite:///x.db?key={PASSWORD}",
    f"sqlite:///x.db#{PASSWORD}",
    f"sqlite:///postgresql://u:{PASSWORD}@h/db",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_no_password_of_a_database_url_is_shown(tmp_path: Path, url: str) -> None:
    """A database URL that cannot be used is refused without being quoted, and no file is made."""
    code, said = run_app(tmp_path, PORT="0", DATABASE_URL=url)
    assert code == 2
    [line] = said.strip().splitlines()
    assert line.startswith("todochat: DATABASE_URL")
    assert "sqlite:///path" in line
    assert PASSWORD not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("store", [*WITH_PASSWORD, WITH_PASSWORD[0].encode(), {"url": WITH_PASSWORD[0]}])
def test_no_password_of_a_store_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    """Neither does `create_app(store=...)`, whose error a host sees with its traceback."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSetting, match=r"^store") as refused:
        create_app(store=store, settings=Settings(secret=SECRET))
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [WITH_PASSWORD[0], f"https://u:{PASSWORD}@h"])
@pytest.mark.parametrize(
    "name", [name for name in SETTINGS if not name.startswith(("MODEL", "OPENAI", "GEMINI")) or "TIMEOUT" in name]
)
def test_no_password_of_a_url_in_a_wrong_place_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    """A URL with a password that was put into another setting is not quoted either."""
    for other in SETTINGS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/chat.db")
    monkeypatch.setenv(name, value)
    # A server that took it would go on for ever: `token` reads and checks the same settings, and ends.
    code = main(["token", "alice"])
    said = capfd.readouterr()
    assert PASSWORD not in said.out + said.err
    takes_any_text = ("BETTER_AUTH_SECRET", "JWT_ISSUER", "JWT_AUDIENCE", "JWT_USER_CLAIM", "METRICS_TOKEN")
    assert code == 2 or name in takes_any_text


@pytest.mark.parametrize("url", ["sqlite:///x.db?mode=ro", "sqlite:///x.db#a", "sqlite:///file:x.db?mode=ro&uri=true"])
@pytest.mark.parametrize("command", [[], ["token", "alice"], ["backup", "copy.db"]])
def test_options_in_a_database_url_make_no_file_of_that_name(tmp_path: Path, command: list[str], url: str) -> None:
    """What looks like an option is refused in a sentence by every command, and no file is made."""
    code, said = run_app(tmp_path, *command, PORT="0", DATABASE_URL=url)
    assert (code, len(said.strip().splitlines())) == (2, 1)
    assert "no options" in said
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_line(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """A port in use is one clear line and exit code 2."""
    port = make_server().url.rsplit(":", 1)[1]
    ended = run(tmp_path, ROOT / "app.py", PORT=port, DATABASE_URL=f"sqlite:///{tmp_path}/other.db")
    assert (ended.returncode, len(ended.stderr.strip().splitlines())) == (2, 1)
    assert f"port {port}" in ended.stderr


def test_a_second_server_on_the_same_file_is_one_line(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """A second process on the same file says that it is in use."""
    server = make_server()
    code, said = run_app(tmp_path, PORT="0", DATABASE_URL=f"sqlite:///{server.database}")
    assert (code, len(said.strip().splitlines())) == (2, 1)
    assert "in use by another server" in said
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The demo's secret must be its owner's only."""
    (tmp_path / "chat.db.secret").write_text("x" * 40)
    (tmp_path / "chat.db.secret").chmod(0o644)
    code, said = run_app(tmp_path, "token", "alice", DATABASE_URL=f"sqlite:///{tmp_path}/chat.db")
    assert code == 2
    assert "chmod 600" in said


@pytest.mark.parametrize("command", [[], ["token", "alice"]])
def test_a_secret_that_is_none_is_one_line(tmp_path: Path, command: list[str]) -> None:
    """What is in the way of the demo's secret, or cannot be a secret, ends every command with one line."""
    database = {"PORT": "0", "DATABASE_URL": f"sqlite:///{tmp_path}/chat.db"}
    (tmp_path / "chat.db.secret").write_bytes(b"\xff" * 40)
    (tmp_path / "chat.db.secret").chmod(0o600)
    unreadable = run_app(tmp_path, *command, **database)
    key = run_app(tmp_path, *command, **database, BETTER_AUTH_SECRET="ssh-rsa " + "a" * 40)
    for (code, said), says in ((unreadable, "Cannot read"), (key, "BETTER_AUTH_SECRET cannot be used")):
        assert (code, len(said.strip().splitlines())) == (2, 1), said
        assert says in said


@pytest.mark.parametrize("arguments", [["help"], ["token"], ["token", "a", "b"], ["--help"]])
def test_other_arguments_print_the_usage(tmp_path: Path, arguments: list[str]) -> None:
    """Arguments that mean nothing print what there is."""
    code, said = run_app(tmp_path, *arguments)
    assert code == 2
    assert "python app.py token NAME" in said


def test_it_starts_about_as_fast_as_the_sdk_is_imported(make_server: Callable[..., Server]) -> None:
    """What comes on top of importing the Agents SDK is small: measured here, judged in the benchmark."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import agents"], check=True)
    sdk = time.monotonic() - begun
    begun = time.monotonic()
    server = make_server()
    assert httpx.get(f"{server.url}/health").status_code == 200
    print(f"import agents: {sdk:.2f} s; start to /health: {time.monotonic() - begun:.2f} s")


HOST = """
import contextlib, logging, signal, sys
sys.path.insert(0, {root!r})
from starlette.applications import Starlette
from starlette.routing import Mount
from todochat.app import create_app

before = (logging.getLogger().handlers[:], logging.getLogger().level, signal.getsignal(signal.SIGTERM))

def build(lifespan=True):
    chat = create_app(store="sqlite:///{folder}/chat.db")
    @contextlib.asynccontextmanager
    async def run(host):
        if lifespan:
            async with chat.router.lifespan_context(chat):
                yield
        else:
            yield
    return Starlette(routes=[Mount("/todo", chat)], lifespan=run)

assert before == (logging.getLogger().handlers[:], logging.getLogger().level, signal.getsignal(signal.SIGTERM))
"""


def mounted(tmp_path: Path, code: str, **settings: str) -> str:
    """Run code in a process of its own, in which `build()` makes a host with the chat mounted under /todo."""
    script = HOST.format(root=str(ROOT), folder=tmp_path) + code
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS} | settings
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_works_mounted_in_another_app(tmp_path: Path) -> None:
    """Mounted under a prefix, with its lifespan run by the host, it serves chat and REST."""
    code = """
from starlette.testclient import TestClient
with TestClient(build(), headers={"Authorization": "Bearer " + sys.argv[1] if len(sys.argv) > 1 else ""}) as client:
    from todochat import auth
    headers = {"Authorization": "Bearer " + auth.sign("alice", "%s", lifetime=60)}
    print(client.post("/todo/chatkit", json={"message": "add buy milk"}, headers=headers).text)
    print(client.get("/todo/api/tasks", headers=headers).json())
    print(client.get("/todo/health").json())
"""
    output = mounted(tmp_path, code % SECRET, BETTER_AUTH_SECRET=SECRET)
    assert "[DONE]" in output
    assert "buy milk" in output
    assert "healthy" in output


def test_a_forgotten_lifespan_is_told_in_a_sentence(tmp_path: Path) -> None:
    """If the host forgot the lifespan, the first request says which lines to add."""
    code = """
from starlette.testclient import TestClient
with TestClient(build(lifespan=False)) as client:
    answer = client.get("/todo/health")
    print(answer.status_code, answer.json()["detail"])
"""
    output = mounted(tmp_path, code, BETTER_AUTH_SECRET=SECRET)
    assert output.startswith("500 ")
    assert "async with chat.router.lifespan_context(chat):" in output


# ---- as a checkout, and installed ----


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without what has collected in it and without the tests."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.db*", "*.egg-info", "build", "tests", "bench")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "a name of its own", ignore=ignored))


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps"]
    source = shutil.copytree(checkout, folder / "source")  # setuptools leaves things there
    build += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=60)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def files(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Return the files of a folder and its subfolders, without those of what is not the service."""
    found = [path.relative_to(folder) for path in folder.rglob("*.*") if path.suffix in suffixes]
    return {str(path) for path in found if path.parts[0] not in ("examples", "deploy", "docs")}


def test_the_wheel_has_all_of_the_code(checkout: Path, installed: Path) -> None:
    """What is installed is every module, the schema, the page and the description; and no tests or examples."""
    suffixes = (".py", ".sql", ".typed", ".html", ".css", ".js", ".svg")
    assert files(installed / "todochat", suffixes) == files(checkout, suffixes)
    assert (installed / "todochat" / "openapi.json").exists()
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"todochat"}


def test_in_a_checkout_the_database_is_beside_the_code(checkout: Path, tmp_path: Path) -> None:
    """From whatever folder it is started, whatever its own folder is called, a checkout keeps its database in it."""
    ended = run(tmp_path, checkout / "app.py", "token", "alice")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in checkout.glob("*.db*")] == ["todochat.db.secret"]
    assert list(tmp_path.iterdir()) == []


def test_installed_the_database_is_in_the_working_directory(installed: Path, tmp_path: Path) -> None:
    """Nothing is put among installed packages."""
    ended = run(tmp_path, installed / "todochat" / "app.py", "token", "alice")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["todochat.db.secret"]
    assert list(installed.rglob("*.db*")) == []


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    """Importing the modules makes no file, reads no setting, starts no thread and configures no logging."""
    code = (
        "import logging, os, threading; import todochat.app, todochat.serve; assert not logging.getLogger().handlers; "
    )
    code += "assert threading.active_count() == 1; print(os.listdir('.'))"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PORT": "nonsense", "MODEL": "nonsense"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_uvicorns_factory_works(tmp_path: Path) -> None:
    """`uvicorn --factory app:create_app` serves the same app."""
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    env |= {"DATABASE_URL": f"sqlite:///{tmp_path}/chat.db", "BETTER_AUTH_SECRET": SECRET}
    command = [sys.executable, "-m", "uvicorn", "--factory", "app:create_app", "--port", "0"]
    with running(command, "Uvicorn running on", cwd=ROOT, env=env) as (process, line):
        url = line.split("running on ")[1].split()[0]
        assert httpx.get(f"{url}/health", timeout=30).json() == {"status": "healthy"}
        process.send_signal(signal.SIGTERM)
        process.wait(30)
