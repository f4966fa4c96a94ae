"""What is logged of turns and of mistakes: nothing that anybody said."""

import logging
import re
import time
import traceback

from todochat.events import Event, Status

log = logging.getLogger("todochat")


class TurnLog:
    """Collects what is logged of one turn when it has ended: who, which model, how long, which tools, which end."""

    def __init__(self, user_id: str, conversation_id: int) -> None:
        self.tokens: tuple[int, int] | None = None  # input, output; None while unknown
        self._turn = f"user={user_id!r} conversation={conversation_id}"
        self._began = time.monotonic()
        self._first_text: float | None = None
        self._tools: list[str] = []

    def note(self, event: Event) -> None:
        """Note an event of the turn."""
        if event["type"] == "text" and self._first_text is None:
            self._first_text = time.monotonic()
        elif event["type"] == "tool_call":
            self._tools.append(re.sub(r"[^\w.-]", "?", event["name"][:64]))  # a model can invent any name

    def write(self, model: str, status: Status) -> None:
        """Write the line."""
        tokens = "{}+{}".format(*self.tokens) if self.tokens else "-"
        first = "-" if self._first_text is None else f"{1000 * (self._first_text - self._began):.0f}"
        total = f"{1000 * (time.monotonic() - self._began):.0f}"
        log.info(
            f"turn {self._turn} model={model} tokens={tokens} tools={','.join(self._tools) or '-'} "
            f"first_text_ms={first} total_ms={total} state={status}"
        )


def log_mistake(what: str, error: BaseException) -> None:
    """Log where an error happened, but not what it says: its text may quote what somebody wrote."""
    trace = reversed(traceback.extract_tb(error.__traceback__)[-4:])
    place = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in trace)
    log.error("%s: %s at %s", what, type(error).__name__, place)
