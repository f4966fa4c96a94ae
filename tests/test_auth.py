"""Tokens: what is accepted, and the many that are not."""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, SECRET, Server, forge, token
from cryptography.hazmat.primitives.asymmetric import ec
from issuer import SIGNERS, Signer, b64, eddsa, es256, issuing, pem_of, rs256, secret_signer
from servers import Provider, provider

from todochat import auth
from todochat.auth.keys import FixedKeys, UnfitKey
from todochat.logs import Sparing
from todochat.settings import Settings

NOW = int(time.time())
LATER = NOW + 3600
GOOD = {"sub": "alice", "exp": LATER}
OTHERS = {"HS256", "RS256", "ES256", "EdDSA"}


def forged_by_form(signer: Signer) -> dict[str, str]:
    """Return what is no token, or not the one that was signed."""
    good = signer.token(GOOD)
    head, body, signature = good.split(".")
    first = "A" if signature[0] != "A" else "B"
    spelling = good[:-1] + chr(ord(good[-1]) + 1)  # some of the last letter's bits are no part of the signature
    return {
        "empty": "",
        "a word": "token",
        "two segments": f"{head}.{body}",
        "four segments": f"{good}.{signature}",
        "no signature": f"{head}.{body}.",
        "changed claims": f"{head}.{b64(GOOD | {'sub': 'bob'})}.{signature}",
        "changed header": f"{b64({'alg': signer.algorithm} | {'x': 1})}.{body}.{signature}",
        "changed signature": f"{head}.{body}.{first}{signature[1:]}",
        "cut signature": good[:-4],
        "a signature of nothing": f"{head}.{body}.{'A' * len(signature)}",
        "a signature twice as long": f"{head}.{body}.{b64(2 * signer.sign(f'{head}.{body}'.encode()))}",
        "other spelling of the signature": spelling,
        "padded": good + "=",
        "spaces": f"{head}. {body}.{signature}",
        "newline at the end": good + "\n",
        "not ASCII": good.replace("e", "\u00e9", 1),
        "standard base64": good.replace("-", "+").replace("_", "/") + "+",
        "too long": signer.token(GOOD | {"x": "x" * 9000}),
    }


