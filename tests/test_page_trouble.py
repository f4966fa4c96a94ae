"""The page when requests fail, when others change what it shows, and when somebody else signs in."""

import httpx
from browsing import Visitor, idle, say, still, words
from conftest import Server, token
from playwright.sync_api import Page, Route, expect

BUSY = {"detail": "The database is busy. Please try again in a moment."}


def refuse(route: Route) -> None:
    """Answer as a server that cannot do it now."""
    route.fulfill(status=503, json=BUSY)


def two_conversations(server: Server, visitor: Visitor) -> None:
    """Begin two conversations; the newer one is the first of the list."""
    with server.client(visitor.user) as client:
        client.say("the first one")
        client.say("the second one")


def open_conversation(page: Page, title: str) -> None:
    """Press a conversation in the list."""
    page.locator("#conversation-list .name", has_text=title).click()


def test_a_conversation_that_does_not_load_is_not_shown_as_another(server: Server, visitor: Visitor) -> None:
    """Where it cannot be loaded nothing is shown, and no message of the one before; it comes by itself later."""
    visitor.expected = "503"
    two_conversations(server, visitor)
    page = visitor.visit(server)
    open_conversation(page, "the second one")
    expect(page.locator(".question .body")).to_have_text(["the second one"])
    page.wait_for_event("response", lambda response: response.url.endswith("?limit=2"))  # later looks may be 304s
    open_conversation(page, "the first one")
    expect(page.locator(".question .body")).to_have_text(["the first one"])
    page.route("**/api/conversations/*?limit=50", refuse)
    open_conversation(page, "the second one")
    expect(page.locator("#notice")).to_contain_text("database is busy")
    expect(page.locator(".question")).to_have_count(0)
    page.unroute("**/api/conversations/*?limit=50")
    expect(page.locator(".question .body")).to_have_text(["the second one"])
    expect(page.locator("#notice")).to_be_hidden()


