"""What the tests share: fixtures for servers (serving.py), their clients (clients.py) and a store."""

import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import browser, narrow, visitor
from clients import Client, Turn, forge, token
from postgres import (
    ENGINES,
    any_store,
    bouncer,
    cluster,
    database,
    fragile,
    fragile_bouncer,
    fragile_server,
    fragile_url,
    new_database,
)
from serving import PATIENCE, ROOT, SECRET, SETTINGS, SOON, Server, missing

from todochat.db import Store
from todochat.engines.sqlite import SqliteEngine

# What the tests take from here, though it is made elsewhere.
__all__ = ["PATIENCE", "ROOT", "SECRET", "SETTINGS", "SOON", "Client", "Server", "Turn", "forge", "missing", "token"]
__all__ += ["any_store", "bouncer", "browser", "cluster", "database", "narrow", "visitor"]
__all__ += ["fragile", "fragile_bouncer", "fragile_server", "fragile_url"]

REPORTS = {
    "faults": ("fault", "tries", "lost"),
    "faults of several processes": ("fault", "tries", "lost"),
    "attacks": ("attack and its size", "median ms", "worst ms"),
}
WIDTH = 72  # of what a fault is called

# The files whose tests of the service run on each engine; those of the others run on SQLite.
ON_EACH_ENGINE = {"changes", "chat", "chatkit", "chatkit_http", "mcp", "rest", "retry"}

# The files with the longest tests, most of the time waiting: begun first, they are not what all the others wait for.
LONGEST = ("test_processes", "test_faults", "test_tokens", "test_attacks", "test_postgres", "test_page_lists")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files begin first."""
    places = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have those tests run on each engine, but for those that are marked as being about SQLite."""
    if "engine_name" in metafunc.fixturenames and metafunc.module.__name__.removeprefix("test_") in ON_EACH_ENGINE:
        only_sqlite = metafunc.definition.get_closest_marker("sqlite") is not None
        metafunc.parametrize("engine_name", ENGINES[:1] if only_sqlite else ENGINES, scope="module")


@pytest.fixture(scope="module")
def engine_name() -> str:
    """The engine of the servers that the fixtures here start."""
    return "sqlite"


@pytest.fixture(scope="module")
def on_engine(request: pytest.FixtureRequest, engine_name: str) -> Iterator[Callable[[], dict[str, str]]]:
    """Return a function that makes an empty database and returns the settings by which a server uses it."""
    with ExitStack() as stack:

        def settings() -> dict[str, str]:
            if engine_name == "sqlite":
                return {}  # a file in the server's folder
            return {"DATABASE_URL": stack.enter_context(new_database(request, engine_name))}

        yield settings


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """How tests and fixtures that are async functions run, where they are marked `anyio`."""
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path, on_engine: Callable[[], dict[str, str]]) -> AsyncIterator[Store]:
    """A store on a database of the test's own."""
    store = await Store.open(on_engine().get("DATABASE_URL", str(tmp_path / "chat.db")))
    yield store
    await store.close()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Store]:
    """A store on a disk that has room for little more than the tables."""
    engine = await SqliteEngine.open(str(tmp_path / "chat.db"))
    try:
        [pages] = await engine.read(lambda sql: sql("PRAGMA page_count"))
        await engine.write(lambda sql: sql(f"PRAGMA max_page_count = {pages['page_count'] + 5}"))
        yield Store(engine)
    finally:
        await engine.close()


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[Store]:
    """Open the store of a folder, until the block ends: one that stays open would keep the process from ending."""
    store = await Store.open(str(folder / "chat.db"), **options)
    try:
        yield store
    finally:
        await store.close()


def report(config: Any, name: str, table: Any) -> None:
    """Keep a table to be printed at the end, by the process that prints (pytest-xdist runs the tests in others).

    What was tried in several processes is added up; of what was measured the last counts.
    """
    tables = getattr(config, "workeroutput", config.__dict__.setdefault("reports", {}))
    rows = tables.setdefault(name, {})
    for row, (first, second) in table.items():
        before = rows.get(row, (0, 0)) if name.startswith("faults") else (0, 0)
        rows[row] = (before[0] + first, before[1] + second)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of pytest-xdist has reported."""
    for name in REPORTS:
        report(node.config, name, node.workeroutput.get(name, {}))


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print the tables that docs/promises.md quotes."""
    for name, columns in REPORTS.items():
        if table := getattr(config, "reports", {}).get(name):
            terminalreporter.section(name)
            for row in (columns, *((first, *rest) for first, rest in table.items())):
                terminalreporter.write_line(f"{row[0]:{WIDTH}} {row[1]:>9} {row[2]:>8}")


def prepare(folder: Path, script: str = "app.py", **settings: Any) -> Server:
    """Return a server that is not started yet; settings are those of the environment, `script` is what to run."""
    return Server(folder, script, **settings)


@pytest.fixture
def make_server(tmp_path: Path, on_engine: Callable[[], dict[str, str]]) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server of the test's own; what it takes is what `Server` takes."""
    servers: list[Server] = []
    database = on_engine()

    def make(*, start: bool = True, **options: Any) -> Server:
        servers.append(Server(tmp_path, **database | options))
        return servers[-1].start() if start else servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, on_engine: Callable[[], dict[str, str]]) -> Iterator[Server]:
    """A server with the offline model (unpaced.py), shared by the tests of a file, each with users of its own."""
    server = Server(tmp_path_factory.mktemp("server"), "tests/unpaced.py", **on_engine()).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory, on_engine: Callable[[], dict[str, str]]) -> Iterator[Server]:
    """A server whose model does what the message says (paced.py), shared by the tests of a file."""
    server = Server(tmp_path_factory.mktemp("paced"), "tests/paced.py", **on_engine()).start()
    yield server
    server.close()


@pytest.fixture
def alice(server: Server) -> Iterator[Client]:
    """A client of `server` for a user who is new."""
    with server.client(f"alice-{uuid.uuid4()}") as client:
        yield client


@pytest.fixture
def bob(server: Server) -> Iterator[Client]:
    """A client of `server` for another user."""
    with server.client(f"bob-{uuid.uuid4()}") as client:
        yield client


@pytest.fixture
def carol(paced: Server) -> Iterator[Client]:
    """A client of `paced` for a user who is new."""
    with paced.client(f"carol-{uuid.uuid4()}") as client:
        yield client


@contextmanager
def running(command: list[str], ready: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process until the block ends; give it and the line of its output that holds `ready`."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if ready in line:
                yield process, line
                break
        else:
            raise AssertionError(f"{command[0]} ended without saying {ready!r}")
    finally:
        process.kill()
        process.wait(10)


def npm_package(name: str) -> Path:
    """Return the folder of an npm package that the tests use, or skip."""
    folder = ROOT / "tests" / "node_modules" / name
    if shutil.which("node") is None or not folder.exists():
        missing(f"{name} is not installed: run `npm ci --prefix tests`")
    return folder


def awaited(events: Callable[..., Any]) -> Callable[..., Any]:
    """Return what `Runs.begin` wants of a function that makes the events of a turn: to be awaited first."""

    async def stream(*arguments: Any) -> Any:
        return events(*arguments)

    return stream
