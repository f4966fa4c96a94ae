"""Bearer token to user id: a strict verifier around python-jose, and what the settings ask of tokens.

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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jose import jws
from jose.backends.base import Key
from jose.exceptions import JOSEError
from jose.utils import base64url_decode, base64url_encode
from starlette.requests import Request

from todochat.auth.jwks import KeySet
from todochat.auth.keys import MIN_SECRET, FixedKeys, Keys, Refused, UnfitKey
from todochat.files import open_own
from todochat.logs import Sparing
from todochat.settings import BadSetting, Settings, several

log = logging.getLogger("todochat")

MAX_TOKEN = 8 * 1024  # characters
LEEWAY = 30  # seconds by which the clocks of two machines may differ

Authenticate = Callable[[Request], Awaitable[str | None]]  # the id of the user who asks; None is answered with 401

_SHAPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_USER_ID = re.compile(r"[\x20-\x7e]{1,255}")


class Verifier:
    """Checks tokens that are signed with one of the keys, in the way that is the key's.

    A token's `iss` must be one of the issuers, if there are any. Its `aud` must name one of the audiences; a token that
    names an audience is refused when there are none (RFC 7519, section 4.1.3). The user is what `user_claim` says.
    """

    def __init__(
        self, keys: Keys, *, issuers: Sequence[str] = (), audiences: Sequence[str] = (), user_claim: str = "sub"
    ) -> None:
        self._keys = keys
        self._issuers = frozenset(issuers)
        self._audiences = frozenset(audiences)
        self._user_claim = user_claim

    async def check(self, token: str) -> str:
        """Return the id of the token's user if every check passes. Raises `Refused` and nothing else.

        The claims are judged once the signature is found good, so a reason that is about them is about a real token.
        """
        try:
            algorithm, kid = _header_of(token)
            keys = await self._keys.for_token(algorithm, kid)
            return self._accept(_parsed(_verified(token, keys, algorithm)))
        except (JOSEError, ValueError, TypeError, OverflowError, RecursionError, KeyError, AttributeError):
            # Each of these has come out of python-jose or json for some forged token.
            raise Refused("malformed") from None

    def _accept(self, claims: Any) -> str:
        _require("malformed", isinstance(claims, Mapping))
        now, user_id = time.time(), claims.get(self._user_claim)
        _require("time", _is_time(claims.get("exp")))
        begins = [claims[name] for name in ("nbf", "iat") if name in claims]
        _require("time", all(_is_time(begin) and begin <= now + LEEWAY for begin in begins))
        _require("expired", now < claims["exp"] + LEEWAY)
        issuer, audience = claims.get("iss"), claims.get("aud")
        _require("issuer", not self._issuers or (isinstance(issuer, str) and issuer in self._issuers))
        _require("audience", self._for_us(audience))
        _require("subject", isinstance(user_id, str) and _USER_ID.fullmatch(user_id))
        return str(user_id)

    def _for_us(self, audience: object) -> bool:
        if not self._audiences:
            return audience is None
        named = audience if isinstance(audience, list) else [audience]
        return any(isinstance(name, str) and name in self._audiences for name in named)


def _header_of(token: str) -> tuple[str, str | None]:
    """Return the algorithm and the name of the key (`kid`) in a token's header. Nothing of it is true as yet."""
    _require("malformed", len(token) <= MAX_TOKEN and _SHAPE.fullmatch(token))
    segments = token.encode().split(b".")
    one_spelling = all(base64url_encode(base64url_decode(segment)) == segment for segment in segments)
    _require("malformed", one_spelling)
    header = _parsed(base64url_decode(segments[0]))
    _require("malformed", isinstance(header, Mapping))
    algorithm, kid = header.get("alg"), header.get("kid")
    _require("algorithm", isinstance(algorithm, str))
    _require("header", not {"crit", "b64"} & header.keys() and isinstance(kid, str | None))
    return algorithm, kid


def _verified(token: str, keys: Sequence[Key], algorithm: str) -> bytes:
    """Return what the token says, if one of the keys has signed it."""
    for key in keys:
        with suppress(JOSEError):
            return jws.verify(token, key, [algorithm])
    raise Refused("signature")