def test_an_answer_whose_end_cannot_be_read_is_not_asked_for_again(server: Server, visitor: Visitor) -> None:
    """The message was answered: nothing offers to send it once more, and the end comes with a later look."""
    visitor.expected = "503"
    page = visitor.visit(server)
    say(page, "hello")
    idle(page)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        refused.append(route.request.url)
        refuse(route)

    page.route("**/api/conversations/*?limit=2", refuse_once, times=1)
    say(page, "add milk")
    idle(page)
    expect(page.locator(".answer").last.get_by_role("button", name="Copy")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#task-list .row")).to_have_count(1)
    assert len(refused) == 1


def test_a_message_that_was_sent_and_left_is_shown_once(paced: Server, visitor: Visitor) -> None:
    """Sent, its response lost, left by Esc, seen by a later look, and sent again: it is there once, with its end."""
    visitor.expected = "ERR_FAILED"
    page = visitor.visit(paced)
    say(page, "say 2 0")
    idle(page)

    def lose(route: Route) -> None:
        headers = {k: v for k, v in route.request.headers.items() if k != "host"}
        httpx.post(route.request.url, headers=headers, content=route.request.post_data)
        route.abort()

    page.route("**/chatkit", lose)
    page.fill("#text", "say 3 0")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("connection was lost")
    page.keyboard.press("Escape")
    idle(page)
    expect(page.locator(".question .body")).to_have_text(["say 2 0", "say 3 0"])
    expect(page.locator("#text")).to_have_value("say 3 0")
    page.unroute("**/chatkit")
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_have_value("")
    idle(page)
    expect(page.locator(".question .body")).to_have_text(["say 2 0", "say 3 0"])
    expect(page.locator(".answer").get_by_role("button", name="Copy", exact=True)).to_have_count(2)


def test_the_end_of_an_answer_that_was_joined_moves_nothing(paced: Server, visitor: Visitor) -> None:
    """Who has reloaded in the middle of an answer keeps what is shown, and where it is, when the answer ends."""
    page = visitor.visit(paced)
    say(page, "say 2 0")
    idle(page)
    say(page, "say 60 30")
    expect(page.locator(".answer .text").last).to_contain_text("w5")
    page.reload()
    expect(page.locator(".answer .text").last).to_contain_text("w5")
    kept = [element.element_handle() for element in page.locator("#messages > li").all()]
    idle(page)
    expect(page.locator(".answer").last.get_by_role("button", name="Copy", exact=True)).to_be_visible()
    expect(page.locator(".answer .text").last).to_have_text(words(60))
    assert len(kept) == 4
    assert all(element is not None and element.evaluate("(element) => element.isConnected") for element in kept)


def test_a_message_edited_elsewhere_is_seen(server: Server, visitor: Visitor) -> None:
    """Another window shows the new words of an edited message, above the new answer."""
    with server.client(visitor.user) as client:
        thread = client.say("hello").thread
        page = visitor.visit(server)
        open_conversation(page, "hello")
        expect(page.locator(".question .body")).to_have_text(["hello"])
        question = client.messages(thread)[0]["id"]
        body = {"message_id": question, "message": "add milk"}
        client.post(f"/api/conversations/{thread}/retry", json=body).raise_for_status()
        expect(page.locator(".answer")).to_contain_text("Added: milk")
        expect(page.locator("#messages > li .body").first).to_have_text("add milk")


def test_earlier_messages_can_be_asked_for_again(server: Server, visitor: Visitor) -> None:
    """When it has failed once the button still works."""
    visitor.expected = "503"
    with server.client(visitor.user) as client:
        thread = client.say("hello 0").thread
        for n in range(1, 30):
            client.say(f"hello {n}", thread)
    page = visitor.visit(server)
    page.locator("#conversation-list .name").click()
    expect(page.locator(".question .body").last).to_have_text("hello 29")
    page.route("**/api/conversations/*before=*", refuse)
    page.locator("#earlier").click()
    expect(page.locator("#notice")).to_contain_text("database is busy")
    page.unroute("**/api/conversations/*before=*")
    page.locator("#earlier").click()
    expect(page.locator(".question .body").first).to_have_text("hello 0")


def test_a_page_that_could_not_begin_can_try_again(server: Server, visitor: Visitor) -> None:
    """A server that is away when the page is opened is said, with a button that begins anew."""
    visitor.expected = "ERR_FAILED"
    page = visitor.visit(server)
    page.route("**/api/me", lambda route: route.abort())
    page.reload()
    expect(page.locator("#notice")).to_contain_text("cannot be reached")
    page.unroute("**/api/me")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#user")).to_have_text(visitor.user)
    say(page, "hello")
    idle(page)


def test_text_that_is_written_while_something_else_is_sent_stays(server: Server, visitor: Visitor) -> None:
    """A suggestion that is pressed begins a conversation, and leaves what was being written in the field."""
    page = visitor.visit(server)
    page.fill("#text", "a long thought")
    page.locator(".suggestion").first.click()
    expect(page.locator(".question")).to_have_count(1)
    idle(page)
    expect(page.locator("#text")).to_have_value("a long thought")
    page.reload()
    expect(page.locator(".question")).to_have_count(1)
    expect(page.locator("#text")).to_have_value("a long thought")
    page.click("#new")
    expect(page.locator("#text")).to_have_value("")


def test_a_draft_is_nobody_elses_however_one_becomes_another(server: Server, visitor: Visitor) -> None:
    """By a link that signs somebody else in, or signed out in another window: the text is gone with its writer."""
    page = visitor.visit(server)
    page.fill("#text", "a secret plan")
    page.evaluate("(hash) => { location.hash = hash; }", f"token={token('mallory')}")
    page.click("#become")
    expect(page.locator("#user")).to_have_text("mallory")
    expect(page.locator("#text")).to_have_value("")
    page.fill("#text", "another plan")
    other = visitor.context.new_page()
    other.goto(server.url)
    other.click("#sign-out")
    expect(page.locator("#sign-in")).to_be_visible()
    page.fill("#token", token("somebody else"))
    page.press("#token", "Enter")
    expect(page.locator("#user")).to_have_text("somebody else")
    expect(page.locator("#text")).to_have_value("")


def test_signing_in_again_is_for_all_tabs(server: Server, visitor: Visitor) -> None:
    """Two tabs whose token is not valid any more: who signs in again in one of them is signed in in the other."""
    visitor.expected = "401"
    one, two = visitor.visit(server), visitor.visit(server)
    for page in (one, two):
        page.route("**/api/tasks*", lambda route: route.fulfill(status=401, json={"detail": "no"}))
    for page in (one, two):
        page.bring_to_front()
        expect(page.locator("#sign-in")).to_be_visible()
        page.unroute("**/api/tasks*")
    one.fill("#token", token(visitor.user, exp=4e9))
    one.press("#token", "Enter")
    for page in (one, two):
        expect(page.locator("#sign-in")).to_be_hidden()
        expect(page.locator("#user")).to_have_text(visitor.user)


def test_a_button_says_what_it_does_after_it_was_pressed_twice(server: Server, visitor: Visitor) -> None:
    """ "Copied" is said for a while, and is not what the button is called from then on; a refusal is told as one."""
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visitor.visit(server)
    say(page, "hello")
    idle(page)
    page.locator(".answer").hover()
    button = page.locator(".copy-answer")
    expect(button).to_have_text("Copy")
    for _ in range(2):
        button.click()
        expect(button).to_have_text("Copied")
    expect(button).to_have_text("Copy")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
    button.click()
    expect(page.locator("#notice")).to_contain_text("does not let this page copy")


def test_a_request_that_is_never_answered_ends(server: Server, visitor: Visitor) -> None:
    """A connection that died without a word is given up, and the page goes on looking."""
    visitor.context.clock.install()
    page = visitor.visit(server)
    still(page)
    asked: list[Route] = []
    page.route("**/api/tasks*", lambda route: asked.append(route))
    with server.client(visitor.user) as client:
        client.post("/api/tasks", json={"title": "milk"}).raise_for_status()
    page.clock.run_for(5000)
    expect(page.locator("#task-list .row")).to_have_count(0)
    page.unroute("**/api/tasks*")
    page.clock.run_for(50_000)
    expect(page.locator("#task-list .row")).to_have_count(1)
    assert len(asked) == 1
