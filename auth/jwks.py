"""The keys of whoever issues the tokens, from the address where they are published: a JSON Web Key Set (RFC 7517).

Anybody can make us look for a key, with a token that names one. So there is one fetch for all who wait, not more often
than every 30 seconds, or every 2 while there are none: the issuer may start together with us. Whatever goes wrong with
it, the keys of the last one that went well stay in use.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import httpx2
from jose.backends.base import Key

from todochat.auth.keys import KINDS, Refused, TokenKey, UnfitKey, key_of
from todochat.logs import Sparing

log = logging.getLogger("todochat")

PAUSE = 30.0  # seconds at least between two fetches
FIRST_PAUSE = 2.0  # the same, while there are no keys
MAX_AGE = 600.0  # seconds; older keys are fetched again, so that one that was withdrawn does not work for ever
MAX_TIME = 5.0  # seconds that a fetch may take
MAX_SIZE = 64 * 1024  # bytes
MAX_KEYS = 50

PUBLIC: dict[object, str] = {kind: algorithm for algorithm, kind in KINDS.items() if algorithm != "HS256"}


class KeySet:
    """The keys at a URL, fetched when a token first needs one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: Sequence[TokenKey] = ()
        self._asked = float("-inf")  # when the last fetch began
        self._fetch: asyncio.Task[None] | None = None
        self._warnings = Sparing()

    async def for_token(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """See `keys.Keys`: the key of that name; for a token that names none, the only key of its algorithm."""
        if algorithm not in PUBLIC.values():
            raise Refused("algorithm")
        age = time.monotonic() - self._asked
        if not self._named(kid, algorithm):
            if age >= (PAUSE if self._keys else FIRST_PAUSE):
                self._begin()
            if self._fetch is not None:
                await asyncio.shield(self._fetch)  # whoever began it may leave, and the others go on to wait
        elif age >= MAX_AGE:
            self._begin()  # and do not wait for it
        named = self._named(kid, algorithm)
        if not named or (kid is None and len(named) > 1):
            raise Refused("key")
        fitting = [key.key for key in named if key.algorithm == algorithm]
        if not fitting:
            raise Refused("algorithm")
        return fitting

    def _named(self, kid: str | None, algorithm: str) -> Sequence[TokenKey]:
        return [key for key in self._keys if (key.algorithm == algorithm if kid is None else key.kid == kid)]

    def _begin(self) -> None:
        if self._fetch is None:
            self._asked = time.monotonic()
            self._fetch = asyncio.create_task(self._replace_keys())

    async def _replace_keys(self) -> None:
        try:
            self._keys = keys_in(await fetch(self._url))
            if not self._keys:
                log.warning("JWT_JWKS_URL has no key for %s: no token is accepted", ", ".join(PUBLIC.values()))
        except (Unusable, httpx2.HTTPError, TimeoutError, ValueError) as error:
            why = str(error) if isinstance(error, Unusable) else type(error).__name__
            kept = "those fetched before stay in use" if self._keys else "no token can be checked"
            if self._warnings.allows(why):
                log.warning("JWT_JWKS_URL: the keys could not be fetched (%s), %s", why, kept)
        finally:
            self._fetch = None


class Unusable(Exception):
    """What came from the address is no set of keys; the text says why, for the log."""


async def fetch(url: str) -> bytes:
    """Return the body that is at a URL. Raises `Unusable`, `httpx2.HTTPError`, `TimeoutError` or `ValueError`."""
    # No proxy is asked for hosts in the own network, where alone plain HTTP is allowed.
    client = httpx2.AsyncClient(timeout=MAX_TIME, trust_env=url.startswith("https:"), follow_redirects=False)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with asyncio.timeout(MAX_TIME), client, client.stream("GET", url, headers=headers) as response:
        if response.status_code != 200:
            raise Unusable(f"status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():  # nothing is decompressed: a little can become very much
            body += chunk
            if len(body) > MAX_SIZE:
                raise Unusable(f"more than {MAX_SIZE // 1024} KiB")
        return bytes(body)


def keys_in(body: bytes) -> Sequence[TokenKey]:
    """Return the keys of a set that can sign tokens; others may be in it, for other uses. Raises `Unusable`."""
    try:
        entries = json.loads(body)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Unusable("not a set of keys") from None
    if not isinstance(entries, list):
        raise Unusable("not a set of keys")
    return [key for entry in entries[:MAX_KEYS] if (key := _token_key(entry)) is not None]


def _token_key(entry: Any) -> TokenKey | None:
    """Return the key in a JWK, or None if it is not one that tokens are signed with."""
    if not isinstance(entry, dict) or "d" in entry:  # with `d` it is the private key, which all the world knows now
        return None
    kid, uses = entry.get("kid"), entry.get("key_ops", ["verify"])
    try:
        algorithm = PUBLIC.get((entry.get("kty"), entry.get("crv")), "")
        fits = entry.get("alg", algorithm) == algorithm and entry.get("use", "sig") == "sig" and "verify" in uses
        if not (algorithm and fits and isinstance(kid, str | None)):
            return None
        return TokenKey(algorithm, key_of(entry, algorithm), kid)
    except (UnfitKey, TypeError):
        return None
