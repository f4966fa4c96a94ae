"""The keys that tokens are checked with, each for one algorithm.

python-jose does the checking for all of them, so there is one way to accept a token. It has no EdDSA; `Ed25519Key` adds
that as python-jose lets one: a `Key` over `cryptography`, which it comes with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JOSEError
from jose.utils import base64url_decode

MIN_SECRET = 32  # bytes: a shorter key than the hash can be found by trying (RFC 7518, section 3.2)
RSA_BITS = range(2048, 8192 + 1)  # less is too weak (RFC 7518, section 3.3), more takes too long

KINDS = {  # RFC 7518 and RFC 8037: the `kty` and `crv` of an algorithm's keys
    "HS256": ("oct", None),
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}


class UnfitKey(ValueError):
    """A key cannot be used; the text is a sentence for whoever starts the server."""


class Refused(Exception):
    """A token is not accepted; the text is the reason, in one word, and has nothing of the token in it."""


@dataclass(frozen=True)
class TokenKey:
    """A key, the only algorithm that it is for, and the name by which tokens call it (`kid`), if it has one."""

    algorithm: str
    key: Key
    kid: str | None = None


class Keys(Protocol):
    """Where the keys come from."""

    async def for_token(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """Return the keys, one at least, that a token with this header may be signed with. Raises `Refused`."""


class FixedKeys:
    """The keys that a setting names; who names keys by a setting gives them no `kid`, so the token's is not asked."""

    def __init__(self, algorithm: str, *texts: str) -> None:
        """Take secrets or public keys in PEM. Raises `UnfitKey`."""
        self._algorithm = algorithm
        self._keys = [key_of(text, algorithm) for text in texts]

    async def for_token(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """See `Keys`."""
        if algorithm != self._algorithm:
            raise Refused("algorithm")
        return self._keys


class Ed25519Key(Key):
    """A public key for EdDSA (RFC 8037)."""

    def __init__(self, source: str | dict[str, Any]) -> None:
        if isinstance(source, str):
            key = load_pem_public_key(source.encode())
        else:
            key = Ed25519PublicKey.from_public_bytes(base64url_decode(source["x"].encode()))
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError("not an Ed25519 key")
        self._key = key

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Return whether `sig` is the signature of `msg`."""
        try:
            self._key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True

    def to_dict(self) -> dict[str, str]:
        """Return what kind of key it is."""
        return {"kty": "OKP", "crv": "Ed25519"}


def key_of(source: str | dict[str, Any], algorithm: str) -> Key:
    """Return the key in a secret, in PEM, or in a JWK (RFC 7517). Raises `UnfitKey` if it is none for the algorithm."""
    if algorithm == "HS256" and len(str(source).encode("utf-8", "surrogateescape")) < MIN_SECRET:
        raise UnfitKey(f"The secret is shorter than {MIN_SECRET} bytes.")
    unfit = UnfitKey(f"This is not a key for {algorithm}.")
    try:
        # Built once: given a string, python-jose would guess anew for each token what kind of key it is.
        key = Ed25519Key(source) if algorithm == "EdDSA" else jwk.construct(source, algorithm)
        kind = key.to_dict()  # it takes an elliptic key for RSA until the key is used
    except (JOSEError, ValueError, TypeError, AttributeError, KeyError, OverflowError):
        raise unfit from None  # python-jose's text quotes the key
    if (kind["kty"], kind.get("crv")) != KINDS[algorithm]:
        raise unfit
    if algorithm == "RS256" and int.from_bytes(base64url_decode(kind["n"].encode())).bit_length() not in RSA_BITS:
        raise UnfitKey(f"An RSA key must have {RSA_BITS[0]} to {RSA_BITS[-1]} bits.")
    return key
