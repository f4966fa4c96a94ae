"""What is logged of turns and of mistakes: nothing that anybody said."""

import json
import logging
import re
import time
import traceback
from collections import Counter

from todochat.events import Event, Status

log = logging.getLogger("todochat")


class TurnLog:
    """Collects what is logged of one turn when it has ended: who, which model, how long, which tools, which end."""

    def __init__(self, user_id: str, conversation_id: int) -> None:
        self.tokens: tuple[int, int] | None = None  # input, output; None while unknown
        self._turn = f"user={user_id!r} conversation={conversation_id}"
        self._began = time.monotonic()
        self.first_text_after: float | None = None  # seconds; None if there was none
        self._tools: list[str] = []

    def note(self, event: Event) -> None:
        """Note an event of the turn."""
        if event["type"] == "text" and self.first_text_after is None:
            self.first_text_after = time.monotonic() - self._began
        elif event["type"] == "tool_call":
            self._tools.append(re.sub(r"[^\w.-]", "?", event["name"][:64]))  # a model can invent any name

    def write(self, model: str, status: Status) -> None:
        """Write the line."""
        tokens = "{}+{}".format(*self.tokens) if self.tokens else "-"
        first = "-" if self.first_text_after is None else f"{1000 * self.first_text_after:.0f}"
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


class JsonFormatter(logging.Formatter):
    """Makes each record of the log one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, style: str) -> None:
    """Have the process's log written to stderr: "text", or "json"."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(level)
    if style == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


class Sparing:
    """Says each thing a few times a minute only, so that nobody can fill the log."""

    MOST = 5  # lines of a kind in a minute

    def __init__(self) -> None:
        self._minute = 0
        self._seen: Counter[str] = Counter()

    def allows(self, kind: str) -> bool:
        """Count one of a kind; return whether it is one of the first in this minute."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._seen = minute, Counter()
        self._seen[kind] += 1
        return self._seen[kind] <= self.MOST

    def note(self, level: int, text: str, kind: str) -> None:
        """Log a text about a kind of thing, or only count it."""
        if self.allows(kind):
            last = " (no more of these in this minute)" if self._seen[kind] == self.MOST else ""
            log.log(level, "%s: %s%s", text, kind, last)

    def filter(self, record: logging.LogRecord) -> bool:
        """Be a filter of another library's logger."""
        return self.allows(str(record.msg))
