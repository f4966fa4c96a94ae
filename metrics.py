"""Figures for Prometheus, for whoever has METRICS_TOKEN. They name no user, and nothing that was said."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from todochat.events import Status
from todochat.logs import Sparing, TurnLog

LOOK_EVERY = 0.25  # seconds between two looks at the event loop
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # the buckets of what models need


class Metrics:
    """The figures of one app."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._log = Sparing()
        self._watched: dict[str, Gauge] = {}
        self._turns = Counter("todochat_turns", "Answers that have ended, by how.", ["ending"], registry=registry)
        self._tokens = Counter("todochat_tokens", "Tokens of answers.", ["direction"], registry=registry)
        self._first_text = Histogram(
            "todochat_first_text_seconds", "From a message to the first text.", buckets=SECONDS, registry=registry
        )
        self._refused = Counter("todochat_errors", "Requests answered with an error.", ["kind"], registry=registry)
        self._lag = Gauge("todochat_event_loop_lag_seconds", "The longest of the last minute.", registry=registry)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Show a figure that is asked for when it is shown."""
        if name not in self._watched:  # an app can be started again
            self._watched[name] = Gauge(f"todochat_{name}", help_text, registry=self._registry)
        self._watched[name].set_function(value)

    def turn_ended(self, turn: TurnLog, ending: Status) -> None:
        """Count an answer that has ended."""
        self._turns.labels(ending).inc()
        if turn.first_text_after is not None:
            self._first_text.observe(turn.first_text_after)
        for direction, tokens in zip(("input", "output"), turn.tokens or (0, 0), strict=True):
            self._tokens.labels(direction).inc(tokens)

    def refused(self, kind: str) -> None:
        """Count a request that is answered with an error, and log what it is for, but not each time."""
        self._refused.labels(kind).inc()
        if kind not in ("HTTPException", "NotFound"):  # a client's mistakes, and a token's, which auth/ logs
            self._log.note(logging.INFO, "a request was refused", kind)

    @asynccontextmanager
    async def measuring_lag(self) -> AsyncIterator[None]:
        """Measure, until the block ends, how late the event loop is."""
        task = asyncio.create_task(self._measure_lag())
        try:
            yield
        finally:
            task.cancel()

    async def _measure_lag(self) -> None:
        worst, since = 0.0, time.monotonic()
        while True:
            due = time.monotonic() + LOOK_EVERY
            await asyncio.sleep(LOOK_EVERY)
            worst = max(worst, time.monotonic() - due)
            self._lag.set(worst)
            if time.monotonic() - since > 60:
                worst, since = 0.0, time.monotonic()

    def answer(self, request: Request, token: str | None) -> Response:
        """Return the figures in Prometheus' format, or answer 401, as always if there is no token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is None or not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "METRICS_TOKEN is needed as a bearer token.", {"WWW-Authenticate": "Bearer"})
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
