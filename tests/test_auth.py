"""Tokens: what is accepted, and the many that are not."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import SECRET, Server, forge, token
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import auth

NOW = int(time.time())
LATER = NOW + 3600


def b64(data: bytes | str | dict[str, Any]) -> str:
    """Return base64url without padding."""
    raw = json.dumps(data) if isinstance(data, dict) else data
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


def signed(header: str | dict[str, Any], claims: str | dict[str, Any], secret: str = SECRET) -> str:
    """Return a token with a valid HS256 signature around any two texts."""
    import hashlib
    import hmac

    content = f"{b64(header)}.{b64(claims)}"
    return f"{content}.{b64(hmac.new(secret.encode(), content.encode(), hashlib.sha256).digest())}"


HS256 = {"alg": "HS256", "typ": "JWT"}
GOOD = {"sub": "alice", "exp": LATER}
good = signed(HS256, GOOD)
head, body, signature = good.split(".")

FORGED = {
    "empty": "",
    "a word": "token",
    "two segments": f"{head}.{body}",
    "four segments": f"{good}.{signature}",
    "no signature": f"{head}.{body}.",
    "another secret": forge(GOOD, "b" * 40),
    "empty secret": signed(HS256, GOOD, ""),
    "changed claims": f"{head}.{b64(GOOD | {'sub': 'bob'})}.{signature}",
    "changed header": f"{b64(HS256 | {'kid': '1'})}.{body}.{signature}",
    "cut signature": good[:-4],
    "other spelling of the signature": good[:-1] + chr(ord(good[-1]) + 1),
    "padded": good + "=",
    "spaces": f"{head}. {body}.{signature}",
    "newline at the end": good + "\n",
    "not ASCII": good.replace("e", "\u00e9", 1),
    "standard base64": good.replace("-", "+").replace("_", "/") + "+",
    "alg none": f"{b64({'alg': 'none'})}.{body}.",
    "alg none, signed": signed({"alg": "none"}, GOOD),
    "alg NONE": signed({"alg": "NONE"}, GOOD),
    "alg HS384": forge(GOOD, algorithm="HS384"),
    "alg HS512": forge(GOOD, algorithm="HS512"),
    "alg RS256": signed({"alg": "RS256"}, GOOD),
    "alg lower case": signed({"alg": "hs256"}, GOOD),
    "alg missing": signed({"typ": "JWT"}, GOOD),
    "alg null": signed({"alg": None}, GOOD),
    "alg list": signed({"alg": ["HS256"]}, GOOD),
    "alg number": signed({"alg": 256}, GOOD),
    "crit": signed(HS256 | {"crit": ["exp"]}, GOOD),
    "crit empty": signed(HS256 | {"crit": []}, GOOD),
    "b64 false": signed(HS256 | {"b64": False}, GOOD),
    "header is a list": signed("[]", GOOD),
    "header is not JSON": signed("{", GOOD),
    "header too deep": signed("[" * 1300, GOOD),
    "header not UTF-8": f"{b64(bytes([255, 254]))}.{body}.{signature}",
    "claims a list": signed(HS256, "[1]"),
    "claims a string": signed(HS256, '"alice"'),
    "claims null": signed(HS256, "null"),
    "claims not JSON": signed(HS256, "{"),
    "claims too deep": signed(HS256, '{"a":' + "[" * 3000),
    "no exp": signed(HS256, {"sub": "alice"}),
    "exp null": signed(HS256, GOOD | {"exp": None}),
    "exp text": signed(HS256, GOOD | {"exp": str(LATER)}),
    "exp list": signed(HS256, GOOD | {"exp": [LATER]}),
    "exp true": signed(HS256, GOOD | {"exp": True}),
    "exp infinite": signed(HS256, '{"sub": "alice", "exp": 1e400}'),
    "exp Infinity": signed(HS256, '{"sub": "alice", "exp": Infinity}'),
    "exp NaN": signed(HS256, '{"sub": "alice", "exp": NaN}'),
    "exp huge": signed(HS256, '{"sub": "alice", "exp": 1' + "0" * 400 + "}"),
    "exp of 5,000 digits": signed(HS256, '{"sub": "alice", "exp": 1' + "0" * 5000 + "}"),
    "exp past": signed(HS256, GOOD | {"exp": NOW - 1}),
    "exp now": signed(HS256, GOOD | {"exp": NOW}),
    "exp negative": signed(HS256, GOOD | {"exp": -1}),
    "nbf future": signed(HS256, GOOD | {"nbf": LATER}),
    "nbf null": signed(HS256, GOOD | {"nbf": None}),
    "nbf text": signed(HS256, GOOD | {"nbf": "0"}),
    "iat text": signed(HS256, GOOD | {"iat": "0"}),
    "iat infinite": signed(HS256, f'{{"sub": "alice", "exp": {LATER}, "iat": 1e400}}'),
    "no sub": signed(HS256, {"exp": LATER}),
    "sub null": signed(HS256, GOOD | {"sub": None}),
    "sub empty": signed(HS256, GOOD | {"sub": ""}),
    "sub number": signed(HS256, GOOD | {"sub": 7}),
    "sub list": signed(HS256, GOOD | {"sub": ["alice"]}),
    "sub object": signed(HS256, GOOD | {"sub": {"id": "alice"}}),
    "sub too long": signed(HS256, GOOD | {"sub": "a" * 256}),
    "sub with a newline": signed(HS256, GOOD | {"sub": "alice\n"}),
    "sub not ASCII": signed(HS256, GOOD | {"sub": "\u0430lice"}),
    "an audience that nobody configured": signed(HS256, GOOD | {"aud": "another-service"}),
    "too long": signed(HS256, GOOD | {"x": "x" * 9000}),
}


UNSENDABLE = ("empty", "newline at the end")  # httpx refuses to send them; the verifier must know them all the same


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_or_broken_token_is_401_and_nothing_else(server: Server, name: str) -> None:
    """Each forged or broken token gets the same 401."""
    with httpx.Client(base_url=server.url) as client:
        headers = {"Authorization": f"Bearer {FORGED[name]}".encode()}
        assert auth.Verifier(SECRET).user_id(FORGED[name]) is None
        if name in UNSENDABLE:
            return
        answer = client.post("/chatkit", json={"message": "hello"}, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "A valid bearer token is needed."})
    assert answer.headers["www-authenticate"] == "Bearer"


def test_forged_tokens_write_nothing_and_leave_no_traceback(server: Server) -> None:
    """After all those tokens the database is empty and the log has no traceback."""
    import sqlite3

    for name, forged in FORGED.items():
        if name not in UNSENDABLE:
            headers = {"Authorization": f"Bearer {forged}".encode()}
            assert httpx.post(f"{server.url}/chatkit", json={"message": "hello"}, headers=headers).status_code == 401
    with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as database:
        assert database.execute("SELECT COUNT(*) FROM messages").fetchone() == (0,)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("value", ["", "Bearer", "Basic YTpi", "Token x", "Bearer x y"])
def test_other_authorization_headers_are_401(server: Server, value: str) -> None:
    """What is not a bearer token is 401."""
    assert httpx.get(f"{server.url}/api/tasks", headers={"Authorization": value}).status_code == 401


@pytest.mark.parametrize(
    "claims", [{}, {"nbf": NOW - 5, "iat": NOW}, {"exp": LATER + 0.5}, {"sub": "x" * 255}, {"sub": "a b:c@d"}]
)
def test_good_tokens_are_accepted(claims: dict[str, Any]) -> None:
    """A token with a good signature and good claims gives its `sub`."""
    assert auth.Verifier(SECRET).user_id(token(**(GOOD | claims))) == (GOOD | claims)["sub"]


def test_issuer_and_audience_are_checked_when_configured() -> None:
    """With an issuer and an audience set, a token must name both; of several audiences one must be ours."""
    verifier = auth.Verifier(SECRET, issuer="https://me", audience="chat")
    assert verifier.user_id(token(exp=LATER, iss="https://me", aud="chat")) == "alice"
    assert verifier.user_id(token(exp=LATER, iss="https://me", aud=["other", "chat"])) == "alice"
    for wrong in ({}, {"iss": "https://me"}, {"aud": "chat"}, {"iss": "https://you", "aud": "chat"}):
        assert verifier.user_id(token(exp=LATER, **wrong)) is None
    for aud in ("other", [], ["other"], {"chat": 1}, 5):
        assert verifier.user_id(token(exp=LATER, iss="https://me", aud=aud)) is None


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_short_secret_is_refused(secret: str) -> None:
    """A secret of fewer than 32 bytes is no secret."""
    with pytest.raises(auth.UnfitKey, match="32 bytes"):
        auth.Verifier(secret)


def pem_pair(private: Any) -> tuple[str, str]:
    """Return the private and the public key in PEM."""
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return secret.decode(), public.decode()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_public_keys_work_and_are_never_taken_for_a_secret(
    make_server: Callable[..., Server], tmp_path: Path, algorithm: str
) -> None:
    """With a public key, tokens of its private key are accepted, and the public key itself signs nothing."""
    rs, es = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    private, public = pem_pair(rs if algorithm == "RS256" else es)
    (tmp_path / "key.pem").write_text(public)
    server = make_server(JWT_ALGORITHM=algorithm, JWT_PUBLIC_KEY=str(tmp_path / "key.pem"), BETTER_AUTH_SECRET="")
    verifier = auth.Verifier(public, algorithm)
    good = forge(GOOD, private, algorithm)
    assert verifier.user_id(good) == "alice"
    assert httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {good}"}).status_code == 200
    for forged in (signed(HS256, GOOD, public), signed({"alg": algorithm}, GOOD, public), token()):
        assert verifier.user_id(forged) is None
        assert httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {forged}"}).status_code == 401


def test_a_key_of_the_wrong_kind_is_refused() -> None:
    """A key that does not fit its algorithm is refused at start."""
    _, public = pem_pair(ec.generate_private_key(ec.SECP256R1()))
    for key, algorithm in (("x" * 40, "RS256"), (public, "RS256"), (public, "HS256"), ("x" * 40, "ES256")):
        with pytest.raises(auth.UnfitKey):
            auth.Verifier(key, algorithm)
