"""The settings: read from the environment once, checked, and each wrong one said in a sentence."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ALGORITHMS = ("HS256", "RS256", "ES256")


class BadSetting(Exception):
    """A setting cannot be used; the text is a sentence for whoever starts the server."""


@dataclass(frozen=True)
class Settings:
    """All settings but the model's, with their defaults. README.md has the table. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    # A path, or ":memory:". Beside the code in a folder of one's own, but nothing is put among installed packages.
    database: str = "todochat.db" if __package__ else str(Path(__file__).with_name("todochat.db"))
    secret: str | None = None
    algorithm: str = "HS256"
    public_key: str | None = None  # PEM
    issuer: str | None = None
    audience: str | None = None
    cors_origins: tuple[str, ...] = ("http://localhost:3000", "http://localhost:5173")
    history_limit: int = 50
    log_level: str = "INFO"
    model_idle_timeout: float = 60.0
    tool_timeout: float = 30.0
    max_turns: int = 10
    max_live: int = 200
    max_live_per_user: int = 4

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Return the settings that `env` makes. Raises `BadSetting`."""
        algorithm = _read(env, "JWT_ALGORITHM", _one_of(ALGORITHMS), cls.algorithm)
        public_key = _read(env, "JWT_PUBLIC_KEY", _pem, None)
        if (algorithm == "HS256") == (public_key is not None):
            raise BadSetting("JWT_PUBLIC_KEY and JWT_ALGORITHM=RS256 (or ES256) go together: set both, or neither.")
        return cls(
            host=_read(env, "HOST", _host, cls.host),
            port=_read(env, "PORT", _whole(0, 65535), cls.port),
            database=_read(env, "DATABASE_URL", database_path, cls.database),
            secret=_read(env, "BETTER_AUTH_SECRET", str, None),
            algorithm=algorithm,
            public_key=public_key,
            issuer=_read(env, "JWT_ISSUER", str, None),
            audience=_read(env, "JWT_AUDIENCE", str, None),
            cors_origins=_read(env, "CORS_ORIGINS", _origins, cls.cors_origins),
            history_limit=_read(env, "HISTORY_LIMIT", _whole(1, 10_000), cls.history_limit),
            log_level=_read(env, "LOG_LEVEL", lambda text: _one_of(LOG_LEVELS)(text.upper()), cls.log_level),
            model_idle_timeout=_read(env, "MODEL_IDLE_TIMEOUT", _seconds, cls.model_idle_timeout),
            tool_timeout=_read(env, "TOOL_TIMEOUT", _seconds, cls.tool_timeout),
            max_turns=_read(env, "MAX_TURNS", _whole(1, 1000), cls.max_turns),
            max_live=_read(env, "MAX_LIVE", _whole(1, 100_000), cls.max_live),
            max_live_per_user=_read(env, "MAX_LIVE_PER_USER", _whole(1, 100_000), cls.max_live_per_user),
        )

    @property
    def is_loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def database_path(url: str) -> str:
    """Return the path in `sqlite:///path` (":memory:" for `sqlite://`). Raises `ValueError`."""
    found = re.fullmatch(r"sqlite://(?:/(.+))?", url)
    if found is None:
        raise ValueError("it must look like sqlite:///path")
    path = found[1] or ":memory:"
    if re.search("[?#]|://", path):  # what other programs take for options would become a part of the file's name
        raise ValueError("it must look like sqlite:///path, and the path must hold no options: no ?, no # and no ://")
    return path


def store_path(url: str) -> str:
    """Return the path in a URL that the code gives. Raises `BadSetting`."""
    return _read({"store": url}, "store", database_path, ":memory:")


def _read(env: Mapping[str, str], name: str, parse: Callable[[str], T], default: T) -> T:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        return parse(text)
    except ValueError as error:
        # A URL may hold a password, wherever it was put by mistake.
        hidden = re.search("KEY|SECRET|URL|store", name) or re.search("://|@", text)
        shown = "" if hidden else f" is {text!r}"
        raise BadSetting(f"{name}{shown}: {error}.") from error


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return text

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text) or float(text) == 0:
        raise ValueError("it must be a number of seconds above 0")
    return float(text)


def _host(text: str) -> str:
    if re.search("[/@]", text):
        raise ValueError("it must be a host's name or address, such as 127.0.0.1")
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip().rstrip("/") for origin in text.split(",") if origin.strip())
    for n, origin in enumerate(origins, 1):
        if origin != "*" and not re.fullmatch(r"https?://[^/\s@]+", origin):
            raise ValueError(f"number {n} is not an origin such as https://example.com")
    return origins


def _pem(text: str) -> str:
    try:
        key = text if "-----BEGIN" in text else Path(text).read_text()
    except (OSError, UnicodeDecodeError):
        raise ValueError("it must be a public key in PEM, or the path of a file that can be read") from None
    if "PRIVATE KEY" in key:
        raise ValueError("it is a private key, which belongs to whoever makes the tokens: give the public one")
    return key.replace("\\n", "\n")  # as .env files have it
