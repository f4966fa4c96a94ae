"""Moving from a SQLite file to PostgreSQL: `python app.py copy`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Server
from postgres import PASSWORD
from serving import run_app

from todochat.db import Limits, Progress, Store, TurnRequest
from todochat.events import Event, fold
from todochat.store import copying

pytestmark = pytest.mark.anyio

TEXT: Event = {"type": "text", "content": "One."}
RESULT: Event = {"type": "tool_result", "id": "1", "name": "add_task", "result": "x"}
BOTH = pytest.mark.parametrize("database", ["postgres", "pgbouncer"], indirect=True)
DIRECT = pytest.mark.parametrize("database", ["postgres"], indirect=True)


def copy_to(url: str, file: Path) -> tuple[int, str]:
    """Run the command that copies a file to a database on a server; return its exit code and what it said."""
    return run_app(file.parent, "copy", f"sqlite:///{file}", url)


async def fill(file: Path) -> None:
    """Make a database with one of each thing that there can be, and many of some."""
    store = await Store.open(str(file))
    for n in range(130):
        await store.add_task("alice", f"task {n}", None if n % 2 else "has a \0 in it")
    for n in (3, 130):
        await store.delete_task("alice", n)
    await store.update_task("alice", 7, completed=True)
    for n in range(3):
        turn = await store.begin_turn(
            TurnRequest("bob", "\u00e9\U0001f600", title="t", key=f"k{n}", digest="d"), Limits()
        )
        events: list[Event] = [TEXT, RESULT, {"type": "thinking", "content": "hm"}]
        if n < 2:
            await store.finish_answer(Progress(turn.answer["id"], 0, events), "done", fold(events), (3, 4))
        else:  # as a crash leaves it
            await store.save_progress(lambda turn=turn, events=events: [Progress(turn.answer["id"], 0, events)])
    await store.delete_conversation("bob", 1)
    await store.close()


@BOTH
async def test_a_file_is_copied_to_a_server(database: str, tmp_path: Path) -> None:
    """Everything is there afterwards, as it was, and ids go on where they were; a second copy is refused."""
    await fill(tmp_path / "chat.db")
    copied = "Copied 2 conversations, 4 messages, 3 idempotency_keys, 128 tasks, 1 token_counts.\n"
    assert copy_to(database, tmp_path / "chat.db") == (0, copied)
    old, new = await Store.open(str(tmp_path / "chat.db")), await Store.open(database)
    try:
        for n in (2, 3):
            assert await new.get_conversation("bob", n) == await old.get_conversation("bob", n) is not None
        wanted = [
            task | {"description": task["description"] and "has a \ufffd in it"}
            for task in await old.list_tasks("alice")
        ]
        assert await new.list_tasks("alice") == wanted
        assert (await new.add_task("alice", "next"))["id"] == 131
        again = await new.begin_turn(TurnRequest("bob", "x", key="k1", digest="d"), Limits())
        assert again.earlier
    finally:
        await old.close()
        await new.close()
    code, said = copy_to(database, tmp_path / "chat.db")
    assert (code, "not empty" in said) == (2, True)


def test_the_tables_to_copy_are_those_that_there_are() -> None:
    """Whoever adds a table is told to have it copied too."""
    tables = set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", (ROOT / "schema.sql").read_text()))
    assert set(copying.TABLES) | {"live_events"} == tables
    booleans = re.findall(r"(\w+) +BOOLEAN", (ROOT / "engines" / "postgres.sql").read_text())
    assert set(booleans) == copying.BOOLEANS


@DIRECT
def test_what_cannot_be_copied_is_said_in_a_line(
    database: str, tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    """A file that is not there, or that a server uses, and the wrong direction; the target stays empty."""
    missing_file = copy_to(database, tmp_path / "none.db")
    server = make_server(script="tests/unpaced.py")
    in_use = copy_to(database, server.database)
    to_a_file = copy_to("sqlite:///other.db", server.database)
    for (code, said), says in ((missing_file, "no database"), (in_use, "in use"), (to_a_file, "postgresql://")):
        [line_] = said.splitlines()
        assert (code, says in line_, PASSWORD in line_) == (2, True, False)
    assert not (tmp_path / "none.db").exists()
