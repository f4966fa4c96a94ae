"""The recipes of docs/tokens.md, run as they are: with the real Better Auth, and with a cookie session."""

import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from browsing import STAND_IN, Visitor
from conftest import PATIENCE, ROOT, Server, npm_package, prepare, running
from playwright.sync_api import expect
from serving import environment

from todochat.auth.jwks import PAUSE

TEXT = (ROOT / "docs/tokens.md").read_text()
SECTIONS = {section.split("\n")[0]: section for section in TEXT.split("\n## ")}
DEFAULT = "plugins: [jwt()],"


def code(section: str, language: str) -> str:
    """Return the piece of code in a section."""
    [found] = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


def settings(section: str, url: str) -> dict[str, str]:
    """Return the settings that a section's command line makes, for a Better Auth at this address."""
    command = code(section, "sh").replace("http://localhost:3000", url)
    assert command.endswith(".venv/bin/python app.py\n")
    return {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', command)}


class BetterAuth:
    """A Better Auth at work, and one of its users with a session."""

    def __init__(self, url: str, page: Path) -> None:
        self.url = url
        self.page = page  # what it shows at any other address
        self.client = httpx.Client(base_url=url, headers={"Origin": url}, timeout=PATIENCE)

    def sign_up(self) -> str:
        """Make a user, who is signed in then; return the user's id."""
        person = {"email": f"{secrets.token_hex(4)}@example.com", "password": secrets.token_hex(8), "name": "Alice"}
        return str(self.client.post("/api/auth/sign-up/email", json=person).raise_for_status().json()["user"]["id"])

    def token(self) -> str:
        """Return a new token of the user who has signed up."""
        return str(self.client.get("/api/auth/token").raise_for_status().json()["token"])

    def rotate(self) -> None:
        """End the keys that there are."""
        self.client.get("/rotate").raise_for_status()


@contextmanager
def better_auth(folder: Path, recipe: str, secret: str = "s" * 40, port: int = 0) -> Iterator[BetterAuth]:
    """Run the recipe's Better Auth in a process of its own, on the port that it names."""
    npm_package("better-auth")
    folder.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]
    url, page = f"http://localhost:{port}", folder / "page.html"
    (folder / "auth.mjs").write_text(recipe.replace("http://localhost:3000", url))
    page.write_text("")
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(ROOT / "tests" / "node_modules")
    command = ["node", str(ROOT / "tests/better_auth.mjs"), str(folder / "auth.mjs"), str(page), str(port)]
    env = environment(BETTER_AUTH_SECRET=secret, BETTER_AUTH_TELEMETRY=0)
    with running(command, "ready", env=env):
        better = BetterAuth(url, page)
        yield better
        better.client.close()


def test_the_readme_has_the_same_recipe() -> None:
    """What the README shows of Better Auth is what runs here."""
    readme = (ROOT / "README.md").read_text()
    assert f"```sh\n{code('Better Auth', 'sh')}```" in readme
    assert f"`{DEFAULT.rstrip(',')}`" in readme
    assert DEFAULT in code("Better Auth", "js")


def chat(server: Server, token: str) -> int:
    """Have a task added; return the status."""
    with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
        turn = client.say("add milk")
        assert turn.status != 200 or "Added: milk" in turn.text
        return turn.status


def test_better_auth_with_each_kind_of_key(tmp_path: Path) -> None:
    """As the recipe has it, with its default, ES256 and RS256: sign up, chat, change the keys, chat."""
    recipe = code("Better Auth", "js")
    with ExitStack() as stack:
        parties: list[tuple[str, BetterAuth, Server, str]] = []
        for algorithm in ("EdDSA", "ES256", "RS256"):
            plugin = f'jwt({{ jwks: {{ keyPairConfig: {{ alg: "{algorithm}" }} }} }})'
            assert algorithm == "EdDSA" or f'"{algorithm}"' in SECTIONS["Better Auth"]
            changed = recipe if algorithm == "EdDSA" else recipe.replace(DEFAULT, f"plugins: [{plugin}],")
            better = stack.enter_context(better_auth(tmp_path / algorithm, changed))
            (tmp_path / f"{algorithm}-server").mkdir()
            asked = {"BETTER_AUTH_SECRET": "s" * 40} | settings("Better Auth", better.url)
            server = prepare(tmp_path / f"{algorithm}-server", **asked).start()
            stack.callback(server.close)
            user, token = better.sign_up(), better.token()
            assert chat(server, token) == 200
            parties.append((user, better, server, token))
        for _, better, _, _ in parties:
            better.rotate()
        time.sleep(PAUSE)  # the keys have just been fetched, and a new name does not have them fetched again so soon
        for user, better, server, token in parties:
            fresh = better.token()
            assert fresh.split(".")[0] != token.split(".")[0]  # signed with another key
            assert chat(server, fresh) == chat(server, token) == 200
            assert server.rows("SELECT DISTINCT user_id FROM conversations") == [(user,)]


