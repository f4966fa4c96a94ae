"""Bearer token to user id: a strict verifier around python-jose, and the keys that the settings give it.

A JSON Web Token (RFC 7519) is accepted only as the one kind that is configured here. python-jose 3.5 decides too much
by the token itself and accepts odd claims, so its answer is one of several that must all be yes.
"""

import json
import logging
import math
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from jose import jwk, jws
from jose.exceptions import JOSEError
from jose.utils import base64url_decode, base64url_encode
from starlette.requests import Request

from todochat.settings import BadSetting, Settings

log = logging.getLogger("todochat")

MAX_TOKEN = 8 * 1024  # characters
MIN_SECRET = 32  # bytes: a shorter key than the hash can be found by trying (RFC 7518, section 3.2)
MAX_LINES = 5  # in the log, of one reason in one minute

Authenticate = Callable[[Request], Awaitable[str | None]]  # the id of the user who asks; None is answered with 401

_KINDS = {"HS256": ("oct", None), "RS256": ("RSA", None), "ES256": ("EC", "P-256")}  # RFC 7518
_SHAPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_USER_ID = re.compile(r"[\x20-\x7e]{1,255}")


class UnfitKey(ValueError):
    """The configured key cannot be used; the text is a sentence for whoever starts the server."""


class Refused(Exception):
    """A token is not accepted; the text is the reason, in one word, and has nothing of the token in it."""


class Verifier:
    """Checks tokens signed with one key and one algorithm: HS256 with a secret, RS256 or ES256 with a public key (PEM).

    `issuer` and `audience` must match the token's `iss` and `aud` when they are given. A token that names an audience
    is refused when none is configured (RFC 7519, section 4.1.3). Raises `UnfitKey` if the key is unfit.
    """

    def __init__(
        self, key: str, algorithm: str = "HS256", *, issuer: str | None = None, audience: str | None = None
    ) -> None:
        if algorithm == "HS256" and len(key.encode("utf-8", "surrogateescape")) < MIN_SECRET:
            raise UnfitKey(f"The secret is shorter than {MIN_SECRET} bytes.")
        try:
            # Built once: given a string, python-jose would guess anew for each token what kind of key it is.
            self._key = jwk.construct(key, algorithm)
            kind = self._key.to_dict()  # it takes an elliptic key for RSA until the key is used
        except (JOSEError, ValueError, TypeError, AttributeError):
            raise UnfitKey(f"This is not a key for {algorithm}.") from None  # python-jose's text quotes the key
        if (kind["kty"], kind.get("crv")) != _KINDS[algorithm]:
            raise UnfitKey(f"This is not a key for {algorithm}.")
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience

    def user_id(self, token: str) -> str | None:
        """Return the token's `sub` if every check passes, else None. Never raises."""
        try:
            return self.check(token)
        except Refused:
            return None

    def check(self, token: str) -> str:
        """Return the token's `sub` if every check passes. Raises `Refused` and nothing else.

        The claims are judged once the signature is found good, so a reason that is about them is about a real token.
        """
        try:
            _require("malformed", len(token) <= MAX_TOKEN and _SHAPE.fullmatch(token))
            self._look_at_header(token)
            try:
                claims = jws.verify(token, self._key, [self._algorithm])
            except JOSEError:
                raise Refused("signature") from None
            return self._accept(json.loads(claims))
        except (JOSEError, ValueError, TypeError, OverflowError, RecursionError, KeyError, AttributeError):
            # Each of these has come out of python-jose or json for some forged token.
            raise Refused("malformed") from None

    def _look_at_header(self, token: str) -> None:
        segments = token.encode().split(b".")
        one_spelling = all(base64url_encode(base64url_decode(segment)) == segment for segment in segments)
        _require("malformed", one_spelling)
        header = jws.get_unverified_header(token)
        _require("algorithm", header.get("alg") == self._algorithm)
        _require("header", not {"crit", "b64"} & header.keys())

    def _accept(self, claims: Any) -> str:
        _require("malformed", isinstance(claims, Mapping))
        now, user_id = time.time(), claims.get("sub")
        _require("time", _is_time(claims.get("exp")))
        _require("time", all(_is_time(claims[name]) for name in ("nbf", "iat") if name in claims))
        _require("time", claims.get("nbf", now) <= now)
        _require("expired", now < claims["exp"])
        _require("issuer", self._issuer is None or claims.get("iss") == self._issuer)
        _require("audience", self._for_us(claims.get("aud")))
        _require("subject", isinstance(user_id, str) and _USER_ID.fullmatch(user_id))
        return str(user_id)

    def _for_us(self, audience: object) -> bool:
        if self._audience is None:
            return audience is None
        return self._audience in (audience if isinstance(audience, list) else [audience])


