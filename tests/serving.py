"""A real server process that starts in a moment: forked from a process that has imported everything already.

What it runs is what `python app.py` runs, or any other script of that kind, from its first line on. Only the imports
were made before, which is most of what a start takes.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from clients import SECRET, Client
from postgres import look

ROOT = Path(__file__).parent.parent
PATIENCE = 60  # seconds until a test gives up; nothing is slow because of it
SOON = 30  # seconds: what may take a few here, on a machine that is busy, and without what is tested a minute or more
SETTINGS = """
    MODEL GEMINI_API_KEY GEMINI_MODEL GEMINI_BASE_URL OPENAI_API_KEY OPENAI_BASE_URL OPENAI_MODEL OPENAI_API HOST PORT
    DATABASE_URL BETTER_AUTH_SECRET JWT_ALGORITHM JWT_PUBLIC_KEY JWT_JWKS_URL JWT_ISSUER
    JWT_AUDIENCE JWT_USER_CLAIM ALLOWED_HOSTS CORS_ORIGINS CORS_HEADERS HISTORY_LIMIT
    LOG_LEVEL MODEL_IDLE_TIMEOUT TOOL_TIMEOUT MAX_TURNS MAX_LIVE MAX_LIVE_PER_USER
    MAX_ANSWER MAX_TOOL_CALLS MAX_TURN_SECONDS
    MAX_CONNECTIONS_PER_ADDRESS TRUSTED_PROXIES
    LOG_FORMAT METRICS_TOKEN
    TURNS_PER_MINUTE MAX_TASKS MAX_CONVERSATIONS MAX_STORED_MB MAX_TOKENS_PER_DAY
    OPENAI_REASONING HISTORY_CHARS MODEL_START_TIMEOUT
""".split()  # noqa: SIM905

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preloaded"])
# Python 3.11's fork server does not look for modules where this process does.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def environment(**settings: Any) -> dict[str, str]:
    """Return this process's environment with these settings of the service, and none that it has by chance."""
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return env | {name: str(value) for name, value in settings.items()}


def missing(what: str) -> None:
    """Skip a test whose tool is not installed; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (in CI this is a failure)")
    pytest.skip(what)


class Process(ForkServerProcess):
    """A script in a process of its own, with its output in a file. Ended with the tests, whatever happens."""

    def __init__(
        self, script: Path, env: dict[str, str], log: Path, *arguments: str, folder: Path | None = None
    ) -> None:
        super().__init__(daemon=True)
        self._command, self._env_of_it, self._log = [str(script), *arguments], env, log
        self._folder = folder or log.parent  # where it runs

    def run(self) -> None:
        """Be that script: called in the new process."""
        with self._log.open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ.clear()
        os.environ.update(self._env_of_it)
        os.chdir(self._folder)
        sys.argv = self._command
        runpy.run_path(sys.argv[0], run_name="__main__")

    def send_signal(self, sig: int) -> None:
        """Send it a signal, by its own pid."""
        assert self.pid is not None
        os.kill(self.pid, sig)

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.exitcode

    def wait(self, seconds: float) -> int:
        """Wait for its end; return the exit code."""
        self.join(seconds)
        assert self.exitcode is not None, f"the process has not ended within {seconds} seconds"
        return self.exitcode


def run_app(folder: Path, *arguments: str, **settings: Any) -> tuple[int, str]:
    """Run `python app.py` in a folder to its end; return its exit code and what it printed, errors included."""
    with tempfile.TemporaryDirectory() as elsewhere:
        log = Path(elsewhere) / "log.txt"
        process = Process(ROOT / "app.py", environment(**settings), log, *arguments, folder=folder)
        process.start()
        return process.wait(PATIENCE), log.read_text()


class Server:
    """A server on 127.0.0.1, in a process of its own and on a file of its own; on the same port after each restart."""

    def __init__(self, folder: Path, script: str = "app.py", **settings: Any) -> None:
        self.folder = folder
        self.database = folder / "chat.db"
        self.log = folder / "log.txt"
        self.env = environment(
            # Tests ask more in a minute than people do; test_shares.py has what the limit does.
            **{"PORT": 0, "DATABASE_URL": f"sqlite:///{self.database}", "BETTER_AUTH_SECRET": SECRET}
            | {"TURNS_PER_MINUTE": 1_000_000}
            | settings
        )
        self.process: Process | None = None
        self.url = ""
        self._script = ROOT / script

    @property
    def port(self) -> int:
        """Return the port that it has, or had before it ended."""
        return int(self.env["PORT"])

    def start(self, wait: float = PATIENCE) -> "Server":
        """Start it and wait until it says where it serves, for so many seconds at most."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        self.process = Process(self._script, self.env, self.log)
        self.process.start()
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and self.process.is_alive():
            self.process.join(0.01)
            for line in self.log.read_bytes()[begin:].splitlines() if self.log.exists() else []:
                if b"http://" in line and line.startswith((b"Serving", b"Sign in")):
                    self.url = "http://" + line.decode().split("http://")[1].split("/")[0]
                    self.env["PORT"] = self.url.rsplit(":", 1)[1]
                    return self
        raise AssertionError(f"the server did not start:\n{self.log.read_text() if self.log.exists() else ''}")

    def client(self, user: str = "alice", **options: Any) -> Client:
        """Return a client for one user; options are those of `httpx.Client`."""
        return Client(self.url, user, **options)

    def kill(self, sig: int = signal.SIGKILL, wait: float = PATIENCE) -> float:
        """Send a signal and wait for the end; return how long that took, in seconds."""
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(sig)
        self.process.wait(wait)
        return time.monotonic() - begun

    def close(self) -> None:
        """End it, by its own pid."""
        if self.process is not None and self.process.is_alive():
            self.kill()

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """Look into the database beside the server."""
        return look(self.env["DATABASE_URL"].removeprefix("sqlite:///"), sql, *parameters)
