// Markdown of the kind models write, as DOM nodes: nothing that a model or a user wrote is ever parsed as HTML.

const INLINE = new RegExp(
  [
    "(?<code>`+)(?<codeText>.+?)\\k<code>",
    "\\[(?<label>[^\\]\\n]+)\\]\\((?<target>[^()\\s]+(?:\\([^()\\s]*\\))?)\\)",
    "(?<url>https?://[^\\s<>\"']*[^\\s<>\"'.,;:!?)\\]])",
    "(?<strong>\\*\\*|__)(?=\\S)(?<strongText>.+?\\S?)\\k<strong>",
    "(?<em>\\*|\\b_)(?=\\S)(?<emText>[^*_]*?[^*_\\s])(?:\\*|_\\b)",
  ].join("|"),
);

/**
 * Show a text in an element. Called again with a longer text it replaces only the blocks that have changed, so that an
 * answer can be rendered while it streams.
 *
 * @param {HTMLElement & {sources?: string[]}} element
 * @param {string} text
 */
export function render(element, text) {
  const blocks = split(text);
  const sources = element.sources ?? [];
  let same = 0;
  while (same < blocks.length && blocks[same] === sources[same]) same += 1;
  while (element.childNodes.length > same) element.lastChild.remove();
  element.append(...blocks.slice(same).map(block));
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
      if (line.trim().startsWith(fence)) [fence, open] = [null, false];
      continue;
    }
    fence = line.match(/^ {0,3}(`{3,}|~{3,})/)?.[1] ?? null;
    if (open && !fence && !blank && continues(blocks.at(-1), line)) blocks[blocks.length - 1] += `\n${line}`;
    else if (!blank) blocks.push(line);
    // A list may have blank lines between its items; a heading is one line.
    open = blank ? open && kind(blocks.at(-1)) === "list" : kind(line) !== "heading";
  }
  return blocks;
}

function kind(line) {
  if (/^ {0,3}(`{3,}|~{3,})/.test(line)) return "code";
  if (/^#{1,6} /.test(line)) return "heading";
  if (/^ {0,3}((\* *){3,}|(- *){3,}|(_ *){3,})$/.test(line.split("\n")[0])) return "rule";
  if (/^\s*([-*+]|\d{1,9}[.)]) /.test(line)) return "list";
  if (/^> ?/.test(line)) return "quote";
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

function block(source) {
  const type = kind(source);
  if (type === "code") return code(source);
  if (type === "heading") {
    const marks = source.match(/^#+/)[0];
    return make(`h${Math.min(marks.length + 2, 6)}`, source.slice(marks.length).replace(/#+\s*$/, "").trim());
  }
  if (type === "rule") return document.createElement("hr");
  if (type === "list") return list(source.split("\n"));
  if (type === "quote") {
    const quote = document.createElement("blockquote");
    render(quote, source.replace(/^> ?/gm, ""));
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
function list(lines) {
  const element = document.createElement(ordered(lines[0]) ? "ol" : "ul");
  if (ordered(lines[0])) element.start = parseInt(lines[0], 10);
  const depth = lines[0].search(/\S/);
  let inner = [];
  const finish = () => {
    if (!inner.length) return;
    element.lastChild.append(kind(inner[0]) === "list" ? list(inner) : make("p", inner.map((l) => l.trim()).join("\n")));
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

function make(name, text) {
  const element = document.createElement(name);
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
  if (found.code) {
    const element = document.createElement("code");
    element.textContent = found.codeText;
    return element;
  }
  if (found.url) return link(found.url, found.url);
  if (found.label) return /^https?:\/\//i.test(found.target) ? link(found.target, found.label) : source;
  const element = document.createElement(found.strong ? "strong" : "em");
  inline(element, found.strongText ?? found.emText);
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
