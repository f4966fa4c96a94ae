"""The page, in a real browser against a real server."""

import json
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from browsing import (
    ENDLESS,
    MUCH,
    PATIENCE,
    STAND_IN,
    Gate,
    Visitor,
    choose,
    eventually,
    frames,
    growth,
    idle,
    meter,
    say,
    until,
    words,
)
from conftest import ROOT, Client, Server, npm_package, prepare, token
from markdown_samples import BLOCKS
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from todochat import app
from todochat.models import offline


def test_a_first_visit_by_the_printed_link(make_server: Callable[..., Server], visitor: Visitor) -> None:
    """The printed link signs in, leaves no token in the address, and shows what one can try; a button does it."""
    server = make_server(BETTER_AUTH_SECRET="")
    link = next(line for line in server.log.read_text().splitlines() if line.startswith("Sign in: "))
    page = visitor.visit(server, link.split(server.url)[1], signed_in=False)
    expect(page.locator("#suggestions .suggestion")).to_have_count(4)
    assert "token" not in page.url
    expect(page.locator("#model")).to_contain_text("not an AI")
    page.click("#suggestions button >> nth=0")
    expect(page.locator("#task-list li")).to_have_count(2)
    idle(page)
    expect(page.locator(".answer")).to_contain_text("Added: buy milk")
    page.reload()
    expect(page.locator(".answer")).to_contain_text("Added: buy milk")


def test_without_a_token_the_page_says_how_to_get_one(server: Server, visitor: Visitor) -> None:
    """Somebody without a token is told where tokens come from."""
    page = visitor.visit(server, signed_in=False)
    expect(page.locator("#sign-in")).to_contain_text("python app.py token NAME")
    expect(page.locator("#composer")).to_be_hidden()


def test_adding_listing_and_completing_by_chat(server: Server, visitor: Visitor) -> None:
    """What the agent does shows at once: as a step to unfold, and in the tasks, where the change is marked."""
    page = visitor.visit(server)
    say(page, "add buy milk, call Ann")
    expect(page.locator(".step.done")).to_have_count(2)
    expect(page.locator("#task-list .changed")).not_to_have_count(0)
    idle(page)
    say(page, "complete the second one")
    idle(page)
    page.click("#done-count")
    expect(page.locator("#done-list .title")).to_have_text("call Ann")
    step = page.locator(".step").last
    expect(step).to_contain_text("Complete task")
    step.locator("summary").click()
    expect(step.locator("pre")).to_have_count(2)
    expect(step.locator("pre").last).to_contain_text('"success": true')
    say(page, "show my tasks")
    idle(page)
    expect(page.locator(".answer").last.locator("ul li")).to_have_count(2)


def test_tasks_are_ticked_added_renamed_and_deleted_by_hand(server: Server, visitor: Visitor) -> None:
    """The list beside the chat can be worked by hand, and the server has what it shows."""
    page = visitor.visit(server)
    page.fill("#task-title", "water the plants")
    page.keyboard.press("Enter")
    item = page.locator("#tasks .row")
    expect(item).to_contain_text("water the plants")
    item.locator("input[type=checkbox]").click()
    expect(page.locator("#done-count")).to_have_text("Done (1)")
    page.click("#done-count")
    choose(item, "Edit")
    page.keyboard.type("water the roses")
    page.keyboard.press("Enter")
    expect(item).to_contain_text("water the roses")
    with server.client(visitor.user) as client:
        [task] = client.tasks()
        assert (task["title"], task["completed"]) == ("water the roses", True)
        choose(item, "Delete")
        expect(item).to_have_count(0)
        page.close()
        eventually(lambda: client.tasks() == [])


def test_conversations_are_opened_renamed_and_deleted(server: Server, visitor: Visitor) -> None:
    """Conversations are listed last used first, can be opened and renamed, and are deleted from their menu."""
    page = visitor.visit(server)
    say(page, "hello")
    idle(page)
    page.click("#new")
    expect(page.locator("#welcome")).to_be_visible()
    say(page, "show my tasks")
    idle(page)
    names = page.locator("#conversation-list .name .title")
    expect(names).to_have_text(["show my tasks", "hello"])
    names.nth(1).click()
    expect(page.locator(".question .body")).to_have_text("hello")
    rows = page.locator("#conversation-list .row")
    choose(rows.nth(1), "Rename")
    page.keyboard.type("Greetings")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["show my tasks", "Greetings"])
    expect(page.locator("#title")).to_have_text("Greetings")
    rows.nth(1).locator(".more").click()
    page.keyboard.press("Escape")
    expect(page.locator("#menu")).to_be_hidden()
    expect(names).to_have_count(2)
    choose(rows.nth(1), "Delete")
    expect(names).to_have_text(["show my tasks"])
    expect(page.locator("#title")).to_have_text("New conversation")


