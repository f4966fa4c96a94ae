"""How long a model and its tools may be silent, and how much one answer may be."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from todochat.turns.errors import TooMuch

STARTING = 5.0  # seconds in which nothing has come of a model: a local server may be loading it


@dataclass(frozen=True)
class AnswerLimits:
    """How much one answer may be: characters that its models write, calls of tools, and seconds from its beginning."""

    characters: int = 1_500_000
    calls: int = 100
    seconds: float = 1800.0


@dataclass
class Pulse:
    """When a turn's model was last heard of: any byte is a sign of life, and so is any event; and what came of it."""

    last: float  # by the loop's clock
    beating: bool = False  # whether it has been heard of at all in this turn: until then it may be starting
    limits: AnswerLimits = field(default_factory=AnswerLimits)
    characters: int = 0  # of texts, thoughts and arguments of tools, those of agents that are tools too
    calls: int = 0

    def beat(self) -> None:
        """Take note of a sign of life."""
        self.last, self.beating = asyncio.get_running_loop().time(), True

    def take(self, characters: int = 0, calls: int = 0) -> None:
        """Take note of what came of a model. Raises `TooMuch`, whose text is a sentence for the user."""
        self.characters += characters
        self.calls += calls
        if self.characters > self.limits.characters:
            raise TooMuch(f"This answer is longer than {self.limits.characters} characters{_ENDS}")
        if self.calls > self.limits.calls:
            raise TooMuch(f"The assistant wanted more than {self.limits.calls} tool calls for this answer{_ENDS}")


def amount(event: Any, begun: set[object]) -> tuple[int, int]:
    """Return how many characters come with an event, and how many calls of tools beside those that have `begun`."""
    if isinstance(delta := getattr(event, "delta", None), str):  # of a text, a thought, or a tool's arguments
        return len(delta), 0
    before = len(begun)
    if event.type in ("response.output_item.added", "response.output_item.done"):
        if event.item.type.endswith("_call"):
            begun.add((getattr(event, "output_index", None), getattr(event.item, "call_id", None)))
    elif event.type == "response.completed":  # some models send their items with this alone, and some calls without ids
        calls = sum(item.type.endswith("_call") for item in event.response.output or ())
        begun.update(range(calls - before))
    return 0, len(begun) - before


_ENDS = ", more than this server allows, so it ends here. Please ask for less at once."


# That of the turn; the tasks that the Agents SDK makes in it inherit this.
PULSE: ContextVar[Pulse | None] = ContextVar("todochat_pulse", default=None)


def begin_pulse(limits: AnswerLimits) -> Pulse:
    """Return the pulse of a turn that begins, of which everything called from here on takes note."""
    pulse = Pulse(asyncio.get_running_loop().time(), limits=limits)
    PULSE.set(pulse)
    return pulse


@dataclass(frozen=True)
class Patience:
    """For how many seconds a model may be silent, a tool at work, and a model that nothing has come of in this turn."""

    model: float = 60.0
    tool: float = 30.0
    start: float = 300.0


class Watchdog:
    """Cancels a run that is silent or goes on for too long; tells once if its model is slow to start.

    One timer for the whole run: a timeout around each event would cost more than all else that we do for a text delta.
    """

    def __init__(
        self, pulse: Pulse, patience: Patience, cancel: Callable[[], None], tell_starting: Callable[[], None]
    ) -> None:
        self.running: dict[str, str] = {}  # the tools that have been called and not answered: id to name
        self.verdict: str | None = None
        self._pulse, self._patience, self._cancel, self._tell_starting = pulse, patience, cancel, tell_starting
        self._told = False
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + pulse.limits.seconds
        self._interval = min(patience.model, patience.tool, patience.start, pulse.limits.seconds, STARTING)
        self._timer = self._loop.call_later(self._interval, self._look)

    def heard(self) -> None:
        """Take note that something happens in the run."""
        self._pulse.last = self._loop.time()

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        left = self._ends - self._loop.time()
        if left <= 0:
            self.verdict = f"This answer took longer than {self._pulse.limits.seconds:g} seconds{_ENDS}"
            self._cancel()
            return
        silence = self._loop.time() - self._pulse.last
        starting = not (self._pulse.beating or self.running)
        patience = self._patience
        allowed = patience.start if starting else patience.tool if self.running else patience.model
        if silence >= allowed:
            who = f"The tool {next(iter(self.running.values()))}" if self.running else "The model"
            self.verdict = f"{who} did not answer within {allowed:g} seconds. Please try again."
            self._cancel()
            return
        if starting and not self._told and silence >= STARTING:
            self._told = True
            self._tell_starting()
        self._timer = self._loop.call_later(min(allowed - silence, self._interval, left), self._look)
