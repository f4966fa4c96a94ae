"""The app: handlers, `create_app()`, and `main()` for the command line.

python app.py                  start the service (see README.md for the settings)
python app.py token NAME       print a token for NAME, for curl
python app.py backup FILE      copy the database to a new file, also while the service runs
"""

import asyncio
import gc
import inspect
import json
import logging
import os
import re
import secrets
import socket
import stat
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn
from agents import Agent, Model, RawResponsesStreamEvent, RunConfig
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FLAT = not __package__
if not FLAT:  # the installed package `todochat`, in a process that may have an `agent` and a `db` of its own ...
    from . import agent as todo
    from . import auth, component, db, inputs, mcp_tools, models, offline, runs, wire
    from . import settings as config
else:  # ... or a flat folder of modules, which is what mypy is told to take it for here (see pyproject.toml)
    import agent as todo
    import auth
    import component
    import db
    import inputs
    import mcp_tools
    import models
    import offline
    import runs
    import settings as config
    import wire

log = logging.getLogger("todochat")

MAX_PAGE = 200  # conversations
TITLE_FROM_MESSAGE = 50  # characters
MAX_SHUTDOWN = 4.5  # seconds from the first signal on
STATIC = Path(__file__).with_name("static")
OPENAPI = Path(__file__).with_name("openapi.json")
HARDENED = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

Authenticate = Callable[[Request], Awaitable[str | None]]
AgentOrFactory = Agent[Any] | Callable[[str], Agent[Any] | Awaitable[Agent[Any]]]
ContextFactory = Callable[[todo.TurnContext], Any]
Part = Literal["tasks", "page", "mcp"]
PARTS: tuple[Part, ...] = ("tasks", "page", "mcp")


@dataclass(frozen=True)
class Service:
    """What the handlers work with; `app.state.service` while the app runs."""

    store: db.Store
    tasks: todo.Tasks
    live: runs.Runs
    agent: AgentOrFactory
    context: ContextFactory
    authenticate: Authenticate
    takes_tokens: bool  # or has the host an `authenticate` of its own
    run_config: RunConfig
    model_name: str
    settings: config.Settings
    mcp: ASGIApp

    async def stream(self, run: runs.Run, turn: db.Turn) -> AsyncGenerator[runs.Event, None]:
        """Return the events of one turn as the agent makes them."""

        def on_usage(input_tokens: int, output_tokens: int) -> None:
            run.tokens = input_tokens, output_tokens

        # The SDK's objects hold each other, and so the context, until the garbage collector comes: not the answer too.
        mortal = weakref.proxy(run)

        async def record(call_id: str, work: Callable[[], Awaitable[Any]], as_json: Callable[[Any], Any]) -> Any:
            return await mortal.record(call_id, work, as_json, elsewhere=self.tasks is not self.store)

        async def publish_result(event: dict[str, Any]) -> None:
            await mortal.publish_result(event)

        agent = self.agent if isinstance(self.agent, Agent) else await _awaited(self.agent(run.user_id))
        if not isinstance(agent, Agent):
            raise TypeError("The agent function must return an agents.Agent.")
        return todo.stream_turn(
            copy(agent),  # openai-agents 0.24 compares an agent's tools with those in each run that it is in
            turn.history,
            await _awaited(self.context(todo.TurnContext(run.user_id, self.tasks, record))),
            thread_id=run.conversation_id,
            run_config=self.run_config,
            max_turns=self.settings.max_turns,
            idle_timeout=self.settings.model_idle_timeout,
            tool_timeout=self.settings.tool_timeout,
            on_usage=on_usage,
            hooks=todo.ToolHooks(lambda call_id: mortal.own.add(call_id), publish_result),
            queue=runs.Relay(at_once=RawResponsesStreamEvent),
        )


async def _awaited(value: Any) -> Any:
    """Return what a function of the host's returned, which may be an async one."""
    return await value if inspect.isawaitable(value) else value


# ---- requests ----


