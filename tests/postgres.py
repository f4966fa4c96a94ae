"""A private PostgreSQL, a PgBouncer in front of it, and a line that can be cut, all on free ports of 127.0.0.1.

Everything is in a temporary folder, is given a bounded time, and is ended by its own pid.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from todochat.db import Store

PATIENCE = 30.0  # seconds that a server is given to start or to end
PASSWORD = "not-a-secret"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "fsync": "off",  # what is killed here are processes, not the machine
    "log_min_error_statement": "error",
    "wal_writer_delay": "10s",  # what is not committed is lost in a crash, as on a busy machine
}


def programs() -> Path | None:
    """Return where the programs of the newest PostgreSQL are, None if there are none."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


def lacking() -> str | None:
    """Return what must be installed for these tests, None if nothing."""
    if programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        return "PgBouncer is not installed: apt-get install pgbouncer"
    return None


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def as_its_user() -> dict[str, Any]:
    """Return the options of subprocess for programs that refuse to be run by root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def send(sig: int, pids: list[int]) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


@dataclass
class Program:
    """A server program in a folder of its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def _run(self, command: list[str | Path], ready: Callable[[], bool]) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_its_user()
            )
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert self.process.poll() is None, f"it has ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"it does not answer:\n{self.log()}"
            time.sleep(0.02)

    def stop(self, sig: int = signal.SIGINT) -> None:
        """End it; whoever is connected is thrown out."""
        if self.process is not None and self.is_running():
            self.process.send_signal(sig)
            try:
                self.process.wait(PATIENCE)
            finally:
                self.process.kill()

    def is_running(self) -> bool:
        """Whether it is there."""
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """Return what it has logged."""
        return (self.folder / "log").read_text()


class Postgres(Program):
    """A cluster with the superuser `todo`."""

    def start(self) -> "Postgres":
        """Start it; the first time, make the cluster."""
        binaries = programs()
        assert binaries is not None
        if not (self.folder / "data").exists():
            (self.folder / "password").write_text(PASSWORD)
            command = [binaries / "initdb", "-D", "data", "-U", "todo", "-E", "UTF8", "--locale=C", "--no-sync"]
            command += ["--auth=scram-sha-256", "--pwfile=password"]
            subprocess.run(command, cwd=self.folder, check=True, timeout=PATIENCE, capture_output=True, **as_its_user())
        settings = SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._run([binaries / "postgres", "-D", "data", *options], self._answers)
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):
            return self.execute("SELECT 1") == [(1,)]
        return False

    def restart(self, sig: int = signal.SIGINT, pause: float = 0.0) -> None:
        """Restart it: SIGINT is `pg_ctl restart -m fast`, SIGQUIT is `-m immediate`, which is like a crash."""
        self.stop(sig)
        time.sleep(pause)
        self.start()

    def url(self, database: str = "postgres", user: str = "todo", password: str = PASSWORD) -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the superuser, outside of a transaction; return its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database; give its name."""
        name = f"test_{os.urandom(6).hex()}"
        self.execute(f"CREATE DATABASE {name}")
        yield name
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Halt the server, and all processes that serve connections, until the block ends."""
        assert self.process is not None
        main = self.process.pid
        os.kill(main, signal.SIGSTOP)  # first, so that it has no new children
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        everybody = [main, *map(int, children)]
        send(signal.SIGSTOP, everybody)
        try:
            yield
        finally:
            send(signal.SIGCONT, everybody)


