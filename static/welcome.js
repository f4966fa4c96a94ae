// What a first visit sees: who answers here, and what one can try. Suggestions stay until they are used up.

import { json } from "./api.js";
import { $, button, make } from "./dom.js";
import { BASE, state } from "./state.js";

const SUGGESTIONS = ["add buy milk, call Ann", "show my open tasks", "complete the first one", "what can you do?"];
const USED = `suggestions${BASE.pathname}`; // how many of them are used, in the order that works

function left() {
  return SUGGESTIONS.slice(Number(localStorage.getItem(USED) ?? 0));
}

/** A message was sent: if it was the next suggestion, or a later one, that and what is before it is used. */
export function used(message) {
  const number = SUGGESTIONS.indexOf(message.trim());
  if (number >= 0 && SUGGESTIONS.length - number <= left().length) localStorage.setItem(USED, number + 1);
}

/** Show what belongs to what is shown: the welcome of a new conversation, and the suggestions that are left. */
export function showWelcome() {
  const empty = !$("messages").firstChild;
  $("welcome").hidden = !empty;
  const begun = left().length < SUGGESTIONS.length;
  $("suggestions").hidden = !left().length || state.stream !== null || !(empty || begun);
  const shown = [...$("suggestions").querySelectorAll(".suggestion")].map((one) => one.textContent);
  if (shown.join() === left().join()) return;
  const all = left().map((words) => button(words, null, { className: "suggestion", dir: "auto" }));
  const hide = button("×", () => (localStorage.setItem(USED, SUGGESTIONS.length), showWelcome(), $("text").focus()), {
    ariaLabel: "Hide the suggestions",
    className: "hide",
  });
  $("suggestions").replaceChildren(make("span", {}, "Try:"), ...all, hide);
}

/** Say which model answers. */
export async function showModel() {
  const { model, offline } = await json("GET", "api/model");
  state.offline = offline;
  $("model").textContent = offline ? "Offline demo model: a table of phrases, not an AI" : `Model: ${model}`;
  if (!offline) return;
  $("welcome-text").textContent =
    "The offline demo model answers here. It is a small table of phrases and not an AI. Try these, one by one:";
}
