// Markdown of the kind models write, as DOM nodes: nothing that a model or a user wrote is ever parsed as HTML.

const FENCE = /^ {0,3}(`{3,}(?!`|.*`)|~{3,})/;
const ITEM = /^\s*([-*+]|\d{1,9}[.)]) /;
const RIGHT_TO_LEFT = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u;
const DEEPEST = 20; // quotations and lists in one another
const INLINE = new RegExp(
  [
    "\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+.!|>~-])",
    "(?<code>`+)(?<codeText>.+?)\\k<code>",
    "\\[(?<label>[^\\]\\n]+)\\]\\((?<target>[^()\\s]+(?:\\([^()\\s]*\\))?)(?: +\"[^\"]*\")?\\)",
    "<(?<address>https?://[^\\s<>]+)>",
    "(?<url>https?://[^\\s<>\"']*[^\\s<>\"'.,;:!?)\\]])",
    "(?<both>\\*\\*\\*)(?=\\S)(?<bothText>[^*]+)\\k<both>",
    "(?<strong>\\*\\*|\\b__)(?=\\S)(?<strongText>.+?\\S?)\\k<strong>(?!\\k<strong>)",
    "(?<em>\\*|\\b_)(?=\\S)(?<emText>[^*_]*?[^*_\\s])(?:\\*|_\\b)",
  ].join("|"),
);

const written = new WeakMap(); // by element: what it shows, and how that goes on
let journal = null; // how to take back what the line that is still being written changes

/**
 * Show a text in an element. Called again with a longer text it goes on from the last line, so that an answer can be
 * rendered while it streams: each line is parsed once when it is complete, whatever it is a part of.
 *
 * @param {HTMLElement} element
 * @param {string} text
 */
export function render(element, text) {
  let shown = written.get(element);
  if (!shown || text.slice(0, shown.text.length) !== shown.text) {
    element.replaceChildren();
    written.set(element, (shown = { end: 0, undo: [], write: writer(element, 0) }));
  }
  for (const takeBack of shown.undo.reverse()) takeBack();
  const lines = text.slice(shown.end).split("\n");
  const last = lines.pop();
  lines.forEach(shown.write);
  journal = [];
  shown.write(last); // more of it may come, and make something else of it
  Object.assign(shown, { text, end: text.length - last.length, undo: journal });
  journal = null;
}

/** Change an object, so that it can be taken back. */
function put(object, changes) {
  const before = Object.fromEntries(Object.keys(changes).map((name) => [name, object[name]]));
  journal?.push(() => Object.assign(object, before));
  Object.assign(object, changes);
}

/** Append to an element, so that it can be taken back. */
function add(element, ...nodes) {
  const last = element.lastChild;
  journal?.push(() => {
    while (element.lastChild !== last) element.lastChild.remove();
  });
  element.append(...nodes);
}

/**
 * Return a function that takes a text line by line and shows it as blocks: code, lists, headings, quotations,
 * paragraphs.
 */
function writer(element, depth) {
  const at = {
    block: null, // the last one
    open: false, // whether the next line may go on with it
    fence: null, // what ends it, if it is code
  };
  return (line) => {
    const words = line.trim();
    if (at.fence) {
      if (words.startsWith(at.fence) && !words.replaceAll(at.fence[0], "")) put(at, { fence: null, open: false });
      else at.block.add(line);
      return;
    }
    if (at.open && at.block.type === "list" && (!words || /^\s{2,}/.test(line))) {
      at.block.add(line); // whatever it is, it is a part of an item
      return;
    }
    let type = kind(line);
    if (depth >= DEEPEST && ["list", "quote"].includes(type)) type = "paragraph";
    if (at.open && words && continues(at.block, line, type)) at.block.add(line);
    else if (words) put(at, { block: { type, ordered: ordered(line), add: BLOCKS[type](element, line, depth) } });
    const fence = type === "code" ? line.match(FENCE)[1] : null;
    put(at, { fence, open: words !== "" && type !== "heading" }); // a heading is one line
  };
}

