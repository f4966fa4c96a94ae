"""The page's Markdown: held to a well-kept parser, linear in time, and the same however it comes."""

import json
import subprocess

import pytest
from browsing import Visitor, meter
from conftest import ROOT, Server, npm_package
from markdown_samples import SAMPLES

OUTLINE = """async (texts) => {
    const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
    const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
    const ticked = (box) => (box ? (box.checked ? "[x]" : "[ ]") : "");

    function outline(node) {  // that of markdown.mjs
        if (node.nodeType === Node.TEXT_NODE) return escaped(node.data);
        const inside = () => [...node.childNodes].map(outline).join("");
        const tag = (name, text = inside(), more = "") => `<${name}${more}>${text}</${name}>`;
        const name = node.localName;
        if (node.className === "code") {
            const language = node.querySelector(".bar span").textContent;
            return tag("pre", escaped(node.querySelector("code").textContent), language ? ` ${language}` : "");
        }
        if (/^h[3-6]$/.test(name)) return tag("h");
        if (name === "br" || name === "hr") return `<${name}>`;
        if (name === "input") return "";
        if (name === "ol") return tag("ol", inside(), ` ${node.start}`);
        if (name === "li") return tag("li", ticked(node.querySelector(":scope > p:first-child > input")) + inside());
        if (name === "td" || name === "th") return tag("td", inside(), ` ${node.className || "null"}`);
        if (name === "a") return tag("a", inside(), ` ${node.getAttribute("href")}`);
        return ["div", "thead", "tbody"].includes(name) ? inside() : tag(name);
    }

    return texts.map((text) => {
        const [whole, streamed] = [document.createElement("div"), document.createElement("div")];
        new Writing(whole).add(text);
        const writing = new Writing(streamed);
        for (const letter of text.split("")) writing.add(letter);
        return [outline(whole), streamed.innerHTML === whole.innerHTML];
    });
}"""


def outlines(server: Server, visitor: Visitor, texts: list[str]) -> list[str]:
    """Return what the page shows of texts; a text that comes letter by letter must end up as the same."""
    found = visitor.visit(server).evaluate(OUTLINE, texts)
    assert [text for text, (_, same) in zip(texts, found, strict=True) if not same] == []
    return [outline for outline, _ in found]


def test_markdown_is_what_a_well_kept_parser_makes_of_it(server: Server, visitor: Visitor) -> None:
    """More than 250 samples are shown as mdast reads them with GFM, but for what the page leaves out."""
    assert len(SAMPLES) > 250
    npm_package("mdast-util-from-markdown")
    command = ["node", str(ROOT / "tests" / "markdown.mjs")]
    parsed = subprocess.run(command, input=json.dumps(SAMPLES), capture_output=True, text=True, check=True, timeout=60)
    wanted = [outline.replace("<td left>", "<td null>") for outline in json.loads(parsed.stdout)]
    shown = outlines(server, visitor, SAMPLES)
    different = [(s, w, o) for s, w, o in zip(SAMPLES, wanted, shown, strict=True) if w != o]
    assert different == []


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("*a\nb*", "<p>*a<br>b*</p>"),
        ("`a\nb`", "<p>`a<br>b`</p>"),
        ("[a\nb](https://a.example)", "<p>[a<br>b](<a https://a.example>https://a.example</a>)</p>"),
        ('<img src=x onerror="alert(1)">', '<p>&lt;img src=x onerror="alert(1)"></p>'),
        ("<div>\n\n**a**\n\n</div>", "<p>&lt;div></p><p><strong>a</strong></p><p>&lt;/div></p>"),
        ("[a]: https://a.example", "<p>[a]: <a https://a.example>https://a.example</a></p>"),
        ("[a][b] [^1]", "<p>[a][b] [^1]</p>"),
        ("[a](javascript:alert(1)) <javascript:b>", "<p>[a](javascript:alert(1)) &lt;javascript:b></p>"),
        ("![a](data:image/png;base64,x)", "<p>![a](data:image/png;base64,x)</p>"),
        ("[a](b.html)", "<p>[a](b.html)</p>"),
        (">" * 3000 + " deep", "<blockquote>" * 19 + "<p>" + ">" * 2981 + " deep</p>" + "</blockquote>" * 19),
    ],
)
def test_what_is_left_out_shows_as_the_text_that_it_is(
    server: Server, visitor: Visitor, source: str, shown: str
) -> None:
    """The list at the top of markdown.js, one by one: nothing is lost, and nothing is run."""
    assert outlines(server, visitor, [source]) == [shown]


def test_lists_in_lists_have_an_end(server: Server, visitor: Visitor) -> None:
    """However deep a model nests its lists, the page stays usable, and shows all of it."""
    [outline] = outlines(server, visitor, ["\n".join("  " * n + f"- {n}" for n in range(40))])
    assert outline.count("<ul>") <= 20
    assert all(str(n) in outline for n in range(40))


def test_headings_leave_no_level_out(server: Server, visitor: Visitor) -> None:
    """Whatever levels a model writes, an answer's headings stand in order below that of the answer."""
    script = """async (text) => {
        const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
        const element = document.createElement("div");
        new Writing(element).add(text);
        return [...element.children].map((heading) => heading.localName);
    }"""
    source = "### a\n### b\n###### c\n# d\n### e\n\nf\n---"
    names = visitor.visit(server).evaluate(script, source)
    assert names == ["h3", "h3", "h4", "h3", "h4", "h4"]


