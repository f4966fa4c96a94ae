// The menu of an item: one for the page, shown where it was asked for.

import { $, button } from "./dom.js";

/** Show a menu at the button that opens it; each entry is a label and what it does. */
export function openMenu(opener, entries) {
  const menu = $("menu");
  const choose = (act) => () => (menu.hidePopover(), act());
  const made = ([label, act, className = ""]) => button(label, choose(act), { role: "menuitem", className });
  menu.replaceChildren(...entries.map(made));
  opener.closest(".panel").append(menu); // so that it is a part of that for a screen reader, too
  menu.showPopover();
  const [at, { offsetWidth: width, offsetHeight: height }] = [opener.getBoundingClientRect(), menu];
  const leftwards = getComputedStyle(opener).direction === "ltr";
  const left = leftwards ? at.right - width : at.left;
  menu.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  menu.style.top = `${at.bottom + height > innerHeight ? Math.max(4, at.top - height) : at.bottom}px`;
  menu.firstChild.focus();
}

export function startMenu() {
  const menu = $("menu");
  menu.onkeydown = (event) => {
    if (event.key === "Escape") return event.stopPropagation(); // it closes the menu, and stops nothing
    const entries = [...menu.children];
    const here = entries.indexOf(document.activeElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Tab") menu.hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    entries.at(to % entries.length).focus();
  };
  addEventListener("resize", () => menu.hidePopover());
}
