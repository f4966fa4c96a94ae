"""What one can do with messages, by mouse and keyboard, and what a screen reader is told of them."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from browsing import ENDLESS, MUCH, Visitor, growth, idle, meter, say, until, words
from conftest import Client, Server
from playwright.sync_api import Browser, Locator, Page, expect

FENCED = "```python\nx = 1\n```"


def test_another_answer_takes_the_place_of_this_one(paced: Server, visitor: Visitor) -> None:
    """Try again asks the last question anew, for good answers too: nothing is said twice, here and on the server."""
    page = visitor.visit(paced)
    say(page, "say 2 0")
    idle(page)
    say(page, 'say 3 0\ncall add_task {"title": "x"}\nsay 1 0')
    idle(page)
    expect(page.get_by_role("button", name="Try again")).to_have_count(1)
    page.get_by_role("button", name="Try again").focus()
    page.keyboard.press("Enter")
    idle(page)
    expect(page.locator("#scroller")).to_be_focused()  # what had the focus is gone
    expect(page.locator(".question")).to_have_count(2)
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator("#task-list .row")).to_have_count(2)  # what tools did is not undone
    thread = int(page.url.split("=")[1])
    with Client(paced.url, visitor.user) as client:
        assert [message["role"] for message in client.messages(thread)] == ["user", "assistant"] * 2
    page.reload()
    expect(page.locator(".answer")).to_have_count(2)


def test_the_last_message_is_edited_and_asked_again(paced: Server, visitor: Visitor) -> None:
    """Edit puts other words in the place of the last message; Esc leaves all as it was."""
    page = visitor.visit(paced)
    say(page, "say 2 0")
    idle(page)
    page.locator(".question").hover()
    page.locator(".edit-question").click()
    page.keyboard.type(" and more")
    page.keyboard.press("Escape")
    expect(page.locator(".question .body")).to_have_text("say 2 0")
    page.locator(".edit-question").click()
    page.locator(".edit-message textarea").fill("say 5 0")
    page.locator(".edit-message").get_by_role("button", name="Send").click()
    expect(page.locator(".answer .text")).to_have_text(words(5))
    expect(page.locator(".question .body")).to_have_text(["say 5 0"])
    idle(page)
    page.reload()
    expect(page.locator(".question .body")).to_have_text(["say 5 0"])
    expect(page.locator(".answer .text")).to_have_text([words(5)])


def test_reasoning_stays_and_is_folded(paced: Server, visitor: Visitor) -> None:
    """What a model thought is there when the answer is over, and after a reload, folded, before what it led to."""
    page = visitor.visit(paced)
    say(page, "think 3 20\nsay 2 0")
    idle(page)
    for _ in range(2):
        thoughts = page.locator(".answer .thought")
        expect(thoughts).to_have_count(1)
        expect(thoughts.locator(".words")).to_be_hidden()
        thoughts.locator("summary").click()
        expect(thoughts.locator(".words")).to_have_text("t0 t1 t2")
        assert page.locator(".answer .body > *").first.get_attribute("class") == "thought"
        page.reload()


def test_answers_and_code_are_copied(paced: Server, visitor: Visitor) -> None:
    """Copy gives an answer as it was written, and code without its fences; the code's language is shown."""
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visitor.visit(paced)
    say(page, "say 3 0")
    idle(page)
    page.locator(".answer").hover()
    page.get_by_role("button", name="Copy").click()
    copied(page, words(3))
    show(page, FENCED)
    expect(page.locator(".bar span")).to_have_text("python")
    page.locator(".bar button").click()
    copied(page, "x = 1")


def copied(page: Page, text: str) -> None:
    """Wait until this is on the clipboard."""
    until(page, f"navigator.clipboard.readText().then((text) => text.trim() === {json.dumps(text)})")