def test_better_auth_with_a_secret(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    """HS256, as the recipe has it: sign up, chat, change the secret, chat with tokens of both."""
    old, new = settings("HS256", "")["BETTER_AUTH_SECRET"], "n" * 40
    with better_auth(tmp_path / "old", code("HS256", "js"), old) as better:
        url = better.url
        asked = settings("HS256", url)
        server = make_server(**asked)
        better.sign_up()
        token = better.token()
        assert chat(server, token) == 200
        server.close()
    with better_auth(tmp_path / "new", code("HS256", "js"), new, int(url.rsplit(":", 1)[1])) as better:
        server = make_server(**asked | {"BETTER_AUTH_SECRET": f"{new},{old}"})
        better.sign_up()
        assert chat(server, better.token()) == chat(server, token) == 200
        server.close()
        server = make_server(**asked | {"BETTER_AUTH_SECRET": new})
        assert (chat(server, better.token()), chat(server, token)) == (200, 401)


def test_the_pages_get_a_new_token_for_each_request(
    tmp_path: Path,
    make_server: Callable[..., Server],
    visitor: Visitor,
) -> None:
    """The recipe's page, and the component with its function, chat as whoever is signed in there."""
    page = code("Better Auth", "html")
    component = re.findall(r"```html\n(.*?)```", (ROOT / "docs/component.md").read_text(), re.DOTALL)[0]
    function = re.findall(r"^  async function authorized.*?^  }\n", page, re.DOTALL | re.MULTILINE)[0]
    component = re.sub(
        r"  const token = .*?const authorized = [^\n]*\n", lambda _: function, component, flags=re.DOTALL
    )
    assert 'domainKey: "local-dev", fetch: authorized }' in component
    with better_auth(tmp_path / "auth", code("Better Auth", "js")) as better:
        server = make_server(**settings("Better Auth", better.url), CORS_ORIGINS=better.url)
        user = better.sign_up()
        [cookie] = [c for c in better.client.cookies.jar if "session_token" in c.name]
        visitor.context.add_cookies([{"name": cookie.name, "value": str(cookie.value), "url": better.url}])
        script = {"status": 200, "content_type": "text/javascript", "body": STAND_IN}
        visitor.context.route("https://cdn.platform.openai.com/**", lambda route: route.fulfill(**script))
        tab = visitor.context.new_page()
        tokens: list[str] = []
        tab.on("request", lambda r: tokens.append(r.headers["authorization"]) if r.method == "POST" else None)
        better.page.write_text(page.replace("http://127.0.0.1:8000", server.url))
        tab.goto(better.url)
        expect(tab.locator("#answer")).to_contain_text("Added: buy milk")
        better.page.write_text(component.replace("http://127.0.0.1:8000", server.url))
        tab.goto(better.url)
        expect(tab.locator("openai-chatkit")).to_have_text("1 threads, local-dev")
        assert len(tokens) == 2
        assert server.rows("SELECT user_id FROM conversations") == [(user,)]


def test_a_cookie_session_of_the_host(tmp_path: Path) -> None:
    """The recipe's app lets its users in by their cookie, and nobody else; another site cannot stop their answers."""
    (tmp_path / "host.py").write_text(code("A cookie session of your app", "python"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "import todochat, uvicorn; uvicorn.main()"  # of this checkout, which is installed nowhere
    command = [sys.executable, "-c", program, "host:app", "--port", str(port), "--timeout-graceful-shutdown", "3"]
    env = environment(SESSION_SECRET="s" * 40, PYTHONPATH=f"{tmp_path}:{ROOT}")
    with running(command, "Uvicorn running", cwd=tmp_path, env=env), httpx.Client(timeout=PATIENCE) as client:
        base = f"http://127.0.0.1:{port}"
        assert client.get(f"{base}/todo/api/tasks").status_code == 401
        assert client.get(f"{base}/in").headers["location"] == "/todo/"
        assert client.get(f"{base}/todo/api/me").json() == {"user": "alice"}
        assert "Added: milk" in client.post(f"{base}/todo/chatkit", json={"message": "add milk"}).text.replace(
            '"}\n\ndata: {"type":"text","content":"', ""
        )
        with client.stream("POST", f"{base}/todo/chatkit", json={"message": "help"}) as stream:
            stop = f"{base}/todo/api/conversations/{stream.headers['x-thread-id']}/stop"
            assert (
                client.post(stop, headers={"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}).status_code
                == 403
            )
            assert client.post(stop, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
