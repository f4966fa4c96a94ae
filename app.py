"""The app: handlers, routes, and `create_app()`. `python app.py` runs it: see serve.py."""

import asyncio
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from agents import Agent, Model
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from todochat import account
from todochat.agent import Tasks, TurnContext, TurnOptions, stream_turn, todo_agent
from todochat.auth import Authenticate, bearer, verifier_for
from todochat.db import NO_LIMIT, Conversation, Store, Turn, TurnRequest
from todochat.dialects import chatkit, for_clients, mcp, replay, simple
from todochat.dialects.sse import EventStream
from todochat.engines import T, Unavailable
from todochat.events import Event, Feed
from todochat.metrics import Metrics
from todochat.models import Choice, choose_model, offline
from todochat.runs import UNSAVED, Run, Runs
from todochat.settings import BadSetting, Settings, store_path
from todochat.shares import Shares
from todochat.turns.sdk import run_config
from todochat.web import etags, inputs, pages
from todochat.web.middleware import EXPECTED, middleware, refuse

log = logging.getLogger("todochat")

MAX_PAGE = 200  # conversations
TASKS_PAGE = 1000  # in one answer

AgentOrFactory = Agent[Any] | Callable[[str], Agent[Any] | Awaitable[Agent[Any]]]
ContextFactory = Callable[[TurnContext], object]
Part = Literal["tasks", "page", "component", "mcp"]
PARTS: tuple[Part, ...] = ("tasks", "page", "component", "mcp")


@dataclass(frozen=True)
class Service:
    """What the handlers work with; `app.state.service` while the app runs."""

    store: Store
    tasks: Tasks
    runs: Runs
    agent: AgentOrFactory
    context: ContextFactory
    options: TurnOptions
    authenticate: Authenticate
    takes_tokens: bool  # or has the host an `authenticate` of its own
    model: Choice
    settings: Settings
    mcp: StreamableHTTPSessionManager
    shares: Shares

    async def events_of(self, timezone: str | None, run: Run, turn: Turn) -> AsyncGenerator[Event, None]:
        """Start the agent on a turn of a user in a time zone; return what yields its events as they are made."""
        record = partial(run.record, atomically=self.tasks is self.store)
        turn_context = TurnContext(run.user_id, self.tasks, record, timezone=timezone or self.settings.timezone)
        async with asyncio.timeout(self.options.limits.seconds):  # they are the host's, and an answer must end
            agent = self.agent if isinstance(self.agent, Agent) else await _awaited(self.agent(run.user_id))
            context = await _awaited(self.context(turn_context))
        if not isinstance(agent, Agent):
            raise TypeError("The agent function must return an agents.Agent.")
        return stream_turn(agent, turn.history, context, self.options, run, conversation_id=run.conversation_id)


async def _awaited(value: T | Awaitable[T]) -> T:
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


