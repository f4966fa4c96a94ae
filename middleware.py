"""ASGI middleware of the app: the path under which it is reached, and an answer to mistakes of ours."""

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from todochat.settings import Settings


def middleware(settings: Settings, prefix: str) -> list[Middleware]:
    """Return what stands before the routes, the outermost first."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "chatkit-frame-instance-id"],
        expose_headers=["X-Thread-Id", "X-Message-Id", "Retry-After"],
        allow_credentials="*" not in settings.cors_origins,
    )
    return [Middleware(Prefixed, prefix=prefix), cors, Middleware(ErrorResponder)]


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


class ErrorResponder:
    """Answer an unexpected exception with a plain 500, then raise it again for the server's log.

    Starlette does that too, but without the CORS headers: for a page elsewhere it would look like a dead network.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if scope["type"] == "http" and not has_begun:
                await JSONResponse({"detail": "Something went wrong on the server."}, 500)(scope, receive, send)
            raise
