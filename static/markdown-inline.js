// What is in a line: emphasis, code, links. Its time is linear: CommonMark's algorithm with a stack of delimiters.

import { Delimiters, roles } from "./markdown-emphasis.js";
import { entity, linkAt, linkFor, urlAt } from "./markdown-links.js";

const SPECIAL = /[\\`*_~[\]!<&@]|https?:\/\/|www\./gi;
const ESCAPED = /\\[!-/:-@[-`{-~]/y;
const RUN = /`+/g;
const BREAK = /<br\s*\/?>/iy;
const BETWEEN = /<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*|[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)>/iy;

/** Return a line's text as elements, and whether more of the line could make something else of them. */
export function inline(text) {
  return new Inline(text).read();
}

class Inline {
  constructor(text) {
    this.text = text;
    this.nodes = document.createDocumentFragment();
    this.at = 0;
    this.plain = 0; // where the text begins that is not written yet
    this.delimiters = new Delimiters();
    this.brackets = []; // those that may open a link
    this.lastClose = text.lastIndexOf(")");
    this.cut = false; // whether the text ends within the target of a link
    this.unclosed = new Set(); // lengths of runs of backticks that no other run of theirs follows
  }

  read() {
    SPECIAL.lastIndex = 0;
    for (let found; (found = this.#next()); ) this.#special(found);
    this.#flush(this.text.length);
    this.delimiters.emphasize(null);
    const open = this.cut || this.brackets.length > 0 || this.unclosed.size > 0 || this.delimiters.open;
    this.nodes.normalize();
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
    RUN.lastIndex = this.at;
    const { length } = RUN.exec(this.text)[0];
    const begin = this.at + length;
    let close = null;
    if (!this.unclosed.has(length)) while ((close = RUN.exec(this.text)) && close[0].length !== length);
    if (!close) {
      this.unclosed.add(length);
      this.at = begin;
      return;
    }
    const inside = this.text.slice(begin, close.index);
    const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
    const element = document.createElement("code");
    element.textContent = padded ? inside.slice(1, -1) : inside;
    this.#write(element, RUN.lastIndex);
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
    this.brackets.push({ node, image, active: true, delimiter: this.delimiters.last });
  }

  #closeBracket() {
    const opener = this.brackets.pop();
    if (!opener?.active) return;
    const link = linkAt(this.text, this.at + 1);
    this.cut ||= !link && this.text[this.at + 1] === "(" && this.at > this.lastClose;
    const element = link && linkFor(link.target, link.title);
    if (!element) return;
    this.#flush();
    this.delimiters.emphasize(opener.delimiter); // what is in the label is closed by nothing outside of it
    this.delimiters.forget(opener.delimiter);
    while (opener.node.nextSibling) element.append(opener.node.nextSibling);
    opener.node.remove();
    for (const inner of element.querySelectorAll("a")) inner.replaceWith(...inner.childNodes); // no link in a link
    if (opener.image && !element.textContent) element.textContent = link.target;
    if (!opener.image) for (const bracket of this.brackets) bracket.active &&= bracket.image;
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
    const found = urlAt(this.text, this.at, mark, this.plain);
    if (!found) return;
    const element = linkFor(found.target);
    element.textContent = this.text.slice(found.begin, found.end);
    this.#write(element, found.end, found.begin);
  }
}