def bearer(verifier: Verifier) -> Authenticate:
    """Return the `authenticate` that checks `Authorization: Bearer <token>`, and tells the log why one is refused."""
    refusals = RefusalLog()

    async def authenticate(request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            _require("missing", scheme.lower() == "bearer")
            return verifier.check(token.strip())
        except Refused as refused:
            refusals.note(str(refused))
            return None

    return authenticate


class RefusalLog:
    """Says in the log why requests get their 401, a few times a minute for each reason, so that nobody can flood it."""

    def __init__(self) -> None:
        self._minute = 0
        self._seen: Counter[str] = Counter()

    def note(self, reason: str) -> None:
        """Log the reason, or only count it."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._seen = minute, Counter()
        self._seen[reason] += 1
        if self._seen[reason] <= MAX_LINES:
            last = " (no more of these in this minute)" if self._seen[reason] == MAX_LINES else ""
            log.info("401, token refused: %s%s", reason, last)


def sign(user_id: str, secret: str, *, lifetime: float, issuer: str | None = None, audience: str | None = None) -> str:
    """Return an HS256 token for `user_id` that ends `lifetime` seconds from now."""
    claims: dict[str, Any] = {"sub": user_id, "exp": int(time.time() + lifetime)}
    claims |= {"iss": issuer} if issuer else {}
    claims |= {"aud": audience} if audience else {}
    return str(jws.sign(claims, secret, algorithm="HS256"))


def verifier_for(settings: Settings, database: str) -> Verifier:
    """Return the verifier that the settings ask for; without any of them, one for the demo's own secret.

    Raises `BadSetting`.
    """
    try:
        key = settings.public_key or secret_of(settings, database)
        return Verifier(key, settings.algorithm, issuer=settings.issuer, audience=settings.audience)
    except UnfitKey as error:
        name = "JWT_PUBLIC_KEY" if settings.public_key else "BETTER_AUTH_SECRET" if settings.secret else ""
        name = name or f"{database}.secret, which you can delete,"  # the disk was full when it was made
        raise BadSetting(f"{name} cannot be used: {error}") from None


def secret_of(settings: Settings, database: str) -> str:
    """Return the secret that HS256 tokens are signed with: the configured one, or the demo's."""
    return settings.secret or demo_secret(database)


def demo_secret(database: str) -> str:
    """Return the random secret kept beside the database, in a file that only its owner can read; make it if need be.

    Raises `BadSetting`.
    """
    if database == ":memory:" or "://" in database:
        raise BadSetting("A database in memory or on a server has no place for a secret: set BETTER_AUTH_SECRET.")
    path = Path(f"{database}.secret")
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BadSetting(f"{path} can be read by others, so it is no secret: delete it, or chmod 600.") from None
    except OSError as error:
        raise BadSetting(f"Cannot write {path} ({error.strerror}): set BETTER_AUTH_SECRET.") from error
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        raise BadSetting(f"Cannot read {path}: delete it, or set BETTER_AUTH_SECRET.") from None


def _require(reason: str, passed: object) -> None:
    if not passed:
        raise Refused(reason)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
