"""Who is signed in on the page: over tabs and restarts of the browser, by link and by hand, and not by accident."""

import base64
import json
import re
import time
from collections.abc import Callable

from browsing import Gate, Visitor, say
from conftest import Server, token
from playwright.sync_api import Browser, Page, expect

NOT_VALID = "not valid"


def is_signed_in(page: Page, user: str) -> None:
    """The page says whose it is, and can be used."""
    expect(page.locator("#user")).to_have_text(user)
    expect(page.locator("#composer")).to_be_visible()
    expect(page.locator("#sign-in")).to_be_hidden()


def is_signed_out(page: Page) -> None:
    """Nothing but the sign-in page is shown."""
    expect(page.locator("#sign-in")).to_be_visible()
    expect(page.locator("#composer")).to_be_hidden()


def paste(page: Page, text: str) -> None:
    """Sign in by hand."""
    page.fill("#token", text)
    page.keyboard.press("Enter")


def test_tabs_and_restarts_stay_signed_in(server: Server, browser: Browser) -> None:
    """A new tab is signed in, and so is the browser after a restart."""
    first = Visitor(browser)
    is_signed_in(first.visit(server), first.user)
    is_signed_in(first.visit(server, signed_in=False), first.user)
    state = first.context.storage_state()  # what a browser writes to disk
    first.context.close()
    later = Visitor(browser, storage_state=state)
    is_signed_in(later.visit(server, signed_in=False), first.user)
    later.context.close()
    assert first.complaints == later.complaints == []


def test_a_pasted_token_signs_in(server: Server, visitor: Visitor) -> None:
    """A token does, as does a link that holds one; what the server does not accept is told, and can be tried again."""
    visitor.expected = "401"
    for wanted in (
        token(visitor.user),
        f"{server.url}/#token={token(visitor.user)}",
        f" Bearer {token(visitor.user)} ",
    ):
        page = visitor.visit(server, signed_in=False)
        is_signed_out(page)
        for wrong in ("nonsense", "nön sense", token("x", exp=1)):
            paste(page, wrong)
            expect(page.locator("#token-error")).to_contain_text(NOT_VALID)
        paste(page, wanted)
        is_signed_in(page, visitor.user)
        say(page, "add milk")
        expect(page.locator(".answer")).to_contain_text("Added: milk")
        page.click("#sign-out")
        is_signed_out(page)
        page.close()


def test_signing_out_is_for_all_tabs(server: Server, visitor: Visitor) -> None:
    """Who signs out is out in the other tabs too, and nothing of theirs is left on the page."""
    one, two = visitor.visit(server), visitor.visit(server)
    say(one, "add a secret plan")
    expect(two.locator("#composer")).to_be_visible()
    one.click("#sign-out")
    for page in (one, two):
        is_signed_out(page)
        assert "secret plan" not in page.content()
        assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('token'))") == []


def test_a_link_of_another_user_asks_first(server: Server, visitor: Visitor) -> None:
    """A link that would make the reader somebody else names both; only a yes does it."""
    for answer, stays in (("#remain", True), ("Escape", True), ("#become", False)):
        page = visitor.visit(server)
        is_signed_in(page, visitor.user)
        page.evaluate("(hash) => { location.hash = hash; }", f"token={token('mallory')}")
        expect(page.locator("#change-user")).to_be_visible()
        expect(page.locator("#other-user")).to_contain_text(visitor.user)
        expect(page.locator("#other-user")).to_contain_text("mallory")
        page.keyboard.press(answer) if answer == "Escape" else page.click(answer)
        is_signed_in(page, visitor.user if stays else "mallory")
        assert "token" not in page.url
        page.reload()
        is_signed_in(page, visitor.user if stays else "mallory")


def test_a_new_link_of_the_same_user_asks_nothing(server: Server, visitor: Visitor) -> None:
    """It is the way to sign in again before the old token ends."""
    page = visitor.visit(server)
    is_signed_in(page, visitor.user)
    page = visitor.visit(server, f"/#token={token(visitor.user, exp=4e9)}", signed_in=False)
    is_signed_in(page, visitor.user)
    expect(page.locator("#change-user")).to_be_hidden()


def test_an_invalid_token_shows_it(server: Server, visitor: Visitor) -> None:
    """In a link, kept from before, or ended meanwhile: the page says so, and what was typed is still there after."""
    visitor.expected = "401"
    page = visitor.visit(server, "/#token=nonsense", signed_in=False)
    is_signed_out(page)
    expect(page.locator("#token-error")).to_contain_text(NOT_VALID)
    page = visitor.visit(server)
    is_signed_in(page, visitor.user)
    page = visitor.visit(server, "/#token=nonsense", signed_in=False)
    is_signed_in(page, visitor.user)
    expect(page.locator("#notice")).to_contain_text(f"not valid. You are signed in as {visitor.user}")
    page.fill("#text", "add milk")
    page.route("**/chatkit", lambda route: route.fulfill(status=401, content_type="application/json", body="{}"))
    page.keyboard.press("Enter")
    is_signed_out(page)
    expect(page.locator("#token-error")).to_contain_text("not valid any more")
    paste(page, token(visitor.user))
    is_signed_in(page, visitor.user)
    expect(page.locator("#text")).to_have_value("add milk")


def test_what_is_typed_before_the_server_has_answered_waits(server: Server, visitor: Visitor) -> None:
    """A message sent while it is not known yet who is signed in goes out as theirs, and not as nobody's."""
    page = visitor.visit(server)
    gate = Gate(page, "**/api/me")
    page.reload()
    page.fill("#text", "add milk")
    page.keyboard.press("Enter")
    gate.meet()
    page.wait_for_timeout(300)  # in which it could have been sent
    gate.open()
    expect(page.locator(".answer")).to_contain_text("Added: milk")
    is_signed_in(page, visitor.user)


def test_the_demos_link_lives_for_a_day(make_server: Callable[..., Server]) -> None:
    """It ends up in terminals and histories."""
    log = make_server(BETTER_AUTH_SECRET="").log.read_text()
    [claims] = re.findall(r"#token=[\w-]+\.([\w-]+)\.", log)
    ends = json.loads(base64.urlsafe_b64decode(claims + "=="))["exp"]
    assert 0 <= time.time() + 24 * 3600 - ends < 120
