"""The command line, and the server process.

python app.py                  start the service (see README.md for the settings)
python app.py token NAME       print a token for NAME, for curl
python app.py backup FILE      copy the database to a new file, also while the service runs
python app.py copy FROM TO     copy everything from sqlite:///path to an empty postgresql://...
"""

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from agents import RunConfig
from starlette.applications import Starlette

from todochat import auth
from todochat.agent import TurnOptions, stream_turn, todo_agent
from todochat.app import Service, create_app
from todochat.auth.keys import MIN_SECRET
from todochat.connections import BATCH, Connections, Guarded, raise_descriptor_limit
from todochat.db import Store
from todochat.dialects.sse import STALL
from todochat.engines import POSTGRES, StoreError
from todochat.engines.sqlite import backup
from todochat.events import Message, fold
from todochat.logs import Sparing, configure
from todochat.models import BadModel
from todochat.models.offline import OfflineModel
from todochat.models.streams import build_event_types
from todochat.settings import LOCAL_ORIGINS, BadSetting, Settings
from todochat.store.copying import copy

log = logging.getLogger("todochat")

BACKLOG = 2048  # connections that the system keeps until they are accepted
# Seconds. Beside a loop that is never idle a thread of the database would wait for the interpreter for seconds: the
# loop lets go of it at each look for news, and has it again before the thread is awake. Python's 5 ms never pass.
SWITCH_INTERVAL = 0.00005
MAX_SHUTDOWN = 4.5  # seconds from the first signal on
TOKEN_LIFETIME = 30 * 24 * 3600  # seconds
LINK_LIFETIME = 24 * 3600  # seconds: it ends in the history of terminals and browsers


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code: 2 for a setting that cannot be used."""
    try:
        settings = Settings.from_env(os.environ, cors_origins=LOCAL_ORIGINS)
        configure(settings.log_level, settings.log_format)
        match arguments:
            case []:
                asyncio.run(serve(settings))
            case ["token", name]:
                print(auth.token_for(name, settings, TOKEN_LIFETIME))
            case ["backup", _] if settings.database.startswith(POSTGRES):
                raise StoreError("This copies a file of SQLite's. For PostgreSQL use pg_dump.")
            case ["backup", file]:
                backup(settings.database, file)
            case ["copy", source, target]:
                counts = asyncio.run(copy(source, target))
                print(f"Copied {', '.join(f'{count} {table}' for table, count in counts.items())}.")
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (BadSetting, BadModel, StoreError) as error:
        print(f"todochat: {error}", file=sys.stderr)
        return 2
    return 0


async def serve(settings: Settings, **options: Any) -> None:
    """Run the service until a signal ends it; `options` are those of `create_app`."""
    if settings.is_demo and not settings.is_loopback:
        raise BadSetting(
            f"HOST is {settings.host}, which others can reach: set JWT_JWKS_URL, JWT_PUBLIC_KEY or BETTER_AUTH_SECRET, "
            f"which is a secret of at least {MIN_SECRET} bytes, for example the output of: openssl rand -hex 32"
        )
    if settings.is_demo and not settings.allowed_hosts:  # a foreign page could have its name lead here (DNS rebinding)
        settings = replace(settings, allowed_hosts=("localhost",))
    sys.setswitchinterval(SWITCH_INTERVAL)
    connections = Connections(raise_descriptor_limit(), settings.max_connections_per_address, settings.trusted_proxies)
    with listen(settings.host, settings.port) as listener:
        store = await Store.open(settings.database)
        try:
            app = create_app(store=store, settings=settings, **options)
            app.state.metrics.watch("connections", "Open connections.", lambda: connections.count)
            app.state.metrics.watch("connections_closed", "Those closed by a limit.", lambda: connections.refused)
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"http://{host}:{listener.getsockname()[1]}"
            greeting = _link(url, settings) if settings.is_demo else f"Serving on {url}"
            await Server(app, greeting, connections).serve([listener])
        finally:
            await store.close()


def _link(url: str, settings: Settings) -> str:
    return f"Sign in: {url}/#token={auth.token_for('demo', settings, LINK_LIFETIME)}"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is any free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: also let go of the connection of a reader that was dropped
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * STALL))
        # asyncio switches Nagle's algorithm off only for sockets that name their protocol, and create_server's do not:
        # with it, small frames and answers would wait 40 ms for the client's acknowledgement.
        return socket.socket(proto=socket.IPPROTO_TCP, fileno=listener.detach())
    except OSError as error:
        raise BadSetting(f"Cannot listen on {host} port {port} ({error.strerror}): set HOST and PORT.") from error


class Server(uvicorn.Server):
    """uvicorn, which by itself waits for open streams before it tells the app to shut down."""

    def __init__(self, app: Starlette, greeting: str, connections: Connections) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, partial(Guarded, connections)),  # uvicorn calls it, and asks no more of it
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                backlog=BATCH,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(Sparing().filter)  # it has a line for each request that is none
        self._app = app
        self._greeting = greeting
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # uvicorn has set it to what asyncio accepts at a time
        if self.started:
            print(self._greeting, flush=True)
            self._warming = asyncio.create_task(asyncio.to_thread(warm_up))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal end the live answers at once; on the second, the process."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True
        last_resort = threading.Timer(MAX_SHUTDOWN, self._give_up)  # for a host's tool that does not let go, say
        last_resort.daemon = True
        last_resort.start()
        self._loop.call_soon_threadsafe(self._end_runs)

    def _give_up(self) -> None:
        log.error("the shutdown takes too long: it ends here, and the next start marks what was not stored")
        os._exit(1)

    def _end_runs(self) -> None:
        service = getattr(self._app.state, "service", None)
        if isinstance(service, Service):
            self._ending = asyncio.ensure_future(service.runs.close())


def warm_up() -> None:
    """Take a turn with the offline model before the first user does, and then relieve the garbage collector.

    The first turn of a process costs 0.15 s more than the others: the `openai` types are built on first use. And a full
    collection of all that is loaded would halt every stream for 0.1 s, so that is taken out of the collector's sight.
    """
    asyncio.run(_take_turn())
    build_event_types()
    gc.freeze()
    gc.set_threshold(20_000, 5)  # a turn leaves no garbage: Python's 700 would look through the live ones all the time


async def _take_turn() -> None:
    body = fold([{"type": "text", "content": "help"}])
    question: Message = {**body, "id": 0, "role": "user", "status": "done", "feedback": None, "created_at": ""}
    agent, options = todo_agent(OfflineModel(pace=0)), TurnOptions(RunConfig(tracing_disabled=True))
    async for _ in stream_turn(agent, [question], None, options):
        pass
