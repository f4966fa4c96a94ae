// Links, addresses that stand in the text, and entities.

const SAFE = /^(?:https?|mailto):/i;
const NAMED = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z][a-z\d]{1,31}));/iy;
const ESCAPES = /\\([!-/:-@[-`{-~])|&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z][a-z\d]{1,31});/gi;
const SPACES = /[ \t]*/y;
const DESTINATION = /<((?:[^<>\\]|\\.)*)>/y;
const TITLE = /"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|\(((?:[^()\\]|\\.)*)\)/y;
const TRAIL = /(?:[?!.,:*_~'"\])]|&[a-z\d]+;|;)$/i;
const ADDRESS = /(?:[^\s<\]]|\](?![[(]))*/y;
const MAILBOX = /[a-z\d._+-]+$/i;
const HOST = /@[a-z\d_-]+(?:\.[a-z\d_-]+)+/iy;

/** Make the element of a link, or nothing if it leads to anything that is not known to be harmless. */
export function linkFor(target, title) {
  if (!SAFE.test(target)) return null;
  const element = document.createElement("a");
  Object.assign(element, { href: target, target: "_blank", rel: "noopener noreferrer" });
  if (title) element.title = title;
  return element;
}

/** Read the `(target "title")` of a link; return where it leads and where it ends, or null. */
export function linkAt(text, at) {
  if (text[at] !== "(") return null;
  const destination = destinationAt(text, skip(text, at + 1));
  if (!destination) return null;
  let end = skip(text, destination.end);
  let title = "";
  if (end > destination.end) {
    TITLE.lastIndex = end;
    const found = TITLE.exec(text);
    if (found) [title, end] = [found[1] ?? found[2] ?? found[3], skip(text, TITLE.lastIndex)];
  }
  if (text[end] !== ")") return null;
  return { target: unescaped(destination.target), title: unescaped(title), end: end + 1 };
}

function skip(text, at) {
  SPACES.lastIndex = at;
  SPACES.exec(text);
  return SPACES.lastIndex;
}

function destinationAt(text, at) {
  if (text[at] === "<") {
    DESTINATION.lastIndex = at;
    const found = DESTINATION.exec(text);
    return found && { target: found[1], end: DESTINATION.lastIndex };
  }
  let [end, depth] = [at, 0];
  for (; end < text.length && text[end] > " " && text[end] !== "\x7f"; end += 1) {
    if (text[end] === "\\" && /[!-/:-@[-`{-~]/.test(text[end + 1])) end += 1;
    else if (text[end] === "(") depth += 1;
    else if (text[end] === ")" && depth-- === 0) break;
    if (depth > 32) return null; // as CommonMark's own parsers do it: or time would not be linear
  }
  return depth > 0 ? null : { target: text.slice(at, end), end };
}

/** Return a text whose escapes and entities stand for what they mean. */
export function unescaped(text) {
  return text.replace(ESCAPES, (all, escaped) => escaped ?? entity(all, 0)?.text ?? all);
}

/** Read an entity; return what it stands for and where it ends, or null. */
export function entity(text, at) {
  NAMED.lastIndex = at;
  const [all, decimal, hexadecimal, name] = NAMED.exec(text) ?? [];
  if (!all) return null;
  const end = at + all.length;
  if (!name) {
    const code = parseInt(decimal ?? hexadecimal, decimal ? 10 : 16);
    const bad = code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff);
    return { text: bad ? "\ufffd" : String.fromCodePoint(code), end };
  }
  // The browser knows their names. All that it reads here is one such name: letters and digits.
  const known = new DOMParser().parseFromString(all, "text/html").body.textContent;
  return known === all || known.endsWith(";") ? null : { text: known, end };
}

/**
 * Read an address that stands in the text by itself, at its mark: `https://`, `www.` or the `@` of an e-mail address,
 * which begins after `from` at the earliest. Return where it leads, where it begins and ends; no target if it is none.
 */
export function urlAt(text, at, mark, from) {
  if (mark === "@") return mailAt(text, at, from);
  const before = text[at - 1] ?? " ";
  const web = mark.toLowerCase() === "www.";
  if (web ? !/[\s\p{P}\p{S}]/u.test(before) : /[a-z]/i.test(before)) return null;
  ADDRESS.lastIndex = at + mark.length;
  const rest = ADDRESS.exec(text)[0];
  const stop = at + mark.length + (before === "<" && rest.includes(">") ? rest.indexOf(">") : rest.length);
  let end = stop;
  let depth = balance(text.slice(at, end));
  for (let found; (found = text.slice(Math.max(at, end - 40), end).match(TRAIL)); ) {
    if (found[0] === ")" && depth++ >= 0) break;
    end -= found[0].length;
  }
  const host = text.slice(at + mark.length, end).match(/^[\p{L}\p{N}_.-]*/u)[0];
  if (!host || !/^[^_]*$/.test(host.split(".").slice(-2).join("."))) return { end: stop };
  const url = text.slice(at, end);
  return { target: web ? `http://${url}` : url, begin: at, end };
}

/** How many more brackets are opened than closed. */
function balance(url) {
  let depth = 0;
  for (const letter of url) depth += letter === "(" ? 1 : letter === ")" ? -1 : 0;
  return depth;
}

function mailAt(text, at, from) {
  const name = text.slice(Math.max(from, at - 64), at).match(MAILBOX)?.[0];
  if (!name || text[at - name.length - 1] === "/") return null;
  HOST.lastIndex = at;
  if (!HOST.exec(text)) return null;
  const end = HOST.lastIndex;
  if (/[-_\d]/.test(text[end - 1])) return null;
  const begin = at - name.length;
  return { target: `mailto:${text.slice(begin, end)}`, begin, end };
}
