"""What is measured: each function drives all servers in turn and returns rows of the table."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from client import Result, drive
from report import Limit, Row
from script import Script
from servers import SERVER_CORE, Dialect, Server

PACE = 0.02  # seconds: 50 deltas a second
BYTES, BARE, OURS, OFFICIAL, OURS_CHATKIT = "bytes only", "bare loop", "ours", "official", "ours, ChatKit"


@dataclass(frozen=True)
class Load:
    """What each turn says, how many turns at a time and in all, and what it may cost."""

    label: str
    script: Script
    streams: int
    turns: int
    limits: Sequence[Limit] = ()


def at_most(bare: float | None = None, official: float | None = None) -> list[Limit]:
    """Return the limits of a row: ours to the bare loop, and our ChatKit dialect to the official stack."""
    limits = [] if bare is None else [Limit(OURS, bare, BARE)]
    return limits + ([] if official is None else [Limit(OURS_CHATKIT, official, OFFICIAL)])


IN_PROCESS = [
    Load("200 deltas, 1 stream", Script(200), 1, 15, at_most(1.0, 0.45)),
    Load("200 deltas, 20 streams", Script(200), 20, 40, at_most(0.9, 0.45)),
    Load("200 deltas, 100 streams", Script(200), 100, 100, at_most(0.9, 0.45)),
    Load("200 deltas in bursts of 8, 20 streams", Script(200, burst=8), 20, 40, at_most(0.9, 0.45)),
    Load("2,000 deltas, 20 streams", Script(2000), 20, 20, at_most(None, 0.45)),
    Load("20 deltas, 20 streams", Script(20), 20, 100, at_most(1.1, 0.45)),
    Load("20 deltas and a tool call, 16 streams", Script(20, tool=True), 16, 64),  # no limit: see README.md
]
END_TO_END = [
    Load("200 deltas, 20 streams", Script(200), 20, 20, [*at_most(1.0, 0.75), Limit(OURS, 0.75, OFFICIAL)]),
    Load(
        "20 deltas and a tool call, 16 streams",
        Script(20, tool=True),
        16,
        64,
        [*at_most(0.9, 0.65), Limit(OURS, 0.65, OFFICIAL)],
    ),
]


class Field:
    """The servers to measure, and where they keep their files. One server answers for both dialects of ours."""

    def __init__(self, folder: Path, dialects: Sequence[Dialect], provider: int | None = None) -> None:
        self.dialects = list(dialects)
        self._folder = folder
        self._provider = provider
        self._running: dict[str, Server] = {}

    async def fresh(self, dialect: Dialect) -> Server:
        """Start one more server, with a file of its own."""
        return await Server(dialect.script, self._folder, provider=self._provider).ready()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Field"]:
        """Start the servers and warm them up; end them with the block."""
        try:
            for dialect in self.dialects:
                if dialect.script not in self._running:
                    self._running[dialect.script] = await self.fresh(dialect)
                await run(self.server(dialect), dialect, Script(20, tool=True), streams=5, turns=20)
            yield self
        finally:
            for server in self._running.values():
                server.stop()
            self._running.clear()

    def server(self, dialect: Dialect) -> Server:
        """Return the running server for a dialect."""
        return self._running[dialect.script]

    def in_turn(self, n: int) -> list[tuple[Dialect, Server]]:
        """Return them all, beginning with another one in each round: the first may find a busier machine."""
        n %= len(self.dialects)
        return [(dialect, self.server(dialect)) for dialect in [*self.dialects[n:], *self.dialects[:n]]]


async def run(
    server: Server, dialect: Dialect, script: Script, *, streams: int, turns: int, over: float = 0.0
) -> list[Result]:
    """Run turns in one dialect and check each."""
    body = dialect.body(script.message)
    return await drive(server.port, "/chatkit", body, dialect.token, script, streams=streams, turns=turns, over=over)


async def cpu(field: Field, label: str, loads: Sequence[Load], rounds: int) -> list[Row]:
    """Measure CPU per delta, from it what a turn costs beside its deltas, and tool turns per second."""
    rows = [Row(f"{label}: {load.label}", "µs/delta", load.limits) for load in loads]
    per_second = Row(f"{label}: turns with a tool call", "turns/s")
    for n in range(rounds):
        for load, row in zip(loads, rows, strict=True):
            for dialect, server in field.in_turn(n):
                used, begun = server.cpu(), time.monotonic()
                await run(server, dialect, load.script, streams=load.streams, turns=load.turns)
                row.add(dialect.name, 1e6 * (server.cpu() - used) / load.turns / load.script.deltas)
                if load.script.tool:
                    per_second.add(dialect.name, load.turns / (time.monotonic() - begun))
    by_load = {load.label: row for load, row in zip(loads, rows, strict=True)}
    short, long = by_load.get("20 deltas, 20 streams"), by_load.get("200 deltas, 20 streams")
    return [*rows, *([_fixed(label, short, long)] if short and long else []), per_second]


def _fixed(label: str, short: Row, long: Row) -> Row:
    fixed = Row(f"{label}: what a turn costs beside its deltas", "ms")
    for name, values in short.values.items():
        for of_20, of_200 in zip(values, long.values[name], strict=True):
            delta = (200 * of_200 - 20 * of_20) / 180
            fixed.add(name, 20 * (of_20 - delta) / 1000)
    return fixed


async def delay(
    field: Field, streams: int, script: Script, *, turns: int, over: float = 0.0, rounds: int = 1
) -> list[Row]:
    """Measure, at a steady load, when the first text comes, and by how much the frames are delayed.

    Percentiles are of all rounds together: the slowest hundredth of one round's turns are three of them, and whether a
    collection of the garbage falls on those is chance. After the first round only the two that are compared go on.
    """
    judged = streams == 100
    measures: list[tuple[str, Callable[[list[Result]], float], list[Limit]]] = [
        ("delay of a frame, p50", lambda results: percentile(50, delays(results)), []),
        ("delay of a frame, p99", lambda results: percentile(99, delays(results)), []),
        ("delay of a frame, longest", lambda results: max(delays(results)), []),
        ("first text, p50", lambda results: percentile(50, firsts(results)), [Limit(OURS, 0.05, OFFICIAL)]),
        ("first text, p99", lambda results: percentile(99, firsts(results)), at_most(0.25)),
        ("first text, longest", lambda results: max(firsts(results)), []),
    ]
    label = f"{streams} live at {1 / script.pace:.0f}/s"
    used = Row(f"{label}: CPU", "µs/delta", at_most(1.05) if judged else ())
    waited = Row(f"{label}: waited for its core", "% of the time")
    results: dict[str, list[Result]] = {dialect.name: [] for dialect in field.dialects}
    for n in range(rounds):
        for dialect, server in field.in_turn(n):
            if n and dialect.name not in (BARE, OURS):
                continue
            before, waiting, begun = server.cpu(), server.waited(), time.monotonic()
            results[dialect.name] += await run(server, dialect, script, streams=streams, turns=turns, over=over)
            used.add(dialect.name, 1e6 * (server.cpu() - before) / turns / script.deltas)
            waited.add(dialect.name, 100 * (server.waited() - waiting) / (time.monotonic() - begun))
    rows = []
    for name, measure, limits in measures:
        row = Row(f"{label}: {name}", "ms", limits if judged else ())
        for server_name, all_of_them in results.items():
            row.add(server_name, measure(all_of_them))
        rows.append(row)
    return [*rows, used, waited]


async def crowd(field: Field, streams: int, script: Script, over: float, names: Sequence[str]) -> list[Row]:
    """Measure delay, first text and memory of many live streams of these servers, each of them fresh."""
    judged = script.pace > PACE
    label = f"{streams} live at {1 / script.pace:.0f}/s"
    measures: list[tuple[str, Callable[[list[Result]], float], list[Limit]]] = [
        ("delay of a frame, p50", lambda results: percentile(50, delays(results)), []),
        ("delay of a frame, p99", lambda results: percentile(99, delays(results)), []),
        # A server that falls behind is seconds late at the end.
        ("delay of the last frame, p99", lambda results: percentile(99, [r.delays[-1] for r in results]),
         [Limit(OURS, 250)]),
        ("first text, p50", lambda results: percentile(50, firsts(results)), []),
        ("first text, p99", lambda results: percentile(99, firsts(results)), []),
    ]  # fmt: skip
    rows = [Row(f"{label}: {name}", "ms", limits if judged else ()) for name, _, limits in measures]
    share = Row(f"{label}: CPU", "% of a core")
    memory = Row(f"{label}: memory of a stream", "KB")
    memory.limits = [Limit(OURS, 100), Limit(OURS_CHATKIT, 100)] if judged else ()
    for dialect in field.dialects:
        if dialect.name not in names:
            continue
        server = await field.fresh(dialect)
        try:
            await run(server, dialect, Script(20), streams=5, turns=20)
            empty, used, begun = server.memory(), server.cpu(), time.monotonic()
            results = await run(server, dialect, script, streams=streams, turns=streams, over=over)
            share.add(dialect.name, 100 * (server.cpu() - used) / (time.monotonic() - begun))
            memory.add(dialect.name, (server.highest_memory() - empty) / streams / 1024)
        finally:
            server.stop()
        for row, (_, measure, _) in zip(rows, measures, strict=True):
            row.add(dialect.name, measure(results))
    return [*rows, share, memory]


async def start(field: Field, rounds: int) -> list[Row]:
    """Measure how long a server takes to answer, and what its first turn costs more than its third."""
    cold, alone = Row("start to the first answer of /health", "s"), Row("... less `import agents` alone", "s")
    alone.limits = [Limit(OURS, 0.3)]
    first = Row("first turn after start, less the third", "ms of CPU", [Limit(OURS, 20)])
    for _ in range(rounds):
        begun = time.monotonic()
        python = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import agents, os; os._exit(0)",
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )
        await python.wait()
        imports = time.monotonic() - begun
        for dialect in field.dialects:
            begun = time.monotonic()
            server = await field.fresh(dialect)
            cold.add(dialect.name, time.monotonic() - begun)
            alone.add(dialect.name, cold.values[dialect.name][-1] - imports)
            try:
                await asyncio.sleep(1)  # somebody opens the page
                costs = [await _turn(server, dialect) for _ in range(3)]
            finally:
                server.stop()
            first.add(dialect.name, costs[0] - costs[2])
    return [cold, alone, first]


async def _turn(server: Server, dialect: Dialect) -> float:
    before = server.cpu()
    await run(server, dialect, Script(20), streams=1, turns=1)
    return 1000 * (server.cpu() - before)


def delays(results: Sequence[Result]) -> list[float]:
    """Return the delays of all frames."""
    return [delay for result in results for delay in result.delays]


def firsts(results: Sequence[Result]) -> list[float]:
    """Return the times to the first text."""
    return [result.first_text for result in results]


def percentile(percent: int, values: Sequence[float]) -> float:
    """Return a percentile."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else median(values)
