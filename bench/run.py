"""The benchmark: every server measured in turn, in one run, and one table (see README.md).

python bench/run.py            everything, about ten minutes
python bench/run.py --quick    the most important rows, about one minute
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import alone
import measures
from measures import END_TO_END, IN_PROCESS, PACE, Field
from report import Row, table, verdicts
from script import Script
from servers import CLIENT_CORE, SECRET, Dialect, Server

from todochat import auth

TOKEN = auth.sign(alone.USER, SECRET, lifetime=3600)
OURS = Dialect(measures.OURS, "server_ours.py", token=TOKEN)
OURS_CHATKIT = Dialect(measures.OURS_CHATKIT, "server_ours.py", chatkit=True, token=TOKEN)
OTHERS = [
    Dialect(measures.BYTES, "server_bytes.py"),
    Dialect(measures.BARE, "server_bare.py"),
    Dialect(measures.OFFICIAL, "server_official.py", chatkit=True),
]


async def dialects(folder: Path) -> list[Dialect]:
    """Return the columns; the ChatKit dialect of ours only if it is spoken."""
    server = await Server(OURS.script, folder).ready()
    try:
        spoken = await OURS_CHATKIT.is_spoken(server)
    finally:
        server.stop()
    if not spoken:
        print("Ours does not speak the ChatKit protocol in this version: that column is missing.\n")
    return [*OTHERS[:2], OURS, OTHERS[2], *([OURS_CHATKIT] if spoken else [])]


async def beside_a_model(folder: Path, columns: Sequence[Dialect], quick: bool) -> list[Row]:
    """Measure everything with the model in the process."""
    rows: list[Row] = []
    async with Field(folder, columns).running() as field:
        loads = [IN_PROCESS[n] for n in (0, 1, 5, 6)] if quick else IN_PROCESS
        rows += await measures.cpu(field, "in process", loads, 2 if quick else 3)
        if not quick:
            rows += await measures.delay(field, 1, Script(30, PACE), turns=5)
        turns, rounds = (100, 1) if quick else (300, 3)
        rows += await measures.delay(field, 100, Script(100, PACE), turns=turns, over=0.5, rounds=rounds)
    if not quick:
        crowded = Field(folder, columns)
        rows += await measures.crowd(crowded, 500, Script(85, 1 / 17), 4, [dialect.name for dialect in columns])
        rows += await measures.crowd(crowded, 500, Script(100, PACE), 4, [measures.BARE, measures.OURS])
    rows += await measures.start(Field(folder, columns), 1 if quick else 3)
    return rows


async def end_to_end(folder: Path, columns: Sequence[Dialect], rounds: int) -> list[Row]:
    """Measure with the stock client and a provider in its own process."""
    provider = Server("provider.py", folder)
    try:
        await asyncio.sleep(0.5)
        served = [dialect for dialect in columns if dialect.name != measures.BYTES]
        async with Field(folder, served, provider=provider.port).running() as field:
            return await measures.cpu(field, "end to end", END_TO_END, rounds)
    finally:
        provider.stop()


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table as soon as it is known."""
    print(f"### {title}\n\n{table(rows)}\n", flush=True)


async def bench(quick: bool) -> list[Row]:
    """Run everything and print it; return the rows."""
    with tempfile.TemporaryDirectory(prefix="todochat-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        folder = Path(name)
        columns = await dialects(folder)
        compared = await beside_a_model(folder, columns, quick)
        compared += await end_to_end(folder, columns, 1 if quick else 3)
        show("All servers", compared)
        if quick:
            return compared
        *sizes, whole, page, turn = await alone.growth(folder, OURS, 3)
        show("Ours, by the number of conversations", sizes)
        show("Ours, by the number of messages in the conversation", [whole, page, turn])
        stalled = await alone.stalled(folder, OURS, 400_000)
        show("Ours, four readers that stop reading an answer of 400,000 deltas", stalled)
        written = await alone.disk(folder, OURS)
        show("Ours, what an answer of 1 MB at 5,000 deltas a second writes", written)
        return [*compared, *sizes, whole, page, turn, *stalled, *written]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the most important rows only")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, {CLIENT_CORE})
    begun = time.monotonic()
    print(f"Python {platform.python_version()}, {', '.join(f'{p} {version(p)}' for p in PACKAGES)}\n")
    rows = asyncio.run(bench(quick))
    print("### Limits\n\n" + "\n".join(f"- {line}" for line in verdicts(rows)))
    print(f"\n{time.monotonic() - begun:.0f} seconds, load {os.getloadavg()[0]:.1f} at the end.")


PACKAGES = ("openai-agents", "openai", "openai-chatkit", "starlette", "fastapi", "uvicorn")


if __name__ == "__main__":
    main()
