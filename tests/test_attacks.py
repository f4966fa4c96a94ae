"""Nobody can take it down: attacks, each with another user's requests timed beside it; docs/promises.md has the table.

How long a request may take depends on the machine, so times are reported. What is asserted is that the other user gets
no error, that all is as before soon afterwards, and that memory comes back.
"""

import json
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from conftest import PATIENCE, ROOT, SECRET, SOON, report, running, token
from serving import environment

DESCRIPTORS = 400  # that the server under attack has
GROWTH = 150  # megabytes


class Target:
    """A server that is attacked, and what is done to it."""

    def __init__(self, port: int, pid: int, log: Path, config: pytest.Config) -> None:
        self.port, self.pid, self._log, self._config = port, pid, log, config
        self.database = log.with_name("chat.db")
        self.attacker = f"Authorization: Bearer {token('mallory')}"

    def connect(self, sent: str = "", *, buffer: int | None = None) -> socket.socket:
        """Open a connection and send something; `buffer` is how much is received before anybody asks for it."""
        connection = socket.socket()
        connection.settimeout(PATIENCE)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(sent.encode())
        return connection

    def client(self, user: str = "mallory") -> httpx.Client:
        """Return a client of the attacker's."""
        headers = {"Authorization": f"Bearer {token(user)}"}
        limits = httpx.Limits(max_connections=200)
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=PATIENCE, limits=limits)

    def memory(self) -> float:
        """Return how many megabytes it has in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    @contextmanager
    def attacked(self, attack: str, size: str) -> Iterator[None]:
        """Watch another user while the block attacks; then see that all is as before."""
        before = self.memory()
        quiet = statistics.median(self.watched(1, "warming up"))
        command = [sys.executable, str(ROOT / "tests/bystander.py"), str(self.port), token("bob")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bystander:
            time.sleep(0.3)
            yield
            time.sleep(0.3)
            seen = json.loads(bystander.communicate("\n", timeout=60)[0])
        assert set(seen["statuses"]) <= {200}, seen["statuses"]
        deadline = time.monotonic() + SOON
        while statistics.median(self.watched(1, attack)) > 100 + 3 * quiet:
            assert time.monotonic() < deadline, "it does not recover"
            time.sleep(1)
        assert self.memory() < before + GROWTH
        median, worst = round(statistics.median(seen["times"])), round(max(seen["times"]))
        report(self._config, "attacks", {f"{attack}: {size}": (median, worst)})

    def watched(self, seconds: float, when: str) -> list[float]:
        """Return the times of a user's requests, in milliseconds."""
        command = [sys.executable, str(ROOT / "tests/bystander.py"), str(self.port), token("bob")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bystander:
            time.sleep(seconds)
            seen = json.loads(bystander.communicate("\n", timeout=60)[0])
        assert set(seen["statuses"]) <= {200}, (when, seen["statuses"])
        times: list[float] = seen["times"]
        return times


@contextmanager
def target(config: pytest.Config, folder: Path, script: str) -> Iterator[Target]:
    """Start a server that has few file descriptors."""
    log = folder / "log.txt"
    env = environment(
        PORT=0,
        DATABASE_URL=f"sqlite:///{folder / 'chat.db'}",
        BETTER_AUTH_SECRET=SECRET,
    )
    command = ["bash", "-c", f"ulimit -n {DESCRIPTORS}; exec {sys.executable} {ROOT / script} 2>{log}"]
    with running(command, "Serving on", env=env | {"PYTHONUNBUFFERED": "1"}) as (process, line):
        yield Target(int(line.rsplit(":", 1)[1]), process.pid, log, config)
        assert process.poll() is None
    text = log.read_text()
    assert "Traceback" not in text, text[-3000:]
    assert len(text) < 200_000


@pytest.fixture(scope="module")
def app(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The service with the offline model."""
    with target(pytestconfig, tmp_path_factory.mktemp("app"), "tests/unpaced.py") as running_one:
        yield running_one


@pytest.fixture(scope="module")
def paced(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The service with a model that does what the message says."""
    with target(pytestconfig, tmp_path_factory.mktemp("paced"), "tests/paced.py") as running_one:
        yield running_one


# ---- connections ----


@pytest.mark.parametrize(
    ("attack", "sent"),
    [
        ("silent connections", ""),
        ("half-sent heads", "GET /health HTTP/1.1\r\nHost: x\r\n"),
        ("bodies that do not come, without a token", "POST /chatkit HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_more_connections_than_descriptors(app: Target, attack: str, sent: str) -> None:
    """They neither keep others out nor fill the log, for as long as they stay."""
    many = 2 * DESCRIPTORS
    with app.attacked(attack, f"{many}, {DESCRIPTORS} descriptors"), ExitStack() as stack:
        for _ in range(many):
            try:
                stack.enter_context(app.connect(sent))
            except OSError:  # it was closed at once
                continue
        time.sleep(2)


def test_a_connection_that_sends_nothing_is_closed(app: Target) -> None:
    """A request has ten seconds to come, also in small pieces."""
    begun = time.monotonic()
    with app.connect("GET /health HTTP/1.1\r\n") as slow, app.connect() as silent:
        silent.settimeout(PATIENCE)
        for _ in range(8):
            time.sleep(1)
            with suppress(OSError):  # on a busy machine these seconds may be more than ten
                slow.sendall(b"X-A: b\r\n")
        assert silent.recv(1) == b""
        assert time.monotonic() - begun > 9


def test_a_slow_reader_gets_all_that_it_is_sent(app: Target) -> None:
    """Whoever takes an answer slowly, and has nothing else to say meanwhile, is not taken for silent."""
    with app.client("slow") as client:
        thread = client.post("/chatkit", json={"message": "help"}).headers["x-thread-id"]
    with closing(sqlite3.connect(app.database, timeout=PATIENCE)) as database:
        columns = "conversation_id, content, role, status, created_at"
        row = f"INSERT INTO messages ({columns}) VALUES (?, ?, 'user', 'done', '')"
        database.execute(row, (thread, "\u00e9" * 1_400_000))  # some 8 MB as JSON: more than the sockets hold
        database.commit()
    body = json.dumps({"type": "items.list", "params": {"thread_id": thread}})
    head = f"POST /chatkit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('slow')}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with app.connect(head + body, buffer=4096) as reader:
        time.sleep(12)  # a request would have ten seconds to come
        answer = b"".join(iter(lambda: reader.recv(65536), b""))  # until the server closes what is idle
    headers, _, sent = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(sent)}".encode() in headers.lower()
    assert len(sent) > 8e6
    assert json.loads(sent)["data"]


# ---- requests ----


MESSAGES = {
    "blanks": " " * 31_000 + "x",
    "add": "add " * 8000,
    "and": "and " * 8000,
    "quotes": '"' * 32_000,
    "delete": "delete " + ", ".join(["x"] * 10_000),
    "commas": "a, " * 10_600,
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_of_32_thousand_characters(app: Target, kind: str) -> None:
    """Whatever it is made of, the offline model takes it in no time."""
    with app.attacked(f"a long message: {kind}", f"{len(MESSAGES[kind])} characters, 5 times"), app.client() as client:
        for _ in range(5):
            assert client.post("/chatkit", json={"message": MESSAGES[kind]}).status_code in (200, 429)


def test_many_turns_of_one_user(app: Target) -> None:
    """Who asks as fast as possible is told to come back later."""
    with app.attacked("turns, as fast as possible", "300"), app.client("fast") as client:
        statuses = [client.post("/chatkit", json={"message": "help"}).status_code for _ in range(300)]
    assert set(statuses) == {200, 429}


def test_floods_without_a_token(app: Target) -> None:
    """Wrong tokens and the description cost little."""
    with app.attacked("wrong tokens", "600 of 8 KB"), app.client() as client:
        for n in range(600):
            header = {"Authorization": f"Bearer {'x' * 8000}.{'y' * 50}.{n % 3}"}
            assert client.get("/api/me", headers=header).status_code == 401
    with app.attacked("the description of the API", "300"), app.client() as client:
        for _ in range(300):
            assert client.get("/openapi.json").status_code == 200


def test_bodies_that_are_hard_to_read(app: Target) -> None:
    """JSON that is deep, and bodies of a megabyte, are refused, one as quickly as the other."""
    json_header = {"Content-Type": "application/json"}
    with app.attacked("deep and large bodies", "60 of 1 MB"), app.client() as client:
        for n in range(60):
            body = b"[" * 1_000_000 if n % 2 else b'{"message": "' + b"x" * 1_000_000 + b'"}'
            assert client.post("/chatkit", content=body, headers=json_header).status_code in (400, 413)


def test_bodies_that_do_not_come_with_a_token(app: Target) -> None:
    """Half-sent bodies of one user wait for their end, so many at a time and not for ever."""
    head = "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n"
    with app.attacked("half-sent bodies of a user", "200 of 500 KB"), ExitStack() as stack:
        for _ in range(200):
            try:
                stack.enter_context(app.connect(f"{head}{app.attacker}\r\n\r\n{'x' * 500_000}"))
            except OSError:  # it was refused
                continue


def test_a_long_list_of_tasks(app: Target) -> None:
    """As many tasks as a user may have are listed in pages, and by the tool as many as it shows."""
    with closing(sqlite3.connect(app.database, timeout=10)) as database:
        row = "INSERT INTO tasks (user_id, title, created_at, updated_at) VALUES ('mallory', ?, '', '')"
        database.executemany(row, [(f"task {n}",) for n in range(10_000)])
        database.commit()
    with app.attacked("lists of a user's tasks", "10,000 tasks, 50 times"), app.client() as client:
        for _ in range(50):
            assert len(client.get("/api/tasks").json()) == 1000
            assert client.post("/chatkit", json={"message": "show my tasks"}).status_code in (200, 429)


@pytest.mark.parametrize("wanted", ["a search", "a conversation", "items of a thread", "feedback on all of them"])
def test_much_is_read_at_once(app: Target, wanted: str) -> None:
    """A user who has much stored, and asks for it again and again, keeps nobody else waiting."""
    with app.client("hoarder") as client:
        thread = client.post("/chatkit", json={"message": "help"}).headers["x-thread-id"]
        with closing(sqlite3.connect(app.database, timeout=10)) as database:
            columns = "conversation_id, content, role, status, created_at"
            row = f"INSERT INTO messages ({columns}) VALUES (?, ?, 'assistant', 'done', '') RETURNING id"
            ids = [database.execute(row, (thread, "word " * 6000)).fetchone()[0] for _ in range(100)]
            database.commit()
        paths = {"a search": "/api/conversations?q=zzz", "a conversation": f"/api/conversations/{thread}"}
        feedback = {"thread_id": thread, "item_ids": [f"{message_id}.0" for message_id in ids], "kind": "positive"}
        requests = {
            "items of a thread": {"type": "items.list", "params": {"thread_id": thread, "limit": 9999}},
            "feedback on all of them": {"type": "items.feedback", "params": feedback},
        }

        def ask(_: int) -> int:
            asked = client.get(paths[wanted]) if wanted in paths else client.post("/chatkit", json=requests[wanted])
            return asked.status_code

        with app.attacked(wanted, "3 to 6 MB, 40 times, 8 at a time"), ThreadPoolExecutor(8) as many:
            assert set(many.map(ask, range(40))) <= {200, 429}


def test_a_very_long_conversation(app: Target) -> None:
    """It is read, exported and sent in pieces."""
    with app.client("talker") as client:
        thread = client.post("/chatkit", json={"message": "help"}).headers["x-thread-id"]
        calls = json.dumps([{"id": str(n), "name": "x", "args": "y" * 900, "at": 0} for n in range(60)])
        with closing(sqlite3.connect(app.database, timeout=10)) as database:
            row = """
                INSERT INTO messages (conversation_id, role, content, tool_calls, status, created_at)
                VALUES (?, 'assistant', ?, ?, 'done', '')
            """
            database.executemany(row, [(thread, "w" * 60_000, calls)] * 300)
            database.commit()
        with app.attacked("a long conversation, and its export", "35 MB"):
            for path in (f"/api/conversations/{thread}", "/api/export"):
                assert len(client.get(path).content) > 30e6


# ---- answers ----


def test_endless_answers(paced: Target) -> None:
    """A model that does not stop is stopped."""
    with paced.attacked("endless answers", "4, as fast as the model can"), ExitStack() as stack:
        client = stack.enter_context(paced.client())
        for _ in range(4):
            stack.enter_context(client.stream("POST", "/chatkit", json={"message": "say 1000000 0.01"}))
        time.sleep(3)


def test_many_readers_of_one_answer(paced: Target) -> None:
    """One more than an answer may have is refused."""
    with paced.attacked("readers of one answer", "150"), ExitStack() as stack:
        client = stack.enter_context(paced.client("reader"))
        live = stack.enter_context(client.stream("POST", "/chatkit", json={"message": "say 1000 5"}))
        path = f"/api/conversations/{live.headers['x-thread-id']}/stream"
        statuses = [stack.enter_context(client.stream("GET", path)).status_code for _ in range(150)]
        assert {200, 429} == set(statuses)


def test_many_tool_calls_at_once(paced: Target) -> None:
    """A model that asks for very many tools in one response gets none of them."""
    program = "\n".join(['call add_task {"title": "x"}'] * 500)
    with paced.attacked("tool calls in one response", "500"), paced.client("caller") as client:
        assert "more than 100 tool calls" in client.post("/chatkit", json={"message": program}).text
