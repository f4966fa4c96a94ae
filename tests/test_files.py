"""Files beside the database, in a folder where somebody else may have put something before."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server, opened, prepare

from todochat.auth import demo_secret
from todochat.db import Store
from todochat.engines import StoreError
from todochat.files import open_own
from todochat.settings import BadSetting

pytestmark = pytest.mark.anyio


def mode(path: Path) -> int:
    """Return who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_all_files_are_their_owners_only(make_server: Callable[..., Server]) -> None:
    """Whatever the process's umask is, also those that an earlier version has left open to others."""
    before = os.umask(0)
    try:
        server = make_server(BETTER_AUTH_SECRET="")
    finally:
        os.umask(before)
    server.kill()
    lock = Path(f"{server.database}.lock")
    files = [server.database, lock, Path(f"{server.database}.secret")]
    assert [mode(file) for file in files] == [0o600] * 3
    lock.chmod(0o644)
    server.start()
    assert mode(lock) == 0o600


async def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """It would be made, or locked, where somebody else wants it; what it leads to is left alone."""
    for target in (tmp_path / "theirs", tmp_path / "nothing"):
        if target.name == "theirs":
            target.write_text("theirs")
        (tmp_path / "chat.db.lock").symlink_to(target)
        with pytest.raises(StoreError, match="symbolic link"):
            await Store.open(str(tmp_path / "chat.db"))
        (tmp_path / "chat.db.lock").unlink()
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "nothing").exists()
    async with opened(tmp_path):
        pass


def test_a_secret_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Whoever made the link knows what it leads to."""
    (tmp_path / "known").write_text("x" * 40)
    (tmp_path / "known").chmod(0o600)
    for target in ("known", "nothing"):
        (tmp_path / "chat.db.secret").symlink_to(tmp_path / target)
        with pytest.raises(BadSetting, match="symbolic link"):
            demo_secret(str(tmp_path / "chat.db"))
        (tmp_path / "chat.db.secret").unlink()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files to others")
async def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    """Another user of the machine could read the secret, or hold the lock for ever."""
    for name in ("chat.db.lock", "chat.db.secret"):
        (tmp_path / name).write_text("x" * 40)
        (tmp_path / name).chmod(0o600)
        os.chown(tmp_path / name, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to another user"):
        await Store.open(str(tmp_path / "chat.db"))
    with pytest.raises(BadSetting, match="belongs to another user"):
        demo_secret(str(tmp_path / "chat.db"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Nobody waits for the other end of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        open_own(str(tmp_path / "pipe"), os.O_RDONLY)


def test_a_start_that_is_refused_is_one_line(tmp_path: Path) -> None:
    """It says which file it is."""
    (tmp_path / "chat.db.lock").symlink_to("/etc/passwd")
    server = prepare(tmp_path)
    with pytest.raises(AssertionError, match=r"chat\.db\.lock: it is a symbolic link"):
        server.start()
    assert "Traceback" not in server.log.read_text()