def test_the_answer_streams_in_and_can_be_stopped(paced: Server, visitor: Visitor) -> None:
    """Text shows while it comes; Esc stops it; the answer is marked as stopped, also after a reload."""
    page = visitor.visit(paced)
    say(page, ENDLESS)
    expect(page.locator(".answer .text")).to_contain_text("w5 ")
    page.keyboard.press("Escape")
    idle(page)
    expect(page.locator(".mark")).to_contain_text("You stopped this answer.")
    shown = page.locator(".answer .text").inner_text()
    page.reload()
    expect(page.locator(".mark")).to_contain_text("You stopped this answer.")
    assert page.locator(".answer .text").inner_text() == shown


def test_a_reload_in_mid_answer_finds_back_without_a_gap_or_a_duplicate(paced: Server, visitor: Visitor) -> None:
    """Reloaded in mid-answer, the page joins the live answer and shows each word once."""
    page = visitor.visit(paced)
    say(page, 'say 20 10\ncall add_task {"title": "x"}\nsay 80 25')
    expect(page.locator(".answer")).to_contain_text("w3 ")
    page.reload()
    idle(page)
    expect(page.locator(".answer .text")).to_have_text([words(20), words(80)])
    expect(page.locator(".step")).to_have_count(1)


def test_a_second_tab_follows_the_same_answer(paced: Server, visitor: Visitor) -> None:
    """A conversation opened in a second tab shows the live answer from its beginning to its end."""
    first = visitor.visit(paced)
    say(first, ENDLESS)
    expect(first.locator(".answer")).to_contain_text("w3 ")
    second = visitor.visit(paced)
    second.locator("#conversation-list .name .title").first.click()
    expect(second.locator("#stop")).to_be_visible()
    expect(second.locator(".answer .text")).to_contain_text("w0 w1 w2 w3 ")
    second.click("#stop")
    for page in (first, second):
        idle(page)
        expect(page.locator(".mark")).to_contain_text("You stopped this answer.")
    shown = first.locator(".answer .text").inner_text()
    assert shown == words(shown.count("w"))
    assert second.locator(".answer .text").inner_text() == shown


def test_a_lost_network_is_found_back(paced: Server, visitor: Visitor) -> None:
    """When the network fails in mid-answer the page goes on by itself once it is back."""
    visitor.expected = "ERR_INTERNET_DISCONNECTED|ERR_FAILED|Failed to load resource"
    page = visitor.visit(paced)
    page.route("**/stream?after=*", lambda route: route.abort())
    # A proxy that breaks off after a while, as networks do.
    page.route("**/chatkit", cut_off)
    say(page, "say 60 20")
    expect(page.locator("#notice")).to_contain_text("connection was lost")
    page.unroute("**/stream?after=*")
    idle(page)
    expect(page.locator(".answer .text")).to_have_text(words(60))
    expect(page.locator("#notice")).to_be_hidden()


def cut_off(route: Any) -> None:
    """Deliver the first three frames of a stream and no more."""
    request = route.request
    headers = {k: v for k, v in request.headers.items() if k in ("authorization", "content-type", "idempotency-key")}
    with httpx.stream("POST", request.url, headers=headers, content=request.post_data) as response:
        frames: list[str] = []
        for line in response.iter_lines():
            if line:
                frames.append(line + "\n\n")
            if len(frames) == 3:
                break
        answer = {"X-Thread-Id": response.headers["x-thread-id"], "Content-Type": "text/event-stream"}
    route.fulfill(status=200, headers=answer, body="".join(frames))


def test_a_message_whose_connection_is_lost_is_sent_once(paced: Server, visitor: Visitor) -> None:
    """A send whose answer never came is retried with the same key: one message, one answer."""
    visitor.expected = "ERR_FAILED"
    page = visitor.visit(paced)
    tries: list[str] = []

    def lose_the_first(route: Any) -> None:
        tries.append(route.request.headers["idempotency-key"])
        if len(tries) > 1:
            route.continue_()
            return
        headers = {k: v for k, v in route.request.headers.items() if k != "host"}
        with httpx.stream("POST", route.request.url, headers=headers, content=route.request.post_data):
            route.abort()

    page.route("**/chatkit", lose_the_first)
    say(page, "say 30 10")
    idle(page)
    expect(page.locator(".answer .text")).to_have_text(words(30))
    assert len(tries) == 2
    assert len(set(tries)) == 1
    with paced.client(visitor.user) as client:
        [conversation] = client.get("/api/conversations").json()
        assert len(client.messages(conversation["id"])) == 2