def test_what_is_complete_is_not_touched_again(server: Server, visitor: Visitor) -> None:
    """While more comes, what is shown of complete lines stays as it is: a selection in it survives."""
    script = """async (text) => {
        const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
        let begin = "";
        const changed = [];
        for (const line of text.split(/(?<=\\n)/)) {
            begin += line;
            const element = document.createElement("div");
            const writing = new Writing(element);
            writing.add(begin);
            const leaves = [...element.querySelectorAll("*")].filter((one) => one.firstChild && !one.firstElementChild);
            const shown = leaves.map((leaf) => [leaf, leaf.firstChild, leaf.textContent]);
            writing.add("*more*\\n\\nand | more");
            for (const [leaf, node, content] of shown) {
                const same = element.contains(leaf) && leaf.firstChild === node && leaf.textContent.startsWith(content);
                if (!same) changed.push([line, content]);
            }
        }
        return changed;
    }"""
    source = (
        "# a\n\nwords **b**\nand more\n\n- c\n- d\n  - e\n\n```js\nf\n\ng\n```\n| h | i |\n|---|---|\n| j | k |\n> l\n"
    )
    assert visitor.visit(server).evaluate(script, source) == []


GROWING = {  # what a text begins with, and the lines that it goes on with
    "paragraph": ("", "ab\n"),
    "numbers": ("", "12\n"),
    "paragraphs": ("", "ab\n\n"),
    "list": ("", "- ab\n"),
    "numbered list": ("", "1. ab\n"),
    "nested list": ("- a\n", "  - ab\n"),
    "long item": ("- a\n\n", "  ab\n"),
    "blank lines in a list": ("- a\n", "\n"),
    "table": ("| a |\n|---|\n", "| ab |\n"),
    "quotation": ("", "> ab\n"),
    "list in a quotation": ("", "> - ab\n"),
    "code": ("```\n", "ab\n"),
    "code in an item": ("- a\n  ```\n", "  ab\n\n"),
    "headings": ("", "# ab\n"),
}


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in pieces"])
def test_a_long_text_is_rendered_in_linear_time(server: Server, visitor: Visitor, pieces: bool) -> None:
    """Eight times the lines cost about eight times the work, whatever they are lines of, and however they come."""
    page = visitor.visit(server)
    spent = meter(page)

    def work(kind: str, lines: int) -> float:
        """Return the seconds of one rendering."""
        before = spent()
        done = page.evaluate(
            """async ([begin, line, lines, pieces]) => {
                const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
                const element = document.body.appendChild(document.createElement("div"));
                const writing = new Writing(element);
                writing.add(begin);
                const end = performance.now() + 30_000;
                for (let n = 0; pieces && n < lines && performance.now() < end; n += 1) {
                    writing.add(line[0]);
                    writing.add(line.slice(1));
                }
                if (!pieces) writing.add(line.repeat(lines));
                element.remove();
                return performance.now() < end;
            }""",
            [*GROWING[kind], lines, pieces],
        )
        assert done, f"{kind}: not even in half a minute"
        return spent() - before

    times: dict[str, float] = {}
    for kind in GROWING:
        work(kind, 500)  # the first time is slower
        few, many = (min(work(kind, lines) for _ in range(3)) for lines in (500, 4000))
        times[kind] = many / few
    assert {kind: round(ratio) for kind, ratio in times.items() if ratio > 24} == {}


LONG_LINES = {  # one line that goes on and on
    "words": "ab cd ",
    "bold": "**ab** cd ",
    "code": "`ab` cd ",
    "links": "[ab](https://a.example) ",
    "never closed": "**ab cd ",
    "brackets": "[ab ",
    "stars": "* ** *** ",
    "backticks": "`ab ``cd ",
    "half links": "[](ab[](cd ",
    "addresses": "a@b ",
    "entities": "&amp; &x ",
    "cells": "| ab \\",
}


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in pieces"])
def test_a_long_line_is_rendered_in_linear_time(server: Server, visitor: Visitor, pieces: bool) -> None:
    """The same for one line that does not end, whatever is in it; and as it streams, for what is closed in it."""
    page = visitor.visit(server)
    spent = meter(page)

    def work(piece: str, length: int) -> float:
        """Return the seconds that rendering takes, 300 characters at a time if it is in pieces."""
        before = spent()
        page.evaluate(
            """async ([piece, length, pieces]) => {
                const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
                const element = document.body.appendChild(document.createElement("div"));
                const text = piece.repeat(length / piece.length);
                const writing = new Writing(element);
                for (let n = 0; n < text.length; n += pieces ? 300 : text.length) {
                    writing.add(text.slice(n, pieces ? n + 300 : text.length));
                }
                element.remove();
            }""",
            [piece, length, pieces],
        )
        return spent() - before

    times: dict[str, float] = {}
    for kind, piece in LONG_LINES.items():
        if pieces and kind not in ("words", "bold", "code", "links"):
            continue
        work(piece, 8_000)
        few, many = (min(work(piece, length) for _ in range(3)) for length in (10_000, 80_000))
        times[kind] = many / few
    assert {kind: round(ratio) for kind, ratio in times.items() if ratio > 24} == {}