def forged_by_key(signer: Signer) -> dict[str, str]:
    """Return tokens that somebody else has signed, in each of the other ways, or nobody."""
    _, body, _ = signer.token(GOOD).split(".")
    named = {"kid": signer.jwk["kid"]} if "kid" in signer.jwk else {}
    stranger = secret_signer("b" * 40) if signer.algorithm == "HS256" else SIGNERS[signer.algorithm]()
    forged = {
        "another key": stranger.token(GOOD),
        "another key, in the header": stranger.token(GOOD, {"jwk": stranger.jwk}),
        "another key, at an address": stranger.token(
            GOOD, {"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}
        ),
        "empty secret": _hmac(b"", {"alg": "HS256"} | named),
        "alg none": f"{b64({'alg': 'none'} | named)}.{body}.",
        "alg none, signed": signer.token(GOOD, {"alg": "none"}),
        "alg NONE": signer.token(GOOD, {"alg": "NONE"}),
        "alg lower case": signer.token(GOOD, {"alg": signer.algorithm.lower()}),
        "alg missing": signer.token(GOOD, '{"typ": "JWT"}'),
        "alg null": signer.token(GOOD, {"alg": None}),
        "alg list": signer.token(GOOD, {"alg": [signer.algorithm]}),
        "alg number": signer.token(GOOD, {"alg": 256}),
        "kid a number": signer.token(GOOD, {"kid": 7}),
        "kid a list": signer.token(GOOD, {"kid": ["a"]}),
    }
    for algorithm in (OTHERS - {signer.algorithm}) | {"HS384", "HS512", "RS512", "PS256", "ES384", "Ed448"}:
        forged[f"alg {algorithm}"] = signer.token(GOOD, {"alg": algorithm})
    for algorithm in OTHERS - {signer.algorithm}:
        other = SIGNERS[algorithm]()
        forged[f"signed with {algorithm}"] = other.token(GOOD, named)
        forged[f"signed with {algorithm}, and so it says"] = other.token(GOOD, named | {"alg": signer.algorithm})
    if signer.pem:  # what everybody knows, taken for a secret
        for name, public in {"PEM": signer.pem, "PEM cut": signer.pem.strip(), "x": signer.jwk.get("x", "x")}.items():
            for header in ({"alg": "HS256"}, {"alg": signer.algorithm}):
                forged[f"{header['alg']} with the public key's {name}"] = _hmac(public.encode(), header | named)
    return forged


def _hmac(key: bytes, header: dict[str, Any]) -> str:
    content = f"{b64(header)}.{b64(GOOD)}"
    return f"{content}.{b64(hmac.new(key, content.encode(), hashlib.sha256).digest())}"


def forged_by_content(signer: Signer) -> dict[str, str]:
    """Return tokens with a good signature around what no token may say."""
    _, body, signature = signer.token(GOOD).split(".")
    header = f'"alg": "{signer.algorithm}"' + (f', "kid": "{signer.jwk["kid"]}"' if "kid" in signer.jwk else "")
    headers = {
        "crit": {"crit": ["exp"]},
        "crit empty": {"crit": []},
        "b64 false": {"b64": False},
        "header is a list": "[]",
        "header is not JSON": "{",
        "header too deep": "[" * 1300,
        "alg twice": f'{{"alg": "none", {header}}}',
        "alg twice, the other way": f'{{{header}, "alg": "none"}}',
        "typ twice": f'{{{header}, "typ": "JWT", "typ": "JWT"}}',
    }
    claims = {
        "claims a list": "[1]",
        "claims a string": '"alice"',
        "claims null": "null",
        "claims not JSON": "{",
        "claims too deep": '{"a":' + "[" * 3000,
        "sub twice": f'{{"sub": "alice", "sub": "bob", "exp": {LATER}}}',
        "exp twice": f'{{"sub": "alice", "exp": 1, "exp": {LATER}}}',
        "no exp": {"sub": "alice"},
        "exp null": GOOD | {"exp": None},
        "exp text": GOOD | {"exp": str(LATER)},
        "exp list": GOOD | {"exp": [LATER]},
        "exp true": GOOD | {"exp": True},
        "exp infinite": '{"sub": "alice", "exp": 1e400}',
        "exp Infinity": '{"sub": "alice", "exp": Infinity}',
        "exp NaN": '{"sub": "alice", "exp": NaN}',
        "exp huge": '{"sub": "alice", "exp": 1' + "0" * 400 + "}",
        "exp of 5,000 digits": '{"sub": "alice", "exp": 1' + "0" * 5000 + "}",
        "exp past": GOOD | {"exp": NOW - auth.LEEWAY - 1},
        "exp negative": GOOD | {"exp": -1},
        "nbf future": GOOD | {"nbf": LATER},
        "nbf null": GOOD | {"nbf": None},
        "nbf text": GOOD | {"nbf": "0"},
        "iat future": GOOD | {"iat": LATER},
        "iat text": GOOD | {"iat": "0"},
        "iat infinite": f'{{"sub": "alice", "exp": {LATER}, "iat": 1e400}}',
        "no sub": {"exp": LATER},
        "sub null": GOOD | {"sub": None},
        "sub empty": GOOD | {"sub": ""},
        "sub number": GOOD | {"sub": 7},
        "sub list": GOOD | {"sub": ["alice"]},
        "sub object": GOOD | {"sub": {"id": "alice"}},
        "sub too long": GOOD | {"sub": "a" * 256},
        "sub with a newline": GOOD | {"sub": "alice\n"},
        "sub not ASCII": GOOD | {"sub": "\u0430lice"},
        "an audience that nobody configured": GOOD | {"aud": "another-service"},
        "an empty list of audiences": GOOD | {"aud": []},
    }
    forged = {name: signer.token(GOOD, said) for name, said in headers.items()}
    forged |= {name: signer.token(said) for name, said in claims.items()}
    return forged | {"header not UTF-8": f"{b64(bytes([255, 254]))}.{body}.{signature}"}


def forgeries(signer: Signer) -> dict[str, str]:
    """Return every kind of token that is none, for a server that knows this signer's key."""
    return forged_by_form(signer) | forged_by_key(signer) | forged_by_content(signer)


UNSENDABLE = ("empty", "newline at the end")  # httpx refuses to send them; the verifier must know them all the same


@pytest.fixture(scope="module")
def model() -> Iterator[Provider]:
    """A model server, which no forged token must reach."""
    with provider() as running:
        yield running


@pytest.mark.parametrize("source", ["setting", "JWKS"])
@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_forged_or_broken_token_is_401_and_nothing_else(
    make_server: Callable[..., Server], model: Provider, algorithm: str, source: str
) -> None:
    """Each gets the same 401, for each algorithm: no row is written, no model is called, no traceback is left."""
    signer = SIGNERS[algorithm]()
    if source == "JWKS" and algorithm == "HS256":
        pytest.skip("a secret is never published")
    with issuing(*(signer if name == algorithm else SIGNERS[name]() for name in SIGNERS if name != "HS256")) as issuer:
        at = (
            {"JWT_JWKS_URL": issuer.url}
            if source == "JWKS"
            else {"JWT_PUBLIC_KEY": signer.pem, "BETTER_AUTH_SECRET": ""}
        )
        settings = {} if algorithm == "HS256" else at | ({} if source == "JWKS" else {"JWT_ALGORITHM": algorithm})
        server = make_server(OPENAI_BASE_URL=f"{model.url}/v1", OPENAI_MODEL="m", LOG_LEVEL="DEBUG", **settings)
        before = len(model.requests)
        answers = {}
        with httpx.Client(base_url=server.url) as client:
            for name, forged in forgeries(signer).items():
                if name not in UNSENDABLE:
                    headers = {"Authorization": f"Bearer {forged}".encode()}
                    answer = client.post("/chatkit", json={"message": "hello"}, headers=headers)
                    answers[name] = (answer.status_code, answer.text, answer.headers.get("www-authenticate"))
            assert set(answers.values()) == {(401, '{"detail":"A valid bearer token is needed."}', "Bearer")}, answers
            good = {"Authorization": f"Bearer {signer.token(GOOD)}"}
            assert client.get("/api/me", headers=good).json() == {"user": "alice"}
    assert server.rows("SELECT (SELECT COUNT(*) FROM messages) + (SELECT COUNT(*) FROM conversations)") == [(0,)]
    assert len(model.requests) == before
    assert "Traceback" not in server.log.read_text()


def verifier(**options: Any) -> auth.Verifier:
    """Return a verifier with the tests' secret."""
    return auth.Verifier(FixedKeys("HS256", SECRET), **options)


def user_of(verifier: auth.Verifier, token: str) -> str | None:
    """Return whose token it is, None if it is refused."""
    try:
        return asyncio.run(verifier.check(token))
    except auth.Refused:
        return None


def test_what_cannot_be_sent_is_refused_too() -> None:
    """The verifier knows all of them, whatever the way on which they come."""
    assert {user_of(verifier(), forged) for forged in forgeries(secret_signer()).values()} == {None}


@pytest.mark.parametrize("value", ["", "Bearer", "Basic YTpi", "Token x", "Bearer x y"])
def test_other_authorization_headers_are_401(server: Server, value: str) -> None:
    """What is not a bearer token is 401."""
    assert httpx.get(f"{server.url}/api/tasks", headers={"Authorization": value}).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [{}, {"nbf": NOW - 5, "iat": NOW}, {"exp": LATER + 0.5}, {"sub": "x" * 255}, {"sub": "a b:c@d"}, {"aud": None}],
)
def test_good_tokens_are_accepted(claims: dict[str, Any]) -> None:
    """A token with a good signature and good claims gives its `sub`."""
    assert user_of(verifier(), token(**(GOOD | claims))) == (GOOD | claims)["sub"]


