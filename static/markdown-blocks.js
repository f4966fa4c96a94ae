// The blocks of a text, taken line by line. Quotations and lists are in one another, and stand on a stack; a paragraph,
// a table or code is in the last of them, and may be gone on with: that is `leaf`.

import { Code, heading, Paragraph, Table } from "./markdown-leaves.js";
import { Line } from "./markdown-line.js";

const DEEPEST = 20; // quotations and lists in one another
const FENCE = /^(`{3,}(?!`)(?!.*`)|~{3,})(.*)$/; // the first look ahead keeps the second one from being many
const HEADING = /^#{1,6}(?=[ \t]|$)/;
const RULE = /^(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^(=+|-+)[ \t]*$/;
const MARKER = /^(?:[-*+]|(\d{1,9})([.)]))(?=[ \t]|$)/;
const TODO = /^\[([ \txX])\](?=[ \t]+[^ \t])/;

export class Blocks {
  /** @param {HTMLElement} element @param {Journal} journal */
  constructor(element, journal) {
    this.journal = journal;
    this.stack = [{ type: "root", element }];
    this.leaf = null;
    this.outline = []; // the levels of the headings that the next one stands under
  }

  /** The paragraph that the next line may go on with, or null. */
  get paragraph() {
    return this.leaf instanceof Paragraph ? this.leaf : null;
  }

  get parent() {
    return this.stack.at(-1);
  }

  /** Whether a line would be a part of a paragraph, whatever comes after it. */
  isParagraph(text) {
    this.journal.begin();
    this.add(text);
    const is = this.paragraph !== null && !text.includes("|");
    this.journal.takeBack();
    return is;
  }

  /** Show more of a line as the text that it is, where that is a line of a paragraph or of code. */
  addPlain(text) {
    const place = this.paragraph?.element ?? this.leaf?.code;
    if (place) this.journal.append(place, text);
  }

  /** Add a line. */
  add(text) {
    const line = new Line(text);
    const matched = this.#match(line);
    const whole = matched === this.stack.length; // whether the line stands in all that is open
    if (whole && this.leaf?.takes(line)) return this.leaf.add(line);
    const lazy = this.paragraph && !whole;
    let open = whole; // whether the leaf is still to be gone on with
    let depth = matched;
    for (;;) {
      const begun = this.#begin(line, depth, open);
      if (!begun) break;
      if (begun === "leaf") return undefined;
      [open, depth] = [true, this.stack.length];
    }
    // An item that has nothing in it ends with a blank line, but its list does not.
    if (line.blank) return this.#close(this.stack[depth]?.type === "list" ? depth + 1 : depth);
    if (lazy && depth === matched) return this.paragraph.add(line.words);
    if (depth !== this.stack.length) this.#close(depth);
    if (open && (this.paragraph || this.leaf instanceof Table)) return this.leaf.add(line.words);
    return this.#put(new Paragraph(this.#block("p"), this.journal, this.#todo(line)), line.words);
  }

  /** Go through the open blocks that the line stands in; return how many these are. */
  #match(line) {
    let n = 1;
    for (; n < this.stack.length; n += 1) {
      const { type, indent } = this.stack[n];
      if (type === "quote") {
        if (line.indent > 3 || !line.words.startsWith(">")) break;
        line.dedent(3).skip(1).dedent(1);
      } else if (type === "item") {
        if (line.blank ? !this.stack[n].element.firstChild : line.indent < indent) break;
        line.dedent(indent);
      }
    }
    return this.stack[n - 1].type === "list" ? n - 1 : n; // a list is only in one of its items
  }

  /** Begin the block that the line begins, if it does; return whether that is a "leaf", or one that holds others. */
  #begin(line, depth, open) {
    const paragraph = open ? this.paragraph : null;
    if (line.indent > 3) {
      if (this.paragraph || line.blank) return null;
      this.#close(depth);
      return this.#code(line.dedent(4).rest, { fence: null, indent: 0, language: "" });
    }
    const words = line.words;
    if (words.startsWith(">") && depth < DEEPEST) {
      this.#close(depth);
      line.dedent(3).skip(1).dedent(1);
      return this.#push({ type: "quote", element: this.#block("blockquote") });
    }
    if (HEADING.test(words)) {
      this.#close(depth);
      heading(this.#headed(words.match(HEADING)[0].length), words, this.journal);
      return "leaf";
    }
    const fence = words.match(FENCE);
    if (fence) {
      this.#close(depth);
      return this.#code(null, { fence: fence[1], indent: line.indent, language: fence[2].trim() });
    }
    if (paragraph && UNDERLINE.test(words)) {
      const element = this.#headed(words[0] === "=" ? 1 : 2, { detached: true });
      element.dir = paragraph.element.dir;
      this.journal.exchange(paragraph.element, element);
      this.journal.put(this, { leaf: null });
      return "leaf";
    }
    if (paragraph?.isHead(words)) {
      const head = paragraph.cutHead();
      return this.#put(Table.of(this.#block("div"), this.journal, head, words));
    }
    if (RULE.test(words)) {
      this.#close(depth);
      this.#block("hr");
      return "leaf";
    }
    return this.#item(line, depth, paragraph);
  }

  #item(line, depth, paragraph) {
    const marker = line.words.match(MARKER);
    if (!marker || depth >= DEEPEST * 2) return null;
    const [mark, number] = [marker[0], marker[1]];
    const empty = line.words.length === mark.length || !line.words.slice(mark.length).trim();
    if (paragraph && (empty || (number && Number(number) !== 1))) return null; // a number in mid-sentence
    const before = line.indent;
    line.dedent(before).skip(mark.length);
    const space = empty || line.indent > 4 ? 1 : line.indent;
    line.dedent(space);
    const kind = number ? marker[2] : mark;
    const list = this.stack[depth]?.type === "list" && this.stack[depth].kind === kind ? depth + 1 : depth;
    this.#close(list);
    if (list === depth) {
      const element = this.#block(number ? "ol" : "ul");
      if (number) element.start = Number(number);
      this.#push({ type: "list", kind, element });
    }
    return this.#push({ type: "item", indent: before + mark.length + space, element: this.#block("li") });
  }

  #code(first, how) {
    const leaf = new Code(this.#block("div"), this.journal, how);
    this.journal.put(this, { leaf });
    if (first !== null) leaf.add(new Line(first), true);
    return "leaf";
  }

  /** Make an element at the end of the innermost block. */
  #block(name) {
    const element = document.createElement(name);
    this.journal.append(this.parent.element, element);
    return element;
  }

  #push(block) {
    this.journal.put(this, { stack: [...this.stack, block], leaf: null });
    return "block";
  }

  #put(leaf, first) {
    this.journal.put(this, { leaf });
    if (first !== undefined) leaf.add(first, this.stack);
    return "leaf";
  }

  /** Close the innermost blocks, all but so many, and what was in them. */
  #close(depth) {
    this.journal.put(this, { stack: this.stack.slice(0, depth), leaf: null });
  }

  /** Make a heading below those that it stands under: no level is left out, whatever was written. */
  #headed(level, { detached = false } = {}) {
    const outline = [...this.outline.filter((above) => above < level), level];
    this.journal.put(this, { outline });
    const name = `h${Math.min(outline.length + 2, 6)}`;
    return detached ? document.createElement(name) : this.#block(name);
  }

  /** Take the box of a task off the beginning of an item; return whether it is ticked, or null if there is none. */
  #todo(line) {
    const { type, element } = this.parent;
    const box = type === "item" && element.firstChild === element.lastChild && line.words.match(TODO);
    if (!box) return null;
    line.dedent(line.indent).skip(box[0].length);
    return box[1] !== " " && box[1] !== "\t";
  }
}
