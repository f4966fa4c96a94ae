"""The page's two lists, of conversations and of tasks, and the ways between them and the chat."""

import contextlib
import datetime
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browsing import ENDLESS, PATIENCE, Gate, Visitor, choose, eventually, frames, idle, say, slowness, still, until
from conftest import Client, Server, token
from playwright.sync_api import Browser, Locator, Page, Response, expect

NOON = datetime.datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0)
LONG = "a conversation with a title longer than a row"


def today(days: int = 0) -> str:
    """Return the day so many days from now, as the API writes it."""
    return (datetime.date.today() + datetime.timedelta(days=days)).isoformat()


def fill(server: Server, visitor: Visitor, *tasks: str | dict[str, Any]) -> None:
    """Give the visitor tasks."""
    with server.client(visitor.user) as client:
        for task in tasks:
            client.post("/api/tasks", json={"title": task} if isinstance(task, str) else task).raise_for_status()


def titles(page: Page) -> Locator:
    """Return the titles of the open tasks."""
    return page.locator("#task-list .title")


def middle(page: Page, row: Locator, where: float, *, tap: bool = False) -> None:
    """Press a row in the middle of its height, at `where` between its beginning and its menu's button."""
    row.scroll_into_view_if_needed()
    box, more = row.bounding_box(), row.locator(".more").bounding_box()
    assert box is not None
    assert more is not None
    x, y = box["x"] + 4 + (more["x"] - box["x"] - 8) * where, box["y"] + box["height"] / 2
    if tap:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.move(x, y, steps=3)
        page.mouse.down()
        page.mouse.up()


