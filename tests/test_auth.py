"""Tokens: what is accepted, and the many that are not."""

import base64
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, SECRET, Server, forge, missing, token
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from todochat import auth

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


# ---- why, for whoever runs the server ----

WHY = {
    "malformed": ["a word", "two segments", "four segments", "no signature", "padded", "not ASCII", "too long"],
    "algorithm": ["alg none, signed", "alg HS384", "alg RS256", "alg lower case", "alg missing", "alg list"],
    "header": ["crit", "crit empty", "b64 false"],
    "signature": ["another secret", "empty secret", "changed claims", "changed header"],
    "time": ["no exp", "exp null", "exp text", "exp infinite", "exp NaN", "nbf future", "nbf text", "iat text"],
    "expired": ["exp past", "exp now", "exp negative"],
    "audience": ["an audience that nobody configured"],
    "subject": ["no sub", "sub empty", "sub number", "sub too long", "sub not ASCII"],
}
WORDS = {*WHY, "issuer", "missing"}


def reason(verifier: auth.Verifier, token: str) -> str:
    """Return why a token is refused."""
    with pytest.raises(auth.Refused) as refused:
        verifier.check(token)
    return str(refused.value)


@pytest.mark.parametrize("why", WHY)
def test_each_refusal_has_its_reason(why: str) -> None:
    """A refusal says in one word what is wrong."""
    verifier = auth.Verifier(SECRET)
    assert {name: reason(verifier, FORGED[name]) for name in WHY[why]} == dict.fromkeys(WHY[why], why)


def test_a_refusal_holds_nothing_of_the_token() -> None:
    """Whatever is forged, the reason is one of a few words, and claims are judged only under a good signature."""
    verifier = auth.Verifier(SECRET, issuer="https://me", audience="chat")
    assert {reason(verifier, forged) for forged in FORGED.values()} <= WORDS
    assert reason(verifier, token(exp=LATER, aud="chat")) == "issuer"
    assert reason(verifier, token(exp=LATER, iss="https://me")) == "audience"
    assert reason(verifier, forge({"exp": 1, "aud": "x"}, "b" * 40)) == "signature"


def refusals(server: Server) -> list[str]:
    """Return the reasons in the server's log."""
    return re.findall(r"INFO todochat: 401, token refused: (\w+)", server.log.read_text())


def test_the_log_says_why_and_the_answer_does_not(make_server: Callable[..., Server]) -> None:
    """Each reason is in the log once its request has got the 401 that all get; the token is not."""
    server = make_server(JWT_ISSUER="https://me")
    good = {"iss": "https://me", "exp": LATER}
    sent = {
        "missing": "Basic YWxpY2U6c2VjcmV0",
        "malformed": "Bearer nonsense",
        "algorithm": f"Bearer {forge(good | {'sub': 'alice'}, algorithm='HS512')}",
        "header": f"Bearer {signed(HS256 | {'crit': ['exp']}, good)}",
        "signature": f"Bearer {forge(good | {'sub': 'alice'}, 'b' * 40)}",
        "time": f"Bearer {token(iss='https://me')}",
        "expired": f"Bearer {token(**good | {'exp': 1})}",
        "issuer": f"Bearer {token(**good | {'iss': 'https://somebody-else'})}",
        "audience": f"Bearer {token(**good, aud='another-service')}",
        "subject": f"Bearer {token(**good | {'sub': 'x' * 256})}",
    }
    assert set(sent) == WORDS
    for path in ("/api/tasks", "/mcp"):
        for authorization in sent.values():
            answer = httpx.post(f"{server.url}{path}", headers={"Authorization": authorization})
            assert (answer.status_code, answer.json()) == (401, {"detail": "A valid bearer token is needed."})
    assert refusals(server) == [*sent, *sent]
    log = server.log.read_text()
    for authorization in sent.values():
        assert not any(part in log for part in re.split(r"[ .]", authorization) if len(part) > 6)
    for claim in ("alice", "somebody-else", "another-service", "xxx"):
        assert claim not in log
    table = (ROOT / "docs/api.md").read_text().split("\n## Tokens\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \| [^|]* \|$", table, re.M))))
    assert documented == WORDS


def test_refusals_do_not_flood_the_log(make_server: Callable[..., Server]) -> None:
    """Of one reason there are a few lines a minute, however many requests; of another they still come."""
    server = make_server()
    begun = time.monotonic()
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token(exp=1)}"}) as client:
        for _ in range(200):
            assert client.get("/api/tasks").status_code == 401
        minutes = 2 + int((time.monotonic() - begun) / 60)
        assert auth.MAX_LINES <= refusals(server).count("expired") <= auth.MAX_LINES * minutes
        client.get("/api/tasks", headers={"Authorization": "Bearer x"})
    assert refusals(server)[-1] == "malformed"


def recipe() -> str:
    """Return the documentation's section about Better Auth."""
    return (ROOT / "docs/running.md").read_text().split("\n## Tokens from Better Auth\n")[1].split("\n## ")[0]


def test_the_recipe_for_better_auth_works(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """The documented command makes a PEM of the published keys; with it, and the settings, the tokens are accepted."""
    if shutil.which("node") is None:
        missing("node is not installed")
    es = ec.generate_private_key(ec.SECP256R1())
    point = es.public_key().public_numbers()
    x, y = (b64(number.to_bytes(32, "big")) for number in (point.x, point.y))
    keys = [  # as better-auth 1.7.25 publishes them, with one from before it was told to use ES256
        {
            "alg": "EdDSA",
            "crv": "Ed25519",
            "x": "veTRpwZnDHjZ6ZZqQbd19U-CUE1AT-lnRln9tA3ggRo",
            "kty": "OKP",
            "kid": "a",
        },
        {"alg": "ES256", "crv": "P-256", "kty": "EC", "x": x, "y": y, "kid": "b"},
    ]

    class Publisher(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": keys}).encode() if self.path == "/api/auth/jwks" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as publisher:
        threading.Thread(target=publisher.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{publisher.server_port}"
        command, start = (
            code.replace("http://localhost:3000", base) for code in re.findall(r"```sh\n(.*?)```", recipe(), re.DOTALL)
        )
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=30)
        publisher.shutdown()
    settings = dict(re.findall(r"(JWT_\w+)=(\S+)", start))
    server = make_server(BETTER_AUTH_SECRET="", **settings)
    private, _ = pem_pair(es)
    claims = {"iat": NOW, "name": "A", "sub": "G3Ce2GpotuOSrVk70iy7w7KYz1cUZOhW", "exp": NOW + 900}
    theirs = forge(claims | {"iss": base, "aud": base}, private, "ES256", {"kid": "b"})
    other = forge(claims | {"iss": base, "aud": "http://localhost:1"}, private, "ES256", {"kid": "b"})
    answers = [
        httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {t}"}).status_code
        for t in (theirs, other)
    ]
    assert answers == [200, 401]
    assert refusals(server) == ["audience"]
