"""ASGI middleware of the app: the path under which it is reached, and answers to errors."""

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from todochat.db import Conflict, NotFound, ServerFull
from todochat.engines import Unavailable
from todochat.settings import Settings
from todochat.shares import Full, TooMany
from todochat.web import browsers


def middleware(settings: Settings, prefix: str) -> list[Middleware]:
    """Return what stands before the routes, the outermost first."""
    # Starlette has its own of the last one, but before these: without the CORS headers, which the answer to a mistake
    # needs too, or for a page elsewhere it would look like a dead network.
    return [
        Middleware(Prefixed, prefix=prefix),
        browsers.cors(settings),
        Middleware(browsers.Guard, settings=settings),
        Middleware(ServerErrorMiddleware, handler=went_wrong),
    ]


async def went_wrong(request: Request, error: Exception) -> Response:
    """Answer an unexpected exception with a plain 500; it is raised again for the server's log."""
    request.app.state.metrics.refused("mistake")
    return JSONResponse({"detail": "Something went wrong on the server."}, 500)


EXPECTED = (HTTPException, NotFound, Conflict, Full, TooMany, ServerFull, Unavailable)


async def refuse(request: Request, error: Exception) -> Response:
    """Answer any of the expected errors as JSON: `{"detail": "..."}`."""
    request.app.state.metrics.refused(type(error).__name__)  # which tells the log too
    match error:
        case HTTPException():
            return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
        case NotFound():
            return JSONResponse({"detail": str(error)}, 404)
        case Conflict() | Full():
            return JSONResponse({"detail": str(error)}, 409)
        case TooMany(retry_after=seconds):
            return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(seconds)})
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})  # ServerFull, Unavailable


class Prefixed:
    """Tell an app that is not mounted under which path it is reached (`root_path`)."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._prefix and not scope.get("root_path"):
            path = scope["path"]
            if path == self._prefix:  # the page's links are relative
                await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
                return
            stripped = not path.startswith(f"{self._prefix}/")  # by the proxy, but nested routes count on it
            scope = {**scope, "root_path": self._prefix, "path": self._prefix + path if stripped else path}
        await self._app(scope, receive, send)