def test_a_message_sent_before_the_conversation_has_loaded(paced: Server, visitor: Visitor) -> None:
    """Who is quicker than the network finds the old messages and the new one in their order."""
    page = visitor.visit(paced)
    say(page, "say 2 5")
    idle(page)
    gate = Gate(page, "**/api/conversations/*")
    page.reload()
    page.fill("#text", "say 3 100")
    page.keyboard.press("Enter")
    gate.meet()
    expect(page.locator(".question")).to_have_count(0)
    gate.open()
    expect(page.locator(".question")).to_have_count(2)
    expect(page.locator(".question .body").last).to_have_text("say 3 100")
    expect(page.locator(".answer").last).to_contain_text("w0 w1 w2")
    idle(page)
    expect(page.locator(".question .body")).to_have_text(["say 2 5", "say 3 100"])


def test_another_answer_is_not_taken_for_this_one(paced: Server, visitor: Visitor) -> None:
    """An answer that was lost in the middle is not gone on with by the next one of another tab."""
    visitor.expected = "ERR_INTERNET_DISCONNECTED|Failed to load resource"
    page = visitor.visit(paced)
    say(page, "say 40 30")
    expect(page.locator(".answer")).to_contain_text("w5 ")
    thread = int(page.url.split("=")[1])
    visitor.context.set_offline(True)
    with Client(paced.url, visitor.user) as client:
        eventually(lambda: client.messages(thread)[-1]["status"] != "streaming")
        other = threading.Thread(target=lambda: client.say(f"think 9 5\n{ENDLESS}", thread))
        other.start()
        with Client(paced.url, visitor.user) as looking:
            eventually(lambda: len(looking.messages(thread)) == 4)
        visitor.context.set_offline(False)
        expect(page.locator(".question")).to_have_count(2)
        expect(page.locator(".answer").first).to_contain_text(words(40))
        expect(page.locator(".answer").last).to_contain_text("w0 w1")
        page.click("#stop")
        idle(page)
        other.join()


def test_a_message_that_may_have_arrived_is_not_sent_as_another(paced: Server, visitor: Visitor) -> None:
    """Sent again by hand after a gateway has lost the response, a message is still one turn."""
    visitor.expected = "504"
    page = visitor.visit(paced)

    def lose(route: Any) -> None:
        route.fetch()
        route.fulfill(status=504, content_type="text/html", body="<h1>Gateway timeout</h1>")

    page.route("**/chatkit", lose, times=1)
    page.fill("#text", 'call add_task {"title": "once"}\nsay 1 0')
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("504")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_contain_text("w0")
    idle(page)
    expect(page.locator("#task-list li")).to_have_count(1)
    expect(page.locator("#conversation-list .row")).to_have_count(1)


def test_stop_before_the_first_word_stops(paced: Server, visitor: Visitor) -> None:
    """Esc while the message is on its way stops the answer as soon as there is one."""
    page = visitor.visit(paced)
    gate = Gate(page, "**/chatkit")
    page.fill("#text", ENDLESS)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    gate.meet()
    gate.open()
    expect(page.locator(".mark")).to_contain_text("You stopped this answer.")
    with Client(paced.url, visitor.user) as client:
        assert client.messages(int(page.url.split("=")[1]))[-1]["status"] == "stopped"


def test_a_conversation_deleted_elsewhere_is_not_gone_on_with(server: Server, visitor: Visitor) -> None:
    """What was deleted in another tab does not stand above a new conversation, and the page says what happened."""
    page = visitor.visit(server)
    say(page, "add buy milk")
    idle(page)
    with Client(server.url, visitor.user) as client:
        client.delete(f"/api/conversations/{page.url.split('=')[1]}")
    page.fill("#text", "show my tasks")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("has been deleted")
    expect(page.locator(".question .body")).to_have_text(["show my tasks"])
    idle(page)


def test_a_link_opened_in_the_same_tab_signs_in(make_server: Callable[..., Server], visitor: Visitor) -> None:
    """The printed link works where the page is open already, and its token does not stay in the address."""
    page = visitor.visit(make_server(), signed_in=False)
    expect(page.locator("#sign-in")).to_be_visible()
    page.evaluate("(hash) => { location.hash = hash; }", f"token={token(visitor.user)}")
    expect(page.locator("#suggestions .suggestion")).to_have_count(4)
    assert "token" not in page.url


def test_a_tick_that_fails_is_taken_back(server: Server, visitor: Visitor) -> None:
    """A task shows what the server has, also when the change was refused; what is typed is kept."""
    visitor.expected = "503"
    page = visitor.visit(server)
    page.fill("#task-title", "milk")
    page.keyboard.press("Enter")
    refusal = {"status": 503, "content_type": "application/json", "body": '{"detail": "Not now."}'}
    page.route("**/api/tasks/*", lambda route: route.fulfill(**refusal))
    box = page.locator("#task-list input[type=checkbox]")
    box.click()
    expect(page.locator("#notice")).to_contain_text("Not now.")
    expect(box).not_to_be_checked()
    choose(page.locator("#task-list .row"), "Edit")
    page.keyboard.type("oat milk")
    page.keyboard.press("Enter")
    expect(page.locator("#task-list .edit input").first).to_have_value("oat milk")