def test_clocks_may_differ_a_little() -> None:
    """A token is good some seconds before and after its time, for its issuer's clock may be wrong, or ours."""
    now = time.time()
    near, far = auth.LEEWAY - 10, auth.LEEWAY + 10
    for claims in ({"exp": now - near}, {"nbf": now + near}, {"iat": now + near}):
        assert user_of(verifier(), token(**(GOOD | claims))) == "alice", claims
    for claims in ({"exp": now - far}, {"nbf": now + far}, {"iat": now + far}):
        assert user_of(verifier(), token(**(GOOD | claims))) is None, claims


def test_issuer_and_audience_are_checked_when_configured() -> None:
    """With issuers and audiences set, a token must name one of each; of several audiences one must be ours."""
    ours = verifier(issuers=["https://me", "https://us"], audiences=["chat", "tasks"])
    for iss, aud in (("https://me", "chat"), ("https://us", "tasks"), ("https://me", ["other", "chat"])):
        assert user_of(ours, token(exp=LATER, iss=iss, aud=aud)) == "alice"
    for wrong in ({}, {"iss": "https://me"}, {"aud": "chat"}, {"iss": "https://you", "aud": "chat"}):
        assert user_of(ours, token(exp=LATER, **wrong)) is None
    for aud in ("other", "cha", [], ["other"], {"chat": 1}, 5, [["chat"]], [{"chat": 1}], "chat,tasks"):
        assert user_of(ours, token(exp=LATER, iss="https://me", aud=aud)) is None
    for iss in (["https://me"], {"https://me": 1}, 5, None, "https://m", "https://me,https://us", ""):
        assert user_of(ours, token(exp=LATER, iss=iss, aud="chat")) is None