def service_of(request: Request) -> Service:
    """Return the running service, or say what the host forgot."""
    service = getattr(request.app.state, "service", None)
    if not isinstance(service, Service):
        raise HTTPException(
            500,
            "The chat app was mounted, but its lifespan was not run. In your own lifespan add: "
            "`async with chat.router.lifespan_context(chat):` and below it `yield`.",
        )
    return service


async def user_of(request: Request) -> str:
    """Return the id of the user who asks, or answer 401."""
    user_id = await service_of(request).authenticate(request)
    if not user_id:  # an empty id would be shared by all who have none
        raise HTTPException(401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"})
    if not isinstance(user_id, str):
        raise TypeError("authenticate() must return the user's id as a str, or None.")
    return user_id


def found(thing: Any) -> Any:
    """Return what was looked up, or answer 404: the same for what is not there and for what is somebody else's."""
    if not thing:
        raise HTTPException(404, "Not found.")
    return thing


# ---- handlers: chat ----


async def chatkit(request: Request) -> Response | wire.EventStream:
    """POST /chatkit: take a message, stream the answer."""
    service, user_id = service_of(request), await user_of(request)
    body = await inputs.body_of(request)
    if "type" in body:
        return await chatkit_protocol(request, service, user_id, body)
    inputs.fields(body, "message", "thread_id", "on_disconnect", "timezone")
    message = inputs.text_in(body, "message", inputs.MAX_MESSAGE, too_long=413)
    inputs.timezone_in(body)
    on_disconnect = body.get("on_disconnect", "continue")
    if on_disconnect not in ("continue", "stop"):
        raise HTTPException(400, 'on_disconnect must be "continue" or "stop".')
    thread = inputs.thread_in(body)
    begin_turn = partial(service.store.begin_turn, message=message, title=title_of(message), conversation_id=thread)
    said = body | {"thread_id": thread, "on_disconnect": on_disconnect}  # however it was spelt
    turn, run = await begin(request, service, user_id, said, begin_turn, thread)
    stop = stop_when_left(service.live, run) if on_disconnect == "stop" else None
    return event_stream(turn.answer, run, on_disconnect=stop)


async def chatkit_protocol(
    request: Request, service: Service, user_id: str, body: Mapping[str, Any]
) -> Response | wire.EventStream:
    """POST /chatkit with a `type`: the protocol of the <openai-chatkit> component. A disconnect is its Stop button."""
    kind, params = component.request_in(body)
    if kind not in component.STREAMING:
        end_run = partial(service.live.stop, ending="stopped", sentence=runs.DELETED)
        reply = await component.reply(kind, params, service.store, user_id, end_run)
        return Response(json.dumps(reply), media_type="application/json")
    thread = None if kind == "threads.create" else component.id_in(params, "thread_id")
    if kind == "threads.retry_after_item":
        message_id = component.id_in(params, "item_id")
        begin_turn = partial(
            service.store.retry_turn, conversation_id=component.id_in(params, "thread_id"), message_id=message_id
        )
    else:
        text, message = component.message_in(params)
        begin_turn = partial(
            service.store.begin_turn,
            message=inputs.text_in({"input": message}, "input", inputs.MAX_MESSAGE, too_long=413),
            title=title_of(text) if thread is None else None,
            conversation_id=thread,
        )
    turn, run = await begin(request, service, user_id, body, begin_turn, thread)
    answer = turn.answer
    return wire.EventStream(
        component.frames(
            component.opening(kind, turn.conversation, turn.history[-1]),
            component.Scribe(answer.conversation_id, answer.id, answer.created_at),
            component.replay(answer) if run is None else run.follow(),
        ),
        names_of(answer),
        stop_when_left(service.live, run),
    )


def title_of(message: str) -> str:
    """Return the title of a conversation that begins with this message."""
    message = message.strip()
    return message if len(message) <= TITLE_FROM_MESSAGE else message[:TITLE_FROM_MESSAGE] + "..."


async def begin(
    request: Request,
    service: Service,
    user_id: str,
    body: Mapping[str, Any],
    begin_turn: Callable[..., Awaitable[db.Turn]],
    conversation_id: int | None,
) -> tuple[db.Turn, runs.Run | None]:
    """Store a turn with `begin_turn` and start its run, within the limits, and once for each idempotency key."""
    limited = partial(
        begin_turn,
        user_id,
        history_limit=service.settings.history_limit,
        max_live=service.settings.max_live,
        max_live_per_user=service.settings.max_live_per_user,
        key=inputs.key_of(request),
        request=inputs.digest_of(body),
    )
    start = partial(service.live.begin, limited, service.stream, user_id=user_id, model=service.model_name)
    try:
        return await start()
    except db.Busy:
        # Who has just stopped the last answer, by closing the connection, cannot know when that is done.
        if conversation_id is None or not await service.live.wait_for_stop(conversation_id):
            raise
        return await start()


def stop_when_left(live: runs.Runs, run: runs.Run | None) -> Callable[[], Awaitable[None]] | None:
    """Return what a response does when its reader goes away: the last of a run's readers who do this stops it.

    There are several when a request was sent again with its idempotency key.
    """
    if run is None:
        return None
    run.keepers += 1

    async def leave() -> None:
        run.keepers -= 1
        if not run.keepers and live.get(run.conversation_id) is run:  # and not one that has begun there since
            await live.stop(run.conversation_id, "stopped")

    return leave


def event_stream(
    answer: db.Answer,
    run: runs.Run | None,
    *,
    after: int = 0,
    on_disconnect: Callable[[], Awaitable[Any]] | None = None,
) -> wire.EventStream:
    """Return the response that follows a run, or that replays an answer whose run is over."""
    batches = component.replay(answer) if run is None else run.follow(after)
    return wire.EventStream(wire.simple_frames(batches), names_of(answer), on_disconnect)


def names_of(answer: db.Answer) -> dict[str, str]:
    """Return the headers that say which answer a stream is; who comes back later must not take another one for it."""
    return {"X-Thread-Id": str(answer.conversation_id), "X-Message-Id": str(answer.id)}


async def join(request: Request) -> Response | wire.EventStream:
    """GET /api/conversations/{id}/stream?after=N: replay the live answer from frame N and go on live."""
    service, user_id = service_of(request), await user_of(request)
    if request.method == "HEAD":  # it would follow the stream for nobody
        raise HTTPException(405, "Use GET.", {"Allow": "GET"})
    inputs.only(request, "after")
    conversation_id, after = inputs.id_of(request), inputs.count_in(request, "after", 0)
    run = service.live.get(conversation_id)
    if run is None or run.user_id != user_id:
        found(await service.store.has_conversation(user_id, conversation_id))
        return Response(status_code=204)
    if after > len(run.events):
        raise HTTPException(400, f"after is {after}, but the live answer has only {len(run.events)} frames so far.")
    return event_stream(run.answer(), run, after=after)


async def stop(request: Request) -> Response:
    """POST /api/conversations/{id}/stop: end the live answer and return it as it stands."""
    service, user_id = service_of(request), await user_of(request)
    conversation_id = inputs.id_of(request)
    found(await service.store.has_conversation(user_id, conversation_id))
    run = service.live.get(conversation_id)
    if run is None or not await service.live.stop(conversation_id, "stopped"):
        raise HTTPException(409, "Nothing is being answered in this conversation.")
    message = found(await service.store.get_message(user_id, run.id))
    if message["status"] == "streaming":
        raise db.Unavailable(runs.UNSAVED)
    return JSONResponse(message)


# ---- handlers: conversations, tasks ----


async def list_conversations(request: Request) -> Response:
    """GET /api/conversations?limit=50&offset=0."""
    service, user_id = service_of(request), await user_of(request)
    inputs.only(request, "limit", "offset")
    limit, offset = min(inputs.count_in(request, "limit", 50), MAX_PAGE), inputs.count_in(request, "offset", 0)
    return JSONResponse(await service.store.list_conversations(user_id, limit, offset))


async def get_conversation(request: Request) -> Response:
    """GET /api/conversations/{id}: with its messages."""
    service, user_id = service_of(request), await user_of(request)
    return JSONResponse(found(await service.store.get_conversation(user_id, inputs.id_of(request))))


async def rename_conversation(request: Request) -> Response:
    """PATCH /api/conversations/{id} {"title": ...}."""
    service, user_id = service_of(request), await user_of(request)
    body = await inputs.body_of(request)
    inputs.fields(body, "title")
    title = inputs.title_in(body)
    return JSONResponse(found(await service.store.rename_conversation(user_id, inputs.id_of(request), title)))


async def delete_conversation(request: Request) -> Response:
    """DELETE /api/conversations/{id}: with its messages; a live answer in it ends."""
    service, user_id = service_of(request), await user_of(request)
    conversation_id = inputs.id_of(request)
    found(await service.store.delete_conversation(user_id, conversation_id))
    await service.live.stop(conversation_id, "stopped", runs.DELETED)
    return JSONResponse({"status": "deleted"})


async def list_tasks(request: Request) -> Response:
    """GET /api/tasks?status=all|pending|completed."""
    service, user_id = service_of(request), await user_of(request)
    inputs.only(request, "status")
    wanted = {"all": None, "pending": False, "completed": True}
    status = request.query_params.get("status", "all")
    if status not in wanted:
        raise HTTPException(400, "status must be all, pending or completed.")
    return JSONResponse([dict(task) for task in await service.tasks.list_tasks(user_id, wanted[status])])


async def add_task(request: Request) -> Response:
    """POST /api/tasks {"title": ..., "description": ...}."""
    service, user_id = service_of(request), await user_of(request)
    body = await inputs.body_of(request)
    inputs.fields(body, "title", "description")
    task = await service.tasks.add_task(user_id, inputs.title_in(body), inputs.description_in(body))
    return JSONResponse(dict(task), status_code=201)


async def update_task(request: Request) -> Response:
    """PATCH /api/tasks/{id} with any of title, description, completed."""
    service, user_id = service_of(request), await user_of(request)
    body = await inputs.body_of(request)
    inputs.fields(body, "title", "description", "completed")
    changes: dict[str, str | bool | None] = {}
    if "title" in body:
        changes["title"] = inputs.title_in(body)
    if "description" in body:
        changes["description"] = inputs.description_in(body)
    if "completed" in body:
        if not isinstance(body["completed"], bool):
            raise HTTPException(400, "completed must be true or false.")
        changes["completed"] = body["completed"]
    if not changes:
        raise HTTPException(400, "Send at least one of title, description and completed.")
    return JSONResponse(dict(found(await service.tasks.update_task(user_id, inputs.id_of(request), **changes))))


async def delete_task(request: Request) -> Response:
    """DELETE /api/tasks/{id}."""
    service, user_id = service_of(request), await user_of(request)
    found(await service.tasks.delete_task(user_id, inputs.id_of(request)))
    return JSONResponse({"status": "deleted"})


async def mcp(request: Request) -> ASGIApp:
    """POST /mcp: the five task tools for any client of the Model Context Protocol, over its streamable HTTP."""
    service, user_id = service_of(request), await user_of(request)
    # The protocol wants the origin checked: browsers send it, other clients do not.
    origin = request.headers.get("origin", "")
    ours = not origin or origin.split("://")[-1] == request.headers.get("host")
    if not ours and not {origin, "*"} & set(service.settings.cors_origins):
        raise HTTPException(403, "Pages of this origin may not call: CORS_ORIGINS has those that may.")
    request.scope[mcp_tools.USER] = user_id
    return service.mcp


async def health(request: Request) -> Response:
    """GET /health: 200 if the database answers."""
    await service_of(request).store.ping()
    return JSONResponse({"status": "healthy"})


async def about(request: Request) -> Response:
    """GET /api/model: which model answers."""
    service, _ = service_of(request), await user_of(request)
    return JSONResponse({"model": service.model_name, "offline": service.model_name == offline.NAME})


async def openapi(request: Request) -> Response:
    """GET /openapi.json: the description of the REST API and the simple dialect, as reached from where it is asked."""
    service = service_of(request)
    description = json.loads(OPENAPI.read_text())
    served = {getattr(route, "path", "") for route in request.app.routes}
    paths = {path: methods for path, methods in description["paths"].items() if path in served}
    servers = [{"url": request.scope.get("root_path") or "/"}]
    security = description["security"] if service.takes_tokens else []  # a host has its own way, unknown to us
    return JSONResponse(description | {"servers": servers, "paths": paths, "security": security})


async def page(request: Request) -> Response:
    """GET /: the page."""
    service_of(request)
    return FileResponse(STATIC / "index.html", headers=page_headers())


async def component_page(request: Request) -> Response:
    """GET /component: the same server under OpenAI's component, which brings its own script, frame and styles."""
    service_of(request)
    return FileResponse(STATIC / "component.html", headers=page_headers(" https://cdn.platform.openai.com"))


def page_headers(also: str = "") -> dict[str, str]:
    """Return the headers of a page that runs its own scripts and talks to its own server, `also` to others."""
    policy = (
        f"default-src 'none'; script-src 'self'{also}; connect-src 'self'{also}; style-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HARDENED | {"Content-Security-Policy": policy + (f"; frame-src{also}" if also else "")}


class Static(StaticFiles):
    """The page's files; a browser asks each time whether they have changed."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return a file with the headers that all of them have."""
        response = super().file_response(*arguments, **options)
        response.headers.update(HARDENED)
        return response


# ---- the app ----

Handler = Callable[[Request], Awaitable[ASGIApp]]


def resource(path: str, **handlers: Handler) -> list[BaseRoute]:
    """Return the routes of one path, with and without a slash at its end, with a handler for each method."""

    async def dispatch(request: Request) -> ASGIApp:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return [Route(p, dispatch, methods=list(handlers)) for p in (path, path + "/")]


def routes(parts: Collection[Part] = PARTS) -> list[BaseRoute]:
    """Return the routes of the chat, and of the `parts` that are wanted beside it."""
    chosen: list[BaseRoute] = [
        *resource("/chatkit", POST=chatkit),
        *resource("/api/conversations", GET=list_conversations),
        *resource(
            "/api/conversations/{id}", GET=get_conversation, PATCH=rename_conversation, DELETE=delete_conversation
        ),
        *resource("/api/conversations/{id}/stream", GET=join),
        *resource("/api/conversations/{id}/stop", POST=stop),
        *resource("/api/model", GET=about),
        *resource("/health", GET=health),
        *resource("/openapi.json", GET=openapi),
    ]
    if "tasks" in parts:
        chosen += resource("/api/tasks", GET=list_tasks, POST=add_task)
        chosen += resource("/api/tasks/{id}", PATCH=update_task, DELETE=delete_task)
    if "mcp" in parts:
        chosen += resource("/mcp", POST=mcp)
    if "page" in parts:
        # The pages' links are relative, so each page has one address.
        chosen += [Route("/component", component_page), Route("/component/", RedirectResponse("../component"))]
        chosen += [Route("/", page), Mount("/static", Static(directory=STATIC))]
    return chosen


async def refuse(request: Request, error: Exception) -> Response:
    """Answer any error as JSON: `{"detail": "..."}`."""
    headers: Mapping[str, str] | None = None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
    elif isinstance(error, db.NotFound):
        status = 404
    elif isinstance(error, db.Conflict):
        status = 409
    elif isinstance(error, db.TooMany):
        status, headers = 429 if error.of_user else 503, {"Retry-After": "5"}
    else:  # db.Unavailable, runs.ShuttingDown
        status, headers = 503, {"Retry-After": "5"}
    detail = error.detail if isinstance(error, HTTPException) else str(error)
    return JSONResponse({"detail": detail}, status, headers)


def create_app(
    *,
    authenticate: Authenticate | None = None,
    agent: AgentOrFactory | None = None,
    context: ContextFactory | None = None,
    tasks: todo.Tasks | None = None,
    model: Model | None = None,
    store: db.Store | str | None = None,
    settings: config.Settings | None = None,
    parts: Collection[Part] = PARTS,
    prefix: str = "",
) -> Starlette:
    """Return the service as a Starlette app, to serve or to mount in an app of your own.

    authenticate: `async (request) -> user id`, a str that stays the user's for good; None is answered with 401, an
        `HTTPException` as it is, any other exception with a plain 500. By default a bearer token is checked, as the
        settings say.
    agent: an `agents.Agent`, or a function (async or not) of the user id that returns one, called once for each turn.
        Each turn runs on a shallow copy of it. By default the to-do agent.
    context: a function (async or not) of the turn's `agent.TurnContext` (the user id and the tasks) that returns the
        object which the agent's tools receive as `ctx.context`. By default that TurnContext itself; the five to-do
        tools need it, or a subclass of it.
    tasks: your own tasks in place of ours, with the four methods of `agent.Tasks`; the to-do tools, /api/tasks and
        /mcp then act on these. Each task is a mapping with the fields of `db.Task`, its id an integer.
    model: an `agents.Model` that every agent runs on, whatever its own `model` says. By default the to-do agent runs
        on the model that the environment names (`models.choose_model`), and an agent of yours on its own.
    store: where the conversations and our tasks are: a URL such as "sqlite:///chat.db", or an open `db.Store`, which
        stays the caller's to close. One store serves one app. By default what DATABASE_URL says, or todochat.db in the
        working directory.
    settings: `settings.Settings(...)`: the limits (`max_live`, `max_live_per_user`, `max_turns`, `history_limit`,
        `model_idle_timeout`, `tool_timeout`), `cors_origins`, and what bearer tokens must look like (`secret`,
        `algorithm`, `public_key`, `issuer`, `audience`). The environment is not read for them then: `Settings()` is the
        way to have nothing to do with the environment of a host.
    parts: what to serve beside the chat and its conversations: "tasks" (/api/tasks), "page" (/, /component and
        /static), "mcp" (/mcp).
    prefix: the path under which a proxy shows the app, such as "/todo", whether the proxy strips it or not. A prefix
        given by `Mount(prefix, app)` or `FastAPI.mount(prefix, app)` is noticed by itself.

    What is not given is taken from the environment, now; the database is opened when the app's lifespan begins. A host
    must run that: `async with chat.router.lifespan_context(chat): yield` in its own lifespan. Nothing outside the app
    is changed: no logging is configured (the logger is "todochat"), and no default of the Agents SDK is set.
    Raises `settings.BadSetting` or `models.BadModel`, and the lifespan `db.StoreError`: each a sentence for whoever
    starts the server.
    """
    settings = settings or config.Settings.from_env(_relevant(os.environ, store, authenticate))
    if store is not None and not isinstance(store, str | db.Store):
        raise config.BadSetting(
            f"store is a {type(store).__name__}: it must be a URL such as sqlite:///chat.db, or a db.Store."
        )
    path = config.store_path(store) if isinstance(store, str) else settings.database
    if unknown := set(parts) - set(PARTS):
        raise config.BadSetting(f"parts has {min(unknown)!r}: there is {', '.join(PARTS)}.")
    if prefix and not re.fullmatch(r"(/[^/\s?#]+)+", prefix):
        raise config.BadSetting(f"prefix is {prefix!r}: it must look like /todo.")
    if prefix and prefix.split("/")[1] in {getattr(route, "path", "").split("/")[1] for route in routes()}:
        raise config.BadSetting(
            f"prefix is {prefix!r}, where the app has paths of its own: choose another, like /todo."
        )
    if takes_tokens := authenticate is None:
        authenticate = bearer(verifier(settings, path))
    name = "custom"
    if agent is None and model is None:
        choice = models.choose_model(os.environ, idle_timeout=settings.model_idle_timeout)
        choice = choice or models.Choice(offline.OfflineModel(), offline.NAME)
        model, name = choice.model, choice.name
    # What the model invents is the model's to mend; and tracing would reach for the network.
    run_config = RunConfig(model=model, tracing_disabled=True, tool_not_found_behavior="return_error_to_model")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ours = store if isinstance(store, db.Store) else await db.Store.open(path)
        all_runs = runs.Runs(ours, db.Unavailable)
        all_tasks = ours if tasks is None else tasks
        endpoint = mcp_tools.endpoint(
            todo.todo_tools(strict=False),
            lambda user_id: todo.TurnContext(user_id, all_tasks),
            db.Unavailable,
            max_body=inputs.MAX_BODY,
        )
        log.info("answers come from %s", offline.WHAT_IT_IS if name == offline.NAME else f"the model: {name}")
        app.state.service = Service(
            store=ours,
            tasks=all_tasks,
            live=all_runs,
            agent=todo.todo_agent(model) if agent is None else agent,
            context=context or (lambda turn: turn),
            authenticate=authenticate,
            takes_tokens=takes_tokens,
            run_config=run_config,
            model_name=name,
            settings=settings,
            mcp=endpoint.handle_request,
        )
        try:
            async with endpoint.run():
                yield
        finally:
            await all_runs.close()
            del app.state.service
            if ours is not store:
                await ours.close()

    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "chatkit-frame-instance-id"],
        expose_headers=["X-Thread-Id", "X-Message-Id", "Retry-After"],
        allow_credentials="*" not in settings.cors_origins,
    )
    expected = (HTTPException, db.NotFound, db.Conflict, db.TooMany, db.Unavailable, runs.ShuttingDown)
    app = Starlette(
        routes=routes(parts),
        middleware=[Middleware(Prefixed, prefix=prefix), cors, Middleware(Apologising)],
        exception_handlers=dict.fromkeys(expected, refuse),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _relevant(env: Mapping[str, str], store: Any, authenticate: Any) -> dict[str, str]:
    """Leave out the settings that are not asked for: in a host's environment they may mean something of its own."""
    unasked = {"HOST", "PORT", "LOG_LEVEL"}  # those are for `main`
    unasked |= {"DATABASE_URL"} if store is not None else set()
    unasked |= {"BETTER_AUTH_SECRET", "JWT_ALGORITHM", "JWT_PUBLIC_KEY"} if authenticate is not None else set()
    return {name: value for name, value in env.items() if name not in unasked}


class Prefixed:
    """ASGI middleware: tell an app that is not mounted under which path it is reached (`root_path`)."""

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


class Apologising:
    """ASGI middleware: answer a mistake of ours, which is then raised again for the server's log.

    Starlette does that too, but without the CORS headers: for a page elsewhere it would look like a dead network.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            if scope["type"] == "http" and not begun:
                await JSONResponse({"detail": "Something went wrong on the server."}, 500)(scope, receive, send)
            raise


# ---- who may come in ----


def bearer(verifier: auth.Verifier) -> Authenticate:
    """Return the `authenticate` that checks `Authorization: Bearer <token>`, and tells the log why one is refused."""
    refusals = auth.RefusalLog()

    async def authenticate(request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise auth.Refused("missing")
            return verifier.check(token.strip())
        except auth.Refused as refused:
            refusals.note(str(refused))
            return None

    return authenticate


def verifier(settings: config.Settings, database: str) -> auth.Verifier:
    """Return the verifier that the settings ask for; without any of them, one for the demo's own secret."""
    key = settings.public_key or settings.secret or demo_secret(database)
    try:
        return auth.Verifier(key, settings.algorithm, issuer=settings.issuer, audience=settings.audience)
    except auth.UnfitKey as error:
        name = "JWT_PUBLIC_KEY" if settings.public_key else "BETTER_AUTH_SECRET" if settings.secret else ""
        name = name or f"{database}.secret, which you can delete,"  # the disk was full when it was made
        raise config.BadSetting(f"{name} cannot be used: {error}") from None


def demo_secret(database: str) -> str:
    """Return the random secret kept beside the database, in a file only its owner can read; make it if need be."""
    if database == ":memory:":
        raise config.BadSetting("A database in memory has no place for a secret: set BETTER_AUTH_SECRET.")
    path = Path(f"{database}.secret")
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise config.BadSetting(
                f"{path} can be read by others, so it is no secret: delete it, or chmod 600."
            ) from None
    except OSError as error:
        raise config.BadSetting(f"Cannot write {path} ({error.strerror}): set BETTER_AUTH_SECRET.") from error
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        raise config.BadSetting(f"Cannot read {path}: delete it, or set BETTER_AUTH_SECRET.") from None


def token(name: str, settings: config.Settings) -> str:
    """Return a token for the user `name`, valid for 30 days."""
    if settings.public_key:
        raise config.BadSetting("With JWT_PUBLIC_KEY only the owner of the private key can make tokens.")
    key, judge = settings.secret or demo_secret(settings.database), verifier(settings, settings.database)
    made = auth.sign(name, key, lifetime=30 * 24 * 3600, issuer=settings.issuer, audience=settings.audience)
    if judge.user_id(made) is None:
        raise config.BadSetting("A user's name has 1 to 255 printable ASCII characters.")
    return made


# ---- the command line ----


class Server(uvicorn.Server):
    """uvicorn, which by itself waits for open streams before it tells the app to shut down."""

    def __init__(self, app: Starlette, greeting: str) -> None:
        super().__init__(
            uvicorn.Config(
                app, ws="none", log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3
            )
        )
        self._app = app
        self._greeting = greeting
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
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
            self._ending = asyncio.ensure_future(service.live.close())


def warm_up() -> None:
    """Take a turn with the offline model before the first user does, and then relieve the garbage collector.

    The first turn of a process costs 0.15 s more than the others: the `openai` types are built on first use. And a full
    collection of all that is loaded would halt every stream for 0.1 s, so that is taken out of the collector's sight.
    """
    asyncio.run(_dry_turn())
    models.build_event_types()
    gc.freeze()
    gc.set_threshold(20_000, 5)  # a turn leaves no garbage: Python's 700 would look through the live ones all the time


async def _dry_turn() -> None:
    question = {"role": "user", "content": "help"}
    agent, config = todo.todo_agent(offline.OfflineModel(pace=0)), RunConfig(tracing_disabled=True)
    async for _ in todo.stream_turn(agent, [question], None, thread_id=0, run_config=config):
        pass


async def serve(settings: config.Settings, **options: Any) -> None:
    """Run the service until a signal ends it; `options` are those of `create_app`."""
    if not settings.is_loopback and not (settings.secret or settings.public_key):
        raise config.BadSetting(
            f"HOST is {settings.host}, which others can reach: set BETTER_AUTH_SECRET to a secret of at least "
            f"{auth.MIN_SECRET} bytes, for example the output of: openssl rand -hex 32"
        )
    with listen(settings.host, settings.port) as listener:
        store = await db.Store.open(settings.database)
        try:
            app = create_app(store=store, settings=settings, **options)
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"http://{host}:{listener.getsockname()[1]}"
            is_demo = settings.is_loopback and not (settings.secret or settings.public_key)
            await Server(
                app, f"Sign in: {url}/#token={token('demo', settings)}" if is_demo else f"Serving on {url}"
            ).serve([listener])
        finally:
            await store.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is any free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: also let go of the connection of a reader that was dropped
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * wire.STALL))
        # asyncio switches Nagle's algorithm off only for sockets that name their protocol, and create_server's do not:
        # with it, small frames and answers would wait 40 ms for the client's acknowledgement.
        return socket.socket(proto=socket.IPPROTO_TCP, fileno=listener.detach())
    except OSError as error:
        raise config.BadSetting(
            f"Cannot listen on {host} port {port} ({error.strerror}): set HOST and PORT."
        ) from error


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code: 2 for a setting that cannot be used."""
    try:
        settings = config.Settings.from_env(os.environ)
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        log.setLevel(settings.log_level)
        match arguments:
            case []:
                asyncio.run(serve(settings))
            case ["token", name]:
                print(token(name, settings))
            case ["backup", file]:
                db.backup(settings.database, file)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (config.BadSetting, models.BadModel, db.StoreError) as error:
        print(f"todochat: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
