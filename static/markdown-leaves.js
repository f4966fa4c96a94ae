// What holds text: paragraphs, headings, tables, code. Each takes its lines one by one.

import { inline } from "./markdown-inline.js";
import { unescaped } from "./markdown-links.js";

const RIGHT_TO_LEFT = new RegExp(
  `[${["Arabic", "Hebrew", "Syriac", "Thaana", "Nko", "Adlam"].map((script) => `\\p{Script=${script}}`).join("")}]`,
  "u",
);
const DELIMITERS = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

const MISSING = 50; // cells that a row is short of and gets: with more, a wide table would be far larger than its text
const ROWS = 50; // after which a table's columns are as wide as they are, and another part of it begins

function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

/** Write elements in the direction of their first letter; `dir="auto"` would look through them at each new line. */
function direct(journal, text, elements) {
  const letter = text.match(/\p{L}/u)?.[0];
  const direction = letter && (RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr");
  if (letter) for (const element of elements) journal.attribute(element, "dir", direction);
}

/** Whether a line ends with a backslash that escapes nothing but its end. */
function breaks(line) {
  let length = 0;
  while (line.at(-1 - length) === "\\") length += 1;
  return length % 2 === 1;
}

/** Write a heading: its marks at the end are none of its words. */
export function heading(element, words, journal) {
  const text = words.replace(/^#+/, "").trim().replace(/(^|[ \t])#+$/, "").trim();
  direct(journal, text, [element]);
  element.append(inline(text).nodes);
}

export class Paragraph {
  constructor(element, journal, ticked) {
    Object.assign(this, { element, journal });
    this.last = null; // what its last line says
    this.mark = null; // the line break before its last line
    this.broken = false; // whether its last line ends with a backslash, which is a line break and no text
    if (ticked === null) return;
    const box = make("input", { type: "checkbox", checked: ticked, disabled: true, ariaLabel: ticked ? "done" : "open" });
    element.append(box);
    journal.attribute(element.parentNode, "class", "todo"); // `:has` would be looked at with each change of the page
  }

  /** Whether it takes a line without a look at whether that begins another block. */
  takes() {
    return false;
  }

  add(words, stack = []) {
    const text = words.trim();
    direct(this.journal, text, [this.element, ...stack.slice(1).map((block) => block.element)]);
    let mark = null;
    if (this.last !== null) {
      mark = make("br");
      const end = this.element.lastChild;
      if (this.broken && end.data) this.journal.put(end, { data: end.data.slice(0, -1) });
      this.journal.append(this.element, mark);
    }
    this.journal.put(this, { last: text, mark, broken: breaks(words) });
    this.journal.append(this.element, inline(text).nodes);
  }

  /** Whether a line makes the last one the head of a table. */
  isHead(words) {
    return DELIMITERS.test(words) && /[|:]/.test(words) && cells(words).length === cells(this.last).length;
  }

  /** Take the last line out; return it. */
  cutHead() {
    if (this.mark) this.journal.cut(this.element, this.mark);
    else this.journal.remove(this.element);
    return this.last;
  }
}

/** Return the cells of a row, as they are written. */
function cells(row) {
  const parts = row.trim().replace(/^\|/, "").match(/(?:[^\\|]|\\[^]?)+|\|/g) ?? [];
  const texts = [""];
  for (const part of parts) {
    if (part === "|") texts.push("");
    else texts[texts.length - 1] = part;
  }
  if (texts.length > 1 && texts.at(-1).trim() === "") texts.pop();
  return texts.map((text) => text.trim().replaceAll("\\|", "|"));
}

export class Table {
  static of(frame, journal, head, delimiters) {
    Object.assign(frame, { className: "table", tabIndex: 0 }); // what scrolls must be reached by the keyboard
    const table = new Table();
    table.journal = journal;
    table.sides = cells(delimiters).map((cell) => [cell.startsWith(":"), cell.endsWith(":")]);
    table.body = make("tbody");
    const element = make("table");
    const top = make("thead");
    top.append(table.#row(head, "th"));
    element.append(top, table.body);
    frame.append(element);
    return table;
  }

  takes() {
    return false;
  }

  add(words) {
    if (this.body.children.length === ROWS) {
      this.#freeze();
      const body = make("tbody");
      this.journal.append(this.body.parentNode, body);
      this.journal.put(this, { body });
    }
    this.journal.append(this.body, this.#row(words, "td"));
  }

  /** Keep the columns as wide as they are: to look at all cells of a long table at each new row would take long. */
  #freeze() {
    const table = this.body.parentNode;
    const heads = [...table.querySelectorAll("th")];
    if (table.style.width || !table.offsetWidth) return; // in this order: the second one makes a layout
    const widths = heads.map((head) => head.offsetWidth);
    table.style.width = `${table.offsetWidth}px`;
    table.style.tableLayout = "fixed";
    heads.forEach((head, n) => (head.style.width = `${widths[n]}px`));
  }

  #row(words, name) {
    const row = make("tr");
    const texts = cells(words);
    const missing = this.sides.length - texts.length;
    for (let n = 0; n < Math.min(missing, MISSING); n += 1) texts.push("");
    texts.forEach((text, n) => {
      const [left, right] = this.sides[n] ?? [];
      const cell = make(name);
      if (right) cell.className = left ? "center" : "right";
      direct(this.journal, text, [cell]);
      cell.append(inline(text).nodes);
      row.append(cell);
    });
    return row;
  }
}

export class Code {
  /** `fence` is what it was begun with, null if it is indented. */
  constructor(element, journal, { fence, indent, language }) {
    Object.assign(this, { journal, fence, indent });
    this.blanks = ""; // lines at the end of indented code, which belong to it if more of it comes
    this.empty = true;
    this.closed = false; // its other fence has come
    element.className = "code";
    const bar = make("div", { className: "bar" });
    const copy = make("button", { type: "button", className: "copy", textContent: "Copy" });
    bar.append(make("span", { textContent: unescaped(language.split(/\s/)[0]) }), copy);
    this.code = make("code");
    const frame = make("pre", { tabIndex: 0 }); // what scrolls must be reached by the keyboard
    frame.append(this.code);
    element.append(bar, frame);
  }

  takes(line) {
    return this.fence === null ? line.blank || line.indent > 3 : !this.closed;
  }

  add(line, begun = false) {
    if (this.fence === null) return this.#addIndented(begun ? line.rest : line.dedent(4).rest, line.blank);
    const words = line.words.trimEnd();
    const closes = line.indent < 4 && words.length >= this.fence.length && words === this.fence[0].repeat(words.length);
    if (closes) return this.journal.put(this, { closed: true });
    return this.#write(line.dedent(this.indent).rest);
  }

  #addIndented(text, blank) {
    if (blank) return this.journal.put(this, { blanks: `${this.blanks}${text}\n` });
    this.#write(this.blanks + text);
    return this.journal.put(this, { blanks: "" });
  }

  #write(text) {
    this.journal.append(this.code, this.empty ? text : `\n${text}`);
    this.journal.put(this, { empty: false });
  }
}
