// Making elements. Text is only ever text: nothing here, nor anywhere else on this page, parses HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: properties, then children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function button(label, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, label);
}

/** Make a drawing of lines, 16 by 16. */
export function icon(lines) {
  const [svg, path] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", lines);
  svg.append(path);
  return svg;
}

export const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Put a text on the clipboard, also where the page came without TLS and has no `navigator.clipboard`. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const field = make("textarea", { className: "unseen", value: text });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!done) throw new Error("The browser refused to copy.");
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Make the element of a moment: the hour if it is today's, the day otherwise; all of it on hovering. */
export function moment(iso) {
  const date = new Date(iso);
  const short = dayOf(date) === dayOf(new Date()) ? TIME : DAY;
  return make("time", { dateTime: iso, title: MOMENT.format(date) }, short.format(date));
}

/** Return the day of a date where the browser is, as "2026-12-01". */
export function dayOf(date) {
  return [date.getFullYear(), date.getMonth() + 1, date.getDate()].map((n) => String(n).padStart(2, "0")).join("-");
}

/** Return the day so many days from now. */
export function dayFromNow(days) {
  const date = new Date();
  date.setDate(date.getDate() + days);
  return dayOf(date);
}
