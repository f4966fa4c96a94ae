"""The examples and what is in deploy/ are a promise: each is started as it says, and driven over HTTP."""

import configparser
import importlib.util
import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, ROOT, SECRET, SETTINGS, Client, Server, missing, running

EXAMPLES = ROOT / "examples"
NGINX = EXAMPLES / "behind_nginx" / "nginx.conf"


def clean_env(**settings: str) -> dict[str, str]:
    """Return an environment without settings of ours, and without a path to this source."""
    return {name: value for name, value in os.environ.items() if name not in [*SETTINGS, "PYTHONPATH"]} | settings


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def example(name: str, folder: Path) -> Iterator[str]:
    """Run `python examples/NAME` in a folder; give its URL."""
    command = [sys.executable, str(EXAMPLES / name)]
    with running(command, "Uvicorn running on", cwd=folder, env=clean_env(PORT="0")) as (_, line):
        yield line.split("running on ")[1].split()[0]


def user(url: str, token: str) -> Client:
    """Return a client with a token of the example's own."""
    return Client(url, headers={"Authorization": f"Bearer {token}"})


# ---- examples ----


def test_mount_starlette(tmp_path: Path) -> None:
    """The chat answers under /todo for the host's users, beside the host's page."""
    with example("mount_starlette.py", tmp_path) as url:
        home = httpx.get(url)
        [link] = re.findall(r'href="([^"#]+)#token=wonderland"', home.text)
        assert httpx.get(home.url.join(link)).status_code == 200
        with user(f"{url}/todo", "wonderland") as alice, user(f"{url}/todo", "builder") as bob:
            assert "Added: buy milk" in alice.say("add buy milk").text
            assert [task["title"] for task in alice.tasks()] == ["buy milk"]
            assert bob.tasks() == []
        assert httpx.get(f"{url}/todo/api/tasks", headers={"Authorization": "Bearer x"}).status_code == 401


def test_mount_fastapi(tmp_path: Path) -> None:
    """The chat works on the host's own table of tasks, for the users in the host's own table of users."""
    if importlib.util.find_spec("fastapi") is None:
        missing("FastAPI is not installed: pip install fastapi")
    with example("mount_fastapi.py", tmp_path) as url, user(url, "wonderland") as alice, user(url, "builder") as bob:
        assert alice.post("/todos", params={"text": "Buy milk"}).json()["text"] == "Buy milk"
        with user(f"{url}/chat", "wonderland") as chat:
            assert "Done: Buy milk" in chat.say("complete buy milk").text
            assert "Added: call Ann" in chat.say("add call Ann").text
            assert "Renamed" in chat.say("rename 2 to call Bob").text
            assert [(task["id"], task["completed"]) for task in chat.tasks()] == [(1, True), (2, False)]
            assert "Deleted" in chat.say("delete 1").text
        assert [(todo["text"], todo["done"]) for todo in alice.get("/todos").json()] == [("call Bob", 0)]
        assert bob.get("/todos").json() == []
        assert bob.get("/chat/api/tasks").json() == []
        assert bob.patch("/chat/api/tasks/2", json={"completed": True}).status_code == 404
        assert httpx.get(f"{url}/chat/api/tasks").status_code == 401
        assert "/todos" in httpx.get(f"{url}/openapi.json").json()["paths"]


def test_own_agent(tmp_path: Path) -> None:
    """An agent of another domain streams its tools' results and its handoff, with the context of the user who asks."""
    with example("own_agent.py", tmp_path) as url, user(url, "alice") as alice, user(url, "bob") as bob:
        lent = alice.say("Dune")
        assert [event["result"]["lent"] for event in lent.of("tool_result")] == [True]
        assert lent.text == "Here you are."
        refused = bob.say("Dune")
        assert [event["result"]["lent"] for event in refused.of("tool_result")] == [False]
        torn = alice.say("a page is torn", lent.thread)
        assert torn.of("thinking")[-1]["content"].strip() == "Handing over to The bindery."
        assert [message["status"] for message in alice.messages(lent.thread)] == ["done"] * 4
        assert alice.get("/api/tasks").status_code == 404
        assert bob.get(f"/api/conversations/{lent.thread}").status_code == 404


def test_examples_run_from_a_checkout_and_with_the_package() -> None:
    """No example but the stand-in reaches into the checkout: all import `todochat`, as a project of one's own does."""
    for path in EXAMPLES.glob("*.py"):
        if path.name != "todochat.py":
            assert "from todochat.app import create_app" in path.read_text()
            assert "sys.path" not in path.read_text()


