"""A person with a browser: what the tests of the page share.

A machine may be slow, and busy. So a test waits for what stays, and never for what is there for a moment: an answer
that it wants to meet half-way is `ENDLESS`, and goes on until the test has it stopped. No test says how soon something
must come by the clock on the wall, and `PATIENCE` is only where it gives up: a time that the page promises is measured
by the page's own clock, which stands `still` and is moved by the test; and work by the CPU time of other work
(`slowness`).
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import token
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright
from serving import PATIENCE, Server, missing

MUCH = 24  # times the work for eight times as much: linear is 8, and quadratic 64
ENDLESS = "say 100000 20"  # the paced model talks for half an hour

expect.set_options(timeout=PATIENCE * 1000)

# The same browser without a user interface of its own, where there is one: it needs half of the time.
CHROMIUMS = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
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
    installed = next((path for path in CHROMIUMS if Path(path).exists()), None)
    if installed is None:
        missing("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=installed, args=FLAGS)
        yield chromium
        chromium.close()


class Visitor:
    """A person with a browser. Whatever the browser complains of is kept in `complaints`."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.context.set_default_timeout(PATIENCE * 1000)
        self.complaints: list[str] = []
        self.expected = r"^$"  # what a test provokes on purpose
        self.user = f"visitor-{uuid.uuid4()}"

    def visit(self, server: Server, path: str = "/", *, signed_in: bool = True) -> Page:
        """Open a tab, by default as somebody who is signed in, and known to the page by then."""
        page = self.context.new_page()
        page.on("console", lambda m: self.complain(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complain(str(error)))
        page.on("request", lambda r: None if r.url.startswith((server.url, "data:")) else self.complain(r.url))
        page.goto(server.url + path + (f"#token={token(self.user)}" if signed_in else ""))
        if signed_in:
            expect(page.locator("#user")).to_have_text(self.user)
        page.bring_to_front()  # on a busy machine the browser may take it for hidden, and the page would not look
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
    expect(page.locator("#text")).to_have_value("")  # the server has it
    expect(page.locator(".question .body").last).to_have_text(words, use_inner_text=True)


def idle(page: Page) -> None:
    """Wait until no answer is being written."""
    expect(page.locator("#stop")).to_be_hidden()


def until(page: Page, condition: str, seconds: float = PATIENCE) -> None:
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


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something is true on the server."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Gate:
    """Holds the requests to some addresses back, until the test lets them through."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.page, self.pattern, self.is_open = page, pattern, False
        self.held: list[Route] = []
        page.context.route(pattern, self.hold)

    def hold(self, route: Route) -> None:
        """Hold a request back, if the gate is not open."""
        if self.is_open:
            route.continue_()
        else:
            self.held.append(route)

    def meet(self) -> None:
        """Wait until a request stands before it."""
        deadline = time.monotonic() + PATIENCE
        while not self.held:
            assert time.monotonic() < deadline, self.pattern
            self.page.wait_for_timeout(20)

    def open(self) -> None:
        """Let through those that stand there, and all that come."""
        self.is_open = True
        for route in self.held:
            route.continue_()


def frames(page: Page) -> None:
    """Let the page draw what it has to draw."""
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def still(page: Page) -> None:
    """Stop the page's clock; from now on `page.clock.run_for` moves it."""
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)


def meter(page: Page) -> Callable[[], float]:
    """Return a function that returns the seconds of CPU that the page has taken: its own work, not what others do."""
    browser = page.context.new_cdp_session(page)
    browser.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = browser.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

    return spent


# Work of the kind that the page does, and the seconds of CPU that it takes on an ordinary machine that is not busy.
WORK = """() => {
  const list = document.createElement("ul");
  for (let n = 0; n < 4000; n += 1) {
    const item = document.createElement("li");
    item.append(`${n} `.repeat(5).replace(/1/g, "one"));
    list.append(item);
  }
  document.body.append(list);
  const height = list.offsetHeight;
  list.remove();
  return height;
}"""
ORDINARY = 0.13


def growth(work: Callable[[int], float], few: int, many: int) -> float:
    """Return how much more seconds of CPU a function takes for `many` than for `few`.

    Others on the machine can only add to a time: so it is the least of several, and measured again if it is much.
    """
    least = {few: float("inf"), many: float("inf")}
    for _ in range(8):
        for size in least:
            least[size] = min(least[size], work(size))
        ratio = least[many] / max(least[few], 0.005)  # what costs next to nothing is not measured well
        if ratio <= MUCH:
            break
    return ratio


def slowness(page: Page) -> float:
    """Return how much more CPU time this machine takes now than an ordinary one that is not busy; at least 1."""
    spent = meter(page)
    times = []
    for _ in range(5):
        before = spent()
        page.evaluate(WORK)
        times.append(spent() - before)
    return max(1, *(one / ORDINARY for one in times))


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
