"""What PostgreSQL costs beside SQLite, in one run: python bench/engines.py (see README.md).

It starts a PostgreSQL and a PgBouncer of its own, which must be installed. The service is ours, as in run.py, and has
one core; the client and the database's processes share the other. On one core with them the service's own CPU is a
fourth more, as each statement then drives it out of the core's caches.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT), str(ROOT / "tests")]  # behind this folder, which has a servers.py too

import postgres as servers_of_tests
from client import Stream, body_of, drive, fetch, request
from measures import PACE, percentile
from postgres import Bouncer, Postgres
from report import Limit, Row, table, verdicts
from script import Script
from servers import CLIENT_CORE, SECRET, SERVER_CORE, Server

from todochat import auth

TOKENS = [auth.sign(f"user {n}", SECRET, lifetime=3600) for n in range(100)]
SQLITE, DIRECT, POOLED = "SQLite", "PostgreSQL", "by PgBouncer"
ROUNDS = 3
ROUNDS_OF_CPU = 9  # a virtual machine's cores have faster and slower minutes
TICK = os.sysconf("SC_CLK_TCK")
# What is committed is on the disk, as in SQLite's file.
DURABLE = {"fsync": "on", "shared_buffers": "128MB", "wal_writer_delay": "200ms"}


@dataclass
class Column:
    """One engine: a server on it, and the database server that it uses, if any."""

    name: str
    server: Server
    database: Postgres | None = None

    def cpu(self) -> tuple[float, float]:
        """Return the CPU time that the service has used, and that its database's server has, in seconds."""
        return self.server.cpu(), cpu_of(self.database) if self.database else 0.0


def cpu_of(database: Postgres) -> float:
    """Return the CPU time of all processes of a PostgreSQL, those that have ended included."""
    assert database.process is not None
    main = database.process.pid
    total = 0
    for pid in [main, *map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())]:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15] if pid == main else fields[11:13]))
    return total / TICK


@contextmanager
def database_servers() -> Iterator[tuple[Postgres, Bouncer]]:
    """Run a PostgreSQL with a PgBouncer in front of it."""
    with ExitStack() as stack:
        servers_of_tests.SETTINGS.update(DURABLE)
        made = Postgres(stack.enter_context(servers_of_tests.folder()))
        stack.enter_context(servers_of_tests.running(made))
        made.start()
        bouncer = Bouncer(stack.enter_context(servers_of_tests.folder()), made)
        stack.enter_context(servers_of_tests.running(bouncer))
        bouncer.start()
        yield made, bouncer


@asynccontextmanager
async def columns(folder: Path, database: Postgres, bouncer: Bouncer) -> AsyncIterator[list[Column]]:
    """Run the service on each engine, warmed up."""
    with ExitStack() as stack:
        names = [stack.enter_context(database.database()) for _ in range(2)]
        found = []
        for name, url in ((SQLITE, None), (DIRECT, database.url(names[0])), (POOLED, bouncer.url(names[1]))):
            server = await Server("server_ours.py", folder, database=url).ready()
            stack.callback(server.stop)
            found.append(Column(name, server, None if url is None else database))
            await turns(found[-1], Script(20, tool=True), streams=5, count=20)
        yield found


