"""The servers as processes of their own: how each is started, what it is asked, what it has used so far."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import Stream, fetch, free_port, request

BENCH = Path(__file__).parent
SECRET = "a secret for the benchmark, of more than 32 bytes"
PAGE = os.sysconf("SC_PAGE_SIZE")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]  # so that the load does not take the server's time
QUIET = dict.fromkeys(("OPENAI_API_KEY", "GEMINI_API_KEY", "MODEL", "OPENAI_BASE_URL"), "")


class Server:
    """A server process on one core. `database` is a file, or the URL of a database on a server."""

    def __init__(
        self, script: str, folder: Path, *, provider: int | None = None, database: Path | str | None = None
    ) -> None:
        self.port = free_port()
        database = database or folder / f"{self.port}.db"
        env = {name: value for name, value in os.environ.items() if name not in QUIET}
        if Path(script).name == "server_ours.py":
            env |= {
                "PORT": str(self.port),
                "DATABASE_URL": database if isinstance(database, str) else f"sqlite:///{database}",
            }
            env |= {"BETTER_AUTH_SECRET": SECRET, "MAX_LIVE": "10000", "MAX_LIVE_PER_USER": "10000"}
            env |= {"TURNS_PER_MINUTE": "1000000", "MAX_CONVERSATIONS": "20000", "MAX_STORED_MB": "100000"}
            env |= {"MAX_ANSWER": "10000000"}
            env |= {"LOG_LEVEL": "WARNING"}
        if provider is not None:
            url = f"http://127.0.0.1:{provider}/v1"
            env |= {"BENCH_PROVIDER": url, "OPENAI_BASE_URL": url, "OPENAI_MODEL": "scripted", "OPENAI_API_KEY": "none"}
        core = CLIENT_CORE if script == "provider.py" else SERVER_CORE
        self._process = subprocess.Popen(
            [sys.executable, str(BENCH / script), str(self.port), str(database)],
            env=env,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.pid = self._process.pid

    async def ready(self) -> "Server":
        """Wait until it answers; a server that does not speak HTTP to strangers is ready when it listens."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if (await fetch(self.port, request("/health"))).pieces:
                    return self
            except OSError:
                await asyncio.sleep(0.005)
        self.stop()
        raise RuntimeError(f"{self._process.args!r} did not start")

    def cpu(self) -> float:
        """Return the CPU time that it has used, user and system, in seconds.

        The kernel's clock of another process (see clock_getcpuclockid(3)): what /proc/PID/stat has in ticks of 10 ms.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def waited(self) -> float:
        """Return for how long its main thread was ready and its core was not free, in seconds: the machine's noise."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def highest_memory(self) -> int:
        """Return the most resident memory that it has had, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    def written(self) -> int:
        """Return how many bytes it has caused to be written to disk."""
        counters = Path(f"/proc/{self.pid}/io").read_text()
        return int(counters.split("\nwrite_bytes: ")[1].split()[0])

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@dataclass(frozen=True)
class Dialect:
    """A column of the table: a server and what is spoken with it."""

    name: str
    script: str
    chatkit: bool = False
    token: str | None = None

    def body(self, message: str, thread: int | None = None) -> dict[str, Any]:
        """Return the body that asks for an answer."""
        if not self.chatkit:
            return {"message": message} | ({"thread_id": thread} if thread else {})
        content = [{"type": "input_text", "text": message}]
        return {
            "type": "threads.create",
            "params": {"input": {"content": content, "attachments": [], "inference_options": {}}},
        }

    async def is_spoken(self, server: Server) -> bool:
        """Return whether the server knows the dialect."""
        answer: Stream = await fetch(server.port, request("/chatkit", self.body("1 0 1 0"), self.token))
        return b"".join(data for _, data in answer.pieces).startswith(b"HTTP/1.1 200")