def test_a_server_that_is_killed_and_restarted(make_server: Callable[..., Server], visitor: Visitor) -> None:
    """When the server dies under the page and comes back, the page shows what was saved, marked, and goes on."""
    visitor.expected = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE"
    server = make_server(script="tests/paced.py")
    server.env["PORT"] = server.url.rsplit(":", 1)[1]
    page = visitor.visit(server)
    say(page, ENDLESS)
    expect(page.locator(".answer")).to_contain_text("w60 ")
    server.kill(signal.SIGKILL)
    expect(page.locator("#notice")).to_contain_text("connection was lost")
    server.start()
    expect(page.locator(".mark")).to_contain_text("The server stopped before this answer was complete")
    assert page.locator(".answer .text").inner_text().startswith(words(20))
    say(page, "say 3 0")
    expect(page.locator(".answer").last).to_contain_text("w0 w1 w2")


def test_a_failed_answer_says_why_and_can_be_tried_again(paced: Server, visitor: Visitor) -> None:
    """An answer that fails keeps what it said, says in words what happened, and has a button to ask again."""
    page = visitor.visit(paced)
    say(page, "say 3 20\nfail")
    expect(page.locator(".mark.failed")).to_contain_text("connection to the model failed")
    expect(page.locator(".answer .text")).to_contain_text("w0")
    idle(page)
    page.reload()
    expect(page.locator(".mark.failed")).to_contain_text("connection to the model failed")
    page.evaluate("document.querySelector('.mark').className = 'mark old'")
    page.locator(".mark button").click()
    expect(page.locator(".mark.old")).to_have_count(0)
    expect(page.locator(".mark.failed")).to_have_count(1)
    expect(page.locator(".question")).to_have_count(1)
    idle(page)


@pytest.mark.parametrize("status", [409, 401, 429, 503, 413])
def test_a_refusal_is_explained_and_the_text_is_kept(server: Server, visitor: Visitor, status: int) -> None:
    """Whatever is refused is explained, and what was typed is still there."""
    visitor.expected = f"status of {status}"
    page = visitor.visit(server)
    detail = json.dumps({"detail": "This is why."})
    headers = {"Retry-After": "7", "Content-Type": "application/json"}
    page.route("**/chatkit", lambda route: route.fulfill(status=status, headers=headers, body=detail))
    page.fill("#text", "add buy milk")
    page.keyboard.press("Enter")
    where, why = ("#token-error", "not valid any more") if status == 401 else ("#notice", "This is why.")
    expect(page.locator(where)).to_contain_text(why)
    assert page.input_value("#text") == "add buy milk"
    expect(page.locator(".question")).to_have_count(0)
    if status in (429, 503):
        expect(page.locator("#notice")).to_contain_text("in 7 seconds")
        page.unroute("**/chatkit")
        page.locator("#notice button").click()
        expect(page.locator(".answer")).to_contain_text("Added: buy milk")


EVIL = "<img src=x onerror=\"document.title='pwned'\"> [click](javascript:document.title='pwned') **bold**"


def test_nothing_that_anybody_writes_is_run(make_server: Callable[..., Server], visitor: Visitor) -> None:
    """Markup and javascript: links are text, in messages, in task titles, and in what a model says."""
    from servers import provider

    with provider() as model:
        server = make_server(OPENAI_BASE_URL=model.url, OPENAI_MODEL="m")
        with server.client(visitor.user) as client:
            client.post("/api/tasks", json={"title": EVIL})
        page = visitor.visit(server)
        say(page, f"{EVIL} echo")
        idle(page)
        expect(page.locator(".answer strong")).to_have_text("bold")
        expect(page.locator(".answer")).to_contain_text("<img src=x")
        expect(page.locator("#task-list li")).to_contain_text("<img src=x")
        assert page.locator("img").count() == 0
        assert page.locator("a[href^=javascript]").count() == 0
        assert page.title() != "pwned"


def test_a_narrow_screen_has_drawers(server: Server, narrow: Visitor) -> None:
    """At 360 px nothing sticks out, and the panels are drawers that open, take the focus, and close."""
    page = narrow.visit(server)
    say(page, "add buy milk")
    idle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    tasks = page.locator("#tasks")
    expect(tasks).to_be_hidden()
    page.tap("[data-open=tasks]")
    expect(tasks).to_be_visible()
    expect(tasks).to_contain_text("buy milk")
    page.keyboard.press("Escape")
    expect(tasks).to_be_hidden()
    expect(page.locator("[data-open=tasks]")).to_be_focused()
    page.tap("[data-open=conversations]")
    page.tap("#conversation-list .name .title")
    expect(page.locator("#conversations")).to_be_hidden()