def show(page: Page, content: str, **more: Any) -> None:
    """Show a stored answer."""
    page.evaluate(
        """async (message) => {
            const { Answer } = await import(new URL("static/answer.js", document.baseURI));
            const answer = Answer.of(message);
            answer.element.answer = answer;
            document.getElementById("messages").append(answer.element);
        }""",
        {"status": "done", "content": content, "tool_calls": [], "reasoning": [], "created_at": "2026-01-01T00:00:00Z"}
        | more,
    )


def test_times_are_shown_on_hovering(server: Server, visitor: Visitor) -> None:
    """Each message says when it was written, for who points at it or comes to it by the keyboard."""
    page = visitor.visit(server)
    say(page, "hello")
    idle(page)
    foot = page.locator(".question .foot")
    page.mouse.move(5, 5)
    expect(foot).to_have_css("opacity", "0")
    page.locator(".question .body").hover()
    expect(foot).to_have_css("opacity", "1")
    assert page.locator(".question time").get_attribute("datetime")


def test_the_tab_says_that_an_answer_has_come(paced: Server, visitor: Visitor) -> None:
    """Whoever looks at another tab while an answer comes is told by the title; it goes when the page is seen."""
    page = visitor.visit(paced)
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
            document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
        }"""
    )
    say(page, "say 20 20")
    expect(page).to_have_title("● Answered: say 20 20 - To-do chat")
    page.evaluate(
        "() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange', { bubbles: true })); }"
    )
    expect(page).to_have_title("say 20 20 - To-do chat")


def test_a_screen_reader_hears_who_speaks(server: Server, visitor: Visitor) -> None:
    """Each message has a heading that says whose it is, below that of the conversation and above an answer's own."""
    page = visitor.visit(server)
    say(page, "hello")
    idle(page)
    show(page, "### Plan\n\nwords")
    headings = page.locator("main :is(h1, h2, h3, h4)").evaluate_all(
        "(all) => all.filter((one) => one.checkVisibility()).map((one) => `${one.localName} ${one.textContent}`)"
    )
    assert headings == ["h1 hello", "h2 You", "h2 Assistant", "h2 Assistant", "h3 Plan"]


def test_the_text_field_is_reached_with_few_keys(server: Server, visitor: Visitor) -> None:
    """From the top it is the skip link, or at most five stops of Tab, however much has been said."""
    with server.client(visitor.user) as client:
        thread = client.say("hello").thread
        for _ in range(20):
            client.say("hello", thread)
    page = visitor.visit(server)
    page.locator("#conversation-list .name").click()
    expect(page.locator(".question")).to_have_count(21)
    first = page.locator("a, button, input, textarea, [tabindex]").first
    expect(first).to_have_attribute("id", "skip")
    first.focus()
    expect(first).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_be_focused()
    first.focus()
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "text":
            break
    expect(page.locator("#text")).to_be_focused()


def test_the_shortcuts_work_and_are_listed(server: Server, visitor: Visitor) -> None:
    """New, search, text field; `?` lists them, and is a letter like any other in a field."""
    with server.client(visitor.user) as client:
        client.say("hello")
    page = visitor.visit(server)
    page.locator("#conversation-list .name").click()
    expect(page.locator(".question")).to_have_count(1)
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Alt+m")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#text")).to_have_value("?")
    page.keyboard.press("Backspace")
    page.focus("#new")
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.keyboard.press("Alt+n")
    expect(page.locator("#welcome")).to_be_visible()


def test_esc_in_a_field_stops_nothing(paced: Server, visitor: Visitor) -> None:
    """Whoever writes and presses Esc does not stop the answer: not in the tasks, not with a draft, not in a menu."""
    with paced.client(visitor.user) as client:
        client.post("/api/tasks", json={"title": "x"}).raise_for_status()
    page = visitor.visit(paced)
    say(page, ENDLESS)
    expect(page.locator(".answer .text")).to_contain_text("w5 ")
    for field in ("#task-title", "#search", "#text"):
        page.fill(field, "a draft")
        page.press(field, "Escape")
    page.locator("#task-list .more").click()
    page.keyboard.press("Escape")
    before = page.locator(".answer .text").inner_text()
    until(page, f"document.querySelector('.answer .text').innerText.length > {len(before) + 20}")
    expect(page.locator("#stop")).to_be_visible()
    page.fill("#text", "")
    page.press("#text", "Escape")
    expect(page.locator(".mark")).to_contain_text("You stopped this answer.")


