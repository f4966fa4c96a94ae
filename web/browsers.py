"""What browsers may do: which other pages may call (CORS), by which names we are called, what is kept of an answer.

None of it stops other programs. It keeps a page that a user has open from using what their browser can reach and is
signed in to.
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todochat.settings import Settings

METHODS = ("GET", "POST", "PATCH", "DELETE")
# The first six are our own and those of the component; the others are what browsers' libraries add by themselves.
HEADERS = [
    "Authorization",
    "Content-Type",
    "Accept-Language",
    "Idempotency-Key",
    "If-None-Match",
    "chatkit-frame-instance-id",
    "x-requested-with",
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-trace",
    "last-event-id",
    "mcp-protocol-version",
    "ngrok-skip-browser-warning",
]
EXPOSED = ("X-Thread-Id", "X-Message-Id", "Retry-After", "ETag")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # nobody's page has such a name, but health checks use them


def cors(settings: Settings) -> Middleware:
    """Return the middleware that lets pages of other origins call, as the settings say."""
    return Middleware(
        CORSMiddleware,
        allow_origins=["*"] if "*" in settings.cors_origins else [],
        allow_origin_regex=settings.origin_pattern,
        allow_methods=METHODS,
        allow_headers=[*HEADERS, *settings.cors_headers],
        expose_headers=EXPOSED,
        allow_credentials="*" not in settings.cors_origins,
    )


class Guard:
    """Refuse names that are not ours and what foreign pages send unasked; keep users' data out of caches."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if headers.get("content-type", "").startswith("application/json"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        app = self._app
        if not self._is_our_name(headers.get("host", "")):
            words = "This server does not answer to this host's name: ALLOWED_HOSTS has those that it answers to."
            app = JSONResponse({"detail": words}, 400)
        elif scope["method"] not in ("GET", "HEAD", "OPTIONS") and self._is_foreign(headers):
            words = "Pages of this origin may not do that: CORS_ORIGINS has those that may."
            app = JSONResponse({"detail": words}, 403)
        return await app(scope, receive, send_marked)

    def _is_our_name(self, host: str) -> bool:
        """Whether this is a name of ours, against pages whose own name suddenly leads here (DNS rebinding)."""
        name = re.sub(r":[0-9]*$", "", host).lower()
        allowed = [allowed.lower() for allowed in self._settings.allowed_hosts]
        matches = (name.endswith(own[1:]) if own.startswith("*.") else name == own for own in allowed)
        return not allowed or name in LOOPBACK or any(matches)

    def _is_foreign(self, headers: Headers) -> bool:
        """Whether a page of another origin sends this without asking, as it may what holds no JSON: a Stop, say.

        For JSON it must ask first, and CORS answers. For cookies another port of our host is the same site.
        """
        foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        asks = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        return foreign and not asks and not self._settings.allows_origin(headers.get("origin", ""))
