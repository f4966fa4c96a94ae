// The messages of the conversation that is shown. What is shown already is not touched again.

import { Answer } from "./answer.js";
import { button, copy, $, make, moment } from "./dom.js";

/** Make the item of a question, from a stored message or from what is being sent. */
export function question({ id = null, content, created_at: at = new Date().toISOString() }) {
  const body = make("div", { className: "body", dir: "auto" }, content);
  const edit = button("Edit", null, { className: "edit-question", title: "Change this message, and ask again." });
  const foot = make("footer", { className: "foot" }, moment(at), edit);
  const element = make("li", { className: "question" }, make("h2", { className: "unseen" }, "You"), body, foot);
  element.said = content;
  name(element, id);
  return element;
}

function name(element, id) {
  if (id !== null) element.dataset.id = id;
}

/** Make the item of a stored message; `element.answer` is the Answer that it shows. */
function item(message) {
  if (message.role === "user") return question(message);
  const answer = Answer.of(message);
  answer.element.answer = answer;
  answer.element.source = source(message);
  name(answer.element, message.id);
  return answer.element;
}

/** What of a stored answer can change while it is shown. */
function source({ id, status, content }) {
  return [id, status, content.length].join();
}

/** Show a question and its answer below what is shown, or in the place of the last question and what follows it. */
export function append(content, answer, { replacing = null } = {}) {
  const asked = question({ content });
  answer.element.answer = answer;
  while (replacing?.nextSibling) replacing.nextSibling.remove();
  replacing?.remove();
  $("messages").append(asked, answer.element);
}

/** Show these messages and no others; built off the page, and put in at once. */
export function showAll(messages) {
  $("messages").replaceChildren(...messages.map(item));
}

/** Show these messages above the others. */
export function showEarlier(messages) {
  $("messages").prepend(...messages.map(item));
}

/** The last messages are these: give those that streamed here their ids and their end; return whether that was all. */
export function confirm(messages) {
  const shown = [...$("messages").children].slice(-messages.length);
  const same = shown.length === messages.length && messages.every((message, n) => isOf(shown[n], message));
  if (!same) return false;
  messages.forEach((message, n) => {
    const element = shown[n];
    name(element, message.id);
    if (!element.answer || message.status === "streaming" || element.source === source(message)) return;
    element.source = source(message);
    element.answer.end(message);
  });
  return true;
}

function isOf(element, message) {
  if (element.dataset.id && element.dataset.id !== String(message.id)) return false;
  if (message.role === "user") return element.className === "question" && element.said === message.content;
  if (element.source && !element.answer.live) return element.source === source(message);
  return element.answer?.said === message.content;
}

/** Show the last messages as they are stored now: only those that are new or other ones are made anew. */
export function update(messages) {
  const kept = new Map([...$("messages").children].map((element) => [element.dataset.id, element]));
  const first = messages[0]?.id ?? Infinity;
  const before = [...kept.values()].filter((element) => Number(element.dataset.id) < first);
  const after = messages.map((message) => {
    const old = kept.get(String(message.id));
    return old && isOf(old, message) && !old.answer?.live ? old : item(message);
  });
  const wanted = new Set([...before, ...after]);
  for (const old of [...$("messages").children]) if (!wanted.has(old)) old.remove();
  let fresh = false;
  for (const element of after) {
    fresh ||= !element.parentNode;
    if (fresh) $("messages").append(element); // one that is kept stays behind one that is made anew
  }
}

/** Whether a message is shown. */
export function isShown(id) {
  return $("messages").querySelector(`[data-id="${id}"]`) !== null;
}

/** The first id that is shown. */
export function firstId() {
  return $("messages").querySelector("[data-id]")?.dataset.id;
}

/** The answer of the last message, if that is one. */
export function lastAnswer() {
  return $("messages").lastElementChild?.answer ?? null;
}

/** Copy what a button of a message belongs to: a block of code, or a whole answer as it was written. */
export async function copyFor(pressed) {
  const code = pressed.closest(".code")?.querySelector("code");
  await copy(code ? code.textContent : pressed.closest(".answer").answer.said);
  if (pressed.textContent === "Copied") return;
  const before = pressed.textContent;
  pressed.textContent = "Copied";
  setTimeout(() => (pressed.textContent = before), 1500);
}

/** Put a field in the place of a question; `ask` gets what it says when it is sent. */
export function editQuestion(element, ask) {
  const body = element.querySelector(".body");
  const field = make("textarea", { value: element.said, ariaLabel: "Your message", dir: "auto" });
  const close = () => (form.replaceWith(body), element.querySelector(".edit-question").focus());
  const form = make("form", { className: "edit-message" }, field, make("button", {}, "Send"), button("Cancel", close));
  form.onsubmit = (event) => {
    event.preventDefault();
    if (field.value.trim()) ask(field.value);
  };
  form.onkeydown = (event) => {
    if (event.key === "Escape") (event.stopPropagation(), close());
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  body.replaceWith(form);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
