// The keyboard.

import { send } from "./chat.js";
import { $ } from "./dom.js";
import { closeDrawer, openDrawer } from "./drawers.js";
import { stop } from "./following.js";
import { state } from "./state.js";

const COARSE = matchMedia("(pointer: coarse)");

/**
 * Do nothing at a key that is the input method's, which makes words of several keys: its Enter takes a word, its Esc
 * drops one. Safari sends that Enter when the composition is over already, and only 229 tells it from another one.
 */
function leaveToInputMethod(event) {
  if (!event.isComposing && event.keyCode !== 229) return;
  event.stopPropagation();
  if (event.key === "Enter") event.preventDefault(); // or it submits the field's form, or makes a new line
}

function inField(element) {
  return element.matches("input:not([type=checkbox]), textarea, select");
}

/** Esc closes what is open. It stops an answer, but not from within a field where somebody writes. */
function escape({ target }) {
  if (document.body.dataset.drawer) return closeDrawer();
  const writing = target.id !== "text" || (target.value && target.value !== state.unsent?.message);
  return inField(target) && writing ? null : stop();
}

function search() {
  openDrawer("conversations");
  $("search").focus();
  $("search").select();
}

function shortcut(event) {
  const { key, code, altKey, ctrlKey, metaKey } = event;
  if ((ctrlKey || metaKey) && !altKey && code === "KeyK") return search;
  if (altKey && !ctrlKey && !metaKey && code === "KeyN") return () => $("new").click();
  if (altKey && !ctrlKey && !metaKey && code === "KeyM") return () => (closeDrawer(), $("text").focus());
  if (key === "?" && !inField(event.target)) return () => $("shortcuts").showModal();
  return null;
}

export function startKeys() {
  document.addEventListener("keydown", leaveToInputMethod, true);
  document.addEventListener("keydown", (event) => {
    if ($("shortcuts").open) return; // Esc closes that, and nothing else
    if (event.key === "Escape") return escape(event);
    const act = shortcut(event);
    if (!act) return;
    event.preventDefault();
    act();
  });
  $("text").onkeydown = (event) => {
    const sends = COARSE.matches ? event.ctrlKey || event.metaKey : !event.shiftKey; // a telephone has no Shift+Enter
    if (event.key !== "Enter" || !sends) return;
    event.preventDefault();
    $("composer").requestSubmit();
  };
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    send($("text").value);
  };
  $("stop").onclick = () => stop().then(() => $("text").focus());
  $("skip").onclick = (event) => (event.preventDefault(), $("text").focus());
}
