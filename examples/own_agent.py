"""An agent of another domain: the desk of a lending library, which hands over to its workshop.

    python examples/own_agent.py
    curl -N http://127.0.0.1:8000/chatkit -H "Authorization: Bearer alice" \
         -H "Content-Type: application/json" -d '{"message": "Dune"}'

With OPENAI_API_KEY it is a model that answers; without, a few lines that borrow whatever book is named.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from agents import Agent, Model, RunContextWrapper, function_tool
from agents.items import TResponseOutputItem
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call
from starlette.requests import Request

from todochat.agent import TurnContext
from todochat.app import create_app


@dataclass
class Library:
    """What there is: copies on the shelf by title, and who has borrowed what."""

    shelf: dict[str, int] = field(default_factory=lambda: {"Dune": 1, "Emma": 2, "Ulysses": 0})
    borrowed: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Visit:
    """What the tools receive as `ctx.context`. The model does not see it, so it cannot be talked into another one."""

    reader: str
    library: Library


@function_tool
async def borrow(ctx: RunContextWrapper[Visit], title: str) -> dict[str, str | bool]:
    """Lend a book to the reader.

    Args:
        title: The title of the book.
    """
    visit = ctx.context
    if not visit.library.shelf.get(title):
        return {"lent": False, "why": f"There is no copy of {title} on the shelf."}
    visit.library.shelf[title] -= 1
    visit.library.borrowed.setdefault(visit.reader, []).append(title)
    return {"lent": True, "title": title, "due": "in four weeks"}


def desk(user_id: str) -> Agent[Visit]:
    """Return the agent for one turn of a user."""
    model = None if os.environ.get("OPENAI_API_KEY") else offline()
    binder = Agent[Visit](name="The bindery", instructions="You repair books. Ask what is torn.", model=model)
    instructions = "You are the desk of a library. Lend books; hand over to the bindery when one is damaged."
    return Agent(name="The desk", instructions=instructions, tools=[borrow], handoffs=[binder], model=model)


def offline() -> Model:
    """Return a stand-in for a model: it borrows what it is told, or hands over when something is torn."""

    def answer(call: ModelCall) -> list[TResponseOutputItem]:
        last: Any = call.input[-1]
        if call.handoffs == []:
            return [assistant_message("The bindery here. What is torn?")]
        if last.get("type") == "function_call_output":
            return [assistant_message("Here you are." if "'lent': True" in last["output"] else "All copies are out.")]
        if "torn" in str(last["content"]):
            return [function_call("transfer_to_the_bindery", {}, call_id="handoff")]
        return [function_call("borrow", {"title": str(last["content"])}, call_id="borrow")]

    return ScriptedModel([ModelStep.respond(answer)] * 5)


async def authenticate(request: Request) -> str | None:
    """Return the reader: in a demo, whoever one says one is."""
    return request.headers.get("authorization", "").removeprefix("Bearer ") or None


library = Library()


def visit(turn: TurnContext) -> Visit:
    """Return what the tools of one turn receive."""
    return Visit(turn.user_id, library)


app = create_app(agent=desk, context=visit, authenticate=authenticate, store="sqlite:///library.db", parts=[])

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=3)