def test_a_button_leads_back_to_the_end(paced: Server, visitor: Visitor) -> None:
    """It shows when one has gone up, takes no room from the list, and follows again."""
    page = visitor.visit(paced)
    say(page, "say 600 0")
    idle(page)
    say(page, ENDLESS)
    height = page.evaluate("scroller.clientHeight")
    expect(page.locator("#to-end")).to_be_hidden()
    page.mouse.move(640, 300)
    page.mouse.wheel(0, -10)
    expect(page.locator("#to-end")).to_be_visible()
    assert page.evaluate("scroller.clientHeight") == height
    page.locator("#to-end").click()
    expect(page.locator("#to-end")).to_be_hidden()
    until(page, "scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop <= 2")
    page.keyboard.press("Escape")
    idle(page)


@pytest.mark.parametrize("first", ["button", "typed"])
def test_suggestions_stay_until_they_are_used_up(server: Server, visitor: Visitor, first: str) -> None:
    """On a first visit each suggestion is there until it was used, in an order in which each of them works."""
    page = visitor.visit(server)
    names = ["add buy milk, call Ann", "show my open tasks", "complete the first one", "what can you do?"]
    shown = page.locator("#suggestions .suggestion")
    expect(shown).to_have_text(names)
    if first == "typed":
        say(page, names[0])
    else:
        shown.first.click()
    for n in range(1, 4):
        idle(page)
        expect(shown).to_have_text(names[n:])
        shown.first.click()
        expect(page.locator(".question .body").last).to_have_text(names[n])
    idle(page)
    expect(shown).to_have_count(0)
    expect(page.locator(".step.failed")).to_have_count(0)
    page.click("#new")
    expect(page.locator("#welcome")).to_be_visible()
    expect(shown).to_have_count(0)


EVENTS = {  # how events of an answer are made of a text
    "reasoning in pieces": """(text) => text.match(/.{1,4}/g).map((content) => ({ type: "thinking", content }))""",
    "reasoning": """(content) => [{ type: "thinking", content }]""",
    "text in pieces": """(text) => text.match(/.{1,4}/g).map((content) => ({ type: "text", content }))""",
    "the name of a tool": """(text) => [{ type: "tool_call", id: "1", name: text, args: {} }]""",
    "what a tool is called with": """(title) => [{ type: "tool_call", id: "1", name: "add_task", args: { title } }]""",
    "what a tool returns": """(text) => [
        { type: "tool_call", id: "1", name: "x", args: {} },
        { type: "tool_result", id: "1", result: text.split("a") },
    ]""",
    "many calls": """(text) => text.match(/.{1,100}/g).flatMap((title, id) => [
        { type: "tool_call", id, name: "add_task", args: { title } },
        { type: "tool_result", id, result: { success: true } },
    ])""",
}


