"""What a model is to say: the user's message, "DELTAS PACE BURST TOOL".

How many text deltas, how many milliseconds between two bursts of them, how many in a burst, and 1 for a tool call
first. With a pace each delta is the moment at which it was made (CLOCK_MONOTONIC, which all processes share), so that
the client can tell by how much a frame was delayed.
"""

import time
from dataclasses import dataclass

TOOL_ARGUMENTS = '{"title": "Buy milk"}'


@dataclass(frozen=True)
class Script:
    """What the model is to do. `pace` is in seconds."""

    deltas: int
    pace: float = 0.0
    burst: int = 1
    tool: bool = False

    @classmethod
    def parse(cls, message: str) -> "Script":
        """Read the user's message."""
        deltas, pace, burst, tool = message.split()
        return cls(int(deltas), float(pace) / 1000, int(burst), tool == "1")

    @property
    def message(self) -> str:
        """Return the message that asks for it."""
        return f"{self.deltas} {1000 * self.pace:g} {self.burst} {int(self.tool)}"

    def delta(self, n: int) -> str:
        """Return the n-th delta, made now."""
        return f"{time.monotonic_ns()} " if self.pace else f"word{n} "