def press(page: Page, key: str, code: int) -> None:
    """Press Enter or Esc with the code that a browser gives it: 229 is what Safari does for an input method's."""
    browser = page.context.new_cdp_session(page)
    event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
    text = {"text": "\r", "unmodifiedText": "\r"} if key == "Enter" else {}
    browser.send("Input.dispatchKeyEvent", {"type": "keyDown", **event, **text})
    browser.send("Input.dispatchKeyEvent", {"type": "keyUp", **event})


def compose(page: Page, word: str) -> None:
    """Write a word with an input method, and take it as Safari does: the composition ends, and then comes Enter."""
    browser = page.context.new_cdp_session(page)
    end = {"selectionStart": len(word), "selectionEnd": len(word)}
    browser.send("Input.imeSetComposition", {"text": word, **end})
    press(page, "Enter", 229)  # as other browsers do: within the composition
    browser.send("Input.insertText", {"text": word})
    press(page, "Enter", 229)


def test_enter_that_takes_a_word_of_an_input_method_does_nothing_else(server: Server, visitor: Visitor) -> None:
    """Neither a message is sent, nor a task added or renamed, nor a conversation renamed: that does the next Enter."""
    page = visitor.visit(server)
    changes: list[str] = []
    page.on("request", lambda r: None if r.method == "GET" else changes.append(r.method))
    compose(page, "\u8cb7\u3046")
    expect(page.locator("#text")).to_have_value("\u8cb7\u3046")
    assert changes == []
    press(page, "Enter", 13)
    expect(page.locator(".question .body")).to_have_text("\u8cb7\u3046")
    idle(page)
    page.focus("#task-title")
    compose(page, "\u725b\u4e73")
    expect(page.locator("#task-title")).to_have_value("\u725b\u4e73")
    assert changes == ["POST"]
    press(page, "Enter", 13)
    expect(page.locator("#task-list .title")).to_have_text("\u725b\u4e73")
    for name, entry in (("#task-list", "Edit"), ("#conversation-list", "Rename")):
        changes.clear()
        choose(page.locator(f"{name} .row"), entry)
        compose(page, "\u65b0")
        press(page, "Escape", 229)  # drops a word that is being written, and not the field
        expect(page.locator(f"{name} .edit input").first).to_have_value("\u65b0")
        assert changes == []
        press(page, "Enter", 13)
        expect(page.locator(f"{name} .row .title")).to_have_text("\u65b0")
        assert changes == ["PATCH"]


def test_esc_that_drops_a_word_of_an_input_method_stops_no_answer(paced: Server, visitor: Visitor) -> None:
    """Esc is the input method's while that has a word; the next one stops the answer."""
    page = visitor.visit(paced)
    say(page, ENDLESS)
    expect(page.locator(".answer .text")).to_contain_text("w5 ")
    press(page, "Escape", 229)
    expect(page.locator(".answer .text")).to_contain_text("w60 ")
    press(page, "Escape", 27)
    expect(page.locator(".mark")).to_contain_text("You stopped this answer.")


def test_everything_is_reached_by_the_keyboard(server: Server, visitor: Visitor) -> None:
    """Without a mouse one can write, send, tick a task, rename it and come back; focus is where one expects it."""
    page = visitor.visit(server)
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("add buy")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("milk")
    assert page.input_value("#text") == "add buy\nmilk"
    page.fill("#text", "")
    page.keyboard.type("add buy milk")
    page.keyboard.press("Enter")
    idle(page)
    expect(page.locator("#text")).to_be_focused()
    expect(page.locator("#task-list input")).to_have_count(1)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type === 'checkbox'"):
            break
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Edit")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type("buy bread")
    page.keyboard.press("Enter")
    expect(page.locator("#task-list .title")).to_have_text("buy bread")
    expect(page.locator("#task-list .more")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    expect(page.locator("#done-count")).to_have_text("Done (1)")
    expect(page.locator("#task-title")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.querySelector('#new')).outlineStyle")
    page.focus("#new")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.querySelector('#new')).outlineStyle") != outline


def test_a_screen_reader_hears_an_answer_once(paced: Server, visitor: Visitor) -> None:
    """The live region gets the whole answer at its end, not each word as it comes."""
    page = visitor.visit(paced)
    page.evaluate(
        """() => {
            window.heard = [];
            const region = document.querySelector("[aria-live=polite]");
            new MutationObserver(() => window.heard.push(region.textContent)).observe(region, {childList: true});
        }"""
    )
    say(page, "say 20 10")
    idle(page)
    until(page, "window.heard.length > 0")
    assert [text.strip() for text in page.evaluate("window.heard")] == [words(20)]


