// Markdown of the kind models write, as DOM nodes: nothing that a model or a user wrote is ever parsed as HTML.

const FENCE = /^ {0,3}(`{3,}(?!.*`)|~{3,})/;
const DEEPEST = 20; // quotations in quotations
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

/**
 * Show a text in an element. Called again with a longer text it replaces only the blocks that have changed, so that an
 * answer can be rendered while it streams.
 *
 * @param {HTMLElement & {sources?: string[]}} element
 * @param {string} text
 * @param {number} depth in how many quotations and lists it stands
 */
export function render(element, text, depth = 0) {
  const blocks = split(text);
  const sources = element.sources ?? [];
  let same = 0;
  while (same < blocks.length && blocks[same] === sources[same]) same += 1;
  while (element.childNodes.length > same) element.lastChild.remove();
  element.append(...blocks.slice(same).map((source) => block(source, depth)));
  element.sources = blocks;
}

/** Split a text into blocks: code, lists, headings, quotations, paragraphs. */
function split(text) {
  const blocks = [];
  let fence = null; // what ends the code block that is open
  let open = false; // whether the next line may go on with the last block
  for (const line of text.split("\n")) {
    const blank = !line.trim();
    if (fence) {
      blocks[blocks.length - 1] += `\n${line}`;
      if (line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "")) [fence, open] = [null, false];
      continue;
    }
    if (open && kind(blocks.at(-1)) === "list" && (blank || /^\s{2,}/.test(line))) {
      blocks[blocks.length - 1] += `\n${line}`; // whatever it is, it is a part of an item
      continue;
    }
    fence = line.match(FENCE)?.[1] ?? null;
    if (open && !fence && !blank && continues(blocks.at(-1), line)) blocks[blocks.length - 1] += `\n${line}`;
    else if (!blank) blocks.push(line);
    // A list may have blank lines between its items; a heading is one line.
    open = blank ? open && kind(blocks.at(-1)) === "list" : kind(line) !== "heading";
  }
  return blocks;
}

function kind(line) {
  if (FENCE.test(line.split("\n")[0])) return "code";
  if (/^#{1,6} /.test(line)) return "heading";
  if (/^ {0,3}((\* *){3,}|(- *){3,}|(_ *){3,})$/.test(line.split("\n")[0])) return "rule";
  if (/^\s*([-*+]|\d{1,9}[.)]) /.test(line)) return "list";
  if (/^> ?/.test(line)) return "quote";
  if (/^\s*\|.*\|\s*$/.test(line.split("\n")[0])) return "table";
  return "paragraph";
}

function continues(block, line) {
  const [before, now] = [kind(block), kind(line)];
  if (before === "list") return now === "list" ? ordered(block) === ordered(line) || /^\s{2,}/.test(line) : /^\s/.test(line);
  return before === now && now !== "rule";
}

function ordered(line) {
  return /^\s*\d/.test(line);
}

function block(source, depth) {
  const type = kind(source);
  if (type === "code") return code(source);
  if (type === "heading") {
    const marks = source.match(/^#+/)[0];
    return make(`h${Math.min(marks.length + 2, 6)}`, source.slice(marks.length).replace(/#+\s*$/, "").trim());
  }
  if (type === "rule") return document.createElement("hr");
  if (type === "list") return list(source.trimEnd().split("\n"), depth);
  if (type === "table") return table(source.split("\n"));
  if (type === "quote" && depth < DEEPEST) {
    const quote = document.createElement("blockquote");
    render(quote, source.replace(/^> ?/gm, ""), depth + 1);
    return quote;
  }
  return make("p", source);
}

function code(source) {
  const lines = source.split("\n").slice(1);
  if (/^\s*(`{3,}|~{3,})\s*$/.test(lines.at(-1) ?? "")) lines.pop();
  const pre = document.createElement("pre");
  pre.tabIndex = 0; // what scrolls must be reached by the keyboard
  const inner = document.createElement("code");
  inner.textContent = lines.join("\n");
  pre.append(inner);
  return pre;
}

/** Build a list of lines; lines that are indented more than its first one belong to the item above them. */
function list(lines, nesting) {
  const element = document.createElement(ordered(lines[0]) ? "ol" : "ul");
  if (ordered(lines[0])) element.start = parseInt(lines[0], 10);
  const depth = lines[0].search(/\S/);
  let inner = [];
  const finish = () => {
    const indent = Math.min(...inner.filter((line) => line.trim()).map((line) => line.search(/\S/)));
    const blocks = split(inner.map((line) => line.slice(indent)).join("\n"));
    if (nesting < DEEPEST) element.lastChild?.append(...blocks.map((source) => block(source, nesting + 1)));
    inner = [];
  };
  for (const line of lines) {
    if (element.lastChild && (line.search(/\S/) > depth || kind(line) !== "list")) {
      inner.push(line);
    } else {
      finish();
      element.append(make("li", line.replace(/^\s*([-*+]|\d{1,9}[.)]) /, "")));
    }
  }
  finish();
  return element;
}

function table(lines) {
  const element = document.createElement("table");
  const isHead = /^[\s|:-]+$/.test(lines[1] ?? "");
  lines.forEach((line, n) => {
    if (isHead && n === 1) return;
    const cells = line.trim().replace(/^\||\|$/g, "").split("|");
    element.insertRow().append(...cells.map((cell) => make(isHead && n === 0 ? "th" : "td", cell.trim())));
  });
  const frame = document.createElement("div");
  [frame.className, frame.tabIndex] = ["table", 0]; // as for code: it may be wider than the page
  frame.append(element);
  return frame;
}

function make(name, text) {
  const element = document.createElement(name);
  element.dir = "auto";
  text.split("\n").forEach((line, n) => {
    if (n) element.append(document.createElement("br"));
    inline(element, line);
  });
  return element;
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
