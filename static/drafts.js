// What is being written and was not sent yet: kept for this tab, by conversation, over reloads.

import { $ } from "./dom.js";
import { BASE, state } from "./state.js";

const PREFIX = `draft${BASE.pathname}`;

/** Return what was being written in the conversation that is shown. */
export function drafted() {
  return sessionStorage.getItem(key()) ?? "";
}

/** Keep what is in the text field. */
export function saveDraft() {
  sessionStorage.setItem(key(), $("text").value);
}

/** Forget what was being written in the conversation that is shown. */
export function forgetDraft() {
  sessionStorage.removeItem(key());
}

/** What is written from now on is this user's; forget what somebody else has left. */
export function writtenBy(user) {
  const owner = `${PREFIX}owner`;
  if ((sessionStorage.getItem(owner) ?? user) !== user) {
    forgetDrafts();
    $("text").value = "";
  }
  sessionStorage.setItem(owner, user);
}

/** Forget all of it: whoever signs in next is somebody else. */
export function forgetDrafts() {
  for (const name of Object.keys(sessionStorage)) {
    if (name.startsWith(PREFIX)) sessionStorage.removeItem(name);
  }
}

function key() {
  return PREFIX + (state.conversation ?? "new");
}
