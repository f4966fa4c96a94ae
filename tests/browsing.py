"""A person with a browser: what the tests of the page share."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import token
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from serving import Server, missing

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    if not Path(CHROMIUM).exists():
        missing("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visitor:
    """A person with a browser. Whatever the browser complains of is kept in `complaints`."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.context.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.expected = r"^$"  # what a test provokes on purpose
        self.user = f"visitor-{uuid.uuid4()}"

    def visit(self, server: Server, path: str = "/", *, signed_in: bool = True) -> Page:
        """Open a tab."""
        page = self.context.new_page()
        page.on("console", lambda m: self.complain(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complain(str(error)))
        page.on("request", lambda r: None if r.url.startswith((server.url, "data:")) else self.complain(r.url))
        page.goto(server.url + path + (f"#token={token(self.user)}" if signed_in else ""))
        return page

    def complain(self, text: str) -> None:
        """Write a complaint down."""
        if not re.search(self.expected, text):
            self.complaints.append(text)


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """A visitor whose browser must have nothing to complain of in the end."""
    visitor = Visitor(browser)
    yield visitor
    visitor.context.close()
    assert visitor.complaints == []


@pytest.fixture
def narrow(browser: Browser) -> Iterator[Visitor]:
    """A visitor with a telephone."""
    visitor = Visitor(browser, viewport={"width": 360, "height": 740}, has_touch=True, color_scheme="dark")
    yield visitor
    visitor.context.close()
    assert visitor.complaints == []


def say(page: Page, words: str) -> None:
    """Type a message and send it."""
    page.fill("#text", words)
    if page.evaluate("matchMedia('(pointer: coarse)').matches"):
        page.tap("#send")  # Enter makes a line there
    else:
        page.keyboard.press("Enter")
    expect(page.locator(".question .body").last).to_have_text(words, use_inner_text=True)


def idle(page: Page) -> None:
    """Wait until no answer is being written."""
    expect(page.locator("#stop")).to_be_hidden(timeout=20_000)


def until(page: Page, condition: str, seconds: float = 10) -> None:
    """Wait until an expression is true; Playwright's own wait_for_function needs the eval that our policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(30)


def words(count: int) -> str:
    """Return what the paced model says for `say COUNT`."""
    return " ".join(f"w{n}" for n in range(count))


def choose(row: Locator, entry: str) -> None:
    """Choose an entry of a row's menu."""
    row.locator(".more").click()
    row.page.get_by_role("menuitem", name=entry).click()


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something is true on the server."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# What takes the place of OpenAI's script for the component, which the tests do not load.
STAND_IN = """
customElements.define("openai-chatkit", class extends HTMLElement {
  setOptions({ api }) {
    const body = JSON.stringify({ type: "threads.list", params: { limit: 9999 } });
    api.fetch(api.url, { method: "POST", headers: { "Content-Type": "application/json" }, body })
      .then((response) => response.json())
      .then((page) => { this.textContent = `${page.data.length} threads, ${api.domainKey}`; });
  }
});
"""