def _parsed(text: bytes) -> Any:
    """Return what JSON says, if it says nothing twice: which of the two holds would be everyone's own guess."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require("malformed", len(dict(pairs)) == len(pairs))
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def bearer(verifier: Verifier) -> Authenticate:
    """Return the `authenticate` that checks `Authorization: Bearer <token>`, and tells the log why one is refused."""
    refusals = Sparing()

    async def authenticate(request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            _require("missing", scheme.lower() == "bearer")
            return await verifier.check(token.strip())
        except Refused as refused:
            refusals.note(logging.INFO, "401, token refused", str(refused))
            return None

    return authenticate


def sign(user_id: str, secret: str, *, lifetime: float, claims: Mapping[str, str] | None = None) -> str:
    """Return an HS256 token for a user, with these claims too, that ends `lifetime` seconds from now.

    Raises `ValueError` if this is no id.
    """
    if not _USER_ID.fullmatch(user_id):
        raise ValueError("A user's name has 1 to 255 printable ASCII characters.")
    all_claims = {"sub": user_id, **(claims or {}), "exp": int(time.time() + lifetime)}
    return str(jws.sign(all_claims, secret, algorithm="HS256"))


def token_for(user_id: str, settings: Settings, lifetime: float) -> str:
    """Return a token that the settings' verifier accepts. Raises `BadSetting` if none can be made."""
    if settings.public_key or settings.jwks_url:
        raise BadSetting("With JWT_PUBLIC_KEY or JWT_JWKS_URL only the owner of the private key can make tokens.")
    verifier_for(settings, settings.database)  # or the secret might be none
    secret, *_ = secrets_of(settings, settings.database)
    named = {"iss": settings.issuer, "aud": settings.audience}
    claims = {settings.user_claim: user_id} | {name: several(names)[0] for name, names in named.items() if names}
    try:
        return sign(user_id, secret, lifetime=lifetime, claims=claims)
    except ValueError as error:
        raise BadSetting(str(error)) from None


def verifier_for(settings: Settings, database: str) -> Verifier:
    """Return the verifier that the settings ask for; without any of them, one for the demo's own secret.

    Raises `BadSetting`.
    """
    if settings.jwks_url and not settings.audience:
        log.warning("JWT_AUDIENCE is not set: tokens that name an audience are refused, and Better Auth's always do")
    return Verifier(
        KeySet(settings.jwks_url) if settings.jwks_url else _fixed_keys(settings, database),
        issuers=several(settings.issuer),
        audiences=several(settings.audience),
        user_claim=settings.user_claim,
    )


def _fixed_keys(settings: Settings, database: str) -> FixedKeys:
    try:
        texts = (settings.public_key,) if settings.public_key else secrets_of(settings, database)
        return FixedKeys(settings.algorithm, *texts)
    except UnfitKey as error:
        name = "JWT_PUBLIC_KEY" if settings.public_key else "BETTER_AUTH_SECRET" if settings.secret else ""
        name = name or f"{database}.secret, which you can delete,"  # the disk was full when it was made
        raise BadSetting(f"{name} cannot be used: {error}") from None


def secrets_of(settings: Settings, database: str) -> Sequence[str]:
    """Return the secrets of HS256 tokens, the first for signing: the configured ones, or the demo's."""
    if not settings.secret:
        return (demo_secret(database),)
    parts = several(settings.secret)
    are_secrets = parts and all(len(part) >= MIN_SECRET for part in parts)
    return parts if are_secrets else (settings.secret,)  # or the comma is a part of a secret, as it may be


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
        pass
    except OSError as error:
        raise BadSetting(f"Cannot write {path} ({error.strerror}): set BETTER_AUTH_SECRET.") from error
    try:
        with open(open_own(str(path), os.O_RDONLY)) as file:
            if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise BadSetting(f"{path} can be read by others, so it is no secret: delete it, or chmod 600.")
            return file.read()
    except OSError as error:
        raise BadSetting(f"Cannot use {path} ({error.strerror}): delete it, or set BETTER_AUTH_SECRET.") from None
    except UnicodeDecodeError:
        raise BadSetting(f"Cannot read {path}: delete it, or set BETTER_AUTH_SECRET.") from None


def _require(reason: str, passed: object) -> None:
    if not passed:
        raise Refused(reason)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