# ---- behind nginx ----


def certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate and its key as nginx wants them; return the context that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "privkey.pem").write_bytes(key.private_bytes(*secret))
    return ssl.create_default_context(cafile=str(folder / "fullchain.pem"))


@contextmanager
def nginx(folder: Path, backend: str, edit: dict[str, str]) -> Iterator[tuple[str, str, ssl.SSLContext]]:
    """Run nginx with the example's file, its ports and paths replaced; give both URLs and what to trust."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        missing("nginx is not installed: apt-get install nginx-light")
    trust, plain, tls = certificate(folder), free_port(), free_port()
    edit = {
        "server 127.0.0.1:8000;": f"server {backend.removeprefix('http://')};",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{tls} ssl http2;",
        "/etc/letsencrypt/live/chat.example.com/": f"{folder}/",
    } | edit
    site = NGINX.read_text()
    for old, new in edit.items():
        assert old in site, old
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    main = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}"
    main += f" http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    (folder / "main.conf").write_text(("user root; " if os.geteuid() == 0 else "") + main)
    process = subprocess.Popen([str(program), "-e", f"{folder}/error.log", "-c", f"{folder}/main.conf"])
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", tls), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}", trust
    finally:
        process.terminate()
        process.wait(PATIENCE)


def arrivals(client: Client, message: str) -> list[float]:
    """Return when the pieces of an answer's text came, in seconds."""
    body, times = {"message": message}, []
    with client.stream("POST", "/chatkit", json=body) as response:
        for chunk in response.iter_bytes():
            times += [time.monotonic()] * chunk.count(b'"type":"text"')
    return times


PREFIXED = {"location / {": "location /todo/ {", "proxy_pass http://todochat;": "proxy_pass http://todochat/;"}


@pytest.mark.parametrize(("prefix", "edit"), [("", {}), ("/todo", PREFIXED)])
def test_behind_nginx_frames_arrive_as_they_are_sent(
    paced: Server, tmp_path: Path, prefix: str, edit: dict[str, str]
) -> None:
    """Through nginx and TLS, at / or under a prefix, the first words come long before the last ones are written."""
    with nginx(tmp_path, paced.url, edit) as (plain, tls, trust):
        with Client(f"{tls}{prefix}", "nina", verify=trust) as client:
            times = arrivals(client, "say 6 150")
            assert len(times) == 6
            assert times[-1] - times[0] > 0.3, f"they came together, not over the 0.75 s of the model: {times}"
            assert client.get("/api/conversations").json()[0]["title"] == "say 6 150"
            too_large = client.post("/chatkit", content=b" " * 1_500_000, headers={"Content-Type": "application/json"})
            assert (too_large.status_code, set(too_large.json())) == (413, {"detail"})
        redirect = httpx.get(f"{plain}{prefix}/health")
        assert (redirect.status_code, redirect.headers["location"].split(":")[0]) == (301, "https")


def test_a_closed_page_is_noticed_behind_nginx(paced: Server, tmp_path: Path) -> None:
    """When the browser goes away nginx tells the app: a turn that was to stop then has stopped."""
    with nginx(tmp_path, paced.url, {}) as (_, tls, trust), Client(tls, "nora", verify=trust) as client:
        body = {"message": "say 20000 50", "on_disconnect": "stop"}
        with client.stream("POST", "/chatkit", json=body) as response:
            thread = int(response.headers["x-thread-id"])
            next(response.iter_bytes())
        deadline = time.monotonic() + PATIENCE  # the whole answer would take a quarter of an hour
        while (status := client.messages(thread)[-1]["status"]) == "streaming":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status == "stopped"


# ---- deploy ----


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, and what follows each."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in lines if line.strip()]


def serve_and_stop(command: list[str], folder: Path, env: dict[str, str], check: list[str] | None) -> float:
    """Run a service, check its health, end it in the middle of an answer; return how long the end took, in seconds."""
    with running(command, "Serving on", cwd=folder, env=env) as (process, _):
        url = f"http://127.0.0.1:{env['PORT']}"
        assert httpx.get(f"{url}/health").status_code == 200
        if check is not None:
            assert subprocess.run(check, env=env, timeout=PATIENCE).returncode == 0
        with Client(url) as client, client.stream("POST", "/chatkit", json={"message": "help"}) as answer:
            chunks = answer.iter_bytes()
            next(chunks)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
        assert process.wait(PATIENCE) == 0
        if check is not None:
            assert subprocess.run(check, env=env, timeout=PATIENCE, stderr=subprocess.DEVNULL).returncode != 0
        return time.monotonic() - begun