class Tap(ThreadingHTTPServer):
    """A model server whose one answer flows, a line every few milliseconds, while the test lets it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Spout)
        self.open = threading.Event()
        self.pauses = threading.Event()
        self.said = ""  # the last line


class Spout(BaseHTTPRequestHandler):
    """One answer."""

    server: Tap

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Stream until the reader hangs up, or has far more than any test asks for."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with suppress(OSError):
            for n in range(20_000):
                if not self.server.open.is_set():
                    self.server.pauses.set()
                self.server.open.wait(30)  # a server may be silent for a minute
                self.server.pauses.clear()
                self.server.said = f"line {n}\n"
                delta = {"role": "assistant", "content": self.server.said}
                choice = {"index": 0, "delta": delta, "finish_reason": None}
                chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                time.sleep(0.005)


@pytest.fixture(scope="module")
def tap() -> Iterator[Tap]:
    """A model server that flows and pauses."""
    with Tap() as tap:
        thread = threading.Thread(target=tap.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield tap
        tap.open.set()
        tap.shutdown()
        thread.join(5)


@pytest.fixture(scope="module")
def flowing(tap: Tap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model is `tap`."""
    url = f"http://127.0.0.1:{tap.server_port}/v1"
    server = prepare(tmp_path_factory.mktemp("flowing"), OPENAI_BASE_URL=url, OPENAI_MODEL="m").start()
    yield server
    server.close()


TOP, GAP = "scroller.scrollTop", "scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop"


class Reader:
    """A hand on the conversation: real wheel, keys and fingers, each at its slowest."""

    def __init__(self, page: Page, tap: Tap, hand: str) -> None:
        self.page, self.tap = page, tap
        self.move = {"wheel": self.wheel, "keys": self.keys, "finger": self.finger}[hand]
        self.browser = page.context.new_cdp_session(page)

    def wheel(self, way: int) -> None:
        """Turn the wheel by 4 px."""
        self.page.mouse.move(500, 300)
        self.page.mouse.wheel(0, 4 * way)

    def keys(self, way: int) -> None:
        """Press an arrow key."""
        self.page.focus("#scroller")
        self.page.keyboard.press("ArrowDown" if way > 0 else "ArrowUp")

    def finger(self, way: int) -> None:
        """Drag by a finger, one pixel at a time."""
        for n in range(40):
            points = [{"x": 500, "y": 300 - n * way}]
            kind = "touchMove" if n else "touchStart"
            self.browser.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            frames(self.page)
        self.browser.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def measure(self, what: str) -> float:
        """Return one of `top`, `end`, and `gap`, in pixels."""
        script = {"top": TOP, "gap": GAP, "end": "scroller.scrollHeight - scroller.clientHeight"}[what]
        return float(self.page.evaluate(script))

    def grow(self, pixels: int = 400) -> None:
        """Let the answer grow; it flows on."""
        self.tap.open.set()
        wanted = self.measure("end") + pixels
        until(self.page, f"scroller.scrollHeight - scroller.clientHeight > {wanted}")

    def rest(self) -> None:
        """Let the answer pause, until nothing moves any more."""
        self.tap.open.clear()
        assert self.tap.pauses.wait(PATIENCE)
        expect(self.page.locator(".answer .text").last).to_contain_text(self.tap.said)
        self.settle()

    def wheel_down_to(self, gap: int) -> None:
        """Turn the wheel until about so much is left below: a busy browser may not go all the way at once."""
        while self.measure("gap") > gap + 10:
            self.page.mouse.wheel(0, self.measure("gap") - gap)
            self.settle()

    def settle(self) -> None:
        """Wait until nothing moves any more: a wheel turns smoothly."""
        before = (-1.0, -1.0)
        deadline = time.monotonic() + PATIENCE
        while (now := (self.measure("top"), self.measure("end"))) != before:
            assert time.monotonic() < deadline
            before = now
            self.page.wait_for_timeout(200)
            frames(self.page)


