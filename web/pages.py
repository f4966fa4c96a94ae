"""What a browser loads: the page, the page of OpenAI's component, their files, and the description of the API."""

import json
import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent.with_name("static")
OPENAPI = Path(__file__).parent.with_name("openapi.json")
# A browser asks each time whether a file has changed.
HEADERS = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
HEADERS |= {"Cross-Origin-Opener-Policy": "same-origin"}  # who opened the page holds nothing of it


def routes(service_of: Callable[[Request], object], parts: Collection[str]) -> list[BaseRoute]:
    """Return the routes of those of the pages that are wanted, and of their files.

    `service_of` is called for each page, and raises if the app does not run: a page that loads all the same, and then
    gets no answer to anything, might not say why.
    """

    def page(name: str, *other_hosts: str) -> Callable[[Request], Awaitable[Response]]:
        headers = HEADERS | {"Content-Security-Policy": content_security_policy(*other_hosts)}

        async def show(request: Request) -> Response:
            service_of(request)
            return FileResponse(STATIC / name, headers=headers)

        return show

    chosen: list[BaseRoute] = []
    if "page" in parts:
        chosen += [Route("/", page("index.html"))]
    if "component" in parts:
        chosen += [
            Route("/component", page("component.html", "https://cdn.platform.openai.com")),
            Route("/component/", RedirectResponse("../component")),  # its links are relative, so it has one address
        ]
    return chosen + ([Mount("/static", Static(directory=STATIC))] if chosen else [])


def content_security_policy(*other_hosts: str) -> str:
    """Return the policy of a page that runs its own scripts and talks to its own server, and to the other hosts."""
    hosts = " ".join(["'self'", *other_hosts])
    policy = (
        f"default-src 'none'; script-src {hosts}; connect-src {hosts}; style-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return policy + (f"; frame-src {' '.join(other_hosts)}" if other_hosts else "")


class Static(StaticFiles):
    """The pages' files, with the headers that all of them have."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the response for one file."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def description(request: Request, *, takes_tokens: bool) -> Response:
    """Return the description of the REST API and the simple dialect: of what is served here, at the address it has.

    `takes_tokens` is whether users come with bearer tokens; what else a host lets them in by is not known here.
    """
    where, made = getattr(request.app.state, "description", ("", None))
    if made is None or where != request.scope.get("root_path"):  # made once: anybody may ask for it, again and again
        made = _describe(request, takes_tokens)
        request.app.state.description = request.scope.get("root_path"), made
    return Response(made, media_type="application/json")


def _describe(request: Request, takes_tokens: bool) -> bytes:
    described = json.loads(OPENAPI.read_text())
    served = {getattr(route, "path", "") for route in request.app.routes}
    here = {
        "servers": [{"url": request.scope.get("root_path") or "/"}],
        "paths": {path: methods for path, methods in described["paths"].items() if path in served},
        "security": described["security"] if takes_tokens else [],
    }
    return bytes(JSONResponse(described | here).body)