function kind(line) {
  if (FENCE.test(line)) return "code";
  if (/^#{1,6} /.test(line)) return "heading";
  if (/^ {0,3}((\* *){3,}|(- *){3,}|(_ *){3,})$/.test(line)) return "rule";
  if (ITEM.test(line)) return "list";
  if (/^> ?/.test(line)) return "quote";
  if (/^\s*\|.*\|\s*$/.test(line)) return "table";
  return "paragraph";
}

function continues(block, line, type) {
  if (type === "code") return false;
  if (block.type !== "list") return block.type === type && type !== "rule";
  return type === "list" ? block.ordered === ordered(line) || /^\s{2,}/.test(line) : /^\s/.test(line);
}

function ordered(line) {
  return /^\s*\d/.test(line);
}

// Each begins a block with its first line, and returns what takes its other lines.
const BLOCKS = { code, heading, rule, list, quote, table, paragraph };

function code(parent) {
  const pre = document.createElement("pre");
  pre.tabIndex = 0; // what scrolls must be reached by the keyboard
  const inner = document.createElement("code");
  pre.append(inner);
  add(parent, pre);
  return (line) => add(inner, inner.lastChild ? `\n${line}` : line);
}

function heading(parent, line) {
  const marks = line.match(/^#+/)[0];
  const words = line.slice(marks.length).trim();
  add(parent, make(`h${Math.min(marks.length + 2, 6)}`, words.replace(/(^|[ \t])#+$/, "").trimEnd()));
}

function rule(parent) {
  add(parent, document.createElement("hr"));
}

/** Lines that are indented more than the list's first one belong to the item above them. */
function list(parent, first, depth) {
  const element = document.createElement(ordered(first) ? "ol" : "ul");
  if (ordered(first)) element.start = parseInt(first, 10);
  add(parent, element);
  const margin = first.search(/\S/);
  const at = { item: null, write: null, indent: 0, blank: 0 }; // `write` takes what else is in the item
  const take = (line) => {
    const indent = line.search(/\S/);
    if (indent < 0) return put(at, { blank: at.blank + 1 }); // of which item, the next line tells
    if (at.item && (indent > margin || kind(line) !== "list")) {
      if (!at.write) put(at, { indent, write: writer(at.item, depth + 1) });
      else for (let n = 0; n < at.blank; n += 1) at.write("");
      at.write(line.slice(Math.min(indent, at.indent)));
    } else {
      put(at, { item: make("li", line.replace(ITEM, "")), write: null });
      add(element, at.item);
    }
    put(at, { blank: 0 });
  };
  take(first);
  return take;
}

function quote(parent, first, depth) {
  const element = document.createElement("blockquote");
  add(parent, element);
  const write = writer(element, depth + 1);
  const take = (line) => write(line.replace(/^> ?/, ""));
  take(first);
  return take;
}

function table(parent, first) {
  const frame = document.createElement("div");
  [frame.className, frame.tabIndex] = ["table", 0]; // as for code: it may be wider than the page
  const body = document.createElement("tbody");
  const element = document.createElement("table");
  element.append(body);
  frame.append(element);
  add(parent, frame);
  const top = row(first, "td");
  add(body, top);
  const at = { second: true };
  return (line) => {
    if (at.second && /^[\s|:-]+$/.test(line)) {
      const head = row(first, "th"); // what is above such a line
      journal?.push(() => head.replaceWith(top));
      top.replaceWith(head);
    } else {
      add(body, row(line, "td"));
    }
    put(at, { second: false });
  };
}

function row(line, name) {
  const element = document.createElement("tr");
  const cells = line.trim().replace(/^\||\|$/g, "").split("|");
  element.append(...cells.map((cell) => make(name, cell.trim())));
  return element;
}

function paragraph(parent, first) {
  const element = make("p", first);
  add(parent, element);
  return (line) => {
    const piece = document.createDocumentFragment();
    inline(piece, line);
    direct(element, line);
    add(element, document.createElement("br"), piece);
  };
}

function make(name, line) {
  const element = document.createElement(name);
  direct(element, line);
  inline(element, line);
  return element;
}

/** Write an element in the direction of its first letter: `dir="auto"` looks through all of it at each new line. */
function direct(element, line) {
  const letter = element.dir ? null : line.match(/\p{L}/u)?.[0];
  if (!letter) return;
  journal?.push(() => element.removeAttribute("dir"));
  element.dir = RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr";
}

function inline(element, text) {
  for (let rest = text; rest; ) {
    const found = rest.match(INLINE);
    if (!found) return element.append(rest);
    element.append(rest.slice(0, found.index), span(found.groups, found[0]));
    rest = rest.slice(found.index + found[0].length);
  }
}

function span(found, source) {
  if (found.escaped) return found.escaped;
  if (found.code) {
    const element = document.createElement("code");
    element.textContent = found.codeText;
    return element;
  }
  if (found.url || found.address) return link(found.url ?? found.address, found.url ?? found.address);
  if (found.label) return /^https?:\/\//i.test(found.target) ? link(found.target, found.label) : source;
  const element = document.createElement(found.strong || found.both ? "strong" : "em");
  if (found.both) element.append(document.createElement("em"));
  inline(element.firstChild ?? element, found.bothText ?? found.strongText ?? found.emText);
  return element;
}

function link(target, label) {
  const element = document.createElement("a");
  element.href = target;
  element.target = "_blank";
  element.rel = "noopener noreferrer";
  element.textContent = label;
  return element;
}