async def signed_in(request: Request) -> tuple[Service, str]:
    """Return the running service and the id of the user who asks, or answer 401."""
    service = service_of(request)
    user_id = await service.authenticate(request)
    if not user_id:  # an empty id would be shared by all who have none
        raise HTTPException(401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"})
    if not isinstance(user_id, str):
        raise TypeError("authenticate() must return the user's id as a str, or None.")
    service.runs.others.in_use()  # where several processes share a database, one that is used looks after the others
    return service, user_id


async def signed_in_with_body(request: Request) -> tuple[Service, str, dict[str, Any]]:
    """Return the running service, the id of the user who asks, and the JSON object in the body."""
    service, user_id = await signed_in(request)
    with service.shares.reading_body(user_id):
        return service, user_id, await inputs.body_of(request)


# ---- handlers: chat ----


async def post_chatkit(request: Request) -> ASGIApp:
    """POST /chatkit: take a message, stream the answer."""
    service, user_id, body = await signed_in_with_body(request)
    if "type" in body:
        return await chatkit_protocol(request, service, user_id, body)
    return await simple_dialect(request, service, user_id, simple.request_in(body))


async def retry(request: Request) -> ASGIApp:
    """POST /api/conversations/{id}/retry: answer one of the user's messages anew, and stream that."""
    service, user_id, body = await signed_in_with_body(request)
    sent = simple.retry_in(body, inputs.id_of(request))
    return await simple_dialect(request, service, user_id, sent)


async def simple_dialect(request: Request, service: Service, user_id: str, sent: simple.Request) -> ASGIApp:
    title = inputs.conversation_title(sent.message) if sent.message_id is None else None
    wanted = TurnRequest(user_id, sent.message, title, conversation_id=sent.thread_id, retry_of=sent.message_id)
    wanted = keyed(request, wanted, sent._asdict())
    service.shares.take_turn(user_id)
    turn, answer = await service.runs.begin(wanted, partial(service.events_of, sent.timezone))
    frames = simple.frames(turn.conversation["id"], batches(turn, answer))
    return await stream_of(service, turn, frames, answer if sent.on_disconnect == "stop" else None)


async def chatkit_protocol(request: Request, service: Service, user_id: str, body: Mapping[str, Any]) -> ASGIApp:
    """POST /chatkit with a `type`: the protocol of the <openai-chatkit> component. A disconnect is its Stop button."""
    kind, params = chatkit.request_in(body)
    if kind not in chatkit.STREAMING:
        async with service.shares.reading(user_id) if kind in chatkit.READING else nullcontext():
            reply = await chatkit.REPLIES[kind](params, service.store, user_id)
        if kind == "threads.delete":
            await service.runs.end_deleted(chatkit.id_in(params, "thread_id"))
        return Response(json.dumps(reply), media_type="application/json")
    wanted = keyed(request, chatkit.turn_in(kind, params, user_id), body)
    service.shares.take_turn(user_id)
    turn, answer = await service.runs.begin(wanted, partial(service.events_of, None))
    frames = chatkit.frames(kind, turn, batches(turn, answer))
    return await stream_of(service, turn, frames, answer)


def keyed(request: Request, wanted: TurnRequest, body: Mapping[str, Any]) -> TurnRequest:
    """Return what is wanted with the request's idempotency key, and what tells its body from others with that key."""
    return replace(wanted, key=inputs.key_of(request), digest=inputs.digest_of(body))


def batches(turn: Turn, answer: Feed | None) -> AsyncGenerator[list[Event], None]:
    """Return the events of a turn as they are made, or of an answer that is complete."""
    return replay(turn.answer) if answer is None else answer.follow()


async def stream_of(
    service: Service, turn: Turn, frames: AsyncGenerator[bytes, None], stop_on_disconnect: Feed | None
) -> ASGIApp:
    """Return the response that streams a turn's frames; a disconnect counts as Stop for the answer that is given.

    `EventStream` writes the frames, and pings while there are none; `Shares.follow` refuses a reader who is one too
    many. Whichever of the two ends it calls `leave`, once.
    """
    leave = None if stop_on_disconnect is None else await service.runs.stop_when_left(stop_on_disconnect)
    stream = EventStream(frames, names_of(turn.conversation["id"], turn.answer["id"]), leave)
    return service.shares.follow(turn.answer["id"], stream, leave)


def names_of(conversation_id: int, answer_id: int) -> dict[str, str]:
    """Return the headers that say which answer a stream is: one that is joined later must not be taken for another."""
    return {"X-Thread-Id": str(conversation_id), "X-Message-Id": str(answer_id)}


async def join(request: Request) -> ASGIApp:
    """GET /api/conversations/{id}/stream?after=N: replay the live answer from frame N and go on live."""
    service, user_id = await signed_in(request)
    if request.method == "HEAD":  # it would follow the stream for nobody
        raise HTTPException(405, "Use GET.", {"Allow": "GET"})
    inputs.only(request.query_params, "after")
    conversation_id, after = inputs.id_of(request), inputs.count_in(request, "after", 0)
    answer = await service.runs.live(user_id, conversation_id)
    if answer is None:
        inputs.found(await service.store.has_conversation(user_id, conversation_id))
        return Response(status_code=204)
    if after > len(answer.events) and isinstance(answer, Run):  # a mirror may be behind what its owner has shown
        raise HTTPException(400, f"after is {after}, but the live answer has only {len(answer.events)} frames so far.")
    stream = EventStream(
        simple.frames(conversation_id, answer.follow(after)), names_of(conversation_id, answer.answer_id)
    )
    return service.shares.follow(answer.answer_id, stream)


async def stop(request: Request) -> Response:
    """POST /api/conversations/{id}/stop: end the live answer and return it as it stands."""
    service, user_id = await signed_in(request)
    conversation_id = inputs.id_of(request)
    inputs.found(await service.store.has_conversation(user_id, conversation_id))
    answer_id = await service.runs.stop(user_id, conversation_id)
    if answer_id is None:
        raise HTTPException(409, "Nothing is being answered in this conversation.")
    message = inputs.found(await service.store.get_message(user_id, answer_id))
    if message["status"] == "streaming":
        raise Unavailable(UNSAVED)
    return JSONResponse(for_clients(message))


# ---- handlers: conversations, tasks ----


async def list_conversations(request: Request) -> ASGIApp:
    """GET /api/conversations?limit=50&offset=0&q=."""
    service, user_id = await signed_in(request)
    inputs.only(request.query_params, "limit", "offset", "q")
    limit, offset = min(inputs.count_in(request, "limit", 50), MAX_PAGE), inputs.count_in(request, "offset", 0)
    read = partial(service.store.list_conversations, user_id, limit, offset, inputs.search_in(request))
    version = await service.store.version_of_conversations(user_id)
    return await etags.answer(request, service.shares, user_id, version, read)


async def get_conversation(request: Request) -> ASGIApp:
    """GET /api/conversations/{id}?limit=&before=: with its messages, or the last of them before one."""
    service, user_id = await signed_in(request)
    inputs.only(request.query_params, "limit", "before")
    conversation_id = inputs.id_of(request)
    last, before = inputs.count_in(request, "limit", NO_LIMIT), inputs.count_in(request, "before", NO_LIMIT)

    async def read() -> Conversation | None:
        found = await service.store.get_conversation(user_id, conversation_id, last=last, before=before)
        return found and for_clients(found)

    version = inputs.found(await service.store.version_of_conversation(user_id, conversation_id))
    return await etags.answer(request, service.shares, user_id, version, read)


async def rename_conversation(request: Request) -> Response:
    """PATCH /api/conversations/{id} {"title": ...}."""
    service, user_id, body = await signed_in_with_body(request)
    inputs.only(body, "title")
    title = inputs.title_in(body)
    return JSONResponse(inputs.found(await service.store.rename_conversation(user_id, inputs.id_of(request), title)))


async def delete_conversation(request: Request) -> Response:
    """DELETE /api/conversations/{id}: with its messages; a live answer in it ends."""
    service, user_id = await signed_in(request)
    conversation_id = inputs.id_of(request)
    inputs.found(await service.store.delete_conversation(user_id, conversation_id))
    await service.runs.end_deleted(conversation_id)
    log.info("user=%r has deleted conversation=%d", user_id, conversation_id)
    return JSONResponse({"status": "deleted"})


async def list_tasks(request: Request) -> ASGIApp:
    """GET /api/tasks?status=all|pending|completed&limit=1000&after=0."""
    service, user_id = await signed_in(request)
    inputs.only(request.query_params, "status", "limit", "after")
    limit, after = min(inputs.count_in(request, "limit", TASKS_PAGE), TASKS_PAGE), inputs.count_in(request, "after", 0)
    completed = inputs.completed_in(request)
    if service.tasks is service.store:
        read = partial(service.store.page_of_tasks, user_id, completed, after=after, limit=limit)
        return await etags.answer(request, service.shares, user_id, await service.store.version_of_tasks(user_id), read)
    tasks = [dict(task) for task in await service.tasks.list_tasks(user_id, completed) if task["id"] > after]
    return await etags.answer(request, service.shares, user_id, json.dumps(tasks), partial(_awaited, tasks[:limit]))


async def add_task(request: Request) -> Response:
    """POST /api/tasks {"title": ..., "description": ..., "due": ...}."""
    service, user_id, body = await signed_in_with_body(request)
    inputs.only(body, "title", "description", "due")
    title, description, due = inputs.title_in(body), inputs.description_in(body), inputs.due_in(body)
    task = await service.tasks.add_task(user_id, title, description, **({"due": due} if due else {}))
    return JSONResponse(dict(task), status_code=201)


async def update_task(request: Request) -> Response:
    """PATCH /api/tasks/{id} with any of title, description, due, completed."""
    service, user_id, body = await signed_in_with_body(request)
    changes = inputs.task_changes_in(body)
    return JSONResponse(dict(inputs.found(await service.tasks.update_task(user_id, inputs.id_of(request), **changes))))


async def delete_task(request: Request) -> Response:
    """DELETE /api/tasks/{id}."""
    service, user_id = await signed_in(request)
    inputs.found(await service.tasks.delete_task(user_id, inputs.id_of(request)))
    return JSONResponse({"status": "deleted"})


# ---- handlers: the rest ----


async def mcp_endpoint(request: Request) -> ASGIApp:
    """POST /mcp: the five task tools for any client of the Model Context Protocol, over its streamable HTTP."""
    service, user_id = await signed_in(request)
    mcp.refuse_foreign_page(request, service.settings)
    request.scope[mcp.USER] = user_id
    with service.shares.reading_body(user_id):
        return mcp.handling(service.mcp, await inputs.raw_body_of(request))


async def health(request: Request) -> Response:
    """GET /health: 200 if the database answers."""
    await service_of(request).store.ping()
    return JSONResponse({"status": "healthy"})


async def me(request: Request) -> Response:
    """GET /api/me: who asks."""
    return JSONResponse({"user": (await signed_in(request))[1]})


async def delete_me(request: Request) -> Response:
    """DELETE /api/me: all that is stored of the user; what is live ends."""
    service, user_id = await signed_in(request)
    return await account.delete(service.store, service.runs, user_id)


async def export(request: Request) -> ASGIApp:
    """GET /api/export: all that is stored of the user, as one document."""
    service, user_id = await signed_in(request)
    if request.method == "HEAD":  # it would read everything for nobody
        raise HTTPException(405, "Use GET.", {"Allow": "GET"})
    return account.export(service.store, service.shares, user_id)


async def about(request: Request) -> Response:
    """GET /api/model: which model answers."""
    service, _ = await signed_in(request)
    return JSONResponse({"model": service.model.name, "offline": service.model.name == offline.NAME})


async def metrics(request: Request) -> Response:
    """GET /metrics: figures for Prometheus."""
    figures: Metrics = request.app.state.metrics
    return figures.answer(request, service_of(request).settings.metrics_token)


async def openapi(request: Request) -> Response:
    """GET /openapi.json: the description of the REST API and the simple dialect, as reached from where it is asked."""
    return pages.description(request, takes_tokens=service_of(request).takes_tokens)


# ---- the app ----

Handler = Callable[[Request], Awaitable[ASGIApp]]


def resource(path: str, **handlers: Handler) -> list[BaseRoute]:
    """Return the routes of one path, with and without a slash at its end, with a handler for each method."""

    async def dispatch(request: Request) -> ASGIApp:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return [Route(p, dispatch, methods=list(handlers)) for p in (path, path + "/")]


def routes(parts: Collection[Part] = PARTS) -> list[BaseRoute]:
    """Return the routes of the chat, and of the `parts` that are wanted beside it."""
    one = "/api/conversations/{id}"
    chosen = [
        *resource("/chatkit", POST=post_chatkit),
        *resource("/api/conversations", GET=list_conversations),
        *resource(one, GET=get_conversation, PATCH=rename_conversation, DELETE=delete_conversation),
        *resource(f"{one}/stream", GET=join),
        *resource(f"{one}/stop", POST=stop),
        *resource(f"{one}/retry", POST=retry),
        *resource("/api/me", GET=me, DELETE=delete_me),
        *resource("/api/export", GET=export),
        *resource("/api/model", GET=about),
        *resource("/health", GET=health),
        *resource("/metrics", GET=metrics),
        *resource("/openapi.json", GET=openapi),
    ]
    if "tasks" in parts:
        chosen += resource("/api/tasks", GET=list_tasks, POST=add_task)
        chosen += resource("/api/tasks/{id}", PATCH=update_task, DELETE=delete_task)
    if "mcp" in parts:
        chosen += resource("/mcp", POST=mcp_endpoint)
    return chosen + pages.routes(service_of, parts)


def create_app(
    *,
    authenticate: Authenticate | None = None,
    agent: AgentOrFactory | None = None,
    context: ContextFactory | None = None,
    tasks: Tasks | None = None,
    model: Model | None = None,
    store: Store | str | None = None,
    settings: Settings | None = None,
    parts: Collection[Part] = PARTS,
    prefix: str = "",
) -> Starlette:
    """Return the service as a Starlette app, to serve or to mount in an app of your own.

    authenticate: `async (request) -> user id`, a str that stays the user's for good; None is answered with 401, an
        `HTTPException` as it is, any other exception with a plain 500. By default a bearer token is checked, as the
        settings say.
    agent: an `agents.Agent`, or a function (async or not) of the user id that returns one, called once for each turn.
        By default the to-do agent.
    context: a function (async or not) of the turn's `agent.TurnContext` (the user id and the tasks) that returns the
        object which the agent's tools receive as `ctx.context`. By default that TurnContext itself; the five to-do
        tools need it, or a subclass of it.
    tasks: your own tasks in place of ours, with the four methods of `agent.Tasks`; the to-do tools, /api/tasks and
        /mcp then act on these. Each task is a mapping with the fields of `store.tasks.Task`, its id an integer.
    model: an `agents.Model` that every agent runs on, whatever its own `model` says. By default the to-do agent runs
        on the model that the environment names (`models.choose_model`), and an agent of yours on its own.
    store: where the conversations and our tasks are: a URL such as "sqlite:///chat.db", or an open `db.Store`, which
        stays the caller's to close. One store serves one app. By default what DATABASE_URL says, or todochat.db in the
        working directory.
    settings: `settings.Settings(...)`: the limits (`max_live`, `max_live_per_user`, `max_turns`, `history_limit`,
        `history_chars`, `model_idle_timeout`, `model_start_timeout`, `tool_timeout`), `cors_origins`, and what bearer
        tokens must look like (`secret`, `algorithm`, `public_key`, `jwks_url`, `issuer`, `audience`, `user_claim`). The
        environment is not read for them then: `Settings()` is the way to have nothing to do with a host's environment.
    parts: what to serve beside the chat and its conversations: "tasks" (/api/tasks), "page" (/), "component"
        (/component, which runs OpenAI's script), "mcp" (/mcp).
    prefix: the path under which a proxy shows the app, such as "/todo", whether the proxy strips it or not. A prefix
        given by `Mount(prefix, app)` or `FastAPI.mount(prefix, app)` is noticed by itself.

    What is not given is taken from the environment, now; the database is opened when the app's lifespan begins. A host
    must run that: `async with chat.router.lifespan_context(chat): yield` in its own lifespan. Nothing outside the app
    is changed: no logging is configured (the logger is "todochat"), and no default of the Agents SDK is set.
    Raises `settings.BadSetting` (of `store`, `parts`, `prefix`, and of the environment) or `models.BadModel`, and the
    lifespan `engines.StoreError`: each a sentence for whoever starts the server.
    """
    settings = settings or Settings.for_app(os.environ, store=store is None, users=authenticate is None)
    _refuse_unusable(store, parts, prefix)
    path = store_path(store) if isinstance(store, str) else settings.database
    takes_tokens = authenticate is None
    authenticate = authenticate or bearer(verifier_for(settings, path))
    if agent is None and model is None:
        choice = choose_model(os.environ, silence=max(settings.patience.model, settings.patience.start))
    else:
        choice = Choice(model, "custom")

    def service_on(opened: Store) -> Service:
        return Service(
            store=opened,
            tasks=opened if tasks is None else tasks,
            runs=Runs(opened, settings.limits, choice.name, app.state.metrics.turn_ended),
            agent=todo_agent(choice.model) if agent is None else agent,
            context=context or (lambda turn: turn),
            options=_options(choice, settings),
            authenticate=authenticate,
            takes_tokens=takes_tokens,
            model=choice,
            settings=settings,
            mcp=mcp.endpoint(opened if tasks is None else tasks),
            shares=Shares(settings.turns_per_minute),
        )

    app = Starlette(
        routes=routes(parts),
        middleware=middleware(settings, prefix),
        exception_handlers=dict.fromkeys(EXPECTED, refuse),
        lifespan=_lifespan(store, path, service_on),
    )
    app.router.redirect_slashes = False
    app.state.metrics = Metrics()
    return app


def _options(choice: Choice, settings: Settings) -> TurnOptions:
    config = run_config(choice, settings.history_chars)
    return TurnOptions(config, settings.max_turns, settings.history_limit, settings.patience, settings.answer_limits)


def _lifespan(
    store: Store | str | None, path: str, service_on: Callable[[Store], Service]
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        opened = store if isinstance(store, Store) else await Store.open(path)
        try:
            service = app.state.service = service_on(opened)
            opened.room = service.settings.room  # of which a `Store` by itself has the defaults
            service.runs.others.in_use()  # those that are gone may have left answers
            app.state.metrics.watch("live_answers", "Answers being written.", lambda: len(service.runs))
            log.info("answers come from %s", service.model.description)
            try:
                async with service.mcp.run(), app.state.metrics.measuring_lag():
                    yield
            finally:
                await service.runs.close()
                del app.state.service
        finally:
            if opened is not store:
                await opened.close()

    return lifespan


def _refuse_unusable(store: object, parts: Collection[str], prefix: str) -> None:
    if store is not None and not isinstance(store, str | Store):
        raise BadSetting("store must be a URL such as sqlite:///chat.db, or an open db.Store.")
    if unknown := set(parts) - set(PARTS):
        raise BadSetting(f"parts has {min(unknown)!r}: there is {', '.join(PARTS)}.")
    if prefix and not re.fullmatch(r"(/[^/\s?#]+)+", prefix):
        raise BadSetting(f"prefix is {prefix!r}: it must look like /todo.")
    if prefix and prefix.split("/")[1] in {getattr(route, "path", "/").split("/")[1] for route in routes()}:
        raise BadSetting(f"prefix is {prefix!r}, where the app has paths of its own: choose another, like /todo.")


if __name__ == "__main__":
    from todochat.serve import main

    sys.exit(main(sys.argv[1:]))
