"""How a client sees an answer: each dialect is a pure view of the events of a run and of what is stored.

The simple dialect (simple.py) and the ChatKit protocol (chatkit.py) are both Server-Sent Events (sse.py). The Model
Context Protocol (mcp.py) shows no answers: it has the task tools for agents that run elsewhere.
"""

from collections.abc import AsyncGenerator
from typing import Any

from todochat.events import Event, Message, unfold

THINKING = "Processing your request..."  # what a user reads until there is something of the answer


def for_clients(data: Any) -> Any:
    """Return an event, a message or a conversation as clients see it: without what only the model wants back."""
    match data:
        case {"messages": list(messages)}:
            return data | {"messages": [for_clients(message) for message in messages]}
        case {"tool_calls": list(calls)}:
            return data | {"tool_calls": [for_clients(call) for call in calls]}
        case {"state": _}:
            return {name: value for name, value in data.items() if name != "state"}
    return data


async def replay(answer: Message) -> AsyncGenerator[list[Event], None]:
    """Yield the events of a finished answer in one batch, as `Feed.follow` yields those of a live one in many."""
    yield unfold(answer)
