// What is in a line: emphasis, code, links. Its time is linear: CommonMark's algorithm with a stack of delimiters.

import { Delimiters, roles } from "./markdown-emphasis.js";
import { entity, linkAt, linkFor, urlAt } from "./markdown-links.js";

const DEEPEST = 20; // pictures in one another; and how often one looks in vain for addresses in what may be one
const SPECIAL = /[\\`*_~[\]!<&@]|https?:\/\/|www\./gi;
const ESCAPED = /\\[!-/:-@[-`{-~]/y;
const RUN = /`+/g;
const BREAK = /<br\s*\/?>/iy;
const BETWEEN = /<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*|[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)>/iy;

/** Return a line's text as elements, and whether more of the line could make something else of them. */
export function inline(text) {
  return new Inline(text).read();
}

/** Return, by length, where the runs of backticks of a text are, the last one first. */
function runs(text) {
  const found = new Map();
  for (const { 0: run, index } of text.matchAll(RUN)) {
    if (!found.has(run.length)) found.set(run.length, []);
    found.get(run.length).push(index);
  }
  for (const places of found.values()) places.reverse();
  return found;
}

/** Make one of neighbouring texts, and remove empty ones. `normalize` does that too, but not in a linear time. */
function joinTexts(parent) {
  let first = null;
  let texts = [];
  const end = () => {
    if (first) first.data = texts.join("");
    if (first?.data === "") first.remove();
    first = null;
  };
  for (const child of [...parent.childNodes]) {
    if (child.nodeType !== Node.TEXT_NODE) {
      end();
      joinTexts(child);
    } else if (first) {
      texts.push(child.data);
      child.remove();
    } else {
      [first, texts] = [child, [child.data]];
    }
  }
  end();
}

class Inline {
  constructor(text) {
    this.text = text;
    this.nodes = document.createDocumentFragment();
    this.at = 0;
    this.plain = 0; // where the text begins that is not written yet
    this.delimiters = new Delimiters();
    this.brackets = []; // those that may open a link
    this.linked = 0; // how many of them, the first ones, have a link in them: links are not in one another
    this.lastClose = text.lastIndexOf(")");
    this.cut = false; // whether the text ends within the target of a link
    this.runs = null; // by length: where runs of backticks are that nothing has looked at yet
    this.unclosed = false; // whether there was a run of backticks that no other run of its length follows
    this.vain = { end: 0, times: 0 }; // up to where, and how often, an address was looked for that is none
  }

  read() {
    SPECIAL.lastIndex = 0;
    for (let found; (found = this.#next()); ) this.#special(found);
    this.#flush(this.text.length);
    this.delimiters.emphasize(null);
    const open = this.cut || this.brackets.length > 0 || this.unclosed || this.delimiters.open;
    joinTexts(this.nodes);
    return { nodes: this.nodes, open };
  }

  #next() {
    SPECIAL.lastIndex = this.at;
    const found = SPECIAL.exec(this.text);
    if (found) this.at = found.index;
    return found?.[0];
  }

  #special(mark) {
    const begun = this.at;
    if (mark === "\\") this.#escape();
    else if (mark === "`") this.#code();
    else if (mark === "*" || mark === "_" || mark === "~") this.#delimiter(mark);
    else if (mark === "[") this.#bracket(false);
    else if (mark === "!") this.#bracket(true);
    else if (mark === "]") this.#closeBracket();
    else if (mark === "<") this.#angle();
    else if (mark === "&") this.#entity();
    else this.#url(mark);
    if (this.at === begun) this.at += mark.length; // it is text
  }

  /** Write the text up to here. */
  #flush(end = this.at) {
    if (end > this.plain) this.nodes.append(this.text.slice(this.plain, end));
    this.plain = end;
  }

  /** Write a node in place of what is written up to `end`. */
  #write(node, end, begin = this.at) {
    this.#flush(begin);
    this.nodes.append(node);
    this.at = this.plain = end;
    return this.nodes.lastChild;
  }

  #sticky(pattern) {
    pattern.lastIndex = this.at;
    return pattern.exec(this.text);
  }

  #escape() {
    if (this.#sticky(ESCAPED)) this.#write(this.text[this.at + 1], this.at + 2);
  }

  #code() {
    this.runs ??= runs(this.text);
    let begin = this.at;
    while (this.text[begin] === "`") begin += 1;
    const length = begin - this.at;
    const closers = this.runs.get(length) ?? [];
    while (closers.length && closers.at(-1) < begin) closers.pop();
    if (!closers.length) {
      this.unclosed = true;
      this.at = begin;
      return;
    }
    const close = closers.pop();
    const inside = this.text.slice(begin, close);
    const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
    const element = document.createElement("code");
    element.textContent = padded ? inside.slice(1, -1) : inside;
    this.#write(element, close + length);
  }

  #delimiter(mark) {
    let end = this.at;
    while (this.text[end] === mark) end += 1;
    const length = end - this.at;
    const { opens, closes } = roles(mark, this.text[this.at - 1] ?? " ", this.text[end] ?? " ");
    if ((!opens && !closes) || (mark === "~" && length > 2)) {
      this.at = end;
      return;
    }
    const node = this.#write(document.createTextNode(this.text.slice(this.at, end)), end);
    this.delimiters.push({ mark, node, length, whole: length, opens, closes });
  }

  #bracket(image) {
    if (image && this.text[this.at + 1] !== "[") return;
    const end = this.at + (image ? 2 : 1);
    const node = this.#write(document.createTextNode(image ? "![" : "["), end);
    this.brackets.push({ node, image, delimiter: this.delimiters.last, depth: 0 });
  }

  #closeBracket() {
    const opener = this.brackets.pop();
    if (!opener) return;
    const outer = this.brackets.at(-1) ?? {};
    outer.depth = Math.max(outer.depth, opener.depth);
    const free = opener.image ? opener.depth < DEEPEST : this.brackets.length >= this.linked;
    this.linked = Math.min(this.linked, this.brackets.length);
    if (!free) return;
    const link = linkAt(this.text, this.at + 1);
    this.cut ||= !link && this.text[this.at + 1] === "(" && this.at > this.lastClose;
    const element = link && linkFor(link.target, link.title);
    if (!element) return;
    this.#flush();
    outer.depth = Math.max(outer.depth, opener.depth + 1);
    this.delimiters.emphasize(opener.delimiter); // what is in the label is closed by nothing outside of it
    this.delimiters.forget(opener.delimiter);
    while (opener.node.nextSibling) element.append(opener.node.nextSibling);
    opener.node.remove();
    for (const inner of element.querySelectorAll("a")) inner.replaceWith(...inner.childNodes); // no link in a link
    if (opener.image && !element.textContent) element.textContent = link.target;
    if (!opener.image) this.linked = this.brackets.length;
    this.#write(element, link.end);
  }

  #angle() {
    if (this.#sticky(BREAK)) {
      this.#write(document.createElement("br"), BREAK.lastIndex);
      return;
    }
    const [, address] = this.#sticky(BETWEEN) ?? [];
    if (!address) return;
    const element = linkFor(/^[a-z][a-z0-9+.-]*:/i.test(address) ? address : `mailto:${address}`);
    if (!element) return;
    element.textContent = address;
    this.#write(element, BETWEEN.lastIndex);
  }

  #entity() {
    const found = entity(this.text, this.at);
    if (found) this.#write(found.text, found.end);
  }

  #url(mark) {
    const again = this.at < this.vain.end;
    if (mark !== "@" && again && this.vain.times === DEEPEST) return;
    const found = urlAt(this.text, this.at, mark, this.plain);
    if (!found?.target) {
      if (found) this.vain = { end: found.end, times: again ? this.vain.times + 1 : 1 };
      return;
    }
    const element = linkFor(found.target);
    element.textContent = this.text.slice(found.begin, found.end);
    this.#write(element, found.end, found.begin);
  }
}