@pytest.mark.parametrize("width", [360, 1000, 1440])
def test_a_press_in_a_row_is_for_the_row(server: Server, browser: Browser, width: int) -> None:
    """Wherever a row is pressed but on its one button: the conversation opens, the task is ticked, none is renamed."""
    phone = {"has_touch": True, "is_mobile": True} if width == 360 else {}
    visitor = Visitor(browser, viewport={"width": width, "height": 740}, reduced_motion="reduce", **phone)
    with server.client(visitor.user) as client:
        for message in (LONG, "hello"):
            client.say(message)
    fill(server, visitor, "milk", LONG)
    page = visitor.visit(server)
    expect(page.locator("#task-list .row")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for where in (0, 0.5, 1):
        if width < 1200:
            page.click("[data-open=conversations]")
        page.click("#new")
        expect(page.locator(".question")).to_have_count(0)
        if width < 1200:
            page.click("[data-open=conversations]")
            expect(page.locator("#conversations")).to_be_visible()
        row = page.locator("#conversation-list .row").last
        middle(page, row, where, tap=bool(phone))
        expect(page.locator(".question .body")).to_have_text(LONG)
    if phone:
        page.tap("[data-open=tasks]")
    expect(page.locator("#tasks")).to_be_visible()
    for n, where in enumerate((0, 1)):
        middle(page, page.locator("#task-list .row").last, where, tap=bool(phone))
        expect(page.locator("#done-count")).to_have_text(f"Done ({n + 1})")
    expect(page.locator(".edit, #menu:popover-open")).to_have_count(0)
    smallest = 44 if phone else 24
    small = page.evaluate(
        """(smallest) => [...document.querySelectorAll("button, summary, input")].filter((e) => e.checkVisibility())
            .filter((e) => e.type !== "checkbox" && Math.min(e.offsetWidth, e.offsetHeight) < smallest)
            .map((e) => e.outerHTML)""",
        smallest,
    )
    assert small == []
    visitor.context.close()
    assert visitor.complaints == []


def test_a_deleted_task_can_be_brought_back(server: Server, visitor: Visitor) -> None:
    """Undo brings it back where it was; the server has not been told yet. The focus goes to the neighbour."""
    fill(server, visitor, "one", "two", "three")
    visitor.context.clock.install()
    page = visitor.visit(server)
    expect(titles(page)).to_have_count(3)
    still(page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method == "DELETE" else None)
    choose(page.locator("#task-list .row").nth(1), "Delete")
    expect(titles(page)).to_have_text(["one", "three"])
    expect(page.get_by_role("button", name="More for three")).to_be_focused()
    expect(page.locator("#undo")).to_contain_text("Deleted “two”.")
    page.locator("#undo button").click()
    expect(titles(page)).to_have_text(["one", "two", "three"])
    expect(page.locator("#undo p")).to_have_count(0)
    assert sent == []


def test_two_quick_clicks_delete_one(server: Server, visitor: Visitor) -> None:
    """A double click on Delete deletes one task, and nothing else."""
    fill(server, visitor, "one", "two", "three")
    visitor.context.clock.install()
    page = visitor.visit(server)
    expect(titles(page)).to_have_count(3)
    still(page)
    page.locator("#task-list .more").nth(1).click()
    page.get_by_role("menuitem", name="Delete").dblclick()
    expect(titles(page)).to_have_text(["one", "three"])
    expect(page.locator("#undo p")).to_have_count(1)


def test_many_deletions_leave_the_chat_in_sight(server: Server, visitor: Visitor) -> None:
    """However many are deleted in a row, by keyboard: the last one can be undone, and the others are not in the way."""
    fill(server, visitor, *(f"task {n}" for n in range(20)))
    visitor.context.clock.install()
    page = visitor.visit(server)
    expect(titles(page)).to_have_count(20)
    still(page)
    page.locator("#task-list .more").first.focus()
    for n in range(15):
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#undo p")).to_have_count(n + 1)
    assert page.locator("#undo").evaluate("(element) => element.offsetHeight") < 200
    last = page.locator("#undo p").filter(has_text="“task 14”")
    expect(last).to_be_in_viewport(ratio=1)
    last.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_text([f"task {n}" for n in range(14, 20)])


@pytest.mark.parametrize("way", ["wait", "reload", "close"])
def test_a_deletion_is_sent_in_the_end(server: Server, visitor: Visitor, way: str) -> None:
    """After 8 s, or at once when the page is left, what was deleted is gone: a task and a conversation."""
    fill(server, visitor, "one", "two")
    visitor.context.clock.install()
    with server.client(visitor.user) as client:
        thread = client.say("hello").thread
        page = visitor.visit(server)
        expect(page.locator(".row")).to_have_count(3)
        still(page)
        choose(page.locator("#task-list .row").first, "Delete")
        choose(page.locator("#conversation-list .row").first, "Delete")
        expect(page.locator("#undo p")).to_have_count(2)
        assert len(client.tasks()) == 2
        if way == "reload":
            page.reload()
        elif way == "close":
            page.close()
        else:
            page.clock.run_for(8000)
        eventually(lambda: [task["title"] for task in client.tasks()] == ["two"])
        eventually(lambda: client.get(f"/api/conversations/{thread}").status_code == 404)
    if way == "wait":
        expect(page.locator("#undo p")).to_have_count(0)
        expect(titles(page)).to_have_text(["two"])


def test_a_list_stays_where_it_is_when_a_task_is_deleted(server: Server, visitor: Visitor) -> None:
    """In the middle of a long list, the rows above the deleted one do not move."""
    fill(server, visitor, *(f"task {n}" for n in range(60)))
    page = visitor.visit(server)
    row = page.get_by_role("listitem").filter(has_text=re.compile(r"^task 40#"))
    row.evaluate("row => row.scrollIntoView({block: 'center'})")
    row.locator(".more").click()  # for which Playwright may scroll
    above = page.get_by_role("listitem").filter(has_text=re.compile(r"^task 39#"))
    before = above.bounding_box()
    page.get_by_role("menuitem", name="Delete").click()
    expect(row).to_have_count(0)
    frames(page)
    after = above.bounding_box()
    assert before is not None
    assert after is not None
    assert abs(before["y"] - after["y"]) < 2


def test_tasks_are_in_the_order_of_their_dates(server: Server, visitor: Visitor) -> None:
    """Open tasks stand by when they are due, overdue ones marked by the browser's date; done ones are folded."""
    fill(server, visitor, "undated", {"title": "later", "due": today(40)}, {"title": "late", "due": today(-3)})
    fill(
        server, visitor, {"title": "soon", "due": today(1)}, {"title": "now", "due": today(), "description": "at noon"}
    )
    page = visitor.visit(server)
    expect(titles(page)).to_have_text(["late", "now", "soon", "later", "undated"])
    expect(page.locator(".overdue")).to_have_count(1)
    expect(page.locator("#task-list .facts").nth(0)).to_contain_text("overdue")
    expect(page.locator("#task-list .facts").nth(1)).to_contain_text("due today")
    expect(page.locator("#task-list .facts").nth(2)).to_contain_text("due tomorrow")
    expect(page.locator(".description")).to_have_text("at noon")
    page.locator("#task-list input").nth(0).click()
    expect(page.locator("#done-count")).to_have_text("Done (1)")
    expect(page.locator("#done-list .row")).to_have_count(0)
    page.click("#done-count")
    expect(page.locator("#done-list .title")).to_have_text("late")
    expect(page.locator("#done-list .overdue")).to_have_count(0)


def test_a_page_that_is_open_over_night_knows_the_new_day(server: Server, visitor: Visitor) -> None:
    """Though nothing has changed on the server, what was due today is overdue, and what was today is yesterday."""
    fill(server, visitor, {"title": "milk", "due": NOON.date().isoformat()})
    with server.client(visitor.user) as client:
        client.say("hello")
    visitor.context.clock.set_fixed_time(NOON)
    page = visitor.visit(server)
    expect(page.locator("#task-list .facts")).to_contain_text("due today")
    expect(page.locator(".group")).to_have_text("Today")
    page.clock.set_fixed_time(NOON + datetime.timedelta(days=1))
    expect(page.locator("#task-list .facts")).to_contain_text("overdue: yesterday")
    expect(page.locator(".group")).to_have_text("Yesterday")


def test_a_menu_is_of_what_is_there_now(server: Server, visitor: Visitor) -> None:
    """What another window changes while a menu is open: the menu still works, on the row as it is now."""
    fill(server, visitor, "one", "two")
    with server.client(visitor.user) as client:
        client.say("hello")
        page = visitor.visit(server)
        page.locator("#task-list .more").first.click()
        [one, _] = client.tasks()
        client.patch(f"/api/tasks/{one['id']}", json={"title": "one and a half"}).raise_for_status()
        expect(titles(page)).to_have_text(["one and a half", "two"])
        page.get_by_role("menuitem", name="Edit").click()
        expect(page.locator("#task-list .edit input").first).to_have_value("one and a half")
        page.keyboard.press("Escape")
        page.locator("#conversation-list .more").click()
        [thread] = [conversation["id"] for conversation in client.get("/api/conversations").json()]
        client.patch(f"/api/conversations/{thread}", json={"title": "greetings"}).raise_for_status()
        expect(page.locator("#conversation-list .title")).to_have_text("greetings")
        page.get_by_role("menuitem", name="Rename").click()
        expect(page.locator("#conversation-list .edit input")).to_have_value("greetings")


def test_a_due_date_is_set_and_taken_away(server: Server, visitor: Visitor) -> None:
    """Edit changes title, date and description, and what is left alone stays."""
    fill(server, visitor, {"title": "milk", "description": "oat"})
    page = visitor.visit(server)
    with server.client(visitor.user) as client:
        row = page.locator("#task-list .row")
        choose(row, "Edit")
        row.locator("[type=date]").fill(today(1))
        row.get_by_role("button", name="Save").click()
        expect(row).to_contain_text("due tomorrow")
        [task] = client.tasks()
        assert (task["title"], task["due"], task["description"]) == ("milk", today(1), "oat")
        choose(row, "Edit")
        row.locator("[type=date]").fill("")
        row.locator("textarea").fill("soy")
        row.get_by_role("button", name="Save").click()
        expect(row.locator(".description")).to_have_text("soy")
        [task] = client.tasks()
        assert (task["due"], task["description"]) == (None, "soy")


def test_pasted_lines_become_tasks(server: Server, visitor: Visitor) -> None:
    """Each line of a pasted list is one task, without the list's marks; the last one is in sight."""
    fill(server, visitor, *(f"old {n}" for n in range(40)))
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visitor.visit(server)
    page.evaluate("navigator.clipboard.writeText('- buy milk\\n* [ ] call Ann\\n\\n3. pay the rent\\n')")
    page.focus("#task-title")
    page.keyboard.press("Control+v")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_count(43)
    assert titles(page).all_inner_texts()[-3:] == ["buy milk", "call Ann", "pay the rent"]
    expect(titles(page).last).to_be_in_viewport()
    expect(page.locator("#task-title")).to_have_value("")


def test_a_title_that_is_too_long_is_said_and_kept(server: Server, visitor: Visitor) -> None:
    """201 characters are not cut: the page says how long a title may be, and what was typed is still there."""
    page = visitor.visit(server)
    page.fill("#task-title", "x" * 201)
    page.keyboard.press("Enter")
    expect(page.locator("#task-fault")).to_contain_text("200 characters")
    expect(page.locator("#task-fault")).to_contain_text("201")
    expect(page.locator("#task-title")).to_have_value("x" * 201)
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text("x" * 200)


def test_the_filter_finds_tasks(server: Server, visitor: Visitor) -> None:
    """Words, in any order, of title and description, and the number."""
    fill(server, visitor, *(f"task {n}" for n in range(10)), {"title": "buy milk", "description": "for Ann"})
    page = visitor.visit(server)
    page.fill("#filter", "ann MILK")
    expect(titles(page)).to_have_text(["buy milk"])
    page.fill("#filter", "nothing like it")
    expect(page.locator("#no-tasks")).to_have_text("No open task has these words.")
    page.fill("#task-title", "new one")
    page.press("#task-title", "Enter")
    expect(titles(page)).to_have_count(12)


@pytest.fixture
def daily(server: Server, visitor: Visitor) -> Visitor:
    """Somebody who has used this for a year: 200 conversations, and 150 tasks, a third of them done. It is noon."""
    talks = [(f"talk number {n}", utc(used(n))) for n in range(200)]
    tasks = [(f"task number {n}", n % 3 == 0, utc(used(n))) for n in range(150)]
    with contextlib.closing(sqlite3.connect(server.database, timeout=PATIENCE)) as file, file:
        for title, at in talks:
            row = (visitor.user, title, at, at)
            insert = "INSERT INTO conversations (user_id, title, created_at, updated_at) VALUES (?, ?, ?, ?)"
            thread = file.execute(insert, row).lastrowid
            insert = "INSERT INTO messages (conversation_id, role, content, status, created_at) VALUES (?, ?, ?, ?, ?)"
            file.execute(insert, (thread, "user", f"{title}, the question", "done", at))
            file.execute(insert, (thread, "assistant", f"{title}, the answer", "done", at))
        insert = "INSERT INTO tasks (user_id, title, completed, created_at, updated_at) VALUES (?, ?, ?, ?, ?)"
        file.executemany(insert, [(visitor.user, title, done, at, at) for title, done, at in tasks])
    visitor.context.clock.set_fixed_time(NOON)
    return visitor


def used(n: int) -> datetime.datetime:
    """Return when the one that was used n-th last was used: ever longer ago, in the end a year."""
    return NOON - datetime.timedelta(hours=4 * n + n * n / 5)


def utc(moment: datetime.datetime) -> str:
    """Return a moment as it is stored."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def group(n: int) -> str:
    """Return the heading under which the conversation stands that was used n-th last."""
    days = (NOON.date() - used(n).date()).days
    name = {0: "Today", 1: "Yesterday"}.get(days)
    return name or ("The last seven days" if days < 7 else f"{used(n):%B %Y}")


def test_two_hundred_conversations_are_reached_by_scrolling(server: Server, daily: Visitor) -> None:
    """More come as one scrolls, each once, under the headings of their dates, which stay in sight; the oldest opens."""
    page = daily.visit(server)
    rows = page.locator("#conversation-list .row")
    expect(rows).not_to_have_count(0)
    assert rows.count() < 100
    page.hover("#conversation-list")
    while (shown := rows.count()) < 200:
        page.mouse.wheel(0, 3000)
        until(page, f"document.querySelectorAll('#conversation-list .row').length > {shown}")
    names = page.locator("#conversation-list .name .title")
    assert names.all_text_contents() == [f"talk number {n}" for n in range(200)]
    groups = list(dict.fromkeys(group(n) for n in range(200)))
    assert groups[:3] == ["Today", "Yesterday", "The last seven days"]
    assert page.locator("#conversation-list .group").all_text_contents() == groups
    scroll_down(page, "#conversation-list")
    expect(names.last).to_be_in_viewport()
    heading, of_the_row = page.evaluate(AT_TOP)
    assert heading == of_the_row
    assert heading != groups[0]
    names.last.click()
    expect(page.locator(".question .body")).to_have_text("talk number 199, the question")
    expect(rows).to_have_count(200)


# The heading that stands at the top of the list of conversations, and that of the first row that is seen.
AT_TOP = """() => {
  const list = document.getElementById("conversation-list").getBoundingClientRect();
  const at = (y) => document.elementFromPoint(list.left + list.width / 2, list.top + y);
  const heading = at(12).closest(".group");
  let item = at(heading.offsetHeight + 12).closest("li");
  while (!item.matches(".group")) item = item.previousElementSibling;
  return [heading.textContent, item.textContent];
}"""


def scroll_down(page: Page, selector: str) -> None:
    """Turn the wheel until a list is at its end: what was not seen was not laid out, and is longer or shorter."""
    page.hover(selector)
    gap = "(all) => all.scrollHeight - all.scrollTop - all.clientHeight"
    deadline = time.monotonic() + PATIENCE
    while page.locator(selector).evaluate(gap) > 2:
        assert time.monotonic() < deadline
        page.mouse.wheel(0, 3000)
        frames(page)


def test_the_oldest_of_two_hundred_is_found(server: Server, daily: Visitor) -> None:
    """By its title or by what was said in it, though it has never been listed; and the list comes back as it was."""
    page = daily.visit(server)
    names = page.locator("#conversation-list .name .title")
    for words in ("number 199", "number 199, the answer"):
        page.fill("#search", words)
        expect(names).to_have_text(["talk number 199"])
    names.click()
    expect(page.locator(".answer .text")).to_have_text("talk number 199, the answer")
    page.fill("#search", "number 1")  # 111 of them: more than are shown at once
    page.hover("#conversation-list")
    expect(names.first).to_have_text("talk number 1")
    while (shown := names.count()) < 111:
        page.mouse.wheel(0, 3000)
        until(page, f"document.querySelectorAll('#conversation-list .row').length > {shown}")
    expect(names.last).to_have_text("talk number 199")
    page.press("#search", "Escape")
    expect(names.first).to_have_text("talk number 0")


def test_a_hundred_and_fifty_tasks_are_at_hand(server: Server, daily: Visitor) -> None:
    """The open ones are listed whole, those that are done are folded; words and numbers find either."""
    page = daily.visit(server)
    expect(titles(page)).to_have_count(100)
    expect(page.locator("#done-count")).to_have_text("Done (50)")
    scroll_down(page, "#tasks .list")
    expect(page.locator("#done-count")).to_be_in_viewport()
    page.fill("#filter", "number 149")
    expect(titles(page)).to_have_text(["task number 149"])
    page.fill("#filter", "number 147")
    expect(page.locator("#done-count")).to_have_text("Done (1)")
    page.click("#done-count")
    expect(page.locator("#done-list .title")).to_have_text("task number 147")


def test_conversations_in_which_an_answer_is_written_are_marked(paced: Server, visitor: Visitor) -> None:
    """Also one that another window has begun; the mark goes when the answer is over."""
    page = visitor.visit(paced)
    rows = page.locator("#conversation-list .row")
    with Client(paced.url, visitor.user) as client, Client(paced.url, visitor.user) as other:
        answer = threading.Thread(target=lambda: other.say(ENDLESS))
        answer.start()
        expect(rows).to_have_count(1)
        expect(rows.locator(".live")).to_have_text("answering")
        expect(rows.get_by_role("button", name=ENDLESS).first).to_contain_text("answering")
        say(page, "say 3 0")
        idle(page)
        expect(rows.locator(".title")).to_have_text(["say 3 0", ENDLESS])
        expect(rows.first.locator(".live")).to_have_count(0)
        expect(rows.last.locator(".live")).to_have_count(1)
        [_, thread] = [conversation["id"] for conversation in client.get("/api/conversations").json()]
        client.post(f"/api/conversations/{thread}/stop").raise_for_status()
        answer.join()
        page.bring_to_front()  # a page that the browser takes for hidden does not look
        expect(rows.locator(".live")).to_have_count(0)


def test_conversations_are_searched(server: Server, visitor: Visitor) -> None:
    """The search finds titles and what was said, and its field emptied shows all again."""
    with server.client(visitor.user) as client:
        client.say("add buy bread")
        thread = client.say("hello").thread
        client.say("add water the plants", thread)
    page = visitor.visit(server)
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("plants")
    expect(page.locator("#conversation-list .title")).to_have_text(["hello"])
    page.keyboard.press("Escape")
    expect(page.locator("#conversation-list .title")).to_have_text(["hello", "add buy bread"])
    page.keyboard.type("zebra")
    expect(page.locator("#no-conversations")).to_have_text("Nothing was found.")


def test_back_and_the_address_lead_to_conversations(server: Server, visitor: Visitor) -> None:
    """Back shows what was open before; an address opens its conversation; the tab says which one it is."""
    with server.client(visitor.user) as client:
        one, two = client.say("first talk").thread, client.say("second talk").thread
    page = visitor.visit(server)
    names = page.locator("#conversation-list .name")
    names.filter(has_text="first").click()
    expect(page).to_have_title("first talk - To-do chat")
    names.filter(has_text="second").click()
    expect(page.locator(".question .body")).to_have_text("second talk")
    assert page.url.endswith(f"#conversation={two}")
    page.go_back()
    expect(page.locator(".question .body")).to_have_text("first talk")
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_forward()
    expect(page.locator(".question .body")).to_have_text("first talk")
    page.evaluate(f"location.hash = 'conversation={two}'")
    expect(page.locator(".question .body")).to_have_text("second talk")
    page.goto(f"{server.url}/#conversation={one}")
    page.reload()
    expect(page.locator(".question .body")).to_have_text("first talk")


def test_a_draft_survives_a_reload(server: Server, visitor: Visitor) -> None:
    """What was typed and not sent is still there, each draft in its own conversation; a sent one is gone."""
    with server.client(visitor.user) as client:
        client.say("first talk")
    page = visitor.visit(server)
    page.fill("#text", "for a new one")
    page.locator("#conversation-list .name").click()
    expect(page.locator("#text")).to_have_value("")
    page.fill("#text", "for the first")
    page.reload()
    expect(page.locator("#text")).to_have_value("for the first")
    page.click("#new")
    expect(page.locator("#text")).to_have_value("for a new one")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_have_value("")
    idle(page)
    page.reload()
    expect(page.locator("#text")).to_have_value("")


def test_what_is_typed_before_the_page_is_ready_is_kept(server: Server, visitor: Visitor) -> None:
    """Also when the server is slow to say who is signed in: it stays in the field, and is a draft as any other."""
    with server.client(visitor.user) as client:
        thread = client.say("first talk").thread
    page = visitor.visit(server)
    page.fill("#text", "for a new one")
    page.goto(f"{server.url}/#conversation={thread}")
    expect(page.locator("#text")).to_have_value("")
    gate = Gate(page, "**/api/me")
    page.reload()
    page.fill("#text", "quick")
    gate.meet()
    gate.open()
    expect(page.locator(".question .body")).to_have_text("first talk")
    expect(page.locator("#text")).to_have_value("quick")
    page.click("#new")
    expect(page.locator("#text")).to_have_value("for a new one")
    page.go_back()
    expect(page.locator("#text")).to_have_value("quick")


def test_a_draft_is_nobody_elses(server: Server, visitor: Visitor) -> None:
    """Who signs out takes what was typed along: it is not in the field when the next one signs in."""
    page = visitor.visit(server)
    page.fill("#text", "a secret plan")
    page.click("#sign-out")
    page.fill("#token", token("somebody else"))
    page.press("#token", "Enter")
    expect(page.locator("#user")).to_have_text("somebody else")
    expect(page.locator("#text")).to_have_value("")


def test_another_window_sees_what_is_done_elsewhere(paced: Server, visitor: Visitor) -> None:
    """A window that stays visible sees tasks and messages of others within 5 s, and follows what is live."""
    visitor.context.clock.install()
    page = visitor.visit(paced)
    say(page, "say 2 0")
    idle(page)
    thread = int(page.url.split("=")[1])
    still(page)
    with Client(paced.url, visitor.user) as client:
        client.post("/api/tasks", json={"title": "from elsewhere"}).raise_for_status()
        page.clock.run_for(5000)
        expect(titles(page)).to_have_text(["from elsewhere"])
        client.say("say 3 0", thread)
        page.clock.run_for(5000)
        expect(page.locator(".question")).to_have_count(2)
        expect(page.locator(".answer").last).to_contain_text("w0 w1 w2")
        kept = page.locator(".answer").first.element_handle()
        client.patch(f"/api/conversations/{thread}", json={"title": "renamed"}).raise_for_status()
        page.clock.run_for(5000)
        expect(page.locator("#title")).to_have_text("renamed")
        assert kept is not None
        assert kept.evaluate("(element) => element.isConnected"), "what has not changed is not touched"


def test_what_has_not_changed_costs_nothing(server: Server, visitor: Visitor) -> None:
    """A page that only watches gets 304s; a short turn among 500 messages moves less than 20 KB."""
    with server.client(visitor.user) as client:
        thread = client.say("hello").thread
        for _ in range(249):
            client.say("hello", thread)
    page = visitor.visit(server)
    page.locator("#conversation-list .name").click()
    expect(page.locator(".question")).to_have_count(25)
    responses: list[Response] = []
    page.on("response", lambda response: responses.append(response))

    def rests() -> int:
        """Wait until the page has looked at all that it shows, twice, and found nothing new; return what that took."""
        before = len(responses)
        deadline = time.monotonic() + PATIENCE
        while (statuses := [response.status for response in responses[before:]])[-6:] != [304] * 6:
            assert time.monotonic() < deadline, statuses
            page.wait_for_timeout(100)
        return len(statuses)

    rests()
    assert rests() == 6, "nothing was sent for what had been there before"
    before = len(responses)
    say(page, "hello")
    idle(page)
    rests()
    sizes = [response.request.sizes() for response in responses[before:]]
    assert 0 < sum(size["responseHeadersSize"] + size["responseBodySize"] for size in sizes) < 20_000


def test_the_end_of_an_answer_ends_no_timer_of_others(server: Server, visitor: Visitor) -> None:
    """The browser numbers timers and frames apart: the end of an answer withdraws its own, and not both of a number."""
    page = visitor.visit(server)
    page.evaluate("fired = 0")
    for n in range(1, 4):
        page.evaluate(
            """() => {
                let last;
                for (let n = 0; n < 1000; n += 1) last = setTimeout(() => { fired += 1; }, 3000);
                while (requestAnimationFrame(() => null) < last - 900); // the next frames have the numbers of timers
            }"""
        )
        say(page, "hello")
        idle(page)
        until(page, f"fired === {1000 * n}")


def test_a_long_conversation_opens_quickly_and_goes_back(server: Server, visitor: Visitor) -> None:
    """500 messages and 1,000 tasks: no task of the page takes 300 ms; older messages come on scrolling up."""
    with server.client(visitor.user) as client:
        thread = client.say("talk 0").thread
        for n in range(1, 250):
            client.say(f"talk {n}", thread)
        for n in range(1000):
            client.post("/api/tasks", json={"title": f"task {n}"}).raise_for_status()
    page = visitor.visit(server)
    expect(page.locator("#task-list .row")).to_have_count(1000)

    def open_all() -> None:
        page.reload()
        page.locator("#conversation-list .name").click()
        expect(page.locator(".question .body").last).to_have_text("talk 249")
        expect(page.locator("#task-list .row")).to_have_count(1000)
        page.mouse.move(600, 300)
        deadline = time.monotonic() + PATIENCE
        while page.locator(".question").count() < 250:
            assert time.monotonic() < deadline
            page.mouse.wheel(0, -3000)
            frames(page)
        expect(page.locator(".question .body").first).to_have_text("talk 0")

    stays_alive(page, 300, open_all)
    asked = page.locator(".question .body").all_inner_texts()
    assert asked == [f"talk {n}" for n in range(250)]


def stays_alive(page: Page, limit: float, act: Callable[[], None]) -> None:
    """Do something; no task of the page's main thread may take so many ms of CPU meanwhile.

    Other processes make each task longer, now more and now less. So one time of six is enough.
    """
    found: list[float] = []
    while not found or found[-1] >= limit:
        assert len(found) < 6, f"the longest tasks took {found} ms"
        with Tracing(page) as longest:
            act()
        found.append(longest() / slowness(page))


class Tracing:
    """A trace of what the page's main thread does."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.trace: Any = None

    def __enter__(self) -> Callable[[], float]:
        browser = self.page.context.browser
        assert browser is not None
        browser.start_tracing(page=self.page, categories=["toplevel"])
        return self.longest

    def __exit__(self, *error: object) -> None:
        browser = self.page.context.browser
        assert browser is not None
        self.trace = json.loads(browser.stop_tracing())

    def longest(self) -> float:
        """Return the CPU time of the longest task: that of a wall clock would be what other processes do, too."""
        events = self.trace["traceEvents"]
        name = "CrRendererMain"
        mains = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"].get("name") == name}
        tasks = [e for e in events if (e["pid"], e.get("tid")) in mains and e["name"].endswith("RunTask")]
        assert tasks
        return max(float(task.get("tdur", 0)) / 1000 for task in tasks)


FLOODS = {  # what a text begins with, and what it goes on with
    "list": ("", "- some words of an item that is **bold** here\n"),
    "table": ("| a | b | c |\n|---|---|---|\n", "| cell one | cell **two** | cell three and more |\n"),
    "paragraph": ("", "words of a paragraph with **bold** and `code`. "),
    "code": ("```js\n", "let x = y + 1; // a line of code\n"),
}


@pytest.mark.parametrize("kind", list(FLOODS))
def test_a_flood_leaves_the_page_alive(server: Server, visitor: Visitor, kind: str) -> None:
    """While 100 KB of one kind stream within 5 s, no task of the page takes 100 ms."""
    page = visitor.visit(server)
    expect(page.locator("#welcome")).to_be_visible()

    def flood() -> None:
        shown = page.evaluate(
            """async ([text, piece, size]) => {
                const { Answer } = await import(new URL("static/answer.js", document.baseURI));
                const answer = new Answer();
                document.getElementById("messages").replaceChildren(answer.element);
                while (text.length < size) text += piece;
                const begun = performance.now();
                for (let at = 0; at < text.length; ) {
                    await new Promise((resolve) => setTimeout(resolve, 10));
                    const end = ((performance.now() - begun) / 5000) * size;
                    const events = [];
                    for (; at < end && at < text.length; at += 20) {
                        events.push({ type: "text", content: text.slice(at, at + 20) });
                    }
                    if (events.length) answer.add(events);
                }
                answer.settle();
                return answer.body.querySelector(".text").textContent.length;
            }""",
            [*FLOODS[kind], 100_000],
        )
        assert shown > 50_000

    stays_alive(page, 100, flood)


@pytest.fixture
def phone(browser: Browser) -> Iterator[Visitor]:
    """A visitor with a telephone."""
    size = {"width": 360, "height": 740}
    visitor = Visitor(browser, viewport=size, has_touch=True, is_mobile=True, reduced_motion="reduce")
    yield visitor
    visitor.context.close()
    assert visitor.complaints == []


def test_back_closes_a_drawer(server: Server, phone: Visitor) -> None:
    """On a telephone Back closes the open drawer and leaves the conversation; so does its button, without a trace."""
    page = phone.visit(server)
    say(page, "hello")
    idle(page)
    url = page.url
    page.tap("[data-open=tasks]")
    expect(page.locator("#tasks")).to_be_visible()
    page.go_back()
    expect(page.locator("#tasks")).to_be_hidden()
    assert page.url == url
    page.tap("[data-open=tasks]")
    page.locator("#tasks [data-close]").tap()
    expect(page.locator("#tasks")).to_be_hidden()
    expect(page.locator(".question .body")).to_have_text("hello")
    page.tap("[data-open=conversations]")
    page.tap("#new")
    expect(page.locator("#conversations")).to_be_hidden()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_back()
    expect(page.locator(".question .body")).to_have_text("hello")


def test_a_deletion_is_undone_where_it_was_made(server: Server, phone: Visitor) -> None:
    """On a telephone Undo is in the drawer in which something was deleted, and in the chat when that is closed."""
    fill(server, phone, "one", "two")
    page = phone.visit(server)
    page.tap("[data-open=tasks]")
    undo = page.locator("#undo").get_by_role("button", name="Undo")
    for title in ("one", "two"):
        page.locator("#task-list .row", has_text=title).locator(".more").tap()
        page.locator("#menu").get_by_text("Delete").tap()
    expect(undo).to_have_count(2)
    page.locator("#undo p", has_text="one").get_by_role("button").tap()
    expect(titles(page)).to_have_text(["one"])
    page.locator("#tasks [data-close]").tap()
    expect(page.locator("#tasks")).to_be_hidden()
    undo.tap()
    page.tap("[data-open=tasks]")
    expect(titles(page)).to_have_count(2)


def test_a_drawer_that_is_opened_again_at_once_stays_open(server: Server, phone: Visitor) -> None:
    """Also before the browser has gone back from the one that was closed; Back closes it, and nothing else."""
    page = phone.visit(server)
    say(page, "hello")
    idle(page)
    url = page.url
    page.tap("[data-open=tasks]")
    page.evaluate(
        """() => new Promise((left) => {
            addEventListener("popstate", () => setTimeout(left), { once: true });
            document.querySelector("#tasks [data-close]").click();
            document.querySelector("[data-open=tasks]").click();
        })"""
    )
    expect(page.locator("#tasks")).to_be_visible()
    page.go_back()
    expect(page.locator("#tasks")).to_be_hidden()
    assert page.url == url


def test_enter_makes_a_line_on_a_telephone(server: Server, phone: Visitor) -> None:
    """Its keyboard has no Shift+Enter: Enter is a new line there, and the button sends."""
    page = phone.visit(server)
    page.tap("#text")
    page.keyboard.type("add buy milk")
    page.keyboard.press("Enter")
    page.keyboard.type("add call Ann")
    expect(page.locator("#text")).to_have_value("add buy milk\nadd call Ann")
    page.tap("#send")
    expect(page.locator(".question .body")).to_have_text("add buy milk\nadd call Ann", use_inner_text=True)


@pytest.mark.parametrize(("width", "least"), [(360, 360), (1000, 600), (1100, 600), (1280, 600), (1440, 800)])
def test_the_chat_is_not_squeezed(server: Server, browser: Browser, width: int, least: int) -> None:
    """At each width the chat has room, and nothing sticks out."""
    visitor = Visitor(browser, viewport={"width": width, "height": 700})
    page = visitor.visit(server)
    expect(page.locator("#welcome")).to_be_visible()
    assert page.evaluate("document.querySelector('main').offsetWidth") >= least
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    until(page, "document.activeElement.id === 'text'")
    visitor.context.close()
    assert visitor.complaints == []