@pytest.fixture(params=["wheel", "keys", "finger"])
def reader(flowing: Server, tap: Tap, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """A reader of an answer that is longer than the page, and flows."""
    visitor = Visitor(browser, has_touch=request.param == "finger")
    page = visitor.visit(flowing)
    reader = Reader(page, tap, request.param)
    tap.open.clear()
    say(page, "go on")
    reader.grow(600)
    yield reader
    tap.open.set()
    page.click("#stop")
    idle(page)
    visitor.context.close()
    assert visitor.complaints == []


def test_who_goes_up_leaves_the_end_and_who_comes_down_follows(reader: Reader) -> None:
    """However slowly: going up leaves the end at once, and down at the end again the page stays there."""
    assert reader.measure("gap") <= 2
    reader.move(-1)
    until(reader.page, f"{GAP} > 2")
    reader.grow()
    assert reader.measure("gap") >= 400
    for _ in range(3):  # up is up, also while the answer flows
        before = reader.measure("top")
        reader.move(-1)
        until(reader.page, f"{TOP} < {before}")
    reader.rest()
    reader.page.mouse.move(500, 300)
    reader.wheel_down_to(20)
    reader.grow(200)
    assert reader.measure("gap") >= 200, "close to the end is not at the end"
    reader.rest()
    reader.wheel_down_to(10)
    while reader.measure("gap") > 2:
        before = reader.measure("top")
        reader.move(1)
        until(reader.page, f"{TOP} > {before}")
    reader.grow()
    assert reader.measure("gap") <= 2


@pytest.mark.parametrize("reader", ["wheel"], indirect=True)
def test_a_sent_message_is_shown_wherever_the_reader_was(reader: Reader) -> None:
    """Who has gone up and sends a message sees it, and then its answer."""
    page = reader.page
    reader.move(-1)
    page.keyboard.press("Escape")
    idle(page)
    page.mouse.wheel(0, -300)
    until(page, f"{GAP} > 250")
    reader.settle()
    say(page, "and on")
    until(page, f"{GAP} <= 2")
    reader.grow()
    assert reader.measure("gap") <= 2


def test_a_short_or_hidden_conversation_is_followed(flowing: Server, tap: Tap, visitor: Visitor) -> None:
    """Scrolling where there is nothing to scroll is no wish to leave the end, nor is hiding the page."""
    page = visitor.visit(flowing)
    reader = Reader(page, tap, "wheel")
    tap.open.clear()
    say(page, "go on")
    for way in (-1, 1, -1):
        reader.move(way)
        frames(page)
    reader.grow(600)
    assert reader.measure("gap") <= 2
    main, length = "document.querySelector('main')", "document.querySelector('.answer').textContent.length"
    for gone_up in (False, True):
        if gone_up:
            reader.move(-1)
            until(page, f"{GAP} > 2")
        page.evaluate(f"{main}.hidden = true")
        before = page.evaluate(length)
        until(page, f"{length} > {before} + 300")
        page.evaluate(f"{main}.hidden = false")
        frames(page)
        assert (reader.measure("gap") > 2) == gone_up
    reader.grow()
    assert reader.measure("gap") >= 400
    page.click("#stop")
    idle(page)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 1000), ("dark", 360)])
def test_axe_finds_nothing(server: Server, paced: Server, browser: Browser, scheme: str, width: int) -> None:
    """axe-core finds nothing: with steps unfolded, an error, Markdown of all kinds, a menu, a drawer, the shortcuts."""
    axe = (npm_package("axe-core") / "axe.min.js").read_text()
    size = {"width": width, "height": 800}
    visitor = Visitor(browser, viewport=size, color_scheme=scheme, reduced_motion="reduce")

    def check(page: Page, where: str) -> None:
        page.evaluate(axe)  # through the debugger: a script of ours could not, the policy forbids it
        found = page.evaluate("axe.run()")["violations"]
        assert [(where, v["id"], v["nodes"][0]["html"]) for v in found] == []

    with server.client(visitor.user) as client:
        for task in ({"title": "late", "due": "2020-01-01", "description": "words"}, {"title": "done"}):
            client.post("/api/tasks", json=task).raise_for_status()
        client.patch(f"/api/tasks/{client.tasks()[-1]['id']}", json={"completed": True}).raise_for_status()
    for where, message in ((server, "add buy milk"), (paced, 'think 2 0\nsay 2 0\ncall add_task {"title": "x"}\nfail')):
        page = visitor.visit(where)
        check(page, "new")
        say(page, message)
        idle(page)
        page.locator(".step summary").first.click()
        check(page, message)
    page = visitor.visit(server)
    page.evaluate(
        """async (text) => {
            const { Answer } = await import(new URL("static/answer.js", document.baseURI));
            const message = { status: "done", content: text, tool_calls: [], created_at: "2026-01-01T00:00:00Z" };
            document.getElementById("messages").append(Answer.of(message).element);
        }""",
        "\n\n".join(BLOCKS),
    )
    check(page, "Markdown")
    if width < 1200:
        page.click("[data-open=conversations]")
        check(page, "conversations")
        page.keyboard.press("Escape")
    if width < 960:
        page.click("[data-open=tasks]")
    page.click("#done-count")
    choose(page.locator("#task-list .row").first, "Edit")
    check(page, "edit")
    page.keyboard.press("Escape")
    page.locator("#task-list .more").first.click()
    check(page, "menu")
    page.keyboard.press("Escape")
    page.locator("#task-list .more").first.focus()
    if width > 960:
        page.keyboard.press("?")
        expect(page.locator("#shortcuts")).to_be_visible()
        check(page, "shortcuts")
    visitor.context.close()


