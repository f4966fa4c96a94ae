"""Keys that are published: which are used, when they are fetched, and a server of keys that is away, or lies."""

import asyncio
import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, SECRET, Server
from issuer import Issuer, Signer, b64, eddsa, es256, issuing, rs256, secret_signer
from starlette.requests import Request

from todochat.auth import Verifier, bearer, jwks
from todochat.auth.jwks import KeySet, keys_in
from todochat.auth.keys import Refused
from todochat.settings import BadSetting, Settings

CLAIMS = {"sub": "alice", "exp": int(time.time()) + 3600}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """A server of keys, with none as yet."""
    with issuing() as running:
        yield running


def served(make_server: Callable[..., Server], issuer: Issuer, **settings: Any) -> Server:
    """Return a server that asks the issuer for keys."""
    return make_server(JWT_JWKS_URL=issuer.url, **settings)


def ask(server: Server, token: str) -> int:
    """Return the status of a request with this token."""
    return httpx.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE).status_code


def warnings(server: Server) -> list[str]:
    """Return what the log says about the keys."""
    return re.findall(r"WARNING todochat: JWT_JWKS_URL:? (.*)", server.log.read_text())


def test_it_needs_no_other_setting(make_server: Callable[..., Server], issuer: Issuer) -> None:
    """The algorithm is each key's: with the URL alone, tokens of three algorithms are accepted, after one fetch."""
    signers = [eddsa(), es256(), rs256()]
    issuer.publish(*signers)
    server = served(make_server, issuer, BETTER_AUTH_SECRET="")
    assert issuer.asked == 0
    assert [ask(server, signer.token(CLAIMS)) for signer in signers] == [200, 200, 200]
    assert issuer.asked == 1
    assert "#token=" not in server.log.read_text()


def test_the_secret_beside_it_is_not_asked_for(make_server: Callable[..., Server], issuer: Issuer) -> None:
    """HS256 is not accepted, though the secret of Better Auth is in the environment, or in the published set."""
    secret, ed = secret_signer(), eddsa()
    issuer.publish({"kty": "oct", "alg": "HS256", "kid": "oct", "k": b64(SECRET)}, ed)
    server = served(make_server, issuer, BETTER_AUTH_SECRET=SECRET, JWT_ALGORITHM="HS256")
    assert [ask(server, secret.token(CLAIMS, {"kid": kid})) for kid in ("oct", "ed", "x")] == [401, 401, 401]
    assert ask(server, ed.token(CLAIMS)) == 200


def test_a_token_that_names_an_audience_needs_the_setting(make_server: Callable[..., Server], issuer: Issuer) -> None:
    """Without JWT_AUDIENCE it is refused, and the start has said so; with it, and with the issuer, it is accepted."""
    ed = eddsa()
    issuer.publish(ed)
    token = ed.token(CLAIMS | {"iss": "http://localhost:3000", "aud": "http://localhost:3000"})
    without = served(make_server, issuer)
    assert ask(without, token) == 401
    assert without.log.read_text().count("JWT_AUDIENCE is not set") == 1
    without.close()
    begun = without.log.stat().st_size
    url = "http://localhost:3000"
    server = served(make_server, issuer, JWT_ISSUER=url, JWT_AUDIENCE=url)
    assert ask(server, token) == 200
    assert "JWT_AUDIENCE" not in server.log.read_text()[begun:]


def changed(signer: Signer, **changes: Any) -> dict[str, Any]:
    """Return a published key with changes; what is None is left out."""
    return {name: value for name, value in (signer.jwk | changes).items() if value is not None}