def test_the_dockerfile_says_what_it_should(tmp_path: Path) -> None:
    """The image runs as a user of its own, with a volume, a health check, and the signal in the right hands."""
    steps = dockerfile()
    said = dict(steps)
    assert steps[0][0] == "FROM"
    assert said["USER"] not in ("root", "0")
    runs = [what for kind, what in steps if kind == "RUN"]
    assert any(f"useradd --system --uid 10001 --no-create-home {said['USER']} " in run for run in runs)
    assert any(f"install --directory --owner={said['USER']}" in run and said["VOLUME"] in run for run in runs)
    assert said["STOPSIGNAL"] == "SIGTERM"
    env = dict(pair.split("=", 1) for pair in shlex.split(said["ENV"]))
    assert env["DATABASE_URL"].startswith(f"sqlite:///{said['VOLUME']}/")
    assert said["EXPOSE"] == env["PORT"]
    # Dockerfile.dockerignore lets through what is copied, and nothing else.
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {source for kind, what in steps if kind == "COPY" for source in what.split()[:-1]}
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    wanted = (ROOT / "requirements.txt").read_text()
    assert "starlette==" in wanted
    assert "pytest" not in wanted


def test_what_the_image_holds_is_enough(tmp_path: Path) -> None:
    """With only the files that the image gets, its command serves, its health check tells, and SIGTERM ends it well."""
    steps = dockerfile()
    said = dict(steps)
    for what in [what for kind, what in steps if kind == "COPY" and "requirements" not in what]:
        *sources, target = what.split()
        for source in [path for pattern in sources for path in ROOT.glob(pattern)]:
            if source.is_dir():
                shutil.copytree(source, tmp_path / target)
            else:
                shutil.copy(source, tmp_path)
    env = dict(pair.split("=", 1) for pair in shlex.split(said["ENV"]))
    env |= {"PORT": str(free_port()), "DATABASE_URL": f"sqlite:///{tmp_path}/data.db", "BETTER_AUTH_SECRET": SECRET}
    program, *arguments = json.loads(said["CMD"])
    _, *check = json.loads(said["HEALTHCHECK"].split(" CMD ")[1])
    assert program == "python"
    command = [sys.executable, *arguments]
    assert serve_and_stop(command, tmp_path, clean_env(**env), [sys.executable, *check]) < 9  # docker stop waits for 10


def unit() -> dict[str, Any]:
    """Return the [Service] section of the systemd unit."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(ROOT / "deploy" / "todochat.service")
    return dict(parser["Service"])


def test_the_units_command_serves(tmp_path: Path) -> None:
    """The unit's command with its environment serves, and ends on SIGTERM well within the time that systemd gives."""
    service = unit()
    env = dict(pair.split("=", 1) for pair in shlex.split(service["Environment"]))
    state = f"/var/lib/{service['StateDirectory']}"
    assert env["DATABASE_URL"].startswith(f"sqlite:///{state}/")
    assert service["WorkingDirectory"] == state
    assert service["DynamicUser"] == "yes"
    env |= {"PORT": str(free_port()), "DATABASE_URL": env["DATABASE_URL"].replace(state, str(tmp_path))}
    command = service["ExecStart"].replace("/opt/todochat/.venv/bin/python", sys.executable)
    command = command.replace("/opt/todochat", str(ROOT))
    took = serve_and_stop(command.split(), tmp_path, clean_env(**env, BETTER_AUTH_SECRET=SECRET), None)
    assert took + 5 < float(service["TimeoutStopSec"])


def test_the_unit_does_not_retry_a_bad_setting(tmp_path: Path) -> None:
    """A setting that cannot be used ends the command with the exit code that the unit does not restart after."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "app.py")], env=clean_env(PORT="x"), cwd=tmp_path, capture_output=True, timeout=30
    )
    assert str(ended.returncode) == unit()["RestartPreventExitStatus"]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd finds nothing wrong with the unit, and calls it well protected."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed: apt-get install systemd")
    path = tmp_path / "todochat.service"
    text = (ROOT / "deploy" / "todochat.service").read_text()
    path.write_text(text.replace("/opt/todochat/.venv/bin/python", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=30)
    assert (verified.returncode, verified.stderr) == (0, "")
    judge = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
    judged = subprocess.run(judge, capture_output=True, text=True, timeout=30).stdout
    assert float(judged.split("exposure level for todochat.service: ")[1].split()[0]) < 2
