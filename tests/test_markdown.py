"""The page's Markdown: held to a well-kept parser, linear in time, and the same however it comes."""

import json
import subprocess
from collections.abc import Callable
from functools import partial

import pytest
from browsing import MUCH, Visitor, growth, meter
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
        writing.end();
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
        ("    a\n- ", "<pre>a</pre><ul><li></li></ul>"),
        ("    a\n7. b\n    - c", "<pre>a</pre><ol 7><li><p>b</p><ul><li><p>c</p></li></ul></li></ol>"),
        ("> \n\ta\n       b", "<blockquote></blockquote><pre>a\n   b</pre>"),
        ("a\n1. 12. b", "<p>a</p><ol 1><li><ol 12><li><p>b</p></li></ol></li></ol>"),
        ("/a@b.example", "<p>/a@b.example</p>"),
        ("|www.a.example*", "<p>|<a http://www.a.example>www.a.example</a>*</p>"),
    ],
)
def test_where_mdast_departs_from_the_standard_the_page_does_not(
    server: Server, visitor: Visitor, source: str, shown: str
) -> None:
    """Lists after indented code, indented code in lines of its own, a list that begins a list, marks at addresses."""
    assert outlines(server, visitor, [source]) == [shown]


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
        ("- [ ] \n  a", "<ul><li><p>[ ]<br>a</p></li></ul>"),
        (
            "*a **b " * 15 + "c" + "** d*" * 15,
            "<p>" + "*a **b " * 5 + "<em>a <strong>b " * 10 + "c" + "</strong> d</em>" * 10 + "** d*" * 5 + "</p>",
        ),
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
    "quotations in one another": ("", "> > > > > > > > > > > > > > > > > > > > > > > > ab\n"),
    "lists in one another": ("", "- - - - - - - - - - - - - - - - - - - - - - - - ab\n"),
    "lazy lines": ("> > > ab\n", "ab\n"),
    "fences": ("", "```\nab\n"),
    "underlines": ("", "ab\n===\n"),
    "heads that are none": ("", "a | b\n-|-|-\n"),
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

    ratios = {kind: round(growth(partial(work, kind), 500, 4000)) for kind in GROWING}
    assert {kind: ratio for kind, ratio in ratios.items() if ratio > MUCH} == {}


def of(*pieces: str, begin: str = "") -> Callable[[int], str]:
    """Return what makes a text of a length: each piece as often as each other one, one kind after the other."""

    def text(length: int) -> str:
        times = length // len("".join(pieces))
        return begin + "".join(piece * times for piece in pieces)

    return text


def runs(length: int) -> str:
    """Return runs of backticks of which no two are as long as each other."""
    return " ".join("`" * n for n in range(1, int((2 * length) ** 0.5)))


LONG_LINES = {  # one line that goes on and on, as a model may write it, or somebody who wishes the page ill
    "words": of("ab cd "),
    "bold": of("**ab** cd "),
    "code": of("`ab` cd "),
    "links": of("[ab](https://a.example) "),
    "never closed": of("**ab cd "),
    "brackets": of("[ab "),
    "brackets around links": of("[", "[a](https://a.example) "),
    "stars": of("* ** *** "),
    "stars at words": of("*a**b"),
    "runs of stars": of("*", "a", "*"),
    "a run and many stars": of("*", "a* "),
    "emphasis in emphasis": of("*a **b ", "c** d* "),
    "struck out in struck out": of("~~a ~b ", "c~ d~~ "),
    "underscores": of("a_b _c"),
    "backticks": of("`ab ``cd "),
    "backticks of all lengths": runs,
    "a fence that is none": of("`", "x`"),
    "half links": of("[](ab[](cd "),
    "half targets": of("[](<ab"),
    "half titles": of('[](a "b ', "[](a 'b ", "[](a (b "),
    "pictures in pictures": of("![a ", "](https://a.example)"),
    "angles": of("<a@b <https:a"),
    "addresses": of("a@b "),
    "addresses that go on": of("a@b.c1@"),
    "addresses that are none": of("www._"),
    "an address with brackets": of(")", begin="https://a.example/"),
    "an address with dots": of(".", begin="https://a.example/"),
    "entities": of("&amp; &x "),
    "backslashes": of("\\"),
    "cells": of("| ab \\"),
    "a head that is none": of("|-", "x"),
    "a rule that is none": of("* ", "x"),
    "numbers": of("1. "),
    "marks of headings": of("#", begin="# a "),
    "white space": of(" ", "a"),
    "quotations": of("> "),
    "all that is special": of("![`*_~<&@\\"),
}


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "in pieces"])
def test_a_long_line_is_rendered_in_linear_time(server: Server, visitor: Visitor, pieces: bool) -> None:
    """The same for one line that does not end, whatever is in it, from 50 to 400 KB; and as it streams, to 200 KB."""
    page = visitor.visit(server)
    spent = meter(page)

    def work(text: Callable[[int], str], length: int) -> float:
        """Return the seconds that rendering takes, 300 characters at a time if it is in pieces."""
        before = spent()
        page.evaluate(
            """async ([text, pieces]) => {
                const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
                const element = document.body.appendChild(document.createElement("div"));
                const writing = new Writing(element);
                for (let n = 0; n < text.length; n += pieces ? 300 : text.length) {
                    writing.add(text.slice(n, pieces ? n + 300 : text.length));
                }
                writing.end();
                element.remove();
            }""",
            [text(length), pieces],
        )
        return spent() - before

    few = 25_000 if pieces else 50_000
    ratios = {kind: round(growth(partial(work, text), few, 8 * few)) for kind, text in LONG_LINES.items()}
    assert {kind: ratio for kind, ratio in ratios.items() if ratio > MUCH} == {}


def test_a_wide_table_is_not_larger_than_its_text(server: Server, visitor: Visitor) -> None:
    """Rows that are short of thousands of cells do not get all of them."""
    script = """async (text) => {
        const { Writing } = await import(new URL("static/markdown.js", document.baseURI));
        const element = document.createElement("div");
        new Writing(element).add(text);
        return element.querySelectorAll("td, th").length;
    }"""
    text = "|a" * 2000 + "\n" + "|-" * 2000 + "\n" + "|b\n" * 2000
    assert visitor.visit(server).evaluate(script, text) < 60 * 2000