def test_the_pages_headers_leave_no_hole(server: Server) -> None:
    """The page may run its own scripts and talk to its own server, and nothing else; so may its files."""
    page = httpx.get(server.url + "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for path in ("/", "/component", "/static/app.js", "/static/style.css"):
        headers = httpx.get(server.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_component_page_explains_why_it_is_empty(server: Server, visitor: Visitor) -> None:
    """Where OpenAI's script cannot be loaded, /component says so instead of staying blank."""
    visitor.expected = r"cdn\.platform\.openai\.com|ERR_|Failed to load resource"
    page = visitor.visit(server)
    page.context.route("https://**", lambda route: route.abort())
    page.goto(server.url + "/component")
    expect(page.locator("#why")).to_contain_text("could not be loaded")
    policy = httpx.get(server.url + "/component").headers["content-security-policy"]
    assert "https://cdn.platform.openai.com" in policy


def test_the_component_gets_what_it_needs(server: Server, visitor: Visitor) -> None:
    """Where the script loads, the component is set up with this server, a domain key, and the user's token."""
    visitor.expected = r"cdn\.platform\.openai\.com"
    with Client(server.url, visitor.user) as client:
        client.say("hello")
    page = visitor.visit(server)
    script = {"status": 200, "content_type": "text/javascript", "body": STAND_IN}
    page.context.route("https://cdn.platform.openai.com/**", lambda route: route.fulfill(**script))
    page.goto(server.url + "/component")
    expect(page.locator("openai-chatkit")).to_have_text("1 threads, local-dev")


def test_the_readmes_page_with_the_component_works(
    make_server: Callable[..., Server], visitor: Visitor, tmp_path: Path
) -> None:
    """The README's page, served from another origin that is allowed, reaches this server with the user's token."""
    [html] = re.findall(r"```html\n(.*?)```", (ROOT / "docs" / "component.md").read_text(), re.DOTALL)
    assert html.count("\n") == 15
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as pages:
        origin = f"http://localhost:{pages.server_port}"
        server = make_server(CORS_ORIGINS=origin)
        html = html.replace("PASTE A TOKEN", token(visitor.user)).replace("http://127.0.0.1:8000", server.url)
        (tmp_path / "index.html").write_text(html)
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        with Client(server.url, visitor.user) as client:
            client.say("hello")
        script = {"status": 200, "content_type": "text/javascript", "body": STAND_IN}
        visitor.context.route("https://cdn.platform.openai.com/**", lambda route: route.fulfill(**script))
        visitor.expected = "favicon.ico|404"
        page = visitor.context.new_page()
        page.on("console", lambda m: visitor.complain(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: visitor.complain(str(error)))
        page.goto(origin)
        expect(page.locator("openai-chatkit")).to_have_text("1 threads, local-dev")
        pages.shutdown()


@pytest.mark.parametrize("parts", [["page", "tasks"], ["page"]])
def test_the_page_works_under_the_prefix_of_a_host(visitor: Visitor, tmp_path: Path, parts: list[Any]) -> None:
    """Mounted under a prefix the page finds its files and its server; without our tasks it shows none."""
    visitor.expected = "status of 404" if "tasks" not in parts else visitor.expected
    with hosted(f"sqlite:///{tmp_path}/chat.db", parts) as url:
        page = visitor.context.new_page()
        page.on("console", lambda m: visitor.complain(m.text) if m.type in ("error", "warning") else None)
        page.goto(f"{url}/todo/")  # without a token: the host knows its users
        say(page, "add buy milk")
        expect(page.locator(".answer")).to_contain_text("Added: buy milk")
        if "tasks" in parts:
            expect(page.locator("#task-list li")).to_have_count(1)
        else:
            expect(page.locator("#tasks")).to_be_hidden()
            expect(page.locator("#notice")).to_be_hidden()
        page.close()  # before its server goes, which it would complain of


@contextmanager
def hosted(store: str, parts: list[Any]) -> Iterator[str]:
    """Serve an app with ours mounted under /todo, from a thread; give its address."""

    async def authenticate(request: Request) -> str:
        return "alice"

    chat = app.create_app(store=store, authenticate=authenticate, model=offline.OfflineModel(), parts=parts)

    @asynccontextmanager
    async def lifespan(host: Starlette) -> AsyncIterator[None]:
        async with chat.router.lifespan_context(chat):
            yield

    host = Starlette(routes=[Mount("/todo", chat)], lifespan=lifespan)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(host, log_level="critical", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_a_long_answer_costs_the_page_little(paced: Server, visitor: Visitor) -> None:
    """Eight thousand words at full speed are shown whole, and each of them costs as little as one of a thousand."""
    page = visitor.visit(paced)
    spent = meter(page)

    def work(count: int) -> float:
        before = spent()
        say(page, f"say {count} 0")
        idle(page)
        expect(page.locator(".answer .text").last).to_contain_text(f"w{count - 1}")
        return spent() - before

    assert growth(work, 1000, 8000) <= MUCH
