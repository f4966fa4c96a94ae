"""How a client sees an answer: each dialect is a pure view of the events of a run and of what is stored.

The simple dialect (simple.py) and the ChatKit protocol (chatkit.py) are both Server-Sent Events (sse.py). The Model
Context Protocol (mcp.py) shows no answers: it has the task tools for agents that run elsewhere.
"""

from collections.abc import AsyncGenerator

from todochat.events import Event, Message, unfold

THINKING = "Processing your request..."  # what a user reads until there is something of the answer


async def replay(answer: Message) -> AsyncGenerator[list[Event], None]:
    """Yield the events of a finished answer in one batch, as `Run.follow` yields those of a live one in many."""
    yield unfold(answer)
