"""Bearer token to user id: a strict verifier around python-jose.

A JSON Web Token (RFC 7519) is accepted only as the one kind that is configured here. python-jose 3.5 decides too much
by the token itself and accepts odd claims, so its answer is one of several that must all be yes.
"""

import base64
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from jose import jwk, jws
from jose.exceptions import JOSEError

MAX_TOKEN = 8 * 1024  # characters
MIN_SECRET = 32  # bytes: a shorter key than the hash can be found by trying (RFC 7518, section 3.2)

_KINDS = {"HS256": ("oct", None), "RS256": ("RSA", None), "ES256": ("EC", "P-256")}  # RFC 7518
_SHAPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_USER_ID = re.compile(r"[\x20-\x7e]{1,255}")


class UnfitKey(ValueError):
    """The configured key cannot be used; the text is a sentence for whoever starts the server."""


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
        except (JOSEError, ValueError, TypeError, AttributeError) as error:
            raise UnfitKey(f"This is not a key for {algorithm}.") from error
        if (kind["kty"], kind.get("crv")) != _KINDS[algorithm]:
            raise UnfitKey(f"This is not a key for {algorithm}.")
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience

    def user_id(self, token: str) -> str | None:
        """Return the token's `sub` if every check passes, else None. Never raises."""
        if len(token) > MAX_TOKEN or not _SHAPE.fullmatch(token):
            return None
        try:
            if not self._may_be_ours(token):
                return None
            claims = json.loads(jws.verify(token, self._key, [self._algorithm]))
            return self._accept(claims)
        except (JOSEError, ValueError, TypeError, OverflowError, RecursionError, KeyError, AttributeError):
            return None  # each of these has come out of python-jose or json for some forged token

    def _may_be_ours(self, token: str) -> bool:
        segments = token.split(".")
        header = json.loads(_decode(segments[0]))
        return (
            all(_encode(_decode(segment)) == segment for segment in segments)  # one spelling for each token
            and isinstance(header, Mapping)
            and header.get("alg") == self._algorithm
            and not {"crit", "b64"} & header.keys()
        )

    def _accept(self, claims: Any) -> str | None:
        if not isinstance(claims, Mapping):
            return None
        now, user_id = time.time(), claims.get("sub")
        in_time = _is_time(claims.get("exp")) and now < claims["exp"]
        in_time = in_time and all(_is_time(claims[name]) for name in ("nbf", "iat") if name in claims)
        in_time = in_time and claims.get("nbf", now) <= now
        from_issuer = self._issuer is None or claims.get("iss") == self._issuer
        known = isinstance(user_id, str) and _USER_ID.fullmatch(user_id)
        return user_id if in_time and from_issuer and self._for_us(claims.get("aud")) and known else None

    def _for_us(self, audience: Any) -> bool:
        if audience is None:
            return self._audience is None
        named = [audience] if isinstance(audience, str) else audience
        return isinstance(named, list) and self._audience is not None and self._audience in named


def sign(user_id: str, secret: str, *, lifetime: float, issuer: str | None = None, audience: str | None = None) -> str:
    """Return an HS256 token for `user_id` that ends `lifetime` seconds from now."""
    claims: dict[str, Any] = {"sub": user_id, "exp": int(time.time() + lifetime)}
    claims |= {"iss": issuer} if issuer else {}
    claims |= {"aud": audience} if audience else {}
    return str(jws.sign(claims, secret, algorithm="HS256"))


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
