"""The settings: read from the environment once, checked, and each wrong one said in a sentence."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from todochat.dates import timezone_named
from todochat.db import Limits
from todochat.engines import POSTGRES
from todochat.shares import Room
from todochat.turns.watchdog import AnswerLimits, Patience

Parsed = TypeVar("Parsed")

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
LOCAL_ORIGINS = ("http://localhost:3000", "http://localhost:5173")


class BadSetting(Exception):
    """A setting cannot be used; the text is a sentence for whoever starts the server."""


def default_database() -> str:
    """Return where the database is if nobody says: beside the code in a checkout, else in the working directory.

    A checkout is a folder with pyproject.toml, which is not installed: nothing is put among installed packages.
    """
    is_checkout = Path(__file__).with_name("pyproject.toml").is_file()
    return str(Path(__file__).with_name("todochat.db")) if is_checkout else "todochat.db"


def database_path(url: str) -> str:
    """Return what `Store.open` takes for a URL: the path in `sqlite:///path` (":memory:" for `sqlite://`), or the URL.

    Raises `ValueError`.
    """
    if url.startswith(POSTGRES):
        return url
    found = re.fullmatch(r"sqlite://(?:/(.+))?", url)
    if found is None:
        raise ValueError("it must look like sqlite:///path or postgresql://user:password@host/database")
    path = found[1] or ":memory:"
    if re.search("[?#]|://", path):  # what other programs take for options would become a part of the file's name
        raise ValueError("it must look like sqlite:///path, and the path must hold no options: no ?, no # and no ://")
    return path


def store_path(url: str) -> str:
    """Return what `Store.open` takes for a URL that the code gives. Raises `BadSetting`."""
    return _read({"store": url}, "store", database_path, ":memory:")


def _read(env: Mapping[str, str], name: str, parse: Callable[[str], Parsed], default: Parsed) -> Parsed:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        return parse(text)
    except ValueError as error:
        # A URL may hold a password, wherever it was put by mistake.
        hidden = re.search("KEY|SECRET|URL|METRICS_TOKEN|store", name) or re.search("://|@", text)
        shown = "" if hidden else f" is {text!r}"
        raise BadSetting(f"{name}{shown}: {error}.") from error


def _one_of(choices: tuple[str, ...], text: str) -> str:
    if text not in choices:
        raise ValueError(f"it must be one of {', '.join(choices)}")
    return text


def _whole(low: int, high: int, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ValueError(f"it must be a whole number from {low} to {high}")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text) or float(text) == 0:
        raise ValueError("it must be a number of seconds above 0")
    return float(text)


def _host(text: str) -> str:
    if re.search("[/@]", text):
        raise ValueError("it must be a host's name or address, such as 127.0.0.1")
    return text


def several(text: str | None) -> tuple[str, ...]:
    """Return the parts of a setting that may name several things, by comma."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _several(text: str) -> str:
    if not several(text):
        raise ValueError("it names nothing")  # and no check would be made
    return text


def _each(pattern: str, what: str, text: str) -> tuple[str, ...]:
    parts = several(text)
    for n, part in enumerate(parts, 1):
        if not re.fullmatch(pattern, part):
            raise ValueError(f"number {n} is not {what}")
    return parts


def _origins(text: str) -> tuple[str, ...]:
    found = _each(r"\*|https?://(\*\.)?[^/\s@*]+/?", "an origin such as https://example.com", text)
    return tuple(origin.rstrip("/") for origin in found)


def _hosts(text: str) -> tuple[str, ...]:
    pattern = r"(\*\.)?[^/\s@:*]+|\[[0-9a-fA-F:.]+\]"
    return _each(pattern, "a host such as chat.example.com, without a port", _several(text))


def _metrics_token(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{16,}", text):
        raise ValueError("it must have at least 16 characters, in ASCII and without spaces")
    return text


def _networks(text: str) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(part)) for part in several(_several(text)))
    except ValueError:
        raise ValueError("it must be addresses or networks, such as 192.0.2.7 or 10.0.0.0/8") from None


