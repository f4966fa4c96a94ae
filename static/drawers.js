// The panels of a narrow screen: drawers over the chat. Back closes one, as people expect of a telephone.

import { $ } from "./dom.js";
import { state } from "./state.js";

/** Whether a panel is a drawer at this width. */
function isDrawer(name) {
  return getComputedStyle($(name)).position === "fixed";
}

export function openDrawer(name) {
  if (!isDrawer(name)) return;
  if (!state.leaving) push(name);
  show(name);
  $(name).querySelector("button, input").focus();
}

function push(name) {
  history.pushState({ ...history.state, drawer: name }, "");
}

/** Close the open drawer, if there is one; its entry in the history goes too. */
export function closeDrawer() {
  if (!document.body.dataset.drawer) return;
  hide();
  if (state.leaving || !history.state?.drawer) return;
  state.leaving = true; // until the browser says so: a drawer that is opened before has no entry yet
  history.back();
}

/** An entry in the history was left: if by Back, with the drawer that was open there. */
export function drawerLeft() {
  const open = document.body.dataset.drawer;
  if (open && state.leaving) push(open);
  else if (open) hide();
  state.leaving = false;
}

function show(name) {
  document.body.dataset.drawer = name;
  $("backdrop").hidden = false;
  mark(name);
}

function hide() {
  const name = document.body.dataset.drawer;
  delete document.body.dataset.drawer;
  $("backdrop").hidden = true;
  mark(null);
  document.querySelector(`[data-open="${name}"]`).focus();
}

function mark(open) {
  for (const part of document.querySelectorAll("main, .panel")) part.inert = open !== null && part.id !== open;
  $(open ?? "composer").prepend($("undo")); // where it can be reached
  for (const opener of document.querySelectorAll("[data-open]")) {
    opener.setAttribute("aria-expanded", opener.dataset.open === open);
  }
}

export function startDrawers() {
  for (const opener of document.querySelectorAll("[data-open]")) opener.onclick = () => openDrawer(opener.dataset.open);
  for (const closer of document.querySelectorAll("[data-close]")) closer.onclick = closeDrawer;
  $("backdrop").onclick = closeDrawer;
  for (const width of ["60rem", "75rem"]) matchMedia(`(max-width: ${width})`).addEventListener("change", closeDrawer);
}
