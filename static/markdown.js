// Markdown of the kind models write, as elements: nothing that a model or a user wrote is ever parsed as HTML.
//
// A subset of GitHub's Markdown (GFM), read line by line as it streams. In it are: headings of both kinds, paragraphs,
// quotations, lists, tasks in lists, tables, code of both kinds, rules; emphasis, strikethrough, code, links, images
// (as links to them), autolinks, escapes, entities, `<br>`.
//
// What is left out, and shows as the text that it is: HTML, definitions of links (`[a]: https://…`) and links by them,
// footnotes, links to anything but http, https and mailto, the box of a task that has no words beside it, and what is in
// a line (emphasis, code, a link) and does not end on it. Different on purpose, most of it to keep the time linear: each
// line break is one; quotations and lists in one another, emphasis in emphasis and pictures in pictures end at a depth of
// 20; a row of a table that is short of more than 50 cells stays short; and of a line of more than 2,000 characters that
// has something unclosed in it, the newest part is plain text until the line has doubled.

import { Blocks } from "./markdown-blocks.js";
import { inline } from "./markdown-inline.js";
import { Journal } from "./markdown-journal.js";

const LONG = 2000; // characters of a line that is not complete: what is settled of it is not read again

/**
 * A text as an element shows it. It is given in pieces, so that an answer is shown while it streams: each line is read
 * once when it is complete, and what is shown of it is not touched again.
 */
export class Writing {
  /** @param {HTMLElement} element what it shows by then goes away */
  constructor(element) {
    element.replaceChildren();
    this.rest = ""; // what is not read for good yet
    this.within = null; // the paragraph whose line goes on there, if what is read for good ends within a line
    this.tried = 0; // how long the rest was when it was last tried to read more of it for good
    this.read = 0; // how much of the rest was read for now; what is after it is shown as it is
    this.journal = new Journal();
    this.blocks = new Blocks(element, this.journal);
  }

  /** @param {string} piece what comes next */
  add(piece) {
    const lines = piece.split("\n");
    lines[0] = this.rest + lines[0];
    if (lines.length === 1 && this.read >= LONG && lines[0].length < 2 * this.read) {
      this.rest = lines[0];
      return this.blocks.addPlain(piece); // to read all of it again with each piece would not be linear
    }
    this.journal.takeBack();
    const last = lines.pop();
    for (const line of lines) this.#line(line);
    if (lines.length) this.tried = 0;
    this.rest = last.slice(this.#settle(last));
    this.read = this.rest.length;
    this.journal.begin();
    if (this.rest) this.#line(this.rest, true); // more of it may come, and make something else of it
  }

  /** No more will come: read what is shown as plain text. */
  end() {
    if (this.rest.length === this.read) return;
    this.read = 0;
    this.add("");
  }

  #line(line, unfinished = false) {
    if (!this.within) return this.blocks.add(line);
    this.journal.append(this.within, inline(line).nodes);
    if (!unfinished) this.within = null;
  }

  /** Read the beginning of a long line for good, if nothing that follows can change it; return how much that is. */
  #settle(line) {
    if (line.length < LONG || line.length < 2 * this.tried) return 0;
    this.tried = line.length;
    const cut = line.lastIndexOf(" ", line.length - LONG / 4) + 1;
    const { open } = inline(line.slice(0, cut));
    if (open || !cut) return 0;
    if (this.within) {
      this.#line(line.slice(0, cut), true);
    } else {
      if (!this.blocks.isParagraph(line.slice(0, cut))) return 0;
      this.blocks.add(line.slice(0, cut));
      this.within = this.blocks.paragraph.element;
      this.within.append(" ");
    }
    this.tried = 0;
    return cut;
  }
}