def _headers(text: str) -> tuple[str, ...]:
    return _each(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", "the name of a header", text)


def _keys_url(text: str) -> str:
    if not is_http_url(text):
        raise ValueError("it must be like https://auth.example.com/api/auth/jwks")
    url = urlsplit(text)
    if url.scheme == "http" and not _is_private(str(url.hostname)):
        raise ValueError("it must begin with https://: on the way here anybody could put in keys of their own")
    return text


def is_http_url(text: str) -> bool:
    """Whether this is the URL of a host, over HTTP or HTTPS, with no user and password in it."""
    try:
        url = urlsplit(text)
        return bool(url.hostname and re.fullmatch(r"(?i)https?://[^/?#@\s]+([/?#]\S*)?", text)) and url.port != 0
    except ValueError:  # of a port or an address that is none
        return False


def _is_private(host: str) -> bool:
    """Whether a host is this machine, or in the own network: by its address, or by a name that is nobody's outside."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".test"))


def _pem(text: str) -> str:
    try:
        key = text if "-----BEGIN" in text else Path(text).read_text()
    except (OSError, UnicodeDecodeError):
        raise ValueError("it must be a public key in PEM, or the path of a file that can be read") from None
    if "PRIVATE KEY" in key:
        raise ValueError("it is a private key, which belongs to whoever makes the tokens: give the public one")
    return key.replace("\\n", "\n")  # as .env files have it


def _setting(name: str, parse: Callable[[str], Parsed], default: Parsed) -> Parsed:
    """Return the field for a setting whose name in the environment is `name`, and whose text there `parse` reads.

    Its type is said to be that of its value, as it is with `dataclasses.field`.
    """
    made: Parsed = field(default=default, metadata={"name": name, "parse": parse})
    return made


@dataclass(frozen=True)
class Settings:
    """All settings but the model's, with their defaults. README.md has the table. Times are in seconds."""

    host: str = _setting("HOST", _host, "127.0.0.1")
    port: int = _setting("PORT", partial(_whole, 0, 65535), 8000)
    database: str = _setting("DATABASE_URL", database_path, default_database())  # a path, ":memory:", or a URL
    secret: str | None = _setting("BETTER_AUTH_SECRET", str, None)  # or several, by comma
    algorithm: str = _setting("JWT_ALGORITHM", partial(_one_of, ALGORITHMS), "HS256")
    public_key: str | None = _setting("JWT_PUBLIC_KEY", _pem, None)  # PEM
    jwks_url: str | None = _setting("JWT_JWKS_URL", _keys_url, None)
    issuer: str | None = _setting("JWT_ISSUER", _several, None)  # or several, as of the audience
    audience: str | None = _setting("JWT_AUDIENCE", _several, None)
    user_claim: str = _setting("JWT_USER_CLAIM", str, "sub")
    allowed_hosts: tuple[str, ...] = _setting("ALLOWED_HOSTS", _hosts, ())  # none: any
    cors_origins: tuple[str, ...] = _setting("CORS_ORIGINS", _origins, ())
    cors_headers: tuple[str, ...] = _setting("CORS_HEADERS", _headers, ())
    history_limit: int = _setting("HISTORY_LIMIT", partial(_whole, 1, 10_000), 50)
    timezone: str = _setting("TIMEZONE", timezone_named, "UTC")
    history_chars: int = _setting("HISTORY_CHARS", partial(_whole, 1000, 100_000_000), 60_000)
    log_level: str = _setting("LOG_LEVEL", lambda text: _one_of(LOG_LEVELS, text.upper()), "INFO")
    log_format: str = _setting("LOG_FORMAT", partial(_one_of, ("text", "json")), "text")
    metrics_token: str | None = _setting("METRICS_TOKEN", _metrics_token, None)
    model_idle_timeout: float = _setting("MODEL_IDLE_TIMEOUT", _seconds, 60.0)
    model_start_timeout: float = _setting("MODEL_START_TIMEOUT", _seconds, 300.0)
    tool_timeout: float = _setting("TOOL_TIMEOUT", _seconds, 30.0)
    max_turns: int = _setting("MAX_TURNS", partial(_whole, 1, 1000), 10)
    max_answer: int = _setting("MAX_ANSWER", partial(_whole, 100, 100_000_000), AnswerLimits.characters)
    max_tool_calls: int = _setting("MAX_TOOL_CALLS", partial(_whole, 1, 100_000), AnswerLimits.calls)
    max_turn_seconds: float = _setting("MAX_TURN_SECONDS", _seconds, AnswerLimits.seconds)
    max_connections_per_address: int | None = _setting("MAX_CONNECTIONS_PER_ADDRESS", partial(_whole, 0, 100_000), None)
    trusted_proxies: tuple[str, ...] = _setting("TRUSTED_PROXIES", _networks, ())
    turns_per_minute: int = _setting("TURNS_PER_MINUTE", partial(_whole, 1, 1_000_000), 60)
    max_tasks: int = _setting("MAX_TASKS", partial(_whole, 1, 10_000_000), Room.tasks)
    max_conversations: int = _setting("MAX_CONVERSATIONS", partial(_whole, 1, 10_000_000), Room.conversations)
    max_stored_mb: int = _setting("MAX_STORED_MB", partial(_whole, 1, 1_000_000), Room.stored // 1_000_000)
    max_tokens_per_day: int | None = _setting("MAX_TOKENS_PER_DAY", partial(_whole, 1, 999_999_999), Room.tokens)
    max_live: int = _setting("MAX_LIVE", partial(_whole, 1, 100_000), 200)
    max_live_per_user: int = _setting("MAX_LIVE_PER_USER", partial(_whole, 1, 100_000), 4)

    @classmethod
    def from_env(cls, env: Mapping[str, str], **defaults: Any) -> "Settings":
        """Return the settings that `env` makes, with other defaults for some of them. Raises `BadSetting`."""
        defaults = {made.name: made.default for made in fields(cls)} | defaults
        values = {made.name: _read(env, **made.metadata, default=defaults[made.name]) for made in fields(cls)}
        settings = cls(**values)
        if settings.jwks_url and settings.public_key:
            raise BadSetting("JWT_JWKS_URL and JWT_PUBLIC_KEY are two sources of keys: set one of them.")
        if not settings.jwks_url and (settings.algorithm == "HS256") == (settings.public_key is not None):
            raise BadSetting(
                "JWT_PUBLIC_KEY and JWT_ALGORITHM=RS256 (or ES256, EdDSA) go together: set both, or neither."
            )
        return settings

    @classmethod
    def for_app(cls, env: Mapping[str, str], *, store: bool, users: bool) -> "Settings":
        """Return the settings of an app inside another: what is not asked for may mean something of the host's own.

        `store` and `users` say whether the environment decides about these. Raises `BadSetting`.
        """
        unasked = {
            "HOST",
            "PORT",
            "LOG_LEVEL",
            "LOG_FORMAT",
            "MAX_CONNECTIONS_PER_ADDRESS",
            "TRUSTED_PROXIES",
        }  # those are for serve.py
        unasked |= set() if store else {"DATABASE_URL"}
        unasked |= set() if users else {"BETTER_AUTH_SECRET", *(name for name in env if name.startswith("JWT_"))}
        return cls.from_env({name: value for name, value in env.items() if name not in unasked})

    @property
    def origin_pattern(self) -> str:
        """The regular expression of the origins whose pages may call."""
        return "|".join(
            ".*" if origin == "*" else re.escape(origin).replace(r"\*", "[a-z0-9.-]+") for origin in self.cors_origins
        )

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of this origin may call."""
        return bool(origin and re.fullmatch(self.origin_pattern, origin))

    @property
    def is_demo(self) -> bool:
        """Whether the tokens are those of the demo, which anybody on this machine may have."""
        return not (self.secret or self.public_key or self.jwks_url)

    @property
    def patience(self) -> Patience:
        """How long a model and its tools may be silent."""
        return Patience(self.model_idle_timeout, self.tool_timeout, self.model_start_timeout)

    @property
    def limits(self) -> Limits:
        """How many messages a turn gets, and how many answers may be live."""
        history = self.history_limit + 1  # one more than the model gets, which tells it whether there are more
        return Limits(history, live=self.max_live, live_per_user=self.max_live_per_user)

    @property
    def answer_limits(self) -> AnswerLimits:
        """How much one answer may be."""
        return AnswerLimits(self.max_answer, self.max_tool_calls, self.max_turn_seconds)

    @property
    def room(self) -> Room:
        """How much a user may have."""
        stored = self.max_stored_mb * 1_000_000
        return Room(self.max_tasks, self.max_conversations, stored, self.max_tokens_per_day)

    @property
    def is_loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