def test_other_keys_do_not_spoil_the_set() -> None:
    """Keys of other kinds, for other uses, weak, broken or no keys at all are left out; the others are used."""
    ed, es, rs = eddsa(), es256(), rs256()
    odd: list[Any] = [
        *({}, [], None, 5, "key", {"kty": []}, {"kty": {}, "crv": []}, {"kty": "OKP"}, {"kty": "RSA"}, {"kty": "EC"}),
        {"kty": "OKP", "crv": "X25519", "x": ed.jwk["x"]},
        {"kty": "EC", "crv": "P-384", "x": es.jwk["x"], "y": es.jwk["y"]},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        *(changed(signer, alg=alg) for signer in (ed, es, rs) for alg in ("HS256", "none", "RS512", "PS256", 5, [])),
        *(changed(signer, use="enc") for signer in (ed, es, rs)),
        *(changed(signer, key_ops=ops) for signer in (ed, es, rs) for ops in (["encrypt"], [], 5)),
        *(changed(signer, kid=kid) for signer in (ed, es, rs) for kid in (5, ["a"], {})),
        *(changed(signer, d="AAAA") for signer in (ed, es, rs)),
        *(changed(ed, x=x) for x in ("", "AAAA", 5, [], None, "é", ed.jwk["x"] * 2)),
        *(changed(es, y=y) for y in ("", "AAAA", 5, None, es.jwk["x"])),
        *(changed(rs, n=n) for n in ("", "AAAA", 5, None, rs256(bits=1024).jwk["n"], "_" * 20_000)),
        *(changed(rs, e=e) for e in ("", "AQ", "AA", 5, None)),
    ]
    for entry in odd:
        body = json.dumps({"keys": [ed.jwk, entry, es.jwk, rs.jwk], "more": 1}).encode()
        assert [(key.kid, key.algorithm) for key in keys_in(body)] == [
            ("ed", "EdDSA"),
            ("es", "ES256"),
            ("rs", "RS256"),
        ]
    plain = [changed(signer, alg=None, use="sig", key_ops=["verify"], kid=None) for signer in (ed, es, rs)]
    assert [key.algorithm for key in keys_in(json.dumps({"keys": plain}).encode())] == ["EdDSA", "ES256", "RS256"]


def test_a_token_is_checked_with_the_key_that_it_names_only(make_server: Callable[..., Server], issuer: Issuer) -> None:
    """Another key of the set does not do, nor a foreign name, nor none where there is a choice."""
    one, two, es = eddsa("one"), eddsa("two"), es256("es")
    issuer.publish(one, two, es)
    server = served(make_server, issuer)
    accepted = {
        "its own": one.token(CLAIMS),
        "none, but the only one of its algorithm": es.token(CLAIMS, '{"alg": "ES256"}'),
    }
    refused = {
        "another": one.token(CLAIMS, {"kid": "two"}),
        "another's of another algorithm": one.token(CLAIMS, {"kid": "es"}),
        "another's, and its algorithm": one.token(CLAIMS, {"kid": "es", "alg": "ES256"}),
        "foreign": one.token(CLAIMS, {"kid": "three"}),
        "empty": one.token(CLAIMS, {"kid": ""}),
        "none": one.token(CLAIMS, '{"alg": "EdDSA"}'),
        "null": one.token(CLAIMS, {"kid": None}),
        "a stranger's of that name": eddsa("one").token(CLAIMS),
    }
    assert {name: ask(server, token) for name, token in accepted.items()} == dict.fromkeys(accepted, 200)
    assert {name: ask(server, token) for name, token in refused.items()} == dict.fromkeys(refused, 401)
    assert set(re.findall(r"token refused: (\w+)", server.log.read_text())) == {"key", "signature", "algorithm"}


async def found(keys: KeySet, kid: str | None, algorithm: str = "EdDSA") -> bool:
    """Return whether there is a key of that name."""
    try:
        return bool(await keys.for_token(algorithm, kid))
    except Refused:
        return False


