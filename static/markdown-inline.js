// What is in a line: emphasis, code, links. Its time is linear: CommonMark's algorithm with a stack of delimiters.

import { entity, linkAt, linkFor, urlAt } from "./markdown-links.js";

const SPECIAL = /[\\`*_~[\]!<&@]|https?:\/\/|www\./gi;
const ESCAPED = /\\[!-/:-@[-`{-~]/y;
const RUN = /`+/g;
const BREAK = /<br\s*\/?>/iy;
const BETWEEN = /<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*|[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)>/iy;
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;

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
    this.delimiters = null; // the last one; each knows the one before it and the one after it
    this.brackets = []; // those that may open a link
    this.lastClose = text.lastIndexOf(")");
    this.cut = false; // whether the text ends within the target of a link
    this.unclosed = new Set(); // lengths of runs of backticks that no other run of theirs follows
  }

  read() {
    SPECIAL.lastIndex = 0;
    for (let found; (found = this.#next()); ) this.#special(found);
    this.#flush(this.text.length);
    this.#emphasize(null);
    let open = this.cut || this.brackets.length > 0 || this.unclosed.size > 0;
    for (let one = this.delimiters; one && !open; one = one.previous) open = one.opens;
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
    const [before, after] = [this.text[this.at - 1] ?? " ", this.text[end] ?? " "];
    const [left, right] = [flanks(after, before), flanks(before, after)];
    let [opens, closes] = [left, right];
    if (mark === "_") {
      opens = left && (!right || PUNCTUATION.test(before));
      closes = right && (!left || PUNCTUATION.test(after));
    }
    const length = end - this.at;
    if ((!opens && !closes) || (mark === "~" && length > 2)) {
      this.at = end;
      return;
    }
    const node = this.#write(document.createTextNode(this.text.slice(this.at, end)), end);
    const one = { mark, node, length, whole: length, opens, closes, previous: this.delimiters, next: null };
    if (this.delimiters) this.delimiters.next = one;
    this.delimiters = one;
  }

  #bracket(image) {
    if (image && this.text[this.at + 1] !== "[") return;
    const end = this.at + (image ? 2 : 1);
    const node = this.#write(document.createTextNode(image ? "![" : "["), end);
    this.brackets.push({ node, image, active: true, delimiters: this.delimiters });
  }

  #closeBracket() {
    const opener = this.brackets.pop();
    if (!opener?.active) return;
    const link = linkAt(this.text, this.at + 1);
    this.cut ||= !link && this.text[this.at + 1] === "(" && this.at > this.lastClose;
    const element = link && linkFor(link.target, link.title);
    if (!element) return;
    this.#flush();
    this.#emphasize(opener.delimiters); // what is in the label, and is closed by nothing outside of it
    this.delimiters = opener.delimiters;
    if (this.delimiters) this.delimiters.next = null;
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

  /** Make emphasis of the delimiters after `bottom`. */
  #emphasize(bottom) {
    const bottoms = new Map(); // by kind of closer: below which delimiter there is no opener for it
    let closer = bottom ? bottom.next : first(this.delimiters);
    while (closer) {
      if (!closer.closes) {
        closer = closer.next;
        continue;
      }
      const kind = `${closer.mark}${closer.opens}${closer.mark === "~" ? closer.length : closer.whole % 3}`;
      const floor = bottoms.get(kind) ?? bottom;
      let opener = closer.previous;
      while (opener && opener !== bottom && opener !== floor && !fit(opener, closer)) opener = opener.previous;
      if (!opener || opener === bottom || opener === floor) {
        bottoms.set(kind, closer.previous);
        const next = closer.next;
        if (!closer.opens) this.#unlink(closer);
        closer = next;
        continue;
      }
      closer = this.#wrap(opener, closer);
    }
  }

  /** Put what is between two delimiters into an element; return the next closer. */
  #wrap(opener, closer) {
    const used = closer.mark === "~" ? closer.length : Math.min(2, opener.length, closer.length);
    const element = document.createElement(closer.mark === "~" ? "del" : used === 2 ? "strong" : "em");
    while (opener.node.nextSibling !== closer.node) element.append(opener.node.nextSibling);
    opener.node.after(element);
    for (let one = closer.previous; one !== opener; one = one.previous) this.#unlink(one);
    for (const one of [opener, closer]) {
      one.length -= used;
      one.node.data = one.node.data.slice(used);
      if (one.length) continue;
      one.node.remove();
      this.#unlink(one);
    }
    return closer.length ? closer : closer.next;
  }

  #unlink(one) {
    if (one.previous) one.previous.next = one.next;
    if (one.next) one.next.previous = one.previous;
    else this.delimiters = one.previous;
  }
}

/** Whether delimiters of these two runs may be the two ends of something. */
function fit(opener, closer) {
  if (opener.mark !== closer.mark || !opener.opens) return false;
  if (opener.mark === "~") return opener.length === closer.length;
  const both = closer.opens || opener.closes; // a run that can be both must not be matched with too long or short a one
  return !(both && closer.whole % 3 !== 0 && (opener.whole + closer.whole) % 3 === 0);
}

function first(delimiter) {
  while (delimiter?.previous) delimiter = delimiter.previous;
  return delimiter;
}

/** Whether a run of delimiters before `inner` and after `outer` stands at the side of a word. */
function flanks(inner, outer) {
  if (SPACE.test(inner)) return false;
  return !PUNCTUATION.test(inner) || SPACE.test(outer) || PUNCTUATION.test(outer);
}
