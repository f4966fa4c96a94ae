"""Whoever issues tokens: keys for each algorithm, tokens signed with them, and a server that publishes the keys."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from clients import SECRET
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(data: bytes | str | dict[str, Any]) -> str:
    """Return base64url without padding."""
    raw = json.dumps(data) if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


@dataclass
class Signer:
    """A key: what signs for one algorithm, and, if there is one, the public key as a JWK and in PEM."""

    algorithm: str
    sign: Callable[[bytes], bytes]
    jwk: dict[str, Any]
    pem: str = ""

    def token(self, claims: Any, header: Any = None) -> str:
        """Return a token with a good signature; the header is the usual one with changes, or any text."""
        if not isinstance(header, str):
            named = {"kid": self.jwk["kid"]} if "kid" in self.jwk else {}
            header = {"alg": self.algorithm, "typ": "JWT"} | named | (header or {})
        content = f"{b64(header)}.{b64(claims)}"
        return f"{content}.{b64(self.sign(content.encode()))}"


def secret_signer(secret: str = SECRET) -> Signer:
    """Return what signs with HS256."""
    return Signer("HS256", lambda data: hmac.new(secret.encode(), data, hashlib.sha256).digest(), {})


def pem_of(public: Any) -> str:
    """Return a public key in PEM."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(public.public_bytes(*form).decode())


def rs256(kid: str = "rs", bits: int = 2048) -> Signer:
    """Return a new RSA key."""
    private = rsa.generate_private_key(65537, bits)
    public = private.public_key()
    modulus = b64(public.public_numbers().n.to_bytes(bits // 8, "big"))
    jwk = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "e": "AQAB", "n": modulus}
    return Signer("RS256", lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA256()), jwk, pem_of(public))


def es256(kid: str = "es") -> Signer:
    """Return a new key on the curve P-256."""
    private = ec.generate_private_key(ec.SECP256R1())
    point = private.public_key().public_numbers()

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    x, y = (b64(number.to_bytes(32, "big")) for number in (point.x, point.y))
    jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid, "x": x, "y": y}
    return Signer("ES256", sign, jwk, pem_of(private.public_key()))


def eddsa(kid: str = "ed") -> Signer:
    """Return a new Ed25519 key."""
    private = ed25519.Ed25519PrivateKey.generate()
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "kid": kid,
        "x": b64(private.public_key().public_bytes_raw()),
    }
    return Signer("EdDSA", private.sign, jwk, pem_of(private.public_key()))


SIGNERS: dict[str, Callable[[], Signer]] = {"HS256": secret_signer, "RS256": rs256, "ES256": es256, "EdDSA": eddsa}


class Issuer(ThreadingHTTPServer):
    """Publishes a set of keys. What it answers can be set to anything; it counts how often it was asked."""

    daemon_threads = True

    def __init__(self, *keys: Signer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.pause = 0.0  # seconds before each piece of the body
        self.pieces: list[bytes] = []
        self.publish(*keys)

    @property
    def url(self) -> str:
        """Return where the keys are."""
        return f"http://127.0.0.1:{self.server_port}/api/auth/jwks"

    def publish(self, *keys: Signer | Any) -> None:
        """Publish these keys, or entries that are none, from now on."""
        self.pieces = [json.dumps({"keys": [key.jwk if isinstance(key, Signer) else key for key in keys]}).encode()]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever has heard enough hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        issuer = self.server
        issuer.asked += 1
        pieces, pause = issuer.pieces, issuer.pause  # as they are now
        self.send_response(issuer.status)
        for name, value in issuer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces:
            time.sleep(pause)  # the slowness of the server that is tested with
            self.wfile.write(piece)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def issuing(*keys: Signer) -> Iterator[Issuer]:
    """Run a server that publishes the keys."""
    issuer = Issuer(*keys)
    thread = threading.Thread(target=issuer.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.shutdown()
        issuer.server_close()
        thread.join(10)