def test_issuers_audiences_and_the_users_claim_are_settings(make_server: Callable[..., Server]) -> None:
    """They are named by comma; the claim that says who the user is need not be `sub`."""
    server = make_server(JWT_ISSUER="https://me, https://us", JWT_AUDIENCE="chat,tasks", JWT_USER_CLAIM="email")
    ours = {"iss": "https://us", "aud": "tasks", "exp": LATER}

    def ask(**claims: Any) -> Any:
        return httpx.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {token(**claims)}"})

    assert ask(**ours, email="alice@example.com").json() == {"user": "alice@example.com"}
    for wrong in ({}, {"email": 5}, {"email": "a@b.c", "iss": "https://you"}, {"email": "a@b.c", "aud": "x"}):
        assert ask(**(ours | wrong)).status_code == 401
    settings = Settings(secret=SECRET, issuer="https://me,https://us", audience="chat,tasks", user_claim="email")
    made = auth.token_for("bob", settings, 60)
    assert httpx.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {made}"}).json() == {"user": "bob"}


def test_a_secret_can_be_changed_while_tokens_of_the_old_one_live(make_server: Callable[..., Server]) -> None:
    """Of two secrets both are good; the first signs. Without the old one, its tokens are over."""
    new, old = "n" * 40, "o" * 40
    tokens = {name: forge(GOOD, secret) for name, secret in {"new": new, "old": old, "both": f"{new},{old}"}.items()}

    def accepted(secrets: str) -> set[str]:
        keys = FixedKeys("HS256", *auth.secrets_of(Settings(secret=secrets), ":memory:"))
        return {name for name, made in tokens.items() if user_of(auth.Verifier(keys), made)}

    assert accepted(f"{new}, {old}") == {"new", "old"}
    assert accepted(new) == {"new"}
    assert accepted(f"a comma, {new}") == set()  # is a part of a secret, if what it parts are none
    server = make_server(BETTER_AUTH_SECRET=f"{new},{old}")
    for made in (tokens["new"], tokens["old"], auth.token_for("alice", Settings(secret=f"{new},{old}"), 60)):
        assert httpx.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {made}"}).status_code == 200


def test_a_stream_outlives_its_token(paced: Server) -> None:
    """What was begun with a good token goes on to its end; the next request with it is refused."""
    ends = time.time() + 2 - auth.LEEWAY
    with paced.client(headers={"Authorization": f"Bearer {token('late', exp=ends)}"}) as client:
        turn = client.say("say 30 100")
        assert turn.complete
        assert time.time() > ends + auth.LEEWAY
        assert client.get(f"/api/conversations/{turn.thread}/stream").status_code == 401


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_short_secret_is_refused(secret: str) -> None:
    """A secret of fewer than 32 bytes is no secret."""
    with pytest.raises(UnfitKey, match="32 bytes"):
        FixedKeys("HS256", secret)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys_in_pem_work(make_server: Callable[..., Server], tmp_path: Path, algorithm: str) -> None:
    """With a public key, from a file or as text with its lines as .env files have them, its tokens are accepted."""
    signer = SIGNERS[algorithm]()
    (tmp_path / "key.pem").write_text(signer.pem)
    for given in (str(tmp_path / "key.pem"), signer.pem.replace("\n", "\\n")):
        server = make_server(JWT_ALGORITHM=algorithm, JWT_PUBLIC_KEY=given, BETTER_AUTH_SECRET="")
        answer = httpx.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {signer.token(GOOD)}"})
        assert answer.json() == {"user": "alice"}
        server.close()