class Bouncer(Program):
    """A PgBouncer in transaction mode."""

    def __init__(self, folder: Path, postgres: Postgres, **settings: object) -> None:
        super().__init__(folder)
        self.postgres, self.settings = postgres, settings

    def start(self) -> "Bouncer":
        """Start it."""
        (self.folder / "users").write_text(f'"todo" "{PASSWORD}"\n')
        self._configure()
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None
        self._run([program, "-q", "ini"], self._answers)
        return self

    def set(self, postgres: Postgres | None = None, **settings: object) -> None:
        """Change settings, or the server that it leads to."""
        self.postgres = postgres or self.postgres
        self.settings |= settings
        self._configure()
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def _configure(self) -> None:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": self.folder / "users",
            "pool_mode": "transaction",
            "max_client_conn": 200,
            "default_pool_size": 20,
            "server_login_retry": 1,
        } | self.settings
        (self.folder / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.postgres.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://todo:{PASSWORD}@127.0.0.1:{self.port}/{database}"


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that the programs' user can use, and remove it in the end."""
    path = Path(tempfile.mkdtemp(prefix="todochat-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(program: Program) -> Iterator[None]:
    """End a program when the block ends."""
    try:
        yield
    finally:
        program.stop()


class Line:
    """A TCP proxy that stands between an engine and its server, and can lose what is sent. See `line`."""

    def __init__(self, port: int) -> None:
        self._port = port  # of the server
        self.port = 0
        self.trips = 0  # how often a client has sent something
        self.open = asyncio.Event()  # nothing passes while it is not set: a network that is silent
        self.open.set()
        self.silent_after: bytes | None = None  # it becomes silent when a client has sent this
        self.is_silent = asyncio.Event()  # ... which has happened
        self.cut_before: bytes | None = None  # the connection is lost when a client sends this, which is not sent on
        self.cut_after: bytes | None = None  # ... or which is sent on, but not the server's answer
        self.silent_after_cut = False
        self.halt_after: bytes | None = None  # what a connection sends next after this is kept back ...
        self.go_on = asyncio.Event()  # ... until this is set
        self.is_halted = asyncio.Event()
        self.is_cut = asyncio.Event()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, url: str) -> str:
        """Return the server's URL by way of this line."""
        return url.replace(f":{self._port}/", f":{self.port}/")

    def cut(self) -> None:
        """Lose all connections."""
        for end in self._ends:
            end.transport.abort()

    async def close(self) -> None:
        """Lose all connections for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._ends.add(writer)
        try:
            await self.open.wait()  # or a server that ends would wait for what this connection has to say
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            ends.add(back)
            self._ends.add(back)
            async with asyncio.TaskGroup() as both:
                answers = both.create_task(self._answer(there, writer))
                await self._ask(reader, back, writer)
                if back.is_closing():
                    answers.cancel()
        except* OSError:  # it is lost: there is nobody to tell
            pass
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        halt = False
        while data := await reader.read(65536):
            await self.open.wait()
            self.trips += 1
            if halt:
                self.is_halted.set()
                await self.go_on.wait()
            halt = self.halt_after is not None and self.halt_after in data
            if halt:
                self.halt_after = None
            if self.silent_after is not None and self.silent_after in data:
                self.silent_after = None
                self.open.clear()
                self.is_silent.set()
            before = self.cut_before is not None and self.cut_before in data
            after = self.cut_after is not None and self.cut_after in data
            if before or after:
                client.transport.abort()
                self.cut_before = self.cut_after = None
                if self.silent_after_cut:
                    self.open.clear()
                self.is_cut.set()
            if before:
                break
            to.write(data)
            await to.drain()
            if after:
                to.write_eof()  # it gets all of it before it sees the end
                return
        to.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.open.wait()
            if not to.is_closing():
                to.write(data)
                await to.drain()
        to.transport.abort()


@asynccontextmanager
async def line(port: int) -> AsyncIterator[Line]:
    """Open a line to a server on 127.0.0.1 until the block ends."""
    made = Line(port)
    async with await asyncio.start_server(made.accept, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            await made.close()


# ---- fixtures, which conftest.py takes from here ----


def needed() -> None:
    """Skip a test whose programs are not installed; in CI that is a failure."""
    if (what := lacking()) is not None:
        if os.environ.get("CI"):
            pytest.fail(f"{what} (in CI this is a failure)")
        pytest.skip(what)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    """A PostgreSQL for all tests of this process. Without one they are skipped; in CI that is a failure."""
    needed()
    with folder() as path:
        postgres = Postgres(path)
        with running(postgres):
            yield postgres.start()


@pytest.fixture(scope="session")
def bouncer(cluster: Postgres) -> Iterator[Bouncer]:
    """A PgBouncer in transaction mode in front of that."""
    with folder() as path:
        made = Bouncer(path, cluster)
        with running(made):
            yield made.start()


@pytest.fixture(scope="module")
def fragile_server() -> Iterator[Postgres]:
    """A server to be restarted and worse."""
    needed()
    with folder() as path:
        server = Postgres(path)
        with running(server):
            yield server


@pytest.fixture(scope="module")
def fragile_bouncer(fragile_server: Postgres) -> Iterator[Bouncer]:
    """A PgBouncer in front of it."""
    with folder() as path:
        pooler = Bouncer(path, fragile_server)
        with running(pooler):
            yield pooler.start()


@pytest.fixture
def fragile(fragile_server: Postgres) -> Postgres:
    """That server, running."""
    return fragile_server if fragile_server.is_running() else fragile_server.start()


@pytest.fixture(params=["postgres", "pgbouncer"])
def fragile_url(request: pytest.FixtureRequest, fragile: Postgres) -> Iterator[str]:
    """The URL of a database on it, directly and by a PgBouncer."""
    server = fragile if request.param == "postgres" else request.getfixturevalue("fragile_bouncer")
    with fragile.database() as name:
        yield server.url(name)


ENGINES = ["sqlite", "postgres", "pgbouncer"]


@contextmanager
def new_database(request: pytest.FixtureRequest, engine: str) -> Iterator[str]:
    """Make an empty database on PostgreSQL, or on it by way of PgBouncer; give its URL."""
    postgres: Postgres = request.getfixturevalue("cluster")
    server: Postgres | Bouncer = request.getfixturevalue("bouncer") if engine == "pgbouncer" else postgres
    with postgres.database() as name:
        yield server.url(name)


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own, as `Store.open` takes it: on each engine, and with a pooler between."""
    if request.param == "sqlite":
        yield str(tmp_path / "chat.db")
        return
    with new_database(request, request.param) as url:
        yield url


@pytest.fixture
async def any_store(database: str) -> AsyncIterator[Store]:
    """A store on each engine, and with a pooler between."""
    opened = await Store.open(database)
    yield opened
    await opened.close()


def look(database: str, statement: str, *parameters: Any) -> list[Any]:
    """Look into a database beside the store; return the rows."""
    if "://" not in database:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
            return file.execute(statement, parameters).fetchall()
    import psycopg

    with psycopg.connect(database, prepare_threshold=None, connect_timeout=5) as connection:
        connection.execute("SET LOCAL search_path = todochat")
        return connection.execute(statement.replace("?", "%s").encode(), parameters or None).fetchall()
