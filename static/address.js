// Where one is: the address and the tab's title.

import { $ } from "./dom.js";
import { drafted, forgetDraft, saveDraft } from "./drafts.js";
import { drawerLeft } from "./drawers.js";
import { state } from "./state.js";

/** Return the conversation that the address names, or null. */
export function addressed() {
  return Number(new URLSearchParams(location.hash.slice(1)).get("conversation")) || null;
}

/**
 * Remember which conversation is shown, here and in the address. With `replacing` it takes the place of what was
 * shown in the history, or Back would lead to something that is not there any more. `carrying`: what is being written
 * is for this one now.
 */
export function enter(id, { replacing = false, carrying = false } = {}) {
  const first = state.conversation === undefined;
  const moved = state.conversation !== id;
  if (carrying) forgetDraft();
  state.conversation = id;
  if (carrying || (first && $("text").value)) saveDraft(); // whoever is quicker than the page has written already
  else if (moved) $("text").value = drafted();
  if (addressed() === id && !location.hash.includes("token")) return;
  const address = id === null ? location.pathname + location.search : `#conversation=${id}`;
  const over = replacing || history.state?.drawer; // a drawer's entry is that of what is opened from it
  history[over ? "replaceState" : "pushState"]({}, "", address);
}

/** Show the title of the conversation, here and in the tab, which says too if an answer has come unseen. */
export function showTitle(title = $("title").textContent) {
  $("title").textContent = title;
  document.title = `${state.news ? "● Answered: " : ""}${title} - To-do chat`;
}

/** An answer has come; whoever looks at something else is told by the tab's title. */
export function answered() {
  state.news = document.hidden;
  showTitle();
}

/** Follow Back and Forward, by `open`. */
export function startAddress(open) {
  addEventListener("popstate", () => {
    drawerLeft();
    if (location.hash.includes("token=")) location.reload(); // a link that signs in was opened here
    else if (addressed() !== state.conversation) open(addressed());
  });
  addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    state.news = false;
    showTitle();
  });
  $("text").addEventListener("input", saveDraft);
}