def test_a_key_of_the_wrong_kind_is_refused() -> None:
    """A key that does not fit its algorithm is refused at start."""
    ec_pem, rsa_pem, ed_pem = es256().pem, rs256().pem, eddsa().pem
    other_curve = ec.generate_private_key(ec.SECP384R1())
    kinds = [("x" * 40, "RS256"), (ec_pem, "RS256"), (ed_pem, "RS256"), (rs256(bits=1024).pem, "RS256")]
    kinds += [(ec_pem, "HS256"), (rsa_pem, "HS256"), ("x" * 40, "ES256"), (rsa_pem, "ES256"), (ed_pem, "ES256")]
    kinds += [(ec_pem, "EdDSA"), (rsa_pem, "EdDSA"), ("x" * 40, "EdDSA"), (pem_of(other_curve.public_key()), "ES256")]
    for key, algorithm in kinds:
        with pytest.raises(UnfitKey):
            FixedKeys(algorithm, key)


# ---- why, for whoever runs the server ----

WHY = {
    "malformed": [
        "a word",
        "two segments",
        "four segments",
        "no signature",
        "alg none",
        "padded",
        "not ASCII",
        "too long",
    ],
    "algorithm": [
        "alg none, signed",
        "alg HS384",
        "alg RS256",
        "alg lower case",
        "alg missing",
        "alg list",
    ],
    "header": ["crit", "crit empty", "b64 false"],
    "signature": ["another key", "empty secret", "changed claims", "changed header"],
    "time": [
        "no exp",
        "exp null",
        "exp text",
        "exp infinite",
        "exp NaN",
        "nbf future",
        "nbf text",
        "iat text",
        "iat future",
    ],
    "expired": ["exp past", "exp negative"],
    "audience": ["an audience that nobody configured"],
    "subject": ["no sub", "sub empty", "sub number", "sub too long", "sub not ASCII"],
}
WORDS = {*WHY, "issuer", "key", "missing"}  # "key": see test_jwks.py
FORGED = forgeries(secret_signer())


def reason(verifier: auth.Verifier, token: str) -> str:
    """Return why a token is refused."""
    with pytest.raises(auth.Refused) as refused:
        asyncio.run(verifier.check(token))
    return str(refused.value)


@pytest.mark.parametrize("why", WHY)
def test_each_refusal_has_its_reason(why: str) -> None:
    """A refusal says in one word what is wrong."""
    assert {name: reason(verifier(), FORGED[name]) for name in WHY[why]} == dict.fromkeys(WHY[why], why)


def test_a_refusal_holds_nothing_of_the_token() -> None:
    """Whatever is forged, the reason is one of a few words, and claims are judged only under a good signature."""
    ours = verifier(issuers=["https://me"], audiences=["chat"])
    assert {reason(ours, forged) for forged in FORGED.values()} <= WORDS
    assert reason(ours, token(exp=LATER, aud="chat")) == "issuer"
    assert reason(ours, token(exp=LATER, iss="https://me")) == "audience"
    assert reason(ours, forge({"exp": 1, "aud": "x"}, "b" * 40)) == "signature"


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
        "header": f"Bearer {secret_signer().token(good, {'crit': ['exp']})}",
        "signature": f"Bearer {forge(good | {'sub': 'alice'}, 'b' * 40)}",
        "time": f"Bearer {token(iss='https://me')}",
        "expired": f"Bearer {token(**good | {'exp': 1})}",
        "issuer": f"Bearer {token(**good | {'iss': 'https://somebody-else'})}",
        "audience": f"Bearer {token(**good, aud='another-service')}",
        "subject": f"Bearer {token(**good | {'sub': 'x' * 256})}",
    }
    assert {*sent, "key"} == WORDS
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
        assert Sparing.MOST <= refusals(server).count("expired") <= Sparing.MOST * minutes
        client.get("/api/tasks", headers={"Authorization": "Bearer x"})
    assert refusals(server)[-1] == "malformed"