async def turns(column: Column, script: Script, *, streams: int, count: int, over: float = 0.0) -> None:
    """Run turns and check each; each stream is a user's, and they begin one after the other within `over` seconds."""
    body = {"message": script.message}

    async def user(n: int) -> None:
        await asyncio.sleep(over * n / streams)
        await drive(column.server.port, "/chatkit", body, TOKENS[n], script, streams=1, turns=count // streams)

    await asyncio.gather(*(user(n) for n in range(streams)))


async def one_by_one(found: Sequence[Column]) -> list[Row]:
    """Measure how long turns take that nobody else waits for."""
    first = Row("the first frame, p50", "ms", [Limit(name, 1.5, SQLITE) for name in (DIRECT, POOLED)])
    tool = Row("a turn with a tool call, p50", "ms", [Limit(name, 2.0, SQLITE) for name in (DIRECT, POOLED)])
    for _ in range(ROUNDS):
        for column in found:
            message = request("/chatkit", {"message": Script(20, tool=True).message}, TOKENS[0])
            streams = [await fetch(column.server.port, message) for _ in range(60)]
            firsts = [next(at for at, data in stream.pieces if b"data: " in data) - stream.sent for stream in streams]
            first.add(column.name, percentile(50, firsts) / 1e6)
            tool.add(column.name, percentile(50, [stream.pieces[-1][0] - stream.sent for stream in streams]) / 1e6)
    return [first, tool]


async def by_load(found: Sequence[Column]) -> list[Row]:
    """Measure the CPU of turns, alone and as fast as they can come, and of 100 answers at a steady pace."""
    limits = [Limit(name, 1.25, SQLITE) for name in (DIRECT, POOLED)]
    alone = Row("20 deltas, one at a time: the service's CPU", "ms/turn", limits)
    app = Row("20 deltas, 16 at a time: the service's CPU", "ms/turn", limits)
    base, rate = Row("... the database's CPU", "ms/turn"), Row("20 deltas, 16 at a time", "turns/s")
    live, live_base = (
        Row("100 live at 50/s: the service's CPU", "% of a core"),
        Row("... the database's", "% of a core"),
    )
    for n in range(ROUNDS_OF_CPU):
        for column in found:
            before = column.cpu()
            await turns(column, Script(20), streams=1, count=60)
            alone.add(column.name, 1000 * (column.cpu()[0] - before[0]) / 60)
        for column in found:
            before, begun = column.cpu(), time.monotonic()
            await turns(column, Script(20), streams=16, count=192)
            after = column.cpu()
            app.add(column.name, 1000 * (after[0] - before[0]) / 192)
            base.add(column.name, 1000 * (after[1] - before[1]) / 192)
            rate.add(column.name, 192 / (time.monotonic() - begun))
        for column in found if n < ROUNDS else ():
            before, begun = column.cpu(), time.monotonic()
            await turns(column, Script(200, PACE), streams=100, count=100, over=2.0)
            after, seconds = column.cpu(), time.monotonic() - begun
            live.add(column.name, 100 * (after[0] - before[0]) / seconds)
            live_base.add(column.name, 100 * (after[1] - before[1]) / seconds)
    return [alone, app, base, rate, live, live_base]


async def mirrors(folder: Path, database: Postgres) -> list[Row]:
    """Measure what it costs when 100 live answers of one process are all followed on another one."""
    owner, other = Row("the process that makes them: CPU", "% of a core"), Row("the other one: CPU", "% of a core")
    base = Row("the database: CPU", "% of a core")
    with ExitStack() as stack:
        url = database.url(stack.enter_context(database.database()))
        servers = [await Server("server_ours.py", folder, database=url).ready() for _ in range(2)]
        for server in servers:
            stack.callback(server.stop)
        for _ in range(ROUNDS):
            for label, followed in (("followed by nobody else", False), ("each followed on the other", True)):
                begun, used = time.monotonic(), [server.cpu() for server in servers] + [cpu_of(database)]
                await asyncio.gather(*(_followed(servers, token, Script(300, PACE), followed) for token in TOKENS))
                seconds = time.monotonic() - begun
                now = [server.cpu() for server in servers] + [cpu_of(database)]
                for row, a, b in zip((owner, other, base), used, now, strict=True):
                    row.add(label, 100 * (b - a) / seconds)
    return [owner, other, base]


async def _followed(servers: Sequence[Server], token: str, script: Script, followed: bool) -> None:
    await asyncio.sleep(2.0 * TOKENS.index(token) / len(TOKENS))
    message = request("/chatkit", {"message": script.message}, token)
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: Stream(message), "127.0.0.1", servers[0].port)
    while not stream.pieces:  # noqa: ASYNC110 - the client only writes down what comes
        await asyncio.sleep(0.01)
    thread = int(stream.pieces[0][1].lower().split(b"x-thread-id: ")[1].split(b"\r\n")[0])
    if followed:
        joined = await fetch(servers[1].port, request(f"/api/conversations/{thread}/stream", token=token))
        await stream.closed
        if body_of(joined)[0] != body_of(stream)[0]:
            raise RuntimeError("the other process did not show the same frames")
    await stream.closed


async def processes(folder: Path, database: Postgres) -> list[Row]:
    """Measure how many turns one process makes in a second, and two."""
    rate, used = Row("20 deltas, 16 at a time", "turns/s"), Row("... the database's CPU", "ms/turn")
    assert database.process is not None
    os.sched_setaffinity(database.process.pid, {SERVER_CORE})  # of the two, one has the client already
    with ExitStack() as stack:
        url = database.url(stack.enter_context(database.database()))
        found = [Column("", await Server("server_ours.py", folder, database=url).ready(), database) for _ in range(2)]
        os.sched_setaffinity(found[1].server.pid, {CLIENT_CORE})
        for column in found:
            stack.callback(column.server.stop)
            await turns(column, Script(20), streams=5, count=20)
        for _ in range(ROUNDS):
            for label, sharing in (("one process", found[:1]), ("two processes", found)):
                begun, before = time.monotonic(), cpu_of(database)
                load = {"streams": 16 // len(sharing), "count": 400 // len(sharing)}
                await asyncio.gather(*(turns(column, Script(20), **load) for column in sharing))
                rate.add(label, 400 / (time.monotonic() - begun))
                used.add(label, 1000 * (cpu_of(database) - before) / 400)
    return [rate, used]


async def bench() -> None:
    """Run everything and print it."""
    with (
        tempfile.TemporaryDirectory(prefix="todochat-bench-", dir=os.environ.get("BENCH_FOLDER")) as name,
        database_servers() as (database, bouncer),
    ):
        folder = Path(name)
        async with columns(folder, database, bouncer) as found:
            rows = await one_by_one(found)
            rows += await by_load(found)
        print(f"### The engines\n\n{table(rows)}\n", flush=True)
        print(f"### 100 live answers and their mirrors\n\n{table(await mirrors(folder, database))}\n", flush=True)
        print(f"### Processes on one PostgreSQL\n\n{table(await processes(folder, database))}\n", flush=True)
    print("### Limits\n\n" + "\n".join(f"- {line}" for line in verdicts(rows)))


if __name__ == "__main__":
    os.sched_setaffinity(0, {CLIENT_CORE})
    asyncio.run(bench())
