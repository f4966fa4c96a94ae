"""What a model's client, the model and the turn tell each other, for which the Agents SDK's interface has no place.

It goes by context variables, which the SDK's tasks inherit: nothing global, and each turn has its own.
"""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Pulse:
    """When a turn's model was last heard of: any byte is a sign of life, and so is any event."""

    last: float  # by the loop's clock
    beating: bool = False  # whether it has been heard of at all in this turn: until then it may be starting

    def beat(self) -> None:
        """Take note of a sign of life."""
        self.last, self.beating = asyncio.get_running_loop().time(), True


@dataclass
class Exchange:
    """One request to a model, and the answer to it."""

    signatures: dict[str, Any] = field(default_factory=dict)  # to be given back with calls, by the ids of these
    keeps_thoughts: bool = True  # whether the server may want its thoughts back


PULSE: ContextVar[Pulse | None] = ContextVar("todochat_pulse", default=None)
EXCHANGE: ContextVar[Exchange | None] = ContextVar("todochat_exchange", default=None)


def begin_pulse() -> Pulse:
    """Return the pulse of a turn that begins, of which everything called from here on takes note."""
    pulse = Pulse(asyncio.get_running_loop().time())
    PULSE.set(pulse)
    return pulse