@pytest.mark.parametrize("kind", list(EVENTS))
def test_what_a_model_sends_costs_no_more_than_it_is_long(server: Server, visitor: Visitor, kind: str) -> None:
    """Eight times as much, up to 200 KB, costs about eight times the work; and a long name does not fill the page."""
    page = visitor.visit(server)
    spent = meter(page)

    def work(length: int) -> float:
        before = spent()
        page.evaluate(
            """async (text) => {
                const { Answer } = await import(new URL("static/answer.js", document.baseURI));
                const answer = new Answer();
                const events = (EVENTS)(text);
                for (let n = 0; n < events.length; n += 100) {
                    answer.add(events.slice(n, n + 100));
                    answer.settle();
                }
                document.getElementById("messages").replaceChildren(answer.element);
                document.body.offsetHeight;
            }""".replace("EVENTS", EVENTS[kind]),
            "a title " * (length // 8),
        )
        return spent() - before

    assert growth(work, 25_000, 200_000) <= MUCH
    assert page.locator(".step summary, .status").first.evaluate("(element) => element.offsetHeight") < 400


def test_a_long_frame_in_small_pieces_is_read_in_linear_time(server: Server, visitor: Visitor) -> None:
    """Eight times as long a frame costs about eight times the work, however small the pieces that it comes in."""
    page = visitor.visit(server)
    spent = meter(page)

    def work(pieces: int) -> float:
        before = spent()
        frames = page.evaluate(
            """async (pieces) => {
                const { batches } = await import(new URL("static/api.js", document.baseURI));
                const encoder = new TextEncoder();
                const body = new ReadableStream({
                    start(to) {
                        to.enqueue(encoder.encode('data: {"type": "text", "content": "'));
                        for (let n = 0; n < pieces; n += 1) to.enqueue(encoder.encode("a".repeat(1000)));
                        const last = ['"}\\n', '\\nda', 'ta: [DONE]', '\\n', '\\n'];
                        for (const piece of last) to.enqueue(encoder.encode(piece));
                        to.close();
                    },
                });
                const all = [];
                for await (const events of batches(new Response(body))) all.push(...events);
                return all.map(({ type, content }) => [type, content?.length ?? 0]);
            }""",
            pieces,
        )
        assert frames == [["text", 1000 * pieces], ["done", 0]]
        return spent() - before

    assert growth(work, 1000, 8000) <= MUCH


# What a model of the common kind answers to the suggestions: the tools that it calls first, and its words.
ANSWERS: dict[str, tuple[list[tuple[str, dict[str, Any]]], str]] = {
    "add buy milk, call Ann": (
        [("add_task", {"title": "Buy milk"}), ("add_task", {"title": "Call Ann"})],
        "I have added both to your list.",
    ),
    "show my open tasks": ([("list_tasks", {"status": "pending"})], "You have two: **Buy milk** and **Call Ann**."),
    "complete the first one": ([("complete_task", {"task_id": 1})], "*Buy milk* is done."),
    "what can you do?": ([], "I keep your to-do list."),
}


class Talker(BaseHTTPRequestHandler):
    """A model server that knows these answers."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Stream an answer: the calls, and when their results are there, the words."""
        messages = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"]
        asked = max(n for n, message in enumerate(messages) if message["role"] == "user")
        calls, text = ANSWERS[messages[asked]["content"]]
        delta: dict[str, Any] = {"role": "assistant", "content": text}
        if calls and messages[-1]["role"] == "user":
            functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls]
            made = [{"index": n, "id": f"call_{n}", "type": "function", "function": f} for n, f in enumerate(functions)]
            delta = {"role": "assistant", "content": None, "tool_calls": made}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for choice in ({"delta": delta, "finish_reason": None}, {"delta": {}, "finish_reason": "stop"}):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            self.wfile.write(f"data: {json.dumps(chunk | {'choices': [{'index': 0, **choice}]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


def test_suggestions_work_with_a_model_of_the_common_kind(make_server: Callable[..., Server], visitor: Visitor) -> None:
    """Not only with the offline one: each stays until it was used, also over a reload, and does what it says."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Talker) as talker:
        thread = threading.Thread(target=talker.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        page = visitor.visit(
            make_server(OPENAI_BASE_URL=f"http://127.0.0.1:{talker.server_port}/v1", OPENAI_MODEL="m-1")
        )
        expect(page.locator("#model")).to_have_text("Model: m-1")
        expect(page.locator("#welcome-text")).to_contain_text("Ask for it in your own words")
        shown = page.locator("#suggestions .suggestion")
        for n, (words, (calls, _)) in enumerate(ANSWERS.items()):
            expect(shown).to_have_text(list(ANSWERS)[n:])
            page.reload()
            expect(shown).to_have_text(list(ANSWERS)[n:])
            shown.first.click()
            expect(page.locator(".question .body").last).to_have_text(words)
            idle(page)
            expect(page.locator(".answer")).to_have_count(n + 1)
            expect(page.locator(".answer").last.locator(".step.done")).to_have_count(len(calls))
            if n == 0:
                expect(page.locator("#task-list .title")).to_have_text(["Buy milk", "Call Ann"])
        expect(shown).to_have_count(0)
        expect(page.locator("#task-list .title")).to_have_text(["Call Ann"])
        expect(page.locator("#done-count")).to_have_text("Done (1)")
        talker.shutdown()
        thread.join()


def test_text_from_the_right_is_written_from_the_right(server: Server, browser: Browser) -> None:
    """Arabic messages, answers, lists and tasks begin at the right; a page that is mirrored sticks out nowhere."""
    visitor = Visitor(browser, viewport={"width": 1440, "height": 800})
    arabic = "\u0645\u0631\u062d\u0628\u0627"
    page = visitor.visit(server)
    page.fill("#task-title", arabic)
    page.press("#task-title", "Enter")
    say(page, arabic)
    idle(page)
    show(page, f"{arabic}\n\n1. {arabic}\n\n> {arabic}\n\n```\ncode\n```")
    for place in (".text p", ".text ol", ".text blockquote"):
        expect(page.locator(".answer").last.locator(place).first).to_have_css("direction", "rtl")
    expect(page.locator(".question .body")).to_have_css("direction", "rtl")
    expect(page.locator("#task-list .title")).to_have_css("direction", "rtl")
    expect(page.locator(".code pre")).to_have_css("direction", "ltr")
    page.evaluate("document.documentElement.dir = 'rtl'")
    for field in ("#text", "#search", "#task-title"):
        expect(page.locator(field)).to_have_css("direction", "rtl")
        page.fill(field, "words")
        expect(page.locator(field)).to_have_css("direction", "ltr")
        page.fill(field, "")
    for width in (360, 1000, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        until(page, f"document.documentElement.scrollWidth <= {width}")
        boxes = page.evaluate(
            "['conversations', 'tasks'].map((id) => [id, document.getElementById(id).getBoundingClientRect().left])"
        )
        if width == 1440:
            assert dict(boxes)["conversations"] > dict(boxes)["tasks"]
    visitor.context.close()
    assert visitor.complaints == []


def test_forced_colours_leave_no_state_unseen(server: Server, browser: Browser) -> None:
    """Where the browser's user has colours of their own: the shown conversation, the focus, buttons and bubbles."""
    visitor = Visitor(browser, forced_colors="active")
    with server.client(visitor.user) as client:
        client.say("one")
        client.say("two")
    page = visitor.visit(server)
    page.locator("#conversation-list .name").first.click()
    rows = page.locator("#conversation-list .row")
    expect(rows.first).to_have_attribute("aria-current", "true")

    def colour(place: Locator, name: str) -> str:
        return str(place.evaluate("(element, name) => getComputedStyle(element)[name]", name))

    paper = colour(page.locator("body"), "backgroundColor")
    assert colour(rows.first, "borderTopColor") not in (colour(rows.last, "borderTopColor"), paper)
    for place in ("#send", "#new", ".more", ".question .body"):
        assert colour(page.locator(place).first, "borderTopColor") != paper, place
        assert colour(page.locator(place).first, "borderTopStyle") == "solid", place
    page.focus("#text")
    assert colour(page.locator("#composer .field"), "outlineStyle") == "solid"
    visitor.context.close()
    assert visitor.complaints == []