def test_a_new_key_is_fetched_when_a_token_names_it(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of keys the new one is found at its first use; unknown names cost one fetch in half a minute."""
    issuer.publish(eddsa("old"))

    async def rotate() -> None:
        keys = KeySet(issuer.url)
        assert await found(keys, "old")
        issuer.publish(eddsa("old"), eddsa("new"))
        for name in ("new", "x", "y", "z"):
            assert not await found(keys, name)
        assert issuer.asked == 1
        monkeypatch.setattr(jwks, "PAUSE", 0.2)  # a test cannot wait for half a minute
        await asyncio.sleep(0.25)
        assert await asyncio.gather(*(found(keys, name) for name in ("new", "x", "new", "y"))) == [
            True,
            False,
            True,
            False,
        ]
        assert issuer.asked == 2
        assert await found(keys, "old")

    assert jwks.PAUSE == 30
    asyncio.run(rotate())


def test_all_who_wait_share_a_fetch(make_server: Callable[..., Server], issuer: Issuer) -> None:
    """Thirty requests at once make one fetch."""
    ed = eddsa()
    issuer.publish(ed)
    issuer.pause = 1.0
    server = served(make_server, issuer)
    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(lambda _: ask(server, ed.token(CLAIMS)), range(30))) == {200}
    assert issuer.asked == 1


def test_who_gives_up_takes_the_keys_from_nobody(issuer: Issuer) -> None:
    """The request that began a fetch may end before it does; the others get what it brings."""
    issuer.publish(eddsa("ed"))
    issuer.pause = 0.5

    async def give_up() -> None:
        keys = KeySet(issuer.url)
        impatient, patient = (asyncio.create_task(found(keys, "ed")) for _ in range(2))
        await asyncio.sleep(0.1)
        impatient.cancel()
        assert await patient
        assert impatient.cancelled()
        assert issuer.asked == 1

    asyncio.run(give_up())


def test_who_waits_for_a_key_holds_up_nobody(make_server: Callable[..., Server], issuer: Issuer) -> None:
    """While the server of keys is slow, requests that need none are answered at once."""
    issuer.pause = 2.0
    server = served(make_server, issuer)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server, eddsa().token(CLAIMS))
        while not issuer.asked:
            time.sleep(0.01)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert not waiting.done()
        assert waiting.result() == 401


def lie(issuer: Issuer, way: str) -> None:
    """Have the server of keys answer in a way in which no keys come."""
    good = issuer.pieces[0]
    match way:
        case "slow to begin":
            issuer.pause = 60
        case "slow to end":
            issuer.pause, issuer.pieces = 0.3, [good[n : n + 1] for n in range(len(good))]
        case "huge":
            issuer.pieces = [b'{"keys": [' + b" " * 1_000_000] * 1000
        case "endless":
            issuer.pause, issuer.pieces = 0.001, [b" " * 100] * 1_000_000
        case "status 500" | "status 404":
            issuer.status = int(way[-3:])
        case "redirect":
            issuer.status, issuer.headers = 302, {"Location": "http://127.0.0.1:1/"}
        case "compressed":
            issuer.headers, issuer.pieces = {"Content-Encoding": "gzip"}, [gzip.compress(good)]
        case "cut":
            issuer.headers, issuer.pieces = {"Content-Length": str(len(good))}, [good[:-10]]
        case "a page":
            issuer.pieces = [b"<!doctype html><title>Sign in</title>"]
        case "deep":
            issuer.pieces = [b"[" * 60_000]
        case "not UTF-8":
            issuer.pieces = [b"\xff\xfe" * 10]
        case _:
            issuer.pieces = [way.encode()]


LIES = [
    *("slow to begin", "slow to end", "huge", "endless", "status 500", "status 404", "redirect", "compressed", "cut"),
    *("a page", "deep", "not UTF-8", "", "null", "[]", "{}", '{"keys": 5}', '{"keys": {"ed": {}}}', '{"keys": null}'),
]


@pytest.mark.parametrize("way", LIES)
def test_keys_that_do_not_come(issuer: Issuer, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """However it fails, tokens are refused within its time, with one warning, and known keys stay in use."""
    issuer.publish(eddsa("ed"))

    async def fail() -> None:
        first, known = KeySet(issuer.url), KeySet(issuer.url)
        assert await found(known, "ed")
        known._asked -= jwks.PAUSE  # half a minute ago
        lie(issuer, way)
        begun = time.monotonic()
        answers = await asyncio.gather(found(first, "ed"), found(first, "ed"), found(known, "new"), found(known, "ed"))
        assert answers == [False, False, False, True]
        assert time.monotonic() - begun < jwks.MAX_TIME + 2
        assert await found(known, "ed")

    asyncio.run(fail())
    assert len(caplog.records) == 2  # one of each
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "no token can be checked" in caplog.text
    assert "stay in use" in caplog.text
    assert issuer.url not in caplog.text


def test_a_server_of_keys_that_goes_away(make_server: Callable[..., Server]) -> None:
    """Down from the start, tokens are 401 with a warning; once its keys are known, they stay in use while it is."""
    ed = eddsa()
    with issuing(ed) as issuer:
        server = served(make_server, issuer)
        assert ask(server, ed.token(CLAIMS)) == 200
    assert ask(server, ed.token(CLAIMS)) == 200
    server.kill()
    begun = server.log.stat().st_size
    server.start()
    assert [ask(server, ed.token(CLAIMS)) for _ in range(5)] == [401] * 5
    log = server.log.read_text()[begun:]
    assert "no token can be checked" in log
    assert "Traceback" not in log
    assert server.rows("SELECT COUNT(*) FROM conversations") == [(0,)]


def test_a_server_of_keys_that_starts_later(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there are no keys they are asked for again soon, but not for each token; the log is not filled with it."""
    issuer.status = 500

    async def wait() -> None:
        keys = KeySet(issuer.url)
        for _ in range(12):
            keys._asked -= 1000
            for name in ("ed", "x", "ed"):
                assert not await found(keys, name)
        assert issuer.asked == 12
        keys._asked -= 1000
        issuer.status = 200
        issuer.publish(eddsa("ed"))
        assert await found(keys, "ed")
        monkeypatch.undo()
        keys._asked -= jwks.FIRST_PAUSE
        assert not await found(keys, "x")
        assert issuer.asked == 13

    assert jwks.FIRST_PAUSE == 2
    monkeypatch.setattr(jwks, "FIRST_PAUSE", 1000)  # a busy machine may take two seconds between two tokens
    asyncio.run(wait())
    assert len(caplog.records) <= 10  # five a minute, and a minute may end meanwhile


def test_a_key_that_is_withdrawn_is_over(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old keys are fetched again, without a wait for whoever comes with one that is known."""
    issuer.publish(eddsa("old"))

    async def withdraw() -> None:
        keys = KeySet(issuer.url)
        assert await found(keys, "old")
        issuer.publish(eddsa("new"))
        assert await found(keys, "old")
        assert issuer.asked == 1
        keys._asked -= jwks.MAX_AGE  # ten minutes ago
        issuer.pause = 0.5
        assert await found(keys, "old")
        assert keys._fetch is not None  # which nobody has waited for
        assert await found(keys, "new")
        assert not await found(keys, "old")
        assert issuer.asked == 2

    asyncio.run(withdraw())


def test_a_token_that_was_refused_is_accepted_once_its_key_is_there(issuer: Issuer) -> None:
    """Keys without names: the token of a new one is checked with the old one first, and is not refused for good."""
    old, new = eddsa(), eddsa()
    issuer.publish(changed(old, kid=None))

    async def replace() -> None:
        keys = KeySet(issuer.url)
        authenticate = bearer(Verifier(keys))

        async def user(signer: Signer) -> str | None:
            token = signer.token(CLAIMS, '{"alg": "EdDSA"}')
            return await authenticate(
                Request({"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]})
            )

        assert await user(old) == "alice"
        issuer.publish(changed(new, kid=None))
        keys._asked -= jwks.MAX_AGE  # ten minutes ago
        assert await user(new) is None
        assert keys._fetch is not None
        await keys._fetch
        assert await user(new) == "alice"
        assert await user(old) is None

    asyncio.run(replace())


def test_an_emptied_set_is_believed(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    """Who publishes no key any more wants no token accepted."""
    issuer.publish(eddsa("ed"))

    async def empty() -> None:
        keys = KeySet(issuer.url)
        assert await found(keys, "ed")
        issuer.publish()
        keys._asked -= jwks.PAUSE
        assert not await found(keys, "x")
        assert not await found(keys, "ed")

    asyncio.run(empty())
    assert "no key" in caplog.text


GOOD_URLS = [
    *("https://auth.example.com/api/auth/jwks", "https://1.2.3.4/", "http://localhost:3000/api/auth/jwks"),
    *("http://127.0.0.1/", "http://[::1]:80/", "http://10.1.2.3/", "http://192.168.0.7:8080/jwks", "http://[fd00::1]/"),
    *("http://auth:3000/jwks", "http://auth.internal/x"),
]
BAD_URLS = [
    *("http://auth.example.com/jwks", "http://8.8.8.8/", "http://[2001:4860:4860::8888]/", "ftp://localhost/"),
    *("/etc/passwd", "localhost:3000", "https:///", "file:///x", "http://localhost:0/", "http://localhost:x/"),
    *("https://u:p@auth.example.com/", "http://localhost@evil.example/"),
]


def test_keys_come_over_https_or_from_the_own_network() -> None:
    """Plain HTTP is for loopback and private hosts: elsewhere anybody on the way could put in keys."""
    for url in GOOD_URLS:
        assert Settings.from_env({"JWT_JWKS_URL": url}).jwks_url == url
    for url in BAD_URLS:
        with pytest.raises(BadSetting, match="JWT_JWKS_URL") as refused:
            Settings.from_env({"JWT_JWKS_URL": url})
        assert url not in str(refused.value)
    with pytest.raises(BadSetting, match="set one of them"):
        Settings.from_env({"JWT_JWKS_URL": GOOD_URLS[0], "JWT_PUBLIC_KEY": es256().pem, "JWT_ALGORITHM": "ES256"})
